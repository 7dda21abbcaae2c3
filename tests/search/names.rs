//! Where the room is, what it is called, what it lists, and what it refuses.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::common::Vault;
use crate::fixture::{CHEAP, ask, mounted, search};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).expect("a directory").map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.expect_err("refused").raw_os_error().expect("an errno")
}

#[test]
fn a_room_is_in_every_directory_and_in_no_listing() {
    let Some(vault) = mounted("") else { return };
    let dir = vault.mountpoint();
    fs::create_dir_all(dir.join("a/b")).unwrap();
    for (path, text) in [("top", "x 1\n"), ("a/mid", "x 2\n"), ("a/b/deep", "x 3\n")] {
        fs::write(dir.join(path), text).unwrap();
    }
    assert_eq!(ask(&dir, "x"), "a/b/deep:1:x 3\na/mid:1:x 2\ntop:1:x 1\n");
    assert_eq!(ask(&dir.join("a"), "x"), "b/deep:1:x 3\nmid:1:x 2\n");
    assert_eq!(ask(&dir.join("a/b"), "x"), "deep:1:x 3\n");
    assert_eq!(
        (names(&dir), names(&dir.join("a"))),
        (vec!["a".to_owned(), "top".into()], vec!["b".into(), "mid".into()])
    );
    // Its way up is the directory's.
    assert_eq!(fs::metadata(dir.join("a/.search/..")).unwrap().ino(), fs::metadata(dir.join("a")).unwrap().ino());
    assert_eq!(
        fs::metadata(dir.join(".search/all/..")).unwrap().ino(),
        fs::metadata(dir.join(".search")).unwrap().ino()
    );
    // A directory with nothing but its room is empty.
    fs::remove_file(dir.join("a/b/deep")).unwrap();
    assert_eq!(ask(&dir.join("a/b"), "x"), "");
    fs::remove_dir(dir.join("a/b")).unwrap();
    assert!(!dir.join("a/b/.search").exists());
}

#[test]
fn a_room_lists_recent_queries() {
    let Some(vault) = mounted("") else { return };
    let dir = vault.mountpoint();
    let room = dir.join(".search");
    fs::create_dir(dir.join("d")).unwrap();
    fs::write(dir.join("f"), "abc a/b\n").unwrap();
    assert_eq!(names(&room), ["all", "files"]);
    ask(&dir, "abc");
    ask(&dir, "a/b");
    ask(&dir.join("d"), "elsewhere");
    fs::metadata(room.join("all/fetched")).unwrap();
    fs::metadata(room.join("files/abc")).unwrap();
    let _ = fs::metadata(room.join("bad("));
    assert_eq!(names(&room), ["a%2Fb", "abc", "all", "files"]);
    assert_eq!(names(&room.join("all")), ["fetched", "files"]);
    assert_eq!(names(&room.join("files")), ["abc"]);
    // What is listed is there, with its answer.
    for entry in fs::read_dir(&room).unwrap().flatten() {
        let (listed, kind) = (entry.file_type().unwrap(), fs::metadata(entry.path()).unwrap().file_type());
        assert_eq!(listed, kind, "{:?}", entry.path());
        assert!(kind.is_dir() || fs::read_to_string(entry.path()).unwrap() == "f:1:abc a/b\n");
    }
    for n in 0..100 {
        ask(&dir, &format!("query{n}"));
    }
    let listed = names(&room);
    assert!(listed.len() == 34 && listed.contains(&"query99".to_owned()) && !listed.contains(&"query0".to_owned()));
}

/// As long as the kernel takes names: since Linux 6.14 that is all that a path can hold.
#[test]
fn long_patterns_are_searched_for_as_far_as_the_kernel_takes_names() {
    let Some(vault) = mounted("") else { return };
    let dir = vault.mountpoint();
    let long = "a".repeat(5000);
    fs::write(dir.join("f"), format!("{long}\n")).unwrap();
    ask(&dir, "before");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let takes = (numbers.next(), numbers.next()) >= (Some(6), Some(14));
    let found = (Some(0), format!("f:1:{long}\n"), String::new());
    // The command itself puts "-:" before it.
    for len in [1022, 1023, 4093] {
        let answer = search(&vault, &dir, &[&long[..len]]);
        match takes || len <= 1022 {
            true => assert!(answer == found, "{len}: {:?}, {}", answer.0, answer.2),
            false => assert!(answer.0 == Some(2) && answer.2.contains("1024 may be"), "{answer:?}"),
        }
    }
    let (code, out, err) = search(&vault, &dir, &[&long[..4094]]);
    assert!(code == Some(2) && out.is_empty() && err.contains("4096 bytes, where 4095 may be"), "{err}");
    // A listing goes on behind it.
    assert_eq!(names(&dir.join(".search")), [&format!("-:{}", &long[..1022]), "all", "before", "files"]);
}

