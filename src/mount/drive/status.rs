//! What a drive tells of itself. Never touches the network.

use serde::{Deserialize, Serialize};

use super::{Drive, Pipelines, Progress, show};
use crate::base::Timestamp;
use crate::journal::Trouble;
use crate::mount::follower::Trouble as Behind;
use crate::pipeline::StageStatus;
use crate::store::{KindCounts, StoreCounts};
use crate::vault::aside::{self, SetAside};
use crate::vault::gc;

/// A file with less to send holds up nothing.
const BLOCKS: u64 = 1 << 20;

/// What `dripfs status --json` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// "ready", "offline", "outage", "journal-full", "disk-full", "disk-failing", "fenced", "read-only".
    pub state: String,
    /// Why the state is not "ready", in words.
    pub reason: Option<String>,
    pub url: String,
    pub durability: String,
    /// Files with bytes that the vault lacks.
    pub pending_files: u64,
    /// Bytes that the vault lacks (dirty in memory, and sealed in the journal).
    pub pending_bytes: u64,
    pub oldest_pending_seconds: f64,
    /// The file whose bytes hold up the commit that is under way: from the root of the drive.
    pub blocked_by: Option<String>,
    /// The newest log object.
    pub sequence: u64,
    pub epoch: u32,
    /// Vault id, sequence and chain hash, as `--pin` will take it.
    pub pin: String,
    pub last_commit_age_seconds: f64,
    /// On a read-only mount: how long ago the log was last looked at to its end.
    #[serde(default)]
    pub followed_seconds_ago: Option<f64>,
    pub cache: CacheStatus,
    pub journal_bytes: u64,
    /// Bytes of bodies that went out to the store, of requests under way too.
    #[serde(default)]
    pub sent_bytes: u64,
    pub remote: RemoteStatus,
    /// What is in flight, and where time goes.
    #[serde(default)]
    pub pipelines: PipelinesStatus,
    /// What lies in the vault's segments: counted exactly by the last full merge, plus what this mount has sent since
    /// (of which some may be dead already); without what commits carry themselves, and without checkpoints and the log.
    /// `None` until this mount has made a full merge, unless it saw the vault from its beginning.
    #[serde(default)]
    pub vault: Option<VaultStatus>,
    /// What this mount has removed from the vault.
    #[serde(default)]
    pub removed: gc::Removed,
    /// Files of which bytes could not be had since the mount began: paths from the root of the drive.
    pub damaged_files: Vec<String>,
    /// Histories of this machine that another one's took the place of: `dripfs rescue` brings their files back.
    #[serde(default)]
    pub set_aside: Vec<SetAsideStatus>,
    /// Everything local of this vault.
    #[serde(default)]
    pub state_directory: String,
}

