//! This node's place in the cluster: joins, gives out the [`Peers`], takes part, drains and leaves.
//!
//! ```text
//! let cluster = Cluster::join(options, registry, transport).await?;   the node has a number, an epoch and a lease
//! let locks = ClusterLocks::new(cluster.peers(), ...);
//! cluster.run(handler).await?;                                        admitted: events and messages come
//! select! { () = cluster.lost() => rebuild everything under a new epoch, ... }
//! cluster.drain().await; cluster.leave().await;
//! ```
//! `run` is to follow `join` within a few seconds, or the lease has run out. The transport outlives a lost membership: the
//! next `join` takes the same one.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use sluice_lockmgr::{
    ClusterIdentity, EpochRegistry, JoinRequest, Joined, LifeLock, Member, MemberState,
    RegistryError, ShardMap,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::ClusterHandler;
use super::clock::{BootClock, LeaseClock, Validity};
use super::driver::{Driver, Milestones, bounded};
use super::machine::{Input, Machine, Phase, Timing};
use crate::transport::handshake::ClusterSecret;
use crate::transport::links::{LinkNote, Links, Shared};
use crate::transport::{Peers, Speaks, Stranger, Transport};

/// Pause between two attempts to join.
const JOIN_RETRY: Duration = Duration::from_millis(200);

/// What a node needs to join.
pub struct JoinOptions {
    /// The node's name; unique in the cluster.
    pub name: String,
    /// Where the others call it.
    pub advertise: String,
    /// Software version, for the administrator.
    pub version: String,
    /// The cluster secret.
    pub secret: ClusterSecret,
    /// The cluster that this node belonged to before, if any: another one is refused.
    pub expected: Option<[u8; 16]>,
    /// How long to try to join and to be admitted.
    pub patience: Duration,
    /// The clock of the own lease.
    pub clock: Arc<dyn LeaseClock>,
    /// Versions of the peer protocol; another than [`Speaks::OURS`] is for tests.
    pub speaks: Speaks,
}

impl JoinOptions {
    /// Options with the usual patience and clock.
    #[must_use]
    pub fn new(name: String, advertise: String, version: String, secret: ClusterSecret) -> Self {
        Self {
            name,
            advertise,
            version,
            secret,
            expected: None,
            patience: Duration::from_secs(20),
            clock: Arc::new(BootClock),
            speaks: Speaks::OURS,
        }
    }
}

/// Why a node does not take part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The registry refused or was not reached in time.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Nobody could call the node at its advertised address.
    #[error(
        "no member of the cluster could call this node at {0}; check [cluster] advertise and the firewall, and that all nodes have the same secret"
    )]
    NotCalledBack(String),
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    NoRandom,
}

/// How a node stands in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not admitted yet.
    Joining,
    /// Takes part.
    Live,
    /// Takes part and gives its shards away.
    Draining,
    /// Without a lease at present.
    Frozen,
    /// Fenced.
    Lost,
}

/// What this node sees of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which.
    pub member: Member,
    /// A connection stands; else messages go through the registry.
    pub connected: bool,
    /// Shards that it coordinates.
    pub shards: usize,
    /// The version of the peer protocol on the link, once it was connected.
    pub protocol: Option<u32>,
}

/// This node's own view of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// This incarnation.
    pub me: Member,
    /// How it stands.
    pub standing: Standing,
    /// Until the own lease ends, margin taken off.
    pub lease_left: Duration,
    /// Shards that it coordinates.
    pub shards: usize,
    /// Why it stays frozen, if somebody has to do something about it.
    pub alarm: Option<String>,
    /// The other members that take part.
    pub peers: Vec<PeerStatus>,
    /// Callers that were turned away, latest first.
    pub strangers: Vec<Stranger>,
}

/// See the module's head.
pub struct Cluster {
    me: Member,
    id: [u8; 16],
    advertise: String,
    patience: Duration,
    registry: Arc<dyn EpochRegistry>,
    clock: Arc<dyn LeaseClock>,
    validity: Arc<Validity>,
    machine: Arc<Mutex<Machine>>,
    links: Arc<Links>,
    inputs: mpsc::UnboundedSender<Input>,
    milestones: watch::Sender<Milestones>,
    /// Taken by `run`.
    fresh: Mutex<Option<Fresh>>,
}

