//! chmod, chown, touch, getfattr and setfattr, ln.

use crate::common::{is_root, skip};
use crate::pair::{Pair, Times, need};

#[test]
fn chmod_in_all_its_forms() {
    let Some(pair) = Pair::new() else { return };
    pair.sh("touch f; mkdir d; ln -s f l; chmod 0 f; stat -c %a f; chmod u+rwx,g=rx,o= f; stat -c %a f; chmod 7777 f; stat -c %a f");
    pair.sh("chmod 1777 d; stat -c %a d; chmod g+s d; touch d/x; mkdir d/sub; stat -c '%a %g' d d/x d/sub; chmod l 600 2>/dev/null || true; stat -c %a l f");
    pair.sh("umask 077; touch private; mkdir hidden; stat -c %a private hidden; umask 0; touch open; stat -c %a open");
    pair.compare(Times::Fresh);
}

#[test]
fn chown_and_who_may_what() {
    let Some(pair) = Pair::new() else { return };
    if !is_root() {
        return skip("chown needs root");
    }
    pair.sh("touch f; mkdir d; ln -s f l; chown 1000:2000 f; chown -h 5:6 l; chown :77 d; stat -c '%u %g' f l d; chown 65534 f; stat -c '%u %g' f");
    pair.sh("chown 4294967294:4294967294 f; stat -c '%u %g' f; mkdir -p a/b/c; chown -R 3:4 a; stat -c '%u %g' a/b/c");
    pair.compare(Times::Fresh);
}

#[test]
fn touch_sets_times_to_the_nanosecond() {
    let Some(pair) = Pair::new() else { return };
    for date in [
        "2024-02-29 12:34:56.123456789",
        "1970-01-01 00:00:00.000000001",
        "1969-12-31 23:59:58.250000000",
        "1901-12-14 00:00:00.999999999",
        "2105-06-07 08:09:10.000000011",
    ] {
        pair.sh(&format!("touch -d '{date}' f; stat -c '%x %y' f; touch -a -d '2001-01-01' f; touch -m -d '{date}' g; stat -c '%x %y' f; stat -c %y g"));
    }
    pair.sh("mkdir d; touch -d '2010-10-10 10:10:10.101010101' d; ln -s f l; touch -h -d '2011-11-11 11:11:11.111111111' l; stat -c '%n %y' d l; touch -r d f; stat -c %y f");
    pair.compare(Times::Preserved);
}

#[test]
fn times_move_when_things_change_and_only_then() {
    let Some(pair) = Pair::new() else { return };
    need(&["python3"]);
    pair.python(
        "import os, time
def times(path): s = os.lstat(path); return s.st_mtime_ns, s.st_ctime_ns
def changed(what, path, act):
    before = times(path); time.sleep(0.02); act(); after = times(path)
    print(what, 'mtime', after[0] > before[0], 'ctime', after[1] > before[1])
open('f', 'w').write('x'); os.mkdir('d'); open('d/a', 'w').close()
changed('write', 'f', lambda: open('f', 'a').write('y'))
changed('read', 'f', lambda: open('f').read())
changed('chmod', 'f', lambda: os.chmod('f', 0o600))
changed('link', 'f', lambda: os.link('f', 'g'))
changed('unlink of a link', 'f', lambda: os.unlink('g'))
changed('rename', 'f', lambda: (os.rename('f', 'h'), os.rename('h', 'f')))
changed('truncate', 'f', lambda: os.truncate('f', 100))
changed('truncate to the same', 'f', lambda: os.truncate('f', 100))
changed('open for truncation', 'f', lambda: open('f', 'w').close())
changed('xattr', 'f', lambda: os.setxattr('f', 'user.x', b'1'))
changed('create', 'd', lambda: open('d/b', 'w').close())
changed('unlink', 'd', lambda: os.unlink('d/b'))
changed('mkdir', 'd', lambda: os.mkdir('d/s'))
changed('rename within', 'd', lambda: os.rename('d/a', 'd/c'))
changed('write below', 'd', lambda: open('d/c', 'w').write('z'))
changed('symlink', 'd', lambda: os.symlink('x', 'd/l'))
print(os.stat('d').st_nlink >= 1, os.stat('f').st_nlink)",
    );
}

#[test]
fn extended_attributes() {
    let Some(pair) = Pair::new() else { return };
    need(&["getfattr", "setfattr"]);
    pair.sh("touch f; mkdir d; setfattr -n user.one -v first f; setfattr -n user.two -v 0x00ff00 f; setfattr -n user.dir -v d d; getfattr -d -e hex f d | sort");
    pair.sh(
        "setfattr -n user.one -v second f; setfattr -x user.two f; getfattr -d f; getfattr -n user.one --only-values f",
    );
    pair.same("setfattr -x user.none f");
    pair.same("getfattr -n user.none f");
    pair.same("setfattr -n nonsense -v x f");
    pair.same("setfattr -n user. -v x f");
    pair.sh("cp -a f copy; mv copy moved; getfattr -d moved");
    need(&["python3"]);
    pair.python(
        "import os
def attempt(what, act):
    try: print(what, act())
    except OSError as e: print(what, e.errno)
attempt('create', lambda: os.setxattr('f', 'user.new', b'1', os.XATTR_CREATE))
attempt('create again', lambda: os.setxattr('f', 'user.new', b'2', os.XATTR_CREATE))
attempt('replace', lambda: os.setxattr('f', 'user.new', b'3', os.XATTR_REPLACE))
attempt('replace nothing', lambda: os.setxattr('f', 'user.nothing', b'4', os.XATTR_REPLACE))
attempt('value', lambda: os.getxattr('f', 'user.new'))
attempt('empty', lambda: (os.setxattr('f', 'user.e', b''), os.getxattr('f', 'user.e')))
attempt('long name', lambda: os.setxattr('f', 'user.' + 'n' * 250, b'x'))
attempt('too long a name', lambda: os.setxattr('f', 'user.' + 'n' * 251, b'x'))
attempt('too long a value', lambda: os.setxattr('f', 'user.v', b'x' * 65537))
attempt('list', lambda: sorted(os.listxattr('f')))",
    );
    pair.compare(Times::Fresh);
}

#[test]
fn hard_links_and_symlinks() {
    let Some(pair) = Pair::new() else { return };
    pair.sh("echo one > a; ln a b; mkdir d; ln b d/c; echo more >> d/c; cat a; stat -c %h a b d/c; rm a; stat -c %h b; cat b");
    pair.sh("ln -s b s; cat s; ln -sf d t; ls t; readlink s t; ln -sfn b t; readlink t; rm t; ln s hard; readlink hard; stat -c %h s");
    pair.same("ln b d/c");
    pair.same("ln d linked");
    pair.same("ln -s loop loop; cat loop");
    pair.same("ln -s x s");
    pair.sh("rm -r d; cat b; stat -c %h b");
    pair.compare(Times::Fresh);
}
