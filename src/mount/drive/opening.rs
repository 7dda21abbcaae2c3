//! Opening a drive: unlock, walk, journal, whose the vault is, epoch; or without the store, if that does not answer.
//!
//! Owns the order of these. Does not own what a drive is made of ([`super`] joins it), who may write
//! ([`super::ownership`]), nor how a drive without the store gets its epoch later ([`super::offline`]).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::offline::{self, Offline};
use super::ownership::{self, Claims};
use super::{Begun, Drive, DriveOptions, JOURNAL_DIR, Parts, World, settings, start_writer};
use crate::base::disk::RealDisk;
use crate::base::sizes::CLASS_MIN;
use crate::base::{Clock, Epoch, Position, Random, Timestamp};
use crate::crypto::kdf;
use crate::crypto::secret::Passphrase;
use crate::format::change::Note;
use crate::format::commit::{ChainLink, Hash};
use crate::format::header::change::Draft;
use crate::format::header::header_name;
use crate::format::keys::Keys;
use crate::history::{self, History};
use crate::index::{self, SledTables, Tables};
use crate::journal::Journal;
use crate::mount::follower;
use crate::mount::indexer::{self, Indexer, Looked, Ready};
use crate::pipeline::Cpu;
use crate::store::{Store, StoreError};
use crate::vault::VaultError;
use crate::vault::aside::SetAside;
use crate::vault::checkpoint::keeper::Keeper;
use crate::vault::epoch::{self, Reign};
use crate::vault::pin::{Pin, PinFile};
use crate::vault::round::Chain;
use crate::vault::unlock::{self, Unlocked};
use crate::vault::walk::{self, Walked};

/// How often a store is asked, and how long in all, before a drive that can do without is mounted without it.
const KNOCKS: u32 = 3;
const KNOCKING: Duration = Duration::from_secs(15);
const BETWEEN: Duration = Duration::from_millis(500);

impl Drive {
    /// Unlocks and opens the vault, replays the journal, opens an epoch (unless read-only), starts the background
    /// work on the current tokio runtime and the journal's thread. Where the store does not answer, a drive whose
    /// journal and index are sound is opened without it (E4).
    pub async fn open(store: Store, passphrase: Passphrase, options: DriveOptions) -> Result<Drive, VaultError> {
        let disk = Arc::new(RealDisk::new(options.state.clone()));
        let pins = PinFile::open(disk.clone())?;
        let pin = pins.get().filter(|_| !options.read_only);
        if pin.is_some() {
            store.must_exist();
            if let Err(why) = knock(&store, pin.as_ref()).await {
                return Drive::open_without_store(store, passphrase, pins, options, why).await;
            }
        }
        let opened = Drive::open_with_store(store.clone(), &passphrase, pins, options.clone()).await;
        match opened {
            Err(VaultError::Store(why @ StoreError::Unavailable { .. })) if pin.is_some() => {
                let pins = PinFile::open(disk)?;
                Drive::open_without_store(store, passphrase, pins, options, why).await
            }
            opened => opened,
        }
    }

    async fn open_with_store(
        store: Store,
        passphrase: &Passphrase,
        pins: PinFile,
        options: DriveOptions,
    ) -> Result<Drive, VaultError> {
        let unlocked = unlock::unlock_here(&store, passphrase, &pins, None).await?;
        if !options.read_only {
            store.probe_again().await?;
        }
        let world = real_world(store.clone(), &options)?;
        let named = match Drive::open_in(world, unlocked, pins, options.clone()).await {
            Err(VaultError::OtherHeader { named, .. }) => named,
            opened => return opened,
        };
        let pins = PinFile::open(Arc::new(RealDisk::new(options.state.clone())))?;
        let unlocked = unlock::unlock_here(&store, passphrase, &pins, Some(named)).await?;
        Drive::open_in(real_world(store, &options)?, unlocked, pins, options).await
    }

