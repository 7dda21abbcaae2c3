//! Making a checkpoint.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::mem::take;

use bytes::Bytes;

use super::fold::{Batch, Entries, Fold};
use super::keeper::Volume;
use super::merge::{Merged, Source, how_many};
use super::sweep::{mark, sweep};
use super::write::{RUN_MAX, Sender, Writer, size};
use super::{Level, Upload, chain, tampered, totals};
use crate::base::sizes::CLASS_MIN;
use crate::base::{ObjectId, Random, Sequence};
use crate::crypto::kdf;
use crate::format::checkpoint::table::{COUNTS_MAX, SegmentCount, seal_counts};
use crate::format::checkpoint::{Manifest, RunRef, Swept, Totals};
use crate::format::commit::{ChainLink, CommitPart, Hash, checkpoint_name};
use crate::format::keys::Keys;

/// Encoded bytes that are held at once.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// What of the log is folded in memory (decoded it takes three to four times as much).
    pub batch: usize,
    /// What of it stays there while levels are merged; more becomes a level before.
    pub last: usize,
    /// What the records of one run take.
    pub run: usize,
}

const LIMITS: Limits = Limits { batch: 8 << 20, last: 1 << 20, run: RUN_MAX };

/// What making needs.
pub struct Maker<'a, U: Upload> {
    pub remote: &'a U,
    pub keys: &'a Keys,
    pub random: &'a Random,
    /// Inodes, and bytes in files modulo 2^64, as they are after the log object that is covered last, if the caller
    /// knows them. Else they are counted, for which every run is read that may hold a record of an old inode which the
    /// log replaced.
    pub usage: Option<(u64, u64)>,
    pub merge: Merge,
}

/// Which levels become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Merge {
    /// Those whose sizes are close.
    BySize,
    /// All: what is dead is found.
    All,
}

/// A checkpoint that lies in the vault, and counts as soon as a commit names it.
#[derive(Debug)]
pub struct Made {
    /// What the commit names.
    pub checkpoint: (ObjectId, Hash),
    pub manifest: Manifest,
    /// Objects under `segments/` that are dead once a commit names this checkpoint: what the one before named and this
    /// one does not, parts of covered commits, segments in which nothing lives. The commit lists them as dead, less
    /// those segments that its own state, an open unlinked file or the journal beyond its cut names (a file that was
    /// linked or copied again, L4): these are orphans once nothing does (D2), for no checkpoint knows them any more.
    pub dead: Vec<ObjectId>,
    /// If all levels became one.
    pub sweep: Option<Sweep>,
    pub counters: Counters,
}

/// What a full merge found in the state after the last log object that it covers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sweep {
    /// Segments of extents in which nothing lives; they are part of [`Made::dead`] too.
    pub dead: Vec<ObjectId>,
    /// Log objects with inline extents that live, and how many bytes.
    pub inline: BTreeMap<Sequence, u64>,
    /// Records of extents that nothing named.
    pub dropped: u64,
    /// What is left.
    pub volume: Volume,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    pub log_objects: u64,
    /// Of log objects and parts, as they lie in the store.
    pub log_bytes: u64,
    pub levels_merged: usize,
    pub objects_sent: u64,
    pub bytes_sent: u64,
}

/// Makes the checkpoint of the state after the log object `to`, from the one before (`base`, as a manifest that counts)
/// and the log objects between, which are read from the store. Dropped half-way it leaves orphans only.
pub async fn make<U: Upload>(maker: &Maker<'_, U>, base: &Manifest, to: ChainLink) -> Result<Made, U::Error> {
    make_within(maker, base, to, LIMITS).await
}

