//! The store against a directory, memory, and a store that misbehaves.

use super::faulty::{Fault, Faulty};
use futures::StreamExt;
use object_store::{GetOptions, GetResult, GetResultPayload};

use super::*;

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn keeps_the_contract(store: Store) {
    assert_eq!(store.list("", 10).await.unwrap(), Vec::<String>::new());
    assert!(store.get("log/1").await.unwrap().is_none());
    assert_eq!(store.create("log/1", bytes("one")).await.unwrap(), Created::New);
    assert_eq!(store.create("log/1", bytes("two")).await.unwrap(), Created::Exists);
    assert_eq!(store.get("log/1").await.unwrap().unwrap(), bytes("one"));
    assert_eq!(store.get_range("log/1", 1..3).await.unwrap().unwrap(), bytes("ne"));
    assert_eq!(store.get_range("log/1", 0..0).await.unwrap().unwrap(), bytes(""));
    for (range, want) in [(0..4, "one"), (2..9, "e")] {
        assert_eq!(store.get_range("log/1", range).await.unwrap().unwrap(), bytes(want));
    }
    for past in [3..4, 70..80] {
        assert!(store.get_range("log/1", past.clone()).await.unwrap().is_none(), "{past:?}");
    }
    assert_eq!(store.counts().errors, 0, "a short object is no error of the store");
    assert!(store.get_range("log/2", 0..1).await.unwrap().is_none());
    store.put_hint(bytes("a")).await.unwrap();
    store.put_hint(bytes("b")).await.unwrap();
    assert_eq!(store.get("latest").await.unwrap().unwrap(), bytes("b"));
    for k in [3, 2, 10] {
        store.create(&format!("log/{k:02}"), bytes("x")).await.unwrap();
    }
    assert_eq!(store.list("log/", 3).await.unwrap(), ["log/02", "log/03", "log/1"]);
    assert_eq!(store.list("", 9).await.unwrap(), ["latest", "log/02", "log/03", "log/1", "log/10"]);
    assert_eq!(store.last("log/").await.unwrap().unwrap(), "log/10");
    assert_eq!(store.last("header/").await.unwrap(), None);
    store.probe().await.unwrap();
    assert_eq!(store.list("", 9).await.unwrap().len(), 5, "the probe left something");
    assert_eq!(store.list_after("log/", "log/02", 2).await.unwrap(), ["log/03", "log/1"]);
    assert_eq!(store.list_after("log/", "log/1", 9).await.unwrap(), ["log/10"]);
    for name in ["log/03", "log/03", "nowhere/1"] {
        store.delete(name).await.unwrap();
        assert!(store.get(name).await.unwrap().is_none());
    }
    assert_eq!(store.list("", 9).await.unwrap(), ["latest", "log/02", "log/1", "log/10"]);
    assert_eq!(store.counts().errors, 0, "what is not there counts as deleted");
    assert!(store.outage().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_patient_reader_outlives_failures_and_a_writer_is_not_repeated() {
    let faulty = Faulty::new(Fault::Down, 3);
    faulty.replace("x", b"there".to_vec()).await;
    let store = Store::over(faulty.clone(), "memory:///");
    assert!(store.get("x").await.is_err());
    assert_eq!(store.patient().get("x").await.unwrap().as_deref(), Some(&b"there"[..]));
    let faulty = Faulty::new(Fault::Down, 1);
    let store = Store::over(faulty, "memory:///").patient();
    assert!(store.create("y", Bytes::from_static(b"y")).await.is_err(), "who writes decides what a failure means");
}

#[tokio::test]
async fn a_directory_keeps_the_contract_and_is_made_by_the_first_create() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/vault");
    let store = open(path.to_str().unwrap()).unwrap();
    assert!(store.get("latest").await.unwrap().is_none());
    assert!(!dir.path().join("deep").exists(), "open and get create nothing");
    keeps_the_contract(store).await;
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    let store = open("memory:///").unwrap();
    assert!(store.is_volatile());
    keeps_the_contract(store).await;
}

#[tokio::test]
async fn a_directory_that_vanished_or_was_emptied_is_an_outage_not_an_empty_vault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vault");
    let store = open(path.to_str().unwrap()).unwrap();
    store.make_root().await.unwrap();
    store.create("header/1", bytes("h")).await.unwrap();
    let away = dir.path().join("away");
    std::fs::rename(&path, &away).unwrap();
    assert!(matches!(store.get("header/1").await, Err(StoreError::Unavailable { .. })));
    assert!(matches!(store.create("log/1", bytes("l")).await, Err(StoreError::Unavailable { .. })));
    assert!(!path.exists(), "a lost vault is not begun anew");
    std::fs::create_dir(&path).unwrap();
    let error = store.get("header/1").await.unwrap_err();
    assert!(error.to_string().contains("empty directory"), "{error}");
    assert!(store.outage().is_some());
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&away, &path).unwrap();
    assert!(store.get("header/1").await.unwrap().is_some());
    assert!(store.outage().is_some(), "a write failed, and only a write can tell that writing works again");
    store.create("log/1", bytes("l")).await.unwrap();
    assert!(store.outage().is_none());
}

