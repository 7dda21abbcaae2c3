//! Records: what a vault knows, each under its [`Key`](super::key::Key).
//!
//! Encoded as deterministic CBOR: a map with small integer keys in rising order. Fields that this program does not
//! know are kept raw in `extra` and written back unchanged (threat A28).

use crate::base::{ExtentId, Ino, ObjectId, Position, Sequence, Timestamp};

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
