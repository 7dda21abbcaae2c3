//! Starter: one fetch for each frame, however many ask for it, in whatever runs; what is waited for before what is read
//! ahead.
//!
//! A request's frames that are on their way already are waited for, and made as urgent as it is; the others are fetched.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::FutureExt;
use parking_lot::Mutex;

use super::encryption::Encryption;
use super::notifier::{self, Answer, Notifier};
use super::remote_storage::{Here, RemoteStorage};
use super::{DownloadError, Frames, Sink};
use crate::base::{ExtentId, Ino, watch};
use crate::format::extent::stored_range;
use crate::format::record::{Extent, Place};
use crate::pipeline::{Class, INLINE_BYTES, Memory, Moved, Moves, Permit, StageStatus, Urgency, Use};

/// So much of what is read ahead is opened where it is found, in a task of its own: it takes a tenth of a millisecond, and
/// the way through the stages and the store's threads as long.
const AHEAD_AT_HAND: usize = 4 * INLINE_BYTES;

pub struct Starter {
    remote: RemoteStorage,
    encryption: Encryption,
    notifier: Notifier,
    memory: Memory,
    coming: Mutex<BTreeMap<ExtentId, Vec<Coming>>>,
}

/// Frames of an extent on their way.
struct Coming {
    frames: Range<u32>,
    /// Where they are fetched from. An extent that was placed anew meanwhile is fetched anew.
    place: Place,
    urgency: Urgency,
    answer: watch::Receiver<Answer>,
}

/// Frames of an extent that are to be brought for somebody who reads this file.
struct Fetch {
    reader: Ino,
    id: ExtentId,
    extent: Extent,
    frames: Range<u32>,
    urgency: Urgency,
    /// What is read ahead has its memory from the beginning.
    permit: Option<Permit>,
}

/// Frames that were asked for.
pub enum Asked {
    Here(Result<Frames, DownloadError>),
    /// Runs of them, each in a fetch of so many frames from the first.
    Coming(Vec<(Range<u32>, u32, watch::Receiver<Answer>)>),
}

impl Asked {
    /// All of them, in order.
    pub async fn wait(self) -> Result<Frames, DownloadError> {
        let parts = match self {
            Asked::Here(result) => return result,
            Asked::Coming(parts) => parts,
        };
        let mut all = Vec::new();
        let alone = parts.len() == 1;
        for (run, first, answer) in parts {
            let frames = notifier::answer(answer).await?;
            if alone && run.len() == frames.len() {
                return Ok(frames);
            }
            let (from, to) = ((run.start - first) as usize, (run.end - first) as usize);
            all.extend_from_slice(frames.get(from..to).ok_or(DownloadError::Opening)?);
        }
        Ok(Arc::new(all))
    }
}

impl Starter {
    pub fn new(remote: RemoteStorage, encryption: Encryption, memory: Memory) -> Arc<Starter> {
        let (notifier, coming) = (Notifier::default(), Mutex::new(BTreeMap::new()));
        Arc::new(Starter { remote, encryption, notifier, memory, coming })
    }

    /// Where opened frames go, besides to who asked. Set once.
    pub fn fill_into(&self, sink: Weak<dyn Sink>) {
        self.notifier.fill_into(sink);
    }

    /// What comes from the store, for whoever watches.
    pub fn moves(&self) -> &Moves {
        &self.notifier.moves
    }

    pub fn status(&self) -> [StageStatus; 2] {
        [self.remote.status(), self.encryption.status()]
    }

    /// How much of these frames is on this machine, sealed.
    pub fn here(&self, id: ExtentId, extent: &Extent, frames: Range<u32>) -> Here {
        self.remote.here(id, extent, stored_range(extent, frames))
    }

    /// Drops what is kept of an extent's sealed bytes for convenience.
    pub fn drop_kept(&self, extent: &Extent) {
        self.remote.drop_kept(extent);
    }

    /// Brings these frames of an extent.
    pub async fn fetch(
        self: &Arc<Self>,
        reader: Ino,
        id: ExtentId,
        extent: &Extent,
        frames: Range<u32>,
    ) -> Result<Frames, DownloadError> {
        self.ask(reader, id, extent, frames).wait().await
    }

    /// Opens frames whose sealed bytes are on this machine, on this thread, for somebody who looks at the file without using
    /// it; `None` if they are not here. What does not open is not here either: whoever reads the file fetches it anew.
    pub fn peek(&self, id: ExtentId, extent: &Extent, frames: Range<u32>) -> Option<Result<Frames, DownloadError>> {
        let sealed = match self.remote.peek(id, extent, stored_range(extent, frames.clone()))? {
            Ok(sealed) => sealed,
            Err(error) => return Some(Err(error)),
        };
        let opened = self.encryption.open_here(extent, frames, &sealed, "kept on this machine");
        opened.inspect_err(|error| log::debug!("{error}")).ok().map(Ok)
    }

    /// Begins to bring these frames of an extent, for somebody who waits and reads this file.
    pub fn ask(self: &Arc<Self>, reader: Ino, id: ExtentId, extent: &Extent, frames: Range<u32>) -> Asked {
        self.ask_as(Class::Waited, reader, id, extent, frames)
    }

