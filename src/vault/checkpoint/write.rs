//! Writing a level: entries in key order become runs, sent as soon as each is full.
//!
//! Invariant: what a level in the making takes is the bytes of one run: entries are encoded as they come, and sealed and
//! sent where they lie.

use bytes::Bytes;

use super::{Entry, Upload};
use crate::base::sizes::{CLASS_MAX, KIB};
use crate::base::{ObjectId, Random};
use crate::crypto::kdf;
use crate::format::checkpoint::RunRef;
use crate::format::commit::{CommitPart, PartWriter, segment_name};
use crate::format::key::Key;
use crate::format::keys::Keys;

/// What the records of one run may take: half of the largest class, less a reserve for nonce, tag and the head of the run.
/// A merge has one run of each level in memory.
pub const RUN_MAX: usize = CLASS_MAX / 2 - 64 * KIB;

/// Sends objects under names drawn at random, and keeps the list of what it sent.
pub struct Sender<'a, U: Upload> {
    pub remote: &'a U,
    pub keys: &'a Keys,
    pub random: &'a Random,
    /// What the records of one run may take.
    run_max: usize,
    pub sent: Vec<ObjectId>,
    pub bytes: u64,
}

impl<'a, U: Upload> Sender<'a, U> {
    pub fn new(remote: &'a U, keys: &'a Keys, random: &'a Random, run_max: usize) -> Sender<'a, U> {
        Sender { remote, keys, random, run_max, sent: Vec::new(), bytes: 0 }
    }

    /// Seals an object for the id that it gets, and sends it as a segment.
    pub async fn segment(&mut self, seal: impl FnOnce(ObjectId) -> Vec<u8>) -> Result<CommitPart, U::Error> {
        let id = ObjectId(self.random.bytes());
        let object = Bytes::from(seal(id));
        let part = CommitPart { id, len: object.len() as u32, hash: kdf::hash(&object) };
        self.send(id, segment_name(id), object).await?;
        self.sent.push(id);
        Ok(part)
    }

    pub async fn send(&mut self, id: ObjectId, name: String, object: Bytes) -> Result<(), U::Error> {
        self.bytes += object.len() as u64;
        self.remote.announce(&[id]).await?;
        self.remote.create(name, object).await
    }
}

/// A level in the making.
#[derive(Default)]
pub struct Writer {
    run: Option<Making>,
    runs: Vec<RunRef>,
}

impl Writer {
    /// Adds an entry; keys rise.
    pub async fn push<U: Upload>(&mut self, sender: &mut Sender<'_, U>, (key, record): Entry) -> Result<(), U::Error> {
        if let Some(run) = &mut self.run {
            if run.part.push(&key, &record, sender.run_max) {
                run.last = key;
                return Ok(());
            }
            self.send(sender).await?;
        }
        let mut part = PartWriter::new(sender.run_max);
        // One record fits any run.
        part.push(&key, &record, usize::MAX);
        self.run = Some(Making { part, first: key, last: key });
        Ok(())
    }

    /// Sends what is left. No entries make no runs.
    pub async fn finish<U: Upload>(mut self, sender: &mut Sender<'_, U>) -> Result<Vec<RunRef>, U::Error> {
        self.send(sender).await?;
        Ok(self.runs)
    }

    async fn send<U: Upload>(&mut self, sender: &mut Sender<'_, U>) -> Result<(), U::Error> {
        let Some(Making { part, first, last }) = self.run.take() else { return Ok(()) };
        let (keys, random) = (sender.keys, sender.random);
        let seal = |id| part.seal(keys, random, id).expect("a run is below the largest class");
        let object = sender.segment(seal).await?;
        self.runs.push(RunRef { id: object.id, len: object.len, hash: object.hash, first, last });
        Ok(())
    }
}

/// A run in the making.
struct Making {
    part: PartWriter,
    first: Key,
    last: Key,
}

/// The size of a level, for the choice of what is merged.
pub fn size(runs: &[RunRef]) -> u64 {
    runs.iter().map(|run| u64::from(run.len)).sum()
}
