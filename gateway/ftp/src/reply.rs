//! Every reply text of this head, and the one place where the file layer's outcomes become reply codes (RFC 959 4.2).
//! A text never carries a secret; names from clients can't break a line.

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::{BufMut, BytesMut};
use sluice_vfs::{Conflict, LoginRefused, Timestamp, VfsError};

use crate::codec::command::{HashAlgorithm, ParseError};
use crate::codec::facts::FactSet;
use crate::codec::{host_port, time};
use crate::path::VirtualPath;

/// One reply: a code and its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    code: u16,
    first: Cow<'static, str>,
    /// Lines between the first and the last; with any, or with `last`, the reply is a multi-line one.
    middle: Vec<String>,
    last: Option<&'static str>,
}

impl Reply {
    /// A one-line reply with a fixed text.
    pub(crate) const fn fixed(code: u16, text: &'static str) -> Reply {
        Reply {
            code,
            first: Cow::Borrowed(text),
            middle: Vec::new(),
            last: None,
        }
    }

    /// A one-line reply.
    pub(crate) fn text(code: u16, text: String) -> Reply {
        Reply {
            code,
            first: Cow::Owned(text),
            middle: Vec::new(),
            last: None,
        }
    }

    /// A multi-line reply.
    pub(crate) fn lines(
        code: u16,
        first: &'static str,
        middle: Vec<String>,
        last: &'static str,
    ) -> Reply {
        Reply {
            code,
            first: Cow::Borrowed(first),
            middle,
            last: Some(last),
        }
    }

    /// Its code.
    pub(crate) fn code(&self) -> u16 {
        self.code
    }

    /// Appends the wire form (RFC 959 4.2). A middle line that begins with a digit is padded, so none can look
    /// like the last one.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.reserve(self.first.len() + 8);
        out.put_slice(self.code.to_string().as_bytes());
        out.put_u8(if self.last.is_some() { b'-' } else { b' ' });
        put_line(out, &self.first);
        if let Some(last) = self.last {
            for line in &self.middle {
                if line.starts_with(|c: char| c.is_ascii_digit()) {
                    out.put_u8(b' ');
                }
                put_line(out, line);
            }
            out.put_slice(self.code.to_string().as_bytes());
            out.put_u8(b' ');
            put_line(out, last);
        }
    }
}

/// Control characters become `?`: a name with a line break must not forge a reply.
fn put_line(out: &mut BytesMut, text: &str) {
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        out.extend(
            text.bytes()
                .map(|byte| if byte.is_ascii_control() { b'?' } else { byte }),
        );
    } else {
        out.put_slice(text.as_bytes());
    }
    out.put_slice(b"\r\n");
}

/// A path between quotes, inner quotes doubled (RFC 959 appendix II).
pub(crate) fn quoted(path: &VirtualPath) -> String {
    format!("\"{}\"", path.to_string().replace('"', "\"\""))
}

/// The file layer's refusal of a request about `path`.
pub(crate) fn refused(path: &VirtualPath, error: &VfsError) -> Reply {
    let text = match error {
        VfsError::Conflict(conflict) => in_use(path, conflict),
        VfsError::Delay => format!("{} is in use; try again in a moment.", quoted(path)),
        VfsError::IsSymlink(target) => format!(
            "{} is a symbolic link that can't be followed (to {target}).",
            quoted(path)
        ),
        VfsError::PolicyDenied(rule) => {
            format!(
                "{}: writing over FTP is denied by policy rule {rule}.",
                quoted(path)
            )
        }
        VfsError::CrossShare => "Can't rename between shares; copy and delete instead.".to_owned(),
        other => format!("{}: {other}.", quoted(path)),
    };
    Reply::text(code_of(error), text)
}

/// The reply code of every outcome; exhaustive, so a new outcome can't be forgotten.
fn code_of(error: &VfsError) -> u16 {
    match error {
        VfsError::NotFound
        | VfsError::PathNotFound
        | VfsError::Exists
        | VfsError::NotDirectory
        | VfsError::IsDirectory
        | VfsError::IsSymlink(_)
        | VfsError::NotEmpty
        | VfsError::AccessDenied
        | VfsError::NotOwner
        | VfsError::ReadOnlyAttribute
        | VfsError::CannotDelete
        | VfsError::PolicyDenied(_)
        | VfsError::ReadOnlyShare
        | VfsError::Stale
        | VfsError::TooManyLinks => 550,
        VfsError::Conflict(_)
        | VfsError::Delay
        | VfsError::DeletePending
        | VfsError::Deadlock
        | VfsError::NotSame
        | VfsError::RangeNotLocked
        | VfsError::RangeInvalid
        | VfsError::Limit(_) => 450,
        VfsError::NameInvalid
        | VfsError::NameTooLong
        | VfsError::CrossShare
        | VfsError::IntoItself => 553,
        VfsError::NoSpace => 452,
        VfsError::QuotaExceeded | VfsError::TooLarge => 552,
        VfsError::Invalid(_) => 501,
        VfsError::NotSupported(_) => 504,
        VfsError::Cancelled => 426,
        VfsError::OpenLost | VfsError::Corrupt | VfsError::Unavailable(_) | VfsError::Io => 451,
    }
}

