//! Rules about attributes, access lists, extended attributes, streams.

use std::sync::Arc;

use sluice_repo::{
    Ace, AceKind, Acl, AttributeChange, CaseMode, ContentId, DosAttributes, ExtendedAttribute,
    NewKind, ROOT, Replace, RepoError, Repository, Sid, Timestamp, Version,
};

use crate::tools::*;

/// The node's number with its own changes, the folder's with those of its entries.
pub async fn change_numbers_grow_with_every_change(repo: &dyn Repository) {
    let made = file(repo, ROOT, "x").await.expect("create");
    assert!(made.parent.change_id > made.parent_change_before);
    let node = made.attributes;
    let set = repo
        .set_attributes(node.id, AttributeChange::default(), None)
        .await
        .expect("set");
    assert!(set.change_id > node.change_id && set.changed >= node.changed);
    let done = commit(repo, commit_of(main_content(node.id), 0, 1, "x"))
        .await
        .expect("commit")
        .attributes;
    assert!(done.change_id > set.change_id);
    assert_eq!(repo.get(node.id).await, Ok(done));
    let moved = rename(repo, (ROOT, "x"), (ROOT, "y"), Replace::No)
        .await
        .expect("rename");
    assert_eq!(moved.old_parent.1, made.parent.change_id);
    assert!(moved.old_parent.0.change_id > moved.old_parent.1);
    assert_eq!(repo.get(ROOT).await, Ok(moved.new_parent.0));
}

/// What is not named stays.
pub async fn attributes_are_set_one_by_one(repo: &dyn Repository) {
    let before = made(repo, ROOT, "x").await;
    let change = AttributeChange {
        mode: Some(0o170_4755),
        modified: Some(Timestamp(-5)),
        ..AttributeChange::default()
    };
    let after = repo
        .set_attributes(before.id, change, None)
        .await
        .expect("set");
    assert_eq!((after.mode, after.modified), (0o4755, Timestamp(-5)));
    assert_eq!(
        (after.uid, after.created, after.accessed),
        (before.uid, before.created, before.accessed)
    );
    let dos = DosAttributes(DosAttributes::HIDDEN);
    let change = AttributeChange {
        uid: Some(7),
        gid: Some(8),
        dos: Some(dos),
        created: Some(Timestamp(1)),
        accessed: Some(Timestamp(2)),
        changed: Some(Timestamp(3)),
        ..AttributeChange::default()
    };
    let after = repo
        .set_attributes(before.id, change, None)
        .await
        .expect("set");
    assert_eq!(
        (after.uid, after.gid, after.dos, after.mode),
        (7, 8, dos, 0o4755)
    );
    assert_eq!(
        (after.created, after.accessed, after.changed),
        (Timestamp(1), Timestamp(2), Timestamp(3))
    );
    assert_eq!(repo.get(before.id).await, Ok(after));
    assert_eq!(
        repo.lookup(ROOT, "x", CaseMode::Sensitive)
            .await
            .map(|f| f.attributes.uid),
        Ok(7)
    );
}

/// RFC 1813 3.3.2.
pub async fn a_guarded_change_needs_the_right_change_time(repo: &dyn Repository) {
    let node = made(repo, ROOT, "x").await;
    let change = AttributeChange {
        mode: Some(0o600),
        ..AttributeChange::default()
    };
    let wrong = Some(Timestamp(node.changed.0 - 1));
    assert_eq!(
        repo.set_attributes(node.id, change.clone(), wrong).await,
        Err(RepoError::GuardMismatch)
    );
    assert!(
        repo.set_attributes(node.id, change, Some(node.changed))
            .await
            .is_ok()
    );
}

