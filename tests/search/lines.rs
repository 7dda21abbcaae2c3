//! An answer has the lines that `grep -rnE` prints.

use std::fs;

use crate::common::succeed;
use crate::fixture::{ask, assert_same, fill, grep, mounted, search};

/// Texts, classes, repetitions, anchors, alternatives, boundaries, beyond ASCII, slashes and percent signs, what is nowhere,
/// what is everywhere.
const PATTERNS: [&str; 52] = [
    "fn",
    "struct",
    "impl .* for",
    "^use ",
    "^use crate::",
    "\\{$",
    "^$",
    "^ *//!",
    "^[[:space:]]+fn ",
    "[[:upper:]]{4,}",
    "[0-9]+",
    "[0-9]{4}",
    "[0-9]{2,3}",
    "0x[0-9a-f]+",
    "a.c",
    "a.*z",
    "a|b",
    "Arc|Mutex|RwLock",
    "(pub|fn) (async )?",
    "(ab|cd)+",
    "\\bself\\b",
    "\\Bself",
    "self\\b",
    "\\<cache\\>",
    "\\w+_\\w+_\\w+",
    "\\W\\W\\W\\W",
    "\\s$",
    "[^ -~]",
    "[^[:print:]]",
    "Grüße",
    "[äöü]",
    "αβγ",
    "straße$",
    "without a line end$",
    "100%",
    "a/b/c",
    "https?://",
    "x{200}",
    "y{3}$",
    "\\.",
    "\\(\\)",
    "\\[|\\]",
    "\"[^\"]*\"",
    "'[a-z]'",
    "->",
    "=> \\{",
    "colou?r",
    "z+",
    "(a|e|i|o|u){3}",
    "no such line is anywhere here, nowhere",
    "",
    ".",
];

#[test]
fn fifty_patterns_find_the_same_lines_as_grep() {
    let Some(vault) = mounted("") else { return };
    let dir = vault.mountpoint();
    fill(&dir);
    assert_same(&ask(&dir, "struct"), &grep(&dir, &[], "struct"), "what was just written");
    vault.sync();
    assert_same(&ask(&dir, "(struct)"), &grep(&dir, &[], "struct"), "what is in the vault by now");
    // Out of memory, with all that was kept of searches, and back.
    succeed(vault.dripfs(["cache", "drop"]).arg(&dir));
    let answer = ask(&dir, "struct");
    let notes = answer.lines().filter(|line| line.starts_with("dripfs: partial: ")).count();
    assert!(notes > 0 && answer.lines().count() < grep(&dir, &[], "struct").lines().count() / 2, "{answer}");
    succeed(vault.dripfs(["cache", "warm"]).arg(&dir));
    for pattern in PATTERNS {
        // These are no names of files but in the prefix form.
        let name = if pattern.is_empty() || pattern == "." { format!("-:{pattern}") } else { pattern.to_owned() };
        assert_same(&ask(&dir, &name), &grep(&dir, &[], pattern), pattern);
    }
    let below = dir.join("src/cache");
    assert_same(&ask(&below, "fn"), &grep(&below, &[], "fn"), "below a directory");
    for (options, name) in [(&["-i"][..], "-i:arc"), (&["-w"], "-w:arc"), (&["-iw"], "-iw:ARC"), (&[], "-F:arc")] {
        assert_same(&ask(&dir, name), &grep(&dir, options, &name[name.len() - 3..]), name);
    }
    let glob = grep(&dir, &["--include=*.rs"], "fn");
    assert_same(&ask(&dir, "-g=*.rs:fn"), &glob, "a glob");
    assert_same(&ask(&dir, "-S:arc"), &grep(&dir, &["-i"], "arc"), "smart case without capitals");
    assert_same(&ask(&dir, "-S:Arc"), &grep(&dir, &[], "Arc"), "smart case with capitals");
}

