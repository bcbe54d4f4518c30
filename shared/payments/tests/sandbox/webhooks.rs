//! The sandbox tells about refunds as Stripe does, and our verification believes it and nobody else.

use std::sync::Arc;
use std::time::Duration;

use crate::common::{eur, refund_of, sandbox};
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::{Router, routing::post};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use waybill_kernel::time::{Clock as _, SystemClock};
use waybill_payments::sandbox::{Fault, SandboxOptions, WebhookEndpoint};
use waybill_payments::stripe::{Event, parse_event, verify_webhook};
use waybill_payments::{PaymentProvider, RefundState};

fn secret() -> SecretString {
    SecretString::from("whsec_test".to_owned())
}

/// A receiver that refuses the first `refusals` deliveries and hands on every event that it believes.
async fn receiver(refusals: usize) -> anyhow::Result<(String, mpsc::UnboundedReceiver<Event>)> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let left = Arc::new(std::sync::atomic::AtomicUsize::new(refusals));
    let handler = move |headers: HeaderMap, body: Bytes| {
        let (sender, left) = (sender.clone(), Arc::clone(&left));
        async move {
            use std::sync::atomic::Ordering::SeqCst;
            if left
                .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
                .is_ok()
            {
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            let header = headers
                .get("Stripe-Signature")
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            if verify_webhook(header, &body, &[secret()], SystemClock.now()).is_err() {
                return StatusCode::BAD_REQUEST;
            }
            match parse_event(&body) {
                Ok(event) => sender.send(event).map_or(StatusCode::GONE, |()| StatusCode::OK),
                Err(_) => StatusCode::UNPROCESSABLE_ENTITY,
            }
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/hooks/stripe", listener.local_addr()?);
    tokio::spawn(
        async move { axum::serve(listener, Router::new().route("/hooks/stripe", post(handler))).await },
    );
    Ok((url, receiver))
}

async fn wait_for(events: &mut mpsc::UnboundedReceiver<Event>, kind: &str) -> anyhow::Result<Event> {
    let found = async {
        while let Some(event) = events.recv().await {
            if event.kind == kind {
                return Ok(event);
            }
        }
        anyhow::bail!("the receiver stopped")
    };
    tokio::time::timeout(Duration::from_secs(20), found).await?
}

#[tokio::test]
async fn pending_then_succeeded_is_told() -> anyhow::Result<()> {
    let (url, mut events) = receiver(0).await?;
    let webhook = Some(WebhookEndpoint::new(&url, secret())?);
    let (sandbox, provider) = sandbox(SandboxOptions {
        webhook,
        ..SandboxOptions::default()
    })
    .await?;
    sandbox.inject(Fault::Pending {
        settle_after_ms: Some(20),
        failure_reason: None,
    });
    let request = refund_of("pi_1", eur(700));
    let refund = provider.refund(&request).await?;
    assert_eq!(refund.state, RefundState::Pending);

    let event = wait_for(&mut events, "refund.updated").await?;
    let notice = event.refund.expect("about the refund");
    assert_eq!(notice.provider_refund_id, refund.provider_refund_id);
    assert_eq!(notice.provider_payment_id, "pi_1");
    assert_eq!(notice.leg_id, Some(request.leg_id));
    assert_eq!(notice.amount, eur(700));
    assert_eq!(notice.state, RefundState::Succeeded);
    Ok(())
}

#[tokio::test]
async fn a_refund_that_bounces_is_told() -> anyhow::Result<()> {
    let (url, mut events) = receiver(0).await?;
    let (sandbox, provider) = sandbox(SandboxOptions::default()).await?;
    sandbox.set_webhook(WebhookEndpoint::new(&url, secret())?);
    sandbox.inject(Fault::Bounced {
        after_ms: 20,
        failure_reason: "lost_or_stolen_card".into(),
    });
    let refund = provider.refund(&refund_of("pi_1", eur(700))).await?;
    assert_eq!(refund.state, RefundState::Succeeded);

    let notice = wait_for(&mut events, "refund.failed")
        .await?
        .refund
        .expect("about the refund");
    assert_eq!(notice.provider_refund_id, refund.provider_refund_id);
    assert_eq!(
        notice.state,
        RefundState::Failed {
            reason: "lost_or_stolen_card".into()
        }
    );
    assert_eq!(sandbox.paid_out("pi_1"), 0);
    Ok(())
}

#[tokio::test]
async fn deliveries_are_repeated_until_taken_and_may_come_twice() -> anyhow::Result<()> {
    let (url, mut events) = receiver(3).await?;
    let webhook = Some(WebhookEndpoint::new(&url, secret())?);
    let (_sandbox, provider) = sandbox(SandboxOptions {
        webhook,
        deliveries: 2,
        ..SandboxOptions::default()
    })
    .await?;
    provider.refund(&refund_of("pi_1", eur(1))).await?;
    let first = wait_for(&mut events, "refund.created").await?;
    let second = wait_for(&mut events, "refund.created").await?;
    assert_eq!(first, second, "the same event id: a receiver can tell");
    Ok(())
}

#[tokio::test]
async fn a_receiver_with_another_secret_believes_nothing() -> anyhow::Result<()> {
    let (url, _events) = receiver(0).await?;
    let client = WebhookEndpoint::new(&url, SecretString::from("whsec_other".to_owned()))?;
    let (sandbox, provider) = sandbox(SandboxOptions {
        webhook: Some(client),
        ..SandboxOptions::default()
    })
    .await?;
    provider.refund(&refund_of("pi_1", eur(1))).await?;
    let refused_twice = async {
        while sandbox.events().iter().any(|event| event.tries < 2) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused_twice).await?;
    assert!(sandbox.events().iter().all(|event| !event.delivered));
    Ok(())
}
