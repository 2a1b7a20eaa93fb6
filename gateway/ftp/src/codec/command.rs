//! Command lines as typed commands (RFC 959 5.3; 2228, 2389, 2428, 3659, 4217). What comes out here has sound syntax; whether it is
//! allowed now is for the session to say.

use std::net::SocketAddr;

use sluice_vfs::Timestamp;

use super::host_port::{self, EprtError, EpsvArgument};
use super::time;

/// A password. Has no `Debug` on purpose: it must never reach a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

/// Hash functions of HASH and the X commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// SHA-256, the default.
    Sha256,
    /// SHA-512.
    Sha512,
    /// SHA-1.
    Sha1,
    /// MD5.
    Md5,
    /// CRC-32 (ISO HDLC, as in zip).
    Crc32,
}

impl HashAlgorithm {
    /// All, in the order in which FEAT shows them.
    pub const ALL: [HashAlgorithm; 5] = [
        HashAlgorithm::Sha256,
        HashAlgorithm::Sha512,
        HashAlgorithm::Sha1,
        HashAlgorithm::Md5,
        HashAlgorithm::Crc32,
    ];

    /// The name in IANA's hash function registry.
    pub fn name(self) -> &'static str {
        match self {
            HashAlgorithm::Sha256 => "SHA-256",
            HashAlgorithm::Sha512 => "SHA-512",
            HashAlgorithm::Sha1 => "SHA-1",
            HashAlgorithm::Md5 => "MD5",
            HashAlgorithm::Crc32 => "CRC32",
        }
    }

    /// By name, without regard to case.
    pub fn from_name(name: &str) -> Option<HashAlgorithm> {
        HashAlgorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name.trim()))
    }
}

/// Representation of TYPE (RFC 959 3.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferType {
    /// Text with CRLF line ends on the wire.
    Ascii,
    /// Bytes as they are.
    Image,
}

/// Argument of PROT (RFC 4217 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtLevel {
    /// `C`.
    Clear,
    /// `P`.
    Private,
    /// `S` or `E`, which TLS does not have.
    Unsupported,
}

/// SITE's subcommands.
#[derive(Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is a subcommand")]
pub enum Site {
    Chmod { mode: u32, path: String },
    Utime { modified: Timestamp, path: String },
    Help,
    Unknown,
}

/// One well-formed command. Names follow the verbs.
#[derive(Clone, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "each variant is a verb of the RFCs named above"
)]
pub enum Command {
    User(String),
    Pass(Secret),
    Acct,
    Rein,
    Quit,
    Auth(String),
    Pbsz,
    Prot(ProtLevel),
    Ccc,
    Type(Option<TransferType>),
    Mode(char),
    Stru(char),
    Pasv,
    Epsv(EpsvArgument),
    Port(SocketAddr),
    Eprt(Result<SocketAddr, EprtError>),
    Rest(u64),
    Rang(Option<(u64, u64)>),
    /// Bytes, if it says a number of them (a second one, of records, may follow).
    Allo(Option<u64>),
    Abor,
    Retr(String),
    Stor(String),
    Appe(String),
    Stou(String),
    List(String),
    Nlst(String),
    Mlsd(String),
    Mlst(String),
    Stat(String),
    Cwd(String),
    Cdup,
    Pwd,
    Mkd(String),
    Rmd(String),
    Dele(String),
    Rnfr(String),
    Rnto(String),
    Size(String),
    Mdtm(String),
    Mfmt {
        modified: Timestamp,
        path: String,
    },
    Mfct {
        created: Timestamp,
        path: String,
    },
    Hash(String),
    XHash {
        algorithm: HashAlgorithm,
        path: String,
        range: Option<(u64, u64)>,
    },
    Site(Site),
    Feat,
    Opts {
        name: String,
        value: String,
    },
    Lang(String),
    Clnt,
    Noop,
    Help,
    Syst,
}

