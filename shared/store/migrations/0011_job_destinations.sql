-- Whom a job calls, e.g. `payment:acme` or `smtp:mail.example`; empty for work that calls nobody outside.
ALTER TABLE jobs ADD COLUMN destination text COLLATE "C" NOT NULL DEFAULT '';
-- When it was last taken: how long an attempt took.
ALTER TABLE jobs ADD COLUMN taken_at timestamptz;
ALTER TABLE job_failures ADD COLUMN began_at timestamptz;

-- What can be taken now is a range of this index per destination and priority. A destination that must be left alone
-- costs nothing, however much waits for it.
CREATE INDEX jobs_to_take_by_destination ON jobs (kind, destination, priority, due_at) WHERE state IN ('waiting', 'running');
DROP INDEX jobs_to_take;
-- For counting what runs towards one.
CREATE INDEX jobs_running ON jobs (destination, due_at) WHERE state = 'running';

-- The limits of a destination and how it is, shared by all replicas and all kinds of jobs. The rules are those of
-- jobs/rule/{rate,breaker}.rs.
CREATE TABLE job_destination (
    destination text        COLLATE "C" PRIMARY KEY,
    -- Jobs towards it at once; null for no limit.
    max_running integer     CHECK (max_running > 0),
    -- One job per so many microseconds in the long run, `burst` at once; null for no limit.
    every_us    bigint      CHECK (every_us > 0),
    burst       integer     NOT NULL DEFAULT 1 CHECK (burst > 0),
    -- The time at which the last permitted job would have been regular, in microseconds since 1970.
    regular_us  bigint      NOT NULL DEFAULT 0,
    -- Failures in a row after which it is left alone, and for how long: doubled each time up to the longest.
    threshold   integer     NOT NULL DEFAULT 5 CHECK (threshold > 0),
    pause_us    bigint      NOT NULL DEFAULT 5000000 CHECK (pause_us > 0),
    longest_us  bigint      NOT NULL DEFAULT 300000000 CHECK (longest_us > 0),
    failures    integer     NOT NULL DEFAULT 0 CHECK (failures >= 0),
    -- How often in a row it was left alone.
    opens       integer     NOT NULL DEFAULT 0 CHECK (opens >= 0),
    -- Null: in use. Ahead: left alone. Past: one job at a time may try.
    open_until  timestamptz,
    failed_at   timestamptz,
    CONSTRAINT job_destination_name_is_short CHECK (length(destination) <= 200)
);

-- Jobs that call nobody.
INSERT INTO job_destination (destination) VALUES ('');

