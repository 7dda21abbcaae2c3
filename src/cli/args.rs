//! The command line, as clap reads it. man/dripfs.1 says the same at length.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::mount::drive::Durability;

const EXAMPLES: &str = "\
Examples:
  dripfs mount --init --background ~/vault ~/drive   make a vault in a directory, and mount it
  cp -a ~/photos ~/drive/                            use it like any directory
  dripfs sync ~/drive                                wait until all of it is in the vault
  dripfs status ~/drive                              what is still to be sent
  dripfs umount ~/drive                              send the rest, and unmount

URL of a vault:
  file:///path or a bare path   a directory
  s3://bucket/prefix            Amazon S3 and what speaks like it; gs://, az:// likewise
  https://host/path             a copy on a web server, with --read-only
  memory:///                    nothing stays: for trying things out

Passphrase (the first that is given; otherwise it is asked for on the terminal):
  --passphrase-file, --passphrase-command, --passphrase-fd, DRIPFS_PASSPHRASE_FILE

Exit codes:
  0 ok              10 no vault there             13 tampered with or rolled back
  1 error           11 in use elsewhere           14 not everything reached the vault
  2 usage           12 wrong passphrase              (it stays in the journal for the next mount)
                                                  15 not everything was rescued whole
                                                  16 not everything was searched
  `dripfs search` exits as grep does: 0 found, 1 nothing found, 2 error";

/// Mounts a vault, an encrypted file tree kept in object storage, as a drive.
#[derive(Parser, Debug)]
#[command(name = "dripfs", version, after_help = "`dripfs --help` shows examples and exit codes.")]
#[command(after_long_help = EXAMPLES, arg_required_else_help = true, subcommand_required = true)]
#[command(disable_help_subcommand = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    /// Log more; twice: much more. RUST_LOG overrules it.
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Log errors only, and print no progress.
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make a vault.
    ///
    /// Shows the recovery key once: with it the vault opens when the passphrase is lost. Nobody can show it again.
    Init(Init),
    /// Mount a vault on an empty directory.
    ///
    /// Stays in the foreground unless told otherwise, and says on standard error when the drive is ready. SIGTERM or
    /// Ctrl-C unmounts, sends what the vault lacks, and ends; a second Ctrl-C does not wait for that.
    #[command(after_long_help = OPTIONS)]
    Mount(Box<Mount>),
    /// Wait until everything written so far is in the vault.
    Sync(Directory),
    /// Send what the vault lacks, and unmount.
    ///
    /// Programs that still use the drive are cut off after 10 seconds. Exit code 14: the store did not answer, the
    /// rest stays in the journal on this machine, and the next mount sends it.
    Umount(Umount),
    /// Show how a mount is doing, or all mounts of this user.
    Status(Status),
    /// Search the files below a directory of a drive, of what is on this machine.
    ///
    /// Prints path:line:text as `grep -rnE` does. Nothing is fetched unless --all is given. The same is in the file
    /// DIR/.search/PATTERN. Exit codes: 0 found, 1 nothing found, 2 error, 16 not everything was searched; what was not is
    /// told on standard error.
    Search(Search),
    /// Print a JSON line for each upload and download of a file, until interrupted.
    Events(Directory),
    /// See and change what is kept of files on this machine.
    #[command(subcommand)]
    Cache(Cache),
    /// See and change what opens a vault: passphrases and recovery keys.
    #[command(subcommand)]
    Key(Key),
    /// Bring back the files of histories that were set aside.
    ///
    /// Where another machine has taken the vault over, what this one had not sent is set aside. Each file that it changed
    /// is written out whole, under the path that it had. Exit code 15: some did not come whole; they are listed.
    Rescue(Rescue),
    /// Look for what can be wrong before the first mount, and say what to do.
    ///
    /// With URL or PROFILE the store is asked too, and a small object is created there and removed. Exit code 1: something
    /// is wrong.
    Doctor(Doctor),
    /// Print completions for a shell.
    Completions { shell: Shell },
    /// The background half of `mount --background`; reads its task from standard input.
    #[command(name = crate::mount::background::COMMAND, hide = true)]
    ServeInBackground { dir: PathBuf },
}

