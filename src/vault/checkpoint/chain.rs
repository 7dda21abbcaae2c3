//! The hashes of all log objects under a checkpoint, kept in runs of their own.
//!
//! A number under the checkpoint that counts is judged by them, never by what stands there: a commit that was removed
//! may be put back by a late request, and a pin of any age must be checked (C6).

use super::merge::how_many;
use super::write::Sender;
use super::{Fetch, Upload, part, tampered};
use crate::base::Sequence;
use crate::format::checkpoint::table::{CHAIN_MAX, open_chain, seal_chain};
use crate::format::checkpoint::{ChainRun, Manifest};
use crate::format::commit::{ChainLink, Hash, segment_name};
use crate::format::keys::Keys;

/// What a pin (or any link that somebody remembers) is, seen from a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// The log object is under the checkpoint, and is that one.
    OnTheChain,
    /// Another one had that number: the vault was forked, or the link is of another vault.
    Forked,
    /// It is newer than the checkpoint: the log tells.
    Beyond,
}

/// The hash of a log object; `None` if there is none under this checkpoint.
pub async fn hash_of<F: Fetch>(
    fetch: &F,
    keys: &Keys,
    manifest: &Manifest,
    sequence: Sequence,
) -> Result<Option<Hash>, F::Error> {
    if sequence == manifest.sequence && sequence != Sequence(0) {
        return Ok(Some(manifest.hash));
    }
    let at = manifest.chain.partition_point(|run| run.last() < sequence);
    match manifest.chain.get(at) {
        Some(run) if run.first <= sequence => {
            let hashes = hashes(fetch, keys, run).await?;
            Ok(hashes.get((sequence.0 - run.first.0) as usize).copied())
        }
        _ => Ok(None),
    }
}

/// Judges a link that this machine remembers.
pub async fn judge<F: Fetch>(
    fetch: &F,
    keys: &Keys,
    manifest: &Manifest,
    link: ChainLink,
) -> Result<Judgement, F::Error> {
    if link.sequence > manifest.sequence {
        return Ok(Judgement::Beyond);
    }
    let hash = hash_of(fetch, keys, manifest, link.sequence).await?;
    Ok(if hash == Some(link.hash) { Judgement::OnTheChain } else { Judgement::Forked })
}

async fn hashes<F: Fetch>(fetch: &F, keys: &Keys, run: &ChainRun) -> Result<Vec<Hash>, F::Error> {
    let object = part(fetch, &run.object).await?;
    let name = segment_name(run.object.id);
    let (first, hashes) =
        open_chain(keys, run.object.id, &object).map_err(|error| tampered(format!("{name}: {error}")))?;
    if first != run.first || hashes.len() != run.count as usize {
        return Err(tampered(format!("{name} does not hold the hashes that its manifest says")).into());
    }
    Ok(hashes)
}

/// Adds the hashes of the log objects that follow. Runs are merged as levels are, so that each hash is rewritten few
/// times and the manifest names few runs.
pub async fn extend<U: Upload>(
    sender: &mut Sender<'_, U>,
    chain: &[ChainRun],
    new: Vec<Hash>,
) -> Result<Vec<ChainRun>, U::Error> {
    let mut chain = chain.to_vec();
    if new.is_empty() {
        return Ok(chain);
    }
    let mut first = chain.last().map_or(Sequence(1), |run| Sequence(run.last().0 + 1));
    let mut sizes = vec![new.len() as u64];
    sizes.extend(chain.iter().rev().take_while(|run| (run.count as usize) < CHAIN_MAX).map(|run| u64::from(run.count)));
    let mut hashes = new;
    for _ in 1..how_many(&sizes).max(1) {
        let Some(run) = chain.pop() else { break };
        let mut older = self::hashes(sender.remote, sender.keys, &run).await?;
        older.append(&mut hashes);
        hashes = older;
        first = run.first;
    }
    for hashes in hashes.chunks(CHAIN_MAX) {
        let (keys, random) = (sender.keys, sender.random);
        let seal = |id| seal_chain(keys, random, id, first, hashes).expect("the largest chain run fits an object");
        let object = sender.segment(seal).await?;
        chain.push(ChainRun { object, first, count: hashes.len() as u32 });
        first = Sequence(first.0 + hashes.len() as u64);
    }
    Ok(chain)
}
