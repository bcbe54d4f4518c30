//! N-2: the intent is committed before the mail server is called, and every try carries the same Message-ID.

use std::time::Duration;

use waybill_proto::waybill::notification::v1::NotificationState::{
    Failed, Scheduled, Sending, Sent, Suppressed,
};
use waybill_proto::waybill::notification::v1::{
    NotificationFailed, NotificationSent, NotificationSuppressed, Stage,
};
use waybill_testkit::{Fault, Wire, eventually};

use crate::support::{CUSTOMER, SOON, World};

const STAGE: Stage = Stage::OrderConfirmed;

#[tokio::test]
async fn a_server_that_says_not_now_is_asked_again() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    world.mails.inject(Fault::RejectMessage { code: 451 });
    world.mails.inject(Fault::RejectRecipient {
        address: CUSTOMER.to_owned(),
        code: 450,
    });
    world.feed(&[order.placed()]).await?;
    let sent = world.reaches(order.order, STAGE, Sent).await;
    assert_eq!(sent.attempts, 3);
    let mails = world.mailed(1).await?;
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].message_id, format!("<{}>", sent.message_id));
    assert_eq!(world.told::<NotificationSent>().await?.len(), 1);
    world.end().await
}

#[tokio::test]
async fn a_mail_that_may_have_been_taken_comes_again_under_the_same_id() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    world.mails.inject(Fault::DropAfterData { kept: true });
    world.feed(&[order.placed()]).await?;
    let first = world.mailed(1).await?.remove(0);
    // The sender changes its address between the tries: what was fixed stays.
    let brand = waybill_proto::waybill::notification::v1::Brand {
        from_email: "orders@new.example".to_owned(),
        ..crate::support::brand()
    };
    world.put_brand(brand).await?;
    let sent = world.reaches(order.order, STAGE, Sent).await;
    let mails = world.mailed(2).await?;
    assert_eq!((mails.len(), sent.attempts), (2, 2));
    assert_eq!(mails[1].from, "orders@new.example");
    assert_eq!(mails[0].message_id, first.message_id);
    assert_eq!(mails[1].message_id, first.message_id);
    assert_eq!(first.message_id, format!("<{}>", sent.message_id));
    assert!(sent.message_id.ends_with("@shop.example"), "{}", sent.message_id);
    assert_eq!(world.told::<NotificationSent>().await?.len(), 1, "one end");
    world.end().await
}

#[tokio::test]
async fn the_intent_stands_before_the_server_has_answered() -> anyhow::Result<()> {
    let sink = waybill_testkit::MailSink::start().await?;
    let wire = Wire::start(sink.smtp_addr().to_string()).await?;
    wire.half_open();
    let world = World::with(|config| config.smtp.port = wire.addr().port()).await?;
    let order = world.order();
    world.feed(&[order.placed()]).await?;
    let sending = world.reaches(order.order, STAGE, Sending).await;
    assert!(
        !sending.message_id.is_empty() && sending.sent_at.is_none(),
        "{sending:?}"
    );
    assert_eq!(sink.messages().len(), 0);

    wire.restore();
    let sent = world.reaches(order.order, STAGE, Sent).await;
    assert_eq!(sent.message_id, sending.message_id);
    let mails = sink.messages();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].message_id, format!("<{}>", sending.message_id));
    world.end().await
}

#[tokio::test]
async fn a_refusal_for_good_ends_it() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    world.mails.inject(Fault::RejectRecipient {
        address: CUSTOMER.to_owned(),
        code: 550,
    });
    world.feed(&[order.placed()]).await?;
    let failed = world.reaches(order.order, STAGE, Failed).await;
    assert_eq!((failed.reason.as_str(), failed.attempts), ("SMTP_REJECTED", 1));
    world.jobs_are_done().await;
    assert_eq!(world.mails.messages().len(), 0);
    let told = world.told::<NotificationFailed>().await?;
    assert_eq!(
        told,
        [NotificationFailed {
            order_id: order.order.to_string(),
            notification_id: failed.notification_id,
            stage: "order_confirmed".to_owned(),
            channel: "email".to_owned(),
            reason: "SMTP_REJECTED".to_owned(),
        }]
    );
    world.end().await
}

/// 530 to 538 are about our own password: the settings are mended and the message goes out.
#[tokio::test]
async fn a_fault_of_our_settings_costs_no_message() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    world.mails.inject(Fault::RejectMessage { code: 535 });
    world.feed(&[order.placed()]).await?;
    let sent = world.reaches(order.order, STAGE, Sent).await;
    assert_eq!(sent.attempts, 2);
    world.end().await
}

