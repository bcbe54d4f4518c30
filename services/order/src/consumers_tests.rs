//! The fold against a real database: facets, timeline, completion, facts told twice.

use std::sync::Arc;

use prost::{Message, Name};
use waybill_events::{Log, Position};
use waybill_kernel::id::{EventId, MerchantId, ShipmentId, StoreId};
use waybill_kernel::partition::partition_of;
use waybill_kernel::time::SystemClock;
use waybill_store::{Db, RequestKey, Tx};
use waybill_testkit::{Auth, TestDb, common_config, database};

use super::*;
use crate::app::{Candidate, Customers, Intake, Numbers, Orders, Outcome, Watch};
use crate::config::Placing;
use crate::domain::draft::{ClaimedTotals, Draft, DraftLine};
use crate::domain::goods::FulfillmentStatus;
use crate::domain::order::{Address, Contact, Order, Source};
use crate::domain::state::Status;
use crate::store::read::{Key, find};

pub(crate) struct Shop {
    pub(crate) orders: Orders,
    fold: OrderFold,
    pub(crate) tenant: Tenant,
    pub(crate) db: TestDb,
}

pub(crate) async fn shop() -> Shop {
    let test_db = database(&["order"]).await;
    let common = common_config(&test_db.url("order"), "nats://127.0.0.1:1", &Auth::new(), &[]);
    let db = Db::connect(&common.database, "order")
        .await
        .expect("the database is there");
    waybill_store::migrate::migrate(&db, &[&waybill_events::MIGRATOR, &crate::MIGRATOR])
        .await
        .expect("the migrations run");
    let log = Log::open(&db);
    let numbers = Numbers::new(&db, 2);
    let orders = Orders {
        intake: Intake::new(&db, &log, &numbers, Placing::default()),
        numbers,
        lookups: crate::app::Lookups::new(&db),
        watch: Watch::new(&db, 1),
        exports: crate::app::Exports::new(1),
        imports: crate::app::Imports::new(1),
        log,
        clock: SystemClock::shared(),
        handling_days: 2,
        draft_keep: std::time::Duration::from_secs(90 * 24 * 3600),
        customers: Customers::new("0123456789abcdef".to_owned().into()),
        rules: Arc::default(),
        capture: Arc::default(),
        db,
    };
    let fold = OrderFold {
        clock: SystemClock::shared(),
        capture: Arc::default(),
    };
    let tenant = Tenant {
        merchant: MerchantId::generate(),
        store: StoreId::generate(),
    };
    Shop {
        orders,
        fold,
        tenant,
        db: test_db,
    }
}

impl Shop {
    /// An order of two units for 10.00 EUR.
    pub(crate) async fn place(&self) -> Order {
        self.place_as("1").await
    }

    /// The same under another external id.
    pub(crate) async fn place_as(&self, external_id: &str) -> Order {
        let eur = |minor| Money::new(Currency::EUR, minor);
        let draft = Draft {
            source: Source {
                system: "api".into(),
                external_id: external_id.into(),
            },
            number: String::new(),
            placed_at: None,
            currency: Currency::EUR,
            prices_include_tax: true,
            lines: vec![DraftLine {
                sku: "TEA-1".into(),
                title: "Tea".into(),
                quantity: 2,
                unit_price: eur(500),
                category: String::new(),
                final_sale: false,
                digital: false,
                attributes: BTreeMap::new(),
                discounts: Vec::new(),
                taxes: Vec::new(),
            }],
            shipping: Vec::new(),
            discounts: Vec::new(),
            totals: ClaimedTotals {
                total: Some(eur(1000)),
                ..ClaimedTotals::default()
            },
            contact: Contact {
                shipping: Some(Address {
                    country_code: "DE".into(),
                    ..Address::default()
                }),
                ..Contact::default()
            },
            locale: String::new(),
            promised_ship_at: None,
            promised_delivery_at: None,
            presentment: None,
            presentment_totals: None,
            attributes: BTreeMap::new(),
            tags: Vec::new(),
        };
        let key = RequestKey {
            merchant: self.tenant.merchant,
            caller: "test".into(),
            rpc: "test",
            request_id: external_id.into(),
            hash: [0; 32],
        };
        let candidate: Candidate = self
            .orders
            .candidate(key, self.tenant, draft)
            .expect("it is sound");
        let (candidate, outcome) = self.orders.intake.place(candidate).await.expect("it is placed");
        match outcome {
            Outcome::Placed(assigned) => candidate.placed(assigned),
            other => panic!("expected a placement, got {other:?}"),
        }
    }

    async fn read(&self, order: &Order) -> Order {
        let found = find(self.orders.db.pool(), self.tenant, &Key::Id(order.id)).await;
        found.expect("it can be read").expect("it exists").order
    }

    /// Applies events as a batch of the backbone does, but for the cursors.
    pub(crate) async fn apply(&self, events: &[Event], react: bool) -> Result<(), FoldError> {
        let mut tx: Tx = self.orders.db.begin().await?;
        self.fold.project(&mut Projection::new(tx.conn()), events).await?;
        if react {
            let mut reaction = Reaction::new(&mut tx);
            self.fold.react(&mut reaction, events).await?;
            reaction.write(&self.orders.log).await?;
        }
        Ok(tx.commit().await?)
    }
}

