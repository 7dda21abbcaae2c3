//! gc: what nobody needs any more leaves the vault (C6, D1, D2).
//!
//! Beside the rounds of a writing mount one task ([`run`]) removes, after each checkpoint that counts: the commits that
//! it covers, oldest first ([`super::checkpoint::remove`] decides), once their inline extents that live lie in a segment
//! ([`moves`]); then the segments, parts and runs that the commit listed as dead. A while after the mount, and then
//! daily, a *sweep* ([`sweep`] decides) deletes orphans, which no commit ever named. It begins with a full merge, which
//! finds what is dead, if the log has grown by enough since the last one; else a small checkpoint of this mount's own will
//! do.
//!
//! Owns: when this happens, in which order, how many requests it takes. Does not own: what a checkpoint covers, what is
//! dead ([`super::checkpoint`]), commits ([`super::round`]; [`request`] is what gc asks of them), what a state names
//! (history).
//!
//! Invariants
//! - An object below `segments/` is deleted only if no commit that stands, no checkpoint that counts or is in the making
//!   and no round under way names it, and no unlinked open file has an extent in it. A name is drawn at random and used
//!   once, and what is dead in the vault is named by nothing again: a file whose last name went cannot be linked again,
//!   and is copied by its bytes. So what may be deleted once may be deleted for ever.
//! - Nothing goes before every object of the checkpoint that counts was read back: no commit, and nothing of what its
//!   predecessor named.
//! - Nothing goes before a grace of a minute has passed since a checkpoint counted that covers it, or a commit stood that
//!   lists it as dead, in the time of this mount: what one mount did not get to waits the whole minute again in the next,
//!   which finds it by its sweep.
//! - The check of C6 is made once a run, before anything goes: our newest commit and its checkpoint still stand. Within
//!   an epoch more is not needed: a successor's first object is an epoch record at the very number that our next round
//!   wants, it is never removed, and so that round is fenced. What an overtaken writer still deletes meanwhile was named
//!   by nothing when its own commit stood, so its successor cannot name it; once fenced it stops.
//! - It is in nobody's way: requests have a pace, and whatever fails is tried again later. What the store refuses to
//!   delete is asked for once a run (a segment once a mount, and by its sweeps), counted, and told once.

pub mod moves;
mod remote;
pub mod request;
pub mod sweep;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::checkpoint::keeper::Counting;
use super::checkpoint::remove::{GRACE, Now, Removal, Seen, Step, read_back, remove_covered};
use super::checkpoint::{self, Merge, Records, end};
use super::round::{RoundError, Rounds};
use crate::base::{Ino, ObjectId, Sequence, plants};
use crate::format::commit::{checkpoint_name, segment_name};
use crate::format::key::Part;
use remote::Remote;
use sweep::{Orphans, Sweep};

/// When vaults are swept, and how fast.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// From the mount to the first sweep, and from one to the next.
    pub first: Duration,
    pub every: Duration,
    /// How long readers have to notice that something is not needed. A minute, but in tests.
    pub grace: Duration,
    /// So many requests a second at most.
    pub requests: u32,
    /// By so many objects must the log have grown since the last full merge for a sweep to begin with another.
    pub merge_after: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        let (first, every) = (Duration::from_secs(10 * 60), Duration::from_secs(24 * 3600));
        Settings { first, every, grace: GRACE, requests: 20, merge_after: 1000 }
    }
}

/// After a run that failed, the next one: the first wait, doubled at each failure up to the longest.
const PAUSE: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// How often it is looked whether a checkpoint that was asked for is done.
const LOOK: Duration = Duration::from_secs(1);
/// Where the records take no more than this, a full merge costs little: one is made after so few log objects.
const SMALL: u64 = 16 << 20;
const SMALL_AFTER: u64 = 16;

/// Runs until `stop`, or until rounds end.
pub async fn run(rounds: Arc<Rounds>, settings: Settings, stop: CancellationToken) {
    let mut gc = Gc::new(rounds.clone(), settings);
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = rounds.notifier.over() => {}
        () = gc.run() => {}
    }
    gc.tell("removed in all", Removed::default(), log::Level::Info);
}

pub use request::Removed;

struct Gc {
    rounds: Arc<Rounds>,
    settings: Settings,
    remote: Remote,
    sweep_at: Instant,
    /// The checkpoint whose removal is done.
    done: ObjectId,
    seen: Seen,
    /// What files share; outer `None` until it is asked for, inner if that is too much.
    elsewhere: Option<Option<checkpoint::Marks>>,
    failures: u32,
}

