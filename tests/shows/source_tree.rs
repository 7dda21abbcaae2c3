//! A real source tree goes in, the machine is lost, and the tree comes out elsewhere, the same in everything.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Vault, run, skip, succeed};
use crate::{CHEAP, files};

const FILES_MIN: usize = 5_000;
const FILES_MAX: usize = 5_500;
/// Of one file: what is large is another test's matter.
const BYTES_MAX: u64 = 256 * 1024;

/// Where source trees lie on machines that build this project.
fn candidates() -> Vec<PathBuf> {
    let home = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cargo = home("CARGO_HOME").or_else(|| home("HOME").map(|home| home.join(".cargo")));
    let mut all: Vec<PathBuf> = cargo.into_iter().map(|cargo| cargo.join("registry/src")).collect();
    all.extend(["/usr/lib/python3", "/usr/include", "/usr/share/perl", "/usr/share/doc"].map(PathBuf::from));
    all.retain(|path| path.is_dir());
    all
}

/// Copies a source tree of 5,000 files and more, attributes and all.
fn copy_sources(to: &Path) -> usize {
    let mut copied = 0;
    for root in candidates() {
        let name = root.file_name().expect("not the root");
        for (path, len) in files(&root) {
            if copied == FILES_MAX {
                return copied;
            }
            let target = to.join(name).join(path.strip_prefix(&root).expect("below it"));
            if len > BYTES_MAX || fs::create_dir_all(target.parent().expect("below")).is_err() {
                continue;
            }
            // With its permissions; times are given below, finer than a copy has them.
            copied += usize::from(fs::copy(&path, &target).is_ok());
        }
    }
    copied
}

/// Links, modes, times and names that no source tree has.
fn adorn(dir: &Path, sources: &[PathBuf]) {
    let odd = dir.join("odd");
    fs::create_dir_all(odd.join("empty/deeper")).expect("room for directories");
    for (n, path) in sources.iter().step_by(25).enumerate() {
        std::os::unix::fs::symlink(path, odd.join(format!("symlink-{n}"))).expect("a symlink");
        fs::hard_link(path, odd.join(format!("hardlink-{n}"))).expect("a hard link");
    }
    std::os::unix::fs::symlink("dangling/\u{e9}", odd.join("dangling")).expect("a symlink");
    for (name, bytes) in [
        (b"not\xffutf-8".to_vec(), &b"x"[..]),
        (b"line\nend \\ \t".to_vec(), b""),
        (vec![b'n'; 255], b"the longest name"),
    ] {
        fs::write(odd.join(std::ffi::OsString::from_vec(name)), bytes).expect("a write");
    }
    let script = r#"
        cd "$1"
        mkfifo fifo
        for mode in 0000 0001 0222 0400 0604 0755 1777 2755 4711 6777; do
            echo "$mode" > "mode-$mode"; chmod "$mode" "mode-$mode"
        done
        mkdir sticky shared closed
        chmod 1777 sticky; chmod 2775 shared; chmod 0700 closed
        truncate -s 3000000 sparse; printf end >> sparse
        touch -d '1970-01-01 00:00:01.000000001 UTC' old
        touch -d '2199-12-31 23:59:59.999999999 UTC' new
        touch -d '1969-07-20 20:17:40.5 UTC' before
        touch -h -d '2001-02-03 04:05:06.789 UTC' dangling
        touch -d '2002-03-04 05:06:07.123456789 UTC' empty/deeper empty
        cd .. && find . -name '*.rs' -newermt 2000-01-01 | head -n 500 | xargs -d '\n' touch -d '2011-11-11 11:11:11.111111111 UTC'
    "#;
    succeed(Command::new("bash").args(["-ec", script, "bash"]).arg(&odd));
}

/// Everything that tells one tree from another, a line a name.
fn describe(dir: &Path) -> Vec<String> {
    let script = r#"
        cd "$1"
        # Links of a directory and sizes of directories are each filesystem's own affair.
        find . -mindepth 1 -type d -printf '%P\t%y %m %U:%G %T@\0'
        find . -mindepth 1 ! -type d -printf '%P\t%y %m %U:%G %T@ %n %s %l\0'
        find . -type f -print0 | xargs -0 sha256sum -z
    "#;
    let output = succeed(Command::new("bash").args(["-ec", script, "bash"]).arg(dir));
    let mut lines: Vec<String> =
        output.stdout.split(|byte| *byte == 0).map(|line| line.escape_ascii().to_string()).collect();
    lines.sort();
    lines
}

#[test]
fn a_source_tree_survives_the_loss_of_the_machine() {
    let Some(mut vault) = Vault::new() else { return };
    let source = vault.root().join("source");
    fs::create_dir(&source).expect("room for a directory");
    let count = copy_sources(&source);
    if count < FILES_MIN {
        return skip(&format!("only {count} source files were found on this machine, {FILES_MIN} are needed"));
    }
    let names: Vec<PathBuf> = files(&source).into_iter().map(|(path, _)| path).collect();
    adorn(&source, &names);
    // Symlinks with absolute targets inside are the same text on the drive.
    let bytes: u64 = files(&source).iter().map(|(_, len)| len).sum();
    vault.mount_with(&CHEAP);
    let tar = r#"tar -C "$1" --format=posix -cf - . | tar -C "$2" -xpf - --same-owner --delay-directory-restore"#;
    let flags = if crate::common::is_root() { tar.to_owned() } else { tar.replace("--same-owner", "") };
    succeed(Command::new("bash").args(["-ec", &flags, "bash"]).arg(&source).arg(vault.mountpoint()));
    vault.umount();

    // The machine is lost, with all that it knew.
    fs::remove_dir_all(vault.state()).expect("nothing is mounted");
    let home = vault.root().join("another-home");
    fs::create_dir(&home).expect("room for a directory");
    let mut mount = vault.dripfs(["mount", "--background"]);
    succeed(mount.env("HOME", &home).arg(vault.remote()).arg(vault.mountpoint()));
    assert!(home.join(".local/state/dripfs").is_dir(), "the other machine keeps its own state");

    let diff = run(Command::new("diff").args(["-r", "--no-dereference"]).arg(&source).arg(vault.mountpoint()));
    let said = String::from_utf8_lossy(&diff.stdout).into_owned();
    // diff cannot look into a FIFO, on either side, and says so.
    let differences: Vec<&str> = said.lines().filter(|line| !line.contains("fifo")).collect();
    assert!(differences.is_empty(), "diff -r: {}", differences.join("\n"));
    let (here, there) = (describe(&source), describe(&vault.mountpoint()));
    let differing: Vec<_> = here.iter().zip(&there).filter(|(a, b)| a != b).take(5).collect();
    assert!(
        here.len() == there.len() && differing.is_empty(),
        "{} and {} lines: {differing:#?}",
        here.len(),
        there.len()
    );
    println!(
        "source tree: {} names, {count} source files, {bytes} bytes; {} objects; diff -r, modes, owners, times, links, \
         checksums the same elsewhere",
        here.iter().filter(|line| line.contains("\\t")).count(),
        files(&vault.remote()).len(),
    );
    vault.umount();
}
