//! One commit: what the plan names is sent, one log object is created, and whoever has an interest is told (C3, C4, J5).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use tokio::time::Instant;

use super::plan::{DEAD_LEN, LARGE, Plan, Records, SMALL, chunks, inline_places, place};
use super::{Chain, RoundError, Rounds};
use crate::base::{ExtentId, Ino, ObjectId, Position, Sequence, plants};
use crate::crypto::kdf;
use crate::format::change::Note;
use crate::format::commit::{
    Body, ChainLink, Commit, CommitPart, Hash, LogObject, log_name, records_len, seal_part, segment_name,
};
use crate::format::key::Key;
use crate::format::record::{Extent, Place, Record, Segment};
use crate::journal::JournalError;
use crate::pipeline::{Class, Moved};
use crate::store::Created;
use crate::upload::remote_storage::{Outgoing, SendError, places};
use crate::vault::VaultError;
use crate::vault::checkpoint::keeper::InFiles;
use crate::vault::checkpoint::{Fetch, Upload, end};
use crate::vault::pin::Pin;

/// How long a round waits for this machine's disk before it tries again.
const DISK_PAUSE: Duration = Duration::from_secs(1);

/// Sealed bytes of each file, in the order of their inodes.
fn by_file(outgoing: &[Outgoing]) -> BTreeMap<Ino, u64> {
    let mut files = BTreeMap::new();
    for extent in outgoing {
        *files.entry(extent.id.owner).or_default() += u64::from(extent.record.stored);
    }
    files
}

impl Rounds {
    pub(super) async fn commit(&self, mut plan: Plan, idle: bool) -> Result<(), RoundError> {
        let began = Instant::now();
        let chain = *self.chain.lock();
        let sequence = Sequence(chain.newest.sequence.0 + 1);
        let extents = |plan: &Plan| plan.outgoing.iter().map(|o| u64::from(o.record.stored)).sum::<u64>();
        *self.sending.lock() = extents(&plan);
        // What was sent ahead becomes the vault's with this commit, too.
        let files = self.notifier.moves().is_watched().then(|| by_file(&plan.outgoing));
        let landed = self.land(&mut plan, sequence).await?;
        let extents = extents(&plan);
        *self.sending.lock() = extents;
        let (checkpoint, dead) = self.keeper.next();
        let listed = dead.len() * DEAD_LEN;
        let mut commit = Commit { cut: plan.cut, idle, dead, ..Commit::default() };
        let mut records = plan.records;
        let mut placed = if !plan.moves && extents as usize + records_len(&records) + listed <= SMALL {
            commit.inline = self.inline(&plan.outgoing).await?;
            inline_places(&plan.outgoing, sequence)
        } else {
            self.send_segments(sequence, plan.outgoing.clone(), &mut records, idle).await?
        };
        if plants::on("J5-drop-uploaded") {
            let taken = self.history.note(Note::took(chain.newest, plan.cut, plan.cut));
            self.journal.wait_durable(taken).await.map_err(SendError::from)?;
            self.journal.release(&placed.iter().map(|(id, _)| *id).collect::<Vec<_>>());
            self.journal.committed(plan.cut);
        }
        placed.extend(landed);
        placed.sort_unstable_by_key(|(id, _)| Key::extent(*id));
        place(&mut records, &placed);
        (commit.records, commit.parts) = self.split(sequence, records, idle).await?;
        let object = LogObject {
            sequence,
            previous: chain.newest.hash,
            epoch: self.reign.epoch,
            header: self.reign.header,
            checkpoint,
            block: Some(plan.block),
            host: self.reign.host.clone(),
            time: self.clock.now(),
            body: Body::Commit(commit),
        };
        let time = object.time;
        let Body::Commit(commit) = &object.body else { unreachable!("made above") };
        let parts: u64 = commit.parts.iter().map(|part| u64::from(part.len)).sum();
        let object = Bytes::from(object.seal(&self.keys, &self.random).expect("split keeps commits below the class"));
        self.create_log_object(sequence, &object, chain.standing).await?;
        let newest = ChainLink { sequence, hash: kdf::hash(&object) };
        let standing = Some((newest, checkpoint));
        let chain = Chain { newest, cut: plan.cut, idle, time, standing };
        self.took(chain, plan.low, &placed, &plan.dead).await?;
        for (ino, bytes) in files.into_iter().flatten() {
            self.notifier.moves().tell(Moved { ino, bytes, took: began.elapsed() });
        }
        *self.usage.lock() = plan.usage;
        let bytes = object.len() as u64 + parts;
        let in_files =
            plan.usage.map_or_else(|| InFiles::About(self.history.usage().0), |(_, bytes)| InFiles::Exactly(bytes));
        self.keeper.stands(checkpoint, &commit.dead, bytes, in_files);
        log::debug!("commit {sequence}: {} extents, {extents} bytes, {:?}", placed.len(), began.elapsed());
        Ok(())
    }

