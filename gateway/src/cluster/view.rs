//! The members as administrators see them: `sluice nodes`, `sluice node drain`, readiness.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_lockmgr::{EpochRegistry, Member, MemberState, PastReason, RegistryError};
use sluice_repo::RepoError;
use sluice_repo_postgres::PostgresRegistry;
use sluice_vfs::{AdminError, TableRow};

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
            this: true,
            why: None,
        }
    }
}

/// A way to the registry for administration. Clones are the same one.
#[derive(Clone)]
pub struct ClusterView {
    registry: Arc<PostgresRegistry>,
    /// This node, if it is a member.
    me: Option<Member>,
}

impl ClusterView {
    /// As a member sees it, or somebody from outside.
    pub fn new(registry: Arc<PostgresRegistry>, me: Option<Member>) -> ClusterView {
        ClusterView { registry, me }
    }

    /// Members, then those who have been members lately.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, AdminError> {
        self.list().await.map_err(refused)
    }

    async fn list(&self) -> Result<Vec<NodeRecord>, RegistryError> {
        let members = self.registry.members().await?;
        let past = self.registry.past_members(PAST_SHOWN).await?;
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
                    this: self.me == Some(row.member),
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
        let me = self.me.ok_or_else(|| {
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

    /// Whether this node may act now: the database answers and its lease runs.
    ///
    /// # Errors
    /// What is missing, for people.
    pub async fn ready(&self) -> Result<(), String> {
        let survey = self
            .registry
            .survey()
            .await
            .map_err(|error| error.to_string())?;
        let fresh = survey
            .leases
            .iter()
            .any(|(member, left)| Some(*member) == self.me && left.is_some());
        if fresh {
            Ok(())
        } else {
            Err("this node's lease has run out".to_owned())
        }
    }

    /// Whether this node is told to drain and has no shards left.
    pub async fn drained(&self) -> bool {
        let Some(me) = self.me else { return false };
        let Ok(list) = self.registry.members().await else {
            return false;
        };
        let draining = list
            .members
            .iter()
            .any(|row| row.member == me && row.state == MemberState::Draining);
        if !draining {
            return false;
        }
        match self.registry.shard_map().await {
            Ok(map) => map.owners.iter().all(|shard| shard.owner != Some(me)),
            Err(_) => false,
        }
    }
}

impl TableRow for NodeRecord {
    const HEADS: &'static [&'static str] = &[
        "NAME", "STATE", "LEASE", "EPOCH", "SHARDS", "ADDRESS", "VERSION",
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
