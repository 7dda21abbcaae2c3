//! E2, E3: vaults and state directories that two machines use, and what rescue brings back.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use dripfs::base::Ino;
use dripfs::fs::{Caller, RenameMode};
use dripfs::mount::drive::{Closed, Drive, DriveOptions};
use dripfs::mount::rescue::{self, Report, Request};
use dripfs::vault::VaultError;

use crate::place::{Place, exists, noise, overwrite, passphrase, read, until_state, write};

const ME: Caller = Caller { uid: 0, gid: 0, pid: 1 };

async fn rescued(place: &Place, state: &str, to: &Path, remove: bool) -> Report {
    let request = Request { state: place.state(state), to: to.to_owned(), earlier: None, remove };
    rescue::rescue(&place.store(), &passphrase(), &request).await.unwrap()
}

/// Files of all kinds that the vault lacks, over some that it has.
async fn change_much(drive: &Drive) {
    let fs = &drive.fs;
    let old = fs.lookup(Ino::ROOT, b"old").await.unwrap().ino;
    overwrite(drive, old, 100_000, &noise(2, 5_000)).await;
    write(drive, "new", &noise(3, 700_000)).await;
    let dir = fs.mkdir(Ino::ROOT, b"dir", 0o750, ME).await.unwrap().ino;
    let inner = fs.create(dir, b"inner", 0o600, ME).await.unwrap().ino;
    overwrite(drive, inner, 0, b"inner").await;
    fs.link(inner, Ino::ROOT, b"hard").await.unwrap();
    fs.symlink(Ino::ROOT, b"soft", b"dir/inner", ME).await.unwrap();
    fs.rename(Ino::ROOT, b"moved", Ino::ROOT, b"moved away", RenameMode::Replace).await.unwrap();
    fs.unlink(Ino::ROOT, b"removed").await.unwrap();
    fs.fsync_dir(Ino::ROOT).await.unwrap();
}

async fn begin(place: &Place, state: &str) -> Drive {
    let drive = place.open(state).await;
    write(&drive, "old", &noise(1, 300_000)).await;
    write(&drive, "moved", b"moved").await;
    write(&drive, "removed", b"removed").await;
    write(&drive, "untouched", b"untouched").await;
    drive.sync(|_| ()).await.unwrap();
    drive
}

fn check_rescued(out: &Path, report: &Report) {
    assert!(report.is_whole(), "{report:?}");
    let mut old = noise(1, 300_000);
    old[100_000..105_000].copy_from_slice(&noise(2, 5_000));
    assert!(fs::read(out.join("old")).unwrap() == old);
    assert!(fs::read(out.join("new")).unwrap() == noise(3, 700_000));
    assert_eq!(fs::read(out.join("dir/inner")).unwrap(), b"inner");
    assert_eq!(fs::metadata(out.join("dir")).unwrap().mode() & 0o7777, 0o750);
    let (inner, hard) = (fs::metadata(out.join("dir/inner")).unwrap(), fs::metadata(out.join("hard")).unwrap());
    assert_eq!((inner.ino(), inner.mode() & 0o7777), (hard.ino(), 0o600));
    assert_eq!(fs::read_link(out.join("soft")).unwrap(), Path::new("dir/inner"));
    assert_eq!(fs::read(out.join("moved away")).unwrap(), b"moved");
    assert!(!out.join("untouched").exists() && !out.join("removed").exists() && !out.join("moved").exists());
}

