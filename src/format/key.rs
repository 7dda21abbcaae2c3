//! Record keys and their one order, shared by runs, commits and index: inode, kind, rest, each big-endian.
//!
//! Owns: the kinds, and how a key lies in bytes. Does not own: what a record says ([`super::record`]).
//!
//! Invariants: the derived order of [`Key`] is the order of the encoded bytes; a key that decodes is, encoded again,
//! the same bytes.

use std::ops::Deref;

use super::FormatError;
use super::cbor::MUST_UNDERSTAND;
use crate::base::{ExtentId, Ino, ObjectId};

/// The longest encoded key: inode, kind, and the longest rest of a kind that this program does not know.
pub const KEY_MAX: usize = 8 + 1 + REST_MAX;
const REST_MAX: usize = 32;

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
    /// A kind that this program does not know (9 to 127; those above must be understood and do not decode). `rest` is
    /// zero beyond `len`. The order of these fields makes the derived order that of the bytes.
    Other { kind: u8, rest: [u8; REST_MAX], len: u8 },
}

impl Part {
    /// After all that an inode can have.
    pub const LAST: Part = Part::Other { kind: u8::MAX, rest: [u8::MAX; REST_MAX], len: REST_MAX as u8 };
}

/// An encoded key.
#[derive(Clone, Copy)]
pub struct KeyBytes {
    bytes: [u8; KEY_MAX],
    len: usize,
}

impl KeyBytes {
    fn push(&mut self, part: &[u8]) {
        self.bytes[self.len..][..part.len()].copy_from_slice(part);
        self.len += part.len();
    }
}

