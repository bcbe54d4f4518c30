//! One order, from its placement to the end that its plan gives it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use waybill_kernel::money::{Currency, Money};
use waybill_kernel::time::{Clock as _, SystemClock};
use waybill_proto::waybill::fulfillment::v1::{
    AllocationStatus, CreateShipmentRequest, GetOrderFulfillmentRequest, RecordTrackingRequest, Shipment,
    ShipmentStatus, TrackingResult, TrackingUpdate, tracking_update,
};
use waybill_proto::waybill::order::v1::{
    CancelOrderRequest, GetOrderRequest, Order, OrderStatus, PaymentKind, PlaceOrderRequest,
    RecordPaymentRequest, get_order_request,
};

use super::Field;
use super::calls::{Caller, ask};
use super::goods::{self, Draft, Plan};
use super::shop::Shop;
use crate::session::Session;

/// An order that reached its end, as its caller was told.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its id at the source.
    pub external_id: String,
    /// Its id.
    pub order_id: String,
    /// What became of it.
    pub plan: Plan,
    /// What it cost.
    pub total: i64,
    /// What was captured.
    pub captured: i64,
    /// What went back.
    pub refunded: i64,
}

impl Ended {
    /// Its payment at the provider.
    #[must_use]
    pub fn payment(&self) -> String {
        format!("pi_{}", self.external_id)
    }

    /// Where its customer gets mail.
    #[must_use]
    pub fn email(&self) -> String {
        goods::email(&self.external_id)
    }
}

/// A part of an order's life. Every order passes them in this order; what its plan does not hold is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is placed.
    Place,
    /// It is paid.
    Pay,
    /// It is shipped, or cancelled.
    Ship,
    /// Its parcel is scanned on the way, out for delivery, and at the door.
    Deliver,
    /// Goods come back, and money goes back.
    Return,
}

impl Stage {
    /// All of them.
    pub const ALL: [Stage; 5] = [
        Stage::Place,
        Stage::Pay,
        Stage::Ship,
        Stage::Deliver,
        Stage::Return,
    ];

    /// Its name, lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Place => "place",
            Stage::Pay => "pay",
            Stage::Ship => "ship",
            Stage::Deliver => "deliver",
            Stage::Return => "return",
        }
    }
}

/// An order on its way.
pub struct Journey {
    field: Arc<dyn Field>,
    shop: Arc<Shop>,
    pub(super) draft: Draft,
    scans: AtomicU32,
    /// As it was last answered, once it is placed.
    order: Option<Order>,
    shipment: Option<Shipment>,
    refunded: i64,
}

impl Journey {
    /// The life of this order; nothing has happened yet.
    pub fn new(field: Arc<dyn Field>, shop: Arc<Shop>, draft: Draft) -> Self {
        Self {
            field,
            shop,
            draft,
            scans: AtomicU32::new(0),
            order: None,
            shipment: None,
            refunded: 0,
        }
    }

    /// Takes the order to its end.
    pub async fn run(mut self) -> anyhow::Result<Ended> {
        for stage in Stage::ALL {
            self.step(stage).await?;
        }
        self.end().await
    }

    /// Takes the order through its next stage.
    pub async fn step(&mut self, stage: Stage) -> anyhow::Result<()> {
        let (name, plan) = (self.draft.order.number.clone(), self.draft.plan);
        Box::pin(self.walk(stage))
            .await
            .with_context(|| format!("order {name} ({plan:?})"))
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.shop.caller
    }

    pub(super) fn session(&self) -> &Session {
        &self.caller().session
    }

    pub(super) fn tenant(&self) -> (String, String) {
        (
            self.session().merchant_id.clone(),
            self.session().store_id.clone(),
        )
    }

    pub(super) fn request_id(&self, step: &str) -> String {
        format!("{step}-{}", self.draft.order.number)
    }

