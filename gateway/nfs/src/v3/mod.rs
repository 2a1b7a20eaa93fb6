//! The procedures of NFSv3 (RFC 1813 3.3), grouped by what they touch.

mod data;
mod dirs;
mod fs;
mod names;
mod nodes;
mod repeat;

use bytes::Bytes;
use sluice_nfs_wire::nfs3::{
    CreateArgs, DirOpArgs, LinkWcc, MkdirArgs, MknodArgs, Procedure, RenameWcc, SetattrArgs,
    Status, SymlinkArgs, WccData,
};
use sluice_nfs_wire::xdr::{Decoder, Encoder, XdrError};

use crate::call::Call;

/// Most bytes of one READ or WRITE (`rtmax`, `wtmax`).
pub(crate) const TRANSFER_BYTES_MAX: u32 = 1 << 20;

/// Decodes the arguments, runs the procedure and appends its result.
///
/// # Errors
/// The arguments are not what the procedure takes; `out` is then to be thrown away.
pub(crate) async fn run(
    call: &Call<'_>,
    procedure: Procedure,
    mut args: Decoder,
    out: &mut Encoder,
) -> Result<(), XdrError> {
    // Each in memory of its own: what all of them could need would be moved through every layer above for each call.
    macro_rules! handle {
        ($handler:path) => {{
            let args = args.get()?;
            out.put(&Box::pin($handler(call, args)).await);
        }};
    }
    match procedure {
        Procedure::Null => {}
        Procedure::Getattr => handle!(nodes::getattr),
        Procedure::Setattr => handle!(nodes::setattr),
        Procedure::Access => handle!(nodes::access),
        Procedure::Readlink => handle!(nodes::readlink),
        Procedure::Lookup => handle!(names::lookup),
        Procedure::Create => handle!(names::create),
        Procedure::Mkdir => handle!(names::mkdir),
        Procedure::Symlink => handle!(names::symlink),
        Procedure::Mknod => handle!(names::mknod),
        Procedure::Remove => handle!(names::remove),
        Procedure::Rmdir => handle!(names::rmdir),
        Procedure::Rename => handle!(names::rename),
        Procedure::Link => handle!(names::link),
        Procedure::Read => handle!(data::read),
        Procedure::Write => handle!(data::write),
        Procedure::Commit => handle!(data::commit),
        Procedure::Readdir => handle!(dirs::readdir),
        Procedure::Readdirplus => handle!(dirs::readdirplus),
        Procedure::Fsstat => handle!(fs::fsstat),
        Procedure::Fsinfo => handle!(fs::fsinfo),
        Procedure::Pathconf => handle!(fs::pathconf),
    }
    Ok(())
}

/// Appends the result of a procedure that was carried out before, from what is there now: its first reply is not known here.
///
/// # Errors
/// The arguments are not what the procedure takes.
pub(crate) async fn repeated(
    call: &Call<'_>,
    procedure: Procedure,
    mut args: Decoder,
    out: &mut Encoder,
) -> Result<(), XdrError> {
    match procedure {
        Procedure::Create => {
            out.put(&repeat::created(call, args.get::<CreateArgs>()?.target).await)
        }
        Procedure::Mkdir => out.put(&repeat::created(call, args.get::<MkdirArgs>()?.target).await),
        Procedure::Symlink => {
            out.put(&repeat::created(call, args.get::<SymlinkArgs>()?.target).await);
        }
        Procedure::Mknod => out.put(&repeat::created(call, args.get::<MknodArgs>()?.target).await),
        Procedure::Remove | Procedure::Rmdir => {
            out.put(&repeat::changed(call, &args.get::<DirOpArgs>()?.dir).await);
        }
        Procedure::Setattr => {
            out.put(&repeat::changed(call, &args.get::<SetattrArgs>()?.object).await);
        }
        Procedure::Rename => out.put(&repeat::renamed(call, args.get()?).await),
        Procedure::Link => out.put(&repeat::linked(call, args.get()?).await),
        // The others may be carried out twice.
        _ => refuse(procedure, Status::Jukebox, out)?,
    }
    Ok(())
}

/// Appends a failed result without any attributes, for when the procedure could not even begin.
pub(crate) fn refuse(
    procedure: Procedure,
    status: Status,
    out: &mut Encoder,
) -> Result<(), XdrError> {
    out.put(&status);
    let none = WccData::none();
    match procedure {
        Procedure::Null | Procedure::Getattr => {}
        Procedure::Lookup
        | Procedure::Access
        | Procedure::Readlink
        | Procedure::Read
        | Procedure::Readdir
        | Procedure::Readdirplus
        | Procedure::Fsstat
        | Procedure::Fsinfo
        | Procedure::Pathconf => out.put(&false),
        Procedure::Setattr
        | Procedure::Write
        | Procedure::Create
        | Procedure::Mkdir
        | Procedure::Symlink
        | Procedure::Mknod
        | Procedure::Remove
        | Procedure::Rmdir
        | Procedure::Commit => out.put(&none),
        Procedure::Rename => out.put(&RenameWcc {
            from: none.clone(),
            to: none,
        }),
        Procedure::Link => out.put(&LinkWcc {
            attributes: None,
            dir_wcc: none,
        }),
    }
    Ok(())
}

/// Whether an encoded reply says that the procedure was carried out.
pub(crate) fn is_done(reply: &[Bytes]) -> bool {
    // xid, REPLY; then MSG_ACCEPTED, an empty verifier (2 words), SUCCESS, and the status, all of them zero.
    const ACCEPTED_AT: usize = 8;
    let words = reply
        .first()
        .and_then(|head| head.get(ACCEPTED_AT..ACCEPTED_AT + 20));
    words.is_some_and(|words| words.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::success;
    use sluice_nfs_wire::rpc::ReplyHead;

    #[test]
    fn only_a_carried_out_procedure_counts_as_done() {
        let reply = |status| {
            let mut out = success(7);
            refuse(Procedure::Remove, status, &mut out).expect("encodes");
            out.into_segments()
        };
        assert!(is_done(&reply(Status::Ok)));
        assert!(!is_done(&reply(Status::Jukebox)));
        assert!(!is_done(&reply(Status::NoEnt)));
        assert!(!is_done(&[]));
        let mut garbage = Encoder::new();
        ReplyHead::GarbageArgs.encode(7, &mut garbage);
        assert!(!is_done(&garbage.into_segments()));
    }
}