const OPTIONS: &str = "\
Options for -o, separated by commas:
  ro, rw               read-only, or not
  allow_other          other users may enter; permissions decide (needs user_allow_other in
                       /etc/fuse.conf)
  dev, suid, noexec    as in mount(8); nodev and nosuid unless given
  sync                 as in mount(8)
  noatime, relatime    nothing changes: reading never moves a time of last access
  durability=LEVEL     the same as --durability
  state=DIR            the same as --state
  passphrase-file=F    the same as --passphrase-file, for /etc/fstab
  cache=SIZE           decrypted bytes kept in memory for reading (256M)
  cache_ttl=SECONDS    how long they are kept, and the kernel's copies, when the file is not used
                       (60)
  disk_cache=SIZE      sealed bytes of the store kept on the local disk (1G; 0, none, for a vault
                       in a local directory)
  dirty=SIZE           written bytes kept in memory; writers wait above it (128M)
  journal=SIZE         sealed bytes on the local disk that the vault lacks; writers wait above it
                       (4G)
  follow=SECONDS       how often a read-only mount looks for what others have written (5)
  upload-limit=RATE    the same as --upload-limit; also download-limit
  compress=on|off      compress where it pays (on)
  readahead=SIZE       read ahead at most so much for one sequential reader; 0: not at all (32M)
  inflight=SIZE        memory for what is between the cache and disk or store (128M)
  search=NAME          the name of the room that answers searches, in each directory (.search);
                       off: there is none
  search_list=on|off   directories list it (off)
  search_threads=N     files that a search looks at at a time (4)
  search_seconds=N     how long a search may take (10)
  search_keep=WHERE    what was found is kept for the next time in memory, on disk (sealed), or
                       nowhere (memory)
  search_cache=SIZE    how much of it (32M)
  metrics=ADDRESS      serve http://ADDRESS/metrics and /health there, such as 127.0.0.1:9090;
                       loopback only
  STAGE_workers=N      and _min, _max, _bytes, _kept: what a stage of the pipelines takes at
                       once; see dripfs(1)
  Words for mount(8) and systemd (_netdev, nofail, noauto, user, x-*, ...) are accepted and mean
  nothing here.

Durability, what has happened when fsync returns:
  local    it is sealed in the journal on this machine's disk (default)
  remote   it is in the vault
  async    nothing is promised; it is hurried along";

#[derive(Args, Debug)]
pub struct Init {
    /// Where the vault goes: an empty or missing directory, or a prefix in a bucket.
    pub url: String,
    #[command(flatten)]
    pub passphrase: Passphrase,
    #[command(flatten)]
    pub new_vault: NewVault,
    /// Everything local lies below DIR, to see whether the vault is known there.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Mount {
    /// The vault; or the name of a profile, NAME.toml in ~/.config/dripfs or /etc/dripfs (see dripfs.toml(5)).
    #[arg(value_name = "URL|PROFILE")]
    pub url: String,
    /// An empty directory; with a profile that names one it may be left out.
    pub dir: Option<PathBuf>,
    /// Make the vault and the directory DIR where they are missing.
    #[arg(long, conflicts_with = "read_only")]
    pub init: bool,
    /// Return once the drive answers, and go on in the background; the log is STATE/log.
    #[arg(long)]
    pub background: bool,
    /// Write nothing, and follow what another machine writes.
    #[arg(long)]
    pub read_only: bool,
    /// Take the vault over from a machine that is gone. If it is not gone, it becomes read-only.
    #[arg(long, conflicts_with = "read_only")]
    pub takeover: bool,
    /// Go on from a vault that was put back to an older state, or is another history than this machine has seen (exit code
    /// 13 without it). What this machine has and the vault lacks is set aside.
    #[arg(long, conflicts_with = "read_only")]
    pub accept_rollback: bool,
    /// What fsync waits for.
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub durability: Option<Level>,
    /// Everything local (journal, log) lies below DIR, one directory a vault.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Send no more than RATE bytes a second to the store, such as 2MiB.
    #[arg(long, value_name = "RATE")]
    pub upload_limit: Option<String>,
    /// Take no more than RATE bytes a second from the store.
    #[arg(long, value_name = "RATE")]
    pub download_limit: Option<String>,
    /// Mount options, separated by commas; `dripfs mount --help` lists them.
    #[arg(short = 'o', value_name = "OPT,...")]
    pub options: Vec<String>,
    #[command(flatten)]
    pub passphrase: Passphrase,
    #[command(flatten)]
    pub new_vault: NewVault,
    /// It is mount(8) that asks.
    #[arg(skip)]
    pub helper: bool,
}

/// For commands that make a vault.
#[derive(Args, Debug)]
pub struct NewVault {
    /// Write the recovery key of a new vault to F (which must not exist) instead of showing it.
    #[arg(long, value_name = "F")]
    pub recovery_file: Option<PathBuf>,
    /// Memory that each guess at the passphrase costs, from 64 to 1024.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub kdf_memory: u32,
}

