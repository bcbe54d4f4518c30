-- Policies, returns, refunds, and which unit is held by what.

-- The newest version of each store's policy. One row to lock, so that versions and their events have one order.
CREATE TABLE policy_heads (
    merchant_id    uuid        NOT NULL,
    store_id       uuid        NOT NULL,
    policy_version integer     NOT NULL,
    valid_from     timestamptz NOT NULL,
    version        bigint      NOT NULL DEFAULT 1,
    log_generation bigint      NOT NULL DEFAULT log_generation(),
    log_xid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (merchant_id, store_id)
);
CREATE TRIGGER guard BEFORE UPDATE ON policy_heads FOR EACH ROW EXECUTE FUNCTION guard_log_order();

-- Every version as it was published; never updated.
CREATE TABLE policies (
    merchant_id    uuid        NOT NULL,
    store_id       uuid        NOT NULL,
    policy_version integer     NOT NULL CONSTRAINT policies_counted_from_one CHECK (policy_version >= 1),
    valid_from     timestamptz NOT NULL,
    rules          jsonb       NOT NULL,
    published_at   timestamptz NOT NULL DEFAULT now(),
    published_by   text        NOT NULL,
    PRIMARY KEY (merchant_id, store_id, policy_version),
    -- A later version begins later: which one holds at a time is one row of this index.
    CONSTRAINT policies_begin_apart UNIQUE (merchant_id, store_id, valid_from)
);

CREATE TABLE returns (
    return_id      uuid        PRIMARY KEY,
    merchant_id    uuid        NOT NULL,
    store_id       uuid        NOT NULL,
    order_id       uuid        NOT NULL REFERENCES orders,
    state          text        NOT NULL CONSTRAINT returns_state_known
                   CHECK (state IN ('REQUESTED', 'APPROVED', 'DECLINED', 'RECEIVED', 'COMPLETED')),
    currency       text        NOT NULL,
    -- What was promised when it was requested, by which policy; frozen.
    quote          jsonb       NOT NULL,
    decline_reason text        NOT NULL DEFAULT '',
    refund_id      uuid,
    requested_by   text        NOT NULL,
    requested_at   timestamptz NOT NULL,
    version        bigint      NOT NULL DEFAULT 1,
    log_generation bigint      NOT NULL DEFAULT log_generation(),
    log_xid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
    updated_at     timestamptz NOT NULL
) WITH (fillfactor = 80);
CREATE TRIGGER guard BEFORE UPDATE ON returns FOR EACH ROW EXECUTE FUNCTION guard_log_order();
-- Pages, newest first; ids are time-ordered.
CREATE INDEX returns_of_store ON returns (merchant_id, store_id, return_id);
CREATE INDEX returns_of_order ON returns (order_id, return_id);

CREATE TABLE return_lines (
    return_id   uuid    NOT NULL REFERENCES returns,
    position    integer NOT NULL,
    line_id     uuid    NOT NULL REFERENCES order_lines,
    sku         text    NOT NULL,
    quantity    integer NOT NULL CONSTRAINT return_lines_some CHECK (quantity > 0),
    reason      text    NOT NULL,
    -- Null before the goods are back.
    disposition text CONSTRAINT return_lines_disposition_known
                CHECK (disposition IN ('restock', 'damaged', 'discard', 'not_returned')),
    PRIMARY KEY (return_id, position),
    CONSTRAINT return_lines_each_once UNIQUE (return_id, line_id)
);

