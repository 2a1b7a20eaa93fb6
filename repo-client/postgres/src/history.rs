//! How far the database's history has come that this process has seen, so that a server that lost part of it is noticed.
//!
//! A standby that received commits only after they were answered lacks the last ones when it is promoted. Whoever saw them
//! must not go on with it: locks, versions and fences would no longer fit. Every new connection is compared with what was seen
//! before: the server's identity and timeline, the cluster's counters, and the fate of the last answered transaction. All
//! transactions before that one precede it in the log, so that it stands for them.
//! A synchronous standby has everything that was answered, and passes.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use sqlx::{PgConnection, Row};

/// What was seen of one database by all connections of this process.
#[derive(Debug, Default)]
pub struct History {
    seen: Mutex<Seen>,
    lost: AtomicBool,
    words: Mutex<Option<String>>,
}

/// A moment of a process's view of the history: what an answer must not fall behind that was asked for after it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Identity of the database cluster, made by initdb.
    system: Option<i64>,
    /// Grows with each promotion.
    timeline: i64,
    /// The last answered transaction, as a 64-bit number.
    transaction: i64,
    /// `cluster_state` 'members' and 'shards'.
    members: i64,
    shards: i64,
}

/// What a server says about itself.
struct Shown {
    system: i64,
    timeline: i64,
    members: i64,
    shards: i64,
}

impl History {
    /// Notes an answered transaction (`pg_current_xact_id()`).
    pub fn committed(&self, transaction: i64) {
        let mut seen = self.seen.lock();
        seen.transaction = seen.transaction.max(transaction);
    }

    /// What was seen until now.
    pub(crate) fn mark(&self) -> Seen {
        self.seen.lock().clone()
    }

    /// Notes the counters of an answer to what was asked after `before`; says whether they fit what was seen then.
    pub(crate) fn counters(&self, before: &Seen, members: i64, shards: i64) -> bool {
        if members < before.members || shards < before.shards {
            self.lose(format!(
                "its membership counters are {members} and {shards}, they were {} and {}",
                before.members, before.shards
            ));
            return false;
        }
        let mut seen = self.seen.lock();
        seen.members = seen.members.max(members);
        seen.shards = seen.shards.max(shards);
        true
    }

    /// Why the database can't be trusted any more, if that is so. It stays so for the life of this process.
    pub fn lost(&self) -> Option<String> {
        self.lost
            .load(Ordering::Acquire)
            .then(|| self.words.lock().clone().unwrap_or_default())
    }

    fn lose(&self, words: String) {
        tracing::error!(
            "the cluster database lost acknowledged commits ({words}); this node stays frozen: bring back the server that has \
             them, or restart all nodes to go on with what there is"
        );
        self.words.lock().get_or_insert(words);
        self.lost.store(true, Ordering::Release);
    }

    /// Compares a new connection's server with what was seen. Fails if commits are lost, or if the server is a standby.
    pub(crate) async fn check(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        if let Some(words) = self.lost() {
            return Err(refuse(words));
        }
        let standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()")
            .fetch_one(&mut *conn)
            .await?;
        if standby {
            return Err(refuse("the server is a standby".into()));
        }
        let before = self.mark();
        let Some(shown) = ask(conn).await? else {
            // A database whose tables do not exist yet has no history.
            return Ok(());
        };
        let fate = fate(conn, before.transaction).await?;
        if let Some(words) = judge(&before, &shown, fate.as_deref()) {
            self.lose(words.clone());
            return Err(refuse(words));
        }
        let mut seen = self.seen.lock();
        seen.system = Some(shown.system);
        seen.timeline = seen.timeline.max(shown.timeline);
        seen.members = seen.members.max(shown.members);
        seen.shards = seen.shards.max(shown.shards);
        Ok(())
    }
}

fn judge(seen: &Seen, shown: &Shown, fate: Option<&str>) -> Option<String> {
    if seen.system.is_some_and(|system| system != shown.system) {
        return Some("it is another server than before".into());
    }
    if shown.timeline < seen.timeline {
        return Some(format!(
            "it is on timeline {}, an older one than {}",
            shown.timeline, seen.timeline
        ));
    }
    if shown.members < seen.members || shown.shards < seen.shards {
        return Some("its membership is older than what was seen".into());
    }
    match fate {
        None | Some("committed") => None,
        Some(fate) => Some(format!(
            "transaction {} was answered and is {fate} there",
            seen.transaction
        )),
    }
}

async fn ask(conn: &mut PgConnection) -> Result<Option<Shown>, sqlx::Error> {
    let there: bool = sqlx::query_scalar("SELECT to_regclass('cluster_state') IS NOT NULL")
        .fetch_one(&mut *conn)
        .await?;
    if !there {
        return Ok(None);
    }
    let row = sqlx::query(
        "SELECT (SELECT system_identifier FROM pg_control_system()), \
         ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint, \
         coalesce((SELECT value FROM cluster_state WHERE key = 'members'), 0), \
         coalesce((SELECT value FROM cluster_state WHERE key = 'shards'), 0)",
    )
    .fetch_one(conn)
    .await?;
    Ok(Some(Shown {
        system: row.try_get(0)?,
        timeline: row.try_get(1)?,
        members: row.try_get(2)?,
        shards: row.try_get(3)?,
    }))
}

/// What became of a transaction there; nothing if it is none or too old to tell.
async fn fate(conn: &mut PgConnection, transaction: i64) -> Result<Option<String>, sqlx::Error> {
    if transaction == 0 {
        return Ok(None);
    }
    let answer = sqlx::query_scalar("SELECT pg_xact_status($1::text::xid8)")
        .bind(transaction.to_string())
        .fetch_one(conn)
        .await;
    match answer {
        // "... is in the future".
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("22023") => {
            Ok(Some("unknown".into()))
        }
        other => other,
    }
}

fn refuse(words: String) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::other(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen {
            system: Some(7),
            timeline: 2,
            transaction: 100,
            members: 5,
            shards: 6,
        }
    }

    fn shown(system: i64, timeline: i64, members: i64, shards: i64) -> Shown {
        Shown {
            system,
            timeline,
            members,
            shards,
        }
    }

    #[test]
    fn a_promoted_server_with_everything_that_was_answered_passes() {
        assert_eq!(judge(&seen(), &shown(7, 3, 5, 6), Some("committed")), None);
        assert_eq!(judge(&seen(), &shown(7, 2, 9, 9), None), None);
    }

    #[test]
    fn a_server_that_lacks_something_answered_is_refused() {
        for (shown, fate) in [
            (shown(8, 3, 5, 6), Some("committed")),
            (shown(7, 1, 5, 6), Some("committed")),
            (shown(7, 3, 4, 6), Some("committed")),
            (shown(7, 3, 5, 5), Some("committed")),
            (shown(7, 3, 5, 6), Some("aborted")),
            (shown(7, 3, 5, 6), Some("in progress")),
            (shown(7, 3, 5, 6), Some("unknown")),
        ] {
            assert!(judge(&seen(), &shown, fate).is_some());
        }
    }
}
