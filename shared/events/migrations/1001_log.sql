-- The event log of one service: its identity, the log itself, and the guard that keeps aggregates in log order.
-- All names are unqualified: the schema of the service is the search path.

-- Who this log is. A log that was copied, restored or failed over is another history from there on, and must not be
-- mixed with the one that others have already read. One row, always.
CREATE TABLE log_identity (
    singleton         boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    -- How often the history was forked, counted from 1. First part of every position.
    generation        bigint      NOT NULL DEFAULT 1 CHECK (generation >= 1),
    -- The server: two servers never share it, a copy of the data folder keeps it.
    system_identifier bigint      NOT NULL,
    -- Rises with every promotion and every point-in-time recovery.
    timeline          bigint      NOT NULL,
    -- Differs in a database made from a template or from a dump.
    database_oid      oid         NOT NULL,
    -- Differs in a table made from a dump.
    table_oid         oid         NOT NULL,
    -- Set when a connection finds that any of the above is no longer true. Until the generation is raised nothing is
    -- written and nothing is published.
    fenced            boolean     NOT NULL DEFAULT false,
    fenced_reason     text,
    CHECK (fenced = (fenced_reason IS NOT NULL))
);

-- The generation that the current transaction writes in. Refuses when the log is fenced.
-- VOLATILE on purpose: the query inside then takes its own snapshot *after* it has the lock on log_identity, so that a
-- transaction that waited for raise_generation sees the raised value. The lock is held to the end of the transaction,
-- so a generation is never raised under a transaction that has used the old one.
CREATE FUNCTION log_generation() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    identity log_identity%ROWTYPE;
BEGIN
    SELECT * INTO STRICT identity FROM log_identity;
    IF identity.fenced THEN
        RAISE EXCEPTION 'the event log is fenced: %; raise its generation', identity.fenced_reason USING ERRCODE = 'WB002';
    END IF;
    RETURN identity.generation;
END
$$;

-- A plain sequence and not an identity column: the table can then become a partition of a larger one as it is.
CREATE SEQUENCE event_log_position AS bigint MINVALUE 1;

CREATE TABLE event_log (
    -- Order of the log: (generation, xid, position). The position alone commits out of order.
    generation        bigint      NOT NULL,
    xid               xid8        NOT NULL DEFAULT pg_current_xact_id(),
    position          bigint      NOT NULL DEFAULT nextval('event_log_position') PRIMARY KEY,
    -- UUIDv7, made by the writer. No index: nothing is looked up by it alone.
    event_id          uuid        NOT NULL,
    merchant_id       uuid        NOT NULL,
    -- Null for facts of the merchant.
    store_id          uuid,
    -- What the event is ordered by: the order_id for everything about an order, in every service.
    partition_key     uuid        NOT NULL,
    -- A fixed function of the key, so consumers of all logs agree on it.
    vpartition        smallint    NOT NULL CHECK (vpartition BETWEEN 0 AND 63),
    aggregate_id      uuid        NOT NULL,
    aggregate_version bigint      NOT NULL,
    -- Full name of the payload's message type.
    type              text        NOT NULL,
    -- Protobuf. Carries ids and amounts, no personal data.
    payload           bytea       NOT NULL,
    traceparent       text,
    occurred_at       timestamptz NOT NULL
);

ALTER SEQUENCE event_log_position OWNED BY event_log.position;

-- The relay reads the log in its order; a consumer reads some virtual partitions in the same order.
CREATE INDEX event_log_order ON event_log (generation, xid, position);
CREATE INDEX event_log_partition_order ON event_log (vpartition, generation, xid, position);

-- Append only. Whoever wants to change history finds this and has to say so in a migration.
CREATE FUNCTION refuse_log_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'event_log is append only: % refused', TG_OP USING ERRCODE = 'WB003';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON event_log FOR EACH ROW EXECUTE FUNCTION refuse_log_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON event_log FOR EACH STATEMENT EXECUTE FUNCTION refuse_log_change();

-- The guard per aggregate. A transaction may draw its id early and get the row lock late: its event would then sort
-- before the event of the change it builds on. Such a transaction is refused and runs again under a new id.
-- Attached by each service: CREATE TRIGGER guard BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION guard_log_order();
-- The table has: version bigint, log_generation bigint, log_xid xid8. The guard keeps all three, so nobody can forget.
CREATE FUNCTION guard_log_order() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    generation bigint := log_generation();
    xid        xid8   := pg_current_xact_id();
BEGIN
    IF OLD.log_generation > generation OR (OLD.log_generation = generation AND OLD.log_xid > xid) THEN
        RAISE EXCEPTION 'the row was last changed by (%, %), after (%, %): repeat in a new transaction',
            OLD.log_generation, OLD.log_xid, generation, xid USING ERRCODE = 'WB001';
    END IF;
    NEW.log_generation := generation;
    NEW.log_xid := xid;
    NEW.version := OLD.version + 1;
    RETURN NEW;
END
$$;

-- What the connected server, database and table are now, to compare with log_identity.
-- The timeline comes from the name of the current WAL file: the control file learns of a promotion only at its next
-- checkpoint. Fails on a standby, which is asked before.
CREATE FUNCTION live_log_identity(OUT system_identifier bigint, OUT timeline bigint, OUT database_oid oid, OUT table_oid oid)
LANGUAGE sql VOLATILE AS $$
    SELECT s.system_identifier,
           ('x' || lpad(substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8), 16, '0'))::bit(64)::bigint,
           (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()),
           'event_log'::regclass::oid
    FROM pg_control_system() s
$$;

INSERT INTO log_identity (system_identifier, timeline, database_oid, table_oid)
SELECT l.system_identifier, l.timeline, l.database_oid, l.table_oid FROM live_log_identity() l;
