//! The cached values by kind, each with its ticket. Whether one counts is the stripes' matter.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use sluice_repo::{Acl, Attributes, CaseMode, ContentId, Head, NodeId};

use super::store::Store;
use super::stripes::Ticket;
use super::unit::Unit;

/// Values of each kind.
const VALUES_MAX: usize = 200_000;
/// Contents' heads, and the bytes of one that is kept.
const HEADS_MAX: usize = 4096;
const HEAD_BYTES_MAX: usize = 16 << 10;

/// What a name of a folder leads to, asked for in one spelling and case mode.
pub(super) struct NameAnswer {
    folder: NodeId,
    case: CaseMode,
    asked: Box<str>,
    pub(super) unit: Unit,
    pub(super) ticket: Ticket,
    /// The name as stored, and its node.
    pub(super) found: Option<(Arc<str>, NodeId)>,
}

/// See the module's head.
pub(super) struct Kept {
    hasher: RandomState,
    nodes: Store<(Arc<Attributes>, Ticket)>,
    names: Store<Arc<NameAnswer>>,
    acls: Store<(Option<Arc<Acl>>, Ticket)>,
    /// The folder and oldest name of a node.
    places: Store<(NodeId, Arc<str>, Ticket)>,
    heads: Store<(ContentId, Head, Ticket)>,
}

impl Default for Kept {
    fn default() -> Self {
        Kept {
            hasher: RandomState::new(),
            nodes: Store::new(VALUES_MAX),
            names: Store::new(VALUES_MAX),
            acls: Store::new(VALUES_MAX),
            places: Store::new(VALUES_MAX),
            heads: Store::new(HEADS_MAX),
        }
    }
}

impl Kept {
    pub(super) fn node(&self, node: NodeId) -> Option<(Arc<Attributes>, Ticket)> {
        self.nodes.get(node.0)
    }

    pub(super) fn keep_node(&self, attributes: &Attributes, ticket: Ticket) {
        let value = (Arc::new(attributes.clone()), ticket);
        self.nodes.put(attributes.id.0, value);
    }

    pub(super) fn forget_node(&self, node: NodeId) {
        self.nodes.forget(node.0);
    }

    fn name_key(&self, folder: NodeId, name: &str, case: CaseMode) -> u64 {
        self.hasher.hash_one((folder, case, name))
    }

    pub(super) fn name(
        &self,
        folder: NodeId,
        name: &str,
        case: CaseMode,
    ) -> Option<Arc<NameAnswer>> {
        let answer = self.names.get(self.name_key(folder, name, case))?;
        let same = answer.folder == folder && answer.case == case && *answer.asked == *name;
        same.then_some(answer)
    }

    pub(super) fn keep_name(
        &self,
        folder: NodeId,
        name: &str,
        case: CaseMode,
        found: Option<(Arc<str>, NodeId)>,
        ticket: Ticket,
    ) {
        let answer = NameAnswer {
            folder,
            case,
            asked: name.into(),
            unit: Unit::name(folder, name),
            ticket,
            found,
        };
        let key = self.name_key(folder, name, case);
        self.names.put(key, Arc::new(answer));
    }

    pub(super) fn acl(&self, node: NodeId) -> Option<(Option<Arc<Acl>>, Ticket)> {
        self.acls.get(node.0)
    }

    pub(super) fn keep_acl(&self, node: NodeId, acl: Option<Arc<Acl>>, ticket: Ticket) {
        self.acls.put(node.0, (acl, ticket));
    }

    pub(super) fn place(&self, node: NodeId) -> Option<(NodeId, Arc<str>, Ticket)> {
        self.places.get(node.0)
    }

    pub(super) fn keep_place(&self, node: NodeId, folder: NodeId, name: Arc<str>, ticket: Ticket) {
        self.places.put(node.0, (folder, name, ticket));
    }

    pub(super) fn head(&self, content: ContentId) -> Option<(Head, Ticket)> {
        let (of, head, ticket) = self.heads.get(self.hasher.hash_one(content))?;
        (of == content).then_some((head, ticket))
    }

    pub(super) fn keep_head(&self, content: ContentId, head: &Head, ticket: Ticket) {
        let bytes = head.manifest.inline.len() + head.manifest.objects.len() * 300;
        if bytes <= HEAD_BYTES_MAX {
            let key = self.hasher.hash_one(content);
            self.heads.put(key, (content, head.clone(), ticket));
        }
    }
}
