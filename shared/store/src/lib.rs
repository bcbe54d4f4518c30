//! Postgres plumbing: pool, transactions with retry, idempotency, jobs, migrations.
