//! An NFSv3 client over one TCP connection: AUTH_SYS, one call at a time or pipelined.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

/// nfsstat3 values that tests name (RFC 1813 2.6).
pub mod status {
    /// Done.
    pub const OK: u32 = 0;
    /// Name not there.
    pub const NOENT: u32 = 2;
    /// Refused.
    pub const ACCES: u32 = 13;
    /// Read-only.
    pub const ROFS: u32 = 30;
    /// Try again later.
    pub const JUKEBOX: u32 = 10008;
}

/// How durable a WRITE is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stable {
    /// After COMMIT.
    Unstable = 0,
    /// Content and metadata.
    FileSync = 2,
}

/// Counts connections, from a start that differs between runs.
static NEXT_CONNECTION: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id()));

/// A file handle.
pub type Handle = Vec<u8>;

/// One connection.
pub struct Nfs3Client {
    stream: TcpStream,
    next_xid: u32,
    held: VecDeque<(u32, Vec<u8>)>,
    credential: Vec<u8>,
}

/// Reads XDR.
pub struct Xdr<'a>(&'a [u8]);

impl<'a> Xdr<'a> {
    /// The next number.
    pub fn u32(&mut self) -> anyhow::Result<u32> {
        let (head, rest) = self.0.split_first_chunk::<4>().context("reply too short")?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*head))
    }

    /// The next long number.
    pub fn u64(&mut self) -> anyhow::Result<u64> {
        Ok(u64::from(self.u32()?) << 32 | u64::from(self.u32()?))
    }

    /// The next bytes with their length before them.
    pub fn opaque(&mut self) -> anyhow::Result<&'a [u8]> {
        let length = self.u32()? as usize;
        self.fixed(length)
    }

    fn fixed(&mut self, length: usize) -> anyhow::Result<&'a [u8]> {
        ensure!(
            self.0.len() >= length.next_multiple_of(4),
            "reply too short"
        );
        let (bytes, rest) = self.0.split_at(length);
        self.0 = &rest[length.next_multiple_of(4) - length..];
        Ok(bytes)
    }

    /// Skips fattr3; returns its size field.
    fn attributes(&mut self) -> anyhow::Result<u64> {
        let fields = self.fixed(84)?;
        Xdr(&fields[20..]).u64()
    }

    /// post_op_attr: the size if there are attributes.
    pub fn post_attributes(&mut self) -> anyhow::Result<Option<u64>> {
        Ok(if self.u32()? == 1 {
            Some(self.attributes()?)
        } else {
            None
        })
    }

    fn wcc(&mut self) -> anyhow::Result<()> {
        if self.u32()? == 1 {
            self.fixed(24)?;
        }
        self.post_attributes()?;
        Ok(())
    }
}

fn opaque(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u32).to_be_bytes().to_vec();
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

