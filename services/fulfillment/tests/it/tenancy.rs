//! Nobody sees or moves what belongs to another merchant or store.

use tonic::Code;
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_rpc::client::TokenSource;

use crate::support::{World, line, refusal};

#[tokio::test]
async fn a_token_opens_its_own_merchant_and_stores_only() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order(vec![line("TEE", 1)]);
    let ask = |store: StoreId| proto::GetOrderFulfillmentRequest {
        merchant_id: world.merchant.to_string(),
        store_id: store.to_string(),
        order_id: order.id.to_string(),
        min_order_version: 0,
    };
    let read = &["fulfillment:read"][..];
    let cases = [
        (TokenSource::none(), Code::Unauthenticated, "TOKEN_MISSING"),
        (
            world.auth.source(world.merchant, &[], &["orders:read"]),
            Code::PermissionDenied,
            "SCOPE_MISSING",
        ),
        (
            world.auth.source(MerchantId::generate(), &[], read),
            Code::PermissionDenied,
            "TENANT_MISMATCH",
        ),
        (
            world.auth.source(world.merchant, &[StoreId::generate()], read),
            Code::PermissionDenied,
            "TENANT_MISMATCH",
        ),
        (
            world.auth.source(world.merchant, &[world.store], read),
            Code::NotFound,
            "ORDER_NOT_FOUND",
        ),
    ];
    for (token, code, reason) in cases {
        let error = world
            .client_with(token)?
            .get_order_fulfillment(ask(world.store))
            .await
            .expect_err(reason);
        assert_eq!(refusal(&error), (code, reason.to_owned()));
    }

    // Reading is not writing.
    let mut reader = world.client_with(world.auth.source(world.merchant, &[], read))?;
    let error = reader
        .adjust_stock(world.adjustment(&[]))
        .await
        .expect_err("reading is not writing");
    assert_eq!(
        refusal(&error),
        (Code::PermissionDenied, "SCOPE_MISSING".to_owned())
    );
    world.end().await?;
    Ok(())
}

/// A token for all stores of the merchant does not mix them up: each query is bound to the store it names.
#[tokio::test]
async fn a_store_does_not_see_what_another_store_sold() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 2)]).await?;
    let order = world.order(vec![line("TEE", 2)]);
    world.take_in(&[&order]).await?;
    let mut part = world.shipment_of(&order);
    part.lines = vec![proto::NewShipmentLine {
        line_id: order.line_id(0),
        quantity: 1,
    }];
    let shipment = world.ship(part).await?;

    let merchant_id = world.merchant.to_string();
    let store_id = StoreId::generate().to_string();
    let mut client = world.client.clone();
    let error = client
        .get_order_fulfillment(proto::GetOrderFulfillmentRequest {
            merchant_id: merchant_id.clone(),
            store_id: store_id.clone(),
            order_id: order.id.to_string(),
            min_order_version: 0,
        })
        .await
        .expect_err("another store's order");
    assert_eq!(refusal(&error).1, "ORDER_NOT_FOUND");
    let mut request = world.shipment_of(&order);
    request.store_id.clone_from(&store_id);
    let error = client
        .create_shipment(request)
        .await
        .expect_err("another store's order");
    assert_eq!(refusal(&error).1, "ORDER_NOT_FOUND");
    let error = client
        .get_shipment(proto::GetShipmentRequest {
            merchant_id: merchant_id.clone(),
            store_id: store_id.clone(),
            shipment_id: shipment.shipment_id.clone(),
        })
        .await
        .expect_err("another store's shipment");
    assert_eq!(refusal(&error), (Code::NotFound, "SHIPMENT_NOT_FOUND".to_owned()));
    let batch = proto::BatchGetShipmentsRequest {
        merchant_id: merchant_id.clone(),
        store_id: store_id.clone(),
        shipment_ids: vec![shipment.shipment_id.clone()],
    };
    assert_eq!(
        client.batch_get_shipments(batch).await?.into_inner().shipments,
        []
    );
    let list = proto::ListShipmentsRequest {
        merchant_id: merchant_id.clone(),
        store_id: store_id.clone(),
        order_id: order.id.to_string(),
        ..proto::ListShipmentsRequest::default()
    };
    assert_eq!(client.list_shipments(list).await?.into_inner().shipments, []);

    let references = [
        proto::tracking_update::Shipment::ShipmentId(shipment.shipment_id.clone()),
        proto::tracking_update::Shipment::Tracking(proto::TrackingReference {
            carrier: shipment.carrier,
            tracking_number: shipment.tracking_number,
        }),
    ];
    let updates = references.map(|reference| proto::TrackingUpdate {
        shipment: Some(reference),
        status: proto::ShipmentStatus::Delivered.into(),
        ..proto::TrackingUpdate::default()
    });
    let scans = proto::RecordTrackingRequest {
        merchant_id,
        store_id,
        updates: updates.to_vec(),
    };
    for outcome in client.record_tracking(scans).await?.into_inner().outcomes {
        assert_eq!(outcome.result(), proto::TrackingResult::UnknownShipment);
    }
    assert_eq!(world.told::<proto::ShipmentDelivered>().await?, []);
    world.end().await?;
    Ok(())
}

/// Two merchants with the same skus, locations' names and tracking numbers do not meet.
#[tokio::test]
async fn stock_of_another_merchant_is_not_promised() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 5)]).await?;
    let mut foreign = world.order(vec![line("TEE", 1)]);
    foreign.merchant = MerchantId::generate();
    world.take_in(&[&foreign]).await?;
    let books = world.end().await?;
    assert_eq!((books.reserved, books.waiting), (0, 1));
    Ok(())
}