/// A history that was set aside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SetAsideStatus {
    /// In the state directory.
    pub directory: String,
    /// Changes that the vault lacks.
    pub changes: u64,
    /// UTC, RFC 3339.
    pub since: String,
    pub why: String,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct CacheStatus {
    pub bytes: u64,
    pub entries: u64,
    pub hits: u64,
    pub misses: u64,
    pub dirty_bytes: u64,
    /// Sealed blocks on this machine's disk.
    #[serde(default)]
    pub disk_bytes: u64,
    #[serde(default)]
    pub disk_hits: u64,
    #[serde(default)]
    pub disk_misses: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct RemoteStatus {
    pub requests: u64,
    pub errors: u64,
    /// The same by kind, with bytes, milliseconds and a histogram of these.
    #[serde(default)]
    pub get: KindCounts,
    #[serde(default)]
    pub put: KindCounts,
    #[serde(default)]
    pub list: KindCounts,
    #[serde(default)]
    pub delete: KindCounts,
    #[serde(default)]
    pub head: KindCounts,
}

impl From<StoreCounts> for RemoteStatus {
    fn from(counts: StoreCounts) -> RemoteStatus {
        let StoreCounts { requests, errors, get, put, list, delete, head } = counts;
        RemoteStatus { requests, errors, get, put, list, delete, head }
    }
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PipelinesStatus {
    /// Bytes in flight, the most that there may be, and a bound of what there was.
    pub inflight_bytes: u64,
    pub inflight_limit: u64,
    pub inflight_peak: u64,
    /// In the order in which bytes pass them, upload first.
    pub stages: Vec<StageStatus>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VaultStatus {
    /// Sealed bytes of files.
    pub live_bytes: u64,
    /// Bytes of the segments in which they lie, what is dead in them and padding included.
    pub total_bytes: u64,
}

impl Pipelines {
    fn status(&self) -> PipelinesStatus {
        let mut stages = Vec::new();
        if let Some((uploads, puts)) = &self.uploads {
            stages.extend(uploads.status());
            stages.push(puts.status());
        }
        stages.extend(self.downloads.status());
        PipelinesStatus {
            inflight_bytes: self.memory.used() as u64,
            inflight_limit: self.memory.budget() as u64,
            inflight_peak: self.memory.peak() as u64,
            stages,
        }
    }
}

impl Drive {
    /// What the vault lacks.
    pub fn pending(&self) -> Progress {
        let Some(writer) = &self.writer else { return Progress { pending_files: 0, pending_bytes: 0 } };
        let dirty = self.cache.counts();
        let mut waiting = self.history.waiting();
        waiting.files.extend(self.cache.dirty_files());
        Progress {
            pending_files: waiting.files.len() as u64,
            pending_bytes: dirty.dirty_bytes
                + waiting.bytes
                + writer.rounds.get().map_or(0, |rounds| *rounds.sending.lock()),
        }
    }

    pub fn status(&self) -> Status {
        let (state, reason) = self.state();
        let Progress { pending_files, pending_bytes } = self.pending();
        let counts = self.cache.counts();
        let kept = self.disk_cache.as_ref().map(|kept| kept.counts()).unwrap_or_default();
        let told = self.reader.as_ref().map(|reader| reader.follower.told());
        let (pin, commit) = match (&self.writer, &told) {
            (Some(writer), _) => {
                let time = writer.rounds.get().map_or(self.opened.last_commit, |rounds| rounds.chain.lock().time);
                (writer.pins.get().unwrap_or(self.opened.pin), time)
            }
            (None, Some(told)) => (told.pin, told.commit),
            (None, None) => (self.opened.pin, self.opened.last_commit),
        };
        let now = self.clock.now();
        Status {
            state: state.to_owned(),
            reason,
            url: self.store.url().to_owned(),
            durability: self.durability.name().to_owned(),
            pending_files,
            pending_bytes,
            oldest_pending_seconds: self.history.oldest_pending().map_or(0.0, |at| at.elapsed().as_secs_f64()),
            blocked_by: self.blocked_by(),
            sequence: pin.link.sequence.0,
            epoch: pin.epoch.0,
            pin: pin.to_string(),
            last_commit_age_seconds: (now.secs - commit.secs).max(0) as f64,
            followed_seconds_ago: told.map(|told| told.looked.elapsed().as_secs_f64()),
            cache: CacheStatus {
                bytes: counts.clean_bytes,
                entries: counts.entries,
                hits: counts.hits,
                misses: counts.misses,
                dirty_bytes: counts.dirty_bytes,
                disk_bytes: kept.bytes,
                disk_hits: kept.hits,
                disk_misses: kept.misses,
            },
            journal_bytes: self.writer.as_ref().map_or(0, |writer| writer.journal.disk_bytes()),
            sent_bytes: self.store.sent(),
            remote: self.store.counts().into(),
            pipelines: self.pipelines.status(),
            vault: self
                .writer
                .as_ref()
                .and_then(|writer| writer.rounds.get()?.keeper.volume())
                .map(|volume| VaultStatus { live_bytes: volume.live, total_bytes: volume.total }),
            removed: self
                .writer
                .as_ref()
                .and_then(|writer| Some(writer.rounds.get()?.requests.removed()))
                .unwrap_or_default(),
            damaged_files: self.fs.damaged_files(),
            set_aside: self.set_aside(),
            state_directory: self.state_dir.display().to_string(),
        }
    }

    /// The file whose bytes a round must send before all that was changed with it is in the vault, if they are many.
    fn blocked_by(&self) -> Option<String> {
        let (ino, bytes) = self.history.holding()?;
        let sending = self.writer.as_ref().and_then(|writer| Some(*writer.rounds.get()?.sending.lock()))?;
        (bytes >= BLOCKS && sending > 0).then(|| self.fs.path_of(ino))?
    }

    fn set_aside(&self) -> Vec<SetAsideStatus> {
        let all = aside::all(&*self.disk).unwrap_or_else(|error| {
            log::warn!("{error}");
            Vec::new()
        });
        let status = |SetAside { dir, about }: SetAside| SetAsideStatus {
            directory: dir,
            changes: about.changes,
            since: show(Timestamp { secs: about.time, nanos: 0 }),
            why: about.why,
        };
        all.into_iter().map(status).collect()
    }

    /// In one word, and why it is not "ready".
    pub fn state(&self) -> (&'static str, Option<String>) {
        let outage = || self.store.outage().map(|(since, why)| format!("for {} s: {why}", since.as_secs()));
        let Some(writer) = &self.writer else {
            let trouble = self.reader.as_ref().and_then(|reader| reader.follower.told().trouble);
            return match (trouble, outage()) {
                (Some(Behind::Outage(why)), outage) => ("outage", Some(outage.unwrap_or(why))),
                (Some(trouble), _) => ("read-only", Some(trouble.to_string())),
                (None, Some(why)) => ("outage", Some(why)),
                (None, None) => ("read-only", None),
            };
        };
        if let Some(why) = writer.notifier.ended() {
            return match why.strip_prefix("fenced: ") {
                Some(why) => ("fenced", Some(why.to_owned())),
                None => ("read-only", Some(why)),
            };
        }
        if let Some(offline) = writer.offline.as_ref().filter(|_| writer.rounds.get().is_none())
            && writer.journal.trouble().is_none()
        {
            return ("offline", Some(offline.reason()));
        }
        match (writer.journal.trouble(), outage()) {
            (Some(Trouble::DiskFull(why)), _) => {
                ("disk-full", Some(format!("this machine's disk is full: {why}; free space on it")))
            }
            (Some(Trouble::DiskFails(why)), _) => ("disk-failing", Some(format!("this machine's disk fails: {why}"))),
            (Some(Trouble::JournalFull), Some(why)) => ("outage", Some(format!("{why}; and the journal is full"))),
            (Some(Trouble::JournalFull), None) => ("journal-full", Some("writers wait for the store".to_owned())),
            (None, Some(why)) => ("outage", Some(why)),
            (None, None) => ("ready", None),
        }
    }
}
