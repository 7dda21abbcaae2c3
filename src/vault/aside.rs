//! Histories that were set aside: a journal whose changes the vault can not take any more, with the index below it (E3).
//!
//! Each is a directory `aside/NAME`, holding `journal` and `index`, beside a file `aside/NAME.json` that says what it is.
//! Owns those names and the order in which they come to be. Does not own what rescue makes of them.
//!
//! Invariants
//! - Nothing is copied and nothing removed: directories are renamed, the index before the journal. As long as the
//!   journal is in its place, the next mount comes here again; and it goes on with a directory that has no journal yet.
//! - The file says nothing secret: numbers and times.

use serde::{Deserialize, Serialize};

use super::VaultError;
use crate::base::disk::{self, Disk};
use crate::base::{Epoch, Position, Timestamp};
use crate::format::commit::ChainLink;
use crate::journal::Journal;

/// Where they lie in the state directory.
pub const ASIDE_DIR: &str = "aside";
const END: &str = ".json";
/// No file that says what a history is is larger.
const ABOUT_MAX: u64 = 64 * 1024;

/// What a set-aside history is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct About {
    version: u32,
    /// When it was set aside: seconds since 1970.
    pub time: i64,
    /// How many changes the vault lacks.
    pub changes: u64,
    /// The vault had taken this history up to this position.
    pub cut: u64,
    /// ... and all contents up to this one; without it, up to the cut.
    #[serde(default)]
    pub low: Option<u64>,
    /// Numbers of later epochs mean other inodes in the vault than in this history.
    pub shared_epoch: u32,
    /// The newest log object that both histories share, as far as this machine knows.
    pub sequence: u64,
    pub why: String,
}

impl About {
    pub fn new(
        time: Timestamp,
        changes: u64,
        (cut, low): (Position, Position),
        shared: Epoch,
        link: ChainLink,
        why: &str,
    ) -> About {
        let why = why.to_owned();
        About {
            version: 1,
            time: time.secs,
            changes,
            cut: cut.0,
            low: (low < cut).then_some(low.0),
            shared_epoch: shared.0,
            sequence: link.sequence.0,
            why,
        }
    }

    /// What the vault had taken of it: names up to the first, all contents up to the second.
    pub fn known(&self) -> (Position, Position) {
        (Position(self.cut), Position(self.low.unwrap_or(self.cut)))
    }
}

/// A history that was set aside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetAside {
    /// `aside/NAME`, in the state directory.
    pub dir: String,
    pub about: About,
}

impl SetAside {
    pub fn journal(&self) -> String {
        format!("{}/journal", self.dir)
    }

    pub fn index(&self) -> String {
        format!("{}/index", self.dir)
    }

    /// The file that says what it is.
    pub fn file(&self) -> String {
        format!("{}{END}", self.dir)
    }
}

/// All that are whole, the oldest first.
pub fn all(disk: &dyn Disk) -> Result<Vec<SetAside>, VaultError> {
    let mut all = known(disk)?;
    all.retain(|aside| has_files(disk, &aside.journal()));
    Ok(all)
}

/// What is aside stays there: whoever set it aside may have died before that was durable, and a power cut later would bring
/// old files back between new ones.
pub fn settle(disk: &dyn Disk) -> Result<(), VaultError> {
    let known = known(disk)?;
    for SetAside { dir, .. } in &known {
        match disk.sync_dir(dir) {
            // Somebody has removed it, and left what says that it is there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            synced => synced.map_err(|e| failed(dir, e))?,
        }
    }
    match known.is_empty() {
        true => Ok(()),
        false => [ASIDE_DIR, ""].into_iter().try_for_each(|dir| disk.sync_dir(dir).map_err(|e| failed(dir, e))),
    }
}

fn known(disk: &dyn Disk) -> Result<Vec<SetAside>, VaultError> {
    let mut all = Vec::new();
    for name in disk.list(ASIDE_DIR).map_err(|e| failed(ASIDE_DIR, e))? {
        let Some(name) = name.strip_suffix(END) else { continue };
        let dir = format!("{ASIDE_DIR}/{name}");
        let file = format!("{dir}{END}");
        let bytes = disk::read(disk, &file, ABOUT_MAX).map_err(|e| failed(&file, e))?.unwrap_or_default();
        let about = serde_json::from_slice(&bytes)
            .map_err(|e| VaultError::State { path: file, why: format!("it is damaged ({e})") })?;
        all.push(SetAside { dir, about });
    }
    Ok(all)
}

