-- Edits of what is ordered (EditOrder). Terms stay as they were agreed (O-2): an edit adds lines beside them, frozen like
-- those of the placement, and units that go are cancelled units of their line (order_cancellations). O-23.

CREATE TABLE order_edits (
    order_id              uuid        NOT NULL,
    edit_id               uuid        NOT NULL,
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    reason                text        NOT NULL,
    -- The units that went; none when none did.
    cancellation_id       uuid,
    -- What the lines that came cost, tax included.
    added_minor           bigint      NOT NULL,
    edited_at             timestamptz NOT NULL,
    -- The order's version with it, which its lines name too: answers of before are made again from it (O-13, O-25).
    version               bigint      NOT NULL,

    PRIMARY KEY (order_id, edit_id),
    FOREIGN KEY (order_id, merchant_id, store_id) REFERENCES orders,
    CONSTRAINT order_edits_once_a_version UNIQUE (order_id, version),
    CONSTRAINT order_edits_added_not_negative CHECK (added_minor >= 0)
);

-- The version of the order that a line came with: 1 at placement, that of its edit otherwise.
ALTER TABLE order_lines ADD COLUMN added_version bigint NOT NULL DEFAULT 1;
ALTER TABLE order_lines ADD CONSTRAINT order_lines_added_version_known CHECK (added_version >= 1) NOT VALID;
ALTER TABLE order_lines VALIDATE CONSTRAINT order_lines_added_version_known;

-- What is to be paid besides the total: the sum of the lines that edits added.
ALTER TABLE orders ADD COLUMN added_minor bigint NOT NULL DEFAULT 0;
-- Of what was captured, what had been paid for units that were gone before the last edit: it goes back, and does not pay for
-- what came with it.
ALTER TABLE orders ADD COLUMN owed_back_minor bigint NOT NULL DEFAULT 0;
ALTER TABLE orders ADD CONSTRAINT orders_owed_back_was_captured
    CHECK (owed_back_minor BETWEEN 0 AND captured_minor) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_owed_back_was_captured;

-- O-2: as before, and the version of a line is frozen with it.
DROP TRIGGER frozen ON order_lines;
CREATE TRIGGER frozen BEFORE UPDATE OF order_id, line_id, merchant_id, store_id, position, sku, title, quantity,
        unit_price_minor, category, final_sale, digital, discounts, order_discount_minor, taxes, net_minor, total_minor,
        added_version
    ON order_lines FOR EACH ROW EXECUTE FUNCTION refuse_new_terms();

-- O-2: as before, without what grows by lines that are added ("line_count", "units_to_ship") …
DROP TRIGGER frozen ON orders;
CREATE TRIGGER frozen BEFORE UPDATE OF order_id, merchant_id, store_id, number, source_system, source_external_id, currency,
        prices_include_tax, subtotal_minor, discounts_minor, shipping_minor, tax_minor, total_minor, discounts, locale,
        placed_at, promised_ship_at, promised_delivery_at, presentment_currency, presentment_total, created_at
    ON orders FOR EACH ROW EXECUTE FUNCTION refuse_new_terms();
-- … and that does nothing but grow: what goes is counted beside it.
CREATE TRIGGER only_grows BEFORE UPDATE OF line_count, units_to_ship, added_minor ON orders FOR EACH ROW
    WHEN (NEW.line_count < OLD.line_count OR NEW.units_to_ship < OLD.units_to_ship OR NEW.added_minor < OLD.added_minor)
    EXECUTE FUNCTION refuse_new_terms();

-- O-3, O-4, O-16: what is to be paid is the total with what was added and without what was cancelled. A capture never goes
-- beyond what the order costs at that time; units that go later may leave more captured than is due.
ALTER TABLE orders DROP CONSTRAINT orders_money_within_bounds;
ALTER TABLE orders ADD CONSTRAINT orders_money_within_bounds CHECK (
    added_minor >= 0 AND captured_minor BETWEEN 0 AND total_minor + added_minor
    AND voided_minor BETWEEN 0 AND authorized_minor AND refunded_minor >= 0) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_money_within_bounds;

ALTER TABLE orders DROP CONSTRAINT orders_cancelled_within_bounds;
ALTER TABLE orders ADD CONSTRAINT orders_cancelled_within_bounds CHECK (
    units_cancelled BETWEEN 0 AND units_to_ship AND cancelled_minor BETWEEN 0 AND total_minor + added_minor) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_cancelled_within_bounds;

ALTER TABLE orders DROP CONSTRAINT orders_completed_is_done;
ALTER TABLE orders ADD CONSTRAINT orders_completed_is_done CHECK (
    status <> 'COMPLETED'
    OR (captured_minor - owed_back_minor >= total_minor + added_minor - cancelled_minor
        AND units_delivered >= units_to_ship - units_cancelled)) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_completed_is_done;
