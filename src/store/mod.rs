//! The remote: one object store under one prefix. The only user of object_store.
//!
//! | file | what it holds |
//! |---|---|
//! | `url` | what URLs name, and their canonical form |
//! | `directory`, `remote` | what objects lie in: a local directory; a bucket or a web server, and credentials (`profile`) |
//! | `transport` | HTTP below object_store: one pool, bodies in pieces, Retry-After |
//! | `get`, `list` | reading; writing is in this file |
//! | `progress`, `limit` | how long a request may take, and how much may move a second |
//! | `error`, `outage`, `meter` | what an answer means, since when there is none, counts |
//! | `probe` | does the store keep create-if-absent? |
//! | [`retry`] | trying again, for background writers |
//!
//! Owns: the URL and its canonical form, deadlines of requests, the meaning of errors, counts, the knowledge of an
//! outage. Does not own: what the objects mean, when to try a write again ([`retry`] is the tool, its callers decide).
//!
//! Invariants: names are relative to the vault's prefix; nothing is ever overwritten but the hint `latest`; every
//! request ends once it stands still for its deadline, and brings no more bytes than it was asked for; a directory or
//! bucket that vanished is an outage, never an empty vault; a write is sent once for each call.

mod directory;
mod error;
#[cfg(test)]
pub(crate) mod faulty;
mod get;
mod limit;
mod list;
mod meter;
mod outage;
mod probe;
mod profile;
mod progress;
mod remote;
pub mod retry;
mod transport;
mod url;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error as ObjectError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::time::Instant;

use directory::Directory;
pub use error::StoreError;
use error::{Answer, meaning, refuses};
use limit::Limiter;
pub use limit::Limits;
use meter::Meter;
pub use meter::{BUCKETS_MS, Kind, KindCounts, StoreCounts};
use outage::Outage;
pub use profile::Variables;
use progress::{Pace, Progress, Rule};
pub use remote::Environment;
use remote::{Origin, Remote};
pub use url::canonical_url;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Created {
    /// This request made it.
    New,
    /// Something stands there (perhaps made by an earlier try of ours: read it back and compare).
    Exists,
}

/// How long a request may take: `deadline`, and the time that its bytes need at the slowest rate that still counts as
/// an answer. Over a network it is the time that a request may stand still (`progress`): one that moves goes on. A
/// request that is given up may still take effect later: the caller's protocol must bear that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    pub deadline: Duration,
    /// Listing walks through many names, so it has its own.
    pub list_deadline: Duration,
    pub slowest_bytes_per_second: u64,
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            deadline: Duration::from_secs(10),
            list_deadline: Duration::from_secs(60),
            slowest_bytes_per_second: 128 * 1024,
            limits: Limits::default(),
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

/// A read that fails at once is tried so often in all, with a pause that doubles: servers answer 500 and 503 now and
/// then, and cut connections. Writes are tried again by their callers, who know what a lost answer means.
const READ_TRIES: u32 = 4;
const READ_PAUSE: Duration = Duration::from_millis(100);

/// For whoever has time, a read that fails in whatever way is tried again so often, after pauses that double.
const PATIENT_TRIES: u32 = 6;
const PATIENT_PAUSE: Duration = Duration::from_millis(500);

/// Over a network a request may take so long, and the time that its bytes need at this rate, even if it moves.
const LONGEST: Duration = Duration::from_secs(600);
const TRICKLE: u64 = 2 * 1024;

enum Backend {
    Ready(Arc<dyn ObjectStore>),
    /// A local directory, which may not exist yet.
    Directory(Directory),
    /// Over a network.
    Remote(Remote),
}

struct Inner {
    backend: Backend,
    url: String,
    settings: Settings,
    meter: Meter,
    outage: Outage,
    /// Where no transport does it.
    upload: Limiter,
    download: Limiter,
    /// What went out where no transport counts it.
    sent: AtomicU64,
}

/// A handle: clones share counts and outage.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    /// How often a read is tried again, beyond what one request may do.
    tries: u32,
}

impl Kind {
    /// Reads may work where writes do not.
    fn writes(self) -> bool {
        matches!(self, Kind::Put | Kind::Delete)
    }
}

impl Store {
    fn new(backend: Backend, url: &str, settings: Settings) -> Store {
        let is_remote = matches!(backend, Backend::Remote(_));
        let upload = Limiter::new(settings.limits.upload.filter(|_| !is_remote));
        let download = Limiter::new(settings.limits.download);
        let (url, meter, outage, sent) = (url.to_owned(), Meter::default(), Outage::default(), AtomicU64::new(0));
        Store { inner: Arc::new(Inner { backend, url, settings, meter, outage, upload, download, sent }), tries: 0 }
    }

