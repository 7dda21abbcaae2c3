//! The journal's rules, each against a simulated disk that tears what was not synced.

use std::collections::BTreeMap;

use super::*;
use crate::base::disk::simulated::{Dice, SeededBytes, SimulatedDisk};
use crate::base::{Ino, Sequence};
use crate::crypto::kdf;
use crate::crypto::secret::Key as SecretKey;
use crate::format::key::Key;
use crate::format::record::Place;

mod staged;

const DIR: &str = "journal";
/// Stands for a change that only carries a note.
const NOTE: u64 = 1 << 40;

fn keys() -> Arc<Keys> {
    thread_local! {
        static KEYS: Arc<Keys> = Arc::new(Keys::from_master(&SecretKey::from_bytes([7; 32])));
    }
    KEYS.with(Arc::clone)
}

fn random(seed: u64) -> Random {
    Random::Simulated(Arc::new(SeededBytes::new(seed)))
}

fn settings() -> Settings {
    Settings {
        file_bytes: 1 << 20,
        sync_interval: Duration::from_secs(5),
        sync_bytes: 64 << 20,
        memory_bytes: 64 << 20,
        disk_bytes: 1 << 30,
        reserve_bytes: 0,
        stage_least: STAGE_LEAST,
    }
}

/// Bounds of a small journal, for the tests of other rooms.
pub(crate) fn small() -> Settings {
    Settings { sync_bytes: 1 << 20, memory_bytes: 1 << 20, disk_bytes: 1 << 20, ..settings() }
}

/// A change that can be told from others, as a barrier record that names its file (J7).
fn change(number: u64) -> Arc<Change> {
    Arc::new(Change { barrier: vec![Ino(number)], ..Change::default() })
}

fn number(change: &Change) -> u64 {
    change.barrier[0].0
}

fn extent_id(number: u64) -> ExtentId {
    ExtentId { owner: Ino(9), number }
}

fn extent_bytes(number: u64) -> Bytes {
    // Some are gathered, some written from where they lie.
    let len = if number.is_multiple_of(5) { 70_000 } else { 100 + number as usize % 900 };
    (0..len).map(|k| (k as u64 * 31 + number * 7) as u8).collect::<Vec<_>>().into()
}

fn extent(number: u64) -> SealedExtent {
    let bytes = extent_bytes(number);
    let record = Extent {
        key_id: [0; 16],
        nonce: [0; 16],
        frame_log2: 16,
        len: bytes.len() as u32 - 16,
        stored: bytes.len() as u32,
        frames: vec![],
        place: Place::Local,
        extra: None,
    };
    SealedExtent { id: extent_id(number), record, hash: kdf::hash(&bytes), bytes }
}

fn took(sequence: u64, cut: Position) -> Arc<Change> {
    let link = ChainLink { sequence: Sequence(sequence), hash: [sequence as u8; 32] };
    let note = Some(Note::took(link, cut, cut));
    Arc::new(Change { barrier: vec![Ino(NOTE)], note, ..Change::default() })
}

fn recover(disk: &Arc<SimulatedDisk>, named: u64) -> Result<Recovered, JournalError> {
    Journal::recover(disk.clone(), DIR, keys(), Position(named))
}

fn numbers(recovered: &Recovered) -> Vec<u64> {
    recovered.changes.iter().map(|(_, change)| number(change)).collect()
}

fn open_with(disk: &Arc<SimulatedDisk>, settings: Settings) -> Arc<Journal> {
    let recovered = recover(disk, 0).unwrap();
    Journal::resume(recovered, random(disk.calls()), settings, Position(0)).unwrap()
}

fn open(disk: &Arc<SimulatedDisk>) -> Arc<Journal> {
    open_with(disk, settings())
}

/// The writer as a task, gone with the test's life of the machine.
struct Running(tokio::task::JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn run(journal: &Arc<Journal>) -> Running {
    Running(tokio::spawn(journal.clone().run()))
}

/// Appends changes `from..to` and makes each durable by itself: a block each.
async fn append_durable(journal: &Journal, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let position = journal.append(change(n), vec![]);
        journal.wait_durable(position).await.unwrap();
    }
}

fn newest_file(disk: &SimulatedDisk) -> String {
    let names = disk.list(DIR).unwrap();
    format!("{DIR}/{}", names.iter().rfind(|name| *name != "reserve" && super::staged::parse(name).is_none()).unwrap())
}

