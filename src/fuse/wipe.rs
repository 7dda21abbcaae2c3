//! Plaintext in the buffers into which fuser reads requests: the last write of each of its threads would lie there until
//! a longer one comes, for hours on a drive that is only read (promise 7).

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::LazyLock;

/// Overwrites the bytes that a request brought. Called when all is done with them.
///
/// fuser hands them out to look at only, and has no word for this. They are the kernel's to write, by read(2), and that
/// is how they are overwritten: as the next request would do it.
pub(super) fn request(data: &[u8]) {
    static ZEROS: LazyLock<Option<File>> = LazyLock::new(|| File::open("/dev/zero").ok());
    let Some(zeros) = &*ZEROS else { return };
    // SAFETY: the memory is that of fuser's buffer, writable, and at least as long; the thread that owns it is this one,
    // and fuser does not look at a request's data once its handler has returned, nor do we after this.
    let wiped = unsafe { libc::read(zeros.as_raw_fd(), data.as_ptr().cast_mut().cast(), data.len()) };
    if usize::try_from(wiped) != Ok(data.len()) {
        // A signal, while much was wiped: the next write does it.
        log::debug!("{wiped} of {} bytes of a request were wiped", data.len());
    }
}
