//! The words of the scenario files, and how what happens is written there. Shared by all that replay the files.

use std::fmt::Write as _;
use std::time::Duration;

use sluice_lockmgr::{
    Access, BreakNotice, ByteRange, CacheRequest, CacheState, Closed, Entry, EntryKind, GrantKey,
    IoKind, LeaseId, OnConflict, OplockLevel, ResourceId,
};

/// Words of a line after the command.
pub type Args<'a> = Vec<&'a str>;

pub fn value<'a>(args: &Args<'a>, key: &str) -> Option<&'a str> {
    args.iter()
        .find_map(|a| a.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')))
}

pub fn flag(args: &Args<'_>, word: &str) -> bool {
    args.contains(&word)
}

pub fn duration(text: &str) -> Duration {
    let number = |unit: &str| text.strip_suffix(unit).and_then(|n| n.parse::<u64>().ok());
    number("ms")
        .map(Duration::from_millis)
        .or_else(|| number("s").map(Duration::from_secs))
        .expect("a duration")
}

pub fn access(text: &str) -> Access {
    text.split('+').fold(Access::NONE, |set, word| {
        set.with(match word {
            "read" => Access::READ,
            "write" => Access::WRITE,
            "delete" => Access::DELETE,
            "all" => Access::ALL,
            "none" => Access::NONE,
            other => panic!("unknown access {other}"),
        })
    })
}

pub fn cache_state(text: &str) -> CacheState {
    text.chars().fold(CacheState::NONE, |state, letter| {
        state.with(match letter {
            'R' => CacheState::R,
            'H' => CacheState::H,
            'W' => CacheState::W,
            _ => CacheState::NONE,
        })
    })
}

pub fn byte_range(text: &str) -> ByteRange {
    let number = |n: &str| {
        if n == "max" {
            u64::MAX
        } else {
            n.parse().expect("a number")
        }
    };
    let (offset, length) = text.split_once('+').expect("offset+length");
    ByteRange::new(number(offset), number(length)).expect("a valid range")
}

pub fn resource(text: &str) -> ResourceId {
    let (document, stream) = text.split_once(':').unwrap_or((text, "0"));
    let document = document.bytes().fold(0, |n, b| n * 256 + u64::from(b));
    ResourceId {
        document,
        stream: stream.parse().expect("a stream number"),
    }
}

pub fn lease_id(client: &str, key: &str) -> LeaseId {
    let mut guid = [0; 16];
    guid[0] = client.as_bytes()[0];
    LeaseId {
        client_guid: guid,
        key: [key.as_bytes()[0]; 16],
    }
}

pub fn on_conflict(args: &Args<'_>) -> OnConflict {
    if let Some(wait) = value(args, "wait") {
        OnConflict::Wait((wait != "forever").then(|| duration(wait)))
    } else if let Some(poll) = value(args, "retry") {
        match value(args, "hold") {
            Some(hold) => OnConflict::PollHeld {
                patience: duration(poll),
                hold: duration(hold),
            },
            None => OnConflict::Poll(duration(poll)),
        }
    } else {
        OnConflict::Reject
    }
}

pub fn cache_request(client: &str, args: &Args<'_>) -> CacheRequest {
    match value(args, "cache") {
        None => CacheRequest::None,
        Some("II") => CacheRequest::Oplock(OplockLevel::II),
        Some("exclusive") => CacheRequest::Oplock(OplockLevel::Exclusive),
        Some("batch") => CacheRequest::Oplock(OplockLevel::Batch),
        Some("read-delegation") => CacheRequest::Delegation { write: false },
        Some("write-delegation") => CacheRequest::Delegation { write: true },
        Some(lease) => {
            let (key, want) = lease.split_once(':').expect("lease key:rights");
            let (lease, want) = (lease_id(client, key), cache_state(want));
            CacheRequest::Lease {
                lease,
                want,
                v2: flag(args, "v2"),
                epoch: 0,
                parent: None,
            }
        }
    }
}

pub fn io_kind(kind: &str, range: Option<&&str>) -> IoKind {
    let range = || byte_range(range.expect("a range"));
    match kind {
        "read" => IoKind::Read(range()),
        "write" => IoKind::Write(range()),
        "truncate" => IoKind::SetSize(range()),
        _ => IoKind::Attributes,
    }
}

pub fn deletion(closed: Closed) -> String {
    match (closed.delete_document, closed.delete_stream) {
        (true, _) => String::from(", delete the document now"),
        (false, Some(stream)) => format!(", delete stream {stream} now"),
        (false, None) => String::new(),
    }
}

/// What a holder hears that is to give a cache back.
pub fn called_back(notice: &BreakNotice) -> String {
    let who = match notice.grant {
        GrantKey::Lease(lease) => format!("lease {}", char::from(lease.key[0])),
        GrantKey::Oplock(_) => String::from("oplock"),
        GrantKey::Delegation(_) => String::from("delegation"),
    };
    let answer = if notice.ack_required {
        ", must answer"
    } else {
        ""
    };
    let epoch = if notice.epoch == 0 {
        String::new()
    } else {
        format!(", epoch {}", notice.epoch)
    };
    format!(
        "{who} called back from {} to {}{answer}{epoch}",
        notice.from, notice.to
    )
}

pub fn show_entry(e: &Entry) -> String {
    let who = format!("{} {}", e.holder.protocol, e.holder.user);
    let mut text = match e.kind {
        EntryKind::Open => format!("open of {who}: {}, denies {}", e.access, e.denies),
        EntryKind::Place => format!("writer's place of {who}"),
        EntryKind::Range => {
            let kind = if e.exclusive { "exclusive" } else { "shared" };
            format!(
                "{kind} range of {who}: {}",
                e.range.unwrap_or(ByteRange::WHOLE)
            )
        }
        EntryKind::Cache => format!("cache of {who}: {}", e.cache.unwrap_or_default()),
        EntryKind::Waiter => format!("{who} waits"),
    };
    if let Some(to) = e.breaking_to {
        let _ = write!(text, ", called back to {to}");
    }
    if e.disconnected {
        text.push_str(", disconnected");
    }
    if e.delete_pending {
        text.push_str(", marked for deletion");
    }
    if let Some(ms) = e.ends_in_ms {
        let _ = write!(text, ", ends in {ms} ms");
    }
    let _ = write!(text, " ({})", e.freed_by);
    text
}
