//! Each fault of a store on a real mount: what write, fsync, read, ls, stat, statfs and status did meanwhile, and that
//! everything drains by itself afterwards, whole, with nothing sent twice in vain. Prints a table (with --nocapture).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::common::{Vault, long, noise as text};
use super::mounts::read_tree;
use super::server::{BUCKET, Fault, KEY, S3Server, SECRET};

/// How long each fault lasts, at least: DRIPFS_LONG=1 is for a minute.
fn lasts() -> Duration {
    Duration::from_secs(if long() { 60 } else { 12 })
}

/// Nothing that needs no store takes as long, on a machine however busy; what needs one ends before the kernel would.
const AT_ONCE: Duration = Duration::from_secs(9);
const READ_DEADLINE: Duration = Duration::from_secs(59);
const PATIENCE: Duration = Duration::from_secs(150);

/// How an operation went.
struct Done {
    what: String,
    took: Duration,
}

fn done<T>(work: impl FnOnce() -> io::Result<T>) -> Done {
    let began = Instant::now();
    let what = match work() {
        Ok(_) => "ok".to_owned(),
        Err(e) => match e.raw_os_error() {
            Some(libc::EIO) => "EIO".to_owned(),
            _ => e.to_string(),
        },
    };
    Done { what, took: began.elapsed() }
}

/// Which operations, and what is asserted of each.
const OPERATIONS: [&str; 7] = ["write", "fsync", "cached read", "cold read", "ls", "stat+statfs", "status"];

struct Row {
    fault: &'static str,
    done: Vec<Done>,
    /// What status said, and how often the store was asked meanwhile.
    reason: String,
    puts: usize,
    drained: Duration,
}

fn write_credentials(vault: &Vault, key: &str, secret: &str) {
    let dir = vault.root().join("home/.aws");
    fs::create_dir_all(&dir).unwrap();
    let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
    fs::write(dir.join("new"), text).unwrap();
    fs::rename(dir.join("new"), dir.join("credentials")).unwrap();
}

/// A mounted drive with a file that was read, and one that was not since the mount.
fn drive(server: &S3Server) -> Option<Vault> {
    let mut environment = server.environment();
    environment.retain(|name, _| !name.contains("KEY"));
    let mut vault = Vault::at(&format!("s3://{BUCKET}/x"), environment)?;
    write_credentials(&vault, KEY, SECRET);
    vault.mount_with(&["--kdf-memory", "64"]);
    let dir = vault.mountpoint();
    fs::create_dir(dir.join("dir")).unwrap();
    fs::write(dir.join("dir/read"), text(1, 300_000)).unwrap();
    fs::write(dir.join("dir/cold"), text(2, 3 << 20)).unwrap();
    vault.umount();
    // Nothing of it is on this machine.
    vault.move_to_machine("first");
    vault.mount_with(&[]);
    assert!(fs::read(dir.join("dir/read")).unwrap() == text(1, 300_000));
    server.take_seen();
    Some(vault)
}

fn use_it(vault: &Vault) -> Vec<Done> {
    let dir = vault.mountpoint().join("dir");
    let mut new = None;
    let write = done(|| {
        let mut file = fs::File::create(dir.join("new"))?;
        file.write_all(&text(3, 1 << 20))?;
        new = Some(file);
        fs::rename(dir.join("new"), dir.join("renamed"))
    });
    let fsync = done(|| new.take().expect("it was written").sync_all());
    let cached = done(|| match fs::read(dir.join("read"))? == text(1, 300_000) {
        true => Ok(()),
        false => Err(io::Error::other("wrong bytes")),
    });
    // Names, attributes and status while a read waits for the store.
    std::thread::scope(|scope| {
        let cold = scope.spawn(|| done(|| middle(&dir.join("cold"))));
        std::thread::sleep(Duration::from_millis(200));
        let ls = done(|| match fs::read_dir(&dir)?.count() {
            3 => Ok(()),
            other => Err(io::Error::other(format!("{other} names"))),
        });
        let stat = done(|| {
            fs::metadata(dir.join("cold"))?;
            rustix::fs::statvfs(&dir).map_err(io::Error::from)
        });
        let status = done(|| {
            vault.status();
            Ok(())
        });
        vec![write, fsync, cached, cold.join().expect("a read"), ls, stat, status]
    })
}

/// Far from what was fetched beside something else.
fn middle(path: &Path) -> io::Result<()> {
    const AT: usize = 2 << 20;
    let mut bytes = vec![0; 4096];
    fs::File::open(path)?.read_exact_at(&mut bytes, AT as u64)?;
    match bytes == text(2, 3 << 20)[AT..][..4096] {
        true => Ok(()),
        false => Err(io::Error::other("wrong bytes")),
    }
}

