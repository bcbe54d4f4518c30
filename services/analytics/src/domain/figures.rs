//! Figures of a period, and the two ratios that are computed from them.
//!
//! Everything is whole numbers: sums in minor units, rates in parts per million, both rounded half up.

use waybill_kernel::alloc::round_half_up_div;

/// Orders placed in a period, in one currency; amounts in minor units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrderFigures {
    /// Orders placed.
    pub orders: i64,
    /// Those of them that were cancelled, whenever that was.
    pub cancelled: i64,
    /// Units ordered.
    pub units: i64,
    /// What customers pay, tax and shipping included.
    pub gross: i64,
    /// Goods without tax after discounts.
    pub net: i64,
    /// Discounts given.
    pub discounts: i64,
    /// Tax.
    pub tax: i64,
    /// Shipping before discounts.
    pub shipping: i64,
}

impl OrderFigures {
    /// What an order is worth on average; 0 without orders.
    #[must_use]
    pub fn average(&self) -> i64 {
        ratio(self.gross, self.orders, 1)
    }
}

/// Refunds of a period, in one currency; amounts in minor units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefundFigures {
    /// Refunds that succeeded in the period.
    pub refunds: i64,
    /// What they paid back.
    pub refunded: i64,
    /// Orders placed in the period with at least one refund that stands.
    pub refunded_orders: i64,
    /// What went back of orders placed in the period, whenever that was.
    pub refunded_of_orders: i64,
}

impl RefundFigures {
    /// Share of orders with a refund, in parts per million; 0 without orders.
    #[must_use]
    pub fn rate_by_orders(&self, orders: &OrderFigures) -> i32 {
        saturate(ratio(self.refunded_orders, orders.orders, 1_000_000))
    }

    /// Share of sales that went back, in parts per million; 0 without sales.
    #[must_use]
    pub fn rate_by_value(&self, orders: &OrderFigures) -> i32 {
        saturate(ratio(self.refunded_of_orders, orders.gross, 1_000_000))
    }
}

/// Orders and refunds of one currency, or of one day and currency.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// ISO 4217 code.
    pub currency: String,
    /// Orders.
    pub orders: OrderFigures,
    /// Refunds.
    pub refunds: RefundFigures,
}

/// Refunds that succeeded in a period for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasonFigures {
    /// The reason's key.
    pub reason: String,
    /// ISO 4217 code.
    pub currency: String,
    /// How many.
    pub refunds: i64,
    /// What they paid back.
    pub refunded: i64,
}

/// How long a step took, in seconds; quantiles are values that occurred (nearest rank).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CycleTime {
    /// The step.
    pub step: String,
    /// How many were measured.
    pub count: i64,
    /// Half were at least this fast.
    pub p50: i64,
    /// 90 % were at least this fast.
    pub p90: i64,
    /// 99 % were at least this fast.
    pub p99: i64,
}

fn ratio(part: i64, whole: i64, scale: i64) -> i64 {
    if whole == 0 {
        return 0;
    }
    let value = round_half_up_div(i128::from(part) * i128::from(scale), i128::from(whole));
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn saturate(value: i64) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_rounded_half_up_and_zero_without_a_base() {
        let orders = OrderFigures {
            orders: 3,
            gross: 1000,
            ..OrderFigures::default()
        };
        assert_eq!(orders.average(), 333);
        let two = OrderFigures {
            orders: 2,
            gross: 1001,
            ..OrderFigures::default()
        };
        assert_eq!(two.average(), 501);
        let refunds = RefundFigures {
            refunded_orders: 1,
            refunded_of_orders: 500,
            ..RefundFigures::default()
        };
        assert_eq!(refunds.rate_by_orders(&orders), 333_333);
        assert_eq!(refunds.rate_by_value(&orders), 500_000);
        assert_eq!(refunds.rate_by_orders(&OrderFigures::default()), 0);
        assert_eq!(refunds.rate_by_value(&OrderFigures::default()), 0);
    }

    #[test]
    fn a_rate_beyond_the_field_is_cut_off_and_does_not_wrap() {
        let orders = OrderFigures {
            orders: 1,
            gross: 1,
            ..OrderFigures::default()
        };
        let refunds = RefundFigures {
            refunded_of_orders: i64::MAX,
            ..RefundFigures::default()
        };
        assert_eq!(refunds.rate_by_value(&orders), i32::MAX);
    }
}
