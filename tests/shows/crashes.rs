//! kill -9: what was fsynced is there, whatever it is.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;

use crate::common::{Vault, succeed};
use crate::{CHEAP, mounted, noise};

fn fsync(path: &std::path::Path) {
    File::open(path).and_then(|file| file.sync_all()).expect("fsync");
}

#[test]
fn fsynced_files_of_every_kind_survive_a_kill() {
    let Some(mut vault) = mounted() else { return };
    let dir = vault.mountpoint();
    let at = |name: &str| dir.join(name);
    let (small, large) = (noise(100), noise(9_000_000));
    fs::write(at("small"), &small).expect("a write");
    fs::write(at("large"), &large).expect("a write");
    File::create(at("empty")).expect("a file");
    let sparse = File::create(at("sparse")).expect("a file");
    sparse.write_all_at(b"far", 50_000_000).expect("a write");
    fs::write(at("cut"), &large).expect("a write");
    File::options().write(true).open(at("cut")).and_then(|file| file.set_len(1_000_001)).expect("a truncate");
    let mut patched = File::create(at("patched")).expect("a file");
    patched.write_all(&large).expect("a write");
    patched.write_all_at(b"patch", 4_200_000).expect("a write");
    let mut appended = File::options().append(true).create(true).open(at("appended")).expect("a file");
    for _ in 0..100 {
        appended.write_all(&small).expect("an append");
    }
    fs::hard_link(at("small"), at("hardlink")).expect("a link");
    std::os::unix::fs::symlink("small", at("symlink")).expect("a symlink");
    fs::set_permissions(at("small"), fs::Permissions::from_mode(0o640)).expect("a mode");
    succeed(Command::new("setfattr").args(["-n", "user.a", "-v", "b"]).arg(at("small")));
    fs::create_dir(at("dir")).expect("a directory");
    fs::write(at("dir/moved.new"), &small).expect("a write");
    fs::rename(at("dir/moved.new"), at("dir/moved")).expect("a rename");
    fs::write(at("removed"), &small).expect("a write");
    fs::remove_file(at("removed")).expect("our own file");
    succeed(Command::new("touch").args(["-d", "2001-01-01 01:01:01.123456789 UTC"]).arg(at("cut")));
    for name in ["large", "empty", "sparse", "cut", "patched", "appended", "dir/moved", "small"] {
        fsync(&at(name));
    }
    fsync(&dir);
    vault.kill();
    vault.mount_with(&CHEAP);
    let read = |name: &str| fs::read(at(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(read("small") == small && read("hardlink") == small && read("symlink") == small);
    assert!(read("large") == large);
    assert!(read("empty").is_empty());
    let sparse = read("sparse");
    assert!(sparse.len() == 50_000_003 && sparse.ends_with(b"far") && sparse[..50_000_000].iter().all(|b| *b == 0));
    assert!(read("cut") == large[..1_000_001]);
    let patched = read("patched");
    assert!(patched.len() == large.len() && patched[4_200_000..].starts_with(b"patch"));
    assert!(patched[..4_200_000] == large[..4_200_000] && patched[4_200_005..] == large[4_200_005..]);
    assert!(read("appended") == small.repeat(100));
    assert!(read("dir/moved") == small && !at("dir/moved.new").exists() && !at("removed").exists());
    let meta = fs::metadata(at("small")).expect("attributes");
    assert_eq!((meta.mode() & 0o7777, meta.nlink()), (0o640, 2));
    let attribute = succeed(Command::new("getfattr").args(["--only-values", "-n", "user.a"]).arg(at("small")));
    assert_eq!(attribute.stdout, b"b");
    let meta = fs::metadata(at("cut")).expect("attributes");
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (978_310_861, 123_456_789));
    println!("kill: 10 kinds of files and of changes were there again");
    vault.umount();
}

/// The harness ends what it started and nothing else.
#[test]
fn two_drives_are_killed_one_at_a_time() {
    let Some(mut one) = mounted() else { return };
    let Some(other): Option<Vault> = mounted() else { return };
    one.kill();
    fs::write(other.mountpoint().join("a"), b"it goes on").expect("the other drive lives");
    assert!(one.daemons().is_empty() && other.daemons().len() == 1);
}