fn has_files(disk: &dyn Disk, dir: &str) -> bool {
    disk.list(dir).is_ok_and(|names| !names.is_empty())
}

/// Sets journal and index aside. Both must be closed. After a crash half-way it is done again, and goes on.
pub fn set_aside(disk: &dyn Disk, journal: &str, index: &str, about: About) -> Result<SetAside, VaultError> {
    let begun = known(disk)?.into_iter().find(|aside| !has_files(disk, &aside.journal()));
    let aside = match begun {
        Some(begun) => SetAside { about, ..begun },
        None => SetAside { dir: free_name(disk, &about)?, about },
    };
    disk.create_dir(&aside.dir).map_err(|e| failed(&aside.dir, e))?;
    disk.sync_dir(ASIDE_DIR).map_err(|e| failed(ASIDE_DIR, e))?;
    let bytes = serde_json::to_vec(&aside.about).expect("plain data");
    disk::replace(disk, &aside.file(), &bytes).map_err(|e| failed(&aside.file(), e))?;
    if has_files(disk, index) && !has_files(disk, &aside.index()) {
        let moved = disk.rename(index, &aside.index());
        moved.and_then(|()| disk.sync_dir(&aside.dir)).map_err(|e| failed(index, e))?;
        disk.sync_dir("").map_err(|e| failed(index, e))?;
    }
    Journal::set_aside(disk, journal, &aside.journal())?;
    Ok(aside)
}

fn free_name(disk: &dyn Disk, about: &About) -> Result<String, VaultError> {
    let taken = disk.list(ASIDE_DIR).map_err(|e| failed(ASIDE_DIR, e))?;
    let name = |k: u32| format!("{:020}-{}-{k}", about.sequence, about.time);
    let free = (0..).map(name).find(|name| !taken.contains(&format!("{name}{END}")));
    Ok(format!("{ASIDE_DIR}/{}", free.expect("there are fewer than all numbers")))
}

fn failed(path: &str, error: std::io::Error) -> VaultError {
    VaultError::State { path: path.to_owned(), why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Sequence;
    use crate::base::disk::simulated::SimulatedDisk;

    fn about(changes: u64) -> About {
        let link = ChainLink { sequence: Sequence(7), hash: [0; 32] };
        About::new(Timestamp { secs: 1000, nanos: 0 }, changes, (Position(5), Position(5)), Epoch(2), link, "a test")
    }

    fn put(disk: &dyn Disk, path: &str) {
        disk.create_dir(path.rsplit_once('/').unwrap().0).unwrap();
        disk::replace(disk, path, b"x").unwrap();
    }

    #[test]
    fn e3_journal_and_index_are_set_aside_together_and_a_crash_between_loses_neither() {
        let disk = SimulatedDisk::new(7);
        put(&*disk, "journal/1");
        put(&*disk, "index/current");
        let first = set_aside(&*disk, "journal", "index", about(3)).unwrap();
        assert_eq!(all(&*disk).unwrap(), std::slice::from_ref(&first));
        assert_eq!(disk.list(&first.journal()).unwrap(), ["1"]);
        assert_eq!(disk.list(&first.index()).unwrap(), ["current"]);
        assert!(disk.list("journal").unwrap().is_empty() && disk.list("index").unwrap().is_empty());

        // As a crash leaves it after the index went.
        put(&*disk, "journal/2");
        put(&*disk, "index/current");
        let second = SetAside { dir: "aside/half".to_owned(), about: about(4) };
        disk.create_dir(&second.dir).unwrap();
        disk::replace(&*disk, &second.file(), &serde_json::to_vec(&second.about).unwrap()).unwrap();
        disk.rename("index", &second.index()).unwrap();
        assert_eq!(all(&*disk).unwrap(), std::slice::from_ref(&first), "half of one is none");
        // The next mount made another index meanwhile: not the one below this journal.
        put(&*disk, "index/other");
        let again = set_aside(&*disk, "journal", "index", about(4)).unwrap();
        assert_eq!(again.dir, second.dir);
        assert_eq!(disk.list(&again.journal()).unwrap(), ["2"]);
        assert_eq!(disk.list(&again.index()).unwrap(), ["current"]);

        // A third at the same second has a name of its own.
        put(&*disk, "journal/3");
        let third = set_aside(&*disk, "journal", "nothing", about(5)).unwrap();
        assert_eq!(disk.list(&third.journal()).unwrap(), ["3"]);
        assert_eq!(all(&*disk).unwrap().len(), 3);
    }
}
