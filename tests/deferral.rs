//! C2 and L3: a file that nobody waits for holds up nobody; what a barrier orders is in the commit; what is deferred stays
//! in the vault as it was, survives a crash, and comes in the end.
//!
//! Over a store whose requests take their time by the byte.

#[path = "common/in_process.rs"]
mod in_process;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dripfs::base::{Clock, Ino, Random};
use dripfs::format::header::Cost;
use dripfs::fs::{Caller, RenameMode};
use dripfs::mount::drive::{Closed, Drive, DriveOptions, Durability};
use dripfs::store::Store;
use dripfs::vault::{init, round};
use futures::stream::BoxStream;
use in_process::passphrase;
use object_store::memory::InMemory;
use object_store::path::Path as Name;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

const ME: Caller = Caller { uid: 0, gid: 0, pid: 1 };
const MIB: usize = 1 << 20;
/// How often a request looks how fast it may be.
const STEP: Duration = Duration::from_millis(50);
/// A commit takes a second or so, a segment minutes.
const SNAIL: u64 = 128 << 10;

/// Puts take a second for so many bytes; 0: no time.
#[derive(Debug, Clone)]
struct Slow {
    objects: Arc<InMemory>,
    bytes_per_second: Arc<AtomicU64>,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("slow")
    }
}

#[async_trait]
impl ObjectStore for Slow {
    async fn put_opts(&self, location: &Name, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let mut left = payload.content_length() as u64;
        while left > 0 {
            let pace = self.bytes_per_second.load(Ordering::Relaxed);
            if pace == 0 {
                break;
            }
            tokio::time::sleep(STEP).await;
            left = left.saturating_sub((pace as f64 * STEP.as_secs_f64()) as u64);
        }
        self.objects.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Name, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, location: &Name, options: GetOptions) -> Result<GetResult> {
        self.objects.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Name>>) -> BoxStream<'static, Result<Name>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Name>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Name>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Name, to: &Name, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

struct Place {
    dir: tempfile::TempDir,
    slow: Slow,
    machine: &'static str,
}

fn options(state: &Path) -> DriveOptions {
    DriveOptions {
        durability: Durability::Remote,
        compress: false,
        cache_bytes: 4 << 20,
        dirty_bytes: 8 << 20,
        rounds: DEFERS,
        ..in_process::options(state)
    }
}

/// However slow the machine is that runs this: nothing large travels without a barrier, and none is sent ahead.
const DEFERS: round::Settings = round::Settings {
    spill_above: None,
    budget: 64 << 10,
    little: 64 << 10,
    ahead_least: u64::MAX,
    hold: Duration::from_secs(3600),
    stage_least: dripfs::journal::STAGE_LEAST,
};

impl Place {
    async fn new() -> Place {
        let slow = Slow { objects: Arc::default(), bytes_per_second: Arc::default() };
        let place = Place { dir: tempfile::tempdir().unwrap(), slow, machine: "state" };
        std::fs::create_dir_all(place.state()).unwrap();
        init::init(&place.store(), &passphrase(), Cost::FLOOR, (0, 0), &Random::Kernel, &Clock::System).await.unwrap();
        place
    }

    fn store(&self) -> Store {
        Store::over(Arc::new(self.slow.clone()), "memory:///slow")
    }

    fn state(&self) -> std::path::PathBuf {
        self.dir.path().join(self.machine)
    }

