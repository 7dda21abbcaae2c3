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
        fallocate -l 22m "$1/fill" || head -c 22m /dev/zero > "$1/fill" || :
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

/// With the store away, the journal fills its disk. Writers wait, then get ENOSPC; what frees space goes on, and so does
/// everything once the store is back. An unmount that finds no room for dirty bytes says whose they are.
#[test]
fn j6_a_disk_that_the_journal_fills_refuses_writers_and_frees_itself_when_the_store_is_back() {
    if !needs_root() {
        return;
    }
    let Some(mut vault) = sound_vault() else { return };
    let script = r#"
        mount -t tmpfs -o size=24m none "$1"
        mount --bind "$2" "$2"
        mount="$DRIPFS mount --background -o journal=64M --state $1 $2 $3"
        $mount
        head -c 1000000 /dev/urandom > "$1.first"
        cp "$1.first" "$3/first"
        timeout 60 "$DRIPFS" sync "$3"
        mount -o remount,ro,bind "$2"
        if timeout 150 dd if=/dev/urandom of="$3/second" bs=1M count=64 conv=fsync status=none; then
            echo "64 MiB went to a disk without room for them" >&2; exit 90
        fi
        "$DRIPFS" status "$3" | grep -q "disk-full: this machine's disk is full" || exit 91
        cmp "$1.first" "$3/first" || exit 92
        timeout 10 sh -c ': > "$1"' sh "$3/second" || exit 93
        timeout 10 rm "$3/second" || exit 94
        timeout 60 dd if="$1.first" of="$3/third" bs=64k conv=fsync status=none || exit 95

        mount -o remount,rw,bind "$2"
        timeout 60 "$DRIPFS" sync "$3" || exit 96
        timeout 60 dd if=/dev/urandom of="$3/large" bs=1M count=40 conv=fsync status=none || exit 97
        "$DRIPFS" status "$3" | grep -q "state *ready" || exit 98
        # That it was full could not be written to a log on that disk; that it is over is told once.
        for second in 1 2 3 4 5 6 7 8 9 10; do
            if grep -q "writers go on" "$1"/*/log; then break; elif [ $second = 10 ]; then exit 99; else sleep 1; fi
        done
        rm "$3/large"
        timeout 60 "$DRIPFS" sync "$3" || exit 99

        mount -o remount,ro,bind "$2"
        if timeout 150 dd if=/dev/urandom of="$3/lost" bs=1M count=64 conv=fsync status=none; then exit 100; fi
        code=0; timeout 150 "$DRIPFS" umount "$3" 2> "$1.said" || code=$?
        cat "$1.said" >&2
        [ "$code" = 14 ] && grep -q "not everything is kept: .* bytes of /lost" "$1.said" || exit 101
        mount -o remount,rw,bind "$2"
        # The process says how it ended before it lets go of the state directory.
        sleep 3
        $mount
        cmp "$1.first" "$3/first" && cmp "$1.first" "$3/third" && [ -e "$3/lost" ] || exit 102
        timeout 60 "$DRIPFS" umount "$3" || exit 103
    "#;
    let output = mount_after(&vault, script);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    vault.move_to_machine("another");
    vault.mount_with(&CHEAP);
    let first = fs::read(vault.root().join("small.first")).expect("a file");
    assert!(fs::read(vault.mountpoint().join("third")).expect("a read") == first);
    vault.umount();
    assert_sound(&mut vault);
}

/// Others fill the disk under the drive, and make room again: nobody has to mount anew.
#[test]
fn j6_a_disk_that_others_fill_is_waited_for() {
    if !needs_root() {
        return;
    }
    let Some(mut vault) = sound_vault() else { return };
    let script = r#"
        mount -t tmpfs -o size=24m none "$1"
        "$DRIPFS" mount --background -o journal=64M --state "$1" "$2" "$3"
        head -c 1000000 /dev/urandom > "$1.first"
        # The drive looks at the disk ten times a second.
        fill() { head -c 24m /dev/zero > "$1/fill" 2>/dev/null || :; sleep 1; }
        fill "$1"
        ( sleep 5; rm "$1/fill" ) &
        timeout 60 mkdir "$3/d" || exit 90
        wait
        timeout 60 dd if="$1.first" of="$3/kept" bs=64k conv=fsync status=none || exit 91
        fill "$1"
        if mkdir "$3/e"; then echo "a name on a disk without room" >&2; exit 92; fi
        timeout 10 rm "$3/kept" || exit 93
        rm "$1/fill"
        sleep 1
        timeout 10 mkdir "$3/e" || exit 95
        "$DRIPFS" status "$3" | grep -q "state *ready" || exit 94
        printf 'what was there before' > "$3/kept"
        timeout 60 "$DRIPFS" umount "$3" || exit 96
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
