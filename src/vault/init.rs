//! Making a vault: the empty first checkpoint, the first commit, and last the header, whose creation makes it a vault.
//!
//! Invariant: nothing lies in the store before the caller had the recovery key to keep.

use bytes::Bytes;

use super::VaultError;
use crate::base::{Clock, Epoch, Ino, ObjectId, Position, Random, Sequence, VaultId};
use crate::crypto::kdf;
use crate::crypto::secret::Passphrase;
use crate::format::checkpoint::Manifest;
use crate::format::commit::{Body, Commit, LogObject, checkpoint_name, log_name};
use crate::format::header::{Cost, Header, RecoveryKey, header_name};
use crate::format::key::Key;
use crate::format::keys::Keys;
use crate::format::record::{Inode, Record};
use crate::store::retry::Backoff;
use crate::store::{Created, PROBE_PREFIX, Store, StoreError};

/// The first header's number.
pub const FIRST_HEADER: u64 = 1;
/// The first commit's sequence number.
const FIRST_SEQUENCE: Sequence = Sequence(1);

/// A vault in memory: nothing of it lies in the store yet.
pub struct Prepared {
    pub vault: VaultId,
    /// To be put where it lasts before [`Prepared::make`].
    pub recovery: RecoveryKey,
    /// In the order in which they are created: the header last.
    objects: [(String, Bytes); 3],
}

/// Why no vault was made.
#[derive(Debug)]
pub struct Failed {
    pub error: VaultError,
    /// The last object was sent, and no answer says that it does not stand: there may be a vault, now or later.
    pub may_stand: bool,
}

/// How often an object of a new vault is sent to a store that does not answer.
const TRIES: u32 = 3;

/// Makes a vault where there is none. The root directory belongs to `owner` (uid, gid), mode 0755.
pub async fn init(
    store: &Store,
    passphrase: &Passphrase,
    cost: Cost,
    owner: (u32, u32),
    random: &Random,
    clock: &Clock,
) -> Result<(VaultId, RecoveryKey), VaultError> {
    let prepared = prepare(store, passphrase, cost, owner, random, clock).await?;
    prepared.make(store).await.map_err(|failed| failed.error)?;
    Ok((prepared.vault, prepared.recovery))
}

/// Looks whether a vault can be made there, and seals what it begins with.
pub async fn prepare(
    store: &Store,
    passphrase: &Passphrase,
    cost: Cost,
    owner: (u32, u32),
    random: &Random,
    clock: &Clock,
) -> Result<Prepared, VaultError> {
    store.make_root().await?;
    refuse_what_is_there(store).await?;
    store.probe().await?;
    let (header, master, recovery) = Header::create(random, passphrase, cost);
    let keys = Keys::from_master(&master);
    let checkpoint = ObjectId(random.bytes());
    let too_large = || VaultError::Tampered("the first objects do not fit a padding class".to_owned());
    let manifest = Manifest::default().seal(&keys, random, checkpoint).ok_or_else(too_large)?;
    let commit = LogObject {
        sequence: FIRST_SEQUENCE,
        previous: [0; 32],
        epoch: Epoch(0),
        header: (FIRST_HEADER, kdf::hash(&header)),
        checkpoint: (checkpoint, kdf::hash(&manifest)),
        block: None,
        host: super::epoch::host_name(),
        time: clock.now(),
        body: Body::Commit(first_commit(owner, clock)),
    };
    let commit = commit.seal(&keys, random).ok_or_else(too_large)?;
    let objects = [
        (checkpoint_name(checkpoint), manifest.into()),
        (log_name(FIRST_SEQUENCE), commit.into()),
        (header_name(FIRST_HEADER), header.into()),
    ];
    Ok(Prepared { vault: keys.vault, recovery, objects })
}

impl Prepared {
    /// Creates the vault's objects.
    pub async fn make(&self, store: &Store) -> Result<(), Failed> {
        let [manifest, commit, header] = &self.objects;
        for (name, object) in [manifest, commit] {
            create(store, name, object).await.map_err(|failed| Failed { may_stand: false, ..failed })?;
        }
        create(store, &header.0, &header.1).await
    }
}

