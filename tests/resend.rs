//! A mount dies between a segment's PUT and its commit: what the next one sends, and what the journal knew of it.

#[path = "common/in_process.rs"]
mod in_process;

use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dripfs::base::disk::{Disk, File, RealDisk};
use dripfs::base::{Clock, Ino, Position, Random};
use dripfs::format::change::Note;
use dripfs::format::header::Cost;
use dripfs::format::keys::Keys;
use dripfs::fs::Caller;
use dripfs::index::{SledTables, Tables};
use dripfs::journal::Journal;
use dripfs::mount::drive::{Closed, Drive, DriveOptions, World};
use dripfs::pipeline::Cpu;
use dripfs::store::Store;
use dripfs::vault::pin::PinFile;
use dripfs::vault::{init, unlock};
use futures::stream::BoxStream;
use in_process::passphrase;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

const ME: Caller = Caller { uid: 0, gid: 0, pid: 1 };

fn options(state: &FilePath, compress: bool) -> DriveOptions {
    DriveOptions { compress, ..in_process::options(state) }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    let mut bytes = vec![0; len];
    rand::rngs::SmallRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

/// A store that loses commits on demand, and looks into the journal when a segment comes.
struct Watched {
    objects: InMemory,
    keys: Arc<Keys>,
    state: PathBuf,
    loses_commits: AtomicBool,
    /// Names and bytes of segments, in the order in which they came; and whether the journal on disk named them then.
    segments: Mutex<Vec<(String, Vec<u8>, bool)>>,
}

impl Watched {
    async fn new(state: &FilePath) -> Arc<Watched> {
        let objects = InMemory::new();
        let store = Store::over(Arc::new(objects.clone()), "memory:///");
        init::init(&store, &passphrase(), Cost::FLOOR, (0, 0), &Random::Kernel, &Clock::System).await.unwrap();
        let keys = Arc::new(unlock::unlock(&store, &passphrase(), None).await.unwrap().keys);
        let (loses_commits, segments) = (AtomicBool::new(false), Mutex::default());
        Arc::new(Watched { objects, keys, state: state.to_owned(), loses_commits, segments })
    }

    fn store(self: &Arc<Self>) -> Store {
        Store::over(self.clone(), "memory:///")
    }

    fn is_announced(&self, name: &str) -> bool {
        let disk = Arc::new(RealDisk::new(self.state.clone()));
        let recovered = Journal::recover(disk, "journal", self.keys.clone(), Position(0)).unwrap();
        let names = |note: &Option<Note>| matches!(note, Some(Note::Sent(ids)) if ids.iter().any(|id| name.ends_with(&id.to_string())));
        recovered.changes.iter().any(|(_, change)| names(&change.note))
    }

    fn segments(&self) -> Vec<(String, Vec<u8>, bool)> {
        self.segments.lock().clone()
    }
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("watched")
    }
}

impl std::fmt::Display for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("watched")
    }
}

#[async_trait]
impl ObjectStore for Watched {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if location.as_ref().starts_with("segments/") {
            let bytes: Vec<u8> = payload.iter().flat_map(|part| part.iter().copied()).collect();
            let announced = self.is_announced(location.as_ref());
            self.segments.lock().push((location.to_string(), bytes, announced));
        } else if location.as_ref().starts_with("log/") && self.loses_commits.load(Ordering::SeqCst) {
            return Err(Error::Generic { store: "watched", source: "the network failed".into() });
        }
        self.objects.put_opts(location, payload, options).await
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

/// A disk whose writes take a while, once it is told so.
struct Slow {
    inner: RealDisk,
    slow: Arc<AtomicBool>,
}

struct SlowFile {
    inner: Arc<dyn File>,
    slow: Arc<AtomicBool>,
}

impl File for SlowFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.slow.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(300));
        }
        self.inner.write_at(bytes, offset)
    }
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_at(out, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.punch(offset, len)
    }
}

impl Slow {
    fn file(&self, inner: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(SlowFile { inner, slow: self.slow.clone() })
    }
}

impl Disk for Slow {
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.inner.create(path)?))
    }
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.inner.open(path)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.inner.create_dir(path)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
    fn free(&self, dir: &str) -> io::Result<u64> {
        self.inner.free(dir)
    }
}

