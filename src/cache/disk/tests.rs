use proptest::prelude::*;

use super::*;
use crate::base::disk::simulated::{Dice, SimulatedDisk};

const BLOCK: usize = READ_GRID;

fn settings(slabs: u64) -> Settings {
    Settings { bytes: slabs * SLAB_BYTES, reserve: 0, thread: false }
}

fn open(disk: &Arc<SimulatedDisk>, slabs: u64) -> Arc<DiskCache> {
    DiskCache::open(disk.clone(), settings(slabs)).expect("a disk cache")
}

fn object(n: u8) -> ObjectId {
    ObjectId([n; 16])
}

fn block(n: u32) -> Vec<u8> {
    n.to_le_bytes().repeat(BLOCK / 4)
}

fn put(cache: &DiskCache, n: u32) {
    cache.put(object(1), n, &block(n));
}

fn get(cache: &DiskCache, n: u32) -> Option<Bytes> {
    cache.get(object(1), n)
}

#[test]
fn blocks_are_found_again_after_a_remount_and_the_last_block_of_an_object_may_be_short() {
    let disk = SimulatedDisk::new(1);
    let cache = open(&disk, 2);
    put(&cache, 0);
    cache.put(object(2), 7, b"short");
    assert_eq!(get(&cache, 0).unwrap(), block(0));
    assert_eq!(get(&cache, 1), None);
    assert_eq!(cache.counts(), Counts { bytes: BLOCK as u64 + 5, hits: 1, misses: 1 });
    drop(cache);
    let cache = open(&disk, 2);
    assert_eq!(get(&cache, 0).unwrap(), block(0));
    assert_eq!(cache.get(object(2), 7).unwrap(), b"short"[..]);
    assert_eq!(cache.counts().bytes, BLOCK as u64 + 5);
}

#[test]
fn it_is_bounded_and_what_was_not_used_for_longest_goes_first_after_a_remount_too() {
    let disk = SimulatedDisk::new(1);
    let cache = open(&disk, 2);
    let room = 2 * u32::from(SLOTS);
    (0..room).for_each(|n| put(&cache, n));
    assert!((0..room).all(|n| cache.holds(object(1), n)));
    // The first two are used again: now 2 and 3 are the next to go.
    assert!(get(&cache, 0).is_some() && get(&cache, 1).is_some());
    put(&cache, room);
    assert!(!cache.holds(object(1), 2));
    cache.finish();
    drop(cache);
    let cache = open(&disk, 2);
    put(&cache, room + 1);
    assert!(!cache.holds(object(1), 3));
    assert!([0, 1, 4, room, room + 1].iter().all(|n| get(&cache, *n).unwrap() == block(*n)));
    assert!(cache.counts().bytes <= 2 * SLAB_BYTES);
    assert_eq!(disk.paths().len(), 2);
}

#[test]
fn a_smaller_setting_gives_files_back_and_none_gives_all_of_them_back() {
    let disk = SimulatedDisk::new(1);
    let cache = open(&disk, 3);
    (0..3 * u32::from(SLOTS)).for_each(|n| put(&cache, n));
    drop(cache);
    let cache = open(&disk, 2);
    assert_eq!((disk.paths().len(), cache.counts().bytes), (2, 2 * u64::from(SLOTS) * BLOCK as u64));
    drop(cache);
    assert!(DiskCache::open(disk.clone(), settings(0)).is_none());
    assert!(disk.paths().is_empty());
}

#[test]
fn what_was_forgotten_stays_forgotten_and_says_whether_anybody_was_given_it() {
    let disk = SimulatedDisk::new(1);
    let cache = open(&disk, 2);
    (0..2).for_each(|n| put(&cache, n));
    get(&cache, 1);
    assert!(!cache.forget(object(1), 0), "nobody had it");
    assert!(cache.forget(object(1), 1));
    assert!(!cache.forget(object(1), 1));
    drop(cache);
    assert_eq!(open(&disk, 2).counts().bytes, 0);
}

