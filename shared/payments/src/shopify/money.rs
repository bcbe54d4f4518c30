//! What the transactions of an order say about one payment of it. Pure.

use serde_json::{Value, json};
use waybill_kernel::money::{Currency, Money};

use super::DECIMALS;
use super::wire::{OrderData, WireTransaction};
use crate::decimal;
use crate::payment::{CaptureRequest, ProviderCapture, ProviderPayment, ProviderVoid, StepState};
use crate::provider::ProviderError;

/// A payment: an order, and its authorization or sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PaymentRef {
    order: u64,
    transaction: u64,
}

impl PaymentRef {
    /// Reads `"<order>/<transaction>"`.
    pub fn parse(id: &str) -> Result<Self, ProviderError> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits)
        };
        id.split_once('/')
            .and_then(|(order, transaction)| {
                Some(Self {
                    order: number(order)?,
                    transaction: number(transaction)?,
                })
            })
            .ok_or_else(|| {
                let detail = "a payment of a Shopify order is named \"<order>/<transaction>\", two numbers";
                ProviderError::refused("payment_id_invalid", detail)
            })
    }

    pub fn order_gid(self) -> String {
        format!("gid://shopify/Order/{}", self.order)
    }

    pub fn transaction_gid(self) -> String {
        format!("gid://shopify/OrderTransaction/{}", self.transaction)
    }
}

pub(super) fn no_order() -> ProviderError {
    ProviderError::refused("order_not_found", "the shop has no such order")
}

/// Refuses amounts that are finer than what shops move.
pub(super) fn require_step(amount: Money) -> Result<(), ProviderError> {
    let step = decimal::step(amount.currency, DECIMALS);
    if amount.minor % step == 0 {
        return Ok(());
    }
    let detail = format!(
        "{amount}: amounts of {} move in steps of {step} minor units",
        amount.currency
    );
    Err(ProviderError::refused("amount_not_supported", detail))
}

/// A payment and the transactions that belong to it.
#[derive(Debug)]
pub(super) struct Order {
    pub payment: PaymentRef,
    own: WireTransaction,
    currency: Currency,
    /// Children of the payment, and children of those.
    family: Vec<WireTransaction>,
}

impl Order {
    /// Takes out of an order what concerns the payment.
    pub fn read(payment: PaymentRef, found: OrderData) -> Result<Self, ProviderError> {
        let transactions = found.order.ok_or_else(no_order)?.transactions;
        let gid = payment.transaction_gid();
        let own = transactions.iter().find(|one| one.id == gid).cloned();
        let own = own.ok_or_else(|| {
            ProviderError::refused(
                "transaction_not_found",
                "the order has no such authorization or sale",
            )
        })?;
        if !matches!(own.kind.as_str(), "AUTHORIZATION" | "SALE") || own.state() != StepState::Succeeded {
            let detail = format!(
                "the transaction is a {} with status {}, not a successful authorization or sale",
                own.kind, own.status
            );
            return Err(ProviderError::refused("not_a_payment", detail));
        }
        let currency = own.money()?.currency;
        let children: Vec<&str> = transactions
            .iter()
            .filter(|one| is_child(one, &gid))
            .map(|one| one.id.as_str())
            .collect();
        let belongs = |one: &&WireTransaction| {
            is_child(one, &gid) || children.iter().any(|parent| is_child(one, parent))
        };
        let family = transactions.iter().filter(belongs).cloned().collect();
        Ok(Self {
            payment,
            own,
            currency,
            family,
        })
    }

    fn is_sale(&self) -> bool {
        self.own.kind == "SALE"
    }

