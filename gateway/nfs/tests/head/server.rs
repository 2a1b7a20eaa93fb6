//! A real head over a scratch repository.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_nfs::{NfsHead, NfsOptions};
use sluice_repo::{
    AttributeChange, CaseMode, ROOT, Repository, Share, ShareId, ShareProtocols, Squash,
};
use sluice_repo_content::{Folder, Options as ContentOptions, Store};
use sluice_repo_sqlite::{Options as SqliteOptions, SqliteRepository};
use sluice_repo_suite::FaultyRepository;
use sluice_vfs::{Caller, Identity, Protocol, Sid, Tree, Vfs, VfsOptions, VfsTimes};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::spy::SpyLocks;

/// A writer's place is given up after this; short, so that tests need not wait long.
const PLACE_IDLE: Duration = Duration::from_millis(300);

/// So long what was locked before a start is kept for those who take it again.
pub const GRACE: Duration = Duration::from_secs(2);

pub struct Server {
    pub address: SocketAddr,
    folder: TempDir,
    vfs: Vfs,
    pub locks: Arc<SpyLocks>,
    pub repository: Arc<FaultyRepository>,
    stop: CancellationToken,
    running: Option<JoinHandle<()>>,
    callback_port: u16,
    member: u16,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with_callbacks(111).await
    }

    /// Clients' portmappers are asked on this port.
    pub async fn start_with_callbacks(callback_port: u16) -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"), callback_port, 0).await
    }

    /// The only node of a cluster.
    pub async fn start_member() -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"), 111, 1).await
    }

    async fn start_in(folder: TempDir, callback_port: u16, member: u16) -> Self {
        let repository =
            SqliteRepository::open(SqliteOptions::new(folder.path().join("meta.db"))).await;
        let repository = Arc::new(repository.expect("metadata"));
        let repository = Arc::new(FaultyRepository::new(repository));
        publish(repository.as_ref()).await;
        let content_folder = folder.path().join("content");
        std::fs::create_dir_all(&content_folder).expect("a folder");
        let folder_store = Folder::open(&content_folder).expect("a content folder");
        let content =
            Store::new(Arc::new(folder_store), ContentOptions::default()).expect("content");
        let locks = SpyLocks::new();
        let vfs = Vfs::new(VfsOptions {
            repository: repository.clone(),
            content: Arc::new(content),
            locks: locks.clone(),
            node: "test".to_owned(),
            member,
            times: VfsTimes {
                place_idle: PLACE_IDLE,
                reclaim_grace: GRACE,
                forget_notes: Duration::from_millis(50),
                ..VfsTimes::default()
            },
        });
        let vfs = vfs.await.expect("a file layer");
        locks.be_alone();
        let mut options = NfsOptions::new(vec![SocketAddr::from(([127, 0, 0, 1], 0))]);
        options.client_portmap_port = callback_port;
        let head = NfsHead::bind(vfs.clone(), options).await.expect("binds");
        vfs.keep_left_locks().await.expect("reads what was locked");
        let stop = CancellationToken::new();
        Self {
            address: head.addresses()[0],
            folder,
            vfs,
            locks,
            repository,
            running: Some(tokio::spawn(head.serve(stop.clone()))),
            stop,
            callback_port,
            member,
        }
    }

    /// The share as an SMB client of another machine sees it.
    pub fn smb(&self) -> Tree {
        let share = self.vfs.share(Protocol::Smb, "docs").expect("offered");
        let address = [127, 0, 0, 9].into();
        let client = self.vfs.client(Protocol::Smb, address, "pc", [9; 16]);
        let identity = Arc::new(Identity {
            user: None,
            name: "ann".to_owned(),
            uid: 1000,
            gid: 1000,
            gids: Vec::new(),
            groups: Vec::new(),
            sid: Sid("S-1-5-21-1-2-3-1000".to_owned()),
            group_sids: Vec::new(),
            admin: false,
        });
        let caller = Caller { identity, client };
        self.vfs.tree(&share, caller).expect("comes in")
    }

    /// Documents that are noted as locked.
    pub async fn noted(&self) -> usize {
        let noted = self.repository.noted_locked().await;
        noted.expect("reads").len()
    }

    /// Stops the head, then everything below it.
    pub async fn stop(self) {
        self.shut_down().await;
    }

    /// Keeps what other nodes' heads could have kept.
    pub async fn keep(&self, name: &str, value: impl Into<Vec<u8>>) {
        let kept = self.vfs.keep(name, Bytes::from(value.into()));
        kept.await.expect("kept");
    }

    pub async fn kept(&self, name: &str) -> bool {
        self.vfs.kept(name).await.expect("read").is_some()
    }

    /// Returns once notes that nobody needs would have been forgotten.
    pub async fn all_would_be_forgotten(&self) {
        let unused = self.vfs.note_lock(sluice_repo::NodeId(u64::MAX >> 1)).await;
        let before = self.noted().await;
        drop(unused.expect("noted"));
        while self.noted().await == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops the head only.
    pub async fn stop_head(&mut self) {
        self.stop.cancel();
        if let Some(running) = self.running.take() {
            running.await.expect("the head ends");
        }
    }

    async fn shut_down(mut self) -> (TempDir, u16, u16) {
        self.stop_head().await;
        self.vfs.shutdown().await.expect("all is committed");
        self.repository.close().await.expect("the database closes");
        (self.folder, self.callback_port, self.member)
    }

    /// Stops and starts again on the same repository.
    pub async fn restart(self) -> Self {
        let (folder, callback_port, member) = self.shut_down().await;
        Self::start_in(folder, callback_port, member).await
    }
}

/// The share `docs`, in which everybody may write by its mode bits.
async fn publish(repository: &dyn Repository) {
    if !repository.shares().await.expect("shares").is_empty() {
        return;
    }
    let change = AttributeChange {
        mode: Some(0o777),
        ..AttributeChange::default()
    };
    repository
        .set_attributes(ROOT, change, None)
        .await
        .expect("the mode is set");
    let share = Share {
        id: ShareId(0),
        name: "docs".to_owned(),
        comment: String::new(),
        root: ROOT,
        protocols: ShareProtocols {
            smb: true,
            nfs: true,
            ftp: false,
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
    };
    repository
        .put_share(share)
        .await
        .expect("the share is made");
}
