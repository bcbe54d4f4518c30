//! The service as it runs: gRPC in, jobs behind, providers outside.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tonic::{Code, Status};
use waybill_payments::sandbox::Fault;
use waybill_proto::waybill::refund::v1 as proto;
use waybill_proto::waybill::refund::v1::refund_service_client::RefundServiceClient;
use waybill_proto::waybill::r#type::v1::Money;
use waybill_rpc::client::connect;
use waybill_rpc::fault;
use waybill_testkit::eventually;

use crate::running::{ALL, euros, running};

fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("a refusal");
    (status.code(), fault::reason(&status).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_return_ends_with_money_by_itself() -> Result<()> {
    let mut running = running().await?;
    let published = running.publish().await?;
    assert!(
        published.text.contains("within 30 days after delivery"),
        "{}",
        published.text
    );
    let order = running.bench.delivered(&[(2, 2_000, &[380])], &[], &[]).await?;
    let (merchant_id, store_id) = running.tenant();
    let lines = vec![proto::NewReturnLine {
        line_id: order.lines[0].to_string(),
        quantity: 1,
        reason: proto::ReturnReason::Unwanted.into(),
    }];
    let quote = running
        .client
        .quote_return(proto::QuoteReturnRequest {
            merchant_id: merchant_id.clone(),
            store_id: store_id.clone(),
            order_id: order.order_id.to_string(),
            lines: lines.clone(),
            min_order_version: 0,
        })
        .await?
        .into_inner()
        .quote
        .context("a quote")?;
    assert_eq!(quote.total, Some(euros(1_000 + 190 - 100)));
    assert_eq!(quote.lines[0].reason_codes, ["ELIGIBLE"]);
    let requested = running
        .client
        .request_return(proto::RequestReturnRequest {
            merchant_id: merchant_id.clone(),
            store_id: store_id.clone(),
            request_id: "rma".to_owned(),
            order_id: order.order_id.to_string(),
            lines,
            min_order_version: 0,
        })
        .await?
        .into_inner()
        .r#return
        .context("a return")?;
    assert_eq!(requested.state(), proto::ReturnState::Approved);
    assert_eq!(requested.quote, Some(quote));

    let received = running
        .client
        .receive_return(proto::ReceiveReturnRequest {
            merchant_id: merchant_id.clone(),
            store_id: store_id.clone(),
            request_id: "dock".to_owned(),
            return_id: requested.return_id.clone(),
            lines: vec![],
            etag: requested.etag.clone(),
        })
        .await?
        .into_inner()
        .r#return
        .context("a return")?;
    let paid = running
        .until(&received.refund_id, proto::RefundState::Succeeded)
        .await;
    assert_eq!(paid.amount, Some(euros(1_090)));
    assert_eq!(paid.components[0].units, [1]);
    let seconds = |time: Option<prost_types::Timestamp>| time.map(|time| time.seconds);
    assert!(seconds(paid.expected_at) > seconds(paid.succeeded_at) && paid.succeeded_at.is_some());

    let get = proto::GetReturnRequest {
        merchant_id: merchant_id.clone(),
        store_id: store_id.clone(),
        return_id: requested.return_id.clone(),
    };
    let ended = running
        .client
        .get_return(get)
        .await?
        .into_inner()
        .r#return
        .context("a return")?;
    assert_eq!(ended.state(), proto::ReturnState::Completed);
    let listed = running
        .client
        .list_returns(proto::ListReturnsRequest {
            merchant_id: merchant_id.clone(),
            store_id,
            order_id: order.order_id.to_string(),
            ..proto::ListReturnsRequest::default()
        })
        .await?
        .into_inner();
    assert_eq!(listed.returns, [ended]);

    let books = running
        .client
        .get_trial_balance(proto::GetTrialBalanceRequest { merchant_id })
        .await?
        .into_inner();
    assert!(books.balanced && books.accounts.len() >= 6, "{books:?}");
    running.bench.audit(&order).await?;
    running.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_out_is_resolved_by_the_workers_alone() -> Result<()> {
    let running = running().await?;
    let order = running.bench.delivered(&[(2, 2_000, &[])], &[], &[]).await?;
    running.bench.sandbox.inject(Fault::TimeoutAfter);
    let request = running.create(&order, "lost", 1);
    let created = running
        .client
        .clone()
        .create_refund(request)
        .await?
        .into_inner()
        .refund
        .context("a refund")?;
    let paid = running
        .until(&created.refund_id, proto::RefundState::Succeeded)
        .await;
    assert_eq!(paid.legs[0].attempts, 1, "it was looked up, not called again");
    assert_eq!(running.bench.sandbox.ledger().len(), 1);

    // A provider that takes its time is asked now and then.
    running.bench.sandbox.inject(Fault::Pending {
        settle_after_ms: Some(200),
        failure_reason: None,
    });
    let request = running.create(&order, "slow", 1);
    let created = running
        .client
        .clone()
        .create_refund(request)
        .await?
        .into_inner()
        .refund
        .context("a refund")?;
    running
        .until(&created.refund_id, proto::RefundState::Succeeded)
        .await;
    running.bench.audit(&order).await?;
    running.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_is_paid_back_by_itself() -> Result<()> {
    let running = running().await?;
    let bench = &running.bench;
    let (mut order, placed) = bench.placed(&[(2, 2_000, &[])], &[(300, 0)]);
    let captured = bench.capture(&mut order, "sandbox", 2_300)?;
    let message = waybill_proto::waybill::order::v1::OrderCancelled {
        order_id: order.order_id.to_string(),
        ..Default::default()
    };
    bench
        .fold(&[
            placed,
            captured,
            bench.event("order", order.order_id, 3, &message),
        ])
        .await?;
    eventually("the money is back", Duration::from_secs(20), || async {
        let paid = bench.sandbox.paid_out(&order.payments[0].1);
        if paid == 2_300 {
            Ok(())
        } else {
            Err(format!("{paid} is back"))
        }
    })
    .await;
    eventually("it is noted", Duration::from_secs(20), || async {
        let told = bench
            .told(order.order_id)
            .await
            .map_err(|error| error.to_string())?;
        if told == ["RefundCreated", "RefundStarted", "RefundSucceeded"] {
            Ok(())
        } else {
            Err(format!("{told:?}"))
        }
    })
    .await;
    bench.audit(&order).await?;
    running.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_of_a_request_is_named() -> Result<()> {
    let running = running().await?;
    let mut client = running.client.clone();
    let (merchant_id, store_id) = running.tenant();
    let answer = client
        .create_refund(proto::CreateRefundRequest {
            merchant_id,
            store_id,
            request_id: String::new(),
            order_id: "7".to_owned(),
            lines: vec![proto::RefundUnits {
                line_id: String::new(),
                quantity: 0,
            }],
            goodwill: Some(Money {
                currency_code: "EURO".to_owned(),
                minor_units: -5,
            }),
            reason: String::new(),
            min_order_version: -1,
            shipping: false,
        })
        .await
        .expect_err("nearly everything is wrong");
    assert_eq!(
        (answer.code(), fault::reason(&answer).as_deref()),
        (Code::InvalidArgument, Some("INVALID_REQUEST"))
    );
    let mut fields: Vec<String> = fault::bad_fields(&answer)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    fields.sort();
    assert_eq!(
        fields,
        [
            "goodwill.currency_code",
            "lines[0].line_id",
            "lines[0].quantity",
            "min_order_version",
            "order_id",
            "reason",
            "request_id"
        ]
    );
    running.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_stable_reasons() -> Result<()> {
    let mut running = running().await?;
    let order = running.bench.delivered(&[(2, 2_000, &[])], &[], &[]).await?;
    let mut client = running.client.clone();
    let nowhere = proto::CreateRefundRequest {
        order_id: waybill_kernel::id::OrderId::generate().to_string(),
        ..running.create(&order, "a", 1)
    };
    assert_eq!(
        refusal(client.create_refund(nowhere.clone()).await),
        (Code::NotFound, "ORDER_NOT_FOUND".into())
    );
    let soon = proto::CreateRefundRequest {
        min_order_version: 1,
        ..nowhere
    };
    let answer = client.create_refund(soon).await.expect_err("it is not here");
    assert_eq!(fault::retry_after(&answer), Some(Duration::from_millis(100)));
    assert_eq!(
        refusal::<()>(Err(answer)),
        (Code::Unavailable, "ORDER_NOT_SEEN_YET".into())
    );

    let too_many = client.create_refund(running.create(&order, "b", 3)).await;
    assert_eq!(
        refusal(too_many),
        (Code::FailedPrecondition, "UNITS_NOT_FREE".into())
    );
    let foreign = proto::CreateRefundRequest {
        lines: vec![],
        goodwill: Some(Money {
            currency_code: "USD".to_owned(),
            minor_units: 5,
        }),
        ..running.create(&order, "c", 1)
    };
    assert_eq!(
        refusal(client.create_refund(foreign).await),
        (Code::InvalidArgument, "INVALID_REQUEST".into())
    );
    let generous = proto::CreateRefundRequest {
        lines: vec![],
        goodwill: Some(euros(5)),
        ..running.create(&order, "d", 1)
    };
    let answer = client
        .create_refund(generous)
        .await
        .expect_err("units still owe everything");
    let info = fault::error_info(&answer).context("an ErrorInfo")?;
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("EXCEEDS_REFUNDABLE", "refund.waybill")
    );
    assert_eq!(
        (
            info.metadata["asked"].as_str(),
            info.metadata["refundable"].as_str()
        ),
        ("0.05 EUR", "0.00 EUR")
    );

    running.publish().await?;
    let again = running.publish().await?;
    assert_eq!(
        again.policy.map(|policy| policy.version),
        Some(1),
        "the same request is answered as before"
    );
    running.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_is_answered_as_the_first_one() -> Result<()> {
    let running = running().await?;
    let order = running.bench.delivered(&[(4, 2_000, &[])], &[], &[]).await?;
    let mut client = running.client.clone();
    let first = client
        .create_refund(running.create(&order, "once", 1))
        .await?
        .into_inner();
    let second = client
        .create_refund(running.create(&order, "once", 1))
        .await?
        .into_inner();
    assert_eq!(first, second);
    let other = client.create_refund(running.create(&order, "once", 2)).await;
    assert_eq!(
        refusal(other),
        (Code::InvalidArgument, "REQUEST_ID_REUSED".into())
    );
    running.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_person_approves_and_a_webhook_is_handed_in() -> Result<()> {
    let mut running = running().await?;
    running.publish().await?;
    let order = running.bench.delivered(&[(2, 20_000, &[])], &[], &[]).await?;
    let (merchant_id, store_id) = running.tenant();
    let request = running.create(&order, "big", 1);
    let created = running
        .client
        .create_refund(request)
        .await?
        .into_inner()
        .refund
        .context("a refund")?;
    assert_eq!(created.state(), proto::RefundState::PendingApproval);
    let approve = proto::ApproveRefundRequest {
        merchant_id: merchant_id.clone(),
        store_id: store_id.clone(),
        request_id: "yes".to_owned(),
        refund_id: created.refund_id.clone(),
    };
    let myself = running.client.approve_refund(approve.clone()).await;
    assert_eq!(refusal(myself), (Code::PermissionDenied, "SAME_PERSON".into()));
    let unscoped = running
        .client_with(&["refunds:write"])?
        .approve_refund(approve.clone())
        .await;
    assert_eq!(
        refusal(unscoped),
        (Code::PermissionDenied, "SCOPE_MISSING".into())
    );

    // Somebody else, whose provider is slow.
    running.bench.sandbox.inject(Fault::Pending {
        settle_after_ms: None,
        failure_reason: None,
    });
    let claims = waybill_rpc::auth::Claims::merchant(
        "manager",
        running.bench.tenant.merchant,
        &[running.bench.tenant.store],
        &ALL,
    );
    let token = running.auth.issuer().mint(&claims, Duration::from_secs(600));
    let source = waybill_rpc::client::TokenSource::fixed(token);
    let mut manager = RefundServiceClient::new(connect(&running.url, source, "test")?);
    manager.approve_refund(approve).await?;
    let sent = eventually("the provider has it", Duration::from_secs(20), || async {
        let refund = running
            .refund(&created.refund_id)
            .await
            .map_err(|error| error.to_string())?;
        if refund.legs[0].provider_refund_id.is_empty() {
            Err(format!("{:?}", refund.state()))
        } else {
            Ok(refund)
        }
    })
    .await;
    let told = proto::RecordProviderRefundRequest {
        merchant_id: merchant_id.clone(),
        store_id: store_id.clone(),
        provider: "sandbox".to_owned(),
        provider_refund_id: sent.legs[0].provider_refund_id.clone(),
        outcome: "failed".to_owned(),
        failure_reason: "declined".to_owned(),
        leg_id: String::new(),
    };
    running
        .bench
        .sandbox
        .settle(&told.provider_refund_id, Some("declined"));
    let heard = running
        .client
        .record_provider_refund(told.clone())
        .await?
        .into_inner()
        .refund
        .context("a refund")?;
    assert_eq!(
        (heard.state(), heard.legs[0].failure_reason.as_str()),
        (proto::RefundState::Failed, "declined")
    );
    let stranger = proto::RecordProviderRefundRequest {
        provider_refund_id: "re_x".to_owned(),
        ..told
    };
    let stranger = running.client.record_provider_refund(stranger).await;
    assert_eq!(refusal(stranger), (Code::NotFound, "LEG_NOT_FOUND".into()));

    let retry = proto::RetryRefundLegRequest {
        merchant_id,
        store_id,
        request_id: "again".to_owned(),
        refund_id: created.refund_id.clone(),
        leg_id: heard.legs[0].leg_id.clone(),
    };
    running.client.retry_refund_leg(retry.clone()).await?;
    running
        .until(&created.refund_id, proto::RefundState::Succeeded)
        .await;
    let late = proto::RetryRefundLegRequest {
        request_id: "once-more".to_owned(),
        ..retry
    };
    let late = running.client.retry_refund_leg(late).await;
    assert_eq!(
        refusal(late),
        (Code::FailedPrecondition, "ILLEGAL_TRANSITION".into())
    );
    running.bench.audit(&order).await?;
    running.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_paged_and_bound_to_their_filter() -> Result<()> {
    let running = running().await?;
    let mut client = running.client.clone();
    let order = running.bench.delivered(&[(9, 900, &[])], &[], &[]).await?;
    let mut ids = Vec::new();
    for number in 0..5 {
        let request = running.create(&order, &format!("r{number}"), 1);
        ids.push(
            client
                .create_refund(request)
                .await?
                .into_inner()
                .refund
                .context("a refund")?
                .refund_id,
        );
    }
    ids.reverse();
    let (merchant_id, store_id) = running.tenant();
    let mut page = proto::ListRefundsRequest {
        merchant_id: merchant_id.clone(),
        store_id: store_id.clone(),
        page_size: 2,
        ..proto::ListRefundsRequest::default()
    };
    let mut seen = Vec::new();
    loop {
        let answer = client.list_refunds(page.clone()).await?.into_inner();
        assert!(answer.refunds.len() <= 2);
        seen.extend(answer.refunds.into_iter().map(|refund| refund.refund_id));
        page.page_token = answer.next_page_token;
        if page.page_token.is_empty() {
            break;
        }
        if seen.len() == 2 {
            let other = proto::ListRefundsRequest {
                order_id: order.order_id.to_string(),
                ..page.clone()
            };
            assert_eq!(
                refusal(client.list_refunds(other).await).0,
                Code::InvalidArgument,
                "another filter"
            );
        }
    }
    assert_eq!(seen, ids, "newest first, each once");

    let batch = proto::BatchGetRefundsRequest {
        merchant_id: merchant_id.clone(),
        store_id: store_id.clone(),
        refund_ids: vec![
            ids[3].clone(),
            waybill_kernel::id::RefundId::generate().to_string(),
            ids[0].clone(),
        ],
    };
    let found = client.batch_get_refunds(batch).await?.into_inner().refunds;
    assert_eq!(
        found.iter().map(|refund| &refund.refund_id).collect::<Vec<_>>(),
        [&ids[3], &ids[0]]
    );

    for id in &ids {
        running.until(id, proto::RefundState::Succeeded).await;
    }
    let entries = client
        .list_journal_entries(proto::ListJournalEntriesRequest {
            merchant_id,
            store_id,
            order_id: order.order_id.to_string(),
            ..proto::ListJournalEntriesRequest::default()
        })
        .await?
        .into_inner()
        .entries;
    let kinds = |kind: &str| entries.iter().filter(|entry| entry.kind == kind).count();
    assert_eq!(
        (
            kinds("sale"),
            kinds("capture"),
            kinds("refund_accrued"),
            kinds("refund_paid")
        ),
        (1, 1, 5, 5)
    );
    for entry in &entries {
        let sum: i64 = entry
            .lines
            .iter()
            .filter_map(|line| line.amount.as_ref())
            .map(|money| money.minor_units)
            .sum();
        assert_eq!(sum, 0, "R-5: {entry:?}");
    }
    running.stop().await
}