    async fn open_without_store(
        store: Store,
        passphrase: Passphrase,
        pins: PinFile,
        options: DriveOptions,
        why: StoreError,
    ) -> Result<Drive, VaultError> {
        let not = |why: &StoreError, reason: String| VaultError::Unreachable { store: why.clone(), why: reason };
        let Some(pin) = pins.get() else { return Err(not(&why, "this machine does not know it".to_owned())) };
        let header = pins.header().map_err(|reason| not(&why, reason))?;
        let unlocked = unlock::unlock_kept(store.url(), header, &passphrase, &pin).await?;
        drop(passphrase);
        let world = real_world(store, &options)?;
        Drive::open_offline_in(world, unlocked, pins, options, why).await
    }

    /// As [`Drive::open`], in a world that the caller brings, with a vault that is unlocked and a store that answers.
    pub async fn open_in(
        world: World,
        unlocked: Unlocked,
        pins: PinFile,
        options: DriveOptions,
    ) -> Result<Drive, VaultError> {
        Drive::open_changing(world, unlocked, pins, options, None).await
    }

    /// As [`Drive::open_in`]; with a draft, the epoch record names a new header, which counts from then on.
    pub(super) async fn open_changing(
        world: World,
        unlocked: Unlocked,
        pins: PinFile,
        options: DriveOptions,
        draft: Option<&Draft>,
    ) -> Result<Drive, VaultError> {
        if options.read_only {
            return Drive::open_reader_in(world, unlocked, pins, options).await;
        }
        let keys = Arc::new(unlocked.keys);
        let known = pins.get();
        let recovered = Journal::recover(world.disk.clone(), JOURNAL_DIR, keys.clone(), Position(0))?;
        let ground = world.ground(&keys, index::WRITER_DIR);
        let looked = indexer::look(&ground, &world.store, &keys, known.as_ref(), Some(&recovered)).await;
        let (looked, accepted) = match looked {
            Err(VaultError::RolledBack(why)) if options.accept_rollback => {
                (indexer::look(&ground, &world.store, &keys, None, Some(&recovered)).await?, Some(why))
            }
            looked => (looked?, None),
        };
        let pin = seen(&keys, unlocked.header, &looked.walked, known)?;
        let committed = looked.walked.commit.time.secs;
        let rolled_back = accepted.is_some();
        let object = unlocked.object;
        let mut opening = Opening { world, keys, pins, options, pin, object, rolled_back, notices: Vec::new() };
        if let (Some(why), Some(known)) = (accepted, known) {
            let (from, to) = (known.link.sequence, pin.link.sequence);
            opening.notice(format!("accepted: the vault goes from sequence {from} back to {to} ({why})"));
        }
        let (drive, object) = opening.writer(known, looked, recovered, draft).await?;
        if let Some(writer) = &drive.writer
            && !object.is_empty()
            && let Err(error) = writer.pins.keep_header(&object, committed)
        {
            log::warn!("{error}: this drive cannot be mounted without its store until that is written");
        }
        Ok(drive)
    }

    async fn open_reader_in(
        world: World,
        unlocked: Unlocked,
        pins: PinFile,
        options: DriveOptions,
    ) -> Result<Drive, VaultError> {
        let keys = Arc::new(unlocked.keys);
        let known = pins.get();
        let ground = || world.ground(&keys, index::READER_DIR);
        let ready = follower::prepare(ground, &world.store, &keys, known.as_ref()).await?;
        let pin = seen(&keys, unlocked.header, &ready.walked, known)?;
        pins.see(pin)?;
        Ok(Drive::reader(world, keys, ready, pin, pins, &options))
    }

