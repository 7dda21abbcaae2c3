//! The machine below a simulated drive: power that can go at any operation of disk or store, and the local disk.
//!
//! Owns the countdown to a crash. Does not own what a crash leaves (the simulated disk decides that).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use dripfs::base::disk::simulated::SimulatedDisk;
use dripfs::base::disk::{Disk, File};
use tokio::sync::Notify;

/// Every operation of disk and store asks here first. When the power is gone nothing has any effect any more.
pub struct Power {
    left: AtomicU64,
    gone: AtomicBool,
    went: Notify,
    steps: AtomicU64,
}

impl Power {
    /// The power goes right after `steps` operations.
    pub fn new(steps: u64) -> Arc<Power> {
        Arc::new(Power {
            left: AtomicU64::new(steps),
            gone: AtomicBool::new(false),
            went: Notify::new(),
            steps: AtomicU64::new(0),
        })
    }

    pub fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    pub fn cut(&self) {
        self.gone.store(true, Relaxed);
        self.went.notify_waiters();
    }

    /// One operation begins. False if it must have no effect.
    pub fn step(&self) -> bool {
        if self.is_gone() {
            return false;
        }
        self.steps.fetch_add(1, Relaxed);
        let left = self.left.load(Relaxed);
        if left == 0 {
            self.cut();
            return false;
        }
        self.left.store(left - 1, Relaxed);
        true
    }

    /// No crash by countdown any more.
    pub fn hold(&self) {
        self.left.store(u64::MAX, Relaxed);
    }

    pub fn steps(&self) -> u64 {
        self.steps.load(Relaxed)
    }

    /// Returns when the power is gone.
    pub async fn gone(&self) {
        let went = self.went.notified();
        tokio::pin!(went);
        went.as_mut().enable();
        if !self.is_gone() {
            went.await;
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.step() { Ok(()) } else { Err(io::Error::other("the power is gone")) }
    }
}

/// The local disk of one life.
pub struct PoweredDisk {
    pub inner: Arc<SimulatedDisk>,
    pub power: Arc<Power>,
}

struct PoweredFile {
    inner: Arc<dyn File>,
    power: Arc<Power>,
}

impl File for PoweredFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.power.check()?;
        self.inner.write_at(bytes, offset)
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.power.check()?;
        self.inner.read_at(out, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.power.check()?;
        self.inner.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.power.check()?;
        self.inner.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.power.check()?;
        self.inner.allocate(len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.power.check()?;
        self.inner.punch(offset, len)
    }
}

impl PoweredDisk {
    fn file(&self, inner: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(PoweredFile { inner, power: self.power.clone() })
    }
}

impl Disk for PoweredDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.power.check()?;
        Ok(self.file(self.inner.create(path)?))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.power.check()?;
        Ok(self.file(self.inner.open(path)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.power.check()?;
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.power.check()?;
        self.inner.remove(path)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.power.check()?;
        self.inner.create_dir(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.power.check()?;
        self.inner.list(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.power.check()?;
        self.inner.sync_dir(dir)
    }

    fn free(&self, dir: &str) -> io::Result<u64> {
        self.inner.free(dir)
    }
}
