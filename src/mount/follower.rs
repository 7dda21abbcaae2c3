//! A read-only mount follows the log (E5): it looks for the next log object every few seconds, by GET, never by LIST,
//! and at once when a read misses an object (D3).
//!
//! Owns the pace, the pin of this mount, and the way of a commit from the store to what is shown: read, proven
//! (`vault::follow`), pinned, visible (`history::follow`), in the index. Does not own what a place in the log is worth,
//! nor what open files see. Writes nothing into the vault.
//!
//! Invariants
//! - What is shown was pinned before, durably, and was proven to be the newest when it was pinned (Freshness, C6).
//! - A state that is older than the pin, or of another history, is never shown: reads go on from what there is, status
//!   says why, and the next looks may find better.
//! - Commits become visible whole. Several that are found at a time may become visible as one.
//! - What a look holds in memory is bounded: small commits are gathered up to a number of records, larger ones go into
//!   the index part by part, beside what is shown.
//! - The index is fed before more is read: a disk that takes nothing ends the following until it does.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::indexer::{self, Ready};
use crate::base::{Clock, Position, Timestamp, watch};
use crate::cache::Lookout;
use crate::crypto::kdf;
use crate::format::commit::{Commit, CommitPart, log_name, open_part, segment_name};
use crate::format::key::Key;
use crate::format::keys::Keys;
use crate::format::record::Record;
use crate::history::History;
use crate::history::overlay::Unindexed;
use crate::index::{Beside, Folded, Ground, Index, IndexError, Mark};
use crate::store::Store;
use crate::vault::VaultError;
use crate::vault::follow::{Looks, Place};
use crate::vault::pin::{Pin, PinFile};
use crate::vault::walk::{self, Walked};

/// How often a follower looks, unless it is told otherwise.
pub const EVERY: Duration = Duration::from_secs(5);
/// While looks fail they come less and less often, but no less than this (or the usual pace, if that is slower).
const SLOWEST: Duration = Duration::from_secs(60);
/// How long a read that missed an object waits for a look.
const ASKED: Duration = Duration::from_secs(25);
/// Records gathered before they are shown, about.
const GATHERED: usize = 32 * 1024;
/// A log that changes while it is read from a checkpoint on is read so often, with pauses, before that is an error.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);
/// How often the index is made safe, at most: a crash costs reading again what it lacks.
const SYNC: Duration = Duration::from_secs(30);

/// Why a look did not reach the vault's newest state.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Trouble {
    /// The store does not answer.
    #[error("{0}")]
    Outage(String),
    /// What it shows is not believed: rolled back, forked, changed.
    #[error("{0}; the drive shows the newest state that this machine has seen")]
    Refused(String),
    /// This machine cannot keep it.
    #[error("{0}; the drive shows the state before")]
    Here(String),
}

impl From<VaultError> for Trouble {
    fn from(error: VaultError) -> Trouble {
        match error {
            VaultError::Store(error) => Trouble::Outage(error.to_string()),
            VaultError::Tampered(why) | VaultError::RolledBack(why) => Trouble::Refused(why),
            error => Trouble::Here(error.to_string()),
        }
    }
}

impl From<IndexError> for Trouble {
    fn from(error: IndexError) -> Trouble {
        Trouble::Here(error.to_string())
    }
}

/// What status tells.
#[derive(Clone, Debug)]
pub struct Told {
    pub pin: Pin,
    /// When the newest commit was made, as its writer says.
    pub commit: Timestamp,
    /// When the log was last looked at to its end.
    pub looked: Instant,
    /// `None` if that was the last look.
    pub trouble: Option<Trouble>,
    /// Looks that failed since.
    pub failures: u32,
}

pub struct Follower {
    store: Store,
    keys: Arc<Keys>,
    history: Arc<History>,
    index: Arc<Index>,
    pins: PinFile,
    clock: Clock,
    every: Duration,
    /// Held over a look: there is one at a time.
    state: tokio::sync::Mutex<State>,
    feed: Mutex<Feed>,
    told: Mutex<Told>,
    /// Looks begun; the last one that ended, and whether it came to the log's end.
    begun: AtomicU64,
    ended: watch::Sender<(u64, bool)>,
    wake: Notify,
}

struct State {
    place: Place,
    looks: Looks,
}

/// What the index has.
struct Feed {
    mark: Mark,
    /// What is on its way to it.
    taken: Option<(Folded, Unindexed)>,
    synced: Instant,
    is_synced: bool,
}

/// What a look has read and not shown yet.
struct Gathered {
    place: Place,
    records: Folded,
}

/// What a follower is made of.
pub struct Parts {
    pub store: Store,
    pub keys: Arc<Keys>,
    pub history: Arc<History>,
    pub index: Arc<Index>,
    pub pins: PinFile,
    pub clock: Clock,
    pub every: Duration,
}

