//! What a mount is asked for, and what the kernel is asked for in consequence.
//!
//! Owns the words of `-o` that concern the kernel, the negotiation at FUSE_INIT, and the times for which the kernel
//! may answer by itself. Words that concern the vault are the command line's.

use std::path::PathBuf;
use std::time::Duration;

use fuser::{Config, InitFlags, KernelConfig, SessionACL};
use rustix::mount::MountFlags;

use crate::base::sizes::MIB;

/// The largest request: what the kernel allows without its sysctl, and where throughput stops growing.
pub const MAX_REQUEST: u32 = MIB as u32;

/// Requests that the kernel sends ahead of anyone waiting (read-ahead, direct I/O in parallel). Its own default of 12
/// would bound what is in flight to a remote store far below its bandwidth.
const MAX_BACKGROUND: u16 = 64;

/// How long the kernel may answer by itself what it knows about names and attributes. On a writing mount nobody else
/// changes anything, so this is long; it is finite only so that a mistake of ours heals.
pub const WRITER_TTL: Duration = Duration::from_secs(3600);

/// What is asked of the kernel, each by itself: an older kernel lacks some, and works without.
///
/// Not asked for: WRITEBACK_CACHE (fsync order and sizes would be the kernel's to tell), POSIX_ACL and DONT_MASK (the
/// kernel applies the umask), locks (the kernel keeps advisory locks itself, one machine writes), AUTO_INVAL_DATA
/// (nobody else writes), SETXATTR_EXT (fuser 0.18 panics on it).
const CAPABILITIES: [InitFlags; 10] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    // Without it every write asks for security.capability first. It makes the clearing of setuid bits our duty.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_CACHE_SYMLINKS,
    // A follower's files are read past the kernel's pages; with it they can be mapped all the same.
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountOptions {
    /// Canonical, as the mount table spells it.
    pub mountpoint: PathBuf,
    /// What the mount table shows as the source.
    pub url: String,
    pub read_only: bool,
    /// Other users may enter; permission bits then decide.
    pub allow_other: bool,
    /// Device files work. Only root may ask for it.
    pub devices: bool,
    /// Setuid bits work. Only root may ask for it.
    pub setuid: bool,
    pub no_exec: bool,
    pub no_atime: bool,
    pub synchronous: bool,
    /// Threads that take requests from the kernel; none of them ever waits, so few are enough.
    pub threads: usize,
}

impl MountOptions {
    pub fn new(url: impl Into<String>, mountpoint: impl Into<PathBuf>) -> MountOptions {
        MountOptions {
            mountpoint: mountpoint.into(),
            url: url.into(),
            read_only: false,
            allow_other: false,
            devices: false,
            setuid: false,
            no_exec: false,
            no_atime: false,
            synchronous: false,
            threads: 2,
        }
    }

    /// Takes one word of `-o`. False if it does not concern the kernel.
    pub fn set(&mut self, word: &str) -> bool {
        match word {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow_other = true,
            "dev" => self.devices = true,
            "nodev" => self.devices = false,
            "suid" => self.setuid = true,
            "nosuid" => self.setuid = false,
            "exec" => self.no_exec = false,
            "noexec" => self.no_exec = true,
            "atime" | "relatime" => self.no_atime = false,
            "noatime" => self.no_atime = true,
            "sync" => self.synchronous = true,
            "async" => self.synchronous = false,
            // Always so: permission bits are the kernel's to check.
            "default_permissions" => {}
            _ => return false,
        }
        true
    }

    /// How long the kernel may believe what it was told of names and attributes. A reading mount asks each time: what
    /// it shows can change under it.
    pub(super) fn ttl(&self) -> Duration {
        if self.read_only { Duration::ZERO } else { WRITER_TTL }
    }

