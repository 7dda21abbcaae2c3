//! The store as gc uses it: no faster than its pace, and counted.

use std::sync::Arc;
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
}

impl Remote {
    pub fn new(rounds: Arc<Rounds>, requests_per_second: u32) -> Remote {
        let spacing = Duration::from_secs(1) / requests_per_second.max(1);
        Remote { rounds, spacing, next: Mutex::new(Instant::now()) }
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
    pub async fn list(&self, prefix: &'static str, after: &str, most: usize) -> Result<Vec<String>, RoundError> {
        self.pace().await;
        Ok(self.rounds.remote.list(prefix, after, most).await?)
    }

    pub async fn delete(&self, name: String) -> Result<(), RoundError> {
        self.pace().await;
        log::trace!("gc: deletes {name}");
        Ok(self.rounds.remote.delete(&name).await?)
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

    fn remove(&self, name: String) -> BoxFuture<'_, Result<(), RoundError>> {
        async move {
            let is_commit = name.starts_with("log/");
            self.delete(name).await?;
            self.rounds.requests.count(|removed| match is_commit {
                true => removed.commits += 1,
                false => removed.checkpoints += 1,
            });
            Ok(())
        }
        .boxed()
    }
}
