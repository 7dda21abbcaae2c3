//! How many GETs a fetch costs, and in which order: counted, over a store that writes each of them down.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::encryption::Encryption;
use super::recorder::{DISTANCE, Recorder, id, keys};
use super::remote_storage::RemoteStorage;
use super::sealed_cache::SealedCache;
use super::starter::Starter;
use super::*;
use crate::base::ObjectId;
use crate::base::sizes::{EXTENT_MAX, READ_GRID};
use crate::format::extent::frames_of;
use crate::format::record::Extent;
use crate::pipeline::{Cpu, Demand, Memory, Settings};

fn starter(recorder: &Arc<Recorder>, get: Demand) -> Arc<Starter> {
    let settings = Settings::default();
    let memory = Memory::new(settings.inflight_bytes);
    let remote = RemoteStorage::new(recorder.store(), keys(), None, get, memory.clone());
    Starter::new(remote, Encryption::new(keys(), Cpu::inline(), settings.open), memory)
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|k| ((k ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn plain(frames: &Frames) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.iter().copied()).collect()
}

/// One file of one extent, and a starter.
async fn one_file(len: usize, get: Demand) -> (Arc<Recorder>, Arc<Starter>, ExtentId, Extent, Vec<u8>) {
    let recorder = Recorder::new();
    let bytes = noise(1, len);
    let (id, extent) = recorder.pack(&keys(), 7, &[(id(2, 1), bytes.clone())]).await.remove(0);
    let starter = starter(&recorder, get);
    (recorder, starter, id, extent, bytes)
}

#[tokio::test(start_paused = true)]
async fn overlapping_requests_are_one_fetch_of_each_frame() {
    let (recorder, starter, id, extent, bytes) = one_file(2 << 20, Settings::default().get).await;
    let ranges: [Range<u32>; 6] = [0..64, 32..96, 0..8, 60..70, 96..100, 10..100];
    let began = Instant::now();
    let asked: Vec<_> = ranges.iter().map(|frames| starter.ask(id.owner, id, &extent, frames.clone())).collect();
    for (frames, asked) in ranges.iter().zip(asked) {
        let (from, to) = (frames.start as usize * 16384, frames.end as usize * 16384);
        assert!(plain(&asked.wait().await.unwrap()) == bytes[from..to], "{frames:?}");
    }
    assert_eq!(began.elapsed().as_millis(), DISTANCE.as_millis(), "one round trip for all");
    let gets = recorder.gets();
    assert_eq!(gets.len(), 3, "0..64, what is new of 32..96, and 96..100: {gets:?}");
    assert_eq!(gets.iter().map(|(_, blocks)| blocks).sum::<u64>(), (100 * 16400u64).div_ceil(READ_GRID as u64));
}

#[tokio::test(start_paused = true)]
async fn a_small_random_read_is_one_get_of_its_blocks() {
    let (recorder, starter, id, extent, bytes) = one_file(2 << 20, Settings::default().get).await;
    let mut at = 12345u32;
    for _ in 0..100 {
        at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) % ((2 << 20) - 4096);
        let frames = frames_of(&extent, at..at + 4096);
        let got = starter.fetch(id.owner, id, &extent, frames.clone()).await.unwrap();
        let from = frames.start as usize * 16384;
        assert!(plain(&got) == bytes[from..from + plain(&got).len()]);
        let gets = recorder.gets();
        assert!(gets.len() <= 1, "{gets:?}");
        assert!(gets.iter().all(|(_, blocks)| *blocks <= 2), "{gets:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_ahead_that_somebody_waits_for_overtakes_the_others() {
    let one = Demand { workers: 1, min: 1, max: 2, bytes: 64 << 20, kept: 0 };
    let (recorder, starter, id, extent, _) = one_file(EXTENT_MAX, one).await;
    for k in 0..8 {
        assert!(starter.ahead(id.owner, id, &extent, 32 * k..32 * k + 32));
    }
    tokio::time::sleep(DISTANCE / 2).await;
    let began = Instant::now();
    starter.fetch(id.owner, id, &extent, 32 * 6..32 * 6 + 4).await.unwrap();
    // Behind what is in flight and what the stage has asked for; its first block comes with the fetch before it.
    assert!(began.elapsed() <= 4 * DISTANCE, "behind what is in flight: {:?}", began.elapsed());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let first_blocks: Vec<u64> = recorder.gets().iter().map(|(first, _)| *first).collect();
    assert_eq!(first_blocks.len(), 8, "it joined the fetch that was there");
    let place = first_blocks.iter().position(|first| *first == 32 * 6 * 16400 / READ_GRID as u64 + 1);
    assert!(place.is_some_and(|place| place <= 3), "{first_blocks:?}");
}

/// A segment of a thousand small files.
async fn packed(owner: impl Fn(u64) -> u64) -> (Arc<Recorder>, Vec<(ExtentId, Extent)>, Vec<Vec<u8>>) {
    let recorder = Recorder::new();
    let files: Vec<_> = (0..1000).map(|k| (id(owner(k), k), noise(k, 4096))).collect();
    let extents = recorder.pack(&keys(), 9, &files).await;
    (recorder, extents, files.into_iter().map(|(_, bytes)| bytes).collect())
}

/// 0..1000 in an order of its own.
fn shuffled() -> impl Iterator<Item = usize> {
    (0..1000).map(|k| (k * 617 + 311) % 1000)
}

#[tokio::test(start_paused = true)]
async fn small_files_side_by_side_cost_a_handful_of_gets_in_any_order() {
    for order in [(0..1000).collect::<Vec<_>>(), (0..1000).rev().collect(), shuffled().collect()] {
        let (recorder, extents, files) = packed(|k| 100 + k).await;
        let starter = starter(&recorder, Settings::default().get);
        for k in order {
            let (id, extent) = &extents[k];
            let got = starter.fetch(id.owner, *id, extent, 0..1).await.unwrap();
            assert!(plain(&got) == files[k], "{k}");
        }
        let gets = recorder.gets();
        assert_eq!(gets[0].1, 1, "one file alone is one block: {gets:?}");
        assert!(gets.len() <= 8, "{gets:?}");
        // Of the last run the store sends only what there is.
        assert!(gets[..gets.len() - 1].iter().map(|(_, blocks)| blocks).sum::<u64>() <= 80, "{gets:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn small_files_read_at_once_share_their_blocks() {
    let (recorder, extents, _) = packed(|k| 100 + k).await;
    let starter = starter(&recorder, Settings::default().get);
    let began = Instant::now();
    let asked: Vec<_> = extents.iter().map(|(id, extent)| starter.ask(id.owner, *id, extent, 0..1)).collect();
    for asked in asked {
        asked.wait().await.unwrap();
    }
    let gets = recorder.gets();
    assert!(gets.len() <= 8, "{gets:?}");
    assert!(began.elapsed() <= 2 * DISTANCE);
}

#[tokio::test(start_paused = true)]
async fn a_file_of_many_small_extents_brings_no_neighbours() {
    let (recorder, extents, _) = packed(|_| 100).await;
    let starter = starter(&recorder, Settings::default().get);
    for k in shuffled() {
        let (id, extent) = &extents[k];
        starter.fetch(id.owner, *id, extent, 0..1).await.unwrap();
    }
    assert!(recorder.gets().iter().all(|(_, blocks)| *blocks <= 2), "each block when it is asked for");
}

/// A disk cache that keeps nothing.
struct Forgetful;

impl SealedCache for Forgetful {
    fn get(&self, _: ObjectId, _: u32) -> Option<Bytes> {
        None
    }

    fn peek(&self, _: ObjectId, _: u32) -> Option<Bytes> {
        None
    }

    fn put(&self, _: ObjectId, _: u32, _: &[u8]) {}

    fn holds(&self, _: ObjectId, _: u32) -> bool {
        false
    }

    fn forget(&self, _: ObjectId, _: u32) -> bool {
        false
    }
}

#[tokio::test(start_paused = true)]
async fn many_small_extents_that_are_read_ahead_share_their_gets() {
    let (recorder, extents, files) = packed(|_| 100).await;
    let (settings, memory) = (Settings::default(), Memory::new(64 << 20));
    let remote = RemoteStorage::new(recorder.store(), keys(), None, settings.get, memory.clone());
    let remote = remote.keeping(Some(Arc::new(Forgetful)));
    let starter = Starter::new(remote, Encryption::new(keys(), Cpu::inline(), settings.open), memory);
    // In an order of their own, as the pages of a table are that was written one by one.
    let wanted: Vec<usize> = shuffled().take(700).collect();
    starter.announce(wanted.iter().map(|k| (&extents[*k].1, 0..1)));
    for k in &wanted {
        let (id, extent) = &extents[*k];
        assert!(starter.ahead(id.owner, *id, extent, 0..1));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let gets = recorder.gets();
    assert!(gets.len() <= 17 && gets.iter().all(|(_, blocks)| *blocks <= 4), "63 blocks, four at a time: {gets:?}");
    for k in wanted {
        let (id, extent) = &extents[k];
        assert!(plain(&starter.fetch(id.owner, *id, extent, 0..1).await.unwrap()) == files[k], "{k}");
    }
    assert_eq!(recorder.gets(), [], "each block once");
}

#[tokio::test(start_paused = true)]
async fn a_failure_reaches_all_who_asked_and_the_next_asks_anew() {
    let (recorder, starter, id, extent, _) = one_file(1 << 20, Settings::default().get).await;
    recorder.down(true);
    let asked: Vec<_> = (0..4).map(|k| starter.ask(id.owner, id, &extent, k..20)).collect();
    for asked in asked {
        assert!(matches!(asked.wait().await, Err(DownloadError::Store(_))));
    }
    recorder.down(false);
    recorder.gets();
    starter.fetch(id.owner, id, &extent, 0..20).await.unwrap();
    assert_eq!(recorder.gets().len(), 1);
    assert_eq!(starter.status()[0].failures, 1);
}
