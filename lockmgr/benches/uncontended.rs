//! Grant and release of an open that nobody contends, the path of nearly every request. `cargo bench -p sluice-lockmgr`.

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use sluice_lockmgr::{
    Access, Actor, Begun, ByteRange, ClientId, GatedLocks, Holder, IoKind, LocalLocks, LockOptions,
    LockService, MemberId, MonotonicClock, Op, OpenRequest, Opened, Protocol, Residence,
    ResourceId, ShareMode,
};

const ROUNDS: u64 = 2_000_000;

/// Nothing here waits, so the first poll has the answer.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("an uncontended request does not wait"),
    }
}

fn actor() -> Actor {
    let holder = Holder {
        protocol: Protocol::Smb,
        user: String::from("u"),
        address: String::from("192.0.2.1:1"),
        client_name: String::new(),
        node: String::from("gw1"),
        path: String::from("a/b"),
        rule: None,
        since_unix_ms: 0,
    };
    Actor {
        protocol: Protocol::Smb,
        client: ClientId(1),
        holder: Arc::new(holder),
    }
}

fn measure(name: &str, mut round: impl FnMut(u64)) {
    let best = (0..3)
        .map(|_| {
            let begin = Instant::now();
            (0..ROUNDS).for_each(&mut round);
            begin.elapsed()
        })
        .min()
        .unwrap_or_default();
    let per_second = ROUNDS as f64 / best.as_secs_f64();
    println!(
        "{name:44} {:8.2} M/s, {:6.0} ns",
        per_second / 1e6,
        1e9 / per_second
    );
}

fn open_and_close(locks: &dyn LockService, actor: &Actor, document: u64) {
    let access = Access::READ.with(Access::WRITE);
    let mut request = OpenRequest::new(ResourceId::main(document), actor.clone(), access);
    request.share = ShareMode::DENY_WRITE;
    if let Ok(opened) = now(locks.open(request)) {
        let _ = black_box(now(locks.close(opened.open)));
    }
}

/// The same at a node of a cluster that is alone on the document.
fn through_the_gate(actor: &Actor) {
    let clock = Arc::new(MonotonicClock::default());
    let locks = GatedLocks::new(LockOptions::default(), clock, MemberId(1), 0);
    locks.admit(7, Residence::Alone(1), Vec::new());
    measure("open + close, through the gate", |_| {
        let access = Access::READ.with(Access::WRITE);
        let request = OpenRequest::new(ResourceId::main(7), actor.clone(), access);
        let opened = match locks.begin(&Op::open(request), None) {
            Ok(Begun::Done(answer)) => answer.opened(),
            _ => return,
        };
        if let Ok(Opened { open, .. }) = opened {
            let deleting = false;
            let _ = black_box(locks.begin(&Op::Close { open, deleting }, None));
        }
    });
}

fn main() {
    let locks: Arc<dyn LockService> = Arc::new(LocalLocks::new(
        LockOptions::default(),
        Arc::new(MonotonicClock::default()),
    ));
    let actor = actor();
    measure("open + close, one document", |_| {
        open_and_close(&*locks, &actor, 7)
    });
    measure("open + close, a million documents in turn", |n| {
        open_and_close(&*locks, &actor, n % 1_000_000)
    });
    let held: Vec<_> = (0..1000)
        .filter_map(|n| {
            now(locks.open(OpenRequest::new(
                ResourceId::main(n),
                actor.clone(),
                Access::READ,
            )))
            .ok()
        })
        .collect();
    measure("open + close, a thousand others held", |_| {
        open_and_close(&*locks, &actor, 7_777)
    });
    through_the_gate(&actor);
    let range = ByteRange::clamped(0, 4096);
    measure("read through an open", |n| {
        if let Some(held) = held.get((n % 1000) as usize) {
            let _ = black_box(locks.try_io(held.open, IoKind::Read(range)));
        }
    });
    let crowd: Vec<_> = (0..10_000)
        .filter_map(|_| {
            now(locks.open(OpenRequest::new(
                ResourceId::main(1),
                actor.clone(),
                Access::READ,
            )))
            .ok()
        })
        .collect();
    measure("open + close among 10,000 readers", |_| {
        let request = OpenRequest::new(ResourceId::main(1), actor.clone(), Access::READ);
        if let Ok(opened) = now(locks.open(request)) {
            let _ = black_box(now(locks.close(opened.open)));
        }
    });
    black_box(crowd);
}
