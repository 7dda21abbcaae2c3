//! The oracle: one drive's history, kept from outside, and the judgement of what is found in it.
//!
//! A machine that takes over begins a history of its own: with a copy of this one, cut off where it found the vault.
//!
//! Owns ghost time: a counter that every change of the model moves; no drive knows it. Each namespace, each version of
//! each file, each barrier has its ghost time, so that a state found after a crash, or in the vault, can be asked: at
//! which instants could this have been?
//!
//! What is demanded of a state: there is an instant g, not before what was acknowledged or seen, at which the namespace
//! was exactly this one, and each file has contents that it once had, not from after g, and not older than its last
//! barrier at or before g had found it.

use std::collections::BTreeMap;

use super::model::{Contents, Names};

/// A state that was found: by mounting.
#[derive(Clone)]
pub struct Found {
    pub names: Names,
    pub files: BTreeMap<u64, Contents>,
}

#[derive(Clone)]
struct Version {
    from: u64,
    contents: Contents,
    /// The vault must not show it: the file was being rewritten without rename (L3).
    hidden: bool,
}

/// What was ordered before the namespace change (or fsync) at `at`: the file as it stood at `call`.
#[derive(Clone, Copy)]
struct Barrier {
    at: u64,
    call: u64,
}

/// What must not be lost: namespaces before `names`, and versions of files that ended before.
#[derive(Clone, Default)]
pub struct Floor {
    pub names: u64,
    pub files: BTreeMap<u64, u64>,
}

impl Floor {
    fn raise_names(&mut self, to: u64) {
        self.names = self.names.max(to);
    }

    fn raise_file(&mut self, ino: u64, to: u64) {
        let floor = self.files.entry(ino).or_default();
        *floor = (*floor).max(to);
    }

    pub fn raise(&mut self, other: &Floor) {
        self.raise_names(other.names);
        other.files.iter().for_each(|(ino, to)| self.raise_file(*ino, *to));
    }
}

#[derive(Clone, Default)]
pub struct Oracle {
    now: u64,
    spaces: Vec<(u64, u64)>,
    versions: BTreeMap<u64, Vec<Version>>,
    barriers: BTreeMap<u64, Vec<Barrier>>,
    /// What this machine must find again (promise 4).
    pub local: Floor,
    /// What every machine must find in the vault: acknowledged by it, or seen there once.
    pub vault: Floor,
    /// Files that are being rewritten without rename, and since when.
    rewritten: BTreeMap<u64, u64>,
}

impl Oracle {
    /// The next instant.
    pub fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    pub fn now(&self) -> u64 {
        self.now
    }

    /// How many states there were, of names and of contents.
    pub fn states(&self) -> usize {
        self.spaces.len() + self.versions.values().map(Vec::len).sum::<usize>()
    }

    pub fn space(&mut self, names: &Names) -> u64 {
        let now = self.tick();
        self.spaces.push((now, names.hash()));
        now
    }

    pub fn version(&mut self, ino: u64, contents: Contents) {
        let from = self.tick();
        let hidden = self.rewritten.contains_key(&ino);
        self.versions.entry(ino).or_default().push(Version { from, contents, hidden });
    }

    /// What the file is from its newest version on, which is empty, the vault must not show until it is closed (L3).
    pub fn hide(&mut self, ino: u64) {
        if let Some(newest) = self.versions.get_mut(&ino).and_then(|versions| versions.last_mut()) {
            newest.hidden = true;
            self.rewritten.insert(ino, newest.from);
        }
    }

    /// It is closed: what it was meanwhile the vault must never show.
    pub fn closed(&mut self, ino: u64) {
        if self.rewritten.remove(&ino).is_some()
            && let Some(newest) = self.versions.get_mut(&ino).and_then(|versions| versions.last_mut())
        {
            newest.hidden = false;
        }
    }

