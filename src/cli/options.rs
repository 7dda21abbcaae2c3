//! Words of `-o`: those of mount(8), those of dripfs, and those that others put into fstab.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;

use super::exit::Failure;
use crate::cache::TTL;
use crate::cache::disk::LEAST;
use crate::mount::drive::Durability;
use crate::mount::follower::EVERY;
use crate::mount::http;
use crate::pipeline;
use crate::store::Limits;

const MIB: u64 = 1024 * 1024;
/// The least bandwidth limit, bytes a second.
const RATE_MIN: u64 = 4096;
/// The slowest pace of a read-only mount, and the longest life of decrypted bytes that nobody uses, seconds: a day.
const SECONDS_MAX: u64 = 86_400;

/// The most that a stage works on at once.
const JOBS_MAX: usize = 1024;

/// Words of `-o` with a value, beside those of stages ([`demands`]). Each is a key of profiles too.
pub const SETTINGS: [&str; 14] = [
    "durability",
    "state",
    "cache",
    "cache_ttl",
    "disk_cache",
    "dirty",
    "journal",
    "follow",
    "upload-limit",
    "download-limit",
    "compress",
    "readahead",
    "inflight",
    "metrics",
];

/// `seal_workers` and the like.
pub fn demands() -> impl Iterator<Item = String> {
    let stages = ["seal", "append", "put", "get", "open"];
    stages
        .into_iter()
        .flat_map(|stage| ["workers", "min", "max", "bytes", "kept"].map(|what| format!("{stage}_{what}")))
}

/// What all `-o` together say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountOptions {
    pub read_only: bool,
    pub durability: Option<Durability>,
    pub state: Option<PathBuf>,
    pub passphrase_file: Option<PathBuf>,
    pub compress: bool,
    pub cache_bytes: u64,
    /// How long decrypted bytes are kept that nobody uses, seconds.
    pub ttl_seconds: u64,
    /// `None`: as the store suggests.
    pub disk_cache_bytes: Option<u64>,
    pub dirty_bytes: u64,
    pub journal_bytes: u64,
    /// How often a read-only mount looks whether the vault has gone on.
    pub follow_seconds: u64,
    /// How much each stage of the pipelines takes.
    pub pipelines: pipeline::Settings,
    pub limits: Limits,
    /// Where metrics are served over HTTP.
    pub metrics: Option<SocketAddr>,
    /// For the kernel, in order.
    pub kernel_words: Vec<String>,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            read_only: false,
            durability: None,
            state: None,
            passphrase_file: None,
            compress: true,
            cache_bytes: 256 * MIB,
            ttl_seconds: TTL.as_secs(),
            disk_cache_bytes: None,
            dirty_bytes: 128 * MIB,
            journal_bytes: 4096 * MIB,
            follow_seconds: EVERY.as_secs(),
            pipelines: pipeline::Settings::default(),
            limits: Limits::default(),
            metrics: None,
            kernel_words: Vec::new(),
        }
    }
}

/// What concerns the kernel alone.
const KERNEL: [&str; 13] = [
    "allow_other",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "atime",
    "noatime",
    "relatime",
    "default_permissions",
    "sync",
    "async",
];

/// What concerns mount(8), systemd and file managers, and nothing here.
const SWALLOWED: [&str; 15] = [
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "defaults",
    "nofail",
    "_netdev",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "nostrictatime",
];

/// Reads the arguments of all `-o` on top of what stands already, a later word overruling an earlier one.
pub fn add<'a>(options: &mut MountOptions, lists: impl IntoIterator<Item = &'a str>) -> Result<(), Failure> {
    for word in lists.into_iter().flat_map(|list| list.split(',')).filter(|word| !word.is_empty()) {
        take(options, word)?;
    }
    Ok(())
}

/// One word of `-o`.
pub fn take(options: &mut MountOptions, word: &str) -> Result<(), Failure> {
    match word {
        "ro" => options.read_only = true,
        "rw" => options.read_only = false,
        _ if KERNEL.contains(&word) => options.kernel_words.push(word.to_owned()),
        _ if SWALLOWED.contains(&word) || ["x-", "comment=", "user="].iter().any(|start| word.starts_with(start)) => {}
        _ => match word.split_once('=') {
            Some((name, value)) => take_setting(options, name, value)?,
            None => return Err(unknown(word)),
        },
    }
    Ok(())
}

