//! Request keys: a mutation that is sent twice takes effect once and is answered twice.
//!
//! [`Db::run_once`](crate::Db::run_once) does it all for one request. A use case that answers many requests in one
//! transaction calls [`claim`] and [`record`] itself, once each for the whole batch; one that knows its answers before it
//! has done anything, since it makes the ids, calls [`claim_answered`] alone.
//!
//! Only successes are kept: a refused request may be sent again under the same key once its cause is gone. Answers should
//! hold ids rather than personal data, since they outlive an erasure by up to [`KEEP`].

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::MerchantId;

use crate::db::Db;
use crate::error::{RetryCause, StoreError};

/// How long a key is remembered.
pub const KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What makes two requests the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// Whose data it changes.
    pub merchant: MerchantId,
    /// Who called: the token's subject.
    pub caller: String,
    /// Full name of the RPC.
    pub rpc: &'static str,
    /// The caller's `request_id`.
    pub request_id: String,
    /// SHA-256 of the request without its request id.
    pub hash: [u8; 32],
}

/// Identity of a key without its hash, and its order: batches take their keys in one order, so two batches with common
/// keys wait for each other but never both ways.
type Identity<'k> = (Uuid, &'k str, &'k str, &'k str);

impl RequestKey {
    fn identity(&self) -> Identity<'_> {
        (self.merchant.uuid(), &self.caller, self.rpc, &self.request_id)
    }
}

/// What is known about a request when it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is new, and the key is ours until this transaction ends. [`record`] its answer before committing.
    New,
    /// It was done before; this was its answer, as JSON.
    Replay(String),
    /// The key was used for another request: [`StoreError::RequestIdReused`] for this one.
    Reused,
    /// The same request stands earlier in this batch, at this index: give it the same answer.
    SameAs(usize),
}

/// A row as far as it says whose it is.
#[derive(sqlx::FromRow)]
struct Inserted {
    merchant_id: Uuid,
    caller: String,
    rpc: String,
    request_id: String,
}

/// A row that was there before, or by now is ours.
#[derive(sqlx::FromRow)]
struct Known {
    #[sqlx(flatten)]
    key: Inserted,
    request_hash: Vec<u8>,
    response: Option<String>,
}

impl Inserted {
    fn identity(&self) -> Identity<'_> {
        (self.merchant_id, &self.caller, &self.rpc, &self.request_id)
    }
}

/// Claims the keys of a batch, answering per key in the order given. Waits for other transactions that are working on one
/// of them.
///
/// # Errors
///
/// As the database answers; a key in use for longer than the role's `lock_timeout` is [`StoreError::Retry`].
pub async fn claim(conn: &mut PgConnection, keys: &[RequestKey]) -> Result<Vec<Claim>, StoreError> {
    claim_with(conn, keys, |_| None).await
}

/// Claims keys as [`claim`] does, and writes with each the answer that it will have, as JSON: one row written once instead
/// of twice. Whatever is refused in the end must be given back by [`release_answered`].
///
/// # Errors
///
/// As [`claim`].
pub async fn claim_answered(
    conn: &mut PgConnection,
    keys: &[RequestKey],
    answers: &[String],
) -> Result<Vec<Claim>, StoreError> {
    claim_with(conn, keys, |at| answers.get(at).map(String::as_str)).await
}

async fn claim_with<'a>(
    conn: &mut PgConnection,
    keys: &[RequestKey],
    answer: impl Fn(usize) -> Option<&'a str>,
) -> Result<Vec<Claim>, StoreError> {
    let (firsts, mut claims) = without_repeats(keys);
    let columns = Columns::of(firsts.iter().map(|&at| &keys[at]));
    let answers: Vec<Option<&str>> = firsts.iter().map(|&at| answer(at)).collect();
    let inserted: Vec<Inserted> = sqlx::query_as(
        "INSERT INTO idempotency (merchant_id, caller, rpc, request_id, request_hash, response)
         SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[])
         ON CONFLICT DO NOTHING
         RETURNING merchant_id, caller, rpc, request_id",
    )
    .bind(&columns.merchants)
    .bind(&columns.callers)
    .bind(&columns.rpcs)
    .bind(&columns.request_ids)
    .bind(&columns.hashes)
    .bind(&answers)
    .fetch_all(&mut *conn)
    .await?;
    if inserted.len() == firsts.len() {
        return Ok(claims);
    }

    // A statement of its own: its snapshot sees what the insert had to wait for.
    let known: Vec<Known> = sqlx::query_as(
        "SELECT merchant_id, caller, rpc, request_id, request_hash, response
         FROM idempotency
         JOIN UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[])
              AS k (merchant_id, caller, rpc, request_id) USING (merchant_id, caller, rpc, request_id)",
    )
    .bind(&columns.merchants)
    .bind(&columns.callers)
    .bind(&columns.rpcs)
    .bind(&columns.request_ids)
    .fetch_all(conn)
    .await?;
    let ours: HashSet<Identity<'_>> = inserted.iter().map(Inserted::identity).collect();
    let known: HashMap<Identity<'_>, &Known> = known.iter().map(|row| (row.key.identity(), row)).collect();
    for at in firsts {
        let identity = keys[at].identity();
        if !ours.contains(&identity) {
            claims[at] = known_claim(&keys[at], known.get(&identity).copied())?;
        }
    }
    Ok(claims)
}

fn known_claim(key: &RequestKey, known: Option<&Known>) -> Result<Claim, StoreError> {
    match known {
        // Pruned between the two statements: the next transaction can have it.
        None => Err(StoreError::Retry(RetryCause::Serialization)),
        Some(row) if row.request_hash != key.hash => Ok(Claim::Reused),
        Some(Known {
            response: Some(response),
            ..
        }) => Ok(Claim::Replay(response.clone())),
        Some(_) => Err(StoreError::other("a request key was committed without an answer")),
    }
}

