//! A drive: one vault opened for reading or writing, with all its rooms joined, before any kernel is told of it.
//!
//! Owns the order of opening (unlock, walk, journal, epoch, background work) and of closing (drain, idle commit, end).
//! The state directory is the caller's to prepare and lock. What a drive needs of the world (store, disk, clock,
//! randomness, threads) comes in a [`World`], so that a simulation can bring its own.

use std::collections::HashSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::indexer::{self, Indexer, Ready};
use crate::base::disk::{Disk, RealDisk};
use crate::base::sizes::CLASS_MIN;
use crate::base::{Clock, Epoch, ExtentId, Position, Random, Timestamp};
use crate::cache::{Bounds, Cache, DIRTY_AGE};
use crate::crypto::secret::Passphrase;
use crate::download;
use crate::format::change::Note;
use crate::format::commit::ChainLink;
use crate::format::keys::Keys;
use crate::fs::{Fs, Safety};
use crate::history::History;
use crate::index::{self, Ground, SledTables, Tables};
use crate::journal::{Journal, Recovered, Settings, Trouble};
use crate::pipeline::Cpu;
use crate::store::Store;
use crate::upload;
use crate::upload::notifier::Notifier;
use crate::vault::VaultError;
use crate::vault::checkpoint::keeper::{Keeper, When};
use crate::vault::epoch::{self, Reign};
use crate::vault::gc;
use crate::vault::pin::{Pin, PinFile};
use crate::vault::round::{Chain, Rounds};
use crate::vault::unlock::{self, Unlocked};
use crate::vault::walk::{self, Walked};

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
    /// When the vault is swept for what nobody needs, and how fast.
    #[serde(default)]
    pub gc: gc::Settings,
}

/// What `dripfs status --json` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// "ready", "outage", "journal-full", "disk-full", "disk-failing", "fenced", "read-only".
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
const JOURNAL_DIR: &str = "journal";
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
    opened: Opened,
    /// `None` on a read-only mount.
    writer: Option<Writer>,
    durability: Durability,
}

/// What a drive was when it was opened.
struct Opened {
    pin: Pin,
    last_commit: Timestamp,
}

struct Writer {
    journal: Arc<Journal>,
    indexer: Arc<Indexer>,
    rounds: Arc<Rounds>,
    notifier: Arc<Notifier>,
    pins: Arc<PinFile>,
    /// Ends the loop of rounds; then what a round waits for.
    stop_rounds: CancellationToken,
    stop: CancellationToken,
    rounds_task: Mutex<Option<tokio::task::JoinHandle<()>>>,
    tasks: TaskTracker,
}

impl Drive {
    /// Unlocks and opens the vault, replays the journal, opens an epoch (unless read-only), starts the background
    /// work on the current tokio runtime and the journal's thread.
    pub async fn open(store: Store, passphrase: Passphrase, options: DriveOptions) -> Result<Drive, VaultError> {
        let cpu = Cpu::threads(std::thread::available_parallelism().map_or(2, usize::from))
            .map_err(|e| VaultError::State { path: "threads".to_owned(), why: e.to_string() })?;
        let state = options.state.clone();
        let world = World {
            store,
            disk: Arc::new(RealDisk::new(options.state.clone())),
            tables: Arc::new(move |dir| Arc::new(SledTables::new(state.join(dir))) as Arc<dyn Tables>),
            random: Random::Kernel,
            clock: Clock::System,
            cpu,
            journal_thread: true,
            host: epoch::host_name(),
        };
        let pins = PinFile::open(world.disk.clone())?;
        let unlocked = unlock::unlock(&world.store, &passphrase, pins.get().as_ref()).await?;
        drop(passphrase);
        if !options.read_only {
            world.store.probe_again().await?;
        }
        Drive::open_in(world, unlocked, pins, options).await
    }

