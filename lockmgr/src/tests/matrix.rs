//! The matrix is symmetric, and `docs/SEMANTICS.md` shows what the table really does.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::scenario::World;
use crate::conflict::{Claim, ClaimKind, RangeParty, io_conflict, lock_conflict, share_conflict};
use crate::types::{Access, ClientId, OpenId, Protocol};

const PROTOCOLS: [Protocol; 5] = [
    Protocol::Smb,
    Protocol::Nfs3,
    Protocol::Nfs4,
    Protocol::Ftp,
    Protocol::Admin,
];
const KINDS: [ClaimKind; 4] = [
    ClaimKind::Open,
    ClaimKind::Place,
    ClaimKind::RangeOpen,
    ClaimKind::PlainIo,
];

fn claims() -> Vec<Claim> {
    let mut all = Vec::new();
    for protocol in PROTOCOLS {
        for kind in KINDS {
            for client in [1, 2] {
                for bits in 0..64u8 {
                    let (access, denies) =
                        (Access::from_bits(bits & 7), Access::from_bits(bits >> 3));
                    all.push(Claim {
                        reclaims: false,
                        access,
                        denies,
                        protocol,
                        client: ClientId(client),
                        kind,
                    });
                }
            }
        }
    }
    all
}

#[test]
fn the_share_matrix_is_symmetric_but_for_nfs_ranges_and_plain_io() {
    let all = claims();
    let mut one_sided = 0;
    for a in &all {
        for b in &all {
            let (ab, ba) = (
                share_conflict(a, b, false).is_some(),
                share_conflict(b, a, false).is_some(),
            );
            if ab != ba {
                let kinds = [a.kind, b.kind];
                assert!(kinds.contains(&ClaimKind::RangeOpen), "{a:?} {b:?}");
                assert!(
                    kinds
                        .iter()
                        .any(|k| matches!(k, ClaimKind::Place | ClaimKind::PlainIo)),
                    "{a:?} {b:?}"
                );
                assert!(a.protocol.is_nfs() && b.protocol.is_nfs(), "{a:?} {b:?}");
                one_sided += 1;
            }
            assert_eq!(
                share_conflict(a, b, true).is_some(),
                share_conflict(b, a, true).is_some(),
                "{a:?} {b:?}"
            );
        }
    }
    assert!(one_sided > 0);
}

#[test]
fn claims_conflict_exactly_when_one_denies_what_the_other_does() {
    for a in claims().iter().filter(|c| !c.protocol.is_nfs()) {
        for b in claims().iter().filter(|c| !c.protocol.is_nfs()) {
            let meets =
                a.denies.bits() & b.access.bits() != 0 || b.denies.bits() & a.access.bits() != 0;
            assert_eq!(share_conflict(a, b, false).is_some(), meets, "{a:?} {b:?}");
        }
    }
}

#[test]
fn range_locks_of_different_owners_conflict_symmetrically() {
    for pa in PROTOCOLS {
        for pb in PROTOCOLS {
            for (ea, eb) in [(false, false), (false, true), (true, false), (true, true)] {
                let a = RangeParty {
                    open: Some(OpenId(1)),
                    client: ClientId(1),
                    protocol: pa,
                };
                let b = RangeParty {
                    open: Some(OpenId(2)),
                    client: ClientId(2),
                    protocol: pb,
                };
                assert_eq!(lock_conflict(a, ea, b, eb), lock_conflict(b, eb, a, ea));
                assert_eq!(lock_conflict(a, ea, b, eb), ea || eb);
            }
        }
    }
}

#[test]
fn smb_ranges_bind_everybody_and_nfs_ranges_bind_all_but_nfs() {
    for held in PROTOCOLS {
        for actor in PROTOCOLS {
            let range = RangeParty {
                open: Some(OpenId(1)),
                client: ClientId(1),
                protocol: held,
            };
            let other = RangeParty {
                open: None,
                client: ClientId(2),
                protocol: actor,
            };
            let advisory = held.is_nfs() && actor.is_nfs();
            assert_eq!(io_conflict(range, true, other, false, false), !advisory);
            assert_eq!(io_conflict(range, false, other, true, false), !advisory);
            assert!(!io_conflict(range, false, other, false, false));
            assert!(io_conflict(range, true, other, true, true));
        }
    }
}

