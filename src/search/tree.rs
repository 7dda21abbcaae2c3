//! The drive with its rooms, as the fuse room sees it: inode numbers, names, answers that stand.
//!
//! Numbers of the rooms' inodes have the top bit, count up, and are never used again. A room's directories have one as long
//! as the kernel knows them. An answer has one for each caller and query, until it says something else: then the new one has
//! another.
//!
//! Owns which answer is given to whom, and when it goes. Locks: one, held for look-ups in tables; it is the last of all.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use super::access::Rights;
use super::hits::Answer;
use super::pattern::{self, Output, PatternError, Query};
use super::results::Results;
use super::run::{ANSWER_MAX, Search};
use super::{Keep, Settings};
use crate::base::disk::Disk;
use crate::base::sizes::NAME_MAX;
use crate::base::{Ino, Position, Timestamp};
use crate::fs::{Attributes, Caller, Entry, Fs, FsError};

/// The bit that tells the rooms' inodes.
const VIRTUAL: u64 = 1 << 63;
/// Numbers in listings of what has no inode yet; the kernel forgets them at once.
const LISTED: u64 = 1 << 62;
/// Searches that run at the same time, of those that fetch, and as many of the others.
const AT_ONCE: usize = 2;
/// How long one waits for its turn and runs, at most: less than the kernel's request may take.
const PATIENCE: Duration = Duration::from_secs(55);
/// Memory of answers that stand: two of the largest.
const STANDING_MAX: usize = 2 * ANSWER_MAX;
/// Memory of answers that are open.
const OPEN_MAX: usize = 8 * ANSWER_MAX;
/// Queries that are listed, of each caller in each room; and callers and rooms that are remembered.
const RECENT: usize = 32;
const RECENT_ROOMS: usize = 256;
/// How often it is looked whose time is over.
const SWEEP: Duration = Duration::from_secs(1);
/// What a listing of a room begins with has the first cookies; the room's own cookie in other listings is the last one.
const DOTS: u64 = 2;
const ROOM_COOKIE: u64 = i64::MAX as u64;

/// Names in a room that are directories.
const ALL: &[u8] = b"all";
const FILES: &[u8] = b"files";

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
    /// Of searches that fetch, and of the others: they do not wait for one another.
    turns: [Arc<Semaphore>; 2],
    inner: Mutex<Inner>,
    undertaker: OnceLock<Undertaker>,
    made: Timestamp,
}

/// One of the directories that take patterns.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Room {
    dir: Ino,
    all: bool,
    files: bool,
}

/// What is asked, by whom, where.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Asked {
    room: Room,
    rights: Arc<Rights>,
    query: Query,
}

#[derive(Clone)]
enum Node {
    Room(Room),
    /// A file: an answer. Its size and when it was made, and itself while it is open.
    Answer {
        asked: Arc<Asked>,
        size: u64,
        made: Timestamp,
        opens: u64,
        answer: Option<Arc<Answer>>,
    },
    /// A directory of links.
    Found {
        asked: Arc<Asked>,
        listing: Option<Arc<Answer>>,
    },
    Link {
        target: Box<[u8]>,
        uid: u32,
    },
}

/// An answer that stands.
struct Standing {
    answer: Arc<Answer>,
    made: Timestamp,
    /// When it was begun, in the drive's own terms.
    moment: Moment,
    number: Option<Ino>,
    used: Instant,
}

/// A moment of the drive: nothing has changed between two that are equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Moment(Position, u64);

struct Inner {
    next: u64,
    nodes: HashMap<Ino, Node>,
    rooms: HashMap<Room, Ino>,
    found: HashMap<Arc<Asked>, Ino>,
    links: HashMap<(Ino, Box<[u8]>), Ino>,
    /// Last used first.
    standing: LruCache<Arc<Asked>, Standing>,
    standing_bytes: usize,
    open_bytes: usize,
    recent: LruCache<(u32, Room), VecDeque<Box<[u8]>>>,
}

impl Inner {
    fn number(&mut self, node: Node) -> Ino {
        self.next += 1;
        let ino = Ino(VIRTUAL | self.next);
        self.nodes.insert(ino, node);
        ino
    }

