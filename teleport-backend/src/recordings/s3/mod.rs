//! Recordings in an S3-compatible object storage.
//!
//! ```text
//! sessions/<session>/meta.json          what it is of; made once
//! sessions/<session>/part-00000000      made once each; they stay as they are
//! sessions/<session>/complete.json      made once: from then on the recording is immutable
//! sessions/<session>/deleted            while the recording is being removed; as good as gone
//! index/all/<time>-<session>            empty: the list
//! index/user/<user>/<time>-<session>    the same, of what one user took part in
//! ```
//!
//! The time is that of the beginning, as 999,999,999,999,999 minus the milliseconds since 1970: names are listed in ascending
//! order, and the newest come first. All names begin with the configured prefix.
//!
//! "Made once" is a conditional write (`If-None-Match: *`), which the server must obey: so several auth services may use one
//! bucket, and every step can be repeated after a crash. New recipients of a part's encryption are another one (`If-Match`), so that
//! what is deleted meanwhile stays deleted. There are no renames and no multipart uploads that could be left behind.

mod config;
mod layout;
mod manifest;
mod objects;
mod transport;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future};
use teleport_core::id::{SessionId, UserName};
use teleport_core::recording::{
    Completion, Form, Listing, MAX_PARTS, MAX_STORED_PART_LEN, PartDigests, RecordingError, RecordingInfo,
    RecordingMeta, RecordingStore, Rewrite,
};

pub use self::config::{PARAMETERS, S3Config, S3ConfigError, S3Credentials};
use self::layout::{COMPLETE, DELETED, META};
use self::manifest::{Manifest, Manifests, MetaFile, SoFar};
pub use self::objects::S3Error;
use self::objects::{Failure, Objects};
pub use self::transport::{HttpTransport, TransportError};

/// How many recordings of a list are looked at at the same time.
const AT_ONCE: usize = 16;

/// A [`RecordingStore`] in a bucket.
pub struct S3RecordingStore {
    objects: Objects,
    manifests: Manifests,
}

impl fmt::Debug for S3RecordingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3RecordingStore").field("objects", &self.objects).finish_non_exhaustive()
    }
}

const fn conflict(reason: &'static str) -> Failure {
    Failure::Conflict(reason)
}

impl S3RecordingStore {
    /// The store in the bucket. Nothing is asked of the server yet.
    ///
    /// # Errors
    /// [`RecordingError::Unavailable`] if the environment says something that cannot be used.
    pub fn new(
        config: &S3Config,
        credentials: &S3Credentials,
        transport: Arc<dyn HttpTransport>,
    ) -> Result<Self, RecordingError> {
        let objects = Objects::new(config, credentials, transport).map_err(Failure::into_error)?;
        Ok(Self { objects, manifests: Manifests::default() })
    }

    /// Asks the server for something, to see whether it is there and lets us in.
    ///
    /// # Errors
    /// [`S3Error`]; [`S3Error::is_refusal`] says whether trying again is of no use.
    pub async fn check(&self) -> Result<(), S3Error> {
        let listed = self.objects.list(&self.objects.layout.index(None), None).next().await;
        match listed.transpose() {
            Ok(_) => Ok(()),
            Err(failure) => Err(self.objects.said(failure)),
        }
    }

    /// The manifest of a complete recording.
    async fn manifest(&self, session: SessionId) -> Result<Option<Arc<Manifest>>, Failure> {
        if let Some(known) = self.manifests.known(session) {
            return Ok(Some(known));
        }
        let found = self.objects.document::<Manifest>(session, COMPLETE).await?.map(Arc::new);
        if let Some(found) = &found {
            self.manifests.remember(session, Arc::clone(found));
        }
        Ok(found)
    }

    /// What is there of a recording that has no manifest, unless it got one meanwhile.
    async fn so_far(&self, session: SessionId) -> Result<SoFar, Failure> {
        let found = self.objects.names(&self.objects.layout.session(session)).await?;
        SoFar::of(found).ok_or(Failure::NotFound)
    }

