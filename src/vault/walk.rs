//! Reading the log to its end: the vault's newest state.
//!
//! The end is found by GET, never by LIST; a listing only says what may be fetched ahead, and shows a gap. Every
//! object must open, continue the one before, and belong to an epoch that is not over; what the pin names must be on
//! the way.
//!
//! A writer elsewhere may be removing what a checkpoint covers (C6), and a removed commit may be put back by a late
//! request. So whatever is missing, or does not fit, means: begin again, from the checkpoint that counts now; and what
//! seems to be the end is one only if the newest commit and its checkpoint still stand *afterwards*. What is found wrong
//! twice, from the same beginning, is wrong, unless the log goes on beyond what a listing shows: that may be old.

use bytes::Bytes;
use futures::{FutureExt, StreamExt};

use super::VaultError;
use super::checkpoint::chain::Judgement;
use super::checkpoint::{self, chain, end};
use super::pin::Pin;
use crate::base::{Epoch, ObjectId, Position, Sequence, Timestamp};
use crate::crypto::kdf;
use crate::format::checkpoint::Manifest;
use crate::format::commit::{BlockRef, Body, ChainLink, Commit, Hash, LogObject, log_name, open_part, segment_name};
use crate::format::hint::{HINT_NAME, Hint};
use crate::format::keys::Keys;
use crate::index::Folded;
use crate::store::{Store, StoreError};

/// Log objects fetched ahead.
const AHEAD: usize = 8;
/// How far beyond what a listing shows a later log object is looked for, before anything is said to be wrong: more than a
/// writer makes until it makes a checkpoint.
const BEYOND: u64 = 1200;
/// How often a walk begins while what stands in the store changes under it.
const TRIES: u32 = 8;

/// What a walk found: the newest state of a vault, or what it is more than where the walk began.
pub struct Walked {
    /// It began where it was asked to; else at the newest checkpoint.
    pub continued: bool,
    /// The checkpoint where it began: its records lie below those of `records`. `None` if it began elsewhere.
    pub base: Option<Manifest>,
    /// The checkpoint that counts.
    pub manifest: Manifest,
    /// What all commits on the way come to: one record, or its deletion, a key.
    pub records: Folded,
    /// The log objects on the way.
    pub passed: Vec<Passed>,
    /// The newest log object.
    pub newest: Newest,
    /// The newest commit.
    pub commit: NewestCommit,
    pub header: (u64, Hash),
    pub checkpoint: (ObjectId, Hash),
}

/// A log object that a walk passed.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    pub link: ChainLink,
    /// The journal block that it names.
    pub block: Option<BlockRef>,
    pub is_commit: bool,
}

impl Walked {
    /// What was passed after this log object; all of it, if that is not on the way.
    pub fn since(&self, link: Option<ChainLink>) -> &[Passed] {
        let at = self.passed.iter().position(|passed| Some(passed.link) == link);
        &self.passed[at.map_or(0, |at| at + 1)..]
    }
}

#[derive(Clone, Debug)]
pub struct Newest {
    pub link: ChainLink,
    pub epoch: Epoch,
    pub block: Option<BlockRef>,
    pub host: String,
    pub time: Timestamp,
    /// It is a commit that says that nobody writes (E2).
    pub idle: bool,
}

#[derive(Clone, Debug)]
pub struct NewestCommit {
    pub link: ChainLink,
    pub cut: Position,
    pub time: Timestamp,
    /// What it names; `None` while the walk has not met it (a manifest tells which commit it covers last, but no more).
    checkpoint: Option<(ObjectId, Hash)>,
}

impl NewestCommit {
    pub fn new(link: ChainLink, cut: Position, time: Timestamp, checkpoint: (ObjectId, Hash)) -> NewestCommit {
        NewestCommit { link, cut, time, checkpoint: Some(checkpoint) }
    }

    /// The link of the commit and the checkpoint that it names: what must stand (C6).
    pub fn standing(&self) -> Option<(ChainLink, (ObjectId, Hash))> {
        Some((self.link, self.checkpoint?))
    }

    /// Does all of that stand? Where it is not known what the commit names, that is no: begin again.
    pub async fn stands<F: checkpoint::Fetch>(&self, fetch: &F) -> Result<bool, F::Error> {
        match self.standing() {
            Some((link, checkpoint)) => end::stands(fetch, link, checkpoint).await,
            None => Ok(false),
        }
    }
}

