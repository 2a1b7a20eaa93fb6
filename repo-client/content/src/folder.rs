//! Objects as files of a folder: `v1/XX/OBJECT`, XX one of 256 sub-folders; those that have a place in a pack in `v1/packs` (`pack/`).
//!
//! A file gets its final name at once, without a temporary one: nothing refers to an object before it is whole, and creating and
//! renaming or deleting files is what makes file systems slow. What a crash leaves half-written nobody refers to, and gc deletes it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{Errno, ReadWriteFlags};
use sluice_repo::{ObjectId, PackCounts, RepoError, Result, Unsettled};

use crate::buffers::{Buffer, Buffers};
use crate::fetch::PAGE_BYTES;
use crate::mark;
use crate::objects::Objects;
use crate::pack::{self, Counts, Packs};

/// Version of the layout.
const LAYOUT: &str = "v1";
/// Bytes written with one call. The kernel takes memory for all of them at once, as large as it can: the larger, the more likely
/// memory that nobody used lately, whose first use costs ten times the copy on virtual machines that give free memory back to their host.
const PIECE_BYTES: usize = 64 << 10;
/// From this length on the room of a file is asked for before it is written: cheaper than page by page, and a full disk says so at once.
const ALLOCATE_BYTES_MIN: u64 = 256 << 10;
/// Reads up to this length are done at once where the system has the bytes in memory; longer ones would hold up others.
const AT_ONCE_BYTES_MAX: u64 = 2 << 20;

/// A folder of objects.
pub struct Folder {
    root: PathBuf,
    buffers: Buffers,
    /// Where new objects that are not long go.
    pub(crate) packs: Option<Arc<Packs>>,
}

impl Folder {
    /// Opens a folder, making it and its sub-folders if need be.
    pub fn open(root: impl Into<PathBuf>) -> Result<Folder> {
        let root = root.into();
        let make = || -> io::Result<()> {
            for n in 0..=255u8 {
                fs::create_dir_all(root.join(LAYOUT).join(format!("{n:02x}")))?;
            }
            fs::create_dir_all(root.join(LAYOUT).join(pack::FOLDER))?;
            sync_dir(&root.join(LAYOUT))?;
            sync_dir(&root)
        };
        make().map_err(|error| refused(&root, &error))?;
        Ok(Folder {
            root,
            buffers: Buffers::new(PAGE_BYTES as usize),
            packs: None,
        })
    }

    /// Opens a folder that no other process writes to: objects that are not long go into packs, where the file system can free
    /// parts of files.
    pub fn alone(root: impl Into<PathBuf>) -> Result<Folder> {
        Folder::alone_with(root.into(), Arc::new(File::sync_data))
    }

    pub(crate) fn alone_with(root: PathBuf, sync: pack::Sync) -> Result<Folder> {
        let mut folder = Folder::open(root)?;
        let packs = Packs::open(folder.packs_path(), sync, refused)
            .map_err(|error| refused(&folder.root, &error))?;
        folder.packs = packs.map(Arc::new);
        Ok(folder)
    }

    /// Of packs; a folder that makes none counts for nobody.
    fn counts(&self) -> Arc<Counts> {
        let packs = self.packs.as_ref();
        packs.map_or_else(Arc::default, |packs| packs.counts().clone())
    }

    fn packs_path(&self) -> PathBuf {
        self.root.join(LAYOUT).join(pack::FOLDER)
    }

    fn path(&self, id: ObjectId) -> PathBuf {
        self.root
            .join(LAYOUT)
            .join(format!("{:02x}", id.0 as u8))
            .join(format!("{:032x}", id.0))
    }

    /// The file that an object lies in, from where on, and the room that it has there.
    fn find(&self, id: ObjectId) -> (PathBuf, u64, u64) {
        match pack::find(id) {
            Some((name, place)) => (
                name.path(&self.packs_path()),
                pack::start(place),
                pack::room(place),
            ),
            None => (self.path(id), 0, u64::MAX),
        }
    }
}

