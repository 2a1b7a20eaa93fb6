//! SITE CHMOD, SITE UTIME, SITE HELP.

use sluice_vfs::AttributeChange;

use crate::codec::command::Site;
use crate::context::Context;
use crate::path::VirtualPath;
use crate::reply::{self, Reply};
use crate::session::{Session, Step};
use crate::work::Work;

pub(crate) fn decide(session: &Session, site: &Site) -> Step {
    match site {
        Site::Chmod { mode, path } => {
            session.work(path, |path| Work::SetMode { path, mode: *mode })
        }
        Site::Utime { modified, path } => session.work(path, |path| Work::SetModified {
            path,
            modified: *modified,
            told_as_fact: false,
        }),
        Site::Help => Step::Reply(reply::site_help()),
        Site::Unknown => Step::Reply(Reply::fixed(504, "Unknown SITE command; see SITE HELP.")),
    }
}

/// SITE CHMOD.
pub(crate) async fn set_mode(cx: &Context, path: &VirtualPath, mode: u32) -> Reply {
    let change = AttributeChange {
        mode: Some(mode),
        ..AttributeChange::default()
    };
    match super::file::set(cx, path, change).await {
        Some(refusal) => refusal,
        None => Reply::fixed(200, "Mode set."),
    }
}
