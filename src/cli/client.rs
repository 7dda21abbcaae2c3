//! `sync`, `umount` and `status`: they ask the process that serves the mount.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use super::args::Status;
use super::exit::{self, Failure};
use super::interrupt::Interrupt;
use super::progress::{Display, Look, SENT};
use super::{Voice, human_bytes, printable};
use crate::mount::control::{self, CallError, Command};
use crate::mount::mountpoint::{self, Mount};
use crate::mount::reception::{OPENING, OpeningStatus};
use crate::mount::runtime_dir::{self, Found};
use crate::mount::serve::{Ended, MountStatus};
use crate::mount::{MountError, environment};
use crate::pipeline::StageStatus;
use crate::vault::gc;

/// How long a process that said its last word may take to end.
const EXIT_PATIENCE: Duration = Duration::from_secs(5);
/// How long an unmount waits for pages of memory maps before it asks for its own.
const WRITE_BACK_PATIENCE: Duration = Duration::from_secs(10);

/// Who leaves an unmount does not end it.
const GOES_ON: &str = "\ndripfs: the unmounting goes on without this command: `dripfs status` shows how far it is\n";

pub fn sync(path: &Path, voice: Voice) -> Result<u8, Failure> {
    let dir = &mountpoint::drive_of(path);
    let stream = find(dir)?;
    let mut display = Display::new(voice.quiet, SENT);
    write_back(dir)?;
    control::call(stream, &Command::Sync, |now| display.show(now, || look(dir))).map_err(failure)?;
    Ok(exit::OK)
}

pub fn umount(dir: &Path, voice: Voice) -> Result<u8, Failure> {
    let stream = find(dir)?;
    let mut display = Display::new(voice.quiet, SENT);
    write_back_in_time(dir);
    let _leaving = Interrupt::saying(GOES_ON);
    let ended = control::call(stream, &Command::Umount, |now| display.show(now, || look(dir))).map_err(failure)?;
    drop(display);
    let ended: Ended = serde_json::from_value(ended).map_err(|e| failure(CallError::Strange(e.to_string())))?;
    wait_for_exit(ended.pid);
    match ended.drained {
        true => Ok(exit::OK),
        false => Err(exit::not_drained(ended.pending_bytes)),
    }
}

/// Is a drive with this state directory being drained, though nothing is mounted there any more? Then waits until it has
/// ended. (`umount` of the system returns at once.) False if there is none, or it is still mounted.
pub fn wait_for_ending(state: &Path, voice: Voice) -> Result<bool, Failure> {
    let me = rustix::process::geteuid().as_raw();
    let asked =
        runtime_dir::all(&environment, me).into_iter().map(|stream| control::call(stream, &Command::Status, |_| ()));
    let theirs = |status: &MountStatus| Path::new(&status.status.state_directory) == state;
    let mut answers = asked.flatten().filter_map(|value| serde_json::from_value::<MountStatus>(value).ok());
    let Some(status) = answers.find(theirs) else { return Ok(false) };
    let dir = &status.mountpoint;
    if !status.unmounting && mountpoint::mounted_on(dir).is_some_and(|mount| mount.is_dripfs()) {
        return Ok(false);
    }
    let Found::Alive(stream) = runtime_dir::connect(&environment, me, None, dir) else { return Ok(true) };
    log::warn!(
        "the drive that was on {} still sends {} to this vault: it is waited for",
        dir.display(),
        human_bytes(status.status.pending_bytes)
    );
    let mut display = Display::new(voice.quiet, SENT);
    // However it ended: what it could not send is in its journal, which this mount goes on with.
    if let Err(error) = control::call(stream, &Command::Umount, |now| display.show(now, || look(dir))) {
        log::debug!("{}", failure(error).message);
    }
    drop(display);
    wait_for_exit(status.pid);
    Ok(true)
}

/// What moves, and why it may not.
fn look(dir: &Path) -> Option<Look> {
    let status = status_of(dir).ok()?.status;
    let trouble = status.state != "ready";
    let trouble = trouble.then(|| printable(&format!("{}: {}", status.state, status.reason.unwrap_or_default())));
    Some(Look { sent: status.sent_bytes, trouble })
}

