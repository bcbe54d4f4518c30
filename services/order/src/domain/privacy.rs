//! Forgetting a customer: who is meant, and which orders still need the person.
//!
//! An order needs its person as long as something may have to be sent to them: goods, or money. What was captured, paid back
//! and sold is no reason to keep a name: it stays without one.

use chrono::{DateTime, Utc};
use waybill_kernel::id::{ErasureId, OrderId, StoreId};

use super::order::Contact;
use super::returns::ReturnStatus;
use super::state::{State, Status};

/// How a customer of a merchant is named. Personal data: it is never stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Person {
    /// By e-mail address, in upper or lower case.
    Email(String),
    /// By id in the merchant's system.
    ExternalId(String),
    /// By an order.
    Order(OrderId),
}

impl Person {
    /// Who ordered: known by address before id, as pseudonyms are; by the order alone where there is neither.
    #[must_use]
    pub fn of(order: OrderId, contact: &Contact) -> Person {
        let customer = &contact.customer;
        if !customer.email.is_empty() {
            Person::Email(customer.email.clone())
        } else if !customer.external_id.is_empty() {
            Person::ExternalId(customer.external_id.clone())
        } else {
            Person::Order(order)
        }
    }

    /// As parts of a text that tells this person from every other.
    #[must_use]
    pub fn parts(&self) -> [String; 2] {
        match self {
            Person::Email(email) => ["email".to_owned(), email.to_lowercase()],
            Person::ExternalId(id) => ["id".to_owned(), id.clone()],
            Person::Order(order) => ["order".to_owned(), order.to_string()],
        }
    }
}

/// Why an order cannot be erased yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It is open.
    Open,
    /// It is held.
    OnHold,
    /// A return is under way.
    Return,
    /// Money is on its way back, or owed.
    Refund,
}

keys! { Wait {
    Open = "OPEN",
    OnHold = "ON_HOLD",
    Return = "RETURN",
    Refund = "REFUND",
} }

/// What an order still needs its person for; nothing when it can be erased. `refund_open` says that a refund of it was
/// asked for and has not succeeded.
#[must_use]
pub fn waits_for(state: &State, refund_open: bool) -> Option<Wait> {
    match state.status {
        Status::Open => return Some(Wait::Open),
        Status::OnHold => return Some(Wait::OnHold),
        Status::Cancelled | Status::Completed => {}
    }
    if matches!(state.returns, ReturnStatus::Requested | ReturnStatus::InProgress) {
        return Some(Wait::Return);
    }
    // What was captured of a cancelled order goes back, before anybody has asked for a refund.
    let owed = state.status == Status::Cancelled && state.money.refunded < state.money.captured;
    (refund_open || owed).then_some(Wait::Refund)
}

/// How far an erasure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The customer's orders are being looked for.
    Collecting,
    /// Orders are being erased.
    Running,
    /// What is left still needs the person.
    Waiting,
    /// Every order is erased.
    Done,
}

/// An order that an erasure waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingOrder {
    /// The order.
    pub order: OrderId,
    /// Its store.
    pub store: StoreId,
    /// The number the customer knows.
    pub number: String,
    /// What it waits for.
    pub wait: Wait,
}

/// That a customer is to be forgotten. Of whom is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// Its id.
    pub id: ErasureId,
    /// The stores it goes over; all of the merchant when empty.
    pub stores: Vec<StoreId>,
    /// How far it is.
    pub progress: Progress,
    /// Orders that were found.
    pub orders: i64,
    /// Of these, the ones that are erased.
    pub erased: i64,
    /// The first of the orders that it waits for.
    pub waiting: Vec<WaitingOrder>,
    /// When it was asked for.
    pub requested_at: DateTime<Utc>,
    /// When the last order was erased.
    pub finished_at: Option<DateTime<Utc>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::order::Customer;
    use crate::domain::payment::PaymentKind;

    fn contact(email: &str, external_id: &str) -> Contact {
        Contact {
            customer: Customer {
                email: email.into(),
                external_id: external_id.into(),
                ..Customer::default()
            },
            ..Contact::default()
        }
    }

    #[test]
    fn a_person_is_known_by_address_before_id() {
        let order = OrderId::generate();
        let both = Person::of(order, &contact("Jo@example.org", "c-1"));
        assert_eq!(both, Person::Email("Jo@example.org".into()));
        assert_eq!(
            both.parts(),
            Person::Email("jo@EXAMPLE.org".into()).parts(),
            "upper and lower case are the same person"
        );
        assert_eq!(
            Person::of(order, &contact("", "c-1")),
            Person::ExternalId("c-1".into())
        );
        assert_eq!(Person::of(order, &contact("", "")), Person::Order(order));
        let look_alike = Person::ExternalId("jo@example.org".into());
        assert_ne!(
            look_alike.parts(),
            both.parts(),
            "an id that looks like an address"
        );
    }

    #[test]
    fn an_order_is_kept_as_long_as_something_may_have_to_be_sent() {
        let open = State::placed(1000, 2, DateTime::UNIX_EPOCH);
        assert_eq!(waits_for(&open, false), Some(Wait::Open));
        let mut held = open.clone();
        held.hold().expect("it is open");
        assert_eq!(waits_for(&held, false), Some(Wait::OnHold));

        let mut cancelled = open.clone();
        cancelled.record(PaymentKind::Capture, 1000).expect("it is owed");
        cancelled.cancel("ordered twice").expect("nothing has shipped");
        assert_eq!(waits_for(&cancelled, false), Some(Wait::Refund), "1000 are owed");
        cancelled.money.refunded = 999;
        assert_eq!(waits_for(&cancelled, false), Some(Wait::Refund), "1 is owed");
        cancelled.money.refunded = 1000;
        assert_eq!(waits_for(&cancelled, false), None);
        assert_eq!(waits_for(&cancelled, true), Some(Wait::Refund));

        let mut unpaid = open.clone();
        unpaid.cancel("ordered twice").expect("nothing has shipped");
        assert_eq!(waits_for(&unpaid, false), None);

        // Kept money of a completed order is the merchant's.
        let mut completed = open;
        completed.goods.shipped = 2;
        completed.goods.delivered = 2;
        assert!(completed.record(PaymentKind::Capture, 1000).expect("it is owed"));
        assert_eq!(waits_for(&completed, false), None);
        for (status, wait) in [
            (ReturnStatus::Requested, Some(Wait::Return)),
            (ReturnStatus::InProgress, Some(Wait::Return)),
            (ReturnStatus::Returned, None),
        ] {
            completed.returns = status;
            assert_eq!(waits_for(&completed, false), wait, "{status:?}");
        }
    }
}
