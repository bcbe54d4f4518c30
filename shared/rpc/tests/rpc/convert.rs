//! Parsing of request fields.

use chrono::{DateTime, TimeZone as _, Utc};
use proptest::prelude::*;
use prost_types::Timestamp;
use tonic::Request;
use waybill_kernel::check::Violations;
use waybill_kernel::id::{MerchantId, OrderId, StoreId};
use waybill_proto::waybill::analytics::v1::GetSummaryRequest;
use waybill_proto::waybill::order::v1::OrderStatus;
use waybill_proto::waybill::r#type::v1::Money;
use waybill_rpc::auth::{Caller, MerchantScope, StoreScope};
use waybill_rpc::convert;

/// What is complained about when `parse` runs.
fn complaints<T>(parse: impl FnOnce(&mut Violations) -> Option<T>) -> Vec<String> {
    let mut violations = Violations::new();
    let parsed = parse(&mut violations);
    assert_eq!(
        parsed.is_none(),
        !violations.is_empty(),
        "a value or a complaint, not both"
    );
    violations.iter().map(ToString::to_string).collect()
}

#[test]
fn ids_are_parsed_and_named() {
    let order = OrderId::generate();
    let mut violations = Violations::new();
    assert_eq!(
        convert::id("order_id", &order.to_string(), &mut violations),
        Some(order)
    );
    assert_eq!(
        convert::optional_id::<OrderId>("order_id", "", &mut violations),
        Some(None)
    );
    let many = vec![order.to_string(); 2];
    assert_eq!(
        convert::ids("order_ids", &many, 2, &mut violations),
        Some(vec![order, order])
    );
    assert!(violations.is_empty());

    assert_eq!(
        complaints(|v| convert::id::<OrderId>("order_id", "", v)),
        ["order_id: is required"]
    );
    let bad = complaints(|v| {
        convert::ids::<OrderId>(
            "order_ids",
            &["7".to_owned(), order.to_string(), String::new()],
            9,
            v,
        )
    });
    assert!(
        bad[0].starts_with("order_ids[0]: \"7\" is not a valid order id"),
        "{bad:?}"
    );
    assert_eq!(bad[1], "order_ids[2]: is required");
    assert_eq!(
        complaints(|v| convert::ids::<OrderId>("order_ids", &many, 1, v)),
        ["order_ids: has 2 ids, at most 1 are allowed"]
    );
    assert_eq!(
        complaints(|v| convert::tenant("", "", v)),
        ["merchant_id: is required", "store_id: is required"]
    );
    let (merchant_id, store_id) = (MerchantId::generate(), StoreId::generate());
    let tenant = convert::tenant(
        &merchant_id.to_string(),
        &store_id.to_string(),
        &mut Violations::new(),
    );
    assert_eq!(
        tenant,
        Some(convert::Tenant {
            merchant_id,
            store_id
        })
    );
}

#[test]
fn texts_and_keys_are_limited() {
    let mut violations = Violations::new();
    assert_eq!(
        convert::text("reason", "zu groß", 1..=7, &mut violations).as_deref(),
        Some("zu groß")
    );
    assert_eq!(
        convert::text("reason", "", 0..=7, &mut violations).as_deref(),
        Some("")
    );
    assert_eq!(
        convert::request_id("a-1_Z~", &mut violations).as_deref(),
        Some("a-1_Z~")
    );
    assert!(violations.is_empty());
    assert_eq!(
        complaints(|v| convert::text("reason", "", 1..=7, v)),
        ["reason: is required"]
    );
    assert_eq!(
        complaints(|v| convert::text("reason", "too long", 1..=7, v)),
        ["reason: has 8 characters; 1 to 7 are allowed"]
    );
    assert_eq!(
        complaints(|v| convert::text("reason", "a\nb", 1..=7, v)),
        ["reason: holds control characters"]
    );
    assert_eq!(
        complaints(|v| convert::request_id("", v)),
        ["request_id: is required: it makes a retry safe"]
    );
    assert_eq!(
        complaints(|v| convert::request_id("a b", v)),
        ["request_id: may hold visible ASCII characters only"]
    );
    assert_eq!(
        complaints(|v| convert::request_id(&"x".repeat(101), v)),
        ["request_id: has 101 characters; 1 to 100 are allowed"]
    );
}

