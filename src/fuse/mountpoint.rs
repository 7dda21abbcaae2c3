//! Mounting and unmounting. What can be wrong with a mount point beforehand is looked at in `mount::mountpoint`.
//!
//! Root mounts by mount(2); anybody else through the setuid helper fusermount3. fuser's own ways are not taken: as
//! root it loses the filesystem's subtype and gives up on a busy unmount, as a user it lets a comma in the source
//! begin another option, and on both it may unmount what somebody else mounted later at the same place.
//!
//! Invariant: what is unmounted is what was mounted here, told by its device number.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use thiserror::Error;

use super::mount_table::{Mount, mounted_on};
use super::options::MountOptions;

const DEVICE: &str = "/dev/fuse";

/// A desktop's indexer or a shell on its way out keeps a mount busy for moments; only then is it detached lazily.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Why the drive could not be mounted or unmounted.
#[derive(Debug, Error)]
pub enum MountError {
    #[error("you may not mount on {}: you need to be able to write to it", .0.display())]
    Denied(PathBuf),
    #[error("/dev/fuse is missing: load the module (modprobe fuse); in a container, pass --device /dev/fuse")]
    NoDevice,
    #[error(
        "/dev/fuse cannot be opened: {0}; have root run `chmod 666 /dev/fuse` (as most systems do at their start), or mount \
         as root; in a container, pass --device /dev/fuse"
    )]
    DeviceClosed(io::Error),
    #[error("no permission to mount: {0}; in a container, pass --device /dev/fuse --cap-add SYS_ADMIN")]
    NotPermitted(String),
    #[error("fusermount3 was not found, and only root can mount without it: install the package fuse3")]
    NoHelper,
    #[error(
        "allow_other needs the line user_allow_other in /etc/fuse.conf when it is not root who mounts: add it there, or leave the option out"
    )]
    AllowOther,
    #[error("{what}: {source}")]
    System { what: String, source: io::Error },
}

impl MountError {
    pub(super) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> MountError {
        MountError::System { what: what.into(), source: source.into() }
    }
}

/// How an unmount went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmounted {
    /// Nobody used it any more.
    Clean,
    /// It was busy: it left the tree, and ends when the last user closes their files.
    Lazily,
    /// Somebody had unmounted it before.
    Before,
}

/// A mount that stands, and the kernel's end of it.
pub(super) struct Attached {
    pub device: OwnedFd,
    pub place: Place,
    /// Whether further descriptors for the same mount can be had (one for each thread).
    pub can_clone: bool,
}

/// Where something is mounted, and what.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub path: PathBuf,
    device: String,
    /// The kernel's number of the connection.
    connection: Option<u32>,
}

/// Can this user mount at all? Asked before anything else is.
pub fn available() -> Result<(), MountError> {
    open_device(Path::new(DEVICE))?;
    if !rustix::process::geteuid().is_root() {
        helper_program(std::env::var_os("PATH"))?;
    }
    Ok(())
}

fn open_device(device: &Path) -> Result<File, MountError> {
    File::options().read(true).write(true).open(device).map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => MountError::NoDevice,
        _ => MountError::DeviceClosed(e),
    })
}

/// Mounts an empty connection. The kernel then waits for the handshake.
pub(super) fn attach(options: &MountOptions) -> Result<Attached, MountError> {
    let path = options.mountpoint.clone();
    let (device, can_clone) = if rustix::process::geteuid().is_root() {
        (mount_as_root(&path, options)?, true)
    } else {
        let can_clone = File::options().read(true).write(true).open(DEVICE).is_ok();
        (mount_as_user(&path, options)?, can_clone)
    };
    match topmost(&path)? {
        Some(mount) => {
            let connection = mount.connection();
            Ok(Attached { device, place: Place { path, device: mount.device, connection }, can_clone })
        }
        None => Err(MountError::system(
            format!("cannot mount on {}", path.display()),
            io::Error::other("it vanished at once"),
        )),
    }
}

