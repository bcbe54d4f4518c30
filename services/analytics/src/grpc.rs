//! The gRPC face: parse, ask the store, show. The only place that knows `Status`.

use chrono::NaiveDate;
use tonic::{Request, Response, Status};
use waybill_kernel::check::Violations;
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_kernel::time;
use waybill_proto::waybill::analytics::v1 as pb;
use waybill_proto::waybill::analytics::v1::analytics_service_server::AnalyticsService;
use waybill_proto::waybill::r#type::v1::Money;
use waybill_rpc::convert;
use waybill_rpc::fault::to_status;
use waybill_store::Db;

use crate::domain::figures::{CycleTime, Figures, OrderFigures, ReasonFigures, RefundFigures};
use crate::domain::period::Period;
use crate::error::Error;
use crate::store::figures;

/// The gRPC service.
#[derive(Clone)]
pub struct Grpc {
    db: Db,
    clock: time::Shared,
}

impl Grpc {
    /// Answers from this database; "now" is this clock's.
    #[must_use]
    pub fn new(db: Db, clock: time::Shared) -> Self {
        Self { db, clock }
    }

    /// Reads what every request of the service has in common.
    fn query(
        &self,
        merchant_id: &str,
        store_id: &str,
        period: Option<&pb::Period>,
        cut_in_days: bool,
    ) -> Result<(MerchantId, StoreId, Period), Status> {
        let mut violations = Violations::default();
        let tenant = convert::tenant(merchant_id, store_id, &mut violations);
        let from = period.and_then(|period| period.from);
        let from = convert::optional_timestamp("period.from", from.as_ref(), &mut violations).flatten();
        let before = period.and_then(|period| period.before);
        let before = convert::optional_timestamp("period.before", before.as_ref(), &mut violations).flatten();
        let zone = period.map_or("", |period| period.time_zone.as_str());
        let period = Period::parse(from, before, zone, self.clock.now(), &mut violations);
        if cut_in_days {
            period.check_days(&mut violations);
        }
        match (violations.into_result(), tenant) {
            (Ok(()), Some(tenant)) => Ok((tenant.merchant_id, tenant.store_id, period)),
            (Ok(()), None) => Err(fail(Error::Invalid(Violations::default()))),
            (Err(violations), _) => Err(fail(Error::Invalid(violations))),
        }
    }
}

fn fail(error: impl Into<Error>) -> Status {
    to_status(&error.into())
}

#[tonic::async_trait]
impl AnalyticsService for Grpc {
    async fn get_summary(
        &self,
        request: Request<pb::GetSummaryRequest>,
    ) -> Result<Response<pb::GetSummaryResponse>, Status> {
        let request = request.into_inner();
        let (merchant, store_id, period) = self.query(
            &request.merchant_id,
            &request.store_id,
            request.period.as_ref(),
            false,
        )?;
        let pool = self.db.pool();
        let (figures, counts) = tokio::try_join!(
            figures::summary(pool, merchant, store_id, &period),
            figures::counts(pool, merchant, store_id, &period),
        )
        .map_err(fail)?;
        Ok(Response::new(pb::GetSummaryResponse {
            currencies: figures
                .into_iter()
                .map(|of| pb::CurrencySummary {
                    orders: Some(orders(&of)),
                    refunds: Some(refunds(&of)),
                    currency_code: of.currency,
                })
                .collect(),
            notifications_sent: counts.0,
            open_orders: counts.1,
        }))
    }

    async fn list_daily_figures(
        &self,
        request: Request<pb::ListDailyFiguresRequest>,
    ) -> Result<Response<pb::ListDailyFiguresResponse>, Status> {
        let request = request.into_inner();
        let (merchant, store_id, period) = self.query(
            &request.merchant_id,
            &request.store_id,
            request.period.as_ref(),
            true,
        )?;
        let days = figures::daily(self.db.pool(), merchant, store_id, &period)
            .await
            .map_err(fail)?;
        Ok(Response::new(pb::ListDailyFiguresResponse {
            days: days.into_iter().map(day).collect(),
        }))
    }

    async fn list_refund_reasons(
        &self,
        request: Request<pb::ListRefundReasonsRequest>,
    ) -> Result<Response<pb::ListRefundReasonsResponse>, Status> {
        let request = request.into_inner();
        let (merchant, store_id, period) = self.query(
            &request.merchant_id,
            &request.store_id,
            request.period.as_ref(),
            false,
        )?;
        let reasons = figures::reasons(self.db.pool(), merchant, store_id, &period)
            .await
            .map_err(fail)?;
        Ok(Response::new(pb::ListRefundReasonsResponse {
            reasons: reasons.into_iter().map(reason).collect(),
        }))
    }

    async fn list_cycle_times(
        &self,
        request: Request<pb::ListCycleTimesRequest>,
    ) -> Result<Response<pb::ListCycleTimesResponse>, Status> {
        let request = request.into_inner();
        let (merchant, store_id, period) = self.query(
            &request.merchant_id,
            &request.store_id,
            request.period.as_ref(),
            false,
        )?;
        let steps = figures::cycle_times(self.db.pool(), merchant, store_id, &period)
            .await
            .map_err(fail)?;
        Ok(Response::new(pb::ListCycleTimesResponse {
            steps: steps.into_iter().map(step).collect(),
        }))
    }
}

fn money(currency: &str, minor_units: i64) -> Option<Money> {
    Some(Money {
        currency_code: currency.to_owned(),
        minor_units,
    })
}

fn orders(of: &Figures) -> pb::OrderFigures {
    let OrderFigures {
        orders,
        cancelled,
        units,
        gross,
        net,
        discounts,
        tax,
        shipping,
    } = of.orders;
    pb::OrderFigures {
        orders,
        cancelled_orders: cancelled,
        units,
        gross_sales: money(&of.currency, gross),
        net_sales: money(&of.currency, net),
        discounts: money(&of.currency, discounts),
        tax: money(&of.currency, tax),
        shipping: money(&of.currency, shipping),
        average_order_value: money(&of.currency, of.orders.average()),
    }
}

fn refunds(of: &Figures) -> pb::RefundFigures {
    let RefundFigures {
        refunds,
        refunded,
        refunded_orders,
        ..
    } = of.refunds;
    pb::RefundFigures {
        refunds,
        refunded: money(&of.currency, refunded),
        refunded_orders,
        refund_rate_orders_ppm: of.refunds.rate_by_orders(&of.orders),
        refund_rate_value_ppm: of.refunds.rate_by_value(&of.orders),
    }
}

fn day((day, of): (NaiveDate, Figures)) -> pb::DailyFigures {
    pb::DailyFigures {
        day: day.to_string(),
        orders: Some(orders(&of)),
        refunds: Some(refunds(&of)),
        currency_code: of.currency,
    }
}

fn reason(of: ReasonFigures) -> pb::ReasonFigures {
    pb::ReasonFigures {
        refunded: money(&of.currency, of.refunded),
        reason: of.reason,
        currency_code: of.currency,
        refunds: of.refunds,
    }
}

fn step(of: CycleTime) -> pb::CycleTime {
    pb::CycleTime {
        step: of.step,
        count: of.count,
        p50_seconds: of.p50,
        p90_seconds: of.p90,
        p99_seconds: of.p99,
    }
}
