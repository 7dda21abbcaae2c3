//! Writing the files of an old history below a directory.
//!
//! Invariants: nothing that stands is written over, and what stands there as it would be written is left as it is; a file
//! has its name once all its bytes are in it and safe; one that lacks bytes bears another name (`.incomplete`) and has
//! holes there; no name leads out of the directory.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, XattrFlags};
use serde::Serialize;

use super::history::{BASE_CHANGED, OldHistory, Unread};
use super::same::{is_linked, is_same};
use super::{HistoryReport, Incomplete, MountError, NotWritten, Renamed};
use crate::base::{Ino, Timestamp, disk};
use crate::format::record::{Head, Inode};

/// What a file with holes is called.
const INCOMPLETE: &str = ".incomplete";
/// What a file is called while it is being written.
const UNFINISHED: &str = ".dripfs-rescue";

/// Of a file that is not written over.
const STANDS: &str = "another file of that name stands there already";
const NOT_THERE: &str = "it does not stand there as it was";
/// No name is longer, bytes.
const NAME_MAX: usize = 255;

/// Bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    pub offset: u64,
    pub length: u64,
    pub why: String,
}

/// Why one file was not written; the others go on.
pub(super) enum Failed {
    This(String),
    All(MountError),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Failed::All(MountError::io("the directory that files are rescued to", error))
            }
            io::ErrorKind::AlreadyExists => Failed::This(STANDS.to_owned()),
            _ => Failed::This(error.to_string()),
        }
    }
}

impl From<rustix::io::Errno> for Failed {
    fn from(error: rustix::io::Errno) -> Failed {
        io::Error::from(error).into()
    }
}

impl From<crate::vault::VaultError> for Failed {
    fn from(error: crate::vault::VaultError) -> Failed {
        Failed::All(error.into())
    }
}

/// What is done about what does not stand there yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Write,
    /// Nothing: with the first the rest is not looked at, and the report is not whole.
    Tell,
}

/// Writes all that the history changed. What cannot be written is in the report.
pub async fn write(
    old: &OldHistory,
    to: &Path,
    missing: Missing,
    report: &mut HistoryReport,
) -> Result<(), MountError> {
    if missing == Missing::Write {
        disk::make_dirs(to).map_err(|e| MountError::io(to.display().to_string(), e))?;
    }
    let mut directories = Vec::new();
    for ino in old.touched.iter().copied().filter(|ino| *ino != Ino::ROOT) {
        let Some(inode) = old.inode(ino)? else {
            report.not_written.extend(nowhere(old, ino));
            continue;
        };
        let kind = FileType::from_raw_mode(inode.mode);
        if kind == FileType::Directory && !old.is_named_anew(ino) {
            continue;
        }
        let mut paths = old.paths(ino)?;
        if paths.is_empty() {
            report.not_written.extend(nowhere(old, ino));
            continue;
        }
        let first = paths.remove(0);
        match bring(old, to, missing, &first, ino, &inode, report).await {
            Err(Failed::All(error)) => return Err(error),
            Err(Failed::This(why)) => {
                paths.insert(0, first);
                let why = |path: &PathBuf| NotWritten { path: path.display().to_string(), why: why.clone() };
                report.not_written.extend(paths.iter().map(why));
            }
            Ok(made) => {
                if kind == FileType::Directory && missing == Missing::Write {
                    directories.push((first.clone(), inode.clone()));
                }
                for path in paths {
                    link(to, &made, &path, made != first, missing, report)?;
                }
            }
        }
        if missing == Missing::Tell && !report.is_whole() {
            return Ok(());
        }
    }
    // Deepest first: what is made in a directory moves its time.
    directories.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
    for (path, inode) in &directories {
        attributes(old, to, path, None, inode, inode.mtime, report);
    }
    report.names_unknown = old.names_unknown;
    for (from, now) in old.names_lost()? {
        let from = from.display().to_string();
        match now {
            Some(now) => report.renamed.push(Renamed { from, to: now.display().to_string() }),
            None => report.removed.push(from),
        }
    }
    match missing == Missing::Tell && report.found.is_empty() {
        true => Ok(()),
        false => sync_tree(to).map_err(|e| MountError::io(to.display().to_string(), e)),
    }
}

/// Has a file at its place, under its first name; returns under which name it is there.
async fn bring(
    old: &OldHistory,
    to: &Path,
    missing: Missing,
    first: &Path,
    ino: Ino,
    inode: &Inode,
    report: &mut HistoryReport,
) -> Result<PathBuf, Failed> {
    let is_directory = FileType::from_raw_mode(inode.mode) == FileType::Directory;
    if (missing == Missing::Tell || !is_directory) && is_same(old, &place(to, first)?, ino, inode).await? {
        report.found.push(first.display().to_string());
        return Ok(first.to_owned());
    }
    let made = match missing {
        Missing::Tell => return Err(Failed::This(NOT_THERE.to_owned())),
        // One that stands gets what it had there.
        Missing::Write if is_directory => make_directories(to, first).map(|()| first.to_owned()),
        Missing::Write => write_one(old, to, first, ino, inode, report).await,
    }?;
    if made == first {
        report.written.push(first.display().to_string());
    }
    Ok(made)
}

