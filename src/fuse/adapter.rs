//! The kernel's requests as calls of [`Tree`], and its values as replies. One method a request, no decisions.
//!
//! | file | what it holds |
//! |---|---|
//! | `answers` | what the answers to many requests have in common |
//! | `listing` | READDIR and READDIRPLUS |
//! | `values` | the protocol's terms and ours |
//!
//! Every method copies what must outlive it (names; data only if the write has to wait), and hands a future to
//! `reply::answer`. File handles are not used on a writing mount: a request's inode says all. On a follower a file's
//! handle is the version that it was opened in. Lookup counts are kept in `lookups`.

mod answers;
mod listing;
mod values;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::errno::errno;
use super::kernel_cache::KernelCache;
use super::lookups::Lookups;
use super::options::{MountOptions, negotiate};
use super::reply::{Overdue, Reply, Terms, guarded};
use super::wipe;
use crate::base::Ino;
use crate::base::sizes::NAME_MAX;
use crate::fs::{FsError, Seek, SetAttributes, SpaceUse};
use crate::search::{Tree, is_virtual};
pub use values::{BLOCK, HANDLE, file_type};
use values::{caller, file_attr, ino, nothing, owned, rename_mode, send_xattr, set_time, version, writes};

/// Inode numbers are never used again (rule E1), so generations tell nothing.
pub const GENERATION: Generation = Generation(0);

/// Inodes that statfs tells to be free: nothing bounds them.
const FREE_INODES: u64 = 1 << 40;

/// [`Tree`] as fuser wants it.
pub(super) struct Adapter {
    fs: Arc<Tree>,
    lookups: Arc<Lookups>,
    kernel: Arc<KernelCache>,
    runtime: Handle,
    /// How long the kernel may believe names and attributes; zero on a reading mount.
    ttl: Duration,
    file_flags: FopenFlags,
    directory_flags: FopenFlags,
    overdue: Arc<Overdue<ReplyEmpty>>,
    watching: AbortHandle,
}

impl Drop for Adapter {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Adapter {
    pub fn new(
        fs: Arc<Tree>,
        kernel: Arc<KernelCache>,
        lookups: Arc<Lookups>,
        runtime: Handle,
        options: &MountOptions,
    ) -> Adapter {
        let ttl = options.ttl();
        // close never waits and never fails here, so the kernel need not ask at each.
        let mut file_flags = FopenFlags::FOPEN_NOFLUSH;
        let mut directory_flags = FopenFlags::empty();
        if !ttl.is_zero() {
            file_flags |= FopenFlags::FOPEN_KEEP_CACHE;
            directory_flags |= FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
        }
        let overdue = Arc::new(Overdue::new());
        let watched = overdue.clone();
        let watching = runtime.spawn(async move { watched.run().await }).abort_handle();
        Adapter { fs, lookups, kernel, runtime, ttl, file_flags, directory_flags, overdue, watching }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        negotiate(config);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (name, ttl, caller) = (owned(name), self.ttl, caller(request));
        let operation = async move |fs: Arc<Tree>| match fs.lookup(ino(parent), &name, caller).await {
            // The kernel may remember that there is nothing: an entry without an inode.
            Err(FsError::NotFound) if !ttl.is_zero() && !is_virtual(ino(parent)) => Ok(nothing()),
            found => found.map(|found| file_attr(&found)),
        };
        let lookups = self.lookups.clone();
        self.answer(Terms::bounded("lookup"), reply, operation, move |reply, found| {
            if found.ino != INodeNo(Ino::NONE.0) {
                lookups.told(ino(found.ino));
            }
            // What a room answers is asked for each time.
            let ttl = if is_virtual(ino(found.ino)) { Duration::ZERO } else { ttl };
            reply.entry(&ttl, &found, GENERATION);
        });
    }

