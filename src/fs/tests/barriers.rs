//! L1 and L2: which operations wait for which files' bytes, and which do not.

use futures::future::LocalBoxFuture;

use super::*;
use crate::base::{ExtentId, Sequence};
use crate::format::commit::ChainLink;
use crate::format::key::Part;
use crate::history::{Batch, Limits};

/// A file with unwritten bytes. It was overwritten once, so it has not only grown.
fn dirty(fs: &Fs, parent: Ino, name: &str) -> Ino {
    let file = fs.mk(parent, name);
    fs.put(file, "first");
    fs.put(file, "later");
    assert!(!fs.is_settled(file));
    file
}

fn set(fs: &Fs, ino: Ino, set: SetAttributes) -> Attributes {
    now(fs.setattr(ino, set, SUPERUSER)).unwrap()
}

#[test]
fn l2_a_renamed_or_linked_file_is_in_the_journal_first() {
    let fs = empty();
    let (a, b, c) = (dirty(&fs, Ino::ROOT, "a"), dirty(&fs, Ino::ROOT, "b"), dirty(&fs, Ino::ROOT, "c"));
    fs.mv((Ino::ROOT, "a"), (Ino::ROOT, "b"), RenameMode::Replace).unwrap();
    assert!(fs.is_settled(a) && !fs.is_settled(b) && !fs.is_settled(c));
    fs.ln(c, Ino::ROOT, "d").unwrap();
    assert!(fs.is_settled(c));
    fs.put(a, "x");
    fs.put(c, "x");
    fs.mv((Ino::ROOT, "b"), (Ino::ROOT, "c"), RenameMode::Exchange).unwrap();
    assert!(fs.is_settled(a) && fs.is_settled(c));
    assert_eq!((fs.at(a).size, fs.at(c).size), (5, 5));
}

#[test]
fn l2_a_renamed_directory_settles_what_lies_below_it_and_nothing_else() {
    let fs = empty();
    let top = fs.mkd(Ino::ROOT, "top");
    let below = fs.mkd(top, "below");
    let other = fs.mkd(Ino::ROOT, "other");
    let inside = [dirty(&fs, top, "a"), dirty(&fs, below, "b")];
    let linked = dirty(&fs, other, "linked");
    fs.ln(linked, below, "here too").unwrap();
    fs.put(linked, "x");
    let outside = [dirty(&fs, other, "c"), dirty(&fs, Ino::ROOT, "d")];
    fs.mv((Ino::ROOT, "top"), (Ino::ROOT, "new"), RenameMode::Replace).unwrap();
    assert!(inside.iter().all(|file| fs.is_settled(*file)) && fs.is_settled(linked));
    assert!(outside.iter().all(|file| !fs.is_settled(*file)));
    fs.mv((Ino::ROOT, "new"), (Ino::ROOT, "other"), RenameMode::Exchange).unwrap();
    assert!(fs.is_settled(outside[0]) && !fs.is_settled(outside[1]));
}

#[test]
fn l2_a_change_of_mode_or_owner_settles_what_did_not_only_grow() {
    let changes = [
        SetAttributes { mode: Some(0o600), ..SetAttributes::default() },
        SetAttributes { uid: Some(5), ..SetAttributes::default() },
        SetAttributes { gid: Some(5), ..SetAttributes::default() },
    ];
    for change in changes {
        let fs = empty();
        let changed = dirty(&fs, Ino::ROOT, "changed");
        let grown = fs.mk(Ino::ROOT, "grown");
        fs.put(grown, "first");
        set(&fs, changed, change);
        set(&fs, grown, change);
        assert!(fs.is_settled(changed) && !fs.is_settled(grown));
    }
}

#[test]
fn l1_new_times_travel_with_all_bytes() {
    let fs = empty();
    let file = fs.mk(Ino::ROOT, "f");
    fs.put(file, "bytes");
    let at = Timestamp { secs: 1, nanos: 2 };
    let got = set(&fs, file, SetAttributes { mtime: Some(SetTime::At(at)), ..SetAttributes::default() });
    assert!(fs.is_settled(file));
    assert_eq!((got.mtime, got.size, fs.at(file).mtime), (at, 5, at));
    fs.put(file, "more");
    assert!(fs.at(file).mtime > at);
}

