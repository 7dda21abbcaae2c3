//! Buckets of providers, and web servers to read from: built from the environment and the providers' files, and built
//! anew when a store refuses what it was built from.
//!
//! | store | where credentials and settings come from |
//! |---|---|
//! | s3:// | `AWS_*`, else `~/.aws/credentials` and `~/.aws/config`, else the machine's or container's role |
//! | gs:// | `GOOGLE_*`, `SERVICE_ACCOUNT`, `~/.config/gcloud/application_default_credentials.json`, else the machine's |
//! | az:// | `AZURE_*`, also as the az tool calls them (account, key, SAS token, connection string), else the machine's |
//!
//! Invariants: object_store's own retries are off; an overwrite is never allowed to stand for a create; no secret leaves
//! this file but into object_store.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::StoreError;
use super::limit::{Limiter, Limits};
use super::profile::{self, Variables};
use super::progress::Pace;
use super::transport::Transport;
use super::url::{Bucket, Provider};

/// A refused store is built anew at most so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// ... and, where nothing new was found, so often all the same: what a provider keeps in memory (a token) goes with it.
const RENEW_EVERY: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    Bucket(Bucket),
    Web(String),
}

pub(super) struct Remote {
    origin: Origin,
    transport: Transport,
    environment: Environment,
    built: Mutex<Built>,
    pub(super) pace: Pace,
    /// A server that gives no parts of objects: the last object that was got whole instead.
    pub(super) whole: Mutex<Option<(String, Bytes)>>,
}

struct Built {
    store: Arc<dyn ObjectStore>,
    /// Of what it was built from; never shown.
    fingerprint: u64,
    looked: Option<Instant>,
    renewed: Instant,
}

impl Remote {
    pub(super) fn new(origin: Origin, limits: Limits, environment: Environment) -> Result<Remote, StoreError> {
        let mut roots = None;
        if let Some(path) = settings(&origin, environment()).get("AWS_CA_BUNDLE").filter(|path| !path.is_empty()) {
            let pem = std::fs::read(path).map_err(|e| StoreError::BadUrl(format!("AWS_CA_BUNDLE: {path}: {e}")))?;
            roots = Some(pem);
        }
        let transport = Transport::new(Limiter::new(limits.upload), roots.as_deref())?;
        let (store, fingerprint) = build(&origin, &transport, environment())?;
        let built = Mutex::new(Built { store, fingerprint, looked: None, renewed: Instant::now() });
        let (pace, whole) = (Pace::default(), Mutex::new(None));
        Ok(Remote { origin, transport, environment, built, pace, whole })
    }

    pub(super) fn store(&self) -> Arc<dyn ObjectStore> {
        self.built.lock().store.clone()
    }

    /// Of uploads, from now on.
    pub(super) fn limit(&self, rate: Option<std::num::NonZeroU64>) {
        self.transport.limit(rate);
    }

    pub(super) fn clock_ahead(&self) -> Option<i64> {
        self.transport.clock_ahead()
    }

    /// Bytes of bodies that went out.
    pub(super) fn sent(&self) -> u64 {
        self.transport.sent()
    }

    pub(super) fn is_web(&self) -> bool {
        matches!(self.origin, Origin::Web(_))
    }

    /// The store refused. Are there other credentials by now? Then they are used from now on.
    pub(super) fn refresh(&self, url: &str) -> bool {
        let now = Instant::now();
        {
            let mut built = self.built.lock();
            if built.looked.is_some_and(|looked| now.duration_since(looked) < LOOK_EVERY) {
                return false;
            }
            built.looked = Some(now);
        }
        let (store, fingerprint) = match build(&self.origin, &self.transport, (self.environment)()) {
            Ok(built) => built,
            Err(error) => {
                log::debug!("{url}: not built anew: {error}");
                return false;
            }
        };
        let mut built = self.built.lock();
        let is_new = built.fingerprint != fingerprint;
        if is_new || now.duration_since(built.renewed) >= RENEW_EVERY {
            *built = Built { store, fingerprint, looked: Some(now), renewed: now };
        }
        if is_new {
            log::info!("{url}: the store refused; there are other credentials by now, which are used from here on");
        }
        is_new
    }

