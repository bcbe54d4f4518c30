//! Editing what is ordered: requests as domain values, and what came of them or would.

use std::collections::BTreeSet;

use waybill_kernel::check::Violations;
use waybill_kernel::hash;
use waybill_kernel::id::{LineId, OrderId};
use waybill_kernel::page::PageToken;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::auth::Caller;
use waybill_rpc::convert;
use waybill_rpc::fault::Fault as _;

use super::parse::Amounts;
use super::{OrderGrpc, parse, rpc, view};
use crate::app::{NewEdit, Preview, edit_refusal};
use crate::domain::edit::{Edit, Faults, MoreUnits, NewQuantity, Refused};
use crate::domain::limits;
use crate::domain::order::Tenant;
use crate::error::Error;

impl OrderGrpc {
    pub(super) async fn preview_edit(
        &self,
        request: proto::PreviewOrderEditRequest,
    ) -> Result<proto::PreviewOrderEditResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let order = convert::id("order_id", &request.order_id, &mut v);
        let (tenant, order) = parse::checked(tenant.zip(order), v)?;
        let bound = bound(tenant, order, request.edit.as_ref());
        // What is wrong with the edit itself is part of the answer, beside what the order does not allow.
        let mut wrong = Violations::new();
        let edit = edit(request.edit, &mut wrong);
        let outcome = self.orders.preview_edit(tenant, order, &edit).await?;
        let refused = match outcome {
            Ok(preview) if wrong.is_empty() => return Ok(previewed(preview, &bound)),
            Ok(_) => Refused::Faults(Faults {
                wrong,
                ..Faults::default()
            }),
            Err(Refused::Faults(faults)) => {
                wrong.absorb("", faults.wrong);
                Refused::Faults(Faults { wrong, ..faults })
            }
            Err(refused) => refused,
        };
        Ok(proto::PreviewOrderEditResponse {
            violations: violations(order, refused)?,
            ..proto::PreviewOrderEditResponse::default()
        })
    }

    pub(super) async fn edit(
        &self,
        caller: &Caller,
        mut request: proto::EditOrderRequest,
    ) -> Result<proto::EditOrderResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let request_id = convert::request_id(&std::mem::take(&mut request.request_id), &mut v);
        // The key is made of the request as it came, before its values are moved out.
        let key = tenant.zip(request_id).map(|(tenant, request_id)| {
            parse::request_key(caller, tenant.merchant, rpc::EDIT_ORDER, &request_id, &request)
        });
        let new = new_edit(tenant, request, &mut v);
        let (key, new) = parse::checked(key.zip(new), v)?;
        let (order, edited) = self.orders.edit(&key, &new).await?;
        Ok(proto::EditOrderResponse {
            difference: Some(view::difference(&order, edited.as_ref())),
            edit_id: edited.map(|edited| edited.id.to_string()).unwrap_or_default(),
            order: Some(view::order(order)),
        })
    }
}

/// What a preview's token is bound to: the order and the edit. Which version of the order it has seen stands in it.
fn bound(tenant: Tenant, order: OrderId, edit: Option<&proto::OrderEdit>) -> String {
    let edit = edit.map(prost::Message::encode_to_vec).unwrap_or_default();
    hash::fingerprint([
        b"edit order".to_vec(),
        tenant.merchant.to_string().into_bytes(),
        tenant.store.to_string().into_bytes(),
        order.to_string().into_bytes(),
        edit,
    ])
}

fn previewed(preview: Preview, bound: &str) -> proto::PreviewOrderEditResponse {
    let Preview { order, edited, etag } = preview;
    let mut difference = view::difference(&order, edited.as_ref());
    let mut order = view::order(order);
    // Ids of what is not there yet are not told: the commit gives others.
    let made = edited.map(|edited| edited.id.to_string());
    let of_edit = |line: &&mut proto::OrderLine| Some(&line.added_by_edit_id) == made.as_ref();
    for line in order
        .lines
        .iter_mut()
        .chain(&mut difference.added)
        .filter(of_edit)
    {
        line.line_id.clear();
        line.added_by_edit_id.clear();
    }
    if let Some(edit) = order.edits.last_mut().filter(|_| made.is_some()) {
        edit.edit_id.clear();
        let removal = std::mem::take(&mut edit.cancellation_id);
        for part in &mut order.cancellations {
            if part.cancellation_id == removal {
                part.cancellation_id.clear();
            }
        }
    }
    proto::PreviewOrderEditResponse {
        preview_token: PageToken::encode(bound, &[etag]),
        order: Some(order),
        difference: Some(difference),
        violations: Vec::new(),
    }
}

