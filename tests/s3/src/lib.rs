//! A real S3 server for tests (`s3s-fs` on loopback) that fails as told. Checks signatures; never used by the product.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The key id that the server knows.
pub const KEY_ID: &str = "test-key";
/// Its secret.
pub const SECRET: &str = "test-secret-0123456789";
/// The bucket that it has.
pub const BUCKET: &str = "documents";

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Not carried out, answered with this status.
    Status(u16),
    /// Not carried out, the connection ends without an answer.
    Reset,
    /// Carried out, then the connection ends without an answer.
    LostReply,
    /// Carried out and answered after this time.
    Slow(Duration),
    /// Answered with 503 at once, carried out after this time.
    Late(Duration),
    /// The answer breaks off after so many bytes of its body.
    Truncated(usize),
    /// The last byte of the answer's body is another one.
    Changed,
}

#[derive(Default)]
struct State {
    /// Faults to come: method, how often, what.
    plan: Vec<(Method, usize, Fault)>,
    requests: HashMap<Method, usize>,
    /// Requests that are carried out after their answer.
    late: Vec<JoinHandle<()>>,
}

/// A running server; stops when dropped.
pub struct S3Server {
    /// Where it listens.
    pub address: SocketAddr,
    folder: tempfile::TempDir,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

impl S3Server {
    /// Starts a server on the current runtime, with an empty bucket.
    pub async fn start() -> io::Result<S3Server> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join(BUCKET))?;
        let files =
            FileSystem::new(folder.path()).map_err(|e| io::Error::other(format!("{e:?}")))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::<Mutex<State>>::default();
        let accepting = tokio::spawn(accept(listener, service, state.clone()));
        Ok(S3Server {
            address,
            folder,
            state,
            accepting,
        })
    }

    /// Its address as a URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next `times` requests of a method meet `fault`.
    pub fn inject(&self, method: Method, times: usize, fault: Fault) {
        self.state.lock().plan.push((method, times, fault));
    }

    /// No more faults.
    pub fn heal(&self) {
        self.state.lock().plan.clear();
    }

    /// Requests of a method so far.
    pub fn requests(&self, method: &Method) -> usize {
        self.state.lock().requests.get(method).copied().unwrap_or(0)
    }

    /// Waits until what was to be carried out later is.
    pub async fn settle(&self) {
        let late = std::mem::take(&mut self.state.lock().late);
        for task in late {
            // A failed one is told by what is missing then.
            let _ = task.await;
        }
    }

    /// The folder that holds the bucket's objects as files.
    pub fn bucket(&self) -> std::path::PathBuf {
        self.folder.path().join(BUCKET)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, service: S3Service, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (service, state) = (service.clone(), state.clone());
        tokio::spawn(async move {
            let answer = hyper::service::service_fn(move |request| {
                let (service, state) = (service.clone(), state.clone());
                async move { answer(service, state, request).await }
            });
            // An error is a connection that ended, mostly because a fault wants it.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

fn next_fault(state: &Mutex<State>, method: &Method) -> Option<Fault> {
    let mut state = state.lock();
    *state.requests.entry(method.clone()).or_default() += 1;
    let (_, times, fault) = state
        .plan
        .iter_mut()
        .find(|(of, times, _)| of == method && *times > 0)?;
    *times -= 1;
    Some(*fault)
}

async fn carry_out(
    service: S3Service,
    request: Request<s3s::Body>,
) -> Result<Response<Body>, io::Error> {
    let response = service
        .call(request)
        .await
        .map_err(|error| io::Error::other(format!("{error:?}")))?;
    Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync()))
}

fn status(code: u16) -> Response<Body> {
    let mut response = Response::new(
        Full::default()
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

async fn answer(
    service: S3Service,
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    let fault = next_fault(&state, request.method());
    let (parts, body) = request.into_parts();
    // Read as a whole first, so that the client has sent it when the fault comes.
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let request = Request::from_parts(parts, s3s::Body::from(body));
    match fault {
        None => carry_out(service, request).await,
        Some(Fault::Status(code)) => Ok(status(code)),
        Some(Fault::Reset) => Err(io::Error::other("reset")),
        Some(Fault::LostReply) => {
            carry_out(service, request).await?;
            Err(io::Error::other("the answer is lost"))
        }
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            carry_out(service, request).await
        }
        Some(Fault::Late(time)) => {
            let task = tokio::spawn(async move {
                tokio::time::sleep(time).await;
                let _ = carry_out(service, request).await;
            });
            state.lock().late.push(task);
            Ok(status(503))
        }
        Some(Fault::Truncated(at)) => {
            let (parts, bytes) = whole(carry_out(service, request).await?).await?;
            let frames = [
                Ok(Frame::data(bytes.slice(..at.min(bytes.len())))),
                Err(io::Error::other("broken off")),
            ];
            let body = StreamBody::new(futures::stream::iter(frames));
            Ok(Response::from_parts(parts, body.boxed_unsync()))
        }
        Some(Fault::Changed) => {
            let (parts, bytes) = whole(carry_out(service, request).await?).await?;
            let mut bytes = bytes.to_vec();
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            let body = Full::from(bytes).map_err(|never| match never {});
            Ok(Response::from_parts(parts, body.boxed_unsync()))
        }
    }
}

/// The whole body of an answer, with the length that it has put into the head.
async fn whole(
    response: Response<Body>,
) -> Result<(hyper::http::response::Parts, Bytes), io::Error> {
    let (mut parts, body) = response.into_parts();
    let bytes = body.collect().await?.to_bytes();
    parts
        .headers
        .insert(hyper::header::CONTENT_LENGTH, bytes.len().into());
    Ok((parts, bytes))
}
