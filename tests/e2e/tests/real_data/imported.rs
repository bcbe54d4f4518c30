//! The first days of the month as a file of JSON Lines: imported, stopped half-way, taken up, and imported once more.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use waybill_cli::output;
use waybill_e2e::imports::import;
use waybill_e2e::orders::minor;
use waybill_e2e::retail;
use waybill_e2e::shop::Shop;
use waybill_e2e::wait;
use waybill_proto::waybill::order::v1::import_orders_request::Part;
use waybill_proto::waybill::order::v1::{
    ExportOrdersRequest, Import, ImportChunk, ImportFormat, ImportOpening, ImportOrdersRequest,
    ImportedOrder, ImportedPayment, NewOrder,
};
use waybill_rpc::client::is_retryable;

/// Orders of the file: a few batches, so that there is something to stop and to take up.
const ORDERS: usize = 400;
/// Every so many orders one is paid.
const PAID: usize = 10;
/// Bytes of a chunk.
const PIECE: usize = 50_000;

/// A line of the file that is imported.
fn line(at: usize, order: NewOrder) -> anyhow::Result<String> {
    let total = order
        .totals
        .as_ref()
        .map_or(0, |totals| minor(totals.total.as_ref()));
    if !at.is_multiple_of(PAID) || total == 0 {
        return Ok(output::to_json(&order)?.to_string());
    }
    let payment = ImportedPayment {
        provider: "manual".to_owned(),
        provider_payment_id: format!("till-{}", order.number),
        paid_at: order.placed_at,
    };
    let paid = ImportedOrder {
        order: Some(order),
        payment: Some(payment),
    };
    Ok(output::to_json(&paid)?.to_string())
}

fn opening(id: &str) -> ImportOpening {
    ImportOpening {
        import_id: id.to_owned(),
        format: ImportFormat::JsonLines.into(),
        ..ImportOpening::default()
    }
}

/// Sends the first half of a file, ending inside of an order, and drops the stream as soon as something of it is durable. On
/// a busy machine the service may break it earlier, which is a stop as good as ours, but one that has led nowhere.
async fn stop_half_way(shop: &Shop, file: &[u8], id: &str) -> anyhow::Result<Import> {
    wait::until("something that is durable", || async {
        match half(shop, file, id).await {
            Ok(import) => Ok(Some(import).filter(|import| import.placed > 0)),
            Err(error) if error.downcast_ref::<Status>().is_some_and(is_retryable) => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await
}

async fn half(shop: &Shop, file: &[u8], id: &str) -> anyhow::Result<Import> {
    let (sender, receiver) = mpsc::channel(4);
    let message = |part| ImportOrdersRequest {
        merchant_id: shop.session.merchant_id.clone(),
        store_id: shop.session.store_id.clone(),
        part: Some(part),
    };
    sender.send(message(Part::Open(opening(id)))).await?;
    let mut client = shop.session.orders()?;
    let mut answers = client
        .import_orders(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    let chunks: Vec<ImportOrdersRequest> = (file[..file.len() / 2].chunks(PIECE).enumerate())
        .map(|(at, data)| {
            message(Part::Chunk(ImportChunk {
                offset: (at * PIECE) as i64,
                data: data.to_vec(),
                is_last: false,
            }))
        })
        .collect();
    let sending = tokio::spawn(async move {
        for chunk in chunks {
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
        // The stream stays open, as that of a caller who lost the network.
        std::future::pending::<()>().await;
    });
    let mut last = None;
    while let Some(answer) = answers.message().await? {
        last = answer.import;
        if last.as_ref().is_some_and(|import| import.placed > 0) {
            break;
        }
    }
    sending.abort();
    last.context("no answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_month_is_imported_once_however_often_the_stream_breaks() -> anyhow::Result<()> {
    let Some(file) = retail::file()? else {
        eprintln!("skipped: there is no ../shared/data, and WAYBILL_SHARED_DATA is not set");
        return Ok(());
    };
    let invoices = retail::invoices(&retail::text(&file)?)?;
    let orders: Vec<NewOrder> = (invoices.iter())
        .filter(|invoice| !invoice.is_cancellation())
        .filter_map(|invoice| retail::order(invoice).ok())
        .take(ORDERS)
        .collect();
    // What takes back more than it sells is no order: for the service to find out.
    let sound = |order: &&NewOrder| order.lines.iter().all(|line| line.quantity > 0);
    let expected: BTreeSet<String> = orders
        .iter()
        .filter(sound)
        .map(|order| order.number.clone())
        .collect();
    ensure!(
        expected.len() > ORDERS / 2 && orders.len() == ORDERS,
        "{} orders",
        expected.len()
    );
    let count = orders.len();
    let lines = orders.into_iter().enumerate().map(|(at, order)| line(at, order));
    let file = lines.collect::<anyhow::Result<Vec<_>>>()?.join("\n");

    let shop = Shop::open().await?;
    let stopped = stop_half_way(&shop, file.as_bytes(), "month").await?;
    ensure!(
        stopped.bytes_done > 0 && (stopped.bytes_done as usize) < file.len() / 2,
        "{stopped:?}"
    );
    let taken = import(&shop.session, file.as_bytes(), opening("month"))
        .await?
        .import;
    let sums = |import: &Import| (import.placed, import.duplicates, import.refused);
    let refused = (count - expected.len()) as i64;
    ensure!(sums(&taken) == (expected.len() as i64, 0, refused), "{taken:?}");
    ensure!(
        (taken.rows, taken.payments_refused) == (count as i64, 0) && taken.payments > 20,
        "{taken:?}"
    );

    // Another import of the same file finds everything there.
    let again = import(&shop.session, file.as_bytes(), opening("again"))
        .await?
        .import;
    ensure!(sums(&again) == (0, expected.len() as i64, refused), "{again:?}");
    ensure!(again.payments == taken.payments, "{again:?}");
    let request = ExportOrdersRequest {
        merchant_id: shop.session.merchant_id.clone(),
        store_id: shop.session.store_id.clone(),
        ..ExportOrdersRequest::default()
    };
    let mut stored = shop.session.orders()?.export_orders(request).await?.into_inner();
    let (mut found, mut payments) = (Vec::new(), 0);
    while let Some(answer) = stored.next().await {
        if let Some(order) = answer?.order {
            payments += order.payments.len() as i64;
            found.push(order.number);
        }
    }
    ensure!(found.len() == expected.len(), "{} orders are there", found.len());
    ensure!(
        found.into_iter().collect::<BTreeSet<_>>() == expected,
        "other orders than those of the file"
    );
    ensure!(
        payments == taken.payments,
        "{payments} payments of {}",
        taken.payments
    );
    shop.close().await
}