fn mount_as_root(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let device = open_device(Path::new(DEVICE))?;
    let words = format!("fd={},rootmode=40000,user_id=0,group_id=0,{}", device.as_raw_fd(), options.fuse_words());
    let words = CString::new(words).expect("options hold no zero byte");
    match rustix::mount::mount(options.url.as_str(), path, "fuse.dripfs", options.flags(), words.as_c_str()) {
        Ok(()) => Ok(device.into()),
        Err(Errno::PERM | Errno::ACCESS) => Err(MountError::NotPermitted("the kernel refused mount(2)".into())),
        Err(Errno::NODEV) => Err(MountError::NoDevice),
        Err(e) => Err(MountError::system(format!("cannot mount on {}", path.display()), e)),
    }
}

/// fusermount3 mounts, and passes the descriptor back over a socket that it finds as its standard input.
fn mount_as_user(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let (ours, theirs) = UnixStream::pair().map_err(|e| MountError::system("cannot make a socket", e))?;
    let words = options.fusermount_words();
    let mut child = helper(&["-o".as_ref(), words.as_ref(), "--".as_ref(), path.as_os_str()], Some(theirs))?;
    let received = receive(&ours);
    let mut said = String::new();
    if let Some(stderr) = &mut child.stderr {
        let _ = stderr.read_to_string(&mut said);
    }
    let status = child.wait().map_err(|e| MountError::system("cannot wait for fusermount3", e))?;
    match received {
        Ok(Some(device)) if status.success() => Ok(device),
        Ok(_) => Err(explain(path, said.trim())),
        Err(e) => Err(MountError::system("cannot take over the mount from fusermount3", e)),
    }
}

/// What fusermount3 complained of.
fn explain(path: &Path, said: &str) -> MountError {
    if said.contains("user_allow_other") {
        MountError::AllowOther
    } else if said.contains("write access") || said.contains("not owned by") {
        MountError::Denied(path.to_owned())
    } else if said.contains("failed to open /dev/fuse") && said.contains("No such") {
        MountError::NoDevice
    } else if said.contains("Permission denied") || said.contains("Operation not permitted") {
        MountError::NotPermitted(said.to_owned())
    } else {
        MountError::system(format!("cannot mount on {}", path.display()), io::Error::other(said.to_owned()))
    }
}

/// Starts fusermount3, with a socket as its standard input if there is one.
fn helper(arguments: &[&OsStr], socket: Option<UnixStream>) -> Result<Child, MountError> {
    let program = helper_program(std::env::var_os("PATH"))?;
    let mut command = Command::new(&program);
    command.args(arguments).env("_FUSE_COMMFD", "0").env("LC_ALL", "C");
    command.stdin(socket.map_or_else(Stdio::null, |socket| OwnedFd::from(socket).into()));
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    child.map_err(|e| MountError::system(format!("cannot run {}", program.display()), e))
}

/// Where fusermount3 is: PATH may be unset in a service, or lack the usual places.
fn helper_program(path: Option<OsString>) -> Result<PathBuf, MountError> {
    let usual = ["/usr/bin", "/bin", "/usr/local/bin"].map(PathBuf::from);
    let path = path.unwrap_or_default();
    let mut programs = std::env::split_paths(&path).chain(usual).map(|dir| dir.join("fusermount3"));
    programs.find(|program| program.is_absolute() && program.is_file()).ok_or(MountError::NoHelper)
}

/// The descriptor that comes over the socket; `None` if its other end closes without sending one.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    loop {
        let mut buffers = [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(_) => break,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        }
    }
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(descriptor)
}

/// Takes the mount out of the tree: cleanly, or lazily if it stays busy. Blocks for up to a second.
pub(super) fn detach(place: &Place) -> Result<Unmounted, MountError> {
    for _ in 0..BUSY_TRIES {
        if !still_there(place)? {
            return Ok(Unmounted::Before);
        }
        if unmount(place, false)? {
            return Ok(Unmounted::Clean);
        }
        std::thread::sleep(BUSY_PAUSE);
    }
    detach_now(place)
}

/// Takes the mount out of the tree at once, busy or not.
pub(super) fn detach_now(place: &Place) -> Result<Unmounted, MountError> {
    if !still_there(place)? || unmount(place, true)? {
        return Ok(Unmounted::Lazily);
    }
    Err(MountError::system(format!("cannot unmount {}", place.path.display()), io::Error::from(Errno::BUSY)))
}

