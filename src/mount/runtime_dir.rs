//! The runtime directory: one control socket for each mount of this user.
//!
//! Owns where it is, that nobody else can put anything into it, the names of sockets, and what a socket that nobody
//! listens on means. Does not own what is said over them.
//!
//! Invariant: a socket is bound or asked only in a directory that belongs to its user alone.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
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

/// A socket that is listened on: its file goes when this does.
#[derive(Debug)]
pub struct Socket {
    runtime: PathBuf,
    path: PathBuf,
    /// The file itself: by now another process may have put its own there. Held, so that its number is not given anew.
    file: File,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // One that stays is recognised as dead by the next who wants to bind it.
        if let Ok(_turn) = turn(&self.runtime)
            && let (Ok(mine), Ok(there)) = (self.file.metadata(), std::fs::symlink_metadata(&self.path))
            && (mine.dev(), mine.ino()) == (there.dev(), there.ino())
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whoever binds or removes a socket holds this lock of the directory. A socket that refuses is dead only then:
/// another may be bound and not yet listened on.
fn turn(runtime: &Path) -> io::Result<File> {
    let directory = File::open(runtime)?;
    directory.lock()?;
    Ok(directory)
}

/// Listens for the mount on `dir`; a socket that a dead process left is replaced.
pub fn bind(runtime: &Path, dir: &Path) -> Result<(UnixListener, Socket), RuntimeError> {
    let path = runtime.join(socket_name(dir));
    let fails = |e: io::Error| RuntimeError::Unusable { path: path.clone(), why: e.to_string() };
    let _turn = turn(runtime).map_err(fails)?;
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
    let mut only_named = File::options();
    only_named.read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW);
    let file = only_named.open(&path).map_err(fails)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(fails)?;
    listener.set_nonblocking(true).map_err(fails)?;
    let runtime = runtime.to_owned();
    Ok((listener, Socket { runtime, path, file }))
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
        if private_dir::check(&place, uid).is_err() {
            continue;
        }
        let path = place.join(socket_name(dir));
        match ask(&path, uid) {
            Ok(stream) => return Found::Alive(stream),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => found = Found::Dead,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => log::warn!("{}: {e}", path.display()),
        }
    }
    found
}

/// Connects to a socket in a place of `uid`'s, if it is `uid` who listens. Whoever may write to the place could have
/// put there a way to somebody else's socket, where root would be heard.
fn ask(path: &Path, uid: u32) -> io::Result<UnixStream> {
    let wrong = |why: String| io::Error::new(io::ErrorKind::PermissionDenied, why);
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(wrong("not a socket; it is left alone".into()));
    }
    let stream = UnixStream::connect(path)?;
    match listener_of(&stream)? {
        owner if owner == uid => Ok(stream),
        owner => Err(wrong(format!("user {owner} listens there, and not user {uid}; it is left alone"))),
    }
}

/// Who listened at the other end. (rustix has no place for the process number 0, which a process of another namespace
/// shows.)
fn listener_of(stream: &UnixStream) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of_val(&peer) as libc::socklen_t;
    let out = (&raw mut peer).cast();
    // SAFETY: `out` has room for `len` bytes, and any bytes are a valid ucred.
    match unsafe { libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, out, &mut len) } {
        0 => Ok(peer.uid),
        _ => Err(io::Error::last_os_error()),
    }
}

/// All mounts of this user that answer.
pub fn all(env: Environment<'_>, uid: u32) -> Vec<UnixStream> {
    candidates(env, uid).iter().flat_map(|place| all_in(place, uid)).collect()
}

fn all_in(place: &Path, uid: u32) -> Vec<UnixStream> {
    if private_dir::check(place, uid).is_err() {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir(place) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let sockets = paths.iter().filter(|path| path.extension().is_some_and(|e| e == "sock"));
    sockets.filter_map(|path| ask(path, uid).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

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
        let (listener, socket) = bind(&place, dir).unwrap();
        let path = socket.path.clone();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(connect(&env, me(), None, dir), Found::Alive(_)));
        assert!(matches!(bind(&place, dir), Err(RuntimeError::InUse { .. })));
        drop(listener);
        assert!(matches!(connect(&env, me(), None, dir), Found::Dead));
        assert!(all_in(&place, me()).is_empty());
        let (listener, later) = bind(&place, dir).unwrap();
        assert!(matches!(connect(&env, me(), None, dir), Found::Alive(_)));
        drop(socket);
        assert!(path.exists(), "the file is another's by now");
        drop((listener, later));
        assert!(!path.exists(), "a mount takes its socket along");
    }

    /// A socket that is bound, and not listened on yet.
    fn bound(path: &Path) -> OwnedFd {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        socket
    }

    #[test]
    fn a_socket_that_is_just_being_made_survives_who_looks_for_others() {
        let runtime = tempfile::tempdir().unwrap();
        let path = runtime.path().join(socket_name(Path::new("/mnt/x")));
        let socket = bound(&path);
        assert!(all_in(runtime.path(), me()).is_empty() && path.exists());
        rustix::net::listen(&socket, 1).unwrap();
        assert_eq!(all_in(runtime.path(), me()).len(), 1);
    }

    #[test]
    fn only_the_owner_of_the_place_is_spoken_to_and_no_symlink_followed() {
        let runtime = tempfile::tempdir().unwrap();
        let dir = Path::new("/mnt/x");
        let (_listener, socket) = bind(runtime.path(), dir).unwrap();
        ask(&socket.path, me()).unwrap();
        let stranger = ask(&socket.path, me() + 1).unwrap_err().to_string();
        assert!(stranger.contains("left alone"), "{stranger}");
        let link = runtime.path().join("link.sock");
        std::os::unix::fs::symlink(&socket.path, &link).unwrap();
        assert!(ask(&link, me()).unwrap_err().to_string().contains("not a socket"));
    }
}
