//! The index: every record of the vault's newest state, on the local disk, below the overlay. A cache: what it holds
//! can be had again from vault and journal, and nothing but speed depends on it (I2).
//!
//! | file | what it holds |
//! |---|---|
//! | `seal` | sealing of what lies on the disk |
//! | `table` | what is asked of an ordered table; `delta` is sled's, `twin` a small one over the [`Disk`] trait |
//! | `base` | immutable sorted files |
//! | `merge` | several sorted sources as one, the newest first |
//!
//! Records are read from the *delta*, a table that one applier feeds in atomic batches, then from the *bases*, newest
//! first. When the delta has grown it is written out as a base, and bases of like size are merged, so that each record
//! is rewritten a logarithmic number of times and the delta never grows under churn. A batch of many records becomes a
//! base at once. Decoded records that were read or applied lately lie in an LRU before all of it.
//!
//! Owns: a directory of the state directory, and the file `current` in it, which names the table that counts.
//! Does not own: which changes may be applied and when (history), whether an index found on the disk may be used
//! (mount): it tells its [`Mark`], which names vault sequence and journal block.
//!
//! Invariants
//! - A batch and its mark are applied together or not at all (I1).
//! - A table of which a sync failed is never again said to be safe: what it holds is written to another.
//! - Keys lie there as they are (numbers and keyed hashes), values sealed, each bound to its key and its table.
//! - Readers never meet a half-applied batch: the overlay hides it until whoever applies has, under history's lock, given
//!   the LRU what it came to.

mod base;
mod delta;
mod merge;
mod seal;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod twin;

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use thiserror::Error;

use crate::base::disk::{self, Disk};
use crate::base::{Epoch, Ino, Random};
use crate::format::commit::{BlockRef, ChainLink};
use crate::format::key::{Key, Part};
use crate::format::keys::Keys;
use crate::format::record::Record;
use base::{Base, BaseWriter, Blocks};
pub use delta::SledTables;
use merge::Merge;
use seal::Seal;
pub use table::Tables;
use table::{Batch, Table};
pub use twin::TwinTables;

/// Where the index of a writing mount lies in the state directory; a read-only mount has one of its own, which holds
/// nothing that the vault lacks.
pub const WRITER_DIR: &str = "index";
pub const READER_DIR: &str = "reader";
/// The file that names the table that counts.
const CURRENT: &str = "current";
/// Records kept decoded: some 300 bytes each.
const HOT: usize = 64 * 1024;
/// Records that the delta takes before it is written out as a base: it has all of them in memory, some 350 bytes each.
const DELTA_MAX: usize = 48 * 1024;
/// A base is merged with the next older one unless that is so many times its size.
const RATIO: u64 = 4;
/// The mark's key: before all records' keys, which are longer.
const MARK: &[u8] = b"";

#[derive(Clone, Debug, Error)]
pub enum IndexError {
    #[error("the index on this machine's disk cannot be read or written: {0}")]
    Io(String),
    #[error("the index on this machine's disk is damaged ({0}); it is made anew at the next mount")]
    Damaged(String),
}

impl From<std::io::Error> for IndexError {
    fn from(error: std::io::Error) -> IndexError {
        IndexError::Io(error.to_string())
    }
}

/// Up to where an index goes (I1), and what it comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The newest log object whose commit, or whose places of extents, are in it.
    pub link: ChainLink,
    /// The last journal block applied; `None` where nothing of a journal is.
    pub block: Option<BlockRef>,
    /// It holds exactly the vault's state at `link`: no change that the vault lacks.
    pub clean: bool,
    /// Inodes, and bytes that files hold.
    pub inodes: u64,
    pub bytes: u64,
    /// No inode in it has a higher number.
    pub highest: Ino,
    /// The highest epoch of the log up to `link`, where that is a writer's.
    pub epoch: Epoch,
}

impl Mark {
    /// A record comes or goes. Sparse files may claim more bytes than there are numbers: the sum is for display, and
    /// comes back wrapping.
    pub fn count(&mut self, key: Key, record: &Record, comes: bool) {
        let step = |value: u64, by: u64| if comes { value.wrapping_add(by) } else { value.wrapping_sub(by) };
        match record {
            Record::Inode(_) => self.inodes = step(self.inodes, 1),
            Record::Head(head) => self.bytes = step(self.bytes, head.size),
            _ => {}
        }
        self.highest = self.highest.max(key.ino);
    }
}

