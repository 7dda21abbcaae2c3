//! A test vector: a small text file of `label: value` lines, and how it is opened.
//!
//! Objects are kept as nonce and content; they are put together here as the manual says, by hand, so that the envelope
//! is checked too.

use dripfs::base::{ObjectId, Sequence};
use dripfs::crypto::aead;
use dripfs::crypto::secret::{Key as SecretKey, Passphrase};
use dripfs::format::FormatError;
use dripfs::format::change::Change;
use dripfs::format::checkpoint::Manifest;
use dripfs::format::checkpoint::table::{open_chain, open_counts};
use dripfs::format::commit::{LogObject, hash, open_part};
use dripfs::format::extent;
use dripfs::format::header::Header;
use dripfs::format::hint::Hint;
use dripfs::format::key::Key;
use dripfs::format::keys::Keys;
use dripfs::format::record::Record;

pub struct Vector {
    pub name: String,
    fields: Vec<(String, String)>,
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text} is no hex");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits")).collect()
}

impl Vector {
    pub fn new(name: &str, kind: &str) -> Vector {
        Vector { name: name.to_owned(), fields: Vec::new() }.with("kind", kind)
    }

    pub fn with(mut self, label: &str, value: impl ToString) -> Vector {
        self.fields.push((label.to_owned(), value.to_string()));
        self
    }

    pub fn hex(self, label: &str, value: &[u8]) -> Vector {
        self.with(label, hex(value))
    }

    /// Notes what opening it leads to.
    pub fn result(self, result: impl ToString) -> Vector {
        self.with("result", result)
    }

    pub fn parse(name: &str, text: &str) -> Vector {
        let field = |line: &str| {
            let (label, value) = line.split_once(": ").unwrap_or((line.trim_end_matches(':'), ""));
            (label.to_owned(), value.to_owned())
        };
        Vector { name: name.to_owned(), fields: text.lines().map(field).collect() }
    }

    pub fn to_text(&self) -> String {
        self.fields.iter().map(|(label, value)| format!("{label}: {value}").trim_end().to_owned() + "\n").collect()
    }

