//! A line: one life's history, from what it found when it came up, and what became of it.
//!
//! Lives of one machine follow each other; but a machine that takes over while another still runs, suspended perhaps,
//! makes two lines of one: the vault goes on with the successor's, and what the first machine does from then on stays on
//! that machine, for a later mount to set aside. So each life has a model and an oracle of its own, the oracle begun as a
//! copy of that of the life whose history it goes on with. A life without the store goes on with its machine's own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::model::Model;
use super::oracle::{Found, Oracle};
use super::remote::Who;
use super::sim::found;

pub struct Line {
    pub who: Who,
    pub model: RefCell<Model>,
    pub oracle: RefCell<Oracle>,
    /// Everything was in the vault, and nothing was done since.
    pub drained: Cell<bool>,
    /// What the one found that took the vault over.
    pub successor: RefCell<Option<Found>>,
    /// Journals that had been set aside on the machine when it came up.
    pub asides: usize,
    /// What it showed when it came up.
    began: Found,
    /// It came up without the store, with a history in which there were so many reigns.
    pub offline: Option<usize>,
    /// Then: the log object up to which it knew the vault.
    pub joined: u64,
    /// The line that it goes on with, if it came up so.
    pub base: Option<Rc<Line>>,
    /// How many states there had been when it came up.
    born: usize,
}

impl Line {
    pub fn new(who: Who, model: Model, oracle: Oracle, asides: usize) -> Line {
        let (born, began) = (oracle.states(), found(&model));
        let (model, oracle) = (RefCell::new(model), RefCell::new(oracle));
        let offline = None;
        Line {
            who,
            model,
            oracle,
            drained: Cell::new(false),
            successor: RefCell::new(None),
            asides,
            began,
            offline,
            joined: 0,
            base: None,
            born,
        }
    }

    /// It came up without the store, and nothing was done on it: it has nothing of its own that the vault could lack.
    pub fn is_untouched_offline(&self) -> bool {
        self.offline.is_some() && self.oracle.borrow().states() == self.born
    }

    /// What whoever took over found; of a line that was never in the log: over the line that it went on with. `written`:
    /// lines to which the log goes on; one that came up without the store takes over as it comes to be there.
    pub fn taken_over(&self, written: &[Rc<Line>]) -> Option<Found> {
        let goes_on = |line: &&Rc<Line>| {
            line.who.machine != self.who.machine
                && line.base.as_ref().is_some_and(|base| base.who.life == self.who.life)
        };
        let found = self.successor.borrow().clone();
        found
            .or_else(|| Some(written.iter().find(goes_on)?.began.clone()))
            .or_else(|| self.base.as_ref()?.taken_over(written))
    }

    /// Did a successor find what the vault has acknowledged on this line?
    pub fn kept_by_successor(&self) -> Result<(), String> {
        let successor = self.successor.borrow();
        let Some(found) = &*successor else { return Ok(()) };
        let kept = self.oracle.borrow().holds(found, false);
        kept.map_err(|why| format!("the vault acknowledged what whoever took it over had not found: {why}"))
    }

    /// Has this machine acknowledged what is not in this state? Then it must have set its journal aside.
    pub fn owes(&self, found: &Found) -> bool {
        self.oracle.borrow().holds(found, true).is_err()
    }
}
