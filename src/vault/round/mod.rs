//! Rounds: the vault goes forward, commit by commit (C1 to C4).
//!
//! A round takes the journal's durable end as its cut, sends what the state at the cut names and the vault lacks, and
//! creates one log object that moves the vault there in one step. One round at a time. A file whose contents nobody
//! waits for may be deferred (C2, see [`crate::history::fold`]); [`super::ahead`] sends what such a file has meanwhile.
//!
//! Invariants
//! - Segments and parts are complete before the commit that names them is created.
//! - What is sent is noted in the journal first, durably (J5).
//! - The pin is durable before anybody is told that the commit stands.
//! - The journal releases bytes only after its own record of what the vault took is durable (J5).
//! - What gc asks for rides on a round: a commit that begins after the question, extents that move (see [`super::gc`]).
//! - A log object that is not the one we made at our next number is somebody else's: we are fenced, and write no more. After
//!   a standstill it is looked for (see `overtaken`), else a commit meets it.

mod commit;
mod overtaken;
mod plan;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::VaultError;
use super::checkpoint::keeper::Keeper;
use super::checkpoint::{self, Maker};
use super::epoch::Reign;
use super::gc::request::Requests;
use super::pin::PinFile;
use crate::base::{Clock, ExtentId, ObjectId, Position, Random, Timestamp};
use crate::format::commit::{ChainLink, Hash};
use crate::format::extent;
use crate::format::keys::Keys;
use crate::history::{History, Limits};
use crate::journal::{Journal, STAGE_LEAST};
use crate::store::retry::Stopped;
use crate::upload::notifier::Notifier;
use crate::upload::remote_storage::{Outgoing, RemoteStorage, SendError};
use plan::{Plan, plan};

/// The oldest change that no commit holds is at most this old when a round begins (C1).
pub const ROUND_AGE: Duration = Duration::from_secs(5);
/// When the journal runs full, the next round begins so soon after the one before, and not sooner: each is a request,
/// and what makes the journal full may be nothing that a round can take away.
const ROUND_SPACING: Duration = Duration::from_millis(250);
/// With so many records since the last one, a round does not wait for that age: they are in memory until a commit has them.
/// They fit one object of the second largest class.
const ROUND_RECORDS: usize = 32 * 1024;
/// Where the log stands.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    pub newest: ChainLink,
    pub cut: Position,
    pub idle: bool,
    pub time: Timestamp,
    /// The newest commit, and the checkpoint that it names: while both stand nobody has gone on without us (C6).
    pub standing: Option<(ChainLink, (ObjectId, Hash))>,
}

/// Why there are no more commits.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// Somebody else's object stands at our next number.
    #[error("fenced: another machine has taken the vault over")]
    Fenced,
    #[error(transparent)]
    Send(#[from] SendError),
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl From<Stopped> for RoundError {
    fn from(error: Stopped) -> RoundError {
        RoundError::Send(SendError::Stopped(error))
    }
}

/// Bounds and times of what goes to the vault.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// What unlinked open files have in the journal spills while that takes more than so many bytes; without a number,
    /// more than half of its room.
    pub spill_above: Option<u64>,
    /// A round sends so many bytes of files that no barrier forces into it; ...
    pub budget: u64,
    /// ... while somebody waits, so many, and only what has waited for a while itself.
    pub little: u64,
    /// Of a file that is deferred, so much is worth sending ahead.
    pub ahead_least: u64,
    /// How long a truncation to nothing keeps a file back that nobody closes (L3).
    pub hold: Duration,
    /// Extents of so many sealed bytes lie in staged files, which travel as they lie (J8).
    pub stage_least: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            spill_above: None,
            budget: 16 << 20,
            little: 1 << 20,
            ahead_least: 1 << 20,
            hold: Duration::from_secs(60),
            stage_least: STAGE_LEAST,
        }
    }
}

