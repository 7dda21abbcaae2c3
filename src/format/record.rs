//! Records: what a vault knows, each under its [`Key`].
//!
//! Owns: the fields of every kind, their numbers, bounds and encoding; the one list of references. Does not own: keys
//! ([`super::key`]), how records stand in commits ([`super::commit`]).
//!
//! Encoded as deterministic CBOR: a map with small integer keys in rising order. Fields that this program does not
//! know (24 to 127) are kept raw in `extra` and written back unchanged (threat A28); from 128 on they must be
//! understood, and a record that has one is refused. A field at its default is left out.
//!
//! Field 0 holds *all* references to extents, segments and log objects, grouped by the number of the field that they
//! belong to, so that a program that knows neither kind nor field still counts them ([`Record::references`]).

use super::FormatError;
use super::cbor::{Reader, Sink, Writer};
use super::key::{Key, Part};
use crate::base::sizes::{CLASS_MAX, EXTENT_MAX, FILE_MAX, NAME_MAX, TARGET_MAX};
use crate::base::{ExtentId, Ino, ObjectId, Position, Sequence, Timestamp};

/// Numbers of fields. Those that mean the same have the same number in every kind.
pub mod field {
    pub const REFERENCES: u32 = 0;
    pub const MODE: u32 = 1;
    pub const UID: u32 = 2;
    pub const GID: u32 = 3;
    pub const RDEV: u32 = 4;
    pub const NLINK: u32 = 5;
    pub const ATIME: u32 = 6;
    pub const MTIME: u32 = 7;
    pub const CTIME: u32 = 8;
    pub const BTIME: u32 = 9;
    pub const TARGET: u32 = 10;
    pub const LENGTH: u32 = 11;
    pub const POSITION: u32 = 12;
    pub const PIECES: u32 = 13;
    pub const SPILLED: u32 = 14;
    pub const NAME: u32 = 15;
    pub const VALUE: u32 = 16;
    pub const INO: u32 = 17;
    pub const KEY_ID: u32 = 18;
    pub const NONCE: u32 = 19;
    pub const FRAME_LOG2: u32 = 20;
    pub const STORED: u32 = 21;
    pub const FRAMES: u32 = 22;
    pub const OFFSET: u32 = 23;
}

/// The largest value of an xattr.
pub const VALUE_MAX: usize = 64 * 1024;

/// Fields of a newer version: (field number, raw CBOR), in rising order. `None` for every record of this version.
pub type Extra = Option<Box<[(u32, Box<[u8]>)]>>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    Inode(Inode),
    Head(Head),
    Map(Piece),
    Xattr(Xattr),
    Link(Link),
    Dentry(Dentry),
    Extent(Extent),
    Segment(Segment),
    /// A kind that this program does not know: its CBOR as it stands.
    Other(Box<[u8]>),
}

/// Namespace attributes. A regular file's size and times stand in its [`Head`]; its ctime is the later of the two.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inode {
    /// File type and permission bits, as in `st_mode`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device number of a device node, else 0.
    pub rdev: u32,
    pub nlink: u32,
    /// For all but regular files.
    pub atime: Timestamp,
    /// For all but regular files.
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Timestamp,
    /// A symlink's target.
    pub target: Option<Box<[u8]>>,
    pub extra: Extra,
}

/// Contents head of a regular file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    pub size: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// The position of the change that made this state (C5).
    pub position: Position,
    /// The whole map if it has at most [`INLINE_PIECES`] pieces (then `spilled` is false); else empty, and the pieces
    /// stand in records of their own.
    pub pieces: Vec<Piece>,
    pub spilled: bool,
    pub extra: Extra,
}

/// How many pieces of its map a head holds itself.
pub const INLINE_PIECES: usize = 8;