/// An index at the vault's newest state, proven to be that (C6), for a mount that will follow.
pub async fn prepare(
    ground: impl Fn() -> Ground,
    store: &Store,
    keys: &Keys,
    pin: Option<&Pin>,
) -> Result<Ready, VaultError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let prepared = async {
            let ground = ground();
            let looked = indexer::look(&ground, store, keys, pin, None).await?;
            indexer::prepare(ground, store, keys, pin, looked).await
        };
        let error = match prepared.await {
            Ok(ready) => {
                let Walked { newest, commit, .. } = &ready.walked;
                if !walk::has_moved(store, newest.link.sequence, commit).await? {
                    return Ok(ready);
                }
                VaultError::Tampered("the log does not end as it must".to_owned())
            }
            // An object may have gone while the log was read.
            Err(error @ (VaultError::Tampered(_) | VaultError::RolledBack(_))) if tries == 1 => error,
            Err(error) => return Err(error),
        };
        if tries >= TRIES {
            return Err(error);
        }
        log::info!("{error}; beginning again");
        tokio::time::sleep(PAUSE * tries).await;
    }
}

impl Follower {
    /// The history shows what `walked` found, which was proven to be the end and is pinned; `mark` is the index's.
    pub fn new(parts: Parts, walked: &Walked, pin: Pin, mark: Mark) -> Arc<Follower> {
        let Parts { store, keys, history, index, pins, clock, every } = parts;
        let now = Instant::now();
        let mut looks = Looks::default();
        looks.ended((now, clock.now()), true);
        let told = Told { pin, commit: walked.commit.time, looked: now, trouble: None, failures: 0 };
        Arc::new(Follower {
            store,
            keys,
            history,
            index,
            pins,
            clock,
            every,
            state: tokio::sync::Mutex::new(State { place: Place::of(walked), looks }),
            feed: Mutex::new(Feed { mark, taken: None, synced: now, is_synced: true }),
            told: Mutex::new(told),
            begun: AtomicU64::new(0),
            ended: watch::Sender::new((0, true)),
            wake: Notify::new(),
        })
    }

    pub fn told(&self) -> Told {
        self.told.lock().clone()
    }

