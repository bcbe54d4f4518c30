-- One row an order, one a refund, one a return, one a notification: facts, as the events tell them. Every figure is a
-- query over these rows, so it cannot drift from them, and the rows can be recomputed from the logs.
--
-- Amounts are minor units of the currency. No personal data: events carry none.

CREATE TABLE order_facts (
    order_id        uuid PRIMARY KEY,
    merchant_id     uuid NOT NULL,
    store_id        uuid NOT NULL,
    currency_code   text NOT NULL CHECK (currency_code ~ '^[A-Z]{3}$'),
    placed_at       timestamptz NOT NULL,
    units           bigint NOT NULL CHECK (units >= 0),
    gross_minor     bigint NOT NULL,
    net_minor       bigint NOT NULL,
    discounts_minor bigint NOT NULL,
    tax_minor       bigint NOT NULL,
    shipping_minor  bigint NOT NULL,
    source_system   text NOT NULL,
    ship_country    text NOT NULL,
    cancelled_at    timestamptz,
    completed_at    timestamptz,
    -- When the first shipment left, and when the last one arrived.
    shipped_at      timestamptz,
    delivered_at    timestamptz
);
-- A period of one store: every figure begins here.
CREATE INDEX order_facts_period ON order_facts (merchant_id, store_id, placed_at);
-- What has not ended is few, however many orders there are.
CREATE INDEX order_facts_open ON order_facts (merchant_id, store_id, placed_at)
    WHERE cancelled_at IS NULL AND completed_at IS NULL;
CREATE INDEX order_facts_shipped ON order_facts (merchant_id, store_id, shipped_at) WHERE shipped_at IS NOT NULL;
CREATE INDEX order_facts_delivered ON order_facts (merchant_id, store_id, delivered_at) WHERE delivered_at IS NOT NULL;

CREATE TABLE refund_facts (
    refund_id     uuid PRIMARY KEY,
    merchant_id   uuid NOT NULL,
    store_id      uuid NOT NULL,
    order_id      uuid NOT NULL,
    currency_code text NOT NULL CHECK (currency_code ~ '^[A-Z]{3}$'),
    amount_minor  bigint NOT NULL CHECK (amount_minor >= 0),
    reason        text NOT NULL,
    created_at    timestamptz NOT NULL,
    -- Set while the refund stands; taken away again when the bank refuses it later.
    succeeded_at  timestamptz
);
CREATE INDEX refund_facts_order ON refund_facts (order_id) WHERE succeeded_at IS NOT NULL;
CREATE INDEX refund_facts_period ON refund_facts (merchant_id, store_id, succeeded_at) WHERE succeeded_at IS NOT NULL;

CREATE TABLE return_facts (
    return_id    uuid PRIMARY KEY,
    merchant_id  uuid NOT NULL,
    store_id     uuid NOT NULL,
    order_id     uuid NOT NULL,
    requested_at timestamptz NOT NULL,
    completed_at timestamptz
);
CREATE INDEX return_facts_period ON return_facts (merchant_id, store_id, completed_at) WHERE completed_at IS NOT NULL;

CREATE TABLE notification_facts (
    notification_id uuid PRIMARY KEY,
    merchant_id     uuid NOT NULL,
    store_id        uuid NOT NULL,
    order_id        uuid NOT NULL,
    stage           text NOT NULL,
    -- "sent", "suppressed" or "failed".
    outcome         text NOT NULL CHECK (outcome IN ('sent', 'suppressed', 'failed')),
    decided_at      timestamptz NOT NULL
);
CREATE INDEX notification_facts_sent ON notification_facts (merchant_id, store_id, decided_at) WHERE outcome = 'sent';
