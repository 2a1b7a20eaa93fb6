//! The content of a document as a map of ranges: bytes in memory, ranges of objects, holes. No I/O.
//!
//! Each piece carries the stamp of the change that made it. An upload remembers the stamp at which it took its bytes: pieces in its
//! range with that stamp or an older one are what it has stored, whatever was written over others meanwhile.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use sluice_repo::{Extent, Manifest, ObjectId, ObjectRef};

use crate::CHUNK_BYTES;

/// Writes shorter than this are copied together, so that a few bytes do not hold a whole receive buffer.
const SMALL_BYTES: usize = 16 * 1024;
/// Longest run of bytes copied together.
const GATHERED_BYTES: usize = 64 * 1024;

const CHUNK: u64 = CHUNK_BYTES as u64;

#[derive(Clone, Debug)]
pub(crate) enum Source {
    Bytes(Bytes),
    Gathered(Vec<u8>),
    Object(ObjectRef, u32),
}

#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) len: u64,
    pub(crate) stamp: u64,
    pub(crate) source: Source,
}

impl Piece {
    fn in_memory(&self) -> bool {
        !matches!(self.source, Source::Object(..))
    }

    /// Its bytes, if they are in memory.
    pub(crate) fn bytes(&self) -> Option<Bytes> {
        match &self.source {
            Source::Bytes(bytes) => Some(bytes.clone()),
            Source::Gathered(bytes) => Some(Bytes::copy_from_slice(bytes)),
            Source::Object(..) => None,
        }
    }

    /// The part from `start` on with length `len`.
    fn part(&self, start: u64, len: u64) -> Piece {
        let from = start as usize;
        let to = (start + len) as usize;
        let source = match &self.source {
            Source::Bytes(bytes) => Source::Bytes(bytes.slice(from..to)),
            Source::Gathered(bytes) => Source::Gathered(bytes[from..to].to_vec()),
            Source::Object(object, offset) => Source::Object(object.clone(), offset + start as u32),
        };
        Piece {
            len,
            stamp: self.stamp,
            source,
        }
    }
}

/// Part of a read.
#[derive(Clone, Debug)]
pub(crate) enum View {
    Bytes(Bytes),
    Object(ObjectRef, u32, u32),
    Zeros(u64),
}

/// A range that an upload stores: `len` bytes of the document from `start` lie at `at` in the object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) at: u32,
}

/// Ranges in order, not overlapping; what is between them reads as zeros.
#[derive(Clone, Debug, Default)]
pub(crate) struct PieceMap {
    pieces: BTreeMap<u64, Piece>,
    /// Bytes in memory for each chunk that has some.
    memory: HashMap<u64, u64>,
    memory_total: u64,
}

impl PieceMap {
    pub(crate) fn of(manifest: &Manifest, stamp: u64) -> PieceMap {
        let mut map = PieceMap::default();
        if !manifest.inline.is_empty() {
            map.put(
                0,
                Piece {
                    len: manifest.inline.len() as u64,
                    stamp,
                    source: Source::Bytes(manifest.inline.clone()),
                },
            );
        }
        for e in &manifest.extents {
            if let Some(object) = manifest.objects.get(e.object as usize) {
                let source = Source::Object(object.clone(), e.object_offset);
                map.put(
                    e.offset,
                    Piece {
                        len: e.len.into(),
                        stamp,
                        source,
                    },
                );
            }
        }
        map
    }

    pub(crate) fn memory_total(&self) -> u64 {
        self.memory_total
    }

    /// Whether all of a chunk is in memory.
    pub(crate) fn chunk_is_full(&self, chunk: u64) -> bool {
        self.memory.get(&chunk) == Some(&CHUNK)
    }

    /// Chunks that have bytes in memory.
    pub(crate) fn chunks_in_memory(&self) -> Vec<u64> {
        self.memory.keys().copied().collect()
    }

    /// Pieces that start in `[start, end)`.
    pub(crate) fn range(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, &Piece)> {
        self.pieces
            .range(start..end)
            .map(|(at, piece)| (*at, piece))
    }

