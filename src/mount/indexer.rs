//! The index of a mount: whether the one on the disk may be used, made anew if not, and fed while the drive runs.
//!
//! Owns the rules of use (I1) and the applier. Does not own what lies in an index, nor the order of changes.
//!
//! Invariants
//! - An index is used only as far as its mark's commit stands on the pinned chain, and only if it holds exactly the
//!   vault's state there, or if all log objects after it are this journal's own and the journal holds the mark's block.
//! - The journal keeps what the index on the disk lacks (J5).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::base::{Clock, Epoch, ExtentId, Ino, Position, plants};
use crate::format::change::{Change, Note};
use crate::format::commit::ChainLink;
use crate::format::key::{Key, Part};
use crate::format::keys::Keys;
use crate::format::record::{Extent, Record};
use crate::history::overlay::Unindexed;
use crate::history::{self, History, Replay};
use crate::index::{Builder, Folded, Ground, Index, IndexError, Mark};
use crate::journal::{Journal, Recovered};
use crate::store::Store;
use crate::vault::VaultError;
use crate::vault::checkpoint::Records;
use crate::vault::pin::Pin;
use crate::vault::walk::{self, Walked};

/// Records of one batch, about: the table keeps a copy of each page for each of them until the batch is done.
const BATCH: usize = 1024;
/// So many at once are not put into the table one by one, but written out in order; and the most of those, about.
const BULK: usize = 16 * 1024;
const BULK_MOST: usize = 4 * BULK;
/// Between two times that the index is fed, at least.
const SPACING: Duration = Duration::from_millis(200);
/// How often the index is made safe, at most.
const SYNC: Duration = Duration::from_secs(5);
/// How long the applier waits for a disk that refuses, at first and at most.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// An index at the vault's newest state, or ahead of it with the journal.
pub struct Ready {
    pub index: Arc<Index>,
    pub mark: Mark,
    /// Over what the journal is replayed.
    pub over: Replay,
    /// Extents as commits have them, which the index does not know; known once the journal is replayed.
    pub placed: Vec<(ExtentId, Extent)>,
    pub walked: Walked,
}

impl Ready {
    /// Up to where a journal is not needed for this index.
    pub fn position(&self) -> Position {
        self.over.position(self.walked.commit.cut)
    }
}

/// What the index on the disk and the log say; nothing is changed yet.
pub struct Looked {
    found: Option<(Index, Mark, Use)>,
    pub walked: Walked,
}

impl Looked {
    /// The index is left alone, and closed: another is made.
    pub fn let_go(&mut self) {
        self.found = None;
    }
}

/// Reads the log from where the index on the disk stands. `recovered` is `None` on a read-only mount.
pub async fn look(
    ground: &Ground,
    store: &Store,
    keys: &Keys,
    pin: Option<&Pin>,
    recovered: Option<&Recovered>,
) -> Result<Looked, VaultError> {
    let found = match Index::open(ground.clone()) {
        Ok(found) => found,
        Err(error) => {
            log::warn!("the index is made anew: {error}");
            None
        }
    };
    let Some((index, mark)) = found else {
        return Ok(Looked { found: None, walked: walk::walk(store, keys, pin, None).await? });
    };
    let walked = walk::walk(store, keys, pin, Some(mark.link)).await?;
    log::debug!(
        "the index goes up to commit {} ({}), journal position {:?}; the vault to commit {}",
        mark.link.sequence,
        if mark.clean { "clean" } else { "not clean" },
        mark.block.map(|block| block.position),
        walked.commit.link.sequence
    );
    match usable(&mark, &walked, recovered) {
        Ok(usable) => Ok(Looked { found: Some((index, mark, usable)), walked }),
        Err(why) => {
            log::info!("the index is made anew: {why}");
            Ok(Looked { found: None, walked })
        }
    }
}

/// Makes the index one of the vault's newest state; makes it anew where it cannot be used.
pub async fn prepare(
    ground: Ground,
    store: &Store,
    keys: &Keys,
    pin: Option<&Pin>,
    looked: Looked,
) -> Result<Ready, VaultError> {
    let Looked { found, walked } = looked;
    match found {
        Some((index, mark, Use::Forward)) => forward(index, mark, walked),
        Some((index, mark, Use::Ahead(position))) => {
            let placed = places(&walked.records);
            Ok(Ready { index: Arc::new(index), mark, over: Replay::Index(position), placed, walked })
        }
        None if !walked.continued => make(ground, store, keys, walked, |_| true).await,
        None => make(ground, store, keys, walk::walk(store, keys, pin, None).await?, |_| true).await,
    }
}

