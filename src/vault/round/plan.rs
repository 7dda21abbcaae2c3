//! What a round sends: of a batch, what travels; how it is cut to the sizes of objects.

use std::collections::HashSet;
use std::sync::Arc;

use crate::base::sizes::{CLASS_MAX, CLASS_MIN, KIB};
use crate::base::{ExtentId, Position, Sequence};
use crate::format::commit::{BlockRef, records_len};
use crate::format::key::{Key, Part};
use crate::format::record::{Extent, Place, Record};
use crate::history::{Batch, History};
use crate::upload::remote_storage::Outgoing;
use crate::vault::VaultError;

/// What a commit may carry beside its own fields: the smallest class, less a reserve for fields, nonce and tag.
pub(super) const SMALL: usize = CLASS_MIN - KIB;
/// What the records of one commit, or of one part, may take.
pub(super) const LARGE: usize = CLASS_MAX - 64 * KIB;
/// What a dead segment takes in the list of a commit; the longest list is less than what `LARGE` leaves.
pub(super) const DEAD_LEN: usize = 17;

pub(super) type Records = Vec<(Key, Option<Arc<Record>>)>;

/// What a round is going to send.
pub(super) struct Plan {
    pub cut: Position,
    pub block: BlockRef,
    pub records: Records,
    pub outgoing: Vec<Outgoing>,
    /// Extents that were brought since the last commit and that nothing names at the cut.
    pub dead: Vec<ExtentId>,
    pub usage: Option<(u64, u64)>,
    /// Up to where commits hold everything once this one stands (J5).
    pub low: Position,
    /// What was sent ahead lands first.
    pub awaits: Option<u64>,
    /// Some extents lie in the vault already, and move to a segment (C6).
    pub moves: bool,
}

impl Plan {
    /// A commit that changes nothing.
    pub fn empty(cut: Position, block: BlockRef, usage: Option<(u64, u64)>, low: Position) -> Plan {
        Plan {
            cut,
            block,
            records: Vec::new(),
            outgoing: Vec::new(),
            dead: Vec::new(),
            usage,
            low,
            awaits: None,
            moves: false,
        }
    }

    /// Inline extents that an earlier commit placed move to a segment with this one. Each is sealed anew already. The
    /// records of those that an unlinked open file holds are in no commit; nothing is put in the place of what the
    /// batch changed.
    pub fn take_in(&mut self, moves: Vec<Outgoing>, history: &History) -> Result<(), VaultError> {
        let view = history.view();
        for extent in moves {
            let key = Key::extent(extent.id);
            if self.records.binary_search_by_key(&key, |(key, _)| *key).is_ok() || view.get(&key)?.is_none() {
                continue;
            }
            if !view.is_orphan(extent.id.owner) {
                let record = Some(Arc::new(Record::Extent(extent.record.clone())));
                let at = self.records.partition_point(|(other, _)| *other < key);
                self.records.insert(at, (key, record));
            }
            self.outgoing.push(extent);
            self.moves = true;
        }
        self.outgoing.sort_unstable_by_key(|extent| Key::extent(extent.id));
        Ok(())
    }
}

/// What of a batch travels: extents that the state at the cut names and only the journal has; all other records.
pub(super) fn plan(batch: Batch) -> Plan {
    let mut named = HashSet::new();
    for entry in batch.records.values() {
        match entry.record.as_deref() {
            Some(Record::Head(head)) => named.extend(head.pieces.iter().map(|piece| piece.extent)),
            Some(Record::Map(piece)) => {
                named.insert(piece.extent);
            }
            _ => {}
        }
    }
    let (mut records, mut outgoing) = (Vec::with_capacity(batch.records.len()), Vec::new());
    let mut dead = Vec::new();
    for (key, entry) in batch.records {
        if let Part::Extent { number } = key.part {
            let id = ExtentId { owner: key.ino, number };
            match entry.record.as_deref() {
                // An earlier commit of this machine has it, as was found out late: only its record travels.
                Some(Record::Extent(extent)) if named.contains(&id) && extent.place != Place::Local => {}
                Some(Record::Extent(extent)) if named.contains(&id) => {
                    outgoing.push(Outgoing { id, record: extent.clone(), sent: None, bytes: None });
                }
                // Dead at the cut: it does not travel, but for little that lies in a staged file (J8).
                _ => {
                    dead.push(id);
                    continue;
                }
            }
        }
        records.push((key, entry.record));
    }
    let Batch { cut, block, low, usage, awaits, .. } = batch;
    Plan { cut, block, records, outgoing, dead, usage, low, awaits, moves: false }
}

pub(super) fn inline_places(outgoing: &[Outgoing], sequence: Sequence) -> Vec<(ExtentId, Extent)> {
    let mut offset = 0;
    outgoing
        .iter()
        .map(|extent| {
            let place = Place::Inline { sequence, offset };
            offset += extent.record.stored;
            (extent.id, Extent { place, ..extent.record.clone() })
        })
        .collect()
}

/// Puts extents as the vault has them in the place of their records. Both are in key order.
pub(super) fn place(records: &mut Records, placed: &[(ExtentId, Extent)]) {
    let mut placed = placed.iter().peekable();
    for (key, record) in records.iter_mut() {
        while placed.next_if(|(id, _)| Key::extent(*id) < *key).is_some() {}
        if let Some((_, extent)) = placed.next_if(|(id, _)| Key::extent(*id) == *key) {
            *record = Some(Arc::new(Record::Extent(extent.clone())));
        }
    }
}

/// Cuts records into runs that fit one part each.
pub(super) fn chunks(records: Records) -> Vec<Records> {
    let mut chunks = Vec::new();
    let (mut chunk, mut len) = (Records::new(), 0);
    for record in records {
        let own = records_len(std::slice::from_ref(&record));
        if len + own > LARGE && !chunk.is_empty() {
            chunks.push(std::mem::take(&mut chunk));
            len = 0;
        }
        len += own;
        chunk.push(record);
    }
    chunks.push(chunk);
    chunks
}
