//! What the drive must show, in figures: each test prints its own on stdout (`--nocapture` shows them).
//!
//! DRIPFS_LONG=1 runs the long forms: 200 kills, 50 power cuts, 100 machines lost, 50,000 changes offline, a minute of
//! rewriting, 10 GiB, a crowd of large files, an hour of mixed load.

#[path = "../common/mod.rs"]
mod common;
mod crashes;
mod crowd;
mod latency;
mod load;
mod machine;
mod memory;
mod objects;
mod offline_week;
mod plaintext;
mod power;
mod rename_loop;
mod secrecy;
mod source_tree;
mod unmount;
mod workloads;

use std::fs;
use std::path::{Path, PathBuf};

pub use common::long;
use common::{Vault, succeed};

/// The cheapest passphrase KDF that is accepted: tests mount often.
pub const CHEAP: [&str; 2] = ["--kdf-memory", "64"];

/// A new vault, mounted.
pub fn mounted() -> Option<Vault> {
    mounted_with(&[])
}

pub fn mounted_with(options: &[&str]) -> Option<Vault> {
    let mut vault = Vault::new()?;
    vault.mount_with(&[&CHEAP, options].concat());
    Some(vault)
}

pub fn status(vault: &Vault) -> serde_json::Value {
    let output = succeed(vault.dripfs(["status", "--json"]).arg(vault.mountpoint()));
    serde_json::from_slice(&output.stdout).expect("status prints JSON")
}

pub fn number(status: &serde_json::Value, path: &str) -> u64 {
    status.pointer(path).and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("{path} in {status}"))
}

pub fn sync(vault: &Vault) {
    succeed(vault.dripfs(["sync"]).arg(vault.mountpoint()));
}

/// All files below a directory, with their lengths, sorted by name.
pub fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut rest = vec![dir.to_owned()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(&dir).expect("a directory").flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => rest.push(entry.path()),
                Ok(meta) if meta.is_file() => found.push((entry.path(), meta.len())),
                // Sockets; and what is gone already (a journal file, a file that is being put).
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Bytes that do not compress.
pub fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    getrandom::fill(&mut bytes).expect("the kernel has random bytes");
    bytes
}

/// Another machine looks at the vault: another mountpoint, a state directory of its own, reading only.
pub struct Onlooker(Vault);

impl Onlooker {
    pub fn new() -> Option<Onlooker> {
        Vault::new().map(Onlooker)
    }

    /// Mounts the vault as it is now, having forgotten what it saw before; looks; unmounts.
    pub fn look<T>(&mut self, vault: &Vault, look: impl FnOnce(&Path) -> T) -> T {
        let state = self.0.root().join("state");
        fs::remove_dir_all(&state).expect("nothing is mounted");
        let mut mount = self.0.dripfs(["mount", "--read-only", "--background", "--passphrase-file"]);
        mount.arg(vault.passphrase_file()).arg("--state").arg(&state);
        // What one look sees is one state, though the writer goes on.
        mount.args(["-o", "follow=86400"]);
        succeed(mount.arg(vault.remote()).arg(self.0.mountpoint()));
        let seen = look(&self.0.mountpoint());
        self.0.umount();
        seen
    }
}

/// A number at random, below `end`.
pub fn between(start: u64, end: u64) -> u64 {
    start + getrandom::u64().expect("the kernel has random bytes") % (end - start)
}
