-- Orders that are being made (O-35): kept as they were handed in until they are placed, deleted or forgotten.
--
-- What was handed in stands in one value, as the contract's message: it is read by the rules of placement whenever somebody
-- looks at it, and those may be others tomorrow. Beside it stands what a draft is found by.

CREATE TABLE order_drafts (
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    draft_id              uuid        NOT NULL,
    version               bigint      NOT NULL DEFAULT 1,
    -- waybill.order.v1.NewOrder; gone once the draft is placed.
    content               bytea,
    currency_code         text        COLLATE "C" NOT NULL DEFAULT '',
    -- What the customer would pay; none while an amount is wrong.
    total_minor           bigint,
    -- Who would order, for export and erasure; empty once the draft is placed.
    email                 text        NOT NULL,
    customer_external_id  text        NOT NULL,
    order_id              uuid,
    created_at            timestamptz NOT NULL,
    updated_at            timestamptz NOT NULL,

    PRIMARY KEY (merchant_id, store_id, draft_id),
    FOREIGN KEY (order_id, merchant_id, store_id) REFERENCES orders,
    -- O-35: it is a draft or an order, and what was handed in stays no longer than it is needed.
    CONSTRAINT order_drafts_placed_or_open CHECK ((content IS NULL) = (order_id IS NOT NULL)),
    CONSTRAINT order_drafts_placed_names_nobody CHECK (order_id IS NULL OR (email = '' AND customer_external_id = '')),
    CONSTRAINT order_drafts_one_each UNIQUE (order_id),
    CONSTRAINT order_drafts_size CHECK (octet_length(content) <= 524288),
    CONSTRAINT order_drafts_total_has_currency CHECK (total_minor IS NULL OR currency_code <> ''),
    CONSTRAINT order_drafts_version_counts CHECK (version >= 1)
);

CREATE INDEX order_drafts_open ON order_drafts (merchant_id, store_id, draft_id) WHERE order_id IS NULL;
CREATE INDEX order_drafts_placed ON order_drafts (merchant_id, store_id, draft_id) WHERE order_id IS NOT NULL;
-- Which nobody has changed for long.
CREATE INDEX order_drafts_age ON order_drafts (updated_at);
CREATE INDEX order_drafts_email ON order_drafts (merchant_id, (lower(email) COLLATE "C"), draft_id) WHERE email <> '';
CREATE INDEX order_drafts_external_id ON order_drafts (merchant_id, (customer_external_id COLLATE "C"), draft_id)
    WHERE customer_external_id <> '';

-- O-35: what has become an order stays one.
CREATE FUNCTION order_drafts_stay_placed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'draft % has become order % and changes no more', OLD.draft_id, OLD.order_id
        USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER stay_placed BEFORE UPDATE ON order_drafts
    FOR EACH ROW WHEN (OLD.order_id IS NOT NULL) EXECUTE FUNCTION order_drafts_stay_placed();