/// An index to work on while the store does not answer (E4): over what its journal is replayed, and up to where the vault
/// is known to have taken that. The error says why there is none.
pub fn without_store(ground: Ground, recovered: &Recovered) -> Result<(Index, Mark, Replay, Position), String> {
    let found = Index::open(ground).map_err(|error| error.to_string())?;
    let (index, mark) = found.ok_or("there is no index of it on this machine")?;
    let (over, cut) = base_of(&mark, recovered)?;
    Ok((index, mark, over, cut))
}

/// Over what a journal is replayed if nothing is known but the index and the journal itself; and up to where the vault
/// has taken that, as far as the journal knows. What it does not know is taken again, and harms nothing.
pub fn base_of(mark: &Mark, recovered: &Recovered) -> Result<(Replay, Position), &'static str> {
    let Some(cut) = took(&recovered.changes).map(|(_, cut)| cut).max() else {
        return Err("its journal does not say what the vault has (it was never mounted to the end with the store)");
    };
    if let Some(block) = mark.block
        && recovered.blocks.contains(&block)
        && recovered.begins <= block.position
    {
        return Ok((Replay::Index(block.position), cut));
    }
    let of_index = took(&recovered.changes).find(|(link, _)| *link == mark.link).map(|(_, cut)| cut);
    match of_index {
        Some(at) if mark.clean && recovered.begins <= at => Ok((Replay::Vault, at)),
        _ => Err("index and journal on this machine do not go on from one another"),
    }
}

/// The newest commit of which the journal says that the vault has it: the log up to there is what this journal stands on,
/// or was made of it.
pub fn noted(changes: &[(Position, Arc<Change>)]) -> Option<ChainLink> {
    took(changes).map(|(link, _)| link).max_by_key(|link| link.sequence)
}

/// The commits of which the journal says that the vault has them, and their cuts.
fn took(changes: &[(Position, Arc<Change>)]) -> impl Iterator<Item = (ChainLink, Position)> {
    changes.iter().filter_map(|(_, change)| match change.note {
        Some(Note::Took { link, cut: Some(cut), .. }) => Some((link, cut)),
        _ => None,
    })
}

/// The highest epoch that the log is known to have. A commit that the journal has noted and the index has not met is of
/// an epoch that gave numbers there.
pub fn known_epoch(mark: &Mark, changes: &[(Position, Arc<Change>)]) -> Epoch {
    match noted(changes).is_some_and(|noted| noted.sequence > mark.link.sequence) {
        true => mark.epoch.max(history::highest_epoch(changes)),
        false => mark.epoch,
    }
}

pub enum Use {
    /// It holds a state that the vault had: what the commits since then say comes on top.
    Forward,
    /// It holds all changes of the journal up to this position; the commits since then are of the same journal.
    Ahead(Position),
}

/// I1.
fn usable(mark: &Mark, walked: &Walked, recovered: Option<&Recovered>) -> Result<Use, &'static str> {
    if !walked.continued {
        return Err("the log does not hold the commit that it goes up to");
    }
    if mark.clean {
        return Ok(Use::Forward);
    }
    let (Some(recovered), Some(block)) = (recovered, mark.block) else {
        return Err("it is ahead of the vault, and no journal is here");
    };
    if plants::on("I1-by-position") && recovered.begins <= block.position && block.position <= recovered.end {
        return Ok(Use::Ahead(block.position));
    }
    let is_own = |block: &crate::format::commit::BlockRef| recovered.blocks.contains(block);
    if !is_own(&block) || recovered.begins > block.position {
        return Err("the journal does not go on from where it ends");
    }
    // Files that hold blocks of what the journal has noted as the vault's may be gone.
    let noted = noted(&recovered.changes);
    let since = walked.since(noted).iter().map(|passed| passed.block.as_ref());
    let newest = (noted != Some(walked.newest.link)).then_some(walked.newest.block.as_ref());
    match since.chain(newest).all(|block| block.is_some_and(is_own)) {
        true => Ok(Use::Ahead(block.position)),
        false => Err("another machine has written to the vault"),
    }
}

/// Applies commits to an index that holds an older state of the vault.
fn forward(index: Index, mut mark: Mark, mut walked: Walked) -> Result<Ready, VaultError> {
    let batch = std::mem::take(&mut walked.records);
    for (key, record) in &batch {
        if let Some(old) = index.get(key)? {
            mark.count(*key, &old, false);
        }
        if let Some(record) = record {
            mark.count(*key, record, true);
        }
    }
    if mark.link != walked.commit.link || !batch.is_empty() {
        let epoch = mark.epoch.max(walked.newest.epoch);
        mark = Mark { link: walked.commit.link, block: None, clean: true, epoch, ..mark };
        index.apply(&batch, &mark)?;
        index.remember(batch.iter());
        index.sync(&mark)?;
    }
    Ok(Ready { index: Arc::new(index), mark, over: Replay::Vault, placed: Vec::new(), walked })
}

