//! Rules about names: lookup, listing, links, removal, rename.

use sluice_repo::{
    CaseMode, Cookie, LastLink, NameRef, NewKind, NodeId, NodeKind, ROOT, Replace, RepoError,
    Repository,
};

use crate::tools::*;

use CaseMode::{Insensitive, Sensitive};

/// Exact first; otherwise by fold (case and composition).
pub async fn names_are_found_exactly_and_without_regard_to_case(repo: &dyn Repository) {
    let node = made(repo, ROOT, "Grüße.TXT").await;
    assert_eq!(
        repo.lookup(ROOT, "grüße.txt", Sensitive).await,
        Err(RepoError::NotFound)
    );
    for name in ["Grüße.TXT", "grüße.txt", "GRU\u{308}ße.txt"] {
        let found = repo.lookup(ROOT, name, Insensitive).await.expect(name);
        assert_eq!((&*found.name, found.attributes.id), ("Grüße.TXT", node.id));
    }
    unlink(repo, ROOT, "Grüße.TXT").await.expect("unlink");
    assert_eq!(
        repo.lookup(ROOT, "grüße.txt", Insensitive).await,
        Err(RepoError::NotFound)
    );
}

/// NFS and FTP can make both; each is reached by its exact name, the older one by any other spelling.
pub async fn names_that_differ_only_in_case_can_both_exist(repo: &dyn Repository) {
    let upper = made(repo, ROOT, "A").await;
    assert_eq!(
        repo.lookup(ROOT, "a", Insensitive)
            .await
            .map(|f| f.attributes.id),
        Ok(upper.id)
    );
    let lower = made(repo, ROOT, "a").await;
    assert_eq!(
        repo.lookup(ROOT, "a", Insensitive)
            .await
            .map(|f| f.attributes.id),
        Ok(lower.id)
    );
    assert_eq!(
        repo.lookup(ROOT, "A", Insensitive)
            .await
            .map(|f| f.attributes.id),
        Ok(upper.id)
    );
    assert_eq!(listed(repo, ROOT).await, ["A", "a"]);
}

/// A create that does not see case finds the name taken.
pub async fn a_name_is_taken_for_those_who_do_not_see_case(repo: &dyn Repository) {
    made(repo, ROOT, "Name").await;
    let again = repo
        .create(ROOT, "nAME", Insensitive, new_node(NewKind::Directory))
        .await;
    assert_eq!(again.map(|_| ()), Err(RepoError::Exists));
    assert_eq!(
        file(repo, ROOT, "Name").await.map(|_| ()),
        Err(RepoError::Exists)
    );
}

/// No name leads out of its folder; nothing is made below a document or a folder that is gone.
pub async fn bad_names_and_bad_parents_are_refused(repo: &dyn Repository) {
    for name in ["", ".", "..", "a/b", "a\0"] {
        assert_eq!(
            file(repo, ROOT, name).await.map(|_| ()),
            Err(RepoError::InvalidName),
            "{name:?}"
        );
    }
    assert_eq!(
        file(repo, ROOT, &"n".repeat(256)).await.map(|_| ()),
        Err(RepoError::NameTooLong)
    );
    made(repo, ROOT, &"n".repeat(255)).await;
    let document = made(repo, ROOT, "document").await;
    assert_eq!(
        file(repo, document.id, "x").await.map(|_| ()),
        Err(RepoError::NotDirectory)
    );
    assert_eq!(
        repo.lookup(document.id, "x", Sensitive).await,
        Err(RepoError::NotDirectory)
    );
    let gone = made_folder(repo, ROOT, "gone").await;
    repo.unlink(
        NameRef {
            parent: ROOT,
            name: "gone",
            node: None,
        },
        LastLink::Orphan,
    )
    .await
    .expect("unlink");
    assert_eq!(
        file(repo, gone.id, "x").await.map(|_| ()),
        Err(RepoError::Stale(gone.id))
    );
    assert_eq!(
        file(repo, NodeId(1 << 60), "x").await.map(|_| ()),
        Err(RepoError::Stale(NodeId(1 << 60)))
    );
}

