//! Lists, searches, counts and exports: which orders a caller asks for, and the answers.

use std::pin::Pin;

use chrono::{DateTime, Utc};
use futures_util::{Stream, stream};
use tonic::Status as Refusal;
use waybill_kernel::check::Violations;
use waybill_kernel::money::{Currency, Money};
use waybill_kernel::page::page_size;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::convert;
use waybill_rpc::fault::to_status;

use super::{OrderGrpc, parse, view};
use crate::app::{Export, Exported, Query};
use crate::domain::find::{By, Filter, Sort, search_text};
use crate::domain::goods::FulfillmentStatus;
use crate::domain::payment::PaymentStatus;
use crate::domain::returns::ReturnStatus;
use crate::domain::state::Status;
use crate::error::Error;

/// Orders on a page when a caller says nothing, and at most.
const PAGE: (i64, i64) = (50, 200);

/// The stream of an export.
pub(super) type Exporting = Pin<Box<dyn Stream<Item = Result<proto::ExportOrdersResponse, Refusal>> + Send>>;

impl OrderGrpc {
    pub(super) async fn list(
        &self,
        request: proto::ListOrdersRequest,
    ) -> Result<proto::ListOrdersResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let query = query(request, &mut v);
        let (tenant, query) = parse::checked(tenant.zip(query), v)?;
        let page = self.orders.list(tenant, &query).await?;
        Ok(proto::ListOrdersResponse {
            orders: page.orders.into_iter().map(view::order).collect(),
            next_page_token: page.next,
        })
    }

    pub(super) async fn search(
        &self,
        request: &proto::SearchOrdersRequest,
    ) -> Result<proto::SearchOrdersResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let text = search_text(&request.query, &mut v);
        let size = size(request.page_size, &mut v);
        let (tenant, (text, size)) = parse::checked(tenant.zip(text.zip(size)), v)?;
        let query = Query {
            filter: Filter {
                text: Some(text),
                ..Filter::default()
            },
            sort: Sort::default(),
            size,
            token: request.page_token.clone(),
        };
        let page = self.orders.list(tenant, &query).await?;
        Ok(proto::SearchOrdersResponse {
            orders: page.orders.into_iter().map(view::order).collect(),
            next_page_token: page.next,
        })
    }

    pub(super) async fn count(
        &self,
        request: proto::CountOrdersRequest,
    ) -> Result<proto::CountOrdersResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let filter = filter(request.filter.unwrap_or_default(), &mut v);
        let (tenant, filter) = parse::checked(tenant.zip(filter), v)?;
        let count = self.orders.count(tenant, &filter).await?;
        Ok(proto::CountOrdersResponse {
            count: count.found,
            is_more: count.is_more,
        })
    }

    pub(super) fn export(&self, request: proto::ExportOrdersRequest) -> Result<Exporting, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let filter = filter(request.filter.unwrap_or_default(), &mut v);
        let (tenant, filter) = parse::checked(tenant.zip(filter), v)?;
        let export = self.orders.export(tenant, filter, &request.cursor)?;
        // An error ends the stream: the caller goes on from its last cursor.
        let steps = stream::unfold(Some(export), |export| async {
            let mut export: Export = export?;
            match export.next().await {
                Ok(Some(step)) => Some((Ok(exported(step)), Some(export))),
                Ok(None) => None,
                Err(error) => Some((Err(to_status(&error)), None)),
            }
        });
        Ok(Box::pin(steps))
    }
}

fn exported(step: Exported) -> proto::ExportOrdersResponse {
    proto::ExportOrdersResponse {
        cursor: step.cursor,
        order: step.order.map(view::order),
    }
}

fn size(asked: i32, v: &mut Violations) -> Option<i64> {
    let (usual, most) = PAGE;
    page_size(asked, usual, most)
        .map_err(|fault| v.push(fault.field, fault.description))
        .ok()
}

/// A page that a caller asks for.
fn query(request: proto::ListOrdersRequest, v: &mut Violations) -> Option<Query> {
    let size = size(request.page_size, v);
    let sort = match request.sort {
        0 => Some(Sort::default()),
        sort => convert::known("sort", sort, v).map(self::sort),
    };
    let wanted = joined(&request, v);
    let given = request.filter.is_some();
    // Faults are named where the caller wrote them.
    let filter = if given {
        v.nested("filter", |v| filter(wanted, v))
    } else {
        filter(wanted, v)
    };
    if let Some((filter, sort)) = filter.as_ref().zip(sort) {
        filter.check_sort(sort, v);
    }
    Some(Query {
        filter: filter?,
        sort: sort?,
        size: size?,
        token: request.page_token,
    })
}

/// The filter of a list together with the short forms beside it.
fn joined(request: &proto::ListOrdersRequest, v: &mut Violations) -> proto::OrderFilter {
    let mut filter = request.filter.clone().unwrap_or_default();
    let facets = [
        ("status", request.status, &mut filter.status),
        (
            "payment_status",
            request.payment_status,
            &mut filter.payment_status,
        ),
        (
            "fulfillment_status",
            request.fulfillment_status,
            &mut filter.fulfillment_status,
        ),
    ];
    for (field, short, long) in facets {
        v.require(short == 0 || *long == 0, field, twice(field));
        if short != 0 {
            *long = short;
        }
    }
    let times = [
        ("placed_from", request.placed_from, &mut filter.placed_from),
        ("placed_before", request.placed_before, &mut filter.placed_before),
    ];
    for (field, short, long) in times {
        v.require(short.is_none() || long.is_none(), field, twice(field));
        *long = short.or(*long);
    }
    filter
}

fn twice(field: &str) -> String {
    format!("is set here and in filter.{field}; give it once")
}

