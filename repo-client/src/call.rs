//! The call of a client on whose behalf a change is made. A client that hears nothing sends its call again, maybe to another node: the
//! repository records the call with the change, in one transaction, and refuses to make the change a second time.
//!
//! The call goes along with the work that is done for it, not through every signature in between: see [`within`].

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;

/// Names one call of one client, however often and to whichever node it is sent. Equal on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(pub [u8; 16]);

thread_local! {
    static CURRENT: Cell<Option<CallId>> = const { Cell::new(None) };
}

/// Does some work on behalf of a call: the first change in it that is carried out is the call's. Work that it leaves to other tasks
/// is not on the call's behalf.
pub async fn within<F: Future>(call: CallId, work: F) -> F::Output {
    let mut work = pin!(work);
    let mut current = Some(call);
    poll_fn(move |context| {
        let outer = CURRENT.replace(current);
        let polled = work.as_mut().poll(context);
        current = CURRENT.replace(outer);
        polled
    })
    .await
}

/// The call whose work this is, as long as none of its changes has been carried out.
#[must_use]
pub fn current() -> Option<CallId> {
    CURRENT.get()
}

/// The call's change has been carried out: what follows are changes of their own.
pub fn carried_out() {
    CURRENT.set(None);
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
            poll_fn(|_| {
                rounds += 1;
                assert_eq!(current(), (rounds < 3).then_some(call));
                if rounds == 2 {
                    carried_out();
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
