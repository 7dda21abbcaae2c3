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
    Bucket(Bucket),
    /// Only to be read: scheme and host in lower case, no slash at the end.
    Web(String),
}

/// A bucket (or container) of a provider, and the prefix below which the vault lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bucket {
    pub provider: Provider,
    pub name: String,
    /// "" or names with slashes between them.
    pub prefix: String,
    /// Of Azure, where the URL names it.
    pub account: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Provider {
    S3,
    Google,
    Azure,
}

impl Provider {
    fn of(scheme: &str) -> Option<Provider> {
        match scheme {
            "s3" | "s3a" => Some(Provider::S3),
            "gs" => Some(Provider::Google),
            "az" | "azure" | "adl" | "abfs" | "abfss" => Some(Provider::Azure),
            _ => None,
        }
    }

    fn scheme(self) -> &'static str {
        match self {
            Provider::S3 => "s3",
            Provider::Google => "gs",
            Provider::Azure => "az",
        }
    }
}

const WORKS: &str = "use file:///path, a bare path, memory:///, s3://bucket/prefix, gs://bucket/prefix, \
     az://container/prefix, or (only to read) http(s)://host/path";

/// Never repeats the URL: what is wrong with it may be a secret.
const SECRET: &str = "a URL names a place and holds no user, password, key or query (it is seen in lists of processes and \
     in logs): give credentials in the environment or in your provider's files";

/// The canonical form of a URL: absolute, symlinks of the existing part resolved, no trailing slash, one name for each
/// kind of store.
pub fn canonical_url(url: &str) -> Result<String, StoreError> {
    match parse(url)? {
        Place::Memory(url) | Place::Web(url) => Ok(url),
        Place::Directory(path) => of_path(&path),
        Place::Bucket(bucket) => Ok(bucket.url()),
    }
}

pub(super) fn parse(url: &str) -> Result<Place, StoreError> {
    let bad = |why: String| Err(StoreError::BadUrl(why));
    if url.is_empty() {
        return bad(format!("the URL of the vault is empty: {WORKS}"));
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        refuse_half_a_scheme(url)?;
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
        scheme @ ("http" | "https") => web(scheme, rest, url),
        scheme => match Provider::of(scheme) {
            Some(provider) => Bucket::parse(provider, rest, url).map(Place::Bucket),
            None => bad(format!("{}: unknown kind of URL {scheme:?}: {WORKS}", without_secrets(url))),
        },
    }
}

/// `s3:bucket/x` is no directory that anybody wants.
fn refuse_half_a_scheme(url: &str) -> Result<(), StoreError> {
    let Some((word, rest)) = url.split_once(':') else { return Ok(()) };
    let scheme = word.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "file" | "memory" | "http" | "https") && Provider::of(&scheme).is_none() {
        return Ok(());
    }
    let shown = without_secrets(url);
    let meant = match (scheme.as_str(), shown.contains(':')) {
        (_, false) => format!("{scheme}://..."),
        ("file", true) => format!("file:///{}", without_secrets(rest).trim_start_matches('/')),
        (_, true) => format!("{scheme}://{}", without_secrets(rest).trim_start_matches('/')),
    };
    Err(StoreError::BadUrl(format!(
        "{shown}: two slashes are missing: is {meant} meant? (A directory of that name would be ./{shown})"
    )))
}

/// What may be repeated in a message: up to where secrets would begin.
fn without_secrets(url: &str) -> &str {
    match url.contains('@') {
        true => url.split_once("://").map_or("", |(scheme, _)| scheme),
        false => url.split(['?', '#']).next().unwrap_or(""),
    }
}

impl Bucket {
    fn parse(provider: Provider, rest: &str, url: &str) -> Result<Bucket, StoreError> {
        if rest.contains(['?', '#']) {
            return Err(StoreError::BadUrl(SECRET.to_owned()));
        }
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let (name, account) = match (provider, authority.split_once('@')) {
            // abfss://container@account.dfs.core.windows.net/prefix
            (Provider::Azure, Some((name, host))) if !name.contains(':') => {
                (name, Some(host.split('.').next().unwrap_or(host).to_owned()))
            }
            (_, Some(_)) => return Err(StoreError::BadUrl(SECRET.to_owned())),
            (_, None) => (authority, None),
        };
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || !name.chars().all(sound) || account.as_ref().is_some_and(String::is_empty) {
            let (scheme, what) = (provider.scheme(), if provider == Provider::Azure { "container" } else { "bucket" });
            return Err(StoreError::BadUrl(format!(
                "{url}: after {scheme}:// comes the name of a {what} (letters, digits, - _ .), then a slash and a prefix"
            )));
        }
        Ok(Bucket { provider, name: name.to_owned(), prefix: prefix_of(prefix, url)?, account })
    }

    pub(super) fn url(&self) -> String {
        let mut url = format!("{}://{}", self.provider.scheme(), self.name);
        if let Some(account) = &self.account {
            url = format!("{url}@{account}.dfs.core.windows.net");
        }
        if !self.prefix.is_empty() {
            url.push('/');
            encode(&self.prefix, &mut url);
        }
        url
    }
}

/// Names with one slash between each two; percent signs decoded.
fn prefix_of(path: &str, url: &str) -> Result<String, StoreError> {
    let fails = |why: &str| StoreError::BadUrl(format!("{url}: {why}"));
    let decoded = decode(path).ok_or_else(|| fails("a percent sign must be followed by two hexadecimal digits"))?;
    let decoded = String::from_utf8(decoded).map_err(|_| fails("a prefix must be valid UTF-8"))?;
    let names: Vec<&str> = decoded.split('/').filter(|name| !name.is_empty()).collect();
    if names.iter().any(|name| matches!(*name, "." | "..")) || decoded.chars().any(char::is_control) {
        return Err(fails("a prefix has no \".\", no \"..\" and no control characters in it"));
    }
    Ok(names.join("/"))
}

