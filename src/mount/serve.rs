//! One mount from its first look at the state directory to its last byte in the vault.
//!
//! Order: state directory checked and locked; control socket bound; vault made if asked; drive opened; kernel told;
//! ready. Then serve until a signal, `dripfs umount`, or somebody's umount(8). Then the reverse: the kernel lets go,
//! the drive drains and closes, waiting clients hear how it ended.
//!
//! Owns that order and the signals. Does not own what the steps do, nor what is printed ([`Observer`]).
//! Invariants: whatever ends a mount, the drive is drained the same way; a drain without progress ends after
//! `STALL`, what remains is in the journal.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use super::control::{self, Command, Handler, Reply};
use super::drive::{Closed, Drive, DriveOptions, KEEPING, Progress, Status};
use super::kernel::Attached;
use super::new_vault::{self, Recovery};
use super::reception::Reception;
use super::{MountError, environment, http, kernel, metrics, notify, runtime_dir, service, state_dir};
use crate::crypto::secret::Passphrase;
use crate::format::header::Cost;
use crate::fs::FsError;
use crate::search;
use crate::store::{self, Limits, Store, StoreError};

/// A drain that moves nothing for so long is given up.
const STALL: Duration = Duration::from_secs(90);
/// How long programs that use the drive may go on after it was detached under them.
const LET_GO: Duration = Duration::from_secs(10);
/// How much longer the service manager is asked to wait than a drain that goes on or is given up may take.
const MARGIN: Duration = Duration::from_secs(20);
/// How long clients may take to hear the last word.
const FAREWELL: Duration = Duration::from_secs(2);

/// Everything that a mount is asked for, but the passphrase.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Canonical.
    pub url: String,
    /// Canonical.
    #[serde(with = "super::path_json")]
    pub dir: PathBuf,
    pub drive: DriveOptions,
    /// Make the vault if there is none.
    pub init: Option<Init>,
    /// Words of `-o` that concern the kernel, in order.
    pub kernel_words: Vec<String>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub search: search::Settings,
    /// There is no terminal whose end should end the mount.
    pub background: bool,
    /// The profile that it was asked for with, to be read anew on SIGHUP, and what was said beside it and stands.
    #[serde(default, with = "super::path_json::option")]
    pub profile: Option<PathBuf>,
    #[serde(default)]
    pub fixed_limits: Limits,
    /// What the table of mounts shows as its source, if not the URL: what fstab says, so that mount(8) finds it there.
    #[serde(default)]
    pub source: Option<String>,
    /// Where metrics are served over HTTP, if they are: a loopback address.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
    /// How much is logged, if a profile says so.
    #[serde(default)]
    pub log_level: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Init {
    /// Memory of the passphrase KDF.
    pub kdf_memory_kib: u32,
    #[serde(with = "super::path_json::option")]
    pub recovery_file: Option<PathBuf>,
}

impl Init {
    pub fn cost(&self) -> Cost {
        Cost { memory_kib: self.kdf_memory_kib, ..Cost::DEFAULT }
    }
}

/// Who is told how it goes: a terminal, or the process that started this one.
pub trait Observer: Send + Sync + 'static {
    /// A vault was made: its recovery key is shown now or never.
    fn recovery_key(&self, key: &str);
    fn recovery_written(&self, path: &Path);
    /// Something that the mount found and that whoever mounts should know. The log has it too.
    fn notice(&self, text: &str);
    /// The mount answers. An error (nobody waits for it any more) ends the mount.
    fn ready(&self, request: &Request) -> std::io::Result<()>;
    fn draining(&self, now: Progress);
    /// Reads anew what can change while the mount goes on; the error says why nothing does.
    fn reload(&self, request: &Request) -> Result<Limits, String>;
    /// The exit code of an error, for clients of the control socket.
    fn exit_code(&self, error: &MountError) -> u8;
}

/// What `dripfs status` shows of a mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountStatus {
    #[serde(serialize_with = "super::path_json::lossy")]
    pub mountpoint: PathBuf,
    pub pid: u32,
    /// The drive is being drained; the mount ends then.
    pub unmounting: bool,
    /// Where metrics are served over HTTP.
    #[serde(default)]
    pub metrics_address: Option<SocketAddr>,
    #[serde(flatten)]
    pub status: Status,
}

