//! `sluice cluster verify`: proves the cluster by doing. From every node to every other, over the real protocols, on a share of its own
//! that it removes again.
//!
//! Owns the scratch share and user, the list of checks and the table. It is a client like any other: it calls the heads where the
//! nodes say that they are, and never looks into a node. What happens when a node is lost is shown on a probe of its own.

mod checks;
mod loss;
pub(crate) mod probe;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_config::Settings;

use crate::cli::Door;
use crate::cluster::PeerLink;

/// Folder of the repository in which the checks work.
const FOLDER: &str = ".sluice-verify";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Nodes tell within this that a connection to a peer stands.
const LINK_PATIENCE: Duration = Duration::from_secs(5);

/// Where the heads of a node are called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadAddresses {
    /// SMB.
    pub smb: Option<SocketAddr>,
    /// NFS.
    pub nfs: Option<SocketAddr>,
    /// FTP.
    pub ftp: Option<SocketAddr>,
    /// How it reaches the other nodes, if it takes part in a cluster and its version tells.
    #[serde(default)]
    pub links: Option<Vec<PeerLink>>,
}

/// One check of one pair of nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// What was checked.
    pub check: String,
    /// The node that changes or holds.
    pub from: String,
    /// The node that looks or asks.
    pub to: String,
    /// It holds.
    pub ok: bool,
    /// How long it took.
    pub ms: u64,
    /// Why not, or what was left out.
    pub detail: String,
}

/// A node to be verified.
#[derive(Clone, Debug)]
struct Target {
    name: String,
    epoch: u64,
    /// Where peers call it.
    address: String,
    heads: HeadAddresses,
}

/// Name, password and share of this run.
#[derive(Clone)]
struct Scratch {
    share: String,
    user: String,
    password: String,
    uid: u32,
}

/// How this run is to be made.
pub(crate) struct Plan {
    pub(crate) settings: Settings,
    /// The file of these settings, for the probe.
    pub(crate) config: Option<PathBuf>,
    /// Where the nodes call the probe; any free port if 0.
    pub(crate) probe_port: u16,
    /// Names of the checks to be made; all if empty.
    pub(crate) only: Vec<String>,
}

/// Checks that are not of two nodes over the protocols.
const PEER_LINK: &str = "peer link";
const FENCING: &str = "fencing";
const FAILOVER: &str = "failover";

impl Plan {
    fn wants(&self, check: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == check)
    }

    fn understood(&self) -> anyhow::Result<()> {
        let others = [PEER_LINK, FENCING, FAILOVER];
        let known = || checks::ALL.iter().map(|(name, _)| *name).chain(others);
        match self
            .only
            .iter()
            .find(|only| known().all(|name| name != **only))
        {
            None => Ok(()),
            Some(only) => anyhow::bail!(
                "there is no check {only:?}; these are: {}",
                known().collect::<Vec<_>>().join(", ")
            ),
        }
    }
}

/// Runs every check; the verdicts, in the order in which they were made. What it made is removed also when a check fails.
///
/// # Errors
/// The node can't be asked, or the scratch share can't be made or removed.
pub(crate) async fn run(door: &Door, plan: Plan) -> anyhow::Result<Vec<Verdict>> {
    plan.understood()?;
    let targets = targets(door).await?;
    anyhow::ensure!(
        !targets.is_empty(),
        "no live node tells where its heads are; start one with: sluice serve"
    );
    let mut verdicts = match plan.wants(PEER_LINK) {
        true => links(door, &targets).await?,
        false => Vec::new(),
    };
    let (targets, unreachable) = tokio::task::spawn_blocking(|| reach(targets)).await?;
    verdicts.extend(unreachable);
    let scratch = make(door, &targets).await?;
    let lab = loss::Lab {
        plan,
        runtime: tokio::runtime::Handle::current(),
    };
    let checked = tokio::task::spawn_blocking({
        let scratch = scratch.clone();
        move || verify(&lab, &targets, &scratch)
    })
    .await;
    remove(door, &scratch).await?;
    verdicts.extend(checked.context("the checks broke off")?);
    Ok(verdicts)
}

