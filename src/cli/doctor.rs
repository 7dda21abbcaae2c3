//! `doctor`: what can be wrong before the first mount, and what to do about it.
//!
//! Owns the list of questions and the advice. Each question goes to the room that would meet the trouble.
//! Invariant: nothing is changed but for a probe in the store, which is removed again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::args::Doctor;
use super::exit::{self, Failure};
use super::{client, human_bytes, printable, profile, runtime};
use crate::fuse;
use crate::mount::{environment, mountpoint, new_vault, runtime_dir, state_dir};
use crate::store::{self, Store, StoreError};

/// A store that says nothing for so long will not do.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where it may lie that nobody answers.
const NETWORK: &str = "look at the network, and at the endpoint: http or https, its name and its port";
/// Seconds by which a clock may differ. Amazon's store refuses requests at 15 minutes.
const CLOCK_ODD: i64 = 30;
const CLOCK_WRONG: i64 = 300;
/// Room for the journal: where it is less nothing can be mounted, or writers soon wait.
const DISK_LEAST: u64 = 128 << 20;
const DISK_GOOD: u64 = 5 << 30;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It will do, and should be known.
    Note,
    Wrong,
}

#[derive(Debug, Serialize)]
struct Answer {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

fn fine(check: &'static str, found: impl Into<String>) -> Answer {
    Answer { check, verdict: Verdict::Ok, found: found.into(), advice: None }
}

fn note(check: &'static str, found: impl Into<String>, advice: &str) -> Answer {
    Answer { check, verdict: Verdict::Note, found: found.into(), advice: Some(advice.to_owned()) }
}

fn wrong(check: &'static str, found: impl Into<String>, advice: &str) -> Answer {
    let advice = Some(advice.to_owned()).filter(|advice| !advice.is_empty());
    Answer { check, verdict: Verdict::Wrong, found: found.into(), advice }
}

pub fn doctor(args: &Doctor) -> Result<u8, Failure> {
    let mut answers = vec![device(), allow_other(Path::new("/etc/fuse.conf")), sockets(), swap(), locked()];
    answers.extend(table(Path::new("/etc/mtab")));
    answers.extend(dead());
    let (url, state) = match &args.url {
        Some(word) => match profile::find(word, &environment) {
            Ok(Some(found)) => {
                answers.extend(directory(found.directory.as_deref()));
                (Some(found.url), args.state.clone().or(found.options.state))
            }
            Ok(None) => (Some(word.clone()), args.state.clone()),
            Err(failure) => {
                answers.push(wrong("profile", failure.message, ""));
                (None, args.state.clone())
            }
        },
        None => (None, args.state.clone()),
    };
    let shown = url.as_deref().unwrap_or("file:///");
    let root = rustix::process::geteuid().is_root();
    match state_dir::choose(state.as_deref(), shown, &environment, root) {
        Ok(state) => answers.push(disk(&state)),
        Err(error) => answers.push(wrong("state directory", error.to_string(), "")),
    }
    if let Some(url) = &url {
        answers.extend(store_answers(url)?);
    }
    let bad = answers.iter().any(|answer| answer.verdict == Verdict::Wrong);
    let text = match args.json {
        true => client::json_line(&serde_json::json!({ "ok": !bad, "checks": answers })),
        false => answers.iter().map(words).collect(),
    };
    // A closed pipe takes nothing away.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(if bad { exit::ERROR } else { exit::OK })
}

fn words(answer: &Answer) -> String {
    let mark = match answer.verdict {
        Verdict::Ok => "ok   ",
        Verdict::Note => "note ",
        Verdict::Wrong => "WRONG",
    };
    let advice =
        answer.advice.as_ref().map_or(String::new(), |advice| format!("\n      {:<18} -> {}", "", printable(advice)));
    format!("{mark} {:<18} {}{advice}\n", answer.check, printable(&answer.found))
}

fn device() -> Answer {
    match fuse::available() {
        Ok(()) => fine("FUSE", "this user can mount"),
        Err(error) => wrong("FUSE", error.to_string(), ""),
    }
}

fn allow_other(conf: &Path) -> Answer {
    const CHECK: &str = "allow_other";
    if rustix::process::geteuid().is_root() {
        return fine(CHECK, "root may always say it");
    }
    let text = std::fs::read_to_string(conf).unwrap_or_default();
    match text.lines().any(|line| line.trim() == "user_allow_other") {
        true => fine(CHECK, format!("permitted by {}", conf.display())),
        false => note(
            CHECK,
            format!("{} does not permit it", conf.display()),
            "if other users are to enter your drives, have root add the line user_allow_other there",
        ),
    }
}

/// fusermount3 unmounts nothing without it; small containers lack it.
fn table(mtab: &Path) -> Option<Answer> {
    if rustix::process::geteuid().is_root() || std::fs::File::open(mtab).is_ok() {
        return None;
    }
    let found = format!("{} is missing: fusermount3 will not unmount", mtab.display());
    Some(wrong("mount table", found, "have root run `ln -s /proc/self/mounts /etc/mtab`"))
}

/// Drives of this user whose processes are gone.
fn dead() -> Vec<Answer> {
    let me = rustix::process::geteuid().as_raw();
    let mine = mountpoint::drives().into_iter().filter(|mount| mount.owner == Some(me));
    let dead = mine.filter(|mount| mountpoint::is_dead(&mount.dir));
    dead.map(|mount| wrong("dead drive", client::silent(&mount.dir), "")).collect()
}

fn sockets() -> Answer {
    match runtime_dir::make(&environment, rustix::process::geteuid().as_raw()) {
        Ok(path) => fine("control sockets", format!("in {}", path.display())),
        Err(error) => wrong("control sockets", error.to_string(), "set XDG_RUNTIME_DIR to a directory of your own"),
    }
}

fn swap() -> Answer {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let open: Vec<&str> = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    // Compressed in memory, or behind a mapping, which may or may not be encrypted.
    let disks: Vec<&str> =
        open.into_iter().filter(|name| !name.contains("zram") && !name.starts_with("/dev/dm-")).collect();
    match disks.is_empty() {
        true => fine("swap", "none on a plain disk"),
        false => note(
            "swap",
            format!("decrypted bytes in memory may be written to {}", disks.join(", ")),
            "encrypt the swap (crypttab(5)) or use zram",
        ),
    }
}

/// Keys are wiped, not locked; the limit is what could be locked.
fn locked() -> Answer {
    let limit = getrlimit(Resource::Memlock).current;
    let limit = limit.map_or("no limit".to_owned(), human_bytes);
    fine("locked memory", format!("not used by this version (RLIMIT_MEMLOCK: {limit})"))
}

fn directory(dir: Option<&Path>) -> Option<Answer> {
    let dir = dir?;
    let mounted = mountpoint::mounted_on(dir).is_some_and(|mount| mount.is_dripfs());
    Some(match mountpoint::check(dir) {
        Ok(dir) => fine("mount point", format!("{} is empty", dir.display())),
        Err(_) if mounted && !mountpoint::is_dead(dir) => fine("mount point", "the drive is mounted"),
        Err(error) => wrong("mount point", error.to_string(), ""),
    })
}

fn disk(state: &Path) -> Answer {
    const CHECK: &str = "state directory";
    let there: PathBuf = state.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned();
    if let Err(error) = state_dir::refuse_network(state) {
        return wrong(CHECK, error.to_string(), "");
    }
    if let Err(error) = rustix::fs::access(&there, rustix::fs::Access::WRITE_OK) {
        return wrong(
            CHECK,
            format!("{}: {error}", there.display()),
            "make it yours, or choose another with --state DIR",
        );
    }
    let free = match rustix::fs::statvfs(&there) {
        Ok(space) => space.f_bavail.saturating_mul(space.f_frsize),
        Err(error) => return wrong(CHECK, format!("{}: {error}", there.display()), ""),
    };
    let found = format!("{}: {} free", state.display(), human_bytes(free));
    match free {
        0..DISK_LEAST => wrong(CHECK, found, "make room, or choose another disk with --state DIR"),
        DISK_LEAST..DISK_GOOD => note(
            CHECK,
            found,
            "the journal takes up to 4 GiB there when the store is away; -o journal=SIZE makes it less",
        ),
        _ => fine(CHECK, found),
    }
}

fn store_answers(url: &str) -> Result<Vec<Answer>, Failure> {
    let store = match store::open(url) {
        Ok(store) => store,
        Err(error) => return Ok(vec![wrong("store", error.to_string(), "")]),
    };
    let runtime = runtime()?;
    let asked = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(&store)).await });
    // A request may hang in a store that does not answer.
    runtime.shutdown_background();
    Ok(asked.unwrap_or_else(|_| {
        let found = format!("{url} has not answered for {} s", PATIENCE.as_secs());
        vec![wrong("store", found, NETWORK)]
    }))
}

