//! What a disk holds after a loss of power, under the least that systems promise: bytes are safe when a sync of their file that began
//! after they were written has ended, names when a sync of their folder has. Of everything else any part may be there, in blocks of
//! 512 bytes; names in the order in which they were changed, as journals have it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::trace::{Call, Event};

/// What a disk writes whole or not at all.
const BLOCK: usize = 512;

/// The files of one process through all that it did to them.
pub struct Disk {
    start: BTreeMap<PathBuf, usize>,
    folders: Vec<PathBuf>,
    files: Vec<File>,
    names: Vec<NameChange>,
}

#[derive(Default)]
struct File {
    /// What it held at the start.
    start: Vec<u8>,
    /// How long it is, without a loss of power, after the changes so far.
    length: u64,
    changes: Vec<Change>,
    /// When syncs of it began and ended.
    syncs: Vec<(u64, u64)>,
}

struct Change {
    begun: u64,
    ended: u64,
    what: What,
}

enum What {
    Bytes(u64, Vec<u8>),
    Length(u64),
    AtLeast(u64),
}

struct NameChange {
    ended: u64,
    /// When it was durable.
    safe: u64,
    what: Naming,
}

enum Naming {
    Set(PathBuf, usize),
    Gone(PathBuf),
    Folder(PathBuf),
    FolderGone(PathBuf),
}

/// A small generator of numbers that repeat with the seed (xorshift64*).
pub struct Chance(pub u64);

impl Chance {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end.max(1)
    }
}

impl Disk {
    /// `start`: the files (with their bytes) and folders that were there, and durable, before the first event.
    pub fn new(start: Vec<(PathBuf, Vec<u8>)>, folders: Vec<PathBuf>, events: &[Event]) -> Disk {
        let mut disk = Disk {
            start: BTreeMap::new(),
            folders,
            files: Vec::new(),
            names: Vec::new(),
        };
        for (path, bytes) in start {
            disk.start.insert(path, disk.files.len());
            disk.files.push(File {
                length: bytes.len() as u64,
                start: bytes,
                ..File::default()
            });
        }
        let mut now = disk.start.clone();
        for event in events {
            disk.take(event, &mut now);
        }
        disk.find_safe(events);
        disk
    }

    fn take(&mut self, event: &Event, now: &mut BTreeMap<PathBuf, usize>) {
        let (begun, ended) = (event.begun, event.ended);
        let change = |path: &Path, what: What, files: &mut Vec<File>| {
            if let Some(file) = now.get(path) {
                files[*file].change(begun, ended, what);
            }
        };
        let mut names = Vec::new();
        match &event.call {
            Call::Open { path, truncate } => {
                if now.contains_key(path) && *truncate {
                    change(path, What::Length(0), &mut self.files);
                } else if !now.contains_key(path) {
                    self.files.push(File::default());
                    names.push(Naming::Set(path.clone(), self.files.len() - 1));
                }
            }
            Call::Write { path, at, bytes } => {
                change(path, What::Bytes(*at, bytes.clone()), &mut self.files);
            }
            Call::Truncate { path, length } => {
                change(path, What::Length(*length), &mut self.files);
            }
            Call::Room { path, end } => change(path, What::AtLeast(*end), &mut self.files),
            Call::Hole { path, at, length } => {
                let end = now.get(path).map_or(0, |file| self.files[*file].length);
                let zeros = vec![0; end.min(at + length).saturating_sub(*at) as usize];
                change(path, What::Bytes(*at, zeros), &mut self.files);
            }
            Call::Sync(path) => {
                if let Some(file) = now.get(path) {
                    self.files[*file].syncs.push((begun, ended));
                }
            }
            Call::Rename { from, to } => {
                if let Some(file) = now.get(from) {
                    names.push(Naming::Set(to.clone(), *file));
                    names.push(Naming::Gone(from.clone()));
                }
            }
            Call::Link { from, to } => {
                if let Some(file) = now.get(from) {
                    names.push(Naming::Set(to.clone(), *file));
                }
            }
            Call::Unlink(path) => names.push(Naming::Gone(path.clone())),
            Call::MakeFolder(path) => names.push(Naming::Folder(path.clone())),
            Call::RemoveFolder(path) => names.push(Naming::FolderGone(path.clone())),
        }
        for what in names {
            match &what {
                Naming::Set(path, file) => drop(now.insert(path.clone(), *file)),
                Naming::Gone(path) => drop(now.remove(path)),
                Naming::Folder(_) | Naming::FolderGone(_) => {}
            }
            let safe = u64::MAX;
            self.names.push(NameChange { ended, safe, what });
        }
    }

