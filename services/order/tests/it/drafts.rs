//! Orders that are being made (O-35): kept as they were handed in, priced by the rules of placement, placed once.

use std::time::Duration;

use anyhow::Result;
use chrono::TimeDelta;
use futures_util::future::join_all;
use tonic::{Code, Status};
use waybill_kernel::id::{DraftId, StoreId};
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::DraftStatus;
use waybill_proto::waybill::r#type::v1 as common;
use waybill_rpc::fault;
use waybill_testkit::eventually;

use crate::customers::export;
use crate::harness::{Drafts, SOON, Service, start, start_with};
use crate::privacy::{PERSONAL, email, erase, of, tables_with};
use crate::races::CALLERS;
use crate::shop::{Shop, bad_fields, eur, order, refusal, tea};

/// A shop at its desk.
#[derive(Clone)]
struct Desk {
    shop: Shop,
    drafts: Drafts,
}

impl Desk {
    fn of(service: &Service) -> Desk {
        let shop = service.shop();
        let drafts = service.drafts(&shop);
        Desk { shop, drafts }
    }

    async fn create(&self, request_id: &str, order: proto::NewOrder) -> Result<proto::DraftOrder, Status> {
        let request = proto::CreateDraftOrderRequest {
            merchant_id: self.shop.merchant.to_string(),
            store_id: self.shop.store.to_string(),
            request_id: request_id.into(),
            order: Some(order),
        };
        let created = self.drafts.clone().create_draft_order(request).await?;
        Ok(created.into_inner().draft.expect("an answer has the draft"))
    }

    async fn update(
        &self,
        request_id: &str,
        draft: &proto::DraftOrder,
        order: proto::NewOrder,
    ) -> Result<proto::DraftOrder, Status> {
        let request = proto::UpdateDraftOrderRequest {
            merchant_id: self.shop.merchant.to_string(),
            store_id: self.shop.store.to_string(),
            request_id: request_id.into(),
            draft_id: draft.draft_id.clone(),
            order: Some(order),
            etag: draft.etag.clone(),
        };
        let updated = self.drafts.clone().update_draft_order(request).await?;
        Ok(updated.into_inner().draft.expect("an answer has the draft"))
    }

    async fn get(&self, draft_id: &str) -> Result<proto::DraftOrder, Status> {
        let request = proto::GetDraftOrderRequest {
            merchant_id: self.shop.merchant.to_string(),
            store_id: self.shop.store.to_string(),
            draft_id: draft_id.into(),
        };
        let found = self.drafts.clone().get_draft_order(request).await?;
        Ok(found.into_inner().draft.expect("an answer has the draft"))
    }

    async fn list(
        &self,
        status: DraftStatus,
        size: i32,
        token: &str,
    ) -> Result<proto::ListDraftOrdersResponse, Status> {
        let request = proto::ListDraftOrdersRequest {
            merchant_id: self.shop.merchant.to_string(),
            store_id: self.shop.store.to_string(),
            page_size: size,
            page_token: token.into(),
            status: status.into(),
        };
        Ok(self.drafts.clone().list_draft_orders(request).await?.into_inner())
    }

    async fn delete(&self, request_id: &str, draft: &proto::DraftOrder) -> Result<(), Status> {
        let request = proto::DeleteDraftOrderRequest {
            merchant_id: self.shop.merchant.to_string(),
            store_id: self.shop.store.to_string(),
            request_id: request_id.into(),
            draft_id: draft.draft_id.clone(),
            etag: draft.etag.clone(),
        };
        self.drafts.clone().delete_draft_order(request).await?;
        Ok(())
    }

    async fn price(&self, order: proto::NewOrder) -> Result<proto::PriceOrderResponse, Status> {
        let request = proto::PriceOrderRequest {
            merchant_id: self.shop.merchant.to_string(),
            store_id: self.shop.store.to_string(),
            order: Some(order),
        };
        Ok(self.drafts.clone().price_order(request).await?.into_inner())
    }