fn in_use(path: &VirtualPath, conflict: &Conflict) -> String {
    let holder = &conflict.holder;
    let user = if holder.user.is_empty() {
        "an unknown user"
    } else {
        &holder.user
    };
    let machine = if holder.client_name.is_empty() {
        holder.client.clone()
    } else {
        format!("{} ({})", holder.client, holder.client_name)
    };
    let retry_s = conflict.retry_after.as_millis().div_ceil(1_000).max(1);
    format!(
        "{} is in use by {user} over {} from {machine} on node {} since {} ({}); try again in {retry_s} s.",
        quoted(path),
        holder.protocol.name(),
        holder.node,
        time::iso(holder.since),
        holder.what,
    )
}

/// The reply to a line that is no command.
pub(crate) fn not_a_command(error: &ParseError) -> Reply {
    match error {
        ParseError::Empty => Reply::fixed(500, "Send a command."),
        ParseError::UnknownVerb(verb) if verb.is_empty() => Reply::fixed(500, "Unknown command."),
        ParseError::UnknownVerb(verb) => Reply::text(500, format!("Unknown command {verb}.")),
        ParseError::NotImplemented(verb) => {
            Reply::text(502, format!("{verb} is not offered here."))
        }
        ParseError::Syntax(usage) => {
            Reply::text(501, format!("Wrong argument; expected: {usage}."))
        }
        ParseError::NotUtf8 => Reply::fixed(501, "Names must be UTF-8."),
    }
}

/// Why a login was refused.
pub(crate) fn login_refused(refused: LoginRefused) -> Reply {
    match refused {
        LoginRefused::Wrong => Reply::fixed(530, "Unknown user or wrong password."),
        LoginRefused::Throttled(wait) => Reply::text(
            530,
            format!(
                "Too many failed logins; try again in {} s.",
                wait.as_secs().max(1)
            ),
        ),
        LoginRefused::Unavailable => Reply::fixed(
            451,
            "Accounts can't be read at the moment; try again later.",
        ),
    }
}

/// 227 (RFC 959).
pub(crate) fn passive(host: Ipv4Addr, port: u16) -> Reply {
    Reply::text(
        227,
        format!(
            "Entering Passive Mode {}.",
            host_port::format_pasv(host, port)
        ),
    )
}

/// 229 (RFC 2428).
pub(crate) fn extended_passive(port: u16) -> Reply {
    Reply::text(229, format!("Entering Extended Passive Mode (|||{port}|)."))
}

/// No port of the passive range could be bound.
pub(crate) fn no_passive_port(error: &std::io::Error) -> Reply {
    Reply::text(
        425,
        format!("No passive port is free ({}); try again.", error.kind()),
    )
}

/// A refused PORT or EPRT.
pub(crate) fn foreign_port(peer: SocketAddr) -> Reply {
    Reply::text(
        504,
        format!(
            "Data connections go to your own address ({}), ports 1024 and above, only.",
            peer.ip()
        ),
    )
}

/// 150 of a download.
pub(crate) fn sending(path: &VirtualPath, length: u64) -> Reply {
    Reply::text(150, format!("Sending {} ({length} bytes).", quoted(path)))
}

/// 150 of an upload. STOU's form is fixed by RFC 1123 4.1.2.9.
pub(crate) fn receiving(path: &VirtualPath, unique: bool) -> Reply {
    if unique {
        return Reply::text(150, format!("FILE: {}", path.name().unwrap_or("")));
    }
    Reply::text(150, format!("Ready to receive {}.", quoted(path)))
}

/// 226 of a download.
pub(crate) fn sent(bytes: u64) -> Reply {
    Reply::text(226, format!("Transfer complete, {bytes} bytes."))
}

/// 226 of an upload: sent only after the commit, so it means durable.
pub(crate) fn stored(bytes: u64, size: u64) -> Reply {
    Reply::text(
        226,
        format!("Stored, {bytes} bytes received, {size} in all."),
    )
}

/// 226 of an upload that the policy made a conflicted copy.
pub(crate) fn stored_as_copy(bytes: u64, asked: &VirtualPath, copy: &VirtualPath) -> Reply {
    Reply::text(
        226,
        format!(
            "{} was changed by others meanwhile; your {bytes} bytes are the conflicted copy {}.",
            quoted(asked),
            quoted(copy)
        ),
    )
}

