//! What the integration tests share: a vault of a test's own, mounted by the real binary, and gone afterwards.
//!
//! A test begins with `let Some(vault) = Vault::mounted() else { return };`. Where nothing can be mounted that says
//! `SKIPPED` on stderr, past the test runner's capture; with CI=true it fails instead: there nothing may be skipped.
//!
//! Nothing outlives the test run, whatever ends it: each vault has a shell beside it that cleans up when its standard
//! input closes, which the kernel sees to. DRIPFS_BIN names another binary to test than the one just built.

// Every test binary uses a part of this.
#![allow(dead_code)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// With blanks and beyond ASCII, as people's are.
pub const PASSPHRASE: &str = "correct horse bättery";

/// Waits below are for a slow machine; a healthy one needs milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A vault in a directory of its own, with a state directory (a "machine") and a mountpoint.
pub struct Vault {
    root: PathBuf,
    state: PathBuf,
    mounted: bool,
    reaper: Child,
    /// Where the vault lies, if not in the directory.
    url: Option<String>,
    environment: Vec<(String, String)>,
}

impl Vault {
    /// Directories and a passphrase file; nothing is mounted yet. `None` where nothing can be mounted.
    pub fn new() -> Option<Vault> {
        if let Some(why) = cannot_mount() {
            skip(&why);
            return None;
        }
        let root = fresh_directory();
        for name in ["vault", "state", "mnt", "home"] {
            fs::create_dir(root.join(name)).expect("room for directories");
        }
        let passphrase = root.join("passphrase");
        fs::write(&passphrase, PASSPHRASE).expect("room for a passphrase");
        fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).expect("our own file");
        let (state, reaper) = (root.join("state"), reaper(&root));
        Some(Vault { state, reaper, root, mounted: false, url: None, environment: Vec::new() })
    }

    /// As [`Vault::new`], of a vault that lies at this URL; the binary finds these variables in its environment.
    pub fn at(url: &str, environment: impl IntoIterator<Item = (impl ToString, impl ToString)>) -> Option<Vault> {
        let mut vault = Vault::new()?;
        vault.url = Some(url.to_owned());
        vault.environment.extend(environment.into_iter().map(|(name, value)| (name.to_string(), value.to_string())));
        Some(vault)
    }

    /// What the vault is mounted by.
    pub fn url(&self) -> String {
        self.url.clone().unwrap_or_else(|| self.remote().to_str().expect("test paths are UTF-8").to_owned())
    }

    /// A new vault, mounted.
    pub fn mounted() -> Option<Vault> {
        let mut vault = Vault::new()?;
        vault.mount();
        Some(vault)
    }

    /// Everything of this vault lies below: vault, state, mnt, home.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn mountpoint(&self) -> PathBuf {
        self.root.join("mnt")
    }

    /// The provider's side: a directory of objects.
    pub fn remote(&self) -> PathBuf {
        self.root.join("vault")
    }

    pub fn state(&self) -> &Path {
        &self.state
    }

    pub fn passphrase_file(&self) -> PathBuf {
        self.root.join("passphrase")
    }

    /// The binary, in an environment that holds nothing of whoever runs the tests.
    pub fn dripfs<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).env_clear().env("HOME", self.root.join("home")).stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("DRIPFS_PASSPHRASE_FILE", self.passphrase_file());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Mounts, with `--init`, in the background; returns once the drive answers.
    pub fn mount(&mut self) {
        self.mount_with(&[]);
    }

    pub fn mount_with(&mut self, options: &[&str]) {
        let mut command = self.dripfs(["mount", "--init", "--background"]);
        command.arg("--state").arg(&self.state);
        command.arg("--passphrase-file").arg(self.passphrase_file());
        command.arg("--recovery-file").arg(self.root.join("recovery"));
        command.args(options).arg(self.url()).arg(self.mountpoint());
        succeed(&mut command);
        self.mounted = true;
    }

    /// Mounts a vault that this machine knows, also without its store.
    pub fn mount_again(&mut self, options: &[&str]) {
        let mut command = self.dripfs(["mount", "--background"]);
        command.arg("--state").arg(&self.state).args(options).arg(self.remote()).arg(self.mountpoint());
        succeed(&mut command);
        self.mounted = true;
    }

    /// Mounts another one's vault read-only, as a machine of its own beside it.
    pub fn follow(&mut self, other: &Vault, options: &[&str]) {
        let mut command = self.dripfs(["mount", "--read-only", "--background"]);
        command.arg("--state").arg(&self.state);
        command.args(options).arg(other.url()).arg(self.mountpoint());
        succeed(&mut command);
        self.mounted = true;
    }

    /// What `dripfs status --json` says of this mount.
    pub fn status(&self) -> serde_json::Value {
        let output = succeed(self.dripfs(["status", "--json"]).arg(self.mountpoint()));
        serde_json::from_slice(&output.stdout).expect("status is JSON")
    }

    /// Returns once everything that was done on the mount is in the vault.
    pub fn sync(&self) {
        succeed(self.dripfs(["sync"]).arg(self.mountpoint()));
    }

    /// Unmounts; returns once everything is in the vault.
    pub fn umount(&mut self) {
        let mountpoint = self.mountpoint();
        succeed(self.dripfs(["umount"]).arg(&mountpoint));
        self.mounted = false;
    }

    /// From now on as on another machine, which has the vault and the passphrase and nothing else.
    pub fn move_to_machine(&mut self, name: &str) {
        assert!(!self.mounted, "unmount first: a vault has one writer");
        self.state = self.root.join(name);
        fs::create_dir_all(&self.state).expect("room for a directory");
    }

    /// Ends the daemon as a power cut would end a process, and clears the dead mount.
    pub fn kill(&mut self) {
        self.kill_daemons();
        detach(&self.mountpoint());
        self.mounted = false;
    }

    /// Ends the daemon, whose mount stays behind, dead.
    pub fn kill_daemons(&self) {
        let pids = self.daemons();
        for &pid in &pids {
            // SAFETY: a signal to a process that runs our binary on our mountpoint.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        wait_until("the daemon is gone", || pids.iter().all(|&pid| is_gone(pid)));
    }

    /// Processes that run the binary with this mountpoint among their arguments.
    pub fn daemons(&self) -> Vec<i32> {
        let mountpoint = self.mountpoint();
        let mountpoint = mountpoint.to_str().expect("test paths are UTF-8");
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
            words.next().is_some_and(|word| word.contains("dripfs")) && words.any(|word| word == mountpoint)
        })
        .collect()
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        if self.mounted {
            let _ = self.dripfs(["umount"]).arg(self.mountpoint()).stderr(Stdio::null()).status();
        }
        // The reaper does the rest, and is waited for so that no mount is left when the test ends.
        drop(self.reaper.stdin.take());
        let _ = self.reaper.wait();
    }
}