/// How a run went.
enum Ran {
    Well,
    /// The grace of something goes on until then, or something is deferred.
    Until(Instant),
    /// Something was left, to be tried later.
    Partly,
    /// The store does not let this machine delete: to be tried much later.
    Refused,
    /// Somebody else has gone on: nothing goes any more.
    Overtaken,
}

/// What became of an object that nobody needs.
enum Deleted {
    Gone,
    /// It may not go now.
    NotNow,
    Refused,
}

impl Gc {
    fn new(rounds: Arc<Rounds>, settings: Settings) -> Gc {
        Gc {
            remote: Remote::new(rounds.clone(), settings.requests),
            sweep_at: Instant::now() + settings.first,
            done: rounds.keeper.counting(),
            rounds,
            settings,
            seen: Seen::default(),
            elsewhere: None,
            failures: 0,
        }
    }

    async fn run(&mut self) {
        let mut retry: Option<Instant> = None;
        loop {
            let next = retry.map_or(self.sweep_at, |at| at.min(self.sweep_at));
            tokio::select! {
                biased;
                () = self.rounds.keeper.changed() => {}
                () = tokio::time::sleep_until(next) => {}
            }
            let now = Instant::now();
            let is_due = now >= self.sweep_at;
            if plants::on("D1-delete-at-once") {
                drop(self.delete_dead(None).await);
            }
            let is_new = self.rounds.keeper.counting() != self.done && retry.is_none();
            if !is_due && !is_new && retry.is_none_or(|at| now < at) {
                continue;
            }
            let before = self.rounds.requests.removed();
            let result = self.once(is_due).await;
            self.tell("this run removed", before, log::Level::Debug);
            match result {
                Ok(Ran::Well) => (self.failures, retry) = (0, None),
                Ok(Ran::Until(at)) => (self.failures, retry) = (0, Some(at)),
                Ok(Ran::Refused) => retry = Some(Instant::now() + PAUSE_MAX),
                Ok(Ran::Overtaken) => {
                    log::warn!("another machine has gone on with the vault: nothing is removed from it any more");
                    return std::future::pending().await;
                }
                Ok(Ran::Partly) | Err(_) => {
                    self.failures += 1;
                    let pause = PAUSE_MAX.min(PAUSE * (1 << self.failures.min(6)) / 2);
                    retry = Some(Instant::now() + pause);
                    if let Err(error) = result {
                        log::warn!("gc: {error}; the next try (after {}) in {pause:?}", self.failures);
                    }
                }
            }
            if is_due {
                // One that failed comes again with the retry.
                let failed = retry.filter(|_| self.failures > 0);
                self.sweep_at = failed.unwrap_or(Instant::now() + self.settings.every);
            }
        }
    }

    fn tell(&self, what: &str, before: Removed, level: log::Level) {
        let now = self.rounds.requests.removed();
        if now != before {
            log::log!(
                level,
                "gc: {what}: {} commits, {} checkpoints, {} segments; moved {} bytes",
                now.commits - before.commits,
                now.checkpoints - before.checkpoints,
                now.segments - before.segments,
                now.moved_bytes - before.moved_bytes
            );
        }
    }

    async fn once(&mut self, sweeps: bool) -> Result<Ran, RoundError> {
        self.remote.begin();
        let mut orphans = None;
        if sweeps {
            let full = self.is_full_merge_due();
            if (full || !self.rounds.keeper.is_own()) && !self.checkpoint(full).await {
                log::debug!("gc: no checkpoint could be made: the sweep waits");
                return Ok(Ran::Partly);
            }
            orphans = self.list().await?;
        }
        let counting = self.rounds.keeper.counts();
        let first = counting.covered.first().map(|(_, since)| *since);
        let due = orphans.as_ref().map(|orphans| orphans.since).max(first);
        if let Some(due) = due {
            tokio::time::sleep_until(due + self.settings.grace).await;
        }
        if !self.stands().await? {
            return Ok(Ran::Overtaken);
        }
        // D1: what was found dead is listed, though nobody writes.
        for _ in 0..self.rounds.keeper.lists() {
            self.rounds.requests.commit(Vec::new()).await;
        }
        let removed = self.remove().await;
        // Whatever stopped the removal: until the checkpoint that counts now was seen to be whole, what the one before it
        // named is the only way back to the vault's records.
        let newest = self.rounds.keeper.counts();
        read_back(&self.remote, &newest.manifest, &mut self.seen.whole).await?;
        // What comes to be old enough while others are deleted waits for the next run, which is at once.
        let until = Instant::now().checked_sub(self.settings.grace);
        let deleted = self.delete_dead(until).await?;
        if let Some(mut orphans) = orphans {
            orphans.segments.retain(|id| !deleted.contains(id));
            self.delete_orphans(orphans).await?;
        }
        let removed = removed?;
        let young = until.and_then(|time| self.rounds.keeper.dead_after(time));
        Ok(match (removed, young.map(|since| since + self.settings.grace)) {
            _ if self.remote.refuses() => Ran::Refused,
            (Ran::Well, Some(at)) => Ran::Until(at),
            (Ran::Until(one), Some(other)) => Ran::Until(one.min(other)),
            (ran, _) => ran,
        })
    }

