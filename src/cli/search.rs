//! `search`: asks the room in a directory, by its file, so that whoever may enter the drive may ask.
//!
//! Owns what is printed and the exit code, which is grep's, and one more where not everything was searched. Does not own what
//! is found: it is the answer in the room, whose own words tell where its last lines begin.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

use super::args::Search;
use super::exit::{self, Failure};
use super::{client, printable};
use crate::search::pattern::{Case, Output, Query};

/// Told by a directory: its room's name. By an answer: what it says of itself.
const XATTR: &str = "user.dripfs.search";
/// The longest that either is.
const XATTR_MAX: usize = 4096;
/// A longer name the kernel takes from no program (PATH_MAX, with the zero at its end).
const NAME_MAX: usize = 4095;
/// Kernels before 6.14 pass no longer one to a FUSE filesystem.
const NAME_MAX_ONCE: usize = 1024;

#[derive(Deserialize)]
struct Summary {
    matches: u64,
    partial: bool,
    notes_at: u64,
}

pub fn search(args: &Search) -> Result<u8, Failure> {
    let fails = |message: String| Failure::new(exit::SEARCH_ERROR, message);
    let query = query(args)?;
    if let Err(error) = query.compile() {
        return Err(fails(error.to_string()));
    }
    let dir = args.dir.as_deref().unwrap_or(Path::new("."));
    let room = dir.join(room(dir).map_err(fails)?);
    let path = if args.all { room.join("all") } else { room.clone() };
    let name = query.name();
    if name.len() > NAME_MAX {
        return Err(fails(too_long(name.len(), NAME_MAX)));
    }
    let (answer, summary) = open(&path, &name).map_err(|e| match room.is_dir() {
        true if e.raw_os_error() == Some(libc::ENAMETOOLONG) => fails(too_long(name.len(), NAME_MAX_ONCE)),
        true => fails(format!("{}: {e}", printable(&dir.to_string_lossy()))),
        false => fails(format!(
            "{}: this is an entry of the directory's own, so it has no room for searches; mount with -o search=NAME",
            printable(&room.to_string_lossy())
        )),
    })?;
    let prefix = args.dir.as_deref().map(|dir| prefix(dir, args.json)).unwrap_or_default();
    let printed = print(answer, &summary, &prefix);
    match printed {
        Ok(()) => {}
        // `dripfs search x | head` is not a failure.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
        Err(e) => return Err(fails(format!("the answer could not be printed: {e}"))),
    }
    Ok(match (summary.partial, summary.matches) {
        (true, _) => exit::PARTIAL,
        (false, 0) => exit::NOTHING_FOUND,
        (false, _) => exit::OK,
    })
}

fn query(args: &Search) -> Result<Query, Failure> {
    let glob = match &args.glob[..] {
        [] => None,
        [one] => Some(one.clone()),
        several if several.iter().any(|glob| glob.starts_with('!')) => {
            return Err(Failure::usage("-g with ! stands alone"));
        }
        several => Some(format!("{{{}}}", several.join(","))),
    };
    let case = match () {
        () if args.ignore_case => Case::Any,
        () if args.smart_case => Case::Smart,
        () => Case::Sensitive,
    };
    let output = match () {
        () if args.json => Output::Json,
        () if args.files => Output::Names,
        () => Output::Lines,
    };
    Ok(Query {
        text: args.pattern.as_bytes().into(),
        case,
        literal: args.fixed_strings,
        word: args.word,
        glob: glob.map(Into::into),
        output,
    })
}

/// What the room in a directory is called.
fn room(dir: &Path) -> Result<PathBuf, String> {
    let shown = printable(&dir.to_string_lossy());
    let mut value = vec![0; XATTR_MAX];
    match rustix::fs::getxattr(dir, XATTR, &mut value[..]) {
        Ok(len) => {
            value.truncate(len);
            Ok(PathBuf::from(std::ffi::OsString::from_vec(value)))
        }
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) if dir.is_dir() => Err(format!(
            "{shown}: not on a drive of dripfs, or on one that was mounted with -o search=off; grep searches it"
        )),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Err(format!("{shown}: not a directory")),
        Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED) => {
            Err(client::silent(&crate::mount::mountpoint::drive_of(dir)))
        }
        Err(e) => Err(format!("{shown}: {}", io::Error::from(e))),
    }
}

fn too_long(len: usize, most: usize) -> String {
    format!(
        "the pattern is too long: with its options {len} bytes, where {most} may be (it is asked for by a file's name, and the \
         kernel takes no longer one): search for parts of it one after another, or use grep"
    )
}

/// From the room itself: its path and a long name together may be more than the kernel takes.
fn open(room: &Path, name: &[u8]) -> io::Result<(File, Summary)> {
    let room = rustix::fs::open(room, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let answer = rustix::fs::openat(room, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(File::from)?;
    let mut value = vec![0; XATTR_MAX];
    let len = rustix::fs::fgetxattr(&answer, XATTR, &mut value[..])?;
    let summary = serde_json::from_slice(&value[..len]).map_err(io::Error::other)?;
    Ok((answer, summary))
}

/// What each line begins with, where a directory was named: its path, as grep prints it.
fn prefix(dir: &Path, json: bool) -> Vec<u8> {
    let mut path = dir.as_os_str().as_bytes().to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    match json {
        true => serde_json::to_string(&String::from_utf8_lossy(&path)).unwrap_or_default().trim_matches('"').into(),
        false => path,
    }
}

/// Matches go to standard output, what is not in the answer to standard error.
fn print(answer: File, summary: &Summary, prefix: &[u8]) -> io::Result<()> {
    /// What an answer in JSON begins each line with: there the path follows.
    const PATH: &[u8] = br#"{"path":""#;
    let mut answer = BufReader::with_capacity(1 << 16, answer);
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut matches = (&mut answer).take(summary.notes_at);
    if prefix.is_empty() {
        io::copy(&mut matches, &mut out)?;
    } else {
        let mut line = Vec::new();
        while matches.read_until(b'\n', &mut line)? > 0 {
            let begins = if line.starts_with(PATH) { PATH.len() } else { 0 };
            out.write_all(&line[..begins])?;
            out.write_all(prefix)?;
            out.write_all(&line[begins..])?;
            line.clear();
        }
    }
    out.flush()?;
    drop(out);
    let mut notes = String::new();
    answer.read_to_string(&mut notes)?;
    for note in notes.lines() {
        let note = match serde_json::from_str::<serde_json::Value>(note) {
            Ok(value) => format!("dripfs: {}", value["note"].as_str().unwrap_or_default()),
            Err(_) => note.to_owned(),
        };
        // A closed standard error changes nothing of the answer.
        let _ = writeln!(io::stderr(), "{}", printable(&note));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_drive_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        assert!(room(dir.path()).unwrap_err().contains("not on a drive"));
        assert!(room(&dir.path().join("none")).unwrap_err().contains("No such file"));
    }

    #[test]
    fn paths_are_printed_as_grep_does() {
        assert_eq!(prefix(Path::new("a/b"), false), b"a/b/");
        assert_eq!(prefix(Path::new("/"), false), b"/");
        assert_eq!(prefix(Path::new("a\"b/"), true), br#"a\"b/"#);
    }
}