    async fn meta(&self, session: SessionId) -> Result<MetaFile, Failure> {
        self.objects.document(session, META).await?.ok_or(Failure::NotFound)
    }

    async fn stored_part(&self, session: SessionId, number: u32) -> Result<Bytes, Failure> {
        let path = self.objects.layout.part(session, number);
        self.objects.bytes(&path).await?.ok_or(Failure::NotFound)
    }

    async fn one_part(&self, session: SessionId, number: u32) -> Result<Option<Bytes>, Failure> {
        match self.manifest(session).await? {
            Some(manifest) if number >= manifest.completion.parts => return Ok(None),
            Some(_) => {}
            None => drop(self.meta(session).await?),
        }
        self.objects.bytes(&self.objects.layout.part(session, number)).await
    }

    async fn mark(&self, user: Option<&UserName>, meta: &RecordingMeta) -> Result<(), Failure> {
        self.objects.replace(&self.objects.layout.marker(user, meta), Bytes::new()).await
    }

    async fn begin(&self, meta: &RecordingMeta, form: &Form) -> Result<(), Failure> {
        let session = meta.session;
        let gone = self.objects.layout.document(session, DELETED);
        if self.objects.bytes(&gone).await?.is_some() {
            // A removal that was interrupted: its remains would be taken for parts of the new one.
            self.remove(session).await?;
        }
        let file = MetaFile::new(meta.clone(), form.clone());
        if !self.objects.make_document(session, META, &file).await? && self.meta(session).await?.meta != *meta
        {
            return Err(conflict("another recording has this session id"));
        }
        // Last, and again if it was begun before: without them the recording would not be listed.
        future::try_join(self.mark(Some(&meta.user), meta), self.mark(None, meta)).await.map(drop)
    }

    async fn put(&self, session: SessionId, number: u32, part: Bytes) -> Result<(), Failure> {
        if part.len() > MAX_STORED_PART_LEN {
            return Err(conflict("the part is too long"));
        }
        if number >= MAX_PARTS {
            return Err(conflict("there are too many parts"));
        }
        match self.manifest(session).await? {
            Some(manifest) if number >= manifest.completion.parts => {
                return Err(conflict("the recording is complete"));
            }
            Some(_) => {}
            None => {
                self.meta(session).await?;
                let path = self.objects.layout.part(session, number);
                if self.objects.make(&path, part.clone()).await? {
                    return Ok(());
                }
            }
        }
        match self.stored_part(session, number).await {
            Ok(stored) if stored == part => Ok(()),
            Ok(_) => Err(conflict("the part is stored with other bytes")),
            Err(failure) => Err(self.forget_if_gone(session, failure)),
        }
    }

    /// What is remembered of a recording that somebody else has deleted is wrong.
    fn forget_if_gone(&self, session: SessionId, failure: Failure) -> Failure {
        if matches!(failure, Failure::NotFound) {
            self.manifests.forget(session);
        }
        failure
    }

    async fn end(&self, session: SessionId, completion: &Completion) -> Result<(), Failure> {
        let agree = |manifest: &Manifest| {
            if manifest.completion.parts == completion.parts {
                Ok(())
            } else {
                Err(conflict("the recording is complete with another number of parts"))
            }
        };
        if let Some(manifest) = self.manifest(session).await? {
            return agree(&manifest);
        }
        let meta = self.meta(session).await?;
        let so_far = self.so_far(session).await?;
        if so_far.is_complete {
            return agree(&*self.manifest(session).await?.ok_or(Failure::NotFound)?);
        }
        let lengths = so_far.exactly(completion).map_err(conflict)?;
        // First: a recording that is complete is listed for everybody.
        for user in &completion.participants {
            self.mark(Some(user), &meta.meta).await?;
        }
        let manifest = Manifest::new(meta, completion.clone(), lengths);
        if self.objects.make_document(session, COMPLETE, &manifest).await? {
            return Ok(());
        }
        agree(&*self.manifest(session).await?.ok_or(Failure::NotFound)?)
    }

