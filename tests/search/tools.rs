//! Tools that walk a drive do not meet the room, and tools that read a file read an answer.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::common::{run, succeed};
use crate::fixture::{ask, fill, grep, mounted};

fn sh(script: &str, drive: &std::path::Path, beside: &std::path::Path) -> String {
    let mut command = Command::new("sh");
    command.args(["-euc", script, "sh"]).arg(drive).arg(beside).env("LC_ALL", "C.UTF-8");
    command.env("HOME", beside).env("GIT_CONFIG_NOSYSTEM", "1");
    String::from_utf8(succeed(&mut command).stdout).expect("UTF-8")
}

#[test]
fn nobody_who_walks_the_drive_meets_a_room() {
    let Some(vault) = mounted("") else { return };
    let (dir, beside) = (vault.mountpoint(), vault.root().join("beside"));
    fs::create_dir(&beside).unwrap();
    fill(&dir);
    // The room is there, and has been used.
    ask(&dir, "fn");
    ask(&dir.join("src"), "fn");
    for (tool, script) in [
        (
            "rsync",
            r#"rsync -a "$1/" "$2/rsync/"; diff -r --no-dereference "$1" "$2/rsync"; find "$2/rsync" -name .search"#,
        ),
        ("cp", r#"cp -a "$1/." "$2/cp"; diff -r --no-dereference "$1" "$2/cp"; find "$2/cp" -name .search"#),
        ("tar", r#"tar -C "$1" -cf - . | tar -tf - | grep -F .search || true"#),
        ("find", r#"find "$1" -name '*.search*'; find "$1" -newer / -path '*search/*' -name 'fn'"#),
        ("du", r#"du -a "$1" | grep -F .search || true"#),
        ("ls", r#"ls -laR "$1" | grep -F ' .search' || true"#),
        ("grep", r#"grep -rl . "$1" | grep -F /.search/ || true"#),
        (
            "git",
            r#"cd "$1"; git init -q; git add -A; git status --porcelain | grep -F '.search' || true; git ls-files | grep -F .search/ || true"#,
        ),
    ] {
        assert_eq!(sh(script, &dir, &beside), "", "{tool}");
    }
}

#[test]
fn tools_that_read_files_read_an_answer() {
    let Some(vault) = mounted("") else { return };
    let (dir, beside) = (vault.mountpoint(), vault.root().join("beside"));
    fs::create_dir(&beside).unwrap();
    fill(&dir);
    let expected = grep(&dir, &[], "^ *pub fn [a-z]+");
    assert!(expected.len() > 10_000);
    let answer = dir.join(".search/^ *pub fn [a-z]+");
    // Its size is exact before it was ever opened.
    assert_eq!(fs::metadata(&answer).unwrap().len(), expected.len() as u64);
    let wanted = beside.join("wanted");
    fs::write(&wanted, &expected).unwrap();
    for (tool, script) in [
        ("cat", r#"cat "$A" | cmp - "$W""#),
        ("cp", r#"cp "$A" out; cmp out "$W"; cp -a "$A" out2; cmp out2 "$W""#),
        ("rsync", r#"rsync "$A" ./out3; cmp out3 "$W""#),
        (
            "dd",
            r#"dd if="$A" bs=777 status=none | cmp - "$W"; dd if="$A" iflag=direct bs=4096 status=none | cmp - "$W""#,
        ),
        ("wc", r#"[ "$(wc -c <"$A")" = "$(wc -c <"$W")" ]; [ "$(wc -l "$A" | cut -d' ' -f1)" = "$(wc -l <"$W")" ]"#),
        ("stat", r#"[ "$(stat -c %s "$A")" = "$(stat -c %s "$W")" ]"#),
        ("tail", r#"tail -n 3 "$A" >t; tail -n 3 "$W" | cmp - t; tail -c 100 "$A" >t; tail -c 100 "$W" | cmp - t"#),
        ("grep", r#"grep -c . "$A" >t; grep -c . "$W" | cmp - t"#),
        ("sort", r#"sort "$A" >t; sort "$W" | cmp - t"#),
        ("tar", r#"tar -cf - -C "${A%/*}" "${A##*/}" | tar -xOf - | cmp - "$W""#),
        ("vim", r#"vim -es -u NONE -c 'w! out4' -c q! "$A" </dev/null; cmp out4 "$W""#),
        (
            "python",
            r#"python3 -c 'import mmap,sys; f=open(sys.argv[1],"rb"); m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ); sys.stdout.buffer.write(m[:])' "$A" | cmp - "$W""#,
        ),
        (
            "mmap, private",
            r#"python3 -c 'import mmap,sys; f=open(sys.argv[1],"rb"); m=mmap.mmap(f.fileno(),0,access=mmap.ACCESS_COPY); f.close(); m[0]=m[0]; sys.stdout.buffer.write(m[:])' "$A" | cmp - "$W""#,
        ),
    ] {
        let mut command = Command::new("sh");
        command.args(["-euc", script]).current_dir(&beside).env("A", &answer).env("W", &wanted).env("HOME", &beside);
        let output = run(&mut command);
        assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let output = succeed(Command::new("less").arg(&answer).env("LESSOPEN", ""));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "less");
}

#[test]
fn an_open_answer_stays_what_it_is() {
    let Some(vault) = mounted("cache_ttl=1") else { return };
    let dir = vault.mountpoint();
    fs::write(dir.join("f"), "needle 1\n").unwrap();
    let path = dir.join(".search/needle");
    let open = fs::File::open(&path).unwrap();
    let first = open.metadata().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().ino(), first.ino(), "the same while it says the same");
    fs::write(dir.join("f"), "needle 1\nneedle 2\n").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "f:1:needle 1\nf:2:needle 2\n");
    // Its time is over, and the kernel has let its pages go; who has it open reads on.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(std::io::read_to_string(&open).unwrap(), "f:1:needle 1\n");
    assert_eq!(open.metadata().unwrap().len(), first.len());
    assert_eq!(fs::read_to_string(&path).unwrap(), "f:1:needle 1\nf:2:needle 2\n");
}

#[test]
fn a_reading_mount_has_rooms_too_and_follows() {
    let Some(vault) = mounted("") else { return };
    let Some(mut onlooker) = crate::common::Vault::new() else { return };
    fs::write(vault.mountpoint().join("f"), "needle 1\n").unwrap();
    vault.sync();
    let follow = ["-o", "follow=1", "--passphrase-file", vault.passphrase_file().to_str().unwrap()].map(str::to_owned);
    onlooker.follow(&vault, &follow.each_ref().map(|word| &word[..]));
    let path = onlooker.mountpoint().join(".search/all/needle");
    assert_eq!(fs::read_to_string(&path).unwrap(), "f:1:needle 1\n");
    fs::write(vault.mountpoint().join("f"), "needle 2\n").unwrap();
    vault.sync();
    crate::common::wait_until("the commit is followed", || fs::read_to_string(&path).unwrap() == "f:1:needle 2\n");
}
