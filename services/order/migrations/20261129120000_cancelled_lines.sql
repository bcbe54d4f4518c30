-- Cancellations of units of lines (CancelOrderLines). Terms stay as they were agreed (O-2); what was cancelled of them stands
-- beside them.

CREATE TABLE order_cancellations (
    order_id              uuid        NOT NULL,
    cancellation_id       uuid        NOT NULL,
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    reason                text        NOT NULL,
    restock               boolean     NOT NULL,
    -- [{"line", "first", "units", "net", "tax"}]: which units, and what their slots cost (O-16).
    lines                 jsonb       NOT NULL,
    cancelled_at          timestamptz NOT NULL,
    -- The order's version with it: answers of before are made again from it (O-13).
    version               bigint      NOT NULL,

    PRIMARY KEY (order_id, cancellation_id),
    FOREIGN KEY (order_id, merchant_id, store_id) REFERENCES orders,
    CONSTRAINT order_cancellations_cancel_something CHECK (jsonb_array_length(lines) > 0)
);

-- O-16: no unit is cancelled twice, nor one that the line does not have. That none has shipped is decided under the order's
-- lock; a parcel that was on its way out meanwhile is recorded all the same, so it is no constraint.
ALTER TABLE order_lines ADD COLUMN units_cancelled integer NOT NULL DEFAULT 0;
ALTER TABLE order_lines ADD CONSTRAINT order_lines_cancelled_within_bounds
    CHECK (units_cancelled BETWEEN 0 AND quantity) NOT VALID;
ALTER TABLE order_lines VALIDATE CONSTRAINT order_lines_cancelled_within_bounds;

-- Of the units that need shipping, and of the total.
ALTER TABLE orders ADD COLUMN units_cancelled bigint NOT NULL DEFAULT 0;
ALTER TABLE orders ADD COLUMN cancelled_minor bigint NOT NULL DEFAULT 0;
ALTER TABLE orders ADD CONSTRAINT orders_cancelled_within_bounds CHECK (
    units_cancelled BETWEEN 0 AND units_to_ship AND cancelled_minor BETWEEN 0 AND total_minor) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_cancelled_within_bounds;

-- O-3: a completed order is paid and delivered, as far as it was not cancelled.
ALTER TABLE orders DROP CONSTRAINT orders_completed_is_done;
ALTER TABLE orders ADD CONSTRAINT orders_completed_is_done CHECK (
    status <> 'COMPLETED'
    OR (captured_minor >= total_minor - cancelled_minor AND units_delivered >= units_to_ship - units_cancelled)) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_completed_is_done;
