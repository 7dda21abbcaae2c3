//! Everything that is sealed as an object: log objects, parts, manifests, the hint.

use proptest::prelude::*;

use super::super::change::tests::run;
use super::super::checkpoint::Manifest;
use super::super::hint::Hint;
use super::super::record::{Extent, Segment};
use super::*;
use crate::base::sizes::CLASS_MIN;
use crate::base::{ExtentId, Ino};
use crate::crypto::secret::Key as SecretKey;

fn keys(byte: u8) -> Keys {
    Keys::from_master(&SecretKey::from_bytes([byte; 32]))
}

fn log_object(sequence: u64, body: Body) -> LogObject {
    LogObject {
        sequence: Sequence(sequence),
        previous: [1; 32],
        epoch: Epoch(3),
        header: (1, [2; 32]),
        checkpoint: (ObjectId([3; 16]), [4; 32]),
        block: Some(BlockRef { file: FileId([5; 16]), position: Position(6), tag: [7; 16] }),
        host: "laptop".into(),
        time: Timestamp { secs: 1_790_000_000, nanos: 5 },
        body,
    }
}

/// Extents that lie only here are in no commit.
fn placed(mut run: Run) -> Run {
    run.retain(|(_, record)| !is_local(record));
    run
}

fn segments(count: u32) -> Run {
    let id = |k: u32| {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&k.to_be_bytes());
        ObjectId(id)
    };
    (0..count)
        .map(|k| (Key::segment(id(k)), Some(Arc::new(Record::Segment(Segment { len: k, extra: None })))))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn commits_come_back(
        records in run(20), idle: bool, cut: u64, inline in prop::collection::vec(any::<u8>(), 0..300),
        parts in 0..3u8, dead in 0..3u8, first: bool,
    ) {
        let commit = Commit {
            cut: Position(cut),
            idle,
            records: placed(records),
            parts: (0..parts).map(|k| CommitPart { id: ObjectId([k; 16]), len: 66_560, hash: [k; 32] }).collect(),
            inline: inline.into(),
            dead: (0..dead).map(|k| ObjectId([k; 16])).collect(),
        };
        let mut log = log_object(7, Body::Commit(commit));
        log.block = log.block.filter(|_| !first);
        let object = log.seal(&keys(1), &Random::Kernel).unwrap();
        prop_assert_eq!(object.len(), CLASS_MIN);
        prop_assert_eq!(LogObject::open(&keys(1), Sequence(7), &object), Ok(log));
    }

    #[test]
    fn the_length_of_records_is_a_tight_upper_bound(records in run(30)) {
        let mut bytes = Vec::new();
        write_run(&mut Writer::new(&mut bytes), &records);
        let bound = records_len(&records);
        prop_assert!(bound >= bytes.len() && bound <= bytes.len() + bytes.len() / 20 + 8);
    }

    #[test]
    fn parts_come_back(records in run(20)) {
        let records = placed(records);
        prop_assume!(!records.is_empty());
        let id = ObjectId([9; 16]);
        let object = seal_part(&keys(1), &Random::Kernel, id, &records).unwrap();
        prop_assert_eq!(open_part(&keys(1), id, &object), Ok(records));
        prop_assert_eq!(open_part(&keys(1), ObjectId([8; 16]), &object), Err(FormatError::Unauthentic(PART)));
    }

    #[test]
    fn a_part_that_is_encoded_as_its_records_come_is_the_same_and_takes_its_class_only(records in run(40)) {
        let records = placed(records);
        prop_assume!(!records.is_empty());
        let id = ObjectId([9; 16]);
        let most = records_len(&records) + HEAD_MAX;
        let mut part = PartWriter::new(most);
        let room = part.object.capacity();
        for (key, record) in &records {
            prop_assert!(part.push(key, record, most));
        }
        let (key, record) = &records[0];
        let full = part.object.len() - object::CONTENT;
        prop_assert!(!part.push(key, record, full), "it is full");
        let object = part.seal(&keys(1), &Random::Kernel, id).unwrap();
        prop_assert_eq!(object.capacity(), room, "it was never copied");
        prop_assert_eq!(object.len(), seal_part(&keys(1), &Random::Kernel, id, &records).unwrap().len());
        prop_assert_eq!(open_part(&keys(1), id, &object), Ok(records));
    }

    #[test]
    fn content_that_was_changed_before_it_was_sealed_never_panics(
        records in run(10), at: prop::sample::Index, to: u8,
    ) {
        let log = log_object(7, Body::Commit(Commit { records: placed(records), ..Commit::default() }));
        let mut bytes = Vec::new();
        log.write(&mut Writer::new(&mut bytes));
        let at = at.index(bytes.len());
        bytes[at] = to;
        let object = object::seal(&keys(1), &Random::Kernel, Kind::Log, &log_name(Sequence(7)), &[], |out| {
            out.extend_from_slice(&bytes);
        });
        if let Ok(log) = LogObject::open(&keys(1), Sequence(7), &object.unwrap()) {
            let mut again = Vec::new();
            log.write(&mut Writer::new(&mut again));
            prop_assert!(again.len() <= bytes.len());
        }
    }
}

