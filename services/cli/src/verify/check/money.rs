//! Money: the provider's ledger, the refunds, the books.

use std::collections::BTreeMap;

use anyhow::ensure;

use super::{Evidence, none};

/// The provider paid exactly what the legs say, and callers were told of all of it.
pub async fn paid_once(of: &Evidence) -> anyhow::Result<String> {
    let legs: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT coalesce(a.provider_refund_id, 'leg ' || l.leg_id), p.provider_payment_id, l.amount
         FROM refund.refund_legs l
         JOIN refund.payments p USING (payment_id)
         LEFT JOIN refund.leg_attempts a ON a.leg_id = l.leg_id AND a.attempt = l.attempt
         WHERE l.state = 'SUCCEEDED'",
    )
    .fetch_all(&of.db)
    .await?;
    let mut expected: BTreeMap<String, (String, i64)> = BTreeMap::new();
    for (id, payment, amount) in legs {
        let before = expected.insert(id.clone(), (payment, amount));
        ensure!(before.is_none(), "two legs name the provider's refund {id}");
    }
    let mut paid: BTreeMap<String, (String, i64)> = BTreeMap::new();
    let doomed: BTreeMap<String, i64> = of
        .doomed
        .iter()
        .map(|ended| (ended.payment(), ended.refunded))
        .collect();
    let mut gone: BTreeMap<String, i64> = BTreeMap::new();
    for entry in of.ledger.iter().filter(|entry| entry.is_paid()) {
        if doomed.contains_key(&entry.payment_intent) {
            *gone.entry(entry.payment_intent.clone()).or_default() += entry.amount;
            continue;
        }
        paid.insert(entry.id.clone(), (entry.payment_intent.clone(), entry.amount));
    }
    for (payment, told) in doomed {
        let paid = gone.get(&payment).copied().unwrap_or(0);
        ensure!(
            paid == told,
            "{payment} of an order that is gone: {paid} paid, {told} told"
        );
    }
    for (id, payment) in &paid {
        ensure!(
            expected.get(id) == Some(payment),
            "the provider paid {id} {payment:?}, the legs say {:?}",
            expected.get(id)
        );
    }
    ensure!(
        paid.len() == expected.len(),
        "{} legs are paid, the provider paid {}",
        expected.len(),
        paid.len()
    );
    let told: i64 = of.ended.iter().map(|ended| ended.refunded).sum();
    let total: i64 = paid.values().map(|(_, amount)| amount).sum();
    ensure!(
        told == total,
        "callers were told of {told} minor units, the provider paid {total}"
    );
    let planned: usize = of.ended.iter().map(|ended| ended.plan.refunds()).sum();
    ensure!(
        paid.len() == planned,
        "{planned} refunds were asked for, {} were paid",
        paid.len()
    );
    none(
        of,
        "refunds that are not paid",
        "SELECT refund_id || ' ' || state FROM refund.refunds WHERE state <> 'SUCCEEDED'",
    )
    .await?;
    none(
        of,
        "refunds whose legs sum to something else",
        "SELECT r.refund_id::text FROM refund.refunds r LEFT JOIN refund.refund_legs l USING (refund_id)
         GROUP BY r.refund_id, r.amount HAVING coalesce(sum(l.amount), 0) <> r.amount",
    )
    .await?;
    none(
        of,
        "money that left behind our back",
        "SELECT leg_id || ': ' || detail FROM refund.breaches",
    )
    .await?;
    Ok(format!(
        "{} refunds, {total} minor units, provider = legs = callers",
        paid.len()
    ))
}

/// Each entry, each order and all of it together balance.
pub async fn balanced(of: &Evidence) -> anyhow::Result<String> {
    none(
        of,
        "entries that do not sum to zero",
        "SELECT e.entry_id || ' ' || e.kind FROM refund.journal_entries e LEFT JOIN refund.journal_lines l USING (entry_id)
         GROUP BY e.entry_id, e.kind, e.lines, l.currency HAVING coalesce(sum(l.amount), 1) <> 0 OR count(l.*) <> e.lines",
    )
    .await?;
    none(
        of,
        "orders whose clearing account is not captured less refunded",
        "SELECT o.order_id || ': ' || coalesce(b.cash, 0) || ' in the books, ' || (o.captured_minor - o.refunded_minor) || ' kept'
         FROM \"order\".orders o
         LEFT JOIN (SELECT e.order_id, sum(l.amount) AS cash
                    FROM refund.journal_entries e JOIN refund.journal_lines l USING (entry_id)
                    WHERE l.account LIKE 'clearing:%' GROUP BY e.order_id) b USING (order_id)
         WHERE coalesce(b.cash, 0) <> o.captured_minor - o.refunded_minor",
    )
    .await?;
    none(
        of,
        "orders that are still owed something",
        "SELECT e.order_id || ': ' || l.account || ' ' || sum(l.amount)
         FROM refund.journal_entries e JOIN refund.journal_lines l USING (entry_id)
         WHERE l.account = 'refunds_payable' GROUP BY e.order_id, l.account HAVING sum(l.amount) <> 0",
    )
    .await?;
    none(
        of,
        "payments whose refunds do not sum up",
        "SELECT p.payment_id::text FROM refund.payments p LEFT JOIN refund.refund_legs l
             ON l.payment_id = p.payment_id AND l.state = 'SUCCEEDED'
         GROUP BY p.payment_id, p.succeeded, p.in_flight
         HAVING p.succeeded <> coalesce(sum(l.amount), 0) OR p.in_flight <> 0",
    )
    .await?;
    let (entries, debit): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM refund.journal_entries),
                (SELECT coalesce(sum(amount), 0)::bigint FROM refund.journal_lines WHERE amount > 0)",
    )
    .fetch_one(&of.db)
    .await?;
    Ok(format!("{entries} entries, {debit} minor units on each side"))
}
