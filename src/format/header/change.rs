//! A header's successor: with one slot more, one less, or another in its place.
//!
//! Owns which changes there are and what none may do. Does not own how a successor comes to count (vault, mount).
//!
//! Invariants: what is changed was authenticated first; slots that stay go on byte for byte, those of kinds that are not
//! known here too; one slot that this program can open always stays.

use thiserror::Error;

use super::{Cost, Header, RecoveryKey, SLOTS_MAX, Slot, UnlockError, Wrap, seal};
use crate::base::Random;
use crate::crypto::secret::Passphrase;
use crate::format::keys::Keys;

/// What is to become of the slots. They are counted from 1, as people do.
pub enum Change {
    Add(NewSlot),
    Remove(usize),
    /// In place of the slot that opened; or if that was a recovery key's, in place of the only passphrase.
    Replace(NewSlot),
}

pub enum NewSlot {
    Passphrase(Passphrase, Cost),
    Recovery(RecoveryKey),
}

#[derive(Debug, Error)]
pub enum ChangeError {
    #[error(transparent)]
    Unlock(#[from] UnlockError),
    #[error("there is no slot {0}: `dripfs key list` shows them")]
    NoSlot(usize),
    #[error("slot {0} is the last that this dripfs can open: without it nobody opens the vault")]
    Last(usize),
    #[error("a vault has at most {SLOTS_MAX} slots: remove one first")]
    Full,
    #[error(
        "the recovery key opened the vault, and there are {0} passphrases: which one is to be changed? Add a new one, and \
         remove what is lost"
    )]
    Which(usize),
}

/// A slot, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotView {
    /// From 1.
    pub number: usize,
    pub kind: SlotKind,
    /// It is the one that opened.
    pub opened: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SlotKind {
    Passphrase(Cost),
    Recovery,
    /// Of a later version of this program.
    Other,
}

/// A successor without its number, which its place in the store decides.
pub struct Draft {
    keys: Keys,
    slots: Vec<Box<[u8]>>,
}

impl Draft {
    pub fn seal(&self, random: &Random, number: u64) -> Vec<u8> {
        seal(random, &self.keys, number, &self.slots)
    }
}

impl Header {
    /// The slots, once one has opened.
    pub fn slots(&self, passphrase: &Passphrase) -> Result<Vec<SlotView>, UnlockError> {
        let (opened, _) = self.unlock_slot(passphrase)?;
        let view = |(at, slot): (usize, &Slot)| SlotView {
            number: at + 1,
            kind: match slot {
                Slot::Passphrase { cost, .. } => SlotKind::Passphrase(*cost),
                Slot::Recovery(_) => SlotKind::Recovery,
                Slot::Other => SlotKind::Other,
            },
            opened: at == opened,
        };
        Ok(self.slots.iter().enumerate().map(view).collect())
    }

    /// The successor, if the passphrase (or recovery key) opens this one.
    pub fn change(&self, random: &Random, passphrase: &Passphrase, change: &Change) -> Result<Draft, ChangeError> {
        let (opened, master) = self.unlock_slot(passphrase)?;
        let make = |new: &NewSlot| -> Result<Box<[u8]>, UnlockError> {
            let slot = match new {
                NewSlot::Passphrase(passphrase, cost) => {
                    let salt = random.bytes();
                    let kek = cost.stretch(passphrase, &salt)?;
                    Slot::Passphrase { salt, cost: *cost, wrap: Wrap::make(random, &self.vault, &kek, &master) }
                }
                NewSlot::Recovery(key) => Slot::Recovery(Wrap::make(random, &self.vault, &key.kek(), &master)),
            };
            Ok(slot.bytes())
        };
        let mut slots = self.raw.clone();
        match change {
            Change::Add(_) if slots.len() >= SLOTS_MAX => return Err(ChangeError::Full),
            Change::Add(new) => slots.push(make(new)?),
            Change::Remove(number) => {
                let at = number.checked_sub(1).filter(|at| *at < slots.len()).ok_or(ChangeError::NoSlot(*number))?;
                let others = self.slots.iter().enumerate().filter(|(other, _)| *other != at);
                if others.filter(|(_, slot)| !matches!(slot, Slot::Other)).count() == 0 {
                    return Err(ChangeError::Last(*number));
                }
                slots.remove(at);
            }
            Change::Replace(new) => slots[self.replaced(opened, new)?] = make(new)?,
        }
        Ok(Draft { keys: Keys::from_master(&master), slots })
    }

