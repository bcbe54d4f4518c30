//! What must have happened to an order, by what its customer did.

use std::collections::BTreeMap;

use waybill_proto::waybill::notification::v1::Stage;

use super::journey::Plan;

/// Stages the customer must have been told of, each once.
#[must_use]
pub fn stages(plan: Plan) -> Vec<Stage> {
    use Stage::{
        Delivered, Feedback, InTransit, OrderCancelled, OrderConfirmed, OutForDelivery, RefundStarted,
        RefundSucceeded, ReturnApproved, ReturnReceived, ReturnRequested, Shipped,
    };
    let mut stages = vec![OrderConfirmed];
    match plan {
        Plan::Cancel => stages.push(OrderCancelled),
        Plan::Keep | Plan::Return { .. } => {
            stages.extend([Shipped, InTransit, OutForDelivery, Delivered, Feedback]);
        }
    }
    if matches!(plan, Plan::Return { .. }) {
        stages.extend([ReturnRequested, ReturnApproved, ReturnReceived]);
    }
    if plan != Plan::Keep {
        stages.extend([RefundStarted, RefundSucceeded]);
    }
    stages
}

/// Facts that must stand on the order's timeline, and how often.
#[must_use]
pub fn timeline(plan: Plan) -> BTreeMap<&'static str, usize> {
    let mut facts = vec![
        "waybill.order.v1.OrderPlaced",
        "waybill.order.v1.PaymentRecorded",
        "waybill.fulfillment.v1.OrderAllocated",
    ];
    match plan {
        Plan::Cancel => {
            facts.extend([
                "waybill.order.v1.OrderCancelled",
                "waybill.fulfillment.v1.ReservationReleased",
            ]);
        }
        Plan::Keep | Plan::Return { .. } => facts.extend([
            "waybill.fulfillment.v1.ShipmentShipped",
            "waybill.fulfillment.v1.ShipmentStatusChanged",
            "waybill.fulfillment.v1.ShipmentStatusChanged",
            "waybill.fulfillment.v1.ShipmentDelivered",
            "waybill.order.v1.OrderCompleted",
        ]),
    }
    if matches!(plan, Plan::Return { .. }) {
        facts.extend([
            "waybill.refund.v1.ReturnRequested",
            "waybill.refund.v1.ReturnApproved",
            "waybill.refund.v1.ReturnReceived",
            "waybill.refund.v1.ReturnCompleted",
        ]);
    }
    if plan != Plan::Keep {
        facts.extend([
            "waybill.refund.v1.RefundCreated",
            "waybill.refund.v1.RefundStarted",
            "waybill.refund.v1.RefundSucceeded",
        ]);
    }
    let mut counts = BTreeMap::from([("waybill.notification.v1.NotificationSent", stages(plan).len())]);
    for fact in facts {
        *counts.entry(fact).or_default() += 1;
    }
    counts
}