    /// As [`Drive::open`], in a world that the caller brings, with a vault that is unlocked.
    pub async fn open_in(
        world: World,
        unlocked: Unlocked,
        pins: PinFile,
        options: DriveOptions,
    ) -> Result<Drive, VaultError> {
        let keys = Arc::new(unlocked.keys);
        let known = pins.get();
        let recovered = match options.read_only {
            true => None,
            false => Some(Journal::recover(world.disk.clone(), JOURNAL_DIR, keys.clone(), Position(0))?),
        };
        let dir = if options.read_only { index::READER_DIR } else { index::WRITER_DIR };
        let ready =
            indexer::prepare(world.ground(&keys, dir), &world.store, &keys, known.as_ref(), recovered.as_ref()).await?;
        let walked = &ready.walked;
        if walked.header != unlocked.header {
            return Err(VaultError::Tampered(format!(
                "the header that opened (number {}) is not the one that the vault names (number {})",
                unlocked.header.0, walked.header.0
            )));
        }
        let pin = Pin {
            vault: keys.vault,
            link: walked.newest.link,
            header: walked.header.0,
            epoch: walked.newest.epoch.max(known.map_or(Epoch(0), |pin| pin.epoch)),
        };
        match recovered {
            Some(recovered) => Drive::writer(world, keys, ready, recovered, pin, pins, &options).await,
            None => {
                pins.set(pin)?;
                Ok(Drive::reader(world, keys, ready, pin, &options))
            }
        }
    }

    fn reader(world: World, keys: Arc<Keys>, ready: Ready, pin: Pin, options: &DriveOptions) -> Drive {
        let last_commit = ready.walked.commit.time;
        let history = Arc::new(History::new(ready.index, &ready.mark, None, world.clock.clone(), Epoch(0)));
        let downloads = downloads(&world, &keys, None);
        let cache = Cache::new(history.clone(), None, downloads, bounds(options), world.clock.clone());
        let fs = Arc::new(Fs::new(history.clone(), keys, cache.clone(), Safety::Nothing));
        let opened = Opened { pin, last_commit };
        let (store, clock, durability) = (world.store, world.clock, options.durability);
        Drive { fs, store, cache, history, clock, opened, writer: None, durability }
    }

    async fn writer(
        world: World,
        keys: Arc<Keys>,
        ready: Ready,
        recovered: Recovered,
        pin: Pin,
        pins: PinFile,
        options: &DriveOptions,
    ) -> Result<Drive, VaultError> {
        let position = ready.position();
        let Ready { index, mark, over, placed, walked } = ready;
        let Walked { newest, commit, header, checkpoint, manifest, .. } = walked;
        // How many bytes the log took is not known without reading all of it: as many as it must have.
        let grown = newest.link.sequence.0.saturating_sub(manifest.sequence.0);
        let keeper = Keeper::new(options.checkpoint, checkpoint, manifest, grown * CLASS_MIN as u64, grown);
        let recovered = settle_ownership(&world, &keys, recovered, &newest, &commit, options.takeover)?;
        // The pin is durable before what it covers is shown; so is the epoch's number before it is used.
        let epoch = epoch::next(&pins, pin)?;
        let reign = Reign { epoch, header, checkpoint, host: world.host.clone() };
        let changes = recovered.changes.clone();
        let found = recovered.extents.iter().copied().collect();
        let journal = Journal::resume(recovered, world.random.clone(), settings(options), commit.cut)?;
        let history = Arc::new(History::new(index.clone(), &mark, Some(journal.clone()), world.clock.clone(), epoch));
        history.replay(&changes, commit.cut, over)?;
        history.place(&placed, commit.link)?;
        let vain = history.vain(&changes)?;
        drop(changes);
        let indexer = Indexer::new(history.clone(), index, journal.clone(), world.clock.clone(), mark, position);
        start_writer(&journal, world.journal_thread)?;
        let begun = begin_reign(&world, &keys, &history, &journal, &pins, pin, &reign, &newest, &commit).await;
        let link = match begun {
            Ok(link) => link,
            Err(error) => {
                // The caller may try again: two journals must not lie over one directory.
                if let Err(error) = journal.close().await {
                    log::warn!("{error}");
                }
                return Err(error);
            }
        };
        journal.release(&vain);
        journal.committed(commit.cut);
        let standing = commit.standing();
        let chain = Chain { newest: link, cut: commit.cut, idle: false, time: commit.time, standing };
        Ok(Drive::join(world, keys, history, indexer, journal, found, pins, reign, keeper, chain, options))
    }