    /// Looks until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut pause = self.every;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            let looked = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                looked = AssertUnwindSafe(self.follow()).catch_unwind() => looked,
            };
            let (panicked, reached) = (looked.is_err(), matches!(looked, Ok(Ok(()))));
            let here = || Trouble::Here("following panicked; this is a bug, please report it".to_owned());
            pause = self.note(looked.unwrap_or_else(|_| Err(here())));
            self.ended.send_replace((if panicked { u64::MAX } else { number }, reached));
            if panicked {
                // What it left half done is not gone on from: the next mount is.
                return;
            }
        }
    }

    /// What the index has is safe when this returns.
    pub async fn finish(self: &Arc<Self>) {
        if let Err(error) = self.blocking(|follower| follower.apply(true)).await {
            log::warn!("{error}");
        }
    }

    /// Remembers how a look went; returns the pause until the next one.
    fn note(&self, looked: Result<(), Trouble>) -> Duration {
        let mut told = self.told.lock();
        let trouble = looked.err();
        match (&trouble, &told.trouble) {
            // The store has a line of its own.
            (Some(Trouble::Outage(_)), _) => {}
            (Some(now), before) if before.as_ref() != Some(now) => log::error!("following the vault: {now}"),
            (None, Some(Trouble::Refused(_) | Trouble::Here(_))) => {
                log::info!("following the vault again, after {} looks that failed", told.failures);
            }
            _ => {}
        }
        told.failures = if trouble.is_some() { told.failures.saturating_add(1) } else { 0 };
        if trouble.is_none() {
            told.looked = Instant::now();
        }
        told.trouble = trouble;
        let doubled = self.every.saturating_mul(1_u32.checked_shl(told.failures).unwrap_or(u32::MAX));
        doubled.min(SLOWEST.max(self.every))
    }

    /// One look at the log, up to its end.
    async fn follow(self: &Arc<Self>) -> Result<(), Trouble> {
        let mut state = self.state.lock().await;
        self.blocking(|follower| follower.apply(false)).await?;
        let began = (Instant::now(), self.clock.now());
        let mut gathered = Gathered { place: state.place.clone(), records: Folded::new() };
        while let Some(object) = self.get(&log_name(gathered.place.next())).await? {
            let (place, commit) = match gathered.place.after(&self.keys, &object) {
                Ok(next) => next,
                Err(why) => return self.begin_again(&mut state, &why).await,
            };
            drop(object);
            let commit = commit.unwrap_or_default();
            if commit.parts.len() > 1 {
                if !self.show(&mut state, &mut gathered).await? || !self.show_large(&mut state, place, commit).await? {
                    return self.begin_again(&mut state, "a commit was removed while it was read").await;
                }
                gathered.place = state.place.clone();
                continue;
            }
            gathered.records.extend(commit.records);
            for part in &commit.parts {
                match self.part(part).await? {
                    Some(records) => gathered.records.extend(records),
                    None => return self.begin_again(&mut state, "a part of a commit is missing").await,
                }
            }
            gathered.place = place;
            if gathered.records.len() >= GATHERED && !self.show(&mut state, &mut gathered).await? {
                return self.begin_again(&mut state, "a commit was removed while it was read").await;
            }
        }
        let moved = gathered.place.link != state.place.link;
        let proves = moved || state.looks.must_prove(began);
        let stands = match (moved, proves) {
            (true, _) => self.show(&mut state, &mut gathered).await?,
            (false, true) => self.stands(&state.place).await?,
            (false, false) => true,
        };
        if !stands {
            return self.begin_again(&mut state, "it was removed").await;
        }
        let pinned = self.told.lock().pin.link.sequence;
        if state.place.link.sequence < pinned {
            let end = state.place.link.sequence;
            return Err(Trouble::Refused(format!(
                "the vault at {} was rolled back: it ends at {end}, this machine has seen {pinned}",
                self.store.url()
            )));
        }
        state.looks.ended(began, proves);
        Ok(())
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, Trouble> {
        Ok(self.store.get(name).await.map_err(VaultError::from)?)
    }

    /// Do the newest commit and its checkpoint stand? (C6)
    async fn stands(&self, place: &Place) -> Result<bool, Trouble> {
        Ok(place.commit.stands(&self.store).await?)
    }

    /// The records of a part of a commit; `None` if it is not there, or is another.
    async fn part(&self, part: &CommitPart) -> Result<Option<Vec<(Key, Option<Arc<Record>>)>>, Trouble> {
        let name = segment_name(part.id);
        let Some(object) = self.get(&name).await?.filter(|object| kdf::hash(object) == part.hash) else {
            return Ok(None);
        };
        let records = open_part(&self.keys, part.id, &object);
        Ok(Some(records.map_err(|error| VaultError::Tampered(format!("{name}: {error}")))?))
    }

    /// Remembers, durably, that the vault was at `place`. What was remembered before stays if it is newer: then this is
    /// on the way to it, and [`Follower::follow`] sees that it is reached.
    fn pin(&self, place: &Place) -> Result<(), Trouble> {
        let before = self.told.lock().pin;
        if before.link.sequence >= place.link.sequence {
            return match before.link.sequence == place.link.sequence && before.link.hash != place.link.hash {
                true => Err(Trouble::Refused(format!(
                    "{} is not the one that this machine has seen",
                    log_name(place.link.sequence)
                ))),
                false => Ok(()),
            };
        }
        let pin = Pin { link: place.link, header: place.header.0, epoch: before.epoch.max(place.epoch), ..before };
        self.pins.see(pin)?;
        self.told.lock().pin = pin;
        Ok(())
    }

    /// The state at `place` is what is shown.
    fn shows(&self, state: &mut State, place: Place) {
        self.told.lock().commit = place.commit.time;
        state.place = place;
    }

    /// Shows what was gathered, if that is what the vault holds; else it is thrown away, and the answer is false.
    async fn show(self: &Arc<Self>, state: &mut State, gathered: &mut Gathered) -> Result<bool, Trouble> {
        if gathered.place.link == state.place.link {
            return Ok(true);
        }
        let records = std::mem::take(&mut gathered.records);
        if !self.stands(&gathered.place).await? {
            return Ok(false);
        }
        self.pin(&gathered.place)?;
        // An epoch record alone shows nothing new.
        if gathered.place.commit.link != state.place.commit.link {
            self.history.follow(records, gathered.place.commit.link)?;
        }
        self.shows(state, gathered.place.clone());
        self.blocking(|follower| follower.apply(false)).await?;
        Ok(true)
    }

    /// Shows one large commit: its records go to the disk part by part, beside those that are shown.
    async fn show_large(
        self: &Arc<Self>,
        state: &mut State,
        place: Place,
        mut commit: Commit,
    ) -> Result<bool, Trouble> {
        let before = self.feed.lock().mark.clone();
        let mut mark = Mark { link: place.commit.link, block: None, clean: true, ..before.clone() };
        let mut beside = self.index.beside(true)?;
        let mut put = |records: Vec<(Key, Option<Arc<Record>>)>| -> Result<(), IndexError> {
            for (key, record) in records {
                if let Some(old) = self.history.view().get(&key)? {
                    mark.count(key, &old, false);
                }
                if let Some(record) = &record {
                    mark.count(key, record, true);
                }
                beside.push(&key, record.as_deref())?;
            }
            Ok(())
        };
        put(std::mem::take(&mut commit.records))?;
        for part in &commit.parts {
            match self.part(part).await? {
                Some(records) => put(records)?,
                None => return Ok(false),
            }
        }
        if !self.stands(&place).await? {
            return Ok(false);
        }
        self.pin(&place)?;
        self.put_in_place(beside, &before, mark)?;
        self.shows(state, place);
        Ok(true)
    }

    /// What was made beside becomes what is shown.
    fn put_in_place(&self, beside: Beside, before: &Mark, mark: Mark) -> Result<(), Trouble> {
        let prepared = self.index.prepare(beside, before, &mark)?;
        let mut replaced = None;
        self.history.replace(&mark, || replaced = Some(self.index.replace(prepared)));
        drop(replaced);
        self.index.tidy();
        self.feed.lock().mark = mark;
        Ok(())
    }

    /// The log under the place was removed, or what follows it is none of its own: the newest checkpoint says where the
    /// vault is (C6). Open files keep what they have.
    async fn begin_again(self: &Arc<Self>, state: &mut State, why: &str) -> Result<(), Trouble> {
        log::info!(
            "the log does not go on from number {} ({why}): beginning again from the newest checkpoint",
            state.place.link.sequence
        );
        let mut refused = None;
        for k in 0..TRIES {
            if k > 0 {
                tokio::time::sleep(PAUSE * k).await;
            }
            let began = (Instant::now(), self.clock.now());
            match self.begin(state).await {
                Ok(true) => {
                    state.looks.ended(began, true);
                    return Ok(());
                }
                Ok(false) => refused = Some(Trouble::Refused("the log does not end as it must".to_owned())),
                // An object may have gone while it was read.
                Err(error @ Trouble::Refused(_)) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refused.expect("it was tried"))
    }

    async fn begin(self: &Arc<Self>, state: &mut State) -> Result<bool, Trouble> {
        let pin = self.told.lock().pin;
        let mut walked = walk::walk(&self.store, &self.keys, Some(&pin), None).await?;
        let mut mark = indexer::empty(&walked);
        let mut beside = self.index.beside(false)?;
        indexer::each_record(&self.store, &self.keys, &mut walked, |key, record| {
            mark.count(*key, record, true);
            beside.push(key, Some(record))
        })
        .await?;
        let place = Place::of(&walked);
        if walk::has_moved(&self.store, place.link.sequence, &place.commit).await? {
            return Ok(false);
        }
        self.pin(&place)?;
        let before = self.feed.lock().mark.clone();
        self.put_in_place(beside, &before, mark)?;
        self.shows(state, place);
        Ok(true)
    }

    /// Brings what is shown into the index.
    fn apply(&self, last: bool) -> Result<(), Trouble> {
        let mut feed = self.feed.lock();
        let Feed { mark, taken, synced, is_synced } = &mut *feed;
        if taken.is_none() {
            // All of it: what a commit changes goes into the index with its mark, or not at all.
            let lacks = self.history.take_unindexed(Position(0), usize::MAX);
            *taken = lacks.map(|(mut lacks, _)| (lacks.fold(), lacks));
        }
        if let Some((batch, unindexed)) = taken {
            self.index.apply(batch, &unindexed.mark)?;
            self.history.indexed(&self.index, batch, unindexed.position);
            *mark = unindexed.mark.clone();
            *is_synced = false;
            *taken = None;
        }
        if self.index.is_grown() {
            self.index.compact(mark)?;
        }
        if !*is_synced && (last || synced.elapsed() >= SYNC) {
            self.index.sync(mark)?;
            (*is_synced, *synced) = (true, Instant::now());
        }
        Ok(())
    }

    /// Off the threads that serve others, on a real machine.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Follower) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Trouble> {
        if !self.clock.is_real() {
            return work(self);
        }
        let follower = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&follower)).await;
        done.unwrap_or_else(|_| Err(Trouble::Here("feeding the index panicked".to_owned())))
    }
}

impl Follower {
    /// Looks. True if that came to the log's end; false if it could not, or not in time ([`Follower::told`] may tell why).
    pub async fn look_now(&self) -> bool {
        // One that is under way may have passed the end already.
        let wanted = self.begun.load(Ordering::SeqCst) + 1;
        let mut ended = self.ended.subscribe();
        self.wake.notify_one();
        let looked = tokio::time::timeout(ASKED, ended.wait_for(|(number, _)| *number >= wanted)).await;
        looked.is_ok_and(|ended| ended.is_ok_and(|ended| ended.1))
    }
}

impl Lookout for Follower {
    fn look(&self) -> BoxFuture<'_, ()> {
        // Whether in time or not: what is known then is what there is.
        self.look_now().map(drop).boxed()
    }
}
