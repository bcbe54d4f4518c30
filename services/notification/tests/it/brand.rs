//! Brands: what a store may say of itself, and N-3: a store without one sends nothing, and what waited is sent once it has
//! one.

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tonic::Code;
use waybill_kernel::time::Clock as _;
use waybill_notification::app::put_brand::PutBrand;
use waybill_notification::domain::brand::Brand;
use waybill_proto::waybill::notification::v1 as proto;
use waybill_proto::waybill::notification::v1::NotificationState::Sent;
use waybill_proto::waybill::notification::v1::Stage;

use waybill_store::UseCase;
use waybill_testkit::eventually;

use crate::support::{SOON, World, brand, fields, one_row, refusal};

const STAGE: Stage = Stage::OrderConfirmed;

#[tokio::test]
async fn what_waits_for_a_brand_is_sent_when_it_is_set() -> anyhow::Result<()> {
    let world = World::without_brand(|_| {}).await?;
    let (first, second) = (world.order(), world.order());
    world
        .feed(&[first.placed(), second.placed(), second.shipped()])
        .await?;
    world.jobs_are_done().await;
    for (order, stage) in [(&first, STAGE), (&second, STAGE), (&second, Stage::Shipped)] {
        let waiting = world.waits(order.order, stage, "NO_BRAND").await;
        assert_eq!(waiting.attempts, 0);
    }
    assert_eq!(world.mails.messages().len(), 0);
    assert_eq!(
        world.owners.known().asked,
        0,
        "nobody is asked for what cannot be sent"
    );

    world.put_brand(brand()).await?;
    world.put_brand(brand()).await?;
    for (order, stage) in [(&first, STAGE), (&second, STAGE), (&second, Stage::Shipped)] {
        let sent = world.reaches(order.order, stage, Sent).await;
        assert_eq!((sent.reason.as_str(), sent.attempts), ("", 1));
    }
    world.jobs_are_done().await;
    assert_eq!(world.mails.messages().len(), 3);
    world.end().await
}

