//! Contents: what becomes of a file's mode when they change, and of a file that is gone.

use super::*;

#[test]
fn a_file_that_is_gone_is_stale_whatever_is_asked_of_it() {
    let fs = empty();
    let gone = fs.mk(Ino::ROOT, "f");
    fs.rm(Ino::ROOT, "f").unwrap();
    fs.forget(gone);
    let got = [
        now(fs.getattr(gone)).map(drop),
        now(fs.setattr(gone, SetAttributes { size: Some(0), ..SetAttributes::default() }, USER)).map(drop),
        now(fs.open(gone, false, false, USER)),
        now(fs.open(gone, true, true, USER)),
        now(fs.read(gone, 0, 1)).map(drop),
        now(fs.write(gone, 0, b"x".to_vec(), false)).map(drop),
        now(fs.write(gone, 0, b"x".to_vec(), true)).map(drop),
        now(fs.fallocate(gone, 0, 0, 1)),
        now(fs.lseek(gone, 0, Seek::Data)).map(drop),
        now(fs.setxattr(gone, b"user.a", b"", false, false)),
    ];
    assert!(got.iter().all(|got| *got == Err(FsError::Stale)), "{got:?}");
}
