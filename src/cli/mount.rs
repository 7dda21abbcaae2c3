//! `init` and `mount`: everything that can be checked cheaply comes before the passphrase is asked for.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use log::LevelFilter;
use parking_lot::Mutex;

use super::args::{self, Init, Mount, NewVault};
use super::exit::{self, Failure};
use super::options::{self, MountOptions};
use super::profile::{self, Profile};
use super::progress::{Display, SENT};
use super::{Voice, client, logging, passphrase, printable};
use crate::format::header::Cost;
use crate::fuse;
use crate::mount::background::{self, News};
use crate::mount::drive::{Caching, Closed, DriveOptions, Durability, Progress};
use crate::mount::new_vault::{self, Recovery};
use crate::mount::serve::{self, Observer, Request};
use crate::mount::{MountError, environment, mountpoint, state_dir};
use crate::search;
use crate::store::{self, Limits, Store, StoreError};
use crate::vault::VaultError;
use crate::vault::checkpoint::keeper::When;

/// How long a store that may be away is looked at, before anything is asked for.
const LOOKING: Duration = Duration::from_secs(15);
/// What the disk cache of a remote store may take, if nobody says otherwise.
const DISK_CACHE: u64 = 1 << 30;

pub fn init(args: &Init) -> Result<u8, Failure> {
    let request = new_vault_request(&args.new_vault)?;
    let store = store::open(&args.url)?;
    if store.is_read_only() {
        return Err(only_readable(&store));
    }
    if store.is_volatile() {
        return Err(Failure::usage(
            "a vault in memory ends with the process: use `dripfs mount --init memory:/// DIR`",
        ));
    }
    let state = state_dir::choose(args.state.as_deref(), store.url(), &environment, is_root())?;
    let runtime = small_runtime()?;
    if runtime.block_on(new_vault::stands(&store))? {
        return Err(VaultError::Exists { url: store.url().to_owned() }.into());
    }
    state_dir::refuse_if_known(&state, store.url())?;
    let passphrase = passphrase::get(&args.passphrase, &environment, store.url(), true)?;
    let file = request.recovery_file.as_deref();
    let made = new_vault::make(&store, &state, &passphrase, request.cost(), file);
    let (id, recovery) = runtime.block_on(made).map_err(|error| Failure::from(error).at(store.url()))?;
    eprintln!("dripfs: made vault {id} at {url}; mount it with: dripfs mount {url} DIR", url = store.url());
    match (recovery, file) {
        (Recovery::Written, Some(path)) => say_recovery_written(path),
        (Recovery::Shown(key), _) => show_recovery_key(&key)?,
        (Recovery::Written, None) => unreachable!("a key is written only to a file that was asked for"),
    }
    Ok(exit::OK)
}

/// What profile and command line say together; the command line overrules.
struct Asked {
    profile: Option<Profile>,
    options: MountOptions,
    /// What the command line alone says.
    fixed_limits: Limits,
    read_only: bool,
}

impl Asked {
    fn of(args: &Mount) -> Result<Asked, Failure> {
        let profile = profile::find(&args.url, &environment)?;
        let mut options = profile.as_ref().map(|profile| profile.options.clone()).unwrap_or_default();
        let of_profile = std::mem::take(&mut options.limits);
        options::add(&mut options, args.options.iter().map(String::as_str))?;
        if let Some(rate) = &args.upload_limit {
            options.limits.upload = Some(options::rate("--upload-limit", rate)?);
        }
        if let Some(rate) = &args.download_limit {
            options.limits.download = Some(options::rate("--download-limit", rate)?);
        }
        let fixed_limits = options.limits;
        options.limits = over(fixed_limits, of_profile);
        let read_only = args.read_only || options.read_only;
        if read_only && (args.init || args.takeover || args.accept_rollback) {
            return Err(Failure::usage("a read-only mount neither makes a vault nor takes one over"));
        }
        Ok(Asked { profile, options, fixed_limits, read_only })
    }

    fn directory(&self, args: &Mount) -> Result<PathBuf, Failure> {
        match (&args.dir, &self.profile) {
            (Some(dir), _) => Ok(dir.clone()),
            (None, Some(Profile { directory: Some(dir), .. })) => Ok(dir.clone()),
            (None, Some(profile)) => {
                Err(Failure::usage(format!("{}: it has no `directory`: say where to mount it", profile.path.display())))
            }
            (None, None) => {
                let places: Vec<String> =
                    profile::places(&environment).iter().map(|place| place.display().to_string()).collect();
                Err(Failure::usage(format!(
                    "{}: no profile of this name in {}; for a vault, say where to mount it",
                    args.url,
                    places.join(" or ")
                )))
            }
        }
    }

