//! Python's shutil, and mmap.

use crate::pair::{Pair, Times, need, source};

#[test]
fn shutil_copies_moves_and_removes() {
    let Some(pair) = Pair::new() else { return };
    need(&["python3"]);
    let source = source().display().to_string();
    // copytree follows no special files.
    pair.python(&format!(
        "import shutil
shutil.copytree('{source}', 'copy', symlinks=True, ignore=shutil.ignore_patterns('special'))"
    ));
    pair.compare(Times::Preserved);
    pair.python(
        "import shutil, os
shutil.move('copy/many', 'moved')
shutil.copy2('copy/sizes/09000000', 'copied')
shutil.copyfile('copied', 'plain')
os.replace('plain', 'replaced')
shutil.rmtree('copy/names')
os.utime('copy', (1, 1))
print(sorted(os.listdir('.')), shutil.disk_usage('.').total > 0)",
    );
    pair.sh("rm replaced");
    pair.compare(Times::Preserved);
    pair.python("import shutil; shutil.rmtree('copy'); shutil.rmtree('moved')");
    pair.compare(Times::Fresh);
}

#[test]
fn mapped_memory_is_the_file() {
    let Some(pair) = Pair::new() else { return };
    need(&["python3"]);
    pair.python(
        "import mmap, os
with open('f', 'w+b') as f:
    f.truncate(3_000_000)
    with mmap.mmap(f.fileno(), 0) as m:
        m[0:5] = b'hello'
        m[2_999_990:] = b'the end...'
        m[1_048_570:1_048_590] = b'across a boundary...'
        # Written through the map, read through the file, and the other way round.
        m.flush()
        print(os.pread(f.fileno(), 5, 0), os.pread(f.fileno(), 20, 1_048_570))
        os.pwrite(f.fileno(), b'by write', 100)
        print(m[100:108])
with open('f', 'rb') as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
    print(m[0:5], m[-10:], m.find(b'boundary'))
# Changed after the descriptor is closed: the map alone keeps the file.
f = open('f', 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close()
m[50:54] = b'late'; m.close()
print(open('f', 'rb').read()[50:54])
with open('f', 'rb') as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY) as m:
    m[0:5] = b'mine!'
print(open('f', 'rb').read(5))",
    );
    pair.compare(Times::Fresh);
}
