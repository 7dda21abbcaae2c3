//! What earlier searches found, by file version and pattern, so that a search that is repeated reads only what has changed.
//!
//! In memory; or sealed in files of the state directory, under a key that only this process has, with their places in
//! memory. A version is of one state of a file's bytes, so nothing here is ever stale.
//!
//! Owns the directory `search` of the state directory. Invariants: bounded in bytes, in memory and on the disk; what was
//! not used for the time of the cache is swept. An error of the disk turns the keeping there off, and nothing else.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::hits::Hits;
use crate::base::disk::{Disk, File};
use crate::base::{Ino, Random};
use crate::cache::glance::ContentsVersion;
use crate::crypto::aead;
use crate::crypto::secret::{Key as SecretKey, SecretVec};

/// In the state directory.
const DIR: &str = "search";
/// What an entry takes beside its hits.
const COST: usize = 192;

/// A file's version, and a hash of what was looked for.
pub type Key = (Ino, ContentsVersion, [u8; 16]);

pub struct Results {
    inner: Mutex<Inner>,
    most: usize,
    ttl: Duration,
}

struct Inner {
    /// Last used first.
    kept: LruCache<Key, Kept>,
    bytes: usize,
    /// `None`: in memory.
    files: Option<Files>,
}

struct Kept {
    hits: Where,
    cost: usize,
    used: Instant,
}

enum Where {
    Memory(Arc<Hits>),
    Sealed(Place),
}

#[derive(Clone, Copy)]
struct Place {
    generation: u64,
    offset: u64,
    len: usize,
}

impl Results {
    /// At most so many bytes; 0 keeps nothing. If it is to be `sealed`, what was found lies on the disk.
    pub fn new(most: usize, ttl: Duration, disk: Option<Arc<dyn Disk>>, sealed: bool) -> Results {
        let files = disk.and_then(|disk| {
            // What a process before has left nobody can open.
            let opened = remove_all(&*disk).and_then(|()| match sealed && most > 0 {
                true => Files::new(disk, most as u64 / 2).map(Some),
                false => Ok(None),
            });
            opened.inspect_err(|error| log::warn!("what searches find is kept in memory: {error}")).ok().flatten()
        });
        Results { inner: Mutex::new(Inner { kept: LruCache::unbounded(), bytes: 0, files }), most, ttl }
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Hits>> {
        let mut inner = self.inner.lock();
        let kept = inner.kept.get_mut(key)?;
        kept.used = Instant::now();
        let place = match &kept.hits {
            Where::Memory(hits) => return Some(hits.clone()),
            Where::Sealed(place) => *place,
        };
        let (file, key_of_all) = inner.files.as_ref()?.file(&place)?;
        drop(inner);
        // The file may be begun anew meanwhile: then it does not open, and is as if it were not kept.
        let sealed = read(&*file, &place).inspect_err(|error| log::debug!("a kept result: {error}")).ok()?;
        let opened = open(&key_of_all, &place, &sealed)?;
        Hits::from_bytes(&opened).map(Arc::new)
    }

    pub fn put(&self, key: Key, hits: &Arc<Hits>) {
        let mut inner = self.inner.lock();
        if self.most == 0 {
            return;
        }
        let sealed = match &mut inner.files {
            // A file without matches is all in its key.
            Some(files) if !hits.is_empty() => match files.put(&hits.to_bytes()) {
                Ok(place) => place,
                Err(error) => {
                    log::warn!("what searches find is kept in memory from now on: {error}");
                    inner.files = None;
                    None
                }
            },
            _ => None,
        };
        let (hits, cost) = match sealed {
            Some(place) => (Where::Sealed(place), COST),
            None => (Where::Memory(hits.clone()), COST + hits.cost()),
        };
        inner.bytes += cost;
        if let Some((_, old)) = inner.kept.push(key, Kept { hits, cost, used: Instant::now() }) {
            inner.bytes -= old.cost;
        }
        let mut gone = Vec::new();
        while inner.bytes > self.most
            && let Some((_, old)) = inner.kept.pop_lru()
        {
            inner.bytes -= old.cost;
            gone.push(old);
        }
        drop(inner);
        // Wiped here, outside the lock.
        drop(gone);
    }

    /// Lets go of what nobody has used for its time.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut gone = Vec::new();
        let mut inner = self.inner.lock();
        while let Some((_, oldest)) = inner.kept.peek_lru()
            && now.duration_since(oldest.used) >= self.ttl
            && let Some((_, old)) = inner.kept.pop_lru()
        {
            inner.bytes -= old.cost;
            gone.push(old);
        }
        if inner.kept.is_empty()
            && let Some(files) = &mut inner.files
            && let Err(error) = files.clear()
        {
            log::debug!("a file of sealed results stays: {error}");
        }
        drop(inner);
        drop(gone);
    }

