//! Metrics: over the control socket and over HTTP, and the dashboard that asks for them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use super::common::{Vault, run, succeed, wait_until};

fn get(address: &str, path: &str, host: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

/// Names of samples, without labels and values.
fn names(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

/// Names that the queries of the dashboard ask for.
fn asked(dashboard: &serde_json::Value) -> Vec<String> {
    let mut found = Vec::new();
    match dashboard {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(query) if key == "expr" || key == "query" => {
                        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                        found.extend(words.filter(|word| word.starts_with("dripfs_")).map(str::to_owned));
                    }
                    _ => found.extend(asked(value)),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| found.extend(asked(value))),
        _ => {}
    }
    found
}

fn value(text: &str, sample: &str) -> f64 {
    let labels: Vec<&str> = sample.split(' ').skip(1).collect();
    let name = sample.split(' ').next().unwrap();
    let fits = |line: &&str| line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label));
    let line = text.lines().find(fits).unwrap_or_else(|| panic!("{sample} is not in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn metrics_are_numbers_that_a_user_can_check_and_the_dashboard_asks_for_none_else() {
    let Some(mut vault) = Vault::new() else { return };
    vault.mount_with(&["--kdf-memory", "64", "-o", "metrics=127.0.0.1:0"]);
    let dir = vault.mountpoint();
    fs::write(dir.join("secret-name"), vec![1; 300_000]).unwrap();
    vault.sync();
    let status = vault.status();
    let address = status["metrics_address"].as_str().unwrap().to_owned();
    let local = String::from_utf8(succeed(vault.dripfs(["status", "--metrics"]).arg(&dir)).stdout).unwrap();
    let (first, scraped) = get(&address, "/metrics", &address);
    assert_eq!(first, "HTTP/1.1 200 OK");
    assert_eq!(names(&local), names(&scraped), "one text, two ways");
    assert_eq!(value(&scraped, "dripfs_state state=\"ready\""), 1.0);
    assert_eq!(value(&scraped, "dripfs_state state=\"outage\""), 0.0);
    assert_eq!(value(&scraped, "dripfs_pending_bytes"), 0.0);
    assert!(value(&scraped, "dripfs_sequence") >= 3.0);
    let puts = value(&scraped, "dripfs_store_requests_total kind=\"put\" outcome=\"ok\"");
    assert!(puts >= 3.0 && value(&scraped, "dripfs_store_bytes_total kind=\"put\"") > 65_000.0);
    assert_eq!(value(&scraped, "dripfs_store_request_seconds_bucket kind=\"put\" le=\"+Inf\""), puts);
    assert!(value(&scraped, "dripfs_stage_done_total stage=\"upload/append\"") >= 1.0);
    assert!(!scraped.contains("secret-name") && !scraped.contains("file://"), "no names, no places");
    assert!(scraped.ends_with("# EOF\n"));

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let (asked, there) = (asked(&dashboard), names(&scraped));
    assert!(asked.len() > 15);
    for name in asked {
        assert!(there.contains(&name), "the dashboard asks for {name}");
    }

    // A page in a browser has no way in, whatever name it gives to this address.
    assert!(get(&address, "/metrics", "evil.example").0.contains(" 403 "));
    assert_eq!(get(&address, "/health", "localhost"), ("HTTP/1.1 200 OK".to_owned(), "ready\n".to_owned()));
    let away = vault.root().join("away");
    fs::rename(vault.remote(), &away).unwrap();
    fs::write(dir.join("later"), b"x").unwrap();
    wait_until("the outage shows", || get(&address, "/health", "localhost").0.contains(" 503 "));
    fs::rename(&away, vault.remote()).unwrap();

    // Another's port is told before anything is mounted.
    let other = vault.root().join("other");
    fs::create_dir(&other).unwrap();
    let mut command = vault.dripfs(["mount", "--read-only", "--background", "--state"]);
    let output = run(command
        .arg(vault.root().join("elsewhere"))
        .args(["-o", &format!("metrics={address}")])
        .arg(vault.url())
        .arg(&other));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("in use"), "{said}");
}

#[test]
fn events_tell_of_each_upload_and_download_with_its_path() {
    let Some(vault) = Vault::mounted() else { return };
    let dir = vault.mountpoint();
    let mut watcher = vault.dripfs(["events"]);
    let mut watcher = watcher.arg(&dir).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let out = std::io::BufReader::new(watcher.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in std::io::BufRead::lines(out) {
            let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            let _ = tell.send(event);
        }
    });
    fs::create_dir(dir.join("dir")).unwrap();
    let mut seen = Vec::new();
    // The watcher may not be there yet when the first ones go.
    wait_until("an upload is told", || {
        fs::write(dir.join("dir/file"), vec![seen.len() as u8 + 7; 2 << 20]).unwrap();
        vault.sync();
        seen.extend(told.try_iter());
        seen.iter().any(|event| event["event"] == "upload" && event["path"] == "/dir/file")
    });
    let upload = seen.iter().find(|event| event["event"] == "upload").unwrap();
    assert!(upload["bytes"].as_u64().unwrap() > 0 && upload["milliseconds"].is_u64(), "{upload}");
    succeed(vault.dripfs(["cache", "drop"]).arg(dir.join("dir/file")));
    assert_eq!(fs::read(dir.join("dir/file")).unwrap().len(), 2 << 20);
    wait_until("a download is told", || {
        seen.extend(told.try_iter());
        seen.iter().any(|event| event["event"] == "download" && event["path"] == "/dir/file")
    });
    // The mount's end is the watcher's.
    succeed(vault.dripfs(["umount"]).arg(&dir));
    assert!(watcher.wait().unwrap().success());
}
