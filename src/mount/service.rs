//! What a service manager hears while a mount lives: what is pending, and that requests are still answered.
//!
//! Owns when it is told. Does not own how ([`notify`]), nor the mount's life ([`super::serve`]).
//!
//! Invariant: WATCHDOG says that a request went from the kernel through the drive's loop and back; a loop that hangs, or a
//! runtime that hangs, and it is not said. A timer alone never says it.

use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::notify;

/// How often it is looked whether the status has changed.
const LOOK: Duration = Duration::from_secs(2);

/// Tells what is pending whenever it has changed. Ends only when it is dropped.
pub(super) async fn tell_status(line: impl Fn() -> String) {
    if !notify::is_wanted() {
        return;
    }
    let mut told = String::new();
    loop {
        let now = line();
        if now != told {
            notify::status(&now);
            told = now;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Logs when this machine's disk begins to hold up writers, and when that is over. (The store tells of its outages itself.)
/// Ends only when it is dropped.
pub(super) async fn log_trouble(state: impl Fn() -> (&'static str, Option<String>)) {
    let mut told = false;
    loop {
        let (word, why) = state();
        let now = matches!(word, "disk-full" | "disk-failing" | "journal-full");
        match (told, now) {
            (false, true) => log::warn!("{word}: {}", why.unwrap_or_default()),
            (true, false) => log::info!("writers go on: {word}"),
            _ => {}
        }
        told = now;
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks the drive on `dir` for its space again and again, as any program would, and tells each time it answers. Ends only
/// when it is dropped; a question that is not answered yet then ends with the mount.
pub(super) async fn tell_alive(dir: &Path) {
    let Some(limit) = notify::watchdog(&super::environment, std::process::id()) else { return };
    let drive = device(dir);
    let mut covered = false;
    loop {
        match ask(dir.to_owned(), drive).await {
            Answer::Ours => notify::alive(),
            // The way there is another's. It is alive as far as can be told, and this is no reason to end it.
            Answer::Another => {
                if !covered {
                    log::warn!(
                        "{}: something else was mounted there; the watchdog cannot ask the drive",
                        dir.display()
                    );
                    covered = true;
                }
                notify::alive();
            }
            Answer::None(why) => log::error!("the drive on {} does not answer: {why}", dir.display()),
        }
        tokio::time::sleep(limit / 3).await;
    }
}

enum Answer {
    Ours,
    Another,
    None(String),
}

async fn ask(dir: std::path::PathBuf, drive: Option<(u32, u32)>) -> Answer {
    let asked = tokio::task::spawn_blocking(move || {
        if device(&dir) != drive {
            return Answer::Another;
        }
        // The kernel answers for attributes that it remembers, never for space.
        match rustix::fs::statfs(&dir) {
            Ok(_) => Answer::Ours,
            Err(e) => Answer::None(e.to_string()),
        }
    });
    asked.await.unwrap_or_else(|e| Answer::None(e.to_string()))
}

/// Which filesystem lies there; the drive itself is not asked.
fn device(dir: &Path) -> Option<(u32, u32)> {
    let found = rustix::fs::statx(CWD, dir, AtFlags::STATX_DONT_SYNC, StatxFlags::empty()).ok()?;
    Some((found.stx_dev_major, found.stx_dev_minor))
}
