//! Log lines: to standard error, or in the background to a file that does not grow for ever.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use env_logger::{Builder, Target};
use log::LevelFilter;

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

/// Logs to standard error; without times, which a person does not need and journald adds.
pub fn to_stderr(level: LevelFilter) {
    let mut builder = filtered(level);
    builder.format(|out, record| {
        writeln!(out, "dripfs: {}: {}", record.level().as_str().to_ascii_lowercase(), record.args())
    });
    start(builder);
}

/// Logs to a file, with times.
pub fn to_file(level: LevelFilter, path: PathBuf) -> io::Result<()> {
    let mut builder = filtered(level);
    builder.format_timestamp_millis().format_target(false).target(Target::Pipe(Box::new(Rotating::open(path)?)));
    start(builder);
    // A panic would be written to a standard error that nobody may read, and past the rotation.
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    Ok(())
}

/// RUST_LOG decides where it is set.
fn filtered(level: LevelFilter) -> Builder {
    match std::env::var("RUST_LOG") {
        Ok(words) if !words.is_empty() => {
            let mut builder = Builder::new();
            builder.parse_filters(&words);
            builder
        }
        _ => usual(level),
    }
}

/// Other crates' chatter stays out below debug. That of fuser never comes in: it tells the names of files, and a log may
/// be a file on a disk where names are sealed.
fn usual(level: LevelFilter) -> Builder {
    let others = if level >= LevelFilter::Debug { level } else { level.min(LevelFilter::Warn) };
    let mut builder = Builder::new();
    builder.filter_level(others).filter_module("dripfs", level).filter_module("fuser", level.min(LevelFilter::Warn));
    builder
}

fn start(mut builder: Builder) {
    // Only a second start fails, and the first then goes on.
    let _ = builder.try_init();
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
        use log::{Level, Log, Record};
        let logger = usual(LevelFilter::Trace).build();
        let wanted = |target, level| logger.matches(&Record::builder().target(target).level(level).build());
        assert!(wanted("dripfs::fs", Level::Trace) && wanted("object_store", Level::Trace));
        assert!(!wanted("fuser::request", Level::Debug) && wanted("fuser::request", Level::Warn));
        assert!(logger.enabled(&log::Metadata::builder().target("dripfs").level(Level::Trace).build()));
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
