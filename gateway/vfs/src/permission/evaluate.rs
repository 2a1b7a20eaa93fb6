//! What somebody may do with a node: its ACL in order, or its mode bits. Pure.
//!
//! MS-DTYP 2.5.3.2 (access check), RFC 8881 6.2.1: the first entry that names a right decides it. All rights are
//! computed at once, which is also the answer to MAXIMUM_ALLOWED.

use sluice_repo::{Ace, AceKind, Acl, Attributes, NodeKind, Sid};

use super::sid;
use crate::identity::Identity;
use crate::request::AccessMask as M;

/// The entry is only for inheritance (MS-DTYP 2.4.4.1).
pub(crate) const INHERIT_ONLY: u8 = 0x08;

/// What the owner may always do, unless an entry for OWNER RIGHTS says otherwise.
const IMPLIED_OWNER: u32 = M::READ_CONTROL | M::WRITE_DAC;

/// What mode bits leave to everybody: attributes and the descriptor can be read.
const MODE_EVERYBODY: u32 = M::READ_ATTRIBUTES | M::READ_CONTROL | M::SYNCHRONIZE;

/// Rights behind GENERIC_READ for files and folders (MS-SMB2 2.2.13.1).
pub(crate) const GENERIC_READ: u32 =
    M::READ_DATA | M::READ_EA | M::READ_ATTRIBUTES | M::READ_CONTROL | M::SYNCHRONIZE;
/// Rights behind GENERIC_WRITE.
pub(crate) const GENERIC_WRITE: u32 = M::WRITE_DATA
    | M::APPEND_DATA
    | M::WRITE_EA
    | M::WRITE_ATTRIBUTES
    | M::READ_CONTROL
    | M::SYNCHRONIZE;
/// Rights behind GENERIC_EXECUTE.
pub(crate) const GENERIC_EXECUTE: u32 =
    M::EXECUTE | M::READ_ATTRIBUTES | M::READ_CONTROL | M::SYNCHRONIZE;

/// Replaces generic bits by what they stand for.
pub(crate) fn map_generic(mask: u32) -> u32 {
    let mut specific = mask & 0x0fff_ffff;
    for (generic, rights) in [
        (M::GENERIC_READ, GENERIC_READ),
        (M::GENERIC_WRITE, GENERIC_WRITE),
        (M::GENERIC_EXECUTE, GENERIC_EXECUTE),
        (M::GENERIC_ALL, M::FILE_ALL),
    ] {
        if mask & generic != 0 {
            specific |= rights;
        }
    }
    specific
}

/// Whether POSIX root asks: an unsquashed uid 0, or an account with that uid.
pub(crate) fn is_root(who: &Identity) -> bool {
    who.uid == 0
}

/// Whether `who` owns the node. `owner` is the stored owner SID if it is not the uid's.
pub(crate) fn owns(who: &Identity, node: &Attributes, owner: Option<&Sid>) -> bool {
    match owner {
        Some(sid) => who.sid == *sid || who.group_sids.contains(sid),
        None => who.uid == node.uid,
    }
}

/// Every right that `who` has on the node by itself; what the folder above adds (DELETE through
/// DELETE_CHILD, READ_ATTRIBUTES through listing) is added where the folder is known.
pub(crate) fn rights(who: &Identity, node: &Attributes, acl: Option<&Acl>) -> u32 {
    if is_root(who) {
        return M::FILE_ALL;
    }
    let own = match acl {
        Some(acl) => by_acl(who, node, acl),
        None => by_mode(who, node),
    };
    // An administrator may take ownership, as with SeTakeOwnershipPrivilege; the rest follows from owning.
    own | if who.admin { M::WRITE_OWNER } else { 0 }
}

fn by_acl(who: &Identity, node: &Attributes, acl: &Acl) -> u32 {
    let Some(dacl) = &acl.dacl else {
        return M::FILE_ALL;
    };
    let owner = owns(who, node, acl.owner.as_ref());
    let effective = || dacl.iter().filter(|ace| ace.flags & INHERIT_ONLY == 0);
    let owner_rights_rule = effective().any(|ace| ace.sid.0 == sid::OWNER_RIGHTS);
    let (mut allowed, mut denied) = (0u32, 0u32);
    if owner && !owner_rights_rule {
        allowed = IMPLIED_OWNER;
    }
    for ace in effective().filter(|ace| names(ace, who, owner)) {
        let mask = map_generic(ace.mask);
        match ace.kind {
            AceKind::Allow => allowed |= mask & !denied,
            AceKind::Deny => denied |= mask & !allowed,
            AceKind::Audit => {}
        }
    }
    allowed & M::FILE_ALL
}

/// Whether an entry means `who`.
fn names(ace: &Ace, who: &Identity, owner: bool) -> bool {
    match ace.sid.0.as_str() {
        sid::EVERYONE => true,
        sid::OWNER_RIGHTS => owner,
        sid::AUTHENTICATED_USERS | sid::USERS => who.user.is_some(),
        sid::ADMINISTRATORS => who.admin,
        _ => ace.sid == who.sid || who.group_sids.contains(&ace.sid),
    }
}

fn by_mode(who: &Identity, node: &Attributes) -> u32 {
    let directory = node.kind == NodeKind::Directory;
    if who.uid == node.uid {
        let own = rights_of_bits(node.mode >> 6, directory);
        return own | IMPLIED_OWNER | MODE_EVERYBODY | M::WRITE_ATTRIBUTES;
    }
    let class = if who.gid == node.gid || who.gids.contains(&node.gid) {
        node.mode >> 3
    } else {
        node.mode
    };
    rights_of_bits(class, directory) | MODE_EVERYBODY
}

/// The rights behind one class of permission bits (RFC 8881 6.3.2.1 the other way round).
pub(crate) fn rights_of_bits(bits: u32, directory: bool) -> u32 {
    let mut rights = 0;
    if bits & 4 != 0 {
        rights |= M::READ_DATA | M::READ_EA;
    }
    if bits & 2 != 0 {
        rights |= M::WRITE_DATA | M::APPEND_DATA | M::WRITE_EA | M::WRITE_ATTRIBUTES;
        rights |= if directory { M::DELETE_CHILD } else { 0 };
    }
    if bits & 1 != 0 {
        rights |= M::EXECUTE;
    }
    rights
}
