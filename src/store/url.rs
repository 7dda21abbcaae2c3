//! URLs of vaults: what they name, and their one canonical form, for which a state directory is kept.
//!
//! Invariant: `canonical_url` of a canonical URL is that URL.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::StoreError;

pub(super) enum Place {
    Memory(String),
    /// Absolute, symlinks of the existing part resolved.
    Directory(PathBuf),
}

const WORKS: &str =
    "use file:///path, a bare path or memory:///; s3://, gs://, az:// and http(s):// come in a later version";

/// The canonical form of a URL: absolute, symlinks of the existing part resolved, no trailing slash.
pub fn canonical_url(url: &str) -> Result<String, StoreError> {
    match parse(url)? {
        Place::Memory(url) => Ok(url),
        Place::Directory(path) => of_path(&path),
    }
}

pub(super) fn parse(url: &str) -> Result<Place, StoreError> {
    let bad = |why: String| Err(StoreError::BadUrl(why));
    if url.is_empty() {
        return bad(format!("the URL of the vault is empty: {WORKS}"));
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return Ok(Place::Directory(resolve(Path::new(url), url)?));
    };
    match scheme.to_ascii_lowercase().as_str() {
        "file" => {
            let Some(path) = rest.strip_prefix("localhost").unwrap_or(rest).strip_prefix('/') else {
                return bad(format!("{url}: a file URL has three slashes and an absolute path: file:///path"));
            };
            let Some(path) = decode(path) else {
                return bad(format!("{url}: a percent sign must be followed by two hexadecimal digits (%25 is one)"));
            };
            let path = Path::new("/").join(PathBuf::from(std::ffi::OsString::from_vec(path)));
            Ok(Place::Directory(resolve(&path, url)?))
        }
        "memory" => Ok(Place::Memory(format!("memory:///{}", rest.trim_matches('/')))),
        "s3" | "s3a" | "gs" | "az" | "adl" | "abfs" | "abfss" | "http" | "https" => {
            bad(format!("{url}: {scheme}:// is not supported by this version: {WORKS}"))
        }
        _ => bad(format!("{url}: unknown kind of URL {scheme:?}: {WORKS}")),
    }
}

/// Makes a path absolute, and resolves symlinks as far as it exists.
fn resolve(path: &Path, url: &str) -> Result<PathBuf, StoreError> {
    let fails = |why: String| StoreError::BadUrl(format!("{url}: {why}"));
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(fails("a path cannot hold a zero byte".into()));
    }
    let mut existing = std::path::absolute(path).map_err(|e| fails(e.to_string()))?;
    let mut missing = Vec::new();
    loop {
        match existing.canonicalize() {
            Ok(mut whole) => {
                whole.extend(missing.iter().rev());
                return Ok(whole);
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(fails(e.to_string())),
        }
        match existing.components().next_back() {
            Some(Component::Normal(name)) => missing.push(name.to_owned()),
            // `..` below what does not exist has no meaning yet.
            _ => return Err(fails("\"..\" after a directory that does not exist".into())),
        }
        existing.pop();
    }
}

pub(super) fn of_path(path: &Path) -> Result<String, StoreError> {
    let mut url = String::from("file://");
    let text = path.to_str().ok_or_else(|| {
        StoreError::BadUrl(format!("{}: the path of a vault must be valid UTF-8", path.to_string_lossy()))
    })?;
    for c in text.chars() {
        match c {
            '%' | '?' | '#' => url.push_str(&format!("%{:02X}", c as u32)),
            c if c.is_ascii_control() || c == ' ' => url.push_str(&format!("%{:02X}", c as u32)),
            c => url.push(c),
        }
    }
    Ok(url)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            out.push(byte);
            rest = after;
            continue;
        }
        let digits = after.get(..2)?;
        let value = |d: u8| (d as char).to_digit(16);
        out.push((value(digits[0])? * 16 + value(digits[1])?) as u8);
        rest = &after[2..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_path_a_file_url_and_a_symlink_to_it_are_one_vault() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("a b%")).unwrap();
        std::os::unix::fs::symlink("a b%", real.join("link")).unwrap();
        let want = format!("file://{}/a%20b%25", real.display());
        assert_eq!(canonical_url(&format!("{}/a b%/", real.display())).unwrap(), want);
        assert_eq!(canonical_url(&format!("file://{}/link", real.display())).unwrap(), want);
        assert_eq!(canonical_url(&format!("file://localhost{}/link/", real.display())).unwrap(), want);
        assert_eq!(canonical_url(&want).unwrap(), want);
        // What does not exist yet keeps its name below what does.
        let below = canonical_url(&format!("{}/link/x/y/", real.display())).unwrap();
        assert_eq!(below, format!("{want}/x/y"));
    }

    #[test]
    fn unknown_and_later_kinds_of_urls_say_what_works() {
        for url in ["s3://bucket/x", "https://host/x", "ftp://host/x", ""] {
            let error = canonical_url(url).unwrap_err().to_string();
            assert!(error.contains("file:///path") && error.contains("s3://, gs://, az://"), "{error}");
        }
        for url in ["file://host/x", "file://x", "file:///a%2", "file:///a%zz", "/no/such/../x"] {
            assert!(matches!(canonical_url(url), Err(StoreError::BadUrl(_))), "{url}");
        }
    }

    #[test]
    fn memory_urls_keep_their_name() {
        assert_eq!(canonical_url("memory:///").unwrap(), "memory:///");
        assert_eq!(canonical_url("MEMORY:///a/").unwrap(), "memory:///a");
    }
}
