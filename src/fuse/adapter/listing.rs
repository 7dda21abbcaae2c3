//! Listings: a reply that is filled entry by entry, for READDIR and READDIRPLUS alike.
//!
//! Invariant: the kernel counts a lookup of each entry that it is told with attributes, and of nothing else; so do we,
//! once the reply is sent.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use fuser::{FileAttr, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::values::{file_attr, file_type, ino, nameless};
use super::{Adapter, GENERATION};
use crate::base::Ino;
use crate::fs::{Caller, Entry, FsError};
use crate::fuse::reply::{Reply, Slot, Terms};
use crate::search::Tree;

/// Entries asked of `Fs` at a time. A reply holds some 20 to 800, which fuser does not tell.
const LISTING: usize = 64;

impl Adapter {
    pub(super) fn answer_listing<R: Listing>(&self, number: INodeNo, cookie: u64, caller: Caller, reply: R) {
        let (slot, ttl, lookups) = (Slot::new(reply), self.ttl, self.lookups.clone());
        let filled = slot.clone();
        let operation = async move |fs: Arc<Tree>| list(&fs, ino(number), cookie, ttl, caller, filled).await;
        self.answer(Terms::bounded(R::NAME), slot, operation, move |slot, counted| {
            // Not before: a caller that was sent away is told of nothing.
            slot.send(|reply| {
                counted.into_iter().for_each(|ino| lookups.told(ino));
                reply.ok();
            });
        });
    }
}

/// A listing under way: fuser's two replies want the same of it.
pub(super) trait Listing: Reply {
    const NAME: &str;
    const WITH_ATTRIBUTES: bool;

    /// True if the entry found no room.
    fn push(&mut self, entry: &Entry, ttl: &Duration) -> bool;

    fn ok(self);
}

impl Listing for ReplyDirectory {
    const NAME: &str = "readdir";
    const WITH_ATTRIBUTES: bool = false;

    fn push(&mut self, entry: &Entry, _: &Duration) -> bool {
        self.add(INodeNo(entry.ino.0), entry.cookie, file_type(entry.kind), OsStr::from_bytes(&entry.name))
    }

    fn ok(self) {
        self.ok();
    }
}

impl Listing for ReplyDirectoryPlus {
    const NAME: &str = "readdirplus";
    const WITH_ATTRIBUTES: bool = true;

    fn push(&mut self, entry: &Entry, ttl: &Duration) -> bool {
        let (ttl, attributes) = match entry.attributes {
            Some(attributes) => (*ttl, file_attr(&attributes)),
            // The kernel takes type and number from them, and nothing else.
            None if entry.is_dots() => (*ttl, file_attr(&nameless(entry))),
            None => (Duration::ZERO, unknown(entry)),
        };
        let name = OsStr::from_bytes(&entry.name);
        self.add(INodeNo(entry.ino.0), entry.cookie, name, &ttl, &attributes, GENERATION)
    }

    fn ok(self) {
        self.ok();
    }
}

/// For an entry whose attributes could not be had: the name must be listed all the same, or whoever mirrors a
/// directory takes it for deleted. Node 0 would say that there are no attributes, but fuser then writes inode 0 into
/// the entry too, which readers skip. A size that cannot be makes the kernel keep name, type and number, link no inode,
/// and forget the one that it was told of: it counts like any other.
fn unknown(entry: &Entry) -> FileAttr {
    FileAttr { size: u64::MAX, ..file_attr(&nameless(entry)) }
}

/// Fills a listing's reply from `cookie` on until it is full or the directory ends. Returns the inodes that the kernel
/// counts as looked up once it has the reply.
async fn list<R: Listing>(
    fs: &Tree,
    directory: Ino,
    mut cookie: u64,
    ttl: Duration,
    caller: Caller,
    reply: Slot<R>,
) -> Result<Vec<Ino>, FsError> {
    let mut counted = Vec::new();
    let mut some = false;
    loop {
        let entries = match fs.readdir(directory, cookie, R::WITH_ATTRIBUTES, LISTING, caller).await {
            Ok(entries) => entries,
            // What is in the reply counts; the error comes again at the next request.
            Err(_) if some => return Ok(counted),
            Err(error) => return Err(error),
        };
        if entries.is_empty() {
            return Ok(counted);
        }
        for entry in entries {
            // No room, or no caller any more.
            if reply.with(|reply| reply.push(&entry, &ttl)).unwrap_or(true) {
                return Ok(counted);
            }
            if R::WITH_ATTRIBUTES && !entry.is_dots() {
                counted.push(entry.ino);
            }
            some = true;
            cookie = entry.cookie;
        }
    }
}

