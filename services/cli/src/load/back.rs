//! The way back of an order: returns and refunds.

use anyhow::{Context as _, ensure};
use waybill_proto::waybill::order::v1::Order;
use waybill_proto::waybill::refund::v1::{
    ApproveReturnRequest, CreateRefundRequest, GetReturnRequest, ListRefundsRequest, NewReturnLine,
    ReceiveReturnRequest, Refund, RefundState, RefundUnits, RequestReturnRequest, Return, ReturnReason,
    ReturnState,
};

use super::calls::ask;
use super::goods::Plan;
use super::journey::Journey;

impl Journey {
    /// Sends back what the plan says, until it is received. Answers the return's id.
    pub(super) async fn send_back(&self, order: &Order) -> anyhow::Result<String> {
        let (merchant_id, store_id) = self.tenant();
        let all = self.draft.plan == Plan::ReturnAll;
        let lines = order
            .lines
            .iter()
            .take(if all { usize::MAX } else { 1 })
            .map(|line| NewReturnLine {
                line_id: line.line_id.clone(),
                quantity: if all { line.quantity } else { 1 },
                reason: ReturnReason::Unwanted.into(),
            })
            .collect();
        let request = RequestReturnRequest {
            merchant_id: merchant_id.clone(),
            store_id: store_id.clone(),
            request_id: self.request_id("return"),
            order_id: order.order_id.clone(),
            lines,
            min_order_version: order.version,
        };
        // Until the refund service has heard of the delivery, nothing can come back.
        let (one, two) = ask!(
            self,
            "sending back",
            &["NOT_RETURNABLE"],
            self.session().refunds(),
            request_return,
            request
        );
        let returned = one.r#return.context("no return was answered")?;
        if let Some(two) = two.and_then(|two| two.r#return) {
            ensure!(
                two.return_id == returned.return_id,
                "one request made two returns"
            );
        }
        let return_id = returned.return_id.clone();
        if returned.state() == ReturnState::Requested {
            let request = ApproveReturnRequest {
                merchant_id: merchant_id.clone(),
                store_id: store_id.clone(),
                request_id: self.request_id("approve"),
                return_id: return_id.clone(),
                etag: String::new(),
            };
            ask!(
                self,
                "approving",
                &[],
                self.session().refunds(),
                approve_return,
                request
            );
        }
        let request = ReceiveReturnRequest {
            merchant_id,
            store_id,
            request_id: self.request_id("receive"),
            return_id: return_id.clone(),
            lines: Vec::new(),
            etag: String::new(),
        };
        ask!(
            self,
            "receiving",
            &[],
            self.session().refunds(),
            receive_return,
            request
        );
        Ok(return_id)
    }

    /// Waits until the return is over.
    pub(super) async fn returned(&self, return_id: &str) -> anyhow::Result<Return> {
        let (merchant_id, store_id) = self.tenant();
        let client = self.session().refunds()?;
        let request = GetReturnRequest {
            merchant_id,
            store_id,
            return_id: return_id.to_owned(),
        };
        self.caller()
            .until(|| async {
                let found = self
                    .caller()
                    .call("reading its return", &[], || {
                        let (mut client, request) = (client.clone(), request.clone());
                        async move { client.get_return(request).await }
                    })
                    .await?;
                Ok(found
                    .r#return
                    .filter(|found| found.state() == ReturnState::Completed))
            })
            .await
    }

    /// Pays one unit back without a return.
    pub(super) async fn pay_back(&self, order: &Order, part: usize) -> anyhow::Result<Refund> {
        let (merchant_id, store_id) = self.tenant();
        let line = order
            .lines
            .get(part % order.lines.len().max(1))
            .context("an order without lines")?;
        let request = CreateRefundRequest {
            merchant_id,
            store_id,
            request_id: self.request_id(&format!("refund-{part}")),
            order_id: order.order_id.clone(),
            lines: vec![RefundUnits {
                line_id: line.line_id.clone(),
                quantity: 1,
            }],
            reason: "a scratch".to_owned(),
            min_order_version: order.version,
            ..CreateRefundRequest::default()
        };
        let (one, two) = ask!(
            self,
            "refunding",
            &[],
            self.session().refunds(),
            create_refund,
            request
        );
        let refund = one.refund.context("no refund was answered")?;
        if let Some(two) = two.and_then(|two| two.refund) {
            ensure!(two.refund_id == refund.refund_id, "one request made two refunds");
        }
        Ok(refund)
    }

    /// Waits until so many refunds have succeeded, and sums them up.
    pub(super) async fn refunds(&self, order_id: &str, count: usize) -> anyhow::Result<i64> {
        let (merchant_id, store_id) = self.tenant();
        let client = self.session().refunds()?;
        let request = ListRefundsRequest {
            merchant_id,
            store_id,
            order_id: order_id.to_owned(),
            ..ListRefundsRequest::default()
        };
        let refunds = self
            .caller()
            .until(|| async {
                let found = self
                    .caller()
                    .call("reading its refunds", &[], || {
                        let (mut client, request) = (client.clone(), request.clone());
                        async move { client.list_refunds(request).await }
                    })
                    .await?
                    .refunds;
                let over = found
                    .iter()
                    .filter(|refund| refund.state() == RefundState::Succeeded);
                Ok((over.count() >= count).then_some(found))
            })
            .await?;
        ensure!(
            refunds.len() == count,
            "{} refunds, {count} were asked for",
            refunds.len()
        );
        Ok(refunds
            .iter()
            .filter_map(|refund| refund.amount.as_ref())
            .map(|amount| amount.minor_units)
            .sum())
    }
}
