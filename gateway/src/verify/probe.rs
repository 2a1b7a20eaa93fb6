//! The probe: a member of the cluster that nobody depends on, in a process of its own, which `sluice cluster verify` starts, asks
//! and kills. It joins like any node, coordinates nothing, and has an SMB head on loopback for the verifying process alone.
//!
//! Never works on anything but the documents that it is asked for. It ends with the end of its standard input, so that none stays
//! behind.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sluice_config::Settings;
use sluice_lockmgr::{EpochRegistry, Member, MemberEpoch, MemberId, ShardEpoch, shard_of};
use sluice_repo::{
    AttributeChange, CaseMode, Commit, ContentId, FencingToken, LastLink, Manifest, NameRef,
    NodeId, OpId, Origin, ROOT, RepoError, Repository, WriteSession,
};

use crate::cluster::Seat;
use crate::node::{Stack, open_member};

/// Its name among the nodes: one for all, so that two do not run at once and names are not used up.
pub(crate) const NAME: &str = "sluice-verify";

/// Said once it takes part.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Greeting {
    pub(super) id: u32,
    pub(super) epoch: u64,
    pub(super) smb: SocketAddr,
}

impl Greeting {
    /// Before it greets.
    pub(super) fn nowhere() -> Greeting {
        Greeting {
            id: 0,
            epoch: 0,
            smb: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        }
    }

    pub(super) fn member(self) -> Member {
        Member {
            id: MemberId(self.id),
            epoch: MemberEpoch(self.epoch),
        }
    }
}

/// The right under which a commit is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Right {
    /// The one that holds now.
    Current,
    /// Of the shard's owner before.
    OldShard,
    /// As if the document had been taken away from everybody by force.
    Forced,
}

/// What is to be done to a document of the scratch folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// A commit is to be tried.
    Commit { document: String, right: Right },
    /// The document is to go, whatever anybody holds of it.
    Remove { document: String },
}

/// What the probe's commits say.
const BYTES: &[u8] = b"by the probe";

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Told {
    Done,
    Fenced,
    Failed(String),
}

/// Runs until standard input ends or it is killed.
///
/// # Errors
/// One sentence: it can't join.
pub(crate) async fn run(
    settings: &Settings,
    listen: SocketAddr,
    state: PathBuf,
) -> anyhow::Result<()> {
    let settings = own_settings(settings, listen, state)?;
    let seat = Seat::take(&settings)
        .await?
        .context("repository.metadata: there is no cluster without a shared database")?;
    crate::node::make_folder(&settings.node.state_dir, "node.state_dir")?;
    let stack = open_member(&settings, &seat).await?;
    if let Some(life) = &stack.life {
        // At once: within the second before shards are moved to a new member. It takes part and coordinates nothing.
        life.take_no_shards();
    }
    let options = sluice_smb::SmbOptions {
        host_name: settings.node.name.clone(),
        ..sluice_smb::SmbOptions::default()
    };
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let smb = sluice_smb::SmbServer::start(stack.vfs.clone(), &[loopback], options).await?;
    let member = stack.life.as_ref().map(|life| life.member());
    let greeting = Greeting {
        id: member.unwrap_or_default().id.0,
        epoch: member.unwrap_or_default().epoch.0,
        smb: *smb.addresses().first().context("no address")?,
    };
    say(&greeting)?;
    let mut asked = crate::cli::standard_input();
    while let Some(line) = asked.recv().await {
        let ask: Ask = serde_json::from_str(&line).context("a question can't be read")?;
        say(&answer(&stack, &seat, ask).await)?;
    }
    Ok(())
}

fn own_settings(
    settings: &Settings,
    listen: SocketAddr,
    state: PathBuf,
) -> anyhow::Result<Settings> {
    let mut own = settings.clone();
    own.node.name = NAME.to_owned();
    own.node.state_dir = state;
    let cluster = own
        .cluster
        .as_mut()
        .context("cluster: the section is missing")?;
    cluster.advertise.set_port(listen.port());
    cluster.listen = listen;
    Ok(own)
}

fn say(value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

async fn answer(stack: &Stack, seat: &Seat, ask: Ask) -> Told {
    let done = match ask {
        Ask::Commit { document, right } => attempt(stack, seat, &document, right).await,
        Ask::Remove { document } => remove(stack, &document).await,
    };
    match done {
        Ok(()) => Told::Done,
        Err(error) if matches!(error.downcast_ref(), Some(RepoError::Fenced)) => Told::Fenced,
        Err(error) => Told::Failed(format!("{error:#}")),
    }
}

/// One commit past the lock service, as a node would send it that does not know better.
async fn attempt(stack: &Stack, seat: &Seat, document: &str, right: Right) -> anyhow::Result<()> {
    let repository = &stack.repository;
    let (_, document) = find(repository.as_ref(), document).await?;
    let content = ContentId {
        node: document,
        stream: 0,
    };
    let head = repository.head(content).await?;
    let map = seat.registry().shard_map().await?;
    let epoch = map.owner(shard_of(document.0)).epoch;
    let fence = match right {
        Right::Current => epoch.fence(),
        Right::OldShard => ShardEpoch(epoch.0.saturating_sub(1)).fence(),
        Right::Forced => epoch.fence() | 1,
    };
    let mut numbers = [0; 16];
    getrandom::fill(&mut numbers).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let number = u128::from_ne_bytes(numbers);
    let commit = Commit {
        content,
        base: head.version,
        fence: FencingToken(fence),
        op: OpId(number),
        session: WriteSession(number),
        manifest: Arc::new(Manifest::inline(Bytes::from_static(BYTES))),
        change: AttributeChange::default(),
        origin: Origin {
            author: NAME.into(),
            protocol: "admin".into(),
        },
        versions: None,
    };
    let answered = repository.commit(vec![commit]).await.pop();
    answered.context("a commit was not answered")??;
    Ok(())
}

async fn remove(stack: &Stack, document: &str) -> anyhow::Result<()> {
    let repository = &stack.repository;
    let (folder, node) = find(repository.as_ref(), document).await?;
    let entry = NameRef {
        parent: folder,
        name: document,
        node: Some(node),
    };
    repository.unlink(entry, LastLink::Delete).await?;
    Ok(())
}

/// The scratch folder and a document in it.
async fn find(repository: &dyn Repository, name: &str) -> anyhow::Result<(NodeId, NodeId)> {
    let case = CaseMode::Sensitive;
    let folder = repository.lookup(ROOT, super::FOLDER, case).await?;
    let folder = folder.attributes.id;
    let found = repository.lookup(folder, name, case).await?;
    Ok((folder, found.attributes.id))
}