    /// As [`Drive::open_in`], while the store does not answer, which is `why` (E4).
    pub async fn open_offline_in(
        world: World,
        unlocked: Unlocked,
        pins: PinFile,
        options: DriveOptions,
        why: StoreError,
    ) -> Result<Drive, VaultError> {
        let keys = Arc::new(unlocked.keys);
        let not = |reason: String| VaultError::Unreachable { store: why.clone(), why: reason };
        let pin = pins.get().ok_or_else(|| not("this machine does not know it".to_owned()))?;
        if options.accept_rollback {
            return Err(not("--accept-rollback is about what the store has".to_owned()));
        }
        if pins.standing().read_ahead {
            return Err(not("a read-only mount of this machine has seen a newer state than its index has".to_owned()));
        }
        let recovered = Journal::recover(world.disk.clone(), JOURNAL_DIR, keys.clone(), Position(0))?;
        let ground = world.ground(&keys, index::WRITER_DIR);
        let (index, mark, over, cut) = indexer::without_store(ground, &recovered).map_err(not)?;
        if let Some(why) = ownership::hole(&recovered, cut) {
            return Err(VaultError::State { path: JOURNAL_DIR.to_owned(), why: why.to_owned() });
        }
        log::debug!(
            "without the store: the index goes up to commit {}, over {over:?}; the vault has the journal up to {cut}",
            mark.link.sequence
        );
        let index = Arc::new(index);
        let changes = recovered.changes.clone();
        let (mut blocks, low) = (recovered.blocks.clone(), recovered.low);
        let found = recovered.extents.iter().copied().collect();
        let noted = indexer::noted(&changes);
        let known = indexer::known_epoch(&mark, &changes);
        let epoch = epoch::reserve(&pins, pin, known, history::highest_epoch(&changes))?;
        let journal = Journal::resume(recovered, world.random.clone(), settings(&options), cut)?;
        let history = Arc::new(History::new(index.clone(), &mark, Some(journal.clone()), world.clock.clone(), epoch));
        history.go_on_counting(&changes, mark.highest);
        history.replay(&changes, (cut, low.min(cut)), over)?;
        history.presume_committed();
        let vain = history.vain(&changes)?;
        drop(changes);
        let (link, position) = (mark.link, over.position(cut));
        let indexer = Indexer::new(history.clone(), index, journal.clone(), world.clock.clone(), mark, position);
        start_writer(&journal, world.journal_thread)?;
        if let Err(error) = journal.wait_durable(history.note(Note::Mount)).await {
            close_after(&journal).await;
            return Err(error.into());
        }
        let Some(block) = journal.durable().1 else {
            close_after(&journal).await;
            return Err(did_not_begin());
        };
        // Nothing is changed by users yet, and all that was replayed is durable: what the state knows is what every later
        // cut knows. What is dead, and what the vault has, waits for no round.
        history.settle(&[])?;
        journal.release(&vain);
        blocks.insert(block);
        let committed = Timestamp { secs: pins.standing().committed, nanos: 0 };
        let header = unlocked.header;
        let pins = Arc::new(pins);
        let parts = Parts::new(&world, &keys, &history, &journal, found, &pins, cut, options.rounds.clone());
        let offline = Offline {
            base: link,
            noted,
            blocks,
            block,
            reign: offline::Claim {
                epoch,
                header,
                host: world.host.clone(),
                takeover: options.takeover,
                checkpoint: options.checkpoint,
            },
            gc: options.gc,
            told: offline::Told::new(why),
        };
        let notice =
            "mounted without the store, which does not answer: what is written waits in the journal".to_owned();
        log::warn!("{notice}");
        let begun = Begun::Offline(offline, committed);
        Ok(Drive::join(world, keys, history, indexer, parts, begun, vec![notice], &options))
    }
}

