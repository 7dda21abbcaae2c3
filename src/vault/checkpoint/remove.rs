//! Removing what a checkpoint covers (C6): oldest first, one by one.
//!
//! [`Removal`] decides: it is told what stands and says what to do next. [`remove_covered`] asks the store.
//!
//! Invariants
//! - Nothing goes before each object of the checkpoint that counts was read back, and before [`GRACE`] has passed since
//!   a checkpoint counted that covers it: that one or one before it, so that removal goes on however fast they come.
//! - A commit goes only after the manifest that it names, unless that one counts. So a reader that finds the newest
//!   commit that it knows, but not the manifest, knows that it is late.
//! - The newest commit and what comes after it never go; epoch records never do: they are the fences.
//! - A commit goes only when none stands before it, also if a listing did not show that one.
//! - A commit whose inline extents somebody names stops the removal until they lie elsewhere.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::{Remove, part, tampered};
use crate::base::{ObjectId, Sequence, plants};
use crate::format::checkpoint::Manifest;
use crate::format::commit::{Body, Commit, LogObject, checkpoint_name, log_name};
use crate::format::keys::Keys;

/// How long readers have to notice that a checkpoint counts.
pub const GRACE: Duration = Duration::from_secs(60);
/// Log objects listed at once. What is left is removed after the next checkpoint.
const LISTED: usize = 100_000;

/// What holds at this moment.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub time: Instant,
    /// This mount reigns, and was seen to: the check of its last commit is done (C6), nothing fenced it.
    pub may: bool,
    /// The newest commit.
    pub newest: Sequence,
    /// The checkpoint that it names: the one that counts.
    pub checkpoint: ObjectId,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Tell which log objects there seem to be: [`Removal::listed`].
    List,
    /// Nothing before this moment; `None`: nothing while this mount may not.
    Wait(Option<Instant>),
    /// Read everything back that the manifest names: [`Removal::was_read_back`].
    ReadBack,
    /// Tell what stands there: [`Removal::stands`].
    Look(Sequence),
    /// Remove this manifest: [`Removal::removed_manifest`].
    Manifest(ObjectId),
    /// Remove this commit: [`Removal::removed_commit`].
    Commit(Sequence),
    /// Somebody names inline extents of this commit: they must be placed elsewhere first.
    Blocked(Sequence),
    /// Another checkpoint counts now: go on with that one ([`Removal::renew`]).
    Superseded,
    /// The store does not let this machine delete.
    Refused,
    /// All that is covered is gone.
    Done,
}

/// What stands under a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    Nothing,
    Epoch,
    /// A commit that names this checkpoint.
    Commit(ObjectId),
}

/// What is covered, and since when that is known (or later): both rise.
pub type Covered = [(Sequence, Instant)];

/// What is remembered from one removal to the next.
#[derive(Debug, Default)]
pub struct Seen {
    /// Objects that were read back and found whole.
    pub whole: HashSet<ObjectId>,
    /// Numbers under which epoch records stand, for ever.
    pub epochs: HashSet<Sequence>,
}

/// The removal of what the checkpoint that counts covers.
#[derive(Debug)]
pub struct Removal {
    checkpoint: ObjectId,
    covered: Vec<(Sequence, Instant)>,
    grace: Duration,
    is_read_back: bool,
    /// What may be there, oldest first; `None` until it was listed.
    left: Option<VecDeque<Sequence>>,
    /// Up to here.
    listed: Sequence,
    /// Of those that are left: commits, and what they name.
    names: HashMap<Sequence, ObjectId>,
    manifests_gone: HashSet<ObjectId>,
    /// Numbers right below the one that goes next, under which no commit stands.
    clear: Clear,
}

/// From, to; `ends` once nothing at all was found below.
#[derive(Clone, Copy, Debug, Default)]
struct Clear {
    from: Sequence,
    to: Sequence,
    ends: bool,
}

impl Removal {
    /// `covered`: by the checkpoint and by those before it, since each counted. `grace`: [`GRACE`], but in tests.
    pub fn new(checkpoint: ObjectId, covered: &Covered, grace: Duration) -> Removal {
        Removal {
            checkpoint,
            covered: covered.to_vec(),
            grace,
            is_read_back: false,
            left: None,
            listed: Sequence(0),
            names: HashMap::new(),
            manifests_gone: HashSet::new(),
            clear: Clear::default(),
        }
    }

