//! Drives without a kernel: simulated clock and disk, a store in memory.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dripfs::base::disk::simulated::{SeededBytes, SimulatedDisk};
use dripfs::base::{Clock, Ino, Random, Sequence, Timestamp};
use dripfs::crypto::secret::{Key, Passphrase};
use dripfs::format::commit::{Body, LogObject, checkpoint_name, log_name};
use dripfs::format::header::{Cost, Header, header_name};
use dripfs::format::keys::Keys;
use dripfs::fs::{Attributes, Caller, FsError, RenameMode, Seek};
use dripfs::history::versions::VersionId;
use dripfs::index::{Tables, TwinTables};
use dripfs::mount::drive::{Closed, Drive, DriveOptions, Durability, World};
use dripfs::pipeline::Cpu;
use dripfs::store::Store;
use dripfs::vault::checkpoint::keeper::When;
use dripfs::vault::pin::PinFile;
use dripfs::vault::unlock::Unlocked;
use dripfs::vault::{VaultError, init, walk};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::common::noise;

const ME: Caller = Caller { uid: 0, gid: 0, pid: 1 };
const ROOT: Ino = Ino::ROOT;
/// No two mounts draw the same ids.
static SEED: AtomicU64 = AtomicU64::new(1);

struct Place {
    objects: Arc<InMemory>,
    master: [u8; 32],
    header: (u64, [u8; 32]),
    clock: Clock,
}

struct Machine {
    disk: Arc<SimulatedDisk>,
}

impl Machine {
    fn new(seed: u64) -> Machine {
        Machine { disk: SimulatedDisk::new(seed) }
    }
}

impl Place {
    async fn new() -> Place {
        let objects = Arc::new(InMemory::new());
        let store = Store::over(objects.clone(), "simulated:///");
        let random = Random::Simulated(Arc::new(SeededBytes::new(0)));
        let clock = Clock::Simulated {
            wall: Timestamp { secs: 2_000_000_000, nanos: 0 },
            at: tokio::time::Instant::now(),
            slept: Default::default(),
        };
        let passphrase = Passphrase::new(b"simulated".to_vec());
        init::init(&store, &passphrase, Cost::FLOOR, (0, 0), &random, &clock).await.unwrap();
        let number = init::FIRST_HEADER;
        let header = Header::parse(number, &store.get(&header_name(number)).await.unwrap().unwrap()).unwrap();
        let hash = header.hash;
        let master = *header.unlock(&passphrase).unwrap().as_bytes();
        Place { objects, master, header: (number, hash), clock }
    }

    fn store(&self) -> Store {
        Store::over(self.objects.clone(), "simulated:///")
    }

    fn keys(&self) -> Keys {
        Keys::from_master(&Key::from_bytes(self.master))
    }

    async fn open(&self, machine: &Machine, change: impl FnOnce(&mut DriveOptions)) -> Result<Drive, VaultError> {
        let mut options = DriveOptions {
            accept_rollback: false,
            state: "state".into(),
            read_only: false,
            durability: Durability::Local,
            takeover: false,
            compress: false,
            cache_bytes: 1 << 20,
            caching: Default::default(),
            dirty_bytes: 8 << 20,
            journal_bytes: 64 << 20,
            checkpoint: When { bytes: u64::MAX, commits: u64::MAX, ..When::default() },
            follow_seconds: 5,
            pipelines: Default::default(),
            gc: Default::default(),
            rounds: Default::default(),
        };
        change(&mut options);
        let disk = machine.disk.clone();
        let tables = disk.clone();
        let world = World {
            store: self.store(),
            tables: Arc::new(move |dir| Arc::new(TwinTables::new(tables.clone(), dir)) as Arc<dyn Tables>),
            disk: disk.clone(),
            random: Random::Simulated(Arc::new(SeededBytes::new(SEED.fetch_add(1, Ordering::Relaxed)))),
            clock: self.clock.clone(),
            cpu: Cpu::inline(),
            journal_thread: false,
            host: "simulated".to_owned(),
        };
        let pins = PinFile::open(disk)?;
        Drive::open_in(
            world,
            Unlocked { keys: self.keys(), header: self.header, object: Default::default() },
            pins,
            options,
        )
        .await
    }

    async fn writer(&self, machine: &Machine) -> Drive {
        self.open(machine, |_| ()).await.unwrap()
    }

    /// One that looks only when it is asked to.
    async fn follower(&self, machine: &Machine) -> Drive {
        self.open(machine, |options| (options.read_only, options.follow_seconds) = (true, 1 << 30)).await.unwrap()
    }

