//! Who may do what with a node: ACL or mode bits against an identity, inheritance for new nodes, ACL and mode kept in step.
//! Pure where possible; never looks at locks, shares' protocols or policies.

use std::sync::Arc;

use sluice_repo::{Acl, AttributeChange, Attributes};

use crate::error::VfsError;
use crate::identity::{Caller, Identity};
use crate::request::{AccessMask, NewNode};
use crate::vfs::Inner;

/// Owner, group, mode and ACL that a new node starts with.
#[derive(Clone, Debug)]
pub(crate) struct Birthright {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) acl: Option<Arc<Acl>>,
}

impl Inner {
    /// Every right that `who` has on the node (specific and standard bits; never generic ones).
    pub(crate) async fn rights(
        &self,
        who: &Identity,
        node: &Attributes,
    ) -> Result<AccessMask, VfsError> {
        todo!()
    }

    /// What a node made by `caller` in `parent` gets.
    pub(crate) async fn birthright(
        &self,
        caller: &Caller,
        parent: &Attributes,
        new: &NewNode,
        directory: bool,
    ) -> Result<Birthright, VfsError> {
        todo!()
    }

    /// Whether `who` may make this change (chmod and utimes to a given time: owner; chown: administrator; utimes to now: write).
    /// `rights` are those that the caller has on the node. May take setuid and setgid bits out of the change.
    pub(crate) fn check_change(
        &self,
        who: &Identity,
        node: &Attributes,
        rights: AccessMask,
        change: &mut AttributeChange,
    ) -> Result<(), VfsError> {
        todo!()
    }

    /// Carries out an allowed change; a changed mode goes into a stored ACL too.
    pub(crate) async fn apply_change(
        &self,
        node: &Attributes,
        change: AttributeChange,
        guard: Option<sluice_repo::Timestamp>,
    ) -> Result<Attributes, VfsError> {
        todo!()
    }

    /// The security descriptor to show: the stored one, or one made from owner, group and mode; owner and group always filled in.
    pub(crate) async fn shown_acl(&self, node: &Attributes) -> Result<Acl, VfsError> {
        todo!()
    }

    /// Stores parts of a security descriptor (see [`crate::Open::set_acl`]; WRITE_DAC and WRITE_OWNER checked by the caller).
    pub(crate) async fn store_acl(
        &self,
        who: &Identity,
        node: &Attributes,
        acl: Acl,
        null_dacl: bool,
    ) -> Result<Attributes, VfsError> {
        todo!()
    }
}
