//! tar and rsync.

use crate::common::succeed;
use crate::pair::{Pair, Times, need, shell, source, text};

/// Without sockets, which tar leaves out with a warning.
const CREATE: &str = "tar --xattrs --sort=name --exclude=./special/socket -cf";

#[test]
fn tar_round_trip() {
    let Some(pair) = Pair::new() else { return };
    let source = source().display().to_string();
    pair.sh(&format!("(cd {source} && {CREATE} - .) > in.tar"));
    pair.sh("mkdir out && tar --xattrs -xpf in.tar -C out && rm in.tar");
    pair.compare(Times::Preserved);
    // What is packed on the drive is what was unpacked there.
    pair.sh(&format!(
        "(cd out && {CREATE} ../back.tar .) && mkdir twice && tar --xattrs -xpf back.tar -C twice && rm back.tar"
    ));
    pair.compare(Times::Preserved);
    pair.sh(&format!("diff -r --no-dereference -x special -x long {source} out"));
}

#[test]
fn rsync_brings_everything_and_then_finds_nothing_to_do() {
    let Some(pair) = Pair::new() else { return };
    need(&["rsync"]);
    let rsync = format!("rsync -aHAX --itemize-changes {}/ .", source().display());
    pair.sh(&format!("{rsync} | wc -l"));
    pair.compare(Times::Preserved);
    let second = text(&succeed(&mut shell(&pair.drive, &rsync)).stdout);
    assert_eq!(second, "", "the second run found something to transfer");
    // A changed file is patched and replaced; a removed one goes.
    pair.sh(&format!("echo more >> sizes/text; rm links/second; touch extra; {rsync} --delete --checksum | sort"));
    pair.compare(Times::Preserved);
}

#[test]
fn rsync_in_place_and_out_of_the_drive() {
    let Some(pair) = Pair::new() else { return };
    need(&["rsync"]);
    let source = source().display().to_string();
    pair.sh(&format!("rsync -aHX {source}/sizes . && printf changed | dd of=sizes/09000000 bs=1 seek=5000000 conv=notrunc status=none"));
    pair.sh(&format!(
        "rsync -aHX --inplace --no-whole-file --checksum {source}/sizes . && cmp {source}/sizes/09000000 sizes/09000000"
    ));
    pair.sh("out=$(mktemp -d) && rsync -aHX . \"$out\"/ && diff -r . \"$out\" && rm -rf \"$out\"");
    pair.compare(Times::Preserved);
}
