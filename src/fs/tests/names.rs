//! lookup, create, mknod, mkdir, symlink, readlink, link, unlink, rmdir, forget: results and errors.

use super::*;
use crate::format::record::Dentry;

#[test]
fn names_are_any_bytes_up_to_255() {
    let fs = empty();
    let odd: &[&[u8]] = &[b"\xff\xfe", b" ", b"new\nline", b"...", b"-rf", "\u{fc}".as_bytes(), &[b'x'; 255]];
    for name in odd {
        let made = now(fs.create(Ino::ROOT, name, 0o600, USER)).unwrap();
        assert_eq!(now(fs.lookup(Ino::ROOT, name)), Ok(made));
    }
    assert_eq!(fs.ls(Ino::ROOT, 3).len(), odd.len() + 2);
}

#[test]
fn names_that_cannot_be_are_refused_by_every_operation() {
    let fs = empty();
    let file = fs.mk(Ino::ROOT, "file");
    let bad: &[(&[u8], FsError)] = &[
        (&[b'x'; 256], FsError::NameTooLong),
        (b"", FsError::Invalid),
        (b"a/b", FsError::Invalid),
        (b"a\0", FsError::Invalid),
    ];
    for (name, error) in bad {
        let got = [
            now(fs.lookup(Ino::ROOT, name)).map(drop),
            now(fs.create(Ino::ROOT, name, 0o600, USER)).map(drop),
            now(fs.mknod(Ino::ROOT, name, libc::S_IFIFO | 0o600, 0, USER)).map(drop),
            now(fs.mkdir(Ino::ROOT, name, 0o700, USER)).map(drop),
            now(fs.symlink(Ino::ROOT, name, b"t", USER)).map(drop),
            now(fs.link(file, Ino::ROOT, name)).map(drop),
            now(fs.unlink(Ino::ROOT, name)),
            now(fs.rmdir(Ino::ROOT, name)),
            now(fs.rename(Ino::ROOT, b"file", Ino::ROOT, name, RenameMode::Replace)),
            now(fs.rename(Ino::ROOT, name, Ino::ROOT, b"other", RenameMode::Replace)),
        ];
        assert!(got.iter().all(|got| got.as_ref() == Err(error)), "{name:?}: {got:?}");
    }
}

#[test]
fn what_exists_is_not_made_again() {
    let fs = empty();
    let file = fs.mk(Ino::ROOT, "a");
    let got = [
        now(fs.create(Ino::ROOT, b"a", 0o600, USER)).map(drop),
        now(fs.mknod(Ino::ROOT, b"a", libc::S_IFIFO, 0, USER)).map(drop),
        now(fs.mkdir(Ino::ROOT, b"a", 0o700, USER)).map(drop),
        now(fs.symlink(Ino::ROOT, b"a", b"t", USER)).map(drop),
        now(fs.link(file, Ino::ROOT, b"a")).map(drop),
    ];
    assert!(got.iter().all(|got| *got == Err(FsError::Exists)), "{got:?}");
    assert_eq!(fs.at(file).nlink, 1);
    assert_eq!(fs.at(Ino::ROOT).nlink, 2);
}

#[test]
fn what_is_no_directory_holds_no_names() {
    let fs = empty();
    let file = fs.mk(Ino::ROOT, "f");
    let got = [
        now(fs.lookup(file, b"a")).map(drop),
        now(fs.create(file, b"a", 0o600, USER)).map(drop),
        now(fs.mkdir(file, b"a", 0o700, USER)).map(drop),
        now(fs.link(file, file, b"a")).map(drop),
        fs.rm(file, "a"),
        fs.rmd(file, "a"),
        fs.mv((Ino::ROOT, "f"), (file, "a"), RenameMode::Replace),
        now(fs.readdir(file, 0, false, 9)).map(drop),
    ];
    // rename looks at the names first, and finds in the plan that there is nothing to replace.
    assert!(got.iter().all(|got| *got == Err(FsError::NotDirectory)), "{got:?}");
}

