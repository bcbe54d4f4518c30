//! Placing orders: any number of candidates, of any callers and stores, in one transaction.
//!
//! A candidate fails alone. Whether it is new is decided by the database, by its request key first and by its source
//! second (O-8), so that the same holds for two calls at once, for two messages of a batch and for two batches. The
//! statements are the same few for one order and for sixty: claim the keys, draw numbers, write the orders with all
//! that belongs to them, append their events.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use prost::Message as _;
use secrecy::{ExposeSecret as _, SecretString};
use tracing::Span;
use waybill_events::{Log, MAX_PAYLOAD_BYTES, NewEvent};
use waybill_kernel::check::Violations;
use waybill_kernel::hash;
use waybill_kernel::id::{HoldId, LineId, MerchantId, OrderId};
use waybill_kernel::money::Money;
use waybill_proto::waybill::order::v1::OrderPlaced;
use waybill_store::idempotency;
use waybill_store::{Origin, RequestKey, StoreError, Tx, UseCase};

use super::fates::Fates;
use super::numbers::Numbers;
use super::{BELL, Orders};
use crate::domain::draft::Draft;
use crate::domain::fact::TimelineEntry;
use crate::domain::freeze::{Conditions, freeze};
use crate::domain::hold::{Hold, HoldReason};
use crate::domain::limits;
use crate::domain::order::{Contact, Order, PLACED, Source, Tenant, Terms};
use crate::domain::privacy::Person;
use crate::domain::review::NEW_CUSTOMER;
use crate::domain::state::{State, Status};
use crate::error::Error;
use crate::events::{self, About, Told};
use crate::store::place::{Placement, Taken, insert, known_customers, taken};
use crate::store::{customers, holds};

/// Room in an event for a number that is assigned later.
const NUMBER_BYTES: usize = 32;

/// Makes the pseudonyms that stand for customers.
#[derive(Clone)]
pub(crate) struct Customers(Arc<SecretString>);

impl Customers {
    pub(crate) fn new(key: SecretString) -> Customers {
        Customers(Arc::new(key))
    }

    /// The same for all orders of a person with one merchant, and not to be guessed or compared across merchants.
    pub(super) fn pseudonym(&self, merchant: MerchantId, contact: &Contact) -> String {
        contact.identity().map_or_else(String::new, |identity| {
            hash::hmac_sha256(
                self.0.expose_secret().as_bytes(),
                &format!("{merchant}\n{identity}"),
            )
        })
    }

    /// A text that stands for a person, where a request names one. Not a pseudonym of events, and not to be guessed.
    pub(crate) fn keyed(&self, merchant: MerchantId, person: &Person) -> String {
        let [kind, name] = person.parts();
        hash::hmac_sha256(
            self.0.expose_secret().as_bytes(),
            &format!("request\n{merchant}\n{kind}\n{name}"),
        )
    }
}

/// An order that is ready to be placed: checked, priced, its event made.
pub(crate) struct Candidate {
    pub(super) key: RequestKey,
    pub(super) order: Order,
    customer_key: String,
    /// Whether it is held if its customer turns out to be new to the merchant.
    stops_new_customer: bool,
    /// The event; without a number while one is to be assigned.
    event: OrderPlaced,
    /// The span of the call it came with.
    pub(super) span: Span,
    traceparent: Option<String>,
}

impl Candidate {
    /// How many lines it writes.
    pub(crate) fn lines(&self) -> usize {
        self.order.terms.lines.len() + self.order.terms.shipping.len()
    }

    /// Whose order it is.
    pub(crate) fn tenant(&self) -> Tenant {
        self.order.tenant
    }

    /// The id it is placed under, if it is.
    pub(crate) fn order_id(&self) -> OrderId {
        self.order.id
    }

    /// What is to be paid; nothing when it costs nothing.
    pub(crate) fn to_pay(&self) -> Option<Money> {
        let terms = &self.order.terms;
        (terms.totals.total > 0).then(|| Money::new(terms.currency, terms.totals.total))
    }

    /// The order as it was placed.
    pub(crate) fn placed(mut self, assigned: Assigned) -> Order {
        self.order.terms.number = assigned.number;
        if let Some(hold) = assigned.hold {
            // It could be held when the hold was made.
            let _ = self.order.state.hold();
            self.order.holds.push(hold);
        }
        self.order
    }

    pub(super) fn source(&self) -> (Tenant, &Source) {
        (self.order.tenant, &self.order.terms.source)
    }
}

