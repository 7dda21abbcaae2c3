//! Servers that others made. The script that runs all tests installs them below target/tools; where one is missing its
//! test says so and is skipped, which CI does not allow. All listen on 127.0.0.1 only.
//!
//! Two of them answer a create-if-absent by overwriting: there no vault may be made. There is no server here that speaks
//! Google's XML interface as object_store does: of gs:// only the URL and the credentials are tested.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dripfs::store::{self, Created, Settings, Variables};

use super::common::{Vault, fresh_directory, run, skip, succeed};
use super::mounts::{make_tree, read_tree};

/// Some need seconds to begin, and more on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools")
}

/// A program that was installed; `None`, and said so, if it was not.
fn tool(name: &str) -> Option<PathBuf> {
    let path = tools().join(name);
    if !path.exists() {
        skip(&format!("{} is missing: tests/run installs it", path.display()));
        return None;
    }
    Some(path)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("bound").port()
}

/// A running server, ended with all its children when dropped, and its directory.
struct Server {
    child: Child,
    dir: PathBuf,
    port: u16,
}

impl Server {
    fn start(dir: PathBuf, port: u16, command: &mut Command) -> Server {
        let log = fs::File::create(dir.join("server.log")).expect("room for a log");
        command.current_dir(&dir).stdin(Stdio::null()).stderr(log.try_clone().expect("a log")).stdout(log);
        let child = command.process_group(0).spawn().expect("it was installed");
        let server = Server { child, dir, port };
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(began.elapsed() < PATIENCE, "{command:?} does not listen: {}", server.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("server.log")).unwrap_or_default()
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What clients of an S3 server need, after its bucket was made.
    fn s3(&self, key: &str, secret: &str) -> Vec<(String, String)> {
        let variables = [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", key.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ];
        let variables: Vec<_> = variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let make = "import boto3, os, sys, time\n\
            s3 = boto3.client('s3', endpoint_url=os.environ['AWS_ENDPOINT_URL'])\n\
            for k in range(100):\n    \
                try:\n        s3.create_bucket(Bucket='box'); sys.exit(0)\n    \
                except s3.exceptions.BucketAlreadyOwnedByYou: sys.exit(0)\n    \
                except Exception as e: why = e; time.sleep(0.3)\n\
            sys.exit(str(why))";
        let mut command = Command::new(tools().join("python/bin/python"));
        succeed(command.args(["-c", make]).envs(variables.iter().cloned()));
        variables
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: the group of the process that was started above.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A tree goes in on one machine, and comes out on another.
fn there_and_back(url: &str, environment: Vec<(String, String)>) {
    let Some(mut vault) = Vault::at(url, environment) else { return };
    vault.mount_with(&["--kdf-memory", "64"]);
    make_tree(&vault.mountpoint());
    let made = read_tree(&vault.mountpoint());
    fs::remove_file(vault.mountpoint().join("dir 1/file 1")).unwrap();
    vault.umount();
    vault.move_to_machine("second");
    vault.mount_with(&[]);
    let mut found = read_tree(&vault.mountpoint());
    assert_eq!(found.len() + 1, made.len());
    found.insert("dir 1/file 1".into(), made[Path::new("dir 1/file 1")].clone());
    assert!(found == made, "on another machine it is another tree");
    assert_eq!(vault.status()["remote"]["errors"], 0);
    vault.umount();
}

/// Sixteen ask for the same name at once: one makes it. (One that lets more do so is found by this, not by the probe.)
fn makes_once(url: &str, environment: &[(String, String)]) {
    let variables: Variables = environment.iter().cloned().collect();
    let store = store::open_in(url, Settings::default(), Arc::new(move || variables.clone())).expect("a good URL");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for round in 0..5 {
            let name = format!("race/{round}");
            let tries = futures::future::join_all((0..16).map(|k| store.create(&name, vec![k; 1000].into()))).await;
            let made = tries.into_iter().filter(|tried| matches!(tried, Ok(Created::New))).count();
            assert_eq!(made, 1, "round {round}");
        }
        assert_eq!(store.list("race/", 9).await.unwrap().len(), 5);
        for round in 0..5 {
            store.delete(&format!("race/{round}")).await.unwrap();
        }
        assert!(store.list("race/", 9).await.unwrap().is_empty());
        assert!(store.get_range("race/1", 0..9).await.unwrap().is_none());
    });
}

#[test]
fn moto() {
    let Some(program) = tool("python/bin/moto_server") else { return };
    let port = free_port();
    let mut command = Command::new(program);
    let server = Server::start(fresh_directory(), port, command.args(["-H", "127.0.0.1", "-p", &port.to_string()]));
    let environment = server.s3("key", "secret");
    makes_once("s3://box/races", &environment);
    there_and_back("s3://box/a/vault", environment);
}

#[test]
fn seaweedfs() {
    let Some(program) = tool("python/bin/weed") else { return };
    let dir = fresh_directory();
    let identities = r#"{"identities": [{"name": "t", "actions": ["Admin", "Read", "Write", "List"],
        "credentials": [{"accessKey": "key", "secretKey": "secret"}]}]}"#;
    fs::write(dir.join("s3.json"), identities).unwrap();
    // Each of its servers listens to 10,000 above its port too.
    let port = 20_000 + (free_port() % 30_000);
    let mut command = Command::new(program);
    command.args(["server", "-dir=.", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-s3.config=s3.json"]);
    command.args(["-master.volumeSizeLimitMB=64", "-volume.max=20", "-master.telemetry=false"]);
    for (word, above) in [("-s3.port", 0), ("-master.port", 1), ("-volume.port", 2), ("-filer.port", 3)] {
        command.arg(format!("{word}={}", port + above));
    }
    let server = Server::start(dir, port, &mut command);
    let environment = server.s3("key", "secret");
    makes_once("s3://box/races", &environment);
    there_and_back("s3://box/a/vault", environment);
}

#[test]
fn azurite() {
    let Some(program) = tool("node/node_modules/.bin/azurite-blob") else { return };
    let (dir, port) = (fresh_directory(), free_port());
    let mut command = Command::new(program);
    command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "-l", "."]);
    command.args(["--skipApiVersionCheck", "--silent", "--disableTelemetry"]);
    let server = Server::start(dir, port, &mut command);
    let make = r#"
