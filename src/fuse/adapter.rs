//! The kernel's requests as calls of [`Fs`], and its values as replies. One method a request, no decisions.
//!
//! Every method copies what must outlive it (names; data only if the write has to wait), and hands a future to
//! `reply::answer`. File handles are not used on a writing mount: a request's inode says all. On a follower a file's
//! handle is the version that it was opened in. Lookup counts are kept in `lookups`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use super::errno::errno;
use super::kernel_cache::KernelCache;
use super::lookups::Lookups;
use super::options::{MountOptions, negotiate};
use super::reply::{Reply, Slot, Terms, answer, guarded};
use super::wipe;
use crate::base::sizes::NAME_MAX;
use crate::base::{Ino, Timestamp};
use crate::fs::{
    Attributes, Caller, Entry, Fs, FsError, Privileges, RenameMode, Seek, SetAttributes, SetTime, SpaceUse,
};
use crate::history::versions::VersionId;

/// Inode numbers are never used again (rule E1), so generations tell nothing.
pub const GENERATION: Generation = Generation(0);
/// Of every open file on a writing mount, and of directories.
pub const HANDLE: FileHandle = FileHandle(0);

/// What stat tells as the preferred size of I/O. Python and stdio allocate a buffer of this size for every file they
/// open, so it is the usual one, not the one that would suit the drive best.
pub const BLOCK: u32 = 4096;

/// Entries asked of `Fs` at a time. A reply holds some 20 to 800, which fuser does not tell.
const LISTING: usize = 64;

/// Inodes that statfs tells to be free: nothing bounds them.
const FREE_INODES: u64 = 1 << 40;

/// `Fs` as fuser wants it.
pub(super) struct Adapter {
    fs: Arc<Fs>,
    lookups: Arc<Lookups>,
    kernel: Arc<KernelCache>,
    runtime: Handle,
    /// How long the kernel may believe names and attributes; zero on a reading mount.
    ttl: Duration,
    file_flags: FopenFlags,
    directory_flags: FopenFlags,
}

impl Adapter {
    pub fn new(
        fs: Arc<Fs>,
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
        Adapter { fs, lookups, kernel, runtime, ttl, file_flags, directory_flags }
    }

    fn answer<R, T, F>(
        &self,
        terms: Terms,
        reply: R,
        operation: impl FnOnce(Arc<Fs>) -> F,
        send: impl FnOnce(R, T) + Send + 'static,
    ) where
        R: Reply,
        T: Send + 'static,
        F: Future<Output = Result<T, FsError>> + Send + 'static,
    {
        answer(&self.runtime, terms, reply, operation(self.fs.clone()), send);
    }

    /// An operation that makes a name.
    fn make<F>(
        &self,
        operation: &'static str,
        request: &Request,
        name: &OsStr,
        reply: ReplyEntry,
        make: impl FnOnce(Arc<Fs>, Box<[u8]>, Caller) -> F,
    ) where
        F: Future<Output = Result<Attributes, FsError>> + Send + 'static,
    {
        let (name, caller) = (owned(name), caller(request));
        let (ttl, lookups) = (self.ttl, self.lookups.clone());
        self.answer(
            Terms::bounded(operation),
            reply,
            |fs| make(fs, name, caller),
            move |reply, made| {
                lookups.told(made.ino);
                reply.entry(&ttl, &file_attr(&made), GENERATION);
            },
        );
    }

    /// An operation that takes a name away.
    fn remove<F>(
        &self,
        operation: &'static str,
        name: &OsStr,
        reply: ReplyEmpty,
        remove: impl FnOnce(Arc<Fs>, Box<[u8]>) -> F,
    ) where
        F: Future<Output = Result<(), FsError>> + Send + 'static,
    {
        let name = owned(name);
        self.answer_empty(Terms::bounded(operation), reply, |fs| remove(fs, name));
    }

    fn answer_empty<F>(&self, terms: Terms, reply: ReplyEmpty, operation: impl FnOnce(Arc<Fs>) -> F)
    where
        F: Future<Output = Result<(), FsError>> + Send + 'static,
    {
        self.answer(terms, reply, operation, |reply, ()| reply.ok());
    }

