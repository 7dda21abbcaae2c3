//! Mountpoints that are none.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::common::{self, Vault, is_root, succeed, wait_until};
use crate::{CHEAP, Nobody, assert_sound, check_refusal, in_namespace, mount_on, mount_with_state, needs_root};
use crate::{refused, run, snapshot, sound_vault};

#[test]
fn a_missing_mountpoint_is_told_with_the_way_to_make_it() {
    let Some(mut vault) = sound_vault() else { return };
    let (before, dir) = (snapshot(&vault.remote()), vault.root().join("nowhere"));
    refused(&mut mount_on(&vault, &dir), 1, &["nowhere does not exist", "mkdir "]);
    assert!(!dir.exists(), "only --init makes directories");
    assert!(before == snapshot(&vault.remote()), "the vault was touched");
    assert_sound(&mut vault);
}

#[test]
fn a_mountpoint_that_is_not_empty_keeps_what_lies_there() {
    let Some(mut vault) = sound_vault() else { return };
    let before = snapshot(&vault.remote());
    let mine = vault.mountpoint().join("mine");
    fs::write(&mine, b"precious").expect("a write");
    refused(&mut mount_on(&vault, &vault.mountpoint()), 1, &["is not empty", "choose an empty directory"]);
    assert_eq!(fs::read(&mine).expect("still there"), b"precious");
    assert!(before == snapshot(&vault.remote()), "the vault was touched");
    fs::remove_file(&mine).expect("our own file");
    assert_sound(&mut vault);
}

#[test]
fn a_file_is_no_mountpoint() {
    let Some(vault) = sound_vault() else { return };
    let before = snapshot(&vault.remote());
    let file = vault.root().join("file");
    fs::write(&file, b"precious").expect("a write");
    refused(&mut mount_on(&vault, &file), 1, &["file is not a directory", "empty directory"]);
    refused(&mut mount_on(&vault, &file.join("below")), 1, &["is not a directory"]);
    assert_eq!(fs::read(&file).expect("still there"), b"precious");
    assert!(before == snapshot(&vault.remote()), "the vault was touched");
}

#[test]
fn a_drive_that_is_mounted_already_goes_on() {
    let Some(vault) = sound_vault() else { return };
    let Some(mut other) = Vault::new() else { return };
    other.mount_with(&CHEAP);
    fs::write(other.mountpoint().join("a"), b"before").expect("a write");
    let before = snapshot(&vault.remote());
    let dir = other.mountpoint();
    refused(&mut mount_on(&vault, &dir), 1, &["is mounted on", "already", "dripfs umount"]);
    refused(&mut mount_on(&vault, Path::new("/proc")), 1, &["another filesystem (proc)", "already"]);
    assert!(before == snapshot(&vault.remote()), "the vault was touched");
    fs::write(dir.join("b"), b"after").expect("the drive goes on");
    assert_eq!(fs::read(dir.join("a")).expect("the drive goes on"), b"before");
    other.umount();
}

#[test]
fn a_dead_mount_comes_with_its_cure_and_loses_nothing() {
    let Some(mut vault) = Vault::new() else { return };
    vault.mount_with(&CHEAP);
    let dir = vault.mountpoint();
    fs::write(dir.join("kept"), crate::KEPT).expect("a write");
    fs::File::open(dir.join("kept")).and_then(|file| file.sync_all()).expect("fsync");
    // The kernel remembers the root's attributes now.
    fs::read_dir(&dir).and_then(|_| fs::metadata(&dir)).expect("it lives");
    vault.kill_daemons();
    let cure = if is_root() { "umount -l" } else { "fusermount3 -uz" };
    refused(&mut mount_on(&vault, &dir), 1, &["dead mount", cure, "nothing that was fsynced is lost"]);
    refused(vault.dripfs(["status"]).arg(&dir), 1, &["is dead", cure]);
    refused(vault.dripfs(["search", "x"]).arg(&dir), 2, &["is dead", cure]);
    let list = run(vault.dripfs(["cache", "list"]).arg(&dir));
    assert!(list.stdout.is_empty(), "nothing before the error");
    check_refusal(&list, 1, &["is dead", cure]);
    let doctor = String::from_utf8(run(&mut vault.dripfs(["doctor"])).stdout).expect("UTF-8");
    let shown = dir.to_str().expect("test paths are UTF-8");
    assert!(
        doctor.lines().any(|line| line.starts_with("WRONG") && line.contains(shown) && line.contains(cure)),
        "{doctor}"
    );
    common::detach(&dir);
    assert_sound(&mut vault);
}

