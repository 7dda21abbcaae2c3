//! The delta on a real disk: sled. The only user of sled; its names appear nowhere else.
//!
//! What sled 0.34 does not do itself is done here: its `flush` brings bytes to the kernel but does not fsync, so a
//! sync goes on through a handle of our own (I2).

use std::fs::{self, File};
use std::path::PathBuf;

use super::IndexError;
use super::table::{Batch, Table, Tables};

/// What sled may hold in memory of one table, bytes.
const CACHE: u64 = 32 << 20;

/// Tables as directories `delta-<n>`.
pub struct SledTables {
    dir: PathBuf,
}

impl SledTables {
    /// `dir` is the index's own, on the machine's disk.
    pub fn new(dir: PathBuf) -> SledTables {
        SledTables { dir }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("delta-{number}"))
    }

    fn numbers(&self) -> Vec<u64> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let number = |name: std::ffi::OsString| name.to_str()?.strip_prefix("delta-")?.parse().ok();
        entries.filter_map(|entry| number(entry.file_name())).collect()
    }
}

impl Tables for SledTables {
    fn create(&self, number: u64) -> Result<Box<dyn Table>, IndexError> {
        match fs::remove_dir_all(self.path(number)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        self.open(number)
    }

    fn open(&self, number: u64) -> Result<Box<dyn Table>, IndexError> {
        let path = self.path(number);
        let config = sled::Config::new().path(&path).cache_capacity(CACHE).flush_every_ms(None);
        // sled has panicked on files that a crash left behind; that must not end the mount.
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let db = config.open()?;
            let file = File::open(path.join("db"))?;
            Ok::<_, sled::Error>(Delta { db, file })
        }));
        match opened {
            Ok(Ok(delta)) => Ok(Box::new(delta)),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(IndexError::Damaged("it does not open".to_owned())),
        }
    }

    fn keep_only(&self, number: u64) {
        for other in self.numbers().into_iter().filter(|other| *other != number) {
            let _ = fs::remove_dir_all(self.path(other));
        }
    }

    fn newest(&self) -> u64 {
        self.numbers().into_iter().max().unwrap_or(0)
    }
}

struct Delta {
    db: sled::Db,
    file: File,
}

impl Table for Delta {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.db.get(key)?.map(|value| value.to_vec()))
    }

    fn range(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), IndexError> {
        for entry in self.db.range(from..=to) {
            let (key, value) = entry?;
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        let mut writes = sled::Batch::default();
        for (key, value) in batch {
            writes.insert(key, value);
        }
        Ok(self.db.apply_batch(writes)?)
    }

    fn sync(&self) -> Result<(), IndexError> {
        self.db.flush()?;
        Ok(self.file.sync_data()?)
    }
}

impl From<sled::Error> for IndexError {
    fn from(error: sled::Error) -> IndexError {
        match error {
            sled::Error::Io(error) => IndexError::Io(error.to_string()),
            other => IndexError::Damaged(other.to_string()),
        }
    }
}
