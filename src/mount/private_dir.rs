//! Directories that nobody else may look into: of the state, and of sockets.
//!
//! Invariant: one that stands already, made by somebody else to listen in, is refused; it may lie in /tmp.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use thiserror::Error;

#[derive(Debug, Error)]
pub enum PrivateDirError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("is not a directory")]
    NotDirectory,
    #[error("belongs to user {owner}, not to you ({uid})")]
    Foreign { owner: u32, uid: u32 },
}

/// Makes the directory of `uid` (mode 0700) where it is missing; with `parents`, those above it too.
pub fn make(path: &Path, parents: bool, uid: u32) -> Result<(), PrivateDirError> {
    match fs::DirBuilder::new().recursive(parents).mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e.into()),
        _ => {}
    }
    if check(path, uid)?.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Is this a directory (no symlink to one) that belongs to `uid`? Changes nothing.
pub fn check(path: &Path, uid: u32) -> Result<Metadata, PrivateDirError> {
    let meta = fs::symlink_metadata(path)?;
    match meta.uid() {
        _ if !meta.is_dir() => Err(PrivateDirError::NotDirectory),
        owner if owner != uid => Err(PrivateDirError::Foreign { owner, uid }),
        _ => Ok(meta),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_open_to_others_is_closed_and_a_symlink_or_a_strangers_is_refused() {
        let me = rustix::process::geteuid().as_raw();
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        make(&open, false, me).unwrap();
        assert_eq!(fs::metadata(&open).unwrap().mode() & 0o777, 0o700);
        std::os::unix::fs::symlink(&open, dir.path().join("link")).unwrap();
        assert!(matches!(make(&dir.path().join("link"), true, me), Err(PrivateDirError::NotDirectory)));
        assert!(matches!(make(&open, true, me + 1), Err(PrivateDirError::Foreign { .. })));
        assert!(matches!(make(&dir.path().join("a/b"), false, me), Err(PrivateDirError::Io(_))));
        make(&dir.path().join("a/b"), true, me).unwrap();
    }
}