/// Where an index's parts come from.
#[derive(Clone)]
pub struct Ground {
    /// In the state directory.
    pub dir: &'static str,
    pub disk: Arc<dyn Disk>,
    pub tables: Arc<dyn Tables>,
    pub keys: Arc<Keys>,
    pub random: Random,
}

impl Ground {
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }
}

/// Many changes folded to one record a key.
pub type Folded = BTreeMap<Key, Option<Arc<Record>>>;

pub struct Index {
    ground: Ground,
    layers: RwLock<Layers>,
    hot: Mutex<LruCache<Key, Option<Arc<Record>>>>,
    blocks: Blocks,
    /// Records in the delta; those that were overwritten count again.
    applied: AtomicUsize,
    highest: AtomicU64,
    /// Found damaged: the next mount makes it anew.
    damaged: AtomicBool,
}

struct Layers {
    number: u64,
    seal: Arc<Seal>,
    delta: Box<dyn Table>,
    /// A sync of the delta failed.
    doubted: AtomicBool,
    /// Newest first.
    bases: Vec<Arc<Base>>,
}

impl Index {
    /// Opens what is there. `Ok(None)` if nothing is; an error if it cannot be used: then [`Builder`] makes another.
    pub fn open(ground: Ground) -> Result<Option<(Index, Mark)>, IndexError> {
        let Some(number) = current(&ground)? else { return Ok(None) };
        let seal = Arc::new(Seal::new(&ground.keys, ground.random.clone(), number));
        let delta = ground.tables.open(number)?;
        // What a process that was killed had applied and not synced counts from now on: it must not go in a power cut.
        if let Err(error) = delta.sync() {
            disown(&ground)?;
            return Err(error);
        }
        let sealed = delta.get(MARK)?.ok_or_else(|| damaged("it has no mark"))?;
        let (mark, bases) = table::read_mark(&seal.open(MARK, &sealed)?)?;
        let bases = bases.into_iter().map(|id| Base::open(&ground, id).map(Arc::new)).collect::<Result<_, _>>()?;
        let mut count = 0;
        delta.range(&[0], &[u8::MAX; 64], &mut |_, _| {
            count += 1;
            true
        })?;
        let layers = Layers { number, seal, delta, doubted: AtomicBool::new(false), bases };
        let index = Index::assemble(ground, layers, count, mark.highest);
        index.remove_leftovers();
        Ok(Some((index, mark)))
    }

    fn assemble(ground: Ground, layers: Layers, applied: usize, highest: Ino) -> Index {
        Index {
            ground,
            layers: RwLock::new(layers),
            hot: Mutex::new(LruCache::new(NonZeroUsize::new(HOT).expect("not zero"))),
            blocks: Blocks::default(),
            applied: AtomicUsize::new(applied),
            highest: AtomicU64::new(highest.0),
            damaged: AtomicBool::new(false),
        }
    }

    pub fn get(&self, key: &Key) -> Result<Option<Arc<Record>>, IndexError> {
        // New inodes have higher numbers than all before.
        if key.ino.0 > self.highest.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if let Some(record) = self.hot.lock().get(key) {
            return Ok(record.clone());
        }
        let record = self.look(key).inspect_err(|error| self.notice(error))?;
        self.hot.lock().put(*key, record.clone());
        Ok(record)
    }

    fn look(&self, key: &Key) -> Result<Option<Arc<Record>>, IndexError> {
        let layers = self.layers.read();
        let bytes = key.to_bytes();
        if let Some(sealed) = layers.delta.get(&bytes)? {
            return table::read_value(key, &layers.seal.open(&bytes, &sealed)?);
        }
        let hash = base::hash(&bytes);
        for base in &layers.bases {
            if let Some(found) = base.get(&bytes, hash, &self.blocks)? {
                return table::read_value(key, &found);
            }
        }
        Ok(None)
    }

    /// Records from `from` to `to`, both inclusive, in key order; `visit` returns false to stop.
    pub fn scan(&self, from: Key, to: Key, mut visit: impl FnMut(&Key, Arc<Record>) -> bool) -> Result<(), IndexError> {
        if from > to || from.ino.0 > self.highest.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.merged(from, to, |key, record| record.is_none_or(|record| visit(key, record)))
            .inspect_err(|error| self.notice(error))
    }

