//! Profiles: what a mount is asked for, in a file of TOML; man/dripfs.toml.5 lists the keys.
//!
//! Owns where profiles lie, who may have written one, its keys, and errors that name file, line and key. Does not own what
//! the settings mean: each goes the way of a word of `-o` ([`options`]).
//!
//! Invariants: a profile may name a command to run, so one that somebody else could have written (its owner, its mode, or
//! the mode of its directory) is refused; a key that is not known is an error, never passed over.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use log::LevelFilter;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::args;
use super::exit::{Failure, USAGE};
use super::options::{self, MountOptions};
use crate::mount::Environment;

/// Where an administrator puts them.
const SYSTEM: &str = "/etc/dripfs";
/// Where root's state of these lies; StateDirectory= of the unit is the same place.
pub const SYSTEM_STATE: &str = "/var/lib/dripfs";
/// No profile is longer.
const BYTES_MAX: u64 = 64 * 1024;

/// Words of `-o` that are true or false.
pub const SWITCHES: [&str; 6] = ["ro", "allow_other", "dev", "suid", "exec", "sync"];

/// A profile that was read.
#[derive(Debug)]
pub struct Profile {
    pub path: PathBuf,
    pub url: String,
    pub directory: Option<PathBuf>,
    pub passphrase: args::Passphrase,
    pub log_level: Option<LevelFilter>,
    pub options: MountOptions,
}

/// The profile of this name. `None` if the word cannot be one, or there is no such file: it is the path of a vault then.
pub fn find(word: &str, env: Environment<'_>) -> Result<Option<Profile>, Failure> {
    if !is_name(word) {
        return Ok(None);
    }
    for directory in places(env) {
        let path = directory.join(format!("{word}.toml"));
        match read_checked(&path, rustix::process::geteuid().as_raw()) {
            Ok(text) => return parse(path, &text, env).map(Some),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => return Err(Failure::new(USAGE, format!("{}: {e}", path.display()))),
        }
    }
    Ok(None)
}

/// The directory that a word means: a path, or what the profile of that name says. A path that is there comes first.
pub fn directory(word: &Path, env: Environment<'_>) -> Result<PathBuf, Failure> {
    let there = fs::symlink_metadata(word).is_ok();
    let profile = match word.to_str().filter(|_| !there) {
        Some(name) => find(name, env)?,
        None => None,
    };
    Ok(profile.and_then(|profile| profile.directory).unwrap_or_else(|| word.to_owned()))
}

/// The same profile once more.
pub fn again(path: &Path, env: Environment<'_>) -> Result<Profile, Failure> {
    let text = read_checked(path, rustix::process::geteuid().as_raw());
    let text = text.map_err(|e| Failure::new(USAGE, format!("{}: {e}", path.display())))?;
    parse(path.to_owned(), &text, env)
}

/// Where profiles are looked for, the first that has it counts.
pub fn places(env: Environment<'_>) -> Vec<PathBuf> {
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    own.map(|path| path.join("dripfs")).into_iter().chain([PathBuf::from(SYSTEM)]).collect()
}

/// Neither a path nor a URL.
pub fn is_name(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.@+".contains(c);
    !word.is_empty() && !word.starts_with(['.', '-']) && word.len() <= 128 && word.chars().all(plain)
}

/// What is judged is the open file, so that it cannot be another one when it is read.
fn read_checked(path: &Path, me: u32) -> io::Result<String> {
    // A pipe in its place would be waited for.
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    let refused = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if !meta.is_file() {
        return refused("is not a file".into());
    }
    if meta.uid() != 0 && meta.uid() != me {
        return refused(format!("belongs to user {}, who could have a command run here: not read", meta.uid()));
    }
    if meta.mode() & 0o022 != 0 {
        return refused("can be written by others, who could have a command run here: run `chmod go-w` on it".into());
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let above = fs::metadata(directory)?;
    if (above.uid() != 0 && above.uid() != me) || (above.mode() & 0o022 != 0 && above.mode() & 0o1000 == 0) {
        return refused(format!("its directory {} can be written by others: not read", directory.display()));
    }
    let mut text = String::new();
    file.by_ref().take(BYTES_MAX + 1).read_to_string(&mut text)?;
    match text.len() as u64 > BYTES_MAX {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "is longer than 64 KiB")),
        false => Ok(text),
    }
}

