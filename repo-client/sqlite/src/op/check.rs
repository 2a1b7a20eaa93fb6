//! Looking for contradictions in the metadata, and putting them right.

use rusqlite::params;
use sluice_repo::{CheckReport, ContentId, Manifest, NodeId, ROOT, Result};

use super::{insert_entry, purge};
use crate::error::db;
use crate::writer::{Touch, Tx};

/// Problems that a report lists.
const LISTED_MAX: usize = 1000;

/// A query that finds contradictory rows (their first two columns are shown), and what repairs one of them.
struct Rule {
    find: &'static str,
    tell: &'static str,
    repair: fn(&mut Tx<'_>, i64, i64) -> Result<()>,
}

const RULES: &[Rule] = &[
    Rule {
        find: "SELECT e.parent, e.cookie FROM entry e LEFT JOIN node n ON n.id = e.node WHERE n.id IS NULL",
        tell: "folder {0}: entry {1} leads nowhere",
        repair: |tx, parent, cookie| run(tx, "DELETE FROM entry WHERE parent = ?1 AND cookie = ?2", parent, cookie),
    },
    Rule {
        find: "SELECT e.node, e.parent FROM entry e LEFT JOIN node p ON p.id = e.parent WHERE p.id IS NULL OR p.kind <> 2",
        tell: "node {0} has a name in {1}, which is no folder",
        repair: |tx, node, parent| run(tx, "DELETE FROM entry WHERE node = ?1 AND parent = ?2", node, parent),
    },
    Rule {
        find: "SELECT o.node, 0 FROM orphan o WHERE NOT EXISTS(SELECT 1 FROM node n WHERE n.id = o.node)
               OR EXISTS(SELECT 1 FROM entry e WHERE e.node = o.node)",
        tell: "node {0} is listed as an orphan but is none",
        repair: |tx, node, _| run(tx, "DELETE FROM orphan WHERE node = ?1 + 0 * ?2", node, 0),
    },
    Rule {
        find: "SELECT n.id, n.kind FROM node n WHERE n.id <> 1 AND NOT EXISTS(SELECT 1 FROM entry e WHERE e.node = n.id)
               AND NOT EXISTS(SELECT 1 FROM orphan o WHERE o.node = n.id)",
        tell: "node {0} (kind {1}) has no name",
        repair: |tx, node, _| {
            let name = format!("lost-{node}");
            insert_entry(tx, ROOT, &name, name.clone(), NodeId(node as u64))
        },
    },
    Rule {
        find: "SELECT id, actual FROM (SELECT n.id, n.nlink, CASE WHEN n.kind <> 2 THEN
                 (SELECT count(*) FROM entry e WHERE e.node = n.id)
               WHEN EXISTS(SELECT 1 FROM orphan o WHERE o.node = n.id) THEN 0 ELSE
                 2 + (SELECT count(*) FROM entry e JOIN node c ON c.id = e.node WHERE e.parent = n.id AND c.kind = 2)
               END AS actual FROM node n) WHERE nlink <> actual",
        tell: "node {0}: the link count should be {1}",
        repair: |tx, node, actual| run(tx, "UPDATE node SET nlink = ?2 WHERE id = ?1", node, actual),
    },
    Rule {
        find: "SELECT n.id, e.parent FROM node n JOIN entry e ON e.node = n.id
               WHERE NOT EXISTS(SELECT 1 FROM entry x WHERE x.node = n.id AND x.parent = n.parent) GROUP BY n.id",
        tell: "node {0}: the parent should be {1}",
        repair: |tx, node, parent| run(tx, "UPDATE node SET parent = ?2 WHERE id = ?1", node, parent),
    },
    Rule {
        find: "SELECT c.node, c.stream FROM content c LEFT JOIN node n ON n.id = c.node
               LEFT JOIN stream s ON s.node = c.node AND s.stream = c.stream
               WHERE n.id IS NULL OR (c.stream > 0 AND s.node IS NULL)",
        tell: "content of node {0} stream {1} belongs to nothing",
        repair: |tx, node, stream| run(tx, "DELETE FROM content WHERE node = ?1 AND stream = ?2", node, stream),
    },
    Rule {
        find: "SELECT n.id, coalesce(max(c.version), 0) FROM node n LEFT JOIN content c ON c.node = n.id AND c.stream = 0
               WHERE n.kind = 1 GROUP BY n.id HAVING n.version <> coalesce(max(c.version), 0)",
        tell: "node {0}: the version should be {1}",
        repair: |tx, node, version| run(tx, "UPDATE node SET version = ?2 WHERE id = ?1", node, version),
    },
    Rule {
        find: "SELECT n.id, coalesce(c.size, 0) FROM node n LEFT JOIN content c
               ON c.node = n.id AND c.stream = 0 AND c.version = n.version
               WHERE n.kind = 1 AND n.size <> coalesce(c.size, 0)",
        tell: "node {0}: the size should be {1}",
        repair: |tx, node, size| run(tx, "UPDATE node SET size = ?2 WHERE id = ?1", node, size),
    },
    Rule {
        find: "SELECT s.node, s.stream FROM stream s LEFT JOIN node n ON n.id = s.node WHERE n.id IS NULL",
        tell: "stream {1} of node {0} belongs to nothing",
        repair: |tx, node, stream| run(tx, "DELETE FROM stream WHERE node = ?1 AND stream = ?2", node, stream),
    },
    Rule {
        find: "SELECT o.node, o.stream FROM object o GROUP BY o.node, o.stream HAVING NOT EXISTS(
                 SELECT 1 FROM content c WHERE c.node = o.node AND c.stream = o.stream)",
        tell: "objects of node {0} stream {1} belong to nothing",
        repair: |tx, node, stream| {
            let gone = "DELETE FROM object WHERE node = ?1 AND stream = ?2 RETURNING id";
            purge::throw_away(tx, gone, params![node, stream])
        },
    },
];

