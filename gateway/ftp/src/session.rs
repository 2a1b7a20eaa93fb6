//! The state of one FTP session and what each command means in it: a plain state machine, no sockets, no file layer.
//! [`Session::on_command`] says what to do ([`Step`]); what the file layer answered comes back through [`Session::apply`].

use std::net::SocketAddr;
use std::sync::Arc;

use sluice_vfs::Identity;

use crate::cmd;
use crate::codec::command::{Command, HashAlgorithm, Secret, TransferType};
use crate::codec::facts::FactSet;
use crate::codec::host_port::EpsvArgument;
use crate::options::TlsMode;
use crate::path::VirtualPath;
use crate::reply::{self, Reply};
use crate::work::Work;

/// What the session may do, fixed at connect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionRules {
    pub(crate) tls: TlsMode,
    pub(crate) active_mode: bool,
    pub(crate) login_attempts_max: u32,
    /// The client's address: the only place that PORT and EPRT may name.
    pub(crate) peer: SocketAddr,
    /// Whether the connection began with TLS.
    pub(crate) implicit_tls: bool,
}

/// How far the login is.
#[derive(Clone, Debug)]
pub(crate) enum Login {
    /// No USER yet.
    None,
    /// USER given, PASS awaited.
    Named(String),
    /// Logged in.
    Done(Arc<Identity>),
}

/// Protection of data connections (RFC 4217 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    Clear,
    Private,
}

/// How a data connection will be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataPlan {
    /// PASV.
    Passive,
    /// EPSV, with the family that the client wants.
    ExtendedPassive(EpsvArgument),
    /// PORT, EPRT.
    Active(SocketAddr),
}

/// What is to be done about a command.
pub(crate) enum Step {
    /// Answer.
    Reply(Reply),
    /// Ask the file layer; the reply comes from there.
    Work(Work),
    /// Prepare a data connection.
    Data(DataPlan),
    /// Answer, then begin TLS on the control connection.
    StartTls(Reply),
    /// Answer and forget about a prepared data connection.
    Reset(Reply),
    /// Nothing is running that could be aborted.
    NothingToAbort,
    /// Tell how the session stands.
    Status,
    /// Answer and close.
    Close(Reply),
}

/// What the file layer's answer changes in the session.
pub(crate) enum Change {
    LoggedIn(Arc<Identity>),
    LoginFailed,
    Directory(VirtualPath),
    RenameFrom(VirtualPath),
}

/// One session.
pub(crate) struct Session {
    pub(crate) rules: SessionRules,
    pub(crate) login: Login,
    pub(crate) failed_logins: u32,
    pub(crate) control_tls: bool,
    pub(crate) buffer_size_set: bool,
    pub(crate) protection: Protection,
    pub(crate) transfer_type: TransferType,
    pub(crate) cwd: VirtualPath,
    pub(crate) restart: u64,
    /// Length of the next upload, said ahead (ALLO).
    pub(crate) announced: Option<u64>,
    pub(crate) range: Option<(u64, u64)>,
    pub(crate) rename_from: Option<VirtualPath>,
    pub(crate) epsv_only: bool,
    pub(crate) facts: FactSet,
    pub(crate) hash: HashAlgorithm,
}

impl Session {
    /// A fresh session.
    pub(crate) fn new(rules: SessionRules) -> Session {
        Session {
            login: Login::None,
            failed_logins: 0,
            control_tls: rules.implicit_tls,
            buffer_size_set: rules.implicit_tls,
            protection: if rules.implicit_tls {
                Protection::Private
            } else {
                Protection::Clear
            },
            transfer_type: TransferType::Ascii,
            cwd: VirtualPath::default(),
            restart: 0,
            announced: None,
            range: None,
            rename_from: None,
            epsv_only: false,
            facts: FactSet::default(),
            hash: HashAlgorithm::Sha256,
            rules,
        }
    }

    /// Who is logged in.
    pub(crate) fn identity(&self) -> Option<&Arc<Identity>> {
        match &self.login {
            Login::Done(identity) => Some(identity),
            Login::None | Login::Named(_) => None,
        }
    }

    /// REIN: everything but the connection and its TLS begins anew; failed logins stay counted.
    pub(crate) fn reinitialize(&mut self) {
        let (control_tls, failed_logins) = (self.control_tls, self.failed_logins);
        let (protection, buffer_size_set) = (self.protection, self.buffer_size_set);
        *self = Session::new(self.rules);
        self.control_tls = control_tls;
        self.failed_logins = failed_logins;
        self.protection = protection;
        self.buffer_size_set = buffer_size_set;
    }

