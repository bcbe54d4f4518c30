//! `waybill orders list|search|count|export`: which orders there are.

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use waybill_kernel::money::{Currency, Money};
use waybill_proto::waybill::order::v1::{
    CountOrdersRequest, ExportOrdersRequest, FulfillmentStatus, ListOrdersRequest, ListOrdersResponse, Order,
    OrderFilter, OrderSort, OrderStatus, PaymentStatus, ReturnStatus, SearchOrdersRequest,
    SearchOrdersResponse,
};
use waybill_proto::waybill::r#type::v1 as common;

use crate::args::{FilterArgs, SortArg, StatusArg};
use crate::output::{self, line, money, table, time, word};
use crate::session::Session;

/// The most orders in an answer.
const PAGE: i32 = 200;

/// How often an export that broke is taken up before it is given up. It counts anew with every order that arrives.
const TAKEN_UP: u32 = 5;

/// Lists orders.
pub async fn list(
    session: &Session,
    limit: i32,
    filter: &FilterArgs,
    sort: SortArg,
    json: bool,
) -> anyhow::Result<()> {
    let filter = wanted(filter)?;
    let (orders, next_page_token) = pages(limit, |page_size, page_token| {
        let request = ListOrdersRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            page_size,
            page_token,
            filter: Some(filter.clone()),
            sort: sorted(sort).into(),
            ..ListOrdersRequest::default()
        };
        async move {
            let page = session.orders()?.list_orders(request).await?.into_inner();
            Ok((page.orders, page.next_page_token))
        }
    })
    .await?;
    if json {
        return output::json(&ListOrdersResponse {
            orders,
            next_page_token,
        });
    }
    print(&orders);
    Ok(())
}

/// Finds orders by a text.
pub async fn search(session: &Session, text: &str, limit: i32, json: bool) -> anyhow::Result<()> {
    let (orders, next_page_token) = pages(limit, |page_size, page_token| {
        let request = SearchOrdersRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            query: text.to_owned(),
            page_size,
            page_token,
        };
        async move {
            let page = session.orders()?.search_orders(request).await?.into_inner();
            Ok((page.orders, page.next_page_token))
        }
    })
    .await?;
    if json {
        return output::json(&SearchOrdersResponse {
            orders,
            next_page_token,
        });
    }
    print(&orders);
    Ok(())
}

/// Counts orders.
pub async fn count(session: &Session, filter: &FilterArgs, json: bool) -> anyhow::Result<()> {
    let request = CountOrdersRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        filter: Some(wanted(filter)?),
    };
    let answer = session.orders()?.count_orders(request).await?.into_inner();
    if json {
        return output::json(&answer);
    }
    let more = if answer.is_more { " or more" } else { "" };
    line(format!("{}{more}", answer.count));
    Ok(())
}

