//! A drive: one vault opened for reading or writing, with all its rooms joined, before any kernel is told of it.
//!
//! | file | what it holds |
//! |---|---|
//! | `opening` | unlock, walk, journal, epoch; without the store, if that does not answer |
//! | `ownership` | whose the vault is, and what becomes of a journal that does not go on from there |
//! | `offline` | how a drive without the store gets its epoch later |
//! | `closing` | drain, idle commit, end |
//! | `caching` | files into the cache and out of it, on request |
//! | `status` | what a drive tells of itself |
//! | `events` | what goes out and comes in, file by file |
//! | `keys` | the vault's key slots, and a new header |
//!
//! This file joins the rooms and starts the background work.
//! The state directory is the caller's to prepare and lock. What a drive needs of the world (store, disk, clock,
//! randomness, threads) comes in a [`World`], so that a simulation can bring its own.

mod caching;
mod closing;
pub mod events;
pub mod keys;
mod offline;
mod opening;
pub(super) mod ownership;
mod status;

pub use closing::KEEPING;

use std::collections::HashSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::follower::{self, Follower};
use super::indexer::{Indexer, Ready};
use crate::base::disk::Disk;
use crate::base::{Clock, Epoch, ExtentId, Position, Random, Timestamp};
use crate::cache::disk::{self, DiskCache};
use crate::cache::{self, Bounds, Cache, DIRTY_AGE};
use crate::download;
use crate::download::sealed_cache::SealedCache;
use crate::format::keys::Keys;
use crate::fs::{Fs, Safety};
use crate::history::History;
use crate::index::{Ground, Tables};
use crate::journal::{Journal, Settings, Trouble};
use crate::pipeline::{self, Cpu, Memory, Stage};
use crate::search::{self, Tree};
use crate::store::{Limits, Store};
use crate::upload;
use crate::upload::notifier::Notifier;
use crate::upload::remote_storage::Put;
use crate::vault::VaultError;
use crate::vault::checkpoint::keeper::{Keeper, When};
use crate::vault::epoch::Reign;
use crate::vault::gc;
use crate::vault::pin::{Pin, PinFile};
use crate::vault::round::{self, Chain, Rounds};
use crate::vault::{ahead, spill};
pub use caching::{Cached, CachedFile, Moved};
pub use status::{CacheStatus, PipelinesStatus, RemoteStatus, SetAsideStatus, Status, VaultStatus};

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
    /// How long plaintext stays after its last use.
    #[serde(default)]
    pub caching: Caching,
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
    /// What rounds take, and when.
    #[serde(default)]
    pub rounds: round::Settings,
    /// How much each stage of the pipelines takes.
    #[serde(default)]
    pub pipelines: pipeline::Settings,
}

/// How long and where what was read is kept, beside the bytes of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Caching {
    /// An entry lives so long after its last use, seconds.
    pub ttl_seconds: u64,
    /// Sealed bytes of the store that are kept on this machine's disk; 0 for none.
    pub disk_bytes: u64,
}

impl Default for Caching {
    fn default() -> Caching {
        Caching { ttl_seconds: cache::TTL.as_secs(), disk_bytes: 0 }
    }
}

fn follow_seconds() -> u64 {
    follower::EVERY.as_secs()
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
/// What the disk cache leaves free on the disk for the journal and others, at most.
const DISK_RESERVE: u64 = 1 << 30;
/// How often files with old dirty bytes, and entries whose time is over, are looked for.
const SWEEP: Duration = Duration::from_secs(1);

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
    /// `None` where it is not wanted, or cannot be had.
    disk_cache: Option<Arc<DiskCache>>,
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
    pipelines: Pipelines,
}

/// What status asks how the stages are.
struct Pipelines {
    memory: Memory,
    /// `None` on a read-only mount.
    uploads: Option<(upload::starter::Starter, Stage<Put>)>,
    downloads: Arc<download::starter::Starter>,
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
    settings: round::Settings,
    stop: CancellationToken,
    /// The stage of puts and its memory, once the drive has them.
    flow: Option<(Stage<Put>, Memory)>,
}

