//! A week without the store, compressed (E4, E3): many changes over several mounts, one of them killed; then the store
//! is back, alone or with what another machine wrote meanwhile.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::common::{Vault, run, succeed, wait_until};
use crate::{Onlooker, long, mounted};

/// The exit code of `umount` where something stays on this machine only.
const PENDING: i32 = 14;
/// Mounts without the store.
const MOUNTS: u64 = 3;

/// Changes a tree on the drive, and its twin on a local disk in the same way.
struct Changes {
    roots: [PathBuf; 2],
    dice: SmallRng,
    files: Vec<PathBuf>,
    made: u64,
    done: u64,
    /// Files before this number were in the vault when its store went: their bytes may be nowhere else.
    vaults: u64,
}

impl Changes {
    fn new(drive: PathBuf, twin: PathBuf) -> Changes {
        fs::create_dir_all(&twin).expect("room for a directory");
        Changes {
            roots: [drive, twin],
            dice: SmallRng::seed_from_u64(7),
            files: Vec::new(),
            made: 0,
            done: 0,
            vaults: 0,
        }
    }

    fn on_both(&self, change: impl Fn(&Path) -> std::io::Result<()>) {
        for root in &self.roots {
            change(root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = self.dice.random_range(0..3000);
        let mut bytes = vec![0; len];
        self.dice.fill(&mut bytes[..]);
        bytes
    }

    fn new_name(&mut self) -> PathBuf {
        self.made += 1;
        PathBuf::from(format!("d{}/f{}", self.made % 50, self.made))
    }

    fn create(&mut self) {
        let (name, bytes) = (self.new_name(), self.bytes());
        self.on_both(|root| {
            let path = root.join(&name);
            fs::create_dir_all(path.parent().expect("it has one"))?;
            fs::write(path, &bytes)
        });
        self.files.push(name);
    }

    fn one(&mut self) {
        self.done += 1;
        let kind = self.dice.random_range(0..10);
        if kind < 4 || self.files.is_empty() {
            return self.create();
        }
        let at = self.dice.random_range(0..self.files.len());
        let name = self.files[at].clone();
        match kind {
            4 | 5 => {
                let (bytes, offset) = (self.bytes(), self.dice.random_range(0..4000));
                self.on_both(|root| {
                    let file = fs::File::options().write(true).open(root.join(&name))?;
                    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, offset)
                });
            }
            6 => {
                let old = number(&name) <= self.vaults;
                let to = self.new_name();
                let to = if old { to.with_extension("moved") } else { to };
                self.on_both(|root| {
                    fs::create_dir_all(root.join(&to).parent().expect("it has one"))?;
                    fs::rename(root.join(&name), root.join(&to))
                });
                self.files[at] = to;
            }
            7 => {
                self.on_both(|root| fs::remove_file(root.join(&name)));
                self.files.swap_remove(at);
            }
            8 => {
                let mode = 0o600 | self.dice.random_range(0..0o100);
                self.on_both(|root| fs::set_permissions(root.join(&name), fs::Permissions::from_mode(mode)));
            }
            _ => {
                let len = self.dice.random_range(0..5000);
                self.on_both(|root| fs::File::options().write(true).open(root.join(&name))?.set_len(len));
            }
        }
    }

    fn many(&mut self, count: u64) {
        (0..count).for_each(|_| self.one());
    }

    /// What was done is safe on this machine. (The kernel tells a FUSE filesystem nothing of syncfs(2).)
    fn fsync(&self) {
        let script = "find \"$1\" -print0 | xargs -0 sync";
        succeed(Command::new("sh").args(["-c", script, "sh"]).arg(&self.roots[0]));
    }

    /// Without the store: all names, sizes and modes, and the bytes of what was made since it went.
    fn judge_offline(&self, whose: &str) {
        let [here, twin] = self.roots.each_ref().map(|root| {
            let script = "cd \"$1\" && find . -type f -printf '%P %m %s\\n' | sort";
            succeed(Command::new("sh").args(["-c", script, "sh"]).arg(root)).stdout
        });
        assert!(here == twin, "{whose}: names, modes or sizes differ");
        for name in self.files.iter().filter(|name| number(name) > self.vaults) {
            let [here, twin] = self.roots.each_ref().map(|root| fs::read(root.join(name)).ok());
            assert!(here.is_some() && here == twin, "{whose}: {}", name.display());
        }
    }

    /// Is the tree below `root` its twin, bytes and modes?
    fn judge(&self, root: &Path, whose: &str) {
        let diff = run(Command::new("diff").arg("-r").arg(&self.roots[1]).arg(root));
        assert!(diff.status.success(), "{whose}: {}", String::from_utf8_lossy(&diff.stdout));
        for name in &self.files {
            let [here, twin] = [root, &self.roots[1]].map(|root| mode(&root.join(name)));
            assert_eq!(here, twin, "{whose}: {}", name.display());
        }
    }
}

/// The number of a file's birth; 0 if it was moved since its bytes were in the vault.
fn number(name: &Path) -> u64 {
    let name = name.file_name().and_then(|name| name.to_str()).expect("we made it");
    name.trim_start_matches('f').parse().unwrap_or(0)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).mode() & 0o7777
}

