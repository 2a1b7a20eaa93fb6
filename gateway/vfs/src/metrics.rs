//! Counters of the file layer: relaxed atomics that an exporter reads. Never a decision.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::coherent::MetadataCounts;
use crate::identity::Protocol;

const PROTOCOLS: usize = 5;

/// One counter for each protocol.
#[derive(Debug, Default)]
pub struct ByProtocol([AtomicU64; PROTOCOLS]);

impl ByProtocol {
    pub(crate) fn add(&self, protocol: Protocol, count: u64) {
        self.0[slot(protocol)].fetch_add(count, Ordering::Relaxed);
    }

    /// The count of one protocol.
    pub fn get(&self, protocol: Protocol) -> u64 {
        self.0[slot(protocol)].load(Ordering::Relaxed)
    }
}

fn slot(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Smb => 0,
        Protocol::Nfs3 => 1,
        Protocol::Nfs4 => 2,
        Protocol::Ftp => 3,
        Protocol::Admin => 4,
    }
}

/// What the file layer has done since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Opens granted.
    pub opens: ByProtocol,
    /// Read calls.
    pub reads: ByProtocol,
    /// Write calls.
    pub writes: ByProtocol,
    /// Bytes read.
    pub bytes_read: ByProtocol,
    /// Bytes written.
    pub bytes_written: ByProtocol,
    /// Requests refused because of what others hold.
    pub conflicts: ByProtocol,
    /// Requests told to come back later.
    pub delays: ByProtocol,
    /// Caching rights called back from clients of this protocol.
    pub breaks: ByProtocol,
    /// Contents committed.
    pub commits: AtomicU64,
    /// Commits that failed.
    pub commit_failures: AtomicU64,
    /// Conflicted copies made.
    pub forks: AtomicU64,
    /// Metadata of a cluster's repository, cached here.
    pub metadata: Arc<MetadataCounts>,
}

impl Metrics {
    /// All counters in Prometheus' text form; every name starts with `sluice_`.
    pub fn prometheus(&self) -> String {
        let families = [
            ("opens", "Opens granted.", &self.opens),
            ("reads", "Read calls.", &self.reads),
            ("writes", "Write calls.", &self.writes),
            ("read_bytes", "Bytes read.", &self.bytes_read),
            ("written_bytes", "Bytes written.", &self.bytes_written),
            (
                "conflicts",
                "Requests refused because of what others hold.",
                &self.conflicts,
            ),
            ("delays", "Requests told to come back later.", &self.delays),
            ("breaks", "Caching rights called back.", &self.breaks),
        ];
        let mut text = String::new();
        for (name, help, counters) in families {
            text.push_str(&format!(
                "# HELP sluice_{name}_total {help}\n# TYPE sluice_{name}_total counter\n"
            ));
            for protocol in [
                Protocol::Smb,
                Protocol::Nfs3,
                Protocol::Nfs4,
                Protocol::Ftp,
                Protocol::Admin,
            ] {
                let (word, count) = (protocol.name(), counters.get(protocol));
                text.push_str(&format!(
                    "sluice_{name}_total{{protocol=\"{word}\"}} {count}\n"
                ));
            }
        }
        for (name, help, counter) in [
            ("commits", "Contents committed.", &self.commits),
            (
                "commit_failures",
                "Commits that failed.",
                &self.commit_failures,
            ),
            ("forks", "Conflicted copies made.", &self.forks),
            (
                "metadata_cache_hits",
                "Reads of metadata answered from the cache.",
                &self.metadata.hits,
            ),
            (
                "metadata_cache_misses",
                "Reads of metadata answered by the shared database.",
                &self.metadata.misses,
            ),
            (
                "metadata_changes_announced",
                "Changes of metadata that waited for other nodes to drop what they had cached.",
                &self.metadata.asked,
            ),
            (
                "metadata_changes_quiet",
                "Changes of metadata that no other node had to hear of first.",
                &self.metadata.unasked,
            ),
        ] {
            let count = counter.load(Ordering::Relaxed);
            text.push_str(&format!(
                "# HELP sluice_{name}_total {help}\n# TYPE sluice_{name}_total counter\nsluice_{name}_total {count}\n"
            ));
        }
        text
    }

    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
