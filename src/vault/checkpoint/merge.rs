//! Levels merged: one entry a key, that of the newest level which has the key.

use std::collections::btree_map;
use std::sync::Arc;

use futures::future::try_join_all;

use super::{Entry, Fetch, Level};
use crate::format::checkpoint::{Manifest, RunRef};
use crate::format::key::Key;
use crate::format::keys::Keys;
use crate::format::record::Record;

/// What is merged: a level of the vault, or one that is not there yet.
pub enum Source<'a, F: Fetch> {
    Level(Box<Level<'a, F>>),
    Memory(btree_map::Iter<'a, Key, Option<Arc<Record>>>),
}

impl<F: Fetch> Source<'_, F> {
    async fn next(&mut self) -> Result<Option<Entry>, F::Error> {
        match self {
            Source::Level(level) => level.next().await,
            Source::Memory(entries) => Ok(entries.next().map(|(key, record)| (*key, record.clone()))),
        }
    }
}

struct Head<'a, F: Fetch> {
    source: Source<'a, F>,
    next: Option<Entry>,
}

/// Sources merged, the newest first; deletes included.
pub struct Merged<'a, F: Fetch> {
    heads: Vec<Head<'a, F>>,
    begun: bool,
}

impl<'a, F: Fetch> Merged<'a, F> {
    pub fn new(sources: Vec<Source<'a, F>>) -> Merged<'a, F> {
        Merged { heads: sources.into_iter().map(|source| Head { source, next: None }).collect(), begun: false }
    }

    pub async fn next(&mut self) -> Result<Option<Entry>, F::Error> {
        if !self.begun {
            // The first runs of all levels come at the same time.
            let first = self.heads.iter_mut().map(|head| async {
                head.next = head.source.next().await?;
                Ok::<_, F::Error>(())
            });
            try_join_all(first).await?;
            self.begun = true;
        }
        let Some(least) = self.heads.iter().filter_map(|head| head.next.as_ref()).map(|(key, _)| *key).min() else {
            return Ok(None);
        };
        let mut newest = None;
        for head in &mut self.heads {
            if head.next.as_ref().is_some_and(|(key, _)| *key == least) {
                let next = head.source.next().await?;
                let entry = std::mem::replace(&mut head.next, next);
                newest = newest.or(entry);
            }
        }
        Ok(newest)
    }
}

/// Runs of a level that come together where all records are read: a mount may wait for that.
const AHEAD: usize = 4;

/// The record set of a checkpoint, in key order. After an error or a cancelled [`Records::next`] it is of no more use.
pub struct Records<'a, F: Fetch>(Merged<'a, F>);

impl<'a, F: Fetch> Records<'a, F> {
    pub fn new(fetch: &'a F, keys: &'a Keys, manifest: &Manifest) -> Records<'a, F> {
        let level = |runs: &Vec<RunRef>| Source::Level(Level::new(fetch, keys, runs).ahead(AHEAD).into());
        let levels = manifest.levels.iter().map(level);
        Records(Merged::new(levels.collect()))
    }

    pub async fn next(&mut self) -> Result<Option<(Key, Arc<Record>)>, F::Error> {
        while let Some((key, record)) = self.0.next().await? {
            if let Some(record) = record {
                return Ok(Some((key, record)));
            }
        }
        Ok(None)
    }
}

/// A level is merged with those above it once it is at most this many times as large as they are together.
const RATIO: u64 = 4;

/// How many levels, the newest first, become one. What is left grows by [`RATIO`] from level to level, so that there are
/// few, and a record is rewritten at most so often: a change costs the logarithm of the vault.
pub fn how_many(sizes: &[u64]) -> usize {
    let (mut above, mut merged) = (0_u64, 0);
    for (k, &size) in sizes.iter().enumerate() {
        if above.saturating_mul(RATIO) >= size {
            merged = k + 1;
        }
        above += size;
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_whose_sizes_are_close_become_one() {
        assert_eq!(how_many(&[]), 0);
        assert_eq!(how_many(&[10]), 0);
        assert_eq!(how_many(&[10, 41]), 0);
        assert_eq!(how_many(&[10, 40]), 2);
        assert_eq!(how_many(&[1, 10, 40]), 3, "a small level above two that are close");
        assert_eq!(how_many(&[10, 40, 201]), 2);
        assert_eq!(how_many(&[10, 40, 200]), 3);
    }

    #[test]
    fn the_cost_of_a_change_is_the_logarithm_of_the_vault() {
        let (mut sizes, mut rewritten): (Vec<u64>, u64) = (Vec::new(), 0);
        let rounds = 10_000;
        for _ in 0..rounds {
            sizes.insert(0, 1);
            let merged = how_many(&sizes).max(1);
            let size = sizes.drain(..merged).sum();
            rewritten += size;
            sizes.insert(0, size);
            assert!(sizes.windows(2).all(|two| two[0] * RATIO < two[1]), "{sizes:?}");
        }
        assert!(sizes.len() < 9, "{sizes:?}");
        assert!(rewritten / rounds < 25, "each change was written {} times", rewritten / rounds);
    }
}
