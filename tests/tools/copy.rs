//! cp -a, mv, rm -rf.

use crate::pair::{Pair, Times, source};

fn copy(pair: &Pair) {
    pair.sh(&format!("cp -a {}/. .", source().display()));
}

#[test]
fn cp_a_brings_everything() {
    let Some(pair) = Pair::new() else { return };
    copy(&pair);
    pair.compare(Times::Preserved);
    // And from the drive to the drive, where reading and writing meet.
    pair.sh("mkdir again && cp -a sizes links modes times names xattrs special again/ && touch -d 2001-01-01 again");
    pair.compare(Times::Preserved);
}

#[test]
fn mv_keeps_everything_and_across_filesystems_too() {
    let Some(pair) = Pair::new() else { return };
    copy(&pair);
    pair.sh("mkdir into && mv sizes links modes into/ && mv into moved && mv moved/links/first moved/links/one && touch -d 2001-01-01 moved moved/links");
    pair.compare(Times::Preserved);
    // Out of the drive and back in: mv copies and removes.
    pair.sh("out=$(mktemp -d) && mv moved times \"$out\"/ && mv \"$out\"/moved \"$out\"/times . && rmdir \"$out\"");
    pair.compare(Times::Preserved);
}

#[test]
fn mv_over_an_existing_file_replaces_it() {
    let Some(pair) = Pair::new() else { return };
    pair.sh("echo old > a; echo new > b; mv b a; cat a; ls");
    pair.same("mkdir d e; touch d/x; mv -T e d");
    pair.same("mv -T d a");
    pair.same("mv -T a d");
    pair.same("mv d d/below");
    pair.compare(Times::Fresh);
}

#[test]
fn rm_rf_leaves_nothing() {
    let Some(pair) = Pair::new() else { return };
    copy(&pair);
    pair.same("rmdir sizes");
    pair.same("rm many");
    pair.sh("rm -rf ./* ./.[!.]* ; ls -A | wc -l");
    pair.compare(Times::Fresh);
}
