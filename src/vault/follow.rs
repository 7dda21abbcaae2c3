//! Following the log: is the object under the next number the next one, and is the end the end? (E5, C6)
//!
//! The synchronous half: it is told what lies under a name and says what that means. Who asks the store, shows what was
//! found and waits between two looks is mount's follower. Owns the rule by which a follower knows that what it sees is the
//! newest state:
//!
//! - What does not continue the place, does not open, or belongs to an epoch that was over, may be what a late request put
//!   under a name whose object was removed. So it is never believed, and no proof of tampering by itself: the follower
//!   begins again from the newest checkpoint, and only what is wrong there is an error.
//! - What continues the place is believed once its newest commit, and the checkpoint which that names, were seen to stand
//!   after it was read ([`super::checkpoint::end`]): a fork that arrived late names a checkpoint that is gone.
//! - That there is nothing under the next number means that there is nothing newer, if the log could not have been cut
//!   meanwhile: a commit stands a minute at least after one came that covers it ([`GRACE`]). Half of that after the last
//!   such look, or when [`PROOF`] has passed, the newest commit and its checkpoint are looked at too. So a follower that
//!   finds nothing makes one request a look, and two more a minute.

use std::time::Duration;

use tokio::time::Instant;

use super::checkpoint::remove::GRACE;
use super::walk::{NewestCommit, Walked};
use crate::base::{Epoch, Sequence, Timestamp};
use crate::crypto::kdf;
use crate::format::commit::{Body, ChainLink, Commit, Hash, LogObject, log_name};
use crate::format::keys::Keys;

/// The end is proven anew after so long at the latest.
pub const PROOF: Duration = Duration::from_secs(60);

/// A place in the log: up to here it was read.
#[derive(Clone, Debug)]
pub struct Place {
    pub link: ChainLink,
    /// The epoch that reigns there.
    pub epoch: Epoch,
    /// The newest commit at or before.
    pub commit: NewestCommit,
    /// As the newest log object names it.
    pub header: (u64, Hash),
}

impl Place {
    pub fn of(walked: &Walked) -> Place {
        Place {
            link: walked.newest.link,
            epoch: walked.newest.epoch,
            commit: walked.commit.clone(),
            header: walked.header,
        }
    }

    pub fn next(&self) -> Sequence {
        Sequence(self.link.sequence.0 + 1)
    }

    /// The place after the object under the next number, and its commit, if it is one. The error says why it is not what
    /// comes next.
    pub fn after(&self, keys: &Keys, bytes: &[u8]) -> Result<(Place, Option<Commit>), String> {
        let sequence = self.next();
        let name = log_name(sequence);
        let object = LogObject::open(keys, sequence, bytes).map_err(|error| format!("{name}: {error}"))?;
        object.check_next(&self.link.hash, self.epoch).map_err(|why| format!("{name} {why}"))?;
        let link = ChainLink { sequence, hash: kdf::hash(bytes) };
        let (epoch, header) = (object.epoch, object.header);
        let (commit, body) = match object.body {
            Body::Epoch { .. } => (self.commit.clone(), None),
            Body::Commit(commit) => (NewestCommit::new(link, commit.cut, object.time, object.checkpoint), Some(commit)),
        };
        Ok((Place { link, epoch, commit, header }, body))
    }
}

/// When the end of the log was looked at, on two clocks: one stands still while the machine sleeps, the other is set by
/// people.
#[derive(Clone, Copy, Debug, Default)]
pub struct Looks {
    /// Nothing was under the next number.
    last: Option<(Instant, Timestamp)>,
    /// ... and the newest commit and its checkpoint stood afterwards.
    proven: Option<Instant>,
}

impl Looks {
    /// A look that began at `began` found nothing under the next number: must the end be proven?
    pub fn must_prove(&self, began: (Instant, Timestamp)) -> bool {
        let (Some((at, wall)), Some(proven)) = (self.last, self.proven) else { return true };
        let slept = began.1.secs.abs_diff(wall.secs) >= GRACE.as_secs() / 2;
        slept || began.0.duration_since(at) >= GRACE / 2 || began.0.duration_since(proven) >= PROOF
    }

