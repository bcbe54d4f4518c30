//! The shop that orders are placed in, through the public API: brand, policy, a location, and a shelf that is filled a
//! little behind demand, so that orders wait for stock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::sleep;
use waybill_proto::waybill::fulfillment::v1::{
    AdjustStockRequest, CreateLocationRequest, StockAdjustment, stock_adjustment,
};
use waybill_proto::waybill::notification::v1::{Brand, PutBrandRequest};
use waybill_proto::waybill::refund::v1::{
    PublishPolicyRequest, RefundTiming, ReturnPolicy, ReturnReason, WindowStart,
};
use waybill_proto::waybill::r#type::v1::Money;

use super::calls::Caller;
use super::{Book, goods, lock};

/// Between two looks at the shelf.
const RESTOCK: Duration = Duration::from_secs(1);
/// Units beyond what was asked for at the last look.
const SPARE: i64 = 10;

/// An open shop.
pub struct Shop {
    /// Calls the services.
    pub caller: Caller,
    location_id: String,
    book: Book,
    /// Tells the restocking of this load from that of others.
    first: u32,
    /// How often the shelf was filled.
    restocks: AtomicU64,
}

impl Shop {
    /// Opens it.
    pub async fn open(caller: Caller, book: Book, first: u32) -> anyhow::Result<Self> {
        let session = caller.session.clone();
        let brand = PutBrandRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            brand: Some(Brand {
                name: "Harbour & Hearth".to_owned(),
                from_email: "orders@harbour.example".to_owned(),
                support_email: "help@harbour.example".to_owned(),
                ..Brand::default()
            }),
        };
        let client = session.notifications()?;
        caller
            .call("the brand", &[], || {
                let (mut client, request) = (client.clone(), brand.clone());
                async move { client.put_brand(request).await }
            })
            .await?;
        let publish = PublishPolicyRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            request_id: "policy".to_owned(),
            policy: Some(policy()),
        };
        let client = session.refunds()?;
        caller
            .call("the policy", &[], || {
                let (mut client, request) = (client.clone(), publish.clone());
                async move { client.publish_policy(request).await }
            })
            .await?;
        let location = CreateLocationRequest {
            merchant_id: session.merchant_id.clone(),
            request_id: "location".to_owned(),
            name: "Whitby".to_owned(),
            country_code: "GB".to_owned(),
            priority: 1,
        };
        let client = session.fulfillment()?;
        let opened = caller
            .call("the location", &[], || {
                let (mut client, request) = (client.clone(), location.clone());
                async move { client.create_location(request).await }
            })
            .await?;
        let location_id = opened.location.context("no location was answered")?.location_id;
        Ok(Self {
            caller,
            location_id,
            book,
            first,
            restocks: AtomicU64::new(0),
        })
    }

    /// Notes an order that was acknowledged, and what it will want from the shelf.
    pub fn placed<'a>(&self, lines: impl IntoIterator<Item = (&'a str, i64)>) {
        self.book.inner.placed.fetch_add(1, Ordering::Relaxed);
        let mut wanted = lock(&self.book.inner.wanted);
        for (sku, units) in lines {
            *wanted.entry(sku.to_owned()).or_default() += units;
        }
    }

    /// Notes an order of which its caller wants nothing more but to see its end.
    pub fn asked(&self) {
        self.book.inner.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Fills the shelf with what was asked for, for ever.
    pub async fn keep_stocked(&self) -> anyhow::Result<()> {
        loop {
            let missing: Vec<(String, i64)> = {
                let (wanted, given) = (lock(&self.book.inner.wanted), lock(&self.book.inner.given));
                goods::skus()
                    .filter_map(|sku| {
                        let wanted = wanted.get(sku).copied().unwrap_or(0) + SPARE;
                        let missing = wanted - given.get(sku).copied().unwrap_or(0);
                        (missing > 0).then(|| (sku.to_owned(), missing))
                    })
                    .collect()
            };
            if !missing.is_empty() {
                self.restock(self.restocks.fetch_add(1, Ordering::Relaxed), &missing)
                    .await?;
            }
            sleep(RESTOCK).await;
        }
    }

    async fn restock(&self, round: u64, missing: &[(String, i64)]) -> anyhow::Result<()> {
        let request = AdjustStockRequest {
            merchant_id: self.caller.session.merchant_id.clone(),
            request_id: format!("stock-{}-{round}", self.first),
            adjustments: missing
                .iter()
                .map(|(sku, units)| StockAdjustment {
                    sku: sku.clone(),
                    location_id: self.location_id.clone(),
                    change: Some(stock_adjustment::Change::Delta(*units)),
                    safety_stock: None,
                })
                .collect(),
        };
        let client = self.caller.session.fulfillment()?;
        self.caller
            .call("the stock", &[], || {
                let (mut client, request) = (client.clone(), request.clone());
                async move { client.adjust_stock(request).await }
            })
            .await?;
        let mut given = lock(&self.book.inner.given);
        for (sku, units) in missing {
            *given.entry(sku.clone()).or_default() += units;
        }
        Ok(())
    }
}

/// Small returns are approved at once, larger ones wait for a person; a fee is kept of what is merely unwanted.
fn policy() -> ReturnPolicy {
    ReturnPolicy {
        // Before every order of every run, wherever clocks jump.
        valid_from: Some(prost_types::Timestamp {
            seconds: 946_684_800,
            nanos: 0,
        }),
        window_days: 30,
        window_start: WindowStart::Delivery.into(),
        restocking_fee_ppm: 50_000,
        fault_reasons: vec![ReturnReason::Damaged.into()],
        refund_shipping_on_full_return: true,
        refund_timing: RefundTiming::OnReceipt.into(),
        auto_approve_up_to: ["GBP", "EUR", "USD"]
            .map(|code| Money {
                currency_code: code.to_owned(),
                minor_units: 4_000,
            })
            .to_vec(),
        arrival_days: 5,
        ..ReturnPolicy::default()
    }
}
