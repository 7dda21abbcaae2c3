//! kill -9 at any moment: what was fsynced is there, and what programs with a journal of their own rely on holds.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Vault, run, succeed};
use crate::{CHEAP, between, mounted, noise};

fn fsync(path: &std::path::Path) {
    File::open(path).and_then(|file| file.sync_all()).expect("fsync");
}

#[test]
fn fsynced_files_of_every_kind_survive_a_kill() {
    let Some(mut vault) = mounted() else { return };
    let dir = vault.mountpoint();
    let at = |name: &str| dir.join(name);
    let (small, large) = (noise(100), noise(9_000_000));
    fs::write(at("small"), &small).expect("a write");
    fs::write(at("large"), &large).expect("a write");
    File::create(at("empty")).expect("a file");
    let sparse = File::create(at("sparse")).expect("a file");
    sparse.write_all_at(b"far", 50_000_000).expect("a write");
    fs::write(at("cut"), &large).expect("a write");
    File::options().write(true).open(at("cut")).and_then(|file| file.set_len(1_000_001)).expect("a truncate");
    let mut patched = File::create(at("patched")).expect("a file");
    patched.write_all(&large).expect("a write");
    patched.write_all_at(b"patch", 4_200_000).expect("a write");
    let mut appended = File::options().append(true).create(true).open(at("appended")).expect("a file");
    for _ in 0..100 {
        appended.write_all(&small).expect("an append");
    }
    fs::hard_link(at("small"), at("hardlink")).expect("a link");
    std::os::unix::fs::symlink("small", at("symlink")).expect("a symlink");
    fs::set_permissions(at("small"), fs::Permissions::from_mode(0o640)).expect("a mode");
    succeed(Command::new("setfattr").args(["-n", "user.a", "-v", "b"]).arg(at("small")));
    fs::create_dir(at("dir")).expect("a directory");
    fs::write(at("dir/moved.new"), &small).expect("a write");
    fs::rename(at("dir/moved.new"), at("dir/moved")).expect("a rename");
    fs::write(at("removed"), &small).expect("a write");
    fs::remove_file(at("removed")).expect("our own file");
    succeed(Command::new("touch").args(["-d", "2001-01-01 01:01:01.123456789 UTC"]).arg(at("cut")));
    for name in ["large", "empty", "sparse", "cut", "patched", "appended", "dir/moved", "small"] {
        fsync(&at(name));
    }
    fsync(&dir);
    vault.kill();
    vault.mount_with(&CHEAP);
    let read = |name: &str| fs::read(at(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(read("small") == small && read("hardlink") == small && read("symlink") == small);
    assert!(read("large") == large);
    assert!(read("empty").is_empty());
    let sparse = read("sparse");
    assert!(sparse.len() == 50_000_003 && sparse.ends_with(b"far") && sparse[..50_000_000].iter().all(|b| *b == 0));
    assert!(read("cut") == large[..1_000_001]);
    let patched = read("patched");
    assert!(patched.len() == large.len() && patched[4_200_000..].starts_with(b"patch"));
    assert!(patched[..4_200_000] == large[..4_200_000] && patched[4_200_005..] == large[4_200_005..]);
    assert!(read("appended") == small.repeat(100));
    assert!(read("dir/moved") == small && !at("dir/moved.new").exists() && !at("removed").exists());
    let meta = fs::metadata(at("small")).expect("attributes");
    assert_eq!((meta.mode() & 0o7777, meta.nlink()), (0o640, 2));
    let attribute = succeed(Command::new("getfattr").args(["--only-values", "-n", "user.a"]).arg(at("small")));
    assert_eq!(attribute.stdout, b"b");
    let meta = fs::metadata(at("cut")).expect("attributes");
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (978_310_861, 123_456_789));
    println!("kill: 10 kinds of files and of changes were there again");
    vault.umount();
}

/// Lets a program work on the drive, kills the drive some time after the program's first line of output, and returns
/// all lines.
fn killed_at_work(vault: &mut Vault, program: &mut Command) -> Vec<String> {
    let program = program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().expect("the program is installed");
    let (out, mut errors) = (child.stdout.take().expect("asked for"), child.stderr.take().expect("asked for"));
    let (first, begun) = std::sync::mpsc::channel();
    // Read beside it, so that the program never waits for us.
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(out).lines().map_while(Result::ok);
        // Nobody listens any more once the first has come.
        lines.inspect(|_| _ = first.send(())).collect::<Vec<String>>()
    });
    let complaints = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = errors.read_to_string(&mut text);
        text
    });
    // An end without a line ends the wait too.
    let worked = begun.recv().is_ok();
    std::thread::sleep(Duration::from_millis(between(100, 1_200)));
    vault.kill();
    // It ends by the error that it gets; at the latest now.
    let _ = child.kill();
    let _ = child.wait();
    let lines = reader.join().expect("no panic");
    let complaints = complaints.join().expect("no panic");
    assert!(worked, "{program:?} did nothing: {complaints}");
    lines
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

const CHECK: &str = r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(db.execute("pragma integrity_check").fetchone()[0], *db.execute("select count(*), max(n) from t").fetchone())
"#;

