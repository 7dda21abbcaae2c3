//! A drive without its store, and two machines that write: as a user meets it, with exit codes and words.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dripfs::base::standstill::LEAST;
use serde_json::Value;

use crate::common::{Vault, detach, run, succeed, wait_until};
use crate::{CHEAP, KEPT, assert_sound, check_refusal, mount_on, mount_with_state, refused, sound_vault};

fn status(vault: &Vault, dir: &Path) -> Value {
    let output = succeed(vault.dripfs(["status", "--json"]).arg(dir));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn state_is(vault: &Vault, dir: &Path, state: &str) -> bool {
    status(vault, dir)["state"] == state
}

fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a write");
    File::open(path).and_then(|file| file.sync_all()).expect("fsync");
}

/// E4: mounted, written, unmounted (14), mounted and written again; and the store comes back while it is mounted.
#[test]
fn e4_a_drive_works_without_its_store_and_sends_all_when_that_is_back() {
    let Some(mut vault) = sound_vault() else { return };
    let away = vault.root().join("away");
    fs::rename(vault.remote(), &away).expect("the disk with the vault goes");
    let dir = vault.mountpoint();
    let told = succeed(&mut mount_on(&vault, &dir));
    assert!(String::from_utf8_lossy(&told.stderr).contains("mounted without the store"), "{told:?}");
    let now = status(&vault, &dir);
    assert_eq!(now["state"], "offline", "{now}");
    assert!(now["reason"].as_str().is_some_and(|why| why.contains("does not answer")), "{now}");
    put(&dir.join("first"), b"first");
    assert_eq!(fs::read(dir.join("first")).expect("a read"), b"first");
    let output = run(vault.dripfs(["umount"]).arg(&dir));
    check_refusal(&output, 14, &["did not reach the vault", "mount again"]);

    succeed(&mut mount_on(&vault, &dir));
    assert_eq!(fs::read(dir.join("first")).expect("a read"), b"first");
    put(&dir.join("second"), b"second");
    fs::rename(&away, vault.remote()).expect("the disk comes back");
    succeed(vault.dripfs(["sync"]).arg(&dir));
    assert!(state_is(&vault, &dir, "ready"), "{}", status(&vault, &dir));
    succeed(vault.dripfs(["umount"]).arg(&dir));

    vault.move_to_machine("another");
    vault.mount_with(&CHEAP);
    assert_eq!(fs::read(dir.join("first")).expect("a read"), b"first");
    assert_eq!(fs::read(dir.join("second")).expect("a read"), b"second");
    vault.umount();
    assert_sound(&mut vault);
}

/// E4: what a machine cannot mount without the store it says, and a reader does not try.
#[test]
fn e4_without_an_index_the_store_is_needed() {
    let Some(mut vault) = sound_vault() else { return };
    let away = vault.root().join("away");
    fs::rename(vault.remote(), &away).expect("the disk with the vault goes");
    for entry in fs::read_dir(vault.state()).expect("a directory").flatten() {
        let _ = fs::remove_dir_all(entry.path().join("index"));
    }
    let told = ["does not exist", "its disk mounted", "cannot be mounted without it", "no index"];
    refused(&mut mount_on(&vault, &vault.mountpoint()), 1, &told);
    assert!(!vault.remote().exists(), "a directory was made where the vault's disk was");
    fs::rename(&away, vault.remote()).expect("the disk comes back");
    assert_sound(&mut vault);
}

/// Sends a signal to the daemon of this vault's mountpoint.
fn signal(vault: &Vault, signal: i32) {
    for pid in vault.daemons() {
        // SAFETY: a signal to a process that runs our binary on our mountpoint.
        unsafe { libc::kill(pid, signal) };
    }
}

