//! Addresses of the two stores, parsed once.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

/// Where metadata lives.
#[derive(Clone, PartialEq, Eq)]
pub enum MetadataUri {
    /// A local database file: the embedded default, one node.
    Sqlite(PathBuf),
    /// A shared database: a cluster. The whole URL, password included; never logged.
    Postgres(String),
}

impl std::fmt::Debug for MetadataUri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MetadataUri::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            MetadataUri::Postgres(_) => f.write_str("postgres://…"),
        }
    }
}

/// Where content lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentUri {
    /// A local or shared folder.
    Folder(PathBuf),
    /// A bucket with an optional prefix.
    S3 {
        /// Bucket name.
        bucket: String,
        /// Prefix without slashes at its ends, may be empty.
        prefix: String,
    },
}

fn path_after(text: &str, scheme: &str) -> Option<Result<PathBuf, String>> {
    let rest = text.strip_prefix(scheme)?;
    Some(if rest.is_empty() {
        Err(format!(
            "\"{text}\" names no path; write {scheme}/absolute/path or {scheme}relative/path"
        ))
    } else {
        Ok(PathBuf::from(rest))
    })
}

impl std::str::FromStr for MetadataUri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = path_after(text, "sqlite://") {
            return path.map(MetadataUri::Sqlite);
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(MetadataUri::Postgres(text.to_owned()));
        }
        Err("metadata must be \"sqlite:///path/meta.db\" or \"postgres://user:pw@host/db\"".into())
    }
}

impl std::str::FromStr for ContentUri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = path_after(text, "file://") {
            return path.map(ContentUri::Folder);
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err("the S3 address names no bucket; write \"s3://bucket/prefix\"".into());
            }
            return Ok(ContentUri::S3 {
                bucket: bucket.to_owned(),
                prefix: prefix.trim_matches('/').to_owned(),
            });
        }
        Err("content must be \"file:///path\" or \"s3://bucket/prefix\"".into())
    }
}

macro_rules! deserialize_from_str {
    ($type:ty) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}
deserialize_from_str!(MetadataUri);
deserialize_from_str!(ContentUri);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_addresses_are_parsed_and_wrong_ones_say_what_is_expected() {
        assert_eq!(
            "sqlite:///a/b.db".parse(),
            Ok(MetadataUri::Sqlite("/a/b.db".into()))
        );
        assert_eq!(
            "s3://docs/a/b/".parse(),
            Ok(ContentUri::S3 {
                bucket: "docs".into(),
                prefix: "a/b".into()
            })
        );
        assert!("file://".parse::<ContentUri>().is_err());
        assert!(
            "mysql://x"
                .parse::<MetadataUri>()
                .unwrap_err()
                .contains("sqlite")
        );
    }

    #[test]
    fn a_database_password_is_not_in_the_debug_form() {
        let uri: MetadataUri = "postgres://u:secret@h/d".parse().unwrap();
        assert!(!format!("{uri:?}").contains("secret"));
    }
}
