//! The kernel's side: mounts, takes requests, turns them into calls of [`Tree`], and its values into replies.
//!
//! The only user of fuser. Owns: the mount and its end, the negotiation with the kernel, replies and their deadlines,
//! errno. Decides nothing about files.
//!
//! Threads: fuser's take requests and finish whatever is in memory; what has to wait moves, with its reply, to the
//! tokio runtime in which [`mount`] was called.

mod adapter;
mod errno;
mod kernel_cache;
mod lookups;
pub mod mount_table;
mod mountpoint;
mod options;
mod reply;
mod wipe;

use std::path::Path;
use std::sync::Arc;

use fuser::{Filesystem, Notifier, Session};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::history::follow::Changed;
use crate::search::Tree;
use adapter::Adapter;
use kernel_cache::{Invalidator, KernelCache};
use lookups::Lookups;
use mountpoint::Place;

pub use adapter::{BLOCK, GENERATION, HANDLE, file_type};
pub use mountpoint::{MountError, Unmounted, available};
pub use options::{MountOptions, WRITER_TTL, negotiate};

/// Mounts a drive, with the rooms of its tree. Returns when the mount answers. Must be called inside the tokio runtime on
/// which operations wait.
pub fn mount(tree: impl Into<Tree>, options: MountOptions) -> Result<Mounted, MountError> {
    let tree: Arc<Tree> = Arc::new(tree.into());
    let fs = tree.fs.clone();
    let kernel = Arc::new(KernelCache::default());
    let lookups: Arc<Lookups> = Arc::default();
    let invalidator = Invalidator::new();
    if fs.history.is_follower() {
        let invalidator = invalidator.clone();
        fs.history.on_change(Box::new(move |changed| invalidator.changed(changed)));
    }
    let dead = invalidator.clone();
    fs.cache.on_death(Box::new(move |files| dead.changed(Changed::These(files))));
    let gone = invalidator.clone();
    tree.sweep_on(Box::new(move |answers| gone.changed(Changed::These(answers))));
    let adapter = Adapter::new(tree, kernel.clone(), lookups.clone(), Handle::current(), &options);
    let mounted = attach(adapter, &options, |notifier| kernel.reach(notifier))?;
    start(invalidator, kernel, lookups, mounted.ended.clone())?;
    Ok(mounted)
}

/// Tells the kernel of what other machines change, and of plaintext whose time is over, until the session is.
fn start(
    invalidator: Arc<Invalidator>,
    kernel: Arc<KernelCache>,
    lookups: Arc<Lookups>,
    mut ended: watch::Receiver<Ended>,
) -> Result<(), MountError> {
    let thread = invalidator.clone();
    std::thread::Builder::new()
        .name("fuse-invalidator".into())
        .spawn(move || thread.run(&kernel, &lookups))
        .map_err(|e| MountError::system("the thread that tells the kernel of changes cannot start", e))?;
    tokio::spawn(async move {
        let _ = ended.wait_for(Option::is_some).await;
        invalidator.end();
    });
    Ok(())
}

/// Mounts any fuser filesystem the way [`mount`] does: what the drive is measured against shares all but the files.
pub fn mount_filesystem(filesystem: impl Filesystem, options: &MountOptions) -> Result<Mounted, MountError> {
    attach(filesystem, options, drop)
}

fn attach(
    filesystem: impl Filesystem,
    options: &MountOptions,
    reach: impl FnOnce(Notifier),
) -> Result<Mounted, MountError> {
    let attached = mountpoint::attach(options)?;
    let place = attached.place;
    let (acl, config) = options.session(attached.can_clone);
    let (tell, ended) = watch::channel(None);
    let started = Session::from_fd(filesystem, attached.device, acl, config).and_then(|session| {
        reach(session.notifier());
        std::thread::Builder::new().name("fuse-session".into()).spawn(move || {
            let result = session.run().map_err(Arc::new);
            tell.send_replace(Some(result));
        })
    });
    match started {
        Ok(_) => Ok(Mounted { place, ended }),
        Err(e) => {
            let failed = MountError::system(format!("the kernel does not answer at {}", place.path.display()), e);
            if let Err(e) = mountpoint::detach_now(&place) {
                log::warn!("{e}");
            }
            Err(failed)
        }
    }
}

/// How the kernel's side ended, once it has.
type Ended = Option<Result<(), Arc<std::io::Error>>>;

/// A drive that the kernel shows. Dropped before its end, it is detached.
pub struct Mounted {
    place: Place,
    ended: watch::Receiver<Ended>,
}

impl Mounted {
    /// As it stands in the mount table: absolute, without symlinks.
    pub fn mountpoint(&self) -> &Path {
        &self.place.path
    }

    /// A handle for whoever decides when to unmount: a signal, the control socket.
    pub fn unmounter(&self) -> Unmounter {
        Unmounter { place: self.place.clone() }
    }

    /// Returns when the kernel has let go of the mount: it was unmounted, by us or by anybody, and every file that
    /// was open on it is closed. No operation begins after that; the last ones (releases) may still be running.
    pub async fn ended(&mut self) -> Result<(), MountError> {
        let ended = self.ended.wait_for(Option::is_some).await.map(|ended| ended.clone());
        match ended {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(e))) => Err(self.broken(std::io::Error::new(e.kind(), e))),
            Ok(None) | Err(_) => Err(self.broken(std::io::Error::other("its thread ended without a word"))),
        }
    }

    fn broken(&self, error: std::io::Error) -> MountError {
        MountError::system(format!("the connection to the kernel broke at {}", self.place.path.display()), error)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let alive = self.ended.borrow().is_none();
        if alive && let Err(e) = mountpoint::detach_now(&self.place) {
            log::warn!("{e}");
        }
    }
}

/// Unmounts; can be cloned and sent anywhere.
#[derive(Clone, Debug)]
pub struct Unmounter {
    place: Place,
}

impl Unmounter {
    /// Takes the mount out of the tree: at once if nobody uses it, after a moment's patience lazily if somebody does.
    /// [`Mounted::ended`] tells when the last user is gone.
    pub async fn unmount(&self) -> Result<Unmounted, MountError> {
        let place = self.place.clone();
        // umount(2) waits for pages that are being written, and so for our own replies.
        match tokio::task::spawn_blocking(move || mountpoint::detach(&place)).await {
            Ok(result) => result,
            Err(e) => Err(MountError::system("cannot unmount", std::io::Error::other(e))),
        }
    }

    /// Cuts off whoever still uses the mount: their next operation fails, and [`Mounted::ended`] comes true. Not every
    /// container lets that be asked of the kernel.
    pub fn abort(&self) -> Result<(), MountError> {
        mountpoint::abort(&self.place)
    }
}