import base64, datetime, hashlib, hmac, http.client, sys
account, key = 'devstoreaccount1', ('Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==')
date = datetime.datetime.now(datetime.timezone.utc).strftime('%a, %d %b %Y %H:%M:%S GMT')
sign = f'PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2021-08-06\n/{account}/{account}/box\nrestype:container'
mac = base64.b64encode(hmac.new(base64.b64decode(key), sign.encode(), hashlib.sha256).digest()).decode()
c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]))
c.request('PUT', f'/{account}/box?restype=container', headers={'x-ms-date': date, 'x-ms-version': '2021-08-06',
    'Content-Length': '0', 'Authorization': f'SharedKey {account}:{mac}'})
r = c.getresponse()
sys.exit(0 if r.status == 201 else f'{r.status} {r.read()}')
"#;
    succeed(Command::new("python3").args(["-c", make, &port.to_string()]));
    // A machine of Microsoft's own emulator: its account and key are known to all.
    let environment: Vec<(String, String)> = [
        ("AZURE_STORAGE_ACCOUNT", "devstoreaccount1".to_owned()),
        (
            "AZURE_STORAGE_KEY",
            "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==".to_owned(),
        ),
        ("AZURE_STORAGE_ENDPOINT", format!("{}/devstoreaccount1", server.endpoint())),
        ("AZURE_ALLOW_HTTP", "true".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    makes_once("az://box/races", &environment);
    let Some(vault) = Vault::at("az://box/x", environment.clone()) else { return };
    let init = |url: &str, changes: &[(&str, &str)]| {
        let mut command = vault.dripfs(["init", url, "--kdf-memory", "64", "--state"]);
        run(command.arg(vault.state()).envs(changes.iter().copied()))
    };
    for (url, changes, told) in [
        ("az://nowhere/x", [("A", "b")], "no such bucket or container"),
        ("az://box/x", [("AZURE_STORAGE_KEY", "c2VjcmV0")], "AuthorizationFailure"),
    ] {
        let output = init(url, &changes);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && text.contains(told) && text.lines().count() == 1, "{told}: {text}");
    }
    there_and_back("az://box/a/vault", environment);
}

