//! The server service: list of shares, one share, the server, its clock (MS-SRVS 3.1.4).

use std::time::{SystemTime, UNIX_EPOCH};

use sluice_smb_wire::ndr::{FAULT_NDR, FAULT_OP_RANGE, NdrReader, NdrWriter};
use sluice_vfs::Protocol;

use super::CallResult;
use crate::server::Server;

/// 4b324fc8-1670-01d3-1278-5a47bf6ee188.
pub const INTERFACE: [u8; 16] = [
    0xC8, 0x4F, 0x32, 0x4B, 0x70, 0x16, 0xD3, 0x01, 0x12, 0x78, 0x5A, 0x47, 0xBF, 0x6E, 0xE1, 0x88,
];

const OP_SHARE_ENUM: u16 = 15;
const OP_SHARE_GET_INFO: u16 = 16;
const OP_SERVER_GET_INFO: u16 = 21;
const OP_REMOTE_TOD: u16 = 28;
const OP_SHARE_ENUM_STICKY: u16 = 36;

const ERROR_SUCCESS: u32 = 0;
const ERROR_INVALID_LEVEL: u32 = 124;
const NERR_NET_NAME_NOT_FOUND: u32 = 2310;

const TYPE_DISK: u32 = 0;
const TYPE_IPC_SPECIAL: u32 = 0x8000_0003;

/// Windows Server 2016 and later: what clients expect of a server of dialect 3.1.1.
const VERSION_MAJOR: u32 = 10;
/// SV_TYPE_WORKSTATION, SV_TYPE_SERVER, SV_TYPE_NT, SV_TYPE_SERVER_NT.
const SERVER_TYPE: u32 = 0x0000_9003;
const PLATFORM_NT: u32 = 500;

struct ShareRow {
    name: String,
    comment: String,
    kind: u32,
}

/// Answers one operation.
pub fn call(server: &Server, opnum: u16, arguments: NdrReader<'_>) -> CallResult {
    let bad = |_| FAULT_NDR;
    match opnum {
        OP_SHARE_ENUM | OP_SHARE_ENUM_STICKY => share_enum(server, arguments).map_err(bad),
        OP_SHARE_GET_INFO => share_get_info(server, arguments).map_err(bad),
        OP_SERVER_GET_INFO => server_get_info(server, arguments).map_err(bad),
        OP_REMOTE_TOD => Ok(remote_tod(server)),
        _ => Err(FAULT_OP_RANGE),
    }
}

fn rows(server: &Server) -> Vec<ShareRow> {
    let shares = server.vfs.shares(Protocol::Smb);
    let mut rows: Vec<ShareRow> = shares
        .iter()
        .map(|s| ShareRow {
            name: s.name.clone(),
            comment: s.comment.clone(),
            kind: TYPE_DISK,
        })
        .collect();
    rows.push(ShareRow {
        name: "IPC$".to_owned(),
        comment: "Remote IPC".to_owned(),
        kind: TYPE_IPC_SPECIAL,
    });
    rows
}

/// NetrShareEnum, levels 0 to 2 (MS-SRVS 3.1.4.8).
fn share_enum(
    server: &Server,
    mut arguments: NdrReader<'_>,
) -> Result<NdrWriter, sluice_smb_wire::DecodeError> {
    arguments.unique_string()?;
    let level = arguments.u32()?;
    let mut out = NdrWriter::default();
    out.u32(level);
    out.u32(level);
    if level > 2 {
        out.u32(0);
        out.u32(0);
        out.u32(0);
        out.u32(ERROR_INVALID_LEVEL);
        return Ok(out);
    }
    let rows = rows(server);
    out.pointer();
    out.u32(rows.len() as u32);
    out.pointer();
    out.u32(rows.len() as u32);
    for row in &rows {
        fixed(&mut out, row, level);
    }
    for row in &rows {
        referents(&mut out, row, level);
    }
    out.u32(rows.len() as u32);
    // No resume handle: the list is always whole.
    out.u32(0);
    out.u32(ERROR_SUCCESS);
    Ok(out)
}

