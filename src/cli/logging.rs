//! Log lines: to standard error, or in the background to a file that does not grow for ever.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use env_logger::{Builder, Target};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// A log is renamed when it is so long; one old one is kept.
const LOG_MAX: u64 = 1024 * 1024;

/// How much to log when RUST_LOG says nothing: `usual`, more with -v, errors only with -q.
pub fn level(usual: LevelFilter, verbose: u8, quiet: bool) -> LevelFilter {
    let steps = [LevelFilter::Warn, LevelFilter::Info, LevelFilter::Debug, LevelFilter::Trace];
    let from = steps.iter().position(|level| *level == usual).unwrap_or(0);
    match quiet {
        true => LevelFilter::Error,
        false => steps[(from + usize::from(verbose)).min(steps.len() - 1)],
    }
}

/// What a background process is to be told so that it logs as much as this one.
pub fn arguments(verbose: u8, quiet: bool) -> Vec<String> {
    match (quiet, verbose) {
        (true, _) => vec!["-q".into()],
        (false, 0) => Vec::new(),
        (false, n) => vec![format!("-{}", "v".repeat(n.into()))],
    }
}

/// Logs to standard error; without times, which a person does not need and journald adds. For journald each line bears
/// its priority.
pub fn to_stderr(level: LevelFilter) {
    let mut builder = builder();
    match is_journal() {
        true => builder.format(|out, record| {
            let number = priority(record.level());
            record.args().to_string().lines().try_for_each(|line| writeln!(out, "<{number}>{line}"))
        }),
        false => builder.format(|out, record| {
            writeln!(out, "dripfs: {}: {}", record.level().as_str().to_ascii_lowercase(), record.args())
        }),
    };
    start(builder, level);
}

/// Logs to a file, with times.
pub fn to_file(level: LevelFilter, path: PathBuf) -> io::Result<()> {
    let mut builder = builder();
    builder.format_timestamp_millis().format_target(false).target(Target::Pipe(Box::new(Rotating::open(path)?)));
    start(builder, level);
    // A panic would be written to a standard error that nobody may read, and past the rotation.
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    Ok(())
}

/// What goes before a line of ours that is no log line, for journald's sake (an error unless it says otherwise).
pub fn prefix(level: Level) -> String {
    match is_journal() {
        true => format!("<{}>", priority(level)),
        false => String::new(),
    }
}

/// As syslog(3) counts them, which journald reads from `<N>` before a line.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Does standard error go to the journal? The variable may be inherited, and standard error be another by now.
fn is_journal() -> bool {
    let Ok(words) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(io::stderr()) else { return false };
    words == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// How much is logged now ([`LevelFilter`] as a number), and what it was at the start: RUST_LOG, -v and -q stand.
static NOW: AtomicUsize = AtomicUsize::new(LevelFilter::Warn as usize);
static AT_START: OnceLock<LevelFilter> = OnceLock::new();

/// Changes how much is logged, or with `None` goes back to what it was at the start. RUST_LOG overrules it.
pub fn set_level(level: Option<LevelFilter>) {
    if let Some(start) = AT_START.get() {
        let level = level.unwrap_or(*start);
        NOW.store(level as usize, Relaxed);
        log::set_max_level(level);
    }
}

/// RUST_LOG decides where it is set; else all comes through here, and [`Gate`] decides.
fn builder() -> Builder {
    let mut builder = Builder::new();
    match rust_log() {
        Some(words) => builder.parse_filters(&words),
        None => builder.filter_level(LevelFilter::Trace),
    };
    builder
}

fn rust_log() -> Option<String> {
    std::env::var("RUST_LOG").ok().filter(|words| !words.is_empty())
}

fn start(mut builder: Builder, level: LevelFilter) {
    let logger = builder.build();
    let (most, logger): (_, Box<dyn Log>) = match rust_log() {
        Some(_) => (logger.filter(), Box::new(logger)),
        None => (level, Box::new(Gate { logger, level: &NOW })),
    };
    // Only a second start fails, and the first then goes on.
    if log::set_boxed_logger(logger).is_ok() {
        log::set_max_level(most);
        if rust_log().is_none() {
            NOW.store(level as usize, Relaxed);
            AT_START.get_or_init(|| level);
        }
    }
}

/// Lets through what the level of now allows, which may change.
struct Gate {
    logger: env_logger::Logger,
    level: &'static AtomicUsize,
}

impl Log for Gate {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        allows(self.level.load(Relaxed), metadata.target(), metadata.level())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.logger.log(record);
        }
    }

    fn flush(&self) {
        self.logger.flush();
    }
}

