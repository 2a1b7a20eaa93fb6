//! Named pipes of IPC$: DCE/RPC endpoints `srvsvc` and `wkssvc` (MS-RPCE, MS-SRVS, MS-WKST).
//!
//! Owns the pipe's message state; the interfaces answer from the list of shares. Must never block: every
//! answer is made of what is in memory.

mod srvsvc;
mod wkssvc;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sluice_smb_wire::NtStatus;
use sluice_smb_wire::cmd::query_info::INFO_FILE;
use sluice_smb_wire::fscc::file::{self, FileFacts};
use sluice_smb_wire::ndr::{self, NdrReader, NdrWriter, PduHeader};

use crate::server::Server;

/// Longest request, over all its fragments.
const MAX_CALL_BYTES: usize = 64 << 10;
/// Most presentation contexts of a bind.
const MAX_CONTEXTS: usize = 16;
/// Association group that every bind is told.
const GROUP: u32 = 0x5117_CE01;

/// An interface behind a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Srvsvc,
    Wkssvc,
}

impl Endpoint {
    fn name(self) -> &'static str {
        match self {
            Endpoint::Srvsvc => "srvsvc",
            Endpoint::Wkssvc => "wkssvc",
        }
    }

    /// UUID as on the wire, and major version.
    fn interface(self) -> ([u8; 16], u16) {
        match self {
            Endpoint::Srvsvc => (srvsvc::INTERFACE, 3),
            Endpoint::Wkssvc => (wkssvc::INTERFACE, 1),
        }
    }
}

/// What an operation answers: its results, or a fault status.
type CallResult = Result<NdrWriter, u32>;

/// One open pipe.
pub struct Pipe {
    endpoint: Endpoint,
    /// Held only to change the state, never across a call of another module that waits.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Context ids that were accepted.
    contexts: Vec<u16>,
    /// Bytes of a fragment that is not whole yet.
    partial: BytesMut,
    /// Arguments of the fragments so far of one call.
    stub: BytesMut,
    /// Answers that were not read yet.
    answers: VecDeque<Bytes>,
}

impl Pipe {
    /// Opens the pipe with this name, if there is one.
    pub fn open(name: &str) -> Option<Pipe> {
        let known = [Endpoint::Srvsvc, Endpoint::Wkssvc];
        let endpoint = known
            .into_iter()
            .find(|e| e.name().eq_ignore_ascii_case(name))?;
        Some(Pipe {
            endpoint,
            state: Mutex::default(),
        })
    }

