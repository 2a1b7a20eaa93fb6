//! Rules about content versions and the objects behind them.

use sluice_repo::{
    CaseMode, ContentId, FencingToken, LastLink, NameRef, NewKind, Origin, ROOT, Replace,
    RepoError, Repository, Timestamp, Version, VersionPolicy, WriteSession,
};

use crate::tools::*;

/// I2: nothing is overwritten unseen.
pub async fn a_commit_needs_the_current_version(repo: &dyn Repository) {
    let content = main_content(made(repo, ROOT, "x").await.id);
    let done = commit(repo, commit_of(content, 0, 1, "one"))
        .await
        .expect("commit");
    assert_eq!(
        (done.version, done.attributes.version, done.attributes.size),
        (Version(1), Version(1), 3)
    );
    assert_eq!(
        commit(repo, commit_of(content, 0, 2, "two"))
            .await
            .map(|_| ()),
        Err(RepoError::Conflict(Version(1)))
    );
    assert_eq!(text(repo, content).await, "one");
    let mut third = commit_of(content, 1, 3, "three");
    third.change.modified = Some(Timestamp(77));
    let done = commit(repo, third).await.expect("commit");
    assert_eq!(
        (done.version, done.attributes.modified),
        (Version(2), Timestamp(77))
    );
    assert_eq!(text(repo, content).await, "three");
    let folder = main_content(made_folder(repo, ROOT, "dir").await.id);
    assert_eq!(
        commit(repo, commit_of(folder, 0, 4, "")).await.map(|_| ()),
        Err(RepoError::IsDirectory)
    );
}

/// A retry after a lost reply finds its own work.
pub async fn a_repeated_commit_is_done_once(repo: &dyn Repository) {
    let content = main_content(made(repo, ROOT, "x").await.id);
    let first = commit(repo, commit_of(content, 0, 1, "one"))
        .await
        .expect("commit");
    let again = commit(repo, commit_of(content, 0, 1, "one"))
        .await
        .expect("again");
    assert_eq!((first.version, again.version), (Version(1), Version(1)));
    assert_eq!(repo.versions(content.node).await.map(|v| v.len()), Ok(1));
}

/// I3.
pub async fn an_old_fencing_token_is_refused(repo: &dyn Repository) {
    let content = main_content(made(repo, ROOT, "x").await.id);
    let with = |base, n, fence| {
        let mut commit = commit_of(content, base, n, "x");
        commit.fence = FencingToken(fence);
        commit
    };
    commit(repo, with(0, 1, 5)).await.expect("commit");
    assert_eq!(
        commit(repo, with(1, 2, 4)).await.map(|_| ()),
        Err(RepoError::Fenced)
    );
    commit(repo, with(1, 3, 5)).await.expect("the same token");
    commit(repo, with(2, 4, 6)).await.expect("a newer token");
}

/// A version is what a close left, not each flush on the way.
pub async fn flushes_of_one_session_make_one_version(repo: &dyn Repository) {
    let content = main_content(made(repo, ROOT, "x").await.id);
    for (base, session) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2)] {
        let mut flush = commit_of(content, base, u128::from(base) + 10, "x");
        flush.session = WriteSession(session);
        commit(repo, flush).await.expect("commit");
    }
    let versions: Vec<u64> = repo
        .versions(content.node)
        .await
        .expect("versions")
        .iter()
        .map(|v| v.version.0)
        .collect();
    assert_eq!(versions, [5, 3]);
}

/// The policy's count, newest kept.
pub async fn versions_are_kept_by_count(repo: &dyn Repository) {
    let content = main_content(made(repo, ROOT, "x").await.id);
    for n in 0..6u64 {
        let mut next = commit_of(content, n, u128::from(n) + 1, "x");
        next.versions = Some(VersionPolicy {
            count: 2,
            age_s: 3600,
        });
        commit(repo, next).await.expect("commit");
    }
    let versions = repo.versions(content.node).await.expect("versions");
    assert_eq!(
        versions.iter().map(|v| v.version.0).collect::<Vec<_>>(),
        [6, 5, 4]
    );
    assert_eq!(
        (versions[0].author.as_str(), versions[0].protocol.as_str()),
        ("ann", "ftp")
    );
    let mut last = commit_of(content, 6, 7, "x");
    last.versions = Some(VersionPolicy { count: 0, age_s: 0 });
    commit(repo, last).await.expect("commit");
    assert!(repo.version(content.node, Version(6)).await.is_err());
}

