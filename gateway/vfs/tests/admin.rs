//! The administration over a real repository: first start, accounts, shares, policy, locks, versions, change notification.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use common::{World, path, put};
use sluice_lockmgr::{LocalLocks, LockOptions, MonotonicClock};
use sluice_repo_content::{Folder, Store};
use sluice_repo_sqlite::SqliteRepository;
use sluice_vfs::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn new_user(name: &str) -> NewUser {
    NewUser {
        name: name.to_owned(),
        password: Some(Password("correct horse".to_owned())),
        ..NewUser::default()
    }
}

fn tree_of(vfs: &Vfs, protocol: Protocol, identity: Arc<Identity>) -> Tree {
    let client = vfs.client(protocol, HERE, "box", [0; 16]);
    let share = vfs.share(protocol, "docs").expect("the share");
    let caller = Caller { identity, client };
    vfs.tree(&share, caller).expect("comes in")
}

/// A file layer on an empty repository, as the daemon's first start finds it.
struct Bare {
    vfs: Vfs,
    _folder: tempfile::TempDir,
}

impl Bare {
    async fn new() -> Bare {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = sluice_repo_sqlite::Options::new(folder.path().join("meta.db"));
        let repository = SqliteRepository::open(options).await;
        let objects = Folder::open(folder.path().join("content")).expect("the folder opens");
        let store = Store::new(Arc::new(objects), Default::default()).expect("the store opens");
        let clock = Arc::new(MonotonicClock::default());
        let vfs = Vfs::new(VfsOptions {
            repository: Arc::new(repository.expect("the repository opens")),
            content: Arc::new(store),
            locks: Arc::new(LocalLocks::new(LockOptions::default(), clock)),
            node: "n1".to_owned(),
            member: 0,
            times: common::times(),
        });
        Bare {
            vfs: vfs.await.expect("the file layer starts"),
            _folder: folder,
        }
    }
}

#[tokio::test]
async fn the_first_start_makes_an_administrator_and_an_open_share_once() {
    let world = Bare::new().await;
    let admin = world.vfs.admin();
    let first = admin.first_start().await.expect("starts");
    let first = first.expect("an empty repository gets a user");
    assert_eq!(
        (first.user.as_str(), first.share.as_str()),
        ("admin", "docs")
    );
    assert!(admin.first_start().await.expect("again").is_none());
    let accounts = world.vfs.accounts();
    let who = accounts
        .check_password("ADMIN", &first.password, HERE)
        .await;
    assert!(who.expect("comes in").admin);
    let wrong = accounts.check_password("admin", "guess", HERE).await;
    assert_eq!(wrong.err(), Some(LoginRefused::Wrong));
    let shares = admin.shares().await.expect("shares");
    assert_eq!(shares[0].protocols, ["smb", "nfs", "ftp"]);
    assert_eq!(shares[0].squash, "root");
}

#[tokio::test]
async fn in_the_first_share_users_and_bare_uids_write_the_same_documents() {
    let world = Bare::new().await;
    let admin = world.vfs.admin();
    admin.first_start().await.expect("starts");
    admin.add_user(new_user("alice")).await.expect("a user");
    let accounts = world.vfs.accounts();
    let (alice, _) = accounts
        .nt_hash("Alice")
        .await
        .expect("accounts")
        .expect("known");
    let stranger = accounts.unix(1000, 1000, &[]).await.expect("by number");
    let root = accounts.unix(0, 0, &[]).await.expect("by number");
    let by_alice = tree_of(&world.vfs, Protocol::Ftp, alice);
    put(&by_alice, "a.txt", b"alice").await;
    let by_number = tree_of(&world.vfs, Protocol::Nfs3, stranger);
    let node = by_number.resolve(&path("a.txt")).await.expect("there");
    let wanted = AccessMask(AccessMask::READ_DATA | AccessMask::WRITE_DATA);
    let granted = by_number.access(node.id, wanted).await.expect("asked");
    assert_eq!(granted, wanted);
    let squashed = tree_of(&world.vfs, Protocol::Nfs3, root);
    assert_eq!(squashed.caller().identity.uid, 65_534);
}

