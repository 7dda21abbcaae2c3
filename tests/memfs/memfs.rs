//! The ceiling: an in-memory filesystem that does nothing but answer, mounted just as dripfs mounts its own.
//!
//! What it reaches on a machine is what FUSE and fuser allow there; benchmarks and the tests' own trust in the kernel
//! adapter's settings start from it. It keeps no promise: no durability, no limits, one lock around all names.
//!
//!     memfs [--background] MOUNTPOINT      ends when it is unmounted (umount MOUNTPOINT)

mod nodes;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::SystemTime;

use fuser::*;
use nodes::{Body, Node, Nodes};
use parking_lot::Mutex;

use dripfs::base::sizes::NAME_MAX;
use dripfs::fuse::{BLOCK, GENERATION, HANDLE, MountOptions, WRITER_TTL as TTL, mount_filesystem, negotiate};

struct MemFs {
    nodes: Mutex<Nodes>,
}

impl MemFs {
    /// Makes a node under a name and answers with it.
    fn make(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, body: Body) -> Result<FileAttr, Errno> {
        let node = Node::new(mode, request.uid(), request.gid(), body);
        self.nodes.lock().insert(parent.0, name.as_bytes(), node)
    }

    /// Does something to one node.
    fn with<T>(&self, number: INodeNo, f: impl FnOnce(&mut Node) -> Result<T, Errno>) -> Result<T, Errno> {
        let node = self.nodes.lock().get(number.0)?;
        f(&mut node.lock())
    }

    fn attributes(&self, number: INodeNo) -> Result<FileAttr, Errno> {
        self.with(number, |node| Ok(node.attributes(number.0)))
    }

    fn list(&self, number: INodeNo, cookie: u64, mut add: impl FnMut(u64, u64, &[u8]) -> bool) -> Result<(), Errno> {
        self.with(number, |node| {
            let parent = node.directory()?.parent;
            for (at, ino, name) in [(1, number.0, &b"."[..]), (2, parent, &b".."[..])] {
                if cookie < at && add(ino, at, name) {
                    return Ok(());
                }
            }
            for (at, (name, ino)) in node.directory()?.order.range(cookie.max(2) + 1..) {
                if add(*ino, *at, name) {
                    break;
                }
            }
            Ok(())
        })
    }
}

fn flags() -> FopenFlags {
    FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH
}

macro_rules! reply {
    ($reply:ident, $result:expr, $value:pat => $send:expr) => {
        match $result {
            Ok($value) => $send,
            Err(errno) => $reply.error(errno),
        }
    };
}

