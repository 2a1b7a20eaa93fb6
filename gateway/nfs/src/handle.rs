//! File handles: 32 bytes that name a share and a node, with a keyed checksum so that clients can't make their own.
//!
//! Layout: version (1 byte), three zero bytes, share (4), node (8), the first 16 bytes of HMAC-SHA256 over these. The key
//! belongs to the cluster, so a handle stays valid after a restart and on every node. At 32 bytes it also fits MOUNT v1.

use aws_lc_rs::{constant_time, hmac};
use sluice_nfs_wire::nfs3::FileHandle;
use sluice_vfs::{NodeId, ShareId};

const VERSION: u8 = 1;
const NAMED_BYTES: usize = 16;
const MAC_BYTES: usize = 16;
/// Length of every handle.
pub(crate) const HANDLE_BYTES: usize = NAMED_BYTES + MAC_BYTES;

/// Makes and checks handles.
pub(crate) struct HandleCodec {
    key: hmac::Key,
}

impl HandleCodec {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
        }
    }

    /// The handle of a node in a share.
    pub(crate) fn encode(&self, share: ShareId, node: NodeId) -> FileHandle {
        let mut handle = [0u8; HANDLE_BYTES];
        handle[0] = VERSION;
        handle[4..8].copy_from_slice(&share.0.to_be_bytes());
        handle[8..16].copy_from_slice(&node.0.to_be_bytes());
        let mac = hmac::sign(&self.key, &handle[..NAMED_BYTES]);
        handle[NAMED_BYTES..].copy_from_slice(&mac.as_ref()[..MAC_BYTES]);
        FileHandle::copy_of(handle)
    }

    /// What a handle names; `None` if it isn't one of ours.
    pub(crate) fn decode(&self, handle: &FileHandle) -> Option<(ShareId, NodeId)> {
        let handle: &[u8; HANDLE_BYTES] = handle.0.as_ref().try_into().ok()?;
        let (named, mac) = handle.split_at(NAMED_BYTES);
        let expected = hmac::sign(&self.key, named);
        constant_time::verify_slices_are_equal(expected.as_ref().get(..MAC_BYTES)?, mac).ok()?;
        let share = u32::from_be_bytes(named.get(4..8)?.try_into().ok()?);
        let node = u64::from_be_bytes(named.get(8..16)?.try_into().ok()?);
        (named.first() == Some(&VERSION)).then_some((ShareId(share), NodeId(node)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_names_what_it_was_made_for_under_the_same_key_only() {
        let codec = HandleCodec::new(&[1; 32]);
        let handle = codec.encode(ShareId(3), NodeId(u64::MAX - 1));
        assert!(handle.0.len() <= sluice_nfs_wire::nfs3::HANDLE_MAX as usize);
        assert_eq!(
            codec.decode(&handle),
            Some((ShareId(3), NodeId(u64::MAX - 1)))
        );
        assert_eq!(
            HandleCodec::new(&[1; 32]).decode(&handle),
            codec.decode(&handle),
            "as after a restart"
        );
        assert_eq!(HandleCodec::new(&[2; 32]).decode(&handle), None);
    }

    #[test]
    fn a_handle_with_any_bit_changed_is_refused() {
        let codec = HandleCodec::new(&[1; 32]);
        let handle = codec.encode(ShareId(3), NodeId(5));
        for bit in 0..HANDLE_BYTES * 8 {
            let mut forged = handle.0.to_vec();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(codec.decode(&FileHandle::copy_of(forged)), None);
        }
        assert_eq!(codec.decode(&FileHandle::copy_of([])), None);
        assert_eq!(codec.decode(&FileHandle::copy_of([0; 64])), None);
    }
}
