//! The remote of a simulation: one map of objects that outlives every machine, and the bad network before it.
//!
//! Owns the faults of the network: latency, errors before and after the effect, answers that never come, requests that
//! are applied seconds later or twice, outages, a machine's own link that is down, listings that lack what is young and
//! still show what is gone. Deletions have the same faults as puts.
//! Invariant: whatever happens, an object that stands is never replaced (but the hint); that is what "create only if
//! absent" promises.
//!
//! Owns whose each log object is as well, and so the first judgement of epochs (E1): from the first object of a life on,
//! none of an earlier life may enter the log. (A late create may put back a commit that was removed: C6.) A life that began
//! without the store may write only if nobody but its own machine has since the history that it goes on from (E3).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dripfs::base::Sequence;
use dripfs::base::disk::simulated::Dice;
use dripfs::format::commit::log_name;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::world::Power;

/// For so long a listing may lack an object, or show one that is gone; longer than gc's grace in some histories.
const STALE: [Duration; 4] =
    [Duration::from_secs(20), Duration::from_secs(20), Duration::from_secs(20), Duration::from_secs(200)];

/// So often a life may ask a store to delete that refuses: no life lasts for more than a few runs of gc.
const REFUSED_MOST: u64 = 120;

/// Who sends: a machine, and which of all lives it leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Who {
    pub machine: usize,
    pub life: u64,
}

/// A request that is still on its way.
struct Late {
    due: Duration,
    location: Path,
    /// `None`: it deletes.
    payload: Option<PutPayload>,
    options: PutOptions,
    who: Who,
}

struct State {
    dice: Dice,
    late: Vec<Late>,
    /// Puts that a machine waits for and that have not arrived, by number.
    flying: Vec<(u64, Late)>,
    flights: u64,
    born: BTreeMap<Path, Duration>,
    stale: Duration,
    /// It lets nobody delete (403), and how often each life has asked.
    refuses: bool,
    refused: BTreeMap<u64, u64>,
    /// Of a hundred requests so many go wrong.
    trouble: u64,
    outage_until: Duration,
    /// Until when each machine's own link is down.
    links: [Duration; 2],
    /// Objects that were deleted, and when.
    gone: BTreeMap<Path, (Duration, ObjectMeta)>,
    /// Lives that began without the store: how many reigns there were in the history that they go on from.
    offline: BTreeMap<u64, usize>,
    /// Lives that came up.
    came_up: BTreeSet<u64>,
    /// The newest log object.
    newest: Option<Path>,
    /// Lives that have written to the log, in their order.
    reigns: Vec<Who>,
    /// Log objects after init's: number, and who made it.
    log: BTreeMap<u64, Who>,
    /// How often anything changed.
    changes: u64,
    /// What went against the rules.
    broken: Option<String>,
    /// Log objects that were deleted.
    deleted: Vec<(Path, bytes::Bytes)>,
    /// Simulated time: what earlier lives took, and when this one began.
    before: Duration,
    began: Instant,
}

pub struct Remote {
    objects: InMemory,
    state: Mutex<State>,
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Fine,
    FailBefore,
    LoseAnswer,
    Hang,
    HangAfter,
    Late,
    Twice,
}

impl Remote {
    /// Must be made inside a runtime, with the objects that `init` made.
    pub fn new(seed: u64, trouble: u64) -> Arc<Remote> {
        let state = State {
            dice: Dice::new(seed),
            late: Vec::new(),
            flying: Vec::new(),
            flights: 0,
            born: BTreeMap::new(),
            stale: STALE[(seed / 4 % 4) as usize],
            refuses: trouble > 0 && (seed / 16).is_multiple_of(8),
            refused: BTreeMap::new(),
            trouble,
            outage_until: Duration::ZERO,
            links: [Duration::ZERO; 2],
            gone: BTreeMap::new(),
            offline: BTreeMap::new(),
            came_up: BTreeSet::new(),
            newest: None,
            reigns: Vec::new(),
            log: BTreeMap::new(),
            changes: 0,
            broken: None,
            deleted: Vec::new(),
            before: Duration::from_secs(60),
            began: Instant::now(),
        };
        Arc::new(Remote { objects: InMemory::new(), state: Mutex::new(state) })
    }

    pub async fn fill(&self, objects: &[(Path, bytes::Bytes)]) {
        for (location, bytes) in objects {
            let put = self.objects.put_opts(location, bytes.clone().into(), PutOptions::default()).await;
            put.expect("memory takes it");
        }
    }

