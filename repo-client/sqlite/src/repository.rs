//! The repository over its parts: readers, writer, caches.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};
use sluice_repo::call::CallId;
use sluice_repo::{
    Acl, AttributeChange, Attributes, CaseMode, CheckReport, Commit, Committed, ContentId, Cookie,
    Created, DirPage, ExtendedAttribute, FencingToken, Found, Group, Head, LastLink, Manifest,
    NameRef, NewNode, NodeId, NodeKind, ObjectId, Origin, PolicyRule, ROOT, Renamed, Replace,
    RepoError, Repository, Result, Share, ShareId, StreamInfo, Timestamp, Unlinked, Unsettled,
    User, UserId, Version, VersionInfo, VersionRefs, fold_name,
};

use crate::cache::{Cache, Look};
use crate::checkpoint::Checkpointer;
use crate::error::db;
use crate::guard::Guard;
use crate::name_filter::{Filling, NameFilter};
use crate::op::{accounts, attribute, check, commit, create, purge, remove, rename, stream};
use crate::pool::{Readers, open_writer};
use crate::row::{self, Entry};
use crate::writer::{Idle, Kept, Lasting, Touch, Tx, Writer, now};
use crate::{read, schema};

/// How a repository is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database file; made if it is not there (its folder must exist).
    pub path: PathBuf,
    /// Nodes and names kept in memory, each.
    pub cached_nodes: usize,
    /// Bytes of inline documents and manifests kept in memory.
    pub cached_head_bytes: usize,
}

impl Options {
    /// Defaults for a file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Options {
            path: path.into(),
            cached_nodes: 200_000,
            cached_head_bytes: 64 << 20,
        }
    }
}

/// Metadata in a SQLite file, open in this process alone.
pub struct SqliteRepository {
    /// First: it ends before the writer moves the log, in which it reads.
    pub(crate) filling: Filling,
    readers: Arc<Readers>,
    writer: Writer,
    caches: Arc<Caches>,
    /// Held until the repository is closed.
    guard: Mutex<Option<Guard>>,
}

/// Key of the names of one fold in a folder.
type NameKey = (NodeId, Arc<str>);

struct Caches {
    nodes: Cache<NodeId, Arc<Attributes>>,
    /// All entries of a folder that fold to the same; empty: it is known that there is none.
    names: Cache<NameKey, Arc<[Entry]>>,
    /// Which names there may be.
    name_filter: Arc<NameFilter>,
    heads: Cache<ContentId, Head>,
    acls: Cache<NodeId, Option<Arc<Acl>>>,
    /// Lists by number; they never change.
    acl_bodies: Cache<i64, Arc<Acl>>,
    records: AtomicU64,
}

impl Caches {
    /// For a repository with about so many names.
    fn new(options: &Options, names: u64) -> Self {
        Caches {
            nodes: Cache::new(options.cached_nodes),
            names: Cache::new(options.cached_nodes),
            name_filter: Arc::new(NameFilter::with_room(names)),
            heads: Cache::new(options.cached_head_bytes),
            acls: Cache::new(options.cached_nodes),
            acl_bodies: Cache::new(4096),
            records: AtomicU64::new(1),
        }
    }
}

impl Kept for Caches {
    /// If it is not known to have been carried out, only that the old is no longer true.
    fn publish(&self, touched: Vec<Touch>, carried_out: bool) {
        for touch in touched {
            if let Touch::Name(parent, fold, entries) = &touch
                && !entries.is_empty()
            {
                // Before the cache forgets the name, or is found to have forgotten it.
                self.name_filter.add(*parent, fold);
            }
            match touch {
                Touch::Saved(node) if carried_out => self.nodes.replace(node.id, node, 1),
                Touch::Saved(node) => self.nodes.remove(&node.id),
                Touch::Node(node) => self.nodes.remove(&node),
                Touch::Name(parent, fold, entries) if carried_out => {
                    self.names.replace((parent, fold.into()), entries.into(), 1);
                }
                Touch::Name(parent, fold, _) => self.names.remove(&(parent, fold.into())),
                Touch::NewHead(content, head) if carried_out => {
                    let weight = weight(&head);
                    self.heads.replace(content, head, weight);
                }
                Touch::NewHead(content, _) | Touch::Head(content) => self.heads.remove(&content),
                Touch::Acl(node) => self.acls.remove(&node),
                Touch::Records => {
                    self.records.fetch_add(1, Ordering::Release);
                }
                Touch::Everything => {
                    self.nodes.clear();
                    self.names.clear();
                    self.heads.clear();
                    self.acls.clear();
                    self.records.fetch_add(1, Ordering::Release);
                }
            }
        }
    }

