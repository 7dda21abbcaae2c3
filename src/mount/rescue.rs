//! Rescue: brings back the files of histories that were set aside (E3).
//!
//! | file | what it does |
//! |---|---|
//! | `history` | one set-aside history: its records, its bytes, what it changed that the vault lacks |
//! | `output` | writes files out, never over others |
//! | `same` | whether what stands there is what would be written |
//!
//! Owns the order: which histories there are, unlock, write out, remove if asked. Does not own the words that a person
//! reads, nor how a history comes to be set aside (`vault::aside`).
//!
//! Invariants: the vault is only read; a history is removed only after every file of it was written whole (or was read, and
//! stood there as it would be written) and is safe;
//! bytes that are not there are told and left out, never made up.

mod history;
mod output;
mod same;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::{MountError, state_dir};
use crate::base::disk::{Disk, RealDisk};
use crate::base::{Epoch, Position, Timestamp};
use crate::crypto::secret::Passphrase;
use crate::format::keys::Keys;
use crate::history::count_lacking;
use crate::index;
use crate::journal::Journal;
use crate::store::{Store, StoreError};
use crate::vault::VaultError;
use crate::vault::aside::{self, About, SetAside};
use crate::vault::pin::{Pin, PinFile};
use crate::vault::unlock::{self, Unlocked};
use crate::vault::walk;
use history::OldHistory;
use output::Missing;
pub use output::{Range, default_name, earlier};

/// What is asked for.
pub struct Request {
    pub state: PathBuf,
    /// A new directory, or one to which files are added.
    pub to: PathBuf,
    /// Where an earlier rescue may have written them: a history of which all stands there is not written again.
    pub earlier: Option<PathBuf>,
    /// Remove each history that was written out whole.
    pub remove: bool,
}

/// What became of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub to: PathBuf,
    pub histories: Vec<HistoryReport>,
}

impl Report {
    /// Did everything come whole?
    pub fn is_whole(&self) -> bool {
        self.histories.iter().all(HistoryReport::is_whole)
    }
}

/// What became of one history. Paths are relative to where it was written.
#[derive(Debug, Default, Serialize)]
pub struct HistoryReport {
    /// In the state directory.
    pub directory: String,
    pub set_aside: Option<String>,
    pub changes: u64,
    /// Where it was written.
    pub to: PathBuf,
    /// Its index was not usable: what it had not changed itself was taken from the vault's newest state.
    pub based_on_vault: bool,
    pub written: Vec<String>,
    /// What stood there already, with the same contents.
    pub found: Vec<String>,
    pub incomplete: Vec<Incomplete>,
    pub not_written: Vec<NotWritten>,
    /// Names that this history removed; files there are as others have them now.
    pub removed: Vec<String>,
    pub renamed: Vec<Renamed>,
    /// How many names more it removed or changed; nothing tells any more which they were.
    pub names_unknown: u64,
    /// Owners, attributes or times that could not be set.
    pub attributes_lost: Vec<NotWritten>,
    /// The set-aside history is not kept any more.
    pub deleted: bool,
}

impl HistoryReport {
    fn of(place: &Place) -> HistoryReport {
        let since = |aside: &SetAside| super::drive::show(Timestamp { secs: aside.about.time, nanos: 0 });
        HistoryReport {
            directory: place.directory.clone(),
            set_aside: place.aside.as_ref().map(since),
            changes: place.about.changes,
            ..HistoryReport::default()
        }
    }

    pub fn is_whole(&self) -> bool {
        self.incomplete.is_empty() && self.not_written.is_empty()
    }
}

#[derive(Debug, Serialize)]
pub struct Incomplete {
    /// As it was written: with the suffix `.incomplete`.
    pub path: String,
    /// Holes there: these bytes are nowhere any more.
    pub ranges: Vec<Range>,
}

#[derive(Debug, Serialize)]
pub struct NotWritten {
    pub path: String,
    pub why: String,
}

#[derive(Debug, Serialize)]
pub struct Renamed {
    pub from: String,
    pub to: String,
}

/// A history, and where its journal and index lie.
struct Place {
    root: PathBuf,
    directory: String,
    about: About,
    aside: Option<SetAside>,
}