    /// Takes bytes of the client; whole calls are answered at once.
    ///
    /// # Errors
    /// Bytes that are no PDU, or too many of them.
    pub fn write(&self, server: &Server, data: &Bytes) -> Result<(), NtStatus> {
        let mut state = self.state.lock();
        if state.partial.len() + data.len() > MAX_CALL_BYTES {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        state.partial.extend_from_slice(data);
        while let Some(pdu) = next_pdu(&mut state.partial)? {
            self.take(server, &mut state, &pdu)?;
        }
        Ok(())
    }

    /// Gives up to `limit` bytes of the oldest answer; STATUS_BUFFER_OVERFLOW says that more of it waits.
    ///
    /// # Errors
    /// STATUS_PIPE_EMPTY without an answer.
    pub fn read(&self, limit: usize) -> Result<(NtStatus, Bytes), NtStatus> {
        let mut state = self.state.lock();
        let mut answer = state.answers.pop_front().ok_or(NtStatus::PIPE_EMPTY)?;
        if answer.len() <= limit {
            return Ok((NtStatus::SUCCESS, answer));
        }
        let part = answer.split_to(limit);
        state.answers.push_front(answer);
        Ok((NtStatus::BUFFER_OVERFLOW, part))
    }

    /// FSCTL_PIPE_TRANSCEIVE: a write and a read in one.
    ///
    /// # Errors
    /// As [`Pipe::write`] and [`Pipe::read`].
    pub fn transceive(
        &self,
        server: &Server,
        input: &Bytes,
        limit: usize,
    ) -> Result<(NtStatus, Bytes), NtStatus> {
        self.write(server, input)?;
        self.read(limit)
    }

    /// QUERY_INFO on a pipe: standard and pipe information.
    ///
    /// # Errors
    /// Any other class.
    pub fn query_info(&self, info_type: u8, class: u8) -> Result<BytesMut, NtStatus> {
        if info_type != INFO_FILE {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        let facts = FileFacts {
            links: 1,
            delete_pending: true,
            name: format!("\\{}", self.endpoint.name()),
            ..FileFacts::default()
        };
        match class {
            file::STANDARD | file::NAME | file::ACCESS | file::MODE => {
                file::encode(class, &facts).ok_or(NtStatus::INVALID_INFO_CLASS)
            }
            _ => Err(NtStatus::INVALID_PARAMETER),
        }
    }

    fn take(&self, server: &Server, state: &mut State, pdu: &Bytes) -> Result<(), NtStatus> {
        let bad = |_| NtStatus::INVALID_PARAMETER;
        let header = PduHeader::decode(pdu).map_err(bad)?;
        match header.kind {
            ndr::BIND => self.bind(state, pdu, &header, ndr::BIND_ACK),
            ndr::ALTER_CONTEXT => self.bind(state, pdu, &header, ndr::ALTER_CONTEXT_RESP),
            ndr::REQUEST => {
                let request = ndr::decode_request(pdu, &header).map_err(bad)?;
                if header.flags & ndr::FIRST_FRAG != 0 {
                    state.stub.clear();
                }
                if state.stub.len() + request.stub.len() > MAX_CALL_BYTES {
                    return Err(NtStatus::INVALID_PARAMETER);
                }
                state.stub.extend_from_slice(&request.stub);
                if header.flags & ndr::LAST_FRAG != 0 {
                    let stub = state.stub.split().freeze();
                    let known = state.contexts.contains(&request.context);
                    let answer = match known {
                        true => self.call(server, request.opnum, &stub),
                        false => Err(ndr::FAULT_UNKNOWN_INTERFACE),
                    };
                    let answer = answered(&header, request.context, answer);
                    state.answers.push_back(answer.freeze());
                }
                Ok(())
            }
            // Authentication legs, orphaned and cancelled calls need no answer here.
            _ => Ok(()),
        }
    }

    fn bind(
        &self,
        state: &mut State,
        pdu: &Bytes,
        header: &PduHeader,
        kind: u8,
    ) -> Result<(), NtStatus> {
        let contexts = ndr::decode_bind(pdu).map_err(|_| NtStatus::INVALID_PARAMETER)?;
        if contexts.len() > MAX_CONTEXTS {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        let (interface, version) = self.endpoint.interface();
        let fits =
            |c: &ndr::BindContext| c.interface == interface && c.version == version && c.ndr32;
        let accepted: Vec<bool> = contexts.iter().map(fits).collect();
        let ids = contexts.iter().filter(|c| fits(c)).map(|c| c.id);
        state.contexts.extend(ids);
        state.contexts.dedup();
        state.contexts.truncate(MAX_CONTEXTS);
        let pipe = format!("\\PIPE\\{}", self.endpoint.name());
        let ack = ndr::encode_bind_ack(kind, header.call_id, GROUP, &pipe, &accepted);
        state.answers.push_back(ack.freeze());
        Ok(())
    }

    fn call(&self, server: &Server, opnum: u16, stub: &Bytes) -> CallResult {
        let arguments = NdrReader::new(stub);
        match self.endpoint {
            Endpoint::Srvsvc => srvsvc::call(server, opnum, arguments),
            Endpoint::Wkssvc => wkssvc::call(server, opnum, arguments),
        }
    }
}

/// Cuts the next whole fragment off what was received.
fn next_pdu(partial: &mut BytesMut) -> Result<Option<Bytes>, NtStatus> {
    const HEADER_LEN: usize = 16;
    if partial.len() < HEADER_LEN {
        return Ok(None);
    }
    let head = Bytes::copy_from_slice(&partial[..HEADER_LEN]);
    let header = PduHeader::decode(&head).map_err(|_| NtStatus::INVALID_PARAMETER)?;
    let len = usize::from(header.frag_len);
    match partial.len() < len {
        true => Ok(None),
        false => Ok(Some(partial.split_to(len).freeze())),
    }
}

fn answered(header: &PduHeader, context: u16, result: CallResult) -> BytesMut {
    match result {
        Ok(out) => {
            let stub = out.finish();
            ndr::encode_response(header.call_id, context, &stub, ndr::MAX_FRAGMENT)
        }
        Err(status) => ndr::encode_fault(header.call_id, context, status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_pipes_open_whatever_their_case() {
        assert!(Pipe::open("SRVSVC").is_some());
        assert!(Pipe::open("spoolss").is_none());
        assert!(Pipe::open("MsFteWds").is_none());
    }

    #[test]
    fn an_empty_pipe_has_nothing_to_read() {
        let pipe = Pipe::open("srvsvc").unwrap();
        assert_eq!(pipe.read(10).unwrap_err(), NtStatus::PIPE_EMPTY);
    }

    #[test]
    fn a_fragment_in_two_parts_waits_for_the_rest() {
        let mut raw = BytesMut::from(&[5u8, 0, 0, 3, 0x10, 0, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0][..]);
        assert!(next_pdu(&mut raw).unwrap().is_none());
        raw.extend_from_slice(&[0; 8]);
        assert_eq!(next_pdu(&mut raw).unwrap().unwrap().len(), 24);
        assert!(raw.is_empty());
    }
}
