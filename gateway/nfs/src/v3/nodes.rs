//! Attributes, permissions and link texts of one node: GETATTR, SETATTR, ACCESS, READLINK.

use sluice_nfs_wire::nfs3::*;
use sluice_vfs::{AccessMask, AttributeChange, NodeKind};

use crate::call::{Call, Place};
use crate::{attr, status};

/// RFC 1813 3.3.1.
pub(super) async fn getattr(call: &Call<'_>, args: ObjectArgs) -> GetattrRes {
    let result = async {
        let place = call.place(&args.object)?;
        let found = place
            .tree
            .attributes(place.node, true)
            .await
            .map_err(|e| status::nfs(&e))?;
        Ok(attr::wire(place.share, &found))
    };
    match result.await {
        Ok(attributes) => GetattrRes::Ok(attributes),
        Err(status) => GetattrRes::Fail(status, ()),
    }
}

/// RFC 1813 3.3.2. A change of length is checked like a write.
pub(super) async fn setattr(call: &Call<'_>, args: SetattrArgs) -> WccRes {
    let place = match call.place(&args.object) {
        Ok(place) => place,
        Err(status) => return WccRes::Fail(status, WccData::none()),
    };
    let before = place.attributes().await;
    let guard = args.guard.as_ref();
    // The vfs compares the guard once more, atomically; here it is for guards that no timestamp equals.
    let result = match (
        attr::change(&args.attributes),
        guard.map(|g| attr::timestamp(g.seconds, g.nanos)),
    ) {
        (None, _) => Err(Status::Inval),
        (_, Some(None)) => Err(Status::NotSync),
        (Some(change), guard) => {
            let set = place.tree.set_attributes(
                place.node,
                change,
                args.attributes.size,
                guard.flatten(),
            );
            set.await.map_err(|e| status::nfs(&e))
        }
    };
    match result {
        Ok(after) => WccRes::Ok(attr::wcc(place.share, before.as_ref(), Some(&after))),
        Err(status) => WccRes::Fail(status, wcc_now(&place, before).await),
    }
}

/// Weak cache consistency of a node for which the operation has just ended.
pub(super) async fn wcc_now(place: &Place, before: Option<sluice_vfs::Attributes>) -> WccData {
    attr::wcc(
        place.share,
        before.as_ref(),
        place.attributes().await.as_ref(),
    )
}

/// What a bit of ACCESS means for a folder and for anything else.
const ACCESS_BITS: [(u32, u32, u32); 6] = [
    (ACCESS_READ, AccessMask::READ_DATA, AccessMask::READ_DATA),
    (ACCESS_LOOKUP, AccessMask::EXECUTE, 0),
    (
        ACCESS_MODIFY,
        AccessMask::WRITE_DATA,
        AccessMask::WRITE_DATA,
    ),
    (
        ACCESS_EXTEND,
        AccessMask::WRITE_DATA,
        AccessMask::APPEND_DATA,
    ),
    (ACCESS_DELETE, AccessMask::DELETE_CHILD, 0),
    (ACCESS_EXECUTE, 0, AccessMask::EXECUTE),
];

/// RFC 1813 3.3.4. LOOKUP and DELETE mean folders only, EXECUTE anything else.
pub(super) async fn access(call: &Call<'_>, args: AccessArgs) -> AccessRes {
    let result = async {
        let place = call.place(&args.object)?;
        let to_status = |e| status::nfs(&e);
        let found = place
            .tree
            .attributes(place.node, false)
            .await
            .map_err(to_status)?;
        let is_dir = found.kind == NodeKind::Directory;
        let rights = |dir, other| if is_dir { dir } else { other };
        let wanted = ACCESS_BITS
            .iter()
            .filter(|(bit, ..)| args.access & bit != 0)
            .fold(0, |mask, (_, dir, other)| mask | rights(*dir, *other));
        let granted = place
            .tree
            .access(place.node, AccessMask(wanted))
            .await
            .map_err(to_status)?;
        let access = ACCESS_BITS
            .iter()
            .filter(|(bit, dir, other)| {
                let right = rights(*dir, *other);
                args.access & bit != 0 && right != 0 && granted.has(right)
            })
            .fold(0, |access, (bit, ..)| access | bit);
        Ok(AccessOk {
            attributes: Some(attr::wire(place.share, &found)),
            access,
        })
    };
    match result.await {
        Ok(ok) => AccessRes::Ok(ok),
        Err(status) => AccessRes::Fail(status, None),
    }
}

/// RFC 1813 3.3.5.
pub(super) async fn readlink(call: &Call<'_>, args: ObjectArgs) -> ReadlinkRes {
    let place = match call.place(&args.object) {
        Ok(place) => place,
        Err(status) => return ReadlinkRes::Fail(status, None),
    };
    let text = place.tree.read_link(place.node).await;
    let attributes = place.post_op().await;
    match text {
        Ok(text) => ReadlinkRes::Ok(ReadlinkOk {
            attributes,
            text: LinkText::copy_of(text),
        }),
        Err(error) => ReadlinkRes::Fail(status::nfs(&error), attributes),
    }
}

/// Sets what a creating call asked for beyond mode, which the creation itself sets. Owner and group that the new node has
/// anyway are left alone, so that ordinary users may state themselves.
pub(super) async fn set_first(
    place: &Place,
    node: sluice_vfs::Attributes,
    set: &SetAttributes,
) -> Result<sluice_vfs::Attributes, Status> {
    let wanted = attr::change(set).ok_or(Status::Inval)?;
    let change = AttributeChange {
        mode: None,
        uid: wanted.uid.filter(|uid| *uid != node.uid),
        gid: wanted.gid.filter(|gid| *gid != node.gid),
        ..wanted
    };
    let size = set
        .size
        .filter(|size| node.kind == NodeKind::File && *size != node.size);
    if change == AttributeChange::default() && size.is_none() {
        return Ok(node);
    }
    let set = place.tree.set_attributes(node.id, change, size, None);
    set.await.map_err(|e| status::nfs(&e))
}
