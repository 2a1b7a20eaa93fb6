//! Objects in a bucket: `PREFIX/v1/XX/OBJECT`, XX one of 256 parts of the key space.
//!
//! A key is never written twice with different bytes, so a put that is sent again, or that lands long after its sender gave up,
//! does no harm: every request here may be repeated. An object has at most 4 MiB, so a document goes up as many puts side by
//! side, each of them whole or not there; there are no multipart uploads to clean up. Never logs a secret.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    RetryConfig,
};
use sluice_repo::{ObjectId, RepoError, Result};

use crate::mark;
use crate::objects::Objects;

/// Version of the layout.
const LAYOUT: &str = "v1";
/// What is told as the room in a bucket, which has no bounds: small enough for clients that count in signed numbers of blocks.
const ROOM: u64 = 1 << 50;
/// Deletions on their way at once.
const DELETES: usize = 16;
/// Longest part of a service's answer that is told.
const TOLD_MAX: usize = 300;
/// The first wait before a request is sent again; each further one doubles up to a limit.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Where a bucket is and how it is reached.
#[derive(Clone)]
pub struct S3Options {
    /// Bucket name.
    pub bucket: String,
    /// Prefix of all keys, without slashes at its ends; may be empty.
    pub prefix: String,
    /// Address of the service, if it is not AWS.
    pub endpoint: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Key id and secret; without them those of the environment or the machine's role count.
    pub credentials: Option<(String, String)>,
    /// Whether the service may be called without TLS.
    pub allow_http: bool,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// How long a call goes on sending failed requests again.
    pub retry_for: Duration,
}

impl S3Options {
    /// A bucket with the usual patience.
    pub fn new(bucket: impl Into<String>, prefix: impl Into<String>) -> S3Options {
        S3Options {
            bucket: bucket.into(),
            prefix: prefix.into(),
            endpoint: None,
            region: None,
            credentials: None,
            allow_http: false,
            request_timeout: Duration::from_secs(30),
            retry_for: Duration::from_secs(60),
        }
    }
}

/// A bucket of objects.
pub struct S3 {
    store: AmazonS3,
    root: Path,
    /// For messages.
    place: String,
}

impl S3 {
    /// Prepares the access; calls nobody yet.
    pub fn new(options: S3Options) -> Result<S3> {
        let place = format!("s3://{}/{}", options.bucket, options.prefix);
        let client = ClientOptions::new()
            .with_allow_http(options.allow_http)
            .with_connect_timeout(options.request_timeout.min(Duration::from_secs(5)))
            .with_timeout(options.request_timeout);
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: BACKOFF,
                max_backoff: BACKOFF_MAX,
                base: 2.,
            },
            max_retries: 100,
            retry_timeout: options.retry_for,
        };
        let mut builder = match options.credentials {
            Some((id, secret)) => AmazonS3Builder::new()
                .with_access_key_id(id)
                .with_secret_access_key(secret),
            None => AmazonS3Builder::from_env(),
        };
        if let Some(endpoint) = options.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = options.region {
            builder = builder.with_region(region);
        }
        let store = builder
            .with_bucket_name(options.bucket)
            .with_client_options(client)
            .with_retry(retry)
            .build()
            .map_err(|error| RepoError::Unavailable(format!("{place}: {}", told(&error))))?;
        Ok(S3 {
            store,
            root: Path::from(options.prefix).join(LAYOUT),
            place,
        })
    }

    fn path(&self, id: ObjectId) -> Path {
        self.root
            .clone()
            .join(format!("{:02x}", id.0 as u8))
            .join(format!("{:032x}", id.0))
    }

    /// An error of a call that is not about an object in particular, or that writes one.
    fn refused(&self, error: &Error) -> RepoError {
        let why = format!("{}: {}", self.place, told(error));
        match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                RepoError::ReadOnly(why)
            }
            _ if why.contains("507 ") || why.contains("QuotaExceeded") => RepoError::NoSpace,
            _ => RepoError::Unavailable(why),
        }
    }

    /// An error of a read of an object.
    fn unreadable(&self, id: ObjectId, error: &Error) -> RepoError {
        match error {
            Error::NotFound { .. } if !told(error).contains("NoSuchBucket") => {
                RepoError::Corrupt(format!("object {}/{:032x} is missing", self.place, id.0))
            }
            _ => RepoError::Unavailable(format!("{}: {}", self.place, told(error))),
        }
    }

    async fn read_mark(&self, path: &Path) -> Result<Option<Bytes>> {
        match self.store.get(path).await {
            Ok(found) => found.bytes().await.map(Some),
            Err(Error::NotFound { source, path }) => {
                let error = Error::NotFound { source, path };
                match told(&error).contains("NoSuchBucket") {
                    true => Err(error),
                    false => Ok(None),
                }
            }
            Err(error) => Err(error),
        }
        .map_err(|error| self.refused(&error))
    }
}

