//! The room `.search`: a directory that answers searches, in every directory of the drive.
//!
//! ```text
//! DIR/.search/PATTERN          a file: path:line:text of each line below DIR that matches, of what is on this machine
//! DIR/.search/all/PATTERN      the same, and what is not here is fetched, behind all that others wait for
//! DIR/.search/files/PATTERN/   a directory of symlinks to the files that match (also all/files/PATTERN/)
//! DIR/.search                  lists the caller's recent queries
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `tree` | the drive with the rooms in it, as the fuse room sees it: numbers, names |
//! | `listings` | what the rooms' directories list |
//! | `answers` | answers that were given, until they go |
//! | `front` | operations that the rooms refuse, or leave to the drive |
//! | `pattern`, `syntax` | what a name asks for, and how it is read |
//! | `access` | what a caller may read |
//! | `run` | one search: the walk, the threads, the time |
//! | `scan` | one file's lines |
//! | `hits` | what is found, and the answer made of it |
//! | `results` | what was found before, by file version and pattern |
//!
//! # How it works
//!
//! A search is run when its name is looked up. Its answer then does not change: it has an inode number of its own, and so
//! its size is exact in every stat, and the kernel may keep and map its pages. When the name is looked up again the answer is
//! made anew, from what is kept of each file that has not changed; if nothing at all has changed since, it is the answer
//! that stands. If it says the same it keeps its number: a tool that stats a file, opens it and compares the two (cp does)
//! finds one file. Names in the rooms are never remembered by the kernel: each use of one asks.
//!
//! Above cache, history and fs; the fuse room asks [`Tree`] for everything, and tells the rooms by the top bit of an inode
//! number, which no real inode has. Bytes come through [`crate::cache::glance`], which is no use of a file: no timer is
//! renewed, nothing is counted, nothing is kept, and without `all` nothing is fetched.
//!
//! # Invariants
//! - An answer belongs to who asked: user and groups. It has their user id and mode 0400, and no one else is ever given it.
//! - It holds lines of files alone that its caller could have opened.
//! - Each file's lines are of one state that it had while the search ran; none is of before it began.
//! - No directory lists a room, unless an option says so. Where a directory has an entry of the room's name of its own, made
//!   elsewhere, that one is shown, and the room there is reached under another name.
//! - Nothing in a room can be changed. Answers are bounded, in memory alone, and wiped once their time is over.

mod access;
mod answers;
mod front;
mod hits;
mod listings;
pub mod pattern;
mod results;
mod run;
mod scan;
mod syntax;
mod tree;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use tree::{Tree, is_virtual};

/// The room's name, if nobody says otherwise.
pub const NAME: &str = ".search";
/// Files that are scanned at a time.
pub const THREADS: usize = 4;
/// How long a search may take.
pub const TIME: Duration = Duration::from_secs(10);
/// What is kept of earlier searches.
pub const KEPT: u64 = 32 << 20;

/// Where what is found in a file is kept for the next time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    #[default]
    Memory,
    /// In the state directory, sealed.
    Disk,
    Nowhere,
}

/// What a mount is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// `None`: there are no rooms.
    pub name: Option<String>,
    /// Directories list the room.
    pub listed: bool,
    pub threads: usize,
    pub seconds: u64,
    pub keep: Keep,
    /// Bytes that are kept.
    pub kept_bytes: u64,
    /// How long what nobody uses is kept, seconds.
    pub ttl_seconds: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            name: Some(NAME.to_owned()),
            listed: false,
            threads: THREADS,
            seconds: TIME.as_secs(),
            keep: Keep::Memory,
            kept_bytes: KEPT,
            ttl_seconds: crate::cache::TTL.as_secs(),
        }
    }
}