pub fn take_setting(options: &mut MountOptions, name: &str, value: &str) -> Result<(), Failure> {
    let choice = |allowed: &str| Failure::usage(format!("the mount option {name}={value}: {name} is one of {allowed}"));
    match name {
        "durability" => {
            options.durability = Some(Durability::of(value).ok_or_else(|| choice("local, remote, async"))?);
        }
        "state" if value.is_empty() => return Err(choice("the paths of directories")),
        "state" => options.state = Some(PathBuf::from(value)),
        "passphrase-file" if value.is_empty() => return Err(choice("the paths of files")),
        "passphrase-file" => options.passphrase_file = Some(PathBuf::from(value)),
        "compress" => {
            options.compress = match value {
                "on" => true,
                "off" => false,
                _ => return Err(choice("on, off")),
            }
        }
        // Below these an extent of 4 MiB, twice and with its neighbours, has no room.
        "cache" => options.cache_bytes = size(name, value, 16 * MIB)?,
        "disk_cache" if value == "0" => options.disk_cache_bytes = Some(0),
        "disk_cache" => options.disk_cache_bytes = Some(size(name, value, LEAST.next_multiple_of(16 * MIB))?),
        "dirty" => options.dirty_bytes = size(name, value, 16 * MIB)?,
        "journal" => options.journal_bytes = size(name, value, 64 * MIB)?,
        "cache_ttl" => {
            options.ttl_seconds = seconds(value).ok_or_else(|| choice("the numbers of seconds from 1 to 86400"))?
        }
        "follow" => {
            options.follow_seconds = seconds(value).ok_or_else(|| choice("the numbers of seconds from 1 to 86400"))?
        }
        "upload-limit" => options.limits.upload = Some(rate(name, value)?),
        "download-limit" => options.limits.download = Some(rate(name, value)?),
        "metrics" => {
            let address = value.parse().ok().filter(http::may_listen);
            options.metrics = Some(address.ok_or_else(|| choice("127.0.0.1:PORT, [::1]:PORT"))?);
        }
        "inflight" => options.pipelines.inflight_bytes = size(name, value, 64 * MIB)? as usize,
        "readahead" => options.pipelines.readahead_bytes = size(name, value, 0)? as usize,
        _ => take_demand(options, name, value)?,
    }
    Ok(())
}

/// `seal_workers=2`: a stage of the pipelines, and what of it.
fn take_demand(options: &mut MountOptions, name: &str, value: &str) -> Result<(), Failure> {
    let Some((stage, setting)) = name.split_once('_') else { return Err(unknown(name)) };
    let pipelines = &mut options.pipelines;
    let demand = match stage {
        "seal" => &mut pipelines.seal,
        "append" => &mut pipelines.append,
        "put" => &mut pipelines.put,
        "get" => &mut pipelines.get,
        "open" => &mut pipelines.open,
        _ => return Err(unknown(name)),
    };
    let (number, least) = match setting {
        "workers" => (&mut demand.workers, 1),
        "min" => (&mut demand.min, 0),
        "max" => (&mut demand.max, 1),
        "kept" => (&mut demand.kept, 0),
        "bytes" => {
            demand.bytes = size(name, value, MIB)? as usize;
            return Ok(());
        }
        _ => return Err(unknown(name)),
    };
    match value.parse() {
        Ok(given) if (least..=JOBS_MAX).contains(&given) => *number = given,
        _ => {
            return Err(Failure::usage(format!(
                "the mount option {name}={value}: {name} is one of the numbers from {least} to {JOBS_MAX}"
            )));
        }
    }
    Ok(())
}

fn seconds(value: &str) -> Option<u64> {
    value.parse().ok().filter(|seconds| (1..=SECONDS_MAX).contains(seconds))
}

/// Bytes a second, spelled as a size. Below the least nothing of a vault arrives in a time that anybody waits.
pub fn rate(name: &str, value: &str) -> Result<NonZeroU64, Failure> {
    let spelled = value.strip_suffix("/s").unwrap_or(value);
    let bytes = size(name, spelled, 0)?;
    match NonZeroU64::new(bytes).filter(|bytes| bytes.get() >= RATE_MIN) {
        Some(rate) => Ok(rate),
        None => Err(Failure::usage(format!("{name} {value}: at least 4K a second"))),
    }
}

fn unknown(name: &str) -> Failure {
    Failure::usage(format!("unknown mount option {name:?}; `dripfs mount --help` lists them"))
}

