//! Lives and deaths of entries, in tokio's paused time.

use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::time::advance;

use super::frames::FRAME_COST;
use super::*;
use crate::base::ExtentId;
use crate::base::disk::simulated::SimulatedDisk;
use crate::crypto::secret::SecretBytes;
use crate::fs::Fs;
use crate::fs::tests::{BOUNDS, SETTINGS, over};

const SECOND: Duration = Duration::from_secs(1);

/// A drive without a kernel, its sweep beside it, and what it tells of deaths.
struct Room {
    fs: Arc<Fs>,
    dead: Arc<Mutex<Vec<Ino>>>,
}

fn room() -> Room {
    let (fs, journal) = over(SimulatedDisk::new(7), SETTINGS, Clock::System);
    tokio::spawn(journal.run());
    let (fs, dead) = (Arc::new(fs), Arc::<Mutex<Vec<Ino>>>::default());
    let told = dead.clone();
    fs.cache.on_death(Box::new(move |files| told.lock().extend(files)));
    Room { fs, dead }
}

impl Room {
    /// A file whose bytes are all in the journal.
    async fn file(&self, name: &str, text: &str) -> Ino {
        let ino = self.fs.mk(Ino::ROOT, name);
        self.fs.put(ino, text);
        self.fs.cache.barrier(&[ino]).await.unwrap();
        ino
    }

    async fn read(&self, ino: Ino) -> Vec<u8> {
        self.fs.read(ino, 0, 1 << 20).await.unwrap().to_vec()
    }

