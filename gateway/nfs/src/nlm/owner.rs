//! Locks and their owners between NLM's form and the file layer's.

use sluice_nfs_wire::nlm::{Holder, Lock, NetObj, Stat};
use sluice_vfs::NfsLock;

/// Longest owner that the file layer takes.
const OWNER_BYTES_MAX: usize = 1024;

/// The owner of a lock as bytes: process number, length of the client's name, the name, the client's own bytes.
pub(super) fn owner_bytes(caller_name: &[u8], svid: i32, owner: &[u8]) -> Result<Vec<u8>, Stat> {
    let mut bytes = Vec::with_capacity(6 + caller_name.len() + owner.len());
    bytes.extend_from_slice(&svid.to_be_bytes());
    bytes.extend_from_slice(
        &u16::try_from(caller_name.len())
            .map_err(|_| Stat::Failed)?
            .to_be_bytes(),
    );
    bytes.extend_from_slice(caller_name);
    bytes.extend_from_slice(owner);
    if bytes.len() > OWNER_BYTES_MAX {
        return Err(Stat::DeniedNoLocks);
    }
    Ok(bytes)
}

/// The process number and the client's own bytes of an owner made by [`owner_bytes`]; zero and nothing for other owners.
fn owner_parts(bytes: &[u8]) -> (i32, &[u8]) {
    let parts = || {
        let (svid, rest) = bytes.split_first_chunk::<4>()?;
        let (name_len, rest) = rest.split_first_chunk::<2>()?;
        let own = rest.get(usize::from(u16::from_be_bytes(*name_len))..)?;
        Some((i32::from_be_bytes(*svid), own))
    };
    parts().unwrap_or((0, &[]))
}

/// The lock in the file layer's words. Length 0 means without end.
pub(super) fn to_vfs(lock: &Lock, exclusive: bool) -> Result<NfsLock, Stat> {
    let to_end = u64::MAX - lock.offset;
    let length = if lock.len == 0 { to_end } else { lock.len };
    if length > to_end {
        return Err(Stat::FBig);
    }
    Ok(NfsLock {
        owner: owner_bytes(&lock.caller_name.0, lock.svid, &lock.owner.0)?,
        offset: lock.offset,
        length,
        exclusive,
    })
}

/// Who holds a lock, for TEST.
pub(super) fn holder(lock: &NfsLock) -> Holder {
    let (svid, owner) = owner_parts(&lock.owner);
    Holder {
        exclusive: lock.exclusive,
        svid,
        owner: NetObj::copy_of(owner),
        offset: lock.offset,
        len: if lock.length >= u64::MAX - lock.offset {
            0
        } else {
            lock.length
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_nfs_wire::xdr::Opaque;

    fn lock(offset: u64, len: u64) -> Lock {
        Lock {
            caller_name: Opaque::copy_of("host"),
            file: Opaque::default(),
            owner: Opaque::copy_of("7@host"),
            svid: -7,
            offset,
            len,
        }
    }

    #[test]
    fn a_holder_is_told_as_its_client_stated_it() {
        let stated = to_vfs(&lock(5, 10), true).expect("in bounds");
        let told = holder(&stated);
        assert_eq!((told.svid, &told.owner.0[..]), (-7, &b"7@host"[..]));
        assert_eq!((told.offset, told.len, told.exclusive), (5, 10, true));
        let (svid, owner) = owner_parts(b"smb");
        assert_eq!((svid, owner), (0, &b""[..]));
    }

    #[test]
    fn length_zero_reaches_to_the_end_and_nothing_beyond() {
        let to_end = to_vfs(&lock(5, 0), false).expect("in bounds");
        assert_eq!(to_end.length, u64::MAX - 5);
        assert_eq!(holder(&to_end).len, 0);
        assert_eq!(to_vfs(&lock(5, u64::MAX - 4), false), Err(Stat::FBig));
    }

    #[test]
    fn owners_differ_if_any_part_differs() {
        let one = owner_bytes(b"ab", 1, b"c");
        assert_ne!(one, owner_bytes(b"a", 1, b"bc"));
        assert_ne!(one, owner_bytes(b"ab", 2, b"c"));
        assert_eq!(owner_bytes(b"ab", 1, &[0; 1024]), Err(Stat::DeniedNoLocks));
    }
}