/// How an unmount ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ended {
    pub drained: bool,
    pub pending_bytes: u64,
    /// The process that served the mount; it is about to end.
    pub pid: u32,
}

/// Serves a mount until it ends.
pub fn serve(request: Request, passphrase: Passphrase, observer: Arc<dyn Observer>) -> Result<Closed, MountError> {
    state_dir::prepare(&request.drive.state)?;
    let _lock = state_dir::lock(&request.drive.state)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| MountError::io("the runtime cannot start", e))?;
    let (url, state) = (request.url.clone(), request.drive.state.clone());
    let result = runtime.block_on(run(request, passphrase, observer));
    // A thread may hang in a store that does not answer; the process need not wait for it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if url.starts_with("memory:")
        && let Err(e) = std::fs::remove_dir_all(&state)
    {
        log::warn!("{}: not removed: {e}", state.display());
    }
    result
}

async fn run(request: Request, passphrase: Passphrase, observer: Arc<dyn Observer>) -> Result<Closed, MountError> {
    let mut signals = Signals::new(request.background || notify::is_wanted())?;
    let (listener, socket) = bind(&request.dir)?;
    let scraped = listen_for_scrapes(request.metrics).await?;
    let metrics_address = scraped.as_ref().and_then(|listener| listener.local_addr().ok());
    let (clients, reception) = (TaskTracker::new(), Arc::new(Reception::new(&request)));
    let accepting = tokio::spawn(control::serve(listener, reception.clone(), clients.clone()));
    let drive = tokio::select! {
        drive = open(&request, passphrase, &*observer) => Arc::new(drive?),
        () = signals.stop() => return Err(MountError::Reported { code: 1, message: "interrupted before the drive was ready".into() }),
    };
    drive.notices().iter().for_each(|text| observer.notice(text));
    let source = request.source.as_ref().unwrap_or(&request.url);
    let options = kernel::options(source, &request.dir, request.drive.read_only, &request.kernel_words);
    let attached = match kernel::attach(drive.tree(request.search.clone()), options) {
        Ok(attached) => attached,
        Err(error) => {
            // The epoch that was just opened is closed again, so that another machine may write.
            if let Err(e) = drain(&drive, &mut signals, |_| ()).await {
                log::warn!("{}: {e}", request.url);
            }
            return Err(error);
        }
    };
    let (stop, stops) = mpsc::channel(1);
    let (phase, _) = watch::channel(Phase::Serving);
    let server = Arc::new(Server { drive, request, stop, phase, observer, metrics_address });
    reception.pass_on_to(server.clone());
    let scraping = scraped.map(|listener| tokio::spawn(http::serve(listener, server.clone())));
    let result = server.live(attached, stops, &mut signals).await;
    if let Some(scraping) = scraping {
        scraping.abort();
    }
    server.tell_the_end(&result);
    accepting.abort();
    clients.close();
    let _ = tokio::time::timeout(FAREWELL, clients.wait()).await;
    drop(socket);
    result
}

/// A port that is taken shows before the drive is opened.
async fn listen_for_scrapes(address: Option<SocketAddr>) -> Result<Option<tokio::net::TcpListener>, MountError> {
    let Some(address) = address else { return Ok(None) };
    let fails = |e| MountError::io(format!("metrics on {address}"), e);
    if !http::may_listen(&address) {
        return Err(fails(std::io::Error::other("only an address of this machine alone is listened on")));
    }
    let listener = tokio::net::TcpListener::bind(address).await.map_err(fails)?;
    log::info!("metrics: http://{}/metrics", listener.local_addr().unwrap_or(address));
    Ok(Some(listener))
}

async fn open(request: &Request, passphrase: Passphrase, observer: &dyn Observer) -> Result<Drive, MountError> {
    let store = store::open_limited(&request.url, request.limits)?;
    if let Some(init) = &request.init
        && !stands(&store, &request.drive.state).await?
    {
        make_vault(&store, request, init, &passphrase, observer).await?;
    }
    Ok(Drive::open(store, passphrase, request.drive.clone()).await?)
}

