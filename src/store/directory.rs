//! A local directory as a store: made late, and watched.
//!
//! Owns the one question that a path cannot answer by itself: is this still the directory that was opened? A disk
//! that was unmounted leaves an empty mount point behind, on which a vault would look as if it had never been.
//! Invariant: a directory that was seen and is gone, or was replaced by an empty one, is an error, not "not found".

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use parking_lot::Mutex;

use crate::base::disk;

pub(super) struct Directory {
    path: PathBuf,
    seen: Arc<Mutex<Option<Seen>>>,
}

#[derive(Clone)]
struct Seen {
    device: u64,
    inode: u64,
    store: Arc<dyn ObjectStore>,
}

impl Directory {
    pub(super) fn new(path: PathBuf) -> Directory {
        Directory { path, seen: Arc::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The store, `None` while there has never been a directory.
    pub(super) async fn store(&self) -> io::Result<Option<Arc<dyn ObjectStore>>> {
        let (path, seen) = (self.path.clone(), self.seen.clone());
        blocking(move || look(&path, &seen)).await
    }

    /// Makes the directory and those above it, unless it once stood and vanished; their names are durable then.
    pub(super) async fn make(&self) -> io::Result<()> {
        let (path, seen) = (self.path.clone(), self.seen.clone());
        blocking(move || {
            look(&path, &seen)?;
            disk::make_dirs(&path)
        })
        .await
    }
}

fn look(path: &Path, seen: &Mutex<Option<Seen>>) -> io::Result<Option<Arc<dyn ObjectStore>>> {
    let before = seen.lock().clone();
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound && before.is_none() => return Ok(None),
        Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
    };
    if !meta.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{} is not a directory", path.display())));
    }
    let store = match before {
        Some(before) if (before.device, before.inode) == (meta.dev(), meta.ino()) => return Ok(Some(before.store)),
        Some(_) if std::fs::read_dir(path)?.next().is_none() => {
            let why = format!("{} was replaced by an empty directory (is its disk mounted?)", path.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        Some(before) => before.store,
        None => Arc::new(LocalFileSystem::new_with_prefix(path).map_err(io::Error::from)?.with_fsync(true)),
    };
    *seen.lock() = Some(Seen { device: meta.dev(), inode: meta.ino(), store: store.clone() });
    Ok(Some(store))
}

/// Even a stat can hang on a directory that is somebody else's network.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
