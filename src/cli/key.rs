//! `key`: what opens a vault.

use std::io::Write;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::args::{Key, KeyPlace, NewVault, Passphrase, Takeover};
use super::exit::{self, Failure};
use super::{mount, options, passphrase, profile, runtime};
use crate::base::Random;
use crate::format::header::change::{Change, NewSlot, SlotKind, SlotView};
use crate::format::header::{Cost, RecoveryKey};
use crate::mount::drive::{Closed, DriveOptions, keys};
use crate::mount::{environment, new_vault, state_dir};
use crate::store::{self, Store};
use crate::vault::VaultError;

pub fn key(command: &Key) -> Result<u8, Failure> {
    match command {
        Key::List(place) => list(place),
        Key::Add { place, recovery: true, made, takeover, .. } => {
            add_recovery(place, made.recovery_file.as_deref(), takeover)
        }
        Key::Add { place, new, made, takeover, .. } => {
            let cost = mount::new_vault_request(made)?.cost();
            change(place, takeover, |url| Ok(Change::Add(NewSlot::Passphrase(passphrase::get_new(new, url)?, cost))))
        }
        Key::Remove { place, slot, takeover } => change(place, takeover, |_| Ok(Change::Remove(*slot))),
        Key::Change { place, new, kdf_memory, takeover } => {
            let made = NewVault { recovery_file: None, kdf_memory: *kdf_memory };
            let cost = mount::new_vault_request(&made)?.cost();
            change(place, takeover, |url| {
                Ok(Change::Replace(NewSlot::Passphrase(passphrase::get_new(new, url)?, cost)))
            })
        }
    }
}

/// A vault that is not mounted here, and what is to be known of it before anything is asked.
struct Place {
    store: Store,
    options: DriveOptions,
    passphrase: Passphrase,
    /// Nobody else uses the state while this is held.
    _lock: state_dir::Lock,
}

fn place(asked: &KeyPlace, takeover: bool) -> Result<Place, Failure> {
    let profile = profile::find(&asked.url, &environment)?;
    let (url, options, of_profile) = match profile {
        Some(profile) => (profile.url, profile.options, profile.passphrase),
        None => (asked.url.clone(), options::MountOptions::default(), Passphrase::default()),
    };
    let store = store::open(&url)?;
    if store.is_read_only() {
        return Err(mount::only_readable(&store));
    }
    let explicit = asked.state.as_deref().or(options.state.as_deref());
    let root = rustix::process::geteuid().is_root();
    let state = state_dir::choose(explicit, store.url(), &environment, root)?;
    let stands = runtime()?.block_on(new_vault::stands(&store))?;
    if !stands {
        state_dir::refuse_if_known(&state, store.url())?;
        return Err(VaultError::NotFound { url: store.url().to_owned() }.into());
    }
    state_dir::prepare(&state)?;
    let _lock = state_dir::lock(&state).map_err(|error| match error {
        VaultError::StateInUse { .. } => Failure::new(
            exit::IN_USE,
            format!(
                "the vault {} is mounted here, or another command works on it: unmount it first (`dripfs status` lists what \
                 is mounted)",
                store.url()
            ),
        ),
        error => error.into(),
    })?;
    let drive = mount::drive_options(&options, store.url(), state);
    let passphrase = match asked.passphrase.is_given() {
        true => asked.passphrase.clone(),
        false => of_profile,
    };
    Ok(Place { store, options: DriveOptions { takeover, ..drive }, passphrase, _lock })
}

fn list(asked: &KeyPlace) -> Result<u8, Failure> {
    let place = place(asked, false)?;
    let opens = passphrase::get(&place.passphrase, &environment, place.store.url(), false)?;
    let slots = runtime()?.block_on(keys::slots(&place.store, opens, &place.options));
    let slots = slots.map_err(|error| Failure::from(error).at(place.store.url()))?;
    let text: String = slots.iter().map(line).collect();
    // A closed pipe takes nothing away.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(exit::OK)
}

fn line(slot: &SlotView) -> String {
    let what = match &slot.kind {
        SlotKind::Passphrase(Cost { memory_kib, passes, lanes }) => {
            format!("passphrase (Argon2id, {} MiB, {passes} passes, {lanes} lanes)", memory_kib / 1024)
        }
        SlotKind::Recovery => "recovery key".to_owned(),
        SlotKind::Other => "of a later version of dripfs".to_owned(),
    };
    let opened = if slot.opened { "  <- the one that you gave" } else { "" };
    format!("{:>2}  {what}{opened}\n", slot.number)
}

fn change(
    asked: &KeyPlace,
    takeover: &Takeover,
    make: impl FnOnce(&str) -> Result<Change, Failure>,
) -> Result<u8, Failure> {
    let place = place(asked, takeover.takeover)?;
    let opens = passphrase::get(&place.passphrase, &environment, place.store.url(), false)?;
    let change = make(place.store.url())?;
    let closed = runtime()?.block_on(keys::change(&place.store, opens, &place.options, change));
    let closed = closed.map_err(|error| Failure::from(error).at(place.store.url()))?;
    done(&place.store, closed)
}

fn add_recovery(asked: &KeyPlace, file: Option<&Path>, takeover: &Takeover) -> Result<u8, Failure> {
    let place = place(asked, takeover.takeover)?;
    let opens = passphrase::get(&place.passphrase, &environment, place.store.url(), false)?;
    let key = RecoveryKey::new(&Random::Kernel);
    let text = Zeroizing::new(key.to_string());
    // It is kept before it opens anything.
    let kept: Option<PathBuf> = file.map(Path::to_owned);
    if let Some(path) = &kept {
        new_vault::keep_recovery(path, &text)?;
    }
    let work = keys::change(&place.store, opens, &place.options, Change::Add(NewSlot::Recovery(key)));
    let closed = match runtime()?.block_on(work) {
        Ok(closed) => closed,
        Err(error) => {
            if let Some(path) = kept {
                log::warn!("{}: look with `dripfs key list` whether this key opens anything", path.display());
            }
            return Err(Failure::from(error).at(place.store.url()));
        }
    };
    match &kept {
        Some(path) => mount::say_recovery_written(path),
        None => mount::show_recovery_key(&text)?,
    }
    done(&place.store, closed)
}

fn done(store: &Store, closed: Closed) -> Result<u8, Failure> {
    eprintln!("dripfs: the keys of {} are changed", store.url());
    match closed {
        Closed::Drained => Ok(exit::OK),
        Closed::Pending(bytes) => Err(exit::not_drained(bytes)),
    }
}
