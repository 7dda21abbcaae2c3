//! Answers that were given, until they go.
//!
//! Of what was asked the newest answer stands, under its number, until it says something else; then the new one has a number
//! of its own. One that was replaced stays for a moment, for whoever has looked it up and is about to open it. One that is
//! open stays until it is closed; any other goes when nobody has used it for its time, or when others need its memory.
//!
//! Owns the table of answers, and its bounds. Does not own what is told of those that go (the tree), nor their making.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::access::Rights;
use super::hits::Answer;
use super::pattern::Query;
use super::run::ANSWER_MAX;
use crate::base::sizes::MIB;
use crate::base::{Ino, Position, Timestamp};
use crate::fs::FsError;

/// Memory of answers that nobody has open: two of the largest.
const STANDING_MAX: usize = 2 * ANSWER_MAX;
/// Memory of answers that are open.
const OPEN_MAX: usize = 8 * ANSWER_MAX;
/// Between a look-up and what it was done for.
const MOMENT: Duration = Duration::from_secs(2);

/// One of the directories that take patterns.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Room {
    pub dir: Ino,
    pub all: bool,
    pub files: bool,
}

/// What is asked, by whom, where.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Asked {
    pub room: Room,
    pub rights: Arc<Rights>,
    pub query: Query,
}

/// A moment of the drive: between two that are equal nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    pub stored: Position,
    pub written: u64,
    /// What has come into memory: no change, but an answer that is not whole may say more.
    pub come: u64,
}

/// An answer as the kernel is told of it.
#[derive(Clone)]
pub struct Given {
    pub number: Ino,
    pub uid: u32,
    pub made: Timestamp,
    pub answer: Arc<Answer>,
}

pub struct Answers {
    inner: Mutex<Inner>,
    ttl: Duration,
}

struct Inner {
    /// Last used first.
    kept: LruCache<Ino, Kept>,
    newest: HashMap<Arc<Asked>, Ino>,
    /// When each was replaced, in order.
    replaced: VecDeque<(Instant, Ino)>,
    bytes: usize,
    open_bytes: usize,
}

struct Kept {
    asked: Arc<Asked>,
    given: Given,
    /// When its making began, in the drive's own terms, and when it was over.
    moment: Moment,
    asked_at: Instant,
    used: Instant,
    opens: u64,
}

/// They are wiped when this is dropped, under no lock.
#[derive(Default)]
pub struct Gone(Vec<Kept>);

impl Gone {
    /// The kernel may have pages of these.
    pub fn numbers(&self) -> impl Iterator<Item = Ino> {
        self.0.iter().map(|kept| kept.given.number)
    }
}

impl Answers {
    pub fn new(ttl: Duration) -> Answers {
        let inner = Inner {
            kept: LruCache::unbounded(),
            newest: HashMap::new(),
            replaced: VecDeque::new(),
            bytes: 0,
            open_bytes: 0,
        };
        Answers { inner: Mutex::new(inner), ttl }
    }

    /// The answer that stands, if at this moment a search would find the same. Where one is not whole, what it lacks may
    /// be had by now, or time enough to go on: it stands for who has just asked, and no longer.
    pub fn standing(&self, asked: &Arc<Asked>, now: Moment) -> Option<Given> {
        let mut inner = self.inner.lock();
        let number = *inner.newest.get(asked)?;
        let kept = inner.kept.get_mut(&number)?;
        let stands = match kept.given.answer.whole {
            true => (kept.moment.stored, kept.moment.written) == (now.stored, now.written),
            false => kept.moment == now && kept.asked_at.elapsed() < MOMENT,
        };
        kept.used = Instant::now();
        stands.then(|| kept.given.clone())
    }

    /// A new answer. If it says what the last one says, that one stands on.
    pub fn put(
        &self,
        asked: &Arc<Asked>,
        answer: Answer,
        moment: Moment,
        number: impl FnOnce() -> Ino,
    ) -> (Given, Gone) {
        let (mut gone, now) = (Gone::default(), Instant::now());
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let last = inner.newest.get(asked).copied();
        if let Some(kept) = last.and_then(|last| inner.kept.get_mut(&last))
            && kept.given.answer.says_the_same(&answer)
        {
            (kept.moment, kept.asked_at, kept.used) = (moment, now, now);
            let given = kept.given.clone();
            // The other is wiped under no lock.
            drop(guard);
            return (given, gone);
        }
        let made = Timestamp::from_system(std::time::SystemTime::now());
        let given = Given { number: number(), uid: asked.rights.uid, made, answer: Arc::new(answer) };
        inner.bytes += given.answer.cost();
        inner.newest.insert(asked.clone(), given.number);
        inner.replaced.extend(last.map(|last| (now, last)));
        let kept = Kept { asked: asked.clone(), given: given.clone(), moment, asked_at: now, used: now, opens: 0 };
        inner.kept.put(given.number, kept);
        inner.shrink(now, &mut gone);
        drop(guard);
        (given, gone)
    }

