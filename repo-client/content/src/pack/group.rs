//! One file that many append to, made durable together: whoever has written while a sync was under way waits for the next one, and all
//! who wait are answered by it. A sync that fails is the file's last: what the system has dropped of it a second one would not tell.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::io::{Errno, pwritev};
use sluice_repo::{PackPlace, RepoError, Result};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

use super::{Counts, UNIT_BYTES, entry, room, start};

/// Bytes of an object that one call writes: the system takes memory for all of them at once, and large pieces of it are dear.
const WRITE_BYTES: usize = 64 << 10;
/// Slices that one call takes (IOV_MAX).
const SLICES_MAX: usize = 1024;

/// Makes what was written to a file durable.
pub(crate) type Sync = Arc<dyn Fn(&File) -> io::Result<()> + Send + std::marker::Sync>;

/// A pack that objects are put into.
pub(super) struct Pack {
    file: File,
    sync: Sync,
    /// What an error of the file means.
    refused: Box<dyn Fn(&io::Error) -> RepoError + Send + std::marker::Sync>,
    counts: Arc<Counts>,
    /// Held for a sync: an error is told to one of those that sync at once, and the other must not believe that it went well.
    turn: Mutex<()>,
    /// Taken for moments, after the turn; no call is made under it.
    group: Mutex<Group>,
}

#[derive(Default)]
struct Group {
    /// Counts what was written.
    written: u64,
    /// What of it is durable.
    synced: u64,
    /// Somebody syncs, and goes on or hands over until nobody waits.
    syncing: bool,
    /// Who waits, and for what.
    waiting: Vec<(u64, oneshot::Sender<Result<()>>)>,
    failed: Option<RepoError>,
}

/// Who makes something durable that was written.
enum Turn {
    /// Who has written it.
    Mine(u64),
    /// Somebody else.
    Others(oneshot::Receiver<Result<()>>),
}

impl Pack {
    pub(super) fn new(
        file: File,
        sync: Sync,
        counts: Arc<Counts>,
        refused: impl Fn(&io::Error) -> RepoError + Send + std::marker::Sync + 'static,
    ) -> Arc<Pack> {
        Arc::new(Pack {
            file,
            sync,
            refused: Box::new(refused),
            counts,
            turn: Mutex::default(),
            group: Mutex::default(),
        })
    }

    /// Whether nothing more can become durable here.
    pub(super) fn has_failed(&self) -> bool {
        self.group.lock().failed.is_some()
    }

    /// Gives back what lies behind the last place; no more objects will be put here.
    pub(super) fn cut_off(&self, end: u16) {
        let end = u64::from(end) * UNIT_BYTES;
        let longer = self.file.metadata().is_ok_and(|pack| pack.len() > end);
        if longer && let Err(error) = self.file.set_len(end) {
            tracing::debug!(%error, "a pack keeps room that it does not need");
        }
    }