    fn node(&self, node: NodeId) -> Option<Arc<Attributes>> {
        self.nodes.hit(&node)
    }

    fn names(&self, parent: NodeId, fold: &str) -> Option<Arc<[Entry]>> {
        self.names.hit(&(parent, fold.into()))
    }
}

impl SqliteRepository {
    /// Opens (or makes) a repository. `InUse` if another process has it open. Orphans of the last run are deleted.
    pub async fn open(options: Options) -> Result<SqliteRepository> {
        let guard = Guard::take(&options.path)?;
        let mut conn = open_writer(&options.path)?;
        schema::migrate(&mut conn)?;
        make_root(&conn)?;
        let caches = Arc::new(Caches::new(&options, ids_given(&conn)? / 2));
        let checkpointer = Checkpointer::start(&options.path, &conn)?;
        let writer = Writer::start(conn, checkpointer, caches.clone())?;
        let orphans = writer.change(Lasting::Now, purge::release_all).await?;
        if orphans > 0 {
            tracing::info!(
                orphans,
                "deleted documents that were unlinked while open at the last stop"
            );
        }
        let readers = Arc::new(Readers::new(&options.path));
        let filling = Filling::start(caches.name_filter.clone(), readers.clone())?;
        Ok(SqliteRepository {
            filling,
            readers,
            writer,
            caches,
            guard: Mutex::new(Some(guard)),
        })
    }

    /// Whether another process has the repository at `path` open.
    pub fn in_use(path: &Path) -> bool {
        matches!(Guard::take(path), Err(RepoError::InUse(_)))
    }

    /// Transactions committed since the start: how well changes are grouped.
    pub fn transactions(&self) -> u64 {
        self.writer.batches()
    }

    /// A short look into the database: on the writer's connection, which knows the newest pages, unless it is in use.
    fn look<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let idle = self.writer.idle();
        match idle.as_ref().and_then(Idle::conn) {
            Some(conn) => read(conn),
            None => {
                drop(idle);
                self.readers.with(read)
            }
        }
    }

    fn cached_node(&self, node: NodeId) -> Result<Arc<Attributes>> {
        match self.caches.nodes.look(&node) {
            Look::Hit(found) => Ok(found),
            Look::Miss(ticket) => {
                let found = Arc::new(self.look(|conn| row::node(conn, node))?);
                self.caches.nodes.fill(node, found.clone(), 1, ticket);
                Ok(found)
            }
        }
    }

    fn cached_names(&self, parent: NodeId, name: &str) -> Result<Arc<[Entry]>> {
        let key: NameKey = (parent, fold_name(name).into());
        match self.caches.names.look(&key) {
            Look::Hit(found) => Ok(found),
            Look::Miss(ticket) => {
                let found: Arc<[Entry]> = match self.caches.name_filter.may_have(parent, &key.1) {
                    true => self.look(|conn| row::entries(conn, parent, &key.1))?.into(),
                    false => Arc::default(),
                };
                self.caches.names.fill(key, found.clone(), 1, ticket);
                Ok(found)
            }
        }
    }

    fn find(&self, parent: NodeId, name: &str, case: CaseMode) -> Result<Found> {
        // A name may move between the two reads; then it leads to a node that is gone, or is found again.
        for _ in 0..8 {
            let entries = self.cached_names(parent, name)?;
            let Some(entry) = row::choose(&entries, name, case) else {
                return match self.cached_node(parent)?.kind {
                    NodeKind::Directory => Err(RepoError::NotFound),
                    _ => Err(RepoError::NotDirectory),
                };
            };
            match self.cached_node(entry.node) {
                Ok(node) => {
                    return Ok(Found {
                        name: entry.name.clone(),
                        attributes: (*node).clone(),
                    });
                }
                Err(RepoError::Stale(_)) => continue,
                Err(error) => return Err(error),
            }
        }
        Err(RepoError::NotFound)
    }

    fn cached_acl(&self, node: NodeId) -> Result<Option<Arc<Acl>>> {
        let ticket = match self.caches.acls.look(&node) {
            Look::Hit(found) => return Ok(found),
            Look::Miss(ticket) => ticket,
        };
        let found = match self.look(|conn| read::acl_id(conn, node))? {
            None => None,
            Some(id) => Some(self.acl_body(id)?),
        };
        self.caches.acls.fill(node, found.clone(), 1, ticket);
        Ok(found)
    }

    fn acl_body(&self, id: i64) -> Result<Arc<Acl>> {
        match self.caches.acl_bodies.look(&id) {
            Look::Hit(found) => Ok(found),
            Look::Miss(ticket) => {
                let found = Arc::new(self.readers.with(|conn| read::acl(conn, id))?);
                self.caches.acl_bodies.fill(id, found.clone(), 1, ticket);
                Ok(found)
            }
        }
    }

    fn cached_head(&self, content: ContentId) -> Result<Head> {
        match self.caches.heads.look(&content) {
            Look::Hit(found) => Ok(found),
            Look::Miss(ticket) => {
                let found = self
                    .readers
                    .with_snapshot(|conn| read::head(conn, content))?;
                self.caches
                    .heads
                    .fill(content, found.clone(), weight(&found), ticket);
                Ok(found)
            }
        }
    }

    #[cfg(test)]
    pub(crate) async fn change_each<T, F>(&self, changes: Vec<F>) -> Vec<Result<T>>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.writer.change_each(changes).await
    }

    async fn change<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.writer.change(Lasting::Now, change).await
    }
}

