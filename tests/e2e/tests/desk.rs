//! A person at a desk, with the launcher's commands: an order is made while the customer is on the telephone, and later the
//! customer asks what is held, and to be forgotten.

use std::path::Path;

use anyhow::{Context as _, ensure};
use waybill_e2e::console::Console;
use waybill_e2e::orders::{EMAIL, NAME, STREET};
use waybill_proto::waybill::order::v1::{
    DraftOrder, DraftStatus, GetDraftOrderRequest, ListDraftOrdersRequest, OrderStatus,
};
use waybill_rpc::fault;

async fn drafts(console: &Console) -> anyhow::Result<Vec<DraftOrder>> {
    let session = &console.shop.session;
    let request = ListDraftOrdersRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        ..ListDraftOrdersRequest::default()
    };
    Ok(session
        .drafts()?
        .list_draft_orders(request)
        .await?
        .into_inner()
        .drafts)
}

async fn draft(console: &Console, draft_id: &str) -> anyhow::Result<DraftOrder> {
    let session = &console.shop.session;
    let request = GetDraftOrderRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        draft_id: draft_id.to_owned(),
    };
    let answer = session.drafts()?.get_draft_order(request).await?.into_inner();
    answer.draft.context("a draft")
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path in UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_made_at_the_desk_and_its_customer_forgotten() -> anyhow::Result<()> {
    let console = Console::open().await?;
    let begun = console.folder.path().join("begun.json");
    let line =
        r#"{"sku":"MUG","title":"A mug","quantity":2,"unitPrice":{"currencyCode":"GBP","minorUnits":"995"}}"#;
    std::fs::write(&begun, format!(r#"{{"currencyCode":"GBP","lines":[{line}]}}"#))?;
    let begun = text(&begun)?;
    console.run(&["drafts", "price", begun]).await?;
    ensure!(drafts(&console).await?.is_empty(), "a price keeps nothing");
    console.run(&["drafts", "create", begun]).await?;
    let kept = drafts(&console).await?.pop().context("a draft")?;
    console.run(&["drafts", "list", "--status", "open"]).await?;

    let whole = console.folder.path().join("whole.json");
    let customer = format!(r#"{{"email":"{EMAIL}","name":"{NAME}"}}"#);
    let address = format!(r#"{{"name":"{NAME}","lines":["{STREET}"],"city":"York","countryCode":"GB"}}"#);
    std::fs::write(
        &whole,
        format!(
            r#"{{"currencyCode":"GBP","lines":[{line}],"customer":{customer},"shippingAddress":{address}}}"#
        ),
    )?;
    let unplaceable = console
        .run(&["drafts", "place", &kept.draft_id, "--etag", &kept.etag])
        .await
        .expect_err("there is no address");
    let status = unplaceable.downcast_ref().context("an answer of the service")?;
    ensure!(
        fault::bad_fields(status)[0].0 == "order.shipping_address",
        "{unplaceable:#}"
    );
    console
        .run(&[
            "drafts",
            "update",
            &kept.draft_id,
            text(&whole)?,
            "--etag",
            &kept.etag,
        ])
        .await?;
    console.run(&["drafts", "show", &kept.draft_id]).await?;
    let agreed = draft(&console, &kept.draft_id).await?;
    ensure!(agreed.problems.is_empty(), "{:?}", agreed.problems);
    console
        .run(&["drafts", "place", &kept.draft_id, "--etag", &agreed.etag])
        .await?;
    let placed = draft(&console, &kept.draft_id).await?;
    ensure!(placed.status() == DraftStatus::Placed, "{placed:?}");
    let order = console.shop.session.order(&placed.order_id).await?;

    let misspelt = console.folder.path().join("misspelt.json");
    std::fs::write(&misspelt, r#"{"curencyCode":"GBP"}"#)?;
    let refused = console.run(&["drafts", "create", text(&misspelt)?]).await;
    let refused = refused.expect_err("a field that nobody knows");
    ensure!(format!("{refused:#}").contains("curencyCode"), "{refused:#}");

    // Another one is begun and let go, and one is left lying.
    console.run(&["drafts", "create", text(&whole)?]).await?;
    let second = drafts(&console).await?.into_iter().next().context("a draft")?;
    console.run(&["drafts", "delete", &second.draft_id]).await?;
    console.run(&["drafts", "create", text(&whole)?]).await?;

    console
        .run(&[
            "orders",
            "cancel",
            &order.number,
            "--reason",
            "changed their mind",
        ])
        .await?;
    let held = console.folder.path().join("held.jsonl");
    console
        .run(&["customers", "export", "--email", EMAIL, "--out", text(&held)?])
        .await?;
    let lines = std::fs::read_to_string(&held)?;
    let kinds: Vec<String> = (lines.lines())
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line)?;
            let kind = value.as_object().and_then(|value| value.keys().next());
            Ok(kind.context("a kind")?.clone())
        })
        .collect::<anyhow::Result<_>>()?;
    ensure!(
        kinds.iter().take(2).map(String::as_str).eq(["draft", "order"]),
        "{kinds:?}"
    );
    ensure!(lines.contains(STREET), "with the contact");
    let unsure = console.run(&["customers", "erase", "--email", EMAIL]).await;
    ensure!(format!("{:#}", unsure.expect_err("nobody said --yes")).contains("--yes"));
    console
        .run(&["customers", "erase", "--email", EMAIL, "--yes"])
        .await?;
    ensure!(drafts(&console).await?.len() == 1, "the placed one is left");
    let forgotten = console.shop.session.order(&placed.order_id).await?;
    ensure!(forgotten.contact_erased && forgotten.status() == OrderStatus::Cancelled);
    console.shop.close().await
}
