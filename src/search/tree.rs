//! The drive with its rooms, as the fuse room sees it: inode numbers, names, answers to them.
//!
//! Numbers of the rooms' inodes have the top bit, count up, and are never used again. A directory of a room, and a link in
//! one, has its number as long as the kernel knows it; an answer has one as long as it is kept ([`super::answers`]).
//!
//! Owns which answer is given to whom. Locks: one, held for look-ups in tables.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use super::access::Rights;
use super::answers::{Answers, Asked, Given, Gone, Moment, Room};
use super::hits::Answer;
use super::pattern::{self, Output, PatternError, Query};
use super::results::Results;
use super::run::Search;
use super::{Keep, Settings};
use crate::base::disk::Disk;
use crate::base::{Ino, Timestamp};
use crate::fs::{Attributes, Caller, Fs, FsError};

/// The bit that tells the rooms' inodes.
pub(super) const VIRTUAL: u64 = 1 << 63;
/// Numbers in listings of what has no inode yet; the kernel forgets them at once.
pub(super) const LISTED: u64 = 1 << 62;
/// Searches that run at the same time, of those that fetch, and as many of the others.
const AT_ONCE: usize = 2;
/// How long one waits for its turn and runs, at most: less than the kernel's request may take.
const PATIENCE: Duration = Duration::from_secs(55);
/// Queries that are listed, of each caller in each room; and callers and rooms that are remembered.
const RECENT: usize = 32;
const LISTED_MAX: usize = 1024;
const RECENT_ROOMS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// How often it is looked whose time is over.
const SWEEP: Duration = Duration::from_secs(1);
/// Names in a room that are directories.
pub(super) const ALL: &[u8] = b"all";
pub(super) const FILES: &[u8] = b"files";

/// Is this the inode of something in a room?
pub fn is_virtual(ino: Ino) -> bool {
    ino.0 & VIRTUAL != 0
}

/// Told of answers that went, of which the kernel may have pages.
type Undertaker = Box<dyn Fn(BTreeSet<Ino>) + Send + Sync>;

/// A drive, with a room in each directory.
pub struct Tree {
    pub(crate) fs: Arc<Fs>,
    pub(super) settings: Settings,
    results: Arc<Results>,
    pub(super) answers: Answers,
    /// Of searches that fetch, and of the others: they do not wait for one another.
    turns: [Arc<Semaphore>; 2],
    last_number: AtomicU64,
    /// What was let go of on request so far.
    drops: AtomicU64,
    pub(super) inner: Mutex<Inner>,
    undertaker: OnceLock<Undertaker>,
    made: Timestamp,
    /// Set when the drive has no kernel any more: searches then end.
    over: Arc<AtomicBool>,
}

/// What the kernel knows of a room, beside answers.
#[derive(Clone)]
pub(super) enum Node {
    Room(Room),
    /// A directory of links, and the answer that its listing shows.
    Found {
        asked: Arc<Asked>,
        listing: Option<Ino>,
    },
    Link {
        found: Ino,
        name: Box<[u8]>,
        target: Box<[u8]>,
        uid: u32,
    },
}

pub(super) struct Inner {
    pub nodes: HashMap<Ino, Node>,
    /// The same by what they are.
    rooms: HashMap<Room, Ino>,
    found: HashMap<Arc<Asked>, Ino>,
    pub links: HashMap<(Ino, Box<[u8]>), Ino>,
    /// Last used first.
    pub recent: LruCache<(u32, Room), VecDeque<Box<[u8]>>>,
}

