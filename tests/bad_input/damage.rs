//! The provider changes something. Reading then gives the right bytes, or EIO and the file's name in `dripfs status`,
//! or the mount is refused; never wrong bytes. What is compared are all bytes of all files with what was written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Vault, run, succeed};
use crate::{CHEAP, mount_with_state, refused, snapshot};

/// What became of a mount of a damaged vault.
#[derive(PartialEq, Eq, Debug)]
enum Outcome {
    Refused(i32, String),
    /// Files that could not be read; all others were right.
    Read(Vec<String>),
}

struct Subject {
    vault: Vault,
    files: BTreeMap<String, Vec<u8>>,
    /// The vault as it was left.
    pristine: PathBuf,
    /// And as it was one mount earlier.
    older: PathBuf,
}

/// A vault with small, middling and large files, in segments and inline, written in two mounts.
fn subject() -> Option<Subject> {
    let mut vault = Vault::new()?;
    let mut files = BTreeMap::new();
    let (pristine, older) = (vault.root().join("pristine"), vault.root().join("older"));
    for (mount, sizes) in [[300, 40_000, 3_000_000], [5_000, 150_000, 1_500_000]].into_iter().enumerate() {
        vault.mount_with(&CHEAP);
        for size in sizes {
            let (name, bytes) = (format!("file-{mount}-{size}"), noise(size));
            fs::write(vault.mountpoint().join(&name), &bytes).expect("a write");
            files.insert(name, bytes);
            succeed(vault.dripfs(["sync"]).arg(vault.mountpoint()));
        }
        vault.umount();
        succeed(std::process::Command::new("cp").arg("-a").arg(vault.remote()).arg([&older, &pristine][mount]));
    }
    Some(Subject { vault, files, pristine, older })
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    getrandom::fill(&mut bytes).expect("the kernel has random bytes");
    bytes
}

impl Subject {
    /// The names of all objects.
    fn objects(&self) -> Vec<PathBuf> {
        let all = snapshot(&self.pristine).into_iter().filter(|(_, bytes)| bytes.is_some());
        all.map(|(path, _)| path.strip_prefix(&self.pristine).expect("below it").to_owned()).collect()
    }

    fn of_kind(&self, kind: &str) -> Vec<PathBuf> {
        self.objects().into_iter().filter(|name| name.starts_with(kind)).collect()
    }

    fn original(&self, name: &Path) -> Vec<u8> {
        fs::read(self.pristine.join(name)).expect("an object")
    }

    /// The outcome with this object put in the place of `name` (`None`: removed); the vault is restored afterwards.
    fn with(&mut self, name: &Path, object: Option<&[u8]>) -> Outcome {
        let path = self.vault.remote().join(name);
        match object {
            Some(bytes) => fs::write(&path, bytes).expect("the provider may"),
            None => fs::remove_file(&path).expect("the provider may"),
        }
        let outcome = self.mount_and_read();
        fs::write(&path, self.original(name)).expect("the provider may");
        outcome
    }

    /// Read-only, so that the vault stays as it is; on the machine that wrote it, which has its pin, but no index, which
    /// would spare it most of the log.
    fn mount_and_read(&mut self) -> Outcome {
        for entry in fs::read_dir(self.vault.state()).expect("a state directory") {
            // One for each vault.
            let _ = fs::remove_dir_all(entry.expect("an entry").path().join("reader"));
        }
        self.mount_and_read_on()
    }

    fn mount_and_read_on(&mut self) -> Outcome {
        let mountpoint = self.vault.mountpoint();
        let mut mount = mount_with_state(&self.vault, self.vault.state(), &mountpoint);
        let output = run(mount.arg("--read-only"));
        if let Some(code @ 1..) = output.status.code() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.starts_with("dripfs: "), "{said}");
            return Outcome::Refused(code, said);
        }
        let mut unread = Vec::new();
        for (name, bytes) in &self.files {
            match fs::read(mountpoint.join(name)) {
                Ok(read) => assert!(read == *bytes, "wrong bytes in {name}"),
                Err(e) => {
                    assert_eq!(e.raw_os_error(), Some(libc::EIO), "{name}: {e}");
                    unread.push(name.clone());
                }
            }
        }
        let status = succeed(self.vault.dripfs(["status", "--json"]).arg(&mountpoint));
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
        let named: Vec<&str> = status["damaged_files"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|path| path.as_str().expect("a path").trim_start_matches('/'))
            .collect();
        assert_eq!(named, unread, "status names the files that could not be read, and no others");
        self.vault.umount();
        Outcome::Read(unread)
    }
}

