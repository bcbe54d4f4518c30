//! CancelOrder: while nothing has shipped, once, and by who has seen the order as it stands.

use anyhow::Result;
use prost::Message as _;
use tonic::Code;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::fault;

use crate::harness::start;
use crate::shop::{bad_fields, order, refusal};

#[tokio::test]
async fn a_cancelled_order_says_why_and_what_has_to_go_back() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let paid = shop.capture(&placed.order_id, "pay-1", 400).await?;
    let cancelled = shop.cancel("c-1", &placed.order_id, &paid.etag).await?;
    assert_eq!(cancelled.status(), proto::OrderStatus::Cancelled);
    assert_eq!(cancelled.cancel_reason, "changed their mind");
    assert_eq!(cancelled.version, 3);
    assert_eq!(shop.get(&placed.order_id).await?, cancelled);

    let payload: Vec<u8> =
        sqlx::query_scalar("SELECT payload FROM event_log WHERE type LIKE '%OrderCancelled'")
            .fetch_one(&mut service.tables().await)
            .await?;
    let event = proto::OrderCancelled::decode(payload.as_slice())?;
    assert_eq!((event.captured_minor, event.currency_code.as_str()), (400, "EUR"));

    let summaries: Vec<String> = shop
        .timeline(&placed.order_id)
        .await
        .into_iter()
        .map(|entry| entry.summary)
        .collect();
    assert_eq!(
        summaries,
        [
            "Placed: 2 units for 10.00 EUR",
            "4.00 EUR captured by stripe",
            "Cancelled: changed their mind"
        ]
    );
    Ok(())
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_and_another_request_the_state() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let cancelled = shop.cancel("c-1", &placed.order_id, "").await?;
    assert_eq!(shop.cancel("c-1", &placed.order_id, "").await?, cancelled);

    let status = shop
        .cancel("c-2", &placed.order_id, "")
        .await
        .expect_err("it is cancelled");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let info = fault::error_info(&status).expect("it has a reason");
    assert_eq!(info.reason, "ORDER_NOT_CANCELLABLE");
    assert_eq!(info.metadata.get("status").map(String::as_str), Some("CANCELLED"));
    assert!(
        status.message().contains("only an OPEN or ON_HOLD order"),
        "{}",
        status.message()
    );
    Ok(())
}

#[tokio::test]
async fn an_etag_protects_what_was_seen() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    shop.capture(&placed.order_id, "pay-1", 400).await?;
    let (code, reason) = refusal(shop.cancel("c-1", &placed.order_id, &placed.etag).await);
    assert_eq!((code, reason.as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    let now = shop.get(&placed.order_id).await?;
    assert_eq!(now.status(), proto::OrderStatus::Open);
    shop.cancel("c-2", &placed.order_id, &now.etag).await?;
    Ok(())
}

#[tokio::test]
async fn a_cancellation_has_a_reason() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let request = |reason: &str| proto::CancelOrderRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        request_id: "c".into(),
        order_id: String::new(),
        reason: reason.into(),
        etag: String::new(),
    };
    for reason in ["", "x\ny", &"x".repeat(501)] {
        let answer = shop.client.clone().cancel_order(request(reason)).await;
        assert_eq!(bad_fields(answer), ["order_id", "reason"]);
    }
    Ok(())
}
