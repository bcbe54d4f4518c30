-- Holds: why an order is stopped. Several may be open at once.

CREATE TABLE order_holds (
    order_id              uuid        NOT NULL,
    hold_id               uuid        NOT NULL,
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    reason                text        COLLATE "C" NOT NULL,
    -- The rule of the settings that put it there; empty when it was a caller.
    rule                  text        COLLATE "C" NOT NULL,
    note                  text        NOT NULL,
    held_at               timestamptz NOT NULL,
    -- The order's versions at which it began and ended: answers of before are made again from them (O-13).
    held_version          bigint      NOT NULL,
    released_at           timestamptz,
    released_version      bigint,
    release_note          text        NOT NULL DEFAULT '',

    PRIMARY KEY (order_id, hold_id),
    FOREIGN KEY (order_id, merchant_id, store_id) REFERENCES orders,
    CONSTRAINT order_holds_reason_known CHECK (reason IN ('address', 'payment_review', 'fraud', 'awaiting_stock', 'manual')),
    CONSTRAINT order_holds_release_whole CHECK ((released_at IS NULL) = (released_version IS NULL)),
    CONSTRAINT order_holds_end_after_begin CHECK (released_version > held_version)
);

-- How many are open, on the row that every change of the order locks: counted elsewhere, two releases at once would each
-- believe that the other's hold is still open.
ALTER TABLE orders ADD COLUMN open_holds integer NOT NULL DEFAULT 0;
-- O-15: ON_HOLD means that a hold is open, and OPEN that none is. What has ended may keep a count: a version of this service
-- that knows no holds can still cancel an order.
ALTER TABLE orders ADD CONSTRAINT orders_on_hold_has_holds CHECK (
    open_holds >= 0 AND (status <> 'ON_HOLD' OR open_holds > 0) AND (status <> 'OPEN' OR open_holds = 0)) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_on_hold_has_holds;
