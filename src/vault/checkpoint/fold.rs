//! Folding the log: the log objects after a checkpoint, read from the store and checked against the chain, come to one
//! entry a key.
//!
//! What is folded is handed out in batches of bounded size: a commit may carry more than memory should hold. Batches
//! are in the order of the log, so a later one hides an earlier one as a newer level does an older one. A commit has
//! each key once, so it does no harm to cut within one.
//!
//! Invariant: beside a batch, which one commit's own records may take beyond its bound, what is in memory is one part, and
//! of the log objects that come next either a few small ones or one large one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesOrdered;

use super::{Fetch, part, tampered};
use crate::base::sizes::KIB;
use crate::base::{Epoch, ObjectId, Position, Sequence};
use crate::crypto::kdf;
use crate::format::checkpoint::Manifest;
use crate::format::checkpoint::run::Run;
use crate::format::commit::{Body, ChainLink, CommitPart, Hash, LogObject, log_name, records_len, segment_name};
use crate::format::key::Key;
use crate::format::keys::Keys;
use crate::format::record::Record;

/// Log objects on their way while one is read, ...
const AHEAD: usize = 4;
/// ... while they are not larger than that; else one.
const SMALL: usize = 512 * KIB;

/// What the log tells beside records.
pub struct Log {
    /// The last log object that was read.
    pub link: ChainLink,
    /// Of all log objects read, in order.
    pub hashes: Vec<Hash>,
    pub epoch: Epoch,
    pub commit: Option<ChainLink>,
    pub cut: Position,
    /// Parts of commits: once the checkpoint counts, nobody needs them.
    pub parts: Vec<ObjectId>,
    /// Bytes of log objects and parts.
    pub bytes: u64,
}

/// One entry a key.
pub type Entries = BTreeMap<Key, Option<Arc<Record>>>;

/// Some of what the log comes to.
pub struct Batch {
    pub entries: Entries,
    /// The encoded length of the entries.
    pub len: usize,
    /// The log was read to the end.
    pub last: bool,
}

pub struct Fold<'a, F: Fetch> {
    fetch: &'a F,
    keys: &'a Keys,
    to: ChainLink,
    /// The largest batch, in encoded bytes.
    most: usize,
    next: Sequence,
    coming: FuturesOrdered<BoxFuture<'a, Result<Option<Bytes>, F::Error>>>,
    /// The length of the last log object that was read; before the first, as of a large one.
    last_len: usize,
    parts: VecDeque<CommitPart>,
    part: Option<(ObjectId, Run)>,
    records: Entries,
    len: usize,
    pub log: Log,
}

impl<'a, F: Fetch> Fold<'a, F> {
    /// Of the log objects after those that `base` covers, up to `to`.
    pub fn new(fetch: &'a F, keys: &'a Keys, base: &Manifest, to: ChainLink, most: usize) -> Fold<'a, F> {
        let log = Log {
            link: base.link(),
            hashes: Vec::new(),
            epoch: base.epoch,
            commit: base.commit,
            cut: base.cut,
            parts: Vec::new(),
            bytes: 0,
        };
        Fold {
            fetch,
            keys,
            to,
            most,
            next: Sequence(base.sequence.0 + 1),
            coming: FuturesOrdered::new(),
            last_len: usize::MAX,
            parts: VecDeque::new(),
            part: None,
            records: BTreeMap::new(),
            len: 0,
            log,
        }
    }

    /// The next batch; the last may be empty.
    pub async fn next(&mut self) -> Result<Batch, F::Error> {
        loop {
            if self.len >= self.most {
                return Ok(self.batch(false));
            }
            if let Some((id, run)) = &mut self.part {
                match run.read().map_err(|error| tampered(format!("{}: {error}", segment_name(*id))))? {
                    Some((key, record)) => self.put(key, record),
                    None => self.part = None,
                }
            } else if let Some(next) = self.parts.pop_front() {
                let object = part(self.fetch, &next).await?;
                self.log.bytes += object.len() as u64;
                self.log.parts.push(next.id);
                let run = Run::open(self.keys, next.id, &object)
                    .map_err(|error| tampered(format!("{}: {error}", segment_name(next.id))))?;
                self.part = Some((next.id, run));
                tokio::task::yield_now().await;
            } else if !self.object().await? {
                return Ok(self.batch(true));
            }
        }
    }

    fn batch(&mut self, last: bool) -> Batch {
        let entries = std::mem::take(&mut self.records);
        Batch { entries, len: std::mem::take(&mut self.len), last }
    }

    fn put(&mut self, key: Key, record: Option<Arc<Record>>) {
        let entry = [(key, record)];
        self.len += records_len(&entry);
        let [(key, record)] = entry;
        if let Some(old) = self.records.insert(key, record) {
            self.len -= records_len(&[(key, old)]);
        }
    }

    /// Reads one more log object; `false` at the end.
    async fn object(&mut self) -> Result<bool, F::Error> {
        let ahead = if self.last_len <= SMALL { AHEAD } else { 1 };
        while self.coming.len() < ahead && self.next <= self.to.sequence {
            self.coming.push_back(self.fetch.get(log_name(self.next)).boxed());
            self.next.0 += 1;
        }
        let Some(object) = self.coming.next().await else {
            return match self.log.link == self.to {
                true => Ok(false),
                false => Err(tampered(format!("{} is not what the log leads to", log_name(self.to.sequence))).into()),
            };
        };
        let name = log_name(Sequence(self.log.link.sequence.0 + 1));
        let Some(bytes) = object? else {
            return Err(tampered(format!("{name}, which no checkpoint covers, is missing")).into());
        };
        self.take(&name, &bytes)?;
        Ok(true)
    }

    fn take(&mut self, name: &str, bytes: &[u8]) -> Result<(), super::VaultError> {
        let sequence = Sequence(self.log.link.sequence.0 + 1);
        let object =
            LogObject::open(self.keys, sequence, bytes).map_err(|error| tampered(format!("{name}: {error}")))?;
        object.check_next(&self.log.link.hash, self.log.epoch).map_err(|why| tampered(format!("{name} {why}")))?;
        self.log.link = ChainLink { sequence, hash: kdf::hash(bytes) };
        self.log.hashes.push(self.log.link.hash);
        self.log.epoch = object.epoch;
        self.log.bytes += bytes.len() as u64;
        self.last_len = bytes.len();
        if let Body::Commit(commit) = object.body {
            self.log.commit = Some(self.log.link);
            self.log.cut = commit.cut;
            self.parts = commit.parts.into();
            commit.records.into_iter().for_each(|(key, record)| self.put(key, record));
        }
        Ok(())
    }
}
