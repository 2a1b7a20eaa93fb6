//! Lines of LIST in the form of `ls -l`, which every client can read.

use std::fmt::Write as _;

use sluice_vfs::{Attributes, NodeKind, Timestamp};

use super::time;

/// Appends one `ls -l` line without its end. `target` is a symbolic link's.
pub fn write_long(
    out: &mut String,
    node: &Attributes,
    owner: &str,
    name: &str,
    target: Option<&str>,
    now: Timestamp,
) {
    push_mode(out, node);
    let _ = write!(
        out,
        " {:>4} {:<8} {:<8} {:>12} {} ",
        node.link_count,
        owner,
        node.gid,
        node.size,
        time::ls_date(node.modified, now)
    );
    push_name(out, name);
    if let Some(target) = target {
        out.push_str(" -> ");
        push_name(out, target);
    }
}

/// Appends a name; control characters, which would break the line, are shown as `?`.
pub fn push_name(out: &mut String, name: &str) {
    if name.bytes().any(|byte| byte.is_ascii_control()) {
        out.extend(
            name.chars()
                .map(|c| if c.is_ascii_control() { '?' } else { c }),
        );
    } else {
        out.push_str(name);
    }
}

fn push_mode(out: &mut String, node: &Attributes) {
    out.push(match node.kind {
        NodeKind::File => '-',
        NodeKind::Directory => 'd',
        NodeKind::Symlink => 'l',
        NodeKind::Fifo => 'p',
        NodeKind::Socket => 's',
        NodeKind::CharDevice => 'c',
        NodeKind::BlockDevice => 'b',
    });
    let mode = node.mode;
    for (shift, special, set, clear) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let bits = mode >> shift;
        let execute = bits & 1 != 0;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (mode & special != 0, execute) {
            (true, true) => set,
            (true, false) => clear,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use sluice_vfs::{DosAttributes, NodeId, Version};

    pub(crate) fn node(kind: NodeKind) -> Attributes {
        let when = Timestamp(1_026_940_035_000_000_000);
        Attributes {
            id: NodeId(42),
            kind,
            mode: 0o644,
            uid: 1000,
            gid: 100,
            link_count: 1,
            size: 1234,
            allocated: 4096,
            accessed: when,
            modified: when,
            changed: when,
            created: when,
            dos: DosAttributes(0),
            change_id: 1,
            version: Version(1),
            device: (0, 0),
            has_acl: false,
            ea_size: 0,
            parent: None,
        }
    }

    fn long(node: &Attributes, name: &str, target: Option<&str>) -> String {
        let mut out = String::new();
        write_long(&mut out, node, "alice", name, target, node.modified);
        out
    }

    #[test]
    fn a_line_has_the_nine_fields_of_ls() {
        let line = long(&node(NodeKind::File), "my file.txt", None);
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            [
                "-rw-r--r--",
                "1",
                "alice",
                "100",
                "1234",
                "Jul",
                "17",
                "21:07",
                "my",
                "file.txt"
            ]
        );
    }

    #[test]
    fn links_show_their_target_and_special_bits_their_letters() {
        let mut link = node(NodeKind::Symlink);
        link.mode = 0o7751;
        let line = long(&link, "l", Some("t"));
        assert!(line.starts_with("lrwsr-s--t "), "{line}");
        assert!(line.ends_with(" l -> t"), "{line}");
    }

    #[test]
    fn a_name_can_not_break_its_line() {
        assert!(long(&node(NodeKind::File), "a\r\nb", None).ends_with(" a??b"));
    }
}