struct Fresh {
    life: Box<dyn LifeLock>,
    heard: mpsc::UnboundedReceiver<Input>,
    notes: mpsc::UnboundedReceiver<LinkNote>,
}

impl Cluster {
    /// Proves that this is the right cluster, and gets a number, an epoch and a lease. Other nodes can call already.
    pub async fn join(
        options: JoinOptions,
        registry: Arc<dyn EpochRegistry>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, JoinError> {
        let deadline = Instant::now() + options.patience;
        let (id, joined, sent) = loop {
            match join_once(&options, registry.as_ref()).await {
                Err(JoinError::Registry(
                    error @ (RegistryError::Unavailable(_) | RegistryError::NameTaken { .. }),
                )) if Instant::now() < deadline => {
                    tracing::info!(%error, "can't join the cluster yet; trying again");
                    sleep(JOIN_RETRY).await;
                }
                outcome => break outcome?,
            }
        };
        let timing = Timing::for_lease(registry.lease_time());
        let machine = Machine::new(joined.member, options.advertise.clone(), timing, sent);
        let (inputs, heard) = mpsc::unbounded_channel();
        let (noted, notes) = mpsc::unbounded_channel();
        let validity = Arc::new(Validity::new(Arc::clone(&options.clock)));
        let shared = Shared {
            me: joined.member,
            speaks: options.speaks,
            cluster: id,
            transport,
            registry: Arc::clone(&registry),
            handler: OnceLock::new(),
            notes: noted,
            stopped: CancellationToken::new(),
            relaying: AtomicUsize::new(0),
            mail: Notify::new(),
        };
        tracing::info!(me = %joined.member, advertise = %options.advertise, "joined the cluster; waiting to be called back");
        Ok(Self {
            me: joined.member,
            id,
            advertise: options.advertise,
            patience: options.patience,
            registry,
            clock: options.clock,
            links: Links::new(shared, Arc::clone(&validity)),
            validity,
            machine: Arc::new(Mutex::new(machine)),
            inputs,
            milestones: watch::Sender::default(),
            fresh: Mutex::new(Some(Fresh {
                life: joined.life,
                heard,
                notes,
            })),
        })
    }

    /// This incarnation.
    #[must_use]
    pub fn me(&self) -> Member {
        self.me
    }

    /// The cluster's id: to be remembered and given as [`JoinOptions::expected`] from now on.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// Sends to the others.
    #[must_use]
    pub fn peers(&self) -> Arc<dyn Peers> {
        Arc::<Links>::clone(&self.links)
    }

    /// Takes part: events and messages go to `handler` from now on. Returns when this node is admitted; a second call
    /// only waits for that.
    pub async fn run(&self, handler: Arc<dyn ClusterHandler>) -> Result<(), JoinError> {
        let mut milestones = self.milestones.subscribe();
        let fresh = self.fresh.lock().take();
        if let Some(fresh) = fresh {
            // First and only setting: `fresh` is taken once.
            let _ = self.links.shared.handler.set(Arc::clone(&handler));
            let driver = Driver {
                me: self.me,
                machine: Arc::clone(&self.machine),
                links: Arc::clone(&self.links),
                registry: Arc::clone(&self.registry),
                handler,
                clock: Arc::clone(&self.clock),
                validity: Arc::clone(&self.validity),
                inputs: self.inputs.clone(),
                left_known: Arc::default(),
                milestones: self.milestones.clone(),
            };
            tokio::spawn(driver.run(fresh.life, fresh.heard, fresh.notes));
        }
        let admitted = milestones.wait_for(|m| m.admitted || m.lost);
        match timeout(self.patience, admitted).await {
            Ok(Ok(reached)) if reached.admitted => Ok(()),
            Ok(_) => Err(RegistryError::Fenced.into()),
            Err(_) => {
                self.leave().await;
                Err(JoinError::NotCalledBack(self.advertise.clone()))
            }
        }
    }

    /// Returns when this node is fenced: everything it held is gone and the daemon has to begin anew.
    pub async fn lost(&self) {
        // The sender lives in this value, so the wait can't fail.
        let _ = self.milestones.subscribe().wait_for(|m| m.lost).await;
    }

    /// Gives all shards away; returns when that is done, or this node is lost.
    pub async fn drain(&self) {
        let _ = self.inputs.send(Input::Drain);
        let mut milestones = self.milestones.subscribe();
        let _ = milestones.wait_for(|m| m.drained || m.lost).await;
    }

    /// Returns when this node was told to drain (by itself or by another node) and has given everything away.
    pub async fn drained(&self) {
        let mut milestones = self.milestones.subscribe();
        let _ = milestones.wait_for(|m| m.drained).await;
    }

    /// Asks another member to drain.
    pub async fn drain_other(&self, member: Member) -> Result<(), RegistryError> {
        bounded(
            self.registry
                .set_state(self.me, member, MemberState::Draining),
        )
        .await
    }

    /// Ends the membership and all links.
    pub async fn leave(&self) {
        self.stop();
        if let Err(error) = bounded(self.registry.leave(self.me)).await {
            tracing::warn!(%error, "this node's leave could not be recorded; the others notice by themselves");
        }
    }

    /// Ends all links without leaving, as the death of the process would.
    pub fn stop(&self) {
        self.validity.set(0);
        self.links.stop();
        drop(self.fresh.lock().take());
    }

    /// The owners of the shards as this node sees them.
    #[must_use]
    pub fn shard_map(&self) -> Arc<ShardMap> {
        Arc::clone(self.machine.lock().map())
    }

    /// For the administrator.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        let machine = self.machine.lock();
        let map = Arc::clone(machine.map());
        let owned = |member: Member| {
            let mine = map.iter().filter(|(_, row)| row.owner == Some(member));
            mine.count()
        };
        let peers = machine
            .members_up()
            .map(|member| PeerStatus {
                member,
                connected: self.links.is_connected(member),
                shards: owned(member),
                protocol: self.links.protocol(member),
            })
            .collect();
        let standing = match machine.phase() {
            Phase::Joining => Standing::Joining,
            Phase::Live if machine.is_draining() => Standing::Draining,
            Phase::Live => Standing::Live,
            Phase::Frozen => Standing::Frozen,
            Phase::Ended => Standing::Lost,
        };
        let left = machine.lease_until().saturating_sub(self.clock.now_ms());
        ClusterStatus {
            me: self.me,
            standing,
            lease_left: Duration::from_millis(left),
            shards: owned(self.me),
            alarm: self.milestones.borrow().alarm.clone(),
            peers,
            strangers: self.links.strangers(),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One attempt; also the moment before the join was sent, from which the first lease counts.
async fn join_once(
    options: &JoinOptions,
    registry: &dyn EpochRegistry,
) -> Result<([u8; 16], Joined, u64), JoinError> {
    let mut fresh = [0; 16];
    getrandom::fill(&mut fresh).map_err(|_| JoinError::NoRandom)?;
    let proposed = ClusterIdentity {
        id: fresh,
        secret_proof: options.secret.identity_proof(&fresh),
        schema: options.speaks.oldest,
    };
    let identity = bounded(registry.identity(&proposed)).await?;
    check_identity(options, &identity)?;
    let sent = options.clock.now_ms();
    let request = JoinRequest {
        name: options.name.clone(),
        advertise: options.advertise.clone(),
        version: options.version.clone(),
    };
    let joined = bounded(registry.join(&request)).await?;
    Ok((identity.id, joined, sent))
}

fn check_identity(options: &JoinOptions, identity: &ClusterIdentity) -> Result<(), RegistryError> {
    let wrong = |why: String| Err(RegistryError::WrongCluster(why));
    if let Some(expected) = options.expected
        && expected != identity.id
    {
        return wrong(format!(
            "this node belongs to cluster {:032x}, the database to {:032x}",
            u128::from_be_bytes(expected),
            u128::from_be_bytes(identity.id)
        ));
    }
    // All members speak the version that the cluster began with, so any two have one in common.
    let (ours, theirs) = (options.speaks, identity.schema);
    let began = Speaks {
        oldest: theirs,
        newest: theirs,
    };
    if ours.common(began).is_none() {
        return wrong(format!(
            "the cluster has peer protocol {theirs}, this node speaks {ours}: use a version of the program that speaks {theirs} too"
        ));
    }
    if !options
        .secret
        .identity_matches(&identity.id, &identity.secret_proof)
    {
        return wrong("the database was set up with another cluster secret".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