#[tokio::test]
async fn a_file_in_place_of_the_vault_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vault");
    let store = open(path.to_str().unwrap()).unwrap();
    std::fs::write(&path, b"").unwrap();
    let error = store.list("", 1).await.unwrap_err();
    assert!(error.to_string().contains("is not a directory"), "{error}");
    let Err(StoreError::BadUrl(why)) = open(path.to_str().unwrap()).map(drop) else { panic!("a file is no vault") };
    assert!(why.contains("is a file: a vault lies in a directory"), "{why}");
}

#[tokio::test]
async fn permission_is_refused_and_network_is_unavailable() {
    let store = Store::over(Faulty::new(Fault::Refuse, 1), "memory:///");
    assert!(matches!(store.get("x").await, Err(StoreError::Refused { .. })));
    let store = Store::over(Faulty::new(Fault::Down, 1), "memory:///");
    let error = store.create("x", bytes("1")).await.unwrap_err();
    assert_eq!(error.to_string(), "x: the store does not answer: connection refused");
    assert_eq!((store.counts().requests, store.counts().errors), (1, 1));
    assert!(store.outage().is_some());
    store.create("x", bytes("1")).await.unwrap();
    assert!(store.outage().is_none());
    assert_eq!((store.counts().requests, store.counts().errors), (2, 1));
}

