//! E4: a drive without its store.

use dripfs::mount::drive::{Closed, DriveOptions};
use dripfs::vault::VaultError;

use crate::place::{Place, exists, noise, overwrite, read, until_state, write};

/// Mounted and unmounted without the store twice, then with it: everything is there, for others too, in an epoch of its
/// own, and no inode number was given twice.
#[tokio::test(flavor = "multi_thread")]
async fn e4_offline_mounts_write_and_the_first_with_the_store_sends_it() {
    let place = Place::new().await;
    let drive = place.open("a").await;
    let old = write(&drive, "old", &noise(1, 50_000)).await;
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    let before = drive.status();
    drop(drive);

    place.unplug();
    let drive = place.open("a").await;
    let status = drive.status();
    assert_eq!(status.state, "offline", "{:?}", status.reason);
    assert!(status.epoch > before.epoch && status.sequence == before.sequence);
    let first = write(&drive, "first", &noise(2, 70_000)).await;
    overwrite(&drive, old, 10_000, &noise(3, 5_000)).await;
    assert!(matches!(drive.close(|_| ()).await.unwrap(), Closed::Pending(bytes) if bytes > 70_000));
    drop(drive);

    place.copy("a", "crashed");
    let drive = place.open("a").await;
    assert_eq!(drive.status().epoch, status.epoch, "E1: one number until its record exists");
    assert_eq!(read(&drive, "first").await, noise(2, 70_000));
    let second = write(&drive, "second", b"second").await;
    assert!(second > first, "a number is given once");
    // Nobody closes it: the machine goes off.
    place.crash("a", "crashed");
    drive.give_up().await.unwrap();

    let drive = place.open("crashed").await;
    assert_eq!(drive.status().epoch, status.epoch, "E1: one number until its record exists");
    let third = write(&drive, "third", b"third").await;
    assert!(third > second, "a number is given once");
    place.plug();
    drive.sync(|_| ()).await.unwrap();
    let ready = drive.status();
    assert_eq!((ready.state.as_str(), ready.epoch, ready.pending_bytes), ("ready", status.epoch, 0));
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    drop(drive);

    let elsewhere = place.reader().await;
    let mut changed = noise(1, 50_000);
    changed[10_000..15_000].copy_from_slice(&noise(3, 5_000));
    assert!(read(&elsewhere, "old").await == changed);
    assert!(read(&elsewhere, "first").await == noise(2, 70_000));
    assert_eq!(read(&elsewhere, "second").await, b"second");
    assert_eq!(read(&elsewhere, "third").await, b"third");
    // And both machines go on.
    for state in ["b", "crashed"] {
        let drive = place.open(state).await;
        assert!(read(&drive, "old").await == changed, "{state}");
        write(&drive, state, b"more").await;
        assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    }
}

/// The record of an offline mount that died arrived after all. The next one, without the store again, had the same number:
/// its record bears a higher one, or nobody could read the log any more.
#[tokio::test(flavor = "multi_thread")]
async fn e1_a_record_of_an_earlier_offline_mount_that_arrived_unheard_of_ends_no_vault() {
    let place = Place::new().await;
    let drive = place.open("a").await;
    write(&drive, "old", b"old").await;
    drive.close(|_| ()).await.unwrap();
    drop(drive);
    place.unplug();
    place.copy("a", "crashed");
    let drive = place.open("a").await;
    let number = drive.status().epoch;
    // The process dies here: its epoch record arrives, and nothing else.
    place.crash("a", "crashed");
    place.plug();
    until_state(&drive, "ready").await;
    drive.give_up().await.unwrap();
    drop(drive);

    place.unplug();
    let drive = place.open("crashed").await;
    assert_eq!(drive.status().epoch, number);
    let first = write(&drive, "first", b"first").await;
    place.plug();
    drive.sync(|_| ()).await.unwrap();
    let status = drive.status();
    assert!(status.state == "ready" && status.epoch > number, "{status:?}");
    let second = write(&drive, "second", b"second").await;
    assert!(second > first);
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    drop(drive);
    assert_eq!(read(&place.reader().await, "first").await, b"first");
    for state in ["b", "crashed"] {
        let drive = place.open(state).await;
        assert!(drive.status().epoch > status.epoch);
        assert_eq!(read(&drive, "second").await, b"second");
        drive.close(|_| ()).await.unwrap();
    }
}

