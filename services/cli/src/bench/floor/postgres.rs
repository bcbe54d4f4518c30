//! Bare Postgres: a table like the log's, cursor rows like a consumer's, counters as an effect.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use sqlx::types::Uuid;
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{PgPool, Row as _, ValueRef as _};
use waybill_kernel::partition::{PARTITIONS, partition_of};

use super::{Shape, Speed};

// The columns and indexes of the log, without its guards.
const TABLES: &str = "
    CREATE SEQUENCE bare_log_position;
    CREATE TABLE bare_log (
        generation bigint NOT NULL, xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        position bigint NOT NULL DEFAULT nextval('bare_log_position') PRIMARY KEY,
        event_id uuid NOT NULL, merchant_id uuid NOT NULL, store_id uuid, partition_key uuid NOT NULL,
        vpartition smallint NOT NULL, aggregate_id uuid NOT NULL, aggregate_version bigint NOT NULL,
        type text NOT NULL, payload bytea NOT NULL, traceparent text, occurred_at timestamptz NOT NULL
    );
    CREATE INDEX ON bare_log (generation, xid, position);
    CREATE INDEX ON bare_log (vpartition, generation, xid, position);
    CREATE TABLE bare_cursor (
        vpartition smallint PRIMARY KEY, position bigint NOT NULL, count bigint NOT NULL, hash bytea NOT NULL
    ) WITH (fillfactor = 50);
    INSERT INTO bare_cursor SELECT v, 0, 0, '' FROM generate_series(0, 63) AS v;
    CREATE TABLE bare_effect (
        key uuid PRIMARY KEY, events bigint NOT NULL, bytes bigint NOT NULL
    ) WITH (fillfactor = 50);";

const INSERT: &str = "
    INSERT INTO bare_log (generation, event_id, merchant_id, store_id, partition_key, vpartition, aggregate_id,
                          aggregate_version, type, payload, traceparent, occurred_at)
    SELECT 1, e.event_id, e.merchant_id, e.store_id, e.partition_key, e.vpartition, e.aggregate_id,
           e.aggregate_version, e.type, e.payload, NULL, e.occurred_at
    FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::smallint[], $6::uuid[], $7::bigint[], $8::text[],
                $9::bytea[], $10::timestamptz[])
         AS e (event_id, merchant_id, store_id, partition_key, vpartition, aggregate_id, aggregate_version, type, payload,
               occurred_at)";

const INSERT_SINGLE: &str = "
    INSERT INTO bare_log (generation, event_id, merchant_id, store_id, partition_key, vpartition, aggregate_id,
                          aggregate_version, type, payload, occurred_at)
    VALUES (1, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

const READ: &str = "
    SELECT generation, xid, position, event_id, merchant_id, store_id, partition_key, vpartition, aggregate_id,
           aggregate_version, type, payload, traceparent, occurred_at
    FROM bare_log WHERE position > $1 ORDER BY position LIMIT $2";

const MOVE_CURSORS: &str = "
    UPDATE bare_cursor c SET position = m.position, count = c.count + m.count, hash = m.hash
    FROM UNNEST($1::smallint[], $2::bigint[], $3::bigint[], $4::bytea[]) AS m (vpartition, position, count, hash)
    WHERE c.vpartition = m.vpartition";

/// Counts events and bytes by key: the effect of the floor's fold, and of the benchmark's.
macro_rules! count_into {
    ($table:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " AS e (key, events, bytes)
             SELECT n.key, count(*), sum(n.bytes) FROM UNNEST($1::uuid[], $2::bigint[]) AS n (key, bytes)
             GROUP BY n.key
             ON CONFLICT (key) DO UPDATE SET events = e.events + EXCLUDED.events, bytes = e.bytes + EXCLUDED.bytes"
        )
    };
}
pub(in crate::bench) use count_into;

/// The full name of a type of the usual length.
const TYPE: &str = "waybill.order.v1.PaymentRecorded";

/// A table like the log's, and what a fold needs.
pub struct BareLog {
    pool: PgPool,
    /// How many rows earlier measurements wrote, so that a read begins behind them.
    written: AtomicUsize,
}

/// Rows that go into one statement, as columns.
struct Set {
    ids: Vec<Uuid>,
    merchants: Vec<Uuid>,
    keys: Vec<Uuid>,
    partitions: Vec<i16>,
    versions: Vec<i64>,
    types: Vec<&'static str>,
    payloads: Vec<Vec<u8>>,
    times: Vec<DateTime<Utc>>,
}

impl BareLog {
    /// Makes the tables.
    pub async fn make(pool: PgPool) -> anyhow::Result<BareLog> {
        sqlx::raw_sql(TABLES)
            .execute(&pool)
            .await
            .context("the bare tables could not be made")?;
        Ok(BareLog {
            pool,
            written: AtomicUsize::new(0),
        })
    }

