//! Nothing that was written can be found in what the provider has, on the local disk, or in the log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{PASSPHRASE, Vault, run, succeed};
use crate::{CHEAP, files, sync};

/// Which of these words lie in any byte, or any name, of files below `dir`.
fn found(dir: &Path, words: &[Vec<u8>]) -> Vec<(PathBuf, String)> {
    let mut hits = Vec::new();
    for (path, _) in files(dir) {
        let Ok(mut bytes) = fs::read(&path) else { continue };
        bytes.extend_from_slice(path.strip_prefix(dir).expect("below it").as_os_str().as_encoded_bytes());
        for word in words {
            // memmem by glibc: a plain scan in an unoptimised test would take minutes.
            // SAFETY: both are valid for their lengths, and only read.
            let hit = unsafe { libc::memmem(bytes.as_ptr().cast(), bytes.len(), word.as_ptr().cast(), word.len()) };
            if !hit.is_null() {
                hits.push((path.clone(), String::from_utf8_lossy(word).into_owned()));
            }
        }
    }
    hits
}

/// The word, and as text of a dump would hold it.
fn disguises(word: &str) -> Vec<Vec<u8>> {
    let utf16 = word.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let hex = word.bytes().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes();
    vec![word.as_bytes().to_vec(), utf16, hex]
}

fn plant(dir: &Path, word: &str) {
    let path = |name: &str| dir.join(format!("{name}-name{word}"));
    fs::create_dir(path("dir")).expect("a directory");
    fs::write(path("small"), format!("content{word}")).expect("a write");
    fs::write(path("compressible"), format!("content{word} ").repeat(20_000)).expect("a write");
    let mut large = crate::noise(3 << 20);
    let text = format!("content{word}");
    for at in (0..large.len() - 100).step_by(4096) {
        large[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    fs::write(path("large"), &large).expect("a write");
    fs::File::open(path("large")).and_then(|file| file.sync_all()).expect("fsync");
    std::os::unix::fs::symlink(format!("target{word}"), path("symlink")).expect("a symlink");
    let mut setfattr = Command::new("setfattr");
    setfattr.args(["-n", &format!("user.xattr{word}"), "-v", &format!("value{word}")]);
    succeed(setfattr.arg(path("small")));
    // What a log might mention: errors, renames, removals.
    fs::rename(path("compressible"), dir.join(format!("dir-name{word}/renamed{word}"))).expect("a rename");
    assert!(fs::remove_dir(path("dir")).is_err(), "it is not empty");
    assert!(fs::read(path("missing")).is_err());
    fs::write(path("gone"), format!("content{word}")).expect("a write");
    fs::remove_file(path("gone")).expect("our own file");
}

fn assert_nothing(vault: &Vault, words: &[Vec<u8>], when: &str) -> u64 {
    let mut bytes = 0;
    for dir in [vault.remote(), vault.state().to_owned(), vault.root().join("home")] {
        let hits = found(&dir, words);
        assert!(hits.is_empty(), "{when}: {hits:?}");
        bytes += files(&dir).iter().map(|(_, len)| len).sum::<u64>();
    }
    bytes
}

#[test]
fn planted_words_are_in_no_byte_of_vault_state_or_log() {
    let Some(mut vault) = Vault::new() else { return };
    let word = format!("Xyzzy{:016x}", getrandom::u64().expect("the kernel has random bytes"));
    let mut words = disguises(&word);
    words.extend(disguises(PASSPHRASE));
    let recovery = |vault: &Vault| fs::read_to_string(vault.root().join("recovery")).expect("the recovery key");
    // Level info is what is logged when nothing is said.
    vault.mount_with(&CHEAP);
    words.extend(disguises(recovery(&vault).trim()));
    plant(&vault.mountpoint(), &word);
    // The search itself finds what is there to be found.
    assert!(found(&vault.mountpoint(), &words).len() >= 3, "the words were planted");
    let mut bytes = assert_nothing(&vault, &words, "while it is written");
    sync(&vault);
    bytes += assert_nothing(&vault, &words, "after sync");
    vault.kill();
    bytes += assert_nothing(&vault, &words, "after a crash");
    vault.mount_with(&CHEAP);
    assert!(found(&vault.mountpoint(), &words).len() >= 3, "all of it is there");
    bytes += assert_nothing(&vault, &words, "while it is read");
    vault.umount();
    bytes += assert_nothing(&vault, &words, "after umount");
    let log: Vec<_> = files(vault.state()).into_iter().filter(|(path, _)| path.ends_with("log")).collect();
    assert!(matches!(&log[..], [(path, 1..)] if !fs::read(path).expect("the log").is_empty()), "{log:?}");
    // grep says the same.
    for dir in [vault.remote(), vault.state().to_owned()] {
        let grep = run(Command::new("grep").args(["-r", "-a", "-l", "-F", &word]).arg(&dir));
        assert_eq!(grep.status.code(), Some(1), "{}", String::from_utf8_lossy(&grep.stdout));
    }
    println!("secrecy: {} spellings of words in no byte of {bytes} (vault, state directory, log at info)", words.len());
}