/// Other crates' chatter stays out below debug. That of fuser never comes in: it tells the names of files, and a log may
/// be a file on a disk where names are sealed.
fn allows(now: usize, target: &str, level: Level) -> bool {
    let (level, warn) = (level as usize, Level::Warn as usize);
    let of = |name: &str| target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let most = match () {
        () if of("dripfs") => now,
        () if of("fuser") => now.min(warn),
        () if now >= Level::Debug as usize => now,
        () => now.min(warn),
    };
    level <= most
}

struct Rotating {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Rotating {
    fn open(path: PathBuf) -> io::Result<Rotating> {
        let file = append(&path)?;
        let len = file.metadata()?.len();
        Ok(Rotating { path, file, len })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".old");
        fs::rename(&self.path, old)?;
        self.file = append(&self.path)?;
        self.len = 0;
        Ok(())
    }
}

fn append(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Write for Rotating {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.len >= LOG_MAX {
            self.rotate()?;
        }
        let written = self.file.write(line)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_never_grows_past_its_bound_and_one_old_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Rotating::open(path.clone()).unwrap();
        for _ in 0..5 {
            log.write_all(&vec![b'x'; LOG_MAX as usize / 2]).unwrap();
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), LOG_MAX / 2);
        assert_eq!(fs::metadata(dir.path().join("log.old")).unwrap().len(), LOG_MAX);
        drop(log);
        let mut log = Rotating::open(path.clone()).unwrap();
        log.write_all(b"more").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), LOG_MAX / 2 + 4);
    }

    #[test]
    fn no_level_lets_the_names_of_files_into_a_log() {
        let wanted = |target, level| allows(LevelFilter::Trace as usize, target, level);
        assert!(wanted("dripfs::fs", Level::Trace) && wanted("object_store", Level::Trace));
        assert!(!wanted("fuser::request", Level::Debug) && wanted("fuser::request", Level::Warn));
    }

    #[test]
    fn each_level_lets_in_its_own_and_others_only_when_they_warn() {
        let at = |now: LevelFilter, target, level| allows(now as usize, target, level);
        assert!(at(LevelFilter::Info, "dripfs::vault", Level::Info) && !at(LevelFilter::Info, "dripfs", Level::Debug));
        assert!(!at(LevelFilter::Info, "reqwest", Level::Info) && at(LevelFilter::Info, "reqwest", Level::Warn));
        assert!(!at(LevelFilter::Error, "reqwest", Level::Warn) && !at(LevelFilter::Info, "dripfs2", Level::Info));
        assert!(at(LevelFilter::Debug, "reqwest", Level::Debug));
        assert_eq!([Level::Error, Level::Warn, Level::Info, Level::Trace].map(priority), [3, 4, 6, 7]);
    }

    #[test]
    fn levels_go_up_by_v_and_down_by_q() {
        assert_eq!(level(LevelFilter::Info, 0, false), LevelFilter::Info);
        assert_eq!(level(LevelFilter::Warn, 1, false), LevelFilter::Info);
        assert_eq!(level(LevelFilter::Warn, 2, false), LevelFilter::Debug);
        assert_eq!(level(LevelFilter::Info, 9, false), LevelFilter::Trace);
        assert_eq!(level(LevelFilter::Info, 0, true), LevelFilter::Error);
        assert_eq!(arguments(2, false), ["-vv"]);
    }
}
