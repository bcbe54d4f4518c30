//! All SQL of the service.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;
use waybill_kernel::id::{MerchantId, NotificationId, OrderId, StoreId};
use waybill_store::StoreError;

use crate::domain::brand::Brand;
use crate::domain::notification::{Notification, Planned, State};
use crate::domain::stage::Stage;
use crate::domain::turn::Matter;

/// Takes one field of every row, for a statement that reads arrays.
fn column<T, V>(rows: &[T], of: impl FnMut(&T) -> V) -> Vec<V> {
    rows.iter().map(of).collect()
}

/// Sets a store's brand.
pub async fn put_brand(
    conn: &mut PgConnection,
    merchant: MerchantId,
    store: StoreId,
    brand: &Brand,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO brands (merchant_id, store_id, name, from_email, support_email, support_phone, logo_url,
                             accent_color, default_locale, time_zone, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (merchant_id, store_id) DO UPDATE
         SET name = excluded.name, from_email = excluded.from_email, support_email = excluded.support_email,
             support_phone = excluded.support_phone, logo_url = excluded.logo_url,
             accent_color = excluded.accent_color, default_locale = excluded.default_locale,
             time_zone = excluded.time_zone, updated_at = excluded.updated_at",
    )
    .bind(merchant.uuid())
    .bind(store.uuid())
    .bind(&brand.name)
    .bind(&brand.from_email)
    .bind(&brand.support_email)
    .bind(&brand.support_phone)
    .bind(&brand.logo_url)
    .bind(&brand.accent_color)
    .bind(&brand.default_locale)
    .bind(&brand.time_zone)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Keeps the brand of a store from being set until the transaction ends, together with others who do.
pub async fn share_brand(
    conn: &mut PgConnection,
    merchant: MerchantId,
    store: StoreId,
) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock_shared(hashtextextended($1, 0))")
        .bind(brand_lock(merchant, store))
        .execute(conn)
        .await?;
    Ok(())
}

/// Waits for those who share the brand of a store, and keeps others out until the transaction ends.
pub async fn claim_brand(
    conn: &mut PgConnection,
    merchant: MerchantId,
    store: StoreId,
) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(brand_lock(merchant, store))
        .execute(conn)
        .await?;
    Ok(())
}

/// Before it is set a brand has no row that could be locked. Advisory locks are shared by all schemas of a database, so
/// the name says whose it is.
fn brand_lock(merchant: MerchantId, store: StoreId) -> String {
    format!("notification/brand/{merchant}/{store}")
}

/// Whether a store has a brand.
pub async fn brand_exists(
    conn: &mut PgConnection,
    merchant: MerchantId,
    store: StoreId,
) -> Result<bool, StoreError> {
    Ok(
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM brands WHERE merchant_id = $1 AND store_id = $2)")
            .bind(merchant.uuid())
            .bind(store.uuid())
            .fetch_one(conn)
            .await?,
    )
}

/// A store's brand.
pub async fn brand(pool: &PgPool, merchant: MerchantId, store: StoreId) -> Result<Option<Brand>, StoreError> {
    let row = sqlx::query("SELECT * FROM brands WHERE merchant_id = $1 AND store_id = $2")
        .bind(merchant.uuid())
        .bind(store.uuid())
        .fetch_optional(pool)
        .await?;
    row.as_ref().map(brand_of).transpose()
}

fn brand_of(row: &PgRow) -> Result<Brand, StoreError> {
    Ok(Brand {
        name: row.try_get("name")?,
        from_email: row.try_get("from_email")?,
        support_email: row.try_get("support_email")?,
        support_phone: row.try_get("support_phone")?,
        logo_url: row.try_get("logo_url")?,
        accent_color: row.try_get("accent_color")?,
        default_locale: row.try_get("default_locale")?,
        time_zone: row.try_get("time_zone")?,
    })
}

/// Which of these orders are known.
pub async fn known_orders(conn: &mut PgConnection, orders: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
    Ok(
        sqlx::query_scalar("SELECT order_id FROM orders WHERE order_id = ANY($1)")
            .bind(orders)
            .fetch_all(conn)
            .await?,
    )
}

