//! From messages to domain types. Every fault is noted against its field; nothing is refused here.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use waybill_kernel::check::Violations;
use waybill_kernel::id::LineId;
use waybill_kernel::money::Money;
use waybill_proto::waybill::refund::v1 as proto;
use waybill_proto::waybill::r#type::v1 as common;
use waybill_rpc::convert;

use crate::domain::book::Tenant;
use crate::domain::compose::Ask;
use crate::domain::decision::Wish;
use crate::domain::policy::{Policy, RefundTiming, ReturnReason, WindowStart};
use crate::domain::refund::RefundState;
use crate::domain::returns::Disposition;
use crate::domain::settle::Outcome;

/// The most lines of a request.
const LINES: usize = 1000;

/// Merchant and store.
pub fn tenant(merchant_id: &str, store_id: &str, v: &mut Violations) -> Option<Tenant> {
    let tenant = convert::tenant(merchant_id, store_id, v)?;
    Some(Tenant {
        merchant: tenant.merchant_id,
        store: tenant.store_id,
    })
}

/// A version that must be known.
pub fn version(field: &str, version: i64, v: &mut Violations) -> Option<i64> {
    v.require(version >= 0, field, format!("is {version}; give 0 or more"));
    (version >= 0).then_some(version)
}

/// A number within bounds.
fn number(field: &str, value: i32, most: i32, v: &mut Violations) -> Option<u32> {
    v.require(
        (0..=most).contains(&value),
        field,
        format!("is {value}; 0 to {most} are allowed"),
    );
    u32::try_from(value).ok().filter(|_| value <= most)
}

/// Units: at least one.
fn quantity(value: i32, v: &mut Violations) -> Option<i32> {
    v.require(value > 0, "quantity", format!("is {value}; give 1 or more"));
    (value > 0).then_some(value)
}

/// A policy without a version.
pub fn policy(policy: Option<&proto::ReturnPolicy>, v: &mut Violations) -> Option<Policy> {
    let Some(policy) = policy else {
        v.push("policy", "is required");
        return None;
    };
    v.nested("policy", |v| {
        v.require(policy.version == 0, "version", "is assigned; leave it 0");
        let valid_from = convert::timestamp("valid_from", policy.valid_from.as_ref(), v);
        let window_days = number("window_days", policy.window_days, 36_500, v);
        let window_start = convert::known::<proto::WindowStart>("window_start", policy.window_start, v);
        let excluded_categories = texts("excluded_categories", &policy.excluded_categories, 200, v);
        let excluded_skus = texts("excluded_skus", &policy.excluded_skus, 5000, v);
        let restocking_fee_ppm = number("restocking_fee_ppm", policy.restocking_fee_ppm, 1_000_000, v);
        let fault_reasons = reasons("fault_reasons", &policy.fault_reasons, v);
        let refund_timing = convert::known::<proto::RefundTiming>("refund_timing", policy.refund_timing, v);
        let auto_approve_up_to = limits("auto_approve_up_to", &policy.auto_approve_up_to, v);
        let second_approval_above = limits("second_approval_above", &policy.second_approval_above, v);
        let arrival_days = number("arrival_days", policy.arrival_days, 60, v);
        Some(Policy {
            version: 0,
            valid_from: valid_from.map(|time| chrono::SubsecRound::trunc_subsecs(time, 6))?,
            window_days: window_days?,
            window_start: match window_start? {
                proto::WindowStart::Purchase => WindowStart::Purchase,
                _ => WindowStart::Delivery,
            },
            excluded_categories: excluded_categories?,
            excluded_skus: excluded_skus?,
            final_sale_returnable: policy.final_sale_returnable,
            restocking_fee_ppm: restocking_fee_ppm?,
            fault_reasons: fault_reasons?,
            refund_shipping_on_full_return: policy.refund_shipping_on_full_return,
            refund_timing: match refund_timing? {
                proto::RefundTiming::OnApproval => RefundTiming::OnApproval,
                _ => RefundTiming::OnReceipt,
            },
            auto_approve_up_to: auto_approve_up_to?,
            second_approval_above: second_approval_above?,
            arrival_days: arrival_days?,
        })
    })
}