    fn find_safe(&mut self, events: &[Event]) {
        for change in &mut self.names {
            let (Naming::Set(path, _)
            | Naming::Gone(path)
            | Naming::Folder(path)
            | Naming::FolderGone(path)) = &change.what;
            let synced = events.iter().filter(|event| {
                event.begun >= change.ended
                    && matches!(&event.call, Call::Sync(folder) if Some(folder.as_path()) == path.parent())
            });
            change.safe = synced.map(|event| event.ended).min().unwrap_or(u64::MAX);
        }
    }

    /// Makes the folders and files that are left of a loss of power at `moment` (microseconds since 1970).
    pub fn cut(&self, moment: u64, chance: &mut Chance) -> anyhow::Result<()> {
        let must = self.names.iter().rposition(|change| change.safe <= moment);
        let may = self.names.iter().filter(|c| c.ended <= moment).count();
        let must = must.map_or(0, |at| at + 1);
        let kept = must + chance.below((may.max(must) - must) as u64 + 1) as usize;
        let mut names = self.start.clone();
        let mut folders = self.folders.clone();
        for change in &self.names[..kept] {
            match &change.what {
                Naming::Set(path, file) => drop(names.insert(path.clone(), *file)),
                Naming::Gone(path) => drop(names.remove(path)),
                Naming::Folder(path) => folders.push(path.clone()),
                Naming::FolderGone(path) => folders.retain(|folder| folder != path),
            }
        }
        for folder in folders {
            std::fs::create_dir_all(folder)?;
        }
        for (path, file) in names {
            std::fs::write(path, self.files[file].cut(moment, chance))?;
        }
        Ok(())
    }
}

impl File {
    fn change(&mut self, begun: u64, ended: u64, mut what: What) {
        match &mut what {
            What::Length(length) => self.length = *length,
            What::AtLeast(length) => self.length = self.length.max(*length),
            What::Bytes(at, new) => {
                // To the end, wherever that was.
                *at = if *at == u64::MAX { self.length } else { *at };
                self.length = self.length.max(*at + new.len() as u64);
            }
        }
        self.changes.push(Change { begun, ended, what });
    }

    fn cut(&self, moment: u64, chance: &mut Chance) -> Vec<u8> {
        let mut bytes = self.start.clone();
        // How likely a change that no sync covers is there: from none of them to all.
        let likely = chance.below(5);
        for change in self.changes.iter().filter(|c| c.begun <= moment) {
            let safe = self
                .syncs
                .iter()
                .any(|(begun, ended)| *begun >= change.ended && *ended <= moment);
            match &change.what {
                What::Length(length) => {
                    if safe || chance.below(4) < likely {
                        bytes.resize(*length as usize, 0);
                    }
                }
                What::AtLeast(length) => {
                    if safe || chance.below(4) < likely {
                        bytes.resize(bytes.len().max(*length as usize), 0);
                    }
                }
                What::Bytes(at, new) => {
                    let (mut from, end) = (*at as usize, *at as usize + new.len());
                    while from < end {
                        let to = end.min((from / BLOCK + 1) * BLOCK);
                        if safe || chance.below(4) < likely {
                            bytes.resize(bytes.len().max(to), 0);
                            let block = &new[from - *at as usize..to - *at as usize];
                            bytes[from..to].copy_from_slice(block);
                        }
                        from = to;
                    }
                }
            }
        }
        bytes
    }
}
