//! Whose the newest log object is (C4), whether this machine may write (E2), and what becomes of a journal that does not go
//! on from there (E3).
//!
//! Invariant: a journal that holds changes which the vault lacks is gone on from, or set aside whole with its index;
//! never joined to another history, never dropped.

use std::sync::Arc;

use super::{JOURNAL_DIR, World, show};
use crate::base::{Epoch, Position, plants};
use crate::format::keys::Keys;
use crate::history;
use crate::index;
use crate::journal::{Journal, Recovered};
use crate::mount::indexer::Looked;
use crate::vault::VaultError;
use crate::vault::aside::{self, About, SetAside};
use crate::vault::pin::{Pin, Standing};

/// What the mount was told, and what this machine knew.
pub(super) struct Claims {
    pub takeover: bool,
    /// The vault is not what this machine has seen, and the user accepts that.
    pub rolled_back: bool,
    pub pin: Option<Pin>,
    pub standing: Standing,
}

/// What the mount goes on from.
pub(super) struct Settled {
    pub recovered: Recovered,
    /// Positions must lie above this too (J3).
    pub above: Position,
    pub aside: Option<SetAside>,
}

/// Decides all of it; sets journal and index aside where another history stands.
pub(super) fn settle(
    world: &World,
    keys: &Arc<Keys>,
    recovered: Recovered,
    looked: &mut Looked,
    claims: &Claims,
) -> Result<Settled, VaultError> {
    aside::settle(&*world.disk)?;
    let (newest, commit) = (&looked.walked.newest, &looked.walked.commit);
    let own = newest.block.is_some_and(|block| recovered.blocks.contains(&block));
    if own && !claims.rolled_back {
        let Some(why) = hole(&recovered, commit.cut) else {
            return Ok(Settled { recovered, above: Position(0), aside: None });
        };
        if !claims.takeover {
            let why = format!("{why}; `--takeover` sets what is left aside and goes on from the vault");
            return Err(VaultError::State { path: JOURNAL_DIR.to_owned(), why });
        }
    }
    // The file of the block that the vault names is here, the block is not: damage, or an older copy of the directory.
    if !claims.takeover
        && !own
        && let Some(block) = newest.block
        && recovered.blocks.iter().any(|known| known.file == block.file)
    {
        return Err(VaultError::State {
            path: JOURNAL_DIR.to_owned(),
            why: "the journal lacks what the vault has from it: it is damaged, or an older copy was put back; \
                  `--takeover` sets it aside and goes on from the vault"
                .to_owned(),
        });
    }
    if !newest.idle && !claims.takeover && !own {
        let (url, host) = (world.store.url().to_owned(), newest.host.clone());
        return Err(VaultError::InUse { url, host, time: show(commit.time) });
    }
    // Nothing of ours is in it: foreign history is simply followed (E3). The journal stays, for it knows the block of an
    // epoch record that an earlier try of this machine sent and that may still arrive (C4).
    let empty = recovered.changes.iter().all(|(_, change)| change.records.is_empty());
    if (empty && !claims.rolled_back) || plants::on("E3-journal-joined") {
        return Ok(Settled { recovered, above: Position(0), aside: None });
    }
    let kept = recovered.took.and_then(|(_, cut)| cut).unwrap_or_default();
    let (cut, low) = match claims.rolled_back {
        // How much of the contents an older commit had is not known.
        true => (kept.min(commit.cut), Position(0)),
        false => (kept, recovered.low),
    };
    let (end, knows) = (recovered.end, recovered.took.is_some());
    let uncommitted = history::count_lacking(&recovered.changes, (cut, low));
    drop(recovered);
    let mut aside = None;
    if knows && uncommitted == 0 {
        // E3: all of it is in the vault, and foreign history is simply followed.
        drop_journal(world)?;
    } else {
        let shared = shared_epoch(claims, newest.epoch);
        let why = match claims.rolled_back {
            true => "the vault was put back to an older state",
            false => "another machine has written to the vault",
        };
        let link = claims.pin.map_or(newest.link, |pin| pin.link);
        let about = About::new(world.clock.now(), uncommitted, (cut, low), shared, link, why);
        looked.let_go();
        aside = Some(aside::set_aside(&*world.disk, JOURNAL_DIR, index::WRITER_DIR, about)?);
    }
    let recovered = Journal::recover(world.disk.clone(), JOURNAL_DIR, keys.clone(), Position(0))?;
    Ok(Settled { recovered, above: end, aside })
}

/// Up to which epoch numbers mean the same in the vault and in this machine's journal.
fn shared_epoch(claims: &Claims, newest: Epoch) -> Epoch {
    let known = claims.pin.map_or(newest, |pin| pin.epoch);
    match claims.standing.reserved {
        // The vault has no record of it, or another machine's.
        Some(reserved) => known.min(Epoch(reserved.0.saturating_sub(1))),
        None if claims.rolled_back => known.min(newest),
        None => known,
    }
}

/// What an own journal lacks between what the vault has for certain and its own end: it keeps what no commit holds (J5).
pub(super) fn hole(recovered: &Recovered, cut: Position) -> Option<&'static str> {
    log::debug!(
        "the journal goes from {} to {}, the vault has it up to {cut}; it last noted {:?}",
        recovered.begins,
        recovered.end,
        recovered.took
    );
    if recovered.end < cut {
        Some("the journal ends before what it has committed: files were removed or cut")
    } else if recovered.begins > recovered.low.min(cut) {
        Some("the journal begins after what it has committed: its oldest files were removed")
    } else {
        None
    }
}

/// Removes a journal that holds nothing new, oldest file first (J5), so that what a crash leaves is a journal too.
fn drop_journal(world: &World) -> Result<(), VaultError> {
    let failed = |e: std::io::Error| VaultError::State { path: JOURNAL_DIR.to_owned(), why: e.to_string() };
    for name in world.disk.list(JOURNAL_DIR).map_err(failed)? {
        world.disk.remove(&format!("{JOURNAL_DIR}/{name}")).map_err(failed)?;
        world.disk.sync_dir(JOURNAL_DIR).map_err(failed)?;
    }
    Ok(())
}