fn suffer(name: &'static str, fault: Fault) -> Option<Row> {
    let server = S3Server::start();
    let mut vault = drive(&server)?;
    let expires = fault == Fault::None;
    let began = Instant::now();
    match expires {
        true => server.set_keys("AKIDNEXT", "the-next-secret"),
        false => server.set_fault(fault.clone()),
    }
    let done = use_it(&vault);
    let is_slow = matches!(fault, Fault::Slow(_));
    let mut reason = String::new();
    while began.elapsed() < PATIENCE {
        let status = vault.status();
        if status["state"] == "outage" {
            reason = status["reason"].as_str().expect("why").to_owned();
        }
        if began.elapsed() > lasts() && (is_slow || !reason.is_empty()) {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(is_slow || !reason.is_empty(), "{name}: status never said outage");
    let puts = server.take_seen().iter().filter(|seen| seen.method == "PUT").count();
    match expires {
        true => write_credentials(&vault, "AKIDNEXT", "the-next-secret"),
        false => server.set_fault(Fault::None),
    }
    let back = Instant::now();
    loop {
        let status = vault.status();
        if status["state"] == "ready" && status["pending_bytes"] == 0 && status["pending_files"] == 0 {
            break;
        }
        assert!(back.elapsed() < PATIENCE, "{name}: not drained: {status}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let drained = back.elapsed();
    middle(&vault.mountpoint().join("dir/cold")).expect("the store is back");
    let held = read_tree(&vault.mountpoint());
    vault.umount();
    let mut stood = BTreeMap::new();
    for seen in server.take_seen().into_iter().filter(|seen| seen.method == "PUT" && seen.status == 200) {
        *stood.entry(seen.key).or_insert(0) += 1;
    }
    stood.retain(|key, times| *times > 1 && !key.ends_with("/latest"));
    assert!(stood.is_empty(), "{name}: sent again although it stood: {stood:?}");
    vault.move_to_machine("second");
    vault.mount_with(&[]);
    assert!(read_tree(&vault.mountpoint()) == held && held.len() == 3, "{name}: something was lost");
    assert!(held[Path::new("dir/renamed")] == text(3, 1 << 20));
    vault.umount();
    Some(Row { fault: name, done, reason, puts, drained })
}

#[test]
fn outages_hurt_only_what_needs_the_store_and_everything_drains_by_itself() {
    let faults = [
        ("refuses connections", Fault::Refuse),
        ("hangs", Fault::Hang),
        ("500", Fault::Answer(500, "InternalError", None)),
        ("503", Fault::Answer(503, "SlowDown", None)),
        ("429, Retry-After: 8", Fault::Answer(429, "TooManyRequests", Some(8))),
        ("403, keys changed", Fault::None),
        ("cuts bodies", Fault::Cut),
        ("10 KiB/s", Fault::Slow(10 << 10)),
    ];
    // At once: mostly they wait.
    let rows: Vec<Option<Row>> = std::thread::scope(|scope| {
        let running = faults.map(|(name, fault)| scope.spawn(move || suffer(name, fault)));
        running.map(|thread| thread.join().expect("the fault was borne")).into()
    });
    let Some(rows) = rows.into_iter().collect::<Option<Vec<Row>>>() else { return };
    print!("{:<20}", "the store");
    OPERATIONS.iter().for_each(|name| print!(" | {name:>12}"));
    println!(" | PUTs | drained after | status");
    for row in &rows {
        print!("{:<20}", row.fault);
        for done in &row.done {
            print!(" | {:>12}", format!("{} {:.2} s", done.what, done.took.as_secs_f64()));
        }
        let reason = row.reason.split_once(": ").map_or("ready", |(_, why)| why);
        println!(" | {:>4} | {:>11.1} s | {}", row.puts, row.drained.as_secs_f64(), &reason[..reason.len().min(110)]);
    }
    for row in &rows {
        for (name, done) in OPERATIONS.iter().zip(&row.done) {
            let is_cold = *name == "cold read";
            let slow = row.fault == "10 KiB/s";
            assert_eq!(done.what, if is_cold && !slow { "EIO" } else { "ok" }, "{}: {name}", row.fault);
            assert!(done.took < if is_cold { READ_DEADLINE } else { AT_ONCE }, "{}: {name} {:?}", row.fault, done.took);
        }
        let most = 5 * lasts().as_secs() as usize;
        assert!(row.puts < most, "{}: {} tries to write in {:?}", row.fault, row.puts, lasts());
    }
}
