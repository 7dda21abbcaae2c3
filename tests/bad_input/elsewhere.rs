//! A vault or a state directory that somebody uses already.

use std::fs;

use crate::common::{Vault, is_root, noise, succeed};
use crate::{CHEAP, mount_with_state, refused, snapshot};

#[test]
fn a_vault_that_is_open_elsewhere_is_refused_with_where_and_when() {
    let Some(mut vault) = Vault::new() else { return };
    vault.mount_with(&CHEAP);
    let here = vault.mountpoint();
    fs::write(here.join("kept"), crate::KEPT).expect("a write");
    let (state, dir) = (vault.root().join("another"), vault.root().join("mnt2"));
    fs::create_dir(&dir).expect("room for a directory");
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let told = ["open elsewhere", &host, "last commit 20", "--takeover"];
    refused(&mut mount_with_state(&vault, &state, &dir), 11, &told);
    let mut init = mount_with_state(&vault, &state, &dir);
    refused(init.arg("--init"), 11, &told);
    fs::write(here.join("more"), b"it goes on").expect("a write");
    vault.umount();
    vault.move_to_machine("another");
    vault.mount_with(&CHEAP);
    assert_eq!(fs::read(here.join("kept")).expect("a read"), crate::KEPT);
    assert_eq!(fs::read(here.join("more")).expect("a read"), b"it goes on");
    vault.umount();
}

/// After a crash it is not the other machine's to take, and still this machine's.
#[test]
fn a_vault_whose_machine_crashed_is_refused_elsewhere_and_goes_on_at_home() {
    let Some(mut vault) = Vault::new() else { return };
    vault.mount_with(&CHEAP);
    fs::write(vault.mountpoint().join("kept"), crate::KEPT).expect("a write");
    fs::File::open(vault.mountpoint().join("kept")).and_then(|file| file.sync_all()).expect("fsync");
    vault.kill();
    let state = vault.root().join("another");
    refused(&mut mount_with_state(&vault, &state, &vault.mountpoint()), 11, &["open elsewhere", "--takeover"]);
    crate::assert_sound(&mut vault);
}

#[test]
fn a_state_directory_in_use_is_not_shared() {
    let Some(mut vault) = Vault::new() else { return };
    vault.mount_with(&CHEAP);
    fs::write(vault.mountpoint().join("kept"), crate::KEPT).expect("a write");
    let dir = vault.root().join("mnt2");
    fs::create_dir(&dir).expect("room for a directory");
    refused(
        &mut mount_with_state(&vault, vault.state(), &dir),
        11,
        &["state directory", "in use by another process", "mounted here"],
    );
    fs::write(vault.mountpoint().join("more"), b"it goes on").expect("a write");
    vault.umount();
    crate::assert_sound(&mut vault);
    assert!(!snapshot(vault.state()).is_empty());
}

/// The system's umount returns at once, and the process goes on to send.
#[test]
fn a_vault_that_was_just_unmounted_is_mounted_again_once_all_is_sent() {
    let Some(mut vault) = Vault::new() else { return };
    vault.mount_with(&[&CHEAP[..], &["-o", "upload-limit=512K"]].concat());
    let bytes = noise(1, 1 << 20);
    fs::write(vault.mountpoint().join("large"), &bytes).expect("a write");
    let first = vault.daemons();
    let umount = if is_root() { vec!["umount"] } else { vec!["fusermount3", "-u"] };
    succeed(std::process::Command::new(umount[0]).args(&umount[1..]).arg(vault.mountpoint()));
    let (state, dir) = (vault.state().to_owned(), vault.mountpoint());
    let output = succeed(&mut mount_with_state(&vault, &state, &dir));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("still sends") && said.contains(&dir.display().to_string()), "{said}");
    let now = vault.daemons();
    assert!(now.iter().all(|pid| !first.contains(pid)) && now.len() == 1, "the first one ended: {first:?}, {now:?}");
    assert!(fs::read(dir.join("large")).expect("a read") == bytes);
    assert_eq!(vault.status()["pending_bytes"], 0, "it was in the vault before");
    vault.umount();
}

#[test]
fn a_name_of_256_bytes_is_too_long_and_one_of_255_is_not() {
    let Some(mut vault) = Vault::new() else { return };
    vault.mount_with(&CHEAP);
    let at = |length: usize| vault.mountpoint().join("n".repeat(length));
    let too_long = |result: std::io::Result<()>| {
        assert_eq!(result.expect_err("256 bytes").raw_os_error(), Some(libc::ENAMETOOLONG));
    };
    fs::write(at(255), b"fits").expect("255 bytes");
    too_long(fs::write(at(256), b"does not"));
    too_long(fs::create_dir(at(256)));
    too_long(fs::rename(at(255), at(256)));
    too_long(fs::hard_link(at(255), at(256)));
    too_long(std::os::unix::fs::symlink("target", at(256)));
    too_long(fs::metadata(at(256)).map(drop));
    assert_eq!(fs::read(at(255)).expect("still there"), b"fits");
    assert_eq!(fs::read_dir(vault.mountpoint()).expect("a listing").count(), 1);
    vault.umount();
}
