//! Levels: what hides what, what a merge costs, and what one level holds.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::super::fold::Fold;
use super::super::*;
use super::vault::*;
use crate::base::{Ino, Sequence};
use crate::format::key::Key;
use crate::format::record::{Inode, Record};

/// Commits inodes, or deletes them, and makes that the checkpoint which counts.
async fn checkpoint(vault: &mut Vault, inodes: std::ops::Range<u64>, comes: bool, merge: Merge) -> Made {
    let changes = inodes.map(|ino| (Key::inode(Ino(ino)), comes.then(inode))).collect();
    vault.commit(changes, false).await;
    let made = vault.make(merge).await.unwrap();
    vault.base = (made.checkpoint, made.manifest.clone());
    made
}

#[tokio::test]
async fn deletes_stay_until_the_oldest_level_is_merged() {
    let mut vault = Vault::new().await;
    let made = checkpoint(&mut vault, 1..200, true, Merge::BySize).await;
    assert_eq!(made.manifest.levels.len(), 1);
    assert!(made.manifest.levels[0].len() > 10, "{} runs", made.manifest.levels[0].len());
    for k in 0..3 {
        let made = checkpoint(&mut vault, 50 + k..51 + k, false, Merge::BySize).await;
        assert_eq!(made.manifest.levels.len(), 2, "the small levels became one");
        assert!(made.sweep.is_none() && made.counters.objects_sent < 4, "{:?}", made.counters);
        assert_eq!(made.manifest.totals.inodes, 198 - k);
    }
    let read = vault.read().await.unwrap();
    assert_eq!(read, vault.state);
    assert_eq!(read.len(), 196);
    let mut level = Level::new(&vault.remote, &vault.keys, &vault.base.1.levels[0]);
    for k in 0..3 {
        assert_eq!(level.next().await.unwrap(), Some((Key::inode(Ino(50 + k)), None)));
    }
    assert_eq!(level.next().await.unwrap(), None);
    drop(level);
    let made = checkpoint(&mut vault, 60..61, false, Merge::All).await;
    assert_eq!((made.manifest.levels.len(), made.sweep.is_some()), (1, true));
    let mut level = Level::new(&vault.remote, &vault.keys, &vault.base.1.levels[0]);
    while let Some((_, record)) = level.next().await.unwrap() {
        assert!(record.is_some());
    }
}

#[tokio::test]
async fn a_commit_that_memory_does_not_hold_is_written_once() {
    let mut vault = Vault::new().await;
    let changes: BTreeMap<_, _> = (1..60).map(|ino| (Key::inode(Ino(ino)), Some(inode()))).collect();
    vault.commit(changes, true).await;
    let maker =
        Maker { remote: &vault.remote, keys: &vault.keys, random: &vault.random, usage: None, merge: Merge::BySize };
    let limits = super::super::make::Limits { batch: 900, last: 900, run: 900 };
    let made = super::super::make::make_within(&maker, &vault.base.1, vault.link(), limits).await.unwrap();
    // All but the last batch lie in one level, whose runs follow each other; the merge reads it once more.
    let written: u64 = made.manifest.levels.iter().map(|runs| runs.len() as u64).sum();
    assert!(made.counters.objects_sent <= 2 * written + 3, "{:?} for {written} runs", made.counters);
    assert!(vault.parts.iter().all(|part| made.dead.contains(part)));
    vault.base = (made.checkpoint, made.manifest);
    assert_eq!(vault.read().await.unwrap(), vault.state);
}

#[tokio::test]
async fn the_last_batch_is_not_in_memory_while_levels_are_merged_unless_it_is_small() {
    for (last, levels) in [(usize::MAX, 1), (100, 2)] {
        let mut vault = Vault::new().await;
        let changes: BTreeMap<_, _> = (1..60).map(|ino| (Key::inode(Ino(ino)), Some(inode()))).collect();
        vault.commit(changes, false).await;
        let maker =
            Maker { remote: &vault.remote, keys: &vault.keys, random: &vault.random, usage: None, merge: Merge::All };
        let limits = super::super::make::Limits { batch: usize::MAX, last, run: 60_000 };
        let made = super::super::make::make_within(&maker, &vault.base.1, vault.link(), limits).await.unwrap();
        // The level and the manifest; before them, the batch as a level of its own.
        assert_eq!(made.counters.objects_sent, levels + 2, "{:?}", made.counters);
        vault.base = (made.checkpoint, made.manifest);
        assert_eq!(vault.read().await.unwrap(), vault.state);
    }
}

