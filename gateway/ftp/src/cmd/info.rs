//! FEAT, OPTS (RFC 2389), LANG (RFC 2640), CLNT, NOOP, HELP, SYST.

use crate::codec::command::{Command, HashAlgorithm};
use crate::codec::facts::FactSet;
use crate::options::TlsMode;
use crate::reply::{self, Reply};
use crate::session::{Session, Step};

pub(crate) fn decide(session: &mut Session, command: Command) -> Step {
    Step::Reply(match command {
        Command::Feat => reply::features(
            session.rules.tls != TlsMode::Off,
            session.facts,
            session.hash,
        ),
        Command::Opts { name, value } => options(session, &name, &value),
        Command::Lang(tag) => language(&tag),
        Command::Clnt => Reply::fixed(200, "Noted."),
        Command::Help => reply::help(),
        Command::Syst => Reply::fixed(215, "UNIX Type: L8"),
        _ => Reply::fixed(200, "Still here."),
    })
}

fn options(session: &mut Session, name: &str, value: &str) -> Reply {
    match name {
        "UTF8" | "UTF-8" => match value.to_ascii_uppercase().as_str() {
            "" | "ON" | "NLST" => Reply::fixed(200, "Names are UTF-8."),
            _ => Reply::fixed(504, "Names are always UTF-8."),
        },
        "MLST" => {
            session.facts = FactSet::select(value);
            Reply::text(200, format!("MLST OPTS {}", session.facts.names()))
        }
        "HASH" if value.is_empty() => Reply::text(200, session.hash.name().to_owned()),
        "HASH" => match HashAlgorithm::from_name(value) {
            Some(algorithm) => {
                session.hash = algorithm;
                Reply::text(200, algorithm.name().to_owned())
            }
            None => Reply::fixed(504, "Unknown hash algorithm; FEAT lists them."),
        },
        _ => Reply::fixed(501, "No options for that feature."),
    }
}

fn language(tag: &str) -> Reply {
    let primary = tag.split('-').next().unwrap_or_default();
    if primary.is_empty() || primary.eq_ignore_ascii_case("EN") {
        Reply::fixed(200, "Replies are in English.")
    } else {
        Reply::fixed(504, "Replies are in English only.")
    }
}
