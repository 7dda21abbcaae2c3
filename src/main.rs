//! The program: shuts the door behind the secrets that it will hold, then hands the command line to [`dripfs::cli`].
//!
//! # One write, file by file
//!
//! 1. The kernel sends WRITE: `fuse/adapter.rs` takes it, `fs/file.rs` (`try_write`) looks after set-user-ID bits.
//! 2. `cache/mod.rs` (`write`) puts the bytes into the file's entry, `cache/dirty.rs`. The kernel has its answer.
//! 3. On close, fsync, a full 4 MiB or a few seconds' age, `upload/starter.rs` takes the entry in line; when its turn
//!    comes (`pipeline/stage.rs`: what someone waits for goes first) it asks it for a capture (`cache/entry.rs`: all
//!    dirty bytes at one instant), `upload/encryption.rs` seals it into extents (`format/extent.rs`),
//!    `upload/journal.rs` waits for room and lets the entry append.
//! 4. The entry runs one transaction (`history/mod.rs`): extents, pieces of the map (`history/map.rs`), size and times
//!    become one change, which is in the journal's queue (`journal/mod.rs`) and in the overlay
//!    (`history/overlay.rs`) at once.
//! 5. `journal/writer.rs` seals blocks, writes, fdatasyncs. Here fsync returns.
//! 6. Every few seconds, or when many records wait, `vault/round/` takes what is durable (`history/fold.rs`),
//!    `upload/remote_storage.rs` packs extents into segments and puts them (`store/mod.rs`), one log object
//!    (`format/commit.rs`) moves the vault there, `vault/pin.rs` remembers it, `upload/notifier.rs` tells who waits, and the journal lets go. Beside it
//!    `mount/indexer.rs` gives what is durable to the index (`index/mod.rs`), and the overlay lets go of that. Every
//!    thousand commits `vault/checkpoint/` folds the log into sorted runs.
//!
//! # One read, file by file
//!
//! 1. The kernel sends READ: `fuse/adapter.rs`, `fs/file.rs` (`read`), `cache/read.rs`.
//! 2. `cache/read.rs` (`plan`) copies what the entry has in memory and finds the stored pieces (`history/map.rs`, in
//!    the overlay or else the index);
//!    clean frames come from `cache/frames.rs`. If that is all, the kernel has its answer in its own thread.
//! 3. What is missing goes, all at once, to `download/starter.rs` (one fetch of each frame however many ask),
//!    `download/remote_storage.rs` (the journal's sealed bytes, else GETs on a 64 KiB grid: `download/blocks.rs` says
//!    which, `store/mod.rs`, `get_range`), `download/encryption.rs` (frames open or the read fails),
//!    `download/notifier.rs`, and into `cache/frames.rs`. What `cache/ahead.rs` thinks will be asked for next goes the
//!    same way, and nobody waits for it.
//!
//! # One search, file by file
//!
//! 1. The kernel looks up a name in a room: `fuse/adapter.rs`, `search/front.rs`, `search/tree.rs`, which has the answer if
//!    nothing has changed since it was made.
//! 2. Else `search/pattern.rs` makes the matcher, `search/run.rs` walks the directories (`fs/readdir.rs`) and gives files to
//!    its threads; `search/results.rs` knows those that have not changed, the others `search/scan.rs` reads through
//!    `cache/glance.rs`, which uses nothing and fetches nothing unless it is told to.
//! 3. `search/hits.rs` makes the answer, `search/tree.rs` gives it a number, and READ takes it from there.

use std::process::ExitCode;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tikv_jemallocator::Jemalloc;

/// glibc keeps most of what a busy time has left free: after 400,000 files were made it held 229 MiB where this holds 125.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Few arenas: what is freed in one is of no use to the others. What is free for a tenth of a second goes back to the
/// system: with a second, work that comes in bursts (checkpoints, merges of the index) holds what the last one
/// took. Large blocks begin at a page: else each takes a page more, a quarter of a cached frame.
///
/// Read by the allocator when it begins: a pointer to a text that ends with a zero.
// SAFETY: the allocator declares this name as a `const char *`, which a reference to bytes of a known length is.
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATES: &[u8; 91] =
    b"narenas:2,background_thread:true,dirty_decay_ms:100,muzzy_decay_ms:0,cache_oblivious:false\0";

fn main() -> ExitCode {
    keep_memory_private();
    ExitCode::from(dripfs::cli::run(std::env::args_os()))
}

/// Keys and plaintext are in this process: no core file, and no debugger of the same user.
fn keep_memory_private() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let results = [set_dumpable_behavior(DumpableBehavior::NotDumpable), setrlimit(Resource::Core, none)];
    if let Some(e) = results.into_iter().find_map(Result::err) {
        eprintln!("dripfs: warning: memory cannot be kept out of core files: {e}");
    }
}
