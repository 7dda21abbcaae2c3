//! Is this the log's end? (C6)
//!
//! Commits under a checkpoint are removed one by one, so that a name which is not there proves nothing by itself: the
//! reader may be looking at what was left when the vault had long gone on. A log object is the end only if there is
//! none after it, and *then* the newest commit at or before it, and the checkpoint which that names, still stand: a
//! superseded manifest goes before the commits that name it, and the newest commit never goes.

use super::{Fetch, tampered};
use crate::base::{ObjectId, Sequence};
use crate::crypto::kdf;
use crate::format::commit::{ChainLink, Hash, checkpoint_name, log_name};

/// The order of the questions matters. `commit` is the newest commit at or before `newest`, `checkpoint` what it names.
/// `false`: begin again from the checkpoint.
pub async fn is_end<F: Fetch>(
    fetch: &F,
    newest: Sequence,
    commit: ChainLink,
    checkpoint: (ObjectId, Hash),
) -> Result<bool, F::Error> {
    match fetch.get(log_name(Sequence(newest.0 + 1))).await? {
        Some(_) => Ok(false),
        None => stands(fetch, commit, checkpoint).await,
    }
}

/// The second half alone, for a writer that has just created the newest log object itself.
pub async fn stands<F: Fetch>(fetch: &F, commit: ChainLink, (id, hash): (ObjectId, Hash)) -> Result<bool, F::Error> {
    match fetch.get(log_name(commit.sequence)).await? {
        // Another object under its number is one that came late, after the commit was removed.
        Some(object) if kdf::hash(&object) == commit.hash => {}
        _ => return Ok(false),
    }
    let name = checkpoint_name(id);
    match fetch.get(name.clone()).await? {
        None => Ok(false),
        Some(object) if kdf::hash(&object) == hash => Ok(true),
        // Such a name is never used twice.
        Some(_) => Err(tampered(format!("{name} is not what the newest commit names")).into()),
    }
}
