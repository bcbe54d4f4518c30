//! Random histories by the real use cases and the real fold, made again from log and timeline; and tables that were tampered
//! with.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use waybill_kernel::id::{MerchantId, RefundId, ReturnId, StoreId};
use waybill_kernel::money::{Currency, Money};
use waybill_proto::waybill::refund::v1 as refund;
use waybill_store::RequestKey;

use super::*;
use crate::app::{Cancel, CancelUnits, NewDetails, NewHold, NewPayment, NewRelease};
use crate::consumers::tests::{Shop, delivered, event, shipped, shop};
use crate::domain::change::{Path, Update};
use crate::domain::fact::Fact;
use crate::domain::hold::HoldReason;
use crate::domain::order::Order;
use crate::domain::payment::PaymentKind;
use crate::domain::picture::Picture;
use crate::domain::trail::{Condition, FaultKind};
use crate::events::{About, Told};
use crate::store::change;

#[derive(Debug, Clone)]
enum Op {
    Pay(PaymentKind, i64),
    Hold,
    Release,
    Cancel,
    CancelUnit,
    Tag(u8),
    Ship(i32),
    Deliver(i32),
    Return(bool),
    Refunded(i64),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (proptest::sample::select(PaymentKind::ALL.to_vec()), proptest::sample::select(vec![1_i64, 500, 1000]))
            .prop_map(|(kind, amount)| Op::Pay(kind, amount)),
        2 => Just(Op::Hold),
        2 => Just(Op::Release),
        1 => Just(Op::Cancel),
        2 => Just(Op::CancelUnit),
        1 => any::<u8>().prop_map(Op::Tag),
        3 => (1..3_i32).prop_map(Op::Ship),
        3 => (1..3_i32).prop_map(Op::Deliver),
        1 => any::<bool>().prop_map(Op::Return),
        1 => (0..900_i64).prop_map(Op::Refunded),
    ]
}

impl Shop {
    fn key(&self, n: usize) -> RequestKey {
        RequestKey {
            merchant: self.tenant.merchant,
            caller: "ops".into(),
            rpc: "test.history",
            request_id: format!("step-{n}"),
            hash: [0; 32],
        }
    }

    /// Does something to an order; a refusal is fine.
    async fn attempt(&self, order: &Order, n: usize, op: &Op) {
        let (orders, tenant, id) = (&self.orders, self.tenant, order.id);
        let key = self.key(n);
        let etag = String::new();
        let done = match op {
            Op::Pay(kind, minor) => {
                let new = NewPayment {
                    tenant,
                    order: Some(id),
                    kind: *kind,
                    provider: "stripe".into(),
                    provider_payment_id: format!("pi-{n}"),
                    amount: Money::new(Currency::EUR, *minor),
                    occurred_at: None,
                    reason: String::new(),
                    dispute_id: if kind.is_dispute() {
                        "dp".into()
                    } else {
                        String::new()
                    },
                };
                orders.record(&key, &new).await.map(drop)
            }
            Op::Hold => {
                let new = NewHold {
                    tenant,
                    order: id,
                    reason: HoldReason::Fraud,
                    note: "looked odd".into(),
                    etag,
                };
                orders.hold(&key, &new).await.map(drop)
            }
            Op::Release => {
                let new = NewRelease {
                    tenant,
                    order: id,
                    hold: None,
                    note: String::new(),
                    etag,
                };
                orders.release(&key, &new).await.map(drop)
            }
            Op::Cancel => {
                let reason = "changed their mind".into();
                let cancel = Cancel {
                    tenant,
                    order: id,
                    reason,
                    etag,
                };
                orders.cancel(&key, &cancel).await.map(drop)
            }
            Op::CancelUnit => {
                let cancel = CancelUnits {
                    tenant,
                    order: id,
                    lines: vec![(order.terms.lines[0].id, 1)],
                    reason: "sold out".into(),
                    restock: n.is_multiple_of(2),
                    etag,
                };
                orders.cancel_lines(&key, &cancel).await.map(drop)
            }
            Op::Tag(tag) => {
                let update = Update {
                    tags: vec![format!("tag {tag}")],
                    paths: BTreeSet::from([Path::Tags]),
                    ..Update::default()
                };
                let new = NewDetails {
                    tenant,
                    order: id,
                    update,
                    etag,
                };
                orders.update(&key, &new).await.map(drop)
            }
            told => {
                let event = self.told(order, told);
                self.apply(&[event], true).await.expect("a fact can be applied");
                Ok(())
            }
        };
        if let Err(Error::Store(error)) = done {
            panic!("{op:?}: {error}");
        }
    }