/// A line for each event, until the mount ends or nobody reads any more.
pub fn events(path: &Path) -> Result<u8, Failure> {
    let stream = find(&mountpoint::drive_of(path))?;
    let mut failed = None;
    let told = |event| {
        let line = serde_json::to_value(event).map(|value| json_line(&value)).map_err(io::Error::from);
        let mut out = io::stdout();
        let written = line.and_then(|line| out.write_all(line.as_bytes()).and_then(|()| out.flush()));
        failed = written.err();
        failed.is_none()
    };
    control::watch(stream, told).map_err(failure)?;
    match failed {
        Some(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(MountError::io("events", e).into()),
        _ => Ok(exit::OK),
    }
}

/// Clears a dead mount point, for whoever mounts there next.
pub fn clear(dir: &Path) -> Result<u8, Failure> {
    match mountpoint::clear_dead(dir) {
        Ok(true) => log::warn!("{}: a dead mount was cleared; what was fsynced is in its journal", dir.display()),
        Ok(false) => log::debug!("{}: nothing dead is mounted there", dir.display()),
        Err(e) => return Err(Failure::error(format!("{}: {e}", dir.display()))),
    }
    Ok(exit::OK)
}

/// Has the kernel hand over what was written through memory maps: the process that serves the mount does not know of it
/// yet.
fn write_back(dir: &Path) -> Result<(), Failure> {
    let fails = |e: io::Error| Failure::error(format!("{}: memory maps cannot be written back: {e}", dir.display()));
    match File::open(dir) {
        Ok(drive) => rustix::fs::syncfs(drive).map_err(|e| fails(e.into())),
        // Not even root may enter another user's drive without allow_other.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let dir = dir.display();
            log::warn!("{dir} is closed to you: what programs wrote through memory maps may be left out");
            Ok(())
        }
        Err(e) => Err(fails(e)),
    }
}

/// As [`write_back`], for an unmount: it must not hang behind a drive that takes no more, and its end writes back too.
fn write_back_in_time(dir: &Path) {
    let (tell, told) = std::sync::mpsc::channel();
    let path = dir.to_owned();
    std::thread::spawn(move || tell.send(write_back(&path)));
    match told.recv_timeout(WRITE_BACK_PATIENCE) {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => log::warn!("{}", failure.message),
        Err(_) => log::warn!("{}: memory maps are still being written back", dir.display()),
    }
}

/// Until then the next mount would find the state directory in use.
fn wait_for_exit(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(process) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return };
    let mut wanted = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry, as its count says. Whatever it answers, there is nothing more to wait for.
    unsafe { libc::poll(&mut wanted, 1, EXIT_PATIENCE.as_millis() as libc::c_int) };
}