/// The way to the store is cut, or there again.
fn unplug(vault: &Vault) {
    fs::rename(vault.remote(), vault.root().join("away")).expect("one disk");
}

fn plug(vault: &Vault) {
    fs::rename(vault.root().join("away"), vault.remote()).expect("one disk");
}

/// Unmounts where not everything can be sent.
fn umount_pending(vault: &mut Vault) {
    let umount = run(vault.dripfs(["umount"]).arg(vault.mountpoint()));
    let said = String::from_utf8_lossy(&umount.stderr).into_owned();
    assert_eq!(umount.status.code(), Some(PENDING), "{said}");
    // Nothing is mounted; it only remembers so.
    vault.kill();
}

/// Fills a drive, takes its store away, and changes it over several mounts; it is mounted when this returns.
fn week(vault: &mut Vault, changes: &mut Changes, count: u64) {
    changes.many(count / 50);
    vault.sync();
    vault.umount();
    unplug(vault);
    changes.vaults = changes.made;
    succeed(Command::new("cp").arg("-a").arg(&changes.roots[1]).arg(vault.root().join("before")));
    for n in 1..=MOUNTS {
        vault.mount_again(&[]);
        assert_eq!(vault.status()["state"], "offline");
        changes.judge_offline(&format!("offline mount {n}"));
        changes.many(count / MOUNTS);
        match n {
            2 => {
                changes.fsync();
                vault.kill();
            }
            _ => umount_pending(vault),
        }
    }
    vault.mount_again(&[]);
    changes.judge_offline("the last offline mount");
}

fn count() -> u64 {
    if long() { 50_000 } else { 450 }
}

#[test]
fn e4_a_week_of_changes_without_the_store_arrives_when_it_is_back() {
    let (Some(mut vault), Some(mut onlooker)) = (mounted(), Onlooker::new()) else { return };
    let mut changes = Changes::new(vault.mountpoint().join("tree"), vault.root().join("twin"));
    week(&mut vault, &mut changes, count());
    let pending = vault.status()["pending_bytes"].as_u64().expect("a number");
    plug(&vault);
    let began = std::time::Instant::now();
    vault.sync();
    let took = began.elapsed();
    assert_eq!((&vault.status()["state"], vault.status()["pending_bytes"].as_u64()), (&"ready".into(), Some(0)));
    onlooker.look(&vault, |dir| changes.judge(&dir.join("tree"), "from the vault alone"));
    vault.umount();
    let count = changes.done;
    println!(
        "a week offline: {count} changes over {MOUNTS} mounts, {pending} bytes; sent in {took:?}, the same elsewhere"
    );
}

#[test]
fn e3_a_week_of_changes_that_met_another_machine_is_set_aside_and_rescued() {
    let (Some(mut vault), Some(other)) = (mounted(), Vault::new()) else { return };
    let mut changes = Changes::new(vault.mountpoint().join("tree"), vault.root().join("twin"));
    week(&mut vault, &mut changes, count());

    // The other machine reaches the store, and writes into it.
    let away = vault.root().join("away");
    let mut mount = other.dripfs(["mount", "--background"]);
    succeed(mount.arg("--state").arg(other.state()).arg(&away).arg(other.mountpoint()));
    fs::write(other.mountpoint().join("theirs"), b"written by another machine").expect("a write");
    succeed(other.dripfs(["umount"]).arg(other.mountpoint()));
    plug(&vault);
    wait_until("the drive meets the other's history", || vault.status()["state"] == "fenced");
    umount_pending(&mut vault);

    vault.mount_again(&[]);
    assert_eq!(fs::read(vault.mountpoint().join("theirs")).expect("it was followed"), b"written by another machine");
    assert_eq!(vault.status()["set_aside"].as_array().map(Vec::len), Some(1));
    let (before, out) = (vault.root().join("before"), vault.root().join("rescued"));
    let began = std::time::Instant::now();
    succeed(vault.dripfs(["rescue", "--to"]).arg(&out).arg(vault.mountpoint()));
    let took = began.elapsed();
    let mut rescued = 0;
    for name in &changes.files {
        let [twin, was] = [&changes.roots[1], &before].map(|root| fs::read(root.join(name)).ok());
        if twin == was {
            continue;
        }
        let found = fs::read(out.join("tree").join(name)).ok();
        assert!(found.is_some() && found == twin, "{} was changed offline and is not rescued", name.display());
        rescued += 1;
    }
    assert!(rescued > 0);
    println!(
        "a week offline beside another machine: {} changes set aside, {rescued} files rescued in {took:?}",
        changes.done
    );
    vault.umount();
}