/// Writes orders that were placed: (order, merchant, store). One that is known stays as it is.
pub async fn place(conn: &mut PgConnection, orders: &[(Uuid, Uuid, Uuid)]) -> Result<(), StoreError> {
    if orders.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO orders (order_id, merchant_id, store_id)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[])
         ON CONFLICT (order_id) DO NOTHING",
    )
    .bind(column(orders, |(order, _, _)| *order))
    .bind(column(orders, |(_, merchant, _)| *merchant))
    .bind(column(orders, |(_, _, store)| *store))
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes what is open now: for each subject its order and what it is, or nothing when it is closed.
pub async fn set_open(
    conn: &mut PgConnection,
    matters: &HashMap<Uuid, Option<(Uuid, Matter)>>,
) -> Result<(), StoreError> {
    if matters.is_empty() {
        return Ok(());
    }
    let closed: Vec<Uuid> = matters
        .iter()
        .filter(|(_, open)| open.is_none())
        .map(|(subject, _)| *subject)
        .collect();
    let opened: Vec<(Uuid, Uuid, &str)> = matters
        .iter()
        .filter_map(|(subject, open)| open.map(|(order, matter)| (*subject, order, matter.key())))
        .collect();
    sqlx::query(
        "WITH closed AS (DELETE FROM open_matters WHERE subject_id = ANY($1))
         INSERT INTO open_matters (subject_id, order_id, kind)
         SELECT * FROM UNNEST($2::uuid[], $3::uuid[], $4::text[])
         ON CONFLICT (subject_id) DO NOTHING",
    )
    .bind(closed)
    .bind(column(&opened, |(subject, _, _)| *subject))
    .bind(column(&opened, |(_, order, _)| *order))
    .bind(column(&opened, |(_, _, kind)| *kind))
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes planned notifications; returns the ids of those that were not planned before (N-1).
pub async fn plan(conn: &mut PgConnection, planned: &[Planned]) -> Result<Vec<NotificationId>, StoreError> {
    if planned.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "INSERT INTO notifications (notification_id, merchant_id, store_id, order_id, stage, channel, subject_id,
                                    state, scheduled_at, traceparent)
         SELECT id, merchant, store, order_id, stage, 'email', subject, 'scheduled', scheduled_at, traceparent
         FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::uuid[], $7::timestamptz[],
                     $8::text[])
              AS t(id, merchant, store, order_id, stage, subject, scheduled_at, traceparent)
         ON CONFLICT ON CONSTRAINT notifications_once DO NOTHING
         RETURNING notification_id",
    )
    .bind(column(planned, |one| one.id.uuid()))
    .bind(column(planned, |one| one.merchant.uuid()))
    .bind(column(planned, |one| one.store.uuid()))
    .bind(column(planned, |one| one.order.uuid()))
    .bind(column(planned, |one| one.stage.key()))
    .bind(column(planned, |one| one.subject))
    .bind(column(planned, |one| one.scheduled_at))
    .bind(column(planned, |one| one.traceparent.clone()))
    .fetch_all(conn)
    .await?;
    Ok(ids.into_iter().map(NotificationId::from).collect())
}

/// A notification that is to be sent, with what the decision needs.
#[derive(Debug)]
pub struct Due {
    /// The notification.
    pub notification: Notification,
    /// The store's brand; none before it was set.
    pub brand: Option<Brand>,
    /// What is open about the order; one of them when there are several.
    pub open: Option<Matter>,
}

/// Reads a notification that is to be sent, its brand and what is open, in one round trip.
pub async fn due(pool: &PgPool, id: NotificationId) -> Result<Option<Due>, StoreError> {
    let row = sqlx::query(
        "SELECT n.*, b.name, b.from_email, b.support_email, b.support_phone, b.logo_url, b.accent_color,
                b.default_locale, b.time_zone, b.merchant_id IS NOT NULL AS has_brand,
                (SELECT max(m.kind) FROM open_matters m WHERE m.order_id = n.order_id) AS open_kind
         FROM notifications n LEFT JOIN brands b ON b.merchant_id = n.merchant_id AND b.store_id = n.store_id
         WHERE n.notification_id = $1",
    )
    .bind(id.uuid())
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let brand = if row.try_get("has_brand")? {
        Some(brand_of(&row)?)
    } else {
        None
    };
    let open: Option<String> = row.try_get("open_kind")?;
    let open = open.map(|kind| {
        Matter::from_key(&kind).ok_or_else(|| StoreError::decode(format!("unknown matter {kind:?}")))
    });
    Ok(Some(Due {
        notification: notification_of(&row)?,
        brand,
        open: open.transpose()?,
    }))
}