    /// Another checkpoint counts: goes on where it is, once that one is read back.
    pub fn renew(&mut self, checkpoint: ObjectId, covered: &Covered) {
        (self.checkpoint, self.covered, self.is_read_back) = (checkpoint, covered.to_vec(), false);
    }

    /// Was all listed that is covered?
    pub fn is_whole(&self) -> bool {
        self.left.is_some() && self.covered.last().is_none_or(|(covered, _)| *covered <= self.listed)
    }

    /// When a log object may go; `None`: nothing covers it.
    fn due(&self, sequence: Sequence) -> Option<Instant> {
        let at = self.covered.partition_point(|(covered, _)| *covered < sequence);
        self.covered.get(at).map(|(_, since)| *since + self.grace)
    }

    /// Decides. `keep` tells whether somebody (the newest state, an open file, the journal beyond the cut) names inline
    /// extents of a commit.
    pub fn next(&self, now: Now, keep: impl FnOnce(Sequence) -> bool) -> Step {
        if now.checkpoint != self.checkpoint {
            return Step::Superseded;
        }
        let Some(left) = &self.left else { return Step::List };
        let Some(&oldest) = left.front().filter(|&&oldest| oldest < now.newest) else { return Step::Done };
        if !now.may {
            return Step::Wait(None);
        }
        match self.due(oldest) {
            Some(due) if now.time < due => return Step::Wait(Some(due)),
            Some(_) => {}
            None => return Step::Done,
        }
        if !self.is_read_back {
            return Step::ReadBack;
        }
        let Some(&manifest) = self.names.get(&oldest) else { return Step::Look(oldest) };
        if let Some(before) = self.unknown_before(oldest) {
            return Step::Look(before);
        }
        if keep(oldest) {
            return Step::Blocked(oldest);
        }
        if manifest != self.checkpoint && !self.manifests_gone.contains(&manifest) {
            return Step::Manifest(manifest);
        }
        Step::Commit(oldest)
    }

    /// The next number below this one under which a commit may stand that no listing showed: a log that has a hole behind
    /// one ends there for readers.
    fn unknown_before(&self, oldest: Sequence) -> Option<Sequence> {
        let clear = if self.clear.to == oldest { self.clear } else { Clear { from: oldest, to: oldest, ends: false } };
        (!clear.ends && clear.from > Sequence(1)).then(|| Sequence(clear.from.0 - 1))
    }

    /// Which log objects there seem to be, in any order.
    pub fn listed(&mut self, sequences: impl IntoIterator<Item = Sequence>) {
        let covered = self.covered.last().map_or(Sequence(0), |(covered, _)| *covered);
        let mut left: Vec<Sequence> = sequences.into_iter().filter(|&sequence| sequence <= covered).collect();
        left.sort_unstable();
        self.listed = covered;
        self.left = Some(left.into());
        self.names.clear();
    }

    /// The oldest that are left, before `newest`.
    pub fn oldest(&self, newest: Sequence, most: usize) -> Vec<Sequence> {
        let left = self.left.iter().flatten();
        left.copied().take_while(|&sequence| sequence < newest).take(most).collect()
    }

    pub fn was_read_back(&mut self) {
        self.is_read_back = true;
    }

    /// What stands under a number: the one that [`Step::Look`] asked for, or a later one.
    pub fn stands(&mut self, sequence: Sequence, standing: Standing) {
        let oldest = self.left.as_ref().and_then(|left| left.front().copied());
        let is_below = oldest.filter(|oldest| sequence < *oldest);
        match (standing, is_below) {
            (Standing::Commit(manifest), below) => {
                if let (Some(_), Some(left)) = (below, &mut self.left) {
                    left.push_front(sequence);
                }
                self.names.insert(sequence, manifest);
            }
            (Standing::Nothing | Standing::Epoch, None) => self.pass(sequence),
            (_, Some(oldest)) => {
                if self.clear.to != oldest {
                    self.clear = Clear { from: oldest, to: oldest, ends: false };
                }
                self.clear.from = sequence;
                self.clear.ends = standing == Standing::Nothing;
            }
        }
    }

