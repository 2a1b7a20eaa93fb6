//! Directory listing entries (MS-FSCC 2.4.8, 2.4.10, 2.4.14, 2.4.17, 2.4.18, 2.4.19, 2.4.28).

use bytes::{BufMut, Bytes, BytesMut};

use crate::cmd::create::FileStamp;
use crate::codec::{pad_to, patch_u32, put_utf16le};
use crate::names::short_name;

/// A listing level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryClass {
    /// FileDirectoryInformation, 1.
    Directory,
    /// FileFullDirectoryInformation, 2.
    Full,
    /// FileBothDirectoryInformation, 3.
    Both,
    /// FileNamesInformation, 12.
    Names,
    /// FileIdBothDirectoryInformation, 37.
    IdBoth,
    /// FileIdFullDirectoryInformation, 38.
    IdFull,
    /// FileIdExtdDirectoryInformation, 60.
    IdExtd,
}

impl DirectoryClass {
    /// The class with this number, if it is one of those answered.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Directory,
            2 => Self::Full,
            3 => Self::Both,
            12 => Self::Names,
            37 => Self::IdBoth,
            38 => Self::IdFull,
            60 => Self::IdExtd,
            _ => return None,
        })
    }

    /// Bytes before the name.
    pub fn fixed_len(self) -> usize {
        match self {
            Self::Directory => 64,
            Self::Full => 68,
            Self::Both => 94,
            Self::Names => 12,
            Self::IdBoth => 104,
            Self::IdFull => 80,
            Self::IdExtd => 88,
        }
    }
}

/// One entry, whatever the level.
#[derive(Clone, Debug)]
pub struct DirectoryEntry<'a> {
    /// Name as the wire shows it.
    pub name: &'a str,
    /// FileIndex.
    pub index: u32,
    /// Times, sizes, attributes.
    pub stamp: FileStamp,
    /// Size of the EA list in bytes, or the reparse tag of a reparse point.
    pub ea_size: u32,
    /// Reparse tag, zero without one.
    pub reparse_tag: u32,
    /// Stable id of the document.
    pub file_id: u64,
}

/// Fills a listing buffer up to its limit.
#[derive(Debug)]
pub struct ListingWriter {
    class: DirectoryClass,
    limit: usize,
    out: BytesMut,
    last: usize,
}

impl ListingWriter {
    /// A buffer of at most `limit` bytes.
    pub fn new(class: DirectoryClass, limit: usize) -> Self {
        Self {
            class,
            limit,
            out: BytesMut::with_capacity(limit.min(64 << 10)),
            last: 0,
        }
    }

    /// True while no entry is in.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Appends an entry; false, and nothing changed, if it doesn't fit.
    pub fn push(&mut self, entry: &DirectoryEntry<'_>) -> bool {
        let start = self.out.len().next_multiple_of(8);
        let name_len = entry.name.encode_utf16().count() * 2;
        if start + self.class.fixed_len() + name_len > self.limit {
            return false;
        }
        pad_to(&mut self.out, 8);
        if start != 0 {
            let step = (start - self.last) as u32;
            patch_u32(&mut self.out, self.last, step);
        }
        self.last = start;
        let out = &mut self.out;
        out.put_u32_le(0);
        out.put_u32_le(entry.index);
        if self.class != DirectoryClass::Names {
            put_stamp(out, &entry.stamp);
        }
        out.put_u32_le(name_len as u32);
        put_tail(out, self.class, entry);
        put_utf16le(out, entry.name);
        true
    }

    /// The buffer.
    pub fn finish(self) -> Bytes {
        self.out.freeze()
    }
}

/// Listings hold end of file before allocation size, unlike CREATE.
fn put_stamp(out: &mut BytesMut, stamp: &FileStamp) {
    for time in [stamp.created, stamp.accessed, stamp.written, stamp.changed] {
        out.put_u64_le(time);
    }
    out.put_u64_le(stamp.size);
    out.put_u64_le(stamp.allocation);
    out.put_u32_le(stamp.attributes);
}

/// ShortNameLength, Reserved and 24 bytes of ShortName; empty if the name is short already.
fn put_short_name(out: &mut BytesMut, name: &str) {
    const SHORT_NAME_BYTES: usize = 24;
    let short = match name {
        "." | ".." => String::new(),
        name => short_name(name),
    };
    let shown = if short.eq_ignore_ascii_case(name) {
        ""
    } else {
        &short
    };
    out.put_u8(shown.len() as u8 * 2);
    out.put_u8(0);
    put_utf16le(out, shown);
    out.put_bytes(0, SHORT_NAME_BYTES - shown.len() * 2);
}

/// What stands between the name's length and the name.
fn put_tail(out: &mut BytesMut, class: DirectoryClass, entry: &DirectoryEntry<'_>) {
    let ea_or_tag = if entry.reparse_tag != 0 {
        entry.reparse_tag
    } else {
        entry.ea_size
    };
    match class {
        DirectoryClass::Directory | DirectoryClass::Names => {}
        DirectoryClass::Full => out.put_u32_le(ea_or_tag),
        DirectoryClass::Both => {
            out.put_u32_le(ea_or_tag);
            put_short_name(out, entry.name);
        }
        DirectoryClass::IdBoth => {
            out.put_u32_le(ea_or_tag);
            put_short_name(out, entry.name);
            out.put_u16_le(0);
            out.put_u64_le(entry.file_id);
        }
        DirectoryClass::IdFull => {
            out.put_u32_le(ea_or_tag);
            out.put_u32_le(0);
            out.put_u64_le(entry.file_id);
        }
        DirectoryClass::IdExtd => {
            out.put_u32_le(entry.ea_size);
            out.put_u32_le(entry.reparse_tag);
            out.put_u64_le(entry.file_id);
            out.put_u64_le(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> DirectoryEntry<'_> {
        DirectoryEntry {
            name,
            index: 0,
            stamp: FileStamp::default(),
            ea_size: 0,
            reparse_tag: 0,
            file_id: 5,
        }
    }

    const ALL: [u8; 7] = [1, 2, 3, 12, 37, 38, 60];

    #[test]
    fn every_level_has_its_documented_fixed_length() {
        for class in ALL.map(|c| DirectoryClass::from_code(c).unwrap()) {
            let mut w = ListingWriter::new(class, 1000);
            assert!(w.push(&entry("ab")));
            assert_eq!(w.finish().len(), class.fixed_len() + 4, "{class:?}");
        }
    }

    #[test]
    fn entries_are_linked_and_aligned_and_the_last_link_is_zero() {
        let mut w = ListingWriter::new(DirectoryClass::Names, 1000);
        assert!(w.push(&entry("abc")));
        assert!(w.push(&entry("d")));
        let out = w.finish();
        assert_eq!(out[0..4], 24u32.to_le_bytes());
        assert_eq!(out[24..28], 0u32.to_le_bytes());
        assert_eq!(out.len(), 24 + 14);
    }

    #[test]
    fn an_entry_that_does_not_fit_changes_nothing() {
        let mut w = ListingWriter::new(DirectoryClass::Names, 20);
        assert!(w.push(&entry("ab")));
        assert!(!w.push(&entry("ab")));
        assert_eq!(w.finish().len(), 16);
    }
}