    fn told(&self, order: &Order, op: &Op) -> Event {
        let order_id = order.id.to_string();
        match op {
            Op::Ship(units) => shipped(order, *units),
            Op::Deliver(units) => delivered(order, *units),
            Op::Return(true) => {
                let requested = refund::ReturnRequested {
                    order_id,
                    return_id: ReturnId::generate().to_string(),
                    ..refund::ReturnRequested::default()
                };
                event(order, "refund", &requested)
            }
            Op::Return(false) => {
                let completed = refund::ReturnCompleted {
                    order_id,
                    return_id: ReturnId::generate().to_string(),
                };
                event(order, "refund", &completed)
            }
            Op::Refunded(sum) => {
                let succeeded = refund::RefundSucceeded {
                    order_id,
                    refund_id: RefundId::generate().to_string(),
                    currency_code: "EUR".into(),
                    amount_minor: *sum,
                    order_refunded_minor: *sum,
                    ..refund::RefundSucceeded::default()
                };
                event(order, "refund", &succeeded)
            }
            other => panic!("{other:?} is not told"),
        }
    }

    async fn stored(&self, order: OrderId) -> Picture {
        let history = history::load(&self.orders.db, self.tenant, order).await;
        history.expect("it can be read").expect("it exists").picture
    }

    async fn rebuilt(&self, order: OrderId, moment: Moment) -> Rebuilt {
        let rebuilt = self.orders.rebuild(self.tenant, order, moment).await;
        rebuilt.expect("it can be rebuilt")
    }

    async fn is_whole(&self, order: OrderId) {
        let verdict = self
            .orders
            .verify(self.tenant, order, None)
            .await
            .expect("it exists");
        assert_eq!(verdict.condition, Condition::Whole, "{:?}", verdict.faults);
    }