    /// Where it comes from, unless the command line says so.
    fn passphrase(&self, args: &Mount) -> args::Passphrase {
        match (&self.profile, &self.options.passphrase_file) {
            _ if args.passphrase.is_given() => args.passphrase.clone(),
            (_, Some(path)) => args::Passphrase { passphrase_file: Some(path.clone()), ..Default::default() },
            (Some(profile), None) => profile.passphrase.clone(),
            (None, None) => args::Passphrase::default(),
        }
    }
}

fn over(first: Limits, second: Limits) -> Limits {
    Limits { upload: first.upload.or(second.upload), download: first.download.or(second.download) }
}

/// What can change while a mount goes on: bandwidth, and how much is logged.
fn reload(request: &Request) -> Result<Limits, String> {
    let Some(path) = &request.profile else {
        return Err("it was mounted without a profile, and there is nothing else to read anew".to_owned());
    };
    let profile = profile::again(path, &environment).map_err(|failure| failure.message)?;
    logging::set_level(profile.log_level);
    Ok(over(request.fixed_limits, profile.options.limits))
}

pub fn mount(args: &Mount, voice: Voice) -> Result<u8, Failure> {
    let asked = Asked::of(args)?;
    let Asked { profile, options, read_only, .. } = &asked;
    let new = new_vault_request(&args.new_vault)?;
    let store = store::open(profile.as_ref().map_or(&args.url, |profile| &profile.url))?;
    if store.is_read_only() && !read_only {
        return Err(only_readable(&store));
    }
    let dir = prepare_dir(&asked.directory(args)?, args.init, store.url())?;
    let state = choose_state(args, options, &store)?;
    let makes = !look_for_vault(&store, args.init, *read_only, &state).map_err(|failure| failure.at(store.url()))?;
    state_dir::prepare(&state)?;
    // Only a look, before anything is typed: whoever serves takes it again.
    match state_dir::lock(&state) {
        Err(VaultError::StateInUse { .. }) if client::wait_for_ending(&state, voice)? => drop(state_dir::lock(&state)?),
        looked => drop(looked?),
    }
    let passphrase = passphrase::get(&asked.passphrase(args), &environment, store.url(), makes)?;
    let request = request(args, &asked, store.url(), dir, state, new, voice);
    log_as_asked(&request);
    drop(store);
    if args.background {
        let started = background::start(&request, &passphrase, &logging::arguments(voice.verbose, voice.quiet), tell);
        started.map_err(|error| Failure::from(error).at(&request.url))?;
        say_ready(&request);
        return Ok(exit::OK);
    }
    let observer = Arc::new(Foreground { display: Mutex::new(Display::new(voice.quiet, SENT)) });
    let url = request.url.clone();
    closed(serve::serve(request, passphrase, observer).map_err(|error| Failure::from(error).at(&url))?)
}

/// A drive that is opened for writing, and nothing else said.
pub fn drive_options(options: &MountOptions, url: &str, state: PathBuf) -> DriveOptions {
    DriveOptions {
        state,
        read_only: false,
        durability: Durability::default(),
        takeover: false,
        accept_rollback: false,
        compress: options.compress,
        cache_bytes: options.cache_bytes,
        caching: caching(options, url),
        dirty_bytes: options.dirty_bytes,
        journal_bytes: options.journal_bytes,
        checkpoint: When::default(),
        follow_seconds: options.follow_seconds,
        pipelines: options.pipelines,
        gc: Default::default(),
        rounds: Default::default(),
    }
}

/// What whoever serves the mount is asked for.
fn request(
    args: &Mount,
    asked: &Asked,
    url: &str,
    dir: PathBuf,
    state: PathBuf,
    new: serve::Init,
    voice: Voice,
) -> Request {
    let options = &asked.options;
    // -v and -q overrule the profile.
    let level = asked.profile.as_ref().and_then(|profile| profile.log_level);
    let level = level.filter(|_| voice.verbose == 0 && !voice.quiet);
    Request {
        url: url.to_owned(),
        dir,
        drive: DriveOptions {
            read_only: asked.read_only,
            durability: args.durability.map(Into::into).or(options.durability).unwrap_or_default(),
            takeover: args.takeover,
            accept_rollback: args.accept_rollback,
            ..drive_options(options, url, state)
        },
        init: args.init.then_some(new),
        search: search::Settings { ttl_seconds: options.ttl_seconds, ..options.search.clone() },
        kernel_words: options.kernel_words.clone(),
        limits: options.limits,
        background: args.background,
        profile: asked.profile.as_ref().map(|profile| profile.path.clone()),
        fixed_limits: asked.fixed_limits,
        metrics: options.metrics,
        source: args.helper.then(|| args.url.clone()),
        log_level: level.map(|level| level.as_str().to_ascii_lowercase()),
    }
}

