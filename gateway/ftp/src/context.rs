//! What carrying out a session's work needs: the file layer, who asks, and the ways to say something before the
//! end and to be told to stop.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sluice_vfs::{
    Attributes, Caller, Client, Identity, NodeId, Protocol, RelPath, Tree, Vfs, VfsError,
};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::data::Watch;
use crate::options::FtpOptions;
use crate::path::VirtualPath;
use crate::reply::{self, Reply};

/// How far a transfer is; read by STAT and ABOR handling while the transfer runs.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Set when the file layer has granted the transfer.
    granted: AtomicBool,
    bytes: AtomicU64,
}

impl Progress {
    pub(crate) fn start(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.granted.store(false, Ordering::Relaxed);
    }

    pub(crate) fn set_granted(&self) {
        self.granted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn granted(&self) -> bool {
        self.granted.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Where a path leads.
pub(crate) enum Place {
    /// `/`: the list of shares.
    Top,
    /// Inside a share.
    Inside(Tree, RelPath),
}

/// Everything one work may use.
pub(crate) struct Context {
    pub(crate) vfs: Vfs,
    pub(crate) options: Arc<FtpOptions>,
    pub(crate) client: Arc<Client>,
    pub(crate) peer: IpAddr,
    pub(crate) identity: Option<Arc<Identity>>,
    /// Replies before the last one (150).
    pub(crate) interim: mpsc::Sender<Reply>,
    pub(crate) cancel: CancellationToken,
    pub(crate) progress: Arc<Progress>,
    /// The control connection, for uploads.
    pub(crate) control: Option<Watch>,
    /// The client is a program on this machine.
    pub(crate) same_machine: bool,
    /// Present if data connections are protected.
    pub(crate) data_tls: Option<TlsAcceptor>,
}

impl Context {
    /// Tells the client that the transfer begins.
    pub(crate) fn begin(&self, reply: Reply) {
        self.progress.set_granted();
        // The channel holds more than the one reply that a work sends; if its reader is gone, so is the client.
        let _ = self.interim.try_send(reply);
    }

    /// The caller's view of the share that `path` leads into.
    pub(crate) fn locate(&self, path: &VirtualPath) -> Result<Place, VfsError> {
        let Some((share, inside)) = path.in_share()? else {
            return Ok(Place::Top);
        };
        let share = self
            .vfs
            .share(Protocol::Ftp, share)
            .ok_or(VfsError::NotFound)?;
        let identity = self.identity.clone().ok_or(VfsError::AccessDenied)?;
        let caller = Caller {
            identity,
            client: Arc::clone(&self.client),
        };
        Ok(Place::Inside(self.vfs.tree(&share, caller)?, inside))
    }

    /// As [`Context::locate`] for what must lie inside a share and below its root; otherwise the reply that refuses it.
    pub(crate) fn locate_entry(&self, path: &VirtualPath) -> Result<(Tree, RelPath), Reply> {
        match self.locate(path) {
            Ok(Place::Inside(_, inside)) if inside.is_root() => Err(reply::only_shares()),
            Ok(Place::Inside(tree, inside)) => Ok((tree, inside)),
            Ok(Place::Top) => Err(reply::only_shares()),
            Err(VfsError::NotFound) if path.parent() == VirtualPath::default() => {
                Err(reply::only_shares())
            }
            Err(error) => Err(reply::refused(path, &error)),
        }
    }

    /// The node that `path` means, symbolic links followed; `/` and unknown places are refused.
    pub(crate) async fn node(&self, path: &VirtualPath) -> Result<(Tree, Attributes), Reply> {
        match self.locate(path) {
            Ok(Place::Inside(tree, inside)) => match tree.resolve_following(&inside).await {
                Ok(attributes) => Ok((tree, attributes)),
                Err(error) => Err(reply::refused(path, &error)),
            },
            Ok(Place::Top) => Err(reply::only_shares()),
            Err(error) => Err(reply::refused(path, &error)),
        }
    }

    /// The folder that holds the entry `path` and the entry's name; the entry itself need not exist.
    pub(crate) async fn entry(&self, path: &VirtualPath) -> Result<(Tree, NodeId, String), Reply> {
        let (tree, inside) = self.locate_entry(path)?;
        let Some((parent, name)) = inside.split_last() else {
            return Err(reply::only_shares());
        };
        match tree.resolve_following(&parent).await {
            Ok(folder) => Ok((tree, folder.id, name.to_owned())),
            Err(VfsError::NotFound) => Err(reply::refused(path, &VfsError::PathNotFound)),
            Err(error) => Err(reply::refused(path, &error)),
        }
    }
}
