use sluice_repo::{Ace, AceKind, DosAttributes, NodeId, Timestamp, Version};

use super::evaluate::{INHERIT_ONLY, rights};
use super::inherit::*;
use super::*;
use crate::request::AccessMask as M;

const ALICE: &str = "S-1-5-21-1-2-3-1001";
const BOB: &str = "S-1-5-21-1-2-3-1002";
const STAFF: &str = "S-1-5-21-1-2-3-1003";

fn person(uid: u32, sid: &str) -> Identity {
    Identity {
        user: Some(sluice_repo::UserId(uid)),
        name: format!("user{uid}"),
        uid,
        gid: 100,
        gids: Vec::new(),
        groups: Vec::new(),
        sid: Sid(sid.to_owned()),
        group_sids: vec![Sid(STAFF.to_owned())],
        admin: false,
    }
}

fn node(kind: NodeKind, mode: u32) -> Attributes {
    Attributes {
        id: NodeId(7),
        kind,
        mode,
        uid: 1,
        gid: 100,
        link_count: 1,
        size: 0,
        allocated: 0,
        accessed: Timestamp(0),
        modified: Timestamp(0),
        changed: Timestamp(0),
        created: Timestamp(0),
        dos: DosAttributes::default(),
        change_id: 1,
        version: Version(0),
        device: (0, 0),
        has_acl: true,
        ea_size: 0,
        parent: None,
    }
}

fn ace(kind: AceKind, flags: u8, mask: u32, sid: &str) -> Ace {
    Ace {
        kind,
        flags,
        mask,
        sid: Sid(sid.to_owned()),
    }
}

fn acl(entries: Vec<Ace>) -> Acl {
    Acl {
        dacl: Some(entries),
        ..Acl::default()
    }
}

fn of(who: &Identity, entries: Vec<Ace>) -> u32 {
    rights(who, &node(NodeKind::File, 0), Some(&acl(entries)))
}

use AceKind::{Allow, Deny};

#[test]
fn the_first_entry_that_names_a_right_decides_it() {
    let bob = person(2, BOB);
    let deny_first = of(
        &bob,
        vec![
            ace(Deny, 0, M::WRITE_DATA, BOB),
            ace(Allow, 0, M::READ_DATA | M::WRITE_DATA, sid::EVERYONE),
        ],
    );
    assert_eq!(deny_first, M::READ_DATA);
    let allow_first = of(
        &bob,
        vec![
            ace(Allow, 0, M::READ_DATA | M::WRITE_DATA, sid::EVERYONE),
            ace(Deny, 0, M::WRITE_DATA, BOB),
        ],
    );
    assert_eq!(allow_first, M::READ_DATA | M::WRITE_DATA);
}

#[test]
fn the_owner_may_always_read_and_change_the_acl_unless_owner_rights_say_otherwise() {
    let alice = person(1, ALICE);
    assert_eq!(of(&alice, vec![]), M::READ_CONTROL | M::WRITE_DAC);
    assert_eq!(of(&person(2, BOB), vec![]), 0);
    let limited = of(
        &alice,
        vec![ace(Allow, 0, M::READ_CONTROL, sid::OWNER_RIGHTS)],
    );
    assert_eq!(limited, M::READ_CONTROL);
    let denied = of(
        &alice,
        vec![
            ace(Deny, 0, M::WRITE_DAC, sid::OWNER_RIGHTS),
            ace(Allow, 0, M::FILE_ALL, ALICE),
        ],
    );
    assert_eq!(denied, M::FILE_ALL & !M::WRITE_DAC);
}

#[test]
fn inherit_only_entries_do_not_count_here() {
    let granted = of(
        &person(2, BOB),
        vec![ace(Allow, INHERIT_ONLY | OBJECT_INHERIT, M::FILE_ALL, BOB)],
    );
    assert_eq!(granted, 0);
}

#[test]
fn a_null_dacl_gives_everything_and_an_empty_one_nothing() {
    let null = Acl::default();
    let file = node(NodeKind::File, 0);
    assert_eq!(rights(&person(2, BOB), &file, Some(&null)), M::FILE_ALL);
    assert_eq!(of(&person(2, BOB), vec![]), 0);
}

#[test]
fn generic_rights_in_an_entry_count_as_what_they_stand_for() {
    let granted = of(
        &person(2, BOB),
        vec![ace(Allow, 0, M::GENERIC_READ, sid::EVERYONE)],
    );
    assert_eq!(granted, 0x0012_0089);
}

