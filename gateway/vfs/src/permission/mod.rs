//! Who may do what with a node: ACL or mode bits against an identity, inheritance for new nodes, ACL and mode kept in step.
//!
//! One model, Windows' access bits, which NFSv4 shares; a node without a stored ACL is decided by its mode bits. The
//! decisions are pure ([`evaluate`], [`inherit`], [`mode`]); this file fetches what they need. Never looks at locks, shares' protocols
//! or policies.

mod evaluate;
mod inherit;
mod mode;
pub(crate) mod sid;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sluice_repo::{Acl, AttributeChange, Attributes, NodeKind, Sid, Timestamp};

pub(crate) use evaluate::map_generic;
pub(crate) use mode::open_share;

use crate::error::VfsError;
use crate::identity::{Caller, Identity};
use crate::records::Directory;
use crate::request::{AccessMask, NewNode};
use crate::vfs::Inner;
use inherit::Creator;
use mode::Owners;

/// Control bit of a descriptor that carries a DACL, be it a NULL one (MS-DTYP 2.4.6).
const DACL_PRESENT: u16 = 0x0004;
/// Set-user-id and set-group-id bits.
const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
/// How far from now a time may be to pass as "now".
const NOW_TOLERANCE_NS: u64 = 5_000_000_000;

/// Owner, group, mode and ACL that a new node starts with.
#[derive(Clone, Debug)]
pub(crate) struct Birthright {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) acl: Option<Arc<Acl>>,
}

impl Inner {
    /// Every right that `who` has on the node (specific and standard bits; never generic ones).
    pub(crate) async fn rights(
        &self,
        who: &Identity,
        node: &Attributes,
    ) -> Result<AccessMask, VfsError> {
        let acl = self.stored_acl(node).await?;
        Ok(AccessMask(evaluate::rights(who, node, acl.as_deref())))
    }

    async fn stored_acl(&self, node: &Attributes) -> Result<Option<Arc<Acl>>, VfsError> {
        if !node.has_acl {
            return Ok(None);
        }
        Ok(self.repo.acl(node.id).await?)
    }

    /// What a node made by `caller` in `parent` gets.
    pub(crate) async fn birthright(
        &self,
        caller: &Caller,
        parent: &Attributes,
        new: &NewNode,
        directory: bool,
    ) -> Result<Birthright, VfsError> {
        let who = &caller.identity;
        let above = self.stored_acl(parent).await?;
        let group_from_above = parent.mode & SETGID != 0;
        let gid = if group_from_above {
            parent.gid
        } else {
            who.gid
        };
        let records = self.records.current();
        let (owner_sid, group_sid) = (who.sid.clone(), records.sid_of_gid(gid));
        let creator = Creator {
            owner: &owner_sid,
            group: &group_sid,
        };
        let kind = new.kind.unwrap_or(NodeKind::File);
        let (mode, acl) = match &new.acl {
            _ if kind == NodeKind::Symlink => (0o777, None),
            Some(given) if given.dacl.is_some() || given.control & DACL_PRESENT != 0 => {
                check_new_owner(&records, who, given)?;
                let acl = inherit::explicit(given, above.as_deref(), directory, &creator);
                (
                    new.mode
                        .unwrap_or_else(|| shown_mode(&acl, directory, &creator)),
                    Some(acl),
                )
            }
            _ => from_above(above.as_deref(), new.mode, directory, &creator),
        };
        let inherited_bits = if group_from_above && directory {
            SETGID
        } else {
            0
        };
        let mut birth = Birthright {
            mode: mode & 0o7777 | inherited_bits,
            uid: who.uid,
            gid,
            acl: None,
        };
        if let Some(mut acl) = acl {
            settle_owners(&records, &mut acl, &mut birth.uid, &mut birth.gid);
            birth.acl = Some(Arc::new(acl));
        }
        Ok(birth)
    }

    /// Whether `who` may make this change (chmod and utimes to a given time: owner; chown: administrator; utimes to now: write).
    /// `rights` are those that the caller has on the node. May take setuid and setgid bits out of the change.
    pub(crate) fn check_change(
        &self,
        who: &Identity,
        node: &Attributes,
        rights: AccessMask,
        change: &mut AttributeChange,
    ) -> Result<(), VfsError> {
        let root = evaluate::is_root(who);
        let owner = root || who.uid == node.uid;
        if let Some(mode) = &mut change.mode {
            if !owner && !rights.has(AccessMask::WRITE_DAC) {
                return Err(VfsError::NotOwner);
            }
            let group = change.gid.unwrap_or(node.gid);
            if !root && node.kind != NodeKind::Directory && !in_group(who, group) {
                *mode &= !SETGID;
            }
        }
        check_ownership(who, node, rights, change)?;
        let far = |time: Option<Timestamp>| time.is_some_and(|time| !is_now(time));
        if !owner && !node.has_acl && (far(change.accessed) || far(change.modified)) {
            return Err(VfsError::NotOwner);
        }
        let touches = change.accessed.is_some()
            || change.modified.is_some()
            || change.created.is_some()
            || change.dos.is_some();
        let writes = AccessMask::WRITE_ATTRIBUTES | AccessMask::WRITE_DATA;
        if touches && !owner && !rights.any(writes) {
            return Err(VfsError::AccessDenied);
        }
        Ok(())
    }