/// Name in the table, and the commands that make the holder.
const HOLDERS: [(&str, &[&str]); 15] = [
    ("SMB read", &["open h ann doc for=read"]),
    (
        "SMB read, denies write",
        &["open h ann doc for=read sharing=read+delete"],
    ),
    (
        "SMB read, denies write and delete",
        &["open h ann doc for=read sharing=read"],
    ),
    ("SMB write", &["open h ann doc for=read+write"]),
    (
        "SMB, denies all",
        &["open h ann doc for=read+write sharing=none"],
    ),
    ("SMB delete", &["open h ann doc for=delete"]),
    (
        "SMB shared range",
        &["open h ann doc for=read+write", "lock h shared 0+10"],
    ),
    (
        "SMB exclusive range",
        &["open h ann doc for=read+write", "lock h exclusive 0+10"],
    ),
    ("NFSv3 writer's place", &["write nfs1 doc 0+10"]),
    ("NLM shared", &["nfs-lock nfs1/1 doc shared 0+10"]),
    ("NLM exclusive", &["nfs-lock nfs1/1 doc exclusive 0+10"]),
    (
        "NFSv4 write, denies write",
        &["open h nfs4a doc for=write sharing=read"],
    ),
    ("FTP RETR", &["open h ftp1 doc for=read transfer"]),
    (
        "FTP STOR",
        &["open h ftp1 doc for=write sharing=read transfer"],
    ),
    (
        "writers=exclusive, SMB write",
        &["open h ann doc for=read+write writers=exclusive"],
    ),
];

const CHALLENGERS: [(&str, &[&str]); 15] = [
    ("SMB read", &["open c ben doc for=read", "io c read 0+10"]),
    (
        "SMB read, denies write",
        &["open c ben doc for=read sharing=read"],
    ),
    (
        "SMB write",
        &["open c ben doc for=write", "io c write 0+10"],
    ),
    ("SMB delete", &["open c ben doc for=delete"]),
    (
        "SMB range",
        &["open c ben doc for=read", "lock c exclusive 0+10"],
    ),
    ("NFSv3 READ", &["read nfs2 doc 0+10"]),
    ("NFSv3 WRITE", &["write nfs2 doc 0+10"]),
    ("WRITE, `shared`", &["write nfs2 doc 0+10 no-place"]),
    ("SETATTR size", &["truncate nfs2 doc 0+10"]),
    ("REMOVE, RENAME", &["open c nfs2 doc for=delete"]),
    ("NLM shared", &["nfs-lock nfs2/1 doc shared 0+10"]),
    ("NLM exclusive", &["nfs-lock nfs2/1 doc exclusive 0+10"]),
    ("FTP RETR", &["open c ftp2 doc for=read transfer"]),
    (
        "FTP STOR",
        &["open c ftp2 doc for=write sharing=read transfer"],
    ),
    ("FTP DELE", &["open c ftp2 doc for=delete"]),
];

const CACHES: [(&str, &str); 7] = [
    ("level II oplock", "cache=II"),
    ("exclusive oplock", "cache=exclusive"),
    ("batch oplock", "cache=batch"),
    ("lease R", "cache=K:R"),
    ("lease RH", "cache=K:RH"),
    ("lease RW", "cache=K:RW"),
    ("lease RWH", "cache=K:RWH"),
];

const CACHE_CHALLENGERS: [(&str, &str); 9] = [
    ("stat open", "open c ben doc for=none stat=attributes"),
    ("open, NFSv3 READ", "read nfs2 doc 0+10"),
    ("open for delete", "open c ben doc for=delete"),
    ("open with overwrite", "open c ben doc for=write overwrite"),
    ("NFSv3 WRITE", "write nfs2 doc 0+10 no-place"),
    ("attributes", "setattr nfs2 doc"),
    ("range lock", "nfs-lock nfs2/1 doc shared 0+10"),
    ("delete, rename", "rename ben doc"),
    (
        "share mode in the way",
        "open c ben doc for=read sharing=write",
    ),
];