#[test]
fn the_command_prints_and_exits_as_grep_does() {
    let Some(vault) = mounted("") else { return };
    let dir = vault.mountpoint();
    fill(&dir);
    let (code, out, err) = search(&vault, &dir, &["impl .* for"]);
    assert_eq!((code, &err[..]), (Some(0), ""));
    assert_same(&out, &grep(&dir, &[], "impl .* for"), "in the current directory");
    let (_, below, _) = search(&vault, &dir, &["impl .* for", "src/cache"]);
    let expected: String =
        grep(&dir.join("src/cache"), &[], "impl .* for").lines().map(|line| format!("src/cache/{line}\n")).collect();
    assert_same(&below, &expected, "in a directory that is named");
    for (words, pattern, options) in [
        (&["-i", "ARC"][..], "ARC", &["-i"][..]),
        (&["-s", "arc"], "arc", &["-i"]),
        (&["-s", "Arc"], "Arc", &[]),
        (&["-F", "fn()"], "fn\\(\\)", &[]),
        (&["-w", "arc"], "arc", &["-w"]),
        (&["a/b/c"], "a/b/c", &[]),
        (&["->"], "->", &[]),
        (&["--", "-i"], "-i", &[]),
        (&["100%"], "100%", &[]),
        (&["-g", "*.rs", "-g", "*.toml", "version"], "version", &["--include=*.rs", "--include=*.toml"]),
        (&["-g", "!*.rs", "version"], "version", &["--exclude=*.rs"]),
    ] {
        assert_same(&search(&vault, &dir, words).1, &grep(&dir, options, pattern), &format!("{words:?}"));
    }
    let (code, out, err) = search(&vault, &dir, &["no such line is anywhere"]);
    assert_eq!((code, &out[..], &err[..]), (Some(1), "", ""));
    let (code, out, err) = search(&vault, &dir, &["foo(bar"]);
    assert!(code == Some(2) && out.is_empty() && err.contains("unclosed group") && err.contains("^"), "{code:?} {err}");
    let (code, _, err) = search(&vault, vault.root(), &["x"]);
    assert!(code == Some(2) && err.contains("not on a drive"), "{code:?} {err}");
}

#[test]
fn files_and_json_tell_the_same() {
    let Some(vault) = mounted("") else { return };
    let dir = vault.mountpoint();
    fill(&dir);
    let lines = grep(&dir, &["--include=*.rs"], "Mutex");
    let mut files: Vec<&str> = lines.lines().filter_map(|line| line.split(':').next()).collect();
    files.dedup();
    let (code, out, _) = search(&vault, &dir, &["--files", "-g", "*.rs", "Mutex"]);
    assert_eq!((code, out.lines().collect::<Vec<_>>()), (Some(0), files.clone()));
    let (_, json, _) = search(&vault, &dir, &["--json", "-g", "*.rs", "Mutex", "src"]);
    let told: String = json
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .map(|value| {
            format!("{}:{}:{}\n", value["path"].as_str().unwrap(), value["line"], value["text"].as_str().unwrap())
        })
        .collect();
    assert_same(&told, &lines, "json");
    // Links to the same files, that lead there.
    let links = dir.join(".search/files").join("-g=*.rs:Mutex");
    let mut found: Vec<(String, String)> = fs::read_dir(&links)
        .expect("a directory")
        .map(|entry| {
            let entry = entry.expect("an entry");
            assert!(entry.file_type().expect("its type").is_symlink());
            let real = entry.path().canonicalize().expect("it resolves");
            let path = real.strip_prefix(dir.canonicalize().unwrap()).unwrap().to_str().unwrap().to_owned();
            (path, fs::read_to_string(entry.path()).expect("a file"))
        })
        .collect();
    found.sort();
    assert_eq!(found.iter().map(|(path, _)| &path[..]).collect::<Vec<_>>(), files);
    assert!(found.iter().all(|(path, text)| *text == fs::read_to_string(dir.join(path)).unwrap()));
    let below = dir.join("src/.search/all/files/Mutex");
    assert!(fs::read_dir(below).unwrap().all(|entry| entry.unwrap().path().canonicalize().unwrap().is_file()));
}

#[test]
fn a_bad_expression_is_einval() {
    let Some(vault) = mounted("") else { return };
    for name in ["foo(bar", "-x:foo", "[a-", "*"] {
        for room in [".search", ".search/all", ".search/files"] {
            let error = fs::metadata(vault.mountpoint().join(room).join(name)).expect_err(name);
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{room}/{name}");
        }
    }
}

#[test]
fn binary_files_are_skipped() {
    let Some(vault) = mounted("") else { return };
    let dir = vault.mountpoint();
    fs::write(dir.join("early"), b"fn one\nfn\0two\nfn three\n").unwrap();
    let mut late = b"fn before\n".repeat(20_000);
    late.extend_from_slice(b"fn in its line\0fn\nfn behind it\n");
    fs::write(dir.join("late"), &late).unwrap();
    fs::File::create(dir.join("hole")).unwrap().set_len(1 << 40).unwrap();
    let found = ask(&dir, "fn");
    assert!(found.lines().all(|line| line.starts_with("late:") && line.ends_with(":fn before")), "{found}");
    assert_eq!(found.lines().count(), 20_000);
}
