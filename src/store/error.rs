//! What can go wrong with a store, and what an error of object_store means to us.
//!
//! Owns the meaning of answers: which pass by waiting, which need other credentials, which say that the place is wrong.
//! Invariant: nothing of a request but the object's name, and of an answer but its code and one line, goes into a
//! message: bodies of errors, headers and URLs may hold secrets.

use std::io;

use object_store::Error as ObjectError;
use thiserror::Error;

#[derive(Debug, Error, Clone)]
pub enum StoreError {
    /// The URL cannot be used; says why and what would do.
    #[error("{0}")]
    BadUrl(String),
    /// The store does not answer, or not in time, or with an error that may pass.
    #[error("{name}: {}{why}", if self.has_no_bucket() { "" } else { "the store does not answer: " })]
    Unavailable { name: String, why: String },
    /// The store refuses (credentials, permissions, read-only).
    #[error("{name}: the store refuses: {why}")]
    Refused { name: String, why: String },
    /// Create-if-absent does not hold here.
    #[error("{0}")]
    NoConditionalCreate(String),
    /// More bytes came, or would come, than anything of a vault has: somebody else made it. Nothing was read into memory.
    #[error("{name}: {bytes} bytes or more, where a vault has {most} at most: it is not what dripfs put there")]
    TooLarge { name: String, bytes: u64, most: u64 },
}

impl StoreError {
    /// It answered: what is missing is the bucket.
    pub fn has_no_bucket(&self) -> bool {
        matches!(self, StoreError::Unavailable { why, .. } if why.starts_with(THERE_IS_NONE))
    }
}

/// What is said of a bucket that is not there.
const THERE_IS_NONE: &str = "there is no such bucket or container";
/// Codes in answers that have a status of another meaning.
const REFUSALS: [&str; 5] =
    ["ExpiredToken", "InvalidToken", "TokenRefreshRequired", "AccountIsDisabled", "AuthenticationFailed"];
const NO_BUCKET: [&str; 3] = ["NoSuchBucket", "ContainerNotFound", "specified bucket does not exist"];
/// Two conditional puts met; neither answer says what stands.
const CONFLICT: &str = "ConditionalRequestConflict";

/// Status and text of an answer that is an error.
pub(super) struct Answer {
    pub status: u16,
    pub text: String,
}

impl Answer {
    /// `None` if the error is no answer of a server.
    pub(super) fn of(error: &ObjectError) -> Option<Answer> {
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let text = cause.to_string();
        let (_, text) = text.split_once("status code: ")?;
        let status = text.get(..3)?.parse().ok()?;
        Some(Answer { status, text: text.trim_end_matches([':', ' ']).to_owned() })
    }

    pub(super) fn has_no_bucket(&self) -> bool {
        self.status == 404 && NO_BUCKET.iter().any(|code| self.text.contains(code))
    }

    pub(super) fn is_conflict(&self) -> bool {
        self.status == 409 && self.text.contains(CONFLICT)
    }

    pub(super) fn refuses(&self) -> bool {
        matches!(self.status, 401 | 403) || REFUSALS.iter().any(|code| self.text.contains(code))
    }
}

/// What an error of object_store means to us. The innermost cause is what a user can act on.
pub(super) fn meaning(name: &str, error: &ObjectError) -> StoreError {
    let mut refused = matches!(error, ObjectError::PermissionDenied { .. } | ObjectError::Unauthenticated { .. });
    let mut full = false;
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
        if let Some(e) = inner.downcast_ref::<io::Error>() {
            refused |= refuses(e.kind());
            full |= matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        }
    }
    let (name, mut why) = (name.to_owned(), cause.to_string());
    if full {
        why = format!("no space is left there ({why}): make room");
    }
    if let Some(answer) = Answer::of(error) {
        if answer.has_no_bucket() {
            why = format!("{THERE_IS_NONE}: look at the spelling, or make it with your provider's tools");
            return StoreError::Unavailable { name, why };
        }
        refused |= answer.refuses();
        why = answer.text;
    }
    match error {
        ObjectError::NotImplemented { .. } | ObjectError::NotSupported { .. } => StoreError::NoConditionalCreate(
            format!("{name}: this store cannot do what a vault needs ({why}); use one that supports conditional puts"),
        ),
        _ if refused => StoreError::Refused { name, why },
        _ => StoreError::Unavailable { name, why },
    }
}

/// Errors of the local disk that do not pass by waiting.
pub(super) fn refuses(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(text: &str) -> StoreError {
        let error = ObjectError::Generic { store: "S3", source: text.to_owned().into() };
        meaning("log/1", &error)
    }

    #[test]
    fn a_full_disk_is_no_store_that_does_not_answer_and_nothing_more() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = ObjectError::Generic { store: "LocalFileSystem", source: Box::new(full) };
        let error = meaning("segments/1", &error);
        assert!(matches!(error, StoreError::Unavailable { .. }), "it passes once there is room: {error}");
        assert!(
            error.to_string().contains("no space is left there") && error.to_string().contains("make room"),
            "{error}"
        );
    }

    #[test]
    fn answers_are_told_apart_by_status_and_code() {
        let status = "Server returned non-2xx status code: ";
        for (text, shown) in [
            ("503 Service Unavailable: SlowDown: slower", "does not answer: 503 Service Unavailable: SlowDown: slower"),
            ("500 Internal Server Error: ", "does not answer: 500 Internal Server Error"),
            ("403 Forbidden: AccessDenied: no", "refuses: 403 Forbidden: AccessDenied: no"),
            ("401 Unauthorized: ", "refuses: 401 Unauthorized"),
            ("400 Bad Request: ExpiredToken: over", "refuses: 400 Bad Request: ExpiredToken: over"),
            ("404 Not Found: NoSuchBucket: none", "log/1: there is no such bucket"),
            ("404 Not Found: ContainerNotFound: none", "there is no such bucket"),
        ] {
            let error = answered(&format!("{status}{text}")).to_string();
            assert!(error.contains(shown), "{error}");
        }
    }
}
