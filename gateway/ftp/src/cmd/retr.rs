//! RETR (RFC 959 4.1.3) with REST (RFC 3659 5) and RANG: one moment's content, whatever is written meanwhile.

use bytes::BytesMut;
use sluice_vfs::{Download, NodeKind, ReadData, VfsError};

use crate::codec::ascii::ToNetwork;
use crate::codec::command::TransferType;
use crate::context::Context;
use crate::data::{DataLink, Parts, Sender};
use crate::path::VirtualPath;
use crate::reply::{self, Reply};
use crate::session::{Session, Step};
use crate::work::{RetrieveRequest, Work};

/// Bytes asked from the file layer at once. The next read runs while these go out.
const READ_BYTES: u64 = 1024 * 1024;

pub(crate) fn decide(session: &mut Session, argument: &str) -> Step {
    let restart = std::mem::take(&mut session.restart);
    let (start, end) = match session.range.take() {
        Some((start, last)) => (start, last.saturating_add(1)),
        None => (restart, u64::MAX),
    };
    let transfer_type = session.transfer_type;
    if transfer_type == TransferType::Ascii && (start, end) != (0, u64::MAX) {
        // Offsets count bytes as they are on the wire, which ASCII changes.
        return Step::Reply(Reply::fixed(504, "Restarting needs TYPE I."));
    }
    session.transfer(argument, |path| {
        Work::Retrieve(RetrieveRequest {
            path,
            transfer_type,
            start,
            end,
        })
    })
}

pub(crate) async fn run(cx: &Context, link: Option<DataLink>, request: &RetrieveRequest) -> Reply {
    let Some(mut link) = link else {
        return reply::DATA_FIRST;
    };
    let path = &request.path;
    let (tree, inside) = match cx.locate_entry(path) {
        Ok(found) => found,
        Err(refusal) => return refusal,
    };
    let download = match link.during(tree.download(&inside)).await {
        Ok(download) => download,
        Err(VfsError::IsDirectory) => return reply::no_document(path),
        Err(error) => return reply::refused(path, &error),
    };
    if download.attributes().kind != NodeKind::File {
        return reply::no_document(path);
    }
    let size = download.attributes().size;
    if request.start > size {
        return reply::beyond_end(path, size);
    }
    let end = request.end.min(size);
    cx.begin(reply::sending(path, end.saturating_sub(request.start)));
    let mut sender = match link.open_sender(cx).await {
        Ok(sender) => sender,
        Err(refusal) => return refusal,
    };
    let sent = match request.transfer_type {
        TransferType::Image => {
            send(
                &mut sender,
                &download,
                request.start,
                end,
                path,
                Parts::from,
            )
            .await
        }
        TransferType::Ascii => {
            let mut convert = ToNetwork::default();
            let as_text = |read: ReadData| {
                let mut out = BytesMut::new();
                read.parts
                    .iter()
                    .for_each(|part| convert.convert(part, &mut out));
                Parts::from(out.freeze())
            };
            send(&mut sender, &download, request.start, end, path, as_text).await
        }
    };
    download.close().await;
    let finished = match sent {
        Ok(()) => sender.finish().await,
        Err(refusal) => {
            sender.fail();
            Err(refusal)
        }
    };
    match finished {
        Ok(bytes) => {
            tracing::debug!(document = %path, bytes, "sent");
            reply::sent(bytes)
        }
        Err(refusal) => refusal,
    }
}

/// Sends `[at, end)`, reading one piece ahead.
async fn send(
    sender: &mut Sender<'_>,
    download: &Download,
    mut at: u64,
    end: u64,
    path: &VirtualPath,
    mut convert: impl FnMut(ReadData) -> Parts,
) -> Result<(), Reply> {
    let read = async |at: u64| {
        let want = u32::try_from((end - at).min(READ_BYTES)).unwrap_or(u32::MAX);
        match download.read(at, want).await {
            // The size was fixed when the download began: nothing before it may be missing.
            Ok(read) if read.len == 0 => Err(reply::refused(path, &VfsError::Io)),
            Ok(read) => Ok(read),
            Err(error) => Err(reply::refused(path, &error)),
        }
    };
    if at >= end {
        return Ok(());
    }
    let mut current = read(at).await?;
    loop {
        at += current.len as u64;
        let parts = convert(current);
        if at >= end {
            return sender.send(parts).await;
        }
        let (sent, next) = tokio::join!(sender.send(parts), read(at));
        sent?;
        current = next?;
    }
}
