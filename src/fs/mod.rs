//! POSIX over history and cache: names, files, attributes, extended attributes. No FUSE, no network.
//!
//! Every operation is an `async fn` that is ready at its first poll when all it needs is in memory; whoever calls
//! polls once and moves what is not ready to the runtime. Locks: a file's entry, then the history mutex; never over
//! an await.

pub mod attributes;
pub mod error;
pub mod file;
pub mod namespace;
mod readdir;
mod records;
mod rename;
#[cfg(test)]
mod tests;
pub mod xattr;

use std::sync::Arc;

pub use error::FsError;

use crate::base::{Ino, Timestamp};
use crate::cache::Cache;
use crate::format::keys::Keys;
use crate::history::History;

/// The filesystem of one mounted vault.
pub struct Fs {
    pub(crate) history: Arc<History>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) cache: Arc<Cache>,
    /// The mount writes nothing: every operation that would is `FsError::ReadOnly`.
    pub(crate) read_only: bool,
}

/// Who asks. Permission bits are checked by the kernel (default_permissions); this is for ownership and for the rules
/// that the kernel leaves to the filesystem.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

/// What stat(2) tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    pub ino: Ino,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes that are not holes.
    pub blocks: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Timestamp,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    Now,
    At(Timestamp),
}

/// What setattr changes; `None` leaves a thing as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttributes {
    /// Permission bits (the low 12 bits of `st_mode`).
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

/// One entry of a directory listing.
#[derive(Clone, Debug)]
pub struct Entry {
    pub ino: Ino,
    /// `S_IFMT` bits.
    pub kind: u32,
    pub name: Box<[u8]>,
    /// Where the next listing goes on after this entry: "." is 1, ".." is 2, then the name's hash.
    pub cookie: u64,
    /// With attributes, if the listing was asked for them (not for "." and "..").
    pub attributes: Option<Attributes>,
}

/// What rename(2) was asked for beside the names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    Replace,
    NoReplace,
    Exchange,
}

/// SEEK_DATA and SEEK_HOLE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    Data,
    Hole,
}

/// What statfs tells: bytes and inodes. Never touches the network.
#[derive(Clone, Copy, Debug)]
pub struct SpaceUse {
    pub used_bytes: u64,
    pub free_bytes: u64,
    pub inodes: u64,
}
