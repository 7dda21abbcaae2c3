//! What a tree is to those who compare: everything that stat, readlink, listxattr and read tell.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::pair::Times;

/// Files, by path relative to the top ("" is the top itself).
pub struct Tree(BTreeMap<PathBuf, Node>);

struct Node {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    device: u64,
    size: u64,
    mtime: (i64, i64),
    contents: Vec<u8>,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The first path, in order, of the same inode.
    same_as: PathBuf,
}

impl Tree {
    pub fn read(top: &Path) -> Tree {
        let mut tree = Tree(BTreeMap::new());
        tree.add(top, PathBuf::new());
        let mut first = BTreeMap::new();
        for (path, node) in &mut tree.0 {
            let inode = fs::symlink_metadata(top.join(path)).expect("it was there a moment ago").ino();
            node.same_as = first.entry(inode).or_insert_with(|| path.clone()).clone();
        }
        tree
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn add(&mut self, top: &Path, path: PathBuf) {
        let full = if path.as_os_str().is_empty() { top.to_owned() } else { top.join(&path) };
        let stat = fs::symlink_metadata(&full).unwrap_or_else(|e| panic!("stat of {}: {e}", full.display()));
        if stat.is_dir() {
            let entries = fs::read_dir(&full).unwrap_or_else(|e| panic!("listing {}: {e}", full.display()));
            for entry in entries {
                let name = entry.unwrap_or_else(|e| panic!("listing {}: {e}", full.display())).file_name();
                self.add(top, path.join(name));
            }
        }
        let twice = self.0.insert(path, Node::read(&full, &stat));
        assert!(twice.is_none(), "{} is listed twice", full.display());
    }
}

impl Node {
    fn read(path: &Path, stat: &Metadata) -> Node {
        let kind = kind(stat);
        let contents = match kind {
            "file" => fs::read(path).unwrap_or_else(|e| panic!("reading {}: {e}", path.display())),
            "symlink" => fs::read_link(path).expect("a symlink").into_os_string().into_vec(),
            _ => Vec::new(),
        };
        let comparable = matches!(kind, "file" | "symlink");
        Node {
            kind,
            mode: stat.mode() & 0o7777,
            owner: (stat.uid(), stat.gid()),
            // Of a directory, file systems tell what they like (ext4: subdirectories; others: 1).
            links: if stat.is_dir() { 0 } else { stat.nlink() },
            device: if matches!(kind, "char" | "block") { stat.rdev() } else { 0 },
            size: if comparable { stat.size() } else { 0 },
            mtime: (stat.mtime(), stat.mtime_nsec()),
            contents,
            xattrs: if matches!(kind, "file" | "directory") { xattrs(path) } else { BTreeMap::new() },
            same_as: PathBuf::new(),
        }
    }

    fn differences(&self, other: &Node, times: Times) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |what: &str, here: String, there: String| {
            if here != there {
                found.push(format!("{what}: {there} on the drive, {here} beside it"));
            }
        };
        check("type", self.kind.into(), other.kind.into());
        check("mode", format!("{:o}", self.mode), format!("{:o}", other.mode));
        check("owner", format!("{:?}", self.owner), format!("{:?}", other.owner));
        check("links", self.links.to_string(), other.links.to_string());
        check("device", self.device.to_string(), other.device.to_string());
        check("size", self.size.to_string(), other.size.to_string());
        check("the same file as", format!("{:?}", self.same_as), format!("{:?}", other.same_as));
        check("xattrs", format!("{:?}", self.xattrs), format!("{:?}", other.xattrs));
        if times == Times::Preserved {
            check("mtime", format!("{:?}", self.mtime), format!("{:?}", other.mtime));
        }
        if self.contents != other.contents {
            let at = self.contents.iter().zip(&other.contents).position(|(a, b)| a != b);
            found.push(format!("contents differ from byte {at:?} on"));
        }
        found
    }
}

fn kind(stat: &Metadata) -> &'static str {
    let kind = stat.file_type();
    match () {
        () if kind.is_file() => "file",
        () if kind.is_dir() => "directory",
        () if kind.is_symlink() => "symlink",
        () if kind.is_fifo() => "fifo",
        () if kind.is_socket() => "socket",
        () if kind.is_char_device() => "char",
        () if kind.is_block_device() => "block",
        () => "unknown",
    }
}

fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0; 64 * 1024];
    let length = rustix::fs::llistxattr(path, &mut names[..]).expect("listxattr");
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let read = |name: &[u8]| {
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("getxattr of a listed name");
        value.truncate(length);
        value
    };
    // Security modules add their own to local files.
    let names = names.filter(|name| !name.starts_with(b"security.selinux"));
    names.map(|name| (std::ffi::OsStr::from_bytes(name).to_owned(), read(name))).collect()
}

/// What differs, in words; nothing if the trees are the same.
pub fn differences(local: &Tree, drive: &Tree, times: Times) -> Vec<String> {
    let mut found = Vec::new();
    for (path, node) in &local.0 {
        match drive.0.get(path) {
            None => found.push(format!("{path:?} is missing on the drive")),
            Some(other) => {
                // The top itself was made by the test.
                let times = if path.as_os_str().is_empty() { Times::Fresh } else { times };
                found.extend(node.differences(other, times).iter().map(|what| format!("{path:?}: {what}")));
            }
        }
    }
    let extra = drive.0.keys().filter(|path| !local.0.contains_key(*path));
    found.extend(extra.map(|path| format!("{path:?} is on the drive only")));
    found
}
