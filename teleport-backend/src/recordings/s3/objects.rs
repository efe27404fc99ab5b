//! The bucket, and what goes wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, RetryConfig, UpdateVersion};
use serde::Serialize;
use serde::de::DeserializeOwned;
use teleport_core::id::SessionId;
use teleport_core::recording::RecordingError;

use super::config::{S3Config, S3Credentials};
use super::layout::Layout;
use super::manifest::Versioned;
use super::transport::{Connector, HttpTransport};

/// How long a request is tried again. Whoever waits for it, a node or a user, tries again as well.
const PATIENCE: Duration = Duration::from_secs(20);
const RETRIES: usize = 3;

/// The object storage refused, or could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("bucket {bucket:?}: {said}")]
pub struct S3Error {
    bucket: String,
    said: &'static str,
    is_refusal: bool,
    source: object_store::Error,
}

impl S3Error {
    /// Whether the server was there and will say the same again: something must be changed.
    pub const fn is_refusal(&self) -> bool {
        self.is_refusal
    }
}

/// What happens below the port.
#[derive(Debug)]
pub(super) enum Failure {
    Conflict(&'static str),
    Damaged(String),
    NotFound,
    Refused(RecordingError),
    Store(object_store::Error),
}

/// An object does not have the form that the store wrote.
#[derive(Debug, thiserror::Error)]
#[error("the recording's object {0} is damaged")]
struct Damaged(String);

impl Failure {
    pub(super) fn into_error(self) -> RecordingError {
        match self {
            Self::Conflict(reason) => RecordingError::Conflict { reason },
            Self::Damaged(path) => RecordingError::unavailable(Damaged(path)),
            Self::NotFound => RecordingError::NotFound,
            Self::Refused(error) => error,
            Self::Store(error) => RecordingError::unavailable(error),
        }
    }
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { source, .. } if is_of_the_bucket(&*source) => {
                Self::Store(object_store::Error::Generic { store: "S3", source })
            }
            object_store::Error::NotFound { .. } => Self::NotFound,
            error => Self::Store(error),
        }
    }
}

/// Whether not an object is missing but all of them.
fn is_of_the_bucket(error: &(dyn std::error::Error + 'static)) -> bool {
    error.to_string().contains("NoSuchBucket")
}

/// The objects of all recordings.
pub(super) struct Objects {
    store: AmazonS3,
    bucket: String,
    pub(super) layout: Layout,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").field("bucket", &self.bucket).field("layout", &self.layout).finish()
    }
}