/// A run of a file's bytes that lies in an extent. Pieces never overlap; what no piece covers is a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Where in the file, in bytes.
    pub offset: u64,
    /// Bytes, at least 1.
    pub len: u32,
    pub extent: ExtentId,
    /// Where in the extent's plaintext.
    pub start: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Xattr {
    pub name: Box<[u8]>,
    pub value: Box<[u8]>,
    pub extra: Extra,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    pub extra: Extra,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dentry {
    pub name: Box<[u8]>,
    pub ino: Ino,
    /// The inode's file type bits (`S_IFMT` of `st_mode`), for readdir.
    pub kind: u32,
    pub extra: Extra,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Which file key sealed it.
    pub key_id: [u8; 16],
    /// The random part of each frame's nonce.
    pub nonce: [u8; 16],
    /// Plaintext bytes a frame, as a power of two (12 to 17).
    pub frame_log2: u8,
    /// Plaintext bytes, 1 to 4 MiB.
    pub len: u32,
    /// Sealed bytes (tags and all).
    pub stored: u32,
    /// If compressed: sealed length of each frame. Else empty: frames are stored at their plaintext length plus tag.
    pub frames: Vec<u32>,
    pub place: Place,
    pub extra: Extra,
}

/// Where an extent's sealed bytes lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In this machine's journal only. Stands in journal and memory, never in the vault.
    Local,
    Segment {
        id: ObjectId,
        offset: u32,
    },
    /// In the inline bytes of a commit.
    Inline {
        sequence: Sequence,
        offset: u32,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The object's length, padding included.
    pub len: u32,
    pub extra: Extra,
}

/// What a record relies on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reference {
    Extent(ExtentId),
    Segment(ObjectId),
    /// A log object that carries inline extents.
    Log(Sequence),
}

const WHAT: &str = "record";

fn malformed(why: &'static str) -> FormatError {
    FormatError::Malformed { what: WHAT, why }
}

impl Record {
    /// Appends the encoded record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.write(&mut Writer::new(out));
    }

    /// Reads a record that fills `bytes`.
    pub fn decode(key: &Key, bytes: &[u8]) -> Result<Record, FormatError> {
        let mut reader = Reader::new(WHAT, bytes);
        let record = Record::read(key, &mut reader)?;
        reader.end()?;
        Ok(record)
    }

    /// Tells everything that this record refers to, whatever its kind and version.
    pub fn references(&self, mut visit: impl FnMut(Reference)) {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        // A record that stands in memory was read, and so checked, or made by this program.
        let _ = visit_references(&bytes, &mut visit);
    }

    pub(super) fn write<W: Sink>(&self, w: &mut Writer<W>) {
        match self {
            Record::Inode(inode) => inode.write(w),
            Record::Head(head) => head.write(w),
            Record::Map(piece) => write_map(piece, w),
            Record::Xattr(xattr) => {
                begin(w, 2, NO_GROUP, &xattr.extra);
                w.uint(field::NAME.into()).bytes(&xattr.name).uint(field::VALUE.into()).bytes(&xattr.value);
                end(w, &xattr.extra);
            }
            Record::Link(link) => {
                begin(w, 0, NO_GROUP, &link.extra);
                end(w, &link.extra);
            }
            Record::Dentry(dentry) => {
                begin(w, 3, NO_GROUP, &dentry.extra);
                w.uint(field::MODE.into()).uint(dentry.kind.into());
                w.uint(field::NAME.into()).bytes(&dentry.name);
                w.uint(field::INO.into()).uint(dentry.ino.0);
                end(w, &dentry.extra);
            }
            Record::Extent(extent) => extent.write(w),
            Record::Segment(segment) => {
                begin(w, 1, NO_GROUP, &segment.extra);
                w.uint(field::LENGTH.into()).uint(segment.len.into());
                end(w, &segment.extra);
            }
            Record::Other(raw) => {
                w.raw(raw);
            }
        }
    }

    pub(super) fn read(key: &Key, r: &mut Reader<'_>) -> Result<Record, FormatError> {
        Ok(match key.part {
            Part::Inode => Record::Inode(Inode::read(r)?),
            Part::Head => Record::Head(Head::read(r)?),
            Part::Map { offset } => Record::Map(read_map(offset, r)?),
            Part::Xattr { .. } => Record::Xattr(Xattr::read(r)?),
            Part::Link { .. } => Record::Link(Link::read(r)?),
            Part::Dentry { .. } => Record::Dentry(Dentry::read(r)?),
            Part::Extent { .. } => Record::Extent(Extent::read(r)?),
            Part::Segment { .. } => Record::Segment(Segment::read(r)?),
            Part::Other { .. } => {
                let raw = r.raw()?;
                visit_references(raw, &mut |_| ())?;
                Record::Other(raw.into())
            }
        })
    }
}

