//! The repository over its parts: readers, writing lanes, the watch on records.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use sluice_lockmgr::Member;
use sluice_repo::call::{self, CallId};
use sluice_repo::{
    Acl, AttributeChange, Attributes, CaseMode, CheckReport, Commit, Committed, ContentId, Cookie,
    Created, DirPage, ExtendedAttribute, FencingToken, Found, Group, Head, LastLink, Manifest,
    NameRef, NewNode, NodeId, ObjectId, OpId, Origin, PolicyRule, Renamed, Replace, RepoError,
    Repository, Result, Share, ShareId, StreamInfo, Timestamp, Unlinked, User, UserId, Version,
    VersionInfo, VersionPolicy, VersionRefs, WriteSession, check_name,
};

use crate::change::{Asked, Change, Name, check_eas, check_new, check_stream_name};
use crate::commit::Prepared;
use crate::database::Database;
use crate::error::corrupt;
use crate::lane::{Lane, Sender};
use crate::reader::Readers;
use crate::row::Answer;
use crate::{check, read, session, watch};

/// Access control lists whose numbers are remembered; they never change.
const ACLS_REMEMBERED: usize = 4096;
/// How long access times may wait for being written.
const TOUCH_INTERVAL: Duration = Duration::from_secs(1);
/// How often calls that are too old to come again are forgotten.
const CALLS_FORGOTTEN_EVERY: Duration = Duration::from_secs(60);
/// Access times that wait; more are dropped.
const TOUCHES_MAX: usize = 1024;

/// In whose name the repository writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// A member of the cluster; fences of commits carry the epochs of the documents' shards.
    Member(Member),
    /// A program that has the repository to itself: refused while a node lives.
    Alone,
}

/// How a repository is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// In whose name.
    pub writer: Writer,
    /// Most reading connections.
    pub readers: usize,
    /// How long a call waits for a database that does not answer before it fails with `Unavailable`.
    pub patience: Duration,
}

impl Options {
    /// Defaults for a writer.
    pub fn new(writer: Writer) -> Options {
        Options {
            writer,
            readers: 8,
            patience: Duration::from_secs(60),
        }
    }
}

/// Metadata in a PostgreSQL database.
pub struct PostgresRepository {
    database: Database,
    me: Member,
    alone: bool,
    readers: Readers,
    changes: Arc<Lane<Asked>>,
    commits: Lane<Prepared>,
    acls: Mutex<HashMap<String, i64>>,
    touched: Arc<Mutex<HashMap<NodeId, Timestamp>>>,
    records: Arc<AtomicU64>,
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

impl PostgresRepository {
    /// Opens the repository. Alone, it deletes the orphans of all earlier runs; as a member it leaves them, because other
    /// members may have them open (see [`Repository::abandoned_orphans`]).
    pub async fn open(database: Database, options: Options) -> Result<PostgresRepository> {
        let mut conn = database.connect().await?;
        let me = match options.writer {
            Writer::Member(member) => member,
            Writer::Alone => session::take(&mut conn).await?,
        };
        let alone = options.writer == Writer::Alone;
        session::forget_lanes(&mut conn).await?;
        let sender = Sender {
            member: me,
            shards: !alone,
            patience: options.patience,
        };
        let changes = Arc::new(Lane::start(database.clone(), sender, lane_number()?));
        let touched = Arc::<Mutex<HashMap<NodeId, Timestamp>>>::default();
        let records = Arc::new(AtomicU64::new(1));
        let mut tasks = vec![
            tokio::spawn(watch::records(database.clone(), records.clone())),
            tokio::spawn(write_touches(changes.clone(), touched.clone())),
            tokio::spawn(forget_calls(changes.clone())),
        ];
        if alone {
            tasks.push(tokio::spawn(session::keep(database.clone(), me, conn)));
        }
        let repository = PostgresRepository {
            readers: Readers::new(database.clone(), options.readers, options.patience),
            commits: Lane::start(database.clone(), sender, lane_number()?),
            changes,
            database,
            me,
            alone,
            acls: Mutex::default(),
            touched,
            records,
            tasks: Mutex::new(tasks),
        };
        if alone {
            repository.release_abandoned().await?;
        }
        Ok(repository)
    }

