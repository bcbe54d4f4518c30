//! Requests as commands, or everything that is wrong with them at once.

use std::collections::HashSet;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use waybill_events::Log;
use waybill_kernel::check::Violations;
use waybill_kernel::hash::fingerprint;
use waybill_kernel::id::{LineId, LocationId, MerchantId, ShipmentId};
use waybill_kernel::page::{PageToken, page_size};
use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_rpc::convert::{self, Tenant, id, ids, optional_id, optional_timestamp, tenant, text};

use super::view;
use crate::app::adjust_stock::{AdjustStock, MAX_ADJUSTMENTS};
use crate::app::create_shipment::CreateShipment;
use crate::app::locations::CreateLocation;
use crate::app::order_fulfillment::GetOrderFulfillment;
use crate::app::record_tracking::{MAX_UPDATES, RecordTracking, Update};
use crate::app::shipments::ListShipments;
use crate::app::stock_levels::ListStockLevels;
use crate::domain::shipment::Location;
use crate::domain::shipping::Request;
use crate::domain::stock::{Adjustment, Change, MAX_ADJUSTMENT, Sku};
use crate::store::tracking::Reference;

/// The most lines of a shipment: as many as an order may have.
const MAX_LINES: usize = 10_000;
/// The most skus of a filter.
const MAX_SKUS: usize = 200;
/// The most ids of a batch.
const MAX_IDS: usize = 200;
/// How far ahead of our clock a carrier's may be. Some send local times as if they were universal.
const CLOCK_SKEW: TimeDelta = TimeDelta::hours(24);

/// The value when nothing is wrong.
///
/// A part that is missing without a noted fault would be a fault of the parser; it is refused like the others.
fn checked<T>(value: Option<T>, mut violations: Violations) -> Result<T, Violations> {
    match value {
        Some(value) if violations.is_empty() => Ok(value),
        Some(_) => Err(violations),
        None => {
            violations.require(!violations.is_empty(), "", "cannot be read");
            Err(violations)
        }
    }
}

fn sku(field: &str, text: &str, v: &mut Violations) -> Option<Sku> {
    v.value(field, Sku::parse(text))
}

fn within(field: &str, value: i64, least: i64, most: i64, v: &mut Violations) -> Option<i64> {
    if (least..=most).contains(&value) {
        return Some(value);
    }
    v.push(field, format!("{value} is out of range; give {least} to {most}"));
    None
}

fn min_order_version(value: i64, v: &mut Violations) -> Option<i64> {
    within("min_order_version", value, 0, i64::MAX, v)
}

pub(super) fn merchant(merchant_id: &str) -> Result<MerchantId, Violations> {
    let mut v = Violations::new();
    let merchant = id("merchant_id", merchant_id, &mut v);
    checked(merchant, v)
}

pub(super) fn create_location(
    request: &proto::CreateLocationRequest,
) -> Result<(String, CreateLocation), Violations> {
    let mut v = Violations::new();
    let merchant = id("merchant_id", &request.merchant_id, &mut v);
    let request_id = convert::request_id(&request.request_id, &mut v);
    let name = text("name", &request.name, 1..=200, &mut v);
    let country_code = country("country_code", &request.country_code, &mut v);
    let priority = within("priority", request.priority.into(), 0, 1_000, &mut v);
    let command = || {
        let location = Location {
            id: LocationId::generate(),
            name: name?,
            country_code: country_code?,
            priority: i32::try_from(priority?).ok()?,
        };
        Some((
            request_id?,
            CreateLocation {
                merchant: merchant?,
                location,
            },
        ))
    };
    checked(command(), v)
}

fn country(field: &str, code: &str, v: &mut Violations) -> Option<String> {
    if code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Some(code.to_owned());
    }
    v.push(
        field,
        format!("{code:?} is no country; give two capital letters, e.g. \"GB\""),
    );
    None
}

pub(super) fn adjust_stock<'a>(
    request: &proto::AdjustStockRequest,
    log: &'a Log,
    now: DateTime<Utc>,
) -> Result<(String, AdjustStock<'a>), Violations> {
    let mut v = Violations::new();
    let merchant = id("merchant_id", &request.merchant_id, &mut v);
    let request_id = convert::request_id(&request.request_id, &mut v);
    let adjustments = adjustments(&request.adjustments, &mut v);
    let command = || {
        let command = AdjustStock {
            log,
            now,
            merchant: merchant?,
            adjustments: adjustments?,
        };
        Some((request_id?, command))
    };
    checked(command(), v)
}

