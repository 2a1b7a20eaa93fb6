//! SESSION_SETUP (MS-SMB2 3.3.5.5): new sessions, further steps of a login, reauthentication, and the
//! replacement of a client's previous session.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sluice_smb_wire::cmd::negotiate::{SIGNING_REQUIRED, SigningAlgorithm};
use sluice_smb_wire::cmd::session::{
    FLAG_BINDING, SESSION_FLAG_ENCRYPT_DATA, SessionSetupRequest, encode_response,
};
use sluice_smb_wire::{Header, NtStatus};
use sluice_vfs::{Caller, Protocol};
use tokio_util::sync::CancellationToken;

use super::{Channel, Session, SessionEnd, SessionId};
use crate::auth::spnego::Acceptor;
use crate::auth::{AcceptSecurity, Login, Refused, Step};
use crate::conn::Connection;
use crate::conn::outgoing::Sealing;
use crate::crypto::encryption::SessionCipher;
use crate::crypto::kdf;
use crate::crypto::preauth::PreauthHash;
use crate::crypto::signing::{CryptoFailed, Signer};
use crate::op::OpReply;
use crate::open::OpenTable;
use crate::server::filetime_now;

/// A login that goes on.
pub(crate) struct Pending {
    id: SessionId,
    acceptor: Acceptor,
    hash: PreauthHash,
    kind: Kind,
}

enum Kind {
    /// A new session.
    New,
    /// The session exists and proves itself again; its keys stay.
    Reauthenticate(Arc<Channel>),
    /// The session exists on another connection and this one becomes a further channel.
    Bind(Arc<Session>),
}

/// Whether a request's signature was there and right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signature {
    /// None, or the request was encrypted.
    Absent,
    /// Right.
    Valid,
    /// Wrong, or of a session that this connection does not know.
    Invalid,
}

/// A SESSION_SETUP request and what its frame told.
pub(crate) struct SetupRequest<'a> {
    /// The header.
    pub header: &'a Header,
    /// The message.
    pub message: &'a Bytes,
    /// It was encrypted.
    pub encrypted: bool,
    /// Its signature.
    pub signature: Signature,
    /// The session, if only other connections carry it or the request asks to bind it.
    pub elsewhere: Option<&'a Arc<Session>>,
}

/// The answer to one SESSION_SETUP, and what must happen once its bytes are known.
pub(crate) struct SetupReply {
    /// The reply.
    pub reply: OpReply,
    /// Session id for the reply's header.
    pub session_id: SessionId,
    /// Signs the reply.
    pub signer: Option<Arc<Signer>>,
    /// The login that goes on: the reply's bytes belong to its hash.
    pub continues: Option<Pending>,
}

impl Pending {
    /// The key that signs replies before this login is done.
    fn signer(&self) -> Option<Arc<Signer>> {
        match &self.kind {
            Kind::New => None,
            Kind::Reauthenticate(channel) => Some(channel.signer.clone()),
            Kind::Bind(session) => Some(session.signer.clone()),
        }
    }

    /// Chains the reply's bytes and keeps the login for the client's next request.
    pub(crate) fn resume(mut self, conn: &Connection, reply: &[&[u8]]) {
        self.hash.update(reply);
        conn.logins().insert(self.id, self);
    }
}

/// Logins of a connection that go on; at most a few, so that nobody can pile them up.
#[derive(Default)]
pub(crate) struct Logins {
    /// Guarded for list operations only.
    list: Mutex<Vec<Pending>>,
}

/// Most unfinished logins of a connection; the oldest gives way.
const LOGINS_MAX: usize = 16;

impl Logins {
    fn take(&self, id: SessionId) -> Option<Pending> {
        let mut list = self.list.lock();
        let at = list.iter().position(|p| p.id == id)?;
        Some(list.remove(at))
    }

    fn insert(&self, id: SessionId, pending: Pending) {
        let mut list = self.list.lock();
        list.retain(|p| p.id != id);
        if list.len() >= LOGINS_MAX {
            list.remove(0);
        }
        list.push(pending);
    }
}

fn refuse(status: NtStatus, session_id: SessionId) -> SetupReply {
    SetupReply {
        reply: OpReply::error(status),
        session_id,
        signer: None,
        continues: None,
    }
}

/// Answers one SESSION_SETUP request.
pub(crate) async fn handle(conn: &Arc<Connection>, setup: SetupRequest<'_>) -> SetupReply {
    let id = SessionId(setup.header.session_id);
    let Ok(request) = SessionSetupRequest::decode(setup.message) else {
        return refuse(NtStatus::INVALID_PARAMETER, id);
    };
    let mut pending = match find(conn, id, &request, &setup) {
        Ok(pending) => pending,
        Err(status) => {
            let signer = setup
                .elsewhere
                .filter(|_| setup.signature == Signature::Valid)
                .map(|s| s.signer.clone());
            return SetupReply {
                signer,
                ..refuse(status, id)
            };
        }
    };
    pending.hash.update(&[setup.message]);
    match pending.acceptor.step(&request.token).await {
        Ok(Step::Continue(token)) => {
            let mut body = BytesMut::new();
            encode_response(0, &token, &mut body);
            SetupReply {
                reply: OpReply::with_status(NtStatus::MORE_PROCESSING_REQUIRED, body),
                session_id: pending.id,
                signer: pending
                    .signer()
                    .filter(|_| setup.signature == Signature::Valid),
                continues: Some(pending),
            }
        }
        Ok(Step::Done(token, login)) => {
            let session_id = pending.id;
            let before = pending.signer();
            match finish(conn, pending, &request, login).await {
                Ok(channel) => done(&channel, &token),
                Err(status) => SetupReply {
                    signer: before,
                    ..refuse(status, session_id)
                },
            }
        }
        Err(refused) => refused_login(conn, pending, refused).await,
    }
}