/// Commits the intent to hand a message over: from here on it may have been sent. The Message-ID is fixed by the first
/// try (N-2). None when the notification has reached its end meanwhile.
pub async fn begin(
    conn: &mut PgConnection,
    id: NotificationId,
    message_id: &str,
) -> Result<Option<String>, StoreError> {
    Ok(sqlx::query_scalar(
        "UPDATE notifications
         SET state = 'sending', reason = '', attempts = attempts + 1,
             message_id = CASE WHEN message_id = '' THEN $2 ELSE message_id END
         WHERE notification_id = $1 AND state IN ('scheduled', 'sending')
         RETURNING message_id",
    )
    .bind(id.uuid())
    .bind(message_id)
    .fetch_optional(conn)
    .await?)
}

/// Writes the end of a notification; returns its version, or none when it had reached its end before.
pub async fn finish(
    conn: &mut PgConnection,
    id: NotificationId,
    state: State,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<Option<i64>, StoreError> {
    Ok(sqlx::query_scalar(
        "UPDATE notifications
         SET state = $2, reason = $3, sent_at = CASE WHEN $2 = 'sent' THEN $4::timestamptz END
         WHERE notification_id = $1 AND state IN ('scheduled', 'sending')
         RETURNING version",
    )
    .bind(id.uuid())
    .bind(state.key())
    .bind(reason)
    .bind(now)
    .fetch_optional(conn)
    .await?)
}

/// Suppresses what is scheduled about orders; returns each with its version.
pub async fn suppress(
    conn: &mut PgConnection,
    orders: &[Uuid],
    reason: &str,
) -> Result<Vec<(Notification, i64)>, StoreError> {
    let rows = sqlx::query(
        "UPDATE notifications SET state = 'suppressed', reason = $2
         WHERE order_id = ANY ($1) AND state = 'scheduled'
         RETURNING *",
    )
    .bind(orders)
    .bind(reason)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| Ok((notification_of(row)?, row.try_get("version")?)))
        .collect()
}

/// Notes why a scheduled notification waits.
pub async fn suspend(conn: &mut PgConnection, id: NotificationId, reason: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE notifications SET reason = $2 WHERE notification_id = $1 AND state = 'scheduled'")
        .bind(id.uuid())
        .bind(reason)
        .execute(conn)
        .await?;
    Ok(())
}

/// Takes up to `limit` notifications of a store that waited for its brand.
pub async fn resume_without_brand(
    conn: &mut PgConnection,
    merchant: MerchantId,
    store: StoreId,
    limit: i64,
) -> Result<Vec<Notification>, StoreError> {
    let rows = sqlx::query(
        "UPDATE notifications SET reason = ''
         WHERE notification_id IN (
             SELECT notification_id FROM notifications
             WHERE merchant_id = $1 AND store_id = $2 AND state = 'scheduled' AND reason = 'NO_BRAND'
             ORDER BY notification_id LIMIT $3 FOR UPDATE)
         RETURNING *",
    )
    .bind(merchant.uuid())
    .bind(store.uuid())
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter().map(notification_of).collect()
}

/// One notification of a store.
pub async fn get(
    pool: &PgPool,
    merchant: MerchantId,
    store: StoreId,
    id: NotificationId,
) -> Result<Option<Notification>, StoreError> {
    let row = sqlx::query(
        "SELECT * FROM notifications WHERE notification_id = $3 AND merchant_id = $1 AND store_id = $2",
    )
    .bind(merchant.uuid())
    .bind(store.uuid())
    .bind(id.uuid())
    .fetch_optional(pool)
    .await?;
    row.as_ref().map(notification_of).transpose()
}

/// A page of a store's notifications, or of one order's, newest first, before an id.
pub async fn list(
    pool: &PgPool,
    merchant: MerchantId,
    store: StoreId,
    order: Option<OrderId>,
    before: Option<NotificationId>,
    limit: i64,
) -> Result<Vec<Notification>, StoreError> {
    // Two statements, so that each has the index that fits it.
    let statement = if order.is_some() {
        "SELECT * FROM notifications
         WHERE order_id = $3 AND merchant_id = $1 AND store_id = $2 AND ($4::uuid IS NULL OR notification_id < $4)
         ORDER BY notification_id DESC LIMIT $5"
    } else {
        "SELECT * FROM notifications
         WHERE merchant_id = $1 AND store_id = $2 AND $3::uuid IS NULL AND ($4::uuid IS NULL OR notification_id < $4)
         ORDER BY notification_id DESC LIMIT $5"
    };
    let rows = sqlx::query(statement)
        .bind(merchant.uuid())
        .bind(store.uuid())
        .bind(order.map(|order| order.uuid()))
        .bind(before.map(|before| before.uuid()))
        .bind(limit)
        .fetch_all(pool)
        .await?;
    rows.iter().map(notification_of).collect()
}

