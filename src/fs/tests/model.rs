//! Random operations on names against a plain tree: results, errors, link counts and listings are the same.
//!
//! The model shares nothing with the filesystem: nodes by number, each directory a map from name to node, link counts
//! by counting.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Id = usize;
const ROOT: Id = 0;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    File,
    Fifo,
    Symlink,
    Directory,
}

#[derive(Debug)]
struct Node {
    kind: Kind,
    entries: BTreeMap<u8, Id>,
    /// The kernel forgot it after its last name went.
    forgotten: bool,
}

#[derive(Default, Debug)]
struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    fn new() -> Tree {
        let mut tree = Tree::default();
        tree.add(Kind::Directory);
        tree
    }

    fn add(&mut self, kind: Kind) -> Id {
        self.nodes.push(Node { kind, entries: BTreeMap::new(), forgotten: false });
        self.nodes.len() - 1
    }

    fn is_directory(&self, id: Id) -> bool {
        self.nodes[id].kind == Kind::Directory
    }

    fn names_of(&self, id: Id) -> usize {
        self.nodes.iter().flat_map(|node| node.entries.values()).filter(|named| **named == id).count()
    }

    fn parent(&self, id: Id) -> Option<Id> {
        (0..self.nodes.len()).find(|parent| self.nodes[*parent].entries.values().any(|named| *named == id))
    }

    fn alive(&self, id: Id) -> bool {
        id == ROOT || self.names_of(id) > 0
    }

    fn nlink(&self, id: Id) -> u32 {
        let below = self.nodes[id].entries.values().filter(|below| self.is_directory(**below)).count();
        match (self.is_directory(id), self.alive(id)) {
            (true, true) => 2 + below as u32,
            (true, false) => 0,
            (false, _) => self.names_of(id) as u32,
        }
    }

    /// Is `id` this directory, or below it?
    fn within(&self, id: Id, directory: Id) -> bool {
        id == directory || self.parent(id).is_some_and(|parent| self.within(parent, directory))
    }

    fn check_directory(&self, id: Id) -> Result<(), FsError> {
        match &self.nodes[id] {
            node if node.forgotten => Err(FsError::Stale),
            node if node.kind != Kind::Directory => Err(FsError::NotDirectory),
            _ if !self.alive(id) => Err(FsError::NotFound),
            _ => Ok(()),
        }
    }

    fn lookup(&self, parent: Id, name: u8) -> Result<Id, FsError> {
        self.check_directory(parent)?;
        self.nodes[parent].entries.get(&name).copied().ok_or(FsError::NotFound)
    }

    fn make(&mut self, parent: Id, name: u8, kind: Kind) -> Result<Id, FsError> {
        self.check_directory(parent)?;
        if self.nodes[parent].entries.contains_key(&name) {
            return Err(FsError::Exists);
        }
        let id = self.add(kind);
        self.nodes[parent].entries.insert(name, id);
        Ok(id)
    }

    fn link(&mut self, id: Id, parent: Id, name: u8) -> Result<(), FsError> {
        if self.nodes[id].forgotten {
            return Err(FsError::Stale);
        }
        self.check_directory(parent)?;
        if self.nodes[parent].entries.contains_key(&name) {
            return Err(FsError::Exists);
        }
        if self.is_directory(id) {
            return Err(FsError::NotPermitted);
        }
        if !self.alive(id) {
            return Err(FsError::NotFound);
        }
        self.nodes[parent].entries.insert(name, id);
        Ok(())
    }

    fn unlink(&mut self, parent: Id, name: u8) -> Result<(), FsError> {
        let id = self.lookup(parent, name)?;
        if self.is_directory(id) {
            return Err(FsError::IsDirectory);
        }
        self.nodes[parent].entries.remove(&name);
        Ok(())
    }

    fn rmdir(&mut self, parent: Id, name: u8) -> Result<(), FsError> {
        let id = self.lookup(parent, name)?;
        if !self.is_directory(id) {
            return Err(FsError::NotDirectory);
        }
        if !self.nodes[id].entries.is_empty() {
            return Err(FsError::NotEmpty);
        }
        self.nodes[parent].entries.remove(&name);
        Ok(())
    }

    fn rename(&mut self, from: (Id, u8), to: (Id, u8), mode: RenameMode) -> Result<(), FsError> {
        let source = self.lookup(from.0, from.1)?;
        self.check_directory(to.0)?;
        let target = self.nodes[to.0].entries.get(&to.1).copied();
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            _ if self.is_directory(source) && from.0 != to.0 && self.within(to.0, source) => {
                return Err(FsError::Invalid);
            }
            _ => {}
        }
        let Some(target) = target else {
            self.nodes[from.0].entries.remove(&from.1);
            self.nodes[to.0].entries.insert(to.1, source);
            return Ok(());
        };
        if target == source {
            return Ok(());
        }
        if from.0 != to.0 && self.within(from.0, target) {
            let exchange = mode == RenameMode::Exchange;
            return Err(if exchange { FsError::Invalid } else { FsError::NotEmpty });
        }
        if mode == RenameMode::Exchange {
            self.nodes[from.0].entries.insert(from.1, target);
            self.nodes[to.0].entries.insert(to.1, source);
            return Ok(());
        }
        match (self.is_directory(source), self.is_directory(target)) {
            (true, false) => return Err(FsError::NotDirectory),
            (false, true) => return Err(FsError::IsDirectory),
            (true, true) if !self.nodes[target].entries.is_empty() => return Err(FsError::NotEmpty),
            _ => {}
        }
        self.nodes[from.0].entries.remove(&from.1);
        self.nodes[to.0].entries.insert(to.1, source);
        Ok(())
    }
}

