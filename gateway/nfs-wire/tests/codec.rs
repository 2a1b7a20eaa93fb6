//! Round trips, golden bytes, and decoders that survive whatever a peer sends.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use sluice_nfs_wire::auth::{AuthStat, AuthSys, OpaqueAuth};
use sluice_nfs_wire::mount::{Export, Exports, MntRes, MountStat};
use sluice_nfs_wire::nfs3::*;
use sluice_nfs_wire::nlm::{self, LockArgs, LockForm};
use sluice_nfs_wire::portmap::{Mapping, Rpcb};
use sluice_nfs_wire::record::{RecordError, RecordReader, single_fragment_header};
use sluice_nfs_wire::rpc::{self, CallHeader, Incoming, ReplyHead};
use sluice_nfs_wire::xdr::{Decoder, Encoder, Opaque, Payload, Xdr, XdrError};

fn bytes_of<T: Xdr>(item: &T) -> Bytes {
    let mut e = Encoder::new();
    e.put(item);
    e.into_bytes()
}

fn round_trip<T: Xdr + PartialEq + std::fmt::Debug>(item: &T) {
    let encoded = bytes_of(item);
    assert_eq!(encoded.len() % 4, 0);
    assert_eq!(
        &Decoder::new(encoded.clone()).last::<T>().expect("decodes"),
        item
    );
    for cut in 0..encoded.len() {
        assert!(
            Decoder::new(encoded.slice(..cut)).last::<T>().is_err(),
            "a truncated item is refused"
        );
    }
}

fn attributes() -> Attributes {
    Attributes {
        file_type: FileType::Regular,
        mode: 0o644,
        nlink: 1,
        uid: 1000,
        gid: 100,
        size: 1 << 40,
        used: 4096,
        rdev: SpecData { major: 0, minor: 0 },
        fsid: 7,
        fileid: 42,
        atime: Time {
            seconds: 1,
            nanos: 2,
        },
        mtime: Time {
            seconds: 3,
            nanos: 4,
        },
        ctime: Time {
            seconds: 5,
            nanos: 6,
        },
    }
}

fn handle() -> FileHandle {
    FileHandle::copy_of([9u8; 40])
}

fn wcc() -> WccData {
    WccData {
        before: Some(WccAttr {
            size: 1,
            mtime: Time {
                seconds: 2,
                nanos: 3,
            },
            ctime: Time {
                seconds: 4,
                nanos: 5,
            },
        }),
        after: Some(attributes()),
    }
}

#[test]
fn arguments_survive_a_round_trip() {
    let target = DirOpArgs {
        dir: handle(),
        name: FileName::copy_of("a.txt"),
    };
    round_trip(&target);
    round_trip(&SetattrArgs {
        object: handle(),
        attributes: SetAttributes {
            mode: Some(0o600),
            size: Some(3),
            atime: SetTime::ServerNow,
            mtime: SetTime::To(1, 2),
            ..SetAttributes::default()
        },
        guard: Some(Time {
            seconds: 1,
            nanos: 0,
        }),
    });
    round_trip(&CreateArgs {
        target: target.clone(),
        how: CreateHow::Exclusive(*b"verifier"),
    });
    round_trip(&MknodArgs {
        target: target.clone(),
        what: MknodWhat::BlockDevice(SetAttributes::default(), SpecData { major: 8, minor: 1 }),
    });
    round_trip(&WriteArgs {
        file: handle(),
        offset: 5,
        count: 3,
        stable: Stability::DataSync,
        data: Payload(vec![Bytes::from_static(b"abc")]),
    });
    round_trip(&RenameArgs {
        from: target.clone(),
        to: target,
    });
    round_trip(&AuthSys {
        stamp: 1,
        machine_name: Opaque::copy_of("client"),
        uid: 1000,
        gid: 1000,
        gids: vec![1, 2, 3],
    });
    round_trip(&Mapping {
        program: 1,
        version: 2,
        protocol: 6,
        port: 4,
    });
    round_trip(&Rpcb {
        program: 1,
        version: 2,
        netid: Opaque::copy_of("tcp"),
        address: Opaque::default(),
        owner: Opaque::default(),
    });
}

#[test]
fn results_survive_a_round_trip() {
    round_trip(&GetattrRes::Ok(attributes()));
    round_trip(&GetattrRes::Fail(Status::Stale, ()));
    round_trip(&WccRes::Fail(Status::Jukebox, wcc()));
    round_trip(&ReadRes::Ok(ReadOk {
        attributes: Some(attributes()),
        count: 5,
        eof: true,
        data: Payload(vec![Bytes::from_static(b"hello")]),
    }));
    round_trip(&ReaddirplusRes::Ok(ReaddirplusOk {
        dir_attributes: None,
        verifier: [1; 8],
        list: DirList {
            entries: vec![EntryPlus {
                fileid: 1,
                name: FileName::copy_of("name"),
                cookie: 3,
                attributes: Some(attributes()),
                handle: Some(handle()),
            }],
            eof: true,
        },
    }));
    round_trip(&MntRes::Ok(handle(), vec![1]));
    round_trip(&MntRes::Fail(MountStat::Acces));
    round_trip(&Exports(vec![Export {
        dir: Opaque::copy_of("/docs"),
        groups: vec![Opaque::copy_of("127.0.0.0/8")],
    }]));
}