/// What a content head takes in the cache.
fn weight(head: &Head) -> usize {
    200 + head.manifest.inline.len() + head.manifest.objects.len() * 300
}

/// Ids given to nodes and names so far; of each about half.
fn ids_given(conn: &Connection) -> Result<u64> {
    conn.query_row("SELECT max(id) FROM node", [], |row| {
        row.get::<_, Option<i64>>(0)
    })
    .map_err(db)
    .map(|id| id.unwrap_or(0) as u64)
}

fn make_root(conn: &Connection) -> Result<()> {
    let now = now().0;
    conn.execute(
        "INSERT OR IGNORE INTO node(id, kind, mode, uid, gid, nlink, size, allocated, atime, mtime, ctime, btime, dos,
         change_id, version, dev_major, dev_minor, ea_size) VALUES (?1, 2, 493, 0, 0, 2, 0, 0, ?2, ?2, ?2, ?2, 0, 1, 0, 0, 0, 0)",
        params![ROOT.0 as i64, now],
    )
    .map_err(db)
    .map(|_| ())
}

#[async_trait]
impl Repository for SqliteRepository {
    async fn lookup(&self, parent: NodeId, name: &str, case: CaseMode) -> Result<Found> {
        self.find(parent, name, case)
    }

    async fn resolve(&self, start: NodeId, names: &[&str], case: CaseMode) -> Result<Vec<Found>> {
        let mut found = Vec::with_capacity(names.len());
        let mut at = start;
        for name in names {
            match self.find(at, name, case) {
                Ok(next) => {
                    at = next.attributes.id;
                    found.push(next);
                }
                Err(RepoError::NotFound | RepoError::NotDirectory | RepoError::Stale(_))
                    if !found.is_empty() =>
                {
                    break;
                }
                Err(RepoError::NotFound) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn get(&self, node: NodeId) -> Result<Attributes> {
        self.cached_node(node).map(|found| (*found).clone())
    }

    async fn read_dir(&self, dir: NodeId, after: Cookie, limit: usize) -> Result<DirPage> {
        self.readers
            .with_snapshot(|conn| read::page(conn, dir, after, limit))
    }

    async fn path_of(&self, node: NodeId) -> Result<Vec<(NodeId, Arc<str>)>> {
        self.readers.with_snapshot(|conn| read::path(conn, node))
    }

    async fn read_link(&self, node: NodeId) -> Result<String> {
        self.readers.with(|conn| read::target(conn, node))
    }

    async fn create(
        &self,
        parent: NodeId,
        name: &str,
        case: CaseMode,
        new: NewNode,
    ) -> Result<Created> {
        let name = name.to_owned();
        let lasting = match new.relaxed {
            true => Lasting::Soon,
            false => Lasting::Now,
        };
        self.writer
            .change(lasting, move |tx| {
                create::create(tx, parent, &name, case, new)
            })
            .await
    }

    async fn create_with(
        &self,
        parent: NodeId,
        name: &str,
        case: CaseMode,
        new: NewNode,
        unsettled: Arc<dyn Unsettled>,
    ) -> Result<Created> {
        let name = name.to_owned();
        let change = move |tx: &mut Tx<'_>| create::create(tx, parent, &name, case, new);
        self.writer.change_after(unsettled, change).await
    }

    fn seen(&self) -> u64 {
        self.writer.seen()
    }

    async fn settle_seen(&self, seen: u64) -> Result<()> {
        match self.writer.has_settled(seen) {
            true => Ok(()),
            false => self.change(|_| Ok(())).await,
        }
    }

    async fn settle(&self) -> Result<()> {
        if !self.writer.has_pending() {
            return Ok(());
        }
        self.change(|_| Ok(())).await
    }

    async fn link(
        &self,
        node: NodeId,
        parent: NodeId,
        name: &str,
        case: CaseMode,
    ) -> Result<Created> {
        let name = name.to_owned();
        self.change(move |tx| create::link(tx, node, parent, &name, case))
            .await
    }

    async fn unlink(&self, entry: NameRef<'_>, last: LastLink) -> Result<Unlinked> {
        let (parent, name, node) = (entry.parent, entry.name.to_owned(), entry.node);
        self.change(move |tx| remove::unlink(tx, parent, &name, node, last))
            .await
    }

    async fn release(&self, node: NodeId) -> Result<()> {
        self.change(move |tx| purge::release(tx, node)).await
    }

    async fn rename(
        &self,
        from: NameRef<'_>,
        parent: NodeId,
        name: &str,
        case: CaseMode,
        replace: Replace,
    ) -> Result<Renamed> {
        let wanted = rename::Move {
            old_parent: from.parent,
            old_name: from.name.to_owned(),
            expected: from.node,
            new_parent: parent,
            new_name: name.to_owned(),
            case,
            replace,
        };
        self.change(move |tx| rename::rename(tx, &wanted)).await
    }

    async fn set_attributes(
        &self,
        node: NodeId,
        change: AttributeChange,
        guard: Option<Timestamp>,
    ) -> Result<Attributes> {
        self.change(move |tx| attribute::set(tx, node, &change, guard))
            .await
    }

    fn touch(&self, node: NodeId, accessed: Timestamp) {
        self.writer.note_access(node, accessed);
    }

    async fn acl(&self, node: NodeId) -> Result<Option<Arc<Acl>>> {
        self.cached_acl(node)
    }

    async fn set_acl(
        &self,
        node: NodeId,
        acl: Option<Arc<Acl>>,
        change: AttributeChange,
    ) -> Result<Attributes> {
        self.change(move |tx| attribute::set_acl(tx, node, acl, &change))
            .await
    }

    async fn eas(&self, node: NodeId) -> Result<Vec<ExtendedAttribute>> {
        self.readers.with_snapshot(|conn| read::eas(conn, node))
    }

    async fn set_eas(&self, node: NodeId, eas: Vec<ExtendedAttribute>) -> Result<Attributes> {
        self.change(move |tx| attribute::set_eas(tx, node, &eas))
            .await
    }

    async fn streams(&self, node: NodeId) -> Result<Vec<StreamInfo>> {
        self.readers.with_snapshot(|conn| read::streams(conn, node))
    }

    async fn create_stream(&self, node: NodeId, name: &str) -> Result<StreamInfo> {
        let name = name.to_owned();
        self.change(move |tx| stream::create(tx, node, &name)).await
    }

    async fn rename_stream(&self, content: ContentId, name: &str, replace: bool) -> Result<()> {
        let name = name.to_owned();
        self.change(move |tx| stream::rename(tx, content, &name, replace))
            .await
    }

    async fn delete_stream(&self, content: ContentId) -> Result<()> {
        self.change(move |tx| stream::delete(tx, content)).await
    }

    async fn head(&self, content: ContentId) -> Result<Head> {
        self.cached_head(content)
    }

    async fn commit(&self, commits: Vec<Commit>) -> Vec<Result<Committed>> {
        // Each is a change of its own; the writer puts them into one transaction.
        let changes = commits
            .into_iter()
            .map(|c| move |tx: &mut Tx<'_>| commit::commit(tx, &c));
        self.writer.change_each(changes.collect()).await
    }

    async fn commit_with(
        &self,
        commit: Commit,
        unsettled: Arc<dyn Unsettled>,
    ) -> Result<Committed> {
        let change = move |tx: &mut Tx<'_>| commit::commit(tx, &commit);
        self.writer.change_after(unsettled, change).await
    }

    async fn versions(&self, document: NodeId) -> Result<Vec<VersionInfo>> {
        self.readers
            .with_snapshot(|conn| read::versions(conn, document))
    }

    async fn version(&self, document: NodeId, version: Version) -> Result<Arc<Manifest>> {
        let content = ContentId {
            node: document,
            stream: 0,
        };
        self.readers
            .with(|conn| read::manifest(conn, content, version.0))
            .map(Arc::new)
    }

    async fn restore(
        &self,
        document: NodeId,
        version: Version,
        base: Version,
        fence: FencingToken,
        origin: Origin,
    ) -> Result<Committed> {
        let content = ContentId {
            node: document,
            stream: 0,
        };
        self.change(move |tx| commit::restore(tx, content, version, base, fence, origin))
            .await
    }

    fn sound(&self) -> Result<()> {
        self.writer.sound()
    }

    fn records_generation(&self) -> u64 {
        self.caches.records.load(Ordering::Acquire)
    }

    async fn users(&self) -> Result<Vec<User>> {
        self.readers
            .with(|conn| accounts::list(conn, accounts::USER))
    }

    async fn put_user(&self, user: User) -> Result<User> {
        self.change(move |tx| accounts::put_user(tx, user)).await
    }

    async fn remove_user(&self, user: UserId) -> Result<()> {
        self.change(move |tx| accounts::remove(tx, accounts::USER, user.0.into()))
            .await
    }

    async fn groups(&self) -> Result<Vec<Group>> {
        self.readers
            .with(|conn| accounts::list(conn, accounts::GROUP))
    }

    async fn put_group(&self, group: Group) -> Result<()> {
        self.change(move |tx| accounts::put_group(tx, &group)).await
    }

    async fn remove_group(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.change(move |tx| accounts::remove_group(tx, &name))
            .await
    }

    async fn shares(&self) -> Result<Vec<Share>> {
        self.readers
            .with(|conn| accounts::list(conn, accounts::SHARE))
    }

    async fn put_share(&self, share: Share) -> Result<Share> {
        self.change(move |tx| accounts::put_share(tx, share)).await
    }

    async fn remove_share(&self, share: ShareId) -> Result<()> {
        self.change(move |tx| accounts::remove(tx, accounts::SHARE, share.0.into()))
            .await
    }

    async fn policies(&self) -> Result<Vec<PolicyRule>> {
        self.readers
            .with(|conn| accounts::list(conn, accounts::POLICY))
    }

    async fn put_policy(&self, rule: PolicyRule) -> Result<PolicyRule> {
        self.change(move |tx| accounts::put_policy(tx, rule)).await
    }

    async fn remove_policy(&self, rule: u64) -> Result<()> {
        self.change(move |tx| accounts::remove(tx, accounts::POLICY, rule))
            .await
    }

    async fn setting(&self, key: &str) -> Result<Option<Bytes>> {
        self.readers.with(|conn| {
            conn.query_row("SELECT value FROM setting WHERE key = ?1", [key], |row| {
                row.get::<_, Vec<u8>>(0)
            })
            .optional()
            .map(|value| value.map(Bytes::from))
            .map_err(db)
        })
    }

    async fn put_setting(&self, key: &str, value: Bytes) -> Result<()> {
        let key = key.to_owned();
        self.change(move |tx| accounts::put_setting(tx, &key, &value, false).map(|_| ()))
            .await
    }

    async fn setting_or(&self, key: &str, value: Bytes) -> Result<Bytes> {
        let key = key.to_owned();
        self.change(move |tx| accounts::put_setting(tx, &key, &value, true).map(Bytes::from))
            .await
    }

    async fn next_counter(&self, key: &str) -> Result<u64> {
        let key = format!("setting.{key}");
        self.change(move |tx| accounts::next_counter(tx, &key))
            .await
    }

    async fn node_count(&self) -> Result<u64> {
        self.readers.with(|conn| {
            conn.query_row("SELECT count(*) FROM node", [], |row| row.get::<_, i64>(0))
                .map(|n| n as u64)
                .map_err(db)
        })
    }

    async fn garbage(&self, age_s: u64, limit: usize) -> Result<Vec<ObjectId>> {
        let before = (now().0 / 1_000_000_000).saturating_sub_unsigned(age_s);
        let found = self
            .readers
            .with(|conn| read::garbage(conn, before, limit))?;
        // Whoever asks deletes them, and a loss of power must not bring back what needs them.
        self.settle().await?;
        Ok(found)
    }

    async fn forget_garbage(&self, objects: Vec<ObjectId>) -> Result<()> {
        self.change(move |tx| {
            for object in &objects {
                tx.conn
                    .prepare_cached("DELETE FROM garbage WHERE id = ?1")
                    .and_then(|mut s| s.execute([object.0.to_be_bytes()]))
                    .map_err(db)?;
            }
            Ok(())
        })
        .await
    }

    async fn carried_out(&self, _call: CallId) -> Result<bool> {
        Ok(false)
    }

    async fn note_locked(&self, document: NodeId) -> Result<()> {
        self.change(move |tx| accounts::note_locked(tx, document))
            .await
    }

    async fn forget_locked(&self, documents: Vec<NodeId>) -> Result<()> {
        self.change(move |tx| accounts::forget_locked(tx, &documents))
            .await
    }

    async fn noted_locked(&self) -> Result<Vec<NodeId>> {
        self.readers.with(read::locked)
    }

    async fn keep_garbage(&self, _objects: Vec<ObjectId>) -> Result<()> {
        Ok(())
    }

    async fn uploaders(&self) -> Result<Option<HashSet<u64>>> {
        Ok(None)
    }

    async fn usage(&self, root: NodeId) -> Result<u64> {
        // Longer than other reads: off the runtime's threads.
        let readers = self.readers.clone();
        tokio::task::spawn_blocking(move || readers.with(|conn| read::usage(conn, root)))
            .await
            .unwrap_or_else(|_| Err(RepoError::Unavailable("a query ended early".into())))
    }

    async fn references(
        &self,
        after: Option<(ContentId, Version)>,
        limit: usize,
    ) -> Result<Vec<VersionRefs>> {
        self.readers
            .with(|conn| read::references(conn, after, limit))
    }

    async fn check(&self, repair: bool) -> Result<CheckReport> {
        self.change(move |tx| check::check(tx, repair)).await
    }

    async fn close(&self) -> Result<()> {
        self.filling.stop();
        self.writer.stop();
        drop(self.guard.lock().take());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_garbage_is_told_only_after_it_would_be_so_after_a_loss_of_power() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("meta.db");
        let repo = SqliteRepository::open(Options::new(&path))
            .await
            .expect("open");
        let made = repo.writer.change(Lasting::Soon, |tx| {
            tx.conn
                .execute("INSERT INTO garbage(id, at) VALUES (zeroblob(16), 0)", [])
                .map_err(db)
        });
        assert_eq!(made.await, Ok(1));
        assert_eq!(repo.garbage(1, 10).await, Ok(vec![ObjectId(0)]));
        assert!(!repo.writer.has_pending());
        repo.close().await.expect("close");
    }
}