#[test]
fn a_full_disk_turns_it_off_and_gets_everything_back() {
    let disk = SimulatedDisk::new(1);
    let cache = open(&disk, 2);
    (0..10).for_each(|n| put(&cache, n));
    disk.set_capacity(Some(0));
    put(&cache, 10);
    assert_eq!(get(&cache, 3), None);
    assert!(disk.paths().is_empty());
    disk.set_capacity(None);
    put(&cache, 11);
    assert_eq!((get(&cache, 11), cache.counts().bytes), (None, 0), "until the next mount");
    put(&open(&disk, 2), 12);
    assert_eq!(disk.paths().len(), 1);
}

#[test]
fn an_error_of_the_disk_turns_it_off() {
    let disk = SimulatedDisk::new(1);
    let cache = open(&disk, 2);
    put(&cache, 0);
    disk.fail_writes(1);
    put(&cache, 1);
    assert_eq!((get(&cache, 0), get(&cache, 1)), (None, None));
    assert_eq!(disk.paths().len(), 1, "what is there serves the next mount");
}

#[test]
fn it_grows_into_no_reserve_and_gives_back_what_is_needed() {
    let disk = SimulatedDisk::new(1);
    let room = 4 * SLAB_BYTES;
    disk.set_capacity(Some(room));
    let cache = DiskCache::open(disk.clone(), Settings { reserve: 2 * SLAB_BYTES, ..settings(9) }).unwrap();
    (0..4 * u32::from(SLOTS)).for_each(|n| put(&cache, n));
    assert_eq!(disk.paths().len(), 2, "the reserve stays free");
    cache.make_room(false);
    assert_eq!(disk.paths().len(), 2);
    // Others take of the reserve.
    disk.create("other").unwrap().write_at(&vec![1; BLOCK], 0).unwrap();
    cache.make_room(false);
    assert_eq!(disk.paths(), ["cache/000000", "other"]);
    let kept = cache.counts().bytes;
    assert!(kept > 0 && kept < SLAB_BYTES);
    cache.make_room(true);
    assert_eq!((disk.paths().len(), cache.counts().bytes), (1, 0));
    put(&cache, 1);
    assert_eq!(get(&cache, 1).unwrap(), block(1), "and it goes on when there is room");
}

#[test]
fn files_of_others_are_removed_from_its_directory_and_torn_ones_do_no_harm() {
    let disk = SimulatedDisk::new(1);
    let cache = open(&disk, 2);
    (0..3).for_each(|n| put(&cache, n));
    drop(cache);
    disk.create("cache/000001").unwrap().write_at(&[7; 9000], 0).unwrap();
    disk.create("cache/notes").unwrap();
    disk.truncate("cache/000000", 8192 + 2 * BLOCK + 100);
    let cache = open(&disk, 2);
    assert_eq!(disk.paths(), ["cache/000000"]);
    assert_eq!((get(&cache, 1).unwrap(), get(&cache, 2)), (block(1).into(), None));
    put(&cache, 2);
    assert_eq!(get(&cache, 2).unwrap(), block(2));
}

