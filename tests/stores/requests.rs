//! The store room against a server: each fault, each kind of answer, and how many requests they cost.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dripfs::store::{self, Created, Limits, Settings, Store, StoreError};
use parking_lot::Mutex;

use super::server::{BUCKET, Fault, KEY, S3Server, SECRET};

/// Short, for tests that wait for it.
const DEADLINE: Duration = Duration::from_secs(2);

type Shared = Arc<Mutex<BTreeMap<String, String>>>;

fn variables(server: &S3Server) -> Shared {
    let variables = server.environment().into_iter().map(|(name, value)| (name.to_owned(), value));
    Arc::new(Mutex::new(variables.collect()))
}

fn open(url: &str, variables: &Shared, limits: Limits) -> Store {
    let (settings, variables) = (Settings { deadline: DEADLINE, limits, ..Settings::default() }, variables.clone());
    store::open_in(url, settings, Arc::new(move || variables.lock().clone())).expect("the URL is good")
}

fn store_at(server: &S3Server) -> Store {
    open(&format!("s3://{BUCKET}/a/vault"), &variables(server), Limits::default())
}

fn bytes(len: usize) -> Bytes {
    (0..len).map(|k| (k % 251) as u8).collect::<Vec<_>>().into()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Runs a test's body with a server and a store in it.
fn with(body: impl AsyncFnOnce(&S3Server, &Store)) {
    let server = S3Server::start();
    let store = store_at(&server);
    runtime().block_on(body(&server, &store));
}

#[test]
fn a_bucket_keeps_the_contract_at_one_request_each() {
    with(async |server, store| {
        assert!(store.get("log/1").await.unwrap().is_none());
        assert_eq!(store.create("log/1", bytes(200_000)).await.unwrap(), Created::New);
        assert_eq!(store.create("log/1", bytes(7)).await.unwrap(), Created::Exists);
        assert_eq!(store.get("log/1").await.unwrap().unwrap(), bytes(200_000));
        assert_eq!(store.get_range("log/1", 5..9).await.unwrap().unwrap(), bytes(9).slice(5..));
        assert_eq!(store.get_range("log/1", 199_999..300_000).await.unwrap().unwrap().len(), 1);
        assert_eq!(server.take_seen().len(), 6);
        assert!(store.get_range("log/1", 200_000..300_000).await.unwrap().is_none());
        assert_eq!(server.take_seen().len(), 2, "the size is asked for where a range begins past the end");
        store.put_hint(bytes(1)).await.unwrap();
        store.put_hint(bytes(2)).await.unwrap();
        assert_eq!(store.get("latest").await.unwrap().unwrap(), bytes(2));
        store.probe().await.unwrap();
        assert_eq!(store.list("", 9).await.unwrap(), ["latest", "log/1"]);
        store.delete("log/1").await.unwrap();
        store.delete("log/1").await.unwrap();
        assert!(server.objects().keys().all(|key| key == "a/vault/latest"), "{:?}", server.objects().keys());
        let counts = store.counts();
        assert_eq!((counts.errors, counts.head.requests), (0, 1), "a range past the end is no error");
        assert!(counts.get.bytes > 200_000 && counts.put.bytes > 200_000 && counts.list.requests == 1, "{counts:?}");
        assert_eq!(counts.get.histogram.iter().sum::<u64>(), counts.get.requests);
    });
}

#[test]
fn listings_of_several_pages_are_whole() {
    with(async |server, store| {
        for k in 0..2_345 {
            store.create(&format!("log/{k:05}"), bytes(1)).await.unwrap();
        }
        store.create("other/1", bytes(1)).await.unwrap();
        server.take_seen();
        assert_eq!(store.list("log/", 9_999).await.unwrap().len(), 2_345);
        assert_eq!(server.take_seen().len(), 3);
        assert_eq!(store.last("log/").await.unwrap().unwrap(), "log/02344");
        assert_eq!(store.list_after("log/", "log/02342", 9).await.unwrap(), ["log/02343", "log/02344"]);
    });
}

#[test]
fn the_probe_finds_a_store_that_is_not_atomic() {
    with(async |server, store| {
        store.probe().await.unwrap();
        assert!(server.objects().is_empty(), "the probe left something");
        server.race();
        let error = store.probe().await.unwrap_err();
        assert!(matches!(error, StoreError::NoConditionalCreate(_)), "{error}");
        assert!(error.to_string().contains("at the same time"), "{error}");
        assert!(server.objects().is_empty(), "the probe left something");
    });
}

#[test]
fn a_bucket_that_vanished_is_an_outage_not_an_empty_vault() {
    with(async |server, store| {
        store.create("log/1", bytes(10)).await.unwrap();
        server.remove_bucket();
        let error = store.get("log/1").await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        assert!(store.outage().unwrap().1.contains("no such bucket"));
    });
}

#[test]
fn one_name_is_made_once_however_many_ask() {
    with(async |_, store| {
        let mut made = 0;
        for round in 0..20 {
            let name = format!("log/{round}");
            let tries = (0..16).map(|k| store.create(&name, bytes(100 + k)));
            let tries = futures::future::join_all(tries).await;
            made += tries.into_iter().filter(|tried| matches!(tried, Ok(Created::New))).count();
        }
        assert_eq!(made, 20);
    });
}

#[test]
fn reads_get_over_a_hiccup_and_writes_are_sent_once_a_call() {
    with(async |server, store| {
        store.create("log/1", bytes(10)).await.unwrap();
        server.take_seen();
        server.set_fault(Fault::Answer(500, "InternalError", None));
        let error = store.create("log/2", bytes(10)).await.unwrap_err();
        assert!(error.to_string().contains("500 Internal Server Error: InternalError: as ordered"), "{error}");
        assert_eq!(server.take_seen().len(), 1, "whoever wrote knows what a lost answer means");
        let heal = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            server.set_fault(Fault::None);
        };
        let (read, ()) = tokio::join!(store.get("log/1"), heal);
        assert_eq!(read.unwrap().unwrap(), bytes(10));
        server.set_fault(Fault::Answer(503, "SlowDown", None));
        server.take_seen();
        assert!(matches!(store.get("log/1").await, Err(StoreError::Unavailable { .. })));
        assert_eq!(server.take_seen().len(), 4, "and then it is an outage");
        assert!(store.outage().unwrap().1.contains("503"), "{:?}", store.outage());
    });
}

