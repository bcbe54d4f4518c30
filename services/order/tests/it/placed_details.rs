//! What an order brings along besides its terms and its goods: note, attributes, the sums as the customer saw them.

use std::collections::BTreeMap;

use anyhow::Result;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::r#type::v1::Money;

use crate::harness::start;
use crate::shop::{bad_fields, eur, order};

fn yen(minor_units: i64) -> Option<Money> {
    Some(Money {
        currency_code: "JPY".into(),
        minor_units,
    })
}

/// The order of 10.00 EUR as somebody in Japan saw it.
fn abroad(id: &str) -> proto::NewOrder {
    proto::NewOrder {
        presentment_currency_code: "JPY".into(),
        presentment_total: yen(1600),
        presentment_totals: Some(proto::OrderTotals {
            subtotal: yen(1600),
            discounts: yen(0),
            shipping: yen(0),
            tax: yen(104),
            total: yen(1600),
        }),
        ..order(id)
    }
}

#[tokio::test]
async fn note_and_attributes_come_with_the_order() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let new = proto::NewOrder {
        note: "ring twice, ask for Jo".into(),
        attributes: BTreeMap::from([("channel".into(), "fair".into())]),
        ..order("1")
    };
    let placed = shop.place(new.clone()).await;
    assert_eq!((&placed.note, &placed.attributes), (&new.note, &new.attributes));
    assert_eq!(shop.get(&placed.order_id).await?, placed);
    assert_eq!(shop.place(new).await, placed);

    // O-10: the note may name people. It stands with the contact, and in no event.
    let mut tables = service.tables().await;
    let (told, kept): (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM event_log WHERE position(convert_to('ring twice', 'UTF8') IN payload) > 0),
                EXISTS (SELECT 1 FROM order_contacts WHERE note = 'ring twice, ask for Jo')",
    )
    .fetch_one(&mut tables)
    .await?;
    assert_eq!((told, kept), (false, true));
    sqlx::query("DELETE FROM order_contacts")
        .execute(&mut tables)
        .await?;
    let forgotten = shop.get(&placed.order_id).await?;
    assert_eq!(
        (forgotten.note.as_str(), &forgotten.attributes),
        ("", &placed.attributes)
    );

    let wrong = proto::NewOrder {
        note: "x".repeat(2001),
        attributes: BTreeMap::from([(" ".into(), "x".repeat(201))]),
        ..order("2")
    };
    assert_eq!(
        bad_fields(shop.try_place("2", wrong).await),
        [
            "order.note",
            "order.attributes[0].key",
            "order.attributes[0].value"
        ]
    );
    Ok(())
}

#[tokio::test]
async fn sums_in_another_currency_are_kept_when_they_are_sound() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let new = abroad("1");
    let placed = shop.place(new.clone()).await;
    assert_eq!(placed.presentment_totals, new.presentment_totals);
    assert_eq!(shop.get(&placed.order_id).await?, placed);
    // The same currency says nothing new, and must say the same.
    let mut same = order("2");
    same.presentment_currency_code = "EUR".into();
    same.presentment_total = eur(1000);
    let kept = shop.place(same).await;
    assert_eq!(
        (kept.presentment_currency_code.as_str(), kept.presentment_total),
        ("", None)
    );

    let refused = async |change: &dyn Fn(&mut proto::NewOrder)| {
        let mut bad = abroad("3");
        change(&mut bad);
        bad_fields(shop.try_place("3", bad).await)
    };
    fn sums(bad: &mut proto::NewOrder) -> &mut proto::OrderTotals {
        bad.presentment_totals.get_or_insert_default()
    }
    let code = "order.presentment_currency_code";
    let total = "order.presentment_total";
    assert_eq!(
        refused(&|bad| bad.presentment_currency_code.clear()).await[0],
        code
    );
    assert_eq!(
        refused(&|bad| bad.presentment_currency_code = "XXQ".into()).await[0],
        code
    );
    assert_eq!(refused(&|bad| bad.presentment_total = None).await[0], total);
    assert_eq!(refused(&|bad| bad.presentment_total = eur(1000)).await[0], total);
    assert!(
        refused(&|bad| bad.presentment_total = yen(-1))
            .await
            .contains(&total.to_owned())
    );
    assert_eq!(
        refused(&|bad| sums(bad).tax = None).await,
        ["order.presentment_totals.tax"]
    );
    assert_eq!(
        refused(&|bad| sums(bad).shipping = yen(1)).await,
        ["order.presentment_totals.total"]
    );
    assert_eq!(
        refused(&|bad| (bad.presentment_currency_code, bad.presentment_total) = (String::new(), None)).await,
        ["order.presentment_totals"]
    );

    // O-2: they are terms.
    let error = sqlx::query("UPDATE orders SET presentment_sums = NULL")
        .execute(&mut service.tables().await)
        .await
        .expect_err("frozen");
    assert!(
        error.to_string().contains("the terms of an order are frozen"),
        "{error}"
    );
    Ok(())
}
