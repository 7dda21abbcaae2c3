//! One seed's world: what all its lives share, and what the vault shows to a machine that only looks.
//!
//! Owns the dice, the remote, both machines' disks and their copies, and the lines of history. Does not own what a life
//! does (`life.rs`) nor which lives there are (`schedule.rs`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use dripfs::base::clock::Slept;
use dripfs::base::disk::Disk;
use dripfs::base::disk::simulated::{Dice, SeededBytes, SimulatedDisk};
use dripfs::base::{Clock, Ino, Random, Timestamp};
use dripfs::crypto::secret::{Key, Passphrase};
use dripfs::format::header::{Cost, Header, header_name};
use dripfs::format::keys::Keys;
use dripfs::fs::{Fs, FsError};
use dripfs::index::{Tables, TwinTables};
use dripfs::mount::drive::{Drive, DriveOptions, Durability, World};
use dripfs::pipeline::Cpu;
use dripfs::store::Store;
use dripfs::vault::checkpoint::keeper::When;
use dripfs::vault::gc;
use dripfs::vault::init;
use dripfs::vault::pin::PinFile;
use dripfs::vault::round;
use dripfs::vault::unlock::Unlocked;
use object_store::path::Path;

use super::follower::Follower;
use super::line::Line;
use super::model::{Contents, File, Kind, Model, Node, ROOT};
use super::oracle::{Floor, Found, Oracle};
use super::print;
use super::remote::{Front, Remote, Who};
use super::users::dice;
use super::world::{Power, READS_LIE};

/// A state directory as it once was.
pub struct Backup {
    pub disk: Arc<SimulatedDisk>,
    /// What its machine owed then.
    pub local: Floor,
    /// The life that it was taken in, its history, and how many log objects there were.
    pub life: u64,
    pub line: Rc<Line>,
    pub log_len: usize,
}

/// A machine between its lives.
pub struct Machine {
    pub disk: RefCell<Arc<SimulatedDisk>>,
    /// Copied from here.
    pub backup: RefCell<Option<Rc<Backup>>>,
    /// Its state directory is this copy, of its own or of the other machine, and no life has come up on it since.
    pub restored: RefCell<Option<Rc<Backup>>>,
    /// A part of its state directory that nothing depends on is a copy, and no life has come up on it since.
    pub patched: Cell<bool>,
    /// A mount has ended on its way since a life came up.
    pub died: Cell<bool>,
    /// The last life was unmounted.
    pub clean: Cell<bool>,
}

/// What histories have more of than usual: some bugs need what is rare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaning {
    Even,
    /// The disk gives other bytes than were written.
    Lies,
    /// Unlinked files stay open, and lives last until gc has swept more than once.
    Holds,
}

impl Leaning {
    /// Of ten thousand reads of the disk so many give other bytes.
    pub fn lies(self) -> u64 {
        if self == Leaning::Lies { 25 * READS_LIE } else { READS_LIE }
    }
}

/// One seed's world, over all its lives.
pub struct Sim {
    pub leaning: Leaning,
    dice: RefCell<Dice>,
    pub remote: Arc<Remote>,
    pub machines: [Machine; 2],
    pub follower: Follower,
    /// By the number of the life that came up. 0: what `init` made.
    pub lines: RefCell<BTreeMap<u64, Rc<Line>>>,
    lives: Cell<u64>,
    /// Changes of the remote when it was looked at last.
    looked: Cell<u64>,
    /// The life that marked the vault idle last.
    pub idle: Cell<u64>,
    broken: RefCell<Option<String>>,
    pub told: bool,
    pub disk_faults: bool,
    /// Machines may live at the same time.
    pub duels: bool,
    /// State directories are copied and restored.
    pub copies: bool,
    /// Machines mount without the store.
    pub offline: bool,
    compress: bool,
    pub journal_bytes: u64,
    pub dirty_bytes: u64,
    /// When a checkpoint is due.
    checkpoint: When,
    rounds: round::Settings,
    stamp: Cell<u32>,
    pub tally: RefCell<Tally>,
}

/// Sweeps come sooner than for a user: lives are short.
pub const GC: gc::Settings = gc::Settings {
    first: Duration::from_secs(40),
    every: Duration::from_secs(200),
    grace: Duration::from_secs(60),
    requests: 20,
    merge_after: 3,
};

