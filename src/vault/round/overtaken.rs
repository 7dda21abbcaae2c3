//! Has somebody taken the vault over while this process stood still? (E3)
//!
//! A writer that is overtaken meets its successor's epoch record where its next commit would be. One that works does so
//! within seconds. One that wakes up may have nothing to send for long, or much that goes out before its commit, and
//! meanwhile it would acknowledge what can only be set aside. So after a standstill, and only then, the place is looked at.
//!
//! Does not own what a fenced mount does ([`super`]), nor what a commit does that finds its place taken ([`super::commit`]).

use super::Rounds;
use crate::base::Sequence;
use crate::base::standstill::Standstill;
use crate::format::commit::{Body, LogObject, log_name};
use crate::store::retry::Stopped;

impl Rounds {
    /// Returns when it was found, after a standstill, that the vault is another's now.
    pub(super) async fn overtaken(&self) {
        let mut still = Standstill::new(self.clock.clone());
        let mut took = still.ended().await;
        loop {
            log::info!("this process stood still for about {} s: whose the vault is, is looked at", took.as_secs());
            let found = tokio::select! {
                biased;
                // An answer that was on its way may be from before.
                again = still.ended() => {
                    took = again;
                    continue;
                }
                found = self.is_overtaken() => found,
            };
            match found {
                Ok(true) => return,
                Ok(false) | Err(Stopped::Cancelled) => {}
                Err(error) => log::warn!("{error}: whose the vault is shows at the next commit"),
            }
            took = still.ended().await;
        }
    }

    /// A round may be under way: where its own commit stands already, the place after that counts.
    async fn is_overtaken(&self) -> Result<bool, Stopped> {
        let mut place = Sequence(self.chain.lock().newest.sequence.0 + 1);
        while let Some(object) = self.remote.get(&log_name(place)).await? {
            let object = match LogObject::open(&self.keys, place, &object) {
                Ok(object) => object,
                // Where a network answers for the store (a portal, a proxy), that ends no reign: the next commit decides.
                Err(error) => {
                    log::warn!("what is found at {} is none of this vault's log: {error}", log_name(place));
                    return Ok(false);
                }
            };
            if object.epoch != self.reign.epoch || !matches!(object.body, Body::Commit(_)) {
                return Ok(true);
            }
            place.0 += 1;
        }
        Ok(false)
    }
}
