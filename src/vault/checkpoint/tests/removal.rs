//! Removal: what goes, what stays, and in which order.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::remove::*;
use super::super::*;
use super::vault::*;
use crate::base::{Ino, Sequence};
use crate::format::commit::log_name;
use crate::format::key::Key;

/// Log objects: 1 and 2 commits, 3 an epoch record, 4 a commit, all covered by a first checkpoint; 5 and 6 commits that
/// name that one, covered by a second; 7 a commit that names the second.
async fn vault() -> (Vault, [ObjectId; 3]) {
    let mut vault = Vault::new().await;
    let mut checkpoints = vec![vault.base.0.0];
    for k in 1..=7 {
        if k == 3 {
            vault.begin_epoch().await;
            continue;
        }
        if k == 5 || k == 7 {
            let made = vault.make(Merge::BySize).await.unwrap();
            vault.base = (made.checkpoint, made.manifest);
            checkpoints.push(made.checkpoint.0);
        }
        vault.commit(BTreeMap::from([(Key::inode(Ino(k)), Some(inode()))]), false).await;
    }
    (vault, checkpoints.try_into().unwrap())
}

struct Driven<'a> {
    vault: &'a Vault,
    removal: Removal,
    now: Now,
    seen: Seen,
}

impl<'a> Driven<'a> {
    fn new(vault: &'a Vault) -> Driven<'a> {
        let time = Instant::now();
        let removal = Removal::new(vault.base.0.0, &[(vault.base.1.sequence, time)], GRACE);
        let now = Now { time, may: true, newest: vault.link().sequence, checkpoint: vault.base.0.0 };
        Driven { vault, removal, now, seen: Seen::default() }
    }

    async fn run(&mut self, keep: &[u64]) -> Result<Step, VaultError> {
        let (vault, now) = (self.vault, self.now);
        let keep = |sequence: Sequence| keep.contains(&sequence.0);
        let (removal, seen) = (&mut self.removal, &mut self.seen);
        remove_covered(&vault.remote, &vault.keys, &vault.base.1, removal, seen, || now, keep).await
    }

    fn wait(&mut self) {
        self.now.time += GRACE;
    }
}

#[tokio::test]
async fn covered_commits_go_oldest_first_each_after_its_manifest() {
    let (vault, [empty, first, second]) = vault().await;
    let mut driven = Driven::new(&vault);
    let since = driven.now.time;
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Wait(Some(since + GRACE)));
    driven.now.time += GRACE - Duration::from_millis(1);
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Wait(Some(since + GRACE)));
    assert_eq!(*vault.remote.deleted.lock(), Vec::<String>::new());
    driven.wait();
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Done);
    let log = |k| log_name(Sequence(k));
    let expected =
        [checkpoint_name(empty), log(1), log(2), log(4), checkpoint_name(first), log(5), log(6)].map(String::from);
    assert_eq!(*vault.remote.deleted.lock(), expected);
    let names = vault.remote.names().await;
    assert!(names.contains(&log(3)) && names.contains(&log(7)) && names.contains(&checkpoint_name(second)));
    assert_eq!(vault.read().await.unwrap(), {
        let mut covered = vault.state.clone();
        covered.remove(&Key::inode(Ino(7)));
        covered
    });
}

#[tokio::test]
async fn inline_extents_that_somebody_names_stop_it() {
    let (vault, _) = vault().await;
    let mut driven = Driven::new(&vault);
    driven.wait();
    assert_eq!(driven.run(&[4]).await.unwrap(), Step::Blocked(Sequence(4)));
    assert!(!vault.remote.deleted.lock().contains(&log_name(Sequence(4))));
    assert!(!vault.remote.deleted.lock().contains(&log_name(Sequence(5))));
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Done);
    assert!(vault.remote.deleted.lock().contains(&log_name(Sequence(6))));
}

#[tokio::test]
async fn the_newest_commit_never_goes() {
    let (mut vault, _) = vault().await;
    // The checkpoint covers the newest commit too, as when it is named by a commit that nobody has seen yet.
    let made = vault.make(Merge::All).await.unwrap();
    vault.base = (made.checkpoint, made.manifest);
    let mut driven = Driven::new(&vault);
    driven.wait();
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Done);
    assert!(vault.remote.names().await.contains(&log_name(Sequence(7))));
    assert!(!vault.remote.names().await.contains(&log_name(Sequence(6))));
}

