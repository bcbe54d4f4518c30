//! Units of an order that goes on were cancelled: what was captured for them goes back once, to the penny.

use anyhow::Result;
use waybill_events::Event;
use waybill_kernel::id::{CancellationId, EditId, LineId};
use waybill_proto::waybill::order::v1 as order;
use waybill_refund::app::cancelled_order::CancelledOrder;
use waybill_refund::app::cancelled_units::CancelledUnits;
use waybill_refund::domain::refund::{ComponentKind, Refund, RefundState};
use waybill_refund::domain::units::{Run, UnitSet};
use waybill_refund::error::Error;

use crate::bench::{Bench, Placed};

/// Does what the job of a cancellation says: units of lines by index, from one unit on.
async fn cancel(bench: &Bench, order: &Placed, units: &[(usize, i32, i32)]) -> Result<Option<Refund>, Error> {
    cancel_as(bench, order, CancellationId::generate(), units).await
}

async fn cancel_as(
    bench: &Bench,
    order: &Placed,
    cancellation_id: CancellationId,
    units: &[(usize, i32, i32)],
) -> Result<Option<Refund>, Error> {
    let set = |&(line, first, count): &(usize, i32, i32)| {
        let run = Run {
            first,
            last: first + count - 1,
        };
        (order.lines[line], UnitSet::from_runs([run]))
    };
    let case = CancelledUnits {
        core: &bench.core,
        tenant: bench.tenant,
        order_id: order.order_id,
        cancellation_id,
        units: units.iter().map(set).collect(),
        told: None,
        job: None,
    };
    bench.db.run(&case).await
}

async fn cancel_whole(bench: &Bench, order: &Placed) -> Result<Option<Refund>, Error> {
    let case = CancelledOrder {
        core: &bench.core,
        tenant: bench.tenant,
        order_id: order.order_id,
        late_capture: None,
        job: None,
    };
    bench.db.run(&case).await
}

#[tokio::test]
async fn a_cancellation_becomes_a_job_that_names_its_units() -> Result<()> {
    let bench = Bench::start().await?;
    let (order, placed) = bench.placed(&[(3, 1_000, &[190])], &[]);
    let cancellation = CancellationId::generate();
    let line = |first, quantity| order::CancelledLine {
        line_id: order.lines[0].to_string(),
        sku: "MUG".to_owned(),
        first_unit: first,
        quantity,
        ..order::CancelledLine::default()
    };
    let message = |lines| order::OrderLinesCancelled {
        order_id: order.order_id.to_string(),
        cancellation_id: cancellation.to_string(),
        currency_code: "EUR".to_owned(),
        lines,
        ..order::OrderLinesCancelled::default()
    };
    let cancelled = bench.event("order", order.order_id, 2, &message(vec![line(2, 2)]));
    bench.fold(&[placed, cancelled]).await?;
    let (key, payload): (String, serde_json::Value) =
        sqlx::query_as("SELECT key, payload FROM jobs WHERE kind = 'refund.lines_cancelled'")
            .fetch_one(bench.db.pool())
            .await?;
    assert_eq!(key, cancellation.to_string());
    assert_eq!(
        payload["units"],
        serde_json::json!([[order.lines[0], { "first": 2, "last": 3 }]])
    );
    for strange in [line(0, 1), line(1, 0), line(i32::MAX, 2)] {
        let event = bench.event("order", order.order_id, 3, &message(vec![strange]));
        assert!(bench.fold(&[event]).await.is_err());
    }
    Ok(())
}

#[tokio::test]
async fn paid_units_go_back_by_their_slots_and_once() -> Result<()> {
    let bench = Bench::start().await?;
    let (mut order, placed) = bench.placed(&[(3, 1_000, &[190]), (1, 500, &[])], &[(400, 76)]);
    let total = order.total;
    let captured = bench.capture(&mut order, "sandbox", total)?;
    bench.fold(&[placed, captured]).await?;

    // Unit 1 was paid back before, without a cancellation.
    let before = bench.refund_units(&order, 0, 1).await?;
    let last = cancel(&bench, &order, &[(0, 3, 1)]).await?.expect("it was paid");
    assert_eq!(last.reason_key, "lines_cancelled");
    let rest = cancel(&bench, &order, &[(0, 1, 2)])
        .await?
        .expect("unit 2 was paid");
    assert_eq!(
        before.amount + last.amount + rest.amount,
        1_190,
        "R-1d: the line, to the penny"
    );
    assert!(
        cancel(&bench, &order, &[(0, 1, 3)]).await?.is_none(),
        "nothing of them is left"
    );
    let end = cancel_whole(&bench, &order)
        .await?
        .expect("a line and shipping are left");
    assert_eq!(end.amount, 976);
    for refund in [&before, &last, &rest, &end] {
        bench.submit(refund, 0).await?;
        assert_eq!(bench.state(refund).await?, RefundState::Succeeded);
    }
    assert_eq!(bench.accounts(order.order_id).await?.get("receivable"), Some(&0));
    bench.audit(&order).await
}

