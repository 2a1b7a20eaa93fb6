//! The FTP name space: `/` lists the shares, `/SHARE/...` is a share's tree (INTERFACE, "One namespace").

use std::fmt;

use sluice_vfs::{RelPath, VfsError};

/// An absolute path of a session: no `.`, no `..`, never above `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VirtualPath(RelPath);

impl VirtualPath {
    /// `argument` as seen from this folder; `..` is resolved textually and stops at `/`.
    ///
    /// # Errors
    /// [`VfsError::NameInvalid`] and [`VfsError::NameTooLong`].
    pub(crate) fn join(&self, argument: &str) -> Result<VirtualPath, VfsError> {
        if argument.starts_with('/') {
            return RelPath::parse(argument, '/').map(VirtualPath);
        }
        RelPath::parse(&format!("{}/{argument}", self.0), '/').map(VirtualPath)
    }

    /// The folder above; `/` is above itself.
    pub(crate) fn parent(&self) -> VirtualPath {
        VirtualPath(
            self.0
                .split_last()
                .map(|(parent, _)| parent)
                .unwrap_or_default(),
        )
    }

    /// Whether both are entries of one folder.
    pub(crate) fn is_beside(&self, other: &VirtualPath) -> bool {
        match (self.0.components(), other.0.components()) {
            ([here @ .., _], [there @ .., _]) => here == there,
            _ => false,
        }
    }

    /// The last component; `None` for `/`.
    pub(crate) fn name(&self) -> Option<&str> {
        self.0.components().last().map(String::as_str)
    }

    /// The share's name as given, and the path inside it; `None` for `/`.
    ///
    /// # Errors
    /// As [`VirtualPath::join`]; can't happen for what `join` made.
    pub(crate) fn in_share(&self) -> Result<Option<(&str, RelPath)>, VfsError> {
        match self.0.components().split_first() {
            None => Ok(None),
            Some((share, rest)) => {
                let inside = RelPath::from_components(rest.to_vec())?;
                Ok(Some((share, inside)))
            }
        }
    }
}

impl fmt::Display for VirtualPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> VirtualPath {
        VirtualPath::default().join(text).unwrap_or_default()
    }

    #[test]
    fn no_argument_leads_above_the_root() {
        let cwd = path("/docs/a");
        for (argument, expected) in [
            ("../../../../etc/passwd", "/etc/passwd"),
            ("/../x", "/x"),
            ("./b/../c", "/docs/a/c"),
            ("..", "/docs"),
            ("//docs///a//", "/docs/a"),
            ("", "/docs/a"),
        ] {
            let joined = cwd.join(argument).map(|path| path.to_string());
            assert_eq!(joined.as_deref(), Ok(expected), "{argument}");
        }
    }

    #[test]
    fn the_first_component_is_the_share() {
        let inside = path("/docs/a/b")
            .in_share()
            .ok()
            .flatten()
            .map(|(share, rel)| (share.to_owned(), rel.to_string()));
        assert_eq!(inside, Some(("docs".to_owned(), "a/b".to_owned())));
        assert_eq!(path("/").in_share(), Ok(None));
    }

    #[test]
    fn entries_of_one_folder_are_beside_each_other() {
        assert!(path("/docs/a/b").is_beside(&path("/docs/a/c")));
        assert!(path("/docs").is_beside(&path("/music")));
        assert!(!path("/docs/a/b").is_beside(&path("/docs/b")));
        assert!(!path("/").is_beside(&path("/")));
    }

    proptest! {
        #[test]
        fn a_joined_path_has_no_dots_and_stays_absolute(cwd in "[a./]{0,20}", argument in "[a./]{0,20}") {
            let joined = path(&cwd).join(&argument).map(|path| path.to_string()).unwrap_or_default();
            prop_assert!(joined.starts_with('/'));
            prop_assert!(joined.split('/').all(|part| part != ".." && part != "."));
        }
    }
}
