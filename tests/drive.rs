//! A drive without a kernel: a real directory as store, a real state directory, real time.
//!
//! What the whole chain must do at its simplest: what is written is read back, here and from another machine, before
//! and after a round, with the state directory kept and lost.

#[path = "common/in_process.rs"]
mod in_process;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dripfs::base::{Clock, Ino, Random};
use dripfs::format::header::Cost;
use dripfs::fs::{Caller, RenameMode};
use dripfs::mount::drive::{Closed, Drive, DriveOptions};
use dripfs::store::{self, Store};
use dripfs::vault::checkpoint::keeper::When;
use dripfs::vault::gc::Settings;
use dripfs::vault::{VaultError, init};
use in_process::{options, passphrase};

const ME: Caller = Caller { uid: 0, gid: 0, pid: 1 };

struct Place {
    _dir: tempfile::TempDir,
    url: String,
    root: std::path::PathBuf,
}

impl Place {
    async fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let url = root.join("vault").to_str().unwrap().to_owned();
        let place = Place { _dir: dir, url, root };
        init::init(&place.store(), &passphrase(), Cost::FLOOR, (0, 0), &Random::Kernel, &Clock::System).await.unwrap();
        place
    }

    fn store(&self) -> Store {
        store::open(&self.url).unwrap()
    }

    fn state(&self, name: &str) -> std::path::PathBuf {
        let path = self.root.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    async fn open(&self, state: &str) -> Drive {
        Drive::open(self.store(), passphrase(), options(&self.state(state))).await.unwrap()
    }

    async fn reader(&self) -> Drive {
        let state = tempfile::tempdir_in(&self.root).unwrap();
        let options = DriveOptions { read_only: true, ..options(state.path()) };
        Drive::open(self.store(), passphrase(), options).await.unwrap()
    }
}

async fn write(drive: &Drive, name: &str, bytes: &[u8]) -> Ino {
    let made = drive.fs.create(Ino::ROOT, name.as_bytes(), 0o644, ME).await.unwrap();
    for (k, chunk) in bytes.chunks(1 << 20).enumerate() {
        drive.fs.write(made.ino, (k << 20) as u64, chunk.to_vec(), false).await.unwrap();
    }
    drive.fs.release(made.ino, true).await.unwrap();
    made.ino
}

