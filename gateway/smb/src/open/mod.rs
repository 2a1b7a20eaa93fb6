//! Opens of a session and what outlives one connection.

use crate::session::TreeId;

/// The opens of one session.
#[derive(Default)]
pub struct OpenTable {}

impl OpenTable {
    /// Closes every open of a tree connect that ends (TREE_DISCONNECT).
    pub async fn close_tree(&self, tree: TreeId) {
        let _ = tree;
    }

    /// Closes every open: LOGOFF, or the session was replaced by its client (previous session id).
    pub async fn close_all(&self) {}

    /// The session's last connection is gone: durable opens are kept for their timeout, others are closed.
    pub async fn disconnect(&self) {}
}
