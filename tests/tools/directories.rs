//! rename with its flags, and listings of directories that change meanwhile.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::pair::{Pair, Times};

fn rename(directory: &Path, from: &str, to: &str, flags: RenameFlags) -> Result<(), rustix::io::Errno> {
    renameat_with(CWD, directory.join(from), CWD, directory.join(to), flags)
}

#[test]
fn rename_without_replacing() {
    let Some(pair) = Pair::new() else { return };
    pair.sh("echo a > a; echo b > b; mkdir d e; echo x > d/x");
    let results = pair.both().map(|directory| {
        [("a", "b"), ("a", "new"), ("d", "e"), ("e", "b"), ("nothing", "c"), ("new", "d/new"), ("d", "d/below")]
            .map(|(from, to)| rename(directory, from, to, RenameFlags::NOREPLACE))
    });
    assert_eq!(results[0], results[1]);
    assert_eq!(results[1][0], Err(rustix::io::Errno::EXIST));
    pair.compare(Times::Fresh);
}

#[test]
fn rename_that_exchanges() {
    let Some(pair) = Pair::new() else { return };
    pair.sh("echo a > a; echo b > b; mkdir -p d/sub e; echo x > d/x; ln -s a l");
    let results = pair.both().map(|directory| {
        [("a", "b"), ("a", "d"), ("l", "e"), ("a", "nothing"), ("nothing", "a"), ("b", "a/x"), ("a", "a/sub")]
            .map(|(from, to)| rename(directory, from, to, RenameFlags::EXCHANGE))
    });
    assert_eq!(results[0], results[1]);
    assert_eq!(results[1][0], Ok(()));
    assert_eq!(fs::read(pair.drive.join("b")).ok(), fs::read(pair.local.join("b")).ok());
    pair.compare(Times::Fresh);
    pair.sh("find . | sort; cat a/x; stat -c %F a b d l e");
}

#[test]
fn rename_moves_directories_with_what_is_below() {
    let Some(pair) = Pair::new() else { return };
    pair.sh("mkdir -p a/b/c t; echo x > a/b/c/f; cd a/b/c; mv ../../../a ../../../t/; cat f; ls ../../../a; pwd -P | sed 's/.*test-[0-9]*//'; cd -P ../..; ls");
    pair.sh("cd t/a/b; mv c ..; ls ..; rmdir ../b; ls ../c");
    pair.compare(Times::Fresh);
}

/// Entries that stay are listed exactly once, however the directory changes meanwhile.
#[test]
fn a_listing_holds_what_stays_while_entries_come_and_go() {
    let Some(pair) = Pair::new() else { return };
    const STAYING: usize = 5000;
    let top = &pair.drive;
    for n in 0..STAYING {
        fs::write(top.join(format!("stays-{n}")), "").expect("create");
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                fs::write(top.join(format!("comes-{n}")), "").expect("create");
                if n >= 50 {
                    fs::remove_file(top.join(format!("comes-{}", n - 50))).expect("unlink");
                }
                if n % 10 == 0 {
                    let (from, to) = (top.join(format!("comes-{n}")), top.join(format!("moved-{}", n % 100)));
                    fs::rename(&from, to).expect("rename");
                    fs::write(from, "").expect("create");
                }
            }
        });
        // The thread must end even if a listing is wrong.
        let listings: Vec<Vec<_>> = (0..20)
            .map(|_| fs::read_dir(top).expect("opendir").map(|entry| entry.expect("readdir").file_name()).collect())
            .collect();
        done.store(true, Ordering::Relaxed);
        for names in listings {
            let staying: Vec<_> = names.iter().filter(|name| name.to_string_lossy().starts_with("stays-")).collect();
            let distinct: HashSet<_> = staying.iter().collect();
            assert_eq!((staying.len(), distinct.len()), (STAYING, STAYING), "missing, or listed twice");
        }
    });
}

#[test]
fn a_directory_can_be_emptied_while_it_is_listed() {
    let Some(pair) = Pair::new() else { return };
    for n in 0..3000 {
        fs::write(pair.drive.join(format!("f{n}")), "").expect("create");
    }
    for entry in fs::read_dir(&pair.drive).expect("opendir") {
        fs::remove_file(entry.expect("readdir").path()).expect("unlink");
    }
    assert_eq!(fs::read_dir(&pair.drive).expect("opendir").count(), 0, "something was not listed");
}