#[test]
fn what_editors_and_version_control_look_for_is_not_there() {
    let Some(vault) = mounted("") else { return };
    let room = vault.mountpoint().join(".search");
    for name in [".git", ".foo.swp", ".#foo", "#foo#", ".DS_Store"] {
        assert_eq!(fs::metadata(room.join(name)).expect_err(name).kind(), ErrorKind::NotFound);
    }
    assert_eq!(names(&room), ["all", "files"]);
    assert!(fs::metadata(room.join("-:.git")).is_ok() && fs::metadata(room.join(".*")).is_ok());
}

#[test]
fn nothing_in_a_room_can_be_changed() {
    let Some(vault) = mounted("") else { return };
    let dir = vault.mountpoint();
    let room = dir.join(".search");
    fs::write(dir.join("f"), "abc\n").unwrap();
    ask(&dir, "abc");
    // As root: others are turned away by the modes.
    for result in [
        fs::write(room.join("abc"), "x"),
        fs::create_dir(room.join(".new")),
        fs::remove_file(room.join("abc")),
        fs::remove_dir(room.join("all")),
        fs::rename(dir.join("f"), room.join("abc")),
        fs::rename(room.join("abc"), dir.join("g")),
        fs::rename(&room, dir.join("other")),
        fs::remove_dir(&room),
        fs::hard_link(dir.join("f"), room.join(".new")),
        fs::hard_link(room.join("abc"), dir.join("g")),
        std::os::unix::fs::symlink("x", room.join(".new")),
        fs::set_permissions(room.join("abc"), std::os::unix::fs::PermissionsExt::from_mode(0o777)),
        fs::File::create(room.join(".new")).map(drop),
    ] {
        let errno = errno(result);
        assert!([libc::EROFS, libc::EACCES, libc::EPERM].contains(&errno), "{errno}");
    }
    // Under its name nothing is made.
    assert_eq!(errno(fs::create_dir(&room)), libc::EEXIST);
    assert_eq!(errno(fs::write(&room, "x")), libc::EISDIR);
    assert_eq!((ask(&dir, "abc"), fs::read_to_string(dir.join("f")).unwrap()), ("f:1:abc\n".into(), "abc\n".into()));
}

#[test]
fn options_rename_it_list_it_and_turn_it_off() {
    let Some(mut vault) = mounted("search=off") else { return };
    let dir = vault.mountpoint();
    // One of the user's own, made where there are no rooms.
    fs::write(dir.join(".search"), "my own needle\n").unwrap();
    fs::create_dir(dir.join("d")).unwrap();
    fs::write(dir.join("d/f"), "needle\n").unwrap();
    let (code, _, err) = search(&vault, &dir, &["needle"]);
    assert!(code == Some(2) && err.contains("search=off"), "{err}");
    assert!(!dir.join("d/.search").exists());
    vault.umount();

    // It stays, in its place and under every other name of the room; elsewhere there are rooms.
    vault.mount();
    assert_eq!(fs::read_to_string(dir.join(".search")).unwrap(), "my own needle\n");
    assert_eq!(names(&dir), [".search", "d"]);
    assert_eq!(ask(&dir.join("d"), "needle"), "f:1:needle\n");
    let (code, _, err) = search(&vault, &dir, &["needle"]);
    assert!(code == Some(2) && err.contains("an entry of the directory's own"), "{err}");
    vault.umount();
    remount(&mut vault, "search=.find,search_list=on");
    assert_eq!(fs::read_to_string(dir.join(".search")).unwrap(), "my own needle\n");
    assert_eq!(fs::read_to_string(dir.join(".find/needle")).unwrap(), ".search:1:my own needle\nd/f:1:needle\n");
    assert_eq!(search(&vault, &dir, &["needle"]).1, ".search:1:my own needle\nd/f:1:needle\n");
    assert_eq!(
        (names(&dir), names(&dir.join("d"))),
        (vec![".find".into(), ".search".into(), "d".into()], vec![".find".to_owned(), "f".into()])
    );
    let kind = fs::read_dir(dir.join("d")).unwrap().flatten().find(|entry| entry.file_name() == ".find").unwrap();
    assert!(kind.file_type().unwrap().is_dir());
    fs::remove_file(dir.join(".search")).unwrap();
    assert_eq!(names(&dir), [".find", "d"]);
    vault.umount();
    vault.mount();
    assert_eq!(fs::read_to_string(dir.join("d/f")).unwrap(), "needle\n");
    assert_eq!(ask(&dir, "needle"), "d/f:1:needle\n");
}

fn remount(vault: &mut Vault, options: &str) {
    vault.mount_with(&[&CHEAP[..], &["-o", options]].concat());
}