    /// Copies all objects: what `init` made.
    pub async fn contents(&self) -> Vec<(Path, bytes::Bytes)> {
        let mut contents = Vec::new();
        let mut list = self.objects.list(None);
        while let Some(meta) = list.next().await {
            let location = meta.expect("memory lists").location;
            let got = self.objects.get_opts(&location, GetOptions::default()).await.expect("it is listed");
            contents.push((location, got.bytes().await.expect("memory reads")));
        }
        contents
    }

    /// A runtime begins: its clock starts at zero.
    pub fn begin(&self) {
        self.state.lock().began = Instant::now();
    }

    /// It ends, and its clock with it.
    pub fn stop(&self) {
        let mut state = self.state.lock();
        let passed = state.began.elapsed();
        state.before += passed + Duration::from_secs(1);
        state.began = Instant::now();
    }

    /// It ended, and nothing of it runs any more. Of what was on its way some is lost, some arrives now, some later.
    pub async fn end(&self) {
        {
            let mut state = self.state.lock();
            state.began = Instant::now();
            let State { dice, late, before, .. } = &mut *state;
            late.retain_mut(|late| scatter(late, dice, *before));
        }
        self.deliver(None).await;
    }

    /// One life's power is gone: the same of what it had on its way.
    pub fn crashed(&self, life: u64) {
        let now = self.now();
        let mut state = self.state.lock();
        let State { dice, late, flying, .. } = &mut *state;
        let flights = flying.extract_if(.., |(_, flight)| flight.who.life == life);
        late.extend(
            flights
                .map(|(_, flight)| flight)
                .filter_map(|mut flight| scatter(&mut flight, dice, now).then_some(flight)),
        );
    }

    pub fn now(&self) -> Duration {
        let state = self.state.lock();
        state.before + state.began.elapsed()
    }

    /// Who made the newest log object, if not `init`.
    pub fn newest_writer(&self) -> Option<Who> {
        self.state.lock().reigns.last().copied()
    }

    /// Has no other machine written since this one did?
    pub fn is_own(&self, machine: usize) -> bool {
        self.newest_writer().is_some_and(|who| who.machine == machine)
    }

    /// Has another life written after this one did?
    pub fn is_overtaken(&self, life: u64) -> bool {
        let state = self.state.lock();
        state.reigns.iter().any(|who| who.life == life) && state.reigns.last().is_some_and(|who| who.life != life)
    }

    /// The lives that wrote before this one did, or, if it has not, all.
    pub fn before(&self, life: u64) -> Vec<Who> {
        self.state.lock().reigns.iter().copied().take_while(|who| who.life != life).collect()
    }

    /// The lives that wrote to the log up to this number.
    pub fn up_to(&self, sequence: u64) -> Vec<Who> {
        let state = self.state.lock();
        let mut lives: Vec<Who> = state.log.range(..=sequence).map(|(_, who)| *who).collect();
        lives.dedup();
        lives
    }

    /// The newest log object before the first of this life: number and bytes. There is one.
    pub async fn newest_before(&self, life: u64) -> (u64, bytes::Bytes) {
        let number = self.state.lock().log.iter().take_while(|(_, who)| who.life != life).last().map_or(1, |(n, _)| *n);
        let name = Path::from(log_name(Sequence(number)));
        let got = self.objects.get_opts(&name, GetOptions::default()).await.expect("it was made");
        (number, got.bytes().await.expect("memory reads"))
    }

    /// How many log objects there were before the first of this life.
    pub fn length_before(&self, life: u64) -> usize {
        self.state.lock().log.values().take_while(|who| who.life != life).count()
    }

    /// How many log objects there are.
    pub fn log_len(&self) -> usize {
        self.state.lock().log.len()
    }

    /// How often any object has come into being.
    pub fn changes(&self) -> u64 {
        self.state.lock().changes
    }

    pub fn broken(&self) -> Option<String> {
        self.state.lock().broken.clone()
    }

    pub fn outage(&self, time: Duration) {
        let until = self.now() + time;
        self.state.lock().outage_until = until;
    }

    /// Does it refuse to delete? It may not be asked without end.
    fn refuses(&self, who: Who) -> bool {
        let mut state = self.state.lock();
        if !state.refuses {
            return false;
        }
        let refused = state.refused.entry(who.life).or_default();
        *refused += 1;
        if *refused > REFUSED_MOST {
            state.broken.get_or_insert(format!("{who:?} was refused {REFUSED_MOST} deletions, and goes on"));
        }
        true
    }

    /// A machine's own link is down for so long.
    pub fn unplug(&self, machine: usize, time: Duration) {
        let until = self.now() + time;
        self.state.lock().links[machine] = until;
    }

