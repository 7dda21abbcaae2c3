//! A vault whose commits a test makes, and what a plain map says that it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use parking_lot::Mutex;

use super::super::make::{Limits, make_within};
use super::super::*;
use crate::base::{Epoch, ExtentId, Ino, Position, Random, Sequence, Timestamp};
use crate::crypto::secret::Key as SecretKey;
use crate::format::commit::{Body, ChainLink, Commit, LogObject, log_name, seal_part};
use crate::format::key::{Key, Part};
use crate::format::record::{Extent, Head, Inode, Piece, Place, Record, Reference, Segment};
use crate::store::Created;

/// The store, which stops working after so many requests.
pub struct Remote {
    pub objects: Arc<InMemory>,
    pub store: Store,
    pub left: AtomicU32,
    pub announced: Mutex<BTreeSet<ObjectId>>,
    /// Names in the order of their deletion.
    pub deleted: Mutex<Vec<String>>,
    /// Names that it does not delete.
    pub locked: Mutex<BTreeSet<String>>,
    /// Names that were asked for.
    pub got: Mutex<Vec<String>>,
}

impl Remote {
    fn request(&self) -> Result<(), VaultError> {
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
            Ok(_) => Ok(()),
            Err(_) => Err(VaultError::Stopped("the test cut it off".to_owned())),
        }
    }

    pub async fn names(&self) -> BTreeSet<String> {
        self.store.list("", usize::MAX).await.unwrap().into_iter().collect()
    }

    pub async fn delete(&self, name: &str) {
        self.objects.delete(&Path::from(name)).await.unwrap();
    }

    pub async fn overwrite(&self, name: &str, bytes: Vec<u8>) {
        self.objects.put(&Path::from(name), bytes.into()).await.unwrap();
    }
}

impl Fetch for Remote {
    type Error = VaultError;

    fn get(&self, name: String) -> BoxFuture<'_, Result<Option<Bytes>, VaultError>> {
        async move {
            self.request()?;
            self.got.lock().push(name.clone());
            Ok(self.store.get(&name).await?)
        }
        .boxed()
    }
}

impl Upload for Remote {
    fn announce<'a>(&'a self, ids: &'a [ObjectId]) -> BoxFuture<'a, Result<(), VaultError>> {
        self.announced.lock().extend(ids);
        async { Ok(()) }.boxed()
    }

    fn create(&self, name: String, object: Bytes) -> BoxFuture<'_, Result<(), VaultError>> {
        async move {
            self.request()?;
            let id = name.rsplit('/').next().unwrap().parse().unwrap();
            assert!(self.announced.lock().contains(&id), "{name} was not announced");
            assert_eq!(self.store.create(&name, object).await?, Created::New);
            Ok(())
        }
        .boxed()
    }
}

impl Remove for Remote {
    fn list(&self, prefix: &'static str, most: usize) -> BoxFuture<'_, Result<Vec<String>, VaultError>> {
        async move { Ok(self.store.list(prefix, most).await?) }.boxed()
    }

    fn remove(&self, name: String) -> BoxFuture<'_, Result<bool, VaultError>> {
        async move {
            self.request()?;
            if self.locked.lock().contains(&name) {
                return Ok(false);
            }
            self.deleted.lock().push(name.clone());
            self.delete(&name).await;
            Ok(true)
        }
        .boxed()
    }
}

pub type State = BTreeMap<Key, Arc<Record>>;

pub struct Vault {
    pub remote: Remote,
    pub keys: Keys,
    pub random: Random,
    /// What the log comes to.
    pub state: State,
    pub highest: Ino,
    /// Of all log objects, from the first.
    pub hashes: Vec<Hash>,
    pub epoch: Epoch,
    /// The checkpoint that counts.
    pub base: ((ObjectId, Hash), Manifest),
    pub commit: Option<ChainLink>,
    pub cut: Position,
    /// The parts of the newest commit.
    pub parts: Vec<ObjectId>,
}

impl Vault {
    pub async fn new() -> Vault {
        let objects = Arc::new(InMemory::new());
        let remote = Remote {
            store: Store::over(objects.clone(), "memory:///"),
            objects,
            left: AtomicU32::new(u32::MAX),
            announced: Mutex::default(),
            deleted: Mutex::default(),
            locked: Mutex::default(),
            got: Mutex::default(),
        };
        let (keys, random) = (Keys::from_master(&SecretKey::from_bytes([1; 32])), Random::Kernel);
        let (id, empty) = (ObjectId(random.bytes()), Manifest::default());
        let object = empty.seal(&keys, &random, id).unwrap();
        let base = ((id, kdf::hash(&object)), empty);
        remote.store.create(&checkpoint_name(id), object.into()).await.unwrap();
        Vault {
            remote,
            keys,
            random,
            state: State::new(),
            highest: Ino::NONE,
            hashes: Vec::new(),
            epoch: Epoch(0),
            base,
            commit: None,
            cut: Position(0),
            parts: Vec::new(),
        }
    }

    pub fn link(&self) -> ChainLink {
        ChainLink { sequence: Sequence(self.hashes.len() as u64), hash: self.hashes.last().copied().unwrap_or([0; 32]) }
    }