    /// What to do where the store refuses.
    pub(super) fn advice(&self) -> &'static str {
        match &self.origin {
            Origin::Bucket(Bucket { provider: Provider::S3, .. }) => {
                "look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or at AWS_PROFILE and ~/.aws/credentials"
            }
            Origin::Bucket(Bucket { provider: Provider::Google, .. }) => "look at GOOGLE_APPLICATION_CREDENTIALS",
            Origin::Bucket(Bucket { provider: Provider::Azure, .. }) => {
                "look at AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY, or at the other AZURE_ variables"
            }
            Origin::Web(_) => "only what everybody may read is read over http",
        }
    }
}

/// The environment that credentials come from; read anew each time.
pub type Environment = Arc<dyn Fn() -> Variables + Send + Sync>;

/// Of this process.
pub(super) fn of_process() -> Environment {
    Arc::new(|| std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect())
}

/// What counts for this kind of store.
fn settings(origin: &Origin, mut variables: Variables) -> Variables {
    let Origin::Bucket(bucket) = origin else { return Variables::new() };
    if bucket.provider == Provider::S3 {
        profile::complete(&mut variables, |path| std::fs::read_to_string(path).ok());
    }
    let prefix = match bucket.provider {
        Provider::S3 => "AWS_",
        Provider::Google => "GOOGLE_",
        Provider::Azure => "AZURE_",
    };
    let other = ["SERVICE_ACCOUNT", "HOME", "IDENTITY_ENDPOINT"];
    variables.retain(|name, value| !value.is_empty() && (name.starts_with(prefix) || other.contains(&name.as_str())));
    variables
}

fn build(
    origin: &Origin,
    transport: &Transport,
    variables: Variables,
) -> Result<(Arc<dyn ObjectStore>, u64), StoreError> {
    let variables = settings(origin, variables);
    let mut hasher = DefaultHasher::new();
    variables.hash(&mut hasher);
    let store: Arc<dyn ObjectStore> = match origin {
        Origin::Bucket(bucket) => {
            let store = match bucket.provider {
                Provider::S3 => amazon(bucket, transport, &variables)?,
                Provider::Google => google(bucket, transport, &variables, &mut hasher)?,
                Provider::Azure => azure(bucket, transport, &variables)?,
            };
            match bucket.prefix.is_empty() {
                true => store,
                false => Arc::new(PrefixStore::new(store, Path::from(bucket.prefix.as_str()))),
            }
        }
        Origin::Web(url) => {
            let builder = HttpBuilder::new().with_url(url).with_retry(once()).with_http_connector(transport.clone());
            let options = ClientOptions::new().with_allow_http(true);
            Arc::new(builder.with_client_options(options).build().map_err(|e| bad(url, &e))?)
        }
    };
    Ok((store, hasher.finish()))
}

/// Who asks decides whether to ask again, and sees each failure.
fn once() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: Duration::ZERO }
}

fn bad(url: &str, error: &dyn std::error::Error) -> StoreError {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    StoreError::BadUrl(format!("{url}: {cause}"))
}

fn is_set(variables: &Variables, name: &str) -> bool {
    variables.get(name).is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on"))
}

/// Unencrypted only on demand. (Keys are not sent, but who listens sees what is asked for and when.)
fn refuse_plain(url: &str, endpoint: Option<&String>, allowed: bool, word: &str) -> Result<(), StoreError> {
    match endpoint {
        Some(endpoint) if endpoint.starts_with("http://") && !allowed => Err(StoreError::BadUrl(format!(
            "{url}: the endpoint {} is not encrypted; if you mean that, set {word}=true",
            without_user(endpoint)
        ))),
        _ => Ok(()),
    }
}

fn without_user(endpoint: &str) -> &str {
    if endpoint.contains('@') { "in the environment" } else { endpoint }
}