    async fn names(&self, prefix: &str) -> Vec<String> {
        self.store().list(prefix, 1 << 20).await.unwrap()
    }

    async fn remove(&self, name: &str) {
        self.objects.delete(&Path::from(name)).await.unwrap();
    }

    /// Removes the segments of which there is none in `kept`.
    async fn remove_segments_but(&self, kept: &[String]) {
        for name in self.names("segments/").await {
            if !kept.contains(&name) {
                self.remove(&name).await;
            }
        }
    }

    /// What a writer removes once a checkpoint counts: manifests that are superseded, then the commits that it covers.
    /// Returns how many commits went.
    async fn cut_log(&self) -> usize {
        let (store, keys) = (self.store(), self.keys());
        let walked = walk::walk(&store, &keys, None, None).await.unwrap();
        for name in self.names("checkpoint/").await {
            if name != checkpoint_name(walked.checkpoint.0) {
                self.remove(&name).await;
            }
        }
        let mut removed = 0;
        for n in 1..=walked.manifest.sequence.0 {
            let name = log_name(Sequence(n));
            let Some(bytes) = store.get(&name).await.unwrap() else { continue };
            if let Body::Commit(_) = LogObject::open(&keys, Sequence(n), &bytes).unwrap().body {
                self.remove(&name).await;
                removed += 1;
            }
        }
        removed
    }

    /// The objects as they are now.
    async fn copy(&self) -> Vec<(String, bytes::Bytes)> {
        let mut all = Vec::new();
        for name in self.names("").await {
            all.push((name.clone(), self.store().get(&name).await.unwrap().unwrap()));
        }
        all
    }

    /// The provider puts back how it was.
    async fn roll_back(&self, to: &[(String, bytes::Bytes)]) {
        for name in self.names("").await {
            self.remove(&name).await;
        }
        for (name, bytes) in to {
            self.objects.put(&Path::from(name.as_str()), bytes.clone().into()).await.unwrap();
        }
    }
}

async fn create(drive: &Drive, name: &str) -> Ino {
    drive.fs.create(ROOT, name.as_bytes(), 0o644, ME).await.unwrap().ino
}

async fn write(drive: &Drive, ino: Ino, offset: u64, bytes: &[u8]) {
    for (k, chunk) in bytes.chunks(1 << 20).enumerate() {
        drive.fs.write(ino, offset + ((k as u64) << 20), chunk.to_vec(), false).await.unwrap();
    }
}

async fn committed(drive: &Drive) {
    drive.sync(|_| ()).await.unwrap();
}

async fn file(drive: &Drive, name: &str, bytes: &[u8]) -> Ino {
    let ino = create(drive, name).await;
    write(drive, ino, 0, bytes).await;
    committed(drive).await;
    ino
}

async fn stat(drive: &Drive, name: &str) -> Result<Attributes, FsError> {
    drive.fs.lookup(ROOT, name.as_bytes()).await
}

/// What a fresh open shows.
async fn read(drive: &Drive, name: &str) -> Vec<u8> {
    let found = stat(drive, name).await.unwrap();
    let held = hold(drive, found.ino);
    let bytes = read_held(drive, found.ino, held, 0..found.size).await.unwrap();
    drive.fs.let_go(held);
    bytes
}

fn hold(drive: &Drive, ino: Ino) -> VersionId {
    drive.fs.hold(ino).unwrap().expect("a follower holds what is open")
}

async fn read_held(drive: &Drive, ino: Ino, held: VersionId, range: Range<u64>) -> Result<Vec<u8>, FsError> {
    let mut out = Vec::new();
    while range.start + (out.len() as u64) < range.end {
        let at = range.start + out.len() as u64;
        let part = drive.fs.read_version(ino, held, at, (range.end - at).min(128 << 10) as u32).await?;
        assert!(!part.is_empty(), "{ino}: ends at {at} instead of {}", range.end);
        out.extend_from_slice(&part);
    }
    Ok(out)
}

