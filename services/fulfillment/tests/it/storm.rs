//! Everything at once: orders, deliveries, cancellations, shipments, returns and scans of a few skus, in many
//! transactions that all want the same rows. Nobody may be oversold, nothing may be lost, and nobody may have to be
//! killed because two waited for each other.

use std::sync::Arc;

use tonic::{Response, Status};
use waybill_proto::waybill::fulfillment::v1 as proto;

use crate::support::{Order, World, line, refusal};

/// Repeatable chance (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((bits >> 33) % u64::from(limit)).unwrap_or_default()
    }
}

const SKUS: [&str; 4] = ["TEE", "MUG", "CAP", "SCARF"];
const WORKERS: u32 = 8;
const ROUNDS: u32 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_leaves_the_books_in_order() -> anyhow::Result<()> {
    let world = World::start().await?;
    let locations = [
        world.location("North", 0).await?,
        world.location("South", 1).await?,
    ];
    let worlds = Arc::new((world, locations));
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| {
            let worlds = Arc::clone(&worlds);
            tokio::spawn(async move { work(&worlds.0, &worlds.1, number).await })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    let (world, _) = Arc::into_inner(worlds).expect("all workers have ended");
    world.jobs_are_done().await;
    let deadlocks: i64 =
        sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            .fetch_one(world.pool())
            .await?;
    assert_eq!(deadlocks, 0, "locks are taken in one order");
    let books = world.end().await?;
    assert!(
        books.shipped > 0 && books.reserved > 0,
        "the storm did something: {books:?}"
    );
    Ok(())
}

async fn work(world: &World, locations: &[String; 2], seed: u32) -> anyhow::Result<()> {
    let mut dice = Dice(u64::from(seed));
    let mut shipped: Vec<(Order, proto::Shipment)> = Vec::new();
    for _ in 0..ROUNDS {
        let orders: Vec<Order> = (0..4)
            .map(|_| {
                let lines = (0..1 + dice.below(3))
                    .map(|_| {
                        line(
                            SKUS[dice.below(4) as usize],
                            1 + i32::try_from(dice.below(4)).unwrap_or(0),
                        )
                    })
                    .collect();
                world.order(lines).placed_after(i64::from(dice.below(1_000)))
            })
            .collect();
        world.take_in(&orders.iter().collect::<Vec<_>>()).await?;

        let deltas: Vec<(&str, &str, i64)> = SKUS
            .iter()
            .rev()
            .skip(dice.below(3) as usize)
            .map(|sku| {
                (
                    *sku,
                    locations[dice.below(2) as usize].as_str(),
                    i64::from(dice.below(6)),
                )
            })
            .collect();
        let (client, request) = (world.client.clone(), world.adjustment(&deltas));
        patiently(|| {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.adjust_stock(request).await }
        })
        .await?;

        world.feed(&[orders[0].cancelled(3)]).await?;
        for order in &orders[..3] {
            let (client, request) = (world.client.clone(), world.shipment_of(order));
            let call = || {
                let (mut client, request) = (client.clone(), request.clone());
                async move { client.create_shipment(request).await }
            };
            match patiently(call).await {
                Ok(answer) => shipped.push((order.clone(), answer.shipment.unwrap_or_default())),
                Err(status) => {
                    let reason = refusal(&status).1;
                    assert!(
                        ["NOT_ALLOCATED", "ORDER_CANCELLED"].contains(&reason.as_str()),
                        "{status}"
                    );
                }
            }
        }
        scan_and_return(world, &mut shipped, &mut dice).await?;
    }
    Ok(())
}

/// As callers do: again when others were faster.
async fn patiently<T, F>(mut call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    loop {
        match call().await {
            Err(status) if refusal(&status).1 == "CONFLICT" => {}
            decided => return decided.map(Response::into_inner),
        }
    }
}

async fn scan_and_return(
    world: &World,
    shipped: &mut Vec<(Order, proto::Shipment)>,
    dice: &mut Dice,
) -> anyhow::Result<()> {
    let updates: Vec<proto::TrackingUpdate> = shipped
        .iter()
        .map(|(_, shipment)| proto::TrackingUpdate {
            shipment: Some(proto::tracking_update::Shipment::ShipmentId(
                shipment.shipment_id.clone(),
            )),
            status: i32::try_from(1 + dice.below(10)).unwrap_or(1),
            ..proto::TrackingUpdate::default()
        })
        .collect();
    if !updates.is_empty() {
        let request = proto::RecordTrackingRequest {
            merchant_id: world.merchant.to_string(),
            store_id: world.store.to_string(),
            updates,
        };
        let client = world.client.clone();
        patiently(|| {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.record_tracking(request).await }
        })
        .await?;
    }
    if dice.below(3) == 0 && !shipped.is_empty() {
        let (order, _) = shipped.swap_remove(dice.below(u32::try_from(shipped.len())?) as usize);
        world
            .feed(&[order.received(&[(0, order.lines[0].quantity, "restock")])])
            .await?;
    }
    Ok(())
}
