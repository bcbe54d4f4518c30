//! Bad input: every fault is named at once, nothing is kept, nothing panics.

use tonic::Code;
use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_proto::waybill::fulfillment::v1::stock_adjustment::Change;

use crate::support::{World, fields, line, refusal};

#[tokio::test]
async fn every_bad_field_is_named() -> anyhow::Result<()> {
    let world = World::start().await?;
    let merchant_id = world.merchant.to_string();
    let mut client = world.client.clone();

    let error = client
        .create_location(proto::CreateLocationRequest {
            merchant_id: merchant_id.clone(),
            request_id: String::new(),
            name: "x".repeat(201),
            country_code: "de".to_owned(),
            priority: 1_001,
        })
        .await
        .expect_err("all wrong");
    assert_eq!(
        refusal(&error),
        (Code::InvalidArgument, "INVALID_REQUEST".to_owned())
    );
    assert_eq!(fields(&error), ["request_id", "name", "country_code", "priority"]);

    let north = world.location("North", 0).await?;
    let mut request = world.adjustment(&[
        ("TEE", &north, 1),
        ("TEE", &north, 1),
        ("", "x", 1),
        ("MUG", &north, 0),
    ]);
    request.adjustments[2].change = Some(Change::Counted(-1));
    request.adjustments[3].change = None;
    let error = client.adjust_stock(request).await.expect_err("all wrong");
    assert_eq!(
        fields(&error),
        [
            "adjustments[1]",
            "adjustments[2].sku",
            "adjustments[2].location_id",
            "adjustments[2].counted",
            "adjustments[3]"
        ]
    );
    let error = world.adjust(&[]).await.expect_err("nothing to do");
    assert_eq!(fields(&error), ["adjustments"]);
    let error = world
        .adjust(&[("TEE", &north, i64::MIN)])
        .await
        .expect_err("far too much");
    assert_eq!(fields(&error), ["adjustments[0].delta"]);
    assert_eq!(world.end().await?.on_hand, 0);
    Ok(())
}

#[tokio::test]
async fn shipments_with_faults_are_refused() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order(vec![line("TEE", 1)]);
    let line_id = order.line_id(0);
    let mut request = world.shipment_of(&order);
    request.lines = vec![
        proto::NewShipmentLine {
            line_id: line_id.clone(),
            quantity: 0,
        },
        proto::NewShipmentLine { line_id, quantity: 1 },
    ];
    request.location_id = "somewhere".to_owned();
    request.carrier = "Royal Mail".to_owned();
    request.service = "x".repeat(101);
    request.tracking_number = "1\n2".to_owned();
    request.tracking_url = "javascript:alert(1)".to_owned();
    request.min_order_version = -1;
    let error = world.ship(request).await.expect_err("all wrong");
    assert_eq!(
        fields(&error),
        [
            "lines[0].quantity",
            "lines[1].line_id",
            "location_id",
            "carrier",
            "service",
            "tracking_number",
            "tracking_url",
            "min_order_version"
        ]
    );
    for address in [
        "https://",
        "https:///path",
        "ftp://host/",
        "https://host/a b",
        "https://host/\"><script>",
    ] {
        let mut request = world.shipment_of(&order);
        request.tracking_url = address.to_owned();
        let error = world.ship(request).await.expect_err("no web address");
        assert_eq!(fields(&error), ["tracking_url"], "{address}");
    }
    world.end().await?;
    Ok(())
}

#[tokio::test]
async fn scans_with_faults_are_refused() -> anyhow::Result<()> {
    let world = World::start().await?;
    let mut client = world.client.clone();
    let mut request = proto::RecordTrackingRequest {
        merchant_id: world.merchant.to_string(),
        store_id: world.store.to_string(),
        updates: vec![
            proto::TrackingUpdate::default(),
            proto::TrackingUpdate {
                shipment: Some(proto::tracking_update::Shipment::Tracking(
                    proto::TrackingReference::default(),
                )),
                status: 99,
                // The year 2100.
                occurred_at: Some(prost_types::Timestamp {
                    seconds: 4_102_444_800,
                    nanos: 0,
                }),
                location: "x".repeat(201),
                description: "x".repeat(501),
                source_event_id: "x".repeat(201),
            },
        ],
    };
    let error = client
        .record_tracking(request.clone())
        .await
        .expect_err("all wrong");
    assert_eq!(
        fields(&error),
        [
            "updates[0].shipment_id",
            "updates[0].status",
            "updates[1].tracking.carrier",
            "updates[1].tracking.tracking_number",
            "updates[1].status",
            "updates[1].occurred_at",
            "updates[1].location",
            "updates[1].description",
            "updates[1].source_event_id"
        ]
    );
    request.updates = vec![proto::TrackingUpdate::default(); 501];
    let error = client
        .record_tracking(request.clone())
        .await
        .expect_err("too many");
    assert_eq!(fields(&error)[0], "updates");
    request.updates.clear();
    let error = client.record_tracking(request).await.expect_err("none");
    assert_eq!(fields(&error), ["updates"]);
    world.end().await?;
    Ok(())
}

#[tokio::test]
async fn lists_with_faults_are_refused() -> anyhow::Result<()> {
    let world = World::start().await?;
    let mut client = world.client.clone();
    let error = client
        .list_stock_levels(proto::ListStockLevelsRequest {
            merchant_id: world.merchant.to_string(),
            page_size: -1,
            page_token: "not one of ours".to_owned(),
            skus: vec![String::new()],
        })
        .await
        .expect_err("all wrong");
    assert_eq!(fields(&error), ["page_size", "skus[0]", "page_token"]);
    let error = client
        .batch_get_shipments(proto::BatchGetShipmentsRequest {
            merchant_id: world.merchant.to_string(),
            store_id: world.store.to_string(),
            shipment_ids: vec!["x".to_owned(); 201],
        })
        .await
        .expect_err("too many");
    assert_eq!(fields(&error), ["shipment_ids"]);
    world.end().await?;
    Ok(())
}
