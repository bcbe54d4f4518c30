//! WatchOrders: from a place on, everything, once, in order.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use tokio::time::timeout;
use tonic::{Code, Streaming};
use waybill_proto::waybill::order::v1 as proto;

use crate::harness::{SOON, start, start_with};
use crate::shop::{Shop, bad_fields, order, refusal};

async fn watch(
    shop: &Shop,
    cursor: &str,
    from_start: bool,
) -> Result<Streaming<proto::WatchOrdersResponse>, tonic::Status> {
    let request = proto::WatchOrdersRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        cursor: cursor.into(),
        from_start,
    };
    Ok(shop.client.clone().watch_orders(request).await?.into_inner())
}

async fn next(stream: &mut Streaming<proto::WatchOrdersResponse>) -> Result<proto::WatchOrdersResponse> {
    timeout(SOON, stream.message())
        .await
        .context("a change in time")??
        .context("the stream goes on")
}

fn short(change: &proto::WatchOrdersResponse) -> (&str, &str, i64) {
    let name = change.r#type.rsplit('.').next().unwrap_or_default();
    (change.order_id.as_str(), name, change.version)
}

#[tokio::test]
async fn a_watch_sees_what_was_and_what_comes() -> Result<()> {
    let service = start().await;
    let (shop, other) = (service.shop(), service.shop());
    let one = shop.place(order("1")).await.order_id;
    other.place(order("1")).await;
    shop.capture(&one, "pay", 400).await?;

    let mut all = watch(&shop, "", true).await?;
    assert_eq!(short(&next(&mut all).await?), (one.as_str(), "OrderPlaced", 1));
    let paid = next(&mut all).await?;
    assert_eq!(short(&paid), (one.as_str(), "PaymentRecorded", 2));

    let mut new = watch(&shop, "", false).await?;
    other.place(order("2")).await;
    let two = shop.place(order("2")).await.order_id;
    for stream in [&mut all, &mut new] {
        assert_eq!(short(&next(stream).await?), (two.as_str(), "OrderPlaced", 1));
    }
    shop.cancel("c", &one, "").await?;
    assert_eq!(short(&next(&mut new).await?), (one.as_str(), "OrderCancelled", 3));

    let mut resumed = watch(&shop, &paid.cursor, false).await?;
    assert_eq!(
        short(&next(&mut resumed).await?),
        (two.as_str(), "OrderPlaced", 1)
    );
    assert_eq!(
        short(&next(&mut resumed).await?),
        (one.as_str(), "OrderCancelled", 3)
    );
    Ok(())
}

/// O-14: a reader that breaks off again and again while fifty callers place orders in two processes, and goes on from its
/// last cursor each time, sees every order once.
#[tokio::test]
async fn a_watch_that_resumes_misses_nothing() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let replica = service.replica().await;
    let elsewhere = Shop {
        client: replica.client(&service, &shop),
        ..shop.clone()
    };
    let writers = (0..50).map(|n| {
        let shop = if n % 2 == 0 {
            shop.clone()
        } else {
            elsewhere.clone()
        };
        async move {
            let mut ids = Vec::new();
            for m in 0..6 {
                ids.push(shop.place(order(&format!("{n}-{m}"))).await.order_id);
            }
            ids
        }
    });
    let reader = async {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        while seen.len() < 300 {
            let mut stream = watch(&shop, &cursor, cursor.is_empty()).await?;
            for _ in 0..(seen.len() % 7 + 1).min(300 - seen.len()) {
                let change = next(&mut stream).await?;
                cursor = change.cursor;
                seen.push(change.order_id);
            }
        }
        anyhow::Ok(seen)
    };
    let (written, seen) = tokio::join!(join_all(writers), reader);
    let mut written: Vec<String> = written.into_iter().flatten().collect();
    let mut seen = seen?;
    written.sort();
    seen.sort();
    assert_eq!(seen, written);
    Ok(())
}

#[tokio::test]
async fn a_cursor_that_the_log_does_not_have_is_expired() -> Result<()> {
    let service = start().await;
    let (shop, other) = (service.shop(), service.shop());
    shop.place(order("1")).await;
    let cursor = next(&mut watch(&shop, "", true).await?).await?.cursor;
    assert_eq!(
        bad_fields(watch(&other, &cursor, false).await),
        ["cursor"],
        "it is bound to its store"
    );
    assert_eq!(bad_fields(watch(&shop, "nonsense", false).await), ["cursor"]);
    assert_eq!(bad_fields(watch(&shop, &cursor, true).await), ["from_start"]);

    let mut tables = service.tables().await;
    sqlx::raw_sql("SET session_replication_role = replica; DELETE FROM event_log")
        .execute(&mut tables)
        .await?;
    let (code, reason) = refusal(watch(&shop, &cursor, false).await);
    assert_eq!((code, reason.as_str()), (Code::OutOfRange, "CURSOR_EXPIRED"));
    Ok(())
}

#[tokio::test]
async fn watches_are_limited_and_make_room_when_they_end() -> Result<()> {
    let service = start_with(|config| config.max_watches = 2).await;
    let shop = service.shop();
    let first = watch(&shop, "", false).await?;
    let _second = watch(&shop, "", false).await?;
    let (code, reason) = refusal(watch(&shop, "", false).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::ResourceExhausted, "TOO_MANY_WATCHES")
    );
    drop(first);
    waybill_testkit::eventually("a free seat", SOON, async || watch(&shop, "", false).await.ok()).await;
    Ok(())
}

#[tokio::test]
async fn a_service_that_stops_ends_its_watches() -> Result<()> {
    let mut service = start().await;
    let shop = service.shop();
    let mut stream = watch(&shop, "", false).await?;
    let (stopped, ended) = tokio::join!(service.stop(), timeout(Duration::from_secs(10), stream.message()));
    stopped?;
    let status = ended?.expect_err("the end is told");
    assert_eq!(status.code(), Code::Unavailable);
    Ok(())
}
