//! An SMB 2.1 client: NTLMv2 login, unsigned, explicit requests. `send_*` and `receive` allow pipelining.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use md4::Digest as _;

/// NTSTATUS values that tests name.
pub mod status {
    /// Done.
    pub const OK: u32 = 0;
    /// Interim reply.
    pub const PENDING: u32 = 0x0000_0103;
    /// End of a listing.
    pub const NO_MORE_FILES: u32 = 0x8000_0006;
    /// Read at the end.
    pub const END_OF_FILE: u32 = 0xC000_0011;
    /// Permissions or policy.
    pub const ACCESS_DENIED: u32 = 0xC000_0022;
    /// Name not there.
    pub const OBJECT_NAME_NOT_FOUND: u32 = 0xC000_0034;
    /// Share modes.
    pub const SHARING_VIOLATION: u32 = 0xC000_0043;
    /// I/O against a locked range.
    pub const FILE_LOCK_CONFLICT: u32 = 0xC000_0054;
    /// Lock against a locked range.
    pub const LOCK_NOT_GRANTED: u32 = 0xC000_0055;
    /// No room, in the store or under the share's quota.
    pub const DISK_FULL: u32 = 0xC000_007F;
    /// Wrong password.
    pub const LOGON_FAILURE: u32 = 0xC000_006D;
    /// More to say in a login.
    pub const MORE_PROCESSING: u32 = 0xC000_0016;
}

/// Commands (MS-SMB2 2.2.1).
mod command {
    pub const NEGOTIATE: u16 = 0;
    pub const SESSION_SETUP: u16 = 1;
    pub const TREE_CONNECT: u16 = 3;
    pub const CREATE: u16 = 5;
    pub const CLOSE: u16 = 6;
    pub const FLUSH: u16 = 7;
    pub const READ: u16 = 8;
    pub const WRITE: u16 = 9;
    pub const LOCK: u16 = 10;
    pub const QUERY_DIRECTORY: u16 = 14;
    pub const QUERY_INFO: u16 = 16;
    pub const SET_INFO: u16 = 17;
    pub const OPLOCK_BREAK: u16 = 18;
}

/// Access bits used by tests.
pub mod access {
    /// Read data, attributes.
    pub const READ: u32 = 0x0012_0089;
    /// Write data, append, attributes.
    pub const WRITE: u32 = 0x0012_0116;
    /// Delete.
    pub const DELETE: u32 = 0x0001_0000;
    /// Attributes only.
    pub const ATTRIBUTES: u32 = 0x0000_0080;
}

/// Share mode bits.
pub mod share {
    /// Others may read.
    pub const READ: u32 = 1;
    /// Others may write.
    pub const WRITE: u32 = 2;
    /// Others may delete.
    pub const DELETE: u32 = 4;
    /// All of it.
    pub const ALL: u32 = 7;
}

/// Create dispositions.
pub mod disposition {
    /// Open what is there.
    pub const OPEN: u32 = 1;
    /// Make a new one.
    pub const CREATE: u32 = 2;
    /// Open or make.
    pub const OPEN_IF: u32 = 3;
    /// Truncate or make.
    pub const OVERWRITE_IF: u32 = 5;
}

/// Caching right asked for in a create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// None.
    None,
    /// An oplock: 1 level II, 8 exclusive, 9 batch.
    Oplock(u8),
    /// A version 1 lease: key and state bits (1 read, 2 handle, 4 write).
    Lease([u8; 16], u32),
}

/// A reply's header and body.
#[derive(Debug)]
pub struct Reply {
    /// NTSTATUS.
    pub status: u32,
    /// Command.
    pub command: u16,
    /// Which request; `u64::MAX` for breaks.
    pub message_id: u64,
    /// Everything after the header.
    pub body: Vec<u8>,
}

/// An open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// FileId.
    pub id: [u8; 16],
    /// Length when opened.
    pub size: u64,
    /// Oplock level granted (255: lease).
    pub oplock: u8,
    /// Lease state granted.
    pub lease: u32,
}

/// One connection with one session and one tree.
pub struct SmbClient {
    stream: TcpStream,
    next_message: u64,
    session: u64,
    tree: u32,
    /// Replies that came while another was waited for.
    held: VecDeque<Reply>,
    /// Oplock and lease breaks that came.
    pub breaks: VecDeque<Reply>,
    frame: Vec<u8>,
}