    #[expect(clippy::too_many_arguments, reason = "wiring: each is joined to others once, here")]
    fn join(
        world: World,
        keys: Arc<Keys>,
        history: Arc<History>,
        indexer: Arc<Indexer>,
        journal: Arc<Journal>,
        found: HashSet<ExtentId>,
        pins: PinFile,
        reign: Reign,
        keeper: Keeper,
        chain: Chain,
        options: &DriveOptions,
    ) -> Drive {
        let pins = Arc::new(pins);
        let stop = CancellationToken::new();
        let notifier = Arc::new(Notifier::new(chain.cut));
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
        let remote = upload::remote_storage::RemoteStorage::new(
            world.store.clone(),
            keys.clone(),
            journal.clone(),
            world.random.clone(),
            stop.clone(),
        );
        let opened = Opened {
            pin: Pin { vault: keys.vault, link: chain.newest, header: reign.header.0, epoch: reign.epoch },
            last_commit: chain.time,
        };
        let rounds = Arc::new(Rounds {
            keeper,
            requests: Default::default(),
            usage: Mutex::new(None),
            making: Mutex::new(None),
            keys,
            history: history.clone(),
            journal: journal.clone(),
            remote,
            notifier: notifier.clone(),
            pins: pins.clone(),
            reign,
            random: world.random,
            clock: world.clock.clone(),
            chain: Mutex::new(chain),
            found: Mutex::new(found),
            sending: Mutex::new(0),
        });
        let stop_rounds = CancellationToken::new();
        let tasks = TaskTracker::new();
        let run = rounds.clone().run(stop_rounds.clone());
        let rounds_task = tokio::spawn(unless_it_panics(run, history.clone(), notifier.clone()));
        tasks.spawn(sweep(cache.clone(), stop.clone()));
        tasks.spawn(indexer.clone().run(stop.clone()));
        tasks.spawn(gc::run(rounds.clone(), options.gc, stop_rounds.clone()));
        tasks.spawn(watch_journal(journal.clone(), history.clone(), notifier.clone(), stop.clone()));
        let rounds_task = Mutex::new(Some(rounds_task));
        let writer = Writer { journal, indexer, rounds, notifier, pins, stop_rounds, stop, rounds_task, tasks };
        let (store, clock, durability) = (world.store, world.clock, options.durability);
        Drive { fs, store, cache, history, clock, opened, writer: Some(writer), durability }
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
        let Some(writer) = &self.writer else { return Ok(Closed::Drained) };
        let drained = self.sync(&mut progress).await;
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
        let finished = match &drained {
            Ok(()) => writer.rounds.finish().await,
            Err(error) => Err(error.to_string()),
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
        let chain = *writer.rounds.chain.lock();
        let reign = &writer.rounds.reign;
        let hint = crate::format::hint::Hint {
            header: reign.header.0,
            sequence: chain.newest.sequence,
            checkpoint: writer.rounds.keeper.counting(),
        };
        let object = hint.seal(&writer.rounds.keys, &writer.rounds.random);
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
            pending_bytes: dirty.dirty_bytes + waiting.bytes + *writer.rounds.sending.lock(),
        }
    }

    pub fn status(&self) -> Status {
        let (state, reason) = self.state();
        let Progress { pending_files, pending_bytes } = self.pending();
        let counts = self.cache.counts();
        let requests = self.store.counts();
        let (pin, commit) = match &self.writer {
            Some(writer) => (writer.pins.get().unwrap_or(self.opened.pin), writer.rounds.chain.lock().time),
            None => (self.opened.pin, self.opened.last_commit),
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
                .and_then(|writer| writer.rounds.keeper.volume())
                .map(|volume| VaultStatus { live_bytes: volume.live, total_bytes: volume.total }),
            removed: self.writer.as_ref().map(|writer| writer.rounds.requests.removed()).unwrap_or_default(),
            damaged_files: self.fs.damaged_files(),
        }
    }