/// One that is known here stands, though its store does not answer.
async fn stands(store: &Store, state: &Path) -> Result<bool, MountError> {
    match new_vault::stands(store).await {
        Err(StoreError::Unavailable { .. }) if state_dir::has_pin(state)? => Ok(true),
        stands => Ok(stands?),
    }
}

async fn make_vault(
    store: &Store,
    request: &Request,
    init: &Init,
    passphrase: &Passphrase,
    observer: &dyn Observer,
) -> Result<(), MountError> {
    let file = init.recovery_file.as_deref();
    let (id, recovery) = new_vault::make(store, &request.drive.state, passphrase, init.cost(), file).await?;
    log::info!("made vault {id} at {}", request.url);
    match (recovery, file) {
        (Recovery::Written, Some(path)) => observer.recovery_written(path),
        (Recovery::Shown(key), _) => observer.recovery_key(&key),
        (Recovery::Written, None) => unreachable!("a key is written only to a file that was asked for"),
    }
    Ok(())
}

/// The control socket; its file goes with the second value.
fn bind(dir: &Path) -> Result<(tokio::net::UnixListener, runtime_dir::Socket), MountError> {
    let runtime = runtime_dir::make(&environment, rustix::process::geteuid().as_raw())?;
    let (listener, socket) = runtime_dir::bind(&runtime, dir)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(|e| MountError::io("the control socket", e))?;
    Ok((listener, socket))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Nobody hangs up on this mount: SIGHUP reloads.
    reloads: bool,
}

/// What a signal asks for.
enum Wish {
    Stop,
    Reload,
}

impl Signals {
    fn new(reloads: bool) -> Result<Signals, MountError> {
        let listen = |kind| signal(kind).map_err(|e| MountError::io("signals", e));
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            reloads,
        })
    }

    async fn wish(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.hangup.recv() => match self.reloads {
                true => Wish::Reload,
                false => Wish::Stop,
            },
        }
    }

    /// Somebody wants the mount to end.
    async fn stop(&mut self) {
        while let Wish::Reload = self.wish().await {}
    }

    /// Somebody at the terminal does not want to wait for the drain.
    async fn impatience(&mut self) {
        // `None` never comes: the stream lives as long as the process.
        self.interrupt.recv().await;
    }
}

/// A wish to unmount: where its first outcome goes, whether the mount left the tree.
type Stop = oneshot::Sender<Result<(), (u8, String)>>;

#[derive(Clone)]
enum Phase {
    Serving,
    Draining(Progress),
    Ended(Result<Closed, (u8, String)>),
}

struct Server {
    drive: Arc<Drive>,
    request: Request,
    stop: mpsc::Sender<Stop>,
    phase: watch::Sender<Phase>,
    observer: Arc<dyn Observer>,
    metrics_address: Option<SocketAddr>,
}

impl http::Told for Server {
    fn metrics(&self) -> String {
        metrics::of(&self.status())
    }

    fn health(&self) -> (&'static str, bool) {
        let (state, reason) = self.drive.state();
        let serving = matches!(*self.phase.borrow(), Phase::Serving);
        (state, serving && (state == "ready" || state == "read-only" && reason.is_none()))
    }
}

impl Server {
    /// From ready to drained.
    async fn live(
        &self,
        attached: Attached,
        stops: mpsc::Receiver<Stop>,
        signals: &mut Signals,
    ) -> Result<Closed, MountError> {
        notify::ready(&self.request.dir);
        match self.observer.ready(&self.request) {
            Ok(()) => {
                let served = self.until_stopped(&attached, stops, signals);
                tokio::select! {
                    () = served => {}
                    () = self.keep_telling() => unreachable!("it never ends"),
                }
            }
            Err(_) => detach_anyhow(&attached).await,
        }
        notify::stopping();
        if tokio::time::timeout(LET_GO, attached.gone()).await.is_err() {
            log::warn!("{}: programs still use the drive; they are cut off now", self.request.dir.display());
            if !attached.cut().await {
                close_to_writes(&self.drive);
                log::warn!(
                    "{}: the kernel still holds the drive, and programs may still use it: it takes no more writes",
                    self.request.dir.display()
                );
            }
        }
        drain(&self.drive, signals, |now| {
            self.phase.send_replace(Phase::Draining(now));
            self.observer.draining(now);
        })
        .await
    }