/// Nodes are drawn as numbers and taken modulo how many there are.
#[derive(Clone, Debug)]
enum Step {
    Make(usize, u8, Kind),
    Link(usize, usize, u8),
    Lookup(usize, u8),
    Unlink(usize, u8),
    Rmdir(usize, u8),
    Rename((usize, u8), (usize, u8), RenameMode),
    Forget(usize),
    List(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Mostly early nodes, so that trees grow deep and names meet.
    let node = || prop_oneof![4 => 0usize..6, 1 => any::<usize>()];
    let name = || 0u8..5;
    let kind = prop_oneof![
        3 => Just(Kind::Directory),
        3 => Just(Kind::File),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Symlink)
    ];
    let mode = prop_oneof![
        2 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        2 => Just(RenameMode::Exchange)
    ];
    let step = prop_oneof![
        6 => (node(), name(), kind).prop_map(|(parent, name, kind)| Step::Make(parent, name, kind)),
        2 => (node(), node(), name()).prop_map(|(id, parent, name)| Step::Link(id, parent, name)),
        1 => (node(), name()).prop_map(|(parent, name)| Step::Lookup(parent, name)),
        2 => (node(), name()).prop_map(|(parent, name)| Step::Unlink(parent, name)),
        2 => (node(), name()).prop_map(|(parent, name)| Step::Rmdir(parent, name)),
        6 => ((node(), name()), (node(), name()), mode).prop_map(|(from, to, mode)| Step::Rename(from, to, mode)),
        1 => node().prop_map(Step::Forget),
        1 => (node(), 1usize..4).prop_map(|(id, most)| Step::List(id, most)),
    ];
    prop::collection::vec(step, 1..120)
}

struct Pair {
    fs: Fs,
    tree: Tree,
    /// The inode of each node.
    inodes: Vec<Ino>,
}

fn text(name: u8) -> String {
    format!("name {name}")
}

