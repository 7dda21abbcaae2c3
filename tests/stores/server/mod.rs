//! An S3 server in this process: atomic, in memory, with latency and faults to order.
//!
//! The protocol is the crate s3s's; `objects` holds what it asks for, `wire` makes connections slow. It serves on a
//! thread of its own, so that tests may block on real mounts, and only to 127.0.0.1. It remembers each request that it
//! answered, for tests that count them.

#![allow(dead_code)]

mod objects;
mod wire;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use objects::{Auth, Objects};
use wire::Wire;

/// The one bucket.
pub const BUCKET: &str = "bucket";
pub const KEY: &str = "AKIDTEST";
pub const SECRET: &str = "secret-of-the-test";

/// What is wrong with the server.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Fault {
    #[default]
    None,
    /// Nobody listens.
    Refuse,
    /// Requests are taken and never answered.
    Hang,
    /// Each is answered with this status, code and Retry-After.
    Answer(u16, &'static str, Option<u64>),
    /// Bodies end in the middle, in both directions.
    Cut,
    /// So many bytes a second, in each direction of each connection.
    Slow(u64),
}

/// A request that was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub method: Method,
    pub key: String,
    pub status: u16,
}

pub struct State {
    objects: Arc<Objects>,
    fault: watch::Sender<Fault>,
    delay: Mutex<Duration>,
    seen: Mutex<Vec<Seen>>,
    /// Bytes of request and response bodies.
    bytes: AtomicU64,
    keys: Mutex<(String, String)>,
}

pub struct S3Server {
    pub address: SocketAddr,
    state: Arc<State>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl S3Server {
    /// Serves at a port that is free.
    pub fn start() -> S3Server {
        S3Server::start_at(0, Duration::ZERO)
    }

    pub fn start_at(port: u16, delay: Duration) -> S3Server {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let state = Arc::new(State {
            objects: Arc::default(),
            fault: watch::Sender::new(Fault::None),
            delay: Mutex::new(delay),
            seen: Mutex::default(),
            bytes: AtomicU64::new(0),
            keys: Mutex::new((KEY.to_owned(), SECRET.to_owned())),
        });
        let listener = runtime.block_on(async { listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) });
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let served = state.clone();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, address, served) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        S3Server { address, state, stop: Some(stop), thread: Some(thread) }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What a client's environment must hold.
    pub fn environment(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ])
    }

    /// From now on this is wrong. Connections that stand are kept, but where nobody listens.
    pub fn set_fault(&self, fault: Fault) {
        self.state.fault.send_replace(fault);
    }

    pub fn set_delay(&self, delay: Duration) {
        *self.state.delay.lock() = delay;
    }

    /// Only these are accepted from now on.
    pub fn set_keys(&self, key: &str, secret: &str) {
        *self.state.keys.lock() = (key.to_owned(), secret.to_owned());
    }

    /// What was answered since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.state.seen.lock())
    }

    pub fn bytes_moved(&self) -> u64 {
        self.state.bytes.load(Ordering::Relaxed)
    }

    /// All objects, by key.
    pub fn objects(&self) -> BTreeMap<String, Bytes> {
        self.state.objects.all()
    }

    /// Create-if-absent is not atomic from now on.
    pub fn race(&self) {
        self.state.objects.race();
    }

    pub fn remove_bucket(&self) {
        self.state.objects.remove_bucket();
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

async fn serve(listener: TcpListener, address: SocketAddr, state: Arc<State>) {
    let mut builder = S3ServiceBuilder::new(objects::Service(state.objects.clone()));
    builder.set_auth(Auth(state.clone()));
    let service = builder.build();
    let mut fault = state.fault.subscribe();
    let mut listener = Some(listener);
    loop {
        if *fault.borrow_and_update() == Fault::Refuse {
            drop(listener.take());
            if fault.changed().await.is_err() {
                return;
            }
            continue;
        }
        let standing = match listener.take() {
            Some(listener) => listener,
            None => listen(address).expect("the port is still ours"),
        };
        tokio::select! {
            accepted = standing.accept() => {
                if let Ok((stream, _)) = accepted {
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(connection(stream, state.clone(), service.clone()));
                }
            }
            _ = fault.changed() => {}
        }
        listener = Some(standing);
    }
}

async fn connection(stream: tokio::net::TcpStream, state: Arc<State>, service: S3Service) {
    let mut fault = state.fault.subscribe();
    let io = TokioIo::new(Wire::new(stream, state.fault.subscribe()));
    let answer = hyper::service::service_fn(|request| answer(request, state.clone(), service.clone()));
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    tokio::select! {
        _ = builder.serve_connection(io, answer) => {}
        _ = fault.wait_for(|fault| *fault == Fault::Refuse) => {}
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
    service: S3Service,
) -> Result<Response<s3s::Body>, Failed> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let key = path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key).to_owned();
    let fault = state.fault.borrow().clone();
    let delay = *state.delay.lock();
    tokio::time::sleep(delay).await;
    let seen = |status: StatusCode| {
        state.seen.lock().push(Seen { method: method.clone(), key: key.clone(), status: status.as_u16() });
    };
    match fault {
        Fault::Hang => {
            // Also those that hang now are never answered.
            std::future::pending::<()>().await;
        }
        Fault::Answer(status, code, after) => {
            let _ = request.into_body().collect().await;
            let text = format!("<Error><Code>{code}</Code><Message>as ordered</Message></Error>");
            let mut response = Response::builder().status(status);
            if let Some(after) = after {
                response = response.header("Retry-After", after);
            }
            seen(StatusCode::from_u16(status)?);
            return Ok(response.body(s3s::Body::from(text))?);
        }
        Fault::Cut if method == Method::PUT => {
            let mut body = request.into_body();
            let _ = body.frame().await;
            return Err("cut".into());
        }
        _ => {}
    }
    let request = request.map(s3s::Body::from);
    let response = service.call(request).await.map_err(|_| "the service failed")?;
    seen(response.status());
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    state.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
    // The header tells the whole length.
    let cut = fault == Fault::Cut && parts.status.is_success() && method == Method::GET;
    let body = if cut { body.slice(..body.len() / 2) } else { body };
    let mut response = Response::from_parts(parts, s3s::Body::from(body.clone()));
    if cut {
        let stream = futures::stream::iter([Ok::<_, std::io::Error>(hyper::body::Frame::data(body))]);
        *response.body_mut() = s3s::Body::http_body_unsync(http_body_util::StreamBody::new(stream));
    }
    Ok(response)
}