#[tokio::test(start_paused = true)]
async fn e5_what_is_committed_is_seen_after_a_look_and_names_follow() {
    let place = Place::new().await;
    let (a, b) = (Machine::new(1), Machine::new(2));
    let (writer, follower) = (place.writer(&a).await, place.follower(&b).await);
    assert_eq!(stat(&follower, "one").await, Err(FsError::NotFound));
    let bytes = noise(1, 300_000);
    file(&writer, "one", &bytes).await;
    assert_eq!(stat(&follower, "one").await, Err(FsError::NotFound), "it has not looked");
    assert!(follower.look().await);
    assert_eq!(read(&follower, "one").await, bytes);
    assert_eq!(follower.status().pin, writer.status().pin);
    writer.fs.rename(ROOT, b"one", ROOT, b"two", RenameMode::Replace).await.unwrap();
    writer.fs.mkdir(ROOT, b"dir", 0o755, ME).await.unwrap();
    committed(&writer).await;
    assert!(follower.look().await);
    assert_eq!(stat(&follower, "one").await, Err(FsError::NotFound));
    assert_eq!(read(&follower, "two").await, bytes);
    writer.fs.unlink(ROOT, b"two").await.unwrap();
    committed(&writer).await;
    assert!(follower.look().await);
    assert_eq!(stat(&follower, "two").await, Err(FsError::NotFound));
    assert!(stat(&follower, "dir").await.is_ok());
    assert_eq!(follower.fs.create(ROOT, b"x", 0o644, ME).await.unwrap_err(), FsError::ReadOnly);
    // After an end and a new beginning it goes on from its index.
    follower.close(|_| ()).await.unwrap();
    drop(follower);
    let again = place.follower(&b).await;
    assert!(stat(&again, "dir").await.is_ok());
    assert_eq!(again.status().pin, writer.status().pin);
    assert_eq!(writer.close(|_| ()).await.unwrap(), Closed::Drained);
}

#[tokio::test(start_paused = true)]
async fn e5_a_follower_looks_by_itself_and_finds_nothing_at_one_request_a_look() {
    let place = Place::new().await;
    let (a, b) = (Machine::new(1), Machine::new(2));
    let writer = place.writer(&a).await;
    let follower = place.open(&b, |options| options.read_only = true).await.unwrap();
    file(&writer, "one", b"bytes").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(read(&follower, "one").await, b"bytes");
    assert!(follower.status().followed_seconds_ago.is_some_and(|seconds| seconds <= 6.0));
    let before = follower.status().remote.requests;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let requests = follower.status().remote.requests - before;
    assert!((120..=145).contains(&requests), "{requests} requests in ten minutes");
    assert_eq!(follower.status().state, "read-only");
    assert_eq!(follower.status().reason, None);
}

