//! UpdateOrder: what may change, until when, and who hears of it.

use std::collections::BTreeMap;

use anyhow::Result;
use prost::Message as _;
use tonic::{Code, Status};
use waybill_kernel::id::ShipmentId;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::r#type::v1::Address;
use waybill_rpc::fault;

use crate::fold::{shipped, until};
use crate::harness::start;
use crate::house::House;
use crate::shop::{Shop, bad_fields, order, refusal};

impl Shop {
    /// A request to change these paths of an order.
    pub(crate) fn change(
        &self,
        request_id: &str,
        order_id: &str,
        paths: &[&str],
        update: proto::OrderUpdate,
    ) -> proto::UpdateOrderRequest {
        proto::UpdateOrderRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            request_id: request_id.into(),
            order_id: order_id.into(),
            update: Some(update),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            }),
            etag: String::new(),
        }
    }

    /// Changes an order.
    pub(crate) async fn update(&self, request: proto::UpdateOrderRequest) -> Result<proto::Order, Status> {
        let updated = self.client.clone().update_order(request).await?;
        Ok(updated.into_inner().order.expect("an answer has the order"))
    }
}

fn moved(city: &str) -> proto::OrderUpdate {
    proto::OrderUpdate {
        shipping_address: Some(Address {
            city: city.into(),
            country_code: "DE".into(),
            ..Address::default()
        }),
        ..proto::OrderUpdate::default()
    }
}

#[tokio::test]
async fn everything_that_may_change_changes_and_is_told_without_its_values() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let update = proto::OrderUpdate {
        customer: Some(proto::Customer {
            external_id: "somebody-else".into(),
            email: "jo@new.example".into(),
            name: "Jo Doe-Smith".into(),
            phone: "+49 40 1".into(),
        }),
        billing_address: moved("Bremen").shipping_address,
        note: "Jo rings twice".into(),
        tags: vec!["vip".into()],
        attributes: BTreeMap::from([("gift".into(), "yes".into())]),
        line_attributes: vec![proto::LineAttributes {
            line_id: placed.lines[0].line_id.clone(),
            attributes: BTreeMap::from([("engraving".into(), "J".into())]),
        }],
        ..moved("Kiel")
    };
    let paths = [
        "customer.email",
        "customer.name",
        "customer.phone",
        "shipping_address",
        "billing_address",
        "note",
        "tags",
        "attributes",
        "line_attributes",
    ];
    let updated = shop
        .update(shop.change("u-1", &placed.order_id, &paths, update))
        .await?;
    let customer = updated.customer.clone().expect("a customer");
    assert_eq!(customer.email, "jo@new.example");
    assert_eq!(customer.external_id, "", "who it is never changes");
    assert_eq!(
        updated.shipping_address.as_ref().map(|a| a.city.as_str()),
        Some("Kiel")
    );
    assert_eq!(
        updated.billing_address.as_ref().map(|a| a.city.as_str()),
        Some("Bremen")
    );
    assert_eq!(
        (updated.note.as_str(), updated.tags.as_slice()),
        ("Jo rings twice", &["vip".to_owned()][..])
    );
    assert_eq!(updated.attributes["gift"], "yes");
    assert_eq!(
        updated.lines[0].attributes,
        BTreeMap::from([("engraving".into(), "J".into())])
    );
    assert_eq!((updated.version, &updated.totals), (2, &placed.totals));
    assert_eq!(shop.get(&placed.order_id).await?, updated);

    let mut tables = service.tables().await;
    let payload: Vec<u8> =
        sqlx::query_scalar("SELECT payload FROM event_log WHERE type LIKE '%OrderUpdated'")
            .fetch_one(&mut tables)
            .await?;
    let told = proto::OrderUpdated::decode(payload.as_slice())?;
    assert_eq!(told.paths, paths);
    // O-10: the values are in no event, no timeline, no kept answer; the person has another pseudonym now.
    let everything: String = sqlx::query_scalar(
        "SELECT (SELECT string_agg(encode(payload, 'escape'), ' ') FROM event_log)
             || (SELECT string_agg(summary, ' ') FROM order_timeline) || (SELECT string_agg(response, ' ') FROM idempotency)",
    )
    .fetch_one(&mut tables)
    .await?;
    for personal in ["new.example", "Smith", "Kiel", "Bremen", "rings"] {
        assert!(!everything.contains(personal), "{personal} in {everything}");
    }
    let keys: Vec<String> = sqlx::query_scalar("SELECT customer_key FROM order_contacts")
        .fetch_all(&mut tables)
        .await?;
    let same_person = shop
        .place(proto::NewOrder {
            customer: updated.customer.clone(),
            ..order("2")
        })
        .await;
    let key: String =
        sqlx::query_scalar("SELECT customer_key FROM order_contacts WHERE order_id = $1::text::uuid")
            .bind(&same_person.order_id)
            .fetch_one(&mut tables)
            .await?;
    assert_eq!(keys, [key]);
    Ok(())
}

