//! The SMB2 packet header, sync and async form (MS-SMB2 2.2.1).

use bytes::{BufMut, BytesMut};

use crate::codec::Reader;
use crate::error::{DecodeError, Result};
use crate::ntstatus::NtStatus;

/// Length of the SMB2 header in bytes.
pub const HEADER_LEN: usize = 64;
/// Where the signature lies in the header.
pub const SIGNATURE_RANGE: core::ops::Range<usize> = 48..64;
/// First four bytes of an SMB2 message.
pub const PROTOCOL_ID: [u8; 4] = [0xfe, b'S', b'M', b'B'];
/// First four bytes of an SMB1 message; met only in multi-protocol negotiation.
pub const SMB1_PROTOCOL_ID: [u8; 4] = [0xff, b'S', b'M', b'B'];

/// SMB2 command codes (MS-SMB2 2.2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
#[allow(missing_docs, reason = "the names are the protocol's own")]
pub enum Command {
    Negotiate = 0,
    SessionSetup = 1,
    Logoff = 2,
    TreeConnect = 3,
    TreeDisconnect = 4,
    Create = 5,
    Close = 6,
    Flush = 7,
    Read = 8,
    Write = 9,
    Lock = 10,
    Ioctl = 11,
    Cancel = 12,
    Echo = 13,
    QueryDirectory = 14,
    ChangeNotify = 15,
    QueryInfo = 16,
    SetInfo = 17,
    OplockBreak = 18,
}

impl Command {
    /// The command with this code, if there is one.
    pub fn from_code(code: u16) -> Option<Command> {
        use Command::*;
        const ALL: [Command; 19] = [
            Negotiate,
            SessionSetup,
            Logoff,
            TreeConnect,
            TreeDisconnect,
            Create,
            Close,
            Flush,
            Read,
            Write,
            Lock,
            Ioctl,
            Cancel,
            Echo,
            QueryDirectory,
            ChangeNotify,
            QueryInfo,
            SetInfo,
            OplockBreak,
        ];
        ALL.get(usize::from(code)).copied()
    }
}

/// The header's Flags field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u32);

impl Flags {
    /// The message is a response.
    pub const RESPONSE: u32 = 0x0000_0001;
    /// The header has the async form.
    pub const ASYNC: u32 = 0x0000_0002;
    /// The request takes session, tree and file id from the one before it in the compound.
    pub const RELATED: u32 = 0x0000_0004;
    /// The message is signed.
    pub const SIGNED: u32 = 0x0000_0008;
    /// The operation is on a DFS path.
    pub const DFS: u32 = 0x1000_0000;
    /// The request repeats one that the client sent before (3.x).
    pub const REPLAY: u32 = 0x2000_0000;

    /// True if all bits of `mask` are set.
    pub fn has(self, mask: u32) -> bool {
        self.0 & mask == mask
    }
}

/// The SMB2 header. `status` is ChannelSequence (low 16 bits) in requests of dialect 3.x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Credits that the request consumes.
    pub credit_charge: u16,
    /// Status of a response; ChannelSequence and Reserved of a request.
    pub status: u32,
    /// Raw command code; see [`Command::from_code`].
    pub command: u16,
    /// Credits requested (request) or granted (response).
    pub credits: u16,
    /// Flags.
    pub flags: Flags,
    /// Offset of the next message in the compound, 0 for the last.
    pub next_command: u32,
    /// Message id, the same in request and response.
    pub message_id: u64,
    /// Async id if [`Flags::ASYNC`] is set; otherwise process id (low) and tree id (high 32 bits).
    pub async_or_tree: u64,
    /// Session id.
    pub session_id: u64,
    /// Signature, zero if the message is not signed.
    pub signature: [u8; 16],
}

impl Header {
    /// Decodes the header at the start of `message`.
    pub fn decode(message: &[u8]) -> Result<Header> {
        let raw: &[u8; HEADER_LEN] = message.first_chunk().ok_or(DecodeError::Truncated)?;
        let u16_at = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if raw[..4] != PROTOCOL_ID {
            return Err(DecodeError::Protocol);
        }
        if usize::from(u16_at(4)) != HEADER_LEN {
            return Err(DecodeError::StructureSize);
        }
        let mut signature = [0; 16];
        signature.copy_from_slice(&raw[SIGNATURE_RANGE]);
        Ok(Header {
            credit_charge: u16_at(6),
            status: u32_at(8),
            command: u16_at(12),
            credits: u16_at(14),
            flags: Flags(u32_at(16)),
            next_command: u32_at(20),
            message_id: u64_at(24),
            async_or_tree: u64_at(32),
            session_id: u64_at(40),
            signature,
        })
    }