/// Why a line is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// Nothing on the line.
    Empty,
    /// No such verb; carries it, cut short, if it is printable.
    UnknownVerb(String),
    /// A known verb that is not offered (RFC 959's SMNT and the like).
    NotImplemented(&'static str),
    /// The argument is wrong; carries what is expected.
    Syntax(&'static str),
    /// The argument is not UTF-8.
    NotUtf8,
}

/// Longest verb; anything longer is unknown without being looked at.
const VERB_BYTES_MAX: usize = 8;

/// Reads one line.
///
/// # Errors
/// [`ParseError`] names the reply that is due.
pub fn parse(line: &[u8]) -> Result<Command, ParseError> {
    let line = line.trim_ascii_start();
    let at = line.iter().position(|&b| b == b' ').unwrap_or(line.len());
    let (verb, rest) = line.split_at(at);
    if verb.is_empty() {
        return Err(ParseError::Empty);
    }
    let verb_text = match std::str::from_utf8(verb) {
        Ok(text)
            if verb.len() <= VERB_BYTES_MAX && text.bytes().all(|b| b.is_ascii_alphanumeric()) =>
        {
            text.to_ascii_uppercase()
        }
        _ => return Err(ParseError::UnknownVerb(String::new())),
    };
    // One space separates; further ones belong to the name (RFC 959 5.3.1).
    let argument = rest.strip_prefix(b" ").unwrap_or(rest);
    let argument = std::str::from_utf8(argument).map_err(|_| ParseError::NotUtf8)?;
    if argument.contains('\0') {
        return Err(ParseError::Syntax("a name without NUL"));
    }
    session_verb(&verb_text, argument)
        .or_else(|| transfer_verb(&verb_text, argument))
        .or_else(|| file_verb(&verb_text, argument))
        .unwrap_or_else(|| unknown(verb_text))
}

fn unknown(verb: String) -> Result<Command, ParseError> {
    let known = [
        "SMNT", "ADAT", "CONF", "ENC", "MIC", "HOST", "MFF", "LPRT", "LPSV",
    ];
    match known.into_iter().find(|&name| name == verb) {
        Some(name) => Err(ParseError::NotImplemented(name)),
        None => Err(ParseError::UnknownVerb(verb)),
    }
}

type Parsed = Option<Result<Command, ParseError>>;

/// Login, security, features and small talk.
fn session_verb(verb: &str, argument: &str) -> Parsed {
    Some(match verb {
        "USER" => required(argument, "USER name", Command::User),
        "PASS" => Ok(Command::Pass(Secret(argument.to_owned()))),
        "ACCT" => Ok(Command::Acct),
        "REIN" => Ok(Command::Rein),
        "QUIT" | "LOGOUT" | "BYE" => Ok(Command::Quit),
        "AUTH" => required(argument.trim(), "AUTH TLS", Command::Auth),
        "PBSZ" => number(argument, "PBSZ 0").map(|_| Command::Pbsz),
        "PROT" => match argument.trim().to_ascii_uppercase().as_str() {
            "C" => Ok(Command::Prot(ProtLevel::Clear)),
            "P" => Ok(Command::Prot(ProtLevel::Private)),
            "S" | "E" => Ok(Command::Prot(ProtLevel::Unsupported)),
            _ => Err(ParseError::Syntax("PROT P or PROT C")),
        },
        "CCC" => Ok(Command::Ccc),
        "FEAT" => Ok(Command::Feat),
        "OPTS" => {
            let (name, value) = argument
                .trim()
                .split_once(' ')
                .unwrap_or((argument.trim(), ""));
            required(name, "OPTS feature [value]", |name| Command::Opts {
                name: name.to_ascii_uppercase(),
                value: value.trim().to_owned(),
            })
        }
        "LANG" => Ok(Command::Lang(argument.trim().to_owned())),
        "CLNT" => Ok(Command::Clnt),
        "NOOP" => Ok(Command::Noop),
        "HELP" => Ok(Command::Help),
        "SYST" => Ok(Command::Syst),
        "SITE" => site(argument.trim_start()).map(Command::Site),
        _ => return None,
    })
}

/// Parameters of transfers and the transfers themselves.
fn transfer_verb(verb: &str, argument: &str) -> Parsed {
    Some(match verb {
        "TYPE" => Ok(Command::Type(transfer_type(argument))),
        "MODE" => letter(argument, "MODE S").map(Command::Mode),
        "STRU" => letter(argument, "STRU F").map(Command::Stru),
        "PASV" => Ok(Command::Pasv),
        "EPSV" => host_port::parse_epsv(argument)
            .map(Command::Epsv)
            .ok_or(ParseError::Syntax("EPSV, EPSV 1, EPSV 2 or EPSV ALL")),
        "PORT" => host_port::parse_port(argument)
            .map(Command::Port)
            .ok_or(ParseError::Syntax("PORT h1,h2,h3,h4,p1,p2")),
        "EPRT" => match host_port::parse_eprt(argument) {
            Err(EprtError::Syntax) => Err(ParseError::Syntax("EPRT |family|host|port|")),
            other => Ok(Command::Eprt(other)),
        },
        "REST" => number(argument, "REST offset").map(Command::Rest),
        "RANG" => rang(argument).map(Command::Rang),
        "ALLO" => Ok(Command::Allo(bytes_announced(argument))),
        "ABOR" => Ok(Command::Abor),
        "RETR" => required(argument, "RETR name", Command::Retr),
        "STOR" => required(argument, "STOR name", Command::Stor),
        "APPE" => required(argument, "APPE name", Command::Appe),
        "STOU" => Ok(Command::Stou(argument.to_owned())),
        "LIST" => Ok(Command::List(argument.to_owned())),
        "NLST" => Ok(Command::Nlst(argument.to_owned())),
        "MLSD" => Ok(Command::Mlsd(argument.to_owned())),
        _ => return None,
    })
}

/// Commands on names, without a data connection.
fn file_verb(verb: &str, argument: &str) -> Parsed {
    Some(match verb {
        "MLST" => Ok(Command::Mlst(argument.to_owned())),
        "STAT" => Ok(Command::Stat(argument.to_owned())),
        "CWD" | "XCWD" => Ok(Command::Cwd(argument.to_owned())),
        "CDUP" | "XCUP" => Ok(Command::Cdup),
        "PWD" | "XPWD" => Ok(Command::Pwd),
        "MKD" | "XMKD" => required(argument, "MKD name", Command::Mkd),
        "RMD" | "XRMD" => required(argument, "RMD name", Command::Rmd),
        "DELE" => required(argument, "DELE name", Command::Dele),
        "RNFR" => required(argument, "RNFR name", Command::Rnfr),
        "RNTO" => required(argument, "RNTO name", Command::Rnto),
        "SIZE" => required(argument, "SIZE name", Command::Size),
        "MDTM" => required(argument, "MDTM name", Command::Mdtm),
        "MFMT" => timed(argument, "MFMT YYYYMMDDHHMMSS name")
            .map(|(modified, path)| Command::Mfmt { modified, path }),
        "MFCT" => timed(argument, "MFCT YYYYMMDDHHMMSS name")
            .map(|(created, path)| Command::Mfct { created, path }),
        "HASH" => required(argument, "HASH name", Command::Hash),
        "XCRC" => x_hash(HashAlgorithm::Crc32, argument),
        "XMD" | "XMD5" | "MD5" => x_hash(HashAlgorithm::Md5, argument),
        "XSHA" | "XSHA1" => x_hash(HashAlgorithm::Sha1, argument),
        "XSHA256" => x_hash(HashAlgorithm::Sha256, argument),
        "XSHA512" => x_hash(HashAlgorithm::Sha512, argument),
        _ => return None,
    })
}

fn required(
    argument: &str,
    usage: &'static str,
    make: impl FnOnce(String) -> Command,
) -> Result<Command, ParseError> {
    if argument.is_empty() {
        return Err(ParseError::Syntax(usage));
    }
    Ok(make(argument.to_owned()))
}

fn number(argument: &str, usage: &'static str) -> Result<u64, ParseError> {
    let digits = argument.trim();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParseError::Syntax(usage));
    }
    digits.parse().map_err(|_| ParseError::Syntax(usage))
}