#[test]
fn its_thread_writes_in_the_background_and_finish_waits_for_it() {
    let disk = SimulatedDisk::new(1);
    let cache = DiskCache::open(disk.clone(), Settings { thread: true, ..settings(2) }).unwrap();
    (0..20).for_each(|n| put(&cache, n));
    cache.finish();
    assert!((0..20).all(|n| get(&cache, n).unwrap() == block(n)));
    cache.finish();
    drop(cache);
    assert_eq!(open(&disk, 2).counts().bytes, 20 * BLOCK as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// After a crash nothing but whole blocks, or blocks that are not those that were put, can come; the index is sound.
    #[test]
    fn after_a_power_cut_it_opens_and_goes_on(seed in 0u64..1000, puts in prop::collection::vec(0u32..600, 1..40)) {
        let disk = SimulatedDisk::new(seed);
        let cache = open(&disk, 2);
        puts.iter().for_each(|n| put(&cache, *n));
        let disk = disk.power_cut(&mut Dice::new(seed));
        let cache = open(&disk, 2);
        for n in 0..600 {
            if get(&cache, n).is_some_and(|bytes| bytes != block(n)) {
                cache.forget(object(1), n);
            }
        }
        puts.iter().for_each(|n| put(&cache, *n));
        prop_assert!(puts.iter().all(|n| get(&cache, *n).unwrap() == block(*n)));
    }
}

/// Frames through the download pipeline, each time as after a remount: nothing but the disk cache remembers.
mod pipeline {
    use super::*;
    use crate::base::{ExtentId, Ino, Random};
    use crate::crypto::secret::Key;
    use crate::download::encryption::Encryption;
    use crate::download::remote_storage::RemoteStorage;
    use crate::download::starter::Starter;
    use crate::format::commit::segment_name;
    use crate::format::extent::{frames_of, seal};
    use crate::format::keys::Keys;
    use crate::format::record::{Extent, Place};
    use crate::pipeline::{Cpu, Memory, Settings};
    use crate::store::Store;
    use crate::store::faulty::{Fault, Faulty};

    struct Remote {
        keys: Arc<Keys>,
        store: Store,
        extent: Extent,
        disk: Arc<SimulatedDisk>,
    }

    async fn remote(len: usize) -> Remote {
        let keys = Arc::new(Keys::from_master(&Key::from_bytes([1; 32])));
        let (mut extent, bytes) = seal(&keys, &Random::Kernel, [2; 16], &vec![9; len], false);
        extent.place = Place::Segment { id: object(5), offset: 0 };
        let objects = Faulty::new(Fault::Down, 0);
        objects.replace(&segment_name(object(5)), bytes).await;
        Remote { keys, store: Store::over(objects, "memory:///"), extent, disk: SimulatedDisk::new(1) }
    }

    impl Remote {
        /// How many requests of the store it took.
        async fn read(&self, cache: &Arc<DiskCache>) -> u64 {
            let before = self.store.counts().requests;
            let settings = Settings::default();
            let memory = Memory::new(settings.inflight_bytes);
            let remote = RemoteStorage::new(self.store.clone(), self.keys.clone(), None, settings.get, memory.clone());
            let remote = remote.keeping(Some(cache.clone()));
            let encryption = Encryption::new(self.keys.clone(), Cpu::inline(), settings.open);
            let starter = Starter::new(remote, encryption, memory);
            let frames = frames_of(&self.extent, 0..self.extent.len);
            let id = ExtentId { owner: Ino(2), number: 0 };
            let read = starter.fetch(id.owner, id, &self.extent, frames).await.expect("frames");
            assert!(read.iter().all(|frame| frame.iter().all(|byte| *byte == 9)));
            self.store.counts().requests - before
        }
    }

    #[tokio::test]
    async fn what_was_fetched_once_is_not_fetched_after_a_remount() {
        let remote = remote(300_000).await;
        assert_eq!(remote.read(&open(&remote.disk, 2)).await, 1);
        let cache = open(&remote.disk, 2);
        assert_eq!(remote.read(&cache).await, 0);
        assert_eq!(cache.counts().hits, 5);
    }

    #[tokio::test]
    async fn a_flipped_byte_is_found_dropped_and_fetched_again() {
        let remote = remote(300_000).await;
        remote.read(&open(&remote.disk, 2)).await;
        // In the second block's slot.
        remote.disk.corrupt("cache/000000", 8192 + BLOCK + 1000, |bytes| bytes[0] ^= 1);
        let cache = open(&remote.disk, 2);
        assert_eq!(remote.read(&cache).await, 1);
        assert_eq!(remote.read(&cache).await, 0, "and it is kept as it is right");
    }
}