async fn targets(door: &Door) -> anyhow::Result<Vec<Target>> {
    let nodes = door.call(Method::GET, "/nodes", None).await?;
    let mut targets = Vec::new();
    for node in nodes.as_array().into_iter().flatten() {
        if !matches!(node["state"].as_str(), Some("live" | "draining")) {
            continue;
        }
        let name = node["name"].as_str().unwrap_or_default().to_owned();
        if name == probe::NAME {
            continue;
        }
        targets.push(Target {
            heads: heads(door, &name).await?,
            epoch: node["epoch"].as_u64().unwrap_or_default(),
            address: node["address"].as_str().unwrap_or_default().to_owned(),
            name,
        });
    }
    Ok(targets)
}

async fn heads(door: &Door, name: &str) -> anyhow::Result<HeadAddresses> {
    let path = format!("/nodes/{name}/heads");
    let heads = door.call(Method::GET, &path, None).await?;
    serde_json::from_value(heads).context("the node's answer can't be read")
}

/// Every node reaches every other without help, by what it says itself.
async fn links(door: &Door, targets: &[Target]) -> anyhow::Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for from in targets {
        for to in targets.iter().filter(|to| to.name != from.name) {
            let begin = Instant::now();
            let direct = |links: &[PeerLink]| {
                links
                    .iter()
                    .any(|link| link.epoch == to.epoch && link.direct)
            };
            let mut links = from.heads.links.clone();
            while !links.as_deref().is_some_and(direct) && begin.elapsed() < LINK_PATIENCE {
                tokio::time::sleep(Duration::from_millis(200)).await;
                links = heads(door, &from.name).await?.links;
            }
            let outcome = match links {
                None => Ok(format!("the version of {} does not tell", from.name)),
                Some(links) if direct(&links) => Ok(String::new()),
                Some(_) => Err(anyhow::anyhow!(
                    "no connection, messages go through the database; check that {} can be called from {} ([cluster] advertise, firewall)",
                    to.address,
                    from.name
                )),
            };
            verdicts.push(judge(PEER_LINK, &from.name, &to.name, begin, outcome));
        }
    }
    Ok(verdicts)
}

/// Those whose heads can be called from here; a verdict for each of the others, which are left out of all further checks.
fn reach(targets: Vec<Target>) -> (Vec<Target>, Vec<Verdict>) {
    let mut verdicts = Vec::new();
    let reached = targets.into_iter().filter(|target| {
        let begin = Instant::now();
        let heads = &target.heads;
        let mut calls = [("SMB", heads.smb), ("NFS", heads.nfs), ("FTP", heads.ftp)]
            .into_iter()
            .filter_map(|(head, address)| Some((head, address?)));
        let failed = calls.find_map(|(head, address)| {
            let called = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT);
            called.err().map(|error| (head, address, error))
        });
        let Some((head, address, error)) = failed else {
            return true;
        };
        let why = anyhow::anyhow!(
            "{head} at {address} can't be called from here ({error}); clients can't either; the node is left out"
        );
        verdicts.push(judge("heads", "here", &target.name, begin, Err(why)));
        false
    });
    let reached = reached.collect();
    (reached, verdicts)
}

fn judge(
    check: &str,
    from: &str,
    to: &str,
    begin: Instant,
    outcome: anyhow::Result<String>,
) -> Verdict {
    Verdict {
        check: check.to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        ok: outcome.is_ok(),
        ms: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
        detail: match outcome {
            Ok(note) => note,
            Err(error) => format!("{error:#}"),
        },
    }
}

/// This machine's addresses as the nodes see them: the scratch share is exported to them alone.
fn own_addresses(targets: &[Target]) -> Vec<IpAddr> {
    let mut own: Vec<IpAddr> = targets
        .iter()
        .filter_map(|target| target.heads.nfs)
        .filter_map(|address| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).ok())
        .filter_map(|stream| stream.local_addr().ok())
        .map(|address| address.ip().to_canonical())
        .collect();
    own.sort();
    own.dedup();
    own
}

