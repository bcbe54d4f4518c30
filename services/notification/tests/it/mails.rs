//! What arrives: headers, both bodies, and that nothing a customer wrote can break them.

use waybill_proto::waybill::notification::v1::NotificationState::Sent;
use waybill_proto::waybill::notification::v1::Stage;

use crate::support::{CUSTOMER, World};

#[tokio::test]
async fn a_confirmation_arrives_with_everything_a_customer_needs() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    world.feed(&[order.placed()]).await?;
    let mail = world.mailed(1).await?.remove(0);
    assert_eq!(
        (mail.from.as_str(), mail.to.as_slice()),
        ("orders@shop.example", [CUSTOMER.to_owned()].as_slice())
    );
    assert_eq!(
        mail.header("From"),
        Some("Harbour & Hearth <orders@shop.example>")
    );
    assert_eq!(mail.header("To"), Some(CUSTOMER));
    assert_eq!(mail.header("Reply-To"), Some("help@shop.example"));
    assert_eq!(mail.header("Auto-Submitted"), Some("auto-generated"));
    assert!(mail.header("Date").is_some());
    assert!(
        mail.header("Content-Type")
            .is_some_and(|kind| kind.starts_with("multipart/alternative"))
    );
    let sent = world.reaches(order.order, Stage::OrderConfirmed, Sent).await;
    assert_eq!(mail.message_id, format!("<{}>", sent.message_id));
    assert!(sent.message_id.ends_with("@shop.example"), "{}", sent.message_id);
    assert_eq!(mail.subject, format!("Thank you for your order {}", order.number));
    for body in [&mail.text, &mail.html] {
        for part in [
            "Ada Whitcombe",
            "Stoneware mug",
            "25.60 GBP",
            "4.95 GBP",
            "5.09 GBP",
            "30.55 GBP",
            "Tax included",
            "help@shop.example",
            "+44 1947 555 0100",
            &order.number,
            &order
                .at
                .with_timezone(&chrono_tz::Europe::London)
                .format("%A, %-d %B %Y")
                .to_string(),
        ] {
            assert!(body.contains(part), "{part} is missing in {body}");
        }
        assert!(!body.contains("Discounts"), "there were none: {body}");
    }
    world.end().await
}

#[tokio::test]
async fn a_message_names_what_it_is_about_as_the_customer_knows_it() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    world
        .feed(&[
            order.placed(),
            order.shipped(),
            order.tracked("exception"),
            order.return_declined(),
        ])
        .await?;
    world.feed(&[order.refund_started()]).await?;
    let mails = world.mailed(5).await?;
    let text = |start: &str| {
        let found = mails.iter().find(|mail| mail.subject.starts_with(start));
        found.map(|mail| mail.text.clone()).unwrap_or_default()
    };
    let shipped = text(&format!("Your order {} has shipped", order.number));
    for part in [
        "2 x Stoneware mug",
        "Carrier: Royal Mail",
        "RM000001042GB",
        "https://track.example/1",
    ] {
        assert!(shipped.contains(part), "{part} is missing in {shipped}");
    }
    assert!(text("There is a problem").contains("Address could not be found"));
    assert!(text("Your return for order").contains("because the return window has ended"));
    let refund = text("Your refund for order");
    assert!(
        refund.contains("12.80 GBP") && refund.contains("through Stripe"),
        "{refund}"
    );
    world.end().await
}

#[tokio::test]
async fn what_a_customer_wrote_breaks_neither_headers_nor_html() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    order.change_order(&world.owners, |order| {
        order.number = "1\r\nBcc: thief@example.com".to_owned();
        order.customer.get_or_insert_default().name = "<script>alert(1)</script>".to_owned();
        order.locale = "../../etc/passwd".to_owned();
    });
    world.feed(&[order.placed()]).await?;
    let mail = world.mailed(1).await?.remove(0);
    assert_eq!(mail.to, [CUSTOMER]);
    assert_eq!(mail.header("Bcc"), None);
    assert!(!mail.html.contains("<script>"), "{}", mail.html);
    assert!(mail.html.contains("&lt;script&gt;"), "{}", mail.html);
    world.end().await
}

#[tokio::test]
async fn letters_of_every_kind_arrive() -> anyhow::Result<()> {
    let world = World::without_brand(|_| {}).await?;
    let brand = waybill_proto::waybill::notification::v1::Brand {
        name: "Blåbær & Söhne 株式会社".to_owned(),
        ..crate::support::brand()
    };
    world.put_brand(brand).await?;
    let order = world.order();
    order.change_order(&world.owners, |order| {
        order.number = "№ 1042 €".to_owned();
        order.customer.get_or_insert_default().name = "Łucja Ångström".to_owned();
    });
    world.feed(&[order.placed()]).await?;
    let mail = world.mailed(1).await?.remove(0);
    assert_eq!(mail.subject, "Thank you for your order № 1042 €");
    assert!(
        mail.header("From")
            .is_some_and(|from| from.contains("Blåbær & Söhne 株式会社")),
        "{:?}",
        mail.headers
    );
    assert!(mail.text.contains("Łucja Ångström") && mail.html.contains("Łucja Ångström"));
    world.end().await
}