/// The data connection ended before the transfer did.
pub(crate) fn data_lost(upload: bool, why: &str) -> Reply {
    let effect = if upload { "; nothing was changed" } else { "" };
    Reply::text(426, format!("Data connection lost ({why}){effect}."))
}

/// ABOR, or the control connection went away.
pub(crate) fn aborted(upload: bool) -> Reply {
    if upload {
        Reply::fixed(426, "Transfer aborted; nothing was changed.")
    } else {
        Reply::fixed(426, "Transfer aborted.")
    }
}

/// The data connection did not come about.
pub(crate) fn no_data_connection(why: &str) -> Reply {
    Reply::text(425, format!("No data connection: {why}."))
}

/// TLS on the data connection failed (RFC 4217 4).
pub(crate) fn data_tls_failed(why: &str) -> Reply {
    Reply::text(522, format!("TLS on the data connection failed: {why}."))
}

/// A name at the top, where only shares are.
pub(crate) fn only_shares() -> Reply {
    Reply::fixed(
        550,
        "Only shares are here, made by the administrator; change into one first (LIST / shows them).",
    )
}

/// SIZE, HASH and the like on something without content.
pub(crate) fn no_document(path: &VirtualPath) -> Reply {
    Reply::text(550, format!("{} is not a document.", quoted(path)))
}

/// 257 of MKD.
pub(crate) fn made(path: &VirtualPath) -> Reply {
    Reply::text(257, format!("{} created.", quoted(path)))
}

/// 257 of PWD.
pub(crate) fn current(path: &VirtualPath) -> Reply {
    Reply::text(257, format!("{} is the current directory.", quoted(path)))
}

/// 250 of CWD.
pub(crate) fn changed_to(path: &VirtualPath) -> Reply {
    Reply::text(250, format!("Now in {}.", quoted(path)))
}

/// 213 of MFMT and MFCT.
pub(crate) fn fact_set(fact: &'static str, value: Timestamp, path: &VirtualPath) -> Reply {
    Reply::text(213, format!("{fact}={}; {path}", time::compact(value)))
}

/// 213 of HASH (draft-bryan-ftpext-hash 3.2): the range is inclusive.
pub(crate) fn hash(
    algorithm: HashAlgorithm,
    start: u64,
    end: u64,
    digest: &str,
    path: &VirtualPath,
) -> Reply {
    Reply::text(
        213,
        format!(
            "{} {start}-{} {digest} {path}",
            algorithm.name(),
            end.saturating_sub(1).max(start)
        ),
    )
}

/// 350 of REST.
pub(crate) fn restarting(offset: u64) -> Reply {
    Reply::text(350, format!("Restarting at {offset}."))
}

/// REST beyond the document's end (RFC 3659 5.3).
pub(crate) fn beyond_end(path: &VirtualPath, size: u64) -> Reply {
    Reply::text(
        554,
        format!(
            "The restart point lies beyond the end of {} ({size} bytes).",
            quoted(path)
        ),
    )
}

/// TLS wanted first.
pub(crate) const TLS_FIRST: Reply =
    Reply::fixed(530, "TLS is required here: send AUTH TLS, then log in.");
/// Data protection wanted first (RFC 4217 10).
pub(crate) const PROT_FIRST: Reply = Reply::fixed(
    521,
    "Data connections must be protected here: send PBSZ 0 and PROT P.",
);
/// PROT C or CCC where TLS is required.
pub(crate) const POLICY_REFUSES: Reply =
    Reply::fixed(534, "Refused: this server requires protected connections.");
/// Anything before the login.
pub(crate) const LOGIN_FIRST: Reply = Reply::fixed(530, "Log in with USER and PASS first.");
/// Too long without a command.
pub(crate) const IDLE: Reply = Reply::fixed(421, "Idle for too long; closing the connection.");
/// Graceful stop.
pub(crate) const STOPPING: Reply = Reply::fixed(421, "The server is stopping; try again later.");
/// The total limit.
pub(crate) const FULL: Reply = Reply::fixed(421, "Too many connections; try again later.");
/// The limit of one address.
pub(crate) const FULL_ADDRESS: Reply = Reply::fixed(421, "Too many connections from your address.");
/// Too many wrong passwords on one connection.
pub(crate) const LOGIN_GIVEN_UP: Reply =
    Reply::fixed(421, "Too many failed logins; closing the connection.");
/// A line over the limit.
pub(crate) const LINE_TOO_LONG: Reply = Reply::fixed(500, "The command line is too long.");
/// A transfer without PASV, EPSV, PORT or EPRT before it.
pub(crate) const DATA_FIRST: Reply = Reply::fixed(425, "Send PASV, EPSV, PORT or EPRT first.");