    fn forget(&self, _: &Request, number: INodeNo, count: u64) {
        guarded("forget", || {
            let _inside = self.runtime.enter();
            self.lookups.forgotten(ino(number), count, || self.fs.forget(ino(number)));
        });
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let ttl = self.ttl;
        let operation = async move |fs: Arc<Tree>| fs.getattr(ino(number)).await;
        self.answer(Terms::bounded("getattr"), reply, operation, move |reply, attributes| {
            reply.attr(&ttl, &file_attr(&attributes));
        });
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (caller, ttl) = (caller(request), self.ttl);
        let (atime, mtime) = (atime.map(set_time), mtime.map(set_time));
        let set = SetAttributes { mode: mode.map(|mode| mode & 0o7777), uid, gid, size, atime, mtime };
        let kernel = self.kernel.clone();
        let operation = async move |fs: Arc<Tree>| {
            // The one operation that changes in several steps, and so can end between them.
            let changing = kernel.changing(ino(number));
            let attributes = fs.setattr(ino(number), set, caller).await?;
            changing.done();
            Ok(attributes)
        };
        self.answer(Terms::bounded("setattr"), reply, operation, move |reply, attributes| {
            reply.attr(&ttl, &file_attr(&attributes));
        });
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        let operation = async move |fs: Arc<Tree>| fs.readlink(ino(number)).await;
        self.answer(Terms::bounded("readlink"), reply, operation, |reply, target| reply.data(&target));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.make("mknod", request, name, reply, async move |fs, name, caller| {
            fs.mknod(ino(parent), &name, mode, rdev, caller).await
        });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        self.make("mkdir", request, name, reply, async move |fs, name, caller| {
            fs.mkdir(ino(parent), &name, mode, caller).await
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove("unlink", name, reply, async move |fs, name| fs.unlink(ino(parent), &name).await);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove("rmdir", name, reply, async move |fs, name| fs.rmdir(ino(parent), &name).await);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = owned(target.as_os_str());
        self.make("symlink", request, name, reply, async move |fs, name, caller| {
            fs.symlink(ino(parent), &name, &target, caller).await
        });
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name) = (owned(name), owned(new_name));
        self.answer_empty(Terms::bounded("rename"), reply, async move |fs: Arc<Tree>| {
            fs.rename(ino(parent), &name, ino(new_parent), &new_name, rename_mode(flags)?).await
        });
    }

    fn link(&self, request: &Request, number: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        self.make("link", request, new_name, reply, async move |fs, name, _| {
            fs.link(ino(number), ino(new_parent), &name).await
        });
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (caller, file_flags) = (caller(request), self.file_flags);
        let truncate = flags.0 & libc::O_TRUNC != 0;
        let operation = async move |fs: Arc<Tree>| {
            let privileges = fs.open(ino(number), truncate, writes(flags), caller).await?;
            Ok((privileges, fs.hold(ino(number))?))
        };
        let kernel = self.kernel.clone();
        self.answer(Terms::bounded("open"), reply, operation, move |reply, (privileges, held)| {
            kernel.contents_changed(ino(number), privileges);
            match held {
                // The kernel's pages are one set a file, and this is one of several versions: past them.
                Some(version) => reply.opened(FileHandle(version.0), file_flags | FopenFlags::FOPEN_DIRECT_IO),
                None => reply.opened(HANDLE, file_flags),
            }
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, caller) = (owned(name), caller(request));
        let (ttl, file_flags) = (self.ttl, self.file_flags);
        let lookups = self.lookups.clone();
        let operation = async move |fs: Arc<Tree>| {
            let made = fs.create(ino(parent), &name, mode, caller).await?;
            if writes(OpenFlags(flags)) {
                fs.opened_for_writing(made.ino);
            }
            Ok(made)
        };
        self.answer(Terms::bounded("create"), reply, operation, move |reply, made| {
            lookups.told(made.ino);
            reply.created(&ttl, &file_attr(&made), GENERATION, HANDLE, file_flags);
        });
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // Direct I/O names an owner. A read without one fills pages, which memory maps of all versions share: they
        // show the newest.
        let version = version(handle).filter(|_| owner.is_some());
        let operation = async move |fs: Arc<Tree>| match version {
            Some(version) => fs.read_version(ino(number), version, offset, size).await,
            None => fs.read(ino(number), offset, size).await,
        };
        self.answer(Terms::bounded("read"), reply, operation, |reply, bytes| reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let written = data.len() as u32;
        guarded("write", || {
            let _inside = self.runtime.enter();
            match self.fs.try_write(ino(number), offset, data, kill) {
                Some(Ok(privileges)) => {
                    self.kernel.contents_changed(ino(number), privileges);
                    reply.written(written);
                }
                Some(Err(error)) => Reply::error(reply, errno(&error)),
                // The buffer is the kernel thread's: what has to wait needs a copy.
                None => {
                    let data = data.to_vec();
                    let operation = async move |fs: Arc<Tree>| fs.write(ino(number), offset, data, kill).await;
                    self.answer_contents(Terms::bounded("write"), number, reply, operation, move |reply| {
                        reply.written(written);
                    });
                }
            }
            wipe::request(data);
        });
    }

    fn flush(&self, _: &Request, number: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.answer_empty(Terms::bounded("flush"), reply, async move |fs: Arc<Tree>| fs.flush(ino(number)).await);
    }

    fn release(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        flags: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(version) = version(handle) {
            guarded("release", || self.fs.let_go(version));
        }
        self.answer_empty(Terms::bounded("release"), reply, async move |fs: Arc<Tree>| {
            fs.release(ino(number), writes(flags)).await
        });
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.answer_once_safe("fsync", reply, async move |fs: Arc<Tree>| fs.fsync_barrier(ino(number)).await);
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // A room shows each caller another listing.
        let flags = if is_virtual(ino(number)) { FopenFlags::empty() } else { self.directory_flags };
        reply.opened(HANDLE, flags);
    }

    fn readdir(&self, request: &Request, number: INodeNo, _: FileHandle, cookie: u64, reply: ReplyDirectory) {
        self.answer_listing(number, cookie, caller(request), reply);
    }

    fn readdirplus(&self, request: &Request, number: INodeNo, _: FileHandle, cookie: u64, reply: ReplyDirectoryPlus) {
        self.answer_listing(number, cookie, caller(request), reply);
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.answer_once_safe("fsyncdir", reply, async move |fs: Arc<Tree>| fs.fsync_dir_barrier(ino(number)));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let operation = async move |fs: Arc<Tree>| fs.statfs().await;
        self.answer(Terms::bounded("statfs"), reply, operation, |reply, space: SpaceUse| {
            let block = u64::from(BLOCK);
            let free = space.free_bytes / block;
            let all = space.used_bytes.div_ceil(block).saturating_add(free);
            let inodes = space.inodes.saturating_add(FREE_INODES);
            reply.statfs(all, free, free, inodes, FREE_INODES, BLOCK, NAME_MAX as u32, BLOCK);
        });
    }

    fn setxattr(
        &self,
        _: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (owned(name), value.to_vec());
        let (create, replace) = (flags & libc::XATTR_CREATE != 0, flags & libc::XATTR_REPLACE != 0);
        self.answer_empty(Terms::bounded("setxattr"), reply, async move |fs: Arc<Tree>| {
            fs.setxattr(ino(number), &name, &value, create, replace).await
        });
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, buffer: u32, reply: ReplyXattr) {
        let name = owned(name);
        let operation = async move |fs: Arc<Tree>| fs.getxattr(ino(number), &name).await;
        self.answer(Terms::bounded("getxattr"), reply, operation, move |reply, value| {
            send_xattr(reply, buffer, &value);
        });
    }

    fn listxattr(&self, request: &Request, number: INodeNo, buffer: u32, reply: ReplyXattr) {
        let trusted = request.uid() == 0;
        let operation = async move |fs: Arc<Tree>| fs.listxattr(ino(number), trusted).await;
        self.answer(Terms::bounded("listxattr"), reply, operation, move |reply, names| {
            send_xattr(reply, buffer, &names);
        });
    }

    fn removexattr(&self, _: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove("removexattr", name, reply, async move |fs, name| fs.removexattr(ino(number), &name).await);
    }

    fn fallocate(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // No flag tells it, other than in a write.
        let kill = request.uid() != 0;
        let operation = async move |fs: Arc<Tree>| fs.fallocate(ino(number), mode, offset, length, kill).await;
        self.answer_contents(Terms::bounded("fallocate"), number, reply, operation, ReplyEmpty::ok);
    }

    fn lseek(&self, _: &Request, number: INodeNo, handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let operation = async move |fs: Arc<Tree>| {
            let seek = match whence {
                libc::SEEK_DATA => Seek::Data,
                libc::SEEK_HOLE => Seek::Hole,
                // The kernel does the others by itself.
                _ => return Err(FsError::Invalid),
            };
            let offset = u64::try_from(offset).map_err(|_| FsError::NoDataThere)?;
            match version(handle) {
                Some(version) => fs.lseek_version(ino(number), version, offset, seek),
                None => fs.lseek(ino(number), offset, seek).await,
            }
        };
        self.answer(Terms::bounded("lseek"), reply, operation, |reply, offset| match i64::try_from(offset) {
            Ok(offset) => reply.offset(offset),
            Err(_) => Reply::error(reply, Errno::EOVERFLOW),
        });
    }

    // What the drive leaves to the kernel. fuser's own answers are the same but write a warning with names in it.

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel then copies by reading and writing, and does not ask again.
        Reply::error(reply, Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        // The kernel then takes files to be always ready, and does not ask again.
        reply.error(Errno::ENOSYS);
    }
}
