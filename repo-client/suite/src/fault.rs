//! A repository that fails as told: errors before a call is carried out, replies lost after it was, delays.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use sluice_repo::call::CallId;
use sluice_repo::{
    Acl, AttributeChange, Attributes, CaseMode, CheckReport, Commit, Committed, ContentId, Cookie,
    Created, DirPage, ExtendedAttribute, FencingToken, Found, Group, Head, LastLink, Manifest,
    NameRef, NewNode, NodeId, ObjectId, Origin, PolicyRule, Renamed, Replace, RepoError,
    Repository, Result, Share, ShareId, StreamInfo, Timestamp, Unlinked, User, UserId, Version,
    VersionInfo, VersionRefs,
};

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Not carried out, this error (`NoSpace` is a full disk).
    Error(RepoError),
    /// Carried out, but the caller hears `Unavailable`.
    LostReply,
    /// Carried out after this time.
    Delay(Duration),
}

/// Passes calls on, except those that a fault is meant for.
pub struct FaultyRepository {
    inner: Arc<dyn Repository>,
    /// Faults to come: the method's name, calls of it to let pass, the fault.
    plan: Mutex<Vec<(&'static str, usize, Fault)>>,
    /// Members of a cluster that isn't there.
    members: Mutex<Option<HashSet<u64>>>,
}

impl FaultyRepository {
    /// Wraps a repository; without a plan it changes nothing.
    pub fn new(inner: Arc<dyn Repository>) -> Self {
        FaultyRepository {
            inner,
            plan: Mutex::new(Vec::new()),
            members: Mutex::new(None),
        }
    }

    /// The call of `method` after `pass` more ones meets `fault`, once.
    pub fn inject(&self, method: &'static str, pass: usize, fault: Fault) {
        self.plan.lock().push((method, pass, fault));
    }

    /// From now on the repository says that it is shared by these member epochs.
    pub fn set_members(&self, members: &[u64]) {
        *self.members.lock() = Some(members.iter().copied().collect());
    }

    /// Faults that have not happened yet.
    pub fn pending(&self) -> usize {
        self.plan.lock().len()
    }

    fn next(&self, method: &str) -> Option<Fault> {
        let mut plan = self.plan.lock();
        let at = plan.iter().position(|(name, ..)| *name == method)?;
        let (_, pass, _) = plan.get_mut(at)?;
        if *pass > 0 {
            *pass -= 1;
            return None;
        }
        Some(plan.remove(at).2)
    }

    async fn call<T>(
        &self,
        method: &str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        match self.next(method) {
            None => call.await,
            Some(Fault::Error(error)) => Err(error),
            Some(Fault::LostReply) => call.await.and_then(|_| Err(lost())),
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                call.await
            }
        }
    }
}

fn lost() -> RepoError {
    RepoError::Unavailable("injected: the reply was lost".into())
}

/// Methods that are passed on through `call`.
macro_rules! forward {
    ($($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        #[async_trait]
        impl Repository for FaultyRepository {
            $(async fn $name(&self, $($arg: $type),*) -> Result<$result> {
                self.call(stringify!($name), self.inner.$name($($arg),*)).await
            })*

            async fn commit(&self, commits: Vec<Commit>) -> Vec<Result<Committed>> {
                let count = commits.len();
                let all = async { Ok(self.inner.commit(commits).await) };
                self.call("commit", all).await.unwrap_or_else(|error| vec![Err(error); count])
            }

            async fn uploaders(&self) -> Result<Option<HashSet<u64>>> {
                let members = self.members.lock().clone();
                match members {
                    Some(members) => Ok(Some(members)),
                    None => self.inner.uploaders().await,
                }
            }

            fn touch(&self, node: NodeId, accessed: Timestamp) {
                self.inner.touch(node, accessed);
            }

            fn seen(&self) -> u64 {
                self.inner.seen()
            }

            fn sound(&self) -> Result<()> {
                match self.next("sound") {
                    Some(Fault::Error(error)) => Err(error),
                    _ => self.inner.sound(),
                }
            }

            fn records_generation(&self) -> u64 {
                self.inner.records_generation()
            }
        }
    };
}

forward! {
    lookup(parent: NodeId, name: &str, case: CaseMode) -> Found;
    resolve(start: NodeId, names: &[&str], case: CaseMode) -> Vec<Found>;
    get(node: NodeId) -> Attributes;
    read_dir(dir: NodeId, after: Cookie, limit: usize) -> DirPage;
    path_of(node: NodeId) -> Vec<(NodeId, Arc<str>)>;
    read_link(node: NodeId) -> String;
    create(parent: NodeId, name: &str, case: CaseMode, new: NewNode) -> Created;
    settle() -> ();
    settle_seen(seen: u64) -> ();
    link(node: NodeId, parent: NodeId, name: &str, case: CaseMode) -> Created;
    unlink(entry: NameRef<'_>, last: LastLink) -> Unlinked;
    release(node: NodeId) -> ();
    rename(from: NameRef<'_>, parent: NodeId, name: &str, case: CaseMode, replace: Replace) -> Renamed;
    set_attributes(node: NodeId, change: AttributeChange, guard: Option<Timestamp>) -> Attributes;
    acl(node: NodeId) -> Option<Arc<Acl>>;
    set_acl(node: NodeId, acl: Option<Arc<Acl>>, change: AttributeChange) -> Attributes;
    eas(node: NodeId) -> Vec<ExtendedAttribute>;
    set_eas(node: NodeId, eas: Vec<ExtendedAttribute>) -> Attributes;
    streams(node: NodeId) -> Vec<StreamInfo>;
    create_stream(node: NodeId, name: &str) -> StreamInfo;
    rename_stream(content: ContentId, name: &str, replace: bool) -> ();
    delete_stream(content: ContentId) -> ();
    head(content: ContentId) -> Head;
    versions(document: NodeId) -> Vec<VersionInfo>;
    version(document: NodeId, version: Version) -> Arc<Manifest>;
    restore(document: NodeId, version: Version, base: Version, fence: FencingToken, origin: Origin) -> Committed;
    users() -> Vec<User>;
    put_user(user: User) -> User;
    remove_user(user: UserId) -> ();
    groups() -> Vec<Group>;
    put_group(group: Group) -> ();
    remove_group(name: &str) -> ();
    shares() -> Vec<Share>;
    put_share(share: Share) -> Share;
    remove_share(share: ShareId) -> ();
    policies() -> Vec<PolicyRule>;
    put_policy(rule: PolicyRule) -> PolicyRule;
    remove_policy(rule: u64) -> ();
    setting(key: &str) -> Option<Bytes>;
    put_setting(key: &str, value: Bytes) -> ();
    setting_or(key: &str, value: Bytes) -> Bytes;
    next_counter(key: &str) -> u64;
    carried_out(call: CallId) -> bool;
    note_locked(document: NodeId) -> ();
    forget_locked(documents: Vec<NodeId>) -> ();
    noted_locked() -> Vec<NodeId>;
    abandoned_orphans() -> Vec<NodeId>;
    node_count() -> u64;
    garbage(age_s: u64, limit: usize) -> Vec<ObjectId>;
    forget_garbage(objects: Vec<ObjectId>) -> ();
    keep_garbage(objects: Vec<ObjectId>) -> ();
    usage(root: NodeId) -> u64;
    references(after: Option<(ContentId, Version)>, limit: usize) -> Vec<VersionRefs>;
    check(repair: bool) -> CheckReport;
    close() -> ();
}
