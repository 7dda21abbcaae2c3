//! Reading the log to its end: the vault's newest state.
//!
//! The end is found by GET, never by LIST; a listing only says what may be fetched ahead, and shows a gap. Every
//! object must open, continue the one before, and belong to an epoch that is not over; what the pin names must be on
//! the way.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};

use super::VaultError;
use super::init::FIRST_SEQUENCE;
use super::pin::Pin;
use crate::base::{Epoch, ExtentId, ObjectId, Position, Sequence, Timestamp};
use crate::crypto::kdf;
use crate::format::commit::{Body, ChainLink, Commit, Hash, LogObject, log_name, open_part, segment_name};
use crate::format::key::Key;
use crate::format::keys::Keys;
use crate::format::record::Record;
use crate::history::overlay::{Effects, Overlay};
use crate::store::Store;

/// Log objects fetched ahead.
const AHEAD: usize = 8;

/// The newest state of a vault.
pub struct Walked {
    pub state: Overlay,
    /// The newest log object.
    pub newest: Newest,
    /// The newest commit.
    pub commit: NewestCommit,
    pub header: (u64, Hash),
    pub checkpoint: (ObjectId, Hash),
    /// Extents that nothing names; kept by the log only.
    pub dead: Vec<ExtentId>,
}

#[derive(Clone, Debug)]
pub struct Newest {
    pub link: ChainLink,
    pub epoch: Epoch,
    pub block: Option<crate::format::commit::BlockRef>,
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
}

struct Walk<'a> {
    store: &'a Store,
    keys: &'a Keys,
    pin: Option<&'a Pin>,
    state: Overlay,
    newest: Option<LogObject>,
    link: ChainLink,
    commit: Option<NewestCommit>,
}

/// Reads the whole log.
pub async fn walk(store: &Store, keys: &Keys, pin: Option<&Pin>) -> Result<Walked, VaultError> {
    let link = ChainLink { sequence: Sequence(0), hash: [0; 32] };
    let mut walk = Walk { store, keys, pin, state: Overlay::default(), newest: None, link, commit: None };
    let listed = store.last("log/").await?.and_then(|name| sequence(&name)).unwrap_or(Sequence(0));
    let ahead =
        (FIRST_SEQUENCE.0..=listed.0).map(|n| async move { (Sequence(n), fetch(store, Sequence(n)).await) }.boxed());
    let mut ahead = futures::stream::iter(ahead).buffered(AHEAD);
    while let Some((sequence, object)) = ahead.next().await {
        match object? {
            Some(object) => walk.take(sequence, &object).await?,
            None => return Err(tampered(format!("the log has a gap: {} is missing", log_name(sequence)))),
        }
    }
    drop(ahead);
    while let Some(object) = fetch(store, Sequence(walk.link.sequence.0 + 1)).await? {
        walk.take(Sequence(walk.link.sequence.0 + 1), &object).await?;
    }
    walk.end()
}

async fn fetch(store: &Store, sequence: Sequence) -> Result<Option<Bytes>, VaultError> {
    Ok(store.get(&log_name(sequence)).await?)
}

impl Walk<'_> {
    async fn take(&mut self, sequence: Sequence, bytes: &[u8]) -> Result<(), VaultError> {
        let name = log_name(sequence);
        let mut object =
            LogObject::open(self.keys, sequence, bytes).map_err(|error| tampered(format!("{name}: {error}")))?;
        if object.previous != self.link.hash {
            return Err(tampered(format!("{name} does not continue the log: two histories were mixed")));
        }
        self.link = ChainLink { sequence, hash: kdf::hash(bytes) };
        if let Some(pin) = self.pin
            && pin.link.sequence == sequence
            && pin.link.hash != self.link.hash
        {
            return Err(tampered(format!("{name} is not the one that this machine has seen: the vault was forked")));
        }
        let reign = self.newest.as_ref().map_or(Epoch(0), |newest| newest.epoch);
        let in_order = match object.body {
            Body::Epoch { .. } => object.epoch > reign,
            Body::Commit(_) => object.epoch == reign,
        };
        if !in_order {
            return Err(tampered(format!("{name} belongs to an epoch that was over")));
        }
        if let Body::Commit(commit) = &mut object.body {
            let cut = commit.cut;
            self.apply(commit).await?;
            self.commit = Some(NewestCommit { link: self.link, cut, time: object.time });
        }
        self.newest = Some(object);
        Ok(())
    }

    async fn apply(&mut self, commit: &mut Commit) -> Result<(), VaultError> {
        let mut effects = Effects::default();
        self.put(std::mem::take(&mut commit.records), &mut effects);
        for part in &commit.parts {
            let name = segment_name(part.id);
            let Some(object) = self.store.get(&name).await? else {
                return Err(tampered(format!("{name}, which a commit names, is missing")));
            };
            if kdf::hash(&object) != part.hash {
                return Err(tampered(format!("{name} is not what the commit names")));
            }
            let records = open_part(self.keys, part.id, &object).map_err(|e| tampered(format!("{name}: {e}")))?;
            self.put(records, &mut effects);
        }
        self.state.settle(&mut effects);
        Ok(())
    }

    fn put(&mut self, records: Vec<(Key, Option<Arc<Record>>)>, effects: &mut Effects) {
        for (key, record) in records {
            self.state.apply(key, record, effects);
        }
    }

    fn end(mut self) -> Result<Walked, VaultError> {
        let (Some(newest), Some(commit)) = (self.newest, self.commit) else {
            return Err(tampered(format!("the log of {} is gone", self.store.url())));
        };
        if let Some(pin) = self.pin
            && pin.link.sequence > self.link.sequence
        {
            return Err(tampered(format!(
                "the vault at {} was rolled back: it ends at {}, this machine has seen {}",
                self.store.url(),
                self.link.sequence,
                pin.link.sequence
            )));
        }
        let dead = self.state.drop_dead_extents();
        Ok(Walked {
            state: self.state,
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
            dead,
        })
    }
}

fn tampered(what: String) -> VaultError {
    VaultError::Tampered(what)
}

fn sequence(name: &str) -> Option<Sequence> {
    name.strip_prefix("log/")?.parse().ok().map(Sequence)
}
