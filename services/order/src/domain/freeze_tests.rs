//! Freezing an order: bad input is named, good input is kept.

use std::collections::BTreeMap;

use waybill_kernel::money::Currency;

use super::*;
use crate::domain::draft::ClaimedTotals;
use crate::domain::order::{Address, Customer, Source};

fn now() -> DateTime<Utc> {
    "2025-03-01T12:00:00Z".parse().expect("a time")
}

fn draft() -> Draft {
    let eur = |minor| Money::new(Currency::EUR, minor);
    Draft {
        source: Source {
            system: "shopify".into(),
            external_id: "gid://1".into(),
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
            category: "tea".into(),
            final_sale: false,
            digital: false,
            attributes: BTreeMap::from([("size".into(), "100 g".into())]),
            discounts: Vec::new(),
            taxes: vec![TaxLine {
                jurisdiction: "DE".into(),
                title: "USt".into(),
                rate_ppm: 70_000,
                amount: eur(65),
            }],
        }],
        shipping: vec![DraftShipping {
            title: "Post".into(),
            price: eur(0),
            discounts: Vec::new(),
            taxes: Vec::new(),
        }],
        discounts: Vec::new(),
        totals: ClaimedTotals {
            total: Some(eur(1000)),
            ..ClaimedTotals::default()
        },
        contact: Contact {
            customer: Customer {
                email: "jo@example.org".into(),
                ..Customer::default()
            },
            shipping: Some(Address {
                country_code: "DE".into(),
                ..Address::default()
            }),
            billing: None,
            note: String::new(),
        },
        locale: "de-DE".into(),
        promised_ship_at: None,
        promised_delivery_at: None,
        presentment: None,
        presentment_totals: None,
        attributes: BTreeMap::new(),
        tags: vec!["gift".into()],
    }
}

fn try_freeze(draft: Draft) -> Result<(Terms, Contact), Refused> {
    freeze(
        draft,
        &mut Conditions {
            now: now(),
            handling_time: TimeDelta::days(2),
            line_ids: &mut LineId::generate,
        },
    )
}

