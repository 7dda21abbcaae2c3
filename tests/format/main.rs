//! The format as others see it: worked examples of the manual, and test vectors, good and bad.
//!
//! `DRIPFS_WRITE_VECTORS=1 cargo test --test format` writes tests/vectors/ anew; a change of what stands there is a
//! change of the format, and needs a reason.

mod examples;
mod make;
mod vector;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use vector::Vector;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn vector_files() -> BTreeMap<String, Vector> {
    let mut all = BTreeMap::new();
    for kind in ["good", "bad"] {
        let dir = root().join("tests/vectors").join(kind);
        for entry in std::fs::read_dir(&dir).expect("the vectors are there") {
            let path = entry.expect("a directory can be read").path();
            let name = format!("{kind}/{}", path.file_stem().and_then(|stem| stem.to_str()).expect("a plain name"));
            let text = std::fs::read_to_string(&path).expect("a vector can be read");
            all.insert(name.clone(), Vector::parse(&name, &text));
        }
    }
    all
}

#[test]
fn good_vectors_open_and_bad_ones_are_refused_with_the_right_error() {
    let vectors = vector_files();
    assert!(vectors.len() > 50, "{} vectors", vectors.len());
    for (name, vector) in vectors {
        let result = vector.open();
        assert_eq!(result, vector.get("result"), "{name}");
        assert_eq!(name.starts_with("good/"), result == "ok", "{name}: {result}");
    }
}

#[test]
fn this_program_still_makes_the_vectors_that_are_kept() {
    let path = |name: &str| -> PathBuf { root().join("tests/vectors").join(format!("{name}.txt")) };
    let made = make::all();
    if std::env::var_os("DRIPFS_WRITE_VECTORS").is_some() {
        for vector in &made {
            std::fs::create_dir_all(path(&vector.name).parent().expect("a vector lies in a directory")).unwrap();
            std::fs::write(path(&vector.name), vector.to_text()).unwrap();
        }
    }
    for vector in &made {
        let kept = std::fs::read_to_string(path(&vector.name)).unwrap_or_default();
        assert_eq!(kept, vector.to_text(), "{}", vector.name);
    }
    let kept: Vec<String> = vector_files().into_keys().collect();
    let mut names: Vec<String> = made.into_iter().map(|vector| vector.name).collect();
    names.sort();
    assert_eq!(kept, names);
}

/// Blocks of the manual that begin with the comment `example NAME`: lines `label = hex`, wrapped as the page needs.
fn manual_examples(page: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let (mut inside, mut label) = (String::new(), String::new());
    for line in page.lines() {
        if let Some(name) = line.strip_prefix(".\\\" example ") {
            inside = name.to_owned();
        } else if line == ".Ed" {
            inside.clear();
        } else if !inside.is_empty() && !line.starts_with('.') {
            let value = match line.split_once(" =") {
                Some((new, value)) => {
                    label = format!("{inside}: {}", new.trim());
                    value
                }
                None => line,
            };
            let value: String = value.split_whitespace().collect();
            all.entry(label.clone()).or_insert_with(String::new).push_str(&value.replace("\\-", "-"));
        }
    }
    all
}

#[test]
fn worked_examples_of_the_manual_are_what_the_code_makes() {
    let page = std::fs::read_to_string(root().join("man/dripfs-format.5")).expect("the manual is there");
    let manual = manual_examples(&page);
    let made: BTreeMap<String, String> = examples::all().into_iter().collect();
    if std::env::var_os("DRIPFS_PRINT_EXAMPLES").is_some() {
        made.iter().for_each(|(label, value)| println!("{label} = {value}"));
    }
    for (label, value) in &made {
        assert_eq!(manual.get(label), Some(value), "{label}");
    }
    assert_eq!(manual.keys().collect::<Vec<_>>(), made.keys().collect::<Vec<_>>());
}

#[test]
fn the_manual_formats_without_a_warning() {
    let page = root().join("man/dripfs-format.5");
    let man = Command::new("man")
        .env("MANWIDTH", "80")
        .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"])
        .arg(page)
        .output();
    match man {
        Ok(output) => {
            assert!(output.status.success());
            assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => eprintln!("SKIPPED: man is not installed"),
        Err(error) => panic!("{error}"),
    }
}