    pub fn is_unplugged(&self, machine: usize) -> bool {
        let now = self.now();
        self.state.lock().links[machine] > now
    }

    /// Has another machine written after this log object?
    pub fn is_written_after(&self, sequence: u64, machine: usize) -> bool {
        self.state.lock().log.range(sequence + 1..).any(|(_, who)| who.machine != machine)
    }

    /// A drive is there, with the store or without.
    pub fn came_up(&self, life: u64) {
        self.state.lock().came_up.insert(life);
    }

    /// A life has begun without the store, with a history in which there were so many reigns.
    pub fn goes_on_from(&self, life: u64, reigns: usize) {
        let mut state = self.state.lock();
        if !state.reigns.iter().any(|who| who.life == life) {
            state.offline.insert(life, reigns);
        }
    }

    /// Now and then a life that began without the store dies as its record comes to stand, before it hears of it, and the
    /// next one is without the store again.
    fn strikes(&self, who: Who) -> bool {
        let now = self.now();
        let mut state = self.state.lock();
        let begins = state.reigns.last() == Some(&who) && state.offline.remove(&who.life).is_some();
        let strikes = begins && state.trouble > 0 && state.dice.chance(25);
        if strikes && let Some(link) = state.links.get_mut(who.machine) {
            *link = now + Duration::from_secs(100);
        }
        strikes
    }

    /// How many reigns there were once this life had begun to write; `None` if it has not.
    pub fn reigns_with(&self, life: u64) -> Option<usize> {
        self.state.lock().reigns.iter().position(|who| who.life == life).map(|at| at + 1)
    }

    /// Who has begun to write after so many reigns.
    pub fn reigns_after(&self, reigns: usize) -> Vec<Who> {
        self.state.lock().reigns.iter().skip(reigns).copied().collect()
    }

    /// No more faults; what was on its way has arrived.
    pub async fn calm(&self) {
        {
            let mut state = self.state.lock();
            state.trouble = 0;
            state.stale = Duration::ZERO;
            state.refuses = false;
            state.outage_until = Duration::ZERO;
            state.links = [Duration::ZERO; 2];
            state.late.iter_mut().for_each(|late| late.due = Duration::ZERO);
        }
        self.deliver(None).await;
    }

    fn fate(&self, put: bool, power: &Power, who: Who) -> (Fate, Duration, Duration) {
        if power.is_quiet() {
            return (Fate::Fine, Duration::ZERO, Duration::ZERO);
        }
        let now = self.now();
        let mut state = self.state.lock();
        let outage = now < state.outage_until || state.links.get(who.machine).is_some_and(|until| now < *until);
        let trouble = state.trouble;
        let dice = &mut state.dice;
        let mut millis = |most| Duration::from_millis(1 + dice.below(most));
        let (before, after) = (millis(60), millis(60));
        let fate = if outage {
            if dice.chance(50) { Fate::FailBefore } else { Fate::Hang }
        } else if !dice.chance(trouble) {
            Fate::Fine
        } else if put {
            let fates =
                [Fate::FailBefore, Fate::LoseAnswer, Fate::Hang, Fate::HangAfter, Fate::Late, Fate::Late, Fate::Twice];
            fates[dice.below(fates.len() as u64) as usize]
        } else if dice.chance(50) {
            Fate::FailBefore
        } else {
            Fate::Hang
        };
        (fate, before, after)
    }

    async fn apply(
        &self,
        location: &Path,
        payload: Option<PutPayload>,
        options: PutOptions,
        who: Who,
    ) -> Result<Option<PutResult>> {
        let Some(payload) = payload else {
            if location.as_ref().starts_with("log/")
                && let Ok(got) = self.objects.get_opts(location, GetOptions::default()).await
            {
                let bytes = got.bytes().await?;
                let mut state = self.state.lock();
                if state.newest.as_ref() == Some(location) {
                    state.broken.get_or_insert(format!("C6: {location}, the newest log object, was deleted"));
                }
                state.deleted.push((location.clone(), bytes));
            }
            if let Ok(meta) = self.objects.head(location).await {
                let now = self.now();
                self.state.lock().gone.insert(location.clone(), (now, meta));
            }
            let result = self.objects.delete(location).await;
            log::trace!("{who:?} deletes {location}: {}", result.is_ok());
            return result.map(|()| None);
        };
        let result = self.objects.put_opts(location, payload, options).await;
        log::trace!("{who:?} puts {location}: {}", result.is_ok());
        if result.is_ok() {
            let now = self.now();
            let mut state = self.state.lock();
            state.changes += 1;
            state.born.insert(location.clone(), now);
            if location.as_ref().starts_with("log/") {
                state.logged(location, who);
            }
        }
        result.map(Some)
    }