fn texts(field: &str, texts: &[String], most: usize, v: &mut Violations) -> Option<BTreeSet<String>> {
    if texts.len() > most {
        v.push(
            field,
            format!("has {} entries, at most {most} are allowed", texts.len()),
        );
        return None;
    }
    let parsed: Vec<Option<String>> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| convert::text(&format!("{field}[{index}]"), text, 1..=200, v))
        .collect();
    parsed.into_iter().collect()
}

fn reasons(field: &str, values: &[i32], v: &mut Violations) -> Option<BTreeSet<ReturnReason>> {
    let parsed: Vec<Option<ReturnReason>> = values
        .iter()
        .enumerate()
        .map(|(index, value)| reason(&format!("{field}[{index}]"), *value, v))
        .collect();
    parsed.into_iter().collect()
}

/// Amounts by currency, each currency once.
fn limits(field: &str, amounts: &[common::Money], v: &mut Violations) -> Option<BTreeMap<String, i64>> {
    let mut limits = BTreeMap::new();
    let mut whole = true;
    for (index, amount) in amounts.iter().enumerate() {
        let at = format!("{field}[{index}]");
        let Some(money) = convert::money(&at, Some(amount), v) else {
            whole = false;
            continue;
        };
        v.require(money.minor >= 0, &at, format!("is {money}; give 0 or more"));
        if limits
            .insert(money.currency.code().to_owned(), money.minor)
            .is_some()
        {
            v.push(&at, format!("names {} a second time", money.currency));
        }
    }
    whole.then_some(limits)
}

fn reason(field: &str, value: i32, v: &mut Violations) -> Option<ReturnReason> {
    Some(match convert::known::<proto::ReturnReason>(field, value, v)? {
        proto::ReturnReason::Unwanted => ReturnReason::Unwanted,
        proto::ReturnReason::WrongSize => ReturnReason::WrongSize,
        proto::ReturnReason::Damaged => ReturnReason::Damaged,
        proto::ReturnReason::WrongItem => ReturnReason::WrongItem,
        proto::ReturnReason::NotAsDescribed => ReturnReason::NotAsDescribed,
        proto::ReturnReason::Late => ReturnReason::Late,
        proto::ReturnReason::Other | proto::ReturnReason::Unspecified => ReturnReason::Other,
    })
}

/// Notes lines that are named a second time, and too many lines.
fn lines_once<'a>(ids: impl ExactSizeIterator<Item = &'a str>, v: &mut Violations) -> bool {
    if ids.len() > LINES {
        v.push(
            "lines",
            format!("has {} lines, at most {LINES} are allowed", ids.len()),
        );
        return false;
    }
    let mut seen = HashSet::new();
    for (index, id) in ids.enumerate() {
        if !id.is_empty() && !seen.insert(id.to_ascii_lowercase()) {
            v.push(
                format!("lines[{index}].line_id"),
                format!("{id} is named a second time; add up its units"),
            );
        }
    }
    true
}

/// What shall come back.
pub fn wishes(lines: &[proto::NewReturnLine], v: &mut Violations) -> Option<Vec<Wish>> {
    if lines.is_empty() {
        v.push("lines", "is empty; name at least one line");
    }
    if !lines_once(lines.iter().map(|line| line.line_id.as_str()), v) {
        return None;
    }
    let parsed: Vec<Option<Wish>> = lines
        .iter()
        .enumerate()
        .map(|(index, line)| {
            v.element("lines", index, |v| {
                let line_id = convert::id("line_id", &line.line_id, v);
                let quantity = quantity(line.quantity, v);
                let reason = reason("reason", line.reason, v);
                Some(Wish {
                    line_id: line_id?,
                    quantity: quantity?,
                    reason: reason?,
                })
            })
        })
        .collect();
    parsed.into_iter().collect()
}

