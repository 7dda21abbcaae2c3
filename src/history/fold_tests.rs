//! C2 and L3 by themselves: what a round takes, what stays, and what stays true of what stays.

use super::*;
use crate::base::Timestamp;
use crate::format::record::{Head, Piece, Place};

const NOW: Timestamp = Timestamp { secs: 1, nanos: 0 };
const FILE: Ino = Ino(7);
const NOTHING: Limits =
    Limits { budget: 0, age: Duration::ZERO, pressed: false, hold: Duration::from_secs(60), all: false };

fn head(position: u64, extent: Option<u64>) -> Record {
    let pieces = extent.map(|number| Piece { offset: 0, len: 100, extent: id(number), start: 0 });
    Record::Head(Head {
        size: if pieces.is_some() { 100 } else { 0 },
        atime: NOW,
        mtime: NOW,
        ctime: NOW,
        position: Position(position),
        pieces: pieces.into_iter().collect(),
        spilled: false,
        extra: None,
    })
}

fn id(number: u64) -> ExtentId {
    ExtentId { owner: FILE, number }
}

fn extent() -> Record {
    Record::Extent(Extent {
        key_id: [0; 16],
        nonce: [0; 16],
        frame_log2: 16,
        len: 100,
        stored: 116,
        frames: vec![],
        place: Place::Local,
        extra: None,
    })
}

fn name() -> Key {
    Key::link(FILE, Ino::ROOT, 1, 0)
}

impl Fold {
    fn with(&mut self, at: u64, records: &[(Key, Option<Record>, bool)], barrier: &[Ino]) {
        let existed = records.iter().map(|(_, _, existed)| *existed).collect();
        let records = records.iter().map(|(key, record, _)| (*key, record.clone().map(Arc::new))).collect();
        let change = Change { records, barrier: barrier.to_vec(), ..Change::default() };
        self.push(Position(at), Arc::new(change), existed, None, None, None);
        while self.advance(Position(at), 100) {}
    }

    fn truncates(&mut self, at: u64) {
        let (key, old) = (Key::head(FILE), head(at - 1, Some(1)));
        let change = Change { records: vec![(key, Some(Arc::new(head(at, None))))], ..Change::default() };
        assert_eq!(emptied(&change, &[Some(Arc::new(old))]), Some(FILE));
        assert_eq!(emptied(&change, &[Some(Arc::new(head(at - 1, None)))]), None, "it was empty before");
        self.push(Position(at), Arc::new(change), [true].into(), None, None, Some(FILE));
        while self.advance(Position(at), 100) {}
    }

    fn creates(&mut self, at: u64) {
        let link = Record::Link(Default::default());
        self.with(at, &[(name(), Some(link), false), (Key::head(FILE), Some(head(at, None)), false)], &[]);
    }

    fn writes(&mut self, at: u64) {
        let records = [(Key::head(FILE), Some(head(at, Some(at))), true), (Key::extent(id(at)), Some(extent()), false)];
        self.with(at, &records, &[]);
    }
}

/// The position of the head that was taken.
fn position(taken: &Taken) -> Option<u64> {
    match taken.records.get(&Key::head(FILE))?.record.as_deref() {
        Some(Record::Head(head)) => Some(head.position.0),
        _ => None,
    }
}

#[test]
fn c2_a_new_file_appears_empty_and_its_contents_come_whole() {
    let mut fold = Fold::default();
    fold.creates(10);
    fold.writes(11);
    let taken = fold.take(&NOTHING);
    assert_eq!((position(&taken), taken.records.len(), taken.defers), (Some(10), 2, true));
    assert!(taken.records.contains_key(&name()));
    assert_eq!(fold.low(Position(11)), Position(10));
    fold.writes(12);
    assert_eq!((fold.take(&NOTHING).records.len(), fold.low(Position(12))), (0, Position(10)));
    // Both extents leave with it: the dead one must be known to be dead.
    let taken = fold.take(&Limits::ALL);
    assert_eq!((position(&taken), taken.records.len(), taken.defers), (Some(12), 3, false));
    assert_eq!(fold.low(Position(12)), Position(12));
    assert!(fold.is_empty());
}

