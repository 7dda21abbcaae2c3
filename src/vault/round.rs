//! Rounds: the vault goes forward, commit by commit (C1 to C4).
//!
//! A round takes the journal's durable end as its cut, sends what the state at the cut names and the vault lacks, and
//! creates one log object that moves the vault there in one step. One round at a time. Every file is in every round.
//!
//! Invariants
//! - Segments and parts are complete before the commit that names them is created.
//! - What is sent is noted in the journal first, durably (J5).
//! - The pin is durable before anybody is told that the commit stands.
//! - The journal releases bytes only after its own record of what the vault took is durable (J5).
//! - What gc asks for rides on a round: a commit that begins after the question, extents that move (see [`super::gc`]).
//! - A log object that is not the one we made at our next number is somebody else's: we are fenced, and write no more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::VaultError;
use super::checkpoint::keeper::Keeper;
use super::checkpoint::{self, Fetch, Maker, Upload, end};
use super::epoch::Reign;
use super::gc::request::Requests;
use super::pin::{Pin, PinFile};
use crate::base::sizes::{CLASS_MAX, CLASS_MIN, KIB};
use crate::base::{Clock, ExtentId, ObjectId, Position, Random, Sequence, Timestamp, plants};
use crate::crypto::kdf;
use crate::format::change::Note;
use crate::format::commit::{
    BlockRef, Body, ChainLink, Commit, CommitPart, Hash, LogObject, log_name, records_len, seal_part, segment_name,
};
use crate::format::extent;
use crate::format::key::{Key, Part};
use crate::format::keys::Keys;
use crate::format::record::{Extent, Place, Record, Segment};
use crate::history::{Batch, History};
use crate::journal::{Journal, JournalError};
use crate::store::Created;
use crate::store::retry::Stopped;
use crate::upload::notifier::Notifier;
use crate::upload::remote_storage::{self, Outgoing, Packed, RemoteStorage, SendError};

/// The oldest change that no commit holds is at most this old when a round begins (C1).
pub const ROUND_AGE: Duration = Duration::from_secs(5);
/// When the journal runs full, the next round begins so soon after the one before, and not sooner: each is a request,
/// and what makes the journal full may be nothing that a round can take away.
const ROUND_SPACING: Duration = Duration::from_millis(250);
/// How long a round waits for this machine's disk before it tries again.
const DISK_PAUSE: Duration = Duration::from_secs(1);
/// What a commit may carry beside its own fields: the smallest class, less a reserve for fields, nonce and tag.
const SMALL: usize = CLASS_MIN - KIB;
/// What the records of one commit, or of one part, may take.
const LARGE: usize = CLASS_MAX - 64 * KIB;
/// What a dead segment takes in the list of a commit; the longest list is less than what `LARGE` leaves.
const DEAD_LEN: usize = 17;

type Records = Vec<(Key, Option<Arc<Record>>)>;

/// Where the log stands.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    pub newest: ChainLink,
    pub cut: Position,
    pub idle: bool,
    pub time: Timestamp,
    /// The newest commit, and the checkpoint that it names: while both stand nobody has gone on without us (C6).
    pub standing: Option<(ChainLink, (ObjectId, Hash))>,
}

