//! What reads ask of a distant store: how many GETs, in which order, and how many round trips; what an outage leaves.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::base::sizes::READ_GRID;
use crate::base::{Epoch, ExtentId, Position};
use crate::download::encryption::Encryption;
use crate::download::recorder::{DISTANCE, Recorder, id, keys};
use crate::download::remote_storage::RemoteStorage;
use crate::format::record::{Extent, Head, Piece};
use crate::pipeline::{Cpu, Memory, Settings};

const MIB: usize = 1 << 20;
/// What the kernel asks for when it has seen a reader.
const REQUEST: usize = 128 * 1024;

struct World {
    recorder: Arc<Recorder>,
    cache: Arc<Cache>,
    files: Vec<(Ino, Vec<u8>)>,
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|k| ((k ^ (seed << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// A file's map: extents one after the other.
fn head(extents: &[(ExtentId, Extent)]) -> Head {
    let (mut pieces, mut offset) = (Vec::new(), 0);
    for (extent, record) in extents {
        pieces.push(Piece { offset, len: record.len, extent: *extent, start: 0 });
        offset += u64::from(record.len);
    }
    let time = Timestamp::default();
    let (position, extra) = (Position(0), Default::default());
    Head { size: offset, atime: time, mtime: time, ctime: time, position, pieces, spilled: false, extra }
}

/// Files of so many bytes, in extents of 4 MiB, two a segment, on a machine that has nothing of them.
async fn files(lens: &[usize], readahead_bytes: usize) -> World {
    let recorder = Recorder::new();
    let (mut records, mut files, mut segment) = (Vec::new(), Vec::new(), 0);
    for (k, len) in lens.iter().enumerate() {
        let (ino, bytes) = (Ino(100 + k as u64), noise(k as u64, *len));
        let mut all = Vec::new();
        let parts: Vec<_> = bytes.chunks(EXTENT_MAX).enumerate().map(|(n, part)| (id(ino.0, n as u64), part)).collect();
        for pair in parts.chunks(2) {
            segment += 1;
            let pair: Vec<_> = pair.iter().map(|(id, part)| (*id, part.to_vec())).collect();
            all.extend(recorder.pack(&keys(), segment, &pair).await);
        }
        records.push((Key::head(ino), Record::Head(head(&all))));
        records.extend(all.into_iter().map(|(id, extent)| (Key::extent(id), Record::Extent(extent))));
        files.push((ino, bytes));
    }
    world(recorder, records, files, readahead_bytes)
}

/// A file that was written whole, and then over in pieces: the places of one capture after the other, each in rising order
/// and each capture one extent.
async fn rewritten(len: usize, captures: &[Vec<Range<usize>>], readahead_bytes: usize) -> World {
    let (recorder, ino) = (Recorder::new(), Ino(100));
    let mut bytes = noise(0, len);
    let mut plain: Vec<_> = bytes.chunks(EXTENT_MAX).map(<[u8]>::to_vec).collect();
    let whole = plain.iter().enumerate().map(|(n, part)| {
        let (offset, extent) = ((n * EXTENT_MAX) as u64, id(ino.0, n as u64));
        Piece { offset, len: part.len() as u32, extent, start: 0 }
    });
    let mut pieces: Vec<Piece> = whole.collect();
    for (number, places) in (plain.len() as u64..).zip(captures) {
        let mut extent = Vec::new();
        for place in places {
            let new = noise(number << 20 | place.start as u64, place.len());
            bytes[place.clone()].copy_from_slice(&new);
            let (offset, start) = (place.start as u64, extent.len() as u32);
            let new_piece = Piece { offset, len: new.len() as u32, extent: id(ino.0, number), start };
            let outside = [0..offset, new_piece.end()..u64::MAX];
            pieces =
                pieces.iter().flat_map(|old| outside.each_ref().map(|range| old.within(range))).flatten().collect();
            pieces.push(new_piece);
            extent.extend_from_slice(&new);
        }
        plain.push(extent);
    }
    let plain: Vec<_> = (0..).zip(plain).map(|(number, plain)| (id(ino.0, number), plain)).collect();
    let mut extents = Vec::new();
    for (segment, part) in (1..).zip(plain.chunks(2)) {
        extents.extend(recorder.pack(&keys(), segment, part).await);
    }
    let mut records: Vec<_> = pieces.iter().map(|piece| (Key::map(ino, piece.offset), Record::Map(*piece))).collect();
    let head = Head { size: len as u64, pieces: Vec::new(), spilled: true, ..head(&[]) };
    records.push((Key::head(ino), Record::Head(head)));
    records.extend(extents.into_iter().map(|(id, extent)| (Key::extent(id), Record::Extent(extent))));
    world(recorder, records, vec![(ino, bytes)], readahead_bytes)
}

fn world(
    recorder: Arc<Recorder>,
    mut records: Vec<(Key, Record)>,
    files: Vec<(Ino, Vec<u8>)>,
    readahead_bytes: usize,
) -> World {
    let keys = keys();
    records.sort_by_key(|(key, _)| *key);
    let (index, mark) = crate::index::tests::holding(&keys, &records);
    let history = Arc::new(History::new(index, &mark, None, Clock::System, Epoch(0)));
    let settings = Settings::default();
    let memory = Memory::new(settings.inflight_bytes);
    let remote = RemoteStorage::new(recorder.store(), keys.clone(), None, settings.get, memory.clone());
    let encryption = Encryption::new(keys, Cpu::inline(), settings.open);
    let downloads = download::starter::Starter::new(remote, encryption, memory);
    let bounds = Bounds { clean_bytes: 256 * MIB, dirty_bytes: MIB, ttl: super::TTL, readahead_bytes };
    World { recorder, cache: Cache::new(history, None, downloads, bounds, Clock::System), files }
}

impl World {
    async fn read(&self, file: usize, at: usize, len: usize) {
        let (ino, bytes) = &self.files[file];
        let got = self.cache.read(*ino, at as u64, len).await.unwrap();
        assert!(got[..] == bytes[at..(at + len).min(bytes.len())], "{ino} at {at}");
    }

    /// As the kernel does for who reads in sequence: one request after the other.
    async fn read_through(&self, file: usize) {
        for at in (0..self.files[file].1.len()).step_by(REQUEST) {
            self.read(file, at, REQUEST).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_sequential_reader_waits_for_a_few_round_trips_and_gets_each_block_once() {
    let world = files(&[12 * MIB], 32 * MIB).await;
    let began = Instant::now();
    world.read_through(0).await;
    let trips = began.elapsed().as_millis() / DISTANCE.as_millis();
    let gets = world.recorder.gets();
    let blocks: u64 = gets.iter().map(|(_, blocks)| blocks).sum();
    assert!(trips <= 8, "{trips} round trips for 12 MiB: {gets:?}");
    assert!(blocks <= 12 * 16 + 6, "{blocks} blocks of 193: {gets:?}");
    assert!(world.recorder.most_in_flight() >= 4, "several at once");
    assert_eq!(gets[0], (0, 3), "what is asked for comes first, and alone");
}

/// Pages of 4 KiB of a file of so many, at random: captures of so many each.
fn pages(pages: usize, captures: usize, each: usize) -> Vec<Vec<Range<usize>>> {
    let mut at = 7usize;
    let mut random = || {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (at >> 33) % pages * 4096
    };
    let mut capture = || (0..each).map(|_| random()).collect::<std::collections::BTreeSet<usize>>();
    (0..captures).map(|_| capture().into_iter().map(|page| page..page + 4096).collect()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_rewritten_in_pieces_is_read_extent_by_extent() {
    let captures = pages(12 * 256, 8, 128);
    let world = rewritten(12 * MIB, &captures, 32 * MIB).await;
    let began = Instant::now();
    world.read_through(0).await;
    let trips = began.elapsed().as_millis() / DISTANCE.as_millis();
    let gets = world.recorder.gets();
    // A thousand pieces in eleven extents: a few windows, and in each a run or two of each extent.
    assert!(gets.len() <= 100, "{} GETs: {gets:?}", gets.len());
    assert!(trips <= 16, "{trips} round trips for 12 MiB: {gets:?}");
    let blocks: u64 = gets.iter().map(|(_, blocks)| blocks).sum();
    let all = (12 * MIB + 8 * 128 * 4096) / READ_GRID;
    assert!(blocks <= all as u64 * 5 / 4, "{blocks} blocks of {all}: {gets:?}");
}

#[tokio::test(start_paused = true)]
async fn pages_that_lie_side_by_side_in_an_extent_come_together_wherever_they_are_in_the_file() {
    // Sixteen pages, 1 MiB from each other.
    let world = rewritten(16 * MIB, &[(0..16).map(|k| k * MIB..k * MIB + 4096).collect()], 0).await;
    let gets = async |at: usize, len: usize| {
        world.read(0, at, len).await;
        world.recorder.gets().len()
    };
    assert_eq!(gets(3 * MIB, 4096).await, 1);
    assert_eq!(gets(5 * MIB, 4096).await, 0, "its frame's grid block came with the other's");
    assert_eq!(gets(0, 16 * MIB).await, 5, "one for each extent that it was written in, and the other's second block");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
    /// Whatever was written over in whatever pieces, a read gives the bytes that were written last there.
    #[test]
    fn reads_of_a_rewritten_file_are_right(
        len in 100_000usize..400_000,
        captures in proptest::collection::vec(proptest::collection::btree_map(0usize..395_000, 1usize..5000, 1..20), 0..5),
        reads in proptest::collection::vec((0usize..400_000, 1usize..150_000), 1..12),
        ahead in proptest::bool::ANY,
    ) {
        let captures: Vec<Vec<Range<usize>>> = captures.into_iter().map(|places| {
            let mut end = 0;
            let clipped = places.into_iter().map(|(at, count)| {
                let at = at.max(end);
                end = at + count;
                at..end.min(len)
            });
            clipped.filter(|place| place.start < place.end).collect::<Vec<_>>()
        }).filter(|places| !places.is_empty()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = rewritten(len, &captures, if ahead { MIB } else { 0 }).await;
            for (at, count) in reads {
                if at < len {
                    world.read(0, at, count).await;
                    world.read(0, (at + count).min(len - 1), count).await;
                }
            }
            world.read_through(0).await;
        });
    }
}

#[tokio::test(start_paused = true)]
async fn readers_of_several_files_and_places_at_once_each_have_a_window() {
    let world = files(&[4 * MIB, 2 * MIB, 2 * MIB], 32 * MIB).await;
    let began = Instant::now();
    // Two readers in the first file, one in each other.
    let (half, end) = (2 * MIB, 2 * MIB);
    for at in (0..half).step_by(REQUEST) {
        world.read(0, at, REQUEST).await;
        world.read(0, half + at, REQUEST).await;
    }
    for at in (0..end).step_by(REQUEST) {
        world.read(1, at, REQUEST).await;
        world.read(2, at, REQUEST).await;
    }
    let trips = began.elapsed().as_millis() / DISTANCE.as_millis();
    assert!(trips <= 16, "{trips} round trips for 64 requests of four readers");
}

#[tokio::test(start_paused = true)]
async fn a_random_reader_costs_one_round_trip_and_one_small_get_each() {
    let world = files(&[8 * MIB], 32 * MIB).await;
    let mut at = 7usize;
    for _ in 0..50 {
        at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) % (8 * MIB - 4096) / 4096 * 4096;
        let began = Instant::now();
        world.read(0, at, 4096).await;
        let gets = world.recorder.gets();
        assert!(gets.len() <= 1 && gets.iter().all(|(_, blocks)| *blocks <= 2), "{gets:?}");
        assert!(began.elapsed() <= DISTANCE);
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_over_several_extents_is_one_round_trip() {
    let world = files(&[9 * MIB], 0).await;
    let began = Instant::now();
    world.read(0, EXTENT_MAX - REQUEST, EXTENT_MAX + 2 * REQUEST).await;
    assert_eq!(began.elapsed(), DISTANCE);
    assert_eq!(world.recorder.gets().len(), 3, "one for each extent");
}

#[tokio::test(start_paused = true)]
async fn after_a_seek_nothing_is_brought_ahead() {
    let world = files(&[8 * MIB], 2 * MIB).await;
    for at in (0..MIB).step_by(REQUEST) {
        world.read(0, at, REQUEST).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.recorder.gets();
    world.read(0, 6 * MIB, 4096).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let gets = world.recorder.gets();
    assert!(gets.len() == 1 && gets[0].1 <= 2, "{gets:?}");
}

#[tokio::test(start_paused = true)]
async fn read_ahead_keeps_to_its_setting_and_to_memory() {
    let world = files(&[6 * MIB], MIB).await;
    for at in (0..3 * MIB).step_by(REQUEST) {
        world.read(0, at, REQUEST).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let furthest: u64 = world.cache.counts().clean_bytes;
        assert!(furthest <= (at + REQUEST + MIB + MIB / 4) as u64, "{furthest} bytes when {at} were read");
    }
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_what_is_cached_is_read_and_the_rest_fails_within_the_deadline() {
    let world = files(&[5 * MIB], 0).await;
    world.read(0, 0, REQUEST).await;
    world.recorder.down(true);
    world.read(0, 0, REQUEST).await;
    let began = Instant::now();
    let failed = world.cache.read(world.files[0].0, (4 * MIB) as u64, REQUEST).await;
    assert!(matches!(failed, Err(CacheError::Io(_))), "{failed:?}");
    assert!(began.elapsed() < Duration::from_secs(60));
    world.recorder.down(false);
    world.read(0, 4 * MIB, REQUEST).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_given_up_in_time_and_keeps_no_cached_read_waiting() {
    let world = files(&[8 * MIB], 0).await;
    world.read(0, 0, REQUEST).await;
    world.recorder.hang(true);
    let began = Instant::now();
    // More than there are workers: none may wait for the others' deadlines in turn.
    let reads: Vec<_> = (0..100)
        .map(|k| {
            let (cache, ino) = (world.cache.clone(), world.files[0].0);
            tokio::spawn(async move { cache.read(ino, (MIB + k * 65536) as u64, 4096).await })
        })
        .collect();
    tokio::task::yield_now().await;
    world.read(0, 0, REQUEST).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    for read in reads {
        assert!(matches!(read.await.unwrap(), Err(CacheError::Io(_))));
    }
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_glance_fetches_nothing_unless_it_is_told_to_and_then_behind_others() {
    let world = files(&[5 * MIB], 0).await;
    let (ino, bytes) = &world.files[0];
    let mut glance = world.cache.glance(*ino).unwrap();
    let mut out = vec![0; 6 * MIB];
    assert_eq!(world.cache.see(&mut glance, 0, &mut out).unwrap(), 0);
    world.read(0, MIB, REQUEST).await;
    let (counts, arrivals) = (world.cache.counts(), world.cache.arrivals());
    assert_eq!(world.cache.see(&mut glance, 0, &mut out).unwrap(), 0);
    assert!(world.cache.see(&mut glance, MIB as u64, &mut out).unwrap() >= REQUEST);
    assert!(out[..REQUEST] == bytes[MIB..MIB + REQUEST]);
    world.recorder.gets();
    world.cache.bring(&mut glance, 0..4 * MIB as u64).await.unwrap();
    assert!(!world.recorder.gets().is_empty());
    assert!(world.cache.see(&mut glance, 0, &mut out).unwrap() >= 4 * MIB);
    assert!(out[..4 * MIB] == bytes[..4 * MIB]);
    // No use of anything: what memory counts is as it was, but for what the fetch brought for whoever reads the file.
    let now = world.cache.counts();
    assert_eq!((now.hits, now.misses, now.entries), (counts.hits, counts.misses, counts.entries));
    assert!(world.cache.arrivals() > arrivals);
    world.cache.bring(&mut glance, 4 * MIB as u64..9 * MIB as u64).await.unwrap();
    assert_eq!(world.cache.see(&mut glance, 4 * MIB as u64, &mut out).unwrap(), MIB);
    assert!(out[..MIB] == bytes[4 * MIB..]);
}
