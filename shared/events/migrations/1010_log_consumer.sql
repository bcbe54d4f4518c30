-- Who follows this log, and how far each is: told by the consumers themselves, also by those of this service. A part of
-- the log that one of them has not passed is not dropped. Rows go only when a person forgets the consumer.
CREATE TABLE log_consumer (
    service         text        NOT NULL CHECK (service ~ '^[a-z][a-z0-9_-]{0,62}$'),
    consumer        text        NOT NULL CHECK (consumer ~ '^[a-z][a-z0-9_-]{0,62}$'),
    vpartition      smallint    NOT NULL CHECK (vpartition BETWEEN 0 AND 63),
    -- The last event taken; zeros before the first. A partition without a row counts as zeros.
    generation      bigint      NOT NULL CHECK (generation >= 0),
    xid             xid8        NOT NULL,
    position        bigint      NOT NULL CHECK (position >= 0),
    -- How many events were taken, and the chain of their ids (see fold_cursor).
    count           bigint      NOT NULL CHECK (count >= 0),
    hash            bytea       NOT NULL CHECK (octet_length(hash) = 32),
    -- Never falls: a consumer that was put back to an older copy may have acted on a later generation than it knows.
    generation_seen bigint      NOT NULL CHECK (generation_seen >= generation),
    registered_at   timestamptz NOT NULL DEFAULT now(),
    seen_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (service, consumer, vpartition)
) WITH (fillfactor = 50); -- reported every half minute: leave room for updates in place
