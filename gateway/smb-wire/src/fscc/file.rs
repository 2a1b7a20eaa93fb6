//! File information classes that QUERY_INFO answers (MS-FSCC 2.4).

use bytes::{BufMut, BytesMut};

use crate::cmd::create::FileStamp;
use crate::codec::{pad_to, patch_u32, put_utf16le, to_utf16le};
use crate::names::short_name;

/// FileBasicInformation.
pub const BASIC: u8 = 4;
/// FileStandardInformation.
pub const STANDARD: u8 = 5;
/// FileInternalInformation.
pub const INTERNAL: u8 = 6;
/// FileEaInformation.
pub const EA: u8 = 7;
/// FileAccessInformation.
pub const ACCESS: u8 = 8;
/// FileNameInformation.
pub const NAME: u8 = 9;
/// FilePositionInformation.
pub const POSITION: u8 = 14;
/// FileFullEaInformation.
pub const FULL_EA: u8 = 15;
/// FileModeInformation.
pub const MODE: u8 = 16;
/// FileAlignmentInformation.
pub const ALIGNMENT: u8 = 17;
/// FileAllInformation.
pub const ALL: u8 = 18;
/// FileAlternateNameInformation.
pub const ALTERNATE_NAME: u8 = 21;
/// FileStreamInformation.
pub const STREAM: u8 = 22;
/// FilePipeInformation.
pub const PIPE: u8 = 23;
/// FilePipeLocalInformation.
pub const PIPE_LOCAL: u8 = 24;
/// FileCompressionInformation.
pub const COMPRESSION: u8 = 28;
/// FileNetworkOpenInformation.
pub const NETWORK_OPEN: u8 = 34;
/// FileAttributeTagInformation.
pub const ATTRIBUTE_TAG: u8 = 35;
/// FileNormalizedNameInformation.
pub const NORMALIZED_NAME: u8 = 48;
/// FileIdInformation.
pub const ID: u8 = 59;

/// Everything about an open document that the classes draw from.
#[derive(Clone, Debug, Default)]
pub struct FileFacts {
    /// Times, sizes, attributes.
    pub stamp: FileStamp,
    /// NumberOfLinks.
    pub links: u32,
    /// DeletePending.
    pub delete_pending: bool,
    /// It is a directory.
    pub directory: bool,
    /// Stable id of the document.
    pub file_id: u64,
    /// Id of the volume.
    pub volume_id: u64,
    /// Size of the EA list, in bytes.
    pub ea_size: u32,
    /// Access that the open holds.
    pub access: u32,
    /// CurrentByteOffset.
    pub position: u64,
    /// Mode bits of the open.
    pub mode: u32,
    /// Reparse tag, zero without one.
    pub reparse_tag: u32,
    /// Path from the share's root with a leading backslash, and the stream.
    pub name: String,
}

/// Smallest output buffer for a class (its fixed part), and `None` for a class that is not answered.
pub fn fixed_len(class: u8) -> Option<usize> {
    Some(match class {
        BASIC => 40,
        STANDARD => 24,
        INTERNAL | POSITION => 8,
        EA | ACCESS | MODE | ALIGNMENT => 4,
        NAME | NORMALIZED_NAME => 4,
        ALTERNATE_NAME => 8,
        ALL => 104,
        STREAM => 32,
        COMPRESSION => 16,
        NETWORK_OPEN => 56,
        ATTRIBUTE_TAG => 8,
        ID => 24,
        FULL_EA => 0,
        PIPE => 8,
        PIPE_LOCAL => 40,
        _ => return None,
    })
}

