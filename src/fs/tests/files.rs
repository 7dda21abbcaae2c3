//! Contents: what becomes of a file's mode when they change, and of a file that is gone.

use super::*;
use crate::cache::dirty::RUN_COST;

#[test]
fn a_file_that_is_gone_is_stale_whatever_is_asked_of_it() {
    let fs = empty();
    let gone = fs.mk(Ino::ROOT, "f");
    fs.rm(Ino::ROOT, "f").unwrap();
    fs.forget(gone);
    let got = [
        now(fs.getattr(gone)).map(drop),
        now(fs.setattr(gone, SetAttributes { size: Some(0), ..SetAttributes::default() }, USER)).map(drop),
        now(fs.open(gone, false, false, USER)).map(drop),
        now(fs.open(gone, true, true, USER)).map(drop),
        now(fs.read(gone, 0, 1)).map(drop),
        now(fs.write(gone, 0, b"x".to_vec(), false)).map(drop),
        now(fs.write(gone, 0, b"x".to_vec(), true)).map(drop),
        now(fs.fallocate(gone, 0, 0, 1, true)).map(drop),
        now(fs.lseek(gone, 0, Seek::Data)).map(drop),
        now(fs.setxattr(gone, b"user.a", b"", false, false)),
    ];
    assert!(got.iter().all(|got| *got == Err(FsError::Stale)), "{got:?}");
}

/// A file with set-ID bits and something in it.
fn privileged(fs: &Fs, name: &str) -> Ino {
    let file = fs.mk(Ino::ROOT, name);
    fs.put(file, "contents");
    now(fs.setattr(file, SetAttributes { mode: Some(0o6777), ..SetAttributes::default() }, USER)).unwrap();
    file
}

#[test]
fn whoever_clears_set_id_bits_says_so_once() {
    let fs = empty();
    let (w, o, t) = (privileged(&fs, "w"), privileged(&fs, "o"), privileged(&fs, "t"));
    let write = |kill| fs.try_write(w, 0, b"x", kill).expect("there is room");
    assert_eq!(write(false), Ok(Privileges::Kept));
    assert_eq!(fs.at(w).mode & 0o7777, 0o6777);
    assert_eq!(write(true), Ok(Privileges::Cleared));
    assert_eq!(write(true), Ok(Privileges::Kept));
    assert_eq!(now(fs.open(o, false, true, USER)), Ok(Privileges::Kept));
    assert_eq!(now(fs.open(o, true, true, SUPERUSER)), Ok(Privileges::Kept));
    assert_eq!(now(fs.open(o, true, true, USER)), Ok(Privileges::Cleared));
    assert_eq!(now(fs.truncate(t, 3, true)), Ok(Privileges::Cleared));
    assert!([w, o, t].iter().all(|file| fs.at(*file).mode & 0o7777 == 0o777));
}

#[test]
fn a_write_that_finds_no_room_changes_no_mode() {
    let fs = empty();
    let (file, full) = (privileged(&fs, "f"), fs.mk(Ino::ROOT, "full"));
    while fs.try_write(full, fs.at(full).size, &[7; 100_000], false).is_some() {}
    assert_eq!(fs.try_write(file, 0, b"x", true), None);
    assert_eq!(fs.at(file).mode & 0o7777, 0o6777);
}

#[test]
fn fallocate_clears_set_id_bits_in_every_mode() {
    let fs = empty();
    let (keep, punch, zero) = (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE);
    for (k, mode) in [0, keep, punch | keep, zero, zero | keep].into_iter().enumerate() {
        let file = privileged(&fs, &k.to_string());
        assert_eq!(now(fs.fallocate(file, mode, 2, 3, false)), Ok(Privileges::Kept));
        assert_eq!(fs.at(file).mode & 0o7777, 0o6777);
        assert_eq!(now(fs.fallocate(file, mode, 2, 3, true)), Ok(Privileges::Cleared));
        assert_eq!(fs.at(file).mode & 0o7777, 0o777);
    }
    let file = privileged(&fs, "refused");
    assert_eq!(now(fs.fallocate(file, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 1, true)), Err(FsError::Unsupported));
    assert_eq!(fs.at(file).mode & 0o7777, 0o6777);
}

#[test]
fn single_bytes_far_apart_are_bounded_by_the_memory_that_they_take() {
    let fs = empty();
    let file = fs.mk(Ino::ROOT, "f");
    let written = (0..).take_while(|k| fs.try_write(file, k * 4096, b"x", false).is_some()).count();
    let bound = BOUNDS.dirty_bytes / (1 + RUN_COST);
    assert!((bound..=bound + 1).contains(&written), "{written} bytes, each in a run of its own");
    assert_eq!(fs.cache.counts().dirty_bytes, written as u64);
    fs.rm(Ino::ROOT, "f").unwrap();
    fs.forget(file);
    let again = fs.mk(Ino::ROOT, "g");
    assert!(fs.try_write(again, 0, &[7; 1000], false).is_some(), "all of it was given back");
}
