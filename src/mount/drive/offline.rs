//! A drive that was mounted while the store did not answer, on its way to an epoch (E4).
//!
//! Owns the tries: the log is walked from what the index stands on; if all that was written since is this journal's own,
//! and nobody else has the vault open, the epoch record is created and rounds begin. Otherwise the drive is fenced (E3).
//! Does not own what a round does, nor what the next mount makes of the journal ([`super::ownership`]).
//!
//! Invariants: nothing is uploaded or deleted before the epoch record stands; nobody else's history is joined.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Parts;
use crate::base::sizes::CLASS_MIN;
use crate::base::{Epoch, watch};
use crate::format::change::Note;
use crate::format::commit::{BlockRef, ChainLink, Hash};
use crate::journal::JournalError;
use crate::mount::indexer;
use crate::store::{Store, StoreError};
use crate::vault::VaultError;
use crate::vault::checkpoint::chain::{self, Judgement};
use crate::vault::checkpoint::keeper::{Keeper, When};
use crate::vault::epoch::{self, Reign};
use crate::vault::gc;
use crate::vault::pin::Pin;
use crate::vault::round::{Chain, Rounds};
use crate::vault::walk::{self, Walked};

/// Between two tries, at first and at most; and where somebody waits.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// How long the end of a mount waits for one try.
const LAST_TRY: Duration = Duration::from_secs(12);

/// What the epoch record will say.
pub(super) struct Claim {
    pub epoch: Epoch,
    /// The header that opened the vault.
    pub header: (u64, Hash),
    pub host: String,
    pub takeover: bool,
    pub checkpoint: When,
}

pub(super) struct Offline {
    /// The newest log object whose commit is in the index.
    pub base: ChainLink,
    /// The newest commit that the journal has noted.
    pub noted: Option<ChainLink>,
    /// What tells this machine's log objects from others' (C4).
    pub blocks: HashSet<BlockRef>,
    /// The first block of this mount: what its epoch record names.
    pub block: BlockRef,
    pub reign: Claim,
    pub gc: gc::Settings,
    pub told: Arc<Told>,
}

/// What others may know of the tries, and ask.
pub(super) struct Told {
    since: Instant,
    why: Mutex<String>,
    tries: watch::Sender<u64>,
    now: Notify,
}

impl Told {
    pub fn new(why: StoreError) -> Arc<Told> {
        let why = Mutex::new(why.to_string());
        Arc::new(Told { since: Instant::now(), why, tries: watch::Sender::new(0), now: Notify::new() })
    }

    /// For status.
    pub fn reason(&self) -> String {
        let (seconds, tries) = (self.since.elapsed().as_secs(), *self.tries.borrow());
        format!("mounted without the store {seconds} s ago, asked {tries} times since: {}", self.why.lock())
    }

    /// Asks for a try, and returns when one ended or the time is up. The mount ends.
    pub async fn try_once(&self) {
        let mut tries = self.tries.subscribe();
        let before = *tries.borrow();
        self.now.notify_one();
        // Whether it ended in time is asked where the outcome is.
        drop(tokio::time::timeout(LAST_TRY, tries.wait_for(|tries| *tries > before)).await);
    }

    fn failed(&self, why: &VaultError) {
        *self.why.lock() = why.to_string();
    }

    fn tried(&self) {
        self.tries.send_modify(|tries| *tries += 1);
    }
}

/// Why there is no epoch.
enum Not {
    /// The store does not answer, somebody wrote at this very moment, or this machine's disk is full.
    Yet(VaultError),
    /// Another history stands.
    Fenced(String),
    /// The vault, or this machine's disk, is not sound.
    Ever(VaultError),
}

impl From<VaultError> for Not {
    fn from(error: VaultError) -> Not {
        match error {
            VaultError::Store(StoreError::Unavailable { .. } | StoreError::Refused { .. })
            | VaultError::InUse { .. } => Not::Yet(error),
            // This machine's disk does not take the pin or the note: that passes (it is full, say).
            VaultError::State { .. } | VaultError::Journal(JournalError::Io { .. }) => Not::Yet(error),
            error => Not::Ever(error),
        }
    }
}