#[test]
fn stated_entry_sizes_are_the_encoded_ones() {
    assert_eq!(bytes_of(&attributes()).len(), ATTRIBUTES_BYTES);
    let entry = Entry {
        fileid: 1,
        name: FileName::copy_of("five5"),
        cookie: 1,
    };
    assert_eq!(4 + bytes_of(&entry).len(), Entry::wire_len(5));
    let plus = EntryPlus {
        fileid: 1,
        name: FileName::copy_of("five5"),
        cookie: 1,
        attributes: Some(attributes()),
        handle: Some(handle()),
    };
    assert_eq!(4 + bytes_of(&plus).len(), EntryPlus::wire_len(5, 40));
}

#[test]
fn nlm_ranges_are_64_bits_wide_in_version_4_only() {
    let args = LockArgs {
        cookie: Opaque::copy_of("c"),
        block: true,
        exclusive: true,
        lock: nlm::Lock {
            caller_name: Opaque::copy_of("host"),
            file: handle(),
            owner: Opaque::copy_of("1@host"),
            svid: 1,
            offset: 10,
            len: 20,
        },
        reclaim: false,
        state: 3,
    };
    for version in [1, 3, 4] {
        let mut e = Encoder::new();
        args.encode(&mut e, LockForm::Lock, version);
        let encoded = e.into_bytes();
        let wide = if version == 4 { 8 } else { 0 };
        assert_eq!(encoded.len(), 100 + wide);
        let mut d = Decoder::new(encoded);
        assert_eq!(
            LockArgs::decode(&mut d, LockForm::Lock, version),
            Ok(args.clone())
        );
        assert_eq!(d.remaining(), 0);
    }
    assert_eq!(nlm::Stat::Deadlock.for_version(3), nlm::Stat::DeniedNoLocks);
}

#[test]
fn a_getattr_call_has_the_bytes_of_the_rfc() {
    let mut e = Encoder::new();
    let header = CallHeader {
        program: PROGRAM,
        version: VERSION,
        procedure: Procedure::Getattr as u32,
        cred: OpaqueAuth::none(),
        verf: OpaqueAuth::none(),
    };
    rpc::encode_call(0x0102_0304, &header, &mut e);
    e.put(&FileHandle::copy_of([0xAA, 0xBB, 0xCC]));
    let golden: &[u8] = &[
        1, 2, 3, 4, // xid
        0, 0, 0, 0, // CALL
        0, 0, 0, 2, // RPC version
        0, 1, 0x86, 0xA3, // program 100003
        0, 0, 0, 3, // version
        0, 0, 0, 1, // GETATTR
        0, 0, 0, 0, 0, 0, 0, 0, // AUTH_NONE credential
        0, 0, 0, 0, 0, 0, 0, 0, // AUTH_NONE verifier
        0, 0, 0, 3, 0xAA, 0xBB, 0xCC, 0, // handle, padded
    ];
    let encoded = e.into_bytes();
    assert_eq!(&encoded[..], golden);
    let mut d = Decoder::new(encoded);
    assert_eq!(
        rpc::decode_incoming(&mut d),
        Ok(Incoming::Call(0x0102_0304, header))
    );
}

#[test]
fn reply_heads_survive_a_round_trip() {
    for head in [
        ReplyHead::Success,
        ReplyHead::ProgUnavail,
        ReplyHead::ProgMismatch { low: 3, high: 3 },
        ReplyHead::ProcUnavail,
        ReplyHead::GarbageArgs,
        ReplyHead::SystemErr,
        ReplyHead::RpcMismatch,
        ReplyHead::AuthError(AuthStat::RejectedCred),
    ] {
        let mut e = Encoder::new();
        head.encode(9, &mut e);
        let mut d = Decoder::new(e.into_bytes());
        assert_eq!(rpc::decode_incoming(&mut d), Ok(Incoming::Reply(9)));
        assert_eq!(ReplyHead::decode(&mut d), Ok(head));
    }
}

#[test]
fn a_large_payload_is_neither_copied_in_nor_out() {
    let payload = Bytes::from(vec![7u8; 65_537]);
    let mut e = Encoder::new();
    e.u32(1);
    e.payload(std::slice::from_ref(&payload));
    e.u32(2);
    let segments = e.into_segments();
    assert_eq!(segments.len(), 3);
    assert_eq!(segments[1].as_ptr(), payload.as_ptr());
    assert_eq!(segments[2].len(), 3 + 4, "padding, then the next item");

    let whole = Bytes::from(segments.concat());
    let mut d = Decoder::new(whole.clone());
    d.u32().expect("first");
    let data = d.opaque(DATA_MAX).expect("payload");
    assert_eq!(data.as_ptr(), whole[8..].as_ptr());
}