CREATE TABLE refunds (
    refund_id      uuid        PRIMARY KEY,
    merchant_id    uuid        NOT NULL,
    store_id       uuid        NOT NULL,
    order_id       uuid        NOT NULL REFERENCES orders,
    return_id      uuid        REFERENCES returns,
    -- Follows from the legs; kept for lists.
    state          text        NOT NULL CONSTRAINT refunds_state_known
                   CHECK (state IN ('PENDING_APPROVAL', 'PENDING', 'SUBMITTED', 'SUCCEEDED', 'FAILED', 'UNKNOWN', 'CANCELLED')),
    currency       text        NOT NULL,
    amount         bigint      NOT NULL CONSTRAINT refunds_pay_something CHECK (amount > 0),
    tax            bigint      NOT NULL,
    -- Why, as a key for machines and in words for people; no personal data.
    reason_key     text        NOT NULL,
    reason         text        NOT NULL,
    requested_by   text        NOT NULL,
    approved_by    text,
    arrival_days   integer     NOT NULL,
    created_at     timestamptz NOT NULL,
    started_at     timestamptz,
    expected_at    timestamptz,
    succeeded_at   timestamptz,
    -- True once its tax was told to others; a second success after a reversal tells the amount alone.
    tax_told       boolean     NOT NULL DEFAULT false,
    -- True while its units are taken and its amount is booked as owed; false once every leg has failed.
    holds          boolean     NOT NULL,
    accrual_entry  uuid,
    version        bigint      NOT NULL DEFAULT 1,
    log_generation bigint      NOT NULL DEFAULT log_generation(),
    log_xid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
    updated_at     timestamptz NOT NULL,
    CONSTRAINT refunds_booked_while_held CHECK (holds = (accrual_entry IS NOT NULL)),
    -- A second person: nobody approves what they asked for.
    CONSTRAINT refunds_four_eyes CHECK (approved_by <> requested_by)
) WITH (fillfactor = 80);
CREATE TRIGGER guard BEFORE UPDATE ON refunds FOR EACH ROW EXECUTE FUNCTION guard_log_order();
-- A return is paid back by one refund, whatever two callers do at once.
CREATE UNIQUE INDEX refunds_one_per_return ON refunds (return_id) WHERE return_id IS NOT NULL;
CREATE INDEX refunds_of_store ON refunds (merchant_id, store_id, refund_id);
CREATE INDEX refunds_of_store_by_state ON refunds (merchant_id, store_id, state, refund_id);
CREATE INDEX refunds_of_order ON refunds (order_id, refund_id);

CREATE TABLE refund_components (
    refund_id uuid    NOT NULL REFERENCES refunds,
    position  integer NOT NULL,
    kind      text    NOT NULL CONSTRAINT refund_components_kind_known
              CHECK (kind IN ('line', 'shipping', 'fee', 'goodwill', 'unpaid', 'overpaid')),
    line_id   uuid    REFERENCES order_lines,
    net       bigint  NOT NULL,
    tax       bigint  NOT NULL,
    PRIMARY KEY (refund_id, position),
    -- What is kept is negative, everything else is not: a fee never turns into a payment.
    CONSTRAINT refund_components_sign CHECK (CASE WHEN kind IN ('fee', 'unpaid') THEN net <= 0 AND tax = 0 ELSE net >= 0 AND tax >= 0 END),
    CONSTRAINT refund_components_line_named CHECK ((line_id IS NOT NULL) = (kind IN ('line', 'shipping', 'fee')))
);

-- Which units are held, as ranges: one row per run of units.
CREATE TABLE unit_claims (
    claim_id  bigint    GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id  uuid      NOT NULL REFERENCES orders,
    line_id   uuid      NOT NULL,
    -- Of the line, by the foreign key below: no unit beyond it can be claimed.
    quantity  integer   NOT NULL,
    units     int4range NOT NULL,
    -- The return that holds the goods; kept when it was declined.
    return_id uuid      REFERENCES returns,
    -- The refund that pays for them; kept when it failed.
    refund_id uuid      REFERENCES refunds,
    -- The money of the units is promised or paid.
    money     boolean   NOT NULL,
    -- The goods are on their way back or are back.
    goods     boolean   NOT NULL,
    CONSTRAINT unit_claims_quantity_of FOREIGN KEY (line_id, quantity) REFERENCES order_lines (line_id, quantity),
    CONSTRAINT unit_claims_of_line CHECK (NOT isempty(units) AND lower(units) >= 1 AND upper(units) <= quantity + 1),
    CONSTRAINT unit_claims_have_holder CHECK (return_id IS NOT NULL OR refund_id IS NOT NULL),
    CONSTRAINT unit_claims_goods_of_return CHECK (NOT goods OR return_id IS NOT NULL),
    -- No unit is ever paid twice, even by a bug.
    CONSTRAINT unit_claims_no_unit_paid_twice EXCLUDE USING gist (line_id WITH =, units WITH &&) WHERE (money),
    -- No unit comes back twice.
    CONSTRAINT unit_claims_no_unit_returned_twice EXCLUDE USING gist (line_id WITH =, units WITH &&) WHERE (goods)
);
CREATE INDEX unit_claims_by_order ON unit_claims (order_id);
CREATE INDEX unit_claims_by_return ON unit_claims (return_id) WHERE return_id IS NOT NULL;
CREATE INDEX unit_claims_by_refund ON unit_claims (refund_id) WHERE refund_id IS NOT NULL;

