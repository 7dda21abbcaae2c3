//! What users do: each a task of its own, one call after the other, told to model and oracle as soon as it returns.
//!
//! In one thread nothing runs between a call's change and its return, so the model moves at the very instant at which
//! the drive did. A call that waits may overlap others; what it read is judged by all that was true meanwhile.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dripfs::base::Ino;
use dripfs::base::disk::simulated::{Dice, SimulatedDisk};
use dripfs::fs::{Caller, Fs, FsError, RenameMode, SetAttributes, SetTime};
use dripfs::mount::drive::Drive;

use super::line::Line;
use super::model::{File, Kind, ROOT, hash};
use super::sim::{Leaning, Sim};
use super::world::Power;

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 1 };
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// No call may take longer, whatever the remote does.
const HANG: Duration = Duration::from_secs(3600);
/// A truncation to nothing keeps a file back for a minute at most (L3).
const HELD: Duration = Duration::from_secs(50);
/// For so long a life's network and power may be disturbed.
const TROUBLED: Duration = Duration::from_secs(1200);
/// Files are kept below this many bytes.
const FILE_MOST: usize = 6 << 20;

/// A read under way: what it may answer.
pub struct Reading {
    ino: u64,
    from: usize,
    len: usize,
    answers: Vec<u64>,
}

impl Reading {
    fn look(&mut self, bytes: &[u8]) {
        let from = self.from.min(bytes.len());
        self.answers.push(hash(&bytes[from..(from + self.len).min(bytes.len())]));
    }
}

/// What the users of one life share.
pub struct Life {
    pub sim: Rc<Sim>,
    pub drive: Rc<Drive>,
    pub power: Arc<Power>,
    pub disk: Arc<SimulatedDisk>,
    /// What this life makes true, and what it owes.
    pub line: Rc<Line>,
    pub number: u64,
    pub machine: usize,
    /// fsync waits for the vault.
    pub remote: bool,
    pub calls: Cell<usize>,
    /// Calls that ever began.
    pub begun: Cell<usize>,
    /// It was read-only when no call was under way: nothing may change any more.
    pub fenced: Cell<bool>,
    /// Whatever is open is being closed.
    pub closing: Cell<bool>,
    pub reading: RefCell<Vec<Rc<RefCell<Reading>>>>,
    /// Simulated time and ghost time, now and then.
    pub marks: RefCell<Vec<(Duration, u64)>>,
}

type Done = Result<(), FsError>;

impl Life {
    fn fs(&self) -> &Fs {
        &self.drive.fs
    }

    fn below(&self, bound: usize) -> usize {
        self.sim.below(bound as u64) as usize
    }

    fn chance(&self, percent: u64) -> bool {
        self.sim.chance(percent)
    }

    fn broken(&self, why: String) {
        if !self.power.is_gone() {
            self.sim.broken(why);
            self.power.cut();
        }
    }

    fn dir(&self) -> u64 {
        let dirs: Vec<u64> = {
            let model = self.line.model.borrow();
            model.names.nodes.iter().filter(|(_, node)| node.kind == Kind::Dir).map(|(ino, _)| *ino).collect()
        };
        if self.chance(50) { ROOT } else { dirs[self.below(dirs.len())] }
    }