#[test]
fn stated_lengths_are_bounded_before_use() {
    let huge = Bytes::from_static(&[0xFF, 0xFF, 0xFF, 0xFF]);
    assert_eq!(
        Decoder::new(huge.clone()).opaque(64),
        Err(XdrError::TooLong {
            len: u32::MAX,
            max: 64
        })
    );
    assert_eq!(
        Decoder::new(huge.clone()).opaque(u32::MAX),
        Err(XdrError::Truncated)
    );
    assert_eq!(
        Decoder::new(huge.clone()).array::<u32>(u32::MAX),
        Err(XdrError::Truncated)
    );
    assert!(Decoder::new(huge).get::<bool>().is_err());
}

#[test]
fn records_over_the_limit_are_refused_from_their_header() {
    let mut reader = RecordReader::new(1000);
    let mut input = BytesMut::from(&single_fragment_header(1001)[..]);
    assert_eq!(
        reader.next(&mut input),
        Err(RecordError::TooLong {
            len: 1001,
            max: 1000
        })
    );
    let mut reader = RecordReader::new(1000);
    let mut input = BytesMut::new();
    input.extend_from_slice(&600u32.to_be_bytes());
    input.extend_from_slice(&[0; 600]);
    input.extend_from_slice(&single_fragment_header(600));
    assert_eq!(
        reader.next(&mut input),
        Err(RecordError::TooLong {
            len: 1200,
            max: 1000
        })
    );
}

#[test]
fn a_flood_of_empty_fragments_is_refused() {
    let mut reader = RecordReader::new(1000);
    let mut input = BytesMut::from(&vec![0u8; 4 * 5000][..]);
    assert_eq!(reader.next(&mut input), Err(RecordError::TooManyFragments));
}

proptest! {
    /// However a stream is cut into fragments and reads, the records come out as they went in.
    #[test]
    fn records_come_out_as_they_went_in(
        records in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..4), 1..6),
        chunk in 1usize..50,
    ) {
        let mut stream = Vec::new();
        for fragments in &records {
            for (i, fragment) in fragments.iter().enumerate() {
                let header = if i + 1 == fragments.len() {
                    single_fragment_header(fragment.len())
                } else {
                    (fragment.len() as u32).to_be_bytes()
                };
                stream.extend_from_slice(&header);
                stream.extend_from_slice(fragment);
            }
        }
        let mut reader = RecordReader::new(1000);
        let mut input = BytesMut::new();
        let mut out = Vec::new();
        for part in stream.chunks(chunk) {
            input.extend_from_slice(part);
            while let Some(record) = reader.next(&mut input).expect("in bounds") {
                out.push(record.to_vec());
            }
        }
        let expected: Vec<Vec<u8>> = records.iter().map(|r| r.concat()).collect();
        prop_assert_eq!(out, expected);
    }

    /// No bytes make a decoder panic; what is decoded encodes to the same meaning.
    #[test]
    fn no_bytes_make_a_decoder_panic(data in prop::collection::vec(
        prop_oneof![Just(0u8), Just(1), Just(4), any::<u8>()], 0..300)) {
        let data = Bytes::from(data);
        fn probe<T: Xdr + PartialEq + std::fmt::Debug>(data: &Bytes) {
            let mut d = Decoder::new(data.clone());
            if let Ok(item) = d.get::<T>() {
                let again = bytes_of(&item);
                assert_eq!(Decoder::new(again).last::<T>().expect("own encoding"), item);
            }
        }
        probe::<CallHeader>(&data);
        probe::<AuthSys>(&data);
        probe::<ObjectArgs>(&data);
        probe::<SetattrArgs>(&data);
        probe::<DirOpArgs>(&data);
        probe::<AccessArgs>(&data);
        probe::<ReadArgs>(&data);
        probe::<WriteArgs>(&data);
        probe::<CreateArgs>(&data);
        probe::<MkdirArgs>(&data);
        probe::<SymlinkArgs>(&data);
        probe::<MknodArgs>(&data);
        probe::<RenameArgs>(&data);
        probe::<LinkArgs>(&data);
        probe::<ReaddirArgs>(&data);
        probe::<ReaddirplusArgs>(&data);
        probe::<CommitArgs>(&data);
        probe::<ReaddirplusRes>(&data);
        probe::<ReaddirRes>(&data);
        probe::<WriteRes>(&data);
        probe::<LookupRes>(&data);
        probe::<MntRes>(&data);
        probe::<Exports>(&data);
        probe::<Mapping>(&data);
        probe::<Rpcb>(&data);
        probe::<nlm::ShareArgs>(&data);
        probe::<nlm::NotifyArgs>(&data);
        probe::<nlm::LockRes>(&data);
        for version in [1, 4] {
            for form in [LockForm::Lock, LockForm::Test, LockForm::Cancel, LockForm::Unlock] {
                let _ = LockArgs::decode(&mut Decoder::new(data.clone()), form, version);
            }
            let _ = nlm::TestRes::decode(&mut Decoder::new(data.clone()), version);
        }
        let mut d = Decoder::new(data.clone());
        if let Ok(Incoming::Reply(_)) = rpc::decode_incoming(&mut d) {
            let _ = ReplyHead::decode(&mut d);
        }
        let _ = RecordReader::new(256).next(&mut BytesMut::from(&data[..]));
    }
}
