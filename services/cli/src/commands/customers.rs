//! `waybill customers …`: what is held of a person, from all services, and forgetting it.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use serde_json::json;
use waybill_proto::waybill::fulfillment::v1::{GetShipmentRequest, ListShipmentsRequest};
use waybill_proto::waybill::notification::v1::ListNotificationsRequest;
use waybill_proto::waybill::order::v1::customer_ref::Key;
use waybill_proto::waybill::order::v1::{
    CustomerRef, EraseCustomerRequest, Erasure, ErasureState, ExportCustomerDataRequest, GetErasureRequest,
    GetTimelineRequest, Order,
};
use waybill_proto::waybill::refund::v1::{ListRefundsRequest, ListReturnsRequest};

use crate::args::{CustomerArgs, CustomersCommand};
use crate::output::{self, line, table, time, word};
use crate::session::Session;

/// The most things of an order in an answer.
const PAGE: i32 = 200;

/// How often an export that broke is taken up before it is given up. It counts anew with every order that arrives.
const TAKEN_UP: u32 = 5;

/// Runs the command.
pub async fn run(session: &Session, command: CustomersCommand, json: bool) -> anyhow::Result<()> {
    match command {
        CustomersCommand::Export {
            customer,
            out,
            cursor,
        } => {
            let customer = named(session, &customer).await?;
            match out {
                Some(file) => Box::pin(export(session, customer, cursor, &mut private(&file)?)).await,
                None => Box::pin(export(session, customer, cursor, &mut std::io::stdout())).await,
            }
        }
        CustomersCommand::Erase {
            customer,
            yes,
            request_id,
        } => {
            ensure!(
                yes,
                "a customer who was erased cannot be brought back; say --yes if you mean it (`waybill customers export` shows \
                 what is held)"
            );
            let customer = named(session, &customer).await?;
            let request_id = request_id.unwrap_or_else(super::request_id);
            let request = EraseCustomerRequest {
                merchant_id: session.merchant_id.clone(),
                request_id: request_id.clone(),
                customer: Some(customer),
            };
            let answer = session.customers()?.erase_customer(request).await;
            let answer = answer
                .with_context(|| format!("go on with the same command and --request-id {request_id}"))?
                .into_inner();
            if json {
                return output::json(&answer);
            }
            show(&answer.erasure.unwrap_or_default());
            Ok(())
        }
        CustomersCommand::Erasure { erasure_id } => {
            let request = GetErasureRequest {
                merchant_id: session.merchant_id.clone(),
                erasure_id,
            };
            let answer = session.customers()?.get_erasure(request).await?.into_inner();
            if json {
                return output::json(&answer);
            }
            show(&answer.erasure.unwrap_or_default());
            Ok(())
        }
    }
}

async fn named(session: &Session, args: &CustomerArgs) -> anyhow::Result<CustomerRef> {
    let key = match (&args.email, &args.external_id, &args.order) {
        (Some(email), ..) => Key::Email(email.clone()),
        (_, Some(id), _) => Key::ExternalId(id.clone()),
        (.., Some(order)) => Key::OrderId(session.order(order).await?.order_id),
        _ => anyhow::bail!("name the customer by --email, --external-id or --order"),
    };
    Ok(CustomerRef { key: Some(key) })
}

/// A file that only its owner can read; what it has already stays.
fn private(path: &Path) -> anyhow::Result<std::fs::File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Writes what is held, order by order. A stream that breaks is taken up behind the last order.
async fn export(
    session: &Session,
    customer: CustomerRef,
    mut cursor: String,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut broken = 0;
    loop {
        let mut request = tonic::Request::new(ExportCustomerDataRequest {
            merchant_id: session.merchant_id.clone(),
            customer: Some(customer.clone()),
            cursor: cursor.clone(),
        });
        // An export takes as long as it takes; the usual deadline does not apply.
        request.set_timeout(std::time::Duration::from_secs(24 * 3600));
        let outcome = async {
            let mut steps = session
                .customers()?
                .export_customer_data(request)
                .await?
                .into_inner();
            while let Some(step) = steps.next().await {
                let step = step?;
                let lines = match (step.order, step.draft) {
                    (Some(order), _) => held(session, &order, &step.customer_key).await?,
                    (None, Some(draft)) => {
                        let mut lines = Lines(String::new());
                        lines.add("draft", &output::to_json(&draft)?);
                        lines.0
                    }
                    (None, None) => anyhow::bail!("a step with neither an order nor a draft"),
                };
                // All of an order or nothing: an export that is taken up again begins with the next one.
                out.write_all(lines.as_bytes())?;
                out.flush()?;
                cursor = step.cursor;
                broken = 0;
            }
            anyhow::Ok(())
        };
        let Err(error) = Box::pin(outcome).await else {
            return Ok(());
        };
        broken += 1;
        let again = error.downcast_ref::<tonic::Status>().is_some_and(|status| {
            matches!(
                status.code(),
                tonic::Code::Unavailable | tonic::Code::ResourceExhausted
            )
        });
        if !again || broken > TAKEN_UP {
            return Err(error.context(format!("the export broke; go on with --cursor {cursor:?}")));
        }
        tokio::time::sleep(std::time::Duration::from_millis(200 * u64::from(broken))).await;
    }
}

