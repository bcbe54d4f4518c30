//! ImportOrders: the bytes of a file become orders as they arrive, a batch at a time, each batch durable before the next.
//!
//! Nothing is read ahead while a batch is placed: a caller that sends faster than the database commits is held back by the
//! stream. What a batch holds is bounded in orders, lines and bytes, whatever the file.

mod batch;

use std::pin::Pin;

use futures_util::{Stream, stream};
use tonic::{Status as Refusal, Streaming};
use tracing::{Instrument as _, Span};
use waybill_kernel::check::Violations;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::import_orders_request::Part;
use waybill_rpc::convert::{self, to_timestamp};
use waybill_rpc::fault::to_status;

use self::batch::Batch;
use super::{OrderGrpc, parse};
use crate::app::{Importing, Orders};
use crate::domain::import::{Import, ImportFormat, MAX_ROWS, Opening};
use crate::domain::order::Tenant;
use crate::error::{Error, ImportError};
use crate::formats::{Format, Place, Reader};
use crate::store::imports::Step;

/// Bytes of a chunk.
const MAX_CHUNK: usize = 1 << 20;

/// The stream of an import's answers.
pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<proto::ImportOrdersResponse, Refusal>> + Send>>;

impl OrderGrpc {
    pub(super) async fn import(
        &self,
        mut messages: Streaming<proto::ImportOrdersRequest>,
    ) -> Result<Answers, Refusal> {
        // Here and not in the stream, so that what the access layer finds wrong with it is the answer.
        let first = messages.message().await?;
        let run = self
            .begin(first, messages)
            .await
            .map_err(|error| to_status(&error))?;
        let span = Span::current();
        // An error ends the stream: the caller opens the import again and goes on from there.
        let answers = stream::unfold(Some(run), move |run| {
            let step = async {
                let mut run: Run = run?;
                match run.next().await {
                    Ok(Some(answer)) => Some((Ok(answer), Some(run))),
                    Ok(None) => None,
                    Err(refusal) => Some((Err(refusal), None)),
                }
            };
            step.instrument(span.clone())
        });
        Ok(Box::pin(answers))
    }

    async fn begin(
        &self,
        first: Option<proto::ImportOrdersRequest>,
        messages: Streaming<proto::ImportOrdersRequest>,
    ) -> Result<Run, Error> {
        let mut v = Violations::new();
        let first = first.unwrap_or_default();
        let tenant = parse::tenant(&first.merchant_id, &first.store_id, &mut v);
        let (opening, without_payments) = match first.part {
            Some(Part::Open(open)) => (v.nested("open", |v| opening(&open, v)), open.without_payments),
            _ => {
                v.push("open", "is required: the first message opens the import");
                (None, false)
            }
        };
        let (tenant, opening) = parse::checked(tenant.zip(opening), v)?;
        let importing = self.orders.open_import(tenant, &opening).await?;
        let import = importing.import();
        let reader = Reader::resume(format(import.format), place(import), &import.header)
            .map_err(ImportError::Unreadable)?;
        Ok(Run {
            received: import.bytes_done,
            orders: self.orders.clone(),
            importing,
            reader,
            messages,
            batch: Batch::new(!without_payments),
            phase: Phase::Opened,
        })
    }

    pub(super) async fn get_import(
        &self,
        request: &proto::GetImportRequest,
    ) -> Result<proto::GetImportResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let id = import_id(&request.import_id, &mut v);
        let (tenant, id): (Tenant, String) = parse::checked(tenant.zip(id), v)?;
        let (import, refusals) = self.orders.find_import(tenant, &id).await?;
        Ok(proto::GetImportResponse {
            import: Some(view(&import)),
            refusals: (refusals.into_iter())
                .map(|refusal| proto::ImportRefusal {
                    line: refusal.line,
                    reason: refusal.reason,
                    fields: refusal.fields,
                })
                .collect(),
        })
    }
}

