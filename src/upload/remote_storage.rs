//! RemoteStorage: packs a round's extents into segments, pads them, puts them.
//!
//! Bulk lies in staged files already, each a segment that is sent as it lies, by a hard link where the store can (J8). Of
//! the rest, extents of one file lie side by side, files in the order of their inode numbers, so that what was made together is
//! read together. What an earlier mount may have sent is sealed anew on its way (A24). A segment aims at 8 MiB. Nothing in it says what lies where: records do.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::base::sizes::{CLASS_MAX, SEGMENT_TARGET};
use crate::base::{ExtentId, ObjectId, Random, plants};
use crate::format::commit::segment_name;
use crate::format::keys::Keys;
use crate::format::record::{Extent, Place};
use crate::format::{extent, padding};
use crate::journal::{Journal, JournalError, Whole};
use crate::pipeline::{Class, Demand, Job, Lost, Memory, Permit, Settings, Stage, Urgency, Use};
use crate::store::retry::{self, Backoff, Stopped};
use crate::store::{Created, Store, StoreError};

/// How long a disk is left alone that does not give what is to be sent: longer after each try, at most so long.
const DISK_PAUSE: Duration = Duration::from_secs(1);
const DISK_PAUSE_MAX: Duration = Duration::from_secs(30);
/// So often a disk is asked again that gives other bytes than were written.
const LIES: u32 = 2;
/// One in so many tries is logged.
const LOG_EVERY: u32 = 20;

/// How often a store that refuses to delete is asked.
const REFUSALS: u32 = 3;

/// An extent that a round sends.
#[derive(Clone)]
pub struct Outgoing {
    pub id: ExtentId,
    /// As it will lie in the vault.
    pub record: Extent,
    /// As it lies in the journal, if an earlier mount may have sent that: then it travels sealed anew.
    pub sent: Option<Extent>,
    /// Its sealed bytes, of an extent that lies in the vault already and moves there; else the journal has them.
    pub bytes: Option<Bytes>,
}

/// A segment in the making: which extents lie where.
pub struct Packed {
    pub id: ObjectId,
    pub extents: Vec<(Outgoing, u32)>,
    /// Bytes of these extents.
    pub len: u32,
    /// The staged file that is this segment.
    pub whole: Option<Arc<Whole>>,
}

/// Decides what travels together. `outgoing` is in key order.
pub fn pack(outgoing: Vec<Outgoing>, random: &Random) -> Vec<Packed> {
    let mut segments: Vec<Packed> = Vec::new();
    for extent in outgoing {
        let stored = extent.record.stored;
        let fits = segments
            .last()
            .is_some_and(|s| s.len as usize + stored as usize <= CLASS_MAX && (s.len as usize) < SEGMENT_TARGET);
        if !fits {
            segments.push(Packed { id: ObjectId(random.bytes()), extents: Vec::new(), len: 0, whole: None });
        }
        if let Some(segment) = segments.last_mut() {
            let offset = segment.len;
            segment.len += stored;
            segment.extents.push((extent, offset));
        }
    }
    segments
}

/// Would reading again say the same?
fn is_final(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof)
}

/// Why a round's objects could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A random name was taken: not by us.
    #[error("{0}: a name that was drawn at random is taken: the store or the random source is broken")]
    Taken(String),
    #[error("sending failed: {0}")]
    Lost(#[from] Lost),
}

#[derive(Clone)]
pub struct RemoteStorage {
    store: Store,
    keys: Arc<Keys>,
    journal: Arc<Journal>,
    random: Random,
    stop: CancellationToken,
    puts: Stage<Put>,
    memory: Memory,
}

/// One segment on its way.
pub struct Put {
    remote: RemoteStorage,
    name: String,
    object: Object,
    /// Rides along.
    _memory: Permit,
}

enum Object {
    Bytes(Bytes),
    /// With what should lie in it, and where.
    Staged(Arc<Whole>, Vec<(Extent, u32)>),
}

impl Object {
    fn len(&self) -> u32 {
        match self {
            Object::Bytes(bytes) => bytes.len() as u32,
            Object::Staged(whole, _) => whole.len,
        }
    }
}