#[test]
fn c1_what_came_since_the_last_round_is_counted_and_not_what_stays() {
    let mut fold = Fold::default();
    fold.creates(10);
    fold.writes(11);
    let came = fold.came();
    fold.writes(12);
    assert_eq!(fold.came(), came + 1, "an extent more; the head is the same key");
    assert!(fold.take(&NOTHING).defers);
    assert_eq!(fold.came(), 0, "a file that stays asks for no round");
    fold.writes(13);
    assert_eq!(fold.came(), 1);
}

#[test]
fn c2_a_barrier_forces_what_lies_before_it_and_nothing_else() {
    let mut fold = Fold::default();
    fold.with(9, &[], &[FILE]);
    fold.writes(11);
    assert_eq!(position(&fold.take(&NOTHING)), None);
    fold.with(12, &[], &[Ino(8), FILE]);
    fold.writes(13);
    assert_eq!(position(&fold.take(&NOTHING)), Some(13));
    fold.writes(14);
    assert_eq!(position(&fold.take(&NOTHING)), None, "the barrier lies before it");
}

#[test]
fn c2_the_namespace_wins() {
    let mut fold = Fold::default();
    fold.writes(11);
    assert_eq!(position(&fold.take(&NOTHING)), None);
    fold.with(12, &[(name(), None, true), (Key::head(FILE), None, true)], &[]);
    let taken = fold.take(&NOTHING);
    assert!(!taken.defers && taken.records[&Key::head(FILE)].record.is_none());
    // What was made and deleted between two commits leaves no trace but its dead extent.
    fold.creates(20);
    fold.writes(21);
    fold.with(22, &[(name(), None, true), (Key::head(FILE), None, true)], &[]);
    let taken = fold.take(&NOTHING);
    assert_eq!(taken.records.keys().collect::<Vec<_>>(), [&Key::extent(id(21))]);
    assert_eq!(fold.low(Position(22)), Position(22));
}

#[test]
fn c2_a_deferred_file_that_no_commit_had_is_deleted_in_the_vault_too() {
    let mut fold = Fold::default();
    fold.creates(10);
    fold.writes(11);
    assert_eq!(position(&fold.take(&NOTHING)), Some(10));
    fold.with(12, &[(name(), None, true), (Key::head(FILE), None, true)], &[]);
    let taken = fold.take(&NOTHING);
    assert!(taken.records[&Key::head(FILE)].record.is_none(), "the commit before has an empty one");
}

#[test]
fn c2_what_was_sent_ahead_is_missing_no_more() {
    let mut fold = Fold::default();
    fold.writes(11);
    fold.take(&NOTHING);
    assert!(fold.send_ahead(Duration::ZERO, 1000, 1000).is_none());
    let (ino, extents) = fold.send_ahead(Duration::ZERO, 1, 1000).unwrap();
    assert_eq!((ino, extents.len()), (FILE, 1));
    let Record::Extent(record) = extent() else { unreachable!() };
    fold.sent_ahead([(id(11), record)]);
    assert!(fold.send_ahead(Duration::ZERO, 1, 1000).is_none());
    assert_eq!(position(&fold.take(&NOTHING)), Some(11));
    assert_eq!(fold.take_ahead([id(11), id(12)]).len(), 1);
}

#[test]
fn c2_a_full_journal_takes_the_oldest_however_large_it_is() {
    let mut fold = Fold::default();
    fold.writes(11);
    let pressed = Limits { pressed: true, ..NOTHING };
    assert_eq!(position(&fold.take(&pressed)), Some(11));
}

#[test]
fn l3_a_truncated_file_waits_for_its_close() {
    let mut fold = Fold::default();
    let much = Limits { budget: 1 << 30, ..NOTHING };
    fold.truncates(11);
    fold.writes(12);
    assert!(fold.may_be_held(FILE));
    assert_eq!(position(&fold.take(&much)), None);
    assert_eq!(position(&fold.take(&Limits { hold: Duration::ZERO, ..much })), Some(12), "a minute is over");
    fold.truncates(13);
    fold.writes(14);
    fold.closed(Position(14), FILE);
    while fold.advance(Position(14), 100) {}
    assert_eq!(position(&fold.take(&much)), Some(14));
    fold.truncates(15);
    fold.with(16, &[], &[FILE]);
    assert_eq!(position(&fold.take(&much)), Some(15), "a barrier orders it");
}

