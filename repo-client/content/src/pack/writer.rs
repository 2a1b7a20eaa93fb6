//! The packs that this run puts objects into: gives places, begins the next pack before it is needed. Never waits when it gives a
//! place: without room at hand there is none, and the object gets a file of its own.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use sluice_repo::{ObjectId, PackPlace, RepoError, Result, Unsettled};

use super::group::{Pack, Sync};
use super::{
    Counts, FIRST_UNIT, PackName, TABLE_BYTES, UNIT_BYTES, UNITS, can_punch, find, no_place,
    remove, remove_empty,
};

/// Longer objects get a file of their own: what that costs no longer matters beside writing them.
const OBJECT_BYTES_MAX: u64 = 512 << 10;
/// From here on in a pack the next one is made.
const NEXT_FROM_UNIT: u16 = UNITS / 2;

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
}

struct Open {
    pack: Arc<Pack>,
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

    /// Clears away what earlier runs have left empty.
    pub(crate) fn tidy(&self) -> io::Result<()> {
        remove_empty(&self.folder, self.run)
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
        if state.needs_next() {
            state.making = true;
            let (packs, number) = (self.clone(), state.made);
            let made = std::thread::Builder::new()
                .name("content-pack".into())
                .spawn(move || packs.make_next(number));
            if let Err(error) = made {
                state.making = false;
                tracing::warn!(%error, "no thread could be started to make a pack");
            }
        }
        drop(state);
        place.map(|place| ObjectId::packed(self.run, place))
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
        let refused = self.refused;
        let pack = Pack::new(file, self.sync.clone(), self.counts.clone(), move |error| {
            refused(&path, error)
        });
        let open = Open { pack, under_way: 0 };
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
        if let Some(unused) = self.state.get_mut().next.take() {
            // Else the next run does it.
            let _ = remove(&self.name(unused).path(&self.folder));
        }
    }
}

impl State {
    fn place(&mut self, units: u16) -> Option<PackPlace> {
        let open = |state: &State| {
            let open = state.open.get(&state.current?)?;
            (!open.pack.has_failed() && UNITS - state.end >= units).then_some(())
        };
        if open(self).is_none() {
            self.turn_over()?;
        }
        let pack = self.current?;
        self.open.get_mut(&pack)?.under_way += 1;
        let unit = self.end;
        self.end += units;
        Some(PackPlace { pack, unit, units })
    }

    /// Goes on in the next pack, if it is there.
    fn turn_over(&mut self) -> Option<()> {
        let next = self.next.take()?;
        let full = self.current.replace(next);
        self.end = FIRST_UNIT;
        if let Some(full) = full {
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
            self.open.remove(&pack);
        }
    }
}
