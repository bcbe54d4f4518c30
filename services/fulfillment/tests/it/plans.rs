//! No call reads a large table from one end to the other.

use std::sync::Arc;

use sqlx::PgConnection;
use waybill_kernel::id::OrderId;
use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_testkit::eventually;

use crate::support::{Order, SOON, World, line};

/// Fills all tables that grow with thousands of orders of many merchants, a hundred of them of this one.
const FILL: &str = "
    WITH merchants AS (
        SELECT CASE WHEN n % 50 = 0 THEN '{merchant}'::uuid ELSE gen_random_uuid() END AS merchant_id, n
        FROM generate_series(1, 5000) n
    ), places AS (
        INSERT INTO locations (location_id, merchant_id, name, country_code, priority)
        SELECT gen_random_uuid(), merchant_id, 'place ' || n, 'DE', 5 FROM merchants
        RETURNING merchant_id, location_id, name
    ), known AS (
        INSERT INTO skus SELECT merchant_id, 'sku ' || name FROM places RETURNING merchant_id, sku
    ), shelves AS (
        INSERT INTO stock (merchant_id, sku, location_id, on_hand, reserved)
        SELECT merchant_id, 'sku ' || name, location_id, 10, 1 FROM places
    ), numbered AS (
        SELECT p.*, gen_random_uuid() AS order_id, gen_random_uuid() AS line_id, uuidv7() AS shipment_id FROM places p
    ), sold AS (
        INSERT INTO orders SELECT order_id, merchant_id, '{store}'::uuid, now(), 1, true FROM numbered
    ), lines AS (
        INSERT INTO order_lines SELECT order_id, 0, line_id, 'sku ' || name, 3, false FROM numbered
    ), stand AS (
        INSERT INTO fulfillments (order_id, merchant_id, store_id, units, waiting, reserved, shipped)
        SELECT order_id, merchant_id, '{store}'::uuid, 3, 1, 1, 1 FROM numbered
    ), kept AS (
        INSERT INTO reservations SELECT order_id, line_id, location_id, merchant_id, 'sku ' || name, 1 FROM numbered
    ), queue AS (
        INSERT INTO backorders SELECT order_id, line_id, 0, merchant_id, 'sku ' || name, 1, now() FROM numbered
    ), sent AS (
        INSERT INTO shipments (shipment_id, merchant_id, store_id, order_id, location_id, status, carrier, service,
                               tracking_number, tracking_url, shipped_at)
        SELECT shipment_id, merchant_id, '{store}'::uuid, order_id, location_id, 'pending', 'dhl', '', name, '', now()
        FROM numbered
    ), packed AS (
        INSERT INTO shipment_lines SELECT shipment_id, line_id, 'sku ' || name, 1 FROM numbered
    )
    INSERT INTO tracking_events
    SELECT uuidv7(), shipment_id, 'pending', '', '', now(), now(), '' FROM numbered";

const LARGE: &str = "SELECT relname::text, seq_scan FROM pg_stat_user_tables
    WHERE schemaname = 'fulfillment' AND n_live_tup > 1000 ORDER BY relname";

async fn scans(admin: &mut PgConnection) -> anyhow::Result<Vec<(String, i64)>> {
    sqlx::query("SELECT pg_stat_clear_snapshot()")
        .execute(&mut *admin)
        .await?;
    Ok(sqlx::query_as(LARGE).fetch_all(admin).await?)
}

#[tokio::test]
async fn no_call_reads_a_whole_table() -> anyhow::Result<()> {
    let world = World::start().await?;
    let database = Arc::clone(&world.database);
    let mut admin = database.admin().await;
    let fill = FILL
        .replace("{merchant}", &world.merchant.to_string())
        .replace("{store}", &world.store.to_string());
    let north = world.location("North", 0).await?;
    sqlx::raw_sql("SET search_path TO fulfillment")
        .execute(&mut admin)
        .await?;
    // Foreign keys between rows of one statement are checked at its end.
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill))
        .execute(&mut admin)
        .await?;
    sqlx::raw_sql("ANALYZE; SELECT pg_stat_force_next_flush()")
        .execute(&mut admin)
        .await?;
    // The fill's own checks of foreign keys are over, and counted, when all tables are known to be large.
    let mut before = eventually("figures of ten tables", SOON, async || {
        match scans(&mut admin).await {
            Ok(figures) if figures.len() >= 10 => Ok(figures),
            other => Err(other),
        }
    })
    .await;

    // More often than a prepared statement is planned for its values.
    for _ in 0..8 {
        every_call(&world, &north).await?;
    }
    // A table that is read whole on purpose, so that it is known that this would be seen.
    sqlx::query("SELECT count(service) FROM shipments")
        .execute(world.pool())
        .await?;
    // The figures of a connection are written down for good when it ends.
    world.stop().await?;
    all_connections_have_ended(&mut admin).await;
    for (table, count) in &mut before {
        *count += i64::from(table == "shipments");
    }
    assert_eq!(scans(&mut admin).await?, before);
    Ok(())
}