pub struct Rounds {
    pub settings: Settings,
    pub keeper: Keeper,
    /// A round has deferred something.
    pub deferred: Notify,
    /// Segments that were sent ahead and that no commit names yet: their lengths, and the bytes of their extents.
    pub ahead: Mutex<HashMap<ObjectId, (u32, u32)>>,
    /// Segments that no commit names, or ever will: they go when no unlinked open file has anything in them (L4).
    pub spilled: Mutex<HashSet<ObjectId>>,
    /// What gc asks for.
    pub requests: Requests,
    /// Inodes and bytes in files as the newest commit has them, where that is known.
    pub usage: Mutex<Option<(u64, u64)>>,
    /// The checkpoint that is being made.
    pub making: Mutex<Option<AbortHandle>>,
    pub keys: Arc<Keys>,
    pub history: Arc<History>,
    pub journal: Arc<Journal>,
    pub remote: RemoteStorage,
    pub notifier: Arc<Notifier>,
    pub pins: Arc<PinFile>,
    pub reign: Reign,
    pub random: Random,
    pub clock: Clock,
    pub chain: Mutex<Chain>,
    /// Extents that the journal kept from earlier mounts: those may have sent them, in a segment that no commit names.
    pub found: Mutex<HashSet<ExtentId>>,
    /// Changes that a round took and no commit holds: bytes to send. Falls with every object that stands, so that a
    /// long round that goes on is told from one that does not.
    pub sending: Mutex<u64>,
}