#[test]
fn enums_must_be_known() {
    assert_eq!(
        convert::known("status", OrderStatus::Open as i32, &mut Violations::new()),
        Some(OrderStatus::Open)
    );
    assert_eq!(
        complaints(|v| convert::known::<OrderStatus>("status", 0, v)),
        ["status: is required"]
    );
    let unknown = complaints(|v| convert::known::<OrderStatus>("status", 4711, v));
    assert_eq!(unknown, ["status: 4711 is not a value that this server knows"]);
}

#[test]
fn money_and_times_are_checked() {
    assert_eq!(
        complaints(|v| convert::money("amount", None, v)),
        ["amount: is required"]
    );
    let odd = Money {
        currency_code: "eur".to_owned(),
        minor_units: 1,
    };
    assert!(complaints(|v| convert::money("amount", Some(&odd), v))[0].starts_with("amount.currency_code: "));
    assert_eq!(
        complaints(|v| convert::timestamp("placed_at", None, v)),
        ["placed_at: is required"]
    );
    for (seconds, nanos) in [
        (0, -1),
        (0, 1_000_000_000),
        (i64::MAX, 0),
        (253_402_300_800, 0),
        (-62_135_596_801, 0),
    ] {
        let bad = complaints(|v| convert::timestamp("placed_at", Some(&Timestamp { seconds, nanos }), v));
        assert_eq!(
            bad,
            ["placed_at: is no time between the years 1 and 9999"],
            "{seconds} {nanos}"
        );
    }
    let first: Option<DateTime<Utc>> = Utc.with_ymd_and_hms(1, 1, 1, 0, 0, 0).single();
    let parsed = convert::timestamp(
        "t",
        Some(&Timestamp {
            seconds: -62_135_596_800,
            nanos: 0,
        }),
        &mut Violations::new(),
    );
    assert_eq!(parsed, first);
}

proptest! {
    #[test]
    fn money_and_times_round_trip(minor in any::<i64>(), seconds in -62_135_596_800_i64..253_402_300_799, nanos in 0..1_000_000_000) {
        let mut violations = Violations::new();
        let sent = Money { currency_code: "KWD".to_owned(), minor_units: minor };
        let money = convert::money("amount", Some(&sent), &mut violations);
        prop_assert_eq!(money.map(convert::to_money), Some(sent));
        let sent = Timestamp { seconds, nanos };
        let time = convert::timestamp("time", Some(&sent), &mut violations);
        prop_assert_eq!(time.map(convert::to_timestamp), Some(sent));
        prop_assert!(violations.is_empty());
    }
}

#[test]
fn a_request_key_tells_requests_apart() {
    let caller = Caller {
        subject: "ada".to_owned(),
        merchant: MerchantScope::All,
        stores: StoreScope::All,
        scopes: std::collections::BTreeSet::new(),
    };
    let merchant = MerchantId::generate();
    let key = |store: &str| {
        let message = GetSummaryRequest {
            store_id: store.to_owned(),
            ..GetSummaryRequest::default()
        };
        convert::request_key(&caller, merchant, "order.v1.PlaceOrder", "r-1", &message)
    };
    assert_eq!(key("a"), key("a"));
    assert_ne!(key("a").hash, key("b").hash);
    assert_eq!(
        (
            key("a").caller.as_str(),
            key("a").merchant,
            key("a").request_id.as_str()
        ),
        ("ada", merchant, "r-1")
    );
}

#[test]
fn a_method_without_access_control_fails_closed() {
    let status = convert::context(&Request::new(())).expect_err("nobody is known");
    assert_eq!(status.code(), tonic::Code::Internal);
}
