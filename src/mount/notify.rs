//! What systemd wants to hear from a service of Type=notify (sd_notify(3)). Silent everywhere else.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use super::Environment;
use super::drive::Progress;

/// The mount answers.
pub fn ready(dir: &Path) {
    send(&format!("READY=1\nSTATUS=serving {}", dir.display()));
}

/// One line for people.
pub fn status(line: &str) {
    send(&format!("STATUS={}", line.replace('\n', " ")));
}

/// What can be read anew is being read; [`ready`] ends it.
pub fn reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
    send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

/// No more writes; the drain began.
pub fn stopping() {
    send("STOPPING=1\nSTATUS=draining");
}

/// The drain goes on: systemd is to wait this many seconds more.
pub fn extend(seconds: u64, pending: Progress) {
    let Progress { pending_files, pending_bytes } = pending;
    let micros = seconds * 1_000_000;
    send(&format!("EXTEND_TIMEOUT_USEC={micros}\nSTATUS=draining: {pending_files} files, {pending_bytes} bytes left"));
}

/// A request went all the way through the drive and back.
pub fn alive() {
    send("WATCHDOG=1");
}

/// How often that must be, if anybody counts on it.
pub fn watchdog(env: Environment<'_>, pid: u32) -> Option<Duration> {
    let text = |name: &str| env(name)?.into_string().ok();
    let is_ours = text("WATCHDOG_PID").is_none_or(|of| of.parse() == Ok(pid));
    let micros = text("WATCHDOG_USEC")?.parse().ok().filter(|micros| *micros > 0 && is_ours)?;
    Some(Duration::from_micros(micros))
}

/// Does somebody listen?
pub fn is_wanted() -> bool {
    super::environment("NOTIFY_SOCKET").is_some()
}

fn send(state: &str) {
    let Some(socket) = super::environment("NOTIFY_SOCKET") else { return };
    // Whether systemd listens changes nothing for the mount.
    if let Err(e) = send_to(&socket, state) {
        log::debug!("NOTIFY_SOCKET: {e}");
    }
}

fn send_to(socket: &OsStr, state: &str) -> std::io::Result<()> {
    let address = match socket.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let socket = UnixDatagram::unbound()?;
    // One that is full or that nobody reads holds up nothing here.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_arrives_by_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send_to(path.as_os_str(), "READY=1").unwrap();
        let mut got = [0; 16];
        let n = socket.recv(&mut got).unwrap();
        assert_eq!(&got[..n], b"READY=1");
    }

    #[test]
    fn a_socket_that_nobody_reads_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _full = UnixDatagram::bind(&path).unwrap();
        let refused = (0..100_000).any(|_| send_to(path.as_os_str(), "STATUS=x").is_err());
        assert!(refused, "it blocked nowhere, and told when it was full");
    }

    #[test]
    fn a_watchdog_for_another_process_is_none() {
        let env = |name: &str| match name {
            "WATCHDOG_USEC" => Some("2000000".into()),
            "WATCHDOG_PID" => Some("7".into()),
            _ => None,
        };
        assert_eq!(watchdog(&env, 7), Some(Duration::from_secs(2)));
        assert_eq!(watchdog(&env, 8), None);
        assert_eq!(watchdog(&|name| (name == "WATCHDOG_USEC").then(|| "0".into()), 8), None);
    }
}