    async fn release_abandoned(&self) -> Result<()> {
        let orphans = self.abandoned_orphans().await?;
        if !orphans.is_empty() {
            let count = orphans.len();
            tracing::info!(
                orphans = count,
                "deleting documents that were unlinked while open at the last stop"
            );
        }
        for released in join_all(orphans.into_iter().map(|node| self.release(node))).await {
            released?;
        }
        Ok(())
    }

    /// Another node says that users, groups, shares or policy have changed.
    pub fn refresh_records(&self) {
        self.records.fetch_add(1, Ordering::Release);
    }

    /// Transactions since the start: how well changes are grouped.
    pub fn transactions(&self) -> u64 {
        self.changes.batches() + self.commits.batches()
    }

    /// In whose name it writes.
    pub fn member(&self) -> Member {
        self.me
    }

    async fn change(&self, change: Change) -> Result<Answers> {
        let asked = Asked::now(change);
        let of_a_call = asked.is_of_a_call();
        let answers = self.changes.submit(asked).await?;
        if of_a_call {
            call::carried_out();
        }
        Ok(Answers(answers))
    }

    /// Number under which an ACL is stored.
    async fn acl_number(&self, acl: Option<Arc<Acl>>) -> Result<Option<i64>> {
        let Some(acl) = acl else { return Ok(None) };
        let body =
            serde_json::to_string(&*acl).map_err(|_| corrupt("an ACL that can't be written"))?;
        if let Some(number) = self.acls.lock().get(&body) {
            return Ok(Some(*number));
        }
        let number = self.change(Change::Acl(body.clone())).await?.number()?;
        let mut acls = self.acls.lock();
        if acls.len() >= ACLS_REMEMBERED {
            acls.clear();
        }
        acls.insert(body, number);
        Ok(Some(number))
    }

    async fn counter(&self, key: String) -> Result<u64> {
        Ok(self.change(Change::Counter(key)).await?.number()? as u64)
    }

    async fn record_number(&self, kind: &str) -> Result<u32> {
        let number = self.counter(format!("record.{kind}")).await?;
        u32::try_from(number).map_err(|_| RepoError::TooMany)
    }

    async fn put_record(
        &self,
        kind: &'static str,
        id: u64,
        name: String,
        record: &impl Serialize,
        unique: Value,
    ) -> Result<()> {
        let body =
            serde_json::to_string(record).map_err(|_| corrupt("a record that can't be written"))?;
        let put = Change::PutRecord {
            kind,
            id,
            name,
            body,
            unique,
        };
        self.change(put).await?;
        self.refresh_records();
        Ok(())
    }

    async fn remove_record(
        &self,
        kind: &'static str,
        id: Option<u64>,
        name: Option<String>,
    ) -> Result<()> {
        self.change(Change::RemoveRecord { kind, id, name }).await?;
        self.refresh_records();
        Ok(())
    }