/// A store that takes its time: what is asked for together is seen to be.
struct Slow<'a>(&'a Remote);

impl Slow<'_> {
    fn asked(&self) -> usize {
        self.0.got.lock().len()
    }
}

impl Fetch for Slow<'_> {
    type Error = VaultError;

    fn get(&self, name: String) -> BoxFuture<'_, Result<Option<Bytes>, VaultError>> {
        async move {
            self.0.got.lock().push(name.clone());
            tokio::task::yield_now().await;
            Ok(self.0.store.get(&name).await?)
        }
        .boxed()
    }
}

#[tokio::test]
async fn log_objects_come_a_few_at_once_while_they_are_small() {
    for (inodes, asked) in [(1, [1, 5]), (12_000, [1, 2])] {
        let mut vault = Vault::new().await;
        for k in 0..5 {
            let first = 1 + k * inodes;
            let changes = (first..first + inodes).map(|ino| (Key::inode(Ino(ino)), Some(inode()))).collect();
            vault.commit(changes, false).await;
        }
        let slow = Slow(&vault.remote);
        let mut fold = Fold::new(&slow, &vault.keys, &vault.base.1, vault.link(), 1);
        for asked in asked {
            assert_eq!(fold.next().await.unwrap().entries.len() as u64, inodes);
            assert_eq!(slow.asked(), asked, "{inodes} inodes in each commit");
        }
    }
}

#[tokio::test]
async fn a_level_has_one_run_in_memory_unless_more_are_asked_for() {
    let mut vault = Vault::new().await;
    checkpoint(&mut vault, 1..200, true, Merge::BySize).await;
    let slow = Slow(&vault.remote);
    for ahead in [1, 3] {
        vault.remote.got.lock().clear();
        let mut level = Level::new(&slow, &vault.keys, &vault.base.1.levels[0]).ahead(ahead);
        level.next().await.unwrap().unwrap();
        assert_eq!(slow.asked(), ahead);
    }
    vault.remote.got.lock().clear();
    Level::new(&slow, &vault.keys, &vault.base.1.levels[0]).next().await.unwrap().unwrap();
    assert_eq!(slow.asked(), 1);
}

#[tokio::test]
async fn a_checkpoint_of_nothing_new_is_as_the_one_before() {
    let mut vault = Vault::new().await;
    let none = vault.make(Merge::BySize).await.unwrap();
    assert_eq!(none.manifest, Manifest::default());
    checkpoint(&mut vault, 1..9, true, Merge::BySize).await;
    let again = vault.make(Merge::BySize).await.unwrap();
    assert_eq!((&again.manifest, &again.dead), (&vault.base.1, &Vec::new()));
    // Epoch records bring no records, but belong to the chain.
    vault.begin_epoch().await;
    let epoch = vault.make(Merge::BySize).await.unwrap();
    assert_eq!(epoch.manifest.levels, vault.base.1.levels);
    assert_eq!((epoch.manifest.sequence, epoch.manifest.epoch), (Sequence(2), vault.epoch));
    assert_eq!(epoch.manifest.commit, vault.base.1.commit);
}

#[tokio::test]
async fn batches_that_overlap_hide_each_other_in_the_order_of_the_log() {
    for overlap in 0..10 {
        let mut vault = Vault::new().await;
        for (nlink, range) in [10..70, 70 - overlap..130, 130 - overlap..190].into_iter().enumerate() {
            // Each is more than a batch takes, and begins within the last runs of the one before.
            let inode = || match inode() {
                Record::Inode(inode) => Record::Inode(Inode { nlink: nlink as u32 + 2, ..inode }),
                _ => unreachable!("an inode"),
            };
            let changes = range.map(|ino| (Key::inode(Ino(ino)), Some(inode()))).collect();
            vault.commit(changes, false).await;
        }
        let made = vault.make(Merge::BySize).await.unwrap();
        vault.base = (made.checkpoint, made.manifest);
        assert_eq!(vault.read().await.unwrap(), vault.state);
        assert_eq!(vault.base.1.totals.inodes, vault.state.len() as u64);
    }
}
