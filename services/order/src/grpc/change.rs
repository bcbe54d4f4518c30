//! Changes of an order that exists: their requests as domain values, and their answers.

use std::collections::{BTreeMap, BTreeSet};

use waybill_kernel::check::Violations;
use waybill_kernel::id::LineId;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::auth::Caller;
use waybill_rpc::convert;

use super::{OrderGrpc, parse, rpc, view};
use crate::app::{CancelUnits, NewDetails, NewHold, NewRelease};
use crate::domain::change::{Attributes, Path, Update};
use crate::domain::hold::{Hold, HoldReason};
use crate::domain::limits;
use crate::domain::order::{Contact, Order, Tenant};
use crate::error::Error;

impl OrderGrpc {
    pub(super) async fn update(
        &self,
        caller: &Caller,
        mut request: proto::UpdateOrderRequest,
    ) -> Result<Order, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let request_id = convert::request_id(&std::mem::take(&mut request.request_id), &mut v);
        // The key is made of the request as it came, before its values are moved out.
        let key = tenant.zip(request_id).map(|(tenant, request_id)| {
            parse::request_key(caller, tenant.merchant, rpc::UPDATE_ORDER, &request_id, &request)
        });
        let new = new_details(tenant, request, &mut v);
        let (key, new) = parse::checked(key.zip(new), v)?;
        self.orders.update(&key, &new).await
    }

    pub(super) async fn cancel_lines(
        &self,
        caller: &Caller,
        mut request: proto::CancelOrderLinesRequest,
    ) -> Result<proto::CancelOrderLinesResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let request_id = convert::request_id(&std::mem::take(&mut request.request_id), &mut v);
        let cancel = cancel_units(tenant, &request, &mut v);
        let (request_id, cancel) = parse::checked(request_id.zip(cancel), v)?;
        let merchant = cancel.tenant.merchant;
        let key = parse::request_key(caller, merchant, rpc::CANCEL_ORDER_LINES, &request_id, &request);
        let (order, cancelled) = self.orders.cancel_lines(&key, &cancel).await?;
        let currency = order.terms.currency;
        Ok(proto::CancelOrderLinesResponse {
            order: Some(view::order(order)),
            cancellation: cancelled.map(|cancelled| view::cancellation(currency, cancelled)),
        })
    }

    pub(super) async fn hold(
        &self,
        caller: &Caller,
        mut request: proto::HoldOrderRequest,
    ) -> Result<(Order, Hold), Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let request_id = convert::request_id(&std::mem::take(&mut request.request_id), &mut v);
        let new = new_hold(tenant, &request, &mut v);
        let (request_id, new) = parse::checked(request_id.zip(new), v)?;
        let merchant = new.tenant.merchant;
        let key = parse::request_key(caller, merchant, rpc::HOLD_ORDER, &request_id, &request);
        self.orders.hold(&key, &new).await
    }

    pub(super) async fn release(
        &self,
        caller: &Caller,
        mut request: proto::ReleaseOrderRequest,
    ) -> Result<Order, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let request_id = convert::request_id(&std::mem::take(&mut request.request_id), &mut v);
        let new = new_release(tenant, &request, &mut v);
        let (request_id, new) = parse::checked(request_id.zip(new), v)?;
        let merchant = new.tenant.merchant;
        let key = parse::request_key(caller, merchant, rpc::RELEASE_ORDER, &request_id, &request);
        self.orders.release(&key, &new).await
    }
}

fn cancel_units(
    tenant: Option<Tenant>,
    request: &proto::CancelOrderLinesRequest,
    v: &mut Violations,
) -> Option<CancelUnits> {
    let order = convert::id("order_id", &request.order_id, v);
    limits::required(v, "reason", &request.reason, limits::MAX_REASON);
    limits::text(v, "etag", &request.etag, 100);
    let (given, most) = (&request.lines, limits::MAX_UPDATED_LINES);
    if given.is_empty() || given.len() > most {
        v.push(
            "lines",
            format!("has {} elements; expected 1 to {most}", given.len()),
        );
    }
    let mut named = BTreeSet::new();
    let mut lines = Vec::with_capacity(given.len().min(most));
    for (index, units) in given.iter().take(most).enumerate() {
        v.element("lines", index, |v| {
            if units.quantity <= 0 {
                v.push("quantity", format!("is {}; expected more than 0", units.quantity));
            }
            if let Some(line) = convert::id::<LineId>("line_id", &units.line_id, v) {
                v.require(named.insert(line), "line_id", "is named twice");
                lines.push((line, units.quantity));
            }
        });
    }
    Some(CancelUnits {
        tenant: tenant?,
        order: order?,
        lines,
        reason: request.reason.clone(),
        restock: request.restock.unwrap_or(true),
        etag: request.etag.clone(),
    })
}

fn new_hold(
    tenant: Option<Tenant>,
    request: &proto::HoldOrderRequest,
    v: &mut Violations,
) -> Option<NewHold> {
    let order = convert::id("order_id", &request.order_id, v);
    let reason = convert::known("reason", request.reason, v).and_then(hold_reason);
    if reason == Some(HoldReason::Manual) {
        limits::required(v, "note", &request.note, limits::MAX_REASON);
    } else {
        limits::text(v, "note", &request.note, limits::MAX_REASON);
    }
    limits::text(v, "etag", &request.etag, 100);
    Some(NewHold {
        tenant: tenant?,
        order: order?,
        reason: reason?,
        note: request.note.clone(),
        etag: request.etag.clone(),
    })
}

