//! What a caller may read: the permission bits, as the kernel would check them if the caller walked by itself.
//!
//! The kernel checks the way to the room, and who opens an answer. What lies below is checked here: to look into a
//! directory its caller must be allowed to list and to enter it, to look into a file to read it.
//!
//! Groups beyond the first come from `/proc`, for FUSE tells only one; where that cannot be read, or is not of the caller,
//! there are none. Only a caller with user id 0 may be above permission bits, and only with the capabilities for it: those
//! of another user count in that user's own namespace alone. Owns nothing.

use crate::fs::{Attributes, Caller};

pub const READ: u32 = 4;
pub const ENTER: u32 = 1;

/// CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
const ABOVE: u64 = (1 << 1) | (1 << 2);

/// Who asks, with all that decides what they may read.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Rights {
    pub uid: u32,
    /// Sorted.
    groups: Box<[u32]>,
    above: bool,
}

impl Rights {
    pub fn of(caller: Caller) -> Rights {
        let told = std::fs::read_to_string(format!("/proc/{}/status", caller.pid)).unwrap_or_default();
        Rights::new(caller, &told)
    }

    fn new(caller: Caller, told: &str) -> Rights {
        let line = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let numbers = |name: &str| -> Vec<u32> {
            line(name).split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
        };
        // The last of four is the one that counts for files.
        let is_caller = numbers("Uid:").get(3) == Some(&caller.uid);
        let mut groups = if is_caller { numbers("Groups:") } else { Vec::new() };
        groups.push(caller.gid);
        groups.sort_unstable();
        groups.dedup();
        let capabilities = u64::from_str_radix(line("CapEff:").trim(), 16).unwrap_or(0);
        let above = caller.uid == 0 && is_caller && capabilities & ABOVE != 0;
        Rights { uid: caller.uid, groups: groups.into(), above }
    }

    /// May they do all of `wanted` with it?
    pub fn may(&self, attributes: &Attributes, wanted: u32) -> bool {
        let shift = match () {
            () if self.above => return true,
            () if attributes.uid == self.uid => 6,
            () if self.groups.binary_search(&attributes.gid).is_ok() => 3,
            () => 0,
        };
        (attributes.mode >> shift) & wanted == wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Ino, Timestamp};

    const STATUS: &str = "Name:\tx\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nGroups:\t9 20 3 \nCapEff:\t0000000000000000\n";

    fn file(uid: u32, gid: u32, mode: u32) -> Attributes {
        let time = Timestamp::default();
        Attributes {
            ino: Ino(5),
            mode: libc::S_IFREG | mode,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        }
    }

    #[test]
    fn owner_group_and_others_are_told_apart_and_the_first_that_fits_decides() {
        let rights = Rights::new(Caller { uid: 7, gid: 8, pid: 1 }, STATUS);
        for (uid, gid, mode, may) in [
            (7, 1, 0o400, true),
            (7, 8, 0o044, false),
            (1, 8, 0o040, true),
            (1, 20, 0o040, true),
            (1, 20, 0o404, false),
            (1, 1, 0o004, true),
            (1, 1, 0o440, false),
        ] {
            assert_eq!(rights.may(&file(uid, gid, mode), READ), may, "{uid} {gid} {mode:o}");
        }
        assert!(!rights.may(&file(7, 1, 0o400), READ | ENTER) && rights.may(&file(7, 1, 0o500), READ | ENTER));
    }

    #[test]
    fn only_root_is_above_the_bits_and_only_with_its_capabilities() {
        let secret = file(1, 1, 0);
        let of = |uid: u32, status_uid: u32, capabilities: &str| {
            let told = format!("Uid:\t0\t0\t0\t{status_uid}\nCapEff:\t{capabilities}\n");
            Rights::new(Caller { uid, gid: 0, pid: 1 }, &told).may(&secret, READ)
        };
        assert!(of(0, 0, "000001ffffffffff"));
        assert!(!of(0, 0, "0000000000000000"), "root without capabilities");
        assert!(!of(7, 7, "000001ffffffffff"), "a user who is root in a namespace of their own");
        assert!(!of(0, 7, "000001ffffffffff"), "another process by now");
        assert!(!Rights::new(Caller { uid: 0, gid: 0, pid: 0 }, "").may(&secret, READ));
    }

    #[test]
    fn groups_of_another_process_are_nobodys() {
        let rights = Rights::new(Caller { uid: 5, gid: 8, pid: 1 }, STATUS);
        assert!(!rights.may(&file(1, 20, 0o040), READ) && rights.may(&file(1, 8, 0o040), READ));
    }
}
