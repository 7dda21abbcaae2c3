//! Deterministic CBOR: the one form in which every value is written, and a reader that takes no other.
//!
//! Owns: what "canonical" means here (RFC 8949, section 4.2.1, and narrower: integers, byte and text strings, arrays,
//! maps, true and null; no floats, tags or indefinite lengths). Does not own: any field.
//!
//! Invariants: the reader never panics, allocates nothing by itself, and bounds every length by what is there before
//! anybody allocates for it. Bytes that it took are, encoded again, the same bytes.

use std::convert::Infallible;

use minicbor::Encoder;
use minicbor::data::Type;
use minicbor::decode::{Decoder, Error};
use minicbor::encode::Write;

use super::FormatError;

/// Field numbers (and record kinds) from here on must be understood: who does not know one refuses it.
pub const MUST_UNDERSTAND: u32 = 128;
/// How deep values may be nested that this program carries over without knowing them.
const DEPTH_MAX: usize = 16;

/// Writes canonical CBOR to memory, or only counts it.
pub struct Writer<W>(Encoder<W>);

/// A place to write to that takes everything.
pub trait Sink: Write<Error = Infallible> {}
impl<W: Write<Error = Infallible>> Sink for W {}

const ENDLESS: &str = "memory takes everything";

impl<W: Sink> Writer<W> {
    pub fn new(sink: W) -> Writer<W> {
        Writer(Encoder::new(sink))
    }

    pub fn into_inner(self) -> W {
        self.0.into_writer()
    }

    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.0.u64(value).expect(ENDLESS);
        self
    }

    pub fn int(&mut self, value: i64) -> &mut Self {
        self.0.i64(value).expect(ENDLESS);
        self
    }

    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.0.bytes(value).expect(ENDLESS);
        self
    }

    pub fn text(&mut self, value: &str) -> &mut Self {
        self.0.str(value).expect(ENDLESS);
        self
    }

    pub fn array(&mut self, len: usize) -> &mut Self {
        self.0.array(len as u64).expect(ENDLESS);
        self
    }

    pub fn map(&mut self, len: usize) -> &mut Self {
        self.0.map(len as u64).expect(ENDLESS);
        self
    }

    /// A flag that stands: one that does not is left out.
    pub fn yes(&mut self) -> &mut Self {
        self.0.bool(true).expect(ENDLESS);
        self
    }

    pub fn null(&mut self) -> &mut Self {
        self.0.null().expect(ENDLESS);
        self
    }

    /// CBOR as it stands.
    pub fn raw(&mut self, cbor: &[u8]) -> &mut Self {
        self.0.writer_mut().write_all(cbor).unwrap_or_else(|never| match never {});
        self
    }
}

/// Counts what would be written.
#[derive(Default)]
pub struct Count(pub usize);

impl Write for Count {
    type Error = Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.0 += bytes.len();
        Ok(())
    }
}

/// Reads canonical CBOR and refuses everything else.
pub struct Reader<'a> {
    decoder: Decoder<'a>,
    what: &'static str,
}

/// Where the reading of a map's fields stands.
pub struct Fields {
    left: usize,
    last: Option<u32>,
}