    fn put(&mut self, at: u64, piece: Piece) {
        if piece.in_memory() {
            *self.memory.entry(at / CHUNK).or_default() += piece.len;
            self.memory_total += piece.len;
        }
        self.pieces.insert(at, piece);
    }

    fn take(&mut self, at: u64) -> Option<Piece> {
        let piece = self.pieces.remove(&at)?;
        if piece.in_memory() {
            self.memory_total -= piece.len;
            let chunk = at / CHUNK;
            if let Some(count) = self.memory.get_mut(&chunk) {
                *count -= piece.len;
                if *count == 0 {
                    self.memory.remove(&chunk);
                }
            }
        }
        Some(piece)
    }

    /// Makes a range a hole.
    pub(crate) fn clear(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let before = self
            .pieces
            .range(..start)
            .next_back()
            .map(|(at, piece)| (*at, at + piece.len));
        if let Some((at, piece_end)) = before
            && piece_end > start
            && let Some(piece) = self.take(at)
        {
            if piece_end > end {
                self.put(end, piece.part(end - at, piece_end - end));
            }
            self.put(at, piece.part(0, start - at));
        }
        while let Some((at, len)) = self
            .pieces
            .range(start..end)
            .next()
            .map(|(at, piece)| (*at, piece.len))
        {
            let Some(piece) = self.take(at) else { break };
            if at + len > end {
                self.put(end, piece.part(end - at, at + len - end));
            }
        }
    }

    /// Makes a range what it is in `other`, holes included. The pieces keep their stamps.
    pub(crate) fn take_over(&mut self, other: &PieceMap, start: u64, end: u64) {
        if start >= end {
            return;
        }
        self.clear(start, end);
        let first = other
            .pieces
            .range(..=start)
            .next_back()
            .map_or(start, |(at, _)| *at);
        for (&at, piece) in other.pieces.range(first..end) {
            let (from, to) = (at.max(start), (at + piece.len).min(end));
            if from < to {
                self.put(from, piece.part(from - at, to - from));
            }
        }
    }

    /// Writes bytes over whatever is there.
    pub(crate) fn write(&mut self, mut at: u64, mut data: Bytes, stamp: u64) {
        while !data.is_empty() {
            let room = (CHUNK - at % CHUNK).min(data.len() as u64);
            let part = data.split_to(room as usize);
            self.write_in_chunk(at, part, stamp);
            at += room;
        }
    }

    fn write_in_chunk(&mut self, at: u64, data: Bytes, stamp: u64) {
        let end = at + data.len() as u64;
        let small = data.len() < SMALL_BYTES;
        if small && self.gather(at, &data, stamp) {
            return;
        }
        self.clear(at, end);
        let source = if small {
            Source::Gathered(data.to_vec())
        } else {
            Source::Bytes(data)
        };
        self.put(
            at,
            Piece {
                len: end - at,
                stamp,
                source,
            },
        );
    }

    /// Copies a short write into the gathered piece that it lies in or continues, if there is one.
    fn gather(&mut self, at: u64, data: &[u8], stamp: u64) -> bool {
        let Some((&start, piece)) = self.pieces.range(..=at).next_back() else {
            return false;
        };
        let (old_len, offset) = (piece.len, (at - start) as usize);
        let fits = match &piece.source {
            Source::Gathered(bytes) => {
                offset <= bytes.len() && offset + data.len() <= GATHERED_BYTES
            }
            _ => false,
        };
        let end = at + data.len() as u64;
        if !fits || (end - 1) / CHUNK != start / CHUNK {
            return false;
        }
        if end > start + old_len {
            self.clear(start + old_len, end);
        }
        let Some(piece) = self.pieces.get_mut(&start) else {
            return false;
        };
        let Source::Gathered(bytes) = &mut piece.source else {
            return false;
        };
        let inside = data.len().min(bytes.len() - offset);
        bytes[offset..offset + inside].copy_from_slice(&data[..inside]);
        bytes.extend_from_slice(&data[inside..]);
        piece.stamp = stamp;
        piece.len = bytes.len() as u64;
        let grown = piece.len - old_len;
        if grown > 0 {
            *self.memory.entry(start / CHUNK).or_default() += grown;
            self.memory_total += grown;
        }
        true
    }

