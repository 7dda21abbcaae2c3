//! Does what stands at a place equal what would be written there?
//!
//! Only reads. Owns what counts as equal: kind and contents, byte by byte. Not the owner, mode and times: whoever has the
//! file may have set those as he likes since.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::FileType;
use zeroize::Zeroizing;

use super::history::{OldHistory, Unread};
use super::output::Failed;
use crate::base::Ino;
use crate::format::record::{Head, Inode};

/// So much of a hole is looked at in one piece.
const STEP: usize = 128 << 10;

/// `false` also if the history lacks bytes of it: then nothing can be said. A file that is the same is on the disk when
/// this returns.
pub async fn is_same(old: &OldHistory, at: &Path, ino: Ino, inode: &Inode) -> Result<bool, Failed> {
    let there = match fs::symlink_metadata(at) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(false),
        there => there?,
    };
    let kind = there.file_type();
    Ok(match FileType::from_raw_mode(inode.mode) {
        FileType::Directory => kind.is_dir(),
        FileType::Symlink => {
            kind.is_symlink()
                && fs::read_link(at)?.as_os_str().as_bytes() == inode.target.as_deref().unwrap_or_default()
        }
        FileType::RegularFile => {
            let Some(head) = old.head(ino)? else { return Ok(false) };
            if !kind.is_file() || there.len() != head.size {
                return Ok(false);
            }
            let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(at)?;
            if !holds(old, &file, ino, &head).await? {
                return Ok(false);
            }
            file.sync_all()?;
            true
        }
        FileType::Fifo => kind.is_fifo(),
        FileType::Socket => kind.is_socket(),
        FileType::BlockDevice => kind.is_block_device() && there.rdev() == u64::from(inode.rdev),
        FileType::CharacterDevice => kind.is_char_device() && there.rdev() == u64::from(inode.rdev),
        FileType::Unknown => false,
    })
}

/// Two names of one file.
pub fn is_linked(one: &Path, other: &Path) -> bool {
    let number = |path| fs::symlink_metadata(path).map(|there| (there.dev(), there.ino()));
    matches!((number(one), number(other)), (Ok(one), Ok(other)) if one == other)
}

async fn holds(old: &OldHistory, file: &File, ino: Ino, head: &Head) -> Result<bool, Failed> {
    let mut to = 0;
    for piece in old.pieces(ino)? {
        if piece.offset >= head.size {
            break;
        }
        let hole = piece.offset.checked_sub(to);
        // Where another machine has changed the file, no piece does not mean that there was none.
        let Some(hole) = hole.filter(|hole| *hole == 0 || !old.is_base_changed(ino)) else { return Ok(false) };
        if !is_zero(file, to, hole)? {
            return Ok(false);
        }
        let bytes = match old.read(&piece).await {
            Ok(bytes) => bytes,
            Err(Unread::Lost(_)) => return Ok(false),
            Err(Unread::Failed(error)) => return Err(Failed::All(error.into())),
        };
        let len = (bytes.len() as u64).min(head.size - piece.offset) as usize;
        let mut there = Zeroizing::new(vec![0; len]);
        if !filled(file, &mut there, piece.offset)? || there[..] != bytes[..len] {
            return Ok(false);
        }
        to = piece.offset + u64::from(piece.len);
    }
    let rest = head.size.saturating_sub(to);
    Ok((rest == 0 || !old.is_base_changed(ino)) && is_zero(file, to, rest)?)
}

fn is_zero(file: &File, mut from: u64, mut len: u64) -> io::Result<bool> {
    let mut there = [0; STEP];
    while len > 0 {
        let step = len.min(STEP as u64) as usize;
        if !filled(file, &mut there[..step], from)? || there[..step].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        (from, len) = (from + step as u64, len - step as u64);
    }
    Ok(true)
}

/// `false` if the file is shorter by now.
fn filled(file: &File, there: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(there, at) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}