/// The first writer is alive, or wakes up, after another took the vault over.
#[tokio::test(flavor = "multi_thread")]
async fn e3_what_a_fenced_writer_had_not_sent_is_set_aside_and_rescued_whole() {
    let place = Place::new().await;
    let first = begin(&place, "a").await;
    let second = place.take_over("b").await;
    write(&second, "theirs", b"theirs").await;
    change_much(&first).await;
    until_state(&first, "fenced").await;
    assert!(matches!(first.close(|_| ()).await.unwrap(), Closed::Pending(_)));
    drop(first);
    second.sync(|_| ()).await.unwrap();
    let before = place.store().list("", 1 << 20).await.unwrap();

    // Refused while the other writes: what is in the journal can be rescued all the same.
    let refused = place.try_open(place.options("a")).await.map(|_| ());
    assert!(matches!(refused, Err(VaultError::InUse { .. })), "{refused:?}");
    let out = place.root.join("early");
    let report = rescued(&place, "a", &out, false).await;
    check_rescued(&out, &report);
    assert_eq!(report.histories[0].directory, "journal");
    assert_eq!(place.store().list("", 1 << 20).await.unwrap(), before, "rescue writes nothing into the vault");

    second.close(|_| ()).await.unwrap();
    drop(second);
    let again = place.open("a").await;
    assert_eq!(read(&again, "theirs").await, b"theirs");
    assert!(!exists(&again, "new").await && exists(&again, "removed").await);
    assert_eq!(again.status().set_aside.len(), 1);
    // While the drive is mounted, and after it has gone on.
    write(&again, "new", b"another of that name").await;
    let out = place.root.join("out");
    let report = rescued(&place, "a", &out, false).await;
    check_rescued(&out, &report);
    let history = &report.histories[0];
    assert!(!history.based_on_vault);
    assert_eq!(history.removed, ["removed"], "{history:?}");
    assert_eq!(history.renamed.len(), 1, "{history:?}");
    assert_eq!((history.renamed[0].from.as_str(), history.renamed[0].to.as_str()), ("moved", "moved away"));

    // Nothing is written over: and where another file stands, though of the same size, nothing is removed.
    let mut other = noise(3, 700_000);
    other[600_000] ^= 1;
    fs::write(out.join("new"), &other).unwrap();
    let report = rescued(&place, "a", &out, true).await;
    assert!(!report.is_whole() && !report.histories[0].deleted, "{report:?}");
    assert_eq!(again.status().set_aside.len(), 1);
    assert!(fs::read(out.join("new")).unwrap() == other);
    // What an earlier rescue left there counts only if all of it stands.
    let (third, fourth) = (place.root.join("third"), place.root.join("fourth"));
    let looks = |to: &Path, earlier: &Path, remove| Request {
        state: place.state("a"),
        to: to.to_owned(),
        earlier: Some(earlier.to_owned()),
        remove,
    };
    let report = rescue::rescue(&place.store(), &passphrase(), &looks(&third, &out, false)).await.unwrap();
    check_rescued(&third, &report);
    assert!(report.histories[0].found.is_empty() && report.histories[0].to == third, "{report:?}");
    // All of it stands: it is read, nothing is written, and the history goes.
    let before = fs::metadata(third.join("new")).unwrap();
    let report = rescue::rescue(&place.store(), &passphrase(), &looks(&fourth, &third, true)).await.unwrap();
    assert!(report.is_whole() && report.histories[0].deleted && report.to == third, "{report:?}");
    assert!(report.histories[0].written.is_empty() && report.histories[0].to == third, "{report:?}");
    assert_eq!(report.histories[0].found.len(), 7, "{report:?}");
    let after = fs::metadata(third.join("new")).unwrap();
    assert_eq!((before.ino(), before.ctime_nsec()), (after.ino(), after.ctime_nsec()));
    assert!(!fourth.exists());
    assert!(again.status().set_aside.is_empty());
    again.close(|_| ()).await.unwrap();
    drop(again);
    assert!(rescued(&place, "a", &place.root.join("fourth"), true).await.histories.is_empty());
}

/// The index of the set-aside history is gone: what the history had not changed comes from the vault.
#[tokio::test(flavor = "multi_thread")]
async fn e3_without_its_index_a_history_is_rescued_over_what_the_vault_has() {
    let place = Place::new().await;
    let first = begin(&place, "a").await;
    let second = place.take_over("b").await;
    change_much(&first).await;
    until_state(&first, "fenced").await;
    first.close(|_| ()).await.unwrap();
    drop(first);
    second.close(|_| ()).await.unwrap();
    drop(second);
    place.copy("vault", "older");
    place.open("a").await.close(|_| ()).await.unwrap();
    let mut aside = fs::read_dir(place.state("a").join("aside")).unwrap().map(|entry| entry.unwrap().path());
    let aside = aside.find(|path| path.is_dir()).unwrap();
    fs::remove_dir_all(aside.join("index")).unwrap();
    let out = place.root.join("out");
    // A vault that is older than what this machine has seen is no base.
    place.copy("vault", "newest");
    place.copy("older", "vault");
    let request = Request { state: place.state("a"), to: out.clone(), earlier: None, remove: false };
    let refused = rescue::rescue(&place.store(), &passphrase(), &request).await.unwrap_err();
    assert!(refused.to_string().contains("rolled back"), "{refused}");
    place.copy("newest", "vault");
    let report = rescued(&place, "a", &out, false).await;
    assert!(report.histories[0].based_on_vault);
    check_rescued(&out, &report);
}

