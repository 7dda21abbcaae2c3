//! What is done when a signal ends the program: a terminal that was asked for a secret shows again what is typed, and who
//! leaves a command hears what goes on without it.
//!
//! Owns the handlers of the signals that end a program, while an [`Interrupt`] lives. Does not own the signals of a mount:
//! that one ends in order.
//!
//! Invariants: a handler only calls what may be called in one (tcsetattr, write, raise); the program ends by the signal, as
//! whoever started it expects.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

const SIGNALS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// What the handler does last.
struct Last {
    terminal: Option<(RawFd, libc::termios)>,
    out: RawFd,
    words: &'static str,
}

static LAST: AtomicPtr<Last> = AtomicPtr::new(ptr::null_mut());

/// In force while it lives; one at a time.
pub struct Interrupt {
    before: Vec<(libc::c_int, libc::sigaction)>,
    _terminal: Option<File>,
}

impl Interrupt {
    /// The terminal is as it is now, whatever ends the program.
    pub fn restoring(terminal: File) -> io::Result<Interrupt> {
        let fd = terminal.as_raw_fd();
        // SAFETY: any bytes are a valid termios, and tcgetattr fills it in or fails.
        let mut now: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open, `now` is one termios.
        if unsafe { libc::tcgetattr(fd, &mut now) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Interrupt::new(Last { terminal: Some((fd, now)), out: fd, words: "\n" }, Some(terminal)))
    }

    /// These words are said on standard error.
    pub fn saying(words: &'static str) -> Interrupt {
        Interrupt::new(Last { terminal: None, out: libc::STDERR_FILENO, words }, None)
    }

    fn new(last: Last, terminal: Option<File>) -> Interrupt {
        let old = LAST.swap(Box::into_raw(Box::new(last)), Ordering::AcqRel);
        debug_assert!(old.is_null(), "one at a time");
        let before = SIGNALS.into_iter().filter_map(|signal| handle(signal).map(|before| (signal, before))).collect();
        Interrupt { before, _terminal: terminal }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            // SAFETY: what was in force before, as sigaction told it.
            unsafe { libc::sigaction(*signal, before, ptr::null_mut()) };
        }
        // Not freed: a handler may be running in another thread.
        LAST.store(ptr::null_mut(), Ordering::Release);
    }
}

/// Puts the handler in force; `None` where the signal is ignored (as under nohup), and stays so.
fn handle(signal: libc::c_int) -> Option<libc::sigaction> {
    // SAFETY: any bytes are a valid sigaction.
    let (mut action, mut before): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ended as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // The default is in force again within the handler.
    action.sa_flags = libc::SA_RESETHAND;
    // SAFETY: both are whole; the handler calls only what may be called in one.
    unsafe {
        libc::sigemptyset(&mut action.sa_mask);
        if libc::sigaction(signal, ptr::null(), &mut before) != 0 || before.sa_sigaction == libc::SIG_IGN {
            return None;
        }
        libc::sigaction(signal, &action, ptr::null_mut());
    }
    Some(before)
}

extern "C" fn ended(signal: libc::c_int) {
    // SAFETY: it points to nothing or to what is never freed; the calls may be made in a handler.
    unsafe {
        if let Some(last) = LAST.load(Ordering::Acquire).as_ref() {
            if let Some((fd, before)) = &last.terminal {
                libc::tcsetattr(*fd, libc::TCSANOW, before);
            }
            libc::write(last.out, last.words.as_ptr().cast(), last.words.len());
        }
        libc::raise(signal);
    }
}
