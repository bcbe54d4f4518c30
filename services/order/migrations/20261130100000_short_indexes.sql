-- What many orders share stands in an index once.
--
-- An index entry that ends with the order is like no other. Without it Postgres keeps one entry for all rows of the same key
-- and a list of where they are ("deduplication", 6 bytes a row): a customer's second order adds to the list of the first, and
-- a sku has one list. Nothing is lost: what these indexes find is read and sorted anyway. Their order is still used, to
-- stop when enough was found.
--
-- Building them keeps writers waiting; five million orders take a minute.
DROP INDEX order_lines_sku, order_contacts_email, order_contacts_external_id, order_contacts_name, order_contacts_last_name,
           order_contacts_customer_key;

CREATE INDEX order_lines_sku ON order_lines (merchant_id, store_id, lower(sku));
CREATE INDEX order_contacts_email ON order_contacts (merchant_id, store_id, (lower(email) COLLATE "C")) WHERE email <> '';
CREATE INDEX order_contacts_external_id ON order_contacts (merchant_id, store_id, (customer_external_id COLLATE "C"))
    WHERE customer_external_id <> '';
CREATE INDEX order_contacts_name ON order_contacts (merchant_id, store_id, (lower(name) COLLATE "C")) WHERE name <> '';
CREATE INDEX order_contacts_last_name
    ON order_contacts (merchant_id, store_id, (lower(split_part(rtrim(name), ' ', -1)) COLLATE "C")) WHERE name LIKE '% %';
CREATE INDEX order_contacts_customer_key ON order_contacts (merchant_id, customer_key) WHERE customer_key <> '';
