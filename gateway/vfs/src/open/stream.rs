//! The named stream that an open means.

use sluice_repo::{Attributes, RepoError};

use crate::error::VfsError;
use crate::request::{AccessMask, Disposition, OpenRequest};
use crate::tree::Tree;

impl Tree {
    /// The stream that an open means: its number, and whether it was made now.
    pub(super) async fn stream_of(
        &self,
        request: &OpenRequest,
        node: &Attributes,
    ) -> Result<(u32, bool, Option<String>), VfsError> {
        let Some(name) = &request.stream else {
            return Ok((0, false, None));
        };
        let wanted = sluice_repo::fold_name(name);
        let streams = self.inner().repo.streams(node.id).await?;
        let found = streams
            .iter()
            .find(|s| sluice_repo::fold_name(&s.name) == wanted);
        match (found, request.disposition) {
            (Some(_), Disposition::Create) => Err(VfsError::Exists),
            (Some(found), _) => Ok((found.stream, false, Some(found.name.clone()))),
            (None, Disposition::Open | Disposition::Overwrite) => Err(VfsError::NotFound),
            (None, _) => {
                let rights = self.inner().rights(&self.caller().identity, node).await?;
                if !rights.any(AccessMask::WRITE_DATA) {
                    return Err(VfsError::AccessDenied);
                }
                let policy = self.policy_of(node.id).await?;
                self.may_change(&policy)?;
                let made = self.make_stream(node, name).await?;
                Ok((made, true, Some(name.clone())))
            }
        }
    }

    pub(super) async fn make_stream(&self, node: &Attributes, name: &str) -> Result<u32, VfsError> {
        match self.inner().repo.create_stream(node.id, name).await {
            Ok(made) => {
                let bits = crate::open::filter::STREAM_NAME;
                self.inner().notify_node(
                    crate::ChangeAction::StreamAdded,
                    node.id,
                    Some(name),
                    bits,
                );
                Ok(made.stream)
            }
            Err(RepoError::Exists) => {
                let wanted = sluice_repo::fold_name(name);
                let streams = self.inner().repo.streams(node.id).await?;
                streams
                    .iter()
                    .find(|s| sluice_repo::fold_name(&s.name) == wanted)
                    .map(|s| s.stream)
                    .ok_or(VfsError::NotFound)
            }
            Err(error) => Err(error.into()),
        }
    }
}
