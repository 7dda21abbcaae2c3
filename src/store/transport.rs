//! HTTP below object_store: one connection pool, and what object_store does not do itself.
//!
//! - Bodies go out in pieces, under the bandwidth limit, and each that moves is told to the request's [`Progress`].
//! - A server that says when to come back (Retry-After) is left alone until then: that ends in one place, here.
//! - Of an answer that is an error only its code and one line are kept: a body may be endless, or repeat secrets.
//!
//! Nothing is sent twice here (object_store's own retries are off): who asks decides.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::{BodyExt, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use parking_lot::Mutex;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect;
use tokio::time::Instant;

use super::StoreError;
use super::limit::Limiter;
use super::progress::{Progress, TRANSFER};
use crate::base::Timestamp;

const CONNECT: Duration = Duration::from_secs(5);
/// Servers close idle connections sooner or later; one that is about to be closed is not used.
const IDLE: Duration = Duration::from_secs(30);
const IDLE_CONNECTIONS: usize = 64;
/// Pieces of a body.
const PIECE: usize = 64 * 1024;
/// More than any object of a vault, or any page of a listing, has.
const ANSWER_MAX: usize = 32 << 20;
/// Of the body of an error.
const ERROR_MAX: usize = 64 << 10;
const LINE_MAX: usize = 200;
/// A server may ask for so long a pause, and no longer.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A request waits itself for the end of a pause that is no longer than this.
const PAUSE_SHORT: Duration = Duration::from_secs(5);
/// Where clouds give their machines credentials.
const METADATA: [&str; 4] = ["169.254.169.254", "169.254.170.2", "169.254.170.23", "metadata.google.internal"];

#[derive(Clone)]
pub(super) struct Transport(Arc<Inner>);

struct Inner {
    client: reqwest::Client,
    upload: Limiter,
    /// Bytes of bodies that went out.
    sent: AtomicU64,
    /// By how many seconds the server's clock is ahead.
    ahead: Mutex<Option<i64>>,
    /// Nothing is asked before.
    pause: Mutex<Option<Instant>>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

/// What went wrong below HTTP's own errors.
#[derive(Debug)]
struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Failure {}

fn failed(why: String) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, Failure(why))
}

