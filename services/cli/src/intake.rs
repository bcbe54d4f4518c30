//! Handing imported orders to the order service, in batches, with their payments.

use std::collections::HashMap;

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::ProgressBar;
use serde::Serialize;
use waybill_proto::waybill::order::v1::{
    BatchPlaceOrdersRequest, OrderLine, PaymentKind, PlaceOrderResult, RecordPaymentRequest,
};

use crate::import::{Import, ImportedOrder, Rejected};
use crate::session::Session;

/// Orders in one call: bounded so that progress shows and a failed call repeats little.
const BATCH: usize = 500;
/// Payments recorded at once.
const IN_FLIGHT: usize = 16;

/// What to do with the payments a file tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payments {
    /// Record them as captures.
    Record,
    /// Leave them out.
    Ignore,
}

/// What became of an import.
#[derive(Debug, Default, Serialize)]
pub struct Taken {
    /// Rows below the header.
    pub rows: u64,
    /// Orders that were placed now.
    pub placed: u64,
    /// Orders that were there already.
    pub duplicates: u64,
    /// Payments that were recorded.
    pub payments: u64,
    /// Orders that were refused, by the reader or by the order service.
    pub refused: Vec<Refusal>,
    /// The orders that are there now, in the order of the file.
    #[serde(skip)]
    pub orders: Vec<TakenOrder>,
}

/// An order that was refused.
#[derive(Debug, Serialize)]
pub struct Refusal {
    /// Line of the row at fault.
    pub line: u64,
    /// The order's number in the file.
    pub number: String,
    /// What is wrong.
    pub reason: String,
}

/// An order that is there now.
#[derive(Debug, Clone)]
pub struct TakenOrder {
    /// Its id.
    pub order_id: String,
    /// Its version after the import, payments included.
    pub version: i64,
    /// Its lines as they were frozen.
    pub lines: Vec<OrderLine>,
    /// The order as it stood in the file.
    pub imported: ImportedOrder,
}

/// Places all orders of an import and records their payments. A second run of the same file changes nothing: orders are
/// recognised by their source, payments by the provider's id.
pub async fn place(
    session: &Session,
    import: &Import,
    payments: Payments,
    progress: &ProgressBar,
) -> anyhow::Result<Taken> {
    let mut taken = Taken {
        rows: import.rows,
        ..Taken::default()
    };
    taken
        .refused
        .extend(import.rejected.iter().map(|rejected: &Rejected| Refusal {
            line: rejected.line,
            number: rejected.number.clone(),
            reason: rejected.reason.clone(),
        }));
    progress.set_length(import.orders.len() as u64);
    for batch in import.orders.chunks(BATCH) {
        place_batch(session, batch, &mut taken).await?;
        progress.inc(batch.len() as u64);
    }
    if payments == Payments::Record {
        taken.payments = record_payments(session, &mut taken.orders).await?;
    }
    taken.refused.sort_by_key(|refusal| refusal.line);
    Ok(taken)
}

async fn place_batch(session: &Session, batch: &[ImportedOrder], taken: &mut Taken) -> anyhow::Result<()> {
    let requests: Vec<BatchPlaceOrdersRequest> = batch
        .iter()
        .map(|imported| BatchPlaceOrdersRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            request_id: request_id(imported),
            order: Some(imported.order.clone()),
        })
        .collect();
    let answer = session
        .orders()?
        .batch_place_orders(stream::iter(requests))
        .await
        .context("the orders could not be placed")?
        .into_inner();
    let by_index: HashMap<i32, _> = answer
        .outcomes
        .into_iter()
        .map(|outcome| (outcome.index, outcome))
        .collect();
    for (index, imported) in (0..).zip(batch) {
        let outcome = by_index
            .get(&index)
            .with_context(|| format!("no outcome for the order on line {}", imported.line))?;
        match outcome.result() {
            PlaceOrderResult::Placed => taken.placed += 1,
            PlaceOrderResult::Duplicate => taken.duplicates += 1,
            PlaceOrderResult::Refused | PlaceOrderResult::Unspecified => {
                taken.refused.push(Refusal {
                    line: imported.line,
                    number: imported.order.number.clone(),
                    reason: format!("{}: {}", outcome.reason, outcome.message),
                });
                continue;
            }
        }
        taken.orders.push(TakenOrder {
            order_id: outcome.order_id.clone(),
            version: outcome.version,
            lines: outcome.lines.clone(),
            imported: imported.clone(),
        });
    }
    Ok(())
}

async fn record_payments(session: &Session, orders: &mut [TakenOrder]) -> anyhow::Result<u64> {
    let recorded: Vec<(usize, i64)> = stream::iter(orders.iter().enumerate())
        .filter_map(
            |(at, order)| async move { order.imported.payment.as_ref().map(|paid| (at, order, paid)) },
        )
        .map(|(at, order, paid)| async move {
            let total = order
                .imported
                .order
                .totals
                .as_ref()
                .and_then(|totals| totals.total.clone());
            let request = RecordPaymentRequest {
                merchant_id: session.merchant_id.clone(),
                store_id: session.store_id.clone(),
                request_id: format!("import-payment-{}", order.order_id),
                order_id: order.order_id.clone(),
                kind: PaymentKind::Capture.into(),
                provider: paid.provider.clone(),
                provider_payment_id: paid.provider_payment_id.clone(),
                amount: total,
                occurred_at: paid.paid_at.map(|time| prost_types::Timestamp {
                    seconds: time.timestamp(),
                    nanos: 0,
                }),
            };
            let answer = session.orders()?.record_payment(request).await.with_context(|| {
                format!(
                    "the payment of order {} could not be recorded",
                    order.imported.order.number
                )
            })?;
            anyhow::Ok((at, answer.into_inner().order.map_or(0, |order| order.version)))
        })
        .buffer_unordered(IN_FLIGHT)
        .try_collect()
        .await?;
    let count = recorded.len() as u64;
    for (at, version) in recorded {
        orders[at].version = version;
    }
    Ok(count)
}

/// The request id of an imported order: the same in every import of the same order.
fn request_id(imported: &ImportedOrder) -> String {
    let source = imported.order.source.clone().unwrap_or_default();
    let digest =
        waybill_kernel::hash::sha256_hex(format!("{}\n{}", source.system, source.external_id).as_bytes());
    format!("import-{}", &digest[..32])
}