    async fn known(&self, session: SessionId) -> Result<RecordingInfo, Failure> {
        if let Some(manifest) = self.objects.document::<Manifest>(session, COMPLETE).await? {
            return Ok(manifest.info());
        }
        let (meta, so_far) = future::try_join(self.meta(session), self.so_far(session)).await?;
        if so_far.is_complete {
            // Meanwhile.
            return Ok(self.manifest(session).await?.ok_or(Failure::NotFound)?.info());
        }
        let len = so_far.gapless().into_iter().map(u64::from).sum();
        Ok(RecordingInfo::new(meta.meta, meta.form, len, None))
    }

    async fn all_lengths(&self, session: SessionId) -> Result<Vec<u32>, Failure> {
        if let Some(manifest) = self.manifest(session).await? {
            return Ok(manifest.lengths.clone());
        }
        let so_far = self.so_far(session).await?;
        if so_far.is_complete {
            return Ok(self.manifest(session).await?.ok_or(Failure::NotFound)?.lengths.clone());
        }
        Ok(so_far.gapless())
    }

    async fn read_part(&self, session: SessionId, offset: u64, len: usize) -> Result<Bytes, Failure> {
        let mut start = 0_u64;
        for (number, part) in (0..).zip(self.all_lengths(session).await?) {
            let end = start + u64::from(part);
            if offset < end {
                let until = end.min(offset.saturating_add(len as u64)) - start;
                if until == offset - start {
                    break;
                }
                let path = self.objects.layout.part(session, number);
                let read = self.objects.range(&path, offset - start..until).await;
                return read.map_err(|failure| self.forget_if_gone(session, failure));
            }
            start = end;
        }
        Ok(Bytes::new())
    }

    async fn listed(&self, listing: &Listing) -> Result<Vec<RecordingInfo>, Failure> {
        let (layout, user) = (&self.objects.layout, listing.user.as_ref());
        let from = listing.from;
        let after = match listing.after {
            Some(after) if after.started < listing.to => layout.after(user, after),
            _ => layout.before(user, listing.to),
        };
        if listing.limit == 0 || listing.from >= listing.to {
            return Ok(Vec::new());
        }
        self.objects
            .list(&layout.index(user), Some(&after))
            .try_filter_map(|found| future::ok(found.location.filename().and_then(layout::place)))
            .try_take_while(|place| future::ok(place.started >= from))
            .map_ok(|place| async move {
                match self.known(place.session).await {
                    Ok(info)
                        if info.place() == place && user.is_none_or(|user| info.has_participant(user)) =>
                    {
                        Ok(Some(info))
                    }
                    // The mark of a user who did not take part after all, of another place, or of what was deleted.
                    Ok(_) | Err(Failure::NotFound) => Ok(None),
                    // One damaged recording must not hide the others.
                    Err(Failure::Damaged(path)) => {
                        tracing::warn!(session = %place.session, path, "a recording is left out of the list");
                        Ok(None)
                    }
                    Err(failure) => Err(failure),
                }
            })
            .try_buffered(AT_ONCE.min(listing.limit))
            .try_filter_map(future::ok)
            .take(listing.limit)
            .try_collect()
            .await
    }

