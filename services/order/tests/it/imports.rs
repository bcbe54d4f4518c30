//! ImportOrders: a file is taken once, whatever happens to the streams that bring it.

use anyhow::Result;
use tonic::Code;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::import_orders_request::Part;
use waybill_proto::waybill::order::v1::{ImportFormat, ImportPaymentResult, ImportResult, ImportState};
use waybill_testkit::eventually;

use crate::feed::{HEADER, csv, csv_order, opening};
use crate::harness::{SOON, start, start_with};
use crate::shop::{Shop, bad_fields, order, refusal};

fn json_line(number: &str) -> String {
    format!(
        "{{\"source\":{{\"system\":\"csv\",\"externalId\":\"{number}\"}},\"number\":\"{number}\",\"currencyCode\":\"EUR\",\
         \"lines\":[{{\"sku\":\"TEA-1\",\"quantity\":2,\"unitPrice\":{{\"currencyCode\":\"EUR\",\"minorUnits\":\"500\"}},\
         \"digital\":true}}],\"totals\":{{\"total\":{{\"currency_code\":\"EUR\",\"minor_units\":1000}}}}}}"
    )
}

fn counts(import: &proto::Import) -> (i64, i64, i64, i64, i64) {
    (
        import.rows,
        import.placed,
        import.duplicates,
        import.refused,
        import.payments,
    )
}

#[tokio::test]
async fn a_broken_row_costs_its_own_order_and_a_second_import_nothing() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let broken = csv_order(3, 2).replace("5.00,TEA-2", "five,TEA-2");
    let wrong = csv_order(4, 2).replace(",1,Tea,5.00,TEA-2", ",-1,Tea,5.00,TEA-2");
    let off = csv_order(5, 1).replace(",5.00,2025", ",6.00,2025");
    let mut file = format!(
        "{HEADER}\n{}{}{broken}{wrong}{off}{}",
        csv_order(1, 1),
        csv_order(2, 3),
        csv_order(6, 1).replace("Tea", "T\u{1}ea"),
    )
    .into_bytes();
    let text = file
        .windows(4)
        .position(|at| at == b"T\x01ea")
        .expect("the title");
    file[text + 1] = 0xff;
    let (import, outcomes) = shop
        .import(opening("i-1", ImportFormat::ShopifyCsv), &file, 100)
        .await?;
    assert_eq!(counts(&import), (10, 2, 0, 4, 2));
    assert_eq!(
        (import.state(), import.bytes_done, import.size_bytes),
        (ImportState::Done, file.len() as i64, file.len() as i64)
    );
    let told: Vec<_> = outcomes
        .iter()
        .map(|o| (o.line, o.number.as_str(), o.result(), o.reason.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (2, "#1", ImportResult::Placed, ""),
            (3, "#2", ImportResult::Placed, ""),
            (6, "#3", ImportResult::Refused, "UNREADABLE"),
            (8, "#4", ImportResult::Refused, "INVALID_REQUEST"),
            (10, "#5", ImportResult::Refused, "TOTALS_MISMATCH"),
            (11, "#6", ImportResult::Refused, "UNREADABLE"),
        ]
    );
    // Each fault at its own line, not at that of the order.
    let faults: Vec<_> = outcomes
        .iter()
        .flat_map(|o| &o.faults)
        .map(|fault| (fault.line, fault.field.as_str()))
        .collect();
    assert_eq!(faults[..2], [(7, "Lineitem price"), (9, "lines[1].quantity")]);
    assert!(
        faults.contains(&(10, "totals.total")) && faults.contains(&(11, "Lineitem name")),
        "{faults:?}"
    );
    assert_eq!(outcomes[1].payment(), ImportPaymentResult::Recorded);
    let placed = shop.get(&outcomes[1].order_id).await?;
    assert_eq!(placed.payment_status(), proto::PaymentStatus::Paid);
    assert_eq!((placed.lines.len(), placed.number.as_str()), (3, "#2"));

    // What is remembered names lines and fields, and nothing that stood in them (O-10).
    let found = shop.get_import("i-1").await?;
    assert_eq!(found.import.as_ref(), Some(&import));
    let remembered: Vec<_> = found
        .refusals
        .iter()
        .map(|r| (r.line, r.reason.as_str()))
        .collect();
    assert_eq!(
        remembered,
        [
            (6, "UNREADABLE"),
            (8, "INVALID_REQUEST"),
            (10, "TOTALS_MISMATCH"),
            (11, "UNREADABLE")
        ]
    );

    let (again, outcomes) = shop
        .import(opening("i-2", ImportFormat::ShopifyCsv), &file, 1 << 20)
        .await?;
    assert_eq!(counts(&again), (10, 0, 2, 4, 2));
    assert_eq!(outcomes[1].order_id, placed.order_id);
    assert_eq!(shop.get(&placed.order_id).await?, placed);
    assert_eq!(shop.count().await?, 2);
    // The first one once more: it is done, and says so without wanting a byte.
    let (done, outcomes) = shop
        .open_import(opening("i-1", ImportFormat::ShopifyCsv))
        .await?
        .rest()
        .await?;
    assert_eq!((counts(&done), outcomes.len()), (counts(&import), 0));
    Ok(())
}

