//! One life of a machine: mount, judgement of what came back, work, and an end.
//!
//! What is demanded of a mount depends on whose the log object before its epoch record is. Its own: promise 4, unless
//! the state directory was restored. Another's: what the vault shows, and the journal set aside if it holds what its
//! machine acknowledged and the successor had not found. A life that is overtaken must be fenced at its next commit.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dripfs::base::disk::Disk;
use dripfs::base::disk::simulated::SimulatedDisk;
use dripfs::base::{Position, Sequence};
use dripfs::format::commit::{Body, Commit, LogObject};
use dripfs::history::count_lacking;
use dripfs::index::IndexError;
use dripfs::journal::{Journal, JournalError};
use dripfs::mount::drive::{Closed, Drive};
use dripfs::vault::VaultError;
use dripfs::vault::aside::{self, SetAside};
use dripfs::vault::gc;

use super::line::Line;
use super::model::Model;
use super::oracle::{Floor, Found};
use super::remote::Who;
use super::sim::{GC, Leaning, Sim, found, observe, unlocked};
use super::users::{Life, dice};
use super::world::{Power, PoweredDisk};

/// Nothing that mounts, drains or closes may take longer once the remote answers.
const LONG: Duration = Duration::from_secs(4 * 3600);
/// Then the users of a calm life have long been done.
pub const QUIET: Duration = Duration::from_secs(1000);
/// What is older than this at a crash should be in the journal (3 s in memory, 5 s until fdatasync, and some).
const AGED: Duration = Duration::from_secs(30);

/// What an empty journal may consist of: the current file, one before it, and what an earlier mount left half made.
const JOURNAL_FILES: usize = 4;

/// How a life ended.
#[derive(Clone, Copy, PartialEq)]
pub enum End {
    Crashed,
    Drained,
}

/// What a life is to be.
#[derive(Clone)]
pub struct Plan {
    pub machine: usize,
    /// After so many operations of disk or remote the power goes.
    pub steps: u64,
    pub users: usize,
    pub calls: usize,
    pub remote: bool,
    /// No faults: one of the last lives, which must drain.
    pub calm: bool,
    /// It unmounts when the users are done.
    pub closes: bool,
    /// Before that nothing happens for so long but what the drive does by itself.
    pub lingers: Duration,
    /// After so long it sleeps.
    pub sleeps: Option<Duration>,
    /// As it begins its machine's link goes down for so long.
    pub unplugs: Option<Duration>,
}

/// What is known of a life that is mounting.
pub struct Mounting {
    pub who: Who,
    takeover: bool,
    /// The newest log object was its machine's.
    own: bool,
    /// The state directory is a copy.
    restored: bool,
    /// It must be able to do without the store: the life before was unmounted, and the link is down from the first.
    clean: bool,
    /// A mount has ended on its way since a life came up.
    pub died: bool,
}

impl Sim {
    /// One life of a machine, from mount to crash or unmount.
    pub async fn life(self: &Rc<Self>, plan: &Plan) -> Result<End, String> {
        self.restore(plan);
        if let Some(time) = plan.unplugs {
            self.say(&format!("machine {}: its link is down for {time:?}", plan.machine));
            self.remote.unplug(plan.machine, time);
        }
        let number = self.next_life();
        let who = Who { machine: plan.machine, life: number };
        let faults = (self.disk_faults && !plan.calm).then(|| dice(self.below(1 << 40), 3));
        let power = Power::with_faults(plan.steps, faults, self.leaning.lies());
        let disk = self.machines[plan.machine].disk.borrow().clone();
        let end = tokio::select! {
            biased;
            end = self.live(plan, who, &disk, &power) => end,
            () = power.gone() => Ok(End::Crashed),
        };
        power.cut();
        self.remote.crashed(number);
        self.tally.borrow_mut().steps += power.steps();
        self.verdict()?;
        let power_cut = self.chance(60) && end != Ok(End::Drained);
        *self.machines[plan.machine].disk.borrow_mut() = match power_cut {
            true => self.with_dice(|dice| disk.power_cut(dice)),
            false => disk.kill(),
        };
        if end == Ok(End::Crashed) {
            self.tally.borrow_mut().crashes += 1;
            let how = if power_cut { "the power was cut" } else { "the process was killed" };
            self.say(&format!("machine {}: {how}", plan.machine));
        }
        end
    }