/// Returns when the store has answered, whatever it said.
async fn knock(store: &Store, pin: Option<&Pin>) -> Result<(), StoreError> {
    let name = header_name(pin.map_or(1, |pin| pin.header));
    let knocking = async {
        let mut tries = 0;
        loop {
            tries += 1;
            match store.get(&name).await {
                Err(why @ StoreError::Unavailable { .. }) if tries >= KNOCKS => return Err(why),
                Err(why @ StoreError::Unavailable { .. }) => {
                    log::debug!("try {tries} of {KNOCKS}: {why}");
                    tokio::time::sleep(BETWEEN * tries).await;
                }
                // What it means is for those who ask for something.
                _ => return Ok(()),
            }
        }
    };
    match tokio::time::timeout(KNOCKING, knocking).await {
        Ok(answered) => answered,
        Err(_) => {
            let why = format!("no answer within {} s", KNOCKING.as_secs());
            Err(StoreError::Unavailable { name: store.url().to_owned(), why })
        }
    }
}

/// The vault's newest state as this machine remembers it. The header that it names must be the one that opened.
fn seen(keys: &Keys, header: (u64, Hash), walked: &Walked, known: Option<Pin>) -> Result<Pin, VaultError> {
    if walked.header != header {
        return Err(VaultError::OtherHeader { opened: header.0, named: walked.header });
    }
    Ok(Pin {
        vault: keys.vault,
        link: walked.newest.link,
        header: walked.header.0,
        epoch: walked.newest.epoch.max(known.map_or(Epoch(0), |pin| pin.epoch)),
    })
}

pub(super) fn real_world(store: Store, options: &DriveOptions) -> Result<World, VaultError> {
    let cpu = Cpu::threads(std::thread::available_parallelism().map_or(2, usize::from))
        .map_err(|e| VaultError::State { path: "threads".to_owned(), why: e.to_string() })?;
    let state = options.state.clone();
    Ok(World {
        store,
        disk: Arc::new(RealDisk::new(options.state.clone())),
        tables: Arc::new(move |dir| Arc::new(SledTables::new(state.join(dir))) as Arc<dyn Tables>),
        random: Random::Kernel,
        clock: Clock::System,
        cpu,
        journal_thread: true,
        host: epoch::host_name(),
    })
}

/// A writing mount on its way.
struct Opening {
    world: World,
    keys: Arc<Keys>,
    pins: PinFile,
    options: DriveOptions,
    pin: Pin,
    /// The header that counts.
    object: Bytes,
    /// The vault is not what this machine has seen, and that is accepted.
    rolled_back: bool,
    notices: Vec<String>,
}

impl Opening {
    /// Said in the log, and to whoever mounts.
    fn notice(&mut self, text: String) {
        log::warn!("{text}");
        self.notices.push(text);
    }

    async fn writer(
        mut self,
        known: Option<Pin>,
        mut looked: Looked,
        recovered: crate::journal::Recovered,
        draft: Option<&Draft>,
    ) -> Result<(Drive, Bytes), VaultError> {
        let claims = Claims {
            takeover: self.options.takeover,
            rolled_back: self.rolled_back,
            pin: known,
            standing: self.pins.standing(),
        };
        let settled = ownership::settle(&self.world, &self.keys, recovered, &mut looked, &claims)?;
        if let Some(SetAside { dir, about }) = &settled.aside {
            self.notice(format!(
                "{}: {} changes of this machine that it lacks are set aside in {dir} of the state directory; \
                 `dripfs rescue` brings their files back",
                about.why, about.changes
            ));
        }
        let ownership::Settled { recovered, above, .. } = settled;
        let judged = looked.walked.newest.link;
        let ground = self.world.ground(&self.keys, index::WRITER_DIR);
        let believed = known.as_ref().filter(|_| !claims.rolled_back);
        let commit = looked.walked.commit.clone();
        let store = &self.world.store;
        let in_use = || VaultError::in_use_now(store.url(), "writes to it");
        let ready = match indexer::prepare(ground, store, &self.keys, believed, looked).await {
            // Another machine may make a checkpoint meanwhile, and remove what was to be read here (C6).
            Err(error @ VaultError::Tampered(_)) if walk::has_moved(store, judged.sequence, &commit).await? => {
                log::info!("the vault has gone on meanwhile: {error}");
                return Err(in_use());
            }
            ready => ready?,
        };
        if ready.walked.newest.link != judged {
            return Err(in_use());
        }
        self.begin(ready, recovered, above, draft).await
    }