    /// The same store for work in the background that is many reads one after the other, and is in vain as a whole if one
    /// of them fails: over a bad line all of them at the first try come too seldom.
    pub fn patient(&self) -> Store {
        Store { tries: PATIENT_TRIES, ..self.clone() }
    }

    /// Over a store that a test brings.
    pub fn over(inner: Arc<dyn ObjectStore>, url: &str) -> Store {
        Store::new(Backend::Ready(inner), url, Settings::default())
    }

    /// As [`Store::over`], with other deadlines.
    pub fn over_with(inner: Arc<dyn ObjectStore>, url: &str, settings: Settings) -> Store {
        Store::new(Backend::Ready(inner), url, settings)
    }

    /// Bandwidth from now on, for all handles of this store.
    pub fn limit(&self, limits: Limits) {
        match &self.inner.backend {
            Backend::Remote(remote) => remote.limit(limits.upload),
            _ => self.inner.upload.set(limits.upload),
        }
        self.inner.download.set(limits.download);
    }

    /// Bytes that went out, of requests that are not over too: who waits for a large object sees that it moves.
    pub fn sent(&self) -> u64 {
        match &self.inner.backend {
            Backend::Remote(remote) => remote.sent(),
            _ => self.inner.sent.load(Relaxed),
        }
    }

    /// The canonical URL, without credentials.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// Does what it holds end with this process?
    pub fn is_volatile(&self) -> bool {
        self.inner.url.starts_with("memory:")
    }

    /// By how many seconds the store's clock is ahead of this machine's, as its last answer told.
    pub fn clock_ahead(&self) -> Option<i64> {
        match &self.inner.backend {
            Backend::Remote(remote) => remote.clock_ahead(),
            _ => None,
        }
    }

    /// Is it in a directory that is not there?
    pub fn is_missing(&self) -> bool {
        matches!(&self.inner.backend, Backend::Directory(directory) if !directory.path().exists())
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

    /// Is it one that can only be read?
    pub fn is_read_only(&self) -> bool {
        matches!(&self.inner.backend, Backend::Remote(remote) if remote.is_web())
    }

    /// Can names be listed? Where not, what is there is found by the hint and by asking for one name after another.
    pub fn can_list(&self) -> bool {
        !self.is_read_only()
    }

    /// Waits until so much may go out, where no transport does it.
    async fn limited(&self, len: u64) {
        if !self.inner.upload.is_limited() {
            return;
        }
        let piece = self.inner.upload.piece().unwrap_or(usize::MAX) as u64;
        let mut left = len;
        while left > 0 {
            let next = left.min(piece);
            self.inner.upload.take(next).await;
            self.inner.sent.fetch_add(next, Relaxed);
            left -= next;
        }
    }

    /// Puts an object only if nothing has that name. What was put, and what stands there, is durable.
    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<Created, StoreError> {
        let len = bytes.len() as u64;
        self.limited(len).await;
        let put = || async {
            let Some(store) = self.writable().await? else { return Err(vanished()) };
            let options = PutOptions { mode: PutMode::Create, ..Default::default() };
            let payload = PutPayload::from_bytes(bytes.clone());
            let created = match store.put_opts(&path(name)?, payload, options).await {
                Ok(_) => Created::New,
                Err(e) if Answer::of(&e).is_some_and(|answer| answer.is_conflict()) => return Err(undecided()),
                Err(ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. }) => Created::Exists,
                Err(e) => return Err(e),
            };
            if let Backend::Directory(directory) = &self.inner.backend {
                directory.settle(name, created).await.map_err(local_error)?;
            }
            Ok(created)
        };
        self.request(Kind::Put, name, len, put).await
    }

    /// Creates an object by giving a file of this machine its name, too: nothing is copied. The file must be durable, and
    /// never written to again. `None` where that cannot be: then its bytes are to be put.
    pub async fn link(&self, name: &str, file: &std::path::Path, bytes: u64) -> Result<Option<Created>, StoreError> {
        let Backend::Directory(directory) = &self.inner.backend else { return Ok(None) };
        // Before anything is counted, or waits for its turn: what cannot be linked is put.
        if !directory.can_link(file).await.unwrap_or(true) {
            return Ok(None);
        }
        self.limited(bytes).await;
        let link = || async {
            if self.writable().await?.is_none() {
                return Err(vanished());
            }
            let linked = directory.link(file, name).await.map_err(local_error)?;
            if let Some(created) = linked {
                directory.settle(name, created).await.map_err(local_error)?;
            }
            Ok(linked)
        };
        self.request(Kind::Put, name, bytes, link).await
    }