/// The mount after an offline one has the store: it sends what that one left.
#[tokio::test(flavor = "multi_thread")]
async fn e4_what_an_offline_mount_left_is_sent_by_a_mount_with_the_store() {
    let place = Place::new().await;
    place.open("a").await.close(|_| ()).await.unwrap();
    place.unplug();
    let drive = place.open("a").await;
    write(&drive, "file", b"contents").await;
    assert!(matches!(drive.close(|_| ()).await.unwrap(), Closed::Pending(_)));
    drop(drive);
    place.plug();
    let drive = place.open("a").await;
    assert_eq!(drive.status().state, "ready");
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    assert_eq!(read(&place.reader().await, "file").await, b"contents");
}

/// A mount that changed nothing leaves nothing pending, and has told the vault nothing.
#[tokio::test(flavor = "multi_thread")]
async fn e4_an_offline_mount_that_changed_nothing_is_drained() {
    let place = Place::new().await;
    place.open("a").await.close(|_| ()).await.unwrap();
    place.unplug();
    let drive = place.open("a").await;
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    drop(drive);
    place.plug();
    place.open("b").await.close(|_| ()).await.unwrap();
}

/// The process died while a round was on its way, and the store is away at the next mount: what the vault took without
/// this machine's hearing of it is found when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn e4_commits_of_a_process_that_died_are_found_when_the_store_is_back() {
    let place = Place::new().await;
    place.open("a").await.close(|_| ()).await.unwrap();
    place.copy("a", "crashed");
    let drive = place.open("a").await;
    write(&drive, "committed", &noise(1, 300_000)).await;
    write(&drive, "kept", &noise(4, 300_000)).await;
    // The process dies here, its last requests arrive later: those of a round that nobody asks for, for a sync would write
    // to the journal.
    place.crash("a", "crashed");
    while drive.status().pending_bytes > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    drive.give_up().await.unwrap();
    place.unplug();
    let drive = place.open("crashed").await;
    assert_eq!(drive.status().state, "offline");
    assert!(read(&drive, "committed").await == noise(1, 300_000));
    write(&drive, "later", &noise(2, 1000)).await;
    drive.fs.unlink(dripfs::base::Ino::ROOT, b"committed").await.unwrap();
    write(&drive, "again", &noise(3, 300_000)).await;
    place.plug();
    drive.sync(|_| ()).await.unwrap();
    assert_eq!(drive.status().state, "ready");
    assert!(read(&drive, "again").await == noise(3, 300_000));
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    let elsewhere = place.reader().await;
    assert!(!exists(&elsewhere, "committed").await);
    assert!(read(&elsewhere, "again").await == noise(3, 300_000));
    assert!(read(&elsewhere, "later").await == noise(2, 1000));
    assert!(read(&elsewhere, "kept").await == noise(4, 300_000));
}

/// Another machine wrote meanwhile. With changes of its own the drive is fenced and the next mount sets them aside.
#[tokio::test(flavor = "multi_thread")]
async fn e3_an_offline_drive_that_meets_foreign_history_is_fenced_and_its_journal_set_aside() {
    let place = Place::new().await;
    let drive = place.open("a").await;
    write(&drive, "shared", b"shared").await;
    drive.close(|_| ()).await.unwrap();
    drop(drive);
    place.unplug();
    let drive = place.open("a").await;
    write(&drive, "mine", b"mine").await;
    let other = place.open_away("b").await;
    write(&other, "theirs", b"theirs").await;
    other.close(|_| ()).await.unwrap();
    place.plug();
    until_state(&drive, "fenced").await;
    assert!(drive.status().reason.unwrap().contains("sets aside"), "{:?}", drive.status().reason);
    assert!(drive.fs.unlink(dripfs::base::Ino::ROOT, b"mine").await.is_err(), "a fenced drive takes no changes");
    assert_eq!(read(&drive, "mine").await, b"mine");
    assert!(matches!(drive.close(|_| ()).await.unwrap(), Closed::Pending(_)));
    drop(drive);
    assert!(!exists(&place.reader().await, "mine").await);
    let drive = place.open("a").await;
    assert!(read(&drive, "theirs").await == b"theirs" && !exists(&drive, "mine").await);
    let status = drive.status();
    assert_eq!(status.set_aside.len(), 1, "{:?}", status.set_aside);
    assert!(status.set_aside[0].changes > 0);
    assert!(drive.notices()[0].contains("dripfs rescue"), "{:?}", drive.notices());
    drive.close(|_| ()).await.unwrap();
}