#[tokio::test]
async fn nothing_goes_while_it_must_not() {
    let (vault, [_, first, _]) = vault().await;
    let mut driven = Driven::new(&vault);
    driven.wait();
    driven.now.may = false;
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Wait(None));
    driven.now = Now { may: true, checkpoint: first, ..driven.now };
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Superseded);
    driven.now.checkpoint = vault.base.0.0;
    // A checkpoint that cannot be read back covers nothing.
    let run = segment_name(vault.base.1.segments().last().unwrap().id);
    vault.remote.delete(&run).await;
    assert!(matches!(driven.run(&[]).await, Err(VaultError::Tampered(what)) if what.contains(&run)));
    assert_eq!(*vault.remote.deleted.lock(), Vec::<String>::new());
}

#[tokio::test]
async fn what_came_late_or_is_gone_already_does_no_harm() {
    let (vault, [empty, ..]) = vault().await;
    let mut driven = Driven::new(&vault);
    // The listing still shows what is gone.
    assert!(matches!(driven.run(&[]).await.unwrap(), Step::Wait(Some(_))));
    vault.remote.delete(&checkpoint_name(empty)).await;
    vault.remote.delete(&log_name(Sequence(1))).await;
    driven.wait();
    // Cut off in the middle, it goes on where it was.
    vault.remote.left.store(6, std::sync::atomic::Ordering::SeqCst);
    assert!(driven.run(&[]).await.is_err());
    vault.remote.left.store(u32::MAX, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Done);
    let names = vault.remote.names().await;
    assert_eq!(names.iter().filter(|name| name.starts_with("log/")).count(), 2);
    assert_eq!(names.iter().filter(|name| name.starts_with("checkpoint/")).count(), 1);
}

#[tokio::test]
async fn c6_what_an_older_checkpoint_covered_long_enough_goes_however_young_the_one_that_counts_is() {
    let (vault, [empty, first, _]) = vault().await;
    let mut driven = Driven::new(&vault);
    let since = driven.now.time;
    let half = GRACE / 2;
    let covered = [(Sequence(4), since), (vault.base.1.sequence, since + half)];
    driven.removal = Removal::new(first, &covered[..1], GRACE);
    driven.now = Now { checkpoint: first, ..driven.now };
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Wait(Some(since + GRACE)));
    driven.now = Now { checkpoint: vault.base.0.0, ..driven.now };
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Superseded);
    driven.removal.renew(vault.base.0.0, &covered);
    driven.now.time = since + GRACE;
    // What was listed before is gone on with; what came since is listed by the next.
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Done);
    assert!(!driven.removal.is_whole());
    driven.removal = Removal::new(vault.base.0.0, &covered, GRACE);
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Wait(Some(since + half + GRACE)));
    let log = |k| log_name(Sequence(k));
    assert_eq!(*vault.remote.deleted.lock(), [checkpoint_name(empty), log(1), log(2), log(4)]);
    driven.now.time = since + half + GRACE;
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Done);
    assert!(driven.removal.is_whole());
    assert_eq!(vault.remote.deleted.lock()[4..], [checkpoint_name(first), log(5), log(6)]);
}

#[tokio::test]
async fn an_epoch_record_is_looked_at_once() {
    let (vault, _) = vault().await;
    let mut driven = Driven::new(&vault);
    driven.wait();
    vault.remote.got.lock().clear();
    let locked = log_name(Sequence(4));
    vault.remote.locked.lock().insert(locked.clone());
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Refused);
    assert!(!vault.remote.deleted.lock().contains(&log_name(Sequence(5))), "oldest first");
    vault.remote.locked.lock().clear();
    let covered = [(vault.base.1.sequence, driven.now.time - GRACE)];
    driven.removal = Removal::new(vault.base.0.0, &covered, GRACE);
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Done);
    assert!(vault.remote.deleted.lock().contains(&locked));
    let looked = |k| vault.remote.got.lock().iter().filter(|name| **name == log_name(Sequence(k))).count();
    assert_eq!((looked(3), looked(5)), (1, 1));
}

/// A hole behind a commit that stands would be the log's end for a reader whose listing is as old.
#[tokio::test]
async fn c6_a_commit_that_a_listing_did_not_show_goes_before_those_after_it() {
    let (vault, [empty, first, _]) = vault().await;
    let mut driven = Driven::new(&vault);
    driven.wait();
    driven.removal.listed([4, 6].map(Sequence));
    assert_eq!(driven.run(&[1]).await.unwrap(), Step::Blocked(Sequence(1)), "also where somebody needs it");
    assert_eq!(*vault.remote.deleted.lock(), Vec::<String>::new());
    assert_eq!(driven.run(&[]).await.unwrap(), Step::Done);
    let log = |k| log_name(Sequence(k));
    let expected =
        [checkpoint_name(empty), log(1), log(2), log(4), checkpoint_name(first), log(5), log(6)].map(String::from);
    assert_eq!(*vault.remote.deleted.lock(), expected);
}
