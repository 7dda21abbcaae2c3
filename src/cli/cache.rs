//! `cache warm`, `cache drop`, `cache list`: they ask the process that serves the mount.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::args::Cache;
use super::client::{failure, find};
use super::exit::{self, Failure};
use super::progress::{Display, FETCHED};
use super::{Voice, human_bytes, printable};
use crate::mount::control::{self, CallError, Command};
use crate::mount::drive::{Cached, CachedFile, Moved};
use crate::mount::{MountError, mountpoint};

pub fn cache(args: &Cache, voice: Voice) -> Result<u8, Failure> {
    match args {
        Cache::Warm(paths) => each(&paths.paths, voice, "fetched", |path| Command::Warm { path }),
        Cache::Drop(paths) => each(&paths.paths, voice, "dropped", |path| Command::Drop { path }),
        Cache::List { dir } => list(dir.as_deref()),
    }
}

/// A path as the drive knows it: where that is mounted, and the way from there.
fn within(path: &Path) -> Result<(PathBuf, PathBuf), Failure> {
    let fails = |e: io::Error| Failure::error(format!("{}: {e}", path.display()));
    let whole = mountpoint::canonical(path).map_err(fails)?;
    let dir = mountpoint::drive_of(&whole);
    let below = whole.strip_prefix(&dir).map(Path::to_owned).unwrap_or_default();
    Ok((dir, below))
}

fn ask<T: DeserializeOwned>(stream: UnixStream, command: &Command, display: &mut Display) -> Result<T, Failure> {
    let value = control::call(stream, command, |now| display.show(now, || None)).map_err(failure)?;
    serde_json::from_value(value).map_err(|e| failure(CallError::Strange(e.to_string())))
}

fn each(paths: &[PathBuf], voice: Voice, done: &str, command: impl Fn(PathBuf) -> Command) -> Result<u8, Failure> {
    let mut failed = 0;
    for path in paths {
        let (dir, below) = within(path)?;
        let mut display = Display::new(voice.quiet, FETCHED);
        let moved: Moved = ask(find(&dir)?, &command(below), &mut display)?;
        drop(display);
        failed += moved.failed;
        if !voice.quiet {
            let (shown, bytes) = (printable(&path.to_string_lossy()), human_bytes(moved.bytes));
            print(&format!("{shown}: {done} {bytes} of {} files\n", moved.files))?;
        }
    }
    match failed {
        0 => Ok(exit::OK),
        n => Err(Failure::error(format!("{n} files could not be {done}; the log of the mount says why"))),
    }
}

fn list(dir: Option<&Path>) -> Result<u8, Failure> {
    let drives = match dir {
        Some(dir) => vec![within(dir)?],
        None => {
            let me = rustix::process::geteuid().as_raw();
            let mine = mountpoint::drives().into_iter().filter(|mount| mount.owner == Some(me));
            mine.map(|mount| (mount.dir, PathBuf::new())).collect()
        }
    };
    // A drive that does not answer shows before anything is printed.
    drives.iter().try_for_each(|(dir, _)| find(dir).map(drop))?;
    print(&format!("{:>10} {:>8} {:>6}  path\n", "bytes", "hits", "age"))?;
    for (dir, below) in drives {
        let mut from = Some(0);
        while let Some(begin) = from {
            let command = Command::Cached { path: below.clone(), from: begin };
            let part: Cached = ask(find(&dir)?, &command, &mut Display::new(true, FETCHED))?;
            part.files.iter().try_for_each(|file| print(&row(&dir, file)))?;
            from = part.next;
        }
    }
    Ok(exit::OK)
}

fn row(dir: &Path, file: &CachedFile) -> String {
    let dirty = match file.dirty_bytes {
        0 => String::new(),
        bytes => format!(" ({} not in the journal yet)", human_bytes(bytes)),
    };
    let path = printable(&format!("{}{}", dir.display(), file.path));
    format!("{:>10} {:>8} {:>4} s  {path}{dirty}\n", human_bytes(file.bytes), file.hits, file.age_seconds)
}

fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        // `dripfs cache list | head` is not a failure.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(MountError::io("cache", e).into()),
        _ => Ok(()),
    }
}