#[test]
fn epoch_records_come_back() {
    let log = log_object(u64::MAX, Body::Epoch { writer: [8; 16] });
    let object = log.seal(&keys(1), &Random::Kernel).unwrap();
    assert_eq!(LogObject::open(&keys(1), Sequence(u64::MAX), &object), Ok(log));
}

#[test]
fn an_object_opens_only_whole_under_its_own_name_in_its_own_vault() {
    let log = log_object(7, Body::Epoch { writer: [8; 16] });
    let object = log.seal(&keys(1), &Random::Kernel).unwrap();
    let unauthentic = Err(FormatError::Unauthentic(WHAT));
    assert_eq!(LogObject::open(&keys(1), Sequence(8), &object), unauthentic);
    assert_eq!(LogObject::open(&keys(2), Sequence(7), &object), unauthentic);
    for at in (0..object.len()).step_by(997).chain([0, 23, 24, 28, object.len() - 1]) {
        let mut flipped = object.clone();
        flipped[at] ^= 1;
        assert_eq!(LogObject::open(&keys(1), Sequence(7), &flipped), unauthentic, "byte {at}");
    }
    for len in [0, 1, 23, 40, object.len() - 1, object.len() + 1] {
        let mut other = object.clone();
        other.resize(len, 0);
        assert!(matches!(LogObject::open(&keys(1), Sequence(7), &other), Err(FormatError::Malformed { .. })));
    }
    let mut larger = object.clone();
    larger.resize(2 * CLASS_MIN, 0);
    assert_eq!(LogObject::open(&keys(1), Sequence(7), &larger), unauthentic);
}

#[test]
fn an_object_of_one_kind_does_not_open_as_another() {
    let (keys, random, id) = (keys(1), Random::Kernel, ObjectId([9; 16]));
    let manifest = Manifest::default().seal(&keys, &random, id).unwrap();
    assert_eq!(Manifest::open(&keys, id, &manifest), Ok(Manifest::default()));
    assert_eq!(open_part(&keys, id, &manifest), Err(FormatError::Unauthentic(PART)));
    let part = seal_part(&keys, &random, id, &segments(2)).unwrap();
    assert!(matches!(Manifest::open(&keys, id, &part), Err(FormatError::Unauthentic(_))));
}

#[test]
fn a_commit_that_outgrows_the_classes_is_not_sealed() {
    let seal = |inline: usize| {
        let commit = Commit { inline: vec![1; inline].into(), ..Commit::default() };
        log_object(7, Body::Commit(commit)).seal(&keys(1), &Random::Kernel).map(|object| object.len())
    };
    assert_eq!(seal(CLASS_MIN - 1000), Some(CLASS_MIN));
    assert_eq!(seal(CLASS_MIN), Some(2 * CLASS_MIN));
    assert_eq!(seal(CLASS_MAX - 1000), Some(CLASS_MAX));
    assert_eq!(seal(CLASS_MAX), None);
}

/// What an outsider sees of any object: a class, and random bytes.
#[test]
fn nothing_of_an_object_lies_in_clear() {
    let object = log_object(7, Body::Epoch { writer: [8; 16] }).seal(&keys(1), &Random::Kernel).unwrap();
    let mut counts = [0u32; 256];
    object.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
    let expected = object.len() as f64 / 256.0;
    let chi_square: f64 = counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
    // 255 degrees of freedom: mean 255, standard deviation 22.6; six of these are out of reach.
    assert!((120.0..390.0).contains(&chi_square), "{chi_square}");
}

