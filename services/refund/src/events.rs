//! What happened, as the events that others read. Ids, keys and amounts only.

use chrono::{DateTime, Utc};
use uuid::Uuid;
use waybill_events::NewEvent;
use waybill_kernel::id::{OrderId, ReturnId};
use waybill_proto::waybill::refund::v1 as proto;
use waybill_rpc::convert::to_timestamp;

use crate::domain::book::{Book, Tenant};
use crate::domain::facts::Fact;
use crate::domain::policy::Policy;
use crate::domain::returns::{Disposition, ReturnLine};

/// What an event is about besides its fact.
#[derive(Debug, Clone)]
pub struct Scene<'a> {
    /// Who it belongs to.
    pub tenant: Tenant,
    /// The order, by which it is ordered.
    pub order_id: OrderId,
    /// Currency code of its amounts.
    pub currency: &'a str,
    /// The version of the return or refund after the change.
    pub version: i64,
    /// When it happened.
    pub now: DateTime<Utc>,
}

impl<'a> Scene<'a> {
    /// The scene of a change to something of this order.
    #[must_use]
    pub fn of(book: &'a Book, version: i64, now: DateTime<Utc>) -> Self {
        Self {
            tenant: book.tenant,
            order_id: book.order_id,
            currency: book.currency.code(),
            version,
            now,
        }
    }

    fn event<M: prost::Message + prost::Name>(&self, aggregate: impl Into<Uuid>, message: &M) -> NewEvent {
        let Self {
            tenant,
            order_id,
            version,
            now,
            ..
        } = self;
        NewEvent::new(
            tenant.merchant,
            tenant.store,
            order_id.uuid(),
            aggregate.into(),
            *version,
            message,
            *now,
        )
    }

    /// The event that tells a fact.
    #[must_use]
    pub fn tell(&self, fact: &Fact) -> NewEvent {
        let order_id = self.order_id.to_string();
        match fact {
            Fact::ReturnRequested { return_id, lines } => self.event(
                *return_id,
                &proto::ReturnRequested {
                    order_id,
                    return_id: return_id.to_string(),
                    lines: returned(lines),
                },
            ),
            Fact::ReturnApproved { return_id, automatic } => self.event(
                *return_id,
                &proto::ReturnApproved {
                    order_id,
                    return_id: return_id.to_string(),
                    automatic: *automatic,
                },
            ),
            Fact::ReturnDeclined { return_id } => self.event(
                *return_id,
                &proto::ReturnDeclined {
                    order_id,
                    return_id: return_id.to_string(),
                },
            ),
            Fact::ReturnReceived { return_id, lines } => self.event(
                *return_id,
                &proto::ReturnReceived {
                    order_id,
                    return_id: return_id.to_string(),
                    lines: returned(lines),
                },
            ),
            Fact::ReturnCompleted { return_id } => self.event(
                *return_id,
                &proto::ReturnCompleted {
                    order_id,
                    return_id: return_id.to_string(),
                },
            ),
            refund => self.tell_refund(order_id, refund),
        }
    }

    fn tell_refund(&self, order_id: String, fact: &Fact) -> NewEvent {
        let currency_code = self.currency.to_owned();
        match fact {
            Fact::RefundCreated {
                refund_id,
                return_id,
                amount,
                reason,
            } => self.event(
                *refund_id,
                &proto::RefundCreated {
                    order_id,
                    refund_id: refund_id.to_string(),
                    return_id: return_id.as_ref().map(ReturnId::to_string).unwrap_or_default(),
                    currency_code,
                    amount_minor: *amount,
                    reason: reason.clone(),
                },
            ),
            Fact::RefundStarted {
                refund_id,
                amount,
                expected_at,
            } => self.event(
                *refund_id,
                &proto::RefundStarted {
                    order_id,
                    refund_id: refund_id.to_string(),
                    currency_code,
                    amount_minor: *amount,
                    expected_at: Some(to_timestamp(*expected_at)),
                },
            ),
            Fact::RefundSucceeded {
                refund_id,
                amount,
                tax,
                reason,
                created_at,
                succeeded_at,
                order_refunded,
            } => self.event(
                *refund_id,
                &proto::RefundSucceeded {
                    order_id,
                    refund_id: refund_id.to_string(),
                    currency_code,
                    amount_minor: *amount,
                    tax_minor: *tax,
                    reason: reason.clone(),
                    created_at: Some(to_timestamp(*created_at)),
                    succeeded_at: Some(to_timestamp(*succeeded_at)),
                    order_refunded_minor: *order_refunded,
                },
            ),
            Fact::RefundFailed {
                refund_id,
                amount,
                failure_reason,
                was_succeeded,
                order_refunded,
            } => self.event(
                *refund_id,
                &proto::RefundFailed {
                    order_id,
                    refund_id: refund_id.to_string(),
                    currency_code,
                    amount_minor: *amount,
                    failure_reason: failure_reason.clone(),
                    was_succeeded: *was_succeeded,
                    order_refunded_minor: *order_refunded,
                },
            ),
            returned => self.tell(returned),
        }
    }
}

/// The event that a store published a policy. It is about no order: the store orders it.
#[must_use]
pub fn policy_published(tenant: Tenant, policy: &Policy, now: DateTime<Utc>) -> NewEvent {
    let message = proto::PolicyPublished {
        version: policy.version,
        valid_from: Some(to_timestamp(policy.valid_from)),
    };
    let version = i64::from(policy.version);
    NewEvent::new(
        tenant.merchant,
        tenant.store,
        tenant.store.uuid(),
        tenant.store.uuid(),
        version,
        &message,
        now,
    )
}

fn returned(lines: &[ReturnLine]) -> Vec<proto::ReturnedLine> {
    lines
        .iter()
        .map(|line| proto::ReturnedLine {
            line_id: line.line_id.to_string(),
            sku: line.sku.clone(),
            quantity: line.quantity,
            reason: line.reason.key().to_owned(),
            disposition: line
                .disposition
                .map(Disposition::key)
                .unwrap_or_default()
                .to_owned(),
        })
        .collect()
}
