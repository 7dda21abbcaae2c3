//! L4: what an unlinked open file holds beyond the journal lies in segments that no commit names; it can be read, it
//! goes with the file, and if the process dies first, the next mount's sweep removes it.

#[path = "common/in_process.rs"]
mod in_process;

use std::path::Path;
use std::time::Duration;

use dripfs::base::{Clock, Ino, Random};
use dripfs::format::header::Cost;
use dripfs::fs::Caller;
use dripfs::mount::drive::{Closed, Drive, DriveOptions};
use dripfs::store::{self, Store};
use dripfs::vault::gc::Settings;
use dripfs::vault::init;
use in_process::passphrase;

const ME: Caller = Caller { uid: 0, gid: 0, pid: 1 };
const MIB: usize = 1 << 20;
const JOURNAL: u64 = 8 << 20;
/// Three times the journal.
const LARGE: usize = 24;

fn options(state: &Path) -> DriveOptions {
    DriveOptions {
        compress: false,
        cache_bytes: 4 << 20,
        dirty_bytes: 4 << 20,
        journal_bytes: JOURNAL,
        ..in_process::options(state)
    }
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    async fn new() -> Place {
        let place = Place { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(place.state()).unwrap();
        init::init(&place.store(), &passphrase(), Cost::FLOOR, (0, 0), &Random::Kernel, &Clock::System).await.unwrap();
        place
    }

    fn store(&self) -> Store {
        store::open(self.dir.path().join("vault").to_str().unwrap()).unwrap()
    }

    fn state(&self) -> std::path::PathBuf {
        self.dir.path().join("state")
    }

    async fn open(&self, gc: Settings) -> Drive {
        let options = DriveOptions { gc, ..options(&self.state()) };
        Drive::open(self.store(), passphrase(), options).await.unwrap()
    }

    /// Bytes below `segments/`.
    fn segments(&self) -> u64 {
        fn below(dir: &Path) -> u64 {
            let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
            let entries = entries.map(|entry| entry.unwrap().path());
            entries.map(|path| if path.is_dir() { below(&path) } else { path.metadata().map_or(0, |m| m.len()) }).sum()
        }
        below(&self.dir.path().join("vault/segments"))
    }
}

/// No two of these are alike.
fn block(k: usize) -> Vec<u8> {
    (k as u64 + 1).to_le_bytes().repeat(MIB / 8)
}

/// An unlinked file, three times as large as the journal.
async fn unlinked(drive: &Drive) -> Ino {
    let ino = drive.fs.create(Ino::ROOT, b"scratch", 0o600, ME).await.unwrap().ino;
    drive.fs.write(ino, 0, block(0), false).await.unwrap();
    drive.fs.unlink(Ino::ROOT, b"scratch").await.unwrap();
    for k in 0..LARGE {
        drive.fs.write(ino, (k * MIB) as u64, block(k), false).await.unwrap();
    }
    drive.fs.fsync(ino, false).await.unwrap();
    ino
}

async fn is_whole(drive: &Drive, ino: Ino) -> bool {
    for k in 0..LARGE {
        if drive.fs.read(ino, (k * MIB) as u64, MIB as u32).await.unwrap() != block(k) {
            return false;
        }
    }
    true
}

async fn wait_until(what: &str, is: impl Fn() -> bool) {
    for _ in 0..600 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}: not within a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn l4_an_unlinked_file_may_be_larger_than_the_journal_and_its_space_returns() {
    let place = Place::new().await;
    let drive = place.open(Settings::default()).await;
    let ino = unlinked(&drive).await;
    assert!(drive.status().journal_bytes <= JOURNAL);
    assert!(place.segments() >= (LARGE * MIB) as u64 - JOURNAL, "{} bytes", place.segments());
    assert!(is_whole(&drive, ino).await);
    // What is copied from it lies in the vault as any file does.
    let copy = drive.fs.create(Ino::ROOT, b"copy", 0o600, ME).await.unwrap().ino;
    for k in 0..LARGE {
        let bytes = drive.fs.read(ino, (k * MIB) as u64, MIB as u32).await.unwrap();
        drive.fs.write(copy, (k * MIB) as u64, bytes.to_vec(), false).await.unwrap();
    }
    drive.sync(|_| ()).await.unwrap();
    let with_both = place.segments();
    drive.fs.forget(ino);
    let gone = (LARGE * MIB) as u64 - JOURNAL;
    wait_until("the closed file's space", || place.segments() + gone <= with_both).await;
    assert!(is_whole(&drive, copy).await);
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    drop(drive);
    let drive = place.open(Settings::default()).await;
    let copy = drive.fs.lookup(Ino::ROOT, b"copy").await.unwrap().ino;
    assert!(is_whole(&drive, copy).await);
    drive.close(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn l4_a_sweep_leaves_alone_what_an_open_file_spilled_and_takes_what_a_dead_process_left() {
    let place = Place::new().await;
    let soon = Settings {
        first: Duration::from_millis(500),
        every: Duration::from_secs(1),
        grace: Duration::from_millis(200),
        requests: 1000,
        merge_after: 0,
    };
    let drive = place.open(soon).await;
    drive.fs.create(Ino::ROOT, b"stays", 0o600, ME).await.unwrap();
    let ino = unlinked(&drive).await;
    let swept = drive.status().removed;
    drive.fs.create(Ino::ROOT, b"makes work", 0o600, ME).await.unwrap();
    wait_until("a sweep", || drive.status().removed != swept).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(is_whole(&drive, ino).await);
    drive.sync(|_| ()).await.unwrap();
    // The process dies.
    std::mem::forget(drive.give_up().await.map(|_| drive));
    assert!(place.segments() >= (LARGE * MIB) as u64 - JOURNAL);
    let drive = place.open(soon).await;
    wait_until("the sweep of what the dead process left", || place.segments() < MIB as u64).await;
    assert!(drive.fs.lookup(Ino::ROOT, b"stays").await.is_ok());
    assert!(drive.fs.lookup(Ino::ROOT, b"scratch").await.is_err());
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
}
