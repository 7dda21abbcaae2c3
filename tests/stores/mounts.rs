//! Real mounts of vaults in a bucket.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::common::{Vault, noise, run, succeed};
use super::server::{BUCKET, Fault, S3Server};

/// A vault in a bucket, not yet mounted.
pub fn vault_at(server: &S3Server) -> Option<Vault> {
    Vault::at(&format!("s3://{BUCKET}/some/prefix"), server.environment())
}

/// A tree with small and large files.
pub fn make_tree(root: &Path) {
    for k in 0..20 {
        let dir = root.join(format!("dir {k}"));
        fs::create_dir(&dir).unwrap();
        for j in 0..20 {
            fs::write(dir.join(format!("file {j}")), noise(k * 100 + j, 500 * j as usize)).unwrap();
        }
    }
    fs::write(root.join("large"), noise(7, 11 << 20)).unwrap();
    std::os::unix::fs::symlink("large", root.join("link")).unwrap();
}

/// All files below a directory.
pub fn read_tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut left) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => left.push(path),
                false => _ = found.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap()),
            }
        }
    }
    found
}

#[test]
fn a_bucket_holds_a_drive_for_any_machine() {
    let server = S3Server::start();
    let Some(mut vault) = vault_at(&server) else { return };
    vault.mount();
    make_tree(&vault.mountpoint());
    let made = read_tree(&vault.mountpoint());
    assert_eq!(made.len(), 402);
    vault.umount();
    let mut put = BTreeMap::new();
    for seen in server.take_seen().into_iter().filter(|seen| seen.method == "PUT" && seen.status == 200) {
        *put.entry(seen.key).or_insert(0) += 1;
    }
    let twice: Vec<_> = put.iter().filter(|(key, times)| **times > 1 && !key.ends_with("/latest")).collect();
    assert!(twice.is_empty(), "sent twice: {twice:?}");
    assert!(put.len() < 30, "{} objects for 402 files", put.len());
    vault.move_to_machine("second");
    vault.mount_with(&["-o", "cache=16M"]);
    assert!(read_tree(&vault.mountpoint()) == made, "on another machine it is another tree");
    let status = vault.status();
    assert_eq!((&status["state"], &status["url"]), (&"ready".into(), &format!("s3://{BUCKET}/some/prefix").into()));
    assert!(status["remote"]["get"]["bytes"].as_u64().unwrap() > 11 << 20, "{}", status["remote"]);
    vault.umount();
}

#[test]
fn each_trouble_at_mount_is_one_line_with_what_to_do() {
    let server = S3Server::start();
    let Some(vault) = vault_at(&server) else { return };
    let refused = |url: &str, changes: &[(&str, &str)], told: &[&str], code: i32| {
        for words in [vec!["mount", "--init"], vec!["init"]] {
            let mut command = vault.dripfs(words.iter().copied());
            command.arg("--state").arg(vault.state()).arg(url).envs(changes.iter().copied());
            if words[0] == "mount" {
                command.arg(vault.mountpoint());
            }
            let output = run(&mut command);
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(code), "{url}: {text}");
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(told.iter().all(|word| text.contains(word)), "{told:?}: {text}");
            assert!(!text.contains("secret"), "{text}");
        }
    };
    let url = vault.url();
    refused("s3://nowhere/x", &[], &["no such bucket", "spelling"], 1);
    refused(&url, &[("AWS_SECRET_ACCESS_KEY", "secretly-wrong")], &["refuses", "403", "AWS_SECRET_ACCESS_KEY"], 1);
    refused(&url, &[("AWS_ACCESS_KEY_ID", "AKIDWRONG")], &["refuses", "InvalidAccessKeyId", "~/.aws"], 1);
    refused(&url, &[("AWS_ALLOW_HTTP", "")], &["not encrypted", "AWS_ALLOW_HTTP=true"], 1);
    let gone = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", ""), ("AWS_EC2_METADATA_DISABLED", "true")];
    refused(&url, &gone, &["no credentials", "AWS_ACCESS_KEY_ID"], 1);
    refused(&url, &[("AWS_ENDPOINT_URL", "http://127.0.0.1:9")], &["does not answer", "127.0.0.1:9", "refused"], 1);
    refused("s3://secret:key@bucket/x", &[], &["environment"], 1);
    refused("gs://bucket/x", &[("GOOGLE_APPLICATION_CREDENTIALS", "/no/file")], &["/no/file"], 1);
    refused("az://box/x", &[], &["AZURE_STORAGE_ACCOUNT"], 1);
    refused("https://127.0.0.1:9/x", &[], &["--read-only"], 2);
    server.set_fault(Fault::Answer(503, "SlowDown", None));
    refused(&url, &[], &["does not answer", "503"], 1);
    assert!(server.objects().is_empty(), "nothing was made");
    server.set_fault(Fault::None);
    let text = run(vault.dripfs(["mount"]).arg(&url).arg(vault.mountpoint()));
    assert_eq!(text.status.code(), Some(10), "no vault there");
}

#[test]
fn limits_are_taken_by_a_mount() {
    let server = S3Server::start();
    let Some(mut vault) = vault_at(&server) else { return };
    vault.mount_with(&["--upload-limit", "512K", "-o", "download-limit=8M"]);
    let began = std::time::Instant::now();
    fs::write(vault.mountpoint().join("file"), noise(1, 2 << 20)).unwrap();
    succeed(vault.dripfs(["sync"]).arg(vault.mountpoint()));
    assert!(began.elapsed().as_secs_f64() > 3.0, "2 MiB at 512 KiB/s took {:?}", began.elapsed());
    vault.umount();
}
