//! From domain types to messages.

use waybill_kernel::id::RefundId;
use waybill_proto::waybill::refund::v1 as proto;
use waybill_proto::waybill::r#type::v1::Money;
use waybill_rpc::convert::to_timestamp;

use crate::domain::decision::{LineDecision, Quote};
use crate::domain::policy::{Policy, RefundTiming, ReturnReason, WindowStart};
use crate::domain::refund::{Component, ComponentKind, Leg, Refund, RefundState};
use crate::domain::returns::{Disposition, Return, ReturnLine, ReturnState};
use crate::store::journal::{AccountSum, Booked};

fn money(currency: &str, minor_units: i64) -> Option<Money> {
    Some(Money {
        currency_code: currency.to_owned(),
        minor_units,
    })
}

/// A policy.
pub fn policy(policy: &Policy) -> proto::ReturnPolicy {
    let limits = |limits: &std::collections::BTreeMap<String, i64>| {
        limits
            .iter()
            .filter_map(|(currency, minor)| money(currency, *minor))
            .collect()
    };
    let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    proto::ReturnPolicy {
        version: policy.version,
        valid_from: Some(to_timestamp(policy.valid_from)),
        window_days: number(policy.window_days),
        window_start: match policy.window_start {
            WindowStart::Delivery => proto::WindowStart::Delivery,
            WindowStart::Purchase => proto::WindowStart::Purchase,
        }
        .into(),
        excluded_categories: policy.excluded_categories.iter().cloned().collect(),
        excluded_skus: policy.excluded_skus.iter().cloned().collect(),
        final_sale_returnable: policy.final_sale_returnable,
        restocking_fee_ppm: number(policy.restocking_fee_ppm),
        fault_reasons: policy
            .fault_reasons
            .iter()
            .map(|reason| return_reason(*reason).into())
            .collect(),
        refund_shipping_on_full_return: policy.refund_shipping_on_full_return,
        refund_timing: match policy.refund_timing {
            RefundTiming::OnApproval => proto::RefundTiming::OnApproval,
            RefundTiming::OnReceipt => proto::RefundTiming::OnReceipt,
        }
        .into(),
        auto_approve_up_to: limits(&policy.auto_approve_up_to),
        second_approval_above: limits(&policy.second_approval_above),
        arrival_days: number(policy.arrival_days),
    }
}

fn return_reason(reason: ReturnReason) -> proto::ReturnReason {
    match reason {
        ReturnReason::Unwanted => proto::ReturnReason::Unwanted,
        ReturnReason::WrongSize => proto::ReturnReason::WrongSize,
        ReturnReason::Damaged => proto::ReturnReason::Damaged,
        ReturnReason::WrongItem => proto::ReturnReason::WrongItem,
        ReturnReason::NotAsDescribed => proto::ReturnReason::NotAsDescribed,
        ReturnReason::Late => proto::ReturnReason::Late,
        ReturnReason::Other => proto::ReturnReason::Other,
    }
}

/// A quote, in the currency of its order.
pub fn quote(quote: &Quote, currency: &str) -> proto::Quote {
    proto::Quote {
        lines: quote
            .lines
            .iter()
            .map(|line| line_decision(line, currency))
            .collect(),
        shipping: money(currency, quote.shipping),
        total: money(currency, quote.total),
        policy_version: quote.policy_version,
        auto_approve: quote.auto_approve,
    }
}

fn line_decision(line: &LineDecision, currency: &str) -> proto::LineDecision {
    proto::LineDecision {
        line_id: line.line_id.to_string(),
        quantity: line.quantity,
        eligible: line.eligible(),
        reason_codes: line.codes.iter().map(|code| code.as_str().to_owned()).collect(),
        explanation: line.explanation.clone(),
        deadline: Some(to_timestamp(line.deadline)),
        net: money(currency, line.net),
        tax: money(currency, line.tax),
        fee: money(currency, line.fee),
    }
}

/// A return.
pub fn a_return(of: &Return) -> proto::Return {
    let state = match of.state {
        ReturnState::Requested => proto::ReturnState::Requested,
        ReturnState::Approved => proto::ReturnState::Approved,
        ReturnState::Declined => proto::ReturnState::Declined,
        ReturnState::Received => proto::ReturnState::Received,
        ReturnState::Completed => proto::ReturnState::Completed,
    };
    proto::Return {
        return_id: of.return_id.to_string(),
        order_id: of.order_id.to_string(),
        state: state.into(),
        lines: of.lines.iter().map(return_line).collect(),
        quote: Some(quote(&of.quote, &of.currency)),
        decline_reason: of.decline_reason.clone(),
        refund_id: of.refund_id.as_ref().map(RefundId::to_string).unwrap_or_default(),
        requested_at: Some(to_timestamp(of.requested_at)),
        updated_at: Some(to_timestamp(of.updated_at)),
        version: of.version,
        etag: of.version.to_string(),
    }
}

