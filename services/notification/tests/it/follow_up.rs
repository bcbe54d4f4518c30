//! N-4: nobody is asked how it was in the middle of a return, a refund or a shipment in trouble.

use std::time::Duration;

use chrono::TimeDelta;
use waybill_events::Event;
use waybill_kernel::time::Clock as _;
use waybill_proto::waybill::notification::v1::NotificationState::{Scheduled, Sent, Suppressed};
use waybill_proto::waybill::notification::v1::{NotificationSuppressed, Stage};
use waybill_testkit::{Mail, eventually};

use crate::support::{Facts, SOON, World};

fn asked(mails: &[Mail]) -> usize {
    mails
        .iter()
        .filter(|mail| mail.subject.starts_with("How was your order"))
        .count()
}

/// Opens something before delivery, sees the question wait for it, closes it, and sees the question asked once.
async fn waits_while(
    reason: &str,
    opening: impl Fn(&Facts) -> Vec<Event>,
    closing: impl Fn(&Facts) -> Vec<Event>,
) -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    world.feed(&[order.placed()]).await?;
    world.feed(&opening(&order)).await?;
    world.feed(&[order.delivered()]).await?;
    let waiting = world.waits(order.order, Stage::Feedback, reason).await;
    assert_eq!(waiting.attempts, 0);
    // The job has looked again and waits on.
    let looks = "SELECT claims FROM jobs WHERE key = $1";
    let claims = async || -> Result<i64, sqlx::Error> {
        let key = &waiting.notification_id;
        sqlx::query_scalar(looks).bind(key).fetch_one(world.pool()).await
    };
    let seen = claims().await?;
    eventually("two more looks", SOON, async || match claims().await {
        Ok(now) if now >= seen + 2 => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(asked(&world.mails.messages()), 0);

    world.feed(&closing(&order)).await?;
    let sent = world.reaches(order.order, Stage::Feedback, Sent).await;
    assert_eq!((sent.reason.as_str(), sent.attempts), ("", 1));
    // It closes again, and arrives again: nothing more is asked.
    world.feed(&closing(&order)).await?;
    world.feed(&[order.delivered()]).await?;
    world.jobs_are_done().await;
    assert_eq!(asked(&world.mails.messages()), 1);
    world.end().await
}

#[tokio::test]
async fn the_question_waits_for_a_return() -> anyhow::Result<()> {
    waits_while(
        "RETURN_OPEN",
        |order| {
            vec![
                order.return_requested(),
                order.return_approved(),
                order.return_received(),
            ]
        },
        |order| vec![order.return_completed()],
    )
    .await
}

#[tokio::test]
async fn the_question_waits_for_a_decision_about_a_return() -> anyhow::Result<()> {
    waits_while(
        "RETURN_OPEN",
        |order| vec![order.return_requested()],
        |order| vec![order.return_declined()],
    )
    .await
}

/// A refund that failed is owed again, even after it had succeeded.
#[tokio::test]
async fn the_question_waits_for_a_refund_that_was_refused() -> anyhow::Result<()> {
    waits_while(
        "REFUND_OPEN",
        |order| {
            vec![
                order.refund_created(),
                order.refund_succeeded(),
                order.refund_failed(),
            ]
        },
        |order| vec![order.refund_succeeded()],
    )
    .await
}

#[tokio::test]
async fn the_question_waits_for_a_shipment_in_trouble() -> anyhow::Result<()> {
    let another = |order: &Facts| Facts {
        shipment: waybill_kernel::id::ShipmentId::generate(),
        ..order.clone()
    };
    let lost = std::sync::OnceLock::new();
    waits_while(
        "SHIPMENT_OPEN",
        |order| vec![lost.get_or_init(|| another(order)).tracked("returned_to_sender")],
        |order| vec![lost.get_or_init(|| another(order)).tracked("pending")],
    )
    .await
}

/// One of two that are open closes: the other still counts.
#[tokio::test]
async fn everything_has_to_close() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    world
        .feed(&[
            order.placed(),
            order.return_requested(),
            order.refund_created(),
            order.delivered(),
        ])
        .await?;
    world.waits(order.order, Stage::Feedback, "RETURN_OPEN").await;
    world.feed(&[order.return_completed()]).await?;
    world.waits(order.order, Stage::Feedback, "REFUND_OPEN").await;
    world.feed(&[order.refund_succeeded()]).await?;
    world.reaches(order.order, Stage::Feedback, Sent).await;
    world.end().await
}

#[tokio::test]
async fn another_order_and_another_stage_do_not_wait() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (open, calm) = (world.order(), world.order());
    world
        .feed(&[open.placed(), calm.placed(), open.return_requested()])
        .await?;
    world.feed(&[open.delivered(), calm.delivered()]).await?;
    world.reaches(calm.order, Stage::Feedback, Sent).await;
    world.reaches(open.order, Stage::Delivered, Sent).await;
    world.reaches(open.order, Stage::ReturnRequested, Sent).await;
    world.waits(open.order, Stage::Feedback, "RETURN_OPEN").await;
    world.end().await
}

#[tokio::test]
async fn a_question_that_waited_too_long_is_not_asked_any_more() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    world
        .feed(&[order.placed(), order.return_requested(), order.delivered()])
        .await?;
    world.waits(order.order, Stage::Feedback, "RETURN_OPEN").await;
    world.clock.advance(TimeDelta::days(31));
    let suppressed = world.reaches(order.order, Stage::Feedback, Suppressed).await;
    assert_eq!(
        (suppressed.reason.as_str(), suppressed.attempts),
        ("RETURN_OPEN", 0)
    );
    world.feed(&[order.return_completed()]).await?;
    world.jobs_are_done().await;
    assert_eq!(asked(&world.mails.messages()), 0);
    let told = world.told::<NotificationSuppressed>().await?;
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].stage.as_str(), told[0].reason.as_str()),
        ("feedback", "RETURN_OPEN")
    );
    world.end().await
}

#[tokio::test]
async fn the_question_comes_some_time_after_the_last_delivery() -> anyhow::Result<()> {
    let days = Duration::from_secs(5 * 86_400);
    let world = World::with(|config| config.feedback_delay = days).await?;
    // One order arrived just now, the other so long ago that its time has come.
    let now = world.clock.now();
    let (recent, old) = (world.order(), world.order_at(now - TimeDelta::days(6)));
    world
        .feed(&[recent.placed(), old.placed(), recent.delivered(), old.delivered()])
        .await?;
    world.reaches(old.order, Stage::Feedback, Sent).await;
    let waiting = world.reaches(recent.order, Stage::Feedback, Scheduled).await;
    let due = waiting.scheduled_at.expect("it has a time");
    assert_eq!(due.seconds, (now + days).timestamp());
    let before: bool =
        sqlx::query_scalar("SELECT due_at > now() + interval '4 days' FROM jobs WHERE key = $1")
            .bind(&waiting.notification_id)
            .fetch_one(world.pool())
            .await?;
    assert!(before, "the job waits for that time");
    assert_eq!(asked(&world.mails.messages()), 1);
    world.end().await
}