fn adjustments(
    given: &[proto::StockAdjustment],
    v: &mut Violations,
) -> Option<Vec<(Sku, LocationId, Adjustment)>> {
    if given.is_empty() || given.len() > MAX_ADJUSTMENTS {
        v.push(
            "adjustments",
            format!("has {} entries; give 1 to {MAX_ADJUSTMENTS}", given.len()),
        );
        return None;
    }
    let mut seen = HashSet::new();
    let mut adjustments = Vec::with_capacity(given.len());
    for (index, entry) in given.iter().enumerate() {
        let parsed = v.element("adjustments", index, |v| {
            let sku = sku("sku", &entry.sku, v);
            let location: Option<LocationId> = id("location_id", &entry.location_id, v);
            let adjustment = adjustment(entry, v);
            let (sku, location) = (sku?, location?);
            if !seen.insert((sku.clone(), location)) {
                v.push(
                    "",
                    "names a sku and location that an earlier entry names; add them up",
                );
            }
            Some((sku, location, adjustment?))
        });
        adjustments.extend(parsed);
    }
    Some(adjustments)
}

fn adjustment(entry: &proto::StockAdjustment, v: &mut Violations) -> Option<Adjustment> {
    use proto::stock_adjustment::Change as Given;
    let change = match entry.change {
        None => None,
        Some(Given::Delta(units)) => Some(Change::Delta(within(
            "delta",
            units,
            -MAX_ADJUSTMENT,
            MAX_ADJUSTMENT,
            v,
        )?)),
        Some(Given::Counted(units)) => Some(Change::Counted(within("counted", units, 0, MAX_ADJUSTMENT, v)?)),
    };
    let safety_stock = match entry.safety_stock {
        None => None,
        Some(units) => Some(within("safety_stock", units, 0, MAX_ADJUSTMENT, v)?),
    };
    if change.is_none() && safety_stock.is_none() {
        v.push("", "changes nothing; give delta, counted or safety_stock");
        return None;
    }
    Some(Adjustment { change, safety_stock })
}

pub(super) fn list_stock_levels(
    request: &proto::ListStockLevelsRequest,
) -> Result<(ListStockLevels, String), Violations> {
    let mut v = Violations::new();
    let merchant: Option<MerchantId> = id("merchant_id", &request.merchant_id, &mut v);
    let limit = page_size(request.page_size, 100, 1_000)
        .map_err(|fault| v.extend([fault]))
        .ok();
    if request.skus.len() > MAX_SKUS {
        v.push(
            "skus",
            format!("has {} skus, at most {MAX_SKUS} are allowed", request.skus.len()),
        );
    }
    let skus: Vec<Option<Sku>> = request
        .skus
        .iter()
        .take(MAX_SKUS)
        .enumerate()
        .map(|(index, text)| sku(&format!("skus[{index}]"), text, &mut v))
        .collect();
    let filter = fingerprint(
        ["stock_levels", &request.merchant_id]
            .into_iter()
            .chain(request.skus.iter().map(String::as_str)),
    );
    let after = page_token(&request.page_token, &filter, &mut v, |key| match key {
        [sku, location] => Some((Sku::known(sku.clone()), location.parse().ok()?)),
        _ => None,
    });
    let wanted = || {
        Some(ListStockLevels {
            merchant: merchant?,
            skus: skus.into_iter().collect::<Option<_>>()?,
            after: after?,
            limit: limit?,
        })
    };
    checked(wanted(), v).map(|wanted| (wanted, filter))
}

/// The sort key in a page token: `Some(None)` for the first page.
fn page_token<T>(
    token: &str,
    filter: &str,
    v: &mut Violations,
    read: impl FnOnce(&[String]) -> Option<T>,
) -> Option<Option<T>> {
    if token.is_empty() {
        return Some(None);
    }
    let key = v.value("page_token", PageToken::decode(token, filter))?;
    let read = read(&key);
    v.require(read.is_some(), "page_token", "is not one of this list");
    read.map(Some)
}