#[test]
fn a_removed_directory_takes_no_names() {
    let fs = empty();
    let gone = fs.mkd(Ino::ROOT, "gone");
    let file = fs.mk(Ino::ROOT, "f");
    fs.rmd(Ino::ROOT, "gone").unwrap();
    assert_eq!(fs.at(gone).nlink, 0);
    let got = [
        now(fs.lookup(gone, b"a")).map(drop),
        now(fs.create(gone, b"a", 0o600, USER)).map(drop),
        now(fs.mkdir(gone, b"a", 0o700, USER)).map(drop),
        now(fs.symlink(gone, b"a", b"t", USER)).map(drop),
        now(fs.link(file, gone, b"a")).map(drop),
        fs.mv((Ino::ROOT, "f"), (gone, "a"), RenameMode::Replace),
        fs.rm(gone, "a"),
    ];
    assert!(got.iter().all(|got| *got == Err(FsError::NotFound)), "{got:?}");
    assert!(fs.ls(gone, 9).is_empty());
    fs.forget(gone);
    assert_eq!(now(fs.getattr(gone)), Err(FsError::Stale));
}

#[test]
fn each_type_is_made_as_asked() {
    let fs = empty();
    let made = |name: &str, mode, rdev| now(fs.mknod(Ino::ROOT, name.as_bytes(), mode, rdev, USER));
    for (name, kind, rdev) in [
        ("fifo", libc::S_IFIFO, 0),
        ("socket", libc::S_IFSOCK, 0),
        ("char", libc::S_IFCHR, 0x501),
        ("block", libc::S_IFBLK, 0x801),
        ("file", libc::S_IFREG, 0),
    ] {
        let attributes = made(name, kind | 0o4640, rdev).unwrap();
        let Attributes { mode, nlink, uid, gid, size, .. } = attributes;
        assert_eq!((mode, nlink, uid, gid, size), (kind | 0o4640, 1, 1000, 100, 0));
        assert_eq!(attributes.rdev, rdev);
    }
    assert_eq!(made("plain", 0o600, 0).unwrap().mode, libc::S_IFREG | 0o600);
    assert_eq!(made("dir", libc::S_IFDIR | 0o700, 0), Err(FsError::NotPermitted));
    assert_eq!(made("link", libc::S_IFLNK | 0o700, 0), Err(FsError::Invalid));
    assert_eq!(fs.at(Ino::ROOT).nlink, 2);
}

#[test]
fn symlinks_keep_their_targets() {
    let fs = empty();
    let longest = vec![b'x'; 4095];
    for (name, target) in [("short", &b"../\xff"[..]), ("long", &longest)] {
        let made = now(fs.symlink(Ino::ROOT, name.as_bytes(), target, USER)).unwrap();
        assert_eq!((made.mode, made.size), (libc::S_IFLNK | 0o777, target.len() as u64));
        assert_eq!(now(fs.readlink(made.ino)).unwrap(), target);
    }
    let refused = |target: &[u8]| now(fs.symlink(Ino::ROOT, b"no", target, USER)).unwrap_err();
    assert_eq!(refused(&[b'x'; 4096]), FsError::NameTooLong);
    assert_eq!(refused(b""), FsError::NotFound);
    assert_eq!(refused(b"a\0b"), FsError::Invalid);
    assert_eq!(now(fs.readlink(Ino::ROOT)), Err(FsError::Invalid));
}

#[test]
fn a_directory_with_set_group_id_hands_its_group_down() {
    let fs = empty();
    let shared = fs.mkd(Ino::ROOT, "shared");
    let set = SetAttributes { mode: Some(0o2775), gid: Some(50), ..SetAttributes::default() };
    now(fs.setattr(shared, set, SUPERUSER)).unwrap();
    let below = now(fs.mkdir(shared, b"d", 0o755, USER)).unwrap();
    let file = now(fs.create(shared, b"f", 0o644, USER)).unwrap();
    let link = now(fs.symlink(shared, b"l", b"t", USER)).unwrap();
    assert_eq!((below.mode & 0o7777, below.gid, below.uid), (0o2755, 50, 1000));
    assert_eq!((file.mode & 0o7777, file.gid), (0o644, 50));
    assert_eq!(link.gid, 50);
}

#[test]
fn link_counts_follow_the_names() {
    let fs = empty();
    let a = fs.mkd(Ino::ROOT, "a");
    let b = fs.mkd(a, "b");
    assert_eq!((fs.at(Ino::ROOT).nlink, fs.at(a).nlink, fs.at(b).nlink), (3, 3, 2));
    let file = fs.mk(a, "file");
    assert_eq!(fs.ln(file, b, "other").unwrap().nlink, 2);
    assert_eq!(fs.at(a).nlink, 3);
    fs.rm(a, "file").unwrap();
    assert_eq!(fs.find(b, "other"), Ok(file));
    assert_eq!(fs.at(file).nlink, 1);
    fs.rm(b, "other").unwrap();
    assert_eq!(fs.at(file).nlink, 0);
    fs.rmd(a, "b").unwrap();
    assert_eq!(fs.at(a).nlink, 2);
}