    /// Has the log grown so far since the last full merge that much may have died?
    fn is_full_merge_due(&self) -> bool {
        let manifest = self.rounds.keeper.counts().manifest;
        let newest = self.rounds.chain.lock().newest.sequence;
        let Some(swept) = &manifest.swept else { return true };
        let after = if manifest.runs_len() <= SMALL { SMALL_AFTER } else { u64::MAX };
        newest.0.saturating_sub(swept.sequence.0) >= self.settings.merge_after.min(after)
    }

    /// A checkpoint of this mount, and a commit that names it. `false` if that failed.
    async fn checkpoint(&self, full: bool) -> bool {
        let keeper = &self.rounds.keeper;
        let failures = keeper.failures();
        let number = keeper.ask_for(if full { Merge::All } else { Merge::BySize });
        loop {
            // Whether one is to be made is asked after a commit; and one that is made counts by the next.
            self.rounds.requests.commit(Vec::new()).await;
            loop {
                tokio::time::sleep(LOOK).await;
                match keeper.has_merged(number, failures) {
                    Some(merged) => return merged,
                    None if keeper.is_making() => {}
                    None => break,
                }
            }
        }
    }

    /// D2: what there is; then an own commit that begins afterwards, and stands; and of what there was, what nothing
    /// names then.
    async fn list(&self) -> Result<Option<Orphans>, RoundError> {
        let [first_place] = self.rounds.random.bytes();
        let mut sweep = Sweep::new(first_place);
        let first = !plants::on("D2-list-last");
        if first {
            self.list_all(&mut sweep).await?;
        }
        self.rounds.requests.commit(Vec::new()).await;
        sweep.stands(Instant::now());
        let Some((Counting { id, manifest, .. }, mut named)) = self.rounds.keeper.beside() else { return Ok(None) };
        let mut records = Records::new(&self.remote, &self.rounds.keys, &manifest);
        while let Some((key, _)) = records.next().await? {
            // They come first in key order.
            match key.part {
                Part::Segment { id } => _ = named.insert(id),
                _ if key.ino == Ino::NONE => {}
                _ => break,
            }
        }
        drop(records);
        let counts = checkpoint::counts(&self.remote, &self.rounds.keys, &manifest).await?;
        named.extend(counts.iter().map(|count| count.id));
        if !first {
            tokio::time::sleep(self.settings.grace).await;
            self.list_all(&mut sweep).await?;
            sweep.stands(Instant::now());
        }
        let orphans = sweep.orphans(&named);
        if let Some(Orphans { segments, checkpoints, .. }) = &orphans
            && segments.len() + checkpoints.len() > 0
        {
            let (segments, checkpoints) = (segments.len(), checkpoints.len());
            log::info!("gc: {segments} segments and {checkpoints} checkpoints are named by nothing (as of {})", id.0);
        }
        Ok(orphans)
    }

    async fn list_all(&self, sweep: &mut Sweep) -> Result<(), RoundError> {
        while let Some((prefix, after)) = sweep.page() {
            let names = self.remote.list(&prefix, &after, sweep::PAGE).await?;
            sweep.listed(&names);
        }
        Ok(())
    }

    /// C6: has nobody gone on without us?
    async fn stands(&self) -> Result<bool, RoundError> {
        let standing = self.rounds.chain.lock().standing;
        match standing {
            Some((commit, checkpoint)) => end::stands(&self.remote, commit, checkpoint).await,
            None => Ok(false),
        }
    }