/// The server offers no way to log in: the message waits until it does.
#[tokio::test]
async fn a_server_that_lacks_what_our_settings_ask_for_costs_no_message() -> anyhow::Result<()> {
    let world = World::with(|config| {
        config.smtp.user = "shop".to_owned();
        config.smtp.password = "secret".into();
    })
    .await?;
    let order = world.order();
    world.feed(&[order.placed()]).await?;
    eventually("second try", SOON, async || {
        match world.decision(order.order, STAGE).await {
            Ok(decision) if decision.attempts >= 2 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    world.reaches(order.order, STAGE, Sending).await;
    assert_eq!(world.told::<NotificationFailed>().await?.len(), 0);
    world.end().await
}

#[tokio::test]
async fn a_server_that_stays_away_ends_it_after_the_last_try() -> anyhow::Result<()> {
    let world = World::with(|config| config.max_attempts = 2).await?;
    let order = world.order();
    for _ in 0..2 {
        world.mails.inject(Fault::DropAfterData { kept: false });
    }
    world.feed(&[order.placed()]).await?;
    let failed = world.reaches(order.order, STAGE, Failed).await;
    assert_eq!((failed.reason.as_str(), failed.attempts), ("SMTP_UNAVAILABLE", 2));
    world.jobs_are_done().await;
    assert_eq!(world.told::<NotificationFailed>().await?.len(), 1);
    world.end().await
}

#[tokio::test]
async fn without_an_address_nothing_is_sent() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (silent, gone) = (world.order(), world.order());
    silent.change_order(&world.owners, |order| {
        order.customer.get_or_insert_default().email.clear();
    });
    gone.change_order(&world.owners, |order| order.customer = None);
    world.feed(&[silent.placed(), gone.placed()]).await?;
    for order in [&silent, &gone] {
        let suppressed = world.reaches(order.order, STAGE, Suppressed).await;
        assert_eq!(
            (suppressed.reason.as_str(), suppressed.attempts),
            ("NO_ADDRESS", 0)
        );
        assert_eq!((suppressed.message_id.as_str(), suppressed.sent_at), ("", None));
    }
    world.jobs_are_done().await;
    assert_eq!(world.mails.messages().len(), 0);
    let told = world.told::<NotificationSuppressed>().await?;
    assert_eq!(told.len(), 2);
    assert!(
        told.iter()
            .all(|one| one.reason == "NO_ADDRESS" && one.stage == "order_confirmed")
    );
    world.end().await
}

/// An address that no mail can be sent to ends the message, and harms nobody else's.
#[tokio::test]
async fn an_address_that_is_none_ends_it() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (bad, good) = (world.order(), world.order());
    bad.change_order(&world.owners, |order| {
        "ada@example.com\r\nBcc: thief@example.com"
            .clone_into(&mut order.customer.get_or_insert_default().email);
    });
    world.feed(&[bad.placed(), good.placed()]).await?;
    let failed = world.reaches(bad.order, STAGE, Failed).await;
    assert_eq!(failed.reason, "SMTP_REJECTED");
    world.reaches(good.order, STAGE, Sent).await;
    assert_eq!(world.mailed(1).await?.len(), 1);
    world.end().await
}

#[tokio::test]
async fn an_owner_that_is_away_costs_no_message_and_leaks_no_name() -> anyhow::Result<()> {
    // One try only: an owner that is away must not use it up.
    let world = World::with(|config| config.max_attempts = 1).await?;
    let order = world.order();
    world.owners.known().away = true;
    world.feed(&[order.placed()]).await?;
    eventually("first question", SOON, async || {
        (world.owners.known().asked > 0).then_some(())
    })
    .await;
    let state = eventually("job that was put off", SOON, async || {
        let row: Result<(String, bool), _> =
            sqlx::query_as("SELECT state, due_at > now() + interval '5 minutes' FROM jobs")
                .fetch_one(world.pool())
                .await;
        match row {
            Ok((state, true)) => Ok(state),
            other => Err(other),
        }
    })
    .await;
    assert_ne!(state, "dead");
    let waiting = world.reaches(order.order, STAGE, Scheduled).await;
    assert_eq!(waiting.attempts, 0);

    world.owners.known().away = false;
    sqlx::query("UPDATE jobs SET due_at = now()")
        .execute(world.pool())
        .await?;
    world.reaches(order.order, STAGE, Sent).await;
    world.end().await
}

#[tokio::test]
async fn the_reasons_of_failed_tries_name_no_person() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    world.owners.known().away = true;
    world.feed(&[order.placed()]).await?;
    let reason: String = eventually("reason of a failed try", SOON, async || {
        sqlx::query_scalar("SELECT reason FROM job_failures")
            .fetch_one(world.pool())
            .await
    })
    .await;
    assert!(reason.contains("Unavailable"), "{reason}");
    assert!(!reason.contains('@'), "{reason}");
    world.owners.known().away = false;
    world.reaches(order.order, STAGE, Sent).await;
    world.end().await
}

#[tokio::test]
async fn what_its_owner_does_not_know_is_given_up() -> anyhow::Result<()> {
    let world = World::with(|config| config.max_attempts = 1).await?;
    let order = world.order();
    world.owners.known().orders.clear();
    world.feed(&[order.placed()]).await?;
    let failed = world.reaches(order.order, STAGE, Failed).await;
    assert_eq!(
        (failed.reason.as_str(), failed.attempts),
        ("SUBJECT_NOT_FOUND", 0)
    );
    assert_eq!(world.told::<NotificationFailed>().await?.len(), 1);
    world.end().await
}

/// A server that takes the connection and then says nothing does not hold the sender for ever.
#[tokio::test]
async fn a_try_that_hangs_is_ended_by_its_time_limit() -> anyhow::Result<()> {
    let sink = waybill_testkit::MailSink::start().await?;
    let wire = Wire::start(sink.smtp_addr().to_string()).await?;
    wire.half_open();
    let world = World::with(|config| {
        config.smtp.port = wire.addr().port();
        config.smtp.timeout = Duration::from_millis(300);
    })
    .await?;
    let order = world.order();
    world.feed(&[order.placed()]).await?;
    eventually("second try", SOON, async || {
        match world.decision(order.order, STAGE).await {
            Ok(decision) if decision.attempts >= 2 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    wire.restore();
    let sent = world.reaches(order.order, STAGE, Sent).await;
    assert!(
        sink.messages()
            .iter()
            .all(|mail| mail.message_id == format!("<{}>", sent.message_id))
    );
    world.end().await
}