    fn find(&self, label: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == label).map(|(_, value)| &**value)
    }

    pub fn get(&self, label: &str) -> &str {
        self.find(label).unwrap_or_else(|| panic!("{} has no {label}", self.name))
    }

    fn bytes(&self, label: &str) -> Vec<u8> {
        unhex(self.get(label))
    }

    fn number(&self, label: &str) -> usize {
        self.get(label).parse().expect("a number")
    }

    fn keys(&self) -> Keys {
        let master = self.bytes("master").try_into().expect("a master key has 32 bytes");
        Keys::from_master(&SecretKey::from_bytes(master))
    }

    /// "ok", or the error.
    pub fn open(&self) -> String {
        let opened = match self.get("kind") {
            "key" => self.open_key(),
            "record" => self.open_record(),
            "change" => self.open_change(),
            "object" => self.open_object(),
            "extent" => self.open_extent(),
            "header" => return self.open_header(),
            other => panic!("no such kind: {other}"),
        };
        opened.map_or_else(|error| error.to_string(), |()| "ok".to_owned())
    }

    fn open_key(&self) -> Result<(), FormatError> {
        let bytes = self.bytes("bytes");
        assert_eq!(*Key::decode(&bytes)?.to_bytes(), bytes, "{}", self.name);
        Ok(())
    }

    fn open_record(&self) -> Result<(), FormatError> {
        let key = Key::decode(&self.bytes("key")).expect("the record is bad, not its key");
        let (bytes, mut again) = (self.bytes("bytes"), Vec::new());
        Record::decode(&key, &bytes)?.encode(&mut again);
        assert_eq!(again, bytes, "{}", self.name);
        Ok(())
    }

    fn open_change(&self) -> Result<(), FormatError> {
        let (bytes, mut again) = (self.bytes("bytes"), Vec::new());
        Change::decode(&bytes)?.encode(&mut again);
        assert_eq!(again, bytes, "{}", self.name);
        Ok(())
    }

    /// Puts a sealed object together as dripfs-format(5) says.
    pub fn object(&self) -> Vec<u8> {
        let (keys, nonce, content) = (self.keys(), self.bytes("nonce"), self.bytes("content"));
        let clear = self.find("clear").map(unhex).unwrap_or_default();
        let mut size = 66_560;
        while size < clear.len() + 24 + 4 + content.len() + 16 {
            size *= 2;
        }
        let size = self.find("class").map_or(size, |class| class.parse().expect("a number"));
        let len = self.find("stated").map_or(content.len(), |len| len.parse().expect("a number"));
        let mut plain = [&(len as u32).to_be_bytes()[..], &content].concat();
        plain.resize(size - clear.len() - 24 - 16, 0);
        if self.find("padding").is_some() {
            *plain.last_mut().expect("there is padding") = self.bytes("padding")[0];
        }
        let kind: u8 = self.get("object-kind").parse().expect("a number");
        let aad = [&keys.vault.0[..], &[kind], self.get("name").as_bytes()].concat();
        let nonce_bytes: &[u8; 24] = nonce[..].try_into().expect("a nonce has 24 bytes");
        let sealed = aead::seal(&keys.log, nonce_bytes, &aad, &plain);
        let mut object = [clear, nonce, sealed].concat();
        if self.find("flip").is_some() {
            let at = self.number("flip");
            object[at] ^= 1;
        }
        if self.find("length").is_some() {
            object.resize(self.number("length"), 0);
        }
        object
    }

    fn open_object(&self) -> Result<(), FormatError> {
        let (keys, object) = (self.keys(), self.object());
        if let Some(expected) = self.find("hash") {
            assert_eq!(hex(&hash(&object)), expected, "{}", self.name);
        }
        let name = self.find("opened-as").unwrap_or_else(|| self.get("name"));
        let id = || -> ObjectId { name.rsplit('/').next().unwrap_or_default().parse().expect("an object id") };
        match name.split_once('/') {
            Some(("log", number)) => {
                LogObject::open(&keys, Sequence(number.parse().expect("a number")), &object).map(drop)
            }
            Some(("segments", _)) if self.get("object-kind") == "6" => open_chain(&keys, id(), &object).map(drop),
            Some(("segments", _)) if self.get("object-kind") == "7" => open_counts(&keys, id(), &object).map(drop),
            Some(("segments", _)) => open_part(&keys, id(), &object).map(drop),
            Some(("checkpoint", _)) => Manifest::open(&keys, id(), &object).map(drop),
            _ => Hint::open(&keys, &object).map(drop),
        }
    }

    fn open_extent(&self) -> Result<(), FormatError> {
        let key = Key::decode(&self.bytes("key")).expect("an extent's key");
        let Record::Extent(record) = Record::decode(&key, &self.bytes("record"))? else { panic!("no extent") };
        let (from, to) = self.get("frames").split_once("..").expect("a range");
        let frames = from.parse().expect("a number")..to.parse().expect("a number");
        let plain = extent::open(&self.keys(), &record, frames, &self.bytes("sealed"))?;
        let plain: Vec<u8> = plain.iter().flat_map(|frame| frame.to_vec()).collect();
        assert_eq!(hex(&plain), self.get("plaintext"), "{}", self.name);
        Ok(())
    }

    fn open_header(&self) -> String {
        let mut object = self.bytes("object");
        object.resize(self.find("length").map_or(66_560, |len| len.parse().expect("a number")), 0);
        let header = match Header::parse(self.number("number") as u64, &object) {
            Ok(header) => header,
            Err(error) => return error.to_string(),
        };
        match header.unlock(&Passphrase::new(self.get("secret").as_bytes().to_vec())) {
            Ok(master) => {
                assert_eq!(hex(master.as_bytes()), self.get("master"), "{}", self.name);
                "ok".to_owned()
            }
            Err(error) => error.to_string(),
        }
    }
}
