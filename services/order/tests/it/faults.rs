//! What breaks around the service.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use futures_util::future::join_all;
use tonic::Code;
use waybill_testkit::{Auth, Wire, database, eventually};

use crate::harness::{PEERS_AWAY, SOON, start_among, start_with};
use crate::shop::{order, refusal};

/// Placing calls nobody: broker and peers may all be away.
#[tokio::test]
async fn intake_works_while_everything_else_is_down() -> Result<()> {
    let service = start_with(|config| config.common.nats.url = "nats://127.0.0.1:1".into()).await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    shop.capture(&placed.order_id, "pay", 1000).await?;
    assert_eq!(shop.get(&placed.order_id).await?.version, 2);
    Ok(())
}

/// Connections to the database break again and again under twenty callers, also in the middle of commits. Each caller
/// repeats its request until it is answered: in the end every order is there, once.
#[tokio::test]
async fn a_wire_that_breaks_loses_no_order_and_doubles_none() -> Result<()> {
    const CALLERS: usize = 20;
    const EACH: usize = 5;
    let db = database(&["order"]).await;
    let (wire, through) = Wire::before(&db.url("order")).await?;
    let service = start_among(db, Auth::new(), &PEERS_AWAY, |config| {
        config.common.database.url = through.into()
    })
    .await;
    let shop = service.shop();

    let answered = AtomicUsize::new(0);
    let callers = (0..CALLERS).map(|n| {
        let (shop, answered) = (shop.clone(), &answered);
        async move {
            let mut ids = Vec::new();
            for m in 0..EACH {
                let name = format!("{n}-{m}");
                let placed = eventually("an answer", SOON, async || {
                    let answer = shop.try_place(&name, order(&name)).await;
                    if let Err(status) = &answer {
                        let passing = [Code::Unavailable, Code::Aborted, Code::DeadlineExceeded];
                        assert!(passing.contains(&status.code()), "{status:?}");
                    }
                    answer.map_err(|status| status.code())
                })
                .await;
                answered.fetch_add(1, Ordering::Relaxed);
                ids.push(placed.order_id);
            }
            ids
        }
    });
    let breaker = async {
        for until in (10..CALLERS * EACH).step_by(15) {
            eventually("progress", SOON, async || {
                (answered.load(Ordering::Relaxed) >= until).then_some(())
            })
            .await;
            wire.cut();
            wire.restore();
        }
    };
    let (ids, ()) = tokio::join!(join_all(callers), breaker);
    let mut ids: Vec<String> = ids.into_iter().flatten().collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), CALLERS * EACH, "each caller has an order of its own");
    let counts: (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM event_log), (SELECT count(*) FROM idempotency)",
    )
    .fetch_one(&mut service.tables().await)
    .await?;
    assert_eq!(counts, (100, 100, 100));
    Ok(())
}

/// While the database is away the answer says that nothing was changed and that calling again helps.
#[tokio::test]
async fn a_database_that_is_away_is_said_so() -> Result<()> {
    let db = database(&["order"]).await;
    let (wire, through) = Wire::before(&db.url("order")).await?;
    let service = start_among(db, Auth::new(), &PEERS_AWAY, |config| {
        config.common.database.url = through.into()
    })
    .await;
    let shop = service.shop();
    // It has started once it answers; a start without a database fails.
    shop.try_place("r-0", order("0")).await?;
    wire.cut();
    let (code, reason) = refusal(shop.try_place("r-1", order("1")).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::Unavailable, "DATABASE_UNAVAILABLE")
    );
    wire.restore();
    shop.try_place("r-1", order("1")).await?;
    Ok(())
}
