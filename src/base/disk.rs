//! The local disk below a state directory, as a trait, so that a simulation can tear it.
//!
//! Paths are relative to the state directory and use `/`. Semantics are those of POSIX files: bytes are safe once
//! `sync_data` of the file returned, names once `sync_dir` of their directory returned, and a file whose `sync_data`
//! failed once is not to be trusted again.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;

pub mod simulated;

/// An open local file. Reads and writes go to stated offsets; there is no cursor.
#[allow(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty, and the length may fail")]
pub trait File: Send + Sync {
    /// Writes all of `bytes` at `offset`, or fails (then any part may have been written).
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reads exactly `out.len()` bytes at `offset`; `UnexpectedEof` where the file is shorter.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
    /// fdatasync(2).
    fn sync_data(&self) -> io::Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// ftruncate(2).
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Takes room on the disk for the first `len` bytes, as posix_fallocate(3) does.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Gives the room of a stretch back; it reads as zeros then. `Unsupported` where the disk cannot.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// A directory tree on the local disk.
pub trait Disk: Send + Sync {
    /// Creates a file for reading and writing; `AlreadyExists` where there is one. Mode 0600.
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file for reading; it may be fdatasynced.
    fn open_to_read(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.open(path)
    }
    /// rename(2), of a file or of a whole directory; replaces a file, or an empty directory, that stands under the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes a directory and those above it, their names durable at once. Mode 0700. Not an error where it exists.
    fn create_dir(&self, path: &str) -> io::Result<()>;
    /// Names of the files (not directories) in a directory, sorted; empty where the directory is missing.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// fsync(2) of a directory.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Bytes that files in this directory may still take; `u64::MAX` where the disk does not say.
    fn free(&self, dir: &str) -> io::Result<u64>;
    /// Where a file lies in the machine's file system; `None` if it does not.
    fn real_path(&self, _path: &str) -> Option<PathBuf> {
        None
    }
}

/// Does this error say that the disk is full?
pub fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The machine's own disk, below one directory.
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// `root` need not exist: `create_dir("")` makes it.
    pub fn new(root: PathBuf) -> RealDisk {
        RealDisk { root }
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

/// An open file of a [`RealDisk`]. std opens with O_CLOEXEC.
struct RealFile(fs::File);

impl File for RealFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                // Written out, then; a disk that compresses zeros away has no room to take in advance anyhow.
                let zeros = [0; 64 * 1024];
                let mut at = self.len()?;
                while at < len {
                    let n = zeros.len().min((len - at) as usize);
                    self.0.write_all_at(&zeros[..n], at)?;
                    at += n as u64;
                }
                Ok(())
            }
            result => Ok(result?),
        }
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.0, flags, offset, len) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Err(io::ErrorKind::Unsupported.into()),
            result => Ok(result?),
        }
    }
}

/// Makes `path` and what is missing above it (mode 0700). When it returns the names of all of them are durable, whoever
/// made them: one that was found may be left by a process that died before its fsync.
pub fn make_dirs(path: &Path) -> io::Result<()> {
    make_missing(path)?;
    each_parent(path, &mut sync_path)
}

fn make_missing(path: &Path) -> io::Result<()> {
    let make = || match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    };
    match make() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_missing(path.parent().ok_or(e)?)?;
            make()
        }
        other => other,
    }
}

/// fsync(2) of a file or directory.
pub fn sync_path(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Calls `sync` for each directory above `path`, up to the root of its filesystem.
fn each_parent(path: &Path, sync: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let device = fs::metadata(&path)?.dev();
    for parent in path.ancestors().skip(1) {
        if fs::metadata(parent)?.dev() != device {
            break;
        }
        match sync(parent) {
            // Where nobody may look, or nothing can be fsynced, no name of ours is new.
            Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => {}
            other => other?,
        }
    }
    Ok(())
}

impl Disk for RealDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.path(path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(true).open(self.path(path))?)))
    }

    fn open_to_read(&self, path: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(fs::File::open(self.path(path))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        make_dirs(&self.path(path))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(dir)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // Names that are not UTF-8 are none of ours.
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        fs::File::open(self.path(dir))?.sync_all()
    }

    fn free(&self, dir: &str) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(self.path(dir))?;
        if stat.f_blocks == 0 {
            return Ok(u64::MAX);
        }
        // What is set apart for root is room for root.
        let blocks = if rustix::process::geteuid().is_root() { stat.f_bfree } else { stat.f_bavail };
        Ok(blocks.saturating_mul(stat.f_frsize))
    }

    fn real_path(&self, path: &str) -> Option<PathBuf> {
        Some(self.path(path))
    }
}