    async fn place(&self, request_id: &str, draft: &proto::DraftOrder) -> Result<proto::Order, Status> {
        let request = proto::PlaceDraftOrderRequest {
            merchant_id: self.shop.merchant.to_string(),
            store_id: self.shop.store.to_string(),
            request_id: request_id.into(),
            draft_id: draft.draft_id.clone(),
            etag: draft.etag.clone(),
        };
        let placed = self.drafts.clone().place_draft_order(request).await?;
        Ok(placed.into_inner().order.expect("an answer has the order"))
    }
}

/// What is known at the beginning of a call: two units of tea.
fn asked_for() -> proto::NewOrder {
    proto::NewOrder {
        currency_code: "EUR".into(),
        prices_include_tax: true,
        lines: vec![tea()],
        ..proto::NewOrder::default()
    }
}

/// The same with all that placement asks for, and no source.
fn complete() -> proto::NewOrder {
    proto::NewOrder {
        source: None,
        totals: None,
        ..order("unused")
    }
}

fn fields(problems: &[proto::DraftProblem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.field.as_str()).collect()
}

/// The order of a quotation as the placed one should be, once what only a placement has is put in.
fn as_placed(priced: &proto::Order, placed: &proto::Order) -> proto::Order {
    let mut expected = priced.clone();
    expected.order_id.clone_from(&placed.order_id);
    expected.number.clone_from(&placed.number);
    expected.etag.clone_from(&placed.etag);
    expected.source.clone_from(&placed.source);
    for (line, of) in expected.lines.iter_mut().zip(&placed.lines) {
        line.line_id.clone_from(&of.line_id);
    }
    for (line, of) in expected.shipping_lines.iter_mut().zip(&placed.shipping_lines) {
        line.line_id.clone_from(&of.line_id);
    }
    expected
}

/// From a call to an order: what is missing is said, the price is known before, and what was agreed to is what is placed.
#[tokio::test]
async fn a_draft_becomes_the_order_that_was_shown() -> Result<()> {
    let service = start().await;
    let desk = Desk::of(&service);
    let created = desk.create("c-1", asked_for()).await?;
    assert_eq!(created.status(), DraftStatus::Open);
    assert_eq!(
        created.total,
        eur(1000),
        "the price is known before the address is"
    );
    assert_eq!(fields(&created.problems), ["shipping_address"]);
    assert_eq!(created.priced, None);
    assert_eq!(created.order, Some(asked_for()), "as it was handed in");
    assert_eq!(
        desk.create("c-1", asked_for()).await?,
        created,
        "once per request"
    );
    let incomplete = desk.place("p-0", &created).await;
    assert_eq!(bad_fields(incomplete), ["order.shipping_address"]);

    let updated = desk.update("u-1", &created, complete()).await?;
    assert_eq!(updated.draft_id, created.draft_id);
    assert_ne!(updated.etag, created.etag);
    assert!(updated.problems.is_empty(), "{:?}", updated.problems);
    let stale = desk.place("p-1", &created).await;
    assert_eq!(refusal(stale), (Code::Aborted, "ETAG_MISMATCH".into()));
    let priced = updated.priced.clone().expect("nothing is missing");
    assert_eq!(
        priced.totals.as_ref().and_then(|totals| totals.total.clone()),
        eur(1000)
    );
    assert!(priced.order_id.is_empty() && priced.lines[0].line_id.is_empty());
    assert_eq!(desk.get(&created.draft_id).await?, updated);

    let placed = desk.place("p-2", &updated).await?;
    assert_eq!(as_placed(&priced, &placed), placed);
    let source = placed.source.clone().expect("an order has a source");
    assert_eq!(
        (source.system.as_str(), &source.external_id),
        ("draft", &created.draft_id)
    );
    assert_eq!(desk.place("p-2", &updated).await?, placed, "the first answer");
    let timeline = desk.shop.timeline(&placed.order_id).await;
    assert_eq!(timeline.len(), 1, "{timeline:?}");

    // O-35: it has become an order, and nothing else can become of it.
    let after = desk.get(&created.draft_id).await?;
    assert_eq!(after.status(), DraftStatus::Placed);
    assert_eq!(after.order_id, placed.order_id);
    assert_eq!((after.order.as_ref(), after.total.as_ref()), (None, None));
    let again = desk.place("p-3", &after).await.expect_err("it was placed");
    assert_eq!(fault::reason(&again).as_deref(), Some("DRAFT_PLACED"));
    assert!(again.message().contains(&placed.order_id), "{again:?}");
    let placed_before = (Code::FailedPrecondition, "DRAFT_PLACED".to_owned());
    assert_eq!(
        refusal(desk.update("u-2", &after, complete()).await),
        placed_before
    );
    assert_eq!(refusal(desk.delete("d-1", &after).await), placed_before);
    let reused = desk.place("p-2", &after).await;
    assert_eq!(refusal(reused).1, "REQUEST_ID_REUSED", "with another etag");
    let mut tables = service.tables().await;
    let change = sqlx::query("UPDATE order_drafts SET updated_at = updated_at")
        .execute(&mut tables)
        .await;
    assert!(change.is_err(), "the table says so, too");
    Ok(())
}

