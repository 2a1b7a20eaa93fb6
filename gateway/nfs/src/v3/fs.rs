//! What a file system offers: FSSTAT, FSINFO, PATHCONF.

use sluice_nfs_wire::nfs3::*;

use super::TRANSFER_BYTES_MAX;
use crate::call::{Call, Place};
use crate::{attr, status};

/// Preferred size of a directory page.
const DIR_PREFERRED_BYTES: u32 = 64 * 1024;
/// Files are numbered in 64 bits; there is no table that could fill up.
const FILES_MAX: u64 = 1 << 48;
/// Largest document.
const FILE_SIZE_MAX: u64 = i64::MAX as u64;

/// The node of a handle and its attributes; these procedures fail without.
async fn enter(call: &Call<'_>, args: &ObjectArgs) -> Result<(Place, PostOpAttr), Status> {
    let place = call.place(&args.object)?;
    let found = place
        .tree
        .attributes(place.node, false)
        .await
        .map_err(|e| status::nfs(&e))?;
    let attributes = Some(attr::wire(place.share, &found));
    Ok((place, attributes))
}

/// RFC 1813 3.3.18.
pub(super) async fn fsstat(call: &Call<'_>, args: ObjectArgs) -> FsstatRes {
    let (place, attributes) = match enter(call, &args).await {
        Ok(entered) => entered,
        Err(status) => return FsstatRes::Fail(status, None),
    };
    match place.tree.space().await {
        Ok(space) => {
            let free_files = FILES_MAX.saturating_sub(space.nodes);
            FsstatRes::Ok(FsstatOk {
                attributes,
                total_bytes: space.total,
                free_bytes: space.free,
                available_bytes: space.free,
                total_files: FILES_MAX,
                free_files,
                available_files: free_files,
                invariant_seconds: 0,
            })
        }
        Err(error) => FsstatRes::Fail(status::nfs(&error), attributes),
    }
}

/// RFC 1813 3.3.19.
pub(super) async fn fsinfo(call: &Call<'_>, args: ObjectArgs) -> FsinfoRes {
    match enter(call, &args).await {
        Ok((_, attributes)) => FsinfoRes::Ok(FsinfoOk {
            attributes,
            read_max: TRANSFER_BYTES_MAX,
            read_preferred: TRANSFER_BYTES_MAX,
            read_multiple: 4096,
            write_max: TRANSFER_BYTES_MAX,
            write_preferred: TRANSFER_BYTES_MAX,
            write_multiple: 4096,
            readdir_preferred: DIR_PREFERRED_BYTES,
            file_size_max: FILE_SIZE_MAX,
            time_delta: Time {
                seconds: 0,
                nanos: 1,
            },
            properties: FSF_LINK | FSF_SYMLINK | FSF_HOMOGENEOUS | FSF_CANSETTIME,
        }),
        Err(status) => FsinfoRes::Fail(status, None),
    }
}

/// RFC 1813 3.3.20.
pub(super) async fn pathconf(call: &Call<'_>, args: ObjectArgs) -> PathconfRes {
    match enter(call, &args).await {
        Ok((_, attributes)) => PathconfRes::Ok(PathconfOk {
            attributes,
            link_max: 32_000,
            name_max: 255,
            no_trunc: true,
            chown_restricted: true,
            case_insensitive: false,
            case_preserving: true,
        }),
        Err(status) => PathconfRes::Fail(status, None),
    }
}