fn len(disk: &SimulatedDisk, path: &str) -> u64 {
    disk.open(path).unwrap().len().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_was_appended_is_read_back_in_order_with_its_extents() {
    let disk = SimulatedDisk::new(1);
    let journal = open(&disk);
    let running = run(&journal);
    for n in 1..=300 {
        let brought = if n % 3 == 0 { vec![extent(2 * n), extent(2 * n + 1)] } else { vec![] };
        assert_eq!(journal.append(change(n), brought), Position(n));
    }
    assert_eq!(journal.end(), Position(300));
    assert!(journal.read(extent_id(6), 0..10).unwrap().is_ok(), "read from memory before it is durable");
    journal.wait_durable(Position(300)).await.unwrap();
    let (durable, block) = journal.durable();
    assert_eq!((durable, block.unwrap().position), (Position(300), Position(300)));
    let wanted = extent_bytes(6);
    assert_eq!(journal.read(extent_id(6), 3..90).unwrap().unwrap(), wanted.slice(3..90), "and from the file after");
    assert!(journal.read(extent_id(6), 0..wanted.len() as u32 + 1).unwrap().is_err());
    assert!(journal.read(extent_id(7777), 0..1).is_none());
    journal.close().await.unwrap();
    drop(running);

    let disk = disk.kill();
    let recovered = recover(&disk, 0).unwrap();
    assert_eq!(numbers(&recovered), (1..=300).collect::<Vec<_>>());
    assert!(recovered.changes.iter().all(|(position, change)| position.0 == number(change)));
    assert_eq!((recovered.end, recovered.last), (Position(300), block));
    assert_eq!(recovered.extents.len(), 200);
    let journal = Journal::resume(recovered, random(2), settings(), Position(0)).unwrap();
    assert_eq!(journal.durable().0, Position(300));
    for n in (3..=300).step_by(3).flat_map(|n| [2 * n, 2 * n + 1]) {
        let wanted = extent_bytes(n);
        assert_eq!(journal.read(extent_id(n), 0..wanted.len() as u32).unwrap().unwrap(), wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn j1_changes_become_durable_by_themselves_within_the_interval() {
    let disk = SimulatedDisk::new(1);
    let journal = open(&disk);
    let _running = run(&journal);
    journal.append(change(1), vec![]);
    let before = len(&disk, &newest_file(&disk));
    tokio::time::sleep(Duration::from_millis(12)).await;
    assert!(len(&disk, &newest_file(&disk)) > before, "written after 10 ms");
    assert_eq!(journal.durable().0, Position(0));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(journal.durable().0, Position(1), "durable after 5 s");
}

#[tokio::test(start_paused = true)]
async fn j1_one_fdatasync_serves_all_who_wait_and_costs_one_write() {
    let disk = SimulatedDisk::new(1);
    let journal = open(&disk);
    let _running = run(&journal);
    tokio::task::yield_now().await;
    let before = disk.calls();
    let positions: Vec<_> = (0..50).map(|n| journal.append(change(n), vec![extent(n * 5 + 1)])).collect();
    let waits = positions.into_iter().map(|position| journal.wait_durable(position));
    let started = Instant::now();
    futures::future::join_all(waits).await.into_iter().for_each(|result| result.unwrap());
    assert_eq!(disk.calls() - before, 2, "one write, one fdatasync");
    assert_eq!(started.elapsed(), Duration::ZERO, "no timer stands between a waiter and the disk");
}

#[tokio::test(start_paused = true)]
async fn j3_a_torn_tail_is_cut_off_wherever_it_is_torn() {
    let disk = SimulatedDisk::new(1);
    let journal = open(&disk);
    let running = run(&journal);
    append_durable(&journal, 1..3).await;
    let path = newest_file(&disk);
    let start = len(&disk, &path);
    let last = journal.append(change(3), vec![extent(1)]);
    journal.wait_durable(last).await.unwrap();
    drop(running);
    for at in start..len(&disk, &path) {
        let cut = disk.copy();
        cut.truncate(&path, at as usize);
        assert_eq!(numbers(&recover(&cut, 0).unwrap()), [1, 2], "cut at {at}");
        let torn = disk.copy();
        torn.corrupt(&path, at as usize, |bytes| bytes[0] ^= 0x40);
        let recovered = recover(&torn, 0).unwrap();
        assert_eq!(numbers(&recovered), [1, 2], "torn at {at}");
        // What goes on from there is sound.
        let journal = Journal::resume(recovered, random(at), settings(), Position(0)).unwrap();
        let _running = run(&journal);
        append_durable(&journal, 4..5).await;
        assert_eq!(numbers(&recover(&torn, 0).unwrap()), [1, 2, 4], "torn at {at}");
    }
    assert_eq!(numbers(&recover(&disk, 0).unwrap()), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn j3_damage_below_the_durable_end_is_an_error_that_names_the_file() {
    let disk = SimulatedDisk::new(1);
    let journal = open(&disk);
    let _running = run(&journal);
    let first = journal.append(change(1), vec![extent(1)]);
    journal.wait_durable(first).await.unwrap();
    let path = newest_file(&disk);
    let end = len(&disk, &path);
    append_durable(&journal, 2..4).await;
    for at in 0..end {
        let bad = disk.copy();
        bad.corrupt(&path, at as usize, |bytes| bytes[0] ^= 1);
        match recover(&bad, 0) {
            Err(JournalError::Damaged(what)) => assert!(what.contains(&path), "{what}"),
            other => panic!("a flipped bit at {at}: {:?}", other.map(|recovered| numbers(&recovered))),
        }
    }
    // What is missing at the end is damage only if something says that it was there.
    let cut = disk.copy();
    cut.truncate(&path, end as usize);
    assert_eq!(numbers(&recover(&cut, 1).unwrap()), [1]);
    assert!(matches!(recover(&cut, 2), Err(JournalError::Damaged(_))));
}

#[tokio::test(start_paused = true)]
async fn j3_extents_that_are_dead_at_the_durable_end_are_not_checked() {
    let disk = SimulatedDisk::new(1);
    let journal = open(&disk);
    let _running = run(&journal);
    let start = len(&disk, &newest_file(&disk));
    let first = journal.append(change(1), vec![extent(1)]);
    journal.wait_durable(first).await.unwrap();
    let path = newest_file(&disk);
    let end = len(&disk, &path) as usize;
    let dead = Change { records: vec![(Key::extent(extent_id(1)), None)], barrier: vec![Ino(2)], ..Change::default() };
    let position = journal.append(Arc::new(dead), vec![]);
    journal.wait_durable(position).await.unwrap();
    append_durable(&journal, 3..4).await;
    disk.corrupt(&path, end - 1, |bytes| bytes[0] ^= 1);
    assert_eq!(numbers(&recover(&disk, 0).unwrap()), [1, 2, 3]);
    disk.corrupt(&path, start as usize, |bytes| bytes[0] ^= 1);
    assert!(recover(&disk, 0).is_err());
}

#[tokio::test(start_paused = true)]
async fn j3_positions_go_on_above_foreign_commits_and_stay_there() {
    let disk = SimulatedDisk::new(1);
    let journal = open(&disk);
    let running = run(&journal);
    append_durable(&journal, 1..3).await;
    drop(running);
    let recovered = recover(&disk, 0).unwrap();
    let journal = Journal::resume(recovered, random(3), settings(), Position(1000)).unwrap();
    assert_eq!((journal.end(), journal.durable().0), (Position(1000), Position(1000)));
    journal.wait_durable(Position(1000)).await.unwrap();
    // Nothing was appended; the next mount knows all the same.
    let recovered = recover(&disk, 1000).unwrap();
    assert_eq!(recovered.end, Position(1000));
    let journal = Journal::resume(recovered, random(4), settings(), Position(0)).unwrap();
    let running = run(&journal);
    assert_eq!(journal.append(change(1001), vec![]), Position(1001));
    let path = newest_file(&disk);
    let start = len(&disk, &path);
    journal.wait_durable(Position(1001)).await.unwrap();
    drop(running);
    assert_eq!(numbers(&recover(&disk, 1000).unwrap()), [1, 2, 1001]);
    disk.truncate(&path, start as usize + 10);
    let recovered = recover(&disk, 1000).unwrap();
    assert_eq!((numbers(&recovered), recovered.end), (vec![1, 2], Position(1000)));
    assert!(recover(&disk, 1001).is_err());
}

#[tokio::test(start_paused = true)]
async fn j4_a_rewritten_block_keeps_its_old_name_as_an_alias() {
    let disk = SimulatedDisk::new(1);
    let mut names = Vec::new();
    for mount in 0..4 {
        let disk = disk.kill();
        let recovered = recover(&disk, 0).unwrap();
        assert!(names.iter().all(|name| recovered.blocks.contains(name)), "mount {mount}: {names:?}");
        assert_eq!(recovered.last, names.last().copied());
        let journal = Journal::resume(recovered, random(mount), settings(), Position(0)).unwrap();
        let _running = run(&journal);
        names.extend(journal.durable().1);
        append_durable(&journal, mount..mount + 1).await;
        names.extend(journal.durable().1);
        names.dedup();
    }
    assert!(names.len() >= 7, "each mount wrote its predecessor's last block again: {names:?}");
}

#[tokio::test(start_paused = true)]
async fn j4_after_a_failed_fdatasync_everything_is_written_again_in_a_new_file() {
    for seed in 0..40 {
        let disk = SimulatedDisk::new(seed);
        let journal = open(&disk);
        let running = run(&journal);
        append_durable(&journal, 1..3).await;
        let old = newest_file(&disk);
        disk.fail_sync_data(1);
        let position = journal.append(change(3), vec![extent(3)]);
        journal.wait_durable(position).await.unwrap();
        assert_ne!(newest_file(&disk), old);
        assert_eq!(journal.failures(), 1);
        append_durable(&journal, 4..5).await;
        drop(running);
        let disk = disk.power_cut(&mut Dice::new(seed));
        let recovered = recover(&disk, 0).unwrap();
        assert_eq!(numbers(&recovered), [1, 2, 3, 4], "seed {seed}");
        let journal = Journal::resume(recovered, random(seed), settings(), Position(0)).unwrap();
        assert_eq!(journal.read(extent_id(3), 0..50).unwrap().unwrap(), extent_bytes(3).slice(..50));
    }
}

#[tokio::test(start_paused = true)]
async fn j4_while_the_disk_refuses_waiters_wait_for_a_time_and_nothing_is_lost() {
    let disk = SimulatedDisk::new(1);
    let journal = open(&disk);
    let _running = run(&journal);
    disk.set_capacity(Some(0));
    let position = journal.append(change(1), vec![extent(1)]);
    let started = Instant::now();
    let failed = journal.wait_durable(position).await.unwrap_err();
    assert_eq!(started.elapsed(), WAIT_LIMIT);
    assert!(matches!(failed, JournalError::Io { kind: io::ErrorKind::StorageFull, .. }), "{failed}");
    assert!(journal.failures() > 5);
    assert!(journal.read(extent_id(1), 0..1).unwrap().is_ok());
    disk.set_capacity(None);
    journal.wait_durable(position).await.unwrap();
    assert_eq!(numbers(&recover(&disk, 0).unwrap()), [1]);
    assert!(journal.watch().borrow().failing.is_none());
    let names = disk.list(DIR).unwrap();
    assert!(names.iter().all(|name| !name.ends_with(".new")), "failed attempts leave nothing: {names:?}");
}

/// A mount that ends asks for a new file: it must not wait for a disk that others have filled.
#[tokio::test(start_paused = true)]
async fn j4_nobody_waits_for_a_new_file_while_the_disk_refuses() {
    let disk = SimulatedDisk::new(1);
    let journal = open(&disk);
    let _running = run(&journal);
    disk.set_capacity(Some(0));
    let position = journal.append(change(1), vec![extent(1)]);
    journal.wait_durable(position).await.unwrap_err();
    let begun = tokio::time::timeout(WAIT_LIMIT, journal.begin_file()).await;
    assert!(begun.is_ok(), "it waits without bound");
    disk.set_capacity(None);
    journal.wait_durable(position).await.unwrap();
    journal.begin_file().await;
    assert_eq!(numbers(&recover(&disk, 0).unwrap()), [1]);
}

#[tokio::test(start_paused = true)]
async fn j4_close_says_when_not_everything_is_durable() {
    let disk = SimulatedDisk::new(1);
    let journal = open(&disk);
    let _running = run(&journal);
    journal.append(change(1), vec![]);
    disk.set_capacity(Some(0));
    assert!(matches!(journal.close().await, Err(JournalError::Io { .. })));
    assert!(matches!(journal.wait_durable(Position(1)).await, Err(JournalError::Io { .. })));
    assert!(matches!(journal.reserve(1).await, Err(JournalError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn j4_a_resume_that_is_cut_short_anywhere_can_be_done_again() {
    let disk = SimulatedDisk::new(1);
    let journal = open(&disk);
    let running = run(&journal);
    append_durable(&journal, 1..4).await;
    disk.fail_sync_data(1);
    let position = journal.append(change(4), vec![extent(4), extent(5)]);
    journal.wait_durable(position).await.unwrap();
    drop(running);
    for stop in 0..40 {
        let mut dice = Dice::new(stop);
        let mut copy = disk.copy();
        // Twice in a row, so that remains of a first attempt meet a second.
        for attempt in 0..2 {
            let recovered = recover(&copy, 0).unwrap();
            copy.stop_after(stop);
            let done = Journal::resume(recovered, random(2 * stop + attempt), settings(), Position(0)).is_ok();
            assert!(done || stop < 20);
            copy = copy.power_cut(&mut dice);
        }
        let recovered = recover(&copy, 0).unwrap();
        assert_eq!(numbers(&recovered), [1, 2, 3, 4], "stopped after {stop} calls");
        let journal = Journal::resume(recovered, random(stop), settings(), Position(0)).unwrap();
        for n in [4, 5] {
            let wanted = extent_bytes(n);
            assert_eq!(journal.read(extent_id(n), 0..wanted.len() as u32).unwrap().unwrap(), wanted);
        }
        let names = copy.list(DIR).unwrap();
        assert!(names.iter().all(|name| !name.ends_with(".new")), "{names:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn j5_files_are_dropped_oldest_first_once_committed_and_released() {
    let disk = SimulatedDisk::new(1);
    let journal = open_with(&disk, Settings { file_bytes: 1000, ..settings() });
    let _running = run(&journal);
    for n in 1..=10 {
        let position = journal.append(change(n), vec![extent(n * 5 + 1)]);
        journal.wait_durable(position).await.unwrap();
    }
    let files = disk.list(DIR).unwrap();
    assert!(files.len() > 3, "{files:?}");
    let position = journal.append(took(1, Position(8)), vec![]);
    journal.wait_durable(position).await.unwrap();
    journal.committed(Position(8));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(disk.list(DIR).unwrap().starts_with(&files), "extents hold all of them");
    let ids: Vec<_> = (2..=10).map(|n| extent_id(n * 5 + 1)).collect();
    journal.release(&ids);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(disk.list(DIR).unwrap().starts_with(&files), "the oldest holds the others");
    let before = journal.disk_bytes();
    journal.release(&[extent_id(6)]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!disk.list(DIR).unwrap().contains(&files[0]));
    assert!(journal.disk_bytes() < before);
    assert!(journal.read(extent_id(6), 0..1).is_none());
    let recovered = recover(&disk, 8).unwrap();
    assert!(recovered.begins > Position(0) && recovered.begins <= Position(8), "{:?}", recovered.begins);
    assert_eq!(recovered.changes[0].0.0, recovered.begins.0 + 1);
    assert_eq!(recovered.end, position);
    assert_eq!(recovered.took.unwrap().1, Some(Position(8)));
}

#[tokio::test(start_paused = true)]
#[should_panic = "J5"]
async fn j5_nothing_is_dropped_before_a_durable_record_says_what_the_vault_took() {
    let disk = SimulatedDisk::new(1);
    let journal = open(&disk);
    let _running = run(&journal);
    append_durable(&journal, 1..3).await;
    journal.append(took(1, Position(2)), vec![]);
    journal.committed(Position(2));
}

#[tokio::test(start_paused = true)]
async fn j5_a_journal_that_was_dropped_but_for_its_header_still_knows_its_last_block() {
    let disk = SimulatedDisk::new(1);
    let journal = open(&disk);
    let running = run(&journal);
    append_durable(&journal, 1..4).await;
    let at = journal.append(took(1, Position(3)), vec![]);
    journal.wait_durable(at).await.unwrap();
    let block = journal.durable().1.unwrap();
    drop(running);
    let journal = Journal::resume(recover(&disk, 4).unwrap(), random(1), settings(), Position(0)).unwrap();
    let _running = run(&journal);
    assert_eq!(journal.durable(), (Position(4), Some(block)), "all of it was known as durable: nothing is rewritten");
    let at = journal.append(took(2, Position(4)), vec![]);
    journal.wait_durable(at).await.unwrap();
    journal.committed(Position(4));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let names = disk.list(DIR).unwrap();
    assert_eq!(names.len(), 1, "{names:?}");
    let recovered = recover(&disk, 4).unwrap();
    assert!(recovered.blocks.contains(&block), "C4: the journal begins right after it");
    assert_eq!(recovered.begins, Position(4));
}

#[tokio::test(start_paused = true)]
async fn room_is_waited_for_in_memory_and_on_disk() {
    let disk = SimulatedDisk::new(1);
    let bounds = Settings { memory_bytes: 100_000, disk_bytes: 400_000, file_bytes: 1 << 20, ..settings() };
    let journal = open_with(&disk, bounds);
    let _running = run(&journal);
    let started = Instant::now();
    for n in 1..=4 {
        // Each fills the memory: the next waits for the durable end, which reserve itself asks for.
        journal.reserve(70_000).await.unwrap();
        journal.append(change(n), vec![extent(n * 5)]);
    }
    assert!(started.elapsed() < Duration::from_secs(1));
    journal.wait_durable(Position(4)).await.unwrap();
    assert!(journal.pressed());
    journal.reserve(70_000).await.unwrap();
    journal.append(change(5), vec![extent(25)]);
    let full = journal.reserve(70_000).await.err().unwrap();
    assert!(matches!(full, JournalError::Io { kind: io::ErrorKind::StorageFull, .. }), "{full}");
    assert!(started.elapsed() >= WAIT_LIMIT);
    // What frees space gets through, and afterwards all goes on.
    let at = journal.append(took(1, Position(4)), vec![]);
    journal.wait_durable(at).await.unwrap();
    journal.release(&(1..=5).map(|n| extent_id(n * 5)).collect::<Vec<_>>());
    journal.committed(Position(4));
    journal.reserve(70_000).await.unwrap();
}

/// A journal with a reserve on a disk of this size.
fn open_small(disk: &Arc<SimulatedDisk>, capacity: u64) -> Arc<Journal> {
    disk.set_capacity(Some(capacity));
    open_with(disk, Settings { file_bytes: 100_000, reserve_bytes: 40_000, ..settings() })
}

/// Large extents, one a change, until there is no room for another; returns the last number.
async fn fill(journal: &Journal) -> u64 {
    for n in 1.. {
        match journal.reserve(70_000).await {
            Ok(_room) => journal.append(change(n), vec![extent(n * 5)]),
            Err(JournalError::Io { kind: io::ErrorKind::StorageFull, .. }) => return n - 1,
            Err(other) => panic!("{other}"),
        };
        journal.wait_durable(Position(n)).await.unwrap();
    }
    unreachable!()
}

const RESERVE: &str = "journal/reserve";

#[tokio::test(start_paused = true)]
async fn j6_a_journal_that_fills_its_disk_stops_in_time_and_frees_itself() {
    let disk = SimulatedDisk::new(1);
    let journal = open_small(&disk, 1_000_000);
    let _running = run(&journal);
    let started = Instant::now();
    let last = fill(&journal).await;
    assert!(last > 8, "{last}");
    assert!(started.elapsed() >= WAIT_LIMIT && journal.failures() == 0, "writers waited, and the disk never failed");
    assert!(journal.trouble().is_some() && journal.pressed());
    // Where nothing comes free, nobody else waits that long.
    let again = Instant::now();
    assert!(journal.reserve(70_000).await.is_err());
    assert_eq!(again.elapsed(), SHORT_WAIT);
    // The vault took it: its record gets through, and so does what frees space.
    journal.room_for_change(Purpose::Free).await.unwrap();
    let at = journal.append(took(1, Position(last)), vec![]);
    journal.wait_durable(at).await.unwrap();
    journal.release(&(1..=last).map(|n| extent_id(n * 5)).collect::<Vec<_>>());
    journal.committed(Position(last));
    journal.reserve(70_000).await.map(drop).unwrap();
    assert!(journal.trouble().is_none());
}

#[tokio::test(start_paused = true)]
async fn j6_the_reserve_carries_what_frees_space_over_a_disk_that_others_filled() {
    let disk = SimulatedDisk::new(1);
    let journal = open_small(&disk, 1_000_000);
    let _running = run(&journal);
    let journal_bytes =
        |disk: &SimulatedDisk| disk.list(DIR).unwrap().iter().map(|n| len(disk, &format!("{DIR}/{n}"))).sum();
    for n in 1..=6 {
        let at = journal.append(change(n), vec![extent(n * 5)]);
        journal.wait_durable(at).await.unwrap();
    }
    // Not a byte is left.
    disk.set_capacity(Some(journal_bytes(&disk)));
    let at = journal.append(took(1, Position(6)), vec![]);
    journal.wait_durable(at).await.unwrap();
    assert!(disk.open(RESERVE).is_err(), "given back");
    let before = journal.disk_bytes();
    journal.release(&(1..=6).map(|n| extent_id(n * 5)).collect::<Vec<_>>());
    journal.committed(Position(6));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(journal.disk_bytes() < before / 2, "what the vault has is gone from the disk");
    append_durable(&journal, 8..9).await;
    assert_eq!(len(&disk, RESERVE), 40_000, "made again from the room that came free");
}

#[tokio::test(start_paused = true)]
async fn j6_what_failed_is_cut_off_and_written_again_as_far_as_it_fits() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let disk = SimulatedDisk::new(seed);
        let journal = open_small(&disk, 1_000_000);
        let running = run(&journal);
        append_durable(&journal, 1..3).await;
        let (path, durable) = (newest_file(&disk), len(&disk, &newest_file(&disk)));
        // Others fill the disk while blocks are on their way that nobody waits for.
        disk.set_capacity(Some(durable + 40_000 + dice.below(60_000)));
        for n in 3..=6 {
            journal.append(change(n), vec![extent(n * 5)]);
            tokio::time::sleep(Duration::from_millis(11)).await;
        }
        assert!(journal.failures() > 0 && journal.trouble().is_some());
        assert_eq!(len(&disk, &path), durable, "seed {seed}: cut off where the durable end is");
        // Room for some of them: the rest follows when there is more.
        disk.set_capacity(Some(durable + 120_000 + dice.below(60_000)));
        tokio::time::sleep(Duration::from_secs(3)).await;
        let some = journal.durable().0;
        assert!(some >= Position(3) && some < Position(6), "seed {seed}: {some}");
        assert!(journal.wait_durable(Position(6)).await.is_err());
        if dice.chance(50) {
            drop(running);
            let disk = disk.power_cut(&mut dice);
            disk.set_capacity(None);
            assert_eq!(numbers(&recover(&disk, 0).unwrap()), (1..=some.0).collect::<Vec<_>>(), "seed {seed}");
            continue;
        }
        disk.set_capacity(None);
        journal.wait_durable(Position(6)).await.unwrap();
        assert!(journal.trouble().is_none());
        for n in 3..=6 {
            let wanted = extent_bytes(n * 5);
            assert_eq!(journal.read(extent_id(n * 5), 0..wanted.len() as u32).unwrap().unwrap(), wanted);
        }
        assert_eq!(numbers(&recover(&disk.power_cut(&mut dice), 0).unwrap()), [1, 2, 3, 4, 5, 6], "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn j6_a_disk_that_fails_otherwise_is_an_error_that_says_so_and_memory_stays_bounded() {
    let disk = SimulatedDisk::new(1);
    let bounds = Settings { memory_bytes: 100_000, reserve_bytes: 40_000, ..settings() };
    let journal = open_with(&disk, bounds);
    let _running = run(&journal);
    disk.fail_writes(u32::MAX);
    let started = Instant::now();
    let mut n = 0;
    let failed = loop {
        n += 1;
        match journal.room_for_change(Purpose::Add).await {
            Ok(()) => _ = journal.append(change(n), vec![]),
            Err(failed) => break failed,
        }
        assert!(n < 10_000, "changes without end in memory");
    };
    assert!(matches!(failed, JournalError::Io { kind, .. } if kind != io::ErrorKind::StorageFull), "{failed}");
    assert!(started.elapsed() >= WAIT_LIMIT);
    disk.fail_writes(0);
    journal.wait_durable(journal.end()).await.unwrap();
    journal.room_for_change(Purpose::Add).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn j6_an_unlinked_open_file_does_not_hold_the_journal() {
    let disk = SimulatedDisk::new(1);
    let journal = open_with(&disk, Settings { file_bytes: 100_000, disk_bytes: 800_000, ..settings() });
    let _running = run(&journal);
    // The first one is an unlinked file's: no commit ever holds it.
    let orphan = extent_id(5);
    for round in 0..20 {
        let first = journal.end().0 + 1;
        for n in first..first + 3 {
            journal.reserve(70_000).await.map(drop).unwrap();
            let at = journal.append(change(n), vec![extent(n * 5)]);
            journal.wait_durable(at).await.unwrap();
        }
        let cut = journal.durable().0;
        let at = journal.append(took(round + 1, cut), vec![]);
        journal.wait_durable(at).await.unwrap();
        let placed: Vec<_> = (first..=cut.0).map(|n| extent_id(n * 5)).filter(|id| *id != orphan).collect();
        journal.release(&placed);
        journal.committed(cut);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!journal.pressed(), "round {round}: {} bytes", journal.disk_bytes());
    }
    let wanted = extent_bytes(5);
    assert_eq!(journal.read(orphan, 0..wanted.len() as u32).unwrap().unwrap(), wanted);
    let before = journal.disk_bytes();
    journal.release(&[orphan]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(journal.disk_bytes() + 60_000 < before, "its room came back when it ended");
    assert!(journal.read(orphan, 0..1).is_none());
    let recovered = recover(&disk.power_cut(&mut Dice::new(1)), journal.durable().0.0).unwrap();
    assert_eq!(recovered.end, journal.durable().0, "the journal is whole without it");
}

#[tokio::test(start_paused = true)]
async fn j6_a_commit_alone_may_free_files_and_is_asked_for_when_room_is_short() {
    let disk = SimulatedDisk::new(1);
    let journal = open_with(&disk, Settings { file_bytes: 100_000, disk_bytes: 800_000, ..settings() });
    let _running = run(&journal);
    for n in 1..=4 {
        let at = journal.append(change(n), vec![extent(n * 5)]);
        journal.wait_durable(at).await.unwrap();
    }
    assert!(!journal.waits_for_cut(), "less than half is taken");
    for n in 5..=8 {
        let at = journal.append(change(n), vec![extent(n * 5)]);
        journal.wait_durable(at).await.unwrap();
    }
    assert!(journal.waits_for_cut());
    let at = journal.append(took(1, Position(8)), vec![]);
    journal.wait_durable(at).await.unwrap();
    journal.release(&(1..=8).map(|n| extent_id(n * 5)).collect::<Vec<_>>());
    journal.committed(Position(8));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!journal.waits_for_cut() && !journal.pressed());
}

#[tokio::test(start_paused = true)]
async fn a_journal_is_set_aside_whole() {
    let disk = SimulatedDisk::new(1);
    assert!(!Journal::set_aside(&*disk, DIR, "aside/1").unwrap());
    let journal = open(&disk);
    let running = run(&journal);
    append_durable(&journal, 1..4).await;
    drop(running);
    assert!(Journal::set_aside(&*disk, DIR, "aside/1").unwrap());
    let disk = disk.power_cut(&mut Dice::new(1));
    assert!(recover(&disk, 0).unwrap().changes.is_empty());
    let aside = Journal::recover(disk.clone(), "aside/1", keys(), Position(3)).unwrap();
    assert_eq!(numbers(&aside), [1, 2, 3]);
    let journal = open(&disk);
    assert_eq!(journal.end(), Position(0));
    assert!(Journal::set_aside(&*disk, DIR, "aside/1").is_err(), "an older one is never overwritten");
}

#[tokio::test(start_paused = true)]
async fn another_vaults_key_opens_nothing_of_a_journal() {
    let disk = SimulatedDisk::new(1);
    let journal = open(&disk);
    let running = run(&journal);
    append_durable(&journal, 1..4).await;
    drop(running);
    let other = Arc::new(Keys::from_master(&SecretKey::from_bytes([8; 32])));
    assert!(matches!(Journal::recover(disk, DIR, other, Position(0)), Err(JournalError::Damaged(_))));
}

// ------------------------------------------------------------------------------------------ histories by seed

/// What one history expects of its journal.
#[derive(Default)]
struct Model {
    /// Every change that may still be there: number and extents by position.
    appended: BTreeMap<Position, (u64, Vec<u64>)>,
    acknowledged: Position,
    /// The highest cut that a commit took.
    cut: Position,
    sequence: u64,
    counter: u64,
}

impl Model {
    /// Is what was recovered a prefix of what was appended, and everything acknowledged in it?
    fn check(&self, recovered: &Recovered) -> Result<(), String> {
        if recovered.begins > self.cut {
            return Err(format!("dropped up to {}, committed only up to {}", recovered.begins, self.cut));
        }
        let found: Vec<_> = recovered.changes.iter().map(|(position, change)| (*position, number(change))).collect();
        let expected: Vec<_> = self
            .appended
            .range(Position(recovered.begins.0 + 1)..)
            .map(|(position, (number, _))| (*position, *number))
            .take(found.len())
            .collect();
        if found != expected {
            return Err(format!("found {found:?}, expected {expected:?}"));
        }
        let end = found.last().map_or(recovered.begins, |(position, _)| *position);
        if end < self.acknowledged && self.appended.range(Position(end.0 + 1)..=self.acknowledged).next().is_some() {
            return Err(format!("acknowledged up to {}, found up to {end}", self.acknowledged));
        }
        Ok(())
    }

    /// The journal goes on from here: what was torn off never comes back. (Before a resume that succeeded it may: an
    /// unfinished mount promises nobody anything.)
    fn goes_on(&mut self, found: Position) {
        self.appended.retain(|position, _| *position <= found);
    }

    fn check_extents(&self, journal: &Journal, begins: Position) -> Result<(), String> {
        for (position, (_, extents)) in self.appended.range(Position(begins.0 + 1)..) {
            for n in extents {
                let wanted = extent_bytes(*n);
                match journal.read(extent_id(*n), 0..wanted.len() as u32) {
                    Some(Ok(bytes)) if bytes == wanted => {}
                    other => return Err(format!("extent {n} of position {position}: {:?}", other.map(|r| r.err()))),
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, journal: &Journal, dice: &mut Dice) -> Position {
        self.counter += 1;
        let numbers: Vec<u64> = (0..dice.below(3)).map(|k| self.counter * 4 + k).collect();
        let position = journal.append(change(self.counter), numbers.iter().map(|n| extent(*n)).collect());
        self.appended.insert(position, (self.counter, numbers));
        position
    }

    async fn wait(&mut self, journal: &Journal, position: Position) -> bool {
        let durable = journal.wait_durable(position).await.is_ok();
        if durable {
            self.acknowledged = self.acknowledged.max(position);
        }
        durable
    }

    /// A round, as far as the journal sees it.
    async fn round(&mut self, journal: &Journal) {
        let cut = journal.durable().0;
        self.sequence += 1;
        let position = journal.append(took(self.sequence, cut), vec![]);
        self.appended.insert(position, (NOTE, vec![]));
        if self.wait(journal, position).await && journal.durable().0 >= position {
            let dead = self.appended.range(..=cut).flat_map(|(_, (_, extents))| extents).map(|n| extent_id(*n));
            journal.release(&dead.collect::<Vec<_>>());
            self.cut = cut;
            journal.committed(cut);
        }
    }

    async fn live(&mut self, disk: &SimulatedDisk, journal: &Journal, dice: &mut Dice) {
        for _ in 0..dice.below(25) {
            match dice.below(22) {
                0..10 => {
                    let position = self.append(journal, dice);
                    if dice.chance(40) {
                        self.wait(journal, position).await;
                    }
                }
                10..12 => tokio::time::sleep(Duration::from_millis(dice.below(40))).await,
                12 => tokio::time::sleep(Duration::from_secs(6)).await,
                13 | 14 => self.round(journal).await,
                15 => disk.fail_sync_data(1 + dice.below(3) as u32),
                16 => disk.fail_writes(1 + dice.below(2) as u32),
                17 => disk.fail_sync_dir(1),
                18 => disk.set_capacity(Some(dice.below(60_000))),
                19 | 20 => {
                    // Blocks that nobody waits for.
                    for _ in 0..dice.below(6) {
                        self.append(journal, dice);
                        tokio::time::sleep(Duration::from_millis(11)).await;
                    }
                }
                _ => disk.set_capacity(None),
            }
        }
        disk.set_capacity(None);
        if dice.chance(30) {
            // The end comes in the midst of calls.
            disk.stop_after(dice.below(12));
            let position = self.append(journal, dice);
            self.wait(journal, position).await;
        }
    }
}

/// Several lives of one journal, each ended by a power cut or a kill.
async fn history(seed: u64) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    let mut disk = SimulatedDisk::new(seed);
    let mut model = Model::default();
    for life in 0..5 {
        let named = if dice.chance(50) { model.cut } else { Position(0) };
        let recovered = recover(&disk, named.0).map_err(|e| format!("life {life}: {e}"))?;
        model.check(&recovered).map_err(|e| format!("life {life}: {e}"))?;
        let begins = recovered.begins;
        let found = recovered.changes.last().map_or(begins, |(position, _)| *position);
        let above = if dice.chance(10) { Position(recovered.end.0 + 50) } else { Position(0) };
        if dice.chance(20) {
            disk.stop_after(dice.below(20));
        }
        let reserve_bytes = if dice.chance(50) { 10_000 } else { 0 };
        let bounds = Settings { file_bytes: 2000 + dice.below(100_000), reserve_bytes, ..settings() };
        // Large ones, all, none: of dice of their own, so that the rest of a seed's history is what it was.
        let stage_least = [60_000, 1, usize::MAX, usize::MAX][(seed % 4) as usize];
        let bounds = Settings { stage_least, ..bounds };
        if let Ok(journal) = Journal::resume(recovered, random(dice.throw()), bounds, above) {
            disk.stop_after(u64::MAX);
            model.goes_on(found);
            model.check_extents(&journal, begins.max(model.cut)).map_err(|e| format!("life {life}: {e}"))?;
            let _running = run(&journal);
            model.live(&disk, &journal, &mut dice).await;
        }
        disk = if dice.chance(80) { disk.power_cut(&mut dice) } else { disk.kill() };
    }
    Ok(())
}

/// The first of these histories that breaks a promise.
async fn first_failure(seeds: std::ops::Range<u64>) -> Option<(u64, String)> {
    for seed in seeds {
        if let Err(why) = history(seed).await {
            return Some((seed, why));
        }
    }
    None
}

#[tokio::test(start_paused = true)]
async fn promise_4_power_cuts_lose_nothing_acknowledged_and_leave_a_prefix() {
    let seeds = std::env::var("DRIPFS_JOURNAL_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(2000);
    assert_eq!(first_failure(0..seeds).await, None);
}

#[cfg(feature = "plants")]
mod planted {
    use super::*;

    async fn is_found(plant: &'static str) {
        plants::set(plant);
        let found = first_failure(0..2000).await;
        plants::clear();
        println!("{plant}: {found:?}");
        assert!(found.is_some(), "no history finds {plant}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_acknowledgement_before_the_fdatasync_is_found() {
        is_found("J2-ack-before-sync").await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_fdatasync_retried_as_if_nothing_had_been_is_found() {
        is_found("J4-retry-fdatasync").await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_staged_file_without_an_fdatasync_is_found() {
        is_found("J1-staged-unsynced").await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_tail_that_is_kept_behind_a_bad_block_is_found() {
        is_found("J3-tail-kept").await;
    }
}