/// The successful end of a login; always signed, so that the client knows that both have the key.
fn done(channel: &Channel, token: &[u8]) -> SetupReply {
    let session = &channel.session;
    let flags = if session.encryption_required {
        SESSION_FLAG_ENCRYPT_DATA
    } else {
        0
    };
    let mut body = BytesMut::new();
    encode_response(flags, token, &mut body);
    SetupReply {
        reply: OpReply::ok(body),
        session_id: session.id,
        signer: Some(channel.signer.clone()),
        continues: None,
    }
}

/// The login that this request goes on with, or a new one.
fn find(
    conn: &Arc<Connection>,
    id: SessionId,
    request: &SessionSetupRequest,
    setup: &SetupRequest<'_>,
) -> Result<Pending, NtStatus> {
    let binding = match request.flags & FLAG_BINDING != 0 {
        true => Some(check_binding(conn, id, setup)?),
        false => None,
    };
    if let Some(pending) = conn.logins().take(id) {
        return Ok(pending);
    }
    let server = conn.server();
    let (id, kind) = if let Some(session) = binding {
        if conn.channel(id).is_some() {
            return Err(NtStatus::REQUEST_NOT_ACCEPTED);
        }
        (id, Kind::Bind(session))
    } else if id.0 == 0 {
        if conn.channel_count() >= server.options.sessions_per_connection_max {
            return Err(NtStatus::INSUFFICIENT_RESOURCES);
        }
        (server.new_session_id(), Kind::New)
    } else {
        (
            id,
            Kind::Reauthenticate(known_channel(conn, id, setup.encrypted)?),
        )
    };
    let acceptor = Acceptor::new(
        server.users.clone(),
        server.names.clone(),
        conn.peer.ip(),
        filetime_now(),
    );
    Ok(Pending {
        id,
        acceptor,
        hash: conn.preauth(),
        kind,
    })
}

fn known_channel(
    conn: &Connection,
    id: SessionId,
    encrypted: bool,
) -> Result<Arc<Channel>, NtStatus> {
    let channel = conn.channel(id).ok_or(NtStatus::USER_SESSION_DELETED)?;
    if channel.session.ended.is_cancelled() {
        return Err(NtStatus::USER_SESSION_DELETED);
    }
    if channel.session.encryption_required && !encrypted {
        return Err(NtStatus::ACCESS_DENIED);
    }
    Ok(channel)
}

