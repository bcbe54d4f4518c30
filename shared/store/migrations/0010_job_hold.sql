-- Kinds of jobs that must not be begun: a person stopped them, or what they would do outside may have been done already
-- by a history of this database that was lost.
CREATE TABLE job_hold (
    kind    text        COLLATE "C" NOT NULL,
    -- Whose hold it is. A kind may be held for several reasons at once, and each holder lifts only its own.
    holder  text        COLLATE "C" NOT NULL,
    reason  text        NOT NULL,
    -- Who set it: the subject of a token, or a service.
    held_by text        NOT NULL,
    since   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, holder),
    CONSTRAINT job_hold_names_are_short CHECK (length(kind) BETWEEN 1 AND 100 AND length(holder) BETWEEN 1 AND 100),
    CONSTRAINT job_hold_reason_is_short CHECK (length(reason) BETWEEN 1 AND 1000 AND length(held_by) BETWEEN 1 AND 256)
);

-- The lock by which a hold and the last step before an outside effect see each other. The schema is part of it: services
-- may share a database.
CREATE FUNCTION job_hold_lock(kind text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT hashtextextended('waybill job hold ' || current_schema() || ' ' || kind, 0)
$$;

-- Holds kinds of jobs, or changes the reason of a hold. Waits for the transactions that were told they may go on: once
-- this one is committed, none is told so any more. VOLATILE: the statements inside look again after they have waited.
CREATE FUNCTION hold_jobs(kinds text[], its_holder text, its_reason text, its_setter text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    -- In one order for everybody.
    PERFORM pg_advisory_xact_lock(job_hold_lock(k)) FROM (SELECT DISTINCT k FROM UNNEST(kinds) AS u (k) ORDER BY k) AS u;
    INSERT INTO job_hold (kind, holder, reason, held_by)
    SELECT DISTINCT k, its_holder, its_reason, its_setter FROM UNNEST(kinds) AS u (k)
    ON CONFLICT (kind, holder) DO UPDATE SET reason = excluded.reason, held_by = excluded.held_by;
END
$$;

-- Whether a job may go on to its outside effect: 'allowed', 'held', or 'lost' when another runner has it. The answer
-- 'allowed' stands until the transaction ends: a hold waits for it.
CREATE FUNCTION job_permit(id uuid, its_claim bigint) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    its_kind text;
BEGIN
    SELECT kind INTO its_kind FROM jobs WHERE job_id = id AND claims = its_claim AND state = 'running';
    IF NOT FOUND THEN
        RETURN 'lost';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(job_hold_lock(its_kind));
    IF EXISTS (SELECT FROM job_hold WHERE kind = its_kind) THEN
        RETURN 'held';
    END IF;
    RETURN 'allowed';
END
$$;