fn first_commit(owner: (u32, u32), clock: &Clock) -> Commit {
    let now = clock.now();
    let root = Inode::root(owner, now);
    Commit {
        cut: Position(0),
        idle: true,
        records: vec![(Key::inode(Ino::ROOT), Some(Record::Inode(root).into()))],
        ..Commit::default()
    }
}

async fn refuse_what_is_there(store: &Store) -> Result<(), VaultError> {
    let url = store.url().to_owned();
    if !store.list("header/", 1).await?.is_empty() {
        return Err(VaultError::Exists { url });
    }
    match store.list("", 16).await?.into_iter().find(|name| !name.starts_with(PROBE_PREFIX)) {
        Some(example) => Err(VaultError::ForeignFiles { url, example }),
        None => Ok(()),
    }
}

/// Creates an object; an answer that was lost makes it look as if it had been there.
async fn create(store: &Store, name: &str, object: &Bytes) -> Result<(), Failed> {
    let mut may_stand = false;
    let mut tries = 0;
    loop {
        tries += 1;
        let result = match store.create(name, object.clone()).await {
            Ok(Created::New) => return Ok(()),
            Ok(Created::Exists) => store.get(name).await,
            Err(error) => Err(error),
        };
        let error = match result {
            Ok(Some(standing)) if standing == *object => return Ok(()),
            // Another init was quicker, and nothing of ours can come to stand there any more.
            Ok(Some(_)) => {
                return Err(Failed { error: VaultError::Exists { url: store.url().to_owned() }, may_stand: false });
            }
            Ok(None) => {
                StoreError::Unavailable { name: name.to_owned(), why: "what stands there is not to be had".to_owned() }
            }
            Err(error) => error,
        };
        let passes = matches!(error, StoreError::Unavailable { .. });
        may_stand |= passes;
        if tries >= TRIES || !passes {
            return Err(Failed { error: error.into(), may_stand });
        }
        log::warn!("{name}: try {tries} failed: {error}");
        tokio::time::sleep(Backoff::default().first * tries).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::faulty::{Fault, Faulty};

    async fn prepared(store: &Store) -> Prepared {
        let passphrase = Passphrase::new(b"x".to_vec());
        prepare(store, &passphrase, Cost::FLOOR, (0, 0), &Random::Kernel, &Clock::System).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_answer_to_any_create_of_a_new_vault_is_made_good() {
        let faulty = Faulty::new(Fault::LoseAnswer, 0);
        let store = Store::over(faulty.clone(), "memory:///");
        let prepared = prepared(&store).await;
        assert!(store.list("", 1).await.unwrap().is_empty(), "nothing stands before the recovery key is safe");
        // Each put's answer is lost once; the next try meets what stands.
        faulty.strike(5);
        prepared.make(&store).await.unwrap();
        assert_eq!(store.list("", 9).await.unwrap().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unclear_outcome_is_told_from_a_clear_one() {
        for (fault, struck, may_stand) in [(Fault::Down, 9, true), (Fault::Refuse, 9, false)] {
            let faulty = Faulty::new(fault, 0);
            let store = Store::over(faulty.clone(), "memory:///");
            let prepared = prepared(&store).await;
            for (name, object) in &prepared.objects[..2] {
                create(&store, name, object).await.unwrap();
            }
            let (name, header) = &prepared.objects[2];
            faulty.strike(struck);
            assert_eq!(create(&store, name, header).await.unwrap_err().may_stand, may_stand, "{fault:?}");
        }
        let store = Store::over(Faulty::new(Fault::Down, 0), "memory:///");
        let prepared = prepared(&store).await;
        store.create(&header_name(FIRST_HEADER), Bytes::from_static(b"another's")).await.unwrap();
        let failed = prepared.make(&store).await.unwrap_err();
        assert!(!failed.may_stand && matches!(failed.error, VaultError::Exists { .. }), "{failed:?}");
    }
}
