//! A follower in the simulation: a third machine that mounts the vault read-only and looks at random times while others
//! write (E5).
//!
//! What is demanded of each look that reached the end of the log: a cut of the drive's history, not older than what the
//! vault had acknowledged, or shown to anybody, before the look began. Of each look that did not (the network failed):
//! not older than what this machine has seen. Of a file that it has open: the bytes of the open, each time they are
//! read. It is killed, loses its power, and goes on from its own index, now and then from an old one; at the end it shows what the model holds.
//!
//! It looks only when it is told to, so that what one observation sees is one state.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dripfs::base::clock::Slept;
use dripfs::base::disk::Disk;
use dripfs::base::disk::simulated::{Dice, SeededBytes, SimulatedDisk};
use dripfs::base::{Ino, Random};
use dripfs::fs::FsError;
use dripfs::history::versions::VersionId;
use dripfs::index::{Tables, TwinTables};
use dripfs::mount::drive::{Drive, DriveOptions, World};
use dripfs::pipeline::Cpu;
use dripfs::store::Store;
use dripfs::vault::VaultError;
use dripfs::vault::pin::PinFile;

use tokio::time::Instant;

use super::model::Model;
use super::oracle::Floor;
use super::remote::{Front, Who};
use super::sim::{GC, Sim, clock, found, observe, unlocked};
use super::users::dice;
use super::world::Power;

/// It writes nothing.
const FOLLOWER: Who = Who { machine: usize::MAX - 1, life: u64::MAX - 1 };

pub struct Follower {
    dice: RefCell<Dice>,
    disk: RefCell<Arc<SimulatedDisk>>,
    /// What it has shown, it shows for ever.
    seen: RefCell<Floor>,
    /// Its state directory as it once was, and what it had shown then: a machine that was off for long.
    old: RefCell<Option<(Arc<SimulatedDisk>, Floor)>>,
    /// Its network is as bad as the others'.
    faults: bool,
}

/// A file that it has open.
struct Open {
    ino: Ino,
    version: VersionId,
    bytes: Vec<u8>,
    opened: Instant,
}

/// What the vault had acknowledged when a look began, to the life that had written to it last.
struct Acknowledged {
    life: u64,
    floor: Floor,
}

impl Acknowledged {
    fn now(sim: &Sim) -> Acknowledged {
        let line = sim.line_after(&sim.remote.up_to(u64::MAX));
        let floor = line.oracle.borrow().vault.clone();
        Acknowledged { life: line.who.life, floor }
    }
}

impl Follower {
    pub fn new(seed: u64) -> Follower {
        Follower {
            dice: RefCell::new(dice(seed, 77)),
            disk: RefCell::new(SimulatedDisk::new(seed ^ 0x7777)),
            seen: RefCell::default(),
            old: RefCell::default(),
            faults: seed.is_multiple_of(2),
        }
    }

    fn below(&self, bound: u64) -> u64 {
        self.dice.borrow_mut().below(bound)
    }

    async fn pause(&self, most: u64) {
        let time = self.below(most * 1000);
        tokio::time::sleep(Duration::from_millis(10 + time)).await;
    }

    /// Lives beside a writer until it is dropped.
    pub async fn live(sim: Rc<Sim>) {
        let follower = &sim.follower;
        loop {
            follower.pause(30).await;
            let looks = 1 + follower.below(6);
            if let Err(why) = follower.mounted(&sim, looks, follower.faults).await {
                return sim.broken(format!("the follower: {why}"));
            }
        }
    }

    /// When all is calm: it shows exactly what there is.
    pub async fn last_look(&self, sim: &Sim) -> Result<Model, String> {
        let drive = self.mount(sim, false).await.map_err(|error| format!("the follower, at the end: {error}"))?;
        if !drive.look().await {
            return Err("the follower does not come to the end of a calm log".to_owned());
        }
        observe(&drive.fs).await.map_err(|error| format!("the follower, at the end: {error}"))
    }

