//! What the kernel believes of names and attributes, where it would go on believing what is no longer so; and its pages
//! of files, where they have been kept long enough.
//!
//! Nearly everything that changes on a writing mount is the kernel's own request, and it knows what its requests
//! change. This is about the exceptions, about what other machines change under a follower, and about plaintext, which
//! the kernel is to keep no longer than the cache does (promise 7).

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier};
use parking_lot::{Condvar, Mutex};

use super::lookups::Lookups;
use crate::base::Ino;
use crate::fs::Privileges;
use crate::history::follow::Changed;

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

    /// The kernel must ask for this file's contents again, attributes and all.
    fn drop_pages(&self, ino: Ino) {
        let Some(notifier) = self.0.get() else { return };
        match notifier.inval_inode(INodeNo(ino.0), 0, 0) {
            Ok(()) => {}
            // It forgot the file meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => log::warn!("the kernel did not take back what it knew of {ino}: {e}"),
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

/// Takes pages back from the kernel when commits of another machine change contents, and when a file's entry died: in a
/// thread of its own, for the kernel waits for reads of those pages that are under way, and so for our own replies; and
/// writes back what memory maps have made dirty.
///
/// No reply depends on it. Of a follower's files only what memory maps show does: names and attributes are never
/// remembered (the kernel asks each time), and reads of open files go past the pages. On a writing mount the pages are
/// right, and only old.
pub(super) struct Invalidator {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting {
    files: BTreeSet<Ino>,
    /// More than can be told one by one.
    any: bool,
    ended: bool,
}

/// So many files wait at most to be told one by one.
const WAITING_MAX: usize = 64 * 1024;

impl Invalidator {
    pub fn new() -> Arc<Invalidator> {
        Arc::new(Invalidator { waiting: Mutex::default(), more: Condvar::new() })
    }

    /// Never waits.
    pub fn changed(&self, changed: Changed) {
        let mut waiting = self.waiting.lock();
        match changed {
            Changed::These(files) => waiting.files.extend(files),
            Changed::Any => waiting.any = true,
        }
        if waiting.any || waiting.files.len() > WAITING_MAX {
            waiting.any = true;
            waiting.files.clear();
        }
        self.more.notify_one();
    }

    /// The session is over.
    pub fn end(&self) {
        self.waiting.lock().ended = true;
        self.more.notify_one();
    }

    pub fn run(&self, kernel: &KernelCache, lookups: &Lookups) {
        loop {
            let files = {
                let mut waiting = self.waiting.lock();
                while !waiting.any && waiting.files.is_empty() && !waiting.ended {
                    self.more.wait(&mut waiting);
                }
                if waiting.ended {
                    return;
                }
                (!std::mem::take(&mut waiting.any)).then(|| std::mem::take(&mut waiting.files))
            };
            match files {
                Some(files) => {
                    files.into_iter().filter(|ino| lookups.knows(*ino)).for_each(|ino| kernel.drop_pages(ino))
                }
                None => lookups.all().into_iter().for_each(|ino| kernel.drop_pages(ino)),
            }
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