    /// Which slot a new one takes the place of.
    fn replaced(&self, opened: usize, new: &NewSlot) -> Result<usize, ChangeError> {
        match (&self.slots[opened], new) {
            (Slot::Recovery(_), NewSlot::Passphrase(..)) => {}
            _ => return Ok(opened),
        }
        let passphrases = self.slots.iter().enumerate().filter(|(_, slot)| matches!(slot, Slot::Passphrase { .. }));
        let places: Vec<usize> = passphrases.map(|(at, _)| at).collect();
        match places[..] {
            [at] => Ok(at),
            _ => Err(ChangeError::Which(places.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Passphrase {
        Passphrase::new(text.as_bytes().to_vec())
    }

    fn new(words: &str) -> NewSlot {
        NewSlot::Passphrase(text(words), Cost::FLOOR)
    }

    fn changed(header: &Header, by: &str, change: &Change) -> Result<Header, ChangeError> {
        let random = Random::Kernel;
        let draft = header.change(&random, &text(by), change)?;
        let number = header.number + 1;
        Ok(Header::parse(number, &draft.seal(&random, number)).unwrap())
    }

    fn made() -> (Header, RecoveryKey) {
        let (object, _, recovery) = Header::create(&Random::Kernel, &text("one"), Cost::FLOOR);
        (Header::parse(1, &object).unwrap(), recovery)
    }

    #[test]
    fn slots_come_and_go_and_the_master_key_stays() {
        let (first, recovery) = made();
        let master = first.unlock(&text("one")).unwrap();
        let second = changed(&first, "one", &Change::Add(new("two"))).unwrap();
        for opens in ["one", "two", &recovery.to_string()] {
            assert_eq!(second.unlock(&text(opens)).unwrap(), master, "{opens}");
        }
        let third = changed(&second, "two", &Change::Remove(1)).unwrap();
        assert!(matches!(third.unlock(&text("one")), Err(UnlockError::WrongPassphrase)));
        let fourth = changed(&third, "two", &Change::Replace(new("three"))).unwrap();
        assert!(fourth.unlock(&text("two")).is_err() && fourth.unlock(&text(&recovery.to_string())).is_ok());
        let kinds: Vec<_> = fourth.slots(&text("three")).unwrap().into_iter().map(|slot| slot.kind).collect();
        assert_eq!(kinds, [SlotKind::Recovery, SlotKind::Passphrase(Cost::FLOOR)]);
        assert_eq!(fourth.unlock(&text("three")).unwrap(), master);
    }

    #[test]
    fn a_lost_passphrase_is_replaced_with_the_recovery_key_if_it_is_clear_which() {
        let (first, recovery) = made();
        let recovery = recovery.to_string();
        let second = changed(&first, &recovery, &Change::Replace(new("again"))).unwrap();
        assert!(second.unlock(&text("one")).is_err() && second.unlock(&text("again")).is_ok());
        let third = changed(&second, "again", &Change::Add(new("other"))).unwrap();
        let error = changed(&third, &recovery, &Change::Replace(new("x"))).map(drop).unwrap_err();
        assert!(matches!(error, ChangeError::Which(2)));
        let key = RecoveryKey::new(&Random::Kernel);
        let words = key.to_string();
        let fourth = changed(&third, &recovery, &Change::Replace(NewSlot::Recovery(key))).unwrap();
        assert!(fourth.unlock(&text(&recovery)).is_err() && fourth.unlock(&text(&words)).is_ok());
    }

    #[test]
    fn the_last_slot_stays_and_there_is_a_most() {
        let (first, recovery) = made();
        let recovery = recovery.to_string();
        let last = changed(&first, "one", &Change::Remove(1)).unwrap();
        assert!(matches!(changed(&last, &recovery, &Change::Remove(1)), Err(ChangeError::Last(1))));
        assert!(matches!(changed(&last, &recovery, &Change::Remove(2)), Err(ChangeError::NoSlot(2))));
        assert!(matches!(changed(&last, &recovery, &Change::Remove(0)), Err(ChangeError::NoSlot(0))));
        assert!(matches!(changed(&first, "wrong", &Change::Remove(1)), Err(ChangeError::Unlock(_))));
        let mut full = last;
        for _ in 1..SLOTS_MAX {
            let add = Change::Add(NewSlot::Recovery(RecoveryKey::new(&Random::Kernel)));
            full = changed(&full, &recovery, &add).unwrap();
        }
        let add = Change::Add(NewSlot::Recovery(RecoveryKey::new(&Random::Kernel)));
        assert!(matches!(changed(&full, &recovery, &add), Err(ChangeError::Full)));
    }

    #[test]
    fn slots_of_later_kinds_go_on_as_they_are_and_do_not_count_as_a_way_in() {
        let (mut header, _) = made();
        let later: Box<[u8]> = [0xa2, 0x01, 0x05, 0x02, 0x43, 1, 2, 3].into();
        // As if a later program had made it.
        let keys = Keys::from_master(&header.unlock(&text("one")).unwrap());
        let slots = [header.raw[0].clone(), later.clone()];
        header = Header::parse(1, &seal(&Random::Kernel, &keys, 1, &slots)).unwrap();
        let next = changed(&header, "one", &Change::Replace(new("two"))).unwrap();
        assert_eq!(next.raw[1], later);
        assert!(matches!(changed(&next, "two", &Change::Remove(1)), Err(ChangeError::Last(1))));
    }
}
