//! DELE, RNFR, RNTO (RFC 959 4.1.3), SIZE, MDTM (RFC 3659 3 and 4), MFMT, MFCT (draft-somers-ftp-mfxx).

use sluice_vfs::{AttributeChange, NodeKind, RemoveKind, Timestamp, VfsError};

use crate::codec::command::Command;
use crate::codec::time;
use crate::context::Context;
use crate::path::VirtualPath;
use crate::reply::{self, Reply};
use crate::session::{Change, Session, Step};
use crate::work::{Done, Work};

pub(crate) fn decide(session: &Session, command: &Command) -> Step {
    match command {
        Command::Dele(path) => session.work(path, Work::Delete),
        Command::Rnfr(path) => session.work(path, Work::RenameFrom),
        Command::Size(path) => session.work(path, Work::Size),
        Command::Mfmt { modified, path } => session.work(path, |path| Work::SetModified {
            path,
            modified: *modified,
            told_as_fact: true,
        }),
        Command::Mfct { created, path } => session.work(path, |path| Work::SetCreated {
            path,
            created: *created,
        }),
        Command::Mdtm(path) => session.work(path, Work::ModifiedTime),
        _ => Step::Reply(Reply::fixed(502, "Not offered here.")),
    }
}

/// RNTO, which needs the RNFR right before it.
pub(crate) fn rename_to(session: &Session, from: Option<VirtualPath>, to: &str) -> Step {
    match from {
        Some(from) => session.work(to, |to| Work::Rename { from, to }),
        None => Step::Reply(Reply::fixed(503, "Send RNFR first.")),
    }
}

/// Deletes a document (or link), not a folder.
pub(crate) async fn delete(cx: &Context, path: &VirtualPath) -> Reply {
    let (tree, parent, name) = match cx.entry(path).await {
        Ok(entry) => entry,
        Err(refusal) => return refusal,
    };
    match tree.remove(parent, &name, RemoveKind::NotDirectory).await {
        Ok(()) => Reply::fixed(250, "Deleted."),
        Err(error) => reply::refused(path, &error),
    }
}

/// RNFR: the entry must exist.
pub(crate) async fn rename_source(cx: &Context, path: VirtualPath) -> Done {
    let found = match cx.entry(&path).await {
        Ok((tree, parent, name)) => tree.lookup(parent, &name).await,
        Err(refusal) => return refusal.into(),
    };
    match found {
        Ok(_) => Done {
            reply: Reply::fixed(350, "Send RNTO with the new name."),
            change: Some(Change::RenameFrom(path)),
        },
        Err(error) => reply::refused(&path, &error).into(),
    }
}

/// RNTO: an existing target of the same sort is replaced in the same commit, as clients that upload and rename expect.
pub(crate) async fn rename(cx: &Context, from: &VirtualPath, to: &VirtualPath) -> Reply {
    let (tree, from_dir, from_name) = match cx.entry(from).await {
        Ok(source) => source,
        Err(refusal) => return refusal,
    };
    let (to_dir, to_name) = match to.name() {
        // The usual case; the folder need not be looked up again.
        Some(name) if to.is_beside(from) => (from_dir, name.to_owned()),
        _ => match cx.entry(to).await {
            Ok((there, _, _)) if there.share().id != tree.share().id => {
                return reply::refused(to, &VfsError::CrossShare);
            }
            Ok((_, to_dir, to_name)) => (to_dir, to_name),
            Err(refusal) => return refusal,
        },
    };
    match tree
        .rename(from_dir, &from_name, to_dir, &to_name, true)
        .await
    {
        Ok(()) => Reply::fixed(250, "Renamed."),
        Err(error) => reply::refused(rename_subject(&error, from, to), &error),
    }
}

/// Which of the two names a refusal is about.
fn rename_subject<'a>(
    error: &VfsError,
    from: &'a VirtualPath,
    to: &'a VirtualPath,
) -> &'a VirtualPath {
    match error {
        VfsError::Exists
        | VfsError::NotEmpty
        | VfsError::IsDirectory
        | VfsError::NotDirectory
        | VfsError::NameInvalid
        | VfsError::NameTooLong => to,
        _ => from,
    }
}

/// SIZE in bytes as stored, whatever the type: what resuming and progress bars need (as other servers do).
pub(crate) async fn size(cx: &Context, path: &VirtualPath) -> Reply {
    match cx.node(path).await {
        Ok((_, node)) if node.kind != NodeKind::File => reply::no_document(path),
        Ok((_, node)) => Reply::text(213, node.size.to_string()),
        Err(refusal) => refusal,
    }
}

/// MDTM.
pub(crate) async fn modified(cx: &Context, path: &VirtualPath) -> Reply {
    match cx.node(path).await {
        Ok((_, node)) => Reply::text(213, time::compact(node.modified)),
        Err(refusal) => refusal,
    }
}

/// MFMT and SITE UTIME.
pub(crate) async fn set_modified(
    cx: &Context,
    path: &VirtualPath,
    modified: Timestamp,
    told_as_fact: bool,
) -> Reply {
    let change = AttributeChange {
        modified: Some(modified),
        ..AttributeChange::default()
    };
    match set(cx, path, change).await {
        Some(refusal) => refusal,
        None if told_as_fact => reply::fact_set("Modify", modified, path),
        None => Reply::fixed(200, "Time set."),
    }
}

/// MFCT.
pub(crate) async fn set_created(cx: &Context, path: &VirtualPath, created: Timestamp) -> Reply {
    let change = AttributeChange {
        created: Some(created),
        ..AttributeChange::default()
    };
    match set(cx, path, change).await {
        Some(refusal) => refusal,
        None => reply::fact_set("Create", created, path),
    }
}

/// Changes attributes; `Some` is the refusal.
pub(crate) async fn set(
    cx: &Context,
    path: &VirtualPath,
    change: AttributeChange,
) -> Option<Reply> {
    let (tree, node) = match cx.node(path).await {
        Ok(found) => found,
        Err(refusal) => return Some(refusal),
    };
    let changed = tree.set_attributes(node.id, change, None, None).await;
    changed.err().map(|error| reply::refused(path, &error))
}
