//! What reads ask of a distant store: how many GETs, in which order, and how many round trips; what an outage leaves.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
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
    let (recorder, keys) = (Recorder::new(), keys());
    let (mut records, mut files, mut segment) = (Vec::new(), Vec::new(), 0);
    for (k, len) in lens.iter().enumerate() {
        let (ino, bytes) = (Ino(100 + k as u64), noise(k as u64, *len));
        let mut all = Vec::new();
        let parts: Vec<_> = bytes.chunks(EXTENT_MAX).enumerate().map(|(n, part)| (id(ino.0, n as u64), part)).collect();
        for pair in parts.chunks(2) {
            segment += 1;
            let pair: Vec<_> = pair.iter().map(|(id, part)| (*id, part.to_vec())).collect();
            all.extend(recorder.pack(&keys, segment, &pair).await);
        }
        records.push((Key::head(ino), Record::Head(head(&all))));
        records.extend(all.into_iter().map(|(id, extent)| (Key::extent(id), Record::Extent(extent))));
        files.push((ino, bytes));
    }
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
