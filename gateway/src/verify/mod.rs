//! `sluice cluster verify`: proves the cluster by doing. From every node to every other, over the real protocols, on a share of its own
//! that it removes again.
//!
//! Owns the scratch share and user, the list of checks and the table. It is a client like any other: it calls the heads where the
//! nodes say that they are, and never looks into a node.

mod checks;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cli::Door;

/// Folder of the repository in which the checks work.
const FOLDER: &str = ".sluice-verify";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the heads of a node are called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadAddresses {
    /// SMB.
    pub smb: Option<SocketAddr>,
    /// NFS.
    pub nfs: Option<SocketAddr>,
    /// FTP.
    pub ftp: Option<SocketAddr>,
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
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) heads: HeadAddresses,
}

/// Name, password and share of this run.
pub(crate) struct Scratch {
    pub(crate) share: String,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) uid: u32,
}

/// Runs every check; the verdicts, in the order in which they were made. What it made is removed also when a check fails.
///
/// # Errors
/// The node can't be asked, or the scratch share can't be made or removed.
pub(crate) async fn run(door: &Door) -> anyhow::Result<Vec<Verdict>> {
    let targets = targets(door).await?;
    anyhow::ensure!(
        !targets.is_empty(),
        "no live node tells where its heads are; start one with: sluice serve"
    );
    let scratch = make(door, &targets).await?;
    let checked = tokio::task::spawn_blocking({
        let (share, user) = (scratch.share.clone(), scratch.user.clone());
        let password = scratch.password.clone();
        let uid = scratch.uid;
        move || {
            let scratch = Scratch {
                share,
                user,
                password,
                uid,
            };
            verify(&targets, &scratch)
        }
    })
    .await;
    remove(door, &scratch).await?;
    checked.context("the checks broke off")
}

async fn targets(door: &Door) -> anyhow::Result<Vec<Target>> {
    let nodes = door.call(Method::GET, "/nodes", None).await?;
    let mut targets = Vec::new();
    for node in nodes.as_array().into_iter().flatten() {
        if !matches!(node["state"].as_str(), Some("live" | "draining")) {
            continue;
        }
        let name = node["name"].as_str().unwrap_or_default().to_owned();
        let heads = door
            .call(Method::GET, &format!("/nodes/{name}/heads"), None)
            .await?;
        targets.push(Target {
            heads: serde_json::from_value(heads).context("the node's answer can't be read")?,
            name,
        });
    }
    Ok(targets)
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

fn verify(targets: &[Target], scratch: &Scratch) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for from in targets {
        for to in targets {
            for (name, check) in checks::ALL {
                let begin = Instant::now();
                let outcome = check(from, to, scratch);
                verdicts.push(Verdict {
                    check: (*name).to_owned(),
                    from: from.name.clone(),
                    to: to.name.clone(),
                    ok: outcome.is_ok(),
                    ms: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
                    detail: match outcome {
                        Ok(note) => note,
                        Err(error) => format!("{error:#}"),
                    },
                });
            }
        }
    }
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
