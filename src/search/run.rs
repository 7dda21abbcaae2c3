//! One search: a walk below a directory, and a few threads that scan what it finds.
//!
//! The walk and the threads are the search's own, and end with it: no thread that serves the kernel, and none of the
//! runtime, does any of it. Files wait between them in a short line, hits are gathered as they come and sorted in the end,
//! so memory is bounded by the answer's own bound. After its time a search answers what it has, and says so.
//!
//! Owns what an answer's last lines say. Nothing that is wrong with one file ends the search.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::access::{ENTER, READ, Rights};
use super::hits::{Answer, ByPath, Hits, beside};
use super::pattern::{Matcher, Output, Query};
use super::results::{Key, Results};
use super::scan::{End, LINE_MAX, Limit, Scanner};
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
    /// Nobody waits for any search any more.
    pub over: Arc<AtomicBool>,
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
    /// What had been let go of on request when it began.
    drops: u64,
    found: Mutex<ByPath>,
    missing: Mutex<Missing>,
}

impl Search {
    /// Runs it, on this thread and a few more. For how long, its time bounds.
    pub fn run(&self) -> Result<Answer, FsError> {
        let gathering = Gathering::new(self)?;
        let root = self.runtime.block_on(self.fs.getattr(self.dir))?;
        if !self.rights.may(&root, READ | ENTER) {
            return Err(FsError::AccessDenied);
        }
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
        let Gathering { found, missing, limit, .. } = gathering;
        let notes = self.notes(&missing.into_inner(), limit.is_full());
        Ok(Answer::new(found.into_inner(), notes, self.query.output, 2 * ANSWER_MAX))
    }

    fn notes(&self, missing: &Missing, full: bool) -> Vec<String> {
        let mut notes = Vec::new();
        let files = |count: u64| if count == 1 { "1 file".to_owned() } else { format!("{count} files") };
        for (named, what) in [
            (&missing.unreadable, "could not be read".to_owned()),
            (&missing.long, format!("searched up to a line of more than {} MiB", LINE_MAX / MIB)),
            (&missing.partly, "searched up to what is in the store alone (all/ fetches it)".to_owned()),
        ] {
            if named.count > 0 {
                notes.push(format!("partial: {} {what}: {}", files(named.count), named.says()));
            }
        }
        if missing.away > 0 {
            let count = files(missing.away);
            notes.push(format!("partial: {count} not searched, being in the store alone (all/ fetches them)"));
        }
        if full {
            notes.push(format!("partial: cut off after {} MiB of matches", ANSWER_MAX / MIB));
        } else if missing.late > 0 || missing.walking {
            let (time, at_least) = (self.time.as_secs(), if missing.walking { "at least " } else { "" });
            notes.push(format!(
                "partial: stopped after {time} s, with {at_least}{} to search (asked again, it goes on from there)",
                files(missing.late)
            ));
        }
        notes
    }
}