/// How rounds go: of dice of their own, so that the rest of a seed's history is what it was.
fn rounds(seed: u64) -> round::Settings {
    let mut dice = dice(seed, 8);
    let spill_above = dice.chance(60).then_some(0);
    let usual = round::Settings::default();
    let [budget, little] = [8 << 20, 1 << 20].map(|usual| [usual, 0, 0, 500, 3000][dice.below(5) as usize]);
    let ahead_least = [usual.ahead_least, 1, 300][dice.below(3) as usize];
    let stage_least = [usual.stage_least, 1, 300, 3000][dice.below(4) as usize];
    round::Settings { spill_above, budget, little, ahead_least, stage_least, ..usual }
}

/// What was tried.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Tally {
    pub histories: u64,
    pub crashes: u64,
    pub looks: u64,
    pub steps: u64,
    /// Lives that ended overtaken by another that was up.
    pub overtaken: u64,
    /// Journals set aside that held what was owed.
    pub asides: u64,
    /// State directories restored or copied.
    pub restored: u64,
    /// Mounts refused as they must be.
    pub refused: u64,
    /// Lives that came up without the store; those of them that another machine had shut out.
    pub offline: u64,
    pub shut_out: u64,
    /// Unmounts with something pending.
    pub pending: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.histories += other.histories;
        self.crashes += other.crashes;
        self.looks += other.looks;
        self.steps += other.steps;
        self.overtaken += other.overtaken;
        self.asides += other.asides;
        self.restored += other.restored;
        self.refused += other.refused;
        self.offline += other.offline;
        self.shut_out += other.shut_out;
        self.pending += other.pending;
    }
}

/// What `init` makes, once for all histories: Argon2 takes its time.
pub struct Born {
    pub objects: Vec<(Path, Bytes)>,
    master: [u8; 32],
    header: (u64, [u8; 32]),
}

pub fn born() -> &'static Born {
    static BORN: OnceLock<Born> = OnceLock::new();
    // Half of a history's time would go into the padding of its objects.
    #[cfg(feature = "plants")]
    dripfs::format::padding::pad_finely();
    BORN.get_or_init(|| {
        let runtime = runtime();
        runtime.block_on(async {
            let remote = Remote::new(0, 0);
            let power = Some(Power::new(u64::MAX));
            let front = Front { remote: remote.clone(), power, who: Who { machine: 0, life: 0 } };
            let store = Store::over(Arc::new(front), "simulated:///");
            let random = Random::Simulated(Arc::new(SeededBytes::new(0)));
            let passphrase = Passphrase::new(b"simulated".to_vec());
            init::init(&store, &passphrase, Cost::FLOOR, (0, 0), &random, &clock(Duration::ZERO, Slept::default()))
                .await
                .expect("an empty store takes a vault");
            let number = init::FIRST_HEADER;
            let object = store.get(&header_name(number)).await.expect("no faults").expect("it was just made");
            let header = Header::parse(number, &object).expect("it was just made");
            let hash = header.hash;
            let master = header.unlock(&passphrase).expect("this is the passphrase");
            Born { objects: remote.contents().await, master: *master.as_bytes(), header: (number, hash) }
        })
    })
}

pub fn unlocked() -> Unlocked {
    let born = born();
    Unlocked { keys: Keys::from_master(&Key::from_bytes(born.master)), header: born.header, object: Default::default() }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread needs nothing")
}

/// Wall time goes on from life to life.
pub fn clock(passed: Duration, slept: Slept) -> Clock {
    let wall = Timestamp { secs: 2_000_000_000 + passed.as_secs() as i64, nanos: passed.subsec_nanos() };
    Clock::Simulated { wall, at: tokio::time::Instant::now(), slept }
}

/// Everything that a mounted drive shows.
pub async fn observe(fs: &Fs) -> Result<Model, FsError> {
    let mut model = Model::default();
    let mut todo = vec![ROOT];
    while let Some(dir) = todo.pop() {
        let stat = fs.getattr(Ino(dir)).await?;
        model.names.nodes.insert(dir, Node { kind: Kind::Dir, mode: stat.mode & 0o7777, nlink: stat.nlink });
        let mut cookie = 0;
        loop {
            let entries = fs.readdir(Ino(dir), cookie, true, 64).await?;
            let Some(last) = entries.last() else { break };
            cookie = last.cookie;
            for entry in entries {
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                if name == "." || name == ".." {
                    continue;
                }
                let ino = entry.ino.0;
                model.names.entries.insert((dir, name), ino);
                match entry.kind {
                    libc::S_IFDIR => todo.push(ino),
                    _ if model.names.nodes.contains_key(&ino) => {}
                    kind => {
                        let stat = fs.getattr(entry.ino).await?;
                        let kind = match kind {
                            libc::S_IFLNK => Kind::Symlink(fs.readlink(entry.ino).await?),
                            _ => {
                                let bytes = fs.read(entry.ino, 0, stat.size as u32 + 1).await?.to_vec();
                                model.files.insert(ino, File { bytes, mtime: stat.mtime, only_grown: false });
                                Kind::File
                            }
                        };
                        model.names.nodes.insert(ino, Node { kind, mode: stat.mode & 0o7777, nlink: stat.nlink });
                    }
                }
            }
        }
    }
    Ok(model)
}

