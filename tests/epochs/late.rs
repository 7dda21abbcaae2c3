//! Requests that arrive late, clocks that are wrong, machines that slept, epoch numbers that end.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dripfs::base::clock::Slept;
use dripfs::base::disk::RealDisk;
use dripfs::base::standstill::LEAST;
use dripfs::base::{Clock, Epoch, Ino, Random, Timestamp};
use dripfs::format::header::Cost;
use dripfs::index::{SledTables, Tables};
use dripfs::mount::drive::{Closed, Drive, DriveOptions, World};
use dripfs::mount::rescue::{self, Request};
use dripfs::pipeline::Cpu;
use dripfs::store::Store;
use dripfs::vault::pin::{Pin, PinFile};
use dripfs::vault::{VaultError, init, unlock};
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

use crate::place::{Place, exists, passphrase, read, until, until_state, write};

/// A way to a store on which puts wait for the gate; whoever sent them may be gone by then, and they arrive all the same.
#[derive(Debug)]
struct Late {
    objects: InMemory,
    open: watch::Sender<bool>,
}

impl std::fmt::Display for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("late")
    }
}

#[async_trait]
impl ObjectStore for Late {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (objects, location, mut open) = (self.objects.clone(), location.clone(), self.open.subscribe());
        let put = tokio::spawn(async move {
            open.wait_for(|open| *open).await.expect("the gate lives as long as the test");
            objects.put_opts(&location, payload, options).await
        });
        put.await.map_err(|why| Error::Generic { store: "late", source: why.into() })?
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.objects.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

/// The first writer has a commit on its way when another takes the vault over. It arrives afterwards: nothing of the
/// successor's is replaced, the first is fenced, and what it had not sent comes back by rescue.
#[tokio::test(flavor = "multi_thread")]
async fn e1_late_requests_of_an_overtaken_writer_change_nothing() {
    let place = Place::new().await;
    let objects = InMemory::new();
    let direct = || Store::over(Arc::new(objects.clone()), "memory:///late");
    init::init(&direct(), &passphrase(), Cost::FLOOR, (0, 0), &Random::Kernel, &Clock::System).await.unwrap();
    let late = Arc::new(Late { objects: objects.clone(), open: watch::Sender::new(true) });
    let first_store = Store::over(late.clone(), "memory:///late");
    let first = Drive::open(first_store, passphrase(), place.options("a")).await.unwrap();
    write(&first, "shared", b"shared").await;
    first.sync(|_| ()).await.unwrap();

    late.open.send_replace(false);
    write(&first, "late", b"late").await;
    // A round is due within seconds; whether it has sent by then or not, it may do so only into the gate.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let taker = DriveOptions { takeover: true, ..place.options("b") };
    let second = Drive::open(direct(), passphrase(), taker).await.unwrap();
    write(&second, "theirs", b"theirs").await;
    second.sync(|_| ()).await.unwrap();
    let sequence = second.status().sequence;

    late.open.send_replace(true);
    until_state(&first, "fenced").await;
    assert!(first.fs.unlink(Ino::ROOT, b"shared").await.is_err(), "a fenced drive takes no changes");
    assert!(matches!(first.close(|_| ()).await.unwrap(), Closed::Pending(_)));
    drop(first);
    write(&second, "more", b"more").await;
    assert_eq!(second.close(|_| ()).await.unwrap(), Closed::Drained);
    assert!(second.status().sequence > sequence);
    drop(second);

    let first = Drive::open(direct(), passphrase(), place.options("a")).await.unwrap();
    for (name, there) in [("shared", true), ("theirs", true), ("more", true), ("late", false)] {
        assert_eq!(exists(&first, name).await, there, "{name}");
    }
    let out = place.root.join("out");
    let request = Request { state: place.state("a"), to: out.clone(), earlier: None, remove: false };
    let report = rescue::rescue(&direct(), &passphrase(), &request).await.unwrap();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(std::fs::read(out.join("late")).unwrap(), b"late");
    first.close(|_| ()).await.unwrap();
}

/// A drive whose machine believes that it is so many seconds later than it is.
async fn open_at(place: &Place, state: &str, shift: i64) -> Drive {
    let now = Clock::System.now();
    let wall = Timestamp { secs: now.secs + shift, ..now };
    open_with(place, state, Clock::Simulated { wall, at: tokio::time::Instant::now(), slept: Slept::default() }).await
}

async fn open_with(place: &Place, state: &str, clock: Clock) -> Drive {
    let path = place.state(state);
    let disk = Arc::new(RealDisk::new(path.clone()));
    let pins = PinFile::open(disk.clone()).unwrap();
    let unlocked = unlock::unlock(&place.store(), &passphrase(), pins.get().as_ref()).await.unwrap();
    let world = World {
        store: place.store(),
        tables: Arc::new(move |name| Arc::new(SledTables::new(path.join(name))) as Arc<dyn Tables>),
        disk,
        random: Random::Kernel,
        clock,
        cpu: Cpu::inline(),
        journal_thread: true,
        host: "here".to_owned(),
    };
    Drive::open_in(world, unlocked, pins, place.options(state)).await.unwrap()
}

/// A machine that was suspended asks once whose the vault is: it works on if nobody has it, and is fenced without writing
/// anything if another machine took it over meanwhile. One that did not sleep does not ask.
#[tokio::test(flavor = "multi_thread")]
async fn e3_a_writer_that_slept_through_a_takeover_is_fenced_before_it_writes() {
    const NIGHT: Duration = Duration::from_secs(8 * 3600);
    let place = Place::new().await;
    let (wall, at, slept) = (Clock::System.now(), tokio::time::Instant::now(), Slept::default());
    let first = open_with(&place, "a", Clock::Simulated { wall, at, slept: slept.clone() }).await;
    write(&first, "shared", b"shared").await;
    first.sync(|_| ()).await.unwrap();
    let gets = || first.status().remote.get.requests;
    let before = gets();
    tokio::time::sleep(LEAST).await;
    assert_eq!(gets(), before, "nobody asks while nothing slept");
    slept.add(NIGHT);
    until(|| "it has not asked".to_owned(), || gets() > before).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((gets(), first.status().state.as_str()), (before + 1, "ready"), "asked once, and nobody was there");
    write(&first, "more", b"more").await;
    first.sync(|_| ()).await.unwrap();

    let second = place.take_over("b").await;
    let (sequence, puts) = (second.status().sequence, first.status().remote.put.requests);
    slept.add(NIGHT);
    until_state(&first, "fenced").await;
    assert!(first.fs.unlink(Ino::ROOT, b"shared").await.is_err(), "a fenced drive takes no changes");
    assert_eq!(first.status().remote.put.requests, puts, "it has not tried to write");
    assert!(matches!(first.close(|_| ()).await.unwrap(), Closed::Pending(0)));
    assert_eq!(second.status().sequence, sequence);
    assert_eq!(second.close(|_| ()).await.unwrap(), Closed::Drained);
    drop((first, second));
    let again = place.open("a").await;
    assert!(exists(&again, "more").await && again.status().set_aside.is_empty(), "nothing was lost, nothing set aside");
    again.close(|_| ()).await.unwrap();
}

/// Times in records are for display: a machine whose clock is years off, either way, writes, and others go on from it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_depends_on_the_time_that_a_commit_bears() {
    const YEARS: i64 = 10 * 365 * 86_400;
    let place = Place::new().await;
    for (state, shift) in [("a", YEARS), ("b", 0), ("c", -YEARS), ("a", 0)] {
        let drive = open_at(&place, state, shift).await;
        assert!(drive.status().last_commit_age_seconds >= 0.0, "{state}");
        write(&drive, &format!("{state}{shift}"), b"written").await;
        drive.sync(|_| ()).await.unwrap();
        let status = drive.status();
        assert!(status.last_commit_age_seconds >= 0.0 && status.oldest_pending_seconds == 0.0, "{state}");
        assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    }
    let reader = place.reader().await;
    assert!(reader.status().last_commit_age_seconds >= 0.0);
    for name in [format!("a{YEARS}"), "b0".to_owned(), format!("c-{YEARS}"), "a0".to_owned()] {
        assert_eq!(read(&reader, &name).await, b"written", "{name}");
    }
}

/// The vault names an epoch near the last: it is used up to the last number, and then told; readers go on.
#[tokio::test(flavor = "multi_thread")]
async fn e1_epoch_numbers_end_with_an_error_that_says_so() {
    let place = Place::new().await;
    place.open("a").await.close(|_| ()).await.unwrap();
    let pins = PinFile::open(Arc::new(RealDisk::new(place.state("a")))).unwrap();
    let pin = pins.get().unwrap();
    pins.set(Pin { epoch: Epoch(Epoch::MAX.0 - 2), ..pin }).unwrap();
    drop(pins);
    for (state, epoch) in [("a", Epoch::MAX.0 - 1), ("b", Epoch::MAX.0)] {
        let drive = place.open(state).await;
        assert_eq!(drive.status().epoch, epoch);
        write(&drive, state, b"written").await;
        assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    }
    for state in ["a", "c"] {
        let result = place.try_open(place.options(state)).await.map(|_| ());
        let Err(VaultError::State { why, .. }) = &result else { panic!("{result:?}") };
        assert!(why.contains("--read-only"), "{why}");
    }
    let reader = place.reader().await;
    assert!(read(&reader, "a").await == b"written" && read(&reader, "b").await == b"written");
}