    /// Carries out an allowed change; a changed mode goes into a stored ACL too.
    pub(crate) async fn apply_change(
        &self,
        node: &Attributes,
        change: AttributeChange,
        guard: Option<Timestamp>,
    ) -> Result<Attributes, VfsError> {
        let reowned = change.uid.is_some() || change.gid.is_some();
        let acl = match change.mode.is_some() || reowned {
            true => self.stored_acl(node).await?,
            false => None,
        };
        let Some(acl) = acl else {
            return Ok(self.repo.set_attributes(node.id, change, guard).await?);
        };
        if let Some(guard) = guard
            && self.repo.get(node.id).await?.changed != guard
        {
            return Err(VfsError::NotSame);
        }
        let records = self.records.current();
        let (uid, gid) = (
            change.uid.unwrap_or(node.uid),
            change.gid.unwrap_or(node.gid),
        );
        let (old_owner, old_group) = (records.sid_of_uid(node.uid), records.sid_of_gid(node.gid));
        let (owner, group) = (records.sid_of_uid(uid), records.sid_of_gid(gid));
        let old = Owners {
            owner: &old_owner,
            group: &old_group,
        };
        let new = Owners {
            owner: &owner,
            group: &group,
        };
        let mut changed = mode::chown(&acl, &old, &new);
        if change.uid.is_some() {
            changed.owner = None;
        }
        if change.gid.is_some() {
            changed.group = None;
        }
        let directory = node.kind == NodeKind::Directory;
        let stored = match change.mode {
            Some(mode) => mode::chmod(&changed, mode, directory, &new),
            None => Some(changed),
        };
        let stored = stored.map(Arc::new);
        Ok(self.repo.set_acl(node.id, stored, change).await?)
    }

    /// The security descriptor to show: the stored one, or one made from owner, group and mode; owner and group always filled in.
    pub(crate) async fn shown_acl(&self, node: &Attributes) -> Result<Acl, VfsError> {
        let records = self.records.current();
        let owner = records.sid_of_uid(node.uid);
        let group = records.sid_of_gid(node.gid);
        let mut acl = match self.stored_acl(node).await? {
            Some(stored) => Acl::clone(&stored),
            None => {
                let owners = Owners {
                    owner: &owner,
                    group: &group,
                };
                mode::acl_of_mode(node.mode, node.kind == NodeKind::Directory, &owners)
            }
        };
        acl.owner.get_or_insert(owner);
        acl.group.get_or_insert(group);
        Ok(acl)
    }

    /// Stores parts of a security descriptor (see [`crate::Open::set_acl`]; WRITE_DAC and WRITE_OWNER checked by the caller).
    pub(crate) async fn store_acl(
        &self,
        who: &Identity,
        node: &Attributes,
        acl: Acl,
        null_dacl: bool,
    ) -> Result<Attributes, VfsError> {
        let shown = self.shown_acl(node).await?;
        let records = self.records.current();
        if acl.owner.is_some() && acl.owner != shown.owner {
            check_new_owner(&records, who, &acl)?;
        }
        let given = inherit::stored_form(&acl);
        let redefines = given.dacl.is_some() || null_dacl;
        let mut stored = shown;
        if redefines {
            stored.dacl = given.dacl;
            stored.control = given.control;
        }
        stored.sacl = given.sacl.or(stored.sacl);
        stored.owner = given.owner.or(stored.owner);
        stored.group = given.group.or(stored.group);
        let (mut uid, mut gid) = (node.uid, node.gid);
        settle_owners(&records, &mut stored, &mut uid, &mut gid);
        let mut change = AttributeChange {
            uid: (uid != node.uid).then_some(uid),
            gid: (gid != node.gid).then_some(gid),
            ..AttributeChange::default()
        };
        let foreign = stored.owner.is_some() || stored.group.is_some();
        if !node.has_acl && !redefines && !foreign && stored.sacl.is_none() {
            return Ok(self.repo.set_attributes(node.id, change, None).await?);
        }
        if redefines {
            let (owner, group) = (records.sid_of_uid(uid), records.sid_of_gid(gid));
            let creator = Creator {
                owner: &owner,
                group: &group,
            };
            let mut mode = shown_mode(&stored, true, &creator);
            // A document becomes executable by chmod only: what Windows grants by default would make every file a program.
            if node.kind != NodeKind::Directory && node.mode & 0o111 == 0 {
                mode &= !0o111;
            }
            change.mode = Some(node.mode & 0o7000 | mode);
        }
        Ok(self
            .repo
            .set_acl(node.id, Some(Arc::new(stored)), change)
            .await?)
    }
}

