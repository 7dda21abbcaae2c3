//! A tree with one of everything that tools stumble over.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps, XattrFlags};

use crate::common::{is_root, noise};

/// Names that need not be text. Kept apart from the other files: not every tool takes them.
pub fn names() -> Vec<Vec<u8>> {
    let long = |last: u8| [vec![b'n'; 254], vec![last]].concat();
    let odd =
        [&b"with blank"[..], b"-dash", b"new\nline", "\u{fc}ml\u{e4}ut \u{1f600}".as_bytes(), b"\xff\xfe not UTF-8"];
    let odd = odd.into_iter().chain([&b"quote'\"`$x"[..], b"back\\slash", b"*", b" ", b"...", b"%2F"]);
    odd.map(<[u8]>::to_vec).chain([long(b'a'), long(b'b')]).collect()
}

pub fn make(top: &Path) {
    fs::create_dir(top).expect("room for a directory");
    sizes(&top.join("sizes"));
    many(&top.join("many"));
    links(&top.join("links"));
    modes(&top.join("modes"));
    odd_names(&top.join("names"));
    attributes(&top.join("xattrs"));
    special(&top.join("special"));
    for name in ["sizes", "many", "links", "modes", "names", "xattrs", "special"] {
        settle(&top.join(name), &mut 0);
    }
    times(&top.join("times"));
    set_time(top, 1_400_000_000, 123_456_000);
}

/// Gives everything below a time of its own, long past, the directory itself last: tools take what is as old as what
/// they just made for the same.
fn settle(path: &Path, count: &mut i64) {
    if fs::symlink_metadata(path).expect("made above").is_dir() {
        for entry in fs::read_dir(path).expect("made above") {
            settle(&entry.expect("made above").path(), count);
        }
    }
    *count += 1;
    set_time(path, 1_500_000_000 + *count, 123_456_000 + *count);
}

fn sizes(top: &Path) {
    fs::create_dir(top).expect("room for a directory");
    for size in [0, 1, 4095, 4096, 4097, 65_536, 131_073, 1 << 20, (4 << 20) + 1, 9_000_000] {
        fs::write(top.join(format!("{size:08}")), noise(size as u64, size)).expect("room for a file");
    }
    fs::write(top.join("text"), "the same line again\n".repeat(50_000)).expect("room for a file");
    let sparse = fs::File::create(top.join("sparse")).expect("room for a file");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"far away", 20 << 20).expect("room for a byte");
}

fn many(top: &Path) {
    for n in 0..300 {
        let directory = top.join(format!("{:02}/{}", n % 20, n % 3));
        fs::create_dir_all(&directory).expect("room for directories");
        fs::write(directory.join(format!("file-{n}")), format!("small file {n}\n")).expect("room for a file");
    }
    fs::create_dir_all(top.join("empty/in/empty")).expect("room for directories");
}

fn links(top: &Path) {
    fs::create_dir_all(top.join("below")).expect("room for directories");
    fs::write(top.join("first"), "one file, three names").expect("room for a file");
    fs::hard_link(top.join("first"), top.join("second")).expect("a hard link");
    fs::hard_link(top.join("first"), top.join("below/third")).expect("a hard link");
    symlink("first", top.join("relative")).expect("a symlink");
    symlink("below/../below/third", top.join("through")).expect("a symlink");
    symlink("/nonexistent/dripfs", top.join("dangling")).expect("a symlink");
    symlink("below", top.join("directory")).expect("a symlink");
    symlink("x".repeat(4000), top.join("long")).expect("a symlink");
    symlink(OsStr::from_bytes(b"\xff\xfe"), top.join("bytes")).expect("a symlink");
}

fn modes(top: &Path) {
    fs::create_dir(top).expect("room for a directory");
    for mode in [0o644, 0o600, 0o444, 0o755, 0o4755, 0o2755, 0o6711, 0o1644, 0o777] {
        let path = top.join(format!("file-{mode:04o}"));
        fs::write(&path, "x").expect("room for a file");
        own(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
    }
    for mode in [0o755, 0o700, 0o1777, 0o2775] {
        let path = top.join(format!("directory-{mode:04o}"));
        fs::create_dir(&path).expect("room for a directory");
        own(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
    }
}

/// Gives a file to somebody else, if that is ours to do.
fn own(path: &Path) {
    if is_root() {
        std::os::unix::fs::lchown(path, Some(1234), Some(4321)).expect("chown as root");
    }
}

fn times(top: &Path) {
    fs::create_dir(top).expect("room for a directory");
    for (n, (secs, nanos)) in
        [(0, 0), (1, 1), (1_234_567_890, 999_999_999), (-1, 500_000_000), (-86_400, 1), (4_102_444_800, 7)]
            .into_iter()
            .enumerate()
    {
        let path = top.join(format!("file-{n}"));
        fs::write(&path, "x").expect("room for a file");
        set_time(&path, secs, nanos);
    }
    symlink("file-0", top.join("link")).expect("a symlink");
    set_time(&top.join("link"), 1_300_000_000, 5);
    set_time(top, -2, 250_000_000);
}

/// Sets access and modification time, of a symlink itself too.
pub fn set_time(path: &Path, secs: i64, nanos: i64) {
    let time = Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("utimensat");
}

fn odd_names(top: &Path) {
    fs::create_dir(top).expect("room for a directory");
    for (n, name) in names().iter().enumerate() {
        fs::write(top.join(OsStr::from_bytes(name)), format!("{n}")).expect("room for a file");
    }
    let deep: std::path::PathBuf = (0..12).map(|n| format!("a rather long name of a directory, number {n}")).collect();
    fs::create_dir_all(top.join(&deep)).expect("room for directories");
    fs::write(top.join(deep).join("at the bottom"), "x").expect("room for a file");
}

fn attributes(top: &Path) {
    fs::create_dir(top).expect("room for a directory");
    let file = top.join("file");
    fs::write(&file, "x").expect("room for a file");
    for (path, name, value) in [
        (&file, "user.short", &b"value"[..]),
        (&file, "user.empty", b""),
        (&file, "user.bytes", b"\0\x01\xff"),
        (&file, "user.long", &[7; 2000]),
        (&top.to_owned(), "user.directory", b"too"),
    ] {
        rustix::fs::setxattr(path, name, value, XattrFlags::empty()).expect("setxattr on the local disk");
    }
}

fn special(top: &Path) {
    fs::create_dir(top).expect("room for a directory");
    rustix::fs::mknodat(CWD, top.join("fifo"), rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o640), 0)
        .expect("mkfifo");
    // What bind(2) leaves behind, without the bound on an address's length.
    let mode = Mode::from_raw_mode(0o755);
    rustix::fs::mknodat(CWD, top.join("socket"), rustix::fs::FileType::Socket, mode, 0).expect("a socket");
}