    /// A barrier is about to be asked for, or it takes too long: the vault may show it as it is, and as it becomes.
    pub fn unhide(&mut self, ino: u64) {
        if let Some(since) = self.rewritten.remove(&ino) {
            let versions = self.versions.get_mut(&ino).into_iter().flatten();
            versions.filter(|version| version.from >= since).for_each(|version| version.hidden = false);
        }
    }

    pub fn unhide_all(&mut self) {
        let rewritten: Vec<u64> = self.rewritten.keys().copied().collect();
        rewritten.into_iter().for_each(|ino| self.unhide(ino));
    }

    /// A machine mounts, and finds files as it had made durable, closed or not.
    pub fn mounts(&mut self) {
        self.rewritten.clear();
        self.versions.values_mut().flatten().for_each(|version| version.hidden = false);
    }

    /// Contents that came into being with the namespace at `from`.
    pub fn born(&mut self, ino: u64, from: u64, contents: Contents) {
        self.versions.entry(ino).or_default().push(Version { from, contents, hidden: false });
    }

    pub fn barrier(&mut self, ino: u64, at: u64, call: u64) {
        self.barriers.entry(ino).or_default().push(Barrier { at, call });
    }

    /// An fsync of a file that was called at `call` returned. `remote`: from the vault.
    pub fn acknowledged(&mut self, ino: Option<u64>, call: u64, remote: bool) {
        let at = self.tick();
        if let Some(ino) = ino {
            self.barrier(ino, at, call);
        }
        for floor in [Some(&mut self.local), remote.then_some(&mut self.vault)].into_iter().flatten() {
            floor.raise_names(call);
            if let Some(ino) = ino {
                floor.raise_file(ino, call);
            }
        }
    }

    /// A sync of everything that was called at `call` returned.
    pub fn all_acknowledged(&mut self, call: u64, remote: bool) {
        let inos: Vec<u64> = self.versions.keys().copied().collect();
        self.acknowledged(None, call, remote);
        for ino in inos {
            self.acknowledged(Some(ino), call, remote);
        }
    }

    /// What was made before `then` should have reached the journal by itself.
    pub fn aged(&mut self, then: u64) {
        let inos: Vec<u64> = self.versions.keys().copied().collect();
        self.local.raise_names(then);
        inos.into_iter().for_each(|ino| self.local.raise_file(ino, then));
    }

    /// The vault as another machine finds it. What it shows, it shows for ever.
    pub fn look(&mut self, found: &Found, what: &str) -> Result<u64, String> {
        let floor = self.vault.clone();
        self.followed(found, &floor).map(|seen| seen.names).map_err(|why| format!("{what}: {why}"))
    }

    /// As [`Oracle::look`], not older than `floor`: what had been seen when the look began. Returns what was seen.
    pub fn followed(&mut self, found: &Found, floor: &Floor) -> Result<Floor, String> {
        let at = self.find(found, floor, false).map_err(|why| format!("promise 3: {why}"))?;
        let mut seen = Floor { names: at, files: BTreeMap::new() };
        for (ino, contents) in &found.files {
            let since = floor.files.get(ino).copied().unwrap_or_default();
            let versions = self.versions.get(ino).map(Vec::as_slice).unwrap_or_default();
            let matching = versions.iter().enumerate().find(|(k, version)| {
                version.contents == *contents && versions.get(k + 1).is_none_or(|next| next.from > since)
            });
            if let Some((_, version)) = matching {
                seen.raise_file(*ino, version.from);
            }
        }
        self.vault.raise(&seen);
        Ok(seen)
    }

