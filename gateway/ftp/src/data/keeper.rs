//! Waits with all uploads whose end is doubted: one thread that knows when the time of each is up, and one of the lowest priority that
//! sees when the machine is at rest. So no upload needs a thread of its own, and who looks takes nobody's place.

use std::io;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::process::setpriority_process;
use rustix::thread::gettid;
use tokio::sync::oneshot;

use super::machine;
use super::watch::{Doubt, Watch};

/// A wait that ends so much too late tells that programs stand in line for the processor here, perhaps that of the peer, too.
const BUSY_LATENESS: Duration = Duration::from_micros(200);
/// How much longer an end is waited for then.
const BUSY_PATIENCE: Duration = Duration::from_millis(2);
/// Between two looks whether the machine is at rest.
const LOOK_TIME: Duration = Duration::from_micros(50);
/// The lowest priority there is.
const NICE: i32 = 19;
/// How long the thread that knows the times sleeps when nobody waits.
const LONG: Duration = Duration::from_secs(3600);

static KEEPER: LazyLock<Option<&'static Keeper>> = LazyLock::new(|| match Keeper::start() {
    Ok(keeper) => Some(keeper),
    Err(error) => {
        tracing::error!(%error, "there is no thread to wait for the ends of FTP uploads: those that tell no length are refused; start the node again");
        None
    }
});

/// One upload that waits.
struct Waiting {
    watch: Watch,
    doubt: Doubt,
    longest: Duration,
    tell: oneshot::Sender<bool>,
}

impl Waiting {
    fn due(&self) -> Instant {
        self.doubt.since + self.longest
    }

    /// Whether the connection has ended, or `None` if there is doubt still.
    fn decide(&mut self, at_rest: bool) -> Option<bool> {
        let age = self.doubt.since.elapsed();
        if age > self.doubt.longest + BUSY_LATENESS {
            self.longest = self.doubt.longest + BUSY_PATIENCE;
        }
        match self.watch.has_ended()? {
            true => Some(true),
            false => (at_rest || age >= self.longest).then_some(false),
        }
    }
}

struct Keeper {
    state: Mutex<State>,
    /// Wakes the thread that knows the times.
    earlier: Condvar,
    /// Wakes the thread that looks.
    wanted: Condvar,
}

struct State {
    waiting: Vec<Waiting>,
    /// When the first thread wakes by itself; in the past while it does not sleep.
    sleeps_until: Instant,
    /// The other one is at work.
    looking: bool,
}

/// How many uploads wait.
pub(super) fn waiting() -> usize {
    KEEPER.map_or(0, |keeper| keeper.state.lock().waiting.len())
}

/// Waits while there is doubt whether a connection has ended; whether it has. Without an answer nobody knows.
pub(super) async fn wait(watch: Watch, doubt: Doubt) -> bool {
    let Some(keeper) = *KEEPER else {
        return true;
    };
    let (tell, told) = oneshot::channel();
    keeper.add(Waiting {
        watch,
        doubt,
        longest: doubt.longest,
        tell,
    });
    told.await.unwrap_or(true)
}

impl Keeper {
    fn start() -> io::Result<&'static Keeper> {
        let keeper: &'static Keeper = Box::leak(Box::new(Keeper {
            state: Mutex::new(State {
                waiting: Vec::new(),
                sleeps_until: Instant::now(),
                looking: false,
            }),
            earlier: Condvar::new(),
            wanted: Condvar::new(),
        }));
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        thread("ftp-ends").spawn(move || keeper.keep_time())?;
        thread("ftp-rest").spawn(move || keeper.look_for_rest())?;
        Ok(keeper)
    }

    fn add(&self, waiting: Waiting) {
        let mut state = self.state.lock();
        let is_earlier = waiting.due() < state.sleeps_until;
        let is_wanted = waiting.doubt.same_machine && !state.looking;
        state.waiting.push(waiting);
        drop(state);
        if is_earlier {
            self.earlier.notify_one();
        }
        if is_wanted {
            self.wanted.notify_one();
        }
    }

    fn keep_time(&self) {
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            let next = state.waiting.iter().map(Waiting::due).min();
            let next = next.unwrap_or_else(|| now + LONG);
            if next <= now {
                self.decide(&mut state, false, |waiting| waiting.due() <= now);
            } else {
                state.sleeps_until = next;
                self.earlier.wait_until(&mut state, next);
                state.sleeps_until = now;
            }
        }
    }

    fn look_for_rest(&self) {
        // Without it the thread is in the way more often, no more.
        let _ = setpriority_process(Some(gettid()), NICE);
        let mut state = self.state.lock();
        loop {
            state.looking = state.waiting.iter().any(|one| one.doubt.same_machine);
            if !state.looking {
                self.wanted.wait(&mut state);
                continue;
            }
            let at_rest = MutexGuard::unlocked(&mut state, || {
                std::thread::sleep(LOOK_TIME);
                let looked = Instant::now();
                (machine::runnable() == Some(1)).then_some(looked)
            });
            if let Some(looked) = at_rest {
                // Who ended it later may have run since.
                self.decide(&mut state, true, |waiting| {
                    waiting.doubt.same_machine && waiting.doubt.since < looked
                });
            }
        }
    }

    /// Answers those of `which` about whom there is no doubt left.
    fn decide(
        &self,
        state: &mut MutexGuard<'_, State>,
        at_rest: bool,
        which: impl Fn(&Waiting) -> bool,
    ) {
        let mut asked: Vec<Waiting> = state.waiting.extract_if(.., |one| which(one)).collect();
        MutexGuard::unlocked(state, || {
            let mut doubted = Vec::with_capacity(asked.len());
            for mut one in asked.drain(..) {
                match one.decide(at_rest) {
                    // Who asked may not wait any more.
                    Some(ended) => drop(one.tell.send(ended)),
                    None => doubted.push(one),
                }
            }
            asked = doubted;
        });
        if !asked.is_empty() {
            state.waiting.append(&mut asked);
            // Neither thread may have seen them meanwhile.
            self.earlier.notify_one();
            self.wanted.notify_one();
        }
    }
}
