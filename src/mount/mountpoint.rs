//! The mount point: everything that can be wrong with it, each with its own message, before anything is unlocked.
//!
//! Owns the checks. Does not own mounting, nor the reading of the mount table.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use thiserror::Error;

use crate::fuse::mount_table;

pub use crate::fuse::mount_table::Mount;

#[derive(Debug, Error)]
pub enum MountpointError {
    #[error("{dir} does not exist: make it with `mkdir {dir}`", dir = .0.display())]
    Missing(PathBuf),
    #[error("{} is not a directory: a drive is mounted on an empty directory", .0.display())]
    NotDirectory(PathBuf),
    #[error(
        "{} is not empty: what lies there would be hidden under the drive; choose an empty directory", .0.display()
    )]
    NotEmpty(PathBuf),
    #[error(
        "a dripfs drive is mounted on {dir} already: see `dripfs status {dir}`, or unmount it with `dripfs umount \
         {dir}`",
        dir = .0.display()
    )]
    AlreadyOurs(PathBuf),
    #[error(
        "{dir} holds a vault: the vault comes first and then an empty directory, `dripfs mount {dir} DIR`",
        dir = .0.display()
    )]
    IsVault(PathBuf),
    #[error("another filesystem ({kind}) is mounted on {} already: choose another directory", dir.display())]
    AlreadyOther { dir: PathBuf, kind: String },
    #[error("you may not mount on {}: {why}", dir.display())]
    NotPermitted { dir: PathBuf, why: String },
    #[error(
        "{dir} is a dead mount, its process is gone (\"Transport endpoint is not connected\"): clear it with `{cure}`, \
         then mount again; nothing that was fsynced is lost",
        dir = dir.display()
    )]
    Dead { dir: PathBuf, cure: String },
    #[error("{} and the vault {} lie one in the other: choose a directory apart from the vault", dir.display(), vault.display())]
    Overlap { dir: PathBuf, vault: PathBuf },
    #[error(
        "{} was replaced meanwhile, it leads to {} now: is somebody else at work there?", dir.display(), now.display()
    )]
    Replaced { dir: PathBuf, now: PathBuf },
    #[error("{}: {why}", dir.display())]
    Other { dir: PathBuf, why: io::Error },
}

/// What clears a mount whose process is gone.
pub fn cure(dir: &Path) -> String {
    match rustix::process::geteuid().is_root() {
        true => format!("umount -l {}", dir.display()),
        false => format!("fusermount3 -uz {}", dir.display()),
    }
}

/// Takes away a mount whose process is gone; false if there is none. Anything else that is mounted there stays.
pub fn clear_dead(dir: &Path) -> io::Result<bool> {
    if !is_dead(dir) {
        return Ok(false);
    }
    if rustix::process::geteuid().is_root() {
        rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH)?;
        return Ok(true);
    }
    let status = std::process::Command::new("fusermount3").args(["-u", "-z", "--"]).arg(dir).status()?;
    match status.success() {
        true => Ok(true),
        false => Err(io::Error::other(format!("fusermount3 could not clear it ({status})"))),
    }
}

/// Makes the mount point and the directories above it, where they are missing.
pub fn make(dir: &Path) -> Result<(), MountpointError> {
    match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(MountpointError::NotPermitted {
            dir: dir.to_owned(),
            why: "it cannot be made: permission denied".into(),
        }),
        // A file in its place and a dead mount have better messages below.
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted
            ) =>
        {
            Ok(())
        }
        Err(why) => Err(MountpointError::Other { dir: dir.to_owned(), why }),
        Ok(()) => Ok(()),
    }
}

/// The one name of a mount point, also when its process is gone.
pub fn canonical(dir: &Path) -> io::Result<PathBuf> {
    dir.canonicalize().or_else(|error| {
        let whole = std::path::absolute(dir)?;
        match (whole.parent(), whole.file_name()) {
            (Some(parent), Some(name)) if error.kind() != io::ErrorKind::NotFound => {
                Ok(parent.canonicalize()?.join(name))
            }
            _ => Err(error),
        }
    })
}

/// Is this directory one to mount on? Returns its canonical name.
pub fn check(dir: &Path) -> Result<PathBuf, MountpointError> {
    let wrong = |e: io::Error| explain(dir, e);
    let whole = canonical(dir).map_err(wrong)?;
    // Before anything asks the filesystem that stands there: it may be dead, or hang.
    let mounted = mounted_on(&whole);
    if mounted.as_ref().is_some_and(Mount::is_trigger) {
        // Whoever asks it for anything waits for the very mount that is being made.
        return Ok(whole);
    }
    if let Some(mount) = &mounted
        && !mount.is_dripfs()
    {
        return Err(MountpointError::AlreadyOther { dir: whole, kind: mount.kind.clone() });
    }
    let meta = std::fs::metadata(&whole).map_err(|e| explain(&whole, e))?;
    if mounted.is_some() {
        return Err(match is_dead(&whole) {
            true => explain(&whole, io::ErrorKind::NotConnected.into()),
            false => MountpointError::AlreadyOurs(whole),
        });
    }
    if !meta.is_dir() {
        return Err(MountpointError::NotDirectory(whole));
    }
    if std::fs::read_dir(&whole).map_err(|e| explain(&whole, e))?.next().is_some() {
        // Who gives the two in the wrong order has a directory that is not empty.
        if ["header", "log", "checkpoint"].iter().all(|part| whole.join(part).is_dir()) {
            return Err(MountpointError::IsVault(whole));
        }
        return Err(MountpointError::NotEmpty(whole));
    }
    if !rustix::process::geteuid().is_root() && rustix::fs::access(&whole, Access::WRITE_OK).is_err() {
        let why = "you need to be able to write to it".into();
        return Err(MountpointError::NotPermitted { dir: whole, why });
    }
    Ok(whole)
}

