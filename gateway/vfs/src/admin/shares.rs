//! Shares: what is published, to whom.

use std::sync::Arc;

use sluice_repo::{
    Attributes, CaseMode, DosAttributes, NewKind, NewNode, NodeId, NodeKind, Origin, ROOT,
    RepoError, Share, ShareId, ShareProtocols, Squash, VersionPolicy,
};

use super::{Admin, AdminError, AdminResult, ShareChange, ShareRecord};
use crate::path::RelPath;
use crate::permission::open_share;
use crate::policy::parse_network;

/// nobody and nogroup.
const ANONYMOUS: u32 = 65_534;
/// Longest share name in characters (MS-SRVS: NNLEN).
const NAME_CHARS_MAX: usize = 80;
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

impl Admin {
    /// All shares, by name.
    pub async fn shares(&self) -> AdminResult<Vec<ShareRecord>> {
        let directory = self.inner.records.fresh().await?;
        let mut records = Vec::with_capacity(directory.entries.len());
        for share in &directory.entries {
            records.push(self.share_record(share).await?);
        }
        Ok(records)
    }

    /// Publishes a folder; without options like `docs`.
    pub async fn add_share(&self, name: &str, options: ShareChange) -> AdminResult<ShareRecord> {
        check_name(name)?;
        let directory = self.inner.records.fresh().await?;
        if directory.share(name).is_some() {
            return Err(AdminError::Exists(format!(
                "there is a share {name} already"
            )));
        }
        let mut share = Share {
            id: ShareId(0),
            name: name.to_owned(),
            comment: String::new(),
            root: ROOT,
            protocols: ShareProtocols {
                smb: true,
                nfs: true,
                ftp: true,
            },
            read_only: false,
            hidden: false,
            smb_encrypt: false,
            case: CaseMode::Insensitive,
            insensitive_everywhere: false,
            nfs_clients: LOOPBACK.map(str::to_owned).to_vec(),
            squash: Squash::Root,
            anonymous_uid: ANONYMOUS,
            anonymous_gid: ANONYMOUS,
            nfs_mandatory_locks: false,
            quota_bytes: None,
            versions: None,
        };
        let path = options.path.clone().unwrap_or_else(|| name.to_owned());
        apply(&mut share, options)?;
        share.root = self.published_folder(&path).await?;
        self.put_share(share).await
    }

    /// Changes options of a share.
    pub async fn set_share(&self, name: &str, options: ShareChange) -> AdminResult<ShareRecord> {
        let mut share = self.share_entry(name).await?;
        let path = options.path.clone();
        apply(&mut share, options)?;
        if let Some(path) = path {
            share.root = self.published_folder(&path).await?;
        }
        self.put_share(share).await
    }

    /// Stops publishing; the documents stay.
    pub async fn remove_share(&self, name: &str) -> AdminResult<()> {
        let share = self.share_entry(name).await?;
        self.inner.repo.remove_share(share.id).await?;
        self.inner.records_changed().await?;
        tracing::info!(share = name, "share removed");
        Ok(())
    }

    async fn share_entry(&self, name: &str) -> AdminResult<Share> {
        let directory = self.inner.records.fresh().await?;
        let id = directory.share(name).map(|share| share.id);
        let known = directory.entries.iter().find(|entry| Some(entry.id) == id);
        let known = known.cloned();
        known.ok_or_else(|| AdminError::NotFound(format!("there is no share {name}")))
    }

    async fn put_share(&self, share: Share) -> AdminResult<ShareRecord> {
        let name = share.name.clone();
        let stored = self
            .inner
            .repo
            .put_share(share)
            .await
            .map_err(|error| match error {
                RepoError::Exists => AdminError::Exists(format!("there is a share {name} already")),
                other => other.into(),
            })?;
        self.inner.records_changed().await?;
        tracing::info!(share = stored.name, "share set");
        self.share_record(&stored).await
    }

    /// The folder at `path` from the repository's root. What is missing is made; the last folder, if it is new, open to every user.
    async fn published_folder(&self, path: &str) -> AdminResult<NodeId> {
        let path = RelPath::parse(path, '/')
            .map_err(|why| AdminError::Invalid(format!("the share's path {path}: {why}")))?;
        let mut folder = self.inner.repo.get(ROOT).await?;
        for (depth, name) in path.components().iter().enumerate() {
            let last = depth + 1 == path.components().len();
            folder = self.folder_in(&folder, name, last).await?;
        }
        Ok(folder.id)
    }

