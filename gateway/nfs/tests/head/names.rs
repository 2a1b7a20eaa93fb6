//! Names in folders: creating, exclusive creating, linking, renaming, removing, and staying inside the share.

use sluice_nfs_wire::nfs3::*;
use sluice_nfs_wire::xdr::Opaque;

use crate::client::{Client, at, created, mode};
use crate::server::Server;

#[tokio::test]
async fn an_exclusive_create_recognises_its_own_retry_only() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let first = created(
        client
            .create(&root, "x", CreateHow::Exclusive(*b"verif--1"))
            .await,
    );
    client.write(&first, 0, b"data", Stability::FileSync).await;
    let again = created(
        client
            .create(&root, "x", CreateHow::Exclusive(*b"verif--1"))
            .await,
    );
    assert_eq!(first, again);
    assert_eq!(
        client.attributes(&again).await.size,
        4,
        "a retry takes nothing away"
    );
    let other = client
        .create(&root, "x", CreateHow::Exclusive(*b"verif--2"))
        .await;
    assert_eq!(other.status(), Status::Exist);
}

#[tokio::test]
async fn guarded_and_unchecked_creates_treat_an_existing_file_as_stated() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let file = client.new_file(&root, "x").await;
    client.write(&file, 0, b"data", Stability::FileSync).await;
    let guarded = client
        .create(&root, "x", CreateHow::Guarded(mode(0o600)))
        .await;
    assert_eq!(guarded.status(), Status::Exist);

    let kept = created(
        client
            .create(&root, "x", CreateHow::Unchecked(mode(0o600)))
            .await,
    );
    assert_eq!(kept, file);
    let attributes = client.attributes(&file).await;
    assert_eq!((attributes.size, attributes.mode), (4, 0o644));

    let truncate = SetAttributes {
        size: Some(0),
        ..SetAttributes::default()
    };
    created(
        client
            .create(&root, "x", CreateHow::Unchecked(truncate))
            .await,
    );
    assert_eq!(client.attributes(&file).await.size, 0);
}

#[tokio::test]
async fn a_new_file_belongs_to_its_caller() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let file = client.new_file(&root, "mine").await;
    let attributes = client.attributes(&file).await;
    assert_eq!((attributes.uid, attributes.gid), (1000, 1000));
    assert_eq!(
        (attributes.file_type, attributes.nlink, attributes.mode),
        (FileType::Regular, 1, 0o644)
    );
}

#[tokio::test]
async fn no_lookup_leads_out_of_the_share() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    for name in [".", ".."] {
        let LookupRes::Ok(found) = client.lookup(&root, name).await else {
            panic!("{name} is found");
        };
        assert_eq!(found.object, root);
    }
    for name in ["../..", "a/b", "..\0", "/etc"] {
        assert_ne!(
            client.lookup(&root, name).await.status(),
            Status::Ok,
            "{name:?}"
        );
        let made = client
            .create(&root, name, CreateHow::Guarded(mode(0o644)))
            .await;
        assert_ne!(made.status(), Status::Ok, "{name:?}");
    }
    let sub = created(client.mkdir(&root, "sub").await);
    let LookupRes::Ok(up) = client.lookup(&sub, "..").await else {
        panic!(".. is found");
    };
    assert_eq!(up.object, root);
}

#[tokio::test]
async fn names_that_cannot_be_are_refused() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let long = "n".repeat(256);
    let made = client
        .create(&root, &long, CreateHow::Guarded(mode(0o644)))
        .await;
    assert_eq!(made.status(), Status::NameTooLong);
    assert_eq!(
        client.lookup(&root, &long).await.status(),
        Status::NameTooLong
    );
    let args = CreateArgs {
        target: DirOpArgs {
            dir: root.clone(),
            name: FileName::copy_of([0xFF, 0xFE]),
        },
        how: CreateHow::Guarded(mode(0o644)),
    };
    let made: CreateRes = client.nfs(Procedure::Create, &args).await;
    assert_eq!(made.status(), Status::Inval);
}