    fn answer_listing<R: Listing>(&self, number: INodeNo, cookie: u64, reply: R) {
        let (slot, ttl, lookups) = (Slot::new(reply), self.ttl, self.lookups.clone());
        let filled = slot.clone();
        let operation = async move |fs: Arc<Fs>| list(&fs, ino(number), cookie, ttl, filled).await;
        self.answer(Terms::bounded(R::NAME), slot, operation, move |slot, counted| {
            // Not before: a caller that was sent away is told of nothing.
            slot.send(|reply| {
                counted.into_iter().for_each(|ino| lookups.told(ino));
                reply.ok();
            });
        });
    }

    /// An operation on contents, which may clear set-ID bits.
    fn answer_contents<R, F>(
        &self,
        terms: Terms,
        number: INodeNo,
        reply: R,
        operation: impl FnOnce(Arc<Fs>) -> F,
        send: impl FnOnce(R) + Send + 'static,
    ) where
        R: Reply,
        F: Future<Output = Result<Privileges, FsError>> + Send + 'static,
    {
        let kernel = self.kernel.clone();
        self.answer(terms, reply, operation, move |reply, privileges| {
            kernel.contents_changed(ino(number), privileges);
            send(reply);
        });
    }
}

fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

/// What a follower's open file reads.
fn version(handle: FileHandle) -> Option<VersionId> {
    (handle != HANDLE).then_some(VersionId(handle.0))
}

