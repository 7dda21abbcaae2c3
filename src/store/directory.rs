//! A local directory as a store: made late, and watched.
//!
//! Owns the one question that a path cannot answer by itself: is this still the directory that was opened? A disk
//! that was unmounted leaves an empty mount point behind, on which a vault would look as if it had never been.
//! Invariants: a directory that was seen and is gone, or was replaced by an empty one, is an error, not "not found"; an
//! object that a create or a link made or met is durable, with every name on the way to it; what is read at hand waits for
//! no disk.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use parking_lot::Mutex;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2, statfs};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::Created;
use super::get::Got;
use crate::base::disk;

pub(super) struct Directory {
    path: PathBuf,
    seen: Arc<Mutex<Option<Seen>>>,
    must_exist: Arc<AtomicBool>,
    /// Directories whose names are known to be durable, up to the vault's own.
    settled: Arc<Mutex<HashSet<PathBuf>>>,
    /// Can files of the state directory be linked into it? `None` while nobody has looked.
    links: Mutex<Option<bool>>,
}

#[derive(Clone)]
struct Seen {
    device: u64,
    inode: u64,
    /// On a disk of this machine: to open a file there asks nobody else.
    is_near: bool,
    store: Arc<dyn ObjectStore>,
}

/// File systems whose files no other machine has, as statfs(2) numbers them: ext2 to ext4, XFS, Btrfs, F2FS, tmpfs,
/// overlay (over one of these, as a rule).
const NEAR: [u64; 6] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994, 0x794c_7630];