/// A quotation is what placement makes of the same order, to the penny, and says the same of what is wrong.
#[tokio::test]
async fn a_price_is_what_placement_asks() -> Result<()> {
    let service = start().await;
    let desk = Desk::of(&service);
    let with = |change: &dyn Fn(&mut proto::NewOrder)| {
        let mut new = complete();
        change(&mut new);
        new
    };
    let discount = |minor| proto::Discount {
        code: "SPRING".into(),
        amount: eur(minor),
        ..proto::Discount::default()
    };
    let sound = [
        with(&|_| {}),
        with(&|new| new.discounts = vec![discount(101)]),
        with(&|new| {
            new.prices_include_tax = false;
            new.lines = vec![tea(), tea(), tea()];
            new.lines[1].discounts = vec![discount(33)];
            new.discounts = vec![discount(100)];
            new.shipping_lines = vec![proto::NewShippingLine {
                title: "Post".into(),
                price: eur(490),
                ..proto::NewShippingLine::default()
            }];
        }),
        with(&|new| new.lines[0].unit_price = eur(0)),
    ];
    // A line that costs nothing has no tax to pay: the last one is unsound, and both say so.
    for (at, mut new) in sound.into_iter().enumerate() {
        let quote = desk.price(new.clone()).await?;
        new.source = order(&at.to_string()).source;
        new.totals = Some(proto::OrderTotals {
            total: quote.total.clone(),
            ..proto::OrderTotals::default()
        });
        let placed = desk.shop.try_place(&format!("p-{at}"), new).await;
        match quote.priced {
            Some(priced) => {
                let placed = placed?;
                assert_eq!(as_placed(&priced, &placed), placed, "{at}");
                assert!(quote.problems.is_empty());
            }
            None => {
                let named: Vec<String> = quote
                    .problems
                    .iter()
                    .map(|problem| format!("order.{}", problem.field))
                    .collect();
                let mut refused = bad_fields(placed);
                refused.retain(|field| !field.starts_with("order.totals"));
                assert_eq!(named, refused, "{at}");
            }
        }
    }
    let claimed = desk
        .price(with(&|new| {
            new.totals = Some(proto::OrderTotals {
                total: eur(999),
                ..proto::OrderTotals::default()
            });
        }))
        .await?;
    assert_eq!(claimed.total, eur(1000), "what it is, whatever is claimed");
    assert_eq!(fields(&claimed.problems), ["totals.total"]);
    let nothing = desk.price(proto::NewOrder::default()).await?;
    assert_eq!((nothing.total.as_ref(), nothing.priced.as_ref()), (None, None));
    assert_eq!(fields(&nothing.problems), ["currency_code"]);
    let counts: (i64, i64) =
        sqlx::query_as("SELECT (SELECT count(*) FROM order_drafts), (SELECT count(*) FROM orders)")
            .fetch_one(&mut service.tables().await)
            .await?;
    assert_eq!(counts, (0, 3), "a price leaves nothing behind");
    Ok(())
}