/// RFC 1813 3.3.8: the same verifier finds the node, another one is refused.
pub async fn an_exclusive_create_is_repeatable(repo: &dyn Repository) {
    let with = |verifier| {
        let mut new = new_node(NewKind::File { content: None });
        new.verifier = verifier;
        repo.create(ROOT, "x", Sensitive, new)
    };
    let first = with(Some(*b"12345678")).await.expect("first");
    let again = with(Some(*b"12345678")).await.expect("again");
    assert!(!first.repeated && again.repeated);
    assert_eq!(first.attributes.id, again.attributes.id);
    assert_eq!(
        with(Some(*b"87654321")).await.map(|_| ()),
        Err(RepoError::Exists)
    );
    assert_eq!(with(None).await.map(|_| ()), Err(RepoError::Exists));
}

/// Every entry once, in the order of creation, whatever the page size.
pub async fn pages_of_a_listing_are_complete_and_stable(repo: &dyn Repository) {
    let dir = made_folder(repo, ROOT, "dir").await.id;
    let names: Vec<String> = (0..25).map(|n| format!("{}", n * 7919 % 1000)).collect();
    for name in &names {
        made(repo, dir, name).await;
    }
    for size in [1, 7, 25, 26] {
        let mut seen = Vec::new();
        let mut after = Cookie(0);
        loop {
            let page = repo.read_dir(dir, after, size).await.expect("page");
            assert!(page.entries.len() <= size);
            seen.extend(page.entries.iter().map(|e| e.name.clone()));
            after = page.entries.last().map_or(after, |e| e.cookie);
            if page.end {
                break;
            }
        }
        assert_eq!(seen, names, "pages of {size}");
    }
}

/// Entries that stay are listed once, whatever comes and goes meanwhile.
pub async fn a_listing_survives_changes_between_its_pages(repo: &dyn Repository) {
    let dir = made_folder(repo, ROOT, "dir").await.id;
    for n in 0..10 {
        made(repo, dir, &format!("{n}")).await;
    }
    let first = repo.read_dir(dir, Cookie(0), 5).await.expect("page");
    let after = first.entries.last().expect("entries").cookie;
    for gone in ["0", "4", "7"] {
        unlink(repo, dir, gone).await.expect("unlink");
    }
    rename(repo, (dir, "8"), (dir, "acht"), Replace::No)
        .await
        .expect("rename");
    made(repo, dir, "new").await;
    let rest = repo.read_dir(dir, after, 100).await.expect("rest");
    let names: Vec<&str> = rest.entries.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["5", "6", "acht", "9", "new"]);
    assert!(rest.end);
}

/// One call walks down; it stops at what is not there and at what is no folder.
pub async fn resolve_goes_as_far_as_the_path_does(repo: &dyn Repository) {
    let a = made_folder(repo, ROOT, "A").await.id;
    let b = made_folder(repo, a, "B").await.id;
    let c = made(repo, b, "C").await.id;
    let ids = |names: &'static [&'static str], case| async move {
        let found = repo.resolve(ROOT, names, case).await.expect("resolve");
        found.iter().map(|f| f.attributes.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&["A", "B", "C"], Sensitive).await, [a, b, c]);
    assert_eq!(ids(&["a", "b", "c"], Insensitive).await, [a, b, c]);
    assert_eq!(ids(&["a", "b", "c"], Sensitive).await, []);
    assert_eq!(ids(&["A", "x", "C"], Sensitive).await, [a]);
    assert_eq!(ids(&["A", "B", "C", "D"], Sensitive).await, [a, b, c]);
    assert_eq!(ids(&[], Sensitive).await, []);
}

