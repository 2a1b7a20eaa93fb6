//! Portmapper and rpcbind answers: every program is on this head's own TCP port.

use std::sync::Arc;

use bytes::Bytes;
use sluice_nfs_wire::portmap::{self, IPPROTO_TCP, Mapping, Rpcb};
use sluice_nfs_wire::rpc::ReplyHead;
use sluice_nfs_wire::xdr::{Encoder, Opaque, Xdr};
use sluice_nfs_wire::{mount, nfs3, nlm, nsm};

use crate::conn::{Connection, IncomingCall};
use crate::dispatch::success;
use crate::server::Head;

/// All programs and versions that the head serves.
const SERVED: [(u32, u32); 11] = [
    (portmap::PROGRAM, 2),
    (portmap::PROGRAM, 3),
    (portmap::PROGRAM, 4),
    (nfs3::PROGRAM, 3),
    (mount::PROGRAM, 1),
    (mount::PROGRAM, 2),
    (mount::PROGRAM, 3),
    (nlm::PROGRAM, 1),
    (nlm::PROGRAM, 3),
    (nlm::PROGRAM, 4),
    (nsm::PROGRAM, nsm::VERSION),
];
/// UDP in a mapping.
const IPPROTO_UDP: u32 = 17;

pub(crate) fn answer(
    head: &Arc<Head>,
    connection: &Connection,
    call: IncomingCall,
) -> Result<Vec<Bytes>, ReplyHead> {
    let version = call.header.version;
    let mut args = call.args;
    let mut out = success(call.xid);
    let here = Here::new(head, connection);
    match (call.header.procedure, version) {
        (portmap::PROC_NULL, _) => {}
        // Nobody may register anything here.
        (portmap::PROC_SET | portmap::PROC_UNSET, _) => out.put(&false),
        (portmap::PROC_GET, portmap::PORTMAP_VERSION) => {
            let wanted: Mapping = args.get().map_err(|_| ReplyHead::GarbageArgs)?;
            let served = wanted.protocol == IPPROTO_TCP && serves(wanted.program, wanted.version);
            out.u32(if served {
                here.port_of(wanted.program)
            } else {
                0
            });
        }
        (portmap::PROC_GET, _) => {
            let wanted: Rpcb = args.get().map_err(|_| ReplyHead::GarbageArgs)?;
            let tcp = wanted.netid.0.is_empty() || wanted.netid.0.starts_with(b"tcp");
            let served = tcp && serves(wanted.program, wanted.version);
            out.opaque(
                if served {
                    here.address_of(wanted.program)
                } else {
                    String::new()
                }
                .as_bytes(),
            );
        }
        (portmap::PROC_DUMP, portmap::PORTMAP_VERSION) => {
            list(&mut out, |program, version| Mapping {
                program,
                version,
                protocol: IPPROTO_TCP,
                port: here.port_of(program),
            })
        }
        (portmap::PROC_DUMP, _) => list(&mut out, |program, version| Rpcb {
            program,
            version,
            netid: Opaque::copy_of("tcp"),
            address: Opaque::copy_of(here.address_of(program)),
            owner: Opaque::copy_of("sluice"),
        }),
        _ => return Err(ReplyHead::ProcUnavail),
    }
    Ok(out.into_segments())
}

/// Answers a question that came in a datagram: over UDP there is only the status monitor, on the port that was asked.
pub(crate) fn answer_datagram(port: u16, call: IncomingCall) -> Result<Vec<Bytes>, ReplyHead> {
    let mut args = call.args;
    let mut out = success(call.xid);
    let monitor = |program, version| (program, version) == (nsm::PROGRAM, nsm::VERSION);
    match (call.header.procedure, call.header.version) {
        (portmap::PROC_NULL, _) => {}
        (portmap::PROC_GET, portmap::PORTMAP_VERSION) => {
            let wanted: Mapping = args.get().map_err(|_| ReplyHead::GarbageArgs)?;
            let served = wanted.protocol == IPPROTO_UDP && monitor(wanted.program, wanted.version);
            out.u32(if served { u32::from(port) } else { 0 });
        }
        (portmap::PROC_GET, version) if version <= portmap::RPCBIND_VERSIONS.1 => {
            let wanted: Rpcb = args.get().map_err(|_| ReplyHead::GarbageArgs)?;
            let udp = wanted.netid.0.is_empty() || wanted.netid.0.starts_with(b"udp");
            let served = udp && monitor(wanted.program, wanted.version);
            let address = match served {
                true => format!("0.0.0.0.{}.{}", port >> 8, port & 0xFF),
                false => String::new(),
            };
            out.opaque(address.as_bytes());
        }
        _ => return Err(ReplyHead::ProcUnavail),
    }
    Ok(out.into_segments())
}

/// The ports as the asking client has to use them.
struct Here {
    /// Where the client came in.
    local_port: u16,
    /// Where the programs other than portmapper are.
    main_port: u16,
}

impl Here {
    fn new(head: &Head, connection: &Connection) -> Self {
        let local_port = connection.local_port;
        let main_port = if local_port == crate::server::PORTMAP_PORT {
            head.main_port
        } else {
            local_port
        };
        Self {
            local_port,
            main_port,
        }
    }

    fn port_of(&self, program: u32) -> u32 {
        let port = if program == portmap::PROGRAM {
            self.local_port
        } else {
            self.main_port
        };
        u32::from(port)
    }

    /// A universal address (RFC 5665 5.2.3.3) with the unspecified host: clients take the one they asked.
    fn address_of(&self, program: u32) -> String {
        let port = self.port_of(program);
        format!("0.0.0.0.{}.{}", port >> 8, port & 0xFF)
    }
}

fn serves(program: u32, version: u32) -> bool {
    SERVED.contains(&(program, version))
}

fn list<T: Xdr>(out: &mut Encoder, item: impl Fn(u32, u32) -> T) {
    for (program, version) in SERVED {
        out.put(&true);
        out.put(&item(program, version));
    }
    out.put(&false);
}
