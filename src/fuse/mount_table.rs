//! The kernel's mount table (proc(5), /proc/PID/mountinfo): what is mounted where.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A line of the mount table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    pub dir: PathBuf,
    /// The filesystem type, such as `fuse.dripfs`.
    pub kind: String,
    /// Major and minor number: which mounted filesystem this is.
    pub device: String,
    /// Who mounted it, for FUSE.
    pub owner: Option<u32>,
}

impl Mount {
    pub fn is_dripfs(&self) -> bool {
        self.kind == "fuse.dripfs"
    }

    /// An automounter's: it waits there for somebody to come by, and for what is to be mounted over it then (autofs(5)).
    pub fn is_trigger(&self) -> bool {
        self.kind == "autofs"
    }

    /// The number by which the kernel knows a FUSE connection.
    pub fn connection(&self) -> Option<u32> {
        self.device.strip_prefix("0:")?.parse().ok()
    }
}

/// The filesystem that one meets at this very directory, if it is a mount point. The directory itself is not asked.
pub fn mounted_on(dir: &Path) -> io::Result<Option<Mount>> {
    // Later mounts cover earlier ones.
    Ok(mounts()?.into_iter().rfind(|mount| mount.dir == dir))
}

/// All that is mounted, in the order of mounting.
pub fn mounts() -> io::Result<Vec<Mount>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

/// `36 35 98:0 /root /mnt rw,noatime master:1 - fuse.dripfs source rw,user_id=0`
fn parse(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    let options = fields.get(dash + 3).copied().unwrap_or_default();
    let owner = options.split(|&byte| byte == b',').find_map(|option| option.strip_prefix(b"user_id="));
    Some(Mount {
        dir: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
        kind: text(fields.get(dash + 1)?),
        device: text(fields.get(2)?),
        owner: owner.and_then(|uid| std::str::from_utf8(uid).ok()?.parse().ok()),
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let octal = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (byte, octal) {
            (b'\\', Some(value)) => {
                out.push(value);
                rest = &after[3..];
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_its_escapes() {
        let line =
            br"36 35 0:45 / /mnt/my\040drive\134x rw,nosuid shared:1 master:2 - fuse.dripfs file:///v rw,user_id=1000";
        let mount = parse(line).expect("a whole line");
        let dir = PathBuf::from(r"/mnt/my drive\x");
        let kind = "fuse.dripfs".to_owned();
        assert_eq!(mount, Mount { dir, kind, device: "0:45".into(), owner: Some(1000) });
        assert!(mount.is_dripfs());
        assert_eq!(mount.connection(), Some(45));
        let other = parse(b"1 2 8:1 / /x rw - ext4 /dev/sda1 rw").expect("a whole line");
        assert_eq!((other.owner, other.connection()), (None, None));
        assert_eq!(parse(b"36 35 0:57 / /mnt rw"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn proc_is_mounted_and_a_directory_in_it_is_not() {
        let proc = mounted_on(Path::new("/proc")).expect("a readable table").expect("/proc is mounted");
        assert_eq!(proc.kind, "proc");
        assert_eq!(mounted_on(Path::new("/proc/self")).expect("a readable table"), None);
    }
}