#[tokio::test]
async fn symbolic_links_keep_their_text() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let args = SymlinkArgs {
        target: at(&root, "link"),
        attributes: mode(0o777),
        text: LinkText::copy_of("../outside/of everything"),
    };
    let link = created(client.nfs(Procedure::Symlink, &args).await);
    assert_eq!(client.attributes(&link).await.file_type, FileType::Symlink);
    let ReadlinkRes::Ok(read) = client
        .nfs(Procedure::Readlink, &ObjectArgs { object: link })
        .await
    else {
        panic!("the link is read");
    };
    assert_eq!(read.text, args.text);
    let ReadlinkRes::Fail(status, _) = client
        .nfs(Procedure::Readlink, &ObjectArgs { object: root })
        .await
    else {
        panic!("a folder is no link");
    };
    assert_eq!(status, Status::Inval);
}

#[tokio::test]
async fn pipes_and_sockets_can_be_made() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    for (name, what, kind) in [
        ("fifo", MknodWhat::Fifo(mode(0o600)), FileType::Fifo),
        ("socket", MknodWhat::Socket(mode(0o600)), FileType::Socket),
    ] {
        let args = MknodArgs {
            target: at(&root, name),
            what,
        };
        let node = created(client.nfs(Procedure::Mknod, &args).await);
        assert_eq!(client.attributes(&node).await.file_type, kind);
    }
    let args = MknodArgs {
        target: at(&root, "bad"),
        what: MknodWhat::Other(FileType::Directory),
    };
    let made: CreateRes = client.nfs(Procedure::Mknod, &args).await;
    assert_eq!(made.status(), Status::BadType);
}

#[tokio::test]
async fn a_hard_link_is_the_same_file() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let file = client.new_file(&root, "one").await;
    let args = LinkArgs {
        file: file.clone(),
        target: at(&root, "two"),
    };
    let LinkRes::Ok(linked) = client.nfs(Procedure::Link, &args).await else {
        panic!("linked");
    };
    assert_eq!(linked.attributes.expect("attributes").nlink, 2);
    let LookupRes::Ok(found) = client.lookup(&root, "two").await else {
        panic!("found");
    };
    assert_eq!(found.object, file);
    let removed: WccRes = client.nfs(Procedure::Remove, &at(&root, "one")).await;
    assert_eq!(removed.status(), Status::Ok);
    assert_eq!(client.attributes(&file).await.nlink, 1);
}

#[tokio::test]
async fn a_rename_replaces_its_target_and_keeps_the_handle() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let file = client.new_file(&root, "from").await;
    let old = client.new_file(&root, "to").await;
    let sub = created(client.mkdir(&root, "sub").await);
    let rename = |from: DirOpArgs, to: DirOpArgs| RenameArgs { from, to };
    let done: RenameRes = client
        .nfs(
            Procedure::Rename,
            &rename(at(&root, "from"), at(&root, "to")),
        )
        .await;
    assert_eq!(done.status(), Status::Ok);
    assert_eq!(client.getattr(&old).await.status(), Status::Stale);
    let done: RenameRes = client
        .nfs(
            Procedure::Rename,
            &rename(at(&root, "to"), at(&sub, "deep")),
        )
        .await;
    assert_eq!(done.status(), Status::Ok);
    let LookupRes::Ok(found) = client.lookup(&sub, "deep").await else {
        panic!("found");
    };
    assert_eq!(found.object, file);
    let into_itself: RenameRes = client
        .nfs(
            Procedure::Rename,
            &rename(at(&root, "sub"), at(&sub, "sub")),
        )
        .await;
    assert_eq!(into_itself.status(), Status::Inval);
}