    async fn live(
        self: &Rc<Self>,
        plan: &Plan,
        who: Who,
        disk: &Arc<SimulatedDisk>,
        power: &Arc<Power>,
    ) -> Result<End, String> {
        let machine = plan.machine;
        let restored = self.machines[machine].restored.borrow().is_some();
        let own = self.remote.is_own(machine);
        let takeover = match (own && !restored, self.is_idle()) {
            (true, _) => !plan.calm && self.chance(5),
            (false, true) => self.chance(50) || (restored && plan.calm),
            (false, false) => plan.calm || self.chance(80),
        };
        let clean = self.machines[machine].clean.replace(false) && self.remote.is_unplugged(machine);
        // It may end at any moment from here on.
        let died = self.machines[machine].died.replace(true);
        let mounting = Mounting { who, takeover, own, restored, clean, died };
        self.say(&format!("machine {machine} mounts, life {} (own {own}, takeover {takeover})", who.life));
        self.lines.borrow().values().for_each(|line| line.oracle.borrow_mut().mounts());
        let powered: Arc<dyn Disk> = Arc::new(PoweredDisk { inner: disk.clone(), power: power.clone() });
        // The last life has one sweep, when all is quiet.
        let gc = if plan.calm { gc::Settings { first: QUIET, every: LONG, merge_after: 0, ..GC } } else { GC };
        let mut options = self.options(false, plan.remote, takeover, gc);
        if plan.calm {
            // What no round takes is sent ahead, however little it is: all comes by itself.
            options.rounds.ahead_least = 1;
        }
        let opened = self.open(who, powered, power, options, !restored);
        let opened = tokio::time::timeout(LONG, opened).await.map_err(|_| "mounting hangs".to_owned())?;
        let (drive, offline) = match opened {
            Ok((drive, offline)) => (Rc::new(drive), offline),
            Err(error) => {
                return match power.is_gone() {
                    true => Ok(End::Crashed),
                    false => self.refused(plan, &mounting, power, &error),
                };
            }
        };
        power.quiet(true);
        let model = observe(&drive.fs).await;
        power.quiet(false);
        let model = match model {
            Ok(model) => model,
            Err(_) if power.is_gone() || power.disk_failed() => return Ok(End::Crashed),
            // What only the vault has may be gone there, if another machine has written meanwhile; or have moved, if the index
            // is an older copy.
            Err(_) if offline && (!self.remote.is_own(machine) || self.machines[machine].patched.get()) => {
                return Ok(End::Crashed);
            }
            Err(error) => return Err(format!("after the mount: {error}")),
        };
        let line = match offline {
            true => self.came_up_offline(&mounting, model, &drive, disk)?,
            false => {
                self.check_in_use(&mounting).await?;
                self.came_up(&mounting, model, &drive, disk)?
            }
        };
        self.machines[machine].died.set(false);
        self.remote.came_up(who.life);
        power.let_lie();
        self.machines[machine].patched.set(false);
        self.work(plan, line, drive, disk, power).await
    }

    /// E2: a vault that another machine has not left was taken with `--takeover` only. (An unmount that crashed may have
    /// left it all the same.)
    async fn check_in_use(&self, mounting: &Mounting) -> Result<(), String> {
        let Mounting { who, takeover, restored, .. } = *mounting;
        let before = self.remote.before(who.life);
        let foreign = before.last().is_some_and(|last| last.machine != who.machine);
        if takeover || restored || !foreign {
            return Ok(());
        }
        let (number, object) = self.remote.newest_before(who.life).await;
        let object = LogObject::open(&unlocked().keys, Sequence(number), &object).map_err(|error| error.to_string())?;
        match object.body {
            Body::Commit(Commit { idle: true, .. }) => Ok(()),
            _ => Err(format!("E2: {who:?} mounts without --takeover a vault that is in use")),
        }
    }