struct Walk<'a> {
    store: &'a Store,
    keys: &'a Keys,
    pin: Option<&'a Pin>,
    continued: bool,
    /// The last log object that a listing showed.
    listed: Sequence,
    base: Option<((ObjectId, Hash), Manifest)>,
    /// The epoch of the last log object looked at.
    reign: Epoch,
    records: Folded,
    passed: Vec<Passed>,
    newest: Option<LogObject>,
    link: ChainLink,
    commit: Option<NewestCommit>,
}

/// Reads the log from the commit `from` on, if it still stands; else, or without one, from the newest checkpoint on.
pub async fn walk(
    store: &Store,
    keys: &Keys,
    pin: Option<&Pin>,
    from: Option<ChainLink>,
) -> Result<Walked, VaultError> {
    let mut from = from;
    // Where the try before began, and what was wrong.
    let mut before: Option<(Sequence, Sequence, String)> = None;
    let mut least = Sequence(0);
    for number in 1.. {
        let mut walk = Walk::new(store, keys, pin);
        walk.listed = least;
        let why = match walk.run(from.take()).await {
            Ok(true) if walk.began_early() && number < TRIES => {
                log::debug!("the log names a newer checkpoint than the one where reading began: read again from there");
                least = walk.link.sequence;
                continue;
            }
            Ok(true) => return walk.finish().await,
            Ok(false) => tampered("what seemed to be the end of the log is none".to_owned()),
            Err(error @ (VaultError::Tampered(_) | VaultError::RolledBack(_))) => error,
            Err(error) => return Err(error),
        };
        let began = walk.base.as_ref().map_or(Sequence(0), |(_, base)| base.sequence);
        let found = (began, walk.listed, why.to_string());
        if number >= TRIES {
            return Err(why);
        }
        if !walk.continued && before.as_ref() == Some(&found) {
            match newer(store, keys, pin, walk.listed).await? {
                Some(newer) => least = newer,
                None => return Err(why),
            }
        }
        log::debug!("the log is read again from the checkpoint (try {number}): {why}");
        before = (!walk.continued).then_some(found);
    }
    unreachable!("the loop ends by itself")
}

/// Has the vault gone on since `walked`? For those who miss an object and must know whether they are late (D3).
pub async fn has_moved<F: checkpoint::Fetch>(
    fetch: &F,
    newest: Sequence,
    commit: &NewestCommit,
) -> Result<bool, F::Error> {
    match commit.standing() {
        Some((link, checkpoint)) => Ok(!end::is_end(fetch, newest, link, checkpoint).await?),
        None => Ok(true),
    }
}

async fn fetch(store: &Store, sequence: Sequence) -> Result<Option<Bytes>, VaultError> {
    Ok(store.get(&log_name(sequence)).await?)
}

/// A log object after the last one that a listing shows, found by what else tells of one, and by asking.
async fn newer(
    store: &Store,
    keys: &Keys,
    pin: Option<&Pin>,
    listed: Sequence,
) -> Result<Option<Sequence>, VaultError> {
    let hint = store.get(HINT_NAME).await?.and_then(|object| Hint::open(keys, &object).ok()).map(|hint| hint.sequence);
    let told = [hint, pin.map(|pin| pin.link.sequence)].into_iter().flatten().filter(|told| *told > listed);
    let numbers = told.chain((listed.0 + 1..=listed.0 + BEYOND).map(Sequence));
    let asked = numbers.map(|number| async move { (number, fetch(store, number).await) }.boxed());
    let mut asked = futures::stream::iter(asked).buffered(AHEAD);
    let mut newest = None;
    while let Some((number, found)) = asked.next().await {
        if found?.is_some() {
            newest = newest.max(Some(number));
        }
    }
    Ok(newest)
}

