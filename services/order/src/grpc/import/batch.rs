//! A batch of orders of a file: placed, paid, and what became of each.

use prost::Message as _;
use waybill_kernel::check::{FieldViolation, Violations};
use waybill_kernel::hash;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::convert::to_timestamp;
use waybill_rpc::fault::{Fault as _, to_status};
use waybill_store::RequestKey;

use crate::app::{Candidate, Importing, NewPayment, Orders, Outcome};
use crate::domain::import::{Counts, Refusal};
use crate::error::Error;
use crate::formats::{Fault, ImportedOrder, ImportedPayment, Place, Unit};
use crate::grpc::{parse, rpc};

/// Orders of a batch, at most; the intake cuts them into transactions.
const ORDERS: usize = 200;
/// Lines of a batch, at most, unless one order has more.
const LINES: usize = 2000;
/// Bytes of the file that a batch covers, at most, unless one order has more.
const BYTES: u64 = 2 << 20;
/// The reason code of what could not be read as an order.
const UNREADABLE: &str = "UNREADABLE";
/// Characters of the list of fields that a refusal is remembered with.
const FIELDS: usize = 500;

/// Orders that were read and are not placed.
pub(super) struct Batch {
    with_payments: bool,
    units: Vec<Unit>,
    lines: usize,
    /// Where the first of its orders ends: near enough to where it begins.
    begin: Option<u64>,
}

/// What became of a batch.
pub(super) struct Placed {
    pub(super) outcomes: Vec<proto::ImportOutcome>,
    pub(super) counts: Counts,
    pub(super) refusals: Vec<Refusal>,
}

impl Batch {
    pub(super) fn new(with_payments: bool) -> Batch {
        Batch {
            with_payments,
            units: Vec::new(),
            lines: 0,
            begin: None,
        }
    }

    /// An empty one of the same import.
    pub(super) fn next(&self) -> Batch {
        Batch::new(self.with_payments)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        let bytes = self
            .end()
            .zip(self.begin)
            .map_or(0, |(end, begin)| end.byte - begin);
        self.units.len() >= ORDERS || self.lines >= LINES || bytes >= BYTES
    }

    pub(super) fn rows(&self) -> i64 {
        let rows: u64 = self.units.iter().map(|unit| unit.rows).sum();
        i64::try_from(rows).unwrap_or(i64::MAX)
    }

    /// Where its last order ends.
    pub(super) fn end(&self) -> Option<Place> {
        self.units.last().map(|unit| unit.end)
    }

    pub(super) fn push(&mut self, unit: Unit) {
        self.begin.get_or_insert(unit.end.byte);
        self.lines += unit
            .read
            .as_ref()
            .map_or(1, |imported| imported.order.lines.len());
        self.units.push(unit);
    }

    /// Places the orders and records their payments.
    pub(super) async fn place(self, orders: &Orders, importing: &Importing) -> Result<Placed, Error> {
        let rows = self.rows();
        let mut outcomes: Vec<proto::ImportOutcome> = self.units.iter().map(begun).collect();
        let mut sent: Vec<Sent> = Vec::with_capacity(self.units.len());
        let mut candidates = Vec::with_capacity(self.units.len());
        for (at, unit) in self.units.into_iter().enumerate() {
            let byte = unit.end.byte;
            match unit.read {
                Err(fault) => unreadable(&mut outcomes[at], fault),
                Ok(imported) => match candidate(orders, importing, byte, &imported) {
                    Ok(candidate) => {
                        candidates.push(candidate);
                        sent.push(Sent {
                            at,
                            byte,
                            lines: imported.lines,
                            payment: imported.payment.filter(|_| self.with_payments),
                        });
                    }
                    Err(error) => refused(&mut outcomes[at], &error, &imported.lines),
                },
            }
        }
        let mut payments: Vec<(usize, (RequestKey, NewPayment))> = Vec::new();
        for (sent, (candidate, outcome)) in sent.into_iter().zip(importing.place(candidates).await?) {
            let told = &mut outcomes[sent.at];
            taken(told, &candidate, outcome, &sent.lines);
            if let Some(payment) = sent.payment
                && let Some(amount) = candidate.to_pay()
                && told.result() != proto::ImportResult::Refused
            {
                match self::payment(importing, sent.byte, told, amount, &payment) {
                    Ok(payment) => payments.push((sent.at, payment)),
                    Err(error) => paid(told, Err(error)),
                }
            }
        }
        let (places, payments): (Vec<usize>, Vec<_>) = payments.into_iter().unzip();
        for (at, recorded) in places.into_iter().zip(importing.pay(payments).await?) {
            paid(&mut outcomes[at], recorded);
        }
        Ok(Placed {
            counts: counted(rows, &outcomes),
            refusals: outcomes.iter().filter_map(remembered).collect(),
            outcomes,
        })
    }
}

/// An order that was handed on.
struct Sent {
    /// Its place in the batch.
    at: usize,
    /// Its place in the file.
    byte: u64,
    lines: Vec<u64>,
    payment: Option<ImportedPayment>,
}

fn candidate(
    orders: &Orders,
    importing: &Importing,
    byte: u64,
    imported: &ImportedOrder,
) -> Result<Candidate, Error> {
    let hash = hash::sha256(&imported.order.encode_to_vec());
    let key = importing.key(rpc::IMPORT_ORDERS, "order", byte, hash);
    let mut v = Violations::new();
    let draft = parse::draft(Some(imported.order.clone()), &mut v);
    if let Some(draft) = draft.as_ref().filter(|_| !v.is_empty()) {
        v.nested("order", |v| orders.review(draft, v));
    }
    let draft = parse::checked(draft, v)?;
    orders.candidate(key, importing.tenant(), draft)
}