    /// What a listing shows although it was deleted.
    fn still_shown(&self, prefix: Option<&Path>) -> Vec<ObjectMeta> {
        let now = self.now();
        let mut state = self.state.lock();
        let State { gone, dice, trouble, stale, .. } = &mut *state;
        gone.retain(|_, (at, _)| *at + *stale > now);
        let below = |location: &Path| prefix.is_none_or(|prefix| location.prefix_matches(prefix));
        let shown = gone.iter().filter(|(location, _)| below(location) && *trouble > 0 && dice.chance(30));
        shown.map(|(_, (_, meta))| meta.clone()).collect()
    }

    /// Log objects that were deleted so far.
    pub fn deleted(&self) -> Vec<(Path, bytes::Bytes)> {
        self.state.lock().deleted.clone()
    }

    fn delay(&self, location: &Path, payload: &Option<PutPayload>, options: &PutOptions, who: Who) {
        let now = self.now();
        let mut state = self.state.lock();
        let due = now + Duration::from_millis(state.dice.below(40_000));
        let (location, payload, options) = (location.clone(), payload.clone(), options.clone());
        state.late.push(Late { due, location, payload, options, who });
    }

    fn fly<'a>(
        &'a self,
        location: &Path,
        payload: &Option<PutPayload>,
        options: &PutOptions,
        who: Who,
        power: &'a Power,
    ) -> Flight<'a> {
        let mut state = self.state.lock();
        state.flights += 1;
        let number = state.flights;
        let (location, payload, options) = (location.clone(), payload.clone(), options.clone());
        state.flying.push((number, Late { due: Duration::ZERO, location, payload, options, who }));
        Flight { remote: self, power, number }
    }

    /// Applies what has arrived by now, and now and then, of all instants, what is late under the name that somebody is
    /// about to create.
    async fn deliver(&self, wanted: Option<&Path>) {
        let now = self.now();
        let due: Vec<Late> = {
            let mut state = self.state.lock();
            let hurry = wanted.filter(|_| state.dice.chance(50));
            state.late.extract_if(.., |late| late.due <= now || Some(&late.location) == hurry).collect()
        };
        for late in due {
            // Refused if the name is taken: nobody waits for the answer.
            drop(self.apply(&late.location, late.payload, late.options, late.who).await);
        }
    }
}

fn broken() -> Error {
    Error::Generic { store: "simulated", source: "the network failed".into() }
}

/// The remote as one machine sees it. Without power it is as one who only looks sees it: no faults, no time.
pub struct Front {
    pub remote: Arc<Remote>,
    pub power: Option<Arc<Power>>,
    pub who: Who,
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}

/// A put between its call and its arrival. If the machine dies meanwhile, it may still arrive.
struct Flight<'a> {
    remote: &'a Remote,
    power: &'a Power,
    number: u64,
}

impl Flight<'_> {
    fn end(&self) -> Option<Late> {
        let mut state = self.remote.state.lock();
        let at = state.flying.iter().position(|(number, _)| *number == self.number)?;
        Some(state.flying.swap_remove(at).1)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        // A machine that sleeps has given up waiting, if its clock went on: what it sent may arrive when it wakes.
        if let Some(mut late) = self.end()
            && (self.power.is_gone() || self.power.is_asleep())
        {
            let now = self.remote.now();
            let mut state = self.remote.state.lock();
            late.due = now + Duration::from_millis(state.dice.below(40_000));
            state.late.push(late);
        }
    }
}

/// What was on its way when a life ended: lost (false), or arrives now, or later.
fn scatter(late: &mut Late, dice: &mut Dice, now: Duration) -> bool {
    let fate = dice.below(4);
    late.due = if fate == 1 { Duration::ZERO } else { now + Duration::from_millis(dice.below(40_000)) };
    fate != 0
}

