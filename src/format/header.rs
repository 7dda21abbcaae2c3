//! Headers: vault id, key slots. Read before anything is trusted, so everything in them is bounded (A10, A26).
//!
//! Owns: the header's layout, slots, the text of a recovery key. Does not own: which header counts (vault), the bounds
//! of Argon2's cost ([`kdf`]).
//!
//! ```text
//! "dripfs\r\n" || version, 4 bytes big-endian || length, 4 bytes big-endian || CBOR || MAC, 32 bytes || random bytes
//! ```
//!
//! Invariants: sizes, counts and costs are checked before Argon2 runs; a slot is opened only if its commitment fits
//! (so no ciphertext opens under two passphrases); a master key is handed out only after the vault id and the MAC over
//! everything before it, and the header's name, were found to be made with it.

pub mod change;

use std::fmt;
use std::str::FromStr;

use zeroize::{Zeroize, Zeroizing};

use super::FormatError;
use super::cbor::{MUST_UNDERSTAND, Reader, Sink, Writer};
use super::commit::{Hash, hash};
use super::keys::Keys;
use super::object::{Kind, associated_data};
use super::padding;
use crate::base::sizes::CLASS_MIN;
use crate::base::{Random, VaultId};
use crate::crypto::aead::{self, NONCE_LEN};
use crate::crypto::kdf::{self, KdfError};
use crate::crypto::secret::{self, Key as SecretKey, Passphrase};

/// `header/<20 digits>`.
pub fn header_name(number: u64) -> String {
    format!("header/{number:020}")
}

/// A header that parsed; nothing in it is trusted before [`Header::unlock`].
pub struct Header {
    pub number: u64,
    pub vault: VaultId,
    pub hash: Hash,
    slots: Vec<Slot>,
    /// The slots as they are: what of them is not known here goes on into a later header.
    raw: Vec<Box<[u8]>>,
    /// What the MAC covers, and the MAC.
    covered: Box<[u8]>,
    mac: [u8; 32],
}

