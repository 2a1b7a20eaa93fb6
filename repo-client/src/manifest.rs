//! Where the bytes of one content version are: inline, or in ranges of immutable objects. Owns the encoding that a
//! metadata store keeps; never touches an object.

use bytes::Bytes;

use crate::error::{RepoError, Result};

/// Name of an immutable object in the content store; never reused: 40 bits of the member epoch that made it, 40 random ones of the
/// process that did (they tell runs apart even if epochs are given again after the database was restored from a backup), and 48 bits
/// that no other object of the run has: a count, or with the highest of them set its place in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub u128);

impl ObjectId {
    const PART: u64 = (1 << 40) - 1;

    /// The name of the object number `count` of a run.
    pub fn new(uploader: u64, run: u64, count: u64) -> ObjectId {
        let part = |value: u64| u128::from(value & ObjectId::PART);
        ObjectId(part(uploader) << 88 | part(run) << 48 | u128::from(count & 0xffff_ffff_ffff))
    }

    /// The name of the object that lies at `place` in a pack of a run; for a process without a cluster. Places in one pack do not overlap.
    pub fn packed(run: u64, place: PackPlace) -> ObjectId {
        let place = u64::from(place.pack & PackPlace::PACK_MAX) << 25
            | u64::from(place.unit & PackPlace::UNIT_MAX) << 11
            | u64::from(place.units & PackPlace::UNITS_MAX);
        ObjectId::new(0, run, ObjectId::PACKED | place)
    }

    const PACKED: u64 = 1 << 47;

    /// The member epoch whose node made it; 0 without a cluster.
    pub fn uploader(self) -> u64 {
        (self.0 >> 88) as u64
    }

    /// The run of the process that made it.
    pub fn run(self) -> u64 {
        (self.0 >> 48) as u64 & ObjectId::PART
    }

    /// Where it lies, if it lies in a pack.
    pub fn place(self) -> Option<PackPlace> {
        let place = self.0 as u64;
        (place & ObjectId::PACKED != 0).then_some(PackPlace {
            pack: (place >> 25) as u32 & PackPlace::PACK_MAX,
            unit: (place >> 11) as u16 & PackPlace::UNIT_MAX,
            units: place as u16 & PackPlace::UNITS_MAX,
        })
    }
}

/// Where an object lies among the packs of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackPlace {
    /// Number of the pack in its run, at most [`PackPlace::PACK_MAX`].
    pub pack: u32,
    /// Where it begins, in units of [`PackPlace::UNIT_BYTES`]; at most [`PackPlace::UNIT_MAX`].
    pub unit: u16,
    /// Its length in units, the last one possibly not full; at most [`PackPlace::UNITS_MAX`].
    pub units: u16,
}

impl PackPlace {
    /// What lengths and positions in packs are counted in.
    pub const UNIT_BYTES: u32 = 4096;
    /// Highest number of a pack.
    pub const PACK_MAX: u32 = (1 << 22) - 1;
    /// Highest position in a pack.
    pub const UNIT_MAX: u16 = (1 << 14) - 1;
    /// Longest object in a pack.
    pub const UNITS_MAX: u16 = (1 << 11) - 1;
}

/// Bytes that one checksum of an object covers.
pub const CHECK_BLOCK_BYTES: u32 = 64 * 1024;

/// Largest document in bytes.
pub const DOCUMENT_BYTES_MAX: u64 = 1 << 40;

/// An object that a manifest refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// Its name.
    pub id: ObjectId,
    /// Its length in bytes.
    pub len: u32,
    /// CRC-32C of each block of [`CHECK_BLOCK_BYTES`], the last one possibly shorter.
    pub sums: std::sync::Arc<[u32]>,
}

/// A range of the document that lies in an object. What no extent covers reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Position in the document.
    pub offset: u64,
    /// Length in bytes, at least 1.
    pub len: u32,
    /// Index into [`Manifest::objects`].
    pub object: u32,
    /// Position in the object.
    pub object_offset: u32,
}

