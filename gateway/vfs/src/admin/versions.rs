//! Old versions of documents.

use std::sync::Arc;

use sluice_lockmgr as lm;
use sluice_repo::{ContentId, NodeId, Origin, Version, VersionInfo};

use super::{Admin, AdminError, AdminResult, VersionRecord};
use crate::listing::{rfc3339_ms, unix_ms};
use crate::lock_bridge::Held;
use crate::watch::ChangeFilter;

impl Admin {
    /// Kept versions of a document (`docs/a/b.txt`, share first), newest first.
    pub async fn versions(&self, path: &str) -> AdminResult<Vec<VersionRecord>> {
        let located = self.locate(path).await?;
        let current = self.current_version(located.node).await?;
        let versions = self.inner.repo.versions(located.node).await?;
        Ok(versions.iter().map(|v| record(v, current)).collect())
    }

    /// Makes a kept version the present content, as a new version. Meets locks like any writer; `None` restores the newest old version.
    pub async fn restore_version(
        &self,
        path: &str,
        version: Option<u64>,
    ) -> AdminResult<VersionRecord> {
        let located = self.locate(path).await?;
        let node = located.node;
        let held = self.hold_alone(node, &located.path).await?;
        let restored = self.restore_held(node, &located.path, version).await;
        held.release().await;
        restored
    }

    async fn restore_held(
        &self,
        node: NodeId,
        path: &str,
        version: Option<u64>,
    ) -> AdminResult<VersionRecord> {
        let repo = &self.inner.repo;
        let current = self.current_version(node).await?;
        let versions = repo.versions(node).await?;
        let wanted = match version {
            Some(version) => Version(version),
            None => {
                let older = versions.iter().find(|v| v.version < current);
                let none = || AdminError::NotFound(format!("{path} has no older version"));
                older.ok_or_else(none)?.version
            }
        };
        if !versions.iter().any(|v| v.version == wanted) {
            let why = format!("{path} has no version {}", wanted.0);
            return Err(AdminError::NotFound(why));
        }
        let origin = Origin {
            author: Arc::from("admin"),
            protocol: Arc::from("admin"),
        };
        let content = ContentId { node, stream: 0 };
        let working = self.inner.load(content).await?;
        let done = self.inner.restore_content(&working, wanted, origin).await?;
        let bits = ChangeFilter::SIZE | ChangeFilter::LAST_WRITE;
        self.inner.notify_content(content, None, bits);
        tracing::info!(path, version = wanted.0, "version restored");
        let versions = repo.versions(node).await?;
        let made = versions.iter().find(|v| v.version == done.version);
        let gone = || AdminError::NotFound(format!("{path} changed right after its restore"));
        Ok(record(made.ok_or_else(gone)?, done.version))
    }

    /// The document for this moment alone: no writer, no cached data elsewhere.
    async fn hold_alone(&self, node: NodeId, path: &str) -> AdminResult<Held> {
        let holder = Arc::new(lm::Holder {
            protocol: lm::Protocol::Admin,
            user: "admin".to_owned(),
            address: "command line".to_owned(),
            client_name: String::new(),
            node: self.inner.node.to_string(),
            path: path.to_owned(),
            rule: None,
            since_unix_ms: unix_ms(),
        });
        let actor = lm::Actor {
            protocol: lm::Protocol::Admin,
            client: lm::ClientId(0),
            holder,
        };
        let resource = lm::ResourceId::main(node.0);
        let mut request = lm::OpenRequest::new(resource, actor, lm::Access::WRITE);
        request.share = lm::ShareMode::DENY_WRITE;
        request.overwrite = true;
        let opened = self.inner.locks.open(request).await;
        let busy = |denial: lm::Denial| AdminError::Invalid(format!("{path} is in use: {denial}"));
        Ok(Held::adopt(&self.inner, opened.map_err(busy)?.open))
    }

    async fn current_version(&self, node: NodeId) -> AdminResult<Version> {
        let content = ContentId { node, stream: 0 };
        Ok(self.inner.repo.head(content).await?.version)
    }
}

fn record(info: &VersionInfo, current: Version) -> VersionRecord {
    VersionRecord {
        version: info.version.0,
        size: info.size,
        committed: rfc3339_ms(info.committed.0.div_euclid(1_000_000)),
        author: info.author.clone(),
        protocol: info.protocol.clone(),
        current: info.version == current,
    }
}