    /// Lets go of everything.
    pub fn clear(&self) {
        let mut inner = self.inner.lock();
        let gone = std::mem::replace(&mut inner.kept, LruCache::unbounded());
        inner.bytes = 0;
        drop(inner);
        drop(gone);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.inner.lock().kept.len()
    }
}

/// Two files at most: one that is written, and the one before it. When the first is full, the second goes.
struct Files {
    disk: Arc<dyn Disk>,
    key: SecretKey,
    /// Of one file.
    most: u64,
    generation: u64,
    open: Vec<(u64, Arc<dyn File>)>,
    end: u64,
}

impl Files {
    fn new(disk: Arc<dyn Disk>, most: u64) -> io::Result<Files> {
        disk.create_dir(DIR)?;
        let key = SecretKey::random(&Random::Kernel);
        Ok(Files { disk, key, most, generation: 0, open: Vec::new(), end: 0 })
    }

    fn file(&self, place: &Place) -> Option<(Arc<dyn File>, SecretKey)> {
        let (_, file) = self.open.iter().find(|(generation, _)| *generation == place.generation)?;
        Some((file.clone(), self.key.clone()))
    }

    /// `None` if it is too large to be kept.
    fn put(&mut self, plain: &[u8]) -> io::Result<Option<Place>> {
        let len = aead::NONCE_LEN + plain.len() + aead::TAG_LEN;
        if len as u64 > self.most {
            return Ok(None);
        }
        if self.open.is_empty() || self.end + len as u64 > self.most {
            self.begin()?;
        }
        let Some((generation, file)) = self.open.last() else { return Ok(None) };
        let place = Place { generation: *generation, offset: self.end, len };
        let nonce: [u8; aead::NONCE_LEN] = Random::Kernel.bytes();
        let sealed = [&nonce[..], &aead::seal(&self.key, &nonce, &about(&place), plain)].concat();
        file.write_at(&sealed, place.offset)?;
        self.end += len as u64;
        Ok(Some(place))
    }

    fn begin(&mut self) -> io::Result<()> {
        if self.open.len() > 1 {
            let (generation, _) = self.open.remove(0);
            self.disk.remove(&name_of(generation))?;
        }
        self.generation += 1;
        self.open.push((self.generation, self.disk.create(&name_of(self.generation))?));
        self.end = 0;
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        let open = std::mem::take(&mut self.open);
        open.iter().try_for_each(|(generation, _)| self.disk.remove(&name_of(*generation)))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            log::debug!("a file of sealed results stays: {error}");
        }
    }
}

fn remove_all(disk: &dyn Disk) -> io::Result<()> {
    disk.list(DIR)?.iter().try_for_each(|name| disk.remove(&format!("{DIR}/{name}")))
}

fn name_of(generation: u64) -> String {
    format!("{DIR}/{generation}")
}

/// What is authenticated beside it: where it lies.
fn about(place: &Place) -> [u8; 16] {
    let mut about = [0; 16];
    about[..8].copy_from_slice(&place.generation.to_le_bytes());
    about[8..].copy_from_slice(&place.offset.to_le_bytes());
    about
}