/// Whether this connection may become a channel of the session (MS-SMB2 3.3.5.5).
fn check_binding(
    conn: &Connection,
    id: SessionId,
    setup: &SetupRequest<'_>,
) -> Result<Arc<Session>, NtStatus> {
    if id.0 == 0 {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let session = match setup.elsewhere {
        Some(session) => session,
        None if conn.dialect().is_3x() => return Err(NtStatus::USER_SESSION_DELETED),
        None => return Err(NtStatus::REQUEST_NOT_ACCEPTED),
    };
    let (own, wanted) = (conn.terms(), session.terms);
    // GMAC keys and others must not meet; the two directions have words of their own.
    if own.signing != wanted.signing && wanted.signing == SigningAlgorithm::AesGmac {
        return Err(NtStatus::REQUEST_OUT_OF_SEQUENCE);
    }
    if !own.dialect.is_3x() {
        return Err(NtStatus::REQUEST_NOT_ACCEPTED);
    }
    if own.signing != wanted.signing && own.signing == SigningAlgorithm::AesGmac {
        return Err(NtStatus::NOT_SUPPORTED);
    }
    if own.dialect != wanted.dialect || own.cipher != wanted.cipher {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    match setup.signature {
        Signature::Absent => return Err(NtStatus::INVALID_PARAMETER),
        Signature::Invalid => return Err(NtStatus::ACCESS_DENIED),
        Signature::Valid => {}
    }
    Ok(session.clone())
}

/// Tells the refusal after its delay. A failed reauthentication ends the session (MS-SMB2 3.3.5.5.3); a failed
/// binding leaves it alone.
async fn refused_login(conn: &Arc<Connection>, pending: Pending, refused: Refused) -> SetupReply {
    if refused.delay > Duration::ZERO {
        tokio::select! {
            () = tokio::time::sleep(refused.delay) => {}
            () = conn.closed() => {}
        }
    }
    if let Kind::Reauthenticate(channel) = &pending.kind {
        channel.session.end(conn.server(), SessionEnd::Close).await;
    }
    SetupReply {
        signer: pending.signer(),
        ..refuse(refused.status, pending.id)
    }
}

async fn finish(
    conn: &Arc<Connection>,
    pending: Pending,
    request: &SessionSetupRequest,
    login: Login,
) -> Result<Arc<Channel>, NtStatus> {
    let server = conn.server();
    match &pending.kind {
        Kind::New => {}
        Kind::Bind(session) => return bind(conn, session, &pending.hash, login),
        Kind::Reauthenticate(channel) => {
            if channel.session.caller.identity.user != login.identity.user {
                channel.session.end(server, SessionEnd::Close).await;
                return Err(NtStatus::ACCESS_DENIED);
            }
            return Ok(channel.clone());
        }
    }
    let channel = make_session(conn, pending.id, &pending.hash, request, login)?;
    let previous = SessionId(request.previous_session_id);
    if previous.0 != 0 && previous != pending.id {
        replace(conn, previous, &channel.session).await;
    }
    server.add_session(&channel.session);
    channel.session.add_channel(conn);
    conn.add_channel(&channel);
    tracing::debug!(session = pending.id.0, user = channel.session.user, peer = %conn.peer, "session started");
    Ok(channel)
}

/// Makes this connection a further channel, with a signing key of its own from this login.
fn bind(
    conn: &Arc<Connection>,
    session: &Arc<Session>,
    hash: &PreauthHash,
    login: Login,
) -> Result<Arc<Channel>, NtStatus> {
    if session.caller.identity.user != login.identity.user {
        return Err(NtStatus::ACCESS_DENIED);
    }
    if session.ended.is_cancelled() {
        return Err(NtStatus::USER_SESSION_DELETED);
    }
    let channel = Arc::new(Channel {
        session: session.clone(),
        signer: channel_signer(conn, &login, hash)?,
    });
    if !session.add_channel(conn) {
        return Err(NtStatus::INSUFFICIENT_RESOURCES);
    }
    conn.add_channel(&channel);
    Ok(channel)
}

/// Ends the session that the client had before, if it is the same user's (MS-SMB2 3.3.5.5.3).
async fn replace(conn: &Connection, previous: SessionId, by: &Session) {
    let Some(old) = conn.server().session(previous) else {
        return;
    };
    if old.caller.identity.user == by.caller.identity.user {
        old.end(conn.server(), SessionEnd::Disconnect).await;
    }
}

fn crypto_failed(error: CryptoFailed) -> NtStatus {
    tracing::error!(%error, "session keys could not be made");
    NtStatus::INTERNAL_ERROR
}

fn channel_signer(
    conn: &Connection,
    login: &Login,
    hash: &PreauthHash,
) -> Result<Arc<Signer>, NtStatus> {
    let key = kdf::signing_key(conn.dialect(), &login.session_key, hash);
    Signer::new(conn.signing_algorithm(), &key)
        .map(Arc::new)
        .map_err(crypto_failed)
}

fn sealing(
    conn: &Connection,
    id: SessionId,
    login: &Login,
    hash: &PreauthHash,
) -> Result<Option<Sealing>, NtStatus> {
    let Some(cipher) = conn.cipher() else {
        return Ok(None);
    };
    let (outgoing, incoming) = kdf::cipher_keys(conn.dialect(), cipher, &login.session_key, hash);
    let cipher = SessionCipher::new(cipher, &outgoing, &incoming).map_err(crypto_failed)?;
    Ok(Some(Sealing {
        session_id: id.0,
        cipher: Arc::new(cipher),
    }))
}

fn make_session(
    conn: &Arc<Connection>,
    id: SessionId,
    hash: &PreauthHash,
    request: &SessionSetupRequest,
    login: Login,
) -> Result<Arc<Channel>, NtStatus> {
    let options = &conn.server().options;
    let signer = channel_signer(conn, &login, hash)?;
    let sealing = sealing(conn, id, &login, hash)?;
    if options.encryption_required && sealing.is_none() {
        return Err(NtStatus::ACCESS_DENIED);
    }
    let client_requires = u16::from(request.security_mode) & SIGNING_REQUIRED != 0;
    let home = conn.client_or_init(|guid| {
        let address = conn.peer.ip();
        conn.server()
            .vfs
            .client(Protocol::Smb, address, &login.workstation, guid)
    });
    let session = Session {
        id,
        user: login.identity.name.clone(),
        caller: Caller {
            identity: login.identity,
            client: home.client.clone(),
        },
        opens: OpenTable::default(),
        ended: CancellationToken::new(),
        signing_required: options.signing_required || client_requires,
        encryption_required: options.encryption_required,
        sealing,
        signer: signer.clone(),
        terms: conn.terms(),
        home: home.retain(),
        channels: Mutex::default(),
        trees: Default::default(),
    };
    Ok(Arc::new(Channel {
        session: Arc::new(session),
        signer,
    }))
}
