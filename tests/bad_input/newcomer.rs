//! What somebody does who sees the program for the first time, and what it says to that.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::common::{Vault, binary, is_mounted, run, wait_until};
use crate::{CHEAP, mount_with_state, refused, snapshot, sound_vault};

#[test]
fn a_url_without_its_two_slashes_makes_no_directory_of_that_name() {
    let Some(vault) = Vault::new() else { return };
    for (url, meant) in
        [("s3:bucket/x", "s3://bucket/x"), ("S3:/bucket/x", "s3://bucket/x"), ("file:/srv/vault", "file:///srv/vault")]
    {
        let mut init = vault.dripfs(["init", "--state"]);
        init.arg(vault.state()).args(CHEAP).arg(url).current_dir(vault.root());
        refused(&mut init, 1, &[url, "two slashes are missing", meant]);
        let mut mount = vault.dripfs(["mount", "--init", "--background", "--state"]);
        mount.arg(vault.state()).args(CHEAP).arg(url).arg(vault.mountpoint()).current_dir(vault.root());
        refused(&mut mount, 1, &[url, "two slashes are missing", meant]);
    }
    assert!(!vault.root().join("s3:bucket").exists() && !vault.root().join("file:").exists());
}

#[test]
fn a_file_in_the_place_of_a_vault_is_told_and_left_alone() {
    let Some(vault) = Vault::new() else { return };
    let file = vault.root().join("file");
    fs::write(&file, b"precious").expect("a write");
    for url in [file.clone(), file.join("below")] {
        for options in [&[][..], &["--init"]] {
            let mut mount = vault.dripfs(["mount", "--background", "--state"]);
            mount.arg(vault.state()).args(options).arg(&url).arg(vault.mountpoint());
            let said = refused(&mut mount, 1, &["file", "directory"]);
            assert!(!said.contains("does not answer"), "{said}");
        }
    }
    assert_eq!(fs::read(&file).expect("still there"), b"precious");
}

#[test]
fn a_mount_in_the_background_is_called_dripfs_where_processes_are_listed() {
    let Some(mut vault) = sound_vault() else { return };
    vault.mount_with(&[]);
    let pid = vault.status()["pid"].as_u64().expect("a number");
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).expect("it lives"), "dripfs\n");
    vault.umount();
}

#[test]
fn vault_and_mount_point_in_the_wrong_order_are_told_apart() {
    let Some(vault) = sound_vault() else { return };
    let before = snapshot(&vault.remote());
    let mut swapped = vault.dripfs(["mount", "--background", "--state"]);
    swapped.arg(vault.state()).arg(vault.mountpoint()).arg(vault.remote());
    refused(&mut swapped, 1, &["holds a vault", "comes first"]);
    assert!(before == snapshot(&vault.remote()), "the vault was touched");
}

/// Types Ctrl-C at the prompt, on a terminal of its own, and looks whether that shows what is typed.
const CTRL_C: &str = r#"
import os, pty, signal, sys, termios
pid, terminal = pty.fork()
if pid == 0:
    # Whoever runs tests in the background has it ignored.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
shows = lambda: bool(termios.tcgetattr(terminal)[3] & termios.ECHO)
said = b""
while b": " not in said:
    said += os.read(terminal, 1000)
while shows():
    pass
os.write(terminal, b"\x03")
_, status = os.waitpid(pid, 0)
print(os.WIFSIGNALED(status) and os.WTERMSIG(status), "shown" if shows() else "silent")
"#;

#[test]
fn ctrl_c_at_the_prompt_leaves_a_terminal_that_shows_what_is_typed() {
    let Some(vault) = Vault::new() else { return };
    let mut python = Command::new("python3");
    python.args(["-c", CTRL_C]).arg(binary()).args(["init", "--state"]).arg(vault.state()).arg(vault.remote());
    python.env_remove("DRIPFS_PASSPHRASE_FILE").env("HOME", vault.root().join("home")).stdin(Stdio::null());
    let output = run(&mut python);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, "2 shown\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert!(snapshot(&vault.remote()).is_empty());
}

#[test]
fn who_leaves_before_the_drive_is_ready_leaves_neither_a_drive_nor_a_vault() {
    let Some(vault) = Vault::new() else { return };
    // Much memory takes long enough to leave in the middle.
    let mut mount = vault.dripfs(["mount", "--init", "--background", "--kdf-memory", "1024", "--state"]);
    mount.arg(vault.state()).arg(vault.remote()).arg(vault.mountpoint()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = mount.spawn().expect("the binary");
    wait_until("the background process has begun", || vault.remote().join("probe").exists());
    child.kill().expect("a process of ours");
    child.wait().expect("it ends");
    wait_until("the background process is gone", || vault.daemons().is_empty());
    assert!(!is_mounted(&vault.mountpoint()));
    assert!(!vault.remote().join("header").exists(), "a vault of which nobody has the recovery key");
    // And it can be made now.
    let mut vault = vault;
    vault.mount_with(&CHEAP);
    vault.umount();
}

#[test]
fn who_leaves_an_unmount_hears_that_it_goes_on() {
    let Some(mut vault) = sound_vault() else { return };
    vault.mount_with(&["--upload-limit", "200K"]);
    fs::write(vault.mountpoint().join("large"), crate::common::noise(1, 1 << 20)).expect("a write");
    let mut umount = vault.dripfs(["umount"]);
    let heeds_ctrl_c = || {
        // SAFETY: async-signal-safe. Whoever runs tests in the background has it ignored.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
        Ok(())
    };
    // SAFETY: see there.
    unsafe { umount.pre_exec(heeds_ctrl_c) };
    let mut child = umount.arg(vault.mountpoint()).stderr(Stdio::piped()).spawn().expect("the binary");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let first = lines.next().expect("it tells how far it is").expect("UTF-8");
    assert!(first.contains("left to send"), "{first}");
    // SAFETY: a signal to a child of ours.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(rest.iter().any(|line| line.contains("the unmounting goes on without this command")), "{rest:?}");
    child.wait().expect("it ends");
    wait_until("it is unmounted", || vault.daemons().is_empty());
    let state = vault.root().join("another");
    let mounted = run(&mut mount_with_state(&vault, &state, &vault.mountpoint()));
    assert!(mounted.status.success(), "all of it was sent, and the vault is free");
    assert!(fs::read(vault.mountpoint().join("large")).expect("a read") == crate::common::noise(1, 1 << 20));
    vault.umount();
}
