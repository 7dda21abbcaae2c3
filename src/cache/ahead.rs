//! Who reads in sequence, and how far ahead of each such reader bytes are brought.
//!
//! A synchronous core: reads go in, ranges to bring come out. Several readers may be in one file, and several files be read;
//! all of them together share the memory for clean bytes.
//!
//! A reader is one who goes on where it was. Its window doubles each time it has used half of what was brought, up to a
//! bound; it is halved when there is no memory for it. After a seek nothing is brought ahead until the reader goes on
//! from there in sequence too.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::Ino;
use crate::base::sizes::KIB;

/// The first window.
const FIRST: u64 = 512 * KIB as u64;
/// The kernel's requests for one reader overtake each other by so much.
const SLACK: u64 = 512 * KIB as u64;
/// Requests of this size are the kernel's own read-ahead: it has seen a reader already.
const LARGE: u64 = 64 * KIB as u64;
/// Reads in sequence before small ones count as a reader.
const ENOUGH: u32 = 2;
/// Readers known, in all and of one file.
const READERS: usize = 512;
const OF_A_FILE: usize = 8;
/// A reader that paused for so long shares no memory.
const ACTIVE: Duration = Duration::from_secs(2);

struct Reader {
    /// Where it will go on.
    next: u64,
    /// Up to where bytes were brought.
    ahead: u64,
    window: u64,
    in_sequence: u32,
    used: Instant,
}

impl Reader {
    fn is_established(&self) -> bool {
        self.window > 0
    }

    fn distance(&self, start: u64) -> u64 {
        self.next.abs_diff(start)
    }
}

pub struct Ahead {
    readers: BTreeMap<Ino, Vec<Reader>>,
    count: usize,
    /// The most for one reader; 0: nothing is read ahead.
    most: u64,
    /// For all of them.
    memory: u64,
    /// Readers that are active, counted now and then.
    active: u64,
    counted: Option<Instant>,
}

impl Ahead {
    pub fn new(most: u64, memory: u64) -> Ahead {
        Ahead { readers: BTreeMap::new(), count: 0, most, memory, active: 1, counted: None }
    }

    /// Somebody reads this range. Returns what to bring before it is asked for.
    pub fn read(&mut self, ino: Ino, range: Range<u64>) -> Option<Range<u64>> {
        if self.most == 0 || range.is_empty() {
            return None;
        }
        let now = Instant::now();
        let limit = self.limit(now);
        let large = range.end - range.start >= LARGE;
        let known = self.readers.get_mut(&ino).and_then(|readers| {
            let goes_on = |reader: &&mut Reader| match reader.is_established() {
                true => reader.distance(range.start) <= SLACK,
                false => reader.next == range.start,
            };
            readers.iter_mut().filter(goes_on).min_by_key(|reader| reader.distance(range.start))
        });
        let Some(reader) = known else {
            // A large read of a file's beginning is somebody who will want the rest.
            let window = if range.start == 0 && large { FIRST.min(limit) } else { 0 };
            let reader = Reader { next: range.end, ahead: range.end, window, in_sequence: 0, used: now };
            self.remember(ino, reader);
            return (window > 0).then(|| self.first(ino, range.end, window)).flatten();
        };
        reader.used = now;
        reader.next = reader.next.max(range.end);
        reader.in_sequence += 1;
        if !reader.is_established() {
            if !large && reader.in_sequence < ENOUGH {
                return None;
            }
            reader.window = FIRST.min(limit);
        }
        reader.ahead = reader.ahead.max(reader.next);
        if reader.ahead - reader.next > reader.window / 2 {
            return None;
        }
        if reader.ahead > reader.next || reader.in_sequence > 1 {
            reader.window = (2 * reader.window).min(limit).max(FIRST.min(limit));
        }
        let wanted = reader.ahead..reader.next.saturating_add(reader.window);
        reader.ahead = reader.ahead.max(wanted.end);
        (!wanted.is_empty()).then_some(wanted)
    }

    fn first(&mut self, ino: Ino, next: u64, window: u64) -> Option<Range<u64>> {
        let reader = self.readers.get_mut(&ino)?.iter_mut().find(|reader| reader.next == next)?;
        reader.ahead = next.saturating_add(window);
        Some(next..reader.ahead)
    }

    /// There was no memory for what lies from `at` on: the reader to whom it belongs gets less.
    pub fn refused(&mut self, ino: Ino, at: u64) {
        for reader in self.readers.get_mut(&ino).into_iter().flatten() {
            if reader.next <= at && at < reader.ahead {
                reader.ahead = at;
                reader.window = (reader.window / 2).max(FIRST.min(self.most));
            }
        }
    }

