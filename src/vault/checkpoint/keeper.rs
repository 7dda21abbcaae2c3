//! When a writing mount makes checkpoints, and which one its next log object names.
//!
//! A synchronous core: rounds tell it of each commit that stands and ask it what to name; whoever it tells to make a
//! checkpoint does so beside the rounds, one at a time. A failed one is tried again when the log has grown by as much
//! again, so a store that refuses is not asked without end.
//!
//! When all levels become one, which alone finds what is dead (a *full merge*)
//! - by size, as in any merge: what was written since the last one is a quarter of what that one left, or more;
//! - when files hold less, by a quarter of what they held since the last one (or since the mount) and by 256 MiB: they
//!   were deleted or cut, which writes little. At once, not when a checkpoint is due anyway;
//! - when more was sent than files grew by, by 256 MiB, a quarter of what they hold and twice the records' own size:
//!   they were written over. Twice a minute at most: what is dead stays for a minute's grace anyway;
//! - when the sweep for orphans asks for it, since the log has grown by enough.
//!
//! It also keeps the ledger of deletion: what the checkpoint that counts does not name and the state does (what rounds
//! sent since, what a checkpoint in the making sends), and what commits listed as dead.
//!
//! Invariant: [`Keeper::beside`] and the records of the checkpoint that it returns name, together, every object below
//! `segments/` that the vault's state names now or that this mount is about to name.

use std::collections::HashSet;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Made, Merge};
use crate::base::{ObjectId, Sequence, plants};
use crate::format::checkpoint::Manifest;
use crate::format::commit::{ChainLink, Hash};

/// When the next checkpoint is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct When {
    /// How far the log may grow before it: bytes of log objects and their parts, and their number.
    pub bytes: u64,
    pub commits: u64,
    /// So many bytes must have died, in files or by writing over them, to be worth a full merge by themselves.
    pub dead: u64,
}

impl Default for When {
    fn default() -> When {
        When { bytes: 64 << 20, commits: 1000, dead: 256 << 20 }
    }
}

/// Dead segments that one commit lists: with 17 bytes each, less than a commit has beside its records.
pub const DEAD_MAX: usize = 2000;
/// Between two full merges for what was written over, at least.
const REWRITTEN_PAUSE: Duration = Duration::from_secs(30);
/// So many checkpoints are remembered of which each covers something that is not removed yet.
const COVERED_MAX: usize = 128;
/// The log of a vault that nobody has written to yet: the first commit.
const NEW: u64 = 1;

pub struct Keeper {
    when: When,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    /// The one that counts: the newest commit names it.
    id: (ObjectId, Hash),
    manifest: Manifest,
    /// What it and those before it cover, and since when each is known to count; what is removed is taken out.
    covered: Vec<(Sequence, Instant)>,
    /// This mount made it: all segments that it does not know were sent by this mount.
    own: bool,
    /// What the log has grown by since it, or since the last try.
    bytes: u64,
    commits: u64,
    making: bool,
    /// Checkpoints that were asked for, and that were begun; is a full merge among what is asked for; how many tries of
    /// making one failed.
    asked: u64,
    begun: u64,
    asked_full: bool,
    failures: u64,
    /// Lies in the vault; the next commit names it.
    made: Option<Made>,
    /// Objects sent for the checkpoint in the making.
    fresh: HashSet<ObjectId>,
    /// Segments and parts that rounds of this mount sent, and the commit that names them, if the one that counts does
    /// not cover it.
    sent: Vec<(Sequence, ObjectId)>,
    /// Segments that were sent ahead, or are being sent, and that no commit names yet.
    ahead: HashSet<ObjectId>,
    /// Listed as dead by a commit that stands (since when that is known), and not deleted yet.
    dead: Vec<(Instant, ObjectId)>,
    /// Found dead, and for a coming commit to list: one has room for [`DEAD_MAX`].
    unlisted: Vec<ObjectId>,
    /// Bytes in files when most were there since the last full merge, and now; by commits that know.
    most: u64,
    now: u64,
    /// Bytes in files, about, at the last full merge or before the mount's first commit, and now.
    then: Option<u64>,
    about: u64,
    /// Bytes of extents in the segments sent since that merge; when it was ordered.
    sent_since: u64,
    merged_at: Option<Instant>,
    /// The checkpoint that is made, or was made last, was ordered as a full merge.
    ordered_full: bool,
    volume: Option<Volume>,
}