/// FEAT (RFC 2389 3.2).
pub(crate) fn features(tls: bool, facts: FactSet, hash: HashAlgorithm) -> Reply {
    let mut lines = Vec::new();
    if tls {
        lines.extend(["AUTH TLS", "PBSZ", "PROT"].map(str::to_owned));
    }
    let hashes: Vec<String> = HashAlgorithm::ALL
        .into_iter()
        .map(|one| format!("{}{}", one.name(), if one == hash { "*" } else { "" }))
        .collect();
    lines.extend(["CLNT", "EPRT", "EPSV"].map(str::to_owned));
    lines.push(format!("HASH {}", hashes.join(";")));
    lines.extend(["LANG EN*", "MDTM", "MFCT", "MFMT"].map(str::to_owned));
    lines.push(format!("MLST {}", facts.feature()));
    lines.extend(
        [
            "RANG STREAM",
            "REST STREAM",
            "SIZE",
            "TVFS",
            "UTF8",
            "XCRC",
            "XMD5",
            "XSHA1",
            "XSHA256",
            "XSHA512",
        ]
        .map(str::to_owned),
    );
    // RFC 2389 3.2: every feature line begins with exactly one space.
    let lines = lines.into_iter().map(|line| format!(" {line}")).collect();
    Reply::lines(211, "Features:", lines, "End")
}

/// HELP.
pub(crate) fn help() -> Reply {
    let lines = [
        "USER PASS ACCT REIN QUIT AUTH PBSZ PROT CCC",
        "PASV EPSV PORT EPRT TYPE MODE STRU REST RANG ALLO ABOR",
        "RETR STOR APPE STOU LIST NLST MLSD MLST STAT",
        "CWD CDUP PWD MKD RMD DELE RNFR RNTO SIZE MDTM MFMT MFCT",
        "HASH XCRC XMD5 XSHA1 XSHA256 XSHA512 SITE FEAT OPTS LANG CLNT SYST NOOP HELP",
    ];
    Reply::lines(214, "Commands:", lines.map(str::to_owned).to_vec(), "End")
}

/// SITE HELP.
pub(crate) fn site_help() -> Reply {
    let lines = [
        "SITE CHMOD octal-mode name",
        "SITE UTIME YYYYMMDDhhmm[ss] name",
        "SITE HELP",
    ];
    Reply::lines(
        214,
        "SITE commands:",
        lines.map(str::to_owned).to_vec(),
        "End",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_vfs::{ConflictKind, HolderInfo, Protocol};
    use std::time::{Duration, UNIX_EPOCH};

    fn wire(reply: &Reply) -> String {
        let mut out = BytesMut::new();
        reply.encode(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    fn path(text: &str) -> VirtualPath {
        VirtualPath::default().join(text).unwrap_or_default()
    }

    #[test]
    fn a_conflict_names_holder_protocol_since_and_when_to_retry() {
        let error = VfsError::Conflict(Box::new(Conflict {
            kind: ConflictKind::Sharing,
            holder: HolderInfo {
                protocol: Protocol::Smb,
                user: "alice".to_owned(),
                client: "10.0.0.7".to_owned(),
                client_name: "PC7".to_owned(),
                node: "gw1".to_owned(),
                since: UNIX_EPOCH + Duration::from_secs(1_026_940_035),
                what: "open for write, denies writers".to_owned(),
            },
            retry_after: Duration::from_millis(1_500),
        }));
        assert_eq!(
            wire(&refused(&path("/docs/a"), &error)),
            "450 \"/docs/a\" is in use by alice over smb from 10.0.0.7 (PC7) on node gw1 since 2002-07-17T21:07:15Z \
             (open for write, denies writers); try again in 2 s.\r\n"
        );
    }

    #[test]
    fn a_policy_refusal_names_its_rule() {
        let reply = refused(&path("/docs/a"), &VfsError::PolicyDenied("7".to_owned()));
        assert_eq!(
            wire(&reply),
            "550 \"/docs/a\": writing over FTP is denied by policy rule 7.\r\n"
        );
    }

    #[test]
    fn no_name_can_forge_a_reply_line() {
        let reply = Reply::text(550, "a\r\n226 done".to_owned());
        assert_eq!(wire(&reply), "550 a??226 done\r\n");
        let many = Reply::lines(213, "Status", vec!["213 x\n".to_owned()], "End");
        assert_eq!(wire(&many), "213-Status\r\n 213 x?\r\n213 End\r\n");
    }

    #[test]
    fn quotes_in_names_are_doubled() {
        assert_eq!(quoted(&path("/docs/a\"b")), "\"/docs/a\"\"b\"");
    }
}
