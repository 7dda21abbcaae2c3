//! /dev/fuse: missing, closed, or not what it seems.

use crate::common::Vault;
use crate::{CHEAP, Nobody, assert_sound, check_refusal, in_namespace, needs_root, snapshot, sound_vault};

const MOUNT: &str = r#"exec "$DRIPFS" mount --background --state "$1" "$2" "$3""#;
/// A /dev that has what a program needs, and no fuse.
const BARE_DEV: &str = "mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/urandom c 1 9";

fn mount_after(vault: &Vault, script: &str) -> std::process::Output {
    let arguments = [vault.state().to_owned(), vault.remote(), vault.mountpoint()];
    in_namespace(vault, &format!("{script}\n{MOUNT}"), &arguments.each_ref().map(|path| path.as_path()))
}

#[test]
fn a_missing_device_is_told_with_the_way_to_get_it() {
    if !needs_root() {
        return;
    }
    let Some(mut vault) = sound_vault() else { return };
    let before = snapshot(&vault.remote());
    check_refusal(&mount_after(&vault, BARE_DEV), 1, &["/dev/fuse is missing", "modprobe fuse", "--device /dev/fuse"]);
    assert!(before == snapshot(&vault.remote()), "the vault was touched");
    assert_sound(&mut vault);
}

#[test]
fn a_device_that_is_closed_to_this_user_is_told() {
    if !needs_root() {
        return;
    }
    let Some(vault) = sound_vault() else { return };
    let nobody = Nobody::with_copy_of(&vault);
    let closed = nobody.run(&vault, &format!("{BARE_DEV}; mknod -m 600 /dev/fuse c 10 229\nexec $MOUNT"));
    check_refusal(&closed, 1, &["/dev/fuse cannot be opened", "Permission denied", "mount as root"]);
}

/// Found out only when the kernel is asked: the epoch that was opened is closed again, and nothing stays mounted.
#[test]
fn a_file_in_the_devices_place_leaves_the_vault_free_for_others() {
    if !needs_root() {
        return;
    }
    let Some(mut vault) = sound_vault() else { return };
    let output = mount_after(&vault, ": > \"$1/empty\"; mount --bind \"$1/empty\" /dev/fuse");
    let mountpoint = vault.mountpoint();
    check_refusal(&output, 1, &["cannot mount on", mountpoint.to_str().expect("test paths are UTF-8")]);
    vault.move_to_machine("elsewhere");
    vault.mount_with(&CHEAP);
    vault.umount();
    assert_sound(&mut vault);
}
