//! A whole content takes the place of another: an upload's, or that of a kept version.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluice_repo::{
    AttributeChange, Attributes, Commit, Committed, FencingToken, Head, OpId, Origin, RepoError,
    Sealed, Timestamp, Version,
};

use super::{Working, Writer};
use crate::carry::carry_through;
use crate::error::VfsError;
use crate::metrics::Metrics;
use crate::vfs::{Inner, random_u128};

/// Times that a replacement is made again because another node committed in between.
const TRIES_MAX: usize = 16;

impl Inner {
    /// Replaces the whole content by one that was sealed elsewhere (an upload), in one commit. Uncommitted writes are
    /// committed before, so that they are a version of their own and never part of the new one.
    pub(crate) async fn swap_content(
        self: &Arc<Self>,
        working: &Arc<Working>,
        sealed: Sealed,
        writer: Writer,
        modified: Option<Timestamp>,
        expected: Option<Version>,
    ) -> Result<Attributes, VfsError> {
        let (inner, working) = (self.clone(), working.clone());
        let work = async move {
            let _turn = working.turn.lock().await;
            for _ in 0..TRIES_MAX {
                let base = inner.replaceable(&working).await?;
                if expected.is_some_and(|expected| expected != base) {
                    return Err(VfsError::NotSame);
                }
                let commit = Commit {
                    content: working.id,
                    base,
                    fence: FencingToken::default(),
                    op: OpId(random_u128()),
                    session: writer.session,
                    manifest: sealed.manifest.clone(),
                    change: AttributeChange {
                        modified,
                        ..AttributeChange::default()
                    },
                    origin: writer.origin.clone(),
                    versions: writer.versions,
                };
                match inner.commit_fenced(&working, commit, &sealed).await {
                    Err(RepoError::Conflict(_)) => inner.take_head(&working).await?,
                    Err(error) => return Err(inner.doubt(&working, error)),
                    Ok(committed) => {
                        inner.replaced(&working, sealed.manifest, &committed);
                        return Ok(committed.attributes);
                    }
                }
            }
            Err(too_often())
        };
        carry_through(&self.runtime, work).await
    }

    /// Makes a kept version the present content again. Uncommitted writes are committed before, so that they are a version of their own.
    pub(crate) async fn restore_content(
        self: &Arc<Self>,
        working: &Arc<Working>,
        version: Version,
        origin: Origin,
    ) -> Result<Committed, VfsError> {
        let (inner, working) = (self.clone(), working.clone());
        let task = self.runtime.spawn(async move {
            let _turn = working.turn.lock().await;
            let node = working.id.node;
            let manifest = inner.repo.version(node, version).await?;
            for _ in 0..TRIES_MAX {
                let base = inner.replaceable(&working).await?;
                let restore = |fence| {
                    let origin = origin.clone();
                    inner.repo.restore(node, version, base, fence, origin)
                };
                match inner.fenced(&working, restore).await {
                    Err(RepoError::Conflict(_)) => inner.take_head(&working).await?,
                    Err(error) => return Err(inner.doubt(&working, error)),
                    Ok(restored) => {
                        inner.replaced(&working, manifest, &restored);
                        return Ok(restored);
                    }
                }
            }
            Err(too_often())
        });
        task.await.unwrap_or(Err(VfsError::Io))
    }

    /// With the turn held: nothing is uncommitted, and this is the version that a replacement goes on top of.
    async fn replaceable(self: &Arc<Self>, working: &Arc<Working>) -> Result<Version, VfsError> {
        self.settle_doubt(working).await?;
        self.commit_working(working).await?;
        if working.term().is_none() || self.resident(working.id.node) != working.term() {
            self.take_head(working).await?;
        }
        Ok(working.base().0)
    }

    /// With the turn held: the replacement is committed. A write that came meanwhile stays, on top of it.
    fn replaced(
        &self,
        working: &Working,
        manifest: Arc<sluice_repo::Manifest>,
        committed: &Committed,
    ) {
        Metrics::count(&self.metrics.commits);
        working.adopt(Head {
            version: committed.version,
            manifest,
        });
        let mut state = working.state.lock();
        state.committed = Some((committed.attributes.modified, committed.attributes.changed));
        if !working
            .content
            .get()
            .is_some_and(|content| content.is_dirty())
        {
            state.modified = None;
        }
    }

    /// A replacement failed; without an answer it may have been carried out.
    fn doubt(&self, working: &Working, error: RepoError) -> VfsError {
        if matches!(error, RepoError::Unavailable(_)) {
            working.doubtful.store(true, Ordering::Release);
        }
        error.into()
    }
}

fn too_often() -> VfsError {
    VfsError::Unavailable("other nodes change the document too often; try again".to_owned())
}
