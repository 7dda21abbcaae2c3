//! What systemd wants to hear from a service of Type=notify (sd_notify(3)). Silent everywhere else.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The mount answers.
pub fn ready(dir: &std::path::Path) {
    send(&format!("READY=1\nSTATUS=serving {}", dir.display()));
}

/// No more writes; the drain began.
pub fn stopping() {
    send("STOPPING=1\nSTATUS=draining");
}

/// The drain goes on: systemd is to wait this many seconds more.
pub fn extend(seconds: u64, pending_bytes: u64) {
    send(&format!("EXTEND_TIMEOUT_USEC={}\nSTATUS=draining, {pending_bytes} bytes left", seconds * 1_000_000));
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
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(|_| ())
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
}