impl Directory {
    pub(super) fn new(path: PathBuf) -> Directory {
        Directory {
            path,
            seen: Arc::default(),
            must_exist: Arc::default(),
            settled: Arc::default(),
            links: Mutex::new(None),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on a missing directory is an error, and none is made.
    pub(super) fn must_exist(&self) {
        self.must_exist.store(true, Ordering::Relaxed);
    }

    /// The store, `None` while there has never been a directory.
    pub(super) async fn store(&self) -> io::Result<Option<Arc<dyn ObjectStore>>> {
        let (path, seen, must_exist) = (self.path.clone(), self.seen.clone(), self.must_exist.clone());
        let store = blocking(move || look(&path, &seen)).await?;
        if store.is_none() && must_exist.load(Ordering::Relaxed) {
            return Err(missing(&self.path));
        }
        Ok(store)
    }

    /// An object, or bytes of it. One visit of a thread that may wait does it all: going there and back takes as long as
    /// the disk.
    pub(super) async fn get(&self, name: &str, range: Option<Range<u64>>, most: u64) -> io::Result<Got> {
        let (path, seen, object) = (self.path.clone(), self.seen.clone(), self.path.join(name));
        let must_exist = self.must_exist.clone();
        blocking(move || match look(&path, &seen)? {
            Some(_) => read(&object, range, most),
            None if must_exist.load(Ordering::Relaxed) => Err(missing(&path)),
            None => Ok(Got::Nothing),
        })
        .await
    }

    /// Is it on a disk of this machine, as far as is known?
    pub(super) fn is_near(&self) -> bool {
        self.seen.lock().as_ref().is_some_and(|seen| seen.is_near)
    }

    /// Bytes of an object that the kernel has in memory, all of them; `None` where it would have to wait for a disk, or may
    /// have to. Costs some microseconds, so it may be called where nobody may wait.
    pub(super) fn at_hand(&self, name: &str, range: Range<u64>) -> Option<Bytes> {
        if !self.is_near() {
            return None;
        }
        let path = self.path.join(name);
        let file = openat2(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::CACHED).ok()?;
        let mut bytes = BytesMut::zeroed(usize::try_from(range.end.checked_sub(range.start)?).ok()?);
        let buffer = &mut [io::IoSliceMut::new(&mut bytes)];
        let read = preadv2(&file, buffer, range.start, ReadWriteFlags::NOWAIT).ok()?;
        (read == bytes.len()).then(|| bytes.freeze())
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

    /// May a file be given an object's name? Not over file systems, nor after it failed once. Looked at once: all of them
    /// lie in one directory.
    pub(super) async fn can_link(&self, file: &Path) -> io::Result<bool> {
        if let Some(known) = *self.links.lock() {
            return Ok(known);
        }
        let (root, file) = (self.path.clone(), file.to_owned());
        let is_same = blocking(move || Ok(std::fs::metadata(&root)?.dev() == std::fs::metadata(&file)?.dev())).await?;
        Ok(*self.links.lock().get_or_insert(is_same))
    }

    /// Gives a durable file that nobody writes to any more an object's name, too; `None` where that cannot be done.
    pub(super) async fn link(&self, file: &Path, name: &str) -> io::Result<Option<Created>> {
        let (root, file, object) = (self.path.clone(), file.to_owned(), self.path.join(name));
        let (linked, never) = blocking(move || match share(&root, &file) {
            Ok(()) => link(&file, &object, &mut disk::sync_path).map(|linked| (linked, linked.is_none())),
            Err(why) => {
                log::debug!("{}: bulk is copied: {why}", root.display());
                // Whoever copies it tells what is wrong with a file that is not there.
                Ok((None, why.kind() != io::ErrorKind::NotFound))
            }
        })
        .await?;
        if never {
            *self.links.lock() = Some(false);
        }
        Ok(linked)
    }

    /// An object that this request made has its bytes and its name on the disk; one that stood there is perhaps what a
    /// try without an answer, or a process that died, left half way. Afterwards both are durable.
    pub(super) async fn settle(&self, name: &str, created: Created) -> io::Result<()> {
        let (root, object, settled) = (self.path.clone(), self.path.join(name), self.settled.clone());
        let known = |dir: &Path| *dir == *root || settled.lock().contains(dir);
        if created == Created::New && object.parent().is_some_and(known) {
            return Ok(());
        }
        blocking(move || settle(&root, &object, created, &settled, &mut disk::sync_path)).await
    }

    /// The name of an object that was deleted, or never was, is gone for good. (Where its directory never was, so was
    /// the object.)
    pub(super) async fn settle_deleted(&self, name: &str) -> io::Result<()> {
        let object = self.path.join(name);
        blocking(move || match object.parent().map(disk::sync_path) {
            Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        })
        .await
    }
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist (is its disk mounted?)", path.display()))
}

fn read(object: &Path, range: Option<Range<u64>>, most: u64) -> io::Result<Got> {
    let file = match File::open(object) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Got::Nothing),
        opened => opened?,
    };
    let len = file.metadata()?.len();
    let range = match range {
        Some(range) if range.start >= len => return Ok(Got::Nothing),
        Some(range) => range.start..range.end.min(len),
        None => 0..len,
    };
    let wanted = range.end - range.start;
    if wanted > most {
        return Ok(Got::TooLarge(wanted));
    }
    let mut bytes = BytesMut::zeroed(wanted as usize);
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(Got::Bytes(bytes.freeze()))
}

/// Who may enter the vault's directory may read what is linked into it, and nobody else may write it: until the vault has
/// it, it is this machine's journal. It belongs to the directory's group where files made there do.
fn share(root: &Path, file: &Path) -> io::Result<()> {
    const SETGID: u32 = 0o2000;
    let (root, meta) = (std::fs::metadata(root)?, std::fs::metadata(file)?);
    if root.mode() & SETGID != 0 && root.gid() != meta.gid() {
        chown(file, None, Some(root.gid()))?;
    }
    let mode = 0o600 | (root.mode() & 0o011) << 2;
    if meta.mode() & 0o777 != mode {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn link(file: &Path, object: &Path, sync: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<Option<Created>> {
    let parent = object.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let linked = match std::fs::hard_link(file, object) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(parent)?;
            std::fs::hard_link(file, object)
        }
        linked => linked,
    };
    match linked {
        Ok(()) => sync(parent).map(|()| Some(Created::New)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let (a, b) = (std::fs::metadata(file)?, std::fs::metadata(object)?);
            if (a.dev(), a.ino()) != (b.dev(), b.ino()) {
                return Ok(Some(Created::Exists));
            }
            // A try without an answer made it: its name may not be durable.
            sync(parent).map(|()| Some(Created::New))
        }
        Err(e) if cannot_link(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Another file system, one without hard links, too many of them, or somebody who forbids them.
fn cannot_link(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::ACCESS | Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK)
    )
}

fn settle(
    root: &Path,
    object: &Path,
    created: Created,
    settled: &Mutex<HashSet<PathBuf>>,
    sync: &mut dyn FnMut(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let named = |error: io::Error, path: &Path| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let parents = object.ancestors().skip(1);
    if created == Created::Exists {
        for path in [Some(object), object.parent()].into_iter().flatten() {
            sync(path).map_err(|e| named(e, path))?;
        }
    }
    // Directories are made with the first object in them, perhaps by one who then died.
    for dir in parents.take_while(|dir| *dir != root) {
        let Some(above) = dir.parent() else { break };
        if settled.lock().contains(dir) {
            break;
        }
        sync(above).map_err(|e| named(e, above))?;
    }
    settled.lock().extend(object.ancestors().skip(1).take_while(|dir| *dir != root).map(Path::to_owned));
    Ok(())
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
    let is_near = statfs(path).is_ok_and(|on| NEAR.contains(&(on.f_type as u64)));
    *seen.lock() = Some(Seen { device: meta.dev(), inode: meta.ino(), is_near, store: store.clone() });
    Ok(Some(store))
}

/// Even a stat can hang on a directory that is somebody else's network.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_is_synced_with_every_name_on_the_way() {
        let (root, settled) = (Path::new("/v"), Mutex::default());
        let run = |name: &str, created| {
            let mut synced = Vec::new();
            settle(root, &root.join(name), created, &settled, &mut |path| {
                synced.push(path.display().to_string());
                Ok(())
            })
            .unwrap();
            synced
        };
        assert_eq!(run("segments/aa/1", Created::New), ["/v/segments", "/v"]);
        assert_eq!(run("segments/aa/2", Created::New), [""; 0], "with_fsync did the rest");
        assert_eq!(run("segments/ab/1", Created::New), ["/v/segments"]);
        assert_eq!(run("log/1", Created::Exists), ["/v/log/1", "/v/log", "/v"]);
        assert_eq!(run("log/1", Created::Exists), ["/v/log/1", "/v/log"]);
        let failing = settle(root, &root.join("x/1"), Created::New, &settled, &mut |_| Err(io::Error::other("full")));
        assert_eq!(failing.unwrap_err().to_string(), "/v: full");
        assert_eq!(run("x/1", Created::New), ["/v"], "a name that was not synced is not settled");
    }

    #[tokio::test]
    async fn what_is_at_hand_is_what_the_object_holds_whole() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path().to_owned());
        std::fs::create_dir(dir.path().join("segments")).unwrap();
        std::fs::write(dir.path().join("segments/1"), b"abcdefgh").unwrap();
        assert_eq!(directory.at_hand("segments/1", 2..5), None, "the directory was not looked at");
        directory.store().await.unwrap().unwrap();
        if !directory.is_near() {
            eprintln!("SKIPPED: {} is on a file system that is not taken for near", dir.path().display());
            return;
        }
        assert_eq!(directory.at_hand("segments/1", 2..5).as_deref(), Some(&b"cde"[..]));
        assert_eq!(directory.at_hand("segments/1", 6..9), None, "it ends before");
        assert_eq!(directory.at_hand("segments/2", 0..1), None, "there is none");
    }

