-- Orders: terms that never change after placement, personal data apart from them, and the state that moves.
-- Numbers like O-3 are the invariants of README.md.
--
-- Keys: ids are UUIDv7, so primary keys grow at one end. Merchant and store are part of the order's key, and of the
-- foreign keys on it: what is written about an order later can never belong to another tenant than the order itself.

CREATE TABLE orders (
    order_id              uuid        NOT NULL,
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,

    -- Terms: written once (trigger "frozen" below). Amounts are minor units of "currency".
    number                text        COLLATE "C" NOT NULL,
    source_system         text        COLLATE "C" NOT NULL,
    source_external_id    text        COLLATE "C" NOT NULL,
    currency              text        COLLATE "C" NOT NULL,
    prices_include_tax    boolean     NOT NULL,
    subtotal_minor        bigint      NOT NULL,
    discounts_minor       bigint      NOT NULL,
    shipping_minor        bigint      NOT NULL,
    tax_minor             bigint      NOT NULL,
    total_minor           bigint      NOT NULL,
    -- Discounts on the order as a whole: [{"code", "title", "amount"}].
    discounts             jsonb       NOT NULL,
    locale                text        COLLATE "C" NOT NULL,
    placed_at             timestamptz NOT NULL,
    promised_ship_at      timestamptz NOT NULL,
    promised_delivery_at  timestamptz,
    presentment_currency  text        COLLATE "C",
    presentment_total     bigint,
    -- ["gift", …]
    tags                  jsonb       NOT NULL,
    -- Lines and shipping lines: a page of orders is cut by what it weighs.
    line_count            integer     NOT NULL,
    -- By this server's clock; placed_at may lie years back in an import.
    created_at            timestamptz NOT NULL,

    -- State that this service decides. A change of it is an event in the log and counts the version up (trigger "guard").
    status                text        COLLATE "C" NOT NULL,
    cancel_reason         text        NOT NULL DEFAULT '',
    authorized_minor      bigint      NOT NULL DEFAULT 0,
    voided_minor          bigint      NOT NULL DEFAULT 0,
    captured_minor        bigint      NOT NULL DEFAULT 0,
    payments              integer     NOT NULL DEFAULT 0,

    -- State that other services tell, kept by the fold.
    units_to_ship         bigint      NOT NULL,
    units_shipped         bigint      NOT NULL DEFAULT 0,
    units_delivered       bigint      NOT NULL DEFAULT 0,
    refunded_minor        bigint      NOT NULL DEFAULT 0,
    return_status         text        COLLATE "C" NOT NULL DEFAULT 'NONE',

    -- Follow from the sums above; kept as columns so that lists can filter by them.
    payment_status        text        COLLATE "C" NOT NULL,
    fulfillment_status    text        COLLATE "C" NOT NULL,

    updated_at            timestamptz NOT NULL,
    version               bigint      NOT NULL DEFAULT 1,
    -- Where in the log the last event of this row stands.
    log_generation        bigint      NOT NULL DEFAULT log_generation(),
    log_xid               xid8        NOT NULL DEFAULT pg_current_xact_id(),

    PRIMARY KEY (order_id, merchant_id, store_id),
    -- O-8: one order per source, however often and by how many callers at once it is handed in.
    CONSTRAINT orders_source_once UNIQUE (merchant_id, store_id, source_system, source_external_id),
    -- O-9: a number names one order of a store.
    CONSTRAINT orders_number_once UNIQUE (merchant_id, store_id, number),

    -- O-1, once more where nobody can forget it: what the customer pays is what the parts sum to.
    CONSTRAINT orders_totals_add_up CHECK (
        total_minor = subtotal_minor - discounts_minor + shipping_minor + CASE WHEN prices_include_tax THEN 0 ELSE tax_minor END),
    CONSTRAINT orders_amounts_not_negative CHECK (
        subtotal_minor >= 0 AND discounts_minor >= 0 AND shipping_minor >= 0 AND tax_minor >= 0 AND total_minor >= 0),
    CONSTRAINT orders_presentment_whole CHECK (
        (presentment_currency IS NULL) = (presentment_total IS NULL) AND presentment_total >= 0),
    -- O-3: an end has its reason. A cancelled order says why; a completed one is paid and delivered.
    CONSTRAINT orders_cancelled_says_why CHECK ((status = 'CANCELLED') = (cancel_reason <> '')),
    CONSTRAINT orders_completed_is_done CHECK (
        status <> 'COMPLETED' OR (captured_minor >= total_minor AND units_delivered >= units_to_ship)),
    -- O-4: never more captured than the order costs, never more given back than was authorised. What went back is told
    -- by the refund service and may exceed what was captured: a refund made outside must be seen, not refused.
    CONSTRAINT orders_money_within_bounds CHECK (
        captured_minor BETWEEN 0 AND total_minor AND voided_minor BETWEEN 0 AND authorized_minor AND refunded_minor >= 0),
    -- O-5: nothing arrives that was not shipped, nothing ships that was not ordered.
    CONSTRAINT orders_units_within_bounds CHECK (
        0 <= units_delivered AND units_delivered <= units_shipped AND units_shipped <= units_to_ship),
    CONSTRAINT orders_status_known CHECK (status IN ('OPEN', 'ON_HOLD', 'CANCELLED', 'COMPLETED')),
    CONSTRAINT orders_payment_status_known CHECK (payment_status IN
        ('PENDING', 'AUTHORIZED', 'PARTIALLY_PAID', 'PAID', 'PARTIALLY_REFUNDED', 'REFUNDED', 'VOIDED')),
    CONSTRAINT orders_fulfillment_status_known CHECK (fulfillment_status IN
        ('UNFULFILLED', 'PARTIALLY_FULFILLED', 'FULFILLED', 'PARTIALLY_DELIVERED', 'DELIVERED')),
    CONSTRAINT orders_return_status_known CHECK (return_status IN ('NONE', 'REQUESTED', 'IN_PROGRESS', 'RETURNED'))
) WITH (
    -- An order is updated some ten times in its life. No column that those updates change is indexed (but for "status",
    -- twice a life, by the partial index below), so with room on the page they touch no index at all.
    fillfactor = 80
);