#[tokio::test]
async fn what_the_rest_still_owes_is_kept_and_nothing_is_paid_that_was_never_captured() -> Result<()> {
    let bench = Bench::start().await?;
    let (mut order, placed) = bench.placed(&[(4, 4_000, &[])], &[]);
    let captured = bench.capture(&mut order, "sandbox", 2_500)?;
    bench.fold(&[placed, captured]).await?;

    // 4.000 were owed and 2.500 paid: without one unit nothing is over, without two 500 are.
    assert!(cancel(&bench, &order, &[(0, 4, 1)]).await?.is_none());
    let second = cancel(&bench, &order, &[(0, 3, 1)]).await?.expect("500 are over");
    assert_eq!(second.amount, 500);
    let unpaid = second
        .components
        .iter()
        .find(|part| part.kind == ComponentKind::Unpaid);
    assert_eq!(unpaid.map(|part| part.net), Some(-500));
    assert_eq!(
        bench.accounts(order.order_id).await?.get("receivable"),
        Some(&0),
        "what is left is paid"
    );

    // The units are gone for refunds, also the one that nobody paid for.
    assert!(matches!(
        bench.refund_units(&order, 0, 3).await,
        Err(Error::UnitsNotFree { .. })
    ));
    bench.submit(&second, 0).await?;
    let whole = cancel_whole(&bench, &order).await?.expect("two units are left");
    assert_eq!(whole.amount, 2_000);
    bench.submit(&whole, 0).await?;
    assert_eq!(bench.accounts(order.order_id).await?.get("receivable"), Some(&0));
    bench.audit(&order).await
}

#[tokio::test]
async fn units_of_an_order_that_was_cancelled_first_are_paid_with_it() -> Result<()> {
    let bench = Bench::start().await?;
    let (mut order, placed) = bench.placed(&[(3, 1_000, &[])], &[]);
    let captured = bench.capture(&mut order, "sandbox", 1_000)?;
    bench.fold(&[placed, captured]).await?;
    let whole = cancel_whole(&bench, &order).await?.expect("it was paid");
    assert_eq!(whole.amount, 1_000);
    assert!(cancel(&bench, &order, &[(0, 2, 2)]).await?.is_none());
    bench.submit(&whole, 0).await?;
    bench.audit(&order).await
}

/// R-2a: decided again after lost commits, it is the same refund.
#[tokio::test]
async fn the_refund_of_a_cancellation_has_one_id() -> Result<()> {
    let mut ids = Vec::new();
    let cancellation = CancellationId::generate();
    for _ in 0..2 {
        let bench = Bench::start().await?;
        let (mut order, placed) = bench.placed(&[(2, 1_000, &[])], &[]);
        let captured = bench.capture(&mut order, "sandbox", 1_000)?;
        bench.fold(&[placed, captured]).await?;
        let refund = cancel_as(&bench, &order, cancellation, &[(0, 2, 1)])
            .await?
            .expect("it was paid");
        let again = waybill_refund::domain::refund::refund_because(
            order.order_id,
            &format!("lines_cancelled:{cancellation}"),
        );
        assert_eq!(refund.refund_id, again);
        ids.push(refund.refund_id);
    }
    assert_ne!(ids[0], ids[1], "another order, another refund");
    Ok(())
}

/// An event of an edit: lines that came (quantity, net, tax), units that went (line, first, count), and what goes back.
fn edited(
    bench: &Bench,
    order: &mut Placed,
    version: i64,
    added: &[(i32, i64, i64)],
    removed: &[(usize, i32, i32)],
    refund_minor: i64,
) -> Event {
    let line = |&(quantity, net_minor, tax): &(i32, i64, i64)| order::PlacedLine {
        line_id: LineId::generate().to_string(),
        sku: "POT".to_owned(),
        quantity,
        net_minor,
        taxes: vec![order::PlacedTax {
            amount_minor: tax,
            ..order::PlacedTax::default()
        }],
        ..order::PlacedLine::default()
    };
    let added: Vec<_> = added.iter().map(line).collect();
    let gone = |&(line, first_unit, quantity): &(usize, i32, i32)| order::CancelledLine {
        line_id: order.lines[line].to_string(),
        first_unit,
        quantity,
        ..order::CancelledLine::default()
    };
    let message = order::OrderEdited {
        order_id: order.order_id.to_string(),
        edit_id: EditId::generate().to_string(),
        currency_code: "EUR".to_owned(),
        removed: removed.iter().map(gone).collect(),
        cancellation_id: CancellationId::generate().to_string(),
        refund_minor,
        ..order::OrderEdited::default()
    };
    order.lines.extend(
        added
            .iter()
            .filter_map(|line| line.line_id.parse::<LineId>().ok()),
    );
    order.total += added
        .iter()
        .map(|line| line.net_minor + line.taxes[0].amount_minor)
        .sum::<i64>();
    bench.event(
        "order",
        order.order_id,
        version,
        &order::OrderEdited { added, ..message },
    )
}

