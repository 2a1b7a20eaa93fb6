//! Looking for contradictions in the metadata, and putting them right.

use sluice_lockmgr::Member;
use sluice_repo::{CheckReport, ContentId, Manifest, NodeId, RepoError, Result};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};

use crate::commit::object_key;
use crate::database::Database;
use crate::error::{corrupt, db};
use crate::row::big;

/// Problems that a report lists.
const LISTED_MAX: usize = 1000;
/// Versions looked at in one query.
const PAGE: i64 = 500;

/// A query that finds contradictory rows (two numbers of each are shown), and statements that repair one of them.
struct Rule {
    find: &'static str,
    tell: &'static str,
    repair: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        find: "SELECT e.parent, e.cookie FROM entry e LEFT JOIN node n ON n.id = e.node WHERE n.id IS NULL",
        tell: "folder {0}: entry {1} leads nowhere",
        repair: "DELETE FROM entry WHERE parent = $1 AND cookie = $2",
    },
    Rule {
        find: "SELECT e.node, e.parent FROM entry e LEFT JOIN node p ON p.id = e.parent WHERE p.id IS NULL OR p.kind <> 2",
        tell: "node {0} has a name in {1}, which is no folder",
        repair: "DELETE FROM entry WHERE node = $1 AND parent = $2",
    },
    Rule {
        find: "SELECT o.node, 0::bigint FROM orphan o WHERE NOT EXISTS(SELECT 1 FROM node n WHERE n.id = o.node)
               OR EXISTS(SELECT 1 FROM entry e WHERE e.node = o.node)",
        tell: "node {0} is listed as an orphan but is none",
        repair: "DELETE FROM orphan WHERE node = $1 + 0 * $2",
    },
    Rule {
        find: "SELECT n.id, n.kind FROM node n WHERE n.id <> 1 AND NOT EXISTS(SELECT 1 FROM entry e WHERE e.node = n.id)
               AND NOT EXISTS(SELECT 1 FROM orphan o WHERE o.node = n.id)",
        tell: "node {0} (kind {1}) has no name",
        repair: "INSERT INTO entry(parent, cookie, name, fold, node)
                 VALUES (1, nextval('ids') + 0 * $2, 'lost-' || $1, 'lost-' || $1, $1)",
    },
    Rule {
        find: "SELECT id, actual FROM (SELECT n.id, n.nlink, CASE WHEN n.kind <> 2 THEN
                 (SELECT count(*) FROM entry e WHERE e.node = n.id)
               WHEN EXISTS(SELECT 1 FROM orphan o WHERE o.node = n.id) THEN 0 ELSE
                 2 + (SELECT count(*) FROM entry e JOIN node c ON c.id = e.node WHERE e.parent = n.id AND c.kind = 2)
               END AS actual FROM node n) AS counted WHERE nlink <> actual",
        tell: "node {0}: the link count should be {1}",
        repair: "UPDATE node SET nlink = $2 WHERE id = $1",
    },
    Rule {
        find: "SELECT n.id, min(e.parent) FROM node n JOIN entry e ON e.node = n.id
               WHERE NOT EXISTS(SELECT 1 FROM entry x WHERE x.node = n.id AND x.parent = n.parent) GROUP BY n.id",
        tell: "node {0}: the parent should be {1}",
        repair: "UPDATE node SET parent = $2 WHERE id = $1",
    },
    Rule {
        find: "SELECT c.node, c.stream FROM content c LEFT JOIN node n ON n.id = c.node
               LEFT JOIN stream s ON s.node = c.node AND s.stream = c.stream
               WHERE n.id IS NULL OR (c.stream > 0 AND s.node IS NULL)",
        tell: "content of node {0} stream {1} belongs to nothing",
        repair: "DELETE FROM content WHERE node = $1 AND stream = $2",
    },
    Rule {
        find: "SELECT n.id, coalesce(max(c.version), 0) FROM node n LEFT JOIN content c ON c.node = n.id AND c.stream = 0
               WHERE n.kind = 1 GROUP BY n.id HAVING n.version <> coalesce(max(c.version), 0)",
        tell: "node {0}: the version should be {1}",
        repair: "UPDATE node SET version = $2 WHERE id = $1",
    },
    Rule {
        find: "SELECT n.id, coalesce(c.size, 0) FROM node n LEFT JOIN content c
               ON c.node = n.id AND c.stream = 0 AND c.version = n.version
               WHERE n.kind = 1 AND n.size <> coalesce(c.size, 0)",
        tell: "node {0}: the size should be {1}",
        repair: "UPDATE node SET size = $2 WHERE id = $1",
    },
    Rule {
        find: "SELECT s.node, s.stream FROM stream s LEFT JOIN node n ON n.id = s.node WHERE n.id IS NULL",
        tell: "stream {1} of node {0} belongs to nothing",
        repair: "DELETE FROM stream WHERE node = $1 AND stream = $2",
    },
    Rule {
        find: "SELECT o.node, o.stream FROM object o GROUP BY o.node, o.stream HAVING NOT EXISTS(
                 SELECT 1 FROM content c WHERE c.node = o.node AND c.stream = o.stream)",
        tell: "objects of node {0} stream {1} belong to nothing",
        repair: "WITH gone AS (DELETE FROM object WHERE node = $1 AND stream = $2 RETURNING id)
                 INSERT INTO garbage(id, at) SELECT id, extract(epoch FROM clock_timestamp())::bigint FROM gone
                 ON CONFLICT DO NOTHING",
    },
];

