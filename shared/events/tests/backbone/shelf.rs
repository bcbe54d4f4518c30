//! A fold whose tables can be rebuilt: what it writes follows from the events alone, and twice is refused.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use sqlx::PgConnection;
use tokio::sync::Notify;
use uuid::Uuid;
use waybill_events::{Event, Fold, FoldError, FoldOptions, Peers, Projection, Reaction, UpkeepOptions};
use waybill_kernel::id::JobId;
use waybill_proto::waybill::order::v1::{OrderCompleted, OrderPlaced};
use waybill_rpc::client;
use waybill_store::jobs::NewJob;

use crate::support::*;

/// With all that a table can have: settings, checks, keys, references, indexes, triggers, comments.
const TABLES: &str = "
    CREATE TABLE shelf (
        order_id uuid PRIMARY KEY,
        merchant_id uuid NOT NULL,
        note text NOT NULL DEFAULT 'from the log' CONSTRAINT shelf_note_said CHECK (note <> ''),
        size integer GENERATED ALWAYS AS (length(note)) STORED,
        touched bigint NOT NULL DEFAULT 0
    ) WITH (fillfactor = 70);
    COMMENT ON TABLE shelf IS 'orders that were placed';
    COMMENT ON COLUMN shelf.touched IS 'counted by the trigger';
    CREATE INDEX shelf_by_merchant ON shelf (merchant_id, order_id DESC) WHERE touched > 0;
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.touched := OLD.touched + 1; RETURN NEW; END $$;
    CREATE TRIGGER touch BEFORE UPDATE ON shelf FOR EACH ROW EXECUTE FUNCTION touch();
    CREATE TABLE shelf_event (
        event_id uuid CONSTRAINT shelf_event_once PRIMARY KEY,
        number bigint GENERATED ALWAYS AS IDENTITY,
        order_id uuid NOT NULL CONSTRAINT shelf_event_of_order REFERENCES shelf ON DELETE CASCADE,
        source text COLLATE \"C\" NOT NULL,
        type text NOT NULL
    );
    CREATE UNIQUE INDEX shelf_event_type ON shelf_event (order_id, type, event_id);
    CREATE TABLE elsewhere (event_id uuid NOT NULL);
    GRANT SELECT ON shelf TO PUBLIC;";

/// The fold. Its name is the recorder's, so that the same proofs and commands are for it.
#[derive(Clone, Default)]
pub struct Shelf {
    /// Orders whose events other than `OrderPlaced` are poison, and single events.
    pub poison: Arc<Mutex<HashSet<Uuid>>>,
    /// Writes to a table that it does not name.
    pub strays: bool,
    /// When set, the next `project` rings and stays where it is.
    pub hold: Arc<Mutex<Option<Arc<Notify>>>>,
}

impl Fold for Shelf {
    const NAME: &'static str = "recorder";

    fn sources(&self) -> &'static [&'static str] {
        &["order", "refund"]
    }

    fn opens(&self, event: &Event) -> bool {
        event.is::<OrderPlaced>()
    }

    fn tables(&self) -> &'static [&'static str] {
        &["shelf", "shelf_event"]
    }

    async fn known(&self, conn: &mut PgConnection, keys: &[Uuid]) -> Result<HashSet<Uuid>, FoldError> {
        let known: Vec<Uuid> = sqlx::query_scalar("SELECT order_id FROM shelf WHERE order_id = ANY ($1)")
            .bind(keys)
            .fetch_all(conn)
            .await?;
        Ok(known.into_iter().collect())
    }

    async fn project(&self, projection: &mut Projection<'_>, events: &[Event]) -> Result<(), FoldError> {
        let held = self.hold.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reached) = held {
            reached.notify_one();
            std::future::pending::<()>().await;
        }
        let poison = self.poison.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sick = events.iter().find(|event| {
            poison.contains(&event.event_id.uuid()) || (!self.opens(event) && poison.contains(&event.key))
        });
        if let Some(event) = sick {
            return Err(FoldError::poison(format!(
                "{} cannot be digested",
                event.type_name
            )));
        }
        let opened: Vec<&Event> = events.iter().filter(|event| self.opens(event)).collect();
        sqlx::query("INSERT INTO shelf (order_id, merchant_id) SELECT * FROM UNNEST($1::uuid[], $2::uuid[])")
            .bind(opened.iter().map(|event| event.key).collect::<Vec<_>>())
            .bind(
                opened
                    .iter()
                    .map(|event| event.merchant.uuid())
                    .collect::<Vec<_>>(),
            )
            .execute(projection.conn())
            .await?;
        sqlx::query(
            "INSERT INTO shelf_event (event_id, order_id, source, type)
             SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[])",
        )
        .bind(
            events
                .iter()
                .map(|event| event.event_id.uuid())
                .collect::<Vec<_>>(),
        )
        .bind(events.iter().map(|event| event.key).collect::<Vec<_>>())
        .bind(
            events
                .iter()
                .map(|event| event.source.to_string())
                .collect::<Vec<_>>(),
        )
        .bind(
            events
                .iter()
                .map(|event| event.short_type().to_owned())
                .collect::<Vec<_>>(),
        )
        .execute(projection.conn())
        .await?;
        if self.strays {
            sqlx::query("INSERT INTO elsewhere SELECT UNNEST($1::uuid[])")
                .bind(
                    events
                        .iter()
                        .map(|event| event.event_id.uuid())
                        .collect::<Vec<_>>(),
                )
                .execute(projection.conn())
                .await?;
        }
        Ok(())
    }

    async fn react(&self, reaction: &mut Reaction<'_>, events: &[Event]) -> Result<(), FoldError> {
        for cause in events {
            let echo = OrderCompleted {
                order_id: cause.key.to_string(),
            };
            reaction.append(event(cause.key.into(), &echo).caused_by(cause));
            let key = JobId::generate().to_string();
            reaction.enqueue(NewJob::new("echo", key, cause.merchant, json!({})));
        }
        Ok(())
    }
}

/// A consumer with this fold. Its tables are made when they are not there.
pub async fn shelf_of(
    world: &World,
    producers: &[&Node],
    shelf: Shelf,
    options: FoldOptions,
) -> anyhow::Result<Node> {
    let mut peers = Peers::new();
    for producer in producers {
        let channel = client::connect(&producer.url, world.auth.system_source(), "analytics")?;
        peers.insert(producer.service.to_owned(), channel);
    }
    let db = world.connect("analytics").await?;
    let there: bool = sqlx::query_scalar("SELECT to_regclass('shelf') IS NOT NULL")
        .fetch_one(db.pool())
        .await?;
    if !there {
        sqlx::raw_sql(TABLES).execute(db.pool()).await?;
    }
    db.close().await;
    world
        .node("analytics", peers, |backbone| {
            backbone
                .fold_with(shelf, options)
                .upkeep(UpkeepOptions::default())
        })
        .await
}
