-- The indexes that those of the last migration replace.
DROP INDEX order_lines_sku, order_contacts_name, order_contacts_last_name, order_contacts_customer_key;