/// O-20: wherever a stream breaks, the next one goes on behind the last whole order that is durable. Nothing is lost, nothing
/// is there twice, and every order is counted once.
#[tokio::test]
async fn a_stream_that_breaks_is_taken_up_where_it_was() -> Result<()> {
    let service = start().await;
    for (piece, checkpoints) in [(997, 1), (5000, 2)] {
        let shop = service.shop();
        let file = csv(1..450).into_bytes();
        let mut feed = shop.open_import(opening("i-1", ImportFormat::ShopifyCsv)).await?;
        // Cut off inside of an order.
        let sender = feed.sender();
        let part = file[..file.len() - 100].to_vec();
        let sending = tokio::spawn(async move { sender.send(&part, 0, piece, false).await });
        let mut outcomes = Vec::new();
        for _ in 0..checkpoints {
            outcomes.extend(feed.answer().await?.expect("a checkpoint").outcomes);
        }
        drop(feed);
        sending.abort();

        let feed = shop.open_import(opening("i-1", ImportFormat::ShopifyCsv)).await?;
        let begin = feed.opened.bytes_done;
        assert!(
            begin > 0 && (begin as usize) < file.len() && feed.opened.placed >= outcomes.len() as i64,
            "{:?}",
            feed.opened
        );
        // What is durable ends where an order ends.
        let rest = String::from_utf8(file[begin as usize..].to_vec())?;
        let next = rest.split(',').next().expect("a number");
        let before = String::from_utf8(file[..begin as usize].to_vec())?;
        assert!(
            next.starts_with('#') && !before.contains(&format!("\n{next},")),
            "{next}"
        );
        let sender = feed.sender();
        let whole = file.clone();
        tokio::spawn(async move { sender.send(&whole, begin, piece, true).await });
        let (import, _) = feed.rest().await?;
        assert_eq!(counts(&import), (449 + 149, 449, 0, 0, 449));
        assert_eq!(import.lines_done, 1 + 449 + 149);
        assert_eq!(shop.count().await?, 449);
    }
    Ok(())
}

/// O-20: what was placed before the step that told so was lost is counted as placed by the import, and not as a duplicate.
#[tokio::test]
async fn a_lost_step_is_made_again() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let file = csv(1..50).into_bytes();
    let (first, told) = shop
        .import(opening("i-1", ImportFormat::ShopifyCsv), &file, 1000)
        .await?;
    // As if the process had died between the placement and the step.
    sqlx::query("DELETE FROM order_imports")
        .execute(&mut service.tables().await)
        .await?;
    let (again, told_again) = shop
        .import(opening("i-1", ImportFormat::ShopifyCsv), &file, 333)
        .await?;
    assert_eq!((counts(&again), told_again), (counts(&first), told));
    assert_eq!(shop.count().await?, 49);
    Ok(())
}

#[tokio::test]
async fn of_two_streams_the_one_that_was_opened_last_goes_on() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let replica = service.replica().await;
    let elsewhere = Shop {
        client: replica.client(&service, &shop),
        ..shop.clone()
    };
    let file = csv(1..300).into_bytes();
    let first = shop.open_import(opening("i-1", ImportFormat::ShopifyCsv)).await?;
    let second = elsewhere
        .open_import(opening("i-1", ImportFormat::ShopifyCsv))
        .await?;
    let sender = first.sender();
    let part = file.clone();
    tokio::spawn(async move { sender.send(&part, 0, 10_000, true).await });
    assert_eq!(
        refusal(first.rest().await),
        (Code::FailedPrecondition, "IMPORT_TAKEN_OVER".to_owned())
    );
    let sender = second.sender();
    tokio::spawn(async move { sender.send(&file, 0, 10_000, true).await });
    let (import, _) = second.rest().await?;
    // The orders that the first had placed are this import's all the same.
    assert_eq!(counts(&import), (299 + 99, 299, 0, 0, 299));
    assert_eq!(shop.count().await?, 299);
    Ok(())
}