impl Transport {
    /// `roots`: certificates to trust beside the system's, PEM.
    pub(super) fn new(upload: Limiter, roots: Option<&[u8]>) -> Result<Transport, StoreError> {
        let bad = |why: String| StoreError::BadUrl(format!("HTTP cannot be used: {why}"));
        let roots = match roots {
            Some(pem) => reqwest::Certificate::from_pem_bundle(pem).map_err(|e| bad(e.to_string()))?,
            None => Vec::new(),
        };
        let client = reqwest::Client::builder()
            .user_agent(concat!("dripfs/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .tls_certs_merge(roots)
            .redirect(redirect::Policy::custom(no_downgrade))
            .build()
            .map_err(|e| bad(innermost(&e)))?;
        Ok(Transport(Arc::new(Inner {
            client,
            upload,
            sent: AtomicU64::new(0),
            ahead: Mutex::new(None),
            pause: Mutex::new(None),
        })))
    }

    /// Waits for the end of a pause that the server asked for; one that is long is an error now.
    async fn wait_for_server(&self, progress: &Progress) -> Result<(), HttpError> {
        let Some(until) = *self.0.pause.lock() else { return Ok(()) };
        let left = until.saturating_duration_since(Instant::now());
        if left > PAUSE_SHORT {
            return Err(failed(format!("the server asked to be left alone for {} s more", left.as_secs())));
        }
        progress.held(tokio::time::sleep(left)).await;
        Ok(())
    }

    fn heed(&self, headers: &HeaderMap) {
        // A date instead of seconds is rare, and a clock's matter: then our own pace has to do.
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        if let Some(seconds) = seconds {
            *self.0.pause.lock() = Some(Instant::now() + Duration::from_secs(seconds).min(PAUSE_MAX));
        }
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let progress = TRANSFER.try_with(Arc::clone).unwrap_or_else(|_| Progress::new());
        self.wait_for_server(&progress).await?;
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse().map_err(|_| failed("the URL is none".to_owned()))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        let length = body.content_length();
        if length > 0 && !request.headers().contains_key(CONTENT_LENGTH) {
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        *request.body_mut() = Some(match length {
            0 => Bytes::new().into(),
            _ => reqwest::Body::wrap_stream(self.clone().pieces(body, progress.clone())),
        });
        let answer = self.0.client.execute(request).await.map_err(|e| failed(describe(&host, &e)))?;
        progress.received(0);
        self.look_at_clock(answer.headers());
        let status = answer.status();
        if status.is_client_error() || status.is_server_error() {
            self.heed(answer.headers());
            let code = answer.headers().get("x-ms-error-code").and_then(|code| code.to_str().ok()).map(str::to_owned);
            let (parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
            let line = error_line(body, code).await;
            return Ok(HttpResponse::from_parts(parts, line.into()));
        }
        let (parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
        let body = body.map_frame(move |frame| {
            progress.received(frame.data_ref().map_or(0, |data| data.len() as u64));
            frame
        });
        let body = Limited::new(body, ANSWER_MAX).map_err(move |e| failed(describe(&host, &*e)));
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }

    fn look_at_clock(&self, headers: &HeaderMap) {
        let told =
            headers.get(http::header::DATE).and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok());
        if let Some(told) = told {
            let seconds = |time| Timestamp::from_system(time).secs;
            *self.0.ahead.lock() = Some(seconds(told) - seconds(SystemTime::now()));
        }
    }

    pub(super) fn clock_ahead(&self) -> Option<i64> {
        *self.0.ahead.lock()
    }

    pub(super) fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// Of uploads, from now on.
    pub(super) fn limit(&self, rate: Option<std::num::NonZeroU64>) {
        self.0.upload.set(rate);
    }

    /// A body in pieces, each when the limit allows it.
    fn pieces(
        self,
        body: HttpRequestBody,
        progress: Arc<Progress>,
    ) -> impl Stream<Item = Result<Bytes, HttpError>> + Send + 'static {
        let size = self.0.upload.piece().unwrap_or(PIECE);
        let data = body.into_data_stream().flat_map(move |data| {
            let pieces: Vec<_> = match data {
                Ok(data) => split(data, size).into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            futures::stream::iter(pieces)
        });
        data.then(move |piece| {
            let (this, progress) = (self.clone(), progress.clone());
            async move {
                let piece = piece?;
                if this.0.upload.is_limited() {
                    progress.held(this.0.upload.take(piece.len() as u64)).await;
                }
                progress.sent(piece.len() as u64);
                this.0.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                Ok(piece)
            }
        })
    }
}

fn split(mut data: Bytes, size: usize) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(data.len().div_ceil(size));
    while data.len() > size {
        pieces.push(data.split_to(size));
    }
    pieces.push(data);
    pieces
}

/// The service is a trait of an async function, written out.
impl HttpService for Transport {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.exchange(request))
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

/// Never from a connection that nobody can listen to, to one that everybody can.
fn no_downgrade(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if attempt.previous().len() > 5 {
        return attempt.error("too many redirects");
    }
    match was_secure && attempt.url().scheme() != "https" {
        true => attempt.error("a redirect from https to http is not followed"),
        false => attempt.follow(),
    }
}

/// One line for people: which host, and the innermost cause. URLs are left out: they may be signed.
fn describe(host: &str, error: &(dyn Error + 'static)) -> String {
    let mut why = innermost(error);
    if let Some(error) = error.downcast_ref::<reqwest::Error>()
        && error.is_timeout()
        && error.is_connect()
    {
        why = format!("no connection within {} s", CONNECT.as_secs());
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    match METADATA.contains(&name) {
        true => format!(
            "no credentials: none in the environment, none in files, and this machine has none from a cloud ({host}: {why})"
        ),
        false => format!("{host}: {why}"),
    }
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// `Code: message` of an error in XML, as S3, Google and Azure write it; else nothing.
async fn error_line(body: reqwest::Body, code: Option<String>) -> String {
    let text = match Limited::new(body, ERROR_MAX).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(_) => String::new(),
    };
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (inside, _) = rest.split_once(&format!("</{name}>"))?;
        let line = inside.lines().next().unwrap_or("");
        Some(line.chars().filter(|c| !c.is_control()).take(LINE_MAX).collect::<String>())
    };
    match (element("Code").or(code), element("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code,
        _ => String::new(),
    }
}