    fn pace(&self, bytes_per_second: u64) {
        self.slow.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    async fn open(&self) -> Drive {
        self.open_with(DEFERS).await
    }

    async fn open_with(&self, rounds: round::Settings) -> Drive {
        let options = DriveOptions { rounds, ..options(&self.state()) };
        Drive::open(self.store(), passphrase(), options).await.unwrap()
    }

    /// What another machine finds in the vault: names, sizes and the first bytes.
    async fn vault(&self) -> BTreeMap<String, (u64, Vec<u8>)> {
        let state = tempfile::tempdir_in(self.dir.path()).unwrap();
        let options = DriveOptions { read_only: true, ..options(state.path()) };
        let drive = Drive::open(self.store(), passphrase(), options).await.unwrap();
        let mut found = BTreeMap::new();
        for entry in drive.fs.readdir(Ino::ROOT, 0, true, 64).await.unwrap() {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            if name != "." && name != ".." {
                let size = drive.fs.getattr(entry.ino).await.unwrap().size;
                let begins = drive.fs.read(entry.ino, 0, 16).await.unwrap().to_vec();
                found.insert(name, (size, begins));
            }
        }
        found
    }
}

async fn make(drive: &Drive, name: &str) -> Ino {
    drive.fs.create(Ino::ROOT, name.as_bytes(), 0o600, ME).await.unwrap().ino
}

/// So many MiB, and what they begin with.
async fn fill(drive: &Drive, ino: Ino, mib: usize) {
    for k in 0..mib {
        let block = (k as u64 + 7).to_le_bytes().repeat(MIB / 8);
        drive.fs.write(ino, (k * MIB) as u64, block, false).await.unwrap();
    }
    drive.fs.flush(ino).await.unwrap();
}

fn begins() -> Vec<u8> {
    7u64.to_le_bytes().repeat(2)
}

/// Dies: what is in the journal stays, as far as it is there.
async fn kill(drive: Drive) {
    drop(drive.give_up().await);
    std::mem::forget(drive);
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_a_large_file_that_nobody_waits_for_holds_up_no_fsync_and_one_that_was_renamed_does() {
    let place = Place::new().await;
    let drive = place.open().await;
    place.pace(SNAIL);
    let large = make(&drive, "large").await;
    fill(&drive, large, 64).await;
    let small = make(&drive, "small").await;
    for k in 0..3u8 {
        drive.fs.write(small, 0, vec![k; 100], false).await.unwrap();
        tokio::time::timeout(Duration::from_secs(60), drive.fs.fsync(small, false)).await.expect("in time").unwrap();
        assert_eq!(drive.status().blocked_by, None);
    }
    let there = place.vault().await;
    assert_eq!(there["small"], (100, vec![2; 16]));
    assert_eq!(there["large"], (0, vec![]), "it was made, and is empty until it is whole");
    // What was renamed goes first, and is named.
    drive.fs.rename(Ino::ROOT, b"large", Ino::ROOT, b"done", RenameMode::Replace).await.unwrap();
    drive.fs.write(small, 0, vec![9; 100], false).await.unwrap();
    let mut named = None;
    let fsync = drive.fs.fsync(small, false);
    tokio::pin!(fsync);
    let early = loop {
        tokio::select! {
            _ = &mut fsync => break named.is_none(),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        if let Some(path) = drive.status().blocked_by {
            named = Some(path);
            place.pace(0);
        }
    };
    assert!(!early, "the fsync returned before the renamed file was there");
    assert!(named.as_deref().is_some_and(|path| path.ends_with("done")), "{named:?}");
    let there = place.vault().await;
    assert_eq!((&there["done"], there.get("large")), (&(64 << 20, begins()), None));
    assert_eq!(there["small"], (100, vec![9; 16]));
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_what_was_deferred_is_sent_ahead_and_comes_with_no_barrier_at_all() {
    let place = Place::new().await;
    let drive = place.open_with(round::Settings { ahead_least: 1 << 20, ..DEFERS }).await;
    let large = make(&drive, "large").await;
    fill(&drive, large, 40).await;
    drive.fs.release(large, true).await.unwrap();
    for _ in 0..600 {
        if place.vault().await.get("large").is_some_and(|found| *found == (40 << 20, begins())) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(place.vault().await["large"], (40 << 20, begins()));
    // Each byte went once, and nothing went in vain.
    let vault = drive.status().vault.expect("seen from its beginning");
    let there = place.slow.objects.list(Some(&Name::from("segments")));
    let there: Vec<ObjectMeta> = futures::TryStreamExt::try_collect(there).await.unwrap();
    let bytes: u64 = there.iter().map(|object| object.size).sum();
    assert_eq!(bytes, vault.total_bytes);
    assert!(vault.live_bytes < 41 << 20, "{vault:?}");
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_what_was_deferred_outlives_a_crash_and_a_lost_index() {
    for with_index in [true, false] {
        let place = Place::new().await;
        let drive = place.open().await;
        place.pace(SNAIL);
        let large = make(&drive, "large").await;
        fill(&drive, large, 24).await;
        let other = make(&drive, "other").await;
        // A commit whose cut lies behind the large file's bytes.
        drive.fs.write(other, 0, b"other".to_vec(), false).await.unwrap();
        drive.fs.fsync(other, false).await.unwrap();
        assert_eq!(place.vault().await["large"].0, 0);
        kill(drive).await;
        if !with_index {
            std::fs::remove_dir_all(place.state().join("index")).unwrap();
        }
        place.pace(0);
        let drive = place.open().await;
        let found = drive.fs.lookup(Ino::ROOT, b"large").await.unwrap();
        assert_eq!(found.size, 24 << 20);
        assert_eq!(drive.fs.read(found.ino, 0, 16).await.unwrap().to_vec(), begins());
        assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
        drop(drive);
        assert_eq!(place.vault().await["large"], (24 << 20, begins()), "with index: {with_index}");
    }
}

/// The machine went down in the midst of it: nobody had asked for a barrier.
#[tokio::test(flavor = "multi_thread")]
async fn c2_what_a_crash_left_of_a_large_file_holds_up_nobody() {
    let mut place = Place::new().await;
    let before = place.open().await;
    let (large, other) = (make(&before, "large").await, make(&before, "other").await);
    fill(&before, large, 24).await;
    // Nobody waits for it, and no barrier is to follow: it gets to the journal by itself.
    while before.status().cache.dirty_bytes > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    before.fs.write(other, 0, b"other".to_vec(), false).await.unwrap();
    before.fs.fsync(other, false).await.unwrap();
    // What another machine would find on this one's disk now; it takes the place of who goes on here.
    let (was, is) = (place.state(), "crashed");
    for dir in ["", "journal"] {
        std::fs::create_dir_all(place.dir.path().join(is).join(dir)).unwrap();
        for entry in std::fs::read_dir(was.join(dir)).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), place.dir.path().join(is).join(dir).join(entry.file_name())).unwrap();
            }
        }
    }
    place.machine = is;
    let drive = place.open().await;
    assert_eq!(drive.fs.lookup(Ino::ROOT, b"large").await.unwrap().size, 24 << 20);
    drive.fs.write(other, 0, b"later".to_vec(), false).await.unwrap();
    drive.fs.fsync(other, false).await.unwrap();
    let there = place.vault().await;
    assert_eq!((&there["other"], &there["large"]), (&(5, b"later".to_vec()), &(0, vec![])));
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    assert_eq!(place.vault().await["large"], (24 << 20, begins()));
    std::mem::forget(before);
}

#[tokio::test(flavor = "multi_thread")]
async fn l3_a_save_without_rename_shows_old_or_new() {
    let place = Place::new().await;
    let drive = place.open().await;
    let file = make(&drive, "file").await;
    drive.fs.write(file, 0, vec![1; 1000], false).await.unwrap();
    drive.sync(|_| ()).await.unwrap();
    let other = make(&drive, "other").await;
    drive.fs.truncate(file, 0, false).await.unwrap();
    drive.fs.fsync(other, false).await.unwrap();
    assert_eq!(place.vault().await["file"], (1000, vec![1; 16]), "old");
    drive.fs.write(file, 0, vec![2; 500], false).await.unwrap();
    drive.fs.flush(file).await.unwrap();
    drive.fs.fsync(other, false).await.unwrap();
    assert_eq!(place.vault().await["file"], (1000, vec![1; 16]), "old, for it is not closed");
    drive.fs.write(file, 500, vec![2; 500], false).await.unwrap();
    drive.fs.release(file, true).await.unwrap();
    for _ in 0..100 {
        if place.vault().await["file"].1 == vec![2; 16] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(place.vault().await["file"], (1000, vec![2; 16]), "new");
    // A barrier orders it, closed or not.
    drive.fs.truncate(file, 0, false).await.unwrap();
    drive.fs.fsync(file, false).await.unwrap();
    assert_eq!(place.vault().await["file"], (0, vec![]));
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn l3_what_was_renamed_and_emptied_before_a_round_is_not_found_empty() {
    let place = Place::new().await;
    let drive = place.open().await;
    let (file, other) = (make(&drive, "new").await, make(&drive, "other").await);
    drive.fs.write(file, 0, vec![1; 1000], false).await.unwrap();
    drive.fs.rename(Ino::ROOT, b"new", Ino::ROOT, b"file", RenameMode::Replace).await.unwrap();
    drive.fs.open(file, true, true, ME).await.unwrap();
    drive.fs.fsync(other, false).await.unwrap();
    assert_eq!(place.vault().await["file"], (1000, vec![1; 16]), "as it was when it was renamed");
    drive.fs.write(file, 0, vec![2; 500], false).await.unwrap();
    drive.fs.flush(file).await.unwrap();
    // What it was lies nowhere but in the vault now.
    drive.fs.fsync(other, false).await.unwrap();
    assert_eq!(place.vault().await["file"], (1000, vec![1; 16]));
    drive.fs.release(file, true).await.unwrap();
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    assert_eq!(place.vault().await["file"], (500, vec![2; 16]));
}
