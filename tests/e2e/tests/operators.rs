//! A service that cannot apply an event of one order: the others go on, and a person repairs it with the launcher's
//! commands.

use anyhow::{Context as _, ensure};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use waybill_e2e::console::Console;
use waybill_e2e::orders::{line, money, order};
use waybill_e2e::wait;
use waybill_proto::waybill::analytics::v1::GetSummaryRequest;
use waybill_proto::waybill::events::v1 as pb;
use waybill_proto::waybill::events::v1::consumer_service_client::ConsumerServiceClient;
use waybill_rpc::client::Channel;

/// The price that analytics is made unable to digest.
const BAD: i64 = 4711;

fn analytics(console: &Console) -> anyhow::Result<ConsumerServiceClient<Channel>> {
    let operators = console.shop.session.operators(Some("analytics"))?;
    let (_, operator) = operators.into_iter().next().context("no analytics")?;
    Ok(operator)
}

async fn letters(console: &Console) -> anyhow::Result<Vec<pb::DeadLetter>> {
    let request = pb::ListDeadLettersRequest {
        kind: pb::LetterKind::Letter.into(),
        ..pb::ListDeadLettersRequest::default()
    };
    Ok(analytics(console)?
        .list_dead_letters(request)
        .await?
        .into_inner()
        .letters)
}

/// Waits until analytics counts so many orders.
async fn counts(console: &Console, orders: i64) -> anyhow::Result<()> {
    let session = &console.shop.session;
    wait::until("the number of orders", || async {
        let request = GetSummaryRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            period: None,
        };
        let answer = session.analytics()?.get_summary(request).await?.into_inner();
        let counted: i64 = answer
            .currencies
            .iter()
            .filter_map(|of| of.orders.as_ref().map(|orders| orders.orders))
            .sum();
        Ok((counted == orders).then_some(()))
    })
    .await
}

async fn database(console: &Console) -> anyhow::Result<PgConnection> {
    let url = console.shop.stack.embedded().postgres().admin_url();
    let options: PgConnectOptions = url.parse()?;
    Ok(PgConnection::connect_with(&options.database("waybill")).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_event_in_a_service_is_repaired_from_the_console() -> anyhow::Result<()> {
    let console = Console::open().await?;
    let shop = &console.shop;
    let mut database = database(&console).await?;
    sqlx::query("ALTER TABLE analytics.order_facts ADD CONSTRAINT indigestible CHECK (gross_minor <> 4711)")
        .execute(&mut database)
        .await?;
    let sick = shop
        .place(order("S1", "GBP", vec![line("MUG", 1, money("GBP", BAD))]))
        .await?;
    let letter = wait::until("the letter", || async { Ok(letters(&console).await?.pop()) }).await?;
    ensure!(
        letter.key == sick.order_id && letter.reason.contains("indigestible"),
        "{letter:?}"
    );
    // Another order is counted, and the sick one goes on everywhere else.
    shop.place(order("H1", "GBP", vec![line("MUG", 1, money("GBP", 995))]))
        .await?;
    counts(&console, 1).await?;
    shop.ship(&shop.capture(&sick).await?).await?;

    // The person looks, tries in vain, has the cause repaired, tries again.
    let name = format!("analytics/{}", letter.letter_id);
    console.run(&["consumers", "list"]).await?;
    console.run(&["letters", "list"]).await?;
    console.run(&["letters", "show", &name]).await?;
    let vain = console
        .run(&["letters", "retry", &name])
        .await
        .expect_err("the cause is still there");
    ensure!(format!("{vain:#}").contains("still blocked"), "{vain:#}");
    sqlx::query("ALTER TABLE analytics.order_facts DROP CONSTRAINT indigestible")
        .execute(&mut database)
        .await?;
    console
        .run(&[
            "letters",
            "retry",
            "--order",
            &sick.order_id,
            "--reason",
            "repaired",
        ])
        .await?;
    counts(&console, 2).await?;
    ensure!(letters(&console).await?.is_empty(), "a letter is left");

    // A pause keeps events in the logs.
    console
        .run(&["consumers", "pause", "analytics", "--reason", "an index is built"])
        .await?;
    shop.place(order("H2", "GBP", vec![line("MUG", 1, money("GBP", 995))]))
        .await?;
    wait::until("what lies before the paused consumer", || async {
        let answer = analytics(&console)?
            .list_consumers(pb::ListConsumersRequest::default())
            .await?
            .into_inner();
        let paused = answer.consumers.into_iter().next().context("no consumer")?;
        ensure!(paused.state() == pb::ConsumerState::Paused, "{paused:?}");
        let mut logs = paused.sources.iter();
        let order = logs.find(|source| source.source == "order");
        Ok(order.filter(|log| log.lag_events > Some(0)).map(|_| ()))
    })
    .await?;
    console.run(&["consumers", "resume", "analytics"]).await?;
    counts(&console, 3).await?;

    let request = pb::ListConsumerActionsRequest::default();
    let actions = analytics(&console)?
        .list_consumer_actions(request)
        .await?
        .into_inner()
        .actions;
    let done: Vec<_> = actions.iter().map(|one| (one.kind(), one.outcome())).collect();
    use pb::ConsumerActionKind::{Pause, Resume, Retry};
    use pb::RepairOutcome::{Blocked, Free, Unspecified};
    ensure!(
        done == [
            (Resume, Unspecified),
            (Pause, Unspecified),
            (Retry, Free),
            (Retry, Blocked)
        ],
        "{done:?}"
    );
    ensure!(
        actions.iter().all(|one| one.caller == "operator"),
        "whose token was it?"
    );
    console.run(&["consumers", "log"]).await?;
    database.close().await?;
    let Console { shop, .. } = console;
    shop.close().await
}
