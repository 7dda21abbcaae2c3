//! The model: what the drive holds now, in plain maps, told by the results of the users' own calls.
//!
//! Owns names, modes, contents, and which files are unlinked and still open. Does not own time (the oracle does).
//! Inode numbers are those that the drive told: they outlive mounts.

use std::collections::{BTreeMap, BTreeSet};

use dripfs::base::{Ino, Timestamp};

pub const ROOT: u64 = Ino::ROOT.0;

/// Contents as they are compared: no two different ones have the same, but by a hash's bad luck.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contents {
    pub size: u64,
    pub hash: u64,
    pub mtime: Timestamp,
}

#[derive(Clone, Default)]
pub struct File {
    pub bytes: Vec<u8>,
    pub mtime: Timestamp,
    /// Made in this life, and nothing of it overwritten since: a change of mode is no barrier then (L2).
    pub only_grown: bool,
}

impl File {
    pub fn contents(&self) -> Contents {
        Contents { size: self.bytes.len() as u64, hash: hash(&self.bytes), mtime: self.mtime }
    }

    pub fn write(&mut self, offset: usize, data: &[u8]) {
        self.only_grown &= offset >= self.bytes.len();
        if self.bytes.len() < offset + data.len() {
            self.bytes.resize(offset + data.len(), 0);
        }
        self.bytes[offset..offset + data.len()].copy_from_slice(data);
    }
}

pub fn hash(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight of 32 bytes"))
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    Dir,
    File,
    Symlink(Vec<u8>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    pub nlink: u32,
}

/// Names, links and modes: one instant of the namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    pub entries: BTreeMap<(u64, String), u64>,
    pub nodes: BTreeMap<u64, Node>,
}

impl Names {
    pub fn hash(&self) -> u64 {
        let mut text = Vec::with_capacity(self.entries.len() * 24 + self.nodes.len() * 24);
        for ((parent, name), ino) in &self.entries {
            text.extend_from_slice(&parent.to_le_bytes());
            text.extend_from_slice(name.as_bytes());
            text.push(0);
            text.extend_from_slice(&ino.to_le_bytes());
        }
        for (ino, node) in &self.nodes {
            text.extend_from_slice(&ino.to_le_bytes());
            match &node.kind {
                Kind::Dir => text.push(1),
                Kind::File => text.push(2),
                Kind::Symlink(target) => {
                    text.push(3);
                    text.extend_from_slice(target);
                    text.push(0);
                }
            }
            text.extend_from_slice(&node.mode.to_le_bytes());
            text.extend_from_slice(&node.nlink.to_le_bytes());
        }
        hash(&text)
    }

    pub fn is_dir(&self, ino: u64) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.kind == Kind::Dir)
    }

    pub fn find(&self, parent: u64, name: &str) -> Option<u64> {
        self.entries.get(&(parent, name.to_owned())).copied()
    }

    pub fn is_empty(&self, dir: u64) -> bool {
        self.entries.range((dir, String::new())..).next().is_none_or(|((parent, _), _)| *parent != dir)
    }

    fn parent(&self, dir: u64) -> Option<u64> {
        self.entries.iter().find(|(_, ino)| **ino == dir).map(|((parent, _), _)| *parent)
    }

    /// Is `ino` this directory, or one below it?
    pub fn at_or_below(&self, ino: u64, dir: u64) -> bool {
        let mut at = ino;
        loop {
            if at == dir {
                return true;
            }
            match self.parent(at) {
                Some(above) => at = above,
                None => return false,
            }
        }
    }

    /// All files that have a name somewhere below a directory.
    pub fn files_below(&self, dir: u64) -> BTreeSet<u64> {
        let mut files = BTreeSet::new();
        for ((parent, _), ino) in &self.entries {
            if !self.is_dir(*ino) && self.at_or_below(*parent, dir) {
                files.insert(*ino);
            }
        }
        files
    }
}

#[derive(Clone, Default)]
pub struct Model {
    pub names: Names,
    pub files: BTreeMap<u64, File>,
    /// Unlinked, and still open.
    pub orphans: BTreeSet<u64>,
}

impl Model {
    pub fn add(&mut self, parent: u64, name: &str, ino: u64, kind: Kind, mode: u32) {
        let dir = kind == Kind::Dir;
        self.names.entries.insert((parent, name.to_owned()), ino);
        self.names.nodes.insert(ino, Node { kind, mode, nlink: if dir { 2 } else { 1 } });
        if dir {
            self.node(parent).nlink += 1;
        }
    }

    fn node(&mut self, ino: u64) -> &mut Node {
        self.names.nodes.get_mut(&ino).expect("the drive said that it is there")
    }

    /// A name goes; with the last one the inode becomes an orphan. Returns true then.
    pub fn remove(&mut self, parent: u64, name: &str) -> bool {
        let Some(ino) = self.names.entries.remove(&(parent, name.to_owned())) else { return false };
        if self.names.is_dir(ino) {
            self.node(parent).nlink -= 1;
            self.names.nodes.remove(&ino);
            return false;
        }
        self.node(ino).nlink -= 1;
        if self.names.nodes[&ino].nlink > 0 {
            return false;
        }
        self.names.nodes.remove(&ino);
        if self.files.contains_key(&ino) {
            self.orphans.insert(ino);
            return true;
        }
        false
    }

    pub fn link(&mut self, ino: u64, parent: u64, name: &str) {
        self.names.entries.insert((parent, name.to_owned()), ino);
        self.node(ino).nlink += 1;
    }

    /// rename(2) that is known to have been possible.
    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str), exchange: bool) {
        let (Some(source), target) = (self.names.find(from.0, from.1), self.names.find(to.0, to.1)) else { return };
        if target == Some(source) {
            return;
        }
        if exchange && let Some(target) = target {
            self.names.entries.insert((from.0, from.1.to_owned()), target);
            self.names.entries.insert((to.0, to.1.to_owned()), source);
            let moves = i64::from(self.names.is_dir(source)) - i64::from(self.names.is_dir(target));
            self.shift(from.0, to.0, moves);
            return;
        }
        if target.is_some() {
            self.remove(to.0, to.1);
        }
        self.names.entries.remove(&(from.0, from.1.to_owned()));
        self.names.entries.insert((to.0, to.1.to_owned()), source);
        let moves = i64::from(self.names.is_dir(source));
        self.shift(from.0, to.0, moves);
    }

    fn shift(&mut self, from: u64, to: u64, dirs: i64) {
        self.node(from).nlink = (i64::from(self.names.nodes[&from].nlink) - dirs) as u32;
        self.node(to).nlink = (i64::from(self.names.nodes[&to].nlink) + dirs) as u32;
    }

    /// Would rename(2) do something here, and succeed?
    pub fn can_rename(&self, from: (u64, &str), to: (u64, &str), exchange: bool) -> bool {
        let Some(source) = self.names.find(from.0, from.1) else { return false };
        if !self.names.is_dir(to.0) || !self.names.is_dir(from.0) {
            return false;
        }
        let target = self.names.find(to.0, to.1);
        if target == Some(source) {
            return true;
        }
        if self.names.is_dir(source) && self.names.at_or_below(to.0, source) {
            return false;
        }
        let Some(target) = target else { return !exchange };
        if exchange {
            return !(self.names.is_dir(target) && self.names.at_or_below(from.0, target));
        }
        match (self.names.is_dir(source), self.names.is_dir(target)) {
            (false, false) => true,
            (true, true) => self.names.is_empty(target),
            _ => false,
        }
    }
}
