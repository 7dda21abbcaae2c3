//! `dripfs key`, and a provider that serves the old header again (A7, A10).

mod common;
#[path = "stores/server/mod.rs"]
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{PASSPHRASE, Vault, run, succeed};
use server::{BUCKET, S3Server};

const NEW: &str = "another passphrase";

fn made() -> Option<Vault> {
    let mut vault = Vault::new()?;
    fill(&mut vault);
    Some(vault)
}

/// A vault with a file in it, not mounted.
fn fill(vault: &mut Vault) {
    vault.mount_with(&["--kdf-memory", "64"]);
    fs::write(vault.mountpoint().join("file"), b"content").unwrap();
    vault.umount();
}

fn secret(vault: &Vault, name: &str, text: &str) -> PathBuf {
    let path = vault.root().join(name);
    fs::write(&path, text).unwrap();
    succeed(Command::new("chmod").arg("600").arg(&path));
    path
}

fn key(vault: &Vault, state: &Path, words: &[&str]) -> Command {
    let mut command = vault.dripfs(["key", words[0]]);
    command.arg("--state").arg(state).args(&words[1..]).stdin(Stdio::null());
    command
}

fn change(vault: &Vault, state: &Path) -> Command {
    let new = secret(vault, "new", NEW);
    let mut command = key(vault, state, &["change", "--kdf-memory", "64"]);
    command.arg("--new-passphrase-file").arg(new).arg(vault.url());
    command
}

