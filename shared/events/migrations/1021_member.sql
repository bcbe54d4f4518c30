-- The processes that share the work of a consumer. Who is in the table and has not run out counts when the virtual
-- partitions are shared out; the row is renewed together with the leases, by the database's clock.
CREATE TABLE fold_member (
    consumer   text        NOT NULL,
    member     text        NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (consumer, member)
) WITH (fillfactor = 50);
