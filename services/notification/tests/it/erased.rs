//! N-8: who was erased is told nothing more, and every message that is not sent says why.

use std::time::Duration;

use waybill_proto::waybill::notification::v1::NotificationState::{Sent, Suppressed};
use waybill_proto::waybill::notification::v1::{NotificationSuppressed, Stage};

use crate::support::{World, brand, one_row};

const REASON: &str = "CONTACT_ERASED";

/// A message that is due in days is suppressed at once; what was sent stays as the proof that it is.
#[tokio::test]
async fn what_is_scheduled_is_suppressed_at_once() -> anyhow::Result<()> {
    let days = Duration::from_secs(5 * 86_400);
    let world = World::with(|config| config.feedback_delay = days).await?;
    let (order, other) = (world.order(), world.order());
    world
        .feed(&[
            order.placed(),
            other.placed(),
            order.delivered(),
            other.delivered(),
        ])
        .await?;
    for order in [&order, &other] {
        world.reaches(order.order, Stage::OrderConfirmed, Sent).await;
        world.reaches(order.order, Stage::Delivered, Sent).await;
    }
    let mails = world.mailed(4).await?.len();
    world.feed(&[order.erased(&world.owners)]).await?;
    let feedback = world
        .decision(order.order, Stage::Feedback)
        .await
        .expect("it was planned");
    assert_eq!((feedback.state(), feedback.reason.as_str()), (Suppressed, REASON));
    assert_eq!(
        world.told::<NotificationSuppressed>().await?,
        [NotificationSuppressed {
            order_id: order.order.to_string(),
            notification_id: feedback.notification_id,
            stage: "feedback".to_owned(),
            channel: "email".to_owned(),
            reason: REASON.to_owned(),
        }]
    );
    let sent = world
        .decision(order.order, Stage::OrderConfirmed)
        .await
        .expect("it was sent");
    assert_eq!(sent.state(), Sent);
    let spared = world
        .decision(other.order, Stage::Feedback)
        .await
        .expect("it was planned");
    assert_eq!(spared.reason, "", "another customer is asked how it was");
    // Told once, however often it is heard.
    world.feed(&[order.erased(&world.owners)]).await?;
    assert_eq!(world.told::<NotificationSuppressed>().await?.len(), 1);
    assert_eq!(world.mails.messages().len(), mails);
    world.end().await
}

/// What happens to the order afterwards is decided like everything else: by a row that says why nothing is sent. No retry.
#[tokio::test]
async fn what_comes_later_is_a_decision_and_not_a_retry() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    world.feed(&[order.placed()]).await?;
    world.reaches(order.order, Stage::OrderConfirmed, Sent).await;
    // The owner says so before this service has heard.
    let erased = order.erased(&world.owners);
    world.feed(&[order.shipped()]).await?;
    let shipped = world.reaches(order.order, Stage::Shipped, Suppressed).await;
    assert_eq!((shipped.reason.as_str(), shipped.attempts), (REASON, 0));
    world.feed(&[erased, order.refund_started()]).await?;
    let refund = world.reaches(order.order, Stage::RefundStarted, Suppressed).await;
    assert_eq!((refund.reason.as_str(), refund.attempts), (REASON, 0));
    world.jobs_are_done().await;
    let failures = one_row(world.pool(), "SELECT count(*) FROM job_failures").await?;
    assert_eq!((failures, world.mails.messages().len()), (0, 1));
    assert_eq!(world.told::<NotificationSuppressed>().await?.len(), 2);
    world.end().await
}

/// A brand that is set afterwards wakes nothing.
#[tokio::test]
async fn what_waited_for_a_brand_is_not_sent_either() -> anyhow::Result<()> {
    let world = World::without_brand(|_| {}).await?;
    let (order, other) = (world.order(), world.order());
    world.feed(&[order.placed(), other.placed()]).await?;
    world.waits(order.order, Stage::OrderConfirmed, "NO_BRAND").await;
    world.waits(other.order, Stage::OrderConfirmed, "NO_BRAND").await;
    world.feed(&[order.erased(&world.owners)]).await?;
    world.put_brand(brand()).await?;
    world.reaches(other.order, Stage::OrderConfirmed, Sent).await;
    world.jobs_are_done().await;
    let kept = world
        .decision(order.order, Stage::OrderConfirmed)
        .await
        .expect("it was planned");
    assert_eq!((kept.state(), kept.reason.as_str()), (Suppressed, REASON));
    assert_eq!(world.mails.messages().len(), 1);
    world.end().await
}
