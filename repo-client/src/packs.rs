//! What a content store tells of its packs (many objects in one file) to whoever watches. Never a decision.

use std::fmt::Write;

/// What a store has done with packs since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackCounts {
    /// Objects appended.
    pub appended: u64,
    /// Their bytes, rounded up to the units of a pack.
    pub appended_bytes: u64,
    /// Syncs that made them durable.
    pub syncs: u64,
    /// Objects deleted.
    pub deleted: u64,
    /// Bytes of theirs that were given back to the file system.
    pub punched_bytes: u64,
    /// What there is; unknown before all packs were looked through once (`sluice gc`, `sluice check`).
    pub held: Option<PacksHeld>,
}

/// What packs hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacksHeld {
    /// Objects.
    pub objects: u64,
    /// Their bytes, rounded up to the units of a pack.
    pub bytes: u64,
    /// Bytes on the disk that belonged to no object at the last look: tables, and what crashes have left.
    pub dead_bytes: u64,
}

impl PackCounts {
    /// In Prometheus' text form; every name starts with `sluice_pack_`.
    pub fn prometheus(&self) -> String {
        let mut text = String::new();
        let mut family = |name: &str, help: &str, kind: &str, value: u64| {
            // Writing to a string can't fail.
            let _ = write!(
                text,
                "# HELP sluice_pack_{name} {help}\n# TYPE sluice_pack_{name} {kind}\nsluice_pack_{name} {value}\n"
            );
        };
        for (name, help, count) in [
            (
                "appended_objects_total",
                "Objects put into packs.",
                self.appended,
            ),
            (
                "appended_bytes_total",
                "Bytes put into packs.",
                self.appended_bytes,
            ),
            (
                "syncs_total",
                "Syncs of packs; objects that wait share one.",
                self.syncs,
            ),
            (
                "deleted_objects_total",
                "Objects deleted from packs.",
                self.deleted,
            ),
            (
                "punched_bytes_total",
                "Bytes given back to the file system by holes in packs.",
                self.punched_bytes,
            ),
        ] {
            family(name, help, "counter", count);
        }
        let Some(held) = self.held else {
            return text;
        };
        for (name, help, value) in [
            ("objects", "Objects in packs.", held.objects),
            ("bytes", "Bytes of objects in packs.", held.bytes),
            (
                "dead_bytes",
                "Bytes of packs that no object owned when all were last looked through.",
                held.dead_bytes,
            ),
        ] {
            family(name, help, "gauge", value);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_packs_hold_is_told_only_once_it_is_known() {
        let mut counts = PackCounts {
            appended: 3,
            ..PackCounts::default()
        };
        let text = counts.prometheus();
        assert!(text.contains("# TYPE sluice_pack_appended_objects_total counter\nsluice_pack_appended_objects_total 3\n"), "{text}");
        assert!(!text.contains("gauge"), "{text}");
        counts.held = Some(PacksHeld {
            dead_bytes: 4096,
            ..PacksHeld::default()
        });
        assert!(
            counts
                .prometheus()
                .contains("\nsluice_pack_dead_bytes 4096\n")
        );
    }
}
