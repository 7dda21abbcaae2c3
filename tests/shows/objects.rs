//! What the provider sees: how many objects, how many requests, and of which sizes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::common::Vault;
use crate::{CHEAP, files, mounted, noise, number, status, sync};

const CLASS_MIN: u64 = 65 * 1024;
const CLASS_MAX: u64 = 8320 * 1024;

fn sizes(vault: &Vault) -> BTreeMap<u64, usize> {
    let mut sizes = BTreeMap::new();
    for (_, len) in files(&vault.remote()) {
        *sizes.entry(len).or_default() += 1;
    }
    sizes
}

#[test]
fn ten_thousand_small_files_are_few_objects_and_few_requests() {
    let Some(mut vault) = mounted() else { return };
    let (objects, requests) = (files(&vault.remote()).len(), number(&status(&vault), "/remote/requests"));
    let bytes = noise(10_000 * 4096);
    for (n, file) in bytes.chunks(4096).enumerate() {
        let dir = vault.mountpoint().join(format!("{:02}", n / 100));
        if n % 100 == 0 {
            fs::create_dir(&dir).expect("a directory");
        }
        fs::write(dir.join(format!("{n:05}")), file).expect("a write");
    }
    sync(&vault);
    let after = status(&vault);
    let requests = number(&after, "/remote/requests") - requests;
    let all = files(&vault.remote()).len();
    println!(
        "10,000 files of 4 KiB: {requests} requests, {} new objects, {all} in the vault: {:?}",
        all - objects,
        sizes(&vault)
    );
    assert!(all <= 100, "{all} objects");
    assert!(requests < 100, "{requests} requests");
    assert_eq!(number(&after, "/pending_bytes"), 0);
    assert_eq!(number(&after, "/remote/errors"), 0);
    vault.umount();
}

/// The sizes that this makes the vault grow by, and in how many commits.
fn grown(fill: impl Fn(&std::path::Path)) -> Option<(BTreeMap<u64, usize>, u64)> {
    let mut vault = mounted()?;
    sync(&vault);
    let (before, sequence) = (sizes(&vault), number(&status(&vault), "/sequence"));
    fill(&vault.mountpoint());
    sync(&vault);
    let sequence = number(&status(&vault), "/sequence") - sequence;
    let mut grown = sizes(&vault);
    for (len, count) in before {
        *grown.get_mut(&len).expect("nothing is removed") -= count;
    }
    grown.retain(|_, count| *count > 0);
    vault.umount();
    Some((grown, sequence))
}

#[test]
fn a_hundred_small_files_look_like_one_large_one() {
    // A round may begin while the files are written, on a slow machine: timing is what a provider may see. Then the
    // two are written again.
    for _ in 0..5 {
        let many = grown(|dir| {
            for n in 0..100 {
                fs::write(dir.join(format!("{n}")), noise(10 * 1024)).expect("a write");
            }
        });
        let one = grown(|dir| fs::write(dir.join("one"), noise(1 << 20)).expect("a write"));
        let (Some((many, many_commits)), Some((one, one_commits))) = (many, one) else { return };
        println!("100 files of 10 KiB: {many:?} in {many_commits} commits; one of 1 MiB: {one:?} in {one_commits}");
        if (many_commits, one_commits) == (1, 1) {
            assert_eq!(many, one, "sizes of new objects, and how many of each");
            return;
        }
    }
    panic!("the machine is too slow to write 1 MiB between two rounds");
}

#[test]
fn objects_at_rest_have_few_sizes() {
    let Some(mut vault) = mounted() else { return };
    for shift in 0..25 {
        fs::write(vault.mountpoint().join(format!("{shift}")), noise((1 << shift) + 7)).expect("a write");
        if shift % 3 == 0 {
            sync(&vault);
        }
    }
    vault.umount();
    let sizes = sizes(&vault);
    let classes: Vec<u64> = (0..8).map(|k| CLASS_MIN << k).collect();
    assert_eq!(classes.last(), Some(&CLASS_MAX));
    println!("objects at rest: {} sizes of the {} classes that there are: {sizes:?}", sizes.len(), classes.len());
    assert!(sizes.keys().all(|len| classes.contains(len)), "{sizes:?}");
    assert!(sizes.len() > 3, "the test saw hardly any: {sizes:?}");
}

/// With a local vault on the same disk what goes there in bulk is not written twice: the segment and the journal's staged
/// file are one (J8).
#[test]
fn bulk_lies_on_the_disk_once() {
    let Some(mut vault) = mounted() else { return };
    let bytes = noise(24 << 20);
    fs::write(vault.mountpoint().join("large"), &bytes).expect("a write");
    sync(&vault);
    let segments = files(&vault.remote().join("segments"));
    let is_linked = |path: &PathBuf| fs::metadata(path).expect("a segment").nlink() == 2;
    let linked: u64 = segments.iter().filter(|(path, _)| is_linked(path)).map(|(_, len)| len).sum();
    let all: u64 = segments.iter().map(|(_, len)| len).sum();
    println!("24 MiB: {} KiB in segments, {} KiB of them linked", all >> 10, linked >> 10);
    assert!(linked >= bytes.len() as u64 / 2, "of {all} bytes in segments {linked} are the journal's as well");
    vault.umount();
    vault.move_to_machine("another");
    vault.mount_with(&CHEAP);
    assert!(fs::read(vault.mountpoint().join("large")).expect("a read") == bytes);
    vault.umount();
}