    /// What each reader may have ahead, with so many of them.
    fn limit(&mut self, now: Instant) -> u64 {
        if self.counted.is_none_or(|at| now - at >= ACTIVE / 8) {
            self.counted = Some(now);
            let readers = self.readers.values().flatten();
            self.active = readers.filter(|r| r.is_established() && now - r.used < ACTIVE).count() as u64;
        }
        self.most.min((self.memory / self.active.max(1)).max(FIRST.min(self.most)))
    }

    fn remember(&mut self, ino: Ino, reader: Reader) {
        if self.count >= READERS {
            self.forget_oldest();
        }
        let readers = self.readers.entry(ino).or_default();
        if readers.len() >= OF_A_FILE
            && let Some(oldest) = (0..readers.len()).min_by_key(|k| (readers[*k].is_established(), readers[*k].used))
        {
            readers.remove(oldest);
            self.count -= 1;
        }
        readers.push(reader);
        self.count += 1;
    }

    /// A quarter of all, so that it need not be done for each.
    fn forget_oldest(&mut self) {
        let mut used: Vec<Instant> = self.readers.values().flatten().map(|reader| reader.used).collect();
        used.sort_unstable();
        let Some(&until) = used.get(used.len() / 4) else { return };
        self.readers.retain(|_, readers| {
            readers.retain(|reader| reader.used > until);
            !readers.is_empty()
        });
        self.count = self.readers.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;
    const FILE: Ino = Ino(7);

    fn ahead() -> Ahead {
        Ahead::new(32 * MIB, 128 * MIB)
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_in_sequence_gets_a_window_that_doubles_and_each_byte_once() {
        let mut ahead = ahead();
        let (mut brought, mut windows) = (128 * KIB, Vec::new());
        for k in 0..2048 {
            let at = k * 128 * KIB;
            if let Some(range) = ahead.read(FILE, at..at + 128 * KIB) {
                assert_eq!(range.start, brought.max(at + 128 * KIB), "nothing twice, nothing left out");
                brought = range.end;
                windows.push((range.end - at - 128 * KIB) / KIB);
            }
        }
        assert_eq!(windows[..8], [512, 1024, 2048, 4096, 8192, 16384, 32768, 32768]);
        assert_eq!(*windows.iter().max().unwrap(), 32768);
    }

    #[tokio::test(start_paused = true)]
    async fn random_readers_and_those_who_only_began_get_nothing() {
        let mut ahead = ahead();
        let mut at = 1;
        for _ in 0..5000 {
            at = (at * 48_271) % 2_147_483_647;
            assert_eq!(ahead.read(FILE, at * 4096..at * 4096 + 4096), None);
            assert_eq!(ahead.read(Ino(at), 4096..8192), None);
        }
        assert!(ahead.count <= READERS && ahead.readers[&FILE].len() <= OF_A_FILE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_seek_ends_it_and_readers_beside_each_other_keep_theirs() {
        let mut ahead = ahead();
        for k in 0..100 {
            for reader in 0..4 {
                let at = (reader << 30) + k * 128 * KIB;
                ahead.read(FILE, at..at + 128 * KIB);
                ahead.read(Ino(100 + reader), at..at + 128 * KIB);
            }
        }
        assert!(ahead.readers[&FILE].iter().filter(|reader| reader.window >= 4 * MIB).count() == 4);
        assert_eq!(ahead.read(FILE, 9 << 30..(9 << 30) + 128 * KIB), None, "after a seek");
        assert!(ahead.readers.values().flatten().all(|reader| reader.window <= 16 * MIB), "eight share 128 MiB");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_overtake_each_other_are_one_reader() {
        let mut ahead = ahead();
        ahead.read(FILE, 0..128 * KIB);
        for k in (1..200).step_by(2) {
            for k in [k + 1, k] {
                ahead.read(FILE, k * 128 * KIB..(k + 1) * 128 * KIB);
            }
        }
        assert_eq!(ahead.readers[&FILE].len(), 1);
        assert!(ahead.readers[&FILE][0].window == 32 * MIB);
    }

    #[tokio::test(start_paused = true)]
    async fn without_memory_the_window_is_halved_and_what_was_refused_is_asked_for_again() {
        let mut ahead = ahead();
        let mut last = 0..0;
        for k in 0..64 {
            last = ahead.read(FILE, k * 128 * KIB..(k + 1) * 128 * KIB).unwrap_or(last);
        }
        let (window, at) = (ahead.readers[&FILE][0].window, last.start + MIB);
        ahead.refused(FILE, at);
        assert_eq!(ahead.readers[&FILE][0].window, window / 2);
        let again = (64..400).find_map(|k| ahead.read(FILE, k * 128 * KIB..(k + 1) * 128 * KIB)).unwrap();
        assert_eq!(again.start, at);
        assert_eq!(Ahead::new(0, MIB).read(FILE, 0..MIB), None, "switched off");
    }
}
