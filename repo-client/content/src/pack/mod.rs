//! Packs: many objects in one file, `v1/packs/RUN-NUMBER`. An object's name tells its place ([`ObjectId::place`]), so nothing has to be
//! looked up to read it, and deleting it gives its room back to the file system at once: a hole is punched, nothing is moved.
//!
//! A pack begins with a table: for each unit the length in units of the object that begins there, 0 if none does. It is what tells
//! collection and check which objects there are; reading doesn't need it. An object and its entry become durable with one sync.
//!
//! A place is given once and never again, and only the run that made a pack puts objects into it: behind the end of what a
//! crash has left nothing is ever written. Owns layout, list and deletion here; `writer` owns what grows.

mod ahead;
mod counts;
mod group;
mod writer;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use sluice_repo::{ObjectId, PackPlace, PacksHeld, RepoError};

pub(crate) use counts::Counts;
pub(crate) use group::Sync;
pub(crate) use writer::Packs;

/// Where packs are, beside the folders of single objects.
pub(crate) const FOLDER: &str = "packs";

/// Documents up to this length are in the metadata: one sync instead of two.
pub(crate) const OBJECT_BYTES_MIN: u64 = 24 << 10;

const UNIT_BYTES: u64 = PackPlace::UNIT_BYTES as u64;
/// Units of a pack, the table's included: 64 MiB.
const UNITS: u16 = PackPlace::UNIT_MAX + 1;
const PACK_BYTES: u64 = UNITS as u64 * UNIT_BYTES;
/// Packs at a run's end that may have room for more: the last one, the one before that, and one that a commit still needed.
const FILLING_MAX: u32 = 3;
/// Bytes that are looked through at once.
const LOOK_BYTES: u64 = 1 << 20;
/// Bytes of a table's entry, little-endian.
const ENTRY_BYTES: u64 = 2;
const TABLE_BYTES: u64 = UNITS as u64 * ENTRY_BYTES;
/// The first unit behind the table.
const FIRST_UNIT: u16 = TABLE_BYTES.div_ceil(UNIT_BYTES) as u16;

/// A pack: the run that made it and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PackName {
    pub(crate) run: u64,
    pub(crate) number: u32,
}

impl PackName {
    fn parse(name: &str) -> Option<PackName> {
        let (run, number) = name.split_once('-')?;
        let parsed = PackName {
            run: u64::from_str_radix(run, 16).ok()?,
            number: u32::from_str_radix(number, 16).ok()?,
        };
        (parsed.file() == name).then_some(parsed)
    }

    fn file(self) -> String {
        format!("{:010x}-{:06x}", self.run, self.number)
    }

    pub(crate) fn path(self, folder: &Path) -> PathBuf {
        folder.join(self.file())
    }
}

/// The pack of an object and its place there, if it lies in one.
pub(crate) fn find(id: ObjectId) -> Option<(PackName, PackPlace)> {
    let place = id.place()?;
    let name = PackName {
        run: id.run(),
        number: place.pack,
    };
    Some((name, place))
}

/// Position in the file.
pub(crate) fn start(place: PackPlace) -> u64 {
    u64::from(place.unit) * UNIT_BYTES
}

/// Bytes that a place has.
pub(crate) fn room(place: PackPlace) -> u64 {
    u64::from(place.units) * UNIT_BYTES
}

fn entry(unit: u16) -> u64 {
    u64::from(unit) * ENTRY_BYTES
}

/// Where objects begin and their units. What a crash has cut off the table is empty.
fn read_table(file: &File) -> io::Result<Vec<(u16, u16)>> {
    let mut table = vec![0; TABLE_BYTES as usize];
    let mut filled = 0;
    while let Some(rest) = table.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let entries = table.chunks_exact(ENTRY_BYTES as usize).zip(0u16..);
    Ok(entries
        .filter_map(|(entry, unit)| {
            let units = entry.iter().rev().fold(0, |n, b| n << 8 | u16::from(*b));
            (unit >= FIRST_UNIT && units > 0).then_some((unit, units & PackPlace::UNITS_MAX))
        })
        .collect())
}

/// Packs of the folder, in no order.
fn packs(folder: &Path) -> io::Result<Vec<PackName>> {
    let mut found = Vec::new();
    for file in fs::read_dir(folder)? {
        found.extend(file?.file_name().to_str().and_then(PackName::parse));
    }
    Ok(found)
}

/// All objects in packs, with the room that they take; `ready` tells the room that a pack has for more.
pub(crate) fn list(
    folder: &Path,
    counts: &Counts,
    ready: impl Fn(PackName) -> u64,
) -> io::Result<Vec<(ObjectId, u64)>> {
    let before = counts.now();
    let (mut found, mut held) = (Vec::new(), PacksHeld::default());
    for name in packs(folder)? {
        let file = match File::open(name.path(folder)) {
            // Deleted meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other?,
        };
        let mut used = 0;
        for (unit, units) in read_table(&file)? {
            let place = PackPlace {
                pack: name.number,
                unit,
                units,
            };
            used += room(place);
            held.objects += 1;
            found.push((ObjectId::packed(name.run, place), room(place)));
        }
        held.bytes += used;
        held.dead_bytes += (file.metadata()?.blocks() * 512).saturating_sub(used + ready(name));
    }
    counts.found(held, before);
    Ok(found)
}

