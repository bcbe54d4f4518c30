-- What other services tell about an order: a projection that the fold keeps and could build again from their logs, beside
-- the entries that this service's own use cases write with their events.

-- Every event about an order, from whichever service (O-12: once each, by the event's id).
CREATE TABLE order_timeline (
    order_id              uuid        NOT NULL,
    -- UUIDv7 of the event.
    event_id              uuid        NOT NULL,
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    service               text        COLLATE "C" NOT NULL,
    -- Full name of the event's type.
    type                  text        COLLATE "C" NOT NULL,
    -- One sentence without personal data.
    summary               text        NOT NULL,
    -- By the clock of the service that told it.
    occurred_at           timestamptz NOT NULL,
    -- 32 hex digits; empty when the event belongs to no trace.
    trace_id              text        COLLATE "C" NOT NULL,
    -- What it is about besides the order.
    subject_id            uuid,

    PRIMARY KEY (order_id, event_id),
    FOREIGN KEY (order_id, merchant_id, store_id) REFERENCES orders
);

-- Where each return of an order stands; the order's return_status follows from these.
CREATE TABLE order_returns (
    order_id              uuid        NOT NULL,
    return_id             uuid        NOT NULL,
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    stage                 text        COLLATE "C" NOT NULL,

    PRIMARY KEY (order_id, return_id),
    FOREIGN KEY (order_id, merchant_id, store_id) REFERENCES orders,
    CONSTRAINT order_returns_stage_known CHECK (stage IN ('REQUESTED', 'IN_PROGRESS', 'DECLINED', 'COMPLETED'))
);