fn parse(path: PathBuf, text: &str, env: Environment<'_>) -> Result<Profile, Failure> {
    let fails = |at: usize, why: &str| {
        let line = text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
        Failure::new(USAGE, format!("{}:{line}: {why}", path.display()))
    };
    let table = DeTable::parse(text).map_err(|e| fails(e.span().map_or(0, |span| span.start), e.message()))?;
    let mut read = Reading { profile: empty(), home: env("HOME").map(PathBuf::from) };
    let mut pairs: Vec<_> = table.get_ref().iter().collect();
    // As they stand in the file: of two that do not go together the second is told.
    pairs.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in pairs {
        let name: &str = key.get_ref();
        read.take(name, value).map_err(|why| fails(key.span().start, &format!("{name}: {why}")))?;
    }
    let mut profile = read.profile;
    if profile.url.is_empty() {
        return Err(fails(0, "url: it is missing: a profile says which vault it is for"));
    }
    if rustix::process::geteuid().is_root() && path.starts_with(SYSTEM) && env("STATE_DIRECTORY").is_none() {
        // The same one by hand as by the service, whatever HOME is.
        profile.options.state.get_or_insert_with(|| SYSTEM_STATE.into());
    }
    profile.path = path;
    Ok(profile)
}

fn empty() -> Profile {
    Profile {
        path: PathBuf::new(),
        url: String::new(),
        directory: None,
        passphrase: args::Passphrase::default(),
        log_level: None,
        options: MountOptions::default(),
    }
}

/// A profile while it is read.
struct Reading {
    profile: Profile,
    home: Option<PathBuf>,
}

impl Reading {
    fn take(&mut self, name: &str, value: &Spanned<DeValue<'_>>) -> Result<(), String> {
        let value = value.get_ref();
        match name {
            "url" => {
                let url = text(value)?;
                self.profile.url = if url.contains(':') { url } else { self.path(&url)?.display().to_string() };
            }
            "directory" => self.profile.directory = Some(self.path(&text(value)?)?),
            "passphrase-file" | "passphrase-command" if self.profile.passphrase.is_given() => {
                return Err("there is another source of the passphrase already".into());
            }
            "passphrase-file" => self.profile.passphrase.passphrase_file = Some(self.path(&text(value)?)?),
            "passphrase-command" => self.profile.passphrase.passphrase_command = Some(text(value)?),
            "log-level" => {
                let level = text(value)?.parse().ok().filter(|level| *level != LevelFilter::Off);
                self.profile.log_level = Some(level.ok_or("one of error, warn, info, debug, trace")?);
            }
            "state" => self.profile.options.state = Some(self.path(&text(value)?)?),
            "compress" if value.is_bool() => self.profile.options.compress = value.as_bool() == Some(true),
            name if SWITCHES.contains(&name) => return self.switch(name, value),
            name if options::SETTINGS.contains(&name) || options::demands().any(|demand| demand == name) => {
                let taken = options::take_setting(&mut self.profile.options, name, &scalar(value)?);
                taken.map_err(|failure| failure.message.replace("; see `dripfs --help`", ""))?;
            }
            _ => return Err("there is no such key; dripfs.toml(5) lists them".into()),
        }
        Ok(())
    }

    fn switch(&mut self, name: &str, value: &DeValue<'_>) -> Result<(), String> {
        let on = value.as_bool().ok_or_else(|| format!("true or false, not {}", value.type_str()))?;
        let word = match (name, on) {
            ("ro", false) => "rw",
            ("sync", false) => "async",
            ("dev", false) => "nodev",
            ("suid", false) => "nosuid",
            ("exec", false) => "noexec",
            // It is off unless it is said.
            ("allow_other", false) => return Ok(()),
            (name, _) => name,
        };
        options::take(&mut self.profile.options, word).map_err(|failure| failure.message)
    }

    /// From where a profile is used says nothing about where its paths begin.
    fn path(&self, text: &str) -> Result<PathBuf, String> {
        match (text.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => Ok(home.join(rest)),
            (Some(_), None) => Err("~ stands for HOME, which is not set".into()),
            (None, _) if text.starts_with('/') => Ok(PathBuf::from(text)),
            (None, _) => Err(format!("{text:?}: a path that begins with / or ~/")),
        }
    }
}

fn text(value: &DeValue<'_>) -> Result<String, String> {
    match value.as_str() {
        Some("") => Err("is empty".into()),
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("a text in quotes, not {}", value.type_str())),
    }
}

