//! Handing the orders of a demo to the order service, in batches, with their payments.
//!
//! A demo drives each order to its end and checks the result against the file, so it reads the file itself and wants to know
//! the lines of each order. Everybody else sends the file as it is: `commands::import`.

use std::collections::HashMap;

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::ProgressBar;
use serde::Serialize;
use tonic::Status;
use waybill_order::formats::ImportedOrder;
use waybill_order::formats::shopify::Import;
use waybill_proto::waybill::order::v1::{
    BatchPlaceOrdersRequest, OrderLine, PaymentKind, PlaceOrderResult, RecordPaymentRequest,
};
use waybill_rpc::client::{RetryPolicy, with_retry};
use waybill_rpc::fault;

use crate::session::Session;

/// Orders in one call: bounded so that progress shows and a failed call repeats little.
const BATCH: usize = 500;
/// Payments recorded at once.
const IN_FLIGHT: usize = 16;

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
pub async fn place(session: &Session, import: &Import, progress: &ProgressBar) -> anyhow::Result<Taken> {
    let mut taken = Taken {
        rows: import.rows,
        ..Taken::default()
    };
    taken
        .refused
        .extend(import.rejected.iter().map(|(number, fault)| Refusal {
            line: fault.line,
            number: number.clone(),
            reason: fault.to_string(),
        }));
    progress.set_length(import.orders.len() as u64);
    for batch in import.orders.chunks(BATCH) {
        place_batch(session, batch, &mut taken).await?;
        progress.inc(batch.len() as u64);
    }
    taken.payments = record_payments(session, &mut taken).await?;
    taken.refused.sort_by_key(|refusal| refusal.line);
    Ok(taken)
}

async fn place_batch(session: &Session, batch: &[ImportedOrder], taken: &mut Taken) -> anyhow::Result<()> {
    let requests: Vec<BatchPlaceOrdersRequest> = batch
        .iter()
        .map(|imported| BatchPlaceOrdersRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            request_id: request_id("import", &imported.order),
            order: Some(imported.order.clone()),
        })
        .collect();
    let client = session.orders()?;
    // Safe to repeat: each order has its request id.
    let answer = with_retry(RetryPolicy::default(), || {
        let (mut client, requests) = (client.clone(), requests.clone());
        async move { client.batch_place_orders(stream::iter(requests)).await }
    });
    let answer = answer
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

async fn record_payments(session: &Session, taken: &mut Taken) -> anyhow::Result<u64> {
    let recorded: Vec<(usize, Result<i64, Refusal>)> = stream::iter(taken.orders.iter().enumerate())
        .filter_map(|(at, order)| async move { capture(session, order).map(|request| (at, order, request)) })
        .map(|(at, order, request)| async move {
            let client = session.orders()?;
            let answer = with_retry(RetryPolicy::default(), || {
                let (mut client, request) = (client.clone(), request.clone());
                async move { client.record_payment(request).await }
            });
            let version = answer
                .await
                .map(|answer| answer.into_inner().order.map_or(0, |order| order.version));
            anyhow::Ok((at, version.map_err(|status| payment_refused(order, &status))))
        })
        .buffer_unordered(IN_FLIGHT)
        .try_collect()
        .await?;
    let mut count = 0;
    for (at, outcome) in recorded {
        match outcome {
            Ok(version) => {
                taken.orders[at].version = version;
                count += 1;
            }
            // The order is taken all the same, and so are the payments of the others.
            Err(refusal) => taken.refused.push(refusal),
        }
    }
    Ok(count)
}

/// The capture that an order came with; none for what costs nothing, which is paid without.
fn capture(session: &Session, order: &TakenOrder) -> Option<RecordPaymentRequest> {
    let paid = order.imported.payment.as_ref()?;
    let totals = order.imported.order.totals.as_ref()?;
    let amount = totals.total.clone().filter(|total| total.minor_units != 0)?;
    let mut request = RecordPaymentRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        request_id: String::new(),
        order_id: order.order_id.clone(),
        kind: PaymentKind::Capture.into(),
        provider: paid.provider.clone(),
        provider_payment_id: paid.provider_payment_id.clone(),
        amount: Some(amount),
        occurred_at: paid.paid_at.map(|time| prost_types::Timestamp {
            seconds: time.timestamp(),
            nanos: 0,
        }),
        ..RecordPaymentRequest::default()
    };
    request.request_id = request_id("import-payment", &request);
    Some(request)
}

fn payment_refused(order: &TakenOrder, status: &Status) -> Refusal {
    let reason = fault::reason(status).unwrap_or_else(|| format!("{:?}", status.code()));
    Refusal {
        line: order.imported.line,
        number: order.imported.order.number.clone(),
        reason: format!("its payment: {reason}: {}", status.message()),
    }
}

/// The request id of a message: the same whenever the same is imported again. What has changed in the file since is another
/// request, and then the order's source says that it is there already.
fn request_id(prefix: &str, message: &impl prost::Message) -> String {
    let digest = waybill_kernel::hash::sha256_hex(&message.encode_to_vec());
    format!("{prefix}-{}", &digest[..32])
}