/// What a node without a descriptor of its own gets: what its folder has for it, else mode bits or Windows' default.
fn from_above(
    above: Option<&Acl>,
    mode: Option<u32>,
    directory: bool,
    creator: &Creator<'_>,
) -> (u32, Option<Acl>) {
    let inherited = above.and_then(|above| inherit::inherited(above, directory, creator));
    match (inherited, mode) {
        // The folder's ACL says who may work here, whatever the client's umask; but what is made for its owner alone stays so.
        (Some(acl), Some(mode)) if mode & 0o077 == 0 => {
            let owners = Owners {
                owner: creator.owner,
                group: creator.group,
            };
            (mode, mode::chmod(&acl, mode, directory, &owners))
        }
        (Some(acl), Some(mode)) => (mode, Some(acl)),
        (Some(acl), None) => (shown_mode(&acl, directory, creator), Some(acl)),
        (None, None) if above.is_some() => {
            let acl = inherit::default_acl(creator.owner);
            (shown_mode(&acl, directory, creator), Some(acl))
        }
        (None, mode) => (mode.unwrap_or(if directory { 0o755 } else { 0o644 }), None),
    }
}

/// Mode bits to show for a node that was made with an ACL; a document is no program unless its maker said so.
fn shown_mode(acl: &Acl, directory: bool, creator: &Creator<'_>) -> u32 {
    let owners = Owners {
        owner: creator.owner,
        group: creator.group,
    };
    let mode = mode::mode_of_acl(acl, &owners);
    if directory { mode } else { mode & !0o111 }
}

/// Owner and group go into uid and gid where they stand for one; a foreign SID stays in the ACL.
fn settle_owners(records: &Directory, acl: &mut Acl, uid: &mut u32, gid: &mut u32) {
    if let Some(known) = acl.owner.as_ref().and_then(|sid| records.uid_of_sid(sid)) {
        *uid = known;
        acl.owner = None;
    }
    if let Some(known) = acl.group.as_ref().and_then(|sid| records.gid_of_sid(sid)) {
        *gid = known;
        acl.group = None;
    }
}

/// An owner may be oneself, one of one's groups, or somebody whom this repository does not know (a copy from elsewhere keeps its
/// owner); only administrators name another account (SeRestorePrivilege).
fn check_new_owner(records: &Directory, who: &Identity, acl: &Acl) -> Result<(), VfsError> {
    let own = |sid: &Sid| *sid == who.sid || who.group_sids.contains(sid);
    let other = |sid: &Sid| records.uid_of_sid(sid).is_some() && !own(sid);
    let free = who.admin || evaluate::is_root(who);
    match &acl.owner {
        Some(sid) if !free && other(sid) => Err(VfsError::NotOwner),
        _ => Ok(()),
    }
}

/// POSIX chown: the owner may give the group to one of his own; anything else needs the right to take ownership.
fn check_ownership(
    who: &Identity,
    node: &Attributes,
    rights: AccessMask,
    change: &mut AttributeChange,
) -> Result<(), VfsError> {
    if evaluate::is_root(who) {
        return Ok(());
    }
    let takes = rights.has(AccessMask::WRITE_OWNER);
    let new_uid = change.uid.filter(|uid| *uid != node.uid);
    let new_gid = change.gid.filter(|gid| *gid != node.gid);
    if new_uid.is_some_and(|uid| !(takes && (uid == who.uid || who.admin))) {
        return Err(VfsError::NotOwner);
    }
    let may_group = |gid| takes || who.uid == node.uid && in_group(who, gid);
    if new_gid.is_some_and(|gid| !may_group(gid)) {
        return Err(VfsError::NotOwner);
    }
    let reowned = new_uid.is_some() || new_gid.is_some();
    let special = node.mode & (SETUID | SETGID) != 0;
    if reowned && special && node.kind != NodeKind::Directory && change.mode.is_none() {
        change.mode = Some(node.mode & !(SETUID | SETGID));
    }
    Ok(())
}

fn in_group(who: &Identity, gid: u32) -> bool {
    who.gid == gid || who.gids.contains(&gid)
}

fn is_now(time: Timestamp) -> bool {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
    now.abs_diff(time.0) <= NOW_TOLERANCE_NS
}
