//! Short words for tests.

use std::sync::Arc;

use bytes::Bytes;
use sluice_repo::{
    AttributeChange, Attributes, CaseMode, Commit, Committed, ContentId, Cookie, Created,
    DosAttributes, Extent, FencingToken, LastLink, Manifest, NameRef, NewKind, NewNode, NodeId,
    ObjectId, ObjectRef, OpId, Origin, Renamed, Replace, RepoError, Repository, Result, Unlinked,
    Version, WriteSession,
};

/// A node of a kind, owned by 1000:1000.
pub fn new_node(kind: NewKind) -> NewNode {
    NewNode {
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        dos: DosAttributes::default(),
        modified: None,
        accessed: None,
        created: None,
        acl: None,
        eas: Vec::new(),
        verifier: None,
        origin: Origin {
            author: "ann".into(),
            protocol: "smb".into(),
        },
        relaxed: false,
    }
}

/// Creates an empty document.
pub async fn file(repo: &dyn Repository, parent: NodeId, name: &str) -> Result<Created> {
    repo.create(
        parent,
        name,
        CaseMode::Sensitive,
        new_node(NewKind::File { content: None }),
    )
    .await
}

/// Creates a folder.
pub async fn folder(repo: &dyn Repository, parent: NodeId, name: &str) -> Result<Created> {
    repo.create(
        parent,
        name,
        CaseMode::Sensitive,
        new_node(NewKind::Directory),
    )
    .await
}

/// Creates a document for a test that can't go on without it.
pub async fn made(repo: &dyn Repository, parent: NodeId, name: &str) -> Attributes {
    file(repo, parent, name)
        .await
        .expect("create a document")
        .attributes
}

/// Creates a folder for a test that can't go on without it.
pub async fn made_folder(repo: &dyn Repository, parent: NodeId, name: &str) -> Attributes {
    folder(repo, parent, name)
        .await
        .expect("create a folder")
        .attributes
}

/// Removes a name and what it names.
pub async fn unlink(repo: &dyn Repository, parent: NodeId, name: &str) -> Result<Unlinked> {
    repo.unlink(
        NameRef {
            parent,
            name,
            node: None,
        },
        LastLink::Delete,
    )
    .await
}

/// Moves an entry, exact names.
pub async fn rename(
    repo: &dyn Repository,
    from: (NodeId, &str),
    to: (NodeId, &str),
    replace: Replace,
) -> Result<Renamed> {
    let entry = NameRef {
        parent: from.0,
        name: from.1,
        node: None,
    };
    repo.rename(entry, to.0, to.1, CaseMode::Sensitive, replace)
        .await
}

/// Names in a folder, in listing order.
pub async fn listed(repo: &dyn Repository, dir: NodeId) -> Vec<String> {
    let page = repo.read_dir(dir, Cookie(0), 100_000).await.expect("list");
    assert!(page.end, "more than 100,000 entries");
    page.entries.into_iter().map(|e| e.name).collect()
}

/// Main content of a node.
pub fn main_content(node: NodeId) -> ContentId {
    ContentId { node, stream: 0 }
}

/// A commit of inline bytes in a session of its own; `n` makes its op id and session unique.
pub fn commit_of(content: ContentId, base: u64, n: u128, bytes: &'static str) -> Commit {
    Commit {
        content,
        base: Version(base),
        fence: FencingToken(0),
        op: OpId(n << 64 | 0xc0ffee),
        session: WriteSession(n << 64 | 0xbeef),
        manifest: Arc::new(Manifest::inline(Bytes::from_static(bytes.as_bytes()))),
        change: AttributeChange::default(),
        origin: Origin {
            author: "ann".into(),
            protocol: "ftp".into(),
        },
        versions: None,
    }
}

/// Makes one commit.
pub async fn commit(repo: &dyn Repository, commit: Commit) -> Result<Committed> {
    repo.commit(vec![commit])
        .await
        .pop()
        .unwrap_or(Err(RepoError::Unavailable("no answer to a commit".into())))
}

/// A manifest that refers to whole objects of 100 bytes (that exist nowhere).
pub fn manifest_of(objects: &[u128]) -> Arc<Manifest> {
    let object = |id: &u128| ObjectRef {
        id: ObjectId(*id),
        len: 100,
        sums: [1].into(),
    };
    let extent = |n: usize| Extent {
        offset: n as u64 * 100,
        len: 100,
        object: n as u32,
        object_offset: 0,
    };
    Arc::new(Manifest {
        size: objects.len() as u64 * 100,
        inline: Bytes::new(),
        objects: objects.iter().map(object).collect(),
        extents: (0..objects.len()).map(extent).collect(),
    })
}

/// Bytes of the current content, which must be inline.
pub async fn text(repo: &dyn Repository, content: ContentId) -> String {
    let head = repo.head(content).await.expect("head");
    String::from_utf8_lossy(&head.manifest.inline).into_owned()
}

/// Objects that were given up, in order.
pub async fn given_up(repo: &dyn Repository) -> Vec<u128> {
    let mut objects: Vec<u128> = repo
        .garbage(0, 1000)
        .await
        .expect("garbage")
        .iter()
        .map(|o| o.0)
        .collect();
    objects.sort_unstable();
    objects
}