fn amazon(bucket: &Bucket, transport: &Transport, variables: &Variables) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let url = bucket.url();
    let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].iter().find_map(|n| variables.get(*n));
    refuse_plain(&url, endpoint, is_set(variables, "AWS_ALLOW_HTTP"), "AWS_ALLOW_HTTP")?;
    let mut builder = AmazonS3Builder::new();
    for (name, value) in variables {
        let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() else { continue };
        match key {
            // Conditional puts are what writers stand on.
            AmazonS3ConfigKey::Bucket | AmazonS3ConfigKey::ConditionalPut | AmazonS3ConfigKey::Client(_) => {}
            key => builder = builder.with_config(key, value),
        }
    }
    let ways_in = [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_SKIP_SIGNATURE",
    ];
    if is_set(variables, "AWS_EC2_METADATA_DISABLED") && !ways_in.iter().any(|name| variables.contains_key(*name)) {
        return Err(StoreError::BadUrl(format!(
            "{url}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or put them into ~/.aws/credentials"
        )));
    }
    let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    if let Some(missing) = keys.iter().find(|name| !variables.contains_key(**name))
        && keys.iter().any(|name| variables.contains_key(*name))
    {
        return Err(StoreError::BadUrl(format!("{url}: half of the credentials: {missing} is missing")));
    }
    let builder = builder
        .with_bucket_name(&bucket.name)
        // One name a request: some servers answer the other way so that nobody can read it.
        .with_disable_bulk_delete(true)
        .with_retry(once())
        .with_http_connector(transport.clone());
    Ok(Arc::new(builder.build().map_err(|e| bad(&url, &e))?))
}

fn google(
    bucket: &Bucket,
    transport: &Transport,
    variables: &Variables,
    hasher: &mut impl Hasher,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let url = bucket.url();
    let allowed = is_set(variables, "GOOGLE_ALLOW_HTTP");
    refuse_plain(&url, variables.get("GOOGLE_BASE_URL"), allowed, "GOOGLE_ALLOW_HTTP")?;
    let mut builder = GoogleCloudStorageBuilder::new();
    let mut files = vec![variables.get("SERVICE_ACCOUNT").map(PathBuf::from)];
    for (name, value) in variables {
        let Ok(key) = name.to_ascii_lowercase().parse::<GoogleConfigKey>() else { continue };
        match key {
            GoogleConfigKey::Bucket | GoogleConfigKey::Client(_) => continue,
            GoogleConfigKey::ServiceAccount | GoogleConfigKey::ApplicationCredentials => {
                if let Err(e) = std::fs::metadata(value) {
                    return Err(StoreError::BadUrl(format!("{url}: {name}: {value}: {e}")));
                }
                files.push(Some(value.into()));
            }
            _ => {}
        }
        builder = builder.with_config(key, value);
    }
    if let Some(path) = variables.get("SERVICE_ACCOUNT").filter(|_| !variables.contains_key("GOOGLE_SERVICE_ACCOUNT")) {
        builder = builder.with_service_account_path(path);
    }
    let home = variables.get("HOME").map(PathBuf::from);
    files.push(home.map(|home| home.join(".config/gcloud/application_default_credentials.json")));
    for file in files.into_iter().flatten() {
        std::fs::read(file).ok().hash(hasher);
    }
    let builder = builder.with_bucket_name(&bucket.name).with_retry(once()).with_http_connector(transport.clone());
    Ok(Arc::new(builder.build().map_err(|e| bad(&url, &e))?))
}

fn azure(bucket: &Bucket, transport: &Transport, variables: &Variables) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let url = bucket.url();
    let mut variables = variables.clone();
    // As Azure's own tools call them.
    let connection = variables.remove("AZURE_STORAGE_CONNECTION_STRING").unwrap_or_default();
    for (name, value) in connection.split(';').filter_map(|part| part.split_once('=')) {
        let ours = match name.trim() {
            "AccountName" => "AZURE_STORAGE_ACCOUNT_NAME",
            "AccountKey" => "AZURE_STORAGE_ACCOUNT_KEY",
            "SharedAccessSignature" => "AZURE_STORAGE_SAS_TOKEN",
            "BlobEndpoint" => "AZURE_STORAGE_ENDPOINT",
            "UseDevelopmentStorage" => "AZURE_STORAGE_USE_EMULATOR",
            _ => continue,
        };
        variables.entry(ours.to_owned()).or_insert_with(|| value.trim().to_owned());
    }
    for (theirs, ours) in
        [("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"), ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY")]
    {
        if let Some(value) = variables.remove(theirs) {
            variables.entry(ours.to_owned()).or_insert(value);
        }
    }
    let emulated = is_set(&variables, "AZURE_STORAGE_USE_EMULATOR");
    let allowed = emulated || is_set(&variables, "AZURE_ALLOW_HTTP");
    let endpoint = variables.get("AZURE_STORAGE_ENDPOINT").or_else(|| variables.get("AZURE_ENDPOINT"));
    refuse_plain(&url, endpoint, allowed, "AZURE_ALLOW_HTTP")?;
    let named = bucket.account.is_some() || variables.contains_key("AZURE_STORAGE_ACCOUNT_NAME");
    if !named && !emulated {
        return Err(StoreError::BadUrl(format!(
            "{url}: no credentials: set AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY"
        )));
    }
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in &variables {
        match name.to_ascii_lowercase().parse::<AzureConfigKey>() {
            Ok(AzureConfigKey::ContainerName | AzureConfigKey::Client(_)) | Err(_) => {}
            Ok(key) => builder = builder.with_config(key, value),
        }
    }
    if let Some(endpoint) = variables.get("IDENTITY_ENDPOINT") {
        builder = builder.with_msi_endpoint(endpoint);
    }
    if let Some(account) = &bucket.account {
        builder = builder.with_account(account);
    }
    let builder = builder
        .with_container_name(&bucket.name)
        .with_allow_http(allowed)
        .with_retry(once())
        .with_http_connector(transport.clone());
    Ok(Arc::new(builder.build().map_err(|e| bad(&url, &e))?))
}