#[tokio::test]
async fn a_repeat_counts_once_and_what_is_so_already_is_no_change() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let request = shop.change("u-1", &placed.order_id, &["shipping_address"], moved("Kiel"));
    let updated = shop.update(request.clone()).await?;
    assert_eq!(shop.update(request).await?, updated);
    let again = shop
        .update(shop.change("u-2", &placed.order_id, &["shipping_address"], moved("Kiel")))
        .await?;
    assert_eq!(again, updated, "no version and no event for nothing");
    let other = shop.change("u-1", &placed.order_id, &["shipping_address"], moved("Husum"));
    assert_eq!(refusal(shop.update(other).await).1, "REQUEST_ID_REUSED");

    let mut stale = shop.change("u-3", &placed.order_id, &["shipping_address"], moved("Husum"));
    stale.etag.clone_from(&placed.etag);
    assert_eq!(
        refusal(shop.update(stale).await),
        (Code::Aborted, "ETAG_MISMATCH".to_owned())
    );
    Ok(())
}

#[tokio::test]
async fn masks_that_cannot_be_are_refused_with_the_paths_that_can() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let ask = |paths: &[&str]| shop.update(shop.change("u-1", &placed.order_id, paths, moved("Kiel")));
    assert_eq!(bad_fields(ask(&[]).await), ["update_mask"]);
    let status = ask(&["shipping_address", "totals", "shiping_address"])
        .await
        .expect_err("two are wrong");
    assert_eq!(status.code(), Code::InvalidArgument);
    let named = fault::bad_fields(&status);
    assert_eq!(named.len(), 2);
    assert_eq!(named[0].0, "update_mask.paths[1]");
    assert!(named[0].1.contains("\"totals\" cannot be changed"), "{named:?}");
    assert!(named[1].1.contains("\"shiping_address\" is no path"), "{named:?}");
    assert!(
        named.iter().all(|(_, why)| why.contains("customer.email")),
        "{named:?}"
    );

    let strange = proto::OrderUpdate {
        customer: Some(proto::Customer {
            email: "nobody".into(),
            ..proto::Customer::default()
        }),
        tags: vec![String::new()],
        line_attributes: vec![proto::LineAttributes::default()],
        ..moved("Kiel")
    };
    let paths = ["customer.email", "tags", "line_attributes"];
    let fields = bad_fields(
        shop.update(shop.change("u-1", &placed.order_id, &paths, strange))
            .await,
    );
    assert_eq!(
        fields,
        [
            "update.line_attributes[0].line_id",
            "update.customer.email",
            "update.tags[0]"
        ]
    );
    assert_eq!(shop.get(&placed.order_id).await?, placed);
    Ok(())
}

#[tokio::test]
async fn an_address_is_settled_when_all_has_shipped_and_a_mailbox_never_is() -> Result<()> {
    let house = House::start().await?;
    let shop = house.service.shop();
    let placed = shop.place(order("1")).await;
    let parcel = shipped(&placed, ShipmentId::generate(), 2);
    house.fulfillment.tell(&shop, &placed.order_id, &[parcel]).await?;
    until(&shop, &placed.order_id, "it has left", |order| {
        order.fulfillment_status() == proto::FulfillmentStatus::Fulfilled
    })
    .await;
    let late = shop.change("u-1", &placed.order_id, &["shipping_address"], moved("Kiel"));
    let status = shop.update(late).await.expect_err("it has left");
    assert_eq!(
        (status.code(), fault::reason(&status).as_deref()),
        (Code::FailedPrecondition, Some("ADDRESS_NOT_CHANGEABLE"))
    );
    assert!(
        status
            .message()
            .contains("is OPEN and FULFILLED; shipping_address"),
        "{}",
        status.message()
    );

    let mailbox = proto::OrderUpdate {
        customer: Some(proto::Customer {
            email: "jo@new.example".into(),
            ..proto::Customer::default()
        }),
        ..proto::OrderUpdate::default()
    };
    shop.update(shop.change("u-2", &placed.order_id, &["customer.email"], mailbox.clone()))
        .await?;

    sqlx::query("DELETE FROM order_contacts")
        .execute(&mut house.service.tables().await)
        .await?;
    let forgotten = shop
        .update(shop.change("u-3", &placed.order_id, &["customer.email"], mailbox))
        .await;
    assert_eq!(
        refusal(forgotten),
        (Code::FailedPrecondition, "CONTACT_ERASED".to_owned())
    );
    house.stop().await;
    Ok(())
}
