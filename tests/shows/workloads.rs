//! Programs at work while the drive's process is killed, the power fails, or the machine is lost: what they were told is
//! safe is there afterwards, and what programs with a journal of their own rely on holds, also for whoever has the
//! vault alone.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{run, succeed};
use crate::machine::{End, Machine};
use crate::{Onlooker, long};

/// So many times a machine's work ends: here and there, and in the long form.
fn times(short: u64, long_form: u64) -> u64 {
    if long() { long_form } else { short }
}

/// Commits numbered rows until the drive dies; prints each number once its commit returned.
const ROWS: &str = r#"
import sqlite3, sys
path, mode, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
db = sqlite3.connect(path, isolation_level=None)
assert db.execute(f"pragma journal_mode={mode}").fetchone()[0] == mode
# A rollback journal is over when it is unlinked; only "extra" fsyncs the directory then, and only that is a promise.
db.execute("pragma synchronous=" + ("full" if mode == "wal" else "extra"))
db.execute("create table if not exists t(n integer primary key, filler blob)")
while True:
    n += 1
    db.execute("begin")
    db.execute("insert into t values(?, randomblob(abs(random()) % 6000))", (n,))
    if n % 7 == 0:
        db.execute("update t set filler = randomblob(100) where n % 5 = 0 and n > ?", (n - 50,))
    db.execute("commit")
    print(n, flush=True)
"#;

/// Opens a copy, as a restored backup is opened (and so that a drive mounted read-only will do).
const CHECK: &str = r#"
import os, shutil, sqlite3, sys, tempfile
with tempfile.TemporaryDirectory() as copy:
    for name in ("db", "db-wal", "db-journal"):
        path = os.path.join(sys.argv[1], name)
        if os.path.exists(path):
            shutil.copy(path, copy)
    db = sqlite3.connect(os.path.join(copy, "db"))
    tables = db.execute("select count(*) from sqlite_master where name = 't'").fetchone()[0]
    rows = db.execute("select count(*), coalesce(max(n), 0) from t").fetchone() if tables else (0, 0)
    print(db.execute("pragma integrity_check").fetchone()[0], *rows)
    db.close()
"#;

/// Passes its integrity check, and holds rows 1 to this.
fn rows_of(dir: &Path, whose: &str) -> u64 {
    let output = succeed(Command::new("python3").args(["-c", CHECK]).arg(dir));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = said.split_whitespace();
    assert_eq!(words.next(), Some("ok"), "{whose}: {said}");
    let rows: Vec<u64> = words.map(|word| word.parse().expect("a number")).collect();
    assert_eq!(rows[0], rows[1], "{whose}: rows are missing in between");
    rows[1]
}

fn sqlite(end: End, mode: &str, times: u64) {
    let (Some(mut machine), Some(mut onlooker)) = (Machine::new(end), Onlooker::new()) else { return };
    let (mut kept, mut committed) = (0, 0);
    for n in 1..=times {
        let mut writer = Command::new("python3");
        writer.args(["-c", ROWS]).arg(machine.dir().join("db")).args([mode, &kept.to_string()]);
        let lines = machine.fails_under(&mut writer);
        let last: u64 = lines.last().and_then(|line| line.parse().ok()).unwrap_or(kept);
        committed += lines.len();
        let whose = format!("{mode}, {end:?} {n}");
        let rows = rows_of(&machine.dir(), &whose);
        // One more may have been committed without having been printed. And where a commit ends with the unlinking of a
        // journal, SQLite takes it for good that the directory cannot be opened for its fsync (unixDelete): a drive that
        // dies between the two may bring back the journal, and so take back the last row, though it was printed.
        let least = if mode == "wal" { last } else { last.saturating_sub(1) };
        let least = if machine.keeps_what_was_fsynced() { least } else { 0 };
        assert!((least..=last + 1).contains(&rows), "{whose}: {last} rows were told safe, {rows} are there");
        let seen = onlooker.look(machine.vault(), |dir| if dir.join("db").exists() { rows_of(dir, &whose) } else { 0 });
        assert!(seen <= last + 1, "{whose}: the vault has {seen} rows, only {last} were told");
        kept = rows;
    }
    println!(
        "sqlite, {mode}, {end:?}: {times} times, {committed} rows, integrity_check ok here and from the vault alone"
    );
    assert!(committed > 0, "no row was ever committed");
    machine.umount();
    assert_eq!(onlooker.look(machine.vault(), |dir| rows_of(dir, "the end")), kept);
}

