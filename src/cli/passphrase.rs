//! Where the passphrase comes from: a file, a command, a descriptor, the terminal. Never argv, never the environment.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use super::args;
use super::exit::{ERROR, Failure, USAGE};
use super::interrupt::Interrupt;
use crate::crypto::secret::Passphrase;
use crate::mount::Environment;

/// No passphrase is longer; a wrong path may name anything.
const BYTES_MAX: u64 = 64 * 1024;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Source {
    File(PathBuf),
    Command(String),
    Descriptor(RawFd),
    Terminal,
}

/// Gets the passphrase of the vault at `url`; a new one is typed twice.
pub fn get(args: &args::Passphrase, env: Environment<'_>, url: &str, new: bool) -> Result<Passphrase, Failure> {
    let bytes = match choose(args, env, terminal_is_there())? {
        Source::File(path) => from_file(&path)?,
        Source::Command(command) => from_command(&command)?,
        Source::Descriptor(descriptor) => from_descriptor(descriptor)?,
        Source::Terminal => return from_terminal(url, new),
    };
    finish(bytes)
}

/// Gets the passphrase that a slot is made for.
pub fn get_new(args: &args::NewPassphrase, url: &str) -> Result<Passphrase, Failure> {
    let bytes = match (&args.new_passphrase_file, args.new_passphrase_fd) {
        (Some(path), _) => from_file(path)?,
        (None, Some(descriptor)) => from_descriptor(descriptor)?,
        (None, None) if terminal_is_there() => return from_terminal(url, true),
        (None, None) => {
            let why = "no new passphrase, and no terminal to ask for it: give --new-passphrase-file F";
            return Err(Failure::new(USAGE, why));
        }
    };
    finish(bytes)
}

fn choose(args: &args::Passphrase, env: Environment<'_>, terminal: bool) -> Result<Source, Failure> {
    if let Some(path) = &args.passphrase_file {
        return Ok(Source::File(path.clone()));
    }
    if let Some(command) = &args.passphrase_command {
        return Ok(Source::Command(command.clone()));
    }
    if let Some(descriptor) = args.passphrase_fd {
        return Ok(Source::Descriptor(descriptor));
    }
    if let Some(path) = env("DRIPFS_PASSPHRASE_FILE") {
        return Ok(Source::File(path.into()));
    }
    // What systemd hands to a service: only this process may read it.
    let credential = env("CREDENTIALS_DIRECTORY").map(|directory| Path::new(&directory).join("passphrase"));
    if let Some(path) = credential.filter(|path| path.exists()) {
        return Ok(Source::File(path));
    }
    match terminal {
        true => Ok(Source::Terminal),
        false => Err(Failure::new(
            USAGE,
            "no passphrase, and no terminal to ask for it: give --passphrase-file F, set DRIPFS_PASSPHRASE_FILE=F, or as a \
             service hand over the systemd credential `passphrase`",
        )),
    }
}

/// Somebody sits there: a script that only inherited a terminal's session is not asked.
fn terminal_is_there() -> bool {
    (io::stdin().is_terminal() || io::stderr().is_terminal())
        && File::options().read(true).write(true).open("/dev/tty").is_ok()
}

type Secret = Zeroizing<Vec<u8>>;

fn from_file(path: &Path) -> Result<Secret, Failure> {
    let fails = |e: io::Error| Failure::error(format!("passphrase file {}: {e}", path.display()));
    let mut file = File::open(path).map_err(fails)?;
    let meta = file.metadata().map_err(fails)?;
    if meta.is_file() && meta.mode() & 0o044 != 0 {
        let path = path.display();
        log::warn!("the passphrase file {path} can be read by others: run `chmod 600 {path}`");
    }
    read(&mut file).map_err(fails)
}

fn from_command(command: &str) -> Result<Secret, Failure> {
    let fails = |why: String| Failure::error(format!("passphrase command `{command}`: {why}"));
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| fails(format!("cannot be started: {e}")))?;
    let bytes = read(child.stdout.as_mut().expect("standard output was asked for"));
    let status = child.wait().map_err(|e| fails(e.to_string()))?;
    match status.success() {
        true => bytes.map_err(|e| fails(e.to_string())),
        false => Err(fails(format!("failed ({status})"))),
    }
}

fn from_descriptor(descriptor: RawFd) -> Result<Secret, Failure> {
    let fails = |e: io::Error| Failure::error(format!("passphrase from file descriptor {descriptor}: {e}"));
    // SAFETY: the number is only asked about.
    if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } < 0 {
        return Err(fails(io::Error::last_os_error()));
    }
    // SAFETY: it is open, was handed over by whoever started us, and is used nowhere else: it was opened before this
    // process began, and closing it after the reading is what is wanted.
    let mut file = unsafe { File::from_raw_fd(descriptor) };
    let bytes = read(&mut file).map_err(fails);
    if descriptor <= 2 {
        // The standard streams stay open: whatever was opened next would take the number.
        std::mem::forget(file);
    }
    bytes
}