/// The references of one field: its number, and an iterator.
type Group<I> = Option<(u32, I)>;
const NO_GROUP: Group<std::iter::Empty<Reference>> = None;

/// Writes the head of a record's map with `fields` known fields (field 0 not counted), and field 0.
fn begin<W: Sink, I>(w: &mut Writer<W>, fields: usize, group: Group<I>, extra: &Extra)
where
    I: ExactSizeIterator<Item = Reference>,
{
    let group = group.filter(|(_, references)| references.len() != 0);
    let extra = extra.as_deref().unwrap_or_default();
    let foreign = extra.first().filter(|(number, _)| *number == field::REFERENCES).map(|(_, raw)| &**raw);
    let own_list = usize::from(group.is_some() && foreign.is_none());
    w.map(fields + extra.len() + own_list);
    if group.is_none() && foreign.is_none() {
        return;
    }
    w.uint(field::REFERENCES.into());
    let foreign = foreign.map(split_groups).unwrap_or_default();
    w.map(foreign.len() + usize::from(group.is_some()));
    let own = group.as_ref().map_or(u32::MAX, |(number, _)| *number);
    let (below, above) = foreign.split_at(foreign.partition_point(|(number, _)| *number < own));
    below.iter().for_each(|(number, raw)| _ = w.uint((*number).into()).raw(raw));
    if let Some((number, references)) = group {
        w.uint(number.into()).array(references.len());
        references.for_each(|reference| write_reference(w, reference));
    }
    above.iter().for_each(|(number, raw)| _ = w.uint((*number).into()).raw(raw));
}

/// Writes the fields that this program does not know: they come after all that it knows.
fn end<W: Sink>(w: &mut Writer<W>, extra: &Extra) {
    for (number, raw) in extra.as_deref().unwrap_or_default() {
        if *number != field::REFERENCES {
            w.uint((*number).into()).raw(raw);
        }
    }
}

fn write_reference<W: Sink>(w: &mut Writer<W>, reference: Reference) {
    match reference {
        Reference::Extent(id) => w.array(2).uint(id.owner.0).uint(id.number),
        Reference::Segment(id) => w.bytes(&id.0),
        Reference::Log(sequence) => w.uint(sequence.0),
    };
}

fn read_reference(r: &mut Reader<'_>) -> Result<Reference, FormatError> {
    use minicbor::data::Type;
    if r.next_is(|t| matches!(t, Type::Array)) {
        r.array_of(2)?;
        return Ok(Reference::Extent(ExtentId { owner: read_ino(r)?, number: r.uint()? }));
    }
    if r.next_is(|t| matches!(t, Type::Bytes)) {
        return Ok(Reference::Segment(ObjectId(r.fixed()?)));
    }
    Ok(Reference::Log(Sequence(r.uint()?)))
}

/// The groups of a field 0 that was checked when it was read.
fn split_groups(raw: &[u8]) -> Vec<(u32, &[u8])> {
    let mut r = Reader::new(WHAT, raw);
    let mut groups = Vec::new();
    let Ok(mut fields) = r.fields() else { return groups };
    while let Ok(Some(number)) = r.next_field(&mut fields) {
        match r.raw() {
            Ok(raw) => groups.push((number, raw)),
            Err(_) => break,
        }
    }
    groups
}

