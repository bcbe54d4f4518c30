-- What a person asks of a consumer, and what the consumer needs for it.

-- Who paused or stopped a consumer. 'stopped': it did so itself, or code did. 'paused': a person.
ALTER TABLE fold_stopped ADD COLUMN kind text NOT NULL DEFAULT 'stopped' CHECK (kind IN ('stopped', 'paused'));

-- How often a command tried the letter in vain, and when last.
ALTER TABLE fold_dead_letter ADD COLUMN tries integer NOT NULL DEFAULT 0 CHECK (tries >= 0);
ALTER TABLE fold_dead_letter ADD COLUMN tried_at timestamptz;
-- Whether a command made a letter of it, which was parked before. Such a letter says nothing about the rate at which new
-- events fail, so it does not count towards the stop of the consumer.
ALTER TABLE fold_dead_letter ADD COLUMN by_command boolean NOT NULL DEFAULT false;

-- What was asked, by whom, and what it did: one row for each transaction, written in it. A discarded event is kept here
-- whole, for its effects are missing for ever.
CREATE TABLE fold_audit (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    happened_at timestamptz NOT NULL DEFAULT now(),
    consumer    text        NOT NULL,
    action      text        NOT NULL CHECK (action IN ('retry', 'discard', 'pause', 'resume')),
    -- Subject of the caller's token.
    caller      text        NOT NULL,
    request_id  text        NOT NULL,
    -- Why, in the caller's words.
    reason      text        NOT NULL,
    -- Of a repair: the key, the letter that stood first, its event, what took effect, how the key was afterwards.
    key         uuid,
    letter      bigint,
    event_id    uuid,
    type        text,
    source      text,
    applied     integer     CHECK (applied >= 0),
    outcome     text        CHECK (outcome IN ('free', 'blocked', 'going_on')),
    -- waybill.events.v1.LoggedEvent of a discarded event.
    discarded   bytea,
    CHECK ((action IN ('retry', 'discard')) = (key IS NOT NULL AND letter IS NOT NULL AND event_id IS NOT NULL
        AND type IS NOT NULL AND source IS NOT NULL AND applied IS NOT NULL AND outcome IS NOT NULL)),
    CHECK (discarded IS NULL OR action = 'discard')
);
CREATE INDEX fold_audit_consumer ON fold_audit (consumer, id);
CREATE INDEX fold_audit_key ON fold_audit (key, id) WHERE key IS NOT NULL;

-- What a person did stays written.
CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'fold_audit is append only: % refused', TG_OP USING ERRCODE = 'WB003';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON fold_audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();
