//! Record keys and their one order, shared by runs, commits and index: inode, kind, rest, each big-endian.

use crate::base::{ExtentId, Ino, ObjectId};

/// The key of a record. The derived order equals the order of the encoded bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    pub ino: Ino,
    pub part: Part,
}

/// What of an inode a record tells. Kinds of later versions have larger numbers than all that are known here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    /// Kind 1: namespace attributes.
    Inode,
    /// Kind 2: contents head.
    Head,
    /// Kind 3: a piece of the file map, where the head does not hold it inline.
    Map { offset: u64 },
    /// Kind 4: an extended attribute, by keyed hash of its name.
    Xattr { hash: u64, suffix: u16 },
    /// Kind 5: the way up from an inode to a directory entry that names it.
    Link { parent: Ino, hash: u64, suffix: u16 },
    /// Kind 6: a directory entry, by keyed hash of parent and name.
    Dentry { hash: u64, suffix: u16 },
    /// Kind 7: an extent that was written for this inode.
    Extent { number: u64 },
    /// Kind 8: a segment; the inode is [`Ino::NONE`].
    Segment { id: ObjectId },
    /// A kind that this program does not know.
    Other { kind: u8, len: u8, rest: [u8; 32] },
}

/// Records that travel together (design: lanes).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    Namespace,
    Content(Ino),
    /// Extents and segments: a commit carries those that its maps name.
    None,
}

impl Key {
    pub fn inode(ino: Ino) -> Key {
        Key { ino, part: Part::Inode }
    }

    pub fn head(ino: Ino) -> Key {
        Key { ino, part: Part::Head }
    }

    pub fn map(ino: Ino, offset: u64) -> Key {
        Key { ino, part: Part::Map { offset } }
    }

    pub fn xattr(ino: Ino, hash: u64, suffix: u16) -> Key {
        Key { ino, part: Part::Xattr { hash, suffix } }
    }

    pub fn link(ino: Ino, parent: Ino, hash: u64, suffix: u16) -> Key {
        Key { ino, part: Part::Link { parent, hash, suffix } }
    }

    pub fn dentry(parent: Ino, hash: u64, suffix: u16) -> Key {
        Key { ino: parent, part: Part::Dentry { hash, suffix } }
    }

    pub fn extent(id: ExtentId) -> Key {
        Key { ino: id.owner, part: Part::Extent { number: id.number } }
    }

    pub fn segment(id: ObjectId) -> Key {
        Key { ino: Ino::NONE, part: Part::Segment { id } }
    }

    pub fn lane(&self) -> Lane {
        match self.part {
            Part::Head | Part::Map { .. } => Lane::Content(self.ino),
            Part::Extent { .. } | Part::Segment { .. } => Lane::None,
            _ => Lane::Namespace,
        }
    }
}
