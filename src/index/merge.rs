//! Several bases as one sorted source: where two have a key, the newer one's value counts.

use super::IndexError;
use super::base::Cursor;

pub struct Merge<'a> {
    /// Newest first.
    sources: Vec<Cursor<'a>>,
    /// Which source has the smallest key.
    first: Option<usize>,
}

impl<'a> Merge<'a> {
    pub fn new(mut sources: Vec<Cursor<'a>>) -> Result<Merge<'a>, IndexError> {
        sources.iter_mut().try_for_each(Cursor::start)?;
        let mut merge = Merge { sources, first: None };
        merge.find();
        Ok(merge)
    }

    /// Key and value; the value of a deletion is empty.
    pub fn peek(&self) -> Option<(&[u8], &[u8])> {
        self.sources[self.first?].peek()
    }

    pub fn next(&mut self) -> Result<(), IndexError> {
        let Some(first) = self.first else { return Ok(()) };
        let (before, from) = self.sources.split_at_mut(first);
        debug_assert!(before.iter().all(|source| source.peek().map(|(k, _)| k) != from[0].peek().map(|(k, _)| k)));
        let (found, older) = from.split_first_mut().expect("it is one of them");
        let key = found.peek().map(|(key, _)| key.to_vec());
        for source in older {
            if source.peek().map(|(key, _)| key) == key.as_deref() {
                source.next()?;
            }
        }
        found.next()?;
        self.find();
        Ok(())
    }

    fn find(&mut self) {
        self.first = None;
        for (k, source) in self.sources.iter().enumerate() {
            if let Some((key, _)) = source.peek()
                && self.first.and_then(|first| self.sources[first].peek()).is_none_or(|(least, _)| key < least)
            {
                self.first = Some(k);
            }
        }
    }
}
