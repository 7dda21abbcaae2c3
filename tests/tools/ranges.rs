//! Parts of files: dd, truncate, fallocate, holes.

use crate::pair::{Pair, Times, need, source};

#[test]
fn dd_in_all_its_forms() {
    let Some(pair) = Pair::new() else { return };
    let input = source().join("sizes/09000000").display().to_string();
    let dd = format!("dd status=none if={input}");
    for options in [
        "of=whole bs=1M",
        "of=odd bs=1000 count=777",
        "of=odd bs=3 seek=100000 count=5000 conv=notrunc",
        "of=whole bs=4096 seek=17 count=300 conv=notrunc",
        "of=direct bs=1M count=6 oflag=direct",
        "of=direct bs=4096 seek=100 count=10 conv=notrunc oflag=direct",
        "of=synced bs=64k count=9 oflag=dsync",
        "of=fsynced bs=1M conv=fsync",
        "of=far bs=1M seek=300 count=1",
        "of=cut bs=1M count=2 seek=1",
    ] {
        pair.sh(&format!("{dd} {options}; cksum < $(echo {options} | cut -d= -f2 | cut -d' ' -f1) | head -1"));
    }
    pair.sh("rm far");
    pair.sh("dd status=none if=whole of=reread iflag=direct bs=1M; cmp whole reread; dd status=none if=whole bs=7 skip=500000 count=3 | cksum");
    pair.sh("dd status=none if=/dev/zero of=whole bs=1M count=1; stat -c %s whole");
    pair.compare(Times::Fresh);
}

#[test]
fn truncate_grows_and_shrinks() {
    let Some(pair) = Pair::new() else { return };
    pair.sh(&format!("cp {}/sizes/04194305 f", source().display()));
    for size in ["4194304", "4096", "5000", "4194305", "1", "0", "10000000", "9999999"] {
        pair.sh(&format!("truncate -s {size} f; stat -c %s f; cksum f; printf '%s' {size} >> f; cksum f"));
    }
    pair.sh("truncate -s 1T huge; stat -c %s huge; dd status=none if=huge bs=1 skip=1099511627775 count=5 | od -An -tx1; rm huge");
    pair.compare(Times::Fresh);
}

#[test]
fn fallocate_punches_zeroes_and_extends() {
    let Some(pair) = Pair::new() else { return };
    need(&["fallocate"]);
    pair.sh(&format!("cp {}/sizes/09000000 f", source().display()));
    for options in [
        "-p -o 4096 -l 8192",
        "-p -o 1 -l 3",
        "-p -o 1000000 -l 5000000",
        "-z -o 100 -l 70000",
        "-z -o 8999000 -l 5000",
        "-z -n -o 9003000 -l 5000",
        "-n -l 20000000",
        "-l 12000000",
        "-p -o 11000000 -l 90000000",
    ] {
        pair.sh(&format!("fallocate {options} f; stat -c %s f; cksum f"));
    }
    pair.same("fallocate -l 0 f");
    pair.sh("mkdir d; fallocate -l 1 d 2>/dev/null && echo done || echo refused");
    pair.compare(Times::Fresh);
}

#[test]
fn holes_are_found_and_kept() {
    let Some(pair) = Pair::new() else { return };
    need(&["python3"]);
    // Where data begins is a matter of block size; these are on boundaries that everybody has.
    pair.python(
        "import os, errno
f = os.open('f', os.O_RDWR | os.O_CREAT)
M = 1 << 20
os.pwrite(f, b'x' * M, 8 * M)
os.ftruncate(f, 16 * M)
def seek(at, how):
    try: return os.lseek(f, at, how)
    except OSError as e: return errno.errorcode[e.errno]
for settled in (False, True):
    if settled: os.fsync(f)
    print([seek(at, os.SEEK_DATA) for at in (0, 8 * M, 8 * M + 5, 9 * M, 16 * M, 17 * M)])
    print([seek(at, os.SEEK_HOLE) for at in (0, 5, 8 * M, 9 * M, 16 * M - 1, 16 * M)])
os.pwrite(f, b'y', 16 * M - 1)
print(seek(9 * M, os.SEEK_DATA) >= 15 * M, seek(16 * M - 1, os.SEEK_HOLE))
print(os.pread(f, 4, 3 * M), os.pread(f, 4, 8 * M - 2))",
    );
    pair.sh("cp --sparse=always f copy; cmp f copy; tar -cSf t f; mkdir x; tar -xSf t -C x; cmp f x/f; rm t");
    pair.compare(Times::Fresh);
}
