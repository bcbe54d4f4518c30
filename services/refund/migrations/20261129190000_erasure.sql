-- Whether the person who ordered was forgotten. What is written to customers about declined returns is kept no more.
ALTER TABLE orders ADD COLUMN contact_erased boolean NOT NULL DEFAULT false;