    async fn remove(&self, session: SessionId) -> Result<(), Failure> {
        self.manifests.forget(session);
        let layout = &self.objects.layout;
        let found = self.objects.names(&layout.session(session)).await?;
        if found.is_empty() {
            return Ok(());
        }
        let gone = layout.document(session, DELETED);
        self.objects.replace(&gone, Bytes::new()).await?;
        let manifest = self.objects.document::<Manifest>(session, COMPLETE).await.ok().flatten();
        // Without the manifest the recording is what the mark above says it is.
        self.objects.delete(vec![layout.document(session, COMPLETE)]).await?;
        // Marks of a recording that nobody can read any more are passed over by the list.
        if let Ok(MetaFile { meta, .. }) = self.meta(session).await {
            let participants = manifest.iter().flat_map(|manifest| &manifest.completion.participants);
            let users = std::iter::once(&meta.user).chain(participants).map(Some);
            let markers = users.chain([None]).map(|user| layout.marker(user, &meta)).collect();
            self.objects.delete(markers).await?;
        }
        let parts = found.keys().filter_map(|name| layout::Layout::part_number(name));
        self.objects.delete(parts.map(|number| layout.part(session, number)).collect()).await?;
        self.objects.delete(vec![layout.document(session, META)]).await?;
        self.objects.delete(vec![gone]).await
    }

    async fn change(&self, session: SessionId, change: Rewrite) -> Result<(), Failure> {
        let Some(manifest) = self.manifest(session).await? else {
            self.meta(session).await?;
            return Err(conflict("the recording is not complete"));
        };
        for number in 0..manifest.completion.parts {
            let path = self.objects.layout.part(session, number);
            let (old, version) = self.objects.version(&path).await?;
            let new = change(number, old.clone()).map_err(Failure::Refused)?;
            if new.len() != old.len() {
                return Err(conflict("the part has another length"));
            }
            // Unconditionally, a part would come back that is being deleted, when nobody looks for it any more.
            if new != old && !self.objects.exchange(&path, version, new).await? {
                self.manifests.forget(session);
                self.meta(session).await?;
                return Err(conflict("the part was changed or deleted meanwhile"));
            }
        }
        Ok(())
    }

    fn told<T>(&self, result: Result<T, Failure>) -> Result<T, RecordingError> {
        result.map_err(|failure| match failure {
            Failure::Store(_) => RecordingError::unavailable(self.objects.said(failure)),
            failure => failure.into_error(),
        })
    }
}

#[async_trait]
impl RecordingStore for S3RecordingStore {
    async fn create(&self, meta: &RecordingMeta, form: &Form) -> Result<(), RecordingError> {
        self.told(self.begin(meta, form).await)
    }

    async fn put_part(&self, session: SessionId, number: u32, part: Bytes) -> Result<(), RecordingError> {
        self.told(self.put(session, number, part).await)
    }

    async fn part(&self, session: SessionId, number: u32) -> Result<Option<Bytes>, RecordingError> {
        self.told(self.one_part(session, number).await)
    }

    async fn parts(&self, session: SessionId) -> Result<u32, RecordingError> {
        Ok(u32::try_from(self.lengths(session).await?.len()).unwrap_or(u32::MAX))
    }

    async fn lengths(&self, session: SessionId) -> Result<Vec<u32>, RecordingError> {
        self.told(self.all_lengths(session).await)
    }

    async fn complete(&self, session: SessionId, completion: &Completion) -> Result<(), RecordingError> {
        self.told(self.end(session, completion).await)
    }

    async fn info(&self, session: SessionId) -> Result<RecordingInfo, RecordingError> {
        self.told(self.known(session).await)
    }

    async fn read(&self, session: SessionId, offset: u64, len: usize) -> Result<Bytes, RecordingError> {
        self.told(self.read_part(session, offset, len).await)
    }

    async fn list(&self, listing: &Listing) -> Result<Vec<RecordingInfo>, RecordingError> {
        self.told(self.listed(listing).await)
    }

    async fn delete(&self, session: SessionId) -> Result<(), RecordingError> {
        self.told(self.remove(session).await)
    }

    async fn rewrite(&self, session: SessionId, change: Rewrite) -> Result<(), RecordingError> {
        self.told(self.change(session, change).await)
    }

    async fn part_digests(&self, session: SessionId) -> Result<Option<PartDigests>, RecordingError> {
        self.info(session).await.map(|_| None)
    }

    async fn rewrap(&self, session: SessionId) -> Result<bool, RecordingError> {
        self.info(session).await.map(|_| false)
    }
}