/// What lies in the vault's segments: bytes of extents that live, and bytes of segments, both as the last full merge
/// counted them and as sent since by this mount; of that, what files did not grow by is taken for dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Volume {
    pub live: u64,
    pub total: u64,
}

/// The checkpoint that counts.
#[derive(Clone, Debug)]
pub struct Counting {
    pub id: (ObjectId, Hash),
    pub manifest: Manifest,
    /// What it and those before it cover and what is not removed yet, since when, in the time of this mount.
    pub covered: Vec<(Sequence, Instant)>,
}

/// What files hold, in bytes.
#[derive(Clone, Copy)]
pub enum InFiles {
    /// In the state that the commit says.
    Exactly(u64),
    /// In a newer one: some files are still as in an earlier commit (C2).
    About(u64),
}

/// What is to be made.
pub struct Order {
    pub base: Manifest,
    /// Up to this log object.
    pub to: ChainLink,
    pub merge: Merge,
}

impl Keeper {
    pub fn new(when: When, id: (ObjectId, Hash), manifest: Manifest, bytes: u64, commits: u64) -> Keeper {
        // Nothing was ever counted, and nothing is there to count: then what is sent is all there is.
        let volume = (manifest.sequence == Sequence(0) && commits <= NEW).then(Volume::default);
        let state = State {
            id,
            covered: vec![(manifest.sequence, Instant::now())],
            manifest,
            own: false,
            bytes,
            commits,
            making: false,
            asked: 0,
            begun: 0,
            asked_full: false,
            failures: 0,
            made: None,
            fresh: HashSet::new(),
            sent: Vec::new(),
            ahead: HashSet::new(),
            dead: Vec::new(),
            unlisted: Vec::new(),
            most: 0,
            now: 0,
            then: None,
            about: 0,
            sent_since: 0,
            merged_at: None,
            ordered_full: false,
            volume,
        };
        Keeper { when, state: Mutex::new(state), changed: Notify::new() }
    }

    /// What the next log object names, and the segments that are dead then.
    pub fn next(&self) -> ((ObjectId, Hash), Vec<ObjectId>) {
        let state = self.state.lock();
        let checkpoint = state.made.as_ref().map_or(state.id, |made| made.checkpoint);
        let made = state.made.iter().flat_map(|made| &made.dead);
        (checkpoint, made.chain(&state.unlisted).take(DEAD_MAX).copied().collect())
    }

    /// So many commits are needed to list what was found dead.
    pub fn lists(&self) -> usize {
        self.state.lock().unlisted.len().div_ceil(DEAD_MAX)
    }

    /// The one that counts.
    pub fn counting(&self) -> ObjectId {
        self.state.lock().id.0
    }

    pub fn counts(&self) -> Counting {
        self.state.lock().counting()
    }

    /// What is covered up to here, and may go, is gone.
    pub fn removed(&self, up_to: Sequence) {
        self.state.lock().covered.retain(|(covered, _)| *covered > up_to);
    }

    /// Returns when another checkpoint counts, or one could not be made, or a full merge is wanted; perhaps sooner.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// A round is about to send segments or parts that the commit `sequence` names.
    pub fn sends(&self, sequence: Sequence, ids: impl IntoIterator<Item = ObjectId>) {
        self.state.lock().sent.extend(ids.into_iter().map(|id| (sequence, id)));
    }

    /// Segments are about to be sent that some later commit names.
    pub fn sends_ahead(&self, ids: impl IntoIterator<Item = ObjectId>) {
        self.state.lock().ahead.extend(ids);
    }

    /// The commit `sequence` is about to name a segment that was sent ahead; without a number, none will.
    pub fn names(&self, id: ObjectId, sequence: Option<Sequence>) {
        let mut state = self.state.lock();
        state.ahead.remove(&id);
        state.sent.extend(sequence.map(|sequence| (sequence, id)));
    }

    /// The checkpoint in the making is about to send these.
    pub fn sends_for_checkpoint(&self, ids: &[ObjectId]) {
        self.state.lock().fresh.extend(ids);
    }