#[test]
fn a_server_that_asks_for_a_pause_is_left_alone() {
    with(async |server, store| {
        server.set_fault(Fault::Answer(429, "TooManyRequests", Some(3_600)));
        assert!(store.create("log/1", bytes(10)).await.is_err());
        server.set_fault(Fault::None);
        assert_eq!(server.take_seen().len(), 1);
        let error = store.create("log/1", bytes(10)).await.unwrap_err();
        assert!(error.to_string().contains("asked to be left alone for 59 s more"), "capped: {error}");
        assert!(store.get("log/1").await.is_err());
        assert!(server.take_seen().is_empty(), "nothing was sent meanwhile");
    });
    with(async |server, store| {
        server.set_fault(Fault::Answer(503, "SlowDown", Some(1)));
        assert!(store.create("log/1", bytes(10)).await.is_err());
        server.set_fault(Fault::None);
        let began = Instant::now();
        assert_eq!(store.create("log/1", bytes(10)).await.unwrap(), Created::New, "a short pause is waited for");
        assert!(began.elapsed() > Duration::from_millis(800));
    });
}

#[test]
fn a_server_that_hangs_is_given_up_after_the_deadline() {
    with(async |server, store| {
        server.set_fault(Fault::Hang);
        let error = store.get("log/1").await.unwrap_err();
        assert!(error.to_string().contains("no answer within 2 s"), "{error}");
        let error = store.create("log/1", bytes(70_000)).await.unwrap_err();
        assert!(error.to_string().contains("no answer within"), "{error}");
        server.set_fault(Fault::None);
        assert_eq!(store.create("log/1", bytes(70_000)).await.unwrap(), Created::New);
    });
}

#[test]
fn what_moves_is_not_given_up_however_slow() {
    with(async |server, store| {
        server.set_fault(Fault::Slow(20_000));
        let began = Instant::now();
        assert_eq!(store.create("log/1", bytes(65_000)).await.unwrap(), Created::New);
        assert_eq!(store.get("log/1").await.unwrap().unwrap(), bytes(65_000));
        assert!(began.elapsed() > 2 * DEADLINE, "longer than the deadline: {:?}", began.elapsed());
    });
}

