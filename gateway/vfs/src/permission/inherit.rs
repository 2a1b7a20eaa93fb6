//! The ACL that a new node gets from its folder (MS-DTYP 2.5.3.4). Pure.

use sluice_repo::{Ace, AceKind, Acl, Sid};

use super::evaluate::{INHERIT_ONLY, map_generic};
use super::sid;
use crate::request::AccessMask as M;

/// The entry goes to documents.
pub(crate) const OBJECT_INHERIT: u8 = 0x01;
/// The entry goes to folders.
pub(crate) const CONTAINER_INHERIT: u8 = 0x02;
/// The entry goes one level down only.
pub(crate) const NO_PROPAGATE: u8 = 0x04;
/// The entry was inherited.
pub(crate) const INHERITED: u8 = 0x10;

/// Control: the DACL was made by inheritance (MS-DTYP 2.4.6).
pub(crate) const DACL_AUTO_INHERITED: u16 = 0x0400;
/// Control: whoever sets the descriptor asks for inheritance.
pub(crate) const DACL_AUTO_INHERIT_REQ: u16 = 0x0100;
/// Control: the DACL takes nothing from above.
pub(crate) const DACL_PROTECTED: u16 = 0x1000;
/// Control: the same three for the system entries.
pub(crate) const SACL_AUTO_INHERITED: u16 = 0x0800;
pub(crate) const SACL_AUTO_INHERIT_REQ: u16 = 0x0200;
pub(crate) const SACL_PROTECTED: u16 = 0x2000;

/// Who owns the node that is made.
pub(crate) struct Creator<'a> {
    pub(crate) owner: &'a Sid,
    pub(crate) group: &'a Sid,
}

/// The ACL inherited from a folder with `parent`; `None` if it has nothing for a child of this kind.
pub(crate) fn inherited(parent: &Acl, directory: bool, creator: &Creator<'_>) -> Option<Acl> {
    let automatic = parent.control & DACL_AUTO_INHERITED != 0;
    let mark = if automatic { INHERITED } else { 0 };
    let dacl: Vec<Ace> = parent
        .dacl
        .iter()
        .flatten()
        .flat_map(|ace| inherit_one(ace, directory, creator, mark))
        .flatten()
        .collect();
    let sacl: Vec<Ace> = parent
        .sacl
        .iter()
        .flatten()
        .flat_map(|ace| inherit_one(ace, directory, creator, mark))
        .flatten()
        .collect();
    (!dacl.is_empty()).then(|| Acl {
        owner: None,
        group: None,
        dacl: Some(dacl),
        sacl: (!sacl.is_empty()).then_some(sacl),
        control: parent.control & (DACL_AUTO_INHERITED | SACL_AUTO_INHERITED),
    })
}

/// What one entry becomes in a child: the one that counts there and, in a folder, the one for further inheritance.
fn inherit_one(ace: &Ace, directory: bool, creator: &Creator<'_>, mark: u8) -> [Option<Ace>; 2] {
    let objects = ace.flags & OBJECT_INHERIT != 0;
    let containers = ace.flags & CONTAINER_INHERIT != 0;
    let onward = directory && (objects || containers) && ace.flags & NO_PROPAGATE == 0;
    let counts = if directory { containers } else { objects };
    let heritage = ace.flags & (OBJECT_INHERIT | CONTAINER_INHERIT);
    let heir = substituted(ace, creator);
    // An entry that changes on its way (CREATOR OWNER, generic bits) is split, so that it goes on unchanged.
    if counts && onward && heir.sid == ace.sid && heir.mask == ace.mask {
        return [
            Some(Ace {
                flags: heritage | mark,
                ..heir
            }),
            None,
        ];
    }
    let effective = counts.then_some(Ace {
        flags: mark,
        ..heir
    });
    let further = onward.then(|| Ace {
        flags: heritage | INHERIT_ONLY | mark,
        ..ace.clone()
    });
    [effective, further]
}

fn substituted(ace: &Ace, creator: &Creator<'_>) -> Ace {
    let sid = match ace.sid.0.as_str() {
        sid::CREATOR_OWNER => creator.owner,
        sid::CREATOR_GROUP => creator.group,
        _ => &ace.sid,
    };
    Ace {
        kind: ace.kind,
        flags: ace.flags,
        mask: map_generic(ace.mask),
        sid: sid.clone(),
    }
}

/// The ACL of a node that was made with a descriptor of its own. Inherited entries follow the given ones if the descriptor
/// asks for that and does not protect itself.
pub(crate) fn explicit(
    given: &Acl,
    parent: Option<&Acl>,
    directory: bool,
    creator: &Creator<'_>,
) -> Acl {
    let mut acl = stored_form(given);
    let wants = given.control & DACL_AUTO_INHERIT_REQ != 0;
    let protected = given.control & DACL_PROTECTED != 0;
    if let (true, false, Some(parent), Some(dacl)) = (wants, protected, parent, &mut acl.dacl) {
        let own = |ace: &Ace| ace.flags & INHERITED == 0;
        dacl.retain(own);
        if let Some(from_above) = inherited(parent, directory, creator) {
            dacl.extend(from_above.dacl.into_iter().flatten().map(|ace| Ace {
                flags: ace.flags | INHERITED,
                ..ace
            }));
        }
        acl.control |= DACL_AUTO_INHERITED;
    }
    acl
}

/// What Windows gives a new node when nothing is inherited: everything to the owner and the system.
pub(crate) fn default_acl(owner: &Sid) -> Acl {
    let full = |sid: Sid| Ace {
        kind: AceKind::Allow,
        flags: 0,
        mask: M::FILE_ALL,
        sid,
    };
    Acl {
        dacl: Some(vec![full(owner.clone()), full(Sid(sid::SYSTEM.to_owned()))]),
        ..Acl::default()
    }
}

/// A descriptor as it is kept: generic bits mapped in entries that count here, and the automatic-inheritance bit only if
/// it was asked for with its request bit (MS-DTYP 2.5.3.4.2).
pub(crate) fn stored_form(given: &Acl) -> Acl {
    let map = |aces: &Option<Vec<Ace>>| {
        let aces = aces.as_ref()?;
        let mapped = aces.iter().map(|ace| match ace.flags & INHERIT_ONLY {
            0 => Ace {
                mask: map_generic(ace.mask),
                ..ace.clone()
            },
            _ => ace.clone(),
        });
        Some(mapped.collect())
    };
    Acl {
        owner: given.owner.clone(),
        group: given.group.clone(),
        dacl: map(&given.dacl),
        sacl: map(&given.sacl),
        control: stored_control(given.control),
    }
}

fn stored_control(given: u16) -> u16 {
    let mut control = given & (DACL_PROTECTED | SACL_PROTECTED);
    for (inherited, request) in [
        (DACL_AUTO_INHERITED, DACL_AUTO_INHERIT_REQ),
        (SACL_AUTO_INHERITED, SACL_AUTO_INHERIT_REQ),
    ] {
        if given & (inherited | request) == inherited | request {
            control |= inherited;
        }
    }
    control
}