    /// A mount came back with this state. What it has not has never been. `local` is what its machine owes (promise 4),
    /// beside what the vault does.
    pub fn recovered(&mut self, found: &Found, local: &Floor, what: &str) -> Result<u64, String> {
        let mut floor = self.vault.clone();
        floor.raise(local);
        let at = self.find(found, &floor, true).map_err(|why| format!("{what}: promise 4: {why}"))?;
        self.spaces.retain(|(from, _)| *from <= at);
        self.barriers.values_mut().for_each(|barriers| barriers.retain(|barrier| barrier.at <= at));
        self.local = Floor { names: at, files: BTreeMap::new() };
        for (ino, versions) in &mut self.versions {
            versions.retain(|version| version.from <= at);
            if let Some(contents) = found.files.get(ino) {
                while versions.last().is_some_and(|version| version.contents != *contents) {
                    versions.pop();
                }
                self.local.files.extend(versions.last().map(|version| (*ino, version.from)));
            }
        }
        self.versions.retain(|_, versions| !versions.is_empty());
        // What is being rewritten elsewhere is not here.
        self.mounts();
        self.tick();
        Ok(at)
    }

    /// Is all that the vault acknowledged (with `local`, all that the machine did) in this state?
    pub fn holds(&self, found: &Found, local: bool) -> Result<(), String> {
        let mut floor = self.vault.clone();
        if local {
            floor.raise(&self.local);
        }
        self.find(found, &floor, false).map(drop)
    }

    /// An instant at which the drive was in this state: the last one, or the first.
    fn find(&self, found: &Found, floor: &Floor, last: bool) -> Result<u64, String> {
        let hash = found.names.hash();
        let mut why = None;
        let mut instants: Vec<u64> = Vec::new();
        for (k, (from, space)) in self.spaces.iter().enumerate() {
            let until = self.spaces.get(k + 1).map_or(self.now + 1, |(next, _)| *next);
            if *space == hash && until > floor.names {
                let from = (*from).max(floor.names);
                instants.push(from);
                instants.push(until - 1);
                let versions = self.versions.values().flatten().map(|version| version.from);
                let barriers = self.barriers.values().flatten().map(|barrier| barrier.at - 1);
                instants.extend(versions.chain(barriers).filter(|at| (from..until).contains(at)));
            }
        }
        if instants.is_empty() {
            let when: Vec<_> = self.spaces.iter().filter(|(_, space)| *space == hash).map(|(from, _)| from).collect();
            return Err(match when.is_empty() {
                true => "the namespace is none that this history had".to_owned(),
                false => format!("the namespace is that of {when:?}, older than {}", floor.names),
            });
        }
        instants.sort_unstable();
        instants.dedup();
        let mut judge = |at: &u64| match self.judge(found, floor, *at) {
            Ok(()) => true,
            Err(wrong) => {
                why = Some(format!("as of {at}: {wrong}"));
                false
            }
        };
        let at = if last { instants.iter().rev().find(|at| judge(at)) } else { instants.iter().find(|at| judge(at)) };
        at.copied().ok_or_else(|| why.unwrap_or_default())
    }

    fn judge(&self, found: &Found, floor: &Floor, at: u64) -> Result<(), String> {
        for (ino, contents) in &found.files {
            let barriers = self.barriers.get(ino).map(Vec::as_slice).unwrap_or_default();
            let barrier = barriers.iter().filter(|barrier| barrier.at <= at).map(|barrier| barrier.call).max();
            let need = floor.files.get(ino).copied().max(barrier).unwrap_or_default();
            let versions = self.versions.get(ino).map(Vec::as_slice).unwrap_or_default();
            let fits = versions.iter().enumerate().any(|(k, version)| {
                version.from <= at
                    && !version.hidden
                    && version.contents == *contents
                    && versions.get(k + 1).is_none_or(|next| next.from > need)
            });
            if !fits {
                let had: Vec<_> =
                    versions.iter().map(|v| (v.from, v.contents.size, v.contents.hash >> 48, v.hidden)).collect();
                return Err(format!(
                    "inode {ino:#x} has {} bytes ({:x}) of {:?}, but must be as of {need} (barrier {barrier:?}, \
                     floor {:?}) to {at}; versions (from, size, hash, hidden) {had:x?}",
                    contents.size,
                    contents.hash >> 48,
                    contents.mtime,
                    floor.files.get(ino),
                ));
            }
        }
        Ok(())
    }
}