    /// Time goes by; the sweep looks each second.
    async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            advance(SECOND).await;
            self.fs.cache.expire();
        }
    }

    fn lives(&self, ino: Ino) -> bool {
        self.fs.cache.entries.peek(ino).is_some()
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_dies_a_minute_after_its_last_use_and_memory_falls_back() {
    let room = room();
    let (a, b) = (room.file("a", "plaintext of a").await, room.file("b", "plaintext of b").await);
    assert_eq!((room.read(a).await, room.read(b).await), (b"plaintext of a".to_vec(), b"plaintext of b".to_vec()));
    assert_eq!(room.fs.cache.counts().clean_bytes, 2 * 28, "as it was written, and as it was read");
    room.pass(59).await;
    assert!(room.lives(a) && room.lives(b));
    room.read(a).await;
    room.pass(1).await;
    assert!(room.lives(a), "reading renews");
    assert!(!room.lives(b));
    assert_eq!(room.fs.cache.counts().clean_bytes, 2 * 14);
    assert_eq!(*room.dead.lock(), [b], "the kernel is to drop its pages");
    room.pass(58).await;
    assert!(room.lives(a));
    room.pass(1).await;
    let counts = room.fs.cache.counts();
    assert_eq!((counts.entries, counts.clean_bytes), (0, 0));
    assert_eq!(*room.dead.lock(), [b, a]);
    assert_eq!(room.read(b).await, b"plaintext of b", "and it is read again from what is sealed");
}

#[tokio::test(start_paused = true)]
async fn opening_and_closing_are_uses_and_looking_at_attributes_is_none() {
    let room = room();
    let (opened, closed, looked_at) = (room.file("a", "x").await, room.file("b", "x").await, room.file("c", "x").await);
    room.pass(40).await;
    room.fs.open(opened, false, false, crate::fs::Caller { uid: 0, gid: 0, pid: 1 }).await.unwrap();
    room.fs.release(closed, true).await.unwrap();
    room.fs.getattr(looked_at).await.unwrap();
    room.pass(30).await;
    assert!(room.lives(opened) && room.lives(closed));
    assert!(!room.lives(looked_at));
}

#[tokio::test(start_paused = true)]
async fn dirty_bytes_stay_until_they_are_safe_however_old_the_entry() {
    let room = room();
    let ino = room.fs.mk(Ino::ROOT, "a");
    room.fs.put(ino, "not in the journal");
    // Nobody sends it on.
    room.pass(200).await;
    assert!(room.lives(ino) && !room.fs.is_settled(ino));
    assert_eq!(room.read(ino).await, b"not in the journal");
    room.fs.cache.barrier(&[ino]).await.unwrap();
    room.pass(121).await;
    assert!(!room.lives(ino));
    assert_eq!(room.read(ino).await, b"not in the journal");
}

#[tokio::test(start_paused = true)]
async fn a_request_under_way_keeps_its_entry() {
    let room = room();
    let ino = room.file("a", "x").await;
    let held = room.fs.cache.entry(ino);
    room.pass(120).await;
    assert!(room.lives(ino));
    drop(held);
    room.pass(61).await;
    assert!(!room.lives(ino));
}

#[tokio::test(start_paused = true)]
async fn a_new_version_is_never_answered_from_an_old_entry() {
    let room = room();
    let ino = room.file("a", "old old old").await;
    assert_eq!(room.read(ino).await, b"old old old");
    room.fs.put(ino, "new");
    assert_eq!(room.read(ino).await, b"new old old");
    room.fs.cache.barrier(&[ino]).await.unwrap();
    assert_eq!(room.read(ino).await, b"new old old");
    room.fs.truncate(ino, 4, false).await.unwrap();
    assert_eq!(room.read(ino).await, b"new ");
}

#[tokio::test(start_paused = true)]
async fn hits_are_counted_by_file_and_in_all() {
    let room = room();
    let ino = room.file("a", "text").await;
    room.read(ino).await;
    let first = room.fs.cache.counts();
    assert_eq!((first.hits, first.misses), (0, 1));
    room.read(ino).await;
    room.read(ino).await;
    let counts = room.fs.cache.counts();
    assert_eq!((counts.hits, counts.misses), (2, 1));
    assert_eq!(room.fs.cache.entries.peek(ino).unwrap().hits(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_unlinked_file_takes_its_plaintext_along_and_a_forgotten_one_stays_for_its_time() {
    let room = room();
    let (gone, kept) = (room.file("a", "secret").await, room.file("b", "kept").await);
    room.read(gone).await;
    room.read(kept).await;
    room.fs.rm(Ino::ROOT, "a").unwrap();
    room.fs.forget(gone);
    room.fs.forget(kept);
    assert!(!room.lives(gone));
    assert_eq!(room.fs.cache.counts().clean_bytes, 2 * 4);
    room.pass(61).await;
    assert_eq!(room.fs.cache.counts().clean_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_forgot_while_it_was_dirty_goes_once_it_is_safe() {
    let room = room();
    let ino = room.fs.mk(Ino::ROOT, "a");
    room.fs.put(ino, "x");
    room.fs.forget(ino);
    room.pass(1).await;
    assert!(room.lives(ino));
    room.fs.cache.barrier(&[ino]).await.unwrap();
    room.pass(1).await;
    assert!(!room.lives(ino));
}

#[tokio::test(start_paused = true)]
async fn entries_are_bounded_in_number_and_the_dirty_ones_outlive_the_others() {
    let room = room();
    let most = BOUNDS.clean_bytes / ENTRIES_SHARE / ENTRY_COST;
    let dirty = room.fs.mk(Ino::ROOT, "dirty");
    room.fs.put(dirty, "x");
    for k in 0..3 * most {
        room.fs.mk(Ino::ROOT, &k.to_string());
    }
    assert!(room.fs.cache.counts().entries <= most as u64);
    assert!(room.lives(dirty));
    assert!(!room.fs.cache.only_grown(Ino(dirty.0 + 1)), "what is forgotten is not known to have only grown (L2)");
    assert_eq!(*room.dead.lock(), [], "the kernel has no pages of what was never read or written");
}

#[tokio::test(start_paused = true)]
async fn budget_comes_back_whole_when_a_file_is_truncated_to_nothing() {
    let room = room();
    let ino = room.fs.mk(Ino::ROOT, "a");
    // As often as would use up the budget if a run's own cost stayed behind.
    for _ in 0..BOUNDS.dirty_bytes / dirty::RUN_COST + 1 {
        room.fs.put(ino, "x");
        room.fs.truncate(ino, 0, false).await.unwrap();
    }
    assert!(room.fs.cache.has_room());
}

/// The pieces of a file's map, in order.
fn pieces(room: &Room, ino: Ino) -> Vec<crate::format::record::Piece> {
    let view = room.fs.history.view();
    let record = view.get(&Key::head(ino)).unwrap().unwrap();
    let Record::Head(head) = &*record else { panic!("a head") };
    crate::history::map::pieces(&view, ino, head, 0..head.size).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_was_written_here_and_there_in_one_capture_lies_side_by_side_in_one_extent() {
    let room = room();
    let ino = room.file("a", &"a".repeat(100 * 1000)).await;
    let mut model = vec![b'a'; 100 * 1000];
    for k in (0..100).rev() {
        model[k * 1000..][..10].fill(b'b');
        room.fs.cache.write(ino, k as u64 * 1000, &[b'b'; 10]).unwrap();
    }
    room.fs.cache.barrier(&[ino]).await.unwrap();
    let whole = pieces(&room, ino);
    let (first, written) = (whole[1].extent, whole[0].extent);
    let of = |id, pieces: &[crate::format::record::Piece]| -> Vec<(u64, u32)> {
        pieces.iter().filter(|piece| piece.extent == id).map(|piece| (piece.offset, piece.start)).collect()
    };
    assert_eq!(of(written, &whole), (0..100).map(|k| (k * 1000, k as u32 * 10)).collect::<Vec<_>>());
    assert_eq!(of(first, &whole).len(), 100);
    // It loses its pieces one by one, and is there for those that are left.
    for k in (0..100).filter(|k| k % 10 != 3) {
        model[k * 1000..][..10].fill(if k % 2 == 0 { b'c' } else { 0 });
        match k % 2 {
            0 => room.fs.cache.write(ino, k as u64 * 1000, &[b'c'; 10]).unwrap(),
            _ => _ = room.fs.cache.punch(ino, k as u64 * 1000..k as u64 * 1000 + 10, None).await.unwrap(),
        }
        room.fs.cache.let_go(ino).unwrap();
        assert!(room.read(ino).await == model, "{k}");
    }
    room.fs.cache.truncate(ino, 53_005).await.unwrap();
    room.fs.cache.let_go(ino).unwrap();
    assert!(room.read(ino).await == model[..53_005]);
    assert_eq!(
        of(written, &pieces(&room, ino)),
        (0..6).map(|k| (3000 + k * 10_000, 30 + k as u32 * 100)).collect::<Vec<_>>()
    );
}

fn frame(len: usize) -> Arc<SecretBytes> {
    Arc::new(SecretBytes::from(vec![1; len]))
}

proptest! {
    #[test]
    fn frames_stay_within_their_bound_and_the_least_recently_used_go(
        steps in prop::collection::vec((0u64..4, 0u64..3, 0u32..8, 1usize..4096, prop::bool::ANY), 1..200),
    ) {
        let most = 16 << 10;
        let room = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = room.enter();
        let (fs, _) = over(SimulatedDisk::new(7), SETTINGS, Clock::System);
        let frames = Frames::new(most);
        let entries: Vec<_> = (10..14).map(|ino| fs.cache.entry(Ino(ino))).collect();
        // The model: what was used last stands last.
        let mut model: Vec<((Ino, ExtentId, u32), usize)> = Vec::new();
        for (file, extent, number, len, put) in steps {
            let entry = &entries[file as usize];
            let id = ExtentId { owner: Ino(99), number: extent };
            let key = (entry.ino, id, number);
            let at = model.iter().position(|(k, _)| *k == key);
            if put {
                frames.put(entry, id, number, &[frame(len)]);
                at.map(|at| model.remove(at));
                model.push((key, len));
                while model.iter().map(|(_, len)| len + FRAME_COST).sum::<usize>() > most {
                    model.remove(0);
                }
            } else {
                let found = frames.leading(entry, id, number..number + 1);
                prop_assert_eq!(found.first().map(|frame| frame.len()), at.map(|at| model[at].1));
                if let Some(at) = at {
                    let used = model.remove(at);
                    model.push(used);
                }
            }
            prop_assert_eq!(frames.bytes(), model.iter().map(|(_, len)| len).sum::<usize>());
        }
        for entry in &entries {
            let of_file = model.iter().filter(|((ino, ..), _)| *ino == entry.ino);
            let expected = of_file.fold((0, 0), |(bytes, n), (_, len)| (bytes + *len as u64, n + 1));
            let held = frames.held(entry.ino);
            prop_assert_eq!((held.bytes, held.frames), expected);
            frames.wipe(entry.ino);
            prop_assert_eq!(frames.held(entry.ino), Default::default());
        }
        prop_assert_eq!(frames.bytes(), 0);
    }
}