impl Offline {
    /// Tries until the epoch stands, or never can; then runs rounds until `stop`.
    pub async fn run(self, parts: Parts, begun: Arc<OnceLock<Arc<Rounds>>>, stop: CancellationToken) {
        let mut failures = 0u32;
        loop {
            let tried = tokio::select! {
                biased;
                () = stop.cancelled() => return parts.notifier.end("the mount ended"),
                tried = self.attempt(&parts) => tried,
            };
            match tried {
                Ok((reign, keeper, chain)) => {
                    log::info!("the store answers: epoch {} begins, and what waits is sent", reign.epoch);
                    let rounds = parts.begin(reign, keeper, chain);
                    begun.set(rounds.clone()).unwrap_or_else(|_| unreachable!("only this sets it"));
                    self.told.tried();
                    return super::run_rounds(rounds, self.gc, stop).await;
                }
                Err(Not::Yet(why)) => {
                    failures = failures.saturating_add(1);
                    let level = if failures == 1 { log::Level::Warn } else { log::Level::Debug };
                    log::log!(level, "try {failures} to begin an epoch: {why}; tried again, at least once a minute");
                    self.told.failed(&why);
                    self.told.tried();
                }
                Err(Not::Fenced(why)) => return self.end(&parts, &why),
                Err(Not::Ever(why)) => return self.end(&parts, &why.to_string()),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return parts.notifier.end("the mount ended"),
                () = self.told.now.notified() => {}
                () = pause(failures, &parts) => {}
            }
        }
    }

    fn end(&self, parts: &Parts, why: &str) {
        log::error!("{why}; the drive is read-only now");
        parts.history.make_read_only();
        parts.notifier.end(why);
        self.told.tried();
    }

    async fn attempt(&self, parts: &Parts) -> Result<(Reign, Keeper, Chain), Not> {
        parts.store.probe_again().await.map_err(VaultError::from)?;
        let known = parts.pins.get();
        let patient = parts.store.patient();
        let mut walked = walk::walk(&patient, &parts.keys, known.as_ref(), Some(self.base)).await?;
        let follows = walked.continued || self.is_covered(&patient, parts, &walked).await?;
        if let Some(why) = self.foreign(&walked, follows) {
            return Err(Not::Fenced(fenced(parts, &why)));
        }
        let placed = match walked.continued {
            true => indexer::places(&walked.records),
            false => indexer::places_anew(&patient, &parts.keys, &mut walked, &parts.history).await?,
        };
        let Walked { newest, commit, header, checkpoint, manifest, .. } = walked;
        if header != self.reign.header {
            return Err(Not::Fenced(fenced(parts, "the vault has a new header (its passphrase was changed)")));
        }
        let Claim { ref host, checkpoint: when, .. } = self.reign;
        // An earlier try may have arrived late: of this mount, or of one before it, which had the same number.
        let stands = newest.block == Some(self.block) && newest.link != commit.link;
        let epoch = match (stands, known) {
            (true, _) => newest.epoch,
            (false, Some(pin)) => epoch::of_record(&parts.pins, pin, newest.epoch)?,
            (false, None) => self.reign.epoch,
        };
        let reign = Reign { epoch, header, checkpoint, host: host.clone() };
        let link = match stands {
            true => newest.link,
            false => {
                let (store, keys) = (&parts.store, &parts.keys);
                epoch::open(store, keys, &parts.random, &parts.clock, &reign, &newest, self.block).await?
            }
        };
        epoch::check(&patient, &commit).await?;
        let pin = Pin { vault: parts.keys.vault, link, header: header.0, epoch };
        parts.pins.set(pin)?;
        // Commits of this machine whose answers it never heard.
        parts.history.place(&placed, (commit.link, newest.epoch)).map_err(VaultError::from)?;
        let ids: Vec<_> = placed.iter().map(|(id, _)| *id).collect();
        let settled = parts.history.settle(&ids).map_err(VaultError::from)?;
        let low = parts.history.low(commit.cut);
        let note = parts.history.note(Note::took(commit.link, commit.cut, low));
        parts.journal.wait_durable(note).await.map_err(VaultError::from)?;
        parts.journal.release_at(note, settled);
        parts.journal.committed(low);
        parts.notifier.committed(commit.cut);
        let grown = link.sequence.0.saturating_sub(manifest.sequence.0);
        let keeper = Keeper::new(when, checkpoint, manifest, grown * CLASS_MIN as u64, grown);
        let chain =
            Chain { newest: link, cut: commit.cut, idle: false, time: commit.time, standing: commit.standing() };
        Ok((reign, keeper, chain))
    }

