//! Fifty callers at once, in two processes: one effect.

use anyhow::Result;
use futures_util::future::join_all;
use tonic::{Code, Status};
use waybill_proto::waybill::order::v1 as proto;

use crate::harness::{Service, start};
use crate::shop::{Shop, eur, order, refusal};

pub(crate) const CALLERS: usize = 50;

/// The same shop, called in two processes in turn.
pub(crate) async fn callers(service: &Service, shop: &Shop) -> (Vec<Shop>, crate::harness::Replica) {
    let replica = service.replica().await;
    let elsewhere = Shop {
        client: replica.client(service, shop),
        ..shop.clone()
    };
    let callers = (0..CALLERS).map(|n| {
        if n % 2 == 0 {
            shop.clone()
        } else {
            elsewhere.clone()
        }
    });
    (callers.collect(), replica)
}

async fn orders(service: &Service) -> Result<(i64, i64)> {
    let count = "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM event_log)";
    Ok(sqlx::query_as(count)
        .fetch_one(&mut service.tables().await)
        .await?)
}

/// O-8 by request id: everybody gets the one order.
#[tokio::test]
async fn one_request_id_is_one_order() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let (callers, _replica) = callers(&service, &shop).await;
    let answers = join_all(callers.iter().map(|shop| shop.try_place("r-1", order("1")))).await;
    let answers: Vec<proto::Order> = answers.into_iter().collect::<Result<_, Status>>()?;
    assert!(answers.iter().all(|answer| answer == &answers[0]));
    assert_eq!(orders(&service).await?, (1, 1));
    Ok(())
}

/// O-8 by source: one is placed, the others are told which.
#[tokio::test]
async fn one_source_is_one_order() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let (callers, _replica) = callers(&service, &shop).await;
    let requests: Vec<String> = (0..CALLERS).map(|n| format!("r-{n}")).collect();
    let answers = join_all(
        callers
            .iter()
            .zip(&requests)
            .map(|(shop, id)| shop.try_place(id, order("1"))),
    )
    .await;
    let (placed, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(placed.len(), 1);
    let exists = (Code::AlreadyExists, "ORDER_EXISTS".to_owned());
    assert!(refused.into_iter().all(|refused| refusal(refused) == exists));
    assert_eq!(orders(&service).await?, (1, 1));
    Ok(())
}

/// O-9: numbers are given once, and bad orders among good ones cost nobody else anything.
#[tokio::test]
async fn many_orders_at_once_get_numbers_of_their_own() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let (callers, _replica) = callers(&service, &shop).await;
    let requests: Vec<(String, proto::NewOrder)> = (0..CALLERS)
        .map(|n| {
            let mut new = order(&n.to_string());
            if n % 10 == 3 {
                new.totals = Some(proto::OrderTotals {
                    total: eur(1),
                    ..proto::OrderTotals::default()
                });
            }
            if n % 10 == 4 {
                new.number = (1000 + n).to_string();
            }
            if n % 10 == 5 {
                new.number = "the same".into();
            }
            (format!("r-{n}"), new)
        })
        .collect();
    let calls = callers
        .iter()
        .zip(&requests)
        .map(|(shop, (id, new))| shop.try_place(id, new.clone()));
    let answers = join_all(calls).await;
    let mut numbers = Vec::new();
    for (n, answer) in answers.into_iter().enumerate() {
        match (n % 10, answer) {
            (3, refused) => assert_eq!(refusal(refused).1, "TOTALS_MISMATCH"),
            // An assigned number may have been there first, and one of five has "the same".
            (4 | 5, Err(refused)) => assert_eq!(refusal(Err::<(), _>(refused)).1, "NUMBER_TAKEN"),
            (_, answer) => numbers.push(answer?.number),
        }
    }
    assert_eq!(numbers.iter().filter(|number| *number == "the same").count(), 1);
    let given = numbers.len();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), given, "each number once");
    assert_eq!(orders(&service).await?, (given as i64, given as i64));
    Ok(())
}

/// O-3: fifty cancel, one does.
#[tokio::test]
async fn one_cancellation_counts() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let (callers, _replica) = callers(&service, &shop).await;
    let requests: Vec<String> = (0..CALLERS).map(|n| format!("c-{n}")).collect();
    let calls = callers
        .iter()
        .zip(&requests)
        .map(|(shop, id)| shop.cancel(id, &placed.order_id, ""));
    let (cancelled, refused): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!(cancelled.len(), 1);
    let done = (Code::FailedPrecondition, "ORDER_NOT_CANCELLABLE".to_owned());
    assert!(refused.into_iter().all(|refused| refusal(refused) == done));
    assert_eq!(orders(&service).await?, (1, 2));
    assert_eq!(shop.get(&placed.order_id).await?.version, 2);
    Ok(())
}

/// O-4: fifty captures of 1.00 EUR on an order of 10.00 EUR: ten are recorded, and the order stands at exactly its total.
#[tokio::test]
async fn captures_never_exceed_the_total() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let (callers, _replica) = callers(&service, &shop).await;
    let payments: Vec<String> = (0..CALLERS).map(|n| format!("cap-{n}")).collect();
    let calls = callers
        .iter()
        .zip(&payments)
        .map(|(shop, id)| shop.capture(&placed.order_id, id, 100));
    let (recorded, refused): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!(recorded.len(), 10);
    let beyond = (Code::FailedPrecondition, "CAPTURE_EXCEEDS_TOTAL".to_owned());
    assert!(refused.into_iter().all(|refused| refusal(refused) == beyond));
    let order = shop.get(&placed.order_id).await?;
    assert_eq!((order.captured, order.version), (eur(1000), 11));
    Ok(())
}

