//! Names in folders: LOOKUP, CREATE, MKDIR, SYMLINK, MKNOD, REMOVE, RMDIR, RENAME, LINK.

use sluice_nfs_wire::nfs3::*;
use sluice_vfs::{
    Attributes as NodeAttributes, CreateMode, NewNode, NodeKind, RemoveKind, VfsError,
};

use super::nodes::{set_first, wcc_now};
use crate::call::{Call, Place};
use crate::{attr, status};

/// A name as the file layer takes it. Names are UTF-8 in the repository.
fn name(wire: &FileName) -> Result<&str, Status> {
    std::str::from_utf8(&wire.0).map_err(|_| Status::Inval)
}

/// RFC 1813 3.3.3. `..` of the share's root is the root itself: no handle leads out.
pub(super) async fn lookup(call: &Call<'_>, args: DirOpArgs) -> LookupRes {
    let dir = match call.place(&args.dir) {
        Ok(dir) => dir,
        Err(status) => return LookupRes::Fail(status, None),
    };
    let found = match name(&args.name) {
        Ok(".") => dir.tree.attributes(dir.node, false).await,
        Ok("..") => dir.tree.parent(dir.node).await,
        Ok(name) => dir.tree.lookup(dir.node, name).await,
        // No entry has a name that isn't UTF-8.
        Err(_) => Err(VfsError::NotFound),
    };
    let dir_attributes = dir.post_op().await;
    match found {
        Ok(found) => LookupRes::Ok(LookupOk {
            object: call.handle(dir.share, found.id),
            attributes: Some(attr::wire(dir.share, &found)),
            dir_attributes,
        }),
        Err(error) => LookupRes::Fail(status::nfs(&error), dir_attributes),
    }
}

/// A folder that is about to change.
struct Changing {
    place: Place,
    before: Option<NodeAttributes>,
}

impl Changing {
    async fn enter(call: &Call<'_>, dir: &FileHandle) -> Result<Self, Status> {
        let place = call.place(dir)?;
        let before = place.attributes().await;
        Ok(Self { place, before })
    }

    async fn wcc(self) -> WccData {
        wcc_now(&self.place, self.before).await
    }

    /// The result of a creating procedure.
    async fn created(self, call: &Call<'_>, made: Result<NodeAttributes, Status>) -> CreateRes {
        let share = self.place.share;
        let dir_wcc = self.wcc().await;
        match made {
            Ok(made) => CreateRes::Ok(CreateOk {
                object: Some(call.handle(share, made.id)),
                attributes: Some(attr::wire(share, &made)),
                dir_wcc,
            }),
            Err(status) => CreateRes::Fail(status, dir_wcc),
        }
    }
}

/// RFC 1813 3.3.8. An exclusive create is told from its own retry by the verifier that the file layer keeps.
pub(super) async fn create(call: &Call<'_>, args: CreateArgs) -> CreateRes {
    let dir = match Changing::enter(call, &args.target.dir).await {
        Ok(dir) => dir,
        Err(status) => return CreateRes::Fail(status, WccData::none()),
    };
    let made = create_in(&dir.place, &args).await;
    dir.created(call, made).await
}

async fn create_in(dir: &Place, args: &CreateArgs) -> Result<NodeAttributes, Status> {
    let name = name(&args.target.name)?;
    let none = SetAttributes::default();
    let (mode, set) = match &args.how {
        CreateHow::Unchecked(set) => {
            let truncate = set.size == Some(0);
            (CreateMode::Unchecked { truncate }, set)
        }
        CreateHow::Guarded(set) => (CreateMode::Guarded, set),
        CreateHow::Exclusive(verifier) => (CreateMode::Exclusive(*verifier), &none),
    };
    let made = dir
        .tree
        .create(dir.node, name, mode, new_node(None, set))
        .await;
    let made = made.map_err(|error| match error {
        // Made with another verifier, so made by somebody else.
        VfsError::NotSame => Status::Exist,
        error => status::nfs(&error),
    })?;
    match &args.how {
        CreateHow::Guarded(set) => set_first(dir, made, set).await,
        // An existing file keeps its attributes (as open(2) with O_CREAT), and exclusive creation states none.
        CreateHow::Unchecked(_) | CreateHow::Exclusive(_) => Ok(made),
    }
}

fn new_node(kind: Option<NodeKind>, set: &SetAttributes) -> NewNode {
    NewNode {
        kind,
        mode: set.mode.map(|m| m & 0o7777),
        ..NewNode::default()
    }
}

/// Common part of MKDIR, SYMLINK and MKNOD.
async fn make(call: &Call<'_>, target: &DirOpArgs, new: NewNode, set: &SetAttributes) -> CreateRes {
    let dir = match Changing::enter(call, &target.dir).await {
        Ok(dir) => dir,
        Err(status) => return CreateRes::Fail(status, WccData::none()),
    };
    let made = async {
        let name = name(&target.name)?;
        let made = dir.place.tree.make_node(dir.place.node, name, new).await;
        set_first(&dir.place, made.map_err(|e| status::nfs(&e))?, set).await
    };
    let made = made.await;
    dir.created(call, made).await
}

/// RFC 1813 3.3.9.
pub(super) async fn mkdir(call: &Call<'_>, args: MkdirArgs) -> CreateRes {
    let new = new_node(Some(NodeKind::Directory), &args.attributes);
    make(call, &args.target, new, &args.attributes).await
}

