//! Looking back at an order: its timeline, whether that is whole, and the order made again from its events.

use waybill_kernel::check::Violations;
use waybill_kernel::money::Money;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::convert::{self, to_money, to_timestamp};

use super::{OrderGrpc, parse, view};
use crate::app::Rebuilt;
use crate::domain::picture::{AgreedLine, Difference, Picture};
use crate::domain::replay::{Moment, Unapplied};
use crate::domain::trail::{Condition, Fault, FaultKind, Hash, Link, Verdict};
use crate::error::Error;

impl OrderGrpc {
    pub(super) async fn verify(
        &self,
        request: &proto::VerifyTimelineRequest,
    ) -> Result<proto::VerifyTimelineResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let order = convert::id("order_id", &request.order_id, &mut v);
        let noted = noted(request, &mut v);
        let ((tenant, order), noted) = parse::checked(tenant.zip(order).zip(noted), v)?;
        let verdict = self.orders.verify(tenant, order, noted).await?;
        Ok(shown(&verdict))
    }

    pub(super) async fn rebuild(
        &self,
        request: &proto::RebuildOrderRequest,
    ) -> Result<proto::RebuildOrderResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let order = convert::id("order_id", &request.order_id, &mut v);
        let moment = moment(request.moment.as_ref(), &mut v);
        let ((tenant, order), moment) = parse::checked(tenant.zip(order).zip(moment), v)?;
        let Rebuilt {
            replayed,
            differences,
        } = self.orders.rebuild(tenant, order, moment).await?;
        let as_of = replayed.as_of.map(to_timestamp);
        Ok(proto::RebuildOrderResponse {
            order: replayed.order.map(|order| proto::RebuiltOrder {
                as_of,
                ..rebuilt(order)
            }),
            differences: differences.into_iter().map(difference).collect(),
            unapplied: replayed.unapplied.into_iter().map(unapplied).collect(),
            applied: i32::try_from(replayed.applied).unwrap_or(i32::MAX),
        })
    }
}

/// A place that the chain must pass through; none when none was noted.
fn noted(request: &proto::VerifyTimelineRequest, v: &mut Violations) -> Option<Option<Link>> {
    let (sequence, text) = (request.noted_sequence, request.noted_hash.as_str());
    if sequence == 0 && text.is_empty() {
        return Some(None);
    }
    v.require(
        sequence > 0,
        "noted_sequence",
        "is missing; give the place that noted_hash belongs to",
    );
    let hash = from_hex(text);
    v.require(
        hash.is_some(),
        "noted_hash",
        "is no hash; expected 64 hex digits, as VerifyTimeline and GetTimeline give them",
    );
    hash.map(|hash| Some(Link { sequence, hash }))
}

fn from_hex(text: &str) -> Option<Hash> {
    let digits: Vec<u8> = text
        .bytes()
        .map(|digit| {
            char::from(digit)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        })
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect();
    (digits.len() == 64).then(|| bytes.try_into().ok()).flatten()
}