    fn state(&self) -> (&'static str, Option<String>) {
        let Some(writer) = &self.writer else { return ("read-only", None) };
        if let Some(why) = writer.notifier.ended() {
            let state = if why.starts_with("fenced") { "fenced" } else { "read-only" };
            return (state, Some(why));
        }
        let outage = self.store.outage().map(|(since, why)| format!("for {} s: {why}", since.as_secs()));
        match (writer.journal.trouble(), outage) {
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

/// Creates the epoch record; the journal knows then what the vault had taken before (J5).
#[expect(clippy::too_many_arguments, reason = "wiring: each is joined to others once, here")]
async fn begin_reign(
    world: &World,
    keys: &Keys,
    history: &History,
    journal: &Journal,
    pins: &PinFile,
    pin: Pin,
    reign: &Reign,
    newest: &walk::Newest,
    commit: &walk::NewestCommit,
) -> Result<ChainLink, VaultError> {
    journal.wait_durable(history.note(Note::Mount)).await?;
    let Some(block) = journal.durable().1 else {
        return Err(VaultError::State { path: JOURNAL_DIR.to_owned(), why: "the journal did not begin".into() });
    };
    let link = epoch::open(&world.store, keys, &world.random, &world.clock, reign, newest, block).await?;
    epoch::check(&world.store, commit).await?;
    pins.set(Pin { link, epoch: reign.epoch, ..pin })?;
    journal.wait_durable(history.note(Note::Took { link: commit.link, cut: Some(commit.cut) })).await?;
    Ok(link)
}

/// Decides whose the newest log object is (C4), whether this machine may write (E2), and what becomes of a journal
/// that does not go on from there (E3).
fn settle_ownership(
    world: &World,
    keys: &Arc<Keys>,
    recovered: Recovered,
    newest: &walk::Newest,
    commit: &walk::NewestCommit,
    takeover: bool,
) -> Result<Recovered, VaultError> {
    let own = newest.block.is_some_and(|block| recovered.blocks.contains(&block));
    if own {
        let Some(why) = hole(&recovered, commit.cut) else { return Ok(recovered) };
        if !takeover {
            let why = format!("{why}; `--takeover` sets what is left aside and goes on from the vault");
            return Err(VaultError::State { path: JOURNAL_DIR.to_owned(), why });
        }
    }
    // The file of the block that the vault names is here, the block is not: damage, or an older copy of the directory.
    if !takeover
        && let Some(block) = newest.block
        && recovered.blocks.iter().any(|known| known.file == block.file)
    {
        return Err(VaultError::State {
            path: JOURNAL_DIR.to_owned(),
            why: "the journal lacks what the vault has from it: it is damaged, or an older copy was put back; \
                  `--takeover` sets it aside and goes on from the vault"
                .to_owned(),
        });
    }
    if !newest.idle && !takeover {
        return Err(VaultError::InUse { host: newest.host.clone(), time: show(commit.time) });
    }
    // Nothing of ours is in it: foreign history is simply followed (E3). The journal stays, for it knows the block of an
    // epoch record that an earlier try of this machine sent and that may still arrive (C4).
    if recovered.changes.iter().all(|(_, change)| change.records.is_empty()) {
        return Ok(recovered);
    }
    let kept = recovered.took.and_then(|(_, cut)| cut).unwrap_or_default();
    let uncommitted =
        recovered.changes.iter().filter(|(at, c)| *at > kept && !c.orphan && !c.records.is_empty()).count();
    let all_known = recovered.took.is_some() && uncommitted == 0;
    drop(recovered);
    if all_known {
        // E3: all of it is in the vault, and foreign history is simply followed.
        drop_journal(world)?;
        return Ok(Journal::recover(world.disk.clone(), JOURNAL_DIR, keys.clone(), Position(0))?);
    }
    let aside = format!("aside/{:020}-{}", newest.link.sequence.0, world.clock.now().secs);
    Journal::set_aside(&*world.disk, JOURNAL_DIR, &aside)?;
    if uncommitted > 0 {
        log::warn!(
            "another machine has written to the vault since: {uncommitted} changes of this machine that the vault \
             lacks are set aside in {aside} of the state directory"
        );
    }
    Ok(Journal::recover(world.disk.clone(), JOURNAL_DIR, keys.clone(), Position(0))?)
}

/// What an own journal lacks between the vault's cut and its own end: it keeps what no commit holds (J5).
fn hole(recovered: &Recovered, cut: Position) -> Option<&'static str> {
    if recovered.end < cut {
        Some("the journal ends before what it has committed: files were removed or cut")
    } else if recovered.begins > cut {
        Some("the journal begins after what it has committed: its oldest files were removed")
    } else {
        None
    }
}

/// Removes a journal that holds nothing new, oldest file first (J5), so that what a crash leaves is a journal too.
fn drop_journal(world: &World) -> Result<(), VaultError> {
    let failed = |e: std::io::Error| VaultError::State { path: JOURNAL_DIR.to_owned(), why: e.to_string() };
    for name in world.disk.list(JOURNAL_DIR).map_err(failed)? {
        world.disk.remove(&format!("{JOURNAL_DIR}/{name}")).map_err(failed)?;
        world.disk.sync_dir(JOURNAL_DIR).map_err(failed)?;
    }
    Ok(())
}

/// A point in time for people: UTC, to the second (RFC 3339).
fn show(time: Timestamp) -> String {
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
        let (index, mark) = index::tests::holding(&keys, &[]);
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