/// Cost of the passphrase KDF. Floor and ceiling are compiled in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Cost {
    /// 256 MiB, 3 passes, 4 lanes as in RFC 9106, section 4 (about half a second of processor time, on all cores).
    pub const DEFAULT: Cost = Cost { memory_kib: 256 * 1024, passes: 3, lanes: 4 };
    /// The least that is accepted. Tests use it.
    pub const FLOOR: Cost =
        Cost { memory_kib: *kdf::MEMORY_KIB.start(), passes: *kdf::PASSES.start(), lanes: *kdf::LANES.start() };
    /// The most that is accepted: 1 GiB, 16 passes, 4 lanes.
    pub const CEILING: Cost =
        Cost { memory_kib: *kdf::MEMORY_KIB.end(), passes: *kdf::PASSES.end(), lanes: *kdf::LANES.end() };

    fn stretch(self, passphrase: &Passphrase, salt: &[u8; 32]) -> Result<SecretKey, KdfError> {
        kdf::argon2id(passphrase.as_bytes(), salt, self.memory_kib, self.passes, self.lanes)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// No slot opens with it.
    #[error("wrong passphrase")]
    WrongPassphrase,
    /// A slot opened, but the header was changed by somebody without the key.
    #[error("the vault's header was tampered with")]
    Tampered,
    #[error(transparent)]
    Format(#[from] FormatError),
    /// This machine cannot stretch the passphrase.
    #[error(transparent)]
    Kdf(#[from] KdfError),
}

const WHAT: &str = "header";
const MAGIC: &[u8; 8] = b"dripfs\r\n";
/// The only version yet.
const VERSION: u32 = 1;
const MAC_LEN: usize = 32;
/// Where the CBOR begins.
const PREFIX: usize = MAGIC.len() + 4 + 4;
const CBOR_MAX: usize = CLASS_MIN - PREFIX - MAC_LEN;
const SLOTS_MAX: usize = 16;
const SLOT_MAX: usize = 2048;

/// Numbers of a header's fields.
const VAULT: u32 = 1;
const SLOTS: u32 = 2;

/// Numbers of a slot's fields.
mod slot {
    pub const KIND: u32 = 1;
    pub const SALT: u32 = 2;
    pub const COST: u32 = 3;
    pub const NONCE: u32 = 4;
    pub const WRAPPED: u32 = 5;
    pub const COMMITMENT: u32 = 6;
}

/// Kinds of slots.
const PASSPHRASE: u64 = 1;
const RECOVERY: u64 = 2;

enum Slot {
    Passphrase {
        salt: [u8; 32],
        cost: Cost,
        wrap: Wrap,
    },
    Recovery(Wrap),
    /// A kind of a later version: somebody else's way in.
    Other,
}

/// The master key, sealed under what a passphrase or a recovery key yields.
struct Wrap {
    nonce: [u8; NONCE_LEN],
    sealed: [u8; 48],
    commitment: [u8; 32],
}

impl Wrap {
    /// Seals the master key under a key-encryption key.
    fn make(random: &Random, vault: &VaultId, kek: &SecretKey, master: &SecretKey) -> Wrap {
        let nonce = random.bytes();
        let sealed = aead::seal(&wrap_key(kek), &nonce, &slot_data(vault), master.as_bytes());
        let sealed = sealed.try_into().expect("a sealed key has 48 bytes");
        Wrap { nonce, sealed, commitment: commitment(kek) }
    }

    /// The master key; `None` if this is not the slot's key-encryption key.
    fn open(&self, vault: &VaultId, kek: &SecretKey) -> Option<Result<SecretKey, UnlockError>> {
        if !secret::equal(&commitment(kek), &self.commitment) {
            return None;
        }
        let opened = aead::open(&wrap_key(kek), &self.nonce, &slot_data(vault), &self.sealed).map(Zeroizing::new);
        let master = opened.ok().and_then(|bytes| <[u8; 32]>::try_from(&bytes[..]).ok());
        Some(master.map(SecretKey::from_bytes).ok_or(UnlockError::Tampered))
    }

    fn write<W: Sink>(&self, w: &mut Writer<W>) {
        w.uint(slot::NONCE.into()).bytes(&self.nonce);
        w.uint(slot::WRAPPED.into()).bytes(&self.sealed);
        w.uint(slot::COMMITMENT.into()).bytes(&self.commitment);
    }
}

/// A slot may be copied into a later header, so that its associated data holds no header's name.
fn slot_data(vault: &VaultId) -> Vec<u8> {
    associated_data(vault, Kind::Slot, "")
}

fn wrap_key(kek: &SecretKey) -> SecretKey {
    kdf::derive("dripfs 2026 slot wrap", kek)
}

fn commitment(kek: &SecretKey) -> [u8; 32] {
    *kdf::derive("dripfs 2026 slot commitment", kek).as_bytes()
}

impl Slot {
    fn write<W: Sink>(&self, w: &mut Writer<W>) {
        match self {
            Slot::Passphrase { salt, cost, wrap } => {
                w.map(6).uint(slot::KIND.into()).uint(PASSPHRASE).uint(slot::SALT.into()).bytes(salt);
                w.uint(slot::COST.into()).array(3);
                w.uint(cost.memory_kib.into()).uint(cost.passes.into()).uint(cost.lanes.into());
                wrap.write(w);
            }
            Slot::Recovery(wrap) => {
                w.map(4).uint(slot::KIND.into()).uint(RECOVERY);
                wrap.write(w);
            }
            Slot::Other => unreachable!("this program makes no slots that it does not know"),
        }
    }

    fn bytes(&self) -> Box<[u8]> {
        let mut w = Writer::new(Vec::new());
        self.write(&mut w);
        w.into_inner().into()
    }

    fn read(bytes: &[u8]) -> Result<Slot, FormatError> {
        let mut r = Reader::new("key slot", bytes);
        if bytes.len() > SLOT_MAX {
            return Err(r.malformed("it is too long"));
        }
        let (mut kind, mut salt, mut cost, mut nonce, mut sealed, mut commitment) = (0, None, None, None, None, None);
        let mut fields = r.fields()?;
        while let Some(number) = r.next_field(&mut fields)? {
            match (number, kind) {
                (slot::KIND, _) => kind = r.uint()?,
                // The fields of a kind that is not known mean what that kind says.
                (_, 3..) => r.raw().map(drop)?,
                (slot::SALT, PASSPHRASE) => salt = Some(r.fixed()?),
                (slot::COST, PASSPHRASE) => cost = Some(read_cost(&mut r)?),
                (slot::NONCE, _) => nonce = Some(r.fixed()?),
                (slot::WRAPPED, _) => sealed = Some(r.fixed()?),
                (slot::COMMITMENT, _) => commitment = Some(r.fixed()?),
                _ => r.skip_unknown(number)?,
            }
        }
        r.end()?;
        let wrap = || Some(Wrap { nonce: nonce?, sealed: sealed?, commitment: commitment? });
        let slot = match kind {
            PASSPHRASE => (|| Some(Slot::Passphrase { salt: salt?, cost: cost?, wrap: wrap()? }))(),
            RECOVERY => wrap().map(Slot::Recovery),
            3.. if kind >= MUST_UNDERSTAND.into() => {
                return Err(FormatError::Newer { what: "key slot", version: kind });
            }
            3.. => Some(Slot::Other),
            _ => None,
        };
        slot.ok_or(r.malformed("a field is missing"))
    }
}

fn read_cost(r: &mut Reader<'_>) -> Result<Cost, FormatError> {
    r.array_of(3)?;
    let cost = Cost { memory_kib: r.u32()?, passes: r.u32()?, lanes: r.u32()? };
    kdf::check_cost(cost.memory_kib, cost.passes, cost.lanes).map_err(|error| match error {
        KdfError::BelowFloor => r.malformed("the cost of its key derivation is below the floor"),
        _ => r.malformed("the cost of its key derivation is above the ceiling"),
    })?;
    Ok(cost)
}

impl Header {
    /// Makes header 1 of a new vault with a passphrase slot and a recovery slot: object bytes, and the master key.
    /// The cost must lie between [`Cost::FLOOR`] and [`Cost::CEILING`].
    pub fn create(random: &Random, passphrase: &Passphrase, cost: Cost) -> (Vec<u8>, SecretKey, RecoveryKey) {
        let master = SecretKey::random(random);
        let recovery = RecoveryKey::new(random);
        let keys = Keys::from_master(&master);
        let salt = random.bytes();
        let kek = cost.stretch(passphrase, &salt).expect("a cost within bounds, and memory for it");
        let slots = [
            Slot::Passphrase { salt, cost, wrap: Wrap::make(random, &keys.vault, &kek, &master) },
            Slot::Recovery(Wrap::make(random, &keys.vault, &recovery.kek(), &master)),
        ];
        (seal(random, &keys, 1, &slots.map(|slot| slot.bytes())), master, recovery)
    }

    pub fn parse(number: u64, object: &[u8]) -> Result<Header, FormatError> {
        let malformed = |why| FormatError::Malformed { what: WHAT, why };
        let rest = object.strip_prefix(MAGIC).ok_or(malformed("it does not begin as the header of a vault"))?;
        let short = malformed("it is too short");
        let (version, rest) = rest.split_first_chunk().ok_or(short.clone())?;
        match u32::from_be_bytes(*version) {
            VERSION => {}
            0 => return Err(malformed("there is no version 0")),
            version => return Err(FormatError::Newer { what: WHAT, version: version.into() }),
        }
        if !padding::is_class(object.len()) || object.len() > CLASS_MIN {
            return Err(malformed("its length is not the smallest class"));
        }
        let (len, rest) = rest.split_first_chunk().ok_or(short.clone())?;
        let len = u32::from_be_bytes(*len) as usize;
        if len > CBOR_MAX {
            return Err(malformed("its content is longer than the object"));
        }
        let (vault, slots, raw) = read_content(&rest[..len])?;
        let mac = *rest[len..].first_chunk().ok_or(short)?;
        let covered = object[..PREFIX + len].into();
        Ok(Header { number, vault, hash: hash(object), slots, raw, covered, mac })
    }

    /// Tries each slot; a recovery key is accepted where a passphrase is.
    pub fn unlock(&self, passphrase: &Passphrase) -> Result<SecretKey, UnlockError> {
        self.unlock_slot(passphrase).map(|(_, master)| master)
    }

    /// As [`Header::unlock`], with the place of the slot that opened.
    pub fn unlock_slot(&self, passphrase: &Passphrase) -> Result<(usize, SecretKey), UnlockError> {
        if let Some(recovery) = RecoveryKey::from_passphrase(passphrase) {
            let kek = recovery.kek();
            for (at, slot) in self.slots.iter().enumerate() {
                let Slot::Recovery(wrap) = slot else { continue };
                if let Some(opened) = wrap.open(&self.vault, &kek) {
                    return Ok((at, self.verify(opened?)?));
                }
            }
        }
        for (at, slot) in self.slots.iter().enumerate() {
            let Slot::Passphrase { salt, cost, wrap } = slot else { continue };
            if let Some(opened) = wrap.open(&self.vault, &cost.stretch(passphrase, salt)?) {
                return Ok((at, self.verify(opened?)?));
            }
        }
        Err(UnlockError::WrongPassphrase)
    }

    /// Hands out the master key if this header was made with it, under this number.
    fn verify(&self, master: SecretKey) -> Result<SecretKey, UnlockError> {
        let keys = Keys::from_master(&master);
        let mac = mac(&keys, self.number, &self.covered);
        if keys.vault == self.vault && secret::equal(&mac, &self.mac) { Ok(master) } else { Err(UnlockError::Tampered) }
    }
}

fn mac(keys: &Keys, number: u64, covered: &[u8]) -> [u8; 32] {
    kdf::keyed_hash(&keys.header, &[header_name(number).as_bytes(), covered])
}

fn seal(random: &Random, keys: &Keys, number: u64, slots: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut w = Writer::new(Vec::new());
    w.map(2).uint(VAULT.into()).bytes(&keys.vault.0).uint(SLOTS.into()).array(slots.len());
    slots.iter().for_each(|slot| _ = w.raw(slot.as_ref()));
    let content = w.into_inner();
    assert!(content.len() <= CBOR_MAX && slots.len() <= SLOTS_MAX, "a header holds at most 16 slots");
    let len = content.len() as u32;
    let mut object = [&MAGIC[..], &VERSION.to_be_bytes(), &len.to_be_bytes(), &content].concat();
    let mac = mac(keys, number, &object);
    object.extend_from_slice(&mac);
    padding::pad(&mut object, random).expect("a header fits the smallest class");
    object
}

type Content = (VaultId, Vec<Slot>, Vec<Box<[u8]>>);

fn read_content(content: &[u8]) -> Result<Content, FormatError> {
    let mut r = Reader::new(WHAT, content);
    let (mut vault, mut slots, mut raw) = (None, Vec::new(), Vec::new());
    let mut fields = r.fields()?;
    while let Some(number) = r.next_field(&mut fields)? {
        match number {
            VAULT => vault = Some(VaultId(r.fixed()?)),
            SLOTS => {
                for _ in 0..r.array(SLOTS_MAX)? {
                    let bytes = r.raw()?;
                    slots.push(Slot::read(bytes)?);
                    raw.push(bytes.into());
                }
            }
            _ => r.skip_unknown(number)?,
        }
    }
    r.end()?;
    if slots.is_empty() {
        return Err(r.malformed("it has no key slot"));
    }
    Ok((vault.ok_or(r.malformed("a field is missing"))?, slots, raw))
}

/// A recovery key as it is shown once: text that a person can write down, checked by itself.
///
/// 256 bits and a checksum of 24 as Crockford's base32, in groups after a prefix that tells what it is. Case, blanks
/// and hyphens do not matter when it is read; O counts as 0, I and L as 1.
pub struct RecoveryKey(SecretKey);

const RECOVERY_PREFIX: &str = "dripfs-recovery-1";
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const CHECKSUM_LEN: usize = 3;
const TEXT_LEN: usize = (32 + CHECKSUM_LEN) * 8 / 5;
const GROUP: usize = 7;

impl RecoveryKey {
    pub fn new(random: &Random) -> RecoveryKey {
        RecoveryKey(SecretKey::random(random))
    }

    fn kek(&self) -> SecretKey {
        kdf::derive("dripfs 2026 recovery", &self.0)
    }

    fn checksum(&self) -> [u8; CHECKSUM_LEN] {
        let [a, b, c, ..] = *kdf::derive("dripfs 2026 recovery checksum", &self.0).as_bytes();
        [a, b, c]
    }

    fn from_passphrase(passphrase: &Passphrase) -> Option<RecoveryKey> {
        std::str::from_utf8(passphrase.as_bytes()).ok()?.parse().ok()
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

/// Shows the secret: for the one time that it is shown.
impl fmt::Display for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Zeroizing::new([0; 32 + CHECKSUM_LEN]);
        bytes[..32].copy_from_slice(self.0.as_bytes());
        bytes[32..].copy_from_slice(&self.checksum());
        f.write_str(RECOVERY_PREFIX)?;
        for digit in 0..TEXT_LEN {
            if digit % GROUP == 0 {
                f.write_str("-")?;
            }
            // Five bits from the two bytes that they can lie in.
            let (byte, bit) = (digit * 5 / 8, digit * 5 % 8);
            let pair = u16::from(bytes[byte]) << 8 | u16::from(*bytes.get(byte + 1).unwrap_or(&0));
            write!(f, "{}", char::from(ALPHABET[usize::from(pair >> (11 - bit)) & 31]))?;
        }
        Ok(())
    }
}

impl FromStr for RecoveryKey {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<RecoveryKey, FormatError> {
        let malformed = |why| FormatError::Malformed { what: "recovery key", why };
        let text = Zeroizing::new(text.trim().to_ascii_lowercase());
        let digits = text.strip_prefix(RECOVERY_PREFIX).ok_or(malformed("it begins with dripfs-recovery-1-"))?;
        let mut bytes = Zeroizing::new([0u8; 32 + CHECKSUM_LEN]);
        let mut count = 0;
        for digit in digits.bytes().filter(|&b| b != b'-' && !b.is_ascii_whitespace()) {
            let value = digit_value(digit).ok_or(malformed("it has a character that none has"))?;
            if count == TEXT_LEN {
                return Err(malformed("it is too long"));
            }
            let (byte, bit) = (count * 5 / 8, count * 5 % 8);
            let [high, low] = (u16::from(value) << (11 - bit)).to_be_bytes();
            bytes[byte] |= high;
            if let Some(next) = bytes.get_mut(byte + 1) {
                *next |= low;
            }
            count += 1;
        }
        if count != TEXT_LEN {
            return Err(malformed("it is too short"));
        }
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[..32]);
        let recovery = RecoveryKey(SecretKey::from_bytes(key));
        key.zeroize();
        if recovery.checksum() != bytes[32..] {
            return Err(malformed("its checksum is wrong: look for a mistyped character"));
        }
        Ok(recovery)
    }
}

fn digit_value(digit: u8) -> Option<u8> {
    let digit = match digit {
        b'o' => b'0',
        b'i' | b'l' => b'1',
        other => other,
    };
    ALPHABET.iter().position(|&known| known == digit).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.as_bytes().to_vec())
    }

    fn make() -> (Vec<u8>, SecretKey, RecoveryKey) {
        Header::create(&Random::Kernel, &passphrase("open sesame"), Cost::FLOOR)
    }

    /// Changes the CBOR of a header, and leaves the rest.
    fn patched(object: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
        let at = object.windows(from.len()).position(|window| window == from).expect("the bytes are there");
        [&object[..at], to, &object[at + from.len()..]].concat()
    }

    #[test]
    fn passphrase_and_recovery_key_unlock_and_nothing_else_does() {
        let (object, master, recovery) = make();
        assert_eq!(object.len(), CLASS_MIN);
        let header = Header::parse(1, &object).unwrap();
        assert_eq!(header.vault, Keys::from_master(&master).vault);
        assert_eq!(header.unlock(&passphrase("open sesame")).unwrap(), master);
        assert_eq!(header.unlock(&passphrase(&recovery.to_string())).unwrap(), master);
        assert_eq!(header.unlock(&passphrase(&format!(" {}\n", recovery.to_string().to_uppercase()))).unwrap(), master);
        for wrong in ["", "open sesame ", "Open sesame", &RecoveryKey(SecretKey::from_bytes([1; 32])).to_string()] {
            assert!(matches!(header.unlock(&passphrase(wrong)), Err(UnlockError::WrongPassphrase)), "{wrong}");
        }
    }

    #[test]
    fn a_header_that_was_changed_is_noticed_once_a_slot_opens() {
        let (object, master, recovery) = make();
        let unlock =
            |number, object: &[u8]| Header::parse(number, object).unwrap().unlock(&passphrase(&recovery.to_string()));
        assert_eq!(unlock(1, &object).unwrap(), master);
        assert!(matches!(unlock(2, &object), Err(UnlockError::Tampered)), "another number");
        let salt = Header::parse(1, &object).unwrap();
        let Slot::Passphrase { salt, .. } = &salt.slots[0] else { panic!("the first slot takes a passphrase") };
        let other = patched(&object, salt, &[7; 32]);
        assert!(matches!(unlock(1, &other), Err(UnlockError::Tampered)), "a changed slot");
        let cost = [0x83, 0x1a, 0, 1, 0, 0, 1, 1];
        let other = patched(&object, &cost, &[0x83, 0x1a, 0, 2, 0, 0, 1, 1]);
        assert!(matches!(unlock(1, &other), Err(UnlockError::Tampered)), "a changed cost");
        let vault = Keys::from_master(&master).vault;
        let other = patched(&object, &vault.0, &[7; 32]);
        assert!(matches!(unlock(1, &other), Err(UnlockError::Tampered)), "another vault's id");
    }

    #[test]
    fn what_could_exhaust_the_reader_is_refused_before_it_runs() {
        let (object, _, _) = make();
        let cost = [0x83, 0x1a, 0, 1, 0, 0, 1, 1];
        for (bad, why) in [
            ([0x83, 0x1a, 0, 0x10, 0, 1, 1, 1], "the cost of its key derivation is above the ceiling"),
            ([0x83, 0x1a, 0, 1, 0, 0, 17, 1], "the cost of its key derivation is above the ceiling"),
            ([0x83, 0x1a, 0, 1, 0, 0, 1, 5], "the cost of its key derivation is above the ceiling"),
            ([0x83, 0x1a, 0, 1, 0, 0, 0, 1], "the cost of its key derivation is below the floor"),
        ] {
            let parsed = Header::parse(1, &patched(&object, &cost, &bad)).map(drop);
            assert_eq!(parsed, Err(FormatError::Malformed { what: "key slot", why }));
        }
    }

    #[test]
    fn other_bytes_and_newer_versions_are_told_apart() {
        let (object, _, _) = make();
        let newer = patched(&object, b"dripfs\r\n\0\0\0\x01", b"dripfs\r\n\0\0\0\x02");
        assert_eq!(Header::parse(1, &newer).map(drop), Err(FormatError::Newer { what: WHAT, version: 2 }));
        let mut longer = object.clone();
        longer.push(0);
        for bad in [&[][..], b"dripfs\r\n", b"hello", &object[..100], &longer] {
            assert!(matches!(Header::parse(1, bad), Err(FormatError::Malformed { .. })));
        }
        for at in 0..PREFIX + 400 {
            let mut flipped = object.clone();
            flipped[at] ^= 0x40;
            let _ = Header::parse(1, &flipped);
        }
    }

    #[test]
    fn slots_of_later_kinds_are_passed_over_or_refused() {
        let read = |kind: &[u8]| {
            Slot::read(&[&[0xa2, 0x01], kind, &[0x02, 0x05]].concat()).map(|slot| match slot {
                Slot::Other => (),
                _ => panic!("that kind is not known"),
            })
        };
        assert_eq!(read(&[0x03]), Ok(()));
        assert_eq!(read(&[0x18, 127]), Ok(()));
        assert_eq!(read(&[0x18, 128]), Err(FormatError::Newer { what: "key slot", version: 128 }));
        assert!(Slot::read(&vec![0; SLOT_MAX + 1]).is_err());
    }

    #[test]
    fn a_recovery_key_survives_being_written_down() {
        for key in [[0; 32], [0xff; 32], std::array::from_fn(|k| (k * 37) as u8)] {
            let text = RecoveryKey(SecretKey::from_bytes(key)).to_string();
            assert_eq!(text.len(), RECOVERY_PREFIX.len() + 8 * (GROUP + 1));
            let read = |text: &str| text.parse::<RecoveryKey>().map(|key| *key.0.as_bytes());
            assert_eq!(read(&text), Ok(key));
            let digits = &text[RECOVERY_PREFIX.len()..];
            let misread = digits.to_uppercase().replace('0', "o").replace('1', "L");
            assert_eq!(read(&format!("DRIPFS-Recovery-1{misread}")), Ok(key));
            assert_eq!(read(&format!("  {}  ", text.replace("1-", "1 - "))), Ok(key));
            for at in RECOVERY_PREFIX.len() + 1..text.len() {
                let mut wrong = text.clone().into_bytes();
                if wrong[at] != b'-' {
                    wrong[at] = if wrong[at] == b'7' { b'8' } else { b'7' };
                    assert!(read(std::str::from_utf8(&wrong).unwrap()).is_err(), "one wrong character");
                }
            }
            assert!(read(&text[..text.len() - 1]).is_err());
            assert!(read(&format!("{text}0")).is_err());
            assert!(read("open sesame").is_err());
            assert_eq!(format!("{:?}", text.parse::<RecoveryKey>().unwrap()), "RecoveryKey(..)");
        }
    }
}
