//! What the tests stand on: a database of their own, a payment sandbox with a ledger, and orders that came in through the
//! service's own fold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;
use waybill_events::{Event, Fold as _, Log, Position, Projection, Reaction};
use waybill_kernel::id::{
    EventId, LegId, LineId, MerchantId, OrderId, PaymentId, RefundId, ShipmentId, StoreId,
};
use waybill_kernel::money::{Currency, Money};
use waybill_kernel::partition::partition_of;
use waybill_kernel::time::{self, FakeClock, SystemClock};
use waybill_payments::Providers;
use waybill_payments::sandbox::{Sandbox, SandboxOptions};
use waybill_payments::stripe::{StripeConfig, StripeProvider};
use waybill_proto::waybill::fulfillment::v1 as fulfillment;
use waybill_proto::waybill::order::v1 as order;
use waybill_refund::app::Core;
use waybill_refund::app::create_refund::CreateRefund;
use waybill_refund::consumers::RefundFold;
use waybill_refund::domain::book::Tenant;
use waybill_refund::domain::compose::Ask;
use waybill_refund::domain::policy::{Policy, RefundTiming, ReturnReason, WindowStart};
use waybill_refund::domain::refund::{Refund, RefundState};
use waybill_refund::error::Error;
use waybill_refund::workers::{Cashier, Patience, Progress, Trouble};
use waybill_refund::{App, Config, Deps, store};
use waybill_rpc::convert::to_timestamp;
use waybill_runtime::service::DatabaseConfig;
use waybill_store::Db;
use waybill_testkit::{Auth, TestDb, common_config, database};

/// How long a call may take in these tests: the adapter gives up first, so that its time-out is the provider's silence.
const CALL: Duration = Duration::from_millis(400);

pub struct Bench {
    pub db: Db,
    pub log: Log,
    pub core: Core,
    pub cashier: Cashier,
    pub sandbox: Sandbox,
    pub tenant: Tenant,
    pub clock: time::Shared,
    pub test_db: TestDb,
    pub providers: Providers,
}

/// An order as the tests know it.
#[derive(Debug, Clone)]
pub struct Placed {
    pub order_id: OrderId,
    pub lines: Vec<LineId>,
    pub payments: Vec<(PaymentId, String)>,
    pub total: i64,
}