/// The index of the set-aside history is gone, and another machine has changed the same files meanwhile: what both changed
/// is told, neither mixed nor filled up with zeros; what the other one removed is not passed over.
#[tokio::test(flavor = "multi_thread")]
async fn e3_without_its_index_a_file_that_both_changed_is_told() {
    let place = Place::new().await;
    let first = begin(&place, "a").await;
    let second = place.take_over("b").await;
    let ino = |drive: &Drive, name: &'static [u8]| {
        let fs = drive.fs.clone();
        async move { fs.lookup(Ino::ROOT, name).await.unwrap().ino }
    };
    let old = ino(&first, b"old").await;
    overwrite(&first, old, 100_000, &noise(2, 5_000)).await;
    overwrite(&first, ino(&first, b"removed").await, 0, b"changed").await;
    // A file of its own may have holes.
    let sparse = write(&first, "sparse", b"x").await;
    overwrite(&first, sparse, 200_000, b"y").await;
    second.fs.unlink(Ino::ROOT, b"old").await.unwrap();
    write(&second, "old", b"another").await;
    overwrite(&second, ino(&second, b"moved").await, 0, &noise(5, 40_000)).await;
    second.fs.unlink(Ino::ROOT, b"removed").await.unwrap();
    until_state(&first, "fenced").await;
    first.close(|_| ()).await.unwrap();
    drop(first);
    second.close(|_| ()).await.unwrap();
    drop(second);
    place.open("a").await.close(|_| ()).await.unwrap();
    let mut aside = fs::read_dir(place.state("a").join("aside")).unwrap().map(|entry| entry.unwrap().path());
    let aside = aside.find(|path| path.is_dir()).unwrap();
    fs::remove_dir_all(aside.join("index")).unwrap();
    let out = place.root.join("out");
    let report = rescued(&place, "a", &out, true).await;
    let history = &report.histories[0];
    assert!(history.based_on_vault && !report.is_whole() && !history.deleted, "{report:?}");
    let told: Vec<_> = history.not_written.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(told.len(), 2, "the two files that the other one removed: {report:?}");
    let sparse = fs::read(out.join("sparse")).unwrap();
    assert!(sparse.len() == 200_001 && sparse[200_000] == b'y' && sparse[1..200_000].iter().all(|b| *b == 0));
}

/// As before, but the file still has its name: its own bytes are there, all others are told.
#[tokio::test(flavor = "multi_thread")]
async fn e3_without_its_index_what_another_machine_changed_in_a_file_is_not_mixed_in() {
    let place = Place::new().await;
    let first = begin(&place, "a").await;
    let old = first.fs.lookup(Ino::ROOT, b"old").await.unwrap().ino;
    // More pieces than a head has room for.
    for k in 1..20 {
        overwrite(&first, old, k * 15_000, &noise(k, 1_000)).await;
    }
    first.sync(|_| ()).await.unwrap();
    let second = place.take_over("b").await;
    overwrite(&first, old, 100_000, &noise(2, 5_000)).await;
    overwrite(&second, old, 0, &noise(6, 300_000)).await;
    until_state(&first, "fenced").await;
    first.close(|_| ()).await.unwrap();
    drop(first);
    second.close(|_| ()).await.unwrap();
    drop(second);
    place.open("a").await.close(|_| ()).await.unwrap();
    let mut aside = fs::read_dir(place.state("a").join("aside")).unwrap().map(|entry| entry.unwrap().path());
    let aside = aside.find(|path| path.is_dir()).unwrap();
    fs::remove_dir_all(aside.join("index")).unwrap();
    let out = place.root.join("out");
    let report = rescued(&place, "a", &out, false).await;
    assert!(!out.join("old").exists(), "{report:?}");
    let bytes = fs::read(out.join("old.incomplete")).unwrap();
    assert!(bytes.len() == 300_000 && bytes[100_000..105_000] == noise(2, 5_000));
    let ranges = &report.histories[0].incomplete[0].ranges;
    assert_eq!(ranges.iter().map(|range| range.length).sum::<u64>(), 295_000, "{ranges:?}");
}