#[tokio::test]
async fn io_errors_of_a_directory_are_told_apart() {
    for (kind, refused) in [
        (io::ErrorKind::PermissionDenied, true),
        (io::ErrorKind::ReadOnlyFilesystem, true),
        (io::ErrorKind::StorageFull, false),
        (io::ErrorKind::NotFound, false),
    ] {
        let error = meaning("x", &local_error(io::Error::from(kind)));
        assert_eq!(matches!(error, StoreError::Refused { .. }), refused, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_given_up_at_the_deadline() {
    let store = Store::over(Faulty::new(Fault::Hang, 2), "memory:///");
    let began = tokio::time::Instant::now();
    assert!(matches!(store.create("x", bytes("1")).await, Err(StoreError::Unavailable { .. })));
    assert_eq!(began.elapsed().as_secs(), 10);
    let (since, why) = store.outage().unwrap();
    assert!(since < Duration::from_secs(1) && why.contains("no answer within 10 s"), "{since:?} {why}");
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_meets_its_own_object() {
    let store = Store::over(Faulty::new(Fault::LoseAnswer, 1), "memory:///");
    assert!(store.create("x", bytes("1")).await.is_err());
    assert_eq!(store.create("x", bytes("1")).await.unwrap(), Created::Exists);
    assert_eq!(store.get("x").await.unwrap().unwrap(), bytes("1"));
}

#[tokio::test]
async fn the_probe_finds_a_store_that_overwrites() {
    let store = Store::over(Faulty::new(Fault::Overwrite, 2), "memory:///");
    assert!(matches!(store.probe().await, Err(StoreError::NoConditionalCreate(_))));
    assert!(store.list("", 1).await.unwrap().is_empty());
    let store = Store::over(Faulty::new(Fault::Down, 1), "memory:///");
    store.probe_again().await.expect("an outage says nothing of what the store can do");
    let store = Store::over(Faulty::new(Fault::Overwrite, 2), "memory:///");
    assert!(matches!(store.probe_again().await, Err(StoreError::NoConditionalCreate(_))));
    assert!(store.list("", 1).await.unwrap().is_empty());
}

/// Sends one endless object, whatever its length was said to be.
#[derive(Debug)]
struct Endless {
    told: u64,
}

impl std::fmt::Display for Endless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Endless")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Endless {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> object_store::Result<object_store::PutResult> {
        Err(ObjectError::NotImplemented { operation: "put".into(), implementer: "Endless".into() })
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        Err(ObjectError::NotImplemented { operation: "put".into(), implementer: "Endless".into() })
    }

    async fn get_opts(&self, location: &Path, _: GetOptions) -> object_store::Result<GetResult> {
        let chunks = futures::stream::repeat_with(|| Ok(Bytes::from_static(&[0; 65_536])));
        Ok(GetResult {
            payload: GetResultPayload::Stream(chunks.boxed()),
            meta: object_store::ObjectMeta {
                location: location.clone(),
                last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
                size: self.told,
                e_tag: None,
                version: None,
            },
            range: 0..self.told,
            attributes: Default::default(),
            extensions: Default::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: futures::stream::BoxStream<'static, object_store::Result<Path>>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<Path>> {
        locations
    }

    fn list(
        &self,
        _: Option<&Path>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
        futures::stream::empty().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> object_store::Result<object_store::ListResult> {
        Ok(object_store::ListResult {
            common_prefixes: Vec::new(),
            objects: Vec::new(),
            extensions: Default::default(),
        })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: object_store::CopyOptions) -> object_store::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_object_larger_than_any_of_a_vault_is_refused_without_being_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path().to_str().unwrap()).unwrap();
    store.create("log/2", bytes("x")).await.unwrap();
    std::fs::File::create(dir.path().join("log/1")).unwrap().set_len(1 << 40).unwrap();
    let error = store.get("log/1").await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { bytes, .. } if bytes == 1 << 40), "{error}");
    assert_eq!(store.get_range("log/1", 0..70_000).await.unwrap().unwrap().len(), 70_000, "a range has its own end");
    assert!(store.outage().is_none(), "the store answers");
    let error = crate::vault::VaultError::from(error);
    assert!(matches!(error, crate::vault::VaultError::Tampered(_)), "{error}");
}

#[tokio::test]
async fn a_store_that_sends_more_than_it_said_is_cut_off() {
    for told in [3, u64::MAX] {
        let store = Store::over(Arc::new(Endless { told }), "memory:///");
        assert!(matches!(store.get("log/1").await, Err(StoreError::TooLarge { .. })), "{told}");
        assert!(matches!(store.get_range("log/1", 0..10).await, Err(StoreError::TooLarge { .. })), "{told}");
    }
}

#[tokio::test]
async fn an_object_that_stands_but_cannot_be_synced_is_no_durable_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path().to_str().unwrap()).unwrap();
    store.create("log/1", bytes("x")).await.unwrap();
    assert_eq!(store.create("log/1", bytes("x")).await.unwrap(), Created::Exists);
    std::os::unix::fs::symlink("nowhere", dir.path().join("log/2")).unwrap();
    let error = store.create("log/2", bytes("x")).await.unwrap_err();
    assert!(error.to_string().contains("log/2"), "{error}");
}