#[tokio::test]
async fn users_are_told_apart_without_regard_to_case_and_numbers_are_taken_once() {
    let world = Bare::new().await;
    let admin = world.vfs.admin();
    let alice = admin.add_user(new_user("Alice")).await.expect("a user");
    assert!(alice.uid >= 100_000, "far from the clients' own numbers");
    let again = admin.add_user(new_user("aLICE")).await;
    assert!(matches!(again, Err(AdminError::Exists(_))));
    let same_uid = NewUser {
        uid: Some(alice.uid),
        ..new_user("bob")
    };
    let same_uid = admin.add_user(same_uid).await;
    assert!(matches!(same_uid, Err(AdminError::Exists(_))));
    for bad in ["", "a/b", "a:b", " a", "a\nb"] {
        let refused = admin.add_user(new_user(bad)).await;
        assert!(matches!(refused, Err(AdminError::Invalid(_))), "{bad:?}");
    }
    let bob = NewUser {
        groups: vec!["editors".to_owned()],
        ..new_user("bob")
    };
    let bob = admin.add_user(bob).await.expect("another user");
    assert_ne!((alice.uid, &alice.sid), (bob.uid, &bob.sid));
    let groups = admin.groups().await.expect("groups");
    let editors = groups.iter().find(|group| group.name == "editors");
    assert_eq!(editors.expect("made with its user").members, ["bob"]);
    admin.remove_user("BOB").await.expect("removed");
    let gone = admin.remove_user("bob").await;
    assert!(matches!(gone, Err(AdminError::NotFound(_))));
}

#[tokio::test]
async fn a_disabled_user_and_an_old_password_do_not_come_in() {
    let world = Bare::new().await;
    let admin = world.vfs.admin();
    admin.add_user(new_user("alice")).await.expect("a user");
    let accounts = world.vfs.accounts();
    let good = accounts
        .check_password("alice", "correct horse", HERE)
        .await;
    good.expect("comes in");
    let other = Password("battery staple".to_owned());
    admin.set_password("alice", other).await.expect("set");
    let old = accounts
        .check_password("alice", "correct horse", HERE)
        .await;
    assert_eq!(old.err(), Some(LoginRefused::Wrong));
    let new = accounts
        .check_password("alice", "battery staple", HERE)
        .await;
    new.expect("comes in");
    admin.set_disabled("alice", true).await.expect("disabled");
    let disabled = accounts
        .check_password("alice", "battery staple", HERE)
        .await;
    assert_eq!(disabled.err(), Some(LoginRefused::Wrong));
    let hash = accounts.nt_hash("alice").await.expect("accounts");
    assert!(hash.is_none());
}

#[tokio::test]
async fn a_changed_share_holds_at_once() {
    let world = Bare::new().await;
    let admin = world.vfs.admin();
    admin.first_start().await.expect("starts");
    let change = ShareChange {
        protocols: Some(vec!["smb".to_owned()]),
        nfs_clients: Some(vec!["10.0.0.0/8".to_owned()]),
        ..ShareChange::default()
    };
    let changed = admin.set_share("DOCS", change).await.expect("set");
    assert_eq!(changed.protocols, ["smb"]);
    assert!(world.vfs.share(Protocol::Ftp, "docs").is_none());
    assert!(world.vfs.share(Protocol::Smb, "Docs").is_some());
    let bad = ShareChange {
        nfs_clients: Some(vec!["everywhere".to_owned()]),
        ..ShareChange::default()
    };
    let bad = admin.set_share("docs", bad).await;
    assert!(matches!(bad, Err(AdminError::Invalid(_))));
    let second = admin.add_share(
        "deep",
        ShareChange {
            path: Some("/archive/deep".to_owned()),
            ..ShareChange::default()
        },
    );
    assert_eq!(second.await.expect("added").path, "/archive/deep");
    admin.remove_share("deep").await.expect("removed");
    assert!(world.vfs.share(Protocol::Smb, "deep").is_none());
}