impl Orders {
    /// Notes what is wrong with a draft of which a part could not be read: all but its sums.
    pub(crate) fn review(&self, draft: &Draft, v: &mut Violations) {
        limits::check(draft, self.clock.now(), v);
    }

    /// Makes a candidate of a draft.
    ///
    /// # Errors
    ///
    /// When anything about the draft is wrong.
    pub(crate) fn candidate(
        &self,
        key: RequestKey,
        tenant: Tenant,
        draft: Draft,
    ) -> Result<Candidate, Error> {
        let (order, customer_key) = self.as_it_would_be(tenant, draft)?;
        let stops_new_customer =
            self.rules.of(tenant).stops_new_customer(&order.terms) && order.state.clone().hold().is_ok();
        let event = events::placed(&order, &customer_key);
        let bytes = event.encoded_len() + NUMBER_BYTES;
        if bytes > MAX_PAYLOAD_BYTES {
            return Err(Error::OrderTooLarge {
                bytes,
                most: MAX_PAYLOAD_BYTES,
            });
        }
        Ok(Candidate {
            key,
            order,
            customer_key,
            stops_new_customer,
            event,
            span: Span::current(),
            traceparent: waybill_runtime::telemetry::current_traceparent(),
        })
    }
}

impl Orders {
    /// The order that a draft would be if it were placed now, with the pseudonym of its customer.
    ///
    /// # Errors
    ///
    /// When anything about the draft is wrong.
    pub(super) fn as_it_would_be(&self, tenant: Tenant, draft: Draft) -> Result<(Order, String), Error> {
        let now = self.clock.now();
        let mut conditions = Conditions {
            now,
            handling_time: TimeDelta::days(i64::from(self.handling_days)),
            line_ids: &mut LineId::generate,
        };
        let attributes = draft.attributes.clone();
        let (terms, contact) = freeze(draft, &mut conditions)?;
        let to_ship = terms.units_to_ship(PLACED);
        let customer_key = self.customers.pseudonym(tenant.merchant, &contact);
        let mut state = State::placed(terms.totals.total, to_ship, now);
        let holds = self.holds(tenant, &terms, &contact, &mut state);
        let order = Order {
            id: OrderId::generate(),
            tenant,
            state,
            terms,
            contact: Some(contact),
            attributes,
            payments: Vec::new(),
            holds,
            cancellations: Vec::new(),
            edits: Vec::new(),
            attempts: Vec::new(),
        };
        Ok((order, customer_key))
    }

    /// The holds that the store's rules put an order on. What is at its end at once, a free download, is not held.
    fn holds(&self, tenant: Tenant, terms: &Terms, contact: &Contact, state: &mut State) -> Vec<Hold> {
        let found = self.rules.of(tenant).review(terms, contact);
        let held = found.into_iter().filter(|_| state.hold().is_ok());
        held.collect::<Vec<_>>()
            .into_iter()
            .map(|found| hold(found, state))
            .collect()
    }
}

/// The hold that a rule makes of an order that is being placed.
fn hold((reason, rule): (HoldReason, &str), state: &State) -> Hold {
    Hold {
        id: HoldId::generate(),
        reason,
        rule: rule.to_owned(),
        note: String::new(),
        held_at: state.updated_at,
        held_version: state.version,
        released: None,
    }
}

/// What a candidate gets in its transaction.
#[derive(Debug, Clone)]
pub(crate) struct Assigned {
    /// Its number.
    pub number: String,
    /// The hold of a new customer's order.
    pub hold: Option<Hold>,
}

/// What became of a candidate.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// It was placed now.
    Placed(Assigned),
    /// The very same request was answered before, with this order.
    Before(OrderId),
    /// The source was placed before, by another request.
    Exists(OrderId, String),
    /// It cannot be placed.
    Refused(Error),
    /// Undecided: it shares its source with a candidate of the same chunk that was refused, or somebody took the number that
    /// was drawn for it. Run it again by itself.
    Later,
}

/// The transaction that places a chunk of candidates. Answers with one outcome each.
pub(crate) struct PlaceChunk<'a> {
    pub log: &'a Log,
    pub numbers: &'a Numbers,
    pub candidates: &'a [Candidate],
}