/// Looks at everything, on a connection of its own. A repair keeps all other changes waiting until it is done.
pub(crate) async fn check(database: &Database, me: Member, repair: bool) -> Result<CheckReport> {
    let mut conn = database.connect().await?;
    sqlx::raw_sql("SET enable_seqscan = on; SET plan_cache_mode = auto")
        .execute(&mut conn)
        .await
        .map_err(db)?;
    let begin = match repair {
        true => "BEGIN",
        false => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    };
    let mut tx = conn.begin_with(begin).await.map_err(db)?;
    if repair {
        let member = sqlx::query(
            "SELECT 1 FROM node_session WHERE member = $1 AND epoch = $2 FOR KEY SHARE",
        )
        .bind(i32::try_from(me.id.0).unwrap_or(i32::MAX))
        .bind(big(me.epoch.0))
        .fetch_optional(&mut *tx)
        .await
        .map_err(db)?;
        member.ok_or(RepoError::Fenced)?;
        sqlx::query("LOCK TABLE node, entry, content, object, stream, orphan, garbage IN SHARE ROW EXCLUSIVE MODE")
            .execute(&mut *tx)
            .await
            .map_err(db)?;
    }
    let mut report = CheckReport {
        nodes: count(&mut tx, "SELECT count(*) FROM node").await?,
        versions: count(&mut tx, "SELECT count(*) FROM content").await?,
        ..CheckReport::default()
    };
    let root = count(
        &mut tx,
        "SELECT count(*) FROM node WHERE id = 1 AND kind = 2",
    )
    .await?;
    if root == 0 {
        tell(&mut report, "the root folder is missing".into());
    }
    for rule in RULES {
        apply(&mut tx, rule, repair, &mut report).await?;
    }
    check_manifests(&mut tx, repair, &mut report).await?;
    tx.commit().await.map_err(db)?;
    Ok(report)
}

async fn count(conn: &mut PgConnection, sql: &'static str) -> Result<u64> {
    let count: i64 = sqlx::query_scalar(sql).fetch_one(conn).await.map_err(db)?;
    Ok(count as u64)
}

fn tell(report: &mut CheckReport, problem: String) {
    if report.problems.len() < LISTED_MAX {
        report.problems.push(problem);
    }
}

async fn apply(
    conn: &mut PgConnection,
    rule: &Rule,
    repair: bool,
    report: &mut CheckReport,
) -> Result<()> {
    let found: Vec<(i64, i64)> = sqlx::query_as(rule.find)
        .fetch_all(&mut *conn)
        .await
        .map_err(db)?;
    for (a, b) in found {
        tell(
            report,
            rule.tell
                .replace("{0}", &a.to_string())
                .replace("{1}", &b.to_string()),
        );
        if repair {
            sqlx::query(rule.repair)
                .bind(a)
                .bind(b)
                .execute(&mut *conn)
                .await
                .map_err(db)?;
            report.repaired += 1;
        }
    }
    Ok(())
}

/// Every manifest can be read, and every object that it names is registered for its version.
async fn check_manifests(
    conn: &mut PgConnection,
    repair: bool,
    report: &mut CheckReport,
) -> Result<()> {
    let mut after = (0_i64, 0_i64, 0_i64);
    loop {
        let rows = sqlx::query(
            "SELECT node, stream, version, body FROM content
             WHERE (node, stream, version) > ($1, $2, $3) AND objects > 0 ORDER BY node, stream, version LIMIT $4",
        )
        .bind(after.0)
        .bind(after.1)
        .bind(after.2)
        .bind(PAGE)
        .fetch_all(&mut *conn)
        .await
        .map_err(db)?;
        if rows.is_empty() {
            return Ok(());
        }
        for row in &rows {
            let read = |n: usize| row.try_get::<i64, _>(n).map_err(db);
            after = (read(0)?, read(1)?, read(2)?);
            let content = ContentId {
                node: NodeId(after.0 as u64),
                stream: u32::try_from(after.1).map_err(|_| corrupt("a stream's number"))?,
            };
            let body: Vec<u8> = row.try_get(3).map_err(db)?;
            match Manifest::decode(body.into()) {
                Ok(manifest) => {
                    check_references(conn, content, after.2, &manifest, repair, report).await?;
                }
                Err(error) => tell(
                    report,
                    format!(
                        "node {} stream {} version {}: {error}",
                        after.0, after.1, after.2
                    ),
                ),
            }
        }
    }
}

async fn check_references(
    conn: &mut PgConnection,
    content: ContentId,
    version: i64,
    manifest: &Manifest,
    repair: bool,
    report: &mut CheckReport,
) -> Result<()> {
    let node = big(content.node.0);
    let ids: Vec<[u8; 16]> = manifest.objects.iter().map(|o| object_key(o.id)).collect();
    let missing: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT x FROM unnest($1::bytea[]) AS x WHERE NOT EXISTS(SELECT 1 FROM object o WHERE o.id = x AND o.node = $2
           AND o.stream = $3 AND o.first <= $4 AND (o.last IS NULL OR o.last >= $4))",
    )
    .bind(&ids)
    .bind(node)
    .bind(i64::from(content.stream))
    .bind(version)
    .fetch_all(&mut *conn)
    .await
    .map_err(db)?;
    for id in missing {
        let shown: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        tell(
            report,
            format!("node {node} version {version}: object {shown} is not registered"),
        );
        if repair {
            sqlx::query(
                "WITH wanted AS (DELETE FROM garbage WHERE id = $1)
                 INSERT INTO object(id, node, stream, first, last) VALUES ($1, $2, $3, 0, NULL)
                 ON CONFLICT(id) DO UPDATE SET node = excluded.node, stream = excluded.stream, first = 0, last = NULL",
            )
            .bind(&id)
            .bind(node)
            .bind(i64::from(content.stream))
            .execute(&mut *conn)
            .await
            .map_err(db)?;
            report.repaired += 1;
        }
    }
    Ok(())
}
