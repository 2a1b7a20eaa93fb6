//! QUERY_DIRECTORY (MS-SMB2 3.3.5.18): a listing that goes on where the handle stands.
//!
//! The folder is read page by page behind a cookie, so a listing costs the same per entry however large
//! the folder is, and entries that appear or go meanwhile are met at most once.

use std::collections::VecDeque;

use sluice_smb_wire::NtStatus;
use sluice_smb_wire::cmd::query_directory::{
    QueryDirectoryRequest, REOPEN, RESTART_SCANS, RETURN_SINGLE_ENTRY,
};
use sluice_smb_wire::cmd::query_info::encode_buffer_head;
use sluice_smb_wire::codec::utf16le;
use sluice_smb_wire::fscc::directory::{DirectoryClass, DirectoryEntry, ListingWriter};
use sluice_smb_wire::fscc::wildcard::Pattern;
use sluice_smb_wire::names::{from_wire_name, to_wire_name};
use sluice_vfs::{AccessMask, Attributes, Cookie, VfsError};

use super::facts::{reparse_tag, stamp};
use super::{Answer, OpContext, OpReply, disk_of, need_any};
use crate::open::DiskOpen;

/// Entries fetched at once.
const PAGE: usize = 512;

/// Where a listing stands.
#[derive(Default)]
pub struct Scan {
    pattern: Option<Search>,
    /// 0: `.` is next, 1: `..` is next, 2: the entries.
    dots: u8,
    cookie: Cookie0,
    fetched: VecDeque<(String, Attributes)>,
    end: bool,
    /// Some entry was returned since the start.
    any: bool,
}

/// A cookie whose default is the position before the first entry.
struct Cookie0(Cookie);

impl Default for Cookie0 {
    fn default() -> Self {
        Cookie0(Cookie(0))
    }
}

/// What is searched for.
enum Search {
    /// One name: a lookup.
    Name(String),
    /// Names that match.
    Pattern(Pattern),
}

impl Search {
    fn new(text: &str) -> Self {
        if Pattern::has_wildcard(text) {
            Search::Pattern(Pattern::new(text))
        } else {
            Search::Name(from_wire_name(text))
        }
    }
}

/// Handles QUERY_DIRECTORY.
pub async fn handle(ctx: &OpContext) -> Answer {
    let request = QueryDirectoryRequest::decode(&ctx.message)?;
    let open = ctx.open(request.file_id)?;
    let disk = disk_of(&open)?;
    if !disk.open.is_directory() {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    let class = DirectoryClass::from_code(request.class).ok_or(NtStatus::INVALID_INFO_CLASS)?;
    if request.output_len > ctx.max_io() {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    need_any(disk, AccessMask::READ_DATA)?;
    if (request.output_len as usize) < class.fixed_len() {
        return Err(NtStatus::INFO_LENGTH_MISMATCH.into());
    }
    let mut scan = disk.scan.lock().await;
    prepare(&mut scan, &request)?;
    let limit = request.output_len as usize;
    let mut out = ListingWriter::new(class, limit);
    let single = request.flags & RETURN_SINGLE_ENTRY != 0;
    while let Some((name, attributes)) = next(&mut scan, disk).await? {
        if !push(&mut out, &name, &attributes) {
            scan.fetched.push_front((name, attributes));
            break;
        }
        scan.any = true;
        if single {
            break;
        }
    }
    if out.is_empty() {
        return Err(match (scan.fetched.is_empty(), scan.any) {
            (false, _) => NtStatus::INFO_LENGTH_MISMATCH,
            (true, true) => NtStatus::NO_MORE_FILES,
            (true, false) => NtStatus::NO_SUCH_FILE,
        }
        .into());
    }
    let body = out.finish();
    let head = encode_buffer_head(body.len() as u32);
    Ok(OpReply::ok(head).payload(body).file(open.id))
}

/// Starts over if the client says so, and takes the pattern with the first request.
fn prepare(scan: &mut Scan, request: &QueryDirectoryRequest) -> Result<(), NtStatus> {
    let reopen = request.flags & REOPEN != 0;
    let restart = reopen || request.flags & RESTART_SCANS != 0;
    let text = utf16le(&request.pattern).map_err(|_| NtStatus::OBJECT_NAME_INVALID)?;
    let text = text.ok_or(NtStatus::OBJECT_NAME_INVALID)?;
    if text.contains('\\') {
        return Err(NtStatus::OBJECT_NAME_INVALID);
    }
    if scan.pattern.is_none() || (restart && !text.is_empty()) {
        *scan = Scan {
            pattern: Some(Search::new(&text)),
            ..Scan::default()
        };
    } else if restart {
        *scan = Scan {
            pattern: scan.pattern.take(),
            ..Scan::default()
        };
    }
    Ok(())
}

/// The next entry that matches.
async fn next(scan: &mut Scan, disk: &DiskOpen) -> Result<Option<(String, Attributes)>, VfsError> {
    if let Some(Search::Name(name)) = &scan.pattern {
        return match scan.end {
            true => Ok(scan.fetched.pop_front()),
            false => {
                let found = lookup(disk, name).await?;
                scan.end = true;
                Ok(found)
            }
        };
    }
    loop {
        let Some((name, attributes)) = next_raw(scan, disk).await? else {
            return Ok(None);
        };
        let hit = match &scan.pattern {
            Some(Search::Pattern(pattern)) => pattern.is_all() || pattern.matches(&name),
            _ => true,
        };
        if hit {
            return Ok(Some((name, attributes)));
        }
    }
}

async fn lookup(disk: &DiskOpen, name: &str) -> Result<Option<(String, Attributes)>, VfsError> {
    let dir = disk.open.content().node;
    let found = match name {
        "." => disk.open.attributes().await,
        ".." => disk.tree.parent(dir).await,
        name => disk.tree.lookup(dir, name).await,
    };
    match found {
        Ok(attributes) => Ok(Some((to_wire_name(name), attributes))),
        Err(VfsError::NotFound | VfsError::NameInvalid | VfsError::NameTooLong) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The next entry in listing order: `.`, `..`, then the folder's.
async fn next_raw(
    scan: &mut Scan,
    disk: &DiskOpen,
) -> Result<Option<(String, Attributes)>, VfsError> {
    // What was fetched but did not fit comes first, the two dots included.
    if let Some(entry) = scan.fetched.pop_front() {
        return Ok(Some(entry));
    }
    let dir = disk.open.content().node;
    match scan.dots {
        0 => {
            scan.dots = 1;
            return Ok(Some((".".into(), disk.open.attributes().await?)));
        }
        1 => {
            scan.dots = 2;
            return Ok(Some(("..".into(), disk.tree.parent(dir).await?)));
        }
        _ => {}
    }
    while scan.fetched.is_empty() && !scan.end {
        let page = disk.tree.read_dir(dir, scan.cookie.0, PAGE).await?;
        if let Some(last) = page.entries.last() {
            scan.cookie = Cookie0(last.cookie);
        }
        scan.end = page.end || page.entries.is_empty();
        let entries = page.entries.into_iter();
        let shown = entries.map(|e| (to_wire_name(&e.name), e.attributes));
        scan.fetched.extend(shown);
    }
    Ok(scan.fetched.pop_front())
}

fn push(out: &mut ListingWriter, name: &str, attributes: &Attributes) -> bool {
    out.push(&DirectoryEntry {
        name,
        index: 0,
        stamp: stamp(attributes),
        ea_size: attributes.ea_size,
        reparse_tag: reparse_tag(attributes),
        file_id: attributes.id.0,
    })
}