-- Lists are newest first. A filter by facet reads along this index and looks at a bounded number of orders per page.
CREATE INDEX orders_newest ON orders (merchant_id, store_id, placed_at DESC, order_id DESC);
-- What is still to be worked on is a small part of all orders and the part that is asked for most.
CREATE INDEX orders_unfinished ON orders (merchant_id, store_id, placed_at DESC, order_id DESC)
    WHERE status IN ('OPEN', 'ON_HOLD');

-- The guard of the log (see the migrations of the events crate) keeps version and log place, but only for changes that
-- this service tells in its log: O-7, each version of an order has an event. Were the version to count what the fold
-- takes over from other services, a caller could hand another service a min_order_version that no event will ever
-- reach. Every UPDATE of the use cases sets "status"; no UPDATE of the fold's project does.
CREATE TRIGGER guard BEFORE UPDATE OF status, cancel_reason, authorized_minor, voided_minor, captured_minor, payments
    ON orders FOR EACH ROW EXECUTE FUNCTION guard_log_order();

-- O-2: what was agreed is never rewritten.
CREATE FUNCTION refuse_new_terms() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the terms of an order are frozen: % of % refused', TG_OP, TG_TABLE_NAME USING ERRCODE = 'check_violation';
END
$$;
CREATE TRIGGER frozen BEFORE UPDATE OF order_id, merchant_id, store_id, number, source_system, source_external_id, currency,
        prices_include_tax, subtotal_minor, discounts_minor, shipping_minor, tax_minor, total_minor, discounts, locale,
        placed_at, promised_ship_at, promised_delivery_at, presentment_currency, presentment_total, tags, line_count,
        created_at, units_to_ship
    ON orders FOR EACH ROW EXECUTE FUNCTION refuse_new_terms();

-- The goods of an order.
--
-- No foreign key here, on shipping and on contacts: their rows are written once, by the very statement that writes the
-- order, with the same values. To look each of them up again would cost 40 % of all placements. Tables that are written
-- later have one.
CREATE TABLE order_lines (
    order_id              uuid        NOT NULL,
    line_id               uuid        NOT NULL,
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    -- From 0, as the caller gave them.
    position              integer     NOT NULL,
    sku                   text        COLLATE "C" NOT NULL,
    title                 text        NOT NULL,
    quantity              integer     NOT NULL,
    unit_price_minor      bigint      NOT NULL,
    category              text        NOT NULL,
    final_sale            boolean     NOT NULL,
    digital               boolean     NOT NULL,
    attributes            jsonb       NOT NULL,
    discounts             jsonb       NOT NULL,
    order_discount_minor  bigint      NOT NULL,
    taxes                 jsonb       NOT NULL,
    net_minor             bigint      NOT NULL,
    total_minor           bigint      NOT NULL,
    -- Kept by the fold, from shipments of the fulfillment service.
    units_shipped         integer     NOT NULL DEFAULT 0,
    units_delivered       integer     NOT NULL DEFAULT 0,

    PRIMARY KEY (order_id, line_id),
    CONSTRAINT order_lines_quantity_positive CHECK (quantity > 0),
    -- O-1: no line costs less than nothing, and tax is part of what is paid.
    CONSTRAINT order_lines_amounts_sound CHECK (
        unit_price_minor >= 0 AND order_discount_minor >= 0 AND net_minor >= 0 AND total_minor >= net_minor),
    -- O-5 per line; what is digital is never shipped.
    CONSTRAINT order_lines_units_within_bounds CHECK (
        0 <= units_delivered AND units_delivered <= units_shipped
        AND units_shipped <= CASE WHEN digital THEN 0 ELSE quantity END)
) WITH (fillfactor = 90);

