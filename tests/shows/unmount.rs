//! What `umount` and `sync` answer for, while programs go on using the drive.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::common::wait_until;
use crate::{CHEAP, mounted};

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
