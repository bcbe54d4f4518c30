-- What a recovery from lost commits leaves behind: what was done, what was lost, what consumers had applied of it.

-- One row per recovery. A generation that a start began because nobody could prove anything has none.
CREATE TABLE log_recovery (
    generation         bigint      PRIMARY KEY,
    from_generation    bigint      NOT NULL CHECK (from_generation < generation),
    -- The same request gets the same answer.
    request_id         text        NOT NULL UNIQUE CHECK (length(request_id) BETWEEN 1 AND 100),
    reason             text        NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
    -- The subject of a token.
    recovered_by       text        NOT NULL,
    recovered_at       timestamptz NOT NULL DEFAULT now(),
    -- When the last event happened that survived.
    survived_until     timestamptz,
    orphans            bigint      NOT NULL,
    -- When a person let the work outside go on; null while it is held.
    effects_settled_at timestamptz
);

-- Events that others were told of and that the log has no longer, as the stream had them. Never deleted: the only record.
CREATE TABLE log_orphan (
    generation   bigint      NOT NULL,
    xid          xid8        NOT NULL,
    position     bigint      NOT NULL,
    vpartition   smallint    NOT NULL CHECK (vpartition BETWEEN 0 AND 63),
    event_id     uuid        NOT NULL,
    -- waybill.events.v1.LoggedEvent: the whole envelope.
    event        bytea       NOT NULL,
    -- Whether the payload was in the stream.
    complete     boolean     NOT NULL,
    -- The generation of the recovery that found it; null while that is under way.
    recovered_in bigint,
    found_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (generation, xid, position, event_id)
);
CREATE INDEX log_orphan_of_recovery ON log_orphan (recovered_in, generation, xid, position, event_id);

-- What a consumer of this service had applied of a history that its producer lost: events by name where the producer
-- knows them, else a range of places with a count.
CREATE TABLE fold_phantom (
    id               bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer         text        NOT NULL,
    source           text        NOT NULL,
    vpartition       smallint    NOT NULL CHECK (vpartition BETWEEN 0 AND 63),
    -- The generation that the producer's log went on in.
    rewound_to       bigint      NOT NULL,
    event_id         uuid,
    type             text,
    key              uuid,
    -- Where the event stood, or the last place of the range.
    generation       bigint      NOT NULL,
    xid              xid8        NOT NULL,
    position         bigint      NOT NULL,
    -- The place after which the range begins.
    after_generation bigint,
    after_xid        xid8,
    after_position   bigint,
    count            bigint      NOT NULL CHECK (count >= 1),
    found_at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT fold_phantom_event_or_range CHECK (
        (event_id IS NULL) = (type IS NULL) AND (event_id IS NULL) = (key IS NULL)
        AND (event_id IS NULL) = (after_position IS NOT NULL) AND (event_id IS NULL OR count = 1)
    )
);
CREATE INDEX fold_phantom_of_source ON fold_phantom (source, id);

-- As fence_log(reason), for a reason that was found in some generation: once the log was recovered from it, it is none any
-- more. Without this a check that was under way while a person recovered the log would fence it again.
CREATE FUNCTION fence_log(reason text, found_in bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE log_identity SET fenced = true, fenced_reason = reason WHERE NOT fenced AND generation = found_in;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM hold_log_effects(reason);
    RETURN true;
END
$$;
