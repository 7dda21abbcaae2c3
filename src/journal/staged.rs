//! Staged files: bulk extents on their way to the vault; each such file is a segment in the making (J1, J8).
//!
//! An extent of many bytes is written here, not behind the block that brings it, and so once: the vault gets the file as it
//! lies. One that is full, or that a round needs, is *closed*: padded to its class, and never written again. Later extents
//! begin another.
//!
//! Owns the files that are being written, and what of them no fdatasync has covered. Does not own which of their extents
//! live, nor whether one may travel ([`super::extents`]).
//!
//! Invariants
//! - A staged file belongs to one journal file: it is closed before the next one begins, and removed after its own.
//! - Its bytes and its name are durable before a block that names it is (J1).
//! - What a failed write or fdatasync may have touched is never written to again, and never travels as it lies (J4).

use std::io;
use std::sync::Arc;

use super::block::Staged;
use super::file::Place;
use crate::base::disk::File;
use crate::base::sizes::CLASS_MAX;
use crate::base::{ExtentId, ObjectId, plants};
use crate::crypto::aead;
use crate::format::padding;

const SUFFIX: &str = ".staged";

pub fn path(dir: &str, id: ObjectId) -> String {
    format!("{dir}/{id}{SUFFIX}")
}

/// `None` for a name that is no staged file's.
pub fn parse(name: &str) -> Option<ObjectId> {
    name.strip_suffix(SUFFIX)?.parse().ok()
}

/// A staged file on its way to the vault as it lies: an object of this name and length.
pub struct Whole {
    pub id: ObjectId,
    pub path: String,
    /// Padding included.
    pub len: u32,
    /// What lives in it, and where, in the order in which it lies there.
    pub extents: Vec<(ExtentId, u32)>,
}

struct Making {
    id: ObjectId,
    file: Arc<dyn File>,
    len: u32,
    durable_len: u32,
    /// Its name is durable.
    named: bool,
}

#[derive(Default)]
pub struct Staging {
    open: Option<Making>,
    /// Closed, and not durable yet.
    closed: Vec<Making>,
}

impl Staging {
    /// Makes room for an extent of so many bytes: where it does not fit the open file, that one is closed and another
    /// begun, whose id this returns.
    pub fn begin(&mut self, place: &Place, len: usize) -> io::Result<Option<ObjectId>> {
        let fits = |open: &Making| open.len as usize + len <= CLASS_MAX;
        if self.open.as_ref().is_some_and(fits) {
            return Ok(None);
        }
        self.close(place)?;
        let id = ObjectId(place.random.bytes());
        let file = place.disk.create(&path(&place.dir, id))?;
        self.open = Some(Making { id, file, len: 0, durable_len: 0, named: false });
        Ok(Some(id))
    }

    /// Appends an extent to the open file.
    pub fn put(&mut self, bytes: &[u8]) -> io::Result<Staged> {
        let open = self.open.as_mut().expect("begun before");
        let at = Staged { file: open.id, offset: open.len };
        open.file.write_at(bytes, open.len.into())?;
        open.len += bytes.len() as u32;
        Ok(at)
    }

    /// Pads the open file. Durable only after [`Staging::sync`].
    pub fn close(&mut self, place: &Place) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let class = padding::class(open.len as usize).unwrap_or(CLASS_MAX);
        let mut padding = vec![0; class - open.len as usize];
        aead::fill_padding(&place.random, &mut padding);
        open.file.write_at(&padding, open.len.into())?;
        open.len = class as u32;
        self.closed.extend(self.open.take());
        Ok(())
    }

    /// Makes all that was written durable, names included. Returns those that are closed now, and their lengths.
    pub fn sync(&mut self, place: &Place) -> io::Result<Vec<(ObjectId, u32)>> {
        let mut unnamed = false;
        for making in self.closed.iter_mut().chain(&mut self.open) {
            if making.durable_len < making.len {
                if !plants::on("J1-staged-unsynced") {
                    making.file.sync_data()?;
                }
                making.durable_len = making.len;
            }
            unnamed |= !making.named;
        }
        if unnamed {
            place.disk.sync_dir(&place.dir)?;
        }
        self.open.iter_mut().for_each(|open| open.named = true);
        Ok(self.closed.drain(..).map(|making| (making.id, making.len)).collect())
    }

    /// The disk failed. Nothing is written any more to what is not durable; on a full disk its room is given back.
    /// Returns these files, and how long they are.
    pub fn leave(&mut self, full: bool) -> Vec<(ObjectId, u32)> {
        let left = self.closed.drain(..).chain(self.open.take());
        left.map(|making| match full && making.file.set_len(making.durable_len.into()).is_ok() {
            true => (making.id, making.durable_len),
            false => (making.id, making.len),
        })
        .collect()
    }
}
