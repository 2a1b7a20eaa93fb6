//! The requests of one frame, one after the other: verification, inheritance in related compounds, the
//! interim response, and the reply (MS-SMB2 3.3.5.2, 3.3.4.1 to 3.3.4.4).

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sluice_smb_wire::cmd::negotiate::Dialect;
use sluice_smb_wire::cmd::session::FLAG_BINDING;
use sluice_smb_wire::cmd::{echo, error, logoff};
use sluice_smb_wire::{Command, FileId, Flags, Header, NtStatus};
use smallvec::SmallVec;
use tokio::sync::OwnedSemaphorePermit;

use super::credits::CREDITS_MAX;
use super::outgoing::{self, Frame, Message, Sealing};
use super::receive::{Fatal, Parts};
use super::{Connection, negotiate};
use crate::crypto::signing::Signer;
use crate::op::{self, OpContext, OpReply};
use crate::session::setup::Signature;
use crate::session::{Channel, Session, SessionEnd, SessionId, TreeId, setup, tree};

/// How long an operation may take before its client gets the interim response: more than storage needs, so that it means a real wait.
const INTERIM_GRACE: Duration = Duration::from_millis(50);

struct Element {
    header: Header,
    message: Bytes,
    channel: Option<Arc<Channel>>,
    /// The session, if only other connections carry it or a SESSION_SETUP asks to bind it.
    elsewhere: Option<Arc<Session>>,
    signature: Signature,
}

/// What a related request takes from the one before it.
#[derive(Default)]
struct Inherited {
    session_id: u64,
    tree_id: u32,
    file: Option<FileId>,
    /// The CREATE that should have given the file failed so.
    create_failed: Option<NtStatus>,
    /// The request before had no session, or inherited nothing itself.
    nothing: bool,
}

/// A reply with what its header needs beyond the request's.
struct Answer {
    reply: OpReply,
    header: Header,
    async_id: Option<u64>,
}

/// The requests of one frame.
pub(super) struct Chain {
    conn: Arc<Connection>,
    elements: SmallVec<[Element; 1]>,
    encrypted: Option<Arc<Channel>>,
    permit: Option<OwnedSemaphorePermit>,
    inherited: Inherited,
    /// Replies that wait for the end of the compound.
    replies: Vec<Message>,
    /// The request at hand is the last of the frame.
    at_last: bool,
}

impl Chain {
    /// Verifies the signatures and keeps the messages. `frame` starts at the first SMB2 header.
    pub fn new(
        conn: Arc<Connection>,
        mut frame: BytesMut,
        parts: Parts,
        encrypted: Option<Arc<Channel>>,
        permit: OwnedSemaphorePermit,
    ) -> Chain {
        let mut session_id = 0;
        let checked: SmallVec<[_; 1]> = parts
            .into_iter()
            .enumerate()
            .map(|(index, (header, range))| {
                if index == 0 || !header.is_related() {
                    session_id = header.session_id;
                }
                let id = SessionId(session_id);
                let channel = conn.channel(id);
                let foreign = channel.is_none() || binds(&header, &frame[range.clone()]);
                let elsewhere = foreign.then(|| conn.server().session(id)).flatten();
                let signer = match &elsewhere {
                    Some(session) => Some(&session.signer),
                    None => channel.as_ref().map(|c| &c.signer),
                };
                let signature = match signer {
                    _ if encrypted.is_some() || !header.flags.has(Flags::SIGNED) => {
                        Signature::Absent
                    }
                    Some(signer) if signer.verify(&header, &mut frame[range.clone()]) => {
                        Signature::Valid
                    }
                    _ => Signature::Invalid,
                };
                (header, range, channel, elsewhere, signature)
            })
            .collect();
        let frame = frame.freeze();
        let elements = checked
            .into_iter()
            .map(|(header, range, channel, elsewhere, signature)| Element {
                header,
                message: frame.slice(range),
                channel,
                elsewhere,
                signature,
            })
            .collect();
        Chain {
            conn,
            elements,
            encrypted,
            permit: Some(permit),
            inherited: Inherited::default(),
            replies: Vec::new(),
            at_last: true,
        }
    }