    /// As [`Index::scan`], deletions included.
    fn merged(
        &self,
        from: Key,
        to: Key,
        mut visit: impl FnMut(&Key, Option<Arc<Record>>) -> bool,
    ) -> Result<(), IndexError> {
        let layers = self.layers.read();
        let (first, last) = (from.to_bytes(), to.to_bytes());
        let sources = layers.bases.iter().map(|base| base.range(&first, &last, &self.blocks)).collect();
        let mut older = Merge::new(sources)?;
        let mut failed: Result<(), IndexError> = Ok(());
        let mut more = true;
        let mut emit = |key: &[u8], sealed: Option<&[u8]>, value: &[u8]| -> Result<bool, IndexError> {
            let decoded = Key::decode(key).map_err(|e| damaged(e.to_string()))?;
            // Opened and decoded already? What the LRU holds of a batch that is being applied, the overlay hides.
            let hot = self.hot.lock().peek(&decoded).cloned();
            if let Some(record) = hot {
                return Ok(visit(&decoded, record));
            }
            let record = match sealed {
                Some(sealed) => table::read_value(&decoded, &layers.seal.open(key, sealed)?)?,
                None => table::read_value(&decoded, value)?,
            };
            Ok(visit(&decoded, record))
        };
        layers.delta.range(&first, &last, &mut |key, sealed| {
            let step = (|| {
                while let Some((before, value)) = older.peek()
                    && before < key
                {
                    more = emit(before, None, value)?;
                    older.next()?;
                    if !more {
                        return Ok(());
                    }
                }
                if older.peek().is_some_and(|(same, _)| same == key) {
                    older.next()?;
                }
                more = emit(key, Some(sealed), &[])?;
                Ok(())
            })();
            match step {
                Ok(()) => more,
                Err(error) => {
                    failed = Err(error);
                    false
                }
            }
        })?;
        failed?;
        while more && let Some((key, value)) = older.peek() {
            more = emit(key, None, value)?;
            older.next()?;
        }
        Ok(())
    }

    /// Applies a batch with its mark. [`Index::remember`] must follow, under history's lock, before the overlay lets go
    /// of the records: the LRU may hold what they replace.
    pub fn apply(&self, batch: &Folded, mark: &Mark) -> Result<(), IndexError> {
        let layers = self.layers.read();
        let mut writes = Batch::with_capacity(batch.len() + 1);
        let mut value = Vec::new();
        for (key, record) in batch {
            value.clear();
            table::write_value(record.as_deref(), &mut value);
            let key = key.to_bytes();
            writes.push((key.to_vec(), layers.seal.seal(&key, &value)));
        }
        writes.push((MARK.to_vec(), layers.seal.seal(MARK, &layers.mark(mark))));
        layers.delta.apply(writes)?;
        self.applied.fetch_add(batch.len(), Ordering::Relaxed);
        Ok(())
    }

