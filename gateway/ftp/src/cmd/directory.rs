//! CWD, CDUP, PWD, MKD, RMD (RFC 959 4.1.3).

use sluice_vfs::{AccessMask, NewNode, NodeKind, RemoveKind, VfsError};

use crate::codec::command::Command;
use crate::context::{Context, Place};
use crate::path::VirtualPath;
use crate::reply::{self, Reply};
use crate::session::{Change, Session, Step};
use crate::work::{Done, Work};

pub(crate) fn decide(session: &Session, command: &Command) -> Step {
    match command {
        Command::Cwd(path) => session.work(path, Work::ChangeDirectory),
        Command::Cdup => Step::Work(Work::ChangeDirectory(session.cwd.parent())),
        Command::Mkd(path) => session.work(path, Work::MakeDirectory),
        Command::Rmd(path) => session.work(path, Work::RemoveDirectory),
        _ => Step::Reply(reply::current(&session.cwd)),
    }
}

/// Goes into a folder that exists and may be entered.
pub(crate) async fn change(cx: &Context, path: VirtualPath) -> Done {
    let refused = match cx.locate(&path) {
        Ok(Place::Top) => None,
        Ok(Place::Inside(tree, inside)) => match tree.resolve_following(&inside).await {
            Ok(node) if node.kind != NodeKind::Directory => Some(VfsError::NotDirectory),
            Ok(node) => match tree.access(node.id, AccessMask(AccessMask::EXECUTE)).await {
                Ok(granted) if granted.has(AccessMask::EXECUTE) => None,
                Ok(_) => Some(VfsError::AccessDenied),
                Err(error) => Some(error),
            },
            Err(error) => Some(error),
        },
        Err(error) => Some(error),
    };
    match refused {
        Some(error) => reply::refused(&path, &error).into(),
        None => Done {
            reply: reply::changed_to(&path),
            change: Some(Change::Directory(path)),
        },
    }
}

/// Makes one folder.
pub(crate) async fn make(cx: &Context, path: &VirtualPath) -> Reply {
    let (tree, parent, name) = match cx.entry(path).await {
        Ok(entry) => entry,
        Err(refusal) => return refusal,
    };
    let new = NewNode {
        kind: Some(NodeKind::Directory),
        ..NewNode::default()
    };
    match tree.make_node(parent, &name, new).await {
        Ok(_) => reply::made(path),
        Err(error) => reply::refused(path, &error),
    }
}

/// Removes an empty folder.
pub(crate) async fn remove(cx: &Context, path: &VirtualPath) -> Reply {
    let (tree, parent, name) = match cx.entry(path).await {
        Ok(entry) => entry,
        Err(refusal) => return refusal,
    };
    match tree.remove(parent, &name, RemoveKind::Directory).await {
        Ok(()) => Reply::fixed(250, "Directory removed."),
        Err(error) => reply::refused(path, &error),
    }
}
