-- Units that were cancelled and never paid for: their money is claimed by the cancellation, since no refund pays them.
ALTER TABLE unit_claims ADD COLUMN cancellation_id uuid;
ALTER TABLE unit_claims DROP CONSTRAINT unit_claims_have_holder;
ALTER TABLE unit_claims ADD CONSTRAINT unit_claims_have_holder
    CHECK (return_id IS NOT NULL OR refund_id IS NOT NULL OR cancellation_id IS NOT NULL) NOT VALID;
ALTER TABLE unit_claims VALIDATE CONSTRAINT unit_claims_have_holder;