/// A line to be placed: quantity, net and taxes.
pub type Goods = (i32, i64, &'static [i64]);

pub const PATIENCE: Patience = Patience {
    look_after: Duration::from_millis(50),
    poll: Duration::from_millis(50),
    quiet: Duration::from_secs(600),
};

impl Bench {
    pub async fn start() -> Result<Self> {
        Self::with_clock(SystemClock::shared()).await
    }

    /// A bench whose service and sandbox live by a clock that the test moves.
    pub async fn with_fake_clock() -> Result<(Self, FakeClock)> {
        let clock = FakeClock::new(SystemClock::shared().now());
        Ok((Self::with_clock(clock.shared()).await?, clock))
    }

    async fn with_clock(clock: time::Shared) -> Result<Self> {
        let test_db = database(&["refund"]).await;
        let auth = Auth::new();
        let peers = [
            ("order", "http://127.0.0.1:1"),
            ("fulfillment", "http://127.0.0.1:1"),
        ];
        let common = common_config(&test_db.url("refund"), "nats://127.0.0.1:1", &auth, &peers);
        let deps = Deps {
            clock: clock.clone(),
            providers: Providers::new(),
        };
        // Building the service migrates its schema; nothing of it runs.
        App::build(
            Config {
                common,
                ..Config::default()
            },
            deps,
        )
        .await?;

        let sandbox = Sandbox::start(SandboxOptions {
            clock: clock.clone(),
            ..SandboxOptions::default()
        })
        .await?;
        let provider = StripeProvider::new(StripeConfig {
            call_timeout: CALL,
            ..sandbox.config()
        })?;
        let providers = Providers::new().with(provider);
        let config = DatabaseConfig {
            url: test_db.url("refund").as_str().into(),
            max_connections: 20,
        };
        let db = Db::connect(&config, "refund").await?;
        let log = Log::open(&db);
        let core = Core::new(clock.clone(), log.clone(), &providers);
        let cashier = Cashier::new(db.clone(), core.clone(), providers.clone(), PATIENCE);
        let tenant = Tenant {
            merchant: MerchantId::generate(),
            store: StoreId::generate(),
        };
        Ok(Self {
            db,
            log,
            core,
            cashier,
            sandbox,
            tenant,
            clock,
            test_db,
            providers,
        })
    }

    /// A cashier who pays through another adapter.
    pub fn cashier_with(&self, providers: Providers) -> Cashier {
        Cashier::new(self.db.clone(), self.core.clone(), providers, PATIENCE)
    }

    /// A cashier whose database is reached over another address.
    pub async fn cashier_over(&self, url: &str) -> Result<Cashier> {
        let db = Db::connect(
            &DatabaseConfig {
                url: url.into(),
                max_connections: 2,
            },
            "refund",
        )
        .await?;
        Ok(Cashier::new(
            db,
            self.core.clone(),
            self.providers.clone(),
            PATIENCE,
        ))
    }

    /// Applies events as the backbone does: both halves of the fold in one transaction.
    pub async fn fold(&self, events: &[Event]) -> Result<()> {
        let fold = RefundFold::new(self.clock.clone());
        let mut tx = self.db.begin().await?;
        fold.project(&mut Projection::new(tx.conn()), events).await?;
        let mut reaction = Reaction::new(&mut tx);
        fold.react(&mut reaction, events).await?;
        reaction.write(&self.log).await?;
        tx.commit().await?;
        Ok(())
    }

    pub fn event<M: prost::Message + prost::Name>(
        &self,
        source: &str,
        order_id: OrderId,
        version: i64,
        message: &M,
    ) -> Event {
        Event {
            position: Position {
                generation: 1,
                xid: 1,
                position: version,
            },
            prev: Position::ZERO,
            event_id: EventId::generate(),
            source: Arc::from(source),
            type_name: M::full_name(),
            merchant: self.tenant.merchant,
            store: Some(self.tenant.store),
            key: order_id.uuid(),
            vpartition: partition_of(order_id.uuid()),
            aggregate: order_id.uuid(),
            version,
            payload: message.encode_to_vec().into(),
            traceparent: None,
            occurred_at: self.clock.now(),
        }
    }

    /// An order with these goods and shipping, placed ten days ago.
    pub fn placed(&self, goods: &[Goods], shipping: &[(i64, i64)]) -> (Placed, Event) {
        let order_id = OrderId::generate();
        let tax = |amount| order::PlacedTax {
            jurisdiction: "DE".to_owned(),
            title: "VAT".to_owned(),
            rate_ppm: 190_000,
            amount_minor: amount,
        };
        let lines: Vec<order::PlacedLine> = goods
            .iter()
            .map(|(quantity, net, taxes)| order::PlacedLine {
                line_id: LineId::generate().to_string(),
                sku: "MUG".to_owned(),
                quantity: *quantity,
                unit_price_minor: net / i64::from(*quantity),
                net_minor: *net,
                taxes: taxes.iter().copied().map(tax).collect(),
                category: "kitchen".to_owned(),
                final_sale: false,
                digital: false,
            })
            .collect();
        let shipping_lines: Vec<order::PlacedShipping> = shipping
            .iter()
            .map(|(net, amount)| order::PlacedShipping {
                line_id: LineId::generate().to_string(),
                net_minor: *net,
                taxes: vec![tax(*amount)],
            })
            .collect();
        let total = goods
            .iter()
            .map(|(_, net, taxes)| net + taxes.iter().sum::<i64>())
            .sum::<i64>()
            + shipping.iter().map(|(net, tax)| net + tax).sum::<i64>();
        let message = order::OrderPlaced {
            order_id: order_id.to_string(),
            currency_code: "EUR".to_owned(),
            lines: lines.clone(),
            shipping_lines,
            total_minor: total,
            placed_at: Some(to_timestamp(self.clock.now() - TimeDelta::days(10))),
            ship_country: "DE".to_owned(),
            ..order::OrderPlaced::default()
        };
        let placed = Placed {
            order_id,
            lines: lines
                .iter()
                .filter_map(|line| line.line_id.parse().ok())
                .collect(),
            payments: Vec::new(),
            total,
        };
        let event = self.event("order", order_id, 1, &message);
        (placed, event)
    }

    /// A capture over this provider, known to the sandbox.
    pub fn capture(&self, placed: &mut Placed, provider: &str, amount: i64) -> Result<Event> {
        let payment_id = PaymentId::generate();
        let provider_payment_id = format!("pi_{}", payment_id.uuid().simple());
        self.sandbox
            .register_payment(&provider_payment_id, Money::new(euro(), amount))?;
        let at = to_timestamp(self.clock.now() + TimeDelta::seconds(placed.payments.len() as i64));
        placed.payments.push((payment_id, provider_payment_id.clone()));
        let message = order::PaymentRecorded {
            order_id: placed.order_id.to_string(),
            payment_id: payment_id.to_string(),
            kind: "capture".to_owned(),
            provider: provider.to_owned(),
            provider_payment_id,
            currency_code: "EUR".to_owned(),
            amount_minor: amount,
            occurred_at: Some(at),
            captured_minor: amount,
        };
        Ok(self.event(
            "order",
            placed.order_id,
            1 + placed.payments.len() as i64,
            &message,
        ))
    }

    /// An order that was placed, paid over the sandbox in these parts (the last pays the rest), shipped and delivered.
    pub async fn delivered(&self, goods: &[Goods], shipping: &[(i64, i64)], parts: &[i64]) -> Result<Placed> {
        let (mut placed, event) = self.placed(goods, shipping);
        let mut events = vec![event];
        let mut left = placed.total;
        for part in parts {
            left -= part;
            events.push(self.capture(&mut placed, "sandbox", *part)?);
        }
        if left > 0 {
            events.push(self.capture(&mut placed, "sandbox", left)?);
        }
        let lines: Vec<_> = placed
            .lines
            .iter()
            .zip(goods)
            .map(|(line, goods)| (*line, goods.0))
            .collect();
        events.extend(self.shipment(placed.order_id, &lines, self.clock.now() - TimeDelta::days(3)));
        self.fold(&events).await?;
        Ok(placed)
    }

    /// A shipment that left and arrived.
    pub fn shipment(&self, order_id: OrderId, lines: &[(LineId, i32)], at: DateTime<Utc>) -> Vec<Event> {
        let shipment_id = ShipmentId::generate().to_string();
        let lines: Vec<fulfillment::LineQuantity> = lines
            .iter()
            .map(|(line, quantity)| fulfillment::LineQuantity {
                line_id: line.to_string(),
                sku: "MUG".to_owned(),
                quantity: *quantity,
            })
            .collect();
        let shipped = fulfillment::ShipmentShipped {
            order_id: order_id.to_string(),
            shipment_id: shipment_id.clone(),
            lines: lines.clone(),
            shipped_at: Some(to_timestamp(at - TimeDelta::days(2))),
            ..fulfillment::ShipmentShipped::default()
        };
        let delivered = fulfillment::ShipmentDelivered {
            order_id: order_id.to_string(),
            shipment_id,
            lines,
            delivered_at: Some(to_timestamp(at)),
            ..fulfillment::ShipmentDelivered::default()
        };
        vec![
            self.event("fulfillment", order_id, 1, &shipped),
            self.event("fulfillment", order_id, 2, &delivered),
        ]
    }

    pub fn ask(&self, order: &Placed, ask: Ask) -> CreateRefund<'_> {
        CreateRefund {
            core: &self.core,
            tenant: self.tenant,
            order_id: order.order_id,
            goodwill: (ask.goodwill > 0).then(|| Money::new(euro(), ask.goodwill)),
            ask,
            reason: "a test".to_owned(),
            min_order_version: 0,
            caller: "clerk".to_owned(),
        }
    }

    /// Creates a refund of units of a line.
    pub async fn refund_units(&self, order: &Placed, line: usize, quantity: i32) -> Result<Refund, Error> {
        let lines = vec![(order.lines[line], quantity)];
        self.db
            .run(&self.ask(
                order,
                Ask {
                    lines,
                    ..Ask::default()
                },
            ))
            .await
    }

    /// Has the cashier carry a leg's present attempt as far as it goes.
    pub async fn submit(&self, refund: &Refund, leg: usize) -> Result<Progress, Trouble> {
        let leg = &refund.legs[leg];
        self.cashier.submit(leg.leg_id, leg.attempt, soon()).await
    }

    pub async fn get(&self, refund_id: RefundId) -> Result<Refund> {
        let mut conn = self.db.pool().acquire().await?;
        store::refunds::get(&mut conn, self.tenant, refund_id)
            .await?
            .context("the refund is there")
    }

    pub async fn state(&self, refund: &Refund) -> Result<RefundState> {
        Ok(self.get(refund.refund_id).await?.state)
    }

    pub async fn conn(&self) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>> {
        Ok(self.db.pool().acquire().await?)
    }

    /// Short names of the events of an order, in the order of the log.
    pub async fn told(&self, order_id: OrderId) -> Result<Vec<String>> {
        let types: Vec<String> = sqlx::query_scalar(
            "SELECT type FROM event_log WHERE partition_key = $1 ORDER BY generation, xid, position",
        )
        .bind(order_id.uuid())
        .fetch_all(self.db.pool())
        .await?;
        Ok(types
            .into_iter()
            .map(|name| name.rsplit('.').next().unwrap_or_default().to_owned())
            .collect())
    }

    /// The payloads of all events of a type about an order.
    pub async fn heard<M: prost::Message + prost::Name + Default>(
        &self,
        order_id: OrderId,
    ) -> Result<Vec<M>> {
        let payloads: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT payload FROM event_log WHERE partition_key = $1 AND type = $2 ORDER BY generation, xid, position",
        )
        .bind(order_id.uuid())
        .bind(M::full_name())
        .fetch_all(self.db.pool())
        .await?;
        Ok(payloads
            .iter()
            .map(|payload| M::decode(payload.as_slice()))
            .collect::<Result<_, _>>()?)
    }

    /// The sums of the accounts of one order.
    pub async fn accounts(&self, order_id: OrderId) -> Result<BTreeMap<String, i64>> {
        let sums: Vec<(String, i64)> = sqlx::query_as(
            "SELECT account, sum(amount)::bigint FROM journal_lines JOIN journal_entries USING (entry_id)
             WHERE order_id = $1 GROUP BY account",
        )
        .bind(order_id.uuid())
        .fetch_all(self.db.pool())
        .await?;
        Ok(sums.into_iter().collect())
    }

    /// Checks that tables, books, events and the provider's ledger tell the same story about an order.
    pub async fn audit(&self, order: &Placed) -> Result<()> {
        let mut conn = self.conn().await?;
        let loaded = store::book::read(&mut conn, self.tenant, order.order_id)
            .await?
            .context("the order is there")?;
        let book = loaded.book;
        let filter = store::refunds::Filter {
            order_id: Some(order.order_id),
            state: None,
        };
        let refunds = store::refunds::list(&mut conn, self.tenant, filter, None, 1000).await?;
        let legs: Vec<_> = refunds.iter().flat_map(|refund| &refund.legs).collect();
        let sum = |state: fn(RefundState) -> bool| {
            legs.iter()
                .filter(|leg| state(leg.state))
                .map(|leg| leg.amount)
                .sum::<i64>()
        };
        let succeeded = sum(|state| state == RefundState::Succeeded);
        assert_eq!(
            book.balance.succeeded, succeeded,
            "the order's sum of what succeeded"
        );
        assert_eq!(
            book.balance.in_flight,
            sum(RefundState::in_flight),
            "the order's sum of what is in flight"
        );
        assert!(
            book.balance.captured >= book.balance.succeeded + book.balance.in_flight,
            "R-1"
        );
        for (index, (payment_id, name)) in order.payments.iter().enumerate() {
            let payment = book
                .payments
                .iter()
                .find(|known| known.payment_id == *payment_id)
                .context("a payment")?;
            let of: Vec<_> = legs.iter().filter(|leg| leg.payment_id == *payment_id).collect();
            let paid: i64 = of
                .iter()
                .filter(|leg| leg.state == RefundState::Succeeded)
                .map(|leg| leg.amount)
                .sum();
            assert_eq!(payment.balance.succeeded, paid, "payment {index}");
            assert!(
                payment.balance.captured >= payment.balance.succeeded + payment.balance.in_flight,
                "R-1"
            );
            if of.iter().all(|leg| !leg.state.in_flight()) && payment.provider == "sandbox" {
                assert_eq!(
                    self.sandbox.paid_out(name),
                    paid,
                    "what the provider paid of payment {index}"
                );
            }
        }
        let accounts = self.accounts(order.order_id).await?;
        let owed: i64 = refunds
            .iter()
            .filter(|refund| refund.holds)
            .map(|refund| refund.amount)
            .sum();
        assert_eq!(
            accounts.get("refunds_payable").copied().unwrap_or_default(),
            succeeded - owed,
            "what is owed"
        );
        let cleared: i64 = accounts
            .iter()
            .filter(|(name, _)| name.starts_with("clearing:"))
            .map(|(_, sum)| sum)
            .sum();
        assert_eq!(cleared, book.balance.captured - succeeded, "what providers hold");
        assert_eq!(accounts.values().sum::<i64>(), 0, "R-5");
        Ok(())
    }

    pub async fn publish(&self, policy: Policy) -> Result<Policy> {
        let case = waybill_refund::app::publish_policy::PublishPolicy {
            core: &self.core,
            tenant: self.tenant,
            policy,
            caller: "owner".to_owned(),
        };
        Ok(self.db.run(&case).await?)
    }
}