impl Parts {
    #[expect(clippy::too_many_arguments, reason = "wiring: each is joined to others once, here")]
    fn new(
        world: &World,
        keys: &Arc<Keys>,
        history: &Arc<History>,
        journal: &Arc<Journal>,
        found: HashSet<ExtentId>,
        pins: &Arc<PinFile>,
        cut: Position,
        settings: round::Settings,
    ) -> Parts {
        Parts {
            settings,
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
            flow: None,
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
        let remote = match self.flow {
            Some((puts, memory)) => remote.sharing(puts, memory),
            None => remote,
        };
        Arc::new(Rounds {
            settings: self.settings,
            keeper,
            deferred: Default::default(),
            ahead: Default::default(),
            spilled: Default::default(),
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
    /// Bandwidth from now on.
    pub fn limit(&self, limits: Limits) {
        self.store.limit(limits);
    }

    /// Grows while something goes out to a store that takes it; how far a drain is, between what [`Drive::pending`] tells.
    pub fn sent(&self) -> Option<u64> {
        // What a store takes and then refuses brings nobody further.
        self.store.outage().is_none().then(|| self.store.sent())
    }

    fn reader(world: World, keys: Arc<Keys>, ready: Ready, pin: Pin, pins: PinFile, options: &DriveOptions) -> Drive {
        let Ready { index, mark, walked, .. } = ready;
        let opened = Opened { pin, last_commit: walked.commit.time, notices: Vec::new() };
        let history = Arc::new(History::new(index.clone(), &mark, None, world.clock.clone(), Epoch(0)));
        let disk_cache = disk_cache(&world, options);
        let memory = Memory::new(options.pipelines.inflight_bytes);
        let downloads = downloads(&world, &keys, None, disk_cache.clone(), &options.pipelines, &memory);
        let pipelines = Pipelines { memory, uploads: None, downloads: downloads.clone() };
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
        tokio::spawn(sweep(cache.clone(), disk_cache.clone(), None, stop.clone()));
        let reader = Some(Reader { follower, task, _ends: stop.clone().drop_guard(), stop });
        Drive {
            fs,
            store,
            cache,
            disk_cache,
            history,
            clock,
            disk,
            state_dir,
            opened,
            writer: None,
            reader,
            durability,
            pipelines,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "wiring: each is joined to others once, here")]
    fn join(
        world: World,
        keys: Arc<Keys>,
        history: Arc<History>,
        indexer: Arc<Indexer>,
        mut parts: Parts,
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
            options.pipelines.seal,
        );
        let memory = Memory::new(options.pipelines.inflight_bytes);
        let puts = upload::remote_storage::stage(options.pipelines.put);
        parts.flow = Some((puts.clone(), memory.clone()));
        let stage = upload::journal::JournalStage::new(journal.clone(), options.pipelines.append);
        let uploads = upload::starter::Starter::new(encryption, stage, memory.clone());
        let disk_cache = disk_cache(&world, options);
        let downloads =
            downloads(&world, &keys, Some(journal.clone()), disk_cache.clone(), &options.pipelines, &memory);
        let pipelines = Pipelines { memory, uploads: Some((uploads.clone(), puts)), downloads: downloads.clone() };
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
        tasks.spawn(sweep(cache.clone(), disk_cache.clone(), Some(journal.clone()), stop.clone()));
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
            disk_cache,
            history,
            clock,
            disk,
            state_dir,
            opened,
            writer: Some(writer),
            reader: None,
            durability,
            pipelines,
        }
    }

    /// The drive as the kernel is to see it: with the rooms that answer searches.
    pub fn tree(&self, settings: search::Settings) -> Tree {
        Tree::new(self.fs.clone(), settings, Some(self.disk.clone()))
    }

    /// What whoever mounts should be told: what was set aside or accepted.
    pub fn notices(&self) -> &[String] {
        &self.opened.notices
    }

    /// On a read-only mount: looks for the newest state, after this call. True if it is visible now; if it could not be
    /// had, or not in time, status may tell why.
    pub async fn look(&self) -> bool {
        match &self.reader {
            Some(reader) => reader.follower.look_now().await,
            None => true,
        }
    }
}

fn bounds(options: &DriveOptions) -> Bounds {
    // All that is dirty of a file goes into the journal at once: what the journal cannot take whole, it never takes.
    let dirty = options.dirty_bytes.min(options.journal_bytes / 4);
    let ttl = Duration::from_secs(options.caching.ttl_seconds.max(1));
    let (clean_bytes, readahead_bytes) = (options.cache_bytes as usize, options.pipelines.readahead_bytes);
    Bounds { clean_bytes, dirty_bytes: dirty as usize, ttl, readahead_bytes }
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
        stage_least: options.rounds.stage_least,
    }
}

fn disk_cache(world: &World, options: &DriveOptions) -> Option<Arc<DiskCache>> {
    let settings = disk::Settings {
        bytes: options.caching.disk_bytes,
        // The journal matters more.
        reserve: options.journal_bytes.min(DISK_RESERVE),
        thread: world.journal_thread,
    };
    DiskCache::open(world.disk.clone(), settings)
}

fn downloads(
    world: &World,
    keys: &Arc<Keys>,
    journal: Option<Arc<Journal>>,
    kept: Option<Arc<DiskCache>>,
    settings: &pipeline::Settings,
    memory: &Memory,
) -> Arc<download::starter::Starter> {
    let kept = kept.map(|kept| kept as Arc<dyn SealedCache>);
    let remote = download::remote_storage::RemoteStorage::new(
        world.store.clone(),
        keys.clone(),
        journal,
        settings.get,
        memory.clone(),
    );
    let remote = remote.keeping(kept);
    let encryption = download::encryption::Encryption::new(keys.clone(), world.cpu.clone(), settings.open);
    download::starter::Starter::new(remote, encryption, memory.clone())
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
    let beside = |what: &'static str, task: BoxFuture<'static, ()>| {
        let task = AssertUnwindSafe(task).catch_unwind();
        tokio::spawn(async move {
            if task.await.is_err() {
                log::error!("{what} until the next mount; this is a bug, please report it");
            }
        })
    };
    let deletes = gc::run(rounds.clone(), gc, stop.clone()).boxed();
    let deletes = beside("gc panicked: nothing is deleted from the vault", deletes);
    let spills = spill::run(rounds.clone(), stop.clone()).boxed();
    let spills = beside("spilling panicked: what unlinked files hold stays in the journal", spills);
    let ahead = ahead::run(rounds.clone(), stop.clone()).boxed();
    let ahead = beside("sending ahead panicked: large files wait for rounds", ahead);
    rounds.run(stop).await;
    // Their panics are caught.
    let _ = (deletes.await, spills.await, ahead.await);
}

/// Sends on what is dirty for long, lets entries die whose time is over, and has the disk cache make way for the journal.
async fn sweep(
    cache: Arc<Cache>,
    kept: Option<Arc<DiskCache>>,
    journal: Option<Arc<Journal>>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP) => {}
        }
        cache.send_on(DIRTY_AGE);
        cache.expire();
        if let Some(kept) = &kept {
            let full = journal.as_ref().and_then(|journal| journal.trouble());
            kept.make_room(matches!(full, Some(Trouble::DiskFull(_))));
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
    use crate::journal::tests::small;

    /// A history that takes changes.
    fn history() -> Arc<History> {
        let keys = Arc::new(Keys::from_master(&Key::from_bytes([7; 32])));
        let random = Random::Simulated(Arc::new(SeededBytes::new(7)));
        let (index, mark) = crate::index::tests::holding(&keys, &[]);
        let recovered = Journal::recover(SimulatedDisk::new(7), JOURNAL_DIR, keys, Position(0)).unwrap();
        let journal = Journal::resume(recovered, random, small(), Position(0)).unwrap();
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