/// A drive on a disk that becomes slow when the second value is set.
async fn open_slow(watched: &Arc<Watched>, state: &FilePath) -> (Drive, Arc<AtomicBool>) {
    let slow = Arc::new(AtomicBool::new(false));
    let disk = Arc::new(Slow { inner: RealDisk::new(state.to_owned()), slow: slow.clone() });
    let unlocked = unlock::unlock(&watched.store(), &passphrase(), None).await.unwrap();
    let pins = PinFile::open(disk.clone()).unwrap();
    let dir = state.to_owned();
    let world = World {
        store: watched.store(),
        tables: Arc::new(move |name| Arc::new(SledTables::new(dir.join(name))) as Arc<dyn Tables>),
        disk,
        random: Random::Kernel,
        clock: Clock::System,
        cpu: Cpu::inline(),
        journal_thread: true,
        host: "here".to_owned(),
    };
    (Drive::open_in(world, unlocked, pins, options(state, true)).await.unwrap(), slow)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn read(drive: &Drive, name: &str) -> Vec<u8> {
    let found = drive.fs.lookup(Ino::ROOT, name.as_bytes()).await.unwrap();
    let mut out = Vec::new();
    while (out.len() as u64) < found.size {
        out.extend_from_slice(&drive.fs.read(found.ino, out.len() as u64, 128 << 10).await.unwrap());
    }
    out
}

#[test]
fn what_may_have_been_sent_is_announced_before_and_travels_again_only_sealed_anew() {
    let state = tempfile::tempdir().unwrap();
    let (bytes, text) = (noise(1, 1 << 20), b"a line of text\n".repeat(200_000));
    let watched = runtime().block_on(Watched::new(state.path()));

    // The first mount sends a segment, and its commit never arrives.
    let life = runtime();
    life.block_on(async {
        let (drive, slow) = open_slow(&watched, state.path()).await;
        watched.loses_commits.store(true, Ordering::SeqCst);
        for (name, bytes) in [("noise", &bytes), ("text", &text)] {
            let ino = drive.fs.create(Ino::ROOT, name.as_bytes(), 0o644, ME).await.unwrap().ino;
            drive.fs.write(ino, 0, bytes.clone(), false).await.unwrap();
            drive.fs.fsync(ino, false).await.unwrap();
        }
        slow.store(true, Ordering::SeqCst);
        let sync = tokio::time::timeout(Duration::from_secs(3), drive.sync(|_| ())).await;
        assert!(sync.is_err(), "no commit can stand");
        std::mem::forget(drive);
    });
    life.shutdown_background();
    let first = watched.segments();
    assert!(!first.is_empty());

    // The next one sends the same extents, and has other settings.
    watched.loses_commits.store(false, Ordering::SeqCst);
    runtime().block_on(async {
        let drive = Drive::open(watched.store(), passphrase(), options(state.path(), false)).await.unwrap();
        drive.sync(|_| ()).await.unwrap();
        let again = watched.segments().split_off(first.len());
        assert!(!again.is_empty());
        for (name, _, announced) in first.iter().chain(&again) {
            assert!(announced, "{name} came before the journal said so");
            assert!(watched.objects.head(&Path::from(name.as_str())).await.is_ok());
        }
        // Bulk as it lay in a staged file, and sealed anew out of it.
        for sent in [&first, &again] {
            assert!(sent.iter().any(|(_, segment, _)| segment.len() > 1 << 20));
        }
        // Wherever the same extent lies, no piece of it is as it was.
        let pieces: std::collections::HashSet<&[u8]> =
            first.iter().flat_map(|(_, segment, _)| segment.chunks_exact(16)).collect();
        for (name, segment, _) in &again {
            let same = segment.windows(16).filter(|window| pieces.contains(window)).count();
            assert_eq!(same, 0, "{name} repeats what was sent before");
        }
        // From memory's records, from the vault's, and once more behind the journal.
        assert!(read(&drive, "noise").await == bytes && read(&drive, "text").await == text, "here");
        assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
        drop(drive);
        let elsewhere = tempfile::tempdir().unwrap();
        for state in [elsewhere.path(), state.path()] {
            let drive = Drive::open(watched.store(), passphrase(), options(state, true)).await.unwrap();
            assert!(read(&drive, "noise").await == bytes && read(&drive, "text").await == text);
            drive.close(|_| ()).await.unwrap();
        }
    });
}