/// What all services have of an order, a line of JSON each.
async fn held(session: &Session, order: &Order, customer_key: &str) -> anyhow::Result<String> {
    let mut lines = Lines(String::new());
    let mut whole = output::to_json(order)?;
    if let Some(whole) = whole.as_object_mut() {
        whole.insert("customerKey".to_owned(), customer_key.into());
    }
    lines.add("order", &whole);
    let (timeline, shipments, returns, refunds, notifications) = tokio::try_join!(
        timeline(session, order),
        shipments(session, order),
        returns(session, order),
        refunds(session, order),
        notifications(session, order),
    )?;
    for (kind, values) in [
        ("timelineEntry", timeline),
        ("shipment", shipments),
        ("return", returns),
        ("refund", refunds),
        ("notification", notifications),
    ] {
        for value in values {
            lines.add(kind, &value);
        }
    }
    Ok(lines.0)
}

struct Lines(String);

impl Lines {
    fn add(&mut self, kind: &str, value: &serde_json::Value) {
        self.0.push_str(&json!({ kind: value }).to_string());
        self.0.push('\n');
    }
}

/// All pages of a list of an order's things, as JSON.
macro_rules! pages {
    ($client:expr, $list:ident, $request:ident, $order:ident, $field:ident $(, $of:ident: $any:expr)?) => {{
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = $request {
                merchant_id: $order.merchant_id.clone(),
                store_id: $order.store_id.clone(),
                page_size: PAGE,
                page_token,
                order_id: $order.order_id.clone(),
                $($of: $any,)?
            };
            let page = $client.$list(request).await?.into_inner();
            found.extend(page.$field);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break found;
            }
        }
    }};
}

async fn timeline(session: &Session, order: &Order) -> anyhow::Result<Vec<serde_json::Value>> {
    let request = GetTimelineRequest {
        merchant_id: order.merchant_id.clone(),
        store_id: order.store_id.clone(),
        order_id: order.order_id.clone(),
    };
    let answer = session.orders()?.get_timeline(request).await?.into_inner();
    answer.entries.iter().map(output::to_json).collect()
}

async fn shipments(session: &Session, order: &Order) -> anyhow::Result<Vec<serde_json::Value>> {
    let mut client = session.fulfillment()?;
    let found = pages!(client, list_shipments, ListShipmentsRequest, order, shipments);
    let mut whole = Vec::new();
    for shipment in found {
        // A list leaves out what carriers said.
        let request = GetShipmentRequest {
            merchant_id: order.merchant_id.clone(),
            store_id: order.store_id.clone(),
            shipment_id: shipment.shipment_id,
        };
        let answer = client.get_shipment(request).await?.into_inner();
        whole.push(output::to_json(&answer.shipment.unwrap_or_default())?);
    }
    Ok(whole)
}

async fn returns(session: &Session, order: &Order) -> anyhow::Result<Vec<serde_json::Value>> {
    let mut client = session.refunds()?;
    let found = pages!(client, list_returns, ListReturnsRequest, order, returns);
    found.iter().map(output::to_json).collect()
}

async fn refunds(session: &Session, order: &Order) -> anyhow::Result<Vec<serde_json::Value>> {
    let mut client = session.refunds()?;
    let found = pages!(client, list_refunds, ListRefundsRequest, order, refunds, state: 0);
    found.iter().map(output::to_json).collect()
}

async fn notifications(session: &Session, order: &Order) -> anyhow::Result<Vec<serde_json::Value>> {
    let mut client = session.notifications()?;
    let found = pages!(
        client,
        list_notifications,
        ListNotificationsRequest,
        order,
        notifications
    );
    found.iter().map(output::to_json).collect()
}

fn show(erasure: &Erasure) {
    let state = word(erasure.state().as_str_name(), "ERASURE_STATE");
    line(format!("erasure {}: {state}", erasure.erasure_id));
    line(format!(
        "{} orders, {} of them erased",
        erasure.orders, erasure.erased
    ));
    match erasure.state() {
        ErasureState::Done => line(format!("finished {} UTC", time(erasure.finished_at.as_ref()))),
        ErasureState::Running => line("ask again: `waybill customers erasure` with this id"),
        _ => {}
    }
    if erasure.waiting.is_empty() {
        return;
    }
    line("these are erased by themselves when they no longer need the customer:");
    line(
        table(
            &["number", "waits for", "store", "id"],
            erasure.waiting.iter().map(|order| {
                [
                    order.number.clone(),
                    word(order.waits_for().as_str_name(), "ERASURE_WAIT"),
                    order.store_id.clone(),
                    order.order_id.clone(),
                ]
            }),
        )
        .to_string(),
    );
}