/// Writes the answers of claimed keys, as JSON.
///
/// # Errors
///
/// As the database answers; [`StoreError::Other`] when a key was not claimed in this transaction or before.
pub async fn record(conn: &mut PgConnection, answers: &[(&RequestKey, String)]) -> Result<(), StoreError> {
    let columns = Columns::of(answers.iter().map(|(key, _)| *key));
    let responses: Vec<&str> = answers.iter().map(|(_, response)| response.as_str()).collect();
    let done = sqlx::query(
        "UPDATE idempotency SET response = a.response
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[])
              AS a (merchant_id, caller, rpc, request_id, response)
         WHERE idempotency.merchant_id = a.merchant_id AND idempotency.caller = a.caller
           AND idempotency.rpc = a.rpc AND idempotency.request_id = a.request_id
           AND idempotency.response IS NULL",
    )
    .bind(&columns.merchants)
    .bind(&columns.callers)
    .bind(&columns.rpcs)
    .bind(&columns.request_ids)
    .bind(&responses)
    .execute(conn)
    .await?;
    if done.rows_affected() != answers.len() as u64 {
        return Err(StoreError::other(
            "an answer was recorded for a request key that is not ours",
        ));
    }
    Ok(())
}

/// Gives back keys that were claimed as [`Claim::New`] in this transaction and whose requests were refused: only successes
/// are kept. Needed where a transaction commits although one of its requests was refused.
///
/// # Errors
///
/// As the database answers.
pub async fn release(conn: &mut PgConnection, keys: &[&RequestKey]) -> Result<(), StoreError> {
    let columns = Columns::of(keys.iter().copied());
    sqlx::query(
        "DELETE FROM idempotency USING UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[])
              AS k (merchant_id, caller, rpc, request_id)
         WHERE idempotency.merchant_id = k.merchant_id AND idempotency.caller = k.caller
           AND idempotency.rpc = k.rpc AND idempotency.request_id = k.request_id
           AND idempotency.response IS NULL",
    )
    .bind(&columns.merchants)
    .bind(&columns.callers)
    .bind(&columns.rpcs)
    .bind(&columns.request_ids)
    .execute(conn)
    .await?;
    Ok(())
}

/// Gives back keys that were claimed by [`claim_answered`] in this transaction and whose requests were refused. The answer
/// says whose key it is: one that was kept before has another.
///
/// # Errors
///
/// As the database answers.
pub async fn release_answered(
    conn: &mut PgConnection,
    refused: &[(&RequestKey, &str)],
) -> Result<(), StoreError> {
    let columns = Columns::of(refused.iter().map(|(key, _)| *key));
    let answers: Vec<&str> = refused.iter().map(|(_, answer)| *answer).collect();
    sqlx::query(
        "DELETE FROM idempotency USING UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[])
              AS k (merchant_id, caller, rpc, request_id, response)
         WHERE idempotency.merchant_id = k.merchant_id AND idempotency.caller = k.caller
           AND idempotency.rpc = k.rpc AND idempotency.request_id = k.request_id
           AND idempotency.response = k.response",
    )
    .bind(&columns.merchants)
    .bind(&columns.callers)
    .bind(&columns.rpcs)
    .bind(&columns.request_ids)
    .bind(&answers)
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets up to `limit` keys older than `age`, oldest first; returns how many. Call it until it returns less than
/// `limit`: each call is a short transaction.
///
/// # Errors
///
/// As the database answers.
pub async fn prune(db: &Db, age: Duration, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "DELETE FROM idempotency WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM idempotency WHERE created_at < now() - make_interval(secs => $1)
             ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED))",
    )
    .bind(age.as_secs_f64())
    .bind(limit)
    .execute(db.pool())
    .await
    .map_err(StoreError::at_commit)?;
    Ok(done.rows_affected())
}

/// The indices of the batch's distinct keys, in the order they are locked, and a claim per key: new, or what a repeat
/// within the batch gets.
fn without_repeats(keys: &[RequestKey]) -> (Vec<usize>, Vec<Claim>) {
    let mut seen: HashMap<Identity<'_>, usize> = HashMap::with_capacity(keys.len());
    let mut firsts = Vec::with_capacity(keys.len());
    let claims = keys
        .iter()
        .enumerate()
        .map(|(at, key)| match seen.get(&key.identity()) {
            Some(&first) if keys[first].hash == key.hash => Claim::SameAs(first),
            Some(_) => Claim::Reused,
            None => {
                seen.insert(key.identity(), at);
                firsts.push(at);
                Claim::New
            }
        })
        .collect();
    firsts.sort_by_key(|&at| keys[at].identity());
    (firsts, claims)
}

/// Keys as the arrays that UNNEST takes.
#[derive(Default)]
struct Columns<'k> {
    merchants: Vec<Uuid>,
    callers: Vec<&'k str>,
    rpcs: Vec<&'k str>,
    request_ids: Vec<&'k str>,
    hashes: Vec<&'k [u8]>,
}

impl<'k> Columns<'k> {
    fn of(keys: impl Iterator<Item = &'k RequestKey>) -> Self {
        let mut columns = Columns::default();
        for key in keys {
            columns.merchants.push(key.merchant.uuid());
            columns.callers.push(&key.caller);
            columns.rpcs.push(key.rpc);
            columns.request_ids.push(&key.request_id);
            columns.hashes.push(&key.hash);
        }
        columns
    }
}
