//! A change: the record upserts and deletes of one operation; the journal's unit (J1).
//!
//! Owns: how a change lies in bytes, and how a run of records does, which commits and parts share. Does not own:
//! blocks, positions, sealing (journal).
//!
//! A run is one CBOR array: key, value, key, value. A key is the byte string of [`Key::encode`], a value the record's
//! map, or null for a delete.

use std::sync::Arc;

use super::FormatError;
use super::cbor::{Count, Reader, Sink, Writer};
use super::commit::ChainLink;
use super::key::{KEY_MAX, Key};
use super::record::{Record, read_ino};
use crate::base::{Ino, ObjectId, Position, Sequence};

/// Upserts, and deletes (`None`).
pub type Run = Vec<(Key, Option<Arc<Record>>)>;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Change {
    /// Upserts, and deletes (`None`). At most one entry a key.
    pub records: Run,
    /// Files for which this change is a barrier (J7), also when nothing of them was dirty.
    pub barrier: Vec<Ino>,
    /// The records belong to unlinked open files (L4): they are in no commit, and a replay skips them.
    pub orphan: bool,
    pub note: Option<Note>,
}

/// What a journal remembers of the vault (J5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// A mount began here; nothing else is said.
    Mount,
    /// These object ids are about to be sent.
    Sent(Vec<ObjectId>),
    /// The vault took this log object; the commit's cut, if it is a commit, and, if that is less, up to where commits hold
    /// all contents.
    Took { link: ChainLink, cut: Option<Position>, low: Option<Position> },
}

impl Change {
    pub fn put(&mut self, key: Key, record: Record) {
        self.records.push((key, Some(Arc::new(record))));
    }

    /// Appends the encoded change.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new(out);
        let present = [!self.records.is_empty(), !self.barrier.is_empty(), self.orphan, self.note.is_some()];
        w.map(present.iter().filter(|&&is| is).count());
        if !self.records.is_empty() {
            w.uint(RECORDS.into());
            write_run(&mut w, &self.records);
        }
        if !self.barrier.is_empty() {
            w.uint(BARRIER.into()).array(self.barrier.len());
            self.barrier.iter().for_each(|ino| _ = w.uint(ino.0));
        }
        if self.orphan {
            w.uint(ORPHAN.into()).yes();
        }
        if let Some(note) = &self.note {
            w.uint(NOTE.into());
            note.write(&mut w);
        }
    }

    /// Reads a change that fills `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Change, FormatError> {
        let mut r = Reader::new(WHAT, bytes);
        let mut change = Change::default();
        let mut fields = r.fields()?;
        while let Some(number) = r.next_field(&mut fields)? {
            match number {
                RECORDS => change.records = read_run(&mut r, Order::Any)?,
                BARRIER => change.barrier = read_list(&mut r, read_ino)?,
                ORPHAN => change.orphan = r.yes()?,
                NOTE => change.note = Some(Note::read(&mut r)?),
                // A change is this machine's own, and replayed as a whole: nothing in it may be passed over.
                _ => return Err(FormatError::Newer { what: WHAT, version: number.into() }),
            }
        }
        r.end()?;
        Ok(change)
    }
}

const WHAT: &str = "change";
const RECORDS: u32 = 1;
const BARRIER: u32 = 2;
const ORPHAN: u32 = 3;
const NOTE: u32 = 4;

impl Note {
    /// The vault took a commit: names up to its cut, and all contents up to `low`.
    pub fn took(link: ChainLink, cut: Position, low: Position) -> Note {
        Note::Took { link, cut: Some(cut), low: (low < cut).then_some(low) }
    }

    /// Up to where the vault held all contents, if this says so.
    pub fn low(&self) -> Option<Position> {
        match self {
            Note::Took { cut, low, .. } => low.or(*cut),
            _ => None,
        }
    }

