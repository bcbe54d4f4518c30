//! `project` once more, for a rebuild: into tables beside the live ones, by the rules of a live batch, without `react`.
//!
//! A rebuilt table holds the effects of exactly the events that had effect on the live one: an event that the live
//! consumer keeps (waiting, dead, parked behind a dead one) is held back here, too, and one that a person gave up is
//! passed over. So a later release or retry finds the rebuilt table as it would have found the live one.

use std::collections::HashSet;

use sqlx::PgConnection;
use uuid::Uuid;

use super::apply::{Applier, kept, unharmed};
use super::{Fold, FoldError, Projection};
use crate::event::Event;
use crate::gate::{Arrival, plan};
use crate::history::recover::is_rewound;
use crate::store::fold as sql;
use crate::store::rebuild::{Undone, undone};

/// An event, its place in the order, and its row if it was held back before.
#[derive(Clone)]
struct Held {
    place: usize,
    row: Option<i64>,
    event: Event,
}

impl<F: Fold> Applier<F> {
    /// Takes new events, and what is held of their keys and of `keys`, as far as the live consumer has applied it.
    pub(super) async fn project_again(
        &self,
        conn: &mut PgConnection,
        live: &str,
        events: &[Event],
        keys: &[Uuid],
    ) -> Result<usize, FoldError> {
        let fresh: Vec<&Event> = events
            .iter()
            .filter(|event| !is_rewound(event) && self.fold.handles(event))
            .collect();
        let all: HashSet<Uuid> = fresh
            .iter()
            .map(|event| event.key)
            .chain(keys.iter().copied())
            .collect();
        if all.is_empty() {
            return Ok(0);
        }
        let Undone {
            held,
            live: kept_live,
            discarded,
        } = undone(conn, live, F::NAME, &Vec::from_iter(all)).await?;
        let given_up: HashSet<Uuid> = discarded.into_iter().collect();
        let mut unapplied = HashSet::new();
        for row in kept_live {
            unapplied.insert(self.waiting(row)?.event.event_id.uuid());
        }
        // What was held comes first, in its order, as if it arrived now.
        let mut all = Vec::with_capacity(held.len() + fresh.len());
        for row in held {
            let waiting = self.waiting(row)?;
            all.push(Held {
                place: all.len(),
                row: Some(waiting.row),
                event: waiting.event,
            });
        }
        for event in fresh {
            all.push(Held {
                place: all.len(),
                row: None,
                event: event.clone(),
            });
        }

        let mut gone = Vec::new();
        let mut back = Vec::new();
        let mut arrivals = Vec::new();
        for one in all {
            let id = one.event.event_id.uuid();
            if given_up.contains(&id) {
                gone.extend(one.row);
            } else if unapplied.contains(&id) {
                back.push(one);
            } else {
                arrivals.push(Arrival {
                    key: one.event.key,
                    opens: self.fold.opens(&one.event),
                    needs_opening: self.fold.needs_opening(&one.event),
                    event: one,
                });
            }
        }
        let doubtful: HashSet<Uuid> = arrivals
            .iter()
            .filter(|arrival| arrival.needs_opening && !arrival.opens)
            .map(|arrival| arrival.key)
            .collect();
        let known = match doubtful.is_empty() {
            true => HashSet::new(),
            false => self.fold.known(conn, &Vec::from_iter(doubtful)).await?,
        };
        let plan = plan(arrivals, known, &HashSet::new(), Vec::new());
        gone.extend(plan.apply.iter().filter_map(|one| one.row));
        back.extend(plan.wait);
        if !gone.is_empty() {
            sql::stop_waiting(conn, &gone).await?;
        }
        // Those of one key keep their order: what was held before has its row already.
        back.sort_by_key(|one| one.place);
        let new: Vec<_> = back
            .iter()
            .filter(|one| one.row.is_none())
            .map(|one| kept(&one.event))
            .collect();
        if !new.is_empty() {
            sql::wait(conn, F::NAME, &new).await?;
        }
        let apply: Vec<Event> = plan.apply.into_iter().map(|one| one.event).collect();
        if !apply.is_empty() {
            unharmed(self.fold.project(&mut Projection::new(conn), &apply)).await?;
        }
        Ok(apply.len())
    }
}