    /// As [`Starter::ask`], behind all that others wait for.
    pub fn ask_in_background(
        self: &Arc<Self>,
        reader: Ino,
        id: ExtentId,
        extent: &Extent,
        frames: Range<u32>,
    ) -> Asked {
        self.ask_as(Class::Bulk, reader, id, extent, frames)
    }

    fn ask_as(self: &Arc<Self>, class: Class, reader: Ino, id: ExtentId, extent: &Extent, frames: Range<u32>) -> Asked {
        // What this machine holds and is quickly opened needs no task of its own.
        if let Some(result) = self.ready(reader, id, extent, &frames, INLINE_BYTES) {
            return Asked::Here(result);
        }
        let mut coming = self.coming.lock();
        let (mut parts, mut raised, mut at) = (Vec::new(), false, frames.start);
        while at < frames.end {
            let known = coming.get(&id).and_then(|all| joined(all, extent, at));
            let end = match known {
                Some(one) => {
                    raised |= one.urgency.raise(class);
                    let end = one.frames.end.min(frames.end);
                    parts.push((at..end, one.frames.start, one.answer.clone()));
                    end
                }
                None => {
                    let end = gap(coming.get(&id).map_or(&[], Vec::as_slice), extent, at..frames.end);
                    let (extent, urgency) = (extent.clone(), Urgency::new(class));
                    let fetch = Fetch { reader, id, extent, frames: at..end, urgency, permit: None };
                    let answer = self.begin(&mut coming, fetch);
                    parts.push((at..end, at, answer));
                    end
                }
            };
            at = end;
        }
        drop(coming);
        if raised {
            self.remote.look_again();
            self.encryption.look_again();
        }
        Asked::Coming(parts)
    }

