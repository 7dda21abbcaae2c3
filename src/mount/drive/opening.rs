//! Opening a drive: unlock, walk, journal, whose the vault is, epoch.
//!
//! Owns the order of these. Does not own what a drive is made of ([`super`] joins it), nor who may write
//! ([`super::ownership`]).

use super::ownership::settle_ownership;
use super::*;

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
        let chain = Chain { newest: link, cut: commit.cut, idle: false, time: commit.time };
        Ok(Drive::join(world, keys, history, indexer, journal, found, pins, reign, keeper, chain, options))
    }
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
    pins.set(Pin { link, epoch: reign.epoch, ..pin })?;
    journal.wait_durable(history.note(Note::Took { link: commit.link, cut: Some(commit.cut) })).await?;
    Ok(link)
}
