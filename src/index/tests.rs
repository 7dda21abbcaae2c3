use proptest::prelude::*;

use super::*;
use crate::base::disk::RealDisk;
use crate::base::disk::simulated::{Dice, SimulatedDisk};
use crate::base::{Epoch, FileId, Position, Sequence};
use crate::crypto::secret::Key as SecretKey;
use crate::format::record::Xattr;

fn keys() -> Arc<Keys> {
    Arc::new(Keys::from_master(&SecretKey::from_bytes([7; 32])))
}

fn simulated() -> Ground {
    on(SimulatedDisk::new(3))
}

fn on(disk: Arc<dyn Disk>) -> Ground {
    Ground {
        dir: WRITER_DIR,
        tables: Arc::new(TwinTables::new(disk.clone(), WRITER_DIR)),
        disk,
        keys: keys(),
        random: Random::Kernel,
    }
}

fn real(dir: &std::path::Path) -> Ground {
    let tables = Arc::new(SledTables::new(dir.join(WRITER_DIR)));
    Ground {
        dir: WRITER_DIR,
        tables,
        disk: Arc::new(RealDisk::new(dir.to_owned())),
        keys: keys(),
        random: Random::Kernel,
    }
}

fn mark(position: u64) -> Mark {
    Mark {
        link: ChainLink { sequence: Sequence(position), hash: [9; 32] },
        block: Some(BlockRef { file: FileId([1; 16]), position: Position(position), tag: [2; 16] }),
        clean: position.is_multiple_of(2),
        inodes: position,
        bytes: u64::MAX - position,
        highest: Ino(u64::MAX >> 1),
        epoch: Epoch(7),
    }
}

fn record(value: u8) -> Arc<Record> {
    Arc::new(Record::Xattr(Xattr {
        name: Box::from(&b"user.a"[..]),
        value: vec![value; usize::from(value)].into(),
        extra: None,
    }))
}

/// An index in memory that holds these records, for the tests of rooms above.
pub(crate) fn holding(keys: &Arc<Keys>, records: &[(Key, Record)]) -> (Arc<Index>, Mark) {
    let ground = Ground { keys: keys.clone(), ..simulated() };
    let mut builder = Builder::new(ground).unwrap();
    records.iter().for_each(|(key, record)| builder.push(key, record).unwrap());
    let inodes = records.iter().filter(|(_, record)| matches!(record, Record::Inode(_))).count() as u64;
    let highest = records.iter().map(|(key, _)| key.ino).max().unwrap_or(Ino(0));
    let mark = Mark { block: None, clean: true, inodes, bytes: 0, highest, ..mark(1) };
    (Arc::new(builder.finish(&mark).unwrap()), mark)
}

fn empty(ground: Ground) -> Index {
    Builder::new(ground).unwrap().finish(&mark(0)).unwrap()
}

fn batch(writes: &[(u16, Option<u8>)]) -> Folded {
    writes.iter().map(|(k, value)| (key(*k), value.map(record))).collect()
}

fn key(n: u16) -> Key {
    Key::xattr(Ino(u64::from(n / 16) + 1), u64::from(n % 16), 0)
}

fn check(index: &Index, model: &BTreeMap<Key, Arc<Record>>) {
    for n in 0..64 {
        assert_eq!(index.get(&key(n)).unwrap().as_ref(), model.get(&key(n)), "{n}");
    }
    for (from, to) in [(0, 63), (5, 5), (7, 40), (63, 0)] {
        let mut found = Vec::new();
        index
            .scan(key(from), key(to), |key, record| {
                found.push((*key, record));
                true
            })
            .unwrap();
        let expected: Vec<_> =
            model.iter().filter(|(k, _)| **k >= key(from) && **k <= key(to)).map(|(k, r)| (*k, r.clone())).collect();
        assert_eq!(found, expected);
    }
    let mut first = Vec::new();
    index
        .scan(key(0), key(63), |key, _| {
            first.push(*key);
            first.len() < 3
        })
        .unwrap();
    assert_eq!(first, model.keys().take(3).copied().collect::<Vec<_>>());
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(u16, Option<u8>)>),
    Absorb(Vec<(u16, Option<u8>)>),
    Compact,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0u16..64, prop::option::of(any::<u8>()));
    let writes = || prop::collection::vec(write.clone(), 1..20);
    let step = prop_oneof![
        4 => writes().prop_map(Step::Apply),
        2 => writes().prop_map(Step::Absorb),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..25)
}

