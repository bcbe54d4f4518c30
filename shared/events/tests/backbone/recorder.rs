//! A fold that writes down what it gets, and that a test can hold, poison, or let write events of its own.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::PgConnection;
use tokio::sync::Notify;
use uuid::Uuid;
use waybill_events::{Event, Fold, FoldError, Phantom, Projection, Reaction};
use waybill_proto::waybill::order::v1::{OrderCancelled, OrderCompleted, OrderPlaced};

use crate::support::event;

// Without any unique key: what is applied twice is there twice.
pub const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS effect (
        number bigint GENERATED ALWAYS AS IDENTITY, event_id uuid NOT NULL, source text NOT NULL, key uuid NOT NULL,
        type text NOT NULL, bytes bigint NOT NULL, worker text NOT NULL DEFAULT ''
    );
    CREATE TABLE IF NOT EXISTS known_key (key uuid NOT NULL);";

/// A step of a batch at which a test can hold the fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Known,
    Project,
    React,
}

/// Holds the fold at a step, once.
#[derive(Debug, Clone)]
pub struct Hold {
    pub step: Step,
    pub reached: Arc<Notify>,
}

/// A fold that writes down what it gets.
#[derive(Clone)]
pub struct Recorder {
    pub sources: &'static [&'static str],
    /// Whether events wait until their order was placed.
    pub opening: bool,
    /// Whether events of type `OrderCompleted` need not wait.
    pub loose: bool,
    /// Orders whose events (other than `OrderPlaced`) are poison, and single events by their ids.
    pub poison: Arc<Mutex<HashSet<Uuid>>>,
    pub hold: Option<Hold>,
    /// Writes an event of its own per event.
    pub echo: bool,
    /// The process, for effects to name it.
    pub worker: String,
}

impl Recorder {
    pub fn of(sources: &'static [&'static str]) -> Recorder {
        Recorder {
            sources,
            opening: false,
            loose: false,
            poison: Arc::default(),
            hold: None,
            echo: false,
            worker: String::new(),
        }
    }

    async fn pass(&self, step: Step) {
        if let Some(hold) = &self.hold
            && hold.step == step
        {
            hold.reached.notify_one();
            std::future::pending::<()>().await;
        }
    }

    fn is_poison(&self, event: &Event) -> bool {
        let poison = self.poison.lock().unwrap_or_else(PoisonError::into_inner);
        poison.contains(&event.event_id.uuid()) || (!event.is::<OrderPlaced>() && poison.contains(&event.key))
    }
}

impl Fold for Recorder {
    const NAME: &'static str = "recorder";

    fn sources(&self) -> &'static [&'static str] {
        self.sources
    }

    fn opens(&self, event: &Event) -> bool {
        event.is::<OrderPlaced>()
    }

    fn needs_opening(&self, event: &Event) -> bool {
        self.opening && !(self.loose && event.is::<OrderCompleted>())
    }

    fn handles(&self, event: &Event) -> bool {
        !event.is::<OrderCancelled>()
    }

    async fn known(&self, conn: &mut PgConnection, keys: &[Uuid]) -> Result<HashSet<Uuid>, FoldError> {
        self.pass(Step::Known).await;
        let known: Vec<Uuid> = sqlx::query_scalar("SELECT key FROM known_key WHERE key = ANY ($1)")
            .bind(keys)
            .fetch_all(conn)
            .await?;
        Ok(known.into_iter().collect())
    }

    async fn project(&self, projection: &mut Projection<'_>, events: &[Event]) -> Result<(), FoldError> {
        if let Some(event) = events.iter().find(|event| self.is_poison(event)) {
            return Err(FoldError::poison(format!(
                "{} cannot be digested",
                event.type_name
            )));
        }
        let opened: Vec<Uuid> = events
            .iter()
            .filter(|event| self.opens(event))
            .map(|event| event.key)
            .collect();
        sqlx::query("INSERT INTO known_key (key) SELECT UNNEST($1::uuid[])")
            .bind(opened)
            .execute(projection.conn())
            .await?;
        sqlx::query(
            "INSERT INTO effect (event_id, source, key, type, bytes, worker)
             SELECT e.event_id, e.source, e.key, e.type, e.bytes, $6
             FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::bigint[]) WITH ORDINALITY
                  AS e (event_id, source, key, type, bytes, place)
             ORDER BY e.place",
        )
        .bind(
            events
                .iter()
                .map(|event| event.event_id.uuid())
                .collect::<Vec<_>>(),
        )
        .bind(
            events
                .iter()
                .map(|event| event.source.to_string())
                .collect::<Vec<_>>(),
        )
        .bind(events.iter().map(|event| event.key).collect::<Vec<_>>())
        .bind(
            events
                .iter()
                .map(|event| event.short_type().to_owned())
                .collect::<Vec<_>>(),
        )
        .bind(
            events
                .iter()
                .map(|event| event.payload.len() as i64)
                .collect::<Vec<_>>(),
        )
        .bind(&self.worker)
        .execute(projection.conn())
        .await?;
        self.pass(Step::Project).await;
        Ok(())
    }

    async fn react(&self, reaction: &mut Reaction<'_>, events: &[Event]) -> Result<(), FoldError> {
        if self.echo {
            for cause in events {
                let echo = OrderCompleted {
                    order_id: cause.key.to_string(),
                };
                reaction.append(event(cause.key.into(), &echo).caused_by(cause));
            }
        }
        self.pass(Step::React).await;
        Ok(())
    }

    async fn rewound(&self, conn: &mut PgConnection, phantoms: &[Phantom]) -> Result<(), FoldError> {
        let gone: Vec<Uuid> = phantoms
            .iter()
            .filter_map(|phantom| phantom.event_id.map(|id| id.uuid()))
            .collect();
        sqlx::query("DELETE FROM effect WHERE event_id = ANY ($1)")
            .bind(gone)
            .execute(conn)
            .await?;
        Ok(())
    }
}