    async fn commit_one(&self, commit: Commit) -> Result<Committed> {
        commit.manifest.check()?;
        let mut answers = Answers(self.commits.submit(Prepared::new(commit)).await?);
        let done = answers.take(0)?;
        Ok(Committed {
            version: Version(done.detail as u64),
            attributes: done.node()?,
        })
    }
}

impl Drop for PostgresRepository {
    fn drop(&mut self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

/// A number for a lane that no other one of the same member has.
fn lane_number() -> Result<i32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes)
        .map_err(|_| RepoError::Unavailable("the system has no random numbers".into()))?;
    Ok(i32::from_le_bytes(bytes))
}

/// Writes noted access times now and then.
async fn write_touches(changes: Arc<Lane<Asked>>, touched: Arc<Mutex<HashMap<NodeId, Timestamp>>>) {
    loop {
        tokio::time::sleep(TOUCH_INTERVAL).await;
        flush_touches(&changes, &touched).await;
    }
}

/// Forgets the calls that no client sends again any more.
async fn forget_calls(changes: Arc<Lane<Asked>>) {
    loop {
        tokio::time::sleep(CALLS_FORGOTTEN_EVERY).await;
        // What is not forgotten now is forgotten the next time, or by another node.
        let _ = changes.submit(Asked::by_itself(Change::ForgetCalls)).await;
    }
}

async fn flush_touches(changes: &Lane<Asked>, touched: &Mutex<HashMap<NodeId, Timestamp>>) {
    let times = std::mem::take(&mut *touched.lock());
    if !times.is_empty() {
        // Losing some is allowed.
        let _ = changes.submit(Asked::by_itself(Change::Touch(times))).await;
    }
}

/// What a change answered: one row for each node concerned.
struct Answers(Vec<Answer>);

impl Answers {
    fn take(&mut self, role: i64) -> Result<Answer> {
        self.find(role)
            .ok_or_else(|| corrupt("an answer that is not complete"))
    }

    fn find(&mut self, role: i64) -> Option<Answer> {
        let at = self.0.iter().position(|answer| answer.role == role)?;
        Some(self.0.swap_remove(at))
    }

    /// A folder and its `change_id` before.
    fn folder(&mut self, role: i64) -> Result<(Attributes, u64)> {
        let folder = self.take(role)?;
        let before = folder.detail as u64;
        Ok((folder.node()?, before))
    }

    fn number(mut self) -> Result<i64> {
        Ok(self.take(0)?.detail)
    }

    fn node(mut self) -> Result<Attributes> {
        self.take(0)?.node()
    }

    fn created(mut self) -> Result<Created> {
        let made = self.take(0)?;
        let (parent, parent_change_before) = self.folder(1)?;
        Ok(Created {
            repeated: made.detail == 1,
            attributes: made.node()?,
            parent,
            parent_change_before,
        })
    }

    fn unlinked(mut self) -> Result<Unlinked> {
        let gone = self.take(0)?;
        let (parent, parent_change_before) = self.folder(1)?;
        Ok(Unlinked {
            orphaned: gone.detail == 1,
            attributes: gone.node()?,
            parent,
            parent_change_before,
        })
    }

    fn renamed(mut self) -> Result<Renamed> {
        let moved = self.take(0)?;
        let old_parent = self.folder(1)?;
        let new_parent = self.folder(2)?;
        let replaced = match self.find(3) {
            None => None,
            Some(gone) => Some(Unlinked {
                orphaned: gone.detail == 1,
                attributes: gone.node()?,
                parent: new_parent.0.clone(),
                parent_change_before: new_parent.1,
            }),
        };
        Ok(Renamed {
            same_node: moved.detail == 1,
            attributes: moved.node()?,
            replaced,
            old_parent,
            new_parent,
        })
    }
}

const USER: &str = "user";
const GROUP: &str = "group";
const SHARE: &str = "share";
const POLICY: &str = "policy";

fn key(name: &str) -> String {
    name.to_lowercase()
}

#[async_trait]
impl Repository for PostgresRepository {
    async fn lookup(&self, parent: NodeId, name: &str, case: CaseMode) -> Result<Found> {
        read::lookup(&self.readers, parent, name, case).await
    }

    async fn resolve(&self, start: NodeId, names: &[&str], case: CaseMode) -> Result<Vec<Found>> {
        read::resolve(&self.readers, start, names, case).await
    }

    async fn get(&self, node: NodeId) -> Result<Attributes> {
        read::node(&self.readers, node).await
    }

    async fn read_dir(&self, dir: NodeId, after: Cookie, limit: usize) -> Result<DirPage> {
        read::page(&self.readers, dir, after, limit).await
    }

