//! Refunds that a person pays: cash, a bank transfer, a provider without an adapter.
//!
//! Asking for one changes nothing anywhere, so it may be repeated for ever. It stays pending until somebody records that
//! it was paid, or that it will not be; that is the refund service's business.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::{BoxFuture, FutureExt as _, ready};
use waybill_kernel::money::Currency;

use crate::provider::{
    ListedRefund, PaymentProvider, ProviderError, ProviderRefund, RefundRequest, RefundState,
};

/// The provider named `"manual"`.
#[derive(Debug, Clone, Copy, Default)]
pub struct ManualProvider;

impl ManualProvider {
    /// The name of this provider.
    pub const NAME: &str = "manual";

    fn pending(request: &RefundRequest) -> ProviderRefund {
        ProviderRefund {
            // Every repetition of an attempt gets the same answer, and another attempt gets another.
            provider_refund_id: format!("manual:{}", request.idempotency_key),
            state: RefundState::Pending,
        }
    }
}

impl PaymentProvider for ManualProvider {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn key_lifetime(&self) -> Duration {
        Duration::MAX
    }

    fn smallest_step(&self, _currency: Currency) -> Option<i64> {
        Some(1)
    }

    fn refund<'a>(
        &'a self,
        request: &'a RefundRequest,
    ) -> BoxFuture<'a, Result<ProviderRefund, ProviderError>> {
        let answer = if request.amount.minor > 0 {
            Ok(Self::pending(request))
        } else {
            Err(ProviderError::refused(
                "amount_not_positive",
                format!("cannot refund {}", request.amount),
            ))
        };
        ready(answer).boxed()
    }

    /// What a person paid was recorded by a person, and is by a person again.
    fn list_refunds(
        &self,
        _since: DateTime<Utc>,
        _most: usize,
    ) -> BoxFuture<'_, Result<Vec<ListedRefund>, ProviderError>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn find_refund<'a>(
        &'a self,
        request: &'a RefundRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderRefund>, ProviderError>> {
        ready(Ok(Some(Self::pending(request)))).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use waybill_kernel::id::LegId;
    use waybill_kernel::money::Money;

    use super::*;

    fn request(minor: i64) -> RefundRequest {
        RefundRequest {
            leg_id: LegId::generate(),
            provider_payment_id: "till 3".into(),
            amount: Money::new(Currency::EUR, minor),
            idempotency_key: "key".into(),
            reason: "damaged".into(),
            metadata: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn stays_pending_however_often_it_is_asked() {
        let request = request(100);
        let first = ManualProvider.refund(&request).await.expect("accepted");
        assert_eq!(first.state, RefundState::Pending);
        assert_eq!(ManualProvider.refund(&request).await, Ok(first.clone()));
        assert_eq!(ManualProvider.find_refund(&request).await, Ok(Some(first)));
    }

    #[tokio::test]
    async fn refuses_what_is_no_refund() {
        for minor in [0, -1] {
            let error = ManualProvider
                .refund(&request(minor))
                .await
                .expect_err("no refund");
            assert_eq!(error.reason(), "amount_not_positive");
        }
    }
}