/// A number may stand without quotes.
fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        _ => text(value),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::mount::drive::Durability;

    /// Keys of their own, beside the settings of `-o`.
    const KEYS: [&str; 5] = ["url", "directory", "passphrase-file", "passphrase-command", "log-level"];

    #[test]
    fn the_manual_lists_every_key_and_no_other() {
        let manual = include_str!("../../man/dripfs.toml.5").replace('\\', "");
        let listed: Vec<&str> =
            manual.lines().filter_map(|line| line.strip_prefix(".BR ")?.strip_suffix(" \" =\"")).collect();
        let demands: Vec<String> = options::demands().collect();
        let known = KEYS.iter().chain(&SWITCHES).chain(&options::SETTINGS).copied();
        let known: Vec<&str> = known.chain(demands.iter().map(String::as_str)).collect();
        for key in &known {
            assert!(
                listed.contains(key) || key.contains('_') && manual.contains(&format!(".IR STAGE _{} ", stage(key))),
                "{key}"
            );
        }
        for key in listed.iter().filter(|key| **key != "url") {
            assert!(known.contains(key), "{key} is no key");
            assert!(read(&format!("url = '/v'\n{key} = []")).unwrap_err().contains("not array"), "{key}");
        }
    }

    fn stage(key: &str) -> &str {
        key.split_once('_').map_or("", |(_, what)| what)
    }

    fn read(text: &str) -> Result<Profile, String> {
        let home = |name: &str| (name == "HOME").then(|| "/home/me".into());
        parse("/etc/dripfs/x.toml".into(), text, &home).map_err(|failure| failure.message)
    }

    #[test]
    fn a_profile_says_all_that_a_command_line_may() {
        let profile = read(
            "url = 's3://bucket/p'\ndirectory = '~/x'\npassphrase-file = '/p'\nlog-level = 'debug'\nro = true\n\
             exec = false\nsync = true\ncache = '1G'\nfollow = 9\ncompress = false\ndurability = 'remote'\n\
             upload-limit = '2M'\nget_workers = 40\nstate = '/s'\nallow_other = false\n",
        )
        .unwrap();
        assert_eq!((profile.url.as_str(), profile.directory), ("s3://bucket/p", Some("/home/me/x".into())));
        assert_eq!(profile.passphrase.passphrase_file, Some("/p".into()));
        assert_eq!(profile.log_level, Some(LevelFilter::Debug));
        let options = profile.options;
        assert!(options.read_only && !options.compress);
        assert_eq!(options.kernel_words, ["noexec", "sync"]);
        assert_eq!((options.cache_bytes, options.follow_seconds), (1 << 30, 9));
        assert_eq!((options.durability, options.pipelines.get.workers), (Some(Durability::Remote), 40));
        assert_eq!((options.limits.upload.unwrap().get(), options.state), (2 << 20, Some("/s".into())));
        assert_eq!(read("url = '~/vault'").unwrap().url, "/home/me/vault");
    }

    #[test]
    fn every_setting_is_a_key() {
        for name in options::SETTINGS.into_iter().map(str::to_owned).chain(options::demands()) {
            let message = read(&format!("url = '/v'\n{name} = ''\n")).unwrap_err();
            assert!(message.starts_with("/etc/dripfs/x.toml:2: ") && message.contains("is empty"), "{message}");
        }
        for name in SWITCHES {
            read(&format!("url = '/v'\n{name} = true\n")).unwrap();
        }
    }

    #[test]
    fn errors_name_file_line_and_key() {
        for (text, named) in [
            ("url = '/v'\n\nchache = '1G'", ":3: chache: there is no such key"),
            ("url = '/v'\ncache = '1X'", ":2: cache: the mount option cache=1X"),
            ("url = '/v'\ncache = true", ":2: cache: a text in quotes, not boolean"),
            ("url = '/v'\nro = 'yes'", ":2: ro: true or false"),
            ("url = 'vault'", ":1: url: \"vault\": a path that begins"),
            (
                "url = '/v'\npassphrase-file = '/p'\npassphrase-command = 'c'",
                ":3: passphrase-command: there is another",
            ),
            ("url = '/v'\nlog-level = 'loud'", ":2: log-level: one of"),
            ("url = '/v'\nurl = '/w'", ":2: duplicate key"),
            ("url = '/v'\n[cache]\nsize = 1", ":2: cache: a text in quotes, not table"),
            ("url = '/v'\nnonsense", ":2: "),
            ("directory = '/d'", ":1: url: it is missing"),
            ("url = ''", ":1: url: is empty"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(named), "{text:?}: {message}");
        }
    }

    #[test]
    fn a_profile_that_somebody_else_could_have_written_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let me = rustix::process::geteuid().as_raw();
        let path = dir.path().join("x.toml");
        fs::write(&path, "url = '/v'").unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for bad in [0o666, 0o660, 0o602] {
            mode(&path, bad);
            assert!(read_checked(&path, me).unwrap_err().to_string().contains("chmod go-w"), "{bad:o}");
        }
        mode(&path, 0o644);
        read_checked(&path, me).unwrap();
        mode(dir.path(), 0o777);
        assert!(read_checked(&path, me).unwrap_err().to_string().contains("its directory"));
        mode(dir.path(), 0o755);
        if me == 0 {
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            assert!(read_checked(&path, me).unwrap_err().to_string().contains("belongs to user 12345"));
        }
    }

    #[test]
    fn names_are_neither_paths_nor_urls() {
        for (word, is) in [("photos", true), ("a.b_c-d", true), ("./photos", false), ("/v", false), ("s3://b", false)] {
            assert_eq!(is_name(word), is, "{word}");
        }
        assert!(!is_name("..") && !is_name("") && !is_name("-x"));
        let none = find("no-such-profile-anywhere", &|_| None).unwrap();
        assert!(none.is_none());
    }
}
