//! SIDs, ACLs and self-relative security descriptors (MS-DTYP 2.4.2, 2.4.4, 2.4.5, 2.4.6).
//!
//! Owns the binary layout only; who may do what is decided by the file layer.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{Reader, patch_u32, slice_at};
use crate::error::{DecodeError, Result};

/// OWNER_SECURITY_INFORMATION.
pub const OWNER: u32 = 0x01;
/// GROUP_SECURITY_INFORMATION.
pub const GROUP: u32 = 0x02;
/// DACL_SECURITY_INFORMATION.
pub const DACL: u32 = 0x04;
/// SACL_SECURITY_INFORMATION.
pub const SACL: u32 = 0x08;

/// Control bit SE_DACL_PRESENT.
pub const DACL_PRESENT: u16 = 0x0004;
/// Control bit SE_SACL_PRESENT.
pub const SACL_PRESENT: u16 = 0x0010;
/// Control bit SE_DACL_AUTO_INHERIT_REQ.
pub const DACL_AUTO_INHERIT_REQ: u16 = 0x0100;
/// Control bit SE_DACL_AUTO_INHERITED.
pub const DACL_AUTO_INHERITED: u16 = 0x0400;
/// Control bit SE_DACL_PROTECTED.
pub const DACL_PROTECTED: u16 = 0x1000;
/// Control bit SE_SELF_RELATIVE.
pub const SELF_RELATIVE: u16 = 0x8000;

/// Most entries of one list.
const MAX_ACES: usize = 2048;

/// A security identifier.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sid {
    /// IdentifierAuthority, 48 bits.
    pub authority: u64,
    /// SubAuthority values, at most 15.
    pub sub: Vec<u32>,
}

impl Sid {
    /// A SID from its parts.
    pub fn new(authority: u64, sub: &[u32]) -> Self {
        Self {
            authority,
            sub: sub.to_vec(),
        }
    }

    /// Parses `S-1-5-21-...`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("S-1-")?.split('-');
        let authority = parts.next()?.parse().ok().filter(|a| *a < 1 << 48)?;
        let sub: Vec<u32> = parts.map(|p| p.parse().ok()).collect::<Option<_>>()?;
        (sub.len() <= 15).then_some(Self { authority, sub })
    }

    /// Decodes at the reader's position.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self> {
        if r.u8()? != 1 {
            return Err(DecodeError::Invalid("the revision of a SID"));
        }
        let count = usize::from(r.u8()?);
        if count > 15 {
            return Err(DecodeError::Invalid("the length of a SID"));
        }
        let authority = r
            .array::<6>()?
            .iter()
            .fold(0u64, |a, b| a << 8 | u64::from(*b));
        let sub = (0..count).map(|_| r.u32()).collect::<Result<_>>()?;
        Ok(Self { authority, sub })
    }

    /// Appends the binary form.
    pub fn encode(&self, w: &mut BytesMut) {
        w.put_u8(1);
        w.put_u8(self.sub.len() as u8);
        w.put_slice(&self.authority.to_be_bytes()[2..]);
        for s in &self.sub {
            w.put_u32_le(*s);
        }
    }

    /// Length of the binary form in bytes.
    pub fn encoded_len(&self) -> usize {
        8 + 4 * self.sub.len()
    }
}

impl std::fmt::Display for Sid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "S-1-{}", self.authority)?;
        self.sub.iter().try_for_each(|s| write!(f, "-{s}"))
    }
}

/// An access control entry of the plain kinds: type 0 allows, 1 denies, 2 audits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireAce {
    /// AceType.
    pub kind: u8,
    /// AceFlags: 1 object inherit, 2 container inherit, 4 no propagate, 8 inherit only, 16 inherited.
    pub flags: u8,
    /// Access mask.
    pub mask: u32,
    /// Whom it is about.
    pub sid: Sid,
}

/// A decoded or to be encoded security descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityDescriptor {
    /// Control bits; SE_SELF_RELATIVE and the present bits are set by the encoder.
    pub control: u16,
    /// Owner.
    pub owner: Option<Sid>,
    /// Group.
    pub group: Option<Sid>,
    /// The discretionary list. `None` together with SE_DACL_PRESENT is the NULL list that allows everything.
    pub dacl: Option<Vec<WireAce>>,
    /// The system list.
    pub sacl: Option<Vec<WireAce>>,
}

impl SecurityDescriptor {
    /// Decodes a self-relative descriptor.
    pub fn decode(data: &Bytes) -> Result<Self> {
        let mut r = Reader::new(data);
        if r.u8()? != 1 {
            return Err(DecodeError::Invalid(
                "the revision of a security descriptor",
            ));
        }
        r.skip(1)?;
        let control = r.u16()?;
        let offsets = [r.u32()?, r.u32()?, r.u32()?, r.u32()?].map(|o| o as usize);
        let sid_at = |at: usize| -> Result<Option<Sid>> {
            if at == 0 {
                Ok(None)
            } else {
                Sid::decode(&mut Reader::at(data, at)).map(Some)
            }
        };
        let list_at = |at: usize, present: bool| -> Result<Option<Vec<WireAce>>> {
            if at == 0 || !present {
                Ok(None)
            } else {
                decode_acl(data, at).map(Some)
            }
        };
        Ok(Self {
            control,
            owner: sid_at(offsets[0])?,
            group: sid_at(offsets[1])?,
            sacl: list_at(offsets[2], control & SACL_PRESENT != 0)?,
            dacl: list_at(offsets[3], control & DACL_PRESENT != 0)?,
        })
    }

