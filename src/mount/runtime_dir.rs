//! The runtime directory: one control socket for each mount of this user.
//!
//! Owns where it is, that nobody else can put anything into it, the names of sockets, and what a socket that nobody
//! listens on means. Does not own what is said over them.
//!
//! Invariant: a socket is bound or asked only in a directory that belongs to its user alone.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Environment, private_dir};

#[derive(Debug, Error)]
pub enum RuntimeError {
    #[error("runtime directory {}: {why}", path.display())]
    Unusable { path: PathBuf, why: String },
    #[error(
        "another dripfs answers for {}: it is mounted already (`dripfs status`), or is just being unmounted",
        dir.display()
    )]
    InUse { dir: PathBuf },
}

/// Where the sockets of `uid` may be, the preferred place first.
pub fn candidates(env: Environment<'_>, uid: u32) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(xdg) = env("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute()) {
        places.push(xdg.join("dripfs"));
    }
    places.extend(places_of(uid));
    places.dedup();
    places
}

/// Where they are when the environment says nothing.
pub fn places_of(uid: u32) -> Vec<PathBuf> {
    let mut places =
        vec![PathBuf::from(format!("/run/user/{uid}/dripfs")), PathBuf::from(format!("/tmp/dripfs-{uid}"))];
    if uid == 0 {
        places.insert(0, PathBuf::from("/run/dripfs"));
    }
    places
}

/// Makes the runtime directory, 0700, in the first place that will do.
pub fn make(env: Environment<'_>, uid: u32) -> Result<PathBuf, RuntimeError> {
    let mut last = None;
    for path in candidates(env, uid) {
        match private_dir::make(&path, false, uid) {
            Ok(()) => return Ok(path),
            Err(e) => last = Some(RuntimeError::Unusable { path, why: e.to_string() }),
        }
    }
    Err(last.expect("there is always a candidate in /tmp"))
}

/// The socket of the mount on this canonical mount point.
pub fn socket_name(dir: &Path) -> String {
    let hash = blake3::hash(dir.as_os_str().as_bytes()).to_hex();
    format!("{}.sock", &hash.as_str()[..16])
}

/// Listens for the mount on `dir`; a socket that a dead process left is replaced.
pub fn bind(runtime: &Path, dir: &Path) -> Result<(UnixListener, PathBuf), RuntimeError> {
    let path = runtime.join(socket_name(dir));
    let fails = |e: io::Error| RuntimeError::Unusable { path: path.clone(), why: e.to_string() };
    let listener = match UnixListener::bind(&path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(&path).is_ok() {
                return Err(RuntimeError::InUse { dir: dir.to_owned() });
            }
            std::fs::remove_file(&path).map_err(fails)?;
            UnixListener::bind(&path).map_err(fails)?
        }
        other => other.map_err(fails)?,
    };
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(fails)?;
    listener.set_nonblocking(true).map_err(fails)?;
    Ok((listener, path))
}

/// What stands behind a mount point's socket.
#[derive(Debug)]
pub enum Found {
    Alive(UnixStream),
    /// There is a socket, but its process is gone.
    Dead,
    None,
}

/// Finds the process that serves `dir`. Root also looks where `owner`, the user who mounted it, would have it.
pub fn connect(env: Environment<'_>, me: u32, owner: Option<u32>, dir: &Path) -> Found {
    let mut places: Vec<(PathBuf, u32)> = candidates(env, me).into_iter().map(|place| (place, me)).collect();
    if let Some(owner) = owner.filter(|owner| me == 0 && *owner != 0) {
        places.extend(places_of(owner).into_iter().map(|place| (place, owner)));
    }
    let mut found = Found::None;
    for (place, uid) in places {
        let path = place.join(socket_name(dir));
        if private_dir::check(&place, uid).is_err() || !path.exists() {
            continue;
        }
        match UnixStream::connect(&path) {
            Ok(stream) => return Found::Alive(stream),
            Err(_) => found = Found::Dead,
        }
    }
    found
}

/// All mounts of this user that answer. Sockets of dead processes are removed on the way.
pub fn all(env: Environment<'_>, uid: u32) -> Vec<UnixStream> {
    let mut streams = Vec::new();
    for place in candidates(env, uid) {
        if private_dir::check(&place, uid).is_err() {
            continue;
        }
        let Ok(entries) = std::fs::read_dir(&place) else { continue };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "sock")) {
            match UnixStream::connect(&path) {
                Ok(stream) => streams.push(stream),
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    // A race with another removal is no harm.
                    let _ = std::fs::remove_file(&path);
                }
                Err(_) => {}
            }
        }
    }
    streams
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn me() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn the_place_follows_xdg_then_run_then_tmp() {
        let shown = |places: Vec<PathBuf>| places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>();
        let xdg = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| "/run/user/7".into());
        assert_eq!(shown(candidates(&xdg, 7)), ["/run/user/7/dripfs", "/tmp/dripfs-7"]);
        assert_eq!(shown(candidates(&|_| None, 0)), ["/run/dripfs", "/run/user/0/dripfs", "/tmp/dripfs-0"]);
    }

    #[test]
    fn a_dead_socket_is_told_apart_and_replaced_and_a_live_one_is_not() {
        let runtime = tempfile::tempdir().unwrap();
        let base = runtime.path().to_owned();
        let place = base.join("dripfs");
        private_dir::make(&place, false, me()).unwrap();
        let env = move |name: &str| (name == "XDG_RUNTIME_DIR").then(|| base.clone().into_os_string());
        let dir = Path::new("/mnt/x");
        assert!(matches!(connect(&env, me(), None, dir), Found::None));
        let (listener, path) = bind(&place, dir).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(connect(&env, me(), None, dir), Found::Alive(_)));
        assert!(matches!(bind(&place, dir), Err(RuntimeError::InUse { .. })));
        drop(listener);
        assert!(matches!(connect(&env, me(), None, dir), Found::Dead));
        let (listener, _) = bind(&place, dir).unwrap();
        assert!(matches!(connect(&env, me(), None, dir), Found::Alive(_)));
        assert!(path.exists());
        drop(listener);
        all(&env, me());
        assert!(!path.exists(), "the socket of a dead process was swept");
    }
}
