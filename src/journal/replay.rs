//! Reading a journal back (J3), and going on after it (J4).
//!
//! The files, in the order of their generations, give one stream of blocks: each file supersedes what older ones hold
//! behind the block that it continues. The first block that is not intact is damage if anything says that the durable
//! end lies at or beyond it; else it begins the torn tail, which is cut off. To learn what intact blocks *behind* a bad
//! one say of the durable end, the scan goes on at the next place that bears the file's mark.
//!
//! `recover` changes nothing on disk, so it can be repeated; a crash within `resume` leaves either the old state or
//! the new one, because the new file takes its name last.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::block::{self, Block, BlockExtent, Opened, PREFIX_LEN, Prefix, Staged, TableEntry, Where};
use super::extents::{FileState, InFile, StagedFile, Table};
use super::file::{self, HEADER_LEN, Header, Kind, Name, Place, Tail};
use super::reserve::Reserve;
use super::staged;
use super::writer::{self, Writer};
use super::{Journal, JournalError, Progress, Queue, Recovered, Settings, io_error};
use crate::base::disk::{Disk, File};
use crate::base::{ExtentId, FileId, ObjectId, Position, Random, plants, watch};
use crate::crypto::{aead, kdf};
use crate::format::FormatError;
use crate::format::change::{Change, Note};
use crate::format::commit::{BlockRef, ChainLink};
use crate::format::key::Part;
use crate::format::keys::Keys;

/// What `resume` needs of a recovery.
pub(super) struct Resume {
    disk: Arc<dyn Disk>,
    dir: String,
    keys: Arc<Keys>,
    files: Vec<Scanned>,
    staged: StagedFiles,
    /// Names of files that were never finished.
    unfinished: Vec<String>,
    generation: u64,
    good: Vec<Good>,
    /// The known durable end: what lies above it is written again.
    durable: Position,
    begins: Option<BlockRef>,
    took_cut: Position,
}

/// A journal file as it was found.
struct Scanned {
    name: Name,
    path: String,
    file: Arc<dyn File>,
    len: u64,
    header: Header,
}

/// The staged files that were found. Opened where they are needed: there may be thousands.
struct StagedFiles {
    disk: Arc<dyn Disk>,
    paths: BTreeMap<ObjectId, String>,
}

/// A file to read from, and what errors call it.
struct Readable<'a> {
    file: Arc<dyn File>,
    path: &'a str,
}

impl StagedFiles {
    /// `None` if it is not there.
    fn open(&self, id: ObjectId) -> Result<Option<Readable<'_>>, JournalError> {
        let Some(path) = self.paths.get(&id) else { return Ok(None) };
        // It may be an object of the vault as well, and write-protected as such.
        let file = self.disk.open_to_read(path).map_err(|e| io_error(path, &e))?;
        Ok(Some(Readable { file, path }))
    }
}

/// Where extents are read from: a journal file and the staged files.
#[derive(Clone, Copy)]
struct Source<'a> {
    file: &'a Scanned,
    staged: &'a StagedFiles,
}

impl<'a> Source<'a> {
    /// The file in which a place is, and where in it; `None` for a staged file that is not there.
    fn find(&self, place: Where) -> Result<Option<(Readable<'a>, u64)>, JournalError> {
        match place {
            Where::Here(at) => Ok(Some((Readable { file: self.file.file.clone(), path: &self.file.path }, at))),
            Where::Staged(Staged { file, offset }) => Ok(self.staged.open(file)?.map(|found| (found, offset.into()))),
        }
    }
}

/// A block as it was found, or a place where none is intact.
struct Found {
    /// Which of the files.
    file: usize,
    block: Option<Intact>,
}

struct Intact {
    key: BlockRef,
    previous: [u8; 16],
    body_at: u64,
    opened: Opened,
}

impl Intact {
    fn is(&self, key: &BlockRef) -> bool {
        self.key == *key || self.opened.aliases.contains(key)
    }
}

/// A block that counts.
struct Good {
    file: usize,
    block: Intact,
}