/// Deletes objects, and packs that have none left; `is_open` tells which get more. What is not there is no error.
pub(crate) fn delete(
    folder: &Path,
    ids: &[ObjectId],
    counts: &Counts,
    is_open: impl Fn(PackName) -> bool,
) -> io::Result<()> {
    let mut packs: BTreeMap<PackName, Vec<PackPlace>> = BTreeMap::new();
    for (name, place) in ids.iter().filter_map(|id| find(*id)) {
        packs.entry(name).or_default().push(place);
    }
    for (name, places) in packs {
        let path = name.path(folder);
        // Before its table is read: a pack that is not open gets no more objects.
        let open = is_open(name);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other?,
        };
        let table = read_table(&file)?;
        let mut left = table.len();
        for place in places {
            if table.binary_search(&(place.unit, place.units)).is_ok() {
                give_back(&file, place)?;
                counts.deleted(place);
                left = left.saturating_sub(1);
            }
        }
        if left == 0 && !open {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Frees the room of an object, then its entry: a crash in between leaves an object to be deleted once more.
fn give_back(file: &File, place: PackPlace) -> io::Result<()> {
    punch(file, start(place), room(place))?;
    file.write_all_at(&[0; ENTRY_BYTES as usize], entry(place.unit))
}

fn punch(file: &File, from: u64, len: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, flags, from, len) {
        // A folder that was moved to where it can't be done: the room comes back with the whole pack.
        Err(Errno::OPNOTSUPP) => Ok(()),
        other => Ok(other?),
    }
}

/// Whether single objects can be deleted from a pack here.
fn can_punch(file: &File) -> bool {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, 0, UNIT_BYTES).is_ok()
}

/// Clears away what other runs than `mine` have left: packs without objects, and the zeros behind the last object of a pack that was being
/// filled when its run ended without a stop. Nobody else may write packs in this folder. What can't be looked through stays as it is.
fn clear_away(folder: &Path, mine: u64) -> io::Result<()> {
    let names = packs(folder)?;
    let mut last: BTreeMap<u64, u32> = BTreeMap::new();
    for name in names.iter().filter(|name| name.run != mine) {
        let number = last.entry(name.run).or_default();
        *number = name.number.max(*number);
    }
    for name in names {
        let Some(last) = last.get(&name.run) else {
            continue;
        };
        let path = name.path(folder);
        let was_filling = name.number.saturating_add(FILLING_MAX) > *last;
        match clear_one_away(&path, was_filling) {
            // The run that made it may still be ending.
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(pack = %path.display(), %error, "room that nobody needs may stay in a pack");
            }
            _ => {}
        }
    }
    Ok(())
}

fn clear_one_away(path: &Path, was_filling: bool) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    // Only a file that is next to nothing can be without objects, or one that got none yet.
    let small = metadata.blocks() * 512 <= 2 * TABLE_BYTES;
    if !small && !was_filling {
        return Ok(());
    }
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let table = read_table(&file)?;
    let used = table.last().map_or(TABLE_BYTES, |(unit, units)| {
        (u64::from(*unit) + u64::from(*units)) * UNIT_BYTES
    });
    let end = bytes_end(&file, used, metadata.len())?;
    if table.is_empty() && end <= TABLE_BYTES {
        remove(path)?;
    } else if end < metadata.len() {
        file.set_len(end)?;
    }
    Ok(())
}

/// The end of the last unit that is not zeros, `used` at the least: what a crash has left without an entry, or a table that is damaged, must not
/// take bytes with it (of a document that ends in zeros a damaged table can't tell which are its own).
fn bytes_end(file: &File, used: u64, len: u64) -> io::Result<u64> {
    let mut bytes = vec![0; LOOK_BYTES as usize];
    let mut end = len;
    while end > used {
        let from = used.max(end.saturating_sub(LOOK_BYTES));
        let looked = bytes.get_mut(..(end - from) as usize).unwrap_or_default();
        file.read_exact_at(looked, from)?;
        if let Some(last) = looked.iter().rposition(|byte| *byte != 0) {
            return Ok((from + last as u64 + 1)
                .next_multiple_of(UNIT_BYTES)
                .min(len));
        }
        end = from;
    }
    Ok(used.min(len))
}

/// An object is to be put where this process gives no places.
pub(crate) fn no_place() -> RepoError {
    RepoError::Unavailable("an object has a place in a pack that is not open".into())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
