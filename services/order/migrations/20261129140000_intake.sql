-- Imports, sums as the customer saw them, and whether a customer is new.

-- Imports of files (ImportOrders): how far each has come, so that a stream that broke is taken up where it was. Place and
-- counts move together, by one statement, and forward only (O-20).
CREATE TABLE order_imports (
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    -- The caller's key.
    import_id             text        COLLATE "C" NOT NULL,
    format                text        COLLATE "C" NOT NULL,
    -- What callers said about the file; the first who says something is believed, others are compared with it.
    size_bytes            bigint,
    sha256                text        COLLATE "C" NOT NULL,
    -- The header of a CSV, which a stream that goes on in the middle does not see. Names of columns, nothing personal.
    header                bytea       NOT NULL DEFAULT '',
    -- Counts the openings. A stream moves the import on only while it is the one that opened it last.
    epoch                 bigint      NOT NULL DEFAULT 1,
    is_done               boolean     NOT NULL DEFAULT false,
    bytes_done            bigint      NOT NULL DEFAULT 0,
    lines_done            bigint      NOT NULL DEFAULT 0,
    row_count             bigint      NOT NULL DEFAULT 0,
    placed                bigint      NOT NULL DEFAULT 0,
    duplicates            bigint      NOT NULL DEFAULT 0,
    refused               bigint      NOT NULL DEFAULT 0,
    payments              bigint      NOT NULL DEFAULT 0,
    payments_refused      bigint      NOT NULL DEFAULT 0,
    created_at            timestamptz NOT NULL,
    updated_at            timestamptz NOT NULL,

    PRIMARY KEY (merchant_id, store_id, import_id),
    CONSTRAINT order_imports_format_known CHECK (format IN ('shopify_csv', 'json_lines')),
    -- O-20: every order stands on a row of its own, and at most one payment beside it.
    CONSTRAINT order_imports_counts_add_up CHECK (
        placed >= 0 AND duplicates >= 0 AND refused >= 0 AND payments >= 0 AND payments_refused >= 0
        AND placed + duplicates + refused <= row_count AND payments + payments_refused <= placed + duplicates),
    CONSTRAINT order_imports_within_file CHECK (
        bytes_done >= 0 AND lines_done >= 0 AND (size_bytes IS NULL OR bytes_done <= size_bytes))
);

-- O-20: what was durable stays so.
CREATE FUNCTION refuse_import_backwards() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an import only moves on: UPDATE of order_imports refused' USING ERRCODE = 'check_violation';
END
$$;
CREATE TRIGGER forward_only BEFORE UPDATE ON order_imports FOR EACH ROW
    WHEN (NEW.bytes_done < OLD.bytes_done OR NEW.lines_done < OLD.lines_done OR NEW.row_count < OLD.row_count
          OR NEW.epoch < OLD.epoch OR (OLD.is_done AND (NOT NEW.is_done OR NEW.bytes_done <> OLD.bytes_done)))
    EXECUTE FUNCTION refuse_import_backwards();

-- The lines that were refused: where they are and why, and nothing of what stands in them, for that may name people (O-10).
CREATE TABLE order_import_refusals (
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    import_id             text        COLLATE "C" NOT NULL,
    line                  bigint      NOT NULL,
    reason                text        COLLATE "C" NOT NULL,
    fields                text        NOT NULL,

    PRIMARY KEY (merchant_id, store_id, import_id, line),
    FOREIGN KEY (merchant_id, store_id, import_id) REFERENCES order_imports
);

-- The sums as the customer saw them, in the presentment currency: {"subtotal", "discounts", "shipping", "tax"}; their total
-- is presentment_total. They are terms, and as frozen as those (O-2).
ALTER TABLE orders ADD COLUMN presentment_sums jsonb;
ALTER TABLE orders ADD CONSTRAINT orders_presentment_sums_add_up CHECK (
    presentment_sums IS NULL
    OR (presentment_total IS NOT NULL
        AND presentment_total = (presentment_sums ->> 'subtotal')::bigint - (presentment_sums ->> 'discounts')::bigint
            + (presentment_sums ->> 'shipping')::bigint
            + CASE WHEN prices_include_tax THEN 0 ELSE (presentment_sums ->> 'tax')::bigint END)) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_presentment_sums_add_up;
CREATE TRIGGER frozen_presentment BEFORE UPDATE OF presentment_sums
    ON orders FOR EACH ROW EXECUTE FUNCTION refuse_new_terms();

-- Whether a customer of a merchant has ordered before: asked at placement where a rule for new customers is set.
CREATE INDEX order_contacts_customer_key ON order_contacts (merchant_id, customer_key, order_id)
    WHERE customer_key <> '';
