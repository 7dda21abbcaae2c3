//! Listings: readdir and readdirplus.
//!
//! Owns the cookie: where a listing goes on. "." is 1, ".." is 2, an entry's is its name's hash, so a listing stays
//! true to all names that neither come nor go while it runs. Does not own reply buffers (fuse fills them).
//!
//! Invariants: entries come in hash order, and a listing goes on strictly after its cookie. Entries with equal hashes
//! come together; all but the last of them carry the cookie just below, so whoever stops between them meets them
//! again, and none is ever lost.

use super::attributes::stat_in;
use super::records::{self, kind};
use super::{Attributes, Entry, Fs, FsError};
use crate::base::Ino;
use crate::format::key::{Key, Part};
use crate::format::record::{Dentry, Record};
use crate::history::View;

const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

impl Fs {
    /// At most `most` entries after `cookie` (0 at the beginning); none at the end. (More only where more names than
    /// that have one hash, which nobody will see.)
    pub async fn readdir(
        &self,
        ino: Ino,
        cookie: u64,
        with_attributes: bool,
        most: usize,
    ) -> Result<Vec<Entry>, FsError> {
        let mut entries = {
            let view = self.history.view();
            let inode = records::inode(&view, ino)?;
            if kind(inode.mode) != libc::S_IFDIR {
                return Err(FsError::NotDirectory);
            }
            if inode.nlink == 0 {
                return Ok(Vec::new());
            }
            list(&view, ino, cookie, most)?
        };
        if with_attributes {
            self.add_attributes(&mut entries);
        }
        Ok(entries)
    }

    /// The cache is asked without history's lock; an entry that went meanwhile stays without attributes.
    fn add_attributes(&self, entries: &mut [Entry]) {
        let live: Vec<_> =
            entries.iter().map(|entry| (entry.kind == libc::S_IFREG).then(|| self.cache.live(entry.ino))).collect();
        let view = self.history.view();
        for (entry, live) in entries.iter_mut().zip(live) {
            if !entry.is_dots() {
                let attributes: Option<Attributes> = stat_in(&view, entry.ino, live.flatten()).ok();
                entry.attributes = attributes.filter(|attributes| attributes.nlink > 0);
            }
        }
    }
}

fn list(view: &View<'_>, ino: Ino, cookie: u64, most: usize) -> Result<Vec<Entry>, FsError> {
    let mut entries: Vec<Entry> = Vec::with_capacity(most.min(256));
    if cookie < DOT && entries.len() < most {
        entries.push(dots(ino, b".", DOT));
    }
    if cookie < DOT_DOT && entries.len() < most {
        entries.push(dots(records::parent_of(view, ino)?, b"..", DOT_DOT));
    }
    let Some(first) = cookie.max(DOT_DOT).checked_add(1) else {
        return Ok(entries);
    };
    let from = Key::dentry(ino, first, 0);
    let mut group = None;
    view.scan(from, Key::dentry(ino, u64::MAX, u16::MAX), |key, record| {
        let (Part::Dentry { hash, .. }, Record::Dentry(dentry)) = (key.part, &**record) else {
            return true;
        };
        let begins = group.is_none_or(|(group, _)| group != hash);
        if begins {
            if entries.len() >= most {
                return false;
            }
            group = Some((hash, entries.len()));
        } else if let Some(before) = entries.last_mut() {
            before.cookie = hash - 1;
        }
        entries.push(entry(dentry, hash));
        true
    })?;
    leave_whole_groups(&mut entries, group, most);
    Ok(entries)
}

/// A last group of equal hashes that does not fit waits for the next listing, unless it stands alone.
fn leave_whole_groups(entries: &mut Vec<Entry>, last: Option<(u64, usize)>, most: usize) {
    if let Some((_, begin)) = last
        && entries.len() > most
        && begin > 0
    {
        entries.truncate(begin);
    }
}

fn dots(ino: Ino, name: &[u8], cookie: u64) -> Entry {
    Entry { ino, kind: libc::S_IFDIR, name: name.into(), cookie, attributes: None }
}

fn entry(dentry: &Dentry, cookie: u64) -> Entry {
    Entry { ino: dentry.ino, kind: dentry.kind, name: dentry.name.clone(), cookie, attributes: None }
}
