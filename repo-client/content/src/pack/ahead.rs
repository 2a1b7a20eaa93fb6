//! Zeros for the next pack, written while the one before it fills. The first write to a block of a file goes through the journal of the file
//! system, and the file's next sync waits for that; where something was written before, a sync has nothing but the data to wait for. The zeros go
//! past the system's cache: they cost no memory of it, and next to no work. Not in the pack that gets objects: their syncs would wait for them.
//!
//! Nothing depends on them. Never writes where a place was given: what is to be written is claimed first, and no place is given there
//! until it is done.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, OFlags, fallocate, fstatfs, fstatvfs};

use super::{FIRST_UNIT, PACK_BYTES, PackPlace, UNIT_BYTES, UNITS};

/// Units written with one call: reads and writes of the pack may wait for it.
const STEP_UNITS: u16 = 128;
const STEP_BYTES: usize = STEP_UNITS as usize * PackPlace::UNIT_BYTES as usize;
/// Units that are worth a thread.
const BATCH_UNITS: u16 = 1024;
/// With less room on the disk a pack takes what its objects need, and not more.
const FREE_BYTES_MIN: u64 = 16 * PACK_BYTES;
/// `f_type` of file systems that write over a block where it is (statfs(2)): ext4 and XFS. Others would write everything twice for nothing.
const IN_PLACE: [u64; 2] = [0xEF53, 0x5846_5342];

/// Where units begin in memory, too: what a write past the cache asks for.
#[repr(C, align(4096))]
struct Zeroed([u8; STEP_BYTES]);

static ZEROED: Zeroed = Zeroed([0; STEP_BYTES]);

/// A disk that takes so long for half a MiB of zeros has no time to spare for them: the pack gets no more. (Tests share their disk with
/// anything.)
const SLOW: Duration = Duration::from_millis(if cfg!(test) { 60_000 } else { 4 });

/// How far a pack has zeros.
pub(super) struct Zeros {
    /// The pack's file, opened for writes past the cache; none where that is of no use, or has failed.
    file: Option<Arc<File>>,
    /// The first unit behind those that are claimed.
    to: u16,
    /// The first unit behind those that have blocks for them, or soon will.
    goal: u16,
    /// The first unit of those that are being written, or may be: what the system says it could not write may come later.
    writing: Option<u16>,
    /// Blocks up to the goal are to be asked for.
    reserve: bool,
    /// A thread is at it.
    busy: bool,
}

/// Units to be written.
pub(super) struct Claim {
    file: Arc<File>,
    from: u16,
    to: u16,
    /// Where the blocks end that are to be asked for first.
    reserve: Option<u16>,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Written,
    /// Written, but it took long.
    Late,
    /// Nothing was written, and nothing will be.
    NotBegun,
    /// Nobody knows.
    Failed,
}

/// Whether zeros would be written to a pack.
#[cfg(test)]
pub(super) fn is_of_use(pack: &Path) -> bool {
    Zeros::of(pack).file.is_some()
}

/// As of a new pack, on any file system.
#[cfg(test)]
pub(super) fn zeros() -> Zeros {
    Zeros::with(tempfile::tempfile().ok())
}

impl Zeros {
    /// For a new pack.
    pub(super) fn of(path: &Path) -> Zeros {
        let mut options = OpenOptions::new();
        options
            .write(true)
            .custom_flags(OFlags::DIRECT.bits() as i32);
        let in_place =
            |file: &File| fstatfs(file).is_ok_and(|s| IN_PLACE.contains(&(s.f_type as u64)));
        Zeros::with(options.open(path).ok().filter(in_place))
    }

    fn with(file: Option<File>) -> Zeros {
        Zeros {
            file: file.map(Arc::new),
            to: FIRST_UNIT,
            goal: FIRST_UNIT,
            writing: None,
            reserve: false,
            busy: false,
        }
    }

    /// Units that have blocks behind the last place, or are about to.
    pub(super) fn ready(&self, end: u16) -> u16 {
        self.goal.saturating_sub(end)
    }

    /// Whether a thread is to be started that writes more of them, up to `goal`.
    pub(super) fn begin(&mut self, goal: u16) -> bool {
        let missing = goal.saturating_sub(self.to);
        let enough = missing >= BATCH_UNITS || (goal == UNITS && missing > 0);
        let wanted = enough && !self.busy && self.file.is_some();
        if wanted {
            self.busy = true;
            self.goal = goal;
            self.reserve = true;
        }
        wanted
    }

    /// The thread ends.
    pub(super) fn end(&mut self) {
        self.busy = false;
    }

    /// No thread could be started: there will be no zeros.
    pub(super) fn give_up(&mut self) {
        self.busy = false;
        self.file = None;
        self.goal = self.to;
    }

    /// What is to be written next; nothing if there is enough.
    pub(super) fn claim(&mut self) -> Option<Claim> {
        let (file, from) = (self.file.clone()?, self.to);
        if from >= self.goal {
            return None;
        }
        self.to = self.goal.min(from.saturating_add(STEP_UNITS));
        self.writing = Some(from);
        let reserve = std::mem::take(&mut self.reserve);
        Some(Claim {
            file,
            from,
            to: self.to,
            reserve: reserve.then_some(self.goal),
        })
    }