    /// To the service manager, if there is one, while the drive is served.
    async fn keep_telling(&self) {
        let line = || {
            let Progress { pending_files, pending_bytes } = self.drive.pending();
            let (state, reason) = self.drive.state();
            let dir = self.request.dir.display();
            let why = reason.map_or(String::new(), |reason| format!(" ({reason})"));
            format!("{state}{why}: serving {dir}; pending: {pending_files} files, {pending_bytes} bytes")
        };
        let trouble = service::log_trouble(|| self.drive.state());
        tokio::join!(service::tell_status(line), service::tell_alive(&self.request.dir), trouble);
        std::future::pending().await
    }

    fn reload(&self) {
        notify::reloading();
        match self.observer.reload(&self.request) {
            Ok(limits) => {
                self.drive.limit(limits);
                log::info!("{}: limits and log level were read anew", self.request.dir.display());
            }
            Err(why) => log::error!("nothing was changed: {why}"),
        }
        notify::ready(&self.request.dir);
    }

    /// Returns when the kernel has let go of the mount point.
    async fn until_stopped(&self, attached: &Attached, mut stops: mpsc::Receiver<Stop>, signals: &mut Signals) {
        loop {
            tokio::select! {
                () = attached.gone() => return,
                wish = signals.wish() => match wish {
                    Wish::Stop => return detach_anyhow(attached).await,
                    Wish::Reload => self.reload(),
                },
                Some(stop) = stops.recv() => {
                    let result = attached.detach().await;
                    let done = result.is_ok();
                    // A client that left wanted the same.
                    let _ = stop.send(result.map_err(|e| (self.observer.exit_code(&e), e.to_string())));
                    if done {
                        return;
                    }
                }
            }
        }
    }

    fn tell_the_end(&self, result: &Result<Closed, MountError>) {
        let end = result.as_ref().map(|closed| *closed);
        self.phase.send_replace(Phase::Ended(end.map_err(|e| (self.observer.exit_code(e), e.to_string()))));
    }

    fn status(&self) -> MountStatus {
        MountStatus {
            mountpoint: self.request.dir.clone(),
            pid: std::process::id(),
            unmounting: !matches!(*self.phase.borrow(), Phase::Serving),
            metrics_address: self.metrics_address,
            status: self.drive.status(),
        }
    }

    async fn sync(&self, replies: &mpsc::Sender<Reply>) -> Reply {
        let last = Mutex::new(None);
        let work = self.drive.sync(|now| *last.lock() = Some(now));
        match beating(replies, || *last.lock(), work).await {
            Ok(()) => Reply::Done(serde_json::Value::Null),
            Err(e) => {
                let error = MountError::from(e);
                Reply::Error { code: self.observer.exit_code(&error), message: error.to_string() }
            }
        }
    }

    /// Until the client leaves or the mount ends.
    async fn watch(&self, replies: &mpsc::Sender<Reply>) -> Reply {
        let mut events = self.drive.events();
        let mut phase = self.phase.subscribe();
        let work = async {
            let ended = async { _ = phase.wait_for(|phase| matches!(phase, Phase::Ended(_))).await.map(drop) };
            tokio::pin!(ended);
            loop {
                let event = tokio::select! {
                    biased;
                    event = self.drive.next_event(&mut events) => event,
                    () = &mut ended => None,
                    () = replies.closed() => None,
                };
                let Some(event) = event else { return };
                if replies.send(Reply::Event(event)).await.is_err() {
                    return;
                }
            }
        };
        beating(replies, || None, work).await;
        Reply::Done(serde_json::Value::Null)
    }

    async fn warm(&self, path: &Path, replies: &mpsc::Sender<Reply>) -> Reply {
        let last = Mutex::new(None);
        let work = self.drive.warm(path, |now| *last.lock() = Some(now));
        told(beating(replies, || *last.lock(), work).await)
    }