#[test]
fn one_flipped_byte_anywhere_never_gives_wrong_bytes() {
    let Some(mut subject) = subject() else { return };
    assert_eq!(subject.mount_and_read(), Outcome::Read(Vec::new()), "whole before it is damaged");
    let mut hurt_segments = 0;
    for name in subject.objects() {
        let good = subject.original(&name);
        // In the beginning of the object, in what it carries, in the middle, at its end.
        let places = [12, good.len() / 2, 0, 200, good.len() / 4, good.len() - 1];
        // There are many log objects, and all are sealed alike: two places in each.
        let count = if name.starts_with("log") { 2 } else { places.len() };
        for (n, place) in places.into_iter().take(count).enumerate() {
            let mut bad = good.clone();
            bad[place] ^= 1 << n;
            let outcome = subject.with(&name, Some(&bad));
            let kind = name.iter().next().and_then(|kind| kind.to_str()).expect("a name");
            println!("{} of {} bytes, byte {place} flipped: {outcome:?}", name.display(), good.len());
            match (kind, &outcome) {
                ("log", Outcome::Refused(13, said)) => assert!(said.contains("log/"), "it names the object: {said}"),
                // Of a header only the log says for sure which bytes are right; before that it does not parse, does
                // not open, or is not the one.
                ("header", Outcome::Refused(1 | 12 | 13, _)) => {}
                ("segments", Outcome::Read(unread)) => hurt_segments += usize::from(!unread.is_empty()),
                // The empty first checkpoint and the hint: nothing that is read depends on them yet.
                ("checkpoint" | "latest", Outcome::Read(unread)) => assert!(unread.is_empty(), "{unread:?}"),
                ("checkpoint", Outcome::Refused(13, _)) => {}
                _ => panic!("{}: {outcome:?}", name.display()),
            }
        }
    }
    // Each segment has five places within its extents at most; padding may be hit, extents must be.
    let segments = subject.of_kind("segments").len();
    assert!(hurt_segments >= 2 * segments && segments >= 2, "{hurt_segments} of {segments} segments were hit");
    assert_eq!(subject.mount_and_read(), Outcome::Read(Vec::new()), "whole again, and nothing was written meanwhile");
}

#[test]
fn a_removed_or_cut_object_never_gives_wrong_bytes() {
    let Some(mut subject) = subject() else { return };
    for (n, name) in subject.objects().into_iter().enumerate() {
        let good = subject.original(&name);
        let mut ways = vec![
            ("removed", None),
            ("emptied", Some(&good[..0])),
            ("halved", Some(&good[..good.len() / 2])),
            ("one byte shorter", Some(&good[..good.len() - 1])),
        ];
        if name.starts_with("log") {
            // There are many: each in one way, all in each way.
            ways = vec![ways[n % ways.len()]];
        }
        for (what, object) in ways {
            let outcome = subject.with(&name, object);
            println!("{} {what}: {outcome:?}", name.display());
            let kind = name.iter().next().and_then(|kind| kind.to_str()).expect("a name");
            match (kind, what, &outcome) {
                ("log", _, Outcome::Refused(13, _)) => {}
                // Without any header nothing tells a vault that is hidden from one that never was.
                ("header", "removed", Outcome::Refused(10 | 13, _)) => {}
                ("header", _, Outcome::Refused(1 | 13, _)) => {}
                ("segments", "removed" | "emptied", Outcome::Read(unread)) => assert!(!unread.is_empty()),
                ("segments", _, Outcome::Read(_)) => {}
                ("checkpoint" | "latest", _, Outcome::Read(unread)) => assert!(unread.is_empty(), "{unread:?}"),
                ("checkpoint", _, Outcome::Refused(13, _)) => {}
                _ => panic!("{} {what}: {outcome:?}", name.display()),
            }
        }
    }
    assert_eq!(subject.mount_and_read(), Outcome::Read(Vec::new()));
}

