//! Who may be held up: a store that can carry a change out on its caller's thread, at once, needs no other thread to be woken and no
//! word back. Owns only the mark that says so; never blocks itself.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;

thread_local! {
    static MAY_BLOCK: Cell<bool> = const { Cell::new(false) };
}

/// Takes the mark off when the poll is over, in whatever way.
struct Marked(bool);

impl Marked {
    fn enter() -> Marked {
        Marked(MAY_BLOCK.replace(true))
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        MAY_BLOCK.set(self.0);
    }
}

/// Runs `work`, which has a task of its own: nothing but its own client waits while it is held up, for example by the disk. Not for
/// work that is polled by a task that serves others, too, such as the reader of a connection.
pub async fn in_own_task<F: Future>(work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let _mark = Marked::enter();
        work.as_mut().poll(cx)
    })
    .await
}

/// Whether what is polled on this thread now may be held up. The store tells the runtime before it blocks the thread.
pub fn may_block() -> bool {
    MAY_BLOCK.get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn only_what_is_polled_in_its_own_task_may_block() {
        let mut polls = 0;
        let mut work = Box::pin(in_own_task(poll_fn(|_| {
            assert!(may_block());
            polls += 1;
            if polls == 2 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(!may_block());
        assert!(work.as_mut().poll(&mut cx).is_pending());
        assert!(!may_block(), "between two polls the thread is others'");
        assert!(work.as_mut().poll(&mut cx).is_ready());
        assert!(!may_block());
    }
}
