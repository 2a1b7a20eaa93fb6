//! READDIR and READDIRPLUS: every entry once, whatever the page size, in step with changes.

use std::collections::HashSet;

use sluice_nfs_wire::nfs3::*;

use crate::client::{Client, at, created};
use crate::server::Server;

async fn page(client: &mut Client, dir: &FileHandle, cookie: u64, count: u32) -> ReaddirRes {
    let args = ReaddirArgs {
        dir: dir.clone(),
        cookie,
        verifier: [0; 8],
        count,
    };
    client.nfs(Procedure::Readdir, &args).await
}

/// All names and cookies, page by page.
async fn list(client: &mut Client, dir: &FileHandle, count: u32) -> Vec<(String, u64)> {
    let mut listed = Vec::new();
    let mut cookie = 0;
    loop {
        let ReaddirRes::Ok(ok) = page(client, dir, cookie, count).await else {
            panic!("a page");
        };
        for entry in ok.list.entries {
            cookie = entry.cookie;
            listed.push((
                String::from_utf8(entry.name.0.to_vec()).expect("UTF-8"),
                cookie,
            ));
        }
        if ok.list.eof {
            return listed;
        }
        assert!(listed.len() < 10_000, "the listing ends");
    }
}

#[tokio::test]
async fn every_entry_comes_once_whatever_the_page_size() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let dir = created(client.mkdir(&root, "many").await);
    for i in 0..150 {
        client.new_file(&dir, &format!("file-{i:04}")).await;
    }
    let mut expected: HashSet<String> = (0..150).map(|i| format!("file-{i:04}")).collect();
    expected.extend([".".to_owned(), "..".to_owned()]);
    for count in [300, 512, 4096, 1 << 20] {
        let listed = list(&mut client, &dir, count).await;
        let names: HashSet<String> = listed.iter().map(|(name, _)| name.clone()).collect();
        let cookies: HashSet<u64> = listed.iter().map(|(_, cookie)| *cookie).collect();
        assert_eq!(names, expected, "pages of {count}");
        assert_eq!(
            (listed.len(), cookies.len()),
            (152, 152),
            "pages of {count}"
        );
    }
}

#[tokio::test]
async fn a_page_keeps_to_its_bytes_or_is_refused() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let dir = created(client.mkdir(&root, "some").await);
    for i in 0..40 {
        client
            .new_file(&dir, &format!("a-rather-long-name-{i:04}"))
            .await;
    }
    let args = |maxcount, dircount| ReaddirplusArgs {
        dir: dir.clone(),
        cookie: 0,
        verifier: [0; 8],
        dircount,
        maxcount,
    };
    for maxcount in [1024, 2048, 8192] {
        let message = client.message(
            5,
            PROGRAM,
            VERSION,
            Procedure::Readdirplus as u32,
            &args(maxcount, 1 << 20),
        );
        client.send(&message).await;
        let reply = client.receive().await.expect("a reply");
        assert!(
            reply.len() - 24 <= maxcount as usize,
            "{} bytes for {maxcount}",
            reply.len() - 24
        );
    }
    let small: ReaddirplusRes = client.nfs(Procedure::Readdirplus, &args(64, 64)).await;
    assert_eq!(small.status(), Status::TooSmall);
    assert_eq!(
        page(&mut client, &dir, 0, 16).await.status(),
        Status::TooSmall
    );
    let ReaddirplusRes::Ok(one) = client.nfs(Procedure::Readdirplus, &args(8192, 1)).await else {
        panic!("dircount is only a hint");
    };
    assert_eq!(one.list.entries.len(), 1);
}

#[tokio::test]
async fn entries_with_attributes_are_what_lookup_and_getattr_say() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let dir = created(client.mkdir(&root, "dir").await);
    let file = client.new_file(&dir, "file").await;
    client
        .write(&file, 0, b"unstable but visible", Stability::Unstable)
        .await;
    let args = ReaddirplusArgs {
        dir: dir.clone(),
        cookie: 2,
        verifier: [0; 8],
        dircount: 4096,
        maxcount: 8192,
    };
    let ReaddirplusRes::Ok(ok) = client.nfs(Procedure::Readdirplus, &args).await else {
        panic!("a page");
    };
    assert!(ok.list.eof);
    let entry = &ok.list.entries[0];
    assert_eq!(entry.handle.as_ref(), Some(&file));
    let attributes = client.attributes(&file).await;
    assert_eq!(attributes.size, 20);
    let listed = entry.attributes.as_ref().expect("attributes");
    assert_eq!(
        (listed.size, listed.fileid),
        (attributes.size, attributes.fileid)
    );
}

#[tokio::test]
async fn a_listing_goes_on_after_its_entry_was_removed() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let dir = created(client.mkdir(&root, "dir").await);
    for name in ["a", "b", "c", "d"] {
        client.new_file(&dir, name).await;
    }
    let all = list(&mut client, &dir, 4096).await;
    let (removed, cookie) = all[3].clone();
    let done: WccRes = client.nfs(Procedure::Remove, &at(&dir, &removed)).await;
    assert_eq!(done.status(), Status::Ok);
    let ReaddirRes::Ok(rest) = page(&mut client, &dir, cookie, 4096).await else {
        panic!("a page");
    };
    let rest: Vec<u64> = rest.list.entries.iter().map(|e| e.cookie).collect();
    let expected: Vec<u64> = all[4..].iter().map(|(_, cookie)| *cookie).collect();
    assert_eq!(rest, expected);
}

#[tokio::test]
async fn only_folders_are_listed() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let file = client.new_file(&root, "file").await;
    assert_eq!(
        page(&mut client, &file, 0, 4096).await.status(),
        Status::NotDir
    );
}
