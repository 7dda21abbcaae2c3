//! Several users: nobody finds a line of a file that they cannot read, nor another's answer.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{Vault, is_root, run, skip};
use crate::fixture::mounted;

/// Runs a command as another user.
fn as_user(uid: u32, groups: &str, words: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid.to_string(), "--regid", &uid.to_string()]);
    match groups {
        "" => command.arg("--clear-groups"),
        groups => command.args(["--groups", groups]),
    };
    // A directory that everybody may enter.
    run(command.args(words).current_dir("/"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn cat(uid: u32, groups: &str, dir: &Path, name: &str) -> String {
    text(&as_user(uid, groups, &["cat", dir.join(name).to_str().unwrap()]))
}

/// A drive that others may enter; what lies above it too.
fn open_to_others() -> Option<Vault> {
    if !is_root() {
        skip("only root can be several users");
        return None;
    }
    let vault = mounted("allow_other")?;
    for path in [vault.root(), &vault.mountpoint()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    Some(vault)
}

fn put(path: &Path, mode: u32, owner: (u32, u32)) {
    fs::write(path, "needle\n").unwrap();
    chown(path, Some(owner.0), Some(owner.1)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn permission_bits_decide_what_is_found() {
    let Some(vault) = open_to_others() else { return };
    let dir = vault.mountpoint();
    put(&dir.join("all"), 0o644, (0, 0));
    put(&dir.join("ann"), 0o600, (7001, 7001));
    put(&dir.join("ben"), 0o600, (7002, 7002));
    put(&dir.join("group"), 0o640, (0, 7005));
    put(&dir.join("not ann"), 0o044, (7001, 7001));
    for (name, mode) in [("closed", 0o700), ("no list", 0o711), ("no enter", 0o744), ("open", 0o755)] {
        fs::create_dir(dir.join(name)).unwrap();
        put(&dir.join(name).join("f"), 0o644, (0, 0));
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let found = |uid, groups: &str, name: &str| -> Vec<String> {
        let lines = cat(uid, groups, &dir, name);
        lines.lines().map(|line| line.split(':').next().unwrap().to_owned()).collect()
    };
    for name in [".search/needle", ".search/all/needle", ".search/-l:needle"] {
        assert_eq!(found(7001, "", name), ["all", "ann", "open/f"]);
        assert_eq!(found(7002, "", name), ["all", "ben", "not ann", "open/f"]);
        assert_eq!(found(7002, "7005", name), ["all", "ben", "group", "not ann", "open/f"]);
        assert_eq!(found(7001, "", name), ["all", "ann", "open/f"], "after another's search too");
        let everything = ["all", "ann", "ben", "closed/f", "group", "no enter/f", "no list/f", "not ann", "open/f"];
        assert_eq!(found(0, "", name), everything);
        // As grep finds it, who walks by itself.
        for uid in [7001, 7002] {
            let grep = as_user(uid, "", &["grep", "-rlE", "needle", dir.to_str().unwrap()]);
            let prefix = format!("{}/", dir.display());
            let mut names: Vec<_> = text(&grep).lines().map(|line| line.replace(&prefix, "")).collect();
            names.sort();
            assert_eq!(found(uid, "", name), names, "{uid}");
        }
    }
    let links = as_user(7001, "", &["ls", dir.join(".search/files/needle").to_str().unwrap()]);
    assert_eq!(text(&links), "all\nann\nopen%2Ff\n");
    // A directory that may be entered and not listed has no answers.
    let answer = as_user(7001, "", &["cat", dir.join("no list/.search/needle").to_str().unwrap()]);
    assert!(!answer.status.success() && text(&answer).is_empty());
    // What changes is seen at once.
    fs::set_permissions(dir.join("all"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(found(7001, "", ".search/needle"), ["ann", "open/f"]);
}

#[test]
fn queries_and_answers_are_their_askers_own() {
    let Some(vault) = open_to_others() else { return };
    let dir = vault.mountpoint();
    put(&dir.join("ann"), 0o600, (7001, 7001));
    let room = dir.join(".search");
    let room = room.to_str().unwrap();
    assert_eq!(cat(7001, "", &dir, ".search/needle"), "ann:1:needle\n");
    assert_eq!(text(&as_user(7001, "", &["ls", room])), "all\nfiles\nneedle\n");
    assert_eq!(text(&as_user(7002, "", &["ls", room])), "all\nfiles\n");
    // An answer that one has open is no file that another can open.
    let script = format!(
        "exec 3<'{room}/needle'; setpriv --reuid 7002 --regid 7002 --clear-groups cat /proc/self/fd/3 </proc/self/fd/3; \
         setpriv --reuid 7002 --regid 7002 --clear-groups cat /proc/$$/fd/3 2>&1"
    );
    let output = as_user(7001, "", &["sh", "-c", &script]);
    assert!(!text(&output).contains("needle\nann"), "{}", text(&output));
    let stat = as_user(7001, "", &["stat", "-c", "%u %a %F", &format!("{room}/needle")]);
    assert_eq!(text(&stat), "7001 400 regular file\n");
    // Root asks for itself.
    assert_eq!(text(&as_user(7002, "", &["cat", &format!("{room}/needle")])), "");
    // The command of another user works by the file: their process may not use the control socket.
    let binary = crate::common::binary();
    let output = as_user(7001, "", &[binary.to_str().unwrap(), "search", "needle", dir.to_str().unwrap()]);
    if output.status.code() != Some(126) && output.status.code() != Some(127) {
        let expected = format!("{}/ann:1:needle\n", dir.display());
        assert_eq!((output.status.code(), text(&output)), (Some(0), expected));
    }
}
