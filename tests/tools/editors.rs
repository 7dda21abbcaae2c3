//! Editors save in their own ways: by writing over, by renaming, with backups and swap files.

use crate::pair::{Pair, Times, need};

#[test]
fn vim_saves() {
    let Some(pair) = Pair::new() else { return };
    need(&["vim"]);
    let edit = "TERM=dumb vim -N -u NONE -i NONE -es";
    pair.sh("seq 1000 > file; chmod 640 file; ln file other");
    pair.sh(&format!("{edit} -c '%s/1/one/g' -c 'wq' file; head -3 file; stat -c '%a %h' file"));
    pair.sh(&format!("{edit} -c 'set backup backupcopy=no' -c '1d' -c 'wq' file; ls -A; stat -c '%a' file"));
    pair.sh(&format!(
        "{edit} -c 'set nobackup writebackup backupcopy=yes' -c '$d' -c 'x' other; ls -A; wc -l file other"
    ));
    pair.compare(Times::Fresh);
}

#[test]
fn sed_in_place_and_write_and_rename() {
    let Some(pair) = Pair::new() else { return };
    pair.sh("seq 5000 > file; sed -i.bak 's/7/seven/' file; cksum file file.bak");
    pair.sh("for n in $(seq 50); do echo $n > .file.tmp; sync .file.tmp; mv .file.tmp file; cat file; done");
    pair.compare(Times::Fresh);
}