fn read_group(r: &mut Reader<'_>, visit: &mut dyn FnMut(Reference)) -> Result<(), FormatError> {
    let len = r.array(usize::MAX)?;
    if len == 0 {
        return Err(malformed("a list of references is empty"));
    }
    for _ in 0..len {
        visit(read_reference(r)?);
    }
    Ok(())
}

fn visit_references(record: &[u8], visit: &mut dyn FnMut(Reference)) -> Result<(), FormatError> {
    let mut r = Reader::new(WHAT, record);
    let mut fields = r.fields()?;
    while let Some(number) = r.next_field(&mut fields)? {
        if number != field::REFERENCES {
            r.raw()?;
            continue;
        }
        let mut groups = r.fields()?;
        while r.next_field(&mut groups)?.is_some() {
            read_group(&mut r, visit)?;
        }
    }
    Ok(())
}

/// What a record's reader collects besides its fields: the references of one field, and what it does not know.
#[derive(Default)]
struct Carried {
    references: Vec<Reference>,
    extra: Vec<(u32, Box<[u8]>)>,
}

impl Carried {
    /// Reads a field that the kind does not know, or field 0; `group` is the field whose references it knows.
    fn read(&mut self, number: u32, group: Option<u32>, r: &mut Reader<'_>) -> Result<(), FormatError> {
        if number == field::REFERENCES {
            return self.read_references(group, r);
        }
        r.unknown(number)?;
        self.extra.push((number, r.raw()?.into()));
        Ok(())
    }

    fn read_references(&mut self, known: Option<u32>, r: &mut Reader<'_>) -> Result<(), FormatError> {
        let mut foreign = Vec::new();
        let mut groups = r.fields()?;
        let mut empty = true;
        while let Some(number) = r.next_field(&mut groups)? {
            empty = false;
            if known == Some(number) {
                let references = &mut self.references;
                read_group(r, &mut |reference| references.push(reference))?;
                continue;
            }
            r.unknown(number)?;
            let raw = r.raw()?;
            read_group(&mut Reader::new(WHAT, raw), &mut |_| ())?;
            foreign.push((number, raw));
        }
        if empty {
            return Err(malformed("the list of references is empty"));
        }
        if !foreign.is_empty() {
            let mut w = Writer::new(Vec::new());
            w.map(foreign.len());
            foreign.iter().for_each(|(number, raw)| _ = w.uint((*number).into()).raw(raw));
            self.extra.push((field::REFERENCES, w.into_inner().into()));
        }
        Ok(())
    }

    fn extra(self) -> Extra {
        (!self.extra.is_empty()).then(|| self.extra.into())
    }

    fn extents(&self) -> impl ExactSizeIterator<Item = Result<ExtentId, FormatError>> {
        self.references.iter().map(|reference| match reference {
            Reference::Extent(id) => Ok(*id),
            _ => Err(malformed("a piece lies in something that is no extent")),
        })
    }
}

fn need<T>(value: Option<T>) -> Result<T, FormatError> {
    value.ok_or(malformed("a field is missing"))
}

/// A field that is left out at its default: one that stands must not be the default.
fn not_zero(value: u32) -> Result<u32, FormatError> {
    if value == 0 { Err(malformed("a field at its default is left out")) } else { Ok(value) }
}

pub(super) fn write_time<W: Sink>(w: &mut Writer<W>, time: Timestamp) {
    w.array(2).int(time.secs).uint(time.nanos.into());
}

pub(super) fn read_time(r: &mut Reader<'_>) -> Result<Timestamp, FormatError> {
    r.array_of(2)?;
    Ok(Timestamp { secs: r.int()?, nanos: r.uint_to(999_999_999)? as u32 })
}

fn field_time<W: Sink>(w: &mut Writer<W>, number: u32, time: Timestamp) {
    w.uint(number.into());
    write_time(w, time);
}