impl Objects {
    pub(super) fn new(
        config: &S3Config,
        credentials: &S3Credentials,
        transport: Arc<dyn HttpTransport>,
    ) -> Result<Self, Failure> {
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: PATIENCE, ..RetryConfig::default() };
        let builder = match credentials {
            S3Credentials::Environment => AmazonS3Builder::from_env(),
            S3Credentials::Key { id, secret } => {
                AmazonS3Builder::new().with_access_key_id(id).with_secret_access_key(secret.expose())
            }
        };
        let mut builder = builder
            .with_bucket_name(&config.bucket)
            .with_virtual_hosted_style_request(config.virtual_hosted)
            .with_allow_http(config.insecure)
            .with_retry(retry)
            .with_http_connector(Connector(transport));
        if let Some(region) = &config.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &config.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(key) = &config.sse_kms_key {
            builder = builder.with_sse_kms_encryption(key);
        }
        let store = builder.build()?;
        Ok(Self { store, bucket: config.bucket.clone(), layout: Layout::new(&config.prefix) })
    }

    /// What is to be said of a failure: what is wrong, and what to do.
    pub(super) fn said(&self, failure: Failure) -> S3Error {
        let source = match failure {
            Failure::Store(source) => source,
            other => object_store::Error::Generic { store: "S3", source: other.into_error().into() },
        };
        let text = source.to_string();
        let credentials = ["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"];
        let (said, is_refusal) = if text.contains("NoSuchBucket") {
            ("there is no such bucket; create it, or correct audit_sessions_uri", true)
        } else if matches!(source, object_store::Error::Unauthenticated { .. })
            || credentials.iter().any(|code| text.contains(code))
        {
            ("the credentials are not accepted; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", true)
        } else if matches!(source, object_store::Error::PermissionDenied { .. }) {
            (
                "these credentials may not do this; allow s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject",
                true,
            )
        } else if text.contains("cannot connect") {
            ("the server cannot be reached", false)
        } else {
            ("the request failed", false)
        };
        S3Error { bucket: self.bucket.clone(), said, is_refusal, source }
    }

    /// The object's content; `None` if there is none.
    pub(super) async fn bytes(&self, path: &Path) -> Result<Option<Bytes>, Failure> {
        let read = async { Ok(self.store.get(path).await?.bytes().await?) };
        optional(read.await)
    }

    /// The object's content, and which one it is: for [`Objects::exchange`].
    pub(super) async fn version(&self, path: &Path) -> Result<(Bytes, UpdateVersion), Failure> {
        let found = self.store.get(path).await?;
        let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        Ok((found.bytes().await?, version))
    }

    pub(super) async fn range(&self, path: &Path, range: Range<u64>) -> Result<Bytes, Failure> {
        Ok(self.store.get_range(path, range).await?)
    }

    pub(super) async fn document<T: DeserializeOwned + Versioned>(
        &self,
        session: SessionId,
        name: &str,
    ) -> Result<Option<T>, Failure> {
        let path = self.layout.document(session, name);
        let Some(text) = self.bytes(&path).await? else { return Ok(None) };
        match serde_json::from_slice::<T>(&text) {
            Ok(document) if document.is_known() => Ok(Some(document)),
            _ => Err(Failure::Damaged(path.to_string())),
        }
    }

    /// Makes an object; `false` if there is one already.
    pub(super) async fn make(&self, path: &Path, content: Bytes) -> Result<bool, Failure> {
        match self.store.put_opts(path, content.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn make_document(
        &self,
        session: SessionId,
        name: &str,
        document: &impl Serialize,
    ) -> Result<bool, Failure> {
        let path = self.layout.document(session, name);
        let text = serde_json::to_vec(document).map_err(|_| Failure::Damaged(path.to_string()))?;
        self.make(&path, text.into()).await
    }

    pub(super) async fn replace(&self, path: &Path, content: Bytes) -> Result<(), Failure> {
        self.store.put(path, content.into()).await.map(drop).map_err(Failure::from)
    }

    /// Puts other content into the place of this version; `false` if it is not there any more.
    pub(super) async fn exchange(
        &self,
        path: &Path,
        version: UpdateVersion,
        content: Bytes,
    ) -> Result<bool, Failure> {
        match self.store.put_opts(path, content.into(), PutMode::Update(version).into()).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What is below a name, in ascending order, behind `after`.
    pub(super) fn list(
        &self,
        below: &Path,
        after: Option<&Path>,
    ) -> BoxStream<'static, Result<ObjectMeta, Failure>> {
        let found = match after {
            Some(after) => self.store.list_with_offset(Some(below), after),
            None => self.store.list(Some(below)),
        };
        found.map_err(Failure::from).boxed()
    }

    /// The last parts of the names below a name, with the lengths of the objects.
    pub(super) async fn names(&self, below: &Path) -> Result<BTreeMap<String, u64>, Failure> {
        let named = |found: ObjectMeta| Some((found.location.filename()?.to_owned(), found.size));
        self.list(below, None)
            .try_filter_map(|found| std::future::ready(Ok(named(found))))
            .try_collect()
            .await
    }

    /// Removes objects, which may be gone already.
    pub(super) async fn delete(&self, paths: Vec<Path>) -> Result<(), Failure> {
        let mut deleted = self.store.delete_stream(stream::iter(paths.into_iter().map(Ok)).boxed());
        while let Some(deleted) = deleted.next().await {
            optional(deleted.map_err(Failure::from))?;
        }
        Ok(())
    }
}

fn optional<T>(result: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Failure::NotFound) => Ok(None),
        Err(failure) => Err(failure),
    }
}
