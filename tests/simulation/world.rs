//! The machine below a simulated drive: power that can go at any operation of disk or store, sleep, and the local disk
//! with its faults.
//!
//! Owns the countdown to a crash. Does not own what a crash leaves (the simulated disk decides that). While a machine
//! sleeps its requests stand still wherever they are and its users rest; its disk cannot stand still in one thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use dripfs::base::clock::Slept;
use dripfs::base::disk::simulated::{Dice, SimulatedDisk};
use dripfs::base::disk::{Disk, File};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Every operation of disk and store asks here first. When the power is gone nothing has any effect any more.
pub struct Power {
    left: AtomicU64,
    gone: AtomicBool,
    went: Notify,
    steps: AtomicU64,
    asleep: AtomicBool,
    /// What the machine's clock shows beyond what its timers have waited.
    pub slept: Slept,
    woke: Notify,
    /// No faults and no latency of the network for now.
    quiet: AtomicBool,
    /// What of the disk goes wrong, if anything ever does.
    faults: Option<Mutex<Dice>>,
    disk_failed: AtomicBool,
    read_failed: AtomicBool,
    /// The disk may give other bytes than were written: not while a journal is replayed, for what it lies about then is
    /// taken for the torn tail.
    may_lie: AtomicBool,
    /// Of ten thousand reads so many lie.
    lies: u64,
}

impl Power {
    /// The power goes right after `steps` operations.
    pub fn new(steps: u64) -> Arc<Power> {
        Power::with_faults(steps, None, 0)
    }

    /// As `new`, with a disk that now and then fails as these dice fall; of ten thousand reads so many lie.
    pub fn with_faults(steps: u64, faults: Option<Dice>, lies: u64) -> Arc<Power> {
        Arc::new(Power {
            left: AtomicU64::new(steps),
            gone: AtomicBool::new(false),
            went: Notify::new(),
            steps: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            slept: Slept::default(),
            woke: Notify::new(),
            quiet: AtomicBool::new(false),
            faults: faults.map(Mutex::new),
            disk_failed: AtomicBool::new(false),
            read_failed: AtomicBool::new(false),
            may_lie: AtomicBool::new(false),
            lies,
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

    pub fn sleep(&self) {
        self.asleep.store(true, Relaxed);
    }

    pub fn wake(&self) {
        self.asleep.store(false, Relaxed);
        self.woke.notify_waiters();
    }

    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Relaxed)
    }

    /// Returns when the machine is awake, or has no power any more.
    pub async fn awake(&self) {
        loop {
            let woke = self.woke.notified();
            tokio::pin!(woke);
            woke.as_mut().enable();
            if !self.is_asleep() || self.is_gone() {
                return;
            }
            tokio::select! {
                biased;
                () = woke => {}
                () = self.gone() => {}
            }
        }
    }

    pub fn quiet(&self, quiet: bool) {
        self.quiet.store(quiet, Relaxed);
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet.load(Relaxed)
    }

    /// Errors of the journal are no surprise any more.
    pub fn disk_failed(&self) -> bool {
        self.disk_failed.load(Relaxed)
    }

    /// From now on what is read may be something else.
    pub fn let_lie(&self) {
        self.may_lie.store(true, Relaxed);
    }

    /// A round that cannot read what it must send is the last: the drive may be read-only.
    pub fn read_failed(&self) -> bool {
        self.read_failed.load(Relaxed)
    }

    /// Does the disk fail now? So seldom: of ten thousand times.
    fn fails(&self, of_ten_thousand: u64) -> bool {
        let fails = self.faults.as_ref().is_some_and(|dice| dice.lock().below(10_000) < of_ten_thousand);
        if fails {
            self.disk_failed.store(true, Relaxed);
        }
        fails
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

/// Of ten thousand writes so many fail after a part, and of as many syncs (of files, of directories), and reads.
const WRITES_FAIL: u64 = 20;
const SYNCS_FAIL: u64 = 200;
const READS_FAIL: u64 = 10;
pub const READS_LIE: u64 = 20;

struct PoweredFile {
    inner: Arc<dyn File>,
    disk: Arc<SimulatedDisk>,
    power: Arc<Power>,
}

impl File for PoweredFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.power.check()?;
        if self.power.fails(WRITES_FAIL) {
            self.disk.fail_writes(1);
        }
        self.inner.write_at(bytes, offset)
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.power.check()?;
        if self.power.fails(READS_FAIL) {
            self.power.read_failed.store(true, Relaxed);
            return Err(io::Error::other("this block cannot be read"));
        }
        self.inner.read_at(out, offset)?;
        if self.power.may_lie.load(Relaxed) && self.power.fails(self.power.lies) {
            self.power.read_failed.store(true, Relaxed);
            out.iter_mut().take(1).for_each(|byte| *byte ^= 1);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.power.check()?;
        if self.power.fails(SYNCS_FAIL) {
            self.disk.fail_sync_data(1);
        }
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
        Arc::new(PoweredFile { inner, disk: self.inner.clone(), power: self.power.clone() })
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
        if self.power.fails(SYNCS_FAIL) {
            self.inner.fail_sync_dir(1);
        }
        self.inner.sync_dir(dir)
    }

    fn free(&self, dir: &str) -> io::Result<u64> {
        self.inner.free(dir)
    }
}