impl Rounds {
    /// Runs rounds until `stop`, or until the mount is fenced.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let ended = tokio::select! {
            biased;
            ended = self.go_on(&stop) => ended,
            () = self.overtaken() => Err(RoundError::Fenced),
        };
        if let Err(error) = ended {
            self.ended(&error);
        }
    }

    async fn go_on(self: &Arc<Self>, stop: &CancellationToken) -> Result<(), RoundError> {
        let mut next = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.due(next) => {}
            }
            self.round(false).await?;
            self.make_checkpoint();
            next = Instant::now() + ROUND_SPACING;
        }
    }

    /// Ends the reign: one last commit that says so (E2). Everything is in the vault when this returns `true`.
    pub async fn finish(&self) -> Result<(), String> {
        // What a checkpoint in the making leaves behind are orphans; the next mount makes another.
        if let Some(making) = self.making.lock().take() {
            making.abort();
        }
        // What lies before the last cut goes with the files that hold it: the next mount has little to read.
        self.journal.begin_file().await;
        self.round(true).await.map_err(|error| {
            self.ended(&error);
            error.to_string()
        })
    }

    /// Makes a checkpoint beside the rounds, if one is due.
    fn make_checkpoint(self: &Arc<Self>) {
        let newest = self.chain.lock().newest;
        let Some(order) = self.keeper.order(newest) else { return };
        let (rounds, usage) = (self.clone(), *self.usage.lock());
        let task = tokio::spawn(async move {
            let began = Instant::now();
            let maker =
                Maker { remote: &*rounds, keys: &rounds.keys, random: &rounds.random, usage, merge: order.merge };
            let made = checkpoint::make(&maker, &order.base, order.to).await;
            let made = made.map_err(|error| log::warn!("no checkpoint: {error}; the log goes on")).ok();
            if let Some(made) = &made {
                log::debug!("checkpoint {}: {:?}, {:?}", made.checkpoint.0, made.counters, began.elapsed());
            }
            rounds.keeper.ended(made);
        });
        *self.making.lock() = Some(task.abort_handle());
    }

    fn ended(&self, error: &RoundError) {
        match error {
            // The mount ends: what is not sent lies in the journal.
            RoundError::Send(SendError::Stopped(Stopped::Cancelled)) => self.notifier.end("the mount ended"),
            RoundError::Fenced => {
                // It would be sent into another's vault, for nobody.
                if let Some(making) = self.making.lock().take() {
                    making.abort();
                }
                log::error!("{error}; the drive is read-only now, what it could not send stays in the journal");
                self.history.make_read_only();
                self.notifier.end(
                    "fenced: another machine has taken the vault over; what this one could not send is in its journal: \
                     unmount it and mount it again, which sets that aside for `dripfs rescue`",
                );
            }
            _ => {
                log::error!("no more commits: {error}; the drive is read-only now");
                self.history.make_read_only();
                self.notifier.end(&error.to_string());
            }
        }
    }

    /// Returns when a round should begin: somebody waits, gc asks, the oldest change is old enough, there are many of them, or
    /// the journal runs full (these two not before `next`).
    async fn due(&self, next: Instant) {
        tokio::select! {
            biased;
            () = self.wanted() => {}
            () = self.requests.asked() => {}
            () = self.aged(next) => {}
            () = self.stuck(next) => {}
        }
    }

    /// The journal is short of room, and nothing waits for the vault: what is in it is superseded, or of unlinked files,
    /// or says no more than that somebody asked for a barrier. A round lets it go all the same.
    async fn stuck(&self, next: Instant) {
        loop {
            let starved = self.journal.starved();
            tokio::pin!(starved);
            starved.as_mut().enable();
            let durable = self.journal.durable().0;
            if self.journal.waits_for_cut() || (self.journal.pressed() && self.history.has_dead()) {
                return tokio::time::sleep_until(next).await;
            }
            tokio::select! {
                biased;
                () = self.journal.durable_end_after(durable) => {}
                () = starved => {}
            }
        }
    }

    async fn aged(&self, next: Instant) {
        loop {
            let durable = self.journal.durable().0;
            match self.history.oldest_uncommitted() {
                None => self.history.changed().await,
                Some(oldest) if oldest.elapsed() >= ROUND_AGE => break,
                Some(_) if self.journal.pressed() || self.history.uncommitted_records() >= ROUND_RECORDS => {
                    tokio::time::sleep_until(next).await;
                    break;
                }
                Some(oldest) => {
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep_until(oldest + ROUND_AGE) => {}
                        () = self.journal.durable_end_after(durable) => {}
                    }
                }
            }
        }
        // A cut is a durable end: one that has nothing new below it would be for nothing.
        loop {
            let durable = self.journal.durable().0;
            if self.history.is_committable(durable) {
                return;
            }
            self.journal.hurry();
            self.journal.durable_end_after(durable).await;
        }
    }

    /// Somebody waits for the vault, and there is something durable that it lacks.
    async fn wanted(&self) {
        loop {
            self.notifier.someone_waits().await;
            let reached = self.notifier.position().unwrap_or_default();
            if self.journal.durable().0 > reached {
                return;
            }
            self.journal.durable_end_after(reached).await;
        }
    }

    /// One round; with `last`, the commit says that nobody writes, and is made even if nothing changed.
    async fn round(&self, last: bool) -> Result<(), RoundError> {
        // After a failed round the vault lacks what that one took: no commit may go beyond it.
        if let Some(why) = self.notifier.ended() {
            return Err(VaultError::Stopped(why).into());
        }
        let asked = self.requests.begin();
        // Read before the round looks: what becomes durable after it has looked is not in this commit.
        let (durable, block) = self.journal.durable();
        let batch = self.history.begin_round(&self.limits(last));
        if self.history.has_deferred() {
            self.deferred.notify_one();
        }
        let plan = match batch {
            Some(batch) => {
                let mut plan = plan(batch);
                self.renew(&mut plan.outgoing);
                Some(plan)
            }
            // Nothing up to there changed any record that must travel now. Only the journal may need a commit, for its
            // files go up to the last one's cut and no further (J5; a mount knows its own commit by that block: C4).
            None => {
                if !last {
                    self.journal.release(&self.history.release_dead());
                }
                let needed = last || asked.is_some() || self.journal.waits_for_cut();
                block
                    .filter(|_| needed)
                    .map(|block| Plan::empty(durable, block, *self.usage.lock(), self.history.low(durable)))
            }
        };
        let Some(mut plan) = plan else {
            if !last {
                self.notifier.committed(durable);
            }
            return Ok(());
        };
        let Some(asked) = asked else { return self.commit(plan, last).await };
        plan.take_in(asked.moves, &self.history)?;
        self.commit(plan, last).await?;
        self.requests.done(asked.number);
        Ok(())
    }

    /// What this round may take (C2).
    fn limits(&self, last: bool) -> Limits {
        let Settings { budget, little, hold, .. } = self.settings;
        let (budget, age) = match self.notifier.is_waited_for() {
            true => (little, ROUND_AGE),
            false => (budget, Duration::ZERO),
        };
        match last {
            true => Limits::ALL,
            false => Limits { budget, age, pressed: self.journal.is_nearly_full(), hold, all: false },
        }
    }

    /// What has been sent once travels to another object only sealed anew: equal ciphertext would tell where it begins
    /// and ends.
    pub(super) fn renew(&self, outgoing: &mut [Outgoing]) {
        let found = self.found.lock();
        for extent in outgoing.iter_mut().filter(|extent| extent.sent.is_none() && found.contains(&extent.id)) {
            let renewed = extent::renew(&self.random, &extent.record);
            extent.sent = Some(std::mem::replace(&mut extent.record, renewed));
        }
    }
}
