//! Running totals: what a batch of the log does to them, told by what it replaces.

use std::sync::Arc;

use super::fold::Entries;
use super::level::{opened, read};
use super::{Entry, Fetch};
use crate::format::checkpoint::run::Run;
use crate::format::checkpoint::{RunRef, Totals};
use crate::format::key::{Key, Part};
use crate::format::keys::Keys;
use crate::format::record::Record;

/// Inodes and bytes that a record stands for.
fn counts(record: Option<&Record>) -> (u64, u64) {
    match record {
        Some(Record::Inode(_)) => (1, 0),
        Some(Record::Head(head)) => (0, head.size),
        _ => (0, 0),
    }
}

/// The highest inode number, with those of a batch. A delete counts too: the inode was made since, and is gone again.
pub fn highest(before: Totals, entries: &Entries) -> Totals {
    let inodes = entries.keys().filter(|key| key.part == Part::Inode);
    let highest = inodes.map(|key| key.ino).max().unwrap_or(before.highest);
    Totals { highest: before.highest.max(highest), ..before }
}

/// The totals after a batch that lies above `levels`, to which `before` belongs. What an inode above the highest has
/// replaces nothing; for the rest each run that may hold what is replaced is read once.
pub async fn after<F: Fetch>(
    fetch: &F,
    keys: &Keys,
    levels: &[Vec<RunRef>],
    before: Totals,
    entries: &Entries,
) -> Result<Totals, F::Error> {
    let mut totals = highest(before, entries);
    let mut finder = Finder::new(fetch, keys, levels);
    for (key, record) in entries {
        if !matches!(key.part, Part::Inode | Part::Head) {
            continue;
        }
        let old = if key.ino > before.highest { None } else { finder.find(key).await? };
        let (comes, goes) = (counts(record.as_deref()), counts(old.as_deref()));
        totals.inodes = totals.inodes.wrapping_add(comes.0).wrapping_sub(goes.0);
        totals.bytes = totals.bytes.wrapping_add(comes.1).wrapping_sub(goes.1);
    }
    Ok(totals)
}

/// Looks keys up that rise.
struct Finder<'a, F: Fetch> {
    fetch: &'a F,
    keys: &'a Keys,
    levels: Vec<Place<'a>>,
}

/// Where the search stands in one level.
struct Place<'a> {
    runs: &'a [RunRef],
    /// The run that is open, and the next entry of it.
    open: Option<(usize, Run, Option<Entry>)>,
}

impl<'a, F: Fetch> Finder<'a, F> {
    fn new(fetch: &'a F, keys: &'a Keys, levels: &'a [Vec<RunRef>]) -> Finder<'a, F> {
        Finder { fetch, keys, levels: levels.iter().map(|runs| Place { runs, open: None }).collect() }
    }

    async fn find(&mut self, key: &Key) -> Result<Option<Arc<Record>>, F::Error> {
        for place in &mut self.levels {
            let at = place.runs.partition_point(|run| run.last < *key);
            let Some(run) = place.runs.get(at).filter(|run| run.first <= *key) else { continue };
            if place.open.as_ref().is_none_or(|(open, ..)| *open != at) {
                place.open = None;
                let mut reader = opened(self.fetch, self.keys, run).await?;
                let first = read(run, &mut reader)?;
                place.open = Some((at, reader, first));
            }
            let Some((_, reader, next)) = &mut place.open else { continue };
            while next.as_ref().is_some_and(|(found, _)| found < key) {
                *next = read(run, reader)?;
            }
            if let Some((_, record)) = next.as_ref().filter(|(found, _)| found == key) {
                return Ok(record.clone());
            }
        }
        Ok(None)
    }
}