fn run(tx: &mut Tx<'_>, sql: &str, a: i64, b: i64) -> Result<()> {
    tx.conn.execute(sql, [a, b]).map_err(db).map(|_| ())
}

/// Looks at everything.
pub(crate) fn check(tx: &mut Tx<'_>, repair: bool) -> Result<CheckReport> {
    let count = |sql: &str| {
        tx.conn
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .map(|n| n as u64)
            .map_err(db)
    };
    let mut report = CheckReport {
        nodes: count("SELECT count(*) FROM node")?,
        versions: count("SELECT count(*) FROM content")?,
        ..CheckReport::default()
    };
    let integrity: String = tx
        .conn
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(db)?;
    if integrity != "ok" {
        tell(&mut report, format!("database file: {integrity}"));
    }
    for rule in RULES {
        apply(tx, rule, repair, &mut report)?;
    }
    check_manifests(tx, repair, &mut report)?;
    Ok(report)
}

fn tell(report: &mut CheckReport, problem: String) {
    if report.problems.len() < LISTED_MAX {
        report.problems.push(problem);
    }
}

fn apply(tx: &mut Tx<'_>, rule: &Rule, repair: bool, report: &mut CheckReport) -> Result<()> {
    let found: Vec<(i64, i64)> = tx
        .conn
        .prepare(rule.find)
        .and_then(|mut s| {
            s.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
                .and_then(Iterator::collect)
        })
        .map_err(db)?;
    for (a, b) in found {
        tell(
            report,
            rule.tell
                .replace("{0}", &a.to_string())
                .replace("{1}", &b.to_string()),
        );
        if repair {
            (rule.repair)(tx, a, b)?;
            // Names, nodes, versions: whatever it was, nobody may go on with what was there before.
            tx.touch(Touch::Everything);
            report.repaired += 1;
        }
    }
    Ok(())
}

/// Every manifest can be read, and every object that it names is registered for its version.
fn check_manifests(tx: &mut Tx<'_>, repair: bool, report: &mut CheckReport) -> Result<()> {
    let mut after = (0i64, 0i64, 0i64);
    loop {
        let next = tx
            .conn
            .prepare_cached(
                "SELECT node, stream, version, objects, body FROM content
                 WHERE (node, stream, version) > (?1, ?2, ?3) AND objects > 0 ORDER BY node, stream, version LIMIT 1",
            )
            .and_then(|mut s| {
                s.query_map([after.0, after.1, after.2], |row| {
                    Ok(((row.get(0)?, row.get(1)?, row.get(2)?), row.get::<_, Vec<u8>>(4)?))
                })
                .and_then(|mut rows| rows.next().transpose())
            })
            .map_err(db)?;
        let Some((key, body)) = next else {
            return Ok(());
        };
        after = key;
        let content = ContentId {
            node: NodeId(key.0 as u64),
            stream: key.1 as u32,
        };
        match Manifest::decode(body.into()) {
            Ok(manifest) => check_references(tx, content, key.2, &manifest, repair, report)?,
            Err(error) => tell(
                report,
                format!("node {} stream {} version {}: {error}", key.0, key.1, key.2),
            ),
        }
    }
}

fn check_references(
    tx: &mut Tx<'_>,
    content: ContentId,
    version: i64,
    manifest: &Manifest,
    repair: bool,
    report: &mut CheckReport,
) -> Result<()> {
    let node = content.node.0 as i64;
    for object in &manifest.objects {
        let id = object.id.0.to_be_bytes();
        let known: bool = tx
            .conn
            .prepare_cached(
                "SELECT EXISTS(SELECT 1 FROM object WHERE id = ?1 AND node = ?2 AND stream = ?3 AND first <= ?4
                 AND (last IS NULL OR last >= ?4))",
            )
            .and_then(|mut s| s.query_row(params![id, node, content.stream, version], |row| row.get(0)))
            .map_err(db)?;
        if known {
            continue;
        }
        tell(
            report,
            format!(
                "node {node} version {version}: object {:032x} is not registered",
                object.id.0
            ),
        );
        if repair {
            tx.conn
                .execute(
                    "INSERT OR REPLACE INTO object(id, node, stream, first, last) VALUES (?1, ?2, ?3, 0, NULL)",
                    params![id, node, content.stream],
                )
                .map_err(db)?;
            tx.conn
                .execute("DELETE FROM garbage WHERE id = ?1", params![id])
                .map_err(db)?;
            report.repaired += 1;
        }
    }
    Ok(())
}
