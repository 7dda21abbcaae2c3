//! rename: every case by name.

use super::*;
use RenameMode::{Exchange, NoReplace, Replace};

const ROOT: Ino = Ino::ROOT;

#[test]
fn onto_nothing_it_moves() {
    for mode in [Replace, NoReplace] {
        let fs = empty();
        let (a, b) = (fs.mkd(ROOT, "a"), fs.mkd(ROOT, "b"));
        let (file, dir) = (fs.mk(a, "f"), fs.mkd(a, "d"));
        fs.mv((a, "f"), (b, "g"), mode).unwrap();
        fs.mv((a, "d"), (b, "e"), mode).unwrap();
        assert_eq!((fs.find(b, "g"), fs.find(b, "e")), (Ok(file), Ok(dir)));
        assert_eq!((fs.find(a, "f"), fs.find(a, "d")), (Err(FsError::NotFound), Err(FsError::NotFound)));
        assert_eq!(fs.find(dir, ".."), Ok(b));
        assert_eq!((fs.at(a).nlink, fs.at(b).nlink, fs.at(ROOT).nlink), (2, 3, 4));
    }
}

#[test]
fn over_a_file_it_replaces() {
    let fs = empty();
    let (new, old) = (fs.mk(ROOT, "new"), fs.mk(ROOT, "old"));
    fs.ln(old, ROOT, "kept").unwrap();
    fs.mv((ROOT, "new"), (ROOT, "old"), Replace).unwrap();
    assert_eq!((fs.find(ROOT, "old"), fs.find(ROOT, "kept")), (Ok(new), Ok(old)));
    assert_eq!(fs.at(old).nlink, 1);
    fs.mv((ROOT, "old"), (ROOT, "kept"), Replace).unwrap();
    assert_eq!((fs.at(old).nlink, fs.at(new).nlink), (0, 1));
    assert_eq!(fs.ls(ROOT, 9).len(), 3);
}

#[test]
fn over_an_empty_directory_it_replaces() {
    let fs = empty();
    let (new, old) = (fs.mkd(ROOT, "new"), fs.mkd(ROOT, "old"));
    fs.mk(new, "inside");
    fs.mv((ROOT, "new"), (ROOT, "old"), Replace).unwrap();
    assert_eq!(fs.find(ROOT, "old"), Ok(new));
    assert_eq!((fs.at(old).nlink, fs.at(ROOT).nlink), (0, 3));
    let (a, b) = (fs.mkd(ROOT, "a"), fs.mkd(new, "b"));
    fs.mv((new, "b"), (ROOT, "a"), Replace).unwrap();
    assert_eq!((fs.at(a).nlink, fs.at(new).nlink, fs.at(ROOT).nlink), (0, 2, 4));
    assert_eq!(fs.find(b, ".."), Ok(ROOT));
}

#[test]
fn what_does_not_go_says_why_and_changes_nothing() {
    let fs = empty();
    let full = fs.mkd(ROOT, "full");
    fs.mk(full, "inside");
    fs.mkd(ROOT, "dir");
    fs.mk(ROOT, "file");
    for (from, to, mode, error) in [
        ("none", "x", Replace, FsError::NotFound),
        ("none", "file", NoReplace, FsError::NotFound),
        ("file", "dir", Replace, FsError::IsDirectory),
        ("file", "full", Replace, FsError::IsDirectory),
        ("dir", "file", Replace, FsError::NotDirectory),
        ("dir", "full", Replace, FsError::NotEmpty),
        ("dir", "file", NoReplace, FsError::Exists),
        ("file", "file", NoReplace, FsError::Exists),
        ("file", "none", Exchange, FsError::NotFound),
        ("file", ".", Replace, FsError::Invalid),
    ] {
        assert_eq!(fs.mv((ROOT, from), (ROOT, to), mode), Err(error), "{from} to {to}");
    }
    let mut names: Vec<_> = fs.ls(ROOT, 9).into_iter().map(|entry| entry.name).collect();
    names.sort();
    assert_eq!(names, [&b"."[..], b"..", b"dir", b"file", b"full"].map(Into::into));
    assert_eq!(fs.at(ROOT).nlink, 4);
}

#[test]
fn no_directory_moves_below_itself() {
    let fs = empty();
    let a = fs.mkd(ROOT, "a");
    let b = fs.mkd(a, "b");
    let c = fs.mkd(b, "c");
    fs.mk(c, "file");
    for (to, name) in [(a, "x"), (b, "x"), (c, "x")] {
        assert_eq!(fs.mv((ROOT, "a"), (to, name), Replace), Err(FsError::Invalid));
    }
    assert_eq!(fs.mv((ROOT, "a"), (c, "file"), Exchange), Err(FsError::Invalid));
    assert_eq!(fs.mv((c, "file"), (ROOT, "a"), Exchange), Err(FsError::Invalid));
    assert_eq!(fs.mv((b, "c"), (ROOT, "a"), Replace), Err(FsError::NotEmpty));
    assert_eq!(fs.mv((c, "file"), (ROOT, "a"), Replace), Err(FsError::NotEmpty));
    // A directory whose name only begins like the other's.
    let sibling = fs.mkd(ROOT, "ab");
    fs.mv((ROOT, "a"), (sibling, "a"), Replace).unwrap();
    assert_eq!((fs.find(a, ".."), fs.find(c, "..")), (Ok(sibling), Ok(b)));
}

#[test]
fn two_names_of_one_inode_both_stay() {
    let fs = empty();
    let dir = fs.mkd(ROOT, "dir");
    let file = fs.mk(ROOT, "a");
    fs.ln(file, dir, "b").unwrap();
    for mode in [Replace, Exchange] {
        fs.mv((ROOT, "a"), (dir, "b"), mode).unwrap();
        fs.mv((ROOT, "a"), (ROOT, "a"), mode).unwrap();
    }
    assert_eq!(fs.mv((ROOT, "a"), (dir, "b"), NoReplace), Err(FsError::Exists));
    assert_eq!((fs.find(ROOT, "a"), fs.find(dir, "b"), fs.at(file).nlink), (Ok(file), Ok(file), 2));
}

#[test]
fn exchange_swaps_anything() {
    let fs = empty();
    let (a, b) = (fs.mkd(ROOT, "a"), fs.mkd(ROOT, "b"));
    let (file, dir) = (fs.mk(a, "one"), fs.mkd(b, "two"));
    fs.mk(dir, "inside");
    fs.mv((a, "one"), (b, "two"), Exchange).unwrap();
    assert_eq!((fs.find(a, "one"), fs.find(b, "two")), (Ok(dir), Ok(file)));
    assert_eq!(fs.find(dir, ".."), Ok(a));
    assert_eq!((fs.at(a).nlink, fs.at(b).nlink), (3, 2));
    fs.mv((ROOT, "a"), (ROOT, "b"), Exchange).unwrap();
    assert_eq!((fs.find(ROOT, "a"), fs.find(ROOT, "b")), (Ok(b), Ok(a)));
    fs.mv((b, "two"), (a, "one"), Exchange).unwrap();
    assert_eq!((fs.at(a).nlink, fs.at(b).nlink, fs.at(file).nlink, fs.at(dir).nlink), (2, 3, 1, 2));
}