pub(super) fn read_ino(r: &mut Reader<'_>) -> Result<Ino, FormatError> {
    Ok(Ino(r.uint_to(u64::MAX >> 1)?))
}

fn read_string(r: &mut Reader<'_>, most: usize) -> Result<Box<[u8]>, FormatError> {
    match r.bytes(most)? {
        [] => Err(malformed("a name is empty")),
        bytes => Ok(bytes.into()),
    }
}

impl Inode {
    /// The root directory of a new vault.
    pub fn root(owner: (u32, u32), now: Timestamp) -> Inode {
        Inode {
            mode: libc::S_IFDIR | 0o755,
            uid: owner.0,
            gid: owner.1,
            rdev: 0,
            nlink: 2,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            target: None,
            extra: None,
        }
    }

    fn write<W: Sink>(&self, w: &mut Writer<W>) {
        let optional = usize::from(self.rdev != 0) + usize::from(self.target.is_some());
        begin(w, 8 + optional, NO_GROUP, &self.extra);
        w.uint(field::MODE.into()).uint(self.mode.into());
        w.uint(field::UID.into()).uint(self.uid.into());
        w.uint(field::GID.into()).uint(self.gid.into());
        if self.rdev != 0 {
            w.uint(field::RDEV.into()).uint(self.rdev.into());
        }
        w.uint(field::NLINK.into()).uint(self.nlink.into());
        field_time(w, field::ATIME, self.atime);
        field_time(w, field::MTIME, self.mtime);
        field_time(w, field::CTIME, self.ctime);
        field_time(w, field::BTIME, self.btime);
        if let Some(target) = &self.target {
            w.uint(field::TARGET.into()).bytes(target);
        }
        end(w, &self.extra);
    }

    fn read(r: &mut Reader<'_>) -> Result<Inode, FormatError> {
        let (mut mode, mut uid, mut gid, mut rdev, mut nlink) = (None, None, None, 0, None);
        let (mut atime, mut mtime, mut ctime, mut btime, mut target) = (None, None, None, None, None);
        let mut carried = Carried::default();
        let mut fields = r.fields()?;
        while let Some(number) = r.next_field(&mut fields)? {
            match number {
                field::MODE => mode = Some(r.u32()?),
                field::UID => uid = Some(r.u32()?),
                field::GID => gid = Some(r.u32()?),
                field::RDEV => rdev = not_zero(r.u32()?)?,
                field::NLINK => nlink = Some(r.u32()?),
                field::ATIME => atime = Some(read_time(r)?),
                field::MTIME => mtime = Some(read_time(r)?),
                field::CTIME => ctime = Some(read_time(r)?),
                field::BTIME => btime = Some(read_time(r)?),
                field::TARGET => target = Some(read_string(r, TARGET_MAX)?),
                _ => carried.read(number, None, r)?,
            }
        }
        Ok(Inode {
            mode: need(mode)?,
            uid: need(uid)?,
            gid: need(gid)?,
            rdev,
            nlink: need(nlink)?,
            atime: need(atime)?,
            mtime: need(mtime)?,
            ctime: need(ctime)?,
            btime: need(btime)?,
            target,
            extra: carried.extra(),
        })
    }
}

impl Head {
    fn write<W: Sink>(&self, w: &mut Writer<W>) {
        let optional = usize::from(!self.pieces.is_empty()) + usize::from(self.spilled);
        let references = self.pieces.iter().map(|piece| Reference::Extent(piece.extent));
        begin(w, 5 + optional, Some((field::PIECES, references)), &self.extra);
        field_time(w, field::ATIME, self.atime);
        field_time(w, field::MTIME, self.mtime);
        field_time(w, field::CTIME, self.ctime);
        w.uint(field::LENGTH.into()).uint(self.size);
        w.uint(field::POSITION.into()).uint(self.position.0);
        if !self.pieces.is_empty() {
            w.uint(field::PIECES.into()).array(3 * self.pieces.len());
            for piece in &self.pieces {
                w.uint(piece.offset).uint(piece.len.into()).uint(piece.start.into());
            }
        }
        if self.spilled {
            w.uint(field::SPILLED.into()).yes();
        }
        end(w, &self.extra);
    }

