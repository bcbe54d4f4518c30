//! A running stack with an open store, and the steps of an order through the public API.
//!
//! A step fails with what the service answered; what other services bring about is waited for by condition.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};
use waybill_cli::session::Session;
use waybill_cli::stack::{Options, Stack};
use waybill_kernel::hash;
use waybill_kernel::money::{Currency, Money};
use waybill_proto::waybill::fulfillment::v1::{
    AdjustStockRequest, CreateLocationRequest, CreateShipmentRequest, Shipment, StockAdjustment,
    stock_adjustment,
};
use waybill_proto::waybill::notification::v1::{
    Brand, ListNotificationsRequest, Notification, PutBrandRequest,
};
use waybill_proto::waybill::order::v1::{
    GetTimelineRequest, NewOrder, Order, PaymentKind, PlaceOrderRequest, RecordPaymentRequest, TimelineEntry,
};
use waybill_proto::waybill::refund::v1::{
    ListRefundsRequest, NewReturnLine, PublishPolicyRequest, ReceiveReturnRequest, Refund, RefundState,
    RefundTiming, RequestReturnRequest, Return, ReturnPolicy, ReturnReason, WindowStart,
};
use waybill_rpc::auth::Claims;

use crate::orders::{minor, money};
use crate::{patient, wait};

/// Longer than any test.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// Midnight of the year 2000: before every order of every test.
const LONG_AGO: prost_types::Timestamp = prost_types::Timestamp {
    seconds: 946_684_800,
    nanos: 0,
};

/// A running stack with an open store.
pub struct Shop {
    /// The stack.
    pub stack: Stack,
    /// Clients of its operator.
    pub session: Session,
    /// The one location of the merchant.
    pub location_id: String,
    http: reqwest::Client,
}

/// A policy that approves at once, keeps no fee, and pays back shipping when everything comes back.
#[must_use]
pub fn policy() -> ReturnPolicy {
    ReturnPolicy {
        valid_from: Some(LONG_AGO),
        window_days: 30,
        window_start: WindowStart::Delivery.into(),
        fault_reasons: vec![ReturnReason::Damaged.into()],
        refund_shipping_on_full_return: true,
        refund_timing: RefundTiming::OnReceipt.into(),
        auto_approve_up_to: ["GBP", "EUR", "USD"]
            .map(|code| money(code, 1_000_000_000))
            .to_vec(),
        arrival_days: 5,
        ..ReturnPolicy::default()
    }
}

impl Shop {
    /// Starts a stack and opens a store with a brand, a policy and a location.
    pub async fn open() -> anyhow::Result<Self> {
        Self::open_with(
            Options {
                demo: true,
                ..Options::default()
            },
            policy(),
        )
        .await
    }

