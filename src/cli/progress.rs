//! How far a drain is: a bar on a terminal, plain lines elsewhere; nothing for what takes less than a second.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::mount::drive::Progress;

/// What is over sooner is not worth a word.
const SILENT: Duration = Duration::from_secs(1);
/// Between plain lines.
const PAUSE: Duration = Duration::from_secs(5);

/// What is done with the bytes.
pub struct Verb {
    /// `3 MiB left to send`
    infinitive: &'static str,
    /// `1 MiB/3 MiB sent`
    participle: &'static str,
}

pub const SENT: Verb = Verb { infinitive: "send", participle: "sent" };
pub const FETCHED: Verb = Verb { infinitive: "fetch", participle: "fetched" };

/// What is to be known besides: an object on its way is pending until the last byte of it has arrived.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Bytes that went out since the mount began.
    pub sent: u64,
    /// Why nothing may be moving.
    pub trouble: Option<String>,
}

enum Form {
    Quiet,
    Bar(Option<ProgressBar>),
    Lines { last: Option<Instant> },
}

pub struct Display {
    form: Form,
    verb: Verb,
    began: Option<Instant>,
    /// The most that was ever pending: the whole of the bar.
    whole: u64,
    /// What was pending when that changed last, and what had gone out by then.
    basis: Option<(u64, u64)>,
    /// When it was looked last, and what had gone out by then.
    looked: Option<(Instant, u64)>,
}

impl Display {
    pub fn new(quiet: bool, verb: Verb) -> Display {
        Display::in_form(
            match (quiet, std::io::stderr().is_terminal()) {
                (true, _) => Form::Quiet,
                (false, true) => Form::Bar(None),
                (false, false) => Form::Lines { last: None },
            },
            verb,
        )
    }

    fn in_form(form: Form, verb: Verb) -> Display {
        Display { form, verb, began: None, whole: 0, basis: None, looked: None }
    }

    /// `look` is only called where something is shown.
    pub fn show(&mut self, now: Progress, look: impl FnOnce() -> Option<Look>) {
        if let Some(line) = self.update(now, Instant::now(), look) {
            // A closed standard error is no reason to end a drain.
            let _ = writeln!(std::io::stderr(), "{}{line}", super::logging::prefix(log::Level::Info));
        }
    }

    /// The plain line that is due, if any.
    fn update(&mut self, now: Progress, at: Instant, look: impl FnOnce() -> Option<Look>) -> Option<String> {
        self.whole = self.whole.max(now.pending_bytes);
        let began = *self.began.get_or_insert(at);
        // Nothing pending: it waits for something else than the store.
        if at.duration_since(began) < SILENT || (now.pending_files, now.pending_bytes) == (0, 0) {
            return None;
        }
        if matches!(&self.form, Form::Lines { last: Some(last) } if at.duration_since(*last) < PAUSE)
            || matches!(self.form, Form::Quiet)
        {
            return None;
        }
        let seen = look();
        let under_way = self.under_way(now, seen.as_ref());
        let rate = self.rate(at, seen.as_ref());
        let trouble = seen.and_then(|look| look.trouble);
        match &mut self.form {
            Form::Quiet => None,
            Form::Bar(bar) => {
                let bar = bar.get_or_insert_with(|| new_bar(self.verb.participle));
                bar.set_length(self.whole);
                bar.set_position(self.whole - now.pending_bytes + under_way);
                bar.set_message(trouble.unwrap_or_else(|| match now.pending_files {
                    0 => "the last of it is on the way".to_owned(),
                    files => format!("{files} files left"),
                }));
                None
            }
            Form::Lines { last } => {
                *last = Some(at);
                let (left, verb) = (super::human_bytes(now.pending_bytes), self.verb.infinitive);
                let more = match (trouble, rate) {
                    (Some(trouble), _) => format!(" ({trouble})"),
                    (None, Some(rate)) => format!(" ({}/s now)", super::human_bytes(rate)),
                    (None, None) => String::new(),
                };
                // Bytes of a round under way are of no file any more.
                Some(match now.pending_files {
                    0 => format!("dripfs: {left} left to {verb}{more}"),
                    files => format!("dripfs: {left} in {files} files left to {verb}{more}"),
                })
            }
        }
    }

