//! The client's side: tokens, deadlines, failures of the way, retries.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tonic::{Code, Request, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use waybill_proto::waybill::analytics::v1::analytics_service_client::AnalyticsServiceClient;
use waybill_rpc::client::{self, RetryPolicy, TokenSource, is_retryable, with_retry};
use waybill_rpc::fault;

use crate::support::{Running, SOON, ids, summary};

fn status(code: Code, reason: &str, retry: Option<Duration>) -> Status {
    let mut details =
        ErrorDetails::with_error_info(reason, "order.waybill", [("a".to_owned(), "b".to_owned())]);
    if retry.is_some() {
        details.set_retry_info(retry);
    }
    Status::with_error_details(code, "no", details)
}

#[tokio::test]
async fn a_service_that_is_away_is_unavailable() -> anyhow::Result<()> {
    // A port where nobody listens.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    drop(listener);
    let mut client = AnalyticsServiceClient::new(client::connect(&url, TokenSource::none(), "edge")?);
    let away = client
        .get_summary(summary(ids().0, ids().1, ""))
        .await
        .expect_err("nobody listens");
    assert_eq!(away.code(), Code::Unavailable);
    let info = fault::error_info(&away).expect("details");
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("PEER_UNAVAILABLE", "edge.waybill")
    );
    assert!(is_retryable(&away));
    Ok(())
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_at_once() {
    for url in ["", "not an address", "http://"] {
        let error = client::connect(url, TokenSource::none(), "edge")
            .map(drop)
            .expect_err(url);
        assert!(error.to_string().contains("write http://host:port"), "{error}");
    }
}

#[tokio::test]
async fn a_call_without_an_answer_ends_at_its_deadline() -> anyhow::Result<()> {
    // Takes the connection into its backlog and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", silent.local_addr()?);
    let channel =
        client::connect(&url, TokenSource::none(), "edge")?.with_deadline(Duration::from_millis(200));
    let started = Instant::now();
    let call = AnalyticsServiceClient::new(channel)
        .get_summary(summary(ids().0, ids().1, ""))
        .await;
    let late = call.expect_err("no answer");
    assert_eq!(
        (late.code(), fault::reason(&late).as_deref()),
        (Code::DeadlineExceeded, Some("DEADLINE_EXCEEDED"))
    );
    assert!(started.elapsed() < SOON);
    Ok(())
}

#[tokio::test]
async fn a_deadline_of_the_request_wins_over_the_default() -> anyhow::Result<()> {
    let server = Running::new().await?;
    let mut client = AnalyticsServiceClient::new(server.as_merchant(&["analytics:read"]));
    let mut request = Request::new(summary(ids().0, ids().1, "hang"));
    request.set_timeout(Duration::from_millis(150));
    let started = Instant::now();
    let late = client.get_summary(request).await.expect_err("it hangs");
    assert_eq!(
        (late.code(), fault::reason(&late).as_deref()),
        (Code::DeadlineExceeded, Some("DEADLINE_EXCEEDED"))
    );
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "took {:?}",
        started.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn a_token_in_a_file_is_read_and_its_absence_is_told() -> anyhow::Result<()> {
    let server = Running::new().await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("token");
    let mut client = AnalyticsServiceClient::new(server.channel(TokenSource::file(&file)));
    let missing = client
        .get_summary(summary(ids().0, ids().1, ""))
        .await
        .expect_err("no file yet");
    assert_eq!(fault::reason(&missing).as_deref(), Some("TOKEN_UNAVAILABLE"));
    std::fs::write(
        &file,
        format!("{}\n", server.token(&["analytics:read"]).expose_secret()),
    )?;
    client.get_summary(summary(ids().0, ids().1, "")).await?;
    Ok(())
}

#[tokio::test]
async fn what_can_go_well_is_repeated_and_nothing_else() {
    let quick = RetryPolicy {
        attempts: 3,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(4),
    };
    let cases = [
        (status(Code::Unavailable, "ANY", None), 3),
        (status(Code::Aborted, "CONFLICT", None), 3),
        (
            status(
                Code::ResourceExhausted,
                "SERVER_BUSY",
                Some(Duration::from_millis(1)),
            ),
            3,
        ),
        (status(Code::Aborted, "ETAG_MISMATCH", None), 1),
        (status(Code::InvalidArgument, "ANY", None), 1),
        (status(Code::DeadlineExceeded, "ANY", None), 1),
        (Status::internal("bare"), 1),
    ];
    for (answer, expected) in cases {
        let calls = AtomicU32::new(0);
        let last = with_retry(quick, || {
            calls.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Err::<(), _>(answer.clone()))
        })
        .await
        .expect_err("it never goes well");
        assert_eq!(calls.load(Ordering::SeqCst), expected, "{last:?}");
    }
    let calls = AtomicU32::new(0);
    let third = with_retry(quick, || {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        std::future::ready(if call < 2 {
            Err(status(Code::Unavailable, "ANY", None))
        } else {
            Ok(call)
        })
    })
    .await;
    assert_eq!(third.ok(), Some(2));
}