fn sqlite_survives(mode: &str) {
    let Some(mut vault) = mounted() else { return };
    let (path, mut committed) = (vault.mountpoint().join("db"), 0u64);
    for kill in 1..=5 {
        let mut writer = Command::new("python3");
        writer.args(["-c", ROWS]).arg(&path).args([mode, &committed.to_string()]);
        let lines = killed_at_work(&mut vault, &mut writer);
        let last = lines.last().and_then(|line| line.parse().ok());
        committed = last.unwrap_or(committed);
        vault.mount_with(&CHEAP);
        let output = succeed(Command::new("python3").args(["-c", CHECK]).arg(&path));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = said.split_whitespace();
        assert_eq!(words.next(), Some("ok"), "{mode}, kill {kill}: {said}");
        let rows: Vec<u64> = words.map(|word| word.parse().expect("a number")).collect();
        // One more may have been committed without having been printed. And where a commit ends with the unlinking of a
        // journal, SQLite takes it for good that the directory cannot be opened for its fsync (unixDelete): a drive that
        // dies between the two may bring back the journal, and so take back the last row, though it was printed.
        let least = if mode == "wal" { committed } else { committed.saturating_sub(1) };
        assert!(rows[0] == rows[1] && rows[1] >= least && rows[1] <= committed + 1, "{mode}: {committed}: {said}");
        committed = rows[1];
    }
    println!("sqlite, {mode}: 5 kills, {committed} rows committed and there, integrity_check ok");
    assert!(committed > 0, "no row was ever committed");
    vault.umount();
}

#[test]
fn sqlite_with_a_rollback_journal_keeps_every_committed_row() {
    sqlite_survives("delete");
}

#[test]
fn sqlite_with_a_write_ahead_log_keeps_every_committed_row() {
    sqlite_survives("wal");
}

/// Commits until the drive dies; prints each commit once git says it is done.
const COMMITS: &str = r#"
    cd "$1"
    git init -q . 2>/dev/null
    rm -f .git/*.lock .git/refs/heads/*.lock
    while :; do
        n=$((n + 1))
        mkdir -p "d$((n % 5))" && head -c $((n * 997 % 20000)) /dev/urandom > "d$((n % 5))/f$n" || exit
        git add -A && git commit -q -m "commit $n" || exit
        git rev-parse HEAD || exit
    done
"#;

fn git() -> Command {
    let mut git = Command::new("git");
    git.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", "/nonexistent");
    git
}

#[test]
fn a_git_repository_passes_fsck_after_a_kill() {
    let Some(mut vault) = mounted() else { return };
    let (repository, mut commits) = (vault.mountpoint().join("repo"), 0);
    fs::create_dir(&repository).expect("a directory");
    for kill in 1..=3 {
        let mut writer = Command::new("sh");
        writer.args(["-c", COMMITS, "sh"]).arg(&repository).env_clear().env("HOME", vault.root().join("home"));
        writer.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        for (n, (key, value)) in
            [("user.name", "t"), ("user.email", "t@example.org"), ("core.fsync", "all"), ("gc.auto", "0")]
                .into_iter()
                .enumerate()
        {
            writer.env(format!("GIT_CONFIG_KEY_{n}"), key).env(format!("GIT_CONFIG_VALUE_{n}"), value);
        }
        let done = killed_at_work(&mut vault, writer.env("GIT_CONFIG_COUNT", "4"));
        vault.mount_with(&CHEAP);
        let fsck = run(git().args(["-c", "safe.directory=*", "fsck", "--full", "--strict"]).current_dir(&repository));
        let said = String::from_utf8_lossy(&fsck.stderr).into_owned();
        assert!(fsck.status.success(), "kill {kill}: {said}");
        for commit in &done {
            let kind =
                git().args(["-c", "safe.directory=*", "cat-file", "-t", commit]).current_dir(&repository).output();
            assert_eq!(kind.expect("git").stdout, b"commit\n", "kill {kill}: {commit} was made, fsynced, and is gone");
        }
        // git fsyncs a branch's file before its rename, and never the directory: only the next commit's fsync makes
        // that rename durable, here as on a local disk whose power is cut. So the last but one is what HEAD must hold.
        if let [.., acknowledged, _] = &done[..] {
            let arguments = ["-c", "safe.directory=*", "merge-base", "--is-ancestor", acknowledged, "HEAD"];
            let there = run(git().args(arguments).current_dir(&repository));
            assert!(there.status.success(), "kill {kill}: HEAD lost {acknowledged}");
        }
        commits += done.len();
    }
    println!("git: 3 kills, {commits} commits, fsck clean each time");
    assert!(commits > 0, "git never got as far as a commit");
    vault.umount();
}

/// The harness ends what it started and nothing else.
#[test]
fn two_drives_are_killed_one_at_a_time() {
    let Some(mut one) = mounted() else { return };
    let Some(other): Option<Vault> = mounted() else { return };
    one.kill();
    fs::write(other.mountpoint().join("a"), b"it goes on").expect("the other drive lives");
    assert!(one.daemons().is_empty() && other.daemons().len() == 1);
}
