//! The units: what systemd-analyze says of them, and that the service needs no system call that they forbid.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::common::{binary, fresh_directory, is_root, run, skip, succeed};
use super::manager::{vault, write_profile};

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

fn is_there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        skip(&format!("{program} is not here"));
    }
    there
}

/// The unit, for the binary that is tested.
fn copied(name: &str) -> PathBuf {
    let text = fs::read_to_string(unit(name)).unwrap();
    let path = fresh_directory().join("dripfs@drive.service");
    fs::write(&path, text.replace("/usr/bin/dripfs", binary().to_str().unwrap())).unwrap();
    path
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if !is_there("systemd-analyze") {
        return;
    }
    for (name, scope) in [("dripfs@.service", "--system"), ("user/dripfs@.service", "--user")] {
        let path = copied(name);
        let mut command = Command::new("systemd-analyze");
        command.args([scope, "--man=no", "verify"]).arg(&path).env("XDG_RUNTIME_DIR", path.parent().unwrap());
        let output = run(&mut command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{name}: {said}");
    }
}

#[test]
fn the_system_unit_gives_away_what_needs_no_mount_namespace() {
    if !is_there("systemd-analyze") {
        return;
    }
    let output =
        run(Command::new("systemd-analyze").args(["security", "--offline=true"]).arg(copied("dripfs@.service")));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let level = said.lines().find(|line| line.contains("Overall exposure level")).expect("a verdict").to_owned();
    println!("{level}");
    assert!(level.contains("OK") || level.contains("MEDIUM"), "{level}");
    let text = fs::read_to_string(unit("dripfs@.service")).unwrap();
    for word in ["PrivateTmp", "ProtectSystem", "ProtectHome", "ReadOnlyPaths", "PrivateDevices", "ProtectKernel"] {
        assert!(!text.contains(&format!("\n{word}=")), "{word} would hide the mount");
    }
}

#[test]
fn the_service_makes_no_system_call_that_its_unit_forbids() {
    if !is_there("systemd-analyze") || !is_there("strace") {
        return;
    }
    if !is_root() {
        return skip("what root's mount does is looked at as root");
    }
    let Some(vault) = vault() else { return };
    write_profile(&vault, "");
    let trace = vault.root().join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "--signal=none", "-o"]).arg(&trace).arg(binary()).args(["mount", "drive"]);
    command.env("HOME", vault.root().join("home")).env("DRIPFS_PASSPHRASE_FILE", vault.passphrase_file());
    let mut child = command.spawn().unwrap();
    super::common::wait_until("it is mounted", || super::common::is_mounted(&vault.mountpoint()));
    let dir = vault.mountpoint();
    fs::create_dir(dir.join("d")).unwrap();
    fs::write(dir.join("d/f"), vec![7; 3 << 20]).unwrap();
    assert_eq!(fs::read(dir.join("d/f")).unwrap().len(), 3 << 20);
    succeed(vault.dripfs(["sync"]).arg(&dir));
    succeed(vault.dripfs(["umount"]).arg(&dir));
    child.wait().unwrap();
    let unit = fs::read_to_string(unit("dripfs@.service")).unwrap();
    let filters: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")).collect();
    let of = |filter: &str| -> BTreeSet<String> { filter.split_whitespace().flat_map(calls_of).collect() };
    let mut permitted = BTreeSet::new();
    for filter in filters {
        match filter.strip_prefix('~') {
            Some(taken) => of(taken).iter().for_each(|call| _ = permitted.remove(call)),
            None => permitted.extend(of(filter)),
        }
    }
    assert!(permitted.contains("umount2") && !permitted.contains("setpriority"), "as the unit says: {permitted:?}");
    let text = fs::read_to_string(&trace).unwrap();
    let calls = text.lines().filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('('));
    let called: BTreeSet<&str> = calls.map(|(name, _)| name).filter(|name| is_name(name)).collect();
    assert!(called.len() > 30, "{called:?}");
    let forbidden: Vec<&&str> = called.iter().filter(|name| !permitted.contains(**name)).collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
}

/// The system calls of a set, with those of the sets in it.
fn calls_of(set: &str) -> BTreeSet<String> {
    let listed = succeed(Command::new("systemd-analyze").args(["syscall-filter", set])).stdout;
    let mut calls = BTreeSet::new();
    for word in String::from_utf8(listed).unwrap().lines().skip(1).map(str::trim) {
        match word.starts_with('@') {
            true => calls.extend(calls_of(word)),
            false => _ = calls.insert(word.to_owned()),
        }
    }
    calls
}

fn is_name(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}
