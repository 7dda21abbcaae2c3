//! Edits of contents that are not writes: truncate, holes, times. Each captures all dirty bytes first (L1).

use std::ops::Range;

use super::{Cache, CacheError};
use crate::base::sizes::FILE_MAX;
use crate::base::{Ino, Position, Timestamp};
use crate::format::key::Key;
use crate::format::record::{Head, Record};
use crate::history::map::Contents;
use crate::history::versions::VersionId;
use crate::history::{Transaction, map};
use crate::index::IndexError;

/// SEEK_DATA and SEEK_HOLE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeekFor {
    Data,
    Hole,
}

impl Cache {
    /// Sets a file's size. What is cut off is gone; what is added is a hole. Updates mtime and ctime.
    pub async fn truncate(&self, ino: Ino, size: u64) -> Result<Position, CacheError> {
        if size > FILE_MAX {
            return Err(CacheError::TooLarge);
        }
        let change = |tx: &mut Transaction<'_>, head: &mut Head, now| {
            map::truncate(tx, ino, head, size)?;
            head.size = size;
            (head.mtime, head.ctime) = (now, now);
            Ok(())
        };
        if size > 0 {
            return self.edit(ino, change).await;
        }
        // L1 asks for a capture so that each state of the lane is one that the file had. An empty file is one whatever
        // was dirty before, and what is thrown away need not find room in the journal first.
        if self.history.is_read_only() {
            return Err(CacheError::ReadOnly);
        }
        let entry = self.entry(ino);
        let mut inner = entry.lock();
        let position = self.edit_head(ino, change)?;
        let gone = inner.abandon();
        inner.only_grown = false;
        drop(inner);
        self.budget.give_back(gone.cost());
        entry.settled.notify_waiters();
        Ok(position)
    }

    /// Makes a hole; `grow_to` may extend the file (FALLOC_FL_ZERO_RANGE without KEEP_SIZE, or plain fallocate).
    pub async fn punch(&self, ino: Ino, range: Range<u64>, grow_to: Option<u64>) -> Result<Position, CacheError> {
        if grow_to.is_some_and(|size| size > FILE_MAX) {
            return Err(CacheError::TooLarge);
        }
        self.edit(ino, |tx, head, now| {
            map::cut(tx, ino, head, range)?;
            head.size = head.size.max(grow_to.unwrap_or(0));
            (head.mtime, head.ctime) = (now, now);
            Ok(())
        })
        .await
    }

    /// Sets times; ctime becomes now. `set` gets now, atime and mtime.
    pub async fn set_times(
        &self,
        ino: Ino,
        set: impl FnOnce(Timestamp, &mut Timestamp, &mut Timestamp),
    ) -> Result<Position, CacheError> {
        self.edit(ino, |_, head, now| {
            set(now, &mut head.atime, &mut head.mtime);
            head.ctime = now;
            Ok(())
        })
        .await
    }

    /// The next data or hole at or after `offset`; `None` past the end.
    pub async fn seek(&self, ino: Ino, offset: u64, what: SeekFor) -> Result<Option<u64>, CacheError> {
        self.barrier(&[ino]).await?;
        seek_in(&self.history.view(), ino, offset, what)
    }

    /// As [`Cache::seek`], in what the file held when it was opened.
    pub fn seek_version(
        &self,
        ino: Ino,
        version: VersionId,
        offset: u64,
        what: SeekFor,
    ) -> Result<Option<u64>, CacheError> {
        let view = self.history.view();
        seek_in(&view.version(version).ok_or(CacheError::Stale)?, ino, offset, what)
    }

    /// One change of the contents head, when nothing is dirty.
    async fn edit(
        &self,
        ino: Ino,
        change: impl FnOnce(&mut Transaction<'_>, &mut Head, Timestamp) -> Result<(), IndexError>,
    ) -> Result<Position, CacheError> {
        let entry = self.entry(ino);
        loop {
            self.barrier(&[ino]).await?;
            if self.history.is_read_only() {
                return Err(CacheError::ReadOnly);
            }
            let mut inner = entry.lock();
            if !inner.is_clean() {
                continue;
            }
            inner.only_grown = false;
            return self.edit_head(ino, change);
        }
    }

    /// The change itself. The entry is locked.
    fn edit_head(
        &self,
        ino: Ino,
        change: impl FnOnce(&mut Transaction<'_>, &mut Head, Timestamp) -> Result<(), IndexError>,
    ) -> Result<Position, CacheError> {
        let ((), position) = self.history.transact(|tx| {
            let Some(record) = tx.get(&Key::head(ino))? else { return Err(CacheError::NotFound) };
            let Record::Head(head) = &*record else { return Err(CacheError::NotFound) };
            let mut head = head.clone();
            let now = tx.now();
            change(tx, &mut head, now)?;
            head.position = tx.position();
            tx.put(Key::head(ino), Record::Head(head));
            Ok(())
        })?;
        Ok(position)
    }
}

fn seek_in(contents: &impl Contents, ino: Ino, offset: u64, what: SeekFor) -> Result<Option<u64>, CacheError> {
    let Some(record) = contents.get(&Key::head(ino))? else { return Err(CacheError::NotFound) };
    let Record::Head(head) = &*record else { return Err(CacheError::NotFound) };
    if offset >= head.size {
        return Ok(None);
    }
    let pieces = map::pieces(contents, ino, head, offset..head.size)?;
    if what == SeekFor::Data {
        return Ok(pieces.first().map(|piece| piece.offset));
    }
    let mut at = offset;
    for piece in pieces.iter().take_while(|piece| piece.offset <= offset.max(piece.offset)) {
        if piece.offset > at {
            break;
        }
        at = piece.end();
    }
    Ok(Some(at.min(head.size)))
}