async fn ask(store: &Store) -> Vec<Answer> {
    let stands = match new_vault::stands(store).await {
        Ok(stands) => stands,
        // What else it is says itself what to do.
        Err(error) => {
            let silent = matches!(error, StoreError::Unavailable { .. }) && !error.has_no_bucket();
            return vec![wrong("store", error.to_string(), if silent { NETWORK } else { "" })];
        }
    };
    let mut answers = vec![match stands {
        true => fine("store", format!("it answers, and a vault stands at {}", store.url())),
        false => note("store", format!("it answers; no vault stands at {}", store.url()), "dripfs init makes one"),
    }];
    answers.extend(clock(store.clock_ahead()));
    answers.push(match store.is_read_only() {
        true => note("create if absent", "a web server is only read", "mount it with --read-only"),
        false if store.is_missing() => {
            note("create if absent", "the directory does not exist yet", "dripfs init makes it")
        }
        false => match store.probe().await {
            Ok(()) => fine("create if absent", "kept"),
            Err(error @ StoreError::NoConditionalCreate(_)) => {
                wrong("create if absent", error.to_string(), "a writer cannot stand on this store: use another")
            }
            Err(error) => wrong("create if absent", error.to_string(), "is this place only readable for you?"),
        },
    });
    answers
}

/// `None` where the store tells no time.
fn clock(ahead: Option<i64>) -> Option<Answer> {
    let ahead = ahead?;
    let found = match ahead {
        0 => "as the store's".to_owned(),
        1.. => format!("{ahead} s behind the store's"),
        _ => format!("{} s ahead of the store's", -ahead),
    };
    const ADVICE: &str =
        "have it set over the network (timedatectl set-ntp true): stores refuse requests of another time";
    Some(match ahead.abs() {
        0..=CLOCK_ODD => fine("clock", found),
        off if off <= CLOCK_WRONG => note("clock", found, ADVICE),
        _ => wrong("clock", found, ADVICE),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_told_which_way() {
        let told = |ahead| clock(Some(ahead)).map(|answer| (answer.verdict, answer.found)).unwrap();
        assert_eq!(told(0), (Verdict::Ok, "as the store's".to_owned()));
        assert_eq!(told(-29).0, Verdict::Ok);
        assert_eq!(told(40), (Verdict::Note, "40 s behind the store's".to_owned()));
        assert_eq!(told(-4000), (Verdict::Wrong, "4000 s ahead of the store's".to_owned()));
        assert!(clock(None).is_none());
    }
}
