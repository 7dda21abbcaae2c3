//! The index on this machine's disk is deleted, cut, changed, or from another day: the drive is the same, always.

use std::fs;
use std::path::{Path, PathBuf};

use crate::CHEAP;
use crate::common::{Vault, succeed};

fn content(name: &str) -> String {
    format!("{name} ").repeat(name.len() * 500)
}

fn put(vault: &Vault, names: &[&str]) {
    for name in names {
        fs::write(vault.mountpoint().join(name), content(name)).expect("a write");
    }
}

/// All that is there, and only that.
fn check(vault: &Vault, names: &[&str], what: &str) {
    let entries = fs::read_dir(vault.mountpoint()).expect("a listing");
    let mut found: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
    found.sort();
    let mut expected: Vec<_> = names.iter().map(std::ffi::OsString::from).collect();
    expected.sort();
    assert_eq!(found, expected, "{what}");
    for name in names {
        let read = fs::read_to_string(vault.mountpoint().join(name)).expect("a read");
        assert!(read == content(name), "{what}: {name} is not as it was written");
    }
}

/// The index below a state directory.
fn index(state: &Path) -> PathBuf {
    let found = fs::read_dir(state).expect("a state directory").find_map(|entry| {
        let path = entry.expect("an entry").path();
        match path.file_name().is_some_and(|name| name == "index") {
            true => Some(path),
            false => path.is_dir().then(|| path.join("index")).filter(|path| path.is_dir()),
        }
    });
    found.expect("an index in the state directory")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files
}

/// Does something to the index between two mounts: after an orderly one, and after one that was killed.
fn survives(what: &str, spoil: impl Fn(&Path)) {
    let Some(mut vault) = Vault::new() else { return };
    vault.mount_with(&CHEAP);
    put(&vault, &["one", "two", "gone"]);
    fs::remove_file(vault.mountpoint().join("gone")).expect("an unlink");
    vault.umount();
    spoil(&index(vault.state()));
    vault.mount_with(&CHEAP);
    check(&vault, &["one", "two"], what);
    put(&vault, &["three"]);
    succeed(vault.dripfs(["sync"]).arg(vault.mountpoint()));
    fs::rename(vault.mountpoint().join("two"), vault.mountpoint().join("four")).expect("a rename");
    fs::write(vault.mountpoint().join("four"), content("four")).expect("a write");
    fs::File::open(vault.mountpoint().join("four")).and_then(|file| file.sync_all()).expect("an fsync");
    vault.kill();
    spoil(&index(vault.state()));
    vault.mount_with(&CHEAP);
    check(&vault, &["one", "three", "four"], what);
    vault.umount();
    vault.move_to_machine("another");
    vault.mount_with(&CHEAP);
    check(&vault, &["one", "three", "four"], what);
    vault.umount();
}

#[test]
fn an_index_that_is_sound_is_used() {
    survives("left alone", |_| ());
}

#[test]
fn a_deleted_index_is_made_anew() {
    survives("deleted", |index| fs::remove_dir_all(index).expect("it is there"));
}

#[test]
fn an_index_whose_files_are_cut_is_made_anew() {
    survives("cut", |index| {
        for path in files(index) {
            let len = fs::metadata(&path).expect("a file").len();
            fs::File::options().write(true).open(&path).and_then(|file| file.set_len(len / 2)).expect("a cut");
        }
    });
}

#[test]
fn an_index_with_changed_bytes_is_made_anew() {
    survives("changed", |index| {
        for path in files(index) {
            let mut bytes = fs::read(&path).expect("a file");
            bytes.iter_mut().step_by(97).for_each(|byte| *byte ^= 0x40);
            fs::write(&path, bytes).expect("a write");
        }
    });
}

#[test]
fn a_table_or_a_base_that_is_missing_is_noticed() {
    survives("a part is missing", |index| {
        let path = files(index).into_iter().find(|path| path.file_name().is_some_and(|name| name == "db"));
        fs::remove_file(path.expect("a table")).expect("it is there");
    });
    survives("a base is missing", |index| {
        for entry in fs::read_dir(index).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("base-")) {
                fs::remove_file(path).expect("it is there");
            }
        }
    });
}

#[test]
fn an_index_from_another_day_is_brought_forward_or_made_anew() {
    let Some(mut vault) = Vault::new() else { return };
    let keep = vault.root().join("older");
    let copy = |from: &Path, to: &Path| {
        let _ = fs::remove_dir_all(to);
        succeed(std::process::Command::new("cp").arg("-a").arg(from).arg(to));
    };
    vault.mount_with(&CHEAP);
    put(&vault, &["one", "two"]);
    vault.umount();
    copy(&index(vault.state()), &keep);
    vault.mount_with(&CHEAP);
    fs::remove_file(vault.mountpoint().join("two")).expect("an unlink");
    put(&vault, &["three"]);
    vault.umount();
    let place = index(vault.state());
    copy(&keep, &place);
    vault.mount_with(&CHEAP);
    check(&vault, &["one", "three"], "from the day before");
    put(&vault, &["four"]);
    fs::File::open(vault.mountpoint().join("four")).and_then(|file| file.sync_all()).expect("an fsync");
    vault.kill();
    copy(&keep, &place);
    vault.mount_with(&CHEAP);
    check(&vault, &["one", "three", "four"], "from the day before, after a kill");
    vault.umount();
}
