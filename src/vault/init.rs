//! Making a vault: the empty first checkpoint, the first commit, and last the header, whose creation makes it a vault.

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
use crate::store::{Created, PROBE_PREFIX, Store};

/// The first header's number.
pub const FIRST_HEADER: u64 = 1;
/// The first commit's sequence number.
pub const FIRST_SEQUENCE: Sequence = Sequence(1);

/// Makes a vault where there is none. The root directory belongs to `owner` (uid, gid), mode 0755.
pub async fn init(
    store: &Store,
    passphrase: &Passphrase,
    cost: Cost,
    owner: (u32, u32),
    random: &Random,
    clock: &Clock,
) -> Result<(VaultId, RecoveryKey), VaultError> {
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
    create(store, &checkpoint_name(checkpoint), manifest).await?;
    create(store, &log_name(FIRST_SEQUENCE), commit).await?;
    create(store, &header_name(FIRST_HEADER), header).await?;
    Ok((keys.vault, recovery))
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

async fn create(store: &Store, name: &str, object: Vec<u8>) -> Result<(), VaultError> {
    match store.create(name, Bytes::from(object)).await? {
        Created::New => Ok(()),
        // Another init was quicker.
        Created::Exists => Err(VaultError::Exists { url: store.url().to_owned() }),
    }
}