    /// Stores an object at its place; on the caller's thread if it may be held up.
    pub(super) async fn put(self: &Arc<Pack>, place: PackPlace, parts: Vec<Bytes>) -> Result<()> {
        let told = if sluice_repo::may_block() {
            // Writing goes to the system's memory; only the sync is worth another thread for the runtime's other tasks.
            match self.write_and_join(place, &parts)? {
                Turn::Mine(written) => return held_up(|| self.sync_first(written)),
                Turn::Others(told) => told,
            }
        } else {
            let pack = self.clone();
            let work = move || match pack.write_and_join(place, &parts)? {
                Turn::Mine(written) => pack.sync_first(written).map(|()| None),
                Turn::Others(told) => Ok(Some(told)),
            };
            let done = tokio::task::spawn_blocking(work).await;
            match done.unwrap_or_else(|_| Err(ended()))? {
                Some(told) => told,
                None => return Ok(()),
            }
        };
        told.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Writes an object and tells its number; somebody has to [`Pack::settle`] it.
    pub(super) fn write_and_count(&self, place: PackPlace, parts: &[Bytes]) -> Result<u64> {
        self.write(place, parts)
            .map_err(|error| (self.refused)(&error))?;
        let mut group = self.group.lock();
        group.written += 1;
        Ok(group.written)
    }

    /// Makes durable what was written until then, and whatever else was written until now.
    pub(super) fn settle(&self, written: u64) -> Result<()> {
        match self.has_settled(written) {
            true => Ok(()),
            false => self.sync_up_to(written),
        }
    }

    pub(super) fn has_settled(&self, written: u64) -> bool {
        self.group.lock().synced >= written
    }

    fn write_and_join(&self, place: PackPlace, parts: &[Bytes]) -> Result<Turn> {
        self.write(place, parts)
            .map_err(|error| (self.refused)(&error))?;
        self.join()
    }

    fn write(&self, place: PackPlace, parts: &[Bytes]) -> io::Result<()> {
        let len: usize = parts.iter().map(Bytes::len).sum();
        if len as u64 > room(place) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // First, so that what fails half-way can be found and deleted.
        self.file
            .write_all_at(&place.units.to_le_bytes(), entry(place.unit))?;
        write_whole(&self.file, start(place), parts)?;
        self.counts.appended(place);
        Ok(())
    }

    /// Something was written: who makes it durable?
    fn join(&self) -> Result<Turn> {
        let mut group = self.group.lock();
        if let Some(failed) = &group.failed {
            return Err(failed.clone());
        }
        group.written += 1;
        let written = group.written;
        if group.syncing {
            let (tell, told) = oneshot::channel();
            group.waiting.push((written, tell));
            return Ok(Turn::Others(told));
        }
        group.syncing = true;
        Ok(Turn::Mine(written))
    }

    /// Syncs for one caller; those who have come meanwhile are left to another thread.
    fn sync_first(self: &Arc<Pack>, written: u64) -> Result<()> {
        let result = self.sync_up_to(written);
        if !self.is_over() {
            let pack = self.clone();
            tokio::task::spawn_blocking(move || pack.sync_the_rest());
        }
        result
    }

    fn sync_the_rest(&self) {
        while !self.is_over() {
            let written = self.group.lock().written;
            // Who waits is told.
            let _ = self.sync_up_to(written);
        }
    }

    /// Whether nobody waits; the next one to write then syncs.
    fn is_over(&self) -> bool {
        let mut group = self.group.lock();
        group.syncing = !group.waiting.is_empty();
        !group.syncing
    }

    /// What was written to a file that somebody has deleted would be gone with the process.
    fn has_a_name(&self) -> io::Result<()> {
        match self.file.metadata()?.nlink() {
            0 => Err(io::Error::other("the file was deleted")),
            _ => Ok(()),
        }
    }

    /// Makes durable what was written until `wanted`, and tells those who have waited for that.
    fn sync_up_to(&self, wanted: u64) -> Result<()> {
        let _turn = self.turn.lock();
        let (synced, written, failed) = {
            let group = self.group.lock();
            (group.synced, group.written, group.failed.clone())
        };
        let result = match failed {
            _ if synced >= wanted => return Ok(()),
            Some(failed) => Err(failed),
            None => {
                self.counts.synced();
                (self.sync)(&self.file)
                    .and_then(|()| self.has_a_name())
                    .map_err(|error| (self.refused)(&error))
            }
        };
        let mut group = self.group.lock();
        let told = match &result {
            Ok(()) => {
                group.synced = group.synced.max(written);
                group
                    .waiting
                    .extract_if(.., |(at, _)| *at <= written)
                    .collect()
            }
            Err(error) => {
                group.failed = Some(error.clone());
                std::mem::take(&mut group.waiting)
            }
        };
        drop(group);
        for (_, waits) in told {
            // The asker may have gone.
            let _ = waits.send(result.clone());
        }
        result
    }
}

/// Writes parts one behind the other and zeros behind them, whole units: the rest of one would first be read where zeros were written ahead.
fn write_whole(file: &File, mut at: u64, parts: &[Bytes]) -> io::Result<()> {
    const ZEROS: [u8; UNIT_BYTES as usize] = [0; UNIT_BYTES as usize];
    let len: usize = parts.iter().map(Bytes::len).sum();
    let behind = len.next_multiple_of(ZEROS.len()) - len;
    let (mut slices, mut filled) = (Vec::with_capacity(parts.len() + 2), 0);
    for part in parts.iter().map(|part| &part[..]).chain([&ZEROS[..behind]]) {
        let mut rest = part;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(WRITE_BYTES - filled));
            slices.push(IoSlice::new(now));
            filled += now.len();
            rest = later;
            if filled == WRITE_BYTES || slices.len() == SLICES_MAX {
                write_all_vectored_at(file, at, &mut slices)?;
                at += filled as u64;
                slices.clear();
                filled = 0;
            }
        }
    }
    write_all_vectored_at(file, at, &mut slices)
}

fn write_all_vectored_at(
    file: &File,
    mut at: u64,
    mut slices: &mut [IoSlice<'_>],
) -> io::Result<()> {
    while !slices.is_empty() {
        match pwritev(file, slices, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                at += count as u64;
                IoSlice::advance_slices(&mut slices, count);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn ended() -> RepoError {
    RepoError::Unavailable("a task of the content store ended".into())
}

/// Runs `work`, which waits for the disk, on this thread; the runtime's other tasks get another one.
fn held_up<T>(work: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
