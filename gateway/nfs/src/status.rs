//! What the file layer answers, in the words of NFSv3, MOUNT and NLM. One exhaustive match each.

use sluice_nfs_wire::mount::MountStat;
use sluice_nfs_wire::nfs3::Status;
use sluice_nfs_wire::nlm::Stat as NlmStat;
use sluice_vfs::VfsError;

/// The `nfsstat3` of an outcome (RFC 1813 2.6): a refused conflict is ACCES, a waiting one JUKEBOX, a policy's refusal ROFS.
pub(crate) fn nfs(error: &VfsError) -> Status {
    match error {
        VfsError::NotFound | VfsError::PathNotFound => Status::NoEnt,
        VfsError::Exists => Status::Exist,
        VfsError::NotDirectory => Status::NotDir,
        VfsError::IsDirectory => Status::IsDir,
        VfsError::NotEmpty => Status::NotEmpty,
        VfsError::AccessDenied | VfsError::ReadOnlyAttribute | VfsError::CannotDelete => {
            Status::Acces
        }
        VfsError::NotOwner => Status::Perm,
        VfsError::Conflict(_) | VfsError::DeletePending => Status::Acces,
        VfsError::Delay | VfsError::Cancelled | VfsError::Unavailable(_) | VfsError::Limit(_) => {
            Status::Jukebox
        }
        VfsError::PolicyDenied(_) | VfsError::ReadOnlyShare => Status::RoFs,
        VfsError::OpenLost | VfsError::Corrupt | VfsError::Io | VfsError::Deadlock => Status::Io,
        VfsError::NameTooLong => Status::NameTooLong,
        VfsError::NoSpace => Status::NoSpc,
        VfsError::QuotaExceeded => Status::DQuot,
        VfsError::TooLarge => Status::FBig,
        VfsError::Stale => Status::Stale,
        VfsError::IsSymlink(_)
        | VfsError::NameInvalid
        | VfsError::Invalid(_)
        | VfsError::IntoItself
        | VfsError::RangeNotLocked
        | VfsError::RangeInvalid => Status::Inval,
        VfsError::NotSupported(_) => Status::NotSupp,
        VfsError::CrossShare => Status::XDev,
        VfsError::TooManyLinks => Status::MLink,
        VfsError::NotSame => Status::NotSync,
    }
}

/// The `mountstat3` for an `nfsstat3`; both take their numbers from errno.
pub(crate) fn mount(status: Status) -> MountStat {
    match status {
        Status::Ok => MountStat::Ok,
        Status::Perm => MountStat::Perm,
        Status::NoEnt | Status::Stale => MountStat::NoEnt,
        Status::Io => MountStat::Io,
        Status::Acces | Status::RoFs => MountStat::Acces,
        Status::NotDir => MountStat::NotDir,
        Status::Inval => MountStat::Inval,
        Status::NameTooLong => MountStat::NameTooLong,
        Status::NotSupp => MountStat::NotSupp,
        _ => MountStat::ServerFault,
    }
}

/// The `nlm4_stats` for an `nfsstat3`.
pub(crate) fn nlm(status: Status) -> NlmStat {
    match status {
        Status::Ok => NlmStat::Granted,
        Status::RoFs => NlmStat::RoFs,
        Status::Stale | Status::BadHandle => NlmStat::StaleFh,
        Status::FBig | Status::Inval => NlmStat::FBig,
        // Linux and others ask again after this one.
        Status::Jukebox => NlmStat::DeniedGracePeriod,
        Status::Acces => NlmStat::Denied,
        _ => NlmStat::Failed,
    }
}