impl<'a> Gathering<'a> {
    fn new(search: &'a Search) -> Result<Gathering<'a>, FsError> {
        let matcher = search.query.compile().map_err(|error| {
            log::debug!("no pattern: {error}");
            FsError::Invalid
        })?;
        let hash = blake3::hash(&search.query.of_one_file().name());
        Ok(Gathering {
            search,
            matcher,
            limit: Limit::new(Instant::now() + search.time, search.over.clone(), ANSWER_MAX),
            query: hash.as_bytes()[..16].try_into().expect("a hash has 32 bytes"),
            drops: search.fs.cache.drops(),
            found: Mutex::default(),
            missing: Mutex::default(),
        })
    }

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
                // It went meanwhile.
                Err(FsError::Stale | FsError::NotFound) => Vec::new(),
                Err(_) => {
                    self.missing.lock().unreadable.add(if path.is_empty() { b"./" } else { path });
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
                let mut whole = path.clone();
                whole.extend_from_slice(&entry.name);
                let Some(attributes) = &entry.attributes else {
                    // It went meanwhile; or its records are damaged.
                    let looked = runtime.block_on(fs.getattr(entry.ino));
                    if !matches!(looked, Ok(_) | Err(FsError::Stale | FsError::NotFound)) {
                        self.missing.lock().unreadable.add(&whole);
                    }
                    continue;
                };
                match entry.kind {
                    libc::S_IFDIR if rights.may(attributes, READ | ENTER) => {
                        whole.push(b'/');
                        below.push((entry.ino, whole, 0));
                    }
                    libc::S_IFREG if rights.may(attributes, READ) && self.matcher.takes(&whole) => {
                        // Nobody takes it any more only if all threads ended, by a panic.
                        let sent = files.send(File { ino: entry.ino, path: whole.into() });
                        sent.map_err(|_| FsError::Io("the search ended before its time".to_owned()))?;
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
        let mut scanner = Scanner::new(&fs.cache, &self.matcher.lines, fetch.as_ref(), first_only, &self.limit);
        loop {
            let next = line.lock().recv();
            let Ok(file) = next else { return };
            if self.limit.is_over() {
                self.missing.lock().late += 1;
                continue;
            }
            match self.scan(&mut scanner, &file) {
                Ok((hits, end)) => self.gather(&file, hits, end),
                // Deleted meanwhile, or out of the caller's reach.
                Err(CacheError::NotFound) => {}
                Err(error) => {
                    log::debug!("{}: not searched: {error}", file.ino);
                    self.missing.lock().unreadable.add(&file.path);
                }
            }
        }
    }

    /// What a file has, and how far it was searched.
    fn scan(&self, scanner: &mut Scanner<'_>, file: &File) -> Result<(Arc<Hits>, End), CacheError> {
        let Search { fs, results, .. } = self.search;
        let key = |version| -> Key { (file.ino, version, self.query) };
        if let Some(hits) = results.get(&key(fs.cache.contents_version(file.ino)?)) {
            self.check(file)?;
            self.limit.take(hits.rendered(beside(&file.path)));
            return Ok((hits, End::Whole));
        }
        for _ in 0..LOOKS {
            let mut glance = fs.cache.glance(file.ino)?;
            self.check(file)?;
            match scanner.scan(&mut glance, beside(&file.path)) {
                Ok((hits, end)) => {
                    let hits = Arc::new(hits);
                    if end == End::Whole && fs.cache.drops() == self.drops {
                        results.put(key(glance.version), &hits);
                    }
                    return Ok((hits, end));
                }
                Err(CacheError::Stale) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CacheError::Io("the file is rewritten faster than it can be searched".to_owned()))
    }

    /// May it be read? Asked once it is known what it holds: it may have been closed to the caller since it was listed, and
    /// written then.
    fn check(&self, file: &File) -> Result<(), CacheError> {
        let Search { fs, runtime, rights, .. } = self.search;
        match runtime.block_on(fs.getattr(file.ino)) {
            Ok(attributes) if rights.may(&attributes, READ) => Ok(()),
            Ok(_) | Err(FsError::Stale | FsError::NotFound) => Err(CacheError::NotFound),
            Err(error) => Err(CacheError::Io(error.to_string())),
        }
    }

    fn gather(&self, file: &File, hits: Arc<Hits>, end: End) {
        match end {
            End::Whole | End::Full => {}
            End::NotHere { some: false } => self.missing.lock().away += 1,
            End::NotHere { some: true } => self.missing.lock().partly.add(&file.path),
            End::LongLine => self.missing.lock().long.add(&file.path),
            End::Late => self.missing.lock().late += 1,
        }
        if !hits.is_empty() {
            self.found.lock().push((file.path.clone(), hits));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tests::{empty, now};
    use crate::fs::{Caller, SetAttributes};

    #[tokio::test]
    async fn a_file_that_was_closed_to_the_caller_after_it_was_listed_is_not_told() {
        let fs = Arc::new(empty());
        let ino = fs.mk(Ino::ROOT, "f");
        let stranger = Caller { uid: 7, gid: 7, pid: 0 };
        let search = Search {
            fs: fs.clone(),
            results: Arc::new(Results::new(1 << 20, Duration::from_secs(60), None, false)),
            dir: Ino::ROOT,
            query: Query { text: b"secret"[..].into(), ..Query::default() },
            rights: Rights::of(stranger),
            fetch: None,
            threads: 1,
            time: Duration::from_secs(60),
            over: Arc::default(),
            runtime: Handle::current(),
        };
        let scan = move || {
            let gathering = Gathering::new(&search).unwrap();
            let mut scanner = Scanner::new(&fs.cache, &gathering.matcher.lines, None, false, &gathering.limit);
            let file = File { ino, path: b"f"[..].into() };
            fs.put(ino, "secret 1");
            let before = gathering.scan(&mut scanner, &file).unwrap();
            let kept = gathering.scan(&mut scanner, &file).unwrap();
            assert!(!before.0.is_empty() && before.0 == kept.0);
            let mode = SetAttributes { mode: Some(0o600), ..SetAttributes::default() };
            now(fs.setattr(ino, mode, Caller { uid: 1000, gid: 100, pid: 1 })).unwrap();
            assert_eq!(gathering.scan(&mut scanner, &file), Err(CacheError::NotFound), "also where it is kept");
            fs.put(ino, "secret 2");
            assert_eq!(gathering.scan(&mut scanner, &file), Err(CacheError::NotFound));
        };
        tokio::task::spawn_blocking(scan).await.unwrap();
    }
}
