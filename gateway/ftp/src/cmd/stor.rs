//! STOR, APPE, STOU (RFC 959 4.1.3): an upload appears whole or not at all.
//!
//! The order is the promise: grant (150), bytes, a clean end of the data connection, a last look whether the client is still
//! there (a program that dies closes its data connection as cleanly as one that is done, but its control connection too), commit, and
//! only then 226. Any other end drops the upload, and the old document stays.

use bytes::{Bytes, BytesMut};
use sluice_vfs::{RelPath, Tree, Upload, UploadMode, UploadReceipt, VfsError};

use crate::codec::ascii::FromNetwork;
use crate::codec::command::{Command, TransferType};
use crate::context::Context;
use crate::data::{DataLink, Doubt, End, Receiver};
use crate::path::VirtualPath;
use crate::reply::{self, Reply};
use crate::session::{Session, Step};
use crate::work::{StoreRequest, Work};

/// Tries to find a free name for STOU; with 64 random bits the first one is free.
const UNIQUE_TRIES: usize = 4;

pub(crate) fn decide(session: &mut Session, command: &Command) -> Step {
    let restart = std::mem::take(&mut session.restart);
    let announced = session.announced.take();
    session.range = None;
    let transfer_type = session.transfer_type;
    let (argument, mode, unique) = match command {
        Command::Appe(path) => (path.as_str(), UploadMode::Append, false),
        Command::Stou(path) if path.is_empty() => ("upload", UploadMode::Replace, true),
        Command::Stou(path) => (path.as_str(), UploadMode::Replace, true),
        Command::Stor(path) if restart > 0 => (path.as_str(), UploadMode::ResumeAt(restart), false),
        Command::Stor(path) => (path.as_str(), UploadMode::Replace, false),
        _ => return Step::Reply(Reply::fixed(502, "Not offered here.")),
    };
    if transfer_type == TransferType::Ascii && matches!(mode, UploadMode::ResumeAt(_)) {
        return Step::Reply(Reply::fixed(504, "Restarting needs TYPE I."));
    }
    session.transfer(argument, |path| {
        Work::Store(StoreRequest {
            path,
            transfer_type,
            mode,
            unique,
            announced,
        })
    })
}

