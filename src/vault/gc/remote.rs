//! The store as gc uses it: no faster than its pace, and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::vault::checkpoint::{Fetch, Remove};
use crate::vault::round::{RoundError, Rounds};

pub struct Remote {
    rounds: Arc<Rounds>,
    /// Between two requests.
    spacing: Duration,
    /// When the next may be made.
    next: Mutex<Instant>,
    /// Deletions refused since the last one that was not.
    refused: AtomicU32,
}

/// So many deletions that the store refuses, one after the other, and no more are tried in this run: it refuses all.
const REFUSED_MAX: u32 = 8;

impl Remote {
    pub fn new(rounds: Arc<Rounds>, requests_per_second: u32) -> Remote {
        let spacing = Duration::from_secs(1) / requests_per_second.max(1);
        Remote { rounds, spacing, next: Mutex::new(Instant::now()), refused: AtomicU32::new(0) }
    }

    async fn pace(&self) {
        let at = {
            let mut next = self.next.lock();
            let at = (*next).max(Instant::now());
            *next = at + self.spacing;
            at
        };
        tokio::time::sleep_until(at).await;
    }

    /// The first `most` names below a prefix after `after`, sorted.
    pub async fn list(&self, prefix: &str, after: &str, most: usize) -> Result<Vec<String>, RoundError> {
        self.pace().await;
        Ok(self.rounds.remote.list(prefix, after, most).await?)
    }

    /// Deletes; `false`: the store refuses.
    pub async fn delete(&self, name: String) -> Result<bool, RoundError> {
        self.pace().await;
        log::trace!("gc: deletes {name}");
        let Some(why) = self.rounds.remote.delete(&name).await? else {
            self.refused.store(0, Relaxed);
            return Ok(true);
        };
        self.refused.fetch_add(1, Relaxed);
        let requests = &self.rounds.requests;
        // Once a mount: status tells how many.
        let level = if requests.removed().refused == 0 { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "gc: {why}: what nobody needs stays in the vault and takes room");
        requests.count(|removed| removed.refused += 1);
        Ok(false)
    }

    /// Does the store let nothing be deleted, as it seems?
    pub fn refuses(&self) -> bool {
        self.refused.load(Relaxed) >= REFUSED_MAX
    }

    /// A run begins: perhaps it does now.
    pub fn begin(&self) {
        self.refused.store(0, Relaxed);
    }
}

impl Fetch for Remote {
    type Error = RoundError;

    fn get(&self, name: String) -> BoxFuture<'_, Result<Option<Bytes>, RoundError>> {
        async move {
            self.pace().await;
            Ok(self.rounds.remote.get(&name).await?)
        }
        .boxed()
    }
}

impl Remove for Remote {
    fn list(&self, prefix: &'static str, most: usize) -> BoxFuture<'_, Result<Vec<String>, RoundError>> {
        async move { Remote::list(self, prefix, "", most).await }.boxed()
    }

    fn remove(&self, name: String) -> BoxFuture<'_, Result<bool, RoundError>> {
        async move {
            let is_commit = name.starts_with("log/");
            let went = self.delete(name).await?;
            self.rounds.requests.count(|removed| match is_commit {
                true => removed.commits += u64::from(went),
                false => removed.checkpoints += u64::from(went),
            });
            Ok(went)
        }
        .boxed()
    }
}