fn damaged(path: &str, what: &str) -> JournalError {
    JournalError::Damaged(format!(
        "{path}: {what}. Nothing was changed; check the disk, and keep a copy of the state directory before going on \
         from the vault without it"
    ))
}

pub(super) fn recover(
    disk: Arc<dyn Disk>,
    dir: &str,
    keys: Arc<Keys>,
    named: Position,
) -> Result<Recovered, JournalError> {
    let listed = disk.list(dir).map_err(|e| io_error(dir, &e))?;
    let found = listed.iter().filter_map(|name| staged::parse(name)).map(|id| (id, staged::path(dir, id)));
    let staged = StagedFiles { disk: disk.clone(), paths: found.collect() };
    let kinds: Vec<(String, Kind)> = listed.into_iter().filter_map(|n| Some((n.clone(), Name::parse(&n)?))).collect();
    let generation = kinds.iter().map(|(_, Kind::Journal(name) | Kind::Unfinished(name))| name.generation).max();
    let unfinished = kinds.iter().filter(|(_, kind)| matches!(kind, Kind::Unfinished(_)));
    let unfinished = unfinished.map(|(name, _)| format!("{dir}/{name}")).collect();
    let mut files = Vec::new();
    let mut blocks = Vec::new();
    for (_, kind) in &kinds {
        if let Kind::Journal(name) = kind {
            let scanned = open_file(&*disk, dir, &keys, *name)?;
            blocks.push(scan(&keys, &scanned, files.len())?);
            files.push(scanned);
        }
    }
    let stream = join(&files, blocks)?;
    let begins = files.first().and_then(|file| file.header.base);
    let durable = known_durable_end(&files, &stream, named);
    let good = cut_tail(&files, &staged, stream, durable, begins)?;
    let resume = Resume {
        disk,
        dir: dir.to_owned(),
        keys,
        files,
        staged,
        unfinished,
        generation: generation.unwrap_or(0),
        good,
        durable,
        begins,
        took_cut: Position(0),
    };
    Ok(summarize(resume))
}

fn open_file(disk: &dyn Disk, dir: &str, keys: &Keys, name: Name) -> Result<Scanned, JournalError> {
    let path = name.path(dir);
    let failed = |e: io::Error| io_error(&path, &e);
    let file = disk.open(&path).map_err(failed)?;
    let len = file.len().map_err(failed)?;
    let mut bytes = [0; HEADER_LEN];
    if !read_found(&*file, &mut bytes, 0).map_err(failed)? {
        return Err(damaged(&path, "the file ends within its header"));
    }
    let header = Header::open(keys, name, &bytes).map_err(|e| damaged(&path, &e.to_string()))?;
    Ok(Scanned { name, path, file, len, header })
}

