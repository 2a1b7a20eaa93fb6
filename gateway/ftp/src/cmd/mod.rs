//! The verbs, one file per group. In each, `decide` is the session's side (pure), and `run` and its kin carry out what the file layer
//! has to do.

pub(crate) mod directory;
pub(crate) mod file;
pub(crate) mod hash;
pub(crate) mod info;
pub(crate) mod list;
pub(crate) mod login;
pub(crate) mod parameters;
pub(crate) mod retr;
pub(crate) mod site;
pub(crate) mod stor;

use crate::context::Context;
use crate::data::DataLink;
use crate::reply;
use crate::work::{Done, Work};

/// Carries out one work; `link` is there for those that move bytes. Always ends soon after `cx.cancel`; an upload that is already committing ends first.
pub(crate) async fn run(cx: Context, link: Option<DataLink>, work: Work) -> Done {
    match work {
        // An upload must not be dropped in the middle of its commit, so it looks at the cancel token itself.
        Work::Store(request) => Box::pin(stor::run(&cx, link, request)).await.into(),
        work => {
            let cancel = cx.cancel.clone();
            tokio::select! {
                biased;
                () = cancel.cancelled() => reply::aborted(false).into(),
                done = run_cancellable(&cx, link, work) => done,
            }
        }
    }
}

/// Each in memory of its own: what all of them could need would be moved about for each command.
async fn run_cancellable(cx: &Context, link: Option<DataLink>, work: Work) -> Done {
    match work {
        Work::Login { user, password } => Box::pin(login::check(cx, &user, &password)).await,
        Work::ChangeDirectory(path) => Box::pin(directory::change(cx, path)).await,
        Work::MakeDirectory(path) => Box::pin(directory::make(cx, &path)).await.into(),
        Work::RemoveDirectory(path) => Box::pin(directory::remove(cx, &path)).await.into(),
        Work::Delete(path) => Box::pin(file::delete(cx, &path)).await.into(),
        Work::RenameFrom(path) => Box::pin(file::rename_source(cx, path)).await,
        Work::Rename { from, to } => Box::pin(file::rename(cx, &from, &to)).await.into(),
        Work::Size(path) => Box::pin(file::size(cx, &path)).await.into(),
        Work::ModifiedTime(path) => Box::pin(file::modified(cx, &path)).await.into(),
        Work::SetModified {
            path,
            modified,
            told_as_fact,
        } => Box::pin(file::set_modified(cx, &path, modified, told_as_fact))
            .await
            .into(),
        Work::SetCreated { path, created } => {
            Box::pin(file::set_created(cx, &path, created)).await.into()
        }
        Work::SetMode { path, mode } => Box::pin(site::set_mode(cx, &path, mode)).await.into(),
        Work::Hash {
            path,
            algorithm,
            range,
            style,
        } => Box::pin(hash::run(cx, &path, algorithm, range, style))
            .await
            .into(),
        Work::Facts { path, facts } => Box::pin(list::facts(cx, &path, facts)).await.into(),
        Work::StatPath(request) => Box::pin(list::over_control(cx, &request)).await.into(),
        Work::List(request) => Box::pin(list::run(cx, link, &request)).await.into(),
        Work::Retrieve(request) => Box::pin(retr::run(cx, link, &request)).await.into(),
        Work::Store(request) => Box::pin(stor::run(cx, link, request)).await.into(),
    }
}
