//! A file layer on a temporary folder, with callers of every protocol. Nothing here sleeps to make a test pass.

#![allow(dead_code, reason = "each test file uses its own part of the harness")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_lockmgr::{LocalLocks, LockOptions, MonotonicClock};
use sluice_repo::{
    CaseMode, NewKind, NodeId, Origin, PolicyRule, ROOT, Repository, ShareId, ShareProtocols,
    Squash,
};
use sluice_repo_content::{Folder, Store};
use sluice_repo_sqlite::SqliteRepository;
use sluice_repo_suite::FaultyRepository;
use sluice_vfs::*;

pub struct World {
    pub vfs: Vfs,
    pub repo: Arc<dyn Repository>,
    pub faults: Arc<FaultyRepository>,
    pub share: Arc<Share>,
    pub folder: Arc<tempfile::TempDir>,
}

pub fn times() -> VfsTimes {
    VfsTimes {
        place_idle: Duration::from_secs(2),
        idle_commit: Duration::from_secs(3600),
        round: Duration::from_millis(100),
        ..VfsTimes::default()
    }
}

impl World {
    pub async fn new() -> World {
        World::with(&[]).await
    }

    pub async fn with(rules: &[PolicyRule]) -> World {
        let folder = tempfile::tempdir().expect("a temporary folder");
        World::open(Arc::new(folder), rules).await
    }

    pub async fn open(folder: Arc<tempfile::TempDir>, rules: &[PolicyRule]) -> World {
        World::open_with(folder, rules, times()).await
    }

    pub async fn open_with(
        folder: Arc<tempfile::TempDir>,
        rules: &[PolicyRule],
        times: VfsTimes,
    ) -> World {
        let repo = SqliteRepository::open(sluice_repo_sqlite::Options::new(
            folder.path().join("meta.db"),
        ))
        .await
        .expect("the repository opens");
        let faults = Arc::new(FaultyRepository::new(Arc::new(repo)));
        let repo: Arc<dyn Repository> = faults.clone();
        let objects = Folder::open(folder.path().join("content")).expect("the folder opens");
        let store = Store::new(Arc::new(objects), Default::default()).expect("the store opens");
        if repo.shares().await.expect("shares").is_empty() {
            let root = make_share(repo.as_ref()).await;
            assert_ne!(root, ROOT);
        }
        for rule in rules {
            repo.put_policy(rule.clone()).await.expect("rule");
        }
        let vfs = Vfs::new(VfsOptions {
            repository: repo.clone(),
            content: Arc::new(store),
            locks: Arc::new(LocalLocks::new(
                LockOptions::default(),
                Arc::new(MonotonicClock::default()),
            )),
            node: "n1".to_owned(),
            member: 0,
            times,
        })
        .await
        .expect("the file layer starts");
        let share = vfs.share(Protocol::Smb, "docs").expect("the share");
        World {
            vfs,
            repo,
            faults,
            share,
            folder,
        }
    }

    /// A caller with uid 1000 from an address of its own.
    pub fn tree(&self, protocol: Protocol, host: u8) -> Tree {
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, host));
        let name = format!("host{host}");
        let client = self.vfs.client(protocol, address, &name, [host; 16]);
        let identity = Arc::new(Identity {
            user: Some(UserId(1)),
            name: "alice".to_owned(),
            uid: 1000,
            gid: 1000,
            gids: Vec::new(),
            groups: Vec::new(),
            sid: Sid("S-1-5-21-1-2-3-1000".to_owned()),
            group_sids: Vec::new(),
            admin: false,
        });
        let caller = Caller { identity, client };
        self.vfs.tree(&self.share, caller).expect("comes in")
    }
}

pub async fn make_share(repo: &dyn Repository) -> NodeId {
    let new = sluice_repo::NewNode {
        kind: NewKind::Directory,
        mode: 0o777,
        uid: 1000,
        gid: 1000,
        dos: DosAttributes::default(),
        modified: None,
        accessed: None,
        created: None,
        acl: None,
        eas: Vec::new(),
        verifier: None,
        origin: Origin::default(),
        relaxed: false,
    };
    let made = repo
        .create(ROOT, "docs", CaseMode::Sensitive, new)
        .await
        .expect("the share's folder");
    repo.put_share(sluice_repo::Share {
        id: ShareId(0),
        name: "docs".to_owned(),
        comment: String::new(),
        root: made.attributes.id,
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
        nfs_clients: vec!["127.0.0.0/8".to_owned()],
        squash: Squash::Root,
        anonymous_uid: 65_534,
        anonymous_gid: 65_534,
        nfs_mandatory_locks: false,
        quota_bytes: None,
        versions: None,
    })
    .await
    .expect("the share");
    made.attributes.id
}

pub fn rule(
    protocol: sluice_repo::RuleProtocol,
    on_conflict: sluice_repo::OnConflict,
) -> PolicyRule {
    PolicyRule {
        id: 0,
        share: Some("docs".to_owned()),
        path: None,
        protocol: Some(protocol),
        user: None,
        group: None,
        client: None,
        write: None,
        writers: None,
        on_conflict: Some(on_conflict),
        wait_ms: None,
    }
}

pub fn path(text: &str) -> RelPath {
    RelPath::parse(text, '/').expect("a path")
}

pub fn request(text: &str, access: u32, share: ShareMode, disposition: Disposition) -> OpenRequest {
    OpenRequest {
        target: Target::Path(path(text)),
        stream: None,
        access: AccessMask(access),
        share,
        disposition,
        node_type: NodeType::NotDirectory,
        new: NewNode::default(),
        flags: OpenFlags::default(),
        cache: CacheRequest::None,
        listener: None,
    }
}

pub const READ: u32 = AccessMask::READ_DATA | AccessMask::READ_ATTRIBUTES;
pub const WRITE: u32 = AccessMask::WRITE_DATA | AccessMask::READ_ATTRIBUTES;
pub const READ_WRITE: u32 = READ | WRITE;
pub const DENY_WRITE: ShareMode = ShareMode {
    read: true,
    write: false,
    delete: false,
};

/// All bytes of a document as FTP would give them.
pub async fn content(tree: &Tree, text: &str) -> Vec<u8> {
    let download = tree.download(&path(text)).await.expect("a download");
    let mut all = Vec::new();
    loop {
        let data = download
            .read(all.len() as u64, 1 << 20)
            .await
            .expect("bytes");
        for part in &data.parts {
            all.extend_from_slice(part);
        }
        if data.eof {
            break;
        }
    }
    download.close().await;
    all
}

/// Puts a whole document there.
pub async fn put(tree: &Tree, text: &str, bytes: &[u8]) -> UploadReceipt {
    let mut upload = tree
        .upload(&path(text), UploadMode::Replace)
        .await
        .expect("an upload");
    upload
        .write(Bytes::copy_from_slice(bytes))
        .await
        .expect("bytes");
    upload.commit(None).await.expect("a commit")
}

pub fn flat(data: &ReadData) -> Vec<u8> {
    data.parts.concat()
}
