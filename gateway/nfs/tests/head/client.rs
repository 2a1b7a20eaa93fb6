//! A bare RPC client: says exactly what a test wants said, retries and garbage included.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sluice_nfs_wire::auth::{AUTH_SYS, AuthSys, OpaqueAuth};
use sluice_nfs_wire::mount::{self, DirPath, MntRes};
use sluice_nfs_wire::nfs3::{self, *};
use sluice_nfs_wire::record::{RecordReader, single_fragment_header};
use sluice_nfs_wire::rpc::{self, CallHeader, Incoming, ReplyHead};
use sluice_nfs_wire::xdr::{Decoder, Encoder, Opaque, Payload, Xdr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Every call of every client gets its own transaction id, unless the test says otherwise.
static NEXT_XID: AtomicU32 = AtomicU32::new(1);

pub fn fresh_xid() -> u32 {
    NEXT_XID.fetch_add(1, Ordering::Relaxed)
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    records: RecordReader,
    input: BytesMut,
    pub cred: OpaqueAuth,
}

pub fn auth_sys(machine: &str, uid: u32, gid: u32) -> OpaqueAuth {
    let mut e = Encoder::new();
    e.put(&AuthSys {
        stamp: 0,
        machine_name: Opaque::copy_of(machine),
        uid,
        gid,
        gids: vec![gid],
    });
    OpaqueAuth {
        flavor: AUTH_SYS,
        body: Opaque(e.into_bytes()),
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connect_as(address, "client-a", 1000).await
    }

    pub async fn connect_as(address: SocketAddr, machine: &str, uid: u32) -> Self {
        let stream = TcpStream::connect(address).await.expect("connects");
        stream.set_nodelay(true).expect("no delay");
        Self {
            stream,
            records: RecordReader::new(8 << 20),
            input: BytesMut::new(),
            cred: auth_sys(machine, uid, uid),
        }
    }

    /// Sends raw bytes.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sends");
    }

    /// The next record, or `None` when the server has closed the connection.
    pub async fn receive(&mut self) -> Option<Bytes> {
        loop {
            if let Some(record) = self.records.next(&mut self.input).expect("a record") {
                return Some(record);
            }
            let read = self.stream.read_buf(&mut self.input);
            let got = tokio::time::timeout(Duration::from_secs(20), read).await;
            match got.expect("the server answers or closes in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The record of a call.
    pub fn message(
        &self,
        xid: u32,
        program: u32,
        version: u32,
        procedure: u32,
        args: &impl Xdr,
    ) -> Bytes {
        let mut e = Encoder::new();
        let header = CallHeader {
            program,
            version,
            procedure,
            cred: self.cred.clone(),
            verf: OpaqueAuth::none(),
        };
        rpc::encode_call(xid, &header, &mut e);
        e.put(args);
        e.into_bytes()
    }

    pub async fn send(&mut self, message: &Bytes) {
        self.send_raw(&single_fragment_header(message.len())).await;
        self.send_raw(message).await;
    }

    /// The next reply: its transaction id, its head, and a decoder at its results.
    pub async fn reply(&mut self) -> (u32, ReplyHead, Decoder) {
        let record = self.receive().await.expect("a reply");
        let mut d = Decoder::new(record);
        let Ok(Incoming::Reply(xid)) = rpc::decode_incoming(&mut d) else {
            panic!("not a reply");
        };
        let head = ReplyHead::decode(&mut d).expect("a reply's head");
        (xid, head, d)
    }

    /// One call with its reply's head and results.
    pub async fn call(
        &mut self,
        program: u32,
        version: u32,
        procedure: u32,
        args: &impl Xdr,
    ) -> (ReplyHead, Decoder) {
        let xid = fresh_xid();
        let message = self.message(xid, program, version, procedure, args);
        self.send(&message).await;
        let (replied, head, results) = self.reply().await;
        assert_eq!(replied, xid);
        (head, results)
    }

    /// One NFSv3 call that is accepted.
    pub async fn nfs<R: Xdr>(&mut self, procedure: Procedure, args: &impl Xdr) -> R {
        let (head, results) = self
            .call(nfs3::PROGRAM, nfs3::VERSION, procedure as u32, args)
            .await;
        assert_eq!(head, ReplyHead::Success);
        results.last().expect("results of this procedure")
    }

    pub async fn mount(&mut self, path: &str) -> MntRes {
        let path: DirPath = Opaque::copy_of(path);
        let (head, results) = self.call(mount::PROGRAM, 3, mount::PROC_MNT, &path).await;
        assert_eq!(head, ReplyHead::Success);
        results.last().expect("results of MNT")
    }

    /// The root handle of `/docs`.
    pub async fn root(&mut self) -> FileHandle {
        match self.mount("/docs").await {
            MntRes::Ok(handle, flavors) => {
                assert_eq!(flavors, [AUTH_SYS]);
                handle
            }
            MntRes::Fail(stat) => panic!("mount refused: {stat:?}"),
        }
    }

    pub async fn lookup(&mut self, dir: &FileHandle, name: &str) -> LookupRes {
        self.nfs(Procedure::Lookup, &at(dir, name)).await
    }

    pub async fn create(&mut self, dir: &FileHandle, name: &str, how: CreateHow) -> CreateRes {
        let args = CreateArgs {
            target: at(dir, name),
            how,
        };
        self.nfs(Procedure::Create, &args).await
    }

    /// Creates a file that must not exist.
    pub async fn new_file(&mut self, dir: &FileHandle, name: &str) -> FileHandle {
        created(
            self.create(dir, name, CreateHow::Guarded(mode(0o644)))
                .await,
        )
    }

    pub async fn mkdir(&mut self, dir: &FileHandle, name: &str) -> CreateRes {
        self.nfs(Procedure::Mkdir, &mkdir_args(dir, name)).await
    }

    pub async fn write(
        &mut self,
        file: &FileHandle,
        offset: u64,
        data: &[u8],
        stable: Stability,
    ) -> WriteRes {
        let args = WriteArgs {
            file: file.clone(),
            offset,
            count: data.len() as u32,
            stable,
            data: Payload(vec![Bytes::copy_from_slice(data)]),
        };
        self.nfs(Procedure::Write, &args).await
    }

    pub async fn read(&mut self, file: &FileHandle, offset: u64, count: u32) -> (Vec<u8>, bool) {
        let args = ReadArgs {
            file: file.clone(),
            offset,
            count,
        };
        match self.nfs(Procedure::Read, &args).await {
            ReadRes::Ok(ok) => {
                assert_eq!(ok.count as usize, ok.data.len());
                (ok.data.into_received().to_vec(), ok.eof)
            }
            ReadRes::Fail(status, _) => panic!("READ failed: {status:?}"),
        }
    }

    pub async fn getattr(&mut self, object: &FileHandle) -> GetattrRes {
        let object = object.clone();
        self.nfs(Procedure::Getattr, &ObjectArgs { object }).await
    }

    pub async fn attributes(&mut self, object: &FileHandle) -> Attributes {
        match self.getattr(object).await {
            GetattrRes::Ok(attributes) => attributes,
            GetattrRes::Fail(status, ()) => panic!("GETATTR failed: {status:?}"),
        }
    }
}

pub fn at(dir: &FileHandle, name: &str) -> DirOpArgs {
    DirOpArgs {
        dir: dir.clone(),
        name: FileName::copy_of(name),
    }
}

pub fn mode(mode: u32) -> SetAttributes {
    SetAttributes {
        mode: Some(mode),
        ..SetAttributes::default()
    }
}

pub fn mkdir_args(dir: &FileHandle, name: &str) -> MkdirArgs {
    MkdirArgs {
        target: at(dir, name),
        attributes: mode(0o755),
    }
}

pub fn created(result: CreateRes) -> FileHandle {
    match result {
        CreateRes::Ok(ok) => ok.object.expect("a handle"),
        CreateRes::Fail(status, _) => panic!("not created: {status:?}"),
    }
}