fn world() -> World {
    let mut world = World::new();
    for (name, protocol) in [
        ("ann", "smb"),
        ("ben", "smb"),
        ("nfs1", "nfs3"),
        ("nfs2", "nfs3"),
        ("ftp1", "ftp"),
    ] {
        world.run(&format!("client {name} {protocol}"));
    }
    world.run("client ftp2 ftp");
    world.run("client nfs4a nfs4");
    world
}

fn pair(holder: &[&str], challenger: &[&str]) -> &'static str {
    let mut world = world();
    for command in holder {
        assert_eq!(world.run(command), ["granted"], "{command}");
    }
    for command in challenger {
        if world
            .run(command)
            .first()
            .is_some_and(|said| said.starts_with("denied"))
        {
            return "no";
        }
    }
    "yes"
}

fn cache_pair(cache: &str, challenger: &str) -> String {
    let mut world = world();
    let granted = world.run(&format!("open h ann doc for=read {cache}"));
    assert!(
        granted[0].starts_with("granted with"),
        "{cache}: {granted:?}"
    );
    let said = world.run(challenger);
    let to = said
        .iter()
        .find_map(|s| s.split_once("called back from ").map(|(_, t)| t.to_owned()));
    let waits = if said[0] == "waits" { ", waits" } else { "" };
    match to {
        None if said[0].starts_with("denied") => String::from("refused"),
        None => String::from("-"),
        Some(t) => {
            let t = t
                .split(" to ")
                .nth(1)
                .unwrap_or_default()
                .split(',')
                .next()
                .unwrap_or_default()
                .to_owned();
            format!("{t}{waits}")
        }
    }
}

fn render() -> String {
    let mut text = String::from("| held \\ asked for |");
    let head = |text: &mut String, names: &mut dyn Iterator<Item = &str>| {
        let mut rule = String::from("|---|");
        for name in names {
            let _ = write!(text, " {name} |");
            rule.push_str("---|");
        }
        let _ = write!(text, "\n{rule}\n");
    };
    head(&mut text, &mut CHALLENGERS.iter().map(|(name, _)| *name));
    for (name, holder) in HOLDERS {
        let _ = write!(text, "| {name} |");
        for (_, challenger) in CHALLENGERS {
            let _ = write!(text, " {} |", pair(holder, challenger));
        }
        text.push('\n');
    }
    text.push_str("\nWhat a cache falls to, and whether the request waits for the holder's answer:\n\n| held \\ asked for |");
    head(
        &mut text,
        &mut CACHE_CHALLENGERS.iter().map(|(name, _)| *name),
    );
    for (name, cache) in CACHES {
        let _ = write!(text, "| {name} |");
        for (_, challenger) in CACHE_CHALLENGERS {
            let _ = write!(text, " {} |", cache_pair(cache, challenger));
        }
        text.push('\n');
    }
    text
}

#[test]
fn semantics_document_shows_what_the_table_does() {
    const BEGIN: &str = "<!-- matrix: checked by a test -->\n";
    const END: &str = "<!-- end of matrix -->\n";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/SEMANTICS.md");
    let text = std::fs::read_to_string(&path).expect("docs/SEMANTICS.md");
    let (before, rest) = text.split_once(BEGIN).expect("begin of the matrix");
    let (shown, after) = rest.split_once(END).expect("end of the matrix");
    let real = render();
    if std::env::var("SLUICE_SCENARIOS").is_ok_and(|v| v == "write") {
        std::fs::write(&path, format!("{before}{BEGIN}{real}{END}{after}")).expect("written");
    } else {
        for (shown, real) in shown.lines().zip(real.lines()) {
            assert_eq!(shown, real);
        }
        assert_eq!(shown.lines().count(), real.lines().count());
    }
}
