//! Parameters of transfers: TYPE, MODE, STRU, PASV, EPSV, PORT, EPRT, REST, RANG, ALLO (RFC 959 4.1.2, 2428, 3659) and ABOR.

use std::net::SocketAddr;

use crate::codec::command::{Command, TransferType};
use crate::codec::host_port::EpsvArgument;
use crate::reply::{self, Reply};
use crate::session::{DataPlan, Session, Step};

/// Ports below belong to system services; a data connection never goes there (RFC 2577 3).
const ACTIVE_PORT_MIN: u16 = 1024;

const EPSV_ONLY: Reply = Reply::fixed(501, "EPSV ALL was sent; only EPSV is taken now.");

pub(crate) fn decide(session: &mut Session, command: Command) -> Step {
    match command {
        Command::Type(kind) => transfer_type(session, kind),
        Command::Mode('S') => Step::Reply(Reply::fixed(200, "Mode is stream.")),
        Command::Mode(_) => Step::Reply(Reply::fixed(504, "Only MODE S is offered.")),
        Command::Stru('F') => Step::Reply(Reply::fixed(200, "Structure is file.")),
        Command::Stru(_) => Step::Reply(Reply::fixed(504, "Only STRU F is offered.")),
        Command::Pasv if session.epsv_only => Step::Reply(EPSV_ONLY),
        Command::Pasv => Step::Data(DataPlan::Passive),
        Command::Epsv(argument) => extended_passive(session, argument),
        Command::Port(to) => active(session, to),
        Command::Eprt(Ok(to)) => active(session, to),
        Command::Eprt(Err(_)) => Step::Reply(Reply::fixed(
            522,
            "Network protocol not supported, use (1,2)",
        )),
        Command::Rest(offset) => {
            session.restart = offset;
            session.range = None;
            Step::Reply(reply::restarting(offset))
        }
        Command::Rang(range) => {
            session.range = range;
            session.restart = 0;
            Step::Reply(match range {
                Some((start, end)) => Reply::text(350, format!("Range set from {start} to {end}.")),
                None => Reply::fixed(350, "Range reset."),
            })
        }
        Command::Allo(bytes) => {
            session.announced = bytes;
            Step::Reply(Reply::fixed(202, "No allocation is needed."))
        }
        _ => Step::NothingToAbort,
    }
}

fn transfer_type(session: &mut Session, kind: Option<TransferType>) -> Step {
    let Some(kind) = kind else {
        return Step::Reply(Reply::fixed(
            504,
            "Types A (non-print), I and L 8 are offered.",
        ));
    };
    session.transfer_type = kind;
    Step::Reply(match kind {
        TransferType::Ascii => Reply::fixed(200, "Type is ASCII."),
        TransferType::Image => Reply::fixed(200, "Type is binary."),
    })
}

fn extended_passive(session: &mut Session, argument: EpsvArgument) -> Step {
    match argument {
        EpsvArgument::All => {
            session.epsv_only = true;
            Step::Reply(Reply::fixed(200, "Only EPSV from now on."))
        }
        EpsvArgument::OtherFamily => Step::Reply(Reply::fixed(
            522,
            "Network protocol not supported, use (1,2)",
        )),
        wanted => Step::Data(DataPlan::ExtendedPassive(wanted)),
    }
}

fn active(session: &Session, to: SocketAddr) -> Step {
    if session.epsv_only {
        return Step::Reply(EPSV_ONLY);
    }
    if !session.rules.active_mode {
        return Step::Reply(Reply::fixed(
            502,
            "Active mode is not offered; use PASV or EPSV.",
        ));
    }
    let own = to.ip().to_canonical() == session.rules.peer.ip().to_canonical();
    if !own || to.port() < ACTIVE_PORT_MIN {
        return Step::Reply(reply::foreign_port(session.rules.peer));
    }
    // Our view of the client's address, which knows the scope of a link-local one.
    let mut own_address = session.rules.peer;
    own_address.set_port(to.port());
    Step::Data(DataPlan::Active(own_address))
}
