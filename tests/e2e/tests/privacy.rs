//! A person who goes through every service, is handed out whole, and is forgotten everywhere, while the books stay.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use async_nats::{ConnectOptions, ServerAddr, jetstream};
use clap::Parser as _;
use futures_util::TryStreamExt as _;
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use waybill_cli::args::Cli;
use waybill_e2e::orders::{EMAIL, NAME, STREET, line, money, order};
use waybill_e2e::shop::Shop;
use waybill_e2e::wait;
use waybill_proto::waybill::fulfillment::v1::{
    RecordTrackingRequest, Shipment, ShipmentStatus, TrackingUpdate, tracking_update,
};
use waybill_proto::waybill::notification::v1::NotificationState;
use waybill_proto::waybill::order::v1::customer_ref::Key;
use waybill_proto::waybill::order::v1::{
    CancelOrderRequest, Customer, CustomerRef, EraseCustomerRequest, Erasure, ErasureState, ErasureWait,
    GetErasureRequest, Order, OrderStatus, OrderUpdate, ReturnStatus, UpdateOrderRequest,
};
use waybill_proto::waybill::refund::v1::{
    GetTrialBalanceRequest, JournalEntry, ListJournalEntriesRequest, RefundState,
};

const PHONE: &str = "+44 1947 602 311";

/// What nobody may find afterwards.
const PERSONAL: [&str; 4] = [EMAIL, NAME, STREET, PHONE];

async fn database(shop: &Shop) -> anyhow::Result<PgConnection> {
    let url = shop.stack.embedded().postgres().admin_url();
    let options: PgConnectOptions = url.parse()?;
    Ok(PgConnection::connect_with(&options.database("waybill")).await?)
}

/// Every column of every table of every schema in which something of the person stands, as text, inside JSON, or as bytes.
/// The tables come from the catalog, so that a new one is looked into the day it is made.
async fn columns(database: &mut PgConnection) -> anyhow::Result<BTreeSet<String>> {
    let tables: Vec<(String, String)> = sqlx::query_as(
        "SELECT table_schema::text, table_name::text FROM information_schema.tables
         WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&mut *database)
    .await?;
    ensure!(
        tables.len() > 60,
        "only {} tables: is this the stack's database?",
        tables.len()
    );
    let mut found = BTreeSet::new();
    for (schema, table) in tables {
        // Bytes are shown as hex digits.
        let query = format!(
            "SELECT DISTINCT c.key FROM \"{schema}\".\"{table}\" t
             CROSS JOIN LATERAL jsonb_each_text(to_jsonb(t)) c
             CROSS JOIN UNNEST($1::text[]) AS p (personal)
             WHERE position(lower(personal) IN lower(c.value)) > 0
                OR position(encode(convert_to(personal, 'UTF8'), 'hex') IN c.value) > 0"
        );
        let columns: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .bind(PERSONAL.map(str::to_owned).to_vec())
            .fetch_all(&mut *database)
            .await
            .with_context(|| format!("{schema}.{table}"))?;
        found.extend(columns.iter().map(|column| format!("{schema}.{table}.{column}")));
    }
    Ok(found)
}

/// How many messages the streams hold, and in which of them something of the person stands.
async fn streams(shop: &Shop) -> anyhow::Result<(u64, Vec<String>)> {
    let address: ServerAddr = shop.stack.embedded().nats().url().parse()?;
    // The client leaves the user and password of a URL aside; they are handed over apart.
    let user = address.username().unwrap_or_default().to_owned();
    let password = address.password().unwrap_or_default().to_owned();
    let client = ConnectOptions::with_user_and_password(user, password)
        .connect(address)
        .await?;
    let context = jetstream::new(client);
    let (mut messages, mut found) = (0, Vec::new());
    let mut names = context.stream_names();
    while let Some(name) = names.try_next().await? {
        let mut stream = context.get_stream(&name).await?;
        let state = stream.info().await?.state.clone();
        for sequence in state.first_sequence..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await?;
            messages += 1;
            let whole = format!(
                "{:?} {}",
                message.headers,
                String::from_utf8_lossy(&message.payload)
            );
            found.extend(
                PERSONAL
                    .iter()
                    .filter(|personal| whole.contains(**personal))
                    .map(|personal| format!("{personal} in {}", message.subject)),
            );
        }
    }
    Ok((messages, found))
}

