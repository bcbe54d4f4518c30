-- Projection: whether the person who ordered was forgotten. What carriers write about the order's parcels is kept no more.
ALTER TABLE orders ADD COLUMN contact_erased boolean NOT NULL DEFAULT false;
