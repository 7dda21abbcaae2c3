//! Passphrases: wrong, empty, with blanks and line ends; files that hold them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::common::{Vault, run, succeed};
use crate::{CHEAP, Nobody, assert_sound, check_refusal, needs_root, refused, snapshot, sound_vault};

/// A file with a passphrase, closed to others.
fn passphrase(vault: &Vault, name: &str, bytes: &[u8]) -> PathBuf {
    let path = vault.root().join(name);
    fs::write(&path, bytes).expect("room for a passphrase");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our own file");
    path
}

fn mount(vault: &Vault, file: &PathBuf, options: &[&str]) -> Command {
    let mut command = vault.dripfs(["mount", "--background", "--passphrase-file"]);
    command.arg(file).args(options).arg("--state").arg(vault.state()).arg(vault.remote()).arg(vault.mountpoint());
    command
}

#[test]
fn a_wrong_passphrase_opens_nothing_and_changes_nothing() {
    let Some(mut vault) = sound_vault() else { return };
    let before = snapshot(&vault.remote());
    let wrong = passphrase(&vault, "wrong", b"correct horse battery");
    for options in [&[][..], &["--read-only"], &["--init"]] {
        refused(&mut mount(&vault, &wrong, options), 12, &["wrong passphrase for file://"]);
    }
    assert!(before == snapshot(&vault.remote()), "the vault was touched");
    assert_sound(&mut vault);
}

#[test]
fn an_empty_passphrase_makes_no_vault() {
    let Some(vault) = Vault::new() else { return };
    for (name, empty) in [("none", &b""[..]), ("lf", b"\n"), ("crlf", b"\r\n")] {
        let file = passphrase(&vault, name, empty);
        refused(&mut mount(&vault, &file, &["--init"]), 1, &["the passphrase is empty"]);
        let mut init = vault.dripfs(["init", "--passphrase-file"]);
        init.arg(&file).arg("--state").arg(vault.state()).arg(vault.remote());
        refused(&mut init, 1, &["the passphrase is empty"]);
    }
    assert!(snapshot(&vault.remote()).is_empty());
}

#[test]
fn blanks_and_letters_beyond_ascii_count_and_one_line_end_does_not() {
    let Some(mut vault) = Vault::new() else { return };
    let made = passphrase(&vault, "made", "  zwei Wörter \u{1f511} \r\n".as_bytes());
    let mut init = vault.dripfs(["init", "--passphrase-file"]);
    init.arg(&made).args(CHEAP).arg("--recovery-file").arg(vault.root().join("recovery"));
    succeed(init.arg("--state").arg(vault.state()).arg(vault.remote()));
    for (name, end) in [("lf", "\n"), ("bare", ""), ("crlf", "\r\n")] {
        let file = passphrase(&vault, name, format!("  zwei Wörter \u{1f511} {end}").as_bytes());
        succeed(&mut mount(&vault, &file, &[]));
        fs::write(vault.mountpoint().join("kept"), name).expect("a write");
        vault.umount();
    }
    for other in ["zwei Wörter \u{1f511}", "  zwei Worter \u{1f511} ", "  zwei Wörter \u{1f511} \n\n"] {
        let file = passphrase(&vault, "other", other.as_bytes());
        refused(&mut mount(&vault, &file, &[]), 12, &["wrong passphrase"]);
    }
}

#[test]
fn a_passphrase_file_that_cannot_be_read_is_named() {
    let Some(vault) = sound_vault() else { return };
    let missing = vault.root().join("no-such-file");
    refused(&mut mount(&vault, &missing, &[]), 1, &["passphrase file", "no-such-file", "No such file"]);
    let mut both = mount(&vault, &missing, &[]);
    both.env("DRIPFS_PASSPHRASE_FILE", vault.passphrase_file());
    refused(&mut both, 1, &["no-such-file"]);
    if !needs_root() {
        return;
    }
    let nobody = Nobody::with_copy_of(&vault);
    let device = "mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/fuse c 10 229";
    let closed = nobody.run(&vault, &format!("{device}\nchown 0:0 passphrase; chmod 600 passphrase; exec $MOUNT"));
    check_refusal(&closed, 1, &["passphrase file", "Permission denied"]);
}

#[test]
fn a_passphrase_file_that_others_can_read_is_warned_of() {
    let Some(mut vault) = sound_vault() else { return };
    let open = passphrase(&vault, "open", crate::common::PASSPHRASE.as_bytes());
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("our own file");
    let output = run(&mut mount(&vault, &open, &[]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "it is a warning, not a refusal: {said}");
    assert!(said.contains("can be read by others") && said.contains("chmod 600"), "{said}");
    vault.umount();
    assert_sound(&mut vault);
}

#[test]
fn without_a_passphrase_or_a_terminal_one_line_says_how_to_give_one() {
    let Some(vault) = sound_vault() else { return };
    let mut command = vault.dripfs(["mount", "--background"]);
    command.env_remove("DRIPFS_PASSPHRASE_FILE").arg("--state").arg(vault.state());
    let said = refused(
        command.arg(vault.remote()).arg(vault.mountpoint()),
        2,
        &["no passphrase", "--passphrase-file", "DRIPFS_PASSPHRASE_FILE"],
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}