    pub fn get(&self, number: Ino) -> Option<Given> {
        self.inner.lock().kept.peek(&number).map(|kept| kept.given.clone())
    }

    /// ESTALE if it went meanwhile: the kernel then looks its name up again.
    pub fn open(&self, number: Ino) -> Result<(), FsError> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let kept = inner.kept.get_mut(&number).ok_or(FsError::Stale)?;
        if kept.opens == 0 {
            let cost = kept.given.answer.cost();
            if inner.open_bytes + cost > OPEN_MAX {
                log::warn!("an answer was not opened: those that are open take {} MiB", inner.open_bytes / MIB);
                return Err(FsError::Io("too many large answers are open".to_owned()));
            }
            inner.open_bytes += cost;
        }
        kept.opens += 1;
        kept.used = Instant::now();
        Ok(())
    }

    pub fn close(&self, number: Ino) -> Gone {
        let (mut gone, now) = (Gone::default(), Instant::now());
        let mut inner = self.inner.lock();
        let Some(kept) = inner.kept.get_mut(&number) else { return gone };
        kept.opens = kept.opens.saturating_sub(1);
        kept.used = now;
        if kept.opens == 0 {
            let cost = kept.given.answer.cost();
            inner.open_bytes -= cost;
            if !inner.is_newest(number) {
                gone.0.extend(inner.take(number));
            }
            inner.shrink(now, &mut gone);
        }
        drop(inner);
        gone
    }

    /// None stands any more. What is open stays until it is closed.
    pub fn clear(&self) -> Gone {
        let mut gone = Gone::default();
        let mut inner = self.inner.lock();
        inner.newest.clear();
        let closed: Vec<Ino> =
            inner.kept.iter().filter(|(_, kept)| kept.opens == 0).map(|(number, _)| *number).collect();
        gone.0.extend(closed.into_iter().filter_map(|number| inner.take(number)));
        drop(inner);
        gone
    }

    /// Those go whose time is over.
    pub fn sweep(&self) -> Gone {
        let (mut gone, now) = (Gone::default(), Instant::now());
        let mut inner = self.inner.lock();
        while let Some((since, number)) = inner.replaced.front().copied()
            && now.duration_since(since) >= MOMENT
        {
            inner.replaced.pop_front();
            if inner.kept.peek(&number).is_some_and(|kept| kept.opens == 0) {
                gone.0.extend(inner.take(number));
            }
        }
        while let Some((_, kept)) = inner.kept.peek_lru()
            && now.duration_since(kept.used) >= self.ttl
        {
            inner.take_last(now, &mut gone);
        }
        drop(inner);
        gone
    }
}

impl Inner {
    fn is_newest(&self, number: Ino) -> bool {
        self.kept.peek(&number).is_some_and(|kept| self.newest.get(&kept.asked) == Some(&number))
    }

    fn shrink(&mut self, now: Instant, gone: &mut Gone) {
        // All but the one that was used last: that is about to be opened.
        for _ in 1..self.kept.len() {
            if self.bytes - self.open_bytes <= STANDING_MAX {
                return;
            }
            self.take_last(now, gone);
        }
    }

    /// The one that was not used for longest. One that is open is in use.
    fn take_last(&mut self, now: Instant, gone: &mut Gone) {
        let Some((number, kept)) = self.kept.peek_lru() else { return };
        let (number, is_open) = (*number, kept.opens > 0);
        if !is_open {
            gone.0.extend(self.take(number));
        } else if let Some(kept) = self.kept.get_mut(&number) {
            kept.used = now;
        }
    }

