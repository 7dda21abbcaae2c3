//! One search: a walk below a directory, and a few threads that scan what it finds.
//!
//! The walk and the threads are the search's own, and end with it: no thread that serves the kernel, and none of the
//! runtime, does any of it. Files wait between them in a short line, hits are gathered as they come and sorted in the end,
//! so memory is bounded by the answer's own bound. After its time a search answers what it has, and says so.
//!
//! Owns what an answer's last lines say. Nothing that is wrong with one file ends the search.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::access::{ENTER, READ, Rights};
use super::hits::{Answer, Hits};
use super::pattern::{Matcher, Output, Query};
use super::results::{Key, Results};
use super::scan::{End, LINE_MAX, Limit, Room, Scanner};
use crate::base::Ino;
use crate::base::sizes::MIB;
use crate::cache::CacheError;
use crate::fs::{Fs, FsError};

/// More bytes of matches are not in one answer.
pub const ANSWER_MAX: usize = 16 * MIB;
/// Entries asked of a directory at a time.
const LISTING: usize = 256;
/// Files that wait to be scanned.
const LINE: usize = 64;
/// Files that are named in a last line.
const NAMED: usize = 20;
/// How often a file is looked at that is rewritten meanwhile.
const LOOKS: usize = 16;

/// What is searched, for whom.
pub struct Search {
    pub fs: Arc<Fs>,
    pub results: Arc<Results>,
    pub dir: Ino,
    pub query: Query,
    pub rights: Rights,
    /// Where to wait for the store; `None` if it is asked for nothing.
    pub fetch: Option<Handle>,
    pub threads: usize,
    pub time: Duration,
    pub runtime: Handle,
}

struct File {
    ino: Ino,
    path: Box<[u8]>,
}

/// Why something is not in the answer.
#[derive(Default)]
struct Missing {
    partly: Named,
    /// Nothing of them is here.
    away: u64,
    unreadable: Named,
    long: Named,
    /// Time was over in them, or before they were begun.
    late: u64,
    /// The walk was not over.
    walking: bool,
    full: bool,
}

/// Files, of which the first few in order are named.
#[derive(Default)]
struct Named {
    count: u64,
    first: Vec<Box<[u8]>>,
}

impl Named {
    fn add(&mut self, path: &[u8]) {
        self.count += 1;
        let at = self.first.partition_point(|other| **other < *path);
        if at < NAMED {
            self.first.insert(at, path.into());
            self.first.truncate(NAMED);
        }
    }

    fn says(&self) -> String {
        let names: Vec<_> = self.first.iter().map(|path| String::from_utf8_lossy(path)).collect();
        let more = match self.count - self.first.len() as u64 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{}{more}", names.join(", "))
    }
}

/// What all threads of a search share.
struct Gathering<'a> {
    search: &'a Search,
    matcher: Matcher,
    limit: Limit,
    query: [u8; 16],
    found: Mutex<Vec<(Box<[u8]>, Arc<Hits>)>>,
    /// What matches have taken of the answer.
    room: Room,
    missing: Mutex<Missing>,
}

impl Search {
    /// Runs it, on this thread and a few more. For how long, its time bounds.
    pub fn run(&self) -> Result<Answer, FsError> {
        let matcher = self.query.compile().map_err(|error| {
            log::debug!("no pattern: {error}");
            FsError::Invalid
        })?;
        let root = self.runtime.block_on(self.fs.getattr(self.dir))?;
        if !self.rights.may(&root, READ | ENTER) {
            return Err(FsError::AccessDenied);
        }
        let hash = blake3::hash(&self.query.of_one_file().name());
        let gathering = Gathering {
            search: self,
            matcher,
            limit: Limit::new(Instant::now() + self.time),
            query: hash.as_bytes()[..16].try_into().expect("a hash has 32 bytes"),
            found: Mutex::default(),
            room: Room::new(ANSWER_MAX),
            missing: Mutex::default(),
        };
        let (files, line) = sync_channel::<File>(LINE);
        let line = Mutex::new(line);
        let walked = std::thread::scope(|scope| {
            for number in 0..self.threads.max(1) {
                let (gathering, line) = (&gathering, &line);
                let scans = move || gathering.scan_all(line);
                let started =
                    std::thread::Builder::new().name(format!("dripfs-scan-{number}")).spawn_scoped(scope, scans);
                if let Err(error) = started {
                    log::warn!("a search has fewer threads than it should: {error}");
                    if number == 0 {
                        return Err(FsError::Io(format!("no thread to search with: {error}")));
                    }
                }
            }
            gathering.walk(files)
        });
        walked?;
        let Gathering { found, missing, .. } = gathering;
        let notes = self.notes(&missing.into_inner());
        Ok(Answer::new(found.into_inner(), notes, self.query.output, 2 * ANSWER_MAX))
    }

