//! For tests: a vault's segments in memory, behind a distance, with every GET written down.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use crate::base::sizes::READ_GRID;
use crate::base::{ExtentId, Ino, ObjectId, Random};
use crate::crypto::secret::Key;
use crate::format::commit::segment_name;
use crate::format::extent::seal;
use crate::format::keys::Keys;
use crate::format::record::{Extent, Place};
use crate::store::Store;

/// What a request takes.
pub(crate) const DISTANCE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Recorder {
    objects: InMemory,
    /// Object and range of grid blocks, in the order in which they were asked for.
    gets: Mutex<Vec<(String, std::ops::Range<u64>)>>,
    in_flight: AtomicUsize,
    most: AtomicUsize,
    down: AtomicBool,
    hangs: AtomicBool,
}

impl Recorder {
    pub(crate) fn new() -> Arc<Recorder> {
        let (gets, down) = (Mutex::default(), AtomicBool::new(false));
        let hangs = AtomicBool::new(false);
        let (in_flight, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Recorder { objects: InMemory::new(), gets, in_flight, most, down, hangs })
    }

    pub(crate) fn store(self: &Arc<Self>) -> Store {
        Store::over(self.clone(), "memory:///")
    }

    /// The GETs since this was last asked: first block and blocks.
    pub(crate) fn gets(&self) -> Vec<(u64, u64)> {
        let gets = std::mem::take(&mut *self.gets.lock());
        let grid = READ_GRID as u64;
        gets.into_iter().map(|(_, range)| (range.start / grid, (range.end - range.start).div_ceil(grid))).collect()
    }

    /// ... and the most that were in flight at once.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.most.swap(0, Ordering::Relaxed)
    }

    /// From now on nothing answers, or all does.
    pub(crate) fn down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    /// From now on no request ends, or all do.
    pub(crate) fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }

    /// Seals these plaintexts, one extent each, side by side into a segment.
    pub(crate) async fn pack(
        &self,
        keys: &Keys,
        segment: u8,
        plain: &[(ExtentId, Vec<u8>)],
    ) -> Vec<(ExtentId, Extent)> {
        let object_id = ObjectId([segment; 16]);
        let mut object = Vec::new();
        let mut extents = Vec::new();
        for (id, plain) in plain {
            let (mut extent, bytes) = seal(keys, &Random::Kernel, [2; 16], plain, false);
            extent.place = Place::Segment { id: object_id, offset: object.len() as u32 };
            object.extend_from_slice(&bytes);
            extents.push((*id, extent));
        }
        self.objects.put(&Path::from(segment_name(object_id)), object.into()).await.expect("memory takes it");
        extents
    }
}

pub(crate) fn keys() -> Arc<Keys> {
    Arc::new(Keys::from_master(&Key::from_bytes([1; 32])))
}

pub(crate) fn id(owner: u64, number: u64) -> ExtentId {
    ExtentId { owner: Ino(owner), number }
}

impl fmt::Display for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("recorder")
    }
}

#[async_trait]
impl ObjectStore for Recorder {
    async fn put_opts(&self, to: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.objects.put_opts(to, payload, options).await
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(GetRange::Bounded(range)) = &options.range {
            self.gets.lock().push((from.to_string(), range.clone()));
        }
        self.most.fetch_max(self.in_flight.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        if self.hangs.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        tokio::time::sleep(DISTANCE).await;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.down.load(Ordering::Relaxed) {
            return Err(Error::Generic { store: "recorder", source: "the network is down".into() });
        }
        self.objects.get_opts(from, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}