fn return_line(line: &ReturnLine) -> proto::ReturnLine {
    let disposition = match line.disposition {
        None => proto::Disposition::Unspecified,
        Some(Disposition::Restock) => proto::Disposition::Restock,
        Some(Disposition::Damaged) => proto::Disposition::Damaged,
        Some(Disposition::Discard) => proto::Disposition::Discard,
        Some(Disposition::NotReturned) => proto::Disposition::NotReturned,
    };
    proto::ReturnLine {
        line_id: line.line_id.to_string(),
        sku: line.sku.clone(),
        quantity: line.quantity,
        reason: return_reason(line.reason).into(),
        disposition: disposition.into(),
    }
}

/// A refund.
pub fn refund(refund: &Refund) -> proto::Refund {
    let currency = &refund.currency;
    proto::Refund {
        refund_id: refund.refund_id.to_string(),
        order_id: refund.order_id.to_string(),
        return_id: refund.return_id.map(|id| id.to_string()).unwrap_or_default(),
        state: refund_state(refund.state).into(),
        amount: money(currency, refund.amount),
        components: refund
            .components
            .iter()
            .map(|part| component(part, currency))
            .collect(),
        legs: refund.legs.iter().map(|part| leg(part, currency)).collect(),
        reason: refund.reason.clone(),
        expected_at: refund.expected_at.map(to_timestamp),
        created_at: Some(to_timestamp(refund.created_at)),
        succeeded_at: refund.succeeded_at.map(to_timestamp),
        requested_by: refund.requested_by.clone(),
        version: refund.version,
        etag: refund.version.to_string(),
    }
}

fn refund_state(state: RefundState) -> proto::RefundState {
    match state {
        RefundState::PendingApproval => proto::RefundState::PendingApproval,
        RefundState::Pending => proto::RefundState::Pending,
        RefundState::Submitted => proto::RefundState::Submitted,
        RefundState::Succeeded => proto::RefundState::Succeeded,
        RefundState::Failed => proto::RefundState::Failed,
        RefundState::Unknown => proto::RefundState::Unknown,
        RefundState::Cancelled => proto::RefundState::Cancelled,
    }
}

fn component(part: &Component, currency: &str) -> proto::RefundComponent {
    proto::RefundComponent {
        kind: part.kind.key().to_owned(),
        line_id: part.line_id.map(|id| id.to_string()).unwrap_or_default(),
        units: if part.kind == ComponentKind::Line {
            part.units.iter().collect()
        } else {
            Vec::new()
        },
        net: money(currency, part.net),
        tax: money(currency, part.tax),
    }
}

fn leg(leg: &Leg, currency: &str) -> proto::RefundLeg {
    proto::RefundLeg {
        leg_id: leg.leg_id.to_string(),
        payment_id: leg.payment_id.to_string(),
        provider: leg.provider.clone(),
        amount: money(currency, leg.amount),
        state: refund_state(leg.state).into(),
        provider_refund_id: leg.provider_refund_id.clone().unwrap_or_default(),
        failure_reason: leg.failure_reason.clone(),
        attempts: leg.calls,
    }
}

/// An entry of the books.
pub fn journal_entry(entry: &Booked) -> proto::JournalEntry {
    proto::JournalEntry {
        entry_id: entry.entry_id.to_string(),
        kind: entry.kind.clone(),
        order_id: entry.order_id.to_string(),
        refund_id: entry
            .refund_id
            .as_ref()
            .map(RefundId::to_string)
            .unwrap_or_default(),
        lines: entry
            .lines
            .iter()
            .map(|(account, currency, minor)| proto::JournalLine {
                account: account.clone(),
                amount: money(currency, *minor),
            })
            .collect(),
        booked_at: Some(to_timestamp(entry.booked_at)),
    }
}

/// The sums of the books.
pub fn trial_balance(sums: &[AccountSum]) -> proto::GetTrialBalanceResponse {
    let mut differences: std::collections::BTreeMap<&str, i128> = std::collections::BTreeMap::new();
    for sum in sums {
        *differences.entry(&sum.currency).or_default() += i128::from(sum.debits) - i128::from(sum.credits);
    }
    proto::GetTrialBalanceResponse {
        accounts: sums
            .iter()
            .map(|sum| proto::AccountBalance {
                account: sum.account.clone(),
                debits: money(&sum.currency, sum.debits),
                credits: money(&sum.currency, sum.credits),
            })
            .collect(),
        balanced: differences.values().all(|difference| *difference == 0),
    }
}