fn bytes_announced(argument: &str) -> Option<u64> {
    number(argument.split_whitespace().next()?, "").ok()
}

fn letter(argument: &str, usage: &'static str) -> Result<char, ParseError> {
    let mut chars = argument.trim().chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => Ok(c.to_ascii_uppercase()),
        _ => Err(ParseError::Syntax(usage)),
    }
}

/// `A`, `A N`, `I` and `L 8`; `None` for what RFC 959 knows beyond.
fn transfer_type(argument: &str) -> Option<TransferType> {
    let upper = argument.trim().to_ascii_uppercase();
    let words: Vec<&str> = upper.split_ascii_whitespace().collect();
    match words.as_slice() {
        ["A"] | ["A", "N"] => Some(TransferType::Ascii),
        ["I"] | ["I", "N"] | ["L", "8"] | ["L8"] => Some(TransferType::Image),
        _ => None,
    }
}

/// `RANG start end`, both inclusive; `RANG 1 0` takes the range back (draft-bryan-ftp-range 3).
fn rang(argument: &str) -> Result<Option<(u64, u64)>, ParseError> {
    const USAGE: &str = "RANG start end";
    let (start, end) = argument
        .trim()
        .split_once(' ')
        .ok_or(ParseError::Syntax(USAGE))?;
    match (number(start, USAGE)?, number(end, USAGE)?) {
        (1, 0) => Ok(None),
        (start, end) if start <= end => Ok(Some((start, end))),
        _ => Err(ParseError::Syntax(USAGE)),
    }
}

