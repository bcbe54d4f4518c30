//! over whole histories on the real tables: any order of partial refunds, returns, failures, reversals and
//! retries. The pure rules have the same test over thousands of histories; this one finds what the SQL gets wrong.

use anyhow::Result;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use waybill_payments::sandbox::{Fault, Status};
use waybill_refund::app::apply_word::{About, ApplyWord};
use waybill_refund::app::retry_leg::RetryLeg;
use waybill_refund::domain::compose::Ask;
use waybill_refund::domain::refund::RefundState;
use waybill_refund::domain::settle::Outcome;
use waybill_refund::store;

use crate::bench::{Bench, Placed};

#[derive(Debug, Clone)]
enum Step {
    Units(usize, i32),
    Shipping,
    Goodwill(i64),
    Pay(usize),
    Decline(usize),
    Bounce(usize),
    Retry(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..2_usize, 1..4_i32).prop_map(|(line, quantity)| Step::Units(line, quantity)),
        1 => Just(Step::Shipping),
        1 => (1..50_i64).prop_map(Step::Goodwill),
        3 => (0..9_usize).prop_map(Step::Pay),
        2 => (0..9_usize).prop_map(Step::Decline),
        2 => (0..9_usize).prop_map(Step::Bounce),
        2 => (0..9_usize).prop_map(Step::Retry),
    ];
    prop::collection::vec(step, 12..24)
}

/// The legs of the order's refunds, oldest first.
async fn legs(bench: &Bench, order: &Placed) -> Result<Vec<(waybill_refund::domain::refund::Refund, usize)>> {
    let mut conn = bench.conn().await?;
    let filter = store::refunds::Filter {
        order_id: Some(order.order_id),
        state: None,
    };
    let mut refunds = store::refunds::list(&mut conn, bench.tenant, filter, None, 1000).await?;
    refunds.reverse();
    Ok(refunds
        .into_iter()
        .flat_map(|refund| (0..refund.legs.len()).map(move |leg| (refund.clone(), leg)))
        .collect())
}

async fn take(bench: &Bench, order: &Placed, step: &Step) -> Result<()> {
    let ask = |ask| bench.ask(order, ask);
    match step {
        Step::Units(line, quantity) => {
            // Refusals are part of a history; what matters is what the tables say afterwards.
            let lines = vec![(order.lines[*line], *quantity)];
            drop(
                bench
                    .db
                    .run(&ask(Ask {
                        lines,
                        ..Ask::default()
                    }))
                    .await,
            );
        }
        Step::Shipping => drop(
            bench
                .db
                .run(&ask(Ask {
                    shipping: true,
                    ..Ask::default()
                }))
                .await,
        ),
        Step::Goodwill(goodwill) => {
            drop(
                bench
                    .db
                    .run(&ask(Ask {
                        goodwill: *goodwill,
                        ..Ask::default()
                    }))
                    .await,
            );
        }
        Step::Pay(at) | Step::Decline(at) | Step::Bounce(at) | Step::Retry(at) => {
            let legs = legs(bench, order).await?;
            if let Some((refund, leg)) = legs.get(at % legs.len().max(1)) {
                on_leg(bench, refund, *leg, step).await?;
            }
        }
    }
    Ok(())
}

async fn on_leg(
    bench: &Bench,
    refund: &waybill_refund::domain::refund::Refund,
    index: usize,
    step: &Step,
) -> Result<()> {
    let leg = &refund.legs[index];
    match step {
        Step::Decline(_) if leg.state == RefundState::Pending => {
            bench.sandbox.inject(Fault::Failed {
                failure_reason: "declined".to_owned(),
            });
            bench.submit(refund, index).await?;
        }
        Step::Bounce(_) if leg.state == RefundState::Succeeded => {
            let id = leg.provider_refund_id.clone().unwrap_or_default();
            let bounced = bench.sandbox.settle(&id, Some("insufficient_funds"));
            assert_eq!(bounced.map(|entry| entry.status), Some(Status::Failed));
            let about = About::Told {
                tenant: bench.tenant,
                provider: leg.provider.clone(),
                leg_id: Some(leg.leg_id),
            };
            let outcome = Outcome::Failed {
                reason: "insufficient_funds".to_owned(),
            };
            bench
                .db
                .run(&ApplyWord {
                    core: &bench.core,
                    about,
                    provider_refund_id: id,
                    outcome,
                })
                .await?;
        }
        Step::Retry(_) => {
            let case = RetryLeg {
                core: &bench.core,
                tenant: bench.tenant,
                refund_id: refund.refund_id,
                leg_id: leg.leg_id,
            };
            drop(bench.db.run(&case).await);
        }
        Step::Pay(_) => _ = bench.submit(refund, index).await?,
        _ => {}
    }
    Ok(())
}

/// Pays what is open, retries what is owed, then pays back what is left.
async fn finish(bench: &Bench, order: &Placed) -> Result<()> {
    for round in 0..2 {
        for (refund, index) in legs(bench, order).await? {
            if refund.holds && refund.legs[index].state == RefundState::Failed {
                on_leg(bench, &refund, index, &Step::Retry(0)).await?;
            }
        }
        for (refund, index) in legs(bench, order).await? {
            if refund.holds {
                bench.submit(&refund, index).await?;
            }
        }
        if round == 0 {
            let mut conn = bench.conn().await?;
            let loaded = store::book::read(&mut conn, bench.tenant, order.order_id).await?;
            drop(conn);
            let book = loaded.expect("the order is there").book;
            let free = |line: &waybill_kernel::id::LineId| {
                book.lines
                    .iter()
                    .find(|known| known.line_id == *line)
                    .map_or(0, |known| known.free().count())
            };
            let lines: Vec<_> = order.lines.iter().map(|line| (*line, free(line))).collect();
            let lines = lines.into_iter().filter(|(_, free)| *free > 0).collect();
            drop(
                bench
                    .db
                    .run(&bench.ask(
                        order,
                        Ask {
                            lines,
                            shipping: true,
                            goodwill: 0,
                        },
                    ))
                    .await,
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn any_history_on_the_real_tables_sums_to_what_was_paid() -> Result<()> {
    let bench = Bench::start().await?;
    // A fixed seed: the same histories on every run.
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    for _ in 0..12 {
        let tree = steps()
            .new_tree(&mut runner)
            .map_err(|reason| anyhow::anyhow!("{reason}"))?;
        let steps = tree.current();
        let order = bench
            .delivered(
                &[(7, 9_999, &[1_234, 77]), (3, 100, &[])],
                &[(499, 95)],
                &[3_333, 4_000],
            )
            .await?;
        for step in &steps {
            take(&bench, &order, step).await?;
            bench.audit(&order).await?;
        }
        finish(&bench, &order).await?;
        bench.audit(&order).await?;
        let paid: i64 = order
            .payments
            .iter()
            .map(|(_, name)| bench.sandbox.paid_out(name))
            .sum();
        assert_eq!(
            paid, order.total,
            "R-1: everything went back and not a penny more, after {steps:?}"
        );
    }
    Ok(())
}