    /// The drive shows this: judged, it is where a line begins.
    fn came_up(
        &self,
        mounting: &Mounting,
        model: Model,
        drive: &Drive,
        disk: &Arc<SimulatedDisk>,
    ) -> Result<Rc<Line>, String> {
        let Mounting { who, restored, .. } = *mounting;
        let before = self.remote.before(who.life);
        let parent = self.parent(who, &before);
        // A machine that took over and crashed before it came up owes nothing of what was acknowledged elsewhere. And one
        // that another took over from, which crashed before it came up, has set its own history aside (E3).
        let since = before.iter().skip_while(|before| before.life != parent.who.life);
        let follows = parent.who.machine == who.machine
            && !before.is_empty()
            && since.into_iter().all(|before| before.machine == who.machine);
        let own = follows && !restored;
        let found = found(&model);
        let mut oracle = parent.oracle.borrow().clone();
        let local = match own {
            true => oracle.local.clone(),
            false => self.owed_by_copy(who, &before, &parent).unwrap_or_default(),
        };
        let at = oracle.recovered(&found, &local, "after the mount");
        self.say(&format!("life {} came back as of {at:?}: {:?}", who.life, model.names.entries));
        at?;
        if own {
            check_pending(&parent, drive)?;
        } else {
            parent.successor.borrow_mut().get_or_insert_with(|| found.clone());
            parent.kept_by_successor()?;
        }
        let asides = asides(disk)?;
        if !own && !restored {
            self.check_aside(who, &found, &asides, disk)?;
        }
        self.machines[who.machine].restored.replace(None);
        let line = Rc::new(Line::new(who, model, oracle, asides.len()));
        self.lines.borrow_mut().insert(who.life, line.clone());
        Ok(line)
    }

    /// What the machine that a state directory was copied from owed then, if nothing has entered the log since.
    fn owed_by_copy(&self, who: Who, before: &[Who], parent: &Rc<Line>) -> Option<Floor> {
        let backup = self.machines[who.machine].restored.borrow().clone()?;
        // One that another machine took over from sets its own history aside, also if that one never came up.
        let mut since = before.iter().skip_while(|before| before.life != parent.who.life);
        let is_of_parent = Rc::ptr_eq(parent, &backup.line) && since.all(|before| before.machine == parent.who.machine);
        let unchanged = self.remote.length_before(who.life) == backup.log_len
            && (is_of_parent || before.last().is_some_and(|last| last.life == backup.life));
        unchanged.then(|| backup.local.clone())
    }

    /// E3: what this machine acknowledged and the successor did not find lies aside, whole.
    pub fn check_aside(
        &self,
        who: Who,
        found: &Found,
        asides: &[SetAside],
        disk: &Arc<SimulatedDisk>,
    ) -> Result<(), String> {
        let Some(mut last) = self.last_line(who.machine) else { return Ok(()) };
        let lines: Vec<Rc<Line>> = self.lines.borrow().values().cloned().collect();
        let written: Vec<_> =
            lines.into_iter().filter(|line| self.remote.reigns_with(line.who.life).is_some()).collect();
        let successor = last.taken_over(&written);
        // A life without the store on which nothing was done acknowledged nothing of its own.
        while last.is_untouched_offline() {
            match last.base.clone().filter(|base| base.who.machine == who.machine) {
                Some(base) if base.drained.get() => return Ok(()),
                Some(base) => last = base,
                None => return Ok(()),
            }
        }
        if !last.owes(successor.as_ref().unwrap_or(found)) {
            return Ok(());
        }
        if asides.len() <= last.asides {
            return Err(format!(
                "E3: life {} acknowledged what no vault has, and no journal was set aside",
                last.who.life
            ));
        }
        let newest = asides.last().expect("there are more than none");
        let keys = Arc::new(unlocked().keys);
        let aside = Journal::recover(disk.clone(), &newest.journal(), keys, Position(0));
        let aside = aside.map_err(|error| format!("E3: the journal that was set aside: {error}"))?;
        if count_lacking(&aside.changes, newest.about.known()) == 0 {
            return Err("E3: the journal that was set aside holds nothing that the vault lacks".to_owned());
        }
        self.tally.borrow_mut().asides += 1;
        Ok(())
    }