fn payment(
    importing: &Importing,
    byte: u64,
    told: &proto::ImportOutcome,
    amount: waybill_kernel::money::Money,
    payment: &ImportedPayment,
) -> Result<(RequestKey, NewPayment), Error> {
    let request = proto::RecordPaymentRequest {
        order_id: told.order_id.clone(),
        kind: proto::PaymentKind::Capture.into(),
        provider: payment.provider.clone(),
        provider_payment_id: payment.provider_payment_id.clone(),
        amount: Some(waybill_rpc::convert::to_money(amount)),
        occurred_at: payment.paid_at.map(to_timestamp),
        ..proto::RecordPaymentRequest::default()
    };
    let hash = hash::sha256(&request.encode_to_vec());
    let mut v = Violations::new();
    let payment = parse::payment(Some(importing.tenant()), &request, &mut v);
    let payment = parse::checked(payment, v)?;
    Ok((importing.key(rpc::IMPORT_ORDERS, "payment", byte, hash), payment))
}

/// An outcome of which nothing is known but the order's place.
fn begun(unit: &Unit) -> proto::ImportOutcome {
    proto::ImportOutcome {
        line: in_file(unit.line),
        number: unit.number.chars().take(100).collect(),
        ..proto::ImportOutcome::default()
    }
}

fn unreadable(told: &mut proto::ImportOutcome, fault: Fault) {
    told.result = proto::ImportResult::Refused.into();
    UNREADABLE.clone_into(&mut told.reason);
    told.message = fault.to_string();
    told.faults = vec![proto::ImportFault {
        line: in_file(fault.line),
        field: fault.field,
        description: fault.description,
    }];
}

fn refused(told: &mut proto::ImportOutcome, error: &Error, lines: &[u64]) {
    // An INTERNAL says nothing of its cause, here as in a status.
    let status = to_status(error);
    told.result = proto::ImportResult::Refused.into();
    told.reason = error.reason().into_owned();
    status.message().clone_into(&mut told.message);
    let line = told.line;
    let faults = error.violations().into_iter().flat_map(Violations::iter);
    told.faults = faults.map(|fault| in_order(fault, line, lines)).collect();
}

fn taken(told: &mut proto::ImportOutcome, candidate: &Candidate, outcome: Outcome, lines: &[u64]) {
    let (result, order) = match outcome {
        Outcome::Placed(placed) => {
            told.number = placed.number;
            (proto::ImportResult::Placed, candidate.order_id())
        }
        // By this import, when its last step was lost.
        Outcome::Before(order) => (proto::ImportResult::Placed, order),
        Outcome::Exists(order, number) => {
            told.number = number;
            (proto::ImportResult::Duplicate, order)
        }
        Outcome::Refused(error) => return refused(told, &error, lines),
        Outcome::Later => return refused(told, &Error::Stopping, lines),
    };
    told.result = result.into();
    told.order_id = order.to_string();
}

fn paid(told: &mut proto::ImportOutcome, recorded: Result<(), Error>) {
    told.payment = match recorded {
        Ok(()) => proto::ImportPaymentResult::Recorded.into(),
        Err(error) => {
            told.payment_reason = error.reason().into_owned();
            to_status(&error).message().clone_into(&mut told.payment_message);
            proto::ImportPaymentResult::Refused.into()
        }
    };
}

/// A fault of an order, at the line of the file that it stands on.
fn in_order(fault: &FieldViolation, line: i64, lines: &[u64]) -> proto::ImportFault {
    let field = fault.field.strip_prefix("order.").unwrap_or(&fault.field);
    let index = field
        .strip_prefix("lines[")
        .and_then(|rest| rest.split(']').next());
    let of_line = index.and_then(|index| lines.get(index.parse::<usize>().ok()?));
    proto::ImportFault {
        line: of_line.map_or(line, |line| in_file(*line)),
        field: field.to_owned(),
        description: fault.description.clone(),
    }
}

fn counted(rows: i64, outcomes: &[proto::ImportOutcome]) -> Counts {
    let mut counts = Counts {
        rows,
        ..Counts::default()
    };
    for outcome in outcomes {
        match outcome.result() {
            proto::ImportResult::Placed => counts.placed += 1,
            proto::ImportResult::Duplicate => counts.duplicates += 1,
            proto::ImportResult::Refused | proto::ImportResult::Unspecified => counts.refused += 1,
        }
        match outcome.payment() {
            proto::ImportPaymentResult::Recorded => counts.payments += 1,
            proto::ImportPaymentResult::Refused => counts.payments_refused += 1,
            proto::ImportPaymentResult::Unspecified => {}
        }
    }
    counts
}

/// What is remembered of an outcome: only that something was refused, and nothing that stood in the file (O-10).
fn remembered(outcome: &proto::ImportOutcome) -> Option<Refusal> {
    let refusal = |reason: &str, fields: String| Refusal {
        line: outcome.line,
        reason: reason.to_owned(),
        fields,
    };
    if outcome.result() == proto::ImportResult::Refused {
        let fields: Vec<&str> = outcome.faults.iter().map(|fault| fault.field.as_str()).collect();
        return Some(refusal(
            &outcome.reason,
            fields.join(",").chars().take(FIELDS).collect(),
        ));
    }
    (outcome.payment() == proto::ImportPaymentResult::Refused)
        .then(|| refusal(&outcome.payment_reason, "payment".to_owned()))
}

fn in_file(line: u64) -> i64 {
    i64::try_from(line).unwrap_or(i64::MAX)
}