/// A file that the history changed and did not remove, and whose name or attributes nothing tells any more.
fn nowhere(old: &OldHistory, ino: Ino) -> Option<NotWritten> {
    let why = "another machine has removed it since, and nothing here tells its name".to_owned();
    (!old.was_removed(ino)).then(|| NotWritten { path: format!("(inode {ino})"), why })
}

/// Only plain names: a record could not lead elsewhere even if a program wrote it wrong.
fn place(to: &Path, path: &Path) -> Result<PathBuf, Failed> {
    match path.components().all(|part| matches!(part, Component::Normal(_))) {
        true => Ok(to.join(path)),
        false => Err(Failed::This("its name cannot be a file's".to_owned())),
    }
}

fn make_directories(to: &Path, path: &Path) -> Result<(), Failed> {
    place(to, path)?;
    let mut at = to.to_owned();
    for part in path.components() {
        at.push(part);
        // What it was on the drive is not known here: files in it may be readable to all, and nobody else could reach them.
        match DirBuilder::new().mode(0o700).create(&at) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(&at)?.is_dir() => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Returns under which name it was written.
async fn write_one(
    old: &OldHistory,
    to: &Path,
    path: &Path,
    ino: Ino,
    inode: &Inode,
    report: &mut HistoryReport,
) -> Result<PathBuf, Failed> {
    if let Some(parent) = path.parent() {
        make_directories(to, parent)?;
    }
    let at = place(to, path)?;
    match FileType::from_raw_mode(inode.mode) {
        FileType::RegularFile => return write_file(old, to, path, ino, inode, report).await,
        FileType::Symlink => {
            let target = inode.target.as_deref().unwrap_or_default();
            std::os::unix::fs::symlink(OsStr::from_bytes(target), &at)?;
        }
        kind => {
            let device = rustix::fs::makedev(libc::major(inode.rdev.into()), libc::minor(inode.rdev.into()));
            rustix::fs::mknodat(CWD, &at, kind, Mode::from_raw_mode(inode.mode & 0o7777), device)?;
        }
    }
    attributes(old, to, path, Some(ino), inode, inode.mtime, report);
    Ok(path.to_owned())
}

async fn write_file(
    old: &OldHistory,
    to: &Path,
    path: &Path,
    ino: Ino,
    inode: &Inode,
    report: &mut HistoryReport,
) -> Result<PathBuf, Failed> {
    if fs::symlink_metadata(place(to, path)?).is_ok() {
        return Err(Failed::This(STANDS.to_owned()));
    }
    let Some(head) = old.head(ino)? else { return Err(Failed::This("nothing tells its contents".to_owned())) };
    // Its own name may be as long as names are.
    let unfinished = to.join(path.with_file_name(format!("{UNFINISHED}-{}", std::process::id())));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    let written = fill(old, &file, ino, &head).await;
    let ranges = match written {
        Ok(ranges) => ranges,
        Err(error) => {
            // It has no name that anybody would take for the file's.
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
    };
    let name = if ranges.is_empty() { path.to_owned() } else { with_suffix(path, INCOMPLETE) };
    let named = rustix::fs::renameat_with(CWD, &unfinished, CWD, to.join(&name), RenameFlags::NOREPLACE);
    if let Err(error) = named {
        let _ = fs::remove_file(&unfinished);
        return Err(error.into());
    }
    attributes(old, to, &name, Some(ino), inode, head.mtime, report);
    File::open(to.join(&name)).and_then(|file| file.sync_all()).or_else(|error| match error.kind() {
        // Its own mode may forbid it; the bytes are safe already.
        io::ErrorKind::PermissionDenied => Ok(()),
        _ => Err(error),
    })?;
    if !ranges.is_empty() {
        report.incomplete.push(Incomplete { path: name.display().to_string(), ranges });
    }
    Ok(name)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let mut name = OsStr::from_bytes(&name[..name.len().min(NAME_MAX - suffix.len())]).to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Writes what there is; returns what there is not. Safe on the disk when this returns.
async fn fill(old: &OldHistory, file: &File, ino: Ino, head: &Head) -> Result<Vec<Range>, Failed> {
    file.set_len(head.size)?;
    let mut lost: Vec<Range> = Vec::new();
    let mut covered = 0;
    for piece in old.pieces(ino)? {
        // Where another machine has changed the file, no piece does not mean that there was none.
        if old.is_base_changed(ino) && piece.offset > covered {
            lose(&mut lost, covered, piece.offset - covered, BASE_CHANGED.to_owned());
        }
        covered = covered.max(piece.offset + u64::from(piece.len));
        match old.read(&piece).await {
            Ok(bytes) => {
                let len = (bytes.len() as u64).min(head.size.saturating_sub(piece.offset));
                file.write_all_at(&bytes[..len as usize], piece.offset)?;
            }
            Err(Unread::Lost(why)) => lose(&mut lost, piece.offset, piece.len.into(), why),
            Err(Unread::Failed(error)) => return Err(Failed::All(error.into())),
        }
    }
    if old.is_base_changed(ino) && head.size > covered {
        lose(&mut lost, covered, head.size - covered, BASE_CHANGED.to_owned());
    }
    file.sync_all()?;
    Ok(lost)
}

fn lose(lost: &mut Vec<Range>, offset: u64, length: u64, why: String) {
    match lost.last_mut() {
        Some(last) if last.offset + last.length == offset => last.length += length,
        _ => lost.push(Range { offset, length, why }),
    }
}

/// Another name of a file that was written under its first.
fn link(
    to: &Path,
    made: &Path,
    path: &Path,
    incomplete: bool,
    missing: Missing,
    report: &mut HistoryReport,
) -> Result<(), MountError> {
    let name = if incomplete { with_suffix(path, INCOMPLETE) } else { path.to_owned() };
    if !incomplete && is_linked(&to.join(made), &to.join(&name)) {
        report.found.push(name.display().to_string());
        return Ok(());
    }
    let linked = (|| {
        if missing == Missing::Tell {
            return Err(Failed::This(NOT_THERE.to_owned()));
        }
        if let Some(parent) = name.parent() {
            make_directories(to, parent)?;
        }
        Ok(fs::hard_link(to.join(made), place(to, &name)?)?)
    })();
    match linked {
        Ok(()) if incomplete => {
            report.incomplete.push(Incomplete { path: name.display().to_string(), ranges: Vec::new() });
        }
        Ok(()) => report.written.push(name.display().to_string()),
        Err(Failed::This(why)) => report.not_written.push(NotWritten { path: name.display().to_string(), why }),
        Err(Failed::All(error)) => return Err(error),
    }
    Ok(())
}

/// Owner, mode, attributes and time, as far as this user may set them.
fn attributes(
    old: &OldHistory,
    to: &Path,
    path: &Path,
    ino: Option<Ino>,
    inode: &Inode,
    mtime: Timestamp,
    report: &mut HistoryReport,
) {
    let at = to.join(path);
    let symlink = FileType::from_raw_mode(inode.mode) == FileType::Symlink;
    let mut lost: Vec<String> = Vec::new();
    let mut note = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            lost.push(format!("{what}: {error}"));
        }
    };
    let owned = std::os::unix::fs::lchown(&at, Some(inode.uid), Some(inode.gid));
    let mode = kept_mode(inode.mode, owned.is_ok());
    note("owner", owned);
    for xattr in ino.and_then(|ino| old.xattrs(ino).ok()).unwrap_or_default() {
        let name = String::from_utf8_lossy(&xattr.name).into_owned();
        let set = rustix::fs::lsetxattr(&at, &*xattr.name, &xattr.value, XattrFlags::empty());
        note(&name, set.map_err(Into::into));
    }
    if !symlink {
        note("mode", fs::set_permissions(&at, Permissions::from_mode(mode)));
    }
    let time = Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    note("time", rustix::fs::utimensat(CWD, &at, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(Into::into));
    if !lost.is_empty() {
        report.attributes_lost.push(NotWritten { path: path.display().to_string(), why: lost.join("; ") });
    }
}

/// A program that runs as its owner must not run as whoever rescues it.
fn kept_mode(mode: u32, is_owned: bool) -> u32 {
    if is_owned { mode & 0o7777 } else { mode & 0o1777 }
}

/// Names are safe, and whatever was linked or set after a file's own fsync.
fn sync_tree(to: &Path) -> io::Result<()> {
    rustix::fs::syncfs(File::open(to)?)?;
    disk::sync_path(to)?;
    to.parent().map_or(Ok(()), disk::sync_path)
}

/// What directories of rescued files are called.
const RESCUED: &str = "rescued-";

/// `rescued-20260102T030405Z`.
pub fn default_name(now: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(now).to_string();
    format!("{RESCUED}{}", time.replace(['-', ':'], ""))
}

/// The newest of them in a directory.
pub fn earlier(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_bytes().starts_with(RESCUED.as_bytes()) && entry.file_type()?.is_dir() {
            newest = newest.max(Some(entry.path()));
        }
    }
    Ok(newest)
}