    /// Objects that the records of the checkpoint which counts do not name, but the vault's state does, or may soon; with
    /// that checkpoint. `None` if an earlier mount may have sent some that nobody here knows.
    pub fn beside(&self) -> Option<(Counting, HashSet<ObjectId>)> {
        let state = self.state.lock();
        if !state.own {
            return None;
        }
        let mut beside: HashSet<ObjectId> = state.fresh.clone();
        beside.extend(state.sent.iter().map(|(_, id)| id));
        beside.extend(&state.ahead);
        beside.extend(state.manifest.segments().map(|object| object.id));
        beside.insert(state.id.0);
        beside.extend(state.made.iter().map(|made| made.checkpoint.0));
        Some((state.counting(), beside))
    }

    /// May earlier mounts have sent segments that nobody here knows? Then [`Keeper::beside`] tells nothing.
    pub fn is_own(&self) -> bool {
        self.state.lock().own
    }

    /// Since when the youngest of what commits have listed as dead, and that `time` is too soon for, waits.
    pub fn dead_after(&self, time: Instant) -> Option<Instant> {
        self.state.lock().dead.iter().map(|(since, _)| *since).filter(|since| *since > time).min()
    }

    /// Takes what commits have listed as dead that were known to stand at `time`.
    pub fn take_dead(&self, time: Instant) -> Vec<(Instant, ObjectId)> {
        self.state.lock().dead.extract_if(.., |(since, _)| *since <= time).collect()
    }

    /// Puts back what may not be deleted yet.
    pub fn keep_dead(&self, dead: impl IntoIterator<Item = (Instant, ObjectId)>) {
        self.state.lock().dead.extend(dead);
    }

    /// So many bytes of extents went into so many bytes of segments.
    pub fn grew(&self, live: u64, total: u64) {
        let mut state = self.state.lock();
        state.sent_since += live;
        if let Some(volume) = &mut state.volume {
            volume.live += live;
            volume.total += total;
        }
    }

    /// `None` until a full merge was made, in a vault that this mount did not see from its beginning.
    pub fn volume(&self) -> Option<Volume> {
        let state = self.state.lock();
        let Volume { live, total } = state.volume?;
        Some(Volume { live: live.saturating_sub(state.over()), total })
    }

    /// A commit stands that named `id`, listed `dead`, and took so many bytes.
    pub fn stands(&self, id: (ObjectId, Hash), dead: &[ObjectId], bytes: u64, in_files: InFiles) {
        let mut state = self.state.lock();
        state.bytes += bytes;
        state.commits += 1;
        let (InFiles::Exactly(now) | InFiles::About(now)) = in_files;
        state.about = now;
        let before = now.saturating_sub(state.sent_since);
        state.then.get_or_insert(before);
        if let InFiles::Exactly(now) = in_files {
            state.now = now;
            state.most = state.most.max(now);
        }
        let since = Instant::now();
        state.dead.extend(dead.iter().map(|id| (since, *id)));
        let dead: HashSet<&ObjectId> = dead.iter().collect();
        state.unlisted.retain(|id| !dead.contains(id));
        let Some(made) = state.made.take_if(|made| made.checkpoint == id) else { return };
        log::info!(
            "checkpoint {} counts: it covers the log up to {} in {} levels",
            id.0,
            made.manifest.sequence,
            made.manifest.levels.len()
        );
        let covered = made.manifest.sequence;
        (state.id, state.manifest, state.own) = (id, made.manifest, true);
        state.covers(covered, since);
        state.fresh.clear();
        state.sent.retain(|(sequence, _)| *sequence > covered);
        if let Some(sweep) = &made.sweep {
            (state.most, state.volume) = (state.now, Some(sweep.volume));
            // Ordered by size, it became a full merge: what it found counts from here.
            if !state.ordered_full {
                (state.then, state.sent_since) = (Some(state.about), 0);
            }
        }
        // What is not listed when the mount ends is an orphan, and found as such.
        state.unlisted.extend(made.dead.into_iter().filter(|id| !dead.contains(id)));
        drop(state);
        self.changed.notify_one();
    }

    /// Asks for a checkpoint, soon. Returns its number, for [`Keeper::has_merged`].
    pub fn ask_for(&self, merge: Merge) -> u64 {
        let mut state = self.state.lock();
        state.asked = state.begun + 1;
        state.asked_full |= merge == Merge::All;
        state.asked
    }

