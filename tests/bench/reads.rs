//! How fast cold reads are through a real mount, over a store that takes a while for each request. No assertions: it
//! prints figures. `cargo run --release --example reads [-- MILLISECONDS [MIB]]`; needs the right to mount.
//!
//! Objects are in this process's memory, each request takes 20 ms (or so many as asked), whatever its size. Each figure
//! is of a drive that was just opened, by a machine that has nothing.

#[path = "../common/in_process.rs"]
mod in_process;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dripfs::base::{Clock, Ino, Random};
use dripfs::format::header::Cost;
use dripfs::fs::Caller;
use dripfs::fuse::{self, MountOptions};
use dripfs::mount::drive::{Drive, DriveOptions};
use dripfs::store::Store;
use dripfs::vault::init;
use in_process::passphrase;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};

const ME: Caller = Caller { uid: 0, gid: 0, pid: 1 };
const MIB: usize = 1 << 20;
const SMALL_FILES: usize = 1000;
const SIDE_BY_SIDE: usize = 100;

type Objects = Arc<ThrottledStore<InMemory>>;

struct Bench {
    runtime: tokio::runtime::Runtime,
    objects: Objects,
    latency: Duration,
    places: tempfile::TempDir,
    machines: usize,
}

fn options(state: &Path) -> DriveOptions {
    DriveOptions {
        cache_bytes: 256 << 20,
        dirty_bytes: 128 << 20,
        journal_bytes: 4 << 30,
        ..in_process::options(state)
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    let mut bytes = vec![0; len];
    rand::rngs::SmallRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let latency = Duration::from_millis(numbers.first().copied().unwrap_or(20));
    let big = numbers.get(1).copied().unwrap_or(512) as usize * MIB;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let objects = Arc::new(ThrottledStore::new(InMemory::new(), ThrottleConfig::default()));
    let places = tempfile::tempdir().expect("a directory");
    let mut bench = Bench { runtime, objects, latency, places, machines: 0 };
    bench.fill(big);

    println!("{} ms a request; {} MiB file", latency.as_millis(), big / MIB);
    bench.cold("sequential", |dir| {
        let bytes = drain(&dir.join("big"), MIB);
        format!("{} MiB", bytes / MIB)
    });
    bench.cold("4 at once, of one file each", |dir| fairness(dir, (0..4).map(|k| format!("quarter{k}")).collect()));
    bench.cold("random 4 KiB", |dir| random(&dir.join("big"), big as u64, 200));
    bench.cold("1,000 small files, by name", |dir| {
        let names = (0..SMALL_FILES).map(|k| dir.join("small").join(format!("{k:04}"))).collect();
        small_files(names)
    });
    bench.cold("1,000 small files, as listed", |dir| {
        let listed = std::fs::read_dir(dir.join("small")).expect("a directory");
        small_files(listed.map(|entry| entry.expect("an entry").path()).collect())
    });
    bench.cold("100 files of 4 MiB at once", |dir| {
        fairness(dir, (0..SIDE_BY_SIDE).map(|k| format!("side{k:03}")).collect())
    });
}

impl Bench {
    fn store(&self) -> Store {
        Store::over(self.objects.clone(), "memory:///")
    }

    fn machine(&mut self) -> PathBuf {
        self.machines += 1;
        let state = self.places.path().join(format!("machine{}", self.machines));
        std::fs::create_dir(&state).expect("a directory");
        state
    }

    fn fill(&mut self, big: usize) {
        let (store, state) = (self.store(), self.machine());
        self.runtime.block_on(async {
            init::init(&store, &passphrase(), Cost::FLOOR, (0, 0), &Random::Kernel, &Clock::System)
                .await
                .expect("init");
            let drive = Drive::open(store, passphrase(), options(&state)).await.expect("open");
            let fs = &drive.fs;
            let put = async |parent: Ino, name: String, bytes: Vec<u8>| {
                let ino = fs.create(parent, name.as_bytes(), 0o644, ME).await.expect("create").ino;
                for (k, chunk) in bytes.chunks(MIB).enumerate() {
                    fs.write(ino, (k * MIB) as u64, chunk.to_vec(), false).await.expect("write");
                }
                fs.flush(ino).await.expect("flush");
            };
            put(Ino::ROOT, "big".into(), noise(1, big)).await;
            for k in 0..4 {
                put(Ino::ROOT, format!("quarter{k}"), noise(10 + k, big / 4)).await;
            }
            for k in 0..SIDE_BY_SIDE {
                put(Ino::ROOT, format!("side{k:03}"), noise(100 + k as u64, 4 * MIB)).await;
            }
            let small = fs.mkdir(Ino::ROOT, b"small", 0o755, ME).await.expect("mkdir").ino;
            for k in 0..SMALL_FILES {
                put(small, format!("{k:04}"), noise(1000 + k as u64, 4096)).await;
            }
            drive.close(|_| ()).await.expect("close");
        });
    }

    /// Runs `read` on a mount of a machine that has nothing, and says how long it took and what it cost.
    fn cold(&mut self, what: &str, read: impl Fn(&Path) -> String) {
        let (store, state, dir) = (self.store(), self.machine(), self.places.path().join("mnt"));
        std::fs::create_dir_all(&dir).expect("a mountpoint");
        let drive = self.runtime.block_on(Drive::open(store.clone(), passphrase(), options(&state))).expect("open");
        let mounted = {
            let _inside = self.runtime.enter();
            fuse::mount(drive.fs.clone(), MountOptions::new("memory:///", &dir)).expect("the right to mount")
        };
        let latency = self.latency;
        self.objects.config_mut(|config| config.wait_get_per_call = latency);
        let (before, began, cpu) = (store.counts().requests, Instant::now(), cpu_seconds());
        let found = read(&dir);
        let (took, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        let requests = store.counts().requests - before;
        println!("{what}: {found} in {took:.3} s, {requests} requests, {cpu:.2} s of processors");
        self.objects.config_mut(|config| config.wait_get_per_call = Duration::ZERO);
        for stage in drive.status().pipelines.stages.iter().filter(|stage| stage.done > 0) {
            println!(
                "    {}: {} done, {} MiB; waited {:.2} s, worked {:.2} s in all",
                stage.name,
                stage.done,
                stage.done_bytes as usize / MIB,
                stage.waited_seconds,
                stage.worked_seconds
            );
        }
        self.runtime.block_on(mounted.unmounter().unmount()).expect("unmount");
        self.runtime.block_on(drive.close(|_| ())).expect("close");
        std::fs::remove_dir_all(state).expect("our own");
    }
}

/// Of this process, and of the kernel for it.
fn cpu_seconds() -> f64 {
    // SAFETY: getrusage fills the structure that it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Reads all of a file.
fn drain(path: &Path, block: usize) -> usize {
    let mut file = File::open(path).expect("open");
    let (mut buffer, mut all) = (vec![0; block], 0);
    loop {
        match file.read(&mut buffer).expect("read") {
            0 => return all,
            n => all += n,
        }
    }
}

/// Reads these files at once, each by a thread; the whole rate, and the slowest one's share of the fastest one's.
fn fairness(dir: &Path, names: Vec<String>) -> String {
    let began = Instant::now();
    let threads: Vec<_> = names
        .into_iter()
        .map(|name| {
            let path = dir.join(name);
            std::thread::spawn(move || (drain(&path, MIB), began.elapsed().as_secs_f64()))
        })
        .collect();
    let ends: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("a reader")).collect();
    let bytes: usize = ends.iter().map(|(bytes, _)| bytes).sum();
    let (slowest, fastest) = ends.iter().fold((0f64, f64::MAX), |(s, f), (_, end)| (s.max(*end), f.min(*end)));
    let rate = bytes as f64 / MIB as f64 / slowest;
    format!(
        "{} MiB, {rate:.0} MiB/s, the fastest ended after {fastest:.2} s, the slowest after {slowest:.2} s,",
        bytes / MIB
    )
}

fn random(path: &Path, len: u64, count: u64) -> String {
    let file = File::open(path).expect("open");
    let (mut buffer, mut times) = ([0; 4096], Vec::new());
    for k in 1..=count {
        // Spread over the file, nowhere twice.
        let at = (k * 0x9e37_79b9_7f4a_7c15) % (len / 4096) * 4096;
        let began = Instant::now();
        file.read_exact_at(&mut buffer, at).expect("read");
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    format!("{count} reads, p50 {:.1} ms, p99 {:.1} ms,", at(0.5), at(0.99))
}

fn small_files(paths: Vec<PathBuf>) -> String {
    let began = Instant::now();
    let count = paths.len();
    for path in paths {
        assert_eq!(std::fs::read(path).expect("read").len(), 4096);
    }
    format!("{:.0} files/s,", count as f64 / began.elapsed().as_secs_f64())
}