    async fn path_of(&self, node: NodeId) -> Result<Vec<(NodeId, Arc<str>)>> {
        read::path(&self.readers, node).await
    }

    async fn read_link(&self, node: NodeId) -> Result<String> {
        read::target(&self.readers, node).await
    }

    async fn create(
        &self,
        parent: NodeId,
        name: &str,
        case: CaseMode,
        new: NewNode,
    ) -> Result<Created> {
        check_name(name)?;
        check_new(&new)?;
        let create = Change::Create {
            at: Name::new(parent, name),
            case,
            acl: self.acl_number(new.acl.clone()).await?,
            new: Box::new(new),
        };
        self.change(create).await?.created()
    }

    async fn link(
        &self,
        node: NodeId,
        parent: NodeId,
        name: &str,
        case: CaseMode,
    ) -> Result<Created> {
        check_name(name)?;
        let at = Name::new(parent, name);
        self.change(Change::Link { node, at, case })
            .await?
            .created()
    }

    async fn unlink(&self, entry: NameRef<'_>, last: LastLink) -> Result<Unlinked> {
        let unlink = Change::Unlink {
            at: Name::new(entry.parent, entry.name),
            node: entry.node,
            last,
        };
        self.change(unlink).await?.unlinked()
    }

    async fn release(&self, node: NodeId) -> Result<()> {
        self.change(Change::Release(node)).await.map(|_| ())
    }

    async fn rename(
        &self,
        from: NameRef<'_>,
        parent: NodeId,
        name: &str,
        case: CaseMode,
        replace: Replace,
    ) -> Result<Renamed> {
        check_name(name)?;
        let rename = Change::Rename {
            from: Name::new(from.parent, from.name),
            node: from.node,
            to: Name::new(parent, name),
            case,
            replace,
        };
        self.change(rename).await?.renamed()
    }

    async fn set_attributes(
        &self,
        node: NodeId,
        change: AttributeChange,
        guard: Option<Timestamp>,
    ) -> Result<Attributes> {
        let set = Change::Set {
            node,
            change,
            guard,
            acl: None,
            eas: None,
        };
        self.change(set).await?.node()
    }

    fn touch(&self, node: NodeId, accessed: Timestamp) {
        let mut touched = self.touched.lock();
        if touched.len() < TOUCHES_MAX {
            touched.insert(node, accessed);
        }
    }

    async fn acl(&self, node: NodeId) -> Result<Option<Arc<Acl>>> {
        read::acl(&self.readers, node).await
    }

    async fn set_acl(
        &self,
        node: NodeId,
        acl: Option<Arc<Acl>>,
        change: AttributeChange,
    ) -> Result<Attributes> {
        let set = Change::Set {
            node,
            change,
            guard: None,
            acl: Some(self.acl_number(acl).await?),
            eas: None,
        };
        self.change(set).await?.node()
    }

    async fn eas(&self, node: NodeId) -> Result<Vec<ExtendedAttribute>> {
        read::eas(&self.readers, node).await
    }

    async fn set_eas(&self, node: NodeId, eas: Vec<ExtendedAttribute>) -> Result<Attributes> {
        check_eas(&eas)?;
        let set = Change::Set {
            node,
            change: AttributeChange::default(),
            guard: None,
            acl: None,
            eas: Some(eas),
        };
        self.change(set).await?.node()
    }

    async fn streams(&self, node: NodeId) -> Result<Vec<StreamInfo>> {
        read::streams(&self.readers, node).await
    }

    async fn create_stream(&self, node: NodeId, name: &str) -> Result<StreamInfo> {
        check_stream_name(name)?;
        let name = name.to_owned();
        let create = Change::CreateStream {
            node,
            name: name.clone(),
        };
        let stream = self.change(create).await?.number()?;
        Ok(StreamInfo {
            name,
            stream: u32::try_from(stream).map_err(|_| RepoError::TooMany)?,
            size: 0,
            allocated: 0,
        })
    }

