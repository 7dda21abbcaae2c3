//! What an [`FsError`] is to the kernel. No wildcard: a new variant must be given its errno here to compile.
//!
//! Never ENOSYS: the kernel takes it for "this filesystem does not know the operation" and never asks again.

use fuser::Errno;

use crate::fs::FsError;

/// The errno that an operation's error is answered with.
pub fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotDirectory => Errno::ENOTDIR,
        FsError::IsDirectory => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::Invalid => Errno::EINVAL,
        FsError::NotPermitted => Errno::EPERM,
        FsError::AccessDenied => Errno::EACCES,
        FsError::ReadOnly => Errno::EROFS,
        FsError::NoSpace => Errno::ENOSPC,
        FsError::TooLarge => Errno::EFBIG,
        FsError::ValueTooLarge => Errno::E2BIG,
        FsError::BufferTooSmall => Errno::ERANGE,
        FsError::NoAttribute => Errno::ENODATA,
        FsError::NoDataThere => Errno::ENXIO,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::Stale => Errno::ESTALE,
        FsError::Unsupported => Errno::EOPNOTSUPP,
        FsError::Io(_) => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_programs_act_on_keep_their_numbers() {
        for (error, number) in [
            (FsError::NotFound, libc::ENOENT),
            (FsError::NotEmpty, libc::ENOTEMPTY),
            (FsError::NameTooLong, libc::ENAMETOOLONG),
            (FsError::NoAttribute, libc::ENODATA),
            (FsError::BufferTooSmall, libc::ERANGE),
            (FsError::NoDataThere, libc::ENXIO),
            (FsError::ReadOnly, libc::EROFS),
            (FsError::NoSpace, libc::ENOSPC),
            (FsError::Io("why".into()), libc::EIO),
        ] {
            assert_eq!(i32::from(errno(&error)), number, "{error:?}");
        }
    }

    #[test]
    fn unsupported_is_not_enosys() {
        assert_ne!(i32::from(errno(&FsError::Unsupported)), libc::ENOSYS);
    }
}
