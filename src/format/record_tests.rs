//! Records: round trips, what is refused, what is carried over.

use proptest::prelude::*;

use super::super::key::tests::{key, number};
use super::*;

fn time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
}

/// Fields of a later version, references among them.
pub fn extra() -> impl Strategy<Value = Extra> {
    let raw = prop_oneof![Just(vec![0x18, 0x2a]), Just(vec![0x82, 0x41, 7, 0xf6]), Just(vec![0xa1, 0x01, 0x61, b'x'])];
    let groups = prop_oneof![
        Just(None),
        Just(Some(vec![0xa1, 0x18, 0x1e, 0x81, 0x05])),
        Just(Some(vec![0xa2, 0x18, 0x1e, 0x82, 0x05, 0x82, 0x07, 0x08, 0x18, 0x28, 0x81, 0x09])),
    ];
    (groups, prop::collection::btree_map(24..128u32, raw, 0..3)).prop_map(|(groups, fields)| {
        let mut all: Vec<(u32, Box<[u8]>)> = Vec::new();
        all.extend(groups.map(|groups| (0, groups.into())));
        all.extend(fields.into_iter().map(|(number, raw)| (number, raw.into())));
        (!all.is_empty()).then(|| all.into())
    })
}

fn name() -> impl Strategy<Value = Box<[u8]>> {
    prop::collection::vec(any::<u8>(), 1..=255).prop_map(Vec::into_boxed_slice)
}

fn inode() -> impl Strategy<Value = Record> {
    let numbers = (any::<u32>(), any::<u32>(), any::<u32>(), prop_oneof![Just(0), any::<u32>()], any::<u32>());
    (numbers, time(), time(), time(), time(), prop::option::of(name()), extra()).prop_map(
        |((mode, uid, gid, rdev, nlink), atime, mtime, ctime, btime, target, extra)| {
            Record::Inode(Inode { mode, uid, gid, rdev, nlink, atime, mtime, ctime, btime, target, extra })
        },
    )
}

fn piece() -> impl Strategy<Value = Piece> {
    (1..=EXTENT_MAX as u32, number(), number(), 0..=EXTENT_MAX as u32).prop_map(|(len, owner, number, start)| Piece {
        offset: 0,
        len,
        extent: ExtentId { owner: Ino(owner), number },
        start: start.min(EXTENT_MAX as u32 - len),
    })
}

fn head() -> impl Strategy<Value = Record> {
    let pieces = prop::collection::vec((0..1u64 << 40, piece()), 0..=INLINE_PIECES);
    (0..=FILE_MAX, time(), time(), time(), any::<u64>(), pieces, any::<bool>(), extra()).prop_map(
        |(size, atime, mtime, ctime, position, pieces, spilled, extra)| {
            let mut end = 0;
            let place = |(gap, piece): (u64, Piece)| {
                let offset = end + gap;
                end = offset + u64::from(piece.len);
                Piece { offset, ..piece }
            };
            let pieces: Vec<Piece> = pieces.into_iter().map(place).collect();
            let (position, spilled) = (Position(position), spilled && pieces.is_empty());
            Record::Head(Head { size, atime, mtime, ctime, position, pieces, spilled, extra })
        },
    )
}

fn extent() -> impl Strategy<Value = Record> {
    let place = prop_oneof![
        Just(Place::Local),
        (any::<[u8; 16]>(), 0..1u32 << 20).prop_map(|(id, offset)| Place::Segment { id: ObjectId(id), offset }),
        (number(), 0..1u32 << 16).prop_map(|(n, offset)| Place::Inline { sequence: Sequence(n), offset }),
    ];
    (any::<[u8; 16]>(), any::<[u8; 16]>(), 12..=17u8, 1..=EXTENT_MAX as u32, any::<bool>(), place, extra()).prop_map(
        |(key_id, nonce, frame_log2, len, compressed, place, extra)| {
            let mut extent = Extent { key_id, nonce, frame_log2, len, stored: 0, frames: Vec::new(), place, extra };
            let sealed: Vec<u32> = (0..extent.frame_count()).map(|frame| extent.frame_len(frame) + 16).collect();
            extent.stored = sealed.iter().sum();
            if compressed {
                extent.frames = sealed.iter().map(|sealed| 17.max(sealed / 2)).collect();
                extent.stored = extent.frames.iter().sum();
            }
            Record::Extent(extent)
        },
    )
}

