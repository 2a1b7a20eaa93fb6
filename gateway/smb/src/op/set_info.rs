//! SET_INFO (MS-SMB2 3.3.5.21): attributes, times, sizes, names, deletion, extended attributes, security.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use sluice_smb_wire::NtStatus;
use sluice_smb_wire::cmd::query_info::{INFO_FILE, INFO_FILESYSTEM, INFO_QUOTA, INFO_SECURITY};
use sluice_smb_wire::cmd::set_info::{SetInfoRequest, encode_response};
use sluice_smb_wire::codec::{Reader, utf16le};
use sluice_smb_wire::fscc::set::{self, BasicChange, NewName, TimeChange};
use sluice_smb_wire::fscc::{ATTR_DIRECTORY, ATTR_TEMPORARY, ea, file, fs};
use sluice_smb_wire::names::{PathError, SmbPath};
use sluice_vfs::{
    AccessMask, AttributeChange, CacheRequest, Disposition, DosAttributes, ExtendedAttribute,
    NewNode, NodeType, Open, OpenFlags, OpenRequest, RelPath, ShareMode, Target, Timestamp,
    VfsError,
};

use super::create_request::path_status;
use super::facts::timestamp;
use super::{Answer, OpContext, OpReply, disk_of, need_any, security};
use crate::open::{DiskOpen, SmbOpen};

/// Handles SET_INFO.
pub async fn handle(ctx: &OpContext) -> Answer {
    let request = SetInfoRequest::decode(&ctx.message)?;
    let open = ctx.open(request.file_id)?;
    let disk = disk_of(&open)?;
    ctx.check_channel_sequence(disk)?;
    match request.info_type {
        INFO_FILE => file_info(ctx, &open, disk, &request).await?,
        INFO_FILESYSTEM => return Err(fs_status(request.class).into()),
        INFO_SECURITY => security::set(disk, &request.data, request.additional).await?,
        INFO_QUOTA => return Err(NtStatus::INVALID_DEVICE_REQUEST.into()),
        _ => return Err(NtStatus::INVALID_PARAMETER.into()),
    }
    Ok(OpReply::ok(encode_response()).file(open.id))
}

/// Volumes have no label, quota or object id of their own that a client could set.
fn fs_status(class: u8) -> NtStatus {
    match class {
        2 => NtStatus::ACCESS_DENIED,
        fs::CONTROL | fs::OBJECT_ID => NtStatus::INVALID_DEVICE_REQUEST,
        _ => NtStatus::INVALID_INFO_CLASS,
    }
}

async fn file_info(
    ctx: &OpContext,
    open: &SmbOpen,
    disk: &DiskOpen,
    request: &SetInfoRequest,
) -> Result<(), OpReply> {
    let data = &request.data;
    let len_mismatch = |_| NtStatus::INFO_LENGTH_MISMATCH;
    match request.class {
        file::BASIC => set_basic(disk, data).await,
        set::RENAME | set::RENAME_EX => rename(ctx, open, disk, data).await,
        set::LINK => link(ctx, open, disk, data).await,
        set::DISPOSITION => {
            let delete = Reader::new(data).u8().map_err(len_mismatch)? != 0;
            dispose(disk, delete).await
        }
        set::DISPOSITION_EX => {
            let flags = Reader::new(data).u32().map_err(len_mismatch)?;
            dispose(disk, flags & set::DISPOSITION_DELETE != 0).await
        }
        set::ALLOCATION => {
            need_any(disk, AccessMask::WRITE_DATA)?;
            let size = size(disk, data)?;
            disk.open.set_allocation(size).await?;
            disk.reserved.store(size, Relaxed);
            Ok(())
        }
        set::END_OF_FILE => {
            need_any(disk, AccessMask::WRITE_DATA)?;
            let size = size(disk, data)?;
            disk.open.set_size(size).await?;
            disk.reserved.store(0, Relaxed);
            Ok(())
        }
        set::VALID_DATA_LENGTH => need_any(disk, AccessMask::WRITE_DATA).map_err(OpReply::from),
        file::POSITION => {
            let at = set::decode_size(data).map_err(|_| NtStatus::INVALID_PARAMETER)?;
            disk.position.store(at, Relaxed);
            Ok(())
        }
        file::MODE => set_mode(disk, data),
        file::FULL_EA => set_eas(disk, data).await,
        set::SHORT_NAME => Err(NtStatus::INVALID_PARAMETER.into()),
        _ => Err(NtStatus::INVALID_INFO_CLASS.into()),
    }
}