    fn read(r: &mut Reader<'_>) -> Result<Head, FormatError> {
        let (mut size, mut atime, mut mtime, mut ctime, mut position) = (None, None, None, None, None);
        let (mut pieces, mut spilled, mut carried) = (Vec::new(), false, Carried::default());
        let mut fields = r.fields()?;
        while let Some(number) = r.next_field(&mut fields)? {
            match number {
                field::ATIME => atime = Some(read_time(r)?),
                field::MTIME => mtime = Some(read_time(r)?),
                field::CTIME => ctime = Some(read_time(r)?),
                field::LENGTH => size = Some(r.uint_to(FILE_MAX)?),
                field::POSITION => position = Some(Position(r.uint()?)),
                field::PIECES => pieces = read_pieces(r, &carried)?,
                field::SPILLED => spilled = r.yes()?,
                _ => carried.read(number, Some(field::PIECES), r)?,
            }
        }
        if pieces.len() != carried.references.len() {
            return Err(malformed("there is not one extent a piece"));
        }
        if spilled && !pieces.is_empty() {
            return Err(malformed("a spilled head holds pieces"));
        }
        Ok(Head {
            size: need(size)?,
            atime: need(atime)?,
            mtime: need(mtime)?,
            ctime: need(ctime)?,
            position: need(position)?,
            pieces,
            spilled,
            extra: carried.extra(),
        })
    }
}

fn read_pieces(r: &mut Reader<'_>, carried: &Carried) -> Result<Vec<Piece>, FormatError> {
    let len = r.array(3 * INLINE_PIECES)?;
    if len == 0 || len != 3 * carried.references.len() {
        return Err(malformed("there is not one extent a piece"));
    }
    let mut pieces: Vec<Piece> = Vec::with_capacity(len / 3);
    for extent in carried.extents() {
        let offset = r.uint()?;
        let piece = read_piece(r, offset, extent?)?;
        if pieces.last().is_some_and(|last| last.offset + u64::from(last.len) > offset) {
            return Err(malformed("pieces overlap, or are not in rising order"));
        }
        pieces.push(piece);
    }
    Ok(pieces)
}

/// Reads the length of a piece, and where it begins in its extent.
fn read_piece(r: &mut Reader<'_>, offset: u64, extent: ExtentId) -> Result<Piece, FormatError> {
    let len = r.uint_to(EXTENT_MAX as u64)? as u32;
    let start = r.uint_to(EXTENT_MAX as u64 - u64::from(len))? as u32;
    if len == 0 || offset > FILE_MAX - u64::from(len) {
        return Err(malformed("a piece is empty, or lies beyond the largest file"));
    }
    Ok(Piece { offset, len, extent, start })
}

/// A map record holds one piece; its offset stands in the key. It has no fields but these: one more would change
/// where bytes lie, so that it must be understood.
fn write_map<W: Sink>(piece: &Piece, w: &mut Writer<W>) {
    let reference = std::iter::once(Reference::Extent(piece.extent));
    begin(w, 1, Some((field::PIECES, reference)), &None);
    w.uint(field::PIECES.into()).array(2).uint(piece.len.into()).uint(piece.start.into());
}