    /// Rows in sets, a set a statement and a commit, `writers` at once.
    pub async fn insert_sets(&self, shape: &Shape, rows: usize) -> anyhow::Result<Speed> {
        let sets: Arc<[Set]> = sets(shape, rows, shape.per_commit).into();
        self.written.fetch_add(rows, Ordering::Relaxed);
        let next = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        try_join_all((0..shape.writers).map(|_| {
            let (pool, sets, next) = (self.pool.clone(), Arc::clone(&sets), Arc::clone(&next));
            spawned(async move {
                let mut conn = pool.acquire().await?;
                while let Some(set) = sets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    sqlx::query(INSERT)
                        .bind(&set.ids)
                        .bind(&set.merchants)
                        .bind(&set.merchants)
                        .bind(&set.keys)
                        .bind(&set.partitions)
                        .bind(&set.keys)
                        .bind(&set.versions)
                        .bind(&set.types)
                        .bind(&set.payloads)
                        .bind(&set.times)
                        .execute(&mut *conn)
                        .await?;
                }
                Ok(())
            })
        }))
        .await?;
        Ok(speed(rows, began))
    }

    /// Rows one by one, a statement and a commit each, `callers` at once.
    pub async fn insert_singles(&self, shape: &Shape, rows: usize, callers: usize) -> anyhow::Result<Speed> {
        let sets: Arc<[Set]> = sets(shape, rows, 1).into();
        self.written.fetch_add(rows, Ordering::Relaxed);
        let next = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        try_join_all((0..callers).map(|_| {
            let (pool, sets, next) = (self.pool.clone(), Arc::clone(&sets), Arc::clone(&next));
            spawned(async move {
                let mut conn = pool.acquire().await?;
                while let Some(set) = sets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    sqlx::query(INSERT_SINGLE)
                        .bind(set.ids[0])
                        .bind(set.merchants[0])
                        .bind(set.merchants[0])
                        .bind(set.keys[0])
                        .bind(set.partitions[0])
                        .bind(set.keys[0])
                        .bind(set.versions[0])
                        .bind(set.types[0])
                        .bind(&set.payloads[0])
                        .bind(set.times[0])
                        .execute(&mut *conn)
                        .await?;
                }
                Ok(())
            })
        }))
        .await?;
        Ok(speed(rows, began))
    }

    /// The last `rows` rows, in pages, every column decoded.
    pub async fn read(&self, shape: &Shape, rows: usize) -> anyhow::Result<Speed> {
        let mut after = (self.written.load(Ordering::Relaxed) - rows) as i64;
        let mut conn = self.pool.acquire().await?;
        let (mut read, mut bytes) = (0, 0);
        let began = Instant::now();
        loop {
            let page = sqlx::query(READ)
                .bind(after)
                .bind(shape.batch as i64)
                .fetch_all(&mut *conn)
                .await?;
            for row in &page {
                // sqlx knows no xid8: its bytes as they come.
                let place: (i64, _) = (row.try_get(0)?, row.try_get_raw(1)?.is_null());
                after = row.try_get(2)?;
                let ids: [Uuid; 4] = [row.try_get(3)?, row.try_get(4)?, row.try_get(6)?, row.try_get(8)?];
                let store: Option<Uuid> = row.try_get(5)?;
                let numbers: (i16, i64) = (row.try_get(7)?, row.try_get(9)?);
                let kind: String = row.try_get(10)?;
                let payload: Vec<u8> = row.try_get(11)?;
                let rest: (Option<String>, DateTime<Utc>) = (row.try_get(12)?, row.try_get(13)?);
                bytes += payload.len();
                std::hint::black_box((place, ids, store, numbers, kind, payload, rest));
            }
            read += page.len();
            if page.len() < shape.batch {
                break;
            }
        }
        let speed = speed(rows, began);
        ensure!(
            read == rows && bytes == rows * shape.payload_bytes,
            "the floor read {read} of {rows} rows"
        );
        Ok(speed)
    }

    /// Batches of a fold: the cursor rows, then the effect, in one transaction.
    pub async fn fold(&self, shape: &Shape, events: usize) -> anyhow::Result<Speed> {
        let batches = sets(shape, events, shape.batch);
        let mut conn = self.pool.acquire().await?;
        let began = Instant::now();
        for (number, batch) in (1_i64..).zip(&batches) {
            let mut counts = [0_i64; PARTITIONS as usize];
            for partition in &batch.partitions {
                counts[*partition as usize] += 1;
            }
            let moved: Vec<i16> = (0..PARTITIONS as i16)
                .filter(|partition| counts[*partition as usize] > 0)
                .collect();
            let bytes: Vec<i64> = batch
                .payloads
                .iter()
                .map(|payload| payload.len() as i64)
                .collect();
            let mut tx = sqlx::Connection::begin(&mut *conn).await?;
            sqlx::query(MOVE_CURSORS)
                .bind(&moved)
                .bind(vec![number; moved.len()])
                .bind(moved.iter().map(|at| counts[*at as usize]).collect::<Vec<_>>())
                .bind(vec![[7_u8; 32].as_slice(); moved.len()])
                .execute(&mut *tx)
                .await?;
            sqlx::query(count_into!("bare_effect"))
                .bind(&batch.keys)
                .bind(bytes)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
        }
        Ok(speed(events, began))
    }
}

fn sets(shape: &Shape, rows: usize, size: usize) -> Vec<Set> {
    let keys = shape.keys();
    let mut id = shape.ids(1);
    let merchant = id();
    let now = DateTime::<Utc>::UNIX_EPOCH;
    let rows: Vec<usize> = (0..rows).collect();
    rows.chunks(size.max(1))
        .map(|rows| Set {
            ids: rows.iter().map(|_| id()).collect(),
            merchants: vec![merchant; rows.len()],
            keys: rows.iter().map(|row| keys[row % keys.len()]).collect(),
            partitions: rows
                .iter()
                .map(|row| partition_of(keys[row % keys.len()]) as i16)
                .collect(),
            versions: rows.iter().map(|row| *row as i64).collect(),
            types: vec![TYPE; rows.len()],
            payloads: vec![vec![b'x'; shape.payload_bytes]; rows.len()],
            times: vec![now; rows.len()],
        })
        .collect()
}

fn speed(rows: usize, began: Instant) -> Speed {
    Speed {
        count: rows as u64,
        time: began.elapsed(),
    }
}

/// On the threads of the runtime, so that writers run beside each other.
async fn spawned<F>(work: F) -> anyhow::Result<()>
where
    F: Future<Output = Result<(), sqlx::Error>> + Send + 'static,
{
    Ok(tokio::spawn(work).await??)
}