impl SmbClient {
    /// Connects, logs in and connects to a share. A refusal is an error that carries the NTSTATUS in its text.
    pub fn connect(
        address: &str,
        user: &str,
        password: &str,
        share: &str,
    ) -> anyhow::Result<SmbClient> {
        let stream = TcpStream::connect(address).with_context(|| format!("SMB at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut client = SmbClient {
            stream,
            next_message: 0,
            session: 0,
            tree: 0,
            held: VecDeque::new(),
            breaks: VecDeque::new(),
            frame: Vec::new(),
        };
        client.negotiate()?;
        client.log_in(user, password)?;
        let path = utf16(&format!("\\\\127.0.0.1\\{share}"));
        let mut body = words(&[9, 0, 72, path.len() as u16]);
        body.extend(path);
        let id = client.send(command::TREE_CONNECT, &body, &[])?;
        let (reply, tree) = client.receive_with_tree(id)?;
        ensure!(
            reply.status == 0,
            "tree connect: NTSTATUS {:#010x}",
            reply.status
        );
        client.tree = tree;
        Ok(client)
    }

    fn negotiate(&mut self) -> anyhow::Result<()> {
        let mut body = words(&[36, 1, 1, 0]);
        body.extend(0_u32.to_le_bytes());
        body.extend(*b"sluice-test-guid");
        body.extend(0_u64.to_le_bytes());
        body.extend(0x0210_u16.to_le_bytes());
        let id = self.send(command::NEGOTIATE, &body, &[])?;
        let reply = self.receive(id)?;
        ensure!(
            reply.status == 0,
            "negotiate: NTSTATUS {:#010x}",
            reply.status
        );
        Ok(())
    }

    fn log_in(&mut self, user: &str, password: &str) -> anyhow::Result<()> {
        let mut hello = b"NTLMSSP\0".to_vec();
        hello.extend(1_u32.to_le_bytes());
        hello.extend(0xA008_8207_u32.to_le_bytes());
        hello.extend([0; 16]);
        let reply = self.session_setup(&hello)?;
        ensure!(
            reply.status == status::MORE_PROCESSING,
            "login: NTSTATUS {:#010x}",
            reply.status
        );
        let challenge = find(&reply.body, b"NTLMSSP\0").context("login: no NTLM challenge")?;
        let answer = ntlm_answer(&reply.body[challenge..], &hello, user, password)
            .context("login: challenge is malformed")?;
        let reply = self.session_setup(&answer)?;
        if reply.status != 0 {
            bail!("login: NTSTATUS {:#010x}", reply.status);
        }
        Ok(())
    }

    fn session_setup(&mut self, token: &[u8]) -> anyhow::Result<Reply> {
        let mut body = words(&[25]);
        body.extend([0, 1]);
        body.extend(0_u32.to_le_bytes());
        body.extend(0_u32.to_le_bytes());
        body.extend(words(&[88, token.len() as u16]));
        body.extend(0_u64.to_le_bytes());
        body.extend(token);
        let id = self.send(command::SESSION_SETUP, &body, &[])?;
        let (reply, session) = self.receive_with_session(id)?;
        self.session = session;
        Ok(reply)
    }

    /// Sends one request; `payload` follows `body` without being copied into it. Returns its message id.
    pub fn send(&mut self, command: u16, body: &[u8], payload: &[u8]) -> anyhow::Result<u64> {
        let id = self.next_message;
        // One credit for each 64 KiB of payload either way (MS-SMB2 3.2.4.1.5); the caller's reads state theirs in the body.
        let size = payload.len().max(if command == command::READ {
            u32_at(body, 4) as usize
        } else {
            0
        });
        let charge = if command == command::NEGOTIATE {
            0
        } else {
            (size.max(1) - 1) / 65536 + 1
        };
        self.next_message += charge.max(1) as u64;
        let mut head = Vec::with_capacity(68 + body.len());
        let total = 64 + body.len() + payload.len();
        head.extend((total as u32).to_be_bytes());
        head.extend(b"\xfeSMB");
        head.extend(words(&[64, charge as u16, 0, 0, command, 512]));
        head.extend(0_u32.to_le_bytes());
        head.extend(0_u32.to_le_bytes());
        head.extend(id.to_le_bytes());
        head.extend(0xfeff_u32.to_le_bytes());
        head.extend(self.tree.to_le_bytes());
        head.extend(self.session.to_le_bytes());
        head.extend([0; 16]);
        head.extend(body);
        self.stream.write_all(&head)?;
        if !payload.is_empty() {
            self.stream.write_all(payload)?;
        }
        Ok(id)
    }

    fn read_frame(&mut self) -> anyhow::Result<Reply> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize & 0x00ff_ffff;
        ensure!(length >= 64, "a reply of {length} bytes");
        self.frame.resize(length, 0);
        self.stream.read_exact(&mut self.frame)?;
        Ok(Reply {
            status: u32_at(&self.frame, 8),
            command: u16_at(&self.frame, 12),
            message_id: u64_at(&self.frame, 24),
            body: self.frame[64..].to_vec(),
        })
    }

