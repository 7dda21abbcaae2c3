//! Paths in what two processes of ours say to each other: text, or where a path is none, the list of its bytes.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => text.serialize(serializer),
        None => path.as_os_str().as_bytes().serialize(serializer),
    }
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(PathBuf),
        Bytes(Vec<u8>),
    }
    Form::deserialize(deserializer).map(|form| match form {
        Form::Text(path) => path,
        Form::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
    })
}

/// A path that may be left out.
pub mod option {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct There(#[serde(with = "super")] PathBuf);

    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.clone().map(There).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<There>::deserialize(deserializer)?.map(|There(path)| path))
    }
}

/// For people and scripts, who want text whatever it is.
pub fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    path.to_string_lossy().serialize(serializer)
}