    /// These frames of several extents will be asked for with [`Starter::ahead`], one run after the other.
    pub fn announce<'a>(&self, runs: impl Iterator<Item = (&'a Extent, Range<u32>)>) {
        let little = |(_, stored): &(&Extent, Range<u32>)| stored.len() <= INLINE_BYTES;
        self.remote.announce(runs.map(|(extent, frames)| (extent, stored_range(extent, frames))).filter(little));
    }

    /// Begins to bring what is not on its way of these frames, before anybody asks; they go to the sink. False if there
    /// is no room for them now.
    pub fn ahead(self: &Arc<Self>, reader: Ino, id: ExtentId, extent: &Extent, frames: Range<u32>) -> bool {
        let mut coming = self.coming.lock();
        let mut at = frames.start;
        while at < frames.end {
            let all = coming.get(&id).map_or(&[][..], Vec::as_slice);
            if let Some(one) = joined(all, extent, at) {
                at = one.frames.end;
                continue;
            }
            let run = at..gap(all, extent, at..frames.end);
            let permit = self.memory.try_take(Use::ReadAhead, stored_range(extent, run.clone()).len());
            if permit.is_none() {
                return false;
            }
            at = run.end;
            let (extent, urgency) = (extent.clone(), Urgency::new(Class::Bulk));
            self.begin(&mut coming, Fetch { reader, id, extent, frames: run, urgency, permit });
        }
        true
    }

    fn ready(
        &self,
        reader: Ino,
        id: ExtentId,
        extent: &Extent,
        frames: &Range<u32>,
        most: usize,
    ) -> Option<Result<Frames, DownloadError>> {
        let stored = stored_range(extent, frames.clone());
        if stored.len() > most {
            return None;
        }
        if let Some(sealed) = self.remote.local(id, extent, stored.clone()) {
            let open = |sealed: bytes::Bytes| self.encryption.open_here(extent, frames.clone(), &sealed, "journal");
            return Some(self.filled(reader, id, frames, sealed.and_then(open), None));
        }
        // What does not open here is fetched anew.
        let kept = self.remote.kept(extent, stored.clone());
        let watched = if kept.is_none() { self.watched(reader, id, extent, frames) } else { None };
        let (sealed, name) = kept.or_else(|| self.remote.at_hand(extent, stored))?;
        let opened = self.encryption.open_here(extent, frames.clone(), &sealed, &name).ok()?;
        Some(self.filled(reader, id, frames, Ok(opened), watched))
    }

    /// What came goes to the sink; whoever watches is told.
    fn filled(
        &self,
        reader: Ino,
        id: ExtentId,
        frames: &Range<u32>,
        result: Result<Frames, DownloadError>,
        watched: Option<(Instant, Moved)>,
    ) -> Result<Frames, DownloadError> {
        if let Ok(opened) = &result {
            self.notifier.fill(reader, id, frames.start, opened);
            if let Some((began, moved)) = watched {
                self.notifier.moves.tell(Moved { took: began.elapsed(), ..moved });
            }
        }
        result
    }

    fn begin(self: &Arc<Self>, coming: &mut BTreeMap<ExtentId, Vec<Coming>>, fetch: Fetch) -> watch::Receiver<Answer> {
        let (sender, receiver) = watch::channel(None);
        let (id, run, place) = (fetch.id, fetch.frames.clone(), fetch.extent.place);
        let one = Coming { frames: run.clone(), place, urgency: fetch.urgency.clone(), answer: receiver.clone() };
        coming.entry(id).or_default().push(one);
        let this = self.clone();
        tokio::spawn(async move {
            // A panic must not leave the range marked as being fetched for ever.
            let bringing = AssertUnwindSafe(this.bring_and_keep(fetch));
            let result = bringing.catch_unwind().await.unwrap_or(Err(DownloadError::Opening));
            // It is where it is kept before it is no longer on its way: nobody fetches it in between.
            this.ended(id, &run, place);
            sender.send_replace(Some(result));
        });
        receiver
    }

    /// What will have come, if somebody watches and it is not all here.
    fn watched(&self, reader: Ino, id: ExtentId, extent: &Extent, frames: &Range<u32>) -> Option<(Instant, Moved)> {
        let comes = self.notifier.moves.is_watched() && self.here(id, extent, frames.clone()) != Here::All;
        let bytes = stored_range(extent, frames.clone()).len() as u64;
        comes.then(|| (Instant::now(), Moved { ino: reader, bytes, took: Duration::ZERO }))
    }

    fn ended(&self, id: ExtentId, frames: &Range<u32>, place: Place) {
        let mut coming = self.coming.lock();
        if let Some(all) = coming.get_mut(&id) {
            // No two have a frame in common, unless the extent was placed anew.
            all.retain(|one| one.frames != *frames || one.place != place);
            if all.is_empty() {
                coming.remove(&id);
            }
        }
    }

    async fn bring_and_keep(&self, mut fetch: Fetch) -> Result<Frames, DownloadError> {
        let permit = fetch.permit.take();
        let Fetch { reader, id, extent, frames, .. } = &fetch;
        // Who waits has looked already. Little that is at hand is opened sooner than it goes through the stages.
        if permit.is_some()
            && let Some(result) = self.ready(*reader, *id, extent, frames, AHEAD_AT_HAND)
        {
            return result;
        }
        let watched = self.watched(*reader, *id, extent, frames);
        let result = self.bring(&fetch, permit).await;
        self.filled(*reader, *id, frames, result, watched)
    }

    /// What does not open is fetched once more: a block kept since an earlier fetch may be wrong where nobody looked.
    async fn bring(&self, fetch: &Fetch, permit: Option<Permit>) -> Result<Frames, DownloadError> {
        let Fetch { extent, frames, urgency, .. } = fetch;
        let stored = stored_range(extent, frames.clone());
        let _permit = match permit {
            Some(permit) => permit,
            // What nobody waited for when it began has the memory of what is read ahead, all the way.
            None => {
                let of = if urgency.class() == Class::Bulk { Use::ReadAhead } else { Use::Read };
                self.memory.take(of, urgency, stored.len()).await
            }
        };
        let mut again = true;
        loop {
            let error = match self.bring_once(fetch, stored.clone()).await {
                Err(error) if error.is_of_the_bytes() => error,
                other => return other,
            };
            if !self.remote.forget(extent, stored.clone()) || !std::mem::take(&mut again) {
                return Err(error);
            }
            log::debug!("{error}; fetching once more");
        }
    }

    async fn bring_once(&self, fetch: &Fetch, stored: Range<u32>) -> Result<Frames, DownloadError> {
        let Fetch { id, extent, frames, urgency, .. } = fetch;
        let (sealed, name) = self.remote.sealed_bytes(*id, extent, stored, urgency).await?;
        self.encryption.open(extent.clone(), frames.clone(), sealed, name, urgency).await
    }
}

/// The fetch that brings this frame.
fn joined<'a>(all: &'a [Coming], extent: &Extent, frame: u32) -> Option<&'a Coming> {
    all.iter().find(|one| one.place == extent.place && one.frames.contains(&frame))
}

/// Where the first fetch begins that brings some of these frames; their end, if none does.
fn gap(all: &[Coming], extent: &Extent, frames: Range<u32>) -> u32 {
    let begins = all.iter().filter(|one| one.place == extent.place).map(|one| one.frames.start);
    begins.filter(|start| frames.contains(start)).min().unwrap_or(frames.end)
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
    use crate::pipeline::{Cpu, Settings};
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
        let settings = Settings::default();
        let memory = Memory::new(settings.inflight_bytes);
        let remote = RemoteStorage::new(store, keys.clone(), None, settings.get, memory.clone());
        let encryption = Encryption::new(keys, Cpu::threads(1).unwrap(), settings.open);
        let starter = Starter::new(remote, encryption, memory);
        Side { objects, name: segment_name(id), starter, extents, object }
    }

    impl Side {
        async fn put(&self, object: &[u8]) {
            self.objects.replace(&self.name, object.to_vec()).await;
        }

        async fn read(&self, which: usize, bytes: Range<u32>) -> Result<Frames, DownloadError> {
            let extent = &self.extents[which];
            let id = ExtentId { owner: Ino(2), number: which as u64 };
            self.starter.fetch(id.owner, id, extent, frames_of(extent, bytes)).await
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