/// The content of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Length of the document in bytes.
    pub size: u64,
    /// All bytes of a small document; empty if `extents` tell.
    pub inline: Bytes,
    /// The objects that `extents` refer to, each once.
    pub objects: Vec<ObjectRef>,
    /// The ranges in ascending order, not overlapping.
    pub extents: Vec<Extent>,
}

/// First byte of every encoding.
const FORMAT: u8 = 1;
const INLINE: u8 = 0;
const EXTENTS: u8 = 1;

impl Manifest {
    /// A document whose bytes are all in the manifest.
    pub fn inline(bytes: Bytes) -> Manifest {
        Manifest {
            size: bytes.len() as u64,
            inline: bytes,
            ..Manifest::default()
        }
    }

    /// Bytes of storage that it refers to.
    pub fn stored_bytes(&self) -> u64 {
        self.inline.len() as u64 + self.extents.iter().map(|e| u64::from(e.len)).sum::<u64>()
    }

    /// Whether offsets, lengths and indices fit together; a manifest that came from outside is checked before use.
    pub fn check(&self) -> Result<()> {
        let bad = |what: &str| Err(RepoError::Corrupt(format!("manifest: {what}")));
        if self.size > DOCUMENT_BYTES_MAX {
            return Err(RepoError::TooLarge);
        }
        if self.inline.len() as u64 > self.size
            || (!self.inline.is_empty() && !self.extents.is_empty())
        {
            return bad("inline bytes beside extents or past the end");
        }
        let mut end = 0;
        for e in &self.extents {
            let Some(object) = self.objects.get(e.object as usize) else {
                return bad("no such object");
            };
            let object_end = u64::from(e.object_offset) + u64::from(e.len);
            if e.len == 0 || e.offset < end || object_end > u64::from(object.len) {
                return bad("extents out of order or past their object");
            }
            end = e.offset.saturating_add(u64::from(e.len));
        }
        if end > self.size {
            return bad("extents past the end");
        }
        match self
            .objects
            .iter()
            .all(|o| o.sums.len() == o.len.div_ceil(CHECK_BLOCK_BYTES) as usize)
        {
            true => Ok(()),
            false => bad("checksums missing"),
        }
    }

    /// The bytes that a metadata store keeps.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.inline.len() + self.objects.len() * 280);
        out.push(FORMAT);
        put_int(&mut out, self.size);
        if self.extents.is_empty() {
            out.push(INLINE);
            out.extend_from_slice(&self.inline);
            return out;
        }
        out.push(EXTENTS);
        put_int(&mut out, self.objects.len() as u64);
        for object in &self.objects {
            out.extend_from_slice(&object.id.0.to_be_bytes());
            put_int(&mut out, u64::from(object.len));
            for sum in object.sums.iter() {
                out.extend_from_slice(&sum.to_le_bytes());
            }
        }
        let mut end = 0;
        for e in &self.extents {
            put_int(&mut out, e.offset - end);
            put_int(&mut out, u64::from(e.len));
            put_int(&mut out, u64::from(e.object));
            put_int(&mut out, u64::from(e.object_offset));
            end = e.offset + u64::from(e.len);
        }
        out
    }

    /// Reads an encoding; inline bytes stay a slice of it.
    pub fn decode(bytes: Bytes) -> Result<Manifest> {
        let mut reader = Reader(bytes);
        let manifest = reader
            .manifest()
            .ok_or_else(|| RepoError::Corrupt("manifest: cut off or unknown".into()))?;
        manifest.check()?;
        Ok(manifest)
    }
}