/// A brand that is being set while a message finds none: the message waits for the outcome, and goes out.
#[tokio::test]
async fn a_brand_in_the_making_is_waited_for() -> anyhow::Result<()> {
    let world = World::without_brand(|_| {}).await?;
    let put = PutBrand {
        merchant: world.merchant,
        store: world.store,
        brand: Brand {
            name: "Harbour & Hearth".to_owned(),
            from_email: "orders@shop.example".to_owned(),
            support_email: "help@shop.example".to_owned(),
            support_phone: String::new(),
            logo_url: String::new(),
            accent_color: "#1f5f6b".to_owned(),
            default_locale: "en".to_owned(),
            time_zone: "UTC".to_owned(),
        },
        now: world.clock.now(),
    };
    let mut tx = world.db.begin().await?;
    UseCase::run(&put, &mut tx).await?;
    let order = world.order();
    world.feed(&[order.placed()]).await?;
    let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                   WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database()";
    eventually("sender that waits", SOON, async || {
        match one_row(world.pool(), waiting).await {
            Ok(1) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    tx.commit().await?;
    let sent = world.reaches(order.order, STAGE, Sent).await;
    assert_eq!((sent.reason.as_str(), sent.attempts), ("", 1));
    world.end().await
}

/// Messages that find no brand and a brand that is set in the same moment must not miss each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brand_set_in_the_very_moment_leaves_nothing_behind() -> anyhow::Result<()> {
    let world = World::without_brand(|config| config.concurrency = 4).await?;
    let orders: Vec<_> = (0..40).map(|_| world.order()).collect();
    let events: Vec<_> = orders.iter().map(|order| [order.placed()]).collect();
    let telling = stream::iter(&events)
        .map(|events| world.feed(events))
        .buffer_unordered(4)
        .try_collect::<()>();
    let setting = async {
        for _ in 0..10 {
            world.put_brand(brand()).await?;
        }
        Ok::<(), tonic::Status>(())
    };
    let (told, set) = tokio::join!(telling, setting);
    told?;
    set?;
    for order in &orders {
        world.reaches(order.order, STAGE, Sent).await;
    }
    world.jobs_are_done().await;
    assert_eq!(world.mails.messages().len(), orders.len());
    world.end().await
}

/// More than one transaction takes up at once.
#[tokio::test]
async fn thousands_that_waited_are_all_taken_up() -> anyhow::Result<()> {
    let world = World::without_brand(|_| {}).await?;
    let order = world.order();
    world.feed(&[order.placed()]).await?;
    world.waits(order.order, STAGE, "NO_BRAND").await;
    sqlx::query(
        "INSERT INTO notifications (notification_id, merchant_id, store_id, order_id, stage, channel, subject_id, state,
                                    reason, scheduled_at)
         SELECT gen_random_uuid(), merchant_id, store_id, gen_random_uuid(), stage, channel, subject_id, state, reason,
                scheduled_at
         FROM notifications, generate_series(1, 2500)",
    )
    .execute(world.pool())
    .await?;
    world.put_brand(brand()).await?;
    let left = "SELECT count(*) FROM notifications WHERE reason = 'NO_BRAND'";
    assert_eq!(one_row(world.pool(), left).await?, 0);
    assert_eq!(
        one_row(world.pool(), "SELECT count(*) FROM jobs WHERE key LIKE '%/%'").await?,
        2501
    );
    world.end().await
}

#[tokio::test]
async fn every_fault_of_a_brand_is_named_at_once() -> anyhow::Result<()> {
    let world = World::without_brand(|_| {}).await?;
    let bad = proto::Brand {
        name: String::new(),
        from_email: "nobody".to_owned(),
        support_email: "a@b.example\r\nBcc: c@d.example".to_owned(),
        support_phone: "1\n2".to_owned(),
        logo_url: "http://shop.example/logo.png".to_owned(),
        accent_color: "red".to_owned(),
        default_locale: "x".repeat(36),
        time_zone: "Mars/Olympus".to_owned(),
    };
    let refused = world.put_brand(bad).await.expect_err("eight faults");
    assert_eq!(
        refusal(&refused),
        (Code::InvalidArgument, "INVALID_REQUEST".to_owned())
    );
    let mut named = fields(&refused);
    named.sort();
    named.dedup();
    assert_eq!(
        named,
        [
            "brand.accent_color",
            "brand.default_locale",
            "brand.from_email",
            "brand.logo_url",
            "brand.name",
            "brand.support_email",
            "brand.support_phone",
            "brand.time_zone",
        ]
    );
    let request = proto::PutBrandRequest {
        merchant_id: world.merchant.to_string(),
        store_id: world.store.to_string(),
        brand: None,
    };
    let refused = world
        .client
        .clone()
        .put_brand(request)
        .await
        .expect_err("no brand at all");
    assert_eq!(fields(&refused), ["brand"]);
    world.end().await
}

#[tokio::test]
async fn a_brand_is_read_as_it_was_set_with_what_was_left_out() -> anyhow::Result<()> {
    let world = World::without_brand(|_| {}).await?;
    let request = proto::GetBrandRequest {
        merchant_id: world.merchant.to_string(),
        store_id: world.store.to_string(),
    };
    let none = world
        .client
        .clone()
        .get_brand(request.clone())
        .await
        .expect_err("no brand yet");
    assert_eq!(refusal(&none), (Code::NotFound, "BRAND_NOT_FOUND".to_owned()));

    let short = proto::Brand {
        name: "Corner Shop ".to_owned(),
        from_email: "shop@corner.example".to_owned(),
        support_email: "help@corner.example".to_owned(),
        ..proto::Brand::default()
    };
    let set = world.put_brand(short).await?;
    assert_eq!(set.name, "Corner Shop");
    assert_eq!(
        (set.accent_color.as_str(), set.time_zone.as_str()),
        ("#33415c", "UTC")
    );
    assert_eq!(set.default_locale, "en");
    let read = world.client.clone().get_brand(request).await?.into_inner().brand;
    assert_eq!(read, Some(set));
    world.end().await
}

#[tokio::test]
async fn every_stage_can_be_previewed_in_the_brand() -> anyhow::Result<()> {
    let world = World::start().await?;
    let mut request = proto::PreviewNotificationRequest {
        merchant_id: world.merchant.to_string(),
        store_id: world.store.to_string(),
        stage: 0,
    };
    for stage in 1..=15 {
        request.stage = stage;
        let preview = world
            .client
            .clone()
            .preview_notification(request.clone())
            .await?
            .into_inner();
        assert!(!preview.subject.is_empty());
        assert!(preview.html.contains("Harbour &amp; Hearth") && preview.html.contains("#1f5f6b"));
        assert!(preview.text.contains("Harbour & Hearth") && preview.text.contains("+44 1947 555 0100"));
    }
    for unknown in [0, 99] {
        request.stage = unknown;
        let refused = world
            .client
            .clone()
            .preview_notification(request.clone())
            .await
            .expect_err("no stage");
        assert_eq!(fields(&refused), ["stage"]);
    }
    assert_eq!(world.mails.messages().len(), 0);
    world.end().await
}