    /// The commit that the index goes up to was removed since (the index is an older copy, say): does the checkpoint that
    /// covers it know it?
    async fn is_covered(&self, store: &Store, parts: &Parts, walked: &Walked) -> Result<bool, VaultError> {
        let Some(base) = &walked.base else { return Ok(false) };
        Ok(chain::judge(store, &parts.keys, base, self.base).await? == Judgement::OnTheChain)
    }

    /// Why the vault is not this machine's to go on with (C4, E2); `None` if it is. `follows`: what the index holds is a
    /// part of the vault's history.
    fn foreign(&self, walked: &Walked, follows: bool) -> Option<String> {
        let own = |block: &Option<BlockRef>| block.is_some_and(|block| self.blocks.contains(&block));
        // What the journal has noted it stands on, though files that hold those blocks may be gone.
        let passed = walked.since(self.noted);
        // An own object was made by a mount that had seen all before it. What may stand there since the index's commit are
        // epoch records of machines that this one then took the vault over from, and that never wrote.
        let last = passed.iter().rposition(|passed| own(&passed.block));
        // Where the walk began anew, an own object must say so of what the checkpoint covers.
        let follows = follows && (walked.continued || last.is_some() || passed.len() < walked.passed.len());
        let (before, since) = passed.split_at(last.map_or(0, |last| last + 1));
        let is_own = since.is_empty() && before.iter().all(|passed| own(&passed.block) || !passed.is_commit);
        if !follows || !is_own {
            let others = passed.iter().filter(|passed| !own(&passed.block)).count();
            log::debug!(
                "{} log objects since commit {} (continued: {}, last own: {last:?}), {others} of them not of this journal",
                walked.passed.len(),
                self.base.sequence,
                walked.continued
            );
            return Some(format!("another machine ({}) has written to the vault", walked.newest.host));
        }
        let newest = &walked.newest;
        match own(&newest.block) || newest.idle || self.reign.takeover {
            true => None,
            false => Some(format!("the vault is open elsewhere, on {}", newest.host)),
        }
    }
}

/// What a fenced drive says: whether there is anything to set aside.
fn fenced(parts: &Parts, why: &str) -> String {
    match parts.history.oldest_pending() {
        Some(_) => format!(
            "fenced: {why} while this one was offline; what this one wrote stays in its journal, which the next mount \
             sets aside for `dripfs rescue`"
        ),
        None => {
            format!("fenced: {why} while this one was offline; mount again to see and change the vault as it is now")
        }
    }
}

/// Longer after each failure; short where somebody waits for the vault.
async fn pause(failures: u32, parts: &Parts) {
    let longest = LONGEST.min(FIRST.saturating_mul(1 << failures.saturating_sub(1).min(6)));
    let began = Instant::now();
    tokio::select! {
        biased;
        () = parts.notifier.someone_waits() => {}
        () = tokio::time::sleep(longest) => return,
    }
    tokio::time::sleep_until(began + FIRST).await;
}