    /// Encodes in self-relative form.
    pub fn encode(&self) -> BytesMut {
        let mut w = BytesMut::with_capacity(256);
        let mut control = self.control | SELF_RELATIVE;
        if self.dacl.is_some() {
            control |= DACL_PRESENT;
        }
        if self.sacl.is_some() {
            control |= SACL_PRESENT;
        }
        w.put_u8(1);
        w.put_u8(0);
        w.put_u16_le(control);
        w.put_bytes(0, 16);
        for (slot, sid) in [(4, &self.owner), (8, &self.group)] {
            if let Some(sid) = sid {
                let at = w.len() as u32;
                patch_u32(&mut w, slot, at);
                sid.encode(&mut w);
            }
        }
        for (slot, list) in [(12, &self.sacl), (16, &self.dacl)] {
            if let Some(list) = list {
                let at = w.len() as u32;
                patch_u32(&mut w, slot, at);
                encode_acl(&mut w, list);
            }
        }
        w
    }
}

fn decode_acl(data: &Bytes, at: usize) -> Result<Vec<WireAce>> {
    let mut r = Reader::at(data, at);
    r.skip(2)?;
    let size = usize::from(r.u16()?);
    let count = usize::from(r.u16()?);
    r.skip(2)?;
    if count > MAX_ACES || count * 8 > size {
        return Err(DecodeError::Invalid("the length of an ACL"));
    }
    let acl = slice_at(data, at, size)?;
    let mut aces = Vec::with_capacity(count);
    let mut pos = 8;
    for _ in 0..count {
        let mut r = Reader::at(&acl, pos);
        let kind = r.u8()?;
        let flags = r.u8()?;
        let len = usize::from(r.u16()?);
        if len < 16 {
            return Err(DecodeError::Invalid("the length of an ACE"));
        }
        slice_at(&acl, pos, len)?;
        // Object and conditional entries carry more than a mask and a SID: they have no place here.
        if kind <= 2 {
            aces.push(WireAce {
                kind,
                flags,
                mask: r.u32()?,
                sid: Sid::decode(&mut r)?,
            });
        }
        pos += len;
    }
    Ok(aces)
}

fn encode_acl(w: &mut BytesMut, aces: &[WireAce]) {
    let size = 8 + aces.iter().map(|a| 8 + a.sid.encoded_len()).sum::<usize>();
    w.put_u8(2);
    w.put_u8(0);
    w.put_u16_le(size as u16);
    w.put_u16_le(aces.len() as u16);
    w.put_u16_le(0);
    for ace in aces {
        w.put_u8(ace.kind);
        w.put_u8(ace.flags);
        w.put_u16_le((8 + ace.sid.encoded_len()) as u16);
        w.put_u32_le(ace.mask);
        ace.sid.encode(w);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sid_has_its_golden_bytes_and_text() {
        let sid = Sid::parse("S-1-5-32-544").unwrap();
        let mut w = BytesMut::new();
        sid.encode(&mut w);
        assert_eq!(
            &w[..],
            &[1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0]
        );
        assert_eq!(sid.to_string(), "S-1-5-32-544");
        assert_eq!(Sid::parse("S-1-5-x"), None);
    }

    #[test]
    fn a_descriptor_survives_the_round_trip() {
        let ace = WireAce {
            kind: 0,
            flags: 3,
            mask: 0x1F01FF,
            sid: Sid::new(1, &[0]),
        };
        let sd = SecurityDescriptor {
            control: DACL_PROTECTED,
            owner: Some(Sid::new(5, &[21, 1, 2, 3, 1000])),
            group: Some(Sid::new(5, &[21, 1, 2, 3, 513])),
            dacl: Some(vec![ace]),
            sacl: None,
        };
        let back = SecurityDescriptor::decode(&sd.encode().freeze()).unwrap();
        assert_eq!(back.control, DACL_PROTECTED | DACL_PRESENT | SELF_RELATIVE);
        assert_eq!(
            (back.owner, back.group, back.dacl),
            (sd.owner, sd.group, sd.dacl)
        );
    }

    #[test]
    fn a_null_dacl_is_not_an_empty_one() {
        let null = SecurityDescriptor {
            control: DACL_PRESENT,
            ..Default::default()
        };
        assert_eq!(
            SecurityDescriptor::decode(&null.encode().freeze())
                .unwrap()
                .dacl,
            None
        );
        let empty = SecurityDescriptor {
            dacl: Some(vec![]),
            ..Default::default()
        };
        assert_eq!(
            SecurityDescriptor::decode(&empty.encode().freeze())
                .unwrap()
                .dacl,
            Some(vec![])
        );
    }

    proptest! {
        #[test]
        fn decoder_never_panics(raw in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = SecurityDescriptor::decode(&Bytes::from(raw));
        }
    }
}