#[cfg(test)]
mod tests {
    use super::super::url;
    use super::*;

    fn origin(text: &str) -> Origin {
        match url::parse(text).unwrap() {
            url::Place::Bucket(bucket) => Origin::Bucket(bucket),
            url::Place::Web(url) => Origin::Web(url),
            _ => panic!("{text} is no remote"),
        }
    }

    fn built(url: &str, variables: &[(&str, &str)]) -> Result<u64, String> {
        let transport = Transport::new(Limiter::new(None), None).unwrap();
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        build(&origin(url), &transport, variables).map(|(_, print)| print).map_err(|e| e.to_string())
    }

    const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "SECRET")];

    #[test]
    fn providers_take_what_their_tools_take() {
        built("s3://bucket/x", &KEYS).unwrap();
        built("https://host/x", &[]).unwrap();
        built("az://box/x", &[("AZURE_STORAGE_ACCOUNT", "name"), ("AZURE_STORAGE_KEY", "c2VjcmV0")]).unwrap();
        built("az://box/x", &[("AZURE_STORAGE_USE_EMULATOR", "true")]).unwrap();
        built("abfss://box@name.dfs.core.windows.net/x", &[("AZURE_STORAGE_KEY", "c2VjcmV0")]).unwrap();
        let connection = "DefaultEndpointsProtocol=https;AccountName=name;AccountKey=c2VjcmV0";
        built("az://box/x", &[("AZURE_STORAGE_CONNECTION_STRING", connection)]).unwrap();
        built("gs://bucket/x", &[("GOOGLE_SKIP_SIGNATURE", "true")]).unwrap();
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_without_a_secret() {
        let no_metadata = ("AWS_EC2_METADATA_DISABLED", "true");
        for (url, variables, named) in [
            ("s3://b/x", vec![no_metadata], "AWS_ACCESS_KEY_ID"),
            ("s3://b/x", vec![KEYS[0]], "AWS_SECRET_ACCESS_KEY"),
            ("s3://b/x", vec![KEYS[0], KEYS[1], ("AWS_ENDPOINT_URL", "http://h")], "AWS_ALLOW_HTTP=true"),
            ("s3://b/x", vec![KEYS[0], KEYS[1], ("AWS_ENDPOINT_URL", "http://SECRET@h")], "AWS_ALLOW_HTTP=true"),
            ("az://b/x", vec![], "AZURE_STORAGE_ACCOUNT"),
            ("az://b/x", vec![("AZURE_STORAGE_ACCOUNT", "n"), ("AZURE_STORAGE_KEY", "SECRET!")], "az://b/x"),
            ("gs://b/x", vec![("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/file")], "/no/such/file"),
            ("gs://b/x", vec![("GOOGLE_SERVICE_ACCOUNT_KEY", "{\"SECRET\"}")], "gs://b/x"),
        ] {
            let error = built(url, &variables).unwrap_err();
            assert!(error.contains(named), "{url}: {error}");
            assert!(!error.replace("AWS_SECRET_ACCESS_KEY", "").contains("SECRET"), "{url}: {error}");
        }
    }

    #[test]
    fn other_credentials_are_seen_and_the_same_are_not() {
        let other = [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "OTHER")];
        assert_eq!(built("s3://b", &KEYS).unwrap(), built("s3://b", &KEYS).unwrap());
        assert_ne!(built("s3://b", &KEYS).unwrap(), built("s3://b", &other).unwrap());
    }
}
