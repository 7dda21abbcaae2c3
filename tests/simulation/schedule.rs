//! Which lives a history has: one after the other, or on two machines at the same time; and what happens to the state
//! directories in between.

use std::rc::Rc;
use std::time::Duration;

use dripfs::base::Sequence;
use dripfs::format::commit::{Body, LogObject};
use futures::future::try_join_all;
use tokio::task::LocalSet;

use super::PANICS;
use super::follower::Follower;
use super::life::{End, Plan, QUIET};
use super::objects;
use super::sim::{Leaning, Sim, born, found, runtime, unlocked};

/// Lives of one machine, each so long after the one before.
type Chain = Vec<(Duration, Plan)>;

impl Sim {
    fn plan(&self, machine: usize, calm: bool) -> Plan {
        let users = 1 + self.below(4) as usize;
        Plan {
            machine,
            steps: if calm || self.chance(15) || self.leaning == Leaning::Holds {
                u64::MAX
            } else {
                20 + self.below(400)
            },
            users,
            calls: if calm { self.below(5) as usize } else { 5 + self.below(80) as usize / users },
            remote: self.chance(25),
            calm,
            closes: calm || self.chance(50),
            lingers: Duration::from_secs(match calm {
                true => 2 * QUIET.as_secs(),
                false if self.leaning == Leaning::Holds => 600 + self.below(600),
                false if self.chance(30) => self.below(300),
                false => 0,
            }),
            sleeps: None,
            unplugs: (!calm && self.offline && self.chance(40)).then(|| {
                let most = [20, 200, 1500][self.below(3) as usize];
                Duration::from_millis(self.below(most * 1000))
            }),
        }
    }

    /// Runs each machine's lives, all machines at the same time, in a runtime of their own.
    fn period(self: &Rc<Self>, chains: Vec<Chain>) -> Result<Vec<End>, String> {
        let runtime = runtime();
        let local = LocalSet::new();
        let ends = local.block_on(&runtime, async {
            self.remote.begin();
            let follower = tokio::task::spawn_local(Follower::live(self.clone()));
            let ends = try_join_all(chains.iter().map(|chain| self.chain(chain))).await;
            follower.abort();
            ends
        });
        runtime.block_on(async { self.remote.stop() });
        drop(local);
        drop(runtime);
        if PANICS.replace(0) > 0 {
            return Err("something panicked".to_owned());
        }
        super::sim::runtime().block_on(self.remote.end());
        self.verdict()?;
        ends
    }

    async fn chain(self: &Rc<Self>, chain: &Chain) -> Result<End, String> {
        let mut end = End::Crashed;
        for (after, plan) in chain {
            tokio::time::sleep(*after).await;
            end = self.life(plan).await?;
        }
        Ok(end)
    }

    /// While a machine works, or sleeps, another takes over; perhaps the first takes over again.
    fn duel(&self, machine: usize) -> Vec<Chain> {
        let most = if self.chance(20) { 50 } else { 30_000 };
        let after = Duration::from_millis(self.below(most));
        let mut first = self.plan(machine, false);
        let mut second = self.plan(1 - machine, false);
        for plan in [&mut first, &mut second] {
            if self.chance(50) {
                plan.steps = u64::MAX;
            }
        }
        if self.chance(50) {
            first.sleeps = Some(Duration::from_millis(self.below(after.as_millis() as u64 + 2000)));
        }
        let mut chain = vec![(Duration::ZERO, first)];
        if self.chance(40) {
            chain.push((Duration::from_millis(self.below(10_000)), self.plan(machine, false)));
        }
        vec![chain, vec![(after, second)]]
    }