    async fn walk(&mut self, stage: Stage) -> anyhow::Result<()> {
        let plan = self.draft.plan;
        match stage {
            Stage::Place => self.order = Some(self.place().await?),
            Stage::Pay if plan == Plan::CancelUnpaid => {}
            Stage::Pay => self.order = Some(self.capture(self.order()?).await?),
            Stage::Ship if plan.is_cancelled() => {
                let id = &self.order()?.order_id;
                self.cancel(id).await?;
                self.shop.asked();
                if plan == Plan::CancelPaid {
                    self.refunded = self.refunds(id, 1).await?;
                }
            }
            Stage::Ship => self.shipment = Some(self.ship(self.order()?).await?),
            Stage::Deliver => {
                for status in [
                    ShipmentStatus::InTransit,
                    ShipmentStatus::OutForDelivery,
                    ShipmentStatus::Delivered,
                ] {
                    if let Some(shipment) = &self.shipment {
                        self.track(shipment, status).await?;
                    }
                }
            }
            Stage::Return if plan.is_cancelled() => {}
            Stage::Return => {
                let order = self.order()?;
                // All is asked for before anything is waited for.
                for part in 0..plan.refunds() - plan.returns() {
                    self.pay_back(order, part).await?;
                }
                let return_id = if plan.returns() > 0 {
                    Some(self.send_back(order).await?)
                } else {
                    None
                };
                self.shop.asked();
                if let Some(return_id) = return_id {
                    self.returned(&return_id).await?;
                }
                if plan.refunds() > 0 {
                    self.refunded = self.refunds(&order.order_id, plan.refunds()).await?;
                }
            }
        }
        Ok(())
    }

    fn order(&self) -> anyhow::Result<&Order> {
        self.order.as_ref().context("it is not placed yet")
    }

    /// Waits until the order service knows its end, after all stages.
    pub async fn end(&self) -> anyhow::Result<Ended> {
        let (name, plan) = (&self.draft.order.number, self.draft.plan);
        Box::pin(self.ended())
            .await
            .with_context(|| format!("order {name} ({plan:?})"))
    }

