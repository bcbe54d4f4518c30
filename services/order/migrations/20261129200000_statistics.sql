-- No statistics of what no statement looks for.
--
-- ANALYZE sorts the values that it has sampled of each column, and documents are compared piece by piece: while orders came
-- in at full speed, a sixth of all that the server did was this. Nothing is found by these columns, so the planner asks
-- nothing about them. (Tags are found by `order_tags`.)
ALTER TABLE orders
    ALTER COLUMN discounts SET STATISTICS 0,
    ALTER COLUMN tags SET STATISTICS 0,
    ALTER COLUMN attributes SET STATISTICS 0,
    ALTER COLUMN presentment_sums SET STATISTICS 0;
ALTER TABLE order_lines
    ALTER COLUMN attributes SET STATISTICS 0,
    ALTER COLUMN discounts SET STATISTICS 0,
    ALTER COLUMN taxes SET STATISTICS 0;
ALTER TABLE order_shipping_lines
    ALTER COLUMN discounts SET STATISTICS 0,
    ALTER COLUMN taxes SET STATISTICS 0;
ALTER TABLE order_contacts
    ALTER COLUMN shipping_address SET STATISTICS 0,
    ALTER COLUMN billing_address SET STATISTICS 0;
