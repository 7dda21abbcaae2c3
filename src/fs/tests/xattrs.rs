//! Extended attributes: what is kept, what is refused.

use super::*;

fn set(fs: &Fs, ino: Ino, name: &str, value: &[u8]) -> Result<(), FsError> {
    now(fs.setxattr(ino, name.as_bytes(), value, false, false))
}

fn get(fs: &Fs, ino: Ino, name: &str) -> Result<Vec<u8>, FsError> {
    now(fs.getxattr(ino, name.as_bytes()))
}

#[test]
fn values_come_back_and_go() {
    let fs = empty();
    let file = fs.mk(Ino::ROOT, "f");
    let largest = vec![0xa5; 65_536];
    for (name, value) in [("user.a", &b""[..]), ("trusted.b", b"\0\xff"), ("security.selinux", &largest)] {
        set(&fs, file, name, b"first").unwrap();
        set(&fs, file, name, value).unwrap();
        assert_eq!(get(&fs, file, name).unwrap(), value);
    }
    let names = |trusted| {
        let list = String::from_utf8(now(fs.listxattr(file, trusted)).unwrap()).unwrap();
        let mut names: Vec<_> = list.strip_suffix('\0').unwrap().split('\0').map(String::from).collect();
        names.sort();
        names
    };
    assert_eq!(names(true), ["security.selinux", "trusted.b", "user.a"]);
    assert_eq!(names(false), ["security.selinux", "user.a"], "for all but root");
    now(fs.removexattr(file, b"user.a")).unwrap();
    assert_eq!(get(&fs, file, "user.a"), Err(FsError::NoAttribute));
    assert_eq!(now(fs.removexattr(file, b"user.a")), Err(FsError::NoAttribute));
    assert!(now(fs.listxattr(Ino::ROOT, true)).unwrap().is_empty());
}

#[test]
fn flags_ask_for_what_must_or_must_not_be_there() {
    let fs = empty();
    let with = |create, replace| now(fs.setxattr(Ino::ROOT, b"user.a", b"v", create, replace));
    assert_eq!(with(false, true), Err(FsError::NoAttribute));
    assert_eq!(with(true, false), Ok(()));
    assert_eq!(with(true, false), Err(FsError::Exists));
    assert_eq!(with(false, true), Ok(()));
}

#[test]
fn names_and_values_have_bounds() {
    let fs = empty();
    let longest = format!("user.{}", "x".repeat(250));
    assert_eq!(set(&fs, Ino::ROOT, &longest, b"v"), Ok(()));
    for (name, error) in [
        (format!("{longest}x"), FsError::BufferTooSmall),
        (String::new(), FsError::BufferTooSmall),
        ("user.".into(), FsError::Invalid),
        ("user.a\0b".into(), FsError::Invalid),
        ("other.a".into(), FsError::Unsupported),
        ("system.posix_acl_access".into(), FsError::Unsupported),
    ] {
        assert_eq!(set(&fs, Ino::ROOT, &name, b"v"), Err(error.clone()), "{name}");
        assert_eq!(get(&fs, Ino::ROOT, &name), Err(error.clone()), "{name}");
        assert_eq!(now(fs.removexattr(Ino::ROOT, name.as_bytes())), Err(error), "{name}");
    }
    assert_eq!(set(&fs, Ino::ROOT, "user.a", &[0; 65_537]), Err(FsError::ValueTooLarge));
}

#[test]
fn the_list_of_names_fits_one_reply() {
    let fs = empty();
    let name = |k: usize| format!("user.{k:0250}");
    let most = 65_536 / 256;
    (0..most).for_each(|k| set(&fs, Ino::ROOT, &name(k), b"").unwrap());
    assert_eq!(set(&fs, Ino::ROOT, &name(most), b""), Err(FsError::NoSpace));
    assert_eq!(set(&fs, Ino::ROOT, &name(0), b"changed"), Ok(()));
    assert_eq!(now(fs.listxattr(Ino::ROOT, true)).unwrap().len(), 65_536);
}

#[test]
fn the_drives_own_names_are_not_the_users() {
    let fs = empty();
    assert_eq!(get(&fs, Ino::ROOT, "user.dripfs.durable"), Err(FsError::NoAttribute));
    assert_eq!(set(&fs, Ino::ROOT, "user.dripfs.durable", b"1"), Err(FsError::NotPermitted));
    assert_eq!(now(fs.removexattr(Ino::ROOT, b"user.dripfs.durable")), Err(FsError::NotPermitted));
}

#[test]
fn a_change_of_owner_takes_capabilities() {
    let fs = empty();
    let file = fs.mk(Ino::ROOT, "f");
    set(&fs, file, "security.capability", b"caps").unwrap();
    set(&fs, file, "user.a", b"stays").unwrap();
    let mode = SetAttributes { mode: Some(0o755), ..SetAttributes::default() };
    now(fs.setattr(file, mode, SUPERUSER)).unwrap();
    assert_eq!(get(&fs, file, "security.capability").unwrap(), b"caps");
    let owner = SetAttributes { uid: Some(1), ..SetAttributes::default() };
    now(fs.setattr(file, owner, SUPERUSER)).unwrap();
    assert_eq!(get(&fs, file, "security.capability"), Err(FsError::NoAttribute));
    assert_eq!(get(&fs, file, "user.a").unwrap(), b"stays");
}

#[test]
fn nothing_is_stale_but_what_is_gone() {
    let fs = empty();
    assert_eq!(set(&fs, Ino(12345), "user.a", b""), Err(FsError::Stale));
    assert_eq!(get(&fs, Ino(12345), "user.a"), Err(FsError::NoAttribute));
}