impl Job for Put {
    type Done = ();
    type Error = SendError;

    fn run(self: Arc<Self>) -> BoxFuture<'static, Result<(), SendError>> {
        async move {
            match &self.object {
                Object::Bytes(bytes) => self.remote.create(&self.name, bytes.clone()).await,
                Object::Staged(whole, extents) => self.remote.create_whole(&self.name, whole, extents).await,
            }
        }
        .boxed()
    }
}

/// The stage of puts.
pub fn stage(demand: Demand) -> Stage<Put> {
    Stage::new("upload/put", demand)
}

impl RemoteStorage {
    pub fn new(
        store: Store,
        keys: Arc<Keys>,
        journal: Arc<Journal>,
        random: Random,
        stop: CancellationToken,
    ) -> RemoteStorage {
        let settings = Settings::default();
        let (puts, memory) = (stage(settings.put), Memory::new(settings.inflight_bytes));
        RemoteStorage { store, keys, journal, random, stop, puts, memory }
    }

    /// With a stage and a budget that others know.
    pub fn sharing(self, puts: Stage<Put>, memory: Memory) -> RemoteStorage {
        RemoteStorage { puts, memory, ..self }
    }

    /// Decides what travels together: what is staged as it lies, where it may; else as [`pack`] does. `outgoing` is in key
    /// order.
    pub async fn pack(&self, outgoing: Vec<Outgoing>) -> Vec<Packed> {
        // What is sealed anew, or lies elsewhere, is not what a staged file holds.
        let as_it_lies = |extent: &&Outgoing| extent.sent.is_none() && extent.bytes.is_none();
        let ids = outgoing.iter().filter(as_it_lies).map(|extent| extent.id).collect();
        let whole = self.journal.take_whole(&ids).await;
        let mut places = HashMap::new();
        for (k, whole) in whole.iter().enumerate() {
            places.extend(whole.extents.iter().map(|(id, offset)| (*id, (k, *offset))));
        }
        let as_segment =
            |whole: Whole| Packed { id: whole.id, extents: Vec::new(), len: 0, whole: Some(Arc::new(whole)) };
        let mut segments: Vec<Packed> = whole.into_iter().map(as_segment).collect();
        let mut rest = Vec::new();
        for extent in outgoing {
            match places.get(&extent.id) {
                Some((k, offset)) => {
                    segments[*k].len += extent.record.stored;
                    segments[*k].extents.push((extent, *offset));
                }
                None => rest.push(extent),
            }
        }
        log::debug!("{} staged files travel as they lie, {} extents by themselves", segments.len(), rest.len());
        segments.extend(pack(rest, &self.random));
        segments
    }

    /// Puts all segments, several at a time; returns each segment's padded length. `left` is lowered by each one's
    /// bytes as soon as it stands: whoever waits sees that it goes on.
    pub async fn send(
        &self,
        segments: &[Packed],
        left: &Mutex<u64>,
        class: Class,
    ) -> Result<Vec<(ObjectId, u32)>, SendError> {
        let urgency = Urgency::new(class);
        let mut results: FuturesUnordered<_> =
            segments.iter().map(|segment| self.send_counted(segment, left, &urgency)).collect();
        let mut sent = Vec::with_capacity(segments.len());
        while let Some(result) = results.next().await {
            sent.push(result?);
        }
        Ok(sent)
    }

    async fn send_counted(
        &self,
        segment: &Packed,
        left: &Mutex<u64>,
        urgency: &Urgency,
    ) -> Result<(ObjectId, u32), SendError> {
        let sent = self.send_one(segment, urgency).await?;
        let mut left = left.lock();
        *left = left.saturating_sub(u64::from(segment.len));
        Ok(sent)
    }