-- Takes up to `slots` jobs of a kind: `aged` of them the longest due, the others high priority first. Leaves alone what is
-- held, and what its destination has no room for. A job whose lease has expired is taken over, which is a failure; once
-- too often and it is returned dead.
--
-- One claim of a kind at a time, and one towards a destination: what runs and what was spent is counted behind that lock,
-- so the limits hold exactly, in however many replicas. VOLATILE: each statement sees what was committed before it began.
CREATE FUNCTION take_jobs(its_kind text, slots bigint, aged bigint, lease interval, max_attempts integer, its_runner text)
RETURNS SETOF jobs LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_us bigint := (extract(epoch FROM now()) * 1000000)::bigint;
BEGIN
    -- Nothing to do is the usual case: it takes no lock.
    IF EXISTS (SELECT FROM job_hold h WHERE h.kind = its_kind)
       OR NOT EXISTS (
           SELECT FROM job_destination d CROSS JOIN UNNEST(ARRAY[0, 1, 2]::smallint[]) AS p (priority)
           WHERE EXISTS (SELECT FROM jobs j WHERE j.kind = its_kind AND j.destination = d.destination
                         AND j.priority = p.priority AND j.state IN ('waiting', 'running') AND j.due_at <= now())
             AND (d.open_until IS NULL OR d.open_until <= now()))
    THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('waybill job take ' || current_schema() || ' ' || its_kind, 0));
    PERFORM FROM job_destination d
    WHERE d.destination <> ''
      AND EXISTS (SELECT FROM jobs j WHERE j.kind = its_kind AND j.destination = d.destination
                  AND j.state IN ('waiting', 'running') AND j.due_at <= now())
    ORDER BY d.destination FOR NO KEY UPDATE OF d;

    RETURN QUERY
    WITH room AS MATERIALIZED (
        SELECT d.destination, d.every_us, d.regular_us, least(
                   slots,
                   CASE WHEN d.open_until IS NULL THEN coalesce(d.max_running - r.running, slots)
                        WHEN d.open_until <= now() THEN 1 - r.running
                        ELSE 0 END,
                   CASE WHEN d.every_us IS NULL THEN slots
                        ELSE (now_us + d.burst * d.every_us - greatest(d.regular_us, now_us)) / d.every_us END
               ) AS room
        FROM job_destination d
        CROSS JOIN LATERAL (
            SELECT CASE WHEN d.destination = '' THEN 0 ELSE (
                SELECT count(*) FROM jobs j
                WHERE j.destination = d.destination AND j.state = 'running' AND j.due_at > now()
            ) END AS running
        ) r
    ), candidate AS MATERIALIZED (
        SELECT c.*, r.room, row_number() OVER (ORDER BY c.due_at, c.job_id) <= aged AS by_age
        FROM room r CROSS JOIN UNNEST(ARRAY[0, 1, 2]::smallint[]) AS p (priority)
        CROSS JOIN LATERAL (
            SELECT j.job_id, j.destination, j.priority, j.due_at FROM jobs j
            WHERE j.kind = its_kind AND j.destination = r.destination AND j.priority = p.priority
              AND j.state IN ('waiting', 'running') AND j.due_at <= now()
            ORDER BY j.due_at LIMIT greatest(r.room, 0)
        ) c
    ), ranked AS (
        SELECT c.*, row_number() OVER (
                   PARTITION BY c.destination
                   ORDER BY c.by_age DESC, CASE WHEN NOT c.by_age THEN c.priority END, c.due_at, c.job_id
               ) AS of_destination
        FROM candidate c
    ), chosen AS (
        SELECT r.job_id FROM ranked r
        WHERE r.of_destination <= r.room AND NOT EXISTS (SELECT FROM job_hold h WHERE h.kind = its_kind)
        ORDER BY r.by_age DESC, CASE WHEN NOT r.by_age THEN r.priority END, r.due_at, r.job_id
        LIMIT slots
    ), due AS MATERIALIZED (
        -- Skipped are those that a person is changing at this moment.
        SELECT j.job_id, j.destination, j.state, j.claims, j.failures, j.runner, j.taken_at
        FROM jobs j WHERE j.job_id IN (SELECT c.job_id FROM chosen c) FOR UPDATE SKIP LOCKED
    ), spent AS (
        UPDATE job_destination d SET regular_us = greatest(d.regular_us, now_us) + n.jobs * d.every_us
        FROM (SELECT due.destination, count(*) AS jobs FROM due GROUP BY due.destination) n
        WHERE d.destination = n.destination AND d.every_us IS NOT NULL
    ), lapsed AS (
        INSERT INTO job_failures (job_id, claim, began_at, runner, reason)
        SELECT due.job_id, due.claims, due.taken_at, due.runner, 'the lease expired' FROM due WHERE due.state = 'running'
        RETURNING job_failures.job_id, job_failures.reason
    )
    UPDATE jobs SET
        claims = jobs.claims + 1,
        failures = due.failures + (due.state = 'running')::int,
        state = CASE WHEN due.state = 'running' AND due.failures + 1 >= max_attempts THEN 'dead' ELSE 'running' END,
        finished_at = CASE WHEN due.state = 'running' AND due.failures + 1 >= max_attempts THEN now() END,
        due_at = now() + lease,
        taken_at = now(),
        last_error = coalesce(lapsed.reason, jobs.last_error),
        runner = its_runner
    FROM due LEFT JOIN lapsed USING (job_id)
    WHERE jobs.job_id = due.job_id
    RETURNING jobs.*;
END
$$;
