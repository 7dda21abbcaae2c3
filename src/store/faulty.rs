//! A store for tests that misbehaves on demand.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Puts and gets fail as if the network were down.
    Down,
    /// ... as if the credentials were wrong.
    Refuse,
    /// They never end.
    Hang,
    /// Puts take effect, but their answer is lost.
    LoseAnswer,
    /// Create-if-absent overwrites.
    Overwrite,
}

/// An in-memory store that shows `fault` for the next `left` puts and gets.
#[derive(Debug)]
pub(crate) struct Faulty {
    pub(crate) inner: InMemory,
    fault: Fault,
    left: AtomicU32,
    /// Puts that go well before the first that does not.
    spared: AtomicU32,
}

impl Faulty {
    pub(crate) fn new(fault: Fault, times: u32) -> Arc<Faulty> {
        Arc::new(Faulty { inner: InMemory::new(), fault, left: AtomicU32::new(times), spared: AtomicU32::new(0) })
    }

    /// The next `times` puts and gets go wrong.
    pub(crate) fn strike(&self, times: u32) {
        self.left.store(times, Ordering::SeqCst);
    }

    /// The next `times` puts go well.
    pub(crate) fn spare(&self, times: u32) {
        self.spared.store(times, Ordering::SeqCst);
    }

    /// The provider puts this object under the name, whatever stood there.
    pub(crate) async fn replace(&self, name: &str, bytes: Vec<u8>) {
        let name = Path::from(name);
        self.inner.put_opts(&name, bytes.into(), PutOptions::default()).await.expect("memory takes it");
    }

    fn strikes(&self) -> bool {
        self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
    }

    fn error(&self, location: &Path) -> Error {
        match self.fault {
            Fault::Refuse => Error::PermissionDenied { path: location.to_string(), source: "bad key".into() },
            _ => Error::Generic { store: "faulty", source: "connection refused".into() },
        }
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let spared = self.spared.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if spared || !self.strikes() {
            return self.inner.put_opts(location, payload, options).await;
        }
        match self.fault {
            Fault::Hang => std::future::pending().await,
            Fault::LoseAnswer => {
                self.inner.put_opts(location, payload, options).await?;
                Err(self.error(location))
            }
            Fault::Overwrite => {
                options.mode = PutMode::Overwrite;
                self.inner.put_opts(location, payload, options).await
            }
            Fault::Down | Fault::Refuse => Err(self.error(location)),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.fault {
            _ if self.spared.load(Ordering::SeqCst) > 0 => self.inner.get_opts(location, options).await,
            Fault::Hang if self.strikes() => std::future::pending().await,
            Fault::Down | Fault::Refuse if self.strikes() => Err(self.error(location)),
            _ => self.inner.get_opts(location, options).await,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
