//! A TCP stream of ONC RPC records as a stranger sends it: record marks, call header, then the arguments of the procedure called.
//! What decodes must encode to something that decodes to the same.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use sluice_nfs_wire::nfs3::*;
use sluice_nfs_wire::rpc::{CallHeader, Incoming, decode_incoming};
use sluice_nfs_wire::{Decoder, Encoder, Xdr, nlm, portmap, record::RecordReader};

const RECORD_BYTES_MAX: usize = 64 * 1024;

fuzz_target!(|data: &[u8]| {
    let mut reader = RecordReader::new(RECORD_BYTES_MAX);
    let mut input = BytesMut::from(data);
    while let Ok(Some(record)) = reader.next(&mut input) {
        assert!(record.len() <= RECORD_BYTES_MAX);
        let mut decoder = Decoder::new(record);
        if let Ok(Incoming::Call(_, header)) = decode_incoming(&mut decoder) {
            arguments(&header, decoder.into_rest());
        }
    }
});

fn arguments(header: &CallHeader, rest: Bytes) {
    match header.program {
        100_003 => nfs3_arguments(header.procedure, rest),
        100_021 => nlm_arguments(header.procedure, rest),
        100_000 => {
            round_trip::<portmap::Mapping>(&rest);
            round_trip::<portmap::Rpcb>(&rest);
        }
        _ => {}
    }
}

fn nfs3_arguments(procedure: u32, rest: Bytes) {
    match procedure {
        1 => round_trip::<ObjectArgs>(&rest),
        2 => round_trip::<SetattrArgs>(&rest),
        3 => round_trip::<DirOpArgs>(&rest),
        4 => round_trip::<AccessArgs>(&rest),
        6 => round_trip::<ReadArgs>(&rest),
        7 => round_trip::<WriteArgs>(&rest),
        8 => round_trip::<CreateArgs>(&rest),
        9 => round_trip::<MkdirArgs>(&rest),
        10 => round_trip::<SymlinkArgs>(&rest),
        11 => round_trip::<MknodArgs>(&rest),
        14 => round_trip::<RenameArgs>(&rest),
        15 => round_trip::<LinkArgs>(&rest),
        16 => round_trip::<ReaddirArgs>(&rest),
        17 => round_trip::<ReaddirplusArgs>(&rest),
        21 => round_trip::<CommitArgs>(&rest),
        _ => {}
    }
}

fn nlm_arguments(procedure: u32, rest: Bytes) {
    let _ = nlm::Procedure::from_u32(procedure);
    round_trip::<nlm::ShareArgs>(&rest);
    round_trip::<nlm::NotifyArgs>(&rest);
}

fn round_trip<T: Xdr + PartialEq + std::fmt::Debug>(raw: &Bytes) {
    let Ok(first) = Decoder::new(raw.clone()).get::<T>() else { return };
    let mut encoder = Encoder::new();
    encoder.put(&first);
    let second = Decoder::new(encoder.into_bytes()).get::<T>();
    assert_eq!(second.as_ref(), Ok(&first));
}
