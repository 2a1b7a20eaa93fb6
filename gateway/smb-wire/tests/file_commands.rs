//! Golden bytes of the file commands, and the promise that no decoder panics or allocates beyond its input.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use sluice_smb_wire::cmd::create::{
    CreateAction, CreateRequest, CreateResponse, Disposition, FileStamp,
};
use sluice_smb_wire::cmd::ioctl::{CopyChunkRequest, IoctlRequest, ValidateNegotiate};
use sluice_smb_wire::cmd::oplock_break::{BreakAck, LeaseBreak, encode_oplock};
use sluice_smb_wire::cmd::query_directory::QueryDirectoryRequest;
use sluice_smb_wire::cmd::query_info::QueryInfoRequest;
use sluice_smb_wire::cmd::set_info::SetInfoRequest;
use sluice_smb_wire::cmd::{change_notify, close, flush, lock, read, write};
use sluice_smb_wire::{FileId, HEADER_LEN};

/// A message: an empty header, then the body.
fn message(body: &[u8]) -> Bytes {
    let mut m = BytesMut::zeroed(HEADER_LEN);
    m.put_slice(body);
    m.freeze()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |p: &[u8]| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

const ID: FileId = FileId {
    persistent: 0x11,
    volatile: 0x22,
};
const ID_HEX: &str = "1100000000000000 2200000000000000";

#[test]
fn a_create_request_decodes_name_and_fields() {
    let body = hex(
        "3900 00 ff 02000000 0000000000000000 0000000000000000 9f011200 80000000 07000000 05000000 \
         40000000 7800 0400 00000000 00000000 6100 6200",
    );
    let r = CreateRequest::decode(&message(&body)).unwrap();
    assert_eq!(r.oplock_level, 0xFF);
    assert_eq!(r.desired_access, 0x0012_019F);
    assert_eq!(r.disposition, Some(Disposition::OverwriteIf));
    assert_eq!((r.options, r.share_access), (0x40, 7));
    assert_eq!(&r.name[..], b"a\0b\0");
    assert!(r.contexts.is_empty());
}

#[test]
fn a_create_request_with_a_name_outside_the_message_is_refused() {
    let body = hex(
        "3900 00 ff 02000000 0000000000000000 0000000000000000 9f011200 80000000 07000000 05000000 \
         40000000 7800 ff00 00000000 00000000 6100",
    );
    assert!(CreateRequest::decode(&message(&body)).is_err());
}

#[test]
fn a_create_response_has_its_fixed_layout() {
    let response = CreateResponse {
        oplock_level: 9,
        action: CreateAction::Created,
        stamp: FileStamp {
            created: 1,
            accessed: 2,
            written: 3,
            changed: 4,
            allocation: 5,
            size: 6,
            attributes: 0x20,
        },
        file_id: ID,
        contexts: BytesMut::new(),
    };
    let golden = hex(&format!(
        "5900 09 00 02000000 0100000000000000 0200000000000000 0300000000000000 0400000000000000 \
         0500000000000000 0600000000000000 20000000 00000000 {ID_HEX} 00000000 00000000"
    ));
    assert_eq!(&response.encode()[..], &golden[..]);
}

#[test]
fn close_and_flush_name_their_handle() {
    let body = hex(&format!("1800 0100 00000000 {ID_HEX}"));
    let r = close::CloseRequest::decode(&message(&body)).unwrap();
    assert_eq!((r.flags, r.file_id), (close::POSTQUERY_ATTRIB, ID));
    let body = hex(&format!("1800 ffff 00000000 {ID_HEX}"));
    let r = flush::FlushRequest::decode(&message(&body)).unwrap();
    assert!(r.full_sync && r.file_id == ID);
    assert_eq!(close::encode_response(None).len(), 60);
}

#[test]
fn read_and_write_keep_the_payload_in_place() {
    let body = hex(&format!(
        "3100 50 00 00100000 0002000000000000 {ID_HEX} 01000000 00000000 00000000 0000 0000 00"
    ));
    let r = read::ReadRequest::decode(&message(&body)).unwrap();
    assert_eq!((r.length, r.offset, r.minimum_count), (4096, 512, 1));
    let body = hex(&format!(
        "3100 7000 03000000 0800000000000000 {ID_HEX} 00000000 00000000 0000 0000 01000000 616263"
    ));
    let m = message(&body);
    let w = write::WriteRequest::decode(&m).unwrap();
    assert_eq!((&w.data[..], w.flags), (&b"abc"[..], write::WRITE_THROUGH));
    assert_eq!(w.data.as_ptr(), m[HEADER_LEN + 48..].as_ptr());
    assert_eq!(
        &read::encode_response_head(3)[..],
        &hex("1100 50 00 03000000 00000000 00000000")[..]
    );
}

#[test]
fn a_lock_array_is_as_long_as_it_says_and_never_longer_than_the_message() {
    let body = hex(&format!(
        "3000 0100 21000000 {ID_HEX} 0a00000000000000 0500000000000000 12000000 00000000"
    ));
    let r = lock::LockRequest::decode(&message(&body)).unwrap();
    assert_eq!(r.sequence, 0x21);
    assert_eq!((r.locks[0].offset, r.locks[0].length), (10, 5));
    assert_eq!(r.locks[0].flags, lock::EXCLUSIVE | lock::FAIL_IMMEDIATELY);
    let mut more = body.clone();
    more[2] = 2;
    assert!(lock::LockRequest::decode(&message(&more)).is_err());
    more[2] = 0;
    assert!(lock::LockRequest::decode(&message(&more)).is_err());
}

#[test]
fn breaks_have_their_two_forms() {
    assert_eq!(
        &encode_oplock(ID, 1)[..],
        &hex(&format!("1800 01 00 00000000 {ID_HEX}"))[..]
    );
    let body = hex("2400 0000 00000000 07070707070707070707070707070707 01000000 0000000000000000");
    let ack = BreakAck::decode(&message(&body)).unwrap();
    assert_eq!(
        ack,
        BreakAck::Lease {
            key: [7; 16],
            state: 1
        }
    );
    let notice = LeaseBreak {
        epoch: 2,
        ack_required: true,
        key: [7; 16],
        current: 7,
        new: 3,
    };
    let golden = hex(
        "2c00 0200 01000000 07070707070707070707070707070707 07000000 03000000 00000000 00000000 00000000",
    );
    assert_eq!(&notice.encode()[..], &golden[..]);
}

#[test]
fn change_records_are_aligned_and_bounded() {
    use change_notify::{NotifyAction, encode_changes};
    let changes = [(NotifyAction::Added, "a"), (NotifyAction::Removed, "bc")];
    let out = encode_changes(changes.into_iter(), 100).unwrap();
    let golden = hex("10000000 01000000 02000000 6100 0000 00000000 02000000 04000000 62006300");
    assert_eq!(&out[..], &golden[..]);
    assert!(encode_changes(changes.into_iter(), 20).is_none());
}

#[test]
fn a_copy_with_too_many_chunks_is_counted_not_read() {
    let mut input = BytesMut::zeroed(24);
    input.put_u32_le(u32::MAX);
    input.put_u32_le(0);
    let copy = CopyChunkRequest::decode(&input.freeze(), 256).unwrap();
    assert_eq!(copy.chunk_count, u32::MAX);
    assert!(copy.chunks.is_empty());
}

proptest! {
    #[test]
    fn decoders_never_panic(mut raw in proptest::collection::vec(any::<u8>(), 0..160), size in 0u16..64) {
        if raw.len() >= 2 {
            raw[..2].copy_from_slice(&size.to_le_bytes());
        }
        let m = message(&raw);
        let _ = CreateRequest::decode(&m);
        let _ = close::CloseRequest::decode(&m);
        let _ = flush::FlushRequest::decode(&m);
        let _ = read::ReadRequest::decode(&m);
        let _ = write::WriteRequest::decode(&m);
        let _ = lock::LockRequest::decode(&m);
        let _ = IoctlRequest::decode(&m);
        let _ = QueryDirectoryRequest::decode(&m);
        let _ = change_notify::ChangeNotifyRequest::decode(&m);
        let _ = QueryInfoRequest::decode(&m);
        let _ = SetInfoRequest::decode(&m);
        let _ = BreakAck::decode(&m);
        let raw = Bytes::from(raw);
        let _ = CopyChunkRequest::decode(&raw, 256);
        let _ = ValidateNegotiate::decode(&raw);
    }
}