    fn receive_with_tree(&mut self, id: u64) -> anyhow::Result<(Reply, u32)> {
        let reply = self.receive(id)?;
        Ok((reply, u32_at(&self.frame, 36)))
    }

    fn receive_with_session(&mut self, id: u64) -> anyhow::Result<(Reply, u64)> {
        let reply = self.receive(id)?;
        Ok((reply, u64_at(&self.frame, 40)))
    }

    /// Waits so long for a reply instead of 60 s.
    pub fn set_patience(&self, patience: Duration) -> anyhow::Result<()> {
        Ok(self.stream.set_read_timeout(Some(patience))?)
    }

    /// Waits for the final reply to `id`, keeping others and breaks aside.
    pub fn receive(&mut self, id: u64) -> anyhow::Result<Reply> {
        if let Some(at) = self.held.iter().position(|reply| reply.message_id == id) {
            return self.held.remove(at).context("held reply");
        }
        loop {
            let reply = self.read_frame()?;
            if reply.message_id == u64::MAX {
                self.breaks.push_back(reply);
            } else if reply.status == status::PENDING {
            } else if reply.message_id == id {
                return Ok(reply);
            } else {
                self.held.push_back(reply);
            }
        }
    }

    /// Waits until an interim "pending" reply for `id` came: the request is queued at the server.
    pub fn wait_pending(&mut self, id: u64) -> anyhow::Result<()> {
        loop {
            let reply = self.read_frame()?;
            if reply.message_id == u64::MAX {
                self.breaks.push_back(reply);
            } else if reply.message_id == id {
                ensure!(
                    reply.status == status::PENDING,
                    "answered with {:#010x} at once",
                    reply.status
                );
                return Ok(());
            } else if reply.status != status::PENDING {
                self.held.push_back(reply);
            }
        }
    }

    /// Waits for the next oplock or lease break.
    pub fn wait_break(&mut self) -> anyhow::Result<Reply> {
        loop {
            if let Some(notice) = self.breaks.pop_front() {
                return Ok(notice);
            }
            let reply = self.read_frame()?;
            if reply.message_id == u64::MAX {
                self.breaks.push_back(reply);
            } else if reply.status != status::PENDING {
                self.held.push_back(reply);
            }
        }
    }

    /// Sends a CREATE; `path` with backslashes.
    pub fn send_create(
        &mut self,
        path: &str,
        access: u32,
        share: u32,
        disposition: u32,
        options: u32,
        cache: Cache,
    ) -> anyhow::Result<u64> {
        let name = utf16(path);
        let (oplock, context) = match cache {
            Cache::None => (0, Vec::new()),
            Cache::Oplock(level) => (level, Vec::new()),
            Cache::Lease(key, state) => (0xff, lease_context(key, state)),
        };
        let name_room = name.len().max(1).next_multiple_of(8);
        let mut body = words(&[57]);
        body.extend([0, oplock]);
        body.extend(2_u32.to_le_bytes());
        body.extend([0; 16]);
        for value in [access, 0x80, share, disposition, options] {
            body.extend(value.to_le_bytes());
        }
        body.extend(words(&[120, name.len() as u16]));
        let context_at = if context.is_empty() {
            0
        } else {
            120 + name_room as u32
        };
        body.extend(context_at.to_le_bytes());
        body.extend((context.len() as u32).to_le_bytes());
        body.extend(&name);
        body.resize(56 + name_room, 0);
        body.extend(context);
        self.send(command::CREATE, &body, &[])
    }

