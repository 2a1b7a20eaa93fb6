//! The workstation service: what the machine is called (MS-WKST 3.2.4.1).

use sluice_smb_wire::ndr::{FAULT_NDR, FAULT_OP_RANGE, NdrReader, NdrWriter};

use super::CallResult;
use crate::server::Server;

/// 6bffd098-a112-3610-9833-46c3f87e345a.
pub const INTERFACE: [u8; 16] = [
    0x98, 0xD0, 0xFF, 0x6B, 0x12, 0xA1, 0x10, 0x36, 0x98, 0x33, 0x46, 0xC3, 0xF8, 0x7E, 0x34, 0x5A,
];

const OP_GET_INFO: u16 = 0;
const ERROR_SUCCESS: u32 = 0;
const ERROR_INVALID_LEVEL: u32 = 124;
const PLATFORM_NT: u32 = 500;
const VERSION_MAJOR: u32 = 10;

/// Answers one operation.
pub fn call(server: &Server, opnum: u16, arguments: NdrReader<'_>) -> CallResult {
    match opnum {
        OP_GET_INFO => get_info(server, arguments).map_err(|_| FAULT_NDR),
        _ => Err(FAULT_OP_RANGE),
    }
}

/// NetrWkstaGetInfo, level 100: platform, names, version.
fn get_info(
    server: &Server,
    mut arguments: NdrReader<'_>,
) -> Result<NdrWriter, sluice_smb_wire::DecodeError> {
    arguments.unique_string()?;
    let level = arguments.u32()?;
    let mut out = NdrWriter::default();
    out.u32(level);
    if level != 100 {
        out.u32(0);
        out.u32(ERROR_INVALID_LEVEL);
        return Ok(out);
    }
    out.pointer();
    out.u32(PLATFORM_NT);
    out.pointer();
    out.pointer();
    out.u32(VERSION_MAJOR);
    out.u32(0);
    out.wide_string(server.vfs.node_name());
    out.wide_string("WORKGROUP");
    out.u32(ERROR_SUCCESS);
    Ok(out)
}