async fn make(door: &Door, targets: &[Target]) -> anyhow::Result<Scratch> {
    let tag = random_tag()?;
    let name = format!("sluice-verify-{tag}");
    let password = random_tag()? + &random_tag()?;
    let targets = targets.to_vec();
    let own = tokio::task::spawn_blocking(move || own_addresses(&targets)).await?;
    let user = json!({
        "name": name, "password": password, "uid": null, "gid": null, "groups": [], "admin": false
    });
    let user = door.call(Method::POST, "/users", Some(user)).await?;
    let scratch = Scratch {
        share: name.clone(),
        user: name.clone(),
        password,
        uid: user["uid"]
            .as_u64()
            .and_then(|uid| u32::try_from(uid).ok())
            .unwrap_or(0),
    };
    let made = async {
        // One folder for all runs: a share can be removed, its folder stays.
        let share = json!({ "path": FOLDER, "hidden": true, "nfs_clients": own });
        door.call(Method::POST, &format!("/shares/{name}"), Some(share))
            .await?;
        // Conflicts are told at once, so that a check does not wait out a client's patience.
        let rule = json!({ "share": name, "on_conflict": "reject" });
        door.call(Method::POST, "/policies", Some(rule)).await
    };
    match made.await {
        Ok(_) => Ok(scratch),
        Err(error) => {
            remove(door, &scratch).await?;
            Err(error.context("the scratch share can't be made"))
        }
    }
}

async fn remove(door: &Door, scratch: &Scratch) -> anyhow::Result<()> {
    let rules = door.call(Method::GET, "/policies", None).await?;
    for rule in rules.as_array().into_iter().flatten() {
        if rule["share"] == scratch.share.as_str() {
            let path = format!("/policies/{}", rule["id"]);
            door.call(Method::DELETE, &path, None).await?;
        }
    }
    let shares = door.call(Method::GET, "/shares", None).await?;
    let exists = |list: &Value, name: &str| {
        list.as_array()
            .is_some_and(|rows| rows.iter().any(|row| row["name"] == name))
    };
    if exists(&shares, &scratch.share) {
        let path = format!("/shares/{}", scratch.share);
        door.call(Method::DELETE, &path, None).await?;
    }
    let path = format!("/users/{}", scratch.user);
    door.call(Method::DELETE, &path, None).await?;
    Ok(())
}

fn random_tag() -> anyhow::Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn verify(lab: &loss::Lab, targets: &[Target], scratch: &Scratch) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for from in targets {
        for to in targets {
            for (name, check) in checks::ALL.iter().filter(|(name, _)| lab.plan.wants(name)) {
                let begin = Instant::now();
                let outcome = check(from, to, scratch);
                verdicts.push(judge(name, &from.name, &to.name, begin, outcome));
            }
        }
    }
    verdicts.extend(loss::all(lab, targets, scratch));
    for target in targets {
        // What can't be removed shows in the share's folder, and `sluice check` does not mind it.
        let _ = checks::clean(target, scratch);
    }
    verdicts
}

/// The table for people.
pub(crate) fn table(verdicts: &[Verdict]) -> String {
    let width = |of: fn(&Verdict) -> &str, least: usize| {
        verdicts
            .iter()
            .map(|verdict| of(verdict).len())
            .max()
            .unwrap_or(0)
            .max(least)
    };
    let (check, from, to) = (
        width(|v| &v.check, 5),
        width(|v| &v.from, 4),
        width(|v| &v.to, 2),
    );
    let mut text = format!(
        "{:<check$}  {:<from$}  {:<to$}  RESULT  {:>6}  DETAIL\n",
        "CHECK", "FROM", "TO", "MS"
    );
    for v in verdicts {
        let result = if v.ok { "ok" } else { "FAILED" };
        text.push_str(
            format!(
                "{:<check$}  {:<from$}  {:<to$}  {result:<6}  {:>6}  {}",
                v.check, v.from, v.to, v.ms, v.detail
            )
            .trim_end(),
        );
        text.push('\n');
    }
    text
}
