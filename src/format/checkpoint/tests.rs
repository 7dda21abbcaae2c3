//! Manifests, runs and tables come back as they were, and what does not fit together is refused.

use proptest::prelude::*;

use super::super::change::tests::run as records;
use super::super::commit::{is_local, seal_part};
use super::run::Run;
use super::table::{SegmentCount, open_chain, open_counts, seal_chain, seal_counts};
use super::*;
use crate::crypto::secret::Key as SecretKey;

const ID: ObjectId = ObjectId([9; 16]);

fn keys() -> Keys {
    Keys::from_master(&SecretKey::from_bytes([1; 32]))
}

fn reopened(manifest: &Manifest) -> Result<Manifest, FormatError> {
    Manifest::open(&keys(), ID, &manifest.seal(&keys(), &Random::Kernel, ID).unwrap())
}

fn part(byte: u8) -> CommitPart {
    CommitPart { id: ObjectId([byte; 16]), len: 66_560, hash: [byte; 32] }
}

#[test]
fn levels_come_back_and_those_that_overlap_are_refused() {
    let run = |first: u64, last: u64| RunRef {
        id: ObjectId([first as u8; 16]),
        len: 66_560,
        hash: [last as u8; 32],
        first: Key::inode(Ino(first)),
        last: Key::head(Ino(last)),
    };
    let open = |levels: Vec<Vec<RunRef>>| {
        let manifest = Manifest { levels, ..Manifest::default() };
        reopened(&manifest).map(|opened| assert_eq!(opened, manifest))
    };
    assert_eq!(open(vec![]), Ok(()));
    assert_eq!(open(vec![vec![run(1, 1)], vec![run(1, 4), run(5, 9)]]), Ok(()));
    for (levels, why) in [
        (vec![vec![run(1, 5), run(5, 9)]], "overlap"),
        (vec![vec![run(5, 9), run(1, 4)]], "falling"),
        (vec![vec![run(5, 4)]], "ends before it begins"),
        (vec![vec![]], "empty level"),
    ] {
        assert!(matches!(open(levels), Err(FormatError::Malformed { .. })), "{why}");
    }
}

proptest! {
    #[test]
    fn what_a_manifest_says_of_the_log_comes_back(
        counts in prop::collection::vec(1..1000u32, 0..4), cut: u64, epoch: u32, totals: (u64, u64, u32),
        newest: prop::sample::Index, tables in prop::option::of(0..3u8),
    ) {
        let (mut chain, mut sequence) = (Vec::new(), 0);
        for count in counts {
            chain.push(ChainRun { object: part(chain.len() as u8), first: Sequence(sequence + 1), count });
            sequence += u64::from(count);
        }
        let commit = (sequence > 0)
            .then(|| ChainLink { sequence: Sequence(newest.index(sequence as usize) as u64 + 1), hash: [7; 32] });
        let manifest = Manifest {
            sequence: Sequence(sequence),
            hash: [8; 32],
            levels: Vec::new(),
            cut: Position(commit.map_or(0, |_| cut)),
            commit,
            epoch: Epoch(epoch),
            totals: Totals { inodes: totals.0, bytes: totals.1, highest: Ino(totals.2.into()) },
            chain,
            swept: tables.map(|tables| Swept { sequence: Sequence(0), counts: (0..tables).map(part).collect() }),
        };
        prop_assert_eq!(reopened(&manifest), Ok(manifest));
    }

    #[test]
    fn a_run_is_read_one_by_one_as_it_was_sealed(mut run in records(30)) {
        run.retain(|(_, record)| !is_local(record));
        prop_assume!(!run.is_empty());
        let object = seal_part(&keys(), &Random::Kernel, ID, &run).unwrap();
        let mut reader = Run::open(&keys(), ID, &object).unwrap();
        for entry in run {
            prop_assert_eq!(reader.read(), Ok(Some(entry)));
        }
        prop_assert_eq!(reader.read(), Ok(None));
        prop_assert_eq!(reader.read(), Ok(None));
    }

    #[test]
    fn tables_come_back(hashes in prop::collection::vec(any::<[u8; 32]>(), 1..50), live: u64, total: u32) {
        let object = seal_chain(&keys(), &Random::Kernel, ID, Sequence(3), &hashes).unwrap();
        prop_assert_eq!(open_chain(&keys(), ID, &object), Ok((Sequence(3), hashes)));
        let counts: Vec<_> = (0..9).map(|k| SegmentCount { id: ObjectId([k; 16]), live, total }).collect();
        let object = seal_counts(&keys(), &Random::Kernel, ID, &counts).unwrap();
        prop_assert_eq!(open_counts(&keys(), ID, &object), Ok(counts));
    }
}

#[test]
fn the_largest_tables_fit_an_object() {
    let (keys, random) = (keys(), Random::Kernel);
    assert!(seal_chain(&keys, &random, ID, Sequence(u64::MAX >> 1), &vec![[1; 32]; CHAIN_MAX]).is_some());
    let count = SegmentCount { id: ID, live: u64::from(u32::MAX), total: u32::MAX };
    assert!(seal_counts(&keys, &random, ID, &vec![count; table::COUNTS_MAX]).is_some());
}

#[test]
fn no_kind_of_object_opens_as_another() {
    let (keys, random) = (keys(), Random::Kernel);
    let chain = seal_chain(&keys, &random, ID, Sequence(1), &[[1; 32]]).unwrap();
    assert!(matches!(open_counts(&keys, ID, &chain), Err(FormatError::Unauthentic(_))));
    assert!(matches!(Run::open(&keys, ID, &chain), Err(FormatError::Unauthentic(_))));
    assert!(matches!(open_chain(&keys, ObjectId([8; 16]), &chain), Err(FormatError::Unauthentic(_))));
}
