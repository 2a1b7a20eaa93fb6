//! What can be typed. The words are those of the manual; clap refuses everything else with exit code 2.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

/// One document repository over SMB, NFS and FTP, with one lock table behind them.
#[derive(Parser, Debug)]
#[command(name = "sluice", version, propagate_version = true)]
pub struct Cli {
    /// The node's configuration file; without one the embedded default under ./sluice-data.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run this node until it is told to stop.
    Serve {
        /// Stop also when standard input ends: with whoever started this.
        #[arg(long, hide = true)]
        until_eof: bool,
    },
    /// A three-node cluster on this machine from nothing.
    Demo {
        /// Keep its data in ./sluice-demo after Ctrl-C, and go on with it the next time.
        #[arg(long)]
        keep: bool,
        /// Stand by for the demo that lives in this folder, and clean up after it when it is killed.
        #[arg(long, hide = true, value_name = "FOLDER")]
        clean_up: Option<PathBuf>,
    },
    /// Configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Users of all protocols.
    #[command(subcommand)]
    User(UserCommand),
    /// Shares: published subtrees.
    #[command(subcommand)]
    Share(ShareCommand),
    /// Write policy.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Opens, byte ranges, cache grants and waiters.
    Locks(LocksArgs),
    /// Live clients.
    Sessions(ReadArgs),
    /// Members of the cluster.
    Nodes(ReadArgs),
    /// One member.
    #[command(subcommand)]
    Node(NodeCommand),
    /// The cluster as a whole.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Go through the checklist before going live.
    Preflight(ReadArgs),
    /// Check the repository's integrity.
    Check {
        /// Repair what can be repaired without losing content.
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Delete stored content that nothing refers to.
    Gc(ReadArgs),
    /// Versions of documents.
    #[command(subcommand)]
    Version(VersionCommand),
}

/// Options of every reading command.
#[derive(Args, Debug, Clone, Copy, Default)]
pub struct ReadArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `sluice config`.
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Validate a file; says file, line and reason if it is wrong.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print the full commented example.
    Example,
}

/// `sluice user`.
#[derive(Subcommand, Debug)]
pub enum UserCommand {
    /// Add a user; asks for the password.
    Add {
        /// Name.
        name: String,
        /// Read the password from standard input (one line).
        #[arg(long)]
        password_stdin: bool,
        /// Number over NFS.
        #[arg(long)]
        uid: Option<u32>,
        /// Primary group number over NFS.
        #[arg(long)]
        gid: Option<u32>,
        /// A group to be in; may be repeated.
        #[arg(long = "group", value_name = "G")]
        groups: Vec<String>,
        /// May administer.
        #[arg(long)]
        admin: bool,
    },
    /// Set a user's password.
    Passwd {
        /// Name.
        name: String,
        /// Read the password from standard input (one line).
        #[arg(long)]
        password_stdin: bool,
    },
    /// List users.
    List(ReadArgs),
    /// Remove a user.
    Remove {
        /// Name.
        name: String,
    },
}

/// Case policy of a share over SMB.
#[derive(Clone, Copy, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CaseArg {
    /// Names that differ only in case are the same over SMB.
    Insensitive,
    /// They are different.
    Sensitive,
}

/// Squashing of AUTH_SYS identities.
#[derive(Clone, Copy, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SquashArg {
    /// Nobody is squashed.
    None,
    /// uid 0 becomes nobody.
    Root,
    /// Everybody becomes nobody.
    All,
}

/// Options of a share.
#[derive(Args, Debug, Clone, Default)]
pub struct ShareOptions {
    /// Folder inside the repository that it shows; made if missing. Default: /NAME.
    #[arg(long)]
    pub path: Option<String>,
    /// Protocols that offer it, separated by commas: smb, nfs, ftp.
    #[arg(long, value_delimiter = ',', value_name = "P")]
    pub protocols: Option<Vec<String>>,
    /// Nobody may write (`--read-only=false` to undo).
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub read_only: Option<bool>,
    /// Network from which NFS clients may mount; may be repeated. Default: loopback only.
    #[arg(long = "nfs-client", value_name = "CIDR")]
    pub nfs_clients: Option<Vec<String>>,
    /// Squashing of NFS identities.
    #[arg(long)]
    pub squash: Option<SquashArg>,
    /// Case policy over SMB.
    #[arg(long)]
    pub case: Option<CaseArg>,
    /// Most bytes of content, for example 10G; 0 for none.
    #[arg(long, value_name = "SIZE")]
    pub quota: Option<String>,
    /// Remark shown in listings.
    #[arg(long)]
    pub comment: Option<String>,
    /// SMB clients must encrypt (`--encrypt=false` to undo).
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub encrypt: Option<bool>,
    /// Byte ranges locked over NFS bind NFS clients too (`--mandatory-nfs-locks=false` to undo).
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub mandatory_nfs_locks: Option<bool>,
}

