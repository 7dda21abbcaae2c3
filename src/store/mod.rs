//! The remote: one object store under one prefix. The only user of object_store.
//!
//! Owns: the URL and its canonical form, deadlines of requests, the meaning of errors, counts, the knowledge of an
//! outage. Does not own: what the objects mean, when to try again ([`retry`] is the tool, its callers decide).
//!
//! Invariants: names are relative to the vault's prefix; nothing is ever overwritten but the hint `latest`; every
//! request ends before its deadline, and brings no more bytes than it was asked for; a directory that vanished is an outage, never an empty vault.

mod directory;
#[cfg(test)]
pub(crate) mod faulty;
mod outage;
pub mod retry;
mod url;

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Error as ObjectError, GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload,
};
use thiserror::Error;

use crate::base::Random;
use directory::Directory;
use outage::Outage;
pub use url::canonical_url;

#[derive(Debug, Error, Clone)]
pub enum StoreError {
    /// The URL cannot be used; says why and what would do.
    #[error("{0}")]
    BadUrl(String),
    /// The store does not answer, or not in time, or with an error that may pass.
    #[error("{name}: the store does not answer: {why}")]
    Unavailable { name: String, why: String },
    /// The store refuses (credentials, permissions, read-only).
    #[error("{name}: the store refuses: {why}")]
    Refused { name: String, why: String },
    /// Create-if-absent does not hold here.
    #[error("{0}")]
    NoConditionalCreate(String),
    /// More bytes came, or would come, than anything of a vault has: somebody else made it. Nothing was read into memory.
    #[error("{name}: {bytes} bytes or more, where a vault has {most} at most: it is not what dripfs put there")]
    TooLarge { name: String, bytes: u64, most: u64 },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Created {
    /// This request made it.
    New,
    /// Something stands there (perhaps made by an earlier try of ours: read it back and compare).
    Exists,
}

/// Requests and errors since the store was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreCounts {
    pub requests: u64,
    pub errors: u64,
}

/// How long a request may take: `deadline`, and the time that its bytes need at the slowest rate that still counts as
/// an answer. A request that is given up may still take effect later: the caller's protocol must bear that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    pub deadline: Duration,
    /// Listing walks through many names, so it has its own.
    pub list_deadline: Duration,
    pub slowest_bytes_per_second: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            deadline: Duration::from_secs(10),
            list_deadline: Duration::from_secs(60),
            slowest_bytes_per_second: 128 * 1024,
        }
    }
}

impl Settings {
    fn for_bytes(&self, bytes: u64) -> Duration {
        self.deadline + Duration::from_secs(bytes / self.slowest_bytes_per_second.max(1))
    }
}

/// Below this prefix lie the objects of [`Store::probe`]; one that an interrupted probe left is no foreign file.
pub const PROBE_PREFIX: &str = "probe/";

/// The only name that is ever overwritten.
const HINT: &str = "latest";

enum Backend {
    Ready(Arc<dyn ObjectStore>),
    /// A local directory, which may not exist yet.
    Directory(Directory),
}

struct Inner {
    backend: Backend,
    url: String,
    settings: Settings,
    requests: AtomicU64,
    errors: AtomicU64,
    outage: Outage,
}

/// A handle: clones share counts and outage.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What a request does, for the outage: reads may work where writes do not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

impl Store {
    fn new(backend: Backend, url: &str, settings: Settings) -> Store {
        let (requests, errors) = (AtomicU64::new(0), AtomicU64::new(0));
        let inner = Inner { backend, url: url.to_owned(), settings, requests, errors, outage: Outage::default() };
        Store { inner: Arc::new(inner) }
    }

    /// Over a store that a test brings.
    pub fn over(inner: Arc<dyn ObjectStore>, url: &str) -> Store {
        Store::new(Backend::Ready(inner), url, Settings::default())
    }

    /// As [`Store::over`], with other deadlines.
    pub fn over_with(inner: Arc<dyn ObjectStore>, url: &str, settings: Settings) -> Store {
        Store::new(Backend::Ready(inner), url, settings)
    }

    /// The canonical URL, without credentials.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// Does what it holds end with this process?
    pub fn is_volatile(&self) -> bool {
        self.inner.url.starts_with("memory:")
    }