fn timed(argument: &str, usage: &'static str) -> Result<(Timestamp, String), ParseError> {
    let (when, path) = argument.split_once(' ').ok_or(ParseError::Syntax(usage))?;
    let when = time::parse_compact(when).ok_or(ParseError::Syntax(usage))?;
    if path.is_empty() {
        return Err(ParseError::Syntax(usage));
    }
    Ok((when, path.to_owned()))
}

/// `name`, or `"name" [start [end]]` with the end not included, as the clients that invented these commands send them.
fn x_hash(algorithm: HashAlgorithm, argument: &str) -> Result<Command, ParseError> {
    const USAGE: &str = "a name, or \"name\" [start [end]]";
    let (path, rest) = match argument.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').ok_or(ParseError::Syntax(USAGE))?,
        None => (argument, ""),
    };
    let mut numbers = rest.split_ascii_whitespace();
    let start = numbers.next().map(|n| number(n, USAGE)).transpose()?;
    let end = numbers.next().map(|n| number(n, USAGE)).transpose()?;
    if numbers.next().is_some() || path.is_empty() {
        return Err(ParseError::Syntax(USAGE));
    }
    let range = start.map(|start| (start, end.unwrap_or(u64::MAX)));
    if range.is_some_and(|(start, end)| start > end) {
        return Err(ParseError::Syntax(USAGE));
    }
    Ok(Command::XHash {
        algorithm,
        path: path.to_owned(),
        range,
    })
}

fn site(argument: &str) -> Result<Site, ParseError> {
    let (verb, rest) = argument.split_once(' ').unwrap_or((argument, ""));
    match verb.to_ascii_uppercase().as_str() {
        "CHMOD" => {
            const USAGE: &str = "SITE CHMOD octal-mode name";
            let (mode, path) = rest.split_once(' ').ok_or(ParseError::Syntax(USAGE))?;
            match u32::from_str_radix(mode, 8) {
                Ok(mode) if mode <= 0o7777 && !path.is_empty() => Ok(Site::Chmod {
                    mode,
                    path: path.to_owned(),
                }),
                _ => Err(ParseError::Syntax(USAGE)),
            }
        }
        "UTIME" => site_utime(rest),
        "HELP" => Ok(Site::Help),
        _ => Ok(Site::Unknown),
    }
}

