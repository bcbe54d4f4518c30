-- As before, but what was chosen is fetched and changed by its ids.
--
-- In one statement the planner had to guess how many jobs would be chosen, and guessed thousands: it read the whole table,
-- finished jobs and all, twice for each claim. The ids are an array now, and an array is looked up in the primary key.
CREATE OR REPLACE FUNCTION take_jobs(its_kind text, slots bigint, aged bigint, lease interval, max_attempts integer, its_runner text)
RETURNS SETOF jobs LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_us bigint := (extract(epoch FROM now()) * 1000000)::bigint;
    chosen uuid[];
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
    )
    SELECT array_agg(c.job_id) INTO chosen FROM (
        SELECT r.job_id FROM ranked r
        WHERE r.of_destination <= r.room AND NOT EXISTS (SELECT FROM job_hold h WHERE h.kind = its_kind)
        ORDER BY r.by_age DESC, CASE WHEN NOT r.by_age THEN r.priority END, r.due_at, r.job_id
        LIMIT slots
    ) c;
    IF chosen IS NULL THEN
        RETURN;
    END IF;

    RETURN QUERY
    WITH due AS MATERIALIZED (
        -- Skipped are those that a person is changing at this moment, and those that one has just changed.
        SELECT j.job_id, j.destination, j.state, j.claims, j.failures, j.runner, j.taken_at
        FROM jobs j
        WHERE j.job_id = ANY (chosen) AND j.state IN ('waiting', 'running') AND j.due_at <= now()
        FOR UPDATE SKIP LOCKED
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
    -- Said twice, so that the rows are found by their ids whatever the planner thinks of the join.
    WHERE jobs.job_id = ANY (chosen) AND jobs.job_id = due.job_id
    RETURNING jobs.*;
END
$$;