fn size(disk: &DiskOpen, data: &Bytes) -> Result<u64, NtStatus> {
    if data.len() < 8 {
        return Err(NtStatus::INFO_LENGTH_MISMATCH);
    }
    if disk.is_folder() {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    set::decode_size(data).map_err(|_| NtStatus::INVALID_PARAMETER)
}

/// FileModeInformation: only these bits can be set after the open (MS-FSA 2.1.5.14.8).
fn set_mode(disk: &DiskOpen, data: &Bytes) -> Result<(), OpReply> {
    const SETTABLE: u32 = 0x0000_003E;
    let mode = Reader::new(data)
        .u32()
        .map_err(|_| NtStatus::INFO_LENGTH_MISMATCH)?;
    if mode & !SETTABLE != 0 {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    disk.mode.store(mode, Relaxed);
    Ok(())
}

async fn set_basic(disk: &DiskOpen, data: &Bytes) -> Result<(), OpReply> {
    need_any(disk, AccessMask::WRITE_ATTRIBUTES)?;
    if data.len() < 36 {
        return Err(NtStatus::INFO_LENGTH_MISMATCH.into());
    }
    let change = BasicChange::decode(data)?;
    let folder = disk.open.is_directory();
    if change.attributes & ATTR_DIRECTORY != 0 && !folder
        || change.attributes & ATTR_TEMPORARY != 0 && folder
    {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    let times = [change.accessed, change.written, change.changed];
    if times.iter().any(|t| frozen(*t).is_some()) {
        let [accessed, modified, changed] = times.map(frozen);
        disk.open.freeze_times(accessed, modified, changed);
    }
    let update = AttributeChange {
        created: new_time(change.created),
        accessed: new_time(change.accessed),
        modified: new_time(change.written),
        changed: new_time(change.changed),
        dos: dos_change(change.attributes, disk).await?,
        ..AttributeChange::default()
    };
    if update != AttributeChange::default() {
        disk.open.set_attributes(update).await?;
    }
    Ok(())
}

/// The stored bits; SPARSE is kept, because only FSCTL_SET_SPARSE changes it. Zero changes nothing.
async fn dos_change(attributes: u32, disk: &DiskOpen) -> Result<Option<DosAttributes>, VfsError> {
    if attributes == 0 {
        return Ok(None);
    }
    let settable = DosAttributes::STORED & !DosAttributes::SPARSE;
    let kept = disk.open.attributes().await?.dos.0 & DosAttributes::SPARSE;
    Ok(Some(DosAttributes(attributes & settable | kept)))
}

fn frozen(change: TimeChange) -> Option<bool> {
    match change {
        TimeChange::Freeze => Some(true),
        TimeChange::Thaw => Some(false),
        TimeChange::Keep | TimeChange::Set(_) => None,
    }
}

fn new_time(change: TimeChange) -> Option<Timestamp> {
    match change {
        TimeChange::Set(time) => Some(timestamp(time)),
        _ => None,
    }
}

async fn dispose(disk: &DiskOpen, delete: bool) -> Result<(), OpReply> {
    need_any(disk, AccessMask::DELETE)?;
    Ok(disk.open.set_delete_pending(delete).await?)
}

async fn rename(
    ctx: &OpContext,
    open: &SmbOpen,
    disk: &DiskOpen,
    data: &Bytes,
) -> Result<(), OpReply> {
    need_any(disk, AccessMask::DELETE)?;
    let new = new_name(data)?;
    let text = utf16le(&new.name).ok().flatten();
    let text = text.ok_or(NtStatus::OBJECT_NAME_INVALID)?;
    if text.starts_with(':') {
        let path = SmbPath::parse(&text).map_err(path_status)?;
        // `::$DATA` would make the stream the document's content, which no client needs.
        let stream = path.stream.ok_or(NtStatus::OBJECT_NAME_INVALID)?;
        return Ok(disk.open.rename_stream(&stream, new.replace).await?);
    }
    let path = target_path(&text)?;
    if disk.open.content().stream != 0 {
        return Err(NtStatus::SHARING_VIOLATION.into());
    }
    let _guard = folder_guard(disk, &path).await?;
    let work = disk.open.rename(Target::Path(path), new.replace);
    let done = ctx.interruptible(&open.closed, NtStatus::FILE_CLOSED, work);
    done.await.map_err(|status| rename_status(status).into())
}

/// Holds the target's folder open while a name goes into it, as Windows does: a handle that was opened for the
/// folder's deletion is a sharing violation (MS-FSA 2.1.5.14.11). Folders that
/// move, and callers who may not list the folder, need no guard.
async fn folder_guard(disk: &DiskOpen, path: &RelPath) -> Result<Option<Arc<Open>>, OpReply> {
    let Some((folder, _)) = path.split_last().filter(|_| !disk.is_folder()) else {
        return Ok(None);
    };
    let request = OpenRequest {
        target: Target::Path(folder),
        stream: None,
        access: AccessMask(AccessMask::READ_DATA),
        share: ShareMode {
            delete: false,
            ..ShareMode::ALL
        },
        disposition: Disposition::Open,
        node_type: NodeType::Directory,
        new: NewNode::default(),
        flags: OpenFlags::default(),
        cache: CacheRequest::None,
        listener: None,
    };
    match disk.tree.open(request).await {
        Ok(opened) => Ok(Some(opened.open)),
        Err(VfsError::AccessDenied) => Ok(None),
        Err(VfsError::NotFound) => Err(NtStatus::OBJECT_PATH_NOT_FOUND.into()),
        Err(error) => Err(error.into()),
    }
}

/// A target that is a folder can't be replaced (MS-FSA 2.1.5.14.11).
fn rename_status(status: NtStatus) -> NtStatus {
    match status {
        NtStatus::FILE_IS_A_DIRECTORY | NtStatus::NOT_A_DIRECTORY => NtStatus::ACCESS_DENIED,
        other => other,
    }
}

async fn link(
    ctx: &OpContext,
    open: &SmbOpen,
    disk: &DiskOpen,
    data: &Bytes,
) -> Result<(), OpReply> {
    if disk.open.is_directory() {
        return Err(NtStatus::FILE_IS_A_DIRECTORY.into());
    }
    let new = new_name(data)?;
    let text = utf16le(&new.name).ok().flatten();
    let path = target_path(&text.ok_or(NtStatus::OBJECT_NAME_INVALID)?)?;
    let work = disk.open.link(Target::Path(path), new.replace);
    ctx.interruptible(&open.closed, NtStatus::FILE_CLOSED, work)
        .await
        .map_err(OpReply::from)
}

fn new_name(data: &Bytes) -> Result<NewName, NtStatus> {
    let new = NewName::decode(data).map_err(|_| NtStatus::INFO_LENGTH_MISMATCH)?;
    if new.root != 0 {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    if new.name.is_empty() {
        return Err(NtStatus::OBJECT_NAME_INVALID);
    }
    Ok(new)
}

/// The new path; some clients put a backslash before it.
fn target_path(text: &str) -> Result<RelPath, NtStatus> {
    let path = SmbPath::parse(text.strip_prefix('\\').unwrap_or(text)).map_err(path_status)?;
    if path.stream.is_some() {
        // A document can't become a stream, nor a stream move to another document.
        return Err(NtStatus::SHARING_VIOLATION);
    }
    if path.components.is_empty() {
        return Err(path_status(PathError::BadName));
    }
    RelPath::from_components(path.components).map_err(|e| crate::status::status_of(&e))
}

async fn set_eas(disk: &DiskOpen, data: &Bytes) -> Result<(), OpReply> {
    need_any(disk, AccessMask::WRITE_EA)?;
    let list = ea::decode_full(data).map_err(|_| NtStatus::EA_LIST_INCONSISTENT)?;
    Ok(disk.open.set_eas(own_eas(list)?).await?)
}

/// Attributes of a client's list, their names checked (MS-FSCC 2.4.15).
pub(super) fn own_eas(list: Vec<ea::Ea>) -> Result<Vec<ExtendedAttribute>, NtStatus> {
    let bad = |name: &str| {
        name.is_empty()
            || name
                .chars()
                .any(|c| c < ' ' || "\"*+,/:;<=>?[\\]|".contains(c))
    };
    if list.iter().any(|e| bad(&e.name)) {
        return Err(NtStatus::INVALID_EA_NAME);
    }
    let own = list.into_iter().map(|e| ExtendedAttribute {
        name: e.name,
        value: e.value.to_vec(),
    });
    Ok(own.collect())
}
