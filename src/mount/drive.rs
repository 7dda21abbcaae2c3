//! A drive: one vault opened for reading or writing, with all its rooms joined, before any kernel is told of it.
//!
//! Owns the order of opening (unlock, walk, journal, epoch, background work) and of closing (drain, idle commit, end).
//! The state directory is the caller's to prepare and lock. What a drive needs of the world (store, disk, clock,
//! randomness, threads) comes in a [`World`], so that a simulation can bring its own.

mod offline;
mod opening;
pub(super) mod ownership;

use std::collections::HashSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::follower::{self, Follower, Trouble as Behind};
use super::indexer::{Indexer, Ready};
use crate::base::disk::Disk;
use crate::base::{Clock, Epoch, ExtentId, Position, Random, Timestamp};
use crate::cache::{Bounds, Cache, DIRTY_AGE};
use crate::download;
use crate::format::keys::Keys;
use crate::fs::{Fs, Safety};
use crate::history::History;
use crate::index::{Ground, Tables};
use crate::journal::{Journal, Settings, Trouble};
use crate::pipeline::Cpu;
use crate::store::Store;
use crate::upload;
use crate::upload::notifier::Notifier;
use crate::vault::VaultError;
use crate::vault::aside::{self, SetAside};
use crate::vault::checkpoint::keeper::{Keeper, When};
use crate::vault::epoch::Reign;
use crate::vault::gc;
use crate::vault::pin::{Pin, PinFile};
use crate::vault::round::{Chain, Rounds};

/// When fsync returns (promise 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Sealed in the journal, fdatasynced.
    #[default]
    Local,
    /// In the vault.
    Remote,
    /// At once; the data is hurried along.
    Async,
}

impl Durability {
    /// The word for it in options, status and messages.
    pub fn name(self) -> &'static str {
        match self {
            Durability::Local => "local",
            Durability::Remote => "remote",
            Durability::Async => "async",
        }
    }

    pub fn of(word: &str) -> Option<Durability> {
        [Durability::Local, Durability::Remote, Durability::Async].into_iter().find(|level| level.name() == word)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DriveOptions {
    /// Everything local of this vault: journal, pin, lock. Made if missing.
    #[serde(with = "super::path_json")]
    pub state: PathBuf,
    pub read_only: bool,
    pub durability: Durability,
    pub takeover: bool,
    /// Go on from a vault that is older than, or not the same as, what this machine has seen.
    #[serde(default)]
    pub accept_rollback: bool,
    /// Compress frames where it pays.
    pub compress: bool,
    /// Clean plaintext in memory, bytes.
    pub cache_bytes: u64,
    /// Dirty plaintext in memory, bytes; writers wait above it.
    pub dirty_bytes: u64,
    /// What the journal may hold on disk, bytes; writers wait above it.
    pub journal_bytes: u64,
    /// When a checkpoint is made.
    pub checkpoint: When,
    /// How often a read-only mount looks whether the vault has gone on, seconds.
    #[serde(default = "follow_seconds")]
    pub follow_seconds: u64,
    /// When the vault is swept for what nobody needs, and how fast.
    #[serde(default)]
    pub gc: gc::Settings,
}

fn follow_seconds() -> u64 {
    follower::EVERY.as_secs()
}

/// What `dripfs status --json` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// "ready", "offline", "outage", "journal-full", "disk-full", "disk-failing", "fenced", "read-only".
    pub state: String,
    /// Why the state is not "ready", in words.
    pub reason: Option<String>,
    pub url: String,
    pub durability: String,
    /// Files with bytes that the vault lacks.
    pub pending_files: u64,
    /// Bytes that the vault lacks (dirty in memory, and sealed in the journal).
    pub pending_bytes: u64,
    pub oldest_pending_seconds: f64,
    pub blocked_by: Option<String>,
    /// The newest log object.
    pub sequence: u64,
    pub epoch: u32,
    /// Vault id, sequence and chain hash, as `--pin` will take it.
    pub pin: String,
    pub last_commit_age_seconds: f64,
    /// On a read-only mount: how long ago the log was last looked at to its end.
    #[serde(default)]
    pub followed_seconds_ago: Option<f64>,
    pub cache: CacheStatus,
    pub journal_bytes: u64,
    pub remote: RemoteStatus,
    /// What lies in the vault's segments: counted exactly by the last full merge, plus what this mount has sent since
    /// (of which some may be dead already); without what commits carry themselves, and without checkpoints and the log.
    /// `None` until this mount has made a full merge, unless it saw the vault from its beginning.
    #[serde(default)]
    pub vault: Option<VaultStatus>,
    /// What this mount has removed from the vault.
    #[serde(default)]
    pub removed: gc::Removed,
    /// Files of which bytes could not be had since the mount began: paths from the root of the drive.
    pub damaged_files: Vec<String>,
    /// Histories of this machine that another one's took the place of: `dripfs rescue` brings their files back.
    #[serde(default)]
    pub set_aside: Vec<SetAsideStatus>,
    /// Everything local of this vault.
    #[serde(default)]
    pub state_directory: String,
}

