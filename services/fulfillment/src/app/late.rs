//! Lines that came to an order after it was taken in: they wait, as old as their order, and are served like all who wait.

use std::collections::BTreeMap;

use waybill_kernel::id::OrderId;

use super::allot::Changes;
use crate::domain::allocation::Take;
use crate::domain::shipment::Parcel;
use crate::store::projection::Latecomer;
use crate::store::queue::NewBackorder;

/// What lines that came to an order did not get.
pub(super) fn missing(
    changes: &Changes<'_>,
    shares: &BTreeMap<OrderId, Vec<Take>>,
    order: OrderId,
) -> Vec<Parcel> {
    let takes = shares.get(&order).map_or(&[][..], Vec::as_slice);
    let not_given = |late: &Latecomer| {
        let given: i64 = (takes.iter())
            .filter(|take| take.line == late.line)
            .map(|take| take.units)
            .sum();
        let cancelled = (changes.units_cancelled.get(&(order, late.line))).map_or(0, |gone| gone.units());
        let units = late.units - given - cancelled;
        (units > 0).then(|| Parcel {
            line: late.line,
            sku: late.sku.clone(),
            units,
        })
    };
    (changes.late.iter())
        .filter(|late| late.order == order)
        .filter_map(not_given)
        .collect()
}

/// Their places in the queue.
pub(super) fn backorders<'a>(changes: &'a Changes<'_>) -> Vec<NewBackorder<'a>> {
    (changes.late.iter())
        .map(|late| NewBackorder {
            order: late.order,
            merchant: late.merchant,
            placed_at: late.placed_at,
            line_no: late.line_no,
            line: late.line,
            sku: &late.sku,
            units: late.units,
        })
        .collect()
}