/// Names as long as names are, in a directory that only its owner could enter.
#[tokio::test(flavor = "multi_thread")]
async fn e3_long_names_are_rescued_and_nobody_else_may_look() {
    let place = Place::new().await;
    let first = begin(&place, "a").await;
    let dir = first.fs.mkdir(Ino::ROOT, b"private", 0o700, ME).await.unwrap().ino;
    first.sync(|_| ()).await.unwrap();
    let second = place.take_over("b").await;
    let name = "n".repeat(255);
    let made = first.fs.create(dir, name.as_bytes(), 0o644, ME).await.unwrap().ino;
    overwrite(&first, made, 0, b"long").await;
    until_state(&first, "fenced").await;
    first.close(|_| ()).await.unwrap();
    drop(first);
    second.close(|_| ()).await.unwrap();
    drop(second);
    place.open("a").await.close(|_| ()).await.unwrap();
    // It is there already, and open to all.
    let out = place.root.join("out");
    fs::create_dir(&out).unwrap();
    let report = rescued(&place, "a", &out, false).await;
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(fs::read(out.join("private").join(name)).unwrap(), b"long");
    assert_eq!(fs::metadata(out.join("private")).unwrap().mode() & 0o7777, 0o700);
}

/// Bytes that are nowhere any more are told, never made up.
#[tokio::test(flavor = "multi_thread")]
async fn e3_ranges_whose_base_is_gone_are_listed_and_the_file_bears_another_name() {
    let place = Place::new().await;
    let first = begin(&place, "a").await;
    let second = place.take_over("b").await;
    let old = first.fs.lookup(Ino::ROOT, b"old").await.unwrap().ino;
    overwrite(&first, old, 100_000, &noise(2, 5_000)).await;
    write(&first, "new", b"new").await;
    until_state(&first, "fenced").await;
    first.close(|_| ()).await.unwrap();
    drop(first);
    second.close(|_| ()).await.unwrap();
    drop(second);
    place.open("a").await.close(|_| ()).await.unwrap();
    fs::rename(place.vault().join("segments"), place.root.join("segments")).unwrap();
    let out = place.root.join("out");
    let report = rescued(&place, "a", &out, true).await;
    let history = &report.histories[0];
    assert!(!report.is_whole() && !history.deleted);
    assert_eq!(fs::read(out.join("new")).unwrap(), b"new");
    assert!(!out.join("old").exists());
    let bytes = fs::read(out.join("old.incomplete")).unwrap();
    assert_eq!(bytes.len(), 300_000);
    assert!(bytes[100_000..105_000] == noise(2, 5_000));
    let told: u64 = history.incomplete[0].ranges.iter().map(|range| range.length).sum();
    assert_eq!(told, 295_000, "{:?}", history.incomplete);
}

/// One machine's state directory on another, both used: each meets what is foreign to it.
#[tokio::test(flavor = "multi_thread")]
async fn c4_a_copied_state_directory_that_both_use_loses_nothing() {
    let place = Place::new().await;
    let drive = place.open("a").await;
    write(&drive, "shared", b"shared").await;
    drive.close(|_| ()).await.unwrap();
    drop(drive);
    place.copy("a", "copy");
    let drive = place.open("a").await;
    write(&drive, "from a", b"from a").await;
    drive.close(|_| ()).await.unwrap();
    drop(drive);
    // Its journal holds nothing that the vault lacks: it follows, and goes on.
    let copy = place.open("copy").await;
    assert_eq!(read(&copy, "from a").await, b"from a");
    write(&copy, "from copy", b"from copy").await;
    // And now the first takes it, as if the copy's machine were gone.
    let refused = place.try_open(place.options("a")).await.map(|_| ());
    assert!(matches!(refused, Err(VaultError::InUse { .. })), "{refused:?}");
    let first = place.take_over("a").await;
    write(&copy, "late", b"late").await;
    until_state(&copy, "fenced").await;
    copy.close(|_| ()).await.unwrap();
    drop(copy);
    first.close(|_| ()).await.unwrap();
    drop(first);
    let copy = place.open("copy").await;
    assert!(!exists(&copy, "late").await);
    let out = place.root.join("out");
    let report = rescued(&place, "copy", &out, false).await;
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(fs::read(out.join("late")).unwrap(), b"late");
    copy.close(|_| ()).await.unwrap();
}

