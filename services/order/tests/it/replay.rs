//! The same request, the same source, once more: one effect, and the first answer again.

use anyhow::Result;
use tonic::Code;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::fault;

use crate::harness::start;
use crate::shop::{order, refusal};

/// O-8, O-13: the answer is the first one, also after the order has moved on and its contact is gone.
#[tokio::test]
async fn a_repeated_request_gets_the_first_answer() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let first = shop.try_place("r-1", order("1")).await?;
    assert_eq!(shop.try_place("r-1", order("1")).await?, first);

    shop.capture(&first.order_id, "pay-1", 400).await?;
    shop.cancel("c-1", &first.order_id, "").await?;
    assert_eq!(
        shop.try_place("r-1", order("1")).await?,
        first,
        "as it was placed, not as it stands"
    );

    let mut tables = service.tables().await;
    sqlx::query("DELETE FROM order_contacts")
        .execute(&mut tables)
        .await?;
    let forgotten = shop.try_place("r-1", order("1")).await?;
    assert_eq!(
        forgotten.customer,
        Some(proto::Customer::default()),
        "an erasure reaches old answers too"
    );
    assert_eq!(forgotten.lines, first.lines);

    let kept: Vec<String> = sqlx::query_scalar("SELECT response FROM idempotency")
        .fetch_all(&mut tables)
        .await?;
    assert_eq!(kept.len(), 3);
    assert!(
        kept.iter()
            .all(|answer| !answer.contains("jo@example.org") && !answer.contains("Doe"))
    );
    Ok(())
}

#[tokio::test]
async fn a_request_id_is_for_one_request() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    shop.try_place("r-1", order("1")).await?;
    let (code, reason) = refusal(shop.try_place("r-1", order("2")).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::InvalidArgument, "REQUEST_ID_REUSED")
    );
    assert_eq!(shop.try_place("r-2", order("2")).await?.number, "1002");
    Ok(())
}

/// O-8.
#[tokio::test]
async fn a_source_is_placed_once_and_named_afterwards() -> Result<()> {
    let service = start().await;
    let (shop, other) = (service.shop(), service.shop());
    let first = shop.try_place("r-1", order("1")).await?;
    let mut changed = order("1");
    changed.tags = vec!["changed".into()];
    let status = shop.try_place("r-2", changed).await.expect_err("it is there");
    assert_eq!(status.code(), Code::AlreadyExists);
    let info = fault::error_info(&status).expect("it has a reason");
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("ORDER_EXISTS", "order.waybill")
    );
    assert_eq!(info.metadata.get("order_id"), Some(&first.order_id));
    assert_eq!(info.metadata.get("number"), Some(&first.number));

    other.try_place("r-1", order("1")).await?;
    let elsewhere = proto::NewOrder {
        source: Some(proto::OrderSource {
            system: "csv".into(),
            external_id: "1".into(),
        }),
        ..order("1")
    };
    shop.try_place("r-3", elsewhere).await?;
    Ok(())
}