    async fn umount(&self, replies: &mpsc::Sender<Reply>) -> Reply {
        let (answer, answered) = oneshot::channel();
        // No receiver any more: it is being unmounted already, and this client waits with the others.
        if self.stop.send(answer).await.is_ok()
            && let Ok(Err((code, message))) = answered.await
        {
            return Reply::Error { code, message };
        }
        let mut phase = self.phase.subscribe();
        let now = || match &*self.phase.borrow() {
            Phase::Draining(now) => Some(*now),
            _ => None,
        };
        let ended = async {
            match phase.wait_for(|phase| matches!(phase, Phase::Ended(_))).await.as_deref() {
                Ok(Phase::Ended(end)) => end.clone(),
                _ => Err((1, "the mount ended without saying how".into())),
            }
        };
        match beating(replies, now, ended).await {
            Ok(closed) => ended_reply(closed),
            Err((code, message)) => Reply::Error { code, message },
        }
    }
}

/// The last word of a command of the cache.
fn told(result: Result<impl Serialize, FsError>) -> Reply {
    match result.map(|value| serde_json::to_value(value)) {
        Ok(Ok(value)) => Reply::Done(value),
        Ok(Err(e)) => Reply::Error { code: 1, message: e.to_string() },
        Err(e) => Reply::Error { code: 1, message: e.to_string() },
    }
}

/// The last word to `dripfs umount`. The process id lets it wait until the state directory is free again.
fn ended_reply(closed: Closed) -> Reply {
    let (drained, pending_bytes) = match closed {
        Closed::Drained => (true, 0),
        Closed::Pending(bytes) => (false, bytes),
    };
    let pid = std::process::id();
    match serde_json::to_value(Ended { drained, pending_bytes, pid }) {
        Ok(value) => Reply::Done(value),
        Err(e) => Reply::Error { code: 1, message: e.to_string() },
    }
}

impl Handler for Server {
    async fn handle(self: Arc<Self>, command: Command, replies: mpsc::Sender<Reply>) {
        let last = match command {
            Command::Status => match serde_json::to_value(self.status()) {
                Ok(status) => Reply::Done(status),
                Err(e) => Reply::Error { code: 1, message: e.to_string() },
            },
            Command::Events => self.watch(&replies).await,
            Command::Metrics => Reply::Done(metrics::of(&self.status()).into()),
            Command::Sync => self.sync(&replies).await,
            Command::Umount => self.umount(&replies).await,
            Command::Warm { path } => self.warm(&path, &replies).await,
            Command::Drop { path } => told(beating(&replies, || None, self.drive.drop_cached(&path)).await),
            Command::Cached { path, from } => told(Ok(self.drive.cached(&path, from))),
        };
        // A client that left does not hear it.
        let _ = replies.send(last).await;
    }
}

/// For those who do not take no for an answer: what cannot be detached is cut off later.
async fn detach_anyhow(attached: &Attached) {
    if let Err(e) = attached.detach().await {
        log::error!("{e}");
    }
}

/// What is acknowledged after the last sync would be lost with this process: from here on writes are refused. What is
/// in memory by now still reaches journal and vault.
fn close_to_writes(drive: &Drive) {
    drive.fs.history.make_read_only();
}

/// Sends how far it is at every heartbeat while `work` runs.
pub(super) async fn beating<T>(
    replies: &mpsc::Sender<Reply>,
    now: impl Fn() -> Option<Progress>,
    work: impl Future<Output = T>,
) -> T {
    let mut beat = tokio::time::interval(control::HEARTBEAT);
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            _ = beat.tick() => {
                let progress = now().unwrap_or(Progress { pending_files: 0, pending_bytes: 0 });
                // Full: the client is slow and misses this one.
                let _ = replies.try_send(Reply::Progress(progress));
            }
        }
    }
}

