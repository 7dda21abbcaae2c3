//! Inline extents move: a commit that carries extents which somebody names may go only once they lie elsewhere (C6).
//!
//! Each extent is sealed anew, for equal ciphertext in another object would tell its length, and travels in a segment
//! with an ordinary round, many at a time. What is dead stays where it is.
//!
//! What names an extent is mostly the file that it was written for, which is asked when a commit is looked at. The rest,
//! records of other files and of kinds that a newer program knows, is gathered once a mount ([`elsewhere`]): this program
//! makes none, and such a record is never changed by it.

use std::collections::{BTreeMap, HashSet};

use super::remote::Remote;
use crate::base::sizes::SEGMENT_TARGET;
use crate::base::{ExtentId, Ino, Sequence};
use crate::format::commit::{Commit, log_name, open_part, segment_name};
use crate::format::extent;
use crate::format::key::{Key, Part};
use crate::format::record::{Extent, Place, Record};
use crate::upload::remote_storage::Outgoing;
use crate::vault::VaultError;
use crate::vault::checkpoint::remove::{Removal, Seen, Standing, look};
use crate::vault::checkpoint::{self, Marks};
use crate::vault::round::{RoundError, Rounds};

/// Commits looked at before a round.
const WINDOW: usize = 512;

/// What is named elsewhere is kept in memory up to so many; beyond that nothing with inline extents goes.
const ELSEWHERE_MAX: usize = 1 << 20;

/// The inline extents of one commit, by file: numbers and places.
type Inline = BTreeMap<Ino, Vec<(u64, Place)>>;

/// What the state names other than in the maps of the files that it was written for. `None`: too much to know.
pub async fn elsewhere(rounds: &Rounds) -> Result<Option<Marks>, VaultError> {
    let mut marks = Marks::default();
    let mut from = Some(Key::inode(Ino::NONE));
    while let Some(first) = from {
        from = rounds.history.visit_some(first, |key, record| marks.visit(key, record))?;
        if marks.extents.len() + marks.logs.len() > ELSEWHERE_MAX {
            log::warn!("gc: files of this vault share more than {ELSEWHERE_MAX} extents: some old commits stay");
            return Ok(None);
        }
        // So many records take their time.
        tokio::task::yield_now().await;
    }
    Ok(Some(marks))
}

/// Looks at the oldest commits that `removal` has left, moves what is named of a bounded part of them, and adds those to
/// `clean` that nothing needs any more, in the vault's newest state as in this mount's. Returns whether some wait for
/// contents that are deferred.
pub async fn clear(
    rounds: &Rounds,
    remote: &Remote,
    removal: &mut Removal,
    seen: &mut Seen,
    elsewhere: &Marks,
    clean: &mut HashSet<Sequence>,
) -> Result<bool, RoundError> {
    let newest = rounds.chain.lock().standing.map_or(Sequence(0), |(link, _)| link.sequence);
    let (mut moves, mut bytes, mut looked) = (Vec::new(), 0, Vec::new());
    for sequence in removal.oldest(newest, WINDOW) {
        let (standing, commit) = look(remote, &rounds.keys, seen, sequence).await?;
        removal.stands(sequence, standing);
        let Some(commit) = commit.filter(|_| matches!(standing, Standing::Commit(_))) else { continue };
        let extents = inline(rounds, remote, sequence, &commit).await?;
        for (id, record) in extents.iter().filter(|(id, record)| is_in_use(rounds, elsewhere, *id, record)) {
            let outgoing = seal_anew(rounds, sequence, &commit, *id, record)?;
            bytes += outgoing.record.stored as usize;
            moves.push(outgoing);
        }
        let mut by_owner = Inline::new();
        for (id, record) in extents {
            by_owner.entry(id.owner).or_default().push((id.number, record.place));
        }
        looked.push((sequence, by_owner));
        if bytes >= SEGMENT_TARGET {
            break;
        }
    }
    if !moves.is_empty() {
        let count = moves.len();
        rounds.requests.commit(moves).await;
        rounds.requests.count(|removed| removed.moved_bytes += bytes as u64);
        log::debug!("gc: {count} inline extents ({bytes} bytes) have moved to a segment");
    }
    let mut unneeded = Vec::new();
    for (sequence, owners) in looked {
        let mut needed = elsewhere.logs.contains(&sequence);
        for (owner, extents) in &owners {
            needed |= !used(rounds, elsewhere, *owner, extents)?.is_empty();
        }
        if !needed {
            unneeded.push((sequence, owners));
        }
    }
    // What died or moved did so before this position: once the vault has come so far, its state says so too. But for files
    // whose contents are deferred: those still name there what died here.
    let owners = unneeded.iter().flat_map(|(_, owners)| owners.keys().copied()).collect();
    let (end, deferred) = rounds.history.barrier_on(&owners, rounds.settings.budget);
    unneeded.retain(|(_, owners)| !owners.keys().any(|owner| deferred.contains(owner)));
    rounds.notifier.wait(end).await.map_err(VaultError::Stopped)?;
    clean.extend(unneeded.into_iter().map(|(sequence, _)| sequence));
    Ok(!deferred.is_empty())
}