impl<'a> Reader<'a> {
    /// `what` names the thing in errors.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Reader<'a> {
        Reader { decoder: Decoder::new(bytes), what }
    }

    pub fn malformed(&self, why: &'static str) -> FormatError {
        FormatError::Malformed { what: self.what, why }
    }

    /// How many bytes are left.
    pub fn rest(&self) -> usize {
        self.decoder.input().len().saturating_sub(self.decoder.position())
    }

    /// Reads an item's head by `read`; `argument` is what the head tells (`None`: indefinite), `body` how many bytes
    /// belong to it. Refuses a head that is longer than it must be.
    fn head<T: Copy>(
        &mut self,
        read: impl FnOnce(&mut Decoder<'a>) -> Result<T, Error>,
        argument: impl FnOnce(T) -> Option<u64>,
        body: impl FnOnce(T) -> usize,
    ) -> Result<T, FormatError> {
        let from = self.decoder.position();
        let value = read(&mut self.decoder).map_err(|_| self.malformed("not the CBOR item that belongs there"))?;
        let argument = argument(value).ok_or_else(|| self.malformed("a CBOR length is indefinite"))?;
        if self.decoder.position() - from != head_len(argument) + body(value) {
            return Err(self.malformed("a CBOR head is longer than it must be"));
        }
        Ok(value)
    }

    pub fn uint(&mut self) -> Result<u64, FormatError> {
        self.head(Decoder::u64, Some, |_| 0)
    }

    pub fn int(&mut self) -> Result<i64, FormatError> {
        self.head(Decoder::i64, |v| Some(if v < 0 { !v } else { v } as u64), |_| 0)
    }

    /// An unsigned integer up to `most`.
    pub fn uint_to(&mut self, most: u64) -> Result<u64, FormatError> {
        let value = self.uint()?;
        if value > most { Err(self.malformed("a number is out of bounds")) } else { Ok(value) }
    }

    pub fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(self.uint_to(u32::MAX.into())? as u32)
    }

    /// A byte string of at most `most` bytes.
    pub fn bytes(&mut self, most: usize) -> Result<&'a [u8], FormatError> {
        let value = self.head(Decoder::bytes, |v| Some(v.len() as u64), |v| v.len())?;
        if value.len() > most { Err(self.malformed("a string is too long")) } else { Ok(value) }
    }

    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        self.bytes(N)?.try_into().map_err(|_| self.malformed("a string is too short"))
    }

    pub fn text(&mut self, most: usize) -> Result<&'a str, FormatError> {
        let value = self.head(Decoder::str, |v| Some(v.len() as u64), |v| v.len())?;
        if value.len() > most { Err(self.malformed("a text is too long")) } else { Ok(value) }
    }

    /// The head of an array of at most `most` items; never more than there are bytes left.
    pub fn array(&mut self, most: usize) -> Result<usize, FormatError> {
        self.items(Decoder::array, most)
    }

    /// The head of an array of exactly `len` items.
    pub fn array_of(&mut self, len: usize) -> Result<(), FormatError> {
        if self.array(len)? == len { Ok(()) } else { Err(self.malformed("an array is too short")) }
    }

    /// How many items a head announces.
    fn items(
        &mut self,
        read: fn(&mut Decoder<'a>) -> Result<Option<u64>, Error>,
        most: usize,
    ) -> Result<usize, FormatError> {
        match self.head(read, |len| len, |_| 0)? {
            Some(len) if len <= most.min(self.rest()) as u64 => Ok(len as usize),
            _ => Err(self.malformed("there are too many items")),
        }
    }

    fn map(&mut self) -> Result<usize, FormatError> {
        self.items(Decoder::map, usize::MAX)
    }

    /// Whether the next item is of this type.
    pub fn next_is(&self, expected: fn(&Type) -> bool) -> bool {
        self.decoder.datatype().is_ok_and(|t| expected(&t))
    }

    /// Takes a null, if that is what comes.
    pub fn take_null(&mut self) -> bool {
        self.next_is(|t| matches!(t, Type::Null)) && self.decoder.null().is_ok()
    }

    /// A flag that stands.
    pub fn yes(&mut self) -> Result<bool, FormatError> {
        match self.decoder.bool() {
            Ok(true) => Ok(true),
            Ok(false) => Err(self.malformed("a flag that does not stand is left out")),
            Err(_) => Err(self.malformed("not the CBOR item that belongs there")),
        }
    }

    /// Nothing may follow.
    pub fn end(&self) -> Result<(), FormatError> {
        if self.rest() == 0 { Ok(()) } else { Err(self.malformed("bytes follow its end")) }
    }

    /// Begins a map of numbered fields.
    pub fn fields(&mut self) -> Result<Fields, FormatError> {
        Ok(Fields { left: self.map()?, last: None })
    }

    /// The number of the next field, `None` after the last. Numbers must rise.
    pub fn next_field(&mut self, fields: &mut Fields) -> Result<Option<u32>, FormatError> {
        if fields.left == 0 {
            return Ok(None);
        }
        fields.left -= 1;
        let number = self.u32()?;
        if fields.last.is_some_and(|last| last >= number) {
            return Err(self.malformed("fields are not in rising order"));
        }
        fields.last = Some(number);
        Ok(Some(number))
    }

    /// What to do with a field that this program does not know, in a thing that is never written back: pass over it,
    /// or refuse it.
    pub fn skip_unknown(&mut self, number: u32) -> Result<(), FormatError> {
        self.unknown(number)?;
        self.raw().map(drop)
    }

    /// Refuses a field number that this version should know, and one that must be understood.
    pub fn unknown(&self, number: u32) -> Result<(), FormatError> {
        match number {
            MUST_UNDERSTAND.. => Err(FormatError::Newer { what: self.what, version: number.into() }),
            LATER_FIELDS.. => Ok(()),
            _ => Err(self.malformed("it has a field that it cannot have")),
        }
    }

    /// The bytes of the next item, whatever it is, if it is canonical.
    pub fn raw(&mut self) -> Result<&'a [u8], FormatError> {
        let from = self.decoder.position();
        self.skip(DEPTH_MAX)?;
        Ok(&self.decoder.input()[from..self.decoder.position()])
    }

    fn skip(&mut self, depth: usize) -> Result<(), FormatError> {
        let depth = depth.checked_sub(1).ok_or_else(|| self.malformed("it is nested too deep"))?;
        let next = self.decoder.datatype().map_err(|_| self.malformed("it ends too early"))?;
        match next {
            Type::U8 | Type::U16 | Type::U32 | Type::U64 => self.uint().map(drop),
            Type::I8 | Type::I16 | Type::I32 | Type::I64 => self.int().map(drop),
            Type::Bytes => self.bytes(usize::MAX).map(drop),
            Type::String => self.text(usize::MAX).map(drop),
            Type::Null => self.decoder.null().map_err(|_| self.malformed("it ends too early")),
            Type::Bool => self.yes().map(drop),
            Type::Array => {
                for _ in 0..self.array(usize::MAX)? {
                    self.skip(depth)?;
                }
                Ok(())
            }
            Type::Map => self.skip_map(depth),
            _ => Err(self.malformed("it holds a kind of CBOR item that this format does not use")),
        }
    }

    /// Keys of maps rise in the order of their encoded bytes.
    fn skip_map(&mut self, depth: usize) -> Result<(), FormatError> {
        let mut last: &[u8] = &[];
        for _ in 0..self.map()? {
            let from = self.decoder.position();
            self.skip(depth)?;
            let key = &self.decoder.input()[from..self.decoder.position()];
            if last >= key {
                return Err(self.malformed("keys of a map are not in rising order"));
            }
            last = key;
            self.skip(depth)?;
        }
        Ok(())
    }
}

