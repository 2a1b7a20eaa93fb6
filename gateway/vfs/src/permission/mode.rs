//! Mode bits and ACLs as two views of one thing (RFC 8881 6.3.2 and 6.4.1). Pure.

use sluice_repo::{Ace, AceKind, Acl, Sid};

use super::evaluate::{INHERIT_ONLY, map_generic, rights_of_bits};
use super::inherit::{CONTAINER_INHERIT, DACL_AUTO_INHERITED, OBJECT_INHERIT};
use super::sid;
use crate::request::AccessMask as M;

/// What every entry made from mode bits grants besides its bits.
const ALWAYS: u32 = M::READ_ATTRIBUTES | M::READ_CONTROL | M::SYNCHRONIZE;

/// Owner and group of a node as SIDs.
pub(crate) struct Owners<'a> {
    pub(crate) owner: &'a Sid,
    pub(crate) group: &'a Sid,
}

/// The ACL that says the same as `mode`: three allow entries, and denials where a class has less than a later one.
pub(crate) fn acl_of_mode(mode: u32, directory: bool, owners: &Owners<'_>) -> Acl {
    Acl {
        dacl: Some(join_mode(mode, directory, owners, Vec::new())),
        ..Acl::default()
    }
}

/// Mode entries around those of other trustees: owner, the others, group, everyone. First match decides, so each
/// class is complete (allowed or denied) before a wider one is reached.
fn join_mode(mode: u32, directory: bool, owners: &Owners<'_>, others: Vec<Ace>) -> Vec<Ace> {
    let bits = |shift: u32| rights_of_bits(mode >> shift & 7, directory);
    let (owner, group, everyone) = (bits(6), bits(3), bits(0));
    let entry = |kind, mask, sid: &Sid| Ace {
        kind,
        flags: 0,
        mask,
        sid: sid.clone(),
    };
    let own = owner | ALWAYS | M::WRITE_DAC | M::WRITE_ATTRIBUTES;
    let mut dacl = vec![entry(AceKind::Allow, own, owners.owner)];
    let owner_lacks = (group | everyone) & !own;
    if owner_lacks != 0 {
        dacl.push(entry(AceKind::Deny, owner_lacks, owners.owner));
    }
    dacl.extend(others);
    dacl.push(entry(AceKind::Allow, group | ALWAYS, owners.group));
    let group_lacks = everyone & !group;
    if group_lacks != 0 {
        dacl.push(entry(AceKind::Deny, group_lacks, owners.group));
    }
    let all = Sid(sid::EVERYONE.to_owned());
    dacl.push(entry(AceKind::Allow, everyone | ALWAYS, &all));
    dacl
}

/// The mode bits that tell best what the ACL grants to owner, group and everyone else; type and special bits are not in it.
pub(crate) fn mode_of_acl(acl: &Acl, owners: &Owners<'_>) -> u32 {
    let Some(dacl) = &acl.dacl else {
        return 0o777;
    };
    let granted = |sids: &[&str]| {
        let (mut allowed, mut denied) = (0u32, 0u32);
        for ace in dacl.iter().filter(|ace| ace.flags & INHERIT_ONLY == 0) {
            if !sids.contains(&ace.sid.0.as_str()) {
                continue;
            }
            match ace.kind {
                AceKind::Allow => allowed |= map_generic(ace.mask) & !denied,
                AceKind::Deny => denied |= map_generic(ace.mask) & !allowed,
                AceKind::Audit => {}
            }
        }
        bits_of_rights(allowed)
    };
    let (everyone, users) = (sid::EVERYONE, sid::AUTHENTICATED_USERS);
    let (owner, group) = (owners.owner.0.as_str(), owners.group.0.as_str());
    granted(&[owner, sid::OWNER_RIGHTS, group, everyone, users]) << 6
        | granted(&[group, everyone, users]) << 3
        | granted(&[everyone])
}

fn bits_of_rights(rights: u32) -> u32 {
    let all = |wanted: u32| rights & wanted == wanted;
    u32::from(all(M::READ_DATA)) << 2
        | u32::from(all(M::WRITE_DATA | M::APPEND_DATA)) << 1
        | u32::from(all(M::EXECUTE))
}

/// The ACL after `chmod`: mode entries for owner, group and everyone; entries of other trustees keep what the group bits leave them;
/// what a folder gives to new children stays. `None` if the mode bits alone say it all.
pub(crate) fn chmod(acl: &Acl, mode: u32, directory: bool, owners: &Owners<'_>) -> Option<Acl> {
    let group_mask = rights_of_bits(mode >> 3 & 7, directory) | ALWAYS;
    let (mut others, mut heritage) = (Vec::new(), Vec::new());
    for ace in acl.dacl.iter().flatten() {
        let for_children = ace.flags & (OBJECT_INHERIT | CONTAINER_INHERIT) != 0;
        if for_children && directory {
            heritage.push(Ace {
                flags: ace.flags | INHERIT_ONLY,
                ..ace.clone()
            });
        }
        if ace.flags & INHERIT_ONLY == 0 && !is_class(&ace.sid, owners) {
            let mask = map_generic(ace.mask);
            let kept = match ace.kind {
                AceKind::Allow => mask & group_mask,
                AceKind::Deny | AceKind::Audit => mask,
            };
            others.push(Ace {
                flags: 0,
                mask: kept,
                ..ace.clone()
            });
        }
    }
    let audits = acl.sacl.as_ref().is_some_and(|sacl| !sacl.is_empty());
    if others.is_empty() && heritage.is_empty() && !audits && acl.owner.is_none() {
        return None;
    }
    let mut dacl = join_mode(mode, directory, owners, others);
    dacl.append(&mut heritage);
    Some(Acl {
        owner: acl.owner.clone(),
        group: acl.group.clone(),
        dacl: Some(dacl),
        sacl: acl.sacl.clone(),
        control: acl.control,
    })
}

/// Whether the mode bits speak for this trustee.
fn is_class(trustee: &Sid, owners: &Owners<'_>) -> bool {
    let words = [
        sid::EVERYONE,
        sid::AUTHENTICATED_USERS,
        sid::USERS,
        sid::OWNER_RIGHTS,
        sid::CREATOR_OWNER,
        sid::CREATOR_GROUP,
        sid::SYSTEM,
    ];
    trustee == owners.owner || trustee == owners.group || words.contains(&trustee.0.as_str())
}

/// Entries of the old owner and group become the new ones' (POSIX chown: the classes follow the ownership).
pub(crate) fn chown(acl: &Acl, old: &Owners<'_>, new: &Owners<'_>) -> Acl {
    let mut changed = acl.clone();
    for ace in changed.dacl.iter_mut().flatten() {
        if ace.sid == *old.owner {
            ace.sid = new.owner.clone();
        } else if ace.sid == *old.group {
            ace.sid = new.group.clone();
        }
    }
    changed
}

/// The ACL of the root of a new share: every user may read and write, what he makes is his.
pub(crate) fn open_share() -> Acl {
    let both = OBJECT_INHERIT | CONTAINER_INHERIT;
    let entry = |flags, mask, sid: &str| Ace {
        kind: AceKind::Allow,
        flags,
        mask,
        sid: Sid(sid.to_owned()),
    };
    let change = M::FILE_ALL & !(M::WRITE_DAC | M::WRITE_OWNER);
    Acl {
        dacl: Some(vec![
            entry(both | INHERIT_ONLY, M::FILE_ALL, sid::CREATOR_OWNER),
            entry(both, change, sid::EVERYONE),
        ]),
        control: DACL_AUTO_INHERITED,
        ..Acl::default()
    }
}
