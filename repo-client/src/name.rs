//! Names of entries: what is stored, and how two names are compared without regard to case.

use unicode_normalization::UnicodeNormalization;

use crate::error::{RepoError, Result};

/// Longest name of an entry in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 255;

/// Checks that a name can be stored: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`.
pub fn check_name(name: &str) -> Result<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(RepoError::NameTooLong);
    }
    if name.is_empty() || name == "." || name == ".." || name.bytes().any(|b| b == b'/' || b == 0) {
        return Err(RepoError::InvalidName);
    }
    Ok(())
}

/// The form in which names are compared by `CaseMode::Insensitive`: NFC, then one-to-one case folding.
pub fn fold_name(name: &str) -> String {
    if name.is_ascii() {
        return name.to_ascii_lowercase();
    }
    // Folding by upper and then lower case brings together letters with several lower forms (sigma, long s),
    // as the simple folding table does; letters whose mapping is longer than one character stay as they are.
    name.nfc().map(simple_fold).nfc().collect()
}

fn simple_fold(c: char) -> char {
    let upper = only(c.to_uppercase()).unwrap_or(c);
    only(upper.to_lowercase()).unwrap_or(upper)
}

fn only(mut mapping: impl Iterator<Item = char>) -> Option<char> {
    let first = mapping.next()?;
    mapping.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_case_or_composition_fold_to_the_same() {
        assert_eq!(fold_name("ReadMe.TXT"), "readme.txt");
        assert_eq!(fold_name("ÄRGER"), fold_name("a\u{308}rger"));
        assert_eq!(fold_name("ΣΑΣ"), fold_name("σας"));
        assert_ne!(fold_name("straße"), fold_name("strasse"));
    }

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        for bad in ["", ".", "..", "a/b", "a\0b"] {
            assert_eq!(check_name(bad), Err(RepoError::InvalidName), "{bad:?}");
        }
        assert_eq!(check_name(&"x".repeat(256)), Err(RepoError::NameTooLong));
        assert_eq!(check_name("a:b*c?"), Ok(()));
    }
}
