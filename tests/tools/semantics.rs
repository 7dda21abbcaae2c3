//! The examples of man/dripfs-semantics.7 run as they stand there; the power fails by a kill.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Vault, binary, succeed};

const CHEAP: [&str; 2] = ["--kdf-memory", "64"];

struct Example {
    level: &'static str,
    /// Any of these may be printed.
    prints: Vec<String>,
    script: Vec<String>,
}

fn examples() -> Vec<Example> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/dripfs-semantics.7")).expect("the page");
    let mut examples = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(said) = line.strip_prefix(r#".\" example "#) else { continue };
        let (level, prints) = said.split_once("prints:").expect("an example says what it prints");
        let level = ["remote", "async"].into_iter().find(|known| level.trim() == *known).unwrap_or("local");
        assert_eq!(lines.next(), Some(".EX"), "after: {line}");
        let script = lines.by_ref().take_while(|line| *line != ".EE").map(|line| line.replace(r"\-", "-")).collect();
        examples.push(Example { level, prints: prints.split('|').map(|it| it.trim().to_owned()).collect(), script });
    }
    assert_eq!(examples.len(), page.matches("\n.EX").count(), "each example says what it prints");
    examples
}

fn shell(dir: &Path, line: &str, vault: &Vault) -> String {
    let mut path = binary().parent().expect("a directory").as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-ec", line]).current_dir(dir).env("PATH", path).env("HOME", vault.root().join("home"));
    let output = succeed(&mut shell);
    String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_examples_of_the_manual_are_true() {
    for (n, example) in examples().iter().enumerate() {
        let Some(mut vault) = Vault::new() else { return };
        let level = ["--durability", example.level];
        vault.mount_with(&[CHEAP, level].concat());
        let dir = vault.mountpoint().join(format!("example-{n}"));
        fs::create_dir(&dir).expect("a directory");
        let mut said = String::new();
        let mut before = String::new();
        for line in &example.script {
            match line.as_str() {
                "# the power fails" | "# the machine is lost" => {
                    said = shell(&dir, &std::mem::take(&mut before), &vault);
                    vault.kill();
                    if line.contains("machine") {
                        fs::remove_dir_all(vault.state()).expect("nobody uses it");
                        vault.move_to_machine("another");
                    }
                    vault.mount_with(&[&CHEAP, &level, &["--takeover"][..]].concat());
                }
                line => before = format!("{before}{line}\n"),
            }
        }
        said = if before.is_empty() { said } else { shell(&dir, &before, &vault) };
        println!("{}\n=> {said}\n", example.script.join("\n"));
        assert!(
            example.prints.contains(&said),
            "{:?} printed {said:?}, not one of {:?}",
            example.script,
            example.prints
        );
        vault.umount();
    }
}