/// Writes out all that is set aside; and a journal that the next mount would set aside, if no process uses it.
pub async fn rescue(store: &Store, passphrase: &Passphrase, request: &Request) -> Result<Report, MountError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(request.state.clone()));
    let held = match state_dir::lock(&request.state) {
        Ok(lock) => Some(lock),
        Err(VaultError::StateInUse { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let mut report = Report { to: request.to.clone(), histories: Vec::new() };
    let all = aside::all(&*disk)?;
    if all.is_empty() && held.is_none() {
        return Ok(report);
    }
    // Whoever reads them twice at once would be told that they are in use.
    let asides = request.state.join(aside::ASIDE_DIR);
    let _alone = if all.is_empty() { None } else { Some(state_dir::lock(&asides)?) };
    store.must_exist();
    let pins = PinFile::open(disk.clone())?;
    let keys = Arc::new(unlock(store, passphrase, &pins).await?.keys);
    let mut places: Vec<Place> = all.into_iter().map(|aside| Place::of(&request.state, aside)).collect();
    let mut held = held;
    if held.is_some() {
        match foreign_journal(store, &keys, &disk, &request.state, &pins).await? {
            Some(place) => places.push(place),
            // A mount need not wait for the rest.
            None => held = None,
        }
    }
    let several = places.len() > 1;
    for (number, place) in places.into_iter().enumerate() {
        let of = |to: &PathBuf| if several { to.join(format!("history-{}", number + 1)) } else { to.clone() };
        let (to, earlier) = (of(&request.to), request.earlier.as_ref().map(of));
        let old = (store, &keys, pins.get());
        let mut one = match write_out(old, &request.state, &place, &to, earlier.as_deref()).await {
            // The others come all the same.
            Err(error) if several => {
                log::error!("{}: {error}", place.directory);
                let failed = NotWritten { path: place.directory.clone(), why: error.to_string() };
                HistoryReport { to, not_written: vec![failed], ..HistoryReport::of(&place) }
            }
            one => one?,
        };
        if let Some(aside) = &place.aside
            && request.remove
            && one.is_whole()
        {
            remove(&request.state, aside)?;
            one.deleted = true;
        }
        report.histories.push(one);
    }
    if let Some(earlier) = request.earlier.as_ref()
        && !report.histories.is_empty()
        && report.histories.iter().all(|one| one.to.starts_with(earlier))
    {
        report.to = earlier.clone();
    }
    drop(held);
    Ok(report)
}

async fn unlock(store: &Store, passphrase: &Passphrase, pins: &PinFile) -> Result<Unlocked, VaultError> {
    let pin = pins.get();
    match unlock::unlock(store, passphrase, pin.as_ref()).await {
        Err(VaultError::Store(error @ StoreError::Unavailable { .. })) => {
            // What lies on this machine can be had without it.
            let Some((pin, header)) = pin.zip(pins.header().ok()) else { return Err(error.into()) };
            unlock::unlock_kept(store.url(), header, passphrase, &pin).await
        }
        unlocked => unlocked,
    }
}

impl Place {
    fn of(state: &Path, aside: SetAside) -> Place {
        Place {
            root: state.join(&aside.dir),
            directory: aside.dir.clone(),
            about: aside.about.clone(),
            aside: Some(aside),
        }
    }
}

/// A journal in its place that holds changes which the vault cannot take: a mount would be refused, or set it aside.
async fn foreign_journal(
    store: &Store,
    keys: &Arc<Keys>,
    disk: &Arc<dyn Disk>,
    state: &Path,
    pins: &PinFile,
) -> Result<Option<Place>, VaultError> {
    let dir = super::drive::JOURNAL_DIR;
    let recovered = Journal::recover(disk.clone(), dir, keys.clone(), Position(0))?;
    let cut = recovered.took.and_then(|(_, cut)| cut).unwrap_or_default();
    let known = (cut, recovered.low);
    let changes = count_lacking(&recovered.changes, known);
    if changes == 0 {
        return Ok(None);
    }
    let pin = pins.get();
    let walked = match walk::walk(store, keys, pin.as_ref(), None).await {
        Ok(walked) => walked,
        Err(VaultError::Store(error)) => {
            log::warn!("{error}: whether the journal in its place can go on is not known; it is left alone");
            return Ok(None);
        }
        Err(VaultError::RolledBack(why)) => {
            log::warn!("{why}: the journal in its place is left alone until a mount accepts that");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let newest = walked.newest;
    let followed = pin.is_some_and(|pin| pin.link == newest.link && newest.idle);
    if followed || newest.block.is_some_and(|block| recovered.blocks.contains(&block)) {
        return Ok(None);
    }
    let shared = match (pins.standing().reserved, pin) {
        (Some(reserved), _) => Epoch(reserved.0.saturating_sub(1)),
        (None, pin) => pin.map_or(newest.epoch, |pin| pin.epoch),
    };
    let link = pin.map_or(newest.link, |pin| pin.link);
    let about =
        About::new(Timestamp::default(), changes, known, shared, link, "another machine has written to the vault");
    Ok(Some(Place { root: state.to_owned(), directory: dir.to_owned(), about, aside: None }))
}

async fn write_out(
    (store, keys, pin): (&Store, &Arc<Keys>, Option<Pin>),
    state: &Path,
    place: &Place,
    to: &Path,
    earlier: Option<&Path>,
) -> Result<HistoryReport, MountError> {
    let scratch = Scratch(state.join(format!("rescue-{}", std::process::id())));
    let old = OldHistory::open(store, keys, pin.as_ref(), &place.root, &place.about, &scratch.0).await?;
    let report =
        |to: &Path| HistoryReport { to: to.to_owned(), based_on_vault: old.based_on_vault, ..HistoryReport::of(place) };
    if let Some(earlier) = earlier {
        let mut found = report(earlier);
        output::write(&old, earlier, Missing::Tell, &mut found).await?;
        if found.is_whole() {
            return Ok(found);
        }
    }
    let mut report = report(to);
    output::write(&old, to, Missing::Write, &mut report).await?;
    Ok(report)
}

/// An index that is only for this, and goes with it.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                log::warn!("{}: not removed: {error}", self.0.display());
            }
            _ => {}
        }
    }
}

/// What says that it is there goes first: half of one is none.
fn remove(state: &Path, aside: &SetAside) -> Result<(), MountError> {
    let fails = |path: &Path, error| MountError::io(path.display().to_string(), error);
    let (file, dir) = (state.join(aside.file()), state.join(&aside.dir));
    std::fs::remove_file(&file).map_err(|e| fails(&file, e))?;
    let above = state.join(aside::ASIDE_DIR);
    crate::base::disk::sync_path(&above).map_err(|e| fails(&above, e))?;
    std::fs::remove_dir_all(&dir).map_err(|e| fails(&dir, e))
}

/// Where an index lies below the root of a history.
const INDEX: &str = index::WRITER_DIR;
