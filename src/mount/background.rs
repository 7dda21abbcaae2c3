//! A mount in the background: this program executed anew in a session of its own.
//!
//! The starting process hands the request and the passphrase over the child's standard input (never argv, never the
//! environment), and waits on its standard output for one word: ready, or why not. The child's standard error is the
//! log in the state directory. Nothing is forked without exec, so no thread or lock is lost half-way.
//!
//! Owns both ends of that exchange. Does not own what is asked for, nor the words that a person reads.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::drive::{Closed, Progress};
use super::serve::{self, Observer, Request};
use super::{MountError, mountpoint, state_dir};
use crate::crypto::secret::Passphrase;
use crate::store::Limits;

/// The hidden command by which this program is executed anew.
pub const COMMAND: &str = "serve-in-background";

/// More than a request and a passphrase together ever have.
const INPUT_MAX: usize = 1024 * 1024;
/// More than any one report has.
const REPORT_MAX: usize = 64 * 1024;

/// What the child says, one JSON object a line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    RecoveryKey(SecretText),
    RecoveryWritten(#[serde(with = "super::path_json")] PathBuf),
    Notice(String),
    Ready,
    Failed { code: u8, message: String },
}

/// Wiped when dropped.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct SecretText(String);

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What the starting process has to tell a person while it waits.
pub enum News<'a> {
    RecoveryKey(&'a str),
    RecoveryWritten(&'a std::path::Path),
    /// Something that the mount found, and that is not an error.
    Notice(&'a str),
}

/// Starts the child and returns when its mount answers. `arguments` come before the hidden command (the log level).
pub fn start(
    request: &Request,
    passphrase: &Passphrase,
    arguments: &[String],
    mut tell: impl FnMut(News<'_>),
) -> Result<(), MountError> {
    state_dir::prepare(&request.drive.state)?;
    let log = request.drive.state.join(state_dir::LOG);
    let log_file = OpenOptions::new().append(true).create(true).mode(0o600).open(&log);
    let log_file = log_file.map_err(|e| MountError::io(log.display().to_string(), e))?;
    let fails = |e| MountError::io("the background process cannot be started", e);
    let mut child = Command::new("/proc/self/exe")
        .arg0("dripfs")
        .args(arguments)
        .arg(COMMAND)
        // Only so that a list of processes tells mounts apart.
        .arg(&request.dir)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log_file)
        .spawn()
        .map_err(fails)?;
    let mut input = child.stdin.take().expect("standard input was asked for");
    let mut output = child.stdout.take().expect("standard output was asked for");
    let written = write_request(&mut input, request, passphrase);
    drop(input);
    match written {
        // A child that died at once shows below, by having said nothing.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            // It heard half a request, and ends.
            let _ = child.wait();
            return Err(fails(e));
        }
        _ => {}
    }
    let result = read_reports(&mut output, &mut tell);
    match result {
        Some(result) => result,
        None => Err(MountError::Reported {
            code: 1,
            message: format!("the background process ended before the drive was ready; its log is {}", log.display()),
        }),
    }
}

fn write_request(out: &mut impl Write, request: &Request, passphrase: &Passphrase) -> io::Result<()> {
    serde_json::to_writer(&mut *out, request)?;
    out.write_all(b"\n")?;
    out.write_all(passphrase.as_bytes())
}

fn read_reports(input: &mut impl Read, tell: &mut impl FnMut(News<'_>)) -> Option<Result<(), MountError>> {
    loop {
        let line = read_line(input).ok()??;
        match serde_json::from_slice(&line).ok()? {
            Report::RecoveryKey(key) => tell(News::RecoveryKey(&key.0)),
            Report::RecoveryWritten(path) => tell(News::RecoveryWritten(&path)),
            Report::Notice(text) => tell(News::Notice(&text)),
            Report::Ready => return Some(Ok(())),
            Report::Failed { code, message } => return Some(Err(MountError::Reported { code, message })),
        }
    }
}

/// One line without its end; `None` where there is none, or none that we would write. Byte by byte, for there are few:
/// a buffer would keep what was in it, and so would a vector that grows.
fn read_line(input: &mut impl Read) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(REPORT_MAX));
    let mut byte = Zeroizing::new([0]);
    while line.len() < REPORT_MAX {
        match input.read(&mut byte[..]) {
            Ok(0) => return Ok(None),
            Ok(_) if byte[0] == b'\n' => return Ok(Some(line)),
            Ok(_) => line.push(byte[0]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// The child's first half: learns what to do, and leaves the terminal. Over an automounter's trigger it stays in the group
/// of whoever mounts until that is done: all others who come by there wait for the mount.
pub fn receive() -> Result<(Request, Passphrase), MountError> {
    let fails = |e: io::Error| MountError::io("this command is for dripfs itself; use `dripfs mount --background`", e);
    // It was executed as /proc/self/exe, and pgrep, ps and top would show the end of that.
    let _ = rustix::thread::set_name(c"dripfs");
    // Not by way of std's buffer, which is never wiped.
    let input = io::stdin().as_fd().try_clone_to_owned().map(File::from);
    let received = input.and_then(|mut input| read_request(&mut input)).map_err(fails)?;
    if !mountpoint::mounted_on(&received.0.dir).is_some_and(|mount| mount.is_trigger()) {
        rustix::process::setsid().map_err(|e| fails(e.into()))?;
    }
    Ok(received)
}

fn read_request(input: &mut impl Read) -> io::Result<(Request, Passphrase)> {
    // Room from the start, so that growing leaves no copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(INPUT_MAX + 1));
    input.take(INPUT_MAX as u64 + 1).read_to_end(&mut bytes)?;
    let end = bytes.iter().position(|byte| *byte == b'\n').filter(|_| bytes.len() <= INPUT_MAX);
    let Some(end) = end else { return Err(io::ErrorKind::InvalidData.into()) };
    let request = serde_json::from_slice(&bytes[..end])?;
    Ok((request, Passphrase::new(bytes[end + 1..].to_vec())))
}

/// What the room above knows.
#[derive(Clone, Copy)]
pub struct Told {
    pub exit_code: fn(&MountError) -> u8,
    /// Reads anew what can change while the mount goes on.
    pub reload: fn(&Request) -> Result<Limits, String>,
}

/// The child's second half: serves, and reports to whoever started it.
pub fn serve(request: Request, passphrase: Passphrase, told: Told) -> Result<Closed, MountError> {
    let exit_code = told.exit_code;
    let out = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let out = out.map_err(|e| MountError::io("standard output", e))?;
    let pipe = out.try_clone().map_err(|e| MountError::io("standard output", e))?;
    let reporter = Arc::new(Reporter { out: Mutex::new(Some(out)), told });
    let watched = reporter.clone();
    std::thread::Builder::new()
        .name("starter".into())
        .spawn(move || watched.end_if_left(&pipe))
        .map_err(|e| MountError::io("the thread that watches whoever waits cannot start", e))?;
    let result = serve::serve(request, passphrase, reporter.clone());
    if let Err(error) = &result {
        log::error!("{error}");
        // Once it was ready nobody listens any more; the log has it.
        let _ = reporter.report(&Report::Failed { code: exit_code(error), message: error.to_string() });
    }
    result
}

struct Reporter {
    /// `None` once the starting process was told that the mount is ready.
    out: Mutex<Option<File>>,
    told: Told,
}

fn write_report(out: &Option<File>, report: &Report) -> io::Result<()> {
    let Some(mut out) = out.as_ref() else { return Ok(()) };
    let mut line = Zeroizing::new(Vec::with_capacity(REPORT_MAX));
    serde_json::to_writer(&mut *line, report)?;
    line.push(b'\n');
    out.write_all(&line)
}

impl Reporter {
    fn report(&self, report: &Report) -> io::Result<()> {
        write_report(&self.out.lock(), report)
    }

    /// Whoever started this, and waits, may go (Ctrl-C): then nothing is made and nothing is mounted.
    fn end_if_left(&self, pipe: &File) {
        let mut wanted = libc::pollfd { fd: pipe.as_raw_fd(), events: 0, revents: 0 };
        // SAFETY: one valid entry, as its count says. Without events it returns when nobody reads there any more.
        while unsafe { libc::poll(&mut wanted, 1, -1) } < 0
            && io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
        {}
        // As long as it is held nobody is told that the drive is ready, and then leaves for that reason.
        let out = self.out.lock();
        if out.is_some() {
            log::warn!("whoever started this did not wait until the drive was ready: it is not mounted");
            // SAFETY: a signal to this process, which ends in order by it.
            unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
        }
    }
}

impl Observer for Reporter {
    fn recovery_key(&self, key: &str) {
        if let Err(e) = self.report(&Report::RecoveryKey(SecretText(key.to_owned()))) {
            log::error!("nobody was there to be told the recovery key: {e}");
        }
    }

    fn recovery_written(&self, path: &std::path::Path) {
        // The file is there; that somebody is told so is a courtesy.
        let _ = self.report(&Report::RecoveryWritten(path.to_owned()));
    }

    fn notice(&self, text: &str) {
        if let Err(e) = self.report(&Report::Notice(text.to_owned())) {
            log::debug!("nobody was there to be told: {e}");
        }
    }

    fn ready(&self, request: &Request) -> io::Result<()> {
        log::info!("ready: {} on {}", request.url, request.dir.display());
        // It fails where this is a session already.
        let _ = rustix::process::setsid();
        let mut out = self.out.lock();
        write_report(&out, &Report::Ready)?;
        *out = None;
        Ok(())
    }

    fn draining(&self, now: Progress) {
        log::debug!("draining: {} files, {} bytes left", now.pending_files, now.pending_bytes);
    }

    fn reload(&self, request: &Request) -> Result<Limits, String> {
        (self.told.reload)(request)
    }

    fn exit_code(&self, error: &MountError) -> u8 {
        (self.told.exit_code)(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports(text: &str) -> (Option<Result<(), MountError>>, Vec<String>) {
        let mut news = Vec::new();
        let result = read_reports(&mut text.as_bytes(), &mut |piece| match piece {
            News::RecoveryKey(key) => news.push(key.to_owned()),
            News::RecoveryWritten(path) => news.push(path.display().to_string()),
            News::Notice(text) => news.push(text.to_owned()),
        });
        (result, news)
    }

    #[test]
    fn ready_failed_and_silence_are_told_apart() {
        let (result, news) = reports("{\"recovery_key\":\"abc\"}\n\"ready\"\n");
        assert!(matches!(result, Some(Ok(()))));
        assert_eq!(news, ["abc"]);
        let (result, _) = reports("{\"failed\":{\"code\":12,\"message\":\"wrong passphrase\"}}\n");
        assert!(matches!(result, Some(Err(MountError::Reported { code: 12, .. }))));
        assert!(reports("").0.is_none());
        assert!(reports("thread panicked\n").0.is_none());
        assert!(reports("\"ready\"").0.is_none(), "a line has an end");
        assert!(reports(&" ".repeat(2 * REPORT_MAX)).0.is_none());
    }

    #[test]
    fn any_passphrase_arrives_as_it_was() {
        let text = r#"{"url":"file:///v","dir":"/m","drive":{"state":"/s","read_only":false,"durability":"local",
            "takeover":false,"compress":true,"cache_bytes":1,"dirty_bytes":1,"journal_bytes":1,"checkpoint":{"bytes":1,"commits":1}},"init":null,
            "kernel_words":[],"background":true}"#;
        let request: Request = serde_json::from_str(text).unwrap();
        let passphrase = Passphrase::new(b"two\nlines \xff\0 \r\n".to_vec());
        let mut sent = Vec::new();
        write_request(&mut sent, &request, &passphrase).unwrap();
        let (back, received) = read_request(&mut &sent[..]).unwrap();
        assert_eq!(back.url, request.url);
        assert_eq!(received.as_bytes(), passphrase.as_bytes());
        sent.resize(INPUT_MAX + 1, b'x');
        assert!(read_request(&mut &sent[..]).is_err(), "not cut: refused");
        assert!(read_request(&mut &b"{}"[..]).is_err());
    }
}
