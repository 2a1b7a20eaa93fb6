//! One running node: settings become stores, locks, file layer and heads here and nowhere else. Everything is bound before
//! anything serves, so that a wrong setting leaves nothing half-started.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sluice_config::{Encryption, FtpTls, MetadataUri, Settings, Signing};
use sluice_lockmgr::{LocalLocks, LockOptions, LockService, Member, MonotonicClock};
use sluice_repo::Repository;
use sluice_repo_postgres::{Database, Options as PostgresOptions, PostgresRepository, Writer};
use sluice_repo_sqlite::{Options as SqliteOptions, SqliteRepository};
use sluice_vfs::{Vfs, VfsOptions, VfsTimes};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::cluster::{ClusterView, Life, Seat};
use crate::housekeeping;
use crate::verify::HeadAddresses;

/// The stores and the file layer on them, without any head: what a running node and an offline command share.
pub struct Stack {
    /// The file layer.
    pub vfs: Vfs,
    /// The metadata store, to be closed last.
    pub repository: Arc<dyn Repository>,
    /// This node's life in its cluster, if it takes part in one.
    pub life: Option<Life>,
    /// What the first start made.
    pub first_password: Option<String>,
}

/// A node whose sockets are bound.
pub struct Node {
    stack: Stack,
    bound: Bound,
}

/// The sockets.
struct Bound {
    smb: Option<sluice_smb::SmbServer>,
    nfs: Option<sluice_nfs::NfsHead>,
    ftp: Option<sluice_ftp::FtpServer>,
    admin: Vec<TcpListener>,
    control: ControlSocket,
    token: admin::Token,
    heads: HeadAddresses,
}

/// The control socket's file; removed when the node stops.
struct ControlSocket {
    path: PathBuf,
    listener: UnixListener,
}

/// How long the heads of a lost node may take to let go.
const ABANDON_PATIENCE: Duration = Duration::from_secs(5);

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

/// Opens the stores for a process that has them to itself (the embedded default, or a command while no node runs) and
/// composes the file layer; makes the first user and share on an empty repository.
///
/// # Errors
/// One sentence with the key and the remedy.
pub async fn open_stack(settings: &Settings) -> anyhow::Result<Stack> {
    make_folder(&settings.node.state_dir, "node.state_dir")?;
    let repository: Arc<dyn Repository> = match &settings.repository.metadata {
        MetadataUri::Sqlite(database) => Arc::new(open_sqlite(database).await?),
        MetadataUri::Postgres(url) => {
            let database = crate::cluster::open_database(url).await?;
            Arc::new(open_postgres(database, Writer::Alone).await?)
        }
    };
    let locks = Arc::new(LocalLocks::new(
        LockOptions::default(),
        Arc::new(MonotonicClock::default()),
    ));
    let vfs = compose(settings, repository.clone(), locks, Member::default()).await?;
    finish(vfs, repository, None).await
}

/// The same as a member of a cluster, under a new epoch.
pub(crate) async fn open_member(settings: &Settings, seat: &Seat) -> anyhow::Result<Stack> {
    let life = seat.join().await?;
    let member = life.member();
    let database = seat.database().clone();
    let repository: Arc<dyn Repository> =
        Arc::new(open_postgres(database, Writer::Member(member)).await?);
    // Before the first message of another node, which may be for the file layer.
    let vfs = compose(settings, repository.clone(), life.locks(), member).await?;
    life.begin().await?;
    finish(vfs, repository, Some(life)).await
}

async fn open_sqlite(database: &Path) -> anyhow::Result<SqliteRepository> {
    if let Some(parent) = database
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        make_folder(parent, "repository.metadata")?;
    }
    SqliteRepository::open(SqliteOptions::new(database))
        .await
        .with_context(|| {
            format!(
                "repository.metadata: {} can't be opened",
                database.display()
            )
        })
}

async fn open_postgres(database: Database, writer: Writer) -> anyhow::Result<PostgresRepository> {
    PostgresRepository::open(database, PostgresOptions::new(writer))
        .await
        .context("repository.metadata: the database can't be used")
}

async fn compose(
    settings: &Settings,
    repository: Arc<dyn Repository>,
    locks: Arc<dyn LockService>,
    member: Member,
) -> anyhow::Result<Vfs> {
    let content =
        crate::content::open(&settings.repository, repository.as_ref(), member.epoch.0).await?;
    let mut times = VfsTimes::default();
    if let Some(nfs) = &settings.nfs {
        times.place_idle = Duration::from_millis(nfs.writer_idle_ms);
    }
    Vfs::new(VfsOptions {
        repository,
        content,
        locks,
        node: settings.node.name.clone(),
        member: u16::try_from(member.id.0).context("cluster: the node's number is too great")?,
        times,
    })
    .await
    .context("the repository can't be used")
}

async fn finish(
    vfs: Vfs,
    repository: Arc<dyn Repository>,
    life: Option<Life>,
) -> anyhow::Result<Stack> {
    let first = vfs.admin().first_start().await?;
    Ok(Stack {
        vfs,
        repository,
        life,
        first_password: first.map(|first| first.password),
    })
}

impl Stack {
    /// What administrators see of the cluster.
    pub fn cluster(&self) -> Option<ClusterView> {
        self.life.as_ref().map(Life::view)
    }

    /// Commits what is open, closes the stores, and leaves the cluster.
    ///
    /// # Errors
    /// Something could not be made durable; the log says what.
    pub async fn close(self) -> anyhow::Result<()> {
        if let Some(life) = &self.life {
            life.give_away().await;
        }
        let committed = self.vfs.shutdown().await;
        let closed = self.repository.close().await;
        // Last: what is committed is committed in the name of this membership.
        if let Some(life) = &self.life {
            life.leave().await;
        }
        committed.context("not everything could be committed")?;
        closed.context("the database could not be closed cleanly")
    }

