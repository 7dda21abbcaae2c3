//! rename(2), with its flags.
//!
//! Owns all cases of rename: onto nothing, over something, exchange, within one directory or between two. Does not
//! own which flags the kernel hands over.
//!
//! Invariants: a moved regular file, and each file with unwritten bytes below a moved directory, is a barrier (L2):
//! its bytes are in the journal before the change that moves the name. (Files whose bytes are all in the journal need
//! nothing as long as every round takes every file.) The waiting comes first, so the operation
//! checks again that the names still lead where they did, and begins anew where they do not. A directory never moves
//! below itself.

use super::namespace::{gain_subdirectory, lose_name, put_name, touch_directory};
use super::records::{self, Below, Named, Slot, Source, check_name, directory, find, find_named};
use super::{Fs, FsError, RenameMode};
use crate::base::{Ino, Timestamp, plants};
use crate::format::key::Key;
use crate::format::record::{Inode, Record};
use crate::history::Transaction;

/// What was asked for.
#[derive(Clone, Copy)]
struct Request<'a> {
    parent: Ino,
    name: &'a [u8],
    new_parent: Ino,
    new_name: &'a [u8],
    mode: RenameMode,
}

/// What the names led to when the barriers began.
struct Plan {
    source: Named,
    /// In an exchange: what moves the other way.
    back: Option<Named>,
    barrier: Vec<Ino>,
}

/// Both directories of a rename, while they change.
struct Parents {
    old: Inode,
    /// `None` if they are the same.
    new: Option<Inode>,
}

impl Parents {
    fn get(source: &impl Source, request: &Request<'_>) -> Result<Parents, FsError> {
        let old = directory(source, request.parent)?;
        let new = match request.parent == request.new_parent {
            true => None,
            false => Some(directory(source, request.new_parent)?),
        };
        Ok(Parents { old, new })
    }

    /// `there` goes from the old directory to the new one, `back` the other way.
    fn move_directories(&mut self, there: Option<Named>, back: Option<Named>) -> Result<(), FsError> {
        let Some(new) = &mut self.new else {
            return Ok(());
        };
        let is_directory = |moved: Option<Named>| moved.is_some_and(|moved| moved.is_directory());
        match (is_directory(there), is_directory(back)) {
            (true, false) => move_directory(&mut self.old, new),
            (false, true) => move_directory(new, &mut self.old),
            _ => Ok(()),
        }
    }

    /// A directory in the new directory gives way.
    fn lose_directory(&mut self, replaced: Named) {
        if replaced.is_directory() {
            let above = self.new.as_mut().unwrap_or(&mut self.old);
            above.nlink = above.nlink.saturating_sub(1);
        }
    }

    fn put(self, tx: &mut Transaction<'_>, request: &Request<'_>, now: Timestamp) {
        touch_directory(tx, request.parent, self.old, now);
        if let Some(new) = self.new {
            touch_directory(tx, request.new_parent, new, now);
        }
    }
}

fn move_directory(from: &mut Inode, to: &mut Inode) -> Result<(), FsError> {
    gain_subdirectory(to)?;
    from.nlink = from.nlink.saturating_sub(1);
    Ok(())
}