    async fn rename_stream(&self, content: ContentId, name: &str, replace: bool) -> Result<()> {
        check_stream_name(name)?;
        let rename = Change::RenameStream {
            content,
            name: name.to_owned(),
            replace,
        };
        self.change(rename).await.map(|_| ())
    }

    async fn delete_stream(&self, content: ContentId) -> Result<()> {
        if content.stream == 0 {
            return Err(RepoError::WrongKind);
        }
        self.change(Change::DeleteStream(content)).await.map(|_| ())
    }

    async fn head(&self, content: ContentId) -> Result<Head> {
        read::head(&self.readers, content).await
    }

    async fn commit(&self, commits: Vec<Commit>) -> Vec<Result<Committed>> {
        // Each stands on its own; the lane puts them into one transaction.
        join_all(commits.into_iter().map(|c| self.commit_one(c))).await
    }

    async fn versions(&self, document: NodeId) -> Result<Vec<VersionInfo>> {
        read::versions(&self.readers, document).await
    }

    async fn version(&self, document: NodeId, version: Version) -> Result<Arc<Manifest>> {
        let content = ContentId {
            node: document,
            stream: 0,
        };
        read::manifest(&self.readers, content, version)
            .await
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
        let manifest = read::manifest(&self.readers, content, version).await?;
        let mut unique = [0; 16];
        getrandom::fill(&mut unique)
            .map_err(|_| RepoError::Unavailable("the system has no random numbers".into()))?;
        let unique = u128::from_be_bytes(unique);
        self.commit_one(Commit {
            content,
            base,
            fence,
            op: OpId(unique),
            session: WriteSession(unique),
            manifest: manifest.into(),
            change: AttributeChange::default(),
            origin,
            versions: Some(VersionPolicy {
                count: u32::MAX,
                ..VersionPolicy::default()
            }),
        })
        .await
    }

    fn records_generation(&self) -> u64 {
        self.records.load(Ordering::Acquire)
    }

    async fn users(&self) -> Result<Vec<User>> {
        read::records(&self.readers, USER).await
    }

    async fn put_user(&self, mut user: User) -> Result<User> {
        if user.id.0 == 0 {
            user.id = UserId(self.record_number(USER).await?);
        }
        let unique = json!({"uid": user.uid.to_string(), "sid": user.sid.0});
        self.put_record(USER, user.id.0.into(), key(&user.name), &user, unique)
            .await?;
        Ok(user)
    }

    async fn remove_user(&self, user: UserId) -> Result<()> {
        self.remove_record(USER, Some(user.0.into()), None).await
    }

    async fn groups(&self) -> Result<Vec<Group>> {
        read::records(&self.readers, GROUP).await
    }

    async fn put_group(&self, group: Group) -> Result<()> {
        let name = key(&group.name);
        let id = match read::record_id(&self.readers, GROUP, &name).await? {
            Some(id) => id,
            None => self.record_number(GROUP).await?.into(),
        };
        let unique = json!({"gid": group.gid.to_string(), "sid": group.sid.0});
        self.put_record(GROUP, id, name, &group, unique).await
    }

    async fn remove_group(&self, name: &str) -> Result<()> {
        self.remove_record(GROUP, None, Some(key(name))).await
    }

    async fn shares(&self) -> Result<Vec<Share>> {
        read::records(&self.readers, SHARE).await
    }

    async fn put_share(&self, mut share: Share) -> Result<Share> {
        if share.id.0 == 0 {
            share.id = ShareId(self.record_number(SHARE).await?);
        }
        self.put_record(
            SHARE,
            share.id.0.into(),
            key(&share.name),
            &share,
            json!({}),
        )
        .await?;
        Ok(share)
    }

    async fn remove_share(&self, share: ShareId) -> Result<()> {
        self.remove_record(SHARE, Some(share.0.into()), None).await
    }

