//! The archive: where the oldest part of a log goes before it leaves the database. A folder or a bucket.
//!
//! An object holds the events of a stretch of the log in its order, as length-delimited `LoggedEvent`s, compressed with
//! gzip; a manifest beside it says the same as the database does of it, for people and for a database that is lost. An
//! object is written once; what it is called is different in every history, so no history overwrites another one's.
//! Nothing here decides what is archived or dropped.

pub(crate) mod codec;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _};
use object_store::aws::AmazonS3Builder;
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use waybill_proto::waybill::events::v1::LoggedEvent;

use codec::{Decoder, Encoder, Malformed};

/// Parts of this size are written at once to a bucket.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// How much is decoded at once: compressed, so it may become much more.
const SLICE_BYTES: usize = 8 * 1024;

/// A batch of events that is read ends with so many, or so many bytes.
const BATCH_EVENTS: usize = 500;
const BATCH_BYTES: usize = 1024 * 1024;

/// Why the archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The setting names no place.
    #[error("{place:?} is no place for an archive; give a folder, or s3://bucket/prefix")]
    Place {
        /// What was given.
        place: String,
    },
    /// The place cannot be used as it is set up.
    #[error("the archive {place} cannot be used")]
    Setup {
        /// Where.
        place: String,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An object is not there.
    #[error("{object} is not in the archive")]
    Missing {
        /// Its name.
        object: String,
    },
    /// An object is not what was written.
    #[error("{object} in the archive is damaged: {what}")]
    Damaged {
        /// Its name.
        object: String,
        /// What is wrong with it.
        what: String,
    },
    /// The archive does not answer. Worth a repeat.
    #[error("the archive does not answer")]
    Away(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ArchiveError {
    fn of(object: &str, error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => ArchiveError::Missing {
                object: object.to_owned(),
            },
            other => ArchiveError::Away(Box::new(other)),
        }
    }

    pub(crate) fn damaged(object: &str, what: impl fmt::Display) -> Self {
        ArchiveError::Damaged {
            object: object.to_owned(),
            what: what.to_string(),
        }
    }
}

/// A place for archived events. Cheap to clone.
#[derive(Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    place: Arc<str>,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Archive").field(&self.place).finish()
    }
}

impl Archive {
    /// The archive at `place`: a folder, which is made if it is not there, or `s3://bucket/prefix`. Keys, region and
    /// endpoint of a bucket come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
    /// `AWS_ENDPOINT`, …), never from the setting.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Place`] and [`ArchiveError::Setup`].
    pub fn open(place: &str) -> Result<Archive, ArchiveError> {
        let setup = |source: Box<dyn std::error::Error + Send + Sync>| ArchiveError::Setup {
            place: place.to_owned(),
            source,
        };
        let refuse = || ArchiveError::Place {
            place: place.to_owned(),
        };
        let (store, prefix): (Arc<dyn ObjectStore>, Path) = match place.split_once("://") {
            None if !place.is_empty() => {
                std::fs::create_dir_all(place).map_err(|error| setup(error.into()))?;
                let folder = LocalFileSystem::new_with_prefix(place).map_err(|error| setup(error.into()))?;
                (Arc::new(folder.with_fsync(true)), Path::default())
            }
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(refuse());
                }
                // The process has one already, or gets the one that all of Waybill uses.
                let _installed = rustls::crypto::ring::default_provider().install_default();
                let bucket = AmazonS3Builder::from_env()
                    .with_bucket_name(bucket)
                    // What is behind it tries again by itself.
                    .with_retry(RetryConfig {
                        backoff: BackoffConfig::default(),
                        max_retries: 3,
                        retry_timeout: Duration::from_secs(15),
                    })
                    .build()
                    .map_err(|error| setup(error.into()))?;
                (Arc::new(bucket), Path::from(prefix))
            }
            _ => return Err(refuse()),
        };
        Ok(Archive {
            store,
            prefix,
            place: Arc::from(place),
        })
    }

    fn path(&self, object: &str) -> Path {
        Path::from_iter(self.prefix.parts().chain(Path::from(object).parts()))
    }

    /// Begins to write an object. Nothing is there before it is finished.
    pub(crate) fn write(&self, object: &str) -> Writing {
        Writing {
            object: object.to_owned(),
            upload: BufWriter::with_capacity(Arc::clone(&self.store), self.path(object), PART_BYTES),
            encoder: Encoder::new(),
        }
    }

    /// Writes a small object at once.
    pub(crate) async fn put(&self, object: &str, content: Vec<u8>) -> Result<(), ArchiveError> {
        self.store
            .put(&self.path(object), PutPayload::from(content))
            .await
            .map_err(|error| ArchiveError::of(object, error))?;
        Ok(())
    }

    /// The events of an object, in its order.
    pub(crate) async fn read(&self, object: &str) -> Result<Reading, ArchiveError> {
        let found = self
            .store
            .get(&self.path(object))
            .await
            .map_err(|error| ArchiveError::of(object, error))?;
        Ok(Reading {
            object: object.to_owned(),
            stored: found.into_stream(),
            slice: Bytes::new(),
            digest: Sha256::new(),
            decoder: Decoder::new(),
            ended: false,
        })
    }
}

