-- What people asked of jobs. Written in the transaction that did it, never changed.
CREATE TABLE job_action (
    action_id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    happened_at timestamptz NOT NULL DEFAULT now(),
    action      text        COLLATE "C" NOT NULL,
    -- The subject of the token that asked, and the request id of the call.
    caller      text        NOT NULL,
    request_id  text        NOT NULL,
    reason      text        NOT NULL,
    -- What it was about: a job, or a kind of jobs, or a destination.
    job_id      uuid        REFERENCES jobs ON DELETE CASCADE,
    kind        text        COLLATE "C",
    destination text        COLLATE "C",
    CONSTRAINT job_action_known CHECK (action IN ('retry', 'discard', 'hold', 'release', 'reset'))
);

CREATE INDEX job_action_of_job ON job_action (job_id, action_id) WHERE job_id IS NOT NULL;

-- For people who look for jobs.
CREATE INDEX jobs_by_order ON jobs (order_id) WHERE order_id IS NOT NULL;
CREATE INDEX jobs_dead_by_id ON jobs (job_id) WHERE state = 'dead';
