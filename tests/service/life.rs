//! The life of a service, as its manager hears it.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::common::{Vault, is_gone, is_mounted, is_root, noise, run, skip, succeed, wait_until};
use super::manager::{Manager, Service, vault, write_profile};
use super::server::{BUCKET, Fault, S3Server};

#[test]
fn ready_comes_once_the_mount_answers_and_what_is_pending_is_told_until_all_is_sent() {
    let Some(vault) = vault() else { return };
    let mut manager = Manager::new(&vault);
    let mut service = Service::ready(&vault, &mut manager, "upload-limit = '256K'", &[]);
    let dir = vault.mountpoint();
    assert!(is_mounted(&dir) && fs::read_dir(&dir).unwrap().next().is_none(), "READY, and it answers");
    manager.wait("a status", |line| line.starts_with("STATUS=ready: serving") && line.contains("pending: 0 files"));
    fs::write(dir.join("file"), noise(1, 1 << 20)).unwrap();
    manager.wait("what is pending", |line| line.contains("pending: 1 files, ") && !line.contains(" 0 bytes"));
    service.signal(libc::SIGTERM);
    manager.wait("STOPPING=1", |line| line == "STOPPING=1");
    // The store takes four seconds for it; each step of them asks for more time.
    manager.wait("more time", |line| line.starts_with("EXTEND_TIMEOUT_USEC="));
    manager.wait("what is left", |line| line.starts_with("STATUS=draining: ") && !line.contains(" 0 bytes"));
    assert_eq!(service.ended(), 0);
    manager.empty();
    let extended = manager.heard.iter().filter(|line| line.starts_with("EXTEND_TIMEOUT_USEC=")).count();
    assert!(extended >= 3, "as long as bytes move, not only when an object is done: {extended}");
    assert!(!is_mounted(&dir));
    let lines = service.log();
    assert!(lines.lines().all(|line| line.starts_with("<") && line.as_bytes()[2] == b'>'), "priorities: {lines}");
    assert!(lines.contains("<6>dripfs: ready: "), "{lines}");
}

/// A store that does not answer keeps one drive from being mounted, and nobody from being told so, or of the others.
#[test]
fn status_shows_a_drive_that_is_still_being_opened_beside_the_others() {
    let Some(mut vault) = vault() else { return };
    vault.mount_with(&[]);
    let server = S3Server::start();
    let Some(mut slow) = Vault::at(&format!("s3://{BUCKET}/slow"), server.environment()) else { return };
    slow.mount_with(&["--kdf-memory", "64"]);
    slow.umount();
    server.set_fault(Fault::Hang);
    let dir = slow.mountpoint();
    let mut mount = slow.dripfs(["mount", "--state"]);
    mount.arg(slow.state()).arg(slow.url()).arg(&dir).stderr(Stdio::null());
    let mut mount = mount.spawn().unwrap();
    let all = || {
        let output = succeed(&mut vault.dripfs(["status", "--json"]));
        serde_json::from_slice::<Vec<serde_json::Value>>(&output.stdout).unwrap()
    };
    let of = |dir: &Path| all().into_iter().find(|mount| mount["mountpoint"] == dir.to_str().unwrap());
    wait_until("it is shown", || of(&dir).is_some_and(|mount| mount["state"] == "opening"));
    assert_eq!(of(&vault.mountpoint()).unwrap()["state"], "ready");
    let shown = succeed(vault.dripfs(["status"]).arg(&dir)).stdout;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.contains("opening: not mounted yet") && shown.contains("s3://bucket/slow"), "{shown}");
    // SAFETY: a signal to a child of ours that has not been waited for.
    unsafe { libc::kill(mount.id() as i32, libc::SIGTERM) };
    assert_eq!(mount.wait().unwrap().code(), Some(1));
    assert!(of(&dir).is_none());
    vault.umount();
}

#[test]
fn a_slow_server_is_waited_for_and_everything_arrives() {
    let server = S3Server::start();
    let Some(mut vault) = Vault::at(&format!("s3://{BUCKET}/x"), server.environment()) else { return };
    vault.mount_with(&["--kdf-memory", "64"]);
    vault.umount();
    let mut manager = Manager::new(&vault);
    let mut service = Service::ready(&vault, &mut manager, "", &[]);
    server.set_fault(Fault::Slow(400 << 10));
    fs::write(vault.mountpoint().join("file"), noise(1, 1 << 20)).unwrap();
    service.signal(libc::SIGTERM);
    manager.wait("more time", |line| line.starts_with("EXTEND_TIMEOUT_USEC="));
    assert_eq!(service.ended(), 0);
    server.set_fault(Fault::None);
    vault.move_to_machine("another");
    vault.mount_with(&[]);
    assert!(fs::read(vault.mountpoint().join("file")).unwrap() == noise(1, 1 << 20));
}