fn from_terminal(url: &str, new: bool) -> Result<Passphrase, Failure> {
    let ask = |prompt: String| {
        // Without it the terminal would stay silent after a Ctrl-C.
        let _shown_again = File::options().read(true).write(true).open("/dev/tty").and_then(Interrupt::restoring);
        rpassword::prompt_password(prompt)
            .map(|text| Zeroizing::new(text.into_bytes()))
            .map_err(|e| Failure::error(format!("the passphrase could not be read from the terminal: {e}")))
    };
    if !new {
        return finish(ask(format!("Passphrase for {url}: "))?);
    }
    let first = ask(format!("New passphrase for {url}: "))?;
    refuse_empty(&first)?;
    match *first == *ask("The same again: ".into())? {
        true => finish(first),
        false => Err(Failure::error("the two passphrases differ; nothing was done")),
    }
}

fn read(from: &mut impl Read) -> io::Result<Secret> {
    // Room from the start, so that growing leaves no copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES_MAX as usize + 1));
    from.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > BYTES_MAX {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "longer than any passphrase (64 KiB)")),
        false => Ok(bytes),
    }
}

/// Takes off one line end, which an editor or echo adds, and nothing else.
fn finish(bytes: Secret) -> Result<Passphrase, Failure> {
    let text = bytes.strip_suffix(b"\n").map_or(&bytes[..], |text| text.strip_suffix(b"\r").unwrap_or(text));
    refuse_empty(text)?;
    Ok(Passphrase::new(text.to_vec()))
}

fn refuse_empty(text: &[u8]) -> Result<(), Failure> {
    match text.is_empty() {
        true => Err(Failure::new(ERROR, "the passphrase is empty: no vault has an empty one")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::IntoRawFd;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn given(path: &Path) -> args::Passphrase {
        args::Passphrase { passphrase_file: Some(path.into()), ..Default::default() }
    }

    fn get_from(args: &args::Passphrase) -> Result<Vec<u8>, String> {
        get(args, &|_| None, "file:///v", false).map(|p| p.as_bytes().to_vec()).map_err(|f| f.message)
    }

    #[test]
    fn one_line_end_is_taken_off_and_nothing_else() {
        for (bytes, want) in [
            (&b"secret"[..], &b"secret"[..]),
            (b"secret\n", b"secret"),
            (b"secret\r\n", b"secret"),
            (b"secret\n\n", b"secret\n"),
            (b"secret\r", b"secret\r"),
            (b" two words \n", b" two words "),
            ("gr\u{fc}n\n".as_bytes(), "gr\u{fc}n".as_bytes()),
        ] {
            assert_eq!(get_from(&given(file(bytes).path())).unwrap(), want);
        }
    }

    #[test]
    fn an_empty_one_is_refused() {
        for bytes in [&b""[..], b"\n", b"\r\n"] {
            assert!(get_from(&given(file(bytes).path())).unwrap_err().contains("empty"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = get_from(&given(Path::new("/no/such/file"))).unwrap_err();
        assert!(error.contains("/no/such/file"), "{error}");
        assert!(get_from(&given(Path::new("/dev/zero"))).unwrap_err().contains("64 KiB"));
        let args = args::Passphrase { passphrase_fd: Some(987), ..Default::default() };
        assert!(get_from(&args).unwrap_err().contains("descriptor 987"));
    }

    #[test]
    fn a_command_and_a_descriptor_give_one_too() {
        let command = |c: &str| args::Passphrase { passphrase_command: Some(c.into()), ..Default::default() };
        assert_eq!(get_from(&command("printf 'a b\\n'")).unwrap(), b"a b");
        let error = get_from(&command("echo x; exit 3")).unwrap_err();
        assert!(error.contains("exit 3") && error.contains("failed"), "{error}");
        let descriptor = file(b"from a descriptor\n").reopen().unwrap().into_raw_fd();
        let args = args::Passphrase { passphrase_fd: Some(descriptor), ..Default::default() };
        assert_eq!(get_from(&args).unwrap(), b"from a descriptor");
    }

    #[test]
    fn the_environment_comes_after_the_arguments_and_the_terminal_last() {
        let env = |name: &str| (name == "DRIPFS_PASSPHRASE_FILE").then(|| "/env".into());
        let none = args::Passphrase::default();
        assert_eq!(choose(&given(Path::new("/arg")), &env, true).unwrap(), Source::File("/arg".into()));
        assert_eq!(choose(&none, &env, true).unwrap(), Source::File("/env".into()));
        assert_eq!(choose(&none, &|_| None, true).unwrap(), Source::Terminal);
        let failure = choose(&none, &|_| None, false).unwrap_err();
        assert!(failure.message.contains("--passphrase-file") && !failure.message.contains('\n'));
    }
}
