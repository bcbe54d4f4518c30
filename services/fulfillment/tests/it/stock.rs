//! Locations and stock levels.

use tonic::Code;
use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_proto::waybill::fulfillment::v1::stock_adjustment::Change;

use crate::support::{World, fields, line, refusal};

fn levels(of: &[proto::StockLevel]) -> Vec<(String, i64, i64, i64)> {
    of.iter()
        .map(|level| (level.sku.clone(), level.on_hand, level.reserved, level.available))
        .collect()
}

#[tokio::test]
async fn locations_are_listed_by_priority_and_named_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let south = world.location("South", 20).await?;
    let north = world.location("North", 10).await?;
    let east = world.location("East", 10).await?;
    let error = world.location("North", 30).await.expect_err("the name is in use");
    assert_eq!(
        refusal(&error),
        (Code::AlreadyExists, "LOCATION_EXISTS".to_owned())
    );

    let request = proto::ListLocationsRequest {
        merchant_id: world.merchant.to_string(),
    };
    let listed = world
        .client
        .clone()
        .list_locations(request)
        .await?
        .into_inner()
        .locations;
    let ids: Vec<String> = listed.into_iter().map(|location| location.location_id).collect();
    assert_eq!(ids, [east, north, south]);
    world.end().await?;
    Ok(())
}

#[tokio::test]
async fn a_repeated_request_is_one_effect_with_one_answer() -> anyhow::Result<()> {
    let world = World::start().await?;
    let location = world.location("North", 0).await?;
    let request = world.adjustment(&[("TEE", &location, 10)]);
    let mut client = world.client.clone();
    let first = client.adjust_stock(request.clone()).await?.into_inner();
    world.adjust(&[("TEE", &location, 5)]).await?;
    let again = client.adjust_stock(request.clone()).await?.into_inner();
    assert_eq!(first, again, "the first answer, not the stock of today");

    let mut other = request;
    other.adjustments[0].change = Some(Change::Delta(11));
    let error = client.adjust_stock(other).await.expect_err("another request");
    assert_eq!(
        refusal(&error),
        (Code::InvalidArgument, "REQUEST_ID_REUSED".to_owned())
    );
    assert_eq!(world.end().await?.on_hand, 15);
    Ok(())
}

/// F-1, and all entries or none.
#[tokio::test]
async fn stock_is_not_adjusted_below_what_is_promised() -> anyhow::Result<()> {
    let world = World::start().await?;
    let location = world.location("North", 0).await?;
    world
        .adjust(&[("TEE", &location, 10), ("MUG", &location, 10)])
        .await?;
    let order = world.order(vec![line("TEE", 7)]);
    world.take_in(&[&order]).await?;

    let error = world
        .adjust(&[("MUG", &location, 5), ("TEE", &location, -4)])
        .await
        .expect_err("7 of 10 are promised");
    assert_eq!(
        refusal(&error),
        (Code::FailedPrecondition, "STOCK_BELOW_RESERVED".to_owned())
    );
    assert!(
        error.message().contains("TEE") && error.message().contains("6 on hand of 10"),
        "{error}"
    );
    let error = world
        .adjust(&[("SCARF", &location, -1)])
        .await
        .expect_err("there is none");
    assert_eq!(refusal(&error).1, "STOCK_BELOW_RESERVED");

    let left = world
        .adjust(&[("TEE", &location, -3), ("MUG", &location, 0)])
        .await?;
    assert_eq!(
        levels(&left),
        [("TEE".to_owned(), 7, 7, 0), ("MUG".to_owned(), 10, 0, 10)]
    );
    world.end().await?;
    Ok(())
}

#[tokio::test]
async fn counting_and_safety_stock() -> anyhow::Result<()> {
    let world = World::start().await?;
    let location = world.location("North", 0).await?;
    let mut request = world.adjustment(&[("TEE", &location, 0)]);
    request.adjustments[0].change = Some(Change::Counted(12));
    request.adjustments[0].safety_stock = Some(4);
    let counted = world
        .client
        .clone()
        .adjust_stock(request)
        .await?
        .into_inner()
        .levels;
    assert_eq!(levels(&counted), [("TEE".to_owned(), 12, 0, 8)]);

    // Safety stock is never promised, not even to the last order.
    let order = world.order(vec![line("TEE", 10)]);
    world.take_in(&[&order]).await?;
    assert_eq!(world.status(&order).await?, proto::AllocationStatus::Backordered);
    assert_eq!(world.books().await?.reserved, 8);

    // Given free, it goes to who waits.
    let mut request = world.adjustment(&[("TEE", &location, 0)]);
    request.adjustments[0].change = None;
    request.adjustments[0].safety_stock = Some(0);
    let freed = world
        .client
        .clone()
        .adjust_stock(request)
        .await?
        .into_inner()
        .levels;
    assert_eq!(
        levels(&freed),
        [("TEE".to_owned(), 12, 10, 2)],
        "the answer is the stock after giving"
    );
    assert_eq!(world.status(&order).await?, proto::AllocationStatus::Allocated);
    world.end().await?;
    Ok(())
}

#[tokio::test]
async fn a_location_of_somebody_else_is_no_location() -> anyhow::Result<()> {
    let world = World::start().await?;
    let stranger = World::start().await?;
    let foreign = stranger.location("North", 0).await?;
    let error = world.adjust(&[("TEE", &foreign, 1)]).await.expect_err("not ours");
    assert_eq!(refusal(&error), (Code::NotFound, "LOCATION_NOT_FOUND".to_owned()));
    stranger.end().await?;
    world.end().await?;
    Ok(())
}

#[tokio::test]
async fn pages_go_through_all_levels_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (north, south) = (
        world.location("North", 0).await?,
        world.location("South", 0).await?,
    );
    let skus: Vec<String> = (0..7).map(|number| format!("SKU {number}")).collect();
    let deltas: Vec<(&str, &str, i64)> = skus
        .iter()
        .flat_map(|sku| {
            [
                (sku.as_str(), north.as_str(), 1),
                (sku.as_str(), south.as_str(), 2),
            ]
        })
        .collect();
    world.adjust(&deltas).await?;

    let mut request = proto::ListStockLevelsRequest {
        merchant_id: world.merchant.to_string(),
        page_size: 5,
        ..proto::ListStockLevelsRequest::default()
    };
    let mut client = world.client.clone();
    let mut seen = Vec::new();
    loop {
        let page = client.list_stock_levels(request.clone()).await?.into_inner();
        assert!(page.levels.len() <= 5);
        seen.extend(
            page.levels
                .into_iter()
                .map(|level| (level.sku, level.location_id)),
        );
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen.len(), 14);
    assert!(seen.is_sorted());
    seen.dedup();
    assert_eq!(seen.len(), 14, "no level twice");

    request.skus = vec![skus[3].clone(), "never seen".to_owned()];
    let error = client
        .list_stock_levels(request.clone())
        .await
        .expect_err("the token is of another list");
    assert_eq!(fields(&error), ["page_token"]);
    request.page_token.clear();
    let some = client.list_stock_levels(request).await?.into_inner();
    assert_eq!(some.levels.len(), 2);
    assert_eq!(some.next_page_token, "");
    world.end().await?;
    Ok(())
}