    async fn mount(&self, sim: &Sim, faults: bool) -> Result<Drive, VaultError> {
        let disk = {
            let cut = self.below(2) == 0;
            if self.below(10) == 0
                && let Some((disk, seen)) = self.old.take()
            {
                (*self.disk.borrow_mut(), *self.seen.borrow_mut()) = (disk, seen);
            }
            let before = self.disk.borrow().clone();
            let after = if cut { before.power_cut(&mut self.dice.borrow_mut()) } else { before.kill() };
            *self.disk.borrow_mut() = after.clone();
            if self.below(10) == 0 {
                *self.old.borrow_mut() = Some((after.copy(), self.seen.borrow().clone()));
            }
            after
        };
        let disk: Arc<dyn Disk> = disk;
        let power = faults.then(|| Power::new(u64::MAX));
        let front = Front { remote: sim.remote.clone(), power, who: FOLLOWER };
        let tables = disk.clone();
        let world = World {
            store: Store::over(Arc::new(front), "simulated:///"),
            tables: Arc::new(move |dir| Arc::new(TwinTables::new(tables.clone(), dir)) as Arc<dyn Tables>),
            disk: disk.clone(),
            random: Random::Simulated(Arc::new(SeededBytes::new(self.below(u64::MAX)))),
            clock: clock(sim.remote.now(), Slept::default()),
            cpu: Cpu::inline(),
            journal_thread: false,
            host: "follower".to_owned(),
        };
        let pins = PinFile::open(disk)?;
        let options = DriveOptions { follow_seconds: 1 << 30, ..sim.options(true, false, false, GC) };
        Drive::open_in(world, unlocked(), pins, options).await
    }

    async fn mounted(&self, sim: &Sim, looks: u64, faults: bool) -> Result<(), String> {
        let acknowledged = Some(Acknowledged::now(sim));
        let drive = match self.mount(sim, faults).await {
            Ok(drive) => drive,
            Err(VaultError::Store(_)) if faults => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let mut open: Vec<Open> = Vec::new();
        self.judge(sim, &drive, acknowledged, faults).await?;
        for _ in 0..looks {
            self.pause(60).await;
            let acknowledged = Acknowledged::now(sim);
            let reached = drive.look().await;
            let status = drive.status();
            let floor = match (reached, status.state.as_str(), status.reason) {
                (true, "read-only", None) => Some(acknowledged),
                // A request may hang for longer than who looks waits.
                (false, "outage", _) | (false, "read-only", None) if faults => None,
                other => return Err(format!("after a look: {other:?}")),
            };
            let shown = self.judge(sim, &drive, floor, faults).await?;
            for file in &open {
                match self.read(&drive, file).await {
                    Ok(bytes) if bytes == file.bytes => {}
                    Ok(_) => return Err(format!("{} is not what it was when it was opened", file.ino)),
                    Err(FsError::Io(_)) if faults => {}
                    // Its objects are gone, after gc's grace.
                    Err(FsError::Stale) if file.opened.elapsed() > GC.grace => {}
                    Err(error) => return Err(format!("{}, which is open: {error}", file.ino)),
                }
            }
            if let Some(shown) = shown
                && !shown.files.is_empty()
            {
                let (ino, file) =
                    shown.files.iter().nth(self.below(shown.files.len() as u64) as usize).expect("counted");
                let version = drive.fs.hold(Ino(*ino)).map_err(|error| format!("opening {ino:#x}: {error}"))?;
                let version = version.expect("a follower holds what is open");
                open.push(Open { ino: Ino(*ino), version, bytes: file.bytes.clone(), opened: Instant::now() });
            }
            if open.len() > 4 {
                drive.fs.let_go(open.remove(0).version);
            }
        }
        if self.below(2) == 0 {
            drop(drive.close(|_| ()).await);
        }
        Ok(())
    }

    async fn read(&self, drive: &Drive, file: &Open) -> Result<Vec<u8>, FsError> {
        let size = file.bytes.len() as u32 + 1;
        drive.fs.read_version(file.ino, file.version, 0, size).await.map(|bytes| bytes.to_vec())
    }

    /// Judges what it shows now; `None` if the network let nothing be seen.
    async fn judge(
        &self,
        sim: &Sim,
        drive: &Drive,
        acknowledged: Option<Acknowledged>,
        faults: bool,
    ) -> Result<Option<Model>, String> {
        let before = drive.status().sequence;
        let model = match observe(&drive.fs).await {
            Ok(model) => model,
            Err(FsError::Io(_)) if faults => return Ok(None),
            // A read that missed an object made it look, and the file is no more.
            Err(FsError::Stale) if drive.status().sequence != before => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        // The same, and the file is still there.
        if drive.status().sequence != before {
            return Ok(None);
        }
        let line = sim.line_after(&sim.remote.up_to(before));
        let floor = match acknowledged {
            Some(acknowledged) if acknowledged.life == line.who.life => acknowledged.floor,
            // Another machine goes on with the history: what the one before was told meanwhile is told elsewhere.
            _ => self.seen.borrow().clone(),
        };
        let seen = line.oracle.borrow_mut().followed(&found(&model), &floor)?;
        self.seen.borrow_mut().raise(&seen);
        sim.say(&format!("  the follower is at {before}: as of {}", seen.names));
        Ok(Some(model))
    }
}
