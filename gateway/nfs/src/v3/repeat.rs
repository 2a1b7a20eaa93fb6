//! Replies to calls that were carried out before by another node, or by this one in an earlier life: success, with what is there now.

use sluice_nfs_wire::nfs3::*;

use super::nodes::wcc_now;
use crate::attr;
use crate::call::Call;

async fn wcc(call: &Call<'_>, node: &FileHandle) -> WccData {
    match call.place(node) {
        Ok(place) => wcc_now(&place, None).await,
        Err(_) => WccData::none(),
    }
}

/// CREATE, MKDIR, SYMLINK, MKNOD. Without a handle the client looks the name up.
pub(super) async fn created(call: &Call<'_>, target: DirOpArgs) -> CreateRes {
    let mut ok = CreateOk {
        object: None,
        attributes: None,
        dir_wcc: wcc(call, &target.dir).await,
    };
    if let (Ok(dir), Ok(name)) = (call.place(&target.dir), std::str::from_utf8(&target.name.0))
        && let Ok(made) = dir.tree.lookup(dir.node, name).await
    {
        ok.object = Some(call.handle(dir.share, made.id));
        ok.attributes = Some(attr::wire(dir.share, &made));
    }
    CreateRes::Ok(ok)
}

/// REMOVE, RMDIR, SETATTR.
pub(super) async fn changed(call: &Call<'_>, node: &FileHandle) -> WccRes {
    WccRes::Ok(wcc(call, node).await)
}

/// RENAME.
pub(super) async fn renamed(call: &Call<'_>, args: RenameArgs) -> RenameRes {
    RenameRes::Ok(RenameWcc {
        from: wcc(call, &args.from.dir).await,
        to: wcc(call, &args.to.dir).await,
    })
}

/// LINK.
pub(super) async fn linked(call: &Call<'_>, args: LinkArgs) -> LinkRes {
    let attributes = match call.place(&args.file) {
        Ok(file) => file.post_op().await,
        Err(_) => None,
    };
    LinkRes::Ok(LinkWcc {
        attributes,
        dir_wcc: wcc(call, &args.target.dir).await,
    })
}
