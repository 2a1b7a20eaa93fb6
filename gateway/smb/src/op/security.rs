//! Security descriptors between the wire and the repository's ACL (MS-SMB2 3.3.5.20.3, 3.3.5.21.3).

use bytes::{Bytes, BytesMut};
use sluice_smb_wire::NtStatus;
use sluice_smb_wire::security_descriptor::{
    DACL, DACL_AUTO_INHERIT_REQ, DACL_AUTO_INHERITED, DACL_PRESENT, DACL_PROTECTED, GROUP, OWNER,
    SACL, SecurityDescriptor, Sid as WireSid, WireAce,
};
use sluice_vfs::{AccessMask, Ace, AceKind, Acl, Sid};

use super::{OpReply, need_any};
use crate::open::DiskOpen;

/// The parts of the descriptor that `wanted` names, encoded.
pub async fn query(disk: &DiskOpen, wanted: u32) -> Result<BytesMut, OpReply> {
    if wanted & (OWNER | GROUP | DACL) != 0 {
        need_any(disk, AccessMask::READ_CONTROL)?;
    }
    if wanted & SACL != 0 {
        need_any(disk, AccessMask::ACCESS_SYSTEM_SECURITY)?;
    }
    let mut descriptor = SecurityDescriptor::default();
    if wanted & (OWNER | GROUP | DACL | SACL) != 0 {
        let acl = disk.open.acl().await?;
        fill(&mut descriptor, &acl, wanted);
    }
    Ok(descriptor.encode())
}

fn fill(descriptor: &mut SecurityDescriptor, acl: &Acl, wanted: u32) {
    let sid = |sid: &Option<Sid>| sid.as_ref().and_then(|s| WireSid::parse(&s.0));
    if wanted & OWNER != 0 {
        descriptor.owner = sid(&acl.owner);
    }
    if wanted & GROUP != 0 {
        descriptor.group = sid(&acl.group);
    }
    if wanted & DACL != 0 {
        descriptor.control |= acl.control & (DACL_PROTECTED | DACL_AUTO_INHERITED) | DACL_PRESENT;
        descriptor.dacl = acl.dacl.as_deref().map(to_wire);
    }
    if wanted & SACL != 0 {
        descriptor.sacl = acl.sacl.as_deref().map(to_wire);
    }
}

fn to_wire(aces: &[Ace]) -> Vec<WireAce> {
    let wire = aces.iter().filter_map(|ace| {
        Some(WireAce {
            kind: match ace.kind {
                AceKind::Allow => 0,
                AceKind::Deny => 1,
                AceKind::Audit => 2,
            },
            flags: ace.flags,
            mask: ace.mask,
            sid: WireSid::parse(&ace.sid.0)?,
        })
    });
    wire.collect()
}

/// A descriptor of a client as ACL; only the parts that `wanted` names are `Some`. The flag says that a NULL
/// list is meant.
pub fn decode(data: &Bytes, wanted: u32) -> Result<(Acl, bool), NtStatus> {
    let invalid = |_| NtStatus::INVALID_SECURITY_DESCR;
    let descriptor = SecurityDescriptor::decode(data).map_err(invalid)?;
    let sid = |sid: Option<WireSid>| sid.map(|s| Sid(s.to_string()));
    let mut acl = Acl::default();
    if wanted & OWNER != 0 {
        acl.owner = sid(descriptor.owner);
    }
    if wanted & GROUP != 0 {
        acl.group = sid(descriptor.group);
    }
    let mut null = false;
    if wanted & DACL != 0 {
        null = descriptor.dacl.is_none();
        acl.dacl = descriptor.dacl.map(from_wire);
        // What of these is kept, and when the list is merged with inherited entries, is the file layer's to say.
        acl.control = descriptor.control
            & (DACL_PRESENT | DACL_PROTECTED | DACL_AUTO_INHERITED | DACL_AUTO_INHERIT_REQ);
    }
    if wanted & SACL != 0 {
        acl.sacl = descriptor.sacl.map(from_wire);
    }
    Ok((acl, null))
}

fn from_wire(aces: Vec<WireAce>) -> Vec<Ace> {
    let aces = aces.into_iter().map(|ace| Ace {
        kind: match ace.kind {
            0 => AceKind::Allow,
            1 => AceKind::Deny,
            _ => AceKind::Audit,
        },
        flags: ace.flags,
        mask: map_generic(ace.mask),
        sid: Sid(ace.sid.to_string()),
    });
    aces.collect()
}

/// Generic bits of an entry as the rights of a file (MS-SMB2 2.2.13.1.1).
fn map_generic(mask: u32) -> u32 {
    const READ: u32 = 0x0012_0089;
    const WRITE: u32 = 0x0012_0116;
    const EXECUTE: u32 = 0x0012_00A0;
    let pairs = [
        (AccessMask::GENERIC_READ, READ),
        (AccessMask::GENERIC_WRITE, WRITE),
        (AccessMask::GENERIC_EXECUTE, EXECUTE),
        (AccessMask::GENERIC_ALL, AccessMask::FILE_ALL),
    ];
    pairs
        .iter()
        .fold(mask, |mask, (generic, specific)| match mask & generic {
            0 => mask,
            _ => mask & !generic | specific,
        })
}

/// Stores the parts of the descriptor that `wanted` names.
pub async fn set(disk: &DiskOpen, data: &Bytes, wanted: u32) -> Result<(), OpReply> {
    if wanted & (OWNER | GROUP) != 0 {
        need_any(disk, AccessMask::WRITE_OWNER)?;
    }
    if wanted & DACL != 0 {
        need_any(disk, AccessMask::WRITE_DAC)?;
    }
    if wanted & SACL != 0 {
        need_any(disk, AccessMask::ACCESS_SYSTEM_SECURITY)?;
    }
    let (acl, null_dacl) = decode(data, wanted)?;
    match disk.open.set_acl(acl, null_dacl).await {
        Ok(()) => Ok(()),
        Err(sluice_vfs::VfsError::NotOwner) => Err(NtStatus::INVALID_OWNER.into()),
        Err(error) => Err(error.into()),
    }
}
