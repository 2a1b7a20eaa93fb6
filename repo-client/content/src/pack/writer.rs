//! The packs that this run puts objects into: gives places, begins the next pack before it is needed, has zeros written into it (`ahead`),
//! gives back what full ones have left. Never waits when it gives a place: without room at hand there is none, and the object gets a file
//! of its own.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use sluice_repo::{ObjectId, PackPlace, RepoError, Result, Unsettled};

use super::ahead::{Claim, Zeros};
use super::group::{Pack, Sync};
use super::{
    Counts, FIRST_UNIT, PackName, TABLE_BYTES, UNIT_BYTES, UNITS, can_punch, clear_away, find,
    no_place, remove,
};

/// Longer objects get a file of their own: what that costs no longer matters beside writing them.
const OBJECT_BYTES_MAX: u64 = 512 << 10;
/// From here on in a pack the next one is made.
const NEXT_FROM_UNIT: u16 = UNITS / 16;

/// Gives an error of a file its meaning.
pub(crate) type Refused = fn(&Path, &io::Error) -> RepoError;

/// Puts objects into packs of its own.
pub(crate) struct Packs {
    folder: PathBuf,
    run: u64,
    sync: Sync,
    refused: Refused,
    counts: Arc<Counts>,
    /// Taken for moments; no call is made under it.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Packs that get objects or wait for some that have a place.
    open: HashMap<u32, Open>,
    /// Where places are given.
    current: Option<u32>,
    /// The first unit there that is not given.
    end: u16,
    /// The pack after it.
    next: Option<u32>,
    /// The next one is being made.
    making: bool,
    /// Packs made so far.
    made: u32,
    /// Packs that get no more objects, and where their last one ends.
    full: Vec<(Arc<Pack>, u16)>,
}

struct Open {
    pack: Arc<Pack>,
    zeros: Zeros,
    /// The first unit that was not given, once no more are.
    end: u16,
    /// Places given whose objects are not stored.
    under_way: usize,
}

impl Packs {
    /// Packs in a folder that no other process writes packs in; `None` if files can't have holes here.
    pub(crate) fn open(folder: PathBuf, sync: Sync, refused: Refused) -> io::Result<Option<Packs>> {
        let mut run = [0; 8];
        getrandom::fill(&mut run).map_err(|error| io::Error::other(error.to_string()))?;
        let packs = Packs {
            folder,
            run: ObjectId::new(0, u64::from_le_bytes(run), 0).run(),
            sync,
            refused,
            counts: Arc::default(),
            state: Mutex::default(),
        };
        let file = packs.make(0)?;
        if !can_punch(&file) {
            remove(&packs.name(0).path(&packs.folder))?;
            return Ok(None);
        }
        packs.add(0, file);
        Ok(Some(packs))
    }

    /// Clears away what earlier runs have left that nobody needs.
    pub(crate) fn tidy(&self) -> io::Result<()> {
        clear_away(&self.folder, self.run)
    }

    pub(crate) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    fn name(&self, number: u32) -> PackName {
        PackName {
            run: self.run,
            number,
        }
    }

    /// Whether a pack gets or may get more objects.
    pub(crate) fn is_open(&self, name: PackName) -> bool {
        name.run == self.run && self.state.lock().open.contains_key(&name.number)
    }

    /// A place for an object of this length; see [`crate::Objects::place`].
    pub(crate) fn place(self: &Arc<Packs>, len: u64) -> Option<ObjectId> {
        if len == 0 || len > OBJECT_BYTES_MAX {
            return None;
        }
        let units = u16::try_from(len.div_ceil(UNIT_BYTES)).ok()?;
        let mut state = self.state.lock();
        let place = state.place(units);
        let next = state.needs_next().then_some(state.made);
        state.making |= next.is_some();
        let zeros = state
            .zeros_wanted()
            .and_then(|(number, zeros, goal)| zeros.begin(goal).then_some(number));
        drop(state);
        if let Some(number) = next
            && !self.start(move |packs| packs.make_next(number))
        {
            self.state.lock().making = false;
        }
        if let Some(number) = zeros
            && !self.start(move |packs| packs.write_ahead(number))
            && let Some(open) = self.state.lock().open.get_mut(&number)
        {
            open.zeros.give_up();
        }
        place.map(|place| ObjectId::packed(self.run, place))
    }