impl UseCase for PlaceChunk<'_> {
    type Output = Vec<Outcome>;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Vec<Outcome>, Error> {
        let keys: Vec<RequestKey> = self
            .candidates
            .iter()
            .map(|candidate| candidate.key.clone())
            .collect();
        // Ids are made before, so the answers are known: a placement's key is written once.
        let answers = self
            .candidates
            .iter()
            .map(|candidate| answer(candidate.order.id))
            .collect::<Result<Vec<_>, StoreError>>()?;
        let claims = idempotency::claim_answered(tx.conn(), &keys, &answers).await?;
        let mut fates = Fates::new(self.candidates, &claims)?;
        let firsts = fates.firsts();
        if !firsts.is_empty() {
            self.place(tx, &firsts, &mut fates).await?;
            // Refused requests keep no key: they may come again once their cause is gone.
            let refused: Vec<(&RequestKey, &str)> = (fates.unkept())
                .map(|at| (&keys[at], answers[at].as_str()))
                .collect();
            if !refused.is_empty() {
                idempotency::release_answered(tx.conn(), &refused).await?;
            }
        }
        Ok(fates.decide(&claims))
    }
}

/// A candidate with its number and what is told about it.
struct Numbered<'a> {
    at: usize,
    candidate: &'a Candidate,
    /// The candidate's order; another one where it is held because its customer is new.
    order: Cow<'a, Order>,
    assigned: Assigned,
    /// The customer's pseudonym.
    customer_key: String,
    events: Vec<NewEvent>,
    entries: Vec<TimelineEntry>,
}

impl PlaceChunk<'_> {
    async fn place(&self, tx: &mut Tx, firsts: &[usize], fates: &mut Fates<'_>) -> Result<(), Error> {
        let wanted: Vec<(Tenant, &str)> = firsts
            .iter()
            .map(|&at| &self.candidates[at].order)
            .map(|order| (order.tenant, order.terms.number.as_str()))
            .collect();
        let numbers = self.numbers.draw(&wanted).await?;
        let customers = self.customers(tx, firsts).await?;
        let new = self.of_new_customers(tx, firsts, &customers).await?;
        let numbered: Vec<Numbered<'_>> = (firsts.iter().zip(numbers))
            .zip(customers)
            .map(|((&at, number), customer)| {
                tell(at, &self.candidates[at], number, customer, new.contains(&at))
            })
            .collect();
        let placements: Vec<Placement<'_>> = numbered
            .iter()
            .map(|n| Placement {
                order: &n.order,
                number: &n.assigned.number,
                customer_key: &n.customer_key,
                entries: &n.entries,
            })
            .collect();
        let placed = insert(tx.conn(), &placements).await?;
        let (placed, left_out): (Vec<Numbered<'_>>, Vec<Numbered<'_>>) =
            numbered.into_iter().partition(|n| placed.contains(&n.order.id));

        let begun: Vec<(Tenant, OrderId, &Hold)> = (placed.iter())
            .map(|n| &*n.order)
            .flat_map(|order| order.holds.iter().map(|hold| (order.tenant, order.id, hold)))
            .collect();
        holds::insert(tx.conn(), &begun).await?;
        self.find_out(tx, left_out, fates).await?;
        if !placed.is_empty() {
            let events: Vec<NewEvent> = placed.iter().flat_map(|n| n.events.iter().cloned()).collect();
            self.log.append(tx, &events).await?;
            tx.ring(BELL);
        }
        for n in placed {
            fates.is(n.at, Outcome::Placed(n.assigned));
        }
        Ok(())
    }

    /// Candidates that are held because no order of their customer stands yet. What another transaction is about to commit is
    /// not seen, nor what this one places: two first orders at once are both held, which a person can put right.
    async fn of_new_customers(
        &self,
        tx: &mut Tx,
        firsts: &[usize],
        customers: &[String],
    ) -> Result<HashSet<usize>, Error> {
        let asked: Vec<(usize, (MerchantId, &str))> = (firsts.iter().zip(customers))
            .map(|(&at, customer)| (at, &self.candidates[at], customer.as_str()))
            .filter(|(_, candidate, _)| candidate.stops_new_customer)
            .map(|(at, candidate, customer)| (at, (candidate.order.tenant.merchant, customer)))
            .collect();
        // Where no store has the rule this is all that it costs.
        if asked.is_empty() {
            return Ok(HashSet::new());
        }
        let customers: Vec<(MerchantId, &str)> = asked.iter().map(|(_, customer)| *customer).collect();
        let known = known_customers(tx.conn(), &customers).await?;
        Ok((asked.into_iter())
            .filter(|(_, (merchant, key))| !known.contains(&(*merchant, (*key).to_owned())))
            .map(|(at, _)| at)
            .collect())
    }

    /// The pseudonyms of the customers: the keyed hashes, unless they were given up (O-34).
    async fn customers(&self, tx: &mut Tx, firsts: &[usize]) -> Result<Vec<String>, Error> {
        let keys: Vec<(MerchantId, &str)> = (firsts.iter().map(|&at| &self.candidates[at]))
            .map(|candidate| (candidate.order.tenant.merchant, candidate.customer_key.as_str()))
            .collect();
        let given_up = customers::successors(tx.conn(), &keys).await?;
        let customer = |(merchant, key): (MerchantId, &str)| {
            let instead = given_up.get(&(merchant, key.to_owned()));
            instead.cloned().unwrap_or_else(|| key.to_owned())
        };
        Ok(keys.into_iter().map(customer).collect())
    }

    async fn find_out(
        &self,
        tx: &mut Tx,
        left_out: Vec<Numbered<'_>>,
        fates: &mut Fates<'_>,
    ) -> Result<(), Error> {
        if left_out.is_empty() {
            return Ok(());
        }
        let names: Vec<(Tenant, &Source, &str)> = left_out
            .iter()
            .map(|n| {
                (
                    n.candidate.order.tenant,
                    &n.candidate.order.terms.source,
                    n.assigned.number.as_str(),
                )
            })
            .collect();
        let obstacles = taken(tx.conn(), &names).await?;
        for (n, obstacle) in left_out.into_iter().zip(obstacles) {
            let outcome = match obstacle {
                Some(Taken::Source { order_id, number }) => Outcome::Exists(order_id, number),
                // It was drawn, and a caller's own took it before it was written: the next one will do.
                Some(Taken::Number) if n.candidate.order.terms.number.is_empty() => Outcome::Later,
                Some(Taken::Number) => Outcome::Refused(Error::NumberTaken {
                    number: n.assigned.number,
                }),
                None => Outcome::Later,
            };
            fates.is(n.at, outcome);
        }
        Ok(())
    }
}