/// What came back.
pub fn received(lines: &[proto::ReceivedLine], v: &mut Violations) -> Option<Vec<(LineId, Disposition)>> {
    if !lines_once(lines.iter().map(|line| line.line_id.as_str()), v) {
        return None;
    }
    let parsed: Vec<Option<(LineId, Disposition)>> = lines
        .iter()
        .enumerate()
        .map(|(index, line)| {
            v.element("lines", index, |v| {
                let line_id = convert::id("line_id", &line.line_id, v);
                let disposition = convert::known::<proto::Disposition>("disposition", line.disposition, v);
                Some((line_id?, self::disposition(disposition?)))
            })
        })
        .collect();
    parsed.into_iter().collect()
}

fn disposition(disposition: proto::Disposition) -> Disposition {
    match disposition {
        proto::Disposition::Restock | proto::Disposition::Unspecified => Disposition::Restock,
        proto::Disposition::Damaged => Disposition::Damaged,
        proto::Disposition::Discard => Disposition::Discard,
        proto::Disposition::NotReturned => Disposition::NotReturned,
    }
}

/// What shall be paid back without a return.
pub fn ask(message: &proto::CreateRefundRequest, v: &mut Violations) -> Option<(Ask, Option<Money>)> {
    let goodwill = match &message.goodwill {
        None => Some(None),
        Some(amount) => convert::money("goodwill", Some(amount), v).map(Some),
    };
    if let Some(Some(amount)) = goodwill {
        v.require(
            amount.minor > 0,
            "goodwill",
            format!("is {amount}; give more than 0, or leave it out"),
        );
    }
    if message.lines.is_empty() && !message.shipping && message.goodwill.is_none() {
        v.push("lines", "is empty; name units, or set shipping or goodwill");
    }
    if !lines_once(message.lines.iter().map(|line| line.line_id.as_str()), v) {
        return None;
    }
    let lines: Vec<Option<(LineId, i32)>> = message
        .lines
        .iter()
        .enumerate()
        .map(|(index, line)| {
            v.element("lines", index, |v| {
                let line_id = convert::id("line_id", &line.line_id, v);
                let quantity = quantity(line.quantity, v);
                Some((line_id?, quantity?))
            })
        })
        .collect();
    let lines = lines.into_iter().collect::<Option<_>>()?;
    Some((
        Ask {
            lines,
            shipping: message.shipping,
            goodwill: 0,
        },
        goodwill?,
    ))
}

/// What a provider said.
pub fn outcome(outcome: &str, failure_reason: &str, v: &mut Violations) -> Option<Outcome> {
    let reason = convert::text("failure_reason", failure_reason, 0..=200, v);
    match outcome {
        "pending" => Some(Outcome::Pending),
        "succeeded" => Some(Outcome::Succeeded),
        "failed" => {
            let reason = reason?;
            let reason = if reason.is_empty() {
                "unknown".to_owned()
            } else {
                reason
            };
            Some(Outcome::Failed { reason })
        }
        other => {
            v.push(
                "outcome",
                format!("{other:?} is not known; give pending, succeeded or failed"),
            );
            None
        }
    }
}

/// A state to narrow a list to.
pub fn optional_refund_state(field: &str, value: i32, v: &mut Violations) -> Option<Option<RefundState>> {
    if value == 0 {
        return Some(None);
    }
    Some(Some(
        match convert::known::<proto::RefundState>(field, value, v)? {
            proto::RefundState::PendingApproval => RefundState::PendingApproval,
            proto::RefundState::Pending => RefundState::Pending,
            proto::RefundState::Submitted => RefundState::Submitted,
            proto::RefundState::Succeeded => RefundState::Succeeded,
            proto::RefundState::Failed => RefundState::Failed,
            proto::RefundState::Unknown => RefundState::Unknown,
            proto::RefundState::Cancelled => RefundState::Cancelled,
            proto::RefundState::Unspecified => return Some(None),
        },
    ))
}