    /// A segment is put together when there is memory for it and the stage asks for one more.
    async fn send_one(&self, segment: &Packed, urgency: &Urgency) -> Result<(ObjectId, u32), SendError> {
        let bytes = match &segment.whole {
            Some(whole) => whole.len as usize,
            None => padding::class(segment.len as usize).unwrap_or(CLASS_MAX),
        };
        let memory = self.memory.take(Use::Put, urgency, bytes).await;
        let asked = self.puts.offer(urgency, bytes).await;
        let object = match &segment.whole {
            Some(whole) => {
                let extents = segment.extents.iter().map(|(extent, offset)| (extent.record.clone(), *offset));
                Object::Staged(whole.clone(), extents.collect())
            }
            None => Object::Bytes(self.put_together(segment, bytes).await?),
        };
        let len = object.len();
        if plants::on("C3-commit-before-segments")
            && let Object::Bytes(object) = object
        {
            let (store, name) = (self.store.clone(), segment_name(segment.id));
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                store.create(&name, object).await
            });
            return Ok((segment.id, len));
        }
        let (remote, name) = (self.clone(), segment_name(segment.id));
        asked.give(Put { remote, name, object, _memory: memory }).await?;
        Ok((segment.id, len))
    }

    /// The object that a segment is, of so many bytes.
    async fn put_together(&self, segment: &Packed, bytes: usize) -> Result<Bytes, SendError> {
        let mut object = Vec::with_capacity(bytes);
        for (extent, _) in &segment.extents {
            object.extend_from_slice(&self.sealed_bytes(extent).await?);
        }
        padding::pad(&mut object, &self.random).expect("pack keeps segments below the largest class");
        Ok(object.into())
    }

    /// The sealed bytes of an extent that a round sends: the journal holds them until the round's end.
    pub async fn sealed_bytes(&self, extent: &Outgoing) -> Result<Bytes, SendError> {
        self.journal.travels_alone(extent.id);
        self.reading(|| self.read_sealed(extent)).await
    }

    /// Reads what is nowhere else than on this machine's disk. One that does not give it now is asked again until the mount
    /// ends. One that gives other bytes is asked again, too, and if it goes on so, nothing is sent.
    async fn reading(&self, read: impl Fn() -> Result<Bytes, JournalError>) -> Result<Bytes, SendError> {
        let mut failures = 0u32;
        loop {
            match read() {
                Err(JournalError::Io { file, kind, why }) if !is_final(kind) => {
                    failures = failures.saturating_add(1);
                    if failures % LOG_EVERY == 1 {
                        log::error!(
                            "{file}: {why} ({failures} tries to read what the vault lacks): tried again; check the disk"
                        );
                    }
                    self.pause(DISK_PAUSE.saturating_mul(failures).min(DISK_PAUSE_MAX)).await?;
                }
                Err(JournalError::Damaged(why)) if failures < LIES => {
                    failures += 1;
                    log::error!("{why} (try {failures} of {}): check the disk", LIES + 1);
                    self.pause(DISK_PAUSE).await?;
                }
                read => return Ok(read?),
            }
        }
    }

    fn read_sealed(&self, extent: &Outgoing) -> Result<Bytes, JournalError> {
        if let Some(bytes) = &extent.bytes {
            return Ok(bytes.clone());
        }
        let damaged = |what: &str| JournalError::Damaged(format!("extent {:?} that a commit needs {what}", extent.id));
        let bytes = self.journal.read(extent.id, 0..extent.record.stored);
        let bytes = bytes.unwrap_or_else(|| Err(damaged("is not there")))?;
        match &extent.sent {
            None => self.check(&extent.record, &bytes).map(|()| bytes),
            Some(sent) => match extent::seal_anew(&self.keys, sent, &extent.record, &bytes) {
                Ok(bytes) => Ok(bytes.into()),
                Err(error) => Err(damaged(&format!("does not open: {error}"))),
            },
        }
    }

    /// Are these sealed bytes as they were written?
    fn check(&self, record: &Extent, bytes: &[u8]) -> Result<(), JournalError> {
        if plants::on("upload-unchecked") {
            return Ok(());
        }
        extent::check_sealed(&self.keys, record, bytes).map_err(|error| {
            JournalError::Damaged(format!("an extent that a commit needs is not as it was written: {error}"))
        })
    }

    /// Creates a segment that is a staged file. What is linked is not read first: that would cost as much as sealing it did,
    /// and ask the kernel's memory rather than the disk.
    async fn create_whole(&self, name: &str, whole: &Whole, extents: &[(Extent, u32)]) -> Result<(), SendError> {
        if let Some(path) = self.journal.path_of(whole) {
            let (store, object, len) = (self.store.clone(), name.to_owned(), u64::from(whole.len));
            let linked = self.retrying(move |_| {
                let (store, object, path) = (store.clone(), object.clone(), path.clone());
                async move { store.link(&object, &path, len).await }.boxed()
            });
            match linked.await? {
                Some(Created::New) => return Ok(()),
                Some(Created::Exists) => return Err(SendError::Taken(name.to_owned())),
                None => {}
            }
        }
        let read = || {
            let object = match self.journal.read_whole(whole) {
                Err(JournalError::Io { file, kind: io::ErrorKind::NotFound, .. }) => {
                    return Err(JournalError::Damaged(format!(
                        "{file}: a staged file that a commit needs is not there"
                    )));
                }
                read => read?,
            };
            for (record, offset) in extents {
                let range = *offset as usize..(*offset + record.stored) as usize;
                self.check(record, &object[range])?;
            }
            Ok(object)
        };
        self.create(name, self.reading(read).await?).await
    }

    /// Creates an object under a name drawn at random; a lost answer may make it look as if it had been there.
    pub async fn create(&self, name: &str, object: Bytes) -> Result<(), SendError> {
        let (created, _) = self.create_once(name, &object).await?;
        if created == Created::New {
            return Ok(());
        }
        let standing = self.get(name).await?;
        if standing.as_ref() == Some(&object) { Ok(()) } else { Err(SendError::Taken(name.to_owned())) }
    }

    /// Tries until the store answers or the mount ends.
    async fn retrying<T: Send>(
        &self,
        mut attempt: impl FnMut(u32) -> BoxFuture<'static, Result<T, StoreError>> + Send,
    ) -> Result<T, Stopped> {
        retry::retrying(&self.stop, Backoff::default(), &self.random, &mut attempt).await
    }

    /// Waits, for something of this machine that may mend itself; not beyond the mount's end.
    pub async fn pause(&self, time: Duration) -> Result<(), Stopped> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Stopped::Cancelled),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// Creates an object if its name is free, however long the store takes to answer. Tells after how many failures:
    /// each of those may have taken effect.
    pub async fn create_once(&self, name: &str, object: &Bytes) -> Result<(Created, u32), Stopped> {
        let (store, name, object) = (self.store.clone(), name.to_owned(), object.clone());
        self.retrying(move |failures| {
            let (store, name, object) = (store.clone(), name.clone(), object.clone());
            async move { Ok((store.create(&name, object).await?, failures)) }.boxed()
        })
        .await
    }

    /// Deletes an object, however long the store takes to answer. A store that refuses is asked three times: then tells
    /// why.
    pub async fn delete(&self, name: &str) -> Result<Option<StoreError>, Stopped> {
        let (store, name) = (self.store.clone(), name.to_owned());
        let refused = Arc::new(AtomicU32::new(0));
        self.retrying(move |_| {
            let (store, name, refused) = (store.clone(), name.clone(), refused.clone());
            async move {
                match store.delete(&name).await {
                    Err(why @ StoreError::Refused { .. }) if refused.fetch_add(1, Relaxed) + 1 >= REFUSALS => {
                        Ok(Some(why))
                    }
                    deleted => deleted.map(|()| None),
                }
            }
            .boxed()
        })
        .await
    }

    /// The first `most` names below a prefix that come after `after` ("": from the first on), sorted.
    pub async fn list(&self, prefix: &str, after: &str, most: usize) -> Result<Vec<String>, Stopped> {
        let (store, prefix, after) = (self.store.clone(), prefix.to_owned(), after.to_owned());
        self.retrying(move |_| {
            let (store, prefix, after) = (store.clone(), prefix.clone(), after.clone());
            async move {
                match after.is_empty() {
                    true => store.list(&prefix, most).await,
                    false => store.list_after(&prefix, &after, most).await,
                }
            }
            .boxed()
        })
        .await
    }

    /// Gets an object whole, however long the store takes to answer.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, Stopped> {
        let (store, name) = (self.store.clone(), name.to_owned());
        self.retrying(move |_| {
            let (store, name) = (store.clone(), name.clone());
            async move { store.get(&name).await }.boxed()
        })
        .await
    }
}