impl Pair {
    fn id(&self, drawn: usize) -> Id {
        drawn % self.tree.nodes.len()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Make(parent, name, kind) => self.make(self.id(*parent), *name, *kind),
            Step::Link(id, parent, name) => {
                let (id, parent) = (self.id(*id), self.id(*parent));
                let got = self.fs.ln(self.inodes[id], self.inodes[parent], &text(*name)).map(drop);
                assert_eq!(got, self.tree.link(id, parent, *name));
            }
            Step::Lookup(parent, name) => {
                let parent = self.id(*parent);
                let got = self.fs.find(self.inodes[parent], &text(*name));
                assert_eq!(got, self.tree.lookup(parent, *name).map(|id| self.inodes[id]));
            }
            Step::Unlink(parent, name) => {
                let parent = self.id(*parent);
                let got = self.fs.rm(self.inodes[parent], &text(*name));
                assert_eq!(got, self.tree.unlink(parent, *name));
            }
            Step::Rmdir(parent, name) => {
                let parent = self.id(*parent);
                let got = self.fs.rmd(self.inodes[parent], &text(*name));
                assert_eq!(got, self.tree.rmdir(parent, *name));
            }
            Step::Rename(from, to, mode) => self.rename(*from, *to, *mode),
            Step::Forget(id) => {
                let id = self.id(*id);
                self.fs.forget(self.inodes[id]);
                self.tree.nodes[id].forgotten |= !self.tree.alive(id);
            }
            Step::List(id, most) => self.check_listing(self.id(*id), *most),
        }
    }

    fn make(&mut self, parent: Id, name: u8, kind: Kind) {
        let (ino, name_text) = (self.inodes[parent], text(name));
        let bytes = name_text.as_bytes();
        let got = match kind {
            Kind::File => now(self.fs.create(ino, bytes, 0o644, USER)),
            Kind::Fifo => now(self.fs.mknod(ino, bytes, libc::S_IFIFO | 0o644, 0, USER)),
            Kind::Symlink => now(self.fs.symlink(ino, bytes, b"target", USER)),
            Kind::Directory => now(self.fs.mkdir(ino, bytes, 0o755, USER)),
        };
        match self.tree.make(parent, name, kind) {
            Ok(id) => {
                assert_eq!(id, self.inodes.len());
                self.inodes.push(got.expect("the model made it").ino);
            }
            Err(error) => assert_eq!(got.map(drop), Err(error)),
        }
    }

    fn rename(&mut self, from: (usize, u8), to: (usize, u8), mode: RenameMode) {
        let (from, to) = ((self.id(from.0), from.1), (self.id(to.0), to.1));
        let (old, new) = (text(from.1), text(to.1));
        let got = self.fs.mv((self.inodes[from.0], &old), (self.inodes[to.0], &new), mode);
        // Where two things are wrong, which one is told depends on the order of the looks: any of them will do.
        let either = self.tree.check_directory(from.0).is_err() || self.tree.check_directory(to.0).is_err();
        match (self.tree.rename(from, to, mode), got) {
            (Err(_), Err(_)) if either => {}
            (want, got) => assert_eq!(got, want),
        }
    }

    fn check_listing(&self, id: Id, most: usize) {
        if self.tree.nodes[id].forgotten {
            assert_eq!(now(self.fs.readdir(self.inodes[id], 0, false, most)).map(drop), Err(FsError::Stale));
            return;
        }
        if !self.tree.is_directory(id) {
            assert_eq!(now(self.fs.readdir(self.inodes[id], 0, false, most)).map(drop), Err(FsError::NotDirectory));
            return;
        }
        let mut got: Vec<_> =
            self.fs.ls(self.inodes[id], most).into_iter().map(|entry| (entry.name.to_vec(), entry.ino)).collect();
        got.sort();
        let mut want: Vec<_> =
            self.tree.nodes[id].entries.iter().map(|(name, id)| (text(*name).into_bytes(), self.inodes[*id])).collect();
        if self.tree.alive(id) {
            let above = self.tree.parent(id).unwrap_or(ROOT);
            want.push((b".".to_vec(), self.inodes[id]));
            want.push((b"..".to_vec(), self.inodes[above]));
        }
        want.sort();
        assert_eq!(got, want);
    }

    fn check(&self) {
        for (id, ino) in self.inodes.iter().enumerate() {
            match now(self.fs.getattr(*ino)) {
                Ok(attributes) => assert_eq!(attributes.nlink, self.tree.nlink(id), "{ino}"),
                Err(error) => assert!(self.tree.nodes[id].forgotten && error == FsError::Stale, "{ino}: {error}"),
            }
            self.check_listing(id, 2);
        }
        let alive = (0..self.inodes.len()).filter(|id| self.tree.alive(*id)).count();
        assert_eq!(now(self.fs.statfs()).expect("statfs").inodes, alive as u64);
        self.check_ways_up();
    }

    /// Each entry has its link record, and each link record its entry.
    fn check_ways_up(&self) {
        use crate::format::key::Part;
        let view = self.fs.history.view();
        let mut entries = Vec::new();
        let mut links = Vec::new();
        for ino in &self.inodes {
            let look = |key: &Key, record: &std::sync::Arc<Record>| {
                match (key.part, &**record) {
                    (Part::Link { parent, hash, suffix }, _) => links.push((parent, hash, suffix, *ino)),
                    (Part::Dentry { hash, suffix }, Record::Dentry(dentry)) => {
                        entries.push((*ino, hash, suffix, dentry.ino));
                    }
                    _ => {}
                }
                true
            };
            view.scan(Key::inode(*ino), Key::dentry(*ino, u64::MAX, u16::MAX), look).unwrap();
        }
        entries.sort();
        links.sort();
        assert_eq!(entries, links);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn names_behave_as_a_plain_tree_does(steps in steps()) {
        let mut pair = Pair { fs: empty(), tree: Tree::new(), inodes: vec![Ino::ROOT] };
        for step in &steps {
            pair.step(step);
        }
        pair.check();
    }
}