/// The first number that a field of a later version takes. Below it stand the fields of this version.
pub const LATER_FIELDS: u32 = 24;

/// The length of the shortest CBOR head with this argument.
fn head_len(argument: u64) -> usize {
    match argument {
        0..=23 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
        let mut reader = Reader::new("item", bytes);
        let item = reader.raw()?.to_vec();
        reader.end()?;
        Ok(item)
    }

    #[test]
    fn canonical_items_are_taken_as_they_stand() {
        for item in [
            &[0x00][..],
            &[0x18, 0x18],
            &[0x20],
            &[0x1b, 0, 0, 0, 1, 0, 0, 0, 0],
            &[0x3b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x42, 1, 2],
            &[0x61, b'a'],
            &[0x82, 0x01, 0x80],
            &[0xa2, 0x01, 0x02, 0x18, 0x18, 0xf6],
            &[0xf5],
        ] {
            assert_eq!(raw(item).as_deref(), Ok(item), "{item:02x?}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for (item, why) in [
            (&[0x18, 0x17][..], "long head of an integer"),
            (&[0x19, 0x00, 0xff], "long head of an integer"),
            (&[0x38, 0x00], "long head of a negative integer"),
            (&[0x58, 0x01, 0x00], "long head of a byte string"),
            (&[0x78, 0x01, b'a'], "long head of a text"),
            (&[0x98, 0x01, 0x00], "long head of an array"),
            (&[0xb8, 0x01, 0x00, 0x00], "long head of a map"),
            (&[0x5f, 0x41, 0, 0xff], "indefinite byte string"),
            (&[0x7f, 0x61, b'a', 0xff], "indefinite text"),
            (&[0x9f, 0xff], "indefinite array"),
            (&[0xbf, 0xff], "indefinite map"),
            (&[0xa2, 0x01, 0x00, 0x01, 0x00], "a key twice"),
            (&[0xa2, 0x02, 0x00, 0x01, 0x00], "falling keys"),
            (&[0xf4], "false"),
            (&[0xf7], "undefined"),
            (&[0xf9, 0, 0], "a float"),
            (&[0xc0, 0x00], "a tag"),
            (&[0x3b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "below 64 bits"),
            (&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "more items than bytes"),
            (&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "a longer string than bytes"),
            (&[0x61, 0xff], "not UTF-8"),
            (&[0x00, 0x00], "bytes after the end"),
            (&[], "nothing"),
        ] {
            assert!(raw(item).is_err(), "{why}: {item:02x?}");
        }
        let mut deep = vec![0x81; 20];
        deep.push(0);
        assert_eq!(raw(&deep), Err(FormatError::Malformed { what: "item", why: "it is nested too deep" }));
    }

    proptest! {
        #[test]
        fn numbers_and_strings_come_back(a: u64, b: i64, c in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut writer = Writer::new(Vec::new());
            writer.array(3).uint(a).int(b).bytes(&c);
            let bytes = writer.into_inner();
            let mut reader = Reader::new("item", &bytes);
            reader.array_of(3).unwrap();
            prop_assert_eq!(reader.uint(), Ok(a));
            prop_assert_eq!(reader.int(), Ok(b));
            prop_assert_eq!(reader.bytes(300), Ok(&c[..]));
            prop_assert_eq!(reader.end(), Ok(()));
            prop_assert_eq!(raw(&bytes), Ok(bytes.clone()));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = raw(&bytes);
        }
    }
}
