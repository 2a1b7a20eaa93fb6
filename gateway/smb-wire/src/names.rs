//! Names on the wire: UTF-16LE text, path components, streams, and the private-use mapping.
//!
//! Owns how a repository name (UTF-8, anything but `/` and NUL) and an SMB name (UTF-16LE, without the
//! characters that Windows reserves) become each other. Must never touch a repository.
//!
//! Characters that Windows can't hold travel as code points U+F001..U+F029, the mapping that macOS,
//! cifs.ko and Samba share: control characters at U+F000 + code, `"`F020 `*`F021 `:`F022 `<`F023
//! `>`F024 `?`F025 `\`F026 `|`F027, a trailing space F028 and a trailing dot F029.

use crate::codec::utf16le;

const MAPPED: [(char, char); 8] = [
    ('"', '\u{F020}'),
    ('*', '\u{F021}'),
    (':', '\u{F022}'),
    ('<', '\u{F023}'),
    ('>', '\u{F024}'),
    ('?', '\u{F025}'),
    ('\\', '\u{F026}'),
    ('|', '\u{F027}'),
];
const TRAILING_SPACE: char = '\u{F028}';
const TRAILING_DOT: char = '\u{F029}';

/// A repository name as SMB shows it: reserved characters mapped to private-use ones.
pub fn to_wire_name(name: &str) -> String {
    let mut out: String = name.chars().map(map_char).collect();
    match out.chars().next_back() {
        Some(' ') => replace_last(&mut out, TRAILING_SPACE),
        Some('.') if name != "." && name != ".." => replace_last(&mut out, TRAILING_DOT),
        _ => {}
    }
    out
}

/// The repository name behind an SMB name; the inverse of [`to_wire_name`].
pub fn from_wire_name(name: &str) -> String {
    let mut out: String = name.chars().map(unmap_char).collect();
    match out.chars().next_back() {
        Some(TRAILING_SPACE) => replace_last(&mut out, ' '),
        Some(TRAILING_DOT) => replace_last(&mut out, '.'),
        _ => {}
    }
    out
}

fn replace_last(text: &mut String, with: char) {
    text.pop();
    text.push(with);
}

fn map_char(c: char) -> char {
    match c {
        '\u{1}'..='\u{1F}' => char::from_u32(0xF000 + c as u32).unwrap_or(c),
        _ => MAPPED
            .iter()
            .find(|(plain, _)| *plain == c)
            .map_or(c, |(_, mapped)| *mapped),
    }
}

fn unmap_char(c: char) -> char {
    match c {
        '\u{F001}'..='\u{F01F}' => char::from_u32(c as u32 - 0xF000).unwrap_or(c),
        _ => MAPPED
            .iter()
            .find(|(_, mapped)| *mapped == c)
            .map_or(c, |(plain, _)| *plain),
    }
}

/// The 8.3 form of a wire name: itself in capitals if it fits, otherwise two characters, a checksum and the start
/// of the extension, as NTFS makes it for folders with many similar names. It is shown, never looked up.
pub fn short_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "!#$%&'()-@^_`{}~".contains(c);
    let (base, extension) = match name.rsplit_once('.') {
        Some((base, extension)) if !base.is_empty() => (base, extension),
        _ => (name, ""),
    };
    let fits = (1..=8).contains(&base.len()) && extension.len() <= 3 && !name.ends_with('.');
    if fits && base.chars().chain(extension.chars()).all(plain) {
        return name.to_ascii_uppercase();
    }
    let short = |text: &str, len: usize| -> String {
        let kept = text.chars().filter(|c| plain(*c)).take(len);
        kept.map(|c| c.to_ascii_uppercase()).collect()
    };
    // FNV-1a, folded to 16 bits.
    let hash = name.bytes().fold(0x811C_9DC5u32, |h, b| {
        (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
    });
    let sum = (hash >> 16 ^ hash) as u16;
    let out = format!("{}{sum:04X}~1", short(base, 2));
    match short(extension, 3) {
        empty if empty.is_empty() => out,
        extension => format!("{out}.{extension}"),
    }
}

/// Why a path can't name anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// A path starts with a separator (MS-SMB2 3.3.5.9 wants STATUS_INVALID_PARAMETER).
    LeadingSeparator,
    /// A reserved character, an empty component, or text that is not UTF-16 (STATUS_OBJECT_NAME_INVALID).
    BadName,
    /// `.` as a component, or more `..` than folders before them (STATUS_OBJECT_PATH_SYNTAX_BAD).
    Dots,
}

/// A CREATE or RENAME target: components from the share's root, and the stream if one is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SmbPath {
    /// Repository names from the share's root; empty is the root itself.
    pub components: Vec<String>,
    /// Stream name (without `$DATA`); `None` is the unnamed stream, the document itself.
    pub stream: Option<String>,
    /// The client wrote `::$DATA`, which names the document but must not be a directory.
    pub explicit_data: bool,
}

impl SmbPath {
    /// Decodes a name relative to the share, `a\b\c.txt:stream:$DATA` (MS-SMB2 2.2.13, MS-FSCC 2.1.5).
    pub fn decode(utf16: &[u8]) -> std::result::Result<Self, PathError> {
        let text = utf16le(utf16).ok().flatten().ok_or(PathError::BadName)?;
        Self::parse(&text)
    }