    /// Appends the header.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&PROTOCOL_ID);
        out.put_u16_le(HEADER_LEN as u16);
        out.put_u16_le(self.credit_charge);
        out.put_u32_le(self.status);
        out.put_u16_le(self.command);
        out.put_u16_le(self.credits);
        out.put_u32_le(self.flags.0);
        out.put_u32_le(self.next_command);
        out.put_u64_le(self.message_id);
        out.put_u64_le(self.async_or_tree);
        out.put_u64_le(self.session_id);
        out.put_slice(&self.signature);
    }

    /// The header of a response to this request: same ids, no credits, no compound link.
    pub fn response(&self, status: NtStatus) -> Header {
        let kept = Flags::RELATED | Flags::DFS | Flags::REPLAY;
        Header {
            status: status.0,
            credits: 0,
            flags: Flags(Flags::RESPONSE | self.flags.0 & kept),
            next_command: 0,
            signature: [0; 16],
            ..*self
        }
    }

    /// The command, if it is one that the protocol knows.
    pub fn command(&self) -> Option<Command> {
        Command::from_code(self.command)
    }

    /// Tree id of a header in sync form.
    pub fn tree_id(&self) -> u32 {
        (self.async_or_tree >> 32) as u32
    }

    /// The async id, if the header has the async form.
    pub fn async_id(&self) -> Option<u64> {
        self.flags.has(Flags::ASYNC).then_some(self.async_or_tree)
    }

    /// Channel sequence of a 3.x request.
    pub fn channel_sequence(&self) -> u16 {
        self.status as u16
    }

    /// True if session, tree and file come from the request before in the compound.
    pub fn is_related(&self) -> bool {
        self.flags.has(Flags::RELATED)
    }
}

/// SMB2_FILEID (MS-SMB2 2.2.14.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Survives a reconnect of a durable open.
    pub persistent: u64,
    /// Valid on one session.
    pub volatile: u64,
}

impl FileId {
    /// The id that means "the file of the request before" in a related compound.
    pub const RELATED: FileId = FileId {
        persistent: u64::MAX,
        volatile: u64::MAX,
    };

    /// Reads 16 bytes.
    pub fn decode(r: &mut Reader<'_>) -> Result<FileId> {
        Ok(FileId {
            persistent: r.u64()?,
            volatile: r.u64()?,
        })
    }

    /// Appends 16 bytes.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.persistent);
        out.put_u64_le(self.volatile);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn golden() -> Vec<u8> {
        let mut raw = vec![
            0xfe, b'S', b'M', b'B', 64, 0, 1, 0, 0x16, 0, 0, 0xc0, 5, 0, 31, 0,
        ];
        raw.extend([0x09, 0, 0, 0, 0, 0, 0, 0]);
        raw.extend([7, 0, 0, 0, 0, 0, 0, 0]);
        raw.extend([0xff, 0xfe, 0, 0, 4, 0, 0, 0]);
        raw.extend([0x11, 0, 0, 0, 0, 0x40, 0, 0]);
        raw.extend([0xaa; 16]);
        raw
    }

    #[test]
    fn golden_header_decodes_field_by_field_and_encodes_back() {
        let raw = golden();
        let h = Header::decode(&raw).unwrap();
        assert_eq!(h.command(), Some(Command::Create));
        assert_eq!((h.credit_charge, h.credits, h.message_id), (1, 31, 7));
        assert_eq!((h.tree_id(), h.session_id), (4, 0x4000_0000_0011));
        assert_eq!(h.async_id(), None);
        assert!(h.flags.has(Flags::SIGNED));
        let mut out = BytesMut::new();
        h.encode(&mut out);
        assert_eq!(&out[..], &raw[..]);
    }

    #[test]
    fn unknown_commands_have_no_name() {
        assert_eq!(Command::from_code(18), Some(Command::OplockBreak));
        assert_eq!(Command::from_code(19), None);
    }

    proptest! {
        #[test]
        fn decoder_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Header::decode(&raw);
        }
    }
}
