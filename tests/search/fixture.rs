//! Trees to search, and how they are asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{Vault, run, succeed};

/// The cheapest passphrase KDF that is accepted.
pub const CHEAP: [&str; 2] = ["--kdf-memory", "64"];

/// A new vault, mounted with these options of `-o` (none: "").
pub fn mounted(options: &str) -> Option<Vault> {
    let mut vault = Vault::new()?;
    let mut words = CHEAP.to_vec();
    if !options.is_empty() {
        words.extend(["-o", options]);
    }
    vault.mount_with(&words);
    Some(vault)
}

/// The source of this project, with more beside it: long lines, no line end at the end, an empty file, binary files, names
/// that are awkward, links.
pub fn fill(dir: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["src", "man", "README.md", "Cargo.toml"] {
        succeed(Command::new("cp").arg("-a").arg(source.join(name)).arg(dir));
    }
    let odd = dir.join("odd: names");
    fs::create_dir_all(odd.join("a b/%2F")).expect("directories");
    let write = |name: &str, bytes: &[u8]| fs::write(odd.join(name), bytes).expect("a file");
    write("no line end", b"first fn\nlast fn without a line end");
    write("empty", b"");
    write("blank lines", b"\n\n\nfn\n\n");
    write("crlf", b"fn one\r\nfn two\r\n");
    write("utf-8", "Grüße, fn Öl, ΑΒΓ αβγ\nstraße\n".as_bytes());
    write("a b/%2F/percent", b"100% fn\na/b/c fn\n");
    write("long", format!("{} fn {}\nshort fn\n", "x".repeat(700_000), "y".repeat(400_000)).as_bytes());
    write("binary", b"fn\0fn\n");
    write("numbers", (0..60_000u64).map(|n| format!("{n} {}\n", n * n)).collect::<String>().as_bytes());
    fs::hard_link(odd.join("crlf"), odd.join("hard link")).expect("a link");
    std::os::unix::fs::symlink("crlf", odd.join("symlink")).expect("a symlink");
    std::os::unix::fs::symlink("..", odd.join("loop")).expect("a symlink");
}

/// The room's file for a pattern: slashes and percent signs are spelled.
pub fn room(dir: &Path, pattern: &str) -> PathBuf {
    dir.join(".search").join(pattern.replace('%', "%25").replace('/', "%2F"))
}

pub fn ask(dir: &Path, pattern: &str) -> String {
    let path = room(dir, pattern);
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    String::from_utf8(bytes).expect("UTF-8")
}

/// What grep prints, in the order of the paths' bytes. Lines of one file keep theirs.
pub fn grep(dir: &Path, options: &[&str], pattern: &str) -> String {
    let mut command = Command::new("grep");
    command.args(["-rnE"]).args(options).arg("-e").arg(pattern).current_dir(dir).env("LC_ALL", "C.UTF-8");
    let output = run(&mut command);
    assert!(output.status.code() < Some(2), "{pattern}: {}", String::from_utf8_lossy(&output.stderr));
    sorted(&String::from_utf8(output.stdout).expect("UTF-8"))
}

/// Lines `path:line:text`, in the order of paths and line numbers.
pub fn sorted(text: &str) -> String {
    let key = |line: &str| {
        // A path of ours may hold ": ", but no colon before a number.
        let digits = |part: &str| part.parse::<u64>().ok();
        let mut at = 0;
        while let Some(colon) = line[at..].find(':').map(|colon| at + colon) {
            let rest = &line[colon + 1..];
            if let Some(number) = rest.split_once(':').and_then(|(number, _)| digits(number)) {
                return (line[..colon].to_owned(), number);
            }
            at = colon + 1;
        }
        (line.to_owned(), 0)
    };
    // Not lines(): that would take carriage returns away.
    let mut lines: Vec<&str> = text.split_terminator('\n').collect();
    lines.sort_by_cached_key(|line| key(line));
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

/// `dripfs search`, in a directory.
pub fn search(vault: &Vault, dir: &Path, words: &[&str]) -> (Option<i32>, String, String) {
    let output: Output = run(vault.dripfs(["search"]).args(words).current_dir(dir));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// GETs that the mount has made.
pub fn gets(vault: &Vault) -> u64 {
    vault.status().pointer("/remote/get/requests").and_then(serde_json::Value::as_u64).expect("a number")
}

pub fn assert_same(found: &str, expected: &str, what: &str) {
    if found != expected {
        let differs = found.lines().zip(expected.lines()).find(|(a, b)| a != b);
        let short = |line: &str| line.chars().take(200).collect::<String>();
        let differs = differs.map(|(a, b)| (short(a), short(b)));
        let counts = (found.lines().count(), expected.lines().count());
        panic!("{what}: {counts:?} lines (found, expected), first that differ: {differs:?}");
    }
}
