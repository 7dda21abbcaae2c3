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
use super::remote_storage::{Here, RemoteStorage};
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

    /// How much of these frames is on this machine, sealed.
    pub fn here(&self, id: ExtentId, extent: &Extent, frames: Range<u32>) -> Here {
        self.remote.here(id, extent, crate::format::extent::stored_range(extent, frames))
    }

    /// Drops what is kept of an extent's sealed bytes for convenience.
    pub fn drop_kept(&self, extent: &Extent) {
        self.remote.drop_kept(extent);
    }

    fn local(&self, id: ExtentId, extent: &Extent, frames: &Range<u32>) -> Option<Result<Frames, DownloadError>> {
        let stored = crate::format::extent::stored_range(extent, frames.clone());
        if stored.len() > crate::pipeline::INLINE_BYTES {
            return None;
        }
        let sealed = self.remote.local(id, extent, stored)?;
        Some(sealed.and_then(|sealed| self.encryption.open_here(extent, frames.clone(), &sealed, "journal")))
    }

    /// What does not open is fetched once more: a block kept since an earlier fetch may be wrong where nobody looked.
    async fn bring(&self, id: ExtentId, extent: Extent, frames: Range<u32>) -> Result<Frames, DownloadError> {
        let stored = crate::format::extent::stored_range(&extent, frames.clone());
        let mut again = true;
        loop {
            let error = match self.bring_once(id, &extent, frames.clone()).await {
                Err(error) if error.is_of_the_bytes() => error,
                other => return other,
            };
            if !self.remote.forget(&extent, stored.clone()) || !std::mem::take(&mut again) {
                return Err(error);
            }
            log::debug!("{error}; fetching once more");
        }
    }

    async fn bring_once(&self, id: ExtentId, extent: &Extent, frames: Range<u32>) -> Result<Frames, DownloadError> {
        let stored = crate::format::extent::stored_range(extent, frames.clone());
        let (sealed, name) = self.remote.sealed_bytes(id, extent, stored).await?;
        self.encryption.open(extent.clone(), frames, sealed, name).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::sizes::READ_GRID;
    use crate::base::{Ino, ObjectId, Random};
    use crate::crypto::secret::Key;
    use crate::format::commit::segment_name;
    use crate::format::extent::{frames_of, seal};
    use crate::format::keys::Keys;
    use crate::format::record::Place;
    use crate::pipeline::Cpu;
    use crate::store::Store;
    use crate::store::faulty::{Fault, Faulty};

    struct Side {
        objects: Arc<Faulty>,
        name: String,
        starter: Arc<Starter>,
        /// Two extents side by side.
        extents: [Extent; 2],
        object: Vec<u8>,
    }

    fn side_by_side(lens: [usize; 2]) -> Side {
        let keys = Arc::new(Keys::from_master(&Key::from_bytes([1; 32])));
        let id = ObjectId([7; 16]);
        let mut object = Vec::new();
        let extents = lens.map(|len| {
            let (mut extent, bytes) = seal(&keys, &Random::Kernel, [2; 16], &vec![len as u8; len], false);
            extent.place = Place::Segment { id, offset: object.len() as u32 };
            object.extend_from_slice(&bytes);
            extent
        });
        let objects = Faulty::new(Fault::Down, 0);
        let store = Store::over(objects.clone(), "memory:///");
        let remote = RemoteStorage::new(store, keys.clone(), None);
        let starter = Starter::new(remote, Encryption::new(keys, Cpu::threads(1).unwrap()));
        Side { objects, name: segment_name(id), starter, extents, object }
    }

    impl Side {
        async fn put(&self, object: &[u8]) {
            self.objects.replace(&self.name, object.to_vec()).await;
        }

        async fn read(&self, which: usize, bytes: Range<u32>) -> Result<Frames, DownloadError> {
            let extent = &self.extents[which];
            let id = ExtentId { owner: Ino(2), number: which as u64 };
            self.starter.fetch(id, extent, frames_of(extent, bytes)).await
        }
    }

    #[tokio::test]
    async fn what_did_not_open_is_not_kept_and_what_was_kept_is_fetched_once_more() {
        let side = side_by_side([100, 200]);
        let mut bad = side.object.clone();
        *bad.last_mut().unwrap() ^= 1;
        side.put(&bad).await;
        side.read(0, 0..100).await.unwrap();
        // The block that both lie in is kept now, and nobody has looked at its end.
        side.put(&side.object).await;
        side.read(1, 0..200).await.unwrap();

        let side = side_by_side([100, 200]);
        side.put(&bad).await;
        assert!(matches!(side.read(1, 0..200).await, Err(DownloadError::Format { .. })));
        side.put(&side.object).await;
        side.read(1, 0..200).await.unwrap();
    }

    #[tokio::test]
    async fn a_block_that_came_short_is_not_kept_as_if_the_object_ended_there() {
        let side = side_by_side([READ_GRID / 2, 2 * READ_GRID]);
        side.put(&side.object[..READ_GRID - 7]).await;
        side.read(0, 0..READ_GRID as u32 / 2).await.unwrap();
        let all = 0..READ_GRID as u32;
        assert!(matches!(side.read(1, all.clone()).await, Err(DownloadError::Missing(_))));
        side.put(&side.object).await;
        side.read(1, all).await.unwrap();
    }
}
