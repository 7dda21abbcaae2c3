//! Places where no vault is, or none may be made; headers that this program does not know.

use std::fs;
use std::path::Path;

use crate::common::Vault;
use crate::{assert_sound, mount_on, mount_with_state, refused, snapshot, sound_vault};

fn mount_url(vault: &Vault, options: &[&str], url: &Path) -> std::process::Command {
    let mut command = vault.dripfs(["mount", "--background"]);
    command.args(options).arg("--state").arg(vault.state()).arg(url).arg(vault.mountpoint());
    command
}

#[test]
fn an_unknown_scheme_is_told_with_the_known_ones() {
    let Some(vault) = Vault::new() else { return };
    for init in [&[][..], &["--init"]] {
        let mut command = mount_url(&vault, init, Path::new("gopher://host/vault"));
        refused(&mut command, 1, &["gopher", "unknown kind of URL", "file:///path"]);
    }
    refused(vault.dripfs(["init", "gopher://host/vault"]).arg("--state").arg(vault.state()), 1, &["unknown kind"]);
    assert!(snapshot(vault.state()).is_empty(), "something local was made for a vault that cannot be");
}

#[test]
fn where_no_vault_is_none_is_made_unasked() {
    let Some(vault) = Vault::new() else { return };
    let missing = vault.root().join("missing");
    refused(&mut mount_url(&vault, &[], &missing), 10, &["no vault at file://", "dripfs init"]);
    assert!(!missing.exists());
    refused(&mut mount_url(&vault, &[], &vault.remote()), 10, &["no vault at file://"]);
    refused(&mut mount_url(&vault, &["--read-only"], &vault.remote()), 10, &["no vault at file://"]);
    assert!(snapshot(&vault.remote()).is_empty());
}

#[test]
fn a_directory_with_foreign_files_is_left_alone() {
    let Some(vault) = Vault::new() else { return };
    fs::create_dir(vault.remote().join("letters")).expect("room for a directory");
    fs::write(vault.remote().join("letters/home.txt"), b"Dear all").expect("a write");
    let before = snapshot(&vault.remote());
    let told = ["holds files that are not a vault's", "letters/home.txt", "empty place"];
    refused(&mut mount_url(&vault, &["--init"], &vault.remote()), 1, &told);
    refused(vault.dripfs(["init"]).arg("--state").arg(vault.state()).arg(vault.remote()), 1, &told);
    refused(&mut mount_url(&vault, &[], &vault.remote()), 10, &["no vault"]);
    assert!(before == snapshot(&vault.remote()), "the directory was touched");
}

#[test]
fn where_a_known_vault_vanished_none_is_made() {
    let Some(mut vault) = sound_vault() else { return };
    let away = vault.root().join("away");
    fs::rename(vault.remote(), &away).expect("the disk with the vault goes");
    let state = snapshot(vault.state());
    let told = ["this machine knows", "it is gone", "No new one is made"];
    refused(&mut mount_url(&vault, &["--init"], &vault.remote()), 13, &told);
    refused(vault.dripfs(["init"]).arg("--state").arg(vault.state()).arg(vault.remote()), 13, &told);
    assert!(!vault.remote().exists(), "a directory was made where the vault's disk was");
    // The same where the disk's empty mountpoint is left.
    fs::create_dir(vault.remote()).expect("room for a directory");
    refused(&mut mount_url(&vault, &["--init"], &vault.remote()), 13, &told);
    assert!(snapshot(&vault.remote()).is_empty());
    assert!(state == snapshot(vault.state()), "what this machine knows was touched");
    fs::remove_dir(vault.remote()).expect("it is empty");
    fs::rename(&away, vault.remote()).expect("the disk comes back");
    assert_sound(&mut vault);
}

#[test]
fn init_over_a_vault_leaves_it_as_it_is() {
    let Some(mut vault) = sound_vault() else { return };
    let before = snapshot(&vault.remote());
    let told = ["there is already a vault at", "dripfs mount"];
    refused(vault.dripfs(["init"]).arg("--state").arg(vault.state()).arg(vault.remote()), 1, &told);
    assert!(before == snapshot(&vault.remote()), "the vault was touched");
    assert_sound(&mut vault);
}

#[test]
fn a_header_from_a_newer_format_asks_for_a_newer_program() {
    let Some(mut vault) = sound_vault() else { return };
    let header = vault.remote().join("header/00000000000000000001");
    let good = fs::read(&header).expect("the header");
    let mut newer = good.clone();
    // After the eight bytes of magic: the version, big-endian.
    newer[11] += 1;
    fs::write(&header, &newer).expect("the provider may");
    let before = snapshot(&vault.remote());
    // A machine that has never seen the vault; and one that knows the header that stood there: headers never change.
    let state = vault.root().join("another");
    refused(&mut mount_with_state(&vault, &state, &vault.mountpoint()), 1, &["version 2", "use a newer dripfs"]);
    refused(&mut mount_on(&vault, &vault.mountpoint()), 13, &["another header stands in the place"]);
    assert!(before == snapshot(&vault.remote()), "the vault was touched");
    fs::write(&header, &good).expect("the provider may");
    assert_sound(&mut vault);
}
