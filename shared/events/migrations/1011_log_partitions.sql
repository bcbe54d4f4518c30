-- The log in partitions of positions, so that its oldest part can leave the database as a whole.
--
-- The table that was the log becomes the default partition, without moving or reading a row. The upkeep of the service
-- (see `upkeep.rs`) turns what it holds into a partition of its own, makes new ones ahead of need, and takes down where
-- each of them ends. A row always finds a place: where there is no partition for it yet, the default one takes it.

ALTER TABLE event_log RENAME TO event_log_default;
ALTER INDEX event_log_pkey RENAME TO event_log_default_pkey;
ALTER INDEX event_log_order RENAME TO event_log_default_order;
ALTER INDEX event_log_partition_order RENAME TO event_log_default_partition_order;
-- Each partition gets the row trigger from its parent.
DROP TRIGGER append_only ON event_log_default;

-- Columns, defaults and checks are those of the old table; its comments are in 1001.
CREATE TABLE event_log (LIKE event_log_default INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (position);
ALTER TABLE event_log ADD PRIMARY KEY (position);
CREATE INDEX event_log_order ON event_log (generation, xid, position);
CREATE INDEX event_log_partition_order ON event_log (vpartition, generation, xid, position);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON event_log FOR EACH ROW EXECUTE FUNCTION refuse_log_change();
-- Statement triggers are not handed down: each partition has one of its own, also those that the upkeep makes.
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON event_log FOR EACH STATEMENT EXECUTE FUNCTION refuse_log_change();
-- Finds the indexes that it needs in place.
ALTER TABLE event_log ATTACH PARTITION event_log_default DEFAULT;
-- The positions outlive every partition.
ALTER SEQUENCE event_log_position OWNED BY event_log.position;

-- Another table is the log now, but it is the same log: unless its identity was in doubt before.
UPDATE log_identity SET table_oid = 'event_log'::regclass::oid WHERE table_oid = 'event_log_default'::regclass::oid;

-- The partitions that there are, besides the default one. Without gaps: each begins where the one before it ends.
CREATE TABLE log_partition (
    name        text        NOT NULL UNIQUE,
    -- Positions from `low` to below `high`.
    low         bigint      NOT NULL PRIMARY KEY CHECK (low >= 1),
    high        bigint      NOT NULL CHECK (high > low),
    -- When all its positions had been drawn, the next transaction id to come. Once every transaction below it has ended,
    -- no row can come any more.
    filled_xid  xid8,
    -- From then on: the last place of the log, in its order, up to and including this partition; the one before it, when
    -- all that was drawn was rolled back.
    closed_at   timestamptz,
    generation  bigint,
    xid         xid8,
    position    bigint,
    CHECK ((closed_at IS NULL) = (generation IS NULL)),
    CHECK ((closed_at IS NULL) = (xid IS NULL)),
    CHECK ((closed_at IS NULL) = (position IS NULL)),
    CHECK (closed_at IS NULL OR filled_xid IS NOT NULL)
);

-- The lowest position that an event after a place of the log can have: what was closed before the place lies behind it.
-- Lets the server leave partitions out although the log's order is not that of the positions. STABLE: asked once per
-- scan, before it begins.
CREATE FUNCTION log_floor(after_generation bigint, after_xid xid8, after_position bigint) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    floor bigint;
BEGIN
    SELECT p.low INTO floor FROM log_partition p
    WHERE p.closed_at IS NULL OR (p.generation, p.xid, p.position) > (after_generation, after_xid, after_position)
    ORDER BY p.low LIMIT 1;
    IF floor IS NULL THEN
        SELECT max(p.high) INTO floor FROM log_partition p;
    END IF;
    RETURN coalesce(floor, 0);
END
$$;

-- What was written to the archive, in the order of the log. Each entry holds the log's events after the last place of the
-- one before it up to its own: together they are the log without a gap, whatever the positions.
CREATE TABLE log_archive (
    -- The partition that it was written for.
    low         bigint      NOT NULL PRIMARY KEY,
    high        bigint      NOT NULL CHECK (high > low),
    -- Its name in the archive.
    object      text        NOT NULL UNIQUE,
    -- The last place that it covers.
    generation  bigint      NOT NULL,
    xid         xid8        NOT NULL,
    position    bigint      NOT NULL,
    events      bigint      NOT NULL CHECK (events >= 0),
    -- Of the object, as it is stored.
    bytes       bigint      NOT NULL CHECK (bytes >= 0),
    sha256      bytea       NOT NULL CHECK (octet_length(sha256) = 32),
    archived_at timestamptz NOT NULL DEFAULT now(),
    -- When the partition left the database.
    dropped_at  timestamptz
);

-- The last event of each virtual partition that has one, up to the end of an entry, with the proof of all before it: what
-- a consumer's cursor must say there.
CREATE TABLE log_archive_end (
    low        bigint   NOT NULL REFERENCES log_archive,
    vpartition smallint NOT NULL CHECK (vpartition BETWEEN 0 AND 63),
    generation bigint   NOT NULL,
    xid        xid8     NOT NULL,
    position   bigint   NOT NULL,
    event_id   uuid     NOT NULL,
    count      bigint   NOT NULL CHECK (count > 0),
    hash       bytea    NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (low, vpartition)
);

-- The same for the last entry whose partition has left the database: what the rest of the log follows.
CREATE TABLE log_frontier (
    vpartition smallint PRIMARY KEY CHECK (vpartition BETWEEN 0 AND 63),
    generation bigint   NOT NULL,
    xid        xid8     NOT NULL,
    position   bigint   NOT NULL,
    event_id   uuid     NOT NULL,
    count      bigint   NOT NULL,
    hash       bytea    NOT NULL
);

-- The last place that has left the database; zeros while all of the log is here.
ALTER TABLE log_identity
    ADD COLUMN dropped_generation bigint NOT NULL DEFAULT 0,
    ADD COLUMN dropped_xid        xid8   NOT NULL DEFAULT '0',
    ADD COLUMN dropped_position   bigint NOT NULL DEFAULT 0;

-- Where events stand: the rows, and the last event of each virtual partition that is no longer among them. For whoever
-- asks what comes before something.
CREATE VIEW log_place AS
    SELECT l.vpartition, l.generation, l.xid, l.position FROM event_log l
    UNION ALL
    SELECT f.vpartition, f.generation, f.xid, f.position FROM log_frontier f;