    fn write<W: Sink>(&self, w: &mut Writer<W>) {
        match self {
            Note::Mount => _ = w.array(1).uint(1),
            Note::Sent(ids) => {
                w.array(1 + ids.len()).uint(2);
                ids.iter().for_each(|id| _ = w.bytes(&id.0));
            }
            Note::Took { link, cut, low } => {
                let positions = cut.iter().chain(low.iter().filter(|_| cut.is_some()));
                w.array(3 + positions.clone().count()).uint(3).uint(link.sequence.0).bytes(&link.hash);
                positions.for_each(|position| _ = w.uint(position.0));
            }
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Note, FormatError> {
        let len = r.array(usize::MAX)?;
        if len == 0 {
            return Err(r.malformed("a note says nothing"));
        }
        match (r.uint()?, len - 1) {
            (1, 0) => Ok(Note::Mount),
            (2, ids) => Ok(Note::Sent((0..ids).map(|_| r.fixed().map(ObjectId)).collect::<Result<_, _>>()?)),
            (3, rest @ 2..=4) => {
                let link = ChainLink { sequence: Sequence(r.uint()?), hash: r.fixed()? };
                let cut = if rest >= 3 { Some(Position(r.uint()?)) } else { None };
                let low = if rest == 4 { Some(Position(r.uint()?)) } else { None };
                if low >= cut && low.is_some() {
                    return Err(r.malformed("a field at its default is left out"));
                }
                Ok(Note::Took { link, cut, low })
            }
            (kind, _) => Err(FormatError::Newer { what: "note", version: kind }),
        }
    }
}

/// Reads an array whose items `item` reads.
pub(super) fn read_list<T>(
    r: &mut Reader<'_>,
    mut item: impl FnMut(&mut Reader<'_>) -> Result<T, FormatError>,
) -> Result<Vec<T>, FormatError> {
    match r.array(usize::MAX)? {
        0 => Err(r.malformed("a field at its default is left out")),
        len => (0..len).map(|_| item(r)).collect(),
    }
}

/// Whether the keys of a run must rise.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Any,
    Rising,
}

pub(super) fn write_run<W: Sink>(w: &mut Writer<W>, run: &[(Key, Option<Arc<Record>>)]) {
    w.array(2 * run.len());
    run.iter().for_each(|(key, record)| write_entry(w, key, record));
}

pub(super) fn write_entry<W: Sink>(w: &mut Writer<W>, key: &Key, record: &Option<Arc<Record>>) {
    w.bytes(&key.to_bytes());
    match record {
        Some(record) => record.write(w),
        None => _ = w.null(),
    }
}

/// The least that an entry of a run takes: a key of nine bytes with its head, and a null.
const ENTRY_MIN: usize = 11;

pub(super) fn read_run(r: &mut Reader<'_>, order: Order) -> Result<Run, FormatError> {
    let len = r.array(usize::MAX)?;
    if len == 0 || len % 2 != 0 {
        return Err(r.malformed("a run of records is empty, or ends with a key"));
    }
    let mut run: Run = Vec::with_capacity((len / 2).min(r.rest() / ENTRY_MIN));
    for _ in 0..len / 2 {
        let key = Key::decode(r.bytes(KEY_MAX)?)?;
        if order == Order::Rising && run.last().is_some_and(|(last, _)| *last >= key) {
            return Err(r.malformed("the keys of a run are not in rising order"));
        }
        let record = if r.take_null() { None } else { Some(Arc::new(Record::read(&key, r)?)) };
        run.push((key, record));
    }
    Ok(run)
}

/// The encoded length of a run.
pub(super) fn run_len(run: &[(Key, Option<Arc<Record>>)]) -> usize {
    let mut w = Writer::new(Count::default());
    write_run(&mut w, run);
    w.into_inner().0
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::key::tests::number;
    use super::super::record::tests::entry;
    use super::*;

    /// A run whose keys rise.
    pub fn run(most: usize) -> impl Strategy<Value = Run> {
        prop::collection::vec((entry(), any::<bool>()), 0..most).prop_map(|entries| {
            let mut run: Run =
                entries.into_iter().map(|((key, record), put)| (key, put.then(|| Arc::new(record)))).collect();
            run.sort_by_key(|(key, _)| *key);
            run.dedup_by_key(|(key, _)| *key);
            run
        })
    }

    fn change() -> impl Strategy<Value = Change> {
        let note = prop_oneof![
            Just(Note::Mount),
            prop::collection::vec(any::<[u8; 16]>().prop_map(ObjectId), 0..5).prop_map(Note::Sent),
            (number(), any::<[u8; 32]>(), prop::option::of(any::<u64>())).prop_map(|(sequence, hash, cut)| {
                let low = cut.map(|cut| Position(cut / 2)).filter(|low| Some(low.0) < cut && sequence % 2 == 1);
                Note::Took { link: ChainLink { sequence: Sequence(sequence), hash }, cut: cut.map(Position), low }
            }),
        ];
        let barrier = prop::collection::vec(number().prop_map(Ino), 0..5);
        (run(6), barrier, any::<bool>(), prop::option::of(note)).prop_map(|(records, barrier, orphan, note)| Change {
            records,
            barrier,
            orphan,
            note,
        })
    }

    fn encoded(change: &Change) -> Vec<u8> {
        let mut bytes = Vec::new();
        change.encode(&mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn changes_come_back(change in change()) {
            prop_assert_eq!(Change::decode(&encoded(&change)), Ok(change));
        }

        #[test]
        fn changed_bytes_are_refused_or_canonical(change in change(), at: prop::sample::Index, to: u8) {
            let mut bytes = encoded(&change);
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(changed) = Change::decode(&bytes) {
                prop_assert_eq!(encoded(&changed), bytes);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Change::decode(&bytes);
        }
    }

    #[test]
    fn malformed_changes_are_refused() {
        for (bytes, why) in [
            (&[][..], "nothing"),
            (&[0xa0, 0x00], "bytes after the end"),
            (&[0xa1, 0x01, 0x80], "an empty run"),
            (&[0xa1, 0x01, 0x81, 0x49, 0, 0, 0, 0, 0, 0, 0, 1, 1], "a key without a value"),
            (&[0xa1, 0x02, 0x80], "an empty barrier"),
            (&[0xa1, 0x03, 0xf4], "a flag that does not stand"),
            (&[0xa1, 0x04, 0x80], "an empty note"),
            (&[0xa1, 0x01, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], "more records than bytes"),
        ] {
            assert!(matches!(Change::decode(bytes), Err(FormatError::Malformed { .. })), "{why}");
        }
        let newer = |what, version| Err(FormatError::Newer { what, version });
        assert_eq!(Change::decode(&[0xa1, 0x05, 0x00]), newer("change", 5));
        assert_eq!(Change::decode(&[0xa1, 0x04, 0x81, 0x09]), newer("note", 9));
    }
}