/// Prints every order that passes, one JSON object a line. A stream that breaks is taken up behind the last order.
pub async fn export(session: &Session, filter: &FilterArgs, cursor: String) -> anyhow::Result<()> {
    let filter = wanted(filter)?;
    let (mut cursor, mut broken) = (cursor, 0);
    loop {
        let mut request = tonic::Request::new(ExportOrdersRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            filter: Some(filter.clone()),
            cursor: cursor.clone(),
        });
        // An export takes as long as it takes; the usual deadline does not apply.
        request.set_timeout(std::time::Duration::from_secs(24 * 3600));
        let outcome = async {
            let mut steps = session.orders()?.export_orders(request).await?.into_inner();
            while let Some(step) = steps.next().await {
                let step = step?;
                if let Some(order) = &step.order {
                    line(serde_json::to_string(&output::to_json(order)?)?);
                }
                cursor = step.cursor;
                broken = 0;
            }
            anyhow::Ok(())
        };
        let Err(error) = outcome.await else { return Ok(()) };
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

/// Pages until there are as many orders as are wanted, or no more.
async fn pages<F>(limit: i32, mut page: impl FnMut(i32, String) -> F) -> anyhow::Result<(Vec<Order>, String)>
where
    F: Future<Output = anyhow::Result<(Vec<Order>, String)>>,
{
    let mut orders: Vec<Order> = Vec::new();
    let mut token = String::new();
    loop {
        let left = limit - i32::try_from(orders.len()).unwrap_or(i32::MAX);
        let (found, next) = page(left.clamp(1, PAGE), token).await?;
        orders.extend(found);
        token = next;
        if token.is_empty() || orders.len() >= usize::try_from(limit).unwrap_or(0) {
            return Ok((orders, token));
        }
    }
}

fn print(orders: &[Order]) {
    line(
        table(
            &[
                "number",
                "placed (UTC)",
                "status",
                "payment",
                "fulfillment",
                "return",
                ">total",
                "id",
            ],
            orders.iter().map(|order| {
                [
                    order.number.clone(),
                    time(order.placed_at.as_ref()),
                    word(order.status().as_str_name(), "ORDER_STATUS"),
                    word(order.payment_status().as_str_name(), "PAYMENT_STATUS"),
                    word(order.fulfillment_status().as_str_name(), "FULFILLMENT_STATUS"),
                    word(order.return_status().as_str_name(), "RETURN_STATUS"),
                    money(order.totals.as_ref().and_then(|totals| totals.total.as_ref())),
                    order.order_id.clone(),
                ]
            }),
        )
        .to_string(),
    );
}

/// The filter as the contract has it.
fn wanted(args: &FilterArgs) -> anyhow::Result<OrderFilter> {
    let status = match args.status {
        None => OrderStatus::Unspecified,
        Some(StatusArg::Open) => OrderStatus::Open,
        Some(StatusArg::OnHold) => OrderStatus::OnHold,
        Some(StatusArg::Cancelled) => OrderStatus::Cancelled,
        Some(StatusArg::Completed) => OrderStatus::Completed,
    };
    let payment = facet(
        "payment",
        "PAYMENT_STATUS",
        args.payment.as_deref(),
        PaymentStatus::from_str_name,
    )?;
    let fulfillment = facet(
        "fulfillment",
        "FULFILLMENT_STATUS",
        args.fulfillment.as_deref(),
        FulfillmentStatus::from_str_name,
    )?;
    let returns = facet(
        "returns",
        "RETURN_STATUS",
        args.returns.as_deref(),
        ReturnStatus::from_str_name,
    )?;
    Ok(OrderFilter {
        status: status.into(),
        payment_status: payment.unwrap_or_default().into(),
        fulfillment_status: fulfillment.unwrap_or_default().into(),
        return_status: returns.unwrap_or_default().into(),
        placed_from: args.placed_from.map(timestamp),
        placed_before: args.placed_before.map(timestamp),
        updated_from: args.updated_from.map(timestamp),
        updated_before: args.updated_before.map(timestamp),
        customer_external_id: args.customer.clone(),
        customer_email: args.email.clone(),
        sku: args.sku.clone(),
        tag: args.tag.clone(),
        total_from: amount(args.total_from.as_deref(), &args.currency)?,
        total_to: amount(args.total_to.as_deref(), &args.currency)?,
        currency_code: args.currency.clone(),
    })
}

fn facet<T>(
    option: &str,
    prefix: &str,
    given: Option<&str>,
    named: impl Fn(&str) -> Option<T>,
) -> anyhow::Result<Option<T>> {
    let Some(text) = given else { return Ok(None) };
    match named(&format!("{prefix}_{}", text.to_uppercase().replace('-', "_"))) {
        Some(known) => Ok(Some(known)),
        None => bail!(
            "--{option} {text:?} is not known; the contract's {prefix}_… names the values, e.g. \"partially-refunded\""
        ),
    }
}

/// An amount as people write it.
pub(super) fn amount(text: Option<&str>, currency: &str) -> anyhow::Result<Option<common::Money>> {
    let Some(text) = text else { return Ok(None) };
    let currency = Currency::parse(currency)?;
    let money = Money::parse_decimal(text, currency).with_context(|| format!("{text:?} is no amount"))?;
    Ok(Some(waybill_rpc::convert::to_money(money)))
}

fn timestamp(time: DateTime<Utc>) -> prost_types::Timestamp {
    waybill_rpc::convert::to_timestamp(time)
}

const fn sorted(sort: SortArg) -> OrderSort {
    match sort {
        SortArg::PlacedDesc => OrderSort::PlacedDesc,
        SortArg::PlacedAsc => OrderSort::PlacedAsc,
        SortArg::TotalDesc => OrderSort::TotalDesc,
        SortArg::TotalAsc => OrderSort::TotalAsc,
    }
}
