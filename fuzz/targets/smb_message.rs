//! A frame as a stranger sends it: prefix, then either a transform header or an SMB2 message with each command's decoder.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sluice_smb_wire::cmd;
use sluice_smb_wire::{Command, Header, framing, transform};

fuzz_target!(|data: &[u8]| {
    if let Some(prefix) = data.first_chunk() {
        let _ = framing::Prefix::decode(*prefix, 16 << 20);
    }
    let _ = transform::TransformHeader::decode(data);
    let message = Bytes::copy_from_slice(data);
    let _ = cmd::negotiate::decode_smb1(&message);
    let Ok(header) = Header::decode(data) else { return };
    let Some(command) = Command::from_code(header.command) else { return };
    match command {
        Command::Negotiate => drop(cmd::negotiate::NegotiateRequest::decode(&message)),
        Command::SessionSetup => drop(cmd::session::SessionSetupRequest::decode(&message)),
        Command::Logoff => drop(cmd::logoff::decode(&message)),
        Command::TreeConnect => drop(cmd::tree::TreeConnectRequest::decode(&message)),
        Command::TreeDisconnect => drop(cmd::tree::decode_disconnect(&message)),
        Command::Create => drop(cmd::create::CreateRequest::decode(&message)),
        Command::Close => drop(cmd::close::CloseRequest::decode(&message)),
        Command::Flush => drop(cmd::flush::FlushRequest::decode(&message)),
        Command::Read => drop(cmd::read::ReadRequest::decode(&message)),
        Command::Write => drop(cmd::write::WriteRequest::decode(&message)),
        Command::Lock => drop(cmd::lock::LockRequest::decode(&message)),
        Command::Ioctl => drop(cmd::ioctl::IoctlRequest::decode(&message)),
        Command::Cancel => drop(cmd::cancel::decode(&message)),
        Command::Echo => drop(cmd::echo::decode(&message)),
        Command::QueryDirectory => drop(cmd::query_directory::QueryDirectoryRequest::decode(&message)),
        Command::ChangeNotify => drop(cmd::change_notify::ChangeNotifyRequest::decode(&message)),
        Command::QueryInfo => drop(cmd::query_info::QueryInfoRequest::decode(&message)),
        Command::SetInfo => drop(cmd::set_info::SetInfoRequest::decode(&message)),
        Command::OplockBreak => drop(cmd::oplock_break::BreakAck::decode(&message)),
    }
});