/// What an import does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Tell where it stands.
    Opened,
    /// Read on.
    Reading,
    /// Place what is left: the file has ended.
    Ending,
    /// Nothing: everything is durable, or the caller has ended the stream.
    Done,
}

/// A running import.
struct Run {
    orders: Orders,
    importing: Importing,
    reader: Reader,
    messages: Streaming<proto::ImportOrdersRequest>,
    /// Bytes of the file that have arrived.
    received: i64,
    /// What was read and is not placed.
    batch: Batch,
    phase: Phase,
}

impl Run {
    async fn next(&mut self) -> Result<Option<proto::ImportOrdersResponse>, Refusal> {
        if self.phase == Phase::Opened {
            self.phase = if self.importing.import().is_done {
                Phase::Done
            } else {
                Phase::Reading
            };
            return Ok(Some(self.answer(Vec::new())));
        }
        while self.phase != Phase::Done {
            let read = self.read().map_err(|error| to_status(&error))?;
            if read == Read::BatchFull || self.phase == Phase::Ending {
                let answer = self.place(read == Read::All).await;
                return answer.map(Some).map_err(|error| to_status(&error));
            }
            match self.messages.message().await? {
                Some(message) => self.take(message).map_err(|error| to_status(&error))?,
                // The import stays open. What has arrived whole is taken, the rest is sent again when it is opened again.
                None if self.batch.is_empty() => self.phase = Phase::Done,
                None => {
                    let answer = self.place(false).await.map_err(|error| to_status(&error))?;
                    self.phase = Phase::Done;
                    return Ok(Some(answer));
                }
            }
        }
        Ok(None)
    }

    /// Reads orders into the batch, as far as they have arrived and fit.
    fn read(&mut self) -> Result<Read, Error> {
        while !self.batch.is_full() {
            let unit = self.reader.read().map_err(ImportError::Unreadable)?;
            let Some(unit) = unit else { return Ok(Read::All) };
            let rows = self.importing.import().counts.rows + self.batch.rows();
            if rows + i64::try_from(unit.rows).unwrap_or(i64::MAX) > MAX_ROWS {
                return Err(ImportError::TooLarge { most: MAX_ROWS }.into());
            }
            self.batch.push(unit);
        }
        Ok(Read::BatchFull)
    }

    /// Takes in the next bytes of the file.
    fn take(&mut self, message: proto::ImportOrdersRequest) -> Result<(), Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&message.merchant_id, &message.store_id, &mut v);
        let other = tenant.is_some_and(|tenant| tenant != self.importing.tenant());
        v.require(
            !other,
            "store_id",
            "is not the one that the import was opened with",
        );
        let chunk = match message.part {
            Some(Part::Chunk(chunk)) => Some(chunk),
            _ => {
                v.push("chunk", "is required: an import is opened once");
                None
            }
        };
        let length = chunk.as_ref().map_or(0, |chunk| chunk.data.len());
        v.require(
            length <= MAX_CHUNK,
            "chunk.data",
            format!("has {length} bytes; expected at most {MAX_CHUNK}"),
        );
        let chunk = parse::checked(chunk, v)?;
        if chunk.offset != self.received {
            return Err(ImportError::Offset {
                expected: self.received,
                given: chunk.offset,
            }
            .into());
        }
        let end = self
            .received
            .saturating_add(i64::try_from(length).unwrap_or(i64::MAX));
        if let Some(size) = self.importing.import().size
            && (end > size || (chunk.is_last && end != size))
        {
            return Err(ImportError::Size { size, given: end }.into());
        }
        self.received = end;
        self.reader.feed(&chunk.data, chunk.is_last);
        if chunk.is_last {
            self.phase = Phase::Ending;
        }
        Ok(())
    }

    /// Places the batch and makes it durable. `all` says that everything that has arrived is in it or was before it.
    async fn place(&mut self, all: bool) -> Result<proto::ImportOrdersResponse, Error> {
        let is_done = all && self.phase == Phase::Ending;
        let at = (self.batch.end()).unwrap_or_else(|| place(self.importing.import()));
        let at = if is_done { self.reader.end() } else { at };
        let next = self.batch.next();
        let placed = std::mem::replace(&mut self.batch, next)
            .place(&self.orders, &self.importing)
            .await?;
        let step = Step {
            epoch: self.importing.import().epoch,
            bytes_done: i64::try_from(at.byte).unwrap_or(i64::MAX),
            lines_done: i64::try_from(at.line - 1).unwrap_or(i64::MAX),
            is_done,
            header: self.reader.header(),
            counts: placed.counts,
            refusals: &placed.refusals,
        };
        self.importing.move_on(step).await?;
        if is_done {
            self.phase = Phase::Done;
        }
        Ok(self.answer(placed.outcomes))
    }

    fn answer(&self, outcomes: Vec<proto::ImportOutcome>) -> proto::ImportOrdersResponse {
        proto::ImportOrdersResponse {
            import: Some(view(self.importing.import())),
            outcomes,
        }
    }
}

