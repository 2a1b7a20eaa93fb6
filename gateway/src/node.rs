//! One running node: settings become stores, locks, file layer and heads here and nowhere else. Everything is bound before
//! anything serves, so that a wrong setting leaves nothing half-started.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sluice_config::{Encryption, FtpTls, MetadataUri, Settings, Signing};
use sluice_lockmgr::{LocalLocks, LockOptions, MonotonicClock};
use sluice_repo::Repository;
use sluice_repo_sqlite::{Options as SqliteOptions, SqliteRepository};
use sluice_vfs::{Vfs, VfsOptions, VfsTimes};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::cluster::ClusterView;
use crate::housekeeping;
use crate::verify::HeadAddresses;

/// The stores and the file layer on them, without any head: what a running node and an offline command share.
pub struct Stack {
    /// The file layer.
    pub vfs: Vfs,
    /// The metadata store, to be closed last.
    pub repository: Arc<dyn Repository>,
    /// The cluster, if the repository is one's.
    pub cluster: Option<ClusterView>,
    /// What the first start made.
    pub first_password: Option<String>,
}

/// A node whose sockets are bound.
pub struct Node {
    stack: Stack,
    smb: Option<sluice_smb::SmbServer>,
    nfs: Option<sluice_nfs::NfsHead>,
    ftp: Option<sluice_ftp::FtpServer>,
    admin: Vec<TcpListener>,
    control: ControlSocket,
    token: admin::Token,
}

/// The control socket's file; removed when the node stops.
struct ControlSocket {
    path: PathBuf,
    listener: UnixListener,
}

/// Where a node's control socket is.
pub fn control_path(settings: &Settings) -> PathBuf {
    settings.node.state_dir.join("control.sock")
}

pub(crate) fn make_folder(path: &Path, key: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(path).with_context(|| {
        format!(
            "{key}: the folder {} can't be made; choose one that this user may write",
            path.display()
        )
    })
}

/// Opens the stores and composes the file layer; makes the first user and share on an empty repository.
///
/// # Errors
/// One sentence with the key and the remedy.
pub async fn open_stack(settings: &Settings) -> anyhow::Result<Stack> {
    make_folder(&settings.node.state_dir, "node.state_dir")?;
    let MetadataUri::Sqlite(database) = &settings.repository.metadata else {
        anyhow::bail!("repository.metadata: this version serves SQLite only");
    };
    if let Some(parent) = database
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        make_folder(parent, "repository.metadata")?;
    }
    let repository: Arc<dyn Repository> = Arc::new(
        SqliteRepository::open(SqliteOptions::new(database))
            .await
            .with_context(|| {
                format!(
                    "repository.metadata: {} can't be opened",
                    database.display()
                )
            })?,
    );
    let content = crate::content::open(&settings.repository, repository.as_ref(), 0).await?;
    let mut times = VfsTimes::default();
    if let Some(nfs) = &settings.nfs {
        times.place_idle = Duration::from_millis(nfs.writer_idle_ms);
    }
    let vfs = Vfs::new(VfsOptions {
        repository: repository.clone(),
        content,
        locks: Arc::new(LocalLocks::new(
            LockOptions::default(),
            Arc::new(MonotonicClock::default()),
        )),
        node: settings.node.name.clone(),
        member: 0,
        times,
    })
    .await
    .context("the repository can't be used")?;
    let first = vfs.admin().first_start().await?;
    Ok(Stack {
        vfs,
        repository,
        cluster: None,
        first_password: first.map(|first| first.password),
    })
}

impl Stack {
    /// Commits what is open and closes the stores.
    ///
    /// # Errors
    /// Something could not be made durable; the log says what.
    pub async fn close(self) -> anyhow::Result<()> {
        self.vfs
            .shutdown()
            .await
            .context("not everything could be committed")?;
        self.repository
            .close()
            .await
            .context("the database could not be closed cleanly")?;
        Ok(())
    }
}

impl Node {
    /// Opens the stores and binds every socket.
    ///
    /// # Errors
    /// One sentence: a port in use, an unusable folder, a certificate that doesn't load.
    pub async fn bind(settings: &Settings) -> anyhow::Result<Node> {
        let stack = open_stack(settings).await?;
        let vfs = &stack.vfs;
        let nfs = match &settings.nfs {
            Some(nfs) => Some(
                sluice_nfs::NfsHead::bind(
                    vfs.clone(),
                    sluice_nfs::NfsOptions {
                        proxies: proxies(settings),
                        ..sluice_nfs::NfsOptions::new(nfs.listen.clone())
                    },
                )
                .await
                .context("nfs.listen: choose a free address")?,
            ),
            None => None,
        };
        let ftp = match &settings.ftp {
            Some(ftp) => Some(
                sluice_ftp::FtpServer::bind(ftp_options(ftp, settings)?, vfs.clone())
                    .await
                    .context("ftp.listen: choose a free address")?,
            ),
            None => None,
        };
        let mut admin = Vec::new();
        for address in settings.admin.iter().flat_map(|admin| &admin.listen) {
            admin.push(TcpListener::bind(address).await.with_context(|| {
                format!("admin.listen: {address} can't be listened on; choose a free address")
            })?);
        }
        let control = ControlSocket::bind(control_path(settings))?;
        let token = admin::Token::load_or_make(&settings.node.state_dir.join("admin.token"))?;
        // Last, because this head accepts as soon as it is bound.
        let smb = match &settings.smb {
            Some(smb) => Some(
                sluice_smb::SmbServer::start(vfs.clone(), &smb.listen, smb_options(smb, settings))
                    .await
                    .context("smb.listen: choose a free address")?,
            ),
            None => None,
        };
        let heads = HeadAddresses {
            smb: smb
                .as_ref()
                .and_then(|smb| reachable(smb.addresses(), settings)),
            nfs: nfs
                .as_ref()
                .and_then(|nfs| reachable(&nfs.addresses(), settings)),
            ftp: ftp
                .as_ref()
                .and_then(|ftp| reachable(&ftp.local_addresses(), settings)),
        };
        vfs.admin()
            .publish_facts(serde_json::to_vec(&heads)?)
            .await?;
        Ok(Node {
            control,
            token,
            stack,
            smb,
            nfs,
            ftp,
            admin,
        })
    }

