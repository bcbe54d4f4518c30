-- Payments by the name that their provider has for them: what providers paid is looked up by it after commits were lost.
CREATE INDEX payments_by_provider ON payments (provider_payment_id, provider);