#[test]
fn an_unlinked_file_lives_until_it_is_forgotten() {
    let fs = empty();
    let file = fs.mk(Ino::ROOT, "f");
    now(fs.setxattr(file, b"user.a", b"1", false, false)).unwrap();
    fs.rm(Ino::ROOT, "f").unwrap();
    assert_eq!(fs.find(Ino::ROOT, "f"), Err(FsError::NotFound));
    assert_eq!(now(fs.getxattr(file, b"user.a")).unwrap(), b"1");
    let mode = SetAttributes { mode: Some(0o600), ..SetAttributes::default() };
    let changed = now(fs.setattr(file, mode, USER)).unwrap();
    assert_eq!((changed.mode & 0o777, changed.nlink), (0o600, 0));
    assert_eq!(fs.ln(file, Ino::ROOT, "again"), Err(FsError::NotFound));
    fs.forget(file);
    assert_eq!(now(fs.getattr(file)), Err(FsError::Stale));
}

#[test]
fn forget_ends_nothing_that_has_a_name() {
    let fs = empty();
    let file = fs.mk(Ino::ROOT, "f");
    fs.forget(file);
    fs.forget(Ino::ROOT);
    assert_eq!(fs.find(Ino::ROOT, "f"), Ok(file));
}

#[test]
fn unlink_and_rmdir_refuse_what_is_not_theirs() {
    let fs = empty();
    let dir = fs.mkd(Ino::ROOT, "dir");
    fs.mk(dir, "file");
    assert_eq!(fs.rm(Ino::ROOT, "dir"), Err(FsError::IsDirectory));
    assert_eq!(fs.rmd(dir, "file"), Err(FsError::NotDirectory));
    assert_eq!(fs.rmd(Ino::ROOT, "dir"), Err(FsError::NotEmpty));
    assert_eq!(fs.rmd(dir, "."), Err(FsError::Invalid));
    assert_eq!(fs.rmd(dir, ".."), Err(FsError::NotEmpty));
    assert_eq!(fs.rm(dir, "none"), Err(FsError::NotFound));
    assert_eq!(fs.rmd(dir, "none"), Err(FsError::NotFound));
    assert_eq!(fs.find(dir, "file").map(drop), Ok(()));
}

#[test]
fn directories_have_one_name() {
    let fs = empty();
    let dir = fs.mkd(Ino::ROOT, "dir");
    assert_eq!(fs.ln(dir, Ino::ROOT, "again"), Err(FsError::NotPermitted));
}

#[test]
fn a_file_has_so_many_names_and_no_more() {
    let fs = empty();
    let file = fs.mk(Ino::ROOT, "f");
    let plant = |nlink| {
        let planted = fs.history.transact(|tx| {
            let Some(Record::Inode(inode)) = tx.get(&Key::inode(file))?.as_deref().cloned() else {
                return Err(FsError::NotFound);
            };
            tx.put(Key::inode(file), Record::Inode(Inode { nlink, ..inode }));
            Ok(())
        });
        planted.unwrap();
    };
    plant(namespace::FILE_LINKS_MAX - 1);
    assert_eq!(fs.ln(file, Ino::ROOT, "last").map(|attributes| attributes.nlink), Ok(65_000));
    assert_eq!(fs.ln(file, Ino::ROOT, "more"), Err(FsError::TooManyLinks));
}

#[test]
fn dots_lead_where_they_should() {
    let fs = empty();
    let dir = fs.mkd(Ino::ROOT, "dir");
    let below = fs.mkd(dir, "below");
    assert_eq!(fs.find(below, "."), Ok(below));
    assert_eq!(fs.find(below, ".."), Ok(dir));
    assert_eq!(fs.find(Ino::ROOT, ".."), Ok(Ino::ROOT));
}

