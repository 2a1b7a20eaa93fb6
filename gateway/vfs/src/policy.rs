//! The write policy: (share, path, protocol, user, client) to what becomes of a writer and of a conflict. Pure.

use std::sync::Arc;
use std::time::Duration;

use sluice_lockmgr::Writers;

use crate::identity::Caller;
use crate::share::Share;
use crate::vfs::Inner;

/// What a conflict becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnConflict {
    Reject,
    Wait,
    Fork,
}

/// The evaluated policy for one caller and one path.
#[derive(Clone, Debug)]
pub(crate) struct WritePolicy {
    /// Writing is allowed at all.
    pub(crate) allow: bool,
    /// Name of the rule that decided, for messages and listings; `None`: the default.
    pub(crate) rule: Option<Arc<str>>,
    pub(crate) writers: Writers,
    pub(crate) on_conflict: OnConflict,
    /// How long `Wait` waits.
    pub(crate) wait: Duration,
}

impl Inner {
    /// Whether any rule of this share looks at paths; if not, `policy` may be called with an empty one.
    pub(crate) fn policy_needs_path(&self, share: &Share) -> bool {
        todo!()
    }

    /// Evaluates the rules for `path` (from the share's root, `/`-separated).
    pub(crate) fn policy(&self, share: &Share, caller: &Caller, path: &str) -> WritePolicy {
        todo!()
    }
}

/// The word of the command line.
pub(crate) fn protocol_word(protocol: sluice_repo::RuleProtocol) -> &'static str {
    use sluice_repo::RuleProtocol as P;
    match protocol {
        P::Smb => "smb",
        P::Nfs => "nfs",
        P::Nfs3 => "nfs3",
        P::Nfs4 => "nfs4",
        P::Ftp => "ftp",
    }
}

/// The word of the command line.
pub(crate) fn write_word(write: sluice_repo::WriteRule) -> &'static str {
    match write {
        sluice_repo::WriteRule::Allow => "allow",
        sluice_repo::WriteRule::Deny => "deny",
    }
}

/// The word of the command line.
pub(crate) fn writers_word(writers: sluice_repo::Writers) -> &'static str {
    match writers {
        sluice_repo::Writers::Native => "native",
        sluice_repo::Writers::Exclusive => "exclusive",
        sluice_repo::Writers::Shared => "shared",
    }
}

/// The word of the command line.
pub(crate) fn on_conflict_word(on_conflict: sluice_repo::OnConflict) -> &'static str {
    match on_conflict {
        sluice_repo::OnConflict::Reject => "reject",
        sluice_repo::OnConflict::Wait => "wait",
        sluice_repo::OnConflict::Fork => "fork",
    }
}
