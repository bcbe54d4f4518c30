//! The shop that the demo plays in: brand, policy, locations, stock. All of it through the public API.

use std::collections::BTreeMap;

use anyhow::Context as _;
use waybill_order::formats::shopify::Import;
use waybill_proto::waybill::fulfillment::v1::{
    AdjustStockRequest, CreateLocationRequest, StockAdjustment, stock_adjustment,
};
use waybill_proto::waybill::notification::v1::{Brand, PutBrandRequest};
use waybill_proto::waybill::refund::v1::{
    PublishPolicyRequest, RefundTiming, ReturnPolicy, ReturnReason, WindowStart,
};
use waybill_proto::waybill::r#type::v1::Money;

use crate::session::Session;

/// Units on hand beyond what the orders ask for.
const SPARE: i64 = 25;

/// Opens the shop; returns the published policy in words.
pub async fn open(session: &Session, import: &Import) -> anyhow::Result<String> {
    let ((), policy, ()) = tokio::try_join!(brand(session), policy(session), stock(session, import))?;
    Ok(policy)
}

async fn brand(session: &Session) -> anyhow::Result<()> {
    let request = PutBrandRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        brand: Some(Brand {
            name: "Harbour & Hearth".to_owned(),
            from_email: "orders@harbour-and-hearth.example".to_owned(),
            support_email: "help@harbour-and-hearth.example".to_owned(),
            support_phone: "+44 1947 555 0100".to_owned(),
            accent_color: "#1f5f6b".to_owned(),
            default_locale: "en".to_owned(),
            time_zone: "Europe/London".to_owned(),
            ..Brand::default()
        }),
    };
    session
        .notifications()?
        .put_brand(request)
        .await
        .context("the brand could not be set")?;
    Ok(())
}

async fn policy(session: &Session) -> anyhow::Result<String> {
    let amount = |currency: &str, minor_units| Money {
        currency_code: currency.to_owned(),
        minor_units,
    };
    let request = PublishPolicyRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        request_id: "demo-policy-1".to_owned(),
        policy: Some(ReturnPolicy {
            // Long enough ago that it covers every order a demo file may hold.
            valid_from: Some(prost_types::Timestamp {
                seconds: 946_684_800,
                nanos: 0,
            }),
            window_days: 30,
            window_start: WindowStart::Delivery.into(),
            restocking_fee_ppm: 50_000,
            fault_reasons: [
                ReturnReason::Damaged,
                ReturnReason::WrongItem,
                ReturnReason::NotAsDescribed,
                ReturnReason::Late,
            ]
            .map(i32::from)
            .to_vec(),
            refund_shipping_on_full_return: true,
            refund_timing: RefundTiming::OnReceipt.into(),
            // Small returns are approved at once; larger ones wait for a person.
            auto_approve_up_to: vec![amount("GBP", 5_000), amount("EUR", 6_000), amount("USD", 6_000)],
            arrival_days: 5,
            ..ReturnPolicy::default()
        }),
    };
    let answer = session
        .refunds()?
        .publish_policy(request)
        .await
        .context("the policy could not be published")?;
    Ok(answer.into_inner().text)
}

async fn stock(session: &Session, import: &Import) -> anyhow::Result<()> {
    let mut client = session.fulfillment()?;
    let mut location_ids = Vec::new();
    for (name, country_code, priority) in [("Whitby", "GB", 1), ("Rotterdam", "NL", 2)] {
        let request = CreateLocationRequest {
            merchant_id: session.merchant_id.clone(),
            request_id: format!("demo-location-{name}"),
            name: name.to_owned(),
            country_code: country_code.to_owned(),
            priority,
        };
        let answer = client
            .create_location(request)
            .await
            .context("a location could not be opened")?;
        location_ids.extend(answer.into_inner().location.map(|location| location.location_id));
    }
    let mut wanted: BTreeMap<&str, i64> = BTreeMap::new();
    for line in import
        .orders
        .iter()
        .flat_map(|imported| &imported.order.lines)
        .filter(|line| !line.digital)
    {
        *wanted.entry(&line.sku).or_default() += i64::from(line.quantity);
    }
    // Either place could ship every order whole, so none of them is split.
    let adjustments: Vec<StockAdjustment> = wanted
        .iter()
        .flat_map(|wanted| location_ids.iter().map(move |location_id| (wanted, location_id)))
        .map(|((sku, units), location_id)| StockAdjustment {
            sku: (*sku).to_owned(),
            location_id: location_id.clone(),
            change: Some(stock_adjustment::Change::Delta(*units + SPARE)),
            safety_stock: None,
        })
        .collect();
    // A call takes 5000 adjustments.
    for (number, chunk) in adjustments.chunks(5000).enumerate() {
        let request = AdjustStockRequest {
            merchant_id: session.merchant_id.clone(),
            request_id: format!("demo-stock-{number}"),
            adjustments: chunk.to_vec(),
        };
        client
            .adjust_stock(request)
            .await
            .context("the stock could not be entered")?;
    }
    Ok(())
}