    async fn begin(
        self,
        ready: Ready,
        recovered: crate::journal::Recovered,
        above: Position,
        draft: Option<&Draft>,
    ) -> Result<(Drive, Bytes), VaultError> {
        let Opening { world, keys, pins, options, pin, notices, mut object, .. } = self;
        let position = ready.position();
        let Ready { index, mark, over, placed, walked } = ready;
        let Walked { newest, commit, mut header, checkpoint, manifest, .. } = walked;
        // How many bytes the log took is not known without reading all of it: as many as it must have.
        let grown = newest.link.sequence.0.saturating_sub(manifest.sequence.0);
        let keeper = Keeper::new(options.checkpoint, checkpoint, manifest, grown * CLASS_MIN as u64, grown);
        // The pin is durable before what it covers is shown; so is the epoch's number before it is used.
        let epoch = epoch::next(&pins, pin, history::highest_epoch(&recovered.changes).max(mark.epoch))?;
        if let Some(draft) = draft {
            let (number, successor) = unlock::put_successor(&world.store, &world.random, header.0, draft).await?;
            header = (number, kdf::hash(&successor));
            object = successor;
        }
        let reign = Reign { epoch, header, checkpoint, host: world.host.clone() };
        let changes = recovered.changes.clone();
        let found = recovered.extents.iter().copied().collect();
        let low = recovered.low;
        let journal = Journal::resume(recovered, world.random.clone(), settings(&options), commit.cut.max(above))?;
        let history = Arc::new(History::new(index.clone(), &mark, Some(journal.clone()), world.clock.clone(), epoch));
        history.replay(&changes, (commit.cut, low.min(commit.cut)), over)?;
        history.place(&placed, (commit.link, newest.epoch))?;
        let vain = history.vain(&changes)?;
        drop(changes);
        let indexer = Indexer::new(history.clone(), index, journal.clone(), world.clock.clone(), mark, position);
        start_writer(&journal, world.journal_thread)?;
        let begun = begin_reign(&world, &keys, &history, &journal, &pins, pin, &reign, &newest, &commit).await;
        let link = match begun {
            Ok(link) => link,
            Err(error) => {
                // The caller may try again: two journals must not lie over one directory.
                close_after(&journal).await;
                return Err(error);
            }
        };
        journal.release(&vain);
        let chain =
            Chain { newest: link, cut: commit.cut, idle: false, time: commit.time, standing: commit.standing() };
        let pins = Arc::new(pins);
        let parts = Parts::new(&world, &keys, &history, &journal, found, &pins, commit.cut, options.rounds.clone());
        let begun = Begun::Online { reign, keeper: Box::new(keeper), chain };
        Ok((Drive::join(world, keys, history, indexer, parts, begun, notices, &options), object))
    }
}

async fn close_after(journal: &Journal) {
    if let Err(error) = journal.close().await {
        log::warn!("{error}");
    }
}

fn did_not_begin() -> VaultError {
    VaultError::State { path: JOURNAL_DIR.to_owned(), why: "the journal did not begin".into() }
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
    let Some(block) = journal.durable().1 else { return Err(did_not_begin()) };
    let link = epoch::open(&world.store, keys, &world.random, &world.clock, reign, newest, block).await?;
    epoch::check(&world.store, commit).await?;
    pins.set(Pin { link, header: reign.header.0, epoch: reign.epoch, ..pin })?;
    // What the vault has all the same, as the index knows, is not sent again.
    history.settle(&[]).map_err(VaultError::from)?;
    let low = history.low(commit.cut);
    journal.wait_durable(history.note(Note::took(commit.link, commit.cut, low))).await?;
    journal.committed(low);
    Ok(link)
}
