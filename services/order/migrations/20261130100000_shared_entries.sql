-- What many orders share stands in an index once.
--
-- An index entry that ends with the order is like no other. Without it Postgres keeps one entry for all rows of the same key
-- and a list of where they are ("deduplication", 6 bytes a row): a sku has one list, and a customer's second order adds to
-- the name of the first. What these indexes find is gathered whole and sorted, so the order in it helps nobody. Those by e-mail
-- address and customer id keep it: the orders of one customer are read part by part.
--
-- Those who write orders wait meanwhile, a minute for five million, and are told to come again; readers do not. The next
-- migration drops what these replace, so that nobody waits for both at once.
CREATE INDEX order_lines_sku_shared ON order_lines (merchant_id, store_id, lower(sku));
CREATE INDEX order_contacts_name_shared
    ON order_contacts (merchant_id, store_id, (lower(name) COLLATE "C")) WHERE name <> '';
CREATE INDEX order_contacts_last_name_shared
    ON order_contacts (merchant_id, store_id, (lower(split_part(rtrim(name), ' ', -1)) COLLATE "C")) WHERE name LIKE '% %';
CREATE INDEX order_contacts_customer_key_shared ON order_contacts (merchant_id, customer_key) WHERE customer_key <> '';
-- The planner knows of an expression only what was counted for an index that has it. Nothing is counted in a new schema: it
-- would take tables for small that are about to grow.
DO $$
BEGIN
    IF EXISTS (SELECT FROM order_lines) THEN
        ANALYZE order_lines;
        ANALYZE order_contacts;
    END IF;
END
$$;
