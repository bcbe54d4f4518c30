//! A caller of the service: one store, and the orders it sends.

use std::collections::BTreeMap;

use tonic::{Code, Status};
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::r#type::v1 as common;
use waybill_rpc::fault;

use crate::harness::Client;

/// A store and a client of it.
#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) merchant: MerchantId,
    pub(crate) store: StoreId,
    pub(crate) client: Client,
}

impl Shop {
    /// A request to place an order.
    pub(crate) fn request(&self, request_id: &str, order: proto::NewOrder) -> proto::PlaceOrderRequest {
        proto::PlaceOrderRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            request_id: request_id.into(),
            order: Some(order),
        }
    }

    /// Places an order that must be taken.
    pub(crate) async fn place(&self, order: proto::NewOrder) -> proto::Order {
        let request_id =
            format!("place {}", order.source.as_ref().map_or("", |s| &s.external_id)).replace(' ', "-");
        // An order is a large value, and a test that places many is one future.
        Box::pin(self.try_place(&request_id, order))
            .await
            .expect("the order is taken")
    }

    /// Places an order.
    pub(crate) async fn try_place(
        &self,
        request_id: &str,
        order: proto::NewOrder,
    ) -> Result<proto::Order, Status> {
        let placed = self
            .client
            .clone()
            .place_order(self.request(request_id, order))
            .await?;
        Ok(placed.into_inner().order.expect("an answer has the order"))
    }

    /// Sends a batch.
    pub(crate) async fn batch(
        &self,
        orders: Vec<(String, proto::NewOrder)>,
    ) -> Result<Vec<proto::PlaceOrderOutcome>, Status> {
        let (merchant_id, store_id) = (self.merchant.to_string(), self.store.to_string());
        let messages = orders
            .into_iter()
            .map(move |(request_id, order)| proto::BatchPlaceOrdersRequest {
                merchant_id: merchant_id.clone(),
                store_id: store_id.clone(),
                request_id,
                order: Some(order),
            });
        let answer = self
            .client
            .clone()
            .batch_place_orders(tokio_stream::iter(messages))
            .await?;
        Ok(answer.into_inner().outcomes)
    }

    /// Reads an order.
    pub(crate) async fn get(&self, order_id: &str) -> Result<proto::Order, Status> {
        self.get_by(proto::get_order_request::Key::OrderId(order_id.into()))
            .await
    }

    /// Reads an order, however it is named.
    pub(crate) async fn get_by(&self, key: proto::get_order_request::Key) -> Result<proto::Order, Status> {
        let request = proto::GetOrderRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            key: Some(key),
        };
        let found = self.client.clone().get_order(request).await?;
        Ok(found.into_inner().order.expect("an answer has the order"))
    }

    /// Cancels an order.
    pub(crate) async fn cancel(
        &self,
        request_id: &str,
        order_id: &str,
        etag: &str,
    ) -> Result<proto::Order, Status> {
        let request = proto::CancelOrderRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            request_id: request_id.into(),
            order_id: order_id.into(),
            reason: "changed their mind".into(),
            etag: etag.into(),
        };
        let cancelled = self.client.clone().cancel_order(request).await?;
        Ok(cancelled.into_inner().order.expect("an answer has the order"))
    }

    /// A request to record a payment.
    pub(crate) fn payment(
        &self,
        request_id: &str,
        order_id: &str,
        kind: proto::PaymentKind,
        payment_id: &str,
        minor: i64,
    ) -> proto::RecordPaymentRequest {
        proto::RecordPaymentRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            request_id: request_id.into(),
            order_id: order_id.into(),
            kind: kind.into(),
            provider: "stripe".into(),
            provider_payment_id: payment_id.into(),
            amount: eur(minor),
            occurred_at: None,
            ..proto::RecordPaymentRequest::default()
        }
    }

    /// Records a capture.
    pub(crate) async fn capture(
        &self,
        order_id: &str,
        payment_id: &str,
        minor: i64,
    ) -> Result<proto::Order, Status> {
        let request = self.payment(
            &format!("capture-{payment_id}-{minor}"),
            order_id,
            proto::PaymentKind::Capture,
            payment_id,
            minor,
        );
        let recorded = self.client.clone().record_payment(request).await?;
        Ok(recorded.into_inner().order.expect("an answer has the order"))
    }

    /// The timeline of an order, as (service, short type, summary).
    pub(crate) async fn timeline(&self, order_id: &str) -> Vec<proto::TimelineEntry> {
        let request = proto::GetTimelineRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            order_id: order_id.into(),
        };
        let answer = self
            .client
            .clone()
            .get_timeline(request)
            .await
            .expect("the order has a timeline");
        answer.into_inner().entries
    }
}

/// An amount in euros.
#[expect(clippy::unnecessary_wraps, reason = "a field of a message is optional")]
pub(crate) fn eur(minor: i64) -> Option<common::Money> {
    Some(common::Money {
        currency_code: "EUR".into(),
        minor_units: minor,
    })
}

/// A line of 2 units at 5.00 EUR with 0.65 EUR of tax in it.
pub(crate) fn tea() -> proto::NewOrderLine {
    proto::NewOrderLine {
        sku: "TEA-1".into(),
        title: "Tea".into(),
        quantity: 2,
        unit_price: eur(500),
        category: "tea".into(),
        attributes: BTreeMap::from([
            ("size".into(), "100 g".into()),
            ("blend".into(), "evening".into()),
        ]),
        taxes: vec![proto::TaxLine {
            jurisdiction: "DE".into(),
            title: "USt".into(),
            rate_ppm: 70_000,
            amount: eur(65),
        }],
        ..proto::NewOrderLine::default()
    }
}

/// A sound order of 2 units of tea for 10.00 EUR, known by this external id.
pub(crate) fn order(external_id: &str) -> proto::NewOrder {
    proto::NewOrder {
        source: Some(proto::OrderSource {
            system: "api".into(),
            external_id: external_id.into(),
        }),
        currency_code: "EUR".into(),
        prices_include_tax: true,
        lines: vec![tea()],
        totals: Some(proto::OrderTotals {
            total: eur(1000),
            ..proto::OrderTotals::default()
        }),
        customer: Some(proto::Customer {
            email: "jo@example.org".into(),
            name: "Jo Doe".into(),
            ..proto::Customer::default()
        }),
        shipping_address: Some(common::Address {
            name: "Jo Doe".into(),
            lines: vec!["Long Street 1".into()],
            city: "Hamburg".into(),
            country_code: "DE".into(),
            ..common::Address::default()
        }),
        locale: "de-DE".into(),
        ..proto::NewOrder::default()
    }
}

/// Code and reason of a refusal.
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.expect_err("a refusal");
    let reason = fault::reason(&status).unwrap_or_else(|| panic!("no reason in {status:?}"));
    (status.code(), reason)
}

/// Fields that a refusal names.
pub(crate) fn bad_fields<T: std::fmt::Debug>(result: Result<T, Status>) -> Vec<String> {
    let status = result.expect_err("a refusal");
    fault::bad_fields(&status)
        .into_iter()
        .map(|(field, _)| field)
        .collect()
}