pub(super) async fn make_within<U: Upload>(
    maker: &Maker<'_, U>,
    base: &Manifest,
    to: ChainLink,
    limits: Limits,
) -> Result<Made, U::Error> {
    if to.sequence < base.sequence {
        return Err(tampered("a checkpoint cannot go behind the one before it".to_owned()).into());
    }
    let sender = Sender::new(maker.remote, maker.keys, maker.random, limits.run);
    let mut making = Making { maker, sender, totals: base.totals, fresh: Vec::new(), base };
    let mut fold = Fold::new(maker.remote, maker.keys, base, to, limits.batch);
    let mut batch = loop {
        let batch = fold.next().await?;
        making.count(&batch.entries).await?;
        if batch.last {
            break batch;
        }
        making.set_aside(batch).await?;
    };
    let log = fold.log;
    if batch.len > limits.last {
        let entries = take(&mut batch.entries);
        let runs = making.write(entries).await?;
        making.fresh.insert(0, runs);
    }
    let mut merged = making.merge(&batch).await?;
    drop(batch);
    let chain = chain::extend(&mut making.sender, &base.chain, log.hashes).await?;
    let swept = match &mut merged.found {
        Some((_, counts)) => Some(Swept { sequence: to.sequence, counts: making.tables(take(counts)).await? }),
        None => base.swept.clone(),
    };
    let mut totals = making.totals;
    if let Some((inodes, bytes)) = maker.usage {
        totals = Totals { inodes, bytes, ..totals };
    }
    let manifest = Manifest {
        sequence: to.sequence,
        hash: to.hash,
        levels: merged.levels,
        cut: log.cut,
        commit: log.commit,
        epoch: log.epoch,
        totals,
        chain,
        swept,
    };
    let sweep = merged.found.map(|(sweep, _)| sweep);
    let Making { mut sender, .. } = making;
    let dead = dead(base, &manifest, &sender.sent, log.parts, sweep.as_ref());
    let id = ObjectId(maker.random.bytes());
    let object = manifest.seal(maker.keys, maker.random, id).ok_or_else(|| too_many(&manifest))?;
    let checkpoint = (id, kdf::hash(&object));
    sender.send(id, checkpoint_name(id), Bytes::from(object)).await?;
    let counters = Counters {
        log_objects: to.sequence.0 - base.sequence.0,
        log_bytes: log.bytes,
        levels_merged: merged.merged,
        objects_sent: sender.sent.len() as u64 + 1,
        bytes_sent: sender.bytes,
    };
    Ok(Made { checkpoint, manifest, dead, sweep, counters })
}

/// A manifest names some 80,000 runs of 4 MiB before it does not fit.
fn too_many(manifest: &Manifest) -> super::VaultError {
    let runs: usize = manifest.levels.iter().map(Vec::len).sum();
    super::VaultError::Stopped(format!("the vault's records fill {runs} runs, more than a checkpoint can name"))
}

/// What nobody needs once the new manifest counts.
fn dead(
    base: &Manifest,
    manifest: &Manifest,
    sent: &[ObjectId],
    parts: Vec<ObjectId>,
    sweep: Option<&Sweep>,
) -> Vec<ObjectId> {
    let named: HashSet<ObjectId> = manifest.segments().map(|object| object.id).collect();
    let mut dead: BTreeSet<ObjectId> = base.segments().map(|object| object.id).collect();
    dead.extend(sent);
    dead.extend(parts);
    dead.extend(sweep.iter().flat_map(|sweep| &sweep.dead));
    dead.into_iter().filter(|id| !named.contains(id)).collect()
}

struct Making<'a, U: Upload> {
    maker: &'a Maker<'a, U>,
    sender: Sender<'a, U>,
    totals: Totals,
    /// Levels of batches that did not fit memory, newest first; all newer than those of `base`.
    fresh: Vec<Vec<RunRef>>,
    base: &'a Manifest,
}

struct Levels {
    levels: Vec<Vec<RunRef>>,
    merged: usize,
    /// If all became one.
    found: Option<(Sweep, Vec<SegmentCount>)>,
}

impl<'a, U: Upload> Making<'a, U> {
    /// Runs the totals on.
    async fn count(&mut self, entries: &Entries) -> Result<(), U::Error> {
        if self.maker.usage.is_some() {
            self.totals = totals::highest(self.totals, entries);
            return Ok(());
        }
        let levels: Vec<_> = self.fresh.iter().chain(&self.base.levels).cloned().collect();
        self.totals = totals::after(self.maker.remote, self.maker.keys, &levels, self.totals, entries).await?;
        Ok(())
    }