impl<'a> Walk<'a> {
    fn new(store: &'a Store, keys: &'a Keys, pin: Option<&'a Pin>) -> Walk<'a> {
        Walk {
            store,
            keys,
            pin,
            continued: false,
            listed: Sequence(0),
            base: None,
            reign: Epoch(0),
            records: Folded::new(),
            passed: Vec::new(),
            newest: None,
            link: ChainLink { sequence: Sequence(0), hash: [0; 32] },
            commit: None,
        }
    }

    /// Was there a checkpoint on the way? What the one where it began consists of may be removed by now, though the log
    /// behind it still stands.
    fn began_early(&self) -> bool {
        let newest = self.newest.as_ref().map(|newest| newest.checkpoint);
        !self.continued && self.base.as_ref().is_some_and(|(began, _)| Some(*began) != newest)
    }

    /// Walks; `false` if that did not lead to the end.
    async fn run(&mut self, from: Option<ChainLink>) -> Result<bool, VaultError> {
        if let Some(from) = from {
            self.begin_at(from).await?;
        }
        let listed = match self.store.can_list() {
            true => self.store.last("log/").await?.and_then(|name| sequence(&name)).unwrap_or(Sequence(0)),
            false => self.hinted().await?,
        };
        let listed = listed.max(self.listed);
        self.listed = listed;
        if !self.continued && listed > Sequence(0) {
            self.begin_at_checkpoint(listed).await?;
        }
        let store = self.store;
        let ahead = (self.link.sequence.0 + 1..=listed.0)
            .map(|n| async move { (Sequence(n), fetch(store, Sequence(n)).await) }.boxed());
        let mut ahead = futures::stream::iter(ahead).buffered(AHEAD);
        while let Some((sequence, object)) = ahead.next().await {
            match object? {
                Some(object) => self.take(sequence, &object).await?,
                None if !self.store.can_list() => return Err(hint_is_old(self.store)),
                None => return Err(tampered(format!("the log has a gap: {} is missing", log_name(sequence)))),
            }
        }
        drop(ahead);
        while let Some(object) = fetch(store, Sequence(self.link.sequence.0 + 1)).await? {
            self.take(Sequence(self.link.sequence.0 + 1), &object).await?;
        }
        self.check_end().await
    }

    /// A log object that stood when the hint was written, where nothing can be listed.
    async fn hinted(&self) -> Result<Sequence, VaultError> {
        let hint = self.store.get(HINT_NAME).await?;
        let hint = hint.and_then(|hint| Hint::open(self.keys, &hint).ok());
        Ok(hint.map_or(Sequence(0), |hint| hint.sequence))
    }

    /// There is nothing after it; is it the end? (C6)
    async fn check_end(&self) -> Result<bool, VaultError> {
        let (Some(_), Some(commit)) = (&self.newest, &self.commit) else {
            if !self.store.can_list() {
                return Err(hint_is_old(self.store));
            }
            return Err(tampered(format!("the log of {} is gone", self.store.url())));
        };
        // Of a commit that a checkpoint covers it is not known; one that names the checkpoint comes after it.
        commit.stands(self.store).await
    }

    async fn begin_at(&mut self, from: ChainLink) -> Result<(), VaultError> {
        let Some(bytes) = fetch(self.store, from.sequence).await? else { return Ok(()) };
        if kdf::hash(&bytes) != from.hash {
            return Ok(());
        }
        let Ok(object) = LogObject::open(self.keys, from.sequence, &bytes) else { return Ok(()) };
        let Body::Commit(Commit { cut, .. }) = object.body else { return Ok(()) };
        self.link = from;
        self.reign = object.epoch;
        self.commit = Some(NewestCommit { link: from, cut, time: object.time, checkpoint: Some(object.checkpoint) });
        self.newest = Some(object);
        self.continued = true;
        self.check_pin()
    }

    /// The log object that a listing shows as the last says where the newest checkpoint is. (If it is not the last one
    /// any more, the walk goes on from an older checkpoint to the same end.)
    async fn begin_at_checkpoint(&mut self, listed: Sequence) -> Result<(), VaultError> {
        let Some(bytes) = fetch(self.store, listed).await? else { return Ok(()) };
        let object = LogObject::open(self.keys, listed, &bytes)
            .map_err(|error| tampered(format!("{}: {error}", log_name(listed))))?;
        let manifest = checkpoint::manifest(self.store, self.keys, object.checkpoint).await?;
        if manifest.sequence == Sequence(0) {
            return Ok(());
        }
        if let Some(pin) = self.pin
            && chain::judge(self.store, self.keys, &manifest, pin.link).await? == Judgement::Forked
        {
            return Err(VaultError::RolledBack(format!(
                "{} was not the one that this machine has seen: the vault was forked",
                log_name(pin.link.sequence)
            )));
        }
        self.link = manifest.link();
        self.reign = manifest.epoch;
        // The commit that names the checkpoint comes after it: this one's time is never shown.
        self.commit =
            manifest.commit.map(|link| NewestCommit { link, cut: manifest.cut, time: object.time, checkpoint: None });
        self.base = Some((object.checkpoint, manifest));
        Ok(())
    }

    fn check_pin(&self) -> Result<(), VaultError> {
        match self.pin {
            Some(pin) if pin.link.sequence == self.link.sequence && pin.link.hash != self.link.hash => {
                Err(VaultError::RolledBack(format!(
                    "{} is not the one that this machine has seen: the vault was forked",
                    log_name(self.link.sequence)
                )))
            }
            _ => Ok(()),
        }
    }

    async fn take(&mut self, sequence: Sequence, bytes: &[u8]) -> Result<(), VaultError> {
        let name = log_name(sequence);
        let mut object =
            LogObject::open(self.keys, sequence, bytes).map_err(|error| tampered(format!("{name}: {error}")))?;
        object.check_next(&self.link.hash, self.reign).map_err(|why| tampered(format!("{name} {why}")))?;
        self.link = ChainLink { sequence, hash: kdf::hash(bytes) };
        self.check_pin()?;
        let is_commit = matches!(object.body, Body::Commit(_));
        self.passed.push(Passed { link: self.link, block: object.block, is_commit });
        self.reign = object.epoch;
        if let Body::Commit(commit) = &mut object.body {
            let cut = commit.cut;
            self.apply(commit).await?;
            self.commit =
                Some(NewestCommit { link: self.link, cut, time: object.time, checkpoint: Some(object.checkpoint) });
        }
        self.newest = Some(object);
        Ok(())
    }

    async fn apply(&mut self, commit: &mut Commit) -> Result<(), VaultError> {
        self.records.extend(std::mem::take(&mut commit.records));
        for part in &commit.parts {
            let name = segment_name(part.id);
            let Some(object) = self.store.get(&name).await? else {
                return Err(tampered(format!("{name}, which a commit names, is missing")));
            };
            if kdf::hash(&object) != part.hash {
                return Err(tampered(format!("{name} is not what the commit names")));
            }
            let records = open_part(self.keys, part.id, &object).map_err(|e| tampered(format!("{name}: {e}")))?;
            self.records.extend(records);
        }
        Ok(())
    }

    async fn finish(self) -> Result<Walked, VaultError> {
        let (Some(newest), Some(commit)) = (self.newest, self.commit) else {
            return Err(tampered(format!("the log of {} is gone", self.store.url())));
        };
        if let Some(pin) = self.pin
            && pin.link.sequence > self.link.sequence
        {
            return Err(VaultError::RolledBack(format!(
                "the vault at {} was rolled back: it ends at {}, this machine has seen {}",
                self.store.url(),
                self.link.sequence,
                pin.link.sequence
            )));
        }
        let began = self.base.as_ref().map(|((id, _), base)| (*id, base.sequence));
        log::debug!("the log was read from {began:?} to {}, which names {}", self.link.sequence, newest.checkpoint.0);
        Ok(Walked {
            continued: self.continued,
            manifest: match &self.base {
                Some((id, base)) if *id == newest.checkpoint => base.clone(),
                _ => checkpoint::manifest(self.store, self.keys, newest.checkpoint).await?,
            },
            base: self.base.map(|(_, base)| base),
            records: self.records,
            passed: self.passed,
            commit,
            header: newest.header,
            checkpoint: newest.checkpoint,
            newest: Newest {
                link: self.link,
                epoch: newest.epoch,
                block: newest.block,
                host: newest.host,
                time: newest.time,
                idle: matches!(newest.body, Body::Commit(Commit { idle: true, .. })),
            },
        })
    }
}

/// The log's beginning goes when a checkpoint covers it; where there is no listing only the hint says where to begin.
fn hint_is_old(store: &Store) -> VaultError {
    StoreError::Unavailable {
        name: store.url().to_owned(),
        why:
            "over http the newest state is found by the object `latest`, which a writer leaves when it unmounts; here \
              it is missing or older than the log: copy the vault once more after an unmount, or mount from the store"
                .to_owned(),
    }
    .into()
}

fn tampered(what: String) -> VaultError {
    VaultError::Tampered(what)
}

fn sequence(name: &str) -> Option<Sequence> {
    name.strip_prefix("log/")?.parse().ok().map(Sequence)
}
