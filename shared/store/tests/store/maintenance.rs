//! Old request keys and jobs go, by several replicas at once; the others stay.

use std::time::Duration;

use sqlx::Executor;
use tokio_util::sync::CancellationToken;
use waybill_store::{MaintenanceOptions, maintain};
use waybill_testkit::eventually;

use crate::store;

#[tokio::test]
async fn what_is_old_goes_and_the_rest_stays() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    db.pool()
        .execute(
            "INSERT INTO idempotency (merchant_id, caller, rpc, request_id, request_hash, response, created_at)
             SELECT gen_random_uuid(), 'c', 'r', n::text, sha256(''), '{}', now() - n * interval '1 day'
             FROM generate_series(1, 60) AS n;
             INSERT INTO jobs (job_id, kind, key, merchant_id, payload, priority, state, due_at, finished_at)
             SELECT gen_random_uuid(), 'k', n::text, gen_random_uuid(), '{}', 1,
                    CASE n % 2 WHEN 0 THEN 'done' ELSE 'dead' END, now(), now() - n * interval '1 day'
             FROM generate_series(1, 60) AS n",
        )
        .await?;
    let shutdown = CancellationToken::new();
    // Smaller batches than there is to do.
    let options = MaintenanceOptions {
        batch: 7,
        ..MaintenanceOptions::default()
    };
    let replicas = [(); 3].map(|()| tokio::spawn(maintain(db.clone(), options, shutdown.clone())));
    let left = "SELECT (SELECT count(*) FROM idempotency), (SELECT count(*) FROM jobs)";
    eventually("end of the pruning", Duration::from_secs(20), async || {
        let left: (i64, i64) = sqlx::query_as(left)
            .fetch_one(db.pool())
            .await
            .map_err(|e| e.to_string())?;
        // A day less than thirty, for the time that has passed since; of the jobs also all dead ones.
        if left == (29, 44) {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await;
    shutdown.cancel();
    for replica in replicas {
        let Ok(()) = replica.await?;
    }
    let dead: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'dead'")
        .fetch_one(db.pool())
        .await?;
    assert_eq!(dead, 30);
    Ok(())
}
