//! The cluster as the daemon sees it: the secret, the members for administrators, and the end of a node that is drained.
//! Decides nothing about membership: that is `sluice-lockmgr-cluster`'s.

mod secret;
mod view;

pub use secret::read as read_secret;
pub use view::{ClusterView, NodeRecord};