    /// How much of what is pending has gone out already.
    fn under_way(&mut self, now: Progress, look: Option<&Look>) -> u64 {
        let Some(look) = look else { return 0 };
        match self.basis {
            Some((pending, sent)) if pending == now.pending_bytes => {
                look.sent.saturating_sub(sent).min(now.pending_bytes)
            }
            _ => {
                self.basis = Some((now.pending_bytes, look.sent));
                0
            }
        }
    }

    /// Bytes a second since the last look.
    fn rate(&mut self, at: Instant, look: Option<&Look>) -> Option<u64> {
        let sent = look?.sent;
        let (then, before) = self.looked.replace((at, sent))?;
        let seconds = at.duration_since(then).as_secs_f64();
        (seconds > 0.0).then(|| (sent.saturating_sub(before) as f64 / seconds) as u64)
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Form::Bar(Some(bar)) = &self.form {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(participle: &str) -> ProgressBar {
    let template = format!("{{bar:30}} {{bytes}}/{{total_bytes}} {participle}, {{msg}} ({{bytes_per_sec}})");
    let style = ProgressStyle::with_template(&template).expect("the tests draw it");
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
        let mut display = Display::in_form(Form::Lines { last: None }, SENT);
        let began = Instant::now();
        let mut said = Vec::new();
        for tenths in 0..130 {
            let time = began + Duration::from_millis(100 * tenths);
            said.extend(display.update(at(3 << 20), time, || None).map(|line| (tenths, line)));
        }
        let times: Vec<u64> = said.iter().map(|(tenths, _)| *tenths).collect();
        assert_eq!(times, [10, 60, 110]);
        assert_eq!(said[0].1, "dripfs: 3.0 MiB in 2 files left to send");
    }

    #[test]
    fn a_bar_is_drawn_from_the_most_that_was_pending() {
        let mut display = Display::in_form(Form::Bar(Some(new_bar("sent"))), SENT);
        let began = Instant::now();
        display.update(at(100), began, || None);
        display.update(at(40), began + Duration::from_secs(2), || None);
        let Form::Bar(Some(bar)) = &display.form else { panic!("no bar") };
        assert_eq!((bar.position(), bar.length()), (60, Some(100)));
    }

    #[test]
    fn an_object_that_is_under_way_is_seen_to_move_and_a_standstill_is_explained() {
        let began = Instant::now();
        let look = |sent| move || Some(Look { sent, trouble: None });
        let time = |seconds| began + Duration::from_secs(seconds);
        let mut display = Display::in_form(Form::Lines { last: None }, SENT);
        assert_eq!(display.update(at(3 << 20), time(0), look(7)), None);
        assert_eq!(display.update(at(3 << 20), time(1), look(7)).unwrap(), "dripfs: 3.0 MiB in 2 files left to send");
        let line = display.update(at(3 << 20), time(6), look(7 + (1 << 20))).unwrap();
        assert_eq!(line, "dripfs: 3.0 MiB in 2 files left to send (204.8 KiB/s now)");
        let away = || Some(Look { sent: 7, trouble: Some("outage: for 9 s".to_owned()) });
        assert!(display.update(at(3 << 20), time(11), away).unwrap().ends_with("left to send (outage: for 9 s)"));
        let mut display = Display::in_form(Form::Bar(None), FETCHED);
        for (seconds, pending, sent) in [(0, 100, 5), (1, 100, 5), (2, 100, 35), (3, 60, 45), (4, 60, 1000)] {
            display.update(at(pending), time(seconds), look(sent));
            let position = match &display.form {
                Form::Bar(Some(bar)) => bar.position(),
                _ => 0,
            };
            assert_eq!(position, [0, 0, 30, 40, 100][seconds as usize]);
        }
    }

    #[test]
    fn quiet_is_quiet() {
        let mut display = Display::in_form(Form::Quiet, SENT);
        let began = Instant::now();
        for seconds in 0..20 {
            assert_eq!(display.update(at(1), began + Duration::from_secs(seconds), || None), None);
        }
    }
}