pub(crate) fn event<M: Message + Name>(order: &Order, source: &str, message: &M) -> Event {
    Event {
        position: Position {
            generation: 1,
            xid: 1,
            position: 1,
        },
        prev: Position::ZERO,
        event_id: EventId::generate(),
        source: Arc::from(source),
        type_name: M::full_name(),
        merchant: order.tenant.merchant,
        store: Some(order.tenant.store),
        key: order.id.uuid(),
        vpartition: partition_of(order.id.uuid()),
        aggregate: order.id.uuid(),
        version: 1,
        payload: message.encode_to_vec().into(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        occurred_at: DateTime::UNIX_EPOCH,
        origin: waybill_store::Origin::default(),
    }
}

fn quantity(order: &Order, quantity: i32) -> Vec<fulfillment::LineQuantity> {
    let line = &order.terms.lines[0];
    vec![fulfillment::LineQuantity {
        line_id: line.id.to_string(),
        sku: line.sku.clone(),
        quantity,
    }]
}

pub(crate) fn shipped(order: &Order, units: i32) -> Event {
    let message = fulfillment::ShipmentShipped {
        order_id: order.id.to_string(),
        shipment_id: ShipmentId::generate().to_string(),
        lines: quantity(order, units),
        ..fulfillment::ShipmentShipped::default()
    };
    event(order, "fulfillment", &message)
}

pub(crate) fn delivered(order: &Order, units: i32) -> Event {
    let message = fulfillment::ShipmentDelivered {
        order_id: order.id.to_string(),
        shipment_id: ShipmentId::generate().to_string(),
        lines: quantity(order, units),
        ..fulfillment::ShipmentDelivered::default()
    };
    event(order, "fulfillment", &message)
}

/// O-12: the same events once more, alone or among new ones, change nothing; the new ones count.
#[tokio::test]
async fn an_event_counts_once_even_without_cursors() {
    let shop = shop().await;
    let order = shop.place().await;
    let first = shipped(&order, 1);
    for _ in 0..3 {
        shop.apply(std::slice::from_ref(&first), true)
            .await
            .expect("it can be applied");
        assert_eq!(shop.read(&order).await.state.goods.shipped, 1);
    }
    shop.apply(&[first, shipped(&order, 1)], true)
        .await
        .expect("they can be applied");
    assert_eq!(
        shop.read(&order).await.state.fulfillment_status(),
        FulfillmentStatus::Fulfilled
    );
    let entries = shop
        .orders
        .timeline(shop.tenant, order.id)
        .await
        .expect("it has a timeline");
    assert_eq!(entries.len(), 3, "placed and two parcels");
    assert_eq!(entries[0].trace_id, "0af7651916cd43dd8448eb211c80319c");
}

/// Rebuilding runs `project` alone: the facets come back, and nothing is told or decided again.
#[tokio::test]
async fn only_react_completes_an_order() {
    let shop = shop().await;
    let order = shop.place().await;
    let mut client = shop.orders.db.pool().acquire().await.expect("a connection");
    sqlx::query("UPDATE orders SET status = status, captured_minor = 1000, payment_status = 'PAID'")
        .execute(&mut *client)
        .await
        .expect("the guard lets it pass");
    drop(client);
    let events = [shipped(&order, 2), delivered(&order, 2)];
    shop.apply(&events, false).await.expect("they can be applied");
    let state = shop.read(&order).await.state;
    assert_eq!(
        (state.status, state.fulfillment_status()),
        (Status::Open, FulfillmentStatus::Delivered)
    );
    assert_eq!(state.version, 2);
    for _ in 0..2 {
        shop.apply(&events, true).await.expect("they can be applied");
        let state = shop.read(&order).await.state;
        assert_eq!(
            (state.status, state.version),
            (Status::Completed, 3),
            "completed once"
        );
    }
}

/// A type of a later version stands on the timeline in words, and waits for no order.
#[tokio::test]
async fn an_event_of_an_unknown_type_is_noted() {
    let shop = shop().await;
    let order = shop.place().await;
    let mut new = shipped(&order, 1);
    new.type_name = "waybill.fulfillment.v1.ShipmentRerouted".into();
    let mut elsewhere = new.clone();
    (elsewhere.event_id, elsewhere.key) = (EventId::generate(), EventId::generate().uuid());
    assert!(!shop.fold.needs_opening(&new) && shop.fold.handles(&new));
    shop.apply(&[new, elsewhere], true)
        .await
        .expect("they can be applied");
    let entries = shop
        .orders
        .timeline(shop.tenant, order.id)
        .await
        .expect("it has a timeline");
    let summaries: Vec<&str> = entries.iter().map(|entry| entry.summary.as_str()).collect();
    assert!(summaries.contains(&"Shipment rerouted"), "{summaries:?}");
    assert_eq!(shop.read(&order).await.state.goods.shipped, 0);
}

/// What is malformed is the event's fault, and says which.
#[tokio::test]
async fn malformed_events_are_poison() {
    let shop = shop().await;
    let order = shop.place().await;
    let bad_id = fulfillment::ShipmentShipped {
        shipment_id: "7".into(),
        ..fulfillment::ShipmentShipped::default()
    };
    let bad_currency = refund::RefundCreated {
        refund_id: ShipmentId::generate().to_string(),
        currency_code: "EURO".into(),
        ..refund::RefundCreated::default()
    };
    let cases = [
        (
            event(&order, "fulfillment", &bad_id),
            "ShipmentShipped",
            "shipment_id \"7\" is no id",
        ),
        (
            event(&order, "refund", &bad_currency),
            "RefundCreated",
            "unknown currency \"EURO\"",
        ),
    ];
    for (event, name, fault) in cases {
        match shop.apply(&[event], true).await {
            Err(FoldError::Poison(reason)) => {
                assert!(reason.contains(name) && reason.contains(fault), "{reason}");
            }
            other => panic!("expected poison, got {other:?}"),
        }
    }
}