/// A drive without rooms.
impl From<Arc<Fs>> for Tree {
    fn from(fs: Arc<Fs>) -> Tree {
        Tree::new(fs, Settings { name: None, ..Settings::default() }, None)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Tree {
    /// `disk` is the state directory: where sealed results go, if they are to be kept there.
    pub fn new(fs: Arc<Fs>, settings: Settings, disk: Option<Arc<dyn Disk>>) -> Tree {
        let ttl = Duration::from_secs(settings.ttl_seconds.max(1));
        let sealed = settings.keep == Keep::Disk && settings.name.is_some();
        let kept = if settings.keep == Keep::Nowhere { 0 } else { settings.kept_bytes as usize };
        let inner = Inner {
            nodes: HashMap::new(),
            rooms: HashMap::new(),
            found: HashMap::new(),
            links: HashMap::new(),
            recent: LruCache::new(RECENT_ROOMS),
        };
        Tree {
            fs,
            results: Arc::new(Results::new(kept, ttl, disk, sealed)),
            answers: Answers::new(ttl),
            settings,
            turns: [(); 2].map(|()| Arc::new(Semaphore::new(AT_ONCE))),
            last_number: AtomicU64::new(0),
            drops: AtomicU64::new(0),
            inner: Mutex::new(inner),
            undertaker: OnceLock::new(),
            made: Timestamp::from_system(std::time::SystemTime::now()),
            over: Arc::default(),
        }
    }

    /// Lets answers go whose time is over, as long as the tree lives. `tell` hears of those that had pages; it must not wait.
    pub fn sweep_on(self: &Arc<Self>, tell: Undertaker) {
        let _ = self.undertaker.set(tell);
        if self.settings.name.is_none() {
            return;
        }
        let tree: Weak<Tree> = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                match tree.upgrade() {
                    Some(tree) => {
                        tree.let_go_too();
                        tree.results.sweep();
                        tree.bury(tree.answers.sweep());
                    }
                    None => return,
                }
            }
        });
    }

    /// Where files were let go of on request, what was found in them goes too; and with it all else, for simplicity.
    fn let_go_too(&self) {
        let drops = self.fs.cache.drops();
        if self.drops.swap(drops, Ordering::Relaxed) != drops {
            self.results.clear();
            self.bury(self.answers.clear());
        }
    }

    fn bury(&self, gone: Gone) {
        let pages: BTreeSet<Ino> = gone.numbers().collect();
        if let (false, Some(tell)) = (pages.is_empty(), self.undertaker.get()) {
            tell(pages);
        }
    }

    /// The room's name, if there are rooms.
    pub(super) fn name(&self) -> Option<&[u8]> {
        self.settings.name.as_deref().map(str::as_bytes)
    }

    pub(super) fn number(&self) -> Ino {
        Ino(VIRTUAL | (self.last_number.fetch_add(1, Ordering::Relaxed) + 1))
    }

    fn moment(&self) -> Moment {
        let Fs { history, cache, .. } = &*self.fs;
        Moment { stored: history.moment(), written: cache.writes(), come: cache.arrivals() }
    }

    // Names.

    /// `None` if it is the drive's to say.
    pub(super) async fn look_up(
        &self,
        parent: Ino,
        name: &[u8],
        caller: Caller,
    ) -> Option<Result<Attributes, FsError>> {
        if !is_virtual(parent) {
            return match self.name() == Some(name) {
                true => Some(self.enter(parent, name).await),
                false => None,
            };
        }
        Some(self.look_up_in_room(parent, name, caller).await)
    }

    /// The room of a directory; or what the directory itself has under that name.
    async fn enter(&self, dir: Ino, name: &[u8]) -> Result<Attributes, FsError> {
        match self.fs.lookup(dir, name).await {
            Err(FsError::NotFound) => {}
            own => return own,
        }
        if self.fs.getattr(dir).await?.nlink == 0 {
            return Err(FsError::NotFound);
        }
        Ok(self.room(Room { dir, all: false, files: false }))
    }

    pub(super) fn room(&self, room: Room) -> Attributes {
        let Inner { nodes, rooms, .. } = &mut *self.inner.lock();
        let ino = *rooms.entry(room).or_insert_with(|| self.number());
        nodes.insert(ino, Node::Room(room));
        self.directory(ino, &Node::Room(room))
    }

    async fn look_up_in_room(&self, parent: Ino, name: &[u8], caller: Caller) -> Result<Attributes, FsError> {
        match self.node(parent) {
            Some(Node::Room(room)) => match name {
                b"." => self.attributes(parent),
                b".." if room.all && room.files => Ok(self.room(Room { files: false, ..room })),
                b".." if room.all || room.files => Ok(self.room(Room { all: false, files: false, ..room })),
                b".." => self.fs.getattr(room.dir).await,
                ALL if !room.all && !room.files => Ok(self.room(Room { all: true, ..room })),
                FILES if !room.files => Ok(self.room(Room { files: true, ..room })),
                name => self.ask(room, name, caller).await,
            },
            Some(Node::Found { asked, listing }) => self.look_up_link(parent, &asked, listing, name).await,
            Some(Node::Link { .. }) => Err(FsError::NotDirectory),
            None if self.answers.get(parent).is_some() => Err(FsError::NotDirectory),
            None => Err(FsError::Stale),
        }
    }

    /// A pattern was looked up.
    async fn ask(&self, room: Room, name: &[u8], caller: Caller) -> Result<Attributes, FsError> {
        if pattern::is_probe(name) {
            return Err(FsError::NotFound);
        }
        let mut query = Query::of_name(name).map_err(|error: PatternError| {
            log::debug!("no pattern: {error}");
            FsError::Invalid
        })?;
        if room.files {
            query.output = Output::Names;
        }
        let asked = Arc::new(Asked { room, rights: Arc::new(Rights::of(caller)), query });
        if room.files {
            let query = asked.query.clone();
            // A thread of the kernel's must not wait for it.
            let compiled = tokio::task::spawn_blocking(move || query.compile().is_ok()).await;
            if !compiled.unwrap_or(false) {
                return Err(FsError::Invalid);
            }
            self.remember(&asked, name);
            return Ok(self.found(asked));
        }
        let given = self.answer(&asked).await?;
        self.remember(&asked, name);
        Ok(self.file(&given))
    }

    fn remember(&self, asked: &Asked, name: &[u8]) {
        // What does not fit the smallest buffer for a listing would end it for whoever reads it.
        if name.len() > LISTED_MAX {
            return;
        }
        let mut inner = self.inner.lock();
        let recent = inner.recent.get_or_insert_mut((asked.rights.uid, asked.room), VecDeque::new);
        recent.retain(|other| **other != *name);
        recent.push_front(name.into());
        recent.truncate(RECENT);
    }

    fn found(&self, asked: Arc<Asked>) -> Attributes {
        let Inner { nodes, found, .. } = &mut *self.inner.lock();
        let ino = *found.entry(asked.clone()).or_insert_with(|| self.number());
        let node = nodes.entry(ino).or_insert(Node::Found { asked, listing: None });
        self.directory(ino, node)
    }

    // Answers.

    /// The answer as it is now: the one that stands, if nothing has changed since, or a new one.
    pub(super) async fn answer(&self, asked: &Arc<Asked>) -> Result<Given, FsError> {
        self.let_go_too();
        let moment = self.moment();
        if let Some(given) = self.answers.standing(asked, moment) {
            return Ok(given);
        }
        let answer = self.search(asked).await?;
        let (given, gone) = self.answers.put(asked, answer, moment, || self.number());
        self.bury(gone);
        Ok(given)
    }

    /// Runs a search on a thread of its own. It ends by its time, also if nobody waits for it any more.
    async fn search(&self, asked: &Asked) -> Result<Answer, FsError> {
        let time = Duration::from_secs(self.settings.seconds);
        let turns = self.turns[usize::from(asked.room.all)].clone();
        let turn = tokio::time::timeout(PATIENCE.saturating_sub(time), turns.acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            log::warn!("a search was refused: others run, and did not end in time");
            return Err(FsError::Io("many searches run already: try again later".to_owned()));
        };
        let runtime = Handle::current();
        let search = Search {
            fs: self.fs.clone(),
            results: self.results.clone(),
            dir: asked.room.dir,
            query: asked.query.clone(),
            rights: (*asked.rights).clone(),
            fetch: asked.room.all.then(|| runtime.clone()),
            threads: self.settings.threads,
            time,
            over: self.over.clone(),
            runtime,
        };
        let (tell, told) = oneshot::channel();
        let work = move || {
            let _turn = turn;
            // Whoever asked may have gone.
            let _ = tell.send(search.run());
        };
        let started = std::thread::Builder::new().name("dripfs-search".to_owned()).spawn(work);
        started.map_err(|error| FsError::Io(format!("no thread to search with: {error}")))?;
        told.await
            .unwrap_or_else(|_| Err(FsError::Io("the search panicked; this is a bug, please report it".to_owned())))
    }

    pub(super) fn open_answer(&self, ino: Ino) -> Result<(), FsError> {
        match self.node(ino) {
            Some(Node::Room(_) | Node::Found { .. }) => Err(FsError::IsDirectory),
            Some(Node::Link { .. }) => Err(FsError::Invalid),
            None => self.answers.open(ino),
        }
    }

    pub(super) fn close_answer(&self, ino: Ino) {
        self.bury(self.answers.close(ino));
    }

    pub(super) fn read_answer(&self, ino: Ino, offset: u64, len: usize) -> Result<Bytes, FsError> {
        let answer = self.answers.get(ino).ok_or(FsError::Stale)?.answer;
        let size = answer.bytes().len();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(size);
        let part = Part { end: start.saturating_add(len).min(size), start, answer };
        Ok(Bytes::from_owner(part))
    }

    pub(super) fn size_of_answer(&self, ino: Ino) -> Result<u64, FsError> {
        Ok(self.answers.get(ino).ok_or(FsError::Stale)?.answer.bytes().len() as u64)
    }

    /// What is told of an answer.
    pub(super) async fn summary(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let given = match self.node(ino) {
            Some(Node::Room(_) | Node::Link { .. }) => return Err(FsError::NoAttribute),
            Some(Node::Found { asked, .. }) => self.answer(&asked).await?,
            None => self.answers.get(ino).ok_or(FsError::Stale)?,
        };
        Ok(given.answer.summary().into_bytes())
    }

    // Inodes.

    /// `None`: it may be an answer.
    pub(super) fn node(&self, ino: Ino) -> Option<Node> {
        self.inner.lock().nodes.get(&ino).cloned()
    }

    pub(super) fn attributes(&self, ino: Ino) -> Result<Attributes, FsError> {
        match self.node(ino) {
            Some(node) => Ok(self.directory(ino, &node)),
            None => Ok(self.file(&self.answers.get(ino).ok_or(FsError::Stale)?)),
        }
    }

    fn file(&self, given: &Given) -> Attributes {
        let size = given.answer.bytes().len() as u64;
        inode(given.number, libc::S_IFREG | 0o400, given.uid, size, given.made)
    }

    /// A directory, or a link.
    pub(super) fn directory(&self, ino: Ino, node: &Node) -> Attributes {
        let root = rustix::process::geteuid().as_raw();
        match node {
            Node::Room(_) => inode(ino, libc::S_IFDIR | 0o555, root, 0, self.made),
            Node::Found { asked, .. } => inode(ino, libc::S_IFDIR | 0o500, asked.rights.uid, 0, self.made),
            Node::Link { target, uid, .. } => inode(ino, libc::S_IFLNK | 0o777, *uid, target.len() as u64, self.made),
        }
    }

    /// The kernel knows this number no more. (An answer has its own time.)
    pub(super) fn forgotten(&self, ino: Ino) {
        let mut inner = self.inner.lock();
        match inner.nodes.remove(&ino) {
            Some(Node::Room(room)) => _ = inner.rooms.remove(&room),
            Some(Node::Found { asked, .. }) => _ = inner.found.remove(&asked),
            Some(Node::Link { found, name, .. }) => _ = inner.links.remove(&(found, name)),
            None => {}
        }
    }
}

