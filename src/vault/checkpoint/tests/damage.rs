//! What was changed, lost, or mixed up is said by name; what was given up leaves nothing behind that counts.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::super::chain::{Judgement, hash_of, judge};
use super::super::end::{is_end, stands};
use super::super::*;
use super::vault::*;
use crate::base::{Ino, Sequence};
use crate::format::commit::{ChainLink, log_name};
use crate::format::key::Key;

/// A vault with a checkpoint that counts, and two commits after it.
async fn vault() -> Vault {
    let mut vault = Vault::new().await;
    for k in 0..6 {
        let ino = Ino(k + 2);
        let changes = BTreeMap::from([(Key::inode(ino), Some(inode())), (Key::head(ino), Some(head(k, &[])))]);
        vault.commit(changes, k % 2 == 1).await;
        if k == 3 {
            let made = vault.make(Merge::All).await.unwrap();
            vault.base = (made.checkpoint, made.manifest);
        }
    }
    vault
}

fn tampered<T>(result: Result<T, VaultError>, name: &str, why: &str) {
    match result {
        Err(VaultError::Tampered(what)) => assert!(what.contains(name) && what.contains(why), "{what}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("{name} was taken, although: {why}"),
    }
}

async fn flip(vault: &Vault, name: &str) {
    let mut object = vault.remote.store.get(name).await.unwrap().unwrap().to_vec();
    object[1000] ^= 1;
    vault.remote.overwrite(name, object).await;
}

#[tokio::test]
async fn a_flipped_byte_or_a_missing_object_is_told_by_its_name() {
    for k in 0..6 {
        for missing in [false, true] {
            let vault = vault().await;
            let base = &vault.base.1;
            let runs: Vec<_> = base.levels[0].iter().map(|run| segment_name(run.id)).collect();
            let name = match k {
                0 => runs[0].clone(),
                1 => runs.last().unwrap().clone(),
                2 => segment_name(base.chain[0].object.id),
                3 => checkpoint_name(vault.base.0.0),
                4 => log_name(Sequence(5)),
                _ => segment_name(vault.parts[0]),
            };
            let why = if missing { "missing" } else { "" };
            match missing {
                true => vault.remote.delete(&name).await,
                false => flip(&vault, &name).await,
            }
            match k {
                0 | 1 | 3 => tampered(vault.read().await, &name, why),
                2 => {
                    let hash = hash_of(&vault.remote, &vault.keys, base, Sequence(1)).await;
                    tampered(hash, &name, why);
                }
                _ => tampered(vault.make(Merge::BySize).await, &name, why),
            }
        }
    }
}

#[tokio::test]
async fn a_log_that_does_not_lead_to_the_link_is_refused() {
    let vault = vault().await;
    let maker = Maker {
        remote: &vault.remote,
        keys: &vault.keys,
        random: &vault.random,
        usage: Some((1, 2)),
        merge: Merge::BySize,
    };
    let to = vault.link();
    let other = ChainLink { hash: [1; 32], ..to };
    tampered(make(&maker, &vault.base.1, other).await, &log_name(to.sequence), "leads to");
    let mut forked = vault.base.1.clone();
    forked.hash = [1; 32];
    tampered(make(&maker, &forked, to).await, &log_name(Sequence(5)), "does not continue");
    tampered(make(&maker, &vault.base.1, ChainLink { sequence: Sequence(3), ..to }).await, "behind", "");
    let made = make(&maker, &vault.base.1, to).await.unwrap();
    let totals = made.manifest.totals;
    assert_eq!((totals.inodes, totals.bytes, totals.highest), (1, 2, Ino(7)), "what the caller knows is believed");
}

#[tokio::test]
async fn given_up_at_any_request_it_leaves_orphans_only() {
    for after in 0..40 {
        let mut vault = vault().await;
        let before = vault.state.clone();
        vault.remote.left.store(after, Ordering::SeqCst);
        let first = vault.make(Merge::All).await;
        vault.remote.left.store(u32::MAX, Ordering::SeqCst);
        // The checkpoint that counts is as it was, and the next one is made as if nothing had been.
        assert_eq!(vault.read().await.unwrap().len(), 8);
        let made = vault.make(Merge::All).await.unwrap();
        vault.base = (made.checkpoint, made.manifest);
        assert_eq!(vault.read().await.unwrap(), before);
        if first.is_ok() {
            assert!(after > 5);
            return;
        }
    }
    panic!("it never came to its end");
}

#[tokio::test]
async fn a_pin_of_any_age_is_judged_by_the_chain() {
    let vault = vault().await;
    let judged = async |sequence, hash| {
        let link = ChainLink { sequence: Sequence(sequence), hash };
        judge(&vault.remote, &vault.keys, &vault.base.1, link).await.unwrap()
    };
    for k in 1..=4 {
        vault.remote.delete(&log_name(Sequence(k))).await;
    }
    assert_eq!(judged(2, vault.hashes[1]).await, Judgement::OnTheChain);
    assert_eq!(judged(4, vault.hashes[3]).await, Judgement::OnTheChain);
    assert_eq!(judged(2, vault.hashes[2]).await, Judgement::Forked);
    assert_eq!(judged(4, [9; 32]).await, Judgement::Forked);
    assert_eq!(judged(0, [0; 32]).await, Judgement::Forked);
    assert_eq!(judged(5, vault.hashes[4]).await, Judgement::Beyond);
}

#[tokio::test]
async fn the_end_is_believed_only_while_commit_and_checkpoint_stand() {
    let vault = vault().await;
    let (end, checkpoint) = (vault.link(), vault.base.0);
    let remote = &vault.remote;
    let ends = async |newest, commit| is_end(remote, newest, commit, checkpoint).await;
    assert!(ends(end.sequence, end).await.unwrap());
    assert!(!ends(Sequence(5), end).await.unwrap(), "there is one after it");
    let stray = ChainLink { hash: [1; 32], ..end };
    assert!(!stands(remote, stray, checkpoint).await.unwrap(), "another one came late");
    tampered(stands(remote, end, (checkpoint.0, [1; 32])).await, &checkpoint_name(checkpoint.0), "");
    remote.delete(&checkpoint_name(checkpoint.0)).await;
    assert!(!ends(end.sequence, end).await.unwrap(), "the checkpoint is gone");
    remote.delete(&log_name(end.sequence)).await;
    assert!(!stands(remote, end, checkpoint).await.unwrap(), "the commit is gone");
}