/// Is a filesystem mounted at this very path?
pub fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc");
    mounts.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

/// Has the process ended with all its threads, so that its files are closed and its locks free? A process that is
/// ending has no command line any more long before that.
pub fn is_gone(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let is_zombie = stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    is_zombie && threads <= 1
}

/// Bytes that compress not at all, for each seed the same at every run.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    let mut bytes = vec![0; len];
    rand::rngs::SmallRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("DRIPFS_BIN").map_or_else(|| env!("CARGO_BIN_EXE_dripfs").into(), PathBuf::from)
}

/// A directory of its own on the disk that Cargo builds on (not a tmpfs, which may lack extended attributes).
pub fn fresh_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("room for a directory");
    path.canonicalize().expect("just made")
}

/// The long forms are asked for.
pub fn long() -> bool {
    std::env::var("DRIPFS_LONG").is_ok_and(|value| value == "1")
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that something was not tested, past the capture of the test runner. Fails where nothing may be skipped.
pub fn skip(why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "in CI nothing is skipped, but here: {why}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
}

fn cannot_mount() -> Option<String> {
    match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => None,
        Err(e) => Some(format!("/dev/fuse: {e}; load the module fuse, or pass the device into the container")),
    }
}

/// Runs a command that must succeed.
#[track_caller]
pub fn succeed(command: &mut Command) -> Output {
    let output = run(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\nstdout: {out}\nstderr: {err}", output.status);
    output
}

/// Runs a command; a program that is missing fails the test with the way to get it.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    match command.output() {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let program = command.get_program().to_string_lossy().into_owned();
            panic!("{program} is missing here: the script that runs all tests installs it; or install it yourself")
        }
        Err(e) => panic!("{command:?}: {e}"),
    }
}

#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Clears a mountpoint whose process is gone.
pub fn detach(mountpoint: &Path) {
    let (program, flags) = if is_root() { ("umount", "-l") } else { ("fusermount3", "-uz") };
    let _ = Command::new(program).arg(flags).arg(mountpoint).stderr(Stdio::null()).status();
}

/// Cleans up below `root` when its standard input closes: at the latest when this process ends.
fn reaper(root: &Path) -> Child {
    let script = r#"read -r _
        if mountpoint -q "$1/mnt" || ! stat "$1/mnt" >/dev/null 2>&1; then
            timeout 20 "$2" umount "$1/mnt" || umount -l "$1/mnt" || fusermount3 -uz "$1/mnt"
        fi
        for below in disk power; do
            if mountpoint -q "$1/$below" || [ -d "$1/$below" -a ! -x "$1/$below/." ]; then umount -l "$1/$below"; fi
        done
        for try in 1 2 3 4 5 6 7 8 9 10; do
            if ! mountpoint -q "$1/mnt" && rm -rf --one-file-system "$1"; then break; fi
            sleep 0.3
        done"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "reaper"]).arg(root).arg(binary());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // A Ctrl-C at the terminal is for the tests, not for what cleans up after them.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().expect("a shell")
}
