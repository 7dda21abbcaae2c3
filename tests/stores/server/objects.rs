//! Objects in memory, as S3 serves them: ranges, create-if-absent that is atomic, listings in pages.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use parking_lot::Mutex;
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::{BUCKET, State};

/// A page of a listing.
const PAGE: usize = 1000;

#[derive(Default)]
pub struct Objects {
    all: Mutex<BTreeMap<String, Bytes>>,
    has_no_bucket: Mutex<bool>,
    /// Looks whether a name is free, and takes it a while later.
    races: Mutex<bool>,
}

impl Objects {
    pub fn all(&self) -> BTreeMap<String, Bytes> {
        self.all.lock().clone()
    }

    pub fn remove_bucket(&self) {
        *self.has_no_bucket.lock() = true;
    }

    pub fn race(&self) {
        *self.races.lock() = true;
    }

    fn bucket(&self, name: &str) -> S3Result<()> {
        match name == BUCKET && !*self.has_no_bucket.lock() {
            true => Ok(()),
            false => Err(s3_error!(NoSuchBucket, "The specified bucket does not exist")),
        }
    }

    fn get(&self, bucket: &str, key: &str) -> S3Result<Bytes> {
        self.bucket(bucket)?;
        self.all.lock().get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey, "The specified key does not exist."))
    }
}

pub struct Auth(pub Arc<State>);

#[async_trait::async_trait]
impl S3Auth for Auth {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let (key, secret) = self.0.keys.lock().clone();
        match key == access_key {
            true => Ok(SecretKey::from(secret)),
            false => Err(s3_error!(InvalidAccessKeyId, "The access key ID you provided does not exist")),
        }
    }
}

pub struct Service(pub Arc<Objects>);

fn tag(bytes: &Bytes) -> ETag {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    ETag::Strong(format!("{:016x}", hasher.finish()))
}

fn body(bytes: Bytes) -> StreamingBlob {
    StreamingBlob::wrap(futures::stream::iter([Ok::<_, std::io::Error>(bytes)]))
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let whole = self.0.get(&input.bucket, &input.key)?;
        let len = whole.len() as u64;
        let range = match input.range {
            Some(range) => Some(range.check(len).map_err(|_| s3_error!(InvalidRange, "out of range"))?),
            None => None,
        };
        let part = match &range {
            Some(range) => whole.slice(range.start as usize..range.end as usize),
            None => whole.clone(),
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(part.len() as i64),
            content_range: range.map(|range| format!("bytes {}-{}/{len}", range.start, range.end - 1)),
            body: Some(body(part)),
            e_tag: Some(tag(&whole)),
            last_modified: Some(SystemTime::UNIX_EPOCH.into()),
            ..Default::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let whole = self.0.get(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(whole.len() as i64),
            e_tag: Some(tag(&whole)),
            last_modified: Some(SystemTime::UNIX_EPOCH.into()),
            ..Default::default()
        }))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        self.0.bucket(&input.bucket)?;
        let mut bytes = BytesMut::new();
        if let Some(mut body) = input.body {
            while let Some(chunk) = body.next().await {
                bytes.extend_from_slice(&chunk.map_err(|_| s3_error!(IncompleteBody, "the body was cut"))?);
            }
        }
        if input.content_length.is_some_and(|told| told != bytes.len() as i64) {
            return Err(s3_error!(IncompleteBody, "the body was cut"));
        }
        let bytes = bytes.freeze();
        let races = *self.0.races.lock();
        if races && !self.0.all.lock().contains_key(&input.key) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            self.0.all.lock().remove(&input.key);
        }
        let mut all = self.0.all.lock();
        if input.if_none_match.is_some() && all.contains_key(&input.key) {
            return Err(s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold"));
        }
        let e_tag = Some(tag(&bytes));
        all.insert(input.key, bytes);
        Ok(S3Response::new(PutObjectOutput { e_tag, ..Default::default() }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.0.bucket(&request.input.bucket)?;
        self.0.all.lock().remove(&request.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.0.bucket(&request.input.bucket)?;
        let mut all = self.0.all.lock();
        let gone = request.input.delete.objects.into_iter().map(|object| {
            all.remove(&object.key);
            DeletedObject { key: Some(object.key), ..Default::default() }
        });
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(gone.collect()), ..Default::default() }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        self.0.bucket(&input.bucket)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.continuation_token.clone().or(input.start_after.clone()).unwrap_or_default();
        let most = input.max_keys.map_or(PAGE, |most| (most as usize).min(PAGE));
        let all = self.0.all.lock();
        let mut left = all
            .range::<String, _>((Bound::Excluded(after.clone().max(prefix.clone())), Bound::Unbounded))
            .filter(|(key, _)| **key > after)
            .take_while(|(key, _)| key.starts_with(&prefix));
        let contents: Vec<Object> = left
            .by_ref()
            .take(most)
            .map(|(key, bytes)| Object {
                key: Some(key.clone()),
                size: Some(bytes.len() as i64),
                e_tag: Some(tag(bytes)),
                last_modified: Some(SystemTime::UNIX_EPOCH.into()),
                ..Default::default()
            })
            .collect();
        let is_truncated = left.next().is_some();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            key_count: Some(contents.len() as i32),
            max_keys: Some(most as i32),
            is_truncated: Some(is_truncated),
            next_continuation_token: contents.last().and_then(|last| last.key.clone()).filter(|_| is_truncated),
            contents: Some(contents),
            ..Default::default()
        }))
    }
}
