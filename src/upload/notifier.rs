//! Notifier: who waits for the vault learns what it holds.

use crate::base::{Position, watch};
use crate::pipeline::Moves;

/// How far the vault has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Everything up to this position is in the vault.
    Committed(Position),
    /// Nothing more will come: why.
    Ended(String),
}

pub struct Notifier {
    progress: watch::Sender<Progress>,
    /// How many wait for the vault now: a round does not dawdle for them.
    waiting: watch::Sender<usize>,
    /// Who watches what has come to be in the vault.
    moves: Moves,
}

/// Counts one who waits, until it is dropped.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

impl Notifier {
    pub fn new(committed: Position) -> Notifier {
        Notifier {
            progress: watch::Sender::new(Progress::Committed(committed)),
            waiting: watch::Sender::new(0),
            moves: Moves::default(),
        }
    }

    pub fn moves(&self) -> &Moves {
        &self.moves
    }

    pub fn committed(&self, cut: Position) {
        self.progress.send_if_modified(|progress| match progress {
            Progress::Committed(old) if *old < cut => {
                *old = cut;
                true
            }
            _ => false,
        });
    }

    pub fn end(&self, why: &str) {
        self.progress.send_replace(Progress::Ended(why.to_owned()));
    }

    pub fn position(&self) -> Option<Position> {
        match &*self.progress.borrow() {
            Progress::Committed(position) => Some(*position),
            Progress::Ended(_) => None,
        }
    }

    /// Why nothing more will come; `None` while rounds go on.
    pub fn ended(&self) -> Option<String> {
        match &*self.progress.borrow() {
            Progress::Committed(_) => None,
            Progress::Ended(why) => Some(why.clone()),
        }
    }

    /// Returns when nothing more will come.
    pub async fn over(&self) {
        let mut progress = self.progress.subscribe();
        // The sender lives as long as `self`: this cannot fail.
        drop(progress.wait_for(|progress| matches!(progress, Progress::Ended(_))).await);
    }

    /// Waits until everything up to `position` is in the vault; `Err` says why that will not be.
    pub async fn wait(&self, position: Position) -> Result<(), String> {
        self.waiting.send_modify(|n| *n += 1);
        let _waiting = Waiting(&self.waiting);
        let mut progress = self.progress.subscribe();
        loop {
            match &*progress.borrow_and_update() {
                Progress::Committed(cut) if *cut >= position => return Ok(()),
                Progress::Ended(why) => return Err(why.clone()),
                Progress::Committed(_) => {}
            }
            if progress.changed().await.is_err() {
                return Err("the mount ended".to_owned());
            }
        }
    }

    /// Does somebody wait now?
    pub fn is_waited_for(&self) -> bool {
        *self.waiting.borrow() > 0
    }

    /// Returns when somebody waits.
    pub async fn someone_waits(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives as long as `self`: this cannot fail.
        drop(waiting.wait_for(|n| *n > 0).await);
    }
}