#[tokio::test]
async fn json_lines_are_orders_or_orders_with_their_payment() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let paid = format!(
        "{{\"order\":{},\"payment\":{{\"provider\":\"stripe\",\"providerPaymentId\":\"pi_2\"}}}}",
        json_line("2")
    );
    let strange = json_line("4").replace("\"number\"", "\"nummer\"");
    let file = format!(
        "{}\n{paid}\n\n{}\n{strange}\n{}\n{{\"number\":",
        json_line("1"),
        paid.replace("\"2\"", "\"3\""),
        json_line("5").replace("500", "9223372036854775807"),
    );
    let (import, outcomes) = shop
        .import(opening("i-1", ImportFormat::JsonLines), file.as_bytes(), 77)
        .await?;
    assert_eq!(counts(&import), (6, 3, 0, 3, 1));
    assert_eq!(import.payments_refused, 1);
    let told: Vec<_> = outcomes
        .iter()
        .map(|o| (o.line, o.result(), o.payment()))
        .collect();
    use ImportPaymentResult::{Recorded, Refused, Unspecified as None};
    assert_eq!(
        told,
        [
            (1, ImportResult::Placed, None),
            (2, ImportResult::Placed, Recorded),
            // The provider's payment is another order's.
            (4, ImportResult::Placed, Refused),
            (5, ImportResult::Refused, None),
            (6, ImportResult::Refused, None),
            (7, ImportResult::Refused, None),
        ]
    );
    assert_eq!(outcomes[2].payment_reason, "PAYMENT_DIFFERS");
    assert!(outcomes[3].message.contains("nummer"), "{}", outcomes[3].message);
    // Payments are left out when that is asked for.
    let without = proto::ImportOpening {
        without_payments: true,
        ..opening("i-2", ImportFormat::JsonLines)
    };
    let file = paid.replace("\"2\"", "\"6\"").replace("pi_2", "pi_6");
    let (import, _) = shop.import(without, file.as_bytes(), 1000).await?;
    assert_eq!(counts(&import), (1, 1, 0, 0, 0));
    Ok(())
}

#[tokio::test]
async fn files_that_are_none_are_refused_as_a_whole() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let csv = || opening("i-1", ImportFormat::ShopifyCsv);
    for (opening, file, words) in [
        (csv(), "", "the file is empty"),
        (csv(), "\n\n", "the file is empty"),
        (csv(), "a,b\n1,2\n", "Lineitem sku"),
        (
            opening("i-2", ImportFormat::JsonLines),
            " \n",
            "the file is empty",
        ),
    ] {
        let status = shop.import(opening, file.as_bytes(), 10).await.expect_err(words);
        assert!(status.message().contains(words), "{}", status.message());
        assert_eq!(
            refusal::<()>(Err(status)),
            (Code::InvalidArgument, "IMPORT_UNREADABLE".to_owned())
        );
    }
    // A header alone is a file without orders; and the key is still good, for nothing came of it.
    let (import, _) = shop.import(csv(), HEADER.as_bytes(), 1000).await?;
    assert_eq!(
        (import.state(), counts(&import)),
        (ImportState::Done, (0, 0, 0, 0, 0))
    );
    Ok(())
}

#[tokio::test]
async fn what_does_not_fit_the_import_is_refused_and_named() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let open = |change: &dyn Fn(&mut proto::ImportOpening)| {
        let mut opening = proto::ImportOpening {
            size_bytes: 100,
            sha256: "a".repeat(64),
            ..opening("i-1", ImportFormat::ShopifyCsv)
        };
        change(&mut opening);
        let shop = shop.clone();
        async move { shop.open_import(opening).await.map(|feed| feed.opened) }
    };
    open(&|_| {}).await?;
    for change in [
        (&|o: &mut proto::ImportOpening| o.format = ImportFormat::JsonLines.into()) as &dyn Fn(&mut _),
        &|o: &mut proto::ImportOpening| o.size_bytes = 101,
        &|o: &mut proto::ImportOpening| o.sha256 = "b".repeat(64),
    ] {
        assert_eq!(
            refusal(open(change).await),
            (Code::FailedPrecondition, "IMPORT_DIFFERS".to_owned())
        );
    }
    let fields = bad_fields(
        open(&|o| {
            (o.import_id, o.format) = (String::new(), 0);
            (o.size_bytes, o.sha256) = (-1, "A".into());
        })
        .await,
    );
    assert_eq!(
        fields,
        ["open.import_id", "open.format", "open.size_bytes", "open.sha256"]
    );
    let chunk = shop.import_message(Part::Chunk(proto::ImportChunk::default()));
    let unopened = shop.open_with(chunk).await.map(|feed| feed.opened);
    assert_eq!(bad_fields(unopened), ["open"]);

    // Chunks: not the next bytes, beyond the size, shorter than it, too large, of another store.
    for (offset, length, is_last, reason) in [
        (1, 10, false, "IMPORT_OFFSET"),
        (0, 101, false, "IMPORT_OFFSET"),
        (0, 99, true, "IMPORT_OFFSET"),
        (0, (1 << 20) + 1, false, "INVALID_REQUEST"),
    ] {
        let feed = shop.open_import(opening("i-1", ImportFormat::ShopifyCsv)).await?;
        feed.sender().chunk(offset, &vec![b'x'; length], is_last).await;
        assert_eq!(
            refusal(feed.rest().await),
            (Code::InvalidArgument, reason.to_owned())
        );
    }
    let feed = shop.open_import(opening("i-1", ImportFormat::ShopifyCsv)).await?;
    let stranger = service.shop();
    let message = stranger.import_message(Part::Chunk(proto::ImportChunk::default()));
    feed.sender.send(message).await?;
    assert_eq!(refusal(feed.rest().await).1, "TENANT_MISMATCH");

    assert_eq!(
        refusal(shop.get_import("nobody").await),
        (Code::NotFound, "IMPORT_NOT_FOUND".to_owned())
    );
    assert_eq!(refusal(stranger.get_import("i-1").await).1, "IMPORT_NOT_FOUND");
    Ok(())
}