impl Filesystem for MemFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        negotiate(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.nodes.lock().lookup(parent.0, name.as_bytes());
        reply!(reply, found, attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn forget(&self, _: &Request, number: INodeNo, _: u64) {
        self.nodes.lock().forget(number.0);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply!(reply, self.attributes(number), attr => reply.attr(&TTL, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.with(number, |node| {
            node.perm = mode.map_or(node.perm, |mode| (mode & 0o7777) as u16);
            node.uid = uid.unwrap_or(node.uid);
            node.gid = gid.unwrap_or(node.gid);
            if let Some(size) = size {
                node.file()?.resize(size);
                node.touch();
            }
            node.atime = atime.map_or(node.atime, time);
            node.mtime = mtime.map_or(node.mtime, time);
            Ok(node.attributes(number.0))
        });
        reply!(reply, set, attr => reply.attr(&TTL, &attr));
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        let target = self.with(number, |node| match &node.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL),
        });
        reply!(reply, target, target => reply.data(&target));
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, rdev: u32, reply: ReplyEntry) {
        let body = match mode & libc::S_IFMT {
            libc::S_IFREG => Body::File(Default::default()),
            _ => Body::Special(rdev),
        };
        reply!(reply, self.make(request, parent, name, mode, body), attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let body = Body::Directory(Default::default());
        let made = self.make(request, parent, name, libc::S_IFDIR | mode, body);
        reply!(reply, made, attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let body = Body::Symlink(target.as_os_str().as_bytes().to_vec());
        let made = self.make(request, parent, name, libc::S_IFLNK | 0o777, body);
        reply!(reply, made, attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.nodes.lock().remove(parent.0, name.as_bytes(), false);
        reply!(reply, removed, () => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.nodes.lock().remove(parent.0, name.as_bytes(), true);
        reply!(reply, removed, () => reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let noreplace = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
        let mut nodes = self.nodes.lock();
        let renamed = nodes.rename(parent.0, name.as_bytes(), to.0, new.as_bytes(), noreplace, exchange);
        reply!(reply, renamed, () => reply.ok());
    }

    fn link(&self, _: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.nodes.lock().link(number.0, parent.0, name.as_bytes());
        reply!(reply, linked, attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn open(&self, _: &Request, number: INodeNo, open: OpenFlags, reply: ReplyOpen) {
        let opened = self.with(number, |node| {
            if open.0 & libc::O_TRUNC != 0 {
                node.file()?.resize(0);
                node.touch();
            }
            Ok(())
        });
        reply!(reply, opened, () => reply.opened(HANDLE, flags()));
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        let made = self.make(request, parent, name, libc::S_IFREG | mode, Body::File(Default::default()));
        reply!(reply, made, attr => reply.created(&TTL, &attr, GENERATION, HANDLE, flags()));
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let node = self.nodes.lock().get(number.0);
        let node = match node {
            Ok(node) => node,
            Err(errno) => return reply.error(errno),
        };
        match node.lock().file() {
            Ok(file) => file.read(offset, size as usize, |bytes| reply.data(bytes)),
            Err(errno) => reply.error(errno),
        };
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.with(number, |node| {
            node.file()?.write(offset, data);
            node.touch();
            Ok(())
        });
        reply!(reply, written, () => reply.written(data.len() as u32));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(HANDLE, FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, cookie: u64, mut reply: ReplyDirectory) {
        let mut found = Vec::new();
        let listed = self.list(number, cookie, |ino, at, name| {
            found.push((ino, at, name.to_vec()));
            found.len() > 1024
        });
        if let Err(errno) = listed {
            return reply.error(errno);
        }
        let nodes = self.nodes.lock();
        for (ino, at, name) in found {
            let kind = nodes.get(ino).map_or(FileType::RegularFile, |node| node.lock().kind);
            if reply.add(INodeNo(ino), at, kind, OsStr::from_bytes(&name)) {
                break;
            }
        }
        drop(nodes);
        reply.ok();
    }

    fn readdirplus(&self, _: &Request, number: INodeNo, _: FileHandle, cookie: u64, mut reply: ReplyDirectoryPlus) {
        let mut found = Vec::new();
        let listed = self.list(number, cookie, |ino, at, name| {
            found.push((ino, at, name.to_vec()));
            found.len() > 256
        });
        if let Err(errno) = listed {
            return reply.error(errno);
        }
        for (ino, at, name) in found {
            let Ok(attr) = self.attributes(INodeNo(ino)) else { continue };
            if reply.add(INodeNo(ino), at, OsStr::from_bytes(&name), &TTL, &attr, GENERATION) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let count = self.nodes.lock().count();
        reply.statfs(1 << 28, 1 << 27, 1 << 27, count + (1 << 30), 1 << 30, BLOCK, NAME_MAX as u32, BLOCK);
    }

    // No extended attributes; the kernel does not ask again.
    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
}

fn time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::Now => SystemTime::now(),
        TimeOrNow::SpecificTime(time) => time,
    }
}

/// Starts the same program once more as the one that serves, and waits until it says that the mount answers.
fn background(mountpoint: &str) -> Result<(), String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(this);
    // Not our stderr: whoever waits for its end would wait for the mount's.
    command.arg("--serve").arg(mountpoint).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let stdout = child.stdout.take().ok_or("no pipe")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).map_err(|e| e.to_string())?;
    if line == "ready\n" { Ok(()) } else { Err(line.trim().into()) }
}

fn serve(mountpoint: &str) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let mountpoint = std::fs::canonicalize(mountpoint).map_err(|e| e.to_string())?;
        let mut options = MountOptions::new("memfs", mountpoint);
        options.allow_other = rustix::process::geteuid().is_root();
        let filesystem = MemFs { nodes: Mutex::new(Nodes::new()) };
        let mut mounted = mount_filesystem(filesystem, &options).map_err(|e| e.to_string())?;
        println!("ready");
        let _ = rustix::process::setsid();
        mounted.ended().await.map_err(|e| e.to_string())
    })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["--background", mountpoint] => background(mountpoint),
        [mountpoint] => serve(mountpoint),
        ["--serve", mountpoint] => serve(mountpoint).inspect_err(|why| println!("{why}")),
        _ => Err("usage: memfs [--background] MOUNTPOINT".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("memfs: {why}");
            ExitCode::FAILURE
        }
    }
}
