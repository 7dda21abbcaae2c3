//! The manuals say what the program takes, and no more.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::common::{binary, run};

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(name);
    fs::read_to_string(path).unwrap().replace("\\-", "-")
}

fn help(words: &[&str]) -> String {
    let output = run(Command::new(binary()).args(words).arg("--help"));
    assert!(output.status.success(), "{words:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Subcommands that a help text lists.
fn commands(help: &str) -> Vec<String> {
    let list = help.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// `--word`s of a text.
fn options(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("--") {
        let before = text[..at].chars().next_back();
        let word: String = text[at + 2..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
        if word.len() > 1 && before.is_none_or(|c| !c.is_alphanumeric() && c != '-') {
            found.insert(format!("--{}", word.trim_end_matches('-')));
        }
    }
    found
}

#[test]
fn the_manual_has_every_command_and_option_and_no_other() {
    let manual = page("dripfs.1");
    let mut known = options(&help(&[]));
    for command in commands(&help(&[])) {
        assert!(manual.contains(&format!(".B dripfs {command}")), "SYNOPSIS lacks {command}");
        let text = help(&[&command]);
        known.extend(options(&text));
        for below in commands(&text) {
            assert!(manual.contains(&format!("\"{command} {below}")), "COMMANDS lacks {command} {below}");
            known.extend(options(&help(&[&command, &below])));
        }
    }
    let told = options(&manual);
    let missing: Vec<_> = known.difference(&told).collect();
    assert!(missing.is_empty(), "dripfs(1) lacks {missing:?}");
    let wrong: Vec<_> = told.difference(&known).collect();
    assert!(wrong.is_empty(), "dripfs(1) tells of {wrong:?}, which no command takes");
}

#[test]
fn the_manual_has_every_mount_option() {
    let manual = page("dripfs.1");
    let text = help(&["mount"]);
    let list = text.split("Options for -o").nth(1).unwrap().split("\n\n").next().unwrap();
    // What stands in two columns; the others are ends of lines that were too long.
    let entries = list.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| line.contains("  "));
    let names = entries.filter_map(|line| line.split([' ', '=', ',']).next());
    let names: Vec<&str> = names.filter(|name| !name.is_empty() && *name != "Words").collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        let setting = name.replace("STAGE_workers", "_workers");
        let ways = [format!("{setting}="), format!(".BR {name} "), format!(".B {name}\n"), format!("\" {name} ")];
        assert!(ways.iter().any(|way| manual.contains(way)), "{name}");
    }
}

#[test]
fn exit_codes_are_the_same_everywhere() {
    let text = help(&[]);
    let manual = page("dripfs.1");
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for code in [0, 1, 2, 10, 11, 12, 13, 14, 15] {
        assert!(text.contains(&format!("{code} ")), "--help: {code}");
        assert!(manual.contains(&format!("\n.B {code}\n")), "dripfs(1): {code}");
        assert!(readme.contains(&format!("\n| {code} |")), "README: {code}");
    }
}
