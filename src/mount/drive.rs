//! A drive: one vault opened for reading or writing, with all its rooms joined, before any kernel is told of it.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::crypto::secret::Passphrase;
use crate::fs::Fs;
use crate::store::Store;
use crate::vault::VaultError;

/// When fsync returns (promise 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// Sealed in the journal, fdatasynced.
    #[default]
    Local,
    /// In the vault.
    Remote,
    /// At once; the data is hurried along.
    Async,
}

#[derive(Clone, Debug)]
pub struct DriveOptions {
    /// Everything local of this vault: journal, pin, lock. Made if missing.
    pub state: PathBuf,
    pub read_only: bool,
    pub durability: Durability,
    pub takeover: bool,
    /// Compress frames where it pays.
    pub compress: bool,
    /// Clean plaintext in memory, bytes.
    pub cache_bytes: u64,
    /// Dirty plaintext in memory, bytes; writers wait above it.
    pub dirty_bytes: u64,
    /// What the journal may hold on disk, bytes; writers wait above it.
    pub journal_bytes: u64,
}

/// What `dripfs status --json` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// "ready", "outage", "fenced", "read-only".
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
    pub blocked_by: Option<String>,
    /// The newest log object.
    pub sequence: u64,
    pub epoch: u32,
    /// Vault id, sequence and chain hash, as `--pin` will take it.
    pub pin: String,
    pub last_commit_age_seconds: f64,
    pub cache: CacheStatus,
    pub journal_bytes: u64,
    pub remote: RemoteStatus,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct CacheStatus {
    pub bytes: u64,
    pub entries: u64,
    pub hits: u64,
    pub misses: u64,
    pub dirty_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct RemoteStatus {
    pub requests: u64,
    pub errors: u64,
}

/// How far a drain has come: bytes and files still pending.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Progress {
    pub pending_files: u64,
    pub pending_bytes: u64,
}

/// How a drive's end went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed {
    /// All is in the vault.
    Drained,
    /// Something stays in the journal (exit 14): the next mount sends it.
    Pending(/* bytes */ u64),
}

pub struct Drive {
    pub fs: Arc<Fs>,
}

impl Drive {
    /// Unlocks and opens the vault, replays the journal, opens an epoch (unless read-only), starts the background
    /// work on the current tokio runtime and the journal's thread.
    pub async fn open(_store: Store, _passphrase: Passphrase, _options: DriveOptions) -> Result<Drive, VaultError> {
        todo!()
    }

    /// Returns when everything written before the call is in the vault. `progress` is called now and then.
    pub async fn sync(&self, _progress: impl FnMut(Progress) + Send) -> Result<(), VaultError> {
        todo!()
    }

    /// Drains, marks the epoch idle, ends all background work. The kernel must be gone by then.
    pub async fn close(&self, _progress: impl FnMut(Progress) + Send) -> Result<Closed, VaultError> {
        todo!()
    }

    pub fn status(&self) -> Status {
        todo!()
    }
}