/// A backup of the state directory is put back, and its journal's file went on after it was made.
#[tokio::test(flavor = "multi_thread")]
async fn c4_an_older_copy_of_a_state_directory_is_refused_or_set_aside() {
    let place = Place::new().await;
    let drive = place.open("a").await;
    write(&drive, "first", b"first").await;
    place.copy("a/journal", "older");
    drive.sync(|_| ()).await.unwrap();
    write(&drive, "second", b"second").await;
    drive.sync(|_| ()).await.unwrap();
    drive.give_up().await.unwrap();
    drop(drive);
    place.copy("a/pin", "pin");
    fs::create_dir(place.root.join("b")).unwrap();
    place.copy("older", "b/journal");
    place.copy("pin", "b/pin");
    let refused = place.try_open(place.options("b")).await.map(|_| ());
    let Err(VaultError::State { why, .. }) = &refused else { panic!("{refused:?}") };
    assert!(why.contains("older copy") && why.contains("--takeover"), "{why}");
    let drive = place.take_over("b").await;
    assert_eq!(read(&drive, "second").await, b"second");
    assert_eq!(read(&drive, "first").await, b"first");
    let aside = drive.status().set_aside;
    assert_eq!(aside.len(), 1, "what may not be in the vault is kept");
    drive.close(|_| ()).await.unwrap();
}

/// The directory is another vault's.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_of_another_vault_is_refused_and_left_as_it_is() {
    let (place, other) = (Place::new().await, Place::new().await);
    let drive = other.open("a").await;
    write(&drive, "theirs", b"theirs").await;
    drive.give_up().await.unwrap();
    drop(drive);
    let options = DriveOptions { takeover: true, accept_rollback: true, ..other.options("a") };
    let refused = place.try_open(options).await.map(|_| ());
    assert!(matches!(&refused, Err(VaultError::Tampered(why)) if why.contains("another one")), "{refused:?}");
    let drive = other.open("a").await;
    assert_eq!(read(&drive, "theirs").await, b"theirs");
    drive.close(|_| ()).await.unwrap();
}

/// The vault is put back to an older state: refused, or accepted by name; then what it lacks is set aside.
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_was_put_back_is_refused_and_the_override_sets_aside_what_it_lacks() {
    let place = Place::new().await;
    let drive = place.open("a").await;
    write(&drive, "old", b"old").await;
    drive.close(|_| ()).await.unwrap();
    drop(drive);
    place.copy("vault", "backup");
    let drive = place.open("a").await;
    write(&drive, "lost", &noise(1, 200_000)).await;
    drive.sync(|_| ()).await.unwrap();
    write(&drive, "never sent", b"never sent").await;
    drive.give_up().await.unwrap();
    drop(drive);
    place.copy("backup", "vault");
    let refused = place.try_open(place.options("a")).await.map(|_| ());
    let Err(VaultError::RolledBack(why)) = &refused else { panic!("{refused:?}") };
    assert!(why.contains("rolled back"), "{why}");
    let takeover = place.try_open(DriveOptions { takeover: true, ..place.options("a") }).await;
    assert!(matches!(takeover.map(|_| ()), Err(VaultError::RolledBack(_))), "no other option accepts it");

    let accept = DriveOptions { accept_rollback: true, ..place.options("a") };
    let drive = place.try_open(accept).await.unwrap();
    assert!(drive.notices()[0].contains("accepted"), "{:?}", drive.notices());
    assert!(exists(&drive, "old").await && !exists(&drive, "lost").await);
    write(&drive, "after", b"after").await;
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    drop(drive);
    let out = place.root.join("out");
    let report = rescued(&place, "a", &out, false).await;
    assert_eq!(fs::read(out.join("never sent")).unwrap(), b"never sent", "{report:?}");
    // Its bytes were in the vault only, if the journal has let go of them.
    let lost = out.join("lost");
    assert!(report.is_whole() == lost.exists() && lost.exists() != out.join("lost.incomplete").exists(), "{report:?}");
    // From here on it is a vault like any other.
    for state in ["a", "b"] {
        let drive = place.open(state).await;
        assert_eq!(read(&drive, "after").await, b"after");
        drive.close(|_| ()).await.unwrap();
    }
}
