-- Finding orders by what few of them have: a sku, a customer, a tag, an amount, the beginning of a text.
--
-- Lists used to walk one index and look at a bounded number of orders per page, whatever the filter. That is right for what
-- many orders have in common (a status) and hopeless for what few have: at five million orders, the three orders of a
-- customer lay behind a thousand empty pages. The narrow indexes below answer the rare; the walk stays for the frequent.
-- What they cost is in the README, under "Decisions".
--
-- All begin with the tenant and end with the order, and stand on the tables themselves: what writes or erases a row needs
-- to know nothing of them, and forgetting a person is still deleting rows of order_contacts (O-10).

-- By sku: exactly, and by its beginning in upper or lower case.
CREATE INDEX order_lines_sku ON order_lines (merchant_id, store_id, lower(sku), order_id);

-- By customer. Lower case is that of the database's locale, for addresses and names may be in any script.
CREATE INDEX order_contacts_email ON order_contacts (merchant_id, store_id, (lower(email) COLLATE "C"), order_id)
    WHERE email <> '';
CREATE INDEX order_contacts_external_id
    ON order_contacts (merchant_id, store_id, (customer_external_id COLLATE "C"), order_id)
    WHERE customer_external_id <> '';
-- A name by its beginning, and by its last word, which is how most are asked for.
CREATE INDEX order_contacts_name ON order_contacts (merchant_id, store_id, (lower(name) COLLATE "C"), order_id)
    WHERE name <> '';
CREATE INDEX order_contacts_last_name
    ON order_contacts (merchant_id, store_id, (lower(split_part(rtrim(name), ' ', -1)) COLLATE "C"), order_id)
    WHERE name LIKE '% %';

-- By what they cost, in one currency: a range, and a list in this order.
CREATE INDEX orders_total ON orders (merchant_id, store_id, currency, total_minor, order_id);
-- Not by when they last changed: each change of an order would then write all its indexes again (README, "Decisions").

-- Tags stand inside the order; an index needs them as rows. Most orders have none, and so no row here.
CREATE TABLE order_tags (
    merchant_id           uuid        NOT NULL,
    store_id              uuid        NOT NULL,
    tag                   text        COLLATE "C" NOT NULL,
    order_id              uuid        NOT NULL,

    PRIMARY KEY (merchant_id, store_id, tag, order_id)
);

INSERT INTO order_tags (merchant_id, store_id, tag, order_id)
SELECT DISTINCT o.merchant_id, o.store_id, t.tag, o.order_id
FROM orders o, jsonb_array_elements_text(o.tags) AS t (tag)
WHERE o.tags <> '[]';

-- Placement writes tags with the order. Whatever changes them later (UpdateOrder) brings the rows along by this trigger.
CREATE FUNCTION move_order_tags() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM order_tags t
    WHERE (t.merchant_id, t.store_id, t.order_id) = (OLD.merchant_id, OLD.store_id, OLD.order_id)
      AND t.tag IN (SELECT jsonb_array_elements_text(OLD.tags));
    INSERT INTO order_tags (merchant_id, store_id, tag, order_id)
    SELECT DISTINCT NEW.merchant_id, NEW.store_id, n.tag, NEW.order_id
    FROM jsonb_array_elements_text(NEW.tags) AS n (tag);
    RETURN NULL;
END
$$;
CREATE TRIGGER tags_moved AFTER UPDATE OF tags ON orders
    FOR EACH ROW WHEN (OLD.tags IS DISTINCT FROM NEW.tags) EXECUTE FUNCTION move_order_tags();