/// Does what the jobs of edits say, one after the other.
async fn run_jobs(bench: &Bench, order: &Placed) -> Result<Vec<Option<Refund>>> {
    let jobs: Vec<(String, serde_json::Value)> =
        sqlx::query_as("SELECT key, payload FROM jobs WHERE kind = 'refund.lines_cancelled' ORDER BY job_id")
            .fetch_all(bench.db.pool())
            .await?;
    let mut refunds = Vec::new();
    for (key, payload) in jobs {
        let units: Vec<(LineId, Run)> = serde_json::from_value(payload["units"].clone())?;
        let case = CancelledUnits {
            core: &bench.core,
            tenant: bench.tenant,
            order_id: order.order_id,
            cancellation_id: key.parse()?,
            units: (units.into_iter())
                .map(|(line, run)| (line, UnitSet::from_runs([run])))
                .collect(),
            told: payload["told"].as_i64(),
            job: None,
        };
        refunds.push(bench.db.run(&case).await?);
    }
    Ok(refunds)
}

/// R-1d, R-5: what an edit adds is sold and can be paid back to the penny; what it removes goes back.
#[tokio::test]
async fn lines_of_an_edit_are_sold_and_paid_back_like_others() -> Result<()> {
    let bench = Bench::start().await?;
    let (mut order, placed) = bench.placed(&[(2, 1_000, &[190])], &[]);
    let captured = bench.capture(&mut order, "sandbox", 1_190)?;
    // Told in one batch, and twice in others, it is the same.
    let first = edited(&bench, &mut order, 3, &[(3, 1_000, 190)], &[], 0);
    bench.fold(&[placed, captured, first.clone()]).await?;
    bench.fold(&[first]).await?;
    assert_eq!(
        bench.accounts(order.order_id).await?.get("receivable"),
        Some(&1_190)
    );
    let second = edited(&bench, &mut order, 4, &[(1, 500, 0)], &[(1, 3, 1)], 0);
    bench.fold(&[second]).await?;
    let positions: Vec<i32> =
        sqlx::query_scalar("SELECT position FROM order_lines WHERE order_id = $1 ORDER BY position")
            .bind(order.order_id.uuid())
            .fetch_all(bench.db.pool())
            .await?;
    assert_eq!(positions, [0, 1, 2]);
    assert_eq!(run_jobs(&bench, &order).await?, [None], "nobody had paid for it");

    // 1.190 of a line of three, less its third unit.
    let owed = *bench
        .accounts(order.order_id)
        .await?
        .get("receivable")
        .expect("an account");
    assert_eq!(owed, 1_190 - 396 + 500);
    let rest = bench.capture(&mut order, "sandbox", owed)?;
    bench.fold(&[rest]).await?;
    let refund = bench.refund_units(&order, 1, 2).await?;
    assert_eq!(refund.amount, 1_190 - 396);
    let end = cancel_whole(&bench, &order).await?.expect("the rest");
    for refund in [&refund, &end] {
        bench.submit(refund, 0).await?;
    }
    assert_eq!(bench.accounts(order.order_id).await?.get("receivable"), Some(&0));
    bench.audit(&order).await
}

/// R-1d: what goes back for units is what was told with them. Lines that came since, and what was paid for those, have no part
/// in it, however late its turn comes.
#[tokio::test]
async fn what_comes_after_a_removal_does_not_change_what_goes_back() -> Result<()> {
    let bench = Bench::start().await?;
    let (mut order, placed) = bench.placed(&[(1, 500, &[]), (1, 700, &[])], &[]);
    let captured = bench.capture(&mut order, "sandbox", 1_200)?;
    let removal = edited(&bench, &mut order, 3, &[], &[(0, 1, 1)], 500);
    let addition = edited(&bench, &mut order, 4, &[(1, 500, 0)], &[], 0);
    // A swap: what came is paid by what went.
    let swap = edited(&bench, &mut order, 5, &[(1, 600, 0)], &[(1, 1, 1)], 0);
    bench.fold(&[placed, captured, removal, addition, swap]).await?;
    let refunds = run_jobs(&bench, &order).await?;
    let amounts: Vec<_> = refunds
        .iter()
        .map(|refund| refund.as_ref().map(|r| r.amount))
        .collect();
    assert_eq!(amounts, [Some(500), None]);
    for refund in refunds.iter().flatten() {
        bench.submit(refund, 0).await?;
    }
    // 1.100 are ordered, 700 of what was paid are left.
    assert_eq!(
        bench.accounts(order.order_id).await?.get("receivable"),
        Some(&400)
    );
    bench.audit(&order).await
}
