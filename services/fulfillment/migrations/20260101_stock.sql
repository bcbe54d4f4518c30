-- Places that ship, and what lies there.

CREATE TABLE locations (
    location_id  uuid        PRIMARY KEY,
    merchant_id  uuid        NOT NULL,
    name         text        NOT NULL,
    country_code text        COLLATE "C" NOT NULL,
    -- The smaller, the earlier it is asked for stock.
    priority     integer     NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    -- People pick a location by its name.
    CONSTRAINT locations_name_once UNIQUE (merchant_id, name),
    -- Lets stock and shipments point at a location of their own merchant and of no other.
    CONSTRAINT locations_of_merchant UNIQUE (merchant_id, location_id),
    CONSTRAINT locations_name_length CHECK (char_length(name) BETWEEN 1 AND 200),
    CONSTRAINT locations_country_code CHECK (country_code ~ '^[A-Z]{2}$'),
    CONSTRAINT locations_priority CHECK (priority BETWEEN 0 AND 1000)
);

-- Every sku that a merchant ever stocked or sold. The row is the lock of the sku (F-2): whoever reads stock, reservations
-- or backorders of a sku in order to change them locks it first, in the order of the primary key. It exists also while
-- there is no stock: an order that finds nothing and a delivery that finds nobody waiting must not miss each other.
CREATE TABLE skus (
    merchant_id uuid NOT NULL,
    -- Bytewise, so that lists, pages and locks have one order everywhere.
    sku         text COLLATE "C" NOT NULL,
    PRIMARY KEY (merchant_id, sku)
);

CREATE TABLE stock (
    merchant_id  uuid        NOT NULL,
    sku          text        COLLATE "C" NOT NULL,
    location_id  uuid        NOT NULL,
    -- Units in the building.
    on_hand      bigint      NOT NULL DEFAULT 0,
    -- Units promised to orders: the sum of the reservations here.
    reserved     bigint      NOT NULL DEFAULT 0,
    -- Units that are never promised.
    safety_stock bigint      NOT NULL DEFAULT 0,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (merchant_id, sku, location_id),
    CONSTRAINT stock_of_sku FOREIGN KEY (merchant_id, sku) REFERENCES skus,
    CONSTRAINT stock_at_location FOREIGN KEY (merchant_id, location_id)
        REFERENCES locations (merchant_id, location_id),
    -- F-1: nothing is taken out that is not there, and nothing is promised that is not there. The code decides under
    -- the sku's lock; these three hold even when it errs.
    CONSTRAINT stock_on_hand_not_negative CHECK (on_hand >= 0),
    CONSTRAINT stock_reserved_not_negative CHECK (reserved >= 0),
    CONSTRAINT stock_reserved_is_there CHECK (reserved <= on_hand),
    CONSTRAINT stock_safety_not_negative CHECK (safety_stock >= 0)
) WITH (
    -- A hot sku is updated with every order: keep room for the new versions on the same page.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02
);
