-- Forgetting customers (EraseCustomer): which orders are to be erased, and how far that is.
--
-- Nothing here names a person, not even while it runs: the caller's words are used while the call lasts, and what is kept are
-- ids of orders. A row of order_erasure_orders goes when its order is erased, so that nothing tells afterwards which orders
-- were one person's.

CREATE TABLE order_erasures (
    erasure_id            uuid        PRIMARY KEY,
    merchant_id           uuid        NOT NULL,
    -- The stores of the token it was asked with; empty: all of the merchant.
    store_ids             uuid[]      NOT NULL,
    requested_at          timestamptz NOT NULL,
    -- Where looking for orders goes on; none of both before the first were found.
    after_store_id        uuid,
    after_order_id        uuid,
    -- When all orders of the person had been found.
    collected_at          timestamptz,
    orders                bigint      NOT NULL DEFAULT 0,
    erased                bigint      NOT NULL DEFAULT 0,
    finished_at           timestamptz,

    CONSTRAINT order_erasures_count CHECK (erased BETWEEN 0 AND orders),
    -- O-33: it is done when every order of it is erased, and not before.
    CONSTRAINT order_erasures_done_is_done CHECK (finished_at IS NULL OR (collected_at IS NOT NULL AND erased = orders)),
    CONSTRAINT order_erasures_place_whole CHECK ((after_store_id IS NULL) = (after_order_id IS NULL))
);

-- The orders that are still to be erased.
CREATE TABLE order_erasure_orders (
    erasure_id            uuid        NOT NULL REFERENCES order_erasures,
    order_id              uuid        NOT NULL,
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    -- What it waits for; empty until it was looked at.
    waits_for             text        COLLATE "C" NOT NULL DEFAULT '',

    PRIMARY KEY (erasure_id, order_id),
    FOREIGN KEY (order_id, merchant_id, store_id) REFERENCES orders,
    CONSTRAINT order_erasure_orders_wait_known CHECK (waits_for IN ('', 'OPEN', 'ON_HOLD', 'RETURN', 'REFUND'))
);

-- Pseudonyms that are used no more, each with the random one that is used instead (O-34). A pseudonym is a keyed hash of the
-- person, so the same person would get the same one again, and what was erased could be put beside what is new.
CREATE TABLE order_pseudonyms (
    merchant_id           uuid        NOT NULL,
    -- The keyed hash.
    customer_key          text        COLLATE "C" NOT NULL,
    successor             text        COLLATE "C" NOT NULL,

    PRIMARY KEY (merchant_id, customer_key),
    CONSTRAINT order_pseudonyms_successor_once UNIQUE (merchant_id, successor)
);
