//! A stand-in for a service manager: its notify socket, and a process started as dripfs@.service starts it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::common::{Vault, wait_until};

/// For a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    /// All that was heard, assignment by assignment.
    pub heard: Vec<String>,
}

impl Manager {
    pub fn new(vault: &Vault) -> Manager {
        let path = vault.root().join("notify");
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        Manager { socket, path, heard: Vec::new() }
    }

    /// Hears until something fits; returns it.
    #[track_caller]
    pub fn wait(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(found) = self.hear(Duration::from_millis(200)).into_iter().find(|line| fits(line)) {
                return found;
            }
        }
        panic!("waited {PATIENCE:?} for {what}; heard {:?}", self.heard);
    }

    /// What comes next, if anything comes in that time.
    pub fn hear(&mut self, within: Duration) -> Vec<String> {
        self.socket.set_read_timeout(Some(within)).unwrap();
        let mut bytes = [0; 8192];
        let Ok(len) = self.socket.recv(&mut bytes) else { return Vec::new() };
        let lines: Vec<String> = String::from_utf8_lossy(&bytes[..len]).lines().map(str::to_owned).collect();
        self.heard.extend(lines.iter().cloned());
        lines
    }

    /// Takes what lies in the socket.
    pub fn empty(&mut self) {
        while !self.hear(Duration::from_millis(1)).is_empty() {}
    }
}

/// `dripfs mount drive`, from a profile, in the foreground.
pub struct Service {
    pub child: Child,
    log: PathBuf,
}

impl Service {
    /// `more`: further lines of the profile.
    pub fn start(vault: &Vault, manager: &Manager, more: &str, environment: &[(&str, &str)]) -> Service {
        write_profile(vault, more);
        let log = vault.root().join("journal");
        let journal = fs::File::options().append(true).create(true).open(&log).unwrap();
        let meta = journal.metadata().unwrap();
        let mut command = vault.dripfs(["mount", "drive"]);
        // As in the unit: the passphrase is a credential.
        let credentials = vault.root().join("credentials");
        fs::create_dir_all(&credentials).unwrap();
        fs::copy(vault.passphrase_file(), credentials.join("passphrase")).unwrap();
        command.env_remove("DRIPFS_PASSPHRASE_FILE").env("CREDENTIALS_DIRECTORY", credentials);
        command.env("NOTIFY_SOCKET", &manager.path);
        command.env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()));
        command.envs(environment.iter().copied());
        let child = command.stdout(Stdio::null()).stderr(journal).spawn().unwrap();
        Service { child, log }
    }

    /// Started, and ready.
    pub fn ready(vault: &Vault, manager: &mut Manager, more: &str, environment: &[(&str, &str)]) -> Service {
        let service = Service::start(vault, manager, more, environment);
        manager.wait("READY=1", |line| line == "READY=1");
        service
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child that was not waited for yet.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// How it ended: the exit code, or minus the signal.
    #[track_caller]
    pub fn ended(&mut self) -> i32 {
        let mut status = None;
        wait_until("the service has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap();
        status.code().unwrap_or_else(|| -status.signal().unwrap_or_default())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The profile `drive` of this vault's user.
pub fn write_profile(vault: &Vault, more: &str) {
    let directory = vault.root().join("home/.config/dripfs");
    fs::create_dir_all(&directory).unwrap();
    let text = format!(
        "url = '{}'\ndirectory = '{}'\nstate = '{}'\n{more}\n",
        match vault.url() {
            url if url.contains(':') => url,
            path => format!("file://{path}"),
        },
        vault.mountpoint().display(),
        vault.state().display()
    );
    fs::write(directory.join("drive.toml"), text).unwrap();
}

/// A vault that is there, and not mounted.
pub fn vault() -> Option<Vault> {
    let mut vault = Vault::new()?;
    vault.mount_with(&["--kdf-memory", "64"]);
    vault.umount();
    Some(vault)
}
