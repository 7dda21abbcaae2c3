//! What a file may be called.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::pair::{Pair, Times, need, source};
use crate::source;

#[test]
fn any_bytes_but_slash_and_zero_make_a_name() {
    let Some(pair) = Pair::new() else { return };
    for directory in pair.both() {
        for name in source::names() {
            let path = directory.join(OsStr::from_bytes(&name));
            fs::write(&path, &name).expect("create");
            assert_eq!(fs::read(&path).expect("open"), name);
        }
        for byte in (1..=255u8).filter(|byte| !b"/.".contains(byte)) {
            fs::create_dir_all(directory.join("bytes").join(OsStr::from_bytes(&[byte]))).expect("mkdir");
        }
    }
    pair.compare(Times::Fresh);
    for directory in pair.both() {
        fs::create_dir(directory.join("moved")).expect("mkdir");
        for name in source::names() {
            let path = directory.join(OsStr::from_bytes(&name));
            let moved = directory.join("moved").join(OsStr::from_bytes(&name));
            fs::rename(&path, &moved).expect("rename");
            fs::remove_file(&moved).expect("unlink");
        }
    }
    pair.compare(Times::Fresh);
}

#[test]
fn a_name_of_256_bytes_is_too_long_everywhere() {
    let Some(pair) = Pair::new() else { return };
    need(&["python3"]);
    let script = "import os
long, fits = 'n' * 256, 'm' * 255
open(fits, 'w').close(); os.mkdir('d')
def attempt(what, act):
    try: act(); print(what, 'done')
    except OSError as e: print(what, os.strerror(e.errno))
attempt('create', lambda: open(long, 'w'))
attempt('open', lambda: open(long))
attempt('stat', lambda: os.stat(long))
attempt('mkdir', lambda: os.mkdir(long))
attempt('symlink', lambda: os.symlink('x', long))
attempt('link', lambda: os.link(fits, long))
attempt('rename', lambda: os.rename(fits, long))
attempt('unlink', lambda: os.unlink(long))
attempt('rmdir', lambda: os.rmdir(long))
attempt('mkfifo', lambda: os.mkfifo(long))
attempt('long target', lambda: os.symlink('t' * 4095, 'd/l'))
attempt('too long a target', lambda: os.symlink('t' * 4096, 'd/m'))
attempt('rename of what fits', lambda: os.rename(fits, 'd/' + fits))
print(sorted(os.listdir('.')), sorted(os.listdir('d')))";
    pair.python(script);
    pair.compare(Times::Fresh);
}

#[test]
fn case_and_unicode_forms_are_kept_apart() {
    let Some(pair) = Pair::new() else { return };
    for directory in pair.both() {
        for (n, name) in ["File", "file", "\u{e9}", "e\u{301}"].iter().enumerate() {
            fs::write(directory.join(name), n.to_string()).expect("create");
        }
    }
    pair.compare(Times::Fresh);
    assert_eq!(fs::read_dir(&pair.drive).expect("a listing").count(), 4);
}

#[test]
fn paths_lead_where_they_say() {
    let Some(pair) = Pair::new() else { return };
    pair.sh(&format!("cp -a {}/links .", source().display()));
    pair.same("cat links/through; cat links/dangling");
    pair.same("cat links/first/x");
    pair.same("cat nothing/here; mkdir -p a/b; cd a/b; cat ../../links/first; cd ..; pwd -P | sed 's/.*test-[0-9]*//'");
    pair.same("mkdir a; rmdir .; rmdir a/..; rmdir a/b/.; rm -r a/b; mkdir a/b/c; touch a/");
}