impl Nfs3Client {
    /// Connects as `uid` (and the same gid) from a machine that calls itself `machine`.
    pub fn connect(address: &str, uid: u32, machine: &str) -> anyhow::Result<Nfs3Client> {
        let stream = TcpStream::connect(address).with_context(|| format!("NFS at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut body = 1_u32.to_be_bytes().to_vec();
        body.extend(opaque(machine.as_bytes()));
        for value in [uid, uid, 0] {
            body.extend(value.to_be_bytes());
        }
        let mut credential = 1_u32.to_be_bytes().to_vec();
        credential.extend(opaque(&body));
        credential.extend([0; 8]);
        Ok(Nfs3Client {
            stream,
            // Servers replay answers by (client, xid): connections of one machine must not reuse each other's.
            next_xid: NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed) << 20,
            held: VecDeque::new(),
            credential,
        })
    }

    /// Sends one call of NFSv3 (program 100003) or MOUNT (100005). Returns its xid.
    pub fn send(&mut self, program: u32, procedure: u32, args: &[&[u8]]) -> anyhow::Result<u32> {
        self.next_xid = self.next_xid.wrapping_add(1);
        let xid = self.next_xid;
        self.send_as(xid, program, procedure, args)?;
        Ok(xid)
    }

    /// Sends a call with a chosen xid (for retransmissions).
    pub fn send_as(
        &mut self,
        xid: u32,
        program: u32,
        procedure: u32,
        args: &[&[u8]],
    ) -> anyhow::Result<()> {
        let mut head = vec![0; 4];
        for value in [xid, 0, 2, program, 3, procedure] {
            head.extend(value.to_be_bytes());
        }
        head.extend(&self.credential);
        let length = head.len() - 4 + args.iter().map(|arg| arg.len()).sum::<usize>();
        head[..4].copy_from_slice(&(length as u32 | 0x8000_0000).to_be_bytes());
        for arg in args {
            if arg.len() <= 65536 {
                head.extend(*arg);
            } else {
                self.stream.write_all(&head)?;
                head.clear();
                self.stream.write_all(arg)?;
            }
        }
        self.stream.write_all(&head)?;
        Ok(())
    }

    /// Waits for the reply to `xid`: the procedure's result.
    pub fn receive(&mut self, xid: u32) -> anyhow::Result<Vec<u8>> {
        if let Some(at) = self.held.iter().position(|(held, _)| *held == xid) {
            return Ok(self.held.remove(at).context("held reply")?.1);
        }
        loop {
            let reply = self.read_record()?;
            let mut xdr = Xdr(&reply);
            let answered = xdr.u32()?;
            ensure!(
                xdr.u32()? == 1 && xdr.u32()? == 0,
                "the server rejected the call"
            );
            xdr.u32()?;
            xdr.opaque()?;
            let accepted = xdr.u32()?;
            if accepted != 0 {
                bail!("accept status {accepted}");
            }
            let result = xdr.0.to_vec();
            if answered == xid {
                return Ok(result);
            }
            self.held.push_back((answered, result));
        }
    }

    fn read_record(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut record = Vec::new();
        loop {
            let mut mark = [0; 4];
            self.stream.read_exact(&mut mark)?;
            let mark = u32::from_be_bytes(mark);
            let start = record.len();
            record.resize(start + (mark & 0x7fff_ffff) as usize, 0);
            self.stream.read_exact(&mut record[start..])?;
            if mark & 0x8000_0000 != 0 {
                return Ok(record);
            }
        }
    }

    fn call(&mut self, procedure: u32, args: &[&[u8]]) -> anyhow::Result<Vec<u8>> {
        let xid = self.send(100_003, procedure, args)?;
        self.receive(xid)
    }

    /// MOUNT: the root handle of an export.
    pub fn mount(&mut self, path: &str) -> anyhow::Result<Handle> {
        let xid = self.send(100_005, 1, &[&opaque(path.as_bytes())])?;
        let reply = self.receive(xid)?;
        let mut xdr = Xdr(&reply);
        let status = xdr.u32()?;
        ensure!(status == 0, "mount of {path}: status {status}");
        Ok(xdr.opaque()?.to_vec())
    }

    /// Sends a LOOKUP.
    pub fn send_lookup(&mut self, dir: &[u8], name: &str) -> anyhow::Result<u32> {
        self.send(100_003, 3, &[&opaque(dir), &opaque(name.as_bytes())])
    }

    /// LOOKUP: handle and size, or the status.
    pub fn lookup(&mut self, dir: &[u8], name: &str) -> anyhow::Result<Result<(Handle, u64), u32>> {
        let xid = self.send_lookup(dir, name)?;
        let reply = self.receive(xid)?;
        let mut xdr = Xdr(&reply);
        let status = xdr.u32()?;
        if status != 0 {
            return Ok(Err(status));
        }
        let handle = xdr.opaque()?.to_vec();
        let size = xdr
            .post_attributes()?
            .context("lookup without attributes")?;
        Ok(Ok((handle, size)))
    }

    /// Walks down a path with slashes.
    pub fn walk(&mut self, root: &[u8], path: &str) -> anyhow::Result<Result<(Handle, u64), u32>> {
        let mut at = (root.to_vec(), 0);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            match self.lookup(&at.0, name)? {
                Ok(next) => at = next,
                Err(status) => return Ok(Err(status)),
            }
        }
        Ok(Ok(at))
    }