/// An object that is being written.
pub(crate) struct Writing {
    object: String,
    upload: BufWriter,
    encoder: Encoder,
}

/// What an object is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub bytes: u64,
    pub sha256: [u8; 32],
}

impl Writing {
    /// Adds events. Compressing them takes a thread of its own for a moment.
    pub async fn add(&mut self, events: Vec<LoggedEvent>) -> Result<(), ArchiveError> {
        let mut encoder = std::mem::replace(&mut self.encoder, Encoder::new());
        let encoding = tokio::task::spawn_blocking(move || {
            for event in &events {
                encoder.push(event);
            }
            let made = encoder.take();
            (encoder, made)
        });
        let (encoder, made) = encoding
            .await
            .map_err(|error| ArchiveError::Away(Box::new(error)))?;
        self.encoder = encoder;
        self.put(made).await
    }

    /// Ends the object: from now on it is there.
    pub async fn finish(mut self) -> Result<Stored, ArchiveError> {
        let (made, stored) = std::mem::replace(&mut self.encoder, Encoder::new()).finish();
        self.put(made).await?;
        self.upload
            .shutdown()
            .await
            .map_err(|error| ArchiveError::Away(Box::new(error)))?;
        Ok(stored)
    }

    async fn put(&mut self, made: Bytes) -> Result<(), ArchiveError> {
        if made.is_empty() {
            return Ok(());
        }
        let object = self.object.as_str();
        self.upload
            .put(made)
            .await
            .map_err(|error| ArchiveError::of(object, error))
    }

    /// Leaves nothing behind.
    pub async fn abandon(mut self) {
        if let Err(error) = self.upload.abort().await {
            tracing::debug!(object = self.object, %error, "an unfinished object was not taken back");
        }
    }
}

/// An object that is being read.
pub(crate) struct Reading {
    object: String,
    stored: BoxStream<'static, object_store::Result<Bytes>>,
    slice: Bytes,
    digest: Sha256,
    decoder: Decoder,
    ended: bool,
}

impl Reading {
    /// The next events; none at the end.
    pub async fn next(&mut self) -> Result<Vec<LoggedEvent>, ArchiveError> {
        let mut events = Vec::new();
        let mut bytes = 0;
        loop {
            while events.len() < BATCH_EVENTS && bytes < BATCH_BYTES {
                let Some(event) = self.decoder.next().map_err(|fault| self.damaged(&fault))? else {
                    break;
                };
                bytes += event.payload.len() + 512;
                events.push(event);
            }
            let full = events.len() >= BATCH_EVENTS || bytes >= BATCH_BYTES;
            if full || !self.feed().await? {
                return Ok(events);
            }
        }
    }

    /// Decodes a little more. False at the end.
    async fn feed(&mut self) -> Result<bool, ArchiveError> {
        if self.slice.is_empty() {
            if self.ended {
                return Ok(false);
            }
            match self.stored.next().await {
                Some(Ok(more)) => self.slice = more,
                Some(Err(error)) => return Err(ArchiveError::of(&self.object, error)),
                None => {
                    self.ended = true;
                    self.decoder.finish().map_err(|fault| self.damaged(&fault))?;
                    return Ok(true);
                }
            }
        }
        let now = self.slice.split_to(self.slice.len().min(SLICE_BYTES));
        self.digest.update(&now);
        self.decoder.feed(&now).map_err(|fault| self.damaged(&fault))?;
        Ok(true)
    }

    /// The digest of all that was read, to be compared at the end.
    pub fn sha256(&self) -> [u8; 32] {
        self.digest.clone().finalize().into()
    }

    fn damaged(&self, fault: &Malformed) -> ArchiveError {
        ArchiveError::damaged(&self.object, fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_and_buckets_are_places() {
        for place in ["", "http://example.com/x", "s3://", "s3:///prefix", "gs://bucket"] {
            let refused = Archive::open(place).expect_err(place);
            assert!(
                matches!(refused, ArchiveError::Place { .. }),
                "{place}: {refused}"
            );
        }
    }
}