#[cfg(test)]
mod tests {
    use fuser::{Errno, FileType};
    use parking_lot::Mutex;
    use tokio::runtime::Handle;

    use super::*;
    use crate::format::key::Key;
    use crate::fs::Fs;
    use crate::fs::tests::empty;
    use crate::fuse::options::MountOptions;
    use crate::history::Transaction;

    /// A listing's reply with room for so many entries, and what became of it.
    struct Page {
        room: usize,
        pushed: Vec<Ino>,
        sent: Arc<Mutex<Option<Vec<Ino>>>>,
    }

    impl Page {
        fn new(room: usize) -> (Page, Arc<Mutex<Option<Vec<Ino>>>>) {
            let sent = Arc::default();
            (Page { room, pushed: Vec::new(), sent: Arc::clone(&sent) }, sent)
        }
    }

    impl Reply for Page {
        fn error(self, _: Errno) {}
    }

    impl Listing for Page {
        const NAME: &str = "test";
        const WITH_ATTRIBUTES: bool = true;

        fn push(&mut self, entry: &Entry, _: &Duration) -> bool {
            let full = self.pushed.len() == self.room;
            if !full {
                self.pushed.push(entry.ino);
            }
            full
        }

        fn ok(self) {
            *self.sent.lock() = Some(self.pushed);
        }
    }

    const ME: Caller = Caller { uid: 1000, gid: 100, pid: 1 };

    fn adapter(fs: Fs) -> Adapter {
        Adapter::new(
            Arc::new(Arc::new(fs).into()),
            Arc::default(),
            Arc::default(),
            Handle::current(),
            &MountOptions::new("file:///v", "/mnt"),
        )
    }

    fn is_told(adapter: &Adapter, ino: Ino) -> bool {
        let mut told = true;
        adapter.lookups.forgotten(ino, 0, || told = false);
        told
    }

    #[tokio::test]
    async fn a_listing_counts_what_it_tells_and_nothing_else() {
        let fs = empty();
        let files: Vec<_> = (0..9).map(|k| fs.mk(Ino::ROOT, &k.to_string())).collect();
        let adapter = adapter(fs);
        let (page, sent) = Page::new(6);
        adapter.answer_listing(INodeNo(Ino::ROOT.0), 0, ME, page);
        let sent = sent.lock().take().expect("sent");
        assert_eq!(sent[..2], [Ino::ROOT, Ino::ROOT], "itself and what is above");
        let told: Vec<_> = files.iter().filter(|file| is_told(&adapter, **file)).collect();
        assert_eq!(told.len(), 4);
        assert!(told.iter().all(|file| sent.contains(file)) && !is_told(&adapter, Ino::ROOT));
    }

    #[tokio::test]
    async fn an_entry_without_attributes_is_listed_counted_and_not_linked() {
        let fs = empty();
        let broken = fs.mk(Ino::ROOT, "f");
        let delete = |tx: &mut Transaction<'_>| {
            tx.delete(Key::inode(broken));
            Ok::<(), FsError>(())
        };
        fs.history.transact(delete).expect("deleted");
        let adapter = adapter(fs);
        let (page, sent) = Page::new(9);
        adapter.answer_listing(INodeNo(Ino::ROOT.0), 0, ME, page);
        assert_eq!(sent.lock().take().expect("sent"), [Ino::ROOT, Ino::ROOT, broken]);
        assert!(is_told(&adapter, broken), "the kernel sends a FORGET for it");
        let attributes = unknown(&entry());
        assert_eq!((attributes.ino, attributes.kind), (INodeNo(5), FileType::RegularFile));
        assert!(attributes.size > i64::MAX as u64, "what the kernel takes for no attributes");
    }

    #[tokio::test]
    async fn a_caller_that_was_sent_away_is_told_of_nothing() {
        let fs = empty();
        let file = fs.mk(Ino::ROOT, "f");
        let fs: Tree = Arc::new(fs).into();
        let slot = Slot::new(Page::new(9).0);
        let counted = list(&fs, Ino::ROOT, 0, Duration::ZERO, ME, slot.clone()).await;
        assert_eq!(counted, Ok(vec![file]));
        Reply::error(slot.clone(), Errno::EIO);
        assert_eq!(list(&fs, Ino::ROOT, 0, Duration::ZERO, ME, slot).await, Ok(vec![]));
    }

    fn entry() -> Entry {
        Entry { ino: Ino(5), kind: libc::S_IFREG, name: b"x"[..].into(), cookie: 3, attributes: None }
    }
}