    /// What a read of a range consists of.
    pub(crate) fn view(&self, start: u64, end: u64) -> Vec<View> {
        let mut views = Vec::new();
        let mut at = start;
        let first = self
            .pieces
            .range(..=start)
            .next_back()
            .map_or(start, |(at, _)| *at);
        for (&piece_at, piece) in self.pieces.range(first..end) {
            let piece_end = piece_at + piece.len;
            if piece_end <= at {
                continue;
            }
            if piece_at > at {
                views.push(View::Zeros(piece_at - at));
                at = piece_at;
            }
            let len = piece_end.min(end) - at;
            views.push(match piece.part_view(at - piece_at, len) {
                Source::Bytes(bytes) => View::Bytes(bytes),
                Source::Gathered(bytes) => View::Bytes(bytes.into()),
                Source::Object(object, offset) => View::Object(object, offset, len as u32),
            });
            at += len;
        }
        if at < end {
            views.push(View::Zeros(end - at));
        }
        views
    }

    /// An upload is stored: its object takes the place of everything in its ranges that is not newer.
    pub(crate) fn adopt(&mut self, object: &ObjectRef, stored: &[Stored], stamp: u64) {
        for range in stored {
            let end = range.start + range.len;
            let old: Vec<(u64, u64, u64)> = self
                .range(range.start, end)
                .filter(|(at, piece)| piece.stamp <= stamp && at + piece.len <= end)
                .map(|(at, piece)| (at, piece.len, piece.stamp))
                .collect();
            for (at, len, stamp) in old {
                self.take(at);
                let offset = range.at + (at - range.start) as u32;
                self.put(
                    at,
                    Piece {
                        len,
                        stamp,
                        source: Source::Object(object.clone(), offset),
                    },
                );
            }
        }
    }

    /// Takes the bytes of an object's range back into memory, unless something else is there by now.
    pub(crate) fn load(&mut self, mut at: u64, object: &ObjectRef, offset: u32, parts: Vec<Bytes>) {
        let len: u64 = parts.iter().map(|p| p.len() as u64).sum();
        let stamp = match self.pieces.get(&at) {
            Some(Piece {
                len: old,
                stamp,
                source: Source::Object(o, from),
            }) if *old == len && o.id == object.id && *from == offset => *stamp,
            _ => return,
        };
        self.take(at);
        for part in parts {
            let len = part.len() as u64;
            self.put(
                at,
                Piece {
                    len,
                    stamp,
                    source: Source::Bytes(part),
                },
            );
            at += len;
        }
    }

    /// The manifest of a document of this length, if nothing is in memory any more.
    pub(crate) fn manifest(&self, size: u64) -> Option<Manifest> {
        let mut manifest = Manifest {
            size,
            ..Manifest::default()
        };
        let mut indices: HashMap<ObjectId, u32> = HashMap::new();
        for (&at, piece) in &self.pieces {
            let Source::Object(object, object_offset) = &piece.source else {
                return None;
            };
            let index = *indices.entry(object.id).or_insert_with(|| {
                manifest.objects.push(object.clone());
                manifest.objects.len() as u32 - 1
            });
            let len = piece.len as u32;
            match manifest.extents.last_mut() {
                Some(last)
                    if last.object == index
                        && last.offset + u64::from(last.len) == at
                        && last.object_offset + last.len == *object_offset =>
                {
                    last.len += len;
                }
                _ => manifest.extents.push(Extent {
                    offset: at,
                    len,
                    object: index,
                    object_offset: *object_offset,
                }),
            }
        }
        Some(manifest)
    }

    /// Ranges that hold data within `[start, end)`.
    pub(crate) fn data_ranges(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let first = self
            .pieces
            .range(..=start)
            .next_back()
            .map_or(start, |(at, _)| *at);
        for (&at, piece) in self.pieces.range(first..end) {
            let (from, to) = (at.max(start), (at + piece.len).min(end));
            match ranges.last_mut() {
                _ if from >= to => {}
                Some(last) if last.0 + last.1 == from => last.1 += to - from,
                _ => ranges.push((from, to - from)),
            }
        }
        ranges
    }
}

impl Piece {
    fn part_view(&self, start: u64, len: u64) -> Source {
        self.part(start, len).source
    }
}
