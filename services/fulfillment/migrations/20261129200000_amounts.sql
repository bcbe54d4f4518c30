-- Projection: what is to be paid for orders, and with which amounts. None of it is known of what was told before: until the
-- projection is built again, an order that lacks an amount may ship with any capture, or more authorisations than voids.

-- What was to be paid when the order was placed or last edited, in minor units, and in which version.
ALTER TABLE orders ADD COLUMN due_minor bigint, ADD COLUMN due_version bigint;

-- A provider's payment: what is captured and voided of it is no longer set aside.
ALTER TABLE order_payments
    ADD COLUMN provider text COLLATE "C",
    ADD COLUMN provider_payment_id text COLLATE "C",
    ADD COLUMN amount_minor bigint;

-- Cancelled units of orders that go on, also those that an edit removed. Kept one by one and not as a sum, so that a rebuild
-- may meet them again.
CREATE TABLE order_cancellations (
    order_id     uuid   NOT NULL REFERENCES orders ON DELETE CASCADE,
    -- The order's version with it.
    version      bigint NOT NULL,
    -- What the order costs less.
    amount_minor bigint NOT NULL,
    -- Of what was captured, what goes back for the units.
    refund_minor bigint NOT NULL,
    PRIMARY KEY (order_id, version)
);