/// Messages that wait and were due by a time, oldest first, less those that a person wants to go out.
pub async fn undecided(
    pool: &PgPool,
    due_by: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Notification>, StoreError> {
    let rows = sqlx::query(
        "SELECT n.* FROM notifications n
         WHERE n.state IN ('scheduled', 'sending') AND n.scheduled_at <= $1
           AND NOT EXISTS (SELECT FROM resends r WHERE r.notification_id = n.notification_id)
         ORDER BY n.scheduled_at, n.notification_id LIMIT $2",
    )
    .bind(due_by)
    .bind(limit)
    .fetch_all(pool)
    .await?;
    rows.iter().map(notification_of).collect()
}

/// Of these messages those that wait, each with the address it is sent from (empty before there is a brand).
pub async fn in_doubt(
    conn: &mut PgConnection,
    ids: &[NotificationId],
) -> Result<Vec<(Notification, String)>, StoreError> {
    let rows = sqlx::query(
        "SELECT n.*, coalesce(b.from_email, '') AS sender
         FROM notifications n LEFT JOIN brands b ON b.merchant_id = n.merchant_id AND b.store_id = n.store_id
         WHERE n.notification_id = ANY ($1) AND n.state IN ('scheduled', 'sending')
         ORDER BY n.notification_id
         FOR UPDATE OF n",
    )
    .bind(column(ids, |id| id.uuid()))
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| Ok((notification_of(row)?, row.try_get("sender")?)))
        .collect()
}

/// Takes messages as sent, each under its Message-ID. Returns their versions.
pub async fn take_as_sent(
    conn: &mut PgConnection,
    sent: &[(NotificationId, String)],
    now: DateTime<Utc>,
) -> Result<HashMap<NotificationId, i64>, StoreError> {
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(
        "UPDATE notifications n
         SET state = 'sent', reason = '', sent_at = $3,
             message_id = CASE WHEN n.message_id = '' THEN t.message_id ELSE n.message_id END
         FROM UNNEST($1::uuid[], $2::text[]) AS t (notification_id, message_id)
         WHERE n.notification_id = t.notification_id AND n.state IN ('scheduled', 'sending')
         RETURNING n.notification_id, n.version",
    )
    .bind(column(sent, |(id, _)| id.uuid()))
    .bind(column(sent, |(_, message_id)| message_id.clone()))
    .bind(now)
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, version)| (id.into(), version))
        .collect())
}

/// Notes that messages are to go out. Returns how many were not noted before.
pub async fn resend(
    pool: &PgPool,
    ids: &[NotificationId],
    reason: &str,
    by: &str,
) -> Result<usize, StoreError> {
    let noted = sqlx::query(
        "INSERT INTO resends (notification_id, reason, decided_by)
         SELECT n.notification_id, $2, $3 FROM notifications n WHERE n.notification_id = ANY ($1)
         ON CONFLICT DO NOTHING",
    )
    .bind(column(ids, |id| id.uuid()))
    .bind(reason)
    .bind(by)
    .execute(pool)
    .await?;
    Ok(usize::try_from(noted.rows_affected()).unwrap_or(usize::MAX))
}

fn notification_of(row: &PgRow) -> Result<Notification, StoreError> {
    let stage: String = row.try_get("stage")?;
    let state: String = row.try_get("state")?;
    Ok(Notification {
        id: row.try_get::<Uuid, _>("notification_id")?.into(),
        merchant: row.try_get::<Uuid, _>("merchant_id")?.into(),
        store: row.try_get::<Uuid, _>("store_id")?.into(),
        order: row.try_get::<Uuid, _>("order_id")?.into(),
        stage: Stage::from_key(&stage)
            .ok_or_else(|| StoreError::decode(format!("unknown stage {stage:?}")))?,
        subject: row.try_get("subject_id")?,
        state: State::from_key(&state)
            .ok_or_else(|| StoreError::decode(format!("unknown state {state:?}")))?,
        reason: row.try_get("reason")?,
        attempts: row.try_get("attempts")?,
        message_id: row.try_get("message_id")?,
        scheduled_at: row.try_get("scheduled_at")?,
        sent_at: row.try_get("sent_at")?,
        traceparent: row.try_get("traceparent")?,
    })
}