    /// Now and then a life begins on a state directory that somebody has put back, whole or in part, or has copied from
    /// the other machine.
    pub fn restore(&self, plan: &Plan) {
        if !self.copies || plan.calm || !self.chance(40) {
            return;
        }
        let machine = &self.machines[plan.machine];
        let from = if self.chance(70) { plan.machine } else { 1 - plan.machine };
        let Some(backup) = self.machines[from].backup.borrow().clone() else { return };
        let what = ["", "", "journal", "index", "pin"][self.below(5) as usize];
        self.tally.borrow_mut().restored += 1;
        self.say(&format!("machine {}: {what:?} is as life {} of machine {from} had it", plan.machine, backup.life));
        let disk = machine.disk.borrow().clone();
        match what {
            "" => *machine.disk.borrow_mut() = backup.disk.copy(),
            part => disk.restore(&backup.disk, part),
        }
        // The index is never more than a cache, and an older pin only knows less.
        machine.patched.set(true);
        if matches!(what, "" | "journal") {
            *machine.restored.borrow_mut() = Some(backup);
        }
    }

    pub fn run(self: &Rc<Self>) -> Result<(), String> {
        let runtime = runtime();
        runtime.block_on(self.remote.fill(&born().objects));
        let periods = 2 + self.below(4);
        let mut machine = 0;
        for _ in 0..periods {
            if self.chance(10) {
                machine = 1 - machine;
            }
            let chains = match self.duels && self.chance(40) {
                true => self.duel(machine),
                false => vec![vec![(Duration::ZERO, self.plan(machine, false))]],
            };
            self.period(chains)?;
            if self.chance(60) {
                runtime.block_on(self.look("a look after the crash"))?;
            }
        }
        runtime.block_on(self.remote.calm());
        let machine = self.remote.newest_writer().map_or(machine, |who| who.machine);
        self.calm_life(machine)?;
        runtime.block_on(self.last_look())?;
        // The other machine, if it ever wrote, follows what it finds (E3).
        if self.last_line(1 - machine).is_some() && self.chance(50) {
            self.calm_life(1 - machine)?;
            runtime.block_on(self.last_look())?;
        }
        Ok(())
    }

    fn calm_life(self: &Rc<Self>, machine: usize) -> Result<(), String> {
        let plan = self.plan(machine, true);
        match self.period(vec![vec![(Duration::ZERO, plan)]])?[..] {
            [End::Drained] => Ok(()),
            _ => Err("a calm life crashed without a cause".to_owned()),
        }
    }

    /// Everything drained: the vault is what the last life's model is.
    async fn last_look(&self) -> Result<(), String> {
        self.look("the last look").await?;
        let (there, sequence) = self.peek().await?;
        let followed = self.follower.last_look(self).await?;
        if (&followed.names, found(&followed).files) != (&there.names, found(&there).files) {
            return Err("drained, but the follower shows something else".to_owned());
        }
        let line = self.line_after(&self.remote.up_to(sequence));
        let mut model = line.model.borrow().clone();
        let orphans = std::mem::take(&mut model.orphans);
        model.files.retain(|ino, _| !orphans.contains(ino));
        if there.names != model.names {
            return Err(format!("drained, but the vault has {:?}, the model {:?}", there.names, model.names));
        }
        let (there, model) = (found(&there).files, found(&model).files);
        if there != model {
            return Err(format!("drained, but the vault's files are {there:?}, the model's {model:?}"));
        }
        self.check_objects().await
    }

    /// After a sweep nothing lies in the remote that nobody needs (C6, D1, D2), and no epoch record ever went.
    async fn check_objects(&self) -> Result<(), String> {
        let keys = unlocked().keys;
        for (location, bytes) in self.remote.deleted() {
            let sequence = Sequence(location.filename().and_then(|name| name.parse().ok()).unwrap_or_default());
            match LogObject::open(&keys, sequence, &bytes).map(|object| object.body) {
                Ok(Body::Commit(_)) => {}
                other => return Err(format!("{location} was deleted, and is {other:?}")),
            }
        }
        let contents = self.remote.contents().await;
        let names: Vec<String> = contents.iter().map(|(location, _)| location.to_string()).collect();
        objects::check(self.store(), &keys, &names).await
    }
}
