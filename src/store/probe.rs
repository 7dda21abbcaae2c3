//! Does the store keep create-if-absent? A writer stands on it: two who create one name must not both have made it.
//!
//! Owns: the questions, and that nothing is left behind. What cannot be seen from here: a store that is atomic while it is
//! probed and not later.

use bytes::Bytes;
use futures::future::join_all;

use super::{Backend, Created, PROBE_PREFIX, Store, StoreError};
use crate::base::Random;

/// How many ask for one name at once.
const RACERS: usize = 8;

impl Store {
    /// Creates a random name twice, and over a network another one several times at once:
    /// [`StoreError::NoConditionalCreate`] unless one request makes it and all others are refused. Removes both.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.probe_twice().await?;
        match self.inner.backend {
            Backend::Remote(_) => self.probe_at_once().await,
            Backend::Ready(_) | Backend::Directory(_) => Ok(()),
        }
    }

    /// As [`Store::probe`], for a writer that mounts: a bucket may have moved, or its provider changed its ways. What says
    /// nothing of that is left to the requests that follow.
    pub async fn probe_again(&self) -> Result<(), StoreError> {
        // There it is link(2), which replaces nothing on any filesystem, and a probe is several flushes of the disk.
        if matches!(self.inner.backend, Backend::Directory(_)) {
            return Ok(());
        }
        match self.probe_twice().await {
            Err(error @ StoreError::NoConditionalCreate(_)) => Err(error),
            Err(error) => {
                log::debug!("the probe failed: {error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn probe_twice(&self) -> Result<(), StoreError> {
        let name = probe_name();
        let first = self.create(&name, Bytes::from_static(b"1")).await;
        let second = match first {
            Ok(_) => self.create(&name, Bytes::from_static(b"2")).await,
            Err(e) => Err(e),
        };
        self.remove_probe(&name).await;
        match second? {
            Created::Exists => Ok(()),
            Created::New => {
                Err(self.overwrites("overwrites objects although it was asked to create them only if absent"))
            }
        }
    }

    async fn probe_at_once(&self) -> Result<(), StoreError> {
        let name = probe_name();
        let all = join_all((0..RACERS).map(|k| self.create(&name, vec![k as u8; 64].into()))).await;
        self.remove_probe(&name).await;
        // One whose answer was lost may have made it: none at all says nothing.
        match all.iter().filter(|created| matches!(created, Ok(Created::New))).count() {
            0 | 1 => Ok(()),
            made => Err(self.overwrites(&format!(
                "told {made} of {RACERS} who created one object at the same time that they had made it, so it \
                 overwrites objects"
            ))),
        }
    }

    fn overwrites(&self, does: &str) -> StoreError {
        StoreError::NoConditionalCreate(format!(
            "{} {does}: no vault can be written there safely; use a store that supports conditional puts",
            self.url()
        ))
    }

    async fn remove_probe(&self, name: &str) {
        // Left behind, it is a byte that means nothing: an error here says nothing about the store.
        if let Err(e) = self.delete(name).await {
            log::debug!("{name}: not removed: {e}");
        }
    }
}

fn probe_name() -> String {
    let name: String = Random::Kernel.bytes::<16>().iter().map(|b| format!("{b:02x}")).collect();
    format!("{PROBE_PREFIX}{name}")
}
