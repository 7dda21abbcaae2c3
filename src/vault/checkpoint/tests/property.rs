//! Random histories: a checkpoint holds what a plain map holds, whatever was merged when.

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::chain::hash_of;
use super::super::*;
use super::vault::*;
use crate::base::{ExtentId, Ino, Sequence};
use crate::format::commit::log_name;
use crate::format::key::{Key, Part};
use crate::format::record::{Place, Record};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[derive(Clone, Debug)]
enum Op {
    /// A new file of so many extents; half of them in a segment of its own, else inline.
    New {
        extents: u8,
        inline: bool,
    },
    /// One file's head gets a new size, and new extents.
    Rewrite {
        file: Index,
        size: u32,
    },
    /// One file's head names another's extents.
    Copy {
        from: Index,
        to: Index,
    },
    /// A record of a later version names a file's extents.
    Unknown {
        from: Index,
    },
    Delete {
        file: Index,
    },
    /// Linked again after its deletion (L4): head and extents as they were, carried anew.
    Revive {
        file: Index,
    },
}

#[derive(Clone, Debug)]
enum Event {
    Commit {
        ops: Vec<Op>,
        parts: bool,
    },
    Epoch,
    Checkpoint {
        all: bool,
    },
    /// A checkpoint that is given up after so many requests.
    Abandon {
        after: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let file = any::<Index>;
    prop_oneof![
        4 => (0..4u8, any::<bool>()).prop_map(|(extents, inline)| Op::New { extents, inline }),
        3 => (file(), any::<u32>()).prop_map(|(file, size)| Op::Rewrite { file, size }),
        1 => (file(), file()).prop_map(|(from, to)| Op::Copy { from, to }),
        1 => file().prop_map(|from| Op::Unknown { from }),
        3 => file().prop_map(|file| Op::Delete { file }),
        1 => file().prop_map(|file| Op::Revive { file }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (prop::collection::vec(op(), 0..6), any::<bool>()).prop_map(|(ops, parts)| Event::Commit { ops, parts }),
        1 => Just(Event::Epoch),
        3 => any::<bool>().prop_map(|all| Event::Checkpoint { all }),
        1 => (0..20u8).prop_map(|after| Event::Abandon { after }),
    ]
}

struct Run {
    vault: Vault,
    next: u64,
    /// Deleted files: head and extents.
    graves: Vec<(Ino, BTreeMap<Key, Arc<Record>>)>,
    parts: BTreeSet<ObjectId>,
}

impl Run {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn files(state: &State) -> Vec<Ino> {
        state.keys().filter(|key| key.part == Part::Head).map(|key| key.ino).collect()
    }

    fn extents_of(state: &State, ino: Ino) -> Vec<ExtentId> {
        match state.get(&Key::head(ino)).map(|record| &**record) {
            Some(Record::Head(head)) => head.pieces.iter().map(|piece| piece.extent).collect(),
            _ => Vec::new(),
        }
    }

    /// New extents of a file, and the head that names them.
    fn write(&mut self, changes: &mut BTreeMap<Key, Option<Record>>, ino: Ino, size: u64, count: u8, inline: bool) {
        let id = ObjectId(self.vault.random.bytes());
        let sequence = Sequence(self.vault.hashes.len() as u64 + 1);
        let mut extents = Vec::new();
        for k in 0..u32::from(count) {
            let extent_id = ExtentId { owner: ino, number: self.number() };
            let place = match inline {
                true => Place::Inline { sequence, offset: k * 26 },
                false => Place::Segment { id, offset: k * 26 },
            };
            changes.insert(Key::extent(extent_id), Some(extent(place)));
            extents.push(extent_id);
        }
        if count > 0 && !inline {
            changes.insert(Key::segment(id), Some(segment()));
        }
        changes.insert(Key::head(ino), Some(head(size, &extents)));
    }

    fn op(&mut self, changes: &mut BTreeMap<Key, Option<Record>>, op: Op) {
        let before = self.vault.state.clone();
        let files: Vec<Ino> =
            Run::files(&before).into_iter().filter(|ino| !changes.contains_key(&Key::head(*ino))).collect();
        let pick = |index: Index| (!files.is_empty()).then(|| *index.get(&files));
        match op {
            Op::New { extents, inline } => {
                let ino = Ino(self.number() + 100);
                changes.insert(Key::inode(ino), Some(inode()));
                self.write(changes, ino, u64::from(extents) * 10, extents, inline);
            }
            Op::Rewrite { file, size } => {
                let Some(ino) = pick(file) else { return };
                self.write(changes, ino, size.into(), (size % 3) as u8, size % 5 == 0);
            }
            Op::Copy { from, to } => {
                let (Some(from), Some(to)) = (pick(from), pick(to)) else { return };
                changes.insert(Key::head(to), Some(head(77, &Run::extents_of(&before, from))));
            }
            Op::Unknown { from } => {
                let Some(from) = pick(from) else { return };
                let Some(&id) = Run::extents_of(&before, from).first() else { return };
                let mut w = crate::format::cbor::Writer::new(Vec::new());
                w.map(1).uint(0).map(1).uint(30).array(1).array(2).uint(id.owner.0).uint(id.number);
                let key = [&(self.number() % 40).to_be_bytes()[..], &[100, 1]].concat();
                changes.insert(Key::decode(&key).unwrap(), Some(Record::Other(w.into_inner().into())));
            }
            Op::Delete { file } => {
                let Some(ino) = pick(file) else { return };
                let mut grave = BTreeMap::new();
                for id in Run::extents_of(&before, ino) {
                    if let Some(record) = before.get(&Key::extent(id)) {
                        grave.insert(Key::extent(id), record.clone());
                    }
                }
                for key in [Key::inode(ino), Key::head(ino)] {
                    if let Some(record) = before.get(&key) {
                        grave.insert(key, record.clone());
                        changes.insert(key, None);
                    }
                }
                self.graves.push((ino, grave));
            }
            Op::Revive { file } => {
                if self.graves.is_empty() {
                    return;
                }
                let (ino, grave) = self.graves.swap_remove(file.index(self.graves.len()));
                if changes.contains_key(&Key::inode(ino)) {
                    return;
                }
                changes.extend(grave.into_iter().map(|(key, record)| (key, Some((*record).clone()))));
            }
        }
    }

    async fn event(&mut self, event: Event) {
        match event {
            Event::Epoch => self.vault.begin_epoch().await,
            Event::Commit { ops, parts } => {
                let mut changes = BTreeMap::new();
                ops.into_iter().for_each(|op| self.op(&mut changes, op));
                self.vault.commit(changes, parts).await;
                self.parts.extend(&self.vault.parts);
            }
            Event::Checkpoint { all } => self.checkpoint(if all { Merge::All } else { Merge::BySize }).await,
            Event::Abandon { after } => {
                let before = self.vault.remote.names().await;
                self.vault.remote.left.store(after.into(), Ordering::SeqCst);
                let made = self.vault.make(Merge::BySize).await;
                self.vault.remote.left.store(u32::MAX, Ordering::SeqCst);
                let after = self.vault.remote.names().await;
                assert!(before.is_subset(&after));
                let announced = self.vault.remote.announced.lock().clone();
                for name in after.difference(&before) {
                    assert!(announced.contains(&name.rsplit('/').next().unwrap().parse().unwrap()));
                }
                drop(made);
            }
        }
    }

    async fn checkpoint(&mut self, merge: Merge) {
        let vault = &mut self.vault;
        let made = vault.make(merge).await.unwrap();
        assert_eq!(made.manifest.link(), vault.link());
        assert_eq!((made.manifest.commit, made.manifest.cut), (vault.commit, vault.cut));
        assert_eq!(made.manifest.epoch, vault.epoch);
        assert!(made.manifest.levels.len() < 12, "{} levels", made.manifest.levels.len());
        let old = std::mem::replace(&mut vault.base, (made.checkpoint, made.manifest.clone())).1;
        let (left, live, dead) = swept(&vault.state);
        let read = vault.read().await.unwrap();
        match &made.sweep {
            Some(sweep) => {
                assert_eq!(read, left);
                assert_eq!(sweep.dead, dead);
                let inline = left.values().filter_map(|record| match &**record {
                    Record::Extent(extent) => Some(extent.place),
                    _ => None,
                });
                let mut expected = BTreeMap::new();
                for place in inline {
                    if let Place::Inline { sequence, .. } = place {
                        *expected.entry(sequence).or_default() += 26;
                    }
                }
                assert_eq!(sweep.inline, expected);
                let counts = counts(&vault.remote, &vault.keys, &made.manifest).await.unwrap();
                assert_eq!(counts.iter().map(|c| (c.id, c.live)).collect::<BTreeMap<_, _>>(), live);
                vault.state = left;
            }
            None => {
                assert_ne!(merge, Merge::All);
                // What a full merge dropped before may be missing; nothing that lives is.
                assert_eq!(swept(&read).0, left);
                assert_eq!(made.manifest.swept, old.swept);
            }
        }
        self.totals(&made);
        self.dead(&made, &old).await;
        self.chain().await;
    }

    fn totals(&self, made: &Made) {
        let (state, totals) = (&self.vault.state, made.manifest.totals);
        let inodes = state.keys().filter(|key| key.part == Part::Inode).count() as u64;
        let sizes = state.values().map(|record| if let Record::Head(head) = &**record { head.size } else { 0 });
        assert_eq!((totals.inodes, totals.bytes), (inodes, sizes.sum()));
        assert_eq!(totals.highest, self.vault.highest);
    }

    /// Deletes what is listed as dead: nothing that the checkpoint needs is.
    async fn dead(&mut self, made: &Made, old: &Manifest) {
        let remote = &self.vault.remote;
        let kept: BTreeSet<ObjectId> = made.manifest.segments().map(|part| part.id).collect();
        let mut expected: BTreeSet<ObjectId> = old.segments().map(|part| part.id).collect();
        expected.append(&mut self.parts);
        expected.extend(made.sweep.iter().flat_map(|sweep| &sweep.dead));
        expected.retain(|id| !kept.contains(id));
        let dead: BTreeSet<ObjectId> = made.dead.iter().copied().collect();
        assert!(expected.is_subset(&dead));
        let announced = remote.announced.lock().clone();
        // Beside these, only what this making sent and replaced itself.
        assert!(dead.difference(&expected).all(|id| announced.contains(id)));
        for id in &made.dead {
            remote.delete(&segment_name(*id)).await;
        }
        self.vault.read().await.unwrap();
    }

    async fn chain(&self) {
        let (vault, manifest) = (&self.vault, &self.vault.base.1);
        for (k, &hash) in vault.hashes.iter().enumerate() {
            let sequence = Sequence(k as u64 + 1);
            let found = hash_of(&vault.remote, &vault.keys, manifest, sequence).await.unwrap();
            assert_eq!(found, Some(hash), "{}", log_name(sequence));
        }
        let next = Sequence(vault.hashes.len() as u64 + 1);
        for beyond in [Sequence(0), next] {
            assert_eq!(hash_of(&vault.remote, &vault.keys, manifest, beyond).await.unwrap(), None);
        }
    }
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn a_checkpoint_holds_what_the_log_comes_to(events in prop::collection::vec(event(), 1..24)) {
        block_on(async {
            let vault = Vault::new().await;
            let mut run = Run { vault, next: 0, graves: Vec::new(), parts: BTreeSet::new() };
            for event in events {
                run.event(event).await;
            }
            run.checkpoint(Merge::All).await;
        });
    }
}

/// Whoever makes a checkpoint does it in a task of its own.
#[tokio::test]
async fn making_and_reading_can_move_between_threads() {
    fn movable<T: Send>(value: T) -> T {
        value
    }
    let vault = Vault::new().await;
    movable(vault.make(Merge::All)).await.unwrap();
    movable(vault.read()).await.unwrap();
}