pub fn only_readable(store: &Store) -> Failure {
    Failure::usage(format!(
        "{}: over http a vault can only be read: mount it with --read-only, or give the URL of the store itself",
        store.url()
    ))
}

/// What lies on this machine already is not kept on it a second time, unless somebody says so.
fn caching(options: &options::MountOptions, url: &str) -> Caching {
    let local = url.starts_with("file:") || url.starts_with("memory:");
    let usual = if local { 0 } else { DISK_CACHE };
    Caching { ttl_seconds: options.ttl_seconds, disk_bytes: options.disk_cache_bytes.unwrap_or(usual) }
}

/// As much as a profile says, if it does.
fn log_as_asked(request: &Request) {
    if let Some(level) = request.log_level.as_deref().and_then(|level| level.parse().ok()) {
        logging::set_level(Some(level));
    }
}

/// The background half.
pub fn serve_in_background(level: LevelFilter) -> Result<u8, Failure> {
    let (request, passphrase) = background::receive()?;
    let log = request.drive.state.join(state_dir::LOG);
    logging::to_file(level, log.clone()).map_err(|e| Failure::error(format!("{}: {e}", log.display())))?;
    log_as_asked(&request);
    match background::serve(request, passphrase, background::Told { exit_code: exit::code_of, reload }) {
        Ok(Closed::Drained) => Ok(exit::OK),
        Ok(Closed::Pending(bytes)) => {
            log::warn!("{}", exit::not_drained(bytes).message);
            Ok(exit::NOT_DRAINED)
        }
        // It was reported and logged.
        Err(error) => Ok(exit::code_of(&error)),
    }
}

pub fn new_vault_request(args: &NewVault) -> Result<serve::Init, Failure> {
    let (least, most) = (Cost::FLOOR.memory_kib / 1024, Cost::CEILING.memory_kib / 1024);
    if !(least..=most).contains(&args.kdf_memory) {
        return Err(Failure::usage(format!("--kdf-memory {}: from {least} to {most} MiB", args.kdf_memory)));
    }
    let kdf_memory_kib = args.kdf_memory * 1024;
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).map_err(|e| Failure::usage(format!("--recovery-file {}: {e}", path.display())))
    };
    Ok(serve::Init { kdf_memory_kib, recovery_file: args.recovery_file.as_ref().map(absolute).transpose()? })
}

fn prepare_dir(dir: &Path, make: bool, url: &str) -> Result<PathBuf, Failure> {
    fuse::available()?;
    if make {
        mountpoint::make(dir)?;
    }
    let dir = mountpoint::check(dir)?;
    mountpoint::check_apart(&dir, url)?;
    Ok(dir)
}

fn choose_state(args: &Mount, options: &MountOptions, store: &Store) -> Result<PathBuf, Failure> {
    let explicit = args.state.as_deref().or(options.state.as_deref());
    // What is in memory is another vault each time, and so is what is remembered of it.
    let mut url = store.url().to_owned();
    if store.is_volatile() {
        url = format!("{url}#{}", std::process::id());
    }
    Ok(state_dir::choose(explicit, &url, &environment, is_root())?)
}

/// Does a vault stand there? It is an error where one should. One that is known here may be mounted for writing although
/// its store does not answer: whether that can be done, the drive finds out.
fn look_for_vault(store: &Store, init: bool, read_only: bool, state: &Path) -> Result<bool, Failure> {
    let known = !read_only && state_dir::has_pin(state)?;
    if known && !init {
        store.must_exist();
    }
    let runtime = small_runtime()?;
    let stands = match known {
        true => runtime.block_on(async { tokio::time::timeout(LOOKING, new_vault::stands(store)).await }),
        false => Ok(runtime.block_on(new_vault::stands(store))),
    };
    // A request may hang in a store that does not answer.
    runtime.shutdown_background();
    let stands = match stands {
        Ok(Err(StoreError::Unavailable { .. })) | Err(_) if known => return Ok(true),
        Ok(stands) => stands?,
        Err(_) => unreachable!("there is a limit only where the vault is known"),
    };
    match (stands, init) {
        (true, _) => {}
        (false, init) => {
            state_dir::refuse_if_known(state, store.url())?;
            if !init {
                return Err(VaultError::NotFound { url: store.url().to_owned() }.into());
            }
        }
    }
    Ok(stands)
}

fn small_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| MountError::io("the runtime cannot start", e).into())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn closed(closed: Closed) -> Result<u8, Failure> {
    match closed {
        Closed::Drained => {
            log::info!("unmounted; everything is in the vault");
            Ok(exit::OK)
        }
        Closed::Pending(bytes) => Err(exit::not_drained(bytes)),
    }
}