fn refused(path: &Path, error: &io::Error) -> RepoError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            RepoError::NoSpace
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            RepoError::ReadOnly(format!("{}: {error}", path.display()))
        }
        ErrorKind::NotFound | ErrorKind::UnexpectedEof => {
            RepoError::Corrupt(format!("object {} is missing or too short", path.display()))
        }
        _ => RepoError::Unavailable(format!("{}: {error}", path.display())),
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn write_object(path: &Path, parts: &[Bytes]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
    if len >= ALLOCATE_BYTES_MIN {
        // Not every file system can; what else is wrong the writes tell.
        let asked = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len);
        if let Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) = asked {
            return Err(error.into());
        }
    }
    let mut slices: Vec<IoSlice<'_>> = parts
        .iter()
        .flat_map(|part| part.chunks(PIECE_BYTES))
        .map(IoSlice::new)
        .collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        let mut len = 0;
        let fits = |slice: &&IoSlice<'_>| {
            len += slice.len();
            len <= PIECE_BYTES
        };
        let count = rest.iter().take_while(fits).count().max(1);
        match file.write_vectored(rest.get(..count).unwrap_or_default()) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut rest, n),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.sync_data()?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Writes the mark if there is none, and returns the one that holds. It gets its name when it is whole and durable; a hard link
/// decides between nodes that start at once.
fn mark_or_read(path: &Path, mark: &[u8]) -> io::Result<Vec<u8>> {
    if !path.try_exists()? {
        let mut unique = [0; 8];
        getrandom::fill(&mut unique).map_err(|error| io::Error::other(error.to_string()))?;
        let draft = path.with_extension(format!("{:016x}", u64::from_le_bytes(unique)));
        let mut file = File::create_new(&draft)?;
        file.write_all(mark)?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Ok(()) => fs::remove_file(&draft)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => fs::remove_file(&draft)?,
            // A shared folder without hard links.
            Err(_) => fs::rename(&draft, path)?,
        }
        path.parent().map_or(Ok(()), sync_dir)?;
    }
    fs::read(path)
}

/// Reads ranges of what begins at `from`; `flags` say whether it may wait for the disk.
fn read_ranges(
    file: &File,
    from: u64,
    ranges: &[(u32, u32)],
    buffers: &Buffers,
    flags: ReadWriteFlags,
) -> io::Result<Vec<Bytes>> {
    let mut found = Vec::with_capacity(ranges.len());
    let follows = |a: &(u32, u32), b: &(u32, u32)| a.0.checked_add(a.1) == Some(b.0);
    // What lies side by side is read at once.
    for run in ranges.chunk_by(follows) {
        let mut read: Vec<Buffer> = run
            .iter()
            .map(|range| buffers.take(range.1 as usize))
            .collect();
        let start = from + run.first().map_or(0, |range| u64::from(range.0));
        fill(file, start, &mut read, flags)?;
        found.extend(read.into_iter().map(Bytes::from));
    }
    Ok(found)
}