    /// Did the checkpoint that was asked for come to something? `None`: not yet. `Some(false)`: it failed.
    pub fn has_merged(&self, asked: u64, failures: u64) -> Option<bool> {
        let state = self.state.lock();
        if state.failures > failures {
            return Some(false);
        }
        (state.begun >= asked && !state.making && state.made.is_none()).then_some(true)
    }

    pub fn is_making(&self) -> bool {
        self.state.lock().making
    }

    /// A checkpoint lies in the vault and waits for a commit to name it.
    pub fn is_made(&self) -> bool {
        self.state.lock().made.is_some()
    }

    pub fn failures(&self) -> u64 {
        self.state.lock().failures
    }

    /// Is one to be made now, up to `newest`? Then whoever asked makes it, and says [`Keeper::ended`].
    pub fn order(&self, newest: ChainLink) -> Option<Order> {
        let mut state = self.state.lock();
        let asked = state.asked > state.begun;
        let full = (asked && state.asked_full) || state.is_mostly_dead(&self.when);
        let due = full || asked || state.bytes >= self.when.bytes || state.commits >= self.when.commits;
        if !due || state.making || state.made.is_some() {
            return None;
        }
        state.making = true;
        (state.bytes, state.commits) = (0, 0);
        let merge = if full { Merge::All } else { Merge::BySize };
        state.ordered_full = full;
        state.begun = state.begun.max(state.asked);
        if full {
            (state.asked_full, state.most) = (false, state.now);
            (state.then, state.sent_since, state.merged_at) = (Some(state.about), 0, Some(Instant::now()));
        }
        Some(Order { base: state.manifest.clone(), to: newest, merge })
    }

    pub fn ended(&self, made: Option<Made>) {
        let mut state = self.state.lock();
        state.making = false;
        if made.is_none() {
            // What it sent are orphans.
            state.fresh.clear();
            state.failures += 1;
        }
        if let Some(made) = made.as_ref().filter(|_| plants::on("D1-delete-at-once")) {
            state.dead.extend(made.dead.iter().map(|id| (Instant::now(), *id)));
        }
        state.made = made;
        drop(state);
        self.changed.notify_one();
    }
}

impl State {
    fn counting(&self) -> Counting {
        Counting { id: self.id, manifest: self.manifest.clone(), covered: self.covered.clone() }
    }

    /// One more checkpoint counts. Where nothing is removed for long, the oldest waits with the one after it.
    fn covers(&mut self, covered: Sequence, since: Instant) {
        if self.covered.len() >= COVERED_MAX {
            self.covered.remove(0);
        }
        self.covered.push((covered, since));
    }

    /// Enough has died since the last full merge.
    fn is_mostly_dead(&self, when: &When) -> bool {
        let gone = self.most - self.now.min(self.most);
        (gone >= when.dead && gone >= self.most / 4) || self.is_written_over(when)
    }

    /// So much of what was sent since the last full merge took the place of something, about.
    fn over(&self) -> u64 {
        self.then.map_or(0, |then| self.sent_since.saturating_sub(self.about.saturating_sub(then)))
    }