    /// What was sent ahead of the files that this commit takes is named by it, or by none. Returns the places of what is
    /// named; that is not sent again.
    async fn land(&self, plan: &mut Plan, sequence: Sequence) -> Result<Vec<(ExtentId, Extent)>, RoundError> {
        if let Some(number) = plan.awaits {
            self.history.await_landing(number).await;
            // What did not land may have been sent all the same.
            self.renew(&mut plan.outgoing);
        }
        let named = self.history.take_ahead(plan.outgoing.iter().map(|extent| extent.id));
        let dead = self.history.take_ahead(plan.dead.iter().copied());
        if named.is_empty() && dead.is_empty() {
            return Ok(named);
        }
        let ids: HashSet<ExtentId> = named.iter().map(|(id, _)| *id).collect();
        plan.outgoing.retain(|extent| !ids.contains(&extent.id));
        let segments: BTreeSet<ObjectId> = named.iter().filter_map(|(_, extent)| segment(extent)).collect();
        let ended: BTreeSet<ObjectId> =
            dead.iter().filter_map(|(_, extent)| segment(extent)).filter(|id| !segments.contains(id)).collect();
        for id in segments {
            let Some((len, live)) = self.ahead.lock().remove(&id) else { continue };
            self.keeper.names(id, Some(sequence));
            self.keeper.grew(live.into(), len.into());
            plan.records.push((Key::segment(id), Some(Record::Segment(Segment { len, extra: None }).into())));
        }
        plan.records.sort_unstable_by_key(|(key, _)| *key);
        // An unlinked open file has it there now, as what it spilled.
        self.history.orphans_have(&dead).map_err(VaultError::from)?;
        self.spilled.lock().extend(&ended);
        for id in ended {
            self.ahead.lock().remove(&id);
            self.keeper.names(id, None);
        }
        self.history.look_at_spilled();
        Ok(named)
    }

    async fn inline(&self, outgoing: &[Outgoing]) -> Result<Bytes, RoundError> {
        let mut bytes = BytesMut::new();
        for extent in outgoing {
            bytes.extend_from_slice(&self.remote.sealed_bytes(extent).await?);
        }
        Ok(bytes.freeze())
    }

    async fn send_segments(
        &self,
        sequence: Sequence,
        outgoing: Vec<Outgoing>,
        records: &mut Records,
        last: bool,
    ) -> Result<Vec<(ExtentId, Extent)>, RoundError> {
        let segments = self.remote.pack(outgoing).await;
        if segments.is_empty() {
            return Ok(Vec::new());
        }
        self.keeper.sends(sequence, segments.iter().map(|segment| segment.id));
        self.note(Note::Sent(segments.iter().map(|segment| segment.id).collect()), last).await?;
        let class = if self.notifier.is_waited_for() { Class::Waited } else { Class::Holding };
        let sent = self.remote.send(&segments, &self.sending, class).await?;
        let live = segments.iter().map(|segment| u64::from(segment.len)).sum();
        self.keeper.grew(live, sent.iter().map(|(_, len)| u64::from(*len)).sum());
        for (id, len) in sent {
            records.push((Key::segment(id), Some(Record::Segment(Segment { len, extra: None }).into())));
        }
        records.sort_unstable_by_key(|(key, _)| *key);
        Ok(segments.iter().flat_map(places).collect())
    }

    /// What does not fit one commit goes into sealed parts, sent first (C3).
    async fn split(
        &self,
        sequence: Sequence,
        records: Records,
        last: bool,
    ) -> Result<(Records, Vec<CommitPart>), RoundError> {
        if records_len(&records) <= LARGE {
            return Ok((records, Vec::new()));
        }
        let mut parts = Vec::new();
        let chunks: Vec<_> = chunks(records)
            .into_iter()
            .map(|chunk| (ObjectId(self.random.bytes()), records_len(&chunk) as u64, chunk))
            .collect();
        self.keeper.sends(sequence, chunks.iter().map(|(id, ..)| *id));
        self.note(Note::Sent(chunks.iter().map(|(id, ..)| *id).collect()), last).await?;
        *self.sending.lock() += chunks.iter().map(|(_, len, _)| len).sum::<u64>();
        for (id, len, chunk) in chunks {
            let object = seal_part(&self.keys, &self.random, id, &chunk).expect("chunks are below the largest class");
            let part = CommitPart { id, len: object.len() as u32, hash: kdf::hash(&object) };
            self.remote.create(&segment_name(id), object.into()).await?;
            parts.push(part);
            let mut sending = self.sending.lock();
            *sending = sending.saturating_sub(len);
        }
        Ok((Vec::new(), parts))
    }

