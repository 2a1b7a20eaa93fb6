//! Facts of MLST and MLSD (RFC 3659 7): which ones a session shows, and one entry's line.

use std::fmt::Write as _;

use sluice_vfs::{AccessMask, Attributes, NodeKind};

use super::time;

/// One kind of fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the facts are named as in RFC 3659 7.5")]
pub enum Fact {
    Type,
    Size,
    Modify,
    Create,
    Perm,
    Unique,
    UnixMode,
    UnixOwner,
    UnixGroup,
}

impl Fact {
    /// All facts in the order in which they are shown.
    pub const ALL: [Fact; 9] = [
        Fact::Type,
        Fact::Size,
        Fact::Modify,
        Fact::Create,
        Fact::Perm,
        Fact::Unique,
        Fact::UnixMode,
        Fact::UnixOwner,
        Fact::UnixGroup,
    ];

    /// The fact's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Fact::Type => "type",
            Fact::Size => "size",
            Fact::Modify => "modify",
            Fact::Create => "create",
            Fact::Perm => "perm",
            Fact::Unique => "unique",
            Fact::UnixMode => "UNIX.mode",
            Fact::UnixOwner => "UNIX.owner",
            Fact::UnixGroup => "UNIX.group",
        }
    }

    fn bit(self) -> u16 {
        1 << (self as u16)
    }
}

/// The facts that a session has selected with OPTS MLST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FactSet(u16);

impl Default for FactSet {
    fn default() -> Self {
        FactSet(Fact::ALL.iter().fold(0, |bits, fact| bits | fact.bit()))
    }
}

impl FactSet {
    /// Reads a selection such as `type;size;`; unknown names are left out, as RFC 3659 7.9 wants.
    pub fn select(names: &str) -> FactSet {
        let chosen = names.split(';').filter_map(|name| {
            Fact::ALL
                .into_iter()
                .find(|fact| fact.name().eq_ignore_ascii_case(name.trim()))
        });
        FactSet(chosen.fold(0, |bits, fact| bits | fact.bit()))
    }

    /// Whether `fact` is selected.
    pub fn has(self, fact: Fact) -> bool {
        self.0 & fact.bit() != 0
    }

    /// The selected facts' names, each followed by `;`.
    pub fn names(self) -> String {
        self.list(|_| "")
    }

    /// FEAT's form: every fact, the selected ones marked with `*`.
    pub fn feature(self) -> String {
        let mut text = String::new();
        for fact in Fact::ALL {
            let mark = if self.has(fact) { "*" } else { "" };
            let _ = write!(text, "{}{mark};", fact.name());
        }
        text
    }

    fn list(self, mark: impl Fn(Fact) -> &'static str) -> String {
        let mut text = String::new();
        for fact in Fact::ALL.into_iter().filter(|&fact| self.has(fact)) {
            let _ = write!(text, "{}{};", fact.name(), mark(fact));
        }
        text
    }
}

/// What the facts of one entry are made from.
#[derive(Clone, Copy, Debug)]
pub struct FactSource<'a> {
    /// The node.
    pub attributes: &'a Attributes,
    /// Number of the share, which makes `unique` unique over shares that show the same folder under two names.
    pub share: u32,
    /// What the caller may do with it; `None` leaves the perm fact out.
    pub access: Option<AccessMask>,
}

/// Appends `facts SP name`, without a line end.
pub fn write_entry(out: &mut String, set: FactSet, source: &FactSource<'_>, name: &str) {
    let node = source.attributes;
    for fact in Fact::ALL.into_iter().filter(|&fact| set.has(fact)) {
        let key = fact.name();
        let _ = match fact {
            Fact::Type => write!(out, "{key}={};", type_value(node.kind)),
            Fact::Size if node.kind == NodeKind::Directory => Ok(()),
            Fact::Size => write!(out, "{key}={};", node.size),
            Fact::Modify => write!(out, "{key}={};", time::compact(node.modified)),
            Fact::Create => write!(out, "{key}={};", time::compact(node.created)),
            Fact::Perm => match source.access {
                Some(access) => write!(out, "{key}={};", perm_value(node.kind, access)),
                None => Ok(()),
            },
            Fact::Unique => write!(out, "{key}={:x}g{:x};", source.share, node.id.0),
            Fact::UnixMode => write!(out, "{key}={:04o};", node.mode & 0o7777),
            Fact::UnixOwner => write!(out, "{key}={};", node.uid),
            Fact::UnixGroup => write!(out, "{key}={};", node.gid),
        };
    }
    out.push(' ');
    super::list_line::push_name(out, name);
}

fn type_value(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Directory => "dir",
        NodeKind::File => "file",
        NodeKind::Symlink => "OS.unix=symlink",
        NodeKind::Fifo => "OS.unix=fifo",
        NodeKind::Socket => "OS.unix=socket",
        NodeKind::CharDevice => "OS.unix=chr",
        NodeKind::BlockDevice => "OS.unix=blk",
    }
}

/// RFC 3659 7.5.5. For folders WRITE_DATA means adding files and APPEND_DATA adding folders.
fn perm_value(kind: NodeKind, access: AccessMask) -> String {
    let letters: &[(char, u32)] = if kind == NodeKind::Directory {
        &[
            ('c', AccessMask::WRITE_DATA),
            ('d', AccessMask::DELETE),
            ('e', AccessMask::EXECUTE),
            ('f', AccessMask::DELETE),
            ('l', AccessMask::READ_DATA),
            ('m', AccessMask::APPEND_DATA),
            ('p', AccessMask::DELETE_CHILD),
        ]
    } else {
        &[
            ('a', AccessMask::APPEND_DATA),
            ('d', AccessMask::DELETE),
            ('f', AccessMask::DELETE),
            ('r', AccessMask::READ_DATA),
            ('w', AccessMask::WRITE_DATA),
        ]
    };
    letters
        .iter()
        .filter(|(_, bit)| access.has(*bit))
        .map(|(letter, _)| letter)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::list_line::tests::node;

    #[test]
    fn an_entry_shows_the_selected_facts_in_order() {
        let attributes = node(NodeKind::File);
        let source = FactSource {
            attributes: &attributes,
            share: 2,
            access: Some(AccessMask(AccessMask::READ_DATA | AccessMask::WRITE_DATA)),
        };
        let mut out = String::new();
        write_entry(&mut out, FactSet::default(), &source, "a b");
        assert_eq!(
            out,
            "type=file;size=1234;modify=20020717210715;create=20020717210715;perm=rw;unique=2g2a;\
             UNIX.mode=0644;UNIX.owner=1000;UNIX.group=100; a b"
        );
    }

    #[test]
    fn a_selection_keeps_known_facts_only() {
        let set = FactSet::select("Size;bogus;unix.MODE;");
        assert_eq!(set.names(), "size;UNIX.mode;");
        assert!(set.feature().starts_with("type;size*;modify;"));
        assert_eq!(FactSet::select("").names(), "");
    }
}
