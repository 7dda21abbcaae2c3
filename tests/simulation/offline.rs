//! Machines without the store (E4): a life may begin while its own link is down, or while the store gives no answer. It
//! goes on with what its machine knows, under a number of its own, perhaps over several mounts; when the link is back it
//! begins to write, or is shut out, since another machine has written meanwhile (E3).
//!
//! What is demanded of such a mount: promise 4, all the same, whatever the vault has come to. It comes up if the life
//! before ended with an unmount, drained or not (promise 5). It writes to the log only if nobody but its own machine has
//! since (see `remote.rs`); if somebody has, what was acknowledged lies aside afterwards. An unmount that says that
//! something is pending (exit 14) has lost nothing.

use std::rc::Rc;
use std::sync::Arc;

use dripfs::base::disk::Disk;
use dripfs::base::disk::simulated::SimulatedDisk;
use dripfs::mount::drive::{Drive, DriveOptions};
use dripfs::store::StoreError;
use dripfs::vault::VaultError;
use dripfs::vault::pin::PinFile;

use super::life::{Mounting, asides, check_pending};
use super::line::Line;
use super::model::Model;
use super::oracle::{Floor, Found};
use super::remote::{Front, Who};
use super::sim::{Sim, found, unlocked};
use super::world::Power;

fn no_answer() -> StoreError {
    StoreError::Unavailable { name: "simulated:///".to_owned(), why: "the link is down".to_owned() }
}

impl Sim {
    /// Opens a drive as a user's mount does: without the store, if that gives no answer. True: it came up without.
    pub async fn open(
        &self,
        who: Who,
        disk: Arc<dyn Disk>,
        power: &Arc<Power>,
        options: DriveOptions,
        may_be_offline: bool,
    ) -> Result<(Drive, bool), VaultError> {
        let front = || Front { remote: self.remote.clone(), power: Some(power.clone()), who };
        let pins = PinFile::open(disk.clone())?;
        let may = may_be_offline && pins.get().is_some();
        let why = match may && self.remote.is_unplugged(who.machine) {
            true => no_answer(),
            false => match Drive::open_in(self.world(front(), disk.clone()), unlocked(), pins, options.clone()).await {
                Err(VaultError::Store(why @ StoreError::Unavailable { .. })) if may => why,
                opened => return opened.map(|drive| (drive, false)),
            },
        };
        let pins = PinFile::open(disk.clone())?;
        let world = self.world(front(), disk);
        Drive::open_offline_in(world, unlocked(), pins, options, why).await.map(|drive| (drive, true))
    }

    /// How many reigns there are in the history of this line.
    fn reigns_of(&self, line: &Line) -> usize {
        self.remote.reigns_with(line.who.life).or(line.offline).unwrap_or_default()
    }

    /// Nobody but this machine has written since this line, which has never been in the log, came up.
    fn goes_on(line: &Line, lives: &[Who]) -> bool {
        let since = line.offline.and_then(|reigns| lives.get(reigns..));
        since.is_some_and(|since| since.iter().all(|who| who.machine == line.who.machine && who.life != line.who.life))
    }

    /// Whose history a vault shows to which these lives have written, in this order.
    pub fn line_after(&self, lives: &[Who]) -> Rc<Line> {
        let lines = self.lines.borrow();
        let of = |at: usize| {
            let who = lives[at];
            if let Some(line) = lines.get(&who.life) {
                return Some(line.clone());
            }
            // It never came up, but may have sent what its machine had changed without the store.
            let mut before = lines.range(..who.life).rev();
            let (_, line) = before.find(|(_, line)| line.who.machine == who.machine)?;
            Sim::goes_on(line, &lives[..=at]).then(|| line.clone())
        };
        (0..lives.len()).rev().find_map(of).unwrap_or_else(|| lines[&0].clone())
    }

    /// Whose history a mount with the store goes on with. `before`: who wrote before it.
    pub fn parent(&self, who: Who, before: &[Who]) -> Rc<Line> {
        let backup = self.machines[who.machine].restored.borrow().clone();
        let unsent = match &backup {
            Some(backup) => {
                Some(backup.line.clone()).filter(|line| line.offline.is_some_and(|reigns| reigns == before.len()))
            }
            None => self.last_line(who.machine).filter(|line| Sim::goes_on(line, before)),
        };
        // A reign that it found may have gone on since.
        let unsent = unsent.filter(|line| !self.remote.is_written_after(line.joined, line.who.machine));
        unsent.unwrap_or_else(|| self.line_after(before))
    }

    /// A life without the store, and another machine has written, or the vault was another's already: it never writes.
    pub fn is_shut_out(&self, line: &Line) -> bool {
        let Some(reigns) = line.offline.filter(|_| self.remote.reigns_with(line.who.life).is_none()) else {
            return false;
        };
        let others = |who: &Who| who.machine != line.who.machine;
        reigns == 0
            || self.remote.reigns_after(reigns - 1).first().is_some_and(others)
            || self.remote.reigns_after(reigns).iter().any(others)
    }

    /// A drive came up without the store and shows this: judged, it is where a line begins.
    pub fn came_up_offline(
        &self,
        mounting: &Mounting,
        model: Model,
        drive: &Drive,
        disk: &Arc<SimulatedDisk>,
    ) -> Result<Rc<Line>, String> {
        let who = mounting.who;
        let shown = found(&model);
        let own = self.last_line(who.machine).ok_or_else(|| "it has no history".to_owned()).and_then(|last| {
            let mut oracle = last.oracle.borrow().clone();
            let owed = oracle.local.clone();
            let at = oracle.recovered(&shown, &owed, "after the mount without the store")?;
            check_pending(&last, drive)?;
            Ok((last, oracle, at))
        });
        let asides = asides(disk)?;
        let (parent, oracle, at) = match own {
            // A mount that died on its way may have followed another machine's history.
            Err(why) if mounting.died => {
                let followed = self.followed(&shown).ok_or(why)?;
                self.check_aside(who, &shown, &asides, disk)?;
                followed
            }
            own => own?,
        };
        self.say(&format!("life {} came back without the store as of {at}: {:?}", who.life, model.names.entries));
        let reigns = self.reigns_of(&parent);
        self.remote.goes_on_from(who.life, reigns);
        let mut line = Line::new(who, model, oracle, asides.len());
        (line.offline, line.base, line.joined) = (Some(reigns), Some(parent), drive.status().sequence);
        let line = Rc::new(line);
        self.lines.borrow_mut().insert(who.life, line.clone());
        self.tally.borrow_mut().offline += 1;
        Ok(line)
    }

    /// A history in the log that had this state, whatever the vault has shown since.
    fn followed(&self, shown: &Found) -> Option<(Rc<Line>, super::oracle::Oracle, u64)> {
        let lives = self.remote.reigns_after(0);
        (0..=lives.len()).rev().find_map(|count| {
            let line = self.line_after(&lives[..count]);
            let mut oracle = line.oracle.borrow().clone();
            oracle.vault = Floor::default();
            let at = oracle.recovered(shown, &Floor::default(), "after the mount without the store").ok()?;
            Some((line, oracle, at))
        })
    }
}