    /// GETATTR: the size, or the status.
    pub fn size(&mut self, file: &[u8]) -> anyhow::Result<Result<u64, u32>> {
        let reply = self.call(1, &[&opaque(file)])?;
        let mut xdr = Xdr(&reply);
        let status = xdr.u32()?;
        Ok(if status == 0 {
            Ok(xdr.attributes()?)
        } else {
            Err(status)
        })
    }

    /// FSSTAT: bytes in all and bytes free.
    pub fn room(&mut self, root: &[u8]) -> anyhow::Result<(u64, u64)> {
        let reply = self.call(18, &[&opaque(root)])?;
        let mut xdr = Xdr(&reply);
        let status = xdr.u32()?;
        ensure!(status == 0, "FSSTAT: status {status}");
        xdr.post_attributes()?;
        Ok((xdr.u64()?, xdr.u64()?))
    }

    /// Sends an unchecked CREATE with mode 0644.
    pub fn send_create(&mut self, dir: &[u8], name: &str) -> anyhow::Result<u32> {
        let mut how = Vec::new();
        for value in [0_u32, 1, 0o644, 0, 0, 0, 0, 0] {
            how.extend(value.to_be_bytes());
        }
        self.send(100_003, 8, &[&opaque(dir), &opaque(name.as_bytes()), &how])
    }

    /// CREATE: the handle, or the status.
    pub fn create(&mut self, dir: &[u8], name: &str) -> anyhow::Result<Result<Handle, u32>> {
        let xid = self.send_create(dir, name)?;
        let reply = self.receive(xid)?;
        let mut xdr = Xdr(&reply);
        let status = xdr.u32()?;
        if status != 0 {
            return Ok(Err(status));
        }
        ensure!(xdr.u32()? == 1, "create gave no handle");
        Ok(Ok(xdr.opaque()?.to_vec()))
    }

    /// Sends a WRITE.
    pub fn send_write(
        &mut self,
        file: &[u8],
        offset: u64,
        data: &[u8],
        stable: Stable,
    ) -> anyhow::Result<u32> {
        let mut head = opaque(file);
        head.extend(offset.to_be_bytes());
        for value in [data.len() as u32, stable as u32, data.len() as u32] {
            head.extend(value.to_be_bytes());
        }
        let padding = [0; 4];
        let pad = data.len().next_multiple_of(4) - data.len();
        self.send(100_003, 7, &[&head, data, &padding[..pad]])
    }

    /// WRITE; the status.
    pub fn write(
        &mut self,
        file: &[u8],
        offset: u64,
        data: &[u8],
        stable: Stable,
    ) -> anyhow::Result<u32> {
        let xid = self.send_write(file, offset, data, stable)?;
        Xdr(&self.receive(xid)?).u32()
    }

    /// COMMIT of the whole file: the write verifier, or the status.
    pub fn commit(&mut self, file: &[u8]) -> anyhow::Result<Result<u64, u32>> {
        let reply = self.call(21, &[&opaque(file), &[0; 12]])?;
        let mut xdr = Xdr(&reply);
        let status = xdr.u32()?;
        if status != 0 {
            return Ok(Err(status));
        }
        xdr.wcc()?;
        Ok(Ok(xdr.u64()?))
    }

    /// Sends a READ.
    pub fn send_read(&mut self, file: &[u8], offset: u64, length: u32) -> anyhow::Result<u32> {
        self.send(
            100_003,
            6,
            &[&opaque(file), &offset.to_be_bytes(), &length.to_be_bytes()],
        )
    }

    /// Takes the answer to a READ apart: the bytes and whether the end was reached, or the status.
    pub fn read_done(&mut self, xid: u32) -> anyhow::Result<Result<(Vec<u8>, bool), u32>> {
        let reply = self.receive(xid)?;
        let mut xdr = Xdr(&reply);
        let status = xdr.u32()?;
        if status != 0 {
            return Ok(Err(status));
        }
        xdr.post_attributes()?;
        xdr.u32()?;
        let end = xdr.u32()? == 1;
        Ok(Ok((xdr.opaque()?.to_vec(), end)))
    }