/// Closes the drive, unless nothing moves for [`STALL`] or somebody loses patience.
async fn drain(
    drive: &Drive,
    signals: &mut Signals,
    told: impl Fn(Progress) + Send + Sync,
) -> Result<Closed, MountError> {
    let (moved, seen) = watch::channel(None);
    let close = drive.close(|now| {
        told(now);
        let far = (now, drive.sent());
        let moves = |last: &mut Option<Far>| {
            let moves = last.is_none_or(|(before, sent)| before != now || far.1.is_some() && sent != far.1);
            *last = Some((now, far.1.or(last.and_then(|(_, sent)| sent))));
            moves
        };
        if moved.send_if_modified(moves) {
            // As long as this process itself would wait for the next step; without one, nothing is extended.
            notify::extend((STALL + KEEPING + MARGIN).as_secs(), now);
        }
    });
    tokio::select! {
        closed = close => return Ok(closed?),
        () = stalled(seen) => {
            log::error!("nothing reached the vault for {} s: the rest stays in the journal", STALL.as_secs());
        }
        () = signals.impatience() => {
            log::warn!("not waiting for the vault any longer: the rest stays in the journal");
        }
    }
    Ok(drive.give_up().await?)
}

/// How far a drain is: what is left, and what went out of it since.
type Far = (Progress, Option<u64>);

/// Returns when nothing has changed for [`STALL`].
async fn stalled(mut seen: watch::Receiver<Option<Far>>) {
    while let Ok(changed) = tokio::time::timeout(STALL, seen.changed()).await {
        if changed.is_err() {
            // The drain ended, and with it the sender; its own end is what counts.
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::mount::drive::Durability;

    fn at(pending_bytes: u64) -> Progress {
        Progress { pending_files: 1, pending_bytes }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_moves_is_waited_for_and_one_that_does_not_is_given_up() {
        let (moved, seen) = watch::channel(None);
        let began = tokio::time::Instant::now();
        tokio::spawn(async move {
            for k in 0..4 {
                tokio::time::sleep(STALL - Duration::from_secs(1)).await;
                moved.send_replace(Some((at(100 - k), None)));
            }
            std::future::pending::<()>().await;
        });
        stalled(seen).await;
        assert_eq!(began.elapsed(), 5 * STALL - Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_hears_a_heartbeat_while_it_waits() {
        let (sender, mut replies) = mpsc::channel(16);
        let work = tokio::time::sleep(Duration::from_millis(2_500));
        beating(&sender, || Some(at(7)), work).await;
        let mut heard = 0;
        while let Ok(Reply::Progress(now)) = replies.try_recv() {
            assert_eq!(now.pending_bytes, 7);
            heard += 1;
        }
        assert_eq!(heard, 3);
    }

    #[test]
    fn a_request_survives_the_way_to_the_background() {
        let strange = || PathBuf::from(OsString::from_vec(b"/not\xffutf-8".to_vec()));
        for (dir, recovery_file) in [("/mnt".into(), None), (strange(), Some(strange()))] {
            let request = Request {
                url: "file:///v".into(),
                drive: DriveOptions {
                    state: dir.clone(),
                    read_only: false,
                    durability: Durability::Remote,
                    takeover: false,
                    accept_rollback: false,
                    compress: true,
                    cache_bytes: 1,
                    caching: Default::default(),
                    dirty_bytes: 2,
                    journal_bytes: 3,
                    checkpoint: Default::default(),
                    follow_seconds: 5,
                    pipelines: Default::default(),
                    gc: Default::default(),
                    rounds: Default::default(),
                },
                dir,
                init: Some(Init { kdf_memory_kib: 65_536, recovery_file }),
                kernel_words: vec!["noexec".into()],
                limits: Limits { upload: std::num::NonZeroU64::new(7), download: None },
                search: search::Settings { name: Some(".find".into()), ..Default::default() },
                background: true,
                profile: Some("/etc/dripfs/x.toml".into()),
                fixed_limits: Limits::default(),
                source: Some("photos".into()),
                metrics: Some("127.0.0.1:9090".parse().unwrap()),
                log_level: Some("debug".into()),
            };
            let text = serde_json::to_string(&request).unwrap();
            let back: Request = serde_json::from_str(&text).unwrap();
            assert_eq!(format!("{back:?}"), format!("{request:?}"));
            assert!(text.contains(r#""durability":"remote""#));
        }
    }
}