pub(crate) async fn run(cx: &Context, link: Option<DataLink>, mut request: StoreRequest) -> Reply {
    let Some(mut link) = link else {
        return reply::DATA_FIRST;
    };
    let granted = tokio::select! {
        biased;
        () = cx.cancel.cancelled() => Err(reply::aborted(true)),
        granted = grant(cx, &mut link, &mut request) => granted,
    };
    let mut upload = match granted {
        Ok(upload) => upload,
        Err(refusal) => return refusal,
    };
    cx.begin(reply::receiving(&request.path, request.unique));
    let received = tokio::select! {
        biased;
        () = cx.cancel.cancelled() => Err(reply::aborted(true)),
        received = receive(cx, link, &mut upload, &request) => received,
    };
    let settled = match received {
        Ok(end) => tokio::select! {
            biased;
            () = cx.cancel.cancelled() => Err(reply::aborted(true)),
            settled = settle(cx, &mut upload, end, &request.path) => settled,
        },
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = settled {
        upload.abort().await;
        return refusal;
    }
    let bytes = cx.progress.bytes();
    match upload.commit(None).await {
        Ok(receipt) => stored(&request.path, bytes, &receipt),
        Err(error) => failed(&request.path, &error),
    }
}

/// The refusal of an upload; also a line in the log if it is this side's fault.
fn failed(path: &VirtualPath, error: &VfsError) -> Reply {
    if matches!(error, VfsError::NoSpace | VfsError::Io) {
        tracing::error!(document = %path, %error, "an upload could not be stored");
    }
    reply::refused(path, error)
}

fn stored(path: &VirtualPath, bytes: u64, receipt: &UploadReceipt) -> Reply {
    tracing::debug!(document = %path, bytes, version = receipt.attributes.version.0, forked = receipt.copy.is_some(), "stored");
    let Some(copy) = &receipt.copy else {
        return reply::stored(bytes, receipt.attributes.size);
    };
    let share = path
        .in_share()
        .ok()
        .flatten()
        .map(|(share, _)| share.to_owned());
    let copy = VirtualPath::default().join(&format!("/{}/{copy}", share.unwrap_or_default()));
    reply::stored_as_copy(bytes, path, &copy.unwrap_or_default())
}

/// Waits until the file layer lets the upload begin. The data connection may come meanwhile.
async fn grant(
    cx: &Context,
    link: &mut DataLink,
    request: &mut StoreRequest,
) -> Result<Upload, Reply> {
    let (tree, mut inside) = cx.locate_entry(&request.path)?;
    if request.unique {
        (request.path, inside) = unique_name(cx, &tree, &request.path).await?;
    }
    let upload = link.during(tree.upload(&inside, request.mode)).await;
    upload.map_err(|error| reply::refused(&request.path, &error))
}

async fn unique_name(
    cx: &Context,
    tree: &Tree,
    base: &VirtualPath,
) -> Result<(VirtualPath, RelPath), Reply> {
    for _ in 0..UNIQUE_TRIES {
        let random = getrandom::u64().map_err(|_| reply::refused(base, &VfsError::Io))?;
        let name = format!("{}.{random:016x}", base.name().unwrap_or("upload"));
        let path = base
            .parent()
            .join(&name)
            .map_err(|error| reply::refused(base, &error))?;
        let (_, inside) = cx.locate_entry(&path)?;
        match tree.resolve(&inside).await {
            Err(VfsError::NotFound) => return Ok((path, inside)),
            Ok(_) => {}
            Err(error) => return Err(reply::refused(&path, &error)),
        }
    }
    Err(reply::refused(base, &VfsError::Exists))
}

/// Between the end of the bytes and the commit, which nothing takes back: they are stored, and the client has left no sign that it
/// died.
async fn settle(
    cx: &Context,
    upload: &mut Upload,
    end: End,
    path: &VirtualPath,
) -> Result<(), Reply> {
    let End::Likely(since) = end else {
        return Ok(());
    };
    let sealed = upload.seal().await;
    sealed.map_err(|error| failed(path, &error))?;
    let doubt = Doubt {
        since,
        longest: cx.options.upload_end_doubt,
        same_machine: cx.same_machine,
    };
    match &cx.control {
        Some(control) if !control.ended_by(doubt).await => Ok(()),
        _ => Err(reply::aborted(true)),
    }
}

/// Takes bytes until the data connection ends cleanly.
async fn receive(
    cx: &Context,
    link: DataLink,
    upload: &mut Upload,
    request: &StoreRequest,
) -> Result<End, Reply> {
    let mut receiver = link.open_receiver(cx).await?;
    let refused = |error: VfsError| failed(&request.path, &error);
    match request.transfer_type {
        TransferType::Image => {
            while let Some(data) = receiver.next().await? {
                upload.write(data).await.map_err(refused)?;
            }
        }
        TransferType::Ascii => receive_text(&mut receiver, upload)
            .await?
            .map_err(refused)?,
    }
    Ok(receiver.finish(request.announced).await)
}

async fn receive_text(
    receiver: &mut Receiver<'_>,
    upload: &mut Upload,
) -> Result<Result<(), VfsError>, Reply> {
    let mut convert = FromNetwork::default();
    while let Some(data) = receiver.next().await? {
        let mut out = BytesMut::new();
        convert.convert(&data, &mut out);
        if let Err(error) = write_some(upload, out.freeze()).await {
            return Ok(Err(error));
        }
    }
    let mut out = BytesMut::new();
    convert.finish(&mut out);
    Ok(write_some(upload, out.freeze()).await)
}

async fn write_some(upload: &mut Upload, data: Bytes) -> Result<(), VfsError> {
    if data.is_empty() {
        return Ok(());
    }
    upload.write(data).await
}