    /// Lets go of everything without a commit: the others have fenced this node and would refuse it.
    async fn abandon(self) {
        self.vfs.abandon();
        if let Some(life) = &self.life {
            life.abandon();
        }
        // The commits that it still tries are refused; nothing else is to be closed.
        let _ = tokio::time::timeout(ABANDON_PATIENCE, self.repository.close()).await;
    }
}

impl Bound {
    fn node(self, stack: Stack) -> Node {
        Node { stack, bound: self }
    }
}

/// How a node's service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop, or drained.
    Stopped,
    /// The other nodes have fenced it: everything begins anew under another epoch.
    Lost,
}

impl Node {
    /// Opens the stores, joins the cluster if `seat` is one's, and binds every socket.
    ///
    /// # Errors
    /// One sentence: a port in use, an unusable folder, a certificate that doesn't load.
    pub async fn bind(settings: &Settings, seat: Option<&Seat>) -> anyhow::Result<Node> {
        let stack = match seat {
            Some(seat) => {
                make_folder(&settings.node.state_dir, "node.state_dir")?;
                open_member(settings, seat).await?
            }
            None => open_stack(settings).await?,
        };
        match Node::bind_heads(settings, &stack).await {
            Ok(bound) => Ok(bound.node(stack)),
            Err(error) => {
                // Nothing is open yet, so there is nothing to commit, but the others need not wait for the lease's end.
                let _ = stack.close().await;
                Err(error)
            }
        }
    }

    async fn bind_heads(settings: &Settings, stack: &Stack) -> anyhow::Result<Bound> {
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
        // The time that clients are given begins when it is known whom to tell, and before any head answers.
        vfs.keep_left_locks()
            .await
            .context("it can't be read which documents NFS clients had locked")?;
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
            links: None,
        };
        vfs.admin()
            .publish_facts(serde_json::to_vec(&heads)?)
            .await?;
        Ok(Bound {
            control,
            token,
            smb,
            nfs,
            ftp,
            admin,
            heads,
        })
    }

    /// The administrator's password, if this start made him.
    pub fn first_password(&self) -> Option<&str> {
        self.stack.first_password.as_deref()
    }

    /// Serves until `stop`, or until it is drained; then the heads take no more requests, finish those under way, and
    /// everything is committed. Ends at once, without committing, when the other nodes have fenced this one.
    ///
    /// # Errors
    /// Something could not be committed at the end.
    pub async fn serve(self, stop: CancellationToken) -> anyhow::Result<Ended> {
        let Node { stack, bound } = self;
        let heads_stop = CancellationToken::new();
        let heads = start_heads(bound.smb, bound.nfs, bound.ftp, &heads_stop);
        let ready = admin::Readiness::default();
        ready.set(true);
        let services = TaskTracker::new();
        let state = admin::AdminState::new(
            stack.vfs.clone(),
            stack.cluster(),
            bound.token,
            ready.clone(),
        );
        let services_stop = CancellationToken::new();
        for listener in bound.admin {
            services.spawn(admin::serve_tcp(
                listener,
                state.clone(),
                services_stop.clone(),
            ));
        }
        services.spawn(admin::serve_control(
            bound.control.listener,
            state.clone(),
            services_stop.clone(),
        ));
        services.spawn(housekeeping::run(stack.vfs.clone(), services_stop.clone()));
        if let Some(view) = stack.cluster() {
            let (vfs, stop) = (stack.vfs.clone(), services_stop.clone());
            services.spawn(crate::cluster::tell_links(vfs, view, bound.heads, stop));
        }
        services.close();
        let ended = wait_for_the_end(&stack, &stop).await;
        ready.set(false);
        if ended == Ended::Lost {
            tracing::error!(
                "the other nodes have fenced this one: all clients are cut off, and it begins anew"
            );
            // Frees all who wait for a lock that no longer means anything.
            stack.vfs.abandon();
        } else {
            tracing::info!("stopping: no new requests, those under way are finished");
        }
        heads_stop.cancel();
        if ended == Ended::Lost {
            services_stop.cancel();
        }
        drop(state);
        let over = async {
            heads.wait().await;
            services_stop.cancel();
            services.wait().await;
        };
        if ended == Ended::Lost {
            let _ = tokio::time::timeout(ABANDON_PATIENCE, over).await;
            stack.abandon().await;
            return Ok(ended);
        }
        over.await;
        // A leftover socket file is no harm (the next start replaces it); its absence only makes commands quicker.
        let _ = std::fs::remove_file(&bound.control.path);
        stack.close().await?;
        Ok(ended)
    }
}

fn start_heads(
    smb: Option<sluice_smb::SmbServer>,
    nfs: Option<sluice_nfs::NfsHead>,
    ftp: Option<sluice_ftp::FtpServer>,
    stop: &CancellationToken,
) -> TaskTracker {
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
    heads
}

async fn wait_for_the_end(stack: &Stack, stop: &CancellationToken) -> Ended {
    let Some(life) = &stack.life else {
        stop.cancelled().await;
        return Ended::Stopped;
    };
    tokio::select! {
        () = stop.cancelled() => Ended::Stopped,
        () = life.lost() => Ended::Lost,
        () = life.drained() => {
            tracing::info!("this node was told to drain and has given its shards away");
            Ended::Stopped
        }
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