/// O-35: fifty callers place one draft while others change it and delete it; one of them wins, and the others know why.
#[tokio::test]
async fn one_draft_is_one_order() -> Result<()> {
    let service = start().await;
    let desk = Desk::of(&service);
    let replica = service.replica().await;
    let elsewhere = Desk {
        drafts: replica.drafts(&service, &desk.shop),
        ..desk.clone()
    };
    for round in 0..4 {
        let draft = desk.create(&format!("c-{round}"), complete()).await?;
        let draft = &draft;
        let answers = join_all((0..CALLERS).map(|n| {
            let desk = if n % 2 == 0 { &desk } else { &elsewhere };
            async move {
                let request_id = format!("r-{round}-{n}");
                match n % 10 {
                    8 => desk.update(&request_id, draft, asked_for()).await.map(|_| None),
                    9 => desk.delete(&request_id, draft).await.map(|()| None),
                    _ => desk.place(&request_id, draft).await.map(Some),
                }
            }
        }))
        .await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "round {round}");
        let won = won.into_iter().next().expect("one has won")?;
        let told = match &won {
            Some(_) => vec!["DRAFT_PLACED"],
            // Changed: another etag by then. Deleted: gone.
            None => vec!["ETAG_MISMATCH", "DRAFT_NOT_FOUND"],
        };
        for lost in lost {
            let reason = refusal(lost).1;
            assert!(
                told.contains(&reason.as_str()),
                "round {round}: {reason}, won: {won:?}"
            );
        }
        let orders: i64 = sqlx::query_scalar("SELECT count(*) FROM orders WHERE source_external_id = $1")
            .bind(&draft.draft_id)
            .fetch_one(&mut service.tables().await)
            .await?;
        assert_eq!(orders, i64::from(won.is_some()), "round {round}");
    }
    // One request, fifty times: one answer.
    let draft = desk.create("c-same", complete()).await?;
    let answers = join_all((0..CALLERS).map(|n| {
        let desk = if n % 2 == 0 { &desk } else { &elsewhere };
        desk.place("r-same", &draft)
    }))
    .await;
    let answers: Vec<proto::Order> = answers.into_iter().collect::<Result<_, Status>>()?;
    assert!(answers.iter().all(|answer| answer == &answers[0]));
    Ok(())
}

/// A draft whose source was placed by itself is refused, and stays.
#[tokio::test]
async fn a_draft_of_a_known_source_is_refused() -> Result<()> {
    let service = start().await;
    let desk = Desk::of(&service);
    let draft = desk.create("c-1", order("till-7")).await?;
    let placed = desk.shop.place(order("till-7")).await;
    let refused = desk.place("p-1", &draft).await.expect_err("the source is taken");
    assert_eq!(fault::reason(&refused).as_deref(), Some("ORDER_EXISTS"));
    assert!(refused.message().contains(&placed.order_id));
    let left = desk.get(&draft.draft_id).await?;
    assert_eq!((left.status(), left.etag), (DraftStatus::Open, draft.etag));
    Ok(())
}

