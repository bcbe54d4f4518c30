//! Mails: one for each decision to tell a customer something.
//!
//! SMTP cannot be asked what it took. A mail whose answer was lost is sent again under the same Message-ID, by which mail
//! systems know it: such repetitions are counted and must be no more than the tries that the service wrote down before.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};

use super::{Evidence, none};
use crate::load::{Ended, Plan};

/// Compares decisions, mails and plans.
pub async fn once(of: &Evidence) -> anyhow::Result<String> {
    let decisions: Vec<(String, String, String, i32)> = sqlx::query_as(
        "SELECT message_id, order_id::text, stage, attempts FROM notification.notifications WHERE state = 'sent'",
    )
    .fetch_all(&of.db)
    .await?;
    none(
        of,
        "messages that were decided on and not sent",
        "SELECT notification_id || ' ' || stage || ' ' || state || ' ' || reason FROM notification.notifications
         WHERE state <> 'sent'",
    )
    .await?;
    let mut received: BTreeMap<String, usize> = BTreeMap::new();
    let doomed: BTreeSet<String> = of.doomed.iter().map(Ended::email).collect();
    for mail in &of.mails {
        if mail.to.iter().any(|to| doomed.contains(to)) {
            continue;
        }
        *received.entry(bare(&mail.message_id)).or_default() += 1;
    }
    let mut stages: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let (mut mails, mut again, mut by_gone) = (0, 0, 0);
    for (message_id, order_id, stage, attempts) in decisions {
        let count = received
            .remove(&bare(&message_id))
            .with_context(|| format!("{stage} of order {order_id} is sent, but no mail {message_id} came"))?;
        ensure!(
            // A history that is gone may have sent it once more, and its tries are gone with it.
            count <= usize::try_from(attempts)? + usize::from(of.promised.contains(&order_id)),
            "{stage} of order {order_id} came {count} times in {attempts} tries"
        );
        mails += 1;
        if of.promised.contains(&order_id) {
            by_gone += count - 1;
        } else {
            again += count - 1;
        }
        *stages.entry(order_id).or_default().entry(stage).or_default() += 1;
    }
    ensure!(
        received.is_empty(),
        "{} mails that nobody decided on, such as {:?}",
        received.len(),
        received.keys().next()
    );
    for ended in &of.ended {
        let told = stages.remove(&ended.order_id).unwrap_or_default();
        let expected = expected(ended.plan);
        ensure!(
            told == expected,
            "{} ({:?}): the customer was told {told:?}, expected {expected:?}",
            ended.external_id,
            ended.plan
        );
    }
    let mut text = format!(
        "{mails} messages, {again} of them taken again under the same Message-ID after a lost answer"
    );
    if !of.promised.is_empty() {
        text.push_str(&format!(
            ", {by_gone} because the commit that noted them was lost"
        ));
    }
    Ok(text)
}

fn bare(message_id: &str) -> String {
    message_id.trim_matches(['<', '>']).to_owned()
}

/// What the customer must have been told, and how often.
fn expected(plan: Plan) -> BTreeMap<String, usize> {
    let mut stages = vec![("order_confirmed", 1)];
    if plan.is_cancelled() {
        stages.push(("order_cancelled", 1));
    } else {
        let arrives = [
            "shipped",
            "in_transit",
            "out_for_delivery",
            "delivered",
            "feedback",
        ];
        stages.extend(arrives.map(|stage| (stage, 1)));
    }
    if plan.returns() > 0 {
        let comes_back = ["return_requested", "return_approved", "return_received"];
        stages.extend(comes_back.map(|stage| (stage, plan.returns())));
    }
    if plan.refunds() > 0 {
        stages.extend(["refund_started", "refund_succeeded"].map(|stage| (stage, plan.refunds())));
    }
    stages
        .into_iter()
        .map(|(stage, count)| (stage.to_owned(), count))
        .collect()
}
