//! N-1: a customer is told once per order, stage, channel and subject.

use std::collections::BTreeSet;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use waybill_kernel::id::EditId;
use waybill_notification::owners::Owners;
use waybill_notification::providers::smtp::Smtp;
use waybill_notification::render::Renderer;
use waybill_notification::workers::Sender;
use waybill_proto::waybill::fulfillment::v1::fulfillment_service_client::FulfillmentServiceClient;
use waybill_proto::waybill::notification::v1::NotificationState::{Failed, Sent};
use waybill_proto::waybill::notification::v1::{NotificationSent, Stage};
use waybill_proto::waybill::order::v1::order_service_client::OrderServiceClient;
use waybill_proto::waybill::order::v1::{OrderCompleted, PaymentRecorded};
use waybill_proto::waybill::refund::v1::PolicyPublished;
use waybill_proto::waybill::refund::v1::refund_service_client::RefundServiceClient;
use waybill_rpc::client;
use waybill_store::jobs::{JobOptions, JobRunner};

use crate::support::{CUSTOMER, Facts, World, one_row};

/// A life that touches every stage, told the way the owners would: each fact as an event of its own.
fn whole_life(order: &Facts) -> Vec<waybill_events::Event> {
    vec![
        order.placed(),
        order.edited(),
        order.shipped(),
        order.tracked("in_transit"),
        order.tracked("exception"),
        order.tracked("in_transit"),
        order.tracked("out_for_delivery"),
        order.delivered(),
        order.return_requested(),
        order.return_approved(),
        order.return_received(),
        order.refund_created(),
        order.refund_started(),
        order.refund_failed(),
        order.refund_succeeded(),
        order.return_completed(),
        order.return_declined(),
        order.cancelled(),
    ]
}

const STAGES: usize = 16;

#[tokio::test]
async fn every_stage_is_told_once_however_often_its_fact_is() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    // The same facts by other events: in one batch, and in batches of their own.
    let twice: Vec<_> = whole_life(&order).into_iter().chain(whole_life(&order)).collect();
    world.feed(&twice).await?;
    for event in whole_life(&order) {
        world.feed(&[event]).await?;
    }
    world.jobs_are_done().await;

    let decisions = world.about(order.order).await?;
    let stages: BTreeSet<i32> = decisions.iter().map(|decision| decision.stage).collect();
    assert_eq!((decisions.len(), stages.len()), (STAGES, STAGES), "{decisions:?}");
    for decision in &decisions {
        assert_eq!((decision.state(), decision.attempts), (Sent, 1), "{decision:?}");
        let subject = match decision.stage() {
            Stage::OrderConfirmed | Stage::OrderCancelled | Stage::Feedback => order.order.to_string(),
            Stage::OrderEdited => order.edit.to_string(),
            Stage::ReturnRequested
            | Stage::ReturnApproved
            | Stage::ReturnDeclined
            | Stage::ReturnReceived => order.returned.to_string(),
            Stage::RefundStarted | Stage::RefundSucceeded | Stage::RefundFailed => order.refund.to_string(),
            _ => order.shipment.to_string(),
        };
        assert_eq!(decision.subject_id, subject, "{decision:?}");
    }
    let mails = world.mails.messages();
    let subjects: BTreeSet<&str> = mails.iter().map(|mail| mail.subject.as_str()).collect();
    assert_eq!((mails.len(), subjects.len()), (STAGES, STAGES), "{subjects:?}");
    assert!(
        mails
            .iter()
            .all(|mail| mail.to == [CUSTOMER] && mail.subject.contains(&order.number))
    );
    assert_eq!(world.told::<NotificationSent>().await?.len(), STAGES);

    // N-6: whatever was asked for in order to send it is gone. A short name as a word, for ids have its letters in them.
    let kept = "SELECT count(*) FROM (
                    SELECT n::text FROM notifications n UNION ALL SELECT j::text FROM jobs j
                    UNION ALL SELECT f::text FROM job_failures f UNION ALL SELECT o::text FROM orders o
                    UNION ALL SELECT m::text FROM open_matters m
                    UNION ALL SELECT encode(payload, 'escape') FROM event_log) AS kept (line)
                WHERE line ~* '\\mada\\M|whitcombe|@example|stoneware'";
    assert_eq!(
        one_row(world.pool(), kept).await?,
        0,
        "a name or an address was kept"
    );
    world.end().await
}

#[tokio::test]
async fn another_shipment_is_another_message() -> anyhow::Result<()> {
    let world = World::start().await?;
    let first = world.order();
    let second = Facts {
        order: first.order,
        ..world.order()
    };
    world
        .feed(&[first.placed(), first.shipped(), second.shipped(), first.shipped()])
        .await?;
    world.jobs_are_done().await;
    let shipped: BTreeSet<String> = world
        .about(first.order)
        .await?
        .into_iter()
        .filter(|decision| decision.stage() == Stage::Shipped)
        .map(|decision| decision.subject_id)
        .collect();
    assert_eq!(
        shipped,
        [first.shipment.to_string(), second.shipment.to_string()].into(),
        "one message a shipment"
    );
    assert_eq!(world.mails.messages().len(), 3);
    world.end().await
}

#[tokio::test]
async fn what_tells_the_customer_nothing_is_passed_over() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    let events = [
        order.placed(),
        order.event("order", &PaymentRecorded::default()),
        order.event("order", &OrderCompleted::default()),
        order.event("refund", &PolicyPublished::default()),
        order.tracked("info_received"),
        order.tracked("available_for_pickup"),
        order.tracked("a status of the future"),
    ];
    world.feed(&events).await?;
    world.jobs_are_done().await;
    let told: Vec<Stage> = world
        .about(order.order)
        .await?
        .iter()
        .map(|decision| decision.stage())
        .collect();
    assert_eq!(told, [Stage::OrderConfirmed]);
    world.end().await
}