    #[tokio::test]
    async fn a_link_is_a_create_that_copies_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let vault = dir.path().join("vault");
        std::fs::create_dir(&vault).unwrap();
        std::fs::set_permissions(&vault, std::fs::Permissions::from_mode(0o750)).unwrap();
        let directory = Directory::new(vault.clone());
        let file = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, name).unwrap();
            path
        };
        let (one, two) = (file("one"), file("two"));
        assert_eq!(directory.link(&one, "segments/aa/1").await.unwrap(), Some(Created::New));
        let meta = std::fs::metadata(vault.join("segments/aa/1")).unwrap();
        assert_eq!((meta.ino(), meta.mode() & 0o777), (std::fs::metadata(&one).unwrap().ino(), 0o640));
        assert_eq!(directory.link(&one, "segments/aa/1").await.unwrap(), Some(Created::New), "an answer that was lost");
        assert_eq!(directory.link(&two, "segments/aa/1").await.unwrap(), Some(Created::Exists));
        for (root, linked) in [(0o700, 0o600), (0o775, 0o644), (0o1777, 0o644), (0o2770, 0o640), (0o711, 0o644)] {
            std::fs::set_permissions(&vault, std::fs::Permissions::from_mode(root)).unwrap();
            let file = file(&format!("{root:o}"));
            assert_eq!(directory.link(&file, &format!("segments/{root:o}")).await.unwrap(), Some(Created::New));
            let mode = std::fs::metadata(&file).unwrap().mode() & 0o777;
            assert_eq!(mode, linked, "below a directory of mode {root:o}: {mode:o}; it is the journal's, too");
        }
        std::fs::remove_file(&one).unwrap();
        assert_eq!(std::fs::read(vault.join("segments/aa/1")).unwrap(), b"one");
        assert_eq!(directory.link(&one, "segments/aa/2").await.unwrap(), None, "there is nothing to link");
        let elsewhere = std::path::Path::new("/proc/self/status");
        match link(elsewhere, &vault.join("segments/aa/3"), &mut disk::sync_path) {
            Ok(None) => {}
            other => panic!("over file systems: {other:?}"),
        }
        assert!(directory.can_link(&two).await.unwrap());
        assert_eq!(directory.link(elsewhere, "segments/aa/3").await.unwrap(), None);
        assert!(!directory.can_link(&two).await.unwrap(), "never again");
        let directory = Directory::new(vault);
        assert!(!directory.can_link(elsewhere).await.unwrap() && !directory.can_link(&two).await.unwrap());
    }

    #[test]
    fn a_link_that_a_failed_try_made_is_durable_before_it_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (file, object) = (dir.path().join("file"), dir.path().join("segments/1"));
        std::fs::write(&file, b"one").unwrap();
        link(&file, &object, &mut |_| Err(io::Error::other("disk"))).unwrap_err();
        let mut synced = Vec::new();
        let mut sync = |path: &Path| {
            synced.push(path.to_owned());
            Ok(())
        };
        assert_eq!(link(&file, &object, &mut sync).unwrap(), Some(Created::New));
        assert_eq!(synced, [dir.path().join("segments")]);
    }
}