    /// A batch becomes a level of its own; with those before it, if they are close in size.
    async fn set_aside(&mut self, batch: Batch) -> Result<(), U::Error> {
        let Some((&first, _)) = batch.entries.first_key_value() else { return Ok(()) };
        let runs = self.write(batch.entries).await?;
        match self.fresh.first_mut() {
            // All its keys come after those of the level below: together they are one. So a commit with many parts,
            // which are in key order, is written once.
            Some(level) if level.last().is_some_and(|run| run.last < first) => level.extend(runs),
            _ => self.fresh.insert(0, runs),
        }
        let merged = how_many(&self.fresh.iter().map(|runs| size(runs)).collect::<Vec<_>>());
        if merged > 1 {
            let runs = self.keep(self.sources(&Entries::new(), &self.fresh[..merged])).await?;
            self.fresh.splice(..merged, [runs]);
        }
        Ok(())
    }

    async fn write(&mut self, entries: Entries) -> Result<Vec<RunRef>, U::Error> {
        let mut writer = Writer::default();
        for entry in entries {
            writer.push(&mut self.sender, entry).await?;
        }
        writer.finish(&mut self.sender).await
    }

    /// Merges; deletes stay, for there is something below.
    async fn keep(&mut self, mut merged: Merged<'_, U>) -> Result<Vec<RunRef>, U::Error> {
        let mut writer = Writer::default();
        while let Some(entry) = merged.next().await? {
            writer.push(&mut self.sender, entry).await?;
        }
        writer.finish(&mut self.sender).await
    }

    fn sources<'b>(&self, batch: &'b Entries, levels: &[Vec<RunRef>]) -> Merged<'b, U>
    where
        'a: 'b,
    {
        let memory = (!batch.is_empty()).then(|| Source::Memory(batch.iter()));
        let levels =
            levels.iter().map(|runs| Source::Level(Level::new(self.maker.remote, self.maker.keys, runs).into()));
        Merged::new(memory.into_iter().chain(levels).collect())
    }

    /// The new manifest's levels, of the last batch and all that lies below it.
    async fn merge(&mut self, batch: &Batch) -> Result<Levels, U::Error> {
        let mut levels: Vec<_> = take(&mut self.fresh);
        levels.extend(self.base.levels.iter().cloned());
        let own = usize::from(!batch.entries.is_empty());
        let all = own + levels.len();
        let mut sizes: Vec<u64> = levels.iter().map(|runs| size(runs)).collect();
        if own == 1 {
            // As it would lie in the store.
            sizes.insert(0, batch.len.max(CLASS_MIN) as u64);
        }
        let merged = match self.maker.merge {
            Merge::All => all,
            Merge::BySize => how_many(&sizes).max(own),
        };
        if merged == 0 && self.maker.merge == Merge::BySize {
            return Ok(Levels { levels, merged: 0, found: None });
        }
        let rest = levels.split_off(merged - own);
        if merged < all {
            let level = self.keep(self.sources(&batch.entries, &levels)).await?;
            return Ok(Levels { levels: [level].into_iter().chain(rest).collect(), merged, found: None });
        }
        let marks = mark(self.sources(&batch.entries, &levels)).await?;
        let merged_records = self.sources(&batch.entries, &levels);
        let found = sweep(&mut self.sender, merged_records, &marks).await?;
        let volume = Volume {
            live: found.counts.iter().map(|count| count.live).sum(),
            total: found.counts.iter().map(|count| u64::from(count.total)).sum(),
        };
        let sweep = Sweep { dead: found.dead, inline: found.inline, dropped: found.dropped, volume };
        let levels = if found.level.is_empty() { Vec::new() } else { vec![found.level] };
        Ok(Levels { levels, merged, found: Some((sweep, found.counts)) })
    }

    async fn tables(&mut self, counts: Vec<SegmentCount>) -> Result<Vec<CommitPart>, U::Error> {
        let mut tables = Vec::new();
        for counts in counts.chunks(COUNTS_MAX) {
            let (keys, random) = (self.maker.keys, self.maker.random);
            let seal = |id| seal_counts(keys, random, id, counts).expect("the largest table fits an object");
            tables.push(self.sender.segment(seal).await?);
        }
        Ok(tables)
    }
}
