//! Dirty bytes of one file: runs in memory, in order, that do not overlap.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::base::sizes::EXTENT_MAX;
pub use crate::crypto::secret::SecretVec as Plain;

/// What a run takes beside its bytes: its place in a map or a list, and what the allocator keeps for it.
pub const RUN_COST: usize = 96;

#[derive(Default)]
pub struct Dirty {
    runs: BTreeMap<u64, Arc<Plain>>,
    bytes: usize,
}

impl Dirty {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The memory that all this takes.
    pub fn cost(&self) -> usize {
        self.bytes + self.runs.len() * RUN_COST
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Puts `data` at `offset`; returns by how much the cost has grown.
    pub fn write(&mut self, mut offset: u64, mut data: &[u8]) -> usize {
        let before = self.cost();
        while !data.is_empty() {
            let next = self.runs.range(offset + 1..).next().map_or(u64::MAX, |(start, _)| *start);
            let room = usize::try_from(next - offset).unwrap_or(usize::MAX);
            let n = match self.runs.range_mut(..=offset).next_back() {
                Some((start, run)) if offset < start + run.len() as u64 => {
                    let at = (offset - start) as usize;
                    let n = data.len().min(run.len() - at);
                    own(run)[at..at + n].copy_from_slice(&data[..n]);
                    n
                }
                Some((start, run)) if offset == start + run.len() as u64 && run.len() < EXTENT_MAX => {
                    let n = data.len().min(EXTENT_MAX - run.len()).min(room);
                    append(own(run), &data[..n]);
                    self.bytes += n;
                    n
                }
                _ => {
                    let n = data.len().min(EXTENT_MAX).min(room);
                    let mut run = Plain::with_capacity(n);
                    run.extend_from_slice(&data[..n]);
                    self.runs.insert(offset, Arc::new(run));
                    self.bytes += n;
                    n
                }
            };
            offset += n as u64;
            data = &data[n..];
        }
        self.cost() - before
    }

    /// All runs, as they are now: what is written afterwards is not in them.
    pub fn snapshot(&self) -> Runs {
        Runs { runs: self.runs.iter().map(|(offset, run)| (*offset, run.clone())).collect(), bytes: self.bytes }
    }

    /// Takes all runs.
    pub fn take(&mut self) -> Runs {
        let bytes = std::mem::take(&mut self.bytes);
        Runs { runs: std::mem::take(&mut self.runs).into_iter().collect(), bytes }
    }

    /// Calls `copy` for each dirty stretch of `range`: its place in the file, and its bytes.
    pub fn visit(&self, range: &Range<u64>, mut copy: impl FnMut(u64, &[u8])) {
        let first = self.runs.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        for (start, run) in self.runs.range(first..range.end) {
            clip(*start, run, range, &mut copy);
        }
    }
}

/// Runs that do not change any more: frozen bytes, and snapshots.
#[derive(Clone)]
pub struct Runs {
    pub runs: Vec<(u64, Arc<Plain>)>,
    bytes: usize,
}

impl Runs {
    pub fn visit(&self, range: &Range<u64>, mut copy: impl FnMut(u64, &[u8])) {
        let first = self.runs.partition_point(|(start, run)| start + run.len() as u64 <= range.start);
        for (start, run) in self.runs[first..].iter().take_while(|(start, _)| *start < range.end) {
            clip(*start, run, range, &mut copy);
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// As it was while they were dirty.
    pub fn cost(&self) -> usize {
        self.bytes + self.runs.len() * RUN_COST
    }
}

fn clip(start: u64, run: &[u8], range: &Range<u64>, copy: &mut impl FnMut(u64, &[u8])) {
    let (from, to) = (start.max(range.start), (start + run.len() as u64).min(range.end));
    if from < to {
        copy(from, &run[(from - start) as usize..(to - start) as usize]);
    }
}

/// A run to be written into: a copy, if a snapshot has it.
fn own(run: &mut Arc<Plain>) -> &mut Plain {
    if Arc::get_mut(run).is_none() {
        let mut copy = Plain::with_capacity(run.capacity());
        copy.extend_from_slice(run);
        *run = Arc::new(copy);
    }
    Arc::get_mut(run).expect("nobody else has it now")
}

/// A write of so much that goes on where the last one ended is a copy under way: the run will be a whole extent.
const STREAM: usize = 256 * 1024;

/// A run begins no larger than what is written, or single bytes here and there would take a thousand times the memory
/// that they count for; it doubles from there.
fn append(run: &mut Plain, data: &[u8]) {
    let len = run.len() + data.len();
    if len > run.capacity() {
        let room = if data.len() >= STREAM { EXTENT_MAX } else { 2 * run.capacity() };
        run.grow_to(room.clamp(len, EXTENT_MAX));
    }
    run.extend_from_slice(data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn dirty_bytes_are_what_a_plain_array_holds(writes in prop::collection::vec((0u64..300, 1usize..60), 1..40)) {
            let mut plain = [None::<u8>; 400];
            let mut dirty = Dirty::default();
            let mut snapshots = Vec::new();
            for (k, (offset, len)) in writes.into_iter().enumerate() {
                snapshots.push((plain, dirty.snapshot()));
                let (before, bytes) = (dirty.cost(), dirty.bytes());
                let grown = dirty.write(offset, &vec![k as u8; len]);
                let fresh = plain[offset as usize..offset as usize + len].iter().filter(|b| b.is_none()).count();
                prop_assert_eq!(dirty.bytes() - bytes, fresh);
                prop_assert_eq!(grown, dirty.cost() - before);
                plain[offset as usize..offset as usize + len].fill(Some(k as u8));
            }
            let mut seen = [None::<u8>; 400];
            dirty.visit(&(5..333), |at, bytes| {
                bytes.iter().enumerate().for_each(|(k, b)| seen[at as usize + k] = Some(*b));
            });
            prop_assert_eq!(&seen[5..333], &plain[5..333]);
            prop_assert_eq!(dirty.bytes(), plain.iter().flatten().count());
            for (then, runs) in snapshots {
                let mut seen = [None::<u8>; 400];
                runs.visit(&(0..400), |at, bytes| {
                    bytes.iter().enumerate().for_each(|(k, b)| seen[at as usize + k] = Some(*b));
                });
                prop_assert_eq!(seen, then);
            }
            let (cost, runs) = (dirty.cost(), dirty.take());
            prop_assert_eq!(runs.cost(), cost);
            prop_assert_eq!((dirty.cost(), dirty.bytes()), (0, 0));
            let mut seen = [None::<u8>; 400];
            runs.visit(&(5..333), |at, bytes| {
                bytes.iter().enumerate().for_each(|(k, b)| seen[at as usize + k] = Some(*b));
            });
            prop_assert_eq!(&seen[5..333], &plain[5..333]);
        }
    }
}
