//! The repository as the file layer of a cluster's node sees it: reads come from the cache where they can, changes tell the others
//! first, everything else is passed on.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use sluice_repo::call::CallId;
use sluice_repo::{
    Acl, AttributeChange, Attributes, CaseMode, CheckReport, Commit, Committed, ContentId, Cookie,
    Created, DirPage, ExtendedAttribute, FencingToken, Found, Group, Head, LastLink, Manifest,
    NameRef, NewNode, NodeId, NodeKind, ObjectId, Origin, PolicyRule, ROOT, Renamed, Replace,
    RepoError, Repository, Result, Share, ShareId, StreamInfo, Timestamp, Unlinked, User, UserId,
    Version, VersionInfo, VersionRefs,
};

use super::Coherent;
use super::change::Units;
use super::stripes::Ticket;
use super::unit::Unit;

/// Deepest folder whose path comes from the cache.
const DEPTH_MAX: usize = 1000;
/// Times that a name that leads to another node by now is looked up again.
const LOOKS_MAX: usize = 8;

/// See the module's head. A handle.
pub(crate) struct CoherentRepository(pub(crate) Arc<Coherent>);

impl Coherent {
    /// Whether cached values may be read out now.
    fn reads(&self) -> bool {
        self.stripes.is_open() && self.others.may_read_copies()
    }

