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

use std::sync::Arc;
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
    /// The drive has no kernel any more that would be told.
    pub over: Arc<AtomicBool>,
    /// Bytes of the answer so far, and how many there may be.
    taken: AtomicUsize,
    most: usize,
}

impl Limit {
    pub fn new(deadline: Instant, over: Arc<AtomicBool>, most: usize) -> Limit {
        Limit { deadline, over, taken: AtomicUsize::new(0), most }
    }

    pub fn is_over(&self) -> bool {
        self.is_full() || self.over.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }

    /// More is found.
    pub fn take(&self, bytes: usize) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It is not in the answer after all.
    fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn is_full(&self) -> bool {
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
    limit: &'a Limit,
}

impl<'a> Scanner<'a> {
    pub fn new(
        cache: &'a Cache,
        matcher: &'a RegexMatcher,
        fetch: Option<&'a Handle>,
        first_only: bool,
        limit: &'a Limit,
    ) -> Scanner<'a> {
        let searcher = SearcherBuilder::new().line_number(true).bom_sniffing(false).build();
        Scanner { cache, matcher, searcher, window: SecretBytes::from(vec![0; WINDOW]), fetch, first_only, limit }
    }

    /// Each line takes `beside` bytes of the answer beside its text. [`CacheError::Stale`] if the file was changed so that
    /// this state of it is gone: look again.
    pub fn scan(&mut self, glance: &mut Glance, beside: usize) -> Result<(Hits, End), CacheError> {
        let limit = self.limit;
        let mut found = Found { hits: Hits::default(), before: 0, first_only: self.first_only, beside, limit };
        let end = self.scan_into(&mut found, glance);
        if end.is_err() {
            limit.give_back(found.hits.rendered(beside));
        }
        Ok((found.hits, end?))
    }

    fn scan_into(&mut self, found: &mut Found<'_>, glance: &mut Glance) -> Result<End, CacheError> {
        let limit = self.limit;
        if self.window.len() > WINDOW {
            self.window = SecretBytes::from(vec![0; WINDOW]);
        }
        let (mut at, mut held) = (0, 0);
        loop {
            if limit.is_over() {
                return Ok(if limit.is_full() { End::Full } else { End::Late });
            }
            let here = self.fill(glance, at, held)?;
            let (first, have) = (at == 0, held + here);
            at += here as u64;
            let whole = at >= glance.size;
            let missing = !whole && have < self.window.len();
            if first && memchr::memchr(0, &self.window[..have.min(HEAD)]).is_some() {
                return Ok(End::Whole);
            }
            let zero = memchr::memchr(0, &self.window[held..have]).map(|place| held + place);
            // The last line stands by itself, unless it goes on behind the window.
            let lines = match zero {
                None if whole => have,
                zero => memchr::memrchr(b'\n', &self.window[..zero.unwrap_or(have)]).map_or(0, |last| last + 1),
            };
            self.search(found, lines)?;
            if limit.is_full() {
                return Ok(End::Full);
            }
            if whole || zero.is_some() || (self.first_only && !found.hits.is_empty()) {
                return Ok(End::Whole);
            }
            if missing {
                return Ok(if limit.is_over() { End::Late } else { End::NotHere { some: at > 0 } });
            }
            held = have - lines;
            if lines == 0 && !self.widen() {
                return Ok(End::LongLine);
            }
            self.window.copy_within(lines..have, 0);
        }
    }

    /// Fills the window from `held` on with what stands at `at`. Returns how much came.
    fn fill(&mut self, glance: &mut Glance, at: u64, held: usize) -> Result<usize, CacheError> {
        let (mut here, mut brought) = (0, false);
        loop {
            let came = self.cache.see(glance, at + here as u64, &mut self.window[held + here..])?;
            here += came;
            let next = at + here as u64;
            let more = held + here < self.window.len() && next < glance.size && !(brought && came == 0);
            let Some(runtime) = self.fetch.filter(|_| more) else { return Ok(here) };
            let left = self.limit.deadline.saturating_duration_since(Instant::now());
            let bring = self.cache.bring(glance, next..next + FETCH);
            match runtime.block_on(async { tokio::time::timeout(left, bring).await }) {
                Ok(result) => result?,
                Err(_) => return Ok(here),
            }
            brought = true;
        }
    }

    fn search(&mut self, found: &mut Found<'_>, lines: usize) -> Result<(), CacheError> {
        let slice = &self.window[..lines];
        if lines > 0 {
            let searched = self.searcher.search_slice(self.matcher, slice, &mut *found);
            // Nobody has seen the engine fail; if it does, what it has not told is not to be taken for nothing.
            searched.map_err(|error| CacheError::Io(format!("the engine of searches: {error}")))?;
            found.before += memchr::memchr_iter(b'\n', slice).count() as u64;
        }
        Ok(())
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
    beside: usize,
    limit: &'a Limit,
}

impl Sink for &mut Found<'_> {
    type Error = std::io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, std::io::Error> {
        let line = self.before + found.line_number().unwrap_or_default();
        let text = found.bytes();
        let text = if self.first_only { &[] } else { text.strip_suffix(b"\n").unwrap_or(text) };
        self.hits.push(line, text);
        self.limit.take(text.len() + self.beside);
        Ok(!self.limit.is_full() && !self.first_only)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::Ino;
    use crate::fs::tests::empty;
    use crate::search::pattern::Query;

    fn scan(pattern: &str, text: &str, most: usize) -> (Vec<(u64, String)>, End) {
        let fs = empty();
        let file = fs.mk(Ino::ROOT, "f");
        fs.put(file, text);
        let matcher = Query { text: pattern.as_bytes().into(), ..Query::default() }.compile().expect(pattern);
        let limit = Limit::new(Instant::now() + Duration::from_secs(60), Arc::default(), most);
        let mut scanner = Scanner::new(&fs.cache, &matcher.lines, None, false, &limit);
        let mut glance = fs.cache.glance(file).expect("a file");
        let (hits, end) = scanner.scan(&mut glance, 10).expect("no error");
        (hits.iter().map(|(line, text)| (line, String::from_utf8_lossy(text).into_owned())).collect(), end)
    }

    #[test]
    fn lines_are_numbered_across_windows() {
        let text: String = (1..=100_000).map(|n| format!("line {n}\n")).collect();
        assert!(text.len() > 4 * WINDOW);
        let (lines, end) = scan("7777$", &text, usize::MAX);
        let expected: Vec<_> = (0..10).map(|n| n * 10_000 + 7777).map(|n| (n, format!("line {n}"))).collect();
        assert_eq!((lines, end), (expected, End::Whole));
    }

    #[test]
    fn lines_without_text_are_bounded_too() {
        let (lines, end) = scan("^$", &"\n".repeat(100_000), 1000);
        assert!(end == End::Full && (100..110).contains(&lines.len()), "{end:?} {}", lines.len());
    }

    // A large write begins a capture.
    #[tokio::test]
    async fn a_line_that_is_too_long_ends_it_where_it_begins() {
        let text = format!("needle 1\n{}needle\nneedle 3\n", "x".repeat(LINE_MAX));
        assert_eq!(scan("needle", &text, usize::MAX), (vec![(1, "needle 1".to_owned())], End::LongLine));
        let text = format!("needle 1\n{}needle\nneedle 3\n", "x".repeat(LINE_MAX / 2));
        let (lines, end) = scan("needle", &text, usize::MAX);
        assert_eq!((lines.len(), end), (3, End::Whole));
    }
}