    /// Makes the place where objects will lie, if it is one that can be missing (a directory; mode 0700).
    pub async fn make_root(&self) -> Result<(), StoreError> {
        let Backend::Directory(directory) = &self.inner.backend else { return Ok(()) };
        directory.make().await.map_err(|e| {
            let name = directory.path().display().to_string();
            match refuses(e.kind()) {
                true => StoreError::Refused { name, why: e.to_string() },
                false => StoreError::Unavailable { name, why: e.to_string() },
            }
        })
    }

    /// Somebody knows that a vault stands there: a directory that is missing is an outage then (is its disk mounted?), and
    /// none is made in its place.
    pub fn must_exist(&self) {
        if let Backend::Directory(directory) = &self.inner.backend {
            directory.must_exist();
        }
    }

    /// Puts an object only if nothing has that name. What was put, and what stands there, is durable.
    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<Created, StoreError> {
        let time = self.inner.settings.for_bytes(bytes.len() as u64);
        let put = async {
            let Some(store) = self.writable().await? else { return Err(vanished()) };
            let options = PutOptions { mode: PutMode::Create, ..Default::default() };
            let created = match store.put_opts(&path(name)?, PutPayload::from_bytes(bytes), options).await {
                Ok(_) => Created::New,
                Err(ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. }) => Created::Exists,
                Err(e) => return Err(e),
            };
            if let Backend::Directory(directory) = &self.inner.backend {
                directory.settle(name, created).await.map_err(local_error)?;
            }
            Ok(created)
        };
        self.request(Kind::Write, name, time, put).await
    }

    /// The object whole; `None` where there is none.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.get_with(name, GetOptions::default(), crate::base::sizes::CLASS_MAX as u64).await
    }

    /// Bytes of an object, fewer where it ends inside the range; `None` where there is no such object, or it ends before
    /// the range begins. An empty range is answered without asking.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Some(Bytes::new()));
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..Default::default() };
        self.get_with(name, options, wanted).await
    }

    /// At most `most` bytes are ever held: the provider may put an object of any size under any name.
    async fn get_with(&self, name: &str, options: GetOptions, most: u64) -> Result<Option<Bytes>, StoreError> {
        let get = async {
            let Some(store) = self.readable().await? else { return Ok(Got::Nothing) };
            let path = path(name)?;
            let ranged = options.range.clone();
            match (store.get_opts(&path, options).await, ranged) {
                (Ok(found), _) => collect(found, most).await,
                (Err(ObjectError::NotFound { .. }), _) => Ok(Got::Nothing),
                // A range that begins past the end is an error of the backend's own kind: the size tells them apart.
                (Err(e), Some(GetRange::Bounded(range))) => match store.head(&path).await {
                    Ok(meta) if meta.size <= range.start => Ok(Got::Nothing),
                    _ => Err(e),
                },
                (Err(e), _) => Err(e),
            }
        };
        match self.request(Kind::Read, name, self.inner.settings.for_bytes(most), get).await? {
            Got::Nothing => Ok(None),
            Got::Bytes(bytes) => Ok(Some(bytes)),
            Got::TooLarge(bytes) => Err(StoreError::TooLarge { name: name.to_owned(), bytes, most }),
        }
    }

    /// Writes the untrusted hint `latest`: the only name ever overwritten.
    pub async fn put_hint(&self, bytes: Bytes) -> Result<(), StoreError> {
        let put = async {
            let Some(store) = self.writable().await? else { return Err(vanished()) };
            store.put(&path(HINT)?, PutPayload::from_bytes(bytes)).await.map(|_| ())
        };
        self.request(Kind::Write, HINT, self.inner.settings.deadline, put).await
    }

    /// Names below a prefix ("" for all; whole path segments, such as `log/`), relative to the vault, sorted; the
    /// first `most` of them.
    pub async fn list(&self, prefix: &str, most: usize) -> Result<Vec<String>, StoreError> {
        // Backends differ in their order, so the least names are kept while all are seen.
        let mut names = BTreeSet::new();
        self.each_name(prefix, |name| {
            names.insert(name);
            if names.len() > most {
                names.pop_last();
            }
        })
        .await?;
        Ok(names.into_iter().collect())
    }

    /// As [`Store::list`], of the names after `after`: the next page. Fewer than `most` are all that are left.
    pub async fn list_after(&self, prefix: &str, after: &str, most: usize) -> Result<Vec<String>, StoreError> {
        let mut names = BTreeSet::new();
        let list = async {
            let Some(store) = self.readable().await? else { return Ok(()) };
            let mut found = store.list_with_offset(Some(&path(prefix)?), &path(after)?);
            while let Some(meta) = found.next().await {
                names.insert(meta?.location.to_string());
                if names.len() > most {
                    names.pop_last();
                }
            }
            Ok(())
        };
        self.request(Kind::Read, prefix, self.inner.settings.list_deadline, list).await?;
        Ok(names.into_iter().collect())
    }

    /// The greatest name below a prefix: all are seen, one is held.
    pub async fn last(&self, prefix: &str) -> Result<Option<String>, StoreError> {
        let mut last = None;
        self.each_name(prefix, |name| last = std::mem::take(&mut last).max(Some(name))).await?;
        Ok(last)
    }

    async fn each_name(&self, prefix: &str, mut visit: impl FnMut(String)) -> Result<(), StoreError> {
        let list = async {
            let Some(store) = self.readable().await? else { return Ok(()) };
            let mut found = store.list(Some(&path(prefix)?));
            while let Some(meta) = found.next().await {
                visit(meta?.location.to_string());
            }
            Ok(())
        };
        let shown = if prefix.is_empty() { self.url() } else { prefix };
        self.request(Kind::Read, shown, self.inner.settings.list_deadline, list).await
    }

    /// Creates a random name twice: [`StoreError::NoConditionalCreate`] unless the second is refused. Removes it.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let name: String = Random::Kernel.bytes::<16>().iter().map(|b| format!("{b:02x}")).collect();
        let name = format!("{PROBE_PREFIX}{name}");
        let first = self.create(&name, Bytes::from_static(b"1")).await;
        let second = match first {
            Ok(_) => self.create(&name, Bytes::from_static(b"2")).await,
            Err(e) => Err(e),
        };
        // Left behind, it is a byte that means nothing: an error here says nothing about the store.
        if let Err(e) = self.delete(&name).await {
            log::debug!("{name}: not removed: {e}");
        }
        match second? {
            Created::Exists => Ok(()),
            Created::New => Err(StoreError::NoConditionalCreate(format!(
                "{} overwrites objects although it was asked to create them only if absent: no vault can be written \
                 there safely; use a store that supports conditional puts",
                self.url()
            ))),
        }
    }

    /// As [`Store::probe`], for a writer that mounts: a bucket may have moved, or its provider changed its ways. What says
    /// nothing of that is left to the requests that follow.
    pub async fn probe_again(&self) -> Result<(), StoreError> {
        // There it is link(2), which replaces nothing on any filesystem, and a probe is several flushes of the disk.
        if matches!(self.inner.backend, Backend::Directory(_)) {
            return Ok(());
        }
        match self.probe().await {
            Err(error @ StoreError::NoConditionalCreate(_)) => Err(error),
            Err(error) => {
                log::debug!("the probe failed: {error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Deletes an object; one that is not there counts as deleted. In a directory the deletion is durable when this
    /// returns, so that deletions last in the order in which they were asked for; directories that become empty stay.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let delete = async {
            let Some(store) = self.readable().await? else { return Ok(()) };
            match store.delete(&path(name)?).await {
                Err(ObjectError::NotFound { .. }) | Ok(()) => {}
                Err(error) => return Err(error),
            }
            match &self.inner.backend {
                Backend::Directory(directory) => directory.settle_deleted(name).await.map_err(local_error),
                Backend::Ready(_) => Ok(()),
            }
        };
        self.request(Kind::Write, name, self.inner.settings.deadline, delete).await
    }

    pub fn counts(&self) -> StoreCounts {
        StoreCounts {
            requests: self.inner.requests.load(Ordering::Relaxed),
            errors: self.inner.errors.load(Ordering::Relaxed),
        }
    }

    /// Since when the store has not answered, and why; `None` while it does.
    pub fn outage(&self) -> Option<(Duration, String)> {
        self.inner.outage.now()
    }

    /// The store to read from; `None` where its place was never made.
    async fn readable(&self) -> Result<Option<Arc<dyn ObjectStore>>, ObjectError> {
        match &self.inner.backend {
            Backend::Ready(store) => Ok(Some(store.clone())),
            Backend::Directory(directory) => directory.store().await.map_err(local_error),
        }
    }

    /// The store to write to; the first write makes its place.
    async fn writable(&self) -> Result<Option<Arc<dyn ObjectStore>>, ObjectError> {
        match &self.inner.backend {
            Backend::Ready(store) => Ok(Some(store.clone())),
            Backend::Directory(directory) => {
                if let Some(store) = directory.store().await.map_err(local_error)? {
                    return Ok(Some(store));
                }
                directory.make().await.map_err(local_error)?;
                directory.store().await.map_err(local_error)
            }
        }
    }

    /// One request: counted, within its time, its error mapped, its end told to the outage.
    async fn request<T>(
        &self,
        kind: Kind,
        name: &str,
        time: Duration,
        work: impl Future<Output = Result<T, ObjectError>>,
    ) -> Result<T, StoreError> {
        self.inner.requests.fetch_add(1, Ordering::Relaxed);
        let result = match tokio::time::timeout(time, work).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(meaning(name, &error)),
            Err(_) => {
                let why = format!("no answer within {} s", time.as_secs_f64());
                Err(StoreError::Unavailable { name: name.to_owned(), why })
            }
        };
        match &result {
            Ok(_) => self.inner.outage.answered(kind == Kind::Write, self.url()),
            Err(error) => {
                self.inner.errors.fetch_add(1, Ordering::Relaxed);
                if !matches!(error, StoreError::NoConditionalCreate(_)) {
                    self.inner.outage.failed(kind == Kind::Write, self.url(), error);
                }
            }
        }
        result
    }
}