fn owned(name: &OsStr) -> Box<[u8]> {
    name.as_bytes().into()
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

fn writes(flags: OpenFlags) -> bool {
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

fn file_attr(attributes: &Attributes) -> FileAttr {
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

/// A time that the kernel sends. fuser 0.18 takes the nanoseconds of a time before 1970 *off* the seconds, where they
/// belong on top; here that is undone.
fn set_time(time: TimeOrNow) -> SetTime {
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

fn rename_mode(flags: RenameFlags) -> Result<RenameMode, FsError> {
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
fn send_xattr(reply: ReplyXattr, buffer: u32, value: &[u8]) {
    match buffer as usize {
        0 => reply.size(value.len() as u32),
        size if size < value.len() => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

/// A listing under way: fuser's two replies want the same of it.
trait Listing: Reply {
    const NAME: &str;
    const WITH_ATTRIBUTES: bool;

    /// True if the entry found no room.
    fn push(&mut self, entry: &Entry, ttl: &Duration) -> bool;

    fn ok(self);
}

impl Listing for ReplyDirectory {
    const NAME: &str = "readdir";
    const WITH_ATTRIBUTES: bool = false;

    fn push(&mut self, entry: &Entry, _: &Duration) -> bool {
        self.add(INodeNo(entry.ino.0), entry.cookie, file_type(entry.kind), OsStr::from_bytes(&entry.name))
    }

    fn ok(self) {
        self.ok();
    }
}

impl Listing for ReplyDirectoryPlus {
    const NAME: &str = "readdirplus";
    const WITH_ATTRIBUTES: bool = true;

    fn push(&mut self, entry: &Entry, ttl: &Duration) -> bool {
        let (ttl, attributes) = match entry.attributes {
            Some(attributes) => (*ttl, file_attr(&attributes)),
            // The kernel takes type and number from them, and nothing else.
            None if entry.is_dots() => (*ttl, file_attr(&nameless(entry))),
            None => (Duration::ZERO, unknown(entry)),
        };
        let name = OsStr::from_bytes(&entry.name);
        self.add(INodeNo(entry.ino.0), entry.cookie, name, &ttl, &attributes, GENERATION)
    }

    fn ok(self) {
        self.ok();
    }
}

/// For an entry whose attributes could not be had: the name must be listed all the same, or whoever mirrors a
/// directory takes it for deleted. Node 0 would say that there are no attributes, but fuser then writes inode 0 into
/// the entry too, which readers skip. A size that cannot be makes the kernel keep name, type and number, link no inode,
/// and forget the one that it was told of: it counts like any other.
fn unknown(entry: &Entry) -> FileAttr {
    FileAttr { size: u64::MAX, ..file_attr(&nameless(entry)) }
}

fn nameless(entry: &Entry) -> Attributes {
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

/// Fills a listing's reply from `cookie` on until it is full or the directory ends. Returns the inodes that the kernel
/// counts as looked up once it has the reply.
async fn list<R: Listing>(
    fs: &Fs,
    directory: Ino,
    mut cookie: u64,
    ttl: Duration,
    reply: Slot<R>,
) -> Result<Vec<Ino>, FsError> {
    let mut counted = Vec::new();
    let mut some = false;
    loop {
        let entries = match fs.readdir(directory, cookie, R::WITH_ATTRIBUTES, LISTING).await {
            Ok(entries) => entries,
            // What is in the reply counts; the error comes again at the next request.
            Err(_) if some => return Ok(counted),
            Err(error) => return Err(error),
        };
        if entries.is_empty() {
            return Ok(counted);
        }
        for entry in entries {
            // No room, or no caller any more.
            if reply.with(|reply| reply.push(&entry, &ttl)).unwrap_or(true) {
                return Ok(counted);
            }
            if R::WITH_ATTRIBUTES && !entry.is_dots() {
                counted.push(entry.ino);
            }
            some = true;
            cookie = entry.cookie;
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        negotiate(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (name, ttl) = (owned(name), self.ttl);
        let operation = async move |fs: Arc<Fs>| match fs.lookup(ino(parent), &name).await {
            // The kernel may remember that there is nothing: an entry without an inode.
            Err(FsError::NotFound) if !ttl.is_zero() => Ok(nothing()),
            found => found.map(|found| file_attr(&found)),
        };
        let lookups = self.lookups.clone();
        self.answer(Terms::bounded("lookup"), reply, operation, move |reply, found| {
            if found.ino != INodeNo(Ino::NONE.0) {
                lookups.told(ino(found.ino));
            }
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
        let operation = async move |fs: Arc<Fs>| fs.getattr(ino(number)).await;
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
        let operation = async move |fs: Arc<Fs>| {
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
        let operation = async move |fs: Arc<Fs>| fs.readlink(ino(number)).await;
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
        self.answer_empty(Terms::bounded("rename"), reply, async move |fs: Arc<Fs>| {
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
        let operation = async move |fs: Arc<Fs>| {
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
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, caller) = (owned(name), caller(request));
        let (ttl, file_flags) = (self.ttl, self.file_flags);
        let lookups = self.lookups.clone();
        let operation = async move |fs: Arc<Fs>| fs.create(ino(parent), &name, mode, caller).await;
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
        let operation = async move |fs: Arc<Fs>| match version {
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
                    let operation = async move |fs: Arc<Fs>| fs.write(ino(number), offset, data, kill).await;
                    self.answer_contents(Terms::bounded("write"), number, reply, operation, move |reply| {
                        reply.written(written);
                    });
                }
            }
            wipe::request(data);
        });
    }

    fn flush(&self, _: &Request, number: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.answer_empty(Terms::bounded("flush"), reply, async move |fs: Arc<Fs>| fs.flush(ino(number)).await);
    }

    fn release(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(version) = version(handle) {
            guarded("release", || self.fs.let_go(version));
        }
        self.answer_empty(Terms::bounded("release"), reply, async move |fs: Arc<Fs>| fs.release(ino(number)).await);
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.answer_empty(Terms::unbounded("fsync"), reply, async move |fs: Arc<Fs>| {
            fs.fsync(ino(number), datasync).await
        });
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(HANDLE, self.directory_flags);
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, cookie: u64, reply: ReplyDirectory) {
        self.answer_listing(number, cookie, reply);
    }

    fn readdirplus(&self, _: &Request, number: INodeNo, _: FileHandle, cookie: u64, reply: ReplyDirectoryPlus) {
        self.answer_listing(number, cookie, reply);
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.answer_empty(Terms::unbounded("fsyncdir"), reply, async move |fs: Arc<Fs>| {
            fs.fsync_dir(ino(number)).await
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let operation = async move |fs: Arc<Fs>| fs.statfs().await;
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
        self.answer_empty(Terms::bounded("setxattr"), reply, async move |fs: Arc<Fs>| {
            fs.setxattr(ino(number), &name, &value, create, replace).await
        });
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, buffer: u32, reply: ReplyXattr) {
        let name = owned(name);
        let operation = async move |fs: Arc<Fs>| fs.getxattr(ino(number), &name).await;
        self.answer(Terms::bounded("getxattr"), reply, operation, move |reply, value| {
            send_xattr(reply, buffer, &value);
        });
    }

    fn listxattr(&self, request: &Request, number: INodeNo, buffer: u32, reply: ReplyXattr) {
        let trusted = request.uid() == 0;
        let operation = async move |fs: Arc<Fs>| fs.listxattr(ino(number), trusted).await;
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
        let operation = async move |fs: Arc<Fs>| fs.fallocate(ino(number), mode, offset, length, kill).await;
        self.answer_contents(Terms::bounded("fallocate"), number, reply, operation, ReplyEmpty::ok);
    }

    fn lseek(&self, _: &Request, number: INodeNo, handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let operation = async move |fs: Arc<Fs>| {
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

/// What a lookup that found nothing is answered with, so that the kernel remembers it: inode 0.
fn nothing() -> FileAttr {
    file_attr(&nameless(&Entry {
        ino: Ino::NONE,
        kind: libc::S_IFREG,
        name: Box::default(),
        cookie: 0,
        attributes: None,
    }))
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::format::key::Key;
    use crate::fs::tests::empty;
    use crate::history::Transaction;

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

    /// A listing's reply with room for so many entries, and what became of it.
    struct Page {
        room: usize,
        pushed: Vec<Ino>,
        sent: Arc<Mutex<Option<Vec<Ino>>>>,
    }

    impl Page {
        fn new(room: usize) -> (Page, Arc<Mutex<Option<Vec<Ino>>>>) {
            let sent = Arc::default();
            (Page { room, pushed: Vec::new(), sent: Arc::clone(&sent) }, sent)
        }
    }

    impl Reply for Page {
        fn error(self, _: Errno) {}
    }

    impl Listing for Page {
        const NAME: &str = "test";
        const WITH_ATTRIBUTES: bool = true;

        fn push(&mut self, entry: &Entry, _: &Duration) -> bool {
            let full = self.pushed.len() == self.room;
            if !full {
                self.pushed.push(entry.ino);
            }
            full
        }

        fn ok(self) {
            *self.sent.lock() = Some(self.pushed);
        }
    }

    fn adapter(fs: Fs) -> Adapter {
        Adapter::new(
            Arc::new(fs),
            Arc::default(),
            Arc::default(),
            Handle::current(),
            &MountOptions::new("file:///v", "/mnt"),
        )
    }

    fn is_told(adapter: &Adapter, ino: Ino) -> bool {
        let mut told = true;
        adapter.lookups.forgotten(ino, 0, || told = false);
        told
    }

    #[tokio::test]
    async fn a_listing_counts_what_it_tells_and_nothing_else() {
        let fs = empty();
        let files: Vec<_> = (0..9).map(|k| fs.mk(Ino::ROOT, &k.to_string())).collect();
        let adapter = adapter(fs);
        let (page, sent) = Page::new(6);
        adapter.answer_listing(INodeNo(Ino::ROOT.0), 0, page);
        let sent = sent.lock().take().expect("sent");
        assert_eq!(sent[..2], [Ino::ROOT, Ino::ROOT], "itself and what is above");
        let told: Vec<_> = files.iter().filter(|file| is_told(&adapter, **file)).collect();
        assert_eq!(told.len(), 4);
        assert!(told.iter().all(|file| sent.contains(file)) && !is_told(&adapter, Ino::ROOT));
    }

    #[tokio::test]
    async fn an_entry_without_attributes_is_listed_counted_and_not_linked() {
        let fs = empty();
        let broken = fs.mk(Ino::ROOT, "f");
        let delete = |tx: &mut Transaction<'_>| {
            tx.delete(Key::inode(broken));
            Ok::<(), FsError>(())
        };
        fs.history.transact(delete).expect("deleted");
        let adapter = adapter(fs);
        let (page, sent) = Page::new(9);
        adapter.answer_listing(INodeNo(Ino::ROOT.0), 0, page);
        assert_eq!(sent.lock().take().expect("sent"), [Ino::ROOT, Ino::ROOT, broken]);
        assert!(is_told(&adapter, broken), "the kernel sends a FORGET for it");
        let attributes = unknown(&entry());
        assert_eq!((attributes.ino, attributes.kind), (INodeNo(5), FileType::RegularFile));
        assert!(attributes.size > i64::MAX as u64, "what the kernel takes for no attributes");
    }

    #[tokio::test]
    async fn a_caller_that_was_sent_away_is_told_of_nothing() {
        let fs = empty();
        let file = fs.mk(Ino::ROOT, "f");
        let slot = Slot::new(Page::new(9).0);
        let counted = list(&fs, Ino::ROOT, 0, Duration::ZERO, slot.clone()).await;
        assert_eq!(counted, Ok(vec![file]));
        Reply::error(slot.clone(), Errno::EIO);
        assert_eq!(list(&fs, Ino::ROOT, 0, Duration::ZERO, slot).await, Ok(vec![]));
    }

    fn entry() -> Entry {
        Entry { ino: Ino(5), kind: libc::S_IFREG, name: b"x"[..].into(), cookie: 3, attributes: None }
    }
}