/// What a service answered, cut to a readable length.
fn told(error: &Error) -> String {
    let mut text: String = error
        .to_string()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if let Some((at, _)) = text.char_indices().nth(TOLD_MAX) {
        text.truncate(at);
        text.push('…');
    }
    text
}

#[async_trait]
impl Objects for S3 {
    async fn put(&self, id: ObjectId, parts: Vec<Bytes>) -> Result<()> {
        self.store
            .put(&self.path(id), PutPayload::from_iter(parts))
            .await
            .map(|_| ())
            .map_err(|error| self.refused(&error))
    }

    async fn get(&self, id: ObjectId, ranges: Vec<(u32, u32)>) -> Result<Vec<Bytes>> {
        let wanted: Vec<_> = ranges
            .iter()
            .map(|&(offset, len)| u64::from(offset)..u64::from(offset) + u64::from(len))
            .collect();
        let found = self
            .store
            .get_ranges(&self.path(id), &wanted)
            .await
            .map_err(|error| self.unreadable(id, &error))?;
        let whole = found.len() == ranges.len()
            && found
                .iter()
                .zip(&ranges)
                .all(|(bytes, (_, len))| bytes.len() == *len as usize);
        if !whole {
            return Err(RepoError::Corrupt(format!(
                "object {}/{:032x} is too short",
                self.place, id.0
            )));
        }
        // Ranges side by side come as slices of one answer: copied, so that a cached page does not hold all of it.
        Ok(match found.len() {
            1 => found,
            _ => found
                .iter()
                .map(|bytes| Bytes::copy_from_slice(bytes))
                .collect(),
        })
    }

    async fn delete(&self, ids: &[ObjectId]) -> Result<()> {
        let paths: Vec<Path> = ids.iter().map(|id| self.path(*id)).collect();
        futures::stream::iter(paths)
            .map(|path| async move {
                match self.store.delete(&path).await {
                    Err(Error::NotFound { .. }) | Ok(()) => Ok(()),
                    Err(error) => Err(self.refused(&error)),
                }
            })
            .buffer_unordered(DELETES)
            .try_collect()
            .await
    }

    async fn claim(&self, repository: &str) -> Result<()> {
        let path = self.root.clone().join(mark::NAME);
        // Read before and after: a service may know no conditional put, or ignore the condition.
        if let Some(found) = self.read_mark(&path).await? {
            return mark::check(&found, repository, &self.place);
        }
        let payload = PutPayload::from(mark::text(repository).into_bytes());
        let made = self
            .store
            .put_opts(&path, payload.clone(), PutMode::Create.into())
            .await;
        match made {
            Ok(_) | Err(Error::AlreadyExists { .. }) => {}
            Err(Error::NotImplemented { .. }) => {
                let plain = self.store.put(&path, payload).await;
                plain.map_err(|error| self.refused(&error))?;
            }
            Err(error) if told(&error).contains("501 ") => {
                let plain = self.store.put(&path, payload).await;
                plain.map_err(|error| self.refused(&error))?;
            }
            Err(error) => return Err(self.refused(&error)),
        }
        let found = self.read_mark(&path).await?.unwrap_or_default();
        mark::check(&found, repository, &self.place)
    }

    async fn list(&self) -> Result<Vec<(ObjectId, u64)>> {
        self.store
            .list(Some(&self.root))
            .map_err(|error| self.refused(&error))
            .try_filter_map(|meta| async move {
                let id = meta
                    .location
                    .filename()
                    .and_then(|name| u128::from_str_radix(name, 16).ok());
                Ok(id.map(|id| (ObjectId(id), meta.size)))
            })
            .try_collect()
            .await
    }

    fn room(&self) -> Result<(u64, u64)> {
        Ok((ROOM, ROOM))
    }
}
