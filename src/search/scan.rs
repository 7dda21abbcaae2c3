//! One file's lines, matched.
//!
//! Bytes come through a window: out of the cache's frames into a few hundred KiB that stay in the processor's own cache,
//! where the engine then reads them; so a search of what is in memory reads memory once. The window holds whole lines.
//!
//! A file is binary if a zero byte stands in its first 32 KiB: nothing of it is told. One that comes later ends the
//! search of that file, as it does in grep. A line number is never wrong: what is not here ends the search of that file
//! at the line before.
//!
//! Owns the window, which is wiped. Does not own what is searched, nor when it must end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use grep_regex::RegexMatcher;
use grep_searcher::{Searcher, SearcherBuilder, Sink, SinkMatch};
use tokio::runtime::Handle;

use super::hits::Hits;
use crate::cache::glance::Glance;
use crate::cache::{Cache, CacheError};
use crate::crypto::secret::SecretBytes;

/// So much is looked at at once.
const WINDOW: usize = 256 * 1024;
/// So much is asked of the store at once.
const FETCH: u64 = 4 << 20;
/// A longer line is not looked at, nor is what is behind it.
pub const LINE_MAX: usize = 8 << 20;
/// What of a file tells whether it is text.
const HEAD: usize = 32 * 1024;

/// When all must end.
pub struct Limit {
    pub deadline: Instant,
    /// Somebody has found that it must end now.
    pub stop: AtomicBool,
}

impl Limit {
    pub fn new(deadline: Instant) -> Limit {
        Limit { deadline, stop: AtomicBool::new(false) }
    }

    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }
}

/// Room for matches, which all threads of a search share.
pub struct Room {
    taken: AtomicUsize,
    most: usize,
}

impl Room {
    pub fn new(most: usize) -> Room {
        Room { taken: AtomicUsize::new(0), most }
    }

    /// True if there is too little by now.
    pub fn take(&self, bytes: usize) -> bool {
        self.taken.fetch_add(bytes, Ordering::Relaxed) + bytes > self.most
    }

    fn is_full(&self) -> bool {
        self.taken.load(Ordering::Relaxed) > self.most
    }
}

/// How far the search of a file came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// All of it that is text.
    Whole,
    /// Up to what is not on this machine: some bytes, or none.
    NotHere { some: bool },
    /// Up to a line of more than [`LINE_MAX`].
    LongLine,
    /// Time was over.
    Late,
    /// More matches than one answer takes.
    Full,
}

/// Searches files, one after the other.
pub struct Scanner<'a> {
    cache: &'a Cache,
    matcher: &'a RegexMatcher,
    searcher: Searcher,
    window: SecretBytes,
    /// Where to wait for the store; `None` if it is asked for nothing.
    fetch: Option<&'a Handle>,
    /// The first match is enough.
    first_only: bool,
    room: &'a Room,
}

impl<'a> Scanner<'a> {
    pub fn new(
        cache: &'a Cache,
        matcher: &'a RegexMatcher,
        fetch: Option<&'a Handle>,
        first_only: bool,
        room: &'a Room,
    ) -> Scanner<'a> {
        let searcher = SearcherBuilder::new().line_number(true).bom_sniffing(false).build();
        Scanner { cache, matcher, searcher, window: SecretBytes::from(vec![0; WINDOW]), fetch, first_only, room }
    }

    /// [`CacheError::Stale`] if the file was changed so that this state of it is gone: look again.
    pub fn scan(&mut self, glance: &mut Glance, limit: &Limit) -> Result<(Hits, End), CacheError> {
        let mut found = Found { hits: Hits::default(), before: 0, first_only: self.first_only, room: self.room };
        if self.window.len() > WINDOW {
            self.window = SecretBytes::from(vec![0; WINDOW]);
        }
        let (mut at, mut held) = (0, 0);
        loop {
            if limit.is_over() {
                return Ok((found.hits, End::Late));
            }
            let here = self.fill(glance, at, held, limit)?;
            let (first, have) = (at == 0, held + here);
            at += here as u64;
            let whole = at >= glance.size;
            let missing = !whole && have < self.window.len();
            if first && memchr::memchr(0, &self.window[..have.min(HEAD)]).is_some() {
                return Ok((found.hits, End::Whole));
            }
            let zero = memchr::memchr(0, &self.window[held..have]).map(|place| held + place);
            // The last line stands by itself, unless it goes on behind the window.
            let lines = match zero {
                None if whole => have,
                zero => memchr::memrchr(b'\n', &self.window[..zero.unwrap_or(have)]).map_or(0, |last| last + 1),
            };
            self.search(&mut found, lines);
            if self.room.is_full() {
                return Ok((found.hits, End::Full));
            }
            if whole || zero.is_some() || (self.first_only && !found.hits.is_empty()) {
                return Ok((found.hits, End::Whole));
            }
            if missing {
                return Ok((found.hits, if limit.is_over() { End::Late } else { End::NotHere { some: at > 0 } }));
            }
            held = have - lines;
            if lines == 0 && !self.widen() {
                return Ok((found.hits, End::LongLine));
            }
            self.window.copy_within(lines..have, 0);
        }
    }

    /// Fills the window from `held` on with what stands at `at`. Returns how much came.
    fn fill(&mut self, glance: &mut Glance, at: u64, held: usize, limit: &Limit) -> Result<usize, CacheError> {
        let (mut here, mut brought) = (0, false);
        loop {
            let came = self.cache.see(glance, at + here as u64, &mut self.window[held + here..])?;
            here += came;
            let next = at + here as u64;
            let more = held + here < self.window.len() && next < glance.size && !(brought && came == 0);
            let Some(runtime) = self.fetch.filter(|_| more) else { return Ok(here) };
            let left = limit.deadline.saturating_duration_since(Instant::now());
            let bring = self.cache.bring(glance, next..next + FETCH);
            match runtime.block_on(async { tokio::time::timeout(left, bring).await }) {
                Ok(result) => result?,
                Err(_) => return Ok(here),
            }
            brought = true;
        }
    }

    fn search(&mut self, found: &mut Found<'_>, lines: usize) {
        let slice = &self.window[..lines];
        if lines == 0 {
            return;
        }
        // The engine's own errors are those of expressions that take too much memory: no match there.
        if let Err(error) = self.searcher.search_slice(self.matcher, slice, &mut *found) {
            log::debug!("a stretch could not be searched: {error}");
        }
        found.before += memchr::memchr_iter(b'\n', slice).count() as u64;
    }

    /// Twice the window, for a line that does not fit. False if it is as large as may be.
    fn widen(&mut self) -> bool {
        if self.window.len() >= LINE_MAX {
            return false;
        }
        let mut wider = SecretBytes::from(vec![0; 2 * self.window.len()]);
        wider[..self.window.len()].copy_from_slice(&self.window);
        self.window = wider;
        true
    }
}

/// Takes what the engine finds.
struct Found<'a> {
    hits: Hits,
    /// Lines before the window.
    before: u64,
    first_only: bool,
    room: &'a Room,
}

impl Sink for &mut Found<'_> {
    type Error = std::io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, std::io::Error> {
        let line = self.before + found.line_number().unwrap_or_default();
        let text = found.bytes();
        let text = if self.first_only { &[] } else { text.strip_suffix(b"\n").unwrap_or(text) };
        self.hits.push(line, text);
        Ok(!self.room.take(text.len()) && !self.first_only)
    }
}
