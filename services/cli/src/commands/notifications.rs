//! `waybill notifications …`

use anyhow::Context as _;
use waybill_proto::waybill::notification::v1::{ListNotificationsRequest, PreviewNotificationRequest, Stage};

use crate::args::NotificationsCommand;
use crate::output::{self, line, table, time, word};
use crate::session::Session;

/// Runs the command.
pub async fn run(session: &Session, command: NotificationsCommand, json: bool) -> anyhow::Result<()> {
    match command {
        NotificationsCommand::List { order } => list(session, order.as_deref(), json).await,
        NotificationsCommand::Preview { stage, html } => {
            let name = format!("STAGE_{}", stage.to_uppercase().replace('-', "_"));
            let stage = Stage::from_str_name(&name).with_context(|| {
                format!("stage {stage:?}: use order-confirmed, shipped, refund-succeeded …")
            })?;
            let request = PreviewNotificationRequest {
                merchant_id: session.merchant_id.clone(),
                store_id: session.store_id.clone(),
                stage: stage.into(),
            };
            let answer = session
                .notifications()?
                .preview_notification(request)
                .await?
                .into_inner();
            if json {
                return output::json(&answer);
            }
            if html {
                line(answer.html);
            } else {
                line(format!("Subject: {}\n\n{}", answer.subject, answer.text));
            }
            Ok(())
        }
    }
}

async fn list(session: &Session, order: Option<&str>, json: bool) -> anyhow::Result<()> {
    let order_id = match order {
        Some(reference) => session.order(reference).await?.order_id,
        None => String::new(),
    };
    let request = ListNotificationsRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        page_size: 500,
        order_id,
        ..ListNotificationsRequest::default()
    };
    let answer = session
        .notifications()?
        .list_notifications(request)
        .await?
        .into_inner();
    if json {
        return output::json(&answer);
    }
    line(
        table(
            &["order", "stage", "state", "why", ">tries", "sent (UTC)"],
            answer.notifications.iter().map(|notification| {
                [
                    notification.order_id.clone(),
                    word(notification.stage().as_str_name(), "STAGE"),
                    word(notification.state().as_str_name(), "NOTIFICATION_STATE"),
                    notification.reason.clone(),
                    notification.attempts.to_string(),
                    time(notification.sent_at.as_ref()),
                ]
            }),
        )
        .to_string(),
    );
    Ok(())
}
