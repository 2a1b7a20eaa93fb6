//! Security identifiers: the well-known ones, this repository's domain, and those that stand for bare uids and gids.

use bytes::Bytes;
use sluice_repo::{RepoError, Repository, Sid};

/// Everyone.
pub(crate) const EVERYONE: &str = "S-1-1-0";
/// Replaced by the owner when an entry is inherited.
pub(crate) const CREATOR_OWNER: &str = "S-1-3-0";
/// Replaced by the owning group when an entry is inherited.
pub(crate) const CREATOR_GROUP: &str = "S-1-3-1";
/// Decides instead of the owner's implied rights (MS-DTYP 2.4.2.4, 2.5.3.2).
pub(crate) const OWNER_RIGHTS: &str = "S-1-3-4";
/// Everyone with an account.
pub(crate) const AUTHENTICATED_USERS: &str = "S-1-5-11";
/// The local administrators.
pub(crate) const ADMINISTRATORS: &str = "S-1-5-32-544";
/// Everybody with an account of this repository.
pub(crate) const USERS: &str = "S-1-5-32-545";
/// The system itself.
pub(crate) const SYSTEM: &str = "S-1-5-18";

const BARE_UID: &str = "S-1-22-1-";
const BARE_GID: &str = "S-1-22-2-";
const DOMAIN_SETTING: &str = "vfs.domain_sid";

/// The SID of a uid without an account.
pub(crate) fn of_bare_uid(uid: u32) -> Sid {
    Sid(format!("{BARE_UID}{uid}"))
}

/// The SID of a gid without a group record.
pub(crate) fn of_bare_gid(gid: u32) -> Sid {
    Sid(format!("{BARE_GID}{gid}"))
}

/// The uid in a SID of [`of_bare_uid`].
pub(crate) fn bare_uid(sid: &Sid) -> Option<u32> {
    sid.0.strip_prefix(BARE_UID)?.parse().ok()
}

/// The gid in a SID of [`of_bare_gid`].
pub(crate) fn bare_gid(sid: &Sid) -> Option<u32> {
    sid.0.strip_prefix(BARE_GID)?.parse().ok()
}

/// The SID of an account or group of the repository with the domain `domain`.
pub(crate) fn in_domain(domain: &Sid, rid: u64) -> Sid {
    Sid(format!("{}-{rid}", domain.0))
}

/// This repository's domain, made of random numbers once.
pub(crate) async fn domain(repo: &dyn Repository) -> Result<Sid, RepoError> {
    if let Some(known) = repo.setting(DOMAIN_SETTING).await? {
        return text(&known);
    }
    let mut random = [0u8; 12];
    getrandom::fill(&mut random)
        .map_err(|_| RepoError::Unavailable("no random numbers".to_owned()))?;
    let parts: Vec<String> = random
        .chunks_exact(4)
        .map(|part| {
            part.iter()
                .fold(0u32, |n, b| n << 8 | u32::from(*b))
                .to_string()
        })
        .collect();
    let made = format!("S-1-5-21-{}", parts.join("-"));
    text(&repo.setting_or(DOMAIN_SETTING, Bytes::from(made)).await?)
}

fn text(bytes: &Bytes) -> Result<Sid, RepoError> {
    std::str::from_utf8(bytes)
        .map(|text| Sid(text.to_owned()))
        .map_err(|_| RepoError::Corrupt("the domain SID is not text".to_owned()))
}