/// How far reading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// As far as a batch goes; there may be more.
    BatchFull,
    /// As far as the file has arrived.
    All,
}

fn opening(open: &proto::ImportOpening, v: &mut Violations) -> Option<Opening> {
    let id = import_id(&open.import_id, v);
    let format = convert::known("format", open.format, v).and_then(|format| match format {
        proto::ImportFormat::Unspecified => None,
        proto::ImportFormat::ShopifyCsv => Some(ImportFormat::ShopifyCsv),
        proto::ImportFormat::JsonLines => Some(ImportFormat::JsonLines),
    });
    v.require(
        open.size_bytes >= 0,
        "size_bytes",
        format!("is {}; expected 0, for not known, or more", open.size_bytes),
    );
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    v.require(
        open.sha256.is_empty() || (open.sha256.len() == 64 && open.sha256.bytes().all(hex)),
        "sha256",
        "expected 64 lower-case hexadecimal digits, or nothing",
    );
    Some(Opening {
        id: id?,
        format: format?,
        size: Some(open.size_bytes).filter(|size| *size > 0),
        sha256: open.sha256.clone(),
    })
}

/// The caller's key of an import, of the same shape as a request id.
fn import_id(text: &str, v: &mut Violations) -> Option<String> {
    let sound = (1..=100).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    v.require(sound, "import_id", "expected 1 to 100 visible ASCII characters");
    sound.then(|| text.to_owned())
}

fn format(format: ImportFormat) -> Format {
    match format {
        ImportFormat::ShopifyCsv => Format::ShopifyCsv,
        ImportFormat::JsonLines => Format::JsonLines,
    }
}

/// Where an import goes on.
fn place(import: &Import) -> Place {
    Place {
        byte: import.bytes_done.unsigned_abs(),
        line: import.lines_done.unsigned_abs() + 1,
    }
}

fn view(import: &Import) -> proto::Import {
    let format = match import.format {
        ImportFormat::ShopifyCsv => proto::ImportFormat::ShopifyCsv,
        ImportFormat::JsonLines => proto::ImportFormat::JsonLines,
    };
    let state = if import.is_done {
        proto::ImportState::Done
    } else {
        proto::ImportState::Open
    };
    proto::Import {
        import_id: import.id.clone(),
        format: format.into(),
        state: state.into(),
        bytes_done: import.bytes_done,
        size_bytes: import.size.unwrap_or_default(),
        sha256: import.sha256.clone(),
        lines_done: import.lines_done,
        rows: import.counts.rows,
        placed: import.counts.placed,
        duplicates: import.counts.duplicates,
        refused: import.counts.refused,
        payments: import.counts.payments,
        payments_refused: import.counts.payments_refused,
        created_at: Some(to_timestamp(import.created_at)),
        updated_at: Some(to_timestamp(import.updated_at)),
    }
}