/// The path is the one of now.
pub async fn paths_follow_renames(repo: &dyn Repository) {
    let a = made_folder(repo, ROOT, "a").await.id;
    let b = made_folder(repo, ROOT, "b").await.id;
    let x = made(repo, a, "x").await.id;
    let path = |node| async move {
        let path = repo.path_of(node).await?;
        Ok::<_, RepoError>(
            path.iter()
                .map(|(_, name)| name.to_string())
                .collect::<Vec<_>>()
                .join("/"),
        )
    };
    assert_eq!(path(x).await, Ok("a/x".into()));
    rename(repo, (ROOT, "a"), (b, "c"), Replace::No)
        .await
        .expect("rename");
    assert_eq!(path(x).await, Ok("b/c/x".into()));
    assert_eq!(path(ROOT).await, Ok(String::new()));
    repo.unlink(
        NameRef {
            parent: a,
            name: "x",
            node: None,
        },
        LastLink::Orphan,
    )
    .await
    .expect("unlink");
    assert_eq!(path(x).await, Err(RepoError::NotFound));
}

/// Two names, one document; the last name decides.
pub async fn hard_links_share_everything(repo: &dyn Repository) {
    let dir = made_folder(repo, ROOT, "dir").await.id;
    let node = made(repo, ROOT, "one").await.id;
    let linked = repo.link(node, dir, "two", Sensitive).await.expect("link");
    assert_eq!(
        (linked.attributes.id, linked.attributes.link_count),
        (node, 2)
    );
    assert_eq!(
        repo.link(node, dir, "two", Sensitive).await.map(|_| ()),
        Err(RepoError::Exists)
    );
    assert_eq!(
        repo.link(dir, ROOT, "d", Sensitive).await.map(|_| ()),
        Err(RepoError::WrongKind)
    );
    commit(repo, commit_of(main_content(node), 0, 1, "text"))
        .await
        .expect("commit");
    let two = repo
        .lookup(dir, "two", Sensitive)
        .await
        .expect("two")
        .attributes;
    assert_eq!((two.size, two.link_count), (4, 2));
    let gone = unlink(repo, ROOT, "one").await.expect("unlink");
    assert_eq!(
        (gone.attributes.link_count, gone.attributes.parent),
        (1, Some(dir))
    );
    assert_eq!(text(repo, main_content(node)).await, "text");
    unlink(repo, dir, "two").await.expect("unlink");
    assert_eq!(repo.get(node).await, Err(RepoError::Stale(node)));
}

/// A folder goes only when it is empty.
pub async fn a_folder_with_entries_is_not_removed(repo: &dyn Repository) {
    let dir = made_folder(repo, ROOT, "dir").await.id;
    made(repo, dir, "x").await;
    assert_eq!(unlink(repo, ROOT, "dir").await, Err(RepoError::NotEmpty));
    unlink(repo, dir, "x").await.expect("unlink");
    unlink(repo, ROOT, "dir").await.expect("unlink");
    assert_eq!(repo.get(dir).await, Err(RepoError::Stale(dir)));
    assert_eq!(unlink(repo, ROOT, "dir").await, Err(RepoError::NotFound));
}

/// An orphan can be read and written until it is released; a name that it gets again keeps it.
pub async fn an_unlinked_document_stays_for_its_opens(repo: &dyn Repository) {
    let node = made(repo, ROOT, "open").await.id;
    let entry = NameRef {
        parent: ROOT,
        name: "open",
        node: Some(node),
    };
    let gone = repo.unlink(entry, LastLink::Orphan).await.expect("unlink");
    assert!(gone.orphaned && gone.attributes.link_count == 0 && gone.attributes.parent.is_none());
    commit(repo, commit_of(main_content(node), 0, 1, "late"))
        .await
        .expect("commit to an orphan");
    assert_eq!(text(repo, main_content(node)).await, "late");
    assert_eq!(
        repo.check(false).await.expect("check").problems,
        Vec::<String>::new()
    );
    repo.release(node).await.expect("release");
    assert_eq!(repo.get(node).await, Err(RepoError::Stale(node)));
    let kept = made(repo, ROOT, "kept").await.id;
    repo.release(kept)
        .await
        .expect("release of a named node does nothing");
    assert!(repo.get(kept).await.is_ok());
}