fn read_map(offset: u64, r: &mut Reader<'_>) -> Result<Piece, FormatError> {
    let (mut piece, mut carried) = (None, Carried::default());
    let mut fields = r.fields()?;
    while let Some(number) = r.next_field(&mut fields)? {
        match number {
            field::PIECES => {
                let extent = match &carried.extents().collect::<Result<Vec<_>, _>>()?[..] {
                    [extent] => *extent,
                    _ => return Err(malformed("there is not one extent a piece")),
                };
                r.array_of(2)?;
                piece = Some(read_piece(r, offset, extent)?);
            }
            _ => carried.read(number, Some(field::PIECES), r)?,
        }
    }
    match carried.extra.last() {
        Some((number, _)) => Err(FormatError::Newer { what: "map record", version: (*number).into() }),
        None => need(piece),
    }
}

impl Xattr {
    fn read(r: &mut Reader<'_>) -> Result<Xattr, FormatError> {
        let (mut name, mut value, mut carried) = (None, None, Carried::default());
        let mut fields = r.fields()?;
        while let Some(number) = r.next_field(&mut fields)? {
            match number {
                field::NAME => name = Some(read_string(r, NAME_MAX)?),
                field::VALUE => value = Some(r.bytes(VALUE_MAX)?.into()),
                _ => carried.read(number, None, r)?,
            }
        }
        Ok(Xattr { name: need(name)?, value: need(value)?, extra: carried.extra() })
    }
}

impl Link {
    fn read(r: &mut Reader<'_>) -> Result<Link, FormatError> {
        let mut carried = Carried::default();
        let mut fields = r.fields()?;
        while let Some(number) = r.next_field(&mut fields)? {
            carried.read(number, None, r)?;
        }
        Ok(Link { extra: carried.extra() })
    }
}

impl Dentry {
    fn read(r: &mut Reader<'_>) -> Result<Dentry, FormatError> {
        let (mut kind, mut name, mut ino, mut carried) = (None, None, None, Carried::default());
        let mut fields = r.fields()?;
        while let Some(number) = r.next_field(&mut fields)? {
            match number {
                field::MODE => kind = Some(r.u32()?),
                field::NAME => name = Some(read_string(r, NAME_MAX)?),
                field::INO => ino = Some(read_ino(r)?),
                _ => carried.read(number, None, r)?,
            }
        }
        Ok(Dentry { name: need(name)?, ino: need(ino)?, kind: need(kind)?, extra: carried.extra() })
    }
}

impl Segment {
    fn read(r: &mut Reader<'_>) -> Result<Segment, FormatError> {
        let (mut len, mut carried) = (None, Carried::default());
        let mut fields = r.fields()?;
        while let Some(number) = r.next_field(&mut fields)? {
            match number {
                field::LENGTH => len = Some(r.uint_to(CLASS_MAX as u64)? as u32),
                _ => carried.read(number, None, r)?,
            }
        }
        Ok(Segment { len: need(len)?, extra: carried.extra() })
    }
}

/// Bytes that sealing adds to a frame.
const TAG: u32 = crate::crypto::aead::TAG_LEN as u32;

impl Extent {
    /// How many frames it has.
    pub fn frame_count(&self) -> u32 {
        self.len.div_ceil(1 << self.frame_log2)
    }

    /// Plaintext bytes of one frame: all are full but the last.
    pub fn frame_len(&self, frame: u32) -> u32 {
        (self.len - (frame << self.frame_log2)).min(1 << self.frame_log2)
    }

    /// Checks what everything else relies on: bounds, and that lengths agree.
    pub fn check(&self) -> Result<(), FormatError> {
        let wrong = |why| Err(FormatError::Malformed { what: "extent", why });
        if !(12..=17).contains(&self.frame_log2) || !(1..=EXTENT_MAX as u32).contains(&self.len) {
            return wrong("its length or the size of its frames is out of bounds");
        }
        let count = self.frame_count();
        let raw = u64::from(self.len) + u64::from(count * TAG);
        if self.frames.is_empty() {
            return if u64::from(self.stored) == raw { Ok(()) } else { wrong("its sealed length does not fit") };
        }
        if self.frames.len() != count as usize {
            return wrong("it has not one sealed length a frame");
        }
        let mut sum = 0;
        for (frame, &sealed) in (0..count).zip(&self.frames) {
            if sealed <= TAG || sealed > self.frame_len(frame) + TAG {
                return wrong("the sealed length of a frame is out of bounds");
            }
            sum += u64::from(sealed);
        }
        if sum == u64::from(self.stored) { Ok(()) } else { wrong("its sealed length does not fit") }
    }