/// What a get brought.
enum Got {
    Nothing,
    Bytes(Bytes),
    /// Of so many bytes at least; they were left where they are.
    TooLarge(u64),
}

/// Neither what the store says of the length nor what it then sends may go beyond `most`.
async fn collect(found: GetResult, most: u64) -> Result<Got, ObjectError> {
    let told = found.range.end.saturating_sub(found.range.start);
    if told > most {
        return Ok(Got::TooLarge(told));
    }
    if matches!(found.payload, GetResultPayload::File(..)) {
        // Reads no more than the range.
        return found.bytes().await.map(Got::Bytes);
    }
    let mut stream = found.into_stream();
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        let len = (first.len() + joined.len() + chunk.len()) as u64;
        if len > most {
            return Ok(Got::TooLarge(len));
        }
        if joined.is_empty() && first.is_empty() {
            first = chunk;
            continue;
        }
        if joined.is_empty() {
            joined.reserve(told as usize);
            joined.extend_from_slice(&std::mem::take(&mut first));
        }
        joined.extend_from_slice(&chunk);
    }
    // One chunk needs no copy.
    Ok(Got::Bytes(if joined.is_empty() { first } else { joined.freeze() }))
}

fn path(name: &str) -> Result<Path, ObjectError> {
    Path::parse(name).map_err(ObjectError::from)
}

