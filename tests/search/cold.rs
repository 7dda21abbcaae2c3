//! What is not on this machine: fetched with `all` alone, named otherwise.

use std::fs;
use std::process::Command;

use crate::common::{Vault, succeed};
use crate::fixture::{CHEAP, ask, gets, search};

/// A vault whose files are in the store alone. Without a disk cache.
fn cold() -> Option<Vault> {
    let mut vault = Vault::new()?;
    vault.mount_with(&[&CHEAP[..], &["-o", "search_seconds=20"]].concat());
    let dir = vault.mountpoint();
    fs::create_dir(dir.join("d")).unwrap();
    fs::write(dir.join("small"), "needle in a small file\n").unwrap();
    fs::write(dir.join("d/other"), "needle in another file\n").unwrap();
    // Of bytes that do not compress, in lines, over several extents.
    let mut big = Vec::new();
    for n in 0..1000 {
        let noise: String = (0..256).map(|_| format!("{:016x}", getrandom::u64().unwrap())).collect();
        big.extend_from_slice(format!("{n} needle {noise} {noise}\n").as_bytes());
    }
    fs::write(dir.join("big"), &big).unwrap();
    vault.umount();
    // Under a limit, be it high, nothing of a local store is at hand: all that is fetched is a request.
    vault.mount_with(&["-o", "download-limit=1G"]);
    Some(vault)
}

fn cached(vault: &Vault, name: &str) -> String {
    let path = vault.mountpoint().join(name);
    let output = succeed(Command::new("getfattr").args(["--only-values", "-n", "user.dripfs.cached"]).arg(path));
    String::from_utf8(output.stdout).expect("a word")
}

#[test]
fn nothing_is_fetched_unless_all_is_asked_for() {
    let Some(vault) = cold() else { return };
    let dir = vault.mountpoint();
    assert_eq!(cached(&vault, "big"), "remote");
    let before = gets(&vault);
    let answer = ask(&dir, "needle");
    assert!(!answer.contains("small:1:") && answer.starts_with("dripfs: partial: 3 files not searched"), "{answer}");
    let (code, out, err) = search(&vault, &dir, &["needle"]);
    assert_eq!((code, &out[..]), (Some(16), ""));
    assert!(err.contains("3 files not searched") && err.contains("all/"), "{err}");
    assert!(fs::read_dir(dir.join(".search/files/needle")).unwrap().next().is_none());
    assert_eq!(gets(&vault), before, "no request for a byte of a file");

    // What is read comes in, and is found; of a file of which the beginning was read, that.
    fs::read(dir.join("small")).unwrap();
    let big = fs::File::open(dir.join("big")).unwrap();
    let mut start = vec![0; 100_000];
    std::os::unix::fs::FileExt::read_exact_at(&big, &mut start, 0).unwrap();
    let before = gets(&vault);
    let answer = ask(&dir, "needle");
    let lines: Vec<&str> = answer.lines().collect();
    let notes = lines.iter().filter(|line| line.starts_with("dripfs: partial: ")).count();
    assert!(lines.contains(&"small:1:needle in a small file"), "{}", lines.len());
    let told = lines.iter().filter(|line| line.starts_with("big:")).count();
    assert!(told > 5 && (told < 1000) == (notes > 0), "{told} lines of big, {notes} notes");
    for (n, line) in lines.iter().filter(|line| line.starts_with("big:")).enumerate() {
        assert!(line.starts_with(&format!("big:{}:{n} needle ", n + 1)), "a line number is never wrong");
    }
    if told < 1000 {
        let named = "1 file searched up to what is in the store alone (all/ fetches it): big";
        assert!(answer.contains(named) && lines.last().unwrap().starts_with("dripfs: partial: "), "{:?}", lines.last());
    }
    // What is read ahead may still be coming; a search adds nothing.
    crate::common::wait_until("what was read ahead is here", || {
        let now = gets(&vault);
        std::thread::sleep(std::time::Duration::from_millis(100));
        gets(&vault) == now
    });
    let now = gets(&vault);
    ask(&dir, "another pattern");
    assert_eq!(gets(&vault), now);
    assert!(now >= before);

    let (code, out, err) = search(&vault, &dir, &["--all", "needle"]);
    assert_eq!((code, out.lines().count(), &err[..]), (Some(0), 1002, ""));
    assert!(out.contains("d/other:1:needle in another file\n"));
    assert!(gets(&vault) > now);
    assert_eq!(fs::read_to_string(dir.join(".search/all/another file")).unwrap(), "d/other:1:needle in another file\n");
}