/// Pages are whole, by status, newest first, and of one store.
#[tokio::test]
async fn drafts_are_listed_by_store_and_status() -> Result<()> {
    let service = start().await;
    let desk = Desk::of(&service);
    let mut created = Vec::new();
    for n in 0..5 {
        created.push(desk.create(&format!("c-{n}"), complete()).await?);
    }
    let placed = desk.place("p-1", &created[2]).await?;
    let ids = |page: &proto::ListDraftOrdersResponse| -> Vec<String> {
        page.drafts.iter().map(|draft| draft.draft_id.clone()).collect()
    };
    let expected =
        |of: &[usize]| -> Vec<String> { of.iter().map(|&n| created[n].draft_id.clone()).collect() };
    let first = desk.list(DraftStatus::Open, 3, "").await?;
    assert_eq!(ids(&first), expected(&[4, 3, 1]));
    assert_eq!(first.drafts[0].total, eur(1000));
    assert_eq!(first.drafts[0].order, None, "lists leave out what was handed in");
    let second = desk.list(DraftStatus::Open, 3, &first.next_page_token).await?;
    assert_eq!(ids(&second), expected(&[0]));
    assert!(second.next_page_token.is_empty());
    let became = desk.list(DraftStatus::Placed, 0, "").await?;
    assert_eq!(became.drafts[0].order_id, placed.order_id);
    let all = desk.list(DraftStatus::Unspecified, 5, "").await?;
    assert_eq!(ids(&all), expected(&[4, 3, 2, 1, 0]));
    assert!(all.next_page_token.is_empty(), "exactly a page");

    let foreign = desk.list(DraftStatus::Placed, 3, &first.next_page_token).await;
    assert_eq!(bad_fields(foreign), ["page_token"], "of another list");
    let (size, status) = (desk.list(DraftStatus::Open, -1, "").await, 9);
    assert_eq!(bad_fields(size), ["page_size"]);
    let request = proto::ListDraftOrdersRequest {
        merchant_id: desk.shop.merchant.to_string(),
        store_id: desk.shop.store.to_string(),
        status,
        ..proto::ListDraftOrdersRequest::default()
    };
    let unknown = desk.drafts.clone().list_draft_orders(request).await;
    assert_eq!(bad_fields(unknown), ["status"]);

    let second = Shop {
        store: StoreId::generate(),
        ..desk.shop.clone()
    };
    let next_door = Desk {
        drafts: service.drafts(&second),
        shop: second,
    };
    assert!(
        next_door
            .list(DraftStatus::Unspecified, 0, "")
            .await?
            .drafts
            .is_empty()
    );
    let not_found = (Code::NotFound, "DRAFT_NOT_FOUND".to_owned());
    assert_eq!(refusal(next_door.get(&created[0].draft_id).await), not_found);
    assert_eq!(refusal(next_door.place("p-2", &created[0]).await), not_found);

    desk.delete("d-1", &created[0]).await?;
    desk.delete("d-1", &created[0]).await?;
    assert_eq!(refusal(desk.get(&created[0].draft_id).await), not_found);
    assert_eq!(refusal(desk.delete("d-2", &created[0]).await), not_found);
    Ok(())
}

/// What cannot be read is refused; what is missing is not.
#[tokio::test]
async fn drafts_that_cannot_be_read_are_refused() -> Result<()> {
    let service = start().await;
    let desk = Desk::of(&service);
    let refused = async |order: proto::NewOrder| bad_fields(desk.create("c-1", order).await);
    assert_eq!(refused(proto::NewOrder::default()).await, ["order.currency_code"]);
    let mut no_price = complete();
    no_price.lines[0].unit_price = None;
    assert_eq!(refused(no_price).await, ["order.lines[0].unit_price"]);
    let mut long = complete();
    long.customer = Some(proto::Customer {
        email: format!("{}@example.org", "x".repeat(300)),
        external_id: "a\0b".into(),
        ..proto::Customer::default()
    });
    assert_eq!(
        refused(long).await,
        ["order.customer.email", "order.customer.external_id"]
    );
    let mut large = complete();
    large.note = "x".repeat(512 * 1024);
    let refused = desk.create("c-2", large).await;
    assert_eq!(
        refusal(refused),
        (Code::InvalidArgument, "DRAFT_TOO_LARGE".into())
    );

    // All of this is kept, and said.
    let mut odd = complete();
    odd.lines[0].quantity = -1;
    odd.shipping_address = Some(common::Address::default());
    odd.note = "a\nb".into();
    odd.tags = vec![String::new()];
    let kept = desk.create("c-3", odd).await?;
    assert_eq!(kept.total, None);
    assert_eq!(
        fields(&kept.problems),
        [
            "shipping_address.country_code",
            "note",
            "tags[0]",
            "lines[0].quantity"
        ]
    );
    let unknown = proto::DraftOrder {
        draft_id: DraftId::generate().to_string(),
        etag: "1".into(),
        ..proto::DraftOrder::default()
    };
    assert_eq!(refusal(desk.place("p-1", &unknown).await).1, "DRAFT_NOT_FOUND");
    let blind = proto::DraftOrder {
        etag: String::new(),
        ..kept
    };
    assert_eq!(bad_fields(desk.place("p-2", &blind).await), ["etag"]);
    let rubbish = proto::DraftOrder {
        draft_id: "7".into(),
        ..blind
    };
    assert_eq!(
        bad_fields(desk.update("u-1", &rubbish, complete()).await),
        ["draft_id"]
    );
    Ok(())
}

