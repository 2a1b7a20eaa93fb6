//! The settings' types. Every key of the file is a field here, every field is in `sluice.toml`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use crate::uri::{ContentUri, MetadataUri};

/// All settings of one node. A head whose section is missing does not run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// This node.
    pub node: Node,
    /// The stores.
    pub repository: Repository,
    /// Peers; only with a shared database.
    pub cluster: Option<Cluster>,
    /// SMB head.
    pub smb: Option<Smb>,
    /// NFS head.
    pub nfs: Option<Nfs>,
    /// FTP head.
    pub ftp: Option<Ftp>,
    /// Health, metrics and the admin API.
    pub admin: Option<Admin>,
    /// Logging.
    #[serde(default)]
    pub log: Log,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Unique in the cluster.
    #[serde(deserialize_with = "node_name")]
    pub name: String,
    /// This node's own: control socket, certificate, logs; never shared.
    pub state_dir: PathBuf,
    /// Load balancers whose connections to all heads begin with a PROXY protocol version 2 header.
    #[serde(default)]
    pub proxy_protocol_from: Vec<IpNet>,
}

/// `[repository]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// Metadata store.
    pub metadata: MetadataUri,
    /// Content store.
    pub content: ContentUri,
    /// History kept of each document.
    #[serde(default)]
    pub versions: Versions,
    /// Access to S3; only with S3 content.
    pub s3: Option<S3>,
}

/// `[repository.versions]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// How many old versions of a document are kept at most.
    #[serde(default = "versions_keep")]
    pub keep: u32,
    /// How many days an old version is kept at most.
    #[serde(default = "versions_days")]
    pub days: u32,
}

impl Default for Versions {
    fn default() -> Self {
        Versions {
            keep: versions_keep(),
            days: versions_days(),
        }
    }
}

/// `[repository.s3]`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    /// Server address.
    pub endpoint: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Key id.
    pub access_key_id: Option<String>,
    /// Secret; never logged.
    pub secret_access_key: Option<String>,
    /// Allow plain HTTP.
    #[serde(default)]
    pub allow_http: bool,
}

impl std::fmt::Debug for S3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// `[cluster]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Where peers call this node.
    pub listen: SocketAddr,
    /// The address that peers are told.
    pub advertise: SocketAddr,
    /// File with the secret shared by all nodes.
    pub secret_file: PathBuf,
}

/// Whether SMB sessions must sign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signing {
    /// Clients that do not ask for it need not.
    #[default]
    Offered,
    /// Everybody must.
    Required,
}

/// Whether SMB sessions are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// If the client asks.
    #[default]
    Offered,
    /// Always; clients that can't are refused.
    Required,
}

/// `[smb]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smb {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Signing.
    #[serde(default)]
    pub signing: Signing,
    /// Encryption.
    #[serde(default)]
    pub encryption: Encryption,
}

/// `[nfs]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nfs {
    /// Addresses to listen on: NFSv3, MOUNT and NLM on one port.
    pub listen: Vec<SocketAddr>,
    /// How long an idle NFSv3 writer keeps its place, in milliseconds.
    #[serde(default = "writer_idle_ms")]
    pub writer_idle_ms: u64,
}

/// How FTP uses TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FtpTls {
    /// Logins only over TLS.
    Required,
    /// Clients may.
    #[default]
    Offered,
    /// Not at all.
    Off,
}

/// Ports from first to last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || {
            serde::de::Error::custom(format!(
                "\"{text}\" is not a port range; write it as \"50000-50100\""
            ))
        };
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let first: u16 = first.trim().parse().map_err(|_| wrong())?;
        let last: u16 = last.trim().parse().map_err(|_| wrong())?;
        if first == 0 || last < first {
            return Err(wrong());
        }
        Ok(PortRange { first, last })
    }
}

/// `[ftp]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ftp {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Addresses on which TLS starts at once (implicit FTPS, usually port 990).
    #[serde(default)]
    pub listen_implicit_tls: Vec<SocketAddr>,
    /// Ports for passive data connections.
    #[serde(default = "passive_ports")]
    pub passive_ports: PortRange,
    /// The address told to clients for passive connections, if not the one they called (NAT).
    pub passive_address: Option<IpAddr>,
    /// Certificate chain (PEM); self-made on first start if not given.
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM).
    pub tls_key: Option<PathBuf>,
    /// Use of TLS.
    #[serde(default)]
    pub tls: FtpTls,
    /// Whether clients may ask for active data connections (PORT, EPRT), to their own address only.
    #[serde(default)]
    pub active: bool,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Which lines: error, warn, info, debug, trace, or a filter such as "info,sluice_smb=debug".
    #[serde(default = "log_level")]
    pub level: String,
    /// Their form.
    #[serde(default)]
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            level: log_level(),
            format: LogFormat::Text,
        }
    }
}

fn node_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let fine = !name.is_empty()
        && name.len() <= 64
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if fine {
        Ok(name)
    } else {
        Err(serde::de::Error::custom(
            "the node's name must be 1 to 64 letters, digits, '-', '_' or '.'",
        ))
    }
}

fn versions_keep() -> u32 {
    10
}
fn versions_days() -> u32 {
    30
}
fn writer_idle_ms() -> u64 {
    2000
}
fn passive_ports() -> PortRange {
    PortRange {
        first: 50000,
        last: 50999,
    }
}
fn log_level() -> String {
    "info".into()
}

impl Settings {
    /// The embedded default: everything under `data_dir`, all heads on loopback with unprivileged ports.
    pub fn embedded(data_dir: PathBuf) -> Settings {
        let local = |port| vec![SocketAddr::from(([127, 0, 0, 1], port))];
        Settings {
            node: Node {
                name: "sluice".into(),
                state_dir: data_dir.clone(),
                proxy_protocol_from: Vec::new(),
            },
            repository: Repository {
                metadata: MetadataUri::Sqlite(data_dir.join("meta.db")),
                content: ContentUri::Folder(data_dir.join("content")),
                versions: Versions::default(),
                s3: None,
            },
            cluster: None,
            smb: Some(Smb {
                listen: local(4450),
                signing: Signing::default(),
                encryption: Encryption::default(),
            }),
            nfs: Some(Nfs {
                listen: local(20490),
                writer_idle_ms: writer_idle_ms(),
            }),
            ftp: Some(Ftp {
                listen: local(2121),
                listen_implicit_tls: Vec::new(),
                passive_ports: passive_ports(),
                passive_address: None,
                tls_cert: None,
                tls_key: None,
                tls: FtpTls::default(),
                active: false,
            }),
            admin: Some(Admin {
                listen: local(8480),
            }),
            log: Log::default(),
        }
    }
}