    /// These records were applied: what was changed lately is likely to be read next, and is at hand decoded.
    pub fn remember<'a>(&self, records: impl Iterator<Item = (&'a Key, &'a Option<Arc<Record>>)>) {
        let mut hot = self.hot.lock();
        let mut highest = 0;
        for (key, record) in records {
            highest = highest.max(key.ino.0);
            match (key.part, record) {
                // Ways up are seldom gone, and what is not there is seldom asked for: they would only push others out.
                (Part::Link { .. }, _) | (_, None) => _ = hot.pop(key),
                (_, Some(record)) => _ = hot.put(*key, Some(record.clone())),
            }
        }
        self.highest.fetch_max(highest, Ordering::Relaxed);
    }

    /// All that was applied is safe when this returns. `mark` is the last one applied; nobody may apply meanwhile.
    pub fn sync(&self, mark: &Mark) -> Result<(), IndexError> {
        let layers = self.layers.read();
        // The kernel tells of a failed write once, and takes the pages for clean from then on: what a failed sync should
        // have covered, no later one of that file does. It is written elsewhere.
        if layers.doubted.load(Ordering::Relaxed) {
            drop(layers);
            return self.compact(mark);
        }
        let synced = layers.delta.sync();
        layers.doubted.store(synced.is_err(), Ordering::Relaxed);
        synced
    }

    /// The next mount shall not use it: once this went well the journal may go on without it. Undone by
    /// [`Index::claim`].
    pub fn disown(&self) -> std::io::Result<()> {
        disown(&self.ground)
    }

    /// It counts again.
    pub fn claim(&self) -> Result<(), IndexError> {
        let number = self.layers.read().number;
        Ok(claim(&self.ground, number)?)
    }

    /// Is the delta due to be written out?
    pub fn is_grown(&self) -> bool {
        self.applied.load(Ordering::Relaxed) > DELTA_MAX
    }

    /// Writes the delta out as a base, merged with those that are not much larger. Nobody may apply meanwhile; reads
    /// go on. `mark` is the last one applied.
    pub fn compact(&self, mark: &Mark) -> Result<(), IndexError> {
        self.write_out(&Folded::new(), mark)
    }

    /// As [`Index::apply`] of many records at once: written out in order they cost a tenth of what a table takes for
    /// them. They are safe when this returns.
    pub fn absorb(&self, batch: &Folded, mark: &Mark) -> Result<(), IndexError> {
        self.write_out(batch, mark)
    }

    /// Batch, delta and the bases that are not much larger become one base, under a new table.
    fn write_out(&self, batch: &Folded, mark: &Mark) -> Result<(), IndexError> {
        // Whether it went well or not.
        let _tidy = Tidy(self);
        let (number, kept, base) = {
            let layers = self.layers.read();
            let mut size = (self.applied.load(Ordering::Relaxed) + batch.len()) as u64;
            let taken = layers
                .bases
                .iter()
                .take_while(|base| {
                    let takes = base.records() < size * RATIO;
                    size += base.records();
                    takes
                })
                .count();
            let (merged, kept) = layers.bases.split_at(taken);
            let base = self.write_base(&layers, batch, merged, kept.is_empty())?;
            (layers.number, kept.to_vec(), base)
        };
        let bases: Vec<_> = base.into_iter().map(Arc::new).chain(kept).collect();
        let layers = begin_table(&self.ground, number + 1, bases, mark)?;
        let old = std::mem::replace(&mut *self.layers.write(), layers);
        self.applied.store(0, Ordering::Relaxed);
        drop(old);
        Ok(())
    }

    /// One new base; if it is the oldest, without deletions and dead extents. `None` if nothing is left.
    fn write_base(
        &self,
        layers: &Layers,
        batch: &Folded,
        merged: &[Arc<Base>],
        oldest: bool,
    ) -> Result<Option<Base>, IndexError> {
        let mut writer = BaseWriter::create(&self.ground)?;
        let mut live = Live::default();
        let mut push = |key: &[u8], value: &[u8]| match !oldest || live.keeps(key, value)? {
            true => writer.push(key, value),
            false => Ok(()),
        };
        let mut newest = batch.iter().map(|(key, record)| (key.to_bytes(), record)).peekable();
        let mut value = Vec::new();
        let mut encode = |record: &Option<Arc<Record>>, push: &mut dyn FnMut(&[u8]) -> Result<(), IndexError>| {
            value.clear();
            table::write_value(record.as_deref(), &mut value);
            push(&value)
        };
        self.each_below(layers, merged, |key, older| {
            while let Some((before, record)) = newest.next_if(|(k, _)| **k < *key) {
                encode(record, &mut |value| push(&before, value))?;
            }
            match newest.next_if(|(k, _)| **k == *key) {
                Some((_, record)) => encode(record, &mut |value| push(key, value)),
                None => push(key, older),
            }
        })?;
        for (key, record) in newest {
            encode(record, &mut |value| push(&key, value))?;
        }
        writer.finish()
    }

    /// Delta and bases, merged, in key order.
    fn each_below(
        &self,
        layers: &Layers,
        merged: &[Arc<Base>],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let mut older = Merge::new(merged.iter().map(|base| base.all()).collect())?;
        let mut failed: Result<(), IndexError> = Ok(());
        layers.delta.range(&[0], &[u8::MAX; 64], &mut |key, sealed| {
            let step = (|| {
                while let Some((before, value)) = older.peek()
                    && before < key
                {
                    visit(before, value)?;
                    older.next()?;
                }
                if older.peek().is_some_and(|(same, _)| same == key) {
                    older.next()?;
                }
                visit(key, &layers.seal.open(key, sealed)?)
            })();
            failed = step;
            failed.is_ok()
        })?;
        failed?;
        while let Some((key, value)) = older.peek() {
            visit(key, value)?;
            older.next()?;
        }
        Ok(())
    }

    /// Tables and bases that the current one does not name. What cannot be removed now goes at the next mount.
    fn remove_leftovers(&self) {
        let layers = self.layers.read();
        let bases: Vec<_> = layers.bases.iter().map(|base| base.name()).collect();
        self.ground.tables.keep_only(layers.number);
        for name in self.ground.disk.list(self.ground.dir).unwrap_or_default() {
            if name.starts_with("base-") && !bases.contains(&name) {
                let _ = self.ground.disk.remove(&self.ground.path(&name));
            }
        }
    }

    /// Begins another state beside the one that this holds, while that is read: one that replaces it, or, with `over`,
    /// one that lies over it and hides the records of like keys.
    pub fn beside(&self, over: bool) -> Result<Beside, IndexError> {
        Ok(Beside { writer: BaseWriter::create(&self.ground)?, live: (!over).then(Live::default) })
    }

    /// Makes it safe. Nobody may apply from here until it took the place of the one before; `before` is the mark of that
    /// one, `mark` of the new one. After a crash this one counts, whether it had taken its place or not.
    pub fn prepare(&self, beside: Beside, before: &Mark, mark: &Mark) -> Result<Prepared, IndexError> {
        if beside.live.is_none() && self.applied.load(Ordering::Relaxed) > 0 {
            self.compact(before)?;
        }
        let over = beside.live.is_none();
        let base = beside.writer.finish()?.map(Arc::new);
        let (number, kept) = {
            let layers = self.layers.read();
            (layers.number, if over { layers.bases.clone() } else { Vec::new() })
        };
        let bases = base.into_iter().chain(kept).collect();
        let layers = begin_table(&self.ground, number + 1, bases, mark)?;
        Ok(Prepared { layers, highest: mark.highest })
    }

    /// Puts it in the place of the one before. Nobody may look meanwhile: whoever calls holds history's lock. What is
    /// returned is to be dropped outside, and [`Index::tidy`] called.
    pub fn replace(&self, prepared: Prepared) -> Replaced {
        let old = std::mem::replace(&mut *self.layers.write(), prepared.layers);
        self.applied.store(0, Ordering::Relaxed);
        self.highest.fetch_max(prepared.highest.0, Ordering::Relaxed);
        let hot = LruCache::new(NonZeroUsize::new(HOT).expect("not zero"));
        let hot = std::mem::replace(&mut *self.hot.lock(), hot);
        Replaced { _layers: old, _hot: hot }
    }

    /// Removes what a replaced state left on the disk.
    pub fn tidy(&self) {
        self.remove_leftovers();
    }

    fn notice(&self, error: &IndexError) {
        if matches!(error, IndexError::Damaged(_)) && !self.damaged.swap(true, Ordering::Relaxed) {
            log::error!("{error}");
            // So that the next mount does not meet it again.
            let _ = self.ground.disk.remove(&self.ground.path(CURRENT));
        }
    }
}