fn web(scheme: &str, rest: &str, url: &str) -> Result<Place, StoreError> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') || rest.contains(['?', '#']) {
        return Err(StoreError::BadUrl(SECRET.to_owned()));
    }
    let host = authority.to_ascii_lowercase();
    let default = if scheme == "http" { ":80" } else { ":443" };
    let host = host.strip_suffix(default).unwrap_or(&host);
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '[' | ']' | '_');
    if host.is_empty() || !host.chars().all(sound) {
        return Err(StoreError::BadUrl(format!("{url}: after {scheme}:// comes the name of a host")));
    }
    let mut canonical = format!("{scheme}://{host}");
    let path = prefix_of(path, url)?;
    if !path.is_empty() {
        canonical.push('/');
        encode(&path, &mut canonical);
    }
    Ok(Place::Web(canonical))
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
                if std::fs::metadata(&whole).is_ok_and(|meta| !meta.is_dir()) {
                    return Err(fails(format!("{} is a file: a vault lies in a directory", whole.display())));
                }
                whole.extend(missing.iter().rev());
                return Ok(whole);
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
                return Err(fails(format!("a file stands on the way there, not a directory: {}", existing.display())));
            }
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(fails("permission denied on the way there: whose are the directories above it?".into()));
            }
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
    encode(text, &mut url);
    Ok(url)
}

fn encode(text: &str, url: &mut String) {
    for c in text.chars() {
        match c {
            '%' | '?' | '#' => url.push_str(&format!("%{:02X}", c as u32)),
            c if c.is_ascii_control() || c == ' ' => url.push_str(&format!("%{:02X}", c as u32)),
            c => url.push(c),
        }
    }
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
    fn unknown_kinds_of_urls_say_what_works() {
        for url in ["ftp://host/x", ""] {
            let error = canonical_url(url).unwrap_err().to_string();
            assert!(error.contains("file:///path") && error.contains("s3://bucket/prefix"), "{error}");
        }
        for url in ["file://host/x", "file://x", "file:///a%2", "file:///a%zz", "/no/such/../x"] {
            assert!(matches!(canonical_url(url), Err(StoreError::BadUrl(_))), "{url}");
        }
    }

    #[test]
    fn a_scheme_without_its_slashes_is_no_directory_and_repeats_no_secret() {
        for (url, meant) in [
            ("s3:bucket/x", "is s3://bucket/x meant"),
            ("GS:/b", "is gs://b meant"),
            ("file:/srv/v", "is file:///srv/v meant"),
            ("https:host/v", "is https://host/v meant"),
            ("memory:/", "is memory:// meant"),
        ] {
            let error = canonical_url(url).unwrap_err().to_string();
            assert!(error.contains(meant), "{error}");
        }
        for url in ["s3:key:SECRET@bucket", "az:box/x?sig=SECRET"] {
            let error = canonical_url(url).unwrap_err().to_string();
            assert!(!error.contains("SECRET"), "{error}");
        }
        for path in ["./s3:bucket", "/tmp/a:b", "c:/x", "2026-11-30T12:00"] {
            assert!(canonical_url(path).unwrap().starts_with("file:///"), "{path}");
        }
    }

    #[test]
    fn buckets_have_one_spelling() {
        for (url, want) in [
            ("s3://bucket", "s3://bucket"),
            ("S3a://bucket/", "s3://bucket"),
            ("s3://bucket//a//b%20c/", "s3://bucket/a/b%20c"),
            ("s3://bucket/%61/b c", "s3://bucket/a/b%20c"),
            ("gs://my_bucket.example/x", "gs://my_bucket.example/x"),
            ("azure://box/x", "az://box/x"),
            ("abfss://box@account.dfs.core.windows.net/x/", "az://box@account.dfs.core.windows.net/x"),
            ("HTTPS://Host.Example:443/a/", "https://host.example/a"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:80/x", "http://[::1]/x"),
        ] {
            assert_eq!(canonical_url(url).unwrap(), want);
            assert_eq!(canonical_url(want).unwrap(), want, "canonical already");
        }
        for url in ["s3://", "s3:///x", "s3://a b/x", "gs://b/../x", "az://b/%zz", "http:///x", "s3://b/%00"] {
            assert!(matches!(canonical_url(url), Err(StoreError::BadUrl(_))), "{url}");
        }
    }

    #[test]
    fn a_secret_in_a_url_is_refused_and_not_repeated() {
        for url in [
            "s3://AKIA:SECRET@bucket/x",
            "s3://SECRET@bucket/x",
            "s3://bucket/x?X-Amz-Signature=SECRET",
            "az://box:SECRET@account/x",
            "az://box/x?sig=SECRET",
            "http://user:SECRET@host/x",
            "https://host/x?token=SECRET",
            "https://host/x#SECRET",
            "ftp://user:SECRET@host/x",
            "ftp://host/x?SECRET",
        ] {
            let error = canonical_url(url).unwrap_err().to_string();
            assert!(!error.contains("SECRET"), "{url}: {error}");
        }
    }

    #[test]
    fn memory_urls_keep_their_name() {
        assert_eq!(canonical_url("memory:///").unwrap(), "memory:///");
        assert_eq!(canonical_url("MEMORY:///a/").unwrap(), "memory:///a");
    }
}
