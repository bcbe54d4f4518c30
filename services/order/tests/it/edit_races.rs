//! Fifty callers at once edit one order, in two processes, while others cancel it: one effect each, the others are told why.

use anyhow::Result;
use futures_util::future::join_all;
use tonic::{Code, Status};
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::fault;

use crate::edit::{adds, pots, sets};
use crate::harness::{Service, start};
use crate::races::{CALLERS, callers};
use crate::shop::{Shop, eur, order, refusal, tea};

/// Versions that the log tells of, each once.
async fn versions(service: &Service) -> Result<Vec<i64>> {
    let query = "SELECT DISTINCT aggregate_version FROM event_log ORDER BY aggregate_version";
    Ok(sqlx::query_scalar(query)
        .fetch_all(&mut service.tables().await)
        .await?)
}

/// All of them saw the same order: one edits it.
#[tokio::test]
async fn one_edit_of_what_was_seen_counts() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let (callers, _replica) = callers(&service, &shop).await;
    let calls = callers.iter().enumerate().map(|(n, shop)| {
        let edit = if n % 2 == 0 {
            adds(vec![pots()])
        } else {
            sets(&placed, 0, 1)
        };
        shop.try_edit(shop.edit(&format!("e-{n}"), &placed, edit))
    });
    let (done, refused): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!(done.len(), 1);
    let changed = (Code::Aborted, "ETAG_MISMATCH".to_owned());
    assert!(refused.into_iter().all(|refused| refusal(refused) == changed));
    let end = shop.get(&placed.order_id).await?;
    assert_eq!((end.version, end.edits.len()), (2, 1));
    assert_eq!(versions(&service).await?, [1, 2]);
    Ok(())
}

/// O-8, O-13: the same request from all of them is one edit with one answer.
#[tokio::test]
async fn one_request_id_is_one_edit() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let (callers, _replica) = callers(&service, &shop).await;
    let calls = callers
        .iter()
        .map(|shop| shop.try_edit(shop.edit("e-1", &placed, adds(vec![pots(), tea()]))));
    let answers: Vec<_> = join_all(calls).await.into_iter().collect::<Result<_, Status>>()?;
    assert!(answers.iter().all(|answer| answer == &answers[0]));
    let end = shop.get(&placed.order_id).await?;
    assert_eq!((end.version, end.lines.len()), (2, 3));
    assert_eq!(end.added, eur(5000));
    Ok(())
}

/// O-23: whoever reads again and tries again gets in, and every line that was added is there once.
#[tokio::test]
async fn edits_that_try_again_all_count_once() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let (callers, _replica) = callers(&service, &shop).await;
    let calls = callers.iter().enumerate().map(|(n, shop)| {
        let id = placed.order_id.clone();
        let line = proto::NewOrderLine {
            sku: format!("SKU-{n}"),
            ..pots()
        };
        async move { insist(shop, n, &id, line).await }
    });
    join_all(calls)
        .await
        .into_iter()
        .collect::<Result<Vec<()>, Status>>()?;
    let end = shop.get(&placed.order_id).await?;
    let mut skus: Vec<&str> = end.lines.iter().map(|line| line.sku.as_str()).collect();
    skus.sort_unstable();
    skus.dedup();
    assert_eq!((end.lines.len(), skus.len()), (CALLERS + 1, CALLERS + 1));
    assert_eq!(end.due, eur(1000 + 4000 * CALLERS as i64));
    assert_eq!(end.version, 1 + CALLERS as i64);
    assert_eq!(versions(&service).await?, (1..=end.version).collect::<Vec<_>>());
    Ok(())
}

