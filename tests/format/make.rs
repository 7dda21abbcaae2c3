//! Makes the vectors: from random bytes that are none, so that they come out the same each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use dripfs::base::random::Source;
use dripfs::base::{Epoch, ExtentId, FileId, Ino, ObjectId, Position, Random, Sequence, Timestamp};
use dripfs::crypto::aead;
use dripfs::crypto::secret::{Key as SecretKey, Passphrase};
use dripfs::format::change::{Change, Note};
use dripfs::format::checkpoint::table::{SegmentCount, seal_chain, seal_counts};
use dripfs::format::checkpoint::{ChainRun, Manifest, RunRef, Swept, Totals};
use dripfs::format::commit::{BlockRef, Body, ChainLink, Commit, CommitPart, LogObject, hash, log_name, seal_part};
use dripfs::format::commit::{checkpoint_name, segment_name};
use dripfs::format::extent;
use dripfs::format::header::{Cost, Header};
use dripfs::format::hint::Hint;
use dripfs::format::key::Key;
use dripfs::format::keys::Keys;
use dripfs::format::object::{Kind, associated_data};
use dripfs::format::record::{Dentry, Extent, Head, Inode, Link, Piece, Place, Record, Segment, Xattr};

use super::vector::Vector;

/// The k-th request for random bytes gets bytes that are all k.
struct Counting(AtomicU8);