/// A history that was set aside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SetAsideStatus {
    /// In the state directory.
    pub directory: String,
    /// Changes that the vault lacks.
    pub changes: u64,
    /// UTC, RFC 3339.
    pub since: String,
    pub why: String,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct CacheStatus {
    pub bytes: u64,
    pub entries: u64,
    pub hits: u64,
    pub misses: u64,
    pub dirty_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct RemoteStatus {
    pub requests: u64,
    pub errors: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VaultStatus {
    /// Sealed bytes of files.
    pub live_bytes: u64,
    /// Bytes of the segments in which they lie, what is dead in them and padding included.
    pub total_bytes: u64,
}

/// How far a drain has come: bytes and files still pending.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Progress {
    pub pending_files: u64,
    pub pending_bytes: u64,
}

/// How a drive's end went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed {
    /// All is in the vault.
    Drained,
    /// Something stays in the journal (exit 14): the next mount sends it.
    Pending(/* bytes */ u64),
}

/// Where the journal lies in the state directory.
pub(super) const JOURNAL_DIR: &str = "journal";
/// What of the journal's room is kept for what frees space, at most.
const RESERVE: u64 = 4 << 20;
/// How often files with old dirty bytes are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// How long a drive whose drain was given up may take to bring what is dirty to the journal.
const KEEPING: Duration = Duration::from_secs(40);
/// So many lost files are named.
const NAMED: usize = 20;
/// How often a drain tells how far it is.
const TELL: Duration = Duration::from_millis(250);

/// What a drive stands on.
pub struct World {
    pub store: Store,
    /// The state directory.
    pub disk: Arc<dyn Disk>,
    pub random: Random,
    pub clock: Clock,
    pub cpu: Cpu,
    /// Where the index keeps its tables, by the name of its directory in the state directory.
    pub tables: MakeTables,
    /// The journal's writer gets a thread of its own; else it is a task like all others.
    pub journal_thread: bool,
    pub host: String,
}

