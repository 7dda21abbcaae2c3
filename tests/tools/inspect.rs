//! find, du, df, ls, stat.

use crate::common::succeed;
use crate::pair::{Pair, need, shell, source, text};

#[test]
fn find_and_ls_see_the_same() {
    let Some(pair) = Pair::new() else { return };
    pair.sh(&format!("cp -a {}/. .", source().display()));
    pair.sh("find . -printf '%p %y %m %U %G %l %T@\\n' | LC_ALL=C sort");
    pair.sh("find . ! -type d -printf '%p %s %n\\n' | LC_ALL=C sort");
    pair.sh("find . -type f -size +1M -newermt 2001-01-01 | sort; find . -links +1 | sort; find . -empty | sort");
    pair.sh(
        "find . -perm -4000 | sort; find . -user 1234 | sort; find . -xtype l | sort; find . -type p -o -type s | sort",
    );
    pair.sh("find . -depth -name 'file-*' -delete; find . | wc -l");
    pair.sh("ls -lRb --time-style=full-iso --ignore-backups links times | grep -v '^total' | grep -v '^d'");
    pair.sh("ls -U many | sort; ls -a names | wc -l");
}

#[test]
fn du_counts_apparent_sizes_and_holes() {
    let Some(pair) = Pair::new() else { return };
    let source = source().display().to_string();
    pair.sh(&format!("cp -a {source}/sizes {source}/links ."));
    pair.sh("cd sizes; du --apparent-size -b *");
    pair.sh("sync sizes/*");
    let blocks = |script| {
        let [local, drive] = pair.both().map(|directory| text(&succeed(&mut shell(directory, script)).stdout));
        [local, drive].map(|out| out.split_whitespace().next().expect("a number").parse::<u64>().expect("a number"))
    };
    // A file of nine million bytes takes about that much; a hole takes nothing; a hard link is counted once.
    let [local, drive] = blocks("du -k sizes/09000000");
    assert!(drive.abs_diff(local) <= local / 50, "du: {drive} KiB on the drive, {local} beside it");
    let [_, drive] = blocks("du -k sizes/sparse");
    assert!(drive <= 1024, "du: {drive} KiB for a file that is nearly all hole");
    let [_, drive] = blocks("du -k --exclude=directory links/first links/second links/below/third");
    assert!(drive <= 64, "du: {drive} KiB for one small file of three names");
}

#[test]
fn df_shows_the_drive() {
    let Some(pair) = Pair::new() else { return };
    need(&["df"]);
    let script = "df --output=fstype,source,size,used,avail,itotal,iused . | tail -1";
    let line = text(&succeed(&mut shell(&pair.drive, script)).stdout);
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[0], "fuse.dripfs", "{line}");
    assert!(words[1].starts_with("file:///"), "{line}");
    let number = |n: usize| words[n].parse::<u64>().unwrap_or_else(|e| panic!("{e}: {line}"));
    assert!(number(4) > 1 << 20, "a GiB should be free: {line}");
    assert!(number(2) >= number(3) + number(4), "size is what is used and what is free: {line}");
    assert!(number(5) > number(6) && number(6) > 0, "{line}");
    assert_eq!(text(&succeed(&mut shell(&pair.drive, "stat -f -c '%l %S' .")).stdout), "255 4096\n");
}