#[test]
fn a_mountpoint_and_a_state_directory_need_not_be_text() {
    let Some(vault) = sound_vault() else { return };
    let strange = |name: &[u8]| vault.root().join(OsStr::from_bytes(name));
    let (dir, state) = (strange(b"mnt\xff"), strange(b"state\xfe"));
    fs::create_dir(&dir).expect("room for a directory");
    succeed(&mut mount_with_state(&vault, &state, &dir));
    let kept = fs::read(dir.join("kept"));
    let status = succeed(vault.dripfs(["status", "--json"]).arg(&dir));
    succeed(vault.dripfs(["umount"]).arg(&dir));
    assert_eq!(kept.expect("the file"), crate::KEPT);
    assert!(String::from_utf8_lossy(&status.stdout).contains("mnt\u{fffd}"));
}

#[test]
fn the_unit_clears_a_dead_mount_and_leaves_a_living_one_and_others_alone() {
    let Some(mut vault) = Vault::new() else { return };
    let dir = vault.mountpoint();
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/dripfs@.service");
    let unit = fs::read_to_string(unit).expect("the unit");
    // Whatever ended the service: a refused start too.
    assert!(unit.contains("\nExecStopPost=-/usr/bin/dripfs umount --dead %i\n"), "{unit}");
    let clean_up = |vault: &Vault| run(vault.dripfs(["umount", "--dead"]).arg(&dir));
    let stands = || fs::read_to_string("/proc/self/mountinfo").expect("/proc").contains(dir.to_str().expect("UTF-8"));
    clean_up(&vault);
    vault.mount_with(&CHEAP);
    clean_up(&vault);
    assert!(stands(), "a living drive was unmounted");
    fs::read_dir(&dir).and_then(|_| fs::metadata(&dir)).expect("it lives");
    vault.kill_daemons();
    if is_root() {
        wait_until("the dead mount is cleared", || {
            clean_up(&vault);
            !stands()
        });
        let script = "mount -t tmpfs none \"$1\"; \"$2\" umount --dead \"$1\"; mountpoint -q \"$1\"";
        let other = in_namespace(&vault, script, &[&dir, &common::binary()]);
        assert!(other.status.success(), "another filesystem was unmounted");
    }
    common::detach(&dir);
}

#[test]
fn a_mountpoint_that_one_may_not_write_to_is_refused() {
    if !needs_root() {
        return;
    }
    let Some(vault) = sound_vault() else { return };
    let nobody = Nobody::with_copy_of(&vault);
    let before = snapshot(&nobody.root.path().join("vault"));
    let device = "mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/fuse c 10 229";
    let closed = nobody.run(&vault, &format!("{device}\nchown 0:0 mnt; chmod 755 mnt; exec $MOUNT"));
    check_refusal(&closed, 1, &["you may not mount on", "write to it"]);
    let hidden = nobody.run(&vault, &format!("{device}\nmkdir -m 700 mnt/x; exec $MOUNT/x"));
    check_refusal(&hidden, 1, &["you may not mount on", "permission denied"]);
    assert!(before == snapshot(&nobody.root.path().join("vault")), "the vault was touched");
}

#[test]
fn a_drive_in_its_own_vault_would_wait_for_itself() {
    let Some(mut vault) = sound_vault() else { return };
    let inside = vault.remote().join("mnt");
    fs::create_dir(&inside).expect("room for a directory");
    refused(&mut mount_on(&vault, &inside), 1, &["lie one in the other"]);
    fs::remove_dir(&inside).expect("nothing is mounted there");
    assert_sound(&mut vault);
    let state = vault.root().join("another");
    succeed(&mut mount_with_state(&vault, &state, &vault.mountpoint()));
    vault.umount();
}
