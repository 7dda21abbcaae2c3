//! Starter: one fetch for each run of frames, however many ask for it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use parking_lot::Mutex;

use super::encryption::Encryption;
use super::notifier::{self, Answer};
use super::remote_storage::RemoteStorage;
use super::{DownloadError, Frames};
use crate::base::{ExtentId, watch};
use crate::format::record::Extent;

type Wanted = (ExtentId, u32, u32);

pub struct Starter {
    remote: RemoteStorage,
    encryption: Encryption,
    in_flight: Mutex<HashMap<Wanted, watch::Receiver<Answer>>>,
}

impl Starter {
    pub fn new(remote: RemoteStorage, encryption: Encryption) -> Arc<Starter> {
        Arc::new(Starter { remote, encryption, in_flight: Mutex::new(HashMap::new()) })
    }

    /// Brings these frames of an extent.
    pub async fn fetch(
        self: &Arc<Self>,
        id: ExtentId,
        extent: &Extent,
        frames: Range<u32>,
    ) -> Result<Frames, DownloadError> {
        // What this machine holds and is quickly opened needs no task of its own.
        if let Some(result) = self.local(id, extent, &frames) {
            return result;
        }
        let wanted = (id, frames.start, frames.end);
        let answer = match self.in_flight.lock().entry(wanted) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => {
                let (sender, receiver) = watch::channel(None);
                entry.insert(receiver.clone());
                let (this, extent) = (self.clone(), extent.clone());
                tokio::spawn(async move {
                    // A panic must not leave the range marked as being fetched for ever.
                    let bringing = AssertUnwindSafe(this.bring(id, extent, frames)).catch_unwind();
                    let result = bringing.await.unwrap_or(Err(DownloadError::Opening));
                    this.in_flight.lock().remove(&wanted);
                    sender.send_replace(Some(result));
                });
                receiver
            }
        };
        notifier::answer(answer).await
    }

    fn local(&self, id: ExtentId, extent: &Extent, frames: &Range<u32>) -> Option<Result<Frames, DownloadError>> {
        let stored = crate::format::extent::stored_range(extent, frames.clone());
        if stored.len() > crate::pipeline::INLINE_BYTES {
            return None;
        }
        let sealed = self.remote.local(id, stored)?;
        Some(sealed.and_then(|sealed| self.encryption.open_here(extent, frames.clone(), &sealed, "journal")))
    }

    async fn bring(&self, id: ExtentId, extent: Extent, frames: Range<u32>) -> Result<Frames, DownloadError> {
        let stored = crate::format::extent::stored_range(&extent, frames.clone());
        let (sealed, name) = self.remote.sealed_bytes(id, &extent, stored).await?;
        self.encryption.open(extent, frames, sealed, name).await
    }
}