/// Where the passphrase comes from. One line end at its end is not part of it.
#[derive(Args, Clone, Debug, Default)]
pub struct Passphrase {
    /// Read the passphrase from F.
    #[arg(long, value_name = "F", group = "source")]
    pub passphrase_file: Option<PathBuf>,
    /// Read the passphrase from what the shell command C prints.
    #[arg(long, value_name = "C", group = "source")]
    pub passphrase_command: Option<String>,
    /// Read the passphrase from the open file descriptor N.
    #[arg(long, value_name = "N", group = "source")]
    pub passphrase_fd: Option<i32>,
}

impl Passphrase {
    pub fn is_given(&self) -> bool {
        self.passphrase_file.is_some() || self.passphrase_command.is_some() || self.passphrase_fd.is_some()
    }
}

#[derive(Args, Debug)]
pub struct Directory {
    /// Where the drive is mounted.
    pub dir: PathBuf,
}

#[derive(Args, Debug)]
pub struct Umount {
    /// Only clear a mount point whose process is gone; anything else there is left alone.
    #[arg(long)]
    pub dead: bool,
    /// Where the drive is mounted, or the name of its profile.
    #[arg(value_name = "DIR|PROFILE")]
    pub dir: PathBuf,
}

#[derive(Args, Debug)]
pub struct Rescue {
    /// Where the drive is mounted, or the vault if it is not mounted.
    #[arg(value_name = "DIR|URL")]
    pub place: PathBuf,
    /// Where the files go; DIR/rescued-TIME in a mounted drive if left out.
    #[arg(long, value_name = "OUT")]
    pub to: Option<PathBuf>,
    /// Everything local lies below DIR; for a vault that is not mounted.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// Delete each set-aside history of which every file was written whole and is safe, now or by an earlier rescue.
    #[arg(long)]
    pub remove: bool,
    #[command(flatten)]
    pub passphrase: Passphrase,
}

#[derive(Args, Debug)]
pub struct Doctor {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Everything local is to lie below DIR.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// A vault, or where one is to be; or the name of a profile.
    #[arg(value_name = "URL|PROFILE")]
    pub url: Option<String>,
}