    fn sum<'a>(&self, of: impl Iterator<Item = &'a WireTransaction>) -> Result<Money, ProviderError> {
        let amounts = of.map(WireTransaction::money).collect::<Result<Vec<_>, _>>()?;
        Money::sum(self.currency, amounts).map_err(|_| ProviderError::unknown("amount_malformed"))
    }

    fn captures(&self) -> impl Iterator<Item = &WireTransaction> {
        self.family
            .iter()
            .filter(|one| one.kind == "CAPTURE" && one.counts())
    }

    fn captured(&self) -> Result<Money, ProviderError> {
        if self.is_sale() {
            return self.own.money();
        }
        self.sum(self.captures())
    }

    /// The transactions that pay an amount back: oldest capture first, each up to what it has left.
    pub fn refund_transactions(&self, amount: Money) -> Result<Vec<Value>, ProviderError> {
        if amount.currency != self.currency {
            let detail = format!(
                "the customer paid in {}, not in {}",
                self.currency, amount.currency
            );
            return Err(ProviderError::refused("currency_differs", detail));
        }
        let parents: Vec<&WireTransaction> = if self.is_sale() {
            vec![&self.own]
        } else {
            self.captures()
                .filter(|one| one.state() == StepState::Succeeded)
                .collect()
        };
        let (mut open, mut planned) = (amount.minor, Vec::new());
        for parent in parents {
            let refunds = self
                .family
                .iter()
                .filter(|one| one.kind == "REFUND" && one.counts() && is_child(one, &parent.id));
            let left = parent.money()?.minor - self.sum(refunds)?.minor;
            let part = left.min(open);
            if part <= 0 {
                continue;
            }
            open -= part;
            planned.push(json!({
                "orderId": self.payment.order_gid(),
                "parentId": parent.id,
                "gateway": parent.gateway.as_deref().or(self.own.gateway.as_deref()).unwrap_or_default(),
                "kind": "REFUND",
                "amount": Money::new(self.currency, part).to_decimal(),
            }));
        }
        if open > 0 {
            let detail = format!("{amount} is more than what was captured and is not refunded yet");
            return Err(ProviderError::refused("amount_exceeds_captured", detail));
        }
        Ok(planned)
    }

    /// The capture of a request, when the sums say that it was done; `None` when they say that it was not.
    pub fn capture_of(&self, request: &CaptureRequest) -> Result<Option<ProviderCapture>, ProviderError> {
        let captured = if self.is_sale() {
            Money::zero(self.currency)
        } else {
            self.captured()?
        };
        if captured == request.captured_before {
            return Ok(None);
        }
        let after = request.captured_before.checked_add(request.amount);
        match self.captures().last() {
            Some(last) if after == Ok(captured) => last.clone().capture(request).map(Some),
            _ => {
                tracing::error!(
                    provider_payment_id = self.own.id,
                    "somebody else captured the payment"
                );
                Err(ProviderError::unknown("captured_elsewhere"))
            }
        }
    }

    /// Refuses a capture that cannot work.
    pub fn require_capturable(&self, request: &CaptureRequest) -> Result<(), ProviderError> {
        let refused = |reason, detail: String| Err(ProviderError::refused(reason, detail));
        if self.is_sale() {
            return refused(
                "already_captured",
                "the payment is a sale: it was captured at once".to_owned(),
            );
        }
        if self.void().is_some() {
            return refused("authorization_voided", "the authorization was voided".to_owned());
        }
        let left = self.own.money()?.checked_sub(self.captured()?);
        let left = left.map_err(|_| ProviderError::unknown("amount_malformed"))?;
        if request.amount.currency != self.currency || request.amount.minor > left.minor {
            let detail = format!("{} is more than the {left} that are authorised", request.amount);
            return refused("amount_exceeds_authorized", detail);
        }
        Ok(())
    }

    /// The void of the authorization.
    pub fn void(&self) -> Option<ProviderVoid> {
        let void = self
            .family
            .iter()
            .find(|one| one.kind == "VOID" && one.counts())?;
        Some(ProviderVoid {
            provider_void_id: void.id.clone(),
            state: void.state(),
        })
    }

    /// The sums of the payment.
    pub fn as_payment(&self, id: &str) -> Result<ProviderPayment, ProviderError> {
        let (authorized, captured) = (self.own.money()?, self.captured()?);
        let left = authorized
            .checked_sub(captured)
            .map_err(|_| ProviderError::unknown("amount_malformed"))?;
        let nothing = Money::zero(self.currency);
        let (capturable, voided) = if self.void().is_some() {
            (nothing, left)
        } else {
            (left, nothing)
        };
        let refunds = self
            .family
            .iter()
            .filter(|one| one.kind == "REFUND" && one.counts());
        Ok(ProviderPayment {
            provider_payment_id: id.to_owned(),
            authorized: Some(authorized),
            captured,
            capturable,
            voided,
            refunded: self.sum(refunds)?,
        })
    }
}

fn is_child(one: &WireTransaction, parent: &str) -> bool {
    one.parent_transaction.as_ref().is_some_and(|of| of.id == parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payments_are_two_numbers() {
        let payment = PaymentRef::parse("450789469/389404469").expect("a payment");
        assert_eq!(payment.order_gid(), "gid://shopify/Order/450789469");
        assert_eq!(
            payment.transaction_gid(),
            "gid://shopify/OrderTransaction/389404469"
        );
        for wrong in [
            "",
            "1",
            "1/",
            "/1",
            "1/2/3",
            "+1/2",
            "1/-2",
            "a/b",
            "99999999999999999999/1",
        ] {
            let error = PaymentRef::parse(wrong).expect_err(wrong);
            assert_eq!(error.reason(), "payment_id_invalid");
        }
    }

    #[test]
    fn thousandths_are_refused_not_rounded() {
        assert!(require_step(Money::new(Currency::KWD, 1230)).is_ok());
        assert_eq!(
            require_step(Money::new(Currency::KWD, 1234)).map_err(|error| error.reason().to_owned()),
            Err("amount_not_supported".to_owned())
        );
    }
}