/// The extents of a packed segment, as the vault has them.
pub fn places(segment: &Packed) -> impl Iterator<Item = (ExtentId, Extent)> {
    segment.extents.iter().map(|(extent, offset)| {
        let place = Place::Segment { id: segment.id, offset: *offset };
        (extent.id, Extent { place, ..extent.record.clone() })
    })
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use object_store::throttle::{ThrottleConfig, ThrottledStore};

    use super::*;
    use crate::base::disk::simulated::{SeededBytes, SimulatedDisk};
    use crate::base::{Ino, Position};
    use crate::crypto::kdf;
    use crate::crypto::secret::Key;
    use crate::format::change::Change;
    use crate::format::keys::Keys;
    use crate::journal::SealedExtent;
    use crate::journal::tests::small;

    const LEN: u32 = 1000;
    /// Segments in flight at once.
    const PUTS_IN_FLIGHT: u64 = 4;

    fn keys() -> Arc<Keys> {
        Arc::new(Keys::from_master(&Key::from_bytes([7; 32])))
    }

    /// A journal that holds so many extents, each packed into a segment of its own.
    fn packed(count: u64, random: &Random) -> (Arc<Journal>, Vec<Packed>) {
        let recovered = Journal::recover(SimulatedDisk::new(7), "journal", keys(), Position(0)).unwrap();
        let journal = Journal::resume(recovered, random.clone(), small(), Position(0)).unwrap();
        let (record, bytes) = extent::seal(&keys(), random, [0; 16], &[7; LEN as usize - 16], false);
        assert_eq!(record.stored, LEN);
        let bytes = Bytes::from(bytes);
        let id = |number| ExtentId { owner: Ino(9), number };
        let sealed = |number| SealedExtent {
            id: id(number),
            record: record.clone(),
            bytes: bytes.clone(),
            hash: kdf::hash(&bytes),
        };
        journal.append(Arc::new(Change::default()), (0..count).map(sealed).collect());
        let segments = (0..count).map(|number| Packed {
            id: ObjectId(random.bytes()),
            extents: vec![(Outgoing { id: id(number), record: record.clone(), sent: None, bytes: None }, 0)],
            len: LEN,
            whole: None,
        });
        (journal, segments.collect())
    }

    #[tokio::test(start_paused = true)]
    async fn each_segment_that_stands_lowers_what_is_left() {
        let random = Random::Simulated(Arc::new(SeededBytes::new(7)));
        let (journal, segments) = packed(3 * PUTS_IN_FLIGHT, &random);
        let put = Duration::from_secs(60);
        let slow =
            ThrottledStore::new(InMemory::new(), ThrottleConfig { wait_put_per_call: put, ..Default::default() });
        let patient = crate::store::Settings { deadline: 2 * put, ..Default::default() };
        let store = Store::over_with(Arc::new(slow), "slow:///", patient);
        let remote = RemoteStorage::new(store, keys(), journal, random, CancellationToken::new());
        let all = segments.len() as u64 * u64::from(LEN);
        let left = Mutex::new(all);
        let watch = async {
            let mut seen = Vec::new();
            for _ in 0..3 {
                tokio::time::sleep(put - Duration::from_secs(1)).await;
                seen.push(*left.lock());
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            seen
        };
        let (sent, seen) = tokio::join!(remote.send(&segments, &left, Class::Holding), watch);
        assert_eq!(sent.unwrap().len(), segments.len());
        assert_eq!(seen, [all, all / 3 * 2, all / 3], "before each of three waves is through");
        assert_eq!(*left.lock(), 0);
    }
}
