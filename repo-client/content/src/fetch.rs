//! Reading objects: pages of verified bytes, kept in memory and handed out as slices.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use sluice_repo::{CHECK_BLOCK_BYTES, Manifest, ObjectId, ObjectRef, RepoError, Result};

use crate::piece::View;
use crate::store::Shared;

/// What is read and kept at once: some blocks of one checksum each.
pub(crate) const PAGE_BYTES: u32 = 4 * CHECK_BLOCK_BYTES;

/// Key of a cached page.
pub(crate) type PageKey = (ObjectId, u32);

static ZEROS: [u8; 65536] = [0; 65536];

/// CRC-32C.
pub(crate) fn block_sum(block: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, block) as u32
}

/// What a read of a version consists of.
pub(crate) fn view_of(manifest: &Manifest, start: u64, end: u64) -> Vec<View> {
    let mut views = Vec::new();
    let mut at = start;
    if at < end.min(manifest.inline.len() as u64) {
        let to = end.min(manifest.inline.len() as u64);
        views.push(View::Bytes(manifest.inline.slice(at as usize..to as usize)));
        at = to;
    }
    let first = manifest
        .extents
        .partition_point(|e| e.offset + u64::from(e.len) <= at);
    for e in manifest
        .extents
        .iter()
        .skip(first)
        .take_while(|e| e.offset < end)
    {
        if e.offset > at {
            views.push(View::Zeros(e.offset - at));
            at = e.offset;
        }
        let to = end.min(e.offset + u64::from(e.len));
        if let Some(object) = manifest.objects.get(e.object as usize) {
            let offset = e.object_offset + (at - e.offset) as u32;
            views.push(View::Object(object.clone(), offset, (to - at) as u32));
        }
        at = to;
    }
    if at < end {
        views.push(View::Zeros(end - at));
    }
    views
}

/// The bytes of views.
pub(crate) async fn fetch(shared: &Shared, views: Vec<View>) -> Result<Vec<Bytes>> {
    let mut found = Vec::with_capacity(views.len());
    for view in views {
        match view {
            View::Bytes(bytes) => found.push(bytes),
            View::Zeros(mut len) => {
                while len > 0 {
                    let part = len.min(ZEROS.len() as u64);
                    found.push(Bytes::from_static(&ZEROS[..part as usize]));
                    len -= part;
                }
            }
            View::Object(object, offset, len) => {
                read_object(shared, &object, offset, len, &mut found).await?
            }
        }
    }
    Ok(found)
}

async fn read_object(
    shared: &Shared,
    object: &ObjectRef,
    offset: u32,
    len: u32,
    out: &mut Vec<Bytes>,
) -> Result<()> {
    let end = offset + len;
    let pages = offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES);
    let cached: Vec<Option<Bytes>> = pages
        .clone()
        .map(|page| shared.pages.get(&(object.id, page)))
        .collect();
    let missing: Vec<u32> = pages
        .clone()
        .zip(&cached)
        .filter(|(_, bytes)| bytes.is_none())
        .map(|(page, _)| page)
        .collect();
    let mut read = read_pages(shared, object, &missing).await?.into_iter();
    for (page, bytes) in pages.zip(cached) {
        let Some(bytes) = bytes.or_else(|| read.next()) else {
            return Err(damaged(object, page));
        };
        let page_start = page * PAGE_BYTES;
        let from = offset.saturating_sub(page_start) as usize;
        let to = ((end - page_start) as usize).min(bytes.len());
        if from >= to {
            return Err(damaged(object, page));
        }
        out.push(bytes.slice(from..to));
    }
    Ok(())
}

async fn read_pages(shared: &Shared, object: &ObjectRef, pages: &[u32]) -> Result<Vec<Bytes>> {
    if pages.is_empty() {
        return Ok(Vec::new());
    }
    let range = |page: &u32| {
        (
            page * PAGE_BYTES,
            PAGE_BYTES.min(object.len.saturating_sub(page * PAGE_BYTES)),
        )
    };
    let ranges: Vec<(u32, u32)> = pages.iter().map(range).collect();
    let mut read = shared.objects.get(object.id, ranges.clone()).await?;
    if let Err(error) = verify_pages(object, pages, &read) {
        // Changed on its way, or stored so: the second reading tells.
        tracing::warn!(%error, "content is read again");
        read = shared.objects.get(object.id, ranges).await?;
        verify_pages(object, pages, &read)
            .inspect_err(|error| tracing::error!(%error, "stored content is damaged"))?;
    }
    // A long read would push out what short ones come back for, and where the system keeps the same bytes, too, gains little.
    if pages.len() == 1 || !shared.objects.kept_by_system() {
        for (page, bytes) in pages.iter().zip(&read) {
            shared.pages.insert((object.id, *page), bytes.clone());
        }
    }
    Ok(read)
}

fn verify_pages(object: &ObjectRef, pages: &[u32], read: &[Bytes]) -> Result<()> {
    pages
        .iter()
        .zip(read)
        .try_for_each(|(page, bytes)| verify_page(object, *page, bytes))
}

fn verify_page(object: &ObjectRef, page: u32, bytes: &[u8]) -> Result<()> {
    let first = (page * (PAGE_BYTES / CHECK_BLOCK_BYTES)) as usize;
    for (n, block) in bytes.chunks(CHECK_BLOCK_BYTES as usize).enumerate() {
        if object.sums.get(first + n) != Some(&block_sum(block)) {
            return Err(damaged(object, page));
        }
    }
    Ok(())
}

fn damaged(object: &ObjectRef, page: u32) -> RepoError {
    RepoError::Corrupt(format!(
        "object {:032x}, bytes from {}: wrong checksum",
        object.id.0,
        u64::from(page) * u64::from(PAGE_BYTES)
    ))
}

/// Reads all of an object past the cache and compares it with its checksums.
pub(crate) async fn verify(shared: &Shared, object: &ObjectRef) -> Result<()> {
    let pages: Vec<u32> = (0..object.len.div_ceil(PAGE_BYTES)).collect();
    let range = |page: &u32| {
        (
            page * PAGE_BYTES,
            PAGE_BYTES.min(object.len - page * PAGE_BYTES),
        )
    };
    let read = shared
        .objects
        .get(object.id, pages.iter().map(range).collect())
        .await?;
    verify_pages(object, &pages, &read)
}
