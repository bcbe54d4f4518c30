-- Answers to requests that change something, kept beside the change they belong to.
--
-- A key is inserted first and its answer is written last, both in the request's own transaction: a committed row is a
-- finished request, and a second caller with the same key waits on the unique index until the first has decided.
CREATE TABLE idempotency (
    merchant_id  uuid        NOT NULL,
    -- Who called: two callers may choose the same request id.
    caller       text        COLLATE "C" NOT NULL,
    -- Full name of the RPC: one request id may name one call of each.
    rpc          text        COLLATE "C" NOT NULL,
    request_id   text        COLLATE "C" NOT NULL,
    -- SHA-256 of the request without its request id. The same key with another hash is a caller's fault.
    request_hash bytea       NOT NULL,
    -- The answer as JSON. Null only inside the transaction that is working on it.
    response     text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (merchant_id, caller, rpc, request_id),
    CONSTRAINT idempotency_request_id_length CHECK (length(request_id) BETWEEN 1 AND 256),
    CONSTRAINT idempotency_hash_is_sha256 CHECK (octet_length(request_hash) = 32)
);

-- For pruning, oldest first.
CREATE INDEX idempotency_by_age ON idempotency (created_at);