    fn write<W: Sink>(&self, w: &mut Writer<W>) {
        let (reference, offset) = match self.place {
            Place::Local => (None, None),
            Place::Segment { id, offset } => (Some(Reference::Segment(id)), Some(offset)),
            Place::Inline { sequence, offset } => (Some(Reference::Log(sequence)), Some(offset)),
        };
        let optional = usize::from(!self.frames.is_empty()) + usize::from(offset.is_some());
        begin(w, 5 + optional, Some((field::OFFSET, reference.into_iter())), &self.extra);
        w.uint(field::LENGTH.into()).uint(self.len.into());
        w.uint(field::KEY_ID.into()).bytes(&self.key_id);
        w.uint(field::NONCE.into()).bytes(&self.nonce);
        w.uint(field::FRAME_LOG2.into()).uint(self.frame_log2.into());
        w.uint(field::STORED.into()).uint(self.stored.into());
        if !self.frames.is_empty() {
            w.uint(field::FRAMES.into()).array(self.frames.len());
            self.frames.iter().for_each(|&sealed| _ = w.uint(sealed.into()));
        }
        if let Some(offset) = offset {
            w.uint(field::OFFSET.into()).uint(offset.into());
        }
        end(w, &self.extra);
    }

    fn read(r: &mut Reader<'_>) -> Result<Extent, FormatError> {
        let (mut key_id, mut nonce, mut frame_log2, mut len, mut stored) = (None, None, None, None, None);
        let (mut frames, mut offset, mut carried) = (Vec::new(), None, Carried::default());
        let mut fields = r.fields()?;
        while let Some(number) = r.next_field(&mut fields)? {
            match number {
                field::LENGTH => len = Some(r.u32()?),
                field::KEY_ID => key_id = Some(r.fixed()?),
                field::NONCE => nonce = Some(r.fixed()?),
                field::FRAME_LOG2 => frame_log2 = Some(r.uint_to(63)? as u8),
                field::STORED => stored = Some(r.u32()?),
                field::FRAMES => frames = read_frames(r)?,
                field::OFFSET => offset = Some(r.uint_to(CLASS_MAX as u64)? as u32),
                _ => carried.read(number, Some(field::OFFSET), r)?,
            }
        }
        let extent = Extent {
            key_id: need(key_id)?,
            nonce: need(nonce)?,
            frame_log2: need(frame_log2)?,
            len: need(len)?,
            stored: need(stored)?,
            frames,
            place: place(offset, &carried.references)?,
            extra: carried.extra(),
        };
        extent.check()?;
        if offset.is_some_and(|offset| offset as usize + extent.stored as usize > CLASS_MAX) {
            return Err(malformed("an extent lies beyond the largest object"));
        }
        Ok(extent)
    }
}

fn read_frames(r: &mut Reader<'_>) -> Result<Vec<u32>, FormatError> {
    // As many frames as the largest extent has of the smallest.
    let len = r.array(EXTENT_MAX >> 12)?;
    if len == 0 {
        return Err(malformed("a field at its default is left out"));
    }
    (0..len).map(|_| r.u32()).collect()
}

fn place(offset: Option<u32>, references: &[Reference]) -> Result<Place, FormatError> {
    match (offset, references) {
        (None, []) => Ok(Place::Local),
        (Some(offset), [Reference::Segment(id)]) => Ok(Place::Segment { id: *id, offset }),
        (Some(offset), [Reference::Log(sequence)]) => Ok(Place::Inline { sequence: *sequence, offset }),
        _ => Err(malformed("an extent's place does not fit what it refers to")),
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
pub(super) mod tests;
