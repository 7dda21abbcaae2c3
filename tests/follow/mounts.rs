//! Real mounts: a writer and a follower on one machine, with state directories of their own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::common::{Vault, noise};

/// For machines much slower than this one.
const PATIENCE: Duration = Duration::from_secs(60);

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A writer, and one who follows it, looking every second.
fn pair() -> Option<(Vault, Vault)> {
    let (mut writer, mut follower) = (Vault::new()?, Vault::new()?);
    writer.mount();
    follower.follow(&writer, &["-o", "follow=1"]);
    Some((writer, follower))
}

/// What a fresh open shows; `None` while there is no such file.
fn read(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => None,
        Err(e) => panic!("{}: {e}", path.display()),
    }
}

#[test]
fn names_contents_and_attributes_follow_the_writer() {
    let Some((writer, follower)) = pair() else { return };
    let (there, here) = (writer.mountpoint(), follower.mountpoint());
    assert!(!here.join("dir").exists(), "the kernel is told that there is none");
    fs::create_dir(there.join("dir")).unwrap();
    fs::write(there.join("dir/one"), b"first").unwrap();
    writer.sync();
    eventually("the file appears", || read(&here.join("dir/one")).as_deref() == Some(b"first"));
    fs::rename(there.join("dir/one"), there.join("dir/two")).unwrap();
    fs::write(there.join("dir/two"), b"second, and longer").unwrap();
    writer.sync();
    eventually("new name, new bytes", || read(&here.join("dir/two")).as_deref() == Some(b"second, and longer"));
    assert!(!here.join("dir/one").exists());
    assert_eq!(fs::metadata(here.join("dir/two")).unwrap().size(), 18);
    fs::set_permissions(there.join("dir/two"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    writer.sync();
    eventually("the mode", || fs::metadata(here.join("dir/two")).unwrap().mode() & 0o777 == 0o600);
    fs::remove_file(there.join("dir/two")).unwrap();
    fs::remove_dir(there.join("dir")).unwrap();
    writer.sync();
    eventually("all is gone", || !here.join("dir").exists());
    assert_eq!(fs::write(here.join("x"), b"x").unwrap_err().raw_os_error(), Some(libc::EROFS));
    let status = follower.status();
    assert_eq!(status["state"], "read-only");
    assert!(status["followed_seconds_ago"].as_f64().unwrap() < PATIENCE.as_secs_f64());
    assert_eq!(status["pin"], writer.status()["pin"]);
}

#[test]
fn e5_a_file_that_is_rewritten_replaced_or_deleted_while_it_is_read_is_read_whole() {
    let Some((writer, follower)) = pair() else { return };
    let (there, here) = (writer.mountpoint(), follower.mountpoint());
    let (old, new) = (noise(1, 9 << 20), noise(2, 7 << 20));
    let names = ["rewritten", "replaced", "deleted"];
    for name in names {
        fs::write(there.join(name), &old).unwrap();
    }
    writer.sync();
    for name in names {
        eventually("the file is here", || {
            fs::metadata(here.join(name)).is_ok_and(|meta| meta.size() == old.len() as u64)
        });
    }
    let mut open: Vec<(File, Vec<u8>)> = Vec::new();
    for name in names {
        let mut file = File::open(here.join(name)).unwrap();
        let mut bytes = vec![0; 3 << 20];
        file.read_exact(&mut bytes).unwrap();
        open.push((file, bytes));
    }
    let mut rewritten = fs::OpenOptions::new().write(true).open(there.join("rewritten")).unwrap();
    rewritten.write_all(&new).unwrap();
    rewritten.set_len(new.len() as u64).unwrap();
    drop(rewritten);
    fs::write(there.join("beside"), &new).unwrap();
    fs::rename(there.join("beside"), there.join("replaced")).unwrap();
    fs::remove_file(there.join("deleted")).unwrap();
    writer.sync();
    for name in ["rewritten", "replaced"] {
        eventually("a new open shows the new bytes", || read(&here.join(name)).is_some_and(|bytes| bytes == new));
    }
    eventually("it is deleted here", || !here.join("deleted").exists());
    assert_eq!(open[0].0.metadata().unwrap().size(), new.len() as u64, "fstat follows the newest");
    assert_eq!(open[2].0.metadata().unwrap().nlink(), 0);
    for (name, (mut file, mut bytes)) in names.into_iter().zip(open) {
        file.read_to_end(&mut bytes).unwrap();
        assert!(bytes == old, "{name}: the old bytes to the end ({} of {})", bytes.len(), old.len());
        let mut again = vec![0; 100_000];
        file.read_exact_at(&mut again, 4 << 20).unwrap();
        assert!(again == old[4 << 20..][..100_000], "{name}: and again");
        assert_eq!(file.stream_position().unwrap(), old.len() as u64);
    }
    assert!(read(&here.join("rewritten")).unwrap() == new);
}

#[test]
fn e5_every_open_during_many_rewrites_shows_one_of_them() {
    let Some((writer, follower)) = pair() else { return };
    let (there, here) = (writer.mountpoint().join("file"), follower.mountpoint().join("file"));
    let bytes = |k: u8| vec![k; 2 << 20];
    fs::write(&there, bytes(1)).unwrap();
    writer.sync();
    eventually("it is here", || read(&here).is_some());
    let mut seen = BTreeSet::new();
    for k in 2..8 {
        let file = fs::OpenOptions::new().write(true).open(&there).unwrap();
        file.write_all_at(&bytes(k), 0).unwrap();
        file.sync_all().unwrap();
        drop(file);
        writer.sync();
        eventually("this one is here", || {
            // In small pieces, so that commits come between.
            let mut file = File::open(&here).unwrap();
            let (mut all, mut piece) = (Vec::new(), vec![0; 64 << 10]);
            loop {
                match file.read(&mut piece).unwrap() {
                    0 => break,
                    n => all.extend_from_slice(&piece[..n]),
                }
            }
            assert_eq!(all.len(), 2 << 20);
            assert!(all.iter().all(|byte| *byte == all[0]), "two versions in one");
            seen.insert(all[0]);
            all[0] == k
        });
    }
    assert!(seen.contains(&7), "{seen:?}");
}

#[test]
fn a_listing_is_true_to_all_names_that_stay_while_others_come_and_go() {
    let Some((writer, follower)) = pair() else { return };
    let (there, here) = (writer.mountpoint().join("dir"), follower.mountpoint().join("dir"));
    fs::create_dir(&there).unwrap();
    for k in 0..400 {
        fs::write(there.join(format!("stays {k}")), b"x").unwrap();
    }
    writer.sync();
    let names = || -> Vec<String> {
        let listed = fs::read_dir(&here).map(|entries| entries.map(|e| e.unwrap().file_name().into_string().unwrap()));
        listed.map(Iterator::collect).unwrap_or_default()
    };
    let stay = |names: &[String]| names.iter().filter(|name| name.starts_with("stays")).count();
    eventually("the directory is here", || stay(&names()) == 400);
    for round in 0..4 {
        for k in 0..200 {
            fs::write(there.join(format!("comes {round} {k}")), b"x").unwrap();
            if round > 0 {
                fs::remove_file(there.join(format!("comes {} {k}", round - 1))).unwrap();
            }
        }
        writer.sync();
        eventually("the names of this round are here", || {
            let names = names();
            let unique: BTreeSet<&String> = names.iter().collect();
            assert_eq!(unique.len(), names.len(), "a name twice");
            assert_eq!(stay(&names), 400);
            names.iter().filter(|name| name.starts_with(&format!("comes {round} "))).count() == 200
        });
    }
    eventually("and nothing else", || names().len() == 600);
}

#[test]
fn an_outage_ends_nothing_and_what_came_meanwhile_is_seen_after_it() {
    let Some((writer, follower)) = pair() else { return };
    let (there, here) = (writer.mountpoint(), follower.mountpoint());
    fs::write(there.join("file"), b"bytes").unwrap();
    writer.sync();
    eventually("it is here", || read(&here.join("file")).is_some());
    let away = writer.root().join("away");
    fs::rename(writer.remote(), &away).unwrap();
    eventually("status says so", || follower.status()["state"] == "outage");
    assert!(follower.status()["reason"].as_str().is_some_and(|why| why.contains("for ")));
    assert_eq!(read(&here.join("file")).as_deref(), Some(&b"bytes"[..]), "what was read is in memory");
    assert_eq!(fs::read_dir(&here).unwrap().count(), 1);
    fs::write(there.join("later"), b"later").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    fs::rename(&away, writer.remote()).unwrap();
    writer.sync();
    eventually("it goes on", || read(&here.join("later")).as_deref() == Some(b"later"));
    eventually("status says so", || follower.status()["state"] == "read-only");
}

#[test]
fn e5_a_takeover_is_followed_on_a_real_mount() {
    let Some((mut writer, follower)) = pair() else { return };
    let here = follower.mountpoint();
    fs::write(writer.mountpoint().join("file"), b"bytes").unwrap();
    writer.sync();
    writer.kill();
    writer.move_to_machine("third");
    writer.mount_with(&["--takeover"]);
    fs::write(writer.mountpoint().join("more"), b"more").unwrap();
    writer.sync();
    eventually("the third machine's file is here", || read(&here.join("more")).as_deref() == Some(b"more"));
    assert_eq!(read(&here.join("file")).as_deref(), Some(&b"bytes"[..]));
    assert_eq!(follower.status()["epoch"], writer.status()["epoch"]);
}

#[test]
fn a_follower_that_was_stopped_for_many_commits_goes_on() {
    let Some((writer, follower)) = pair() else { return };
    let (there, here) = (writer.mountpoint(), follower.mountpoint());
    let signal = |number| {
        for pid in follower.daemons() {
            // SAFETY: a signal to the follower's own process.
            unsafe { libc::kill(pid, number) };
        }
    };
    signal(libc::SIGSTOP);
    for k in 0..30 {
        fs::write(there.join("counter"), format!("{k}")).unwrap();
        fs::write(there.join(format!("file {k}")), b"x").unwrap();
        writer.sync();
    }
    signal(libc::SIGCONT);
    eventually("the last commit is here", || read(&here.join("counter")).as_deref() == Some(b"29"));
    assert_eq!(fs::read_dir(&here).unwrap().count(), 31);
}

/// A shared map, for reading.
struct Map {
    at: *mut libc::c_void,
    len: usize,
}

impl Map {
    fn new(file: &File, len: usize) -> io::Result<Map> {
        // SAFETY: a new map at a place that the kernel chooses.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Map { at, len }) }
    }

    fn byte(&self, at: usize) -> u8 {
        assert!(at < self.len);
        // SAFETY: within the map; the file is never shorter than it in this test.
        unsafe { self.at.cast::<u8>().add(at).read_volatile() }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the map that was made above.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

#[test]
fn e5_a_shared_map_follows_the_newest_contents_and_the_open_file_does_not() {
    let Some((writer, follower)) = pair() else { return };
    let (there, here) = (writer.mountpoint().join("file"), follower.mountpoint().join("file"));
    fs::write(&there, vec![b'a'; 100_000]).unwrap();
    writer.sync();
    eventually("it is here", || read(&here).is_some_and(|bytes| bytes.len() == 100_000));
    let file = File::open(&here).unwrap();
    let map = match Map::new(&file, 100_000) {
        Ok(map) => map,
        // Kernels before 6.6 refuse shared maps of what is read past their pages.
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return,
        Err(e) => panic!("{e}"),
    };
    assert_eq!((map.byte(0), map.byte(99_999)), (b'a', b'a'));
    let rewritten = fs::OpenOptions::new().write(true).open(&there).unwrap();
    rewritten.write_all_at(&vec![b'b'; 100_000], 0).unwrap();
    drop(rewritten);
    writer.sync();
    eventually("the map shows it", || map.byte(0) == b'b' && map.byte(99_999) == b'b');
    let mut bytes = vec![0; 100_000];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == b'a'));
}