    fn remove(&mut self, asked: &Arc<Asked>) -> Option<Standing> {
        let gone = self.standing.pop(asked)?;
        self.standing_bytes -= gone.answer.cost();
        Some(gone)
    }
}

/// A drive without rooms.
impl From<Arc<Fs>> for Tree {
    fn from(fs: Arc<Fs>) -> Tree {
        Tree::new(fs, Settings { name: None, ..Settings::default() }, None)
    }
}

impl Tree {
    /// `disk` is the state directory: where sealed results go, if they are to be kept there.
    pub fn new(fs: Arc<Fs>, settings: Settings, disk: Option<Arc<dyn Disk>>) -> Tree {
        let ttl = Duration::from_secs(settings.ttl_seconds.max(1));
        let disk = disk.filter(|_| settings.keep == Keep::Disk && settings.name.is_some());
        let kept = if settings.keep == Keep::Nowhere { 0 } else { settings.kept_bytes as usize };
        let inner = Inner {
            next: 0,
            nodes: HashMap::new(),
            rooms: HashMap::new(),
            found: HashMap::new(),
            links: HashMap::new(),
            standing: LruCache::unbounded(),
            standing_bytes: 0,
            open_bytes: 0,
            recent: LruCache::new(std::num::NonZeroUsize::new(RECENT_ROOMS).expect("not zero")),
        };
        Tree {
            fs,
            results: Arc::new(Results::new(kept, ttl, disk)),
            settings,
            turns: [(); 2].map(|()| Arc::new(Semaphore::new(AT_ONCE))),
            inner: Mutex::new(inner),
            undertaker: OnceLock::new(),
            made: Timestamp::from_system(std::time::SystemTime::now()),
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
                    Some(tree) => tree.sweep(),
                    None => return,
                }
            }
        });
    }

    fn sweep(&self) {
        self.results.sweep();
        let (now, ttl) = (Instant::now(), Duration::from_secs(self.settings.ttl_seconds.max(1)));
        let mut gone = Vec::new();
        {
            let mut inner = self.inner.lock();
            while let Some((asked, standing)) = inner.standing.peek_lru()
                && now.duration_since(standing.used) >= ttl
            {
                let asked = asked.clone();
                gone.extend(inner.remove(&asked));
            }
        }
        self.bury(gone);
    }

    /// Under no lock: what they hold is wiped here.
    fn bury(&self, gone: Vec<Standing>) {
        let pages: BTreeSet<Ino> = gone.iter().filter_map(|standing| standing.number).collect();
        if let (false, Some(tell)) = (pages.is_empty(), self.undertaker.get()) {
            tell(pages);
        }
    }

    /// The room's name, if there are rooms.
    pub(super) fn name(&self) -> Option<&[u8]> {
        self.settings.name.as_deref().map(str::as_bytes)
    }

    fn moment(&self) -> Moment {
        Moment(self.fs.history.moment(), self.fs.cache.writes())
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

    fn room(&self, room: Room) -> Attributes {
        let mut inner = self.inner.lock();
        let ino = match inner.rooms.get(&room) {
            Some(ino) => *ino,
            None => {
                let ino = inner.number(Node::Room(room));
                inner.rooms.insert(room, ino);
                ino
            }
        };
        self.attributes(ino, &Node::Room(room))
    }

    async fn look_up_in_room(&self, parent: Ino, name: &[u8], caller: Caller) -> Result<Attributes, FsError> {
        let node = self.node(parent)?;
        match node {
            Node::Room(room) => match name {
                b"." => Ok(self.attributes(parent, &node)),
                b".." => self.fs.getattr(room.dir).await,
                ALL if !room.all && !room.files => Ok(self.room(Room { all: true, ..room })),
                FILES if !room.files => Ok(self.room(Room { files: true, ..room })),
                name => self.ask(room, name, caller).await,
            },
            Node::Found { asked, .. } => self.link_to(parent, &asked, name).await,
            Node::Answer { .. } | Node::Link { .. } => Err(FsError::NotDirectory),
        }
    }

    /// A pattern was looked up.
    async fn ask(&self, room: Room, name: &[u8], caller: Caller) -> Result<Attributes, FsError> {
        if pattern::is_probe(name) {
            return Err(FsError::NotFound);
        }
        let asked = self.asked(room, name, caller)?;
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
        let answer = self.answer(&asked).await?;
        self.remember(&asked, name);
        self.stand(asked, answer)
    }

    fn asked(&self, room: Room, name: &[u8], caller: Caller) -> Result<Arc<Asked>, FsError> {
        let mut query = Query::of_name(name).map_err(|error: PatternError| {
            log::debug!("no pattern: {error}");
            FsError::Invalid
        })?;
        if room.files {
            query.output = Output::Names;
        }
        Ok(Arc::new(Asked { room, rights: Arc::new(Rights::of(caller)), query }))
    }

    fn remember(&self, asked: &Asked, name: &[u8]) {
        let mut inner = self.inner.lock();
        let recent = inner.recent.get_or_insert_mut((asked.rights.uid, asked.room), VecDeque::new);
        recent.retain(|other| **other != *name);
        recent.push_front(name.into());
        recent.truncate(RECENT);
    }

    fn found(&self, asked: Arc<Asked>) -> Attributes {
        let mut inner = self.inner.lock();
        let ino = match inner.found.get(&asked) {
            Some(ino) => *ino,
            None => {
                let ino = inner.number(Node::Found { asked: asked.clone(), listing: None });
                inner.found.insert(asked.clone(), ino);
                ino
            }
        };
        self.attributes(ino, &Node::Found { asked, listing: None })
    }

    // Answers.

    /// The answer as it is now: the one that stands, if nothing has changed since, or a new one.
    async fn answer(&self, asked: &Arc<Asked>) -> Result<Arc<Answer>, FsError> {
        let moment = self.moment();
        if let Some(standing) = self.inner.lock().standing.get_mut(asked)
            && standing.moment == moment
            // What is missing may have come meanwhile.
            && standing.answer.whole
        {
            standing.used = Instant::now();
            return Ok(standing.answer.clone());
        }
        let answer = Arc::new(self.search(asked).await?);
        let mut gone = Vec::new();
        let answer = {
            let mut inner = self.inner.lock();
            let (made, used) = (Timestamp::from_system(std::time::SystemTime::now()), Instant::now());
            let before = inner.remove(asked);
            let standing = match before {
                Some(before) if before.answer.says_the_same(&answer) => Standing { moment, used, ..before },
                before => {
                    gone.extend(before);
                    Standing { answer, made, moment, number: None, used }
                }
            };
            let answer = standing.answer.clone();
            inner.standing_bytes += answer.cost();
            inner.standing.put(asked.clone(), standing);
            while inner.standing_bytes > STANDING_MAX && inner.standing.len() > 1 {
                let Some((oldest, _)) = inner.standing.peek_lru() else { break };
                let oldest = oldest.clone();
                gone.extend(inner.remove(&oldest));
            }
            answer
        };
        self.bury(gone);
        Ok(answer)
    }

    /// Runs a search on a thread of its own. It ends by its time, also if nobody waits for it any more.
    async fn search(&self, asked: &Asked) -> Result<Answer, FsError> {
        let time = Duration::from_secs(self.settings.seconds);
        let turns = self.turns[usize::from(asked.room.all)].clone();
        let turn = tokio::time::timeout(PATIENCE.saturating_sub(time), turns.acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
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

    /// The answer gets a number, unless the one that it has still says the same.
    fn stand(&self, asked: Arc<Asked>, answer: Arc<Answer>) -> Result<Attributes, FsError> {
        let mut inner = self.inner.lock();
        let size = answer.bytes().len() as u64;
        let standing = inner.standing.get(&asked).filter(|standing| Arc::ptr_eq(&standing.answer, &answer));
        let (stands, number) = (standing.is_some(), standing.and_then(|standing| standing.number));
        let made = standing.map_or(self.made, |standing| standing.made);
        let known = number.and_then(|ino| Some((ino, inner.nodes.get(&ino)?.clone())));
        let (ino, node) = match known {
            Some(known) => known,
            None => {
                let node = Node::Answer { asked: asked.clone(), size, made, opens: 0, answer: None };
                let ino = inner.number(node.clone());
                // If another look-up has made another answer meanwhile, this one is stale for who opens it.
                if let Some(standing) = inner.standing.get_mut(&asked).filter(|_| stands) {
                    standing.number = Some(ino);
                }
                (ino, node)
            }
        };
        Ok(self.attributes(ino, &node))
    }

    /// Opens an answer. ESTALE has the kernel look the name up again: the one that stands is another one by now.
    pub(super) async fn open_answer(&self, ino: Ino) -> Result<(), FsError> {
        let Node::Answer { asked, .. } = self.node(ino)? else { return Err(FsError::IsDirectory) };
        if self.hold_answer(ino, &asked)? {
            return Ok(());
        }
        // It went meanwhile, under a descriptor that only names it.
        self.answer(&asked).await?;
        Err(FsError::Stale)
    }

    fn hold_answer(&self, ino: Ino, asked: &Arc<Asked>) -> Result<bool, FsError> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let standing = inner.standing.get_mut(asked).filter(|standing| standing.number == Some(ino));
        let Some(Node::Answer { opens, answer, .. }) = inner.nodes.get_mut(&ino) else { return Err(FsError::Stale) };
        if answer.is_none() {
            let Some(standing) = standing else { return Ok(false) };
            standing.used = Instant::now();
            if inner.open_bytes + standing.answer.cost() > OPEN_MAX {
                return Err(FsError::Io("too many large answers are open".to_owned()));
            }
            inner.open_bytes += standing.answer.cost();
            *answer = Some(standing.answer.clone());
        }
        *opens += 1;
        Ok(true)
    }

    pub(super) fn close_answer(&self, ino: Ino) {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let Some(Node::Answer { opens, answer, .. }) = inner.nodes.get_mut(&ino) else { return };
        *opens = opens.saturating_sub(1);
        if *opens == 0 {
            let gone = answer.take();
            inner.open_bytes -= gone.as_ref().map_or(0, |answer| answer.cost());
            drop(guard);
            drop(gone);
        }
    }

    pub(super) fn read_answer(&self, ino: Ino, offset: u64, len: usize) -> Result<Bytes, FsError> {
        let answer = self.opened(ino)?;
        let size = answer.bytes().len();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(size);
        let part = Part { end: start.saturating_add(len).min(size), start, answer };
        Ok(Bytes::from_owner(part))
    }

    pub(super) fn size_of_answer(&self, ino: Ino) -> Result<u64, FsError> {
        Ok(self.opened(ino)?.bytes().len() as u64)
    }

    fn opened(&self, ino: Ino) -> Result<Arc<Answer>, FsError> {
        match self.node(ino)? {
            Node::Answer { answer: Some(answer), .. } => Ok(answer),
            Node::Answer { answer: None, .. } => Err(FsError::Stale),
            Node::Room(_) | Node::Found { .. } => Err(FsError::IsDirectory),
            Node::Link { .. } => Err(FsError::Invalid),
        }
    }

    /// What is told of an answer.
    pub(super) async fn summary(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        match self.node(ino)? {
            Node::Answer { answer: Some(answer), .. } => Ok(answer.summary().into_bytes()),
            Node::Answer { asked, answer: None, .. } | Node::Found { asked, .. } => {
                Ok(self.answer(&asked).await?.summary().into_bytes())
            }
            Node::Room(_) | Node::Link { .. } => Err(FsError::NoAttribute),
        }
    }

    // Links to the files that match.

    async fn link_to(&self, parent: Ino, asked: &Arc<Asked>, name: &[u8]) -> Result<Attributes, FsError> {
        match name {
            b"." => return self.attributes_of(parent),
            b".." => return Ok(self.room(asked.room)),
            _ => {}
        }
        // A name that was listed leads where it led then; whether the file still matches, who reads it sees.
        let listed = match self.node(parent)? {
            Node::Found { listing: Some(listing), .. } => listing,
            _ => self.answer(asked).await?,
        };
        let path = listed.files.iter().find(|path| *link_name(path) == *name);
        let path = match path {
            Some(path) => path.clone(),
            None => {
                let newest = self.answer(asked).await?;
                newest.files.iter().find(|path| *link_name(path) == *name).ok_or(FsError::NotFound)?.clone()
            }
        };
        let up = if asked.room.all { "../../../../" } else { "../../../" };
        let node = Node::Link { target: [up.as_bytes(), &path].concat().into(), uid: asked.rights.uid };
        let mut inner = self.inner.lock();
        let key = (parent, Box::from(name));
        let ino = match inner.links.get(&key) {
            Some(ino) => *ino,
            None => {
                let ino = inner.number(node.clone());
                inner.links.insert(key, ino);
                ino
            }
        };
        Ok(self.attributes(ino, &node))
    }

    pub(super) fn target(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        match self.node(ino)? {
            Node::Link { target, .. } => Ok(target.into_vec()),
            Node::Room(_) | Node::Found { .. } | Node::Answer { .. } => Err(FsError::Invalid),
        }
    }

    // Listings.

    pub(super) async fn list(&self, ino: Ino, cookie: u64, most: usize, caller: Caller) -> Result<Vec<Entry>, FsError> {
        let node = self.node(ino)?;
        let names: Vec<(u32, Box<[u8]>)> = match &node {
            Node::Room(room) => self.queries(*room, caller.uid),
            Node::Found { asked, listing } => {
                let listing = match (cookie, listing) {
                    (1.., Some(listing)) => listing.clone(),
                    _ => self.answer(asked).await?,
                };
                if let Some(Node::Found { listing: kept, .. }) = self.inner.lock().nodes.get_mut(&ino) {
                    *kept = Some(listing.clone());
                }
                let from = cookie.saturating_sub(DOTS) as usize;
                let part = listing.files.iter().skip(from).take(most);
                return Ok(numbered(ino, from, cookie, part.map(|path| (libc::S_IFLNK, link_name(path)))));
            }
            Node::Answer { .. } | Node::Link { .. } => return Err(FsError::NotDirectory),
        };
        let from = cookie.saturating_sub(DOTS) as usize;
        Ok(numbered(ino, from, cookie, names.into_iter().skip(from).take(most)))
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

    // Inodes.

    fn node(&self, ino: Ino) -> Result<Node, FsError> {
        self.inner.lock().nodes.get(&ino).cloned().ok_or(FsError::Stale)
    }

    pub(super) fn attributes_of(&self, ino: Ino) -> Result<Attributes, FsError> {
        Ok(self.attributes(ino, &self.node(ino)?))
    }

    fn attributes(&self, ino: Ino, node: &Node) -> Attributes {
        let root = rustix::process::geteuid().as_raw();
        let (mode, uid, size, time) = match node {
            Node::Room(_) => (libc::S_IFDIR | 0o555, root, 0, self.made),
            Node::Found { asked, .. } => (libc::S_IFDIR | 0o500, asked.rights.uid, 0, self.made),
            Node::Answer { asked, size, made, .. } => (libc::S_IFREG | 0o400, asked.rights.uid, *size, *made),
            Node::Link { target, uid } => (libc::S_IFLNK | 0o777, *uid, target.len() as u64, self.made),
        };
        let nlink = if mode & libc::S_IFMT == libc::S_IFDIR { 2 } else { 1 };
        Attributes {
            ino,
            mode,
            nlink,
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

    /// The kernel knows this number no more.
    pub(super) fn forgotten(&self, ino: Ino) {
        let mut inner = self.inner.lock();
        match inner.nodes.remove(&ino) {
            Some(Node::Room(room)) => _ = inner.rooms.remove(&room),
            Some(Node::Found { asked, .. }) => _ = inner.found.remove(&asked),
            Some(Node::Link { .. }) => inner.links.retain(|_, other| *other != ino),
            Some(Node::Answer { asked, answer, .. }) => {
                inner.open_bytes -= answer.map_or(0, |answer| answer.cost());
                if let Some(standing) = inner.standing.peek_mut(&asked)
                    && standing.number == Some(ino)
                {
                    standing.number = None;
                }
            }
            None => {}
        }
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