#[tokio::test(start_paused = true)]
async fn e5_an_open_file_is_whole_from_open_to_close() {
    let place = Place::new().await;
    let (a, b) = (Machine::new(1), Machine::new(2));
    let (writer, follower) = (place.writer(&a).await, place.follower(&b).await);
    // One map in the head, and one in records of its own.
    for (name, len, pieces) in [("small", 50_000, 3), ("large", 3 << 20, 200)] {
        let first = noise(1, len);
        let ino = file(&writer, name, &first).await;
        let mut now = first.clone();
        let rewrite = |seed: u64, now: &mut Vec<u8>| -> Vec<(u64, Vec<u8>)> {
            let step = len / pieces;
            let part = |k: usize| ((k * step + k % 7) as u64, noise(seed * 1000 + k as u64, step / 2));
            let parts: Vec<_> = (0..pieces).map(part).collect();
            for (at, bytes) in &parts {
                now[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
            }
            parts
        };
        let mut held: Vec<(VersionId, Vec<u8>)> = Vec::new();
        for seed in 2..6 {
            assert!(follower.look().await);
            held.push((hold(&follower, ino), now.clone()));
            assert!(read(&follower, name).await == now, "{name}: a fresh open");
            for (at, bytes) in rewrite(seed, &mut now) {
                write(&writer, ino, at, &bytes).await;
                // Each an extent of its own.
                writer.fs.fsync(ino, false).await.unwrap();
            }
            committed(&writer).await;
        }
        writer.fs.truncate(ino, 1000, false).await.unwrap();
        committed(&writer).await;
        assert!(follower.look().await);
        assert_eq!(stat(&follower, name).await.unwrap().size, 1000, "fstat follows the newest");
        for (k, (version, bytes)) in held.iter().enumerate() {
            let whole = read_held(&follower, ino, *version, 0..len as u64).await.unwrap();
            assert!(whole == *bytes, "{name}: version {k}");
            assert!(follower.fs.read_version(ino, *version, len as u64, 10).await.unwrap().is_empty());
            assert_eq!(follower.fs.lseek_version(ino, *version, 10, Seek::Hole).unwrap(), len as u64);
        }
        assert!(follower.fs.kept_records() > 0);
        held.iter().for_each(|(version, _)| follower.fs.let_go(*version));
        assert_eq!(follower.fs.kept_records(), 0, "closed, they keep nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn e5_a_file_that_is_deleted_elsewhere_stays_readable_while_it_is_open() {
    let place = Place::new().await;
    let (a, b) = (Machine::new(1), Machine::new(2));
    let (writer, follower) = (place.writer(&a).await, place.follower(&b).await);
    let bytes = noise(1, 400_000);
    let ino = file(&writer, "gone", &bytes).await;
    assert!(follower.look().await);
    let held = hold(&follower, ino);
    writer.fs.unlink(ROOT, b"gone").await.unwrap();
    writer.fs.forget(ino);
    committed(&writer).await;
    assert!(follower.look().await);
    assert_eq!(stat(&follower, "gone").await, Err(FsError::NotFound));
    let attributes = follower.fs.getattr(ino).await.unwrap();
    assert_eq!((attributes.nlink, attributes.size), (0, 400_000));
    assert!(read_held(&follower, ino, held, 0..400_000).await.unwrap() == bytes);
    follower.fs.let_go(held);
    assert_eq!(follower.fs.getattr(ino).await, Err(FsError::Stale));
}

#[tokio::test(start_paused = true)]
async fn d3_an_old_open_file_whose_objects_are_gone_is_stale_and_a_new_one_is_read() {
    let place = Place::new().await;
    let (a, b) = (Machine::new(1), Machine::new(2));
    let (writer, follower) = (place.writer(&a).await, place.follower(&b).await);
    let (old, new) = (noise(1, 5 << 20), noise(2, 5 << 20));
    let ino = file(&writer, "file", &old).await;
    assert!(follower.look().await);
    let held = hold(&follower, ino);
    let before = place.names("segments/").await;
    write(&writer, ino, 0, &new).await;
    committed(&writer).await;
    let kept: Vec<String> = place.names("segments/").await.into_iter().filter(|name| !before.contains(name)).collect();
    assert!(!kept.is_empty());
    place.remove_segments_but(&kept).await;
    // It has not looked: what it knows of the file is gone, so it looks before it says so.
    let fresh = hold(&follower, ino);
    assert_eq!(read_held(&follower, ino, held, 0..old.len() as u64).await, Err(FsError::Stale));
    assert_eq!(read_held(&follower, ino, fresh, 0..old.len() as u64).await, Err(FsError::Stale), "opened before");
    assert!(read(&follower, "file").await == new);
    assert!(follower.status().damaged_files.is_empty(), "nothing is damaged");
    // What the newest state names and is not there is damage.
    place.remove_segments_but(&[]).await;
    drop(follower);
    let follower = place.follower(&b).await;
    let held = hold(&follower, ino);
    assert!(matches!(read_held(&follower, ino, held, 0..100).await, Err(FsError::Io(_))));
    assert_eq!(follower.status().damaged_files, ["/file"]);
}

#[tokio::test(start_paused = true)]
async fn c6_a_follower_whose_log_was_cut_begins_again_and_open_files_keep_what_they_have() {
    for pause in [0, 3600] {
        let place = Place::new().await;
        let (a, b) = (Machine::new(1), Machine::new(2));
        // The test cuts the log itself; what open files need stays.
        let often = |options: &mut DriveOptions| {
            options.checkpoint = When { bytes: u64::MAX, commits: 3, ..When::default() };
            options.gc.grace = Duration::from_secs(1 << 30);
        };
        let writer = place.open(&a, often).await.unwrap();
        let follower = place.follower(&b).await;
        let (first, second) = (noise(1, 300_000), noise(2, 300_000));
        let [changes, goes, stays] = [
            file(&writer, "changes", &first).await,
            file(&writer, "goes", &first).await,
            file(&writer, "stays", &second).await,
        ];
        assert!(follower.look().await);
        let held = [changes, goes, stays].map(|ino| hold(&follower, ino));
        write(&writer, changes, 1000, &second).await;
        writer.fs.unlink(ROOT, b"goes").await.unwrap();
        writer.fs.forget(goes);
        for k in 0..12 {
            file(&writer, &format!("new {k}"), &noise(k, 2000)).await;
            // Checkpoints are made beside the rounds.
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        assert!(place.cut_log().await > 3);
        tokio::time::sleep(Duration::from_secs(pause)).await;
        assert!(follower.look().await);
        assert_eq!(follower.status().reason, None, "after {pause} s");
        assert_eq!(follower.status().pin, writer.status().pin, "after {pause} s");
        assert_eq!(read(&follower, "new 11").await, noise(11, 2000));
        assert_eq!(stat(&follower, "goes").await, Err(FsError::NotFound));
        assert!(read(&follower, "changes").await[1000..] == second);
        for ((ino, held), bytes) in [changes, goes, stays].into_iter().zip(held).zip([&first, &first, &second]) {
            assert!(read_held(&follower, ino, held, 0..300_000).await.unwrap() == *bytes, "{ino}");
        }
        // And it follows on.
        file(&writer, "last", b"last").await;
        assert!(follower.look().await);
        assert_eq!(read(&follower, "last").await, b"last");
        drop(follower);
        assert_eq!(read(&place.follower(&b).await, "last").await, b"last", "from its index");
    }
}

#[tokio::test(start_paused = true)]
async fn c6_a_fork_that_arrives_late_under_a_removed_number_is_not_shown() {
    let place = Place::new().await;
    let (a, b, c) = (Machine::new(1), Machine::new(2), Machine::new(3));
    let often =
        |options: &mut DriveOptions| options.checkpoint = When { bytes: u64::MAX, commits: 3, ..When::default() };
    let writer = place.open(&a, often).await.unwrap();
    file(&writer, "common", b"common").await;
    let follower = place.follower(&b).await;
    let common = place.copy().await;
    // What another machine would have written from there, had it been quicker: its first objects are kept.
    let taker = |options: &mut DriveOptions| options.takeover = true;
    let other = place.open(&c, taker).await.unwrap();
    file(&other, "forked", b"forked").await;
    let fork = place.copy().await;
    std::mem::forget(other);
    place.roll_back(&common).await;
    let next = Sequence(follower.status().sequence + 1);
    drop(writer);
    let writer = place.open(&a, |options| (often(options), options.takeover = true).1).await.unwrap();
    for k in 0..12 {
        file(&writer, &format!("new {k}"), b"new").await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert!(place.cut_log().await > 3);
    // The writer's own epoch record stands there: the fork comes where a commit was removed, and cannot continue.
    let late: Vec<_> = fork.iter().filter(|(name, _)| *name > log_name(next) && name.starts_with("log/")).collect();
    assert!(!late.is_empty());
    for (name, bytes) in late {
        if place.store().get(name).await.unwrap().is_none() {
            place.objects.put(&Path::from(name.as_str()), bytes.clone().into()).await.unwrap();
        }
    }
    assert!(follower.look().await);
    assert_eq!(follower.status().pin, writer.status().pin);
    assert_eq!(stat(&follower, "forked").await, Err(FsError::NotFound));
    assert_eq!(read(&follower, "new 11").await, b"new");
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_is_rolled_back_is_not_followed_and_one_that_comes_back_is() {
    let place = Place::new().await;
    let (a, b) = (Machine::new(1), Machine::new(2));
    let writer = place.writer(&a).await;
    file(&writer, "old", b"old").await;
    let old = place.copy().await;
    let follower = place.follower(&b).await;
    file(&writer, "new", b"new").await;
    assert!(follower.look().await);
    let newest = place.copy().await;
    place.roll_back(&old).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(!follower.look().await);
    let status = follower.status();
    assert_eq!(status.state, "read-only");
    assert!(status.reason.as_deref().is_some_and(|why| why.contains("rolled back")), "{:?}", status.reason);
    assert!(stat(&follower, "new").await.is_ok(), "the newest state that was seen is shown");
    assert!(status.followed_seconds_ago.is_some_and(|seconds| seconds > 100.0), "{:?}", status.followed_seconds_ago);
    place.roll_back(&newest).await;
    assert!(follower.look().await);
    assert_eq!(follower.status().reason, None);
    assert_eq!(read(&follower, "new").await, b"new");
}

#[tokio::test(start_paused = true)]
async fn e5_a_takeover_is_followed() {
    let place = Place::new().await;
    let (a, b, c) = (Machine::new(1), Machine::new(2), Machine::new(3));
    let (writer, follower) = (place.writer(&a).await, place.follower(&b).await);
    file(&writer, "first", b"first").await;
    assert!(follower.look().await);
    let second = place.open(&c, |options| options.takeover = true).await.unwrap();
    assert!(follower.look().await);
    assert_eq!(follower.status().epoch, second.status().epoch, "an epoch record alone");
    file(&second, "second", b"second").await;
    assert!(follower.look().await);
    assert_eq!(read(&follower, "second").await, b"second");
    assert_eq!(read(&follower, "first").await, b"first");
}
