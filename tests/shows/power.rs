//! Power cuts: a local disk that forgets what was not flushed.
//!
//! A small FUSE filesystem holds one file, the image of a disk. What is written to it is kept in memory only until an
//! fsync; a *cut* makes each 512-byte sector of what was written since then survive or not, at random (so writes are
//! torn and reordered, as a drive's own cache does it), and nothing answers any more. On the image lies, by a loop device, a real ext4 with the
//! state directory of a drive. After the power is back ext4 recovers, then dripfs does.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use dripfs::fuse::{GENERATION, HANDLE, MountOptions, Mounted, mount_filesystem};
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::common::{is_root, run, succeed, wait_until};

const SECTOR: usize = 512;
const IMAGE: usize = 256 << 20;
const NAME: &str = "disk";
const INODE: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(3600);

struct Platter {
    /// What a read finds.
    now: Vec<u8>,
    /// What a cut leaves for certain.
    durable: Vec<u8>,
    /// Writes since the last flush, in order: where, and how many bytes of `bytes`.
    writes: Vec<(usize, Vec<u8>)>,
    on: bool,
    cuts_with_loss: u64,
}

impl Platter {
    fn flush(&mut self) {
        for (at, bytes) in std::mem::take(&mut self.writes) {
            self.durable[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }

    /// The power fails: of each sector of each write since the last flush it is open whether it was written.
    fn cut(&mut self) {
        self.on = false;
        self.cuts_with_loss += u64::from(!self.writes.is_empty());
        // All of it, none of it, or sector by sector: whichever, for each write.
        for (at, bytes) in std::mem::take(&mut self.writes) {
            let fate = random() % 3;
            for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                if fate == 0 || (fate == 1 && random().is_multiple_of(2)) {
                    let at = at + n * SECTOR;
                    self.durable[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
    }

    fn on(&mut self) {
        self.now.copy_from_slice(&self.durable);
        self.on = true;
    }
}

fn random() -> u64 {
    getrandom::u64().expect("the kernel has random bytes")
}

/// The filesystem with the image.
struct ImageFs(Arc<Mutex<Platter>>);

impl ImageFs {
    fn attributes(number: INodeNo) -> FileAttr {
        let (kind, size, perm) = match number {
            INODE => (FileType::RegularFile, IMAGE as u64, 0o600),
            _ => (FileType::Directory, 0, 0o700),
        };
        let time = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino: number,
            size,
            blocks: size / 512,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Platter) -> T) -> Result<T, Errno> {
        let mut platter = self.0.lock().expect("no panic with it held");
        match platter.on {
            true => Ok(f(&mut platter)),
            false => Err(Errno::EIO),
        }
    }
}

impl Filesystem for ImageFs {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == NAME {
            true => reply.entry(&TTL, &ImageFs::attributes(INODE), GENERATION),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &ImageFs::attributes(number));
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&TTL, &ImageFs::attributes(number));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Each open finds what the disk holds now, not what the kernel remembers from before the cut.
        reply.opened(HANDLE, FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let from = (offset as usize).min(IMAGE);
        let to = (from + size as usize).min(IMAGE);
        match self.with(|platter| platter.now[from..to].to_vec()) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let at = offset as usize;
        if at + data.len() > IMAGE {
            return reply.error(Errno::ENOSPC);
        }
        let written = self.with(|platter| {
            platter.now[at..at + data.len()].copy_from_slice(data);
            platter.writes.push((at, data.to_vec()));
        });
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.with(Platter::flush) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }
}

/// A machine's disk: an ext4 whose power can be cut.
pub struct PoweredDisk {
    platter: Arc<Mutex<Platter>>,
    /// Where the ext4 is mounted.
    dir: PathBuf,
    image: PathBuf,
    /// Dropped last: it serves what lies above.
    _image_fs: Mounted,
}

impl PoweredDisk {
    /// Makes an ext4 below `root` and mounts it. `None` (said loudly) for whoever may not use loop devices.
    pub fn new(root: &Path) -> Option<PoweredDisk> {
        if !is_root() {
            crate::common::skip("power cuts need root, for a loop device");
            return None;
        }
        let (power, dir) = (root.join("power"), root.join("disk"));
        fs::create_dir_all(&power).and_then(|()| fs::create_dir_all(&dir)).expect("room for directories");
        let platter =
            Platter { now: vec![0; IMAGE], durable: vec![0; IMAGE], writes: Vec::new(), on: true, cuts_with_loss: 0 };
        let platter = Arc::new(Mutex::new(platter));
        let options = MountOptions::new("image", power.canonicalize().expect("just made"));
        let image_fs = mount_filesystem(ImageFs(platter.clone()), &options).expect("a mount");
        let disk = PoweredDisk { platter, dir, image: power.join(NAME), _image_fs: image_fs };
        succeed(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image));
        disk.mount();
        Some(disk)
    }

    fn mount(&self) {
        // Such a loop device goes with its mount.
        succeed(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(&self.image).arg(&self.dir));
    }

    /// How many cuts found something that was not flushed.
    pub fn cuts_with_loss(&self) -> u64 {
        self.platter.lock().expect("no panic with it held").cuts_with_loss
    }

    /// The power fails: nothing on this disk answers any more.
    pub fn cut(&self) {
        self.platter.lock().expect("no panic with it held").cut();
    }

    /// The power is back, the machine starts. No process may use the disk.
    pub fn start(&self) {
        wait_until("the disk is let go of", || self.unmount());
        self.platter.lock().expect("no panic with it held").on();
        self.mount();
    }

    fn unmount(&self) -> bool {
        let _ = run(Command::new("umount").arg(&self.dir));
        let loops = run(Command::new("losetup").arg("-j").arg(&self.image));
        !crate::common::is_mounted(&self.dir) && loops.stdout.is_empty()
    }
}

impl Drop for PoweredDisk {
    fn drop(&mut self) {
        if crate::common::is_mounted(&self.dir) {
            let _ = run(Command::new("umount").arg("-l").arg(&self.dir));
        }
    }
}

/// The disk itself: what is flushed stays, what is not may stay or go, and nothing is read from a disk without power.
#[test]
fn the_powered_disk_forgets_what_was_not_flushed_and_nothing_else() {
    let mut platter =
        Platter { now: vec![0; 1 << 20], durable: vec![0; 1 << 20], writes: Vec::new(), on: true, cuts_with_loss: 0 };
    let write = |platter: &mut Platter, at: usize, byte: u8, len: usize| {
        platter.now[at..at + len].fill(byte);
        platter.writes.push((at, vec![byte; len]));
    };
    write(&mut platter, 0, 1, 256 * 1024);
    platter.flush();
    for n in 0..64 {
        write(&mut platter, n * 4096, 2, 4096);
    }
    platter.cut();
    platter.on();
    let kept = platter.now[..256 * 1024].iter().filter(|byte| **byte == 2).count();
    assert!(platter.now[..256 * 1024].iter().all(|byte| [1, 2].contains(byte)), "what was flushed is there");
    assert!(kept > 0 && kept < 256 * 1024, "some of it stays, some goes: {kept}");
    assert!(platter.now[256 * 1024..].iter().all(|byte| *byte == 0));
    let torn = platter.now[..256 * 1024].chunks(4096).filter(|page| page.contains(&1) && page.contains(&2)).count();
    assert!(torn > 0, "some writes are torn");
}