/// An event without a store, or with something that is no id, is a fault of the event: it says so and changes nothing.
#[tokio::test]
async fn a_broken_event_is_refused_whole() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    let homeless = waybill_events::Event {
        store: None,
        ..order.placed()
    };
    let mut shipped = order.shipped_message();
    shipped.shipment_id = "17".to_owned();
    for broken in [homeless, order.event("fulfillment", &shipped)] {
        let events = [order.return_requested(), broken];
        let refused = world.feed(&events).await.expect_err("a fault of the event");
        assert!(
            matches!(refused, waybill_events::FoldError::Poison(_)),
            "{refused}"
        );
    }
    assert_eq!(
        one_row(world.pool(), "SELECT count(*) FROM notifications").await?,
        0
    );
    assert_eq!(
        one_row(world.pool(), "SELECT count(*) FROM open_matters").await?,
        0
    );
    world.end().await
}

/// Fifty consumers are told of one order at once, and fifty senders take the same jobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_race_of_fifty_sends_one_mail() -> anyhow::Result<()> {
    let world = World::start().await?;
    let stop = CancellationToken::new();
    let mut senders = JoinSet::new();
    for _ in 0..50 {
        let options = JobOptions {
            concurrency: 1,
            ..JobOptions::default()
        };
        let runner = JobRunner::new(world.db.clone(), sender(&world)?, options);
        senders.spawn(runner.run(stop.clone()));
    }

    let order = world.order();
    let tellings: Vec<_> = (0..50).map(|_| [order.placed(), order.shipped()]).collect();
    let told = tellings.iter().map(|events| world.feed(events));
    for told in futures_util::future::join_all(told).await {
        told?;
    }
    world.jobs_are_done().await;
    stop.cancel();
    while let Some(ended) = senders.join_next().await {
        ended.context("a sender")??;
    }

    assert_eq!(
        world.mails.messages().len(),
        2,
        "one confirmation and one shipping mail"
    );
    for decision in world.about(order.order).await? {
        assert_eq!((decision.state(), decision.attempts), (Sent, 1), "{decision:?}");
    }
    assert_eq!(
        one_row(world.pool(), "SELECT count(*) FROM notifications").await?,
        2
    );
    assert_eq!(world.told::<NotificationSent>().await?.len(), 2);
    world.end().await
}

/// Another process of the service, as far as sending goes.
fn sender(world: &World) -> anyhow::Result<Sender> {
    let url = world.config.common.peers.get("order").context("peers.order")?;
    let channel = client::connect(url, world.auth.system_source(), "notification")?;
    Ok(Sender {
        db: world.db.clone(),
        log: world.log.clone(),
        clock: world.clock.shared(),
        owners: Owners {
            orders: OrderServiceClient::new(channel.clone()),
            fulfillment: FulfillmentServiceClient::new(channel.clone()),
            refunds: RefundServiceClient::new(channel),
        },
        renderer: Renderer::new()?.into(),
        carrier: std::sync::Arc::new(Smtp::new(&world.config.smtp)?),
        follow_up_pause: world.config.follow_up_pause,
        follow_up_patience: world.config.follow_up_patience,
        max_attempts: world.config.max_attempts,
    })
}

/// An end is the end: nothing that comes later changes it.
#[tokio::test]
async fn what_has_ended_stays_as_it_ended() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    world
        .mails
        .inject(waybill_testkit::Fault::RejectMessage { code: 550 });
    world.feed(&[order.placed()]).await?;
    world.reaches(order.order, Stage::OrderConfirmed, Failed).await;
    world.feed(&[order.placed()]).await?;
    world.jobs_are_done().await;
    let decision = world.reaches(order.order, Stage::OrderConfirmed, Failed).await;
    assert_eq!(
        (decision.reason.as_str(), decision.attempts),
        ("SMTP_REJECTED", 1)
    );
    assert_eq!(world.mails.messages().len(), 0);
    world.end().await
}

/// Each edit is told, and says what is ordered with it. Nobody is asked how it was because units were cancelled, unless the
/// rest has arrived.
#[tokio::test]
async fn every_edit_is_told_by_itself() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    order.change_order(&world.owners, |order| {
        let mut pot = order.lines[0].clone();
        (pot.title, pot.added_by_edit_id) = ("Teapot".to_owned(), "an edit".to_owned());
        order.lines[0].cancelled_quantity = 1;
        order.lines.push(pot);
    });
    let second = order.edited_as(EditId::generate());
    world.feed(&[order.placed(), order.edited(), second]).await?;
    world.jobs_are_done().await;
    let mails = world.mails.messages();
    let told: Vec<_> = (mails.iter())
        .filter(|mail| mail.subject.contains("was changed"))
        .collect();
    assert_eq!(told.len(), 2);
    assert!(
        told.iter()
            .all(|mail| mail.text.contains("1 x Stoneware mug") && mail.text.contains("2 x Teapot"))
    );
    let confirmed = mails
        .iter()
        .find(|mail| mail.subject.starts_with("Thank you"))
        .expect("one");
    assert!(!confirmed.text.contains("Teapot"), "it was not ordered then");

    world.feed(&[order.rest_cancelled()]).await?;
    world.reaches(order.order, Stage::Feedback, Sent).await;
    world.end().await
}