    /// `before`: the newest commit until now, and what it names. Every successor begins with an epoch record at the very
    /// number that we create next, and that is never removed, so a create that succeeds at once is in the log. One whose
    /// answer was lost may have stood, been covered by a successor's checkpoint and been removed, before the next try
    /// found the name free: then the commit before it, or its manifest, was removed earlier (C6).
    async fn create_log_object(
        &self,
        sequence: Sequence,
        object: &Bytes,
        before: Option<(ChainLink, (ObjectId, Hash))>,
    ) -> Result<(), RoundError> {
        let name = log_name(sequence);
        match self.remote.create_once(&name, object).await? {
            (Created::New, 0) => return Ok(()),
            (Created::New, _) => {}
            (Created::Exists, _) => match self.remote.get(&name).await? {
                Some(standing) if standing == *object || plants::on("C4-own-by-name") => {}
                _ => return Err(RoundError::Fenced),
            },
        }
        match before {
            Some((link, checkpoint)) if !end::stands(self, link, checkpoint).await? => Err(RoundError::Fenced),
            _ => Ok(()),
        }
    }

    /// The commit stands: pin, tell, and let the journal go of what it need not keep.
    async fn took(
        &self,
        chain: Chain,
        low: Position,
        placed: &[(ExtentId, Extent)],
        dead: &[ExtentId],
    ) -> Result<(), RoundError> {
        let pin =
            Pin { vault: self.keys.vault, link: chain.newest, header: self.reign.header.0, epoch: self.reign.epoch };
        let mut failures = 0;
        while let Err(error) = self.set_pin(pin).await {
            failures += 1;
            self.disk_failed(failures, chain.idle, error).await?;
        }
        *self.chain.lock() = chain;
        *self.sending.lock() = 0;
        let released =
            self.history.end_round(placed, dead, (chain.newest, self.reign.epoch)).map_err(VaultError::from)?;
        self.forget_found(&released);
        self.notifier.committed(chain.cut);
        let noted = self.note(Note::took(chain.newest, chain.cut, low), chain.idle).await?;
        self.journal.release_at(noted, released);
        self.journal.committed(low);
        Ok(())
    }

    pub(in crate::vault) fn forget_found(&self, ids: &[ExtentId]) {
        let mut found = self.found.lock();
        for id in ids {
            found.remove(id);
        }
    }

    /// Notes something of the vault in the journal; durable when this returns (J5). Returns where it stands.
    pub(in crate::vault) async fn note(&self, note: Note, last: bool) -> Result<Position, RoundError> {
        let noted = self.history.note(note);
        let mut failures = 0;
        while let Err(error) = self.journal.wait_durable(noted).await {
            if matches!(error, JournalError::Closed) {
                return Err(SendError::from(error).into());
            }
            failures += 1;
            self.disk_failed(failures, last, error.into()).await?;
        }
        Ok(noted)
    }

    async fn set_pin(&self, pin: Pin) -> Result<(), VaultError> {
        let pins = self.pins.clone();
        if !self.clock.is_real() {
            return pins.set(pin);
        }
        tokio::task::spawn_blocking(move || pins.set(pin))
            .await
            .unwrap_or_else(|_| Err(VaultError::State { path: "pin".to_owned(), why: "writing it failed".to_owned() }))
    }

    /// This machine's disk does not take what must be on it before a round goes on (it is full, say). That passes, and
    /// nothing is sent or told before: the round waits and tries again. The last one of a mount does not wait for long.
    async fn disk_failed(&self, failures: u32, last: bool, error: VaultError) -> Result<(), RoundError> {
        if last && failures >= 3 {
            return Err(error.into());
        }
        // Where the disk is only full, this is what its reserve is for.
        self.journal.use_reserve();
        if failures == 1 {
            log::error!("{error}; free space or check the disk: no more commits until this machine can remember them");
        }
        Ok(self.remote.pause(DISK_PAUSE).await?)
    }
}

fn segment(extent: &Extent) -> Option<ObjectId> {
    match extent.place {
        Place::Segment { id, .. } => Some(id),
        _ => None,
    }
}

impl Fetch for Rounds {
    type Error = RoundError;

    fn get(&self, name: String) -> BoxFuture<'_, Result<Option<Bytes>, RoundError>> {
        async move { Ok(self.remote.get(&name).await?) }.boxed()
    }
}

impl Upload for Rounds {
    fn announce<'a>(&'a self, ids: &'a [ObjectId]) -> BoxFuture<'a, Result<(), RoundError>> {
        self.keeper.sends_for_checkpoint(ids);
        self.note(Note::Sent(ids.to_vec()), false).map_ok(drop).boxed()
    }

    fn create(&self, name: String, object: Bytes) -> BoxFuture<'_, Result<(), RoundError>> {
        async move { Ok(self.remote.create(&name, object).await?) }.boxed()
    }
}
