//! The local disk below a state directory, as a trait, so that a simulation can tear it.
//!
//! Paths are relative to the state directory and use `/`. Semantics are those of POSIX files: bytes are safe once
//! `sync_data` of the file returned, names once `sync_dir` of their directory returned, and a file whose `sync_data`
//! failed once is not to be trusted again.

use std::io;
use std::sync::Arc;

/// An open local file. Reads and writes go to stated offsets; there is no cursor.
pub trait File: Send + Sync {
    /// Writes all of `bytes` at `offset`, or fails (then any part may have been written).
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reads exactly `out.len()` bytes at `offset`; `UnexpectedEof` where the file is shorter.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
    /// fdatasync(2).
    fn sync_data(&self) -> io::Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
}

/// A directory tree on the local disk.
pub trait Disk: Send + Sync {
    /// Creates a file for reading and writing; `AlreadyExists` where there is one. Mode 0600.
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>>;
    /// rename(2); replaces what stands under the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes a directory and those above it. Mode 0700. Not an error where it exists.
    fn create_dir(&self, path: &str) -> io::Result<()>;
    /// Names of the files (not directories) in a directory, sorted; empty where the directory is missing.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// fsync(2) of a directory.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
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