/// Makes an index of the vault's newest state, of the keys that `keep` lets through.
pub async fn make(
    ground: Ground,
    store: &Store,
    keys: &Keys,
    mut walked: Walked,
    keep: impl Fn(&Key) -> bool,
) -> Result<Ready, VaultError> {
    let began = Instant::now();
    let mut mark = empty(&walked);
    let mut builder = Builder::new(ground)?;
    each_record(store, keys, &mut walked, |key, record| {
        if !keep(key) {
            return Ok(());
        }
        mark.count(*key, record, true);
        builder.push(key, record)
    })
    .await?;
    let index = builder.finish(&mark)?;
    log::info!("made the index of {} inodes from the vault in {:?}", mark.inodes, began.elapsed());
    Ok(Ready { index: Arc::new(index), mark, over: Replay::Vault, placed: Vec::new(), walked })
}

/// The mark of an index that will hold what a walk found, before its records are counted.
pub(super) fn empty(walked: &Walked) -> Mark {
    let (link, epoch) = (walked.commit.link, walked.newest.epoch);
    Mark { link, block: None, clean: true, inodes: 0, bytes: 0, highest: Ino(0), epoch }
}

/// All records of the state that a walk found, in key order; takes those that it brought.
pub(super) async fn each_record(
    store: &Store,
    keys: &Keys,
    walked: &mut Walked,
    mut put: impl FnMut(&Key, &Arc<Record>) -> Result<(), IndexError>,
) -> Result<(), VaultError> {
    let records = std::mem::take(&mut walked.records);
    let mut newer = records.iter().peekable();
    if let Some(base) = &walked.base {
        let mut older = Records::new(store, keys, base);
        while let Some((key, record)) = older.next().await? {
            while let Some((before, newer)) = newer.next_if(|(k, _)| **k < key) {
                newer.iter().try_for_each(|newer| put(before, newer))?;
            }
            match newer.next_if(|(k, _)| **k == key) {
                Some((_, newer)) => newer.iter().try_for_each(|newer| put(&key, newer))?,
                None => put(&key, &record)?,
            }
        }
    }
    for (key, record) in newer {
        record.iter().try_for_each(|record| put(key, record))?;
    }
    Ok(())
}

/// Where commits put extents.
pub fn places(records: &Folded) -> Vec<(ExtentId, Extent)> {
    let place = |(key, record): (&Key, &Option<Arc<Record>>)| match (key.part, record.as_deref()) {
        (Part::Extent { number }, Some(Record::Extent(extent))) => {
            Some((ExtentId { owner: key.ino, number }, extent.clone()))
        }
        _ => None,
    };
    records.iter().filter_map(place).collect()
}

/// Where the vault has those extents that the state takes to lie elsewhere; reads all of the vault's records. Takes those
/// that the walk brought.
pub async fn places_anew(
    store: &Store,
    keys: &Keys,
    walked: &mut Walked,
    history: &History,
) -> Result<Vec<(ExtentId, Extent)>, VaultError> {
    let mut placed = Vec::new();
    each_record(store, keys, walked, |key, record| {
        if let (Part::Extent { number }, Record::Extent(extent)) = (key.part, &**record)
            && history.view().get(key)?.is_some_and(|known| lies_elsewhere(&known, extent))
        {
            placed.push((ExtentId { owner: key.ino, number }, extent.clone()));
        }
        Ok(())
    })
    .await?;
    Ok(placed)
}

fn lies_elsewhere(known: &Record, extent: &Extent) -> bool {
    matches!(known, Record::Extent(known) if known.place != extent.place)
}

/// Feeds the index with what is durable.
pub struct Indexer {
    history: Arc<History>,
    index: Arc<Index>,
    journal: Arc<Journal>,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    /// What is on its way.
    taken: Option<(Folded, Unindexed)>,
    /// What was applied last.
    mark: Mark,
    position: Position,
    synced: Instant,
    is_synced: bool,
    /// The journal does not wait for it: it counts again once it is safe.
    disowned: bool,
    /// It cannot be fed any more: the next mount makes it anew.
    broken: bool,
}