    /// A look that began then found the end, proven or not.
    pub fn ended(&mut self, began: (Instant, Timestamp), is_proven: bool) {
        self.last = Some(began);
        if is_proven {
            self.proven = Some(began.0);
        }
    }

    /// When the log was last looked at to its end.
    pub fn last(&self) -> Option<Instant> {
        self.last.map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ObjectId, Position, Random};
    use crate::crypto::secret::Key;
    use crate::format::commit::BlockRef;

    fn keys() -> Keys {
        Keys::from_master(&Key::from_bytes([3; 32]))
    }

    fn object(sequence: u64, previous: Hash, epoch: u32, body: Body) -> Vec<u8> {
        let object = LogObject {
            sequence: Sequence(sequence),
            previous,
            epoch: Epoch(epoch),
            header: (1, [1; 32]),
            checkpoint: (ObjectId([2; 16]), [2; 32]),
            block: Some(BlockRef { file: crate::base::FileId([1; 16]), position: Position(1), tag: [1; 16] }),
            host: String::new(),
            time: Timestamp { secs: 5, nanos: 0 },
            body,
        };
        object.seal(&keys(), &Random::Kernel).expect("it fits")
    }

    fn place() -> Place {
        let link = ChainLink { sequence: Sequence(4), hash: [4; 32] };
        Place {
            link,
            epoch: Epoch(2),
            commit: NewestCommit::new(link, Position(9), Timestamp::default(), (ObjectId([2; 16]), [2; 32])),
            header: (1, [1; 32]),
        }
    }

    fn commit() -> Body {
        Body::Commit(Commit { cut: Position(12), ..Commit::default() })
    }

    #[test]
    fn e5_only_what_continues_the_log_is_followed() {
        let (place, writer) = (place(), Body::Epoch { writer: [7; 16] });
        let (next, body) = place.after(&keys(), &object(5, [4; 32], 2, commit())).unwrap();
        assert_eq!((next.link.sequence, next.commit.cut), (Sequence(5), Position(12)));
        assert!(body.is_some());
        let (taken, body) = place.after(&keys(), &object(5, [4; 32], 3, writer.clone())).unwrap();
        assert_eq!((taken.epoch, taken.commit.cut, body), (Epoch(3), Position(9), None));
        for (what, bytes) in [
            ("of another chain", object(5, [9; 32], 2, commit())),
            ("of another number", object(6, [4; 32], 2, commit())),
            ("of an epoch that was over", object(5, [4; 32], 1, commit())),
            ("of an epoch that has not begun", object(5, [4; 32], 3, commit())),
            ("an epoch that was over", object(5, [4; 32], 2, writer)),
            ("something else", vec![7; 65 << 10]),
        ] {
            assert!(place.after(&keys(), &bytes).is_err(), "{what}");
        }
    }

    #[test]
    fn c6_the_end_is_proven_first_after_a_pause_and_each_minute() {
        let (start, wall) = (Instant::now(), |secs| Timestamp { secs: 1000 + secs, nanos: 0 });
        let at = |secs: u64| (start + Duration::from_secs(secs), wall(secs as i64));
        let mut looks = Looks::default();
        assert!(looks.must_prove(at(0)), "never looked");
        looks.ended(at(0), true);
        for secs in (5..60).step_by(5) {
            assert!(!looks.must_prove(at(secs)), "after {secs} s");
            looks.ended(at(secs), false);
        }
        assert!(looks.must_prove(at(60)), "a minute");
        looks.ended(at(60), true);
        assert!(looks.must_prove(at(90)), "a pause of half the grace");
        assert!(looks.must_prove((start + Duration::from_secs(61), wall(500))), "the machine slept");
    }
}
