//! under pressure: many callers at once, and a database that refuses what the rules should never ask for.

use anyhow::Result;
use futures_util::future::join_all;
use sqlx::Connection as _;
use uuid::Uuid;
use waybill_kernel::hash::sha256;
use waybill_refund::domain::compose::Ask;
use waybill_refund::domain::refund::Refund;
use waybill_refund::error::Error;
use waybill_store::{RequestKey, RetryClass as _};

use crate::bench::{Bench, Placed, refused};

fn key(bench: &Bench, id: &str) -> RequestKey {
    RequestKey {
        merchant: bench.tenant.merchant,
        caller: "clerk".to_owned(),
        rpc: "CreateRefund",
        request_id: id.to_owned(),
        hash: sha256(b"the same request"),
    }
}

/// As a caller does: repeats the same request while it is told to.
async fn insist(bench: &Bench, order: &Placed, id: &str, quantity: i32) -> Result<Refund, Error> {
    let lines = vec![(order.lines[0], quantity)];
    let case = bench.ask(
        order,
        Ask {
            lines,
            ..Ask::default()
        },
    );
    loop {
        match bench.db.run_once(&key(bench, id), &case).await {
            Err(error) if error.is_retry() => {}
            decided => return decided,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_callers_at_once_never_get_more_than_was_captured() -> Result<()> {
    let bench = Bench::start().await?;
    let order = bench
        .delivered(&[(100, 9_999, &[1_901])], &[], &[4_000, 4_000])
        .await?;
    let ids: Vec<String> = (0..50).map(|caller| format!("caller-{caller}")).collect();
    let answers = join_all(ids.iter().map(|id| insist(&bench, &order, id, 3))).await;

    let (paid, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(paid.len(), 33, "33 times 3 units fit into 100");
    for answer in refused {
        assert!(
            matches!(
                answer,
                Err(Error::UnitsNotFree {
                    asked: 3,
                    free: 1,
                    ..
                })
            ),
            "{answer:?}"
        );
    }
    let sum: i64 = paid.iter().flatten().map(|refund| refund.amount).sum();
    let rest = bench.refund_units(&order, 0, 1).await?;
    assert_eq!(
        sum + rest.amount,
        order.total,
        "R-1: the parts sum to what was captured, to the penny"
    );
    assert!(matches!(
        bench.refund_units(&order, 0, 1).await,
        Err(Error::UnitsNotFree { free: 0, .. })
    ));
    bench.audit(&order).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_repetitions_of_one_request_are_one_refund() -> Result<()> {
    let bench = Bench::start().await?;
    let order = bench.delivered(&[(100, 10_000, &[])], &[], &[]).await?;
    let answers = join_all((0..50).map(|_| insist(&bench, &order, "double click", 2))).await;
    let first = answers[0].as_ref().expect("the first call is answered").refund_id;
    for answer in &answers {
        assert_eq!(answer.as_ref().expect("each call is answered").refund_id, first);
    }
    let mut conn = bench.conn().await?;
    let refunds: i64 = sqlx::query_scalar("SELECT count(*) FROM refunds")
        .fetch_one(&mut *conn)
        .await?;
    assert_eq!(refunds, 1);
    bench.audit(&order).await
}

#[tokio::test]
async fn goodwill_cannot_be_had_while_units_still_owe() -> Result<()> {
    let bench = Bench::start().await?;
    let order = bench.delivered(&[(2, 1_000, &[])], &[], &[]).await?;
    let goodwill = bench.ask(
        &order,
        Ask {
            goodwill: 1,
            ..Ask::default()
        },
    );
    let refused = bench.db.run(&goodwill).await;
    assert!(
        matches!(refused, Err(Error::GoodwillExceeds { available, .. }) if available.minor == 0),
        "{refused:?}"
    );
    Ok(())
}

/// The constraints, tried by SQL that no use case would send.
#[tokio::test]
async fn the_database_refuses_a_unit_paid_twice() -> Result<()> {
    let bench = Bench::start().await?;
    let order = bench.delivered(&[(5, 1_000, &[])], &[], &[]).await?;
    let refund = bench.refund_units(&order, 0, 3).await?;
    let mut conn = bench.conn().await?;
    let ids = [
        order.order_id.uuid(),
        order.lines[0].uuid(),
        refund.refund_id.uuid(),
    ];
    let table = [
        (
            "INSERT INTO unit_claims (order_id, line_id, quantity, units, refund_id, money, goods)
             VALUES ($1, $2, 5, '[3,5)', $3, true, false)",
            Some("unit_claims_no_unit_paid_twice"),
        ),
        (
            "INSERT INTO unit_claims (order_id, line_id, quantity, units, refund_id, money, goods)
             VALUES ($1, $2, 5, '[5,7)', $3, true, false)",
            Some("unit_claims_of_line"),
        ),
        (
            "INSERT INTO unit_claims (order_id, line_id, quantity, units, refund_id, money, goods)
             VALUES ($1, $2, 9, '[8,9)', $3, true, false)",
            Some("unit_claims_quantity_of"),
        ),
        (
            "INSERT INTO unit_claims (order_id, line_id, quantity, units, refund_id, money, goods)
             VALUES ($1, $2, 5, '[4,5)', $3, true, false)",
            None,
        ),
    ];
    for (sql, constraint) in table {
        assert_eq!(
            refused(&mut conn, sql, &ids).await.as_deref(),
            constraint,
            "{sql}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_database_refuses_to_promise_more_than_was_captured() -> Result<()> {
    let bench = Bench::start().await?;
    let order = bench.delivered(&[(5, 1_000, &[])], &[], &[400]).await?;
    let mut conn = bench.conn().await?;
    let ids = [order.order_id.uuid()];
    let more = "UPDATE orders SET in_flight = captured + 1 WHERE order_id = $1";
    assert_eq!(
        refused(&mut conn, more, &ids).await.as_deref(),
        Some("orders_never_promise_more_than_captured")
    );
    let ids = [order.payments[0].0.uuid()];
    let more = "UPDATE payments SET succeeded = 300, in_flight = 101 WHERE payment_id = $1";
    assert_eq!(
        refused(&mut conn, more, &ids).await.as_deref(),
        Some("payments_never_promise_more_than_captured")
    );
    let all = "UPDATE payments SET succeeded = 300, in_flight = 100 WHERE payment_id = $1";
    assert_eq!(
        refused(&mut conn, all, &ids).await,
        None,
        "up to what was captured is fine"
    );
    Ok(())
}

/// what does not balance is not committed, whoever writes it.
#[tokio::test]
async fn the_journal_refuses_what_does_not_balance() -> Result<()> {
    let bench = Bench::start().await?;
    let mut conn = bench.conn().await?;
    let attempt = async |conn: &mut sqlx::PgConnection,
                         amounts: &[i64],
                         lines: i16|
           -> Result<Option<String>> {
        let entry: Uuid = waybill_kernel::id::EntryId::generate().uuid();
        let mut tx = conn.begin().await?;
        sqlx::query(
            "INSERT INTO journal_entries (entry_id, merchant_id, store_id, order_id, kind, source, lines, booked_at)
             VALUES ($1, $1, $1, $1, 'test', $1::text, $2, now())",
        )
        .bind(entry)
        .bind(lines)
        .execute(&mut *tx)
        .await?;
        for (position, amount) in (1_i16..).zip(amounts) {
            sqlx::query(
                "INSERT INTO journal_lines (entry_id, of_lines, position, merchant_id, account, currency, amount)
                 VALUES ($1, $2, $3, $1, 'sales', CASE WHEN $4 > 0 THEN 'EUR' ELSE $5 END, $4)",
            )
            .bind(entry)
            .bind(lines)
            .bind(position)
            .bind(*amount)
            .bind(if lines == 3 { "USD" } else { "EUR" })
            .execute(&mut *tx)
            .await?;
        }
        Ok(tx
            .commit()
            .await
            .err()
            .and_then(|e| e.as_database_error()?.constraint().map(str::to_owned)))
    };
    assert_eq!(
        attempt(&mut conn, &[100, -100], 2).await?,
        None,
        "a balanced entry is committed"
    );
    assert_eq!(
        attempt(&mut conn, &[100, -99], 2).await?.as_deref(),
        Some("journal_entries_balanced")
    );
    assert_eq!(
        attempt(&mut conn, &[100], 2).await?.as_deref(),
        Some("journal_entries_complete")
    );
    // Each currency balances by itself.
    let mixed = attempt(&mut conn, &[50, 50, -100], 3).await?;
    assert_eq!(mixed.as_deref(), Some("journal_entries_balanced"));
    Ok(())
}

#[tokio::test]
async fn the_journal_is_append_only() -> Result<()> {
    let bench = Bench::start().await?;
    let order = bench.delivered(&[(1, 1_000, &[200])], &[], &[]).await?;
    let mut conn = bench.conn().await?;
    let by_order = [order.order_id.uuid()];
    for sql in [
        "UPDATE journal_entries SET kind = 'other' WHERE order_id = $1",
        "DELETE FROM journal_entries WHERE order_id = $1",
        "UPDATE journal_lines SET amount = amount * 2 WHERE entry_id IN (SELECT entry_id FROM journal_entries WHERE order_id = $1)",
        "DELETE FROM journal_lines WHERE entry_id IN (SELECT entry_id FROM journal_entries WHERE order_id = $1)",
    ] {
        let said = refused(&mut conn, sql, &by_order).await.unwrap_or_default();
        assert!(said.contains("append only"), "{sql}: {said:?}");
    }
    // Nor can a line be slipped into an old entry.
    let late = "INSERT INTO journal_lines (entry_id, of_lines, position, merchant_id, account, currency, amount)
                SELECT entry_id, lines, lines + 1, merchant_id, 'sales', 'EUR', 5 FROM journal_entries WHERE order_id = $1";
    assert_eq!(
        refused(&mut conn, late, &by_order).await.as_deref(),
        Some("journal_lines_position_within")
    );
    let wider = "INSERT INTO journal_lines (entry_id, of_lines, position, merchant_id, account, currency, amount)
                 SELECT entry_id, lines + 1, lines + 1, merchant_id, 'sales', 'EUR', 5 FROM journal_entries WHERE order_id = $1";
    assert_eq!(
        refused(&mut conn, wider, &by_order).await.as_deref(),
        Some("journal_lines_of_entry")
    );
    Ok(())
}