    async fn folder_in(
        &self,
        parent: &Attributes,
        name: &str,
        open: bool,
    ) -> AdminResult<Attributes> {
        let repo = &self.inner.repo;
        match repo.lookup(parent.id, name, CaseMode::Sensitive).await {
            Ok(found) if found.attributes.kind == NodeKind::Directory => Ok(found.attributes),
            Ok(_) => Err(AdminError::Invalid(format!(
                "{name} is not a folder, so it can't be a share"
            ))),
            Err(RepoError::NotFound) => {
                let new = new_folder(open);
                let made = repo.create(parent.id, name, CaseMode::Sensitive, new);
                Ok(made.await?.attributes)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn share_record(&self, share: &Share) -> AdminResult<ShareRecord> {
        let path = match self.inner.repo.path_of(share.root).await {
            Ok(path) => path,
            Err(RepoError::NotFound | RepoError::Stale(_)) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let names: Vec<&str> = path.iter().map(|(_, name)| name.as_ref()).collect();
        let offered = [
            (share.protocols.smb, "smb"),
            (share.protocols.nfs, "nfs"),
            (share.protocols.ftp, "ftp"),
        ];
        Ok(ShareRecord {
            name: share.name.clone(),
            path: format!("/{}", names.join("/")),
            comment: share.comment.clone(),
            protocols: offered
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, word)| (*word).to_owned())
                .collect(),
            read_only: share.read_only,
            hidden: share.hidden,
            smb_encrypt: share.smb_encrypt,
            nfs_clients: share.nfs_clients.clone(),
            squash: match share.squash {
                Squash::Root => "root",
                Squash::All => "all",
                Squash::None => "none",
            }
            .to_owned(),
            anonymous_uid: share.anonymous_uid,
            anonymous_gid: share.anonymous_gid,
            case: match share.case {
                CaseMode::Insensitive => "insensitive",
                CaseMode::Sensitive => "sensitive",
            }
            .to_owned(),
            insensitive_everywhere: share.insensitive_everywhere,
            nfs_mandatory_locks: share.nfs_mandatory_locks,
            quota_bytes: share.quota_bytes,
            versions: share.versions.map(|policy| policy.count),
        })
    }
}

/// A folder that the administration makes: the root of a share is open to every user, folders on the way only lead through.
fn new_folder(open: bool) -> NewNode {
    NewNode {
        kind: NewKind::Directory,
        mode: if open { 0o777 } else { 0o755 },
        uid: 0,
        gid: 0,
        dos: DosAttributes::default(),
        modified: None,
        accessed: None,
        created: None,
        acl: open.then(|| Arc::new(open_share())),
        eas: Vec::new(),
        verifier: None,
        origin: Origin {
            author: Arc::from(""),
            protocol: Arc::from("admin"),
        },
        relaxed: false,
    }
}

fn apply(share: &mut Share, options: ShareChange) -> AdminResult<()> {
    if let Some(protocols) = options.protocols {
        share.protocols = offered(&protocols)?;
    }
    if let Some(networks) = options.nfs_clients {
        for network in &networks {
            parse_network(network).map_err(AdminError::Invalid)?;
        }
        share.nfs_clients = networks;
    }
    if let Some(bytes) = options.quota_bytes {
        share.quota_bytes = (bytes > 0).then_some(bytes);
    }
    if options.versions.is_some() || options.version_days.is_some() {
        let policy = share.versions.unwrap_or_default();
        share.versions = Some(VersionPolicy {
            count: options.versions.unwrap_or(policy.count),
            age_s: options
                .version_days
                .map_or(policy.age_s, |days| u64::from(days) * 24 * 3600),
        });
    }
    set(&mut share.comment, options.comment);
    set(&mut share.read_only, options.read_only);
    set(&mut share.hidden, options.hidden);
    set(&mut share.smb_encrypt, options.smb_encrypt);
    set(&mut share.squash, options.squash);
    set(&mut share.anonymous_uid, options.anonymous_uid);
    set(&mut share.anonymous_gid, options.anonymous_gid);
    set(&mut share.case, options.case);
    set(
        &mut share.insensitive_everywhere,
        options.insensitive_everywhere,
    );
    set(&mut share.nfs_mandatory_locks, options.nfs_mandatory_locks);
    Ok(())
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn offered(words: &[String]) -> AdminResult<ShareProtocols> {
    let mut protocols = ShareProtocols {
        smb: false,
        nfs: false,
        ftp: false,
    };
    for word in words {
        match word.to_ascii_lowercase().as_str() {
            "smb" => protocols.smb = true,
            "nfs" => protocols.nfs = true,
            "ftp" => protocols.ftp = true,
            _ => {
                return Err(AdminError::Invalid(format!(
                    "\"{word}\" is not a protocol: smb, nfs or ftp"
                )));
            }
        }
    }
    Ok(protocols)
}

/// A share's name is a host's top-level folder in every protocol.
fn check_name(name: &str) -> AdminResult<()> {
    let bad = |c: char| c.is_control() || "/\\:*?\"<>|[];=,+".contains(c);
    let count = name.chars().count();
    let reserved = ["ipc$", "admin$", ".", ".."].contains(&name.to_ascii_lowercase().as_str());
    if count == 0 || count > NAME_CHARS_MAX || reserved || name.contains(bad) || name.trim() != name
    {
        return Err(AdminError::Invalid(format!(
            "the share name \"{}\" is not valid: 1 to {NAME_CHARS_MAX} characters, none of / \\ : * ? \" < > | [ ] ; = , +",
            name.escape_debug()
        )));
    }
    Ok(())
}
