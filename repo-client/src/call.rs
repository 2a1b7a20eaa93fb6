//! The call of a client on whose behalf a change is made. A client that hears nothing sends its call again, maybe to another node: the
//! repository records the call with the change, in one transaction, and refuses to make the change a second time.
//!
//! The call goes along with the work that is done for it, not through every signature in between: see [`within`].

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Names one call of one client, however often and to whichever node it is sent. Equal on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(pub [u8; 16]);

/// A call on whose behalf something is being done.
struct Work {
    call: CallId,
    carried_out: AtomicBool,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Work>>> = const { RefCell::new(None) };
}

/// Puts back what was current before, also when the work panics.
struct Outer(Option<Arc<Work>>);

impl Drop for Outer {
    fn drop(&mut self) {
        CURRENT.replace(self.0.take());
    }
}

async fn on_behalf<F: Future>(of: Option<Arc<Work>>, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(move |context| {
        let _outer = Outer(CURRENT.replace(of.clone()));
        work.as_mut().poll(context)
    })
    .await
}

/// Does some work on behalf of a call: the first change in it that is carried out is the call's. What it leaves to another task is
/// not on the call's behalf without [`carried`].
pub async fn within<F: Future>(call: CallId, work: F) -> F::Output {
    let of = Work {
        call,
        carried_out: AtomicBool::new(false),
    };
    on_behalf(Some(Arc::new(of)), work).await
}

/// Work for another task, on behalf of the call whose work this is, if it is one's.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    on_behalf(CURRENT.with_borrow(Clone::clone), work)
}

/// The call whose work this is, as long as none of its changes has been carried out.
#[must_use]
pub fn current() -> Option<CallId> {
    CURRENT.with_borrow(|current| {
        let work = current.as_ref()?;
        (!work.carried_out.load(Ordering::Acquire)).then_some(work.call)
    })
}

/// The call's change has been carried out: what follows are changes of their own.
pub fn carried_out() {
    CURRENT.with_borrow(|current| {
        if let Some(work) = current {
            work.carried_out.store(true, Ordering::Release);
        }
    });
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn a_call_goes_along_with_its_own_work_only_until_its_change_is_carried_out() {
        let call = CallId([7; 16]);
        let mut rounds = 0;
        let mut work = pin!(within(
            call,
            poll_fn(|context| {
                rounds += 1;
                assert_eq!(current(), (rounds < 3).then_some(call));
                if rounds == 2 {
                    // As another task does.
                    let task = pin!(carried(async { carried_out() }));
                    assert!(task.poll(context).is_ready());
                }
                match rounds {
                    3 => Poll::Ready(()),
                    _ => Poll::Pending,
                }
            })
        ));
        let mut context = Context::from_waker(Waker::noop());
        while work.as_mut().poll(&mut context).is_pending() {
            assert_eq!(current(), None, "others on this thread have no call");
        }
    }
}
