//! Reading the parameters of a refund, as strictly as Stripe does.

use std::collections::BTreeMap;

use super::answer::ApiError;

/// The parameters of a refund.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RefundParams {
    pub payment: String,
    pub amount: Option<i64>,
    pub reason: Option<String>,
    pub metadata: BTreeMap<String, String>,
}

impl RefundParams {
    /// Reads a decoded form.
    pub fn parse(form: &[(String, String)]) -> Result<Self, ApiError> {
        let mut params = Self::default();
        for (name, value) in form {
            match name.as_str() {
                "payment_intent" | "charge" if params.payment.is_empty() => params.payment.clone_from(value),
                "payment_intent" | "charge" => {
                    return Err(ApiError::invalid(
                        "parameters_exclusive",
                        name,
                        "Name one payment only.",
                    ));
                }
                "amount" => {
                    let amount = value.parse().ok().filter(|amount| *amount > 0);
                    let fault =
                        || ApiError::invalid("parameter_invalid_integer", name, "Invalid positive integer");
                    params.amount = Some(amount.ok_or_else(fault)?);
                }
                "reason" => params.reason = Some(known_reason(value)?),
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
        if params.payment.is_empty() {
            return Err(ApiError::invalid(
                "parameter_missing",
                "payment_intent",
                "One of the following params should be provided for this request: payment_intent or charge.",
            ));
        }
        Ok(params)
    }
}

fn known_reason(value: &str) -> Result<String, ApiError> {
    if ["duplicate", "fraudulent", "requested_by_customer"].contains(&value) {
        return Ok(value.to_owned());
    }
    let message = "Invalid reason: must be one of duplicate, fraudulent, or requested_by_customer";
    Err(ApiError::invalid("parameter_invalid", "reason", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(form: &[(&str, &str)]) -> Result<RefundParams, ApiError> {
        let form: Vec<(String, String)> = form
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        RefundParams::parse(&form)
    }

    #[test]
    fn parameters_are_checked() {
        let code = |form: &[(&str, &str)]| params(form).expect_err("refused").code.expect("with a code");
        assert_eq!(code(&[("amount", "5")]), "parameter_missing");
        assert_eq!(
            code(&[("payment_intent", "pi_1"), ("charge", "ch_1")]),
            "parameters_exclusive"
        );
        assert_eq!(
            code(&[("payment_intent", "pi_1"), ("currency", "eur")]),
            "parameter_unknown"
        );
        assert_eq!(
            code(&[("payment_intent", "pi_1"), ("reason", "broken")]),
            "parameter_invalid"
        );
        for amount in ["0", "-1", "1.5", "", "9223372036854775808"] {
            assert_eq!(
                code(&[("payment_intent", "pi_1"), ("amount", amount)]),
                "parameter_invalid_integer"
            );
        }
    }
}