/// Ends the connection, whoever still uses it: their next operation fails. Needs fusectl, which containers lack.
pub(super) fn abort(place: &Place) -> Result<(), MountError> {
    let Some(connection) = place.connection else {
        return Err(MountError::system("the connection cannot be cut", io::Error::other("its number is not known")));
    };
    let file = format!("/sys/fs/fuse/connections/{connection}/abort");
    // Only if it is there: in an ordinary directory a file would come to be.
    let written = File::options().write(true).open(&file).and_then(|mut file| file.write_all(b"1"));
    written.map_err(|e| MountError::system(format!("the connection cannot be cut: {file}"), e))
}

fn topmost(path: &Path) -> Result<Option<Mount>, MountError> {
    mounted_on(path).map_err(|e| MountError::system("cannot read the mount table /proc/self/mountinfo", e))
}

fn still_there(place: &Place) -> Result<bool, MountError> {
    Ok(topmost(&place.path)?.is_some_and(|mount| mount.device == place.device))
}

/// False if it is busy.
fn unmount(place: &Place, lazily: bool) -> Result<bool, MountError> {
    if !rustix::process::geteuid().is_root() {
        return unmount_as_user(place, lazily);
    }
    let flags = if lazily { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(&place.path, flags | UnmountFlags::NOFOLLOW) {
        // EINVAL: somebody else was faster.
        Ok(()) | Err(Errno::INVAL) => Ok(true),
        Err(Errno::BUSY) => Ok(false),
        Err(e) => Err(MountError::system(format!("cannot unmount {}", place.path.display()), e)),
    }
}

fn unmount_as_user(place: &Place, lazily: bool) -> Result<bool, MountError> {
    let flags = if lazily { "-uz" } else { "-u" };
    let child = helper(&[flags.as_ref(), "--".as_ref(), place.path.as_os_str()], None)?;
    let output = child.wait_with_output().map_err(|e| MountError::system("cannot wait for fusermount3", e))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() || !still_there(place)? {
        true => Ok(true),
        false if said.contains("busy") => Ok(false),
        false => {
            let what = format!("cannot unmount {}", place.path.display());
            // Small containers lack it, and fusermount3 then mounts, but does not unmount.
            let cure =
                if said.contains("/etc/mtab") { "; have root run `ln -s /proc/self/mounts /etc/mtab`" } else { "" };
            Err(MountError::system(what, io::Error::other(format!("{}{cure}", said.trim()))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fusermount_says_becomes_an_error_with_a_way_out() {
        let path = Path::new("/mnt");
        let said = "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        assert!(explain(path, said).to_string().contains("/etc/fuse.conf"));
        let said = "fusermount3: user has no write access to mountpoint /mnt";
        assert!(matches!(explain(path, said), MountError::Denied(_)));
        assert!(explain(path, "something new").to_string().ends_with("something new"));
    }

    #[test]
    fn a_missing_device_and_one_that_is_closed_are_told_apart() {
        assert!(matches!(open_device(Path::new("/no/such/device")), Err(MountError::NoDevice)));
        // A directory cannot be opened for writing: the nearest to a device that is refused.
        assert!(matches!(open_device(Path::new("/")), Err(MountError::DeviceClosed(_))));
    }

    #[test]
    fn the_helper_is_found_in_path_first_and_without_it_too() {
        let dir = tempfile::tempdir().unwrap();
        let mine = dir.path().join("fusermount3");
        std::fs::write(&mine, b"").unwrap();
        assert_eq!(helper_program(Some(dir.path().into())).unwrap(), mine);
        let without = [None, Some(OsString::new()), Some("/no/such/dir".into())].map(|path| helper_program(path).ok());
        assert!(without.windows(2).all(|two| two[0] == two[1]), "{without:?}");
        assert_eq!(
            without[0].is_some(),
            ["/usr/bin", "/bin", "/usr/local/bin"].iter().any(|dir| { Path::new(dir).join("fusermount3").is_file() })
        );
    }
}
