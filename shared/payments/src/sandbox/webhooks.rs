//! Telling the configured URL about refunds, as Stripe does: signed, in no particular order, at least once.

use std::time::Duration;

use reqwest::Url;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use waybill_kernel::id::EventId;
use waybill_kernel::time;

use crate::http::{self, ClientError};
use crate::stripe::sign_webhook;

/// First pause between two tries; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_TRIES: u32 = 8;
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Where events are sent, and with which secret they are signed.
#[derive(Debug, Clone)]
pub struct WebhookEndpoint {
    url: Url,
    secret: SecretString,
    client: reqwest::Client,
}

impl WebhookEndpoint {
    /// An endpoint.
    ///
    /// # Errors
    /// When the URL cannot be called, or is plain http to another machine.
    pub fn new(url: &str, secret: SecretString) -> Result<Self, ClientError> {
        let url = http::base_url(url)?;
        let client = http::client(&url, CALL_TIMEOUT)?;
        Ok(Self { url, secret, client })
    }

    /// Sends an event until it is taken. `note` hears after each try whether it was.
    pub(super) async fn deliver(&self, event: &EventRecord, clock: &time::Shared, note: impl Fn(bool)) {
        let mut pause = FIRST_PAUSE;
        for _ in 0..MAX_TRIES {
            let signature = sign_webhook(event.body.as_bytes(), &self.secret, clock.now());
            let call = self
                .client
                .post(self.url.clone())
                .header("Stripe-Signature", signature)
                .header("Content-Type", "application/json; charset=utf-8")
                .body(event.body.clone());
            let taken = call
                .send()
                .await
                .is_ok_and(|response| response.status().is_success());
            note(taken);
            if taken {
                return;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

/// An event and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Id of the event.
    pub id: String,
    /// Its type, such as `"refund.updated"`.
    pub kind: String,
    /// What is sent.
    pub body: String,
    /// How often it was sent.
    pub tries: u32,
    /// Whether the receiver took it.
    pub delivered: bool,
}

impl EventRecord {
    pub(super) fn new(kind: &str, object: &Value, created: i64) -> Self {
        let id = format!("evt_{}", EventId::generate().uuid().simple());
        let body = json!({
            "id": id, "object": "event", "type": kind, "created": created, "livemode": false,
            "data": {"object": object},
        });
        Self {
            id,
            kind: kind.to_owned(),
            body: body.to_string(),
            tries: 0,
            delivered: false,
        }
    }
}