/// O-33: what is handed out of a customer has the drafts, and an erasure leaves none; a placed one holds nobody.
#[tokio::test]
async fn drafts_are_forgotten_with_their_customer() -> Result<()> {
    let service = start().await;
    let desk = Desk::of(&service);
    let nameless = |new: proto::NewOrder| proto::NewOrder {
        source: None,
        totals: None,
        ..new
    };
    let by_address = desk.create("c-1", nameless(of("Jo@Example.org", "", ""))).await?;
    let both = desk
        .create("c-2", nameless(of("jo@example.org", "c-1", "")))
        .await?;
    let other = desk
        .create("c-3", nameless(of("kim@example.org", "c-2", "")))
        .await?;
    let placed = desk.create("c-4", nameless(of("jo@example.org", "", ""))).await?;
    let order = desk.place("p-1", &placed).await?;
    desk.shop.cancel("x-1", &order.order_id, "").await?;

    let customers = service.customers(&desk.shop);
    let held = export(&customers, &desk.shop, email(), "").await?;
    let drafts: Vec<_> = held.iter().filter_map(|step| step.draft.as_ref()).collect();
    let ids: Vec<&str> = drafts.iter().map(|draft| draft.draft_id.as_str()).collect();
    assert_eq!(ids, [&by_address.draft_id, &both.draft_id]);
    assert_eq!(drafts[1].order, both.order);
    assert_eq!(held.len(), 3, "an order and two drafts");
    let rest = export(&customers, &desk.shop, email(), &held[1].cursor).await?;
    assert_eq!(rest, held[2..], "taken up behind the drafts");

    erase(&customers, &desk.shop, "e-1", email()).await?;
    let gone = (Code::NotFound, "DRAFT_NOT_FOUND".to_owned());
    assert_eq!(refusal(desk.get(&by_address.draft_id).await), gone);
    assert_eq!(refusal(desk.place("p-2", &both).await), gone);
    assert_eq!(desk.get(&other.draft_id).await?.draft_id, other.draft_id);
    assert!(export(&customers, &desk.shop, email(), "").await?.is_empty());
    desk.delete("d-1", &other).await?;
    let mut tables = service.tables().await;
    for personal in PERSONAL {
        let found = tables_with(&mut tables, personal).await?;
        assert!(found.is_empty(), "{personal} is left in {found:?}");
    }
    Ok(())
}

/// Nobody's drafts are kept for ever; a change makes them young again.
#[tokio::test]
async fn drafts_that_nobody_changes_are_forgotten() -> Result<()> {
    let service = start_with(|config| config.draft_keep = Duration::from_secs(1)).await;
    let desk = Desk::of(&service);
    let old = desk.create("c-1", complete()).await?;
    assert_eq!(
        old.expires_at.as_ref().map(|at| at.seconds),
        old.updated_at.as_ref().map(|at| at.seconds + 1)
    );
    service.clock.advance(TimeDelta::seconds(2));
    let young = desk.create("c-2", complete()).await?;
    let gone = (Code::NotFound, "DRAFT_NOT_FOUND".to_owned());
    eventually("the old draft is forgotten", SOON, async || {
        match desk.get(&old.draft_id).await {
            Err(status) if refusal(Err::<(), _>(status.clone())) == gone => Ok(()),
            Err(status) => Err(format!("{status:?}")),
            Ok(draft) => Err(format!("{draft:?}")),
        }
    })
    .await;
    assert_eq!(desk.get(&young.draft_id).await?.etag, young.etag);
    Ok(())
}
