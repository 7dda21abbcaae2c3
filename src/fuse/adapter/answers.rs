//! What the answers to many requests have in common: the clone of `Tree`, the names and callers that must outlive the
//! request, the lookup that a made name counts.

use std::ffi::OsStr;
use std::sync::Arc;

use fuser::{INodeNo, ReplyEmpty, ReplyEntry, Request};

use super::values::{caller, file_attr, ino, owned};
use super::{Adapter, GENERATION};
use crate::base::Position;
use crate::fs::{Attributes, Caller, FsError, Privileges};
use crate::fuse::errno::errno;
use crate::fuse::reply::{Reply, Terms, answer};
use crate::search::Tree;

impl Adapter {
    pub(super) fn answer<R, T, F>(
        &self,
        terms: Terms,
        reply: R,
        operation: impl FnOnce(Arc<Tree>) -> F,
        send: impl FnOnce(R, T) + Send + 'static,
    ) where
        R: Reply,
        T: Send + 'static,
        F: Future<Output = Result<T, FsError>> + Send + 'static,
    {
        answer(&self.runtime, terms, reply, operation(self.fs.clone()), send);
    }

    /// An operation that makes a name.
    pub(super) fn make<F>(
        &self,
        operation: &'static str,
        request: &Request,
        name: &OsStr,
        reply: ReplyEntry,
        make: impl FnOnce(Arc<Tree>, Box<[u8]>, Caller) -> F,
    ) where
        F: Future<Output = Result<Attributes, FsError>> + Send + 'static,
    {
        let (name, caller) = (owned(name), caller(request));
        let (ttl, lookups) = (self.ttl, self.lookups.clone());
        self.answer(
            Terms::bounded(operation),
            reply,
            |fs| make(fs, name, caller),
            move |reply, made| {
                lookups.told(made.ino);
                reply.entry(&ttl, &file_attr(&made), GENERATION);
            },
        );
    }

    /// An operation that takes a name away.
    pub(super) fn remove<F>(
        &self,
        operation: &'static str,
        name: &OsStr,
        reply: ReplyEmpty,
        remove: impl FnOnce(Arc<Tree>, Box<[u8]>) -> F,
    ) where
        F: Future<Output = Result<(), FsError>> + Send + 'static,
    {
        let name = owned(name);
        self.answer_empty(Terms::bounded(operation), reply, |fs| remove(fs, name));
    }

    pub(super) fn answer_empty<F>(&self, terms: Terms, reply: ReplyEmpty, operation: impl FnOnce(Arc<Tree>) -> F)
    where
        F: Future<Output = Result<(), FsError>> + Send + 'static,
    {
        self.answer(terms, reply, operation, |reply, ()| reply.ok());
    }

    /// An operation on contents, which may clear set-ID bits.
    pub(super) fn answer_contents<R, F>(
        &self,
        terms: Terms,
        number: INodeNo,
        reply: R,
        operation: impl FnOnce(Arc<Tree>) -> F,
        send: impl FnOnce(R) + Send + 'static,
    ) where
        R: Reply,
        F: Future<Output = Result<Privileges, FsError>> + Send + 'static,
    {
        let kernel = self.kernel.clone();
        self.answer(terms, reply, operation, move |reply, privileges| {
            kernel.contents_changed(ino(number), privileges);
            send(reply);
        });
    }

    /// An operation that is done once what it returns is safe.
    pub(super) fn answer_once_safe<F>(
        &self,
        operation: &'static str,
        reply: ReplyEmpty,
        barrier: impl FnOnce(Arc<Tree>) -> F,
    ) where
        F: Future<Output = Result<Option<Position>, FsError>> + Send + 'static,
    {
        let (fs, overdue) = (self.fs.clone(), self.overdue.clone());
        self.answer(Terms::unbounded(operation), reply, barrier, move |reply, position| match position {
            None => reply.ok(),
            Some(position) => {
                // The journal's thread may be held by a disk that does not answer.
                let promised = overdue.watch(reply);
                fs.once_safe(position, move |result| {
                    promised.send(|reply| match result {
                        Ok(()) => reply.ok(),
                        Err(error) => reply.error(errno(&error)),
                    });
                });
            }
        });
    }
}
