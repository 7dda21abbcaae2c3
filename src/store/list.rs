//! Listing names: sorted, relative to the vault, a bounded number of them held at a time.

use std::collections::BTreeSet;

use futures::StreamExt;
use object_store::{Error as ObjectError, ObjectStore};

use super::progress::TRANSFER;
use super::{Kind, Store, StoreError, path};

impl Store {
    /// Names below a prefix ("" for all; whole path segments, such as `log/`), relative to the vault, sorted; the
    /// first `most` of them.
    pub async fn list(&self, prefix: &str, most: usize) -> Result<Vec<String>, StoreError> {
        // Backends differ in their order, so the least names are kept while all are seen.
        let least = |names: &mut BTreeSet<String>, name| keep_least(names, name, most);
        Ok(self.fold_names(prefix, None, BTreeSet::new, least).await?.into_iter().collect())
    }

    /// As [`Store::list`], of the names after `after`: the next page. Fewer than `most` are all that are left.
    pub async fn list_after(&self, prefix: &str, after: &str, most: usize) -> Result<Vec<String>, StoreError> {
        let least = |names: &mut BTreeSet<String>, name| keep_least(names, name, most);
        Ok(self.fold_names(prefix, Some(after), BTreeSet::new, least).await?.into_iter().collect())
    }

    /// The greatest name below a prefix: all are seen, one is held.
    pub async fn last(&self, prefix: &str) -> Result<Option<String>, StoreError> {
        let greatest = |last: &mut Option<String>, name| *last = last.take().max(Some(name));
        self.fold_names(prefix, None, || None, greatest).await
    }

    async fn fold_names<T>(
        &self,
        prefix: &str,
        after: Option<&str>,
        empty: impl Fn() -> T,
        visit: impl Fn(&mut T, String),
    ) -> Result<T, StoreError> {
        if !self.can_list() {
            return Err(StoreError::BadUrl(format!("{}: nothing can be listed over http", self.url())));
        }
        let list = || async {
            let mut folded = empty();
            let Some(store) = self.readable().await? else { return Ok(folded) };
            let progress = TRANSFER.with(std::sync::Arc::clone);
            let below = Some(path(prefix)?);
            let mut found = match after {
                Some(after) => store.list_with_offset(below.as_ref(), &path(after)?),
                None => store.list(below.as_ref()),
            };
            while let Some(meta) = found.next().await {
                progress.received(0);
                visit(&mut folded, meta?.location.to_string());
            }
            Ok::<_, ObjectError>(folded)
        };
        let shown = format!("{}/{prefix}", self.url());
        self.request(Kind::List, shown.trim_end_matches('/'), 0, list).await
    }
}

fn keep_least(names: &mut BTreeSet<String>, name: String, most: usize) {
    names.insert(name);
    if names.len() > most {
        names.pop_last();
    }
}
