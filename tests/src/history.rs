//! Histories of what clients saw, and whether one order of all operations explains them (linearizability), document by document.
//!
//! Two kinds of documents make the question easy to decide exactly. A **log** only grows by whole records, each unique: what is
//! there at the end is the order, and every operation has its place in it. A **register** is replaced as a whole by values that are
//! unique: a value's operations form an interval, and intervals must not cross (Gibbons and Korach, "Testing shared memories", 1997).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One operation: what was done, from when to when.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What.
    pub what: What,
    /// When the client began.
    pub begin: Instant,
    /// When it had the answer; `None`: never, so it may have happened at any time since, or not at all.
    pub end: Option<Instant>,
    /// Who, for people.
    pub client: String,
}

/// See [`Operation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A record was appended to a log, or a register was set to it.
    Write(Vec<u8>),
    /// The document was read and held this.
    Read(Vec<u8>),
}

/// Why no order explains a history.
pub type Violation = String;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

/// Checks a log whose records all have `record` bytes and which holds `last` at the end.
///
/// # Errors
/// The first contradiction: a lost, doubled or torn record, or two operations in the wrong order.
pub fn check_log(operations: &[Operation], last: &[u8], record: usize) -> Result<(), Violation> {
    if !last.len().is_multiple_of(record) {
        return Err(format!("torn: {} bytes are no whole records", last.len()));
    }
    let mut place = BTreeMap::new();
    for (at, bytes) in last.chunks(record).enumerate() {
        if place.insert(bytes.to_vec(), at + 1).is_some() {
            return Err(format!("doubled: {}", text(bytes)));
        }
    }
    // Where each operation stands: an append after its record, a read after what it saw.
    let mut placed = Vec::new();
    for operation in operations {
        let at = match &operation.what {
            What::Write(bytes) => match (place.remove(bytes), operation.end) {
                (Some(at), _) => at,
                (None, None) => continue,
                (None, Some(_)) => {
                    return Err(format!("lost: {} of {}", text(bytes), operation.client));
                }
            },
            What::Read(bytes) if last.starts_with(bytes) && bytes.len().is_multiple_of(record) => {
                bytes.len() / record
            }
            What::Read(bytes) => {
                return Err(format!(
                    "{} read {} bytes that the log never began with",
                    operation.client,
                    bytes.len()
                ));
            }
        };
        placed.push((at, operation));
    }
    if let Some((stranger, _)) = place.first_key_value() {
        return Err(format!("nobody wrote {}", text(stranger)));
    }
    in_order(placed)
}

/// Whoever begins after another's end must not stand before it.
fn in_order(mut placed: Vec<(usize, &Operation)>) -> Result<(), Violation> {
    placed.sort_by_key(|(_, operation)| operation.begin);
    let mut ended: Vec<_> = placed
        .iter()
        .filter_map(|(at, operation)| operation.end.map(|end| (end, *at, *operation)))
        .collect();
    ended.sort_by_key(|(end, ..)| *end);
    let (mut next, mut latest) = (0, None::<(usize, &Operation)>);
    for (at, operation) in placed {
        while let Some((end, before, who)) = ended.get(next)
            && *end < operation.begin
        {
            if latest.is_none_or(|(place, _)| place < *before) {
                latest = Some((*before, *who));
            }
            next += 1;
        }
        if let Some((place, who)) = latest
            && at < place
        {
            return Err(format!(
                "{} stands at {at}, but began after {} ended, who stands at {place}",
                operation.client, who.client
            ));
        }
    }
    Ok(())
}

/// The operations on one value of a register: the earliest end and the latest begin among them.
struct Zone {
    first_end: Instant,
    last_begin: Instant,
    written: Instant,
}

impl Zone {
    /// The register held the value at least from the first to the second.
    fn forward(&self) -> Option<(Instant, Instant)> {
        (self.first_end < self.last_begin).then_some((self.first_end, self.last_begin))
    }
}

/// Checks a register that began with `first`.
///
/// # Errors
/// The first contradiction: a value nobody wrote, one read before it was written, or two values that were both current between
/// each other's reads.
pub fn check_register(operations: &[Operation], first: &[u8]) -> Result<(), Violation> {
    let Some(start) = operations.iter().map(|operation| operation.begin).min() else {
        return Ok(());
    };
    // The first value was there before anybody began.
    let before = start.checked_sub(Duration::from_secs(1)).unwrap_or(start);
    let far = operations
        .iter()
        .flat_map(|operation| [Some(operation.begin), operation.end])
        .flatten()
        .max()
        .unwrap_or(start);
    let mut zones: BTreeMap<&[u8], Zone> = BTreeMap::new();
    zones.insert(first, zone(before, before, before));
    for operation in operations {
        if let What::Write(value) = &operation.what {
            let end = operation.end.unwrap_or(far);
            zones.insert(value, zone(end, operation.begin, operation.begin));
        }
    }
    let mut seen: Vec<&[u8]> = Vec::new();
    for operation in operations {
        let (What::Read(value), Some(end)) = (&operation.what, operation.end) else {
            continue;
        };
        let Some(zone) = zones.get_mut(&value[..]) else {
            return Err(format!(
                "nobody wrote {}, which {} read",
                text(value),
                operation.client
            ));
        };
        if end < zone.written {
            return Err(format!(
                "{} read {} before it was written",
                operation.client,
                text(value)
            ));
        }
        zone.first_end = zone.first_end.min(end);
        zone.last_begin = zone.last_begin.max(operation.begin);
        seen.push(value);
    }
    // A write without an answer that nobody saw may never have happened.
    for operation in operations {
        if let (What::Write(value), None) = (&operation.what, operation.end)
            && !seen.contains(&&value[..])
        {
            zones.remove(&value[..]);
        }
    }
    zones_fit(&zones)
}

