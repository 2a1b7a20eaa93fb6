//! Rules about the records of the administration, and about checking.

use bytes::Bytes;
use sluice_repo::{
    CaseMode, Group, LastLink, NameRef, NodeId, NtHash, OnConflict, PasswordVerifier, PolicyRule,
    ROOT, Replace, RepoError, Repository, Share, ShareId, ShareProtocols, Sid, Squash, User,
    UserId,
};

use crate::tools::*;

fn user(name: &str, uid: u32) -> User {
    User {
        id: UserId(0),
        name: name.into(),
        uid,
        gid: 100,
        groups: vec!["staff".into()],
        sid: Sid(format!("S-1-5-21-1-2-3-{uid}")),
        admin: false,
        disabled: false,
        nt_hash: Some(NtHash([7; 16])),
        verifier: Some(PasswordVerifier("$argon2id$secret".into())),
    }
}

fn share(name: &str) -> Share {
    Share {
        id: ShareId(0),
        name: name.into(),
        comment: String::new(),
        root: ROOT,
        protocols: ShareProtocols {
            smb: true,
            nfs: true,
            ftp: true,
        },
        read_only: false,
        hidden: false,
        smb_encrypt: false,
        case: CaseMode::Insensitive,
        insensitive_everywhere: false,
        nfs_clients: vec!["127.0.0.0/8".into()],
        squash: Squash::Root,
        anonymous_uid: 65534,
        anonymous_gid: 65534,
        nfs_mandatory_locks: false,
        quota_bytes: None,
        versions: None,
    }
}

/// Numbers are given, names, uids and SIDs unique, changes counted, secrets not shown.
pub async fn users_groups_shares_and_rules_are_kept(repo: &dyn Repository) {
    let before = repo.records_generation();
    let ann = repo.put_user(user("Ann", 1000)).await.expect("user");
    assert!(ann.id.0 != 0 && repo.records_generation() > before);
    assert!(!format!("{ann:?}").contains("secret") && !format!("{ann:?}").contains("7, 7"));
    assert_eq!(
        repo.put_user(user("ANN", 1001)).await,
        Err(RepoError::Exists)
    );
    assert_eq!(
        repo.put_user(user("bob", 1000)).await,
        Err(RepoError::Exists)
    );
    let bob = repo.put_user(user("bob", 1001)).await.expect("bob");
    let renamed = User {
        name: "anna".into(),
        ..ann.clone()
    };
    repo.put_user(renamed.clone()).await.expect("change");
    assert_eq!(repo.users().await, Ok(vec![renamed, bob.clone()]));
    repo.remove_user(bob.id).await.expect("remove");
    assert_eq!(repo.remove_user(bob.id).await, Err(RepoError::NotFound));
    let carl = repo.put_user(user("carl", 1001)).await.expect("carl");
    assert!(carl.id.0 > bob.id.0, "numbers are not reused");

    let group = |name: &str, gid| Group {
        name: name.into(),
        gid,
        sid: Sid(format!("S-1-5-21-1-2-3-{gid}")),
    };
    repo.put_group(group("staff", 100)).await.expect("group");
    assert_eq!(
        repo.put_group(group("other", 100)).await,
        Err(RepoError::Exists)
    );
    repo.put_group(group("STAFF", 101)).await.expect("change");
    assert_eq!(repo.groups().await, Ok(vec![group("STAFF", 101)]));
    repo.remove_group("staff").await.expect("remove");

    let docs = repo.put_share(share("docs")).await.expect("share");
    assert_eq!(repo.put_share(share("DOCS")).await, Err(RepoError::Exists));
    repo.put_share(Share {
        read_only: true,
        ..docs.clone()
    })
    .await
    .expect("change");
    assert_eq!(repo.shares().await.map(|s| s[0].read_only), Ok(true));
    repo.remove_share(docs.id).await.expect("remove");
    assert_eq!(repo.shares().await, Ok(vec![]));

    let rule = PolicyRule {
        id: 0,
        share: Some("docs".into()),
        path: None,
        protocol: None,
        user: None,
        group: None,
        client: None,
        write: None,
        writers: None,
        on_conflict: Some(OnConflict::Fork),
        wait_ms: Some(10_000),
    };
    let one = repo.put_policy(rule.clone()).await.expect("rule");
    let two = repo.put_policy(rule).await.expect("rule");
    assert_eq!(repo.policies().await, Ok(vec![one.clone(), two]));
    repo.remove_policy(one.id).await.expect("remove");
    assert_eq!(repo.policies().await.map(|p| p.len()), Ok(1));
}

/// Keys are made once, counters only grow.
pub async fn settings_and_counters_are_kept(repo: &dyn Repository) {
    assert_eq!(repo.setting("key").await, Ok(None));
    assert_eq!(
        repo.setting_or("key", Bytes::from_static(b"a")).await,
        Ok(Bytes::from_static(b"a"))
    );
    assert_eq!(
        repo.setting_or("key", Bytes::from_static(b"b")).await,
        Ok(Bytes::from_static(b"a"))
    );
    repo.put_setting("key", Bytes::from_static(b"c"))
        .await
        .expect("put");
    assert_eq!(
        repo.setting("key").await,
        Ok(Some(Bytes::from_static(b"c")))
    );
    assert_eq!(
        (
            repo.next_counter("boot").await,
            repo.next_counter("boot").await
        ),
        (Ok(1), Ok(2))
    );
    assert_eq!(repo.next_counter("other").await, Ok(1));
}

/// Documents with NFS locks are known from the first note to the last word about them.
pub async fn documents_with_nfs_locks_are_noted(repo: &dyn Repository) {
    let (one, two) = (NodeId(2), NodeId(u64::MAX >> 1));
    assert_eq!(repo.noted_locked().await, Ok(vec![]));
    for document in [two, one, two] {
        repo.note_locked(document).await.expect("note");
    }
    assert_eq!(repo.noted_locked().await, Ok(vec![one, two]));
    repo.forget_locked(vec![two, NodeId(9)])
        .await
        .expect("forget");
    assert_eq!(repo.noted_locked().await, Ok(vec![one]));
    repo.forget_locked(vec![]).await.expect("nothing to forget");
    repo.note_locked(two).await.expect("note again");
    assert_eq!(repo.noted_locked().await, Ok(vec![one, two]));
}

/// Nothing that the trait can do leaves a contradiction.
pub async fn a_used_repository_checks_clean(repo: &dyn Repository) {
    let dir = made_folder(repo, ROOT, "dir").await.id;
    let sub = made_folder(repo, dir, "sub").await.id;
    let node = made(repo, dir, "a").await.id;
    repo.link(node, sub, "b", CaseMode::Sensitive)
        .await
        .expect("link");
    for n in 0..4u64 {
        let mut next = commit_of(main_content(node), n, u128::from(n) + 1, "");
        next.manifest = manifest_of(&[41, 50 + u128::from(n)]);
        commit(repo, next).await.expect("commit");
    }
    rename(repo, (dir, "sub"), (ROOT, "moved"), Replace::No)
        .await
        .expect("rename");
    repo.create_stream(dir, "stream").await.expect("stream");
    made(repo, ROOT, "orphan").await;
    repo.unlink(
        NameRef {
            parent: ROOT,
            name: "orphan",
            node: None,
        },
        LastLink::Orphan,
    )
    .await
    .expect("unlink");
    let report = repo.check(false).await.expect("check");
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.nodes, report.versions, report.repaired), (5, 4, 0));
    assert_eq!(repo.node_count().await, Ok(5));
}