/// What a mount with this passphrase ends with; mounted, its file is read and it is unmounted again.
fn mounts(vault: &Vault, state: &Path, passphrase: &str) -> i32 {
    fs::create_dir_all(state).unwrap();
    let file = secret(vault, "tried", passphrase);
    let mut command = vault.dripfs(["mount", "--background", "--state"]);
    let output = run(command.arg(state).arg("--passphrase-file").arg(file).arg(vault.url()).arg(vault.mountpoint()));
    if output.status.success() {
        assert_eq!(fs::read(vault.mountpoint().join("file")).unwrap(), b"content");
        succeed(vault.dripfs(["umount"]).arg(vault.mountpoint()));
    }
    output.status.code().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn headers(vault: &Path) -> Vec<String> {
    let entries = fs::read_dir(vault.join("header")).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn number(header: u64) -> String {
    format!("{header:020}")
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    succeed(Command::new("cp").arg("-a").arg(from).arg(to));
}

#[test]
fn slots_are_listed_added_removed_and_changed() {
    let Some(vault) = made() else { return };
    let state = vault.state().to_owned();
    let list = || String::from_utf8(succeed(key(&vault, &state, &["list"]).arg(vault.url())).stdout).unwrap();
    assert!(
        list().starts_with(" 1  passphrase (Argon2id, 64 MiB") && list().contains(" 2  recovery key\n"),
        "{}",
        list()
    );
    let new = secret(&vault, "new", NEW);
    let mut add = key(&vault, &state, &["add", "--kdf-memory", "64", "--new-passphrase-file"]);
    succeed(add.arg(&new).arg(vault.url()));
    assert_eq!(list().lines().count(), 3);
    assert_eq!((mounts(&vault, &state, PASSPHRASE), mounts(&vault, &state, NEW)), (0, 0));
    let recovery = vault.root().join("second");
    let mut add = key(&vault, &state, &["add", "--recovery", "--recovery-file"]);
    succeed(add.arg(&recovery).arg(vault.url()));
    assert_eq!(mounts(&vault, &vault.root().join("elsewhere"), &fs::read_to_string(&recovery).unwrap()), 0);
    succeed(key(&vault, &state, &["remove", "--passphrase-file"]).arg(&new).arg(vault.url()).arg("1"));
    assert_eq!((mounts(&vault, &state, PASSPHRASE), mounts(&vault, &state, NEW)), (12, 0));
    // What no longer counts does not lie there any more.
    assert_eq!(headers(&vault.remote()), [number(4)]);
    for _ in 0..2 {
        succeed(key(&vault, &state, &["remove", "--passphrase-file"]).arg(&new).arg(vault.url()).arg("1"));
    }
    // Which one is left: the recovery key that was added. It stays.
    let last = run(key(&vault, &state, &["remove", "--passphrase-file"]).arg(&recovery).arg(vault.url()).arg("1"));
    assert!(last.status.code() == Some(1) && said(&last).contains("is the last"), "{}", said(&last));
    assert_eq!(mounts(&vault, &state, &fs::read_to_string(&recovery).unwrap()), 0);
}

#[test]
fn after_a_change_the_old_header_served_again_is_refused() {
    let Some(vault) = made() else { return };
    let state = vault.state().to_owned();
    let (before, after) = (vault.root().join("before"), vault.root().join("after"));
    copy(&vault.remote(), &before);
    succeed(&mut change(&vault, &state));
    assert_eq!((mounts(&vault, &state, PASSPHRASE), mounts(&vault, &state, NEW)), (12, 0));
    copy(&vault.remote(), &after);
    let header = |vault: &Path, n| vault.join("header").join(number(n));
    let both = |state: &Path| (mounts(&vault, state, PASSPHRASE), mounts(&vault, state, NEW));

    // The old one alone, and nothing else changed.
    fs::copy(header(&before, 1), header(&vault.remote(), 1)).unwrap();
    fs::remove_file(header(&vault.remote(), 2)).unwrap();
    assert_eq!(both(&state), (13, 13));
    // A new machine knows nothing; but the log names another header.
    assert_eq!(both(&vault.root().join("stranger")), (13, 12));

    // The old one's bytes under the new one's name.
    copy(&after, &vault.remote());
    fs::copy(header(&before, 1), header(&vault.remote(), 2)).unwrap();
    assert_eq!(both(&state), (13, 13));
    assert_eq!(both(&vault.root().join("stranger")), (13, 12));

    // The old one beside the new one: it counts for nothing.
    copy(&after, &vault.remote());
    fs::copy(header(&before, 1), header(&vault.remote(), 1)).unwrap();
    assert_eq!(both(&state), (12, 0));
    assert_eq!(both(&vault.root().join("stranger")), (12, 0));

    // The whole vault as it was.
    copy(&before, &vault.remote());
    assert_eq!(both(&state), (13, 13));
}

#[test]
fn a_change_that_was_cut_off_before_the_log_named_it_counts_for_nothing() {
    let Some(vault) = made() else { return };
    let before = vault.root().join("before");
    copy(&vault.remote(), &before);
    succeed(&mut change(&vault, vault.state()));
    // The header came to stand, and then the machine died.
    fs::copy(vault.remote().join("header").join(number(2)), before.join("header").join(number(2))).unwrap();
    copy(&before, &vault.remote());
    let stranger = vault.root().join("stranger");
    assert_eq!((mounts(&vault, &stranger, NEW), mounts(&vault, &stranger, PASSPHRASE)), (12, 0));
    assert_eq!(mounts(&vault, &vault.root().join("another"), PASSPHRASE), 0);
    // The next change takes the next number.
    succeed(&mut change(&vault, &stranger));
    assert!(headers(&vault.remote()).contains(&number(3)));
    assert_eq!((mounts(&vault, &stranger, PASSPHRASE), mounts(&vault, &stranger, NEW)), (12, 0));
    assert_eq!(mounts(&vault, &vault.root().join("another"), NEW), 0);
}

#[test]
fn keys_are_not_changed_while_the_vault_is_open() {
    let Some(mut vault) = made() else { return };
    vault.mount_again(&[]);
    let here = run(&mut change(&vault, vault.state()));
    assert!(here.status.code() == Some(11) && said(&here).contains("mounted here"), "{}", said(&here));
    let elsewhere = vault.root().join("elsewhere");
    let refused = run(&mut change(&vault, &elsewhere));
    assert!(refused.status.code() == Some(11), "{}", said(&refused));
    vault.umount();
    assert_eq!(headers(&vault.remote()), [number(1)]);
    assert_eq!((mounts(&vault, vault.state(), PASSPHRASE), mounts(&vault, vault.state(), NEW)), (0, 12));
}

/// The writer is fenced by it, and finds only a header that it has not seen.
#[test]
fn after_a_change_elsewhere_the_old_passphrase_is_wrong_and_the_new_one_goes_on() {
    let Some(mut vault) = made() else { return };
    vault.mount_again(&[]);
    let elsewhere = vault.root().join("elsewhere");
    succeed(change(&vault, &elsewhere).arg("--takeover"));
    fs::write(vault.mountpoint().join("late"), b"x").unwrap();
    let umount = run(vault.dripfs(["umount"]).arg(vault.mountpoint()));
    assert_eq!(umount.status.code(), Some(14), "{}", said(&umount));
    let mut again = vault.dripfs(["mount", "--background", "--state"]);
    let refused = run(again.arg(vault.state()).arg(vault.url()).arg(vault.mountpoint()));
    assert!(refused.status.code() == Some(12), "{}", said(&refused));
    assert!(said(&refused).contains("keys were changed") && !said(&refused).contains("vanished"), "{}", said(&refused));
    assert_eq!(mounts(&vault, vault.state(), NEW), 0);
}

#[test]
fn of_two_who_change_keys_at_once_each_that_succeeds_is_kept() {
    let Some(vault) = made() else { return };
    let names = ["one", "two", "three"];
    let children: Vec<_> = names
        .iter()
        .map(|name| {
            let new = secret(&vault, name, name);
            let state = vault.root().join(format!("state-{name}"));
            let mut add = key(&vault, &state, &["add", "--kdf-memory", "64", "--new-passphrase-file"]);
            add.arg(new).arg(vault.url()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut succeeded = 0;
    for (name, child) in names.iter().zip(children) {
        let output = child.wait_with_output().unwrap();
        let opens = mounts(&vault, &vault.root().join("judge"), name);
        match output.status.code() {
            Some(0) => {
                succeeded += 1;
                assert_eq!(opens, 0, "{name}");
            }
            // The vault is in use right now.
            Some(11) => assert_eq!(opens, 12, "{name}"),
            code => panic!("{name}: {code:?}: {}", said(&output)),
        }
    }
    assert!(succeeded > 0);
    assert_eq!(mounts(&vault, &vault.root().join("judge"), PASSPHRASE), 0);
}

#[test]
fn with_the_recovery_key_a_lost_passphrase_is_replaced_on_a_server_too() {
    let server = S3Server::start();
    let Some(mut vault) = Vault::at(&format!("s3://{BUCKET}/x"), server.environment()) else { return };
    fill(&mut vault);
    let mut change = change(&vault, vault.state());
    succeed(change.arg("--passphrase-file").arg(vault.root().join("recovery")));
    assert_eq!((mounts(&vault, vault.state(), PASSPHRASE), mounts(&vault, vault.state(), NEW)), (12, 0));
    let headers: Vec<String> = server.objects().into_keys().filter(|key| key.contains("/header/")).collect();
    assert_eq!(headers, [format!("x/header/{}", number(2))]);
    assert_eq!(mounts(&vault, &vault.root().join("stranger"), NEW), 0);
}

#[test]
fn what_follows_the_vault_goes_on_through_a_change_and_knows_the_new_header_then() {
    let Some(vault) = made() else { return };
    let Some(mut reader) = Vault::new() else { return };
    reader.follow(&vault, &["-o", "follow=1"]);
    succeed(&mut change(&vault, vault.state()));
    // It needs no passphrase to go on, and the writer's next commit arrives.
    let mut vault = vault;
    secret(&vault, "passphrase", NEW);
    vault.mount_again(&[]);
    fs::write(vault.mountpoint().join("later"), b"x").unwrap();
    vault.umount();
    common::wait_until("the reader sees it", || reader.mountpoint().join("later").exists());
    reader.umount();
    let again = run(reader
        .dripfs(["mount", "--read-only", "--background", "--state"])
        .arg(reader.state())
        .arg(vault.url())
        .arg(reader.mountpoint()));
    assert_eq!(again.status.code(), Some(12), "the old passphrase: {}", said(&again));
    secret(&reader, "passphrase", NEW);
    reader.follow(&vault, &[]);
    assert_eq!(fs::read(reader.mountpoint().join("file")).unwrap(), b"content");
}