#[tokio::test]
async fn an_nfs_client_outside_the_networks_stays_out() {
    let world = Bare::new().await;
    let admin = world.vfs.admin();
    admin.first_start().await.expect("starts");
    let share = world.vfs.share(Protocol::Nfs3, "docs").expect("offered");
    let identity = world.vfs.accounts().unix(1000, 1000, &[]).await;
    let identity = identity.expect("by number");
    let far = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let client = world.vfs.client(Protocol::Nfs3, far, "far", [0; 16]);
    let caller = Caller { identity, client };
    let refused = world.vfs.tree(&share, caller).err();
    assert_eq!(refused, Some(VfsError::AccessDenied));
}

#[tokio::test]
async fn a_rule_holds_at_once_and_is_explained() {
    let world = World::new().await;
    let admin = world.vfs.admin();
    let rule = NewRule {
        share: Some("docs".to_owned()),
        path: Some("closed/**".to_owned()),
        protocol: Some(sluice_repo::RuleProtocol::Ftp),
        write: Some(sluice_repo::WriteRule::Deny),
        ..NewRule::default()
    };
    let rule = admin.add_rule(rule).await.expect("a rule");
    let question = PolicyQuestion {
        share: "docs".to_owned(),
        protocol: Protocol::Ftp,
        user: None,
        client: None,
        path: "/closed/a.txt".to_owned(),
    };
    let told = admin.explain_policy(question.clone()).await.expect("told");
    assert_eq!(told.write, "deny");
    assert!(told.considered[0].applies);
    let ftp = world.tree(Protocol::Ftp, 2);
    let refused = ftp.upload(&path("closed.txt"), UploadMode::Replace).await;
    assert!(refused.is_ok(), "another path is not meant");
    let folder = NewNode {
        kind: Some(NodeKind::Directory),
        ..NewNode::default()
    };
    let made = ftp.make_node(ftp.root(), "closed", folder).await;
    made.expect("the folder itself is not meant");
    let refused = ftp.upload(&path("closed/a.txt"), UploadMode::Replace).await;
    assert!(matches!(refused.err(), Some(VfsError::PolicyDenied(name)) if name.starts_with('1')));
    let what_if = Simulation {
        remove: vec![rule.id],
        questions: vec![question],
        ..Simulation::default()
    };
    let changes = admin.simulate_policy(what_if).await.expect("simulated");
    let asked = changes
        .iter()
        .find(|change| change.path == "/docs/closed/a.txt");
    assert!(asked.expect("the question").changed);
    admin.remove_rule(rule.id).await.expect("removed");
    for bad in [
        NewRule::default(),
        NewRule {
            write: Some(sluice_repo::WriteRule::Deny),
            share: Some("nowhere".to_owned()),
            ..NewRule::default()
        },
        NewRule {
            wait: Some("soon".to_owned()),
            ..NewRule::default()
        },
    ] {
        assert!(admin.add_rule(bad).await.is_err());
    }
}