impl Deref for KeyBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Takes big-endian numbers off the front of a key.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(malformed("it is too short"))?;
        self.0 = tail;
        Ok(*head)
    }

    fn u64(&mut self) -> Result<u64, FormatError> {
        self.take().map(u64::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, FormatError> {
        self.take().map(u16::from_be_bytes)
    }

    fn ino(&mut self) -> Result<Ino, FormatError> {
        match self.u64()? {
            ino if ino >> 63 == 0 => Ok(Ino(ino)),
            _ => Err(malformed("its inode number has the top bit set")),
        }
    }
}

fn malformed(why: &'static str) -> FormatError {
    FormatError::Malformed { what: "key", why }
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

    /// Appends the encoded key.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bytes());
    }

    /// The encoded key, on the stack.
    pub fn to_bytes(&self) -> KeyBytes {
        let mut out = KeyBytes { bytes: [0; KEY_MAX], len: 0 };
        out.push(&self.ino.0.to_be_bytes());
        match self.part {
            Part::Inode => out.push(&[1]),
            Part::Head => out.push(&[2]),
            Part::Map { offset } => {
                out.push(&[3]);
                out.push(&offset.to_be_bytes());
            }
            Part::Xattr { hash, suffix } => {
                out.push(&[4]);
                out.push(&hash.to_be_bytes());
                out.push(&suffix.to_be_bytes());
            }
            Part::Link { parent, hash, suffix } => {
                out.push(&[5]);
                out.push(&parent.0.to_be_bytes());
                out.push(&hash.to_be_bytes());
                out.push(&suffix.to_be_bytes());
            }
            Part::Dentry { hash, suffix } => {
                out.push(&[6]);
                out.push(&hash.to_be_bytes());
                out.push(&suffix.to_be_bytes());
            }
            Part::Extent { number } => {
                out.push(&[7]);
                out.push(&number.to_be_bytes());
            }
            Part::Segment { id } => {
                out.push(&[8]);
                out.push(&id.0);
            }
            Part::Other { kind, rest, len } => {
                out.push(&[kind]);
                out.push(&rest[..usize::from(len)]);
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Key, FormatError> {
        let mut rest = Rest(bytes);
        let ino = rest.ino()?;
        let [kind] = rest.take()?;
        let part = match kind {
            0 => return Err(malformed("there is no kind 0")),
            1 => Part::Inode,
            2 => Part::Head,
            3 => Part::Map { offset: rest.u64()? },
            4 => Part::Xattr { hash: rest.u64()?, suffix: rest.u16()? },
            5 => Part::Link { parent: rest.ino()?, hash: rest.u64()?, suffix: rest.u16()? },
            6 => Part::Dentry { hash: rest.u64()?, suffix: rest.u16()? },
            7 => Part::Extent { number: rest.u64()? },
            8 if ino != Ino::NONE => return Err(malformed("a segment belongs to no inode")),
            8 => Part::Segment { id: ObjectId(rest.take()?) },
            kind if u32::from(kind) >= MUST_UNDERSTAND => {
                return Err(FormatError::Newer { what: "record kind", version: kind.into() });
            }
            kind => return Key::other(ino, kind, rest.0),
        };
        if rest.0.is_empty() { Ok(Key { ino, part }) } else { Err(malformed("it is too long")) }
    }

    fn other(ino: Ino, kind: u8, bytes: &[u8]) -> Result<Key, FormatError> {
        let mut rest = [0; REST_MAX];
        rest.get_mut(..bytes.len()).ok_or(malformed("it is too long"))?.copy_from_slice(bytes);
        Ok(Key { ino, part: Part::Other { kind, rest, len: bytes.len() as u8 } })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Small and large numbers, so that neighbours and equal ones come up too.
    pub fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0..4u64, 0..u64::MAX / 2, Just(u64::MAX >> 1)]
    }

    pub fn key() -> impl Strategy<Value = Key> {
        let ino = || number().prop_map(Ino);
        let other = (9..128u8, prop::collection::vec(0..3u8, 0..=REST_MAX));
        let part = prop_oneof![
            Just(Part::Inode),
            Just(Part::Head),
            number().prop_map(|offset| Part::Map { offset }),
            (number(), 0..3u16).prop_map(|(hash, suffix)| Part::Xattr { hash, suffix }),
            (ino(), number(), 0..3u16).prop_map(|(parent, hash, suffix)| Part::Link { parent, hash, suffix }),
            (number(), 0..3u16).prop_map(|(hash, suffix)| Part::Dentry { hash, suffix }),
            number().prop_map(|number| Part::Extent { number }),
            any::<[u8; 16]>().prop_map(|id| Part::Segment { id: ObjectId(id) }),
            other.prop_map(|(kind, rest)| Key::other(Ino(0), kind, &rest).unwrap().part),
        ];
        (ino(), part).prop_map(|(ino, part)| match part {
            Part::Segment { .. } => Key { ino: Ino::NONE, part },
            _ => Key { ino, part },
        })
    }

    proptest! {
        #[test]
        fn the_derived_order_is_that_of_the_bytes(a in key(), b in key()) {
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&*b.to_bytes()));
        }

        #[test]
        fn the_order_holds_among_neighbours(a in key(), part in key()) {
            let b = Key { ino: a.ino, part: part.part };
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&*b.to_bytes()));
        }

        #[test]
        fn keys_come_back(key in key()) {
            prop_assert_eq!(Key::decode(&key.to_bytes()), Ok(key));
        }

        #[test]
        fn what_decodes_is_canonical(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            if let Ok(key) = Key::decode(&bytes) {
                prop_assert_eq!(&*key.to_bytes(), &bytes[..]);
            }
        }
    }

    #[test]
    fn bad_keys_are_refused() {
        let good = Key::dentry(Ino(7), 99, 1).to_bytes();
        assert!(Key::decode(&good[..good.len() - 1]).is_err(), "too short");
        assert!(Key::decode(&[&good[..], &[0]].concat()).is_err(), "too long");
        assert!(Key::decode(&[0, 0, 0, 0, 0, 0, 0, 1, 0]).is_err(), "kind 0");
        assert!(Key::decode(&[0x80, 0, 0, 0, 0, 0, 0, 1, 1]).is_err(), "top bit");
        let newer = FormatError::Newer { what: "record kind", version: 128 };
        assert_eq!(Key::decode(&[0, 0, 0, 0, 0, 0, 0, 1, 128]), Err(newer));
        assert!(Key::decode(&[&[0, 0, 0, 0, 0, 0, 0, 1, 100][..], &[0; 33]].concat()).is_err(), "long rest");
        let mut segment = Key::segment(ObjectId([1; 16])).to_bytes().to_vec();
        segment[7] = 1;
        assert!(Key::decode(&segment).is_err(), "a segment of an inode");
    }
}
