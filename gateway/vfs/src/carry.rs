//! Work that must not stop half way although its caller may go away: begun in the caller's own turn, finished in a task of its own.

use std::future::poll_fn;
use std::task::Poll;

use tokio::runtime::Handle;

use crate::error::VfsError;

/// Runs `work` to its end even if the future is dropped. What needs no waiting is done at once, without a task; a task carries the
/// rest, so that the work goes on while its caller waits for something else.
pub(crate) async fn carry_through<T, F>(runtime: &Handle, work: F) -> Result<T, VfsError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, VfsError>> + Send + 'static,
{
    let mut work = Box::pin(work);
    match poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
        Poll::Ready(done) => done,
        Poll::Pending => runtime.spawn(work).await.unwrap_or(Err(VfsError::Io)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_has_begun_ends_although_its_caller_has_gone() {
        let (go, wait) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel::<()>();
        let began = Arc::new(AtomicBool::new(false));
        let seen = began.clone();
        let runtime = Handle::current();
        let caller = tokio::spawn(async move {
            carry_through(&runtime, async move {
                seen.store(true, Ordering::Release);
                let _ = wait.await;
                let _ = tell.send(());
                Ok(())
            })
            .await
        });
        while !began.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
        caller.abort();
        assert!(caller.await.is_err());
        go.send(()).expect("the work waits");
        told.await.expect("the work came to its end");
    }

    #[tokio::test]
    async fn an_answer_is_passed_on() {
        let done = carry_through(&Handle::current(), async { Ok(5) }).await;
        assert_eq!(done, Ok(5));
        let done = carry_through(&Handle::current(), async {
            tokio::task::yield_now().await;
            Err::<(), _>(VfsError::NotFound)
        })
        .await;
        assert_eq!(done, Err(VfsError::NotFound));
    }
}