impl State {
    /// A log object stands.
    fn logged(&mut self, location: &Path, who: Who) {
        // It comes again, late, after it was removed (C6).
        if self.deleted.iter().any(|(deleted, _)| deleted == location) {
            return;
        }
        let number = location.as_ref().rsplit('/').next().and_then(|name| name.parse().ok()).unwrap_or(0);
        self.log.insert(number, who);
        if self.newest.as_ref().is_some_and(|newest| newest > location) {
            self.broken.get_or_insert(format!("{location} came into being behind the log's end"));
            return;
        }
        self.newest = Some(location.clone());
        if self.reigns.last() == Some(&who) {
            return;
        }
        // What a machine left that never came up, and this one took over before it was without the store, is no history.
        let taken_over = self.reigns.iter().rposition(|other| other.machine == who.machine).unwrap_or_default();
        let is_nothing = |at: usize, other: &Who| at < taken_over && !self.came_up.contains(&other.life);
        if let Some(joined) = self.offline.get(&who.life)
            && let Some((_, other)) = (self.reigns.iter().enumerate().skip(*joined))
                .find(|(at, other)| other.machine != who.machine && !is_nothing(*at, other))
        {
            self.broken
                .get_or_insert(format!("E3: {who:?} began without the store, and goes on with what {other:?} wrote"));
        }
        if self.reigns.contains(&who) {
            self.broken.get_or_insert(format!("E1: {who:?} wrote {location} after another had taken over"));
        }
        self.reigns.push(who);
    }
}

/// From here on nothing happens if the power is gone.
async fn step(power: &Power) {
    power.awake().await;
    if !power.step() {
        pending::<()>().await;
    }
}

/// A put, or a deletion, through the bad network.
async fn change(
    remote: &Remote,
    power: &Power,
    who: Who,
    location: &Path,
    payload: Option<PutPayload>,
    options: PutOptions,
) -> Result<Option<PutResult>> {
    step(power).await;
    let (fate, before, after) = remote.fate(true, power, who);
    let flight = remote.fly(location, &payload, &options, who, power);
    tokio::time::sleep(before).await;
    remote.deliver(Some(location)).await;
    step(power).await;
    drop(flight.end());
    if payload.is_none() && remote.refuses(who) {
        return Err(Error::PermissionDenied { path: location.to_string(), source: "no deletions".into() });
    }
    match fate {
        Fate::Fine | Fate::Twice => {
            let result = remote.apply(location, payload.clone(), options.clone(), who).await;
            if fate == Fate::Twice {
                remote.delay(location, &payload, &options, who);
            }
            if result.is_ok() && remote.strikes(who) {
                power.cut();
                return pending().await;
            }
            tokio::time::sleep(after).await;
            result
        }
        Fate::FailBefore => Err(broken()),
        Fate::LoseAnswer => {
            drop(remote.apply(location, payload, options, who).await);
            Err(broken())
        }
        Fate::Hang => pending().await,
        Fate::HangAfter => {
            drop(remote.apply(location, payload, options, who).await);
            pending().await
        }
        Fate::Late => {
            remote.delay(location, &payload, &options, who);
            Err(broken())
        }
    }
}

#[async_trait]
impl ObjectStore for Front {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let Some(power) = &self.power else {
            return Err(Error::NotImplemented { operation: "put".into(), implementer: "a look".into() });
        };
        let put = change(&self.remote, power, self.who, location, Some(payload), options).await?;
        Ok(put.expect("it was a put"))
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: "the simulation".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let Some(power) = &self.power else { return self.remote.objects.get_opts(location, options).await };
        step(power).await;
        let (fate, before, after) = self.remote.fate(false, power, self.who);
        tokio::time::sleep(before).await;
        self.remote.deliver(None).await;
        match fate {
            Fate::Fine => {
                let result = self.remote.objects.get_opts(location, options).await;
                tokio::time::sleep(after).await;
                result
            }
            Fate::FailBefore => Err(broken()),
            _ => pending().await,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (remote, power, who) = (self.remote.clone(), self.power.clone(), self.who);
        let delete = move |location: Result<Path>| {
            let (remote, power) = (remote.clone(), power.clone());
            async move {
                let location = location?;
                let Some(power) = power else {
                    return Err(Error::NotImplemented { operation: "delete".into(), implementer: "a look".into() });
                };
                change(&remote, &power, who, &location, None, PutOptions::default()).await?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let list = self.remote.objects.list(prefix);
        if self.power.is_none() {
            return list;
        }
        let remote = self.remote.clone();
        let young = move |meta: &Result<ObjectMeta>| {
            let now = remote.now();
            let mut state = remote.state.lock();
            let Ok(meta) = meta else { return false };
            let born = state.born.get(&meta.location).copied().unwrap_or_default();
            born + state.stale > now && state.dice.chance(50)
        };
        let gone = self.remote.still_shown(prefix);
        let list = list.filter(move |meta| futures::future::ready(!young(meta)));
        list.chain(futures::stream::iter(gone.into_iter().map(Ok))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.remote.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.remote.objects.copy_opts(from, to, options).await
    }
}