    /// The same with other options and another policy.
    pub async fn open_with(options: Options, policy: ReturnPolicy) -> anyhow::Result<Self> {
        if std::env::var_os("WAYBILL_TEST_LOG").is_some() {
            waybill_runtime::telemetry::init_for_test();
        }
        let stack = Stack::start(options).await?;
        let session = stack.session()?;
        // The stack has set up the TLS library of the process by now, which this client asks for.
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(20))
            .build()?;
        let brand = PutBrandRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            brand: Some(Brand {
                name: "Harbour & Hearth".to_owned(),
                from_email: "orders@harbour.example".to_owned(),
                support_email: "help@harbour.example".to_owned(),
                support_phone: "+44 1947 555 0100".to_owned(),
                ..Brand::default()
            }),
        };
        let client = session.notifications()?;
        patient!("the brand could not be set", client.put_brand(brand)).await?;
        let publish = PublishPolicyRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            request_id: "policy".to_owned(),
            policy: Some(policy),
        };
        let client = session.refunds()?;
        patient!(
            "the policy could not be published",
            client.publish_policy(publish)
        )
        .await?;
        let location = CreateLocationRequest {
            merchant_id: session.merchant_id.clone(),
            request_id: "location".to_owned(),
            name: "Whitby".to_owned(),
            country_code: "GB".to_owned(),
            priority: 1,
        };
        let client = session.fulfillment()?;
        let opened = patient!(
            "the location could not be opened",
            client.create_location(location)
        )
        .await?;
        let location = opened.location;
        let location_id = location.context("an answer without a location")?.location_id;
        Ok(Self {
            stack,
            session,
            location_id,
            http,
        })
    }

    /// Stops everything and says whether it ended well.
    pub async fn close(self) -> anyhow::Result<()> {
        self.stack.stop().await
    }

    /// A token that the stack accepts.
    #[must_use]
    pub fn token(&self, claims: &Claims) -> SecretString {
        self.stack.issuer().mint(claims, TOKEN_LIFE)
    }

    /// Puts units on the shelf.
    pub async fn stock<S: AsRef<str>>(
        &self,
        units: impl IntoIterator<Item = (S, i64)>,
    ) -> anyhow::Result<()> {
        let adjustments: Vec<StockAdjustment> = units
            .into_iter()
            .map(|(sku, units)| StockAdjustment {
                sku: sku.as_ref().to_owned(),
                location_id: self.location_id.clone(),
                change: Some(stock_adjustment::Change::Delta(units)),
                safety_stock: None,
            })
            .collect();
        for (number, chunk) in adjustments.chunks(5000).enumerate() {
            let request = AdjustStockRequest {
                merchant_id: self.session.merchant_id.clone(),
                request_id: format!("stock-{number}-{}", chunk[0].sku),
                adjustments: chunk.to_vec(),
            };
            let client = self.session.fulfillment()?;
            patient!("the stock could not be entered", client.adjust_stock(request)).await?;
        }
        Ok(())
    }

    /// A request that places an order.
    #[must_use]
    pub fn place_request(&self, order: NewOrder) -> PlaceOrderRequest {
        let name = order
            .source
            .as_ref()
            .map(|source| source.external_id.clone())
            .unwrap_or_default();
        PlaceOrderRequest {
            merchant_id: self.session.merchant_id.clone(),
            store_id: self.session.store_id.clone(),
            request_id: format!("place-{name}"),
            order: Some(order),
        }
    }

    /// Places an order.
    pub async fn place(&self, order: NewOrder) -> anyhow::Result<Order> {
        let request = self.place_request(order);
        let client = self.session.orders()?;
        let answer = patient!("an order could not be placed", client.place_order(request)).await?;
        answer.order.context("an answer without an order")
    }

    /// Captures what an order costs: the provider has the money under `pi_<number>`, and the order service is told.
    pub async fn capture(&self, order: &Order) -> anyhow::Result<Order> {
        let total = order
            .totals
            .as_ref()
            .and_then(|totals| totals.total.clone())
            .context("an order without a total")?;
        let captured = Money::new(Currency::parse(&total.currency_code)?, total.minor_units);
        self.stack
            .payments()
            .register_payment(&payment_of(order), captured)?;
        let request = RecordPaymentRequest {
            merchant_id: self.session.merchant_id.clone(),
            store_id: self.session.store_id.clone(),
            request_id: format!("capture-{}", order.order_id),
            order_id: order.order_id.clone(),
            kind: PaymentKind::Capture.into(),
            provider: "stripe".to_owned(),
            provider_payment_id: payment_of(order),
            amount: Some(total),
            occurred_at: None,
            ..RecordPaymentRequest::default()
        };
        let client = self.session.orders()?;
        let answer = patient!("a payment could not be recorded", client.record_payment(request)).await?;
        answer.order.context("an answer without an order")
    }

    /// Hands everything of an order to a carrier.
    pub async fn ship(&self, order: &Order) -> anyhow::Result<Shipment> {
        let client = self.session.fulfillment()?;
        let request = CreateShipmentRequest {
            merchant_id: self.session.merchant_id.clone(),
            store_id: self.session.store_id.clone(),
            request_id: format!("ship-{}", order.order_id),
            order_id: order.order_id.clone(),
            carrier: "royal-mail".to_owned(),
            tracking_number: format!("RM{}", order.number),
            tracking_url: format!("https://carrier.example/track/RM{}", order.number),
            min_order_version: order.version,
            ..CreateShipmentRequest::default()
        };
        let answer = patient!("an order could not be shipped", client.create_shipment(request)).await?;
        answer.shipment.context("an answer without a shipment")
    }

    /// Tells the edge what AfterShip says about a shipment, signed as AfterShip does; again, as AfterShip does, while the
    /// edge says that it cannot take it now.
    pub async fn carrier_says(
        &self,
        shipment: &Shipment,
        tag: &str,
        event_id: &str,
    ) -> anyhow::Result<StatusCode> {
        let body = tracking_update(shipment, tag, event_id);
        let secret = self.stack.webhook_secrets().aftership.expose_secret();
        let signature = hash::hmac_sha256_bytes(secret.as_bytes(), &[body.as_bytes()]);
        let signature = BASE64_STANDARD.encode(signature);
        wait::until("the edge's word on a tracking update", || async {
            let status = self
                .webhook("aftership", "aftership-hmac-sha256", &signature, body.clone())
                .await?;
            Ok(Some(status).filter(|status| !status.is_server_error()))
        })
        .await
    }

    /// Delivers a webhook to the edge, with any signature.
    pub async fn webhook(
        &self,
        sender: &str,
        header: &str,
        signature: &str,
        body: String,
    ) -> anyhow::Result<StatusCode> {
        let context = self.stack.context();
        let url = format!(
            "{}/webhooks/{sender}/{}/{}",
            context.edge, context.merchant_id, context.store_id
        );
        let answer = self
            .http
            .post(url)
            .header(header, signature)
            .body(body)
            .send()
            .await?;
        Ok(answer.status())
    }

    /// Takes a shipment to the customer's door, stage by stage.
    pub async fn deliver(&self, shipment: &Shipment) -> anyhow::Result<()> {
        for tag in ["InTransit", "OutForDelivery", "Delivered"] {
            let status = self
                .carrier_says(shipment, tag, &format!("{}-{tag}", shipment.shipment_id))
                .await?;
            ensure!(status == StatusCode::OK, "the edge answered {status} to {tag}");
        }
        Ok(())
    }

    /// Asks for the return of units of lines, as soon as the refund service knows that they have arrived.
    pub async fn give_back(&self, order: &Order, lines: &[(&str, i32)]) -> anyhow::Result<Return> {
        let client = self.session.refunds()?;
        let skus: Vec<&str> = lines.iter().map(|(sku, _)| *sku).collect();
        let request = RequestReturnRequest {
            merchant_id: self.session.merchant_id.clone(),
            store_id: self.session.store_id.clone(),
            request_id: format!("return-{}-{}", order.order_id, skus.join("-")),
            order_id: order.order_id.clone(),
            lines: lines
                .iter()
                .map(|(sku, quantity)| {
                    let line = order.lines.iter().find(|line| line.sku == *sku);
                    Ok(NewReturnLine {
                        line_id: line.with_context(|| format!("no line of {sku}"))?.line_id.clone(),
                        quantity: *quantity,
                        reason: ReturnReason::Unwanted.into(),
                    })
                })
                .collect::<anyhow::Result<_>>()?,
            min_order_version: order.version,
        };
        let answer = patient!(
            "a return was refused",
            &["NOT_RETURNABLE"],
            client.request_return(request)
        )
        .await?;
        answer.r#return.context("an answer without a return")
    }

    /// Records that everything of a return is back.
    pub async fn receive(&self, returned: &Return) -> anyhow::Result<Return> {
        let request = ReceiveReturnRequest {
            merchant_id: self.session.merchant_id.clone(),
            store_id: self.session.store_id.clone(),
            request_id: format!("receive-{}", returned.return_id),
            return_id: returned.return_id.clone(),
            ..ReceiveReturnRequest::default()
        };
        let client = self.session.refunds()?;
        let answer = patient!("a return could not be received", client.receive_return(request)).await?;
        answer.r#return.context("an answer without a return")
    }

    /// All refunds of an order, newest first.
    pub async fn refunds(&self, order_id: &str) -> anyhow::Result<Vec<Refund>> {
        let request = ListRefundsRequest {
            merchant_id: self.session.merchant_id.clone(),
            store_id: self.session.store_id.clone(),
            order_id: order_id.to_owned(),
            ..ListRefundsRequest::default()
        };
        Ok(self
            .session
            .refunds()?
            .list_refunds(request)
            .await?
            .into_inner()
            .refunds)
    }

    /// Waits until the one refund of an order is in this state.
    pub async fn refund_in(&self, order_id: &str, state: RefundState) -> anyhow::Result<Refund> {
        wait::until(&format!("a refund that is {}", state.as_str_name()), || async {
            let refunds = self.refunds(order_id).await?;
            ensure!(refunds.len() <= 1, "the order has {} refunds", refunds.len());
            Ok(refunds.into_iter().find(|refund| refund.state() == state))
        })
        .await
    }

    /// Waits until an order is as it should be.
    pub async fn reached(
        &self,
        order_id: &str,
        what: &str,
        holds: impl Fn(&Order) -> bool,
    ) -> anyhow::Result<Order> {
        wait::until(what, || async {
            Ok(Some(self.session.order(order_id).await?).filter(|order| holds(order)))
        })
        .await
    }

    /// What happened to an order, as counts of the types of facts.
    pub async fn facts(&self, order_id: &str) -> anyhow::Result<BTreeMap<String, usize>> {
        let mut counts = BTreeMap::new();
        for entry in self.timeline(order_id).await? {
            *counts.entry(entry.r#type).or_default() += 1;
        }
        Ok(counts)
    }

    /// The timeline of an order.
    pub async fn timeline(&self, order_id: &str) -> anyhow::Result<Vec<TimelineEntry>> {
        let request = GetTimelineRequest {
            merchant_id: self.session.merchant_id.clone(),
            store_id: self.session.store_id.clone(),
            order_id: order_id.to_owned(),
        };
        Ok(self
            .session
            .orders()?
            .get_timeline(request)
            .await?
            .into_inner()
            .entries)
    }

    /// What the notification service decided about messages of an order.
    pub async fn notifications(&self, order_id: &str) -> anyhow::Result<Vec<Notification>> {
        let request = ListNotificationsRequest {
            merchant_id: self.session.merchant_id.clone(),
            store_id: self.session.store_id.clone(),
            page_size: 500,
            order_id: order_id.to_owned(),
            ..ListNotificationsRequest::default()
        };
        Ok(self
            .session
            .notifications()?
            .list_notifications(request)
            .await?
            .into_inner()
            .notifications)
    }

    /// What the provider paid back of an order, refund by refund.
    #[must_use]
    pub fn paid_back(&self, order: &Order) -> Vec<i64> {
        let ledger = self.stack.payments().ledger();
        let of_order = ledger
            .iter()
            .filter(|entry| entry.payment_intent == payment_of(order));
        of_order
            .filter(|entry| entry.is_paid())
            .map(|entry| entry.amount)
            .collect()
    }
}

/// The provider's id of an order's payment.
#[must_use]
pub fn payment_of(order: &Order) -> String {
    format!("pi_{}", order.number)
}

/// What an order costs.
#[must_use]
pub fn total_of(order: &Order) -> i64 {
    order
        .totals
        .as_ref()
        .map_or(0, |totals| minor(totals.total.as_ref()))
}

/// The body of a tracking update of AfterShip.
#[must_use]
pub fn tracking_update(shipment: &Shipment, tag: &str, event_id: &str) -> String {
    serde_json::json!({
        "event": "tracking_update",
        "event_id": event_id,
        "msg": {
            "tracking_number": shipment.tracking_number,
            "slug": shipment.carrier,
            "tag": tag,
            "checkpoints": [],
        },
    })
    .to_string()
}