    /// Removes the commits that checkpoints cover.
    async fn remove(&mut self) -> Result<Ran, RoundError> {
        let Gc { rounds, settings, remote, seen, elsewhere, done, .. } = self;
        let mut counting = rounds.keeper.counts();
        let mut removal = Removal::new(counting.id.0, &counting.covered, settings.grace);
        let mut clean: HashSet<Sequence> = HashSet::new();
        loop {
            let now = || {
                let standing = rounds.chain.lock().standing;
                Now {
                    time: Instant::now(),
                    may: rounds.notifier.ended().is_none(),
                    newest: standing.map_or(Sequence(0), |(link, _)| link.sequence),
                    checkpoint: rounds.keeper.counting(),
                }
            };
            let keep = |sequence| !clean.contains(&sequence) && !plants::on("C6-inline-removed");
            let keys = &rounds.keys;
            match remove_covered(remote, keys, &counting.manifest, &mut removal, seen, now, keep).await? {
                Step::Blocked(oldest) => {
                    if elsewhere.is_none() {
                        *elsewhere = Some(moves::elsewhere(rounds).await?);
                    }
                    let Some(Some(elsewhere)) = elsewhere else { return Ok(Ran::Partly) };
                    let waits = moves::clear(rounds, remote, &mut removal, seen, elsewhere, &mut clean).await?;
                    if !clean.contains(&oldest) && waits {
                        return Ok(Ran::Until(Instant::now() + PAUSE));
                    }
                    if !clean.contains(&oldest) {
                        log::debug!("gc: extents of log object {oldest} are still needed there");
                        return Ok(Ran::Partly);
                    }
                }
                Step::Superseded => {
                    counting = rounds.keeper.counts();
                    removal.renew(counting.id.0, &counting.covered);
                }
                Step::Done if !removal.is_whole() => {
                    removal = Removal::new(counting.id.0, &counting.covered, settings.grace);
                }
                Step::Done => {
                    // What lies in older checkpoints only is never asked for again.
                    let current: HashSet<ObjectId> = counting.manifest.segments().map(|object| object.id).collect();
                    seen.whole.retain(|id| current.contains(id));
                    *done = counting.id.0;
                    rounds.keeper.removed(counting.manifest.sequence);
                    return Ok(Ran::Well);
                }
                Step::Wait(Some(due)) => {
                    *done = counting.id.0;
                    let gone = counting.covered.iter().rev().find(|(_, since)| *since + settings.grace < due);
                    gone.iter().for_each(|(covered, _)| rounds.keeper.removed(*covered));
                    return Ok(Ran::Until(due));
                }
                Step::Refused => return Ok(Ran::Refused),
                _ => return Ok(Ran::Partly),
            }
        }
    }

    /// D1: what commits have listed as dead that stood at `until`. Returns what went.
    async fn delete_dead(&self, until: Option<Instant>) -> Result<HashSet<ObjectId>, RoundError> {
        let until = if plants::on("D1-delete-at-once") { Some(Instant::now()) } else { until };
        let mut dead = until.map_or(Vec::new(), |until| self.rounds.keeper.take_dead(until));
        let (mut kept, mut deleted, held) = (Vec::new(), HashSet::new(), self.rounds.history.held_segments());
        while let Some((since, id)) = dead.pop() {
            if self.remote.refuses() {
                kept.push((since, id));
                break;
            }
            match self.delete(id, &held).await {
                Ok(Deleted::Gone) => _ = deleted.insert(id),
                // From now on an orphan, for sweeps to find.
                Ok(Deleted::Refused) => {}
                Ok(Deleted::NotNow) => kept.push((since, id)),
                Err(error) => {
                    self.rounds.keeper.keep_dead(dead.into_iter().chain([(since, id)]).chain(kept));
                    return Err(error);
                }
            }
        }
        self.rounds.keeper.keep_dead(dead.into_iter().chain(kept));
        Ok(deleted)
    }

    /// D2.
    async fn delete_orphans(&self, orphans: Orphans) -> Result<(), RoundError> {
        let held = self.rounds.history.held_segments();
        for id in orphans.segments {
            if self.remote.refuses() {
                return Ok(());
            }
            self.delete(id, &held).await?;
        }
        for id in orphans.checkpoints {
            if !self.may() || self.remote.refuses() {
                break;
            }
            let went = self.remote.delete(checkpoint_name(id)).await?;
            self.rounds.requests.count(|removed| removed.checkpoints += u64::from(went));
        }
        Ok(())
    }

    /// Deletes an object below `segments/`. `held` was asked for when it was known already that no state names the object:
    /// it cannot come to be held later. (To ask for each would walk through all that open files hold as often as that.)
    async fn delete(&self, id: ObjectId, held: &HashSet<ObjectId>) -> Result<Deleted, RoundError> {
        if !self.may() || (held.contains(&id) && !plants::on("L4-held-deleted")) {
            return Ok(Deleted::NotNow);
        }
        if !self.remote.delete(segment_name(id)).await? {
            return Ok(Deleted::Refused);
        }
        self.rounds.requests.count(|removed| removed.segments += 1);
        Ok(Deleted::Gone)
    }

    /// Nobody has fenced this mount.
    fn may(&self) -> bool {
        self.rounds.notifier.ended().is_none()
    }
}