    /// Work on a thread of its own; whether it was started.
    fn start(self: &Arc<Packs>, work: impl FnOnce(&Arc<Packs>) + Send + 'static) -> bool {
        let packs = self.clone();
        let started = std::thread::Builder::new()
            .name("content-pack".into())
            .spawn(move || work(&packs));
        if let Err(error) = &started {
            tracing::warn!(%error, "no thread could be started to make room for objects");
        }
        started.is_ok()
    }

    /// Writes zeros to the next pack, as many as were wanted when the thread was started; before that gives back what full packs have left.
    fn write_ahead(self: &Arc<Packs>, number: u32) {
        let full = std::mem::take(&mut self.state.lock().full);
        full.iter().for_each(|(pack, end)| pack.cut_off(*end));
        let mut last = None;
        // Alone with it, this thread only holds up its end.
        while Arc::strong_count(self) > 1 {
            let claim = self.state.lock().claim(number);
            let Some(claim) = claim else { break };
            let step = claim.write();
            if let Some(open) = self.state.lock().open.get_mut(&number) {
                open.zeros.written(step);
            }
            last = Some(claim);
        }
        if let Some(claim) = last {
            claim.sync();
        }
        if let Some(open) = self.state.lock().open.get_mut(&number) {
            open.zeros.end();
        }
    }

    /// Bytes that a pack has ready for more objects.
    pub(crate) fn ready(&self, name: PackName) -> u64 {
        let state = self.state.lock();
        let open = state.open.get(&name.number);
        let open = open.filter(|_| name.run == self.run);
        let ready = open.map_or(0, |open| open.zeros.ready(state.end_of(name.number)));
        u64::from(ready) * UNIT_BYTES
    }

    /// Stores an object at the place that its name tells.
    pub(crate) async fn put(&self, id: ObjectId, parts: Vec<Bytes>) -> Result<()> {
        let (place, pack) = self.find(id)?;
        let result = pack.put(place, parts).await;
        self.state.lock().settle(place.pack);
        result
    }

    /// Writes an object at the place that its name tells; who asked has to make it durable.
    pub(crate) fn take(self: &Arc<Packs>, id: ObjectId, parts: &[Bytes]) -> Result<Arc<Taken>> {
        let (place, pack) = self.find(id)?;
        let packs = self.clone();
        let mut taken = Taken {
            packs,
            pack,
            number: place.pack,
            written: 0,
        };
        taken.written = taken.pack.write_and_count(place, parts)?;
        Ok(Arc::new(taken))
    }

    /// The place that a name tells, and the pack.
    fn find(&self, id: ObjectId) -> Result<(PackPlace, Arc<Pack>)> {
        let pack = |place: PackPlace| {
            let state = self.state.lock();
            state.open.get(&place.pack).map(|open| open.pack.clone())
        };
        let ours = find(id).filter(|(name, _)| name.run == self.run);
        ours.and_then(|(_, place)| Some((place, pack(place)?)))
            .ok_or_else(no_place)
    }

    fn make_next(&self, number: u32) {
        match self.make(number) {
            Ok(file) => self.add(number, file),
            Err(error) => {
                tracing::warn!(%error, "no pack could be made; objects get files of their own");
                self.state.lock().making = false;
            }
        }
    }

    /// Makes a pack whose name is durable.
    fn make(&self, number: u32) -> io::Result<File> {
        let path = self.name(number).path(&self.folder);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        let made = file
            .set_len(TABLE_BYTES)
            .and_then(|()| File::open(&self.folder)?.sync_all());
        if made.is_err() {
            remove(&path)?;
        }
        made.map(|()| file)
    }

