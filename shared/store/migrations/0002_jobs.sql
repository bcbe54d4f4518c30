-- Work towards the outside world (payment provider, mail, carrier), written in the transaction that decided on it and
-- taken by a worker under a lease.
CREATE TABLE jobs (
    job_id      uuid        PRIMARY KEY,
    -- Which handler takes it.
    kind        text        COLLATE "C" NOT NULL,
    -- What it is about, e.g. a refund leg's id: the same work is never queued twice.
    key         text        COLLATE "C" NOT NULL,
    merchant_id uuid        NOT NULL,
    order_id    uuid,
    payload     jsonb       NOT NULL,
    -- Trace context of whoever queued it.
    traceparent text,
    -- 0 before 1 before 2.
    priority    smallint    NOT NULL,
    state       text        COLLATE "C" NOT NULL DEFAULT 'waiting',
    -- Waiting: not before this time. Running: the lease's end, after which anybody may take it. One column, so that
    -- "what can be taken now" is one range of one index.
    due_at      timestamptz NOT NULL,
    -- How often it was taken. The number is the fencing token: only the latest taker may settle the job.
    claims      bigint      NOT NULL DEFAULT 0,
    -- Failures in a row; an expired lease is one.
    failures    integer     NOT NULL DEFAULT 0,
    runner      text,
    last_error  text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CONSTRAINT jobs_once UNIQUE (kind, key),
    CONSTRAINT jobs_state_known CHECK (state IN ('waiting', 'running', 'done', 'dead')),
    CONSTRAINT jobs_priority_known CHECK (priority BETWEEN 0 AND 2),
    CONSTRAINT jobs_finished_has_time CHECK ((state IN ('done', 'dead')) = (finished_at IS NOT NULL))
) WITH (
    -- Each job is updated at least twice: leave room for the new versions on the same page and clean up early.
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02
);

CREATE INDEX jobs_to_take ON jobs (kind, priority, due_at) WHERE state IN ('waiting', 'running');
CREATE INDEX jobs_dead ON jobs (kind, job_id) WHERE state = 'dead';
-- For pruning, oldest first.
CREATE INDEX jobs_done_by_age ON jobs (finished_at) WHERE state = 'done';

-- The history of a job that did not go well at once.
CREATE TABLE job_failures (
    job_id    uuid        NOT NULL REFERENCES jobs ON DELETE CASCADE,
    claim     bigint      NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT now(),
    runner    text,
    reason    text        NOT NULL,
    PRIMARY KEY (job_id, claim)
);