/// The fields that are refused when the draft is changed like this.
fn refused(change: impl FnOnce(&mut Draft)) -> Vec<String> {
    let mut draft = draft();
    change(&mut draft);
    match try_freeze(draft) {
        Err(Refused::Invalid(v)) => v.iter().map(|fault| fault.field.clone()).collect(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn terms_are_frozen_as_given() {
    let (terms, contact) = try_freeze(draft()).expect("the draft is right");
    assert_eq!(
        (terms.placed_at, terms.promised_ship_at),
        (now(), now() + TimeDelta::days(2))
    );
    assert_eq!(terms.number, "", "the store assigns one");
    assert_eq!((terms.lines[0].net, terms.lines[0].total), (935, 1000));
    assert_ne!(terms.lines[0].id, terms.shipping[0].id);
    assert_eq!(contact, draft().contact);
}

#[test]
fn shipping_is_never_promised_after_arrival() {
    let tomorrow = now() + TimeDelta::days(1);
    let mut hurried = draft();
    hurried.promised_delivery_at = Some(tomorrow);
    let (terms, _) = try_freeze(hurried.clone()).expect("the draft is right");
    assert_eq!(terms.promised_ship_at, tomorrow);
    hurried.promised_ship_at = Some(now());
    let (terms, _) = try_freeze(hurried).expect("the draft is right");
    assert_eq!(terms.promised_ship_at, now());
    assert_eq!(
        refused(|d| (d.promised_ship_at, d.promised_delivery_at) = (Some(tomorrow), Some(now()))),
        ["promised_delivery_at"]
    );
}

#[test]
fn the_total_a_customer_saw_is_kept_only_in_another_currency() {
    for (seen, kept) in [
        (Money::new(Currency::EUR, 1000), false),
        (Money::new(Currency::JPY, 1600), true),
    ] {
        let (terms, _) = try_freeze(Draft {
            presentment: Some(seen),
            ..draft()
        })
        .expect("the draft is right");
        assert_eq!(terms.presentment.is_some(), kept);
    }
    assert_eq!(
        refused(|d| d.presentment = Some(Money::new(Currency::JPY, -1))),
        ["presentment_total"]
    );
}

#[test]
fn every_limit_is_held_and_named() {
    type Change = Box<dyn FnOnce(&mut Draft)>;
    fn case(change: impl FnOnce(&mut Draft) + 'static, field: &'static str) -> (Change, &'static str) {
        (Box::new(change), field)
    }
    let cases = [
        case(|d| d.source.system = "Shopify".into(), "source.system"),
        case(|d| d.source.system = "x".repeat(41), "source.system"),
        case(|d| d.source.external_id = " ".into(), "source.external_id"),
        case(|d| d.source.external_id = "x".repeat(201), "source.external_id"),
        case(|d| d.number = "x".repeat(101), "number"),
        case(
            |d| d.placed_at = Some(now() + TimeDelta::seconds(301)),
            "placed_at",
        ),
        case(
            |d| d.placed_at = Some(DateTime::UNIX_EPOCH - TimeDelta::seconds(1)),
            "placed_at",
        ),
        case(
            |d| d.promised_ship_at = Some(now() - TimeDelta::seconds(1)),
            "promised_ship_at",
        ),
        case(
            |d| d.promised_delivery_at = Some(now() - TimeDelta::seconds(1)),
            "promised_delivery_at",
        ),
        case(
            |d| {
                d.lines.clear();
                d.totals.total = Some(Money::new(Currency::EUR, 0));
            },
            "lines",
        ),
        case(|d| d.lines[0].sku = String::new(), "lines[0].sku"),
        case(|d| d.lines[0].sku = "a\0b".into(), "lines[0].sku"),
        case(|d| d.lines[0].title = "x".repeat(501), "lines[0].title"),
        case(|d| d.lines[0].quantity = 0, "lines[0].quantity"),
        case(|d| d.lines[0].quantity = -1, "lines[0].quantity"),
        case(|d| d.lines[0].quantity = 1_000_001, "lines[0].quantity"),
        case(
            |d| d.lines[0].attributes = (0..51).map(|n| (format!("key {n}"), String::new())).collect(),
            "lines[0].attributes",
        ),
        case(
            |d| d.lines[0].attributes = BTreeMap::from([("x".repeat(201), String::new())]),
            "lines[0].attributes[0].key",
        ),
        case(
            |d| d.lines[0].taxes[0].rate_ppm = -1,
            "lines[0].taxes[0].rate_ppm",
        ),
        case(
            |d| {
                let free = Discount {
                    code: String::new(),
                    title: "x".repeat(201),
                    amount: Money::new(Currency::EUR, 0),
                };
                d.discounts = vec![free];
            },
            "discounts[0].title",
        ),
        case(
            |d| d.shipping = vec![d.shipping[0].clone(); 101],
            "shipping_lines",
        ),
        case(|d| d.tags = vec!["x".into(); 51], "tags"),
        case(|d| d.tags = vec!["x".repeat(101)], "tags[0]"),
        case(|d| d.locale = "de_DE".into(), "locale"),
        case(
            |d| d.contact.customer.email = "no address".into(),
            "customer.email",
        ),
        case(|d| d.contact.customer.email = "a@b@c".into(), "customer.email"),
        case(
            |d| d.contact.customer.name = "Jo\r\nBcc: all".into(),
            "customer.name",
        ),
        case(|d| d.contact.shipping = None, "shipping_address"),
        case(
            |d| {
                d.contact.shipping = Some(Address {
                    country_code: "Germany".into(),
                    ..Address::default()
                })
            },
            "shipping_address.country_code",
        ),
        case(
            |d| {
                d.contact.billing = Some(Address {
                    country_code: "DE".into(),
                    lines: vec![String::new(); 5],
                    ..Address::default()
                });
            },
            "billing_address.lines",
        ),
    ];
    for (change, field) in cases {
        assert_eq!(refused(change), [field]);
    }
}

#[test]
fn ten_thousand_lines_are_taken_and_one_more_is_refused() {
    let with = |count: usize| {
        let mut draft = draft();
        draft.lines = vec![draft.lines[0].clone(); count];
        draft.totals.total = Some(Money::new(Currency::EUR, 1000 * count as i64));
        draft
    };
    let (terms, _) = try_freeze(with(10_000)).expect("as many as are allowed");
    assert_eq!(terms.lines.len(), 10_000);
    assert_eq!(refused(|d| *d = with(10_001)), ["lines"]);
}

#[test]
fn nothing_is_shipped_of_a_digital_order() {
    let mut gift_card = draft();
    gift_card.lines[0].digital = true;
    gift_card.contact.shipping = None;
    assert!(try_freeze(gift_card).is_ok());
}

#[test]
fn totals_are_a_refusal_of_their_own_once_the_rest_is_right() {
    let mut wrong = draft();
    wrong.totals.total = Some(Money::new(Currency::EUR, 999));
    assert!(matches!(try_freeze(wrong.clone()), Err(Refused::Totals(_))));
    wrong.tags = vec![String::new()];
    match try_freeze(wrong) {
        Err(Refused::Invalid(v)) => assert_eq!(v.len(), 2, "both are told: {v}"),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn a_list_of_faults_ends_somewhere() {
    let fields = refused(|d| {
        d.lines[0].sku = String::new();
        d.lines = vec![d.lines[0].clone(); 5000];
    });
    assert_eq!(fields.len(), limits::MAX_FAULTS + 1);
}
