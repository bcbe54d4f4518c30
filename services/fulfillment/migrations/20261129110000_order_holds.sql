-- Projection: holds of orders. Kept one by one and not as a count, so that a rebuild may meet them again: an ended hold
-- stays ended.
CREATE TABLE order_holds (
    order_id uuid    NOT NULL REFERENCES orders ON DELETE CASCADE,
    hold_id  uuid    NOT NULL,
    released boolean NOT NULL DEFAULT false,
    PRIMARY KEY (order_id, hold_id)
);
