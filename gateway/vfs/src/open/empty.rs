//! What an open does to content that it overwrites.

use sluice_repo::{AttributeChange, Attributes, ContentId, DosAttributes, Timestamp};

use crate::error::VfsError;
use crate::identity::Protocol;
use crate::open::OpenState;
use crate::request::OpenRequest;
use crate::working::Change;

impl OpenState {
    /// Empties the content for an open that overwrites, with the attributes that go with it (MS-FSA 2.1.5.1.2.1).
    pub(super) async fn empty(
        &self,
        request: &OpenRequest,
        node: &Attributes,
    ) -> Result<(), VfsError> {
        let Some(working) = &self.working else {
            return Ok(());
        };
        self.change(working, Change::SetLen(0)).await?;
        if self.content.stream != 0 || self.tree.caller().client.protocol != Protocol::Smb {
            return Ok(());
        }
        let dos =
            DosAttributes((request.new.dos.0 | DosAttributes::ARCHIVE) & DosAttributes::STORED);
        let now: Timestamp = crate::vfs::now();
        let change = AttributeChange {
            dos: (dos != node.dos).then_some(dos),
            modified: (node.size == 0).then_some(now),
            ..AttributeChange::default()
        };
        if change != AttributeChange::default() {
            self.inner
                .repo
                .set_attributes(node.id, change, None)
                .await?;
        }
        for stream in self.inner.repo.streams(node.id).await? {
            let stream = ContentId {
                node: node.id,
                stream: stream.stream,
            };
            // One that is open stays: its holder goes on with it.
            if self.inner.opens_of_content(stream).await == 0 {
                self.inner.working.forget(stream);
                self.inner.repo.delete_stream(stream).await?;
                self.inner.working.note_shrunk();
            }
        }
        if node.ea_size != 0 {
            let mut eas = self.inner.repo.eas(node.id).await?;
            for ea in &mut eas {
                ea.value.clear();
            }
            self.inner.repo.set_eas(node.id, eas).await?;
        }
        if !request.new.eas.is_empty() {
            let eas = request.new.eas.clone();
            self.inner.repo.set_eas(node.id, eas).await?;
        }
        Ok(())
    }
}