    /// Carries the requests out and sends what is to be sent.
    pub async fn run(mut self) {
        let elements = std::mem::take(&mut self.elements);
        let compound = elements.len() > 1;
        let last = elements.len().saturating_sub(1);
        for (index, element) in elements.into_iter().enumerate() {
            self.at_last = index == last;
            let done = match element.header.command() {
                Some(Command::Negotiate) => self.negotiate(element, compound).await,
                Some(Command::SessionSetup) if !compound => self.session_setup(element).await,
                _ if self.conn.negotiated().is_none() => Err(Fatal("a request before negotiation")),
                _ => self.request(element, index).await,
            };
            if let Err(Fatal(why)) = done {
                tracing::info!(peer = %self.conn.peer, why, "the SMB connection is dropped");
                self.conn.terminate();
                return;
            }
        }
        self.flush().await;
    }

    /// Sends the replies that are ready as one frame.
    async fn flush(&mut self) {
        if self.replies.is_empty() {
            return;
        }
        let messages = std::mem::take(&mut self.replies);
        let permit = self.permit.take();
        if let Some(frame) = self.build(messages) {
            self.conn.send(Frame { permit, ..frame }).await;
        }
    }

    fn build(&self, messages: Vec<Message>) -> Option<Frame> {
        let sealing = self
            .encrypted
            .as_ref()
            .and_then(|c| c.session.sealing.as_ref());
        seal(&self.conn, messages, sealing)
    }

    /// One request that needs (or may name) a session.
    async fn request(&mut self, mut element: Element, index: usize) -> Result<(), Fatal> {
        let related = element.header.is_related();
        if related && index > 0 {
            element.header.session_id = self.inherited.session_id;
            element.header.async_or_tree = u64::from(self.inherited.tree_id) << 32;
        } else {
            self.inherited = Inherited {
                session_id: element.header.session_id,
                tree_id: element.header.tree_id(),
                ..Inherited::default()
            };
        }
        let signer = self.reply_signer(&element);
        // Neither a related request at the head nor one behind a request without a session can inherit.
        let orphan = related && (index == 0 || self.inherited.nothing);
        self.inherited.nothing = orphan || element.channel.is_none();
        let answer = if orphan {
            Answer::new(element.header, NtStatus::INVALID_PARAMETER.into())
        } else {
            self.answer(element).await
        };
        let message = finish(&self.conn, answer, signer);
        self.replies.push(message);
        Ok(())
    }

    /// A reply is signed if the request was, or if the session insists. A client whose session lives on other
    /// connections only is told so with the session's key, which it checks.
    fn reply_signer(&self, element: &Element) -> Option<Arc<Signer>> {
        let signed = element.signature != Signature::Absent;
        match (&element.channel, &element.elsewhere) {
            _ if self.encrypted.is_some() => None,
            (Some(channel), _) => {
                let sign = signed || channel.session.signing_required;
                sign.then(|| channel.signer.clone())
            }
            (None, Some(session)) if element.signature == Signature::Valid => {
                Some(session.signer.clone())
            }
            (None, _) => None,
        }
    }

    async fn answer(&mut self, element: Element) -> Answer {
        let header = element.header;
        let Some(command) = header.command() else {
            return Answer::new(header, NtStatus::INVALID_PARAMETER.into());
        };
        let channel = match self.admit(&element, command) {
            Ok(channel) => channel,
            Err(status) => return Answer::new(header, status.into()),
        };
        match (command, channel) {
            (Command::Echo, _) => {
                Answer::new(header, four_bytes(echo::decode(&element.message).is_ok()))
            }
            (Command::Logoff, Some(channel)) => {
                Answer::new(header, self.logoff(&element, &channel).await)
            }
            (Command::TreeConnect, Some(channel)) => self.tree_connect(&element, &channel).await,
            (Command::TreeDisconnect, Some(channel)) => {
                let reply =
                    tree::disconnect(&channel.session, TreeId(header.tree_id()), &element.message)
                        .await;
                Answer::new(header, reply)
            }
            (_, Some(channel)) => self.operate(element, channel, command).await,
            (_, None) => Answer::new(header, NtStatus::USER_SESSION_DELETED.into()),
        }
    }

