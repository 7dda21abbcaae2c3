//! The state directory: everything local of one vault (journal, pin, log, lock).
//!
//! Owns which directory it is, that it is private, on a disk that keeps what was fsynced, and used by one process.
//! Does not own what lies in it; but it can tell whether a vault was ever seen (the pin).
//!
//! Invariant: one directory a vault; only the holder of [`Lock`] touches what is in it. `mount::serve` takes the lock
//! before it opens a [`super::drive::Drive`]; the drive takes none.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::private_dir::PrivateDirError;
use super::{Environment, private_dir};
use crate::base::disk;
use crate::vault::VaultError;

/// What the vault room writes its pin to.
const PIN: &str = "pin";
const LOCK: &str = "lock";
/// What a mount in the background writes its log to.
pub const LOG: &str = "log";

/// The state directory of a vault: below `explicit` or the default place, named by the hash of the canonical URL.
pub fn choose(explicit: Option<&Path>, url: &str, env: Environment<'_>, root: bool) -> Result<PathBuf, VaultError> {
    let base = match explicit {
        Some(path) => std::path::absolute(path).map_err(|e| failed(path, e.to_string()))?,
        None => default_base(env, root)?,
    };
    let hash = blake3::hash(url.as_bytes()).to_hex();
    Ok(base.join(&hash.as_str()[..32]))
}

fn default_base(env: Environment<'_>, root: bool) -> Result<PathBuf, VaultError> {
    // The XDG specification: a relative path is to be ignored.
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // A service's own, as systemd tells it: one, or several with colons between them.
    if let Some(state) = absolute("STATE_DIRECTORY").filter(|path| !path.as_os_str().as_bytes().contains(&b':')) {
        return Ok(state);
    }
    if let Some(state) = absolute("XDG_STATE_HOME") {
        return Ok(state.join("dripfs"));
    }
    if let Some(home) = absolute("HOME") {
        return Ok(home.join(".local/state/dripfs"));
    }
    if root {
        return Ok(PathBuf::from("/var/lib/dripfs"));
    }
    Err(failed(Path::new("?"), "neither XDG_STATE_HOME nor HOME is set: give one with --state DIR".into()))
}

/// Makes the directory (0700) where it is missing, and checks that it will do.
pub fn prepare(path: &Path) -> Result<(), VaultError> {
    refuse_network(path)?;
    private_dir::make(path, true, rustix::process::geteuid().as_raw()).map_err(|error| {
        let why = match &error {
            PrivateDirError::Io(e) => explain(e),
            _ => error.to_string(),
        };
        failed(path, why)
    })?;
    // Its name, and those above it, survive a power cut.
    disk::make_dirs(path).map_err(|e| failed(path, explain(&e)))?;
    try_writing(path).map_err(|e| failed(path, explain(&e)))
}

/// A full or read-only disk shows now, with its name, and not as a failed journal later.
fn try_writing(path: &Path) -> io::Result<()> {
    let probe = path.join(format!("probe.{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&probe)?;
        file.write_all(&[0; 4096])?;
        file.sync_data()
    })();
    let removed = fs::remove_file(&probe);
    written.and(removed)
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "its disk is full: make room, or choose another place with --state DIR".into()
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "it is on a read-only filesystem: choose another place with --state DIR".into()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied: make it yours, or choose another place with --state DIR".into()
        }
        _ => error.to_string(),
    }
}

fn failed(path: &Path, why: String) -> VaultError {
    VaultError::State { path: path.display().to_string(), why }
}

/// Is it on a filesystem whose bytes lie on another machine?
pub fn refuse_network(path: &Path) -> Result<(), VaultError> {
    let standing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let kind = rustix::fs::statfs(standing).map_err(|e| failed(path, io::Error::from(e).to_string()))?.f_type;
    // Magic numbers have 32 bits; the field's width and sign depend on the platform.
    match network_filesystem(kind as u32) {
        Some(name) => Err(failed(
            path,
            format!(
                "it is on {name}, where neither fsync nor file locks can be relied on: choose a local disk with \
                 --state DIR"
            ),
        )),
        None => Ok(()),
    }
}

