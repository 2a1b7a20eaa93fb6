//! The members as administrators see them: `sluice nodes`, `sluice node drain`, readiness.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_lockmgr::{EpochRegistry, Member, MemberState, PastReason, RegistryError};
use sluice_lockmgr_cluster::membership::{Cluster, PeerStatus, Standing};
use sluice_repo::RepoError;
use sluice_repo_postgres::PostgresRegistry;
use sluice_vfs::{AdminError, TableRow};

use super::PeerLink;

/// Former members that are shown.
const PAST_SHOWN: u32 = 8;

/// One line of `sluice nodes`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// `node.name`.
    pub name: String,
    /// "live", "joining", "draining", "silent" (its lease is over, nobody has fenced it yet), "fenced", "left", or "rogue"
    /// (fenced, but its process has not noticed).
    pub state: String,
    /// Its number in the cluster.
    pub id: u32,
    /// Which of its lives.
    pub epoch: u64,
    /// Where peers call it.
    pub address: String,
    /// Its software version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How long its lease still runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// Shards whose locks it coordinates, of 4096.
    pub shards: usize,
    /// How the answering node reaches it: "direct" or "through the database".
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub link: Option<String>,
    /// Whether it is the node that answers.
    pub this: bool,
    /// Why it is a member no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl NodeRecord {
    /// The only node of a repository that no cluster shares.
    pub fn alone(name: &str) -> NodeRecord {
        NodeRecord {
            name: name.to_owned(),
            state: "live".to_owned(),
            id: 0,
            epoch: 0,
            address: "-".to_owned(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            lease_ms: None,
            shards: 0,
            link: None,
            this: true,
            why: None,
        }
    }
}

/// A way to the registry for administration. Clones are the same one.
#[derive(Clone)]
pub struct ClusterView {
    registry: Arc<PostgresRegistry>,
    /// This node's place, if it is a member.
    cluster: Option<Arc<Cluster>>,
}

impl ClusterView {
    /// As a member sees it.
    pub fn of_member(registry: Arc<PostgresRegistry>, cluster: Arc<Cluster>) -> ClusterView {
        ClusterView {
            registry,
            cluster: Some(cluster),
        }
    }

    /// As a process sees it that is no member.
    pub fn from_outside(registry: Arc<PostgresRegistry>) -> ClusterView {
        ClusterView {
            registry,
            cluster: None,
        }
    }

    fn me(&self) -> Option<Member> {
        self.cluster.as_ref().map(|cluster| cluster.me())
    }

