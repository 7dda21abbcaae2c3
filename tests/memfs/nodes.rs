//! The tree of the in-memory filesystem: nodes by number, names in directories.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType, INodeNo};
use parking_lot::Mutex;

use dripfs::base::Ino;
use dripfs::base::sizes::NAME_MAX;
use dripfs::fuse::{BLOCK, file_type};

const CHUNK: usize = 1 << 20;
const ROOT: u64 = Ino::ROOT.0;

pub enum Body {
    File(Contents),
    Directory(Directory),
    Symlink(Vec<u8>),
    Special(u32),
}

/// Bytes in chunks, so that a growing file is never copied.
#[derive(Default)]
pub struct Contents {
    chunks: Vec<Vec<u8>>,
    size: u64,
}

impl Contents {
    pub fn read(&self, offset: u64, size: usize, send: impl FnOnce(&[u8])) {
        let end = self.size.min(offset.saturating_add(size as u64));
        if offset >= end {
            return send(&[]);
        }
        let (first, within) = (offset as usize / CHUNK, offset as usize % CHUNK);
        let length = (end - offset) as usize;
        // The common case, without a copy.
        if let Some(bytes) = self.chunks.get(first).and_then(|chunk| chunk.get(within..within + length)) {
            return send(bytes);
        }
        let mut out = vec![0; length];
        let mut done = 0;
        while done < length {
            let at = offset as usize + done;
            let part = (CHUNK - at % CHUNK).min(length - done);
            let chunk = self.chunks.get(at / CHUNK).map_or(&[][..], |chunk| chunk);
            let have = chunk.len().saturating_sub(at % CHUNK).min(part);
            if have > 0 {
                out[done..done + have].copy_from_slice(&chunk[at % CHUNK..at % CHUNK + have]);
            }
            done += part;
        }
        send(&out);
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let at = offset as usize + done;
            let part = (CHUNK - at % CHUNK).min(data.len() - done);
            if self.chunks.len() <= at / CHUNK {
                self.chunks.resize_with(at / CHUNK + 1, Vec::new);
            }
            let (chunk, from) = (&mut self.chunks[at / CHUNK], at % CHUNK);
            if chunk.len() == from {
                if from > 0 && chunk.capacity() < CHUNK && from + part > chunk.capacity() {
                    chunk.reserve_exact(CHUNK - from);
                }
                chunk.extend_from_slice(&data[done..done + part]);
            } else {
                if chunk.len() < from + part {
                    chunk.resize(from + part, 0);
                }
                chunk[from..from + part].copy_from_slice(&data[done..done + part]);
            }
            done += part;
        }
        self.size = self.size.max(offset + data.len() as u64);
    }

    pub fn resize(&mut self, size: u64) {
        if size < self.size {
            let whole = size as usize / CHUNK;
            self.chunks.truncate(size.div_ceil(CHUNK as u64) as usize);
            if let Some(last) = self.chunks.get_mut(whole) {
                last.truncate(size as usize % CHUNK);
            }
        }
        self.size = size;
    }
}

/// Names by what they are and by when they came: the second is the cookie of a listing.
#[derive(Default)]
pub struct Directory {
    pub parent: u64,
    pub order: BTreeMap<u64, (Vec<u8>, u64)>,
    names: HashMap<Vec<u8>, u64>,
    last: u64,
}

impl Directory {
    fn find(&self, name: &[u8]) -> Option<u64> {
        self.names.get(name).and_then(|at| self.order.get(at)).map(|(_, ino)| *ino)
    }

    fn put(&mut self, name: &[u8], ino: u64) {
        self.take(name);
        // 1 and 2 are "." and "..".
        self.last = self.last.max(2) + 1;
        self.order.insert(self.last, (name.to_vec(), ino));
        self.names.insert(name.to_vec(), self.last);
    }

    fn take(&mut self, name: &[u8]) {
        if let Some(at) = self.names.remove(name) {
            self.order.remove(&at);
        }
    }
}

pub struct Node {
    pub kind: FileType,
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub atime: SystemTime,
    pub mtime: SystemTime,
    ctime: SystemTime,
    pub body: Body,
}

impl Node {
    pub fn new(mode: u32, uid: u32, gid: u32, body: Body) -> Node {
        let now = SystemTime::now();
        let kind = file_type(mode);
        let nlink = if kind == FileType::Directory { 2 } else { 1 };
        Node { kind, perm: (mode & 0o7777) as u16, uid, gid, nlink, atime: now, mtime: now, ctime: now, body }
    }