    /// Writes the untrusted hint `latest`: the only name ever overwritten.
    pub async fn put_hint(&self, bytes: Bytes) -> Result<(), StoreError> {
        let len = bytes.len() as u64;
        let put = || async {
            let Some(store) = self.writable().await? else { return Err(vanished()) };
            store.put(&path(HINT)?, PutPayload::from_bytes(bytes.clone())).await.map(|_| ())
        };
        self.request(Kind::Put, HINT, len, put).await
    }

    /// Deletes an object; one that is not there counts as deleted. In a directory the deletion is durable when this
    /// returns, so that deletions last in the order in which they were asked for; directories that become empty stay.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let delete = || async {
            let Some(store) = self.readable().await? else { return Ok(()) };
            match store.delete(&path(name)?).await {
                Err(error @ ObjectError::NotFound { .. }) if self.has_no_bucket(&error) => return Err(error),
                Err(ObjectError::NotFound { .. }) | Ok(()) => {}
                Err(error) => return Err(error),
            }
            match &self.inner.backend {
                Backend::Directory(directory) => directory.settle_deleted(name).await.map_err(local_error),
                Backend::Ready(_) | Backend::Remote(_) => Ok(()),
            }
        };
        self.request(Kind::Delete, name, 0, delete).await
    }

    pub fn counts(&self) -> StoreCounts {
        self.inner.meter.counts()
    }

    /// Since when the store has not answered, and why; `None` while it does.
    pub fn outage(&self) -> Option<(Duration, String)> {
        self.inner.outage.now()
    }

    /// The store to read from; `None` where its place was never made.
    async fn readable(&self) -> Result<Option<Arc<dyn ObjectStore>>, ObjectError> {
        match &self.inner.backend {
            Backend::Ready(store) => Ok(Some(store.clone())),
            Backend::Remote(remote) => Ok(Some(remote.store())),
            Backend::Directory(directory) => directory.store().await.map_err(local_error),
        }
    }

    /// The store to write to; the first write makes its place.
    async fn writable(&self) -> Result<Option<Arc<dyn ObjectStore>>, ObjectError> {
        match &self.inner.backend {
            Backend::Ready(store) => Ok(Some(store.clone())),
            Backend::Remote(remote) if remote.is_web() => Err(read_only()),
            Backend::Remote(remote) => Ok(Some(remote.store())),
            Backend::Directory(directory) => {
                if let Some(store) = directory.store().await.map_err(local_error)? {
                    return Ok(Some(store));
                }
                directory.make().await.map_err(local_error)?;
                directory.store().await.map_err(local_error)
            }
        }
    }

    /// Does this answer say that there is not even a bucket? That is no answer to whether an object is there.
    fn has_no_bucket(&self, error: &ObjectError) -> bool {
        matches!(self.inner.backend, Backend::Remote(_))
            && Answer::of(error).is_some_and(|answer| answer.has_no_bucket())
    }

    fn rule(&self, kind: Kind, bytes: u64) -> Rule {
        let settings = &self.inner.settings;
        match (&self.inner.backend, kind) {
            (Backend::Remote(_), _) => {
                Rule::Standstill { quiet: settings.deadline, most: LONGEST + Duration::from_secs(bytes / TRICKLE) }
            }
            (_, Kind::List) => Rule::After(settings.list_deadline),
            _ => Rule::After(settings.for_bytes(bytes)),
        }
    }

    /// As [`Store::request_once`]; a patient one goes on with reads that fail.
    async fn request<T, F>(&self, kind: Kind, name: &str, bytes: u64, work: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, ObjectError>>,
    {
        let mut failures = 0;
        loop {
            match self.request_once(kind, name, bytes, &work).await {
                Err(StoreError::Unavailable { .. }) if !kind.writes() && failures < self.tries => {
                    tokio::time::sleep(PATIENT_PAUSE * (1 << failures)).await;
                    failures += 1;
                }
                result => return result,
            }
        }
    }

    /// Asks: once, or for reads over a network some times while it fails at once; and once more where the store refuses
    /// and there are other credentials by now. `bytes` is what may move.
    async fn request_once<T, F>(
        &self,
        kind: Kind,
        name: &str,
        bytes: u64,
        work: &impl Fn() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, ObjectError>>,
    {
        let Backend::Remote(remote) = &self.inner.backend else {
            let (result, _) = self.attempt(kind, name, bytes, &Pace::default(), work()).await;
            return self.told(kind, result);
        };
        let began = Instant::now();
        let (mut tries, mut refreshed) = (1, false);
        loop {
            let (result, stood_still) = self.attempt(kind, name, bytes, &remote.pace, work()).await;
            let pause = READ_PAUSE * (1 << (tries - 1));
            let in_time = began.elapsed() + pause < self.inner.settings.deadline;
            match result {
                Err(StoreError::Refused { .. }) if !refreshed && remote.refresh(self.url()) => refreshed = true,
                Err(StoreError::Refused { name, why }) => {
                    let why = format!("{why}; {}", remote.advice());
                    return self.told(kind, Err(StoreError::Refused { name, why }));
                }
                Err(StoreError::Unavailable { .. })
                    if !kind.writes() && !stood_still && in_time && tries < READ_TRIES =>
                {
                    tries += 1;
                    tokio::time::sleep(pause).await;
                }
                result => return self.told(kind, result),
            }
        }
    }

    /// One request: counted, within its time, its error mapped. True if it was given up because nothing moved.
    async fn attempt<T>(
        &self,
        kind: Kind,
        name: &str,
        bytes: u64,
        pace: &Pace,
        work: impl Future<Output = Result<T, ObjectError>>,
    ) -> (Result<T, StoreError>, bool) {
        let (meter, began) = (&self.inner.meter, Instant::now());
        meter.asked(kind);
        let done = progress::within(self.rule(kind, bytes), &Progress::new(), pace, work).await;
        let took = began.elapsed();
        meter.answered(kind, took, !matches!(done, Ok(Ok(_))));
        match done {
            Ok(Ok(value)) => {
                if kind == Kind::Put {
                    meter.moved(kind, bytes);
                    pace.arrived(bytes, took);
                }
                (Ok(value), false)
            }
            Ok(Err(error)) => (Err(meaning(name, &error)), false),
            Err(quiet) => {
                let why = format!("no answer within {} s", quiet.as_secs());
                (Err(StoreError::Unavailable { name: name.to_owned(), why }), true)
            }
        }
    }

    /// The outage hears how a request ended.
    fn told<T>(&self, kind: Kind, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match &result {
            Ok(_) => self.inner.outage.answered(kind.writes(), self.url()),
            Err(StoreError::NoConditionalCreate(_)) => {}
            Err(error) => self.inner.outage.failed(kind.writes(), self.url(), error),
        }
        result
    }
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

/// Two conditional puts met, and which of them stands this answer does not tell: asked again, the store knows.
fn undecided() -> ObjectError {
    ObjectError::Generic { store: "S3", source: "two requests for this name met".into() }
}

fn read_only() -> ObjectError {
    let why = "over http(s):// a vault can only be read";
    ObjectError::PermissionDenied { path: String::new(), source: why.into() }
}

/// Opens a vault's place ([`canonical_url`] tells the kinds; a bare path means file://). Creates nothing, and asks nothing
/// but the environment and files of credentials.
///
/// Objects in a directory are fsynced with their directories before a put returns: one flush of the disk each, which
/// is why commits are made every few seconds and not for each file.
pub fn open(url: &str) -> Result<Store, StoreError> {
    open_with(url, Settings::default())
}

/// As [`open`], with limits of bandwidth.
pub fn open_limited(url: &str, limits: Limits) -> Result<Store, StoreError> {
    open_with(url, Settings { limits, ..Settings::default() })
}

/// As [`open`], with other deadlines.
pub fn open_with(text: &str, settings: Settings) -> Result<Store, StoreError> {
    open_in(text, settings, remote::of_process())
}

/// As [`open_with`], with another environment than the process's.
pub fn open_in(text: &str, settings: Settings, environment: Environment) -> Result<Store, StoreError> {
    let (backend, url) = match url::parse(text)? {
        url::Place::Memory(url) => (Backend::Ready(Arc::new(InMemory::new())), url),
        url::Place::Directory(path) => {
            let url = url::of_path(&path)?;
            (Backend::Directory(Directory::new(path)), url)
        }
        url::Place::Bucket(bucket) => {
            let url = bucket.url();
            (Backend::Remote(Remote::new(Origin::Bucket(bucket), settings.limits, environment)?), url)
        }
        url::Place::Web(url) => {
            (Backend::Remote(Remote::new(Origin::Web(url.clone()), settings.limits, environment)?), url)
        }
    };
    Ok(Store::new(backend, &url, settings))
}

#[cfg(test)]
mod tests;
