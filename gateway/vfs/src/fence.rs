//! The one place where the lock service's word becomes the fencing token of a commit.
//!
//! Every call that replaces content goes through [`Inner::fenced`]: the token says under which epoch this node holds its right, and
//! the repository refuses it once another node has taken the right over. A refusal is not yet the end: the epoch also changes when a
//! coordinator is replaced while the right goes on. So it is asked for again for a while, and only a right that does not come
//! back is told. One that was taken away by force while a node held something uncommitted does not come back for that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_lockmgr::Denial;
use sluice_repo::{Commit, Committed, FencingToken, RepoError, Sealed, Unsettled};

use crate::vfs::Inner;
use crate::working::Working;

/// How long a refused node waits for a newer epoch: a coordinator's failover and some more.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks at the epoch, doubled at each.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(320);
/// Times that one commit is asked for while it is not known whether it was carried out.
const COMMIT_TRIES: u32 = 4;

impl Inner {
    /// Replaces content under the token that holds now; again if the token was superseded by a newer one.
    pub(crate) async fn fenced<T, F>(
        &self,
        working: &Working,
        mut act: impl FnMut(FencingToken) -> F,
    ) -> Result<T, RepoError>
    where
        F: Future<Output = Result<T, RepoError>>,
    {
        let mut refused: Option<(FencingToken, Instant)> = None;
        let mut pause = FIRST_PAUSE;
        loop {
            self.thawed().await?;
            let token = match self.locks.fence(working.id.node.0).await {
                Ok(fence) => FencingToken(fence),
                Err(Denial::Stopping) => {
                    return Err(RepoError::Unavailable("the node is stopping".to_owned()));
                }
                Err(_) => return Err(RepoError::Fenced),
            };
            // Looked at with the token in hand: one of after the loss comes after the loss is noted.
            working.right()?;
            match refused {
                Some((old, since)) if old == token => {
                    if since.elapsed() > PATIENCE || self.stopping.is_cancelled() {
                        return Err(RepoError::Fenced);
                    }
                    tokio::time::sleep(pause).await;
                    pause = LAST_PAUSE.min(pause * 2);
                    continue;
                }
                _ => {}
            }
            match act(token).await {
                Err(RepoError::Fenced) => {
                    let since = refused.map_or_else(Instant::now, |(_, since)| since);
                    if since.elapsed() > PATIENCE {
                        return Err(RepoError::Fenced);
                    }
                    refused = Some((token, since));
                }
                other => return other,
            }
        }
    }

    /// A commit under the token that holds now.
    pub(crate) async fn commit_fenced(
        &self,
        working: &Working,
        commit: Commit,
        sealed: &Sealed,
    ) -> Result<Committed, RepoError> {
        let (commit, unsettled) = (&commit, sealed.unsettled.as_ref());
        self.fenced(working, |fence| {
            let commit = Commit {
                fence,
                ..commit.clone()
            };
            self.commit_one(commit, unsettled)
        })
        .await
    }

    /// One commit, asked again under its operation id while it is not known whether it was carried out.
    async fn commit_one(
        &self,
        commit: Commit,
        unsettled: Option<&Arc<dyn Unsettled>>,
    ) -> Result<Committed, RepoError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let commit = commit.clone();
            let answer = match unsettled {
                Some(unsettled) => Some(self.repo.commit_with(commit, unsettled.clone()).await),
                None => self.repo.commit(vec![commit]).await.pop(),
            };
            let in_vain = || unsettled.is_some_and(|unsettled| unsettled.has_failed());
            match answer {
                Some(Err(RepoError::Unavailable(_))) if tries < COMMIT_TRIES && !in_vain() => {
                    tokio::time::sleep(Duration::from_millis(20 << tries)).await;
                }
                Some(result) => return result,
                None => return Err(RepoError::Unavailable("no answer to a commit".to_owned())),
            }
        }
    }
}
