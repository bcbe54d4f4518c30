//! Random histories of one order, call by call: the sums always fit, and at the end every request is sent once more and gets
//! its first answer (O-13, O-25). Seeds are printed; one that failed can be run alone.

use std::collections::BTreeSet;

use anyhow::Result;
use tonic::Status;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::r#type::v1::Money;
use waybill_rpc::fault;

use crate::edit::{adds, pots, sets};
use crate::harness::start;
use crate::shop::{Shop, order, tea};

/// As many as take a few seconds.
const SEEDS: std::ops::Range<u64> = 0..12;
const CALLS: usize = 30;

/// Repeatable randomness (the constants of Numerical Recipes).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_013_904_223);
        (self.0 >> 33) % limit
    }

    fn units(&mut self, most: u64) -> i32 {
        i32::try_from(self.below(most)).expect("few") + 1
    }
}

/// A call that changes the order.
#[derive(Debug, Clone)]
enum Call {
    Edit(proto::EditOrderRequest),
    CancelUnits(proto::CancelOrderLinesRequest),
    Pay(proto::RecordPaymentRequest),
    Cancel(String),
}

impl Call {
    fn any(dice: &mut Dice, shop: &Shop, n: usize, order: &proto::Order) -> Call {
        let id = format!("call-{n}");
        let line = usize::try_from(dice.below(order.lines.len() as u64)).expect("few");
        match dice.below(12) {
            0 => Call::Edit(shop.edit(&id, order, adds(vec![pots(), tea()]))),
            1 | 2 => Call::Edit(shop.edit(&id, order, sets(order, line, dice.units(4) - 1))),
            3 => {
                let mut swap = adds(vec![tea()]);
                swap.remove_line_ids = vec![order.lines[line].line_id.clone()];
                Call::Edit(shop.edit(&id, order, swap))
            }
            4 => {
                let mut more = sets(order, line, 9);
                more.quantities[0].more = Some(proto::MoreUnits::default());
                Call::Edit(shop.edit(&id, order, more))
            }
            5..=7 => Call::CancelUnits(shop.units(&id, order, &[(line, dice.units(2))])),
            8 | 9 => {
                let kind = [proto::PaymentKind::Authorization, proto::PaymentKind::Void][n % 2];
                Call::Pay(shop.payment(&id, &order.order_id, kind, &id, 500))
            }
            10 => {
                let open = minor(order.due.as_ref()).max(1) / 2 + 1;
                Call::Pay(shop.payment(&id, &order.order_id, proto::PaymentKind::Capture, &id, open))
            }
            // Rarely, for it is the end.
            _ if dice.below(4) == 0 => Call::Cancel(id),
            _ => Call::CancelUnits(shop.units(&id, order, &[(line, 1)])),
        }
    }

    async fn make(&self, shop: &Shop, order_id: &str) -> Result<proto::Order, Status> {
        let order = match self.clone() {
            Call::Edit(request) => shop.try_edit(request).await?.order,
            Call::CancelUnits(request) => shop.cancel_units(request).await?.order,
            Call::Pay(request) => {
                shop.client
                    .clone()
                    .record_payment(request)
                    .await?
                    .into_inner()
                    .order
            }
            Call::Cancel(id) => Some(shop.cancel(&id, order_id, "").await?),
        };
        Ok(order.expect("an answer has the order"))
    }
}

fn minor(money: Option<&Money>) -> i64 {
    money.map_or(0, |money| money.minor_units)
}

/// Whatever happened, this holds.
fn check(order: &proto::Order, placed: &proto::Order) {
    let (due, added) = (minor(order.due.as_ref()), minor(order.added.as_ref()));
    let cancelled = minor(order.cancelled.as_ref());
    assert_eq!(order.totals, placed.totals, "O-2");
    assert_eq!(due, 1000 + added - cancelled, "O-23");
    assert!(due >= 0 && minor(order.captured.as_ref()) <= 1000 + added, "O-4");
    let of_edits = order
        .lines
        .iter()
        .filter(|line| !line.added_by_edit_id.is_empty());
    assert_eq!(
        added,
        of_edits.map(|line| minor(line.total.as_ref())).sum::<i64>()
    );
    let parts: Vec<_> = order.cancellations.iter().flat_map(|c| &c.lines).collect();
    let worth = parts
        .iter()
        .map(|part| minor(part.net.as_ref()) + minor(part.tax.as_ref()));
    assert_eq!(cancelled, worth.sum::<i64>(), "O-16");
    let units: Vec<(&str, i32)> = (parts.iter())
        .flat_map(|part| (0..part.quantity).map(|n| (part.line_id.as_str(), part.first_unit + n)))
        .collect();
    assert_eq!(
        units.iter().collect::<BTreeSet<_>>().len(),
        units.len(),
        "no unit goes twice"
    );
    for line in &order.lines {
        let gone = units.iter().filter(|(id, _)| *id == line.line_id).count();
        assert_eq!(i32::try_from(gone).expect("few"), line.cancelled_quantity);
        assert!(line.cancelled_quantity <= line.quantity);
    }
    // What is all gone costs nothing, to the penny.
    let all_gone = order
        .lines
        .iter()
        .filter(|line| line.cancelled_quantity == line.quantity);
    for line in all_gone {
        let of_line = parts.iter().filter(|part| part.line_id == line.line_id);
        let worth = of_line.map(|part| minor(part.net.as_ref()) + minor(part.tax.as_ref()));
        assert_eq!(worth.sum::<i64>(), minor(line.total.as_ref()), "O-16");
    }
}

#[tokio::test]
async fn every_answer_can_be_given_again_after_any_history() -> Result<()> {
    let service = start().await;
    let mut changes = 0;
    for seed in SEEDS {
        let shop = service.shop();
        let mut dice = Dice(seed);
        let placed = shop.place(order("1")).await;
        let mut now = placed.clone();
        let mut made: Vec<(Call, proto::Order)> = Vec::new();
        for n in 0..CALLS {
            let call = Call::any(&mut dice, &shop, n, &now);
            match call.make(&shop, &placed.order_id).await {
                Ok(answer) => {
                    check(&answer, &placed);
                    assert!(
                        answer.version == now.version || answer.version == now.version + 1,
                        "O-7"
                    );
                    made.push((call, answer));
                }
                Err(status) => assert!(fault::reason(&status).is_some(), "{status:?}"),
            }
            let read = shop.get(&placed.order_id).await?;
            check(&read, &placed);
            if let Some((_, answer)) = made.last() {
                assert_eq!(
                    &read, answer,
                    "history {seed}, call {n}: it is as the last change answered"
                );
            }
            now = read;
        }
        for (call, answer) in &made {
            let again = call.make(&shop, &placed.order_id).await?;
            assert_eq!(&again, answer, "history {seed}: {call:?}");
        }
        assert_eq!(shop.place(order("1")).await, placed, "history {seed}");
        changes += made.len();
    }
    assert!(changes > 60, "these are no histories: {changes} changes");
    Ok(())
}