#[tokio::test]
async fn folders_are_removed_by_rmdir_only_and_only_empty() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let sub = created(client.mkdir(&root, "sub").await);
    client.new_file(&sub, "file").await;
    let remove: WccRes = client.nfs(Procedure::Remove, &at(&root, "sub")).await;
    assert_eq!(remove.status(), Status::IsDir);
    let full: WccRes = client.nfs(Procedure::Rmdir, &at(&root, "sub")).await;
    assert_eq!(full.status(), Status::NotEmpty);
    let not_dir: WccRes = client.nfs(Procedure::Rmdir, &at(&sub, "file")).await;
    assert_eq!(not_dir.status(), Status::NotDir);
    let removed: WccRes = client.nfs(Procedure::Remove, &at(&sub, "file")).await;
    assert_eq!(removed.status(), Status::Ok);
    let gone: WccRes = client.nfs(Procedure::Rmdir, &at(&root, "sub")).await;
    assert_eq!(gone.status(), Status::Ok);
    assert_eq!(client.getattr(&sub).await.status(), Status::Stale);
    let dot: WccRes = client.nfs(Procedure::Rmdir, &at(&root, ".")).await;
    assert_eq!(dot.status(), Status::Inval);
}

#[tokio::test]
async fn directory_changes_come_with_consistency_data() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let before = client.attributes(&root).await;
    let CreateRes::Ok(made) = client
        .create(&root, "x", CreateHow::Guarded(mode(0o644)))
        .await
    else {
        panic!("created");
    };
    let wcc_before = made
        .dir_wcc
        .before
        .expect("nobody else was there, so the state before is known");
    assert_eq!(
        (wcc_before.mtime, wcc_before.ctime),
        (before.mtime, before.ctime)
    );
    assert_eq!(made.dir_wcc.after, Some(client.attributes(&root).await));
    assert_eq!(
        made.attributes.expect("attributes").fileid,
        client
            .attributes(&made.object.expect("handle"))
            .await
            .fileid
    );
}

#[tokio::test]
async fn access_follows_permissions() {
    let server = Server::start().await;
    let mut owner = Client::connect(server.address).await;
    let root = owner.root().await;
    let file = created(
        owner
            .create(&root, "private", CreateHow::Guarded(mode(0o640)))
            .await,
    );
    let all = ACCESS_READ
        | ACCESS_LOOKUP
        | ACCESS_MODIFY
        | ACCESS_EXTEND
        | ACCESS_DELETE
        | ACCESS_EXECUTE;
    let args = AccessArgs {
        object: file.clone(),
        access: all,
    };
    let AccessRes::Ok(granted) = owner.nfs(Procedure::Access, &args).await else {
        panic!("answered");
    };
    assert_eq!(granted.access, ACCESS_READ | ACCESS_MODIFY | ACCESS_EXTEND);
    let mut other = Client::connect_as(server.address, "client-a", 2000).await;
    let AccessRes::Ok(granted) = other.nfs(Procedure::Access, &args).await else {
        panic!("answered");
    };
    assert_eq!(granted.access, 0);
    let read = ReadArgs {
        file,
        offset: 0,
        count: 10,
    };
    let read: ReadRes = other.nfs(Procedure::Read, &read).await;
    assert_eq!(read.status(), Status::Acces);
}

#[tokio::test]
async fn setattr_honours_its_guard() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let file = client.new_file(&root, "x").await;
    let ctime = client.attributes(&file).await.ctime;
    let set = |guard, to| SetattrArgs {
        object: file.clone(),
        attributes: mode(to),
        guard: Some(guard),
    };
    let wrong = Time {
        seconds: 1,
        nanos: 1,
    };
    let refused: WccRes = client.nfs(Procedure::Setattr, &set(wrong, 0o600)).await;
    assert_eq!(refused.status(), Status::NotSync);
    let done: WccRes = client.nfs(Procedure::Setattr, &set(ctime, 0o600)).await;
    assert_eq!(done.status(), Status::Ok);
    assert_eq!(client.attributes(&file).await.mode, 0o600);
}

#[tokio::test]
async fn a_handle_too_long_for_the_protocol_is_garbage() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let long: Opaque<100> = Opaque::copy_of([7; 68]);
    let (head, _) = client
        .call(PROGRAM, VERSION, Procedure::Getattr as u32, &long)
        .await;
    assert_eq!(head, sluice_nfs_wire::rpc::ReplyHead::GarbageArgs);
}