/// The old content on top; what was current goes into the history.
pub async fn a_restored_version_is_a_new_version(repo: &dyn Repository) {
    let content = main_content(made(repo, ROOT, "x").await.id);
    commit(repo, commit_of(content, 0, 1, "one"))
        .await
        .expect("commit");
    commit(repo, commit_of(content, 1, 2, "two"))
        .await
        .expect("commit");
    let restore = |version, base| {
        repo.restore(
            content.node,
            Version(version),
            Version(base),
            FencingToken(0),
            Origin::default(),
        )
    };
    assert_eq!(
        restore(1, 1).await.map(|_| ()),
        Err(RepoError::Conflict(Version(2)))
    );
    assert_eq!(restore(9, 2).await.map(|_| ()), Err(RepoError::NotFound));
    assert_eq!(
        restore(1, 2).await.map(|c| (c.version, c.attributes.size)),
        Ok((Version(3), 3))
    );
    assert_eq!(text(repo, content).await, "one");
    assert_eq!(repo.versions(content.node).await.map(|v| v.len()), Ok(3));
}

/// Commits of one call stand on their own.
pub async fn one_refused_commit_leaves_the_others(repo: &dyn Repository) {
    let mut contents = Vec::new();
    for name in ["a", "b", "c"] {
        contents.push(main_content(made(repo, ROOT, name).await.id));
    }
    let answers = repo
        .commit(vec![
            commit_of(contents[0], 0, 1, "a"),
            commit_of(contents[1], 9, 2, "b"),
            commit_of(contents[2], 0, 3, "c"),
        ])
        .await;
    let answers: Vec<_> = answers.into_iter().map(|a| a.map(|c| c.version)).collect();
    assert_eq!(
        answers,
        [
            Ok(Version(1)),
            Err(RepoError::Conflict(Version(0))),
            Ok(Version(1))
        ]
    );
    assert_eq!(
        (text(repo, contents[0]).await, text(repo, contents[1]).await),
        ("a".into(), String::new())
    );
}

fn of_objects(
    content: sluice_repo::ContentId,
    base: u64,
    objects: &[u128],
    keep: u32,
) -> sluice_repo::Commit {
    let mut commit = commit_of(content, base, u128::from(base) + 1, "");
    commit.manifest = manifest_of(objects);
    commit.versions = Some(VersionPolicy {
        count: keep,
        age_s: 3600,
    });
    commit
}

/// I8: an object is given up in the transaction that drops its last version.
pub async fn objects_of_lost_versions_become_garbage(repo: &dyn Repository) {
    let content = main_content(made(repo, ROOT, "x").await.id);
    commit(repo, of_objects(content, 0, &[11, 12], 1))
        .await
        .expect("commit");
    commit(repo, of_objects(content, 1, &[11, 13], 1))
        .await
        .expect("commit");
    assert_eq!(given_up(repo).await, Vec::<u128>::new());
    commit(repo, of_objects(content, 2, &[14], 1))
        .await
        .expect("commit");
    assert_eq!(
        given_up(repo).await,
        [12],
        "version 1 is gone; 11 is in version 2"
    );
    commit(repo, of_objects(content, 3, &[15], 0))
        .await
        .expect("commit");
    assert_eq!(given_up(repo).await, [11, 12, 13, 14]);
    repo.forget_garbage(repo.garbage(0, 2).await.expect("garbage"))
        .await
        .expect("forget");
    assert_eq!(given_up(repo).await.len(), 2);
    assert_eq!(
        repo.garbage(3600, 10).await,
        Ok(vec![]),
        "none is an hour old"
    );
}

/// An old version's objects live again with a restore.
pub async fn objects_that_a_later_version_needs_are_kept(repo: &dyn Repository) {
    let content = main_content(made(repo, ROOT, "x").await.id);
    commit(repo, of_objects(content, 0, &[21], 5))
        .await
        .expect("commit");
    commit(repo, of_objects(content, 1, &[22], 5))
        .await
        .expect("commit");
    repo.restore(
        content.node,
        Version(1),
        Version(2),
        FencingToken(0),
        Origin::default(),
    )
    .await
    .expect("restore");
    commit(repo, of_objects(content, 3, &[21, 23], 0))
        .await
        .expect("commit");
    assert_eq!(
        repo.head(content).await.map(|h| h.manifest.objects.len()),
        Ok(2)
    );
    assert!(
        !given_up(repo).await.contains(&21),
        "the current version needs it"
    );
    let other = main_content(made(repo, ROOT, "y").await.id);
    let stolen = commit(repo, of_objects(other, 0, &[23], 5)).await;
    assert!(
        matches!(stolen, Err(RepoError::Corrupt(_))),
        "an object belongs to one document"
    );
}