/// Tries until it is in: what was changed meanwhile is read again, and what came to nothing is sent again as it was.
async fn insist(shop: &Shop, n: usize, order_id: &str, line: proto::NewOrderLine) -> Result<(), Status> {
    let mut waiting: Option<proto::EditOrderRequest> = None;
    for attempt in 0.. {
        let request = match waiting.take() {
            Some(request) => request,
            None => match shop.get(order_id).await {
                Err(status) if status.code() == Code::Unavailable => continue,
                seen => shop.edit(&format!("e-{n}-{attempt}"), &seen?, adds(vec![line.clone()])),
            },
        };
        match shop.try_edit(request.clone()).await {
            Err(status) if status.code() == Code::Unavailable => waiting = Some(request),
            Err(status) if status.code() == Code::Aborted => {
                let reason = fault::reason(&status);
                assert!(
                    matches!(reason.as_deref(), Some("ETAG_MISMATCH" | "CONFLICT")),
                    "{status:?}"
                );
            }
            answer => return answer.map(|_| ()),
        }
    }
    Ok(())
}

/// O-3, O-7, O-16: edits, cancellations and cancellations of units of one order at once. Each has its effect or is told why
/// not, the versions count exactly those that had, and the sums are those of what is left.
#[tokio::test]
async fn edits_and_cancellations_at_once_each_count_or_say_why() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut new = order("1");
    new.lines = vec![proto::NewOrderLine {
        quantity: 30,
        ..tea()
    }];
    new.totals = Some(proto::OrderTotals {
        total: eur(15_000),
        ..proto::OrderTotals::default()
    });
    let placed = shop.place(new).await;
    let (callers, _replica) = callers(&service, &shop).await;
    let calls = callers.iter().enumerate().map(|(n, shop)| {
        let placed = placed.clone();
        async move {
            let request_id = format!("r-{n}");
            match n % 5 {
                0 => {
                    let edit = shop.edit(&request_id, &placed, sets(&placed, 0, 29));
                    shop.try_edit(edit).await.map(|_| ())
                }
                1 => {
                    // The same request from all of them: one effect at most.
                    let edit = shop.edit("r-1", &placed, adds(vec![pots()]));
                    shop.try_edit(edit).await.map(|_| ())
                }
                // One of them in the end, when others have had their chance.
                2 if n > CALLERS / 2 => shop.cancel(&request_id, &placed.order_id, "").await.map(|_| ()),
                _ => {
                    let units = shop.units(&request_id, &placed, &[(0, 1)]);
                    shop.cancel_units(units).await.map(|_| ())
                }
            }
        }
    });
    let answers = join_all(calls).await;
    let (mut effects, mut shared) = (0, false);
    for (n, answer) in answers.into_iter().enumerate() {
        match (n % 5, answer) {
            (1, Ok(())) => shared = true,
            (_, Ok(())) => effects += 1,
            (0 | 1, refused) => assert_eq!(refusal(refused), (Code::Aborted, "ETAG_MISMATCH".into())),
            (_, refused) => assert_eq!(refusal(refused).1, "ORDER_NOT_CANCELLABLE"),
        }
    }
    let end = shop.get(&placed.order_id).await?;
    assert_eq!(end.status(), proto::OrderStatus::Cancelled);
    assert!(end.edits.len() <= 1, "only what was seen is edited");
    assert_eq!(end.version, 1 + effects + i64::from(shared));
    assert_eq!(
        versions(&service).await?,
        (1..=end.version).collect::<Vec<_>>(),
        "O-7"
    );
    let minor = |money: &Option<waybill_proto::waybill::r#type::v1::Money>| {
        money.as_ref().map_or(0, |money| money.minor_units)
    };
    assert_eq!(
        minor(&end.due),
        15_000 + minor(&end.added) - minor(&end.cancelled)
    );
    let gone = i64::from(end.lines[0].cancelled_quantity);
    assert_eq!(minor(&end.cancelled), 500 * gone);
    let mut units: Vec<i32> = end.cancellations.iter().map(|c| c.lines[0].first_unit).collect();
    units.sort_unstable();
    units.dedup();
    assert_eq!(units.len(), end.cancellations.len(), "no unit went twice");
    Ok(())
}