    async fn ended(&self) -> anyhow::Result<Ended> {
        let plan = self.draft.plan;
        let end = if plan.is_cancelled() {
            OrderStatus::Cancelled
        } else {
            OrderStatus::Completed
        };
        let order = self.reached(&self.order()?.order_id, end, self.refunded).await?;
        let minor = |money: Option<&waybill_proto::waybill::r#type::v1::Money>| {
            money.map_or(0, |money| money.minor_units)
        };
        Ok(Ended {
            external_id: self.draft.order.number.clone(),
            plan,
            total: order
                .totals
                .as_ref()
                .map_or(0, |totals| minor(totals.total.as_ref())),
            captured: minor(order.captured.as_ref()),
            refunded: self.refunded,
            order_id: order.order_id,
        })
    }

    async fn place(&self) -> anyhow::Result<Order> {
        let (merchant_id, store_id) = self.tenant();
        let request = PlaceOrderRequest {
            merchant_id,
            store_id,
            request_id: self.request_id("place"),
            order: Some(self.draft.order.clone()),
        };
        let (one, two) = ask!(
            self,
            "placing",
            &[],
            self.session().orders(),
            place_order,
            request
        );
        let order = one.order.context("no order was answered")?;
        if let Some(two) = two.and_then(|two| two.order) {
            ensure!(
                two.order_id == order.order_id,
                "one request made two orders: {} and {}",
                order.order_id,
                two.order_id
            );
        }
        let lines = order
            .lines
            .iter()
            .map(|line| (line.sku.as_str(), i64::from(line.quantity)));
        self.shop.placed(lines);
        Ok(order)
    }

    async fn capture(&self, order: &Order) -> anyhow::Result<Order> {
        let total = order
            .totals
            .as_ref()
            .and_then(|totals| totals.total.clone())
            .context("an order without a total")?;
        let payment = format!("pi_{}", order.number);
        let captured = Money::new(Currency::parse(&total.currency_code)?, total.minor_units);
        self.field.payments().register_payment(&payment, captured)?;
        let (merchant_id, store_id) = self.tenant();
        let request = RecordPaymentRequest {
            merchant_id,
            store_id,
            request_id: self.request_id("capture"),
            order_id: order.order_id.clone(),
            kind: PaymentKind::Capture.into(),
            provider: "stripe".to_owned(),
            provider_payment_id: payment,
            amount: Some(total),
            occurred_at: None,
            ..RecordPaymentRequest::default()
        };
        let (one, _) = ask!(
            self,
            "paying",
            &[],
            self.session().orders(),
            record_payment,
            request
        );
        one.order.context("no order was answered")
    }

    async fn cancel(&self, order_id: &str) -> anyhow::Result<()> {
        let (merchant_id, store_id) = self.tenant();
        let request = CancelOrderRequest {
            merchant_id,
            store_id,
            request_id: self.request_id("cancel"),
            order_id: order_id.to_owned(),
            reason: "ordered twice".to_owned(),
            etag: String::new(),
        };
        ask!(
            self,
            "cancelling",
            &[],
            self.session().orders(),
            cancel_order,
            request
        );
        Ok(())
    }

    async fn ship(&self, order: &Order) -> anyhow::Result<Shipment> {
        let (merchant_id, store_id) = self.tenant();
        let client = self.session().fulfillment()?;
        let request = GetOrderFulfillmentRequest {
            merchant_id: merchant_id.clone(),
            store_id: store_id.clone(),
            order_id: order.order_id.clone(),
            min_order_version: order.version,
        };
        self.caller()
            .until(|| async {
                let found = self
                    .caller()
                    .call("looking for its stock", &[], || {
                        let (mut client, request) = (client.clone(), request.clone());
                        async move { client.get_order_fulfillment(request).await }
                    })
                    .await?;
                Ok(found
                    .fulfillment
                    .filter(|found| found.status() == AllocationStatus::Allocated && found.payment_cleared))
            })
            .await?;
        let request = CreateShipmentRequest {
            merchant_id,
            store_id,
            request_id: self.request_id("ship"),
            order_id: order.order_id.clone(),
            carrier: "royal-mail".to_owned(),
            tracking_number: format!("RM{}", order.number),
            min_order_version: order.version,
            ..CreateShipmentRequest::default()
        };
        let (one, two) = ask!(
            self,
            "shipping",
            &[],
            self.session().fulfillment(),
            create_shipment,
            request
        );
        let shipment = one.shipment.context("no shipment was answered")?;
        if let Some(two) = two.and_then(|two| two.shipment) {
            ensure!(
                two.shipment_id == shipment.shipment_id,
                "one request made two shipments"
            );
        }
        Ok(shipment)
    }

    async fn track(&self, shipment: &Shipment, status: ShipmentStatus) -> anyhow::Result<()> {
        let (merchant_id, store_id) = self.tenant();
        // The carrier's clock, which does not jump. Some time ago: a service whose clock is behind takes what lies ahead for
        // now, and then the next scan for late.
        let step = i64::from(self.scans.fetch_add(1, Ordering::Relaxed));
        let seen = SystemClock.now() - TimeDelta::hours(3) + TimeDelta::seconds(step);
        let request = RecordTrackingRequest {
            merchant_id,
            store_id,
            updates: vec![TrackingUpdate {
                shipment: Some(tracking_update::Shipment::ShipmentId(
                    shipment.shipment_id.clone(),
                )),
                status: status.into(),
                occurred_at: Some(prost_types::Timestamp {
                    seconds: seen.timestamp(),
                    nanos: 0,
                }),
                source_event_id: format!("{}-{}", shipment.shipment_id, status.as_str_name()),
                ..TrackingUpdate::default()
            }],
        };
        let (one, _) = ask!(
            self,
            "tracking",
            &[],
            self.session().fulfillment(),
            record_tracking,
            request
        );
        let result = one.outcomes.first().map(|outcome| outcome.result());
        ensure!(
            matches!(result, Some(TrackingResult::Advanced | TrackingResult::Duplicate)),
            "the scan {status:?} ended as {result:?}"
        );
        Ok(())
    }

    /// Waits until the order has this end and knows what went back.
    async fn reached(&self, order_id: &str, status: OrderStatus, refunded: i64) -> anyhow::Result<Order> {
        let (merchant_id, store_id) = self.tenant();
        let client = self.session().orders()?;
        let request = GetOrderRequest {
            merchant_id,
            store_id,
            key: Some(get_order_request::Key::OrderId(order_id.to_owned())),
        };
        self.caller()
            .until(|| async {
                let order = self
                    .caller()
                    .call("reading it", &[], || {
                        let (mut client, request) = (client.clone(), request.clone());
                        async move { client.get_order(request).await }
                    })
                    .await?
                    .order;
                Ok(order.filter(|order| {
                    let back = order.refunded.as_ref().map_or(0, |money| money.minor_units);
                    order.status() == status && back == refunded
                }))
            })
            .await
    }
}