/// Commits until the drive dies; prints each commit once git says it is done.
const COMMITS: &str = r#"
    cd "$1" && n=$2
    git init -q . 2>/dev/null
    rm -f .git/*.lock .git/refs/heads/*.lock
    while :; do
        n=$((n + 1))
        mkdir -p "d$((n % 5))" && head -c $((n * 997 % 20000)) /dev/urandom > "d$((n % 5))/f$n" || exit
        git add -A && git commit -q -m "commit $n" || exit
        git rev-parse HEAD || exit
    done
"#;

fn git(dir: &Path, arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    git.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", "/nonexistent");
    git.args(["-c", "safe.directory=*"]).args(arguments).current_dir(dir);
    git
}

/// Passes fsck.
fn fsck(dir: &Path, whose: &str) {
    let fsck = run(&mut git(dir, &["fsck", "--full", "--strict"]));
    assert!(fsck.status.success(), "{whose}: {}", String::from_utf8_lossy(&fsck.stderr));
}

fn git_repository(end: End, times: u64) {
    let (Some(mut machine), Some(mut onlooker)) = (Machine::new(end), Onlooker::new()) else { return };
    let mut commits = 0;
    for n in 1..=times {
        let whose = format!("git, {end:?} {n}");
        let repository = machine.dir().join("repo");
        fs::create_dir_all(&repository).expect("a directory");
        let mut writer = Command::new("sh");
        writer.args(["-c", COMMITS, "sh"]).arg(&repository).arg((n * 1_000_000).to_string());
        writer.env_clear().env("HOME", machine.vault().root().join("home"));
        writer.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let settings = [("user.name", "t"), ("user.email", "t@example.org"), ("core.fsync", "all"), ("gc.auto", "0")];
        for (n, (key, value)) in settings.into_iter().enumerate() {
            writer.env(format!("GIT_CONFIG_KEY_{n}"), key).env(format!("GIT_CONFIG_VALUE_{n}"), value);
        }
        let done = machine.fails_under(writer.env("GIT_CONFIG_COUNT", "4"));
        commits += done.len();
        if machine.keeps_what_was_fsynced() {
            fsck(&repository, &whose);
            for commit in &done {
                let kind = run(&mut git(&repository, &["cat-file", "-t", commit]));
                assert_eq!(kind.stdout, b"commit\n", "{whose}: {commit} was made, fsynced, and is gone");
            }
            // git fsyncs a branch's file before its rename, and never the directory: only the next commit's fsync makes
            // that rename durable, here as on a local disk whose power is cut. So the last but one is what HEAD must
            // hold.
            if let [.., acknowledged, _] = &done[..] {
                let there = run(&mut git(&repository, &["merge-base", "--is-ancestor", acknowledged, "HEAD"]));
                assert!(there.status.success(), "{whose}: HEAD lost {acknowledged}");
            }
        } else if repository.join(".git/HEAD").exists() {
            fsck(&repository, &whose);
        }
        onlooker.look(machine.vault(), |dir| {
            if dir.join("repo/.git/HEAD").exists() {
                fsck(&dir.join("repo"), &format!("{whose}, from the vault alone"));
            }
        });
    }
    println!("git, {end:?}: {times} times, {commits} commits, fsck clean here and from the vault alone");
    assert!(commits > 0, "git never got as far as a commit");
    machine.umount();
}

/// Makes small files, saves one document by rename, appends to a growing file; prints what it did once it is fsynced.
const FILES: &str = r#"
import os, sys
root, n = sys.argv[1], int(sys.argv[2])
def text(n): return (f"{n} " * (n % 700 + 1)).encode()
def save(path, mode, data):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | mode, 0o644)
    os.write(fd, data); os.fsync(fd); os.close(fd)
os.makedirs(root, exist_ok=True)
while True:
    n += 1
    where = f"{root}/{n // 100}"
    os.makedirs(where, exist_ok=True)
    for k in range(10):                                  # not fsynced by themselves
        with open(f"{where}/loose-{n}-{k}", "wb") as f: f.write(text(n))
    save(f"{where}/f{n}", os.O_TRUNC, text(n))
    save(f"{root}/doc.new", os.O_TRUNC, text(n))
    os.rename(f"{root}/doc.new", f"{root}/doc")
    save(f"{root}/growing", os.O_APPEND, text(n) + b"\n")
    print(n, flush=True)
"#;

fn text(n: u64) -> Vec<u8> {
    format!("{n} ").repeat((n % 700 + 1) as usize).into_bytes()
}

/// What the drive shows is what [`FILES`] did up to some point, at least up to `least`; the loose files may lack bytes.
fn judge_files(root: &Path, least: u64, whose: &str) -> u64 {
    let growing = fs::read(root.join("growing")).unwrap_or_default();
    let lines: Vec<&[u8]> = growing.split(|byte| *byte == b'\n').collect();
    let (rest, lines) = lines.split_last().expect("one at least");
    let mut last = 0;
    for line in lines {
        let words = String::from_utf8_lossy(line);
        last = words.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
        assert!(*line == text(last), "{whose}: a line of the growing file is none that was written: {words:.40}");
    }
    assert!(last >= least, "{whose}: {least} was fsynced, the growing file ends with {last}");
    assert!(
        text(last + 1).starts_with(rest) || rest.is_empty(),
        "{whose}: a torn line is not the next one's beginning"
    );
    for n in (1..=least).rev().take(200) {
        let found = fs::read(root.join(format!("{}/f{n}", n / 100)));
        assert!(found.is_ok_and(|found| found == text(n)), "{whose}: f{n} was fsynced and is not what was written");
    }
    if least > 0 {
        let doc = fs::read(root.join("doc")).expect("saved once, it is there");
        let version = String::from_utf8_lossy(&doc).split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
        assert!(doc == text(version) && version >= least, "{whose}: the document is of {version}, not of {least}");
    }
    last
}

fn files(end: End, times: u64) {
    let (Some(mut machine), Some(mut onlooker)) = (Machine::new(end), Onlooker::new()) else { return };
    let (mut kept, mut done) = (0, 0);
    for n in 1..=times {
        let mut writer = Command::new("python3");
        writer.args(["-c", FILES]).arg(machine.dir().join("files")).arg(kept.to_string());
        let lines = machine.fails_under(&mut writer);
        let last: u64 = lines.last().and_then(|line| line.parse().ok()).unwrap_or(kept);
        done += lines.len();
        let whose = format!("files, {end:?} {n}");
        let least = if machine.keeps_what_was_fsynced() { last } else { 0 };
        kept = judge_files(&machine.dir().join("files"), least, &whose).max(least);
        onlooker.look(machine.vault(), |dir| judge_files(&dir.join("files"), 0, &format!("{whose}, the vault alone")));
    }
    let torn = if end == End::PowerCut {
        format!(", {} with something unflushed", machine.cuts_with_loss())
    } else {
        String::new()
    };
    println!("files, {end:?}: {times} times{torn}, {done} rounds of small files, saves and appends");
    assert!(done > 0, "nothing was ever fsynced");
    machine.umount();
}

#[test]
fn sqlite_with_a_rollback_journal_keeps_every_committed_row_over_kills() {
    sqlite(End::Kill, "delete", times(3, 40));
}

#[test]
fn sqlite_with_a_truncated_journal_keeps_every_committed_row_over_kills() {
    sqlite(End::Kill, "truncate", times(2, 20));
}

#[test]
fn sqlite_with_a_write_ahead_log_keeps_every_committed_row_over_kills() {
    sqlite(End::Kill, "wal", times(3, 40));
}

#[test]
fn a_git_repository_passes_fsck_over_kills() {
    git_repository(End::Kill, times(3, 30));
}

#[test]
fn small_files_saves_and_a_growing_file_are_kept_over_kills() {
    files(End::Kill, times(3, 40));
}

#[test]
fn sqlite_with_a_rollback_journal_keeps_every_committed_row_over_power_cuts() {
    sqlite(End::PowerCut, "delete", times(1, 15));
}

#[test]
fn sqlite_with_a_write_ahead_log_keeps_every_committed_row_over_power_cuts() {
    sqlite(End::PowerCut, "wal", times(1, 15));
}

#[test]
fn a_git_repository_passes_fsck_over_power_cuts() {
    git_repository(End::PowerCut, times(1, 10));
}

#[test]
fn small_files_saves_and_a_growing_file_are_kept_over_power_cuts() {
    files(End::PowerCut, times(2, 15));
}

#[test]
fn sqlite_opens_from_the_vault_after_each_lost_machine() {
    for mode in ["delete", "truncate", "wal"] {
        sqlite(End::Loss, mode, times(1, 34));
    }
}

#[test]
fn a_git_repository_passes_fsck_from_the_vault_after_each_lost_machine() {
    git_repository(End::Loss, times(1, 100));
}