/// All versions, all streams.
pub async fn deleting_a_document_gives_up_its_objects(repo: &dyn Repository) {
    let node = made(repo, ROOT, "x").await.id;
    commit(repo, of_objects(main_content(node), 0, &[31], 5))
        .await
        .expect("commit");
    commit(repo, of_objects(main_content(node), 1, &[32], 5))
        .await
        .expect("commit");
    let stream = repo.create_stream(node, "s").await.expect("stream").stream;
    commit(
        repo,
        of_objects(sluice_repo::ContentId { node, stream }, 0, &[33], 5),
    )
    .await
    .expect("commit");
    let refs = repo.references(None, 10).await.expect("references");
    let objects: Vec<u128> = refs
        .iter()
        .flat_map(|v| v.objects.iter().map(|o| o.id.0))
        .collect();
    assert_eq!(objects, [31, 32, 33]);
    let entry = NameRef {
        parent: ROOT,
        name: "x",
        node: None,
    };
    repo.unlink(entry, LastLink::Orphan).await.expect("unlink");
    assert_eq!(given_up(repo).await, Vec::<u128>::new());
    repo.release(node).await.expect("release");
    assert_eq!(given_up(repo).await, [31, 32, 33]);
    assert!(
        repo.references(None, 10)
            .await
            .expect("references")
            .is_empty()
    );
}

/// A small import is one transaction: name, attributes, content.
pub async fn content_can_come_with_the_creation(repo: &dyn Repository) {
    let content = sluice_repo::Manifest::inline(bytes::Bytes::from_static(b"import"));
    let mut new = new_node(NewKind::File {
        content: Some(content.into()),
    });
    new.modified = Some(Timestamp(5));
    let made = repo
        .create(ROOT, "x", CaseMode::Sensitive, new)
        .await
        .expect("create")
        .attributes;
    assert_eq!(
        (made.size, made.version, made.modified),
        (6, Version(1), Timestamp(5))
    );
    assert_eq!(repo.get(made.id).await, Ok(made.clone()));
    assert_eq!(text(repo, main_content(made.id)).await, "import");
    commit(repo, commit_of(main_content(made.id), 1, 1, "next"))
        .await
        .expect("commit");
    assert_eq!(repo.versions(made.id).await.map(|v| v.len()), Ok(2));
}

/// What quotas count: current lengths below a folder, each document once, no history.
pub async fn usage_is_what_is_current_below_a_folder(repo: &dyn Repository) {
    let top = made_folder(repo, ROOT, "top").await.id;
    let deep = made_folder(repo, top, "deep").await.id;
    assert_eq!(repo.usage(top).await, Ok(0));
    let one = main_content(made(repo, deep, "one").await.id);
    commit(repo, commit_of(one, 0, 1, "12345"))
        .await
        .expect("commit");
    commit(repo, commit_of(one, 1, 2, "123"))
        .await
        .expect("a shorter version");
    repo.link(one.node, top, "second name", CaseMode::Sensitive)
        .await
        .expect("link");
    let stream = repo.create_stream(one.node, "s").await.expect("stream");
    let stream = ContentId {
        node: one.node,
        stream: stream.stream,
    };
    commit(repo, commit_of(stream, 0, 3, "1234"))
        .await
        .expect("commit");
    let outside = main_content(made(repo, ROOT, "outside").await.id);
    commit(repo, commit_of(outside, 0, 4, "123456789"))
        .await
        .expect("commit");
    assert_eq!(repo.usage(top).await, Ok(7));
    assert_eq!(repo.usage(deep).await, Ok(7));
    assert_eq!(repo.usage(ROOT).await, Ok(16));
    rename(repo, (ROOT, "outside"), (deep, "inside"), Replace::No)
        .await
        .expect("move it in");
    unlink(repo, top, "second name").await.expect("unlink");
    assert_eq!(repo.usage(top).await, Ok(16), "one name is left");
    unlink(repo, deep, "one").await.expect("unlink");
    assert_eq!(repo.usage(top).await, Ok(9));
}
