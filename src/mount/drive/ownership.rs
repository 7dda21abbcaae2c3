//! Whose the newest log object is (C4), whether this machine may write (E2), and what becomes of a journal that does not go
//! on from there (E3).

use super::*;

/// Decides whose the newest log object is (C4), whether this machine may write (E2), and what becomes of a journal
/// that does not go on from there (E3).
pub(super) fn settle_ownership(
    world: &World,
    keys: &Arc<Keys>,
    recovered: Recovered,
    newest: &walk::Newest,
    commit: &walk::NewestCommit,
    takeover: bool,
) -> Result<Recovered, VaultError> {
    let own = newest.block.is_some_and(|block| recovered.blocks.contains(&block));
    if own {
        let Some(why) = hole(&recovered, commit.cut) else { return Ok(recovered) };
        if !takeover {
            let why = format!("{why}; `--takeover` sets what is left aside and goes on from the vault");
            return Err(VaultError::State { path: JOURNAL_DIR.to_owned(), why });
        }
    }
    // The file of the block that the vault names is here, the block is not: damage, or an older copy of the directory.
    if !takeover
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
    if !newest.idle && !takeover {
        return Err(VaultError::InUse { host: newest.host.clone(), time: show(commit.time) });
    }
    // Nothing of ours is in it: foreign history is simply followed (E3). The journal stays, for it knows the block of an
    // epoch record that an earlier try of this machine sent and that may still arrive (C4).
    if recovered.changes.iter().all(|(_, change)| change.records.is_empty()) {
        return Ok(recovered);
    }
    let kept = recovered.took.and_then(|(_, cut)| cut).unwrap_or_default();
    let uncommitted =
        recovered.changes.iter().filter(|(at, c)| *at > kept && !c.orphan && !c.records.is_empty()).count();
    let all_known = recovered.took.is_some() && uncommitted == 0;
    drop(recovered);
    if all_known {
        // E3: all of it is in the vault, and foreign history is simply followed.
        drop_journal(world)?;
        return Ok(Journal::recover(world.disk.clone(), JOURNAL_DIR, keys.clone(), Position(0))?);
    }
    let aside = format!("aside/{:020}-{}", newest.link.sequence.0, world.clock.now().secs);
    Journal::set_aside(&*world.disk, JOURNAL_DIR, &aside)?;
    if uncommitted > 0 {
        log::warn!(
            "another machine has written to the vault since: {uncommitted} changes of this machine that the vault \
             lacks are set aside in {aside} of the state directory"
        );
    }
    Ok(Journal::recover(world.disk.clone(), JOURNAL_DIR, keys.clone(), Position(0))?)
}

/// What an own journal lacks between the vault's cut and its own end: it keeps what no commit holds (J5).
fn hole(recovered: &Recovered, cut: Position) -> Option<&'static str> {
    if recovered.end < cut {
        Some("the journal ends before what it has committed: files were removed or cut")
    } else if recovered.begins > cut {
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

/// A point in time for people: UTC, to the second (RFC 3339).
fn show(time: Timestamp) -> String {
    humantime::format_rfc3339_seconds(time.to_system()).to_string()
}