pub fn found(model: &Model) -> Found {
    let files: BTreeMap<u64, Contents> = model.files.iter().map(|(ino, file)| (*ino, file.contents())).collect();
    Found { names: model.names.clone(), files }
}

impl Sim {
    pub fn new(seed: u64, leaning: Leaning, told: bool) -> Sim {
        let mut dice = dice(seed, 1);
        let trouble = [0, 5, 15, 30][dice.below(4) as usize];
        let journal_bytes = if dice.chance(80) { 64 << 20 } else { 16 << 20 };
        let dirty_bytes = if dice.chance(70) { 8 << 20 } else { 64 << 10 };
        let mut model = Model::default();
        model.names.nodes.insert(ROOT, Node { kind: Kind::Dir, mode: 0o755, nlink: 2 });
        let mut oracle = Oracle::default();
        oracle.space(&model.names);
        let born = Line::new(Who { machine: usize::MAX, life: 0 }, model, oracle, 0);
        let machines = [1, 2].map(|k| Machine {
            disk: RefCell::new(SimulatedDisk::new(dice.below(1 << 32) + k)),
            backup: RefCell::default(),
            restored: RefCell::default(),
            patched: Cell::new(false),
            died: Cell::new(false),
            clean: Cell::new(false),
        });
        let disk_faults = dice.chance(25);
        Sim {
            leaning,
            disk_faults: disk_faults || leaning == Leaning::Lies,
            duels: dice.chance(50),
            copies: dice.chance(30),
            offline: dice.chance(40),
            compress: dice.chance(50),
            dice: RefCell::new(dice),
            remote: Remote::new(seed ^ 0x5555, trouble),
            machines,
            follower: Follower::new(seed),
            lines: RefCell::new(BTreeMap::from([(0, Rc::new(born))])),
            lives: Cell::new(0),
            looked: Cell::new(0),
            idle: Cell::new(0),
            broken: RefCell::new(None),
            told,
            journal_bytes,
            dirty_bytes,
            checkpoint: When {
                bytes: u64::MAX,
                commits: if seed.is_multiple_of(4) { u64::MAX } else { 2 + seed % 6 },
                dead: if seed % 3 == 1 { 4096 << (seed % 8) } else { When::default().dead },
            },
            rounds: rounds(seed),
            stamp: Cell::new(1000),
            tally: RefCell::default(),
        }
    }

    pub fn say(&self, text: &str) {
        if self.told {
            print(&format!("{:9.3} {text}", self.remote.now().as_secs_f64()));
        }
    }

    pub fn broken(&self, why: String) {
        self.say(&format!("BROKEN: {why}"));
        self.broken.borrow_mut().get_or_insert(why);
    }

