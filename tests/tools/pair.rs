//! Two directories, one on the drive and one beside it, on which the same things are done.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::{Vault, fresh_directory, run, succeed};
use crate::tree::{Tree, differences};

/// Which times a comparison looks at. What a tool *preserves* is the same on both sides; what it makes anew is not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Times {
    Preserved,
    Fresh,
}

pub struct Pair {
    pub drive: PathBuf,
    pub local: PathBuf,
}

impl Pair {
    /// Two empty directories. `None` (said on stderr) where nothing can be mounted.
    pub fn new() -> Option<Pair> {
        Pair::on(shared()?)
    }

    /// Two empty directories on a mount that other users may enter.
    pub fn open_to_others() -> Option<Pair> {
        static VAULT: OnceLock<Option<Vault>> = OnceLock::new();
        let vault = VAULT.get_or_init(|| {
            let mut vault = Vault::new()?;
            vault.mount_with(&["-o", "allow_other"]);
            // What lies above the two directories is made private.
            for path in [vault.root(), &vault.mountpoint()] {
                fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own directory");
            }
            Some(vault)
        });
        Pair::on(vault.as_ref()?)
    }

    fn on(vault: &Vault) -> Option<Pair> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let pair = Pair { drive: vault.mountpoint().join(&name), local: vault.root().join("local").join(&name) };
        fs::create_dir(&pair.drive).expect("mkdir on the drive");
        fs::create_dir_all(&pair.local).expect("room for a directory");
        Some(pair)
    }

    pub fn both(&self) -> [&Path; 2] {
        [&self.local, &self.drive]
    }

    /// Runs a shell script in both directories. It must succeed and print the same.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let [local, drive] = self.both().map(|directory| text(&succeed(&mut shell(directory, script)).stdout));
        assert_eq!(drive, local, "the script printed one thing on the drive (left) and another beside it: {script}");
        drive
    }

    /// Runs a shell script in both directories: its result and what it prints must be the same, success or not.
    #[track_caller]
    pub fn same(&self, script: &str) -> String {
        let [local, drive] = self.both().map(|directory| {
            let output = run(&mut shell(directory, script));
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            let here = directory.to_str().expect("test paths are UTF-8");
            format!("{}\n{}{}", output.status, out.replace(here, "."), err.replace(here, "."))
        });
        assert_eq!(drive, local, "one thing on the drive (left) and another beside it: {script}");
        drive
    }

    /// Runs a Python program in both directories. It must succeed and print the same.
    #[track_caller]
    pub fn python(&self, program: &str) -> String {
        let [local, drive] = self.both().map(|directory| text(&succeed(&mut python(directory, program)).stdout));
        assert_eq!(drive, local, "the program printed one thing on the drive (left) and another beside it: {program}");
        drive
    }

    /// Both directories hold the same tree.
    #[track_caller]
    pub fn compare(&self, times: Times) {
        let [local, drive] = self.both().map(Tree::read);
        let differences = differences(&local, &drive, times);
        assert!(differences.is_empty(), "the drive differs from the directory beside it:\n{}", differences.join("\n"));
    }
}

/// Tools that a test needs. Installing them is the work of the script that runs all tests.
#[track_caller]
pub fn need(programs: &[&str]) {
    for program in programs {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|directory| directory.join(program).is_file());
        assert!(found, "{program} is missing here: install it (the script that runs all tests does)");
    }
}

/// A shell in a directory, with an environment that is the same everywhere.
pub fn shell(directory: &Path, script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(directory);
    environment(&mut command);
    command
}

pub fn python(directory: &Path, program: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-B", "-c", program]).current_dir(directory);
    environment(&mut command);
    command
}

fn environment(command: &mut Command) {
    let home = shared().map_or_else(|| "/nonexistent".into(), |vault| vault.root().join("home"));
    command.env("LC_ALL", "C").env("TZ", "UTC").env("HOME", home).stdin(std::process::Stdio::null());
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_AUTHOR_DATE", "1700000000 +0000");
    command.env("GIT_COMMITTER_DATE", "1700000000 +0000");
    for name in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{name}_NAME"), "A").env(format!("GIT_{name}_EMAIL"), "a@example.org");
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The mount that all tests share. Its reaper cleans up when this process ends: statics are never dropped.
pub fn shared() -> Option<&'static Vault> {
    static VAULT: OnceLock<Option<Vault>> = OnceLock::new();
    VAULT.get_or_init(Vault::mounted).as_ref()
}

/// The tree of [`crate::source`], made once, on the local disk.
pub fn source() -> &'static Path {
    static SOURCE: OnceLock<PathBuf> = OnceLock::new();
    SOURCE.get_or_init(|| {
        let root = shared().map_or_else(fresh_directory, |vault| vault.root().to_owned());
        let source = root.join("source");
        crate::source::make(&source);
        source
    })
}