-- The part of a refund that goes back over one payment.
CREATE TABLE refund_legs (
    leg_id         uuid    PRIMARY KEY,
    refund_id      uuid    NOT NULL REFERENCES refunds,
    position       integer NOT NULL,
    payment_id     uuid    NOT NULL REFERENCES payments,
    -- Who carries it out: the payment's provider, or 'manual' where that has no adapter.
    provider       text    NOT NULL,
    amount         bigint  NOT NULL CONSTRAINT refund_legs_pay_something CHECK (amount > 0),
    state          text    NOT NULL CONSTRAINT refund_legs_state_known
                   CHECK (state IN ('PENDING_APPROVAL', 'PENDING', 'SUBMITTED', 'SUCCEEDED', 'FAILED', 'UNKNOWN', 'CANCELLED')),
    -- The attempt it is at; a new one is only made when the provider said no.
    attempt        integer NOT NULL DEFAULT 1 CONSTRAINT refund_legs_attempts_from_one CHECK (attempt >= 1),
    -- Calls made in all attempts.
    calls          integer NOT NULL DEFAULT 0,
    failure_reason text    NOT NULL DEFAULT '',
    -- The entry that booked its payment, while it is paid.
    paid_entry     uuid,
    -- True while others were told that it succeeded.
    told           boolean NOT NULL DEFAULT false,
    CONSTRAINT refund_legs_one_per_payment UNIQUE (refund_id, payment_id),
    CONSTRAINT refund_legs_booked_while_paid CHECK ((state = 'SUCCEEDED') = (paid_entry IS NOT NULL))
) WITH (fillfactor = 80);

-- What was asked of a provider, per attempt of a leg. The row is committed before the call (R-2).
CREATE TABLE leg_attempts (
    leg_id             uuid        NOT NULL REFERENCES refund_legs,
    attempt            integer     NOT NULL,
    merchant_id        uuid        NOT NULL,
    store_id           uuid        NOT NULL,
    provider           text        NOT NULL,
    -- The provider's idempotency key of every call of this attempt.
    provider_key       text        NOT NULL CONSTRAINT leg_attempts_key_once UNIQUE,
    -- The provider's id of the refund; null before it told one.
    provider_refund_id text,
    calls              integer     NOT NULL,
    first_called_at    timestamptz,
    last_called_at     timestamptz,
    PRIMARY KEY (leg_id, attempt),
    -- R-4: a refund of a provider is one attempt of one leg. Within a store, for some providers number per shop.
    CONSTRAINT leg_attempts_provider_refund_once UNIQUE (merchant_id, store_id, provider, provider_refund_id)
);

-- Money that moved against what we hold. Each is taken off what can still be paid back, and waits for a person.
CREATE TABLE breaches (
    leg_id             uuid        NOT NULL REFERENCES refund_legs,
    attempt            integer     NOT NULL,
    -- Empty when the provider gave none.
    provider_refund_id text        NOT NULL,
    order_id           uuid        NOT NULL REFERENCES orders,
    amount             bigint      NOT NULL,
    detail             text        NOT NULL,
    found_at           timestamptz NOT NULL,
    -- Hearing of the same payment again is no second breach.
    PRIMARY KEY (leg_id, attempt, provider_refund_id)
);