impl Source for Counting {
    fn fill(&self, out: &mut [u8]) {
        out.fill(self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
    }
}

pub fn random() -> Random {
    Random::Simulated(Arc::new(Counting(AtomicU8::new(0))))
}

pub const MASTER: [u8; 32] = [0x01; 32];

pub fn keys() -> Keys {
    Keys::from_master(&SecretKey::from_bytes(MASTER))
}

pub const FILE: Ino = Ino(0x100_0000_0001);
pub const EXTENT: ExtentId = ExtentId { owner: FILE, number: 0x100_0000_0002 };
pub const SEGMENT: ObjectId = ObjectId([0xaa; 16]);
const TIME: Timestamp = Timestamp { secs: 1_790_000_000, nanos: 500 };

pub fn inode() -> Record {
    Record::Inode(Inode {
        mode: 0o100644,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        nlink: 1,
        atime: TIME,
        mtime: TIME,
        ctime: TIME,
        btime: Timestamp { secs: -1, nanos: 999_999_999 },
        target: None,
        extra: None,
    })
}

pub fn head() -> Record {
    let piece = Piece { offset: 0, len: 5, extent: EXTENT, start: 0 };
    Record::Head(Head {
        size: 5,
        atime: TIME,
        mtime: TIME,
        ctime: TIME,
        position: Position(7),
        pieces: vec![piece],
        spilled: false,
        extra: None,
    })
}

pub fn dentry() -> Record {
    Record::Dentry(Dentry { name: b"hello.txt"[..].into(), ino: FILE, kind: 0o100000, extra: None })
}

pub fn dentry_key() -> Key {
    Key::dentry(Ino::ROOT, keys().dentry_hash(Ino::ROOT, b"hello.txt"), 0)
}

pub fn link_key() -> Key {
    Key::link(FILE, Ino::ROOT, keys().dentry_hash(Ino::ROOT, b"hello.txt"), 0)
}

pub fn placed(extent: Extent) -> Extent {
    Extent { place: Place::Segment { id: SEGMENT, offset: 4096 }, ..extent }
}

/// Five bytes sealed with the first random bytes as nonce.
pub fn small_extent() -> (Extent, Vec<u8>) {
    let (extent, bytes) = extent::seal(&keys(), &random(), [0xbb; 16], b"hello", false);
    (placed(extent), bytes)
}

pub fn encoded(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.encode(&mut out);
    out
}

fn good_records() -> Vec<(&'static str, Key, Record)> {
    let spilled = match head() {
        Record::Head(head) => Record::Head(Head { pieces: vec![], spilled: true, size: 1 << 40, ..head }),
        _ => unreachable!("head() is a head"),
    };
    let symlink = match inode() {
        Record::Inode(inode) => Record::Inode(Inode {
            mode: 0o120777,
            target: Some(b"../target"[..].into()),
            extra: Some([(0, Box::from([0xa1, 0x18, 0x1e, 0x81, 0x05])), (30, Box::from([0x00]))].into()),
            ..inode
        }),
        _ => unreachable!("inode() is an inode"),
    };
    let (extent, _) = small_extent();
    let compressed = Extent {
        len: 300_000,
        stored: 200_032 + 1000,
        frame_log2: 17,
        frames: vec![100_000, 100_000, 1032],
        ..extent.clone()
    };
    let inline = Extent { place: Place::Inline { sequence: Sequence(9), offset: 21 }, ..extent.clone() };
    let value = Xattr { name: b"user.comment"[..].into(), value: b"hi"[..].into(), extra: None };
    let piece = Piece { offset: 1 << 32, len: 4096, extent: EXTENT, start: 8192 };
    vec![
        ("inode", Key::inode(FILE), inode()),
        ("inode-symlink-with-later-fields", Key::inode(FILE), symlink),
        ("head", Key::head(FILE), head()),
        ("head-spilled", Key::head(FILE), spilled),
        ("map", Key::map(FILE, 1 << 32), Record::Map(piece)),
        ("xattr", Key::xattr(FILE, keys().xattr_hash(b"user.comment"), 0), Record::Xattr(value)),
        ("link", link_key(), Record::Link(Link::default())),
        ("dentry", dentry_key(), dentry()),
        ("extent-in-segment", Key::extent(EXTENT), Record::Extent(extent)),
        ("extent-inline", Key::extent(EXTENT), Record::Extent(inline)),
        ("extent-compressed", Key::extent(EXTENT), Record::Extent(compressed)),
        ("segment", Key::segment(SEGMENT), Record::Segment(Segment { len: 133_120, extra: None })),
        ("kind-of-a-later-version", later_key(), Record::Other([0xa1, 0x01, 0x02].into())),
    ]
}

fn later_key() -> Key {
    Key::decode(&[0, 0, 1, 0, 0, 0, 0, 1, 100, 7]).expect("kinds below 128 may be unknown")
}

pub fn change() -> Change {
    let mut change = Change::default();
    change.put(Key::inode(FILE), inode());
    change.put(dentry_key(), dentry());
    change.records.push((Key::head(Ino(2)), None));
    change
}

pub fn log_object(body: Body) -> LogObject {
    LogObject {
        sequence: Sequence(9),
        previous: [0x08; 32],
        epoch: Epoch(2),
        header: (1, [0x0a; 32]),
        checkpoint: (ObjectId([0x0b; 16]), [0x0c; 32]),
        block: Some(BlockRef { file: FileId([0x0d; 16]), position: Position(40), tag: [0x0e; 16] }),
        host: "laptop".into(),
        time: TIME,
        body,
    }
}

pub fn epoch() -> LogObject {
    log_object(Body::Epoch { writer: [0x0f; 16] })
}

fn commit() -> LogObject {
    let mut records = good_records();
    records.sort_by_key(|(_, key, _)| *key);
    records.dedup_by_key(|(_, key, _)| *key);
    log_object(Body::Commit(Commit {
        cut: Position(40),
        idle: true,
        records: records.into_iter().map(|(_, key, record)| (key, Some(Arc::new(record)))).collect(),
        parts: vec![CommitPart { id: ObjectId([0xcc; 16]), len: 66_560, hash: [0xcd; 32] }],
        inline: vec![0xdd; 42].into(),
        dead: vec![ObjectId([0xee; 16])],
    }))
}

/// Takes a sealed object apart.
pub fn object(name: &str, kind: Kind, place: &str, clear: usize, object: &[u8]) -> Vector {
    let keys = keys();
    let (nonce, sealed) = object[clear..].split_first_chunk::<24>().expect("an object has a nonce");
    let plain = aead::open(&keys.log, nonce, &associated_data(&keys.vault, kind, place), sealed).expect("it opens");
    let len = u32::from_be_bytes(plain[..4].try_into().expect("four bytes")) as usize;
    let vector = Vector::new(name, "object").hex("master", &MASTER).with("object-kind", kind as u8);
    let vector = vector.with("name", place).hex("clear", &object[..clear]).hex("nonce", nonce);
    vector.hex("content", &plain[4..4 + len])
}

pub fn manifest() -> Manifest {
    let id = ObjectId([0xcc; 16]);
    let object = |byte: u8| CommitPart { id: ObjectId([byte; 16]), len: 66_560, hash: [byte + 1; 32] };
    let run = RunRef { id, len: 66_560, hash: [0xcd; 32], first: Key::inode(Ino(1)), last: Key::head(FILE) };
    Manifest {
        sequence: Sequence(8),
        hash: [0x08; 32],
        levels: vec![vec![run]],
        cut: Position(40),
        commit: Some(ChainLink { sequence: Sequence(7), hash: [0x07; 32] }),
        epoch: Epoch(2),
        totals: Totals { inodes: 2, bytes: 5, highest: FILE },
        chain: vec![ChainRun { object: object(0xc1), first: Sequence(1), count: 8 }],
        swept: Some(Swept { sequence: Sequence(6), counts: vec![object(0xc3)] }),
    }
}

pub fn chain_run(keys: &Keys, random: &Random) -> Option<Vec<u8>> {
    seal_chain(keys, random, ObjectId([0xcc; 16]), Sequence(1), &[[0x11; 32], [0x22; 32]])
}

pub fn segment_counts(keys: &Keys, random: &Random) -> Option<Vec<u8>> {
    let count = SegmentCount { id: SEGMENT, live: 21, total: 66_560 };
    seal_counts(keys, random, ObjectId([0xcc; 16]), &[count])
}

fn good_objects() -> Vec<Vector> {
    let (keys, random, id) = (keys(), random(), ObjectId([0xcc; 16]));
    let log = log_name(Sequence(9));
    let run = change().records;
    let mut run = run;
    run.sort_by_key(|(key, _)| *key);
    let manifest = manifest();
    let hint = Hint { header: 1, sequence: Sequence(9), checkpoint: id };
    let seal = |object: Option<Vec<u8>>| object.expect("it fits the smallest class");
    let made = [
        ("good/log-commit", Kind::Log, log.clone(), 0, seal(commit().seal(&keys, &random))),
        ("good/log-epoch", Kind::Log, log, 0, seal(epoch().seal(&keys, &random))),
        ("good/part", Kind::Part, segment_name(id), 0, seal(seal_part(&keys, &random, id, &run))),
        ("good/manifest", Kind::Manifest, checkpoint_name(id), 0, seal(manifest.seal(&keys, &random, id))),
        (
            "good/manifest-empty",
            Kind::Manifest,
            checkpoint_name(id),
            0,
            seal(Manifest::default().seal(&keys, &random, id)),
        ),
        ("good/hint", Kind::Hint, "latest".to_owned(), 8, hint.seal(&keys, &random)),
        ("good/chain-run", Kind::Chain, segment_name(id), 0, seal(chain_run(&keys, &random))),
        ("good/segment-counts", Kind::Counts, segment_name(id), 0, seal(segment_counts(&keys, &random))),
    ];
    made.iter()
        .map(|(name, kind, place, clear, bytes)| {
            object(name, *kind, place, *clear, bytes).hex("hash", &hash(bytes)).result("ok")
        })
        .collect()
}

/// A log object with this content, sealed by somebody who has the key.
fn forged(name: &str, content: &[u8]) -> Vector {
    let vector = Vector::new(name, "object").hex("master", &MASTER).with("object-kind", 1);
    vector.with("name", log_name(Sequence(9))).hex("nonce", &[9; 24]).hex("content", content)
}

fn bad_objects() -> Vec<Vector> {
    let random = random();
    let good = epoch().seal(&keys(), &random).expect("it fits");
    let content = {
        let vector = object("", Kind::Log, &log_name(Sequence(9)), 0, &good);
        super::vector::unhex(vector.get("content"))
    };
    let with = |count: u8, tail: &[u8]| [&[count], &content[1..], tail].concat();
    let log = |name: &str| forged(name, &content);
    let unauthentic = "log object does not authenticate: it was changed, or is not of this vault";
    let malformed = |why: &str| format!("log object is malformed: {why}");
    let length = malformed("its length is none that an object of a vault can have");
    let records = |run: &[u8]| {
        // The fields of the commit without records, then its records.
        let commit = LogObject { body: Body::Commit(Commit { idle: true, ..Commit::default() }), ..epoch() };
        let sealed = commit.seal(&keys(), &random).expect("it fits");
        let vector = object("", Kind::Log, &log_name(Sequence(9)), 0, &sealed);
        let content = super::vector::unhex(vector.get("content"));
        [&[content[0] + 1], &content[1..], &[0x0c], run].concat()
    };
    let entry = |ino: u8| [&[0x49, 0, 0, 0, 0, 0, 0, 0, ino, 2][..], &[0xf6]].concat();
    vec![
        log("bad/log-one-bit-of-the-nonce-flipped").with("flip", 0).result(unauthentic),
        log("bad/log-one-bit-flipped").with("flip", 100).result(unauthentic),
        log("bad/log-one-bit-of-the-padding-flipped").with("flip", 60_000).result(unauthentic),
        log("bad/log-one-bit-of-the-tag-flipped").with("flip", 66_559).result(unauthentic),
        log("bad/log-under-another-number").with("opened-as", log_name(Sequence(10))).result(unauthentic),
        log("bad/log-as-a-checkpoint")
            .with("opened-as", "checkpoint/cccccccccccccccccccccccccccccccc")
            .result("checkpoint manifest does not authenticate: it was changed, or is not of this vault"),
        log("bad/log-cut-short").with("length", 66_559).result(&length),
        log("bad/log-empty").with("length", 0).result(&length),
        log("bad/log-grown-by-a-class").with("length", 133_120).result(unauthentic),
        log("bad/log-padded-too-far")
            .with("class", 133_120)
            .result(malformed("it is padded to a larger class than it needs")),
        log("bad/log-padding-is-not-zeros").with("padding", "01").result(malformed("its padding is not zeros")),
        log("bad/log-stated-length-beyond-the-object")
            .with("stated", 66_600)
            .result(malformed("its content is longer than the object")),
        log("bad/log-stated-length-short")
            .with("stated", content.len() - 1)
            .result(malformed("its padding is not zeros")),
        forged("bad/log-without-fields", &[0xa0]).result(malformed("a field is missing")),
        forged("bad/log-with-indefinite-map", &[0xbf, 0xff]).result(malformed("a CBOR length is indefinite")),
        forged("bad/log-bytes-after-its-end", &with(0xa9, &[0])).result(malformed("bytes follow its end")),
        forged("bad/log-both-epoch-and-commit", &with(0xaa, &[0x0a, 0x00]))
            .result(malformed("it is both an epoch record and a commit")),
        forged("bad/log-field-that-it-cannot-have", &with(0xaa, &[0x17, 0x00]))
            .result(malformed("it has a field that it cannot have")),
        forged("bad/log-field-that-must-be-understood", &with(0xaa, &[0x18, 0x80, 0x00]))
            .result("log object has version 128, which is newer than this program; use a newer dripfs"),
        forged("bad/commit-records-out-of-order", &records(&[&[0x84][..], &entry(2), &entry(1)].concat()))
            .result(malformed("the keys of a run are not in rising order")),
        forged("bad/commit-a-key-twice", &records(&[&[0x84][..], &entry(1), &entry(1)].concat()))
            .result(malformed("the keys of a run are not in rising order")),
        forged("bad/commit-extent-without-a-place", &records(&[&[0x82][..], &local_extent()].concat()))
            .result(malformed("an extent has no place in the vault")),
    ]
}

/// A manifest, chain run or table of counts with this content, sealed by somebody who has the key.
fn forged_as(name: &str, kind: Kind, content: &[u8]) -> Vector {
    let id = ObjectId([0xcc; 16]);
    let place = if kind == Kind::Manifest { checkpoint_name(id) } else { segment_name(id) };
    let vector = Vector::new(name, "object").hex("master", &MASTER).with("object-kind", kind as u8);
    vector.with("name", place).hex("nonce", &[9; 24]).hex("content", content)
}

fn bad_checkpoints() -> Vec<Vector> {
    let manifest = |name: &str, manifest: Manifest, why: &str| {
        let sealed = manifest.seal(&keys(), &random(), ObjectId([0xcc; 16])).expect("it fits");
        let vector = object("", Kind::Manifest, &checkpoint_name(ObjectId([0xcc; 16])), 0, &sealed);
        forged_as(name, Kind::Manifest, &super::vector::unhex(vector.get("content")))
            .result(format!("checkpoint manifest is malformed: {why}"))
    };
    let whole = self::manifest();
    let gap = ChainRun { first: Sequence(2), count: 7, ..whole.chain[0] };
    let short = ChainRun { count: 7, ..whole.chain[0] };
    let commit = Some(ChainLink { sequence: Sequence(9), hash: [0x09; 32] });
    let beyond = "it tells of more than it covers";
    let field = |number: u8, content: &[u8]| {
        let empty = [&[0xa3, 0x01, 0x00, 0x02, 0x58, 32][..], &[0; 32], &[number], content].concat();
        forged_as(&format!("bad/manifest-field-{number}-at-its-default"), Kind::Manifest, &empty)
            .result("checkpoint manifest is malformed: a field at its default is left out")
    };
    let id = |byte: u8| [&[0x50][..], &[byte; 16]].concat();
    let counts = [&[0x86][..], &id(2), &[1, 2], &id(1), &[1, 2]].concat();
    vec![
        manifest("bad/manifest-chain-with-a-gap", Manifest { chain: vec![gap], ..whole.clone() }, {
            "its hashes of the log have a gap"
        }),
        manifest("bad/manifest-chain-too-short", Manifest { chain: vec![short], ..whole.clone() }, {
            "its hashes of the log do not end where it does"
        }),
        manifest("bad/manifest-commit-beyond-it", Manifest { commit, ..whole.clone() }, beyond),
        manifest("bad/manifest-cut-without-commit", Manifest { commit: None, ..whole }, beyond),
        field(3, &[0x80]),
        field(4, &[0x00]),
        field(6, &[0x00]),
        field(7, &[0x83, 0x00, 0x00, 0x00]),
        field(8, &[0x80]),
        forged_as("bad/chain-run-of-no-hash", Kind::Chain, &[0x82, 0x01, 0x40])
            .result("chain run is malformed: it holds no whole number of hashes"),
        forged_as("bad/chain-run-of-half-a-hash", Kind::Chain, &[&[0x82, 0x01, 0x50][..], &[7; 16]].concat())
            .result("chain run is malformed: it holds no whole number of hashes"),
        forged_as("bad/segment-counts-falling", Kind::Counts, &counts)
            .result("table of segments is malformed: its ids are not in rising order"),
        forged_as("bad/segment-counts-without-total", Kind::Counts, &[&[0x82][..], &id(1), &[0x01]].concat())
            .result("table of segments is malformed: it is empty, or ends within an entry"),
    ]
}

fn local_extent() -> Vec<u8> {
    let local = Extent { place: Place::Local, ..small_extent().0 };
    [&[0x51][..], &Key::extent(EXTENT).to_bytes(), &encoded(&Record::Extent(local))].concat()
}

fn bad_keys() -> Vec<Vector> {
    let key = |name: &str, bytes: &[u8], why: &str| {
        Vector::new(&format!("bad/key-{name}"), "key").hex("bytes", bytes).result(why)
    };
    vec![
        key("too-short", &[0; 8], "key is malformed: it is too short"),
        key("too-long", &[0, 0, 0, 0, 0, 0, 0, 1, 1, 0], "key is malformed: it is too long"),
        key("kind-zero", &[0, 0, 0, 0, 0, 0, 0, 1, 0], "key is malformed: there is no kind 0"),
        key(
            "top-bit-of-inode",
            &[0x80, 0, 0, 0, 0, 0, 0, 1, 1],
            "key is malformed: its inode number has the top bit set",
        ),
        key(
            "kind-that-must-be-understood",
            &[0, 0, 0, 0, 0, 0, 0, 1, 128],
            "record kind has version 128, which is newer than this program; use a newer dripfs",
        ),
    ]
}

fn bad_records() -> Vec<Vector> {
    let record = |name: &str, key: &Key, bytes: &[u8], why: &str| {
        let vector = Vector::new(&format!("bad/record-{name}"), "record").hex("key", &key.to_bytes());
        vector.hex("bytes", bytes).result(why)
    };
    let malformed =
        |name: &str, bytes: &[u8], why: &str| record(name, &link_key(), bytes, &format!("record is malformed: {why}"));
    let newer = "record has version 128, which is newer than this program; use a newer dripfs";
    let frames = Extent { stored: 22, ..small_extent().0 };
    vec![
        malformed("bytes-after-its-end", &[0xa0, 0x00], "bytes follow its end"),
        malformed("head-longer-than-it-must-be", &[0xb8, 0x00], "a CBOR head is longer than it must be"),
        malformed("indefinite-map", &[0xbf, 0xff], "a CBOR length is indefinite"),
        malformed("field-twice", &[0xa2, 0x18, 30, 0, 0x18, 30, 0], "fields are not in rising order"),
        malformed("fields-falling", &[0xa2, 0x18, 31, 0, 0x18, 30, 0], "fields are not in rising order"),
        malformed("field-that-it-cannot-have", &[0xa1, 0x01, 0x00], "it has a field that it cannot have"),
        malformed("empty-references", &[0xa1, 0x00, 0xa0], "the list of references is empty"),
        malformed("float", &[0xa1, 0x18, 30, 0xf9, 0, 0], "it holds a kind of CBOR item that this format does not use"),
        malformed(
            "string-longer-than-it",
            &[0xa1, 0x18, 30, 0x5a, 0xff, 0xff, 0xff, 0xff],
            "not the CBOR item that belongs there",
        ),
        malformed("more-items-than-bytes", &[0xa1, 0x18, 30, 0x9a, 0xff, 0xff, 0xff, 0xff], "there are too many items"),
        record("field-that-must-be-understood", &link_key(), &[0xa1, 0x18, 0x80, 0], newer),
        record(
            "map-with-a-later-field",
            &Key::map(FILE, 0),
            &[0xa3, 0x00, 0xa1, 0x0d, 0x81, 0x82, 0x05, 0x09, 0x0d, 0x82, 0x0a, 0x00, 0x18, 30, 0x00],
            "map record has version 30, which is newer than this program; use a newer dripfs",
        ),
        record(
            "extent-sealed-length-does-not-fit",
            &Key::extent(EXTENT),
            &encoded(&Record::Extent(frames)),
            "extent is malformed: its sealed length does not fit",
        ),
    ]
}

fn extents() -> Vec<Vector> {
    let plain: Vec<u8> = (0..20_000u32).map(|k| (k % 251) as u8).collect();
    let (two, sealed) = extent::seal(&keys(), &random(), [0xbb; 16], &plain, false);
    let (packed, packed_sealed) = extent::seal(&keys(), &random(), [0xbb; 16], &[0x61; 1000], true);
    let (small, small_sealed) = small_extent();
    let vector = |name: &str, extent: Extent, frames: &str, sealed: &[u8], plain: &[u8]| {
        let vector = Vector::new(name, "extent").hex("master", &MASTER).hex("key", &Key::extent(EXTENT).to_bytes());
        let vector = vector.hex("record", &encoded(&Record::Extent(placed(extent)))).with("frames", frames);
        vector.hex("sealed", sealed).hex("plaintext", plain)
    };
    let unauthentic = "extent does not authenticate: it was changed, or is not of this vault";
    let (first, last) = sealed.split_at(16_400);
    let flipped: Vec<u8> = small_sealed.iter().enumerate().map(|(k, byte)| byte ^ u8::from(k == 0)).collect();
    let cut = Extent { len: 16_384, stored: 16_400, ..two.clone() };
    vec![
        vector("good/extent-one-frame", small.clone(), "0..1", &small_sealed, b"hello").result("ok"),
        vector("good/extent-last-frame-of-two", two.clone(), "1..2", last, &plain[16_384..]).result("ok"),
        vector("good/extent-compressed-frame", packed, "0..1", &packed_sealed, &[0x61; 1000]).result("ok"),
        vector("bad/extent-one-bit-flipped", small.clone(), "0..1", &flipped, b"").result(unauthentic),
        vector("bad/extent-of-another-nonce", Extent { nonce: [9; 16], ..small.clone() }, "0..1", &small_sealed, b"")
            .result(unauthentic),
        vector("bad/extent-of-another-file", Extent { key_id: [9; 16], ..small }, "0..1", &small_sealed, b"")
            .result(unauthentic),
        vector("bad/extent-cut-at-the-end-of-a-frame", cut, "0..1", first, b"").result(unauthentic),
        vector("bad/extent-frame-missing", two, "0..2", first, b"")
            .result("extent is malformed: there are more or fewer bytes than its frames have"),
    ]
}

/// A header of the cheapest cost, without its padding.
pub fn header() -> (Vec<u8>, String, SecretKey) {
    let passphrase = Passphrase::new(b"correct horse".to_vec());
    let (object, master, recovery) = Header::create(&random(), &passphrase, Cost::FLOOR);
    let len = u32::from_be_bytes(object[12..16].try_into().expect("four bytes")) as usize;
    (object[..16 + len + 32].to_vec(), recovery.to_string(), master)
}

fn headers() -> Vec<Vector> {
    let (object, recovery, master) = header();
    let vector = |name: &str, number: u64, object: &[u8], secret: &str| {
        let vector = Vector::new(name, "header").with("number", number).hex("object", object);
        vector.with("secret", secret).hex("master", master.as_bytes())
    };
    let replace = |from: &[u8], to: &[u8]| {
        let at = object.windows(from.len()).position(|window| window == from).expect("the bytes are there");
        [&object[..at], to, &object[at + from.len()..]].concat()
    };
    let cost = |to: [u8; 8]| replace(&[0x83, 0x1a, 0, 1, 0, 0, 1, 1], &to);
    let tampered = "the vault's header was tampered with";
    let above = "key slot is malformed: the cost of its key derivation is above the ceiling";
    let secret = "correct horse";
    let slots = |count: u8| replace(&[0x02, 0x82, 0xa6], &[0x02, 0x80 | count, 0xa6]);
    vec![
        vector("good/header-passphrase", 1, &object, secret).result("ok"),
        vector("good/header-recovery-key", 1, &object, &recovery).result("ok"),
        vector("bad/header-wrong-passphrase", 1, &object, "correct horsf").result("wrong passphrase"),
        vector("bad/header-under-another-number", 2, &object, secret).result(tampered),
        vector(
            "bad/header-mac-changed",
            1,
            &[&object[..object.len() - 1], &[object[object.len() - 1] ^ 1]].concat(),
            secret,
        )
        .result(tampered),
        vector("bad/header-cost-changed", 1, &cost([0x83, 0x1a, 0, 2, 0, 0, 1, 1]), &recovery).result(tampered),
        vector("bad/header-cost-below-the-floor", 1, &cost([0x83, 0x1a, 0, 1, 0, 0, 0, 1]), secret)
            .result("key slot is malformed: the cost of its key derivation is below the floor"),
        vector("bad/header-memory-above-the-ceiling", 1, &cost([0x83, 0x1a, 0xff, 0xff, 0, 0, 1, 1]), secret)
            .result(above),
        vector("bad/header-lanes-above-the-ceiling", 1, &cost([0x83, 0x1a, 0, 1, 0, 0, 1, 5]), secret).result(above),
        vector("bad/header-more-slots-than-there-are", 1, &slots(3), secret)
            .result("header is malformed: it ends too early"),
        vector("bad/header-17-slots", 1, &slots(17), secret).result("header is malformed: there are too many items"),
        vector("bad/header-newer-version", 1, &replace(b"\r\n\0\0\0\x01", b"\r\n\0\0\0\x02"), secret)
            .result("header has version 2, which is newer than this program; use a newer dripfs"),
        vector("bad/header-of-something-else", 1, b"PK\x03\x04", secret)
            .result("header is malformed: it does not begin as the header of a vault"),
        vector("bad/header-too-long", 1, &object, secret)
            .with("length", 133_120)
            .result("header is malformed: its length is not the smallest class"),
    ]
}

fn changes() -> Vec<Vector> {
    let good = |name: &str, change: &Change| {
        let mut bytes = Vec::new();
        change.encode(&mut bytes);
        Vector::new(&format!("good/change-{name}"), "change").hex("bytes", &bytes).result("ok")
    };
    let link = ChainLink { sequence: Sequence(9), hash: [9; 32] };
    let note = |note| Change { note: Some(note), ..Change::default() };
    vec![
        good("records", &change()),
        good("orphan", &Change { orphan: true, ..change() }),
        good("barrier", &Change { barrier: vec![FILE, Ino(3)], ..Change::default() }),
        good("mount", &note(Note::Mount)),
        good("sent", &note(Note::Sent(vec![SEGMENT]))),
        good("took-commit", &note(Note::Took { link, cut: Some(Position(40)), low: None })),
        good("took-deferred", &note(Note::Took { link, cut: Some(Position(40)), low: Some(Position(30)) })),
        good("took-epoch", &note(Note::Took { link, cut: None, low: None })),
        Vector::new("bad/change-unknown-field", "change")
            .hex("bytes", &[0xa1, 0x18, 30, 0])
            .result("change has version 30, which is newer than this program; use a newer dripfs"),
        Vector::new("bad/change-run-ends-with-a-key", "change")
            .hex("bytes", &[0xa1, 0x01, 0x81, 0x49, 0, 0, 0, 0, 0, 0, 0, 1, 1])
            .result("change is malformed: a run of records is empty, or ends with a key"),
    ]
}

pub fn all() -> Vec<Vector> {
    let mut all = Vec::new();
    for (name, key, record) in good_records() {
        let vector = Vector::new(&format!("good/key-of-{name}"), "key").hex("bytes", &key.to_bytes());
        all.push(vector.result("ok"));
        let vector = Vector::new(&format!("good/record-{name}"), "record").hex("key", &key.to_bytes());
        all.push(vector.hex("bytes", &encoded(&record)).result("ok"));
    }
    all.extend(
        [bad_keys(), bad_records(), changes(), good_objects(), bad_objects(), bad_checkpoints(), extents(), headers()]
            .into_iter()
            .flatten(),
    );
    all
}
