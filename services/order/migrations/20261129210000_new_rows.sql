-- Rows on their way in. A statement takes the rows of a table as one array of these, instead of an array for each column:
-- every array of an UNNEST is a function that is called, and a store of its results that is made and read row by row. An
-- order has 88 columns; alone they took a fifth of the time of the statement that writes it, and a seventh in a crowd.
--
-- A type is never altered. While a service is updated, the version before writes rows of the type that it knows: a new column
-- comes with a new type, and the old one goes with a later version. The fields of a type stand as in store/rows.rs.

CREATE TYPE new_order AS (
    order_id             uuid,
    merchant_id          uuid,
    store_id             uuid,
    number               text,
    source_system        text,
    source_external_id   text,
    currency             text,
    prices_include_tax   boolean,
    subtotal_minor       bigint,
    discounts_minor      bigint,
    shipping_minor       bigint,
    tax_minor            bigint,
    total_minor          bigint,
    discounts            jsonb,
    locale               text,
    placed_at            timestamptz,
    promised_ship_at     timestamptz,
    promised_delivery_at timestamptz,
    presentment_currency text,
    presentment_total    bigint,
    tags                 jsonb,
    line_count           integer,
    created_at           timestamptz,
    status               text,
    units_to_ship        bigint,
    payment_status       text,
    fulfillment_status   text,
    open_holds           integer,
    attributes           jsonb,
    presentment_sums     jsonb
);

CREATE TYPE new_order_line AS (
    order_id             uuid,
    merchant_id          uuid,
    store_id             uuid,
    line_id              uuid,
    position             integer,
    sku                  text,
    title                text,
    quantity             integer,
    unit_price_minor     bigint,
    category             text,
    final_sale           boolean,
    digital              boolean,
    attributes           jsonb,
    discounts            jsonb,
    order_discount_minor bigint,
    taxes                jsonb,
    net_minor            bigint,
    total_minor          bigint
);

CREATE TYPE new_order_shipping_line AS (
    order_id    uuid,
    merchant_id uuid,
    store_id    uuid,
    line_id     uuid,
    position    integer,
    title       text,
    price_minor bigint,
    discounts   jsonb,
    taxes       jsonb,
    net_minor   bigint,
    total_minor bigint
);

CREATE TYPE new_order_contact AS (
    order_id             uuid,
    merchant_id          uuid,
    store_id             uuid,
    customer_key         text,
    customer_external_id text,
    email                text,
    name                 text,
    phone                text,
    shipping_address     jsonb,
    billing_address      jsonb,
    note                 text
);

-- Without its link: a placement knows it, a later entry gets it from the end of its order's chain.
CREATE TYPE new_order_entry AS (
    order_id    uuid,
    merchant_id uuid,
    store_id    uuid,
    event_id    uuid,
    service     text,
    type        text,
    summary     text,
    occurred_at timestamptz,
    trace_id    text,
    subject_id  uuid,
    actor       text,
    cause       text,
    learned_at  timestamptz,
    payload     bytea
);