#[test]
fn what_is_no_barrier_leaves_bytes_in_memory() {
    let fs = empty();
    let file = dirty(&fs, Ino::ROOT, "f");
    fs.mk(Ino::ROOT, "g");
    fs.mv((Ino::ROOT, "g"), (Ino::ROOT, "h"), RenameMode::Replace).unwrap();
    now(fs.setxattr(file, b"user.a", b"", false, false)).unwrap();
    assert_eq!(fs.mv((Ino::ROOT, "f"), (Ino::ROOT, "h"), RenameMode::NoReplace), Err(FsError::Exists));
    assert_eq!(fs.mv((Ino::ROOT, "f"), (Ino::ROOT, "f"), RenameMode::Replace), Ok(()));
    assert_eq!(now(fs.readdir(Ino::ROOT, 0, true, 9)).unwrap().len(), 4);
    fs.rm(Ino::ROOT, "h").unwrap();
    assert!(!fs.is_settled(file));
    let unwritten = fs.at(file);
    assert_eq!((unwritten.size, unwritten.blocks), (5, 1));
    assert_eq!(now(fs.lookup(Ino::ROOT, b"f")), Ok(unwritten));
}

#[test]
fn an_unlinked_files_bytes_go_when_it_is_forgotten() {
    let fs = empty();
    let file = dirty(&fs, Ino::ROOT, "f");
    fs.rm(Ino::ROOT, "f").unwrap();
    assert_eq!(fs.at(file).size, 5);
    fs.put(file, "longer than before");
    assert_eq!((fs.at(file).size, fs.at(file).nlink), (18, 0));
    let mode = SetAttributes { mode: Some(0o600), ..SetAttributes::default() };
    assert_eq!(set(&fs, file, mode).size, 18);
    fs.put(file, "again");
    fs.forget(file);
    assert!(fs.is_settled(file));
    assert_eq!(fs.cache.counts().dirty_bytes, 0);
    assert_eq!(now(fs.getattr(file)), Err(FsError::Stale));
}

#[test]
fn truncate_sets_size_and_mtime_and_takes_set_id_bits() {
    let fs = empty();
    let file = dirty(&fs, Ino::ROOT, "f");
    set(&fs, file, SetAttributes { mode: Some(0o6755), ..SetAttributes::default() });
    let before = fs.at(file);
    let size = SetAttributes { size: Some(3), mtime: Some(SetTime::Now), ..SetAttributes::default() };
    let by_superuser = set(&fs, file, size);
    assert_eq!((by_superuser.size, by_superuser.mode), (3, before.mode));
    assert!(by_superuser.mtime > before.mtime && by_superuser.ctime > before.ctime);
    let by_user = now(fs.setattr(file, SetAttributes { size: Some(3), ..SetAttributes::default() }, USER)).unwrap();
    assert_eq!(by_user.mode & 0o7777, 0o755);
}

#[tokio::test]
async fn what_is_dropped_while_it_waits_has_changed_nothing() {
    let fs = empty();
    let dir = fs.mkd(Ino::ROOT, "dir");
    let file = fs.mk(dir, "f");
    let mut changes: Vec<(&str, LocalBoxFuture<'_, Result<(), FsError>>)> = vec![
        ("rename", Box::pin(fs.rename(dir, b"f", dir, b"g", RenameMode::Replace))),
        ("rename above", Box::pin(fs.rename(Ino::ROOT, b"dir", Ino::ROOT, b"new", RenameMode::Replace))),
        ("link", Box::pin(async { fs.link(file, dir, b"g").await.map(drop) })),
        ("truncate", Box::pin(async { fs.truncate(file, 5, true).await.map(drop) })),
        ("fallocate", Box::pin(async { fs.fallocate(file, 0, 0, 1 << 30, true).await.map(drop) })),
        (
            "setattr",
            Box::pin(async {
                let set = SetAttributes { mode: Some(0o600), ..SetAttributes::default() };
                fs.setattr(file, set, USER).await.map(drop)
            }),
        ),
    ];
    for (what, change) in &mut changes {
        // Too much to be sealed at once, and not only grown.
        fs.put(file, &"x".repeat(200_000));
        fs.put(file, "y");
        let before = fs.at(file);
        assert!(change.as_mut().now_or_never().is_none(), "{what} must wait");
        *change = Box::pin(async { Ok(()) });
        while !fs.is_settled(file) {
            tokio::task::yield_now().await;
        }
        let after = fs.at(file);
        assert_eq!((after.size, after.mode, after.nlink), (before.size, before.mode, 1), "{what}");
        assert_eq!((fs.find(dir, "f"), fs.find(Ino::ROOT, "dir")), (Ok(file), Ok(dir)), "{what}");
    }
}

