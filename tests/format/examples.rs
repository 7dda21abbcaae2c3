//! The worked examples of dripfs-format(5): label and value, as the code makes them.

use dripfs::base::{Ino, ObjectId};
use dripfs::crypto::kdf;
use dripfs::crypto::secret::Key as SecretKey;
use dripfs::format::commit::{checkpoint_name, hash, log_name, segment_name};
use dripfs::format::key::Key;
use dripfs::format::object::{Kind, associated_data};
use dripfs::format::record::Record;

use super::make;
use super::vector::{hex, unhex};

pub fn all() -> Vec<(String, String)> {
    [keys(), names(), record_keys(), records(), frame(), object(), checkpoint(), header()]
        .into_iter()
        .flatten()
        .collect()
}

fn one(block: &str, label: &str, value: &[u8]) -> (String, String) {
    (format!("{block}: {label}"), hex(value))
}

fn keys() -> Vec<(String, String)> {
    let keys = make::keys();
    vec![
        one("keys", "master", &make::MASTER),
        one("keys", "vault id", &keys.vault.0),
        one("keys", "log", keys.log.as_bytes()),
        one("keys", "content", keys.content.as_bytes()),
        one("keys", "names", keys.names.as_bytes()),
        one("keys", "journal", keys.journal.as_bytes()),
        one("keys", "header", keys.header.as_bytes()),
    ]
}

fn names() -> Vec<(String, String)> {
    let keys = make::keys();
    vec![
        one("names", "dentry", &keys.dentry_hash(Ino::ROOT, b"hello.txt").to_be_bytes()),
        one("names", "xattr", &keys.xattr_hash(b"user.comment").to_be_bytes()),
    ]
}

fn record_keys() -> Vec<(String, String)> {
    vec![
        one("record keys", "inode", &Key::inode(make::FILE).to_bytes()),
        one("record keys", "map", &Key::map(make::FILE, 4096).to_bytes()),
        one("record keys", "dentry", &make::dentry_key().to_bytes()),
        one("record keys", "link", &make::link_key().to_bytes()),
        one("record keys", "extent", &Key::extent(make::EXTENT).to_bytes()),
        one("record keys", "segment", &Key::segment(make::SEGMENT).to_bytes()),
    ]
}

fn records() -> Vec<(String, String)> {
    let (extent, _) = make::small_extent();
    let mut change = Vec::new();
    make::change().encode(&mut change);
    vec![
        one("records", "inode", &make::encoded(&make::inode())),
        one("records", "head", &make::encoded(&make::head())),
        one("records", "dentry", &make::encoded(&make::dentry())),
        one("records", "extent", &make::encoded(&Record::Extent(extent))),
        one("records", "change", &change),
    ]
}

fn frame() -> Vec<(String, String)> {
    let (extent, sealed) = make::small_extent();
    let mut nonce = [0; 24];
    nonce[..16].copy_from_slice(&extent.nonce);
    nonce[23] = 1;
    vec![
        one("frame", "key id", &extent.key_id),
        one("frame", "file key", make::keys().file_key(&extent.key_id).as_bytes()),
        one("frame", "nonce", &nonce),
        one("frame", "plaintext", b"hello"),
        one("frame", "sealed", &sealed),
    ]
}

fn object() -> Vec<(String, String)> {
    let (keys, log) = (make::keys(), make::epoch());
    let name = log_name(log.sequence);
    let sealed = log.seal(&keys, &make::random()).expect("it fits");
    let vector = make::object("", Kind::Log, &name, 0, &sealed);
    vec![
        one("object", "associated data", &associated_data(&keys.vault, Kind::Log, &name)),
        one("object", "nonce", &sealed[..24]),
        one("object", "content", &unhex(vector.get("content"))),
        one("object", "first", &sealed[24..56]),
        one("object", "tag", &sealed[66_544..]),
        one("object", "hash", &hash(&sealed)),
    ]
}

fn checkpoint() -> Vec<(String, String)> {
    let (keys, random, id) = (make::keys(), make::random(), ObjectId([0xcc; 16]));
    let content = |kind, name: &str, object: Option<Vec<u8>>| {
        let vector = make::object("", kind, name, 0, &object.expect("it fits"));
        unhex(vector.get("content"))
    };
    let manifest = make::manifest().seal(&keys, &random, id);
    let (chain, counts) = (make::chain_run(&keys, &random), make::segment_counts(&keys, &random));
    vec![
        one("checkpoint", "manifest", &content(Kind::Manifest, &checkpoint_name(id), manifest)),
        one("checkpoint", "chain run", &content(Kind::Chain, &segment_name(id), chain)),
        one("checkpoint", "table", &content(Kind::Counts, &segment_name(id), counts)),
    ]
}

fn header() -> Vec<(String, String)> {
    let (object, recovery, master) = make::header();
    let kek = kdf::argon2id(b"correct horse", &[3; 32], 65_536, 1, 1).expect("the floor is a cost");
    let recovery_kek = kdf::derive("dripfs 2026 recovery", &SecretKey::from_bytes([2; 32]));
    vec![
        one("header", "master", master.as_bytes()),
        one("header", "salt", &[3; 32]),
        one("header", "KEK", kek.as_bytes()),
        one("header", "recovery key", &[2; 32]),
        ("header: text".to_owned(), recovery),
        one("header", "recovery KEK", recovery_kek.as_bytes()),
        one("header", "object", &object),
    ]
}

/// Ids print as they stand in names.
#[test]
fn names_of_objects_are_what_the_manual_says() {
    assert_eq!(segment_name(ObjectId([0xab; 16])), "segments/ab/abababababababababababababababab");
    assert_eq!(checkpoint_name(ObjectId([0xab; 16])), "checkpoint/abababababababababababababababab");
    assert_eq!(log_name(dripfs::base::Sequence(9)), "log/00000000000000000009");
    assert_eq!(dripfs::format::header::header_name(1), "header/00000000000000000001");
}