pub type MakeTables = Arc<dyn Fn(&'static str) -> Arc<dyn Tables> + Send + Sync>;

impl World {
    fn ground(&self, keys: &Arc<Keys>, dir: &'static str) -> Ground {
        let tables = (self.tables)(dir);
        Ground { dir, disk: self.disk.clone(), tables, keys: keys.clone(), random: self.random.clone() }
    }
}

pub struct Drive {
    pub fs: Arc<Fs>,
    store: Store,
    cache: Arc<Cache>,
    history: Arc<History>,
    clock: Clock,
    disk: Arc<dyn Disk>,
    state_dir: PathBuf,
    opened: Opened,
    /// `None` on a read-only mount.
    writer: Option<Writer>,
    /// `None` on a writing mount.
    reader: Option<Reader>,
    durability: Durability,
}

/// What a drive was when it was opened.
struct Opened {
    pin: Pin,
    last_commit: Timestamp,
    /// What whoever mounts should be told.
    notices: Vec<String>,
}

/// Whether there is an epoch already.
enum Begun {
    Online {
        reign: Reign,
        keeper: Box<Keeper>,
        chain: Chain,
    },
    /// There will be; and when the newest commit was made that is known.
    Offline(offline::Offline, Timestamp),
}

/// What rounds are made of, but the reign.
struct Parts {
    store: Store,
    keys: Arc<Keys>,
    history: Arc<History>,
    journal: Arc<Journal>,
    notifier: Arc<Notifier>,
    pins: Arc<PinFile>,
    random: Random,
    clock: Clock,
    found: HashSet<ExtentId>,
    stop: CancellationToken,
}

impl Parts {
    fn new(
        world: &World,
        keys: &Arc<Keys>,
        history: &Arc<History>,
        journal: &Arc<Journal>,
        found: HashSet<ExtentId>,
        pins: &Arc<PinFile>,
        cut: Position,
    ) -> Parts {
        Parts {
            store: world.store.clone(),
            keys: keys.clone(),
            history: history.clone(),
            journal: journal.clone(),
            notifier: Arc::new(Notifier::new(cut)),
            pins: pins.clone(),
            random: world.random.clone(),
            clock: world.clock.clone(),
            found,
            stop: CancellationToken::new(),
        }
    }

    fn begin(self, reign: Reign, keeper: Keeper, chain: Chain) -> Arc<Rounds> {
        let remote = upload::remote_storage::RemoteStorage::new(
            self.store,
            self.keys.clone(),
            self.journal.clone(),
            self.random.clone(),
            self.stop,
        );
        Arc::new(Rounds {
            keeper,
            requests: Default::default(),
            usage: Mutex::new(None),
            making: Mutex::new(None),
            keys: self.keys,
            history: self.history,
            journal: self.journal,
            remote,
            notifier: self.notifier,
            pins: self.pins,
            reign,
            random: self.random,
            clock: self.clock,
            chain: Mutex::new(chain),
            found: Mutex::new(self.found),
            sending: Mutex::new(0),
        })
    }
}

struct Reader {
    follower: Arc<Follower>,
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
    stop: CancellationToken,
    /// Dropped with the drive, it ends the task.
    _ends: DropGuard,
}

struct Writer {
    journal: Arc<Journal>,
    indexer: Arc<Indexer>,
    /// Once there is an epoch.
    rounds: Arc<OnceLock<Arc<Rounds>>>,
    /// How a mount without the store stands.
    offline: Option<Arc<offline::Told>>,
    notifier: Arc<Notifier>,
    pins: Arc<PinFile>,
    /// Ends the loop of rounds; then what a round waits for.
    stop_rounds: CancellationToken,
    stop: CancellationToken,
    rounds_task: Mutex<Option<tokio::task::JoinHandle<()>>>,
    tasks: TaskTracker,
}

impl Drive {
    fn reader(world: World, keys: Arc<Keys>, ready: Ready, pin: Pin, pins: PinFile, options: &DriveOptions) -> Drive {
        let Ready { index, mark, walked, .. } = ready;
        let opened = Opened { pin, last_commit: walked.commit.time, notices: Vec::new() };
        let history = Arc::new(History::new(index.clone(), &mark, None, world.clock.clone(), Epoch(0)));
        let downloads = downloads(&world, &keys, None);
        let cache = Cache::new(history.clone(), None, downloads, bounds(options), world.clock.clone());
        let fs = Arc::new(Fs::new(history.clone(), keys.clone(), cache.clone(), Safety::Nothing));
        let (disk, state_dir) = (world.disk.clone(), options.state.clone());
        let (store, clock, durability) = (world.store, world.clock, options.durability);
        let parts = follower::Parts {
            store: store.clone(),
            keys,
            history: history.clone(),
            index,
            pins,
            clock: clock.clone(),
            every: Duration::from_secs(options.follow_seconds.max(1)),
        };
        let follower = Follower::new(parts, &walked, pin, mark);
        cache.look_out(follower.clone());
        let stop = CancellationToken::new();
        let task = Mutex::new(Some(tokio::spawn(follower.clone().run(stop.clone()))));
        let reader = Some(Reader { follower, task, _ends: stop.clone().drop_guard(), stop });
        Drive { fs, store, cache, history, clock, disk, state_dir, opened, writer: None, reader, durability }
    }

    #[expect(clippy::too_many_arguments, reason = "wiring: each is joined to others once, here")]
    fn join(
        world: World,
        keys: Arc<Keys>,
        history: Arc<History>,
        indexer: Arc<Indexer>,
        parts: Parts,
        begun: Begun,
        notices: Vec<String>,
        options: &DriveOptions,
    ) -> Drive {
        let (journal, notifier, pins) = (parts.journal.clone(), parts.notifier.clone(), parts.pins.clone());
        let stop = parts.stop.clone();
        let encryption = upload::encryption::Encryption::new(
            keys.clone(),
            world.random.clone(),
            options.compress,
            world.cpu.clone(),
        );
        let stage = upload::journal::JournalStage::new(journal.clone());
        let uploads = upload::starter::Starter::new(encryption, stage);
        let downloads = downloads(&world, &keys, Some(journal.clone()));
        let cache = Cache::new(history.clone(), Some(uploads), downloads, bounds(options), world.clock.clone());
        let safety = match options.durability {
            Durability::Local => Safety::Local(journal.clone()),
            Durability::Remote => Safety::Remote(journal.clone(), notifier.clone(), world.store.clone()),
            Durability::Async => Safety::Async(journal.clone()),
        };
        let fs = Arc::new(Fs::new(history.clone(), keys.clone(), cache.clone(), safety));
        let last_commit = match &begun {
            Begun::Online { chain, .. } => chain.time,
            Begun::Offline(_, time) => *time,
        };
        let pin = pins.get().expect("a writer has a pin");
        let opened = Opened { pin, last_commit, notices };
        let (stop_rounds, tasks, rounds) = (CancellationToken::new(), TaskTracker::new(), Arc::new(OnceLock::new()));
        let (offline, run) = match begun {
            Begun::Online { reign, keeper, chain } => {
                let begun = rounds.get_or_init(|| parts.begin(reign, *keeper, chain)).clone();
                (None, run_rounds(begun, options.gc, stop_rounds.clone()).boxed())
            }
            Begun::Offline(offline, _) => {
                (Some(offline.told.clone()), offline.run(parts, rounds.clone(), stop_rounds.clone()).boxed())
            }
        };
        let rounds_task = tokio::spawn(unless_it_panics(run, history.clone(), notifier.clone()));
        tasks.spawn(sweep(cache.clone(), stop.clone()));
        tasks.spawn(indexer.clone().run(stop.clone()));
        tasks.spawn(watch_journal(journal.clone(), history.clone(), notifier.clone(), stop.clone()));
        let rounds_task = Mutex::new(Some(rounds_task));
        let writer =
            Writer { journal, indexer, rounds, offline, notifier, pins, stop_rounds, stop, rounds_task, tasks };
        let (store, clock, durability) = (world.store, world.clock, options.durability);
        let (disk, state_dir) = (world.disk, options.state.clone());
        Drive {
            fs,
            store,
            cache,
            history,
            clock,
            disk,
            state_dir,
            opened,
            writer: Some(writer),
            reader: None,
            durability,
        }
    }

    /// Returns when everything written before the call is in the vault. `progress` is called now and then.
    pub async fn sync(&self, mut progress: impl FnMut(Progress) + Send) -> Result<(), VaultError> {
        let Some(writer) = &self.writer else { return Ok(()) };
        let failed = |why: String| VaultError::Stopped(why);
        let position = self.fs.sync_all().await.map_err(|e| failed(e.to_string()))?;
        writer.journal.wait_durable(position).await?;
        let done = writer.notifier.wait(position);
        tokio::pin!(done);
        loop {
            tokio::select! {
                biased;
                result = &mut done => return result.map_err(failed),
                () = tokio::time::sleep(TELL) => progress(self.pending()),
            }
        }
    }

    /// Drains, marks the epoch idle, ends all background work. The kernel must be gone by then. If nobody wants to wait
    /// for this any more, drop it and call [`Drive::give_up`].
    pub async fn close(&self, mut progress: impl FnMut(Progress) + Send) -> Result<Closed, VaultError> {
        let Some(writer) = &self.writer else { return Ok(self.stop_following().await) };
        let drained = self.drain(writer, &mut progress).await;
        progress(self.pending());
        writer.stop_rounds.cancel();
        if drained.is_err() {
            // A round may be waiting for a store that does not answer: nobody waits for it any more.
            writer.stop.cancel();
        }
        let rounds_task = writer.rounds_task.lock().take();
        if let Some(task) = rounds_task
            && let Err(error) = task.await
        {
            log::error!("rounds: {error}");
        }
        let finished = match (&drained, writer.rounds.get()) {
            (Ok(()), Some(rounds)) => rounds.finish().await,
            // Nothing was changed without the store, and the vault was never told of this mount.
            (Ok(()), None) => Ok(()),
            (Err(error), _) => Err(error.to_string()),
        };
        writer.stop.cancel();
        writer.tasks.close();
        writer.tasks.wait().await;
        if finished.is_ok() && writer.journal.wait_durable(writer.journal.end()).await.is_ok() {
            // Vault and index have all of it now: the journal lets go of it before it ends.
            writer.indexer.finish().await;
        }
        let kept = self.end_journal(writer).await;
        // Nothing is appended any more, and what is durable is known.
        writer.indexer.finish().await;
        match finished {
            Ok(()) => {
                self.send_hint(writer).await;
                Ok(Closed::Drained)
            }
            Err(why) => {
                log::warn!("not everything is in the vault: {why}");
                kept?;
                Ok(Closed::Pending(self.pending().pending_bytes))
            }
        }
    }

    /// Everything into the vault. Without a store that is not waited for: it is asked once, and what is dirty goes to the
    /// journal (E4).
    async fn drain(&self, writer: &Writer, progress: &mut (impl FnMut(Progress) + Send)) -> Result<(), VaultError> {
        let offline = writer.offline.as_ref().filter(|_| writer.rounds.get().is_none());
        let Some(offline) = offline else { return self.sync(progress).await };
        if writer.notifier.ended().is_none() {
            offline.try_once().await;
            if writer.rounds.get().is_some() {
                return self.sync(progress).await;
            }
        }
        let kept = tokio::time::timeout(KEEPING, self.fs.sync_all()).await;
        match kept {
            Ok(Ok(_)) if self.history.oldest_pending().is_none() => Ok(()),
            Ok(Ok(_)) => Err(VaultError::Stopped(offline.reason())),
            Ok(Err(error)) => Err(VaultError::Stopped(error.to_string())),
            Err(_) => Err(VaultError::Stopped("this machine's disk takes nothing".to_owned())),
        }
    }

    /// What whoever mounts should be told: what was set aside or accepted.
    pub fn notices(&self) -> &[String] {
        &self.opened.notices
    }

    async fn stop_following(&self) -> Closed {
        if let Some(reader) = &self.reader {
            reader.stop.cancel();
            let task = reader.task.lock().take();
            if let Some(task) = task
                && let Err(error) = task.await
            {
                log::error!("following: {error}");
            }
            reader.follower.finish().await;
        }
        Closed::Drained
    }

    /// On a read-only mount: looks for the newest state, after this call. True if it is visible now; if it could not be
    /// had, or not in time, status may tell why.
    pub async fn look(&self) -> bool {
        match &self.reader {
            Some(reader) => reader.follower.look_now().await,
            None => true,
        }
    }

    /// Ends without waiting for the vault: what is dirty goes to the journal, and that to the disk, as far as they take
    /// it in a bounded time. The error says what they did not take.
    pub async fn give_up(&self) -> Result<Closed, VaultError> {
        let Some(writer) = &self.writer else { return Ok(Closed::Drained) };
        writer.stop_rounds.cancel();
        writer.stop.cancel();
        match tokio::time::timeout(KEEPING, self.fs.sync_all()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => log::error!("not all dirty bytes are in the journal: {error}"),
            Err(_) => log::error!("not all dirty bytes are in the journal after {} s", KEEPING.as_secs()),
        }
        self.end_journal(writer).await?;
        Ok(Closed::Pending(self.pending().pending_bytes))
    }

    /// Ends the journal after a last group commit. What is dirty then, or not durable, is lost with this process.
    async fn end_journal(&self, writer: &Writer) -> Result<(), VaultError> {
        let closed = writer.journal.close().await;
        // An unlinked file ends with its process anyhow.
        let mut files: Vec<String> = self.cache.dirty_files().iter().filter_map(|ino| self.fs.path_of(*ino)).collect();
        let dirty = self.cache.counts().dirty_bytes;
        let why = match (closed, files.is_empty()) {
            (Ok(()), true) => return Ok(()),
            (Ok(()), false) => format!("there was no room in the journal for {dirty} bytes"),
            (Err(error), true) => format!("the changes of the last seconds could not be written ({error})"),
            (Err(error), false) => format!("{dirty} bytes and the last changes could not be written ({error})"),
        };
        let more = files.len().saturating_sub(NAMED);
        files.truncate(NAMED);
        let of = if files.is_empty() { String::new() } else { format!(" of {}", files.join(", ")) };
        let more = if more > 0 { format!(" and {more} other files") } else { String::new() };
        Err(VaultError::NotKept(format!("{why}{of}{more}")))
    }

    /// The hint spares the next machine a listing; nothing depends on it.
    async fn send_hint(&self, writer: &Writer) {
        let Some(rounds) = writer.rounds.get() else { return };
        let chain = *rounds.chain.lock();
        let reign = &rounds.reign;
        let hint = crate::format::hint::Hint {
            header: reign.header.0,
            sequence: chain.newest.sequence,
            checkpoint: rounds.keeper.counting(),
        };
        let object = hint.seal(&rounds.keys, &rounds.random);
        if let Err(error) = self.store.put_hint(object.into()).await {
            log::debug!("the hint was not written: {error}");
        }
    }

    /// What the vault lacks.
    pub fn pending(&self) -> Progress {
        let Some(writer) = &self.writer else { return Progress { pending_files: 0, pending_bytes: 0 } };
        let dirty = self.cache.counts();
        let mut waiting = self.history.waiting();
        waiting.files.extend(self.cache.dirty_files());
        Progress {
            pending_files: waiting.files.len() as u64,
            pending_bytes: dirty.dirty_bytes
                + waiting.bytes
                + writer.rounds.get().map_or(0, |rounds| *rounds.sending.lock()),
        }
    }

    pub fn status(&self) -> Status {
        let (state, reason) = self.state();
        let Progress { pending_files, pending_bytes } = self.pending();
        let counts = self.cache.counts();
        let requests = self.store.counts();
        let told = self.reader.as_ref().map(|reader| reader.follower.told());
        let (pin, commit) = match (&self.writer, &told) {
            (Some(writer), _) => {
                let time = writer.rounds.get().map_or(self.opened.last_commit, |rounds| rounds.chain.lock().time);
                (writer.pins.get().unwrap_or(self.opened.pin), time)
            }
            (None, Some(told)) => (told.pin, told.commit),
            (None, None) => (self.opened.pin, self.opened.last_commit),
        };
        let now = self.clock.now();
        Status {
            state: state.to_owned(),
            reason,
            url: self.store.url().to_owned(),
            durability: self.durability.name().to_owned(),
            pending_files,
            pending_bytes,
            oldest_pending_seconds: self.history.oldest_pending().map_or(0.0, |at| at.elapsed().as_secs_f64()),
            blocked_by: None,
            sequence: pin.link.sequence.0,
            epoch: pin.epoch.0,
            pin: pin.to_string(),
            last_commit_age_seconds: (now.secs - commit.secs).max(0) as f64,
            followed_seconds_ago: told.map(|told| told.looked.elapsed().as_secs_f64()),
            cache: CacheStatus {
                bytes: counts.clean_bytes,
                entries: counts.entries,
                hits: counts.hits,
                misses: counts.misses,
                dirty_bytes: counts.dirty_bytes,
            },
            journal_bytes: self.writer.as_ref().map_or(0, |writer| writer.journal.disk_bytes()),
            remote: RemoteStatus { requests: requests.requests, errors: requests.errors },
            vault: self
                .writer
                .as_ref()
                .and_then(|writer| writer.rounds.get()?.keeper.volume())
                .map(|volume| VaultStatus { live_bytes: volume.live, total_bytes: volume.total }),
            removed: self
                .writer
                .as_ref()
                .and_then(|writer| Some(writer.rounds.get()?.requests.removed()))
                .unwrap_or_default(),
            damaged_files: self.fs.damaged_files(),
            set_aside: self.set_aside(),
            state_directory: self.state_dir.display().to_string(),
        }
    }

    fn set_aside(&self) -> Vec<SetAsideStatus> {
        let all = aside::all(&*self.disk).unwrap_or_else(|error| {
            log::warn!("{error}");
            Vec::new()
        });
        let status = |SetAside { dir, about }: SetAside| SetAsideStatus {
            directory: dir,
            changes: about.changes,
            since: show(Timestamp { secs: about.time, nanos: 0 }),
            why: about.why,
        };
        all.into_iter().map(status).collect()
    }

    fn state(&self) -> (&'static str, Option<String>) {
        let outage = || self.store.outage().map(|(since, why)| format!("for {} s: {why}", since.as_secs()));
        let Some(writer) = &self.writer else {
            let trouble = self.reader.as_ref().and_then(|reader| reader.follower.told().trouble);
            return match (trouble, outage()) {
                (Some(Behind::Outage(why)), outage) => ("outage", Some(outage.unwrap_or(why))),
                (Some(trouble), _) => ("read-only", Some(trouble.to_string())),
                (None, Some(why)) => ("outage", Some(why)),
                (None, None) => ("read-only", None),
            };
        };
        if let Some(why) = writer.notifier.ended() {
            let state = if why.starts_with("fenced") { "fenced" } else { "read-only" };
            return (state, Some(why));
        }
        if let Some(offline) = writer.offline.as_ref().filter(|_| writer.rounds.get().is_none())
            && writer.journal.trouble().is_none()
        {
            return ("offline", Some(offline.reason()));
        }
        match (writer.journal.trouble(), outage()) {
            (Some(Trouble::DiskFull(why)), _) => {
                ("disk-full", Some(format!("this machine's disk is full: {why}; free space on it")))
            }
            (Some(Trouble::DiskFails(why)), _) => ("disk-failing", Some(format!("this machine's disk fails: {why}"))),
            (Some(Trouble::JournalFull), Some(why)) => ("outage", Some(format!("{why}; and the journal is full"))),
            (Some(Trouble::JournalFull), None) => ("journal-full", Some("writers wait for the store".to_owned())),
            (None, Some(why)) => ("outage", Some(why)),
            (None, None) => ("ready", None),
        }
    }
}

fn bounds(options: &DriveOptions) -> Bounds {
    // All that is dirty of a file goes into the journal at once: what the journal cannot take whole, it never takes.
    let dirty = options.dirty_bytes.min(options.journal_bytes / 4);
    Bounds { clean_bytes: options.cache_bytes as usize, dirty_bytes: dirty as usize }
}

fn settings(options: &DriveOptions) -> Settings {
    Settings {
        // A mount after a crash reads two of them, or three.
        file_bytes: (options.journal_bytes / 16).clamp(4 << 20, 64 << 20),
        sync_interval: Duration::from_secs(5),
        sync_bytes: 64 << 20,
        memory_bytes: options.dirty_bytes.max(128 << 20),
        disk_bytes: options.journal_bytes,
        reserve_bytes: (options.journal_bytes / 16).min(RESERVE),
    }
}

fn downloads(world: &World, keys: &Arc<Keys>, journal: Option<Arc<Journal>>) -> Arc<download::starter::Starter> {
    let remote = download::remote_storage::RemoteStorage::new(world.store.clone(), keys.clone(), journal);
    download::starter::Starter::new(remote, download::encryption::Encryption::new(keys.clone(), world.cpu.clone()))
}

fn start_writer(journal: &Arc<Journal>, own_thread: bool) -> Result<(), VaultError> {
    if !own_thread {
        tokio::spawn(journal.clone().run());
        return Ok(());
    }
    let failed = |e: std::io::Error| VaultError::State { path: "threads".to_owned(), why: e.to_string() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(failed)?;
    let journal = journal.clone();
    std::thread::Builder::new()
        .name("dripfs-journal".to_owned())
        .spawn(move || runtime.block_on(journal.run()))
        .map_err(failed)?;
    Ok(())
}

/// Rounds until `stop`, and beside them what deletes what nobody needs. Should that panic, the drive goes on.
async fn run_rounds(rounds: Arc<Rounds>, gc: gc::Settings, stop: CancellationToken) {
    let beside = tokio::spawn(gc::run(rounds.clone(), gc, stop.clone()));
    rounds.run(stop).await;
    if let Err(error) = beside.await {
        log::error!("gc: {error}");
    }
}

/// Sends on what is dirty for long.
async fn sweep(cache: Arc<Cache>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP) => cache.send_on(DIRTY_AGE),
        }
    }
}