/// [`check`] directly before mounting: much time may have passed since, over a passphrase or a long opening.
pub fn check_again(dir: &Path) -> Result<(), MountpointError> {
    let now = check(dir)?;
    match now == dir {
        true => Ok(()),
        false => Err(MountpointError::Replaced { dir: dir.to_owned(), now }),
    }
}

fn explain(dir: &Path, error: io::Error) -> MountpointError {
    let dir = dir.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => MountpointError::Missing(dir),
        io::ErrorKind::NotADirectory => MountpointError::NotDirectory(dir),
        io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted => {
            MountpointError::Dead { cure: cure(&dir), dir }
        }
        io::ErrorKind::PermissionDenied => MountpointError::NotPermitted { dir, why: "permission denied".into() },
        _ => MountpointError::Other { dir, why: error },
    }
}

/// A drive that lies in its own vault, or a vault on its own drive, would wait for itself.
pub fn check_apart(dir: &Path, vault_url: &str) -> Result<(), MountpointError> {
    // Compared as canonical URLs, which have one spelling for both.
    let path = |url: &str| url.strip_prefix("file://").map(PathBuf::from);
    let here = dir.to_str().and_then(|dir| crate::store::canonical_url(dir).ok());
    let (Some(vault), Some(here)) = (path(vault_url), here.as_deref().and_then(path)) else { return Ok(()) };
    match here.starts_with(&vault) || vault.starts_with(&here) {
        true => Err(MountpointError::Overlap { dir: dir.to_owned(), vault }),
        false => Ok(()),
    }
}

/// The filesystem that stands at this very directory. Without /proc the checks that ask the directory itself remain.
pub fn mounted_on(dir: &Path) -> Option<Mount> {
    mount_table::mounted_on(dir).ok().flatten()
}

/// The mount point of the drive that a path lies on; the path itself if it lies on none.
pub fn drive_of(path: &Path) -> PathBuf {
    let Ok(whole) = canonical(path) else { return path.to_owned() };
    let mounts = mount_table::mounts().unwrap_or_default().into_iter();
    // The longest is the innermost; of two at one place, the later covers the earlier.
    match mounts.filter(|mount| whole.starts_with(&mount.dir)).max_by_key(|mount| mount.dir.as_os_str().len()) {
        Some(mount) if mount.is_dripfs() => mount.dir,
        _ => path.to_owned(),
    }
}

/// Is the process that serves this mount gone? The kernel answers for attributes that it remembers, never for space.
/// A process that ends while it is asked aborts the question.
pub fn is_dead(dir: &Path) -> bool {
    use rustix::io::Errno;
    rustix::fs::statfs(dir).is_err_and(|e| matches!(e, Errno::NOTCONN | Errno::CONNABORTED))
}

/// All drives in the kernel's mount table.
pub fn drives() -> Vec<Mount> {
    mount_table::mounts().unwrap_or_default().into_iter().filter(Mount::is_dripfs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_is_wrong_has_its_own_error() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().canonicalize().unwrap();
        let error = check(&dir.join("missing")).unwrap_err();
        assert!(matches!(error, MountpointError::Missing(_)) && error.to_string().contains("mkdir"), "{error}");
        std::fs::write(dir.join("file"), b"").unwrap();
        assert!(matches!(check(&dir.join("file")), Err(MountpointError::NotDirectory(_))));
        assert!(matches!(check(&dir), Err(MountpointError::NotEmpty(_))));
        assert!(matches!(check(&dir.join("file/below")), Err(MountpointError::NotDirectory(_))));
        std::fs::create_dir(dir.join("good")).unwrap();
        std::os::unix::fs::symlink("good", dir.join("link")).unwrap();
        assert_eq!(check(&dir.join("link")).unwrap(), dir.join("good"));
        assert!(matches!(check(Path::new("/proc")), Err(MountpointError::AlreadyOther { kind, .. }) if kind == "proc"));
    }

    #[test]
    fn what_changed_since_the_first_look_is_found_by_the_second() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().canonicalize().unwrap();
        let at = |name: &str| dir.join(name);
        std::fs::create_dir_all(at("a/mnt")).unwrap();
        std::fs::create_dir_all(at("elsewhere/mnt")).unwrap();
        let mnt = check(&at("a/mnt")).unwrap();
        check_again(&mnt).unwrap();
        std::fs::write(mnt.join("file"), b"").unwrap();
        assert!(matches!(check_again(&mnt), Err(MountpointError::NotEmpty(_))));
        std::fs::remove_dir_all(at("a")).unwrap();
        std::os::unix::fs::symlink("elsewhere", at("a")).unwrap();
        let error = check_again(&mnt).unwrap_err();
        assert!(matches!(&error, MountpointError::Replaced { now, .. } if *now == at("elsewhere/mnt")), "{error}");
    }

    #[test]
    fn a_dead_mount_comes_with_its_cure() {
        let error = explain(Path::new("/mnt/x"), io::Error::from_raw_os_error(libc::ENOTCONN)).to_string();
        assert!(error.contains("Transport endpoint") && error.contains("/mnt/x`"), "{error}");
    }

    #[test]
    fn drive_and_vault_lie_apart() {
        for (dir, fits) in [("/v", false), ("/v/x", false), ("/", false), ("/vx", true), ("/mnt", true)] {
            assert_eq!(check_apart(Path::new(dir), "file:///v").is_ok(), fits, "{dir}");
        }
        check_apart(Path::new("/mnt"), "memory:///").unwrap();
    }
}