/// E3: the first writer is asleep with files that it has not sent. Another machine takes the vault over. The first wakes
/// up and writes nothing into the new history; each of its files comes back by rescue.
#[test]
fn e3_a_writer_that_slept_through_a_takeover_is_fenced_and_its_files_are_rescued() {
    let Some(mut vault) = sound_vault() else { return };
    let (dir, other) = (vault.mountpoint(), vault.root().join("mnt2"));
    fs::create_dir(&other).expect("room for a directory");
    vault.mount_with(&CHEAP);
    let big: Vec<u8> = (0..300_000u32).flat_map(|n| n.to_le_bytes()).collect();
    put(&dir.join("unsent"), b"unsent");
    put(&dir.join("big"), &big);
    put(&dir.join("kept"), b"changed here");
    signal(&vault, libc::SIGSTOP);

    let second = vault.root().join("second");
    succeed(mount_with_state(&vault, &second, &other).arg("--takeover"));
    put(&other.join("theirs"), b"theirs");
    succeed(vault.dripfs(["sync"]).arg(&other));
    signal(&vault, libc::SIGCONT);

    // It may not have looked yet, and may have had nothing to send: now it has.
    let _ = fs::write(dir.join("woken"), b"woken");
    wait_until("the first is fenced", || state_is(&vault, &dir, "fenced"));
    assert!(fs::write(dir.join("late"), b"late").is_err(), "a fenced drive takes no writes");
    // Each says what to do next.
    let shown = succeed(vault.dripfs(["status"]).arg(&dir)).stdout;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.contains("fenced: another machine has taken") && shown.contains("`dripfs rescue`"), "{shown}");
    refused(
        vault.dripfs(["sync"]).arg(&dir),
        1,
        &["another machine", "unmount it and mount it again", "dripfs rescue"],
    );
    let unmounted = run(vault.dripfs(["umount"]).arg(&dir));
    check_refusal(&unmounted, 14, &["did not reach the vault", "dripfs rescue"]);
    let names = fs::read_dir(&other).expect("a listing").flatten().map(|entry| entry.file_name());
    let seen: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    assert!(!seen.contains(&"woken".to_owned()), "nothing of the first is written into the new history");
    assert!(seen.contains(&"theirs".to_owned()), "{seen:?}");
    succeed(vault.dripfs(["umount"]).arg(&other));

    // Not all of it may have been unsent when it fell asleep; what was committed before the takeover is in the vault.
    let told = succeed(&mut mount_on(&vault, &dir));
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(fs::read(dir.join("theirs")).expect("a read"), b"theirs");
    let now = status(&vault, &dir);
    if now["set_aside"].as_array().is_some_and(|aside| !aside.is_empty()) {
        assert!(told.contains("dripfs rescue"), "{told}");
        let rescued = || fs::read_dir(&dir).unwrap().flatten().map(|entry| entry.file_name());
        let rescued = || rescued().filter(|name| name.to_string_lossy().starts_with("rescued-")).count();
        succeed(vault.dripfs(["rescue"]).arg(&dir));
        let report = succeed(vault.dripfs(["rescue", "--json", "--remove"]).arg(&dir));
        assert_eq!(rescued(), 1, "what stands there is not written once more");
        let report: Value = serde_json::from_slice(&report.stdout).expect("JSON");
        let out = Path::new(report["to"].as_str().expect("a path")).to_owned();
        assert!(out.starts_with(&dir), "into the drive itself: {report}");
        for (name, bytes) in [("unsent", &b"unsent"[..]), ("big", &big), ("kept", b"changed here")] {
            let place = if seen.contains(&name.to_owned()) && !out.join(name).exists() { &dir } else { &out };
            assert!(fs::read(place.join(name)).expect(name) == bytes, "{name}: {report}");
        }
        assert!(status(&vault, &dir)["set_aside"].as_array().is_some_and(Vec::is_empty), "it was removed");
    } else {
        // A round was quicker than the signal.
        assert!(fs::read(dir.join("big")).expect("a read") == big);
    }
    succeed(vault.dripfs(["umount"]).arg(&dir));
    detach(&other);
}

