//! What the kernel believes of names and attributes, where it would go on believing what is no longer so.
//!
//! Nearly everything that changes here is the kernel's own request, and it knows what its requests change. This is
//! about the exceptions.

use std::sync::OnceLock;

use fuser::{INodeNo, Notifier};

use crate::base::Ino;
use crate::fs::Privileges;

/// The way to the kernel's caches; silent until the session stands.
#[derive(Default)]
pub(super) struct KernelCache(OnceLock<Notifier>);

impl KernelCache {
    pub fn reach(&self, notifier: Notifier) {
        // A session has one notifier, set once.
        let _ = self.0.set(notifier);
    }

    /// The kernel leaves the clearing of set-ID bits to us, and then goes on believing the old mode: it takes size and
    /// times to change with contents, nothing else.
    pub fn contents_changed(&self, ino: Ino, privileges: Privileges) {
        match privileges {
            Privileges::Kept => {}
            Privileges::Cleared => self.attributes_changed(ino),
        }
    }

    /// Some attributes are about to change.
    pub fn changing(&self, ino: Ino) -> Changing<'_> {
        Changing { kernel: self, ino }
    }

    /// The kernel must ask for this inode's attributes again. Called from handlers: it touches no pages, so it waits
    /// for no request.
    pub fn attributes_changed(&self, ino: Ino) {
        let Some(notifier) = self.0.get() else { return };
        // A negative offset: attributes alone, no pages.
        if let Err(e) = notifier.inval_inode(INodeNo(ino.0), -1, 0) {
            log::warn!("the kernel did not take back what it knew of {ino}: {e}");
        }
    }
}

/// A change of attributes under way. Dropped before it is done (it failed, or its caller was sent away), it may have
/// changed some of them: the kernel, which heard of an error only, must ask again.
pub(super) struct Changing<'a> {
    kernel: &'a KernelCache,
    ino: Ino,
}

impl Changing<'_> {
    /// All is changed, and the answer tells what the attributes are.
    pub fn done(self) {
        std::mem::forget(self);
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.kernel.attributes_changed(self.ino);
    }
}