/// Thirty days from delivery, ten per cent kept, faults are the merchant's, paid on receipt, everything approved at once.
pub fn policy() -> Policy {
    Policy {
        version: 0,
        valid_from: DateTime::<Utc>::UNIX_EPOCH,
        window_days: 30,
        window_start: WindowStart::Delivery,
        excluded_categories: BTreeSet::new(),
        excluded_skus: BTreeSet::new(),
        final_sale_returnable: false,
        restocking_fee_ppm: 100_000,
        fault_reasons: BTreeSet::from([ReturnReason::Damaged]),
        refund_shipping_on_full_return: true,
        refund_timing: RefundTiming::OnReceipt,
        auto_approve_up_to: BTreeMap::from([("EUR".to_owned(), 1_000_000)]),
        second_approval_above: BTreeMap::new(),
        arrival_days: 5,
    }
}

pub fn euro() -> Currency {
    Currency::EUR
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// Runs SQL as the service's own role does, and tells the name of the constraint that refused it.
pub async fn refused(conn: &mut PgConnection, sql: &'static str, ids: &[Uuid]) -> Option<String> {
    let query = ids.iter().fold(sqlx::query(sql), |query, id| query.bind(*id));
    match query.execute(conn).await {
        Ok(_) => None,
        Err(error) => {
            let database = error.as_database_error();
            Some(
                database
                    .and_then(|e| e.constraint())
                    .map_or_else(|| error.to_string(), str::to_owned),
            )
        }
    }
}

/// The leg of a refund that has only one.
pub fn only_leg(refund: &Refund) -> LegId {
    assert_eq!(refund.legs.len(), 1);
    refund.legs[0].leg_id
}