    async fn policies(&self) -> Result<Vec<PolicyRule>> {
        read::records(&self.readers, POLICY).await
    }

    async fn put_policy(&self, mut rule: PolicyRule) -> Result<PolicyRule> {
        if rule.id == 0 {
            rule.id = self.record_number(POLICY).await?.into();
        }
        self.put_record(POLICY, rule.id, rule.id.to_string(), &rule, json!({}))
            .await?;
        Ok(rule)
    }

    async fn remove_policy(&self, rule: u64) -> Result<()> {
        self.remove_record(POLICY, Some(rule), None).await
    }

    async fn setting(&self, key: &str) -> Result<Option<Bytes>> {
        read::setting(&self.readers, key).await
    }

    async fn put_setting(&self, key: &str, value: Bytes) -> Result<()> {
        let (key, keep) = (key.to_owned(), false);
        let put = Change::Setting { key, value, keep };
        self.change(put).await.map(|_| ())
    }

    async fn setting_or(&self, key: &str, value: Bytes) -> Result<Bytes> {
        if let Some(there) = read::setting(&self.readers, key).await? {
            return Ok(there);
        }
        let put = Change::Setting {
            key: key.to_owned(),
            value,
            keep: true,
        };
        self.change(put).await?;
        read::setting(&self.readers, key)
            .await?
            .ok_or_else(|| corrupt("a setting that has gone"))
    }

    async fn next_counter(&self, key: &str) -> Result<u64> {
        self.counter(format!("setting.{key}")).await
    }

    async fn carried_out(&self, call: CallId) -> Result<bool> {
        read::call(&self.readers, call).await
    }

    async fn abandoned_orphans(&self) -> Result<Vec<NodeId>> {
        read::abandoned(&self.readers).await
    }

    async fn node_count(&self) -> Result<u64> {
        read::node_count(&self.readers).await
    }

    async fn garbage(&self, age_s: u64, limit: usize) -> Result<Vec<ObjectId>> {
        read::garbage(&self.readers, age_s, limit).await
    }

    async fn forget_garbage(&self, objects: Vec<ObjectId>) -> Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        let forget = Change::ForgetGarbage(objects);
        self.change(forget).await.map(|_| ())
    }

    async fn note_locked(&self, document: NodeId) -> Result<()> {
        self.change(Change::NoteLocked(document)).await.map(|_| ())
    }

    async fn forget_locked(&self, documents: Vec<NodeId>) -> Result<()> {
        let forget = Change::ForgetLocked(documents);
        self.change(forget).await.map(|_| ())
    }

    async fn noted_locked(&self) -> Result<Vec<NodeId>> {
        read::locked(&self.readers, self.me).await
    }

    async fn keep_garbage(&self, objects: Vec<ObjectId>) -> Result<()> {
        if objects.is_empty() || self.alone {
            return Ok(());
        }
        self.change(Change::KeepGarbage(objects)).await.map(|_| ())
    }

    async fn uploaders(&self) -> Result<Option<HashSet<u64>>> {
        match self.alone {
            true => Ok(None),
            false => read::epochs(&self.readers).await.map(Some),
        }
    }

    async fn usage(&self, root: NodeId) -> Result<u64> {
        read::usage(&self.readers, root).await
    }

    async fn references(
        &self,
        after: Option<(ContentId, Version)>,
        limit: usize,
    ) -> Result<Vec<VersionRefs>> {
        read::references(&self.readers, after, limit).await
    }

    async fn check(&self, repair: bool) -> Result<CheckReport> {
        check::check(&self.database, self.me, repair).await
    }

    async fn close(&self) -> Result<()> {
        flush_touches(&self.changes, &self.touched).await;
        self.changes.stop().await;
        self.commits.stop().await;
        self.readers.close();
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        match self.alone {
            true => session::leave(&self.database, self.me).await,
            false => Ok(()),
        }
    }
}
