//! stat, chmod, chown, utimens, and which times each operation moves.

use std::time::Duration;

use super::*;
use crate::base::ExtentId;
use crate::cache::Live;
use crate::format::record::{Head, Piece};
use crate::fs::attributes::{stat_in, without_privileges};

fn setting(fs: &Fs, ino: Ino, set: SetAttributes, caller: Caller) -> Attributes {
    now(fs.setattr(ino, set, caller)).unwrap()
}

fn mode(mode: u32) -> SetAttributes {
    SetAttributes { mode: Some(mode), ..SetAttributes::default() }
}

fn owner(uid: Option<u32>, gid: Option<u32>) -> SetAttributes {
    SetAttributes { uid, gid, ..SetAttributes::default() }
}

#[test]
fn modes_change_and_types_stay() {
    let fs = empty();
    let file = fs.mk(Ino::ROOT, "f");
    let dir = fs.mkd(Ino::ROOT, "d");
    for bits in [0, 0o644, 0o7777] {
        assert_eq!(setting(&fs, file, mode(bits | libc::S_IFDIR), USER).mode, libc::S_IFREG | bits);
        assert_eq!(setting(&fs, dir, mode(bits), USER).mode, libc::S_IFDIR | bits);
    }
}

#[test]
fn a_change_of_owner_takes_set_id_bits_from_all_but_directories() {
    for caller in [USER, SUPERUSER] {
        let fs = empty();
        let file = fs.mk(Ino::ROOT, "f");
        let dir = fs.mkd(Ino::ROOT, "d");
        for (before, after) in [(0o6755, 0o755), (0o6745, 0o2745), (0o4644, 0o644), (0o1777, 0o1777)] {
            setting(&fs, file, mode(before), caller);
            let changed = setting(&fs, file, owner(Some(5), None), caller);
            assert_eq!((changed.mode & 0o7777, changed.uid, changed.gid), (after, 5, 100));
            setting(&fs, dir, mode(before), caller);
            let changed = setting(&fs, dir, owner(None, Some(6)), caller);
            assert_eq!((changed.mode & 0o7777, changed.uid, changed.gid), (before, 1000, 6));
        }
        let both = SetAttributes { mode: Some(0o4755), ..owner(Some(7), Some(8)) };
        assert_eq!(setting(&fs, file, both, caller).mode & 0o7777, 0o4755);
    }
    assert_eq!(without_privileges(libc::S_IFREG | 0o6777), libc::S_IFREG | 0o777);
}

#[test]
fn times_are_set_to_the_nanosecond_also_before_1970() {
    let fs = empty();
    let at = [Timestamp { secs: -1, nanos: 999_999_999 }, Timestamp { secs: 4_102_444_800, nanos: 1 }];
    let file = fs.mk(Ino::ROOT, "f");
    let dir = fs.mkd(Ino::ROOT, "d");
    let link = now(fs.symlink(Ino::ROOT, b"l", b"t", USER)).unwrap().ino;
    for ino in [file, dir, link] {
        let before = fs.at(ino);
        let set = SetAttributes { atime: Some(SetTime::At(at[0])), ..SetAttributes::default() };
        let changed = setting(&fs, ino, set, USER);
        assert_eq!((changed.atime, changed.mtime), (at[0], before.mtime));
        let set = SetAttributes { mtime: Some(SetTime::At(at[1])), ..SetAttributes::default() };
        let changed = setting(&fs, ino, set, USER);
        assert_eq!((changed.atime, changed.mtime), (at[0], at[1]));
        assert!(changed.ctime >= before.ctime && changed.ctime < at[1]);
        let set = SetAttributes { mtime: Some(SetTime::Now), ..SetAttributes::default() };
        assert!(setting(&fs, ino, set, USER).mtime < at[1]);
    }
}

#[test]
fn only_files_have_a_size_to_set() {
    let fs = empty();
    let dir = fs.mkd(Ino::ROOT, "d");
    let fifo = now(fs.mknod(Ino::ROOT, b"p", libc::S_IFIFO, 0, USER)).unwrap().ino;
    let size = SetAttributes { size: Some(0), ..SetAttributes::default() };
    assert_eq!(now(fs.setattr(dir, size, USER)), Err(FsError::IsDirectory));
    assert_eq!(now(fs.setattr(fifo, size, USER)), Err(FsError::Invalid));
    assert_eq!(now(fs.setattr(Ino(999), size, USER)), Err(FsError::Stale));
}

/// Which of atime, mtime and ctime moved, of each inode watched.
struct Watch<'a> {
    fs: &'a Fs,
    inodes: Vec<Ino>,
}