/// A round whose cut lies before the barrier knows nothing of it yet: it may not let go what the next one takes.
#[tokio::test(start_paused = true)]
async fn l3_what_a_barrier_ordered_outlives_a_round_whose_cut_lies_before_it() {
    let (fs, journal) = over(SimulatedDisk::new(7), SETTINGS, Clock::System);
    let writer = tokio::spawn(journal.clone().run());
    let file = fs.mk(Ino::ROOT, "file");
    journal.wait_durable(journal.end()).await.unwrap();
    let limits = Limits { budget: 1 << 30, age: Duration::ZERO, pressed: false, hold: OUTAGE_MAX, all: false };
    let link = ChainLink { sequence: Sequence(1), hash: [1; 32] };
    fs.put(file, "saved");
    let ordered = fs.fsync_barrier(file).await.unwrap().unwrap();
    now(fs.truncate(file, 0, false)).unwrap();
    assert!(journal.durable().0 < ordered, "nobody waited");
    let batch = fs.history.begin_round(&limits).unwrap();
    assert_eq!(head_of(&batch, file), Some(0));
    assert_eq!(fs.history.end_round(&[], &[], (link, Epoch(1))).unwrap(), []);
    journal.wait_durable(journal.end()).await.unwrap();
    let batch = fs.history.begin_round(&limits).unwrap();
    assert_eq!(head_of(&batch, file), Some(5));
    let number = |key: &Key| if let Part::Extent { number } = key.part { Some(number) } else { None };
    let extents: Vec<_> =
        batch.records.keys().filter_map(number).map(|number| ExtentId { owner: file, number }).collect();
    assert_eq!(extents.len(), 1);
    assert_eq!(fs.history.end_round(&[], &[], (link, Epoch(1))).unwrap(), extents);
    writer.abort();
}

/// What was deferred lies before what waiters were told of: whoever waits for a position before it waits for nothing.
#[tokio::test(start_paused = true)]
async fn c2_a_sync_waits_for_what_was_deferred_and_a_round_has_under_way() {
    let (fs, journal) = over(SimulatedDisk::new(7), SETTINGS, Clock::System);
    let writer = tokio::spawn(journal.clone().run());
    let file = fs.mk(Ino::ROOT, "file");
    fs.put(file, "text");
    now(fs.cache.barrier(&[file])).unwrap();
    journal.wait_durable(journal.end()).await.unwrap();
    let nothing = Limits { budget: 0, age: Duration::ZERO, pressed: false, hold: OUTAGE_MAX, all: false };
    let link = ChainLink { sequence: Sequence(1), hash: [1; 32] };
    assert_eq!(head_of(&fs.history.begin_round(&nothing).unwrap(), file), Some(0));
    fs.history.end_round(&[], &[], (link, Epoch(1))).unwrap();
    assert!(
        fs.history.begin_round(&nothing).is_none(),
        "all is deferred: waiters are told that the vault has come so far"
    );
    let told = journal.durable().0;
    assert_eq!(head_of(&fs.history.begin_round(&Limits::ALL).unwrap(), file), Some(4));
    assert!(fs.history.barrier_on(&[file].into(), u64::MAX).0 > told, "gc");
    assert!(fs.sync_all().await.unwrap() > told);
    fs.history.end_round(&[], &[], (link, Epoch(1))).unwrap();
    let end = journal.end();
    assert_eq!((fs.history.barrier_on(&[file].into(), u64::MAX).0, fs.sync_all().await), (end, Ok(end)));
    writer.abort();
}

fn head_of(batch: &Batch, ino: Ino) -> Option<u64> {
    match batch.records.get(&Key::head(ino))?.record.as_deref() {
        Some(Record::Head(head)) => Some(head.size),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_the_wait_for_the_vault_only_when_nothing_comes_nearer() {
    let minute = OUTAGE_MAX + OUTAGE_LOOK;
    let vault = Notifier::new(Position(0));
    let begun = Instant::now();
    let outage = || Some((begun.elapsed(), "no route to host".to_owned()));
    // It was long: the wait has its own time all the same, for the store may be just coming back.
    tokio::time::sleep(OUTAGE_MAX * 9).await;
    let asked = Instant::now();
    let why = wait_for_vault(&vault, Position(5), outage).await.unwrap_err();
    assert!(asked.elapsed() >= OUTAGE_MAX && asked.elapsed() <= minute, "{:?}", asked.elapsed());
    assert!(why.contains("no route to host") && why.contains("safe in the journal"), "{why}");

    let asked = Instant::now();
    let nearer = async {
        for position in 1..=4 {
            tokio::time::sleep(OUTAGE_MAX - OUTAGE_LOOK * 3).await;
            vault.committed(Position(position));
        }
    };
    let (waited, ()) = tokio::join!(wait_for_vault(&vault, Position(4), outage), nearer);
    assert_eq!(waited, Ok(()), "commits came all the time");
    assert!(asked.elapsed() > OUTAGE_MAX * 3);

    let slow = tokio::time::timeout(OUTAGE_MAX * 5, wait_for_vault(&vault, Position(9), || None)).await;
    assert!(slow.is_err(), "without an outage it waits");
}
