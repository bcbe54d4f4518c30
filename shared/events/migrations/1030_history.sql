-- A database that lost commits: noticed before anything is written into it, and recovered from by a person's command.

ALTER TABLE log_identity
    -- The last generation that was begun by a recovery. The end of a stream that is not in the log and belongs to an
    -- earlier one was written off by a person; any other is a loss that nobody has looked at yet.
    ADD COLUMN recovered bigint NOT NULL DEFAULT 0 CHECK (recovered <= generation),
    -- When the server was started on which this log was last found to be what its stream tells. Null before the first
    -- time. Another start may be another copy of the data.
    ADD COLUMN proven_on timestamptz;

-- As before, and refuses a table that is not the one of the identity: a schema that was dropped and restored under a
-- living connection.
CREATE OR REPLACE FUNCTION log_generation() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    identity log_identity%ROWTYPE;
BEGIN
    SELECT * INTO STRICT identity FROM log_identity;
    IF identity.fenced THEN
        RAISE EXCEPTION 'the event log is fenced: %; raise its generation', identity.fenced_reason USING ERRCODE = 'WB002';
    END IF;
    IF identity.table_oid IS DISTINCT FROM to_regclass('event_log')::oid THEN
        RAISE EXCEPTION 'event_log is not the table of log_identity: the schema was restored; raise the generation'
            USING ERRCODE = 'WB002';
    END IF;
    RETURN identity.generation;
END
$$;

-- The kinds of jobs of this service that reach outside (payment provider, mail). Written when the service starts.
CREATE TABLE log_effect_kind (
    kind text COLLATE "C" PRIMARY KEY CHECK (length(kind) BETWEEN 1 AND 100)
);

-- Holds every kind of job that reaches outside, until a person has looked at what was done outside by the history that
-- was lost.
CREATE FUNCTION hold_log_effects(reason text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    -- A schema may have a log and no jobs.
    IF to_regproc('hold_jobs') IS NOT NULL THEN
        PERFORM hold_jobs(ARRAY(SELECT kind FROM log_effect_kind), 'history', left(reason, 1000), 'waybill');
    END IF;
END
$$;

-- Fences the log, unless it is fenced already, and holds outside effects in the same transaction. True when it was not
-- fenced before.
CREATE FUNCTION fence_log(reason text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE log_identity SET fenced = true, fenced_reason = reason WHERE NOT fenced;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM hold_log_effects(reason);
    RETURN true;
END
$$;
