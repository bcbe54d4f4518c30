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
use waybill_refund::app::apply_word::{About, ApplyWord};
use waybill_refund::app::create_refund::CreateRefund;
use waybill_refund::consumers::RefundFold;
use waybill_refund::domain::book::Tenant;
use waybill_refund::domain::compose::Ask;
use waybill_refund::domain::policy::{Policy, RefundTiming, ReturnReason, WindowStart};
use waybill_refund::domain::refund::{Refund, RefundState};
use waybill_refund::domain::settle::Outcome;
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
            ..DatabaseConfig::default()
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
                ..DatabaseConfig::default()
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
            origin: waybill_store::Origin::default(),
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
            ..order::PaymentRecorded::default()
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

    /// An order of three units, and a refund of two of them.
    pub async fn one(&self) -> Result<(Placed, Refund)> {
        let order = self.delivered(&[(3, 1_000, &[190])], &[], &[]).await?;
        let refund = self.refund_units(&order, 0, 2).await?;
        Ok((order, refund))
    }

    /// What the edge hands in when a provider calls.
    pub fn webhook(&self, refund: &Refund, id: &str, outcome: Outcome) -> ApplyWord<'_> {
        let leg_id = Some(only_leg(refund));
        let about = About::Told {
            tenant: self.tenant,
            provider: "sandbox".to_owned(),
            leg_id,
        };
        ApplyWord {
            core: &self.core,
            about,
            provider_refund_id: id.to_owned(),
            outcome,
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

pub fn failed() -> Outcome {
    Outcome::Failed {
        reason: "declined".to_owned(),
    }
}

/// The leg of a refund that has only one.
pub fn only_leg(refund: &Refund) -> LegId {
    assert_eq!(refund.legs.len(), 1);
    refund.legs[0].leg_id
}
