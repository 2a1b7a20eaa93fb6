//! A work under way: its interim reply, and what the client says meanwhile.

use std::io;
use std::sync::Arc;

use sluice_vfs::in_own_task;
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::{Control, Flow, Input, QUEUE_MAX, READ_BYTES};
use crate::cmd;
use crate::codec::command::Command;
use crate::context::Context;
use crate::data::{DataLink, DataStream, Watch};
use crate::reply::{self, Reply};
use crate::work::{Done, Work};

/// What the client did while a work ran.
#[derive(Default)]
struct Meanwhile {
    /// No more bytes will come.
    ended: bool,
    /// Nothing can be said any more either.
    lost: bool,
    /// ABOR came and waits for its own reply.
    abort_asked: bool,
}

impl Control {
    /// Carries out `work` and answers it.
    pub(super) async fn carry_out(
        &mut self,
        stream: &mut DataStream,
        work: Work,
    ) -> io::Result<Flow> {
        let transfer = work.needs_data();
        let data = match (transfer, self.prepared.take()) {
            (true, None) => {
                self.say(&reply::DATA_FIRST);
                return Ok(Flow::Next);
            }
            (true, Some(prepared)) => Some(DataLink::new(
                prepared,
                self.peer.ip(),
                self.shared.options.proxies.clone(),
            )),
            (false, prepared) => {
                self.prepared = prepared;
                None
            }
        };
        // Replies to earlier commands don't wait for this one.
        self.flush(stream).await?;
        let cancel = self.shared.hard_stop.child_token();
        let control = match work {
            Work::Store(_) => Some(stream.watch()?),
            _ => None,
        };
        let cx = self.context(cancel.clone(), control);
        // This task serves nobody but the client that waits for the answer.
        let mut job = Box::pin(in_own_task(cmd::run(cx, data, work)));
        let mut meanwhile = Meanwhile::default();
        let done = loop {
            let may_read = !meanwhile.ended && self.queue.len() < QUEUE_MAX;
            self.input.reserve(READ_BYTES);
            tokio::select! {
                // The client first: its loss must be seen before the end of its upload is believed.
                biased;
                read = stream.read_buf(&mut self.input), if may_read => {
                    self.heard(read, transfer, &cancel, &mut meanwhile);
                    meanwhile.lost |= self.flush(stream).await.is_err();
                }
                done = &mut job => break done,
                Some(interim) = self.interim.1.recv() => {
                    self.say(&interim);
                    meanwhile.lost |= self.flush(stream).await.is_err();
                }
            }
            if meanwhile.lost {
                cancel.cancel();
            }
        };
        drop(job);
        while let Ok(interim) = self.interim.1.try_recv() {
            self.say(&interim);
        }
        if meanwhile.lost {
            return Ok(Flow::Gone);
        }
        Ok(self.conclude(done, meanwhile.abort_asked))
    }

    fn context(&self, cancel: CancellationToken, control: Option<Watch>) -> Context {
        self.progress.start();
        Context {
            vfs: self.shared.vfs.clone(),
            options: Arc::clone(&self.shared.options),
            client: Arc::clone(&self.client),
            peer: self.peer.ip(),
            identity: self.session.identity().cloned(),
            interim: self.interim.0.clone(),
            cancel,
            control,
            same_machine: self.same_machine,
            progress: Arc::clone(&self.progress),
            data_tls: self
                .shared
                .acceptor
                .clone()
                .filter(|_| self.must_protect_data()),
        }
    }

    /// Deals with what was read while a work runs.
    fn heard(
        &mut self,
        read: io::Result<usize>,
        transfer: bool,
        cancel: &CancellationToken,
        meanwhile: &mut Meanwhile,
    ) {
        match read {
            Ok(0) => {
                meanwhile.ended = true;
                // A script may close its side right after its last command and still read replies; a transfer, though,
                // must not end by itself once its client is gone.
                if transfer {
                    meanwhile.lost = true;
                }
            }
            Ok(_) => {
                self.decode();
                self.answer_meanwhile(transfer, cancel, meanwhile);
            }
            Err(_) => {
                meanwhile.ended = true;
                meanwhile.lost = true;
            }
        }
    }

    /// ABOR always, and during transfers STAT, NOOP and QUIT, don't wait for the end; everything else does.
    fn answer_meanwhile(
        &mut self,
        transfer: bool,
        cancel: &CancellationToken,
        meanwhile: &mut Meanwhile,
    ) {
        for input in std::mem::take(&mut self.queue) {
            match input {
                Input::Command(Command::Abor) => {
                    meanwhile.abort_asked = true;
                    cancel.cancel();
                }
                Input::Command(Command::Noop) if transfer => {
                    self.say(&Reply::fixed(200, "Still here."))
                }
                Input::Command(Command::Stat(path)) if transfer && path.is_empty() => {
                    let status = self.status(true);
                    self.say(&status);
                }
                Input::Command(Command::Quit) => {
                    // RFC 959 4.1.1: a running transfer ends first; one that still waits is given up.
                    if transfer && !self.progress.granted() {
                        cancel.cancel();
                    }
                    self.queue.push_back(Input::Command(Command::Quit));
                }
                other => self.queue.push_back(other),
            }
        }
    }

    fn conclude(&mut self, done: Done, abort_asked: bool) -> Flow {
        self.say(&done.reply);
        let last_word = done.change.and_then(|change| self.session.apply(change));
        if abort_asked {
            self.say(&Reply::fixed(226, "Abort done."));
        }
        match last_word {
            Some(reply) => {
                self.say(&reply);
                Flow::Close
            }
            None => Flow::Next,
        }
    }
}