    /// The session checks that come before every command (MS-SMB2 3.3.5.2.4, 3.3.5.2.9).
    fn admit(&self, element: &Element, command: Command) -> Result<Option<Arc<Channel>>, NtStatus> {
        let sessionless = command == Command::Echo;
        let Some(channel) = &element.channel else {
            return if sessionless {
                Ok(None)
            } else {
                Err(NtStatus::USER_SESSION_DELETED)
            };
        };
        let session = &channel.session;
        if session.ended.is_cancelled() {
            return if sessionless {
                Ok(None)
            } else {
                Err(NtStatus::USER_SESSION_DELETED)
            };
        }
        if element.signature == Signature::Invalid {
            return Err(NtStatus::ACCESS_DENIED);
        }
        let encrypted = self.encrypted.is_some();
        if session.encryption_required && !encrypted {
            return Err(NtStatus::ACCESS_DENIED);
        }
        if session.signing_required && !encrypted && element.signature == Signature::Absent {
            return Err(NtStatus::ACCESS_DENIED);
        }
        // 3.1.1 protects TREE_CONNECT always (MS-SMB2 3.3.5.7).
        let bare = !encrypted && element.signature == Signature::Absent;
        if command == Command::TreeConnect && self.conn.dialect() == Dialect::Smb311 && bare {
            return Err(NtStatus::ACCESS_DENIED);
        }
        Ok(Some(channel.clone()))
    }

    async fn logoff(&self, element: &Element, channel: &Channel) -> OpReply {
        if logoff::decode(&element.message).is_err() {
            return NtStatus::INVALID_PARAMETER.into();
        }
        channel
            .session
            // Durable opens outlive a logoff as they do a lost connection (MS-SMB2 3.3.5.6).
            .end(self.conn.server(), SessionEnd::Disconnect)
            .await;
        four_bytes(true)
    }

    async fn tree_connect(&mut self, element: &Element, channel: &Channel) -> Answer {
        let (reply, id) =
            tree::connect(self.conn.server(), &channel.session, &element.message).await;
        let mut header = element.header;
        if let Some(TreeId(id)) = id {
            self.inherited.tree_id = id;
            header.async_or_tree = u64::from(id) << 32;
        }
        Answer::new(header, reply)
    }

    /// A file command.
    async fn operate(
        &mut self,
        element: Element,
        channel: Arc<Channel>,
        command: Command,
    ) -> Answer {
        let header = element.header;
        let Some(tree) = channel.session.tree(TreeId(header.tree_id())) else {
            return Answer::new(header, NtStatus::NETWORK_NAME_DELETED.into());
        };
        if tree.encryption_required && self.encrypted.is_none() {
            return Answer::new(header, NtStatus::ACCESS_DENIED.into());
        }
        if let Some(status) = self.inherited.create_failed
            && header.is_related()
            && command != Command::Create
        {
            return Answer::new(header, status.into());
        }
        let ctx = OpContext {
            server: self.conn.server().clone(),
            conn: self.conn.clone(),
            session: channel.session.clone(),
            cancel: tree.ended.child_token(),
            tree,
            header,
            message: element.message,
            related_file: self.inherited.file,
            encrypted: self.encrypted.is_some(),
            waits: Arc::new(AtomicBool::new(false)),
        };
        let (reply, async_id) = self.drive(&ctx, command).await;
        if command == Command::Create {
            self.inherited.file = reply.file;
            self.inherited.create_failed = reply.status.is_error().then_some(reply.status);
        } else if reply.file.is_some() {
            self.inherited.file = reply.file;
        }
        Answer {
            reply,
            header,
            async_id,
        }
    }