#[test]
fn a_search_that_takes_too_long_answers_what_it_has_and_says_so() {
    let Some(mut vault) = cold() else { return };
    vault.umount();
    // The file that is fetched would take some minutes.
    vault.mount_with(&[&CHEAP[..], &["-o", "search_seconds=1,download-limit=64K"]].concat());
    let dir = vault.mountpoint();
    fs::write(dir.join("here"), "needle\n").unwrap();
    let (code, out, err) = search(&vault, &dir, &["--all", "needle"]);
    assert_eq!(code, Some(16), "{err}");
    assert!(out.contains("here:1:needle\n") && !out.contains("dripfs"), "{out}");
    assert!(err.contains("dripfs: partial: stopped after 1 s, with "), "{err}");
    let answer = ask(&dir, "-F:needle");
    assert!(answer.lines().last().unwrap().starts_with("dripfs: partial: "), "{answer}");
    // Names and other files are served meanwhile.
    std::thread::scope(|scope| {
        scope.spawn(|| search(&vault, &dir, &["--all", "needle"]));
        let begun = std::time::Instant::now();
        let mut served = 0;
        while begun.elapsed() < std::time::Duration::from_millis(900) {
            fs::write(dir.join("meanwhile"), "x").unwrap();
            assert_eq!(fs::read_to_string(dir.join("meanwhile")).unwrap(), "x");
            served += 1;
        }
        assert!(served > 20, "{served}");
    });
}

#[test]
fn a_search_is_no_use_of_a_file() {
    let Some(mut vault) = cold() else { return };
    vault.umount();
    vault.mount_with(&[&CHEAP[..], &["-o", "cache_ttl=4"]].concat());
    let dir = vault.mountpoint();
    fs::read(dir.join("small")).unwrap();
    let counts = |vault: &Vault| {
        let cache = &vault.status()["cache"];
        (cache["hits"].clone(), cache["misses"].clone())
    };
    let before = counts(&vault);
    assert!(ask(&dir, "needle").contains("small:1:needle"));
    assert_eq!(counts(&vault), before, "neither a hit nor a miss");
    // However often it is looked at, it dies at its time.
    assert_eq!(cached(&vault, "small"), "memory");
    crate::common::wait_until("its time is over", || {
        assert!(ask(&dir, "needle").contains("small:1:needle"), "sealed it is still here");
        cached(&vault, "small") != "memory"
    });
}

#[test]
fn sealed_bytes_on_the_disk_are_searched_after_a_remount() {
    let Some(mut vault) = cold() else { return };
    vault.umount();
    vault.mount_with(&[&CHEAP[..], &["-o", "disk_cache=64M"]].concat());
    fs::read(vault.mountpoint().join("big")).unwrap();
    vault.umount();
    vault.mount_with(&[&CHEAP[..], &["-o", "disk_cache=64M"]].concat());
    assert_eq!(cached(&vault, "big"), "disk");
    let before = gets(&vault);
    assert_eq!(ask(&vault.mountpoint(), "-g=big:needle").lines().count(), 1000);
    assert_eq!(gets(&vault), before);
}

#[test]
fn a_file_that_cannot_be_read_does_not_end_the_search() {
    let Some(mut vault) = cold() else { return };
    let dir = vault.mountpoint();
    fs::write(dir.join("here"), "needle\n").unwrap();
    vault.sync();
    // The store loses what the files lie in.
    vault.umount();
    for entry in walk(&vault.remote().join("segments")) {
        fs::write(&entry, b"").unwrap();
    }
    vault.mount();
    fs::write(dir.join("here"), "needle\n").unwrap();
    let (code, out, err) = search(&vault, &dir, &["--all", "needle"]);
    assert_eq!((code, &out[..]), (Some(16), "here:1:needle\n"), "{err}");
    assert!(err.contains("partial: 3 files could not be read: big, d/other, small"), "{err}");
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(walk(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}