fn run(ground: Ground, steps: &[Step]) {
    let mut index = empty(ground.clone());
    let mut model = BTreeMap::new();
    let mut position = 0;
    for step in steps {
        match step {
            Step::Apply(writes) | Step::Absorb(writes) => {
                position += 1;
                let batch = batch(writes);
                for (key, record) in &batch {
                    match record {
                        Some(record) => model.insert(*key, record.clone()),
                        None => model.remove(key),
                    };
                }
                match step {
                    Step::Absorb(_) => index.absorb(&batch, &mark(position)).unwrap(),
                    _ => index.apply(&batch, &mark(position)).unwrap(),
                }
                index.remember(batch.iter());
            }
            Step::Compact => index.compact(&mark(position)).unwrap(),
            Step::Reopen => {
                index.sync(&mark(position)).unwrap();
                drop(index);
                let (opened, at) = Index::open(ground.clone()).unwrap().unwrap();
                assert_eq!(at, mark(position));
                index = opened;
            }
        }
        check(&index, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_answer_as_one_map_does(steps in steps()) {
        run(simulated(), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_real_table_answers_as_its_twin(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        run(real(dir.path()), &steps);
    }
}

#[test]
fn many_records_lie_in_many_blocks_and_merge_by_size() {
    let ground = simulated();
    let mut builder = Builder::new(ground.clone()).unwrap();
    let many = |n: u64| Key::xattr(Ino(n), 1, 0);
    for n in 1..=10_000 {
        builder.push(&many(n), &record((n % 200) as u8)).unwrap();
    }
    let index = builder.finish(&mark(1)).unwrap();
    for n in [1, 2, 999, 5_000, 10_000] {
        assert_eq!(index.get(&many(n)).unwrap(), Some(record((n % 200) as u8)));
        assert_eq!(index.get(&Key::inode(Ino(n))).unwrap(), None);
    }
    let few: Folded = (1..=10).map(|n| (many(n * 3), None)).collect();
    index.apply(&few, &mark(2)).unwrap();
    index.remember(few.iter());
    index.compact(&mark(2)).unwrap();
    assert_eq!(index.layers.read().bases.len(), 2, "a small base is not merged with one much larger");
    let mut seen = 0;
    index
        .scan(many(1), many(10_000), |_, _| {
            seen += 1;
            true
        })
        .unwrap();
    assert_eq!(seen, 9_990);
    let files = ground.disk.list(WRITER_DIR).unwrap();
    assert_eq!(files.iter().filter(|name| name.starts_with("base-")).count(), 2, "{files:?}");
    assert_eq!(files.iter().filter(|name| name.starts_with("twin-")).count(), 1, "{files:?}");
}

#[test]
fn each_group_of_blocks_has_a_filter_of_its_own_keys() {
    let ground = simulated();
    let mut builder = Builder::new(ground.clone()).unwrap();
    let even = |n: u64| Key::xattr(Ino(2 * n), 1, 0);
    let count = 16_000;
    for n in 1..=count {
        builder.push(&even(n), &record(200)).unwrap();
    }
    drop(builder.finish(&mark(1)).unwrap());
    let (index, _) = Index::open(ground).unwrap().unwrap();
    let layers = index.layers.read();
    let base = &layers.bases[0];
    let blocks = Blocks::default();
    let look = |key: Key| base.get(&key.to_bytes(), base::hash(&key.to_bytes()), &blocks).unwrap();
    assert!((1..=count).all(|n| look(even(n)).is_some()));
    for absent in [Key::inode(Ino(1)), Key::inode(Ino(u64::MAX >> 1))] {
        assert_eq!(look(absent), None, "before all, and behind all");
    }
    // One key in a hundred passes in vain; whatever passes is looked for, and not found.
    let odd: Vec<Key> = (1..=count).map(|n| Key::xattr(Ino(2 * n + 1), 1, 0)).collect();
    let passed = odd.iter().filter(|key| base.may_hold(&key.to_bytes())).count() as u64;
    assert!(passed < count / 40, "{passed} of {count}");
    assert!(odd.iter().all(|key| look(*key).is_none()));
}

#[test]
fn what_is_damaged_is_noticed_and_does_not_count_at_the_next_mount() {
    let ground = simulated();
    let index = {
        let mut builder = Builder::new(ground.clone()).unwrap();
        builder.push(&key(3), &record(5)).unwrap();
        builder.finish(&mark(1)).unwrap()
    };
    let name = index.layers.read().bases[0].name();
    let file = ground.disk.open(&format!("{WRITER_DIR}/{name}")).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, 40).unwrap();
    file.write_at(&[byte[0] ^ 1], 40).unwrap();
    assert!(matches!(index.get(&key(3)), Err(IndexError::Damaged(_))));
    assert!(Index::open(ground).unwrap().is_none(), "it does not count any more");
}

#[test]
fn an_index_of_another_vault_or_cut_short_does_not_open() {
    let ground = simulated();
    drop(empty(ground.clone()));
    let other = Arc::new(Keys::from_master(&SecretKey::from_bytes([8; 32])));
    assert!(Index::open(Ground { keys: other, ..ground.clone() }).is_err());
    let number = current(&ground).unwrap().unwrap();
    ground.disk.remove(&format!("{WRITER_DIR}/twin-{number}")).unwrap();
    assert!(Index::open(ground).is_err());
}

#[test]
fn what_a_failed_sync_left_in_doubt_is_written_elsewhere_before_it_is_said_to_be_safe() {
    let disk = SimulatedDisk::new(3);
    let index = empty(on(disk.clone()));
    let batch: Folded = [(key(3), Some(record(5)))].into();
    index.apply(&batch, &mark(1)).unwrap();
    disk.fail_sync_data(1);
    assert!(matches!(index.sync(&mark(1)), Err(IndexError::Io(_))));
    index.sync(&mark(1)).unwrap();
    for seed in 0..16 {
        let (found, at) = Index::open(on(disk.copy().power_cut(&mut Dice::new(seed)))).unwrap().unwrap();
        assert_eq!(at, mark(1), "seed {seed}");
        assert_eq!(found.get(&key(3)).unwrap(), Some(record(5)), "seed {seed}");
    }
}

/// The process that finds it cannot know whether that is what the disk has.
#[test]
fn an_index_that_cannot_be_synced_when_it_is_found_is_given_up() {
    let disk = SimulatedDisk::new(3);
    drop(empty(on(disk.clone())));
    disk.fail_sync_data(1);
    assert!(matches!(Index::open(on(disk.clone())), Err(IndexError::Io(_))));
    assert!(Index::open(on(disk)).unwrap().is_none());
}
