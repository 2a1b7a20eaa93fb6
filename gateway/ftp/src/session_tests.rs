//! The session without sockets: which command is allowed when, and what it becomes.

use std::net::SocketAddr;
use std::sync::Arc;

use sluice_vfs::{Identity, Sid, UploadMode};

use super::{Change, DataPlan, Session, SessionRules, Step};
use crate::codec::command::parse;
use crate::options::TlsMode;
use crate::work::Work;

fn rules(tls: TlsMode) -> SessionRules {
    SessionRules {
        tls,
        active_mode: true,
        login_attempts_max: 2,
        peer: SocketAddr::from(([10, 0, 0, 1], 40_000)),
        implicit_tls: false,
    }
}

fn alice() -> Arc<Identity> {
    Arc::new(Identity {
        user: None,
        name: "alice".to_owned(),
        uid: 1000,
        gid: 1000,
        gids: Vec::new(),
        groups: Vec::new(),
        sid: Sid("S-1-5-21-1-2-3-1000".to_owned()),
        group_sids: Vec::new(),
        admin: false,
    })
}

fn logged_in(tls: TlsMode) -> Session {
    let mut session = Session::new(rules(tls));
    session.apply(Change::LoggedIn(alice()));
    session
}

fn step(session: &mut Session, line: &str) -> Step {
    match parse(line.as_bytes()) {
        Ok(command) => session.on_command(command),
        Err(error) => panic!("{line}: {error:?}"),
    }
}

/// The code of a step that is a reply at once, 0 otherwise.
fn code(session: &mut Session, line: &str) -> u16 {
    match step(session, line) {
        Step::Reply(reply) | Step::StartTls(reply) | Step::Reset(reply) | Step::Close(reply) => {
            reply.code()
        }
        Step::Work(_) | Step::Data(_) | Step::NothingToAbort | Step::Status => 0,
    }
}

#[test]
fn nothing_but_small_talk_before_the_login() {
    let mut session = Session::new(rules(TlsMode::Offered));
    for line in [
        "LIST",
        "RETR x",
        "STOR x",
        "PASV",
        "PORT 10,0,0,1,200,1",
        "CWD /",
        "PWD",
        "SIZE x",
        "SITE CHMOD 644 x",
        "STAT",
        "TYPE I",
        "REST 1",
    ] {
        assert_eq!(code(&mut session, line), 530, "{line}");
    }
    for line in [
        "FEAT",
        "NOOP",
        "SYST",
        "HELP",
        "OPTS UTF8 ON",
        "CLNT x",
        "LANG",
    ] {
        let code = code(&mut session, line);
        assert!((200..300).contains(&code), "{line} {code}");
    }
}

#[test]
fn a_password_needs_a_user_and_both_need_tls_where_it_is_required() {
    let mut open = Session::new(rules(TlsMode::Offered));
    assert_eq!(code(&mut open, "PASS x"), 503);
    assert_eq!(code(&mut open, "USER alice"), 331);
    assert!(matches!(
        step(&mut open, "PASS x"),
        Step::Work(Work::Login { .. })
    ));
    assert_eq!(code(&mut open, "PASS x"), 503);

    let mut strict = Session::new(rules(TlsMode::Required));
    assert_eq!(code(&mut strict, "USER alice"), 530);
    assert_eq!(code(&mut strict, "PASS x"), 530);
    assert!(matches!(step(&mut strict, "AUTH TLS"), Step::StartTls(_)));
    strict.control_tls = true;
    assert_eq!(code(&mut strict, "USER alice"), 331);
}

#[test]
fn wrong_passwords_end_the_session_at_the_limit() {
    let mut session = Session::new(rules(TlsMode::Off));
    assert!(session.apply(Change::LoginFailed).is_none());
    assert_eq!(
        session.apply(Change::LoginFailed).map(|reply| reply.code()),
        Some(421)
    );
}

#[test]
fn required_tls_covers_data_connections_too() {
    let mut session = logged_in(TlsMode::Required);
    session.control_tls = true;
    assert_eq!(code(&mut session, "LIST"), 521);
    assert_eq!(code(&mut session, "STOR x"), 521);
    assert_eq!(code(&mut session, "PROT P"), 503);
    assert_eq!(code(&mut session, "PBSZ 0"), 200);
    assert_eq!(code(&mut session, "PROT P"), 200);
    assert_eq!(code(&mut session, "PROT C"), 534);
    assert_eq!(code(&mut session, "CCC"), 534);
    assert!(matches!(
        step(&mut session, "LIST"),
        Step::Work(Work::List(_))
    ));
}

#[test]
fn tls_commands_are_refused_where_tls_is_off() {
    let mut session = Session::new(rules(TlsMode::Off));
    assert_eq!(code(&mut session, "AUTH TLS"), 502);
    assert_eq!(code(&mut session, "PBSZ 0"), 503);
}

#[test]
fn port_and_eprt_go_to_the_clients_own_address_and_high_ports_only() {
    let mut session = logged_in(TlsMode::Off);
    for (line, expected) in [
        ("PORT 10,0,0,2,200,1", 504),
        ("PORT 10,0,0,1,0,25", 504),
        ("EPRT |1|10.0.0.2|5000|", 504),
        ("EPRT |2|::1|5000|", 504),
        ("EPRT |9|x|5000|", 522),
    ] {
        assert_eq!(code(&mut session, line), expected, "{line}");
    }
    let own = SocketAddr::from(([10, 0, 0, 1], 51_201));
    for line in [
        "PORT 10,0,0,1,200,1",
        "EPRT |1|10.0.0.1|51201|",
        "EPRT |2|::ffff:10.0.0.1|51201|",
    ] {
        assert!(
            matches!(step(&mut session, line), Step::Data(DataPlan::Active(to)) if to == own),
            "{line}"
        );
    }
    session.rules.active_mode = false;
    assert_eq!(code(&mut session, "PORT 10,0,0,1,200,1"), 502);
}