/// `64M`, `4G`, `1024K`, `2T` or bytes; powers of 1024.
fn size(name: &str, value: &str, least: u64) -> Result<u64, Failure> {
    let digits = value.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = value[digits.len()..].to_ascii_uppercase();
    let factor = match unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit) {
        "" => Some(1),
        "K" => Some(1024),
        "M" => Some(MIB),
        "G" => Some(1024 * MIB),
        "T" => Some(1024 * 1024 * MIB),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    match bytes {
        Some(bytes) if bytes >= least => Ok(bytes),
        Some(_) => Err(Failure::usage(format!("the mount option {name}={value}: at least {}M", least / MIB))),
        None => Err(Failure::usage(format!("the mount option {name}={value}: not a size such as 256M or 4G"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<MountOptions, Failure> {
        let mut options = MountOptions::default();
        add(&mut options, lists).map(|()| options)
    }

    #[test]
    fn every_setting_that_is_listed_is_one() {
        for name in SETTINGS.into_iter().map(str::to_owned).chain(demands()) {
            let mut options = MountOptions::default();
            let failure = take_setting(&mut options, &name, "?").err();
            let taken = failure.is_none_or(|failure| !failure.message.contains("unknown"));
            assert!(taken, "{name}");
        }
    }

    #[test]
    fn settings_and_words_are_read_from_all_lists() {
        let options = parse([
            "ro,noexec,cache=1G",
            "dirty=65536K,journal=67108864,compress=off",
            "follow=9,cache_ttl=7,state=/s,",
        ])
        .unwrap();
        assert!(options.read_only && !options.compress);
        assert_eq!(options.kernel_words, ["noexec"]);
        assert_eq!(options.cache_bytes, 1 << 30);
        assert_eq!((options.dirty_bytes, options.journal_bytes), (64 << 20, 64 << 20));
        assert_eq!((options.ttl_seconds, options.follow_seconds), (7, 9));
        assert_eq!(options.disk_cache_bytes, None);
        assert_eq!(parse(["disk_cache=1G,disk_cache=0"]).unwrap().disk_cache_bytes, Some(0));
        assert_eq!(parse(["disk_cache=2G"]).unwrap().disk_cache_bytes, Some(2 << 30));
        assert_eq!(options.state, Some("/s".into()));
        let flow = parse(["get_workers=40,get_max=50,seal_bytes=8M", "inflight=1G,readahead=0"]).unwrap().pipelines;
        assert_eq!((flow.get.workers, flow.get.max, flow.seal.bytes), (40, 50, 8 << 20));
        assert_eq!(
            (flow.inflight_bytes, flow.readahead_bytes, flow.put),
            (1 << 30, 0, pipeline::Settings::default().put)
        );
        let later = parse(["ro,durability=async", "rw,durability=remote"]).unwrap();
        assert!(!later.read_only);
        assert_eq!(later.durability, Some(Durability::Remote));
    }

    #[test]
    fn limits_are_bytes_a_second() {
        let limits = parse(["upload-limit=2MiB,download-limit=500K/s"]).unwrap().limits;
        assert_eq!(limits.upload.unwrap().get(), 2 << 20);
        assert_eq!(limits.download.unwrap().get(), 500 << 10);
    }

    #[test]
    fn what_fstab_holds_for_others_is_swallowed() {
        let line =
            "rw,auto,noauto,user,user=me,nouser,users,owner,defaults,nofail,_netdev,x-systemd.automount,comment=a=b";
        assert_eq!(parse([line]).unwrap(), MountOptions::default());
        assert_eq!(parse(["relatime,noatime"]).unwrap().kernel_words, ["relatime", "noatime"]);
    }

    #[test]
    fn what_is_unknown_is_named() {
        for (list, named) in [
            ("nonsense", "\"nonsense\""),
            ("chache=1G", "\"chache\""),
            ("cache=1X", "cache=1X"),
            ("cache=", "cache="),
            ("cache=1M", "at least 16M"),
            ("journal=99999999999999T", "journal="),
            ("durability=never", "local, remote, async"),
            ("compress=yes", "on, off"),
            ("state=", "state="),
            ("follow=0", "from 1 to 86400"),
            ("follow=5s", "follow=5s"),
            ("cache_ttl=0", "from 1 to 86400"),
            ("upload-limit=1K", "at least 4K"),
            ("download-limit=fast", "download-limit=fast"),
            ("get_workers=0", "from 1 to 1024"),
            ("get_nonsense=1", "get_nonsense"),
            ("eat_workers=1", "eat_workers"),
            ("inflight=1M", "at least 64M"),
            ("metrics=0.0.0.0:9090", "127.0.0.1:PORT"),
            ("metrics=9090", "127.0.0.1:PORT"),
            ("disk_cache=1M", "at least 32M"),
        ] {
            let failure = parse([list]).unwrap_err();
            assert!(failure.code == 2 && failure.message.contains(named), "{list}: {}", failure.message);
        }
    }

    #[test]
    fn sizes_are_powers_of_1024_however_they_are_spelled() {
        for spelled in ["1G", "1g", "1GiB", "1GB", "1024M", "1073741824"] {
            assert_eq!(size("cache", spelled, 0).unwrap(), 1 << 30, "{spelled}");
        }
    }

    #[test]
    fn every_word_for_the_kernel_is_one_that_the_kernel_side_takes() {
        let mut kernel = crate::fuse::MountOptions::new("file:///v", "/mnt");
        for word in KERNEL {
            assert!(kernel.set(word), "{word}");
        }
        for word in parse(["sync,dev,noexec", "async,nodev,exec"]).unwrap().kernel_words {
            kernel.set(&word);
        }
        assert!(!kernel.synchronous && !kernel.devices && !kernel.no_exec, "a later word overrules an earlier one");
    }
}