    /// Takes the answer to a CREATE apart: the file, or the NTSTATUS.
    pub fn created(&mut self, id: u64) -> anyhow::Result<Result<File, u32>> {
        let reply = self.receive(id)?;
        if reply.status != 0 {
            return Ok(Err(reply.status));
        }
        ensure!(
            reply.body.len() >= 88,
            "a create reply of {} bytes",
            reply.body.len()
        );
        let mut file_id = [0; 16];
        file_id.copy_from_slice(&reply.body[64..80]);
        let lease = find(&reply.body, b"RqLs")
            .and_then(|at| reply.body.get(at + 8 + 16..at + 8 + 20))
            .map_or(0, |state| u32_at(state, 0));
        Ok(Ok(File {
            id: file_id,
            size: u64_at(&reply.body, 48),
            oplock: reply.body[2],
            lease,
        }))
    }

    /// CREATE and its answer.
    pub fn create(
        &mut self,
        path: &str,
        access: u32,
        share: u32,
        disposition: u32,
        cache: Cache,
    ) -> anyhow::Result<Result<File, u32>> {
        let id = self.send_create(path, access, share, disposition, 0, cache)?;
        self.created(id)
    }

    /// Sends a CLOSE.
    pub fn send_close(&mut self, file: File) -> anyhow::Result<u64> {
        let mut body = words(&[24, 0]);
        body.extend(0_u32.to_le_bytes());
        body.extend(file.id);
        self.send(command::CLOSE, &body, &[])
    }

    /// CLOSE; the NTSTATUS.
    pub fn close(&mut self, file: File) -> anyhow::Result<u32> {
        let id = self.send_close(file)?;
        Ok(self.receive(id)?.status)
    }

    /// FLUSH; the NTSTATUS.
    pub fn flush(&mut self, file: File) -> anyhow::Result<u32> {
        let mut body = words(&[24, 0]);
        body.extend(0_u32.to_le_bytes());
        body.extend(file.id);
        let id = self.send(command::FLUSH, &body, &[])?;
        Ok(self.receive(id)?.status)
    }

    /// Sends a WRITE.
    pub fn send_write(&mut self, file: File, offset: u64, data: &[u8]) -> anyhow::Result<u64> {
        let mut body = words(&[49, 112]);
        body.extend((data.len() as u32).to_le_bytes());
        body.extend(offset.to_le_bytes());
        body.extend(file.id);
        body.extend([0; 16]);
        self.send(command::WRITE, &body, data)
    }

    /// WRITE; the NTSTATUS.
    pub fn write(&mut self, file: File, offset: u64, data: &[u8]) -> anyhow::Result<u32> {
        let id = self.send_write(file, offset, data)?;
        Ok(self.receive(id)?.status)
    }

    /// Sends a READ.
    pub fn send_read(&mut self, file: File, offset: u64, length: u32) -> anyhow::Result<u64> {
        let mut body = words(&[49]);
        body.extend([80, 0]);
        body.extend(length.to_le_bytes());
        body.extend(offset.to_le_bytes());
        body.extend(file.id);
        body.extend([0; 16]);
        body.push(0);
        self.send(command::READ, &body, &[])
    }

    /// Takes the answer to a READ apart: the bytes, or the NTSTATUS.
    pub fn read_done(&mut self, id: u64) -> anyhow::Result<Result<Vec<u8>, u32>> {
        let reply = self.receive(id)?;
        if reply.status != 0 {
            return Ok(Err(reply.status));
        }
        let (start, length) = (reply.body[2] as usize - 64, u32_at(&reply.body, 4) as usize);
        Ok(Ok(reply
            .body
            .get(start..start + length)
            .context("a read reply shorter than it says")?
            .to_vec()))
    }

    /// READ and its answer.
    pub fn read(
        &mut self,
        file: File,
        offset: u64,
        length: u32,
    ) -> anyhow::Result<Result<Vec<u8>, u32>> {
        let id = self.send_read(file, offset, length)?;
        self.read_done(id)
    }

    /// Sends a LOCK of one range. Flags: 1 shared, 2 exclusive, 4 unlock, 16 fail immediately.
    pub fn send_lock(
        &mut self,
        file: File,
        offset: u64,
        length: u64,
        flags: u32,
    ) -> anyhow::Result<u64> {
        let mut body = words(&[48, 1]);
        body.extend(0_u32.to_le_bytes());
        body.extend(file.id);
        body.extend(offset.to_le_bytes());
        body.extend(length.to_le_bytes());
        body.extend(flags.to_le_bytes());
        body.extend(0_u32.to_le_bytes());
        self.send(command::LOCK, &body, &[])
    }