#[tokio::test]
async fn an_upload_is_listed_explained_and_can_be_broken() {
    let world = World::new().await;
    let admin = world.vfs.admin();
    put(&world.tree(Protocol::Ftp, 2), "a.txt", b"one").await;
    let ftp = world.tree(Protocol::Ftp, 3);
    let upload = ftp.upload(&path("a.txt"), UploadMode::Replace).await;
    let upload = upload.expect("an upload");
    let locks = admin.locks(LockQuery::default()).await.expect("listed");
    let held = locks.iter().find(|lock| lock.path == "/docs/a.txt");
    let held = held.expect("the upload is listed");
    assert_eq!(
        (held.kind.as_str(), held.protocol.as_str()),
        ("open", "ftp")
    );
    assert_eq!(held.client, "127.0.0.3");
    let told = admin.explain_locks("docs/A.TXT").await.expect("explained");
    assert!(told.sentences[0].contains("ftp user alice from 127.0.0.3"));
    assert!(
        told.sentences
            .last()
            .is_some_and(|s| s.contains("smb reject"))
    );
    let sessions = admin.sessions().await.expect("sessions");
    let session = sessions
        .iter()
        .find(|session| session.client == "127.0.0.3");
    assert_eq!(session.map(|session| session.opens), Some(1));
    admin.break_lock(held.id, "test").await.expect("broken");
    let locks = admin.locks(LockQuery::default()).await.expect("listed");
    assert!(locks.iter().all(|lock| lock.path != "/docs/a.txt"));
    let gone = admin.break_lock(held.id, "test").await;
    assert!(matches!(gone, Err(AdminError::NotFound(_))));
    drop(upload);
}

#[tokio::test]
async fn an_old_version_comes_back_as_a_new_one() {
    let world = World::new().await;
    let admin = world.vfs.admin();
    let ftp = world.tree(Protocol::Ftp, 2);
    put(&ftp, "a.txt", b"one").await;
    put(&ftp, "a.txt", b"second").await;
    let versions = admin.versions("docs/a.txt").await.expect("listed");
    assert_eq!(versions.len(), 2);
    assert!(versions[0].current && !versions[1].current);
    let made = admin.restore_version("docs/a.txt", None).await;
    let made = made.expect("restored");
    assert!(made.current && made.version > versions[0].version);
    let download = ftp.download(&path("a.txt")).await.expect("readable");
    let data = download.read(0, 100).await.expect("read");
    assert_eq!(data.parts.concat(), b"one");
    let missing = admin.restore_version("docs/a.txt", Some(99)).await;
    assert!(matches!(missing, Err(AdminError::NotFound(_))));
}

#[tokio::test]
async fn a_restore_meets_a_writer_like_anybody() {
    let world = World::new().await;
    let ftp = world.tree(Protocol::Ftp, 2);
    put(&ftp, "a.txt", b"one").await;
    put(&ftp, "a.txt", b"two").await;
    let upload = ftp.upload(&path("a.txt"), UploadMode::Replace).await;
    let upload = upload.expect("an upload");
    let refused = world.vfs.admin().restore_version("docs/a.txt", None).await;
    let why = refused.expect_err("in use").to_string();
    assert!(why.contains("in use"), "{why}");
    drop(upload);
}

#[tokio::test]
async fn a_sound_repository_checks_clean_and_gc_keeps_what_is_needed() {
    let world = World::new().await;
    let admin = world.vfs.admin();
    put(&world.tree(Protocol::Ftp, 2), "a.txt", b"one").await;
    let found = admin.check(false, true).await.expect("checked");
    assert_eq!(found.problems, Vec::<String>::new());
    let age = std::time::Duration::ZERO;
    admin.collect_garbage(Some(age)).await.expect("collected");
    let found = admin.check(false, true).await.expect("checked");
    assert_eq!(found.problems, Vec::<String>::new());
}