/// Removes what nothing names when it is dropped.
struct Tidy<'a>(&'a Index);

impl Drop for Tidy<'_> {
    fn drop(&mut self) {
        self.0.remove_leftovers();
    }
}

impl Layers {
    fn mark(&self, mark: &Mark) -> Vec<u8> {
        table::write_mark(mark, self.bases.iter().map(|base| base.id))
    }
}

/// Which records of a whole state are worth keeping. They come in key order, so an inode's map before its extents.
#[derive(Default)]
struct Live {
    owner: Option<Ino>,
    /// Extents that the owner's map names.
    named: HashSet<u64>,
}

impl Live {
    fn keeps(&mut self, key: &[u8], value: &[u8]) -> Result<bool, IndexError> {
        let key = Key::decode(key).map_err(|e| damaged(e.to_string()))?;
        if value.is_empty() {
            return Ok(false);
        }
        match key.part {
            Part::Head | Part::Map { .. } => match table::read_value(&key, value)? {
                Some(record) => Ok(self.keeps_record(&key, &record)),
                None => Ok(false),
            },
            Part::Extent { number } => Ok(self.owner == Some(key.ino) && self.named.contains(&number)),
            _ => Ok(true),
        }
    }

    fn keeps_record(&mut self, key: &Key, record: &Record) -> bool {
        if Some(key.ino) != self.owner {
            self.owner = Some(key.ino);
            self.named.clear();
        }
        match (record, key.part) {
            (Record::Head(head), _) => self.named.extend(head.pieces.iter().map(|piece| piece.extent.number)),
            (Record::Map(piece), _) => _ = self.named.insert(piece.extent.number),
            // Commits drop no extents: those that nothing names are dead.
            (Record::Extent(_), Part::Extent { number }) => return self.named.contains(&number),
            _ => {}
        }
        true
    }
}

