//! FIFOs, sockets and device files.

use crate::common::{is_root, skip};
use crate::pair::{Pair, Times, need};

#[test]
fn fifos_carry_bytes() {
    let Some(pair) = Pair::new() else { return };
    pair.sh("mkfifo p; (echo through the pipe > p &); cat p; stat -c '%F %s' p; chmod 600 p; mv p q; cp -a q r");
    pair.compare(Times::Fresh);
}

#[test]
fn sockets_connect() {
    let Some(pair) = Pair::new() else { return };
    need(&["python3"]);
    pair.python(
        "import socket, os, stat
s = socket.socket(socket.AF_UNIX); s.bind('s'); s.listen()
c = socket.socket(socket.AF_UNIX); c.connect('s'); c.sendall(b'hello')
print(s.accept()[0].recv(5), stat.S_ISSOCK(os.stat('s').st_mode))
try: open('s')
except OSError as e: print(e.errno)",
    );
    pair.compare(Times::Fresh);
}

#[test]
fn device_files_are_kept() {
    let Some(pair) = Pair::new() else { return };
    if !is_root() {
        return skip("mknod needs root");
    }
    pair.sh("mknod c c 1 3; mknod b b 7 200; mknod big c 300 70000; stat -c '%F %t %T' c b big; cp -a c d; stat -c '%t %T' d");
    pair.compare(Times::Fresh);
}

#[test]
fn device_files_do_not_work() {
    let Some(pair) = Pair::new() else { return };
    if !is_root() {
        return skip("mknod needs root");
    }
    // The mount is nodev by default: the file is kept, the device is not opened.
    let opened = crate::common::run(&mut crate::pair::shell(&pair.drive, "mknod null c 1 3; echo x > null"));
    assert!(!opened.status.success(), "a device on the drive was opened");
}