/// Readers see the old document or the new one under the name, never none.
pub async fn a_rename_replaces_in_one_step(repo: &dyn Repository) {
    let dir = made_folder(repo, ROOT, "dir").await.id;
    let old = made(repo, dir, "name").await.id;
    let new = made(repo, ROOT, "upload").await.id;
    assert_eq!(
        rename(repo, (ROOT, "upload"), (dir, "name"), Replace::No)
            .await
            .map(|_| ()),
        Err(RepoError::Exists)
    );
    let replace = Replace::Node(old, LastLink::Orphan);
    let done = rename(repo, (ROOT, "upload"), (dir, "name"), replace)
        .await
        .expect("rename");
    let replaced = done.replaced.expect("replaced");
    assert!(replaced.orphaned && replaced.attributes.id == old);
    assert_eq!(done.attributes.parent, Some(dir));
    assert_eq!(
        repo.lookup(dir, "name", Sensitive)
            .await
            .map(|f| f.attributes.id),
        Ok(new)
    );
    assert_eq!(
        repo.lookup(ROOT, "upload", Sensitive).await,
        Err(RepoError::NotFound)
    );
    assert_eq!(
        (listed(repo, dir).await, listed(repo, ROOT).await),
        (vec!["name".into()], vec!["dir".into()])
    );
}

/// A document is not replaced by a folder, a folder not by a document, a full folder not at all, and only what the caller knows of.
pub async fn a_rename_checks_what_it_replaces(repo: &dyn Repository) {
    let dir = made_folder(repo, ROOT, "dir").await.id;
    let full = made_folder(repo, ROOT, "full").await.id;
    made(repo, full, "x").await;
    let node = made(repo, ROOT, "doc").await.id;
    let onto = |from, to, id| {
        rename(
            repo,
            (ROOT, from),
            (ROOT, to),
            Replace::Node(id, LastLink::Delete),
        )
    };
    assert_eq!(
        onto("dir", "doc", node).await.map(|_| ()),
        Err(RepoError::NotDirectory)
    );
    assert_eq!(
        onto("doc", "dir", dir).await.map(|_| ()),
        Err(RepoError::IsDirectory)
    );
    assert_eq!(
        onto("dir", "full", full).await.map(|_| ()),
        Err(RepoError::NotEmpty)
    );
    assert_eq!(
        onto("full", "dir", node).await.map(|_| ()),
        Err(RepoError::Stale(node))
    );
    onto("full", "dir", dir)
        .await
        .expect("a folder replaces an empty folder");
    assert_eq!(listed(repo, full).await, ["x"]);
    assert_eq!(repo.get(ROOT).await.map(|a| a.link_count), Ok(3));
}

/// POSIX rename: two links to one document both stay.
pub async fn a_rename_to_the_same_document_does_nothing(repo: &dyn Repository) {
    let node = made(repo, ROOT, "a").await.id;
    repo.link(node, ROOT, "b", Sensitive).await.expect("link");
    let replace = Replace::Node(node, LastLink::Delete);
    assert!(
        rename(repo, (ROOT, "a"), (ROOT, "b"), replace)
            .await
            .expect("rename")
            .same_node
    );
    assert!(
        rename(repo, (ROOT, "a"), (ROOT, "a"), replace)
            .await
            .expect("rename")
            .same_node
    );
    assert_eq!(listed(repo, ROOT).await, ["a", "b"]);
}

/// The entry itself does not stand in its own way.
pub async fn a_rename_can_change_only_the_case(repo: &dyn Repository) {
    let node = made(repo, ROOT, "report.TXT").await.id;
    let entry = NameRef {
        parent: ROOT,
        name: "report.TXT",
        node: None,
    };
    let done = repo
        .rename(entry, ROOT, "Report.txt", Insensitive, Replace::No)
        .await
        .expect("rename");
    assert!(!done.same_node);
    assert_eq!(listed(repo, ROOT).await, ["Report.txt"]);
    assert_eq!(
        repo.lookup(ROOT, "Report.txt", Sensitive)
            .await
            .map(|f| f.attributes.id),
        Ok(node)
    );
    made(repo, ROOT, "other").await;
    let entry = NameRef {
        parent: ROOT,
        name: "other",
        node: None,
    };
    let taken = repo
        .rename(entry, ROOT, "REPORT.TXT", Insensitive, Replace::No)
        .await;
    assert_eq!(taken.map(|_| ()), Err(RepoError::Exists));
}

