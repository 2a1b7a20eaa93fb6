//! Records of the administration: a JSON body for each, unique names.

use rusqlite::{OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sluice_repo::{Group, NodeId, PolicyRule, RepoError, Result, Share, ShareId, User, UserId};

use crate::error::{corrupt, db};
use crate::writer::{Touch, Tx};

pub(crate) const USER: &str = "user";
pub(crate) const GROUP: &str = "group";
pub(crate) const SHARE: &str = "share";
pub(crate) const POLICY: &str = "policy";

/// All records of a kind, by name or number.
pub(crate) fn list<T: DeserializeOwned>(conn: &rusqlite::Connection, kind: &str) -> Result<Vec<T>> {
    let order = if kind == POLICY { "id" } else { "name" };
    let bodies: Vec<String> = conn
        .prepare_cached(&format!(
            "SELECT body FROM record WHERE kind = ?1 ORDER BY {order}"
        ))
        .and_then(|mut s| {
            s.query_map([kind], |row| row.get(0))
                .and_then(Iterator::collect)
        })
        .map_err(db)?;
    bodies
        .iter()
        .map(|body| serde_json::from_str(body).map_err(|_| corrupt("a record that can't be read")))
        .collect()
}

/// Adds or replaces a record; `Exists` if another one has the name.
fn put(tx: &mut Tx<'_>, kind: &str, id: u64, name: &str, record: &impl Serialize) -> Result<()> {
    let body =
        serde_json::to_string(record).map_err(|_| corrupt("a record that can't be written"))?;
    let other: Option<i64> = tx
        .conn
        .query_row(
            "SELECT id FROM record WHERE kind = ?1 AND name = ?2",
            params![kind, name],
            |row| row.get(0),
        )
        .optional()
        .map_err(db)?;
    if other.is_some_and(|other| other as u64 != id) {
        return Err(RepoError::Exists);
    }
    tx.conn
        .execute(
            "INSERT INTO record(kind, id, name, body) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT(kind, id) DO UPDATE SET name = excluded.name, body = excluded.body",
            params![kind, id as i64, name, body],
        )
        .map_err(db)?;
    tx.touch(Touch::Records);
    Ok(())
}

/// Removes a record by number.
pub(crate) fn remove(tx: &mut Tx<'_>, kind: &str, id: u64) -> Result<()> {
    let gone = tx
        .conn
        .execute(
            "DELETE FROM record WHERE kind = ?1 AND id = ?2",
            params![kind, id as i64],
        )
        .map_err(db)?;
    tx.touch(Touch::Records);
    if gone == 0 {
        Err(RepoError::NotFound)
    } else {
        Ok(())
    }
}

fn key(name: &str) -> String {
    name.to_lowercase()
}

/// A number for a new record.
fn number(tx: &Tx<'_>, kind: &str) -> Result<u32> {
    let number = next_counter(tx, &format!("record.{kind}"))?;
    u32::try_from(number).map_err(|_| RepoError::TooMany)
}

pub(crate) fn put_user(tx: &mut Tx<'_>, mut user: User) -> Result<User> {
    let all: Vec<User> = list(tx.conn, USER)?;
    if all
        .iter()
        .any(|u| u.id != user.id && (u.uid == user.uid || u.sid == user.sid))
    {
        return Err(RepoError::Exists);
    }
    if user.id.0 == 0 {
        user.id = UserId(number(tx, USER)?);
    }
    put(tx, USER, user.id.0.into(), &key(&user.name), &user)?;
    Ok(user)
}

pub(crate) fn put_group(tx: &mut Tx<'_>, group: &Group) -> Result<()> {
    let all: Vec<Group> = list(tx.conn, GROUP)?;
    let name = key(&group.name);
    if all
        .iter()
        .any(|g| key(&g.name) != name && (g.gid == group.gid || g.sid == group.sid))
    {
        return Err(RepoError::Exists);
    }
    let known: Option<i64> = tx
        .conn
        .query_row(
            "SELECT id FROM record WHERE kind = ?1 AND name = ?2",
            [GROUP, &name],
            |row| row.get(0),
        )
        .optional()
        .map_err(db)?;
    let id = match known {
        Some(id) => id as u64,
        None => number(tx, GROUP)?.into(),
    };
    put(tx, GROUP, id, &name, group)
}

pub(crate) fn remove_group(tx: &mut Tx<'_>, name: &str) -> Result<()> {
    let gone = tx
        .conn
        .execute(
            "DELETE FROM record WHERE kind = ?1 AND name = ?2",
            [GROUP, &key(name)],
        )
        .map_err(db)?;
    tx.touch(Touch::Records);
    if gone == 0 {
        Err(RepoError::NotFound)
    } else {
        Ok(())
    }
}

pub(crate) fn put_share(tx: &mut Tx<'_>, mut share: Share) -> Result<Share> {
    if share.id.0 == 0 {
        share.id = ShareId(number(tx, SHARE)?);
    }
    put(tx, SHARE, share.id.0.into(), &key(&share.name), &share)?;
    Ok(share)
}

pub(crate) fn put_policy(tx: &mut Tx<'_>, mut rule: PolicyRule) -> Result<PolicyRule> {
    if rule.id == 0 {
        rule.id = number(tx, POLICY)?.into();
    }
    put(tx, POLICY, rule.id, &rule.id.to_string(), &rule)?;
    Ok(rule)
}

/// Stores a setting; with `keep`, only if there is none. Returns the one that holds.
pub(crate) fn put_setting(tx: &Tx<'_>, key: &str, value: &[u8], keep: bool) -> Result<Vec<u8>> {
    let sql = if keep {
        "INSERT INTO setting(key, value) VALUES (?1, ?2) ON CONFLICT(key) DO UPDATE SET value = value RETURNING value"
    } else {
        "INSERT INTO setting(key, value) VALUES (?1, ?2) ON CONFLICT(key) DO UPDATE SET value = excluded.value
         RETURNING value"
    };
    tx.conn
        .query_row(sql, params![key, value], |row| row.get(0))
        .map_err(db)
}

/// NFS clients may have locks on a document.
pub(crate) fn note_locked(tx: &Tx<'_>, document: NodeId) -> Result<()> {
    tx.conn
        .prepare_cached("INSERT OR IGNORE INTO nfs_locked(document) VALUES (?1)")
        .and_then(|mut s| s.execute([document.0 as i64]))
        .map(drop)
        .map_err(db)
}

/// NFS clients have no locks on these documents.
pub(crate) fn forget_locked(tx: &Tx<'_>, documents: &[NodeId]) -> Result<()> {
    let mut forget = tx
        .conn
        .prepare_cached("DELETE FROM nfs_locked WHERE document = ?1")
        .map_err(db)?;
    for document in documents {
        forget.execute([document.0 as i64]).map_err(db)?;
    }
    Ok(())
}

/// Adds 1 to a counter; the first answer is 1.
pub(crate) fn next_counter(tx: &Tx<'_>, key: &str) -> Result<u64> {
    let value: i64 = tx
        .conn
        .prepare_cached(
            "INSERT INTO counter(key, value) VALUES (?1, 1) ON CONFLICT(key) DO UPDATE SET value = value + 1
             RETURNING value",
        )
        .and_then(|mut s| s.query_row([key], |row| row.get(0)))
        .map_err(db)?;
    Ok(value as u64)
}