    /// What broke first, if anything did.
    pub fn verdict(&self) -> Result<(), String> {
        match self.broken.borrow().clone().or_else(|| self.remote.broken()) {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    pub fn next_stamp(&self) -> u32 {
        self.stamp.set(self.stamp.get() + 1);
        self.stamp.get()
    }

    pub fn next_life(&self) -> u64 {
        self.lives.set(self.lives.get() + 1);
        self.lives.get()
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.dice.borrow_mut().below(bound)
    }

    pub fn chance(&self, percent: u64) -> bool {
        self.dice.borrow_mut().chance(percent)
    }

    pub fn with_dice<T>(&self, throw: impl FnOnce(&mut Dice) -> T) -> T {
        throw(&mut self.dice.borrow_mut())
    }

    /// What the machine's last life that came up left.
    pub fn last_line(&self, machine: usize) -> Option<Rc<Line>> {
        self.lines.borrow().values().rev().find(|line| line.who.machine == machine).cloned()
    }

    /// Says the newest log object that nobody writes?
    pub fn is_idle(&self) -> bool {
        self.remote.newest_writer().map_or(0, |who| who.life) == self.idle.get()
    }

    /// Copies a machine's state directory as it is now.
    pub fn back_up(&self, machine: usize, disk: &SimulatedDisk, line: &Rc<Line>, life: u64) {
        let (local, log_len, line) = (line.oracle.borrow().local.clone(), self.remote.log_len(), line.clone());
        let backup = Backup { disk: disk.copy(), local, life, line, log_len };
        *self.machines[machine].backup.borrow_mut() = Some(Rc::new(backup));
    }

    pub fn options(&self, read_only: bool, remote: bool, takeover: bool, gc: gc::Settings) -> DriveOptions {
        DriveOptions {
            state: "state".into(),
            read_only,
            durability: if remote { Durability::Remote } else { Durability::Local },
            takeover,
            accept_rollback: false,
            compress: self.compress,
            cache_bytes: 1 << 20,
            caching: Default::default(),
            dirty_bytes: self.dirty_bytes,
            journal_bytes: self.journal_bytes,
            checkpoint: self.checkpoint,
            follow_seconds: 5,
            pipelines: Default::default(),
            gc,
            rounds: self.rounds.clone(),
        }
    }

    pub fn world(&self, front: Front, disk: Arc<dyn Disk>) -> World {
        let seed = self.below(u64::MAX);
        let slept = front.power.as_ref().map(|power| power.slept.clone()).unwrap_or_default();
        World {
            store: Store::over(Arc::new(front), "simulated:///"),
            tables: {
                let disk = disk.clone();
                Arc::new(move |dir| Arc::new(TwinTables::new(disk.clone(), dir)) as Arc<dyn Tables>)
            },
            disk,
            random: Random::Simulated(Arc::new(SeededBytes::new(seed))),
            clock: clock(self.remote.now(), slept),
            cpu: Cpu::inline(),
            journal_thread: false,
            host: "simulated".to_owned(),
        }
    }

    /// Through a network without faults.
    pub fn store(&self) -> Store {
        let who = Who { machine: usize::MAX, life: u64::MAX };
        let front = Front { remote: self.remote.clone(), power: None, who };
        Store::over(Arc::new(front), "simulated:///")
    }

    /// What the vault shows on a machine that has never seen it, and the number of the newest log object.
    pub async fn peek(&self) -> Result<(Model, u64), String> {
        let disk = SimulatedDisk::new(0);
        let who = Who { machine: usize::MAX, life: u64::MAX };
        let front = Front { remote: self.remote.clone(), power: None, who };
        let world = self.world(front, disk.clone());
        let failed = |error: &dyn std::fmt::Display| format!("the vault, from another machine: {error}");
        let pins = PinFile::open(disk).map_err(|error| failed(&error))?;
        let drive = Drive::open_in(world, unlocked(), pins, self.options(true, false, false, GC))
            .await
            .map_err(|error| failed(&error))?;
        let model = observe(&drive.fs).await.map_err(|error| failed(&error))?;
        Ok((model, drive.status().sequence))
    }

    /// Looks at the vault from another machine, and judges what is there.
    pub async fn look(&self, what: &str) -> Result<(), String> {
        // What did not change since the last look is not looked at again.
        if self.looked.replace(self.remote.changes()) == self.remote.changes() {
            return Ok(());
        }
        self.tally.borrow_mut().looks += 1;
        let (model, sequence) = self.peek().await?;
        let line = self.line_after(&self.remote.up_to(sequence));
        let result = line.oracle.borrow_mut().look(&found(&model), what);
        if self.told {
            let life = line.who.life;
            self.say(&format!("{what}: as of {result:?} of life {life}: {:?}", model.names.entries));
        }
        if result.is_err() {
            self.tell_difference(&model, &line.model.borrow());
        }
        result.map(drop)
    }

    /// For who looks at a seed: where contents are not those of the newest version.
    fn tell_difference(&self, shown: &Model, model: &Model) {
        for (ino, file) in &shown.files {
            let Some(newest) = model.files.get(ino).filter(|newest| newest.bytes != file.bytes) else { continue };
            let differs = |at: &usize| file.bytes.get(*at) != newest.bytes.get(*at);
            let most = file.bytes.len().max(newest.bytes.len());
            let (first, last) = ((0..most).find(differs), (0..most).rev().find(differs));
            self.say(&format!(
                "  {ino:#x} differs from its newest version from {first:?} to {last:?} ({} and {} bytes)",
                file.bytes.len(),
                newest.bytes.len()
            ));
        }
    }
}
