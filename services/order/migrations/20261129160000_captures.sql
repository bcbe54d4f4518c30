-- Captures and voids that this service asks payment providers for; failures and disputes that they tell of.

-- What a provider is asked to do with an authorisation. The row is written before any call (O-27), with the provider's
-- idempotency key in it, and says afterwards what came of it.
CREATE TABLE payment_attempts (
    -- UUIDv7. Once settled, the payment that it is recorded as has the same id.
    attempt_id            uuid        NOT NULL,
    order_id              uuid        NOT NULL,
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    -- The authorisation.
    payment_id            uuid        NOT NULL,
    kind                  text        COLLATE "C" NOT NULL,
    state                 text        COLLATE "C" NOT NULL,
    cause                 text        COLLATE "C" NOT NULL,
    provider              text        COLLATE "C" NOT NULL,
    provider_payment_id   text        COLLATE "C" NOT NULL,
    amount_minor          bigint      NOT NULL,
    -- What the earlier captures of the authorisation took: how a provider that knows no keys tells whether this one was done.
    captured_before_minor bigint      NOT NULL,
    -- What of the authorisation this leaves, and releases where it is final.
    rest_minor            bigint      NOT NULL,
    is_final              boolean     NOT NULL,
    -- The same for every call of this attempt.
    provider_key          text        COLLATE "C" NOT NULL,
    -- The provider's id of the capture or void.
    provider_attempt_id   text        COLLATE "C",
    reason                text        NOT NULL DEFAULT '',
    calls                 integer     NOT NULL DEFAULT 0,
    first_called_at       timestamptz,
    last_called_at        timestamptz,
    created_at            timestamptz NOT NULL,
    -- The order's version when it was decided: answers of before are made again without what came later (O-13).
    order_version         bigint      NOT NULL,
    settled_at            timestamptz,

    PRIMARY KEY (attempt_id),
    FOREIGN KEY (order_id, merchant_id, store_id) REFERENCES orders,
    CONSTRAINT payment_attempts_kind_known CHECK (kind IN ('capture', 'void')),
    CONSTRAINT payment_attempts_state_known CHECK (state IN ('PENDING', 'SUBMITTED', 'SUCCEEDED', 'FAILED', 'UNKNOWN')),
    CONSTRAINT payment_attempts_cause_known CHECK (cause IN ('request', 'policy', 'cancellation')),
    CONSTRAINT payment_attempts_amounts_sound CHECK (amount_minor > 0 AND captured_before_minor >= 0 AND rest_minor >= 0),
    CONSTRAINT payment_attempts_key_once UNIQUE (provider_key),
    -- A call is counted with its time, or not at all.
    CONSTRAINT payment_attempts_calls_whole CHECK ((calls = 0) = (first_called_at IS NULL) AND (calls = 0) = (last_called_at IS NULL)),
    CONSTRAINT payment_attempts_settled_whole CHECK ((state IN ('SUCCEEDED', 'FAILED')) = (settled_at IS NOT NULL))
) WITH (fillfactor = 80);

-- O-26: of a payment one capture or void is in flight at a time, whatever two callers do at once.
CREATE UNIQUE INDEX payment_attempts_one_in_flight ON payment_attempts (payment_id)
    WHERE state IN ('PENDING', 'SUBMITTED', 'UNKNOWN');
CREATE INDEX payment_attempts_of_order ON payment_attempts (order_id, attempt_id);
-- O-29: one capture or void of a provider is one attempt, whichever way it was heard of.
CREATE UNIQUE INDEX payment_attempts_provider_once
    ON payment_attempts (merchant_id, store_id, provider, kind, provider_attempt_id) WHERE provider_attempt_id IS NOT NULL;

-- What captures in flight are about to take, on the row that every change of the order locks. It moves without a version:
-- nothing is told before the provider has spoken.
ALTER TABLE orders ADD COLUMN capturing_minor bigint NOT NULL DEFAULT 0;
-- O-28: captured and in flight never exceed what is to be paid. An order whose units were cancelled after they were paid has
-- more captured than is due; nothing is in flight on it then.
ALTER TABLE orders ADD CONSTRAINT orders_capturing_within_due CHECK (
    capturing_minor = 0 OR (capturing_minor > 0 AND captured_minor - owed_back_minor + capturing_minor
        <= total_minor + added_minor - cancelled_minor)) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_capturing_within_due;
-- What is asked for is not cancelled meanwhile: who decides a cancellation waits for the provider's word.
ALTER TABLE orders ADD CONSTRAINT orders_cancelled_captures_nothing CHECK (status <> 'CANCELLED' OR capturing_minor = 0) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_cancelled_captures_nothing;

-- Disputes: what is undecided, and what they took. Both are told by the provider and taken as they are.
ALTER TABLE orders ADD COLUMN disputed_minor bigint NOT NULL DEFAULT 0;
ALTER TABLE orders ADD COLUMN dispute_lost_minor bigint NOT NULL DEFAULT 0;
ALTER TABLE orders ADD CONSTRAINT orders_disputes_not_negative CHECK (disputed_minor >= 0 AND dispute_lost_minor >= 0) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_disputes_not_negative;

ALTER TABLE order_payments ADD COLUMN reason text NOT NULL DEFAULT '';
ALTER TABLE order_payments ADD COLUMN dispute_id text COLLATE "C" NOT NULL DEFAULT '';
-- The attempt that it came of; null where it was told from outside.
ALTER TABLE order_payments ADD COLUMN attempt_id uuid;
ALTER TABLE order_payments DROP CONSTRAINT order_payments_kind_known;
ALTER TABLE order_payments ADD CONSTRAINT order_payments_kind_known CHECK (
    kind IN ('authorization', 'capture', 'void', 'failure', 'dispute', 'dispute_won', 'dispute_lost')) NOT VALID;
ALTER TABLE order_payments VALIDATE CONSTRAINT order_payments_kind_known;
ALTER TABLE order_payments ADD CONSTRAINT order_payments_disputes_named CHECK (
    (kind IN ('dispute', 'dispute_won', 'dispute_lost')) = (dispute_id <> '')) NOT VALID;
ALTER TABLE order_payments VALIDATE CONSTRAINT order_payments_disputes_named;
-- O-11, with several captures of one authorisation, each by an attempt of its own, and several disputes of one payment. What
-- is told from outside counts once as before.
ALTER TABLE order_payments DROP CONSTRAINT order_payments_once;
ALTER TABLE order_payments ADD CONSTRAINT order_payments_once
    UNIQUE NULLS NOT DISTINCT (merchant_id, store_id, provider, provider_payment_id, kind, dispute_id, attempt_id);
