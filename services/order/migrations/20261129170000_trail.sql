-- The timeline that can be trusted: who caused an entry and why, in which order this service learned of them, and a chain of
-- hashes over them that shows what was changed afterwards (O-30, O-31).

ALTER TABLE order_timeline
    -- Who caused it: the subject of a caller's token, or "service:" and a name where nobody did. Empty when that is not known.
    ADD COLUMN actor      text        COLLATE "C" NOT NULL DEFAULT '',
    -- What it follows from: the id of an event or a caller's request id; empty when that is not known.
    ADD COLUMN cause      text        COLLATE "C" NOT NULL DEFAULT '',
    -- When this service learned it, by its clock; not set for what it decided itself: occurred_at says it.
    ADD COLUMN learned_at timestamptz,
    -- The payload of another service's event that moves a facet, so that the order can be replayed from here. The order's own
    -- events are in the log.
    ADD COLUMN payload    bytea,
    -- From 1, in the order this service learned of them, without gaps, and the link of the chain. Not set outside of a chain:
    -- for entries of an order that has no row in order_trails yet, and for what was put here by something that keeps no chain.
    ADD COLUMN sequence   bigint,
    ADD COLUMN hash       bytea,
    -- The transaction that wrote the entry, and with it the order's own event into the log: finds the event there by the
    -- log's order. It is a place and no fact, and no part of the chain.
    ADD COLUMN log_xid    xid8;
-- A default of its own statement: rows of before keep NULL, and none is rewritten. Versions that do not know it fill it too.
ALTER TABLE order_timeline ALTER COLUMN log_xid SET DEFAULT pg_current_xact_id();
ALTER TABLE order_timeline ADD CONSTRAINT order_timeline_link_whole CHECK (
    (sequence IS NULL) = (hash IS NULL) AND sequence > 0 AND octet_length(hash) = 32) NOT VALID;
ALTER TABLE order_timeline VALIDATE CONSTRAINT order_timeline_link_whole;

-- Where the chain of each order ends. Apart from orders: that row is wide, and most facts (a mail, a scan) move nothing on it.
-- Whoever writes entries holds the order's row lock, so this row is never waited for.
--
-- An order of before has no row. The first entry that is written then takes those that are there into the chain, by the time
-- they happened (store::trail::begin).
CREATE TABLE order_trails (
    order_id uuid   NOT NULL PRIMARY KEY,
    count    bigint NOT NULL CHECK (count > 0),
    hash     bytea  NOT NULL CHECK (octet_length(hash) = 32)
) WITH (
    -- Updated once for each fact: with room on the page no update touches the index.
    fillfactor = 70
);

-- One link after the other, as domain::trail makes them: the hash of what came before, the number, and what the entry says.
CREATE FUNCTION trail_link(link bytea, head bytea, sequence bigint, digest bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN sha256(coalesce(link, head) || int8send(sequence) || digest);
END
$$;
-- Over the entries of an order in their sequence, as a window: the chain at each of them, from the given head on.
CREATE AGGREGATE trail_chain(head bytea, sequence bigint, digest bytea) (SFUNC = trail_link, STYPE = bytea);

-- The whole transaction id of a row's xmin, for entries of before log_xid. Transaction ids are 64 bits wide and rows keep the
-- lower half: it is the latest id that ends like that and has been drawn.
CREATE FUNCTION whole_xid(row_xmin xid) RETURNS xid8 LANGUAGE sql STABLE AS $$
    SELECT (n.next - ((n.next - row_xmin::text::bigint) & 4294967295))::text::xid8
    FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next) n
$$;
