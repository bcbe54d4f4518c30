-- What the order service told (a projection, rebuilt from its log), and what the warehouse made of it (our own).

-- Projection: the orders we have heard of.
CREATE TABLE orders (
    order_id      uuid        PRIMARY KEY,
    merchant_id   uuid        NOT NULL,
    store_id      uuid        NOT NULL,
    placed_at     timestamptz NOT NULL,
    -- The newest version that an event told of.
    order_version bigint      NOT NULL,
    -- An order that costs nothing is never paid, and may ship.
    costs_nothing boolean     NOT NULL
);

-- Projection: their lines. Lines never change: an edit is a new line.
CREATE TABLE order_lines (
    order_id uuid    NOT NULL REFERENCES orders ON DELETE CASCADE,
    -- Place on the order, from 0.
    line_no  integer NOT NULL,
    line_id  uuid    NOT NULL,
    sku      text    COLLATE "C" NOT NULL,
    units    bigint  NOT NULL,
    -- Nothing is shipped.
    digital  boolean NOT NULL,
    PRIMARY KEY (order_id, line_no),
    CONSTRAINT order_lines_once UNIQUE (order_id, line_id),
    CONSTRAINT order_lines_units CHECK (units > 0)
);

-- Projection: what payment providers did. Kept one by one and not as a count, so that a rebuild may meet them again.
CREATE TABLE order_payments (
    order_id   uuid NOT NULL REFERENCES orders ON DELETE CASCADE,
    payment_id uuid NOT NULL,
    -- "authorization", "capture", "void" …
    kind       text COLLATE "C" NOT NULL,
    PRIMARY KEY (order_id, payment_id, kind)
);

-- Our own: where the units of an order stand. The row is the lock of the order and carries the guard of the log's
-- order: every event about the order, its shipments included, is written in a transaction that updates this row.
-- It does not reference `orders`, which a rebuild empties.
CREATE TABLE fulfillments (
    order_id       uuid        PRIMARY KEY,
    merchant_id    uuid        NOT NULL,
    store_id       uuid        NOT NULL,
    -- All units that need shipping.
    units          bigint      NOT NULL,
    -- Of these: wait for stock; reserved at a location; handed to a carrier; let go.
    waiting        bigint      NOT NULL,
    reserved       bigint      NOT NULL,
    shipped        bigint      NOT NULL DEFAULT 0,
    released       bigint      NOT NULL DEFAULT 0,
    -- Of the shipped ones: with the customer.
    delivered      bigint      NOT NULL DEFAULT 0,
    cancelled      boolean     NOT NULL DEFAULT false,
    version        bigint      NOT NULL DEFAULT 1,
    log_generation bigint      NOT NULL DEFAULT log_generation(),
    log_xid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    -- F-3: each unit is in exactly one place.
    CONSTRAINT fulfillments_places_not_negative
        CHECK (waiting >= 0 AND reserved >= 0 AND shipped >= 0 AND released >= 0),
    CONSTRAINT fulfillments_each_unit_in_one_place
        CHECK (units = waiting + reserved + shipped + released),
    -- Nothing arrives that was not shipped.
    CONSTRAINT fulfillments_delivered_was_shipped CHECK (delivered BETWEEN 0 AND shipped),
    -- A cancelled order holds no stock and waits for none.
    CONSTRAINT fulfillments_cancelled_holds_nothing CHECK (NOT cancelled OR (waiting = 0 AND reserved = 0))
) WITH (fillfactor = 80);

CREATE TRIGGER guard BEFORE UPDATE ON fulfillments FOR EACH ROW EXECUTE FUNCTION guard_log_order();

-- Units of a line that are promised from a location. Their sum per (merchant, sku, location) is stock.reserved, their
-- sum per order is fulfillments.reserved.
CREATE TABLE reservations (
    order_id    uuid   NOT NULL REFERENCES fulfillments,
    line_id     uuid   NOT NULL,
    location_id uuid   NOT NULL,
    merchant_id uuid   NOT NULL,
    sku         text   COLLATE "C" NOT NULL,
    units       bigint NOT NULL,
    PRIMARY KEY (order_id, line_id, location_id),
    CONSTRAINT reservations_of_stock FOREIGN KEY (merchant_id, sku, location_id) REFERENCES stock,
    -- A reservation of nothing is deleted.
    CONSTRAINT reservations_units CHECK (units > 0)
);

-- Units of a line that wait for stock. Their sum per order is fulfillments.waiting.
CREATE TABLE backorders (
    order_id    uuid        NOT NULL REFERENCES fulfillments,
    line_id     uuid        NOT NULL,
    line_no     integer     NOT NULL,
    merchant_id uuid        NOT NULL,
    sku         text        COLLATE "C" NOT NULL,
    units       bigint      NOT NULL,
    placed_at   timestamptz NOT NULL,
    PRIMARY KEY (order_id, line_id),
    CONSTRAINT backorders_of_sku FOREIGN KEY (merchant_id, sku) REFERENCES skus,
    CONSTRAINT backorders_units CHECK (units > 0)
);

-- F-4: who waits for a sku, oldest order first.
CREATE INDEX backorders_queue ON backorders (merchant_id, sku, placed_at, order_id, line_no);