    pub fn attributes(&self, number: u64) -> FileAttr {
        let (size, rdev) = match &self.body {
            Body::File(contents) => (contents.size, 0),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::Directory(_) => (4096, 0),
            Body::Special(rdev) => (0, *rdev),
        };
        FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            crtime: self.ctime,
            kind: self.kind,
            perm: self.perm,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev,
            blksize: BLOCK,
            flags: 0,
        }
    }

    pub fn touch(&mut self) {
        self.mtime = SystemTime::now();
        self.ctime = self.mtime;
    }

    pub fn file(&mut self) -> Result<&mut Contents, Errno> {
        match &mut self.body {
            Body::File(contents) => Ok(contents),
            Body::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    pub fn directory(&mut self) -> Result<&mut Directory, Errno> {
        match &mut self.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }
}

pub struct Nodes {
    all: HashMap<u64, Arc<Mutex<Node>>>,
    last: u64,
}

impl Nodes {
    pub fn new() -> Nodes {
        let root = Directory { parent: ROOT, ..Directory::default() };
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let root = Node::new(libc::S_IFDIR | 0o755, uid, gid, Body::Directory(root));
        Nodes { all: HashMap::from([(ROOT, Arc::new(Mutex::new(root)))]), last: ROOT }
    }

    pub fn count(&self) -> u64 {
        self.all.len() as u64
    }

    pub fn get(&self, number: u64) -> Result<Arc<Mutex<Node>>, Errno> {
        self.all.get(&number).cloned().ok_or(Errno::ENOENT)
    }

    pub fn forget(&mut self, number: u64) {
        if self.all.get(&number).is_some_and(|node| node.lock().nlink == 0) {
            self.all.remove(&number);
        }
    }

    fn find(&self, parent: u64, name: &[u8]) -> Result<u64, Errno> {
        self.get(parent)?.lock().directory()?.find(name).ok_or(Errno::ENOENT)
    }

    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<FileAttr, Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let number = self.find(parent, name)?;
        Ok(self.get(number)?.lock().attributes(number))
    }

    /// Puts a name into a directory and keeps the count of its subdirectories' "..".
    fn put(&self, parent: u64, name: &[u8], number: u64, is_directory: bool) -> Result<(), Errno> {
        let parent = self.get(parent)?;
        let mut parent = parent.lock();
        parent.directory()?.put(name, number);
        parent.nlink += u32::from(is_directory);
        parent.touch();
        Ok(())
    }

    fn take(&self, parent: u64, name: &[u8], is_directory: bool) -> Result<(), Errno> {
        let parent = self.get(parent)?;
        let mut parent = parent.lock();
        parent.directory()?.take(name);
        parent.nlink -= u32::from(is_directory);
        parent.touch();
        Ok(())
    }

    pub fn insert(&mut self, parent: u64, name: &[u8], mut node: Node) -> Result<FileAttr, Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if self.find(parent, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        if let Body::Directory(directory) = &mut node.body {
            directory.parent = parent;
        }
        let is_directory = node.kind == FileType::Directory;
        self.put(parent, name, self.last + 1, is_directory)?;
        self.last += 1;
        let attributes = node.attributes(self.last);
        self.all.insert(self.last, Arc::new(Mutex::new(node)));
        Ok(attributes)
    }

    pub fn link(&mut self, number: u64, parent: u64, name: &[u8]) -> Result<FileAttr, Errno> {
        if self.find(parent, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.put(parent, name, number, false)?;
        let node = self.get(number)?;
        let mut node = node.lock();
        node.nlink += 1;
        Ok(node.attributes(number))
    }

    pub fn remove(&mut self, parent: u64, name: &[u8], directory: bool) -> Result<(), Errno> {
        let number = self.find(parent, name)?;
        let node = self.get(number)?;
        let mut node = node.lock();
        let is_directory = match (&node.body, directory) {
            (Body::Directory(inner), true) if !inner.order.is_empty() => return Err(Errno::ENOTEMPTY),
            (Body::Directory(_), false) => return Err(Errno::EISDIR),
            (Body::Directory(_), true) => true,
            (_, true) => return Err(Errno::ENOTDIR),
            (_, false) => false,
        };
        node.nlink = if is_directory { 0 } else { node.nlink - 1 };
        drop(node);
        // The node itself goes at its FORGET: somebody may have it open.
        self.take(parent, name, is_directory)
    }

    pub fn rename(
        &mut self,
        parent: u64,
        name: &[u8],
        to: u64,
        new: &[u8],
        noreplace: bool,
        exchange: bool,
    ) -> Result<(), Errno> {
        let number = self.find(parent, name)?;
        let old = self.find(to, new).ok();
        let is_directory = |number| Ok::<bool, Errno>(self.get(number)?.lock().kind == FileType::Directory);
        let moved_directory = is_directory(number)?;
        match old {
            Some(_) if noreplace => return Err(Errno::EEXIST),
            Some(old) if old == number => return Ok(()),
            Some(old) if exchange => {
                let old_directory = is_directory(old)?;
                self.take(parent, name, moved_directory)?;
                self.take(to, new, old_directory)?;
                self.put(parent, name, old, old_directory)?;
                self.adopt(old, parent)?;
            }
            None if exchange => return Err(Errno::ENOENT),
            Some(_) => {
                self.remove(to, new, moved_directory)?;
                self.take(parent, name, moved_directory)?;
            }
            None => self.take(parent, name, moved_directory)?,
        }
        self.put(to, new, number, moved_directory)?;
        self.adopt(number, to)
    }

    fn adopt(&self, number: u64, parent: u64) -> Result<(), Errno> {
        if let Ok(directory) = self.get(number)?.lock().directory() {
            directory.parent = parent;
        }
        Ok(())
    }
}