    fn take(&mut self, number: Ino) -> Option<Kept> {
        if self.is_newest(number)
            && let Some(kept) = self.kept.peek(&number)
        {
            self.newest.remove(&kept.asked);
        }
        let kept = self.kept.pop(&number)?;
        self.bytes -= kept.given.answer.cost();
        Some(kept)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::fs::Caller;
    use crate::search::hits::Hits;
    use crate::search::pattern::Output;

    const TTL: Duration = Duration::from_secs(60);

    struct Desk {
        answers: Answers,
        last: u64,
    }

    fn asked(text: &str) -> Arc<Asked> {
        let rights = Arc::new(Rights::of(Caller { uid: 7, gid: 7, pid: 0 }));
        let room = Room { dir: Ino::ROOT, all: false, files: false };
        Arc::new(Asked { room, rights, query: Query { text: text.as_bytes().into(), ..Query::default() } })
    }

    fn moment(written: u64) -> Moment {
        Moment { stored: Position(1), written, come: 0 }
    }

    fn desk() -> Desk {
        Desk { answers: Answers::new(TTL), last: 0 }
    }

    impl Desk {
        /// What was found, as the answer to a text; returns its number, and those of answers that went.
        fn put(&mut self, text: &str, found: &[u8], notes: &[&str], at: Moment) -> (Ino, Vec<Ino>) {
            let mut hits = Hits::default();
            hits.push(1, found);
            let notes = notes.iter().map(|note| (*note).to_owned()).collect();
            let answer = Answer::new(vec![(b"f"[..].into(), Arc::new(hits))], notes, Output::Lines, usize::MAX);
            self.last += 1;
            let number = Ino(self.last);
            let (given, gone) = self.answers.put(&asked(text), answer, at, || number);
            (given.number, gone.numbers().collect())
        }

        fn stands(&self, text: &str, at: Moment) -> Option<Ino> {
            self.answers.standing(&asked(text), at).map(|given| given.number)
        }

        fn swept(&self) -> Vec<Ino> {
            self.answers.sweep().numbers().collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_stands_while_nothing_has_changed_and_keeps_its_number_while_it_says_the_same() {
        let mut desk = desk();
        let (first, _) = desk.put("a", b"x", &[], moment(1));
        assert_eq!(desk.stands("a", moment(1)), Some(first));
        assert_eq!((desk.stands("a", moment(2)), desk.stands("b", moment(1))), (None, None));
        assert_eq!(desk.put("a", b"x", &[], moment(2)), (first, vec![]));
        assert_eq!(desk.stands("a", moment(2)), Some(first));
        assert_ne!(desk.put("a", b"y", &[], moment(3)).0, first);
        // One that is not whole stands for who has just asked, and while nothing comes.
        let (partial, _) = desk.put("p", b"x", &["partial: something"], moment(3));
        assert_eq!(desk.stands("p", moment(3)), Some(partial));
        assert_eq!(desk.stands("p", Moment { come: 1, ..moment(3) }), None);
        advance(MOMENT).await;
        assert_eq!(desk.stands("p", moment(3)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_go_when_their_time_is_over_or_soon_after_they_were_replaced() {
        let mut desk = desk();
        let (old, _) = desk.put("a", b"x", &[], moment(1));
        let (new, _) = desk.put("a", b"y", &[], moment(2));
        assert!(desk.swept().is_empty() && desk.answers.get(old).is_some());
        advance(MOMENT).await;
        assert_eq!(desk.swept(), [old]);
        assert_eq!(desk.answers.open(old), Err(FsError::Stale));
        advance(TTL - MOMENT).await;
        assert_eq!((desk.swept(), desk.stands("a", moment(2))), (vec![new], None));
        let inner = desk.answers.inner.lock();
        assert_eq!((inner.kept.len(), inner.newest.len(), inner.bytes), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_open_stays_and_goes_after_it_was_closed() {
        let mut desk = desk();
        let (old, _) = desk.put("a", b"x", &[], moment(1));
        desk.answers.open(old).unwrap();
        desk.answers.open(old).unwrap();
        let (new, _) = desk.put("a", b"y", &[], moment(2));
        desk.answers.open(new).unwrap();
        advance(2 * TTL).await;
        assert!(desk.swept().is_empty());
        assert_eq!(desk.answers.close(old).numbers().count(), 0);
        assert_eq!(desk.answers.close(old).numbers().collect::<Vec<_>>(), [old], "the kernel may have pages of it");
        assert_eq!(desk.answers.close(new).numbers().count(), 0);
        advance(TTL).await;
        assert_eq!(desk.swept(), [new]);
        assert_eq!(desk.answers.inner.lock().open_bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_clearing_nothing_stands_and_what_is_open_can_be_read() {
        let mut desk = desk();
        let (open, _) = desk.put("a", b"x", &[], moment(1));
        let (closed, _) = desk.put("b", b"x", &[], moment(1));
        desk.answers.open(open).unwrap();
        assert_eq!(desk.answers.clear().numbers().collect::<Vec<_>>(), [closed]);
        assert_eq!((desk.stands("a", moment(1)), desk.stands("b", moment(1))), (None, None));
        assert!(desk.answers.get(open).is_some());
        assert_eq!(desk.answers.close(open).numbers().collect::<Vec<_>>(), [open]);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_what_is_open_is_not_taken_for_it() {
        let mut desk = desk();
        let large = vec![b'x'; ANSWER_MAX];
        let mut open = Vec::new();
        for n in 0..20 {
            let (number, _) = desk.put(&n.to_string(), &large, &[], moment(1));
            assert!(desk.answers.get(number).is_some(), "the newest can be opened");
            match desk.answers.open(number) {
                Ok(()) => open.push(number),
                Err(error) => assert!(matches!(error, FsError::Io(_)) && n >= 7, "{n}"),
            }
            let inner = desk.answers.inner.lock();
            assert!(inner.open_bytes <= OPEN_MAX && inner.bytes <= OPEN_MAX + STANDING_MAX + (1 << 20));
        }
        assert_eq!(open.len(), 7);
        assert!(open.iter().all(|number| desk.answers.get(*number).is_some()));
    }
}