struct Foreground {
    display: Mutex<Display>,
}

impl Observer for Foreground {
    fn recovery_key(&self, key: &str) {
        tell(News::RecoveryKey(key));
    }

    fn recovery_written(&self, path: &Path) {
        tell(News::RecoveryWritten(path));
    }

    fn notice(&self, _text: &str) {
        // The log is on the same terminal.
    }

    fn ready(&self, request: &Request) -> io::Result<()> {
        say_ready(request);
        Ok(())
    }

    fn draining(&self, now: Progress) {
        self.display.lock().show(now, || None);
    }

    fn reload(&self, request: &Request) -> Result<Limits, String> {
        reload(request)
    }

    fn exit_code(&self, error: &MountError) -> u8 {
        exit::code_of(error)
    }
}

fn tell(news: News<'_>) {
    match news {
        News::RecoveryWritten(path) => say_recovery_written(path),
        News::Notice(text) => _ = writeln!(io::stderr(), "dripfs: {}", printable(text)),
        News::RecoveryKey(key) => {
            if let Err(e) = show_recovery_key(key) {
                eprintln!("dripfs: {}", e.message);
            }
        }
    }
}

fn say_ready(request: &Request) {
    let (url, dir) = (&request.url, request.dir.display());
    let level = match request.drive.read_only {
        true => "read-only".to_owned(),
        false => format!("durability {}", request.drive.durability.name()),
    };
    let search = match &request.search.name {
        Some(name) => format!("search with: dripfs search PATTERN {dir} (or cat {dir}/{name}/PATTERN); "),
        None => String::new(),
    };
    // A closed standard error is no reason to end a mount.
    let prefix = logging::prefix(log::Level::Info);
    let _ = writeln!(
        io::stderr(),
        "{prefix}dripfs: ready: {url} on {dir} ({level}); {search}unmount with: dripfs umount {dir}"
    );
}

pub fn say_recovery_written(path: &Path) {
    eprintln!("dripfs: the recovery key is in {}: keep it away from this machine", path.display());
}

pub fn show_recovery_key(key: &str) -> Result<(), Failure> {
    // In pieces, and past std's buffer, which is never wiped.
    let show = |mut out: File| {
        out.write_all(b"Recovery key, shown only this once:\n\n    ")?;
        out.write_all(key.as_bytes())?;
        out.write_all(
            b"\n\nIt opens the vault where the passphrase would. Write it down and keep it away from this machine: \
            without it\na lost passphrase means a lost vault.\n",
        )
    };
    let shown = io::stdout().as_fd().try_clone_to_owned().map(File::from).and_then(show);
    shown.map_err(|e| Failure::error(format!("the recovery key could not be shown ({e}); the vault was made")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kdf_below_the_floor_or_above_the_ceiling_is_refused() {
        let asked = |kdf_memory| new_vault_request(&NewVault { recovery_file: None, kdf_memory });
        assert_eq!(asked(63).unwrap_err().code, exit::USAGE);
        assert_eq!(asked(1025).unwrap_err().code, exit::USAGE);
        assert_eq!(asked(64).unwrap().cost().memory_kib, 65_536);
        assert_eq!(asked(256).unwrap().cost(), Cost::DEFAULT);
    }

    #[test]
    fn a_vault_is_looked_for_before_anything_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let store = store::open(dir.path().to_str().unwrap()).unwrap();
        assert_eq!(look_for_vault(&store, false, false, dir.path()).unwrap_err().code, exit::NO_VAULT);
        assert!(!look_for_vault(&store, true, false, dir.path()).unwrap());
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("pin"), b"").unwrap();
        assert_eq!(look_for_vault(&store, true, false, state.path()).unwrap_err().code, exit::TAMPERED);
        assert_eq!(look_for_vault(&store, false, false, state.path()).unwrap_err().code, exit::TAMPERED);
        std::fs::create_dir(dir.path().join("header")).unwrap();
        std::fs::write(dir.path().join("header/1"), b"").unwrap();
        assert!(look_for_vault(&store, false, false, state.path()).unwrap());
    }

    #[test]
    fn what_is_left_behind_is_told_with_its_own_exit_code() {
        assert_eq!(closed(Closed::Drained).unwrap(), exit::OK);
        let failure = closed(Closed::Pending(1536)).unwrap_err();
        assert!(failure.code == 14 && failure.message.contains("1.5 KiB"), "{}", failure.message);
        let failure = closed(Closed::Pending(0)).unwrap_err();
        assert!(failure.code == 14 && !failure.message.contains("0 B"), "{}", failure.message);
    }
}