/// Writes a small file so that after a crash its name stands for either the old bytes or the new ones.
pub fn replace(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{path}.new");
    match disk.remove(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(path.rsplit_once('/').map_or("", |(dir, _)| dir))
}

/// Reads a small file whole; `None` where there is none.
pub fn read(disk: &dyn Disk, path: &str, most: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let len = file.len()?;
    if len > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{path} has {len} bytes, {most} at most")));
    }
    let mut bytes = vec![0; len as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_real_disk_keeps_files_private_and_answers_as_the_trait_says() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().join("state"));
        assert!(disk.list("a/b").unwrap().is_empty(), "a missing directory is an empty one");
        disk.create_dir("a/b").unwrap();
        disk.create_dir("a/b").unwrap();
        let file = disk.create("a/b/x").unwrap();
        assert_eq!(disk.create("a/b/x").err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        file.write_at(b"world", 6).unwrap();
        file.write_at(b"hello ", 0).unwrap();
        file.sync_data().unwrap();
        disk.rename("a/b/x", "a/b/y").unwrap();
        disk.sync_dir("a/b").unwrap();
        let mut out = [0; 11];
        disk.open("a/b/y").unwrap().read_at(&mut out, 0).unwrap();
        assert_eq!(&out, b"hello world");
        assert_eq!(file.read_at(&mut out, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(disk.list("a/b").unwrap(), ["y"]);
        assert!(disk.list("a").unwrap().is_empty(), "directories are not listed");
        let mode = |path: &str| fs::metadata(dir.path().join("state").join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("a/b/y"), mode("a/b"), mode("a")), (0o600, 0o700, 0o700));
        let free = disk.free("a").unwrap();
        assert!(free > 0);
        file.allocate(1 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 1 << 20);
        file.punch(0, 4096).unwrap();
        file.read_at(&mut out, 0).unwrap();
        assert_eq!(out, [0; 11], "what was punched reads as zeros");
        file.set_len(5).unwrap();
        assert_eq!(file.len().unwrap(), 5);
        disk.rename("a/b", "c").unwrap();
        assert_eq!(disk.list("c").unwrap(), ["y"]);
        disk.remove("c/y").unwrap();
        assert_eq!(disk.open("c/y").err().unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_names_of_all_directories_on_the_way_are_synced_and_of_those_that_stood_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        make_dirs(&path).unwrap();
        make_dirs(&path).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("a/b"), &link).unwrap();
        for path in [path, link.join("c")] {
            let mut synced = Vec::new();
            each_parent(&path, &mut |parent| {
                synced.push(parent.to_owned());
                Ok(())
            })
            .unwrap();
            let root = dir.path().canonicalize().unwrap();
            assert!(synced.starts_with(&[root.join("a/b"), root.join("a"), root]), "{synced:?}");
        }
        let refused = |kind| each_parent(dir.path(), &mut move |_| Err(io::Error::from(kind)));
        refused(io::ErrorKind::PermissionDenied).unwrap();
        assert!(refused(io::ErrorKind::StorageFull).is_err());
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(make_dirs(&file.join("d")).is_err());
        assert!(make_dirs(&file).is_err());
    }

    #[test]
    fn a_replaced_small_file_is_read_back_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().to_path_buf());
        assert_eq!(read(&disk, "pin", 100).unwrap(), None);
        replace(&disk, "pin", b"one").unwrap();
        replace(&disk, "pin", b"two").unwrap();
        assert_eq!(read(&disk, "pin", 100).unwrap().unwrap(), b"two");
        assert!(read(&disk, "pin", 2).is_err());
    }
}
