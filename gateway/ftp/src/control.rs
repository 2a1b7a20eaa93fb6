//! The control connection: reads commands, lets the session decide, carries out what it decided, answers in order.
//!
//! While a transfer runs or waits, the connection is still read: ABOR, STAT, NOOP and QUIT are dealt with, anything else is
//! kept for later, and the loss of the connection cancels the transfer.

mod prepare;
mod running;

pub(crate) use prepare::canonical;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use sluice_vfs::{Client, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::codec::command::{Command, ParseError, parse};
use crate::codec::line::{LineDecoder, LineEvent};
use crate::context::Progress;
use crate::data::{DataStream, Prepared};
use crate::options::TlsMode;
use crate::reply::{self, Reply};
use crate::server::Shared;
use crate::session::{Session, SessionRules, Step};

/// Commands sent ahead that are kept; with more, the connection is not read on.
const QUEUE_MAX: usize = 64;
const READ_BYTES: usize = 4 * 1024;

/// One line from the client, read.
enum Input {
    Command(Command),
    NotACommand(ParseError),
    TooLong,
}

/// How the loop goes on.
enum Flow {
    Next,
    /// Replies are written; close.
    Close,
    /// The client is gone; nothing can be said.
    Gone,
    /// Replies are written; begin TLS.
    StartTls,
}

/// The ends of a control connection; peer and called address are a balancer's word where one stands between.
#[derive(Clone, Copy)]
pub(crate) struct ControlEnds {
    /// The client.
    pub(crate) peer: SocketAddr,
    /// This end's address here.
    pub(crate) local: SocketAddr,
    /// The address that the client called.
    pub(crate) called: SocketAddr,
    /// The client is a program on this machine, and no balancer on its way.
    pub(crate) same_machine: bool,
}

/// One control connection.
pub(crate) struct Control {
    shared: Arc<Shared>,
    session: Session,
    client: Arc<Client>,
    peer: SocketAddr,
    local: SocketAddr,
    called: SocketAddr,
    same_machine: bool,
    decoder: LineDecoder,
    input: BytesMut,
    output: BytesMut,
    queue: VecDeque<Input>,
    prepared: Option<Prepared>,
    progress: Arc<Progress>,
    interim: (mpsc::Sender<Reply>, mpsc::Receiver<Reply>),
    connected: Instant,
}

impl Control {
    /// Serves one connection from greeting to end.
    pub(crate) async fn run(
        shared: Arc<Shared>,
        stream: TcpStream,
        ends: ControlEnds,
        implicit_tls: bool,
    ) {
        let ControlEnds {
            peer,
            local,
            called,
            same_machine,
        } = ends;
        let options = &shared.options;
        let rules = SessionRules {
            tls: options.tls_mode,
            active_mode: options.active_mode,
            login_attempts_max: options.limits.login_attempts_max,
            peer,
            implicit_tls,
        };
        let client = shared.vfs.client(Protocol::Ftp, peer.ip(), "", [0; 16]);
        let mut control = Control {
            session: Session::new(rules),
            client,
            peer,
            local,
            called,
            same_machine,
            decoder: LineDecoder::default(),
            input: BytesMut::with_capacity(READ_BYTES),
            output: BytesMut::new(),
            queue: VecDeque::new(),
            prepared: None,
            progress: Arc::default(),
            interim: mpsc::channel(4),
            connected: Instant::now(),
            shared,
        };
        match control.serve(stream, implicit_tls).await {
            Ok(()) => tracing::debug!("session ended"),
            Err(error) => tracing::debug!(%error, "session lost"),
        }
        control.shared.vfs.client_gone(&control.client).await;
    }

    async fn serve(&mut self, stream: TcpStream, implicit_tls: bool) -> io::Result<()> {
        let mut stream = if implicit_tls {
            self.start_tls(DataStream::Plain(stream)).await?
        } else {
            DataStream::Plain(stream)
        };
        let banner = self.shared.options.banner.clone();
        self.say(&Reply::text(220, banner));
        loop {
            match self.converse(&mut stream).await? {
                Flow::StartTls => stream = self.start_tls(stream).await?,
                Flow::Gone => return Ok(()),
                Flow::Next | Flow::Close => break,
            }
        }
        let limit = self.shared.options.limits.reply_timeout;
        timeout(limit, stream.shutdown()).await?
    }

    /// Goes over to TLS. Whatever came in the clear behind AUTH is thrown away: it could be an attacker's.
    async fn start_tls(&mut self, stream: DataStream) -> io::Result<DataStream> {
        let (DataStream::Plain(stream), Some(acceptor)) = (stream, &self.shared.acceptor) else {
            return Err(io::Error::other("TLS can't begin here"));
        };
        self.queue.clear();
        self.input.clear();
        self.decoder = LineDecoder::default();
        let limit = self.shared.options.limits.login_timeout;
        let stream = timeout(limit, acceptor.accept(stream)).await??;
        self.session.control_tls = true;
        Ok(DataStream::Tls(Box::new(stream)))
    }

    /// Reads and answers until the connection ends or changes.
    async fn converse(&mut self, stream: &mut DataStream) -> io::Result<Flow> {
        loop {
            let Some(input) = self.next_input(stream).await? else {
                self.flush(stream).await?;
                return Ok(Flow::Close);
            };
            let flow = match input {
                Input::Command(command) => self.obey(stream, command).await?,
                Input::NotACommand(error) => {
                    self.say(&reply::not_a_command(&error));
                    Flow::Next
                }
                Input::TooLong => {
                    self.say(&reply::LINE_TOO_LONG);
                    Flow::Next
                }
            };
            match flow {
                Flow::Next => {}
                Flow::Gone => return Ok(Flow::Gone),
                Flow::Close | Flow::StartTls => {
                    self.flush(stream).await?;
                    return Ok(flow);
                }
            }
        }
    }

    async fn obey(&mut self, stream: &mut DataStream, command: Command) -> io::Result<Flow> {
        match self.session.on_command(command) {
            Step::Reply(reply) => self.say(&reply),
            Step::Work(work) => return self.carry_out(stream, work).await,
            Step::Data(plan) => {
                let reply = self.prepare(plan).await;
                self.say(&reply);
            }
            Step::Reset(reply) => {
                self.prepared = None;
                self.say(&reply);
            }
            Step::NothingToAbort => {
                self.prepared = None;
                self.say(&Reply::fixed(226, "Nothing to abort."));
            }
            Step::Status => {
                let status = self.status(false);
                self.say(&status);
            }
            Step::StartTls(reply) => {
                self.say(&reply);
                return Ok(Flow::StartTls);
            }
            Step::Close(reply) => {
                self.say(&reply);
                return Ok(Flow::Close);
            }
        }
        Ok(Flow::Next)
    }

    /// The next line; `None` when the session is to end (its last reply is said already).
    async fn next_input(&mut self, stream: &mut DataStream) -> io::Result<Option<Input>> {
        let limits = &self.shared.options.limits;
        let deadline = match self.session.identity() {
            Some(_) => Instant::now() + limits.idle_timeout,
            None => self.connected + limits.login_timeout,
        };
        loop {
            if let Some(input) = self.queue.pop_front() {
                return Ok(Some(input));
            }
            if self.input.has_remaining() {
                self.decode();
                continue;
            }
            self.flush(stream).await?;
            self.input.reserve(READ_BYTES);
            tokio::select! {
                biased;
                read = stream.read_buf(&mut self.input) => {
                    if read? == 0 {
                        return Ok(None);
                    }
                }
                () = self.shared.stop.cancelled() => {
                    self.say(&reply::STOPPING);
                    return Ok(None);
                }
                () = tokio::time::sleep_until(deadline) => {
                    self.say(&reply::IDLE);
                    return Ok(None);
                }
            }
        }
    }

    /// Turns what was read into inputs, as far as the queue has room.
    fn decode(&mut self) {
        while self.queue.len() < QUEUE_MAX {
            match self.decoder.next(&mut self.input) {
                None => return,
                Some(LineEvent::RefuseOption(bytes)) => self.output.extend_from_slice(&bytes),
                Some(LineEvent::TooLong) => self.queue.push_back(Input::TooLong),
                Some(LineEvent::Line(line)) => self.queue.push_back(match parse(&line) {
                    Ok(command) => Input::Command(command),
                    Err(error) => Input::NotACommand(error),
                }),
            }
        }
    }

    fn say(&mut self, reply: &Reply) {
        tracing::trace!(code = reply.code(), "reply");
        reply.encode(&mut self.output);
    }

    async fn flush(&mut self, stream: &mut DataStream) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let limit = self.shared.options.limits.reply_timeout;
        timeout(limit, async {
            stream.write_all_buf(&mut self.output).await?;
            stream.flush().await
        })
        .await?
    }

    /// STAT without a path (RFC 959 4.1.3).
    fn status(&self, transferring: bool) -> Reply {
        let session = &self.session;
        let mut lines = vec![
            format!(
                " Node {}, connected from {}",
                self.shared.vfs.node_name(),
                self.peer.ip()
            ),
            format!(
                " Logged in as {}",
                session
                    .identity()
                    .map_or("nobody", |identity| &identity.name)
            ),
            format!(" TYPE: {:?}, STRU: F, MODE: S", session.transfer_type),
            format!(
                " TLS: {}, data connections: {:?}",
                if session.control_tls { "on" } else { "off" },
                session.protection
            ),
        ];
        lines.push(match (transferring, self.progress.granted()) {
            (false, _) => " No transfer".to_owned(),
            (true, false) => " A transfer waits for others to finish".to_owned(),
            (true, true) => format!(
                " A transfer is under way, {} bytes so far",
                self.progress.bytes()
            ),
        });
        Reply::lines(211, "Status:", lines, "End of status.")
    }

    fn must_protect_data(&self) -> bool {
        self.session.protection == crate::session::Protection::Private
            && self.shared.options.tls_mode != TlsMode::Off
    }
}