    fn hit(&self) {
        self.counts.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Before a read of the repository.
    pub(super) fn miss(&self) -> Ticket {
        self.counts.misses.fetch_add(1, Ordering::Relaxed);
        self.stripes.ticket()
    }

    pub(super) fn cached_node(&self, node: NodeId) -> Option<Arc<Attributes>> {
        let (attributes, ticket) = self.kept.node(node)?;
        let counts = self.stripes.counts(Unit::node(node), ticket);
        counts.then_some(attributes)
    }

    /// `Some(None)`: it is known that there is no such name, in a folder that is there.
    fn cached_name(&self, folder: NodeId, name: &str, case: CaseMode) -> Option<Option<Found>> {
        let answer = self.kept.name(folder, name, case)?;
        let counts = self.stripes.counts(answer.unit, answer.ticket)
            && self.stripes.counts(Unit::names(folder), answer.ticket);
        if !counts {
            return None;
        }
        let Some((name, node)) = &answer.found else {
            return Some(None);
        };
        let attributes = self.cached_node(*node)?;
        Some(Some(Found {
            name: Arc::clone(name),
            attributes: (*attributes).clone(),
        }))
    }

    pub(super) fn keep_found(
        &self,
        folder: NodeId,
        name: &str,
        case: CaseMode,
        found: Option<&Found>,
        ticket: Ticket,
    ) {
        if let Some(found) = found {
            self.kept.keep_node(&found.attributes, ticket);
        }
        let found = found.map(|found| (Arc::clone(&found.name), found.attributes.id));
        self.kept.keep_name(folder, name, case, found, ticket);
    }

    /// What a walk found, and where it ended.
    fn keep_walk(
        &self,
        start: NodeId,
        names: &[&str],
        case: CaseMode,
        walk: &[Found],
        ticket: Ticket,
    ) {
        let mut folder = Some(start);
        for (name, found) in names.iter().zip(walk) {
            let Some(at) = folder else { return };
            self.keep_found(at, name, case, Some(found), ticket);
            let is_folder = found.attributes.kind == NodeKind::Directory;
            folder = is_folder.then_some(found.attributes.id);
        }
        if let (Some(at), Some(missing)) = (folder, names.get(walk.len())) {
            self.keep_found(at, missing, case, None, ticket);
        }
    }

    /// A path, if every step of it is cached.
    fn cached_path(&self, node: NodeId) -> Option<Vec<(NodeId, Arc<str>)>> {
        let mut path = Vec::new();
        let mut at = node;
        while at != ROOT {
            let (folder, name, ticket) = self.kept.place(at)?;
            if !self.stripes.counts(Unit::node(at), ticket) || path.len() > DEPTH_MAX {
                return None;
            }
            path.push((folder, name));
            at = folder;
        }
        path.reverse();
        Some(path)
    }

    /// Changes something of a node alone, and knows its attributes after that.
    async fn change_node(
        self: &Arc<Self>,
        node: NodeId,
        run: impl Future<Output = Result<Attributes>> + Send + 'static,
    ) -> Result<Attributes> {
        let units = Units::default().node(node);
        self.change(units, run, move |core, attributes, _, known| {
            if let Some(ticket) = known.node(node) {
                core.kept.keep_node(attributes, ticket);
            }
        })
        .await
    }

    /// The node that a name leads to, for a change that does not say which it means.
    async fn node_named(&self, entry: NameRef<'_>) -> Result<NodeId> {
        let found = self
            .repo
            .lookup(entry.parent, entry.name, CaseMode::Sensitive)
            .await?;
        Ok(found.attributes.id)
    }

    async fn unlink(
        self: &Arc<Self>,
        parent: NodeId,
        name: &str,
        node: NodeId,
        last: LastLink,
    ) -> Result<Unlinked> {
        let units = Units::default().name(parent, name).gone(node);
        let (repo, name) = (Arc::clone(&self.repo), Arc::<str>::from(name));
        let told = Arc::clone(&name);
        let run = async move {
            let entry = NameRef {
                parent,
                name: &name,
                node: Some(node),
            };
            repo.unlink(entry, last).await
        };
        self.change(units, run, move |core, gone, _, known| {
            if let Some(ticket) = known.node(parent) {
                core.kept.keep_node(&gone.parent, ticket);
            }
            if let Some(ticket) = known.name(parent, &told) {
                let exact = CaseMode::Sensitive;
                core.kept.keep_name(parent, &told, exact, None, ticket);
            }
            core.kept.forget_node(node);
        })
        .await
    }

    async fn rename(
        self: &Arc<Self>,
        from: (NodeId, Arc<str>, NodeId),
        to: (NodeId, Arc<str>),
        case: CaseMode,
        replace: Replace,
    ) -> Result<Renamed> {
        let (old, old_name, node) = from;
        let (new, new_name) = to;
        let mut units = Units::default()
            .name(old, &old_name)
            .name(new, &new_name)
            .node(node);
        if let Replace::Node(replaced, _) = replace {
            units = units.gone(replaced);
        }
        let repo = Arc::clone(&self.repo);
        let names = (Arc::clone(&old_name), Arc::clone(&new_name));
        let run = async move {
            let entry = NameRef {
                parent: old,
                name: &old_name,
                node: Some(node),
            };
            repo.rename(entry, new, &new_name, case, replace).await
        };
        self.change(units, run, move |core, moved, _, known| {
            let folders = [&moved.old_parent.0, &moved.new_parent.0];
            for attributes in folders.into_iter().chain([&moved.attributes]) {
                if let Some(ticket) = known.node(attributes.id) {
                    core.kept.keep_node(attributes, ticket);
                }
            }
            if moved.same_node {
                return;
            }
            let exact = CaseMode::Sensitive;
            let (old_name, new_name) = names;
            let same = old == new && old_name == new_name;
            if let Some(ticket) = known.name(old, &old_name).filter(|_| !same) {
                core.kept.keep_name(old, &old_name, exact, None, ticket);
            }
            if let Some(ticket) = known.name(new, &new_name) {
                let found = Some((Arc::clone(&new_name), node));
                core.kept.keep_name(new, &new_name, exact, found, ticket);
            }
        })
        .await
    }

    async fn commit_all(self: &Arc<Self>, commits: Vec<Commit>) -> Vec<Result<Committed>> {
        let mut under = Vec::with_capacity(commits.len());
        let mut contents = Vec::with_capacity(commits.len());
        for commit in &commits {
            let units = Units::default().node(commit.content.node);
            match self.begin(&units).await {
                Ok(begun) => under.push(begun),
                Err(error) => return commits.iter().map(|_| Err(error.clone())).collect(),
            }
            contents.push((commit.content, Arc::clone(&commit.manifest)));
        }
        let results = self.repo.commit(commits).await;
        for ((under, (content, manifest)), result) in under.into_iter().zip(contents).zip(&results)
        {
            let known = under.over_by(result.as_ref().err());
            if let (Some(known), Ok(committed)) = (known, result)
                && let Some(ticket) = known.node(content.node)
            {
                self.kept.keep_node(&committed.attributes, ticket);
                let version = committed.version;
                let head = Head { version, manifest };
                self.kept.keep_head(content, &head, ticket);
            }
        }
        results
    }
}

/// Methods that are passed on as they are.
macro_rules! pass_on {
    ($($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        #[async_trait]
        impl Repository for CoherentRepository {
            $(async fn $name(&self, $($arg: $type),*) -> Result<$result> {
                self.0.repo.$name($($arg),*).await
            })*

            async fn lookup(&self, parent: NodeId, name: &str, case: CaseMode) -> Result<Found> {
                let core = &self.0;
                if core.reads()
                    && let Some(found) = core.cached_name(parent, name, case)
                {
                    core.hit();
                    return found.ok_or(RepoError::NotFound);
                }
                let ticket = core.miss();
                let found = core.repo.lookup(parent, name, case).await;
                match &found {
                    Ok(found) => core.keep_found(parent, name, case, Some(found), ticket),
                    Err(RepoError::NotFound) => core.keep_found(parent, name, case, None, ticket),
                    Err(_) => {}
                }
                found
            }

            async fn resolve(&self, start: NodeId, names: &[&str], case: CaseMode) -> Result<Vec<Found>> {
                let core = &self.0;
                if core.reads()
                    && let Some(found) = cached_walk(core, start, names, case)
                {
                    core.hit();
                    return Ok(found);
                }
                let ticket = core.miss();
                let found = core.repo.resolve(start, names, case).await?;
                core.keep_walk(start, names, case, &found, ticket);
                Ok(found)
            }

            async fn get(&self, node: NodeId) -> Result<Attributes> {
                let core = &self.0;
                if core.reads()
                    && let Some(attributes) = core.cached_node(node)
                {
                    core.hit();
                    return Ok((*attributes).clone());
                }
                let ticket = core.miss();
                let attributes = core.repo.get(node).await?;
                core.kept.keep_node(&attributes, ticket);
                Ok(attributes)
            }

            async fn read_dir(&self, dir: NodeId, after: Cookie, limit: usize) -> Result<DirPage> {
                let core = &self.0;
                let ticket = core.miss();
                let page = core.repo.read_dir(dir, after, limit).await?;
                for entry in &page.entries {
                    core.kept.keep_node(&entry.attributes, ticket);
                }
                Ok(page)
            }

            async fn path_of(&self, node: NodeId) -> Result<Vec<(NodeId, Arc<str>)>> {
                let core = &self.0;
                if core.reads()
                    && let Some(path) = core.cached_path(node)
                {
                    core.hit();
                    return Ok(path);
                }
                let ticket = core.miss();
                let path = core.repo.path_of(node).await?;
                let below = path.iter().skip(1).map(|(folder, _)| *folder);
                for ((folder, name), at) in path.iter().zip(below.chain([node])) {
                    core.kept.keep_place(at, *folder, Arc::clone(name), ticket);
                }
                Ok(path)
            }

            async fn acl(&self, node: NodeId) -> Result<Option<Arc<Acl>>> {
                let core = &self.0;
                if core.reads()
                    && let Some((acl, ticket)) = core.kept.acl(node)
                    && core.stripes.counts(Unit::node(node), ticket)
                {
                    core.hit();
                    return Ok(acl);
                }
                let ticket = core.miss();
                let acl = core.repo.acl(node).await?;
                core.kept.keep_acl(node, acl.clone(), ticket);
                Ok(acl)
            }

            async fn head(&self, content: ContentId) -> Result<Head> {
                let core = &self.0;
                if core.reads()
                    && let Some((head, ticket)) = core.kept.head(content)
                    && core.stripes.counts(Unit::node(content.node), ticket)
                {
                    core.hit();
                    return Ok(head);
                }
                let ticket = core.miss();
                let head = core.repo.head(content).await?;
                core.kept.keep_head(content, &head, ticket);
                Ok(head)
            }

            async fn create(&self, parent: NodeId, name: &str, case: CaseMode, new: NewNode) -> Result<Created> {
                let units = Units::default().name(parent, name);
                let (repo, name) = (Arc::clone(&self.0.repo), Arc::<str>::from(name));
                let told = Arc::clone(&name);
                let run = async move { repo.create(parent, &name, case, new).await };
                self.0.change(units, run, move |core, made, before, known| {
                    core.note_created(parent, told, case, made, before, known);
                }).await
            }

            async fn link(&self, node: NodeId, parent: NodeId, name: &str, case: CaseMode) -> Result<Created> {
                let units = Units::default().name(parent, name).node(node);
                let (repo, name) = (Arc::clone(&self.0.repo), Arc::<str>::from(name));
                let told = Arc::clone(&name);
                let run = async move { repo.link(node, parent, &name, case).await };
                self.0.change(units, run, move |core, made, before, known| {
                    core.note_created(parent, told, case, made, known.node(node).unwrap_or(before), known);
                }).await
            }

            async fn unlink(&self, entry: NameRef<'_>, last: LastLink) -> Result<Unlinked> {
                let (parent, name) = (entry.parent, entry.name);
                if let Some(node) = entry.node {
                    return self.0.unlink(parent, name, node, last).await;
                }
                let mut looks = 0;
                loop {
                    let node = self.0.node_named(entry).await?;
                    looks += 1;
                    match self.0.unlink(parent, name, node, last).await {
                        Err(RepoError::Stale(_)) if looks < LOOKS_MAX => {}
                        result => return result,
                    }
                }
            }

            async fn release(&self, node: NodeId) -> Result<()> {
                let repo = Arc::clone(&self.0.repo);
                let units = Units::default().gone(node);
                let run = async move { repo.release(node).await };
                self.0.change(units, run, move |core, (), _, _| core.kept.forget_node(node)).await
            }

            async fn rename(&self, from: NameRef<'_>, parent: NodeId, name: &str, case: CaseMode, replace: Replace) -> Result<Renamed> {
                let to = (parent, Arc::<str>::from(name));
                let old = Arc::<str>::from(from.name);
                if let Some(node) = from.node {
                    return self.0.rename((from.parent, old, node), to, case, replace).await;
                }
                let mut looks = 0;
                loop {
                    let node = self.0.node_named(from).await?;
                    looks += 1;
                    let from = (from.parent, Arc::clone(&old), node);
                    match self.0.rename(from, to.clone(), case, replace).await {
                        Err(RepoError::Stale(gone)) if gone == node && looks < LOOKS_MAX => {}
                        result => return result,
                    }
                }
            }

            async fn set_attributes(&self, node: NodeId, change: AttributeChange, guard: Option<Timestamp>) -> Result<Attributes> {
                let repo = Arc::clone(&self.0.repo);
                let run = async move { repo.set_attributes(node, change, guard).await };
                self.0.change_node(node, run).await
            }

            fn touch(&self, node: NodeId, accessed: Timestamp) {
                self.0.repo.touch(node, accessed);
            }

            async fn set_acl(&self, node: NodeId, acl: Option<Arc<Acl>>, change: AttributeChange) -> Result<Attributes> {
                let repo = Arc::clone(&self.0.repo);
                let run = async move { repo.set_acl(node, acl, change).await };
                self.0.change_node(node, run).await
            }

            async fn set_eas(&self, node: NodeId, eas: Vec<ExtendedAttribute>) -> Result<Attributes> {
                let repo = Arc::clone(&self.0.repo);
                let run = async move { repo.set_eas(node, eas).await };
                self.0.change_node(node, run).await
            }

            async fn create_stream(&self, node: NodeId, name: &str) -> Result<StreamInfo> {
                let (repo, name) = (Arc::clone(&self.0.repo), name.to_owned());
                let units = Units::default().node(node);
                let run = async move { repo.create_stream(node, &name).await };
                self.0.change(units, run, |_, _, _, _| ()).await
            }

            async fn rename_stream(&self, content: ContentId, name: &str, replace: bool) -> Result<()> {
                let (repo, name) = (Arc::clone(&self.0.repo), name.to_owned());
                let units = Units::default().node(content.node);
                let run = async move { repo.rename_stream(content, &name, replace).await };
                self.0.change(units, run, |_, (), _, _| ()).await
            }

            async fn delete_stream(&self, content: ContentId) -> Result<()> {
                let repo = Arc::clone(&self.0.repo);
                let units = Units::default().node(content.node);
                let run = async move { repo.delete_stream(content).await };
                self.0.change(units, run, |_, (), _, _| ()).await
            }

            async fn commit(&self, commits: Vec<Commit>) -> Vec<Result<Committed>> {
                let count = commits.len();
                let core = Arc::clone(&self.0);
                let all = self.0.runtime.spawn(async move { core.commit_all(commits).await });
                all.await.unwrap_or_else(|_| vec![Err(RepoError::Unavailable("a commit ended early".into())); count])
            }

            async fn restore(&self, document: NodeId, version: Version, base: Version, fence: FencingToken, origin: Origin) -> Result<Committed> {
                let repo = Arc::clone(&self.0.repo);
                let units = Units::default().node(document);
                let run = async move { repo.restore(document, version, base, fence, origin).await };
                self.0.change(units, run, |_, _, _, _| ()).await
            }

            async fn check(&self, repair: bool) -> Result<CheckReport> {
                let core = Arc::clone(&self.0);
                if !repair {
                    return core.repo.check(false).await;
                }
                let checked = self.0.runtime.spawn(async move { core.repair().await });
                checked.await.unwrap_or_else(|_| Err(RepoError::Unavailable("a check ended early".into())))
            }

            fn seen(&self) -> u64 {
                self.0.repo.seen()
            }

            fn sound(&self) -> Result<()> {
                self.0.repo.sound()
            }

            fn records_generation(&self) -> u64 {
                self.0.repo.records_generation()
            }
        }
    };
}

pass_on! {
    read_link(node: NodeId) -> String;
    settle() -> ();
    settle_seen(seen: u64) -> ();
    eas(node: NodeId) -> Vec<ExtendedAttribute>;
    streams(node: NodeId) -> Vec<StreamInfo>;
    versions(document: NodeId) -> Vec<VersionInfo>;
    version(document: NodeId, version: Version) -> Arc<Manifest>;
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
    uploaders() -> Option<HashSet<u64>>;
    usage(root: NodeId) -> u64;
    references(after: Option<(ContentId, Version)>, limit: usize) -> Vec<VersionRefs>;
    close() -> ();
}

/// A walk whose every step is cached, as far as it goes.
fn cached_walk(
    core: &Coherent,
    start: NodeId,
    names: &[&str],
    case: CaseMode,
) -> Option<Vec<Found>> {
    let mut walk: Vec<Found> = Vec::with_capacity(names.len());
    let mut folder = start;
    for name in names {
        match core.cached_name(folder, name, case)? {
            Some(found) => {
                folder = found.attributes.id;
                let is_folder = found.attributes.kind == NodeKind::Directory;
                walk.push(found);
                if !is_folder {
                    break;
                }
            }
            None => break,
        }
    }
    Some(walk)
}

impl Coherent {
    fn note_created(
        &self,
        parent: NodeId,
        name: Arc<str>,
        case: CaseMode,
        made: &Created,
        ticket: Ticket,
        known: &super::change::Known,
    ) {
        let node = made.attributes.id;
        self.kept.keep_node(&made.attributes, ticket);
        if let Some(ticket) = known.node(parent) {
            self.kept.keep_node(&made.parent, ticket);
        }
        if made.repeated {
            return;
        }
        if let Some(ticket) = known.name(parent, &name) {
            let found = Some((Arc::clone(&name), node));
            self.kept.keep_name(parent, &name, case, found, ticket);
        }
        // Whoever makes a document goes on to write it.
        if made.attributes.kind == NodeKind::File {
            self.holds.expect(Unit::node(node));
        }
    }

    /// Repairs contradictions: any node's record may change.
    async fn repair(self: Arc<Self>) -> Result<CheckReport> {
        self.known().await?;
        self.holds.hold_all().await;
        self.heard.lock().close(&self.stripes);
        let report = self.repo.check(true).await;
        if !matches!(report, Err(RepoError::Unavailable(_))) {
            self.heard.lock().open(&self.stripes);
            self.holds.release_all();
        }
        report
    }
}