#[test]
fn limits_hold_over_bodies_and_are_no_standstill() {
    let server = S3Server::start();
    let rate = |rate| NonZeroU64::new(rate);
    let limits = Limits { upload: rate(30_000), download: rate(40_000) };
    let store = open(&format!("s3://{BUCKET}/x"), &variables(&server), limits);
    runtime().block_on(async {
        let began = Instant::now();
        store.create("log/1", bytes(120_000)).await.unwrap();
        assert!(began.elapsed() > Duration::from_millis(3_500), "120 kB at 30 kB/s: {:?}", began.elapsed());
        let began = Instant::now();
        assert_eq!(store.get("log/1").await.unwrap().unwrap(), bytes(120_000));
        assert!(began.elapsed() > Duration::from_millis(2_600), "120 kB at 40 kB/s: {:?}", began.elapsed());
    });
}

#[test]
fn a_body_that_is_cut_is_an_error_and_never_a_short_object() {
    with(async |server, store| {
        store.create("log/1", bytes(100_000)).await.unwrap();
        server.set_fault(Fault::Cut);
        for result in [store.get("log/1").await, store.get_range("log/1", 10..90_000).await] {
            assert!(matches!(result, Err(StoreError::Unavailable { .. })), "{result:?}");
        }
        assert!(matches!(store.create("log/2", bytes(3 << 20)).await, Err(StoreError::Unavailable { .. })));
        server.set_fault(Fault::None);
        assert!(!server.objects().contains_key("a/vault/log/2"));
        assert_eq!(store.create("log/2", bytes(3 << 20)).await.unwrap(), Created::New);
        assert_eq!(store.get("log/1").await.unwrap().unwrap(), bytes(100_000));
    });
}

#[test]
fn new_credentials_are_found_where_they_come_from() {
    let server = S3Server::start();
    let variables = variables(&server);
    let store = open(&format!("s3://{BUCKET}/x"), &variables, Limits::default());
    runtime().block_on(async {
        store.create("log/1", bytes(10)).await.unwrap();
        server.set_keys("AKIDNEW", "another-secret");
        let error = store.get("log/1").await.unwrap_err().to_string();
        assert!(error.contains("InvalidAccessKeyId") && error.contains("~/.aws/credentials"), "{error}");
        assert!(!error.contains(KEY) && !error.contains(SECRET), "{error}");
        // From a file, as tools that renew them write it.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "[default]\naws_access_key_id = AKIDNEW\naws_secret_access_key = another-secret\n")
            .unwrap();
        let mut now = variables.lock().clone();
        now.retain(|name, _| !name.contains("KEY"));
        now.insert("AWS_SHARED_CREDENTIALS_FILE".to_owned(), file.path().to_str().unwrap().to_owned());
        *variables.lock() = now;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert_eq!(store.get("log/1").await.unwrap().unwrap(), bytes(10), "with the store that was open");
        assert!(store.outage().is_none());
        // And again.
        server.set_keys("AKIDNEWER", "a-third-secret");
        std::fs::write(&file, "[default]\naws_access_key_id = AKIDNEWER\naws_secret_access_key = a-third-secret\n")
            .unwrap();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert_eq!(store.create("log/2", bytes(10)).await.unwrap(), Created::New);
    });
}

#[test]
fn expired_tokens_are_refusals_whatever_their_status() {
    with(async |server, store| {
        for (status, code) in [(403, "RequestTimeTooSkewed"), (400, "ExpiredToken"), (401, "Unauthorized")] {
            server.set_fault(Fault::Answer(status, code, None));
            let error = store.get("log/1").await.unwrap_err();
            assert!(matches!(error, StoreError::Refused { .. }) && error.to_string().contains(code), "{error}");
        }
    });
}

#[test]
fn wrong_places_are_told_apart() {
    let server = S3Server::start();
    let (nowhere, nobody) = (open("s3://other/x", &variables(&server), Limits::default()), variables(&server));
    nobody.lock().insert("AWS_SECRET_ACCESS_KEY".to_owned(), "wrong".to_owned());
    let nobody = open(&format!("s3://{BUCKET}/x"), &nobody, Limits::default());
    let gone = store_at(&server);
    runtime().block_on(async {
        for error in [
            nowhere.list("header/", 1).await.unwrap_err(),
            nowhere.get("header/1").await.unwrap_err(),
            nowhere.create("header/1", bytes(1)).await.unwrap_err(),
            nowhere.delete("header/1").await.unwrap_err(),
        ] {
            assert!(error.to_string().contains("no such bucket"), "never \"there is nothing\": {error}");
        }
        let error = nobody.list("header/", 1).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
        server.set_fault(Fault::Refuse);
        let error = gone.get("header/1").await.unwrap_err().to_string();
        assert!(error.contains(&server.address.to_string()) && error.contains("refused"), "{error}");
    });
}