    /// Decides about one command.
    pub(crate) fn on_command(&mut self, command: Command) -> Step {
        if self.identity().is_none() && !allowed_before_login(&command) {
            return Step::Reply(if self.tls_is_missing() {
                reply::TLS_FIRST
            } else {
                reply::LOGIN_FIRST
            });
        }
        // RNTO must follow its RNFR (RFC 959 4.1.3).
        let rename_from = self.rename_from.take();
        match command {
            Command::User(_)
            | Command::Pass(_)
            | Command::Acct
            | Command::Rein
            | Command::Quit
            | Command::Auth(_)
            | Command::Pbsz
            | Command::Prot(_)
            | Command::Ccc => cmd::login::decide(self, command),
            Command::Type(_)
            | Command::Mode(_)
            | Command::Stru(_)
            | Command::Pasv
            | Command::Epsv(_)
            | Command::Port(_)
            | Command::Eprt(_)
            | Command::Rest(_)
            | Command::Rang(_)
            | Command::Allo(_)
            | Command::Abor => cmd::parameters::decide(self, command),
            Command::Retr(path) => cmd::retr::decide(self, &path),
            Command::Stor(_) | Command::Appe(_) | Command::Stou(_) => {
                cmd::stor::decide(self, &command)
            }
            Command::List(_)
            | Command::Nlst(_)
            | Command::Mlsd(_)
            | Command::Mlst(_)
            | Command::Stat(_) => cmd::list::decide(self, &command),
            Command::Cwd(_) | Command::Cdup | Command::Pwd | Command::Mkd(_) | Command::Rmd(_) => {
                cmd::directory::decide(self, &command)
            }
            Command::Rnto(path) => cmd::file::rename_to(self, rename_from, &path),
            Command::Dele(_)
            | Command::Rnfr(_)
            | Command::Size(_)
            | Command::Mdtm(_)
            | Command::Mfmt { .. }
            | Command::Mfct { .. } => cmd::file::decide(self, &command),
            Command::Hash(_) | Command::XHash { .. } => cmd::hash::decide(self, command),
            Command::Site(site) => cmd::site::decide(self, &site),
            Command::Feat
            | Command::Opts { .. }
            | Command::Lang(_)
            | Command::Clnt
            | Command::Noop
            | Command::Help
            | Command::Syst => cmd::info::decide(self, command),
        }
    }

    /// Takes over what the file layer answered. `Some` is a reply that ends the session.
    pub(crate) fn apply(&mut self, change: Change) -> Option<Reply> {
        match change {
            Change::LoggedIn(identity) => {
                self.login = Login::Done(identity);
                self.failed_logins = 0;
            }
            Change::LoginFailed => {
                self.login = Login::None;
                self.failed_logins += 1;
                if self.failed_logins >= self.rules.login_attempts_max {
                    return Some(reply::LOGIN_GIVEN_UP);
                }
            }
            Change::Directory(path) => self.cwd = path,
            Change::RenameFrom(path) => self.rename_from = Some(path),
        }
        None
    }

    /// Whether the control connection still needs TLS.
    pub(crate) fn tls_is_missing(&self) -> bool {
        self.rules.tls == TlsMode::Required && !self.control_tls
    }

    /// A refusal if data connections must be protected and are not.
    pub(crate) fn protection_missing(&self) -> Option<Step> {
        (self.rules.tls == TlsMode::Required && self.protection == Protection::Clear)
            .then_some(Step::Reply(reply::PROT_FIRST))
    }

    /// An argument as an absolute path, or the reply that refuses it.
    pub(crate) fn resolve(&self, argument: &str) -> Result<VirtualPath, Step> {
        self.cwd
            .join(argument)
            .map_err(|error| Step::Reply(reply::refused(&self.cwd, &error)))
    }

    /// Asks the file layer about the path in `argument`.
    pub(crate) fn work(&self, argument: &str, make: impl FnOnce(VirtualPath) -> Work) -> Step {
        match self.resolve(argument) {
            Ok(path) => Step::Work(make(path)),
            Err(refusal) => refusal,
        }
    }

    /// As [`Session::work`], for what needs a data connection.
    pub(crate) fn transfer(&self, argument: &str, make: impl FnOnce(VirtualPath) -> Work) -> Step {
        match self.protection_missing() {
            Some(refusal) => refusal,
            None => self.work(argument, make),
        }
    }

    /// The password of a login in progress goes straight into the work.
    pub(crate) fn take_login(&mut self, password: Secret) -> Option<Work> {
        match std::mem::replace(&mut self.login, Login::None) {
            Login::Named(user) => Some(Work::Login { user, password }),
            other => {
                self.login = other;
                None
            }
        }
    }
}

/// What RFC 959, 2228, 2389 and 2640 let a stranger ask.
fn allowed_before_login(command: &Command) -> bool {
    matches!(
        command,
        Command::User(_)
            | Command::Pass(_)
            | Command::Acct
            | Command::Rein
            | Command::Quit
            | Command::Auth(_)
            | Command::Pbsz
            | Command::Prot(_)
            | Command::Ccc
            | Command::Feat
            | Command::Opts { .. }
            | Command::Lang(_)
            | Command::Clnt
            | Command::Noop
            | Command::Help
            | Command::Syst
            | Command::Abor
    )
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