fn is_in_use(rounds: &Rounds, elsewhere: &Marks, id: ExtentId, record: &Extent) -> bool {
    // What cannot be told is not moved, and so stops the removal.
    used(rounds, elsewhere, id.owner, &[(id.number, record.place)]).is_ok_and(|used| !used.is_empty())
}

/// Which of these extents of a file are named, by whomever, as they lie there?
fn used(rounds: &Rounds, elsewhere: &Marks, owner: Ino, extents: &[(u64, Place)]) -> Result<Vec<u64>, VaultError> {
    let is_shared = |(number, _): &(u64, Place)| elsewhere.extents.contains(&ExtentId { owner, number: *number });
    let shared: Vec<_> = extents.iter().copied().filter(is_shared).collect();
    let mut used = rounds.history.in_use(owner, extents)?;
    used.extend(rounds.history.placed(owner, &shared)?);
    Ok(used)
}

/// The extents that lie in a commit.
async fn inline(
    rounds: &Rounds,
    remote: &Remote,
    sequence: Sequence,
    commit: &Commit,
) -> Result<Vec<(ExtentId, Extent)>, RoundError> {
    let mut extents = Vec::new();
    if commit.inline.is_empty() {
        return Ok(extents);
    }
    let mut add = |records: &[(Key, Option<std::sync::Arc<Record>>)]| {
        for (key, record) in records {
            if let (Part::Extent { number }, Some(Record::Extent(extent))) = (key.part, record.as_deref())
                && matches!(extent.place, Place::Inline { sequence: lies, .. } if lies == sequence)
            {
                extents.push((ExtentId { owner: key.ino, number }, extent.clone()));
            }
        }
    };
    add(&commit.records);
    for part in &commit.parts {
        let object = checkpoint::part(remote, part).await?;
        let name = segment_name(part.id);
        add(&open_part(&rounds.keys, part.id, &object).map_err(|e| VaultError::Tampered(format!("{name}: {e}")))?);
    }
    Ok(extents)
}

fn seal_anew(
    rounds: &Rounds,
    sequence: Sequence,
    commit: &Commit,
    id: ExtentId,
    old: &Extent,
) -> Result<Outgoing, VaultError> {
    let wrong = |why: String| VaultError::Tampered(format!("{}: {why}", log_name(sequence)));
    let Place::Inline { offset, .. } = old.place else { return Err(wrong("an extent lies elsewhere".to_owned())) };
    let bytes =
        (offset as usize).checked_add(old.stored as usize).and_then(|end| commit.inline.get(offset as usize..end));
    let bytes = bytes.ok_or_else(|| wrong("an extent lies beyond its inline bytes".to_owned()))?;
    let record = extent::renew(&rounds.random, old);
    let sealed =
        extent::seal_anew(&rounds.keys, old, &record, bytes).map_err(|error| wrong(format!("an extent: {error}")))?;
    Ok(Outgoing { id, record, sent: None, bytes: Some(sealed.into()) })
}