/// Without rounds nothing reaches the vault any more: nothing may be written then, and nobody waits for it in vain.
async fn unless_it_panics(rounds: impl Future<Output = ()>, history: Arc<History>, notifier: Arc<Notifier>) {
    if AssertUnwindSafe(rounds).catch_unwind().await.is_err() {
        log::error!("the task of rounds panicked; the drive is read-only now; this is a bug, please report it");
        history.make_read_only();
        notifier.end("the task of rounds panicked");
    }
}

/// A journal whose writer ended before the mount did (a panic) keeps nothing any more: nothing may be written then.
async fn watch_journal(journal: Arc<Journal>, history: Arc<History>, notifier: Arc<Notifier>, stop: CancellationToken) {
    let mut progress = journal.watch();
    tokio::select! {
        biased;
        () = stop.cancelled() => return,
        _ = progress.wait_for(|progress| progress.closed) => {}
    }
    log::error!("the journal's writer ended; the drive is read-only now; this is a bug, please report it");
    history.make_read_only();
    notifier.end("the journal's writer ended");
}

/// A point in time for people: UTC, to the second (RFC 3339).
pub(super) fn show(time: Timestamp) -> String {
    humantime::format_rfc3339_seconds(time.to_system()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::disk::simulated::{SeededBytes, SimulatedDisk};
    use crate::crypto::secret::Key;

    /// A history that takes changes.
    fn history() -> Arc<History> {
        let keys = Arc::new(Keys::from_master(&Key::from_bytes([7; 32])));
        let random = Random::Simulated(Arc::new(SeededBytes::new(7)));
        let settings = Settings {
            file_bytes: 1 << 20,
            sync_interval: Duration::from_secs(5),
            sync_bytes: 1 << 20,
            memory_bytes: 1 << 20,
            disk_bytes: 1 << 20,
            reserve_bytes: 0,
        };
        let (index, mark) = crate::index::tests::holding(&keys, &[]);
        let recovered = Journal::recover(SimulatedDisk::new(7), JOURNAL_DIR, keys, Position(0)).unwrap();
        let journal = Journal::resume(recovered, random, settings, Position(0)).unwrap();
        Arc::new(History::new(index, &mark, Some(journal), Clock::System, Epoch(1)))
    }

    #[tokio::test]
    async fn a_panic_in_the_rounds_makes_the_drive_read_only_and_ends_every_wait() {
        let history = history();
        assert!(!history.is_read_only());
        let notifier = Arc::new(Notifier::new(Position(0)));
        let waits = notifier.wait(Position(1));
        let rounds = unless_it_panics(async { panic!("planted") }, history.clone(), notifier.clone());
        let (waited, ()) = tokio::join!(waits, rounds);
        assert!(waited.unwrap_err().contains("panicked"));
        assert!(history.is_read_only());
    }
}