fn read(file: &dyn File, place: &Place) -> io::Result<Vec<u8>> {
    let mut sealed = vec![0; place.len];
    file.read_at(&mut sealed, place.offset)?;
    Ok(sealed)
}

fn open(key: &SecretKey, place: &Place, sealed: &[u8]) -> Option<SecretVec> {
    let (nonce, sealed) = sealed.split_first_chunk::<{ aead::NONCE_LEN }>()?;
    aead::open(key, nonce, &about(place), sealed).ok().map(SecretVec::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::disk::simulated::SimulatedDisk;

    const TTL: Duration = Duration::from_secs(60);

    fn key(ino: u64) -> Key {
        (Ino(ino), ContentsVersion::default(), [7; 16])
    }

    fn found(text: &str, times: u64) -> Arc<Hits> {
        let mut hits = Hits::default();
        (0..times).for_each(|line| hits.push(line, text.as_bytes()));
        Arc::new(hits)
    }

    fn kinds() -> [(Results, Option<Arc<SimulatedDisk>>); 2] {
        let disk = SimulatedDisk::new(7);
        let sealed = Results::new(64 << 10, TTL, Some(disk.clone()), true);
        [(Results::new(64 << 10, TTL, None, false), None), (sealed, Some(disk))]
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_found_is_kept_for_its_time() {
        for (results, disk) in kinds() {
            results.put(key(1), &found("a secret line", 3));
            results.put(key(2), &found("", 0));
            tokio::time::advance(TTL / 2).await;
            assert_eq!(results.get(&key(1)), Some(found("a secret line", 3)));
            tokio::time::advance(TTL / 2).await;
            results.sweep();
            assert_eq!((results.get(&key(2)), results.len()), (None, 1));
            tokio::time::advance(TTL / 2).await;
            results.sweep();
            assert_eq!((results.get(&key(1)), results.len()), (None, 0));
            assert!(disk.is_none_or(|disk| disk.list(DIR).unwrap().is_empty()));
        }
    }

    #[tokio::test]
    async fn it_is_bounded_and_the_oldest_goes_first() {
        for (results, disk) in kinds() {
            for ino in 0..1000 {
                results.put(key(ino), &found("0123456789", 20));
            }
            assert_eq!(results.get(&key(0)), None);
            assert_eq!(results.get(&key(999)), Some(found("0123456789", 20)));
            if let Some(disk) = disk {
                let files = disk.list(DIR).unwrap();
                assert!(files.len() <= 2, "{files:?}");
            }
        }
    }

    #[test]
    fn nothing_readable_lies_on_the_disk() {
        let disk = SimulatedDisk::new(7);
        let results = Results::new(64 << 10, TTL, Some(disk.clone()), true);
        results.put(key(1), &found("a secret line", 3));
        let [name] = &disk.list(DIR).unwrap()[..] else { panic!("one file") };
        let file = disk.open(&format!("{DIR}/{name}")).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        assert!(bytes.len() > 39 && !bytes.windows(6).any(|part| part == b"secret"));
        // Another byte there is as if it were not kept.
        file.write_at(&[!bytes[40]], 40).unwrap();
        assert_eq!(results.get(&key(1)), None);
    }

    #[test]
    fn what_a_killed_process_left_on_the_disk_goes() {
        for sealed in [false, true] {
            let disk = SimulatedDisk::new(7);
            let killed = Results::new(64 << 10, TTL, Some(disk.clone()), true);
            killed.put(key(1), &found("a secret line", 3));
            std::mem::forget(killed);
            assert_eq!(disk.list(DIR).unwrap().len(), 1);
            let results = Results::new(64 << 10, TTL, Some(disk.clone()), sealed);
            assert!(disk.list(DIR).unwrap().is_empty() && results.get(&key(1)).is_none());
        }
    }
}
