//! What the directories of a room list: recent queries, and links to the files that match.
//!
//! Owns cookies there, and the names of links. A listing goes on in the answer that it began with, while that is kept.

use std::sync::Arc;

use super::answers::{Asked, Room};
use super::hits::Answer;
use super::pattern;
use super::tree::{ALL, FILES, Inner, LISTED, Node, Tree, VIRTUAL};
use crate::base::Ino;
use crate::base::sizes::NAME_MAX;
use crate::fs::{Attributes, Caller, Entry, FsError};

/// What a listing of a room begins with has the first cookies; the room's own cookie in other listings is the last one.
const DOTS: u64 = 2;
const ROOM_COOKIE: u64 = i64::MAX as u64;

impl Tree {
    // Links to the files that match.

    pub(super) async fn look_up_link(
        &self,
        found: Ino,
        asked: &Arc<Asked>,
        listing: Option<Ino>,
        name: &[u8],
    ) -> Result<Attributes, FsError> {
        match name {
            b"." => return self.attributes(found),
            b".." => return Ok(self.room(asked.room)),
            _ => {}
        }
        // A name that was listed leads where it led then; whether the file still matches, who reads it sees.
        let listed = listing.and_then(|listing| self.answers.get(listing));
        let path = match listed.and_then(|listed| path_of(&listed.answer, name)) {
            Some(path) => path,
            None => path_of(&self.answer(asked).await?.answer, name).ok_or(FsError::NotFound)?,
        };
        let up = if asked.room.all { "../../../../" } else { "../../../" };
        let target = [up.as_bytes(), &path].concat().into();
        let Inner { nodes, links, .. } = &mut *self.inner.lock();
        let ino = *links.entry((found, name.into())).or_insert_with(|| self.number());
        let node = Node::Link { found, name: name.into(), target, uid: asked.rights.uid };
        let attributes = self.directory(ino, &node);
        nodes.insert(ino, node);
        Ok(attributes)
    }

    pub(super) fn target(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        match self.node(ino) {
            Some(Node::Link { target, .. }) => Ok(target.into_vec()),
            Some(Node::Room(_) | Node::Found { .. }) => Err(FsError::Invalid),
            None if self.answers.get(ino).is_some() => Err(FsError::Invalid),
            None => Err(FsError::Stale),
        }
    }

    // Listings.

    pub(super) async fn list(&self, ino: Ino, cookie: u64, most: usize, caller: Caller) -> Result<Vec<Entry>, FsError> {
        let from = cookie.saturating_sub(DOTS) as usize;
        match self.node(ino) {
            Some(Node::Room(room)) => {
                let names = self.queries(room, caller.uid).into_iter().skip(from).take(most);
                Ok(numbered(ino, from, cookie, names))
            }
            Some(Node::Found { asked, listing }) => {
                let shown = listing.filter(|_| cookie > 0).and_then(|listing| self.answers.get(listing));
                let shown = match shown {
                    Some(shown) => shown,
                    None => self.answer(&asked).await?,
                };
                if let Some(Node::Found { listing, .. }) = self.inner.lock().nodes.get_mut(&ino) {
                    *listing = Some(shown.number);
                }
                let names = shown.answer.files.iter().skip(from).take(most);
                Ok(numbered(ino, from, cookie, names.map(|path| (libc::S_IFLNK, link_name(path)))))
            }
            Some(Node::Link { .. }) => Err(FsError::NotDirectory),
            None => Err(FsError::Stale),
        }
    }

    fn queries(&self, room: Room, uid: u32) -> Vec<(u32, Box<[u8]>)> {
        let mut names: Vec<(u32, Box<[u8]>)> = Vec::new();
        if !room.all && !room.files {
            names.push((libc::S_IFDIR, ALL.into()));
        }
        if !room.files {
            names.push((libc::S_IFDIR, FILES.into()));
        }
        let kind = if room.files { libc::S_IFDIR } else { libc::S_IFREG };
        let inner = self.inner.lock();
        let recent = inner.recent.peek(&(uid, room)).into_iter().flatten();
        names.extend(recent.map(|name| (kind, name.clone())));
        names
    }