fn inode(ino: Ino, mode: u32, uid: u32, size: u64, time: Timestamp) -> Attributes {
    Attributes {
        ino,
        mode,
        nlink: if mode & libc::S_IFMT == libc::S_IFDIR { 2 } else { 1 },
        uid,
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
    }
}

/// A part of an answer, on its way to the kernel.
struct Part {
    answer: Arc<Answer>,
    start: usize,
    end: usize,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.answer.bytes()[self.start..self.end]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::fs::tests::{empty, now};

    pub fn me() -> Caller {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Caller { uid, gid, pid: std::process::id() }
    }

    pub fn tree() -> Tree {
        Tree::new(Arc::new(empty()), Settings::default(), None)
    }

    impl Tree {
        pub async fn find(&self, parent: Ino, name: &str) -> Ino {
            self.lookup(parent, name.as_bytes(), me()).await.expect(name).ino
        }
    }

    #[tokio::test]
    async fn who_looked_an_answer_up_opens_it_though_another_took_its_place_meanwhile() {
        let tree = tree();
        let file = tree.fs.mk(Ino::ROOT, "f");
        let room = tree.find(Ino::ROOT, ".search").await;
        let mut answers = Vec::new();
        for n in 0..3 {
            tree.fs.put(file, &format!("needle {n}\n"));
            answers.push(tree.find(room, "needle").await);
        }
        for (n, ino) in answers.iter().enumerate() {
            tree.open(*ino, false, false, me()).await.expect("open");
            assert_eq!(tree.read(*ino, 0, 100).await.unwrap(), format!("f:1:needle {n}\n"));
        }
        assert_eq!(tree.find(room, "needle").await, answers[2], "nothing has changed");
        now(tree.release(answers[0], false)).expect("release");
        assert_eq!(tree.open(answers[0], false, false, me()).await, Err(FsError::Stale), "its moment is over");
    }

    #[tokio::test]
    async fn what_the_kernel_forgets_leaves_the_tables() {
        let tree = tree();
        tree.fs.put(tree.fs.mk(Ino::ROOT, "f"), "needle\n");
        let room = tree.find(Ino::ROOT, ".search").await;
        let files = tree.find(room, "files").await;
        let found = tree.find(files, "needle").await;
        let link = tree.find(found, "f").await;
        for ino in [link, found, files, room] {
            assert!(tree.getattr(ino).await.is_ok());
            tree.forget(ino);
            assert_eq!(tree.getattr(ino).await, Err(FsError::Stale));
        }
        let inner = tree.inner.lock();
        let tables = (inner.nodes.len(), inner.rooms.len(), inner.found.len(), inner.links.len());
        assert_eq!(tables, (0, 0, 0, 0));
    }
}