/// What an answer to a placement is kept as: the id. The order as it was placed is made from it again (O-13).
fn answer(order: OrderId) -> Result<String, StoreError> {
    serde_json::to_string(&order).map_err(StoreError::other)
}

/// The order in an answer that was kept.
pub(super) fn answered(answer: &str) -> Result<OrderId, StoreError> {
    serde_json::from_str(answer).map_err(StoreError::decode)
}

fn tell(
    at: usize,
    candidate: &Candidate,
    number: String,
    customer_key: String,
    is_new_customer: bool,
) -> Numbered<'_> {
    let mut order = Cow::Borrowed(&candidate.order);
    let new = is_new_customer.then(|| hold(NEW_CUSTOMER, &candidate.order.state));
    if let Some(hold) = &new {
        let order = order.to_mut();
        // It can be held, or it would not have been asked whether its customer is new.
        let _ = order.state.hold();
        order.holds.push(hold.clone());
    }
    let about = About {
        tenant: order.tenant,
        order: order.id,
        version: order.state.version,
        at: order.state.updated_at,
    };
    let traceparent = candidate.traceparent.as_deref();
    let fact = events::placed_fact(&order);
    let as_it_is = candidate.event.number == number && candidate.event.customer_key == customer_key;
    let placed = if as_it_is {
        Told::new(about, &candidate.event, &fact, traceparent)
    } else {
        let event = OrderPlaced {
            number: number.clone(),
            customer_key: customer_key.clone(),
            ..candidate.event.clone()
        };
        Told::new(about, &event, &fact, traceparent)
    };
    // Several callers' orders are placed at once: each fact names its own.
    let caller = Origin::of(&candidate.key);
    let placed = placed.on_behalf(caller.clone());
    let cause = placed.entry.event;
    let mut told = vec![placed];
    let held = order.holds.iter().zip(1..);
    told.extend(held.map(|(hold, open)| {
        events::held(about, hold, open, traceparent).on_behalf(events::by_rule(&hold.rule, cause))
    }));
    if order.state.status == Status::Completed {
        told.push(events::completed(about, traceparent).on_behalf(caller));
    }
    let (events, entries) = told.into_iter().map(|told| (told.event, told.entry)).unzip();
    Numbered {
        at,
        candidate,
        order,
        assigned: Assigned { number, hold: new },
        customer_key,
        events,
        entries,
    }
}

/// An order as it was when it was placed.
pub(super) fn as_placed(order: Order, created_at: DateTime<Utc>) -> Order {
    let to_ship = order.terms.units_to_ship(PLACED);
    let placed = State::placed(order.terms.totals.total, to_ship, created_at);
    let mut order = order.at(placed);
    for _ in 0..order.holds.len() {
        // They began with it, so it could be held.
        let _ = order.state.hold();
    }
    order
}