    /// LOCK; the NTSTATUS.
    pub fn lock(
        &mut self,
        file: File,
        offset: u64,
        length: u64,
        flags: u32,
    ) -> anyhow::Result<u32> {
        let id = self.send_lock(file, offset, length, flags)?;
        Ok(self.receive(id)?.status)
    }

    /// Renames an open file (SET_INFO FileRenameInformation); the NTSTATUS.
    pub fn rename(&mut self, file: File, to: &str, replace: bool) -> anyhow::Result<u32> {
        let name = utf16(to);
        let mut info = vec![u8::from(replace), 0, 0, 0, 0, 0, 0, 0];
        info.extend(0_u64.to_le_bytes());
        info.extend((name.len() as u32).to_le_bytes());
        info.extend(name);
        self.set_info(file, 10, &info)
    }

    /// Marks an open file for deletion (SET_INFO FileDispositionInformation); the NTSTATUS.
    pub fn delete_on_close(&mut self, file: File) -> anyhow::Result<u32> {
        self.set_info(file, 13, &[1])
    }

    fn set_info(&mut self, file: File, class: u8, info: &[u8]) -> anyhow::Result<u32> {
        let mut body = words(&[33]);
        body.extend([1, class]);
        body.extend((info.len() as u32).to_le_bytes());
        body.extend(words(&[96, 0]));
        body.extend(0_u32.to_le_bytes());
        body.extend(file.id);
        let id = self.send(command::SET_INFO, &body, info)?;
        Ok(self.receive(id)?.status)
    }

    /// Lists a whole folder (FileIdBothDirectoryInformation); returns the number of entries and bytes.
    pub fn list(&mut self, folder: &str) -> anyhow::Result<(usize, usize)> {
        let id = self.send_create(
            folder,
            access::READ,
            share::ALL,
            disposition::OPEN,
            1,
            Cache::None,
        )?;
        let dir = self
            .created(id)?
            .map_err(|code| anyhow::anyhow!("open of {folder}: NTSTATUS {code:#010x}"))?;
        let (mut entries, mut bytes) = (0, 0);
        loop {
            let mut body = words(&[33]);
            body.extend([37, 0]);
            body.extend(0_u32.to_le_bytes());
            body.extend(dir.id);
            body.extend(words(&[96, 2]));
            body.extend(65536_u32.to_le_bytes());
            let id = self.send(command::QUERY_DIRECTORY, &body, &utf16("*"))?;
            let reply = self.receive(id)?;
            if reply.status == status::NO_MORE_FILES {
                break;
            }
            ensure!(
                reply.status == 0,
                "listing: NTSTATUS {:#010x}",
                reply.status
            );
            let start = u16_at(&reply.body, 2) as usize - 64;
            let mut at = start;
            loop {
                entries += 1;
                let next = u32_at(&reply.body, at) as usize;
                if next == 0 {
                    break;
                }
                at += next;
            }
            bytes += reply.body.len() - start;
        }
        self.close(dir)?;
        Ok((entries, bytes))
    }

    /// Bytes in all and bytes free, as the share shows them (FileFsSizeInformation).
    pub fn room(&mut self, file: File) -> anyhow::Result<(u64, u64)> {
        let mut body = words(&[41]);
        body.extend([2, 3]);
        body.extend(64_u32.to_le_bytes());
        body.extend([0; 16]);
        body.extend(file.id);
        let id = self.send(command::QUERY_INFO, &body, &[0])?;
        let reply = self.receive(id)?;
        ensure!(reply.status == 0, "NTSTATUS {:#010x}", reply.status);
        let at = (u16_at(&reply.body, 2) as usize).saturating_sub(64);
        ensure!(reply.body.len() >= at + 24, "a short answer");
        let unit =
            u64::from(u32_at(&reply.body, at + 16)) * u64::from(u32_at(&reply.body, at + 20));
        Ok((
            u64_at(&reply.body, at) * unit,
            u64_at(&reply.body, at + 8) * unit,
        ))
    }

    /// Answers an oplock break: the file keeps `level`. Returns the message id.
    pub fn acknowledge_oplock(&mut self, file: File, level: u8) -> anyhow::Result<u32> {
        let mut body = words(&[24]);
        body.extend([level, 0]);
        body.extend(0_u32.to_le_bytes());
        body.extend(file.id);
        let id = self.send(command::OPLOCK_BREAK, &body, &[])?;
        Ok(self.receive(id)?.status)
    }

