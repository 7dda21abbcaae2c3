//! readdir: whole, in parts, while names come and go, and where hashes are equal.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::format::record::Dentry;

#[test]
fn a_listing_in_parts_is_the_whole_one() {
    let fs = empty();
    let dir = fs.mkd(Ino::ROOT, "dir");
    for k in 0..20 {
        fs.mk(dir, &format!("file {k}"));
    }
    let below = fs.mkd(dir, "below");
    let whole: Vec<_> = fs.ls(dir, 1000).into_iter().map(|entry| (entry.name, entry.ino, entry.kind)).collect();
    assert_eq!(whole.len(), 23);
    assert_eq!(whole[0], (b"."[..].into(), dir, libc::S_IFDIR));
    assert_eq!(whole[1], (b".."[..].into(), Ino::ROOT, libc::S_IFDIR));
    assert!(whole.contains(&(b"below"[..].into(), below, libc::S_IFDIR)));
    for most in 1..25 {
        let parts: Vec<_> = fs.ls(dir, most).into_iter().map(|entry| (entry.name, entry.ino, entry.kind)).collect();
        assert_eq!(parts, whole);
    }
    assert!(now(fs.readdir(dir, 0, false, 0)).unwrap().is_empty());
    assert!(now(fs.readdir(dir, u64::MAX, false, 9)).unwrap().is_empty());
}

#[test]
fn attributes_come_with_names_if_asked_for() {
    let fs = empty();
    let file = fs.mk(Ino::ROOT, "f");
    let dir = fs.mkd(Ino::ROOT, "d");
    let entries = now(fs.readdir(Ino::ROOT, 0, true, 9)).unwrap();
    assert!(entries[..2].iter().all(|dots| dots.attributes.is_none()));
    for ino in [file, dir] {
        let entry = entries.iter().find(|entry| entry.ino == ino && entry.cookie > 2).unwrap();
        assert_eq!(entry.attributes, Some(fs.at(ino)));
    }
}

/// Entries under hashes of our choice; listings do not look at what a name hashes to.
fn plant(fs: &Fs, entries: &[(u64, u16)]) {
    let file = fs.mk(Ino::ROOT, "file");
    fs.rm(Ino::ROOT, "file").unwrap();
    let planted = fs.history.transact(|tx| {
        for (hash, suffix) in entries {
            let name = format!("{hash}.{suffix}").into_bytes().into();
            let dentry = Dentry { name, ino: file, kind: libc::S_IFREG, extra: None };
            tx.put(Key::dentry(Ino::ROOT, *hash, *suffix), Record::Dentry(dentry));
        }
        Ok::<_, FsError>(())
    });
    planted.unwrap();
}

#[test]
fn equal_hashes_are_listed_together_and_none_is_lost() {
    let planted = [(16, 0), (16, 3), (17, 0), (90, 0), (90, 1), (90, 2), (u64::MAX >> 1, 0)];
    let fs = empty();
    plant(&fs, &planted);
    let want: Vec<_> = planted.iter().map(|(hash, suffix)| format!("{hash}.{suffix}")).collect();
    for most in 1..10 {
        let mut cookie = 2;
        let mut names = Vec::new();
        loop {
            let part = now(fs.readdir(Ino::ROOT, cookie, false, most)).unwrap();
            let Some(last) = part.last() else { break };
            assert!(part.len() <= most.max(3));
            cookie = last.cookie;
            names.extend(part.iter().map(|entry| String::from_utf8(entry.name.to_vec()).unwrap()));
        }
        assert_eq!(names, want, "{most} at a time");
    }
    // Whoever has no room for a whole group goes on from the last entry that fitted, and meets all of it again.
    let all = now(fs.readdir(Ino::ROOT, 2, false, 99)).unwrap();
    for (k, entry) in all.iter().enumerate() {
        let rest = now(fs.readdir(Ino::ROOT, entry.cookie, false, 99)).unwrap();
        let names: BTreeSet<_> = all[..=k].iter().chain(&rest).map(|entry| entry.name.clone()).collect();
        assert_eq!(names.len(), planted.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// What is there all the time is listed exactly once, and nothing twice, whatever comes and goes meanwhile.
    #[test]
    fn a_listing_is_stable_while_names_come_and_go(
        first in prop::collection::btree_set(0u8..40, 0..30),
        changes in prop::collection::vec((0u8..40, any::<bool>()), 0..60),
        most in 1usize..5,
    ) {
        let fs = empty();
        let name = |k: u8| format!("name {k}");
        for k in &first {
            fs.mk(Ino::ROOT, &name(*k));
        }
        let mut stays = first.clone();
        let mut there = first;
        let mut seen = Vec::new();
        let mut cookie = 0;
        let mut changes = changes.into_iter();
        loop {
            let part = now(fs.readdir(Ino::ROOT, cookie, false, most)).unwrap();
            let Some(last) = part.last() else { break };
            cookie = last.cookie;
            seen.extend(part.into_iter().map(|entry| entry.name));
            for (k, add) in changes.by_ref().take(3) {
                if add && there.insert(k) {
                    fs.mk(Ino::ROOT, &name(k));
                } else if !add && there.remove(&k) {
                    fs.rm(Ino::ROOT, &name(k)).unwrap();
                    stays.remove(&k);
                }
            }
        }
        let once: BTreeSet<_> = seen.iter().cloned().collect();
        prop_assert_eq!(once.len(), seen.len(), "a name was listed twice");
        for k in stays {
            prop_assert!(once.contains(name(k).as_bytes()), "{} was missed", name(k));
        }
    }
}
