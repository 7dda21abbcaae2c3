//! The hint `latest`: where to begin looking for the newest state. Untrusted: it can only make a mount slower.
//!
//! Owns: its layout. Does not own: what is done with it (vault).
//!
//! A mount must know which header to try before it has any key, so the number of the header stands in clear, 8 bytes
//! big-endian, before a sealed object; it tells no more than the names below `header/` do. The rest is sealed.

use super::FormatError;
use super::cbor::{Reader, Writer};
use super::keys::Keys;
use super::object::{self, Kind};
use crate::base::{ObjectId, Random, Sequence};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hint {
    /// Which header to try.
    pub header: u64,
    /// A log object that stood when the hint was written.
    pub sequence: Sequence,
    /// The checkpoint that counted then.
    pub checkpoint: ObjectId,
}

/// The hint's name.
pub const HINT_NAME: &str = "latest";
const WHAT: &str = "hint";
const CLEAR: usize = 8;
const HEADER: u32 = 1;
const SEQUENCE: u32 = 2;
const CHECKPOINT: u32 = 3;

impl Hint {
    /// The number of the header to try, before there is a key. Anybody may have written it.
    pub fn header_number(object: &[u8]) -> Option<u64> {
        object.first_chunk().map(|number| u64::from_be_bytes(*number))
    }

    pub fn seal(&self, keys: &Keys, random: &Random) -> Vec<u8> {
        let clear = self.header.to_be_bytes();
        let sealed = object::seal(keys, random, Kind::Hint, HINT_NAME, &clear, |out| {
            let mut w = Writer::new(out);
            w.map(3).uint(HEADER.into()).uint(self.header);
            w.uint(SEQUENCE.into()).uint(self.sequence.0).uint(CHECKPOINT.into()).bytes(&self.checkpoint.0);
        });
        sealed.expect("a hint is smaller than the largest class")
    }

    pub fn open(keys: &Keys, object: &[u8]) -> Result<Hint, FormatError> {
        let opened = object::open(keys, Kind::Hint, HINT_NAME, WHAT, CLEAR, object)?;
        let mut r = Reader::new(WHAT, opened.content());
        let (mut header, mut sequence, mut checkpoint) = (None, None, None);
        let mut fields = r.fields()?;
        while let Some(number) = r.next_field(&mut fields)? {
            match number {
                HEADER => header = Some(r.uint()?),
                SEQUENCE => sequence = Some(Sequence(r.uint()?)),
                CHECKPOINT => checkpoint = Some(ObjectId(r.fixed()?)),
                _ => r.skip_unknown(number)?,
            }
        }
        r.end()?;
        match (header, sequence, checkpoint) {
            (Some(header), Some(sequence), Some(checkpoint)) if Hint::header_number(object) == Some(header) => {
                Ok(Hint { header, sequence, checkpoint })
            }
            _ => Err(r.malformed("a field is missing, or its header's number in clear is another")),
        }
    }
}
