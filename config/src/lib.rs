//! Settings of one node: a TOML file, environment overrides `SLUICE_SECTION__KEY`, and defaults; parsed into types that
//! can't hold a wrong value. Owns the file format and the commented example; never opens a socket or a store.

mod error;
mod load;
mod settings;
mod uri;

pub use error::ConfigError;
pub use load::{EnvOverrides, check, load};
pub use settings::{
    Admin, Cluster, Encryption, Ftp, FtpTls, Log, LogFormat, Nfs, Node, PortRange, Repository, S3,
    Settings, Signing, Smb, Versions,
};
pub use uri::{ContentUri, MetadataUri};

/// The full commented example (`sluice config example`); a test keeps it true to the types.
pub const EXAMPLE: &str = include_str!("../sluice.toml");
