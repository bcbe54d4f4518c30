//! What a person does: cash, a bank transfer, a provider without an adapter.
//!
//! Asking for a refund, a capture or a void changes nothing anywhere, so it may be repeated for ever. It stays pending until
//! somebody records that it was done, or that it will not be; that is the business of the service that asks.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::{BoxFuture, FutureExt as _, ready};
use waybill_kernel::money::Currency;

use crate::payment::{CaptureRequest, ProviderCapture, ProviderVoid, StepState, VoidRequest};
use crate::provider::{
    ListedRefund, PaymentProvider, ProviderError, ProviderRefund, RefundRequest, RefundState,
    require_positive,
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

    fn pending_capture(request: &CaptureRequest) -> ProviderCapture {
        ProviderCapture {
            provider_capture_id: format!("manual:{}", request.idempotency_key),
            state: StepState::Pending,
        }
    }

    fn pending_void(request: &VoidRequest) -> ProviderVoid {
        ProviderVoid {
            provider_void_id: format!("manual:{}", request.idempotency_key),
            state: StepState::Pending,
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
        ready(request.require_positive().map(|()| Self::pending(request))).boxed()
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

    fn capture_key_lifetime(&self) -> Duration {
        Duration::MAX
    }

    fn capture<'a>(
        &'a self,
        request: &'a CaptureRequest,
    ) -> BoxFuture<'a, Result<ProviderCapture, ProviderError>> {
        ready(require_positive("capture", request.amount).map(|()| Self::pending_capture(request))).boxed()
    }

    fn find_capture<'a>(
        &'a self,
        request: &'a CaptureRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderCapture>, ProviderError>> {
        ready(Ok(Some(Self::pending_capture(request)))).boxed()
    }

    fn void<'a>(&'a self, request: &'a VoidRequest) -> BoxFuture<'a, Result<ProviderVoid, ProviderError>> {
        ready(Ok(Self::pending_void(request))).boxed()
    }

    fn find_void<'a>(
        &'a self,
        request: &'a VoidRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderVoid>, ProviderError>> {
        ready(Ok(Some(Self::pending_void(request)))).boxed()
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

    #[tokio::test]
    async fn captures_and_voids_wait_for_a_person_and_nobody_knows_the_payment() {
        let capture = CaptureRequest {
            provider_payment_id: "till 3".into(),
            amount: Money::new(Currency::EUR, 100),
            captured_before: Money::zero(Currency::EUR),
            is_final: true,
            idempotency_key: "key".into(),
        };
        let first = ManualProvider.capture(&capture).await.expect("accepted");
        assert_eq!(first.state, StepState::Pending);
        assert_eq!(ManualProvider.find_capture(&capture).await, Ok(Some(first)));
        let void = VoidRequest {
            provider_payment_id: "till 3".into(),
            idempotency_key: "void".into(),
        };
        let first = ManualProvider.void(&void).await.expect("accepted");
        assert_eq!(first.state, StepState::Pending);
        assert_eq!(ManualProvider.find_void(&void).await, Ok(Some(first)));
        let error = ManualProvider.find_payment("till 3").await.expect_err("no books");
        assert_eq!(error.reason(), crate::LOOKUP_NOT_SUPPORTED);
    }
}