/// A vault in a directory, copied by a web server that knows nothing of it, not even ranges.
#[test]
fn a_web_server() {
    let Some(mut writer) = Vault::new() else { return };
    writer.mount_with(&["--kdf-memory", "64"]);
    make_tree(&writer.mountpoint());
    let made = read_tree(&writer.mountpoint());
    writer.umount();
    let (port, served) = (free_port(), writer.remote());
    let mut command = Command::new("python3");
    command.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]).arg(&served).arg(port.to_string());
    let server = Server::start(fresh_directory(), port, &mut command);
    let none: [(&str, &str); 0] = [];
    let url = format!("{}/", server.endpoint());
    let Some(mut reader) = Vault::at(&url, none) else { return };
    let read_only = ["--read-only", "-o", "follow=1"];
    let mount = |reader: &Vault, url: &str, words: &[&str]| {
        let mut command = reader.dripfs(["mount", "--background", "--state"]);
        run(command.arg(reader.state()).args(words).arg(url).arg(reader.mountpoint()))
    };
    let refused = mount(&reader, &url, &[]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(2) && text.contains("--read-only"), "{text}");
    assert_eq!(mount(&reader, &format!("{url}nothing"), &read_only).status.code(), Some(10));
    reader.follow(&reader_of(&url), &read_only[1..]);
    assert!(read_tree(&reader.mountpoint()) == made, "over http it is another tree");
    assert_eq!(fs::write(reader.mountpoint().join("x"), b"x").unwrap_err().raw_os_error(), Some(libc::EROFS));
    // It follows, by asking for the next name.
    writer.mount();
    fs::write(writer.mountpoint().join("more"), b"more").unwrap();
    writer.sync();
    super::common::wait_until("the new file is seen", || reader.mountpoint().join("more").exists());
    reader.umount();
    // Without the hint the log is read from its beginning, while that stands; else the one who mounts is told.
    writer.umount();
    fs::remove_file(served.join("latest")).unwrap();
    reader.follow(&reader_of(&url), &read_only[1..]);
    assert!(reader.mountpoint().join("more").exists());
    reader.umount();
    let first = fs::read_dir(served.join("log")).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    fs::remove_file(first).unwrap();
    reader.move_to_machine("fresh");
    let refused = mount(&reader, &url, &read_only);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && text.contains("`latest`") && text.contains("unmount"), "{text}");
}

/// Only for its URL.
fn reader_of(url: &str) -> Vault {
    let none: [(&str, &str); 0] = [];
    Vault::at(url, none).expect("mounts work here")
}

/// No vault may be made where create-if-absent overwrites, and nothing is left behind.
fn refused_by_probe(environment: Vec<(String, String)>) {
    let Some(vault) = Vault::at("s3://box/x", environment) else { return };
    for words in [vec!["init"], vec!["mount", "--init"]] {
        let mut command = vault.dripfs(words.iter().copied());
        command.args(["--kdf-memory", "64", "--state"]).arg(vault.state()).arg(vault.url());
        if words[0] == "mount" {
            command.arg(vault.mountpoint());
        }
        let output = run(&mut command);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("overwrites objects") && text.contains("conditional puts"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn s3rver_overwrites_and_is_refused() {
    let Some(program) = tool("node/node_modules/.bin/s3rver") else { return };
    let port = free_port();
    let mut command = Command::new(program);
    command.args(["-d", ".", "-a", "127.0.0.1", "-p", &port.to_string()]);
    let server = Server::start(fresh_directory(), port, &mut command);
    refused_by_probe(server.s3("S3RVER", "S3RVER"));
}

#[test]
fn juicefs_gateway_overwrites_and_is_refused() {
    let Some(program) = tool("python/bin/juicefs") else { return };
    let (dir, port) = (fresh_directory(), free_port());
    let mut format = Command::new(&program);
    format.current_dir(&dir).args(["format", "--storage", "file", "--bucket", "objects", "sqlite3://m.db", "box"]);
    succeed(&mut format);
    let mut command = Command::new(&program);
    command.env("MINIO_ROOT_USER", "the-user").env("MINIO_ROOT_PASSWORD", "the-password");
    command.args(["gateway", "--no-usage-report", "--cache-dir", "memory", "sqlite3://m.db"]);
    let server = Server::start(dir, port, command.arg(format!("127.0.0.1:{port}")));
    refused_by_probe(server.s3("the-user", "the-password"));
}
