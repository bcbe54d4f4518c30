-- What may change about an order after its placement (UpdateOrder): tags and attributes. Terms stay frozen (O-2).
ALTER TABLE orders ADD COLUMN attributes jsonb NOT NULL DEFAULT '{}';

-- The note of the merchant may name people, so it stands with the contact and is forgotten with it (O-10).
ALTER TABLE order_contacts ADD COLUMN note text NOT NULL DEFAULT '';

-- As before, without "tags".
DROP TRIGGER frozen ON orders;
CREATE TRIGGER frozen BEFORE UPDATE OF order_id, merchant_id, store_id, number, source_system, source_external_id, currency,
        prices_include_tax, subtotal_minor, discounts_minor, shipping_minor, tax_minor, total_minor, discounts, locale,
        placed_at, promised_ship_at, promised_delivery_at, presentment_currency, presentment_total, line_count,
        created_at, units_to_ship
    ON orders FOR EACH ROW EXECUTE FUNCTION refuse_new_terms();

-- As before, without "attributes".
DROP TRIGGER frozen ON order_lines;
CREATE TRIGGER frozen BEFORE UPDATE OF order_id, line_id, merchant_id, store_id, position, sku, title, quantity,
        unit_price_minor, category, final_sale, digital, discounts, order_discount_minor, taxes, net_minor, total_minor
    ON order_lines FOR EACH ROW EXECUTE FUNCTION refuse_new_terms();