    fn notes(&self, missing: &Missing) -> Vec<String> {
        let mut notes = Vec::new();
        let files = |count: u64| if count == 1 { "1 file".to_owned() } else { format!("{count} files") };
        if missing.unreadable.count > 0 {
            notes.push(format!(
                "partial: {} could not be read: {}",
                files(missing.unreadable.count),
                missing.unreadable.says()
            ));
        }
        if missing.long.count > 0 {
            let (count, most) = (files(missing.long.count), LINE_MAX / MIB);
            notes.push(format!(
                "partial: {count} searched up to a line of more than {most} MiB: {}",
                missing.long.says()
            ));
        }
        if missing.partly.count > 0 {
            notes.push(format!(
                "partial: {} searched up to what is in the store alone (all/ fetches it): {}",
                files(missing.partly.count),
                missing.partly.says()
            ));
        }
        if missing.away > 0 {
            notes.push(format!(
                "partial: {} not searched, being in the store alone (all/ fetches them)",
                files(missing.away)
            ));
        }
        if missing.full {
            notes.push(format!("partial: cut off after {} MiB of matches", ANSWER_MAX / MIB));
        }
        if missing.late > 0 || missing.walking {
            let (time, at_least) = (self.time.as_secs(), if missing.walking { "at least " } else { "" });
            notes.push(format!(
                "partial: stopped after {time} s, with {at_least}{} to search (asked again, it goes on from there)",
                files(missing.late)
            ));
        }
        notes
    }
}

impl Gathering<'_> {
    /// Brings files into the line, in the order in which directories list them.
    fn walk(&self, files: SyncSender<File>) -> Result<(), FsError> {
        let Search { fs, runtime, dir, rights, .. } = self.search;
        // Directories on the way down: number, path with its slash, and how far each is listed.
        let mut way: Vec<(Ino, Vec<u8>, u64)> = vec![(*dir, Vec::new(), 0)];
        while let Some((ino, path, cookie)) = way.last_mut() {
            if self.limit.is_over() {
                self.missing.lock().walking = true;
                return Ok(());
            }
            let entries = match runtime.block_on(fs.readdir(*ino, *cookie, true, LISTING)) {
                Ok(entries) => entries,
                // It went meanwhile; or its records are damaged, which the log tells.
                Err(FsError::Stale | FsError::NotFound) => Vec::new(),
                Err(_) => {
                    self.missing.lock().unreadable.add(path);
                    Vec::new()
                }
            };
            let Some(last) = entries.last() else {
                way.pop();
                continue;
            };
            *cookie = last.cookie;
            let (path, mut below) = (path.clone(), Vec::new());
            for entry in entries.iter().filter(|entry| !entry.is_dots()) {
                let Some(attributes) = &entry.attributes else { continue };
                let mut whole = path.clone();
                whole.extend_from_slice(&entry.name);
                match entry.kind {
                    libc::S_IFDIR if rights.may(attributes, READ | ENTER) => {
                        whole.push(b'/');
                        below.push((entry.ino, whole, 0));
                    }
                    libc::S_IFREG if rights.may(attributes, READ) && self.matcher.takes(&whole) => {
                        // Nobody takes it any more only if all threads ended, by a panic.
                        if files.send(File { ino: entry.ino, path: whole.into() }).is_err() {
                            return Err(FsError::Io("the search ended before its time".to_owned()));
                        }
                    }
                    _ => {}
                }
            }
            way.extend(below);
        }
        Ok(())
    }

    fn scan_all(&self, line: &Mutex<Receiver<File>>) {
        let Search { fs, query, fetch, .. } = self.search;
        let first_only = query.output == Output::Names;
        let mut scanner = Scanner::new(&fs.cache, &self.matcher.lines, fetch.as_ref(), first_only, &self.room);
        loop {
            let next = line.lock().recv();
            let Ok(file) = next else { return };
            if self.limit.is_over() {
                self.missing.lock().late += 1;
                continue;
            }
            match self.scan(&mut scanner, &file) {
                Ok((hits, end, scanned)) => self.gather(&file, hits, end, scanned),
                // Deleted meanwhile.
                Err(CacheError::NotFound) => {}
                Err(error) => {
                    log::debug!("{}: not searched: {error}", file.ino);
                    self.missing.lock().unreadable.add(&file.path);
                }
            }
        }
    }

    /// What a file has, how far it was searched, and whether it was searched now.
    fn scan(&self, scanner: &mut Scanner<'_>, file: &File) -> Result<(Arc<Hits>, End, bool), CacheError> {
        let Search { fs, results, .. } = self.search;
        let key = |version| -> Key { (file.ino, version, self.query) };
        if let Some(hits) = results.get(&key(fs.cache.contents_version(file.ino)?)) {
            return Ok((hits, End::Whole, false));
        }
        for _ in 0..LOOKS {
            let mut glance = fs.cache.glance(file.ino)?;
            match scanner.scan(&mut glance, &self.limit) {
                Ok((hits, end)) => {
                    let hits = Arc::new(hits);
                    if end == End::Whole {
                        results.put(key(glance.version), &hits);
                    }
                    return Ok((hits, end, true));
                }
                Err(CacheError::Stale) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CacheError::Io("the file is rewritten faster than it can be searched".to_owned()))
    }

    fn gather(&self, file: &File, hits: Arc<Hits>, end: End, scanned: bool) {
        match end {
            End::Whole => {}
            End::NotHere { some: false } => self.missing.lock().away += 1,
            End::NotHere { some: true } => self.missing.lock().partly.add(&file.path),
            End::LongLine => self.missing.lock().long.add(&file.path),
            End::Late => self.missing.lock().late += 1,
            End::Full => self.is_full(),
        }
        if hits.is_empty() {
            return;
        }
        // The text of what was scanned is counted already; that of what was kept is not.
        let text = if scanned { hits.text_len() } else { 0 };
        if self.room.take(hits.rendered(&file.path) - text) {
            self.is_full();
        }
        self.found.lock().push((file.path.clone(), hits));
    }

    /// What is not in the answer by now will not be.
    fn is_full(&self) {
        self.missing.lock().full = true;
        self.limit.stop.store(true, Ordering::Relaxed);
    }
}
