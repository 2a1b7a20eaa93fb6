//! Paths inside a share, checked once at the door.

use crate::error::VfsError;

/// Longest component in bytes of UTF-8.
pub const COMPONENT_BYTES_MAX: usize = 255;
/// Deepest path in components.
pub const COMPONENTS_MAX: usize = 256;

/// A path relative to a share's root: components that are valid names; empty for the root itself.
/// `..` never occurs: heads that allow it resolve it textually first ([`RelPath::parse`] does), clamped at the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RelPath(Vec<String>);

impl RelPath {
    /// Splits `path` at `separator`, drops empty components and `.`, resolves `..` textually without leaving the root.
    ///
    /// # Errors
    /// [`VfsError::NameInvalid`] and [`VfsError::NameTooLong`].
    pub fn parse(path: &str, separator: char) -> Result<RelPath, VfsError> {
        let mut parts = Vec::new();
        for part in path.split(separator) {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                name => {
                    check_name(name)?;
                    parts.push(name.to_owned());
                }
            }
            if parts.len() > COMPONENTS_MAX {
                return Err(VfsError::NameTooLong);
            }
        }
        Ok(RelPath(parts))
    }

    /// From components that a head has split itself (SMB, after its name mapping).
    ///
    /// # Errors
    /// [`VfsError::NameInvalid`] and [`VfsError::NameTooLong`].
    pub fn from_components(parts: Vec<String>) -> Result<RelPath, VfsError> {
        if parts.len() > COMPONENTS_MAX {
            return Err(VfsError::NameTooLong);
        }
        for part in &parts {
            check_name(part)?;
        }
        Ok(RelPath(parts))
    }

    /// The components in order.
    pub fn components(&self) -> &[String] {
        &self.0
    }

    /// Whether this is the share's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path without its last component, and that component; `None` for the root.
    pub fn split_last(&self) -> Option<(RelPath, &str)> {
        let (last, parents) = self.0.split_last()?;
        Some((RelPath(parents.to_vec()), last))
    }
}

impl std::fmt::Display for RelPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

/// Whether `name` can be an entry's name.
///
/// # Errors
/// [`VfsError::NameInvalid`] and [`VfsError::NameTooLong`].
pub fn check_name(name: &str) -> Result<(), VfsError> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(VfsError::NameInvalid);
    }
    if name.len() > COMPONENT_BYTES_MAX {
        return Err(VfsError::NameTooLong);
    }
    Ok(())
}