#[tokio::test]
async fn a_watch_of_a_tree_hears_of_changes_below_through_any_door() {
    let world = World::new().await;
    let smb = world.tree(Protocol::Smb, 2);
    let folder = NewNode {
        kind: Some(NodeKind::Directory),
        ..NewNode::default()
    };
    let nfs = world.tree(Protocol::Nfs3, 3);
    let sub = nfs.make_node(nfs.root(), "sub", folder).await;
    let sub = sub.expect("a folder");
    let names = ChangeFilter(ChangeFilter::FILE_NAME | ChangeFilter::DIR_NAME);
    let root = smb.root();
    let mut tree = smb.watch(root, names, true).await.expect("watched");
    let mut flat = smb.watch(root, names, false).await.expect("watched");
    put(&world.tree(Protocol::Ftp, 4), "sub/a.txt", b"one").await;
    let moved = nfs
        .rename(sub.id, "a.txt", nfs.root(), "b.txt", false)
        .await;
    moved.expect("moved");
    let renamed = nfs.rename(root, "b.txt", root, "c.txt", false).await;
    renamed.expect("renamed");
    let mut heard = Vec::new();
    while heard.len() < 5 {
        heard.extend(tree.next().await.expect("told").expect("no overflow"));
    }
    let told = |action, path: &str| Change {
        action,
        path: path.to_owned(),
    };
    let expected = [
        told(ChangeAction::Added, "sub/a.txt"),
        told(ChangeAction::Removed, "sub/a.txt"),
        told(ChangeAction::Added, "b.txt"),
        told(ChangeAction::RenamedFrom, "b.txt"),
        told(ChangeAction::RenamedTo, "c.txt"),
    ];
    assert_eq!(heard, expected);
    let mut heard = Vec::new();
    while heard.len() < 3 {
        heard.extend(flat.next().await.expect("told").expect("no overflow"));
    }
    assert_eq!(heard, expected[2..]);
}

#[tokio::test]
async fn a_private_file_made_over_nfs_stays_private_in_an_open_share() {
    let world = Bare::new().await;
    world.vfs.admin().first_start().await.expect("starts");
    let accounts = world.vfs.accounts();
    let maker = accounts.unix(1000, 1000, &[]).await.expect("by number");
    let other = accounts.unix(1001, 1001, &[]).await.expect("by number");
    let by_maker = tree_of(&world.vfs, Protocol::Nfs3, maker);
    let by_other = tree_of(&world.vfs, Protocol::Nfs3, other);
    let wanted = AccessMask(AccessMask::READ_DATA | AccessMask::WRITE_DATA);
    for (name, mode, granted) in [("key", 0o600, 0), ("note", 0o644, wanted.0)] {
        let new = NewNode {
            mode: Some(mode),
            ..NewNode::default()
        };
        let made = by_maker.create(by_maker.root(), name, CreateMode::Guarded, new);
        let made = made.await.expect("made");
        assert_eq!(made.mode, mode);
        let got = by_other.access(made.id, wanted).await.expect("asked");
        assert_eq!(got.0, granted, "{name}");
    }
}

#[tokio::test]
async fn only_an_administrator_gives_a_document_to_another_account() {
    let world = Bare::new().await;
    let admin = world.vfs.admin();
    admin.first_start().await.expect("starts");
    let alice = admin.add_user(new_user("alice")).await.expect("a user");
    let bob = admin.add_user(new_user("bob")).await.expect("a user");
    let accounts = world.vfs.accounts();
    let may_give = async |from: &str, name: &str, sid: &str| {
        let (who, _) = accounts
            .nt_hash(from)
            .await
            .expect("accounts")
            .expect("known");
        let tree = tree_of(&world.vfs, Protocol::Smb, who);
        let rights = AccessMask::FILE_ALL;
        let request = common::request(name, rights, ShareMode::ALL, Disposition::Create);
        let open = tree.open(request).await.expect("made").open;
        let acl = Acl {
            owner: Some(Sid(sid.to_owned())),
            ..Acl::default()
        };
        let set = open.set_acl(acl, false).await;
        open.close().await.expect("closed");
        set
    };
    assert_eq!(may_give("alice", "own", &alice.sid).await, Ok(()));
    let refused = may_give("alice", "away", &bob.sid).await;
    assert_eq!(refused, Err(VfsError::NotOwner));
    let foreign = "S-1-5-21-9-9-9-1234";
    assert_eq!(may_give("alice", "foreign", foreign).await, Ok(()));
    assert_eq!(may_give("admin", "given", &bob.sid).await, Ok(()));
}
