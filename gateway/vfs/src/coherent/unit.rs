//! What is cached and invalidated as one: a node's record, one name in a folder, or all names of a folder.

use serde::{Deserialize, Serialize};
use sluice_repo::{NodeId, fold_name};

/// A unit by its number, the same on every node. Two that share a number are invalidated together, which costs a read and harms
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Unit(u64);

const NODE: u64 = 1;
const NAME: u64 = 2;
const NAMES: u64 = 3;

impl Unit {
    /// Attributes, ACL, contents and place of a node.
    pub(super) fn node(node: NodeId) -> Unit {
        Unit(mix(node.0 ^ mix(NODE)))
    }

    /// Which node a name of a folder leads to, in any spelling.
    pub(super) fn name(folder: NodeId, name: &str) -> Unit {
        // FNV-1a: short input, and no secret to keep.
        let hash = fold_name(name)
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        Unit(mix(hash ^ mix(folder.0 ^ mix(NAME))))
    }

    /// All names of a folder.
    pub(super) fn names(folder: NodeId) -> Unit {
        Unit(mix(folder.0 ^ mix(NAMES)))
    }

    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// Spreads bits over the whole number (finalizer of splitmix64).
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
