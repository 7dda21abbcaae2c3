//! What is wrong on the way to a drive, one test each: the exit code, the telling part of the message, and that
//! nothing was changed or lost.
//!
//! What needs root (another user, a full disk, a missing device) happens in a mount namespace of its own, so that
//! nothing outside changes and nothing is left. Owns the helpers for that; the harness is tests/common.

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod device;
mod elsewhere;
mod epochs;
mod index;
mod mountpoint;
mod newcomer;
mod passphrase;
mod state;
mod urls;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Vault, is_root, run, skip, succeed};

/// The cheapest passphrase KDF that is accepted: tests mount often.
pub const CHEAP: [&str; 2] = ["--kdf-memory", "64"];
const KEPT: &[u8] = b"what was there before";

/// A vault with one file in it, unmounted.
pub fn sound_vault() -> Option<Vault> {
    let mut vault = Vault::new()?;
    vault.mount_with(&CHEAP);
    fs::write(vault.mountpoint().join("kept"), KEPT).expect("a write");
    vault.umount();
    Some(vault)
}

/// It mounts, and what was in it is in it.
pub fn assert_sound(vault: &mut Vault) {
    vault.mount_with(&CHEAP);
    assert_eq!(fs::read(vault.mountpoint().join("kept")).expect("a read"), KEPT);
    vault.umount();
}

/// `dripfs mount` of this vault as the harness does it, but without `--init`, on `dir`.
pub fn mount_on(vault: &Vault, dir: &Path) -> Command {
    mount_with_state(vault, vault.state(), dir)
}

pub fn mount_with_state(vault: &Vault, state: &Path, dir: &Path) -> Command {
    let mut command = vault.dripfs(["mount", "--background"]);
    command.arg("--state").arg(state).arg(vault.remote()).arg(dir);
    command
}

/// The command fails with this code; returns what it said, in which all `parts` are found.
#[track_caller]
pub fn refused(command: &mut Command, code: i32, parts: &[&str]) -> String {
    check_refusal(&run(command), code, parts)
}

#[track_caller]
pub fn check_refusal(output: &Output, code: i32, parts: &[&str]) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "it said: {said}");
    assert!(said.starts_with("dripfs: "), "a message says whose it is: {said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    said
}

/// Everything below a directory: names, kinds and bytes.
pub fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut all = BTreeMap::new();
    let mut rest = vec![dir.to_owned()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(&dir).expect("a directory").flatten() {
            let path = entry.path();
            if entry.file_type().expect("a type").is_dir() {
                rest.push(path.clone());
                all.insert(path, None);
            } else {
                let bytes = fs::read(&path).expect("a file");
                all.insert(path, Some(bytes));
            }
        }
    }
    all
}

/// Root is needed to play another user or to mount a disk. Says `SKIPPED` where the tests run as somebody else.
pub fn needs_root() -> bool {
    match is_root() {
        true => true,
        false => {
            skip("needs root: it makes a mount namespace, a small disk or another user");
            false
        }
    }
}

/// Runs a shell script in mount and process namespaces of its own: what it mounts and starts ends with it. Its
/// arguments are `$1` and so on; the environment is that of `vault.dripfs`.
pub fn in_namespace(vault: &Vault, script: &str, arguments: &[&Path]) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]);
    command.args(["sh", "-c", &format!("set -e\n{script}"), "sh"]).args(arguments);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let runtime = vault.root().join("runtime");
    let _ = fs::create_dir(&runtime);
    command.env("HOME", vault.root().join("home")).env("XDG_RUNTIME_DIR", runtime);
    command.env("DRIPFS_PASSPHRASE_FILE", vault.passphrase_file()).env("DRIPFS", common::binary());
    run(&mut command)
}

/// A place that the user `nobody` can enter, with a copy of the binary, the vault and its passphrase.
pub struct Nobody {
    pub root: tempfile::TempDir,
}

/// How scripts below become nobody.
pub const AS_NOBODY: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups";

impl Nobody {
    pub fn with_copy_of(vault: &Vault) -> Nobody {
        let root = tempfile::tempdir().expect("room for a directory");
        let at = |name: &str| root.path().join(name);
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("our own directory");
        fs::copy(common::binary(), at("dripfs")).expect("room for the binary");
        succeed(Command::new("cp").arg("-a").arg(vault.remote()).arg(at("vault")));
        fs::copy(vault.passphrase_file(), at("passphrase")).expect("room for a passphrase");
        for name in ["mnt", "state", "home", "run"] {
            fs::create_dir(at(name)).expect("room for directories");
        }
        for name in ["vault", "passphrase", "mnt", "state", "home", "run"] {
            succeed(Command::new("chown").args(["-R", "65534:65534"]).arg(at(name)));
        }
        Nobody { root }
    }

    /// The script's `$1` is this place; `$MOUNT` mounts the vault on `mnt` in it as nobody.
    pub fn run(&self, vault: &Vault, script: &str) -> Output {
        let prelude = format!(
            r#"cd "$1"; export HOME="$1/home" XDG_RUNTIME_DIR="$1/run" DRIPFS_PASSPHRASE_FILE="$1/passphrase"
            MOUNT="{AS_NOBODY} $1/dripfs mount --background --state $1/state $1/vault $1/mnt""#
        );
        in_namespace(vault, &format!("{prelude}\n{script}"), &[self.root.path()])
    }
}