#[tokio::test]
async fn a_process_serves_so_many_imports_at_once() -> Result<()> {
    let service = start_with(|config| config.max_imports = 2).await;
    let shop = service.shop();
    let first = shop.open_import(opening("i-1", ImportFormat::ShopifyCsv)).await?;
    let _second = shop.open_import(opening("i-2", ImportFormat::ShopifyCsv)).await?;
    let third = shop.open_import(opening("i-3", ImportFormat::ShopifyCsv)).await;
    assert_eq!(
        refusal(third.map(|feed| feed.opened)),
        (Code::ResourceExhausted, "TOO_MANY_IMPORTS".to_owned())
    );
    // A caller that goes away makes room.
    drop(first);
    eventually("there is room again", SOON, async || {
        let third = shop.open_import(opening("i-3", ImportFormat::ShopifyCsv)).await;
        third.map(drop).map_err(|status| status.to_string())
    })
    .await;
    Ok(())
}

/// A stream that its caller ends early leaves the import open, with everything that arrived whole.
#[tokio::test]
async fn an_end_without_the_last_byte_is_none() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let file = csv(1..6).into_bytes();
    let feed = shop.open_import(opening("i-1", ImportFormat::ShopifyCsv)).await?;
    let sender = feed.sender();
    let part = file[..file.len() - 30].to_vec();
    tokio::spawn(async move { sender.send(&part, 0, 1 << 20, false).await });
    let (import, outcomes) = feed.rest().await?;
    // Whether the fourth has another row is not known yet.
    assert_eq!((import.state(), outcomes.len()), (ImportState::Open, 3));
    let (import, outcomes) = shop
        .import(opening("i-1", ImportFormat::ShopifyCsv), &file, 1 << 20)
        .await?;
    assert_eq!(
        (import.state(), outcomes.len(), counts(&import)),
        (ImportState::Done, 2, (6, 5, 0, 0, 5))
    );
    Ok(())
}

#[tokio::test]
async fn the_largest_order_is_taken_and_a_larger_one_costs_itself() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let file = format!(
        "{HEADER}\n{}{}{}",
        csv_order(1, 10_000),
        csv_order(2, 10_001),
        csv_order(3, 1)
    );
    let (import, outcomes) = shop
        .import(opening("i-1", ImportFormat::ShopifyCsv), file.as_bytes(), 1 << 20)
        .await?;
    assert_eq!(counts(&import), (20_002, 2, 0, 1, 2));
    assert!(
        outcomes[1].message.contains("10001 rows"),
        "{}",
        outcomes[1].message
    );
    assert_eq!(outcomes[2].line, 20_003);
    Ok(())
}

/// O-20 by the tables: an import only moves on, and its counts add up.
#[tokio::test]
async fn an_import_does_not_go_back() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    shop.place(order("1")).await;
    let file = csv(1..3).into_bytes();
    shop.import(opening("i-1", ImportFormat::ShopifyCsv), &file, 1000)
        .await?;
    let mut t = service.tables().await;
    for (statement, fault) in [
        (
            "UPDATE order_imports SET bytes_done = bytes_done - 1",
            "an import only moves on",
        ),
        (
            "UPDATE order_imports SET is_done = false",
            "an import only moves on",
        ),
        ("UPDATE order_imports SET epoch = 0", "an import only moves on"),
        (
            "UPDATE order_imports SET placed = placed + 1",
            "order_imports_counts_add_up",
        ),
        (
            "UPDATE order_imports SET payments = 3",
            "order_imports_counts_add_up",
        ),
    ] {
        let error = sqlx::query(statement).execute(&mut t).await.expect_err(statement);
        assert!(error.to_string().contains(fault), "{statement}: {error}");
    }
    Ok(())
}