    fn name(&self) -> &'static str {
        NAMES[self.below(NAMES.len())]
    }

    fn entry(&self, dirs: bool) -> Option<(u64, String, u64)> {
        let entries: Vec<(u64, String, u64)> = {
            let model = self.line.model.borrow();
            let wanted = model.names.entries.iter().filter(|(_, ino)| model.names.is_dir(**ino) == dirs);
            wanted.map(|((parent, name), ino)| (*parent, name.clone(), *ino)).collect()
        };
        if entries.is_empty() { None } else { Some(entries[self.below(entries.len())].clone()) }
    }

    fn file(&self) -> Option<u64> {
        let files: Vec<u64> = self.line.model.borrow().files.keys().copied().collect();
        if files.is_empty() { None } else { Some(files[self.below(files.len())]) }
    }

    /// The drive's answer against the model's: `could` says what the model thinks of the call, before and after.
    fn agree(&self, what: &str, result: &Result<impl Sized, FsError>, before: bool, after: bool) {
        match result {
            Ok(_) if !after => self.broken(format!("{what} went well, but the model says it cannot")),
            Err(FsError::Io(_) | FsError::ReadOnly | FsError::NoSpace) => {}
            Err(error) if before && after => self.broken(format!("{what} failed: {error}; the model says it can")),
            _ => {}
        }
    }

    /// Something changed. Not on a drive that was read-only before the call (E3).
    fn changes(&self) {
        if self.fenced.get() {
            self.broken("a fenced drive was changed".to_owned());
        }
    }

    /// Something was acknowledged.
    fn acknowledge(&self, ino: Option<u64>, call: u64) {
        // An unlinked file is in no commit: its fsync is local (L4).
        let unlinked = ino.is_some_and(|ino| self.line.model.borrow().orphans.contains(&ino));
        self.line.oracle.borrow_mut().acknowledged(ino, call, self.remote && !unlinked);
        self.kept_by_successor();
    }

    /// What the vault acknowledged, also after somebody took over, the successor has found.
    fn kept_by_successor(&self) {
        if let Err(why) = self.line.kept_by_successor() {
            self.broken(why);
        }
    }

    /// A file's contents are new: what stat says of them, and a version.
    async fn changed(&self, ino: u64) {
        self.changes();
        let mtime = match self.fs().getattr(Ino(ino)).await {
            Ok(attributes) => attributes.mtime,
            Err(error) => return self.broken(format!("stat of {ino:#x}: {error}")),
        };
        let mut model = self.line.model.borrow_mut();
        let file = model.files.get_mut(&ino).expect("it was just changed");
        file.mtime = mtime;
        for reading in self.reading.borrow().iter().filter(|reading| reading.borrow().ino == ino) {
            reading.borrow_mut().look(&file.bytes);
        }
        let contents = file.contents();
        if !model.orphans.contains(&ino) {
            self.line.oracle.borrow_mut().version(ino, contents);
        }
    }

    fn space(&self) -> u64 {
        self.changes();
        let now = self.line.oracle.borrow_mut().space(&self.line.model.borrow().names);
        if self.sim.told {
            let model = self.line.model.borrow();
            self.sim.say(&format!("  space {now}: {:?}", model.names.entries));
        }
        now
    }

    async fn make(&self) -> Done {
        let (dir, name) = (self.dir(), self.name());
        let could = self.line.model.borrow().names.find(dir, name).is_none();
        let mode = 0o600 + self.below(64) as u32;
        let which = self.below(10);
        let (made, kind) = match which {
            0 | 1 => (self.fs().mkdir(Ino(dir), name.as_bytes(), mode, CALLER).await, Kind::Dir),
            2 => (self.fs().symlink(Ino(dir), name.as_bytes(), b"to", CALLER).await, Kind::Symlink(b"to".to_vec())),
            _ => (self.fs().create(Ino(dir), name.as_bytes(), mode, CALLER).await, Kind::File),
        };
        self.agree("create", &made, could, could);
        let made = made?;
        let ino = made.ino.0;
        self.sim.say(&format!("  made {kind:?} {ino:#x} as {dir:#x}/{name}"));
        let mut model = self.line.model.borrow_mut();
        model.add(dir, name, ino, kind.clone(), made.mode & 0o7777);
        if kind == Kind::File {
            model.files.insert(ino, File { bytes: Vec::new(), mtime: made.mtime, only_grown: true });
        }
        drop(model);
        let now = self.space();
        if kind == Kind::File {
            let contents = self.line.model.borrow().files[&ino].contents();
            self.line.oracle.borrow_mut().born(ino, now, contents);
        }
        Ok(())
    }

    fn data(&self, len: usize) -> Vec<u8> {
        let stamp = self.sim.next_stamp();
        (0..len as u32 / 4 + 1).flat_map(|k| (stamp ^ (k / 16)).to_le_bytes()).take(len).collect()
    }

    fn size(&self) -> usize {
        match self.below(600) {
            0 => self.below(2 << 20) + 1,
            1..20 => self.below(200_000) + 1,
            20..100 => self.below(20_000) + 1,
            _ => self.below(600) + 1,
        }
    }

    async fn write(&self) -> Done {
        let Some(ino) = self.file() else { return self.make().await };
        let size = self.line.model.borrow().files[&ino].bytes.len();
        if size > FILE_MOST {
            return self.truncate_to(ino, 0).await;
        }
        let offset = match self.below(10) {
            0..4 => size,
            4..8 => self.below(size + 1),
            _ => size + self.below(5000),
        };
        let data = self.data(self.size());
        self.sim.say(&format!("  write {ino:#x} at {offset}, {} bytes (size {size})", data.len()));
        self.fs().write(Ino(ino), offset as u64, data.clone(), false).await?;
        if let Some(file) = self.line.model.borrow_mut().files.get_mut(&ino) {
            file.write(offset, &data);
        }
        self.changed(ino).await;
        Ok(())
    }

    async fn truncate(&self) -> Done {
        let Some(ino) = self.file() else { return Ok(()) };
        let size = self.line.model.borrow().files[&ino].bytes.len();
        let to = if self.chance(40) { 0 } else { self.below(size + 3000) };
        if to == 0 && self.chance(60) {
            return self.save(ino).await;
        }
        self.truncate_to(ino, to).await
    }

    /// A file is rewritten without rename: emptied, written in parts, closed (L3). What others do with it meanwhile may be
    /// a barrier, and then anything goes.
    async fn save(&self, ino: u64) -> Done {
        let before = self.begun.get();
        // A barrier orders what it is now, and the vault shows nothing between that and what it becomes.
        match !self.remote && self.chance(30) {
            true => self.sync().await?,
            false => self.fsync_of(ino).await?,
        }
        let size = self.line.model.borrow().files.get(&ino).map_or(0, |file| file.bytes.len());
        self.sim.say(&format!("  save {ino:#x} of {size} bytes"));
        self.fs().open(Ino(ino), true, true, CALLER).await?;
        if let Some(file) = self.line.model.borrow_mut().files.get_mut(&ino) {
            file.bytes.clear();
            file.only_grown = false;
        }
        self.changed(ino).await;
        let linked = self.line.model.borrow().names.nodes.contains_key(&ino);
        if linked && size > 0 && (self.calls.get(), self.begun.get()) == (1, before) {
            self.line.oracle.borrow_mut().hide(ino);
        }
        let rest = self.write_and_close(ino);
        tokio::pin!(rest);
        let done = match tokio::time::timeout(HELD, &mut rest).await {
            Ok(done) => done,
            Err(_) => {
                self.line.oracle.borrow_mut().unhide(ino);
                rest.await
            }
        };
        match &done {
            Ok(()) => self.line.oracle.borrow_mut().closed(ino),
            Err(_) => self.line.oracle.borrow_mut().unhide(ino),
        }
        done
    }

    async fn write_and_close(&self, ino: u64) -> Done {
        for _ in 0..self.below(4) {
            tokio::time::sleep(Duration::from_millis(self.below(5000) as u64)).await;
            self.power.awake().await;
            let Some(size) = self.line.model.borrow().files.get(&ino).map(|file| file.bytes.len()) else {
                break;
            };
            let data = self.data(self.below(2000) + 1);
            self.fs().write(Ino(ino), size as u64, data.clone(), false).await?;
            if let Some(file) = self.line.model.borrow_mut().files.get_mut(&ino) {
                file.write(size, &data);
            }
            self.changed(ino).await;
        }
        self.fs().release(Ino(ino), true).await
    }

    async fn truncate_to(&self, ino: u64, to: usize) -> Done {
        self.sim.say(&format!("  truncate {ino:#x} to {to}"));
        self.fs().truncate(Ino(ino), to as u64, false).await?;
        if let Some(file) = self.line.model.borrow_mut().files.get_mut(&ino) {
            file.bytes.resize(to, 0);
            file.only_grown = false;
        }
        self.changed(ino).await;
        Ok(())
    }

    async fn punch(&self) -> Done {
        let Some(ino) = self.file() else { return Ok(()) };
        let size = self.line.model.borrow().files[&ino].bytes.len();
        let (from, len) = (self.below(size + 1), self.below(size + 10) + 1);
        self.sim.say(&format!("  punch {ino:#x} at {from}, {len} bytes"));
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        self.fs().fallocate(Ino(ino), mode, from as u64, len as u64, false).await?;
        if let Some(file) = self.line.model.borrow_mut().files.get_mut(&ino) {
            let end = (from + len).min(file.bytes.len());
            if from < end {
                file.bytes[from..end].fill(0);
            }
            file.only_grown = false;
        }
        self.changed(ino).await;
        Ok(())
    }

    async fn utimens(&self) -> Done {
        let Some(ino) = self.file() else { return Ok(()) };
        let secs = self.sim.next_stamp();
        let time = dripfs::base::Timestamp { secs: i64::from(secs), nanos: 7 };
        self.sim.say(&format!("  utimens {ino:#x} {secs}"));
        let set = SetAttributes { mtime: Some(SetTime::At(time)), ..SetAttributes::default() };
        self.fs().setattr(Ino(ino), set, CALLER).await?;
        self.changed(ino).await;
        Ok(())
    }

    async fn chmod(&self) -> Done {
        let Some(ino) = self.file() else { return Ok(()) };
        let call = self.line.oracle.borrow().now();
        self.line.oracle.borrow_mut().unhide(ino);
        let grown = self.line.model.borrow().files[&ino].only_grown;
        let mode = 0o600 + self.below(64) as u32;
        self.sim.say(&format!("  chmod {ino:#x} {mode:o}, only grown {grown}"));
        let set = SetAttributes { mode: Some(mode), ..SetAttributes::default() };
        self.fs().setattr(Ino(ino), set, CALLER).await?;
        let linked = match self.line.model.borrow_mut().names.nodes.get_mut(&ino) {
            Some(node) => {
                node.mode = mode;
                true
            }
            None => false,
        };
        if linked {
            let now = self.space();
            if !grown {
                self.line.oracle.borrow_mut().barrier(ino, now, call);
            }
        }
        Ok(())
    }

    async fn rename(&self, dirs: bool) -> Done {
        let Some((from, name, ino)) = self.entry(dirs) else { return self.make().await };
        let (to, new_name) = match self.entry(dirs) {
            Some((to, new_name, _)) if self.chance(40) => (to, new_name),
            _ => (self.dir(), self.name().to_owned()),
        };
        let exchange = self.chance(15);
        let mode = if exchange { RenameMode::Exchange } else { RenameMode::Replace };
        let call = self.line.oracle.borrow().now();
        let ((could, before), target) = {
            let model = self.line.model.borrow();
            let settled = |ino: Option<u64>| match ino {
                Some(ino) if model.names.is_dir(ino) => model.names.files_below(ino),
                other => other.into_iter().collect(),
            };
            let target = model.names.find(to, &new_name);
            let mut files = settled(Some(ino));
            files.extend(settled(target.filter(|_| exchange)));
            ((model.can_rename((from, &name), (to, &new_name), exchange), files), target)
        };
        self.line.oracle.borrow_mut().unhide_all();
        self.sim.say(&format!("  rename {from:#x}/{name} ({ino:#x}) {to:#x}/{new_name} ({target:x?}) {mode:?}"));
        let result = self.fs().rename(Ino(from), name.as_bytes(), Ino(to), new_name.as_bytes(), mode).await;
        let (can, now_ino, now_target) = {
            let model = self.line.model.borrow();
            let can = model.can_rename((from, &name), (to, &new_name), exchange);
            (can, model.names.find(from, &name), model.names.find(to, &new_name))
        };
        self.agree(&format!("rename {from:#x}/{name} to {to:#x}/{new_name}"), &result, could, can);
        result?;
        if now_ino == now_target || !can {
            return Ok(());
        }
        self.line.model.borrow_mut().rename((from, &name), (to, &new_name), exchange);
        let now = self.space();
        // Those files whose names were moved when the call began and when it ended.
        if (now_ino, now_target) == (Some(ino), target) || (now_ino == Some(ino) && !exchange) {
            let mut oracle = self.line.oracle.borrow_mut();
            before.into_iter().for_each(|file| oracle.barrier(file, now, call));
        }
        self.forget(now_target.unwrap_or_default(), 60);
        Ok(())
    }

    async fn link(&self) -> Done {
        let Some((_, _, ino)) = self.entry(false) else { return Ok(()) };
        let (to, name) = (self.dir(), self.name());
        let call = self.line.oracle.borrow().now();
        let can = || {
            let names = &self.line.model.borrow().names;
            names.nodes.contains_key(&ino) && names.is_dir(to) && names.find(to, name).is_none()
        };
        let before = can();
        self.line.oracle.borrow_mut().unhide(ino);
        self.sim.say(&format!("  link {ino:#x} as {to:#x}/{name}"));
        let result = self.fs().link(Ino(ino), Ino(to), name.as_bytes()).await;
        self.agree("link", &result, before, can());
        result?;
        self.line.model.borrow_mut().link(ino, to, name);
        let now = self.space();
        if self.line.model.borrow().files.contains_key(&ino) {
            self.line.oracle.borrow_mut().barrier(ino, now, call);
        }
        Ok(())
    }

    async fn unlink(&self) -> Done {
        let Some((dir, name, ino)) = self.entry(false) else { return Ok(()) };
        self.sim.say(&format!("  unlink {dir:#x}/{name} ({ino:#x})"));
        let result = self.fs().unlink(Ino(dir), name.as_bytes()).await;
        self.agree("unlink", &result, true, true);
        result?;
        self.line.model.borrow_mut().remove(dir, &name);
        self.space();
        self.forget(ino, 60);
        Ok(())
    }

    async fn rmdir(&self) -> Done {
        let Some((dir, name, ino)) = self.entry(true) else { return Ok(()) };
        let can = self.line.model.borrow().names.is_empty(ino);
        self.sim.say(&format!("  rmdir {dir:#x}/{name} ({ino:#x})"));
        let result = self.fs().rmdir(Ino(dir), name.as_bytes()).await;
        self.agree("rmdir", &result, can, can);
        result?;
        self.line.model.borrow_mut().remove(dir, &name);
        self.space();
        self.forget(ino, 60);
        Ok(())
    }

    /// The kernel forgets what is unlinked, once nobody uses it.
    fn forget(&self, ino: u64, percent: u64) {
        if self.sim.leaning == Leaning::Holds && !self.closing.get() {
            return;
        }
        let mut model = self.line.model.borrow_mut();
        if model.names.nodes.contains_key(&ino) || self.calls.get() > 1 || !self.chance(percent) {
            return;
        }
        model.orphans.remove(&ino);
        model.files.remove(&ino);
        self.fs().forget(Ino(ino));
        self.sim.say(&format!("  forget {ino:#x}"));
    }

    fn close(&self) {
        let orphan = self.line.model.borrow().orphans.first().copied();
        if let Some(ino) = orphan {
            self.forget(ino, 100);
        }
    }

    /// Nobody has any file open now.
    pub fn close_all(&self) {
        self.closing.set(true);
        let orphans = self.line.model.borrow().orphans.clone();
        orphans.into_iter().for_each(|ino| self.forget(ino, 100));
    }

    async fn fsync(&self) -> Done {
        let Some(ino) = self.file() else { return Ok(()) };
        self.fsync_of(ino).await
    }

    async fn fsync_of(&self, ino: u64) -> Done {
        let call = self.line.oracle.borrow().now();
        self.line.oracle.borrow_mut().unhide(ino);
        self.sim.say(&format!("  fsync {ino:#x}, called at {call}"));
        self.fs().fsync(Ino(ino), self.chance(50)).await?;
        self.sim.say(&format!("  fsync {ino:#x} of {call} returned"));
        self.acknowledge(Some(ino), call);
        Ok(())
    }

    async fn fsync_dir(&self) -> Done {
        let dir = self.dir();
        let call = self.line.oracle.borrow().now();
        self.fs().fsync_dir(Ino(dir)).await?;
        self.sim.say(&format!("  fsync of directory {dir:#x} of {call} returned"));
        self.acknowledge(None, call);
        Ok(())
    }

    pub async fn sync(&self) -> Done {
        let call = self.line.oracle.borrow().now();
        self.line.oracle.borrow_mut().unhide_all();
        self.sim.say(&format!("  sync, called at {call}"));
        self.drive.sync(|_| {}).await.map_err(|error| FsError::Io(error.to_string()))?;
        self.sim.say(&format!("  sync of {call} returned"));
        self.line.oracle.borrow_mut().all_acknowledged(call, true);
        self.kept_by_successor();
        Ok(())
    }

    async fn read(&self) -> Done {
        let Some(ino) = self.file() else { return Ok(()) };
        let size = self.line.model.borrow().files[&ino].bytes.len();
        match self.chance(50) {
            true => self.read_at(ino, 0, size + 10).await,
            false => self.read_at(ino, self.below(size + 1), self.below(size + 10)).await,
        }
    }

    async fn read_at(&self, ino: u64, from: usize, len: usize) -> Done {
        let mut reading = Reading { ino, from, len, answers: Vec::new() };
        if let Some(file) = self.line.model.borrow().files.get(&ino) {
            reading.look(&file.bytes);
        }
        let reading = Rc::new(RefCell::new(reading));
        self.reading.borrow_mut().push(reading.clone());
        let result = self.fs().read(Ino(ino), from as u64, len as u32).await;
        self.reading.borrow_mut().retain(|other| !Rc::ptr_eq(other, &reading));
        let bytes = result?;
        if !reading.borrow().answers.contains(&hash(&bytes)) {
            let many = reading.borrow().answers.len();
            self.broken(format!(
                "a read of {ino:#x} at {from}, {len} bytes, brought {} bytes that the file did not have (of {many} versions)",
                bytes.len()
            ));
        }
        Ok(())
    }

    /// Unlinked files that are still open read as they were, whatever gc has deleted (L4, D2).
    pub async fn read_open(&self) {
        let open = self.line.model.borrow().orphans.clone();
        for ino in open {
            let Some(len) = self.line.model.borrow().files.get(&ino).map(|file| file.bytes.len()) else { continue };
            self.power.awake().await;
            let mut read = Ok(());
            // The first may join a request that hangs already.
            for _ in 0..3 {
                self.power.quiet(true);
                read = self.read_at(ino, 0, len + 10).await;
                self.power.quiet(false);
                if read.is_ok() {
                    break;
                }
            }
            let disturbed = self.power.disk_failed() || self.power.is_gone() || self.power.is_asleep();
            let excused = self.may_be_read_only() || disturbed;
            if let Err(FsError::Io(why)) = read
                && !excused
            {
                self.broken(format!("L4: {ino:#x} is open and unlinked, and cannot be read: {why}"));
            }
        }
    }

    async fn call(&self) -> Done {
        match self.below(100) {
            0..14 => self.make().await,
            14..38 => self.write().await,
            38..44 => self.truncate().await,
            44..46 => self.punch().await,
            46..48 => self.utimens().await,
            48..51 => self.chmod().await,
            51..61 => self.rename(false).await,
            61..64 => self.rename(true).await,
            64..67 => self.link().await,
            67..73 => self.unlink().await,
            73..75 => self.rmdir().await,
            75..85 => self.fsync().await,
            85..88 => self.fsync_dir().await,
            88..90 => self.sync().await,
            90..98 => self.read().await,
            _ => {
                self.close();
                Ok(())
            }
        }
    }

    fn mark(&self) {
        self.marks.borrow_mut().push((self.sim.remote.now(), self.line.oracle.borrow().now()));
    }

    /// One user's whole life.
    pub async fn user(self: Rc<Self>, calls: usize) {
        for _ in 0..calls {
            if self.power.is_gone() {
                return;
            }
            self.mark();
            match self.below(20) {
                0..12 => {}
                12..18 => tokio::time::sleep(Duration::from_millis(self.below(100) as u64)).await,
                // Now and then long enough for gc.
                18 if self.chance(8) => tokio::time::sleep(Duration::from_millis(self.below(150_000) as u64)).await,
                _ => tokio::time::sleep(Duration::from_millis(self.below(8000) as u64)).await,
            }
            self.power.awake().await;
            if self.calls.get() == 0 && self.fs().is_read_only() {
                self.fenced.set(true);
            }
            self.calls.set(self.calls.get() + 1);
            self.begun.set(self.begun.get() + 1);
            let done = tokio::time::timeout(HANG, self.call()).await;
            self.calls.set(self.calls.get() - 1);
            match done {
                Err(_) => self.broken("a call hangs".to_owned()),
                Ok(Err(FsError::ReadOnly)) if !self.may_be_read_only() => {
                    self.broken(format!("the drive has become read-only: {:?}", self.drive.status().reason));
                }
                Ok(Err(error)) => self.sim.say(&format!("  ... {error}")),
                Ok(Ok(())) => {}
            }
        }
    }

    /// Somebody else's object stands in the log behind one of this life, or behind what it began with, or there was what
    /// no round could read.
    fn may_be_read_only(&self) -> bool {
        self.sim.remote.is_overtaken(self.number) || self.sim.is_shut_out(&self.line) || self.power.read_failed()
    }

    /// What happens to the machine meanwhile.
    pub async fn chance_events(self: Rc<Self>, faults: bool) {
        let began = tokio::time::Instant::now();
        loop {
            // Whoever waits for the vault comes to an end some day.
            let faults = faults && began.elapsed() < TROUBLED;
            tokio::time::sleep(Duration::from_millis(self.below(10_000) as u64 + 10)).await;
            match self.below(20) {
                0 | 1 if faults => {
                    let time = Duration::from_secs(self.below(60) as u64);
                    self.sim.say(&format!("  an outage of {time:?}"));
                    self.sim.remote.outage(time);
                }
                2 if faults => self.sleep().await,
                12 => self.read_open().await,
                11 if faults && self.sim.offline => {
                    let time = Duration::from_secs(self.below(200) as u64);
                    self.sim.say(&format!("  machine {}: its link is down for {time:?}", self.machine));
                    self.sim.remote.unplug(self.machine, time);
                }
                3..=6 if faults && self.sim.copies => {
                    self.sim.say(&format!("  machine {} is copied", self.machine));
                    self.sim.back_up(self.machine, &self.disk, &self.line, self.number);
                }
                7..=10 => match self.sim.look("a look").await {
                    Ok(()) => {}
                    Err(why) => self.broken(why),
                },
                _ => {}
            }
        }
    }

    /// The machine is suspended for a while.
    pub async fn sleep(&self) {
        let time = Duration::from_millis(self.below(180_000) as u64);
        self.sim.say(&format!("  machine {} sleeps for {time:?}", self.machine));
        self.power.sleep();
        tokio::time::sleep(time).await;
        // Its timers went on; that it slept it can tell by this alone.
        self.power.slept.add(time);
        self.power.wake();
    }
}

/// Throws dice for a seed's part, so that more dice here change nothing there.
pub fn dice(seed: u64, part: u64) -> Dice {
    let mut dice = Dice::new(seed.wrapping_mul(0x9e37_79b9).wrapping_add(part));
    dice.below(2);
    dice
}
