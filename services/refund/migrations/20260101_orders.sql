-- What this service knows of orders and their payments, and the money that may still go back.
-- Names are unqualified: the schema of the service is the search path.

-- One row per order: its row lock is the only place where money of the order is promised (R-1).
CREATE TABLE orders (
    order_id       uuid        PRIMARY KEY,
    merchant_id    uuid        NOT NULL,
    store_id       uuid        NOT NULL,
    -- ISO 4217; all amounts below and of its lines, payments and refunds are minor units of it.
    currency       text        NOT NULL CONSTRAINT orders_currency_is_code CHECK (currency ~ '^[A-Z]{3}$'),
    -- ISO 3166-1 alpha-2; empty when nothing ships.
    ship_country   text        NOT NULL,
    placed_at      timestamptz NOT NULL,
    -- The policy in force at placement, frozen as soon as it is known.
    policy_version integer,
    -- The order's own version that was seen last.
    seen_version   bigint      NOT NULL,
    cancelled_at   timestamptz,
    captured       bigint      NOT NULL DEFAULT 0 CONSTRAINT orders_captured_not_negative CHECK (captured >= 0),
    succeeded      bigint      NOT NULL DEFAULT 0 CONSTRAINT orders_succeeded_not_negative CHECK (succeeded >= 0),
    in_flight      bigint      NOT NULL DEFAULT 0 CONSTRAINT orders_in_flight_not_negative CHECK (in_flight >= 0),
    -- What left behind our back. It lowers what may be promised but is no part of the constraint below: what happened
    -- outside must always be recorded, also when it is a breach.
    outside        bigint      NOT NULL DEFAULT 0 CONSTRAINT orders_outside_not_negative CHECK (outside >= 0),
    version        bigint      NOT NULL DEFAULT 1,
    log_generation bigint      NOT NULL DEFAULT log_generation(),
    log_xid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    -- R-1, said again by the database: we never promise more than was captured.
    CONSTRAINT orders_never_promise_more_than_captured CHECK (captured - succeeded - in_flight >= 0)
) WITH (fillfactor = 80);

-- Events tell the sum that went back of an order; they must stand in the log in the order in which the sum changed.
CREATE TRIGGER guard BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION guard_log_order();

-- Lines as they were frozen at placement. Never updated: amounts are cut from here and nowhere else.
CREATE TABLE order_lines (
    line_id    uuid     PRIMARY KEY,
    order_id   uuid     NOT NULL REFERENCES orders,
    position   integer  NOT NULL,
    -- 'goods' or 'shipping'; shipping is a line of one unit.
    kind       text     NOT NULL CONSTRAINT order_lines_kind_known CHECK (kind IN ('goods', 'shipping')),
    sku        text     NOT NULL,
    category   text     NOT NULL,
    final_sale boolean  NOT NULL,
    digital    boolean  NOT NULL,
    quantity   integer  NOT NULL CONSTRAINT order_lines_have_units CHECK (quantity > 0),
    -- Without tax, after all discounts.
    net        bigint   NOT NULL CONSTRAINT order_lines_net_not_negative CHECK (net >= 0),
    -- One per jurisdiction, in the order of placement.
    taxes      bigint[] NOT NULL CONSTRAINT order_lines_taxes_not_negative CHECK (0 <= ALL (taxes)),
    -- True when prices contained tax: then the gross is what is cut evenly.
    inclusive  boolean  NOT NULL,
    CONSTRAINT order_lines_shipping_is_one_unit CHECK (kind = 'goods' OR quantity = 1),
    -- So that a claim can name the quantity its units must fit into.
    CONSTRAINT order_lines_quantity_of UNIQUE (line_id, quantity)
);
CREATE INDEX order_lines_by_order ON order_lines (order_id, position);

-- What was shipped and delivered of each line, per shipment: a repeated event changes nothing.
CREATE TABLE shipped_units (
    shipment_id  uuid        NOT NULL,
    line_id      uuid        NOT NULL,
    order_id     uuid        NOT NULL REFERENCES orders,
    quantity     integer     NOT NULL CONSTRAINT shipped_units_some CHECK (quantity > 0),
    shipped_at   timestamptz,
    delivered_at timestamptz,
    PRIMARY KEY (shipment_id, line_id)
);
CREATE INDEX shipped_units_by_order ON shipped_units (order_id);

-- Payments that captured money. The balance of each is capped like the order's: a refund over several payments gives
-- back to each at most what it took.
CREATE TABLE payments (
    payment_id          uuid        PRIMARY KEY,
    order_id            uuid        NOT NULL REFERENCES orders,
    provider            text        NOT NULL,
    provider_payment_id text        NOT NULL,
    captured_at         timestamptz NOT NULL,
    captured            bigint      NOT NULL CONSTRAINT payments_captured_not_negative CHECK (captured >= 0),
    succeeded           bigint      NOT NULL DEFAULT 0 CONSTRAINT payments_succeeded_not_negative CHECK (succeeded >= 0),
    in_flight           bigint      NOT NULL DEFAULT 0 CONSTRAINT payments_in_flight_not_negative CHECK (in_flight >= 0),
    outside             bigint      NOT NULL DEFAULT 0 CONSTRAINT payments_outside_not_negative CHECK (outside >= 0),
    -- R-1 per payment.
    CONSTRAINT payments_never_promise_more_than_captured CHECK (captured - succeeded - in_flight >= 0)
) WITH (fillfactor = 80);
CREATE INDEX payments_by_order ON payments (order_id, captured_at, payment_id);