/// `sluice share`.
#[derive(Subcommand, Debug)]
pub enum ShareCommand {
    /// Publish a folder; without options like `docs`.
    Add {
        /// Name.
        name: String,
        #[command(flatten)]
        options: ShareOptions,
    },
    /// List shares.
    List(ReadArgs),
    /// Change a share.
    Set {
        /// Name.
        name: String,
        #[command(flatten)]
        options: ShareOptions,
    },
    /// Stop publishing; the documents stay.
    Remove {
        /// Name.
        name: String,
    },
}

/// What a rule matches.
#[derive(Args, Debug, Clone)]
pub struct RuleArgs {
    /// The share.
    #[arg(long)]
    pub share: String,
    /// Only paths that match this glob, for example "inbox/**".
    #[arg(long)]
    pub path: Option<String>,
    /// Only this protocol: smb, nfs3, nfs4, nfs (both) or ftp.
    #[arg(long)]
    pub protocol: Option<String>,
    /// Only this user.
    #[arg(long, conflicts_with = "group")]
    pub user: Option<String>,
    /// Only this group.
    #[arg(long)]
    pub group: Option<String>,
    /// Only clients in this network.
    #[arg(long, value_name = "CIDR")]
    pub client: Option<String>,
    /// Whether writing is allowed: allow or deny.
    #[arg(long)]
    pub write: Option<String>,
    /// Who may write at once: native, exclusive or shared.
    #[arg(long)]
    pub writers: Option<String>,
    /// What a conflict does: reject, wait or fork.
    #[arg(long)]
    pub on_conflict: Option<String>,
    /// How long a serialized writer waits, for example 10s.
    #[arg(long)]
    pub wait: Option<String>,
}

/// `sluice policy`.
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// Add a rule.
    Add(RuleArgs),
    /// List rules, most specific first.
    List(ReadArgs),
    /// Remove a rule.
    Remove {
        /// Its id, from the list.
        id: u32,
    },
    /// Say which rules decide for a path, and why.
    Explain {
        /// The share.
        #[arg(long)]
        share: String,
        /// The protocol.
        #[arg(long)]
        protocol: String,
        /// The user.
        #[arg(long)]
        user: Option<String>,
        /// The client's address.
        #[arg(long)]
        client: Option<String>,
        /// Path inside the share.
        path: String,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Say what a rule would change for those who hold documents now, without adding it.
    Simulate {
        #[command(flatten)]
        rule: RuleArgs,
        #[command(flatten)]
        read: ReadArgs,
    },
}

/// `sluice locks`.
#[derive(Args, Debug)]
pub struct LocksArgs {
    /// Only this document: /SHARE/PATH.
    #[arg(long)]
    pub path: Option<String>,
    #[command(flatten)]
    pub read: ReadArgs,
    /// What to do with them; without a word, list.
    #[command(subcommand)]
    pub command: Option<LocksCommand>,
}

/// `sluice locks ...`.
#[derive(Subcommand, Debug)]
pub enum LocksCommand {
    /// List them.
    List {
        /// Only this document: /SHARE/PATH.
        #[arg(long)]
        path: Option<String>,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Say who holds a document, why, and what would free it.
    Explain {
        /// The document: /SHARE/PATH.
        path: String,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Take a lock away from its holder.
    Break {
        /// Its id, from the list.
        id: String,
        /// The reason, for the log.
        #[arg(long)]
        why: String,
    },
}

/// `sluice node`.
#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// Move a node's clients away and let it leave.
    Drain {
        /// Its name.
        name: String,
    },
}

/// `sluice cluster`.
#[derive(Subcommand, Debug)]
pub enum ClusterCommand {
    /// Prove the cluster by doing.
    Verify {
        /// Port on which the nodes call the probe that stands for a lost node; any free one if not given.
        #[arg(
            long,
            value_name = "PORT",
            default_value_t = 0,
            hide_default_value = true
        )]
        probe_port: u16,
        /// Only this check ("lock", "failover", ...); may be repeated.
        #[arg(long = "check", value_name = "NAME")]
        checks: Vec<String>,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// The probe that `verify` starts.
    #[command(hide = true)]
    Probe {
        /// Where the nodes call it.
        #[arg(long)]
        listen: std::net::SocketAddr,
        /// Its own folder.
        #[arg(long)]
        state: PathBuf,
    },
}

/// `sluice version`.
#[derive(Subcommand, Debug)]
pub enum VersionCommand {
    /// List the versions of a document.
    List {
        /// The document: /SHARE/PATH.
        path: String,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Make an old version the current one again, as a new version.
    Restore {
        /// The document: /SHARE/PATH.
        path: String,
        /// Which version; default: the one before the current.
        #[arg(long)]
        version: Option<u64>,
    },
}
