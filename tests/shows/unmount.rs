//! What `umount` and `sync` answer for, while programs go on using the drive.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::common::wait_until;
use crate::{CHEAP, Onlooker, mounted, sync};

/// Writes through a shared memory map, says so, and keeps the map until its standard input closes.
const MAPPED_WRITE: &str = r#"
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    map = mmap.mmap(file.fileno(), 0)
    map[0:6] = b"mapped"
    print("written", flush=True)
    sys.stdin.read()
"#;

#[test]
fn sync_takes_along_what_was_written_through_a_memory_map() {
    let Some(vault) = mounted() else { return };
    let Some(mut onlooker) = Onlooker::new() else { return };
    let path = vault.mountpoint().join("file");
    fs::write(&path, [b'.'; 8192]).expect("a write");
    sync(&vault);
    let mut python = Command::new("python3");
    python.args(["-c", MAPPED_WRITE]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().expect("python3");
    let mut said = String::new();
    BufReader::new(python.stdout.take().expect("a pipe")).read_line(&mut said).expect("it says something");
    assert_eq!(said.trim(), "written");
    sync(&vault);
    let found = onlooker.look(&vault, |dir| fs::read(dir.join("file")).expect("the file"));
    drop(python.stdin.take());
    python.wait().expect("it ends");
    assert_eq!(&found[..8], b"mapped..");
}

#[test]
fn a_write_that_was_acknowledged_while_the_drive_was_unmounted_is_kept() {
    let Some(mut vault) = mounted() else { return };
    let path = vault.mountpoint().join("counter");
    let file = fs::File::create(&path).expect("room for a file");
    let (acknowledged, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, end) = (acknowledged.clone(), refused.clone());
    let writer = std::thread::spawn(move || {
        for number in 1_u64.. {
            if file.write_all_at(&number.to_be_bytes(), 0).is_err() {
                end.store(true, Ordering::Relaxed);
                return;
            }
            count.store(number, Ordering::Relaxed);
        }
    });
    wait_until("something is written", || acknowledged.load(Ordering::Relaxed) > 100);
    vault.umount();
    wait_until("the writer was refused", || refused.load(Ordering::Relaxed));
    writer.join().expect("the writer ends");
    vault.mount_with(&CHEAP);
    let kept = fs::read(&path).expect("the file is there");
    let kept = u64::from_be_bytes(kept.try_into().expect("eight bytes"));
    let acknowledged = acknowledged.load(Ordering::Relaxed);
    println!("{acknowledged} writes were acknowledged, the last that is kept is {kept}");
    assert!(kept >= acknowledged, "write {acknowledged} was acknowledged, and {kept} is what is left");
    vault.umount();
}