/// Writes the person wherever people can: note, attributes, what the carrier says.
async fn write_about(shop: &Shop, order: &Order) -> anyhow::Result<()> {
    let paths = ["customer.phone", "note", "attributes"];
    let request = UpdateOrderRequest {
        merchant_id: order.merchant_id.clone(),
        store_id: order.store_id.clone(),
        request_id: format!("note-{}", order.number),
        order_id: order.order_id.clone(),
        update: Some(OrderUpdate {
            customer: Some(Customer {
                phone: PHONE.to_owned(),
                ..Default::default()
            }),
            note: format!("{NAME} asked for a call on {PHONE}"),
            attributes: [("engraving".to_owned(), NAME.to_owned())].into(),
            ..OrderUpdate::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: paths.map(str::to_owned).to_vec(),
        }),
        ..UpdateOrderRequest::default()
    };
    shop.session.orders()?.update_order(request).await?;
    Ok(())
}

async fn carrier_writes(shop: &Shop, shipment: &Shipment) -> anyhow::Result<()> {
    let request = RecordTrackingRequest {
        merchant_id: shop.session.merchant_id.clone(),
        store_id: shop.session.store_id.clone(),
        updates: vec![TrackingUpdate {
            shipment: Some(tracking_update::Shipment::ShipmentId(
                shipment.shipment_id.clone(),
            )),
            status: ShipmentStatus::InTransit.into(),
            occurred_at: shipment.shipped_at,
            location: STREET.to_owned(),
            description: format!("Left with a neighbour of {NAME}"),
            ..TrackingUpdate::default()
        }],
    };
    shop.session.fulfillment()?.record_tracking(request).await?;
    Ok(())
}

async fn erasure(shop: &Shop, erasure_id: &str) -> anyhow::Result<Erasure> {
    let request = GetErasureRequest {
        merchant_id: shop.session.merchant_id.clone(),
        erasure_id: erasure_id.to_owned(),
    };
    let answer = shop.session.customers()?.get_erasure(request).await?.into_inner();
    answer.erasure.context("an answer without an erasure")
}

/// What `waybill customers export` writes, counted by what it is.
async fn export(shop: &Shop) -> anyhow::Result<(BTreeMap<String, usize>, String)> {
    let folder = tempfile::tempdir()?;
    let (context, out) = (
        folder.path().join("context.json"),
        folder.path().join("person.jsonl"),
    );
    shop.stack.context().save(&context)?;
    let path = |path: &std::path::Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let arguments = [
        "waybill",
        "--context",
        &path(&context)?,
        "customers",
        "export",
        "--email",
        EMAIL,
        "--out",
        &path(&out)?,
    ];
    waybill_cli::run(Cli::try_parse_from(arguments)?).await?;
    let text = std::fs::read_to_string(&out)?;
    let mut kinds = BTreeMap::new();
    for text in text.lines() {
        let value: Value = serde_json::from_str(text)?;
        for kind in value.as_object().context("a line that is no object")?.keys() {
            *kinds.entry(kind.clone()).or_default() += 1;
        }
    }
    Ok((kinds, text))
}

