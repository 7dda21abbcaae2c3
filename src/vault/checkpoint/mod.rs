//! Checkpoints: the whole record set as sealed runs, so that nobody has to read the log from its beginning (C6).
//!
//! A manifest names *levels* of sorted runs, a newer level hiding older ones. [`make()`] folds the log objects since the
//! checkpoint before into one small level (`fold`), merges levels whose sizes are close (`merge`), and when all
//! become one drops what nothing names (`sweep`). [`Records`] reads a checkpoint back, [`chain`] keeps the hashes of
//! the log below it, [`end`] tells whether a log object is the log's end, [`keeper`] when one is due, [`remove`]
//! takes away the commits that are covered.
//!
//! Owns: what a checkpoint holds, what it costs, what may go once it counts. Does not own: the manifest's bytes
//! (format), when one is made and which commit names it (rounds), how objects travel and are tried again (whoever
//! implements [`Fetch`], [`Upload`] and [`Remove`]).
//!
//! Invariants
//! - A checkpoint is made from the vault's own objects, each checked against the chain that ends in the link that the
//!   caller gives; never from the index, which is ahead.
//! - Nothing is believed that the manifest's hash does not cover: every object that a manifest names is compared with
//!   the hash there, and the manifest with the one in the commit that names it.
//! - A record is hidden by a newer level or dropped because nothing names it, never lost: deletes stay until the
//!   oldest level is part of a merge.
//! - Making only creates objects under names drawn at random, announced before they are sent. Abandoned at any await
//!   it leaves orphans (D2) and nothing else; the checkpoint counts when a commit names it, and only then.
//! - Memory is bounded by a batch of the log, then by one run of each level that is merged and of that which is made, the
//!   extents that other inodes share, and an entry a segment; not by the record set.

pub mod chain;
pub mod end;
mod fold;
pub mod keeper;
mod level;
mod make;
mod merge;
pub mod remove;
mod sweep;
#[cfg(test)]
mod tests;
mod totals;
mod write;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::VaultError;
use crate::base::ObjectId;
use crate::crypto::kdf;
use crate::format::checkpoint::Manifest;
use crate::format::checkpoint::table::{SegmentCount, open_counts};
use crate::format::commit::{CommitPart, Hash, checkpoint_name, segment_name};
use crate::format::keys::Keys;
use crate::store::Store;

pub use crate::format::checkpoint::run::Entry;
pub use level::Level;
pub use make::{Counters, Made, Maker, Merge, Sweep, make};
pub use merge::Records;
pub use sweep::Marks;

/// Where objects are read from: the store itself, a wrapper that tries again, or one that looks at local copies first.
pub trait Fetch: Send + Sync {
    type Error: From<VaultError> + Send;

    /// The object whole; `None` where there is none.
    fn get(&self, name: String) -> BoxFuture<'_, Result<Option<Bytes>, Self::Error>>;
}

/// What making a checkpoint does to the vault.
pub trait Upload: Fetch {
    /// Remembers, durably, that objects of these ids are about to be sent (J5).
    fn announce<'a>(&'a self, ids: &'a [ObjectId]) -> BoxFuture<'a, Result<(), Self::Error>>;

    /// Creates an object under a name drawn at random; its own earlier try that stands there counts as created.
    fn create(&self, name: String, object: Bytes) -> BoxFuture<'_, Result<(), Self::Error>>;
}

/// What removal does to the vault.
pub trait Remove: Fetch {
    /// The first `most` names below a prefix, sorted. May be stale: it only says where to begin.
    fn list(&self, prefix: &'static str, most: usize) -> BoxFuture<'_, Result<Vec<String>, Self::Error>>;

    /// Deletes an object; one that is not there counts as deleted. `false`: the store refuses, and trying again soon
    /// would not help.
    fn remove(&self, name: String) -> BoxFuture<'_, Result<bool, Self::Error>>;
}

impl Fetch for Store {
    type Error = VaultError;

    fn get(&self, name: String) -> BoxFuture<'_, Result<Option<Bytes>, VaultError>> {
        async move { Ok(Store::get(self, &name).await?) }.boxed()
    }
}

/// Reads the manifest that a log object names.
pub async fn manifest<F: Fetch>(fetch: &F, keys: &Keys, (id, hash): (ObjectId, Hash)) -> Result<Manifest, F::Error> {
    let name = checkpoint_name(id);
    let object = standing(fetch, &name, &hash).await?;
    Ok(Manifest::open(keys, id, &object).map_err(|error| tampered(format!("{name}: {error}")))?)
}

/// How much of each segment lived at the last full merge (`manifest.swept`), ids rising; empty before the first.
pub async fn counts<F: Fetch>(fetch: &F, keys: &Keys, manifest: &Manifest) -> Result<Vec<SegmentCount>, F::Error> {
    let mut all = Vec::new();
    for table in manifest.swept.iter().flat_map(|swept| &swept.counts) {
        let object = part(fetch, table).await?;
        let counts = open_counts(keys, table.id, &object)
            .map_err(|error| tampered(format!("{}: {error}", segment_name(table.id))))?;
        all.extend(counts);
    }
    Ok(all)
}

/// An object under `segments/`, as something that is believed names it.
pub(super) async fn part<F: Fetch>(fetch: &F, part: &CommitPart) -> Result<Bytes, F::Error> {
    standing(fetch, &segment_name(part.id), &part.hash).await
}

/// An object that must be there, with this hash.
async fn standing<F: Fetch>(fetch: &F, name: &str, hash: &Hash) -> Result<Bytes, F::Error> {
    match fetch.get(name.to_owned()).await? {
        None => Err(tampered(format!("{name}, which the vault's newest state needs, is missing")).into()),
        Some(object) if kdf::hash(&object) != *hash => {
            Err(tampered(format!("{name} is not what the vault's newest state names")).into())
        }
        Some(object) => Ok(object),
    }
}

fn tampered(what: String) -> VaultError {
    VaultError::Tampered(what)
}