    fn add(&self, number: u32, file: File) {
        let path = self.name(number).path(&self.folder);
        let zeros = Zeros::of(&path);
        let refused = self.refused;
        let pack = Pack::new(file, self.sync.clone(), self.counts.clone(), move |error| {
            refused(&path, error)
        });
        let open = Open {
            pack,
            zeros,
            end: UNITS,
            under_way: 0,
        };
        let mut state = self.state.lock();
        state.open.insert(number, open);
        state.next = Some(number);
        state.made = number + 1;
        state.making = false;
    }
}

/// An object that is written and not known to be durable. Its pack stays open meanwhile.
pub(crate) struct Taken {
    packs: Arc<Packs>,
    pack: Arc<Pack>,
    /// The pack's.
    number: u32,
    /// What it is of what was written there.
    written: u64,
}

impl Unsettled for Taken {
    fn settle(&self) -> Result<()> {
        self.pack.settle(self.written)
    }

    fn has_failed(&self) -> bool {
        self.pack.has_failed() && !self.pack.has_settled(self.written)
    }
}

impl std::fmt::Debug for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of pack {}", self.written, self.number)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.packs.state.lock().settle(self.number);
    }
}

impl Drop for Packs {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let (unused, end) = (state.next.take(), state.end);
        for (pack, end) in std::mem::take(&mut state.full) {
            pack.cut_off(end);
        }
        if let Some((_, open)) = state.current_pack() {
            open.pack.cut_off(end);
        }
        if let Some(unused) = unused {
            // Else the next run does it.
            let _ = remove(&self.name(unused).path(&self.folder));
        }
    }
}

impl State {
    fn place(&mut self, units: u16) -> Option<PackPlace> {
        let in_current = |state: &State| {
            let open = state.open.get(&state.current?)?;
            let unit = open.zeros.behind(state.end, units);
            (!open.pack.has_failed() && UNITS - unit >= units).then_some(unit)
        };
        let unit = match in_current(self) {
            Some(unit) => unit,
            None => {
                self.turn_over()?;
                in_current(self)?
            }
        };
        self.end = unit + units;
        let (pack, open) = self.current_pack()?;
        open.under_way += 1;
        Some(PackPlace { pack, unit, units })
    }

    fn current_pack(&mut self) -> Option<(u32, &mut Open)> {
        let number = self.current?;
        Some((number, self.open.get_mut(&number)?))
    }

    /// The first unit of a pack that is not given.
    fn end_of(&self, pack: u32) -> u16 {
        match self.current {
            Some(current) if current == pack => self.end,
            // The next one; of others nothing is left to give.
            Some(current) if current > pack => UNITS,
            _ => FIRST_UNIT,
        }
    }

    /// The next pack, and how far it is to have zeros by now: to its end when the one before it is half full.
    fn zeros_wanted(&mut self) -> Option<(u32, &mut Zeros, u16)> {
        let (next, goal) = (self.next?, self.end.saturating_mul(2).min(UNITS));
        self.current?;
        Some((next, &mut self.open.get_mut(&next)?.zeros, goal))
    }

    fn claim(&mut self, pack: u32) -> Option<Claim> {
        let is_next = self.next == Some(pack);
        let open = self.open.get_mut(&pack).filter(|_| is_next)?;
        open.zeros.claim()
    }

    /// Goes on in the next pack, if it is there.
    fn turn_over(&mut self) -> Option<()> {
        let next = self.next.take()?;
        let full = self.current.replace(next);
        let end = std::mem::replace(&mut self.end, FIRST_UNIT);
        if let Some(full) = full {
            if let Some(open) = self.open.get_mut(&full) {
                open.end = end;
            }
            self.close_if_done(full);
        }
        Some(())
    }

    fn needs_next(&self) -> bool {
        let soon = self.current.is_none() || self.end >= NEXT_FROM_UNIT || self.has_failed();
        soon && self.next.is_none() && !self.making && self.made <= PackPlace::PACK_MAX
    }