/// A hash as callers see it.
pub(super) fn to_hex(hash: &Hash) -> String {
    use std::fmt::Write as _;
    hash.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing into a text does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn moment(moment: Option<&proto::rebuild_order_request::Moment>, v: &mut Violations) -> Option<Moment> {
    use proto::rebuild_order_request::Moment as Named;
    match moment {
        None => Some(Moment::Now),
        Some(Named::Version(version)) => {
            v.require(
                *version > 0,
                "version",
                "is not above 0; the first version of an order is 1",
            );
            Some(Moment::Version(*version))
        }
        Some(Named::Time(time)) => parse::time("time", Some(time), v)?.map(Moment::Time),
    }
}

fn shown(verdict: &Verdict) -> proto::VerifyTimelineResponse {
    let condition = match verdict.condition {
        Condition::NotBegun => proto::TimelineCondition::NotBegun,
        Condition::Whole => proto::TimelineCondition::Whole,
        Condition::Broken => proto::TimelineCondition::Broken,
    };
    let begun = verdict.end.sequence > 0;
    proto::VerifyTimelineResponse {
        condition: condition.into(),
        entries: verdict.entries,
        sequence: verdict.end.sequence,
        hash: if begun {
            to_hex(&verdict.end.hash)
        } else {
            String::new()
        },
        faults: verdict.faults.iter().map(fault).collect(),
    }
}

fn fault(fault: &Fault) -> proto::TimelineFault {
    let n = fault.sequence;
    let (kind, message) = match fault.kind {
        FaultKind::Changed => (
            proto::TimelineFaultKind::Changed,
            format!("entry {n} does not say what it said when it was written, or stood at another place"),
        ),
        FaultKind::Missing => (proto::TimelineFaultKind::Missing, format!("entry {n} is missing")),
        FaultKind::Surplus => (
            proto::TimelineFaultKind::Surplus,
            format!("this entry was put in as number {n}: another one has it, or the chain ends before it"),
        ),
        FaultKind::Unchained => (
            proto::TimelineFaultKind::Unchained,
            "this entry is in no chain: it was put in, or is from a process of a version without chains"
                .to_owned(),
        ),
        FaultKind::EndDiffers => (
            proto::TimelineFaultKind::EndDiffers,
            format!("the end that is kept apart is not that of the entries, which is {n}"),
        ),
        FaultKind::NotAsNoted => (
            proto::TimelineFaultKind::NotAsNoted,
            format!("the chain does not pass through what was noted of entry {n}"),
        ),
    };
    proto::TimelineFault {
        kind: kind.into(),
        sequence: n,
        event_id: fault.event.map(|event| event.to_string()).unwrap_or_default(),
        message,
    }
}

fn rebuilt(picture: Picture) -> proto::RebuiltOrder {
    let currency = picture.agreed.currency;
    let money = |minor: i64| Some(to_money(Money::new(currency, minor)));
    let Picture {
        agreed, state, units, ..
    } = picture;
    let line = |line: AgreedLine| {
        let (cancelled, shipped, delivered) = units.get(&line.id).copied().unwrap_or_default();
        proto::RebuiltLine {
            line_id: line.id.to_string(),
            sku: line.sku,
            quantity: line.quantity,
            cancelled,
            shipped,
            delivered,
        }
    };
    proto::RebuiltOrder {
        status: view::status(state.status).into(),
        payment_status: view::payment_status(picture.payment_status).into(),
        fulfillment_status: view::fulfillment_status(picture.fulfillment_status).into(),
        return_status: view::return_status(state.returns).into(),
        version: state.version,
        cancel_reason: state.cancel_reason,
        total: money(state.money.total),
        cancelled: money(state.money.cancelled),
        authorized: money(state.money.authorized),
        voided: money(state.money.voided),
        captured: money(state.money.captured),
        refunded: money(state.money.refunded),
        lines: agreed.lines.into_iter().map(line).collect(),
        payments: (picture.payments.into_iter())
            .map(|payment| view::payment(currency, payment))
            .collect(),
        holds: picture.holds.into_iter().map(view::hold).collect(),
        cancellations: (picture.cancellations.into_iter())
            .map(|cancellation| view::cancellation(currency, cancellation))
            .collect(),
        returns: (picture.returns.into_iter())
            .map(|(id, stage)| proto::RebuiltReturn {
                return_id: id.to_string(),
                stage: stage.as_str().to_owned(),
            })
            .collect(),
        as_of: None,
    }
}

fn difference(difference: Difference) -> proto::OrderDifference {
    proto::OrderDifference {
        field: difference.field,
        rebuilt: difference.rebuilt,
        stored: difference.stored,
    }
}

fn unapplied(unapplied: Unapplied) -> proto::UnappliedFact {
    proto::UnappliedFact {
        event_id: unapplied.event.to_string(),
        r#type: unapplied.type_name,
        reason: unapplied.reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_written_and_read_as_digits() {
        let hash: Hash = std::array::from_fn(|n| u8::try_from(n * 8).unwrap_or_default());
        let text = to_hex(&hash);
        assert!(text.starts_with("000810") && text.len() == 64, "{text}");
        assert_eq!(from_hex(&text), Some(hash));
        assert_eq!(from_hex(&text.to_uppercase()), Some(hash));
        for other in ["", "00", &text[1..], &format!("{text}0"), &text.replace('0', "g")] {
            assert_eq!(from_hex(other), None, "{other}");
        }
    }
}
