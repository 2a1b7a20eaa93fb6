//! Bytes of documents: READ, WRITE, COMMIT. Payloads are slices of the receive buffer or of the store; nothing is copied here.

use sluice_nfs_wire::nfs3::{
    CommitArgs, CommitOk, CommitRes, ReadArgs, ReadOk, ReadRes, Stability, Status, WccData,
    WriteArgs, WriteOk, WriteRes,
};
use sluice_nfs_wire::xdr::Payload;
use sluice_vfs::Stability as Durability;

use super::TRANSFER_BYTES_MAX;
use super::nodes::wcc_now;
use crate::call::{Call, Place};
use crate::status;

/// RFC 1813 3.3.6.
pub(super) async fn read(call: &Call<'_>, args: ReadArgs) -> ReadRes {
    let place = match call.place(&args.file) {
        Ok(place) => place,
        Err(status) => return ReadRes::Fail(status, None),
    };
    let count = args.count.min(TRANSFER_BYTES_MAX);
    let read = place.tree.read(place.node, args.offset, count).await;
    let attributes = place.post_op().await;
    match read {
        Ok(read) => ReadRes::Ok(ReadOk {
            attributes,
            count: u32::try_from(read.len).unwrap_or(count),
            eof: read.eof,
            data: Payload(read.parts.into_vec()),
        }),
        Err(error) => ReadRes::Fail(status::nfs(&error), attributes),
    }
}

/// RFC 1813 3.3.7. The file layer may promise more than was asked; the reply says what it did promise.
pub(super) async fn write(call: &Call<'_>, args: WriteArgs) -> WriteRes {
    let place = match call.place(&args.file) {
        Ok(place) => place,
        Err(status) => return WriteRes::Fail(status, WccData::none()),
    };
    let before = place.attributes().await;
    match write_at(call, &place, args).await {
        Ok((count, committed, verifier)) => WriteRes::Ok(WriteOk {
            wcc: wcc_now(&place, before).await,
            count,
            committed,
            verifier,
        }),
        Err(status) => WriteRes::Fail(status, wcc_now(&place, before).await),
    }
}

async fn write_at(
    call: &Call<'_>,
    place: &Place,
    args: WriteArgs,
) -> Result<(u32, Stability, [u8; 8]), Status> {
    let mut data = args.data.into_received();
    if data.len() < args.count as usize {
        return Err(Status::Inval);
    }
    data.truncate(args.count as usize);
    let wanted = match args.stable {
        Stability::Unstable => Durability::Unstable,
        Stability::DataSync | Stability::FileSync => Durability::Durable,
    };
    // Taken before the write: if buffered data is lost from here on, the client sees the verifier change.
    let verifier = call.head.vfs.write_verifier();
    let receipt = place
        .tree
        .write(place.node, args.offset, data, wanted)
        .await;
    let committed = match receipt.map_err(|e| status::nfs(&e))?.stability {
        Durability::Unstable => Stability::Unstable,
        Durability::Durable => Stability::FileSync,
    };
    Ok((args.count, committed, verifier))
}

/// RFC 1813 3.3.21. Commits the whole document whatever range is named, which is always right.
pub(super) async fn commit(call: &Call<'_>, args: CommitArgs) -> CommitRes {
    let place = match call.place(&args.file) {
        Ok(place) => place,
        Err(status) => return CommitRes::Fail(status, WccData::none()),
    };
    let before = place.attributes().await;
    let committed = place.tree.commit(place.node).await;
    let wcc = wcc_now(&place, before).await;
    match committed {
        // Taken after the commit: if something was lost meanwhile, the client sees another verifier and writes again.
        Ok(()) => CommitRes::Ok(CommitOk {
            wcc,
            verifier: call.head.vfs.write_verifier(),
        }),
        Err(error) => CommitRes::Fail(status::nfs(&error), wcc),
    }
}
