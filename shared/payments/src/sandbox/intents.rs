//! Payment intents that are authorised: capturing them, wholly or in parts, and cancelling them. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::answer::ApiError;
use super::books::{Books, Payment};

/// An authorised payment.
#[derive(Debug, Clone)]
pub(super) struct Authorization {
    amount: i64,
    currency: String,
    captured: i64,
    /// The last capture was made.
    is_closed: bool,
    is_canceled: bool,
    metadata: BTreeMap<String, String>,
}

impl Authorization {
    fn status(&self) -> &'static str {
        if self.is_canceled {
            "canceled"
        } else if self.is_closed {
            "succeeded"
        } else {
            "requires_capture"
        }
    }

    fn capturable(&self) -> i64 {
        if self.is_canceled || self.is_closed {
            0
        } else {
            self.amount - self.captured
        }
    }
}

/// The parameters of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CaptureParams {
    pub payment: String,
    amount: Option<i64>,
    is_final: bool,
    metadata: BTreeMap<String, String>,
}

impl CaptureParams {
    /// Reads a decoded form.
    pub fn parse(payment: String, form: &[(String, String)]) -> Result<Self, ApiError> {
        let mut params = Self {
            payment,
            amount: None,
            is_final: true,
            metadata: BTreeMap::new(),
        };
        for (name, value) in form {
            match name.as_str() {
                "amount_to_capture" => {
                    let amount = value.parse().ok().filter(|amount| *amount > 0);
                    let fault =
                        || ApiError::invalid("parameter_invalid_integer", name, "Invalid positive integer");
                    params.amount = Some(amount.ok_or_else(fault)?);
                }
                "final_capture" => params.is_final = value == "true",
                _ => {
                    let key = name
                        .strip_prefix("metadata[")
                        .and_then(|rest| rest.strip_suffix(']'));
                    let fault =
                        || ApiError::invalid("parameter_unknown", name, "Received unknown parameter.");
                    params
                        .metadata
                        .insert(key.ok_or_else(fault)?.to_owned(), value.clone());
                }
            }
        }
        Ok(params)
    }
}

impl Books {
    /// Registers an authorised payment; the same again changes nothing.
    pub fn authorize(&mut self, payment: &Payment) -> Result<(), ApiError> {
        payment.check()?;
        let known = self
            .authorizations
            .entry(payment.id.clone())
            .or_insert_with(|| Authorization {
                amount: payment.amount,
                currency: payment.currency.clone(),
                captured: 0,
                is_closed: false,
                is_canceled: false,
                metadata: BTreeMap::new(),
            });
        if known.amount == payment.amount && known.currency == payment.currency {
            return Ok(());
        }
        let message = format!(
            "Payment {} is registered with {} {}",
            payment.id, known.amount, known.currency
        );
        Err(ApiError {
            status: 409,
            ..ApiError::invalid("payment_differs", "id", &message)
        })
    }

    fn open(&mut self, id: &str, action: &str) -> Result<&mut Authorization, ApiError> {
        if self.payments.contains_key(id) && !self.authorizations.contains_key(id) {
            return Err(unexpected(id, action, "succeeded"));
        }
        let known = self
            .authorizations
            .get_mut(id)
            .ok_or_else(|| ApiError::missing("payment_intent", id))?;
        match known.status() {
            "requires_capture" => Ok(known),
            status => Err(unexpected(id, action, status)),
        }
    }

    /// Takes money that is authorised.
    pub fn capture(&mut self, params: &CaptureParams) -> Result<Value, ApiError> {
        let known = self.open(&params.payment, "captured")?;
        let amount = params.amount.unwrap_or(known.capturable());
        if amount > known.capturable() {
            let message = format!(
                "The amount to capture ({amount}) is greater than the amount capturable ({})",
                known.capturable()
            );
            return Err(ApiError::invalid(
                "amount_too_large",
                "amount_to_capture",
                &message,
            ));
        }
        known.captured += amount;
        known.is_closed = params.is_final || known.captured == known.amount;
        known.metadata.extend(params.metadata.clone());
        let taken = Payment {
            id: params.payment.clone(),
            amount: known.captured,
            currency: known.currency.clone(),
        };
        self.payments.insert(params.payment.clone(), taken);
        Ok(self.intent_object(&params.payment).unwrap_or_default())
    }

    /// Releases what is authorised and not captured.
    pub fn cancel(&mut self, id: &str) -> Result<Value, ApiError> {
        self.open(id, "canceled")?.is_canceled = true;
        Ok(self.intent_object(id).unwrap_or_default())
    }

    pub fn is_canceled(&self, id: &str) -> bool {
        self.authorizations.get(id).is_some_and(|known| known.is_canceled)
    }

    /// The intent object of a payment, its charge included.
    pub fn intent_object(&self, id: &str) -> Option<Value> {
        let charge = self.charge_object(id);
        let object = |amount: i64, currency: &str, received: i64, capturable: i64, status: &str| {
            json!({
                "id": id, "object": "payment_intent", "amount": amount, "currency": currency, "status": status,
                "amount_received": received, "amount_capturable": capturable, "metadata": {},
                "latest_charge": charge,
            })
        };
        if let Some(known) = self.authorizations.get(id) {
            let mut intent = object(
                known.amount,
                &known.currency,
                known.captured,
                known.capturable(),
                known.status(),
            );
            intent["metadata"] = json!(known.metadata);
            return Some(intent);
        }
        let paid = self.payments.get(id)?;
        Some(object(paid.amount, &paid.currency, paid.amount, 0, "succeeded"))
    }
}

fn unexpected(id: &str, action: &str, status: &str) -> ApiError {
    let message =
        format!("This PaymentIntent ({id}) could not be {action} because it has a status of {status}.");
    ApiError::invalid("payment_intent_unexpected_state", "", &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books() -> Books {
        let mut books = Books::default();
        let payment = Payment {
            id: "pi_1".into(),
            amount: 1000,
            currency: "eur".into(),
        };
        books.authorize(&payment).expect("authorised");
        books
    }

    fn take(books: &mut Books, amount: &str, is_final: &str) -> Result<Value, ApiError> {
        let form = [("amount_to_capture", amount), ("final_capture", is_final)];
        let form = form.map(|(name, value)| (name.to_owned(), value.to_owned()));
        books.capture(&CaptureParams::parse("pi_1".to_owned(), &form)?)
    }

    #[test]
    fn never_takes_more_than_was_authorised() {
        let mut books = books();
        take(&mut books, "400", "false").expect("a part");
        let error = take(&mut books, "601", "false").expect_err("only 600 are left");
        assert_eq!(error.code.as_deref(), Some("amount_too_large"));
        let rest = take(&mut books, "600", "false").expect("the rest");
        assert_eq!(
            (rest["status"].as_str(), &rest["amount_received"]),
            (Some("succeeded"), &json!(1000))
        );
        let error = take(&mut books, "1", "true").expect_err("it is closed");
        assert_eq!(error.code.as_deref(), Some("payment_intent_unexpected_state"));
    }

    #[test]
    fn a_final_capture_and_a_cancellation_release_the_rest() {
        let mut once = books();
        let taken = take(&mut once, "400", "true").expect("a part");
        assert_eq!(
            (taken["status"].as_str(), &taken["amount_capturable"]),
            (Some("succeeded"), &json!(0))
        );
        assert!(once.cancel("pi_1").is_err());

        let mut none = books();
        assert_eq!(none.cancel("pi_1").expect("cancelled")["status"], "canceled");
        assert!(take(&mut none, "1", "true").is_err());
        assert!(none.is_canceled("pi_1"));
    }
}