fn zone(first_end: Instant, last_begin: Instant, written: Instant) -> Zone {
    Zone {
        first_end,
        last_begin,
        written,
    }
}

fn zones_fit(zones: &BTreeMap<&[u8], Zone>) -> Result<(), Violation> {
    for (value, zone) in zones {
        let Some((from, to)) = zone.forward() else {
            continue;
        };
        for (other_value, other) in zones {
            if value == other_value {
                continue;
            }
            let crosses = match other.forward() {
                Some((other_from, other_to)) => from < other_to && other_from < to,
                None => from < other.last_begin && other.first_end < to,
            };
            if crosses {
                return Err(format!(
                    "{} was read before and after {} was current",
                    text(value),
                    text(other_value)
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(start: Instant, what: What, begin: u64, end: Option<u64>) -> Operation {
        let at = |ms: u64| start + Duration::from_millis(ms);
        Operation {
            what,
            begin: at(begin),
            end: end.map(at),
            client: format!("client at {begin}"),
        }
    }

    fn write(value: &str) -> What {
        What::Write(value.into())
    }

    fn read(value: &str) -> What {
        What::Read(value.into())
    }

    #[test]
    fn a_log_in_any_order_of_concurrent_appends_is_fine() {
        let t = Instant::now();
        let history = [
            op(t, write("a;"), 0, Some(10)),
            op(t, write("b;"), 5, Some(20)),
            op(t, read("b;"), 12, Some(14)),
            op(t, write("c;"), 30, None),
        ];
        // b before a: the read between them saw b alone, though a had ended.
        assert!(
            check_log(&history, b"b;a;", 2)
                .unwrap_err()
                .contains("stands at 1")
        );
        let history = [history[0].clone(), history[1].clone(), history[3].clone()];
        assert_eq!(check_log(&history, b"b;a;", 2), Ok(()));
        assert_eq!(
            check_log(&history, b"a;b;c;", 2),
            Ok(()),
            "it may have happened"
        );
    }

    #[test]
    fn lost_doubled_torn_and_foreign_records_are_found() {
        let t = Instant::now();
        let history = [
            op(t, write("a;"), 0, Some(10)),
            op(t, write("b;"), 20, Some(30)),
        ];
        for (last, word) in [
            ("a;", "lost"),
            ("a;b;a;", "doubled"),
            ("a;b", "torn"),
            ("a;b;x;", "nobody wrote"),
            ("b;a;", "stands at"),
        ] {
            let found = check_log(&history, last.as_bytes(), 2).unwrap_err();
            assert!(found.contains(word), "{last}: {found}");
        }
    }

    #[test]
    fn a_read_of_an_older_log_after_a_newer_append_is_found() {
        let t = Instant::now();
        let history = [
            op(t, write("a;"), 0, Some(10)),
            op(t, write("b;"), 20, Some(30)),
            op(t, read("a;"), 40, Some(50)),
        ];
        assert!(check_log(&history, b"a;b;", 2).is_err());
    }

    #[test]
    fn a_register_is_explained_by_any_order_of_what_overlaps() {
        let t = Instant::now();
        let history = [
            op(t, write("1"), 0, Some(50)),
            op(t, write("2"), 10, Some(40)),
            op(t, read("0"), 5, Some(12)),
            op(t, read("2"), 20, Some(30)),
            op(t, read("1"), 45, Some(60)),
            op(t, write("3"), 70, None),
        ];
        assert_eq!(check_register(&history, b"0"), Ok(()));
    }

    #[test]
    fn stale_and_flapping_reads_of_a_register_are_found() {
        let t = Instant::now();
        let stale = [
            op(t, write("1"), 0, Some(10)),
            op(t, read("0"), 20, Some(30)),
        ];
        assert!(check_register(&stale, b"0").is_err());
        let flapping = [
            op(t, write("1"), 0, Some(10)),
            op(t, write("2"), 20, Some(60)),
            op(t, read("2"), 25, Some(30)),
            op(t, read("1"), 35, Some(40)),
        ];
        assert!(check_register(&flapping, b"0").is_err());
        let unheard = [
            op(t, write("1"), 0, None),
            op(t, read("1"), 20, Some(30)),
            op(t, read("0"), 35, Some(40)),
        ];
        assert!(
            check_register(&unheard, b"0").is_err(),
            "once seen, it happened"
        );
        let early = [
            op(t, write("1"), 50, Some(60)),
            op(t, read("1"), 10, Some(20)),
        ];
        assert!(check_register(&early, b"0").is_err());
    }
}