CREATE TRIGGER frozen BEFORE UPDATE OF order_id, line_id, merchant_id, store_id, position, sku, title, quantity,
        unit_price_minor, category, final_sale, digital, attributes, discounts, order_discount_minor, taxes, net_minor, total_minor
    ON order_lines FOR EACH ROW EXECUTE FUNCTION refuse_new_terms();

-- The shipping of an order.
CREATE TABLE order_shipping_lines (
    order_id              uuid        NOT NULL,
    line_id               uuid        NOT NULL,
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    position              integer     NOT NULL,
    title                 text        NOT NULL,
    price_minor           bigint      NOT NULL,
    discounts             jsonb       NOT NULL,
    taxes                 jsonb       NOT NULL,
    net_minor             bigint      NOT NULL,
    total_minor           bigint      NOT NULL,

    PRIMARY KEY (order_id, line_id),
    CONSTRAINT order_shipping_lines_amounts_sound CHECK (
        price_minor >= 0 AND net_minor >= 0 AND total_minor >= net_minor)
);

CREATE TRIGGER frozen BEFORE UPDATE ON order_shipping_lines FOR EACH ROW EXECUTE FUNCTION refuse_new_terms();

-- All personal data of an order, and nothing else (O-10): forgetting a person is deleting rows of this table.
CREATE TABLE order_contacts (
    order_id              uuid        NOT NULL,
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    -- The pseudonym that events carry, so that all orders of a person can be found when they ask; empty for guests
    -- without an address.
    customer_key          text        COLLATE "C" NOT NULL,
    customer_external_id  text        NOT NULL,
    email                 text        NOT NULL,
    name                  text        NOT NULL,
    phone                 text        NOT NULL,
    -- {"name", "company", "lines", "city", "region", "postal_code", "country_code", "phone"}
    shipping_address      jsonb,
    billing_address       jsonb,

    PRIMARY KEY (order_id)
);

-- What payment providers did. Append only by use: a wrong record is answered by a further one.
CREATE TABLE order_payments (
    order_id              uuid        NOT NULL,
    -- From 1, in the order they were recorded.
    sequence              integer     NOT NULL,
    payment_id            uuid        NOT NULL,
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    kind                  text        COLLATE "C" NOT NULL,
    provider              text        COLLATE "C" NOT NULL,
    provider_payment_id   text        COLLATE "C" NOT NULL,
    amount_minor          bigint      NOT NULL,
    occurred_at           timestamptz NOT NULL,

    PRIMARY KEY (order_id, sequence),
    FOREIGN KEY (order_id, merchant_id, store_id) REFERENCES orders,
    -- O-11: a provider's payment counts once, whether it is told by a webhook, an answer or an import.
    CONSTRAINT order_payments_once UNIQUE (merchant_id, store_id, provider, provider_payment_id, kind),
    CONSTRAINT order_payments_amount_positive CHECK (amount_minor > 0),
    CONSTRAINT order_payments_kind_known CHECK (kind IN ('authorization', 'capture', 'void'))
);

-- Where numbers come from, one row per store.
CREATE TABLE order_counters (
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    -- The last number assigned. Numbers of refused orders are not given again: gaps are fine, repeats are not.
    last                  bigint      NOT NULL,
    -- The highest plain number that a caller brought along: assigned ones begin above it and so never meet it (O-9).
    brought               bigint      NOT NULL,

    PRIMARY KEY (merchant_id, store_id)
) WITH (fillfactor = 50);

-- Secrets that nobody configured. They lie beside the data they protect outsiders from reading out of events and figures;
-- who can read this table can read the contacts themselves.
CREATE TABLE order_secrets (
    name                  text        COLLATE "C" PRIMARY KEY,
    value                 text        NOT NULL
);
