//! Which objects a vault needs, found without the drive's own gc: all others are left over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dripfs::base::{ExtentId, Sequence};
use dripfs::format::commit::{Body, LogObject, checkpoint_name, log_name, open_part, segment_name};
use dripfs::format::key::{Key, Part};
use dripfs::format::keys::Keys;
use dripfs::format::record::{Place, Record, Reference};
use dripfs::store::Store;
use dripfs::vault::checkpoint::{Records, manifest};

async fn log_object(store: &Store, keys: &Keys, name: &str) -> Result<LogObject, String> {
    let number =
        name.strip_prefix("log/").and_then(|number| number.parse().ok()).ok_or(format!("{name}: no number"))?;
    let bytes = store.get(name).await.map_err(|e| e.to_string())?.ok_or(format!("{name} is missing"))?;
    LogObject::open(keys, Sequence(number), &bytes).map_err(|error| format!("{name}: {error}"))
}

/// `names`: all objects of a vault that drained, was swept then, and unmounted: what the last commit alone made dead, by
/// naming a checkpoint that was just made, nobody has had the time to delete.
pub async fn check(store: Store, keys: &Keys, names: &[String]) -> Result<(), String> {
    let logs: Vec<&String> = names.iter().filter(|name| name.starts_with("log/")).collect();
    let newest = log_object(&store, keys, logs.last().ok_or("there is no log")?).await?;
    let counts = manifest(&store, keys, newest.checkpoint).await.map_err(|e| e.to_string())?;
    let mut needed: BTreeSet<String> = counts.segments().map(|object| segment_name(object.id)).collect();
    needed.insert(checkpoint_name(newest.checkpoint.0));
    let mut covered = counts.sequence;
    if let Body::Commit(commit) = &newest.body {
        needed.extend(commit.dead.iter().map(|id| segment_name(*id)));
    }
    if let Some(before) = logs.iter().rev().nth(1) {
        let before = log_object(&store, keys, before).await?;
        if before.checkpoint != newest.checkpoint {
            let manifest = manifest(&store, keys, before.checkpoint).await.map_err(|e| e.to_string())?;
            covered = covered.min(manifest.sequence);
            needed.insert(checkpoint_name(before.checkpoint.0));
        }
    }
    let mut state: BTreeMap<Key, Arc<Record>> = BTreeMap::new();
    let mut records = Records::new(&store, keys, &counts);
    while let Some((key, record)) = records.next().await.map_err(|e| e.to_string())? {
        state.insert(key, record);
    }
    for name in logs {
        let object = log_object(&store, keys, name).await?;
        let Body::Commit(commit) = object.body else { continue };
        if object.sequence <= covered {
            return Err(format!("{name} is left over: the checkpoint covers the log up to {covered}"));
        }
        if object.sequence <= counts.sequence {
            continue;
        }
        let mut records = commit.records;
        for part in &commit.parts {
            let name = segment_name(part.id);
            let bytes = store.get(&name).await.map_err(|e| e.to_string())?.ok_or(format!("{name} is missing"))?;
            records.extend(open_part(keys, part.id, &bytes).map_err(|error| format!("{name}: {error}"))?);
            needed.insert(name);
        }
        for (key, record) in records {
            match record {
                Some(record) => _ = state.insert(key, record),
                None => _ = state.remove(&key),
            }
        }
    }
    let mut named: BTreeSet<ExtentId> = BTreeSet::new();
    for record in state.values().filter(|record| !matches!(***record, Record::Extent(_))) {
        record.references(|reference| {
            if let Reference::Extent(id) = reference {
                named.insert(id);
            }
        });
    }
    for (key, record) in &state {
        if let (Part::Extent { number }, Record::Extent(extent)) = (key.part, &**record)
            && named.contains(&ExtentId { owner: key.ino, number })
        {
            match extent.place {
                Place::Segment { id, .. } => _ = needed.insert(segment_name(id)),
                Place::Inline { sequence, .. } => _ = needed.insert(log_name(sequence)),
                Place::Local => return Err(format!("{key:?} lies nowhere")),
            }
        }
    }
    let there: BTreeSet<String> = names.iter().cloned().collect();
    if let Some(name) = needed.difference(&there).next() {
        return Err(format!("{name} is missing"));
    }
    let in_room = |name: &&String| name.starts_with("segments/") || name.starts_with("checkpoint/");
    match there.difference(&needed).find(in_room) {
        Some(name) => Err(format!("{name} is left over: nothing needs it")),
        None => Ok(()),
    }
}