#[derive(Args, Debug)]
pub struct Status {
    /// Print JSON: one object, or without DIR an array of them.
    #[arg(long)]
    pub json: bool,
    /// Print it anew each second.
    #[arg(long)]
    pub watch: bool,
    /// Print metrics for Prometheus.
    #[arg(long, conflicts_with_all = ["json", "watch"], requires = "dir")]
    pub metrics: bool,
    /// Where the drive is mounted; all mounts of this user if left out.
    pub dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Search {
    /// A regular expression.
    #[arg(allow_hyphen_values = true)]
    pub pattern: OsString,
    /// A directory on a drive; the current one if left out.
    pub dir: Option<PathBuf>,
    /// Fetch what is not on this machine.
    #[arg(short, long)]
    pub all: bool,
    /// Do not tell capitals from small letters.
    #[arg(short, long)]
    pub ignore_case: bool,
    /// As -i, unless the pattern has capitals.
    #[arg(short, long, conflicts_with = "ignore_case")]
    pub smart_case: bool,
    /// The pattern is a text, no expression.
    #[arg(short = 'F', long)]
    pub fixed_strings: bool,
    /// Whole words only.
    #[arg(short, long = "word-regexp")]
    pub word: bool,
    /// Only files of such names (with a slash: of such paths below DIR); !GLOB: all but those.
    #[arg(short, long, value_name = "GLOB")]
    pub glob: Vec<String>,
    /// Print the names of the files that match, nothing more.
    #[arg(short = 'l', long, conflicts_with = "json")]
    pub files: bool,
    /// Print one JSON object a line: path, line, text.
    #[arg(long)]
    pub json: bool,
}

#[derive(Subcommand, Debug)]
pub enum Cache {
    /// Fetch files, or all files below directories.
    ///
    /// What does not fit into memory, or is not used for a while, stays in the disk cache if there is one
    /// (-o disk_cache=SIZE).
    Warm(Paths),
    /// Let go of what is kept of them, in memory and on the disk; what the vault lacks stays.
    Drop(Paths),
    /// List files that are decrypted in memory, of one drive or of all of this user.
    List {
        /// Only what lies at or below it.
        dir: Option<PathBuf>,
    },
}

#[derive(Subcommand, Debug)]
pub enum Key {
    /// List the slots of a vault's header. Each holds the master key, sealed under a passphrase or a recovery key.
    List(KeyPlace),
    /// Add a passphrase, or with --recovery a recovery key.
    Add {
        #[command(flatten)]
        place: KeyPlace,
        /// A recovery key instead of a passphrase; it is shown once, or written to the file of --recovery-file.
        #[arg(long, conflicts_with = "new")]
        recovery: bool,
        #[command(flatten)]
        new: NewPassphrase,
        #[command(flatten)]
        made: NewVault,
        #[command(flatten)]
        takeover: Takeover,
    },
    /// Remove a slot; the last one stays.
    ///
    /// Who has kept a copy of the old header, and the passphrase that was removed, still opens that copy.
    Remove {
        #[command(flatten)]
        place: KeyPlace,
        /// Its number, as `dripfs key list` shows it.
        slot: usize,
        #[command(flatten)]
        takeover: Takeover,
    },
    /// Put a new passphrase in the place of the one that opens the vault; with the recovery key, of a lost one.
    Change {
        #[command(flatten)]
        place: KeyPlace,
        #[command(flatten)]
        new: NewPassphrase,
        /// Memory that each guess at the passphrase costs, from 64 to 1024.
        #[arg(long, value_name = "MIB", default_value_t = 256)]
        kdf_memory: u32,
        #[command(flatten)]
        takeover: Takeover,
    },
}

#[derive(Args, Debug)]
pub struct KeyPlace {
    /// The vault, or the name of its profile. It must not be mounted.
    #[arg(value_name = "URL|PROFILE")]
    pub url: String,
    /// Everything local lies below DIR.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    #[command(flatten)]
    pub passphrase: Passphrase,
}

#[derive(Args, Debug)]
pub struct Takeover {
    /// Do it although another machine has the vault open: that machine is gone.
    #[arg(long)]
    pub takeover: bool,
}

/// Where the new passphrase comes from; otherwise it is asked for on the terminal, twice.
#[derive(Args, Debug, Default)]
pub struct NewPassphrase {
    /// Read the new passphrase from F.
    #[arg(long, value_name = "F", group = "new")]
    pub new_passphrase_file: Option<PathBuf>,
    /// Read the new passphrase from the open file descriptor N.
    #[arg(long, value_name = "N", group = "new")]
    pub new_passphrase_fd: Option<i32>,
}

#[derive(Args, Debug)]
pub struct Paths {
    /// Files and directories on a drive.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Sealed in the journal on this machine's disk.
    Local,
    /// In the vault.
    Remote,
    /// Nothing is promised; it is hurried along.
    Async,
}

impl From<Level> for Durability {
    fn from(level: Level) -> Durability {
        match level {
            Level::Local => Durability::Local,
            Level::Remote => Durability::Remote,
            Level::Async => Durability::Async,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_published_forms_parse() {
        for line in [
            "init --recovery-file r --kdf-memory 64 file:///v",
            "mount --init --background /v /d",
            "mount --read-only --durability remote --state /s -o ro,noexec -o cache=1G /v /d",
            "mount --takeover --passphrase-fd 3 /v /d",
            "mount --upload-limit 2MiB --download-limit 500K s3://bucket/prefix /d",
            "mount --accept-rollback /v /d",
            "mount photos",
            "sync /d",
            "umount /d",
            "umount --dead photos",
            "status",
            "status --json --watch /d",
            "status --metrics /d",
            "events /d",
            "doctor",
            "doctor --json --state /s s3://bucket/prefix",
            "rescue --json --remove /d",
            "rescue --to /out --state /s --passphrase-fd 3 file:///v",
            "search x",
            "search -iw x /d",
            "search -F -w -g *.rs -g *.c --all --files x /d",
            "search --json -s x",
            "search ->next /d",
            "cache warm /d/a /d/b",
            "cache drop /d/a",
            "cache list",
            "cache list /d",
            "key list /v",
            "key add --recovery --recovery-file r --passphrase-file f /v",
            "key add --new-passphrase-file n --takeover photos",
            "key remove --state /s /v 2",
            "key change --new-passphrase-fd 3 /v",
            "completions bash",
            "-vv status",
            "status -q",
        ] {
            let words = std::iter::once("dripfs").chain(line.split(' '));
            Arguments::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn wrong_usage_has_exit_code_2() {
        for line in [
            "",
            "dance",
            "mount",
            "sync",
            "search",
            "search -i -s x",
            "cache",
            "cache warm",
            "key",
            "key remove /v",
            "key add --recovery --new-passphrase-file n /v",
            "mount --durability never /v /d",
            "mount --init --read-only /v /d",
            "mount --accept-rollback --read-only /v /d",
            "init --passphrase-fd 3 --passphrase-file f /v",
        ] {
            let words = std::iter::once("dripfs").chain(line.split(' ').filter(|word| !word.is_empty()));
            assert_eq!(Arguments::try_parse_from(words).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
