//! The preauthentication integrity hash: SHA-512 over all messages up to the session's start
//! (MS-SMB2 3.3.5.4, 3.3.5.5).

use aws_lc_rs::digest::{Context, SHA512};

/// A running hash value; starts as zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PreauthHash([u8; 64]);

impl Default for PreauthHash {
    fn default() -> Self {
        PreauthHash([0; 64])
    }
}

impl PreauthHash {
    /// Chains one message, given in parts, without its transport prefix.
    pub fn update(&mut self, parts: &[&[u8]]) {
        let mut context = Context::new(&SHA512);
        context.update(&self.0);
        for part in parts {
            context.update(part);
        }
        self.0.copy_from_slice(context.finish().as_ref());
    }

    /// The value.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_depends_on_order_but_not_on_how_a_message_is_cut() {
        let run = |messages: &[&[&[u8]]]| {
            let mut hash = PreauthHash::default();
            messages.iter().for_each(|m| hash.update(m));
            hash
        };
        assert!(run(&[&[b"ab"], &[b"c"]]) == run(&[&[b"a", b"b"], &[b"c"]]));
        assert!(run(&[&[b"ab"], &[b"c"]]) != run(&[&[b"c"], &[b"ab"]]));
        assert!(run(&[&[b"ab"], &[b"c"]]) != run(&[&[b"abc"]]));
    }
}