    async fn sql(&self, statement: &'static str) {
        sqlx::query(statement)
            .execute(self.orders.db.pool())
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

/// O-30, O-32: after every step of random histories the order is, made again from its events, what the tables say, and the
/// chain is whole; in the end it is made again as it was at each version.
#[tokio::test]
async fn an_order_is_made_again_as_it_was_at_every_version() {
    let mut shop = shop().await;
    let mut runner = TestRunner::deterministic();
    let histories = proptest::collection::vec(any_op(), 4..16);
    for _ in 0..24 {
        shop.tenant = Tenant {
            merchant: MerchantId::generate(),
            store: StoreId::generate(),
        };
        let ops = histories.new_tree(&mut runner).expect("a history").current();
        let order = shop.place().await;
        let mut seen = BTreeMap::from([(1, shop.stored(order.id).await)]);
        for (n, op) in ops.iter().enumerate() {
            shop.attempt(&order, n, op).await;
            let stored = shop.stored(order.id).await;
            let rebuilt = shop.rebuilt(order.id, Moment::Now).await;
            assert_eq!(rebuilt.replayed.unapplied, [], "{ops:?} after {n}");
            assert_eq!(rebuilt.differences, [], "{ops:?} after {n}");
            seen.entry(stored.state.version).or_insert(stored);
        }
        shop.is_whole(order.id).await;
        for (version, stored) in seen {
            let rebuilt = shop.rebuilt(order.id, Moment::Version(version)).await;
            let rebuilt = rebuilt.replayed.order.expect("it was placed");
            assert_eq!(differences(&rebuilt, &stored), [], "{ops:?} at version {version}");
        }
    }
}

/// O-32: whatever is changed in the tables by hand shows, with the field and both values.
#[tokio::test]
async fn a_table_that_was_tampered_with_differs() {
    let shop = shop().await;
    let order = shop.place().await;
    let ops = [
        Op::Pay(PaymentKind::Capture, 500),
        Op::Hold,
        Op::Ship(1),
        Op::Return(true),
        Op::CancelUnit,
    ];
    for (n, op) in ops.iter().enumerate() {
        shop.attempt(&order, n, op).await;
    }
    assert_eq!(shop.rebuilt(order.id, Moment::Now).await.differences, []);
    let line = order.terms.lines[0].id;
    let cases = [
        (
            "UPDATE orders SET refunded_minor = 7",
            "refunded".to_owned(),
            "0",
            "7",
        ),
        (
            "UPDATE orders SET payment_status = 'VOIDED'",
            "payment_status".to_owned(),
            "PAID",
            "VOIDED",
        ),
        (
            "UPDATE order_lines SET units_delivered = 1",
            format!("lines[{line}].delivered"),
            "0",
            "1",
        ),
        (
            "UPDATE order_lines SET units_cancelled = 2",
            format!("lines[{line}].cancelled"),
            "1",
            "2",
        ),
        (
            "UPDATE order_returns SET stage = 'COMPLETED'",
            "].stage".to_owned(),
            "REQUESTED",
            "COMPLETED",
        ),
        (
            "UPDATE order_payments SET amount_minor = 499",
            "].amount".to_owned(),
            "500",
            "499",
        ),
        ("DELETE FROM order_holds", "].reason".to_owned(), "fraud", ""),
        (
            "UPDATE order_cancellations SET restock = NOT restock",
            "].restock".to_owned(),
            "true",
            "false",
        ),
        // The guard counts the version up, which shows too.
        (
            "UPDATE orders SET voided_minor = 0",
            "version".to_owned(),
            "4",
            "5",
        ),
    ];
    for (statement, field, rebuilt, stored) in cases {
        shop.sql(statement).await;
        let found = shop.rebuilt(order.id, Moment::Now).await.differences;
        let named = |d: &Difference| d.field.ends_with(&field) && d.rebuilt == rebuilt && d.stored == stored;
        assert!(found.iter().any(named), "{statement}: {found:?}");
    }
}

/// An own event of a type that this version does not know is named; what follows it is applied all the same.
#[tokio::test]
async fn an_event_of_a_later_version_is_named() {
    let shop = shop().await;
    let order = shop.place().await;
    let mut tx = shop.orders.db.begin().await.expect("a transaction");
    let locked = change::lock(tx.conn(), shop.tenant, order.id)
        .await
        .expect("it can be locked");
    let mut state = locked.expect("it exists").state;
    state.touch(shop.orders.clock.now());
    let about = About {
        tenant: shop.tenant,
        order: order.id,
        version: state.version,
        at: state.updated_at,
    };
    let edited = refund::ReturnCompleted::default();
    let fact = Fact::Other {
        name: "OrderEdited".into(),
    };
    let told = Told::new(about, &edited, &fact, None);
    let event = told.event.id();
    change::save(tx.conn(), shop.tenant, order.id, &state, None, &[told.entry])
        .await
        .expect("it is saved");
    shop.orders
        .log
        .append(&mut tx, &[told.event])
        .await
        .expect("it is told");
    tx.commit().await.expect("it is committed");
    shop.attempt(&order, 1, &Op::Pay(PaymentKind::Capture, 500)).await;

    let rebuilt = shop.rebuilt(order.id, Moment::Now).await;
    let unapplied = &rebuilt.replayed.unapplied;
    assert_eq!((unapplied.len(), unapplied[0].event), (1, event));
    assert!(
        unapplied[0]
            .reason
            .contains("does not know what a ReturnCompleted does"),
        "{unapplied:?}"
    );
    assert_eq!(rebuilt.differences, [], "that event changed nothing");
}

/// An order of before: its events are found by its rows' own transactions, its chain begins with the next entry, and what a
/// process of an older version adds afterwards stays outside and is told.
#[tokio::test]
async fn an_order_of_before_is_taken_into_a_chain() {
    let shop = shop().await;
    // What a version that knows no chain writes.
    for statement in [
        "CREATE FUNCTION as_before() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN NEW.sequence := NULL; NEW.hash := NULL; NEW.log_xid := NULL; RETURN NEW; END $$",
        "CREATE FUNCTION unknown() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE TRIGGER before BEFORE INSERT ON order_timeline FOR EACH ROW EXECUTE FUNCTION as_before()",
        "CREATE TRIGGER before BEFORE INSERT ON order_trails FOR EACH ROW EXECUTE FUNCTION unknown()",
    ] {
        shop.sql(statement).await;
    }
    let order = shop.place().await;
    shop.sql("DROP TRIGGER before ON order_timeline").await;
    shop.sql("DROP TRIGGER before ON order_trails").await;
    let verdict = shop
        .orders
        .verify(shop.tenant, order.id, None)
        .await
        .expect("it exists");
    assert_eq!((verdict.condition, verdict.entries), (Condition::NotBegun, 1));
    let check = async |version| {
        let rebuilt = shop.rebuilt(order.id, Moment::Now).await;
        assert_eq!(rebuilt.replayed.unapplied, []);
        assert_eq!(rebuilt.differences, []);
        assert_eq!(
            rebuilt.replayed.order.map(|order| order.state.version),
            Some(version)
        );
    };
    check(1).await;

    shop.attempt(&order, 1, &Op::Pay(PaymentKind::Capture, 500)).await;
    shop.is_whole(order.id).await;
    check(2).await;
    shop.attempt(&order, 2, &Op::Ship(1)).await;
    shop.is_whole(order.id).await;

    shop.sql(
        "CREATE TRIGGER before BEFORE INSERT ON order_timeline FOR EACH ROW EXECUTE FUNCTION as_before()",
    )
    .await;
    shop.sql(
        "INSERT INTO order_timeline (order_id, event_id, merchant_id, store_id, service, type, summary, occurred_at, trace_id)
         SELECT order_id, gen_random_uuid(), merchant_id, store_id, 'order', 'a.B', 'x', now(), '' FROM orders",
    )
    .await;
    let verdict = shop
        .orders
        .verify(shop.tenant, order.id, None)
        .await
        .expect("it exists");
    let kinds: Vec<FaultKind> = verdict.faults.iter().map(|fault| fault.kind).collect();
    assert_eq!(
        (verdict.condition, kinds),
        (Condition::Broken, vec![FaultKind::Unchained])
    );
}

/// The same for the fold: the first thing that is heard of an order of before begins its chain.
#[tokio::test]
async fn a_fact_begins_the_chain_of_an_order_of_before() {
    let shop = shop().await;
    let order = shop.place().await;
    shop.sql("UPDATE order_timeline SET sequence = NULL, hash = NULL")
        .await;
    shop.sql("DELETE FROM order_trails").await;
    shop.apply(&[shipped(&order, 1), shipped(&order, 1)], true)
        .await
        .expect("they can be applied");
    shop.is_whole(order.id).await;
    let verdict = shop
        .orders
        .verify(shop.tenant, order.id, None)
        .await
        .expect("it exists");
    assert_eq!((verdict.entries, verdict.end.sequence), (3, 3));
}