/// Filesystems whose bytes lie elsewhere, by the magic number of statfs(2).
fn network_filesystem(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x0000_6969 => "nfs",
        0x0000_517b | 0xff53_4d42 | 0xfe53_4d42 => "cifs/smb",
        0x0102_1997 => "9p",
        0x00c3_6400 => "ceph",
        0x5346_414f | 0x6b41_4653 => "afs",
        0x7375_7245 => "coda",
        0x0000_564c => "ncp",
        0x0bd0_0bd0 => "lustre",
        0x7461_636f => "ocfs2",
        0x0116_1970 => "gfs2",
        0x4750_4653 => "gpfs",
        0x1983_0326 => "beegfs",
        0x786f_4256 => "vboxsf",
        0x6573_5546 => "fuse",
        _ => return None,
    })
}

/// The only user of a state directory; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the directory for this process.
pub fn lock(path: &Path) -> Result<Lock, VaultError> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path.join(LOCK));
    let file = file.map_err(|e| failed(path, explain(&e)))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(VaultError::StateInUse { path: path.display().to_string() }),
        Err(TryLockError::Error(e)) => Err(failed(path, format!("it cannot be locked: {e}"))),
    }
}

/// Has this machine ever seen the vault that the directory is for?
pub fn has_pin(path: &Path) -> Result<bool, VaultError> {
    path.join(PIN).try_exists().map_err(|e| failed(path, explain(&e)))
}

/// Refuses to make a vault where this machine knows one: it vanished, or the provider hides it.
pub fn refuse_if_known(path: &Path, url: &str) -> Result<(), VaultError> {
    if !has_pin(path)? {
        return Ok(());
    }
    Err(VaultError::Tampered(format!(
        "a vault that this machine knows stood at {url}, and it is gone: is the right disk mounted, the spelling \
         right? No new one is made in its place. To begin anew there all the same, first move {} away (it may hold \
         files that never reached the vault)",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn env(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into())
    }

    #[test]
    fn the_place_follows_xdg_then_home_then_var_lib() {
        let base = |pairs, root| default_base(&env(pairs), root).map(|p| p.display().to_string());
        assert_eq!(base(&[("XDG_STATE_HOME", "/x"), ("HOME", "/h")], true).unwrap(), "/x/dripfs");
        assert_eq!(base(&[("XDG_STATE_HOME", "x"), ("HOME", "/h")], true).unwrap(), "/h/.local/state/dripfs");
        assert_eq!(base(&[], true).unwrap(), "/var/lib/dripfs");
        assert!(base(&[], false).unwrap_err().to_string().contains("--state DIR"));
    }

    #[test]
    fn each_vault_has_its_own_directory() {
        let none = env(&[]);
        let at = |url| choose(Some(Path::new("/s")), url, &none, false).unwrap();
        let (a, b) = (at("file:///a"), at("file:///b"));
        assert_ne!(a, b);
        assert_eq!(a, at("file:///a"));
        assert_eq!(a.parent().unwrap(), Path::new("/s"));
        assert_eq!(a.file_name().unwrap().len(), 32);
    }

    #[test]
    fn it_is_made_private_and_used_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        prepare(&state).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
        prepare(&state).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
        let held = lock(&state).unwrap();
        assert!(matches!(lock(&state), Err(VaultError::StateInUse { .. })));
        drop(held);
        lock(&state).unwrap();
    }

    #[test]
    fn network_filesystems_are_refused_and_local_ones_are_not() {
        assert_eq!(network_filesystem(0x6969), Some("nfs"));
        assert_eq!(network_filesystem(0xfe53_4d42), Some("cifs/smb"));
        assert_eq!(network_filesystem(0x6573_5546), Some("fuse"));
        // ext4, tmpfs, btrfs, xfs, overlay.
        for local in [0xef53, 0x0102_1994, 0x9123_683e, 0x5846_5342, 0x794c_7630] {
            assert_eq!(network_filesystem(local), None);
        }
    }

    #[test]
    fn a_known_vault_that_vanished_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        refuse_if_known(dir.path(), "file:///v").unwrap();
        fs::write(dir.path().join(PIN), b"x").unwrap();
        let error = refuse_if_known(dir.path(), "file:///v").unwrap_err();
        assert!(matches!(&error, VaultError::Tampered(why) if why.contains("file:///v")), "{error}");
    }

    #[test]
    fn a_file_in_its_place_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(prepare(file.path()), Err(VaultError::State { .. })));
    }

    #[test]
    fn a_full_and_a_read_only_disk_name_the_way_out() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::ReadOnlyFilesystem] {
            assert!(explain(&io::Error::from(kind)).contains("--state DIR"));
        }
    }
}