#[test]
fn after_epsv_all_only_epsv_is_taken() {
    let mut session = logged_in(TlsMode::Off);
    assert_eq!(code(&mut session, "EPSV ALL"), 200);
    for line in ["PASV", "PORT 10,0,0,1,200,1", "EPRT |1|10.0.0.1|5000|"] {
        assert_eq!(code(&mut session, line), 501, "{line}");
    }
    assert!(matches!(step(&mut session, "EPSV"), Step::Data(_)));
}

#[test]
fn rest_holds_for_one_transfer() {
    let mut session = logged_in(TlsMode::Off);
    step(&mut session, "TYPE I");
    assert_eq!(code(&mut session, "REST 100"), 350);
    assert!(matches!(step(&mut session, "PASV"), Step::Data(_)));
    assert!(
        matches!(step(&mut session, "RETR x"), Step::Work(Work::Retrieve(r)) if r.start == 100)
    );
    assert!(matches!(step(&mut session, "RETR x"), Step::Work(Work::Retrieve(r)) if r.start == 0));
    step(&mut session, "REST 7");
    assert!(
        matches!(step(&mut session, "STOR x"), Step::Work(Work::Store(s)) if s.mode == UploadMode::ResumeAt(7))
    );
    assert!(
        matches!(step(&mut session, "STOR x"), Step::Work(Work::Store(s)) if s.mode == UploadMode::Replace)
    );
    assert!(
        matches!(step(&mut session, "APPE x"), Step::Work(Work::Store(s)) if s.mode == UploadMode::Append)
    );
}

#[test]
fn a_length_said_ahead_is_the_next_uploads_alone() {
    let mut session = logged_in(TlsMode::Off);
    let announced = |session: &mut Session| match step(session, "STOR x") {
        Step::Work(Work::Store(request)) => request.announced,
        _ => panic!("no upload"),
    };
    assert_eq!(code(&mut session, "ALLO 65536 R 4096"), 202);
    assert_eq!(announced(&mut session), Some(65536));
    assert_eq!(announced(&mut session), None);
    assert_eq!(code(&mut session, "ALLO"), 202);
    assert_eq!(announced(&mut session), None);
}

#[test]
fn restarting_needs_binary_type() {
    let mut session = logged_in(TlsMode::Off);
    step(&mut session, "REST 5");
    assert_eq!(code(&mut session, "RETR x"), 504);
    step(&mut session, "REST 5");
    assert_eq!(code(&mut session, "STOR x"), 504);
}

#[test]
fn rnto_needs_its_rnfr_right_before() {
    let mut session = logged_in(TlsMode::Off);
    assert_eq!(code(&mut session, "RNTO b"), 503);
    let Ok(from) = session.cwd.join("/docs/a") else {
        panic!("the path is sound");
    };
    session.apply(Change::RenameFrom(from.clone()));
    assert!(
        matches!(step(&mut session, "RNTO /docs/b"), Step::Work(Work::Rename { from: f, .. }) if f == from)
    );
    session.apply(Change::RenameFrom(from));
    step(&mut session, "NOOP");
    assert_eq!(code(&mut session, "RNTO b"), 503);
}

#[test]
fn names_are_taken_from_the_current_folder_and_never_above_the_root() {
    let mut session = logged_in(TlsMode::Off);
    let Ok(cwd) = session.cwd.join("/docs/sub") else {
        panic!("the path is sound");
    };
    session.apply(Change::Directory(cwd));
    assert!(
        matches!(step(&mut session, "DELE ../../../../x"), Step::Work(Work::Delete(p)) if p.to_string() == "/x")
    );
    assert!(
        matches!(step(&mut session, "DELE a b"), Step::Work(Work::Delete(p)) if p.to_string() == "/docs/sub/a b")
    );
    assert!(
        matches!(step(&mut session, "CDUP"), Step::Work(Work::ChangeDirectory(p)) if p.to_string() == "/docs")
    );
    let long = format!("DELE {}", "x".repeat(300));
    assert_eq!(code(&mut session, &long), 553);
}

#[test]
fn rein_forgets_the_user_but_not_the_protection() {
    let mut session = logged_in(TlsMode::Required);
    session.control_tls = true;
    step(&mut session, "PBSZ 0");
    step(&mut session, "PROT P");
    assert!(matches!(step(&mut session, "REIN"), Step::Reset(_)));
    assert_eq!(code(&mut session, "LIST"), 530);
    session.apply(Change::LoggedIn(alice()));
    assert!(matches!(step(&mut session, "LIST"), Step::Work(_)));
}

#[test]
fn only_what_is_offered_of_mode_stru_and_type() {
    let mut session = logged_in(TlsMode::Off);
    for (line, expected) in [
        ("MODE S", 200),
        ("MODE Z", 504),
        ("STRU F", 200),
        ("STRU R", 504),
        ("TYPE I", 200),
        ("TYPE E", 504),
        ("LANG DE", 504),
    ] {
        assert_eq!(code(&mut session, line), expected, "{line}");
    }
}

#[test]
fn mlst_options_and_hash_algorithm_are_remembered() {
    let mut session = logged_in(TlsMode::Off);
    assert_eq!(code(&mut session, "OPTS MLST size;"), 200);
    assert_eq!(session.facts.names(), "size;");
    assert_eq!(code(&mut session, "OPTS HASH md5"), 200);
    assert!(
        matches!(step(&mut session, "HASH x"), Step::Work(Work::Hash { algorithm, .. }) if algorithm.name() == "MD5")
    );
    assert_eq!(code(&mut session, "OPTS HASH rot13"), 504);
}