    /// Polls an operation to its end; sends the interim response if it waits or takes longer than the grace.
    async fn drive(&mut self, ctx: &OpContext, command: Command) -> (OpReply, Option<u64>) {
        let operation = op::dispatch(ctx);
        tokio::pin!(operation);
        if let Poll::Ready(reply) = poll_fn(|cx| Poll::Ready(operation.as_mut().poll(cx))).await {
            return (reply, None);
        }
        let conn = self.conn.clone();
        let guard = conn
            .inflight
            .enter(ctx.header.message_id, ctx.cancel.clone());
        let grace = tokio::time::sleep(INTERIM_GRACE);
        tokio::pin!(grace);
        let early = poll_fn(|cx| {
            if let Poll::Ready(reply) = operation.as_mut().poll(cx) {
                return Poll::Ready(Some(reply));
            }
            if ctx.waits.load(Ordering::Acquire) {
                return Poll::Ready(None);
            }
            grace.as_mut().poll(cx).map(|()| None)
        });
        if let Some(reply) = early.await {
            return (reply, None);
        }
        if !self.at_last && matches!(command, Command::ChangeNotify | Command::Lock) {
            // These may wait for ever, and with them the rest of the compound (MS-SMB2 3.3.5.2.7).
            ctx.cancel.cancel();
            operation.await;
            return (NtStatus::INTERNAL_ERROR.into(), None);
        }
        let async_id = guard.go_async();
        self.flush().await;
        self.interim(&ctx.header, async_id).await;
        if !matches!(command, Command::Read | Command::Write) {
            // A request that waits for others must not keep the connection's memory budget meanwhile.
            self.permit = None;
        }
        let reply = tokio::select! {
            reply = &mut operation => reply,
            () = conn.closed() => {
                // The session may live on over another channel, but nobody waits for this reply.
                ctx.cancel.cancel();
                operation.await
            }
        };
        (reply, Some(async_id))
    }

    /// The interim response: never signed, since a GMAC nonce serves one message only.
    async fn interim(&self, request: &Header, async_id: u64) {
        let answer = Answer {
            reply: NtStatus::PENDING.into(),
            header: *request,
            async_id: Some(async_id),
        };
        let mut message = finish(&self.conn, answer, None);
        message.header.credits = self.conn.credits.lock().grant(request.credits, CREDITS_MAX);
        if let Some(frame) = self.build(vec![message]) {
            self.conn.send(frame).await;
        }
    }

    async fn negotiate(&mut self, element: Element, compound: bool) -> Result<(), Fatal> {
        if compound || self.conn.negotiated().is_some() {
            return Err(Fatal("a second negotiation"));
        }
        let server = self.conn.server();
        let outcome = negotiate::handle(server.guid, &server.options, &element.message);
        settle(&self.conn, element.header, &element.message, outcome).await;
        Ok(())
    }

    async fn session_setup(&mut self, element: Element) -> Result<(), Fatal> {
        if self.conn.negotiated().is_none() {
            return Err(Fatal("a login before negotiation"));
        }
        if element.signature == Signature::Invalid && element.channel.is_some() {
            let answer = Answer::new(element.header, NtStatus::ACCESS_DENIED.into());
            self.replies.push(finish(&self.conn, answer, None));
            return Ok(());
        }
        let encrypted = self.encrypted.is_some();
        let request = setup::SetupRequest {
            header: &element.header,
            message: &element.message,
            encrypted,
            signature: element.signature,
            elsewhere: element.elsewhere.as_ref(),
        };
        let done = setup::handle(&self.conn, request).await;
        let mut header = element.header;
        header.session_id = done.session_id.0;
        let signer = done.signer.filter(|_| !encrypted);
        let message = finish(&self.conn, Answer::new(header, done.reply), signer);
        let Some(frame) = self.build(vec![message]) else {
            return Ok(());
        };
        if let Some(login) = done.continues {
            login.resume(&self.conn, &frame.message_parts());
        }
        self.conn.send(frame).await;
        Ok(())
    }
}