#[test]
fn names_with_equal_hashes_stay_apart() {
    let fs = empty();
    let hash = fs.keys.dentry_hash(Ino::ROOT, b"name");
    let other = fs.mk(Ino::ROOT, "other");
    let plant = |suffix, name: Option<&str>| {
        let planted = fs.history.transact(|tx| {
            let key = Key::dentry(Ino::ROOT, hash, suffix);
            match name {
                Some(name) => {
                    let name = name.as_bytes().into();
                    tx.put(key, Record::Dentry(Dentry { name, ino: other, kind: libc::S_IFREG, extra: None }));
                }
                None => tx.delete(key),
            }
            Ok::<_, FsError>(())
        });
        planted.unwrap();
    };
    let suffix_of = |ino| {
        let mut suffix = None;
        fs.history
            .transact(|tx| {
                tx.scan(Key::link(ino, Ino(0), 0, 0), Key::link(ino, Ino(u64::MAX), u64::MAX, u16::MAX), |key, _| {
                    suffix = Some(key.part);
                    true
                })?;
                Ok::<_, FsError>(())
            })
            .unwrap();
        match suffix {
            Some(crate::format::key::Part::Link { suffix, .. }) => suffix,
            other => panic!("{other:?}"),
        }
    };
    plant(0, Some("squats here"));
    plant(1, Some("and here"));
    assert_eq!(fs.find(Ino::ROOT, "name"), Err(FsError::NotFound));
    let made = fs.mk(Ino::ROOT, "name");
    assert_eq!(suffix_of(made), 2);
    plant(0, None);
    assert_eq!(fs.find(Ino::ROOT, "name"), Ok(made), "found past a gap");
    fs.mv((Ino::ROOT, "other"), (Ino::ROOT, "name"), RenameMode::Replace).unwrap();
    assert_eq!((fs.find(Ino::ROOT, "name"), suffix_of(other)), (Ok(other), 2), "a suffix stays");
    fs.rm(Ino::ROOT, "name").unwrap();
    let made = fs.mk(Ino::ROOT, "name");
    assert_eq!(suffix_of(made), 0, "the lowest that is free");
    assert_eq!(now(fs.create(Ino::ROOT, b"name", 0o600, USER)).map(drop), Err(FsError::Exists));
}

#[test]
fn an_entry_that_leads_nowhere_is_an_error_that_says_so() {
    let fs = empty();
    let file = fs.mk(Ino::ROOT, "f");
    let planted = fs.history.transact(|tx| {
        tx.delete(Key::inode(file));
        Ok::<_, FsError>(())
    });
    planted.unwrap();
    assert!(matches!(now(fs.lookup(Ino::ROOT, b"f")), Err(FsError::Io(_))));
    assert!(matches!(fs.rm(Ino::ROOT, "f"), Err(FsError::Io(_))));
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let fs = empty();
    let dir = fs.mkd(Ino::ROOT, "d");
    let file = fs.mk(dir, "f");
    fs.history.make_read_only();
    let got = [
        now(fs.create(dir, b"a", 0o600, USER)).map(drop),
        now(fs.mknod(dir, b"a", libc::S_IFIFO, 0, USER)).map(drop),
        now(fs.mkdir(dir, b"a", 0o700, USER)).map(drop),
        now(fs.symlink(dir, b"a", b"t", USER)).map(drop),
        fs.ln(file, dir, "a").map(drop),
        fs.rm(dir, "f"),
        fs.rmd(Ino::ROOT, "d"),
        fs.mv((dir, "f"), (dir, "a"), RenameMode::Replace),
        now(fs.setattr(file, SetAttributes::default(), USER)).map(drop),
        now(fs.setxattr(file, b"user.a", b"", false, false)),
        now(fs.removexattr(file, b"user.a")),
    ];
    assert!(got.iter().all(|got| *got == Err(FsError::ReadOnly)), "{got:?}");
    assert_eq!(fs.find(dir, "f"), Ok(file));
}

#[test]
fn statfs_counts_inodes() {
    let fs = empty();
    let before = now(fs.statfs()).unwrap();
    fs.mk(Ino::ROOT, "a");
    fs.mkd(Ino::ROOT, "b");
    let after = now(fs.statfs()).unwrap();
    assert_eq!(after.inodes - before.inodes, 2);
    fs.rm(Ino::ROOT, "a").unwrap();
    assert_eq!(now(fs.statfs()).unwrap().inodes, after.inodes - 1);
    assert!(after.free_bytes > 0);
}
