//! Orders that cannot be, and what their refusal must name.

use anyhow::ensure;
use tonic::{Code, Status};
use waybill_e2e::orders::{discount, line, money, order, tax};
use waybill_e2e::raw::error_infos;
use waybill_proto::waybill::order::v1::{NewOrder, OrderTotals};
use waybill_proto::waybill::r#type::v1::Money;
use waybill_rpc::fault;

use crate::bad_fields;

/// An order that must be refused.
pub struct Case {
    /// What is wrong with it.
    pub what: &'static str,
    /// The order.
    pub order: NewOrder,
    /// The reason code.
    pub reason: &'static str,
    /// How the field begins that is named.
    pub field: &'static str,
    /// What the field's description says.
    pub words: &'static [&'static str],
}

type Spoil = fn(&mut NewOrder);

fn case(what: &'static str, field: &'static str, words: &'static [&'static str], spoil: Spoil) -> Case {
    let lines = vec![line("MUG", 2, pounds(1000)), line("JUG", 1, pounds(2500))];
    let mut order = order("bad", "GBP", lines);
    spoil(&mut order);
    let reason = if field.starts_with("totals.") {
        "TOTALS_MISMATCH"
    } else {
        "INVALID_REQUEST"
    };
    Case {
        what,
        order,
        reason,
        field,
        words,
    }
}

fn pounds(minor: i64) -> Money {
    money("GBP", minor)
}

/// All of them.
pub fn cases() -> Vec<Case> {
    totals()
        .into_iter()
        .chain(amounts())
        .chain(quantities())
        .chain(the_rest())
        .collect()
}

fn totals() -> Vec<Case> {
    let total = |amount: Money| {
        Some(OrderTotals {
            total: Some(amount),
            ..OrderTotals::default()
        })
    };
    let taxed = || OrderTotals {
        total: Some(pounds(4500)),
        tax: Some(pounds(750)),
        ..OrderTotals::default()
    };
    let mut cases = vec![
        case(
            "a total too high",
            "totals.total",
            &["45.00 GBP", "45.01 GBP", "0.01 GBP"],
            |_| {},
        ),
        case(
            "a total in another currency",
            "totals.total",
            &["EUR", "GBP"],
            |_| {},
        ),
        case(
            "a tax that no line has",
            "totals.tax",
            &["0.00 GBP", "7.50 GBP"],
            |_| {},
        ),
        case("no total", "totals.total", &["missing"], |order| {
            order.totals = None
        }),
    ];
    cases[0].order.totals = total(pounds(4501));
    cases[1].order.totals = total(money("EUR", 4500));
    cases[2].order.totals = Some(taxed());
    // These cannot even be compared with the sums.
    cases[1].reason = "INVALID_REQUEST";
    cases[3].reason = "INVALID_REQUEST";
    cases
}

fn amounts() -> Vec<Case> {
    vec![
        case(
            "a currency that does not exist",
            "currency_code",
            &["\"XQQ\""],
            |order| {
                order.currency_code = "XQQ".to_owned();
            },
        ),
        case(
            "a currency in small letters",
            "currency_code",
            &["\"gbp\""],
            |order| {
                order.currency_code = "gbp".to_owned();
            },
        ),
        case(
            "a price in another currency",
            "lines[1].unit_price",
            &["EUR", "GBP"],
            |order| {
                order.lines[1].unit_price = Some(money("EUR", 2500));
            },
        ),
        case(
            "a negative price",
            "lines[0].unit_price",
            &["-10.00 GBP"],
            |order| {
                order.lines[0].unit_price = Some(pounds(-1000));
            },
        ),
        case("no price", "lines[0].unit_price", &[], |order| {
            order.lines[0].unit_price = None
        }),
        case(
            "a negative discount",
            "discounts[0].amount",
            &["-1.00 GBP"],
            |order| {
                order.discounts = vec![discount("NO", pounds(-100))];
            },
        ),
        case(
            "a discount beyond the price",
            "discounts",
            &["45.01 GBP", "45.00 GBP"],
            |order| {
                order.discounts = vec![discount("ALL", pounds(4501))];
            },
        ),
        case(
            "a tax beyond the price",
            "lines[0].taxes",
            &["20.01 GBP"],
            |order| {
                order.lines[0].taxes = vec![tax("GB", 200_000, pounds(2001))];
            },
        ),
        case(
            "a line beyond 64 bits",
            "lines[0].unit_price",
            &["overflow"],
            |order| {
                order.lines[0].unit_price = Some(pounds(i64::MAX));
            },
        ),
        Case {
            reason: "INVALID_REQUEST",
            ..case("a sum beyond 64 bits", "totals.", &["overflow"], |order| {
                order.lines[0].quantity = 1;
                order.lines[0].unit_price = Some(pounds(i64::MAX));
            })
        },
    ]
}

fn quantities() -> Vec<Case> {
    vec![
        case("no lines", "lines", &["is empty"], |order| order.lines.clear()),
        case("nothing of something", "lines[0].quantity", &["is 0"], |order| {
            order.lines[0].quantity = 0
        }),
        case("less than nothing", "lines[0].quantity", &["is -3"], |order| {
            order.lines[0].quantity = -3
        }),
        case(
            "more than a line holds",
            "lines[0].quantity",
            &["1000001"],
            |order| {
                order.lines[0].quantity = 1_000_001;
            },
        ),
    ]
}

fn the_rest() -> Vec<Case> {
    vec![
        case("no source", "source", &[], |order| order.source = None),
        case("no sku", "lines[1].sku", &["missing"], |order| {
            order.lines[1].sku.clear()
        }),
        case(
            "a sku without an end",
            "lines[1].sku",
            &["101 characters"],
            |order| {
                order.lines[1].sku = "x".repeat(101);
            },
        ),
        case(
            "a line break in a title",
            "lines[0].title",
            &["control character"],
            |order| {
                order.lines[0].title = "Mug\r\nBcc: everybody@example.org".to_owned();
            },
        ),
        case(
            "no e-mail address",
            "customer.email",
            &["no e-mail address"],
            |order| {
                order.customer.get_or_insert_default().email = "nobody at home".to_owned();
            },
        ),
        case("no address", "shipping_address", &["missing"], |order| {
            order.shipping_address = None
        }),
        case(
            "a country in words",
            "shipping_address.country_code",
            &["ISO 3166-1"],
            |order| {
                order.shipping_address.get_or_insert_default().country_code = "England".to_owned();
            },
        ),
        case("a day to come", "placed_at", &["ahead"], |order| {
            order.placed_at = seconds(95_617_584_000, 0)
        }),
        case("a time that is none", "placed_at", &[], |order| {
            order.placed_at = seconds(i64::MAX, -1)
        }),
    ]
}

fn seconds(seconds: i64, nanos: i32) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos })
}

/// Whether a refusal names what is wrong with the order of the case.
pub fn refused_for(status: &Status, case: &Case) -> anyhow::Result<()> {
    let reason = fault::reason(status).unwrap_or_default();
    ensure!(
        status.code() == Code::InvalidArgument && reason == case.reason,
        "{:?} {reason}",
        status.code()
    );
    ensure!(error_infos(status) == 1, "{} ErrorInfo", error_infos(status));
    let fields = bad_fields(status);
    let named = fields.iter().find(|(field, text)| {
        field.starts_with(case.field) && case.words.iter().all(|word| text.contains(word))
    });
    ensure!(
        named.is_some(),
        "{} with all of {:?} is not among {fields:?}",
        case.field,
        case.words
    );
    Ok(())
}