#[test]
fn l3_what_a_barrier_ordered_before_a_truncation_travels_as_it_was() {
    let much = Limits { budget: 1 << 30, ..NOTHING };
    let saved = || {
        let mut fold = Fold::default();
        fold.creates(10);
        fold.writes(11);
        fold.with(12, &[], &[FILE]);
        fold.truncates(13);
        fold.writes(14);
        fold
    };
    let mut fold = saved();
    assert_eq!(fold.low(Position(14)), Position(9));
    let taken = fold.take(&much);
    assert_eq!((position(&taken), taken.defers), (Some(11), true), "not empty, as it is at the cut");
    assert!(taken.records.contains_key(&Key::extent(id(11))) && !taken.records.contains_key(&Key::extent(id(14))));
    assert_eq!(fold.low(Position(14)), Position(12));
    assert_eq!(position(&fold.take(&much)), None, "the barrier lies before it");
    // Saved once more before a round: the newest that a barrier ordered.
    fold.with(15, &[], &[FILE]);
    fold.truncates(16);
    assert_eq!(position(&fold.take(&much)), Some(14));
    fold.closed(Position(16), FILE);
    while fold.advance(Position(16), 100) {}
    assert_eq!(position(&fold.take(&much)), Some(16));
    assert!(fold.is_empty() && fold.low(Position(16)) == Position(16));

    // With a barrier after it, or when it is closed, it travels as it is, and what it was is dead.
    for closed in [false, true] {
        let mut fold = saved();
        match closed {
            false => fold.with(15, &[], &[FILE]),
            true => fold.closed(Position(15), FILE),
        }
        while fold.advance(Position(15), 100) {}
        let taken = fold.take(&much);
        assert_eq!((position(&taken), taken.defers), (Some(14), false));
        assert!(taken.records.contains_key(&Key::extent(id(11))), "known to be dead");
    }

    // The namespace wins.
    let mut fold = saved();
    fold.with(15, &[(name(), None, true), (Key::head(FILE), None, true)], &[]);
    let taken = fold.take(&NOTHING);
    assert!(!taken.defers && taken.records.keys().all(|key| matches!(key.part, Part::Extent { .. })));
}

#[test]
fn c2_what_was_replayed_is_deferred_if_the_vault_knows_the_file() {
    let replayed = |known: u64, barrier: &[Ino]| {
        let mut fold = Fold::default();
        let extent = (Key::extent(id(11)), Some(Arc::new(extent())));
        let records = vec![(Key::head(FILE), Some(Arc::new(head(11, Some(11))))), extent];
        let change = Change { records, ..Change::default() };
        fold.push(Position(11), Arc::new(change), [true; 2].into(), None, Some(Position(known)), None);
        let order = Change { barrier: barrier.to_vec(), ..Change::default() };
        fold.push(Position(12), Arc::new(order), Box::default(), None, Some(Position(known)), None);
        while fold.advance(Position(12), 100) {}
        position(&fold.take(&NOTHING))
    };
    assert_eq!(replayed(11, &[]), None);
    assert_eq!(replayed(10, &[]), Some(11), "it may be new");
    assert_eq!(replayed(11, &[FILE]), Some(11), "a barrier orders it");
}

#[tokio::test(start_paused = true)]
async fn c2_the_oldest_come_first_and_what_fits_the_next_round_is_due_at_once() {
    let mut fold = Fold::default();
    fold.creates(1);
    fold.take(&Limits::ALL);
    fold.writes(11);
    let began = Instant::now();
    assert_eq!(fold.oldest(), Some(began));
    tokio::time::advance(Duration::from_secs(3)).await;
    // While somebody waits, what is young stays; it is due when it is old.
    let waited = Limits { budget: 200, age: Duration::from_secs(5), ..NOTHING };
    assert_eq!(position(&fold.take(&waited)), None);
    assert_eq!(fold.oldest(), Some(began));
    // What does not fit at all is looked at again later, and not at once for ever.
    let little = Limits { budget: 100, ..NOTHING };
    assert_eq!(position(&fold.take(&little)), None);
    assert_eq!(fold.oldest(), Some(Instant::now()));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(position(&fold.take(&waited)), Some(11));
    assert_eq!(fold.oldest(), None);
}