    /// Members, then those who have been members lately.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, AdminError> {
        self.list().await.map_err(refused)
    }

    async fn list(&self) -> Result<Vec<NodeRecord>, RegistryError> {
        let status = self.cluster.as_ref().map(|cluster| cluster.status());
        let link = |member: Member| {
            let peers = status.as_ref().map(|status| &status.peers)?;
            let peer = peers.iter().find(|peer| peer.member == member)?;
            Some(
                if peer.connected {
                    "direct"
                } else {
                    "through the database"
                }
                .to_owned(),
            )
        };
        let members = self.registry.members().await?;
        let mut past = self.registry.past_members(PAST_SHOWN).await?;
        // Those of `sluice cluster verify` were meant to end.
        past.retain(|row| row.name != crate::verify::probe::NAME);
        let survey = self.registry.survey().await?;
        let map = self.registry.shard_map().await?;
        let mut shards: HashMap<Member, usize> = HashMap::new();
        for owner in map.owners.iter().filter_map(|shard| shard.owner) {
            *shards.entry(owner).or_default() += 1;
        }
        let owned = |member: &Member| shards.get(member).copied().unwrap_or_default();
        let leases: HashMap<Member, Option<Duration>> = survey.leases.into_iter().collect();
        let mut nodes: Vec<NodeRecord> = members
            .members
            .into_iter()
            .map(|row| {
                let left = leases.get(&row.member).copied().flatten();
                NodeRecord {
                    state: word(row.state, left.is_some()).to_owned(),
                    id: row.member.id.0,
                    epoch: row.member.epoch.0,
                    address: row.advertise,
                    version: Some(row.version),
                    lease_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
                    shards: owned(&row.member),
                    link: link(row.member),
                    this: self.me() == Some(row.member),
                    name: row.name,
                    why: None,
                }
            })
            .collect();
        nodes.extend(past.into_iter().map(|row| {
            let (state, why) = ending(row.why);
            let rogue = survey.rogues.contains(&row.member);
            NodeRecord {
                state: if rogue { "rogue" } else { state }.to_owned(),
                id: row.member.id.0,
                epoch: row.member.epoch.0,
                address: row.advertise,
                version: None,
                lease_ms: None,
                shards: owned(&row.member),
                link: None,
                this: false,
                name: row.name,
                why: Some(why.to_owned()),
            }
        }));
        Ok(nodes)
    }

    /// Tells a node to give its shards away, finish with its clients and leave.
    ///
    /// # Errors
    /// There is no such node, it is the last one, or the database does not answer.
    pub async fn drain(&self, name: &str) -> Result<(), AdminError> {
        let me = self.me().ok_or_else(|| {
            AdminError::Invalid("this node does not run; ask on a node that does".into())
        })?;
        let members = self.registry.members().await.map_err(refused)?.members;
        let Some(node) = members.iter().find(|row| row.name == name) else {
            return Err(AdminError::NotFound(format!(
                "there is no node {name}; sluice nodes lists them"
            )));
        };
        let others = members
            .iter()
            .filter(|row| row.member != node.member && row.state == MemberState::Live);
        if others.count() == 0 {
            return Err(AdminError::Invalid(format!(
                "no other node could take the clients of {name}; stop it with SIGTERM"
            )));
        }
        self.registry
            .set_state(me, node.member, MemberState::Draining)
            .await
            .map_err(refused)
    }

    /// How this node reaches the others; nothing if it is not a member itself.
    pub fn links(&self) -> Option<Vec<PeerLink>> {
        let peers = self.cluster.as_ref()?.status().peers;
        let link = |peer: &PeerStatus| PeerLink {
            epoch: peer.member.epoch.0,
            direct: peer.connected,
        };
        Some(peers.iter().map(link).collect())
    }

    /// Whether this node may act now: its lease runs, which the database's last answer says.
    ///
    /// # Errors
    /// What is missing, for people.
    pub fn ready(&self) -> Result<(), String> {
        let Some(cluster) = &self.cluster else {
            return Err("this node does not run".to_owned());
        };
        let status = cluster.status();
        match (status.standing, status.alarm) {
            (Standing::Live | Standing::Draining, _) => Ok(()),
            (Standing::Frozen, Some(alarm)) => Err(alarm),
            (Standing::Frozen, None) => {
                Err("the database does not answer and the lease is over".to_owned())
            }
            (Standing::Joining, _) => Err("the cluster has not let it in yet".to_owned()),
            (Standing::Lost, _) => Err("the others have fenced it".to_owned()),
        }
    }
}

impl TableRow for NodeRecord {
    const HEADS: &'static [&'static str] = &[
        "NAME", "STATE", "LEASE", "EPOCH", "SHARDS", "ADDRESS", "LINK", "VERSION",
    ];

    fn cells(&self) -> Vec<String> {
        let lease = self.lease_ms.map_or("-".to_owned(), |left| {
            format!("{}.{} s", left / 1000, left % 1000 / 100)
        });
        let this = if self.this { " (this one)" } else { "" };
        vec![
            format!("{}{this}", self.name),
            self.state.clone(),
            lease,
            self.epoch.to_string(),
            self.shards.to_string(),
            self.address.clone(),
            self.link.clone().unwrap_or("-".to_owned()),
            self.version
                .clone()
                .or_else(|| self.why.clone())
                .unwrap_or_default(),
        ]
    }
}

fn word(state: MemberState, fresh: bool) -> &'static str {
    match state {
        _ if !fresh => "silent",
        MemberState::Joining => "joining",
        MemberState::Live => "live",
        MemberState::Draining => "draining",
    }
}

fn ending(why: PastReason) -> (&'static str, &'static str) {
    match why {
        PastReason::Left => ("left", "it left by itself"),
        PastReason::Expired => ("fenced", "its lease ran out"),
        PastReason::Dead => ("fenced", "its process was gone"),
        PastReason::Replaced => ("fenced", "a new life of the same node took its place"),
    }
}

fn refused(error: RegistryError) -> AdminError {
    AdminError::Repository(RepoError::Unavailable(error.to_string()))
}