/// Reads if the file is long enough.
fn read_found(file: &dyn File, out: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_at(out, at) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// All blocks of one file. A block counts as intact only behind the one that it names.
fn scan(keys: &Keys, scanned: &Scanned, index: usize) -> Result<Vec<Found>, JournalError> {
    let mut found: Vec<Found> = Vec::new();
    let mut at = HEADER_LEN as u64;
    let mut previous = Some((scanned.header.base_tag(), scanned.header.base_position()));
    while at < scanned.len {
        let Some(block) = read_block(keys, scanned, at)? else {
            if found.last().is_none_or(|found| found.block.is_some()) {
                found.push(Found { file: index, block: None });
            }
            previous = None;
            match next_mark(scanned, at + 1).map_err(|e| io_error(&scanned.path, &e))? {
                Some(next) => at = next,
                None => break,
            }
            continue;
        };
        let fits = previous.is_none_or(|(tag, position)| tag == block.previous && position < block.opened.first);
        if !fits {
            found.push(Found { file: index, block: None });
        }
        previous = Some((block.key.tag, block.key.position));
        at = block.body_at + block.opened.body_len();
        found.push(Found { file: index, block: Some(block) });
    }
    Ok(found)
}

/// The block at `at`, if it is intact (its extents aside).
fn read_block(keys: &Keys, scanned: &Scanned, at: u64) -> Result<Option<Intact>, JournalError> {
    let failed = |e: io::Error| io_error(&scanned.path, &e);
    let mut bytes = [0; PREFIX_LEN];
    if !read_found(&*scanned.file, &mut bytes, at).map_err(failed)? {
        return Ok(None);
    }
    let prefix = Prefix::parse(&bytes);
    let sealed_at = at + PREFIX_LEN as u64;
    let body_at = sealed_at + u64::from(prefix.sealed_len);
    // Nothing is allocated for a length that the file does not have.
    if prefix.file != scanned.name.id || prefix.sealed_len < aead::TAG_LEN as u32 || body_at > scanned.len {
        return Ok(None);
    }
    let mut sealed = vec![0; prefix.sealed_len as usize];
    if !read_found(&*scanned.file, &mut sealed, sealed_at).map_err(failed)? {
        return Ok(None);
    }
    match block::open(keys, &prefix, &sealed) {
        Ok(opened) => {
            let key = BlockRef { file: prefix.file, position: prefix.position, tag: opened.tag };
            Ok(Some(Intact { key, previous: prefix.previous, body_at, opened }))
        }
        Err(FormatError::Unauthentic(_)) => Ok(None),
        Err(other) => Err(damaged(&scanned.path, &other.to_string())),
    }
}

/// The next place from `at` on that bears the file's mark.
fn next_mark(scanned: &Scanned, at: u64) -> io::Result<Option<u64>> {
    const STEP: u64 = 1024 * 1024;
    let mark = &scanned.name.id.0;
    let mut at = at;
    while at + mark.len() as u64 <= scanned.len {
        let mut bytes = vec![0; STEP.min(scanned.len - at) as usize];
        scanned.file.read_at(&mut bytes, at)?;
        if let Some(k) = bytes.windows(mark.len()).position(|window| window == mark) {
            return Ok(Some(at + k as u64));
        }
        at += (bytes.len() - mark.len() + 1) as u64;
    }
    Ok(None)
}

/// One stream of all files: a later file supersedes what older ones hold behind the block that it continues (J4).
fn join(files: &[Scanned], blocks: Vec<Vec<Found>>) -> Result<Vec<Found>, JournalError> {
    let mut stream: Vec<Found> = Vec::new();
    let begins = files.first().and_then(|file| file.header.base);
    for (file, blocks) in files.iter().zip(blocks) {
        let base = file.header.base;
        let stands = base.and_then(|base| {
            stream.iter().rposition(|found| found.block.as_ref().is_some_and(|block| block.is(&base)))
        });
        match stands {
            Some(k) => stream.truncate(k + 1),
            None if base == begins => stream.clear(),
            None => return Err(damaged(&file.path, "the block that this file continues is missing or damaged")),
        }
        stream.extend(blocks);
    }
    Ok(stream)
}

/// The highest durable end that anything names which nothing supersedes (J3).
fn known_durable_end(files: &[Scanned], stream: &[Found], named: Position) -> Position {
    if files.is_empty() {
        return Position(0);
    }
    let headers = files.iter().map(|file| file.header.rewritten.max(file.header.base_position()));
    let intact = stream.iter().filter_map(|found| found.block.as_ref());
    let blocks = intact.flat_map(|block| {
        let took = block.opened.changes.iter().filter_map(|change| took(change)?.1);
        took.chain([block.opened.durable])
    });
    headers.chain(blocks).fold(named, Position::max)
}

fn took(change: &Change) -> Option<(ChainLink, Option<Position>)> {
    match change.note {
        Some(Note::Took { link, cut, .. }) => Some((link, cut)),
        _ => None,
    }
}

/// The blocks that count. What follows the first bad one above the durable end is cut off; a bad one below is damage.
fn cut_tail(
    files: &[Scanned],
    staged: &StagedFiles,
    stream: Vec<Found>,
    durable: Position,
    begins: Option<BlockRef>,
) -> Result<Vec<Good>, JournalError> {
    let dead = dead_extents(&stream, durable);
    let mut good: Vec<Good> = Vec::new();
    let mut scratch = Vec::new();
    let mut end = begins.map_or(Position(0), |base| base.position);
    let mut stream = stream.into_iter();
    while let Some(found) = stream.next() {
        let file = &files[found.file];
        let intact = match found.block {
            Some(block) if extents_intact(Source { file, staged }, &block, &dead, durable, &mut scratch)? => block,
            bad => {
                if durable > reached(file, end) {
                    return Err(damaged(&file.path, &format!("what follows position {end} is damaged")));
                }
                if plants::on("J3-tail-kept") {
                    continue;
                }
                log_tail(bad.into_iter().chain(stream.filter_map(|found| found.block)));
                return Ok(good);
            }
        };
        end = intact.key.position;
        good.push(Good { file: found.file, block: intact });
    }
    if let Some(last) = files.last()
        && durable > reached(last, end)
    {
        return Err(damaged(&last.path, &format!("what follows position {end} is missing, up to {durable}")));
    }
    Ok(good)
}

/// How far the journal is known to reach, after a block at `end`, before the next one of this file: positions that were
/// left out count as there (J3: resumed after foreign commits).
fn reached(file: &Scanned, end: Position) -> Position {
    if end >= file.header.rewritten { end.max(file.header.floor) } else { end }
}

fn log_tail(cut: impl Iterator<Item = Intact>) {
    let (blocks, changes) = cut.fold((0, 0), |(b, c), block| (b + 1, c + block.opened.changes.len()));
    log::info!(
        "the journal's end was torn, as after a power cut: it is cut off ({changes} changes in {blocks} blocks that \
         were still legible; none of it was acknowledged)"
    );
}

/// Extents whose record a change at or below the durable end deletes: their bytes need not be intact.
fn dead_extents(stream: &[Found], durable: Position) -> HashSet<ExtentId> {
    let mut dead = HashSet::new();
    for block in stream.iter().filter_map(|found| found.block.as_ref()).filter(|b| b.key.position <= durable) {
        for (key, record) in block.opened.changes.iter().flat_map(|change| &change.records) {
            if let (Part::Extent { number }, None) = (key.part, record) {
                dead.insert(ExtentId { owner: key.ino, number });
            }
        }
    }
    dead
}

fn extents_intact(
    source: Source,
    block: &Intact,
    dead: &HashSet<ExtentId>,
    durable: Position,
    scratch: &mut Vec<u8>,
) -> Result<bool, JournalError> {
    for (extent, place) in block.opened.places(block.body_at) {
        let unchecked = block.key.position <= durable && dead.contains(&extent.id);
        if !unchecked && !read_extent(source, extent, place, scratch)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads an extent into `bytes`, which is used again and again; false if it is not what the table says.
fn read_extent(source: Source, extent: &TableEntry, place: Where, bytes: &mut Vec<u8>) -> Result<bool, JournalError> {
    let Some((Readable { file, path }, at)) = source.find(place)? else { return Ok(false) };
    // Nothing is allocated for a length that the file does not have.
    if at + u64::from(extent.len) > file.len().map_err(|e| io_error(path, &e))? {
        return Ok(false);
    }
    bytes.resize(extent.len as usize, 0);
    let found = read_found(&*file, bytes, at).map_err(|e| io_error(path, &e))?;
    Ok(found && kdf::hash(bytes) == extent.hash)
}

fn summarize(mut resume: Resume) -> Recovered {
    let mut changes = Vec::new();
    let mut blocks: HashSet<BlockRef> = resume.files.iter().filter_map(|file| file.header.base).collect();
    let mut newest: Option<(ChainLink, Option<Position>)> = None;
    let (mut extents, mut low) = (Vec::new(), Position(0));
    for Good { block, .. } in &resume.good {
        blocks.insert(block.key);
        blocks.extend(&block.opened.aliases);
        extents.extend(block.opened.extents.iter().map(|extent| extent.id));
        for (position, change) in (block.opened.first.0..).zip(&block.opened.changes) {
            changes.push((Position(position), change.clone()));
            if let Some((link, cut)) = took(change) {
                resume.took_cut = resume.took_cut.max(cut.unwrap_or_default());
                if newest.is_none_or(|(before, _)| before.sequence <= link.sequence) {
                    newest = Some((link, cut));
                    low = change.note.as_ref().and_then(Note::low).unwrap_or_default();
                }
            }
        }
    }
    let last = resume.good.last().map(|good| good.block.key).or(resume.begins);
    let floor = resume.files.last().map_or(Position(0), |file| file.header.floor);
    let end = last.map_or(Position(0), |last| last.position).max(floor);
    let begins = resume.begins.map_or(Position(0), |base| base.position);
    Recovered { changes, blocks, took: newest, low, end, last, begins, extents, resume }
}

/// Where a recovered extent lies.
#[derive(Clone, Copy, Debug)]
pub struct ExtentPlace {
    file: usize,
    place: Where,
    len: u32,
}

/// Reading without going on: for who only looks at what a journal held.
impl Recovered {
    /// Where the bytes of each extent lie, the latest of each.
    pub fn extent_places(&self) -> HashMap<ExtentId, ExtentPlace> {
        let mut places = HashMap::new();
        for Good { file, block } in &self.resume.good {
            for (extent, place) in block.opened.places(block.body_at) {
                places.insert(extent.id, ExtentPlace { file: *file, place, len: extent.len });
            }
        }
        places
    }

    /// The sealed bytes there.
    pub fn read_extent(&self, place: &ExtentPlace) -> Result<Bytes, JournalError> {
        let source = Source { file: &self.resume.files[place.file], staged: &self.resume.staged };
        let missing = || damaged(&source.file.path, "a staged file is missing");
        let (Readable { file, path }, at) = source.find(place.place)?.ok_or_else(missing)?;
        let mut bytes = vec![0; place.len as usize];
        file.read_at(&mut bytes, at).map_err(|e| io_error(path, &e))?;
        Ok(bytes.into())
    }
}

pub(super) fn resume(
    recovered: Recovered,
    random: Random,
    settings: Settings,
    above: Position,
) -> Result<Arc<Journal>, JournalError> {
    let Recovered { end, resume, .. } = recovered;
    let took_cut = resume.took_cut;
    let floor = if plants::on("J3-positions-again") { end } else { end.max(above) };
    let dir = resume.dir.clone();
    let place = Place { disk: resume.disk.clone(), dir: dir.clone(), keys: resume.keys.clone(), random };
    make_safe(&resume, &place).map_err(|(path, e)| io_error(&path, &e))?;
    let mut again = read_again(&resume)?;
    let known = resume.good.iter().rfind(|good| good.block.key.position <= resume.durable);
    let base = known.map(|good| good.block.key).or(resume.begins);
    let header = Header {
        generation: resume.generation + 1,
        id: FileId(place.random.bytes()),
        base,
        rewritten: again.last().map_or(base.map_or(Position(0), |base| base.position), Block::position),
        floor,
    };
    let (tail, puts) = file::make(&place, &header, &again).map_err(|failed| io_error(&failed.path, &failed.why))?;
    writer::put_all(&mut again, puts);
    let durable_block = again.last().and_then(|block| block.keys.first().copied()).or(base);
    let table = build_table(&resume, &tail, &header, &again)?;
    remove_unused(&resume, &table);
    Ok(build(Built { dir, settings, place, tail, table, floor, durable_block, took_cut }))
}

/// J4: what the mount goes on from is fdatasynced by the mount itself, whatever its predecessor did.
fn make_safe(resume: &Resume, place: &Place) -> Result<(), (String, io::Error)> {
    let named = |path: &str, result: io::Result<()>| result.map_err(|e| (path.to_owned(), e));
    for file in &resume.files {
        named(&file.path, file.file.sync_data())?;
    }
    for path in resume.staged.paths.values() {
        named(path, place.disk.open_to_read(path).and_then(|file| file.sync_data()))?;
    }
    named(&place.dir, place.disk.create_dir(&place.dir))?;
    for path in &resume.unfinished {
        named(path, place.disk.remove(path))?;
    }
    named(&place.dir, place.disk.sync_dir(&place.dir))
}

/// The blocks above the durable end, with all their bytes.
fn read_again(resume: &Resume) -> Result<Vec<Block>, JournalError> {
    let mut again = Vec::new();
    for Good { file, block } in resume.good.iter().filter(|good| good.block.key.position > resume.durable) {
        let source = Source { file: &resume.files[*file], staged: &resume.staged };
        let mut extents = Vec::new();
        for (extent, place) in block.opened.places(block.body_at) {
            let mut bytes = Vec::new();
            if !read_extent(source, extent, place, &mut bytes)? {
                return Err(damaged(&source.file.path, "an extent changed while the journal was being read"));
            }
            extents.push(BlockExtent { id: extent.id, bytes: bytes.into(), hash: extent.hash, staged: None });
        }
        let keys = [&[block.key], block.opened.aliases.as_slice()].concat();
        let changes = block.opened.changes.clone();
        again.push(Block { first: block.opened.first, changes, extents, keys, body_at: 0, weight: 0 });
    }
    Ok(again)
}

fn build_table(resume: &Resume, tail: &Tail, header: &Header, again: &[Block]) -> Result<Table, JournalError> {
    let mut table = Table::default();
    for file in &resume.files {
        table.add_file(FileState {
            generation: file.name.generation,
            path: file.path.clone(),
            file: file.file.clone(),
            bytes: file.len,
            base: file.header.base_position(),
            live: 0,
            staged: Vec::new(),
        });
    }
    table.add_file(writer::file_state(tail, header));
    for Good { file, block } in resume.good.iter().filter(|good| good.block.key.position <= resume.durable) {
        let generation = resume.files[*file].name.generation;
        for (extent, place) in block.opened.places(block.body_at) {
            if let Where::Staged(at) = place
                && !table.has_staged(at.file)
                && let Some(Readable { file, path }) = resume.staged.open(at.file)?
            {
                let bytes = file.len().map_err(|e| io_error(path, &e))?;
                table.add_staged(generation, at.file, StagedFile::found(bytes));
            }
            table.insert_file(extent.id, InFile::new(generation, place, extent.len));
        }
    }
    for block in again {
        block.extents.iter().for_each(|extent| table.insert_memory(extent.id, extent.bytes.clone()));
        table.settle(block, tail.name.generation);
    }
    Ok(table)
}

/// Staged files that no block names, or only one that was written again: the new file supersedes it.
fn remove_unused(resume: &Resume, table: &Table) {
    for (_, path) in resume.staged.paths.iter().filter(|(id, _)| !table.has_staged(**id)) {
        if let Err(why) = resume.disk.remove(path) {
            log::warn!("{path}: not removed: {why}; the next mount tries again");
        }
    }
}

struct Built {
    dir: String,
    settings: Settings,
    place: Place,
    tail: Tail,
    table: Table,
    /// The last position, and the durable end.
    floor: Position,
    durable_block: Option<BlockRef>,
    took_cut: Position,
}

fn build(built: Built) -> Arc<Journal> {
    let Built { dir, settings, place, tail, table, floor, durable_block, took_cut } = built;
    let queue = Queue {
        end: floor,
        changes: Vec::new(),
        since: Instant::now(),
        change_weight: 0,
        extent_weight: 0,
        held: 0,
        behind: 0,
        promised: 0,
        wanted: Position(0),
        cut: Position(0),
        indexed: Position(u64::MAX),
        leaving: VecDeque::new(),
        cut_moved: false,
        closing: false,
        begin: None,
        close: Vec::new(),
        ends: VecDeque::new(),
        took: Vec::new(),
        took_cut,
    };
    let progress = Progress { position: floor, block: durable_block, failing: None, closed: false };
    let generation = tail.name.generation.into();
    let disk = place.disk.clone();
    let reserve = Reserve::new(disk.clone(), &dir, settings.reserve_bytes);
    Arc::new(Journal {
        disk,
        dir,
        settings,
        reserve,
        free: Mutex::new(None),
        full_since: Mutex::new(None),
        starved: Notify::new(),
        queue: Mutex::new(queue),
        table: Mutex::new(table),
        wake: Notify::new(),
        room: Notify::new(),
        progress: watch::Sender::new(progress),
        writer: Mutex::new(Some(Writer::new(place, tail, floor, durable_block))),
        generation,
        runtime: OnceLock::new(),
        failures: 0.into(),
    })
}
