//! The gRPC face: parse, run a use case or ask the store, show. The only place that knows `Status`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use waybill_kernel::check::Violations;
use waybill_kernel::hash;
use waybill_kernel::id::{NotificationId, OrderId};
use waybill_kernel::page::{PageToken, page_size};
use waybill_kernel::time;
use waybill_proto::waybill::notification::v1 as pb;
use waybill_proto::waybill::notification::v1::notification_service_server::NotificationService;
use waybill_rpc::convert::{self, Tenant};
use waybill_rpc::fault::to_status;
use waybill_store::Db;

use crate::app::put_brand::PutBrand;
use crate::domain::brand::Brand;
use crate::domain::message::Facts;
use crate::domain::notification::{Notification, State};
use crate::domain::stage::Stage;
use crate::error::Error;
use crate::render::Renderer;
use crate::store;

/// The gRPC service.
#[derive(Clone)]
pub struct Grpc {
    db: Db,
    clock: time::Shared,
    renderer: Arc<Renderer>,
}

impl Grpc {
    /// Answers from this database; "now" is this clock's.
    #[must_use]
    pub fn new(db: Db, clock: time::Shared, renderer: Arc<Renderer>) -> Self {
        Self { db, clock, renderer }
    }

    async fn brand_of(&self, tenant: Tenant) -> Result<Brand, Error> {
        store::brand(self.db.pool(), tenant.merchant_id, tenant.store_id)
            .await?
            .ok_or(Error::BrandNotFound)
    }
}

fn fail(error: impl Into<Error>) -> Status {
    to_status(&error.into())
}

/// What was parsed, when nothing is wrong with it.
fn checked<T>(parsed: Option<T>, violations: Violations) -> Result<T, Status> {
    match (violations.into_result(), parsed) {
        (Ok(()), Some(parsed)) => Ok(parsed),
        (Ok(()), None) => Err(fail(Error::Invalid(Violations::default()))),
        (Err(violations), _) => Err(fail(Error::Invalid(violations))),
    }
}

#[tonic::async_trait]
impl NotificationService for Grpc {
    async fn put_brand(
        &self,
        request: Request<pb::PutBrandRequest>,
    ) -> Result<Response<pb::PutBrandResponse>, Status> {
        let request = request.into_inner();
        let mut violations = Violations::default();
        let tenant = convert::tenant(&request.merchant_id, &request.store_id, &mut violations);
        let brand = match request.brand.map(|brand| from_proto(brand).check()) {
            Some(Ok(brand)) => Some(brand),
            Some(Err(faults)) => {
                violations.absorb("", faults);
                None
            }
            None => {
                violations.push("brand", "is required");
                None
            }
        };
        let (tenant, brand) = checked(tenant.zip(brand), violations)?;
        let put = PutBrand {
            merchant: tenant.merchant_id,
            store: tenant.store_id,
            brand,
            now: self.clock.now(),
        };
        put.run(&self.db).await.map_err(fail)?;
        Ok(Response::new(pb::PutBrandResponse {
            brand: Some(to_proto(put.brand)),
        }))
    }

    async fn get_brand(
        &self,
        request: Request<pb::GetBrandRequest>,
    ) -> Result<Response<pb::GetBrandResponse>, Status> {
        let request = request.into_inner();
        let mut violations = Violations::default();
        let tenant = convert::tenant(&request.merchant_id, &request.store_id, &mut violations);
        let brand = self.brand_of(checked(tenant, violations)?).await.map_err(fail)?;
        Ok(Response::new(pb::GetBrandResponse {
            brand: Some(to_proto(brand)),
        }))
    }

    async fn get_notification(
        &self,
        request: Request<pb::GetNotificationRequest>,
    ) -> Result<Response<pb::GetNotificationResponse>, Status> {
        let request = request.into_inner();
        let mut violations = Violations::default();
        let tenant = convert::tenant(&request.merchant_id, &request.store_id, &mut violations);
        let id = convert::id::<NotificationId>("notification_id", &request.notification_id, &mut violations);
        let (tenant, id) = checked(tenant.zip(id), violations)?;
        let found = store::get(self.db.pool(), tenant.merchant_id, tenant.store_id, id)
            .await
            .map_err(fail)?;
        let found = found.ok_or_else(|| fail(Error::NotificationNotFound(request.notification_id)))?;
        Ok(Response::new(pb::GetNotificationResponse {
            notification: Some(view(found)),
        }))
    }