pub(super) fn get_order_fulfillment(
    request: &proto::GetOrderFulfillmentRequest,
) -> Result<GetOrderFulfillment, Violations> {
    let mut v = Violations::new();
    let tenant = tenant(&request.merchant_id, &request.store_id, &mut v);
    let order = id("order_id", &request.order_id, &mut v);
    let version = min_order_version(request.min_order_version, &mut v);
    let wanted = || {
        Some(GetOrderFulfillment {
            tenant: tenant?,
            order: order?,
            min_order_version: version?,
        })
    };
    checked(wanted(), v)
}

pub(super) fn create_shipment<'a>(
    request: &proto::CreateShipmentRequest,
    log: &'a Log,
    now: DateTime<Utc>,
) -> Result<(String, CreateShipment<'a>), Violations> {
    let mut v = Violations::new();
    let tenant = tenant(&request.merchant_id, &request.store_id, &mut v);
    let request_id = convert::request_id(&request.request_id, &mut v);
    let order = id("order_id", &request.order_id, &mut v);
    let lines = shipment_lines(&request.lines, &mut v);
    let location = optional_id("location_id", &request.location_id, &mut v);
    let carrier = carrier("carrier", &request.carrier, &mut v);
    let service = text("service", &request.service, 0..=100, &mut v);
    let tracking_number = text("tracking_number", &request.tracking_number, 1..=100, &mut v);
    let tracking_url = web_address("tracking_url", &request.tracking_url, &mut v);
    let version = min_order_version(request.min_order_version, &mut v);
    let command = || {
        let command = CreateShipment {
            log,
            now,
            tenant: tenant?,
            order: order?,
            request: Request {
                location: location?,
                lines: lines?,
            },
            carrier: carrier?,
            service: service?,
            tracking_number: tracking_number?,
            tracking_url: tracking_url?,
            min_order_version: version?,
        };
        Some((request_id?, command))
    };
    checked(command(), v)
}

fn shipment_lines(given: &[proto::NewShipmentLine], v: &mut Violations) -> Option<Vec<(LineId, i64)>> {
    if given.len() > MAX_LINES {
        v.push(
            "lines",
            format!("has {} lines, at most {MAX_LINES} are allowed", given.len()),
        );
        return None;
    }
    let mut seen = HashSet::new();
    let mut lines = Vec::with_capacity(given.len());
    for (index, line) in given.iter().enumerate() {
        let parsed = v.element("lines", index, |v| {
            let id: Option<LineId> = id("line_id", &line.line_id, v);
            let units = within("quantity", line.quantity.into(), 1, i32::MAX.into(), v);
            let id = id?;
            if !seen.insert(id) {
                v.push("line_id", "is named by an earlier entry; add the quantities up");
            }
            Some((id, units?))
        });
        lines.extend(parsed);
    }
    Some(lines)
}

/// A carrier's key. One spelling, so that scans find the shipment.
fn carrier(field: &str, key: &str, v: &mut Violations) -> Option<String> {
    let key = text(field, key, 1..=50, v)?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if key.bytes().all(plain) {
        return Some(key);
    }
    v.push(
        field,
        format!(
            "{key:?} is no carrier's key; give lower-case letters, digits and hyphens, e.g. \"royal-mail\""
        ),
    );
    None
}

/// An address that a customer's mail may link to; may be empty.
fn web_address(field: &str, address: &str, v: &mut Violations) -> Option<String> {
    let address = text(field, address, 0..=500, v)?;
    let host = ["https://", "http://"]
        .iter()
        .find_map(|scheme| address.strip_prefix(scheme));
    let sound = host.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with(['/', '?', '#'])
            && !rest.contains(|c: char| c.is_whitespace() || "\"<>\\".contains(c))
    });
    if address.is_empty() || sound {
        return Some(address);
    }
    v.push(
        field,
        "is no web address; give one that begins with https:// or http://, without blanks, or none",
    );
    None
}

