//! Objects as files of a folder: `v1/XX/OBJECT`, XX one of 256 sub-folders.
//!
//! A file gets its final name at once, without a temporary one: nothing refers to an object before it is whole, and creating and
//! renaming or deleting files is what makes file systems slow. What a crash leaves half-written nobody refers to, and gc deletes it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use sluice_repo::{ObjectId, RepoError, Result};

use crate::mark;
use crate::objects::Objects;

/// Version of the layout.
const LAYOUT: &str = "v1";

/// A folder of objects.
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Opens a folder, making it and its sub-folders if need be.
    pub fn open(root: impl Into<PathBuf>) -> Result<Folder> {
        let root = root.into();
        let make = || -> io::Result<()> {
            for n in 0..=255u8 {
                fs::create_dir_all(root.join(LAYOUT).join(format!("{n:02x}")))?;
            }
            sync_dir(&root.join(LAYOUT))?;
            sync_dir(&root)
        };
        make().map_err(|error| refused(&root, &error))?;
        Ok(Folder { root })
    }

    fn path(&self, id: ObjectId) -> PathBuf {
        self.root
            .join(LAYOUT)
            .join(format!("{:02x}", id.0 as u8))
            .join(format!("{:032x}", id.0))
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
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
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

fn read_ranges(path: &Path, ranges: &[(u32, u32)]) -> io::Result<Vec<Bytes>> {
    let file = File::open(path)?;
    let mut found = Vec::with_capacity(ranges.len());
    let follows = |a: &(u32, u32), b: &(u32, u32)| a.0.checked_add(a.1) == Some(b.0);
    // What lies side by side is read at once.
    for run in ranges.chunk_by(follows) {
        let len = run.iter().map(|range| range.1 as usize).sum();
        let start = run.first().map_or(0, |range| u64::from(range.0));
        let mut bytes = read_at(&file, start, len)?;
        found.extend(run.iter().map(|range| bytes.split_to(range.1 as usize)));
    }
    Ok(found)
}

/// Exactly `len` bytes from `start` on, into memory that is not filled with zeros first.
fn read_at(file: &File, start: u64, len: usize) -> io::Result<Bytes> {
    let mut bytes: Vec<u8> = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = start + bytes.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(len);
    Ok(bytes.into())
}

fn list(root: &Path) -> io::Result<Vec<(ObjectId, u64)>> {
    let mut found = Vec::new();
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
    async fn put(&self, id: ObjectId, parts: Vec<Bytes>) -> Result<()> {
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

    async fn get(&self, id: ObjectId, ranges: Vec<(u32, u32)>) -> Result<Vec<Bytes>> {
        blocking(self.path(id), move |path| read_ranges(path, &ranges)).await
    }

    async fn delete(&self, ids: &[ObjectId]) -> Result<()> {
        let paths: Vec<PathBuf> = ids.iter().map(|id| self.path(*id)).collect();
        blocking(self.root.clone(), move |_| {
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
        mark::check(&found, repository, &self.root.display().to_string())
    }

    async fn list(&self) -> Result<Vec<(ObjectId, u64)>> {
        blocking(self.root.clone(), list).await
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