    async fn list_notifications(
        &self,
        request: Request<pb::ListNotificationsRequest>,
    ) -> Result<Response<pb::ListNotificationsResponse>, Status> {
        let request = request.into_inner();
        let mut violations = Violations::default();
        let tenant = convert::tenant(&request.merchant_id, &request.store_id, &mut violations);
        let order = convert::optional_id::<OrderId>("order_id", &request.order_id, &mut violations);
        let size = page_size(request.page_size, 50, 500)
            .map_err(|fault| violations.push(&fault.field, fault.description))
            .ok();
        // A token leads on in the list it came from and in no other.
        let filter = hash::fingerprint([&request.merchant_id, &request.store_id, &request.order_id]);
        let before = match request.page_token.as_str() {
            "" => Some(None),
            token => PageToken::decode(token, &filter)
                .map_err(|error| violations.push("page_token", error.to_string()))
                .ok()
                .and_then(|key| {
                    convert::id(
                        "page_token",
                        key.first().map_or("", String::as_str),
                        &mut violations,
                    )
                })
                .map(Some),
        };
        let parsed = tenant.zip(order).zip(size).zip(before);
        let (((tenant, order), size), before) = checked(parsed, violations)?;
        let mut found = store::list(
            self.db.pool(),
            tenant.merchant_id,
            tenant.store_id,
            order,
            before,
            size + 1,
        )
        .await
        .map_err(fail)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let more = found.len() > size;
        found.truncate(size);
        let next_page_token = found
            .last()
            .filter(|_| more)
            .map(|last| PageToken::encode(&filter, &[last.id.to_string()]))
            .unwrap_or_default();
        let notifications = found.into_iter().map(view).collect();
        Ok(Response::new(pb::ListNotificationsResponse {
            notifications,
            next_page_token,
        }))
    }

    async fn preview_notification(
        &self,
        request: Request<pb::PreviewNotificationRequest>,
    ) -> Result<Response<pb::PreviewNotificationResponse>, Status> {
        let request = request.into_inner();
        let mut violations = Violations::default();
        let tenant = convert::tenant(&request.merchant_id, &request.store_id, &mut violations);
        let stage = convert::known::<pb::Stage>("stage", request.stage, &mut violations).and_then(stage_of);
        let (tenant, stage) = checked(tenant.zip(stage), violations)?;
        let brand = self.brand_of(tenant).await.map_err(fail)?;
        let message = self
            .renderer
            .render(stage, &[&brand.default_locale], &Facts::sample(&brand))
            .map_err(fail)?;
        Ok(Response::new(pb::PreviewNotificationResponse {
            subject: message.subject,
            text: message.text,
            html: message.html,
        }))
    }
}

fn from_proto(brand: pb::Brand) -> Brand {
    Brand {
        name: brand.name,
        from_email: brand.from_email,
        support_email: brand.support_email,
        support_phone: brand.support_phone,
        logo_url: brand.logo_url,
        accent_color: brand.accent_color,
        default_locale: brand.default_locale,
        time_zone: brand.time_zone,
    }
}

fn to_proto(brand: Brand) -> pb::Brand {
    pb::Brand {
        name: brand.name,
        from_email: brand.from_email,
        support_email: brand.support_email,
        support_phone: brand.support_phone,
        logo_url: brand.logo_url,
        accent_color: brand.accent_color,
        default_locale: brand.default_locale,
        time_zone: brand.time_zone,
    }
}

/// Keys and proto names are the same words, so the one leads to the other; a test holds it for every stage.
fn stage_of(stage: pb::Stage) -> Option<Stage> {
    Stage::from_key(&stage.as_str_name().strip_prefix("STAGE_")?.to_ascii_lowercase())
}

fn stage_to_proto(stage: Stage) -> pb::Stage {
    pb::Stage::from_str_name(&format!("STAGE_{}", stage.key().to_ascii_uppercase())).unwrap_or_default()
}

fn view(notification: Notification) -> pb::Notification {
    let state = match notification.state {
        State::Scheduled => pb::NotificationState::Scheduled,
        State::Sending => pb::NotificationState::Sending,
        State::Sent => pb::NotificationState::Sent,
        State::Suppressed => pb::NotificationState::Suppressed,
        State::Failed => pb::NotificationState::Failed,
    };
    pb::Notification {
        notification_id: notification.id.to_string(),
        order_id: notification.order.to_string(),
        stage: stage_to_proto(notification.stage).into(),
        channel: pb::Channel::Email.into(),
        subject_id: notification.subject.to_string(),
        state: state.into(),
        reason: notification.reason,
        attempts: notification.attempts,
        message_id: notification.message_id,
        scheduled_at: Some(convert::to_timestamp(notification.scheduled_at)),
        sent_at: notification.sent_at.map(convert::to_timestamp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_of_the_contract_is_ours_and_back() {
        for stage in Stage::ALL {
            let proto = stage_to_proto(stage);
            assert_ne!(proto, pb::Stage::Unspecified, "{stage:?}");
            assert_eq!(stage_of(proto), Some(stage));
        }
        for number in 1..=15 {
            let proto = pb::Stage::try_from(number).expect("the contract has 15 stages");
            assert!(stage_of(proto).is_some(), "{proto:?}");
        }
    }
}
