//! Numbers, times, modes and attributes, between the protocol's terms and ours.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, INodeNo, OpenAccMode, OpenFlags, RenameFlags, ReplyXattr, Request, TimeOrNow,
};

use crate::base::{Ino, Timestamp};
use crate::fs::{Attributes, Caller, Entry, FsError, RenameMode, SetTime};
use crate::history::versions::VersionId;

/// Of every open file on a writing mount, and of directories.
pub const HANDLE: FileHandle = FileHandle(0);

/// What stat tells as the preferred size of I/O. Python and stdio allocate a buffer of this size for every file they
/// open, so it is the usual one, not the one that would suit the drive best.
pub const BLOCK: u32 = 4096;

pub(super) fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

/// What a follower's open file reads.
pub(super) fn version(handle: FileHandle) -> Option<VersionId> {
    (handle != HANDLE).then_some(VersionId(handle.0))
}

pub(super) fn owned(name: &OsStr) -> Box<[u8]> {
    name.as_bytes().into()
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

pub(super) fn writes(flags: OpenFlags) -> bool {
    flags.acc_mode() != OpenAccMode::O_RDONLY
}

/// The type in a mode, in the protocol's terms.
pub fn file_type(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        // Seven types there are; `Fs` hands out no other.
        _ => FileType::RegularFile,
    }
}

pub(super) fn file_attr(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.ino.0),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: attributes.atime.to_system(),
        mtime: attributes.mtime.to_system(),
        ctime: attributes.ctime.to_system(),
        crtime: attributes.btime.to_system(),
        kind: file_type(attributes.mode),
        perm: (attributes.mode & 0o7777) as u16,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev,
        blksize: BLOCK,
        flags: 0,
    }
}

/// The attributes of an entry of which only number and type are known.
pub(super) fn nameless(entry: &Entry) -> Attributes {
    let never = Timestamp::default();
    Attributes {
        ino: entry.ino,
        mode: entry.kind,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: never,
        mtime: never,
        ctime: never,
        btime: never,
    }
}

/// What a lookup that found nothing is answered with, so that the kernel remembers it: inode 0.
pub(super) fn nothing() -> FileAttr {
    file_attr(&nameless(&Entry {
        ino: Ino::NONE,
        kind: libc::S_IFREG,
        name: Box::default(),
        cookie: 0,
        attributes: None,
    }))
}

/// A time that the kernel sends. fuser 0.18 takes the nanoseconds of a time before 1970 *off* the seconds, where they
/// belong on top; here that is undone.
pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(match SystemTime::UNIX_EPOCH.duration_since(time) {
            Ok(before) if !before.is_zero() => {
                Timestamp { secs: -(before.as_secs() as i64), nanos: before.subsec_nanos() }
            }
            _ => Timestamp::from_system(time),
        }),
    }
}

pub(super) fn rename_mode(flags: RenameFlags) -> Result<RenameMode, FsError> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        Err(FsError::Invalid)
    }
}

/// The two answers that an xattr request wants: the length alone if it brings no buffer, else the bytes.
pub(super) fn send_xattr(reply: ReplyXattr, buffer: u32, value: &[u8]) {
    match buffer as usize {
        0 => reply.size(value.len() as u32),
        size if size < value.len() => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What fuser 0.18 makes of the seconds and nanoseconds in a SETATTR.
    fn as_fuser_does(secs: i64, nanos: u32) -> TimeOrNow {
        TimeOrNow::SpecificTime(if secs >= 0 {
            SystemTime::UNIX_EPOCH + Duration::new(secs as u64, nanos)
        } else {
            SystemTime::UNIX_EPOCH - Duration::new(secs.unsigned_abs(), nanos)
        })
    }

    #[test]
    fn times_before_1970_come_through_to_the_nanosecond() {
        for (secs, nanos) in [(0, 0), (0, 1), (5, 999_999_999), (-1, 0), (-1, 1), (-2, 999_999_999), (-86_400, 5)] {
            let expected = SetTime::At(Timestamp { secs, nanos });
            assert_eq!(set_time(as_fuser_does(secs, nanos)), expected, "{secs} {nanos}");
        }
        assert_eq!(set_time(TimeOrNow::Now), SetTime::Now);
    }

    #[test]
    fn only_the_three_known_renames_are_passed_on() {
        assert_eq!(rename_mode(RenameFlags::empty()), Ok(RenameMode::Replace));
        assert_eq!(rename_mode(RenameFlags::RENAME_NOREPLACE), Ok(RenameMode::NoReplace));
        assert_eq!(rename_mode(RenameFlags::RENAME_EXCHANGE), Ok(RenameMode::Exchange));
        let both = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
        assert_eq!(rename_mode(both), Err(FsError::Invalid));
        assert_eq!(rename_mode(RenameFlags::RENAME_WHITEOUT), Err(FsError::Invalid));
    }

    #[test]
    fn every_type_of_file_survives() {
        for kind in
            [libc::S_IFREG, libc::S_IFDIR, libc::S_IFLNK, libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR, libc::S_IFBLK]
        {
            let attributes = Attributes { mode: kind | 0o6751, ..nameless(&entry()) };
            let attr = file_attr(&attributes);
            assert_eq!((attr.kind, attr.perm), (file_type(kind), 0o6751));
        }
        assert_ne!(file_type(libc::S_IFSOCK), file_type(libc::S_IFLNK));
    }

    fn entry() -> Entry {
        Entry { ino: Ino(5), kind: libc::S_IFREG, name: b"x"[..].into(), cookie: 3, attributes: None }
    }
}
