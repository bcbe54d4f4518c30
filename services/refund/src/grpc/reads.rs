//! The RPCs that only read: one, several, or a page.
//!
//! Pages are keyset pages, newest first by id; their token is bound to the filter it was made for.

use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use tonic::Status;
use waybill_kernel::check::Violations;
use waybill_kernel::hash::fingerprint;
use waybill_kernel::id::Id;
use waybill_kernel::page::{PageToken, page_size};
use waybill_proto::waybill::refund::v1 as proto;
use waybill_rpc::convert;
use waybill_store::StoreError;

use super::{Api, checked, parse, refuse, view};
use crate::error::Error;
use crate::store;
use crate::store::refunds::Filter;

/// The most refunds that can be read at once.
const BATCH: usize = 200;

/// Where a page begins and how long it is.
struct Page<T> {
    fingerprint: String,
    limit: i64,
    before: Option<T>,
}

impl<T: Id> Page<T> {
    fn parse(
        size: i32,
        token: &str,
        (default, most): (i64, i64),
        filter: &[&str],
        violations: &mut Violations,
    ) -> Option<Self> {
        let fingerprint = fingerprint(filter);
        let limit = match page_size(size, default, most) {
            Ok(limit) => Some(limit),
            Err(fault) => {
                violations.push(fault.field, fault.description);
                None
            }
        };
        let before = if token.is_empty() {
            Some(None)
        } else {
            let key = violations.value("page_token", PageToken::decode(token, &fingerprint))?;
            let id = key.first().map(String::as_str).unwrap_or_default();
            violations.value("page_token", id.parse::<T>()).map(Some)
        };
        Some(Self {
            fingerprint,
            limit: limit?,
            before: before?,
        })
    }

    /// One more than the page holds: so it is known whether another follows.
    fn fetch(&self) -> i64 {
        self.limit + 1
    }

    /// Cuts what was fetched to the page, and answers with the token of the next one.
    fn cut<R>(&self, rows: &mut Vec<R>, id: impl Fn(&R) -> T) -> String {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        if rows.len() <= limit {
            return String::new();
        }
        rows.truncate(limit);
        rows.last()
            .map(|row| PageToken::encode(&self.fingerprint, &[id(row).to_string()]))
            .unwrap_or_default()
    }
}

impl Api {
    async fn conn(&self) -> Result<PoolConnection<Postgres>, Status> {
        self.db
            .pool()
            .acquire()
            .await
            .map_err(|error| refuse(&Error::Store(StoreError::from(error))))
    }