#[test]
fn what_stays_on_this_machine_has_its_own_exit_code_and_the_next_start_sends_it() {
    let Some(mut vault) = vault() else { return };
    let mut manager = Manager::new(&vault);
    let mut service = Service::ready(&vault, &mut manager, "", &[]);
    let away = vault.root().join("away");
    fs::rename(vault.remote(), &away).unwrap();
    fs::write(vault.mountpoint().join("file"), b"kept").unwrap();
    manager.wait("an outage", |line| line.starts_with("STATUS=outage ("));
    service.signal(libc::SIGTERM);
    manager.wait("STOPPING=1", |line| line == "STOPPING=1");
    // Ctrl-C does not wait for the store.
    service.signal(libc::SIGINT);
    assert_eq!(service.ended(), 14);
    assert!(service.log().lines().any(|line| line.starts_with("<3>dripfs: unmounted, but ")), "{}", service.log());
    fs::rename(&away, vault.remote()).unwrap();
    let mut service = Service::ready(&vault, &mut manager, "", &[]);
    assert_eq!(fs::read(vault.mountpoint().join("file")).unwrap(), b"kept");
    service.signal(libc::SIGINT);
    assert_eq!(service.ended(), 0);
    vault.move_to_machine("another");
    vault.mount_with(&[]);
    assert_eq!(fs::read(vault.mountpoint().join("file")).unwrap(), b"kept");
}

#[test]
fn the_watchdog_hears_nothing_while_the_threads_that_serve_requests_hang() {
    if !is_root() {
        return skip("only root may hold single threads of a process that is not dumpable");
    }
    let Some(vault) = vault() else { return };
    let mut manager = Manager::new(&vault);
    let watchdog = [("WATCHDOG_USEC", "900000")];
    let service = Service::ready(&vault, &mut manager, "", &watchdog);
    let alive = |line: &str| line == "WATCHDOG=1";
    manager.wait("a sign of life", alive);
    let held = hold_threads(service.child.id(), "fuser-");
    assert!(!held.is_empty());
    // What was on its way before.
    manager.hear(Duration::from_secs(1));
    manager.empty();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        let heard = manager.hear(Duration::from_millis(300));
        assert!(!heard.iter().any(|line| alive(line)), "requests are not served, and yet: {heard:?}");
    }
    // All else goes on: a timer of its own would have told that all is well.
    assert_eq!(vault.status()["state"], "ready");
    release_threads(&held);
    manager.wait("a sign of life again", alive);
    vault.dripfs(["umount"]).arg(vault.mountpoint()).status().unwrap();
}

/// Stops single threads of a process, by name, as a debugger does.
fn hold_threads(pid: u32, name: &str) -> Vec<i32> {
    let mut held = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let thread: i32 = task.file_name().to_str().unwrap().parse().unwrap();
        if fs::read_to_string(task.path().join("comm")).unwrap().starts_with(name) {
            let none = std::ptr::null_mut::<libc::c_void>();
            // SAFETY: no memory is handed over; the thread is of a child of ours, and is let go below.
            unsafe {
                assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, thread, none, none), 0, "{thread}");
                assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none), 0, "{thread}");
            }
            held.push(thread);
        }
    }
    for thread in &held {
        let mut status = 0;
        // SAFETY: waits for the stop of a thread that is traced.
        unsafe { libc::waitpid(*thread, &mut status, libc::__WALL) };
    }
    held
}

fn release_threads(held: &[i32]) {
    for thread in held {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: it was seized by this very thread.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, *thread, none, none) };
    }
}

#[test]
fn sighup_reads_limits_and_log_level_anew_and_a_bad_profile_changes_nothing() {
    let Some(vault) = vault() else { return };
    let mut manager = Manager::new(&vault);
    let mut service = Service::ready(&vault, &mut manager, "upload-limit = '4K'\nlog-level = 'error'", &[]);
    manager.empty();
    write_profile(&vault, "upload-limit = 'fast'");
    service.signal(libc::SIGHUP);
    manager.wait("a reload", |line| line == "RELOADING=1");
    manager.wait("its end", |line| line == "READY=1");
    assert!(service.log().contains("<3>nothing was changed: ") && service.log().contains("drive.toml:4: upload-limit"));
    // At 4 KiB a second this takes minutes.
    fs::write(vault.mountpoint().join("file"), noise(1, 2 << 20)).unwrap();
    manager.wait("what is pending", |line| line.contains("pending: 1 files"));
    write_profile(&vault, "log-level = 'debug'");
    service.signal(libc::SIGHUP);
    manager.wait("a reload", |line| line == "RELOADING=1");
    manager.wait("its end", |line| line == "READY=1");
    wait_until("it logs what it did not before", || service.log().contains("<7>"));
    assert!(is_mounted(&vault.mountpoint()));
    // What goes on at the old rate is a piece of one request.
    service.signal(libc::SIGTERM);
    assert_eq!(service.ended(), 0);
}

