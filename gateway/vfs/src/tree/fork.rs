//! Conflicted copies: where the policy says `fork`, the later writer's content becomes a sibling and nobody loses anything.
//!
//! A client without opens (NFSv3) can't be given another handle: its writes go to its copy as long as it goes on writing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sluice_repo::{Attributes, NodeId, NodeKind};

use crate::error::VfsError;
use crate::identity::ClientId;
use crate::lock_bridge::main;
use crate::metrics::Metrics;
use crate::path::COMPONENT_BYTES_MAX;
use crate::policy::{OnConflict, WritePolicy};
use crate::request::NewNode;
use crate::tree::Tree;
use crate::vfs::now;
use crate::working::Change;

/// Names tried for one copy.
const TRIES_MAX: u32 = 100;
/// Bytes of the document that are read at once while it is copied.
const PIECE_BYTES: u32 = 4 << 20;

/// How long a client without opens may pause and still write to its copy.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Copies in use of such clients at once; the longest unused makes room.
const FORKS_MAX: usize = 10_000;

/// Copies that clients without opens write to, by client and document.
#[derive(Default)]
pub(crate) struct Forks(Mutex<HashMap<(ClientId, NodeId), (NodeId, Instant)>>);

impl Forks {
    /// The client's copy, if it has used it lately.
    pub(crate) fn get(&self, client: ClientId, node: NodeId) -> Option<NodeId> {
        let mut forks = self.0.lock();
        let (copy, used) = forks.get_mut(&(client, node))?;
        if used.elapsed() > IDLE_MAX {
            forks.remove(&(client, node));
            return None;
        }
        *used = Instant::now();
        Some(*copy)
    }

    fn add(&self, client: ClientId, node: NodeId, copy: NodeId) {
        let mut forks = self.0.lock();
        if forks.len() >= FORKS_MAX {
            forks.retain(|_, (_, used)| used.elapsed() <= IDLE_MAX);
            if let Some(oldest) = forks.iter().min_by_key(|(_, (_, used))| *used) {
                let oldest = *oldest.0;
                forks.remove(&oldest);
            }
        }
        forks.insert((client, node), (copy, Instant::now()));
    }
}

impl Tree {
    /// The copy that this client's writes to `node` go to, if there is one.
    pub(crate) fn fork_in_use(&self, node: NodeId, policy: &WritePolicy) -> Option<NodeId> {
        if policy.on_conflict != OnConflict::Fork {
            return None;
        }
        self.inner().forks.get(self.caller().client.id, node)
    }

    /// Makes the copy that this client's writes to `node` go to from now on.
    pub(crate) async fn fork_for_writes(
        &self,
        node: &Attributes,
        policy: &WritePolicy,
    ) -> Result<NodeId, VfsError> {
        let path = self.inner().repo.path_of(node.id).await?;
        let (dir, name) = path.last().ok_or(VfsError::Stale)?;
        let dir = self.folder(*dir).await?;
        self.check_create(&dir, false, policy).await?;
        let copy = self.fork_copy(&dir, name, node).await?;
        let exact = sluice_repo::CaseMode::Sensitive;
        let made = self.inner().repo.lookup(dir.id, &copy, exact).await?;
        let client = self.caller().client.id;
        self.inner().forks.add(client, node.id, made.attributes.id);
        Ok(made.attributes.id)
    }

    /// Makes a copy of a document's present content beside it and returns its name.
    pub(crate) async fn fork_copy(
        &self,
        dir: &Attributes,
        name: &str,
        node: &Attributes,
    ) -> Result<String, VfsError> {
        let source = self.working_of(node.id).await?;
        for attempt in 0..TRIES_MAX {
            let copy = self.fork_name(name, attempt);
            let new = NewNode {
                mode: Some(node.mode),
                ..NewNode::default()
            };
            let made = match self.make(dir, &copy, &new, NodeKind::File, None).await {
                Ok(made) => made.attributes,
                Err(VfsError::Exists) => continue,
                Err(error) => return Err(error),
            };
            let target = self.inner().load(main(made.id)).await?;
            let writer = self.momentary_writer();
            let mut offset = 0;
            loop {
                let data = self
                    .inner()
                    .read_working(&source, offset, PIECE_BYTES)
                    .await?;
                if data.len == 0 {
                    break;
                }
                for part in data.parts {
                    let bytes = part.len() as u64;
                    let change = Change::Write(offset, part);
                    self.inner().change(&target, &writer, true, change).await?;
                    offset += bytes;
                }
            }
            self.inner().flush(&target).await?;
            Metrics::count(&self.inner().metrics.forks);
            return Ok(copy);
        }
        Err(VfsError::Exists)
    }

    /// `NAME (conflicted copy USER DATE).ext`, within the length of a name.
    pub(crate) fn fork_name(&self, name: &str, attempt: u32) -> String {
        let (stem, extension) = match name.rfind('.') {
            Some(dot) if dot > 0 => name.split_at(dot),
            _ => (name, ""),
        };
        let user: String = self
            .caller()
            .identity
            .name
            .chars()
            .filter(|c| !c.is_control() && !"/\\:*?\"<>|".contains(*c))
            .take(64)
            .collect();
        let again = if attempt == 0 {
            String::new()
        } else {
            format!(" {}", attempt + 1)
        };
        let tail = format!(" (conflicted copy {user} {}{again}){extension}", date());
        let mut room = COMPONENT_BYTES_MAX
            .saturating_sub(tail.len())
            .min(stem.len());
        while !stem.is_char_boundary(room) {
            room -= 1;
        }
        format!("{}{tail}", stem.get(..room).unwrap_or_default())
    }
}

/// Today in UTC as `2026-11-22`.
fn date() -> String {
    let days = now().0.div_euclid(86_400_000_000_000);
    // Days to civil date (proleptic Gregorian calendar, years of 400 in 146,097 days).
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 {
        month_shifted + 3
    } else {
        month_shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
