//! `dripfs doctor`: what is fine, and what is not and what to do.

use std::fs;
use std::net::TcpListener;

use super::common::{Vault, run};
use super::manager::{vault, write_profile};
use super::server::{BUCKET, S3Server};

fn ask(vault: &Vault, what: &str) -> (i32, serde_json::Value) {
    let output = run(vault.dripfs(["doctor", "--json", "--state"]).arg(vault.state()).arg(what));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["ok"] == true, output.status.code() == Some(0), "{said}");
    (output.status.code().unwrap(), said)
}

fn check<'a>(said: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let checks = said["checks"].as_array().unwrap();
    checks.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("{name}: {said}"))
}

#[test]
fn what_is_fine_is_told_so_and_nothing_is_left_behind() {
    let server = S3Server::start();
    let Some(mut vault) = Vault::at(&format!("s3://{BUCKET}/x"), server.environment()) else { return };
    let (code, said) = ask(&vault, &vault.url());
    assert_eq!((code, &check(&said, "store")["verdict"]), (0, &"note".into()));
    assert!(check(&said, "store")["advice"].as_str().unwrap().contains("dripfs init"));
    vault.mount_with(&["--kdf-memory", "64"]);
    vault.umount();
    let before: Vec<String> = server.objects().into_keys().collect();
    let (code, said) = ask(&vault, &vault.url());
    assert_eq!(code, 0, "{said}");
    for name in ["FUSE", "store", "clock", "create if absent", "control sockets"] {
        assert_eq!(check(&said, name)["verdict"], "ok", "{said}");
    }
    assert_eq!(server.objects().into_keys().collect::<Vec<_>>(), before);
    // For people.
    let output = run(vault.dripfs(["doctor"]).arg(vault.url()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.lines().any(|line| line.starts_with("ok    FUSE")), "{text}");
}

#[test]
fn what_is_wrong_is_told_with_what_to_do() {
    let server = S3Server::start();
    let Some(vault) = Vault::at(&format!("s3://{BUCKET}/x"), server.environment()) else { return };
    server.race();
    let (code, said) = ask(&vault, &vault.url());
    let found = check(&said, "create if absent");
    assert!(code == 1 && found["verdict"] == "wrong", "{said}");
    assert!(found["advice"].as_str().unwrap().contains("use another"), "{found}");
    // Nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = vault.dripfs(["doctor", "--json"]);
    let output = run(command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")).arg(vault.url()));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && check(&said, "store")["verdict"] == "wrong", "{said}");
}

/// One line each, which says what is wrong and what to do.
#[test]
fn a_store_that_cannot_be_had_is_told_in_one_line_with_what_to_do() {
    let server = S3Server::start();
    let Some(vault) = Vault::at(&format!("s3://{BUCKET}/x"), server.environment()) else { return };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (closed, tls) = (format!("http://127.0.0.1:{port}"), format!("https://{}", server.address));
    const KEYS: &str = "look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
    for (bucket, name, value, found, todo) in [
        (BUCKET, "AWS_SECRET_ACCESS_KEY", "wrong", "the store refuses: 403", KEYS),
        (BUCKET, "AWS_ACCESS_KEY_ID", "wrong", "the store refuses: 403", KEYS),
        ("nowhere", "AWS_REGION", "us-east-1", "there is no such bucket", "look at the spelling, or make it"),
        (BUCKET, "AWS_ENDPOINT_URL", &closed, "the store does not answer: 127.0.0.1", "look at the network"),
        (BUCKET, "AWS_ENDPOINT_URL", "http://store.invalid", "store.invalid", "look at the network"),
        (BUCKET, "AWS_ENDPOINT_URL", &tls, "the store does not answer", "http or https"),
    ] {
        let mut command = vault.dripfs(["doctor", "--json"]);
        let output = run(command.env(name, value).arg(format!("s3://{bucket}/x")));
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let told = check(&said, "store");
        let (what, advice) = (told["found"].as_str().unwrap(), told["advice"].as_str().unwrap_or_default());
        assert!(output.status.code() == Some(1) && what.contains(found), "{name}={value}: {told}");
        assert!(format!("{what}; {advice}").contains(todo), "{name}={value}: {told}");
        assert_eq!(what.contains("does not answer"), advice.contains("look at the network"), "{told}");
        assert!(what.lines().count() == 1 && output.stderr.is_empty(), "{told}, {output:?}");
    }
}

#[test]
fn a_profile_is_looked_at_with_its_mount_point() {
    let Some(vault) = vault() else { return };
    write_profile(&vault, "");
    let (code, said) = ask(&vault, "drive");
    assert_eq!((code, &check(&said, "mount point")["verdict"]), (0, &"ok".into()), "{said}");
    fs::write(vault.mountpoint().join("in the way"), b"").unwrap();
    let (code, said) = ask(&vault, "drive");
    assert!(code == 1 && check(&said, "mount point")["found"].as_str().unwrap().contains("not empty"), "{said}");
    write_profile(&vault, "cache = 'much'");
    let (code, said) = ask(&vault, "drive");
    assert!(code == 1 && check(&said, "profile")["found"].as_str().unwrap().contains("drive.toml:4"), "{said}");
    fs::remove_file(vault.mountpoint().join("in the way")).unwrap();
}
