//! Housekeeping over both stores: collecting garbage, checking that metadata and content fit together.

use std::collections::HashSet;

use crate::content::ContentStore;
use crate::error::{RepoError, Result};
use crate::manifest::ObjectId;
use crate::repository::{CheckReport, Repository};

/// Versions read at once.
const PAGE: usize = 256;
/// Objects deleted between two notes of it.
const BATCH: usize = 256;
/// Pinned objects named in one call.
const KEPT_AT_ONCE: usize = 4096;

/// How long an object that was given up stays for readers that still hold its manifest, in seconds.
pub const GARBAGE_AGE_S: u64 = 15 * 60;

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Objects that the repository had given up, deleted now.
    pub given_up: u64,
    /// Objects that nothing ever referred to (crashed or failed uploads), deleted now.
    pub unreferenced: u64,
    /// Bytes of the unreferenced ones.
    pub unreferenced_bytes: u64,
    /// Objects that are in use.
    pub kept: u64,
}

/// Tells the repository which of its given-up objects this node still reads, so that no other node deletes them. For a timer on
/// each node; [`GARBAGE_AGE_S`] is many times its interval, and a node that could not say it for so long is no member any more.
pub async fn keep_pinned(repo: &dyn Repository, store: &dyn ContentStore) -> Result<()> {
    let pinned: Vec<ObjectId> = store.pinned().into_iter().collect();
    for objects in pinned.chunks(KEPT_AT_ONCE) {
        repo.keep_garbage(objects.to_vec()).await?;
    }
    Ok(())
}

/// Deletes objects that the repository gave up at least `age_s` seconds ago. Cheap; for a timer on a running node. Among the
/// members of a cluster one does it for all.
pub async fn collect_given_up(
    repo: &dyn Repository,
    store: &dyn ContentStore,
    age_s: u64,
) -> Result<u64> {
    let age_s = match repo.uploaders().await? {
        Some(members) if members.iter().min() != Some(&store.uploader()) => return Ok(0),
        Some(_) => age_s.max(GARBAGE_AGE_S),
        None => age_s,
    };
    delete_given_up(repo, store, age_s).await
}

async fn delete_given_up(
    repo: &dyn Repository,
    store: &dyn ContentStore,
    age_s: u64,
) -> Result<u64> {
    let mut deleted = 0;
    loop {
        let pinned = store.pinned();
        // Enough to find some beside those that readers still hold.
        let objects: Vec<ObjectId> = repo
            .garbage(age_s, BATCH + pinned.len())
            .await?
            .into_iter()
            .filter(|object| !pinned.contains(object))
            .collect();
        if objects.is_empty() {
            return Ok(deleted);
        }
        store.delete(&objects).await?;
        deleted += objects.len() as u64;
        repo.forget_garbage(objects).await?;
    }
}

/// Deletes everything that is not needed: what was given up, and what no version refers to. Safe on a running node, and on
/// several at once: whatever is found to be garbage stays it for ever, however late the deletion comes.
pub async fn collect_all(
    repo: &dyn Repository,
    store: &dyn ContentStore,
    age_s: u64,
) -> Result<GcReport> {
    // Readers of other nodes are only heard of in time.
    let age_s = match repo.uploaders().await? {
        Some(_) => age_s.max(GARBAGE_AGE_S),
        None => age_s,
    };
    let mut report = GcReport {
        given_up: delete_given_up(repo, store, age_s).await?,
        ..GcReport::default()
    };
    // The order makes it safe. An object in the list is pinned until its commit is answered, from then on referred to, and then
    // given up. That of another member may be committed as long as it is one, and no longer.
    let stored = store.list().await?;
    let pinned = store.pinned();
    let members = repo.uploaders().await?.unwrap_or_default();
    let mut needed = references(repo).await?;
    needed.extend(repo.garbage(0, usize::MAX / 2).await?);
    let may_come = |object: ObjectId| {
        object.uploader() != store.uploader() && members.contains(&object.uploader())
    };
    let mut leftovers = Vec::new();
    for (object, bytes) in stored {
        if needed.contains(&object) || pinned.contains(&object) || may_come(object) {
            report.kept += 1;
        } else {
            leftovers.push(object);
            report.unreferenced += 1;
            report.unreferenced_bytes += bytes;
        }
    }
    for objects in leftovers.chunks(BATCH) {
        store.delete(objects).await?;
    }
    Ok(report)
}

async fn references(repo: &dyn Repository) -> Result<HashSet<ObjectId>> {
    let mut found = HashSet::new();
    let mut after = None;
    loop {
        let page = repo.references(after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(found);
        };
        after = Some((last.content, last.version));
        found.extend(page.iter().flat_map(|v| v.objects.iter().map(|o| o.id)));
    }
}

/// Checks metadata, and that every object that a version refers to is there with the right bytes (`deep`) or is there at all.
pub async fn check_all(
    repo: &dyn Repository,
    store: &dyn ContentStore,
    repair: bool,
    deep: bool,
) -> Result<CheckReport> {
    let mut report = repo.check(repair).await?;
    let mut seen = HashSet::new();
    let mut after = None;
    let stored: HashSet<ObjectId> = store
        .list()
        .await?
        .into_iter()
        .map(|(object, _)| object)
        .collect();
    loop {
        let page = repo.references(after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(report);
        };
        after = Some((last.content, last.version));
        for version in &page {
            for object in version.objects.iter().filter(|o| seen.insert(o.id)) {
                let problem = match stored.contains(&object.id) {
                    true if deep => store.verify(object).await.err(),
                    true => None,
                    // Stored after the list was made, or missing.
                    false => store.verify(object).await.err(),
                };
                let told = |problem: RepoError| {
                    format!(
                        "node {} version {}: {problem}",
                        version.content.node.0, version.version.0
                    )
                };
                report.problems.extend(problem.map(told));
            }
        }
    }
}