impl Watch<'_> {
    async fn moved(&self, operation: impl FnOnce(&Fs)) -> Vec<String> {
        let stat = || self.inodes.iter().map(|ino| self.fs.at(*ino)).collect::<Vec<_>>();
        let before = stat();
        tokio::time::advance(Duration::from_secs(1)).await;
        operation(self.fs);
        let moved = |(a, b): (&Attributes, &Attributes)| {
            let flags = [(a.atime != b.atime, 'a'), (a.mtime != b.mtime, 'm'), (a.ctime != b.ctime, 'c')];
            flags.iter().filter(|(moved, _)| *moved).map(|(_, letter)| *letter).collect::<String>()
        };
        before.iter().zip(&stat()).map(moved).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn each_operation_moves_the_times_that_posix_says() {
    let wall = Timestamp { secs: 1_000_000, nanos: 0 };
    let fs = with_clock(Clock::Simulated { wall, at: tokio::time::Instant::now(), slept: Default::default() });
    let (one, two) = (fs.mkd(Ino::ROOT, "one"), fs.mkd(Ino::ROOT, "two"));
    let (file, dir) = (fs.mk(one, "file"), fs.mkd(one, "dir"));
    let set = |set: SetAttributes| {
        move |fs: &Fs| {
            setting(fs, file, set, USER);
        }
    };
    let watch = Watch { fs: &fs, inodes: vec![one, two, file, dir] };
    let user = |name| move |fs: &Fs| now(fs.setxattr(file, name, b"v", false, false)).unwrap();

    assert_eq!(
        watch
            .moved(|fs| {
                fs.mk(one, "a");
            })
            .await,
        ["mc", "", "", ""]
    );
    assert_eq!(
        watch
            .moved(|fs| {
                fs.mkd(one, "d");
            })
            .await,
        ["mc", "", "", ""]
    );
    assert_eq!(watch.moved(|fs| fs.rmd(one, "d").unwrap()).await, ["mc", "", "", ""]);
    assert_eq!(watch.moved(|fs| drop(fs.ln(file, two, "link"))).await, ["", "mc", "c", ""]);
    assert_eq!(watch.moved(|fs| fs.rm(two, "link").unwrap()).await, ["", "mc", "c", ""]);
    assert_eq!(
        watch.moved(|fs| fs.mv((one, "file"), (two, "file"), RenameMode::Replace).unwrap()).await,
        ["mc", "mc", "c", ""]
    );
    assert_eq!(
        watch.moved(|fs| fs.mv((two, "file"), (one, "dir"), RenameMode::Exchange).unwrap()).await,
        ["mc", "mc", "c", "c"]
    );
    assert_eq!(
        watch.moved(|fs| fs.mv((two, "file"), (two, "dir"), RenameMode::Replace).unwrap()).await,
        ["", "mc", "", "c"]
    );
    assert_eq!(watch.moved(|fs| drop(fs.find(one, "dir"))).await, ["", "", "", ""]);
    assert_eq!(watch.moved(|fs| drop(fs.rm(one, "none"))).await, ["", "", "", ""]);
    assert_eq!(watch.moved(set(mode(0o600))).await, ["", "", "c", ""]);
    assert_eq!(watch.moved(set(owner(Some(1), None))).await, ["", "", "c", ""]);
    let times = SetAttributes { atime: Some(SetTime::Now), mtime: Some(SetTime::Now), ..SetAttributes::default() };
    assert_eq!(watch.moved(set(times)).await, ["", "", "amc", ""]);
    assert_eq!(watch.moved(set(SetAttributes::default())).await, ["", "", "", ""]);
    assert_eq!(watch.moved(user(b"user.a")).await, ["", "", "c", ""]);
    assert_eq!(watch.moved(|fs| now(fs.removexattr(file, b"user.a")).unwrap()).await, ["", "", "c", ""]);
}

/// Puts a contents head, as a flush would.
fn plant_head(fs: &Fs, ino: Ino, size: u64, pieces: &[(u64, u32)], spilled: bool) {
    let piece = |(offset, len): &(u64, u32)| {
        let extent = ExtentId { owner: ino, number: 1 };
        Piece { offset: *offset, len: *len, extent, start: 0 }
    };
    let pieces: Vec<Piece> = pieces.iter().map(piece).collect();
    let planted = fs.history.transact(|tx| {
        let Some(Record::Head(head)) = tx.get(&Key::head(ino))?.as_deref().cloned() else {
            return Err(FsError::NotFound);
        };
        if spilled {
            pieces.iter().for_each(|piece| tx.put(Key::map(ino, piece.offset), Record::Map(*piece)));
        }
        let pieces = if spilled { Vec::new() } else { pieces };
        tx.put(Key::head(ino), Record::Head(Head { size, pieces, spilled, ..head }));
        Ok(())
    });
    planted.unwrap();
}

#[test]
fn blocks_are_what_is_no_hole() {
    let fs = empty();
    let file = fs.mk(Ino::ROOT, "f");
    plant_head(&fs, file, 1 << 20, &[(0, 1), (4096, 512)], false);
    assert_eq!((fs.at(file).size, fs.at(file).blocks), (1 << 20, 2));
    let pieces: Vec<_> = (0..100).map(|k| (k * 8192, 4096)).collect();
    plant_head(&fs, file, 1 << 20, &pieces, true);
    assert_eq!(fs.at(file).blocks, 100 * 8);
    // Above the bound the rest counts whole, and never too little.
    let pieces: Vec<_> = (0..2000).map(|k| (k * 8192, 4096)).collect();
    plant_head(&fs, file, 2000 * 8192, &pieces, true);
    assert_eq!(fs.at(file).blocks, 1024 * 8 + (2000 - 1024) * 16);
}

#[test]
fn unwritten_bytes_tell_size_and_times() {
    let fs = empty();
    let file = fs.mk(Ino::ROOT, "f");
    plant_head(&fs, file, 5, &[(0, 5)], false);
    let stored = fs.at(file);
    let later = |by| Timestamp { secs: stored.ctime.secs + by, nanos: 0 };
    let live = Live { size: 1000, mtime: later(5), ctime: later(6) };
    let got = stat_in(&fs.history.view(), file, Some(live)).unwrap();
    assert_eq!((got.size, got.blocks, got.mtime, got.ctime), (1000, 2, later(5), later(6)));
    assert_eq!(got.atime, stored.atime);
    // A chmod after the write is the later of the two.
    let early = Live { ctime: later(-5), ..live };
    assert_eq!(stat_in(&fs.history.view(), file, Some(early)).unwrap().ctime, stored.ctime);
}
