//! What holds for files while they are open: unlinked, appended to, truncated, locked.

use crate::pair::{Pair, Times, need};

#[test]
fn an_unlinked_file_lives_until_it_is_closed() {
    let Some(pair) = Pair::new() else { return };
    need(&["python3"]);
    pair.python(
        "import os
f = os.open('f', os.O_RDWR | os.O_CREAT)
os.write(f, b'before'); os.unlink('f')
os.write(f, b' and after'); os.fsync(f); os.ftruncate(f, 2_000_000)
print(os.pread(f, 16, 0), os.fstat(f).st_nlink, os.fstat(f).st_size, os.listdir('.'))
os.fchmod(f, 0o600); os.utime(f, (1, 2)); print(os.fstat(f).st_mtime)
open('f', 'w').write('another'); print(os.pread(f, 6, 0), open('f').read())
g = os.open('g', os.O_RDWR | os.O_CREAT); os.write(g, b'replaced'); open('h', 'w').write('by this')
os.rename('h', 'g'); print(os.pread(g, 8, 0), os.fstat(g).st_nlink, open('g').read())
os.mkdir('d'); d = os.open('d', os.O_RDONLY); os.rmdir('d')
try: print(os.listdir(d))
except OSError as e: print('gone')
try: os.open('x', os.O_CREAT | os.O_WRONLY, dir_fd=d)
except OSError as e: print(e.errno)
os.close(f); os.close(g); os.close(d); print(sorted(os.listdir('.')))",
    );
    pair.compare(Times::Fresh);
}

#[test]
fn two_processes_append_without_losing_a_line() {
    let Some(pair) = Pair::new() else { return };
    pair.sh(
        "for who in a b; do (i=0; while [ $i -lt 500 ]; do echo \"$who $i and some words to fill the line\" >> log; i=$((i+1)); done) & done; wait;
         wc -l < log; sort log | cksum",
    );
    need(&["python3"]);
    pair.python(
        "import os
def worker(n):
    f = os.open('shared', os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for i in range(400): os.write(f, b'%d:%04d;' % (n, i) * 50 + b'\\n')
    os._exit(0)
pids = []
for n in range(2):
    pid = os.fork()
    if pid == 0: worker(n)
    pids.append(pid)
for pid in pids: os.waitpid(pid, 0)
lines = open('shared', 'rb').read().splitlines()
print(len(lines), len(set(lines)), {len(l) for l in lines}, os.path.getsize('shared'))
f = os.open('shared', os.O_RDWR | os.O_APPEND); os.lseek(f, 0, 0); os.write(f, b'last'); print(os.pread(f, 4, os.fstat(f).st_size - 4))",
    );
}

#[test]
fn opening_can_truncate_and_must_not_when_exclusive() {
    let Some(pair) = Pair::new() else { return };
    need(&["python3"]);
    pair.python(
        "import os
open('f', 'w').write('x' * 10000)
r = os.open('f', os.O_RDONLY)
w = os.open('f', os.O_WRONLY | os.O_TRUNC); print(os.fstat(r).st_size, os.pread(r, 5, 0))
os.write(w, b'new'); print(os.pread(r, 5, 0), os.path.getsize('f'))
def attempt(what, act):
    try: act(); print(what, 'done')
    except OSError as e: print(what, e.errno)
attempt('exclusive', lambda: os.open('f', os.O_CREAT | os.O_EXCL | os.O_WRONLY))
attempt('directory', lambda: os.open('.', os.O_WRONLY))
attempt('not a directory', lambda: os.open('f', os.O_DIRECTORY))
os.symlink('f', 's')
attempt('no follow', lambda: os.open('s', os.O_NOFOLLOW))
attempt('read of a writer', lambda: os.read(w, 1))
attempt('write of a reader', lambda: os.write(r, b'x'))
os.symlink('made', 'dangling'); attempt('through a dangling link', lambda: os.open('dangling', os.O_CREAT | os.O_WRONLY))
print(sorted(os.listdir('.')))
os.pwrite(w, b'', 50); print(os.path.getsize('f'))
os.pwrite(w, b'far', 100_000); print(os.path.getsize('f'), os.pread(r, 3, 50_000))",
    );
    pair.compare(Times::Fresh);
}

#[test]
fn locks_hold_between_processes() {
    let Some(pair) = Pair::new() else { return };
    need(&["python3"]);
    pair.python(
        "import fcntl, os
f = open('f', 'w'); f.write('x' * 100); f.flush()
def child(act):
    pid = os.fork()
    if pid == 0:
        try: act(open('f', 'r+')); os._exit(0)
        except OSError as e: os._exit(e.errno)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
fcntl.flock(f, fcntl.LOCK_EX)
print('flock', child(lambda g: fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)))
fcntl.flock(f, fcntl.LOCK_UN)
print('unlocked', child(lambda g: fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)))
fcntl.lockf(f, fcntl.LOCK_EX, 10, 20)
print('range', child(lambda g: fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 25)))
print('beside it', child(lambda g: fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 30)))",
    );
}

#[test]
fn readers_see_what_writers_wrote_at_once() {
    let Some(pair) = Pair::new() else { return };
    need(&["python3"]);
    pair.python(
        "import os
w = os.open('f', os.O_WRONLY | os.O_CREAT); r = os.open('f', os.O_RDONLY)
bad = 0
for i in range(3000):
    at = (i * 7919) % 3_000_000; data = b'%08d' % i
    os.pwrite(w, data, at)
    bad += os.pread(r, 8, at) != data or os.fstat(r).st_size < at + 8
print(bad)
for size in (1_000_000, 10, 2_000_000):
    os.truncate('f', size); print(os.fstat(r).st_size, len(os.pread(r, 100, size - 10)), os.pread(r, 3, size - 3))",
    );
    pair.compare(Times::Fresh);
}