fn local_error(error: io::Error) -> ObjectError {
    ObjectError::Generic { store: "directory", source: Box::new(error) }
}

fn vanished() -> ObjectError {
    local_error(io::Error::new(io::ErrorKind::NotFound, "the directory vanished"))
}

/// Errors of the local disk that do not pass by waiting.
fn refuses(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// What an error of object_store means to us. The innermost cause is what a user can act on.
fn meaning(name: &str, error: &ObjectError) -> StoreError {
    let mut refused = matches!(error, ObjectError::PermissionDenied { .. } | ObjectError::Unauthenticated { .. });
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
        if let Some(e) = inner.downcast_ref::<io::Error>() {
            refused |= refuses(e.kind());
        }
    }
    let (name, why) = (name.to_owned(), cause.to_string());
    match error {
        ObjectError::NotImplemented { .. } | ObjectError::NotSupported { .. } => StoreError::NoConditionalCreate(
            format!("{name}: this store cannot do what a vault needs ({why}); use one that supports conditional puts"),
        ),
        _ if refused => StoreError::Refused { name, why },
        _ => StoreError::Unavailable { name, why },
    }
}

/// Opens `file:///path`, `memory:///` or a bare path (which means file://). Creates nothing.
///
/// Objects in a directory are fsynced with their directories before a put returns: one flush of the disk each, which
/// is why commits are made every few seconds and not for each file.
pub fn open(url: &str) -> Result<Store, StoreError> {
    open_with(url, Settings::default())
}

/// As [`open`], with other deadlines.
pub fn open_with(text: &str, settings: Settings) -> Result<Store, StoreError> {
    let (backend, url) = match url::parse(text)? {
        url::Place::Memory(url) => (Backend::Ready(Arc::new(InMemory::new())), url),
        url::Place::Directory(path) => {
            let url = url::of_path(&path)?;
            (Backend::Directory(Directory::new(path)), url)
        }
    };
    Ok(Store::new(backend, &url, settings))
}

#[cfg(test)]
mod tests;