/// Whether a message is a SESSION_SETUP that asks to bind a session to this connection.
fn binds(header: &Header, message: &[u8]) -> bool {
    const FLAGS_AT: usize = sluice_smb_wire::HEADER_LEN + 2;
    header.command() == Some(Command::SessionSetup)
        && message.get(FLAGS_AT).is_some_and(|f| f & FLAG_BINDING != 0)
}

impl Answer {
    fn new(header: Header, reply: OpReply) -> Answer {
        Answer {
            reply,
            header,
            async_id: None,
        }
    }
}

/// The response that ECHO and LOGOFF share, or the error for a malformed request.
fn four_bytes(well_formed: bool) -> OpReply {
    if !well_formed {
        return NtStatus::INVALID_PARAMETER.into();
    }
    let mut body = BytesMut::with_capacity(4);
    echo::encode_response(&mut body);
    OpReply::ok(body)
}

/// Makes the response message: header, credits (an async final response has none, its interim had them), and
/// the ERROR body where the handler gave none.
fn finish(conn: &Connection, answer: Answer, signer: Option<Arc<Signer>>) -> Message {
    let Answer {
        mut reply,
        header: request,
        async_id,
    } = answer;
    let mut header = request.response(reply.status);
    match async_id {
        Some(id) => {
            header.flags.0 |= Flags::ASYNC;
            header.async_or_tree = id;
        }
        None => header.credits = conn.credits.lock().grant(request.credits, CREDITS_MAX),
    }
    if reply.body.is_empty() && reply.payload.is_empty() {
        let contexts = conn.dialect() == Dialect::Smb311;
        error::encode(&reply.error_data, contexts, &mut reply.body);
    }
    Message {
        header,
        body: reply.body,
        payload: reply.payload,
        signer,
    }
}

fn seal(conn: &Connection, messages: Vec<Message>, sealing: Option<&Sealing>) -> Option<Frame> {
    match outgoing::build(messages, sealing) {
        Ok(frame) => Some(frame),
        Err(error) => {
            tracing::error!(peer = %conn.peer, %error, "a reply could not be protected; the connection is dropped");
            conn.terminate();
            None
        }
    }
}

/// Sends the answer to a negotiation and, if it is final, fixes what it settled.
async fn settle(conn: &Connection, header: Header, request: &Bytes, outcome: negotiate::Outcome) {
    let message = finish(conn, Answer::new(header, outcome.reply), None);
    let Some(frame) = seal(conn, vec![message], None) else {
        return;
    };
    if let Some(negotiated) = outcome.negotiated {
        let mut hash = conn.preauth.lock();
        hash.update(&[request]);
        hash.update(&frame.message_parts());
        // Negotiation runs on the reader, one frame at a time, so the cell is empty.
        let _ = conn.negotiated.set(negotiated);
    }
    conn.send(frame).await;
}

/// Answers the SMB1 NEGOTIATE of a client that would rather speak SMB2 (MS-SMB2 3.3.5.3).
pub(super) async fn negotiate_smb1(conn: &Arc<Connection>, frame: BytesMut) -> Result<(), Fatal> {
    if conn.negotiated().is_some() {
        return Err(Fatal("SMB1 after negotiation"));
    }
    let server = conn.server();
    let request = frame.freeze();
    let outcome = negotiate::handle_smb1(server.guid, &server.options, &request)
        .ok_or(Fatal("an SMB1 client without SMB2"))?;
    // The answer has message id 0, as if an SMB2 request had used it.
    let header = Header {
        credit_charge: 0,
        status: 0,
        command: Command::Negotiate as u16,
        credits: 1,
        flags: Flags(0),
        next_command: 0,
        message_id: 0,
        async_or_tree: 0,
        session_id: 0,
        signature: [0; 16],
    };
    conn.credits
        .lock()
        .consume(0, 1)
        .map_err(|_| Fatal("SMB1 negotiation twice"))?;
    settle(conn, header, &request, outcome).await;
    Ok(())
}