/// A key and a record that fits it.
pub fn entry() -> impl Strategy<Value = (Key, Record)> {
    let value = prop::collection::vec(any::<u8>(), 0..500);
    let all =
        (inode(), head(), piece(), (name(), value, extra()), (name(), number(), any::<u32>()), extent(), 0..1000u32);
    (key(), all).prop_map(|(key, (inode, head, piece, xattr, dentry, extent, len))| {
        let (name, value, extra) = xattr;
        let record = match key.part {
            Part::Inode => inode,
            Part::Head => head,
            Part::Map { offset } => {
                let offset = offset.min(FILE_MAX - EXTENT_MAX as u64);
                return (Key { part: Part::Map { offset }, ..key }, Record::Map(Piece { offset, ..piece }));
            }
            Part::Xattr { .. } => Record::Xattr(Xattr { name, value: value.into(), extra }),
            Part::Link { .. } => Record::Link(Link { extra }),
            Part::Dentry { .. } => Record::Dentry(Dentry { name: dentry.0, ino: Ino(dentry.1), kind: dentry.2, extra }),
            Part::Extent { .. } => extent,
            Part::Segment { .. } => Record::Segment(Segment { len, extra }),
            Part::Other { .. } => Record::Other([0xa2, 0x01, 0x02, 0x18, 0xc8, 0x41, 0x07].into()),
        };
        (key, record)
    })
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    bytes
}

