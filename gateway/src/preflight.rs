//! `sluice preflight`: the checklist before going live that a program can go through. Reads settings and looks at what they name; never
//! opens the repository, so it works beside a running node and before the first start.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sluice_config::{ContentUri, Encryption, FtpTls, MetadataUri, Settings};
use sluice_repo_postgres::ServerFacts;

/// Descriptors below which some hundred clients with open documents run out.
const DESCRIPTORS_MIN: u64 = 65_536;
/// Connections that one node may use.
const CONNECTIONS_PER_NODE: i32 = 20;
/// The oldest server that the statements are written for.
const POSTGRES_MIN: i32 = 130_000;

/// How an item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but look at it.
    Warning,
    /// Will not work, or not safely.
    Failed,
}

/// One item of the checklist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What was looked at: a key of the configuration, mostly.
    pub item: String,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found, and the remedy.
    pub detail: String,
}

fn item(name: &str, verdict: Verdict, detail: impl Into<String>) -> Item {
    Item {
        item: name.to_owned(),
        verdict,
        detail: detail.into(),
    }
}

/// Goes through the list.
pub(crate) async fn run(settings: &Settings) -> Vec<Item> {
    let mut items = vec![folder("node.state_dir", &settings.node.state_dir)];
    items.extend(metadata(settings).await);
    items.push(match &settings.repository.content {
        ContentUri::Folder(path) => folder("repository.content", path),
        ContentUri::S3 { bucket, .. } => item(
            "repository.content",
            Verdict::Ok,
            format!("bucket {bucket}; `sluice cluster verify` reads and writes it"),
        ),
    });
    items.extend(cluster(settings));
    items.extend(heads(settings));
    items.push(descriptors());
    items
}

/// A folder must take a file and sync it.
fn folder(name: &str, path: &Path) -> Item {
    let probe = path.join(format!(".preflight-{}", std::process::id()));
    let tried = std::fs::create_dir_all(path)
        .and_then(|()| std::fs::File::create(&probe))
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::File::open(path)?.sync_all());
    // Not there if it could not be made.
    let _ = std::fs::remove_file(&probe);
    match tried {
        Ok(()) => item(
            name,
            Verdict::Ok,
            format!("{} takes files and syncs them", path.display()),
        ),
        Err(error) => item(
            name,
            Verdict::Failed,
            format!(
                "{}: {error}; choose a folder that this user may write",
                path.display()
            ),
        ),
    }
}

async fn metadata(settings: &Settings) -> Vec<Item> {
    let name = "repository.metadata";
    let url = match &settings.repository.metadata {
        MetadataUri::Sqlite(path) => {
            let parent = path.parent().unwrap_or(Path::new("."));
            return vec![folder(name, parent)];
        }
        MetadataUri::Postgres(url) => url,
    };
    let facts = match ServerFacts::of(url).await {
        Ok(facts) => facts,
        Err(error) => return vec![item(name, Verdict::Failed, error.to_string())],
    };
    let mut items = vec![item(
        name,
        if facts.version >= POSTGRES_MIN && !facts.standby {
            Verdict::Ok
        } else {
            Verdict::Failed
        },
        match facts.standby {
            true => "a standby, which takes no changes; name the primary".to_owned(),
            false => format!("PostgreSQL {}", facts.version / 10_000),
        },
    )];
    items.push(if facts.durable {
        item("database durability", Verdict::Ok, "commits are synced")
    } else {
        let detail = format!("{}; set to on", facts.not_durable.join(", "));
        item("database durability", Verdict::Failed, detail)
    });
    items.push(match facts.synchronous_standbys {
        0 => item(
            "database standby",
            Verdict::Warning,
            "no synchronous standby: while this server is down, all nodes wait (synchronous_standby_names)",
        ),
        n => item("database standby", Verdict::Ok, format!("{n} synchronous")),
    });
    let nodes = facts.connections_max / CONNECTIONS_PER_NODE;
    items.push(item(
        "database connections",
        if nodes >= 3 {
            Verdict::Ok
        } else {
            Verdict::Warning
        },
        format!(
            "max_connections = {}: enough for {nodes} nodes",
            facts.connections_max
        ),
    ));
    items
}

fn cluster(settings: &Settings) -> Option<Item> {
    let cluster = settings.cluster.as_ref()?;
    let name = "cluster.secret_file";
    let path = &cluster.secret_file;
    Some(match std::fs::metadata(path) {
        Err(error) => item(
            name,
            Verdict::Failed,
            format!(
                "{}: {error}; make it once and copy it to every node",
                path.display()
            ),
        ),
        Ok(found) if found.permissions().mode() & 0o077 != 0 => item(
            name,
            Verdict::Failed,
            format!("{} can be read by others; chmod 600 it", path.display()),
        ),
        Ok(_) if cluster.advertise.ip().is_loopback() => item(
            "cluster.advertise",
            Verdict::Warning,
            "a loopback address: only nodes on this machine can join",
        ),
        Ok(_) => item(name, Verdict::Ok, "readable by this user alone"),
    })
}

fn heads(settings: &Settings) -> Vec<Item> {
    let mut items = Vec::new();
    let mut reach = |name: &str, listen: &[std::net::SocketAddr]| {
        if listen.iter().all(|address| address.ip().is_loopback()) {
            let detail = "loopback only: other machines can't connect";
            items.push(item(name, Verdict::Warning, detail));
        }
    };
    if let Some(smb) = &settings.smb {
        reach("smb.listen", &smb.listen);
    }
    if let Some(nfs) = &settings.nfs {
        reach("nfs.listen", &nfs.listen);
    }
    if let Some(ftp) = &settings.ftp {
        reach("ftp.listen", &ftp.listen);
    }
    if let Some(smb) = &settings.smb
        && smb.encryption != Encryption::Required
    {
        let detail = "not required: clients that do not ask for it send documents in the clear";
        items.push(item("smb.encryption", Verdict::Warning, detail));
    }
    if let Some(ftp) = &settings.ftp {
        if ftp.tls != FtpTls::Required {
            let detail = "not required: passwords may cross the network in the clear";
            items.push(item("ftp.tls", Verdict::Warning, detail));
        }
        if ftp.tls != FtpTls::Off && ftp.tls_cert.is_none() {
            let detail = "self-made: clients can't tell this server from another";
            items.push(item("ftp.tls_cert", Verdict::Warning, detail));
        }
    }
    for address in settings.admin.iter().flat_map(|admin| &admin.listen) {
        if !address.ip().is_loopback() {
            let detail =
                format!("{address} is reachable from elsewhere; keep it on a management network");
            items.push(item("admin.listen", Verdict::Warning, detail));
        }
    }
    items
}

fn descriptors() -> Item {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX);
    let verdict = if limit >= DESCRIPTORS_MIN {
        Verdict::Ok
    } else {
        Verdict::Warning
    };
    item(
        "open files",
        verdict,
        format!("limit {limit} (LimitNOFILE of the unit; {DESCRIPTORS_MIN} or more)"),
    )
}

/// The list for people.
pub(crate) fn table(items: &[Item]) -> String {
    let width = items.iter().map(|item| item.item.len()).max().unwrap_or(0);
    items
        .iter()
        .map(|item| {
            let verdict = match item.verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "look",
                Verdict::Failed => "FAILED",
            };
            format!("{verdict:<6}  {:<width$}  {}\n", item.item, item.detail)
        })
        .collect()
}