/// SHARE_INFO_0, _1 and _2 without what their pointers lead to (MS-SRVS 2.2.4.22 to 2.2.4.24).
fn fixed(out: &mut NdrWriter, row: &ShareRow, level: u32) {
    const UNLIMITED: u32 = u32::MAX;
    out.pointer();
    if level >= 1 {
        out.u32(row.kind);
        out.pointer();
    }
    if level >= 2 {
        out.u32(0);
        out.u32(UNLIMITED);
        out.u32(0);
        out.pointer();
        out.u32(0);
    }
}

fn referents(out: &mut NdrWriter, row: &ShareRow, level: u32) {
    out.wide_string(&row.name);
    if level >= 1 {
        out.wide_string(&row.comment);
    }
    if level >= 2 {
        // The path on the server is nobody's business; clients only want one to be there.
        out.wide_string("C:\\");
    }
}

/// NetrShareGetInfo, levels 0 to 2 and 1005 (MS-SRVS 3.1.4.10).
fn share_get_info(
    server: &Server,
    mut arguments: NdrReader<'_>,
) -> Result<NdrWriter, sluice_smb_wire::DecodeError> {
    const FLAGS_LEVEL: u32 = 1005;
    arguments.unique_string()?;
    let name = arguments.wide_string()?;
    let level = arguments.u32()?;
    let mut out = NdrWriter::default();
    out.u32(level);
    let found = rows(server)
        .into_iter()
        .find(|r| r.name.eq_ignore_ascii_case(&name));
    let status = match (found, level) {
        (Some(row), 0..=2) => {
            out.pointer();
            fixed(&mut out, &row, level);
            referents(&mut out, &row, level);
            ERROR_SUCCESS
        }
        (Some(_), FLAGS_LEVEL) => {
            out.pointer();
            out.u32(0);
            ERROR_SUCCESS
        }
        (Some(_), _) => {
            out.u32(0);
            ERROR_INVALID_LEVEL
        }
        (None, _) => {
            out.u32(0);
            NERR_NET_NAME_NOT_FOUND
        }
    };
    out.u32(status);
    Ok(out)
}

/// NetrServerGetInfo, levels 100 and 101 (MS-SRVS 3.1.4.17).
fn server_get_info(
    server: &Server,
    mut arguments: NdrReader<'_>,
) -> Result<NdrWriter, sluice_smb_wire::DecodeError> {
    arguments.unique_string()?;
    let level = arguments.u32()?;
    let mut out = NdrWriter::default();
    out.u32(level);
    if !matches!(level, 100 | 101) {
        out.u32(0);
        out.u32(ERROR_INVALID_LEVEL);
        return Ok(out);
    }
    out.pointer();
    out.u32(PLATFORM_NT);
    out.pointer();
    if level == 101 {
        out.u32(VERSION_MAJOR);
        out.u32(0);
        out.u32(SERVER_TYPE);
        out.pointer();
    }
    out.wide_string(server.vfs.node_name());
    if level == 101 {
        out.wide_string("Sluice");
    }
    out.u32(ERROR_SUCCESS);
    Ok(out)
}

/// NetrRemoteTOD: the clock in UTC (MS-SRVS 3.1.4.21, 2.2.4.105).
fn remote_tod(server: &Server) -> NdrWriter {
    const DAY: u64 = 86_400;
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let up = now.duration_since(server.started).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = civil_date(seconds / DAY);
    let mut out = NdrWriter::default();
    out.pointer();
    out.u32(seconds as u32);
    out.u32(up.as_millis() as u32);
    out.u32((seconds % DAY / 3600) as u32);
    out.u32((seconds % 3600 / 60) as u32);
    out.u32((seconds % 60) as u32);
    out.u32(since.subsec_millis() / 10);
    out.u32(0);
    // tod_tinterval: a tick of 1/32 s in 0.1 ms.
    out.u32(310);
    out.u32(day);
    out.u32(month);
    out.u32(year);
    out.u32(((seconds / DAY + 4) % 7) as u32);
    out.u32(ERROR_SUCCESS);
    out
}

/// Year, month and day of a day since 1970 (Gregorian calendar, counted in eras of 400 years from March).
fn civil_date(days: u64) -> (u32, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year as u32, month as u32, day as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates_over_leap_years() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(11_016), (2000, 2, 29));
        assert_eq!(civil_date(11_017), (2000, 3, 1));
        assert_eq!(civil_date(19_723), (2024, 1, 1));
    }
}