/// A state that is made beside the one that an index holds. Dropped before it is prepared, it leaves a file that
/// nothing names.
pub struct Beside {
    writer: BaseWriter,
    /// `None` if it lies over what is there.
    live: Option<Live>,
}

impl Beside {
    /// Keys rise. `None` is a deletion: it hides what lies below.
    pub fn push(&mut self, key: &Key, record: Option<&Record>) -> Result<(), IndexError> {
        if let Some(live) = &mut self.live
            && !record.is_some_and(|record| live.keeps_record(key, record))
        {
            return Ok(());
        }
        let mut value = Vec::new();
        table::write_value(record, &mut value);
        self.writer.push(&key.to_bytes(), &value)
    }
}

/// A state that is safe and about to take its place.
pub struct Prepared {
    layers: Layers,
    highest: Ino,
}

/// What was there before.
pub struct Replaced {
    _layers: Layers,
    _hot: LruCache<Key, Option<Arc<Record>>>,
}

/// Makes an index from all records of a state at once, in key order.
pub struct Builder {
    ground: Ground,
    writer: BaseWriter,
    live: Live,
}

impl Builder {
    /// What was there does not count any more.
    pub fn new(ground: Ground) -> Result<Builder, IndexError> {
        ground.disk.create_dir(ground.dir)?;
        match ground.disk.remove(&ground.path(CURRENT)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let writer = BaseWriter::create(&ground)?;
        Ok(Builder { ground, writer, live: Live::default() })
    }

    /// An extent that no map names is left out.
    pub fn push(&mut self, key: &Key, record: &Record) -> Result<(), IndexError> {
        if !self.live.keeps_record(key, record) {
            return Ok(());
        }
        let mut value = Vec::new();
        table::write_value(Some(record), &mut value);
        self.writer.push(&key.to_bytes(), &value)
    }

    pub fn finish(self, mark: &Mark) -> Result<Index, IndexError> {
        let bases: Vec<_> = self.writer.finish()?.into_iter().map(Arc::new).collect();
        let number = self.ground.tables.newest() + 1;
        let layers = begin_table(&self.ground, number, bases, mark)?;
        let index = Index::assemble(self.ground, layers, 0, mark.highest);
        index.remove_leftovers();
        Ok(index)
    }
}

/// A new, empty table over these bases; it counts when this returns.
fn begin_table(ground: &Ground, number: u64, bases: Vec<Arc<Base>>, mark: &Mark) -> Result<Layers, IndexError> {
    let seal = Arc::new(Seal::new(&ground.keys, ground.random.clone(), number));
    let delta = ground.tables.create(number)?;
    let layers = Layers { number, seal, delta, doubted: AtomicBool::new(false), bases };
    layers.delta.apply(vec![(MARK.to_vec(), layers.seal.seal(MARK, &layers.mark(mark)))])?;
    layers.delta.sync()?;
    ground.disk.sync_dir(ground.dir)?;
    claim(ground, number)?;
    Ok(layers)
}

fn claim(ground: &Ground, number: u64) -> std::io::Result<()> {
    disk::replace(&*ground.disk, &ground.path(CURRENT), format!("1 {number}\n").as_bytes())
}

fn disown(ground: &Ground) -> std::io::Result<()> {
    match ground.disk.remove(&ground.path(CURRENT)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // A power cut must not bring it back: by then the journal lacks what it lacks.
    ground.disk.sync_dir(ground.dir)
}

/// The number of the table that counts.
fn current(ground: &Ground) -> Result<Option<u64>, IndexError> {
    let Some(bytes) = disk::read(&*ground.disk, &ground.path(CURRENT), 64)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    match text.trim_end().strip_prefix("1 ").and_then(|number| number.parse().ok()) {
        Some(number) => Ok(Some(number)),
        None => Err(damaged("its file `current` is not what this program writes")),
    }
}

fn damaged(why: impl Into<String>) -> IndexError {
    IndexError::Damaged(why.into())
}