#[test]
fn somebody_without_an_account_is_everyone_but_not_authenticated() {
    let mut stranger = person(1000, "S-1-22-1-1000");
    stranger.user = None;
    let entries = vec![
        ace(Allow, 0, M::READ_DATA, sid::EVERYONE),
        ace(Allow, 0, M::WRITE_DATA, sid::AUTHENTICATED_USERS),
    ];
    assert_eq!(of(&stranger, entries.clone()), M::READ_DATA);
    assert_eq!(of(&person(2, BOB), entries), M::READ_DATA | M::WRITE_DATA);
}

#[test]
fn an_administrator_may_take_ownership_and_bypasses_nothing_else() {
    let mut admin = person(3, "S-1-5-21-1-2-3-1009");
    admin.admin = true;
    assert_eq!(of(&admin, vec![]), M::WRITE_OWNER);
}

#[test]
fn mode_bits_decide_by_the_first_class_that_fits() {
    let file = node(NodeKind::File, 0o640);
    let can = |who: &Identity| {
        let rights = rights(who, &file, None);
        (rights & M::READ_DATA != 0, rights & M::WRITE_DATA != 0)
    };
    let mut stranger = person(9, BOB);
    stranger.gid = 9;
    assert_eq!(can(&person(1, ALICE)), (true, true));
    assert_eq!(can(&person(2, BOB)), (true, false));
    assert_eq!(can(&stranger), (false, false));
    // The owner's class counts for the owner even if others have more.
    let odd = node(NodeKind::File, 0o077);
    assert_eq!(rights(&person(1, ALICE), &odd, None) & M::READ_DATA, 0);
}

fn child(parent_flags: u8, directory: bool, sid: &str) -> Vec<(u8, String)> {
    let owner = Sid(ALICE.to_owned());
    let creator = Creator {
        owner: &owner,
        group: &owner,
    };
    let parent = acl(vec![ace(Allow, parent_flags, M::READ_DATA, sid)]);
    let acl = inherited(&parent, directory, &creator);
    let dacl = acl.and_then(|acl| acl.dacl).unwrap_or_default();
    dacl.into_iter().map(|ace| (ace.flags, ace.sid.0)).collect()
}