/// Seals bytes that a good writer would not.
fn sealed(content: &[u8]) -> Vec<u8> {
    let seal = |out: &mut Vec<u8>| out.extend_from_slice(content);
    object::seal(&keys(1), &Random::Kernel, Kind::Log, &log_name(Sequence(7)), &[], seal).unwrap()
}

fn open(content: &[u8]) -> Result<LogObject, FormatError> {
    LogObject::open(&keys(1), Sequence(7), &sealed(content))
}

fn content(log: &LogObject) -> Vec<u8> {
    let mut bytes = Vec::new();
    log.write(&mut Writer::new(&mut bytes));
    bytes
}

#[test]
fn authentic_but_malformed_log_objects_are_refused() {
    let why = |content: &[u8]| match open(content) {
        Err(FormatError::Malformed { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    let commit = |records| log_object(7, Body::Commit(Commit { records, ..Commit::default() }));
    assert!(open(&content(&commit(Vec::new()))).is_ok());
    assert_eq!(why(&content(&log_object(8, Body::Epoch { writer: [8; 16] }))), "its number is not that of its name");
    let falling: Run = segments(2).into_iter().rev().collect();
    assert_eq!(why(&content(&commit(falling))), "the keys of a run are not in rising order");
    let twice: Run = segments(1).into_iter().chain(segments(1)).collect();
    assert_eq!(why(&content(&commit(twice))), "the keys of a run are not in rising order");
    let local = Extent {
        key_id: [1; 16],
        nonce: [2; 16],
        frame_log2: 14,
        len: 1,
        stored: 17,
        frames: Vec::new(),
        place: Place::Local,
        extra: None,
    };
    let key = Key::extent(ExtentId { owner: Ino(1), number: 2 });
    let local: Run = vec![(key, Some(Arc::new(Record::Extent(local))))];
    assert_eq!(why(&content(&commit(local))), "an extent has no place in the vault");
    assert_eq!(why(&[0xa0]), "a field is missing");
    let epoch = content(&log_object(7, Body::Epoch { writer: [8; 16] }));
    let with = |count: u8, tail: &[u8]| [&[count], &epoch[1..], tail].concat();
    assert_eq!(why(&with(0xaa, &[0x0a, 0x00])), "it is both an epoch record and a commit");
    assert_eq!(why(&with(0xaa, &[0x0b, 0xf5])), "it is both an epoch record and a commit");
    assert_eq!(why(&with(0xa9, &[0x00])), "bytes follow its end");
    assert!(open(&with(0xaa, &[0x18, 100, 0x00])).is_ok(), "a later version's field");
    assert_eq!(open(&with(0xaa, &[0x18, 128, 0x00])), Err(FormatError::Newer { what: WHAT, version: 128 }));
}

#[test]
#[should_panic(expected = "no place in the vault")]
fn an_extent_that_lies_only_here_is_never_committed() {
    let (extent, _) = super::super::extent::seal(&keys(1), &Random::Kernel, [1; 16], b"x", false);
    let key = Key::extent(ExtentId { owner: Ino(1), number: 2 });
    let _ = seal_part(&keys(1), &Random::Kernel, ObjectId([1; 16]), &[(key, Some(Arc::new(Record::Extent(extent))))]);
}

#[test]
fn a_hint_tells_which_header_to_try_and_seals_the_rest() {
    let hint = Hint { header: 3, sequence: Sequence(77), checkpoint: ObjectId([9; 16]) };
    let object = hint.seal(&keys(1), &Random::Kernel);
    assert_eq!(object.len(), CLASS_MIN);
    assert_eq!(Hint::header_number(&object), Some(3));
    assert_eq!(Hint::open(&keys(1), &object), Ok(hint));
    assert!(matches!(Hint::open(&keys(2), &object), Err(FormatError::Unauthentic(_))));
    let mut other = object.clone();
    other[7] = 4;
    assert!(matches!(Hint::open(&keys(1), &other), Err(FormatError::Malformed { .. })), "another header");
    assert!(Hint::open(&keys(1), b"junk").is_err());
    assert_eq!(Hint::header_number(b"junk"), None);
}
