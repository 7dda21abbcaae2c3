//! The delta's twin for a simulated disk: one file of batches, each with a hash that continues the one before, and a
//! map of them in memory.
//!
//! What was applied and not synced may be lost or torn by a power cut, as with the real one; a batch that is not whole
//! ends what is read back.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use super::IndexError;
use super::table::{Batch, Table, Tables};
use crate::base::disk::{Disk, File};
use crate::crypto::kdf;

const HASH: usize = 32;

pub struct TwinTables {
    dir: &'static str,
    disk: Arc<dyn Disk>,
}

impl TwinTables {
    pub fn new(disk: Arc<dyn Disk>, dir: &'static str) -> TwinTables {
        TwinTables { dir, disk }
    }

    fn path(&self, number: u64) -> String {
        format!("{}/twin-{number}", self.dir)
    }

    fn numbers(&self) -> Vec<u64> {
        let names = self.disk.list(self.dir).unwrap_or_default();
        names.iter().filter_map(|name| name.strip_prefix("twin-")?.parse().ok()).collect()
    }
}

impl Tables for TwinTables {
    fn create(&self, number: u64) -> Result<Box<dyn Table>, IndexError> {
        match self.disk.remove(&self.path(number)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let file = self.disk.create(&self.path(number))?;
        self.disk.sync_dir(self.dir)?;
        Ok(Box::new(Twin { file, state: Mutex::default() }))
    }

    fn open(&self, number: u64) -> Result<Box<dyn Table>, IndexError> {
        let file = self.disk.open(&self.path(number))?;
        let mut bytes = vec![0; file.len()? as usize];
        file.read_at(&mut bytes, 0)?;
        let mut state = State::default();
        while let Some(batch) = read(&state.hash, &bytes[state.end as usize..]) {
            state.end += batch.len;
            state.hash = batch.hash;
            state.records.extend(batch.records);
        }
        Ok(Box::new(Twin { file, state: Mutex::new(state) }))
    }

    fn keep_only(&self, number: u64) {
        for other in self.numbers().into_iter().filter(|other| *other != number) {
            let _ = self.disk.remove(&self.path(other));
        }
    }

    fn newest(&self) -> u64 {
        self.numbers().into_iter().max().unwrap_or(0)
    }
}

#[derive(Default)]
struct State {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    end: u64,
    /// Of the last batch.
    hash: [u8; HASH],
}

struct Twin {
    file: Arc<dyn File>,
    state: Mutex<State>,
}

impl Table for Twin {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.state.lock().records.get(key).cloned())
    }

    fn range(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), IndexError> {
        let state = self.state.lock();
        for (key, value) in state.records.range::<[u8], _>((Bound::Included(from), Bound::Included(to))) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        let mut state = self.state.lock();
        let mut bytes = state.hash.to_vec();
        for part in batch.iter().flat_map(|(key, value)| [key, value]) {
            bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        let hash = kdf::hash(&bytes);
        let bytes = &bytes[HASH..];
        let mut out = (bytes.len() as u64).to_le_bytes().to_vec();
        out.extend_from_slice(&hash);
        out.extend_from_slice(bytes);
        self.file.write_at(&out, state.end)?;
        state.end += out.len() as u64;
        state.hash = hash;
        state.records.extend(batch);
        Ok(())
    }

    fn sync(&self) -> Result<(), IndexError> {
        Ok(self.file.sync_data()?)
    }
}

struct Whole {
    records: Batch,
    len: u64,
    hash: [u8; HASH],
}

fn read(before: &[u8; HASH], bytes: &[u8]) -> Option<Whole> {
    let (len, rest) = bytes.split_first_chunk::<8>()?;
    let len = u64::from_le_bytes(*len) as usize;
    let (hash, rest) = rest.split_first_chunk::<HASH>()?;
    let mut rest = rest.get(..len)?;
    if kdf::hash(&[before, rest].concat()) != *hash {
        return None;
    }
    let mut records = Batch::new();
    let mut part = || {
        let (len, after) = rest.split_first_chunk::<4>()?;
        let part = after.get(..u32::from_le_bytes(*len) as usize)?;
        rest = &after[part.len()..];
        Some(part.to_vec())
    };
    while let (Some(key), Some(value)) = (part(), part()) {
        records.push((key, value));
    }
    Some(Whole { records, len: (8 + HASH + len) as u64, hash: *hash })
}