fn hold_reason(reason: proto::HoldReason) -> Option<HoldReason> {
    match reason {
        proto::HoldReason::Unspecified => None,
        proto::HoldReason::Address => Some(HoldReason::Address),
        proto::HoldReason::PaymentReview => Some(HoldReason::PaymentReview),
        proto::HoldReason::Fraud => Some(HoldReason::Fraud),
        proto::HoldReason::AwaitingStock => Some(HoldReason::AwaitingStock),
        proto::HoldReason::Manual => Some(HoldReason::Manual),
    }
}

fn new_release(
    tenant: Option<Tenant>,
    request: &proto::ReleaseOrderRequest,
    v: &mut Violations,
) -> Option<NewRelease> {
    let order = convert::id("order_id", &request.order_id, v);
    let hold = convert::optional_id("hold_id", &request.hold_id, v);
    limits::text(v, "note", &request.note, limits::MAX_REASON);
    limits::text(v, "etag", &request.etag, 100);
    Some(NewRelease {
        tenant: tenant?,
        order: order?,
        hold: hold?,
        note: request.note.clone(),
        etag: request.etag.clone(),
    })
}

fn new_details(
    tenant: Option<Tenant>,
    request: proto::UpdateOrderRequest,
    v: &mut Violations,
) -> Option<NewDetails> {
    let order = convert::id("order_id", &request.order_id, v);
    limits::text(v, "etag", &request.etag, 100);
    let paths = paths(request.update_mask, v);
    let Some(update) = request.update else {
        v.push("update", "is required: the new values of what update_mask names");
        return None;
    };
    let update = v.nested("update", |v| new_values(update, paths, v));
    Some(NewDetails {
        tenant: tenant?,
        order: order?,
        update,
        etag: request.etag,
    })
}

fn new_values(update: proto::OrderUpdate, paths: BTreeSet<Path>, v: &mut Violations) -> Update {
    let lines = if paths.contains(&Path::LineAttributes) {
        of_lines(update.line_attributes, v)
    } else {
        BTreeMap::new()
    };
    let update = Update {
        contact: Contact {
            customer: update.customer.map(parse::customer).unwrap_or_default(),
            shipping: update.shipping_address.map(parse::address),
            billing: update.billing_address.map(parse::address),
            note: update.note,
        },
        tags: update.tags,
        attributes: update.attributes,
        lines,
        paths,
    };
    limits::update(&update, v);
    update
}

/// Attributes of lines, each line once.
fn of_lines(given: Vec<proto::LineAttributes>, v: &mut Violations) -> BTreeMap<LineId, Attributes> {
    let most = limits::MAX_UPDATED_LINES;
    if given.is_empty() || given.len() > most {
        v.push(
            "line_attributes",
            format!("has {} elements; expected 1 to {most}", given.len()),
        );
    }
    let mut lines = BTreeMap::new();
    for (index, of_line) in given.into_iter().take(most).enumerate() {
        v.element("line_attributes", index, |v| {
            limits::attributes(&of_line.attributes, v);
            if let Some(line) = convert::id("line_id", &of_line.line_id, v)
                && lines.insert(line, of_line.attributes).is_some()
            {
                v.push("line_id", "is named twice");
            }
        });
    }
    lines
}

/// What a mask names.
fn paths(mask: Option<prost_types::FieldMask>, v: &mut Violations) -> BTreeSet<Path> {
    let named = mask.unwrap_or_default().paths;
    if named.is_empty() {
        v.push(
            "update_mask",
            format!("is empty; name one or more of {}", allowed()),
        );
    }
    let mut paths = BTreeSet::new();
    // Twice as many as there are: repeats are harmless, a flood is not read.
    for (index, path) in named.iter().take(2 * Path::ALL.len()).enumerate() {
        match Path::parse(path) {
            Some(path) => {
                paths.insert(path);
            }
            None => v.element("update_mask.paths", index, |v| v.push("", refused(path))),
        }
    }
    if named.len() > 2 * Path::ALL.len() {
        v.push(
            "update_mask",
            format!(
                "has {} paths; expected each of {} at most once",
                named.len(),
                allowed()
            ),
        );
    }
    paths
}

/// Fields of an order that never change, or that follow from other calls.
const FIXED: [&str; 35] = [
    "order_id",
    "merchant_id",
    "store_id",
    "number",
    "source",
    "status",
    "payment_status",
    "fulfillment_status",
    "return_status",
    "currency_code",
    "prices_include_tax",
    "lines",
    "shipping_lines",
    "discounts",
    "totals",
    "captured",
    "refunded",
    "customer",
    "customer.external_id",
    "payments",
    "locale",
    "placed_at",
    "promised_ship_at",
    "promised_delivery_at",
    "presentment_currency_code",
    "presentment_total",
    "cancel_reason",
    "version",
    "etag",
    "updated_at",
    "holds",
    "cancellations",
    "edits",
    "added",
    "due",
];

fn refused(path: &str) -> String {
    let allowed = allowed();
    if FIXED.contains(&path) {
        return format!("{path:?} cannot be changed by an update; those that can are {allowed}");
    }
    let shown: String = path.chars().take(100).collect();
    format!("{shown:?} is no path of an update; expected one of {allowed}")
}

fn allowed() -> String {
    let all: Vec<&str> = Path::ALL.iter().map(|path| path.as_str()).collect();
    all.join(", ")
}