async fn read(drive: &Drive, name: &str) -> Vec<u8> {
    let found = drive.fs.lookup(Ino::ROOT, name.as_bytes()).await.unwrap();
    let mut out = Vec::new();
    while (out.len() as u64) < found.size {
        let part = drive.fs.read(found.ino, out.len() as u64, 128 << 10).await.unwrap();
        assert!(!part.is_empty(), "{name}: ends at {} instead of {}", out.len(), found.size);
        out.extend_from_slice(&part);
    }
    out
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    let mut bytes = vec![0; len];
    rand::rngs::SmallRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_read_here_and_from_another_machine() {
    let place = Place::new().await;
    let drive = place.open("a").await;
    let (small, large, text) = (noise(1, 3000), noise(2, 20 << 20), b"a line of text\n".repeat(200_000));
    write(&drive, "small", &small).await;
    write(&drive, "large", &large).await;
    write(&drive, "text", &text).await;
    assert_eq!(read(&drive, "small").await, small);
    assert_eq!(read(&drive, "large").await, large);
    drive.sync(|_| ()).await.unwrap();
    assert_eq!(read(&drive, "large").await, large);
    drive.fs.rename(Ino::ROOT, b"small", Ino::ROOT, b"renamed", RenameMode::Replace).await.unwrap();
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    drop(drive);

    let elsewhere = place.reader().await;
    assert_eq!(read(&elsewhere, "renamed").await, small);
    assert_eq!(read(&elsewhere, "large").await, large);
    assert_eq!(read(&elsewhere, "text").await, text);
    drop(elsewhere);

    // Another machine may write, for the first has unmounted; then the first goes on from there.
    let other = place.open("b").await;
    write(&other, "more", b"more").await;
    assert_eq!(other.close(|_| ()).await.unwrap(), Closed::Drained);
    drop(other);
    let back = place.open("a").await;
    assert_eq!(read(&back, "more").await, b"more");
    assert_eq!(read(&back, "text").await, text);
    assert_eq!(back.close(|_| ()).await.unwrap(), Closed::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fsynced_is_there_after_the_process_died_and_others_are_refused() {
    let place = Place::new().await;
    let drive = place.open("a").await;
    let bytes = noise(3, 100_000);
    let ino = write(&drive, "kept", &bytes).await;
    drive.fs.fsync(ino, false).await.unwrap();
    // The process dies: nothing is drained.
    std::mem::forget(drive);

    match Drive::open(place.store(), passphrase(), options(&place.state("b"))).await.map(|_| ()) {
        Err(VaultError::InUse { .. }) => {}
        other => panic!("a second writer must be refused: {other:?}"),
    }
    let drive = place.open("a").await;
    assert_eq!(read(&drive, "kept").await, bytes);
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    assert_eq!(read(&place.reader().await, "kept").await, bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_outgrows_its_head_keeps_its_extents() {
    let place = Place::new().await;
    let drive = place.open("a").await;
    let mut bytes = noise(4, 40 * 5000);
    let ino = drive.fs.create(Ino::ROOT, b"pieces", 0o644, ME).await.unwrap().ino;
    for (k, part) in bytes.chunks(5000).enumerate() {
        drive.fs.write(ino, k as u64 * 5000, part.to_vec(), false).await.unwrap();
        drive.fs.fsync(ino, false).await.unwrap();
        // Each state is in a commit of its own: the map moves from the head to records of its own on the way.
        if k % 4 == 3 {
            drive.sync(|_| ()).await.unwrap();
        }
        assert!(read(&drive, "pieces").await == bytes[..(k + 1) * 5000], "after piece {k}");
    }
    // The front of a piece is overwritten: what is left of it moves to another key.
    drive.fs.write(ino, 10_000, noise(5, 100), false).await.unwrap();
    bytes[10_000..10_100].copy_from_slice(&noise(5, 100));
    drive.fs.fsync(ino, false).await.unwrap();
    assert!(read(&drive, "pieces").await == bytes);
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    drop(drive);
    assert!(read(&place.reader().await, "pieces").await == bytes, "from the vault");
    assert!(read(&place.open("a").await, "pieces").await == bytes, "with the journal");
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_nothing_beyond_the_end_does_not_grow_a_file() {
    let place = Place::new().await;
    let drive = place.open("a").await;
    let ino = write(&drive, "file", b"abc").await;
    drive.fs.write(ino, 5000, Vec::new(), false).await.unwrap();
    assert_eq!(drive.fs.getattr(ino).await.unwrap().size, 3);
    drive.close(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_is_counted_once_and_nothing_is_when_all_is_sent() {
    let place = Place::new().await;
    let drive = place.open("a").await;
    drive.sync(|_| ()).await.unwrap();
    let ino = drive.fs.create(Ino::ROOT, b"file", 0o644, ME).await.unwrap().ino;
    for k in 0..5 {
        drive.fs.write(ino, k * 100, vec![1; 100], false).await.unwrap();
        drive.fs.fsync(ino, false).await.unwrap();
    }
    drive.fs.write(ino, 500, vec![1; 100], false).await.unwrap();
    assert_eq!(drive.pending().pending_files, 1);
    drive.sync(|_| ()).await.unwrap();
    drive.fs.unlink(Ino::ROOT, b"file").await.unwrap();
    drive.fs.forget(ino);
    drive.sync(|_| ()).await.unwrap();
    let status = drive.status();
    assert_eq!((status.pending_files, status.pending_bytes), (0, 0));
    assert_eq!(status.oldest_pending_seconds, 0.0);
    drive.close(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_a_takeover_reaches_the_journal_and_close_ends() {
    let place = Place::new().await;
    let first = place.open("a").await;
    let ino = first.fs.create(Ino::ROOT, b"file", 0o644, ME).await.unwrap().ino;
    first.sync(|_| ()).await.unwrap();
    let taker = DriveOptions { takeover: true, ..options(&place.state("b")) };
    let second = Drive::open(place.store(), passphrase(), taker).await.unwrap();
    // Too little for a capture of its own accord: it is dirty when the mount learns that it was fenced.
    first.fs.create(Ino::ROOT, b"other", 0o644, ME).await.unwrap();
    first.fs.fsync_dir(Ino::ROOT).await.unwrap();
    first.fs.write(ino, 0, b"acknowledged".to_vec(), false).await.unwrap();
    while first.status().state != "fenced" {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert!(!matches!(first.status().state.as_str(), "read-only"), "{:?}", first.status());
    }
    assert!(first.fs.fsync(ino, false).await.is_err(), "fsync on a fenced mount");
    assert!(matches!(first.close(|_| ()).await.unwrap(), Closed::Pending(_)));
    assert_eq!(first.status().cache.dirty_bytes, 0, "what was acknowledged is in the journal");
    second.close(|_| ()).await.unwrap();
}

/// A journal of 16 MiB, so that a few dozen MiB go around it several times.
async fn open_small(place: &Place, state: &str) -> Drive {
    let options = DriveOptions { journal_bytes: 16 << 20, ..options(&place.state(state)) };
    Drive::open(place.store(), passphrase(), options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn j6_an_unlinked_open_file_holds_neither_the_journal_nor_its_writers() {
    let place = Place::new().await;
    let drive = open_small(&place, "a").await;
    let kept = noise(1, 3 << 20);
    let orphan = write(&drive, "orphan", &kept).await;
    // Before any commit can take it: its bytes are nowhere but in the journal.
    drive.fs.unlink(Ino::ROOT, b"orphan").await.unwrap();
    for k in 0..10 {
        write(&drive, &format!("file {k}"), &noise(k, 6 << 20)).await;
    }
    drive.sync(|_| ()).await.unwrap();
    // What the vault has goes once the index is safe beyond it.
    wait_until("the journal lets go", || drive.status().journal_bytes < 12 << 20).await;
    for (k, wanted) in kept.chunks(1 << 20).enumerate() {
        assert!(drive.fs.read(orphan, (k << 20) as u64, 1 << 20).await.unwrap() == wanted, "MiB {k} of it");
    }
    // Whatever is short of room, commits do not follow one another without pause.
    let before = drive.status().sequence;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(drive.status().sequence <= before + 2, "{} commits of nothing", drive.status().sequence - before);
    drive.fs.forget(orphan);
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    assert!(read(&place.reader().await, "file 9").await == noise(9, 6 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn j6_an_unlinked_file_may_be_rewritten_for_ever() {
    let place = Place::new().await;
    let drive = open_small(&place, "a").await;
    let ino = write(&drive, "scratch", b"").await;
    drive.fs.unlink(Ino::ROOT, b"scratch").await.unwrap();
    drive.sync(|_| ()).await.unwrap();
    for k in 0..40 {
        let bytes = noise(k, 1 << 20);
        for half in 0..2 {
            drive.fs.write(ino, half << 20, bytes.clone(), false).await.unwrap();
        }
        drive.fs.fsync(ino, false).await.unwrap();
    }
    assert!(drive.status().journal_bytes <= 16 << 20);
    assert!(drive.fs.read(ino, 1 << 20, 1 << 20).await.unwrap() == noise(39, 1 << 20));
    // And what only asks for barriers does not fill it either.
    for _ in 0..200 {
        drive.fs.fsync_dir(Ino::ROOT).await.unwrap();
    }
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    assert_eq!(open_small(&place, "a").await.close(|_| ()).await.unwrap(), Closed::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_small_files_are_a_few_objects() {
    let place = Place::new().await;
    let drive = place.open("a").await;
    let before = drive.status().remote.requests;
    for k in 0..10_000u32 {
        write(&drive, &format!("file {k}"), &noise(k.into(), 4096)).await;
    }
    drive.sync(|_| ()).await.unwrap();
    let requests = drive.status().remote.requests - before;
    let objects = place.store().list("", 1 << 20).await.unwrap().len();
    println!("10,000 files of 4 KiB: {objects} objects, {requests} requests until sync returned");
    assert!(objects <= 100, "{objects} objects");
    assert!(requests < 100, "{requests} requests");
    assert_eq!(read(&drive, "file 77").await, noise(77, 4096));
    drive.close(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_giant_object_under_a_name_of_the_vault_is_tampering_and_fills_no_memory() {
    use dripfs::base::Sequence;
    let with = async |name: &str| {
        let place = Place::new().await;
        std::fs::File::create(place.root.join("vault").join(name)).unwrap().set_len(1 << 40).unwrap();
        let result = Drive::open(place.store(), passphrase(), options(&place.state("a"))).await;
        (place, result)
    };
    let name = dripfs::format::commit::log_name(Sequence(2));
    let (_place, result) = with(&name).await;
    assert!(matches!(&result, Err(VaultError::Tampered(why)) if why.contains(&name)), "{name}: {:?}", result.err());
    // A header counts once the log names it: this one does not.
    let (_place, result) = with(&dripfs::format::header::header_name(2)).await;
    result.unwrap().close(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_whose_oldest_file_is_gone_is_refused_and_nothing_is_committed_without_it() {
    let place = Place::new().await;
    // Each mount begins a file, and each dies before its first round.
    for name in ["first", "second"] {
        let drive = place.open("a").await;
        let ino = write(&drive, name, b"fsynced").await;
        drive.fs.fsync(ino, false).await.unwrap();
        std::mem::forget(drive);
    }
    let journal = place.state("a").join("journal");
    let mut files: Vec<_> = std::fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 2, "{files:?}");
    std::fs::remove_file(&files[0]).unwrap();
    let result = Drive::open(place.store(), passphrase(), options(&place.state("a"))).await.map(|_| ());
    assert!(matches!(&result, Err(VaultError::State { why, .. }) if why.contains("oldest files")), "{result:?}");
    assert_eq!(std::fs::read_dir(&journal).unwrap().count(), files.len() - 1, "what is left is left alone");
    let taker = DriveOptions { takeover: true, ..options(&place.state("a")) };
    Drive::open(place.store(), passphrase(), taker).await.unwrap().close(|_| ()).await.unwrap();
    assert!(place.state("a").join("aside").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_tells_how_safe_it_is() {
    let place = Place::new().await;
    let drive = place.open("a").await;
    let ino = drive.fs.create(Ino::ROOT, b"file", 0o644, ME).await.unwrap().ino;
    let state = async || String::from_utf8(drive.fs.getxattr(ino, b"user.dripfs.state").await.unwrap()).unwrap();
    drive.fs.write(ino, 0, b"acknowledged".to_vec(), false).await.unwrap();
    assert_eq!(state().await, "dirty");
    drive.fs.fsync(ino, false).await.unwrap();
    assert!(["local", "uploading", "remote"].contains(&state().await.as_str()), "{}", state().await);
    drive.sync(|_| ()).await.unwrap();
    assert_eq!(state().await, "remote");
    assert!(drive.fs.listxattr(ino, true).await.unwrap().is_empty(), "it is told, never listed");
    drive.fs.rename(Ino::ROOT, b"file", Ino::ROOT, b"other", RenameMode::Replace).await.unwrap();
    assert!(state().await != "remote", "a new name that the vault lacks");
    drive.close(|_| ()).await.unwrap();
}

/// The lengths of the objects that lie below a directory of the vault.
fn lies(place: &Place, room: &str) -> Vec<u64> {
    lie(place, room).into_values().collect()
}

/// The objects that lie below a directory of the vault, and their lengths.
fn lie(place: &Place, room: &str) -> HashMap<PathBuf, u64> {
    let mut todo = vec![Path::new(&place.url).join(room)];
    let mut lens = HashMap::new();
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten() {
            let entry = entry.unwrap();
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => todo.push(entry.path()),
                Ok(meta) => _ = lens.insert(entry.path(), meta.len()),
                // It was just deleted.
                Err(_) => {}
            }
        }
    }
    lens
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_leaves_the_vault_and_all_else_stays() {
    let place = Place::new().await;
    let gc = Settings {
        first: Duration::from_secs(1),
        every: Duration::from_secs(2),
        grace: Duration::from_millis(300),
        requests: 1000,
        merge_after: 0,
    };
    let sweeping = DriveOptions { gc, ..options(&place.state("a")) };
    let drive = Drive::open(place.store(), passphrase(), sweeping).await.unwrap();
    // A commit of its own, which carries it inline; two segments of their own; and what goes.
    let (inline, held, large) = (noise(1, 3000), noise(2, 1 << 20), noise(3, 1 << 20));
    write(&drive, "inline", &inline).await;
    drive.sync(|_| ()).await.unwrap();
    write(&drive, "large", &large).await;
    drive.sync(|_| ()).await.unwrap();
    let open = write(&drive, "held", &held).await;
    drive.sync(|_| ()).await.unwrap();
    let going: Vec<Ino> = {
        let mut inos = Vec::new();
        for k in 0..3 {
            inos.push(write(&drive, &format!("going{k}"), &noise(10 + k, 12 << 20)).await);
        }
        inos
    };
    drive.sync(|_| ()).await.unwrap();
    let bytes = || lies(&place, "segments").iter().sum::<u64>();
    assert!(bytes() > 36 << 20);
    for k in 0..3 {
        drive.fs.unlink(Ino::ROOT, format!("going{k}").as_bytes()).await.unwrap();
    }
    going.into_iter().for_each(|ino| drive.fs.forget(ino));
    drive.fs.unlink(Ino::ROOT, b"held").await.unwrap();
    drive.sync(|_| ()).await.unwrap();
    // What moves may have found its place in a segment of what goes.
    let is_small = || bytes() < 16 << 20 && lies(&place, "log").len() < 12;
    wait_until("what was deleted is gone", is_small).await;
    wait_until("inline extents have moved", || drive.status().removed.moved_bytes > 0).await;
    assert_eq!(read(&drive, "inline").await, inline);
    assert_eq!(read(&drive, "large").await, large);
    let mut still = Vec::new();
    while still.len() < held.len() {
        still.extend_from_slice(&drive.fs.read(open, still.len() as u64, 128 << 10).await.unwrap());
    }
    assert!(still == held, "an unlinked open file keeps its segments");
    let status = drive.status();
    assert!(status.removed.commits > 0 && status.removed.segments >= 4, "{:?}", status.removed);
    let vault = status.vault.unwrap();
    assert!(vault.live_bytes < 4 << 20 && vault.total_bytes < 16 << 20, "{vault:?}");
    // The class of a segment that holds 1 MiB, as "large" and "held" have one each.
    let of_a_mebibyte = || lies(&place, "segments").into_iter().filter(|len| *len == 16 * 65 * 1024).count();
    assert_eq!(of_a_mebibyte(), 2);
    drive.fs.forget(open);
    wait_until("the closed file's segment is gone", || of_a_mebibyte() == 1).await;
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    drop(drive);
    let elsewhere = place.reader().await;
    assert_eq!(read(&elsewhere, "inline").await, inline);
    assert_eq!(read(&elsewhere, "large").await, large);
    assert!(elsewhere.fs.lookup(Ino::ROOT, b"held").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_nothing_goes_while_a_part_of_the_newest_checkpoint_is_missing() {
    let place = Place::new().await;
    let names = || lie(&place, "segments").into_keys().collect::<HashSet<_>>();
    let drive = place.open("a").await;
    for name in ["stays", "goes"] {
        write(&drive, name, &noise(1, 1 << 20)).await;
        drive.sync(|_| ()).await.unwrap();
    }
    drive.fs.unlink(Ino::ROOT, b"goes").await.unwrap();
    drive.close(|_| ()).await.unwrap();
    drop(drive);
    let before = names();
    // The log is long enough for a checkpoint at once, and then for none; no sweep.
    let long = Duration::from_secs(24 * 3600);
    let gc = Settings { first: long, every: long, grace: Duration::from_millis(100), requests: 1000, merge_after: 0 };
    let checkpoint = When { bytes: u64::MAX, commits: 6, ..When::default() };
    let options = DriveOptions { gc, checkpoint, ..options(&place.state("a")) };
    let drive = Drive::open(place.store(), passphrase(), options.clone()).await.unwrap();
    write(&drive, "first", b"a commit").await;
    drive.sync(|_| ()).await.unwrap();
    wait_until("a checkpoint is made", || lie(&place, "checkpoint").len() == 2).await;
    let away = place.state("away");
    let lost: Vec<_> = names().difference(&before).cloned().collect();
    assert!(!lost.is_empty());
    for path in &lost {
        std::fs::rename(path, away.join(path.file_name().unwrap())).unwrap();
    }
    // One of these names it.
    for name in ["second", "third"] {
        write(&drive, name, b"another").await;
        drive.sync(|_| ()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert!(names().is_superset(&before), "the segments of the state before are all there");
    assert_eq!(drive.status().removed, Default::default());
    for path in &lost {
        std::fs::rename(away.join(path.file_name().unwrap()), path).unwrap();
    }
    drive.close(|_| ()).await.unwrap();
    drop(drive);
    let sweeping = DriveOptions { gc: Settings { first: Duration::ZERO, ..gc }, ..options };
    let drive = Drive::open(place.store(), passphrase(), sweeping).await.unwrap();
    wait_until("what nobody needs is removed", || !names().is_superset(&before)).await;
    assert_eq!(read(&drive, "stays").await, noise(1, 1 << 20));
    drive.close(|_| ()).await.unwrap();
}

async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1200 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within two minutes: {what}");
}