/// Fills buffers with the bytes from `at` on.
fn fill(file: &File, mut at: u64, buffers: &mut [Buffer], flags: ReadWriteFlags) -> io::Result<()> {
    let mut slices: Vec<IoSliceMut<'_>> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
    let mut rest = slices.as_mut_slice();
    IoSliceMut::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match rustix::io::preadv2(file, rest, at, flags) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                at += count as u64;
                IoSliceMut::advance_slices(&mut rest, count);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What the system has in memory, the way to it included; `None` if it would have to wait for the disk, or on any trouble.
fn in_memory(
    path: &Path,
    from: u64,
    ranges: &[(u32, u32)],
    buffers: &Buffers,
) -> Option<Vec<Bytes>> {
    let len: u64 = ranges.iter().map(|range| u64::from(range.1)).sum();
    if len > AT_ONCE_BYTES_MAX {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED).ok()?;
    read_ranges(&file.into(), from, ranges, buffers, ReadWriteFlags::NOWAIT).ok()
}

fn list(root: &Path, packs: Option<&Packs>, counts: &Counts) -> io::Result<Vec<(ObjectId, u64)>> {
    let ready = |name| packs.map_or(0, |packs| packs.ready(name));
    let mut found = pack::list(&root.join(LAYOUT).join(pack::FOLDER), counts, ready)?;
    for folder in fs::read_dir(root.join(LAYOUT))? {
        let folder = folder?;
        if !folder.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(folder.path())? {
            let file = file?;
            let id = file
                .file_name()
                .to_str()
                .and_then(|name| u128::from_str_radix(name, 16).ok());
            match (id, file.metadata()) {
                (Some(id), Ok(metadata)) => found.push((ObjectId(id), metadata.len())),
                // Deleted meanwhile, perhaps by another node.
                (Some(_), Err(error)) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Runs blocking work off the runtime's threads.
async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(move || work(&path).map_err(|error| refused(&path, &error)))
        .await
        .unwrap_or_else(|_| {
            Err(RepoError::Unavailable(
                "a task of the content store ended".into(),
            ))
        })
}

#[async_trait]
impl Objects for Folder {
    fn inline_bytes(&self, alone: bool) -> u64 {
        match self.packs {
            // With nobody to share its sync with, a pack's is one more.
            Some(_) if !alone => pack::OBJECT_BYTES_MIN,
            _ => 64 << 10,
        }
    }

    fn place(&self, len: u64) -> Option<ObjectId> {
        self.packs.as_ref()?.place(len)
    }

    fn packs(&self) -> Option<PackCounts> {
        Some(self.packs.as_ref()?.counts().now())
    }

    async fn put(&self, id: ObjectId, parts: Vec<Bytes>) -> Result<()> {
        if id.place().is_some() {
            let packs = self.packs.as_ref().ok_or_else(pack::no_place)?;
            return packs.put(id, parts).await;
        }
        let written = blocking(self.path(id), move |path| {
            write_object(path, &parts).inspect_err(|error| {
                if error.kind() != ErrorKind::AlreadyExists {
                    // Half an object takes room that may be what is missing; if this fails, too, gc comes by.
                    let _ = fs::remove_file(path);
                }
            })
        });
        match written.await {
            // A folder that was moved away is not damage to stored data.
            Err(RepoError::Corrupt(why)) => Err(RepoError::Unavailable(why)),
            other => other,
        }
    }

    async fn take(&self, id: ObjectId, parts: Vec<Bytes>) -> Result<Option<Arc<dyn Unsettled>>> {
        match &self.packs {
            // Writing goes to the system's memory, but may be held up where that is short.
            Some(packs) if id.place().is_some() && sluice_repo::may_block() => {
                let taken: Arc<dyn Unsettled> = packs.take(id, &parts)?;
                Ok(Some(taken))
            }
            _ => self.put(id, parts).await.map(|()| None),
        }
    }

    async fn get(&self, id: ObjectId, ranges: Vec<(u32, u32)>) -> Result<Vec<Bytes>> {
        let ((path, from, room), buffers) = (self.find(id), self.buffers.clone());
        let inside = |(start, len): &(u32, u32)| u64::from(*start) + u64::from(*len) <= room;
        if !ranges.iter().all(inside) {
            return Err(refused(&path, &ErrorKind::UnexpectedEof.into()));
        }
        // Handing over to another thread and back costs as much as copying half a megabyte.
        if let Some(found) = in_memory(&path, from, &ranges, &buffers) {
            return Ok(found);
        }
        blocking(path, move |path| {
            let file = File::open(path)?;
            read_ranges(&file, from, &ranges, &buffers, ReadWriteFlags::empty())
        })
        .await
    }

    async fn delete(&self, ids: &[ObjectId]) -> Result<()> {
        let (packed, single): (Vec<ObjectId>, Vec<ObjectId>) =
            ids.iter().copied().partition(|id| id.place().is_some());
        let paths: Vec<PathBuf> = single.iter().map(|id| self.path(*id)).collect();
        let (folder, packs, counts) = (self.packs_path(), self.packs.clone(), self.counts());
        blocking(self.root.clone(), move |_| {
            pack::delete(&folder, &packed, &counts, |name| {
                packs.as_ref().is_some_and(|packs| packs.is_open(name))
            })?;
            paths
                .iter()
                .try_for_each(|path| match fs::remove_file(path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                })
        })
        .await
    }

    async fn claim(&self, repository: &str) -> Result<()> {
        let mark = mark::text(repository);
        let path = self.root.join(LAYOUT).join(mark::NAME);
        let found = blocking(path, move |path| mark_or_read(path, mark.as_bytes())).await?;
        mark::check(&found, repository, &self.root.display().to_string())?;
        // Not before it is known whose packs these are.
        match self.packs.clone() {
            Some(packs) => blocking(self.packs_path(), move |_| packs.tidy()).await,
            None => Ok(()),
        }
    }

    async fn list(&self) -> Result<Vec<(ObjectId, u64)>> {
        let (packs, counts) = (self.packs.clone(), self.counts());
        blocking(self.root.clone(), move |root| {
            list(root, packs.as_deref(), &counts)
        })
        .await
    }

    fn kept_by_system(&self) -> bool {
        true
    }

    fn room(&self) -> Result<(u64, u64)> {
        let stat =
            rustix::fs::statvfs(&self.root).map_err(|errno| refused(&self.root, &errno.into()))?;
        Ok((
            stat.f_blocks.saturating_mul(stat.f_frsize),
            stat.f_bavail.saturating_mul(stat.f_frsize),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ObjectId = ObjectId(7);

    /// An object of odd parts, whose bytes tell their place.
    async fn stored(folder: &Folder) -> Vec<u8> {
        let whole: Vec<u8> = (0..3_000_030_u32).map(|n| (n % 251) as u8).collect();
        let parts = whole.chunks(100_001).map(Bytes::copy_from_slice).collect();
        folder.put(ID, parts).await.expect("put");
        whole
    }

    async fn pages(folder: &Folder, whole: &[u8]) {
        let page = PAGE_BYTES;
        let rest = whole.len() as u32 - 11 * page;
        let ranges = [(0, page), (page, page), (5 * page, page), (11 * page, rest)];
        let read = folder.get(ID, ranges.to_vec()).await.expect("get");
        for ((start, len), bytes) in ranges.into_iter().zip(read) {
            assert!(bytes == whole[start as usize..][..len as usize], "{start}");
        }
    }

    #[tokio::test]
    async fn an_object_is_read_alike_from_memory_and_from_disk() {
        let dir = tempfile::tempdir().expect("folder");
        let folder = Folder::open(dir.path()).expect("open");
        let whole = stored(&folder).await;
        pages(&folder, &whole).await;
        let file = File::open(folder.path(ID)).expect("object");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("forget");
        pages(&folder, &whole).await;
        pages(&folder, &whole).await;
    }

    #[tokio::test]
    async fn what_is_not_there_is_told_on_both_ways() {
        let dir = tempfile::tempdir().expect("folder");
        let folder = Folder::open(dir.path()).expect("open");
        let whole = stored(&folder).await;
        let beyond = vec![(whole.len() as u32 - 5, 10)];
        let short = folder.get(ID, beyond).await;
        assert!(matches!(short, Err(RepoError::Corrupt(_))), "{short:?}");
        let missing = folder.get(ObjectId(8), vec![(0, 10)]).await;
        assert!(matches!(missing, Err(RepoError::Corrupt(_))), "{missing:?}");
    }
}