pub fn status(args: &Status) -> Result<u8, Failure> {
    loop {
        let text = match &args.dir {
            Some(dir) if args.metrics => metrics(dir)?,
            Some(dir) => one(dir, args.json)?,
            None => all(args.json)?,
        };
        if let Err(e) = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
            // `dripfs status --watch | head` is not a failure.
            return if e.kind() == io::ErrorKind::BrokenPipe {
                Ok(exit::OK)
            } else {
                Err(MountError::io("status", e).into())
            };
        }
        if !args.watch {
            return Ok(exit::OK);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn one(dir: &Path, json: bool) -> Result<String, Failure> {
    let value = control::call(find(&mountpoint::drive_of(dir))?, &Command::Status, |_| ()).map_err(failure)?;
    render(&value, json)
}

fn metrics(dir: &Path) -> Result<String, Failure> {
    let value = control::call(find(&mountpoint::drive_of(dir))?, &Command::Metrics, |_| ()).map_err(failure)?;
    match value {
        Value::String(text) => Ok(text),
        _ => Err(failure(CallError::Strange("no text".to_owned()))),
    }
}

/// What the process that serves `dir` says of it.
pub fn status_of(dir: &Path) -> Result<MountStatus, Failure> {
    let value = control::call(find(dir)?, &Command::Status, |_| ()).map_err(failure)?;
    if is_opening(&value) {
        return Err(Failure::error(format!("the drive on {} is still being opened: try again", dir.display())));
    }
    serde_json::from_value(value).map_err(|e| failure(CallError::Strange(e.to_string())))
}

fn is_opening(value: &Value) -> bool {
    text(value, "state") == OPENING
}

fn render(value: &Value, json: bool) -> Result<String, Failure> {
    if json {
        return Ok(json_line(value));
    }
    if is_opening(value) {
        let opening: OpeningStatus =
            serde_json::from_value(value.clone()).map_err(|e| failure(CallError::Strange(e.to_string())))?;
        return Ok(opening_table(&opening));
    }
    let status = serde_json::from_value(value.clone()).map_err(|e| failure(CallError::Strange(e.to_string())))?;
    Ok(table(&status))
}

fn all(json: bool) -> Result<String, Failure> {
    let me = rustix::process::geteuid().as_raw();
    let mut values = Vec::new();
    for stream in runtime_dir::all(&environment, me) {
        match control::call(stream, &Command::Status, |_| ()) {
            Ok(value) => values.push(value),
            // One that is just ending is no reason not to show the others.
            Err(e) => log::warn!("{}", failure(e).message),
        }
    }
    let answered = |dir: &Path| values.iter().any(|value| text(value, "mountpoint") == dir.to_string_lossy());
    for mount in mountpoint::drives().iter().filter(|mount| mount.owner == Some(me) && !answered(&mount.dir)) {
        log::warn!("{}", silent(&mount.dir));
    }
    if json {
        return Ok(json_line(&Value::from(values)));
    }
    if values.is_empty() {
        return Ok("no drive of yours is mounted\n".into());
    }
    let shown: Result<Vec<String>, Failure> = values.iter().map(|value| render(value, false)).collect();
    Ok(shown?.join("\n"))
}

/// The JSON of serde leaves DEL and the control characters beyond ASCII as they are. They stand only within strings.
pub fn json_line(value: &Value) -> String {
    let mut line = String::new();
    for c in value.to_string().chars() {
        match c.is_control() {
            true => line.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => line.push(c),
        }
    }
    line + "\n"
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn table(mount: &MountStatus) -> String {
    let status = &mount.status;
    let mut rows = vec![
        ("mounted on", mount.mountpoint.display().to_string()),
        ("vault", status.url.clone()),
        ("state", state(mount)),
        ("durability", status.durability.clone()),
        ("pending", pending(mount)),
    ];
    if let Some(file) = &status.blocked_by {
        rows.push(("waiting for", file.clone()));
    }
    rows.extend([
        (
            "last commit",
            format!("{:.0} s ago (number {}, epoch {})", status.last_commit_age_seconds, status.sequence, status.epoch),
        ),
        ("journal", human_bytes(status.journal_bytes)),
    ]);
    rows.extend(status.followed_seconds_ago.map(|seconds| ("looked", format!("{seconds:.0} s ago"))));
    rows.extend([
        (
            "cache",
            format!(
                "{} in {} files, {} hits, {} misses",
                human_bytes(status.cache.bytes),
                status.cache.entries,
                status.cache.hits,
                status.cache.misses
            ),
        ),
        (
            "disk cache",
            format!(
                "{} sealed, {} hits, {} misses",
                human_bytes(status.cache.disk_bytes),
                status.cache.disk_hits,
                status.cache.disk_misses
            ),
        ),
        ("store", format!("{} requests, {} errors", status.remote.requests, status.remote.errors)),
    ]);
    let flow = &status.pipelines;
    if flow.inflight_bytes > 0 {
        let (now, limit) = (human_bytes(flow.inflight_bytes), human_bytes(flow.inflight_limit));
        rows.push(("in flight", format!("{now} of {limit} at most")));
    }
    rows.extend(flow.stages.iter().filter(|stage| is_busy(stage)).map(|stage| ("stage", shown(stage))));
    for aside in &status.set_aside {
        rows.push((
            "set aside",
            format!(
                "{} changes in {}/{} since {} ({}): `dripfs rescue` brings their files back",
                aside.changes, status.state_directory, aside.directory, aside.since, aside.why
            ),
        ));
    }
    if let Some(vault) = &status.vault {
        let (live, total) = (human_bytes(vault.live_bytes), human_bytes(vault.total_bytes));
        rows.push(("in use", format!("{live} of {total} in the vault's segments")));
    }
    let removed = &status.removed;
    if *removed != Default::default() {
        let gc::Removed { commits, checkpoints, segments, refused, .. } = removed;
        let refused = match refused {
            0 => String::new(),
            refused => format!("; the store refused {refused} deletions: what is not needed stays there"),
        };
        rows.push(("removed", format!("{segments} segments, {commits} commits, {checkpoints} checkpoints{refused}")));
    }
    rows.extend([("pin", status.pin.clone()), ("process", mount.pid.to_string())]);
    rows_of(&rows)
}

fn opening_table(mount: &OpeningStatus) -> String {
    let OpeningStatus { mountpoint, pid, state, reason, url, .. } = mount;
    rows_of(&[
        ("mount point", mountpoint.display().to_string()),
        ("vault", url.clone()),
        ("state", format!("{state}: {reason}")),
        ("process", pid.to_string()),
    ])
}

fn rows_of(rows: &[(&str, String)]) -> String {
    rows.iter().map(|(name, value)| format!("{name:<12} {}\n", printable(value))).collect()
}

/// Has it anything to do, or to tell?
fn is_busy(stage: &StageStatus) -> bool {
    stage.waiting + stage.queued + stage.in_flight + stage.restarts > 0 || stage.rate >= 1.0
}

fn shown(stage: &StageStatus) -> String {
    let StageStatus { name, in_flight, workers, .. } = stage;
    let queued = stage.queued + stage.waiting;
    let rate = human_bytes(stage.rate as u64);
    let trouble = match (stage.restarts, stage.failures) {
        (0, 0) => String::new(),
        (restarts, failures) => format!(", {restarts} restarts, {failures} failures"),
    };
    format!("{name}: {in_flight} of {workers} at work, {queued} wait, {rate}/s{trouble}")
}

fn state(mount: &MountStatus) -> String {
    let unmounting = if mount.unmounting { ", unmounting" } else { "" };
    match &mount.status.reason {
        Some(reason) => format!("{}{unmounting}: {reason}", mount.status.state),
        None => format!("{}{unmounting}", mount.status.state),
    }
}

fn pending(mount: &MountStatus) -> String {
    let status = &mount.status;
    match (status.pending_files, status.pending_bytes) {
        (0, 0) => "nothing: everything is in the vault".into(),
        // They are of no file any more once a round has them.
        (0, bytes) => {
            format!("{} on the way, the oldest for {:.0} s", human_bytes(bytes), status.oldest_pending_seconds)
        }
        (files, bytes) => {
            format!("{} in {files} files, the oldest for {:.0} s", human_bytes(bytes), status.oldest_pending_seconds)
        }
    }
}

/// The process that serves `dir`.
pub fn find(dir: &Path) -> Result<UnixStream, Failure> {
    let whole = mountpoint::canonical(dir).map_err(|e| Failure::error(format!("{}: {e}", dir.display())))?;
    let mounted = mountpoint::mounted_on(&whole).filter(Mount::is_dripfs);
    let owner = mounted.as_ref().and_then(|mount| mount.owner);
    let me = rustix::process::geteuid().as_raw();
    let found = runtime_dir::connect(&environment, me, owner, &whole);
    let shown = whole.display();
    match (found, mounted) {
        (Found::Alive(stream), _) => Ok(stream),
        (_, Some(mount)) if me != 0 && mount.owner.is_some_and(|owner| owner != me) => Err(Failure::error(format!(
            "the drive on {shown} was mounted by user {}: ask as that user or as root",
            mount.owner.unwrap_or_default()
        ))),
        (_, Some(mount)) => Err(Failure::error(silent(&mount.dir))),
        (Found::Dead, None) => Err(Failure::error(format!(
            "nothing is mounted on {shown}, and the process that served it is gone: mount it again, what was fsynced \
             is in its journal"
        ))),
        (Found::None, None) => Err(Failure::error(format!(
            "{shown} is not where a drive is mounted; `dripfs status` lists those that are"
        ))),
    }
}

/// A drive that nobody answers for: its process died, or listens where this user does not look.
pub fn silent(dir: &Path) -> String {
    let shown = dir.display();
    match mountpoint::is_dead(dir) {
        true => format!(
            "the drive on {shown} is dead, its process is gone: clear it with `{}`, then mount it again; what was \
             fsynced is in its journal",
            mountpoint::cure(dir)
        ),
        false => format!(
            "the drive on {shown} lives, but its control socket is not in the runtime directory: set XDG_RUNTIME_DIR \
             as it was when it was mounted (`umount {shown}` ends it too, and sends the rest in the background)"
        ),
    }
}

pub fn failure(error: CallError) -> Failure {
    match error {
        CallError::Failed { code, message } => Failure::new(code, printable(&message)),
        other => Failure::error(printable(&other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::drive::{CacheStatus, PipelinesStatus, RemoteStatus, SetAsideStatus, Status, VaultStatus};

    fn example() -> MountStatus {
        MountStatus {
            mountpoint: "/mnt/x".into(),
            pid: 7,
            unmounting: false,
            metrics_address: None,
            status: Status {
                state: "outage".into(),
                reason: Some("the store does not answer".into()),
                url: "file:///v".into(),
                durability: "local".into(),
                pending_files: 2,
                pending_bytes: 4096,
                oldest_pending_seconds: 12.0,
                blocked_by: None,
                sequence: 9,
                epoch: 3,
                pin: "abc".into(),
                last_commit_age_seconds: 30.4,
                followed_seconds_ago: Some(2.6),
                cache: CacheStatus::default(),
                journal_bytes: 8192,
                sent_bytes: 77,
                remote: RemoteStatus { requests: 5, errors: 1, ..Default::default() },
                pipelines: PipelinesStatus {
                    inflight_bytes: 1024,
                    inflight_limit: 4096,
                    inflight_peak: 2048,
                    stages: vec![
                        StageStatus { name: "upload/seal".into(), ..Default::default() },
                        StageStatus { name: "upload/put".into(), queued: 2, in_flight: 1, ..Default::default() },
                    ],
                },
                vault: Some(VaultStatus { live_bytes: 1024, total_bytes: 4096 }),
                removed: gc::Removed { commits: 7, ..Default::default() },
                damaged_files: Vec::new(),
                set_aside: vec![SetAsideStatus {
                    directory: "aside/1".into(),
                    changes: 3,
                    since: "2026-11-21T00:00:00Z".into(),
                    why: "another machine".into(),
                }],
                state_directory: "/state".into(),
            },
        }
    }

    #[test]
    fn json_is_flat_and_has_what_is_published() {
        let value = serde_json::to_value(example()).unwrap();
        for name in [
            "mountpoint",
            "state",
            "pending_files",
            "pending_bytes",
            "oldest_pending_seconds",
            "blocked_by",
            "sequence",
            "followed_seconds_ago",
            "pin",
            "cache",
            "remote",
            "vault",
            "removed",
        ] {
            assert!(value.get(name).is_some(), "{name}");
        }
        let line = render(&value, true).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn the_table_says_what_is_pending_and_why() {
        let shown = render(&serde_json::to_value(example()).unwrap(), false).unwrap();
        assert!(shown.contains("outage: the store does not answer"), "{shown}");
        assert!(shown.contains("4.0 KiB in 2 files, the oldest for 12 s"), "{shown}");
        assert!(shown.contains("3 changes in /state/aside/1 since 2026-11-21"), "{shown}");
        assert!(shown.contains("30 s ago (number 9, epoch 3)"), "{shown}");
        assert!(shown.contains("1.0 KiB of 4.0 KiB in the vault's segments"), "{shown}");
        assert!(shown.contains("0 segments, 7 commits, 0 checkpoints"), "{shown}");
    }

    #[test]
    fn a_drive_that_is_being_opened_is_shown_as_that() {
        let value = serde_json::json!({
            "mountpoint": "/mnt/x", "pid": 7, "unmounting": false, "state": "opening", "reason": "begun 3 s ago",
            "url": "s3://b/v", "state_directory": "/state"
        });
        let shown = render(&value, false).unwrap();
        assert!(shown.contains("opening: begun 3 s ago") && shown.contains("s3://b/v"), "{shown}");
        assert!(!shown.contains("pending"), "nothing is known of that: {shown}");
        assert_eq!(serde_json::from_str::<Value>(&render(&value, true).unwrap()).unwrap(), value);
        assert!(serde_json::from_value::<MountStatus>(value).is_err(), "nor taken for one that is mounted");
    }

    #[test]
    fn nothing_that_came_over_the_socket_moves_the_cursor() {
        let evil = "a\u{1b}[2J\u{9b}31m\r\n\u{7f}b";
        let mut mount = example();
        mount.status.url = evil.into();
        mount.status.reason = Some(evil.into());
        let value = serde_json::to_value(mount).unwrap();
        let failed = failure(CallError::Failed { code: 1, message: evil.into() }).message;
        for shown in [render(&value, false).unwrap(), render(&value, true).unwrap(), failed] {
            assert!(shown.lines().all(|line| !line.contains(char::is_control)), "{shown:?}");
            assert!(!shown.contains("\r\n"), "{shown:?}");
        }
        let line = render(&value, true).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value, "and JSON loses nothing");
    }

    #[test]
    fn what_is_no_drive_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let failure = find(dir.path()).unwrap_err();
        assert!(failure.code == 1 && failure.message.contains("not where a drive is mounted"), "{}", failure.message);
        assert!(find(Path::new("/no/such/dir")).unwrap_err().message.contains("/no/such/dir"));
    }

    #[test]
    fn a_process_that_is_gone_is_not_waited_for() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let began = std::time::Instant::now();
        // Ended or not yet reaped: neither is waited out.
        wait_for_exit(child.id());
        child.wait().unwrap();
        wait_for_exit(child.id());
        assert!(began.elapsed() < EXIT_PATIENCE);
    }
}