/// Why there are no more commits.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// Somebody else's object stands at our next number.
    #[error("fenced: another machine has taken the vault over")]
    Fenced,
    #[error(transparent)]
    Send(#[from] SendError),
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl From<Stopped> for RoundError {
    fn from(error: Stopped) -> RoundError {
        RoundError::Send(SendError::Stopped(error))
    }
}

pub struct Rounds {
    pub keeper: Keeper,
    /// What gc asks for.
    pub requests: Requests,
    /// Inodes and bytes in files as the newest commit has them, where that is known.
    pub usage: Mutex<Option<(u64, u64)>>,
    /// The checkpoint that is being made.
    pub making: Mutex<Option<AbortHandle>>,
    pub keys: Arc<Keys>,
    pub history: Arc<History>,
    pub journal: Arc<Journal>,
    pub remote: RemoteStorage,
    pub notifier: Arc<Notifier>,
    pub pins: Arc<PinFile>,
    pub reign: Reign,
    pub random: Random,
    pub clock: Clock,
    pub chain: Mutex<Chain>,
    /// Extents that the journal kept from earlier mounts: those may have sent them, in a segment that no commit names.
    pub found: Mutex<HashSet<ExtentId>>,
    /// Changes that a round took and no commit holds: bytes to send. Falls with every object that stands, so that a
    /// long round that goes on is told from one that does not.
    pub sending: Mutex<u64>,
}

/// What a round is going to send.
struct Plan {
    cut: Position,
    block: BlockRef,
    records: Records,
    outgoing: Vec<Outgoing>,
    /// Extents that were brought since the last commit and that nothing names at the cut.
    dead: Vec<ExtentId>,
    usage: Option<(u64, u64)>,
    /// Some extents lie in the vault already, and move to a segment (C6).
    moves: bool,
}

impl Plan {
    /// A commit that changes nothing.
    fn empty(cut: Position, block: BlockRef, usage: Option<(u64, u64)>) -> Plan {
        Plan { cut, block, records: Vec::new(), outgoing: Vec::new(), dead: Vec::new(), usage, moves: false }
    }

    /// Inline extents that an earlier commit placed move to a segment with this one. Each is sealed anew already. The
    /// records of those that an unlinked open file holds are in no commit; nothing is put in the place of what the
    /// batch changed.
    fn take_in(&mut self, moves: Vec<Outgoing>, history: &History) -> Result<(), VaultError> {
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

impl Rounds {
    /// Runs rounds until `stop`, or until the mount is fenced.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut next = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.due(next) => {}
            }
            if let Err(error) = self.round(false).await {
                self.ended(&error);
                return;
            }
            self.make_checkpoint();
            next = Instant::now() + ROUND_SPACING;
        }
    }

    /// Ends the reign: one last commit that says so (E2). Everything is in the vault when this returns `true`.
    pub async fn finish(&self) -> Result<(), String> {
        // What a checkpoint in the making leaves behind are orphans; the next mount makes another.
        if let Some(making) = self.making.lock().take() {
            making.abort();
        }
        // What lies before the last cut goes with the files that hold it: the next mount has little to read.
        self.journal.begin_file().await;
        self.round(true).await.map_err(|error| {
            self.ended(&error);
            error.to_string()
        })
    }

    /// Makes a checkpoint beside the rounds, if one is due.
    fn make_checkpoint(self: &Arc<Self>) {
        let newest = self.chain.lock().newest;
        let Some(order) = self.keeper.order(newest) else { return };
        let (rounds, usage) = (self.clone(), *self.usage.lock());
        let task = tokio::spawn(async move {
            let began = Instant::now();
            let maker =
                Maker { remote: &*rounds, keys: &rounds.keys, random: &rounds.random, usage, merge: order.merge };
            let made = checkpoint::make(&maker, &order.base, order.to).await;
            let made = made.map_err(|error| log::warn!("no checkpoint: {error}; the log goes on")).ok();
            if let Some(made) = &made {
                log::debug!("checkpoint {}: {:?}, {:?}", made.checkpoint.0, made.counters, began.elapsed());
            }
            rounds.keeper.ended(made);
        });
        *self.making.lock() = Some(task.abort_handle());
    }

    fn ended(&self, error: &RoundError) {
        match error {
            // The mount ends: what is not sent lies in the journal.
            RoundError::Send(SendError::Stopped(Stopped::Cancelled)) => self.notifier.end("the mount ended"),
            RoundError::Fenced => {
                log::error!("{error}; the drive is read-only now, what it could not send stays in the journal");
                self.history.make_read_only();
                self.notifier.end("fenced: another machine has taken the vault over");
            }
            _ => {
                log::error!("no more commits: {error}; the drive is read-only now");
                self.history.make_read_only();
                self.notifier.end(&error.to_string());
            }
        }
    }

    /// Returns when a round should begin: somebody waits, gc asks, the oldest change is old enough, or the journal runs
    /// full (not before `next`).
    async fn due(&self, next: Instant) {
        tokio::select! {
            biased;
            () = self.wanted() => {}
            () = self.requests.asked() => {}
            () = self.aged(next) => {}
            () = self.stuck(next) => {}
        }
    }

    /// The journal is short of room, and nothing waits for the vault: what is in it is superseded, or of unlinked files,
    /// or says no more than that somebody asked for a barrier. A round lets it go all the same.
    async fn stuck(&self, next: Instant) {
        loop {
            let durable = self.journal.durable().0;
            if self.journal.waits_for_cut() || (self.journal.pressed() && self.history.has_dead()) {
                return tokio::time::sleep_until(next).await;
            }
            tokio::select! {
                biased;
                () = self.journal.durable_end_after(durable) => {}
                () = self.journal.starved() => {}
            }
        }
    }

    async fn aged(&self, next: Instant) {
        loop {
            let durable = self.journal.durable().0;
            match self.history.oldest_uncommitted() {
                None => self.history.changed().await,
                Some(oldest) if oldest.elapsed() >= ROUND_AGE => break,
                Some(_) if self.journal.pressed() => {
                    tokio::time::sleep_until(next).await;
                    break;
                }
                Some(oldest) => {
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep_until(oldest + ROUND_AGE) => {}
                        () = self.journal.durable_end_after(durable) => {}
                    }
                }
            }
        }
        // A cut is a durable end: one that has nothing new below it would be for nothing.
        loop {
            let durable = self.journal.durable().0;
            if self.history.is_committable(durable) {
                return;
            }
            self.journal.hurry();
            self.journal.durable_end_after(durable).await;
        }
    }

    /// Somebody waits for the vault, and there is something durable that it lacks.
    async fn wanted(&self) {
        loop {
            self.notifier.someone_waits().await;
            let reached = self.notifier.position().unwrap_or_default();
            if self.journal.durable().0 > reached {
                return;
            }
            self.journal.durable_end_after(reached).await;
        }
    }

    /// One round; with `last`, the commit says that nobody writes, and is made even if nothing changed.
    async fn round(&self, last: bool) -> Result<(), RoundError> {
        // After a failed round the vault lacks what that one took: no commit may go beyond it.
        if let Some(why) = self.notifier.ended() {
            return Err(VaultError::Stopped(why).into());
        }
        let asked = self.requests.begin();
        // Read before the round looks: what becomes durable after it has looked is not in this commit.
        let (durable, block) = self.journal.durable();
        let plan = match self.history.begin_round() {
            Some(batch) => Some(self.renew(plan(batch))),
            // Nothing up to there changed any record: the vault has it all. Only the journal may need a commit, for its
            // files go up to the last one's cut and no further (J5; a mount knows its own commit by that block: C4).
            None => {
                if !last {
                    self.journal.release(&self.history.release_dead());
                }
                let needed = last || asked.is_some() || self.journal.waits_for_cut();
                block.filter(|_| needed).map(|block| Plan::empty(durable, block, *self.usage.lock()))
            }
        };
        let Some(mut plan) = plan else {
            if !last {
                self.notifier.committed(durable);
            }
            return Ok(());
        };
        let Some(asked) = asked else { return self.commit(plan, last).await };
        plan.take_in(asked.moves, &self.history)?;
        self.commit(plan, last).await?;
        self.requests.done(asked.number);
        Ok(())
    }

    /// What has been sent once travels to another object only sealed anew: equal ciphertext would tell where it begins
    /// and ends.
    fn renew(&self, mut plan: Plan) -> Plan {
        let found = self.found.lock();
        for extent in plan.outgoing.iter_mut().filter(|extent| found.contains(&extent.id)) {
            let renewed = extent::renew(&self.random, &extent.record);
            extent.sent = Some(std::mem::replace(&mut extent.record, renewed));
        }
        drop(found);
        plan
    }

    async fn commit(&self, plan: Plan, idle: bool) -> Result<(), RoundError> {
        let began = Instant::now();
        let chain = *self.chain.lock();
        let sequence = Sequence(chain.newest.sequence.0 + 1);
        let extents: u64 = plan.outgoing.iter().map(|o| u64::from(o.record.stored)).sum();
        *self.sending.lock() = extents;
        let (checkpoint, dead) = self.keeper.next();
        let listed = dead.len() * DEAD_LEN;
        let mut commit = Commit { cut: plan.cut, idle, dead, ..Commit::default() };
        let mut records = plan.records;
        let placed = if !plan.moves && extents as usize + records_len(&records) + listed <= SMALL {
            commit.inline = self.inline(&plan.outgoing).await?;
            inline_places(&plan.outgoing, sequence)
        } else {
            self.send_segments(sequence, plan.outgoing.clone(), &mut records, idle).await?
        };
        if plants::on("J5-drop-uploaded") {
            let taken = self.history.note(Note::Took { link: chain.newest, cut: Some(plan.cut) });
            self.journal.wait_durable(taken).await.map_err(SendError::from)?;
            self.journal.release(&placed.iter().map(|(id, _)| *id).collect::<Vec<_>>());
            self.journal.committed(plan.cut);
        }
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
        self.took(Chain { newest, cut: plan.cut, idle, time, standing }, &placed, &plan.dead).await?;
        *self.usage.lock() = plan.usage;
        self.keeper.stands(checkpoint, object.len() as u64 + parts, plan.usage.map(|(_, bytes)| bytes));
        log::debug!("commit {sequence}: {} extents, {extents} bytes, {:?}", placed.len(), began.elapsed());
        Ok(())
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
        let segments = remote_storage::pack(outgoing, &self.random);
        if segments.is_empty() {
            return Ok(Vec::new());
        }
        self.keeper.sends(sequence, segments.iter().map(|segment| segment.id));
        self.note(Note::Sent(segments.iter().map(|segment| segment.id).collect()), last).await?;
        let sent = self.remote.send(&segments, &self.sending).await?;
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
    async fn took(&self, chain: Chain, placed: &[(ExtentId, Extent)], dead: &[ExtentId]) -> Result<(), RoundError> {
        let pin =
            Pin { vault: self.keys.vault, link: chain.newest, header: self.reign.header.0, epoch: self.reign.epoch };
        let mut failures = 0;
        while let Err(error) = self.set_pin(pin).await {
            failures += 1;
            self.disk_failed(failures, chain.idle, error).await?;
        }
        *self.chain.lock() = chain;
        *self.sending.lock() = 0;
        let released = self.history.end_round(placed, dead, chain.newest).map_err(VaultError::from)?;
        self.forget_found(&released);
        self.notifier.committed(chain.cut);
        self.note(Note::Took { link: chain.newest, cut: Some(chain.cut) }, chain.idle).await?;
        self.journal.release(&released);
        self.journal.committed(chain.cut);
        Ok(())
    }

    fn forget_found(&self, ids: &[ExtentId]) {
        let mut found = self.found.lock();
        for id in ids {
            found.remove(id);
        }
    }

    /// Notes something of the vault in the journal; durable when this returns (J5).
    async fn note(&self, note: Note, last: bool) -> Result<(), RoundError> {
        let noted = self.history.note(note);
        let mut failures = 0;
        while let Err(error) = self.journal.wait_durable(noted).await {
            if matches!(error, JournalError::Closed) {
                return Err(SendError::from(error).into());
            }
            failures += 1;
            self.disk_failed(failures, last, error.into()).await?;
        }
        Ok(())
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

impl Fetch for Rounds {
    type Error = RoundError;

    fn get(&self, name: String) -> BoxFuture<'_, Result<Option<Bytes>, RoundError>> {
        async move { Ok(self.remote.get(&name).await?) }.boxed()
    }
}

impl Upload for Rounds {
    fn announce<'a>(&'a self, ids: &'a [ObjectId]) -> BoxFuture<'a, Result<(), RoundError>> {
        self.keeper.sends_for_checkpoint(ids);
        self.note(Note::Sent(ids.to_vec()), false).boxed()
    }

    fn create(&self, name: String, object: Bytes) -> BoxFuture<'_, Result<(), RoundError>> {
        async move { Ok(self.remote.create(&name, object).await?) }.boxed()
    }
}

/// What of a batch travels: extents that the state at the cut names and only the journal has; all other records.
fn plan(batch: Batch) -> Plan {
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
                // Dead at the cut: it does not travel.
                _ => {
                    dead.push(id);
                    continue;
                }
            }
        }
        records.push((key, entry.record));
    }
    Plan { cut: batch.cut, block: batch.block, records, outgoing, dead, usage: batch.usage, moves: false }
}

fn places(segment: &Packed) -> impl Iterator<Item = (ExtentId, Extent)> {
    remote_storage::places(segment)
}

fn inline_places(outgoing: &[Outgoing], sequence: Sequence) -> Vec<(ExtentId, Extent)> {
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
fn place(records: &mut Records, placed: &[(ExtentId, Extent)]) {
    let mut placed = placed.iter().peekable();
    for (key, record) in records.iter_mut() {
        while placed.next_if(|(id, _)| Key::extent(*id) < *key).is_some() {}
        if let Some((_, extent)) = placed.next_if(|(id, _)| Key::extent(*id) == *key) {
            *record = Some(Arc::new(Record::Extent(extent.clone())));
        }
    }
}

/// Cuts records into runs that fit one part each.
fn chunks(records: Records) -> Vec<Records> {
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
