//! Orders, bytes and payments that cannot be; and the largest order that can.

use anyhow::{Context as _, ensure};
use prost::Message as _;
use tonic::Code;
use waybill_e2e::orders::{line, minor, money, order};
use waybill_e2e::raw::{Raw, error_infos};
use waybill_e2e::shop::Shop;
use waybill_e2e::wait;
use waybill_proto::waybill::fulfillment::v1::GetOrderFulfillmentRequest;
use waybill_proto::waybill::order::v1::{
    BatchPlaceOrdersRequest, NewOrder, NewOrderLine, OrderSource, PlaceOrderResponse, PlaceOrderResult,
    RecordPaymentRequest,
};
use waybill_rpc::fault;

use crate::cases::{Case, cases, refused_for};
use crate::{bad_fields, replaced, stored};

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_cannot_be_are_refused_with_every_fault_named() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let mut faults = Vec::new();
    for case in cases() {
        let request = shop.place_request(case.order.clone());
        match shop.session.orders()?.place_order(request).await {
            Ok(_) => faults.push(format!("{}: was taken", case.what)),
            Err(status) => faults.extend(
                refused_for(&status, &case)
                    .err()
                    .map(|error| format!("{}: {error:#}", case.what)),
            ),
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    every_fault_at_once(&shop).await?;
    bad_orders_fail_alone_in_a_batch(&shop).await?;
    bytes_that_are_no_order(&shop).await?;
    payments_that_cannot_be(&shop).await?;
    let mut numbers: Vec<String> = stored(&shop)
        .await?
        .into_iter()
        .map(|order| order.number)
        .collect();
    numbers.sort();
    assert_eq!(
        numbers,
        ["B-0", "B-9", "P-1", "U-1"],
        "what was refused is stored, or what was taken is not"
    );
    shop.close().await
}

/// What has no form is told first, then what makes no sense; either time all of it.
async fn every_fault_at_once(shop: &Shop) -> anyhow::Result<()> {
    let refused_fields = async |order: NewOrder| -> anyhow::Result<Vec<String>> {
        let answer = shop
            .session
            .orders()?
            .place_order(shop.place_request(order))
            .await;
        let status = answer.err().context("it was taken")?;
        Ok(bad_fields(&status).into_iter().map(|(field, _)| field).collect())
    };
    let mut order = order(
        "bad",
        "GBP",
        vec![line("", 0, money("EUR", -1)), line("MUG", 1, money("XQQ", 1))],
    );
    order.source = None;
    order.shipping_address = None;
    let form = refused_fields(order.clone()).await?;
    // What could not be read does not hide the rest.
    for field in [
        "lines[1].unit_price.currency_code",
        "source",
        "shipping_address",
        "lines[0].sku",
    ] {
        ensure!(
            form.iter().any(|found| found == field),
            "{field} is not among {form:?}"
        );
    }
    order.source = Some(OrderSource {
        system: "Test".to_owned(),
        external_id: String::new(),
    });
    order.lines.pop();
    let sense = refused_fields(order).await?;
    for field in [
        "source.system",
        "source.external_id",
        "shipping_address",
        "lines[0].sku",
        "lines[0].quantity",
        "lines[0].unit_price",
    ] {
        ensure!(
            sense.iter().any(|found| found == field),
            "{field} is not among {sense:?}"
        );
    }
    Ok(())
}

async fn bad_orders_fail_alone_in_a_batch(shop: &Shop) -> anyhow::Result<()> {
    let good = |name: &str| order(name, "GBP", vec![line("MUG", 1, money("GBP", 1000))]);
    let bad: Vec<Case> = cases().into_iter().take(8).collect();
    let mut all = vec![good("B-0")];
    all.extend(bad.iter().map(|case| case.order.clone()));
    all.push(good("B-9"));
    let requests: Vec<BatchPlaceOrdersRequest> = (0..)
        .zip(all)
        .map(|(index, order)| BatchPlaceOrdersRequest {
            merchant_id: shop.session.merchant_id.clone(),
            store_id: shop.session.store_id.clone(),
            request_id: format!("batch-{index}"),
            order: Some(order),
        })
        .collect();
    let answer = shop
        .session
        .orders()?
        .batch_place_orders(tokio_stream::iter(requests))
        .await?
        .into_inner();
    ensure!(
        answer.outcomes.len() == bad.len() + 2,
        "{} outcomes",
        answer.outcomes.len()
    );
    for (index, outcome) in (0..).zip(&answer.outcomes) {
        ensure!(
            outcome.index == index,
            "outcome {} stands at {index}",
            outcome.index
        );
        let case = usize::try_from(index - 1).ok().and_then(|at| bad.get(at));
        let Some(case) = case else {
            ensure!(
                outcome.result() == PlaceOrderResult::Placed,
                "a good order: {}",
                outcome.message
            );
            continue;
        };
        ensure!(
            outcome.result() == PlaceOrderResult::Refused,
            "{} was taken",
            case.what
        );
        ensure!(outcome.reason == case.reason, "{}: {}", case.what, outcome.reason);
        ensure!(
            outcome.message.contains(case.field),
            "{}: {:?} does not name {}",
            case.what,
            outcome.message,
            case.field
        );
        ensure!(
            case.words.iter().all(|word| outcome.message.contains(word)),
            "{}: {}",
            case.what,
            outcome.message
        );
    }
    Ok(())
}

/// Messages that no generated client sends: broken ones, and those of a newer contract.
async fn bytes_that_are_no_order(shop: &Shop) -> anyhow::Result<()> {
    let raw = Raw::new(&shop.stack.context().endpoints["order"])?;
    let token = secrecy::SecretString::from(shop.stack.context().token.clone());
    let send = |message: Vec<u8>| {
        let (raw, token) = (raw.clone(), token.clone());
        async move {
            raw.call(
                "/waybill.order.v1.OrderService/PlaceOrder",
                Some(&token),
                message,
                false,
            )
            .await
        }
    };
    let sound = |name: &str| {
        let order = order(name, "GBP", vec![line("MUG", 1, money("GBP", 1000))]);
        shop.place_request(order).encode_to_vec()
    };
    let broken: [(&str, Vec<u8>); 5] = [
        ("bytes that are no message", vec![0xff; 40]),
        ("a message cut short", sound("cut")[..60].to_vec()),
        (
            "text that is not UTF-8",
            replaced(&sound("utf8"), b"Goods MUG", b"Goods \xff\xfeG"),
        ),
        (
            "a merchant that is not UTF-8",
            replaced(
                &sound("utf8"),
                &shop.session.merchant_id.as_bytes()[..4],
                b"\xff\xfe\xfd\xfc",
            ),
        ),
        ("an empty message", Vec::new()),
    ];
    for (what, message) in broken {
        let status = send(message)
            .await
            .err()
            .with_context(|| format!("{what} was taken"))?;
        ensure!(status.code() == Code::InvalidArgument, "{what}: {status:?}");
        ensure!(
            error_infos(&status) == 1,
            "{what}: {} ErrorInfo",
            error_infos(&status)
        );
    }
    // Fields of a newer contract are passed over: at the top, and inside of the order.
    let mut newer = sound("U-1");
    let mut inside = Vec::new();
    prost::encoding::string::encode(3000, &"from the future".to_owned(), &mut inside);
    prost::encoding::bytes::encode(4, &inside, &mut newer);
    prost::encoding::int64::encode(2000, &-1, &mut newer);
    let answer = send(newer).await?.context("an answer")?;
    ensure!(
        PlaceOrderResponse::decode(answer)?
            .order
            .is_some_and(|order| order.number == "U-1"),
        "not taken"
    );
    Ok(())
}

/// Enums of a newer contract, amounts that are none, ids that are none.
async fn payments_that_cannot_be(shop: &Shop) -> anyhow::Result<()> {
    let placed = shop
        .place(order("P-1", "GBP", vec![line("MUG", 1, money("GBP", 1000))]))
        .await?;
    let sound = RecordPaymentRequest {
        merchant_id: shop.session.merchant_id.clone(),
        store_id: shop.session.store_id.clone(),
        request_id: "payment".to_owned(),
        order_id: placed.order_id.clone(),
        kind: 2,
        provider: "stripe".to_owned(),
        provider_payment_id: "pi_P-1".to_owned(),
        amount: Some(money("GBP", 1000)),
        occurred_at: None,
        ..RecordPaymentRequest::default()
    };
    let spoilt = |field: &'static str, spoil: fn(&mut RecordPaymentRequest)| {
        let mut request = sound.clone();
        spoil(&mut request);
        (field, request)
    };
    let cases = [
        spoilt("kind", |payment| payment.kind = 77),
        spoilt("kind", |payment| payment.kind = 0),
        spoilt("amount", |payment| payment.amount = Some(money("GBP", 0))),
        spoilt("amount", |payment| payment.amount = Some(money("GBP", -1000))),
        spoilt("amount", |payment| payment.amount = Some(money("EUR", 1000))),
        spoilt("order_id", |payment| payment.order_id = "1001".to_owned()),
        spoilt("request_id", |payment| payment.request_id = String::new()),
        spoilt("request_id", |payment| payment.request_id = "a b\n".to_owned()),
    ];
    for (field, request) in cases {
        let status = shop.session.orders()?.record_payment(request).await.err();
        let status = status.with_context(|| format!("a payment with a wrong {field} was taken"))?;
        ensure!(status.code() == Code::InvalidArgument, "{field}: {status:?}");
        let fields = bad_fields(&status);
        ensure!(
            fields.iter().any(|(found, _)| found.starts_with(field)),
            "{field} is not among {fields:?}"
        );
    }
    let beyond = RecordPaymentRequest {
        amount: Some(money("GBP", i64::MAX)),
        ..sound.clone()
    };
    let status = shop
        .session
        .orders()?
        .record_payment(beyond)
        .await
        .err()
        .context("beyond the total")?;
    ensure!(
        fault::reason(&status).as_deref() == Some("CAPTURE_EXCEEDS_TOTAL"),
        "{status:?}"
    );
    // The same request id for something else, after the sound one was taken.
    shop.session.orders()?.record_payment(sound.clone()).await?;
    let other = RecordPaymentRequest {
        provider_payment_id: "pi_other".to_owned(),
        ..sound
    };
    let status = shop
        .session
        .orders()?
        .record_payment(other)
        .await
        .err()
        .context("a request id used twice")?;
    ensure!(
        fault::reason(&status).as_deref() == Some("REQUEST_ID_REUSED"),
        "{status:?}"
    );
    let captured = minor(shop.session.order(&placed.order_id).await?.captured.as_ref());
    ensure!(captured == 1000, "captured {captured}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_lines_are_taken_and_one_more_is_not() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let lines = |count: i32| -> Vec<NewOrderLine> {
        (0..count)
            .map(|number| line(&format!("SKU-{}", number % 2000), 1, money("GBP", 100)))
            .collect()
    };
    shop.stock((0..2000).map(|number| (format!("SKU-{number}"), 5)))
        .await?;
    let refused = shop.place_request(order("too-long", "GBP", lines(10_001)));
    let status = shop
        .session
        .orders()?
        .place_order(refused)
        .await
        .err()
        .context("10 001 lines were taken")?;
    ensure!(status.code() == Code::InvalidArgument, "{status:?}");
    let fields = bad_fields(&status);
    ensure!(
        fields
            .iter()
            .any(|(field, text)| field == "lines" && text.contains("10001") && text.contains("10000")),
        "{fields:?}"
    );

    let placed = shop.place(order("long", "GBP", lines(10_000))).await?;
    ensure!(placed.lines.len() == 10_000, "{} lines", placed.lines.len());
    // And the others hear of all of it: an event of this size does not fit into a message.
    let allocated = wait::until("stock for 10 000 lines", || async {
        let request = GetOrderFulfillmentRequest {
            merchant_id: shop.session.merchant_id.clone(),
            store_id: shop.session.store_id.clone(),
            order_id: placed.order_id.clone(),
            min_order_version: placed.version,
        };
        match shop.session.fulfillment()?.get_order_fulfillment(request).await {
            Ok(answer) => Ok(answer.into_inner().fulfillment),
            Err(status) if status.code() == Code::Unavailable => Ok(None),
            Err(status) => Err(status.into()),
        }
    });
    let allocated = allocated.await?;
    let units: i32 = allocated
        .allocations
        .iter()
        .filter(|part| !part.location_id.is_empty())
        .map(|part| part.quantity)
        .sum();
    ensure!(units == 10_000, "{units} of 10 000 units are reserved");
    shop.reached(&placed.order_id, "the order with all its lines", |order| {
        order.lines.len() == 10_000
    })
    .await?;
    shop.close().await
}
