//! Setuid and setgid bits and capabilities go when somebody else writes; permission bits hold; ownership follows the
//! rules. The kernel leaves the clearing to the drive (HANDLE_KILLPRIV_V2), and no public suite checks it.

use crate::common::{is_root, run, skip, succeed};
use crate::pair::{Pair, Times, need, shell, text};

/// Runs the rest of a script's line as a user who is not root.
const AS_USER: &str = "setpriv --reuid 1234 --regid 1234 --clear-groups";

fn pair() -> Option<Pair> {
    if !is_root() {
        skip("needs root, to become another user");
        return None;
    }
    // The shared mount is root's alone; another user needs allow_other.
    let pair = Pair::open_to_others()?;
    need(&["setpriv"]);
    pair.sh("chmod 777 .");
    Some(pair)
}

#[test]
fn setuid_goes_when_a_user_writes() {
    let Some(pair) = pair() else { return };
    pair.sh(
        "for m in 6777 4777 2777; do printf 0123456789 > w$m; cp w$m t$m; cp w$m o$m; cp w$m m$m; chmod $m ?$m; done",
    );
    pair.sh(&format!("for m in 6777 4777 2777; do {AS_USER} sh -c \"echo x >> w$m\"; done; stat -c '%n %a' w*"));
    pair.sh(&format!("for m in 6777 4777 2777; do {AS_USER} truncate -s 5 t$m; done; stat -c '%n %a %s' t*"));
    pair.sh(&format!("for m in 6777 4777 2777; do {AS_USER} sh -c \": > o$m\"; done; stat -c '%n %a %s' o*"));
    pair.compare(Times::Fresh);
}

#[test]
fn setuid_goes_when_a_user_allocates_or_makes_holes() {
    let Some(pair) = pair() else { return };
    need(&["fallocate", "setcap", "getcap"]);
    // Each way: by a user, by root, and on a file with capabilities. The mode is asked for before and after, so that
    // what the kernel remembers is looked at too.
    for (k, way) in ["-l 5000", "-n -l 5000", "-p -o 2 -l 3", "-z -o 2 -l 30", "-z -n -o 2 -l 3"].iter().enumerate() {
        pair.sh(&format!(
            "for f in user{k} root{k} cap{k}; do printf 0123456789 > $f; done
             chmod 6777 user{k} root{k}; setcap cap_net_raw+ep cap{k}; stat -c '%n %a' *{k}
             {AS_USER} fallocate {way} user{k}; fallocate {way} root{k}; fallocate {way} cap{k}
             stat -c '%n %a %s' *{k}; getcap cap{k}"
        ));
    }
    pair.compare(Times::Fresh);
}

#[test]
fn setuid_stays_when_root_writes_and_goes_with_the_owner() {
    let Some(pair) = pair() else { return };
    pair.sh("for f in w t o u g x d; do printf 0123456789 > $f; chmod 6755 $f; done; chmod 2745 x; rm d; mkdir d; chmod 6755 d");
    pair.sh("echo more >> w; truncate -s 5 t; : > o; stat -c '%n %a' w t o");
    pair.sh("chown 1234 u; chgrp 1234 g; chgrp 1234 x; chown 1234:1234 d; stat -c '%n %a %u %g' u g x d");
    pair.sh(&format!(
        "printf 1 > own; chown 1234:1234 own; chmod 6755 own; {AS_USER} chgrp 1234 own; stat -c '%a' own"
    ));
    pair.sh(&format!("chmod 6755 own; {AS_USER} chmod 6711 own; stat -c '%a' own; chgrp 0 own; {AS_USER} chmod 2755 own; stat -c '%a' own"));
    pair.compare(Times::Fresh);
}

#[test]
fn capabilities_go_when_a_file_changes() {
    let Some(pair) = pair() else { return };
    need(&["setcap", "getcap", "getfattr"]);
    pair.sh("for f in w t o c k; do cp /bin/true $f; setcap cap_net_raw+ep $f; done; getfattr -m security.capability -d -e hex w | tail -n +2");
    pair.sh("echo x >> w; truncate -s 5 t; : > o; chown 1234 c; touch k; chmod 700 k; for f in w t o c k; do echo $f $(getcap $f | sed 's/.* //'); done");
}

#[test]
fn permission_bits_hold() {
    let Some(pair) = pair() else { return };
    pair.sh("echo secret > f; chmod 600 f; mkdir d; chmod 700 d; touch d/x; mkdir s; chmod 1777 s; touch s/root; mkdir g; chgrp 77 g; chmod 2777 g");
    for attempt in [
        "cat f",
        "sh -c 'echo x > f'",
        "ls d",
        "cat d/x",
        "rm -f s/root",
        "mv s/root s/mine",
        "chmod 777 f",
        "chown 1234 f",
        "touch -d 2001-01-01 f",
        "ln f s/linked",
        "setfattr -n user.x -v 1 f",
        "mkdir d/y",
        "rmdir d",
        "truncate -s 0 f",
    ] {
        pair.same(&format!("{AS_USER} {attempt}"));
    }
    pair.sh(&format!("{AS_USER} sh -c 'umask 027; echo mine > mine; mkdir own; touch s/mine g/mine; mkdir g/sub; ln -s x l'; stat -c '%n %a %u %g' mine own s/mine g/mine g/sub l"));
    pair.compare(Times::Fresh);
}

#[test]
fn setuid_programs_do_not_run_as_their_owner() {
    let Some(pair) = pair() else { return };
    let script = format!("cp /usr/bin/id id; chmod 4755 id; {AS_USER} ./id -u");
    let out = text(&succeed(&mut shell(&pair.drive, &script)).stdout);
    assert_eq!(out, "1234\n", "the mount is nosuid by default");
}

#[test]
fn without_allow_other_others_do_not_enter() {
    if !is_root() {
        return skip("needs root, to become another user");
    }
    let Some(pair) = Pair::new() else { return };
    let output = run(&mut shell(&pair.drive, &format!("chmod 777 .; {AS_USER} ls .")));
    assert!(!output.status.success(), "another user entered a mount without allow_other");
}