    /// That is enough.
    fn is_written_over(&self, when: &When) -> bool {
        if self.merged_at.is_some_and(|at| at.elapsed() < REWRITTEN_PAUSE) {
            return false;
        }
        let least = when.dead.max(self.manifest.runs_len().saturating_mul(2));
        let over = self.over();
        // A size may grow without a byte sent, and hide what dies: so twice what lived then is enough by itself.
        let lived = self.volume.map_or(self.about, |volume| volume.live.saturating_sub(self.sent_since));
        let hidden = self.sent_since >= least.saturating_mul(4) && self.sent_since >= lived.saturating_mul(2);
        hidden || (over >= least && over >= self.about / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Sequence;

    fn link(sequence: u64) -> ChainLink {
        ChainLink { sequence: Sequence(sequence), hash: [0; 32] }
    }

    fn made(id: u8) -> Made {
        let checkpoint = (ObjectId([id; 16]), [id; 32]);
        let manifest = Manifest { sequence: Sequence(id.into()), ..Manifest::default() };
        Made { checkpoint, manifest, dead: vec![ObjectId([9; 16])], sweep: None, counters: Default::default() }
    }

    #[test]
    fn one_is_made_at_a_time_and_counts_when_a_commit_that_names_it_stands() {
        let first = (ObjectId([0; 16]), [0; 32]);
        let keeper = Keeper::new(When { bytes: 100, commits: 3, ..When::default() }, first, Manifest::default(), 0, 0);
        keeper.stands(first, &[], 10, InFiles::About(0));
        assert!(keeper.order(link(1)).is_none());
        keeper.stands(first, &[], 90, InFiles::About(0));
        assert_eq!(keeper.order(link(2)).unwrap().to, link(2));
        keeper.stands(first, &[], 1000, InFiles::About(0));
        assert!(keeper.order(link(3)).is_none(), "one is being made");
        keeper.ended(Some(made(2)));
        assert!(keeper.order(link(3)).is_none(), "it is not named yet");
        let (named, dead) = keeper.next();
        assert_eq!((named, dead.len(), keeper.counting()), (made(2).checkpoint, 1, first.0));
        keeper.stands(first, &[], 0, InFiles::About(0));
        assert_eq!(keeper.counting(), first.0, "an older commit that stands late does not make it count");
        keeper.stands(named, &dead, 0, InFiles::About(0));
        assert_eq!((keeper.counting(), keeper.next()), (named.0, (named, Vec::new())));
        assert_eq!(keeper.order(link(5)).unwrap().base.sequence, Sequence(2));
        keeper.ended(None);
        assert!(keeper.order(link(6)).is_none(), "after a failure the log must grow first");
    }

    #[test]
    fn d1_what_a_commit_lists_is_dead_once_it_stands_and_not_before() {
        let first = (ObjectId([0; 16]), [0; 32]);
        let keeper = Keeper::new(When { bytes: 1, commits: 1, ..When::default() }, first, Manifest::default(), 9, 9);
        assert!(keeper.order(link(9)).is_some());
        keeper.ended(Some(made(2)));
        let much_later = Instant::now() + std::time::Duration::from_secs(9);
        assert_eq!(keeper.take_dead(much_later), []);
        let (named, dead) = keeper.next();
        assert_eq!(keeper.take_dead(much_later), [], "a commit that is about to list it proves nothing");
        keeper.stands(named, &dead, 0, InFiles::About(0));
        assert_eq!(keeper.take_dead(much_later).len(), 1);
        assert_eq!(keeper.take_dead(much_later), []);
    }

    #[test]
    fn d1_what_one_commit_cannot_list_the_next_ones_do() {
        let first = (ObjectId([0; 16]), [0; 32]);
        let keeper = Keeper::new(When { bytes: 1, commits: 1, ..When::default() }, first, Manifest::default(), 9, 9);
        assert!(keeper.order(link(9)).is_some());
        let dead: Vec<ObjectId> = (0..2 * DEAD_MAX as u128 + 5).map(|number| ObjectId(number.to_be_bytes())).collect();
        keeper.ended(Some(Made { dead: dead.clone(), ..made(2) }));
        let much_later = Instant::now() + Duration::from_secs(9);
        let mut listed = Vec::new();
        for left in [2, 1, 0] {
            let (named, dead) = keeper.next();
            assert!(dead.len() <= DEAD_MAX);
            keeper.stands(named, &dead, 0, InFiles::About(0));
            assert_eq!(keeper.lists(), left);
            listed.extend(dead);
        }
        assert_eq!((listed, keeper.next().1), (dead.clone(), Vec::new()));
        assert_eq!(keeper.take_dead(much_later).len(), dead.len());
    }

    #[test]
    fn d2_what_a_round_or_a_checkpoint_sends_is_named_until_the_records_of_one_that_counts_name_it() {
        let first = (ObjectId([0; 16]), [0; 32]);
        let keeper = Keeper::new(When { bytes: 1, commits: 1, ..When::default() }, first, Manifest::default(), 9, 9);
        let [covered, later, run, lost] = [21, 22, 23, 24].map(|id| ObjectId([id; 16]));
        keeper.sends(Sequence(2), [covered]);
        assert!(keeper.beside().is_none(), "an earlier mount may have sent what nobody here knows");
        assert!(keeper.order(link(2)).is_some());
        keeper.sends_for_checkpoint(&[lost]);
        keeper.ended(None);
        keeper.stands(first, &[], 9, InFiles::About(0));
        assert!(keeper.order(link(2)).is_some());
        keeper.sends(Sequence(3), [later]);
        keeper.sends_for_checkpoint(&[run]);
        keeper.ended(Some(made(2)));
        keeper.stands(made(2).checkpoint, &[], 9, InFiles::About(0));
        keeper.sends_for_checkpoint(&[run]);
        let (counting, beside) = keeper.beside().unwrap();
        assert_eq!(counting.id, made(2).checkpoint);
        assert!(!beside.contains(&covered) && !beside.contains(&lost));
        assert!(beside.contains(&later) && beside.contains(&run) && beside.contains(&counting.id.0));
    }

    #[test]
    fn a_full_merge_is_made_when_asked_for_and_when_much_has_died() {
        let first = (ObjectId([0; 16]), [0; 32]);
        let keeper = Keeper::new(
            When { bytes: u64::MAX, commits: u64::MAX, ..When::default() },
            first,
            Manifest::default(),
            0,
            0,
        );
        keeper.stands(first, &[], 9, InFiles::Exactly(10 << 30));
        assert!(keeper.order(link(1)).is_none());
        keeper.stands(first, &[], 9, InFiles::Exactly(8 << 30));
        assert!(keeper.order(link(2)).is_none(), "a fifth is not enough");
        keeper.stands(first, &[], 9, InFiles::Exactly(7 << 30));
        assert_eq!(keeper.order(link(3)).unwrap().merge, Merge::All);
        keeper.ended(Some(made(3)));
        keeper.stands(made(3).checkpoint, &[], 9, InFiles::Exactly(7 << 30));
        assert!(keeper.order(link(4)).is_none(), "it was just made");
        let (number, failures) = (keeper.ask_for(Merge::All), keeper.failures());
        assert_eq!(keeper.has_merged(number, failures), None);
        assert_eq!(keeper.order(link(5)).unwrap().merge, Merge::All);
        keeper.ended(Some(made(5)));
        assert_eq!(keeper.has_merged(number, failures), None, "no commit names it yet");
        keeper.stands(made(5).checkpoint, &[], 9, InFiles::About(0));
        assert_eq!(keeper.has_merged(number, failures), Some(true));
        let number = keeper.ask_for(Merge::BySize);
        assert_eq!(keeper.order(link(6)).unwrap().merge, Merge::BySize);
        keeper.ended(None);
        assert_eq!(keeper.has_merged(number, failures), Some(false));
    }

    #[test]
    fn a_full_merge_is_made_when_files_are_written_over() {
        const GIB: u64 = 1 << 30;
        let first = (ObjectId([0; 16]), [0; 32]);
        let keeper = |commits: u64, in_files: u64| {
            let when = When { bytes: u64::MAX, commits: u64::MAX, ..When::default() };
            let keeper = Keeper::new(when, first, Manifest::default(), 0, commits);
            keeper.stands(first, &[], 9, InFiles::Exactly(in_files));
            keeper
        };
        let grown = keeper(9, 8 * GIB);
        grown.grew(2 * GIB, 2 * GIB);
        grown.stands(first, &[], 9, InFiles::Exactly(10 * GIB));
        assert!(grown.order(link(2)).is_none(), "files grew by what was sent");
        grown.grew(2 * GIB, 2 * GIB);
        grown.stands(first, &[], 9, InFiles::Exactly(10 * GIB));
        assert!(grown.order(link(3)).is_none(), "a fifth is not enough");
        grown.grew(GIB, GIB);
        assert_eq!(grown.order(link(4)).unwrap().merge, Merge::All);
        grown.ended(Some(made(4)));
        grown.stands(made(4).checkpoint, &[], 9, InFiles::Exactly(10 * GIB));
        grown.grew(5 * GIB, 5 * GIB);
        assert!(grown.order(link(5)).is_none(), "the last one is not half a minute ago");
        let sparse = keeper(0, 0);
        sparse.stands(first, &[], 9, InFiles::Exactly(1 << 40));
        sparse.grew(GIB, GIB);
        assert_eq!(
            sparse.order(link(2)).unwrap().merge,
            Merge::All,
            "a size of which not a byte was sent hides nothing"
        );
    }
}
