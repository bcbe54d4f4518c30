//! AfterShip: tracking updates.
//!
//! `aftership-hmac-sha256` is base64(HMAC-SHA256(body, secret)) and carries no time, so an old delivery can be sent again
//! by whoever recorded it; the fulfillment service recognises it by `event_id` and changes nothing. Tags are an open list:
//! one that is not known is acknowledged and ignored.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use waybill_kernel::hash;
use waybill_proto::waybill::fulfillment::v1::{
    RecordTrackingRequest, ShipmentStatus, TrackingReference, TrackingUpdate, tracking_update,
};

use crate::App;
use crate::error::Error;

#[derive(Deserialize)]
struct Webhook {
    event: String,
    event_id: String,
    msg: Tracking,
}

#[derive(Deserialize)]
struct Tracking {
    tracking_number: String,
    slug: String,
    tag: String,
    #[serde(default)]
    checkpoints: Vec<Checkpoint>,
}

#[derive(Default, Deserialize)]
struct Checkpoint {
    #[serde(default)]
    checkpoint_time: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    location: Option<String>,
}

/// Takes a delivery.
pub async fn receive(
    State(app): State<Arc<App>>,
    Path((merchant, store)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Error> {
    let (merchant_id, store_id, secrets) = super::store(&app, &merchant, &store)?;
    let secret = secrets
        .aftership
        .read("webhooks.aftership")
        .map_err(|_| Error::NotFound)?;
    let signature = headers
        .get("aftership-hmac-sha256")
        .and_then(|value| BASE64_STANDARD.decode(value.as_bytes()).ok())
        .ok_or(Error::NotVerified)?;
    if !hash::verify_hmac_sha256(secret.expose_secret().as_bytes(), &[&body], &signature) {
        return Err(Error::NotVerified);
    }
    let webhook: Webhook =
        serde_json::from_slice(&body).map_err(|error| Error::Malformed(format!("line {}", error.line())))?;
    let Some(update) = update(webhook) else {
        return Ok(StatusCode::OK);
    };
    let request = RecordTrackingRequest {
        merchant_id: merchant_id.to_string(),
        store_id: store_id.to_string(),
        updates: vec![update],
    };
    app.fulfillment.clone().record_tracking(request).await?;
    Ok(StatusCode::OK)
}

/// The update a delivery tells of; none for what says nothing about a shipment.
fn update(webhook: Webhook) -> Option<TrackingUpdate> {
    if webhook.event != "tracking_update" {
        return None;
    }
    let status = canonical(&webhook.msg.tag)?;
    let last = webhook.msg.checkpoints.into_iter().last().unwrap_or_default();
    let occurred_at = last
        .checkpoint_time
        .and_then(|time| DateTime::parse_from_rfc3339(&time).ok())
        .map(|time| time.with_timezone(&Utc))
        .map(|time| prost_types::Timestamp {
            seconds: time.timestamp(),
            nanos: 0,
        });
    Some(TrackingUpdate {
        shipment: Some(tracking_update::Shipment::Tracking(TrackingReference {
            carrier: webhook.msg.slug,
            tracking_number: webhook.msg.tracking_number,
        })),
        status: status.into(),
        occurred_at,
        location: cut(last.location, 200),
        description: cut(last.message, 500),
        source_event_id: cut(Some(webhook.event_id), 200),
    })
}

/// AfterShip's tag as the one status of a shipment.
fn canonical(tag: &str) -> Option<ShipmentStatus> {
    Some(match tag {
        "Pending" => ShipmentStatus::Pending,
        "InfoReceived" => ShipmentStatus::InfoReceived,
        "InTransit" => ShipmentStatus::InTransit,
        "OutForDelivery" => ShipmentStatus::OutForDelivery,
        "AttemptFail" => ShipmentStatus::AttemptFailed,
        "AvailableForPickup" => ShipmentStatus::AvailableForPickup,
        "Delivered" => ShipmentStatus::Delivered,
        "Exception" => ShipmentStatus::Exception,
        "Expired" => ShipmentStatus::Expired,
        _ => return None,
    })
}

/// Text for people, cut to what the contract takes and freed of control characters.
fn cut(text: Option<String>, most: usize) -> String {
    text.unwrap_or_default()
        .chars()
        .filter(|letter| !letter.is_control())
        .take(most)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(tag: &str) -> Webhook {
        serde_json::from_value(serde_json::json!({
            "event": "tracking_update",
            "event_id": "e-1",
            "msg": {
                "tracking_number": "RM1", "slug": "royal-mail", "tag": tag,
                "checkpoints": [
                    {"checkpoint_time": "2026-11-01T10:00:00Z", "message": "Collected"},
                    {"checkpoint_time": "2026-11-02T11:30:00+01:00", "message": "Delivered\nto a neighbour", "location": "Whitby"},
                ],
            },
        }))
        .expect("a webhook")
    }

    #[test]
    fn the_last_checkpoint_is_what_happened() {
        let update = update(webhook("Delivered")).expect("an update");
        assert_eq!(update.status(), ShipmentStatus::Delivered);
        assert_eq!(update.location, "Whitby");
        assert_eq!(update.description, "Deliveredto a neighbour");
        assert_eq!(update.occurred_at.map(|time| time.seconds), Some(1_793_615_400));
    }

    #[test]
    fn a_tag_from_the_future_is_passed_over() {
        assert!(update(webhook("Teleported")).is_none());
    }
}