#[test]
fn a_killed_service_leaves_a_mount_that_the_unit_clears_and_starts_again_with_all_that_was_synced() {
    let Some(vault) = vault() else { return };
    let mut manager = Manager::new(&vault);
    let mut service = Service::ready(&vault, &mut manager, "upload-limit = '4K'", &[]);
    let dir = vault.mountpoint();
    fs::write(dir.join("file"), noise(1, 300_000)).unwrap();
    fs::File::open(dir.join("file")).unwrap().sync_all().unwrap();
    service.signal(libc::SIGKILL);
    assert_eq!(service.ended(), -libc::SIGKILL);
    assert!(fs::read_dir(&dir).is_err(), "dead");
    let message = run(vault.dripfs(["status"]).arg(&dir));
    let message = String::from_utf8_lossy(&message.stderr).into_owned();
    assert!(message.contains("is dead") && message.contains("clear it with"), "{message}");
    succeed(&mut vault.dripfs(["umount", "--dead", "drive"]));
    assert!(!is_mounted(&dir));
    // Nothing dead there: nothing is done.
    succeed(&mut vault.dripfs(["umount", "--dead", "drive"]));
    let mut service = Service::ready(&vault, &mut manager, "", &[]);
    assert!(fs::read(dir.join("file")).unwrap() == noise(1, 300_000));
    succeed(&mut vault.dripfs(["umount", "--dead", "drive"]));
    assert!(is_mounted(&dir), "a drive that lives is left alone");
    // Somebody else's umount ends it as well.
    succeed(std::process::Command::new(if is_root() { "umount" } else { "fusermount3" }).args(flag()).arg(&dir));
    assert_eq!(service.ended(), 0);
}

fn flag() -> &'static [&'static str] {
    if is_root() { &[] } else { &["-u"] }
}

#[test]
fn a_profile_in_the_background_is_overruled_by_the_command_line() {
    let Some(vault) = vault() else { return };
    let passphrase = format!("passphrase-command = \"cat '{}'\"", vault.passphrase_file().display());
    write_profile(&vault, &format!("ro = true\n{passphrase}\ncache = '64M'\n"));
    let other = vault.root().join("other");
    fs::create_dir(&other).unwrap();
    let mounted = |arguments: &[&str]| {
        let mut command = vault.dripfs(["mount", "--background"]);
        command.env_remove("DRIPFS_PASSPHRASE_FILE");
        succeed(command.args(arguments).arg("drive").arg(&other));
        let state = vault.dripfs(["status", "--json"]).arg(&other).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&state.stdout).unwrap();
        let written = fs::write(other.join("file"), b"x").is_ok();
        succeed(vault.dripfs(["umount"]).arg(&other));
        (status["state"].as_str().unwrap().to_owned(), written)
    };
    assert_eq!(mounted(&[]), ("read-only".to_owned(), false));
    assert_eq!(mounted(&["-o", "rw"]), ("ready".to_owned(), true));
}

#[test]
fn wrong_profiles_are_told_with_their_line_and_end_with_2() {
    let Some(vault) = vault() else { return };
    let said = |more: &str, arguments: &[&str]| {
        write_profile(&vault, more);
        let output = run(vault.dripfs(["mount"]).args(arguments).stdin(Stdio::null()));
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, message) = said("chache = '1G'", &["drive"]);
    assert!(code == Some(2) && message.contains("drive.toml:4: chache: there is no such key"), "{message}");
    let (code, message) = said("", &["no-such-profile"]);
    assert!(code == Some(2) && message.contains("no profile of this name in "), "{message}");
    let profile = vault.root().join("home/.config/dripfs/drive.toml");
    succeed(std::process::Command::new("chmod").arg("go+w").arg(&profile));
    let output = run(&mut vault.dripfs(["mount", "drive"]));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && message.contains("chmod go-w"), "{message}");
    assert!(!is_mounted(&vault.mountpoint()));
}

#[test]
fn two_profiles_are_served_at_once_and_the_binary_may_be_replaced_under_them() {
    let (Some(one), Some(two)) = (vault(), vault()) else { return };
    let binary = one.root().join("dripfs");
    fs::copy(super::common::binary(), &binary).unwrap();
    let start = |vault: &Vault| {
        write_profile(vault, "");
        let mut command = std::process::Command::new(&binary);
        command.args(["mount", "--background", "drive"]).env_clear().env("HOME", vault.root().join("home"));
        command.env("DRIPFS_PASSPHRASE_FILE", vault.passphrase_file());
        succeed(&mut command);
    };
    start(&one);
    start(&two);
    // As a package manager does it.
    fs::copy(&binary, one.root().join("new")).unwrap();
    fs::rename(one.root().join("new"), &binary).unwrap();
    for vault in [&one, &two] {
        fs::write(vault.mountpoint().join("file"), vault.root().as_os_str().as_encoded_bytes()).unwrap();
        assert_eq!(vault.status()["state"], "ready");
    }
    for vault in [&one, &two] {
        let pid = vault.status()["pid"].as_i64().unwrap() as i32;
        succeed(vault.dripfs(["umount"]).arg(vault.mountpoint()));
        assert!(is_gone(pid) || !Path::new(&format!("/proc/{pid}")).exists());
    }
}