    /// The entry of the room itself, behind all others of a directory.
    pub(super) fn entry(&self, dir: Ino, cookie: u64) -> Option<Entry> {
        let name = self.name().filter(|_| self.settings.listed && cookie != ROOM_COOKIE)?;
        let ino = Ino(VIRTUAL | LISTED | dir.0);
        Some(Entry { ino, kind: libc::S_IFDIR, name: name.into(), cookie: ROOM_COOKIE, attributes: None })
    }
}

/// The name of a link to this file: its path, in one name. One that would be too long ends in a hash instead.
fn link_name(path: &[u8]) -> Box<[u8]> {
    let mut name = pattern::encoded(path);
    if name.len() > NAME_MAX {
        let hash = blake3::hash(path).to_hex();
        name.truncate(NAME_MAX - 17);
        name.push(b'~');
        name.extend_from_slice(&hash.as_bytes()[..16]);
    }
    name.into()
}

/// Where a link of this name leads.
fn path_of(answer: &Answer, name: &[u8]) -> Option<Box<[u8]>> {
    let path: Box<[u8]> = pattern::decoded(name, false).into();
    let by_path = answer.files.binary_search(&path).ok().map(|place| &answer.files[place]);
    let is_it = |path: &[u8]| *link_name(path) == *name;
    let found = by_path.filter(|path| is_it(path)).or_else(|| match name.len() {
        // It may be one that ends in a hash.
        NAME_MAX => answer.files.iter().find(|path| path.len() > NAME_MAX / 3 && is_it(path)),
        _ => None,
    });
    found.cloned()
}

/// Entries behind `cookie`; the dots come first. What has no inode yet is listed without one.
fn numbered(ino: Ino, from: usize, cookie: u64, names: impl Iterator<Item = (u32, Box<[u8]>)>) -> Vec<Entry> {
    let dots = |name: &[u8], cookie| Entry { ino, kind: libc::S_IFDIR, name: name.into(), cookie, attributes: None };
    let mut entries = Vec::new();
    if cookie < 1 {
        entries.push(dots(b".", 1));
    }
    if cookie < DOTS {
        entries.push(dots(b"..", DOTS));
    }
    entries.extend(names.zip(from as u64..).map(|((kind, name), place)| {
        let hash = blake3::hash(&name);
        let number = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 bytes")) >> 2;
        let ino = Ino(VIRTUAL | LISTED | number);
        Entry { ino, kind, name, cookie: place + DOTS + 1, attributes: None }
    }));
    entries
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::{me, tree};
    use super::*;
    use crate::fs::tests::now;

    impl Tree {
        async fn names(&self, dir: Ino, most: usize) -> Vec<String> {
            let (mut names, mut cookie) = (Vec::new(), 0);
            loop {
                let entries = self.readdir(dir, cookie, false, most, me()).await.expect("a listing");
                let Some(last) = entries.last() else { return names };
                cookie = last.cookie;
                names.extend(entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()));
            }
        }
    }

    #[tokio::test]
    async fn links_are_found_by_the_names_that_are_listed() {
        let tree = tree();
        let (mut dir, mut path) = (Ino::ROOT, String::new());
        for name in ["a", "b%2Fc", &"d".repeat(200), &"e".repeat(200)] {
            tree.fs.put(tree.fs.mk(dir, "needle"), "needle");
            dir = now(tree.fs.mkdir(dir, name.as_bytes(), 0o755, me())).unwrap().ino;
            path = format!("{path}{name}/");
        }
        tree.fs.put(tree.fs.mk(dir, "f"), "needle");
        let room = tree.find(tree.find(Ino::ROOT, ".search").await, "files").await;
        let found = tree.find(room, "needle").await;
        for most in [1, 2, 100] {
            let names = tree.names(found, most).await;
            assert_eq!(names.len(), 2 + 5, "{names:?}");
            for name in &names[2..] {
                let target = tree.readlink(tree.find(found, name).await).await.unwrap();
                let target = String::from_utf8(target).unwrap();
                let leads = target.strip_prefix("../../../").expect("up to where it was asked");
                assert!(path.starts_with(leads.strip_suffix("needle").unwrap_or(&path)), "{target}");
            }
        }
        for name in ["none", "b%2Fc%2Fneedle", "a%2fneedle"] {
            assert_eq!(tree.lookup(found, name.as_bytes(), me()).await, Err(FsError::NotFound), "{name}");
        }
    }
}
