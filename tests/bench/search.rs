//! How fast a search is over files that are in memory, beside ripgrep's own (or else GNU grep) on the same files on the local
//! disk. No assertions: it prints figures. `cargo run --release --example search [-- MIB [RUNS]]`; needs the right to mount.
//!
//! Both read from memory: the drive from its cache, the other from the kernel's pages. Runs are interleaved, the best counts.
//! Each search of the drive is of a pattern that was not asked before, so nothing that was kept of one helps another.

#[path = "../common/in_process.rs"]
mod in_process;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dripfs::base::{Clock, Random};
use dripfs::format::header::Cost;
use dripfs::fuse::{self, MountOptions};
use dripfs::mount::drive::{Drive, DriveOptions};
use dripfs::search::Settings;
use dripfs::store::Store;
use dripfs::vault::init;
use in_process::passphrase;
use object_store::memory::InMemory;

const MIB: usize = 1 << 20;
/// Of each file.
const FILE: usize = 4 * MIB;

fn options(state: &Path, cache: usize) -> DriveOptions {
    DriveOptions {
        cache_bytes: cache as u64,
        dirty_bytes: 128 << 20,
        journal_bytes: 4 << 30,
        caching: dripfs::mount::drive::Caching { ttl_seconds: 86_400, ..Default::default() },
        ..in_process::options(state)
    }
}

/// Text that looks like source: words, numbers, punctuation.
fn text(seed: u64, len: usize) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    const WORDS: [&str; 24] = [
        "let", "fn", "return", "position", "extent", "frame", "(self)", "->", "{", "}", "=", "match", "if", "cache",
        "bytes", "usize", "offset", "//", "the", "journal", "reads", "what", "is", "written",
    ];
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    let mut out = Vec::with_capacity(len + 100);
    while out.len() < len {
        for _ in 0..random.random_range(1..14) {
            out.extend_from_slice(WORDS[random.random_range(0..WORDS.len())].as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(format!("{:x}\n", random.random_range(0..100_000u32)).as_bytes());
    }
    out.truncate(len - 1);
    out.push(b'\n');
    out
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let (mib, runs) = (numbers.first().copied().unwrap_or(1024), numbers.get(1).copied().unwrap_or(5));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let places = tempfile::tempdir_in(".").expect("a directory");
    let (state, dir, beside) = (places.path().join("state"), places.path().join("mnt"), places.path().join("beside"));
    [&state, &dir, &beside].into_iter().for_each(|path| std::fs::create_dir(path).expect("a directory"));
    let dir = dir.canonicalize().expect("it is there");
    let store = Store::over(std::sync::Arc::new(InMemory::new()), "memory:///");
    let cache = 2 * mib * MIB + (256 << 20);
    let drive = runtime.block_on(async {
        init::init(&store, &passphrase(), Cost::FLOOR, (0, 0), &Random::Kernel, &Clock::System).await.expect("init");
        Drive::open(store, passphrase(), options(&state, cache)).await.expect("open")
    });
    let tree = drive.tree(Settings { seconds: 50, ..Settings::default() });
    let mut mounted = runtime
        .block_on(async { fuse::mount(tree, MountOptions::new("memory:///", &dir)).expect("the right to mount") });
    for n in 0..mib * MIB / FILE {
        let bytes = text(n as u64, FILE);
        std::fs::write(beside.join(format!("{n:04}")), &bytes).expect("room");
        std::fs::write(dir.join(format!("{n:04}")), &bytes).expect("room");
    }
    runtime.block_on(drive.sync(|_| ())).expect("sync");
    // Into the drive's own memory: what is written stays in the kernel's pages alone.
    runtime.block_on(drive.warm(Path::new(""), |_| ())).expect("warm");
    read_all(&beside);
    let rg = Command::new("rg").arg("--version").output().is_ok();
    let other = if rg { "ripgrep" } else { "grep" };
    println!("{mib} MiB in files of {} MiB, {} processors, best of {runs}", FILE / MIB, processors());
    for (what, pattern) in [
        ("a literal that is nowhere", "no such literal"),
        ("a literal that is rare", "journal journal journal journal 1234"),
        ("a literal, any case", "(?i)no such literal"),
        ("alternatives", "nowhere|elsewhere|somewhere"),
        ("a class and a repetition", "[0-9]{4}x[a-f]+"),
        ("words at the beginning", "^nothing begins"),
        ("a literal in one line of 80", "journal reads what"),
    ] {
        let (mut ours, mut theirs) = (Duration::MAX, Duration::MAX);
        for run in 0..runs {
            // Another pattern each time that means the same.
            let fresh = format!("(?:{pattern}){}", "(?:)".repeat(run));
            let name = dir.join(".search").join(&fresh);
            let mut size = 0;
            ours = ours.min(time(|| size = std::fs::metadata(&name).expect("an answer").len()));
            if run == 0 {
                let answer = std::fs::read(&name).expect("an answer");
                println!("{what}: {size} bytes, {} lines", answer.iter().filter(|byte| **byte == b'\n').count());
                if let Some(note) = String::from_utf8_lossy(&answer).lines().find(|line| line.starts_with("dripfs: ")) {
                    println!("{note}");
                }
            }
            theirs = theirs.min(time(|| beside_it(rg, pattern, &beside)));
        }
        let speed = |time: Duration| (mib * MIB) as f64 / time.as_secs_f64() / 1e9;
        println!("{what:>30}: {:5.2} GB/s   {other}: {:5.2} GB/s", speed(ours), speed(theirs));
    }
    runtime.block_on(async {
        mounted.unmounter().unmount().await.expect("unmounted");
        mounted.ended().await.expect("ended");
        drive.close(|_| ()).await.expect("closed");
    });
}

fn time(what: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    what();
    begun.elapsed()
}

fn beside_it(rg: bool, pattern: &str, dir: &PathBuf) {
    let mut command = Command::new(if rg { "rg" } else { "grep" });
    match rg {
        true => command.args(["-n", "--no-config"]),
        // Its syntax for any case is an option.
        false => command.args(["-rnE"]).args(pattern.starts_with("(?i)").then_some("-i")),
    };
    let pattern = if rg { pattern } else { pattern.trim_start_matches("(?i)") };
    let output = command.arg("-e").arg(pattern).arg(dir).output().expect("it runs");
    assert!(output.status.code() < Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

fn read_all(dir: &Path) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        std::fs::read(entry.expect("an entry").path()).expect("a file");
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