/// Entries, order, flags and foreign SIDs survive; a NULL list is not an empty one.
pub async fn access_lists_come_back_as_stored(repo: &dyn Repository) {
    let ace = |kind, mask, sid: &str| Ace {
        kind,
        flags: 0x13,
        mask,
        sid: Sid(sid.into()),
    };
    let acl = Arc::new(Acl {
        owner: Some(Sid("S-1-5-21-1-2-3-4".into())),
        group: None,
        dacl: Some(vec![
            ace(AceKind::Deny, 2, "S-1-1-0"),
            ace(AceKind::Allow, 0x1f_01ff, "S-1-5-32-544"),
        ]),
        sacl: None,
        control: 0x1400,
    });
    let mut new = new_node(NewKind::File { content: None });
    new.acl = Some(acl.clone());
    let node = repo
        .create(ROOT, "x", CaseMode::Sensitive, new)
        .await
        .expect("create")
        .attributes;
    assert!(node.has_acl);
    assert_eq!(repo.acl(node.id).await, Ok(Some(acl)));
    let null = Arc::new(Acl::default());
    let change = AttributeChange {
        mode: Some(0o777),
        ..AttributeChange::default()
    };
    let after = repo
        .set_acl(node.id, Some(null.clone()), change)
        .await
        .expect("set_acl");
    assert_eq!((after.mode, after.has_acl), (0o777, true));
    assert_eq!(repo.acl(node.id).await, Ok(Some(null)));
    let after = repo
        .set_acl(node.id, None, AttributeChange::default())
        .await
        .expect("set_acl");
    assert!(!after.has_acl);
    assert_eq!(
        (repo.acl(node.id).await, repo.acl(ROOT).await),
        (Ok(None), Ok(None))
    );
}

/// Names without regard to case, an empty value removes, the size is MS-FSCC's.
pub async fn extended_attributes_come_and_go(repo: &dyn Repository) {
    let ea = |name: &str, value: &[u8]| ExtendedAttribute {
        name: name.into(),
        value: value.into(),
    };
    let node = made(repo, ROOT, "x").await.id;
    let after = repo
        .set_eas(node, vec![ea("User.A", b"1"), ea("b", b"22")])
        .await
        .expect("set");
    assert_eq!(after.ea_size, 4 + (5 + 6 + 1) + (5 + 1 + 2));
    repo.set_eas(node, vec![ea("USER.a", b"333")])
        .await
        .expect("set");
    assert_eq!(
        repo.eas(node).await,
        Ok(vec![ea("User.A", b"333"), ea("b", b"22")])
    );
    let after = repo
        .set_eas(node, vec![ea("user.a", b""), ea("B", b"")])
        .await
        .expect("set");
    assert_eq!((after.ea_size, repo.eas(node).await), (0, Ok(vec![])));
    assert_eq!(
        repo.set_eas(node, vec![ea("", b"1")]).await,
        Err(RepoError::InvalidName)
    );
}

/// MS-FSCC 2.1.5.
pub async fn streams_have_names_and_content_of_their_own(repo: &dyn Repository) {
    let node = made(repo, ROOT, "x").await.id;
    let one = repo.create_stream(node, "One").await.expect("one");
    let two = repo.create_stream(node, "two").await.expect("two");
    assert_eq!(
        repo.create_stream(node, "ONE").await,
        Err(RepoError::Exists)
    );
    assert_eq!(
        repo.create_stream(node, "a:b").await,
        Err(RepoError::InvalidName)
    );
    let content = ContentId {
        node,
        stream: one.stream,
    };
    let done = commit(repo, commit_of(content, 0, 1, "stream"))
        .await
        .expect("commit");
    assert_eq!(
        (done.version, done.attributes.size, done.attributes.version),
        (Version(1), 0, Version(0))
    );
    commit(repo, commit_of(content, 1, 2, "stream 2"))
        .await
        .expect("commit");
    assert_eq!(
        commit(repo, commit_of(content, 1, 3, "")).await.map(|_| ()),
        Err(RepoError::Conflict(Version(2)))
    );
    let sizes: Vec<_> = repo
        .streams(node)
        .await
        .expect("streams")
        .into_iter()
        .map(|s| (s.name, s.size))
        .collect();
    assert_eq!(sizes, [("One".into(), 8), ("two".into(), 0)]);
    assert_eq!(
        repo.rename_stream(content, "TWO", false).await,
        Err(RepoError::Exists)
    );
    repo.rename_stream(content, "TWO", true)
        .await
        .expect("rename");
    assert_eq!(text(repo, content).await, "stream 2");
    let gone = ContentId {
        node,
        stream: two.stream,
    };
    assert_eq!(repo.head(gone).await.map(|_| ()), Err(RepoError::NotFound));
    repo.delete_stream(content).await.expect("delete");
    assert_eq!(repo.streams(node).await, Ok(vec![]));
    let again = repo.create_stream(node, "One").await.expect("again");
    assert!(again.stream > two.stream, "numbers are not reused");
}