/// Both forms in use: `SITE UTIME time name` and `SITE UTIME name atime mtime ctime UTC`.
fn site_utime(argument: &str) -> Result<Site, ParseError> {
    const USAGE: &str = "SITE UTIME YYYYMMDDhhmm[ss] name";
    if let Ok((modified, path)) = timed(argument, USAGE) {
        return Ok(Site::Utime { modified, path });
    }
    let mut words = argument.rsplitn(5, ' ');
    let (zone, _changed, modified) = (words.next(), words.next(), words.next());
    let (_accessed, path) = (words.next(), words.next());
    match (zone, modified.and_then(time::parse_compact), path) {
        (Some("UTC"), Some(modified), Some(path)) if !path.is_empty() => Ok(Site::Utime {
            modified,
            path: path.to_owned(),
        }),
        _ => Err(ParseError::Syntax(USAGE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ok(line: &str) -> Command {
        parse(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error:?}"))
    }

    fn err(line: &str) -> ParseError {
        match parse(line.as_bytes()) {
            Ok(_) => panic!("{line} was taken"),
            Err(error) => error,
        }
    }

    #[test]
    fn verbs_have_no_case_and_names_keep_their_spaces() {
        assert!(ok("stor  a b ") == Command::Stor(" a b ".to_owned()));
        assert!(ok("XPWD") == Command::Pwd);
        assert!(ok("type a n") == Command::Type(Some(TransferType::Ascii)));
        assert!(ok("TYPE E") == Command::Type(None));
    }

    #[test]
    fn missing_and_broken_arguments_are_syntax_errors() {
        for line in [
            "RETR",
            "STOR ",
            "REST x",
            "REST 99999999999999999999",
            "PORT 1",
            "EPRT x",
            "MFMT 2020 x",
            "MFMT 20200101000000 ",
            "SITE CHMOD 9 x",
            "SITE CHMOD 10000 x",
            "XCRC \"a",
            "XCRC \"a\" 5 3",
            "RANG 5",
            "RANG 5 4",
            "PROT X",
            "MODE",
            "OPTS",
        ] {
            assert!(matches!(err(line), ParseError::Syntax(_)), "{line}");
        }
    }

    #[test]
    fn unknown_verbs_are_told_from_those_not_offered() {
        assert_eq!(err("FOO bar"), ParseError::UnknownVerb("FOO".to_owned()));
        assert_eq!(err("SMNT x"), ParseError::NotImplemented("SMNT"));
        assert_eq!(err("  "), ParseError::Empty);
        assert_eq!(parse(b"RETR \xff\xfe").err(), Some(ParseError::NotUtf8));
    }

    #[test]
    fn hash_commands_take_quoted_names_with_ranges() {
        let expected = |path: &str, range| Command::XHash {
            algorithm: HashAlgorithm::Crc32,
            path: path.to_owned(),
            range,
        };
        assert!(ok("XCRC a b") == expected("a b", None));
        assert!(ok("XCRC \"a b\" 5 10") == expected("a b", Some((5, 10))));
        assert!(ok("XCRC \"a\" 5") == expected("a", Some((5, u64::MAX))));
    }

    #[test]
    fn site_utime_is_read_in_both_forms() {
        let Some(modified) = time::parse_compact("20200102030405") else {
            panic!("the time is sound");
        };
        let expected = Command::Site(Site::Utime {
            modified,
            path: "a b".to_owned(),
        });
        assert!(ok("SITE UTIME 20200102030405 a b") == expected);
        assert!(ok("SITE utime a b 20200101000000 20200102030405 20200103000000 UTC") == expected);
    }

    proptest! {
        #[test]
        fn no_line_panics(line in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&line);
        }

        #[test]
        fn no_argument_of_a_known_verb_panics(
            verb in prop::sample::select(vec!["USER", "PASS", "AUTH", "PBSZ", "PROT", "OPTS", "SITE CHMOD", "SITE UTIME", "TYPE", "MODE", "EPSV",
                "PORT", "EPRT", "REST", "RANG", "MFMT", "MFCT", "XCRC", "HASH", "LIST"]),
            argument in "[ -~é\"|,0-9]{0,40}",
        ) {
            let _ = parse(format!("{verb} {argument}").as_bytes());
        }
    }
}