/// Nothing of its own is uncommitted: nothing is set aside, and a mount anew shows what others wrote.
#[tokio::test(flavor = "multi_thread")]
async fn e3_an_offline_drive_without_changes_says_that_it_must_be_mounted_anew() {
    let place = Place::new().await;
    place.open("a").await.close(|_| ()).await.unwrap();
    place.unplug();
    let drive = place.open("a").await;
    let other = place.open_away("b").await;
    write(&other, "theirs", b"theirs").await;
    other.close(|_| ()).await.unwrap();
    place.plug();
    until_state(&drive, "fenced").await;
    assert!(drive.status().reason.unwrap().contains("mount again"), "{:?}", drive.status().reason);
    assert_eq!(drive.close(|_| ()).await.unwrap(), Closed::Drained);
    drop(drive);
    let drive = place.open("a").await;
    assert_eq!(read(&drive, "theirs").await, b"theirs");
    assert!(drive.status().set_aside.is_empty());
    drive.close(|_| ()).await.unwrap();
}

/// What is missing is named, nothing is changed, and the store's return mends it.
#[tokio::test(flavor = "multi_thread")]
async fn e4_without_index_header_or_pin_no_drive_is_mounted_offline() {
    let place = Place::new().await;
    let drive = place.open("a").await;
    write(&drive, "file", b"contents").await;
    drive.close(|_| ()).await.unwrap();
    drop(drive);
    place.unplug();
    for (missing, told) in [("index", "no index"), ("header", "header"), ("journal", "journal")] {
        place.copy("a", "b");
        let path = place.root.join("b").join(missing);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.unwrap();
        let result = place.try_open(place.options("b")).await.map(|_| ());
        let Err(VaultError::Unreachable { why, .. }) = &result else { panic!("{missing}: {result:?}") };
        assert!(why.contains(told), "{missing}: {why}");
    }
    let unknown = place.try_open(place.options("c")).await.map(|_| ());
    assert!(matches!(unknown, Err(VaultError::NotFound { .. })), "{unknown:?}");
    let reader = DriveOptions { read_only: true, ..place.options("a") };
    assert!(place.try_open(reader).await.is_err());
    let wrong = dripfs::mount::drive::Drive::open(
        place.store(),
        dripfs::crypto::secret::Passphrase::new(b"wrong".to_vec()),
        place.options("a"),
    );
    assert!(matches!(wrong.await.map(|_| ()), Err(VaultError::WrongPassphrase { .. })));
    place.plug();
    let drive = place.open("b").await;
    assert_eq!(read(&drive, "file").await, b"contents");
    drive.close(|_| ()).await.unwrap();
}

/// Another machine has the vault open, and has written nothing yet: this one is fenced all the same.
#[tokio::test(flavor = "multi_thread")]
async fn e2_an_offline_drive_does_not_take_a_vault_that_is_open_elsewhere() {
    let place = Place::new().await;
    place.open("a").await.close(|_| ()).await.unwrap();
    place.unplug();
    let drive = place.open("a").await;
    write(&drive, "mine", b"mine").await;
    let other = place.open_away("b").await;
    place.plug();
    until_state(&drive, "fenced").await;
    drive.close(|_| ()).await.unwrap();
    drop(drive);
    other.give_up().await.unwrap();
}

/// What is not on this machine fails in a bounded time, and is there when the store is.
#[tokio::test(flavor = "multi_thread")]
async fn e4_what_only_the_vault_has_fails_offline_and_is_read_later() {
    let place = Place::new().await;
    let drive = place.open("a").await;
    write(&drive, "remote", &noise(1, 3 << 20)).await;
    drive.close(|_| ()).await.unwrap();
    drop(drive);
    place.unplug();
    let drive = place.open("a").await;
    let found = drive.fs.lookup(dripfs::base::Ino::ROOT, b"remote").await.unwrap();
    assert_eq!(found.size, 3 << 20, "names and attributes need no store");
    let read_now = drive.fs.read(found.ino, 0, 4096);
    let failed = tokio::time::timeout(std::time::Duration::from_secs(120), read_now).await.expect("a bounded time");
    // What the journal still holds may be read.
    assert!(failed.is_err() || failed.unwrap() == noise(1, 3 << 20)[..4096]);
    place.plug();
    drive.sync(|_| ()).await.unwrap();
    until_state(&drive, "ready").await;
    assert!(read(&drive, "remote").await == noise(1, 3 << 20));
    drive.close(|_| ()).await.unwrap();
}