/// Not into itself, not below itself.
pub async fn a_folder_cannot_move_into_itself(repo: &dyn Repository) {
    let a = made_folder(repo, ROOT, "a").await.id;
    let b = made_folder(repo, a, "b").await.id;
    let c = made_folder(repo, b, "c").await.id;
    for into in [a, b, c] {
        let moved = rename(repo, (ROOT, "a"), (into, "x"), Replace::No).await;
        assert_eq!(moved.map(|_| ()), Err(RepoError::IntoItself));
    }
    rename(repo, (b, "c"), (ROOT, "c"), Replace::No)
        .await
        .expect("up is fine");
}

/// 2 and one for each subfolder.
pub async fn link_counts_of_folders_follow_their_subfolders(repo: &dyn Repository) {
    let a = made_folder(repo, ROOT, "a").await.id;
    let b = made_folder(repo, ROOT, "b").await.id;
    let sub = made_folder(repo, a, "sub").await.id;
    let count = |node| async move { repo.get(node).await.map(|a| a.link_count) };
    assert_eq!(
        (count(ROOT).await, count(a).await, count(sub).await),
        (Ok(4), Ok(3), Ok(2))
    );
    rename(repo, (a, "sub"), (b, "sub"), Replace::No)
        .await
        .expect("rename");
    assert_eq!((count(a).await, count(b).await), (Ok(2), Ok(3)));
    unlink(repo, b, "sub").await.expect("unlink");
    assert_eq!(count(b).await, Ok(2));
}

/// Links, pipes, sockets and devices come back as made.
pub async fn links_and_special_files_keep_what_they_are(repo: &dyn Repository) {
    let make = |name: &'static str, kind| repo.create(ROOT, name, Sensitive, new_node(kind));
    let link = make(
        "link",
        NewKind::Symlink {
            target: "../ä/b".into(),
        },
    )
    .await
    .expect("link")
    .attributes;
    assert_eq!((link.kind, link.size), (NodeKind::Symlink, 7));
    assert_eq!(repo.read_link(link.id).await, Ok("../ä/b".into()));
    let long = make(
        "long",
        NewKind::Symlink {
            target: "t".repeat(5000),
        },
    )
    .await;
    assert_eq!(long.map(|_| ()), Err(RepoError::NameTooLong));
    let device = NewKind::Device {
        block: true,
        numbers: (8, 1),
    };
    let device = make("device", device).await.expect("device").attributes;
    assert_eq!(
        (device.kind, device.device),
        (NodeKind::BlockDevice, (8, 1))
    );
    let pipe = make("pipe", NewKind::Pipe { socket: false })
        .await
        .expect("pipe")
        .attributes;
    assert_eq!(repo.get(pipe.id).await.map(|a| a.kind), Ok(NodeKind::Fifo));
    assert_eq!(repo.read_link(pipe.id).await, Err(RepoError::WrongKind));
    assert_eq!(
        commit(repo, commit_of(main_content(pipe.id), 0, 1, ""))
            .await
            .map(|_| ()),
        Err(RepoError::WrongKind)
    );
}

/// A caller that decided about one node does not hit another one that has its name by now.
pub async fn expected_nodes_guard_unlink_and_rename(repo: &dyn Repository) {
    let first = made(repo, ROOT, "x").await.id;
    unlink(repo, ROOT, "x").await.expect("unlink");
    made(repo, ROOT, "x").await;
    let entry = NameRef {
        parent: ROOT,
        name: "x",
        node: Some(first),
    };
    assert_eq!(
        repo.unlink(entry, LastLink::Delete).await,
        Err(RepoError::Stale(first))
    );
    let moved = repo.rename(entry, ROOT, "y", Sensitive, Replace::No).await;
    assert_eq!(moved.map(|_| ()), Err(RepoError::Stale(first)));
    assert_eq!(listed(repo, ROOT).await, ["x"]);
}