/// What this machine has read and checked before it does not need again.
#[test]
fn a_removed_old_log_object_is_not_missed_where_an_index_holds_what_it_said() {
    let Some(mut subject) = subject() else { return };
    assert_eq!(subject.mount_and_read_on(), Outcome::Read(Vec::new()));
    let oldest = subject.of_kind("log").remove(1);
    fs::remove_file(subject.vault.remote().join(&oldest)).expect("the provider may");
    assert_eq!(subject.mount_and_read_on(), Outcome::Read(Vec::new()), "with an index");
    let Outcome::Refused(13, said) = subject.mount_and_read() else { panic!("without one it is needed") };
    assert!(said.contains(&*oldest.to_string_lossy()), "{said}");
}

#[test]
fn swapped_segments_do_not_open() {
    let Some(mut subject) = subject() else { return };
    let segments = subject.of_kind("segments");
    // The largest two carry the largest files.
    let mut by_size: Vec<_> = segments.iter().map(|name| (subject.original(name).len(), name.clone())).collect();
    by_size.sort();
    let [.., (_, a), (_, b)] = &by_size[..] else { panic!("only {} segments", by_size.len()) };
    fs::write(subject.vault.remote().join(a), subject.original(b)).expect("the provider may");
    fs::write(subject.vault.remote().join(b), subject.original(a)).expect("the provider may");
    let Outcome::Read(unread) = subject.mount_and_read() else { panic!("names do not lie in segments") };
    assert!(unread.len() >= 2, "{unread:?}");
    for name in [a, b] {
        fs::write(subject.vault.remote().join(name), subject.original(name)).expect("the provider may");
    }
    assert_eq!(subject.mount_and_read(), Outcome::Read(Vec::new()));
}

#[test]
fn an_older_copy_of_the_vault_is_noticed() {
    let Some(mut subject) = subject() else { return };
    let newest = subject.vault.root().join("newest");
    fs::rename(subject.vault.remote(), &newest).expect("the provider may");
    succeed(std::process::Command::new("cp").arg("-a").arg(&subject.older).arg(subject.vault.remote()));
    let before = snapshot(&subject.vault.remote());
    let mountpoint = subject.vault.mountpoint();
    for option in ["--read-only", "--init"] {
        let mut mount = mount_with_state(&subject.vault, subject.vault.state(), &mountpoint);
        refused(mount.arg(option), 13, &["rolled back", "this machine has seen"]);
    }
    assert!(before == snapshot(&subject.vault.remote()), "something was written to it");
    fs::remove_dir_all(subject.vault.remote()).expect("the provider may");
    fs::rename(&newest, subject.vault.remote()).expect("the provider may");
    assert_eq!(subject.mount_and_read(), Outcome::Read(Vec::new()), "the newest is accepted again");
}

#[test]
fn a_log_object_in_anothers_place_is_noticed() {
    let Some(mut subject) = subject() else { return };
    let log = subject.of_kind("log");
    for (place, other) in [(log.len() - 1, log.len() - 2), (2, 1), (1, 2), (0, log.len() - 1)] {
        let object = subject.original(&log[other]);
        let outcome = subject.with(&log[place], Some(&object));
        assert!(matches!(&outcome, Outcome::Refused(13, said) if said.contains("log/")), "{outcome:?}");
    }
    // A whole end of the log repeated beyond it is foreign too.
    let beyond = subject.vault.remote().join(format!("log/{:020}", log.len() + 1));
    fs::write(&beyond, subject.original(&log[log.len() - 1])).expect("the provider may");
    let outcome = subject.mount_and_read();
    assert!(matches!(outcome, Outcome::Refused(13, _)), "{outcome:?}");
    fs::remove_file(&beyond).expect("the provider may");
    assert_eq!(subject.mount_and_read(), Outcome::Read(Vec::new()));
}