    pub(super) async fn read_policy(
        &self,
        message: proto::GetPolicyRequest,
    ) -> Result<proto::GetPolicyResponse, Status> {
        let (tenant, at) = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let at = convert::optional_timestamp("at", message.at.as_ref(), v);
            Some((tenant?, at?))
        })?;
        let at = at.unwrap_or_else(|| self.core.now());
        let found = store::policies::in_force(&mut *self.conn().await?, tenant, at).await;
        let policy = found
            .map_err(Error::from)
            .and_then(|found| found.ok_or(Error::PolicyNotFound));
        let policy = policy.map_err(|error| refuse(&error))?;
        Ok(proto::GetPolicyResponse {
            text: policy.words(),
            policy: Some(view::policy(&policy)),
        })
    }

    pub(super) async fn read_return(
        &self,
        message: proto::GetReturnRequest,
    ) -> Result<proto::GetReturnResponse, Status> {
        let (tenant, return_id) = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let return_id = convert::id("return_id", &message.return_id, v);
            Some((tenant?, return_id?))
        })?;
        let found = store::returns::get(&mut *self.conn().await?, tenant, return_id).await;
        let found = found
            .map_err(Error::from)
            .and_then(|found| found.ok_or(Error::ReturnNotFound(return_id)));
        let found = found.map_err(|error| refuse(&error))?;
        Ok(proto::GetReturnResponse {
            r#return: Some(view::a_return(&found)),
        })
    }

    pub(super) async fn page_returns(
        &self,
        message: proto::ListReturnsRequest,
    ) -> Result<proto::ListReturnsResponse, Status> {
        let (tenant, order_id, page) = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let order_id = convert::optional_id("order_id", &message.order_id, v);
            let filter = [
                "returns",
                &message.merchant_id,
                &message.store_id,
                &message.order_id,
            ];
            let page = Page::parse(message.page_size, &message.page_token, (50, 200), &filter, v);
            Some((tenant?, order_id?, page?))
        })?;
        let rows = store::returns::list(
            &mut *self.conn().await?,
            tenant,
            order_id,
            page.before,
            page.fetch(),
        )
        .await;
        let mut rows = rows.map_err(|error| refuse(&error.into()))?;
        let next_page_token = page.cut(&mut rows, |row| row.return_id);
        Ok(proto::ListReturnsResponse {
            returns: rows.iter().map(view::a_return).collect(),
            next_page_token,
        })
    }

    pub(super) async fn read_refund(
        &self,
        message: proto::GetRefundRequest,
    ) -> Result<proto::GetRefundResponse, Status> {
        let (tenant, refund_id) = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let refund_id = convert::id("refund_id", &message.refund_id, v);
            Some((tenant?, refund_id?))
        })?;
        let found = store::refunds::get(&mut *self.conn().await?, tenant, refund_id).await;
        let found = found
            .map_err(Error::from)
            .and_then(|found| found.ok_or(Error::RefundNotFound(refund_id)));
        let found = found.map_err(|error| refuse(&error))?;
        Ok(proto::GetRefundResponse {
            refund: Some(view::refund(&found)),
        })
    }

    pub(super) async fn read_refunds(
        &self,
        message: proto::BatchGetRefundsRequest,
    ) -> Result<proto::BatchGetRefundsResponse, Status> {
        let (tenant, ids) = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let ids = convert::ids("refund_ids", &message.refund_ids, BATCH, v);
            Some((tenant?, ids?))
        })?;
        let found = store::refunds::batch_get(&mut *self.conn().await?, tenant, &ids).await;
        let found = found.map_err(|error| refuse(&error.into()))?;
        Ok(proto::BatchGetRefundsResponse {
            refunds: found.iter().map(view::refund).collect(),
        })
    }

    pub(super) async fn page_refunds(
        &self,
        message: proto::ListRefundsRequest,
    ) -> Result<proto::ListRefundsResponse, Status> {
        let (tenant, filter, page) = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let order_id = convert::optional_id("order_id", &message.order_id, v);
            let state = parse::optional_refund_state("state", message.state, v);
            let by = message.state.to_string();
            let filter = [
                "refunds",
                &message.merchant_id,
                &message.store_id,
                &message.order_id,
                &by,
            ];
            let page = Page::parse(message.page_size, &message.page_token, (50, 200), &filter, v);
            Some((
                tenant?,
                Filter {
                    order_id: order_id?,
                    state: state?,
                },
                page?,
            ))
        })?;
        let rows = store::refunds::list(
            &mut *self.conn().await?,
            tenant,
            filter,
            page.before,
            page.fetch(),
        )
        .await;
        let mut rows = rows.map_err(|error| refuse(&error.into()))?;
        let next_page_token = page.cut(&mut rows, |row| row.refund_id);
        Ok(proto::ListRefundsResponse {
            refunds: rows.iter().map(view::refund).collect(),
            next_page_token,
        })
    }

    pub(super) async fn page_journal(
        &self,
        message: proto::ListJournalEntriesRequest,
    ) -> Result<proto::ListJournalEntriesResponse, Status> {
        let (tenant, order_id, page) = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let order_id = convert::optional_id("order_id", &message.order_id, v);
            let filter = [
                "journal",
                &message.merchant_id,
                &message.store_id,
                &message.order_id,
            ];
            let page = Page::parse(message.page_size, &message.page_token, (100, 500), &filter, v);
            Some((tenant?, order_id?, page?))
        })?;
        let rows = store::journal::list(
            &mut *self.conn().await?,
            tenant,
            order_id,
            page.before,
            page.fetch(),
        )
        .await;
        let mut rows = rows.map_err(|error| refuse(&error.into()))?;
        let next_page_token = page.cut(&mut rows, |row| row.entry_id);
        Ok(proto::ListJournalEntriesResponse {
            entries: rows.iter().map(view::journal_entry).collect(),
            next_page_token,
        })
    }

    pub(super) async fn balance(
        &self,
        message: proto::GetTrialBalanceRequest,
    ) -> Result<proto::GetTrialBalanceResponse, Status> {
        let merchant = checked(|v| convert::id("merchant_id", &message.merchant_id, v))?;
        let sums = store::journal::trial_balance(&mut *self.conn().await?, merchant).await;
        let sums = sums.map_err(|error| refuse(&error.into()))?;
        Ok(view::trial_balance(&sums))
    }
}