/// RFC 1813 3.3.10. The text is kept as it is and never followed by the server.
pub(super) async fn symlink(call: &Call<'_>, args: SymlinkArgs) -> CreateRes {
    let Ok(text) = std::str::from_utf8(&args.text.0) else {
        return CreateRes::Fail(Status::Inval, WccData::none());
    };
    let new = NewNode {
        link_target: Some(text.to_owned()),
        ..new_node(Some(NodeKind::Symlink), &args.attributes)
    };
    make(call, &args.target, new, &args.attributes).await
}

/// RFC 1813 3.3.11.
pub(super) async fn mknod(call: &Call<'_>, args: MknodArgs) -> CreateRes {
    let none = SpecData { major: 0, minor: 0 };
    let (kind, set, device) = match &args.what {
        MknodWhat::CharDevice(set, device) => (NodeKind::CharDevice, set, device),
        MknodWhat::BlockDevice(set, device) => (NodeKind::BlockDevice, set, device),
        MknodWhat::Socket(set) => (NodeKind::Socket, set, &none),
        MknodWhat::Fifo(set) => (NodeKind::Fifo, set, &none),
        MknodWhat::Other(_) => return CreateRes::Fail(Status::BadType, WccData::none()),
    };
    let new = NewNode {
        device: (device.major, device.minor),
        ..new_node(Some(kind), set)
    };
    make(call, &args.target, new, set).await
}

/// RFC 1813 3.3.12.
pub(super) async fn remove(call: &Call<'_>, args: DirOpArgs) -> WccRes {
    remove_kind(call, &args, RemoveKind::NotDirectory).await
}

/// RFC 1813 3.3.13.
pub(super) async fn rmdir(call: &Call<'_>, args: DirOpArgs) -> WccRes {
    remove_kind(call, &args, RemoveKind::Directory).await
}

async fn remove_kind(call: &Call<'_>, args: &DirOpArgs, kind: RemoveKind) -> WccRes {
    let dir = match Changing::enter(call, &args.dir).await {
        Ok(dir) => dir,
        Err(status) => return WccRes::Fail(status, WccData::none()),
    };
    let removed = match (name(&args.name), kind) {
        (Err(status), _) => Err(status),
        (Ok("."), RemoveKind::Directory) => Err(Status::Inval),
        (Ok(".."), RemoveKind::Directory) => Err(Status::Exist),
        (Ok(name), kind) => {
            let removed = dir.place.tree.remove(dir.place.node, name, kind).await;
            removed.map_err(|e| status::nfs(&e))
        }
    };
    match removed {
        Ok(()) => WccRes::Ok(dir.wcc().await),
        Err(status) => WccRes::Fail(status, dir.wcc().await),
    }
}

/// RFC 1813 3.3.14. Both folders have to be in one share.
pub(super) async fn rename(call: &Call<'_>, args: RenameArgs) -> RenameRes {
    let none = || RenameWcc {
        from: WccData::none(),
        to: WccData::none(),
    };
    let from = match Changing::enter(call, &args.from.dir).await {
        Ok(from) => from,
        Err(status) => return RenameRes::Fail(status, none()),
    };
    let to = match Changing::enter(call, &args.to.dir).await {
        Ok(to) => to,
        Err(status) => return RenameRes::Fail(status, none()),
    };
    let renamed = async {
        if from.place.share != to.place.share {
            return Err(Status::XDev);
        }
        let (old, new) = (name(&args.from.name)?, name(&args.to.name)?);
        let renamed = from
            .place
            .tree
            .rename(from.place.node, old, to.place.node, new, true)
            .await;
        renamed.map_err(|e| status::nfs(&e))
    };
    let renamed = renamed.await;
    let wcc = RenameWcc {
        from: from.wcc().await,
        to: to.wcc().await,
    };
    match renamed {
        Ok(()) => RenameRes::Ok(wcc),
        Err(status) => RenameRes::Fail(status, wcc),
    }
}

/// RFC 1813 3.3.15.
pub(super) async fn link(call: &Call<'_>, args: LinkArgs) -> LinkRes {
    let fail = |status| {
        LinkRes::Fail(
            status,
            LinkWcc {
                attributes: None,
                dir_wcc: WccData::none(),
            },
        )
    };
    let file = match call.place(&args.file) {
        Ok(file) => file,
        Err(status) => return fail(status),
    };
    let dir = match Changing::enter(call, &args.target.dir).await {
        Ok(dir) => dir,
        Err(status) => return fail(status),
    };
    let linked = async {
        if file.share != dir.place.share {
            return Err(Status::XDev);
        }
        let name = name(&args.target.name)?;
        let linked = file.tree.link(file.node, dir.place.node, name).await;
        linked.map_err(|e| status::nfs(&e))
    };
    let linked = linked.await;
    let dir_wcc = dir.wcc().await;
    match linked {
        Ok(after) => LinkRes::Ok(LinkWcc {
            attributes: Some(attr::wire(file.share, &after)),
            dir_wcc,
        }),
        Err(status) => LinkRes::Fail(
            status,
            LinkWcc {
                attributes: file.post_op().await,
                dir_wcc,
            },
        ),
    }
}