    fn has_failed(&self) -> bool {
        let current = self.current.and_then(|number| self.open.get(&number));
        current.is_some_and(|open| open.pack.has_failed())
    }

    /// The object of a place is stored, or has failed to be.
    fn settle(&mut self, pack: u32) {
        if let Some(open) = self.open.get_mut(&pack) {
            open.under_way = open.under_way.saturating_sub(1);
        }
        self.close_if_done(pack);
    }

    fn close_if_done(&mut self, pack: u32) {
        let done = |open: &Open| open.under_way == 0;
        if self.current != Some(pack) && self.open.get(&pack).is_some_and(done) {
            let closed = self.open.remove(&pack);
            self.full.extend(closed.map(|open| (open.pack, open.end)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ahead::{Step, zeros};
    use super::*;

    fn open() -> Open {
        let file = tempfile::tempfile().expect("file");
        let refused = |error: &io::Error| RepoError::Unavailable(error.to_string());
        Open {
            pack: Pack::new(file, Arc::new(|_: &File| Ok(())), Arc::default(), refused),
            zeros: zeros(),
            end: UNITS,
            under_way: 0,
        }
    }

    /// What an order of all that several threads do may be, from a seed.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, end: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % end
        }
    }

    /// Gives one place, and checks it against all that were given and what is being written.
    fn give(state: &mut State, dice: &mut Dice, given: &mut HashMap<u32, u16>, claim: &Writing) {
        let units = 1 + dice.below(128) as u16;
        let Some(place) = state.place(units) else {
            return;
        };
        let end = given.entry(place.pack).or_insert(FIRST_UNIT);
        assert!(place.unit >= *end, "given once");
        *end = place.unit + units;
        if let Some((pack, writing)) = claim
            && *pack == place.pack
        {
            assert!(place.unit >= writing.end || *end <= writing.start);
        }
        state.settle(place.pack);
    }

    /// The pack and the units of it that a thread writes zeros to.
    type Writing = Option<(u32, std::ops::Range<u16>)>;

    #[test]
    fn whatever_comes_first_no_place_is_given_where_zeros_are_written() {
        for seed in 1..=20 {
            let (mut state, mut dice) = (State::default(), Dice(seed * 0x9E37_79B9));
            let mut given = HashMap::new();
            let (mut thread, mut writing): (Option<u32>, Writing) = (None, None);
            let mut met = 0;
            for _ in 0..20_000 {
                if state.next.is_none() && dice.below(4) == 0 {
                    let number = state.made;
                    state.open.insert(number, open());
                    (state.next, state.made) = (Some(number), number + 1);
                }
                give(&mut state, &mut dice, &mut given, &writing);
                if let Some((number, zeros, goal)) = state.zeros_wanted()
                    && thread.is_none()
                    && zeros.begin(goal)
                {
                    thread = Some(number);
                }
                let Some(number) = thread else { continue };
                if writing.is_none() {
                    let claim = state.claim(number);
                    writing = claim.map(|claim| (number, claim.units()));
                    if let Some((_, units)) = &writing {
                        assert!(!given.contains_key(&number), "{units:?}");
                    } else {
                        thread = None;
                        if let Some(open) = state.open.get_mut(&number) {
                            open.zeros.end();
                        }
                    }
                } else if dice.below(8) == 0 {
                    let units = writing.take().map(|(_, units)| units).unwrap_or_default();
                    let step = match dice.below(40) {
                        0 => Step::Failed,
                        1 => Step::Late,
                        _ => Step::Written,
                    };
                    if let Some(open) = state.open.get_mut(&number) {
                        open.zeros.written(step);
                        let is_current = state.current == Some(number);
                        met += u32::from(is_current);
                        let failed = step == Step::Failed;
                        assert!(!failed || open.zeros.behind(units.start, 1) == units.end);
                    }
                }
            }
            assert!(met > 0, "a pack got objects while zeros were written to it");
        }
    }
}