    /// Flags for mount(2).
    pub(super) fn flags(&self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, self.read_only);
        flags.set(MountFlags::NODEV, !self.devices);
        flags.set(MountFlags::NOSUID, !self.setuid);
        flags.set(MountFlags::NOEXEC, self.no_exec);
        flags.set(MountFlags::NOATIME, self.no_atime);
        flags.set(MountFlags::SYNCHRONOUS, self.synchronous);
        flags
    }

    /// What the fuse filesystem type itself takes, for mount(2) and fusermount3 alike.
    pub(super) fn fuse_words(&self) -> String {
        let other = if self.allow_other { ",allow_other" } else { "" };
        format!("default_permissions,max_read={MAX_REQUEST}{other}")
    }

    /// The `-o` of fusermount3: the same as `flags` and `fuse_words`, in words.
    pub(super) fn fusermount_words(&self) -> String {
        let mut words = self.fuse_words();
        for (wanted, word) in [
            (self.read_only, "ro"),
            (self.devices, "dev"),
            (!self.devices, "nodev"),
            (self.setuid, "suid"),
            (!self.setuid, "nosuid"),
            (self.no_exec, "noexec"),
            (self.no_atime, "noatime"),
            (self.synchronous, "sync"),
        ] {
            if wanted {
                words.push(',');
                words.push_str(word);
            }
        }
        // A comma in a URL must not begin another option.
        let source = self.url.replace('\\', "\\\\").replace(',', "\\,");
        format!("{words},subtype=dripfs,fsname={source}")
    }

    /// fuser's part: the threads, and whose requests are served.
    pub(super) fn session(&self, clone_fd: bool) -> (SessionACL, Config) {
        let acl = if self.allow_other { SessionACL::All } else { SessionACL::Owner };
        let mut config = Config::default();
        config.acl = acl;
        config.n_threads = Some(self.threads.max(1));
        config.clone_fd = clone_fd && self.threads > 1;
        (acl, config)
    }
}

/// Agrees with the kernel on sizes and capabilities (FUSE_INIT).
pub fn negotiate(config: &mut KernelConfig) {
    for capability in CAPABILITIES {
        if config.add_capabilities(capability).is_err() {
            log::debug!("this kernel has no {capability:?}");
        }
    }
    // Each of these says on failure what would be possible.
    if let Err(possible) = config.set_max_write(MAX_REQUEST) {
        let _ = config.set_max_write(possible);
    }
    if let Err(possible) = config.set_max_readahead(MAX_REQUEST) {
        let _ = config.set_max_readahead(possible);
    }
    let _ = config.set_max_background(MAX_BACKGROUND);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_setuid_need_to_be_asked_for() {
        let mut options = MountOptions::new("file:///v", "/mnt");
        assert!(options.flags().contains(MountFlags::NODEV | MountFlags::NOSUID));
        assert!(options.fusermount_words().contains(",nodev,nosuid"));
        assert!(options.set("dev") && options.set("suid"));
        assert!(!options.flags().intersects(MountFlags::NODEV | MountFlags::NOSUID));
    }

    #[test]
    fn others_enter_only_when_asked_for() {
        let mut options = MountOptions::new("file:///v", "/mnt");
        assert!(!options.fuse_words().contains("allow_other"));
        assert!(options.set("allow_other"));
        assert!(options.fuse_words().contains("allow_other"));
    }

    #[test]
    fn a_comma_in_the_url_begins_no_option() {
        let options = MountOptions::new(r"file:///a,dev\b", "/mnt");
        assert!(options.fusermount_words().ends_with(r"fsname=file:///a\,dev\\b"));
    }

    #[test]
    fn the_last_word_counts_and_foreign_words_are_left_to_others() {
        let mut options = MountOptions::new("file:///v", "/mnt");
        assert!(options.set("ro") && options.set("rw") && !options.read_only);
        assert!(!options.set("x-systemd.automount") && !options.set("durability=remote"));
    }

    #[test]
    fn a_reading_mount_is_always_asked() {
        let mut options = MountOptions::new("file:///v", "/mnt");
        assert!(options.ttl() >= Duration::from_secs(60));
        options.read_only = true;
        assert_eq!(options.ttl(), Duration::ZERO);
    }
}