impl Fs {
    pub async fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        self.check_writable()?;
        check_name(name)?;
        check_name(new_name)?;
        let request = Request { parent, name, new_parent, new_name, mode };
        loop {
            let Some(plan) = self.plan_rename(&request)? else {
                return Ok(());
            };
            if !plants::on("L2-no-barrier-at-rename") {
                self.settle(&plan.barrier).await?;
            }
            if self.change(|tx| self.rename_in(tx, &request, &plan)).await? {
                return Ok(());
            }
        }
    }

    /// `None`: both names lead to the same inode, and POSIX wants nothing done.
    fn plan_rename(&self, request: &Request<'_>) -> Result<Option<Plan>, FsError> {
        let (source, target) = {
            let view = self.history.view();
            let (_, source) = find_named(&view, &self.keys, request.parent, request.name)?;
            let target = find(&view, &self.keys, request.new_parent, request.new_name)?.named;
            (source, target)
        };
        match (request.mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            (_, Some(target)) if target.ino == source.ino => return Ok(None),
            _ => {}
        }
        let back = target.filter(|_| request.mode == RenameMode::Exchange);
        let mut barrier = Vec::new();
        for moved in [Some(source), back].into_iter().flatten() {
            self.files_to_settle(moved, &mut barrier)?;
        }
        barrier.sort_unstable();
        barrier.dedup();
        Ok(Some(Plan { source, back, barrier }))
    }

    /// The files for which moving this inode's name is a barrier.
    fn files_to_settle(&self, moved: Named, files: &mut Vec<Ino>) -> Result<(), FsError> {
        match moved.kind {
            libc::S_IFREG => files.push(moved.ino),
            libc::S_IFDIR => {
                let dirty = self.unsent_files(self.cache.dirty_files());
                if dirty.is_empty() {
                    return Ok(());
                }
                let view = self.history.view();
                let mut below = Below::new(&view, moved.ino);
                for ino in dirty {
                    if below.holds(ino)? {
                        files.push(ino);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The operation itself; `false` if the names do not lead any more where the plan says.
    fn rename_in(&self, tx: &mut Transaction<'_>, request: &Request<'_>, plan: &Plan) -> Result<bool, FsError> {
        let mut parents = Parents::get(tx, request)?;
        let (from, source) = find_named(tx, &self.keys, request.parent, request.name)?;
        let to = find(tx, &self.keys, request.new_parent, request.new_name)?;
        let back = to.named.filter(|_| request.mode == RenameMode::Exchange);
        let same = to.named.is_some_and(|target| target.ino == source.ino);
        if source != plan.source || back != plan.back || same {
            return Ok(false);
        }
        check_loops(tx, request, source, to.named)?;
        let now = tx.now();
        match (request.mode, to.named) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            (RenameMode::Exchange, Some(target)) => {
                parents.move_directories(Some(source), Some(target))?;
                tx.delete(to.link(target.ino));
                settle(tx, &from, request.name, target, now)?;
            }
            (_, Some(target)) => {
                check_replaceable(tx, source, target)?;
                parents.lose_directory(target);
                parents.move_directories(Some(source), None)?;
                tx.delete(from.dentry());
                tx.delete(to.link(target.ino));
                lose_name(tx, target, now)?;
            }
            (_, None) => {
                parents.move_directories(Some(source), None)?;
                tx.delete(from.dentry());
            }
        }
        tx.delete(from.link(source.ino));
        settle(tx, &to, request.new_name, source, now)?;
        parents.put(tx, request, now);
        plan.barrier.iter().for_each(|ino| tx.barrier(*ino));
        Ok(true)
    }
}

/// A moved inode takes its new name.
fn settle(tx: &mut Transaction<'_>, slot: &Slot, name: &[u8], moved: Named, now: Timestamp) -> Result<(), FsError> {
    put_name(tx, slot, name, moved);
    let mut inode = records::inode(tx, moved.ino)?;
    inode.ctime = now;
    tx.put(Key::inode(moved.ino), Record::Inode(inode));
    Ok(())
}

/// No directory may come to lie below itself: EINVAL. A directory that holds the source is not empty: ENOTEMPTY.
fn check_loops(
    source: &impl Source,
    request: &Request<'_>,
    moved: Named,
    target: Option<Named>,
) -> Result<(), FsError> {
    if request.parent == request.new_parent {
        return Ok(());
    }
    if moved.is_directory() && at_or_below(source, request.new_parent, moved.ino)? {
        return Err(FsError::Invalid);
    }
    match target {
        Some(target) if target.is_directory() && at_or_below(source, request.parent, target.ino)? => {
            match request.mode {
                RenameMode::Exchange => Err(FsError::Invalid),
                _ => Err(FsError::NotEmpty),
            }
        }
        _ => Ok(()),
    }
}

fn at_or_below(source: &impl Source, ino: Ino, directory: Ino) -> Result<bool, FsError> {
    Ok(ino == directory || Below::new(source, directory).holds(ino)?)
}

/// What rename may put in the place of what.
fn check_replaceable(source: &impl Source, moved: Named, target: Named) -> Result<(), FsError> {
    match (moved.is_directory(), target.is_directory()) {
        (true, false) => Err(FsError::NotDirectory),
        (false, true) => Err(FsError::IsDirectory),
        (true, true) if !records::is_empty(source, target.ino)? => Err(FsError::NotEmpty),
        _ => Ok(()),
    }
}