#[test]
fn inheritance_follows_the_flags() {
    let (oi, ci, np, io) = (
        OBJECT_INHERIT,
        CONTAINER_INHERIT,
        NO_PROPAGATE,
        INHERIT_ONLY,
    );
    // Flags of the entry above, of the entry in a new document, of that in a new folder.
    let table = [
        (0, None, None),
        (oi, Some(0), Some(oi | io)),
        (ci, None, Some(ci)),
        (oi | ci, Some(0), Some(oi | ci)),
        (np, None, None),
        (np | oi, Some(0), None),
        (np | ci, None, Some(0)),
        (np | oi | ci, Some(0), Some(0)),
        (io, None, None),
        (io | oi, Some(0), Some(oi | io)),
        (io | ci, None, Some(ci)),
        (io | oi | ci, Some(0), Some(oi | ci)),
        (io | np | oi, Some(0), None),
    ];
    for (flags, in_file, in_folder) in table {
        let expect = |flags: Option<u8>| {
            let entry = flags.map(|flags| (flags, BOB.to_owned()));
            entry.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(child(flags, false, BOB), expect(in_file), "{flags:#x} file");
        assert_eq!(
            child(flags, true, BOB),
            expect(in_folder),
            "{flags:#x} folder"
        );
    }
}

#[test]
fn creator_owner_becomes_the_owner_and_goes_on_unchanged() {
    let both = OBJECT_INHERIT | CONTAINER_INHERIT;
    assert_eq!(
        child(both, false, sid::CREATOR_OWNER),
        [(0, ALICE.to_owned())]
    );
    assert_eq!(
        child(both, true, sid::CREATOR_OWNER),
        [
            (0, ALICE.to_owned()),
            (both | INHERIT_ONLY, sid::CREATOR_OWNER.to_owned())
        ]
    );
}

#[test]
fn the_auto_inherited_bit_is_kept_only_with_its_request() {
    for (given, kept) in [
        (DACL_AUTO_INHERITED, 0),
        (DACL_AUTO_INHERIT_REQ, 0),
        (
            DACL_AUTO_INHERITED | DACL_AUTO_INHERIT_REQ,
            DACL_AUTO_INHERITED,
        ),
        (DACL_PROTECTED | DACL_AUTO_INHERITED, DACL_PROTECTED),
    ] {
        let acl = Acl {
            control: given,
            ..Acl::default()
        };
        assert_eq!(stored_form(&acl).control, kept, "{given:#x}");
    }
}

#[test]
fn mode_to_acl_and_back_gives_the_same_bits_and_the_same_rights() {
    let (owner, group) = (Sid(ALICE.to_owned()), Sid(STAFF.to_owned()));
    let owners = Owners {
        owner: &owner,
        group: &group,
    };
    let mut stranger = person(9, "S-1-5-21-1-2-3-1999");
    stranger.gid = 9;
    stranger.group_sids.clear();
    for mode in 0..0o1000 {
        let acl = mode::acl_of_mode(mode, false, &owners);
        assert_eq!(mode::mode_of_acl(&acl, &owners), mode, "{mode:o}");
        let file = node(NodeKind::File, mode);
        for who in [person(1, ALICE), person(2, BOB), stranger.clone()] {
            let data = M::READ_DATA | M::WRITE_DATA | M::EXECUTE;
            assert_eq!(
                rights(&who, &file, Some(&acl)) & data,
                rights(&who, &file, None) & data,
                "{mode:o} for {}",
                who.name
            );
        }
    }
}

#[test]
fn chmod_keeps_what_children_inherit_and_masks_named_users() {
    let (owner, group) = (Sid(ALICE.to_owned()), Sid(STAFF.to_owned()));
    let owners = Owners {
        owner: &owner,
        group: &group,
    };
    let open = open_share();
    let closed = mode::chmod(&open, 0o700, true, &owners).expect("heritage stays");
    let folder = node(NodeKind::Directory, 0o700);
    let data = M::READ_DATA | M::WRITE_DATA;
    assert_eq!(rights(&person(2, BOB), &folder, Some(&closed)) & data, 0);
    assert_eq!(
        rights(&person(1, ALICE), &folder, Some(&closed)) & data,
        data
    );
    let creator = Creator {
        owner: &owner,
        group: &group,
    };
    let made = inherited(&closed, false, &creator).expect("children still inherit");
    let file = node(NodeKind::File, 0);
    assert_eq!(rights(&person(2, BOB), &file, Some(&made)) & data, data);
    // A document of the share that is made private needs no ACL any more.
    assert!(mode::chmod(&made, 0o600, false, &owners).is_none());
    let named = acl(vec![ace(Allow, 0, data, BOB)]);
    let masked = mode::chmod(&named, 0o640, false, &owners).expect("a named user stays");
    let got = rights(&person(2, BOB), &file, Some(&masked));
    assert_eq!(got & data, M::READ_DATA);
}

#[test]
fn in_a_new_share_everybody_reads_and_writes_and_makers_own_what_they_make() {
    let open = open_share();
    let owner = Sid(ALICE.to_owned());
    let creator = Creator {
        owner: &owner,
        group: &owner,
    };
    let mut stranger = person(1000, "S-1-22-1-1000");
    stranger.user = None;
    let made = inherited(&open, false, &creator).expect("inherits");
    let file = node(NodeKind::File, 0);
    let change = M::FILE_ALL & !(M::WRITE_DAC | M::WRITE_OWNER);
    assert_eq!(rights(&stranger, &file, Some(&made)), change);
    assert_eq!(rights(&person(1, ALICE), &file, Some(&made)), M::FILE_ALL);
    let mut root = node(NodeKind::Directory, 0o777);
    root.uid = 0;
    assert_eq!(rights(&stranger, &root, Some(&open)), change);
}

#[test]
fn a_group_member_may_give_his_file_to_his_group_but_not_away() {
    let alice = person(1, ALICE);
    let file = node(NodeKind::File, 0o6755);
    let none = AccessMask(0);
    let mut change = AttributeChange {
        uid: Some(2),
        ..AttributeChange::default()
    };
    let refused = check_ownership(&alice, &file, none, &mut change);
    assert_eq!(refused, Err(VfsError::NotOwner));
    let mut own_group = alice.clone();
    own_group.gids = vec![200];
    let mut change = AttributeChange {
        gid: Some(200),
        ..AttributeChange::default()
    };
    assert!(check_ownership(&own_group, &file, none, &mut change).is_ok());
    assert_eq!(change.mode, Some(0o755), "setuid and setgid go");
}
