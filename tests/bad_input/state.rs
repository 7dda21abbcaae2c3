//! State directories that will not do.

use std::fs;

use crate::common::Vault;
use crate::{CHEAP, assert_sound, check_refusal, in_namespace, mount_with_state, needs_root, refused};
use crate::{snapshot, sound_vault};

const MOUNT: &str = r#"exec "$DRIPFS" mount --background --state "$1" "$2" "$3""#;

fn mount_after(vault: &Vault, script: &str) -> std::process::Output {
    let state = vault.root().join("small");
    fs::create_dir_all(&state).expect("room for a directory");
    let arguments = [state, vault.remote(), vault.mountpoint()];
    in_namespace(vault, script, &arguments.each_ref().map(|path| path.as_path()))
}

#[test]
fn a_full_disk_is_told_before_anything_begins() {
    if !needs_root() {
        return;
    }
    let Some(mut vault) = sound_vault() else { return };
    let before = snapshot(&vault.remote());
    let full = r#"mount -t tmpfs -o size=64k none "$1"; cat /dev/zero > "$1/fill" 2>/dev/null || :"#;
    let output = mount_after(&vault, &format!("{full}\n{MOUNT}"));
    check_refusal(&output, 1, &["state directory", "disk is full", "--state DIR"]);
    assert!(before == snapshot(&vault.remote()), "the vault was touched");
    assert_sound(&mut vault);
}

#[test]
fn a_read_only_disk_is_told_before_anything_begins() {
    if !needs_root() {
        return;
    }
    let Some(mut vault) = sound_vault() else { return };
    let before = snapshot(&vault.remote());
    let output = mount_after(&vault, &format!("mount -t tmpfs -o ro none \"$1\"\n{MOUNT}"));
    check_refusal(&output, 1, &["state directory", "read-only filesystem", "--state DIR"]);
    assert!(before == snapshot(&vault.remote()), "the vault was touched");
    assert_sound(&mut vault);
}

/// Writers get an error, what was fsynced stays readable, the process lives; and when it is killed then, the same state
/// on a larger disk brings all of it to the vault.
#[test]
fn a_disk_that_fills_up_while_the_drive_is_used_loses_nothing_that_was_fsynced() {
    if !needs_root() {
        return;
    }
    let Some(mut vault) = sound_vault() else { return };
    let script = r#"
        mount -t tmpfs -o size=24m none "$1"
        "$DRIPFS" mount --background -o journal=64M --state "$1" "$2" "$3"
        head -c 1000000 /dev/urandom > "$2.first"
        dd if="$2.first" of="$3/first" bs=64k conv=fsync status=none
        fallocate -l 22m "$1/fill" || head -c 22m /dev/zero > "$1/fill"
        if timeout 120 dd if=/dev/urandom of="$3/second" bs=1M count=64 conv=fsync status=none; then
            echo "64 MiB went to a disk without room for them" >&2; exit 90
        fi
        cmp "$2.first" "$3/first" || exit 91
        "$DRIPFS" status "$3" >/dev/null || exit 92
        pid=$("$DRIPFS" status --json "$3" | tr -d ' \n' | sed 's/.*"pid":\([0-9]*\).*/\1/')
        kill -9 "$pid" || exit 93
        umount -l "$3"
        rm "$1/fill"
        cp -a "$1" "$2.larger" || exit 94
        timeout 60 "$DRIPFS" mount --background --state "$2.larger" "$2" "$3" || exit 95
        cmp "$2.first" "$3/first" || exit 96
        timeout 60 "$DRIPFS" umount "$3" || exit 97
    "#;
    let output = mount_after(&vault, script);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    vault.move_to_machine("another");
    assert_sound(&mut vault);
}

#[test]
fn a_network_filesystem_is_refused_by_name() {
    // A drive of our own stands for one: its bytes lie elsewhere too.
    let Some(mut network) = Vault::new() else { return };
    let Some(mut vault) = sound_vault() else { return };
    network.mount_with(&CHEAP);
    let state = network.mountpoint().join("state");
    let told = ["state directory", "it is on fuse", "choose a local disk with --state DIR"];
    refused(&mut mount_with_state(&vault, &state, &vault.mountpoint()), 1, &told);
    assert!(!state.exists(), "something was made there all the same");
    network.umount();
    assert_sound(&mut vault);
}
