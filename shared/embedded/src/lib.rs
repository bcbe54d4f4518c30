//! A private Postgres, NATS and mail sink for one machine.