    /// Parses the same from text.
    pub fn parse(text: &str) -> std::result::Result<Self, PathError> {
        // Some clients of POSIX heritage send their own separator, which no name can hold anyway.
        let text = text.replace('/', "\\");
        if text.starts_with('\\') {
            return Err(PathError::LeadingSeparator);
        }
        let mut path = Self::default();
        let text = text.strip_suffix('\\').unwrap_or(&text);
        if text.is_empty() {
            return Ok(path);
        }
        let (names, stream) = match text.find(':') {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        if let Some(stream) = stream {
            let parsed = parse_stream(stream)?;
            path.explicit_data = parsed.is_none();
            path.stream = parsed;
        }
        if names.is_empty() {
            return Ok(path);
        }
        for part in names.split('\\') {
            // `..` is resolved in the text, as Windows does, and never leaves the share.
            if part == "." || part == ".." && path.components.pop().is_none() {
                return Err(PathError::Dots);
            }
            if part == ".." {
                continue;
            }
            if part.is_empty() || part.chars().any(is_reserved) {
                return Err(PathError::BadName);
            }
            path.components.push(from_wire_name(part));
        }
        Ok(path)
    }
}

fn is_reserved(c: char) -> bool {
    c < ' ' || matches!(c, '"' | '*' | '<' | '>' | '?' | '|' | ':')
}

/// Parses what follows the first colon: `name`, `name:$DATA` or `:$DATA`; the last is no stream at all.
fn parse_stream(text: &str) -> std::result::Result<Option<String>, PathError> {
    let (name, kind) = match text.split_once(':') {
        Some((name, kind)) => (name, Some(kind)),
        None => (text, None),
    };
    if let Some(kind) = kind
        && !kind.eq_ignore_ascii_case("$DATA")
    {
        return Err(PathError::BadName);
    }
    if name
        .chars()
        .any(|c| c == '\0' || matches!(c, '/' | '\\' | ':'))
    {
        return Err(PathError::BadName);
    }
    if name.is_empty() {
        return if kind.is_some() {
            Ok(None)
        } else {
            Err(PathError::BadName)
        };
    }
    // Stream names keep their characters: Windows allows all but these three in them.
    Ok(Some(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reserved_characters_travel_as_the_shared_private_use_code_points() {
        assert_eq!(
            to_wire_name("a\"*:<>?\\|\u{1}b"),
            "a\u{F020}\u{F021}\u{F022}\u{F023}\u{F024}\u{F025}\u{F026}\u{F027}\u{F001}b"
        );
        assert_eq!(to_wire_name("end."), "end\u{F029}");
        assert_eq!(to_wire_name("end "), "end\u{F028}");
        assert_eq!(to_wire_name("."), ".");
        assert_eq!(to_wire_name("in.the middle"), "in.the middle");
    }

    #[test]
    fn short_names_fit_eight_and_three() {
        assert_eq!(short_name("readme.txt"), "README.TXT");
        assert_eq!(short_name("noext"), "NOEXT");
        let long = short_name("a long name.jpeg");
        assert!(long.starts_with("AL") && long.ends_with("~1.JPE") && long.len() == 12);
        assert_ne!(
            short_name("a long name.jpeg"),
            short_name("a long nome.jpeg")
        );
    }

    #[test]
    fn a_path_splits_into_components_and_stream() {
        let p = SmbPath::parse("dir\\file.txt:meta:$DATA").unwrap();
        assert_eq!(p.components, ["dir", "file.txt"]);
        assert_eq!(p.stream.as_deref(), Some("meta"));
        let p = SmbPath::parse("file::$data").unwrap();
        assert!(p.explicit_data && p.stream.is_none());
        assert!(SmbPath::parse("").unwrap().components.is_empty());
    }

    #[test]
    fn paths_that_climb_or_use_reserved_characters_are_refused() {
        assert_eq!(SmbPath::parse("a\\..\\..\\b"), Err(PathError::Dots));
        let within = SmbPath::parse("a\\..\\b").expect("stays in the share");
        assert_eq!(within.components, ["b"]);
        assert_eq!(SmbPath::parse("..\\etc"), Err(PathError::Dots));
        assert_eq!(SmbPath::parse("\\a"), Err(PathError::LeadingSeparator));
        assert_eq!(SmbPath::parse("a\\\\b"), Err(PathError::BadName));
        assert_eq!(SmbPath::parse("a*b"), Err(PathError::BadName));
        assert_eq!(SmbPath::parse("a/b"), SmbPath::parse("a\\b"));
        assert_eq!(SmbPath::parse("a/../b"), SmbPath::parse("b"));
        assert_eq!(SmbPath::parse("a/../../b"), Err(PathError::Dots));
        assert_eq!(SmbPath::parse("f:s:$INDEX"), Err(PathError::BadName));
    }

    #[test]
    fn an_unpaired_surrogate_is_refused() {
        assert_eq!(SmbPath::decode(&[0x00, 0xD8]), Err(PathError::BadName));
        assert_eq!(SmbPath::decode(&[0x61]), Err(PathError::BadName));
    }

    proptest! {
        #[test]
        fn names_survive_the_round_trip(name in "[^/\u{0}\u{F000}-\u{F0FF}]{1,40}") {
            prop_assert_eq!(from_wire_name(&to_wire_name(&name)), name);
        }

        #[test]
        fn any_bytes_decode_or_fail_cleanly(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = SmbPath::decode(&bytes);
        }
    }
}