    /// READ and its answer.
    pub fn read(
        &mut self,
        file: &[u8],
        offset: u64,
        length: u32,
    ) -> anyhow::Result<Result<(Vec<u8>, bool), u32>> {
        let xid = self.send_read(file, offset, length)?;
        self.read_done(xid)
    }

    /// Everything that a file holds.
    pub fn read_all(&mut self, file: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            match self.read(file, all.len() as u64, 1 << 20)? {
                Ok((bytes, end)) => {
                    all.extend(&bytes);
                    if end || bytes.is_empty() {
                        return Ok(all);
                    }
                }
                Err(status) => bail!("read: status {status}"),
            }
        }
    }

    /// REMOVE; the status.
    pub fn remove(&mut self, dir: &[u8], name: &str) -> anyhow::Result<u32> {
        Xdr(&self.call(12, &[&opaque(dir), &opaque(name.as_bytes())])?).u32()
    }

    /// RENAME; the status.
    pub fn rename(
        &mut self,
        from_dir: &[u8],
        from: &str,
        to_dir: &[u8],
        to: &str,
    ) -> anyhow::Result<u32> {
        let reply = self.call(
            14,
            &[
                &opaque(from_dir),
                &opaque(from.as_bytes()),
                &opaque(to_dir),
                &opaque(to.as_bytes()),
            ],
        )?;
        Xdr(&reply).u32()
    }

    /// SETATTR of the size; the status.
    pub fn truncate(&mut self, file: &[u8], size: u64) -> anyhow::Result<u32> {
        let mut change = Vec::new();
        for value in [0_u32, 0, 0, 1] {
            change.extend(value.to_be_bytes());
        }
        change.extend(size.to_be_bytes());
        change.extend([0; 12]);
        Xdr(&self.call(2, &[&opaque(file), &change])?).u32()
    }

    /// SETATTR of the permission bits; the status.
    pub fn set_mode(&mut self, node: &[u8], mode: u32) -> anyhow::Result<u32> {
        let mut change = Vec::new();
        for value in [1, mode, 0, 0, 0, 0, 0, 0] {
            change.extend(value.to_be_bytes());
        }
        Xdr(&self.call(2, &[&opaque(node), &change])?).u32()
    }

    /// MKDIR: the handle, or the status.
    pub fn mkdir(&mut self, dir: &[u8], name: &str) -> anyhow::Result<Result<Handle, u32>> {
        let mut attributes = Vec::new();
        for value in [1_u32, 0o755, 0, 0, 0, 0, 0] {
            attributes.extend(value.to_be_bytes());
        }
        let reply = self.call(9, &[&opaque(dir), &opaque(name.as_bytes()), &attributes])?;
        let mut xdr = Xdr(&reply);
        let status = xdr.u32()?;
        if status != 0 {
            return Ok(Err(status));
        }
        ensure!(xdr.u32()? == 1, "mkdir gave no handle");
        Ok(Ok(xdr.opaque()?.to_vec()))
    }

    /// READDIRPLUS of a whole folder: names in the server's order, `.` and `..` left out.
    pub fn list(&mut self, dir: &[u8]) -> anyhow::Result<Vec<String>> {
        let (mut names, mut cookie, mut verifier) = (Vec::new(), 0_u64, 0_u64);
        loop {
            let mut args = opaque(dir);
            args.extend(cookie.to_be_bytes());
            args.extend(verifier.to_be_bytes());
            args.extend(65536_u32.to_be_bytes());
            args.extend(262_144_u32.to_be_bytes());
            let reply = self.call(17, &[&args])?;
            let mut xdr = Xdr(&reply);
            let status = xdr.u32()?;
            ensure!(status == 0, "readdirplus: status {status}");
            xdr.post_attributes()?;
            verifier = xdr.u64()?;
            while xdr.u32()? == 1 {
                xdr.u64()?;
                let name = String::from_utf8(xdr.opaque()?.to_vec())?;
                cookie = xdr.u64()?;
                xdr.post_attributes()?;
                if xdr.u32()? == 1 {
                    xdr.opaque()?;
                }
                if name != "." && name != ".." {
                    names.push(name);
                }
            }
            if xdr.u32()? == 1 {
                return Ok(names);
            }
        }
    }
}
