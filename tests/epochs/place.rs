//! A vault in a directory, state directories beside it, and drives over them.

use std::path::PathBuf;
use std::time::Duration;

use crate::in_process::options;
pub use crate::in_process::passphrase;
use dripfs::base::{Clock, Ino, Random};
use dripfs::format::header::Cost;
use dripfs::fs::Caller;
use dripfs::mount::drive::{Drive, DriveOptions};
use dripfs::store::{self, Store};
use dripfs::vault::{VaultError, init};

const ME: Caller = Caller { uid: 0, gid: 0, pid: 1 };
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Place {
    _dir: tempfile::TempDir,
    pub root: PathBuf,
}

impl Place {
    pub async fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let place = Place { _dir: dir, root };
        init::init(&place.store(), &passphrase(), Cost::FLOOR, (0, 0), &Random::Kernel, &Clock::System).await.unwrap();
        place
    }

    pub fn vault(&self) -> PathBuf {
        self.root.join("vault")
    }

    pub fn store(&self) -> Store {
        store::open(self.vault().to_str().unwrap()).unwrap()
    }

    pub fn state(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn options(&self, state: &str) -> DriveOptions {
        options(&self.state(state))
    }

    /// The disk with the vault goes.
    pub fn unplug(&self) {
        std::fs::rename(self.vault(), self.root.join("away")).unwrap();
    }

    pub fn plug(&self) {
        std::fs::rename(self.root.join("away"), self.vault()).unwrap();
    }

    pub async fn try_open(&self, options: DriveOptions) -> Result<Drive, VaultError> {
        Drive::open(self.store(), passphrase(), options).await
    }

    /// Another machine, which reaches the vault where this one does not.
    pub async fn open_away(&self, state: &str) -> Drive {
        let store = store::open(self.root.join("away").to_str().unwrap()).unwrap();
        Drive::open(store, passphrase(), self.options(state)).await.unwrap()
    }

    pub async fn open(&self, state: &str) -> Drive {
        self.try_open(self.options(state)).await.unwrap()
    }

    pub async fn take_over(&self, state: &str) -> Drive {
        self.try_open(DriveOptions { takeover: true, ..self.options(state) }).await.unwrap()
    }

    /// What another machine finds in the vault.
    pub async fn reader(&self) -> Drive {
        let state = tempfile::tempdir_in(&self.root).unwrap();
        let options = DriveOptions { read_only: true, ..options(state.path()) };
        self.try_open(options).await.unwrap()
    }

    /// A state directory as a backup program copies it.
    pub fn copy(&self, from: &str, to: &str) {
        let (from, to) = (self.root.join(from), self.root.join(to));
        let _ = std::fs::remove_dir_all(&to).or_else(|_| std::fs::remove_file(&to));
        let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(copied.success());
    }
}

impl Place {
    /// `crashed`, a copy of `state` from before, becomes what a crash at this moment leaves: the journal and the pin are as
    /// they are now, the index is as it was.
    pub fn crash(&self, state: &str, crashed: &str) {
        for name in ["journal", "pin"] {
            self.copy(&format!("{state}/{name}"), &format!("{crashed}/{name}"));
        }
    }
}

/// Makes a file; its bytes are in the journal when this returns.
pub async fn write(drive: &Drive, name: &str, bytes: &[u8]) -> Ino {
    let made = drive.fs.create(Ino::ROOT, name.as_bytes(), 0o644, ME).await.unwrap();
    overwrite(drive, made.ino, 0, bytes).await;
    drive.fs.release(made.ino, true).await.unwrap();
    made.ino
}

pub async fn overwrite(drive: &Drive, ino: Ino, offset: u64, bytes: &[u8]) {
    for (k, chunk) in bytes.chunks(1 << 20).enumerate() {
        drive.fs.write(ino, offset + ((k as u64) << 20), chunk.to_vec(), false).await.unwrap();
    }
    drive.fs.fsync(ino, false).await.unwrap();
}

pub async fn read(drive: &Drive, name: &str) -> Vec<u8> {
    let found = drive.fs.lookup(Ino::ROOT, name.as_bytes()).await.unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut out = Vec::new();
    while (out.len() as u64) < found.size {
        let part = drive.fs.read(found.ino, out.len() as u64, 128 << 10).await.unwrap();
        assert!(!part.is_empty(), "{name}: ends at {} instead of {}", out.len(), found.size);
        out.extend_from_slice(&part);
    }
    out
}

pub async fn exists(drive: &Drive, name: &str) -> bool {
    drive.fs.lookup(Ino::ROOT, name.as_bytes()).await.is_ok()
}

pub async fn until_state(drive: &Drive, state: &str) {
    let found = || format!("it is {:?} ({:?})", drive.status().state, drive.status().reason);
    until(found, || drive.status().state == state).await;
}

/// Waits; what was `found` instead is told where that takes too long.
pub async fn until(found: impl Fn() -> String, mut done: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{}", found());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    let mut bytes = vec![0; len];
    rand::rngs::SmallRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}