    pub fn removed_manifest(&mut self, id: ObjectId) {
        self.manifests_gone.insert(id);
    }

    pub fn removed_commit(&mut self, sequence: Sequence) {
        self.pass(sequence);
    }

    fn pass(&mut self, sequence: Sequence) {
        let after = Sequence(sequence.0 + 1);
        match self.clear.to == sequence {
            true => self.clear.to = after,
            false => self.clear = Clear { from: sequence, to: after, ends: false },
        }
        if let Some(left) = &mut self.left
            && let Ok(at) = left.binary_search(&sequence)
        {
            left.remove(at);
        }
        self.names.remove(&sequence);
    }
}

/// Removes what can be removed now. Returns why it ended: [`Step::Wait`], [`Step::Blocked`], [`Step::Superseded`],
/// [`Step::Refused`] or [`Step::Done`]; call it again with the same `removal` later (after `Done` with a new one).
/// `manifest`: that of the removal's checkpoint. `seen` gets what is found. `now` and `keep` are asked before each step.
pub async fn remove_covered<R: Remove>(
    remote: &R,
    keys: &Keys,
    manifest: &Manifest,
    removal: &mut Removal,
    seen: &mut Seen,
    mut now: impl FnMut() -> Now + Send,
    mut keep: impl FnMut(Sequence) -> bool + Send,
) -> Result<Step, R::Error> {
    loop {
        match removal.next(now(), &mut keep) {
            Step::List => {
                let names = remote.list("log/", LISTED).await?;
                let numbers = names.iter().filter_map(|name| name.strip_prefix("log/")?.parse().ok().map(Sequence));
                removal.listed(numbers.filter(|number| !seen.epochs.contains(number)));
            }
            Step::ReadBack => {
                read_back(remote, manifest, &mut seen.whole).await?;
                removal.was_read_back();
            }
            Step::Look(sequence) if seen.epochs.contains(&sequence) => removal.stands(sequence, Standing::Epoch),
            Step::Look(sequence) => {
                let (standing, _) = look(remote, keys, seen, sequence).await?;
                removal.stands(sequence, standing);
            }
            Step::Manifest(id) => {
                if !remote.remove(checkpoint_name(id)).await? {
                    return Ok(Step::Refused);
                }
                removal.removed_manifest(id);
            }
            Step::Commit(sequence) => {
                if !remote.remove(log_name(sequence)).await? {
                    return Ok(Step::Refused);
                }
                removal.removed_commit(sequence);
            }
            end @ (Step::Wait(_) | Step::Blocked(_) | Step::Superseded | Step::Refused | Step::Done) => {
                return Ok(end);
            }
        }
    }
}

/// Reads everything that a manifest names, but what is in `whole` already: what was found whole is added there.
pub async fn read_back<R: Remove>(
    remote: &R,
    manifest: &Manifest,
    whole: &mut HashSet<ObjectId>,
) -> Result<(), R::Error> {
    for object in manifest.segments() {
        if !whole.contains(&object.id) {
            part(remote, &object).await?;
            whole.insert(object.id);
        }
    }
    Ok(())
}

/// What stands under a number; the commit itself, if it is one.
pub async fn look<R: Remove>(
    remote: &R,
    keys: &Keys,
    seen: &mut Seen,
    sequence: Sequence,
) -> Result<(Standing, Option<Commit>), R::Error> {
    let name = log_name(sequence);
    let Some(object) = remote.get(name.clone()).await? else { return Ok((Standing::Nothing, None)) };
    let object = LogObject::open(keys, sequence, &object).map_err(|error| tampered(format!("{name}: {error}")))?;
    Ok(match object.body {
        Body::Epoch { .. } if plants::on("C6-epoch-removed") => {
            (Standing::Commit(object.checkpoint.0), Some(Commit::default()))
        }
        Body::Epoch { .. } => {
            seen.epochs.insert(sequence);
            (Standing::Epoch, None)
        }
        Body::Commit(commit) => (Standing::Commit(object.checkpoint.0), Some(commit)),
    })
}
