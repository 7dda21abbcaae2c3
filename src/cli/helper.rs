//! The mount helper: `mount.dripfs SOURCE DIR [-sfnv] [-o ...]` as mount(8) calls it, and `dripfs SOURCE DIR [-o ...]` as
//! mount.fuse3 does.
//!
//! Owns which command lines are meant, their flags, and the exit codes that mount(8) knows. Does not own mounting.
//! Invariant: it ends once the drive answers, or cannot; the drive goes on in the background.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Parser;

use super::args::{Mount, NewVault, Passphrase};
use super::options::{self, MountOptions};
use super::{exit, profile};

/// mount(8): wrong usage or no permission; a system error; the mount failed.
const USAGE: u8 = 1;
const FAILED: u8 = 32;

/// As mount(8) writes it. Options come after or before what is mounted.
#[derive(Parser, Debug)]
#[command(name = "mount.dripfs", version, about = "Mounts a drive for mount(8) and /etc/fstab; see mount.dripfs(8).")]
pub struct Helper {
    /// The vault, or the name of a profile.
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// An empty directory.
    pub dir: PathBuf,
    /// Mount options, separated by commas.
    #[arg(short = 'o', value_name = "OPT,...")]
    pub options: Vec<String>,
    /// Pass over options that are not known.
    #[arg(short = 's')]
    pub sloppy: bool,
    /// Only say whether it could be tried.
    #[arg(short = 'f')]
    pub fake: bool,
    /// Without effect: there is no /etc/mtab.
    #[arg(short = 'n')]
    pub no_mtab: bool,
    /// Log more.
    #[arg(short = 'v')]
    pub verbose: bool,
    /// Read-only.
    #[arg(short = 'r')]
    pub read_only: bool,
    /// Without effect.
    #[arg(short = 'w')]
    pub writable: bool,
    /// Another mount namespace, which mount(8) has entered already.
    #[arg(short = 'N', value_name = "NS")]
    pub namespace: Option<String>,
    /// fuse.dripfs, dripfs or fuse.
    #[arg(short = 't', value_name = "TYPE")]
    pub kind: Option<String>,
}

/// Is this how a helper is called? By its name, or by words that begin with what is mounted where.
pub fn is_meant(words: &[OsString], commands: &[String]) -> bool {
    let by_name = words.first().is_some_and(|name| {
        let name = Path::new(name).file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.starts_with("mount.")
    });
    let [_, source, dir, ..] = words else { return by_name };
    let (source, dir) = (source.to_string_lossy(), dir.to_string_lossy());
    let is_command = commands.iter().any(|command| *command == source);
    // mount.fuse3 always gives options, and a person who mistyped a command does not.
    let options = words.iter().any(|word| word == "-o");
    by_name || options && !is_command && !source.starts_with('-') && dir.starts_with('/')
}

/// What `dripfs mount` is asked for in these words.
pub fn asked(helper: &Helper, by_name: bool) -> Mount {
    let words = helper.options.iter().flat_map(|list| list.split(',')).map(str::to_owned);
    // mount.fuse3 adds these to whatever does not say otherwise; they are nobody's wish.
    let mut words: Vec<String> = words.filter(|word| by_name || word != "dev" && word != "suid").collect();
    if helper.sloppy {
        words.retain(|word| options::take(&mut MountOptions::default(), word).is_ok());
    }
    let own_state = words.iter().any(|word| word.starts_with("state="));
    if rustix::process::geteuid().is_root() && !own_state && !profile::is_name(&helper.source) {
        // The same at boot, where HOME is not set, as by hand.
        words.push(format!("state={}", profile::SYSTEM_STATE));
    }
    Mount {
        url: helper.source.clone(),
        dir: Some(helper.dir.clone()),
        init: false,
        background: true,
        read_only: helper.read_only,
        takeover: false,
        accept_rollback: false,
        durability: None,
        state: None,
        upload_limit: None,
        download_limit: None,
        options: words,
        passphrase: Passphrase::default(),
        new_vault: NewVault { recovery_file: None, kdf_memory: 256 },
        helper: true,
    }
}

/// The code that mount(8) passes on.
pub fn code(code: u8) -> u8 {
    match code {
        exit::OK => 0,
        exit::USAGE => USAGE,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(line: &str) -> bool {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        is_meant(&words, &["mount".to_owned(), "status".to_owned()])
    }

    #[test]
    fn a_helper_is_known_by_its_name_or_by_what_it_is_given() {
        for line in
            ["/sbin/mount.dripfs photos /mnt", "mount.fuse.dripfs x /y -o rw", "/usr/bin/dripfs photos /mnt -o ro"]
        {
            assert!(meant(line), "{line}");
        }
        for line in [
            "dripfs",
            "dripfs status /mnt",
            "dripfs mount x /mnt",
            "dripfs -v /x /y",
            "dripfs photos mnt -o rw",
            "dripfs x",
            "dripfs mout /mnt",
        ] {
            assert!(!meant(line), "{line}");
        }
    }

    #[test]
    fn what_mount_fuse_adds_is_nobodys_wish() {
        let words = "dripfs photos /mnt -o rw,noexec,dev,suid".split(' ');
        let helper = Helper::try_parse_from(words).unwrap();
        assert_eq!(asked(&helper, false).options, ["rw", "noexec"]);
        assert_eq!(asked(&helper, true).options, ["rw", "noexec", "dev", "suid"]);
        let helper = Helper::try_parse_from("mount.dripfs photos /mnt -s -o rw,nonsense".split(' ')).unwrap();
        assert_eq!(asked(&helper, true).options, ["rw"]);
    }

    #[test]
    fn what_mount_passes_is_taken() {
        for line in [
            "mount.dripfs photos /mnt -o rw,noexec",
            "mount.dripfs photos /mnt -sfnv -N /proc/1/ns/mnt -o rw -t fuse.dripfs",
            "dripfs s3://b/p /mnt -o rw,dev,suid",
        ] {
            Helper::try_parse_from(line.split(' ')).unwrap();
        }
        assert!(Helper::try_parse_from(["mount.dripfs", "photos"]).is_err());
        assert_eq!([0, 1, 2, 10, 12, 14].map(code), [0, 32, 1, 32, 32, 32]);
    }
}