    /// Answers a lease break: the lease keeps `state`; the NTSTATUS.
    pub fn acknowledge_lease(&mut self, key: [u8; 16], state: u32) -> anyhow::Result<u32> {
        let mut body = words(&[36, 0]);
        body.extend(0_u32.to_le_bytes());
        body.extend(key);
        body.extend(state.to_le_bytes());
        body.extend(0_u64.to_le_bytes());
        let id = self.send(command::OPLOCK_BREAK, &body, &[])?;
        Ok(self.receive(id)?.status)
    }
}

fn lease_context(key: [u8; 16], state: u32) -> Vec<u8> {
    let mut context = 0_u32.to_le_bytes().to_vec();
    context.extend(words(&[16, 4, 0, 24]));
    context.extend(32_u32.to_le_bytes());
    context.extend(b"RqLs\0\0\0\0");
    context.extend(key);
    context.extend(state.to_le_bytes());
    context.extend(0_u32.to_le_bytes());
    context.extend(0_u64.to_le_bytes());
    context
}

/// AUTHENTICATE_MESSAGE with an NTLMv2 response and MIC (MS-NLMP 3.3.2).
fn ntlm_answer(challenge: &[u8], hello: &[u8], user: &str, password: &str) -> Option<Vec<u8>> {
    let server_challenge = challenge.get(24..32)?;
    let (length, at) = (
        u16_at(challenge, 40) as usize,
        u32_at(challenge, 44) as usize,
    );
    let info = challenge.get(at..at + length)?;
    let challenge_end =
        (at + length).max(u32_at(challenge, 16) as usize + u16_at(challenge, 12) as usize);
    let hash = md4::Md4::digest(utf16(password));
    let key = hmac_md5(&hash, &[&utf16(&user.to_uppercase())]);
    // The server's list, with the flag that a MIC is present (MsvAvFlags 0x2), closed again.
    let mut target = info.get(..info.len().checked_sub(4)?)?.to_vec();
    target.extend(words(&[6, 4]));
    target.extend(2_u32.to_le_bytes());
    target.extend([0; 4]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let time = filetime_of(info).unwrap_or((now.as_nanos() / 100) as u64 + 116_444_736_000_000_000);
    let mut blob = vec![1, 1, 0, 0, 0, 0, 0, 0];
    blob.extend(time.to_le_bytes());
    blob.extend((now.as_nanos() as u64).to_le_bytes());
    blob.extend([0; 4]);
    blob.extend(&target);
    blob.extend([0; 4]);
    let proof = hmac_md5(&key, &[server_challenge, &blob]);
    let base_key = hmac_md5(&key, &[&proof]);
    let user = utf16(user);
    let mut nt = proof.to_vec();
    nt.extend(blob);
    let mut message = b"NTLMSSP\0".to_vec();
    message.extend(3_u32.to_le_bytes());
    let mut offset = 88_u32;
    for part in [24, nt.len(), 0, user.len(), 0, 0] {
        message.extend(words(&[part as u16, part as u16]));
        message.extend(offset.to_le_bytes());
        offset += part as u32;
    }
    message.extend(0x2088_8205_u32.to_le_bytes());
    message.extend([6, 1, 0, 0, 0, 0, 0, 15]);
    message.extend([0; 16]);
    message.extend([0; 24]);
    message.extend(&nt);
    message.extend(&user);
    let mic = hmac_md5(
        &base_key,
        &[hello, challenge.get(..challenge_end)?, &message],
    );
    message[72..88].copy_from_slice(&mic);
    Some(message)
}

/// MsvAvTimestamp of a target information list.
fn filetime_of(info: &[u8]) -> Option<u64> {
    let mut at = 0;
    loop {
        let (kind, length) = (
            u16::from_le_bytes(info.get(at..at + 2)?.try_into().ok()?),
            u16::from_le_bytes(info.get(at + 2..at + 4)?.try_into().ok()?) as usize,
        );
        match kind {
            0 => return None,
            7 => return Some(u64_at(info, at + 4)),
            _ => at += 4 + length,
        }
    }
}

fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let mut inner = md5::Md5::new();
    inner.update(block.map(|b| b ^ 0x36));
    for part in parts {
        inner.update(part);
    }
    let mut outer = md5::Md5::new();
    outer.update(block.map(|b| b ^ 0x5c));
    outer.update(inner.finalize());
    outer.finalize().into()
}

fn words(values: &[u16]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