proptest! {
    #[test]
    fn records_come_back_with_what_later_versions_put_in((key, record) in entry()) {
        prop_assert_eq!(Record::decode(&key, &encoded(&record)), Ok(record));
    }

    #[test]
    fn a_changed_record_is_refused_or_canonical(
        (key, record) in entry(), at: prop::sample::Index, to: u8, cut: prop::sample::Index,
    ) {
        let mut bytes = encoded(&record);
        let cut = cut.index(bytes.len());
        prop_assert!(Record::decode(&key, &bytes[..cut]).is_err());
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(changed) = Record::decode(&key, &bytes) {
            prop_assert_eq!(encoded(&changed), bytes.clone());
        }
    }

    #[test]
    fn random_bytes_never_panic(key in key(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(record) = Record::decode(&key, &bytes) {
            prop_assert_eq!(encoded(&record), bytes);
        }
    }
}

fn sample_head() -> Head {
    Head {
        size: 10,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        position: Position(3),
        pieces: vec![Piece { offset: 0, len: 10, extent: ExtentId { owner: Ino(5), number: 9 }, start: 0 }],
        spilled: false,
        extra: None,
    }
}

fn all_references(record: &Record) -> Vec<Reference> {
    let mut all = Vec::new();
    record.references(|reference| all.push(reference));
    all
}

#[test]
fn references_are_counted_without_knowing_kind_or_field() {
    let extent = Reference::Extent(ExtentId { owner: Ino(5), number: 9 });
    let mut head = sample_head();
    assert_eq!(all_references(&Record::Head(head.clone())), [extent]);
    // A later version's field 30 refers to log object 5.
    head.extra = Some([(0, Box::from([0xa1, 0x18, 0x1e, 0x81, 0x05])), (30, Box::from([0x00]))].into());
    assert_eq!(all_references(&Record::Head(head.clone())), [extent, Reference::Log(Sequence(5))]);
    let other = Key::decode(&[0, 0, 0, 0, 0, 0, 0, 5, 99]).unwrap();
    let record = Record::decode(&other, &encoded(&Record::Head(head))).unwrap();
    assert!(matches!(record, Record::Other(_)));
    assert_eq!(all_references(&record), [extent, Reference::Log(Sequence(5))]);
}

#[test]
fn an_older_program_that_rewrites_a_record_keeps_what_it_does_not_know() {
    let mut newer = sample_head();
    newer.extra = Some([(0, Box::from([0xa1, 0x18, 0x1e, 0x81, 0x05])), (30, Box::from([0x07]))].into());
    let bytes = encoded(&Record::Head(newer));
    let Ok(Record::Head(mut read)) = Record::decode(&Key::head(Ino(5)), &bytes) else { panic!("it is a head") };
    read.pieces.clear();
    let rewritten = encoded(&Record::Head(read));
    let Ok(Record::Head(read)) = Record::decode(&Key::head(Ino(5)), &rewritten) else { panic!("it is a head") };
    assert_eq!(all_references(&Record::Head(read.clone())), [Reference::Log(Sequence(5))]);
    assert_eq!(read.extra.as_deref().and_then(|extra| extra.last().cloned()), Some((30, Box::from([0x07]))));
}

#[test]
fn what_must_be_understood_is_refused() {
    let link = Key::link(Ino(5), Ino(1), 99, 0);
    let kept = Record::Link(Link { extra: Some([(127, Box::from([0x00]))].into()) });
    assert_eq!(Record::decode(&link, &[0xa1, 0x18, 127, 0x00]), Ok(kept));
    let newer = Err(FormatError::Newer { what: "record", version: 128 });
    assert_eq!(Record::decode(&link, &[0xa1, 0x18, 128, 0x00]), newer);
    let newer = Err(FormatError::Newer { what: "map record", version: 30 });
    let map = [0xa3, 0x00, 0xa1, 0x0d, 0x81, 0x82, 0x05, 0x09, 0x0d, 0x82, 0x0a, 0x00, 0x18, 30, 0x00];
    assert_eq!(Record::decode(&Key::map(Ino(5), 0), &map), newer);
}

#[test]
fn malformed_records_are_refused() {
    let (link, head, extent) =
        (Key::link(Ino(5), Ino(1), 99, 0), Key::head(Ino(5)), Key::extent(ExtentId { owner: Ino(5), number: 9 }));
    let bad = |key: &Key, bytes: &[u8], why: &str| {
        assert!(matches!(Record::decode(key, bytes), Err(FormatError::Malformed { .. })), "{why}");
    };
    bad(&link, &[0xa0, 0x00], "bytes after the end");
    bad(&link, &[0xa1, 0x01, 0x00], "a field that it cannot have");
    bad(&link, &[0xa1, 0x00, 0xa0], "no references");
    bad(&link, &[0xa1, 0x00, 0xa1, 0x18, 30, 0x80], "an empty group of references");
    bad(&link, &[0xa1, 0x00, 0xa1, 0x18, 30, 0x81, 0x61, b'x'], "a reference to a text");
    bad(&link, &[0xb8, 0x00], "a long head");
    bad(&Key::inode(Ino(5)), &[0xa0], "fields missing");

    let good = sample_head();
    let overlap = Head { pieces: vec![good.pieces[0], Piece { offset: 9, ..good.pieces[0] }], ..good.clone() };
    bad(&head, &encoded(&Record::Head(overlap)), "pieces overlap");
    bad(&head, &encoded(&Record::Head(Head { spilled: true, ..good.clone() })), "spilled, with pieces");
    let empty = Head { pieces: vec![Piece { len: 0, ..good.pieces[0] }], ..good.clone() };
    bad(&head, &encoded(&Record::Head(empty)), "an empty piece");
    let many = (0..9).map(|k| Piece { offset: 10 * k, ..good.pieces[0] }).collect();
    bad(&head, &encoded(&Record::Head(Head { pieces: many, ..good.clone() })), "too many pieces");
    let nanos = Timestamp { secs: 0, nanos: 1_000_000_000 };
    bad(&head, &encoded(&Record::Head(Head { mtime: nanos, ..good })), "a second of nanoseconds");

    let good = Extent {
        key_id: [1; 16],
        nonce: [2; 16],
        frame_log2: 14,
        len: 20_000,
        stored: 20_032,
        frames: Vec::new(),
        place: Place::Segment { id: ObjectId([3; 16]), offset: 0 },
        extra: None,
    };
    assert!(Record::decode(&extent, &encoded(&Record::Extent(good.clone()))).is_ok());
    for (wrong, why) in [
        (Extent { frame_log2: 11, ..good.clone() }, "small frames"),
        (Extent { frame_log2: 18, ..good.clone() }, "large frames"),
        (Extent { frame_log2: 60, ..good.clone() }, "very large frames"),
        (Extent { len: 0, ..good.clone() }, "nothing"),
        (Extent { len: EXTENT_MAX as u32 + 1, ..good.clone() }, "too much"),
        (Extent { stored: 20_033, ..good.clone() }, "another sealed length"),
        (Extent { frames: vec![20_032], ..good.clone() }, "too few frames"),
        (Extent { frames: vec![16_401, 3_631], ..good.clone() }, "a frame that grew"),
        (Extent { frames: vec![16, 20_016], ..good.clone() }, "an empty frame"),
        (Extent { place: Place::Segment { id: ObjectId([3; 16]), offset: CLASS_MAX as u32 }, ..good }, "far out"),
    ] {
        bad(&extent, &encoded(&Record::Extent(wrong)), why);
    }
}
