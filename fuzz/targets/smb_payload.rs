//! What SMB messages carry inside: security tokens, descriptors, create contexts, pipe calls, control inputs. The first byte
//! chooses the decoder.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sluice_smb_wire::{cmd::ioctl, create_ctx, fscc, names, ndr, ntlm, security_descriptor, spnego};

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    let input = Bytes::copy_from_slice(rest);
    match choice % 13 {
        0 => drop(spnego::decode(&input)),
        1 => drop(ntlm::decode_negotiate(&input)),
        2 => drop(ntlm::Authenticate::decode(&input)),
        3 => drop(ntlm::NtlmV2Response::decode(&input)),
        4 => drop(security_descriptor::SecurityDescriptor::decode(&input)),
        5 => drop(create_ctx::CreateContexts::decode(&input)),
        6 => {
            let _ = ndr::decode_bind(&input);
            if let Ok(header) = ndr::PduHeader::decode(&input) {
                let _ = ndr::decode_request(&input, &header);
            }
        }
        7 => drop(ioctl::CopyChunkRequest::decode(&input, 256)),
        8 => drop(ioctl::ValidateNegotiate::decode(&input)),
        9 => {
            let _ = ioctl::decode_zero_data(&input);
            let _ = ioctl::decode_allocated_range(&input);
        }
        10 => drop(fscc::ea::decode_full(&input)),
        11 => drop(fscc::ea::decode_names(&input)),
        _ => drop(names::SmbPath::decode(&input)),
    }
});