/// E3: all of the first writer is in the vault, and it is asked for nothing. It finds out by itself that another machine
/// has taken the vault over while it was stopped, before it takes a write that it could not send.
#[test]
fn e3_a_writer_that_was_stopped_through_a_takeover_finds_out_without_being_written_to() {
    let Some(mut vault) = sound_vault() else { return };
    let (dir, other) = (vault.mountpoint(), vault.root().join("mnt2"));
    fs::create_dir(&other).expect("room for a directory");
    vault.mount_with(&CHEAP);
    put(&dir.join("sent"), b"sent");
    succeed(vault.dripfs(["sync"]).arg(&dir));
    signal(&vault, libc::SIGSTOP);
    succeed(mount_with_state(&vault, &vault.root().join("second"), &other).arg("--takeover"));
    std::thread::sleep(LEAST + Duration::from_secs(2));
    signal(&vault, libc::SIGCONT);

    wait_until("the first is fenced", || state_is(&vault, &dir, "fenced"));
    assert!(fs::write(dir.join("late"), b"late").is_err(), "a fenced drive takes no writes");
    assert_eq!(fs::read(dir.join("sent")).expect("a read"), b"sent", "it is read all the same");
    check_refusal(&run(vault.dripfs(["umount"]).arg(&dir)), 14, &["another machine has taken the vault over"]);
    assert!(!other.join("late").exists());
    succeed(vault.dripfs(["umount"]).arg(&other));
    vault.mount_with(&CHEAP);
    let now = status(&vault, &dir);
    assert!(now["set_aside"].as_array().is_some_and(Vec::is_empty), "nothing was lost, and nothing set aside: {now}");
    vault.umount();
    assert_sound(&mut vault);
}

/// A backup of the vault is put back under a machine that has seen more: 13, until somebody accepts it by name.
#[test]
fn a_vault_that_was_put_back_is_refused_with_the_name_of_the_override() {
    let Some(mut vault) = sound_vault() else { return };
    let backup = vault.root().join("backup");
    succeed(Command::new("cp").arg("-a").arg(vault.remote()).arg(&backup));
    vault.mount_with(&CHEAP);
    put(&vault.mountpoint().join("newer"), b"newer");
    vault.umount();
    fs::rename(vault.remote(), vault.root().join("newer vault")).expect("our own directory");
    fs::rename(&backup, vault.remote()).expect("our own directory");
    let dir = vault.mountpoint();
    refused(&mut mount_on(&vault, &dir), 13, &["rolled back", "--accept-rollback", "dripfs rescue"]);
    refused(mount_on(&vault, &dir).arg("--takeover"), 13, &["rolled back"]);
    assert_eq!(run(mount_on(&vault, &dir).args(["--read-only", "--accept-rollback"])).status.code(), Some(2));
    let told = succeed(mount_on(&vault, &dir).arg("--accept-rollback"));
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("accepted: the vault goes from sequence"), "{told}");
    assert_eq!(fs::read(dir.join("kept")).expect("a read"), KEPT);
    assert!(!dir.join("newer").exists());
    succeed(vault.dripfs(["umount"]).arg(&dir));
    assert_sound(&mut vault);
}

#[test]
fn rescue_says_what_it_needs_and_that_nothing_is_set_aside() {
    let Some(mut vault) = sound_vault() else { return };
    refused(vault.dripfs(["rescue"]).arg(vault.remote()), 2, &["--to OUT"]);
    let out = vault.root().join("out");
    let mut unknown = vault.dripfs(["rescue", "--to"]);
    unknown.arg(&out).arg("--state").arg(vault.root().join("nowhere")).arg(vault.remote());
    refused(&mut unknown, 1, &["no state directory"]);
    let mut nothing = vault.dripfs(["rescue", "--to"]);
    nothing.arg(&out).arg("--state").arg(vault.state()).arg(vault.remote());
    let said = succeed(&mut nothing);
    assert_eq!(String::from_utf8_lossy(&said.stdout), "nothing is set aside\n");
    assert!(!out.exists());
    vault.mount_with(&CHEAP);
    succeed(vault.dripfs(["rescue"]).arg(vault.mountpoint()));
    vault.umount();
}