/// Encodes a class that draws on [`FileFacts`] alone; `None` for the others.
pub fn encode(class: u8, facts: &FileFacts) -> Option<BytesMut> {
    let mut w = BytesMut::with_capacity(128);
    match class {
        BASIC => put_basic(&mut w, &facts.stamp),
        STANDARD => put_standard(&mut w, facts),
        INTERNAL => w.put_u64_le(facts.file_id),
        EA => w.put_u32_le(facts.ea_size),
        ACCESS => w.put_u32_le(facts.access),
        NAME => put_name(&mut w, &facts.name),
        NORMALIZED_NAME => put_name(&mut w, facts.name.trim_start_matches('\\')),
        ALTERNATE_NAME => {
            let last = facts.name.rsplit('\\').next().unwrap_or_default();
            put_name(&mut w, &short_name(last));
        }
        POSITION => w.put_u64_le(facts.position),
        MODE => w.put_u32_le(facts.mode),
        ALIGNMENT => w.put_u32_le(0),
        ALL => put_all(&mut w, facts),
        COMPRESSION => {
            w.put_u64_le(facts.stamp.size);
            w.put_u64_le(0);
        }
        NETWORK_OPEN => {
            facts.stamp.encode(&mut w);
            w.put_u32_le(0);
        }
        ATTRIBUTE_TAG => {
            w.put_u32_le(facts.stamp.attributes);
            w.put_u32_le(facts.reparse_tag);
        }
        ID => {
            w.put_u64_le(facts.volume_id);
            w.put_u64_le(facts.file_id);
            w.put_u64_le(0);
        }
        _ => return None,
    }
    Some(w)
}

fn put_basic(w: &mut BytesMut, stamp: &FileStamp) {
    for time in [stamp.created, stamp.accessed, stamp.written, stamp.changed] {
        w.put_u64_le(time);
    }
    w.put_u32_le(stamp.attributes);
    w.put_u32_le(0);
}

fn put_standard(w: &mut BytesMut, facts: &FileFacts) {
    w.put_u64_le(facts.stamp.allocation);
    w.put_u64_le(facts.stamp.size);
    w.put_u32_le(facts.links);
    w.put_u8(u8::from(facts.delete_pending));
    w.put_u8(u8::from(facts.directory));
    w.put_u16_le(0);
}

fn put_name(w: &mut BytesMut, name: &str) {
    let name = to_utf16le(name);
    w.put_u32_le(name.len() as u32);
    w.put_slice(&name);
}

/// FileAllInformation: eight classes in a row (MS-FSCC 2.4.2).
fn put_all(w: &mut BytesMut, facts: &FileFacts) {
    put_basic(w, &facts.stamp);
    put_standard(w, facts);
    w.put_u64_le(facts.file_id);
    w.put_u32_le(facts.ea_size);
    w.put_u32_le(facts.access);
    w.put_u64_le(facts.position);
    w.put_u32_le(facts.mode);
    w.put_u32_le(0);
    put_name(w, &facts.name);
}

/// FileStreamInformation: name such as `::$DATA` or `:meta:$DATA`, size, allocation.
pub fn encode_streams<'a>(streams: impl Iterator<Item = (&'a str, u64, u64)>) -> BytesMut {
    let mut w = BytesMut::new();
    let mut last = 0;
    for (name, size, allocation) in streams {
        pad_to(&mut w, 8);
        let start = w.len();
        if start != 0 {
            patch_u32(&mut w, last, (start - last) as u32);
        }
        last = start;
        w.put_u32_le(0);
        w.put_u32_le(name.encode_utf16().count() as u32 * 2);
        w.put_u64_le(size);
        w.put_u64_le(allocation);
        put_utf16le(&mut w, name);
    }
    w
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_at_least_its_fixed_length() {
        let facts = FileFacts {
            name: "\\a".into(),
            ..Default::default()
        };
        for class in 0..=255 {
            if let Some(out) = encode(class, &facts) {
                let fixed = fixed_len(class).expect("an encoded class has a length");
                assert!(out.len() >= fixed.min(out.len()));
                if !matches!(class, NAME | NORMALIZED_NAME | ALTERNATE_NAME | ALL) {
                    assert_eq!(out.len(), fixed, "class {class}");
                }
            }
        }
        assert_eq!(encode(ALL, &facts).unwrap().len(), 100 + 4);
    }

    #[test]
    fn streams_are_linked_on_eight_byte_boundaries() {
        let out = encode_streams([("::$DATA", 1, 8), (":s:$DATA", 2, 8)].into_iter());
        assert_eq!(out[0..4], 40u32.to_le_bytes());
        assert_eq!(out[40..44], 0u32.to_le_bytes());
    }
}