/// The entries of an order, of books that balance.
async fn books(shop: &Shop, order: &Order) -> anyhow::Result<Vec<JournalEntry>> {
    let request = GetTrialBalanceRequest {
        merchant_id: shop.session.merchant_id.clone(),
    };
    let mut refunds = shop.session.refunds()?;
    let sums = refunds.get_trial_balance(request).await?.into_inner();
    ensure!(sums.balanced, "the books do not balance: {sums:?}");
    let request = ListJournalEntriesRequest {
        merchant_id: order.merchant_id.clone(),
        store_id: order.store_id.clone(),
        order_id: order.order_id.clone(),
        ..ListJournalEntriesRequest::default()
    };
    Ok(refunds.list_journal_entries(request).await?.into_inner().entries)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_forgotten_everywhere_and_the_books_stay() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    shop.stock([("MUG", 10)]).await?;
    // One order from placement to a refund and a declined return, one that is still open.
    let placed = shop
        .place(order("A1", "GBP", vec![line("MUG", 3, money("GBP", 995))]))
        .await?;
    let open = shop
        .place(order("A2", "GBP", vec![line("MUG", 1, money("GBP", 995))]))
        .await?;
    for order in [&placed, &open] {
        write_about(&shop, order).await?;
    }
    let paid = shop.capture(&placed).await?;
    let shipment = shop.ship(&paid).await?;
    carrier_writes(&shop, &shipment).await?;
    shop.deliver(&shipment).await?;
    let returned = shop.give_back(&paid, &[("MUG", 1)]).await?;
    shop.receive(&returned).await?;
    shop.refund_in(&paid.order_id, RefundState::Succeeded).await?;
    shop.reached(&paid.order_id, "its end", |order| {
        order.status() == OrderStatus::Completed
            && order.return_status() == ReturnStatus::Returned
            && order.refunded.as_ref().is_some_and(|money| money.minor_units > 0)
    })
    .await?;
    wait::until("all mails", || async {
        let told = shop.notifications(&paid.order_id).await?;
        let sent = |stage: &str| {
            told.iter()
                .any(|one| one.stage().as_str_name() == stage && one.state() == NotificationState::Sent)
        };
        let stages = [
            "STAGE_ORDER_CONFIRMED",
            "STAGE_DELIVERED",
            "STAGE_REFUND_SUCCEEDED",
        ];
        Ok(stages.into_iter().all(sent).then_some(()))
    })
    .await?;
    ensure!(
        shop.stack
            .mails()
            .messages()
            .iter()
            .any(|mail| mail.text.contains(NAME)),
        "the mails name the person"
    );

    let mut database = database(&shop).await?;
    let before = columns(&mut database).await?;
    // The scan can fail: it finds what is there, and that is where it belongs.
    for expected in [
        "order.order_contacts.email",
        "order.order_contacts.name",
        "order.order_contacts.phone",
        "order.order_contacts.note",
        "order.order_contacts.shipping_address",
        "order.orders.attributes",
        "fulfillment.tracking_events.description",
        "fulfillment.tracking_events.location",
    ] {
        ensure!(before.contains(expected), "{expected} is not found: {before:?}");
    }
    let (kinds, text) = export(&shop).await?;
    for personal in PERSONAL {
        ensure!(text.contains(personal), "the export is without {personal}");
    }
    ensure!(
        kinds["order"] == 2 && kinds["shipment"] == 1 && kinds["return"] == 1,
        "{kinds:?}"
    );
    ensure!(kinds["refund"] == 1 && kinds["notification"] >= 5, "{kinds:?}");
    let entries = books(&shop, &paid).await?;
    ensure!(
        entries.len() >= 4,
        "sale, capture, refund accrued and paid: {entries:?}"
    );

    let request = EraseCustomerRequest {
        merchant_id: shop.session.merchant_id.clone(),
        request_id: "forget".to_owned(),
        customer: Some(CustomerRef {
            key: Some(Key::Email(EMAIL.to_uppercase())),
        }),
    };
    let answer = shop
        .session
        .customers()?
        .erase_customer(request)
        .await?
        .into_inner();
    let begun = answer.erasure.context("an answer without an erasure")?;
    ensure!((begun.orders, begun.erased) == (2, 1), "{begun:?}");
    ensure!(
        begun.waiting.len() == 1
            && begun.waiting[0].order_id == open.order_id
            && begun.waiting[0].waits_for() == ErasureWait::Open,
        "{begun:?}"
    );
    database.close().await?;
    finish(shop, begun, &paid, &open, entries).await
}

/// The open order ends, and is erased by itself; then nothing is found any more.
async fn finish(
    shop: Shop,
    begun: Erasure,
    paid: &Order,
    open: &Order,
    entries: Vec<JournalEntry>,
) -> anyhow::Result<()> {
    let request = CancelOrderRequest {
        merchant_id: open.merchant_id.clone(),
        store_id: open.store_id.clone(),
        request_id: "cancel".to_owned(),
        order_id: open.order_id.clone(),
        reason: "ordered twice".to_owned(),
        ..Default::default()
    };
    shop.session.orders()?.cancel_order(request).await?;
    wait::until("the end of the erasure", || {
        let (shop, id) = (&shop, &begun.erasure_id);
        async move {
            // The job looks again by itself; here it is woken, for nobody waits an hour.
            let mut database = self::database(shop).await?;
            let wake = "UPDATE \"order\".jobs SET due_at = now()
                        WHERE kind = 'order.erase_customer' AND state = 'waiting' AND due_at > now()";
            sqlx::query(wake).execute(&mut database).await?;
            database.close().await?;
            Ok((erasure(shop, id).await?.state() == ErasureState::Done).then_some(()))
        }
    })
    .await?;
    wait::until("that all services have forgotten", || {
        let shop = &shop;
        async move {
            let mut database = self::database(shop).await?;
            let left = columns(&mut database).await?;
            database.close().await?;
            Ok(left.is_empty().then_some(()))
        }
    })
    .await?;
    let (messages, found) = streams(&shop).await?;
    ensure!(messages > 10, "only {messages} messages in the streams");
    ensure!(found.is_empty(), "{found:?}");

    // What is not the person's stays.
    let after = shop.session.order(&paid.order_id).await?;
    ensure!(after.contact_erased && after.totals == paid.totals && after.captured == paid.captured);
    ensure!(after.payments == paid.payments && after.lines.len() == paid.lines.len());
    ensure!(books(&shop, paid).await? == entries, "the books changed");
    ensure!(export(&shop).await?.0.is_empty(), "something is handed out still");
    let told = shop.notifications(&open.order_id).await?;
    ensure!(
        told.iter()
            .all(|one| ["", "CONTACT_ERASED"].contains(&one.reason.as_str())),
        "{told:?}"
    );
    shop.close().await
}
