//! Sending a file of orders to the order service as it is, and going on where a stream broke.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use waybill_kernel::hash;
use waybill_proto::waybill::order::v1::import_orders_request::Part;
use waybill_proto::waybill::order::v1::{
    Import, ImportChunk, ImportOpening, ImportOrdersRequest, ImportOrdersResponse, ImportState,
};
use waybill_rpc::client::is_retryable;
use waybill_rpc::fault;

use crate::session::Session;

/// Bytes of a chunk.
const CHUNK: usize = 256 << 10;
/// Chunks that are read ahead.
const AHEAD: usize = 4;
/// How often a stream is opened again that does not get on.
const ATTEMPTS: u32 = 6;
/// The pause before the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(250);

/// A file that is imported.
#[derive(Debug, Clone)]
pub struct Source {
    file: PathBuf,
    /// What the order service is told about it.
    pub opening: ImportOpening,
}

impl Source {
    /// A file, with its size and digest; `opening` says the rest.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub async fn new(file: &Path, opening: ImportOpening) -> anyhow::Result<Source> {
        let cannot = || format!("cannot read {}", file.display());
        let mut input = File::open(file).await.with_context(cannot)?;
        let (mut size, mut digest) = (0, hash::Pieces::default());
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = input.read(&mut buffer).await.with_context(cannot)?;
            if read == 0 {
                break;
            }
            digest.update(&buffer[..read]);
            size += i64::try_from(read)?;
        }
        Ok(Source {
            file: file.to_owned(),
            opening: ImportOpening {
                size_bytes: size,
                sha256: digest.hex(),
                ..opening
            },
        })
    }

    /// Sends the file until all of it is durable, opening the import again when the stream breaks. `told` hears every
    /// answer.
    ///
    /// # Errors
    ///
    /// When the import is refused as a whole, the file cannot be read, or the service stays away.
    pub async fn send(
        &self,
        session: &Session,
        told: &mut (dyn FnMut(&ImportOrdersResponse) + Send),
    ) -> anyhow::Result<Import> {
        let (mut attempts, mut reached) = (0, -1);
        loop {
            let mut done = reached;
            let mut listen = |answer: &ImportOrdersResponse| {
                done = answer.import.as_ref().map_or(done, |import| import.bytes_done);
                told(answer);
            };
            let error = match self.attempt(session, &mut listen).await {
                Ok(import) => return Ok(import),
                Err(error) => error,
            };
            // As long as it gets on it is opened again, however often it breaks.
            attempts = if done > reached { 1 } else { attempts + 1 };
            reached = done;
            // Without a reason it was not the service that spoke: the connection broke.
            let broke = |status: &Status| is_retryable(status) || fault::reason(status).is_none();
            let passing = error.downcast_ref::<Status>().is_some_and(broke);
            if !passing || attempts >= ATTEMPTS {
                return Err(error);
            }
            tokio::time::sleep(PAUSE * 2_u32.pow(attempts - 1)).await;
        }
    }

    /// One stream.
    async fn attempt(
        &self,
        session: &Session,
        told: &mut (dyn FnMut(&ImportOrdersResponse) + Send),
    ) -> anyhow::Result<Import> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let request = |part| ImportOrdersRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            part: Some(part),
        };
        sender.send(request(Part::Open(self.opening.clone()))).await?;
        let mut call = tonic::Request::new(ReceiverStream::new(receiver));
        // A large file takes as long as it takes.
        call.set_timeout(Duration::from_secs(24 * 3600));
        let mut answers = session.orders()?.import_orders(call).await?.into_inner();
        let opened = answers.message().await?;
        let opened = opened.context("the order service ended an import before it had begun")?;
        told(&opened);
        let mut import = opened
            .import
            .context("the order service answered without an import")?;
        if import.state() == ImportState::Done {
            return Ok(import);
        }
        let (file, size, offset) = (self.file.clone(), self.opening.size_bytes, import.bytes_done);
        let template = request(Part::Chunk(ImportChunk::default()));
        let reading = tokio::spawn(async move { read(&file, offset, size, &template, &sender).await });
        let answered = async {
            while let Some(answer) = answers.message().await? {
                told(&answer);
                import = answer.import.unwrap_or(import);
            }
            anyhow::Ok(import)
        };
        let answered = answered.await;
        if answered.is_err() {
            // Whoever reads the file would wait for a stream that is gone.
            reading.abort();
        }
        let import = answered?;
        reading.await??;
        ensure!(
            import.state() == ImportState::Done,
            "the order service ended the import at byte {}",
            import.bytes_done
        );
        Ok(import)
    }
}

/// Sends the file from this byte on, until its end or until nobody listens.
async fn read(
    file: &Path,
    mut offset: i64,
    size: i64,
    template: &ImportOrdersRequest,
    sender: &mpsc::Sender<ImportOrdersRequest>,
) -> anyhow::Result<()> {
    let cannot = || format!("cannot read {}", file.display());
    let mut input = File::open(file).await.with_context(cannot)?;
    input
        .seek(SeekFrom::Start(offset.unsigned_abs()))
        .await
        .with_context(cannot)?;
    loop {
        let left = usize::try_from(size - offset).unwrap_or(usize::MAX).min(CHUNK);
        let mut data = vec![0; left];
        input
            .read_exact(&mut data)
            .await
            .with_context(|| format!("{} became shorter while it was read", file.display()))?;
        let end = offset + i64::try_from(left)?;
        let chunk = ImportChunk {
            offset,
            data,
            is_last: end == size,
        };
        let message = ImportOrdersRequest {
            part: Some(Part::Chunk(chunk)),
            ..template.clone()
        };
        if sender.send(message).await.is_err() || end == size {
            return Ok(());
        }
        offset = end;
    }
}