    async fn append(&mut self, body: Body) -> Sequence {
        let sequence = Sequence(self.hashes.len() as u64 + 1);
        let object = LogObject {
            sequence,
            previous: self.link().hash,
            epoch: self.epoch,
            header: (1, [0; 32]),
            checkpoint: self.base.0,
            block: None,
            host: "test".to_owned(),
            time: Timestamp::default(),
            body,
        };
        let object = object.seal(&self.keys, &self.random).unwrap();
        self.hashes.push(kdf::hash(&object));
        self.remote.store.create(&log_name(sequence), object.into()).await.unwrap();
        sequence
    }

    pub async fn begin_epoch(&mut self) {
        self.epoch.0 += 1;
        self.append(Body::Epoch { writer: [1; 16] }).await;
    }

    /// Commits changes; with `parts`, all but the first entry lie in parts of one entry each.
    pub async fn commit(&mut self, changes: BTreeMap<Key, Option<Record>>, parts: bool) {
        let mut records: Vec<Entry> = changes.into_iter().map(|(key, record)| (key, record.map(Arc::new))).collect();
        for (key, record) in &records {
            match record {
                Some(record) => _ = self.state.insert(*key, record.clone()),
                None => _ = self.state.remove(key),
            }
            if key.part == Part::Inode && record.is_some() {
                self.highest = self.highest.max(key.ino);
            }
        }
        let mut commit = Commit { cut: Position(self.cut.0 + 7), ..Commit::default() };
        let rest = if parts && records.len() > 1 { records.split_off(1) } else { Vec::new() };
        for entry in rest {
            let id = ObjectId(self.random.bytes());
            let object = seal_part(&self.keys, &self.random, id, &[entry]).unwrap();
            commit.parts.push(CommitPart { id, len: object.len() as u32, hash: kdf::hash(&object) });
            self.remote.store.create(&segment_name(id), object.into()).await.unwrap();
        }
        commit.records = records;
        self.cut = commit.cut;
        self.parts = commit.parts.iter().map(|part| part.id).collect();
        self.append(Body::Commit(commit)).await;
        self.commit = Some(self.link());
    }

    /// Makes a checkpoint in small batches and runs, which does not count yet.
    pub async fn make(&self, merge: Merge) -> Result<Made, VaultError> {
        let maker = Maker { remote: &self.remote, keys: &self.keys, random: &self.random, usage: None, merge };
        make_within(&maker, &self.base.1, self.link(), Limits { batch: 900, last: 450, run: 500 }).await
    }

    /// All records that the checkpoint which counts holds.
    pub async fn read(&self) -> Result<State, VaultError> {
        let manifest = manifest(&self.remote, &self.keys, self.base.0).await?;
        assert_eq!(manifest, self.base.1);
        let mut records = Records::new(&self.remote, &self.keys, &manifest);
        let (mut state, mut last) = (State::new(), None);
        while let Some((key, record)) = records.next().await? {
            assert!(last < Some(key), "{key:?} after {last:?}");
            last = Some(key);
            state.insert(key, record);
        }
        Ok(state)
    }
}

/// Extents that records of a state name.
pub fn named(state: &State) -> BTreeSet<ExtentId> {
    let mut named = BTreeSet::new();
    for record in state.values().filter(|record| !matches!(***record, Record::Extent(_))) {
        record.references(|reference| {
            if let Reference::Extent(id) = reference {
                named.insert(id);
            }
        });
    }
    named
}

/// What a full merge leaves, and the segments that it finds dead.
pub fn swept(state: &State) -> (State, BTreeMap<ObjectId, u64>, Vec<ObjectId>) {
    let named = named(state);
    let (mut live, mut all) = (BTreeMap::<ObjectId, u64>::new(), BTreeSet::new());
    let mut left = state.clone();
    for (key, record) in state {
        match (&**record, key.part) {
            (Record::Segment(_), Part::Segment { id }) => _ = all.insert(id),
            (Record::Extent(extent), Part::Extent { number }) => {
                let lives = named.contains(&ExtentId { owner: key.ino, number });
                if let Place::Segment { id, .. } = extent.place {
                    all.insert(id);
                    *live.entry(id).or_default() += if lives { u64::from(extent.stored) } else { 0 };
                }
                if !lives {
                    left.remove(key);
                }
            }
            _ => {}
        }
    }
    live.retain(|_, bytes| *bytes > 0);
    let dead: Vec<ObjectId> = all.into_iter().filter(|id| !live.contains_key(id)).collect();
    dead.iter().for_each(|id| _ = left.remove(&Key::segment(*id)));
    (left, live, dead)
}

pub fn inode() -> Record {
    Record::Inode(Inode::root((0, 0), Timestamp::default()))
}

pub fn head(size: u64, extents: &[ExtentId]) -> Record {
    let pieces =
        extents.iter().enumerate().map(|(k, &extent)| Piece { offset: k as u64 * 4096, len: 10, extent, start: 0 });
    let time = Timestamp::default();
    Record::Head(Head {
        size,
        atime: time,
        mtime: time,
        ctime: time,
        position: Position(1),
        pieces: pieces.collect(),
        spilled: false,
        extra: None,
    })
}

pub fn extent(place: Place) -> Record {
    Record::Extent(Extent {
        key_id: [1; 16],
        nonce: [2; 16],
        frame_log2: 14,
        len: 10,
        stored: 26,
        frames: Vec::new(),
        place,
        extra: None,
    })
}

pub fn segment() -> Record {
    Record::Segment(Segment { len: 66_560, extra: None })
}
