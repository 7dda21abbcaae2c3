//! `dripfs cache`: fetching files into the cache, dropping them from it, listing what is in it.
//!
//! Paths are from the root of the drive, without symlinks: whoever asks has resolved them. Permission bits are not asked:
//! only the drive's own user and root are heard, and nothing is told but names, sizes and uses.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::{Drive, Progress};
use crate::base::Ino;
use crate::fs::FsError;

/// So many files are fetched at a time: a store's latency is hidden, and who waits for a read of his own is not held up.
const AT_ONCE: usize = 4;
/// Entries of a directory that are looked at together.
const LISTING: usize = 256;
/// Files in one answer, and bytes of their paths: an answer is one line of the control socket, and control characters
/// take six bytes there.
const PAGE_FILES: usize = 200;
const PAGE_BYTES: usize = 8 * 1024;

/// How much was fetched, or let go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Moved {
    pub files: u64,
    pub bytes: u64,
    /// Files whose bytes could not be had; the log says why.
    pub failed: u64,
}

/// One file of the cache.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CachedFile {
    pub path: String,
    /// Decrypted bytes in memory, and those that are not in the journal yet.
    pub bytes: u64,
    pub dirty_bytes: u64,
    pub hits: u64,
    /// Since its last use.
    pub age_seconds: u64,
}

/// A part of the list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cached {
    pub files: Vec<CachedFile>,
    /// Where the next part begins; `None` at the end.
    pub next: Option<u64>,
}

impl Drive {
    /// Fetches a file, or all files below a directory, in the background class.
    pub async fn warm(&self, path: &Path, told: impl Fn(Progress)) -> Result<Moved, FsError> {
        let files = self.files_below(path).await?;
        let (left, bytes) = (AtomicU64::new(files.len() as u64), files.iter().map(|(_, size)| size).sum());
        let (came, pending) = (AtomicU64::new(0), AtomicU64::new(bytes));
        let one = |(ino, size): (Ino, u64)| {
            let (left, came, pending, told) = (&left, &came, &pending, &told);
            async move {
                let mut rest = size;
                let tell = |n: u64| {
                    let n = n.min(rest);
                    rest -= n;
                    came.fetch_add(n, Ordering::Relaxed);
                    let pending_bytes = pending.fetch_sub(n, Ordering::Relaxed) - n;
                    told(Progress { pending_files: left.load(Ordering::Relaxed), pending_bytes });
                };
                let fetched = self.cache.fetch(ino, tell).await;
                // Holes, and what could not be had, do not come.
                pending.fetch_sub(rest, Ordering::Relaxed);
                left.fetch_sub(1, Ordering::Relaxed);
                fetched.inspect_err(|error| log::warn!("{ino}: not fetched: {error}")).is_err()
            }
        };
        let mut moved = Moved { files: files.len() as u64, ..Moved::default() };
        let mut fetches = futures::stream::iter(files).map(one).buffer_unordered(AT_ONCE);
        while let Some(failed) = fetches.next().await {
            moved.failed += u64::from(failed);
        }
        drop(fetches);
        moved.bytes = came.into_inner();
        Ok(moved)
    }

    /// Lets go of what is kept of a file, or of all files below a directory; what is dirty stays.
    pub async fn drop_cached(&self, path: &Path) -> Result<Moved, FsError> {
        let mut moved = Moved::default();
        for (ino, _) in self.files_below(path).await? {
            match self.cache.let_go(ino) {
                Ok(bytes) => (moved.files, moved.bytes) = (moved.files + 1, moved.bytes + bytes),
                Err(_) => moved.failed += 1,
            }
        }
        Ok(moved)
    }

    /// Files of which memory holds something, below `path`, from inode number `from` on.
    pub fn cached(&self, path: &Path, from: u64) -> Cached {
        let dir = format!("/{}", path.display());
        let below =
            |file: &str| dir == "/" || file == dir || file.strip_prefix(&dir).is_some_and(|r| r.starts_with('/'));
        let (mut files, mut bytes) = (Vec::new(), 0);
        for listed in self.cache.list().into_iter().filter(|listed| listed.ino.0 >= from) {
            let Some(path) = self.fs.path_of(listed.ino).filter(|path| below(path)) else { continue };
            if !files.is_empty() && (files.len() == PAGE_FILES || bytes + path.len() > PAGE_BYTES) {
                return Cached { files, next: Some(listed.ino.0) };
            }
            bytes += path.len();
            files.push(CachedFile {
                path,
                bytes: listed.bytes,
                dirty_bytes: listed.dirty_bytes,
                hits: listed.hits,
                age_seconds: listed.unused.as_secs(),
            });
        }
        Cached { files, next: None }
    }

    /// Regular files at or below a path, each once, with their sizes.
    async fn files_below(&self, path: &Path) -> Result<Vec<(Ino, u64)>, FsError> {
        let mut at = self.fs.getattr(Ino::ROOT).await?;
        for component in path.components() {
            match component {
                Component::Normal(name) => at = self.fs.lookup(at.ino, name.as_bytes()).await?,
                Component::RootDir | Component::CurDir => {}
                _ => return Err(FsError::NotFound),
            }
        }
        match at.mode & libc::S_IFMT {
            libc::S_IFREG => return Ok(vec![(at.ino, at.size)]),
            libc::S_IFDIR => {}
            _ => return Ok(Vec::new()),
        }
        let (mut files, mut rest) = (Vec::new(), vec![at.ino]);
        while let Some(dir) = rest.pop() {
            let mut cookie = 0;
            loop {
                let entries = self.fs.readdir(dir, cookie, true, LISTING).await?;
                let Some(last) = entries.last() else { break };
                cookie = last.cookie;
                for entry in entries.iter().filter(|entry| !entry.is_dots()) {
                    match (entry.kind, entry.attributes) {
                        (libc::S_IFDIR, _) => rest.push(entry.ino),
                        (libc::S_IFREG, Some(attributes)) => files.push((entry.ino, attributes.size)),
                        _ => {}
                    }
                }
            }
        }
        // A file may have several names.
        files.sort_unstable();
        files.dedup_by_key(|(ino, _)| *ino);
        Ok(files)
    }
}
