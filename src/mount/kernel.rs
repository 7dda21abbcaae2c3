//! The kernel's side of a mount, as the life cycle sees it: attach, be told when it is gone, detach, cut off.
//!
//! Does not own how any of it is done (the fuse room), nor when (serve).

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use super::{MountError, mountpoint};
use crate::fuse::{self, MountOptions, Unmounted, Unmounter};
use crate::search::Tree;

/// After the connection was cut, its end is a matter of replies under way.
const CUT_PATIENCE: Duration = Duration::from_secs(2);

/// What the fuse room is asked for.
pub(super) fn options(url: &str, dir: &Path, read_only: bool, words: &[String]) -> MountOptions {
    let mut options = MountOptions::new(url, dir);
    for word in words {
        if !options.set(word) {
            // The command line passes on what it knows; this is a mistake of ours, and no reason not to mount.
            log::warn!("the mount option {word} has no effect");
        }
    }
    options.read_only |= read_only;
    options
}

pub(super) struct Attached {
    unmounter: Unmounter,
    dir: PathBuf,
    gone: watch::Receiver<bool>,
}

pub(super) fn attach(tree: Tree, options: MountOptions) -> Result<Attached, MountError> {
    let dir = options.mountpoint.clone();
    mountpoint::check_again(&dir)?;
    let mut mounted = fuse::mount(tree, options)?;
    let unmounter = mounted.unmounter();
    let (tell, gone) = watch::channel(false);
    tokio::spawn(async move {
        if let Err(e) = mounted.ended().await {
            log::error!("{e}");
        }
        tell.send_replace(true);
    });
    Ok(Attached { unmounter, dir, gone })
}

impl Attached {
    /// Returns when the kernel has let go, whoever unmounted it.
    pub(super) async fn gone(&self) {
        // An error means that the task that watches ended: nobody is left to say more.
        let _ = self.gone.clone().wait_for(|gone| *gone).await;
    }

    /// Takes the mount out of the tree; lazily if programs go on using it.
    pub(super) async fn detach(&self) -> Result<(), MountError> {
        match self.unmounter.unmount().await {
            Ok(Unmounted::Lazily) => {
                log::info!("{}: detached, but programs still use it", self.dir.display());
                Ok(())
            }
            Ok(Unmounted::Clean | Unmounted::Before) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Cuts off whoever still uses it: their next operation fails. False if the kernel still holds the drive, so that
    /// operations go on to arrive; the end of this process ends them.
    pub(super) async fn cut(&self) -> bool {
        if let Err(e) = self.unmounter.abort() {
            log::warn!("{}: {e}", self.dir.display());
            return *self.gone.borrow();
        }
        tokio::time::timeout(CUT_PATIENCE, self.gone()).await.is_ok()
    }
}