    async fn work(
        self: &Rc<Self>,
        plan: &Plan,
        line: Rc<Line>,
        drive: Rc<Drive>,
        disk: &Arc<SimulatedDisk>,
        power: &Arc<Power>,
    ) -> Result<End, String> {
        let life = Rc::new(Life {
            sim: self.clone(),
            drive,
            power: power.clone(),
            disk: disk.clone(),
            number: line.who.life,
            machine: plan.machine,
            line,
            remote: plan.remote,
            calls: Cell::new(0),
            begun: Cell::new(0),
            fenced: Cell::new(false),
            closing: Cell::new(false),
            reading: RefCell::new(Vec::new()),
            marks: RefCell::new(Vec::new()),
        });
        let chance = tokio::task::spawn_local(life.clone().chance_events(!plan.calm));
        let sleeper = plan.sleeps.map(|after| {
            let life = life.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(after).await;
                life.sleep().await;
            })
        });
        let mut users: Vec<_> =
            (0..plan.users).map(|_| tokio::task::spawn_local(life.clone().user(plan.calls))).collect();
        let worked = async {
            for user in &mut users {
                user.await.map_err(|error| format!("a user's task failed: {error}"))?;
            }
            Ok::<(), String>(())
        };
        let worked = tokio::select! {
            biased;
            () = power.gone() => Ok(()),
            worked = worked => worked,
        };
        chance.abort();
        sleeper.iter().for_each(|sleeper| sleeper.abort());
        users.iter().for_each(|user| user.abort());
        power.wake();
        worked?;
        let lost = self.remote.is_overtaken(life.number) || self.is_shut_out(&life.line);
        if !power.is_gone() && lost {
            self.check_fenced(&life).await?;
        }
        if plan.lingers > Duration::ZERO && !power.is_gone() {
            self.say(&format!("lingers for {:?}", plan.lingers));
            if plan.calm {
                power.hold();
                life.close_all();
            }
            tokio::select! {
                biased;
                () = power.gone() => {}
                () = tokio::time::sleep(plan.lingers) => {}
            }
            if self.leaning == Leaning::Holds {
                life.read_open().await;
                self.verdict()?;
            }
        }
        if !power.is_gone() && plan.closes {
            return self.close(plan, &life).await;
        }
        power.cut();
        self.age(&life);
        Ok(End::Crashed)
    }

    /// E3: at its next commit at the latest a life that was overtaken is fenced. If there is nothing to commit, it may
    /// not know.
    async fn check_fenced(&self, life: &Life) -> Result<(), String> {
        let synced = tokio::time::timeout(LONG, life.sync()).await.map_err(|_| "the sync of a fenced drive hangs")?;
        if life.power.is_gone() {
            return Ok(());
        }
        let status = life.drive.status();
        if synced.is_err() && status.state != "fenced" && !life.power.read_failed() {
            return Err(format!("overtaken, but {}: {:?}", status.state, status.reason));
        }
        self.say(&format!("life {} was overtaken, its sync: {synced:?}", life.number));
        match self.remote.reigns_with(life.number) {
            Some(_) => self.tally.borrow_mut().overtaken += 1,
            None => self.tally.borrow_mut().shut_out += 1,
        }
        Ok(())
    }

    /// What was done long before the crash has reached the journal by itself.
    fn age(&self, life: &Life) {
        let now = self.remote.now();
        let plain = self.dirty_bytes >= 8 << 20 && self.journal_bytes >= 64 << 20 && !life.power.disk_failed();
        let marks = life.marks.borrow();
        if let Some((_, then)) = marks.iter().rev().find(|(at, _)| *at + AGED < now).filter(|_| plain) {
            life.line.oracle.borrow_mut().aged(*then);
        }
    }

    async fn close(&self, plan: &Plan, life: &Life) -> Result<End, String> {
        if plan.calm {
            life.power.hold();
        }
        let call = life.line.oracle.borrow().now();
        let was_overtaken = self.remote.is_overtaken(life.number);
        let is_clean = || !life.power.disk_failed();
        let machine = &self.machines[plan.machine];
        let closed = tokio::time::timeout(LONG, life.drive.close(|_| {})).await;
        match closed {
            _ if life.power.is_gone() => Ok(End::Crashed),
            Err(_) => Err("unmounting hangs".to_owned()),
            Ok(Ok(Closed::Drained)) if was_overtaken && !life.line.is_untouched_offline() => {
                Err("E3: a life that was overtaken says that everything is in the vault".to_owned())
            }
            Ok(Ok(Closed::Drained)) if plan.calm && files_of_journal(&life.disk) > JOURNAL_FILES => {
                Err(format!("J5: all is in the vault, and the journal has {} files", files_of_journal(&life.disk)))
            }
            Ok(Ok(Closed::Drained)) => {
                self.say(&format!("life {} unmounted", life.number));
                life.line.oracle.borrow_mut().all_acknowledged(call, true);
                life.line.kept_by_successor()?;
                if self.remote.reigns_with(life.number).is_some() {
                    self.idle.set(life.number);
                }
                life.line.drained.set(true);
                machine.clean.set(is_clean());
                Ok(End::Drained)
            }
            Ok(other) if plan.calm => Err(format!("everything is calm, but the drive does not drain: {other:?}")),
            // Exit 14: it waits in the journal, all of it.
            Ok(Ok(Closed::Pending(bytes))) => {
                self.say(&format!("life {} unmounted, {bytes} bytes are pending", life.number));
                if is_clean() {
                    life.line.oracle.borrow_mut().all_acknowledged(call, false);
                    self.tally.borrow_mut().pending += 1;
                }
                machine.clean.set(is_clean());
                Ok(End::Crashed)
            }
            Ok(other) => {
                self.say(&format!("not drained: {other:?}"));
                Ok(End::Crashed)
            }
        }
    }

    fn refused(&self, plan: &Plan, mounting: &Mounting, power: &Power, error: &VaultError) -> Result<End, String> {
        let Mounting { takeover, own, restored, clean, died, .. } = *mounting;
        let patched = self.machines[plan.machine].patched.get();
        let expected = match error {
            // Journal and index need not be sound after a crash.
            VaultError::Unreachable { .. } => !plan.calm && (!clean || patched || power.disk_failed()),
            VaultError::Store(_) => !plan.calm,
            // A late create of the life before was quicker, or a machine that mounts at the same time.
            VaultError::InUse { host, .. } if host.starts_with("another machine") => !plan.calm,
            // Whose the newest log object is may have changed since.
            VaultError::InUse { .. } => !takeover && (!own || restored || !self.remote.is_own(plan.machine)),
            VaultError::State { .. }
            | VaultError::Journal(JournalError::Io { .. })
            | VaultError::Index(IndexError::Io(_))
                if power.disk_failed() =>
            {
                true
            }
            // An older copy was put back; or a mount died while it let go of a journal all of which the vault had, because
            // another machine goes on: what is left of it is none to go on from without the store.
            VaultError::State { .. } => (restored && !takeover) || patched || (died && !own),
            _ => false,
        };
        self.say(&format!("refused: {error}"));
        if !expected {
            return Err(format!("the mount is refused: {error}"));
        }
        if matches!(error, VaultError::InUse { .. } | VaultError::State { .. }) {
            self.tally.borrow_mut().refused += 1;
        }
        Ok(End::Crashed)
    }
}

fn files_of_journal(disk: &SimulatedDisk) -> usize {
    disk.list("journal").map_or(0, |files| files.len())
}

/// A vault that took everything lacks nothing after the next mount (C5).
pub fn check_pending(parent: &Line, drive: &Drive) -> Result<(), String> {
    let pending = drive.pending();
    let lacks = pending.pending_bytes > 0 || pending.pending_files > 0;
    match parent.drained.get() && lacks {
        true => Err(format!("everything was in the vault, yet the next mount sends {pending:?} again")),
        false => Ok(()),
    }
}

/// The histories that were set aside, the oldest first.
pub fn asides(disk: &SimulatedDisk) -> Result<Vec<SetAside>, String> {
    aside::all(disk).map_err(|error| format!("E3: what was set aside: {error}"))
}
