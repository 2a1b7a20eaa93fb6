//! USER, PASS, ACCT, REIN, QUIT (RFC 959 4.1.1) and AUTH, PBSZ, PROT, CCC (RFC 2228, 4217).

use crate::codec::command::{Command, ProtLevel, Secret};
use crate::context::Context;
use crate::options::TlsMode;
use crate::reply::{self, Reply};
use crate::session::{Change, Login, Protection, Session, Step};
use crate::work::Done;

pub(crate) fn decide(session: &mut Session, command: Command) -> Step {
    match command {
        Command::User(name) => user(session, name),
        Command::Pass(password) => pass(session, password),
        Command::Acct => Step::Reply(Reply::fixed(202, "No account is needed.")),
        Command::Rein => {
            session.reinitialize();
            Step::Reset(Reply::fixed(220, "Ready for a new user."))
        }
        Command::Quit => Step::Close(Reply::fixed(221, "Goodbye.")),
        Command::Auth(mechanism) => auth(session, &mechanism),
        Command::Pbsz => buffer_size(session),
        Command::Prot(level) => protection(session, level),
        _ => Step::Reply(if session.rules.tls == TlsMode::Required {
            reply::POLICY_REFUSES
        } else {
            Reply::fixed(533, "A protected control connection stays protected.")
        }),
    }
}

fn user(session: &mut Session, name: String) -> Step {
    if session.tls_is_missing() {
        return Step::Reply(reply::TLS_FIRST);
    }
    session.login = Login::Named(name);
    Step::Reply(Reply::fixed(331, "Password, please."))
}

fn pass(session: &mut Session, password: Secret) -> Step {
    if session.tls_is_missing() {
        return Step::Reply(reply::TLS_FIRST);
    }
    match session.take_login(password) {
        Some(work) => Step::Work(work),
        None => Step::Reply(Reply::fixed(503, "Send USER first.")),
    }
}

fn auth(session: &Session, mechanism: &str) -> Step {
    if session.rules.tls == TlsMode::Off {
        return Step::Reply(Reply::fixed(502, "TLS is not offered here."));
    }
    if session.control_tls {
        return Step::Reply(Reply::fixed(503, "TLS is active already."));
    }
    match mechanism.to_ascii_uppercase().as_str() {
        "TLS" | "TLS-C" | "SSL" | "TLS-P" => {
            Step::StartTls(Reply::fixed(234, "Begin the TLS handshake."))
        }
        _ => Step::Reply(Reply::fixed(504, "Only AUTH TLS is offered.")),
    }
}

fn buffer_size(session: &mut Session) -> Step {
    if !session.control_tls {
        return Step::Reply(Reply::fixed(503, "Send AUTH TLS first."));
    }
    session.buffer_size_set = true;
    Step::Reply(Reply::fixed(200, "PBSZ=0"))
}

fn protection(session: &mut Session, level: ProtLevel) -> Step {
    if !session.control_tls {
        return Step::Reply(Reply::fixed(503, "Send AUTH TLS first."));
    }
    if !session.buffer_size_set {
        return Step::Reply(Reply::fixed(503, "Send PBSZ 0 first."));
    }
    match level {
        ProtLevel::Private => {
            session.protection = Protection::Private;
            Step::Reply(Reply::fixed(200, "Data connections will be protected."))
        }
        ProtLevel::Clear if session.rules.tls == TlsMode::Required => {
            Step::Reply(reply::POLICY_REFUSES)
        }
        ProtLevel::Clear => {
            session.protection = Protection::Clear;
            Step::Reply(Reply::fixed(200, "Data connections will be in the clear."))
        }
        ProtLevel::Unsupported => {
            Step::Reply(Reply::fixed(536, "TLS knows PROT P and PROT C only."))
        }
    }
}

/// Checks a password. The delay for wrong ones is waited out inside.
pub(crate) async fn check(cx: &Context, user: &str, password: &Secret) -> Done {
    match cx
        .vfs
        .accounts()
        .check_password(user, &password.0, cx.peer)
        .await
    {
        Ok(identity) => {
            tracing::info!(user = %identity.name, "logged in");
            Done {
                reply: Reply::text(230, format!("Welcome, {}.", identity.name)),
                change: Some(Change::LoggedIn(identity)),
            }
        }
        Err(refused) => {
            tracing::warn!(user, reason = %refused, "login refused");
            Done {
                reply: reply::login_refused(refused),
                change: Some(Change::LoginFailed),
            }
        }
    }
}
