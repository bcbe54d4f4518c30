-- What a service remembers as a consumer of logs, its own and others'. NATS remembers nothing for it.

-- Who works on which virtual partition. The epoch rises with every owner: an owner that lost its lease without knowing
-- cannot commit any more, because the cursor rows carry the epoch of the new one.
CREATE TABLE fold_lease (
    consumer   text        NOT NULL,
    vpartition smallint    NOT NULL CHECK (vpartition BETWEEN 0 AND 63),
    owner      text,
    epoch      bigint      NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (consumer, vpartition)
) WITH (fillfactor = 50); -- renewed every few seconds: leave room for updates in place

-- How far a consumer is in one virtual partition of one log. Updated first and conditionally in the transaction of the
-- effects, so every event takes effect exactly once. Count and hash prove it against the log.
CREATE TABLE fold_cursor (
    consumer   text     NOT NULL,
    source     text     NOT NULL,
    vpartition smallint NOT NULL CHECK (vpartition BETWEEN 0 AND 63),
    -- The last event taken; zeros before the first.
    generation bigint   NOT NULL DEFAULT 0,
    xid        xid8     NOT NULL DEFAULT '0',
    position   bigint   NOT NULL DEFAULT 0,
    -- Epoch of the owner that may move the row.
    epoch      bigint   NOT NULL DEFAULT 0,
    -- How many events were taken.
    count      bigint   NOT NULL DEFAULT 0 CHECK (count >= 0),
    -- sha256(hash before || id of the event), from 32 zero bytes.
    hash       bytea    NOT NULL DEFAULT decode(repeat('00', 32), 'hex') CHECK (octet_length(hash) = 32),
    PRIMARY KEY (consumer, vpartition, source)
) WITH (fillfactor = 50);

-- Events about a key (an order) whose first event has not been seen yet: nothing is ordered across streams. They take
-- effect right after it, in the order of their ids.
CREATE TABLE fold_waiting (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer   text        NOT NULL,
    key        uuid        NOT NULL,
    source     text        NOT NULL,
    vpartition smallint    NOT NULL,
    -- waybill.events.v1.LoggedEvent: the whole envelope.
    event      bytea       NOT NULL,
    arrived_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX fold_waiting_key ON fold_waiting (consumer, key, id);

-- Events that cannot take effect (letters) and the later events of the same key parked behind them, from all logs of
-- the consumer. While a key has a row here, its events are parked.
CREATE TABLE fold_dead_letter (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer   text        NOT NULL,
    key        uuid        NOT NULL,
    source     text        NOT NULL,
    vpartition smallint    NOT NULL,
    kind       text        NOT NULL CHECK (kind IN ('letter', 'parked')),
    event_id   uuid        NOT NULL,
    type       text        NOT NULL,
    -- waybill.events.v1.LoggedEvent: the whole envelope.
    event      bytea       NOT NULL,
    -- Why the letter could not take effect.
    reason     text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((kind = 'letter') = (reason IS NOT NULL))
);
CREATE INDEX fold_dead_letter_key ON fold_dead_letter (consumer, key, id);
-- Too many letters in a short time stop the consumer.
CREATE INDEX fold_dead_letter_recent ON fold_dead_letter (consumer, created_at) WHERE kind = 'letter';

-- A consumer that was stopped, by itself (too many letters) or by a person. No row: it runs.
CREATE TABLE fold_stopped (
    consumer   text        PRIMARY KEY,
    reason     text        NOT NULL,
    stopped_at timestamptz NOT NULL DEFAULT now()
);