    /// What became of the last claim. After one that did not go well there are no more.
    pub(super) fn written(&mut self, step: Step) {
        if step == Step::NotBegun {
            self.to = self.writing.unwrap_or(self.to);
            self.goal = self.to;
        }
        if step != Step::Failed {
            self.writing = None;
        }
        if step != Step::Written || self.to == UNITS {
            self.file = None;
        }
    }

    /// Where the next place may begin: not in what is being written.
    pub(super) fn behind(&self, unit: u16, units: u16) -> u16 {
        match self.writing {
            Some(from) if unit < self.to && unit + units > from => self.to,
            _ => unit,
        }
    }
}

impl Claim {
    /// What is to be written.
    #[cfg(test)]
    pub(super) fn units(&self) -> std::ops::Range<u16> {
        self.from..self.to
    }

    /// Writes the zeros.
    pub(super) fn write(&self) -> Step {
        if let Some(goal) = self.reserve
            && let Err(error) = self.reserve(goal)
        {
            tracing::debug!(%error, "no blocks for zeros ahead of objects");
            return Step::NotBegun;
        }
        let began = Instant::now();
        let len = usize::from(self.to - self.from) * UNIT_BYTES as usize;
        let zeros = ZEROED.0.get(..len).unwrap_or(&ZEROED.0);
        match self.file.write_all_at(zeros, bytes_before(self.from)) {
            Ok(()) if began.elapsed() <= SLOW => Step::Written,
            Ok(()) => Step::Late,
            Err(error) => {
                tracing::debug!(%error, "no zeros are written ahead of objects");
                Step::Failed
            }
        }
    }

    /// Asks for all blocks that this thread will write, in one piece.
    fn reserve(&self, goal: u16) -> io::Result<()> {
        let stat = fstatvfs(&self.file)?;
        if stat.f_bavail.saturating_mul(stat.f_frsize) < FREE_BYTES_MIN {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let from = bytes_before(self.from);
        let len = bytes_before(goal) - from;
        fallocate(&self.file, FallocateFlags::empty(), from, len)?;
        Ok(())
    }

    /// So that no object's sync has to.
    pub(super) fn sync(&self) {
        if let Err(error) = self.file.sync_data() {
            tracing::debug!(%error, "zeros ahead of objects were not written");
        }
    }
}

fn bytes_before(unit: u16) -> u64 {
    u64::from(unit) * UNIT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_place_touches_units_that_are_being_written() {
        let mut zeros = zeros();
        assert!(zeros.begin(FIRST_UNIT + BATCH_UNITS));
        let first = zeros.claim().expect("units");
        assert_eq!(
            (first.from, first.to),
            (FIRST_UNIT, FIRST_UNIT + STEP_UNITS)
        );
        for unit in [first.from, first.from + 1, first.to - 1] {
            assert_eq!(zeros.behind(unit, 1), first.to);
        }
        assert_eq!(zeros.behind(first.to, 4), first.to);
        zeros.written(Step::Written);
        assert_eq!(zeros.behind(first.from, 4), first.from);
        // The one before has had its places: those that end where the next begins stay, others go behind it.
        let second = zeros.claim().expect("units");
        assert_eq!(second.from, first.to);
        assert_eq!(zeros.behind(first.to - 4, 4), first.to - 4);
        assert_eq!(zeros.behind(first.to - 4, 5), second.to);
        // What could not be written may be written later.
        zeros.written(Step::Failed);
        assert_eq!(zeros.behind(first.to, 1), second.to);
        assert!(zeros.claim().is_none());
    }

    #[test]
    fn blocks_are_asked_for_once_and_a_step_that_goes_wrong_is_the_last() {
        let mut zeros = zeros();
        assert!(zeros.begin(UNITS));
        assert!(!zeros.begin(UNITS), "one thread at a time");
        let mut claimed = FIRST_UNIT;
        while let Some(claim) = zeros.claim() {
            assert_eq!(claim.from, claimed);
            let first = claimed == FIRST_UNIT;
            assert_eq!(claim.reserve, first.then_some(UNITS));
            claimed = claim.to;
            zeros.written(Step::Written);
        }
        assert_eq!(claimed, UNITS);
        zeros.end();
        assert!(!zeros.begin(UNITS), "there is nothing left to write");
        for (step, ready) in [(Step::Late, UNITS - FIRST_UNIT), (Step::NotBegun, 0)] {
            let mut zeros = super::zeros();
            assert!(zeros.begin(UNITS));
            assert!(zeros.claim().is_some());
            zeros.written(step);
            assert!(zeros.claim().is_none());
            assert_eq!(zeros.behind(FIRST_UNIT, 1), FIRST_UNIT);
            assert_eq!(zeros.ready(FIRST_UNIT), ready);
            zeros.end();
            assert!(!zeros.begin(UNITS));
        }
    }
}