/// O-11: one payment of the provider, told by fifty requests, partly for another order.
#[tokio::test]
async fn one_payment_of_a_provider_counts_once() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let (one, other) = (shop.place(order("1")).await, shop.place(order("2")).await);
    let (callers, _replica) = callers(&service, &shop).await;
    let calls = callers.iter().enumerate().map(|(n, shop)| {
        let order_id = if n % 5 == 0 {
            &other.order_id
        } else {
            &one.order_id
        };
        let request = shop.payment(
            &format!("r-{n}"),
            order_id,
            proto::PaymentKind::Capture,
            "cap",
            1000,
        );
        let mut client = shop.client.clone();
        async move { client.record_payment(request).await }
    });
    let answers = join_all(calls).await;
    let winners: i64 = sqlx::query_scalar("SELECT count(*) FROM order_payments")
        .fetch_one(&mut service.tables().await)
        .await?;
    assert_eq!(winners, 1);
    let (paid, unpaid) = (shop.get(&one.order_id).await?, shop.get(&other.order_id).await?);
    assert_eq!(paid.payments.len() + unpaid.payments.len(), 1);
    let differs = (Code::FailedPrecondition, "PAYMENT_DIFFERS".to_owned());
    for (n, answer) in answers.into_iter().enumerate() {
        let of_winner = (n % 5 == 0) == paid.payments.is_empty();
        if of_winner {
            answer?;
        } else {
            assert_eq!(refusal(answer), differs);
        }
    }
    Ok(())
}

/// O-3, O-15: cancellations, updates and holds of one order at once. Each call has its effect or is told why not, the
/// versions count exactly those that had, and nothing comes after the cancellation but new mailboxes.
#[tokio::test]
async fn changes_of_all_kinds_at_once_each_count_or_say_why() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let (callers, _replica) = callers(&service, &shop).await;
    let calls = callers.iter().enumerate().map(|(n, shop)| {
        let id = placed.order_id.clone();
        async move {
            let request_id = format!("r-{n}");
            match n % 5 {
                0 => shop.cancel(&request_id, &id, "").await.map(|_| ()),
                1 => shop
                    .hold(&request_id, &id, proto::HoldReason::Fraud)
                    .await
                    .map(|_| ()),
                2 => shop.release(&request_id, &id, "").await.map(|_| ()),
                3 => {
                    // The same request from all of them: one effect.
                    let update = note("the same");
                    shop.update(shop.change("r-3", &id, &["note"], update))
                        .await
                        .map(|_| ())
                }
                _ => {
                    let update = note(&request_id);
                    shop.update(shop.change(&request_id, &id, &["note"], update))
                        .await
                        .map(|_| ())
                }
            }
        }
    });
    let answers = join_all(calls).await;
    let mut effects = 0;
    let mut cancelled = 0;
    for (n, answer) in answers.into_iter().enumerate() {
        match (n % 5, answer) {
            (3, answer) => answer?,
            (kind, Ok(())) => {
                effects += 1;
                cancelled += i64::from(kind == 0);
            }
            (0, refused) => assert_eq!(refusal(refused).1, "ORDER_NOT_CANCELLABLE"),
            (1, refused) => assert_eq!(refusal(refused).1, "ORDER_NOT_HOLDABLE"),
            (2, refused) => assert_eq!(refusal(refused).1, "HOLD_NOT_OPEN"),
            (_, refused) => panic!("a note can always be changed: {refused:?}"),
        }
    }
    assert_eq!(cancelled, 1);
    let end = shop.get(&placed.order_id).await?;
    assert_eq!(end.status(), proto::OrderStatus::Cancelled);
    assert!(end.holds.iter().all(|hold| hold.released_at.is_some()));
    // Placement, one effect of the shared request, and one version for each other effect.
    assert_eq!(end.version, 1 + 1 + effects);
    let versions: Vec<i64> =
        sqlx::query_scalar("SELECT DISTINCT aggregate_version FROM event_log ORDER BY aggregate_version")
            .fetch_all(&mut service.tables().await)
            .await?;
    assert_eq!(versions, (1..=end.version).collect::<Vec<_>>(), "O-7");
    Ok(())
}

/// O-16: fifty callers cancel one unit each of an order of twenty: nineteen take one each, no two the same, the last one ends
/// the order, and the others are told why not.
#[tokio::test]
async fn a_unit_is_cancelled_once() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut new = order("1");
    new.lines[0].quantity = 20;
    new.totals = Some(proto::OrderTotals {
        total: eur(10_000),
        ..proto::OrderTotals::default()
    });
    let placed = shop.place(new).await;
    let (callers, _replica) = callers(&service, &shop).await;
    let calls = callers
        .iter()
        .enumerate()
        .map(|(n, shop)| shop.cancel_units(shop.units(&format!("u-{n}"), &placed, &[(0, 1)])));
    let (done, refused): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!(done.len(), 20);
    for refused in refused {
        assert_eq!(refusal(refused).1, "ORDER_NOT_CANCELLABLE");
    }
    let end = shop.get(&placed.order_id).await?;
    assert_eq!((end.status(), end.version), (proto::OrderStatus::Cancelled, 21));
    let mut units: Vec<i32> = end.cancellations.iter().map(|c| c.lines[0].first_unit).collect();
    units.sort_unstable();
    assert_eq!(units, (2..=20).collect::<Vec<_>>());
    assert_eq!(end.cancelled, eur(9_500));
    Ok(())
}

fn note(text: &str) -> proto::OrderUpdate {
    proto::OrderUpdate {
        note: text.into(),
        ..proto::OrderUpdate::default()
    }
}
