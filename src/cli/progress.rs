//! How far a drain is: a bar on a terminal, plain lines elsewhere; nothing for what takes less than a second.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::mount::drive::Progress;

/// What is over sooner is not worth a word.
const SILENT: Duration = Duration::from_secs(1);
/// Between plain lines.
const PAUSE: Duration = Duration::from_secs(5);

enum Form {
    Quiet,
    Bar(Option<ProgressBar>),
    Lines { last: Option<Instant> },
}

pub struct Display {
    form: Form,
    began: Option<Instant>,
    /// The most that was ever pending: the whole of the bar.
    whole: u64,
}

impl Display {
    pub fn new(quiet: bool) -> Display {
        let form = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Form::Quiet,
            (false, true) => Form::Bar(None),
            (false, false) => Form::Lines { last: None },
        };
        Display { form, began: None, whole: 0 }
    }

    pub fn show(&mut self, now: Progress) {
        if let Some(line) = self.update(now, Instant::now()) {
            // A closed standard error is no reason to end a drain.
            let _ = writeln!(std::io::stderr(), "{}{line}", super::logging::prefix(log::Level::Info));
        }
    }

    /// The plain line that is due, if any.
    fn update(&mut self, now: Progress, at: Instant) -> Option<String> {
        self.whole = self.whole.max(now.pending_bytes);
        let began = *self.began.get_or_insert(at);
        // Nothing pending: it waits for something else than the store.
        if at.duration_since(began) < SILENT || (now.pending_files, now.pending_bytes) == (0, 0) {
            return None;
        }
        match &mut self.form {
            Form::Quiet => None,
            Form::Bar(bar) => {
                let bar = bar.get_or_insert_with(new_bar);
                bar.set_length(self.whole);
                bar.set_position(self.whole - now.pending_bytes);
                bar.set_message(format!("{} files left", now.pending_files));
                None
            }
            Form::Lines { last } if last.is_some_and(|last| at.duration_since(last) < PAUSE) => None,
            Form::Lines { last } => {
                *last = Some(at);
                let left = super::human_bytes(now.pending_bytes);
                // Bytes of a round under way are of no file any more.
                Some(match now.pending_files {
                    0 => format!("dripfs: {left} left to send"),
                    files => format!("dripfs: {left} in {files} files left to send"),
                })
            }
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Form::Bar(Some(bar)) = &self.form {
            bar.finish_and_clear();
        }
    }
}

fn new_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} sent, {msg} ({bytes_per_sec})")
        .expect("the template is a constant that the tests draw");
    ProgressBar::new(0).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pending_bytes: u64) -> Progress {
        Progress { pending_files: 2, pending_bytes }
    }

    #[test]
    fn plain_lines_come_after_a_second_and_then_seldom() {
        let mut display = Display { form: Form::Lines { last: None }, began: None, whole: 0 };
        let began = Instant::now();
        let mut said = Vec::new();
        for tenths in 0..130 {
            let time = began + Duration::from_millis(100 * tenths);
            said.extend(display.update(at(3 << 20), time).map(|line| (tenths, line)));
        }
        let times: Vec<u64> = said.iter().map(|(tenths, _)| *tenths).collect();
        assert_eq!(times, [10, 60, 110]);
        assert_eq!(said[0].1, "dripfs: 3.0 MiB in 2 files left to send");
    }

    #[test]
    fn a_bar_is_drawn_from_the_most_that_was_pending() {
        let mut display = Display { form: Form::Bar(Some(new_bar())), began: None, whole: 0 };
        let began = Instant::now();
        display.update(at(100), began);
        display.update(at(40), began + Duration::from_secs(2));
        let Form::Bar(Some(bar)) = &display.form else { panic!("no bar") };
        assert_eq!((bar.position(), bar.length()), (60, Some(100)));
    }

    #[test]
    fn quiet_is_quiet() {
        let mut display = Display { form: Form::Quiet, began: None, whole: 0 };
        let began = Instant::now();
        for seconds in 0..20 {
            assert_eq!(display.update(at(1), began + Duration::from_secs(seconds)), None);
        }
    }
}