/// Which orders a caller asks for.
fn filter(filter: proto::OrderFilter, v: &mut Violations) -> Option<Filter> {
    let before = v.len();
    let status = facet("status", filter.status, v, status);
    let payment_status = facet("payment_status", filter.payment_status, v, payment_status);
    let fulfillment_status = facet(
        "fulfillment_status",
        filter.fulfillment_status,
        v,
        fulfillment_status,
    );
    let return_status = facet("return_status", filter.return_status, v, return_status);
    let mut time = |field, given: Option<prost_types::Timestamp>| -> Option<DateTime<Utc>> {
        parse::time(field, given.as_ref(), v).flatten()
    };
    let placed_from = time("placed_from", filter.placed_from);
    let placed_before = time("placed_before", filter.placed_before);
    let updated_from = time("updated_from", filter.updated_from);
    let updated_before = time("updated_before", filter.updated_before);
    let total_from = filter
        .total_from
        .and_then(|m| convert::money("total_from", Some(&m), v));
    let total_to = filter
        .total_to
        .and_then(|m| convert::money("total_to", Some(&m), v));
    let currency = match filter.currency_code.as_str() {
        "" => None,
        code => convert::currency("currency_code", code, v),
    };
    let parsed = Filter {
        status,
        payment_status,
        fulfillment_status,
        return_status,
        placed_from,
        placed_before,
        updated_from,
        updated_before,
        customer_external_id: given(filter.customer_external_id),
        customer_email: given(filter.customer_email),
        sku: given(filter.sku),
        tag: given(filter.tag),
        currency: one_currency(currency, total_from, total_to, v),
        total_from: total_from.map(|money| money.minor),
        total_to: total_to.map(|money| money.minor),
        text: None,
    };
    parsed.check(v);
    (v.len() == before).then_some(parsed)
}

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// The one currency that a filter is about; amounts of two have no common order.
fn one_currency(
    named: Option<Currency>,
    total_from: Option<Money>,
    total_to: Option<Money>,
    v: &mut Violations,
) -> Option<Currency> {
    let mut one = named;
    for (field, amount) in [("total_from", total_from), ("total_to", total_to)] {
        let Some(amount) = amount else { continue };
        let expected = *one.get_or_insert(amount.currency);
        v.require(
            amount.currency == expected,
            field,
            format!(
                "is in {}; expected {expected}, as elsewhere in the filter",
                amount.currency
            ),
        );
    }
    one
}

fn sort(sort: proto::OrderSort) -> Sort {
    let (by, ascending) = match sort {
        proto::OrderSort::Unspecified | proto::OrderSort::PlacedDesc => (By::Placed, false),
        proto::OrderSort::PlacedAsc => (By::Placed, true),
        proto::OrderSort::TotalDesc => (By::Total, false),
        proto::OrderSort::TotalAsc => (By::Total, true),
    };
    Sort { by, ascending }
}

/// A filter by a facet: none when it is not set.
fn facet<E: TryFrom<i32>, T>(
    field: &str,
    value: i32,
    v: &mut Violations,
    of: impl Fn(E) -> Option<T>,
) -> Option<T> {
    if value == 0 {
        None
    } else {
        convert::known(field, value, v).and_then(of)
    }
}

fn status(status: proto::OrderStatus) -> Option<Status> {
    match status {
        proto::OrderStatus::Unspecified => None,
        proto::OrderStatus::Open => Some(Status::Open),
        proto::OrderStatus::OnHold => Some(Status::OnHold),
        proto::OrderStatus::Cancelled => Some(Status::Cancelled),
        proto::OrderStatus::Completed => Some(Status::Completed),
    }
}

fn payment_status(status: proto::PaymentStatus) -> Option<PaymentStatus> {
    match status {
        proto::PaymentStatus::Unspecified => None,
        proto::PaymentStatus::Pending => Some(PaymentStatus::Pending),
        proto::PaymentStatus::Authorized => Some(PaymentStatus::Authorized),
        proto::PaymentStatus::PartiallyPaid => Some(PaymentStatus::PartiallyPaid),
        proto::PaymentStatus::Paid => Some(PaymentStatus::Paid),
        proto::PaymentStatus::PartiallyRefunded => Some(PaymentStatus::PartiallyRefunded),
        proto::PaymentStatus::Refunded => Some(PaymentStatus::Refunded),
        proto::PaymentStatus::Voided => Some(PaymentStatus::Voided),
    }
}

fn fulfillment_status(status: proto::FulfillmentStatus) -> Option<FulfillmentStatus> {
    match status {
        proto::FulfillmentStatus::Unspecified => None,
        proto::FulfillmentStatus::Unfulfilled => Some(FulfillmentStatus::Unfulfilled),
        proto::FulfillmentStatus::PartiallyFulfilled => Some(FulfillmentStatus::PartiallyFulfilled),
        proto::FulfillmentStatus::Fulfilled => Some(FulfillmentStatus::Fulfilled),
        proto::FulfillmentStatus::PartiallyDelivered => Some(FulfillmentStatus::PartiallyDelivered),
        proto::FulfillmentStatus::Delivered => Some(FulfillmentStatus::Delivered),
    }
}

fn return_status(status: proto::ReturnStatus) -> Option<ReturnStatus> {
    match status {
        proto::ReturnStatus::Unspecified => None,
        proto::ReturnStatus::None => Some(ReturnStatus::None),
        proto::ReturnStatus::Requested => Some(ReturnStatus::Requested),
        proto::ReturnStatus::InProgress => Some(ReturnStatus::InProgress),
        proto::ReturnStatus::Returned => Some(ReturnStatus::Returned),
    }
}