/// What stands in the way, each with the reason that a commit would be refused with for it.
fn violations(order: OrderId, refused: Refused) -> Result<Vec<proto::EditViolation>, Error> {
    let of = |error: Error| {
        let reason = error.reason().into_owned();
        let listed = error.violations().cloned().unwrap_or_default();
        let named = listed.iter().map(|violation| proto::EditViolation {
            field: violation.field.clone(),
            description: violation.description.clone(),
            reason: reason.clone(),
        });
        let named: Vec<_> = named.collect();
        if named.is_empty() {
            vec![proto::EditViolation {
                field: String::new(),
                description: error.to_string(),
                reason,
            }]
        } else {
            named
        }
    };
    Ok(match refused {
        Refused::Faults(Faults { wrong, blocked }) => {
            let mut all = Vec::new();
            if !wrong.is_empty() {
                all.extend(of(Error::Invalid(limits::listed(wrong))));
            }
            if !blocked.is_empty() {
                let blocked = Faults {
                    blocked,
                    ..Faults::default()
                };
                all.extend(of(edit_refusal(order, Refused::Faults(blocked))));
            }
            all
        }
        Refused::Ended(_) => of(edit_refusal(order, refused)),
        Refused::Unsound(_) => return Err(edit_refusal(order, refused)),
    })
}

fn new_edit(tenant: Option<Tenant>, request: proto::EditOrderRequest, v: &mut Violations) -> Option<NewEdit> {
    let order = convert::id("order_id", &request.order_id, v);
    limits::required(v, "reason", &request.reason, limits::MAX_REASON);
    let etag = tenant
        .zip(order)
        .and_then(|(tenant, order)| seen(tenant, order, &request, v));
    let edit = edit(request.edit, v);
    Some(NewEdit {
        tenant: tenant?,
        order: order?,
        edit,
        reason: request.reason,
        restock: request.restock.unwrap_or(true),
        etag: etag?,
    })
}

/// The etag of the order that the caller has seen: its own, or that of the preview.
fn seen(
    tenant: Tenant,
    order: OrderId,
    request: &proto::EditOrderRequest,
    v: &mut Violations,
) -> Option<String> {
    match (request.etag.as_str(), request.preview_token.as_str()) {
        ("", "") => {
            v.push(
                "etag",
                "is missing; give the order's, or the preview_token of a preview of this edit",
            );
            None
        }
        (etag, "") => {
            limits::text(v, "etag", etag, 100);
            Some(etag.to_owned())
        }
        ("", token) => {
            let parts = PageToken::decode(token, &bound(tenant, order, request.edit.as_ref())).ok();
            let etag = parts.and_then(|parts| <[String; 1]>::try_from(parts).ok());
            if etag.is_none() {
                v.push(
                    "preview_token",
                    "is no token of a preview of this order and this edit; preview the edit and give the token of that",
                );
            }
            etag.map(|[etag]| etag)
        }
        _ => {
            v.push("preview_token", "is set together with etag; give one of them");
            None
        }
    }
}

fn edit(edit: Option<proto::OrderEdit>, v: &mut Violations) -> Edit {
    let proto::OrderEdit {
        add,
        remove_line_ids,
        quantities,
    } = edit.unwrap_or_default();
    if add.is_empty() && remove_line_ids.is_empty() && quantities.is_empty() {
        v.push("edit", "changes nothing; give add, remove_line_ids or quantities");
    }
    v.nested("edit", |v| {
        let mut named = BTreeSet::new();
        let most = limits::MAX_EDITED_LINES;
        for (field, given) in [
            ("add", add.len()),
            ("remove_line_ids", remove_line_ids.len()),
            ("quantities", quantities.len()),
        ] {
            if given > most {
                v.push(field, format!("has {given} elements; expected at most {most}"));
            }
        }
        Edit {
            add: parse::each("add", add.into_iter().take(most).collect(), v, |line, v| {
                Amounts::of(line.unit_price.as_ref()).line(line, v)
            }),
            remove: (remove_line_ids.iter().take(most).enumerate())
                .filter_map(|(index, line)| {
                    let line = v.element("remove_line_ids", index, |v| line_id("", line, &mut named, v));
                    Some((index, line?))
                })
                .collect(),
            quantities: (quantities.into_iter().take(most).enumerate())
                .filter_map(|(index, wanted)| {
                    let wanted = v.element("quantities", index, |v| quantity(wanted, &mut named, v));
                    Some((index, wanted?))
                })
                .collect(),
        }
    })
}

/// The id of a line that was not named before.
fn line_id(field: &str, text: &str, named: &mut BTreeSet<LineId>, v: &mut Violations) -> Option<LineId> {
    let line = convert::id(field, text, v)?;
    if named.insert(line) {
        return Some(line);
    }
    v.push(field, "is named twice; give one quantity for each line");
    None
}

fn quantity(
    wanted: proto::LineQuantity,
    named: &mut BTreeSet<LineId>,
    v: &mut Violations,
) -> Option<NewQuantity> {
    let (units, most) = (wanted.quantity, limits::MAX_QUANTITY);
    let known = (0..=most).contains(&units);
    v.require(known, "quantity", format!("is {units}; expected 0 to {most}"));
    let more = wanted.more.map(|more| v.nested("more", |v| more_units(more, v)));
    Some(NewQuantity {
        line: line_id("line_id", &wanted.line_id, named, v)?,
        quantity: if known { Some(units) } else { None }?,
        more,
    })
}

fn more_units(more: proto::MoreUnits, v: &mut Violations) -> MoreUnits {
    let mut amounts = Amounts::of(more.unit_price.as_ref());
    MoreUnits {
        unit_price: (more.unit_price).and_then(|price| convert::money("unit_price", Some(&price), v)),
        discounts: amounts.discounts(more.discounts, v),
        taxes: amounts.taxes(more.taxes, v),
    }
}