fn put_int(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

struct Reader(Bytes);

impl Reader {
    fn take(&mut self, n: usize) -> Option<Bytes> {
        (n <= self.0.len()).then(|| self.0.split_to(n))
    }

    fn byte(&mut self) -> Option<u8> {
        let first = *self.0.first()?;
        self.0 = self.0.slice(1..);
        Some(first)
    }

    fn int(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn int32(&mut self) -> Option<u32> {
        self.int()?.try_into().ok()
    }

    fn manifest(&mut self) -> Option<Manifest> {
        if self.byte()? != FORMAT {
            return None;
        }
        let size = self.int()?;
        match self.byte()? {
            INLINE => Some(Manifest {
                size,
                inline: std::mem::take(&mut self.0),
                ..Manifest::default()
            }),
            EXTENTS => self.extents(size),
            _ => None,
        }
    }

    fn extents(&mut self, size: u64) -> Option<Manifest> {
        let mut manifest = Manifest {
            size,
            ..Manifest::default()
        };
        for _ in 0..self.int()? {
            let id = ObjectId(u128::from_be_bytes(
                self.take(16)?.as_ref().try_into().ok()?,
            ));
            let len = self.int32()?;
            let sums = self.take(4 * len.div_ceil(CHECK_BLOCK_BYTES) as usize)?;
            let sums = sums
                .chunks_exact(4)
                .map(|c| c.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b)))
                .collect();
            manifest.objects.push(ObjectRef { id, len, sums });
        }
        let mut end = 0u64;
        while !self.0.is_empty() {
            let offset = end.checked_add(self.int()?)?;
            let extent = Extent {
                offset,
                len: self.int32()?,
                object: self.int32()?,
                object_offset: self.int32()?,
            };
            end = offset.checked_add(u64::from(extent.len))?;
            manifest.extents.push(extent);
        }
        Some(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let object = |id, len: u32| ObjectRef {
            id: ObjectId(id),
            len,
            sums: (0..len.div_ceil(CHECK_BLOCK_BYTES))
                .map(|n| n.wrapping_mul(0x9e37_79b9))
                .collect(),
        };
        Manifest {
            size: 9 << 20,
            inline: Bytes::new(),
            objects: vec![object(u128::MAX - 5, 4 << 20), object(7, 100)],
            extents: vec![
                Extent {
                    offset: 0,
                    len: 65536,
                    object: 0,
                    object_offset: 0,
                },
                Extent {
                    offset: 65536,
                    len: 100,
                    object: 1,
                    object_offset: 0,
                },
                Extent {
                    offset: 8 << 20,
                    len: 1 << 20,
                    object: 0,
                    object_offset: 3 << 20,
                },
            ],
        }
    }

    #[test]
    fn the_name_of_a_packed_object_tells_its_place_and_is_no_counted_one() {
        let ends = |max: u32| [0, 1, max];
        for pack in ends(PackPlace::PACK_MAX) {
            for unit in ends(PackPlace::UNIT_MAX.into()) {
                for units in ends(PackPlace::UNITS_MAX.into()) {
                    let place = PackPlace {
                        pack,
                        unit: unit as u16,
                        units: units as u16,
                    };
                    let id = ObjectId::packed(ObjectId::PART, place);
                    assert_eq!(id.place(), Some(place));
                    assert_eq!((id.uploader(), id.run()), (0, ObjectId::PART));
                }
            }
        }
        assert_eq!(ObjectId::new(1, 2, (1 << 47) - 1).place(), None);
    }

    #[test]
    fn a_manifest_survives_its_encoding() {
        for manifest in [
            Manifest::default(),
            Manifest::inline(Bytes::from_static(b"abc")),
            sample(),
        ] {
            assert_eq!(Manifest::decode(manifest.encode().into()), Ok(manifest));
        }
    }

    #[test]
    fn no_cut_or_changed_encoding_makes_a_manifest_that_reads_out_of_bounds() {
        let bytes = sample().encode();
        for cut in 0..bytes.len() {
            if let Ok(manifest) = Manifest::decode(Bytes::copy_from_slice(&bytes[..cut])) {
                assert_eq!(manifest.check(), Ok(()));
            }
            let mut changed = bytes.clone();
            changed[cut] ^= 0x81;
            if let Ok(manifest) = Manifest::decode(changed.into()) {
                assert_eq!(manifest.check(), Ok(()));
            }
        }
    }
}