async fn all_connections_have_ended(admin: &mut PgConnection) {
    eventually("end of all connections", SOON, async || {
        let others: Result<i64, _> = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .fetch_one(&mut *admin)
        .await;
        if let Ok(0) = others { Ok(()) } else { Err(others) }
    })
    .await;
}

/// Stock for many who wait is given in several steps; each reads of the queue what it serves, and not all that is left.
#[tokio::test]
async fn giving_stock_reads_no_more_of_the_queue_than_it_serves() -> anyhow::Result<()> {
    const LINES: i64 = 5_000;
    let world = World::start().await?;
    let database = Arc::clone(&world.database);
    let mut admin = database.admin().await;
    let north = world.location("North", 0).await?;
    let orders: Vec<Order> = (0..10)
        .map(|minute| {
            let lines = (0..LINES / 10).map(|_| line("TEE", 1)).collect();
            world.order(lines).placed_after(minute)
        })
        .collect();
    let placed: Vec<_> = orders.iter().map(Order::placed).collect();
    world.feed(&placed).await?;
    world.adjust(&[("TEE", &north, LINES)]).await?;
    world.jobs_are_done().await;
    assert_eq!(world.end().await?.reserved, LINES);
    all_connections_have_ended(&mut admin).await;
    let read: i64 = sqlx::query_scalar(
        "SELECT idx_tup_fetch FROM pg_stat_user_indexes
         WHERE schemaname = 'fulfillment' AND indexrelname = 'backorders_queue'",
    )
    .fetch_one(&mut admin)
    .await?;
    // Of each step one more than it serves; a step may have been taken twice.
    assert!((LINES..2 * LINES).contains(&read), "{read} rows of the queue");
    Ok(())
}

async fn every_call(world: &World, north: &str) -> anyhow::Result<()> {
    let (merchant_id, store_id) = (world.merchant.to_string(), world.store.to_string());
    let mut client = world.client.clone();
    let orders: Vec<Order> = (0..3)
        .map(|_| world.order(vec![line("TEE", 2), line("MUG", 1)]))
        .collect();
    world.take_in(&orders.iter().collect::<Vec<_>>()).await?;
    world.adjust(&[("TEE", north, 4), ("MUG", north, 3)]).await?;
    let shipment = world.ship(world.shipment_of(&orders[0])).await?;
    world
        .feed(&[orders[0].received(&[(0, 1, "restock")]), orders[1].cancelled(3)])
        .await?;
    world.fulfillment(OrderId::from(orders[2].id.uuid())).await?;

    let levels = proto::ListStockLevelsRequest {
        merchant_id: merchant_id.clone(),
        page_size: 20,
        skus: vec!["TEE".to_owned(), "sku place 50".to_owned()],
        ..proto::ListStockLevelsRequest::default()
    };
    client.list_stock_levels(levels.clone()).await?;
    client
        .list_stock_levels(proto::ListStockLevelsRequest {
            skus: Vec::new(),
            ..levels
        })
        .await?;
    client
        .list_locations(proto::ListLocationsRequest {
            merchant_id: merchant_id.clone(),
        })
        .await?;
    let list = proto::ListShipmentsRequest {
        merchant_id: merchant_id.clone(),
        store_id: store_id.clone(),
        page_size: 20,
        order_id: orders[0].id.to_string(),
        ..proto::ListShipmentsRequest::default()
    };
    assert_eq!(
        client
            .list_shipments(list.clone())
            .await?
            .into_inner()
            .shipments
            .len(),
        1
    );
    let all = proto::ListShipmentsRequest {
        order_id: String::new(),
        ..list
    };
    assert_eq!(client.list_shipments(all).await?.into_inner().shipments.len(), 20);
    let get = proto::GetShipmentRequest {
        merchant_id: merchant_id.clone(),
        store_id: store_id.clone(),
        shipment_id: shipment.shipment_id.clone(),
    };
    client.get_shipment(get).await?;
    let references = [
        proto::tracking_update::Shipment::ShipmentId(shipment.shipment_id),
        proto::tracking_update::Shipment::Tracking(proto::TrackingReference {
            carrier: "dhl".to_owned(),
            tracking_number: "place 100".to_owned(),
        }),
    ];
    let updates = references.map(|reference| proto::TrackingUpdate {
        shipment: Some(reference),
        status: proto::ShipmentStatus::Delivered.into(),
        source_event_id: world.request_id(),
        ..proto::TrackingUpdate::default()
    });
    let scans = proto::RecordTrackingRequest {
        merchant_id,
        store_id,
        updates: updates.to_vec(),
    };
    client.record_tracking(scans).await?;
    Ok(())
}