    /// The administrator's password, if this start made him.
    pub fn first_password(&self) -> Option<&str> {
        self.stack.first_password.as_deref()
    }

    /// Serves until `stop`; then the heads take no more requests, finish those under way, and everything is committed.
    ///
    /// # Errors
    /// Something could not be committed at the end.
    pub async fn serve(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Node {
            stack,
            smb,
            nfs,
            ftp,
            admin,
            control,
            token,
        } = self;
        let heads = TaskTracker::new();
        if let Some(smb) = smb {
            let stop = stop.clone();
            heads.spawn(async move {
                stop.cancelled().await;
                smb.stop().await;
            });
        }
        if let Some(nfs) = nfs {
            heads.spawn(nfs.serve(stop.clone()));
        }
        if let Some(ftp) = ftp {
            heads.spawn(ftp.serve(stop.clone()));
        }
        heads.close();
        let ready = admin::Readiness::default();
        ready.set(true);
        let services = TaskTracker::new();
        let state = admin::AdminState::new(
            stack.vfs.clone(),
            stack.cluster.clone(),
            token,
            ready.clone(),
        );
        let services_stop = CancellationToken::new();
        for listener in admin {
            services.spawn(admin::serve_tcp(
                listener,
                state.clone(),
                services_stop.clone(),
            ));
        }
        services.spawn(admin::serve_control(
            control.listener,
            state.clone(),
            services_stop.clone(),
        ));
        services.spawn(housekeeping::run(stack.vfs.clone(), services_stop.clone()));
        services.close();
        stop.cancelled().await;
        ready.set(false);
        tracing::info!("stopping: no new requests, those under way are finished");
        heads.wait().await;
        services_stop.cancel();
        services.wait().await;
        drop(state);
        // A leftover socket file is no harm (the next start replaces it); its absence only makes commands quicker.
        let _ = std::fs::remove_file(&control.path);
        stack.close().await
    }
}

impl ControlSocket {
    fn bind(path: PathBuf) -> anyhow::Result<ControlSocket> {
        // The stores are open, so no other node of this repository runs: a file here is a leftover.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("node.state_dir: {} can't be made", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("node.state_dir: {} can't be protected", path.display()))?;
        Ok(ControlSocket { path, listener })
    }
}

/// Where other nodes' administrators call a head: its first address, with the node's own in place of "any".
fn reachable(addresses: &[SocketAddr], settings: &Settings) -> Option<SocketAddr> {
    let first = *addresses.first()?;
    if !first.ip().is_unspecified() {
        return Some(first);
    }
    let own = settings
        .cluster
        .as_ref()
        .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |cluster| {
            cluster.advertise.ip()
        });
    Some(SocketAddr::new(own, first.port()))
}

fn proxies(settings: &Settings) -> sluice_proxy::Proxies {
    sluice_proxy::Proxies::new(settings.node.proxy_protocol_from.iter().copied())
}

fn smb_options(smb: &sluice_config::Smb, settings: &Settings) -> sluice_smb::SmbOptions {
    sluice_smb::SmbOptions {
        signing_required: smb.signing == Signing::Required,
        encryption_required: smb.encryption == Encryption::Required,
        host_name: settings.node.name.clone(),
        proxies: proxies(settings),
        ..sluice_smb::SmbOptions::default()
    }
}

fn ftp_options(
    ftp: &sluice_config::Ftp,
    settings: &Settings,
) -> anyhow::Result<sluice_ftp::FtpOptions> {
    let tls_mode = match ftp.tls {
        FtpTls::Required => sluice_ftp::TlsMode::Required,
        FtpTls::Offered => sluice_ftp::TlsMode::Offered,
        FtpTls::Off => sluice_ftp::TlsMode::Off,
    };
    let tls = if tls_mode == sluice_ftp::TlsMode::Off {
        None
    } else {
        let mut names = vec!["localhost".to_owned(), settings.node.name.clone()];
        names.extend(ftp.listen.iter().map(|address| address.ip().to_string()));
        names.dedup();
        let configured = ftp.tls_cert.as_deref().zip(ftp.tls_key.as_deref());
        Some(crate::tls::server_config(
            configured,
            &settings.node.state_dir,
            &names,
        )?)
    };
    Ok(sluice_ftp::FtpOptions {
        listen: ftp.listen.clone(),
        passive_ports: Some(ftp.passive_ports.first..=ftp.passive_ports.last),
        passive_address: ftp.passive_address,
        tls,
        tls_mode,
        active_mode: ftp.active,
        listen_implicit_tls: ftp.listen_implicit_tls.clone(),
        proxies: proxies(settings),
        ..sluice_ftp::FtpOptions::default()
    })
}