impl Indexer {
    /// `index` holds what `mark` says, and all of the journal up to `position`.
    pub fn new(
        history: Arc<History>,
        index: Arc<Index>,
        journal: Arc<Journal>,
        clock: Clock,
        mark: Mark,
        position: Position,
    ) -> Arc<Indexer> {
        journal.indexed(position);
        let state = State {
            taken: None,
            mark,
            position,
            synced: Instant::now(),
            is_synced: true,
            disowned: false,
            broken: false,
        };
        Arc::new(Indexer { history, index, journal, clock, state: Mutex::new(state) })
    }

    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut durable = self.journal.durable().0;
        let mut failures = 0u32;
        loop {
            match self.step(false).await {
                Ok(()) => failures = 0,
                Err(IndexError::Io(why)) => {
                    failures += 1;
                    if failures == 1 {
                        log::error!("the index cannot be written: {why}; free space or check the disk");
                    }
                    if !self.is_disowned() {
                        self.disown();
                    }
                }
                Err(IndexError::Damaged(_)) => {
                    failures += 1;
                    if self.is_disowned() || self.disown() {
                        return;
                    }
                }
            }
            if failures > 0 {
                let pause = PAUSE_MAX.min(PAUSE * failures);
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => continue,
                }
            }
            // Changes that touch the same records are folded; the durable end may move thousands of times a second.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SPACING) => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.journal.durable_end_after(durable) => durable = self.journal.durable().0,
                () = tokio::time::sleep(SYNC) => {}
            }
        }
    }

    /// Everything durable is in the index, and that is safe, when this returns.
    pub async fn finish(self: &Arc<Self>) {
        let mut tried = self.step(true).await;
        if matches!(tried, Err(IndexError::Io(_))) {
            // Once more: what a failed sync left in doubt is written elsewhere.
            tried = self.step(true).await;
        }
        let Err(error) = tried else { return };
        log::warn!("{error}");
        if !self.is_disowned() && !self.disown() {
            log::error!("the index may be lost in a power cut, and cannot be given up: mount with the store next");
        }
    }

    fn is_disowned(&self) -> bool {
        self.state.lock().disowned
    }

    /// The disk takes nothing for the index, or it is damaged: the journal must not wait for it, or it could not give any
    /// room back. The next mount makes it anew, from the vault. False if not even that can be written.
    fn disown(&self) -> bool {
        if let Err(error) = self.index.disown() {
            log::debug!("the index cannot be given up: {error}; tried again");
            return false;
        }
        self.state.lock().disowned = true;
        self.journal.indexed(Position(u64::MAX));
        true
    }

    async fn step(self: &Arc<Self>, last: bool) -> Result<(), IndexError> {
        if !self.clock.is_real() {
            return self.apply(last);
        }
        let indexer = self.clone();
        tokio::task::spawn_blocking(move || indexer.apply(last))
            .await
            .unwrap_or_else(|_| Err(IndexError::Damaged("applying to it panicked".to_owned())))
    }

    fn apply(&self, last: bool) -> Result<(), IndexError> {
        let mut state = self.state.lock();
        if state.broken {
            return Err(IndexError::Damaged("it could not be fed".to_owned()));
        }
        let result = self.apply_to(&mut state, last);
        if let Err(error @ IndexError::Damaged(_)) = &result {
            log::error!("{error}");
            state.broken = true;
        }
        result
    }

    fn apply_to(&self, state: &mut State, last: bool) -> Result<(), IndexError> {
        let mut more = true;
        while more {
            // What was taken is nowhere else in order: it is tried until the disk takes it. Reads find it in the overlay.
            if state.taken.is_none() {
                let most = if self.history.unindexed() >= BULK { BULK_MOST } else { BATCH };
                let Some((mut taken, rest)) = self.history.take_unindexed(state.position, most) else { break };
                state.taken = Some((taken.fold(), taken));
                more = rest;
            }
            if let Some((batch, taken)) = &state.taken {
                let in_bulk = batch.len() >= BULK / 2;
                match in_bulk {
                    true => self.index.absorb(batch, &taken.mark)?,
                    false => self.index.apply(batch, &taken.mark)?,
                }
                self.history.indexed(&self.index, batch, taken.position);
                state.position = taken.mark.block.map_or(state.position, |block| block.position);
                state.mark = taken.mark.clone();
                state.is_synced = false;
                state.taken = None;
            }
            if self.index.is_grown() {
                self.index.compact(&state.mark)?;
            }
        }
        // A journal that runs full waits for this.
        if !state.is_synced && (last || state.synced.elapsed() >= SYNC || self.journal.pressed()) {
            self.index.sync(&state.mark)?;
            log::trace!("the index is safe up to commit {}, {:?}", state.mark.link.sequence, state.position);
            if state.disowned {
                self.index.claim()?;
                state.disowned = false;
            }
            state.is_synced = true;
            state.synced = Instant::now();
            self.journal.indexed(state.position);
        }
        Ok(())
    }
}