pub(super) fn get_shipment(request: &proto::GetShipmentRequest) -> Result<(Tenant, ShipmentId), Violations> {
    let mut v = Violations::new();
    let tenant = tenant(&request.merchant_id, &request.store_id, &mut v);
    let shipment = id("shipment_id", &request.shipment_id, &mut v);
    let wanted = || Some((tenant?, shipment?));
    checked(wanted(), v)
}

pub(super) fn batch_get_shipments(
    request: &proto::BatchGetShipmentsRequest,
) -> Result<(Tenant, Vec<ShipmentId>), Violations> {
    let mut v = Violations::new();
    let tenant = tenant(&request.merchant_id, &request.store_id, &mut v);
    let shipments = ids("shipment_ids", &request.shipment_ids, MAX_IDS, &mut v);
    let wanted = || Some((tenant?, shipments?));
    checked(wanted(), v)
}

pub(super) fn list_shipments(
    request: &proto::ListShipmentsRequest,
) -> Result<(ListShipments, String), Violations> {
    let mut v = Violations::new();
    let tenant = tenant(&request.merchant_id, &request.store_id, &mut v);
    let order = optional_id("order_id", &request.order_id, &mut v);
    let limit = page_size(request.page_size, 50, 200)
        .map_err(|fault| v.extend([fault]))
        .ok();
    let filter = fingerprint([
        "shipments",
        &request.merchant_id,
        &request.store_id,
        &request.order_id,
    ]);
    let before = page_token(&request.page_token, &filter, &mut v, |key| match key {
        [shipment] => shipment.parse().ok(),
        _ => None,
    });
    let wanted = || {
        Some(ListShipments {
            tenant: tenant?,
            order: order?,
            before: before?,
            limit: limit?,
        })
    };
    checked(wanted(), v).map(|wanted| (wanted, filter))
}

pub(super) fn record_tracking(
    request: proto::RecordTrackingRequest,
    log: &Log,
    now: DateTime<Utc>,
) -> Result<RecordTracking<'_>, Violations> {
    let mut v = Violations::new();
    let tenant = tenant(&request.merchant_id, &request.store_id, &mut v);
    let count = request.updates.len();
    if count == 0 || count > MAX_UPDATES {
        v.push("updates", format!("has {count} updates; give 1 to {MAX_UPDATES}"));
    }
    let updates: Vec<Option<Update>> = request
        .updates
        .iter()
        .take(MAX_UPDATES)
        .enumerate()
        .map(|(index, given)| v.element("updates", index, |v| update(given, now, v)))
        .collect();
    let command = || {
        let updates = updates.into_iter().collect::<Option<_>>()?;
        Some(RecordTracking {
            log,
            now,
            tenant: tenant?,
            updates,
        })
    };
    checked(command(), v)
}

fn update(given: &proto::TrackingUpdate, now: DateTime<Utc>, v: &mut Violations) -> Option<Update> {
    use proto::tracking_update::Shipment as Given;
    let reference = match &given.shipment {
        None => {
            v.push("shipment_id", "is required, or tracking");
            None
        }
        Some(Given::ShipmentId(shipment)) => id("shipment_id", shipment, v).map(Reference::Id),
        Some(Given::Tracking(tracking)) => v.nested("tracking", |v| {
            let carrier = text("carrier", &tracking.carrier, 1..=50, v);
            let number = text("tracking_number", &tracking.tracking_number, 1..=100, v);
            Some(Reference::Number(carrier?, number?))
        }),
    };
    let status = convert::known("status", given.status, v).and_then(view::from_status);
    let occurred_at = optional_timestamp("occurred_at", given.occurred_at.as_ref(), v)
        // As the database keeps it: a scan without an id is recognised by its time.
        .map(|time| time.unwrap_or(now).trunc_subsecs(6));
    if occurred_at.is_some_and(|time| time > now + CLOCK_SKEW) {
        v.push(
            "occurred_at",
            "is more than a day ahead; give when the carrier saw it, in universal time",
        );
    }
    let location = text("location", &given.location, 0..=200, v);
    let description = text("description", &given.description, 0..=500, v);
    let source_event_id = text("source_event_id", &given.source_event_id, 0..=200, v);
    Some(Update {
        reference: reference?,
        status: status?,
        occurred_at: occurred_at?,
        location: location?,
        description: description?,
        source_event_id: source_event_id?,
    })
}
